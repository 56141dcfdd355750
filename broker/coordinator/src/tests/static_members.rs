//! Static members (KIP-345): fencing, and restarts that disturb nobody.

use tidemark_wire::ErrorCode;

use super::shell::*;
use crate::*;

/// Static members `x` (the leader) and `y`, stable at generation 1.
fn static_group(shell: &mut Shell) -> Vec<String> {
    shell.stabilize(vec![static_member("x", 1), static_member("y", 2)], 1)
}

fn static_sync(member_id: &str, instance_id: &str) -> SyncGroup {
    SyncGroup {
        group_instance_id: Some(instance_id.into()),
        ..sync(member_id, 1)
    }
}

#[test]
fn a_static_member_needs_no_second_request_and_is_named_after_its_instance() {
    let mut shell = Shell::new();
    let ids = static_group(&mut shell);
    assert_eq!(ids[0], "x-01010101-0101-4101-8101-010101010101");
    let members = shell.describe().members;
    assert_eq!(members[0].group_instance_id.as_deref(), Some("x"));
}

#[test]
fn a_restarted_follower_is_replaced_without_a_rebalance() {
    let mut shell = Shell::new();
    let ids = static_group(&mut shell);
    let response = shell.joined(static_member("y", 7));
    assert_eq!(response.error, ErrorCode::None);
    assert_eq!(response.generation_id, 1);
    assert_eq!(response.leader, ids[0]);
    assert!(!response.skip_assignment);
    assert_ne!(response.member_id, ids[1]);
    assert_eq!(shell.state(), "Stable");
    let synced = shell.synced(static_sync(&response.member_id, "y"));
    assert_eq!(synced.assignment, "a1");
    // The one it replaces is fenced.
    let fenced = shell.heartbeat_as(&ids[1], Some("y"), 1);
    assert_eq!(fenced, ErrorCode::FencedInstanceId);
    assert_eq!(
        shell.synced(static_sync(&ids[1], "y")).error,
        ErrorCode::FencedInstanceId
    );
    assert_eq!(
        shell
            .joined(JoinGroup {
                member_id: ids[1].clone(),
                ..static_member("y", 8)
            })
            .error,
        ErrorCode::FencedInstanceId
    );
    assert_eq!(
        shell.commit_with(OffsetCommit {
            group_instance_id: Some("y".into()),
            ..commit(&ids[1], 1, 5)
        }),
        ErrorCode::FencedInstanceId
    );
    // Without the instance id it is merely unknown.
    assert_eq!(shell.heartbeat(&ids[1], 1), ErrorCode::UnknownMemberId);
}

#[test]
fn a_replacement_survives_a_restart_of_the_coordinator() {
    let mut shell = Shell::new();
    static_group(&mut shell);
    let response = shell.joined(static_member("y", 7));
    shell.restart();
    let id = &response.member_id;
    assert_eq!(shell.heartbeat_as(id, Some("y"), 1), ErrorCode::None);
    assert_eq!(shell.synced(static_sync(id, "y")).assignment, "a1");
}

#[test]
fn a_restarted_leader_is_told_to_skip_the_assignment() {
    let mut shell = Shell::new();
    static_group(&mut shell);
    let response = shell.joined(static_member("x", 7));
    assert_eq!(response.generation_id, 1);
    assert_eq!(response.leader, response.member_id);
    assert!(response.skip_assignment);
    assert_eq!(response.members.len(), 2);
    assert_eq!(shell.state(), "Stable");
}

#[test]
fn a_restarted_leader_of_before_version_9_does_not_learn_that_it_leads() {
    let mut shell = Shell::new();
    let ids = static_group(&mut shell);
    let response = shell.joined(JoinGroup {
        api_version: 8,
        ..static_member("x", 7)
    });
    assert_eq!(response.leader, ids[0]);
    assert!(!response.skip_assignment);
    assert!(response.members.is_empty());
    assert_eq!(shell.state(), "Stable");
    // The coordinator does know: when it rejoins there is a rebalance.
    let token = shell.join(JoinGroup {
        member_id: response.member_id,
        ..static_member("x", 7)
    });
    assert!(shell.is_parked(token));
}

#[test]
fn a_restart_that_changes_the_protocol_rebalances() {
    let mut shell = Shell::new();
    let join = |instance: &str, number, names: &[&str]| JoinGroup {
        protocols: names
            .iter()
            .map(|n| ((*n).into(), subscription(&["t"])))
            .collect(),
        ..static_member(instance, number)
    };
    let ids = shell.stabilize(
        vec![
            join("x", 1, &["range", "sticky"]),
            join("y", 2, &["range", "sticky"]),
        ],
        1,
    );
    let token = shell.join(join("y", 3, &["sticky"]));
    assert!(shell.is_parked(token));
    let fenced = shell.heartbeat_as(&ids[1], Some("y"), 1);
    assert_eq!(fenced, ErrorCode::FencedInstanceId);
    let leader = shell.join(JoinGroup {
        member_id: ids[0].clone(),
        ..join("x", 1, &["range", "sticky"])
    });
    let response = shell.take_join(leader);
    assert_eq!(response.generation_id, 2);
    assert_eq!(response.protocol_name.as_deref(), Some("sticky"));
}

#[test]
fn a_restart_before_the_assignment_rebalances() {
    let mut shell = Shell::new();
    let tokens = [
        shell.join(static_member("x", 1)),
        shell.join(static_member("y", 2)),
    ];
    shell.advance_until_answered(tokens[0]);
    let old = shell.take_join(tokens[1]).member_id;
    let parked = shell.sync(static_sync(&old, "y"));
    let again = shell.join(static_member("y", 3));
    assert_eq!(shell.take_sync(parked).error, ErrorCode::FencedInstanceId);
    assert!(shell.is_parked(again));
    assert_eq!(shell.state(), "PreparingRebalance");
}

#[test]
fn a_restart_while_its_join_is_parked_fences_the_parked_one() {
    let mut shell = Shell::new();
    let first = shell.join(static_member("x", 1));
    let second = shell.join(static_member("x", 2));
    assert_eq!(shell.take_join(first).error, ErrorCode::FencedInstanceId);
    shell.advance_until_answered(second);
    let response = shell.take_join(second);
    assert_eq!(response.leader, response.member_id);
    assert_eq!(response.members.len(), 1);
}

#[test]
fn a_static_member_that_is_away_stays_until_its_session_ends() {
    let mut shell = Shell::new();
    let ids = shell.stabilize(
        vec![
            JoinGroup {
                session_timeout_ms: 120_000,
                ..static_member("x", 1)
            },
            static_member("y", 2),
        ],
        1,
    );
    // `y` changes its topics: a rebalance that `x` sleeps through.
    let token = shell.join(JoinGroup {
        member_id: ids[1].clone(),
        protocols: vec![("range".into(), subscription(&["u"]))],
        ..static_member("y", 2)
    });
    shell.advance(REBALANCE_MS);
    let response = shell.take_join(token);
    assert_eq!(response.generation_id, 2);
    assert_eq!(response.leader, ids[1], "the one that is there leads");
    assert_eq!(response.members.len(), 2, "the other is still in");
}

#[test]
fn when_no_static_member_comes_back_the_group_waits_for_their_sessions() {
    let mut shell = Shell::new();
    let join = |instance: &str, number| JoinGroup {
        session_timeout_ms: 200_000,
        rebalance_timeout_ms: 1_000,
        ..static_member(instance, number)
    };
    let ids = shell.stabilize(vec![join("x", 1), join("y", 2)], 1);
    shell.leave(vec![leaving(&ids[0])]);
    assert_eq!(shell.state(), "PreparingRebalance");
    shell.advance(190_000);
    assert_eq!(shell.state(), "PreparingRebalance");
    shell.advance(10_000);
    assert_eq!(shell.state(), "Empty");
}

#[test]
fn an_administrator_removes_a_static_member_by_its_instance_id() {
    let mut shell = Shell::new();
    let ids = static_group(&mut shell);
    let by_instance = |member_id: &str, instance: &str| LeavingMember {
        member_id: member_id.into(),
        group_instance_id: Some(instance.into()),
        reason: None,
    };
    let response = shell.leave(vec![
        by_instance("", "y"),
        by_instance("", "nobody"),
        by_instance("wrong", "x"),
    ]);
    let errors: Vec<ErrorCode> = response.members.iter().map(|m| m.error).collect();
    assert_eq!(
        errors,
        [
            ErrorCode::None,
            ErrorCode::UnknownMemberId,
            ErrorCode::FencedInstanceId
        ]
    );
    assert_eq!(
        shell.heartbeat_as(&ids[0], Some("x"), 1),
        ErrorCode::RebalanceInProgress
    );
    assert_eq!(
        shell.heartbeat_as(&ids[1], Some("y"), 1),
        ErrorCode::UnknownMemberId
    );
}
