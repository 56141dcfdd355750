//! A partition whose log was damaged before the start: offline for all to see, and nothing else is.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests stand outside of the product: a panic is a failure, and files are real"
)]

#[allow(dead_code, reason = "each test binary uses a part of it")]
mod common;

use common::{Connection, TestBroker, broker, get, series, start_in, try_start};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use tempfile::TempDir;
use tidemark_env::disk::FileDisk;
use tidemark_records::{BatchBuilder, BatchOptions, RecordRef};
use tidemark_server::ServerConfig;
use tidemark_wire::ErrorCode;
use tidemark_wire::messages::*;

const SEGMENT: &str = "00000000000000000000.log";

/// All that was logged by this process.
fn logged() -> &'static Mutex<Vec<u8>> {
    static LOGGED: OnceLock<Mutex<Vec<u8>>> = OnceLock::new();
    struct Sink;
    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            logged().lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut first = false;
    let log = LOGGED.get_or_init(|| {
        first = true;
        Mutex::default()
    });
    if first {
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(|| Sink);
        subscriber.init();
    }
    log
}

/// The line about this directory, at this level.
fn line(level: &str, dir: &Path) -> Option<String> {
    let text = String::from_utf8(logged().lock().unwrap().clone()).unwrap();
    let dir = dir.display().to_string();
    let found = text
        .lines()
        .find(|line| line.contains(level) && line.contains(&dir));
    found.map(str::to_owned)
}

async fn put(c: &mut Connection, partition: i32) -> i16 {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    let record = RecordRef {
        value: Some(&[7; 1000]),
        ..Default::default()
    };
    builder.append(&record).unwrap();
    let data = produce_request::PartitionProduceData {
        index: partition,
        records: Some(builder.build().unwrap()),
        ..Default::default()
    };
    let request = ProduceRequest {
        acks: -1,
        timeout_ms: 10_000,
        topic_data: vec![produce_request::TopicProduceData {
            name: "hurt".into(),
            partition_data: vec![data],
            ..Default::default()
        }],
        ..Default::default()
    };
    let response = c.ask(&request, 12).await;
    response.responses[0].partition_responses[0].error_code
}

/// A broker with topic `hurt` of two partitions with three records each.
async fn with_records() -> TestBroker {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    let topic = create_topics_request::CreatableTopic {
        name: "hurt".into(),
        num_partitions: 2,
        replication_factor: 1,
        ..Default::default()
    };
    let request = CreateTopicsRequest {
        topics: vec![topic],
        timeout_ms: 10_000,
        ..Default::default()
    };
    assert_eq!(c.ask(&request, 7).await.topics[0].error_code, 0);
    for _ in 0..3 {
        for partition in 0..2 {
            assert_eq!(put(&mut c, partition).await, 0);
        }
    }
    broker
}

/// Stops the broker and takes the last bytes of partition `hurt-0`'s segment, which hold
/// acknowledged records; gives the data and the partition's directory.
async fn damaged() -> (TempDir, PathBuf) {
    shortened(with_records().await, "hurt-0").await
}

async fn shortened(broker: TestBroker, partition: &str) -> (TempDir, PathBuf) {
    let TestBroker { server, dir } = broker;
    let hurt = dir.path().join(partition);
    server.shutdown().await;
    let segment = std::fs::OpenOptions::new()
        .write(true)
        .open(hurt.join(SEGMENT))
        .unwrap();
    let len = segment.metadata().unwrap().len();
    segment.set_len(len - 40).unwrap();
    (dir, hurt)
}

/// A copy of what a running broker has in its directories: what a kill leaves.
fn killed(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let copy = to.join(path.file_name().unwrap());
        if path.is_dir() {
            killed(&path, &copy);
        } else if path.file_name().is_some_and(|name| name != ".lock") {
            std::fs::copy(&path, &copy).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_partition_is_leaderless_and_the_others_are_served() {
    logged();
    let (dir, hurt) = damaged().await;
    let server = start_in(&dir, &[]).await;
    let mut c = Connection::open(&server).await;

    let all = MetadataRequest {
        topics: None,
        ..Default::default()
    };
    let metadata = c.ask(&all, 12).await;
    let own = metadata.controller_id;
    let partitions = &metadata.topics[0].partitions;
    let [bad, good] = &partitions[..] else {
        panic!("{partitions:?}")
    };
    assert_eq!(bad.error_code, ErrorCode::LeaderNotAvailable.code());
    assert_eq!((bad.leader_id, good.leader_id), (-1, own));
    assert_eq!(
        (&bad.offline_replicas, &bad.isr_nodes),
        (&vec![own], &vec![own])
    );
    assert_eq!((good.error_code, good.offline_replicas.len()), (0, 0));

    let request = DescribeTopicPartitionsRequest {
        topics: vec![describe_topic_partitions_request::TopicRequest {
            name: "hurt".into(),
            ..Default::default()
        }],
        response_partition_limit: 10,
        ..Default::default()
    };
    let described = c.ask(&request, 0).await;
    let bad = &described.topics[0].partitions[0];
    assert_eq!(bad.error_code, ErrorCode::LeaderNotAvailable.code());
    assert_eq!((bad.leader_id, &bad.offline_replicas), (-1, &vec![own]));

    assert_eq!(put(&mut c, 0).await, ErrorCode::KafkaStorageError.code());
    assert_eq!(put(&mut c, 1).await, 0);

    let (status, body) = get(&server, "/readyz").await;
    assert!(status.contains(" 200 "), "{status} {body}");
    let state: serde_json::Value = serde_json::from_str(&get(&server, "/state").await.1).unwrap();
    let state = &state["partitions"];
    assert_eq!(state["offline"], 1);
    let reason = state["offlineReasons"][0].as_str().unwrap();
    assert!(reason.starts_with("partition hurt-0: "), "{reason}");
    assert!(reason.contains("--cut-corrupt-logs"), "{reason}");

    let page = get(&server, "/metrics").await.1;
    assert_eq!(series(&page, "tidemark_partitions_offline"), "1");
    assert_eq!(series(&page, "tidemark_partitions"), "2");
    assert_eq!(series(&page, "tidemark_ready"), "1");
    let page = get(&server, "/metrics/partitions").await.1;
    let online = |index: i32| {
        let name = format!("tidemark_partition_online{{topic=\"hurt\",partition=\"{index}\"}}");
        series(&page, &name)
    };
    assert_eq!((online(0), online(1)), ("0".into(), "1".into()));
    assert!(line("ERROR", &hurt).unwrap().contains("offline"));

    // A topic that is deleted leaves nothing offline behind.
    let request = DeleteTopicsRequest {
        topic_names: vec!["hurt".into()],
        timeout_ms: 10_000,
        ..Default::default()
    };
    assert_eq!(c.ask(&request, 5).await.responses[0].error_code, 0);
    let page = get(&server, "/metrics").await.1;
    assert_eq!(series(&page, "tidemark_partitions_offline"), "0");
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_in_a_damaged_log_have_no_coordinator() {
    let one = [("offsets.topic.num.partitions", "1")];
    let broker = broker(&one).await;
    let mut c = Connection::open(&broker.server).await;
    let find = FindCoordinatorRequest {
        coordinator_keys: vec!["g".into()],
        ..Default::default()
    };
    assert_eq!(c.ask(&find, 4).await.coordinators[0].error_code, 0);
    let join = JoinGroupRequest {
        group_id: "g".into(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 10_000,
        protocol_type: "consumer".into(),
        protocols: vec![join_group_request::JoinGroupRequestProtocol {
            name: "range".into(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let joined = c.ask(&join, 3).await;
    assert_eq!(joined.error_code, 0);
    let sync = SyncGroupRequest {
        group_id: "g".into(),
        generation_id: joined.generation_id,
        member_id: joined.member_id,
        ..Default::default()
    };
    assert_eq!(c.ask(&sync, 2).await.error_code, 0);
    let (dir, _) = shortened(broker, "__consumer_offsets-0").await;
    let server = start_in(&dir, &one).await;
    let mut c = Connection::open(&server).await;
    let found = c.ask(&find, 4).await;
    assert_eq!(
        found.coordinators[0].error_code,
        ErrorCode::CoordinatorNotAvailable.code()
    );
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_records_are_not_cut_quietly() {
    logged();
    let (dir, hurt) = damaged().await;
    let settings = [
        ("listeners", "PLAINTEXT://127.0.0.1:0".to_owned()),
        ("http.listen", "127.0.0.1:0".to_owned()),
        ("log.dirs", dir.path().display().to_string()),
    ];
    let config = ServerConfig {
        settings: settings
            .map(|(name, value)| (name.to_owned(), value))
            .into(),
        disk: Arc::new(FileDisk::new()),
        net_threads: 1,
        cut_corrupt_logs: true,
        format_if_empty: true,
        bucket: None,
    };
    let server = tidemark_server::start(config).await.unwrap();
    let mut c = Connection::open(&server).await;
    assert_eq!(put(&mut c, 0).await, 0, "it is served again");
    server.shutdown().await;
    let line = line("ERROR", &hurt).expect("an error about the directory");
    assert!(line.contains("acknowledged records were cut off"), "{line}");
    // Half a batch is left of what was cut, which is worth nothing to anybody.
    assert!(line.contains("nowhere: no whole batch"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_tail_is_cut_with_a_warning() {
    logged();
    let TestBroker { server, dir } = with_records().await;
    let copy = tempfile::tempdir().unwrap();
    killed(dir.path(), copy.path());
    server.shutdown().await;
    // The last byte that was written to the write-ahead log.
    let ring = std::fs::read_dir(copy.path().join("wal")).unwrap().next();
    let ring = std::fs::read_dir(ring.unwrap().unwrap().path()).unwrap();
    let file = ring.map(|file| file.unwrap().path()).min().unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let last = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[last] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let server = start_in(&copy, &[]).await;
    let page = get(&server, "/metrics/partitions").await.1;
    let end = |index: i32| {
        let name = format!("tidemark_partition_end_offset{{topic=\"hurt\",partition=\"{index}\"}}");
        series(&page, &name)
    };
    assert_eq!(
        (end(0), end(1)),
        ("3".into(), "2".into()),
        "the torn one is gone"
    );
    server.shutdown().await;
    let line = line("WARN", copy.path()).expect("a warning about the directory");
    assert!(line.contains("it was being written"), "{line}");
}

#[tokio::test]
async fn a_directory_that_cannot_be_used_is_named_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = start_in(&dir, &[]).await;
    let error = |path: PathBuf| async move {
        let disk = Arc::new(FileDisk::new());
        let started = try_start(disk, &path, &[]).await;
        let text = started.expect_err("it is not usable").to_string();
        let named = text.matches(&path.display().to_string()).count();
        assert_eq!(named, 1, "{text}");
        text
    };
    let text = error(dir.path().to_owned()).await;
    assert!(text.contains("is in use by another process"), "{text}");
    let file = dir.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let text = error(file).await;
    assert!(text.contains("is not a directory"), "{text}");
    server.shutdown().await;
}
