//! A topic that moves to a bucket, here a directory.

#![allow(
    clippy::disallowed_methods,
    reason = "the bucket is a directory that things are done to"
)]

use crate::common::{Connection, get, series, start_in};
use crate::kit::*;
use std::time::Duration;
use tempfile::TempDir;
use tidemark_env::clock;
use tidemark_server::RunningServer;
use tidemark_tier::{Bucket, BucketOptions, layout};
use tidemark_wire::messages::fetch_response::PartitionData;
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

/// A directory as the bucket, which is away while a file stands in its place.
struct Fragile {
    _parent: TempDir,
    path: std::path::PathBuf,
    aside: std::path::PathBuf,
}

impl Fragile {
    fn new() -> Fragile {
        let parent = TempDir::new().unwrap();
        let path = parent.path().join("bucket");
        std::fs::create_dir(&path).unwrap();
        Fragile {
            aside: parent.path().join("aside"),
            path,
            _parent: parent,
        }
    }

    fn take_away(&self) {
        std::fs::rename(&self.path, &self.aside).unwrap();
        std::fs::write(&self.path, "no directory").unwrap();
    }

    fn bring_back(&self) {
        std::fs::remove_file(&self.path).unwrap();
        std::fs::rename(&self.aside, &self.path).unwrap();
    }
}

fn number_of(page: &str, name: &str) -> f64 {
    let of = |line: &str| line.starts_with(name) && !line.starts_with('#');
    let line = page.lines().find(|line| of(line));
    let value = line.and_then(|line| line.rsplit_once(' ')?.1.parse().ok());
    value.unwrap_or_else(|| panic!("{name} is not on the page"))
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_bucket_is_away_producers_are_slowed_then_refused_and_go_on_when_it_is_back() {
    let (dir, bucket) = (TempDir::new().unwrap(), Fragile::new());
    let url = format!("file://{}", bucket.path.display());
    let settings = [
        ("tier.url", url.as_str()),
        ("tier.upload.max.lag.ms", "100"),
        ("log.retention.check.interval.ms", "100"),
        ("tier.reserve.bytes", "8000000"),
    ];
    let server = start_in(&dir, &settings).await;
    let mut c = Connection::open(&server).await;
    topic_with(&mut c, "t", 1, TIERED).await;
    topic_with(&mut c, "plain", 1, &[]).await;
    fill(&mut c, "t", 0, 30).await;
    until("all is in the bucket", async || {
        offset(&mut c, "t", 0, LATEST_TIERED).await == 29
    })
    .await;

    bucket.take_away();
    let storage = code(ErrorCode::KafkaStorageError);
    let (mut taken, mut slowed_ms) = (30, 0);
    let refused = loop {
        assert!(taken < 400, "40 MB were taken on a reserve of 8 MB");
        let value = vec![b'x'; 100_000];
        let request = produce_request("t", -1, vec![(0, batch(&[&value]))]);
        let response = c.ask(&request, BY_NAME).await;
        slowed_ms = slowed_ms.max(response.throttle_time_ms);
        let answer = first_of(response);
        if answer.error_code != NONE {
            break answer;
        }
        taken += 1;
        // As the brake is looked at once a second, and this is faster than any reserve is planned
        // for.
        clock::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(refused.error_code, storage);
    let message = refused.error_message.unwrap_or_default();
    assert!(message.contains("tier.reserve.bytes"), "{message}");
    assert!(slowed_ms > 0, "the end of the reserve was felt before");
    put(&mut c, "plain", 0, b"other topics go on").await;
    let page = get(&server, "/metrics").await.1;
    assert!(number_of(&page, "tidemark_tier_held_back_bytes{") >= 8e6);
    assert_eq!(number_of(&page, "tidemark_tier_reserve_bytes{"), 8e6);
    assert!(number_of(&page, "tidemark_tier_slowed_requests_total") > 0.0);
    assert!(number_of(&page, "tidemark_tier_refused_batches_total") > 0.0);
    assert!(
        offset(&mut c, "t", 0, EARLIEST_LOCAL).await <= 30,
        "what the bucket lacks stays"
    );

    bucket.bring_back();
    // It is tried again after twenty seconds at the latest.
    let deadline = clock::monotonic() + Duration::from_secs(40);
    loop {
        let answer = produce(&mut c, "t", 0, batch(&[b"back"])).await;
        if answer.error_code == NONE {
            break;
        }
        assert_eq!(answer.error_code, storage);
        assert!(clock::monotonic() < deadline, "producers are still refused");
        clock::sleep(Duration::from_millis(50)).await;
    }
    until("nothing waits for the bucket", async || {
        let page = get(&server, "/metrics").await.1;
        number_of(&page, "tidemark_tier_held_back_bytes{") == 0.0
    })
    .await;
    let last = offset(&mut c, "t", 0, -1).await - 1;
    assert_eq!(last, taken, "what was refused was not appended");
    until("all is in the bucket", async || {
        offset(&mut c, "t", 0, LATEST_TIERED).await == last
    })
    .await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_uploads_left_behind_is_swept_and_nothing_else() {
    let (dir, bucket) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let server = start(&dir, &bucket).await;
    let mut c = Connection::open(&server).await;
    topic_with(&mut c, "t", 1, TIERED).await;
    fill(&mut c, "t", 0, 30).await;
    until("all is in the bucket", async || {
        offset(&mut c, "t", 0, LATEST_TIERED).await == 29
    })
    .await;
    server.shutdown().await;
    let segments = files_below(bucket.path(), ".segment");
    let partition = segments[0].parent().unwrap();
    let named = |epoch: &str, id: char| {
        let id = id.to_string().repeat(22);
        partition.join(format!("00000000000000000030-{epoch}-{id}.segment"))
    };
    // What an earlier leader left, what a later one may still name, what nobody knows, and what is
    // another partition's.
    let (orphan, later) = (named("0000000000", 'A'), named("2000000000", 'A'));
    let unknown = partition.join("notes.txt");
    let unknown_topic = partition.with_file_name("77");
    std::fs::create_dir(&unknown_topic).unwrap();
    let of_unknown = unknown_topic.join(orphan.file_name().unwrap());
    let chunk = partition.join("chunk").join("A".repeat(22));
    std::fs::create_dir(chunk.parent().unwrap()).unwrap();
    for path in [&orphan, &later, &unknown, &of_unknown, &chunk] {
        std::fs::write(path, "left behind").unwrap();
    }

    let server = start(&dir, &bucket).await;
    let mut c = Connection::open(&server).await;
    // Not before this leader has a manifest of its own.
    fill(&mut c, "t", 30, 31).await;
    until("the orphans are gone", async || {
        !orphan.exists() && !chunk.exists()
    })
    .await;
    for path in [&later, &unknown, &of_unknown] {
        assert!(path.exists(), "{}", path.display());
    }
    for path in &segments {
        assert!(path.exists(), "{}", path.display());
    }
    for at in [0, 17, 29, 30] {
        assert_eq!(number_at(&mut c, "t", at).await, at);
    }
    server.shutdown().await;
}

/// Files whose names end so, wherever they are below `dir`.
fn files_below(dir: &std::path::Path, end: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_below(&path, end));
        } else if path.to_string_lossy().ends_with(end) {
            found.push(path);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn one_fetch_reads_many_partitions_from_the_bucket() {
    const PARTITIONS: i32 = 4;
    let (dir, bucket) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let server = start(&dir, &bucket).await;
    let mut c = Connection::open(&server).await;
    topic_with(&mut c, "t", PARTITIONS, TIERED).await;
    topic_with(&mut c, "hot", 1, &[]).await;
    put(&mut c, "hot", 0, b"hot").await;
    let value = vec![b' '; 100_000];
    for index in 0..PARTITIONS {
        for _ in 0..25 {
            put(&mut c, "t", index, &value).await;
        }
    }
    for index in 0..PARTITIONS {
        until("local segments go", async || {
            offset(&mut c, "t", index, EARLIEST_LOCAL).await > 10
        })
        .await;
    }
    // Another process has nothing in its cache.
    server.shutdown().await;
    let server = start(&dir, &bucket).await;
    let mut c = Connection::open(&server).await;
    for index in 0..PARTITIONS {
        until("it is known where the bucket begins", async || {
            try_offset(&mut c, "t", index, EARLIEST).await == Ok(0)
        })
        .await;
    }
    let all = (0..PARTITIONS).map(|index| from(index, 1)).collect();
    let mut request = fetch_request("t", all);
    let hot = fetch_request("hot", vec![from(0, 0)]);
    request.topics.extend(hot.topics);
    let first = c.ask(&request, BY_NAME).await;
    let hot = partitions_of(&first).last().map(|data| values(data).len());
    assert_eq!(hot, Some(1), "what is local waits for nothing");
    until("every partition comes in one answer", async || {
        let response = c.ask(&request, BY_NAME).await;
        let data = partitions_of(&response);
        assert!(data.iter().all(|data| data.error_code == NONE));
        let is_there = |data: &&&PartitionData| values(data).iter().any(|(at, _)| *at == 1);
        let cold = &data[..data.len() - 1];
        cold.iter().filter(is_there).count() == cold.len()
    })
    .await;
    server.shutdown().await;
}

/// Milliseconds of processor time that this process has taken.
fn processor_ms() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    let ticks: u64 = [fields[11], fields[12]]
        .iter()
        .map(|n| n.parse::<u64>().unwrap())
        .sum();
    ticks * 10
}

/// `cargo test -p tidemark-server --test broker -- --ignored --nocapture idle`
#[ignore = "measures, for a minute and a half"]
#[tokio::test(flavor = "multi_thread")]
async fn idle_partitions_in_the_bucket_cost_next_to_nothing() {
    let (dir, bucket) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let url = format!("file://{}", bucket.path().display());
    let server = start_in(&dir, &[("tier.url", &url)]).await;
    let mut c = Connection::open(&server).await;
    let measure = async || {
        clock::sleep(Duration::from_secs(15)).await;
        let before = processor_ms();
        clock::sleep(Duration::from_secs(20)).await;
        (processor_ms() - before) as f64 / 20_000.0 * 100.0
    };
    for topic in 0..10 {
        topic_with(&mut c, &format!("plain-{topic}"), 1000, &[]).await;
    }
    let plain = measure().await;
    for topic in 0..10 {
        let name = format!("plain-{topic}");
        assert_eq!(
            set(&mut c, TOPIC, &name, "remote.storage.enable", "true")
                .await
                .0,
            NONE
        );
    }
    let tiered = measure().await;
    println!("10,000 idle partitions: {plain:.1} % of a core, tiered {tiered:.1} %");
    assert!(
        tiered - plain < 10.0,
        "{plain:.1} % and {tiered:.1} % of a core"
    );
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
