//! ListGroups, DescribeGroups, DeleteGroups.

use tidemark_wire::ErrorCode;

use super::shell::*;
use crate::*;

fn list(shell: &mut Shell, states: &[&str], types: &[&str]) -> Vec<ListedGroup> {
    let owned = |filter: &[&str]| filter.iter().map(|f| (*f).to_owned()).collect();
    let token = shell.send(Request::ListGroups(ListGroups {
        states_filter: owned(states),
        types_filter: owned(types),
    }));
    match shell.take(token) {
        Response::ListGroups(response) => {
            assert_eq!(response.error, ErrorCode::None);
            response.groups
        }
        other => panic!("{other:?}"),
    }
}

fn ids(groups: &[ListedGroup]) -> Vec<&str> {
    groups.iter().map(|g| g.group_id.as_str()).collect()
}

#[test]
fn groups_are_listed_by_state_and_type() {
    let mut shell = Shell::new();
    shell.stable_group(1);
    shell.commit_with(OffsetCommit {
        group_id: "a".into(),
        ..commit("", -1, 1)
    });
    let all = list(&mut shell, &[], &[]);
    assert_eq!(
        all,
        [
            ListedGroup {
                group_id: "a".into(),
                protocol_type: String::new(),
                state: "Empty",
                group_type: "classic"
            },
            ListedGroup {
                group_id: "g".into(),
                protocol_type: "consumer".into(),
                state: "Stable",
                group_type: "classic"
            },
        ]
    );
    assert_eq!(ids(&list(&mut shell, &["stable"], &[])), ["g"]);
    assert_eq!(
        ids(&list(&mut shell, &["STABLE", "Empty"], &[])),
        ["a", "g"]
    );
    assert!(list(&mut shell, &["Dead"], &[]).is_empty());
    assert_eq!(ids(&list(&mut shell, &[], &["Classic"])), ["a", "g"]);
    assert!(list(&mut shell, &[], &["consumer"]).is_empty());
    assert!(list(&mut shell, &["Empty"], &["share"]).is_empty());
    let mut counts = GroupCoordinator::no_groups();
    shell.coordinator.count_groups(&mut counts);
    assert_eq!(counts["Stable"], 1);
}

#[test]
fn a_stable_group_is_described_in_full() {
    let mut shell = Shell::new();
    let members = shell.stable_group(2);
    let group = shell.describe();
    assert_eq!(group.error, ErrorCode::None);
    assert_eq!(group.state, "Stable");
    assert_eq!(group.protocol_type, "consumer");
    assert_eq!(group.protocol, "range");
    assert_eq!(group.members.len(), 2);
    assert_eq!(
        group.members[1],
        DescribedMember {
            member_id: members[1].clone(),
            group_instance_id: None,
            client_id: "client".into(),
            client_host: "/127.0.0.1".into(),
            metadata: subscription(&["t"]),
            assignment: "a1".into(),
        }
    );
    shell.restart();
    assert_eq!(shell.describe(), group);
}

#[test]
fn a_group_in_a_rebalance_is_described_without_metadata() {
    let mut shell = Shell::new();
    let members = shell.stable_group(2);
    shell.join(rejoin(&members[0]));
    let group = shell.describe();
    assert_eq!(group.state, "PreparingRebalance");
    assert_eq!(group.protocol, "");
    assert_eq!(group.members[0].metadata, "");
}

#[test]
fn an_unknown_group_is_dead() {
    let mut shell = Shell::new();
    let group = shell.describe();
    assert_eq!(group.state, "Dead");
    assert_eq!(group.error, ErrorCode::GroupIdNotFound);
    assert_eq!(group.error_message.as_deref(), Some("Group g not found."));
    let token = shell.send(Request::DescribeGroups(DescribeGroups {
        api_version: 5,
        group_ids: vec!["g".into()],
    }));
    match shell.take(token) {
        Response::DescribeGroups(groups) => {
            assert_eq!(
                (groups[0].state, groups[0].error),
                ("Dead", ErrorCode::None)
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn only_empty_groups_are_deleted_and_their_offsets_with_them() {
    let mut shell = Shell::new();
    assert_eq!(shell.delete_group(), ErrorCode::GroupIdNotFound);
    let members = shell.stable_group(1);
    shell.commit(&members[0], 1, 5);
    assert_eq!(shell.delete_group(), ErrorCode::NonEmptyGroup);
    shell.leave(vec![leaving(&members[0])]);
    assert_eq!(shell.delete_group(), ErrorCode::None);
    for _ in 0..2 {
        assert_eq!(shell.describe().error, ErrorCode::GroupIdNotFound);
        assert_eq!(shell.offset_of("t"), -1);
        shell.restart();
    }
    // A new group of that name begins anew.
    shell.stabilize(vec![old_member(1)], 1);
}

#[test]
fn a_group_named_twice_is_deleted_once() {
    let mut shell = Shell::new();
    shell.commit("", -1, 5);
    let before = shell.log.len();
    let token = shell.send(Request::DeleteGroups(DeleteGroups {
        group_ids: vec!["g".into(), "h".into(), "g".into()],
    }));
    assert_eq!(
        shell.take(token),
        Response::DeleteGroups(vec![
            ("g".into(), ErrorCode::None),
            ("h".into(), ErrorCode::GroupIdNotFound),
            ("g".into(), ErrorCode::None),
        ])
    );
    assert_eq!(shell.log.len() - before, 2);
}

#[test]
fn deleting_a_group_voids_the_member_ids_that_it_gave_out() {
    let mut shell = Shell::new();
    let id = shell.joined(new_member(1)).member_id;
    assert_eq!(shell.delete_group(), ErrorCode::None);
    assert_eq!(shell.joined(rejoin(&id)).error, ErrorCode::UnknownMemberId);
    assert_eq!(shell.coordinator.armed_timers(), 1);
}
