//! What clients are told of brokers and leaders, with one that runs and one of the metadata only.

use crate::context::Context;
use crate::handlers::{describe_cluster, describe_producers, describe_topic_partitions, metadata};
use crate::testing::{ELSEWHERE, HERE, Two, context};
use std::sync::Arc;
use tidemark_model::NO_LEADER;
use tidemark_quorum::decide::{self, Decision};
use tidemark_wire::messages::metadata_response::MetadataResponsePartition;
use tidemark_wire::messages::*;
use tidemark_wire::{ApiKey, ErrorCode};

async fn fence(two: &Two, id: i32) {
    let fenced = two.broker.change(move |image, context, _| Decision {
        records: decide::fence_brokers(image, context, &[id]),
        result: (),
    });
    fenced.await.expect("a change");
}

async fn told(two: &Two, context: &Context) -> (Vec<i32>, MetadataResponsePartition) {
    let all = MetadataRequest {
        topics: None,
        ..Default::default()
    };
    let answer = metadata::handle(&two.broker, context, all).await;
    let brokers = answer.brokers.iter().map(|broker| broker.node_id).collect();
    let topic = answer.topics.into_iter().next().expect("one topic");
    (
        brokers,
        topic.partitions.into_iter().next().expect("one partition"),
    )
}

#[tokio::test]
async fn metadata_tells_leaders_and_brokers_as_the_image_has_them() {
    let two = Two::start(&[]).await;
    two.topic("t", 1, vec![HERE, ELSEWHERE]).await;
    let context = context(ApiKey::Metadata, 12);
    let (brokers, partition) = told(&two, &context).await;
    assert_eq!(brokers, [HERE, ELSEWHERE]);
    assert_eq!((partition.error_code, partition.leader_id), (0, HERE));
    assert!(partition.offline_replicas.is_empty());

    two.elect("t", ELSEWHERE).await;
    let (_, partition) = told(&two, &context).await;
    let at = (
        partition.error_code,
        partition.leader_id,
        partition.leader_epoch,
    );
    assert_eq!(at, (0, ELSEWHERE, 1));
    assert_eq!(partition.isr_nodes, [ELSEWHERE]);

    fence(&two, ELSEWHERE).await;
    let (brokers, partition) = told(&two, &context).await;
    assert_eq!(brokers, [HERE], "a fenced broker serves nobody");
    let unavailable = ErrorCode::LeaderNotAvailable.code();
    assert_eq!(
        (partition.error_code, partition.leader_id),
        (unavailable, NO_LEADER)
    );
    assert_eq!(partition.offline_replicas, [ELSEWHERE]);
    assert_eq!(partition.replica_nodes, [HERE, ELSEWHERE]);
    two.server.shutdown().await;
}

#[tokio::test]
async fn a_leader_that_lacks_the_clients_listener_is_told_as_that() {
    let two = Two::start(&[]).await;
    two.topic("t", 1, vec![ELSEWHERE, HERE]).await;
    for (version, expected) in [
        (12, ErrorCode::ListenerNotFound),
        (5, ErrorCode::LeaderNotAvailable),
    ] {
        let mut context = context(ApiKey::Metadata, version);
        context.listener = Arc::from("LOCAL");
        let (brokers, partition) = told(&two, &context).await;
        assert_eq!(brokers, [HERE]);
        assert_eq!(
            (partition.error_code, partition.leader_id),
            (expected.code(), NO_LEADER)
        );
        assert_eq!(partition.offline_replicas, [ELSEWHERE]);
    }
    two.server.shutdown().await;
}

#[tokio::test]
async fn fenced_brokers_are_described_to_those_who_ask() {
    let two = Two::start(&[]).await;
    fence(&two, ELSEWHERE).await;
    for (include_fenced_brokers, expected) in [
        (false, vec![(HERE, false)]),
        (true, vec![(HERE, false), (ELSEWHERE, true)]),
    ] {
        let request = DescribeClusterRequest {
            endpoint_type: 1,
            include_fenced_brokers,
            ..Default::default()
        };
        let context = context(ApiKey::DescribeCluster, 2);
        let answer = describe_cluster::handle(&two.broker, &context, request).await;
        let brokers = answer.brokers.iter();
        let brokers: Vec<_> = brokers
            .map(|broker| (broker.broker_id, broker.is_fenced))
            .collect();
        assert_eq!(brokers, expected);
    }
    two.server.shutdown().await;
}

#[tokio::test]
async fn eligible_leaders_are_told_of_a_partition_without_a_leader() {
    let two = Two::start(&[]).await;
    two.topic("t", 1, vec![ELSEWHERE]).await;
    fence(&two, ELSEWHERE).await;
    let context = context(ApiKey::DescribeTopicPartitions, 0);
    let request = DescribeTopicPartitionsRequest::default();
    let answer = describe_topic_partitions::handle(&two.broker, &context, request).await;
    let partition = &answer.topics[0].partitions[0];
    assert_eq!(partition.error_code, ErrorCode::LeaderNotAvailable.code());
    assert_eq!(partition.leader_id, NO_LEADER);
    // It was in sync alone, so it holds everything.
    let held = [
        &partition.isr_nodes,
        partition.eligible_leader_replicas.as_ref().expect("told"),
    ];
    assert!(
        held.iter().any(|nodes| nodes.contains(&ELSEWHERE)),
        "{partition:?}"
    );
    two.server.shutdown().await;
}

#[tokio::test]
async fn producers_of_a_partition_held_elsewhere_are_not_told_here() {
    let two = Two::start(&[]).await;
    two.topic("t", 1, vec![ELSEWHERE]).await;
    let request = DescribeProducersRequest {
        topics: vec![describe_producers_request::TopicRequest {
            name: "t".into(),
            partition_indexes: vec![0, 1],
            ..Default::default()
        }],
        ..Default::default()
    };
    let context = context(ApiKey::DescribeProducers, 0);
    let answer = describe_producers::handle(&two.broker, &context, request).await;
    let partitions = answer.topics[0].partitions.iter();
    let codes: Vec<i16> = partitions.map(|partition| partition.error_code).collect();
    let expected = [
        ErrorCode::NotLeaderOrFollower,
        ErrorCode::UnknownTopicOrPartition,
    ];
    assert_eq!(codes, expected.map(ErrorCode::code));
    two.server.shutdown().await;
}
