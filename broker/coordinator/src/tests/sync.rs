//! SyncGroup, the sync phase, and heartbeats.

use bytes::Bytes;
use tidemark_wire::ErrorCode;

use super::shell::*;
use crate::*;

/// Two members in CompletingRebalance at generation 1; the first leads.
fn joined_group(shell: &mut Shell) -> Vec<String> {
    let tokens = [shell.join(old_member(1)), shell.join(old_member(2))];
    shell.advance(2 * INITIAL_DELAY_MS);
    let ids: Vec<String> = tokens.map(|t| shell.take_join(t).member_id).to_vec();
    assert_eq!(shell.state(), "CompletingRebalance");
    ids
}

fn leader_sync(ids: &[String]) -> SyncGroup {
    SyncGroup {
        assignments: assignments(ids),
        ..sync(&ids[0], 1)
    }
}

#[test]
fn followers_wait_for_the_leader() {
    let mut shell = Shell::new();
    let ids = joined_group(&mut shell);
    let follower = shell.sync(sync(&ids[1], 1));
    assert!(shell.is_parked(follower));
    let leader = shell.synced(leader_sync(&ids));
    assert_eq!(leader.assignment, "a0");
    assert_eq!(leader.protocol_type.as_deref(), Some("consumer"));
    assert_eq!(leader.protocol_name.as_deref(), Some("range"));
    assert_eq!(shell.take_sync(follower).assignment, "a1");
    assert_eq!(shell.state(), "Stable");
}

#[test]
fn a_late_follower_gets_its_assignment_at_once() {
    let mut shell = Shell::new();
    let ids = joined_group(&mut shell);
    shell.synced(leader_sync(&ids));
    assert_eq!(shell.synced(sync(&ids[1], 1)).assignment, "a1");
    // And again, if the answer was lost.
    assert_eq!(shell.synced(sync(&ids[1], 1)).assignment, "a1");
}

#[test]
fn a_member_that_the_leader_leaves_out_gets_nothing() {
    let mut shell = Shell::new();
    let ids = joined_group(&mut shell);
    let mut request = leader_sync(&ids);
    request.assignments.remove(1);
    request
        .assignments
        .push(("stranger".into(), Bytes::from("x")));
    shell.synced(request);
    let response = shell.synced(sync(&ids[1], 1));
    assert_eq!(response.error, ErrorCode::None);
    assert_eq!(response.assignment, "");
}

#[test]
fn syncs_of_strangers_old_generations_and_other_protocols_are_refused() {
    let mut shell = Shell::new();
    let unknown_group = shell.synced(sync("nobody", 1));
    assert_eq!(unknown_group.error, ErrorCode::UnknownMemberId);
    let ids = joined_group(&mut shell);
    let id = &ids[1];
    for (request, error) in [
        (sync("nobody", 1), ErrorCode::UnknownMemberId),
        (sync(id, 0), ErrorCode::IllegalGeneration),
        (sync(id, 2), ErrorCode::IllegalGeneration),
        (
            SyncGroup {
                protocol_type: Some("connect".into()),
                ..sync(id, 1)
            },
            ErrorCode::InconsistentGroupProtocol,
        ),
        (
            SyncGroup {
                protocol_name: Some("roundrobin".into()),
                ..sync(id, 1)
            },
            ErrorCode::InconsistentGroupProtocol,
        ),
        (
            SyncGroup {
                protocol_name: None,
                ..sync(id, 1)
            },
            ErrorCode::InconsistentGroupProtocol,
        ),
        (
            SyncGroup {
                group_id: String::new(),
                ..sync(id, 1)
            },
            ErrorCode::InvalidGroupId,
        ),
    ] {
        assert_eq!(shell.synced(request).error, error);
    }
    // Before version 5 the protocol is not named.
    let token = shell.sync(SyncGroup {
        api_version: 4,
        protocol_type: None,
        protocol_name: None,
        ..sync(id, 1)
    });
    assert!(shell.is_parked(token));
}

#[test]
fn a_rebalance_sends_waiting_followers_back() {
    let mut shell = Shell::new();
    let ids = joined_group(&mut shell);
    let follower = shell.sync(sync(&ids[1], 1));
    shell.join(old_member(3));
    assert_eq!(
        shell.take_sync(follower).error,
        ErrorCode::RebalanceInProgress
    );
    let response = shell.synced(leader_sync(&ids));
    assert_eq!(response.error, ErrorCode::RebalanceInProgress);
}

#[test]
fn a_second_sync_of_one_member_answers_the_first() {
    let mut shell = Shell::new();
    let ids = joined_group(&mut shell);
    let first = shell.sync(sync(&ids[1], 1));
    let second = shell.sync(sync(&ids[1], 1));
    assert_eq!(shell.take_sync(first).error, ErrorCode::RebalanceInProgress);
    shell.synced(leader_sync(&ids));
    assert_eq!(shell.take_sync(second).assignment, "a1");
}

#[test]
fn who_does_not_sync_in_time_is_out() {
    let mut shell = Shell::new();
    let ids = joined_group(&mut shell);
    let follower = shell.sync(sync(&ids[1], 1));
    for _ in 0..12 {
        assert!(shell.is_parked(follower));
        // The leader lives, but never assigns.
        assert_eq!(shell.heartbeat(&ids[0], 1), ErrorCode::None);
        shell.advance(REBALANCE_MS / 12);
    }
    assert_eq!(
        shell.take_sync(follower).error,
        ErrorCode::RebalanceInProgress
    );
    assert_eq!(shell.heartbeat(&ids[0], 1), ErrorCode::UnknownMemberId);
    let response = shell.joined(rejoin(&ids[1]));
    assert_eq!(response.generation_id, 2);
    assert_eq!(response.leader, ids[1]);
}

#[test]
fn a_member_that_never_syncs_is_out_of_a_stable_group_too() {
    let mut shell = Shell::new();
    let ids = joined_group(&mut shell);
    shell.synced(leader_sync(&ids));
    for _ in 0..12 {
        assert_eq!(shell.heartbeat(&ids[0], 1), ErrorCode::None);
        assert_eq!(shell.heartbeat(&ids[1], 1), ErrorCode::None);
        shell.advance(REBALANCE_MS / 12);
    }
    assert_eq!(shell.heartbeat(&ids[1], 1), ErrorCode::UnknownMemberId);
    assert_eq!(shell.heartbeat(&ids[0], 1), ErrorCode::RebalanceInProgress);
}

#[test]
fn an_assignment_too_large_for_a_record_starts_over() {
    let mut shell = Shell::with(GroupConfig {
        max_group_record_bytes: 1_000,
        ..GroupConfig::default()
    });
    let ids = joined_group(&mut shell);
    let follower = shell.sync(sync(&ids[1], 1));
    let response = shell.synced(SyncGroup {
        assignments: vec![(ids[0].clone(), Bytes::from(vec![0; 1_000]))],
        ..sync(&ids[0], 1)
    });
    assert_eq!(response.error, ErrorCode::UnknownServerError);
    assert_eq!(
        shell.take_sync(follower).error,
        ErrorCode::UnknownServerError
    );
    assert_eq!(shell.state(), "PreparingRebalance");
}

#[test]
fn heartbeats_keep_a_member() {
    let mut shell = Shell::new();
    let ids = shell.stable_group(2);
    for _ in 0..10 {
        shell.advance(SESSION_MS - 1);
        assert_eq!(shell.heartbeat(&ids[0], 1), ErrorCode::None);
        assert_eq!(shell.heartbeat(&ids[1], 1), ErrorCode::None);
    }
    shell.advance(SESSION_MS - 1);
    assert_eq!(shell.heartbeat(&ids[0], 1), ErrorCode::None);
    shell.advance(1);
    // The second has missed its session by nothing.
    assert_eq!(shell.heartbeat(&ids[1], 1), ErrorCode::UnknownMemberId);
    assert_eq!(shell.heartbeat(&ids[0], 1), ErrorCode::RebalanceInProgress);
}

#[test]
fn a_commit_keeps_a_member_too() {
    let mut shell = Shell::new();
    let ids = shell.stable_group(1);
    for offset in 0..5 {
        shell.advance(SESSION_MS - 1);
        assert_eq!(shell.commit(&ids[0], 1, offset), ErrorCode::None);
    }
    assert_eq!(shell.state(), "Stable");
}

#[test]
fn heartbeats_of_strangers_and_old_generations_are_refused() {
    let mut shell = Shell::new();
    assert_eq!(shell.heartbeat("nobody", 1), ErrorCode::UnknownMemberId);
    let ids = shell.stable_group(1);
    assert_eq!(shell.heartbeat("nobody", 1), ErrorCode::UnknownMemberId);
    assert_eq!(shell.heartbeat(&ids[0], 0), ErrorCode::IllegalGeneration);
    assert_eq!(shell.heartbeat(&ids[0], 1), ErrorCode::None);
}

#[test]
fn the_last_session_that_ends_leaves_an_empty_group() {
    let mut shell = Shell::new();
    shell.stable_group(3);
    shell.advance(SESSION_MS + REBALANCE_MS);
    let group = shell.describe();
    assert_eq!(group.state, "Empty");
    assert!(group.members.is_empty());
    // Nothing but the search for expired offsets is armed.
    assert_eq!(shell.coordinator.armed_timers(), 1);
}

#[test]
fn a_parked_join_stands_for_heartbeats() {
    let mut shell = Shell::new();
    let ids = shell.stable_group(2);
    let token = shell.join(rejoin(&ids[0]));
    for _ in 0..11 {
        shell.advance(REBALANCE_MS / 12);
        assert_eq!(shell.heartbeat(&ids[1], 1), ErrorCode::RebalanceInProgress);
    }
    shell.advance(REBALANCE_MS / 12);
    let response = shell.take_join(token);
    assert_eq!(response.error, ErrorCode::None);
    assert_eq!(response.members.len(), 1);
}
