//! LeaveGroup.

use tidemark_wire::ErrorCode;

use super::shell::*;
use crate::*;

#[test]
fn the_last_member_leaves_an_empty_group() {
    let mut shell = Shell::new();
    let ids = shell.stable_group(1);
    let response = shell.leave(vec![leaving(&ids[0])]);
    assert_eq!(response.error, ErrorCode::None);
    assert_eq!(response.members[0].error, ErrorCode::None);
    assert_eq!(response.single_error(), ErrorCode::None);
    assert_eq!(shell.state(), "Empty");
    shell.restart();
    let group = shell.describe();
    assert_eq!(group.state, "Empty");
    assert_eq!(group.protocol_type, "consumer");
}

#[test]
fn those_that_stay_are_asked_to_rejoin() {
    let mut shell = Shell::new();
    let ids = shell.stable_group(3);
    shell.leave(vec![leaving(&ids[0])]);
    assert_eq!(shell.heartbeat(&ids[1], 1), ErrorCode::RebalanceInProgress);
    let tokens = [shell.join(rejoin(&ids[1])), shell.join(rejoin(&ids[2]))];
    let leader = shell.take_join(tokens[0]);
    assert_eq!(leader.leader, ids[1]);
    assert_eq!(leader.members.len(), 2);
    assert_eq!(shell.take_join(tokens[1]).leader, ids[1]);
}

#[test]
fn several_leave_at_once_and_each_has_its_answer() {
    let mut shell = Shell::new();
    let ids = shell.stable_group(3);
    let response = shell.leave(vec![
        leaving(&ids[1]),
        leaving("nobody"),
        leaving(&ids[2]),
        leaving(&ids[2]),
    ]);
    let errors: Vec<ErrorCode> = response.members.iter().map(|m| m.error).collect();
    assert_eq!(
        errors,
        [
            ErrorCode::None,
            ErrorCode::UnknownMemberId,
            ErrorCode::None,
            ErrorCode::UnknownMemberId
        ]
    );
    assert_eq!(shell.describe().members.len(), 1);
}

#[test]
fn a_member_that_leaves_ends_the_wait_for_it() {
    let mut shell = Shell::new();
    let ids = shell.stable_group(2);
    let token = shell.join(rejoin(&ids[0]));
    assert!(shell.is_parked(token));
    shell.leave(vec![leaving(&ids[1])]);
    assert_eq!(shell.take_join(token).members.len(), 1);
}

#[test]
fn a_pending_member_can_leave() {
    let mut shell = Shell::new();
    let id = shell.joined(new_member(1)).member_id;
    let response = shell.leave(vec![leaving(&id)]);
    assert_eq!(response.members[0].error, ErrorCode::None);
    assert_eq!(shell.joined(rejoin(&id)).error, ErrorCode::UnknownMemberId);
}

#[test]
fn leaving_answers_what_the_member_has_parked() {
    let mut shell = Shell::new();
    let ids = shell.stable_group(2);
    let join = shell.join(rejoin(&ids[0]));
    shell.leave(vec![leaving(&ids[0])]);
    assert_eq!(shell.take_join(join).error, ErrorCode::UnknownMemberId);

    let second = shell.join(old_member(5));
    let token = shell.join(rejoin(&ids[1]));
    assert_eq!(shell.take_join(token).generation_id, 2);
    let follower = shell.take_join(second).member_id;
    let parked = shell.sync(sync(&follower, 2));
    shell.leave(vec![leaving(&follower)]);
    assert_eq!(shell.take_sync(parked).error, ErrorCode::UnknownMemberId);
}

#[test]
fn leaving_an_unknown_group_is_an_error_of_each_member() {
    let mut shell = Shell::new();
    let response = shell.leave(vec![leaving("a"), leaving("b")]);
    assert_eq!(response.error, ErrorCode::None);
    assert_eq!(response.single_error(), ErrorCode::UnknownMemberId);
    assert_eq!(response.members.len(), 2);
    for member in response.members {
        assert_eq!(member.error, ErrorCode::UnknownMemberId);
    }
    let token = shell.send(Request::LeaveGroup(LeaveGroup {
        group_id: String::new(),
        members: vec![leaving("a")],
    }));
    match shell.take(token) {
        Response::LeaveGroup(response) => {
            assert_eq!(response.single_error(), ErrorCode::InvalidGroupId);
        }
        other => panic!("{other:?}"),
    }
}
