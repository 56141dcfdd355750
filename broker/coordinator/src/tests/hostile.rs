//! Requests and records that mean no good.

use bytes::Bytes;
use tidemark_wire::messages::GroupMetadataValue;
use tidemark_wire::messages::group_metadata_value::MemberMetadata;
use tidemark_wire::{ErrorCode, Uuid, Writer};

use super::shell::*;
use crate::*;

fn long(bytes: usize) -> String {
    "x".repeat(bytes)
}

#[test]
fn names_too_long_for_a_record_are_refused_at_the_door() {
    let mut shell = Shell::new();
    for (join, error) in [
        (
            JoinGroup {
                group_id: long(40_000),
                ..old_member(1)
            },
            ErrorCode::InvalidGroupId,
        ),
        (
            JoinGroup {
                group_instance_id: Some(long(250)),
                ..old_member(1)
            },
            ErrorCode::InvalidRequest,
        ),
        (
            JoinGroup {
                protocol_type: long(40_000),
                ..old_member(1)
            },
            ErrorCode::InconsistentGroupProtocol,
        ),
        (
            JoinGroup {
                protocols: vec![(long(40_000), Bytes::new())],
                ..old_member(1)
            },
            ErrorCode::InconsistentGroupProtocol,
        ),
    ] {
        assert_eq!(shell.joined(join).error, error);
    }
    let mut request = commit("", -1, 1);
    request.topics[0].name = long(40_000);
    assert_eq!(
        shell.commit_with(request),
        ErrorCode::UnknownTopicOrPartition
    );
    let request = OffsetCommit {
        group_id: long(40_000),
        ..commit("", -1, 1)
    };
    assert_eq!(shell.commit_with(request), ErrorCode::InvalidGroupId);
    assert!(shell.coordinator.is_active());
    assert!(shell.log.is_empty());
}

#[test]
fn the_longest_client_id_gives_a_member_id_that_fits() {
    let mut shell = Shell::new();
    let client_id = "é".repeat(16_383);
    let join = JoinGroup {
        client_id,
        ..old_member(1)
    };
    let ids = shell.stabilize(vec![join], 1);
    assert!(ids[0].len() < 300);
    shell.restart();
    assert_eq!(shell.heartbeat(&ids[0], 1), ErrorCode::None);
}

#[test]
fn timeouts_from_another_world_do_no_harm() {
    let mut shell = Shell::new();
    for (number, rebalance_timeout_ms) in [(1, i32::MIN), (2, -2), (3, 0), (4, i32::MAX)] {
        shell.join(JoinGroup {
            rebalance_timeout_ms,
            ..old_member(number)
        });
    }
    shell.advance(SESSION_MS);
    let retention = OffsetCommit {
        group_id: "h".into(),
        retention_time_ms: Some(i64::MAX),
        ..commit("", -1, i64::MIN)
    };
    assert_eq!(shell.commit_with(retention), ErrorCode::None);
    shell.advance(i32::MAX);
    assert!(shell.coordinator.is_active());
}

#[test]
fn a_rebalance_timeout_of_nothing_ends_every_wait_at_once() {
    let mut shell = Shell::new();
    let join = |join: JoinGroup| JoinGroup {
        rebalance_timeout_ms: 0,
        ..join
    };
    let token = shell.join(join(old_member(1)));
    shell.advance(INITIAL_DELAY_MS);
    let first = shell.take_join(token);
    assert_eq!(first.error, ErrorCode::None);
    // The sync phase is over as soon as it began.
    assert_eq!(
        shell.synced(sync(&first.member_id, 1)).error,
        ErrorCode::UnknownMemberId
    );
    assert_eq!(shell.state(), "Empty");
}

#[test]
fn metadata_that_is_no_subscription_is_taken_for_everything() {
    let mut shell = Shell::new();
    for (number, metadata) in [
        &b""[..],
        b"\0\x01",
        b"\0\x01\x7f\xff\xff\xff",
        b"\0\x01\0\0\0\x01\x7f\xff",
        b"\xff\xff\0\0\0\0",
        b"\0\x01\0\0\0\x01\0\x01\xff",
        b"\0\x01\xff\xff\xff\xff",
    ]
    .into_iter()
    .enumerate()
    {
        let ids = shell.stabilize(
            vec![JoinGroup {
                protocols: vec![("range".into(), Bytes::from_static(metadata))],
                ..old_member(number as u8)
            }],
            1 + 2 * number as i32,
        );
        let group = &shell.coordinator.groups()["g"];
        assert_eq!(group.subscribed_topics, None);
        assert!(group.is_subscribed_to("any"));
        shell.leave(vec![leaving(&ids[0])]);
    }
}

#[test]
fn member_ids_are_not_handed_out_without_end() {
    let mut shell = Shell::new();
    let mut refused = 0;
    for number in 0u32..10_100 {
        let mut random = [0; 16];
        random[..4].copy_from_slice(&number.to_be_bytes());
        let response = shell.joined(JoinGroup {
            random: Uuid(random),
            ..new_member(0)
        });
        if response.error == ErrorCode::GroupMaxSizeReached {
            refused += 1;
        }
    }
    assert_eq!(refused, 100);
    shell.advance(SESSION_MS);
    assert_eq!(
        shell.joined(new_member(1)).error,
        ErrorCode::MemberIdRequired
    );
}

#[test]
fn the_same_random_bytes_twice_do_not_take_a_member_over() {
    let mut shell = Shell::new();
    let first = shell.join(old_member(1));
    let second = shell.joined(old_member(1));
    assert_eq!(second.error, ErrorCode::CoordinatorNotAvailable);
    assert!(shell.is_parked(first));
}

#[test]
fn a_forged_group_record_is_made_sense_of() {
    let member = |member_id: &str, instance: Option<&str>| MemberMetadata {
        member_id: member_id.into(),
        group_instance_id: instance.map(Into::into),
        session_timeout: -5,
        rebalance_timeout: -7,
        ..Default::default()
    };
    let value = GroupMetadataValue {
        protocol_type: String::new(),
        generation: i32::MAX,
        protocol: None,
        leader: Some("nobody".into()),
        members: vec![
            member("m", Some("i")),
            member("m", None),
            member("n", Some("i")),
        ],
        ..Default::default()
    };
    let mut writer = Writer::new();
    writer.i16(3);
    value.encode(&mut writer, 3).unwrap();
    let mut shell = Shell::new();
    shell.log.push(LogRecord {
        key: Bytes::from_static(b"\0\x02\0\x01g"),
        value: Some(writer.into_bytes()),
    });
    shell.restart();
    assert_eq!(shell.describe().members.len(), 1);
    // The one member's session is over at once; the next generation is a number.
    shell.advance(0);
    assert_eq!(shell.state(), "Empty");
    shell.stabilize(vec![old_member(1)], 1);
}
