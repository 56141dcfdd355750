//! The APIs that move replicas, leaders, brokers and voters, at every version. Of one broker: what
//! they decide for many is tested where it is decided.

#[allow(dead_code, reason = "each test binary uses a part of it")]
mod common;

use common::{Connection, broker, versions};
use tidemark_server::RunningServer;
use tidemark_wire::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use tidemark_wire::messages::*;
use tidemark_wire::{ErrorCode, Request};

/// What each version answers, with a request for each.
async fn at_every_version<R: Request>(
    server: &RunningServer,
    request: impl Fn(i16) -> R,
    check: impl Fn(i16, &R::Response),
) {
    let mut connection = Connection::open(server).await;
    for version in versions(R::API_KEY) {
        let response = connection.ask(&request(version), version).await;
        check(version, &response);
    }
}

async fn topic(server: &RunningServer, name: &str) -> ErrorCode {
    let mut connection = Connection::open(server).await;
    let topic = create_topics_request::CreatableTopic {
        name: name.into(),
        num_partitions: 2,
        replication_factor: 1,
        ..Default::default()
    };
    let request = CreateTopicsRequest {
        topics: vec![topic],
        ..Default::default()
    };
    ErrorCode::from_code(connection.ask(&request, 7).await.topics[0].error_code)
}

fn move_to(
    replicas: Option<&[i32]>,
    version: i16,
    allow: bool,
) -> AlterPartitionReassignmentsRequest {
    let partitions = (0..2).map(|partition_index| ReassignablePartition {
        partition_index,
        replicas: replicas.map(<[i32]>::to_vec),
        ..Default::default()
    });
    AlterPartitionReassignmentsRequest {
        allow_replication_factor_change: version == 0 || allow,
        topics: vec![ReassignableTopic {
            name: "t".into(),
            partitions: partitions.collect(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

#[tokio::test]
async fn reassignments_are_decided_partition_by_partition_and_listed() {
    let broker = broker(&[]).await;
    assert_eq!(topic(&broker.server, "t").await, ErrorCode::None);
    for (replicas, expected) in [
        (Some(&[0][..]), ErrorCode::None),
        (Some(&[7]), ErrorCode::InvalidReplicaAssignment),
        (Some(&[]), ErrorCode::InvalidReplicaAssignment),
        (None, ErrorCode::NoReassignmentInProgress),
    ] {
        at_every_version(
            &broker.server,
            |version| move_to(replicas, version, true),
            |_, response: &AlterPartitionReassignmentsResponse| {
                assert_eq!((response.error_code, response.responses.len()), (0, 1));
                let partitions = &response.responses[0].partitions;
                let codes: Vec<(i32, i16)> = partitions
                    .iter()
                    .map(|p| (p.partition_index, p.error_code))
                    .collect();
                assert_eq!(codes, [(0, expected.code()), (1, expected.code())]);
            },
        )
        .await;
    }
    at_every_version(
        &broker.server,
        |version| move_to(Some(&[0, 1]), version, false),
        |version, response: &AlterPartitionReassignmentsResponse| {
            let expected = match version {
                0 => ErrorCode::InvalidReplicaAssignment,
                _ => ErrorCode::InvalidReplicationFactor,
            };
            assert_eq!(
                response.responses[0].partitions[0].error_code,
                expected.code()
            );
        },
    )
    .await;
    at_every_version(
        &broker.server,
        |_| ListPartitionReassignmentsRequest::default(),
        |_, response: &ListPartitionReassignmentsResponse| {
            assert_eq!((response.error_code, response.topics.len()), (0, 0));
        },
    )
    .await;
    broker.server.shutdown().await;
}

#[tokio::test]
async fn elections_are_answered_in_the_layout_of_each_version() {
    let broker = broker(&[]).await;
    assert_eq!(topic(&broker.server, "t").await, ErrorCode::None);
    let named = |partitions: Vec<i32>| {
        Some(vec![elect_leaders_request::TopicPartitions {
            topic: "t".into(),
            partitions,
            ..Default::default()
        }])
    };
    for election in [0, 1, 9] {
        at_every_version(
            &broker.server,
            |version| ElectLeadersRequest {
                election_type: if version == 0 { 0 } else { election },
                topic_partitions: named(vec![0, 5]),
                ..Default::default()
            },
            |version, response: &ElectLeadersResponse| {
                if version > 0 && election == 9 {
                    assert_eq!(response.error_code, ErrorCode::InvalidRequest.code());
                    return;
                }
                let results = &response.replica_election_results[0].partition_result;
                let codes: Vec<i16> = results.iter().map(|one| one.error_code).collect();
                let expected = [
                    ErrorCode::ElectionNotNeeded,
                    ErrorCode::UnknownTopicOrPartition,
                ];
                assert_eq!(codes, expected.map(ErrorCode::code));
            },
        )
        .await;
    }
    at_every_version(
        &broker.server,
        |_| ElectLeadersRequest {
            topic_partitions: None,
            ..Default::default()
        },
        |_, response: &ElectLeadersResponse| {
            assert_eq!(response.error_code, 0);
            assert!(
                response.replica_election_results.is_empty(),
                "none needs one"
            );
        },
    )
    .await;
    broker.server.shutdown().await;
}

#[tokio::test]
async fn features_are_told_and_levels_that_nobody_has_are_refused() {
    let broker = broker(&[]).await;
    at_every_version(
        &broker.server,
        |_| UpdateFeaturesRequest {
            feature_updates: vec![update_features_request::FeatureUpdateKey {
                feature: "tidemark.version".into(),
                max_version_level: 99,
                ..Default::default()
            }],
            ..Default::default()
        },
        |_, response: &UpdateFeaturesResponse| {
            assert_eq!(response.error_code, ErrorCode::InvalidUpdateVersion.code());
            let message = response.error_message.as_deref().unwrap_or_default();
            assert!(message.contains("tidemark.version"), "{message}");
        },
    )
    .await;
    at_every_version(
        &broker.server,
        |version| ApiVersionsRequest {
            client_software_name: "test".into(),
            client_software_version: format!("{version}"),
            ..Default::default()
        },
        |version, response: &ApiVersionsResponse| {
            let told = response.supported_features.iter();
            let told: Vec<_> = told
                .map(|f| (&*f.name, f.min_version, f.max_version))
                .collect();
            match version >= 3 {
                true => {
                    assert_eq!(told, [("tidemark.version", 1, 1)]);
                    assert!(response.finalized_features_epoch > 0);
                }
                false => assert!(told.is_empty()),
            }
        },
    )
    .await;
    broker.server.shutdown().await;
}

#[tokio::test]
async fn a_broker_that_runs_and_one_that_is_not_known_are_not_unregistered() {
    let broker = broker(&[]).await;
    for (broker_id, expected) in [
        (0, ErrorCode::InvalidRequest),
        (9, ErrorCode::BrokerIdNotRegistered),
    ] {
        at_every_version(
            &broker.server,
            |_| UnregisterBrokerRequest {
                broker_id,
                ..Default::default()
            },
            |_, response: &UnregisterBrokerResponse| {
                assert_eq!(response.error_code, expected.code(), "{response:?}");
            },
        )
        .await;
    }
    broker.server.shutdown().await;
}

#[tokio::test]
async fn voters_of_another_cluster_are_refused() {
    let broker = broker(&[]).await;
    let expected = ErrorCode::InconsistentClusterId.code();
    at_every_version(
        &broker.server,
        |_| AddRaftVoterRequest {
            cluster_id: Some("AAAAAAAAAAAAAAAAAAAAAA".into()),
            ..Default::default()
        },
        |_, response: &AddRaftVoterResponse| assert_eq!(response.error_code, expected),
    )
    .await;
    at_every_version(
        &broker.server,
        |_| RemoveRaftVoterRequest {
            cluster_id: Some("AAAAAAAAAAAAAAAAAAAAAA".into()),
            ..Default::default()
        },
        |_, response: &RemoveRaftVoterResponse| assert_eq!(response.error_code, expected),
    )
    .await;
    broker.server.shutdown().await;
}

#[tokio::test]
async fn a_cordoned_broker_gets_no_new_replicas() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    for (value, expected) in [
        (Some("*"), ErrorCode::InvalidReplicationFactor),
        (None, ErrorCode::None),
    ] {
        let config = incremental_alter_configs_request::AlterableConfig {
            name: "cordoned.log.dirs".into(),
            config_operation: i8::from(value.is_none()),
            value: value.map(str::to_owned),
            ..Default::default()
        };
        let request = IncrementalAlterConfigsRequest {
            resources: vec![incremental_alter_configs_request::AlterConfigsResource {
                resource_type: 4,
                resource_name: "0".into(),
                configs: vec![config],
                ..Default::default()
            }],
            ..Default::default()
        };
        let altered = c.ask(&request, 1).await;
        assert_eq!(altered.responses[0].error_code, 0, "{altered:?}");
        assert_eq!(topic(&broker.server, "t").await, expected);
        at_every_version(
            &broker.server,
            |_| DescribeLogDirsRequest::default(),
            |version, response: &DescribeLogDirsResponse| {
                let cordoned = version >= 5 && value.is_some();
                assert_eq!(response.results[0].is_cordoned, cordoned);
            },
        )
        .await;
    }
    broker.server.shutdown().await;
}
