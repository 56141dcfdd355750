//! Histories made by hand, good ones and bad ones.

use std::collections::BTreeMap;

use super::{Event, Place, check};

fn at() -> Place {
    ("t".to_owned(), 0)
}

fn send(by: u32, value: u64) -> Event {
    Event::Send {
        by,
        to: at(),
        value,
    }
}

fn acked(value: u64, offset: i64) -> Event {
    Event::Acked {
        value,
        offset: Some(offset),
    }
}

fn read(by: u32, records: &[(i64, u64)]) -> Event {
    Event::Read {
        by,
        from: at(),
        records: records.to_vec(),
    }
}

fn group_read(records: &[(i64, u64)]) -> Event {
    Event::GroupRead {
        group: "g".to_owned(),
        from: at(),
        records: records.to_vec(),
    }
}

fn found(records: &[(i64, u64)]) -> Event {
    Event::Found {
        at: at(),
        records: records.to_vec(),
    }
}

fn rules(history: &[Event]) -> Vec<&'static str> {
    check(history).iter().map(|anomaly| anomaly.rule).collect()
}

#[test]
fn a_history_in_which_everything_is_kept_is_good() {
    let history = [
        send(1, 1),
        send(1, 2),
        acked(1, 0),
        send(2, 3),
        acked(2, 1),
        read(7, &[(0, 1), (1, 2)]),
        Event::Unknown { value: 3 },
        Event::Seek { by: 7 },
        read(7, &[(0, 1), (1, 2), (5, 3)]),
        group_read(&[(1, 2), (5, 3)]),
        group_read(&[(0, 1), (1, 2)]),
        found(&[(0, 1), (1, 2), (5, 3)]),
    ];
    assert_eq!(rules(&history), [""; 0]);
}

#[test]
fn what_is_unknown_may_be_there_or_not() {
    let history = [send(1, 1), Event::Unknown { value: 1 }, found(&[])];
    assert_eq!(rules(&history), [""; 0]);
}

#[test]
fn an_acknowledged_write_that_is_gone_is_lost() {
    let history = [send(1, 1), send(1, 2), acked(1, 0), found(&[(1, 2)])];
    assert_eq!(rules(&history), ["lost write"]);
}

#[test]
fn what_was_read_must_stay_even_if_nobody_acknowledged_it() {
    let history = [send(1, 1), read(7, &[(0, 1)]), found(&[])];
    assert_eq!(rules(&history), ["lost read"]);
}

#[test]
fn a_refused_write_that_is_read_is_an_aborted_read() {
    let refused = Event::Refused { value: 1 };
    let history = [send(1, 1), refused.clone(), read(7, &[(0, 1)])];
    assert_eq!(rules(&history), ["aborted read"]);
    let history = [send(1, 1), read(7, &[(0, 1)]), refused];
    assert_eq!(rules(&history), ["aborted read"]);
}

#[test]
fn a_value_at_two_offsets_is_a_duplicate() {
    let history = [send(1, 1), acked(1, 0), found(&[(0, 1), (1, 1)])];
    assert_eq!(rules(&history), ["duplicate"]);
}

#[test]
fn two_values_at_an_offset_are_inconsistent() {
    let history = [
        send(1, 1),
        send(2, 2),
        read(7, &[(0, 1)]),
        read(8, &[(0, 2)]),
    ];
    assert_eq!(rules(&history), ["inconsistent offsets"]);
}

#[test]
fn a_reader_that_goes_back_is_not_monotonic() {
    let history = [send(1, 1), read(7, &[(0, 1)]), read(7, &[(0, 1)])];
    assert_eq!(rules(&history), ["non-monotonic poll"]);
}

#[test]
fn a_reader_that_leaves_something_out_skips() {
    let history = [
        send(1, 1),
        send(1, 2),
        send(1, 3),
        read(7, &[(0, 1), (2, 3)]),
        found(&[(0, 1), (1, 2), (2, 3)]),
    ];
    assert_eq!(rules(&history), ["poll skip"]);
}

#[test]
fn a_producers_records_stand_in_its_order() {
    let history = [send(1, 1), send(1, 2), found(&[(0, 2), (1, 1)])];
    assert_eq!(rules(&history), ["non-monotonic send"]);
}

#[test]
fn what_is_sent_after_an_acknowledgement_stands_behind_it() {
    let history = [send(1, 1), acked(1, 5), send(2, 2), acked(2, 4)];
    assert_eq!(rules(&history), ["write in the past"]);
}

#[test]
fn what_nobody_sent_comes_from_nowhere() {
    assert_eq!(rules(&[found(&[(0, 9)])]), ["read out of nowhere"]);
    assert_eq!(rules(&[acked(9, 0)]), ["acknowledged out of nowhere"]);
}

#[test]
fn a_record_in_another_partition_is_wrong() {
    let elsewhere = Event::Found {
        at: ("t".to_owned(), 1),
        records: vec![(0, 1)],
    };
    assert_eq!(rules(&[send(1, 1), elsewhere]), ["wrong partition"]);
}

#[test]
fn a_group_reads_everything() {
    let history = [
        send(1, 1),
        send(1, 2),
        group_read(&[(0, 1)]),
        found(&[(0, 1), (1, 2)]),
    ];
    assert_eq!(rules(&history), ["unseen"]);
}

#[test]
fn what_a_group_committed_stays_committed() {
    let committed_by = |coordinator, next| Event::Committed {
        by: 1,
        coordinator,
        group: "g".to_owned(),
        at: at(),
        next,
    };
    let committed = |next| committed_by(0, next);
    let asks = Event::Asks { by: 1 };
    let told_by = |coordinator, next| Event::GoesOn {
        by: 1,
        coordinator,
        group: "g".to_owned(),
        at: at(),
        next,
    };
    let goes_on = |next| told_by(None, next);
    let with = |first: &[Event], next| {
        let mut history = first.to_vec();
        history.extend([asks.clone(), goes_on(next)]);
        rules(&history)
    };
    assert_eq!(with(&[committed(5), committed(7)], Some(7)), [""; 0]);
    assert_eq!(with(&[committed(7)], Some(8)), [""; 0]);
    assert_eq!(
        with(&[committed(7), committed(5)], Some(5)),
        ["lost commit"]
    );
    assert_eq!(with(&[committed(7)], None), ["lost commit"]);
    // The answer may be older than what was committed meanwhile.
    let meanwhile = [committed(5), asks.clone(), committed(7), goes_on(Some(5))];
    assert_eq!(rules(&meanwhile), [""; 0]);

    // One that was given up may come last, and nothing else of its kind.
    let late = Event::CommitUnknown {
        group: "g".to_owned(),
        at: at(),
        next: 6,
    };
    assert_eq!(with(&[late.clone(), committed(7)], Some(6)), [""; 0]);
    assert_eq!(with(&[late, committed(7)], Some(5)), ["lost commit"]);

    // A coordinator that was deposed answers from what it had, and never from less...
    let deposed = |next| {
        let (first, then) = (committed_by(0, 5), committed_by(1, 7));
        rules(&[first, then, asks.clone(), told_by(Some(0), next)])
    };
    assert_eq!(deposed(Some(5)), [""; 0]);
    assert_eq!(deposed(Some(4)), ["lost commit"]);
    // ...and whoever takes a commit knows all that was committed before that was sent.
    let again = [
        committed_by(0, 7),
        asks.clone(),
        Event::Committed {
            by: 1,
            coordinator: 1,
            group: "g".to_owned(),
            at: ("another".to_owned(), 0),
            next: 1,
        },
        asks.clone(),
        told_by(Some(1), Some(5)),
    ];
    assert_eq!(rules(&again), ["lost commit"]);
}

fn restored(end: i64) -> Event {
    let ends = BTreeMap::from([(at(), end)]);
    Event::Restored { ends }
}

fn goes_on(next: i64) -> Event {
    Event::GoesOn {
        by: 0,
        coordinator: Some(1),
        group: "g".to_owned(),
        at: at(),
        next: Some(next),
    }
}

#[test]
fn a_lost_cluster_loses_what_its_bucket_did_not_have() {
    let before = [send(1, 1), send(1, 2), acked(1, 0), acked(2, 1)];
    let before = [&before[..], &[read(7, &[(0, 1), (1, 2)])]].concat();
    let after = |events: &[Event]| [&before[..], &[restored(1)], events].concat();
    // Another record stands where the lost one stood, and readers go on from it.
    let good = after(&[
        send(9, 3),
        acked(3, 1),
        read(7, &[(1, 3)]),
        found(&[(0, 1), (1, 3)]),
    ]);
    assert_eq!(rules(&good), [""; 0]);
    // What the bucket had is there.
    assert!(rules(&after(&[found(&[])])).contains(&"lost write"));
    // What it had not is not put there afterwards, by a broker of the old cluster.
    let late = after(&[found(&[(0, 1), (1, 2)])]);
    assert!(rules(&late).contains(&"back from the lost cluster"));
    // Without a loss the same is an anomaly.
    let none = [&before[..], &[found(&[(0, 1)])]].concat();
    assert!(rules(&none).contains(&"lost write"));
}

#[test]
fn what_was_acknowledged_long_before_the_loss_comes_back() {
    let before = [send(1, 1), acked(1, 0), send(1, 2), acked(2, 1)];
    let settled = [&before[..], &[Event::Settled, restored(1)]].concat();
    assert_eq!(rules(&settled), ["not in the bucket in time"]);
    let settled = [&before[..], &[Event::Settled, restored(2)]].concat();
    assert_eq!(rules(&settled), [""; 0]);
}

#[test]
fn a_group_does_not_go_on_beyond_what_came_back() {
    let before = [send(1, 1), acked(1, 0), send(1, 2), acked(2, 1)];
    let asks = Event::Asks { by: 0 };
    let with = |next| [&before[..], &[restored(1), asks.clone(), goes_on(next)]].concat();
    assert_eq!(rules(&with(1)), [""; 0]);
    assert_eq!(rules(&with(2)), ["group beyond the end"]);
    // What was committed long before is known at the end.
    let committed = Event::Committed {
        by: 0,
        coordinator: 1,
        group: "g".to_owned(),
        at: at(),
        next: 1,
    };
    let last = Event::GoesOn {
        by: 0,
        coordinator: None,
        group: "g".to_owned(),
        at: at(),
        next: None,
    };
    let kept = [
        asks.clone(),
        committed,
        Event::Settled,
        restored(1),
        asks,
        last,
    ];
    let kept = [&before[..], &kept].concat();
    assert!(rules(&kept).contains(&"lost commit"));
}
