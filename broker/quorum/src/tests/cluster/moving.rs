//! Reassignments, elections on demand, leaders going home.

use super::*;

#[test]
fn replicas_move_once_the_new_ones_are_in_sync() {
    let mut cluster = Cluster::of(5);
    let id = cluster.topic("t", &[&[0, 1]]);
    cluster.reassign("t", 0, Some(&[2, 3])).unwrap();
    let state = cluster.state(id, 0);
    assert_eq!(state.replicas, [2, 3, 0, 1]);
    assert_eq!(
        (state.adding.as_slice(), state.removing.as_slice()),
        (&[2, 3][..], &[0, 1][..])
    );
    assert_eq!((state.leader, state.isr.as_slice()), (0, &[0, 1][..]));
    let listed: Vec<OngoingReassignment> = list_reassignments(&cluster.image).collect();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].adding, [2, 3]);
    cluster.alter(id, &[0, 1, 2]).unwrap();
    assert!(cluster.state(id, 0).is_reassigning(), "3 is missing");
    // The leader is among those removed: it is told that it leads no more.
    let wish = cluster.wish(first_of(id), &[0, 1, 2, 3]);
    assert_eq!(code(cluster.ask(0, &wish)), ErrorCode::NewLeaderElected);
    let state = cluster.state(id, 0);
    assert_eq!(state.replicas, [2, 3]);
    assert_eq!((state.leader, state.leader_epoch), (2, 1));
    assert!(!state.is_reassigning() && state.isr == [2, 3]);
    assert_eq!(cluster.image.replica_count(0), 0);
    assert_eq!(list_reassignments(&cluster.image).count(), 0);
}

#[test]
fn a_reassignment_completes_only_with_enough_in_sync() {
    let mut cluster = Cluster::of(4);
    let id = cluster.topic("t", &[&[0, 1, 2]]);
    cluster.alter(id, &[0, 2]).unwrap();
    // 2 would go, and only 0 and 3 be left: enough. With 0 alone it is not.
    cluster.reassign("t", 0, Some(&[0, 1])).unwrap();
    assert!(
        cluster.state(id, 0).is_reassigning(),
        "only 0 would be in sync"
    );
    // Without 2 it is another epoch, though 0 leads on: what it knows of 2 counts no more.
    let told = code(cluster.alter(id, &[0, 1, 2]));
    assert_eq!(told, ErrorCode::FencedLeaderEpoch);
    let state = cluster.state(id, 0);
    assert_eq!((state.leader, state.leader_epoch), (0, 1));
    assert_eq!(state.replicas, [0, 1]);
    // A lower min ISR lets one complete that waited.
    cluster.alter(id, &[0]).unwrap();
    cluster.reassign("t", 0, Some(&[0, 1])).unwrap();
    cluster.topic("other", &[&[0]]);
    let three = cluster.topic("three", &[&[0, 1, 2]]);
    cluster.alter(three, &[0, 2]).unwrap();
    cluster.reassign("three", 0, Some(&[0, 1])).unwrap();
    assert!(cluster.state(three, 0).is_reassigning());
    assert!(complete_reassignments(&cluster.image, context()).is_empty());
    cluster.set_min_isr("three", 1);
    let records = complete_reassignments(&cluster.image, context());
    cluster.fold(&records);
    assert_eq!(cluster.state(three, 0).replicas, [0, 1]);
}

#[test]
fn a_cancelled_reassignment_leaves_nothing_behind() {
    let mut cluster = Cluster::of(4);
    let id = cluster.topic("t", &[&[0, 1]]);
    let before = cluster.state(id, 0);
    assert_eq!(
        code(cluster.reassign("t", 0, None)),
        ErrorCode::NoReassignmentInProgress
    );
    cluster.reassign("t", 0, Some(&[0, 2])).unwrap();
    cluster.alter(id, &[0, 1]).unwrap();
    cluster.reassign("t", 0, None).unwrap();
    let after = cluster.state(id, 0);
    assert_eq!((after.replicas, after.isr), (before.replicas, before.isr));
    assert!(after.adding.is_empty() && after.removing.is_empty());
    assert_eq!(cluster.image.replica_count(2), 0);
}

#[test]
fn a_reassignment_is_not_cancelled_under_min_isr() {
    let mut cluster = Cluster::of(4);
    let id = cluster.topic("t", &[&[0, 1]]);
    cluster.reassign("t", 0, Some(&[2, 3])).unwrap();
    cluster.alter(id, &[0, 2]).unwrap();
    // Records may have been acknowledged with 0 and 2 only.
    assert_eq!(
        code(cluster.reassign("t", 0, None)),
        ErrorCode::InvalidReplicaAssignment
    );
    assert_eq!(
        code(cluster.reassign("t", 0, Some(&[1, 3]))),
        ErrorCode::InvalidReplicaAssignment,
        "another goal drops 2 as well"
    );
    cluster.alter(id, &[0, 1, 2]).unwrap();
    let mut cancelled = cluster.clone();
    cancelled.reassign("t", 0, None).unwrap();
    assert_eq!(cancelled.state(id, 0).replicas.len(), 2);
    cluster.reassign("t", 0, Some(&[1, 3])).unwrap();
    let state = cluster.state(id, 0);
    assert_eq!(
        (state.replicas, state.adding, state.removing),
        (vec![1, 3, 0], vec![3], vec![0])
    );
    // Cancelled, it is where it was before both.
    cluster.reassign("t", 0, None).unwrap();
    let mut replicas = cluster.state(id, 0).replicas;
    replicas.sort_unstable();
    assert_eq!(replicas, [0, 1]);
}

#[test]
fn replication_factors_change_by_reassignment() {
    let mut cluster = Cluster::of(3);
    let id = cluster.topic("t", &[&[0]]);
    cluster.reassign("t", 0, Some(&[0, 1, 2])).unwrap();
    let state = cluster.state(id, 0);
    assert_eq!(
        state.effective_min_isr(2),
        1,
        "those being added do not count yet"
    );
    cluster.alter(id, &[0, 1]).unwrap();
    cluster.alter(id, &[0, 1, 2]).unwrap();
    let state = cluster.state(id, 0);
    assert_eq!(
        (state.effective_min_isr(2), state.is_reassigning()),
        (2, false)
    );
    cluster.reassign("t", 0, Some(&[1])).unwrap();
    assert_eq!(cluster.brief(id), (1, vec![1], vec![]));
    assert_eq!(cluster.state(id, 0).replicas, [1]);
}

#[test]
fn bad_goals_are_refused() {
    let mut cluster = Cluster::of(3);
    cluster.topic("t", &[&[0, 1]]);
    for (goal, expected) in [
        (&[][..], ErrorCode::InvalidReplicaAssignment),
        (&[0, 0], ErrorCode::InvalidReplicaAssignment),
        (&[0, 7], ErrorCode::InvalidReplicaAssignment),
        (&[-1], ErrorCode::InvalidReplicaAssignment),
    ] {
        assert_eq!(code(cluster.reassign("t", 0, Some(goal))), expected);
    }
    assert_eq!(
        code(cluster.reassign("u", 0, Some(&[0]))),
        ErrorCode::UnknownTopicOrPartition
    );
    assert_eq!(
        code(cluster.reassign("t", 1, Some(&[0]))),
        ErrorCode::UnknownTopicOrPartition
    );
    let cordoned = cordon_broker(&cluster.image, 2, true);
    cluster.fold(&cordoned.records);
    assert_eq!(
        code(cluster.reassign("t", 0, Some(&[0, 2]))),
        ErrorCode::InvalidReplicaAssignment
    );
}

#[test]
fn the_preferred_replica_is_elected_if_it_is_in_sync() {
    let mut cluster = Cluster::of(3);
    let id = cluster.topic("t", &[&[0, 1, 2]]);
    let elect = ElectionType::Preferred;
    assert_eq!(
        code(cluster.elect(elect, "t")),
        ErrorCode::ElectionNotNeeded
    );
    cluster.restart(0);
    assert_eq!(
        code(cluster.elect(elect, "t")),
        ErrorCode::PreferredLeaderNotAvailable
    );
    cluster.alter(id, &[1, 2, 0]).unwrap();
    let all = elect_leaders(&cluster.image, context(), elect, None);
    assert_eq!(all.result, [(("t".to_owned(), 0), Ok(()))]);
    cluster.elect(elect, "t").unwrap();
    assert_eq!(cluster.state(id, 0).leader, 0);
    assert_eq!(cluster.state(id, 0).leader_epoch, 2);
    assert_eq!(
        code(cluster.elect(elect, "nope")),
        ErrorCode::UnknownTopicOrPartition
    );
}

#[test]
fn unclean_elections_happen_on_demand_only_and_leave_a_mark() {
    let mut cluster = Cluster::of(3);
    let id = cluster.topic("t", &[&[0, 1, 2]]);
    let elect = ElectionType::Unclean;
    assert_eq!(
        code(cluster.elect(elect, "t")),
        ErrorCode::ElectionNotNeeded
    );
    cluster.alter(id, &[0, 2]).unwrap();
    cluster.fence(&[0, 2]);
    assert_eq!(cluster.brief(id), (NO_LEADER, vec![], vec![0, 2]));
    let mut clean = cluster.clone();
    cluster.elect(elect, "t").unwrap();
    let state = cluster.state(id, 0);
    assert_eq!((state.leader, state.isr.as_slice()), (1, &[1][..]));
    assert_eq!(state.unclean_epoch, state.leader_epoch);
    assert!(
        state.elr.is_empty(),
        "what they held is not what counts now"
    );
    // The mark stays when cleaner leaders follow.
    cluster.restart(0);
    cluster.alter(id, &[1, 0]).unwrap();
    cluster.elect(ElectionType::Preferred, "t").unwrap();
    assert_eq!(cluster.state(id, 0).unclean_epoch, state.unclean_epoch);
    // With nobody up there is nobody to elect.
    clean.fence(&[1]);
    assert_eq!(
        code(clean.elect(elect, "t")),
        ErrorCode::EligibleLeadersNotAvailable
    );
}

#[test]
fn an_unclean_election_prefers_who_was_eligible_last() {
    let mut cluster = Cluster::of(3);
    let id = cluster.topic("t", &[&[0, 1, 2]]);
    cluster.alter(id, &[0, 2]).unwrap();
    cluster.fence(&[0, 2]);
    cluster.now_ms += SESSION_MS + 1;
    // 2's disk is an old copy of itself; 1 was out of sync all the time.
    cluster.join(2, 2, 2, Some(0)).unwrap();
    cluster.beat(2);
    assert_eq!(cluster.state(id, 0).last_known_elr, [2]);
    cluster.elect(ElectionType::Unclean, "t").unwrap();
    assert_eq!(cluster.state(id, 0).leader, 2);
}

#[test]
fn leaders_go_home_when_a_broker_misses_too_many() {
    let mut cluster = Cluster::of(3);
    let all: Vec<Vec<i32>> = (0..30)
        .map(|n| vec![n % 3, (n + 1) % 3, (n + 2) % 3])
        .collect();
    let all: Vec<&[i32]> = all.iter().map(Vec::as_slice).collect();
    let id = cluster.topic("t", &all);
    let leads = |cluster: &Cluster, id: BrokerId| {
        let on = cluster.image.partitions_on(id);
        on.filter(|(_, state)| state.leader == id).count()
    };
    cluster.restart(0);
    assert_eq!(leads(&cluster, 0), 0);
    let rebalance = |cluster: &Cluster, percent, most| {
        rebalance_leaders(&cluster.image, context(), percent, most)
    };
    assert!(
        rebalance(&cluster, 10, 100).records.is_empty(),
        "not in sync yet"
    );
    for partition in 0..30 {
        let at = TopicPartition {
            topic_id: id,
            partition,
        };
        let leader = cluster.state(id, partition).leader;
        let wish = cluster.wish(at, &[leader, (leader + 1) % 3, (leader + 2) % 3]);
        cluster.ask(leader, &wish).unwrap();
    }
    assert!(
        rebalance(&cluster, 100, 100).records.is_empty(),
        "10 of 10 is 100 %"
    );
    let some = rebalance(&cluster, 10, 4);
    assert!(some.result, "there are more");
    cluster.fold(&some.records);
    assert_eq!(leads(&cluster, 0), 4);
    let rest = rebalance(&cluster, 10, 100);
    assert!(!rest.result);
    cluster.fold(&rest.records);
    for id in 0..3 {
        assert_eq!(leads(&cluster, id), 10);
    }
    assert!(rebalance(&cluster, 10, 100).records.is_empty());
}
