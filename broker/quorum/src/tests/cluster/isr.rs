//! AlterPartition and who stays eligible.

use super::*;

#[test]
fn only_the_leader_with_the_newest_epochs_changes_the_isr() {
    let mut cluster = Cluster::of(3);
    let id = cluster.topic("t", &[&[0, 1, 2]]);
    cluster.fence(&[0]);
    cluster.alter(id, &[1]).unwrap();
    let good = cluster.wish(first_of(id), &[1, 2]);
    assert_eq!((good.leader_epoch, good.partition_epoch), (1, 2));
    let with = |change: fn(&mut NewIsr)| {
        let mut wish = good.clone();
        change(&mut wish);
        wish
    };
    for (asker, wish, expected) in [
        (2, good.clone(), ErrorCode::InvalidRequest),
        (
            1,
            with(|w| w.leader_epoch = 0),
            ErrorCode::FencedLeaderEpoch,
        ),
        (1, with(|w| w.leader_epoch = 2), ErrorCode::NotController),
        (
            1,
            with(|w| w.partition_epoch = 1),
            ErrorCode::InvalidUpdateVersion,
        ),
        (1, with(|w| w.partition_epoch = 3), ErrorCode::NotController),
        (
            1,
            with(|w| w.at.partition = 7),
            ErrorCode::UnknownTopicOrPartition,
        ),
        (
            1,
            with(|w| w.at.topic_id = Uuid([1; 16])),
            ErrorCode::UnknownTopicId,
        ),
        (1, with(|w| w.isr.truncate(0)), ErrorCode::InvalidRequest),
        (1, with(|w| w.isr.push((9, 1))), ErrorCode::InvalidRequest),
        (1, with(|w| w.isr.push(w.isr[0])), ErrorCode::InvalidRequest),
        (
            1,
            with(|w| w.isr.push((0, 2))),
            ErrorCode::IneligibleReplica,
        ),
        (1, with(|w| w.isr[1].1 -= 1), ErrorCode::IneligibleReplica),
        (1, with(|w| w.isr[1].1 = -1), ErrorCode::IneligibleReplica),
    ] {
        let index = cluster.image.index();
        assert_eq!(code(cluster.ask(asker, &wish)), expected, "{wish:?}");
        assert_eq!(cluster.image.index(), index, "nothing changes");
    }
    let after = cluster.ask(1, &good).unwrap();
    assert_eq!(
        (after.isr.as_slice(), after.partition_epoch),
        (&[1, 2][..], 3)
    );
    assert_eq!(after, cluster.state(id, 0), "the answer is what is");
    // A broker of an old epoch is told so for all.
    let epoch = cluster.epoch(1) - 1;
    let decision = alter_partitions(&cluster.image, context(), 1, epoch, &[good]);
    assert_eq!(code(decision.result), ErrorCode::StaleBrokerEpoch);
}

#[test]
fn who_was_in_sync_stays_eligible_below_min_isr_only() {
    let mut cluster = Cluster::of(4);
    let id = cluster.topic("t", &[&[0, 1, 2, 3]]);
    cluster.alter(id, &[0, 1]).unwrap();
    assert_eq!(cluster.brief(id).2, [], "two are enough");
    cluster.alter(id, &[0]).unwrap();
    assert_eq!(cluster.brief(id).2, [1]);
    cluster.alter(id, &[0, 2]).unwrap();
    assert_eq!(
        cluster.brief(id).2,
        [],
        "acknowledged without 1 from here on"
    );
}

#[test]
fn min_isr_is_capped_by_the_replication_factor() {
    let mut cluster = Cluster::of(2);
    let id = cluster.topic("t", &[&[0]]);
    assert_eq!(cluster.state(id, 0).effective_min_isr(2), 1);
    cluster.fence(&[0]);
    assert_eq!(cluster.brief(id), (NO_LEADER, vec![], vec![0]));
    cluster.restart(0);
    assert_eq!(cluster.brief(id), (0, vec![0], vec![]));
}

#[test]
fn another_min_isr_clears_who_is_eligible_but_never_the_last_who_hold_everything() {
    let mut cluster = Cluster::of(3);
    let led = cluster.topic("led", &[&[0, 1, 2]]);
    let dead = cluster.topic("dead", &[&[1, 2]]);
    cluster.fence(&[1, 2]);
    assert_eq!(cluster.brief(led), (0, vec![0], vec![1, 2]));
    assert_eq!(cluster.brief(dead), (NO_LEADER, vec![], vec![1, 2]));
    cluster.set_min_isr("led", 1);
    cluster.set_min_isr("dead", 1);
    assert_eq!(cluster.brief(led), (0, vec![0], vec![]));
    assert_eq!(cluster.brief(dead).2, [1, 2]);
    cluster.restart(2);
    assert_eq!(cluster.brief(dead), (2, vec![2], vec![]), "now 1 is enough");
}

#[test]
fn an_isr_that_is_there_already_still_raises_the_partition_epoch() {
    let mut cluster = Cluster::of(3);
    let id = cluster.topic("t", &[&[0, 1, 2]]);
    let before = cluster.state(id, 0);
    let after = cluster.alter(id, &before.isr).unwrap();
    assert_eq!(after.isr, before.isr);
    assert_eq!(after.partition_epoch, before.partition_epoch + 1);
    assert_eq!(cluster.state(id, 0), after);
}
