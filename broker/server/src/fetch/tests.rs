//! Fetch sessions and ready lists.

use super::session::{Interest, Opened, Sessions, TopicRef, Wanted};
use super::signal::Signal;
use tidemark_wire::ErrorCode;

fn wanted(name: &str, index: i32, fetch_offset: i64) -> Wanted {
    Wanted {
        topic: TopicRef::Name(name.into()),
        index,
        fetch_offset,
        max_bytes: 1,
        current_leader_epoch: -1,
        last_fetched_epoch: -1,
        follower: None,
    }
}

fn interest(count: i32) -> Interest<()> {
    let mut interest = Interest::default();
    for index in 0..count {
        interest.want(wanted("t", index, 0));
    }
    interest
}

#[test]
fn a_session_goes_on_only_with_its_next_epoch() {
    let mut sessions = Sessions::default();
    assert!(sessions.keep_new(7, interest(1), false, 10, 0));
    assert!(matches!(
        sessions.open(7, 2, false, 0),
        Opened::Refused(ErrorCode::InvalidFetchSessionEpoch)
    ));
    assert!(matches!(
        sessions.open(7, 1, true, 0),
        Opened::Refused(ErrorCode::FetchSessionTopicIdError)
    ));
    let Opened::Incremental(taken) = sessions.open(7, 1, false, 0) else {
        panic!("session 7 has epoch 1")
    };
    assert!(matches!(
        sessions.open(7, 2, false, 0),
        Opened::Refused(ErrorCode::InvalidFetchSessionEpoch)
    ));
    sessions.put_back(7, taken);
    assert!(matches!(
        sessions.open(7, 2, false, 0),
        Opened::Incremental(_)
    ));
    assert!(matches!(
        sessions.open(8, 1, false, 0),
        Opened::Refused(ErrorCode::FetchSessionIdNotFound)
    ));
}

#[test]
fn the_final_epoch_closes_a_session() {
    let mut sessions = Sessions::default();
    assert!(sessions.keep_new(7, interest(1), false, 10, 0));
    assert!(matches!(
        sessions.open(7, -1, false, 0),
        Opened::Sessionless
    ));
    assert_eq!(sessions.count(), (0, 0));
}

#[test]
fn a_full_cache_gives_way_only_to_the_idle_and_the_small() {
    let mut sessions = Sessions::default();
    assert!(sessions.keep_new(1, interest(2), false, 2, 0));
    assert!(sessions.keep_new(2, interest(9), false, 2, 0));
    assert!(
        !sessions.keep_new(3, interest(5), false, 2, 1_000),
        "both are in use and young"
    );
    assert!(matches!(
        sessions.open(1, 1, false, 200_000),
        Opened::Incremental(_)
    ));
    assert!(matches!(
        sessions.open(2, 1, false, 200_000),
        Opened::Incremental(_)
    ));
    assert!(
        sessions.keep_new(3, interest(5), false, 2, 200_001),
        "a smaller one had its time"
    );
    assert!(matches!(
        sessions.open(1, 2, false, 200_001),
        Opened::Refused(_)
    ));
    assert!(
        sessions.keep_new(4, interest(1), false, 2, 400_000),
        "one was idle"
    );
}

#[test]
fn forgotten_slots_are_used_again() {
    let mut interest: Interest<()> = Interest::default();
    let a = interest.want(wanted("t", 0, 0));
    let b = interest.want(wanted("t", 1, 0));
    assert_eq!(interest.want(wanted("t", 0, 5)), a);
    assert_eq!(
        interest.entry(a).map(|entry| entry.wanted.fetch_offset),
        Some(5)
    );
    interest.forget(&TopicRef::Name("t".into()), 0);
    assert!(interest.entry(a).is_none());
    assert_eq!(interest.want(wanted("t", 2, 0)), a);
    assert_ne!(a, b);
    assert_eq!(interest.len(), 2);
}

#[test]
fn a_signal_lists_a_slot_once_until_taken() {
    let signal = Signal::new();
    signal.mark(3);
    signal.mark(1);
    signal.mark(3);
    assert_eq!(signal.take(), vec![3, 1]);
    signal.mark(3);
    assert_eq!(signal.take(), vec![3]);
}

#[test]
fn followers_sessions_are_kept_and_make_no_room() {
    let mut sessions = Sessions::default();
    assert!(sessions.keep_new(1, interest(1), true, 1, 0));
    assert!(
        sessions.keep_for_follower(2, interest(1), 0),
        "above the limit"
    );
    assert!(sessions.keep_new(3, interest(9), true, 2, 900_000));
    assert!(matches!(sessions.open(1, 1, true, 0), Opened::Refused(_)));
    assert!(matches!(
        sessions.open(2, 1, true, 0),
        Opened::Incremental(_)
    ));
}
