//! Moves of replicas that are held to a rate (KIP-73).

use crate::cluster::{ALL, Cluster, produce_with};
use crate::common::{get, series};
use crate::kit::{BROKER, NONE, TOPIC, set, until};
use std::time::Duration;
use tidemark_env::clock;
use tidemark_model::BrokerId;

/// Bytes a second; a second's worth may go at once.
const RATE: usize = 100_000;
const VALUE_BYTES: usize = 10_000;
const VALUES: usize = 40;
/// What the values take at least beyond the first second's worth and one fetch.
const LEAST: Duration = Duration::from_millis(2_500);

async fn bytes(cluster: &Cluster, id: BrokerId, side: &str) -> usize {
    let page = get(cluster.node(id), "/metrics").await.1;
    let name = format!("tidemark_throttled_replication_bytes_total{{side=\"{side}\"}}");
    series(&page, &name).parse().unwrap()
}

/// Moves a topic with a throttle on one side, and gives how long the new replica took to be in
/// sync, the broker that it came from, and its own.
async fn moved(cluster: &Cluster, side: &str) -> (Duration, BrokerId, BrokerId) {
    let leader = cluster.topic("t", &[]).await;
    let old = cluster.state("t").replicas;
    let new = (0..3).find(|id| !old.contains(id)).unwrap();
    let value = "x".repeat(VALUE_BYTES);
    let mut c = cluster.connect(leader).await;
    for _ in 0..VALUES {
        assert_eq!(produce_with(&mut c, "t", ALL, &value).await.error_code, 0);
    }
    let at = match side {
        "leader" => leader,
        _ => new,
    };
    let rate = format!("{side}.replication.throttled.rate");
    let name = format!("{side}.replication.throttled.replicas");
    let replica = format!("0:{at}");
    let mut of_broker = cluster.connect(at).await;
    let id = at.to_string();
    let answer = set(&mut of_broker, BROKER, &id, &rate, &RATE.to_string()).await;
    assert_eq!(answer.0, NONE, "{answer:?}");
    let answer = set(&mut of_broker, TOPIC, "t", &name, &replica).await;
    assert_eq!(answer.0, NONE, "{answer:?}");
    let began = clock::monotonic();
    cluster.reassign("t", &[leader, new]).await;
    until("the new replica is in sync", async || {
        cluster.state("t").isr.contains(&new)
    })
    .await;
    (began.elapsed(), leader, new)
}

/// Fetches are smaller than a second's worth.
const SMALL_FETCHES: [(&str, &str); 3] = [
    ("default.replication.factor", "2"),
    ("replica.lag.time.max.ms", "10000"),
    ("replica.fetch.max.bytes", "20000"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_throttled_leader_gives_a_replica_that_is_added_no_more_than_its_rate() {
    let cluster = Cluster::start(&SMALL_FETCHES).await;
    let (took, leader, new) = moved(&cluster, "leader").await;
    assert!(took >= LEAST, "{took:?}");
    assert!(bytes(&cluster, leader, "leader").await >= VALUES * VALUE_BYTES);
    assert_eq!(bytes(&cluster, new, "follower").await, 0);
    // What goes to those that are in sync is neither held back nor counted.
    let before = bytes(&cluster, leader, "leader").await;
    let mut c = cluster.connect(leader).await;
    let value = "x".repeat(VALUE_BYTES);
    for _ in 0..VALUES {
        assert_eq!(produce_with(&mut c, "t", ALL, &value).await.error_code, 0);
    }
    assert_eq!(bytes(&cluster, leader, "leader").await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttled_follower_takes_no_more_than_its_rate() {
    let cluster = Cluster::start(&SMALL_FETCHES).await;
    let (took, leader, new) = moved(&cluster, "follower").await;
    assert!(took >= LEAST, "{took:?}");
    assert!(bytes(&cluster, new, "follower").await >= VALUES * VALUE_BYTES);
    assert_eq!(bytes(&cluster, leader, "leader").await, 0);
}
