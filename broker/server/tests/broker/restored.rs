//! A cluster that comes back from its bucket, here a directory.

use crate::common::{Connection, get};
use crate::groups::{Member, commit, committed};
use crate::kit::*;
use crate::tiered::{LATEST_TIERED, TIERED, fill, number_at, start};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;
use tidemark_config::{BrokerLayers, BrokerSettings, ConfigMap};
use tidemark_env::clock;
use tidemark_env::disk::{Disk, FileDisk};
use tidemark_records::{BatchBuilder, BatchOptions, Limits, RecordRef};
use tidemark_server::{
    RestoreError, RestoreOptions, RestoreReport, Voters, format_with, preview_restore, restore,
};
use tidemark_tier::{Bucket, BucketOptions, TierError};
use tidemark_wire::messages::InitProducerIdRequest;
use tidemark_wire::{ErrorCode, Uuid};

const LATEST: i64 = -1;
const COMPACTED: &[(&str, &str)] = &[
    ("remote.storage.enable", "true"),
    ("cleanup.policy", "compact"),
];
const NEW_ID: Uuid = Uuid([9; 16]);

fn open(dir: &TempDir) -> Bucket {
    let address = format!("file://{}", dir.path().display());
    Bucket::open(&address, &BucketOptions::default()).unwrap()
}

async fn put_key(c: &mut Connection, topic: &str, key: &[u8], value: Option<&[u8]>) {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    let record = RecordRef {
        timestamp_ms: clock::now_ms(),
        key: Some(key),
        value,
        headers: &[],
    };
    builder.append(&record).unwrap();
    let answer = produce(c, topic, 0, builder.build().unwrap()).await;
    assert_eq!(answer.error_code, NONE, "{:?}", answer.error_message);
}

/// The offset and the value of each key's last record.
async fn table(c: &mut Connection, topic: &str) -> BTreeMap<Bytes, (i64, Option<Bytes>)> {
    let end = offset(c, topic, 0, LATEST).await;
    let (mut table, mut at) = (BTreeMap::new(), 0);
    while at < end {
        let data = read(c, topic, 0, at).await;
        assert_eq!(data.error_code, NONE);
        for batch in batches(&data) {
            for record in batch.records(Limits::default()).unwrap() {
                let record = record.unwrap();
                table.insert(record.key.unwrap(), (record.offset, record.value));
            }
            at = batch.header.next_offset();
        }
    }
    table
}

/// What would come back, once `good` says that all of it is there.
async fn preview(
    bucket: &Bucket,
    what: &str,
    good: impl Fn(&RestoreReport) -> bool,
) -> RestoreReport {
    let mut found = None;
    until(what, async || {
        found = preview_restore(bucket, &RestoreOptions::default())
            .await
            .ok();
        found.as_ref().is_some_and(&good)
    })
    .await;
    found.unwrap()
}

fn end_in(report: &RestoreReport, topic: &str) -> i64 {
    let topic = report.topics.iter().find(|found| found.name == topic);
    topic.map_or(-1, |topic| topic.partitions[0].end_offset)
}

/// Formats a directory for a cluster that begins with what `from` holds.
async fn format_restored(
    dir: &Path,
    from: &Bucket,
    into: Option<&Bucket>,
    options: &RestoreOptions,
) -> RestoreReport {
    let (report, first) = restore(from, into, NEW_ID, options).await.unwrap();
    let fixed = ConfigMap::from([
        ("log.dirs".to_owned(), dir.display().to_string()),
        ("listeners".to_owned(), "PLAINTEXT://127.0.0.1:0".to_owned()),
    ]);
    let none = ConfigMap::new();
    let settings = BrokerSettings::resolve(BrokerLayers {
        dynamic: &none,
        dynamic_default: &none,
        fixed: &fixed,
    })
    .unwrap();
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::new());
    let mut ids = 40;
    let new_id = || {
        ids += 1;
        Uuid::from_random([ids; 16])
    };
    format_with(
        &disk,
        &settings,
        Some(NEW_ID),
        &Voters::Standalone,
        &first,
        new_id,
    )
    .unwrap();
    report
}

async fn producer_id(c: &mut Connection) -> i64 {
    let request = InitProducerIdRequest {
        transactional_id: None,
        producer_id: -1,
        producer_epoch: -1,
        ..Default::default()
    };
    let answer = c.ask(&request, 4).await;
    assert_eq!(answer.error_code, NONE);
    answer.producer_id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_comes_back_from_its_bucket_alone() {
    let (lost, new, bucket) = (
        TempDir::new().unwrap(),
        TempDir::new().unwrap(),
        TempDir::new().unwrap(),
    );
    let server = start(&lost, &bucket).await;
    let mut c = Connection::open(&server).await;
    let id = topic_with(&mut c, "t", 1, TIERED).await;
    topic_with(&mut c, "table", 1, COMPACTED).await;
    topic_with(&mut c, "local", 1, &[]).await;
    fill(&mut c, "t", 0, 40).await;
    put(&mut c, "local", 0, b"not tiered").await;
    for (key, value) in [("a", "1"), ("b", "1"), ("a", "2"), ("c", "1"), ("b", "2")] {
        put_key(&mut c, "table", key.as_bytes(), Some(value.as_bytes())).await;
    }
    put_key(&mut c, "table", b"c", None).await;
    let whole = table(&mut c, "table").await;
    let producer = producer_id(&mut c).await;
    let _member = Member::new(&server, "behind").await;
    assert_eq!(commit(&mut c, "behind", "t", 30).await, NONE);
    assert_eq!(commit(&mut c, "far", "t", 1_000).await, NONE);
    let source = open(&bucket);
    let report = preview(&source, "all is in the bucket", |report| {
        end_in(report, "t") == 40
            && end_in(report, "table") == 6
            && report.clamped.len() == 1
            && end_in(report, "local") == 0
    })
    .await;
    assert_eq!(report.clamped[0].to, Some(40));
    assert!(
        report
            .warnings
            .iter()
            .any(|text| text.contains("topic local comes back empty")),
        "{:?}",
        report.warnings
    );
    server.kill().await;

    let report = format_restored(new.path(), &source, None, &RestoreOptions::default()).await;
    assert_eq!((report.source_generation, report.generation), (1, 2));
    let (_, first) = restore(&source, None, NEW_ID, &RestoreOptions::default())
        .await
        .unwrap();
    let (_, again) = restore(&source, None, NEW_ID, &RestoreOptions::default())
        .await
        .unwrap();
    assert_eq!(first, again, "another voter begins with the same");
    let server = start(&new, &bucket).await;
    let mut c = Connection::open(&server).await;
    until("the topic is there", async || {
        try_offset(&mut c, "t", 0, LATEST).await == Ok(40)
    })
    .await;
    for at in [0, 17, 39] {
        assert_eq!(number_at(&mut c, "t", at).await, at);
    }
    assert_eq!(offset(&mut c, "local", 0, LATEST).await, 0);
    until("the compacted topic is there", async || {
        try_offset(&mut c, "table", 0, LATEST).await == Ok(6)
    })
    .await;
    assert_eq!(table(&mut c, "table").await, whole);
    until("groups resume", async || {
        committed(&mut c, "behind", "t").await.0 == 30
    })
    .await;
    assert_eq!(committed(&mut c, "far", "t").await.0, 40);
    assert!(
        producer_id(&mut c).await > producer + (1 << 40),
        "no producer id is given out twice"
    );
    // It goes on, here and in the bucket.
    fill(&mut c, "t", 40, 70).await;
    put_key(&mut c, "table", b"c", Some(b"3")).await;
    assert_eq!(commit(&mut c, "far", "t", 45).await, NONE);
    until("what came after is in the bucket", async || {
        offset(&mut c, "t", 0, LATEST_TIERED).await == 69
    })
    .await;
    for at in [0, 39, 40, 69] {
        assert_eq!(number_at(&mut c, "t", at).await, at);
    }
    preview(&source, "backups go on", |report| {
        end_in(report, "table") == 7 && report.clamped.is_empty()
    })
    .await;

    // The lost one comes back to life: it serves what it has and leaves the bucket alone.
    let old = start(&lost, &bucket).await;
    let mut o = Connection::open(&old).await;
    until("it is told", async || {
        let page = get(&old, "/metrics").await.1;
        page.contains("tidemark_tier_failures_total{outcome=\"superseded\"}")
    })
    .await;
    put(&mut o, "t", 0, b"late").await;
    let before = preview(&source, "it is there", |_| true).await;
    assert_eq!(end_in(&before, "t"), 70);
    assert_eq!(before.source_generation, 2);
    assert_eq!(number_at(&mut c, "t", 69).await, 69);
    let found = before
        .topics
        .iter()
        .find(|topic| topic.name == "t")
        .unwrap();
    assert_eq!(found.topic_id, id.to_string(), "it keeps its id");
    old.shutdown().await;

    // What was restored is found again after a restart.
    server.shutdown().await;
    let server = start(&new, &bucket).await;
    let mut c = Connection::open(&server).await;
    assert_eq!(table(&mut c, "table").await.len(), 3);
    until("groups are loaded", async || {
        committed(&mut c, "far", "t").await.0 == 45
    })
    .await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_cluster_stops_writing_once_it_is_taken_over() {
    let (dir, bucket) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let server = start(&dir, &bucket).await;
    let mut c = Connection::open(&server).await;
    topic_with(&mut c, "t", 1, TIERED).await;
    fill(&mut c, "t", 0, 3).await;
    let source = open(&bucket);
    preview(&source, "it is there", |report| end_in(report, "t") == 3).await;
    let done = restore(&source, None, NEW_ID, &RestoreOptions::default()).await;
    assert_eq!(end_in(&done.unwrap().0, "t"), 3);
    fill(&mut c, "t", 3, 6).await;
    until("it is told", async || {
        let page = get(&server, "/metrics").await.1;
        page.contains("tidemark_tier_failures_total{outcome=\"superseded\"}")
    })
    .await;
    let after = preview(&source, "it is there", |_| true).await;
    assert_eq!((end_in(&after, "t"), after.source_generation), (3, 2));
    assert_eq!(number_at(&mut c, "t", 5).await, 5, "it goes on by itself");
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_some_topics_as_of_a_moment_leaves_the_source_alone() {
    let (dir, new) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (bucket, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let server = start(&dir, &bucket).await;
    let mut c = Connection::open(&server).await;
    topic_with(&mut c, "orders.eu", 1, TIERED).await;
    topic_with(&mut c, "orders.us", 1, TIERED).await;
    topic_with(&mut c, "visits", 1, TIERED).await;
    fill(&mut c, "orders.eu", 0, 15).await;
    fill(&mut c, "visits", 0, 2).await;
    let _member = Member::new(&server, "g").await;
    assert_eq!(commit(&mut c, "g", "orders.eu", 15).await, NONE);
    assert_eq!(commit(&mut c, "h", "visits", 2).await, NONE);
    clock::sleep(std::time::Duration::from_millis(20)).await;
    let moment = clock::now_ms();
    clock::sleep(std::time::Duration::from_millis(20)).await;
    fill(&mut c, "orders.eu", 15, 30).await;
    assert_eq!(commit(&mut c, "g", "orders.eu", 30).await, NONE);
    let source = open(&bucket);
    preview(&source, "it is there", |report| {
        end_in(report, "orders.eu") == 30 && end_in(report, "visits") == 2
    })
    .await;
    let options = RestoreOptions {
        topics: vec!["orders.*".to_owned()],
        at_ms: Some(moment),
        ..RestoreOptions::default()
    };
    let mut planned = None;
    until("the backup has the last offset", async || {
        planned = preview_restore(&source, &options).await.ok();
        let clamped = planned.as_ref().map(|report| report.clamped.len());
        clamped == Some(2)
    })
    .await;
    let planned = planned.unwrap();
    assert_eq!(end_in(&planned, "orders.eu"), 15);
    assert_eq!(end_in(&planned, "visits"), -1);
    let nobody = RestoreOptions {
        topics: vec!["order".to_owned()],
        ..RestoreOptions::default()
    };
    let refused = preview_restore(&source, &nobody).await;
    assert!(matches!(refused, Err(RestoreError::NoSuchTopic(_))));

    let target = open(&other);
    let report = format_restored(new.path(), &source, Some(&target), &options).await;
    assert_eq!(end_in(&report, "orders.eu"), 15);
    let copy = start(&new, &other).await;
    let mut n = Connection::open(&copy).await;
    until("the topic is there", async || {
        try_offset(&mut n, "orders.eu", 0, LATEST).await == Ok(15)
    })
    .await;
    for at in [0, 7, 14] {
        assert_eq!(number_at(&mut n, "orders.eu", at).await, at);
    }
    until("groups resume", async || {
        committed(&mut n, "g", "orders.eu").await.0 == 15
    })
    .await;
    let unknown = code(ErrorCode::UnknownTopicOrPartition);
    assert_eq!(try_offset(&mut n, "visits", 0, LATEST).await, Err(unknown));
    fill(&mut n, "orders.eu", 15, 20).await;
    until("the copy tiers by itself", async || {
        offset(&mut n, "orders.eu", 0, LATEST_TIERED).await == 19
    })
    .await;

    // The source goes on as if nothing had been.
    fill(&mut c, "orders.eu", 30, 33).await;
    until("the source tiers", async || {
        offset(&mut c, "orders.eu", 0, LATEST_TIERED).await == 32
    })
    .await;
    assert_eq!(number_at(&mut c, "orders.eu", 16).await, 16);
    let again = restore(&source, Some(&target), Uuid([3; 16]), &options).await;
    assert!(
        matches!(again, Err(RestoreError::NotEmpty { .. })),
        "{again:?}"
    );
    copy.shutdown().await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_restored_from_is_refused_in_words() {
    let bucket = TempDir::new().unwrap();
    let source = open(&bucket);
    let refused = preview_restore(&source, &RestoreOptions::default()).await;
    let error = refused.unwrap_err();
    assert!(error.to_string().contains("holds no cluster"), "{error}");
    let dir = TempDir::new().unwrap();
    let server = start(&dir, &bucket).await;
    let mut c = Connection::open(&server).await;
    topic_with(&mut c, "t", 1, TIERED).await;
    preview(&source, "metadata are there", |report| {
        !report.topics.is_empty()
    })
    .await;
    server.shutdown().await;
    let owner = source.get("owner/0000000001").await.unwrap();
    let owner = String::from_utf8(owner.to_vec()).unwrap();
    let id = owner.split("\"cluster_id\":\"").nth(1).unwrap();
    let id: Uuid = id.split('"').next().unwrap().parse().unwrap();
    let error = restore(&source, None, id, &RestoreOptions::default()).await;
    let error = error.unwrap_err();
    assert!(error.to_string().contains("an id of its own"), "{error}");
    restore(&source, None, NEW_ID, &RestoreOptions::default())
        .await
        .unwrap();
    let error = restore(&source, None, id, &RestoreOptions::default()).await;
    let error = error.unwrap_err();
    assert!(error.to_string().contains("or did once"), "{error}");
    // Damage is told by the object's key.
    let listed = source.list("metadata").await.unwrap();
    for object in &listed {
        source
            .put(&object.key, Bytes::from_static(b"{}\n"))
            .await
            .unwrap();
    }
    let error = preview_restore(&source, &RestoreOptions::default()).await;
    let damaged = RestoreError::Tier(TierError::Damaged {
        key: listed[0].key.clone(),
        reason: String::new(),
    });
    let error = error.unwrap_err();
    assert_eq!(
        std::mem::discriminant(&error),
        std::mem::discriminant(&damaged),
        "{error}"
    );
}
