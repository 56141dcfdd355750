//! Topics, settings and deletions, and what is refused of them.

use crate::common::{Connection, broker, start_in};
use crate::kit::*;
use std::io::Write;
use std::sync::{Arc, Mutex};
use tidemark_records::TimestampType;
use tidemark_wire::ErrorCode;
use tidemark_wire::messages::describe_configs_request::DescribeConfigsResource;
use tidemark_wire::messages::*;

/// Value and source of a setting.
pub async fn described(c: &mut Connection, resource: i8, of: &str, name: &str) -> (String, i8) {
    let request = DescribeConfigsRequest {
        resources: vec![DescribeConfigsResource {
            resource_type: resource,
            resource_name: of.into(),
            configuration_keys: Some(vec![name.into()]),
            ..Default::default()
        }],
        ..Default::default()
    };
    let mut response = c.ask(&request, 4).await;
    let result = response.results.remove(0);
    assert_eq!(result.error_code, NONE, "{:?}", result.error_message);
    let config = result.configs.into_iter().next().expect("the setting");
    (config.value.unwrap_or_default(), config.config_source)
}

async fn more_partitions(
    c: &mut Connection,
    topic: &str,
    count: i32,
    validate_only: bool,
) -> (i16, Option<String>) {
    let request = CreatePartitionsRequest {
        topics: vec![create_partitions_request::CreatePartitionsTopic {
            name: topic.into(),
            count,
            assignments: None,
            ..Default::default()
        }],
        timeout_ms: 10_000,
        validate_only,
        ..Default::default()
    };
    let mut response = c.ask(&request, 3).await;
    let result = response.results.remove(0);
    (result.error_code, result.error_message)
}

async fn partition_count(c: &mut Connection, topic: &str) -> Option<usize> {
    let request = MetadataRequest {
        topics: Some(vec![metadata_request::MetadataRequestTopic {
            name: Some(topic.into()),
            ..Default::default()
        }]),
        allow_auto_topic_creation: false,
        ..Default::default()
    };
    let response = c.ask(&request, 12).await;
    let topic = &response.topics[0];
    (topic.error_code == NONE).then_some(topic.partitions.len())
}

/// Red when `Registry::delete` does not rename the directory before its removal.
#[tokio::test]
async fn the_name_of_a_deleted_topic_is_free_at_once_and_its_records_are_gone() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    let mut ids = Vec::new();
    for turn in 0..5 {
        ids.push(topic(&mut c, "t", 3).await);
        for index in 0..3 {
            assert_eq!(offset(&mut c, "t", index, -1).await, 0, "turn {turn}");
            assert_eq!(put(&mut c, "t", index, b"x").await, 0, "turn {turn}");
        }
        assert_eq!(delete_topic(&mut c, "t").await, NONE);
        assert_eq!(partition_count(&mut c, "t").await, None);
        let answer = produce(&mut c, "t", 0, batch(&[b"late"])).await;
        assert_eq!(answer.error_code, code(ErrorCode::UnknownTopicOrPartition));
    }
    ids.sort_unstable_by_key(|id| id.0);
    ids.dedup();
    assert_eq!(ids.len(), 5, "each has an id of its own");
    until("the files are removed", async || {
        let dirs = std::fs::metadata(broker.dir.path().join("t-0")).is_ok();
        let doomed =
            tidemark_env::disk::Disk::list(&tidemark_env::disk::FileDisk::new(), broker.dir.path());
        !dirs
            && doomed
                .unwrap()
                .iter()
                .all(|entry| !entry.name.ends_with("-delete"))
    })
    .await;
}

#[tokio::test]
async fn more_partitions_take_records_at_once_and_fewer_are_refused() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    topic(&mut c, "t", 1).await;
    put(&mut c, "t", 0, b"old").await;
    assert_eq!(more_partitions(&mut c, "t", 3, true).await.0, NONE);
    assert_eq!(
        partition_count(&mut c, "t").await,
        Some(1),
        "only validated"
    );
    assert_eq!(more_partitions(&mut c, "t", 3, false).await.0, NONE);
    assert_eq!(partition_count(&mut c, "t").await, Some(3));
    assert_eq!(put(&mut c, "t", 2, b"new").await, 0);
    assert_eq!(put(&mut c, "t", 0, b"old").await, 1);
    for count in [3, 2, 0, -1] {
        let (error, message) = more_partitions(&mut c, "t", count, false).await;
        assert_eq!(error, code(ErrorCode::InvalidPartitions), "{count}");
        assert!(message.is_some());
    }
    let (error, _) = more_partitions(&mut c, "unknown", 3, false).await;
    assert_eq!(error, code(ErrorCode::UnknownTopicOrPartition));
}

#[tokio::test]
async fn what_is_only_validated_does_not_happen() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    let request = CreateTopicsRequest {
        validate_only: true,
        ..create("t", 2, &[])
    };
    assert_eq!(c.ask(&request, 7).await.topics[0].error_code, NONE);
    assert_eq!(partition_count(&mut c, "t").await, None);
    topic(&mut c, "t", 2).await;
    let answer = c.ask(&request, 7).await;
    assert_eq!(
        answer.topics[0].error_code,
        code(ErrorCode::TopicAlreadyExists)
    );
    let request = IncrementalAlterConfigsRequest {
        validate_only: true,
        ..alter(TOPIC, "t", "max.message.bytes", "100")
    };
    assert_eq!(c.ask(&request, 1).await.responses[0].error_code, NONE);
    let answer = produce(&mut c, "t", 0, batch(&[&[1; 500]])).await;
    assert_eq!(answer.error_code, NONE);
}

#[tokio::test]
async fn topics_that_cannot_be_are_refused_with_a_reason() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    topic(&mut c, "a.b", 1).await;
    let long = "x".repeat(250);
    let invalid = ErrorCode::InvalidTopicException;
    let config = ErrorCode::InvalidConfig;
    let none: &[(&str, &str)] = &[];
    let cases = [
        ("", 1, none, invalid, ""),
        (".", 1, none, invalid, ""),
        ("white space", 1, none, invalid, ""),
        (&long, 1, none, invalid, ""),
        ("a_b", 1, none, invalid, "a.b"),
        ("a.b", 1, none, ErrorCode::TopicAlreadyExists, "a.b"),
        ("t", 0, none, ErrorCode::InvalidPartitions, ""),
        ("t", -2, none, ErrorCode::InvalidPartitions, ""),
        ("t", 1, &[("no.such.thing", "1")], config, "no.such.thing"),
        ("t", 1, &[("retention.sm", "1")], config, "retention.ms"),
        ("t", 1, &[("retention.ms", "soon")], config, "retention.ms"),
        (
            "t",
            1,
            &[("max.message.bytes", "-5")],
            config,
            "max.message.bytes",
        ),
        (
            "t",
            1,
            &[("remote.storage.enable", "true")],
            config,
            "tier.url",
        ),
    ];
    for (name, partitions, configs, error, hint) in cases {
        let answer = c.ask(&create(name, partitions, configs), 7).await;
        let topic = &answer.topics[0];
        assert_eq!(topic.error_code, error.code(), "{name:?} {configs:?}");
        let message = topic.error_message.as_deref().unwrap_or_default();
        assert!(!message.is_empty() && message.contains(hint), "{message}");
    }
    let mut request = create("t", 1, &[]);
    request.topics[0].replication_factor = 2;
    let answer = c.ask(&request, 7).await;
    assert_eq!(
        answer.topics[0].error_code,
        code(ErrorCode::InvalidReplicationFactor)
    );
    let mut request = create("twice", 1, &[]);
    request.topics.push(request.topics[0].clone());
    let answer = c.ask(&request, 7).await;
    assert!(
        answer
            .topics
            .iter()
            .all(|t| t.error_code == code(ErrorCode::InvalidRequest))
    );
    assert_eq!(partition_count(&mut c, "t").await, None);
    assert_eq!(partition_count(&mut c, "twice").await, None);
}

#[tokio::test]
async fn deletions_of_unknown_and_protected_topics_are_refused() {
    let careful = broker(&[("delete.topic.enable", "false")]).await;
    let mut c = Connection::open(&careful.server).await;
    topic(&mut c, "t", 1).await;
    assert_eq!(
        delete_topic(&mut c, "t").await,
        code(ErrorCode::TopicDeletionDisabled)
    );
    assert_eq!(put(&mut c, "t", 0, b"still").await, 0);
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    assert_eq!(
        delete_topic(&mut c, "t").await,
        code(ErrorCode::UnknownTopicOrPartition)
    );
}

#[tokio::test]
async fn topics_are_created_on_first_use_only_where_that_is_wanted() {
    for (enabled, expected) in [
        ("true", NONE),
        ("false", code(ErrorCode::UnknownTopicOrPartition)),
    ] {
        let settings = [
            ("auto.create.topics.enable", enabled),
            ("num.partitions", "4"),
        ];
        let broker = broker(&settings).await;
        let mut c = Connection::open(&broker.server).await;
        let mut request = MetadataRequest {
            topics: Some(vec![metadata_request::MetadataRequestTopic {
                name: Some("t".into()),
                ..Default::default()
            }]),
            allow_auto_topic_creation: false,
            ..Default::default()
        };
        let unknown = c.ask(&request, 9).await.topics[0].error_code;
        assert_eq!(unknown, code(ErrorCode::UnknownTopicOrPartition));
        request.allow_auto_topic_creation = true;
        let response = c.ask(&request, 9).await;
        assert_eq!(response.topics[0].error_code, expected);
        if expected == NONE {
            assert_eq!(response.topics[0].partitions.len(), 4);
            assert_eq!(put(&mut c, "t", 3, b"x").await, 0);
        }
    }
}

#[tokio::test]
async fn changed_settings_of_a_topic_apply_to_the_next_record() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    topic(&mut c, "t", 1).await;
    let answer = produce(&mut c, "t", 0, batch(&[&[1; 2000]])).await;
    assert_eq!((answer.error_code, answer.log_append_time_ms), (NONE, -1));
    assert_eq!(
        set(&mut c, TOPIC, "t", "max.message.bytes", "1000").await.0,
        NONE
    );
    let answer = produce(&mut c, "t", 0, batch(&[&[1; 2000]])).await;
    assert_eq!(answer.error_code, code(ErrorCode::MessageTooLarge));
    let changed = set(
        &mut c,
        TOPIC,
        "t",
        "message.timestamp.type",
        "LogAppendTime",
    )
    .await;
    assert_eq!(changed.0, NONE);
    let answer = produce(&mut c, "t", 0, batch(&[b"x"])).await;
    assert_ne!(answer.log_append_time_ms, -1);
    let read = read(&mut c, "t", 0, 1).await;
    assert_eq!(
        batches(&read)[0].header.timestamp_type(),
        TimestampType::LogAppendTime
    );
}

/// Base offsets of the segments of t-0.
fn segments(broker: &crate::common::TestBroker) -> Vec<i64> {
    let disk = tidemark_env::disk::FileDisk::new();
    let entries = tidemark_env::disk::Disk::list(&disk, &broker.dir.path().join("t-0")).unwrap();
    let base = |name: &str| name.strip_suffix(".log")?.parse().ok();
    entries
        .iter()
        .filter_map(|entry| base(&entry.name))
        .collect()
}

#[tokio::test]
async fn segments_roll_by_a_changed_size_and_retention_takes_the_old_ones() {
    let broker = broker(&[("log.retention.check.interval.ms", "20")]).await;
    let mut c = Connection::open(&broker.server).await;
    topic_with(&mut c, "t", 1, &[("file.delete.delay.ms", "0")]).await;
    for _ in 0..4 {
        put(&mut c, "t", 0, &vec![1; 600_000]).await;
    }
    assert_eq!(segments(&broker), [0]);
    assert_eq!(
        set(&mut c, TOPIC, "t", "segment.bytes", "1048576").await.0,
        NONE
    );
    for _ in 0..4 {
        put(&mut c, "t", 0, &vec![1; 600_000]).await;
    }
    until("the segments are written", async || {
        segments(&broker).len() >= 4
    })
    .await;
    let rolled = segments(&broker);
    assert_eq!(offset(&mut c, "t", 0, -2).await, 0);
    // Records that were deleted go with their segment, whatever the retention.
    let second = rolled[1];
    assert_eq!(delete_records(&mut c, "t", 0, second).await, (NONE, second));
    until("the first segment is removed", async || {
        segments(&broker)[0] == second
    })
    .await;
    assert_eq!(
        set(&mut c, TOPIC, "t", "retention.bytes", "700000").await.0,
        NONE
    );
    until("retention has moved the start", async || {
        offset(&mut c, "t", 0, -2).await > second
    })
    .await;
    let start = offset(&mut c, "t", 0, -2).await;
    assert_eq!(offset(&mut c, "t", 0, -1).await, 8, "what is new stays");
    assert_eq!(read(&mut c, "t", 0, start).await.log_start_offset, start);
}

/// The active segment is in memory only, and would be for a minute.
#[tokio::test]
async fn what_is_too_old_goes_before_it_is_written_into_a_segment_for_another_reason() {
    let broker = broker(&[("log.retention.check.interval.ms", "20")]).await;
    let mut c = Connection::open(&broker.server).await;
    topic(&mut c, "t", 1).await;
    for _ in 0..3 {
        put(&mut c, "t", 0, b"soon too old").await;
    }
    assert_eq!(set(&mut c, TOPIC, "t", "retention.ms", "1").await.0, NONE);
    until("everything is too old", async || {
        offset(&mut c, "t", 0, -2).await == 3
    })
    .await;
}

#[tokio::test]
async fn settings_of_all_brokers_apply_to_topics_that_have_none_of_their_own() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    topic(&mut c, "t", 1).await;
    topic_with(&mut c, "own", 1, &[("max.message.bytes", "5000")]).await;
    assert_eq!(
        set(&mut c, BROKER, "", "message.max.bytes", "1000").await.0,
        NONE
    );
    let too_large = code(ErrorCode::MessageTooLarge);
    let big = || batch(&[&[1; 2000]]);
    assert_eq!(produce(&mut c, "t", 0, big()).await.error_code, too_large);
    assert_eq!(produce(&mut c, "own", 0, big()).await.error_code, NONE);
    assert_eq!(
        described(&mut c, TOPIC, "t", "max.message.bytes").await,
        ("1000".into(), 3)
    );
    // One broker's own goes before that of all.
    assert_eq!(
        set(&mut c, BROKER, "0", "message.max.bytes", "3000")
            .await
            .0,
        NONE
    );
    assert_eq!(produce(&mut c, "t", 0, big()).await.error_code, NONE);
    assert_eq!(
        described(&mut c, BROKER, "0", "message.max.bytes").await,
        ("3000".into(), 2)
    );
    for of in ["0", ""] {
        let mut request = alter(BROKER, of, "message.max.bytes", "");
        request.resources[0].configs[0].config_operation = 1;
        assert_eq!(c.ask(&request, 1).await.responses[0].error_code, NONE);
    }
    assert_eq!(
        described(&mut c, TOPIC, "t", "max.message.bytes").await.1,
        5,
        "the default"
    );
}

#[tokio::test]
async fn settings_that_cannot_be_are_refused_with_a_reason() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    topic(&mut c, "t", 1).await;
    let config = ErrorCode::InvalidConfig;
    let cases = [
        (TOPIC, "t", "no.such.thing", "1", config, "no.such.thing"),
        (TOPIC, "t", "retention.ms", "soon", config, "retention.ms"),
        (
            TOPIC,
            "t",
            "remote.storage.enable",
            "true",
            config,
            "tier.url",
        ),
        (
            TOPIC,
            "unknown",
            "retention.ms",
            "1",
            ErrorCode::UnknownTopicOrPartition,
            "unknown",
        ),
        (BROKER, "0", "log.dirs", "/data", config, "restart"),
        (
            BROKER,
            "7",
            "message.max.bytes",
            "1000",
            ErrorCode::InvalidRequest,
            "7",
        ),
        (
            BROKER,
            "seven",
            "message.max.bytes",
            "1000",
            ErrorCode::InvalidRequest,
            "seven",
        ),
        (99, "t", "retention.ms", "1", ErrorCode::InvalidRequest, ""),
    ];
    for (resource, of, name, value, error, hint) in cases {
        let (answered, message) = set(&mut c, resource, of, name, value).await;
        let message = message.unwrap_or_default();
        assert_eq!(answered, error.code(), "{name}={value} of {of}: {message}");
        assert!(!message.is_empty() && message.contains(hint), "{message}");
    }
    let mut request = alter(TOPIC, "t", "retention.ms", "1000");
    request.resources[0]
        .configs
        .push(alter(TOPIC, "t", "no.such", "1").resources[0].configs[0].clone());
    assert_ne!(c.ask(&request, 1).await.responses[0].error_code, NONE);
    let (_, source) = described(&mut c, TOPIC, "t", "retention.ms").await;
    assert_eq!(source, 5, "a refused change changes nothing");
}

#[tokio::test]
async fn deleted_records_stay_deleted_over_a_restart() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    topic(&mut c, "t", 2).await;
    for _ in 0..5 {
        put(&mut c, "t", 0, b"x").await;
        put(&mut c, "t", 1, b"x").await;
    }
    assert_eq!(delete_records(&mut c, "t", 0, 3).await, (NONE, 3));
    assert_eq!(
        delete_records(&mut c, "t", 0, 1).await,
        (NONE, 3),
        "never back"
    );
    assert_eq!(
        delete_records(&mut c, "t", 1, -1).await,
        (NONE, 5),
        "all there is"
    );
    let out_of_range = code(ErrorCode::OffsetOutOfRange);
    assert_eq!(delete_records(&mut c, "t", 0, 6).await.0, out_of_range);
    assert_eq!(delete_records(&mut c, "t", 0, -2).await.0, out_of_range);
    let unknown = code(ErrorCode::UnknownTopicOrPartition);
    assert_eq!(delete_records(&mut c, "t", 9, 0).await.0, unknown);
    broker.server.shutdown().await;
    let server = start_in(&broker.dir, &[]).await;
    let mut c = Connection::open(&server).await;
    for (index, start) in [(0, 3), (1, 5)] {
        assert_eq!(offset(&mut c, "t", index, -2).await, start);
        assert_eq!(offset(&mut c, "t", index, -1).await, 5);
        assert_eq!(put(&mut c, "t", index, b"x").await, 5);
    }
}

#[tokio::test]
async fn records_of_compacted_and_internal_topics_are_not_deleted_by_offset() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    topic_with(&mut c, "t", 1, &[("cleanup.policy", "compact")]).await;
    let (error, _) = delete_records(&mut c, "t", 0, 0).await;
    assert_eq!(error, code(ErrorCode::PolicyViolation));
    let find = FindCoordinatorRequest {
        key: "g".into(),
        ..Default::default()
    };
    c.ask(&find, 3).await;
    let (error, _) = delete_records(&mut c, "__consumer_offsets", 0, 0).await;
    assert_eq!(error, code(ErrorCode::InvalidTopicException));
}

/// Collects log lines.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn settings_without_effect_are_warned_of_once() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    // The broker's own tasks run on this thread.
    let _collecting = tracing::subscriber::set_default(subscriber);
    let broker = broker(&[("num.io.threads", "9"), ("num.partitions", "2")]).await;
    let mut c = Connection::open(&broker.server).await;
    assert_eq!(
        set(&mut c, BROKER, "", "background.threads", "7").await.0,
        NONE
    );
    for value in ["8", "9"] {
        assert_eq!(
            set(&mut c, BROKER, "", "num.io.threads", value).await.0,
            NONE
        );
    }
    broker.server.shutdown().await;
    let logged = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let of = |name: &str| logged.lines().filter(|line| line.contains(name)).count();
    assert_eq!(
        (of("num.io.threads"), of("background.threads")),
        (1, 1),
        "{logged}"
    );
    assert_eq!(of("num.partitions"), 0, "{logged}");
}

#[tokio::test]
async fn a_replica_stays_in_its_directory_and_who_asks_is_told() {
    let (dir, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let paths = [dir.path(), second.path()].map(|path| path.display().to_string());
    let server = start_in(&dir, &[("log.dirs", &paths.join(","))]).await;
    let mut c = Connection::open(&server).await;
    topic(&mut c, "t", 1).await;
    put(&mut c, "t", 0, b"kept").await;
    let all = DescribeLogDirsRequest {
        topics: None,
        ..Default::default()
    };
    let described = c.ask(&all, 4).await;
    let holds = |dir: &&describe_log_dirs_response::DescribeLogDirsResult| {
        dir.topics.iter().any(|topic| topic.name == "t")
    };
    let at = described.results.iter().find(holds).unwrap();
    let other = paths.iter().find(|path| **path != at.log_dir).unwrap();
    let mut asked = async |path: &str, partition: i32| {
        let topics = vec![alter_replica_log_dirs_request::AlterReplicaLogDirTopic {
            name: "t".into(),
            partitions: vec![partition],
            ..Default::default()
        }];
        let request = AlterReplicaLogDirsRequest {
            dirs: vec![alter_replica_log_dirs_request::AlterReplicaLogDir {
                path: path.into(),
                topics,
                ..Default::default()
            }],
            ..Default::default()
        };
        let response = c.ask(&request, 2).await;
        ErrorCode::from_code(response.results[0].partitions[0].error_code)
    };
    assert_eq!(asked(&at.log_dir, 0).await, ErrorCode::None);
    assert_eq!(asked(other, 0).await, ErrorCode::UnsupportedVersion);
    assert_eq!(asked(other, 1).await, ErrorCode::ReplicaNotAvailable);
    assert_eq!(asked("/elsewhere", 0).await, ErrorCode::LogDirNotFound);
    assert_eq!(
        values(&read(&mut c, "t", 0, 0).await),
        [(0, b"kept".to_vec())]
    );
}
