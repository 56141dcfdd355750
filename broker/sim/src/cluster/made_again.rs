//! A topic is deleted and made again under its name, while a reader still holds a position in the
//! one before, and commits it.

#![allow(clippy::unwrap_used, reason = "this is a test")]

use std::time::Duration;

use tidemark_client::admin::NewTopic;
use tidemark_client::consumer::{Consumer, ConsumerConfig, GroupConfig, OffsetReset};
use tidemark_client::producer::{Producer, ProducerConfig, ProducerRecord};
use tidemark_client::{ClientError, Cluster, ClusterOptions, TopicPartition, Topics};
use tidemark_env::clock;
use tidemark_env::sim::World;
use tidemark_env::task;

use super::machine::Machine;
use super::{Record, TICK, runtime};
use crate::entropy;

const TOPIC: &str = "again";
const SEED: u64 = 1;
/// The topic is led in a later epoch than the one that is made again.
const LED: i32 = 2;
const POLL: Duration = Duration::from_millis(500);

#[test]
fn who_holds_a_position_in_a_topic_that_was_made_again_is_told() {
    let thread = task::thread("history", || {
        entropy::install(SEED);
        let runtime = runtime(SEED).unwrap();
        runtime.block_on(history());
        runtime.shutdown_background();
    });
    thread.unwrap().join().unwrap();
}

/// Brokers without faults, and one client.
async fn history() {
    let world = World::new(SEED);
    let record = Record::default();
    let machine = |index| Machine::new(&world, (index, 3), None, None, &record);
    let machines: Vec<Machine> = (0..3).map(machine).collect();
    machines.iter().for_each(Machine::start);
    let addresses: Vec<String> = machines.iter().map(Machine::address).collect();
    let client = world.add_host("client");
    let using = client.spawn("client", use_it(addresses.join(",")));
    while !using.is_finished() {
        clock::sleep(TICK).await;
        for machine in &machines {
            machine.tick().await;
        }
    }
    using.await.unwrap();
    assert_eq!(record.lock().broken, [""; 0]);
}

async fn use_it(bootstrap: String) {
    let cluster = connect(&bootstrap).await;
    create(&cluster).await;
    lead_elsewhere(&cluster).await;
    write(&cluster).await;
    let mut reader = member(&cluster);
    while reader.poll(POLL).await.unwrap().is_empty() {}

    let other = connect(&bootstrap).await;
    for (_, deleted) in other.delete_topics(&[TOPIC.to_owned()]).await.unwrap() {
        deleted.unwrap();
    }
    while other.fresh_topic(TOPIC, false).await.is_ok() {
        clock::sleep(TICK).await;
    }
    create(&other).await;
    // It has not heard of that.
    reader.commit().await.unwrap();
    reader.close().await.unwrap();

    let cluster = connect(&bootstrap).await;
    let mut reader = member(&cluster);
    let until = clock::monotonic() + Duration::from_secs(90);
    let told = loop {
        assert!(clock::monotonic() < until, "it waits without a word");
        match reader.poll(POLL).await {
            Ok(records) => assert!(records.is_empty()),
            Err(error) => break error,
        }
    };
    let ClientError::OnlyEarlierLeaders {
        offset,
        read_in,
        leader_epoch,
        ..
    } = told
    else {
        unreachable!("{told}");
    };
    assert_eq!((offset, leader_epoch), (1, 0));
    assert!(read_in >= LED, "{read_in}");
    // Who writes is not held up by it.
    write(&cluster).await;
}

/// A client, as soon as somebody answers.
async fn connect(bootstrap: &str) -> Cluster {
    loop {
        match Cluster::connect(bootstrap, ClusterOptions::default()).await {
            Ok(cluster) => return cluster,
            Err(_) => clock::sleep(TICK).await,
        }
    }
}

async fn create(cluster: &Cluster) {
    let topic = NewTopic {
        name: TOPIC.to_owned(),
        partitions: Some(1),
        replicas: Some(2),
        ..NewTopic::default()
    };
    while cluster.create_topic(&topic, false).await.is_err() {
        clock::sleep(TICK).await;
    }
    while cluster.fresh_topic(TOPIC, false).await.is_err() {
        clock::sleep(TICK).await;
    }
}

/// Moves the partition to other leaders.
async fn lead_elsewhere(cluster: &Cluster) {
    let at = TopicPartition::new(TOPIC, 0);
    loop {
        let info = cluster.metadata(Topics::Named(&[TOPIC])).await.unwrap();
        let partition = info.topics[TOPIC].partitions[&0].clone();
        let Some(leader) = partition.leader else {
            clock::sleep(TICK).await;
            continue;
        };
        if partition.leader_epoch >= LED && partition.replicas.len() == 2 {
            return;
        }
        let others = (0..3).filter(|broker| *broker != leader).collect();
        drop(cluster.reassign(&[(at.clone(), Some(others))]).await);
        clock::sleep(Duration::from_secs(2)).await;
    }
}

async fn write(cluster: &Cluster) {
    let producer = Producer::new(cluster.clone(), ProducerConfig::default()).unwrap();
    let record = ProducerRecord {
        topic: TOPIC.to_owned(),
        partition: Some(0),
        value: Some("value".into()),
        ..ProducerRecord::default()
    };
    let receipt = producer.send(record).await.unwrap();
    receipt.delivered().await.unwrap();
    producer.close().await.unwrap();
}

fn member(cluster: &Cluster) -> Consumer {
    let config = ConsumerConfig {
        reset: OffsetReset::Earliest,
        group: Some(GroupConfig::new("readers")),
        ..ConsumerConfig::default()
    };
    let mut consumer = Consumer::new(cluster.clone(), config);
    consumer.subscribe(vec![TOPIC.to_owned()]).unwrap();
    consumer
}
