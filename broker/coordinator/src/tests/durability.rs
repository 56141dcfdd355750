//! Nothing is answered before what it depends on is committed, and nothing
//! outlives a record that was lost.

use tidemark_wire::ErrorCode;

use super::shell::*;
use crate::*;

// Mutation: with `<=` for `<` in `GroupCoordinator::committed` this turns red.
#[test]
fn no_reply_before_its_record_is_committed() {
    let mut shell = Shell::new();
    shell.commits = false;
    let token = shell.send(Request::OffsetCommit(commit("", -1, 5)));
    assert_eq!(shell.log.len(), 1);
    assert!(shell.is_parked(token));
    shell.coordinator.committed(0);
    shell.collect();
    assert!(shell.is_parked(token), "offset 0 is not below 0");
    shell.coordinator.committed(1);
    shell.collect();
    assert!(!shell.is_parked(token));
}

// Mutation: hand reads out at once in `GroupCoordinator::hold_back` and this turns red.
#[test]
fn reads_and_errors_wait_for_the_last_append_too() {
    let mut shell = Shell::new();
    shell.commits = false;
    let write = shell.send(Request::OffsetCommit(commit("", -1, 5)));
    let read = shell.send(Request::OffsetFetch(OffsetFetch {
        group_id: "g".into(),
        topics: None,
    }));
    let error = shell.send(Request::Heartbeat(Heartbeat {
        group_id: "g".into(),
        generation_id: 1,
        member_id: "nobody".into(),
        group_instance_id: None,
    }));
    let later = shell.send(Request::OffsetCommit(commit("", -1, 6)));
    for token in [write, read, error, later] {
        assert!(shell.is_parked(token));
    }
    shell.coordinator.committed(1);
    shell.collect();
    for token in [write, read, error] {
        assert!(!shell.is_parked(token));
    }
    assert!(shell.is_parked(later), "its record is the second");
}

#[test]
fn a_loaded_coordinator_answers_once_the_whole_log_is_committed() {
    let mut shell = Shell::new();
    shell.commit("", -1, 5);
    shell.commit("", -1, 6);
    shell.commits = false;
    shell.restart();
    let token = shell.send(Request::OffsetFetch(OffsetFetch {
        group_id: "g".into(),
        topics: None,
    }));
    shell.coordinator.committed(1);
    shell.collect();
    assert!(shell.is_parked(token));
    shell.coordinator.committed(2);
    shell.collect();
    assert!(!shell.is_parked(token));
}

// Mutation: apply records in `step` instead of in `appended` and this turns red.
#[test]
fn state_changes_only_after_the_append() {
    let mut shell = Shell::new();
    let token = Token(1_000);
    let request = Request::OffsetCommit(commit("", -1, 5));
    let records = shell.coordinator.handle(shell.now_ms, token, request);
    assert_eq!(records.len(), 1);
    assert_eq!(shell.coordinator.offset_count(), 0);
    shell.append(records);
    assert_eq!(shell.coordinator.offset_count(), 1);
    shell.take(token);
}

#[test]
fn an_assignment_is_handed_out_only_after_the_append() {
    let mut shell = Shell::new();
    let token = shell.join(old_member(1));
    shell.advance_until_answered(token);
    let id = shell.take_join(token).member_id;
    shell.commits = false;
    let token = shell.sync(SyncGroup {
        assignments: assignments(std::slice::from_ref(&id)),
        ..sync(&id, 1)
    });
    assert!(shell.is_parked(token));
    shell.coordinator.committed(shell.log.len() as i64);
    shell.collect();
    assert_eq!(shell.take_sync(token).assignment, "a0");
}

#[test]
fn a_failed_append_drops_the_state_and_refuses_everybody() {
    let mut shell = Shell::new();
    let ids = shell.stable_group(2);
    shell.commits = false;
    let parked = shell.join(rejoin(&ids[0]));
    let held = shell.send(Request::OffsetCommit(commit(&ids[1], 1, 5)));
    let token = Token(1_000);
    let lost = Request::OffsetCommit(commit(&ids[1], 1, 6));
    let records = shell.coordinator.handle(shell.now_ms, token, lost);
    assert_eq!(records.len(), 1);
    shell
        .coordinator
        .append_failed(ErrorCode::NotEnoughReplicas);
    shell.collect();
    assert!(!shell.coordinator.is_active());
    assert_eq!(shell.coordinator.next_deadline_ms(), None);
    let error = ErrorCode::CoordinatorNotAvailable;
    assert_eq!(shell.take_join(parked).error, error);
    for token in [held, token] {
        match shell.take(token) {
            Response::OffsetCommit(response) => {
                assert_eq!(response.topics[0].partitions, [(0, error)]);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(
        shell.heartbeat(&ids[0], 1),
        ErrorCode::NotCoordinator,
        "until another is loaded"
    );
    // What was appended is there again, what was not is not.
    shell.commits = true;
    shell.restart();
    assert_eq!(shell.offset_of("t"), 5);
    assert_eq!(shell.heartbeat(&ids[0], 1), ErrorCode::None);
}

#[test]
fn append_errors_are_told_in_words_that_clients_of_a_coordinator_know() {
    for (append, told) in [
        (ErrorCode::NotLeaderOrFollower, ErrorCode::NotCoordinator),
        (ErrorCode::KafkaStorageError, ErrorCode::NotCoordinator),
        (
            ErrorCode::RequestTimedOut,
            ErrorCode::CoordinatorNotAvailable,
        ),
        (ErrorCode::MessageTooLarge, ErrorCode::UnknownServerError),
    ] {
        let mut shell = Shell::new();
        let token = shell.join(old_member(1));
        shell.coordinator.append_failed(append);
        shell.collect();
        assert_eq!(shell.take_join(token).error, told);
    }
}

#[test]
fn who_resigns_refuses_everybody() {
    let mut shell = Shell::new();
    let ids = shell.stable_group(1);
    let token = shell.join(rejoin(&ids[0]));
    let parked = shell.join(old_member(9));
    shell.coordinator.resign();
    shell.collect();
    // The first was answered before: it was alone.
    assert_eq!(shell.take_join(token).error, ErrorCode::None);
    assert_eq!(shell.take_join(parked).error, ErrorCode::NotCoordinator);
}

#[test]
fn a_loading_coordinator_asks_for_patience() {
    let mut coordinator = GroupCoordinator::new(GroupConfig::default());
    let requests = [
        Request::JoinGroup(new_member(1)),
        Request::SyncGroup(sync("m", 1)),
        Request::OffsetCommit(commit("m", 1, 1)),
        Request::DescribeGroups(DescribeGroups {
            api_version: 6,
            group_ids: vec!["g".into()],
        }),
    ];
    for (index, request) in requests.into_iter().enumerate() {
        let refusal = Response::refusal(&request, ErrorCode::CoordinatorLoadInProgress);
        let token = Token(index as u64);
        assert!(coordinator.handle(0, token, request).is_empty());
        assert_eq!(coordinator.take_replies(), [(token, refusal)]);
    }
    // A member in good standing need not be alarmed.
    let heartbeat = Request::Heartbeat(Heartbeat {
        group_id: "g".into(),
        generation_id: 1,
        member_id: "m".into(),
        group_instance_id: None,
    });
    assert!(coordinator.handle(0, Token(9), heartbeat).is_empty());
    let replies = coordinator.take_replies();
    assert_eq!(replies, [(Token(9), Response::Heartbeat(ErrorCode::None))]);
}

#[test]
fn nothing_is_decided_between_a_step_and_its_append() {
    let mut shell = Shell::new();
    let first = Token(1_000);
    let request = Request::OffsetCommit(commit("", -1, 5));
    let records = shell
        .coordinator
        .handle(shell.now_ms, first, request.clone());
    let early = shell
        .coordinator
        .handle(shell.now_ms, Token(1_001), request);
    assert!(early.is_empty());
    assert!(shell.coordinator.tick(i64::MAX).is_empty());
    shell.append(records);
    match shell.take(Token(1_001)) {
        Response::OffsetCommit(response) => assert_eq!(
            response.topics[0].partitions[0].1,
            ErrorCode::CoordinatorNotAvailable
        ),
        other => panic!("{other:?}"),
    }
    shell.take(first);
}

#[test]
fn members_are_kept_over_a_restart_and_their_sessions_begin_anew() {
    let mut shell = Shell::new();
    let ids = shell.stable_group(2);
    shell.advance(SESSION_MS - 1);
    shell.restart();
    assert_eq!(shell.state(), "Stable");
    shell.advance(SESSION_MS - 1);
    assert_eq!(shell.heartbeat(&ids[0], 1), ErrorCode::None);
    assert_eq!(shell.synced(sync(&ids[1], 1)).assignment, "a1");
    shell.advance(SESSION_MS);
    assert_eq!(shell.heartbeat(&ids[0], 1), ErrorCode::UnknownMemberId);
}

#[test]
fn a_member_that_was_lost_with_an_unfinished_rebalance_rejoins() {
    let mut shell = Shell::new();
    let ids = shell.stable_group(1);
    shell.join(old_member(2));
    let token = shell.join(rejoin(&ids[0]));
    assert_eq!(shell.take_join(token).generation_id, 2);
    shell.restart();
    // Generation 2 was never stored.
    assert_eq!(shell.heartbeat(&ids[0], 2), ErrorCode::IllegalGeneration);
    let token = shell.join(rejoin(&ids[0]));
    assert_eq!(shell.take_join(token).generation_id, 2);
}
