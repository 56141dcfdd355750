//! JoinGroup, the join phase, and its timeouts.

use bytes::Bytes;
use tidemark_wire::ErrorCode;

use super::shell::*;
use crate::*;

#[test]
fn a_new_member_is_told_its_id_first() {
    let mut shell = Shell::new();
    let response = shell.joined(new_member(0xab));
    assert_eq!(response.error, ErrorCode::MemberIdRequired);
    assert_eq!(
        response.member_id,
        "client-abababab-abab-4bab-abab-abababababab"
    );
    assert_eq!(shell.state(), "Empty");
    let token = shell.join(rejoin(&response.member_id));
    assert!(shell.is_parked(token));
    assert_eq!(shell.state(), "PreparingRebalance");
}

#[test]
fn before_version_4_a_new_member_is_in_at_once() {
    let mut shell = Shell::new();
    let token = shell.join(old_member(1));
    assert!(shell.is_parked(token));
    shell.advance(INITIAL_DELAY_MS);
    let response = shell.take_join(token);
    assert_eq!(response.error, ErrorCode::None);
    assert_eq!(response.generation_id, 1);
    assert_eq!(response.leader, response.member_id);
    assert_eq!(response.protocol_type.as_deref(), Some("consumer"));
    assert_eq!(response.protocol_name.as_deref(), Some("range"));
    assert_eq!(response.members.len(), 1);
    assert_eq!(response.members[0].metadata, subscription(&["t"]));
    assert!(!response.skip_assignment);
}

#[test]
fn a_member_id_that_is_not_used_is_forgotten_with_its_session() {
    let mut shell = Shell::new();
    let id = shell.joined(new_member(1)).member_id;
    shell.advance(SESSION_MS - 1);
    assert_eq!(shell.coordinator.groups()["g"].pending_join.len(), 1);
    shell.advance(1);
    assert_eq!(shell.coordinator.groups()["g"].pending_join.len(), 0);
    let response = shell.joined(rejoin(&id));
    assert_eq!(response.error, ErrorCode::UnknownMemberId);
    assert_eq!(response.member_id, id);
}

#[test]
fn the_first_rebalance_waits_for_its_delay() {
    let mut shell = Shell::new();
    let token = shell.join(old_member(1));
    shell.advance(INITIAL_DELAY_MS - 1);
    assert!(shell.is_parked(token));
    shell.advance(1);
    assert_eq!(shell.take_join(token).generation_id, 1);
}

#[test]
fn the_first_rebalance_waits_on_while_members_come() {
    let mut shell = Shell::new();
    let first = shell.join(old_member(1));
    shell.advance(INITIAL_DELAY_MS - 500);
    let second = shell.join(old_member(2));
    shell.advance(500);
    assert!(shell.is_parked(first), "a member came: one more delay");
    shell.advance(INITIAL_DELAY_MS - 1);
    assert!(shell.is_parked(first));
    shell.advance(1);
    let leader = shell.take_join(first);
    assert_eq!(leader.members.len(), 2);
    let follower = shell.take_join(second);
    assert_eq!(follower.leader, leader.member_id);
    assert!(follower.members.is_empty());
}

#[test]
fn the_first_rebalance_does_not_wait_past_the_rebalance_timeout() {
    let mut shell = Shell::new();
    let join = |number| JoinGroup {
        rebalance_timeout_ms: 7_000,
        ..old_member(number)
    };
    let first = shell.join(join(1));
    let mut waited_ms = 0;
    for number in 2..50 {
        shell.advance(1_000);
        waited_ms += 1_000;
        if !shell.is_parked(first) {
            break;
        }
        shell.join(join(number));
    }
    assert_eq!(waited_ms, 7_000);
    assert_eq!(shell.take_join(first).members.len(), 7);
}

#[test]
fn without_a_delay_the_first_member_is_answered_at_the_next_tick() {
    let mut shell = Shell::with(GroupConfig {
        initial_rebalance_delay_ms: 0,
        ..GroupConfig::default()
    });
    let token = shell.join(old_member(1));
    shell.advance(0);
    assert_eq!(shell.take_join(token).generation_id, 1);
}

#[test]
fn session_timeouts_have_bounds() {
    let mut shell = Shell::new();
    for (session_timeout_ms, error) in [
        (5_999, ErrorCode::InvalidSessionTimeout),
        (6_000, ErrorCode::MemberIdRequired),
        (1_800_000, ErrorCode::MemberIdRequired),
        (1_800_001, ErrorCode::InvalidSessionTimeout),
        (-1, ErrorCode::InvalidSessionTimeout),
    ] {
        let response = shell.joined(JoinGroup {
            session_timeout_ms,
            ..new_member(session_timeout_ms as u8)
        });
        assert_eq!(response.error, error, "{session_timeout_ms}");
    }
}

#[test]
fn at_version_0_the_session_timeout_is_also_the_rebalance_timeout() {
    let mut shell = Shell::new();
    shell.join(JoinGroup {
        api_version: 0,
        rebalance_timeout_ms: -1,
        ..old_member(1)
    });
    let group = &shell.coordinator.groups()["g"];
    assert_eq!(group.rebalance_timeout_ms(), i64::from(SESSION_MS));
}

#[test]
fn an_unknown_member_or_group_is_refused() {
    let mut shell = Shell::new();
    let response = shell.joined(rejoin("nobody"));
    assert_eq!(response.error, ErrorCode::UnknownMemberId);
    assert!(shell.coordinator.groups().is_empty());
    shell.stable_group(1);
    let response = shell.joined(rejoin("nobody"));
    assert_eq!(response.error, ErrorCode::UnknownMemberId);
    let response = shell.joined(JoinGroup {
        group_id: String::new(),
        ..new_member(9)
    });
    assert_eq!(response.error, ErrorCode::InvalidGroupId);
}

#[test]
fn a_second_member_makes_the_first_rejoin() {
    let mut shell = Shell::new();
    let ids = shell.stable_group(1);
    let second = shell.join(old_member(2));
    assert!(shell.is_parked(second));
    assert_eq!(shell.heartbeat(&ids[0], 1), ErrorCode::RebalanceInProgress);
    let first = shell.join(rejoin(&ids[0]));
    // All are there: no waiting.
    let leader = shell.take_join(first);
    assert_eq!(leader.generation_id, 2);
    assert_eq!(leader.leader, ids[0]);
    assert_eq!(leader.members.len(), 2);
    assert_eq!(shell.take_join(second).generation_id, 2);
    assert_eq!(shell.state(), "CompletingRebalance");
}

#[test]
fn who_does_not_rejoin_in_time_is_out_and_another_leads() {
    let mut shell = Shell::new();
    let ids = shell.stable_group(2);
    let third = shell.join(old_member(3));
    let second = shell.join(rejoin(&ids[1]));
    // The leader sends heartbeats but does not rejoin.
    for _ in 0..11 {
        shell.advance(REBALANCE_MS / 12);
        assert_eq!(shell.heartbeat(&ids[0], 1), ErrorCode::RebalanceInProgress);
    }
    shell.advance(REBALANCE_MS / 12 - 1);
    assert!(shell.is_parked(third));
    shell.advance(1);
    let response = shell.take_join(second);
    assert_eq!(response.leader, ids[1], "the first member that rejoined");
    assert_eq!(response.members.len(), 2);
    assert_eq!(shell.take_join(third).leader, ids[1]);
    assert_eq!(shell.heartbeat(&ids[0], 1), ErrorCode::UnknownMemberId);
}

#[test]
fn a_pending_member_holds_up_the_join_phase_until_it_joins_or_expires() {
    let mut shell = Shell::new();
    let ids = shell.stable_group(2);
    shell.joined(new_member(7));
    let tokens = [shell.join(rejoin(&ids[0])), shell.join(rejoin(&ids[1]))];
    assert!(shell.is_parked(tokens[0]));
    shell.advance(SESSION_MS);
    assert_eq!(shell.take_join(tokens[0]).generation_id, 2);
    assert_eq!(shell.take_join(tokens[1]).generation_id, 2);
}

#[test]
fn a_follower_that_rejoins_unchanged_gets_the_current_generation() {
    let mut shell = Shell::new();
    let ids = shell.stable_group(2);
    let response = shell.joined(rejoin(&ids[1]));
    assert_eq!(response.error, ErrorCode::None);
    assert_eq!(response.generation_id, 1);
    assert_eq!(response.leader, ids[0]);
    assert!(response.members.is_empty());
    assert_eq!(shell.state(), "Stable");
}

#[test]
fn a_follower_that_rejoins_changed_starts_a_rebalance() {
    let mut shell = Shell::new();
    let ids = shell.stable_group(2);
    let token = shell.join(JoinGroup {
        protocols: vec![("range".into(), subscription(&["t", "u"]))],
        ..rejoin(&ids[1])
    });
    assert!(shell.is_parked(token));
    assert_eq!(shell.state(), "PreparingRebalance");
}

#[test]
fn a_leader_that_rejoins_unchanged_starts_a_rebalance() {
    let mut shell = Shell::new();
    let ids = shell.stable_group(2);
    let token = shell.join(rejoin(&ids[0]));
    assert!(shell.is_parked(token));
    assert_eq!(shell.state(), "PreparingRebalance");
}

#[test]
fn a_lost_join_answer_can_be_asked_for_again_before_the_sync() {
    let mut shell = Shell::new();
    let first = shell.join(old_member(1));
    shell.advance(INITIAL_DELAY_MS);
    let response = shell.take_join(first);
    let again = shell.joined(rejoin(&response.member_id));
    assert_eq!(again, response);
    // With other metadata the generation is void.
    let token = shell.join(JoinGroup {
        protocols: vec![("range".into(), subscription(&["u"]))],
        ..rejoin(&response.member_id)
    });
    assert_eq!(shell.take_join(token).generation_id, 2);
}

#[test]
fn a_second_join_of_one_member_answers_the_first() {
    let mut shell = Shell::new();
    let ids = shell.stable_group(2);
    let first = shell.join(rejoin(&ids[0]));
    let second = shell.join(rejoin(&ids[0]));
    assert_eq!(shell.take_join(first).error, ErrorCode::RebalanceInProgress);
    assert!(shell.is_parked(second));
    let other = shell.join(rejoin(&ids[1]));
    assert_eq!(shell.take_join(second).generation_id, 2);
    assert_eq!(shell.take_join(other).generation_id, 2);
}

#[test]
fn the_group_has_a_largest_size() {
    let mut shell = Shell::with(GroupConfig {
        max_size: 2,
        ..GroupConfig::default()
    });
    let ids = shell.stable_group(2);
    let refused = shell.joined(new_member(3));
    assert_eq!(refused.error, ErrorCode::GroupMaxSizeReached);
    assert_eq!(refused.member_id, "");
    assert_eq!(shell.state(), "Stable");
    // Those that are in may rejoin.
    let tokens = [shell.join(rejoin(&ids[0])), shell.join(rejoin(&ids[1]))];
    for token in tokens {
        assert_eq!(shell.take_join(token).error, ErrorCode::None);
    }
}

#[test]
fn a_group_loaded_over_its_size_is_cut_down() {
    let mut shell = Shell::new();
    let ids = shell.stable_group(3);
    shell.set_config(|config| config.max_size = 2);
    shell.restart();
    assert_eq!(shell.state(), "PreparingRebalance");
    let tokens = [shell.join(rejoin(&ids[0])), shell.join(rejoin(&ids[1]))];
    let refused = shell.joined(rejoin(&ids[2]));
    assert_eq!(refused.error, ErrorCode::GroupMaxSizeReached);
    for token in tokens {
        assert_eq!(shell.take_join(token).generation_id, 2);
    }
    assert_eq!(shell.describe().members.len(), 2);
}

fn with_protocols(join: JoinGroup, names: &[&str]) -> JoinGroup {
    JoinGroup {
        protocols: names
            .iter()
            .map(|n| ((*n).into(), Bytes::from(format!("metadata of {n}"))))
            .collect(),
        ..join
    }
}

#[test]
fn members_vote_for_the_protocol() {
    let mut shell = Shell::new();
    // All three know b and c; two prefer c to b.
    let tokens = [
        shell.join(with_protocols(old_member(1), &["a", "c", "b"])),
        shell.join(with_protocols(old_member(2), &["b", "c"])),
        shell.join(with_protocols(old_member(3), &["d", "c", "b"])),
    ];
    shell.advance(2 * INITIAL_DELAY_MS);
    let leader = shell.take_join(tokens[0]);
    assert_eq!(leader.protocol_name.as_deref(), Some("c"));
    assert_eq!(leader.members.len(), 3);
    for member in &leader.members {
        assert_eq!(member.metadata, Bytes::from("metadata of c"));
    }
    for token in &tokens[1..] {
        let response = shell.take_join(*token);
        assert_eq!(response.protocol_name.as_deref(), Some("c"));
    }
}

#[test]
fn a_member_without_a_common_protocol_is_refused() {
    let mut shell = Shell::new();
    let ids = shell.stable_group(1);
    for join in [
        with_protocols(old_member(2), &["other"]),
        with_protocols(rejoin(&ids[0]), &["other"]),
        JoinGroup {
            protocol_type: "connect".into(),
            ..old_member(3)
        },
        JoinGroup {
            protocols: Vec::new(),
            ..old_member(4)
        },
    ] {
        let response = shell.joined(join);
        assert_eq!(response.error, ErrorCode::InconsistentGroupProtocol);
    }
    assert_eq!(shell.state(), "Stable");
}

#[test]
fn a_group_is_not_made_for_a_member_without_protocols() {
    let mut shell = Shell::new();
    for join in [
        with_protocols(old_member(1), &[]),
        JoinGroup {
            protocol_type: String::new(),
            ..old_member(1)
        },
    ] {
        let response = shell.joined(join);
        assert_eq!(response.error, ErrorCode::InconsistentGroupProtocol);
    }
    assert!(shell.coordinator.groups().is_empty());
    assert!(shell.log.is_empty());
}

#[test]
fn a_protocol_named_twice_counts_once() {
    let mut shell = Shell::new();
    let token = shell.join(with_protocols(old_member(1), &["a", "a"]));
    shell.advance(INITIAL_DELAY_MS);
    let id = shell.take_join(token).member_id;
    // Counted twice, `a` would be known to two of one members, and so not to all.
    let token = shell.join(with_protocols(rejoin(&id), &["a"]));
    assert_eq!(shell.take_join(token).error, ErrorCode::None);
}

#[test]
fn a_new_member_that_went_away_does_not_stay() {
    let mut shell = Shell::with(GroupConfig {
        new_member_join_timeout_ms: 20_000,
        ..GroupConfig::default()
    });
    let ids = shell.stable_group(1);
    let gone = shell.join(old_member(2));
    for _ in 0..4 {
        assert_eq!(shell.heartbeat(&ids[0], 1), ErrorCode::RebalanceInProgress);
        assert!(shell.is_parked(gone));
        shell.advance(5_000);
    }
    assert_eq!(shell.take_join(gone).error, ErrorCode::UnknownMemberId);
    let token = shell.join(rejoin(&ids[0]));
    assert_eq!(shell.take_join(token).members.len(), 1);
}

#[test]
fn the_generation_goes_on_after_the_group_was_empty() {
    let mut shell = Shell::new();
    let ids = shell.stable_group(1);
    shell.leave(vec![leaving(&ids[0])]);
    assert_eq!(shell.state(), "Empty");
    shell.restart();
    let ids = shell.stabilize(vec![old_member(5)], 3);
    assert_eq!(shell.heartbeat(&ids[0], 3), ErrorCode::None);
}
