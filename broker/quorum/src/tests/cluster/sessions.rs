//! Heartbeats, fencing, controlled shutdown.

use super::*;

#[test]
fn silence_fences_after_a_full_session_and_not_before() {
    let mut cluster = Cluster::of(3);
    let id = cluster.topic("t", &[&[0, 1, 2]]);
    cluster.now_ms = SESSION_MS;
    assert!(
        cluster
            .sessions
            .expired(&cluster.image, SESSION_MS)
            .is_empty()
    );
    for alive in [1, 2] {
        cluster.beat(alive);
    }
    assert_eq!(
        cluster.sessions.next_expiry_ms(&cluster.image),
        Some(SESSION_MS + 1)
    );
    let expired = cluster.sessions.expired(&cluster.image, SESSION_MS + 1);
    assert_eq!(expired, [0]);
    cluster.fence(&expired);
    assert_eq!(cluster.brief(id), (1, vec![1, 2], vec![]));
    assert_eq!(cluster.state(id, 0).leader_epoch, 1);
    assert!(
        cluster
            .sessions
            .expired(&cluster.image, SESSION_MS + 1)
            .is_empty()
    );
    assert_eq!(cluster.fence_again(0), 0, "once is enough");
}

impl Cluster {
    fn fence_again(&self, id: BrokerId) -> usize {
        fence_brokers(&self.image, context(), &[id]).len()
    }
}

#[test]
fn a_refused_connection_needs_no_waiting_but_counts_for_its_epoch_only() {
    let mut cluster = Cluster::of(2);
    let epoch = cluster.epoch(0);
    cluster.sessions.refused(0, epoch - 1);
    assert!(cluster.sessions.expired(&cluster.image, 0).is_empty());
    cluster.sessions.refused(0, epoch);
    assert_eq!(cluster.sessions.expired(&cluster.image, 0), [0]);
    cluster.beat(0);
    assert!(
        cluster.sessions.expired(&cluster.image, 0).is_empty(),
        "it lives"
    );
}

#[test]
fn a_new_controller_grants_everybody_a_session() {
    let mut cluster = Cluster::of(2);
    cluster.now_ms = 50 * SESSION_MS;
    cluster.sessions = Sessions::begin(&cluster.image, cluster.now_ms, SESSION_MS);
    let later = cluster.now_ms + SESSION_MS;
    assert!(cluster.sessions.expired(&cluster.image, later).is_empty());
    assert_eq!(cluster.sessions.expired(&cluster.image, later + 1), [0, 1]);
    // And so does one that stood still.
    cluster.sessions.grant_all(&cluster.image, later + 5000);
    assert!(
        cluster
            .sessions
            .expired(&cluster.image, later + 5000)
            .is_empty()
    );
}

#[test]
fn all_that_go_at_once_are_given_nothing() {
    let mut cluster = Cluster::of(4);
    let id = cluster.topic("t", &[&[0, 1, 2, 3]]);
    cluster.fence(&[0, 1]);
    assert_eq!(cluster.brief(id), (2, vec![2, 3], vec![]));
    assert_eq!(cluster.state(id, 0).leader_epoch, 1, "one election");
}

#[test]
fn the_isr_shrinks_to_one_which_is_lost_and_an_eligible_replica_leads() {
    let mut cluster = Cluster::of(3);
    let id = cluster.topic("t", &[&[0, 1, 2]]);
    cluster.fence(&[1]);
    assert_eq!(cluster.brief(id), (0, vec![0, 2], vec![]));
    cluster.alter(id, &[0]).unwrap();
    // Nothing is acknowledged with one in sync, so 2 still holds everything that was.
    assert_eq!(cluster.brief(id), (0, vec![0], vec![2]));
    cluster.fence(&[0]);
    assert_eq!(cluster.brief(id), (2, vec![2], vec![0]));
    // Broker 0's disk is gone for good; 1 comes back, and is not eligible.
    cluster.now_ms += SESSION_MS + 1;
    cluster.join(0, 2, 95, None).unwrap();
    cluster.restart(1);
    assert_eq!(cluster.brief(id), (2, vec![2], vec![]));
    cluster.fence(&[2]);
    assert_eq!(cluster.brief(id), (NO_LEADER, vec![], vec![2]));
    cluster.beat(0);
    assert_eq!(
        cluster.brief(id).0,
        NO_LEADER,
        "neither 0 nor 1 holds it all"
    );
    cluster.restart(2);
    assert_eq!(cluster.brief(id), (2, vec![2], vec![]));
    assert_eq!(cluster.state(id, 0).unclean_epoch, -1);
}

#[test]
fn a_broker_that_wants_to_stop_leads_nothing_before_it_may() {
    let mut cluster = Cluster::of(3);
    let id = cluster.topic("t", &[&[0, 1, 2]]);
    let stop = |cluster: &Cluster| Heartbeat {
        want_shutdown: true,
        ..cluster.heartbeat(0)
    };
    let answer = cluster.send(stop(&cluster)).unwrap();
    assert!(!answer.should_shut_down);
    assert_eq!(cluster.brief(id), (1, vec![1, 2], vec![]));
    // The others have not heard yet.
    assert!(!cluster.send(stop(&cluster)).unwrap().should_shut_down);
    cluster.beat(1);
    assert!(!cluster.send(stop(&cluster)).unwrap().should_shut_down);
    let wish = cluster.wish(first_of(id), &[1, 2, 0]);
    assert_eq!(
        code(cluster.ask(1, &wish)),
        ErrorCode::IneligibleReplica,
        "it does not come back into the ISR"
    );
    cluster.beat(2);
    assert!(cluster.send(stop(&cluster)).unwrap().should_shut_down);
    cluster.fence(&[0]);
    assert!(cluster.beat(0).is_fenced, "only a new process is unfenced");
    cluster.restart(0);
    assert!(!cluster.image.broker(0).unwrap().shutting_down);
}

#[test]
fn one_that_is_fenced_may_stop_at_once_and_may_ask_to_be_fenced() {
    let mut cluster = Cluster::of(2);
    let id = cluster.topic("t", &[&[0, 1]]);
    let fence = Heartbeat {
        want_fence: true,
        ..cluster.heartbeat(0)
    };
    assert!(cluster.send(fence.clone()).unwrap().is_fenced);
    assert_eq!(cluster.brief(id), (1, vec![1], vec![0]));
    assert!(
        cluster.send(fence.clone()).unwrap().is_fenced,
        "as long as it wants"
    );
    let stop = Heartbeat {
        want_shutdown: true,
        ..fence
    };
    assert!(cluster.send(stop).unwrap().should_shut_down);
}

#[test]
fn who_takes_no_records_steps_back_as_long_as_others_can_lead() {
    let mut cluster = Cluster::of(3);
    let alone = cluster.topic("alone", &[&[0]]);
    let step_back = |cluster: &mut Cluster, id| {
        let fence = Heartbeat {
            want_fence: true,
            ..cluster.heartbeat(id)
        };
        cluster.send(fence).unwrap().is_fenced
    };
    assert!(!step_back(&mut cluster, 0), "nobody would gain by it");
    let shared = cluster.topic("shared", &[&[0, 1]]);
    assert!(step_back(&mut cluster, 0));
    assert_eq!(cluster.brief(shared), (1, vec![1], vec![0]));
    assert_eq!(cluster.brief(alone).0, -1);
    // It is behind where somebody leads that it could catch up with.
    let behind = |cluster: &Cluster, id| cluster.image.behind_on(id).collect::<Vec<_>>();
    assert_eq!(behind(&cluster, 0), [first_of(shared)]);
    assert_eq!(behind(&cluster, 1), []);
    // Two that are full count on one another.
    assert!(!step_back(&mut cluster, 1));
    assert_eq!(cluster.brief(shared).0, 1);
    // There is room again.
    assert!(!cluster.beat(0).is_fenced);
    assert_eq!(cluster.brief(alone).0, 0);
    assert_eq!(behind(&cluster, 0), [first_of(shared)], "not in sync yet");
    let wish = cluster.wish(first_of(shared), &[1, 0]);
    cluster.ask(1, &wish).unwrap();
    assert_eq!(behind(&cluster, 0), []);
}

#[test]
fn heartbeats_of_old_epochs_are_refused() {
    let mut cluster = Cluster::of(1);
    let old = cluster.heartbeat(0);
    cluster.restart(0);
    assert_eq!(code(cluster.send(old.clone())), ErrorCode::StaleBrokerEpoch);
    let unknown = Heartbeat {
        broker_id: 9,
        ..old
    };
    assert_eq!(
        code(cluster.send(unknown)),
        ErrorCode::BrokerIdNotRegistered
    );
}
