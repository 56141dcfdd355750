//! A topic that moves to a bucket, here a directory.

use crate::common::{Connection, get, series, start_in};
use crate::kit::*;
use tempfile::TempDir;
use tidemark_server::RunningServer;
use tidemark_tier::{Bucket, BucketOptions, layout};
use tidemark_wire::{ErrorCode, Uuid};

const EARLIEST: i64 = -2;
const EARLIEST_LOCAL: i64 = -4;
pub const LATEST_TIERED: i64 = -5;
pub const TIERED: &[(&str, &str)] = &[
    ("remote.storage.enable", "true"),
    ("segment.bytes", "1048576"),
    ("local.retention.bytes", "1"),
    ("file.delete.delay.ms", "0"),
];

fn settings(bucket: &TempDir) -> Vec<(String, String)> {
    [
        ("tier.url", format!("file://{}", bucket.path().display())),
        ("tier.upload.max.lag.ms", "100".to_owned()),
        ("tier.delete.delay.ms", "0".to_owned()),
        ("log.retention.check.interval.ms", "100".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

pub async fn start(dir: &TempDir, bucket: &TempDir) -> RunningServer {
    let settings = settings(bucket);
    let settings: Vec<(&str, &str)> = settings
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    start_in(dir, &settings).await
}

/// Records that fill some segments; value `i` begins with its number.
pub async fn fill(c: &mut Connection, topic: &str, from: i64, to: i64) {
    for number in from..to {
        let mut value = number.to_string().into_bytes();
        value.resize(100_000, b' ');
        assert_eq!(put(c, topic, 0, &value).await, number);
    }
}

pub async fn number_at(c: &mut Connection, topic: &str, offset: i64) -> i64 {
    let mut found = None;
    until("the record has come from the bucket", async || {
        let data = read(c, topic, 0, offset).await;
        assert_eq!(data.error_code, NONE);
        let mut values = values(&data).into_iter();
        found = values.find(|(at, _)| *at == offset).map(|(_, value)| value);
        found.is_some()
    })
    .await;
    let text = String::from_utf8(found.unwrap()).unwrap();
    text.trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn records_move_to_the_bucket_and_are_read_from_there() {
    let (dir, bucket) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let server = start(&dir, &bucket).await;
    let mut c = Connection::open(&server).await;
    topic_with(&mut c, "t", 1, TIERED).await;
    fill(&mut c, "t", 0, 60).await;
    until("local segments go", async || {
        offset(&mut c, "t", 0, EARLIEST_LOCAL).await > 40
    })
    .await;
    assert_eq!(offset(&mut c, "t", 0, EARLIEST).await, 0);
    until("all is in the bucket", async || {
        offset(&mut c, "t", 0, LATEST_TIERED).await == 59
    })
    .await;
    for at in [0, 1, 17, 40, 59] {
        assert_eq!(number_at(&mut c, "t", at).await, at);
    }
    assert_eq!(offset(&mut c, "t", 0, 1).await, 0, "by time");
    let page = get(&server, "/metrics").await.1;
    let uploaded: f64 = series(&page, "tidemark_tier_uploaded_bytes_total")
        .parse()
        .unwrap();
    assert!(uploaded > 6e6, "{uploaded}");

    // Another process finds out for itself, and goes on where the last one was.
    server.shutdown().await;
    let server = start(&dir, &bucket).await;
    let mut c = Connection::open(&server).await;
    until("it is known where the bucket begins", async || {
        let unknown = code(ErrorCode::OffsetNotAvailable);
        let found = try_offset(&mut c, "t", 0, EARLIEST).await;
        assert!(found == Ok(0) || found == Err(unknown), "{found:?}");
        found == Ok(0)
    })
    .await;
    assert_eq!(number_at(&mut c, "t", 3).await, 3);
    fill(&mut c, "t", 60, 65).await;
    until("what came after is there, too", async || {
        offset(&mut c, "t", 0, LATEST_TIERED).await == 64
    })
    .await;

    assert_eq!(delete_records(&mut c, "t", 0, 10).await, (NONE, 10));
    assert_eq!(offset(&mut c, "t", 0, EARLIEST).await, 10);
    let below = read(&mut c, "t", 0, 9).await;
    assert_eq!(below.error_code, code(ErrorCode::OffsetOutOfRange));
    assert_eq!(number_at(&mut c, "t", 10).await, 10);
    assert_eq!(
        set(&mut c, TOPIC, "t", "retention.bytes", "3000000")
            .await
            .0,
        NONE
    );
    until("retention reaches into the bucket", async || {
        offset(&mut c, "t", 0, EARLIEST).await > 20
    })
    .await;
    let start = offset(&mut c, "t", 0, EARLIEST).await;
    assert_eq!(number_at(&mut c, "t", start).await, start);

    let (error, message) = set(&mut c, TOPIC, "t", "remote.storage.enable", "false").await;
    assert_eq!(error, code(ErrorCode::InvalidConfig));
    assert!(
        message.unwrap().contains("local.retention"),
        "it says what to do instead"
    );
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_bucket_is_anothers_nothing_is_deleted() {
    let (first, second, bucket) = (
        TempDir::new().unwrap(),
        TempDir::new().unwrap(),
        TempDir::new().unwrap(),
    );
    let owner = start(&first, &bucket).await;
    let mut c = Connection::open(&owner).await;
    topic_with(&mut c, "t", 1, TIERED).await;
    fill(&mut c, "t", 0, 1).await;
    until("the bucket has an owner", async || {
        offset(&mut c, "t", 0, LATEST_TIERED).await == 0
    })
    .await;
    let other = start(&second, &bucket).await;
    let mut c = Connection::open(&other).await;
    topic_with(&mut c, "t", 1, TIERED).await;
    fill(&mut c, "t", 0, 30).await;
    until("it was told", async || {
        let page = get(&other, "/metrics").await.1;
        page.contains("tidemark_tier_failures_total{outcome=\"superseded\"}")
    })
    .await;
    assert_eq!(offset(&mut c, "t", 0, EARLIEST_LOCAL).await, 0);
    assert_eq!(offset(&mut c, "t", 0, LATEST_TIERED).await, -1);
    assert_eq!(number_at(&mut c, "t", 0).await, 0);
    let storage = code(ErrorCode::KafkaStorageError);
    assert_eq!(delete_records(&mut c, "t", 0, 5).await.0, storage);
    owner.shutdown().await;
    other.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_had_from_the_bucket_is_an_error_and_not_silence() {
    let (dir, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (bucket, foreign) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let server = start(&other, &foreign).await;
    let mut c = Connection::open(&server).await;
    topic_with(&mut c, "t", 1, TIERED).await;
    fill(&mut c, "t", 0, 1).await;
    until("the other bucket has an owner", async || {
        offset(&mut c, "t", 0, LATEST_TIERED).await == 0
    })
    .await;
    server.shutdown().await;
    let server = start(&dir, &bucket).await;
    let mut c = Connection::open(&server).await;
    topic_with(&mut c, "t", 1, TIERED).await;
    fill(&mut c, "t", 0, 40).await;
    until("local segments go", async || {
        offset(&mut c, "t", 0, EARLIEST_LOCAL).await > 20
    })
    .await;
    server.shutdown().await;
    let server = start(&dir, &foreign).await;
    let mut c = Connection::open(&server).await;
    let storage = code(ErrorCode::KafkaStorageError);
    until("the reader is told", async || {
        let data = read(&mut c, "t", 0, 3).await;
        assert!(values(&data).is_empty());
        data.error_code == storage
    })
    .await;
    assert_eq!(
        number_at(&mut c, "t", 39).await,
        39,
        "what is local is served"
    );
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_bucket_a_topic_is_not_tiered() {
    let dir = TempDir::new().unwrap();
    let server = start_in(&dir, &[]).await;
    let mut c = Connection::open(&server).await;
    let response = c.ask(&create("t", 1, TIERED), 7).await;
    let refused = &response.topics[0];
    assert_eq!(refused.error_code, code(ErrorCode::InvalidConfig));
    let message = refused.error_message.as_deref().unwrap_or_default();
    assert!(message.contains("tier.url"), "{message}");
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_deleted_topic_has_in_the_bucket_goes_after_a_while() {
    let (dir, bucket) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let address = format!("file://{}", bucket.path().display());
    let there = Bucket::open(&address, &BucketOptions::default()).unwrap();
    let mut settings = settings(&bucket);
    settings.push(("tier.trash.ms".to_owned(), "600000".to_owned()));
    let settings: Vec<(&str, &str)> = settings
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let server = start_in(&dir, &settings).await;
    let mut c = Connection::open(&server).await;
    let gone = topic_with(&mut c, "gone", 1, TIERED).await;
    let kept = topic_with(&mut c, "kept", 1, TIERED).await;
    fill(&mut c, "gone", 0, 2).await;
    fill(&mut c, "kept", 0, 2).await;
    until("both are in the bucket", async || {
        offset(&mut c, "gone", 0, LATEST_TIERED).await == 1
            && offset(&mut c, "kept", 0, LATEST_TIERED).await == 1
    })
    .await;
    let of = async |id: Uuid| {
        let all = there.list("").await.unwrap();
        let id = format!("/{id}/0/");
        all.iter().filter(|object| object.key.contains(&id)).count()
    };
    assert_eq!(delete_topic(&mut c, "gone").await, NONE);
    until("the bucket is told", async || {
        there.get(&layout::deleted(gone)).await.is_ok()
    })
    .await;
    assert!(of(gone).await > 0, "it is trash first");
    server.shutdown().await;

    // The job is remembered; time has passed.
    let settings: Vec<(&str, &str)> = settings
        .into_iter()
        .map(|(name, value)| (name, if name == "tier.trash.ms" { "0" } else { value }))
        .collect();
    let server = start_in(&dir, &settings).await;
    until("all of it is gone", async || {
        of(gone).await == 0 && there.get(&layout::topic(gone)).await.is_err()
    })
    .await;
    assert!(there.get(&layout::deleted(gone)).await.is_ok());
    assert!(of(kept).await > 0);
    let mut c = Connection::open(&server).await;
    let again = topic_with(&mut c, "gone", 1, TIERED).await;
    assert_ne!(again, gone);
    server.shutdown().await;
}
