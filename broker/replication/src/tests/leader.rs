//! The leader: beginning an epoch, high watermark, ISR.

use super::*;
use crate::{AckState, Diverging, FetchDecision, OfflineReason, Proposal, Refusal, RoleName};

fn fetched(replica: &mut Replica, fetch: &FollowerFetch) -> (FetchDecision, Vec<Action>) {
    let mut actions = Vec::new();
    let decision = replica.follower_fetch(0, fetch, &mut actions);
    (decision, actions)
}

/// A leader of which both followers are known to have all 10 records.
fn followed() -> Replica {
    let mut replica = leader();
    fetched(&mut replica, &fetch(2, 10, 2, 10));
    fetched(&mut replica, &fetch(3, 10, 2, 10));
    assert_eq!(replica.log().high_watermark, 10);
    replica
}

fn ack(replica: &mut Replica, broker: BrokerId, report: DurableReport) -> Vec<Action> {
    step(replica, Event::DurableAck { broker, report })
}

fn proposed(actions: &[Action]) -> Option<&Proposal> {
    actions.iter().find_map(|action| match action {
        Action::AlterPartition(proposal) => Some(proposal),
        _ => None,
    })
}

const LAG_MS: i64 = 30_000;

#[test]
fn metadata_older_than_the_registration_lead_to_nothing() {
    let mut replica = replica(log());
    let mut old = view(ME, 3);
    old.image_index = INDEX - 1;
    assert_eq!(step(&mut replica, Event::Image(old)), vec![]);
    assert_eq!(replica.role(), RoleName::StandBy);
}

#[test]
fn a_superseded_process_stops_leading() {
    let mut replica = followed();
    let event = next(&replica, |view| broker(view, 0).epoch = 99);
    let actions = step(&mut replica, event);
    assert_eq!(
        actions,
        vec![Action::StopLeading { epoch: 3 }, Action::StandBy]
    );
}

#[test]
fn an_epoch_that_the_log_knows_is_not_led() {
    let mut replica = replica(log());
    let actions = step(&mut replica, Event::Image(view(ME, 2)));
    let reason = OfflineReason::EpochNotNew {
        granted: 2,
        known: 2,
    };
    assert_eq!(actions, vec![Action::GoOffline(reason)]);
}

#[test]
fn nothing_is_served_before_the_epoch_start_is_durable() {
    let mut replica = replica(log());
    let actions = step(&mut replica, Event::Image(view(ME, 3)));
    let start = Action::StartEpoch {
        epoch: 3,
        start_offset: 10,
    };
    assert_eq!(actions, vec![start]);
    assert_eq!(replica.check_append(true), Err(Refusal::Wait));
    assert_eq!(replica.epoch_end(None, 2), Err(Refusal::Wait));
    assert_eq!(replica.latest_offset(None), Err(Refusal::Wait));
    assert_eq!(replica.consumer_fetch(0, None, None), Err(Refusal::Wait));
    let (decision, _) = fetched(&mut replica, &fetch(2, 10, 2, 10));
    assert_eq!(decision, FetchDecision::Wait);
    step(&mut replica, Event::EpochStartDurable { epoch: 2 });
    assert_eq!(replica.role(), RoleName::StartingLeader);
    let actions = step(&mut replica, Event::EpochStartDurable { epoch: 3 });
    assert_eq!(actions, vec![Action::Serve { epoch: 3 }]);
    assert_eq!(replica.check_append(true), Ok(3));
}

#[test]
fn the_high_watermark_is_what_all_of_the_isr_have_on_disk() {
    let mut replica = leader();
    fetched(&mut replica, &fetch(2, 10, 2, 9));
    assert_eq!(replica.log().high_watermark, 4, "3 is unknown");
    let (decision, actions) = fetched(&mut replica, &fetch(3, 8, 2, 8));
    assert_eq!(actions, high_watermark(8));
    let told = FetchDecision::Records {
        high_watermark: 8,
        log_start: 0,
    };
    assert_eq!(decision, told);
    assert_eq!(ack(&mut replica, 3, report(3, 10)), high_watermark(9));
    assert_eq!(ack(&mut replica, 2, report(2, 10)), high_watermark(10));
    // The own disk counts like any.
    append(&mut replica, 12);
    fetched(&mut replica, &fetch(2, 12, 3, 12));
    assert_eq!(ack(&mut replica, 3, report(3, 12)), vec![]);
    assert_eq!(sync(&mut replica, 12), high_watermark(12));
}

#[test]
fn with_too_small_an_isr_nothing_is_committed_or_taken() {
    let mut replica = followed();
    append(&mut replica, 12);
    let event = next(&replica, |view| {
        view.isr = vec![1];
        view.elr = vec![2, 3];
        view.partition_epoch += 1;
    });
    step(&mut replica, event);
    assert_eq!(sync(&mut replica, 12), vec![]);
    assert_eq!(replica.log().high_watermark, 10);
    assert_eq!(replica.check_append(true), Err(Refusal::NotEnoughReplicas));
    assert_eq!(replica.check_append(false), Ok(3));
    let waiting = AckState::Waiting {
        under_min_isr: true,
    };
    assert_eq!(replica.ack_state(3, 11), waiting);
    assert_eq!(replica.ack_state(3, 9), AckState::Committed);
    assert_eq!(replica.ack_state(2, 9), AckState::NotLeader);
    // One replica is enough where there is only one.
    let event = next(&replica, |view| {
        view.replicas = vec![1];
        view.elr = vec![];
        view.effective_min_isr = 1;
        view.partition_epoch += 1;
    });
    assert_eq!(step(&mut replica, event), high_watermark(12));
}

#[test]
fn what_a_follower_has_counts_only_once_its_history_fits() {
    let mut replica = leader();
    fetched(&mut replica, &fetch(2, 10, 2, 10));
    // Its epoch 1 goes on where epoch 2 began here.
    let (decision, actions) = fetched(&mut replica, &fetch(3, 9, 1, 9));
    let diverging = Diverging {
        epoch: 1,
        end_offset: 6,
    };
    assert_eq!(decision, FetchDecision::Diverging(diverging));
    assert_eq!(actions, vec![]);
    assert_eq!(ack(&mut replica, 3, report(3, 9)), vec![]);
    // It has cut, which began a generation.
    let cut = |fetch: FollowerFetch| FollowerFetch {
        durable: DurableReport {
            generation: 1,
            ..fetch.durable
        },
        ..fetch
    };
    fetched(&mut replica, &cut(fetch(3, 6, 1, 6)));
    assert_eq!(replica.log().high_watermark, 6);
    // What was said before the cut comes late.
    assert_eq!(ack(&mut replica, 3, report(3, 9)), vec![]);
    let (decision, _) = fetched(&mut replica, &fetch(3, 9, 1, 9));
    assert_eq!(decision, FetchDecision::StaleGeneration);
    assert_eq!(replica.log().high_watermark, 6);
}

#[test]
fn a_later_process_of_a_follower_begins_unknown() {
    let mut replica = followed();
    append(&mut replica, 12);
    sync(&mut replica, 12);
    fetched(&mut replica, &fetch(3, 12, 3, 12));
    let event = next(&replica, |view| broker(view, 1).epoch = 50);
    step(&mut replica, event);
    let (decision, _) = fetched(&mut replica, &fetch(2, 12, 3, 12));
    assert_eq!(decision, FetchDecision::StaleBroker);
    assert_eq!(replica.log().high_watermark, 10);
    let mut again = fetch(2, 12, 3, 11);
    again.durable.broker_epoch = 50;
    let (_, actions) = fetched(&mut replica, &again);
    assert_eq!(actions, high_watermark(11));
}

#[test]
fn epochs_of_the_asker_are_compared() {
    let mut replica = leader();
    let mut old = fetch(2, 10, 2, 10);
    old.durable.leader_epoch = 2;
    assert_eq!(fetched(&mut replica, &old).0, FetchDecision::FencedEpoch);
    old.durable.leader_epoch = 4;
    assert_eq!(fetched(&mut replica, &old).0, FetchDecision::UnknownEpoch);
    let stranger = fetch(7, 10, 2, 10);
    assert_eq!(
        fetched(&mut replica, &stranger).0,
        FetchDecision::NotReplica
    );
    let boaster = fetch(2, 9, 2, 10);
    assert_eq!(fetched(&mut replica, &boaster).0, FetchDecision::Invalid);
}

/// A leader with 2 alone in sync with it, and 12 records, all committed.
fn short() -> Replica {
    let mut replica = leader();
    let event = next(&replica, |view| {
        view.isr = vec![1, 2];
        view.partition_epoch = 7;
    });
    step(&mut replica, event);
    append(&mut replica, 12);
    sync(&mut replica, 12);
    fetched(&mut replica, &fetch(2, 12, 3, 12));
    assert_eq!(replica.log().high_watermark, 12);
    replica
}

#[test]
fn a_follower_joins_when_it_has_on_disk_what_is_committed() {
    let mut replica = short();
    let (_, actions) = fetched(&mut replica, &fetch(3, 12, 3, 11));
    assert_eq!(proposed(&actions), None, "11 of 12 on its disk");
    let actions = ack(&mut replica, 3, report(3, 12));
    let proposal = Proposal {
        leader_epoch: 3,
        partition_epoch: 7,
        isr: vec![(1, 11), (2, 12), (3, 13)],
    };
    assert_eq!(proposed(&actions), Some(&proposal));
    // From now on it counts, whatever comes of it.
    append(&mut replica, 14);
    sync(&mut replica, 14);
    fetched(&mut replica, &fetch(2, 14, 3, 14));
    assert_eq!(replica.log().high_watermark, 12);
    let (_, actions) = fetched(&mut replica, &fetch(3, 14, 3, 13));
    assert_eq!(actions, high_watermark(13), "and nothing is proposed twice");
}

#[test]
fn nobody_joins_before_it_has_what_was_there_when_the_epoch_began() {
    let mut replica = replica(log());
    let mut short = view(ME, 3);
    short.isr = vec![1, 2];
    step(&mut replica, Event::Image(short));
    step(&mut replica, Event::EpochStartDurable { epoch: 3 });
    let (_, actions) = fetched(&mut replica, &fetch(3, 9, 2, 9));
    assert_eq!(replica.log().high_watermark, 4);
    assert_eq!(proposed(&actions), None);
    let (_, actions) = fetched(&mut replica, &fetch(3, 10, 2, 10));
    assert!(proposed(&actions).is_some());
}

#[test]
fn a_fenced_follower_does_not_join() {
    let mut replica = short();
    let event = next(&replica, |view| broker(view, 2).fenced = true);
    step(&mut replica, event);
    let (_, actions) = fetched(&mut replica, &fetch(3, 12, 3, 12));
    assert_eq!(proposed(&actions), None);
    let event = next(&replica, |view| broker(view, 2).fenced = false);
    assert!(proposed(&step(&mut replica, event)).is_some());
}

#[test]
fn a_proposal_counts_until_metadata_settle_it() {
    let mut replica = short();
    fetched(&mut replica, &fetch(3, 12, 3, 12));
    append(&mut replica, 14);
    sync(&mut replica, 14);
    fetched(&mut replica, &fetch(2, 14, 3, 14));
    // Refused, but a copy of it may be under way: it still counts, and is taken back by
    // a proposal of its own, after a while.
    at(&mut replica, 5, Event::AlterAnswered { accepted: false });
    let event = next(&replica, |view| broker(view, 2).fenced = true);
    assert_eq!(at(&mut replica, 6, event), vec![]);
    assert_eq!(at(&mut replica, 54, Event::Tick), vec![]);
    assert_eq!(replica.log().high_watermark, 12);
    let actions = at(&mut replica, 55, Event::Tick);
    let taken_back = proposed(&actions).unwrap();
    assert_eq!(taken_back.isr, vec![(1, 11), (2, 12)]);
    assert_eq!(taken_back.partition_epoch, 7);
    let event = next(&replica, |view| view.partition_epoch = 8);
    assert_eq!(at(&mut replica, 60, event), high_watermark(14));
}

#[test]
fn a_proposal_without_answer_is_sent_again() {
    let mut replica = short();
    let (_, actions) = fetched(&mut replica, &fetch(3, 12, 3, 12));
    assert!(proposed(&actions).is_some());
    assert_eq!(at(&mut replica, 1_999, Event::Tick), vec![]);
    assert_eq!(at(&mut replica, 2_000, Event::Tick), actions);
}

#[test]
fn who_is_late_leaves_but_counts_until_that_is_committed() {
    let mut replica = followed();
    append(&mut replica, 12);
    sync(&mut replica, 12);
    ack(&mut replica, 2, report(2, 12));
    assert_eq!(at(&mut replica, 30_000, Event::Tick), vec![]);
    let actions = at(&mut replica, 30_001, Event::Tick);
    assert_eq!(
        proposed(&actions).unwrap().isr,
        vec![(1, 11), (2, 12)],
        "3 lacks two records"
    );
    assert_eq!(replica.log().high_watermark, 10);
    let event = next(&replica, |view| {
        view.isr = vec![1, 2];
        view.partition_epoch += 1;
    });
    assert_eq!(at(&mut replica, 30_002, event), high_watermark(12));
}

#[test]
fn nobody_is_late_while_it_had_at_one_fetch_what_the_leader_had_at_the_one_before() {
    let mut replica = followed();
    for second in 1..=100 {
        let end = 9 + second;
        // It is always one second and one record behind.
        append(&mut replica, end + 1);
        sync(&mut replica, end + 1);
        let mut actions = Vec::new();
        let (epoch2, epoch3) = if end == 10 { (2, 2) } else { (3, 3) };
        replica.follower_fetch(second * 1_000, &fetch(2, end, epoch2, end), &mut actions);
        replica.follower_fetch(second * 1_000, &fetch(3, end, epoch3, end), &mut actions);
        replica.step(second * 1_000, Event::Tick, &mut actions);
        assert_eq!(proposed(&actions), None);
    }
}

#[test]
fn after_a_pause_nobody_is_late() {
    let mut replica = followed();
    append(&mut replica, 12);
    sync(&mut replica, 12);
    at(&mut replica, 90_000, Event::Paused);
    assert_eq!(at(&mut replica, 90_001, Event::Tick), vec![]);
    assert!(proposed(&at(&mut replica, 120_001, Event::Tick)).is_some());
}

#[test]
fn a_leader_whose_disk_stands_still_resigns() {
    let mut replica = followed();
    append(&mut replica, 12);
    assert_eq!(at(&mut replica, 1_000, Event::Tick), vec![]);
    assert_eq!(at(&mut replica, 16_000, Event::Tick), vec![]);
    let resign = Action::Resign { epoch: 3 };
    assert!(at(&mut replica, 16_001, Event::Tick).contains(&resign));
    let mut steady = followed();
    append(&mut steady, 12);
    at(&mut steady, 1_000, Event::Tick);
    sync(&mut steady, 12);
    assert!(!at(&mut steady, 20_000, Event::Tick).contains(&resign));
}

#[test]
fn durable_is_not_taken_from_an_older_generation() {
    let mut state = log();
    state.generation = 3;
    state.durable_end = 8;
    let mut replica = replica(state);
    let stale = Event::Durable {
        end_offset: 10,
        generation: 2,
    };
    step(&mut replica, stale);
    assert_eq!(replica.log().durable_end, 8);
    sync(&mut replica, 10);
    assert_eq!(replica.log().durable_end, 10);
}

#[test]
fn deleted_records_are_gone_when_they_are_on_every_live_replica() {
    let mut replica = followed();
    step(&mut replica, Event::LogStart { offset: 5 });
    assert_eq!(replica.low_watermark(), Some(0));
    let mut gone = fetch(2, 10, 2, 10);
    gone.log_start = 5;
    fetched(&mut replica, &gone);
    assert_eq!(replica.low_watermark(), Some(0), "3 has them still");
    let event = next(&replica, |view| broker(view, 2).fenced = true);
    step(&mut replica, event);
    assert_eq!(replica.low_watermark(), Some(5));
}

#[test]
fn who_was_level_for_long_is_not_late_with_the_next_record() {
    let mut replica = leader();
    for follower in [2, 3] {
        fetched(&mut replica, &fetch(follower, 10, 2, 10));
    }
    let late = 10 * LAG_MS;
    append(&mut replica, 11);
    at(
        &mut replica,
        late,
        Event::Durable {
            end_offset: 11,
            generation: 0,
        },
    );
    assert_eq!(proposed(&at(&mut replica, late + 1, Event::Tick)), None);
    let actions = at(&mut replica, late + LAG_MS + 1, Event::Tick);
    assert!(proposed(&actions).is_some(), "but it is in the end");
}

#[test]
fn who_fell_silent_does_not_join_though_it_has_what_is_committed() {
    let mut replica = leader();
    for follower in [2, 3] {
        fetched(&mut replica, &fetch(follower, 10, 2, 10));
    }
    let alone = next(&replica, |view| {
        view.isr = vec![1];
        view.partition_epoch = 7;
    });
    // Below the minimum nothing is committed, so both have all that is.
    assert_eq!(proposed(&at(&mut replica, LAG_MS + 1, alone)), None);
    assert_eq!(replica.log().high_watermark, 10);
    let (_, actions) = fetched(&mut replica, &fetch(2, 10, 2, 10));
    assert!(proposed(&actions).is_some());
}
