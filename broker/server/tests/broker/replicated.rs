//! Replicas on three brokers: what is acknowledged, who is in sync, who leads.

use crate::cluster::{ALL, Cluster, produce_with};
use crate::common::get;
use crate::kit::{
    batch, code, delete_records, delete_topic, fetch_request, first_of, from, partitions_of,
    produce_request, read, try_offset, until, values,
};
use std::time::Duration;
use tidemark_env::clock;
use tidemark_env::disk::{Disk, FileDisk};
use tidemark_wire::ErrorCode;
use tidemark_wire::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use tidemark_wire::messages::{FetchRequest, OffsetForLeaderEpochRequest};

#[tokio::test(flavor = "multi_thread")]
async fn what_all_acknowledge_is_in_three_logs_byte_for_byte() {
    let cluster = Cluster::start(&[]).await;
    let leader = cluster.topic("t", &[]).await;
    let mut c = cluster.connect(leader).await;
    for n in 0..20 {
        let answer = produce_with(&mut c, "t", ALL, &format!("value {n}")).await;
        assert_eq!(answer.error_code, 0, "{answer:?}");
        assert_eq!(answer.base_offset, n);
    }
    for id in 0..3 {
        until("the followers know it is committed", async || {
            cluster.number(id, "high_watermark", "t").await == 20
        })
        .await;
    }
    assert!(!cluster.bytes(leader, "t").await.is_empty());
    for id in 0..3 {
        cluster.level(id, leader, "t").await;
    }
    let state = cluster.state("t");
    assert_eq!(state.isr.len(), 3, "{state:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_whose_disk_hangs_leaves_the_isr_and_comes_back() {
    let cluster = Cluster::start(&[]).await;
    let leader = cluster.topic("t", &[]).await;
    let follower = (leader + 1) % 3;
    let mut c = cluster.connect(leader).await;
    assert_eq!(
        produce_with(&mut c, "t", ALL, "of three").await.error_code,
        0
    );
    cluster.hang_disk(follower);
    // Nobody fences it: the leader sees that it does not have this.
    assert_eq!(produce_with(&mut c, "t", 1, "of one").await.error_code, 0);
    cluster.until_in_sync("t", 2).await;
    assert!(
        !cluster
            .image()
            .broker(follower)
            .expect("it is there")
            .fenced
    );
    assert_eq!(produce_with(&mut c, "t", ALL, "of two").await.error_code, 0);
    cluster.mend_disk(follower);
    cluster.until_in_sync("t", 3).await;
    cluster.level(follower, leader, "t").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_is_killed_leaves_the_isr_at_once_and_comes_back() {
    // Only that its port refuses can tell.
    let mut cluster = Cluster::start(&[("replica.lag.time.max.ms", "60000")]).await;
    let leader = cluster.topic("t", &[]).await;
    let follower = (leader + 1) % 3;
    cluster.kill(follower).await;
    cluster.until_in_sync("t", 2).await;
    let mut c = cluster.connect(leader).await;
    assert_eq!(produce_with(&mut c, "t", ALL, "of two").await.error_code, 0);
    cluster.start_node(follower as usize).await;
    cluster.until_in_sync("t", 3).await;
    until("it says so itself", async || {
        let node = cluster.nodes[follower as usize].as_ref().unwrap();
        get(node, "/readyz").await.0.contains(" 200 ")
    })
    .await;
    cluster.level(follower, leader, "t").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn below_min_isr_nothing_is_acknowledged_by_all() {
    let cluster = Cluster::start(&[]).await;
    let leader = cluster.topic("t", &[("min.insync.replicas", "3")]).await;
    let follower = (leader + 1) % 3;
    let mut c = cluster.connect(leader).await;
    assert_eq!(
        produce_with(&mut c, "t", ALL, "of three").await.error_code,
        0
    );
    cluster.hang_disk(follower);
    let mut request = produce_request("t", ALL, vec![(0, batch(&[b"late"]))]);
    request.timeout_ms = 3_000;
    let answer = first_of(c.ask(&request, 12).await);
    assert_eq!(
        answer.error_code,
        code(ErrorCode::NotEnoughReplicasAfterAppend)
    );
    let answer = produce_with(&mut c, "t", ALL, "refused").await;
    assert_eq!(answer.error_code, code(ErrorCode::NotEnoughReplicas));
    // The leader's own disk is enough for this one, and no consumer sees it.
    assert_eq!(produce_with(&mut c, "t", 1, "of one").await.error_code, 0);
    assert_eq!(cluster.number(leader, "high_watermark", "t").await, 1);
    let seen = read(&mut c, "t", 0, 0).await;
    assert_eq!((seen.high_watermark, values(&seen).len()), (1, 1));
    cluster.mend_disk(follower);
    until("all is committed", async || {
        cluster.number(leader, "high_watermark", "t").await == 3
    })
    .await;
}

/// A new leader's high watermark is behind what consumers have read, until its followers have
/// fetched: told as the end of the epoch, it would send them back.
#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_ends_where_the_log_does_whatever_is_committed() {
    let mut cluster = Cluster::start(&[]).await;
    let leader = cluster.topic("t", &[]).await;
    for id in (0..3).filter(|id| *id != leader) {
        cluster.kill(id).await;
    }
    let mut c = cluster.connect(leader).await;
    assert_eq!(produce_with(&mut c, "t", 1, "of one").await.error_code, 0);
    assert_eq!(cluster.number(leader, "high_watermark", "t").await, 0);
    let epoch = cluster.state("t").leader_epoch;
    let request = OffsetForLeaderEpochRequest {
        replica_id: -1,
        topics: vec![OffsetForLeaderTopic {
            topic: "t".into(),
            partitions: vec![OffsetForLeaderPartition {
                current_leader_epoch: epoch,
                leader_epoch: epoch,
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    let answer = c.ask(&request, 4).await;
    let end = &answer.topics[0].partitions[0];
    assert_eq!(
        (end.error_code, end.leader_epoch, end.end_offset),
        (0, epoch, 1)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_dies_takes_nothing_acknowledged_with_it() {
    let mut cluster = Cluster::start(&[]).await;
    let old = cluster.topic("t", &[]).await;
    let mut c = cluster.connect(old).await;
    for n in 0..10 {
        let answer = produce_with(&mut c, "t", ALL, &format!("kept {n}")).await;
        assert_eq!(answer.error_code, 0);
    }
    // Its followers are gone for a moment: what it appends now is only its own.
    for id in (0..3).filter(|id| *id != old) {
        cluster.kill(id).await;
    }
    assert_eq!(produce_with(&mut c, "t", 1, "lost").await.error_code, 0);
    assert_eq!(cluster.number(old, "durable_offset", "t").await, 11);
    cluster.kill(old).await;
    for id in (0..3).filter(|id| *id != old) {
        cluster.start_node(id as usize).await;
    }
    let new = cluster.until_led_by_another("t", old).await;
    let mut c = cluster.connect(new).await;
    until("the new leader serves", async || {
        produce_with(&mut c, "t", ALL, "after").await.error_code == 0
    })
    .await;
    let seen = values(&read(&mut c, "t", 0, 0).await);
    assert_eq!(seen.len(), 11, "{seen:?}");
    assert_eq!(seen[9].1, b"kept 9");
    assert_eq!(seen[10].1, b"after");
    // The old one comes back and cuts off what nobody acknowledged for all.
    cluster.start_node(old as usize).await;
    cluster.level(old, new, "t").await;
    cluster.until_in_sync("t", 3).await;
}

/// A new leader may not know yet that the youngest records are committed. It does not say then that
/// there are none (KIP-207).
#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_does_not_say_that_nothing_is_so_young() {
    // Nobody leaves the ISR for being slow.
    let mut cluster = Cluster::start(&[("replica.lag.time.max.ms", "60000")]).await;
    let old = cluster.topic("t", &[]).await;
    let replicas = cluster.state("t").replicas;
    let (next, last) = (replicas[1], replicas[2]);
    let mut c = cluster.connect(old).await;
    assert_eq!(produce_with(&mut c, "t", ALL, "of all").await.error_code, 0);
    until("the next leader knows it is committed", async || {
        cluster.number(next, "high_watermark", "t").await == 1
    })
    .await;
    let younger_ms = clock::now_ms() + 1;
    until("the clock is there", async || clock::now_ms() >= younger_ms).await;
    cluster.hang_disk(last);
    assert_eq!(produce_with(&mut c, "t", 1, "of two").await.error_code, 0);
    until("the next leader has it", async || {
        cluster.number(next, "durable_offset", "t").await == 2
    })
    .await;
    cluster.kill(old).await;
    assert_eq!(cluster.until_led_by_another("t", old).await, next);
    let mut c = cluster.connect(next).await;
    until("it serves", async || {
        try_offset(&mut c, "t", 0, 0).await == Ok(0)
    })
    .await;
    let unknown = Err(code(ErrorCode::OffsetNotAvailable));
    assert_eq!(try_offset(&mut c, "t", 0, younger_ms).await, unknown);
    cluster.mend_disk(last);
    until("it knows that the younger one is committed", async || {
        try_offset(&mut c, "t", 0, younger_ms).await == Ok(1)
    })
    .await;
    assert_eq!(
        try_offset(&mut c, "t", 0, clock::now_ms() + 60_000).await,
        Ok(-1)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_records_are_gone_everywhere_when_it_is_said() {
    let cluster = Cluster::start(&[]).await;
    let leader = cluster.topic("t", &[]).await;
    let mut c = cluster.connect(leader).await;
    for n in 0..5 {
        assert_eq!(
            produce_with(&mut c, "t", ALL, &n.to_string())
                .await
                .error_code,
            0
        );
    }
    assert_eq!(delete_records(&mut c, "t", 0, 3).await, (0, 3));
    for id in 0..3 {
        assert_eq!(
            cluster.number(id, "log_start_offset", "t").await,
            3,
            "broker {id}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_begins_with_the_batch_that_holds_the_log_start() {
    let mut cluster = Cluster::start(&[]).await;
    let leader = cluster.topic("t", &[]).await;
    let follower = (leader + 1) % 3;
    cluster.kill(follower).await;
    cluster.until_in_sync("t", 2).await;
    let mut c = cluster.connect(leader).await;
    for _ in 0..2 {
        let records = batch(&[b"a", b"b", b"c", b"d", b"e"]);
        let request = produce_request("t", ALL, vec![(0, records)]);
        let answer = first_of(c.ask(&request, 12).await);
        assert_eq!(answer.error_code, 0, "{answer:?}");
    }
    assert_eq!(delete_records(&mut c, "t", 0, 7).await, (0, 7));
    cluster.start_node(follower as usize).await;
    until("it has what is left", async || {
        cluster.number(follower, "high_watermark", "t").await == 10
    })
    .await;
    until("and no more", async || {
        cluster.number(follower, "log_start_offset", "t").await == 7
    })
    .await;
    let mut at_follower = cluster.connect(follower).await;
    let own = values(&read(&mut c, "t", 0, 7).await);
    until("it gives out the same", async || {
        values(&read(&mut at_follower, "t", 0, 7).await) == own
    })
    .await;
    cluster.until_in_sync("t", 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_another_broker_is_told_who_leads() {
    let cluster = Cluster::start(&[]).await;
    let leader = cluster.topic("t", &[]).await;
    let mut c = cluster.connect((leader + 1) % 3).await;
    let request = produce_request("t", ALL, vec![(0, batch(&[b"there"]))]);
    let response = c.ask(&request, 12).await;
    let address = cluster.node(leader).bootstrap();
    let told = &response.node_endpoints[0];
    assert_eq!(format!("{}:{}", told.host, told.port), address);
    let answer = first_of(response.clone());
    assert_eq!(answer.error_code, code(ErrorCode::NotLeaderOrFollower));
    assert_eq!(answer.current_leader.leader_id, leader);
    assert_eq!(
        answer.current_leader.leader_epoch,
        cluster.state("t").leader_epoch
    );
    // A reader that knows nothing of racks has to ask the leader.
    let request = fetch_request("t", vec![from(0, 0)]);
    let data = c
        .ask(&request, 10)
        .await
        .responses
        .remove(0)
        .partitions
        .remove(0);
    assert_eq!(data.error_code, code(ErrorCode::NotLeaderOrFollower));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_is_sent_to_the_replica_of_its_rack() {
    let selector = "org.apache.kafka.common.replica.RackAwareReplicaSelector";
    let cluster = Cluster::start(&[("replica.selector.class", selector)]).await;
    let leader = cluster.topic("t", &[]).await;
    let follower = (leader + 2) % 3;
    let mut c = cluster.connect(leader).await;
    assert_eq!(produce_with(&mut c, "t", ALL, "near").await.error_code, 0);
    let mut request = fetch_request("t", vec![from(0, 0)]);
    request.rack_id = format!("rack-{follower}");
    let data = c
        .ask(&request, 12)
        .await
        .responses
        .remove(0)
        .partitions
        .remove(0);
    assert_eq!(
        (data.error_code, data.preferred_read_replica),
        (0, follower)
    );
    assert!(values(&data).is_empty());
    let mut near = cluster.connect(follower).await;
    until("the follower gives it out", async || {
        let data = near
            .ask(&request, 12)
            .await
            .responses
            .remove(0)
            .partitions
            .remove(0);
        data.preferred_read_replica == -1 && values(&data).len() == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_moved_away_leaves_no_files() {
    let cluster = Cluster::start(&[("default.replication.factor", "2")]).await;
    let leader = cluster.topic("t", &[]).await;
    let before = cluster.state("t").replicas;
    let new = (0..3).find(|id| !before.contains(id)).unwrap();
    let old = before.iter().copied().find(|id| *id != leader).unwrap();
    let mut c = cluster.connect(leader).await;
    assert_eq!(produce_with(&mut c, "t", ALL, "moves").await.error_code, 0);
    let dir = cluster.dirs[old as usize].path().join("t-0");
    assert!(FileDisk::new().exists(&dir).unwrap());
    cluster.reassign("t", &[leader, new]).await;
    until("the reassignment is done", async || {
        cluster.state("t").replicas == vec![leader, new]
    })
    .await;
    until("the files are gone", async || {
        !FileDisk::new().exists(&dir).unwrap()
    })
    .await;
    let mut c = cluster.connect(leader).await;
    until("the leader goes on", async || {
        produce_with(&mut c, "t", ALL, "moved").await.error_code == 0
    })
    .await;
    cluster.level(new, leader, "t").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_waits_at_a_follower_is_woken() {
    let cluster = Cluster::start(&[]).await;
    let leader = cluster.topic("t", &[]).await;
    let follower = (leader + 1) % 3;
    let mut at_follower = cluster.connect(follower).await;
    until("the follower serves", async || {
        read(&mut at_follower, "t", 0, 0).await.error_code == 0
    })
    .await;
    let mut request = fetch_request("t", vec![from(0, 0)]);
    request.max_wait_ms = 15_000;
    let id = at_follower.send(&request, 12).await;
    let mut c = cluster.connect(leader).await;
    let began = clock::monotonic();
    assert_eq!(produce_with(&mut c, "t", ALL, "news").await.error_code, 0);
    let answer = at_follower.answer::<FetchRequest>(12, id).await.unwrap();
    assert_eq!(values(partitions_of(&answer)[0]).len(), 1);
    assert!(began.elapsed() < Duration::from_secs(10), "not by its time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_topic_does_not_wait_for_the_end_of_a_parked_fetch() {
    let settings = [
        ("replica.fetch.wait.max.ms", "20000"),
        ("replica.lag.time.max.ms", "60000"),
    ];
    let cluster = Cluster::start(&settings).await;
    let first = cluster.topic("t0", &[]).await;
    let mut c = cluster.connect(first).await;
    assert_eq!(produce_with(&mut c, "t0", ALL, "parks").await.error_code, 0);
    // Each broker leads one of these: two of them have followers that wait already.
    for n in 1..=6 {
        let name = format!("t{n}");
        let leader = cluster.topic(&name, &[]).await;
        let mut c = cluster.connect(leader).await;
        let answer = produce_with(&mut c, &name, ALL, "at once").await;
        assert_eq!(answer.error_code, 0, "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_nobody_followed_for_a_while_is_followed_again() {
    // Nothing but the followers' own zeal ends the wait below.
    let settings = [("replica.lag.time.max.ms", "60000")];
    let cluster = Cluster::start(&settings).await;
    for round in 0..3 {
        // Each broker leads one of these, and none is left to follow it in when they are gone.
        let names: Vec<String> = (0..3).map(|n| format!("t{round}-{n}")).collect();
        for name in &names {
            let leader = cluster.topic(name, &[]).await;
            let mut c = cluster.connect(leader).await;
            let mut request = produce_request(name, ALL, vec![(0, batch(&[b"at once"]))]);
            request.timeout_ms = 10_000;
            let answer = first_of(c.ask(&request, 12).await);
            assert_eq!(answer.error_code, 0, "{name}: {answer:?}");
        }
        let mut c = cluster.connect(0).await;
        for name in &names {
            assert_eq!(delete_topic(&mut c, name).await, 0);
        }
        until("nobody holds them", async || {
            let mut held = 0;
            for id in 0..3 {
                let page = get(cluster.node(id), "/metrics/partitions").await.1;
                held += page.matches("tidemark_partition_end_offset{").count();
            }
            held == 0
        })
        .await;
    }
}
