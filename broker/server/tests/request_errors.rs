//! Errors are counted for every API, and commits of offsets do not wait for ever.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests stand outside of the product: a panic is a failure, and files are real"
)]

#[allow(dead_code, reason = "each test binary uses a part of it")]
mod common;
#[path = "broker/slow_disk.rs"]
mod slow_disk;

use common::{Connection, PATIENCE, broker, try_start};
use slow_disk::{OpenAtEnd, SlowDisk};
use std::sync::Arc;
use tidemark_env::{clock, net};
use tidemark_server::RunningServer;
use tidemark_wire::ErrorCode;
use tidemark_wire::messages::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The counts of errors on `/metrics`: `api error count`, sorted.
async fn errors(server: &RunningServer) -> Vec<String> {
    let address = server.http().expect("an HTTP port").to_string();
    let mut stream = net::connect(&address, PATIENCE).await.unwrap();
    let request = "GET /metrics HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).await.unwrap();
    let mut found: Vec<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("tidemark_request_errors_total{api=\""))
        .map(|line| line.replace("\",error=\"", " ").replace("\"}", ""))
        // What alerts look at is there from the start.
        .filter(|line| !line.ends_with(" 0"))
        .collect();
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_every_kind_of_answer_are_counted() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    let metadata = |name: &str, create| MetadataRequest {
        topics: Some(vec![metadata_request::MetadataRequestTopic {
            name: Some(name.into()),
            ..Default::default()
        }]),
        allow_auto_topic_creation: create,
        ..Default::default()
    };
    // Nothing is wrong: nothing is counted.
    c.ask(&metadata("there", true), 12).await;
    c.ask(&ApiVersionsRequest::default(), 0).await;
    assert_eq!(errors(&broker.server).await, Vec::<String>::new());

    // Of an item.
    c.ask(&metadata("gone", false), 12).await;
    // Of two partitions.
    let partition = |partition_index| list_offsets_request::ListOffsetsPartition {
        partition_index,
        current_leader_epoch: -1,
        timestamp: -1,
        ..Default::default()
    };
    let request = ListOffsetsRequest {
        replica_id: -1,
        topics: vec![list_offsets_request::ListOffsetsTopic {
            name: "there".into(),
            partitions: vec![partition(0), partition(8), partition(9)],
            ..Default::default()
        }],
        ..Default::default()
    };
    c.ask(&request, 7).await;
    // Of the whole.
    let request = FetchRequest {
        session_id: 77,
        session_epoch: 3,
        ..Default::default()
    };
    c.ask(&request, 12).await;
    // Of Produce, whose answers wait.
    let request = ProduceRequest {
        acks: 5,
        topic_data: vec![produce_request::TopicProduceData {
            name: "there".into(),
            partition_data: vec![produce_request::PartitionProduceData::default()],
            ..Default::default()
        }],
        ..Default::default()
    };
    c.ask(&request, 12).await;
    // Of a version that is not served.
    c.send_body(18, 99, 2, &[]).await;
    c.frame().await.expect("an answer of version 0");
    assert_eq!(
        errors(&broker.server).await,
        [
            "ApiVersions UNSUPPORTED_VERSION 1",
            "Fetch FETCH_SESSION_ID_NOT_FOUND 1",
            "ListOffsets UNKNOWN_TOPIC_OR_PARTITION 2",
            "Metadata UNKNOWN_TOPIC_OR_PARTITION 1",
            "Produce INVALID_REQUIRED_ACKS 1",
        ]
    );
    broker.server.shutdown().await;
}

fn commit(offset: i64) -> OffsetCommitRequest {
    let partition = offset_commit_request::OffsetCommitRequestPartition {
        committed_offset: offset,
        ..Default::default()
    };
    OffsetCommitRequest {
        group_id: "g".into(),
        generation_id_or_member_epoch: -1,
        topics: vec![offset_commit_request::OffsetCommitRequestTopic {
            name: "there".into(),
            partitions: vec![partition],
            ..Default::default()
        }],
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_does_not_become_durable_is_answered_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, gate) = SlowDisk::new();
    let settings = [("offsets.commit.timeout.ms", "1000")];
    let server = try_start(disk, dir.path(), &settings).await.unwrap();
    let _open = OpenAtEnd(Arc::clone(&gate));
    let mut c = Connection::open(&server).await;
    let request = MetadataRequest {
        topics: Some(vec![metadata_request::MetadataRequestTopic {
            name: Some("there".into()),
            ..Default::default()
        }]),
        allow_auto_topic_creation: true,
        ..Default::default()
    };
    c.ask(&request, 12).await;
    let request = FindCoordinatorRequest {
        coordinator_keys: vec!["g".into()],
        ..Default::default()
    };
    assert_eq!(c.ask(&request, 4).await.coordinators[0].error_code, 0);

    let error = |response: OffsetCommitResponse| response.topics[0].partitions[0].error_code;
    assert_eq!(error(c.ask(&commit(1), 8).await), 0);
    gate.shut();
    let asked = clock::monotonic();
    let late = error(c.ask(&commit(2), 8).await);
    assert_eq!(late, ErrorCode::CoordinatorNotAvailable.code());
    assert!(asked.elapsed().as_millis() >= 1000, "not before its time");
    gate.open();
    // It is sent again, as clients do, and goes through.
    assert_eq!(error(c.ask(&commit(2), 8).await), 0);
    assert_eq!(
        errors(&server).await,
        ["OffsetCommit COORDINATOR_NOT_AVAILABLE 1"]
    );
    server.shutdown().await;
}
