//! What one client may take of a broker, and how a broker stops.

use crate::common::{Connection, PATIENCE, broker, try_start};
use crate::kit::*;
use crate::slow_disk::{OpenAtEnd, SlowDisk};
use bytes::{BufMut, BytesMut};
use std::sync::Arc;
use std::time::Duration;
use tidemark_env::{clock, task};
use tidemark_wire::ErrorCode;
use tidemark_wire::messages::fetch_request::FetchPartition;
use tidemark_wire::messages::*;

const LONG_MS: i32 = 600_000;

fn api_versions() -> ApiVersionsRequest {
    ApiVersionsRequest {
        client_software_name: "test".into(),
        client_software_version: "1".into(),
        ..Default::default()
    }
}

/// Whether the broker serves this connection.
async fn is_served(c: &mut Connection) -> bool {
    c.try_ask(&api_versions(), 3).await.is_some()
}

#[tokio::test]
async fn a_frame_above_socket_request_max_bytes_ends_its_connection_only() {
    let broker = broker(&[("socket.request.max.bytes", "10000")]).await;
    let mut other = Connection::open(&broker.server).await;
    for length in [10_001, i32::MAX, -1, i32::MIN] {
        let mut c = Connection::open(&broker.server).await;
        assert!(is_served(&mut c).await);
        c.send_raw(&length.to_be_bytes()).await;
        assert_eq!(c.frame().await, None, "length {length}");
    }
    assert!(is_served(&mut other).await);
}

#[tokio::test]
async fn garbage_ends_its_connection_only() {
    let broker = broker(&[]).await;
    let mut other = Connection::open(&broker.server).await;
    let mut unknown_api = BytesMut::new();
    unknown_api.put_i32(8);
    unknown_api.put_i16(999);
    unknown_api.put_slice(&[0; 6]);
    let mut unknown_version = BytesMut::new();
    unknown_version.put_i32(8);
    unknown_version.put_i16(3); // Metadata
    unknown_version.put_i16(99);
    unknown_version.put_slice(&[0; 4]);
    let hostile: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\n\r\n",
        &[0, 0, 0, 1, 0],
        &[0, 0, 0, 0],
        &unknown_api,
        &unknown_version,
    ];
    for bytes in hostile {
        let mut c = Connection::open(&broker.server).await;
        c.send_raw(bytes).await;
        assert_eq!(c.frame().await, None, "{bytes:?}");
    }
    assert!(is_served(&mut other).await);
}

#[tokio::test]
async fn max_connections_holds_and_changes_while_the_broker_runs() {
    let broker = broker(&[("max.connections", "2")]).await;
    let mut first = Connection::open(&broker.server).await;
    let mut second = Connection::open(&broker.server).await;
    assert!(is_served(&mut first).await && is_served(&mut second).await);
    let mut third = Connection::open(&broker.server).await;
    assert_eq!(third.frame().await, None);
    assert_eq!(
        set(&mut first, BROKER, "0", "max.connections", "3").await.0,
        NONE
    );
    let mut third = Connection::open(&broker.server).await;
    assert!(is_served(&mut third).await);
    drop(second);
    until("the place of a closed connection is free", async || {
        let mut another = Connection::open(&broker.server).await;
        is_served(&mut another).await
    })
    .await;
}

#[tokio::test]
async fn max_connections_per_ip_holds() {
    let broker = broker(&[("max.connections.per.ip", "1")]).await;
    let mut first = Connection::open(&broker.server).await;
    assert!(is_served(&mut first).await);
    let mut second = Connection::open(&broker.server).await;
    assert_eq!(second.frame().await, None);
    assert!(is_served(&mut first).await);
}

#[tokio::test]
async fn idle_connections_are_closed_and_waiting_ones_are_not_idle() {
    let broker = broker(&[("connections.max.idle.ms", "200")]).await;
    let mut idle = Connection::open(&broker.server).await;
    let mut half = Connection::open(&broker.server).await;
    let mut parked = Connection::open(&broker.server).await;
    topic(&mut parked, "t", 1).await;
    let poll = FetchRequest {
        max_wait_ms: 800,
        ..fetch_request("t", vec![from(0, 0)])
    };
    let id = parked.send(&poll, BY_NAME).await;
    half.send_raw(&[0, 0, 1, 0, 0]).await;
    assert_eq!(idle.frame().await, None);
    assert_eq!(half.frame().await, None);
    assert!(parked.answer::<FetchRequest>(BY_NAME, id).await.is_some());
}

/// Red when `Connection::next_frame` takes memory before it has read `UNCOUNTED_BYTES`.
#[tokio::test]
async fn half_frames_hold_nobody_up() {
    let settings = [
        ("socket.request.max.bytes", "150000"),
        ("queued.max.request.bytes", "150000"),
    ];
    let broker = broker(&settings).await;
    let mut halves = Vec::new();
    for _ in 0..20 {
        let mut c = Connection::open(&broker.server).await;
        c.send_raw(&150_000_u32.to_be_bytes()).await;
        c.send_raw(&[0; 1000]).await;
        halves.push(c);
    }
    let mut c = Connection::open(&broker.server).await;
    topic(&mut c, "t", 1).await;
    let id = c
        .send(
            &produce_request("t", -1, vec![(0, batch(&[&[1; 140_000]]))]),
            BY_NAME,
        )
        .await;
    let answer = first_of(c.answer::<ProduceRequest>(BY_NAME, id).await.unwrap());
    assert_eq!(answer.error_code, NONE);
}

#[tokio::test]
async fn more_producers_than_the_request_memory_holds_all_get_through() {
    let settings = [
        ("socket.request.max.bytes", "150000"),
        ("queued.max.request.bytes", "150000"),
    ];
    let broker = broker(&settings).await;
    let mut admin = Connection::open(&broker.server).await;
    topic(&mut admin, "t", 1).await;
    let mut producers = Vec::new();
    for _ in 0..8 {
        let mut c = Connection::open(&broker.server).await;
        producers.push(task::spawn("producer", async move {
            let request = produce_request("t", -1, vec![(0, batch(&[&[1; 120_000]]))]);
            // Pipelined: each holds memory until it is answered.
            let mut ids = Vec::new();
            for _ in 0..4 {
                ids.push(c.send(&request, BY_NAME).await);
            }
            for id in ids {
                let answer = first_of(c.answer::<ProduceRequest>(BY_NAME, id).await.unwrap());
                assert_eq!(answer.error_code, NONE);
            }
        }));
    }
    for producer in producers {
        producer.await.unwrap();
    }
    assert_eq!(offset(&mut admin, "t", 0, -1).await, 32);
}

/// 24 MB in a topic, of which the memory for fetches holds 16 at once.
async fn big_topic(c: &mut Connection) {
    topic(c, "t", 1).await;
    for _ in 0..27 {
        put(c, "t", 0, &vec![1; 900_000]).await;
    }
}

fn greedy(offset: i64) -> FetchRequest {
    let wanted = FetchPartition {
        partition_max_bytes: i32::MAX,
        ..from(0, offset)
    };
    FetchRequest {
        max_bytes: i32::MAX,
        max_wait_ms: LONG_MS,
        ..fetch_request("t", vec![wanted])
    }
}

#[tokio::test]
async fn more_consumers_than_the_fetch_memory_holds_all_get_through() {
    let broker = broker(&[("fetch.memory.max.bytes", "16777216")]).await;
    let mut c = Connection::open(&broker.server).await;
    big_topic(&mut c).await;
    let mut consumers = Vec::new();
    for _ in 0..6 {
        let mut c = Connection::open(&broker.server).await;
        consumers.push(task::spawn("consumer", async move {
            let mut at = 0;
            while at < 27 {
                let response = c.ask(&greedy(at), BY_NAME).await;
                at = values(partitions_of(&response)[0]).last().unwrap().0 + 1;
            }
        }));
    }
    for consumer in consumers {
        consumer.await.unwrap();
    }
}

/// Red without the time limit in `Stream::send_file`.
#[tokio::test]
async fn a_consumer_that_takes_nothing_loses_its_connection() {
    let settings = [("max.connections", "3"), ("connections.max.idle.ms", "500")];
    let broker = broker(&settings).await;
    let mut c = Connection::open(&broker.server).await;
    big_topic(&mut c).await;
    drop(c);
    let mut stalled = Vec::new();
    until("three that are served take nothing", async || {
        let mut c = Connection::open(&broker.server).await;
        if is_served(&mut c).await {
            c.send(&greedy(0), BY_NAME).await;
            stalled.push(c);
        }
        stalled.len() >= 3
    })
    .await;
    until("one of them makes room", async || {
        let mut c = Connection::open(&broker.server).await;
        is_served(&mut c).await
    })
    .await;
}

/// What the system holds of answers that were given to it on `port`, in bytes.
#[cfg(target_os = "linux")]
fn unsent_bytes(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let of_line = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (unsent, _) = fields[4].split_once(':')?;
        let here = fields[1].ends_with(&format!(":{port:04X}"));
        here.then(|| usize::from_str_radix(unsent, 16).unwrap())
    };
    table.lines().skip(1).filter_map(of_line).sum()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn socket_send_buffer_bytes_bounds_what_is_held_for_a_consumer_that_takes_nothing() {
    /// So often in a row, 20 ms apart.
    const SAME: usize = 10;
    let mut held: Vec<usize> = Vec::new();
    for bound in ["16384", "-1"] {
        let broker = broker(&[("socket.send.buffer.bytes", bound)]).await;
        let mut c = Connection::open(&broker.server).await;
        big_topic(&mut c).await;
        c.send(&greedy(0), BY_NAME).await;
        let bootstrap = broker.server.bootstrap();
        let port: u16 = bootstrap.rsplit(':').next().unwrap().parse().unwrap();
        let mut looks: Vec<usize> = Vec::new();
        until("the system takes no more of the answer", async || {
            clock::sleep(Duration::from_millis(20)).await;
            looks.push(unsent_bytes(port));
            let last = &looks[looks.len().saturating_sub(SAME)..];
            last.len() == SAME && last[0] > 0 && last.iter().all(|bytes| *bytes == last[0])
        })
        .await;
        held.extend(looks.last());
    }
    assert!(held[0] * 4 < held[1], "{held:?}");
}

#[tokio::test]
async fn a_stopping_broker_answers_what_is_under_way() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, gate) = SlowDisk::new();
    let server = try_start(disk, dir.path(), &[]).await.unwrap();
    let _opener = OpenAtEnd(Arc::clone(&gate));
    let mut c = Connection::open(&server).await;
    topic(&mut c, "t", 1).await;
    gate.shut();
    let request = produce_request("t", -1, vec![(0, batch(&[b"x"]))]);
    let id = c.send(&request, BY_NAME).await;
    until("the record is appended", async || {
        end_of(&server, "t", 0).await == 1
    })
    .await;
    let mut idle = Connection::open(&server).await;
    assert!(is_served(&mut idle).await);
    let stopping = task::spawn("stop", server.shutdown());
    assert_eq!(idle.frame().await, None, "the broker is stopping");
    assert!(!stopping.is_finished());
    gate.open();
    let answer = first_of(c.answer::<ProduceRequest>(BY_NAME, id).await.unwrap());
    assert_eq!((answer.error_code, answer.base_offset), (NONE, 0));
    assert_eq!(c.frame().await, None);
    stopping.await.unwrap();
}

/// Well below the time that busy connections are given.
async fn stops_at_once(stopping: impl Future<Output = ()>) {
    let started = clock::monotonic();
    clock::timeout(PATIENCE, stopping)
        .await
        .expect("the broker stops");
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn parked_polls_and_joins_end_when_the_broker_stops() {
    let broker = broker(&[]).await;
    let mut poller = Connection::open(&broker.server).await;
    let mut idle = Connection::open(&broker.server).await;
    topic(&mut idle, "t", 1).await;
    let poll = FetchRequest {
        max_wait_ms: LONG_MS,
        ..fetch_request("t", vec![from(0, 0)])
    };
    poller.send(&poll, BY_NAME).await;
    let mut member = crate::groups::Member::new(&broker.server, "g").await;
    member.join().await;
    // The second member's join waits for the first one to join again.
    let mut second = crate::groups::Member::new(&broker.server, "g").await;
    let parked = second.send_join().await;
    until("the join is parked", async || {
        member.heartbeat().await == code(ErrorCode::RebalanceInProgress)
    })
    .await;
    stops_at_once(broker.server.shutdown()).await;
    assert_eq!(poller.frame().await, None);
    assert_eq!(idle.frame().await, None);
    let joined = second
        .c
        .answer::<JoinGroupRequest>(crate::groups::JOIN, parked)
        .await;
    if let Some(joined) = joined {
        assert_eq!(joined.error_code, code(ErrorCode::NotCoordinator));
    }
}

#[tokio::test]
async fn a_producer_that_never_pauses_does_not_keep_the_broker_from_stopping() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    topic(&mut c, "t", 1).await;
    let busy = task::spawn("busy", async move {
        let request = produce_request("t", -1, vec![(0, batch(&[b"x"]))]);
        let (mut sent, mut acknowledged) = (std::collections::VecDeque::new(), 0);
        loop {
            // So many that the broker never sees an empty socket.
            while sent.len() < 2000 {
                match c.try_send(&request, BY_NAME).await {
                    Some(id) => sent.push_back(id),
                    None => return acknowledged,
                }
            }
            let id = sent.pop_front().unwrap();
            match c.answer::<ProduceRequest>(BY_NAME, id).await {
                Some(response) if first_of(response.clone()).error_code == NONE => {
                    acknowledged += 1;
                }
                Some(response) => panic!("{response:?}"),
                None => return acknowledged,
            }
        }
    });
    let mut other = Connection::open(&broker.server).await;
    until("records flow", async || {
        offset(&mut other, "t", 0, -1).await > 100
    })
    .await;
    stops_at_once(broker.server.shutdown()).await;
    let acknowledged: i64 = busy.await.unwrap();
    let server = crate::common::start_in(&broker.dir, &[]).await;
    let mut c = Connection::open(&server).await;
    let kept = offset(&mut c, "t", 0, -1).await;
    assert!(
        kept >= acknowledged,
        "{kept} of {acknowledged} acknowledged records"
    );
}
