//! The follower: fetching, cutting, high watermark.

use super::*;
use crate::{Diverging, FetchAnswer, FetchOutcome, OfflineReason, RoleName};

/// Follows broker 2 in epoch 3.
fn follower() -> Replica {
    let mut replica = replica(log());
    let actions = step(&mut replica, Event::Image(view(2, 3)));
    let follow = Action::Follow {
        leader: 2,
        epoch: 3,
    };
    assert_eq!(actions, vec![follow]);
    replica
}

fn answer(replica: &mut Replica, outcome: FetchOutcome) -> Vec<Action> {
    let asked = replica.next_fetch().unwrap().fetch;
    let answer = FetchAnswer {
        leader_epoch: asked.durable.leader_epoch,
        fetch_offset: asked.fetch_offset,
        generation: asked.durable.generation,
        outcome,
    };
    step(replica, Event::FetchAnswered(answer))
}

fn records(high_watermark: Offset, log_start: Offset) -> FetchOutcome {
    FetchOutcome::Records {
        high_watermark,
        log_start,
    }
}

fn diverging(epoch: LeaderEpoch, end_offset: Offset) -> FetchOutcome {
    FetchOutcome::Diverging(Diverging { epoch, end_offset })
}

fn truncated(end_offset: Offset, generation: i64) -> Event {
    Event::Truncated {
        end_offset,
        durable_end: end_offset,
        generation,
    }
}

#[test]
fn it_asks_from_its_end_and_says_what_it_has() {
    let replica = follower();
    let plan = replica.next_fetch().unwrap();
    assert_eq!(plan.leader, 2);
    assert_eq!(plan.high_watermark, 4);
    assert_eq!(plan.fetch, fetch(ME, 10, 2, 10));
}

#[test]
fn its_high_watermark_is_the_leaders_as_far_as_it_has_records() {
    let mut replica = follower();
    let actions = answer(&mut replica, records(12, 0));
    assert_eq!(actions[0], Action::Append);
    assert_eq!(actions[1..], high_watermark(10));
    let appended = Event::Appended {
        epoch: 3,
        base_offset: 10,
        end_offset: 13,
    };
    assert_eq!(step(&mut replica, appended), high_watermark(12));
    // A new leader may know less.
    let event = next(&replica, |view| {
        view.leader = 3;
        view.leader_epoch = 4;
    });
    step(&mut replica, event);
    answer(&mut replica, records(5, 0));
    assert_eq!(replica.log().high_watermark, 12);
}

#[test]
fn what_gets_durable_is_told_once_the_history_fits() {
    let mut state = log();
    state.durable_end = 8;
    let mut replica = replica(state);
    step(&mut replica, Event::Image(view(2, 3)));
    assert_eq!(sync(&mut replica, 9), vec![]);
    answer(&mut replica, records(4, 0));
    let told = Action::SendDurableAck {
        leader: 2,
        report: report(ME, 10),
    };
    assert_eq!(sync(&mut replica, 10), vec![told]);
    assert_eq!(sync(&mut replica, 10), vec![], "no news");
}

#[test]
fn it_cuts_where_the_histories_part() {
    let mut replica = follower();
    // The leader's epoch 2 ended sooner.
    assert_eq!(
        answer(&mut replica, diverging(2, 8)),
        vec![Action::Truncate { to: 8 }]
    );
    assert_eq!(replica.next_fetch(), None, "not while its log is cut");
    step(&mut replica, truncated(8, 1));
    let asked = replica.next_fetch().unwrap().fetch;
    assert_eq!((asked.fetch_offset, asked.durable.generation), (8, 1));
    // The leader never had epoch 2; its epoch 1 is longer than the one here.
    assert_eq!(
        answer(&mut replica, diverging(1, 9)),
        vec![Action::Truncate { to: 6 }]
    );
    step(&mut replica, truncated(6, 2));
    assert_eq!(
        replica.next_fetch().unwrap().fetch.last_fetched_epoch,
        Some(1)
    );
}

#[test]
fn an_epoch_without_records_is_cut_as_well() {
    let mut state = log();
    state.epochs.assign(3, 10);
    let mut replica = replica(state);
    step(&mut replica, Event::Image(view(2, 4)));
    assert_eq!(
        answer(&mut replica, diverging(2, 15)),
        vec![Action::Truncate { to: 10 }]
    );
    step(&mut replica, truncated(10, 1));
    assert_eq!(
        replica.next_fetch().unwrap().fetch.last_fetched_epoch,
        Some(2)
    );
    assert_eq!(
        answer(&mut replica, diverging(2, 15)),
        vec![],
        "that contradicts itself"
    );
}

#[test]
fn nothing_below_the_high_watermark_is_cut_unless_metadata_allow_it() {
    let mut replica = follower();
    let reason = OfflineReason::WouldLoseCommitted {
        leader_epoch: 3,
        to: 3,
        high_watermark: 4,
    };
    assert_eq!(
        answer(&mut replica, diverging(1, 3)),
        vec![Action::GoOffline(reason)]
    );
    assert_eq!(replica.role(), RoleName::Offline(reason));
    // The same leader again changes nothing, one elected uncleanly does, and so does
    // whoever leads after it.
    let event = next(&replica, |_| ());
    assert_eq!(step(&mut replica, event), vec![]);
    let event = next(&replica, |view| {
        view.leader_epoch = 5;
        view.unclean_epoch = 4;
    });
    step(&mut replica, event);
    assert_eq!(
        answer(&mut replica, diverging(1, 3)),
        vec![Action::Truncate { to: 3 }]
    );
    step(&mut replica, truncated(3, 1));
    assert_eq!(replica.log().high_watermark, 3);
    // That was then: what is committed with the new leader stays.
    answer(&mut replica, records(3, 0));
    let actions = answer(&mut replica, diverging(1, 2));
    assert!(matches!(actions[..], [Action::GoOffline(_)]));
}

#[test]
fn it_begins_anew_below_the_leaders_log_start() {
    let mut replica = follower();
    let outcome = FetchOutcome::OutOfRange {
        log_start: 20,
        end: 30,
    };
    assert_eq!(
        answer(&mut replica, outcome),
        vec![Action::Reset { to: 20 }]
    );
    let reset = Event::Reset {
        offset: 20,
        generation: 1,
    };
    step(&mut replica, reset);
    let asked = replica.next_fetch().unwrap().fetch;
    assert_eq!((asked.fetch_offset, asked.last_fetched_epoch), (20, None));
    // Above the leader's end there may be something that was committed.
    let outcome = FetchOutcome::OutOfRange {
        log_start: 0,
        end: 15,
    };
    let actions = answer(&mut replica, outcome);
    assert!(matches!(actions[..], [Action::GoOffline(_)]));
}

#[test]
fn its_log_start_follows_the_leaders() {
    let mut replica = follower();
    let actions = answer(&mut replica, records(9, 7));
    // In this order: nobody may see what is below it here.
    let raise = Action::RaiseLogStart { to: 7 };
    let shown = Action::HighWatermark { offset: 9 };
    assert_eq!(actions, vec![raise, Action::Append, shown]);
    assert_eq!(replica.log().log_start, 7);
    assert_eq!(replica.log().epochs.entries().len(), 1);
}

#[test]
fn its_log_start_follows_the_leaders_once_it_has_come_so_far() {
    let mut replica = follower();
    let actions = answer(&mut replica, records(15, 12));
    let raises = |actions: &[Action]| {
        let mut actions = actions.iter();
        actions.any(|action| *action == Action::RaiseLogStart { to: 12 })
    };
    assert!(!raises(&actions), "its log ends at 10");
    let appended = Event::Appended {
        epoch: 3,
        base_offset: 10,
        end_offset: 15,
    };
    assert!(raises(&step(&mut replica, appended)));
    assert_eq!(replica.log().log_start, 12);
}

#[test]
fn answers_to_what_is_no_longer_asked_are_dropped() {
    let mut replica = follower();
    let good = FetchAnswer {
        leader_epoch: 3,
        fetch_offset: 10,
        generation: 0,
        outcome: records(4, 0),
    };
    for stale in [
        FetchAnswer {
            leader_epoch: 2,
            ..good
        },
        FetchAnswer {
            fetch_offset: 9,
            ..good
        },
        FetchAnswer {
            generation: 1,
            ..good
        },
    ] {
        assert_eq!(step(&mut replica, Event::FetchAnswered(stale)), vec![]);
    }
    let actions = step(&mut replica, Event::FetchAnswered(good));
    assert_eq!(actions, vec![Action::Append]);
}

#[test]
fn a_leader_elected_during_a_cut_begins_after_it() {
    let mut replica = follower();
    answer(&mut replica, diverging(2, 8));
    let event = next(&replica, |view| {
        view.leader = ME;
        view.leader_epoch = 4;
    });
    assert_eq!(step(&mut replica, event), vec![]);
    assert_eq!(replica.role(), RoleName::StartingLeader);
    let start = Action::StartEpoch {
        epoch: 4,
        start_offset: 8,
    };
    assert_eq!(step(&mut replica, truncated(8, 1)), vec![start]);
}

#[test]
fn a_failed_disk_stays_offline() {
    let mut replica = leader();
    let actions = step(&mut replica, Event::LogFailed);
    let offline = Action::GoOffline(OfflineReason::LogFailed);
    assert_eq!(actions, vec![Action::StopLeading { epoch: 3 }, offline]);
    let event = next(&replica, |view| view.leader_epoch = 9);
    assert_eq!(step(&mut replica, event), vec![]);
}
