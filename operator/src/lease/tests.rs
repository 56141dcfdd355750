//! Who may take the Lease, and for how long its holder acts.

use super::*;

fn held(by: &str, renewed_ms: i64) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(by.to_owned()),
        lease_duration_seconds: Some(15),
        renew_time: Timestamp::from_millisecond(renewed_ms).ok().map(MicroTime),
        ..LeaseSpec::default()
    }
}

#[test]
fn what_nobody_holds_is_taken_at_once() {
    let mut seen = Seen::default();
    assert!(seen.may_take(&LeaseSpec::default(), "b", 0));
    assert!(seen.may_take(&held("", 0), "b", 0));
}

#[test]
fn what_another_renews_is_never_taken_whatever_its_clock_says() {
    let mut seen = Seen::default();
    for round in 0..100 {
        // Its clock is years behind.
        assert!(!seen.may_take(&held("a", round), "b", round * 14_000));
    }
}

#[test]
fn what_nobody_renews_any_more_is_taken_after_it_has_run_out() {
    let mut seen = Seen::default();
    let dead = held("a", 1 << 40);
    assert!(!seen.may_take(&dead, "b", 5_000), "it was only just seen");
    assert!(!seen.may_take(&dead, "b", 20_000));
    assert!(seen.may_take(&dead, "b", 20_001));
    // Seen anew it begins again.
    assert!(!seen.may_take(&held("c", 0), "b", 20_002));
}

#[test]
fn its_holder_renews_it_and_counts_as_the_same() {
    let mut seen = Seen::default();
    let first = taken(&LeaseSpec::default(), "a", Timestamp::UNIX_EPOCH);
    assert_eq!(first.lease_transitions, Some(1));
    assert!(seen.may_take(&first, "a", 0));
    let later = Timestamp::from_millisecond(2_000).expect("a time");
    let renewed = taken(&first, "a", later);
    assert_eq!(renewed.acquire_time, first.acquire_time);
    assert_ne!(renewed.renew_time, first.renew_time);
    assert_eq!(renewed.lease_transitions, Some(1));
    let lost = taken(&renewed, "b", later);
    assert_eq!(lost.lease_transitions, Some(2));
    assert_ne!(lost.acquire_time, first.acquire_time);
}

/// One that stands still for any time acts no more by the time that another one may begin, with as
/// long between as a request may take.
#[test]
fn two_never_act_at_once() {
    let (leader, mut seen) = (Leadership::default(), Seen::default());
    assert!(!leader.holds_at(1), "nobody leads by itself");
    let (mut lease, mut taken_at) = (held("a", 0), None);
    leader.renewed(0);
    for now_ms in (0..60_000).step_by(100) {
        // It renews once more and then stands still.
        if now_ms == 4_000 {
            lease = held("a", now_ms);
            leader.renewed(now_ms);
        }
        if taken_at.is_none() && seen.may_take(&lease, "b", now_ms) {
            taken_at = Some(now_ms);
        }
        if let Some(at) = taken_at {
            assert!(
                !leader.holds_at(at - 5_000),
                "5 s before {at} it acted still"
            );
        }
    }
    assert!(taken_at.is_some(), "nobody takes over");
}
