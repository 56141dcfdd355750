//! Every API answers every version that it advertises, in that version's layout.

#[allow(dead_code, reason = "each test binary uses a part of it")]
mod common;

use bytes::Bytes;
use common::{Connection, broker, versions};
use tidemark_records::{BatchBuilder, BatchOptions, RecordRef};
use tidemark_wire::messages::*;
use tidemark_wire::{ErrorCode, Request, Uuid};

async fn at_every_version<R: Request>(
    connection: &mut Connection,
    request: impl Fn(i16) -> R,
    check: impl Fn(i16, &R::Response),
) {
    for version in versions(R::API_KEY) {
        let response = connection.ask(&request(version), version).await;
        check(version, &response);
    }
}

fn batch(value: &[u8]) -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    let record = RecordRef {
        timestamp_ms: tidemark_env::clock::now_ms(),
        value: Some(value),
        ..Default::default()
    };
    builder.append(&record).expect("one small record");
    builder.build().expect("a batch")
}

async fn topic(connection: &mut Connection, name: &str) -> Uuid {
    let topic = create_topics_request::CreatableTopic {
        name: name.into(),
        num_partitions: 1,
        replication_factor: 1,
        ..Default::default()
    };
    let response = connection
        .ask(
            &CreateTopicsRequest {
                topics: vec![topic],
                ..Default::default()
            },
            7,
        )
        .await;
    assert_eq!(
        response.topics[0].error_code, 0,
        "{:?}",
        response.topics[0].error_message
    );
    response.topics[0].topic_id
}

#[tokio::test]
async fn records_go_in_and_come_out_at_every_version() {
    let broker = broker(&[]).await;
    let mut connection = Connection::open(&broker.server).await;
    let id = topic(&mut connection, "t").await;
    at_every_version(
        &mut connection,
        |version| {
            let data = produce_request::PartitionProduceData {
                index: 0,
                records: Some(batch(format!("v{version}").as_bytes())),
                ..Default::default()
            };
            let mut topic = produce_request::TopicProduceData {
                partition_data: vec![data],
                ..Default::default()
            };
            if version >= 13 {
                topic.topic_id = id;
            } else {
                topic.name = "t".into();
            }
            ProduceRequest {
                acks: -1,
                timeout_ms: 10_000,
                topic_data: vec![topic],
                ..Default::default()
            }
        },
        |version, response: &ProduceResponse| {
            let partition = &response.responses[0].partition_responses[0];
            assert_eq!(partition.error_code, 0, "{:?}", partition.error_message);
            assert_eq!(partition.base_offset, i64::from(version - 3));
        },
    )
    .await;
    let produced = versions(tidemark_wire::ApiKey::Produce).count() as i64;
    at_every_version(
        &mut connection,
        |version| {
            let partition = fetch_request::FetchPartition {
                partition_max_bytes: 1 << 20,
                ..Default::default()
            };
            let mut topic = fetch_request::FetchTopic {
                partitions: vec![partition],
                ..Default::default()
            };
            if version >= 13 {
                topic.topic_id = id;
            } else {
                topic.topic = "t".into();
            }
            FetchRequest {
                max_wait_ms: 100,
                session_epoch: if version >= 7 { 0 } else { -1 },
                min_bytes: 1,
                topics: vec![topic],
                ..Default::default()
            }
        },
        |version, response: &FetchResponse| {
            assert_eq!(
                response.session_id != 0,
                version >= 7,
                "sessions begin with version 7"
            );
            let partition = &response.responses[0].partitions[0];
            assert_eq!(
                (partition.error_code, partition.high_watermark),
                (0, produced)
            );
            assert!(!partition.records.as_ref().expect("records").is_empty());
        },
    )
    .await;
    for timestamp in [-1, -2, 0] {
        at_every_version(
            &mut connection,
            |_| {
                let partition = list_offsets_request::ListOffsetsPartition {
                    timestamp,
                    ..Default::default()
                };
                let topic = list_offsets_request::ListOffsetsTopic {
                    name: "t".into(),
                    partitions: vec![partition],
                    ..Default::default()
                };
                ListOffsetsRequest {
                    replica_id: -1,
                    topics: vec![topic],
                    ..Default::default()
                }
            },
            |_, response: &ListOffsetsResponse| {
                let partition = &response.topics[0].partitions[0];
                let expected = if timestamp == -1 { produced } else { 0 };
                assert_eq!((partition.error_code, partition.offset), (0, expected));
            },
        )
        .await;
    }
    at_every_version(
        &mut connection,
        |_| {
            let partition = offset_for_leader_epoch_request::OffsetForLeaderPartition {
                leader_epoch: 0,
                ..Default::default()
            };
            let topic = offset_for_leader_epoch_request::OffsetForLeaderTopic {
                topic: "t".into(),
                partitions: vec![partition],
                ..Default::default()
            };
            OffsetForLeaderEpochRequest {
                replica_id: -2,
                topics: vec![topic],
                ..Default::default()
            }
        },
        |_, response: &OffsetForLeaderEpochResponse| {
            assert_eq!(response.topics[0].partitions[0].end_offset, produced);
        },
    )
    .await;
    broker.server.shutdown().await;
}

#[tokio::test]
async fn descriptions_and_changes_are_answered_at_every_version() {
    let broker = broker(&[]).await;
    let mut connection = Connection::open(&broker.server).await;
    let c = &mut connection;
    topic(c, "t").await;
    at_every_version(
        c,
        |_| named_client(),
        |_, response: &ApiVersionsResponse| {
            assert_eq!(response.error_code, 0);
            assert!(response.api_keys.len() > 30);
        },
    )
    .await;
    at_every_version(
        c,
        |version| {
            let name = metadata_request::MetadataRequestTopic {
                name: Some("t".into()),
                ..Default::default()
            };
            let all = MetadataRequest {
                topics: Some(vec![name]),
                ..Default::default()
            };
            MetadataRequest {
                allow_auto_topic_creation: version < 4,
                ..all
            }
        },
        |_, response: &MetadataResponse| {
            assert_eq!(response.topics[0].error_code, 0);
            assert_eq!(response.topics[0].partitions[0].leader_id, 0);
            assert_eq!(response.brokers.len(), 1);
        },
    )
    .await;
    at_every_version(
        c,
        |_| DescribeClusterRequest::default(),
        |_, r: &DescribeClusterResponse| {
            assert_eq!((r.error_code, r.brokers.len()), (0, 1));
        },
    )
    .await;
    at_every_version(
        c,
        |_| DescribeTopicPartitionsRequest::default(),
        |_, r: &DescribeTopicPartitionsResponse| {
            assert_eq!(r.topics[0].partitions.len(), 1);
        },
    )
    .await;
    at_every_version(
        c,
        |version| CreateTopicsRequest {
            topics: vec![create_topics_request::CreatableTopic {
                name: format!("created-{version}"),
                num_partitions: 2,
                replication_factor: 1,
                ..Default::default()
            }],
            ..Default::default()
        },
        |_, r: &CreateTopicsResponse| assert_eq!(r.topics[0].error_code, 0),
    )
    .await;
    at_every_version(
        c,
        |version| CreatePartitionsRequest {
            topics: vec![create_partitions_request::CreatePartitionsTopic {
                name: format!("created-{}", version + 2),
                count: 3,
                assignments: None,
                ..Default::default()
            }],
            ..Default::default()
        },
        |_, r: &CreatePartitionsResponse| {
            assert_eq!(
                r.results[0].error_code, 0,
                "{:?}",
                r.results[0].error_message
            );
        },
    )
    .await;
    at_every_version(
        c,
        |version| {
            let name = format!("created-{}", version + 1);
            if version >= 6 {
                let topic = delete_topics_request::DeleteTopicState {
                    name: Some(name),
                    ..Default::default()
                };
                return DeleteTopicsRequest {
                    topics: vec![topic],
                    ..Default::default()
                };
            }
            DeleteTopicsRequest {
                topic_names: vec![name],
                ..Default::default()
            }
        },
        |_, r: &DeleteTopicsResponse| {
            assert_eq!(r.responses[0].error_code, 0, "{:?}", r.responses[0]);
        },
    )
    .await;
    at_every_version(
        c,
        |_| DescribeConfigsRequest {
            resources: vec![describe_configs_request::DescribeConfigsResource {
                resource_type: 2,
                resource_name: "t".into(),
                configuration_keys: None,
                ..Default::default()
            }],
            ..Default::default()
        },
        |_, r: &DescribeConfigsResponse| assert!(r.results[0].configs.len() > 20),
    )
    .await;
    at_every_version(
        c,
        |_| AlterConfigsRequest {
            resources: vec![alter_configs_request::AlterConfigsResource {
                resource_type: 2,
                resource_name: "t".into(),
                ..Default::default()
            }],
            ..Default::default()
        },
        |_, r: &AlterConfigsResponse| assert_eq!(r.responses[0].error_code, 0),
    )
    .await;
    at_every_version(
        c,
        |_| IncrementalAlterConfigsRequest {
            resources: vec![incremental_alter_configs_request::AlterConfigsResource {
                resource_type: 2,
                resource_name: "t".into(),
                configs: vec![incremental_alter_configs_request::AlterableConfig {
                    name: "retention.ms".into(),
                    value: Some("1000000".into()),
                    ..Default::default()
                }],
                ..Default::default()
            }],
            ..Default::default()
        },
        |_, r: &IncrementalAlterConfigsResponse| assert_eq!(r.responses[0].error_code, 0),
    )
    .await;
    at_every_version(
        c,
        |_| DescribeLogDirsRequest::default(),
        |_, r: &DescribeLogDirsResponse| {
            assert_eq!(r.results.len(), 1);
        },
    )
    .await;
    at_every_version(
        c,
        |_| AlterReplicaLogDirsRequest {
            dirs: vec![alter_replica_log_dirs_request::AlterReplicaLogDir {
                path: "/no/such/directory".into(),
                topics: vec![alter_replica_log_dirs_request::AlterReplicaLogDirTopic {
                    name: "t".into(),
                    partitions: vec![0],
                    ..Default::default()
                }],
                ..Default::default()
            }],
            ..Default::default()
        },
        |_, r: &AlterReplicaLogDirsResponse| {
            let told = ErrorCode::from_code(r.results[0].partitions[0].error_code);
            assert_eq!(told, ErrorCode::LogDirNotFound);
        },
    )
    .await;
    at_every_version(
        c,
        |_| DescribeQuorumRequest {
            topics: vec![describe_quorum_request::TopicData {
                topic_name: "__cluster_metadata".into(),
                partitions: vec![Default::default()],
                ..Default::default()
            }],
            ..Default::default()
        },
        |version, r: &DescribeQuorumResponse| {
            let quorum = &r.topics[0].partitions[0];
            assert_eq!((quorum.error_code, quorum.current_voters.len()), (0, 1));
            assert!(quorum.high_watermark > 0);
            assert_eq!(r.nodes.len(), usize::from(version >= 2));
        },
    )
    .await;
    at_every_version(
        c,
        |_| DescribeProducersRequest::default(),
        |_, _: &DescribeProducersResponse| {},
    )
    .await;
    at_every_version(
        c,
        |_| DeleteRecordsRequest {
            topics: vec![delete_records_request::DeleteRecordsTopic {
                name: "t".into(),
                partitions: vec![delete_records_request::DeleteRecordsPartition {
                    offset: -1,
                    ..Default::default()
                }],
                ..Default::default()
            }],
            ..Default::default()
        },
        |_, r: &DeleteRecordsResponse| assert_eq!(r.topics[0].partitions[0].error_code, 0),
    )
    .await;
    at_every_version(
        c,
        |_| InitProducerIdRequest {
            transactional_id: None,
            ..Default::default()
        },
        |_, r: &InitProducerIdResponse| assert!(r.error_code == 0 && r.producer_id >= 0),
    )
    .await;
    at_every_version(
        c,
        |_| GetTelemetrySubscriptionsRequest::default(),
        |_, r: &GetTelemetrySubscriptionsResponse| {
            assert!(r.error_code == 0 && r.requested_metrics.is_empty());
        },
    )
    .await;
    at_every_version(
        c,
        |_| PushTelemetryRequest::default(),
        |_, r: &PushTelemetryResponse| {
            assert_eq!(
                ErrorCode::from_code(r.error_code),
                ErrorCode::InvalidRequest,
                "it names no client"
            );
        },
    )
    .await;
    broker.server.shutdown().await;
}

fn named_client() -> ApiVersionsRequest {
    ApiVersionsRequest {
        client_software_name: "test".into(),
        client_software_version: "1.0".into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn group_requests_are_answered_at_every_version() {
    let broker = broker(&[]).await;
    let mut connection = Connection::open(&broker.server).await;
    let c = &mut connection;
    topic(c, "t").await;
    at_every_version(
        c,
        |version| match version {
            4.. => FindCoordinatorRequest {
                coordinator_keys: vec!["g".into()],
                ..Default::default()
            },
            _ => FindCoordinatorRequest {
                key: "g".into(),
                ..Default::default()
            },
        },
        |version, r: &FindCoordinatorResponse| {
            let error = if version >= 4 {
                r.coordinators[0].error_code
            } else {
                r.error_code
            };
            assert_eq!(error, 0);
        },
    )
    .await;
    at_every_version(
        c,
        |version| JoinGroupRequest {
            group_id: format!("g{version}"),
            session_timeout_ms: 10_000,
            rebalance_timeout_ms: if version >= 1 { 10_000 } else { -1 },
            protocol_type: "consumer".into(),
            protocols: vec![join_group_request::JoinGroupRequestProtocol {
                name: "range".into(),
                ..Default::default()
            }],
            ..Default::default()
        },
        |version, r: &JoinGroupResponse| {
            let expected = if version >= 4 {
                ErrorCode::MemberIdRequired
            } else {
                ErrorCode::None
            };
            assert_eq!(ErrorCode::from_code(r.error_code), expected);
            assert!(!r.member_id.is_empty());
        },
    )
    .await;
    let unknown = ErrorCode::UnknownMemberId.code();
    at_every_version(
        c,
        |_| SyncGroupRequest {
            group_id: "g1".into(),
            member_id: "nobody".into(),
            generation_id: 1,
            protocol_type: Some("consumer".into()),
            protocol_name: Some("range".into()),
            ..Default::default()
        },
        |_, r: &SyncGroupResponse| assert_eq!(r.error_code, unknown),
    )
    .await;
    at_every_version(
        c,
        |_| HeartbeatRequest {
            group_id: "g1".into(),
            member_id: "nobody".into(),
            ..Default::default()
        },
        |_, r: &HeartbeatResponse| assert_eq!(r.error_code, unknown),
    )
    .await;
    at_every_version(
        c,
        |version| match version {
            3.. => LeaveGroupRequest {
                group_id: "g1".into(),
                members: vec![leave_group_request::MemberIdentity {
                    member_id: "nobody".into(),
                    ..Default::default()
                }],
                ..Default::default()
            },
            _ => LeaveGroupRequest {
                group_id: "g1".into(),
                member_id: "nobody".into(),
                ..Default::default()
            },
        },
        |version, r: &LeaveGroupResponse| {
            let error = if version >= 3 {
                r.members[0].error_code
            } else {
                r.error_code
            };
            assert_eq!(error, unknown);
        },
    )
    .await;
    broker.server.shutdown().await;
}

#[tokio::test]
async fn offsets_are_kept_at_every_version() {
    let broker = broker(&[]).await;
    let mut connection = Connection::open(&broker.server).await;
    let c = &mut connection;
    let id = topic(c, "t").await;
    c.ask(
        &FindCoordinatorRequest {
            key: "g".into(),
            ..Default::default()
        },
        0,
    )
    .await;
    at_every_version(
        c,
        |version| {
            let partition = offset_commit_request::OffsetCommitRequestPartition {
                committed_offset: i64::from(version),
                committed_metadata: Some("m".into()),
                ..Default::default()
            };
            let mut topic = offset_commit_request::OffsetCommitRequestTopic {
                partitions: vec![partition],
                ..Default::default()
            };
            if version >= 10 {
                topic.topic_id = id;
            } else {
                topic.name = "t".into();
            }
            OffsetCommitRequest {
                group_id: "g".into(),
                topics: vec![topic],
                ..Default::default()
            }
        },
        |version, r: &OffsetCommitResponse| {
            assert_eq!(r.topics[0].partitions[0].error_code, 0, "version {version}");
        },
    )
    .await;
    at_every_version(
        c,
        |version| match version {
            8.. => {
                let mut topic = offset_fetch_request::OffsetFetchRequestTopics {
                    partition_indexes: vec![0],
                    ..Default::default()
                };
                if version >= 10 {
                    topic.topic_id = id;
                } else {
                    topic.name = "t".into();
                }
                let group = offset_fetch_request::OffsetFetchRequestGroup {
                    group_id: "g".into(),
                    member_id: None,
                    topics: Some(vec![topic]),
                    ..Default::default()
                };
                OffsetFetchRequest {
                    groups: vec![group],
                    ..Default::default()
                }
            }
            _ => OffsetFetchRequest {
                group_id: "g".into(),
                topics: Some(vec![offset_fetch_request::OffsetFetchRequestTopic {
                    name: "t".into(),
                    partition_indexes: vec![0],
                    ..Default::default()
                }]),
                ..Default::default()
            },
        },
        |version, r: &OffsetFetchResponse| {
            let offset = match version {
                8.. => r.groups[0].topics[0].partitions[0].committed_offset,
                _ => r.topics[0].partitions[0].committed_offset,
            };
            assert_eq!(
                offset, 10,
                "version {version}: the last commit was at version 10"
            );
        },
    )
    .await;
    at_every_version(
        c,
        |_| ListGroupsRequest::default(),
        |_, r: &ListGroupsResponse| {
            assert_eq!(r.groups.len(), 1);
        },
    )
    .await;
    at_every_version(
        c,
        |_| DescribeGroupsRequest {
            groups: vec!["g".into()],
            ..Default::default()
        },
        |_, r: &DescribeGroupsResponse| assert_eq!(r.groups[0].group_state, "Empty"),
    )
    .await;
    at_every_version(
        c,
        |_| OffsetDeleteRequest {
            group_id: "g".into(),
            ..Default::default()
        },
        |_, r: &OffsetDeleteResponse| assert_eq!(r.error_code, 0),
    )
    .await;
    at_every_version(
        c,
        |_| DeleteGroupsRequest {
            groups_names: vec!["g".into()],
            ..Default::default()
        },
        |version, r: &DeleteGroupsResponse| {
            let expected = if version == 0 {
                ErrorCode::None
            } else {
                ErrorCode::GroupIdNotFound
            };
            assert_eq!(r.results[0].error_code, expected.code());
        },
    )
    .await;
    broker.server.shutdown().await;
}
