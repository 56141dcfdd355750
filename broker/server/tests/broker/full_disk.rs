//! A disk that is full when a broker starts, and one that stands still.

use crate::common::{Connection, PATIENCE, get, get_from, own_address, try_start};
use crate::kit::*;
use crate::slow_disk::{OpenAtEnd, SlowDisk};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use tidemark_env::clock;
use tidemark_env::disk::{Disk, Fault, FaultError, FaultOp, MemDisk};
use tidemark_env::net;
use tidemark_server::{RunningServer, StartError};
use tidemark_wire::ErrorCode;

const DATA: &str = "/data";

async fn start(disk: &MemDisk) -> Result<RunningServer, StartError> {
    start_at(disk, "127.0.0.1:0").await
}

/// The same, and what it says of itself is heard there.
async fn start_at(disk: &MemDisk, http: &str) -> Result<RunningServer, StartError> {
    let small = [
        ("wal.file.bytes", "1048576"),
        ("wal.max.bytes", "67108864"),
        ("http.listen", http),
    ];
    try_start(Arc::new(disk.clone()), Path::new(DATA), &small).await
}

/// Nothing is free any more, nor will there be when this much of what is in use goes.
fn fill(disk: &MemDisk, but: u64) {
    let space = disk.space(Path::new(DATA)).unwrap();
    disk.set_capacity(Some(space.total_bytes - space.free_bytes - but));
}

/// Nothing whose path has `part` in it is written any more.
fn fill_below(disk: &MemDisk, part: &str) {
    disk.inject(Fault {
        op: FaultOp::Write,
        path_contains: part.to_owned(),
        after: 0,
        times: u32::MAX,
        error: FaultError::Enospc,
    });
}

/// What the write-ahead log's files take.
fn ring_bytes(disk: &MemDisk) -> u64 {
    let rings = Path::new(DATA).join("wal");
    let rings = disk
        .list(&rings)
        .unwrap()
        .into_iter()
        .map(|ring| rings.join(ring.name));
    let files = rings.flat_map(|ring| disk.list(&ring).unwrap());
    files.map(|file| file.len).sum()
}

/// What `/state` says of the disk.
async fn disk_full(server: &RunningServer) -> serde_json::Value {
    let state: serde_json::Value = serde_json::from_str(&get(server, "/state").await.1).unwrap();
    state["diskFull"].clone()
}

/// What is in the topic.
async fn texts(c: &mut Connection) -> Vec<String> {
    let all = values(&read(c, "t", 0, 0).await);
    let texts = all.into_iter().map(|(_, value)| String::from_utf8(value));
    texts.collect::<Result<_, _>>().unwrap()
}

/// A broker with these values in a topic, killed: they are in its write-ahead log alone.
async fn killed_with(disk: &MemDisk, values: &[&[u8]]) {
    let server = start(disk).await.unwrap();
    let mut c = Connection::open(&server).await;
    topic(&mut c, "t", 1).await;
    for value in values {
        put(&mut c, "t", 0, value).await;
    }
    server.kill().await;
}

#[tokio::test]
async fn a_broker_starts_on_a_full_disk_and_takes_records_once_there_is_room() {
    let disk = MemDisk::new();
    killed_with(&disk, &[b"one", b"two"]).await;
    // The ring of before goes at the start.
    fill(&disk, ring_bytes(&disk));
    // Not only the first time.
    for _ in 0..3 {
        let starting = clock::timeout(PATIENCE, start(&disk));
        let server = starting.await.expect("it starts").unwrap();
        let mut c = Connection::open(&server).await;
        assert_eq!(texts(&mut c).await, ["one", "two"]);
        let refused = produce(&mut c, "t", 0, batch(&[b"no room"])).await;
        assert_eq!(refused.error_code, code(ErrorCode::KafkaStorageError));
        let page = get(&server, "/metrics").await.1;
        assert!(
            page.contains("tidemark_disk_read_only{directory=\"/data\"} 1"),
            "{page}"
        );
        let full = "the disk is full: /data takes no records";
        assert_eq!(disk_full(&server).await, full);
        // Nobody else could lead: what is there is read from it.
        assert!(get(&server, "/readyz").await.0.contains("200"));
        server.kill().await;
    }
    let server = start(&disk).await.unwrap();
    disk.set_capacity(None);
    let mut c = Connection::open(&server).await;
    until("there is room", async || {
        produce(&mut c, "t", 0, batch(&[b"three"])).await.error_code == NONE
    })
    .await;
    assert_eq!(disk_full(&server).await, serde_json::Value::Null);
    assert_eq!(texts(&mut c).await, ["one", "two", "three"]);
    server.shutdown().await;
}

#[tokio::test]
async fn a_start_that_finds_no_room_waits_for_it() {
    let disk = MemDisk::new();
    killed_with(&disk, &[b"one"]).await;
    // Not even when what was set aside for a start is let go.
    fill(&disk, 4 << 20);
    let http = own_address();
    let mut starting = pin!(start_at(&disk, &http));
    let says = async {
        until("it says so", async || {
            if net::connect(&http, PATIENCE).await.is_err() {
                return false;
            }
            let state = get_from(&http, "/state").await.1;
            let state: serde_json::Value = serde_json::from_str(&state).unwrap();
            state["diskFull"] == "the start waits for room: /data/tidemark-ballast: nothing is free"
        })
        .await;
        get_from(&http, "/readyz").await
    };
    let (status, why) = tokio::select! {
        _ = &mut starting => panic!("it starts without room"),
        says = says => says,
    };
    assert!(
        status.contains("503") && why.contains("waits for room"),
        "{status}: {why}"
    );
    disk.set_capacity(None);
    let server = clock::timeout(PATIENCE, starting).await;
    let server = server.expect("it starts").unwrap();
    assert_eq!(disk_full(&server).await, serde_json::Value::Null);
    let mut c = Connection::open(&server).await;
    assert_eq!(texts(&mut c).await, ["one"]);
    server.shutdown().await;
}

/// A topic whose partitions find no room costs nobody the broker, and is there once there is some:
/// without a start, and after one.
#[tokio::test]
async fn a_partition_that_finds_no_room_is_opened_once_there_is_some() {
    for killed in [false, true] {
        let disk = MemDisk::new();
        let server = start(&disk).await.unwrap();
        let mut c = Connection::open(&server).await;
        topic(&mut c, "t", 1).await;
        put(&mut c, "t", 0, b"one").await;
        fill_below(&disk, "/late-");
        topic(&mut c, "late", 3).await;
        for index in 0..3 {
            until("it says why it takes nothing", async || {
                let refused = produce(&mut c, "late", index, batch(&[b"no room"])).await;
                refused.error_code == code(ErrorCode::KafkaStorageError)
            })
            .await;
        }
        assert_eq!(texts(&mut c).await, ["one"]);
        let (server, mut c) = if killed {
            server.kill().await;
            disk.clear_faults();
            let server = start(&disk).await.unwrap();
            let c = Connection::open(&server).await;
            (server, c)
        } else {
            disk.clear_faults();
            (server, c)
        };
        for index in 0..3 {
            until("there is room", async || {
                let produced = produce(&mut c, "late", index, batch(&[b"two"])).await;
                produced.error_code == NONE
            })
            .await;
        }
        until("the disk is full no more", async || {
            disk_full(&server).await == serde_json::Value::Null
        })
        .await;
        put(&mut c, "t", 0, b"three").await;
        // What was tried before the room came is in nobody's way later.
        server.kill().await;
        let server = start(&disk).await.unwrap();
        let mut c = Connection::open(&server).await;
        assert_eq!(texts(&mut c).await, ["one", "three"]);
        for index in 0..3 {
            assert_eq!(offset(&mut c, "late", index, -1).await, 1);
        }
        server.shutdown().await;
    }
}

#[tokio::test]
async fn what_finds_one_directory_full_is_opened_in_another() {
    let disk = MemDisk::new();
    let dirs = [("log.dirs", "/data,/other")];
    let server = try_start(Arc::new(disk.clone()), Path::new(DATA), &dirs).await;
    let server = server.unwrap();
    let mut c = Connection::open(&server).await;
    fill_below(&disk, "/other/");
    topic(&mut c, "t", 6).await;
    for index in 0..6 {
        until("it is in the directory with room", async || {
            let produced = produce(&mut c, "t", index, batch(&[b"kept"])).await;
            produced.error_code == NONE
        })
        .await;
        let path = Path::new(DATA).join(format!("t-{index}"));
        assert!(disk.exists(&path).unwrap(), "{index}");
    }
    server.kill().await;
}

#[tokio::test]
async fn a_broker_whose_disk_stands_still_ends_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, gate) = SlowDisk::new();
    let lag = [("replica.lag.time.max.ms", "600")];
    let server = try_start(disk, dir.path(), &lag).await.unwrap();
    let opener = OpenAtEnd(Arc::clone(&gate));
    let mut c = Connection::open(&server).await;
    topic(&mut c, "t", 1).await;
    put(&mut c, "t", 0, b"kept").await;
    gate.shut();
    let request = produce_request("t", -1, vec![(0, batch(&[b"stuck"]))]);
    c.send(&request, BY_NAME).await;
    let fatal = clock::timeout(PATIENCE, server.failed()).await;
    let fatal = fatal.expect("it ends").to_string();
    assert!(fatal.contains("has not finished a write"), "{fatal}");
    drop(opener);
    server.kill().await;
    // It is not marked, and what was acknowledged is there.
    let server = crate::common::start_in(&dir, &[]).await;
    assert_eq!(server.marked_failed(), None);
    let mut c = Connection::open(&server).await;
    assert_eq!(texts(&mut c).await[0], "kept");
    server.shutdown().await;
}
