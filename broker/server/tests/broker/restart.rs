//! What survives the end of a broker, and which directories and ports it refuses.

use crate::admin::described;
use crate::common::{Connection, broker, get, start_in, try_start};
use crate::groups::{commit, committed};
use crate::kit::*;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tidemark_config::ConfigMap;
use tidemark_env::clock;
use tidemark_env::disk::{Disk, Fault, FaultError, FaultOp, FileDisk, MemDisk, OpenMode};
use tidemark_server::{RunningServer, StartError};
use tidemark_wire::messages::*;
use tidemark_wire::{ErrorCode, Uuid};

/// Everything that a broker must remember, as it was made.
struct Made {
    ids: Vec<Uuid>,
    producer: i64,
}

async fn make(c: &mut Connection) -> Made {
    let mut ids = Vec::new();
    for (name, partitions) in [("one", 1), ("three", 3)] {
        ids.push(topic_with(c, name, partitions, &[("retention.ms", "12345678")]).await);
        for index in 0..partitions {
            for value in [b"a", b"b", b"c"] {
                put(c, name, index, value).await;
            }
        }
    }
    topic(c, "gone", 1).await;
    put(c, "gone", 0, b"x").await;
    assert_eq!(delete_topic(c, "gone").await, NONE);
    assert_eq!(
        set(c, BROKER, "", "message.max.bytes", "54321").await.0,
        NONE
    );
    let init = InitProducerIdRequest {
        transactional_id: None,
        transaction_timeout_ms: 60_000,
        ..Default::default()
    };
    let producer = c.ask(&init, 4).await.producer_id;
    for sequence in 0..3 {
        let answer = produce(c, "one", 0, batch_of(producer, 0, sequence, &[b"i"])).await;
        assert_eq!(answer.base_offset, 3 + i64::from(sequence));
    }
    let find = FindCoordinatorRequest {
        key: "g".into(),
        ..Default::default()
    };
    assert_eq!(c.ask(&find, 3).await.error_code, NONE);
    assert_eq!(commit(c, "g", "three", 2).await, NONE);
    Made { ids, producer }
}

async fn check(c: &mut Connection, made: &Made) {
    let metadata = MetadataRequest {
        topics: None,
        ..Default::default()
    };
    let response = c.ask(&metadata, 12).await;
    let described_topics: Vec<(String, Uuid, usize)> = response
        .topics
        .into_iter()
        .filter(|topic| !topic.is_internal)
        .map(|topic| (topic.name.unwrap(), topic.topic_id, topic.partitions.len()))
        .collect();
    let expected = [
        ("one".into(), made.ids[0], 1),
        ("three".into(), made.ids[1], 3),
    ];
    assert_eq!(described_topics, expected);
    assert_eq!(
        described(c, TOPIC, "three", "retention.ms").await,
        ("12345678".into(), 1)
    );
    assert_eq!(
        described(c, TOPIC, "three", "max.message.bytes").await,
        ("54321".into(), 3)
    );
    for index in 0..3 {
        let read = values(&read(c, "three", index, 0).await);
        assert_eq!(
            read,
            [(0, b"a".to_vec()), (1, b"b".to_vec()), (2, b"c".to_vec())]
        );
    }
    let again = batch_of(made.producer, 0, 2, &[b"i"]);
    let answer = produce(c, "one", 0, again).await;
    assert_eq!(
        (answer.error_code, answer.base_offset),
        (NONE, 5),
        "a duplicate"
    );
    let gap = batch_of(made.producer, 0, 9, &[b"i"]);
    let answer = produce(c, "one", 0, gap).await;
    assert_eq!(answer.error_code, code(ErrorCode::OutOfOrderSequenceNumber));
    assert_eq!(offset(c, "one", 0, -1).await, 6);
    let init = InitProducerIdRequest {
        transactional_id: None,
        transaction_timeout_ms: 60_000,
        ..Default::default()
    };
    assert_ne!(c.ask(&init, 4).await.producer_id, made.producer);
    assert_eq!(committed(c, "g", "three").await, (2, Some("note".into())));
}

#[tokio::test]
async fn everything_survives_a_shutdown() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    let made = make(&mut c).await;
    broker.server.shutdown().await;
    // Twice: what was loaded is written again.
    for _ in 0..2 {
        let server = start_in(&broker.dir, &[]).await;
        let mut c = Connection::open(&server).await;
        check(&mut c, &made).await;
        server.shutdown().await;
    }
}

#[tokio::test]
async fn everything_survives_the_end_of_a_broker_that_was_not_shut_down() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    let made = make(&mut c).await;
    drop(broker.server);
    assert_eq!(c.frame().await, None, "its connections end");
    let server = start_in(&broker.dir, &[]).await;
    let mut c = Connection::open(&server).await;
    check(&mut c, &made).await;
}

async fn refusal(dir: &Path, settings: &[(&str, &str)]) -> (StartError, String) {
    let disk = Arc::new(FileDisk::new());
    let error = try_start(disk, dir, settings)
        .await
        .expect_err("the broker must not start");
    let message = error.to_string();
    (error, message)
}

async fn serves(server: &RunningServer) -> bool {
    let mut c = Connection::open(server).await;
    c.ask(&MetadataRequest::default(), 9).await.brokers.len() == 1
}

#[tokio::test]
async fn a_second_broker_on_a_directory_is_refused_and_the_first_goes_on() {
    let broker = broker(&[]).await;
    let (error, message) = refusal(broker.dir.path(), &[]).await;
    assert!(matches!(error, StartError::Directory { .. }), "{error:?}");
    assert!(
        message.contains(&broker.dir.path().display().to_string()),
        "{message}"
    );
    assert!(message.contains("another"), "{message}");
    assert!(serves(&broker.server).await);
    broker.server.shutdown().await;
    assert!(
        serves(&start_in(&broker.dir, &[]).await).await,
        "afterwards it is free"
    );
}

#[tokio::test]
async fn a_port_in_use_is_told_and_leaves_the_directory_free() {
    let broker = broker(&[]).await;
    let taken = format!("PLAINTEXT://{}", broker.server.bootstrap());
    let dir = tempfile::tempdir().unwrap();
    let (error, message) = refusal(dir.path(), &[("listeners", &taken)]).await;
    assert!(matches!(error, StartError::Listen { .. }), "{error:?}");
    assert!(message.contains(&broker.server.bootstrap()), "{message}");
    let http = broker.server.http().unwrap().to_string();
    let (error, message) = refusal(dir.path(), &[("http.listen", &http)]).await;
    assert!(matches!(error, StartError::Listen { .. }), "{error:?}");
    assert!(message.contains(&http), "{message}");
    assert!(serves(&start_in(&dir, &[]).await).await);
}

#[tokio::test]
async fn the_directory_of_another_broker_is_refused() {
    let broker = broker(&[]).await;
    broker.server.shutdown().await;
    let (_, message) = refusal(broker.dir.path(), &[("node.id", "5")]).await;
    assert!(message.contains("node.id"), "{message}");
    assert!(
        serves(&start_in(&broker.dir, &[]).await).await,
        "nothing was changed"
    );
}

#[tokio::test]
async fn directories_of_two_clusters_are_refused() {
    let (first, second) = (broker(&[]).await, broker(&[]).await);
    first.server.shutdown().await;
    second.server.shutdown().await;
    let both = format!(
        "{},{}",
        first.dir.path().display(),
        second.dir.path().display()
    );
    let (_, message) = refusal(first.dir.path(), &[("log.dirs", &both)]).await;
    assert!(
        message.contains(&second.dir.path().display().to_string()),
        "{message}"
    );
    assert!(message.contains("cluster"), "{message}");
    assert!(
        serves(&start_in(&second.dir, &[]).await).await,
        "nothing was changed"
    );
}

#[tokio::test]
async fn settings_that_make_no_sense_are_refused_before_anything_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let cases = [
        ("num.partitons", "3", "num.partitions"),
        ("num.partitions", "many", "num.partitions"),
        ("listeners", "SASL_SSL://127.0.0.1:0", "PLAINTEXT and SSL"),
        ("listeners", "SSL://127.0.0.1:0", "ssl.keystore.location"),
        (
            "authorizer.class.name",
            "kafka.Authorizer",
            "access control",
        ),
    ];
    for (name, value, hint) in cases {
        let (error, message) = refusal(&data, &[(name, value)]).await;
        assert!(matches!(error, StartError::Config(_)), "{error:?}");
        assert!(message.contains(hint), "{message}");
    }
    assert!(!data.exists());
}

#[tokio::test]
async fn a_damaged_log_is_offline_and_the_others_are_served() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    topic(&mut c, "t", 2).await;
    for index in 0..2 {
        for _ in 0..3 {
            put(&mut c, "t", index, &[1; 100]).await;
        }
    }
    broker.server.shutdown().await;
    assert_eq!(c.frame().await, None);
    // The last of three batches is not whole.
    let path = broker.dir.path().join("t-0/00000000000000000000.log");
    let file = FileDisk::new().open(&path, OpenMode::ReadWrite).unwrap();
    file.set_len(file.len().unwrap() - 1).unwrap();
    let server = start_in(&broker.dir, &[]).await;
    let mut c = Connection::open(&server).await;
    let storage = code(ErrorCode::KafkaStorageError);
    assert_eq!(read(&mut c, "t", 0, 0).await.error_code, storage);
    assert_eq!(
        produce(&mut c, "t", 0, batch(&[b"x"])).await.error_code,
        storage
    );
    assert_eq!(values(&read(&mut c, "t", 1, 0).await).len(), 3);
    assert_eq!(put(&mut c, "t", 1, b"x").await, 3);
}

#[tokio::test]
async fn what_an_unfinished_import_left_is_removed_at_the_next_start() {
    let broker = broker(&[]).await;
    broker.server.shutdown().await;
    let disk = FileDisk::new();
    let left = broker.dir.path().join(".import");
    disk.create_dir_all(&left.join("orders-0")).unwrap();
    let server = start_in(&broker.dir, &[]).await;
    until("the copies are gone", async || !disk.exists(&left).unwrap()).await;
    server.shutdown().await;
}

#[tokio::test]
async fn a_disk_that_fails_ends_the_service_and_marks_its_directory() {
    let disk = MemDisk::new();
    let data = PathBuf::from("/data");
    let server = try_start(Arc::new(disk.clone()), &data, &[]).await.unwrap();
    let mut c = Connection::open(&server).await;
    topic(&mut c, "t", 1).await;
    put(&mut c, "t", 0, b"kept").await;
    disk.inject(Fault {
        op: FaultOp::Write,
        path_contains: ".wal".into(),
        after: 0,
        times: 1,
        error: FaultError::Eio,
    });
    let answer = produce(&mut c, "t", 0, batch(&[b"lost"])).await;
    assert_eq!(answer.error_code, code(ErrorCode::KafkaStorageError));
    let reason = server.failed().await.to_string();
    assert!(reason.contains("/data"), "{reason}");
    assert_eq!(values(&read(&mut c, "t", 0, 0).await).len(), 1);
    server.kill().await;
    a_marked_directory_is_not_served(disk).await;
}

#[tokio::test]
async fn a_broker_whose_metadata_log_fails_while_it_starts_does_not_wait_for_ever() {
    let disk = MemDisk::new();
    let data = PathBuf::from("/data");
    let disk: Arc<MemDisk> = Arc::new(disk);
    try_start(disk.clone(), &data, &[])
        .await
        .unwrap()
        .shutdown()
        .await;
    let mut refused = 0;
    for after in 0..8 {
        disk.inject(Fault {
            op: FaultOp::Write,
            path_contains: ".raft".into(),
            after,
            times: 1,
            error: FaultError::Enospc,
        });
        let starting = try_start(disk.clone(), &data, &[]);
        let started = tidemark_env::clock::timeout(Duration::from_secs(20), starting).await;
        match started.expect("a start ends, one way or the other") {
            Ok(server) => server.shutdown().await,
            Err(_) => refused += 1,
        }
        disk.clear_faults();
    }
    assert!(refused > 0, "the fault was not met");
}

async fn a_marked_directory_is_not_served(disk: MemDisk) {
    let data = PathBuf::from("/data");
    let http = [("http.listen", "127.0.0.1:0")];
    let server = try_start(Arc::new(disk.clone()), &data, &http)
        .await
        .unwrap();
    assert!(server.marked_failed().unwrap().contains("/data"));
    assert!(get(&server, "/livez").await.0.contains(" 200 "));
    let (status, why) = get(&server, "/readyz").await;
    assert!(
        status.contains(" 503 ") && why.contains("failed"),
        "{status} {why}"
    );
    let state = get(&server, "/state").await.1;
    assert!(state.contains("DirectoryFailed"), "{state}");
    server.shutdown().await;
    // Whoever knows better takes the mark away, and has all that was acknowledged.
    disk.remove(&data.join("tidemark-failed")).unwrap();
    let server = try_start(Arc::new(disk), &data, &[]).await.unwrap();
    let mut c = Connection::open(&server).await;
    assert_eq!(values(&read(&mut c, "t", 0, 0).await).len(), 1);
    server.shutdown().await;
}

#[tokio::test]
async fn a_broker_is_reached_elsewhere_without_a_restart() {
    const TWO: &str = "PLAINTEXT://127.0.0.1:0,OUTSIDE://127.0.0.1:0";
    const MAP: &str = "PLAINTEXT:PLAINTEXT,OUTSIDE:PLAINTEXT";
    let fixed = [
        ("listeners", TWO),
        ("listener.security.protocol.map", MAP),
        // The address of the second one is not known yet.
        ("advertised.listeners", "PLAINTEXT://127.0.0.1:0"),
    ];
    let broker = broker(&fixed).await;
    let server = &broker.server;
    let (inside, outside) = (&server.listeners()[0], &server.listeners()[1]);
    assert_eq!(outside.advertised, None);
    let at = |listener: &tidemark_server::Advertised| listener.bound.to_string();
    let (own, far) = (at(inside), at(outside));
    // What clients of a listener are told; a broker hears of it from the metadata.
    let told = async |address: &str, wanted: Option<&str>| {
        let mut c = Connection::to(address).await;
        let deadline = clock::monotonic() + Duration::from_secs(20);
        loop {
            let brokers = c.ask(&MetadataRequest::default(), 9).await.brokers;
            let first = brokers.first().map(|b| format!("{}:{}", b.host, b.port));
            if first.as_deref() == wanted {
                return;
            }
            assert!(clock::monotonic() < deadline, "{first:?}, not {wanted:?}");
            clock::sleep(Duration::from_millis(5)).await;
        }
    };
    told(&own, Some(&own)).await;
    told(&far, None).await;

    let mut settings = ConfigMap::from([
        ("listeners".to_owned(), TWO.to_owned()),
        ("listener.security.protocol.map".to_owned(), MAP.to_owned()),
        (
            "log.dirs".to_owned(),
            broker.dir.path().display().to_string(),
        ),
    ]);
    let mut advertise = async |addresses: &str| {
        settings.insert("advertised.listeners".to_owned(), addresses.to_owned());
        server.advertise(&settings).await
    };
    let both = "PLAINTEXT://127.0.0.1:0,OUTSIDE://kafka.acme.com:31092";
    assert!(advertise(both).await.unwrap());
    assert!(!advertise(both).await.unwrap(), "it is known");
    let elsewhere = Some("kafka.acme.com:31092");
    told(&far, elsewhere).await;
    told(&own, Some(&own)).await;
    let refused = advertise("OUTSIDE://kafka.acme.com:31092").await;
    let message = refused.unwrap_err().to_string();
    assert!(message.contains("PLAINTEXT"), "{message}");
    told(&far, elsewhere).await;
    assert!(serves(server).await);
}
