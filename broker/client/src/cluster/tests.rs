//! What is kept of what brokers tell.

use super::*;
use crate::metadata::PartitionInfo;
use tidemark_wire::Uuid;

#[test]
fn bootstrap_lists_get_their_ports() {
    assert_eq!(
        parse_bootstrap(" a:1 ,b,[::1]:2,[::1],fe80::1").unwrap(),
        ["a:1", "b:9092", "[::1]:2", "[::1]:9092", "[fe80::1]:9092"]
    );
    assert!(parse_bootstrap(" , ").is_err());
    assert!(parse_bootstrap("a:port").is_err());
    assert!(parse_bootstrap("a:99999").is_err());
}

/// A topic of one partition.
fn topic(id: u8, leader: i32, leader_epoch: i32) -> TopicInfo {
    let partition = PartitionInfo {
        partition: 0,
        leader: Some(leader),
        leader_epoch,
        replicas: vec![1, 2],
        isr: vec![leader],
        offline: Vec::new(),
    };
    TopicInfo {
        name: "t".to_owned(),
        id: Uuid([id; 16]),
        internal: false,
        partitions: BTreeMap::from([(0, partition)]),
    }
}

/// Who leads, once that was told.
fn led_after(cluster: &Cluster, told: TopicInfo) -> Option<i32> {
    let mut fresh = ClusterInfo::default();
    fresh.topics.insert("t".to_owned(), told);
    cluster.remember(&mut fresh);
    cluster.info().topics["t"].partitions[&0].leader
}

#[test]
fn what_was_committed_in_an_epoch_is_not_asked_of_an_earlier_leader() {
    let inner = Inner::new(Vec::new(), ClusterOptions::default());
    let cluster = Cluster(Arc::new(inner));
    let told = |topic| led_after(&cluster, topic);
    assert_eq!(told(topic(1, 1, 4)), Some(1));
    cluster.saw_leader_epoch("t", 0, 4);
    assert_eq!(cluster.info().topics["t"].partitions[&0].leader, Some(1));
    cluster.saw_leader_epoch("t", 0, 5);
    assert_eq!(cluster.info().topics["t"].partitions[&0].leader, None);
    // Who led before does not know yet.
    assert_eq!(told(topic(1, 1, 4)), None);
    assert_eq!(told(topic(1, 2, 5)), Some(2));
}

#[test]
fn that_brokers_know_only_earlier_leaders_is_told_in_the_end() {
    let mut inner = Inner::new(Vec::new(), ClusterOptions::default());
    inner.options.retry_for = Duration::ZERO;
    let cluster = Cluster(Arc::new(inner));
    let told = |topic| led_after(&cluster, topic);
    assert_eq!(told(topic(1, 1, 0)), Some(1));
    // Committed in an epoch that only the topic of before had.
    cluster.saw_leader_epoch("t", 0, 7);
    assert_eq!(cluster.only_earlier("t", 0), None, "nobody was asked");
    assert_eq!(told(topic(1, 1, 0)), None);
    assert_eq!(cluster.only_earlier("t", 0), Some(0));
    assert_eq!(cluster.only_earlier("t", 0), None, "it is told once");
    assert_eq!(told(topic(1, 1, 0)), Some(1), "who writes goes on");
    cluster.saw_leader_epoch("t", 0, 7);
    assert_eq!(told(topic(1, 1, 0)), None);
    assert_eq!(told(topic(1, 2, 7)), Some(2));
    assert_eq!(cluster.only_earlier("t", 0), None, "there was one, later");
}

#[test]
fn a_deposed_leader_that_was_not_told_does_not_lead_again() {
    let after = |known: TopicInfo, mut fresh: TopicInfo| {
        drop(fresh.keep_newer(&known));
        fresh.partitions[&0].leader
    };
    assert_eq!(after(topic(1, 2, 5), topic(1, 1, 4)), Some(2));
    assert_eq!(after(topic(1, 2, 5), topic(1, 1, 5)), Some(1));
    assert_eq!(after(topic(1, 2, 5), topic(1, 1, 6)), Some(1));
    // Another topic of this name, or one whose id is not told.
    assert_eq!(after(topic(1, 2, 5), topic(2, 1, 0)), Some(1));
    assert_eq!(after(topic(0, 2, 5), topic(0, 1, 0)), Some(1));
}
