//! What is said of a group, and when its offsets are moved.

use super::*;
use crate::common::ClusterRef;

fn spec() -> ConsumerGroupSpec {
    ConsumerGroupSpec {
        cluster_ref: ClusterRef {
            name: "orders".into(),
        },
        group_id: None,
        min_members: None,
        lag: None,
        reset: None,
    }
}

fn bounds(records: Option<i64>, time: Option<&str>) -> super::super::LagBounds {
    super::super::LagBounds {
        records,
        time: time.map(str::to_owned),
        stuck_after: "5m".into(),
    }
}

fn offsets(all: &[(i32, i64)]) -> Offsets {
    let offset = |(partition, offset): &(i32, i64)| (("t".to_owned(), *partition), *offset);
    all.iter().map(offset).collect()
}

fn reset(dry_run: bool) -> Reset {
    Reset {
        token: "one".into(),
        not_after: None,
        topics: vec![],
        to: ResetTo {
            earliest: Some(true),
            ..ResetTo::default()
        },
        dry_run,
        when_active: WhenActive::Wait,
    }
}

fn view(members: i32, committed: i64) -> View {
    View {
        members,
        committed: offsets(&[(0, committed)]),
        ends: offsets(&[(0, 100)]),
        ..View::default()
    }
}

fn moves() -> Vec<Move> {
    vec![Move {
        topic: "t".into(),
        partition: 0,
        from: Some(60),
        to: 0,
    }]
}

fn record(phase: Phase) -> Record {
    Record {
        token: "one".into(),
        phase,
        moves: moves(),
    }
}

fn decide(reset: &Reset, record: Option<&Record>, view: &View) -> Decision {
    decide_reset(Some(reset), record, view, &moves(), 1_000).expect("a good spec")
}

#[test]
fn lag_is_counted_where_something_is_committed() {
    let view = View {
        members: 1,
        committed: offsets(&[(0, 40), (1, 7), (2, 9)]),
        ends: offsets(&[(0, 100), (1, 7), (2, 8), (3, 1_000)]),
        ..View::default()
    };
    let (status, topics) = lag(&view);
    assert_eq!(status.records, 60);
    assert_eq!(status.worst.as_deref(), Some("t-0"));
    assert_eq!(topics, [("t".to_owned(), 60)].into());
}

#[test]
fn bounds_are_told_on_both_sides() {
    let bounded = ConsumerGroupSpec {
        lag: Some(bounds(Some(10), None)),
        min_members: Some(2),
        ..spec()
    };
    let of = |records| LagStatus {
        records,
        ..LagStatus::default()
    };
    let none = View::default();
    let lag = |records| {
        let told = within_bounds(&bounded, &of(records), (&none, None), 0);
        told.map(|(well, why, _)| (well, why))
    };
    assert_eq!(lag(10), Some((true, "WithinBounds")));
    assert_eq!(lag(11), Some((false, "TooFarBehind")));
    assert_eq!(within_bounds(&spec(), &of(11), (&none, None), 0), None);
    let members = |count| populated(&bounded, count).map(|(well, why, _)| (well, why));
    assert_eq!(members(2), Some((true, "EnoughMembers")));
    assert_eq!(members(1), Some((false, "TooFewMembers")));
    assert_eq!(populated(&spec(), 0), None);
}

#[test]
fn the_oldest_record_is_held_against_its_bound() {
    let bounded = ConsumerGroupSpec {
        lag: Some(bounds(None, Some("1m"))),
        ..spec()
    };
    let told = |oldest_ms: Option<i64>| {
        let view = View {
            oldest_ms,
            ..view(1, 60)
        };
        let lag = lag(&view).0;
        let told = within_bounds(&bounded, &lag, (&view, None), 100_000);
        told.map(|(well, why, _)| (well, why))
    };
    assert_eq!(told(Some(40_000)), Some((true, "WithinBounds")));
    assert_eq!(told(Some(39_999)), Some((false, "TooOld")));
    assert_eq!(told(None), Some((true, "WithinBounds")), "nobody told");
    let wrong = ConsumerGroupSpec {
        lag: Some(bounds(None, Some("1w"))),
        ..spec()
    };
    let message = validate("g", &wrong).expect_err("a unit").message;
    assert!(message.starts_with("lag.time: "), "{message}");
}

#[test]
fn a_group_is_stuck_where_it_stands_with_members_and_lag() {
    let bounded = ConsumerGroupSpec {
        lag: Some(bounds(None, None)),
        ..spec()
    };
    let minute = 60_000;
    let first = standing(&Standing::new(), &view(1, 60), 0);
    let told = |before: &Standing, view: &View, now_ms: i64| {
        let standing = standing(before, view, now_ms);
        let text = stuck(&bounded, view, &standing, now_ms);
        text.map(|text| text.contains("t-0 stands at offset 60 for more than 5m"))
    };
    assert_eq!(told(&first, &view(1, 60), 5 * minute - 1), None);
    assert_eq!(told(&first, &view(1, 60), 5 * minute), Some(true));
    assert_eq!(told(&first, &view(1, 61), 5 * minute), None, "it gets on");
    assert_eq!(
        told(&first, &view(1, 100), 5 * minute),
        None,
        "it has no lag"
    );
    assert_eq!(
        told(&first, &view(0, 60), 5 * minute),
        None,
        "nobody is there"
    );
    // One that had no lag has stood there for no time.
    let idle = standing(&Standing::new(), &view(1, 100), 0);
    assert_eq!(told(&idle, &view(1, 60), 9 * minute), None);
    let nobody_asks = stuck(&spec(), &view(1, 60), &first, 9 * minute);
    assert_eq!(nobody_asks, None);
    // Who has it is named.
    let mut owned = view(1, 60);
    let text = |view: &View| stuck(&bounded, view, &first, 9 * minute).expect("it is stuck");
    assert!(text(&owned).ends_with("no member has it"));
    let owner = "worker-7 at 10.0.0.9".to_owned();
    owned.owners.insert(("t".into(), 0), owner);
    assert!(text(&owned).ends_with("worker-7 at 10.0.0.9 has it"));
}

#[test]
fn a_dry_run_shows_and_does_not_use_up_the_token() {
    let empty = view(0, 60);
    assert_eq!(
        decide(&reset(true), None, &empty),
        Decision::DryRun(moves())
    );
    // The same token then runs.
    assert_eq!(
        decide(&reset(false), None, &empty),
        Decision::Apply(moves())
    );
}

#[test]
fn a_reset_is_done_once() {
    let applied = record(Phase::Applied);
    // The group has moved on since, even to where it was.
    for committed in [0, 60, 80] {
        let decision = decide(&reset(false), Some(&applied), &view(0, committed));
        assert_eq!(decision, Decision::Applied(moves()));
    }
    let mut next = reset(false);
    next.token = "two".into();
    assert_eq!(
        decide(&next, Some(&applied), &view(0, 60)),
        Decision::Apply(moves())
    );
}

#[test]
fn a_reset_is_not_done_again_when_what_stands_beside_the_cluster_is_lost() {
    let known = |phase| Record {
        moves: vec![],
        ..record(phase)
    };
    let of = |in_cluster, beside| recorded("one", in_cluster, beside);
    let decide = |record: Option<Record>| decide(&reset(false), record.as_ref(), &view(0, 60));
    let applied = of(Some(known(Phase::Applied)), None);
    assert_eq!(decide(applied), Decision::Applied(vec![]));
    assert!(matches!(
        decide(of(Some(known(Phase::Begun)), None)),
        Decision::Refuse(_)
    ));
    // With it the moves are known, and the cluster says how far it is.
    let both = of(Some(known(Phase::Applied)), Some(record(Phase::Begun)));
    assert_eq!(decide(both), Decision::Applied(moves()));
    let both = of(Some(known(Phase::Begun)), Some(record(Phase::Begun)));
    assert_eq!(decide(both), Decision::Apply(moves()));
    // Written down first beside the cluster, and the operator was killed.
    let other = Record {
        token: "zero".into(),
        ..known(Phase::Applied)
    };
    let begun = of(Some(other.clone()), Some(record(Phase::Begun)));
    assert_eq!(decide(begun), Decision::Apply(moves()));
    assert_eq!(of(Some(other), None), None);
}

#[test]
fn a_reset_that_was_cut_short_is_judged_by_the_offsets() {
    let begun = record(Phase::Begun);
    let of = |members, committed| decide(&reset(false), Some(&begun), &view(members, committed));
    assert_eq!(of(0, 60), Decision::Apply(moves()));
    assert_eq!(of(0, 0), Decision::Confirm(moves()));
    // Members came and went on from there.
    assert_eq!(of(3, 10), Decision::Confirm(moves()));
    // They came before it was done.
    assert!(matches!(of(3, 60), Decision::Wait(_)));
    // Somebody made it a dry run meanwhile: what was done stands, and what was not is not.
    assert_eq!(
        decide(&reset(true), Some(&begun), &view(0, 60)),
        Decision::DryRun(moves())
    );
    let decision = decide(&reset(true), Some(&begun), &view(0, 0));
    assert_eq!(decision, Decision::Confirm(moves()));
}

#[test]
fn a_group_with_members_is_waited_for_or_refused() {
    let mut reset = reset(false);
    assert!(matches!(
        decide(&reset, None, &view(2, 60)),
        Decision::Wait(_)
    ));
    reset.when_active = WhenActive::Refuse;
    assert!(matches!(
        decide(&reset, None, &view(2, 60)),
        Decision::Refuse(_)
    ));
    let refused = record(Phase::Refused);
    assert_eq!(
        decide(&reset, Some(&refused), &view(0, 60)),
        Decision::Refused
    );
}

#[test]
fn a_reset_has_its_time() {
    let mut late = reset(false);
    late.not_after = Some("1970-01-01T00:00:00.999Z".into());
    assert_eq!(decide(&late, None, &view(0, 60)), Decision::Expired);
    late.not_after = Some("1970-01-01T00:00:01Z".into());
    assert_eq!(decide(&late, None, &view(0, 60)), Decision::Apply(moves()));
}

#[test]
fn there_is_one_target() {
    let to = |change: &dyn Fn(&mut ResetTo)| {
        let mut to = ResetTo::default();
        change(&mut to);
        target(&to, 10_000)
    };
    assert_eq!(to(&|t| t.ago = Some("4s".into())), Ok(Target::At(6_000)));
    assert_eq!(to(&|t| t.shift = Some(-5)), Ok(Target::Shift(-5)));
    assert_eq!(
        to(&|t| t.time = Some("1970-01-01T00:00:02Z".into())),
        Ok(Target::At(2_000))
    );
    let reason = |change: &dyn Fn(&mut ResetTo)| to(change).expect_err("refused").reason;
    assert_eq!(reason(&|_| ()), "InvalidReset");
    assert_eq!(
        reason(&|t| (t.earliest, t.shift) = (Some(true), Some(1))),
        "InvalidReset"
    );
    assert_eq!(reason(&|t| t.time = Some("noon".into())), "InvalidTime");
    assert_eq!(reason(&|t| t.ago = Some("6w".into())), "InvalidUnit");
}
