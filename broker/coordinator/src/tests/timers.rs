//! What a heartbeat costs.

use tidemark_wire::ErrorCode;

use super::shell::*;
use crate::timers::{Timer, TimerKey, Timers};

// Mutation: let `Timers::set` re-insert later deadlines at once and the sequence
// moves with every heartbeat: this turns red.
#[test]
fn a_heartbeat_does_not_touch_the_map_of_deadlines() {
    let mut timers = Timers::default();
    let mut timer = Timer::default();
    timers.set(&mut timer, 10, || TimerKey::Retention);
    let sequence = timers.next_sequence();
    for deadline_ms in 11..1_000 {
        timers.set(&mut timer, deadline_ms, || TimerKey::Retention);
    }
    assert_eq!((timers.next_sequence(), timers.len()), (sequence, 1));
    assert_eq!(timers.next_deadline_ms(), Some(10));
    // When the entry comes due it moves to the last deadline.
    let (entry, key) = timers.pop_due(10, u64::MAX).unwrap();
    assert!(!timers.fired(&mut timer, entry, 10, key));
    assert_eq!(timers.next_deadline_ms(), Some(999));
    let (entry, key) = timers.pop_due(999, u64::MAX).unwrap();
    assert!(timers.fired(&mut timer, entry, 999, key));
    assert_eq!(timers.next_deadline_ms(), None);
}

#[test]
fn an_earlier_deadline_moves_the_entry() {
    let mut timers = Timers::default();
    let mut timer = Timer::default();
    timers.set(&mut timer, 100, || TimerKey::Retention);
    timers.set(&mut timer, 50, || TimerKey::Retention);
    assert_eq!((timers.next_deadline_ms(), timers.len()), (Some(50), 1));
    timers.cancel(&mut timer);
    assert_eq!(timers.len(), 0);
}

#[test]
fn timers_do_not_pile_up() {
    let mut shell = Shell::new();
    let ids = shell.stable_group(3);
    // Three sessions and the search for expired offsets.
    assert_eq!(shell.coordinator.armed_timers(), 4);
    for _ in 0..100 {
        shell.advance(SESSION_MS / 2);
        for id in &ids {
            assert_eq!(shell.heartbeat(id, 1), ErrorCode::None);
        }
        assert_eq!(shell.coordinator.armed_timers(), 4);
    }
}
