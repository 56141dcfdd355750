//! What moves in a time is what the rate allows, whatever the pieces and the pauses.

use crate::Throttle;
use proptest::prelude::*;

#[test]
fn what_was_moved_is_waited_for_and_what_was_not_used_is_gone() {
    let mut throttle = Throttle::default();
    assert_eq!(throttle.wait_ms(0, 1000), 0, "full at first");
    // A piece goes whole, and is made up for.
    throttle.moved(0, 1000, 1500);
    assert_eq!(throttle.wait_ms(0, 1000), 501);
    assert_eq!(throttle.wait_ms(500, 1000), 1);
    assert_eq!(throttle.wait_ms(501, 1000), 0);
    // A minute of nothing is one second's worth.
    throttle.moved(60_501, 1000, 1000);
    assert_eq!(throttle.wait_ms(60_501, 1000), 1);
}

#[test]
fn a_rate_that_is_raised_counts_within_a_second_and_zero_stops_all() {
    let mut throttle = Throttle::default();
    throttle.moved(0, 10, 1_000_000);
    assert_eq!(
        throttle.wait_ms(0, 10),
        1000,
        "not for the day that it takes"
    );
    assert_eq!(throttle.wait_ms(1000, i64::MAX), 0);
    assert_eq!(throttle.wait_ms(1000, 0), 1000);
    assert_eq!(throttle.wait_ms(1_000_000, 0), 1000);
}

proptest! {
    #[test]
    fn no_more_than_the_rate_moves_and_no_less_is_allowed(
        rate in 1..10_000_000_i64,
        pieces in prop::collection::vec((1..100_000_u64, 0..500_i64), 1..200),
    ) {
        let mut throttle = Throttle::default();
        let (mut now, mut moved, mut last) = (0, 0_u64, 0);
        for (bytes, idle) in pieces {
            now += idle;
            let wait = throttle.wait_ms(now, rate);
            prop_assert!((0..=1000).contains(&wait));
            if wait > 0 {
                now += wait;
                continue;
            }
            moved += bytes;
            last = bytes;
            throttle.moved(now, rate, bytes);
        }
        let allowed = rate as u64 * (1000 + now as u64) / 1000;
        prop_assert!(moved - last <= allowed, "{moved} moved, {allowed} allowed");
        // All that was moved is made up for after that long: nothing is waited for twice.
        let owed = moved as i64 * 1000 / rate + 1;
        prop_assert_eq!(throttle.wait_ms(now + owed, rate), 0);
    }
}
