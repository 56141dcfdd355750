//! When offsets and groups are forgotten (KIP-211).

use tidemark_wire::ErrorCode;

use super::shell::*;
use crate::*;

const RETENTION_MS: i32 = 3_600_000;
const CHECK_MS: i32 = 60_000;

fn shell() -> Shell {
    Shell::with(GroupConfig {
        offsets_retention_ms: i64::from(RETENTION_MS),
        offsets_retention_check_interval_ms: i64::from(CHECK_MS),
        ..GroupConfig::default()
    })
}

/// Lets time pass while the members send heartbeats.
fn live(shell: &mut Shell, ids: &[String], for_ms: i32) {
    for _ in 0..for_ms / 5_000 {
        shell.advance(5_000);
        for id in ids {
            assert_eq!(shell.heartbeat(id, 1), ErrorCode::None);
        }
    }
}

#[test]
fn offsets_of_a_client_without_a_group_expire_after_their_commit() {
    let mut shell = shell();
    shell.commit("", -1, 1);
    shell.advance(RETENTION_MS / 2);
    shell.commit_with(OffsetCommit {
        topics: vec![commit_topic("u", 2)],
        ..commit("", -1, 0)
    });
    shell.advance(RETENTION_MS / 2 + CHECK_MS);
    assert_eq!((shell.offset_of("t"), shell.offset_of("u")), (-1, 2));
    shell.advance(RETENTION_MS / 2 + CHECK_MS);
    // With the last offset the group goes, in the log too.
    assert!(shell.coordinator.groups().is_empty());
    shell.restart();
    assert!(shell.coordinator.groups().is_empty());
}

#[test]
fn offsets_do_not_expire_while_the_group_consumes_the_topic() {
    let mut shell = shell();
    let ids = shell.stable_group(1);
    shell.commit_with(OffsetCommit {
        topics: vec![commit_topic("t", 1), commit_topic("other", 2)],
        ..commit(&ids[0], 1, 0)
    });
    live(&mut shell, &ids, RETENTION_MS + CHECK_MS);
    assert_eq!(shell.offset_of("t"), 1);
    // The topic that nobody subscribes to is another matter.
    assert_eq!(shell.offset_of("other"), -1);
}

#[test]
fn offsets_expire_when_the_group_has_been_empty_for_the_retention() {
    let mut shell = shell();
    let ids = shell.stable_group(1);
    shell.commit(&ids[0], 1, 1);
    live(&mut shell, &ids, RETENTION_MS);
    shell.leave(vec![leaving(&ids[0])]);
    // Counted from when the group became empty, across a restart.
    shell.advance(RETENTION_MS / 2);
    shell.restart();
    shell.advance(RETENTION_MS / 2 - 1_000);
    assert_eq!(shell.offset_of("t"), 1);
    shell.advance(CHECK_MS + 1_000);
    assert_eq!(shell.offset_of("t"), -1);
    assert!(shell.coordinator.groups().is_empty());
}

#[test]
fn a_retention_of_the_client_s_own_is_kept_with_the_offset() {
    let mut shell = shell();
    shell.commit_with(OffsetCommit {
        api_version: 4,
        retention_time_ms: Some(10 * i64::from(CHECK_MS)),
        ..commit("", -1, 1)
    });
    shell.restart();
    shell.advance(9 * CHECK_MS);
    assert_eq!(shell.offset_of("t"), 1);
    shell.advance(2 * CHECK_MS);
    assert_eq!(shell.offset_of("t"), -1);
}

#[test]
fn other_protocols_keep_their_offsets_while_they_have_members() {
    let mut shell = shell();
    let token = shell.join(JoinGroup {
        protocol_type: "connect".into(),
        session_timeout_ms: 1_800_000,
        rebalance_timeout_ms: 10 * RETENTION_MS,
        ..old_member(1)
    });
    shell.advance_until_answered(token);
    let id = shell.take_join(token).member_id;
    shell.synced(SyncGroup {
        protocol_type: Some("connect".into()),
        ..sync(&id, 1)
    });
    shell.commit(&id, 1, 1);
    for _ in 0..4 {
        shell.advance(RETENTION_MS / 3);
        assert_eq!(shell.heartbeat(&id, 1), ErrorCode::None);
    }
    assert_eq!(shell.offset_of("t"), 1);
}

#[test]
fn an_empty_group_without_offsets_is_forgotten() {
    let mut shell = shell();
    let ids = shell.stable_group(1);
    shell.leave(vec![leaving(&ids[0])]);
    assert_eq!(shell.coordinator.groups().len(), 1);
    shell.advance(CHECK_MS);
    assert!(shell.coordinator.groups().is_empty());
    let last = shell.log.last().unwrap();
    assert_eq!(last.value, None);
    assert_eq!(last.key[..], *b"\0\x02\0\x01g");
}

#[test]
fn a_group_about_to_be_joined_is_not_forgotten() {
    let mut shell = shell();
    shell.advance(CHECK_MS - 1_000);
    let id = shell.joined(new_member(1)).member_id;
    shell.advance(2_000);
    let token = shell.join(rejoin(&id));
    assert!(shell.is_parked(token), "the member id is still good");
}

#[test]
fn expiry_of_many_offsets_is_spread_over_steps() {
    let mut shell = shell();
    let before = shell.log.len();
    for group in 0..50 {
        shell.commit_with(OffsetCommit {
            group_id: format!("g{group}"),
            topics: (0..100)
                .map(|topic| commit_topic(&format!("t{topic}"), 1))
                .collect(),
            ..commit("", -1, 0)
        });
    }
    assert_eq!(shell.coordinator.offset_count(), 5_000);
    assert_eq!(shell.log.len() - before, 5_000);
    let end_ms = shell.now_ms + i64::from(RETENTION_MS + CHECK_MS);
    let mut largest = 0;
    for _ in 0..1_000 {
        let at_ms = shell.coordinator.next_deadline_ms().unwrap();
        if at_ms > end_ms {
            break;
        }
        shell.now_ms = at_ms;
        let records = shell.coordinator.tick(at_ms);
        largest = largest.max(records.len());
        shell.append(records);
    }
    assert_eq!(shell.coordinator.offset_count(), 0);
    assert!(largest <= 1_101, "{largest} records in one step");
}
