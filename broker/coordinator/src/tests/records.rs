//! The records as Kafka writes and reads them, and where groups live.

use bytes::Bytes;
use tidemark_wire::messages::{GroupMetadataValue, OffsetCommitValue};
use tidemark_wire::{ErrorCode, Message, Uuid, Writer};

use super::shell::*;
use crate::*;

#[test]
fn groups_live_where_kafka_looks_for_them() {
    // `"hello".hashCode()` is 99162322, that of "日志" 0x65e5 * 31 + 0x5fd7.
    assert_eq!(partition_for("hello", 50), 99_162_322 % 50);
    assert_eq!(partition_for("日志", 50), 833_170 % 50);
    assert_eq!(partition_for("", 50), 0);
    // The hash of "polygenelubricants" is the lowest integer, which has no absolute value.
    assert_eq!(partition_for("polygenelubricants", 50), 0);
    assert_eq!(partition_for("orders", 50), java_reference("orders", 50));
    assert_eq!(partition_for("g", 0), 0);
}

/// The definition, with wide integers: s[0]*31^(n-1) + … modulo 2^32.
fn java_reference(text: &str, partitions: i64) -> i32 {
    let mut hash: i64 = 0;
    for unit in text.encode_utf16() {
        hash = (hash * 31 + i64::from(unit)) % (1 << 32);
    }
    let signed = if hash >= 1 << 31 {
        hash - (1 << 32)
    } else {
        hash
    };
    assert!(signed < 0, "a case with a negative hash");
    (signed.abs() % partitions) as i32
}

#[test]
fn an_offset_commit_is_written_as_kafka_writes_it() {
    let mut shell = Shell::new();
    shell.commit("", -1, 0x0102);
    let record = &shell.log[0];
    assert_eq!(record.key[..], *b"\0\x01\0\x01g\0\x01t\0\0\0\0");
    let mut value = Vec::new();
    value.extend(4i16.to_be_bytes());
    value.extend(0x0102i64.to_be_bytes());
    value.extend(7i32.to_be_bytes());
    value.extend(*b"\x05note");
    value.extend(shell.now_ms.to_be_bytes());
    value.push(0);
    assert_eq!(record.value.as_deref(), Some(&value[..]));
}

#[test]
fn an_offset_commit_with_a_retention_is_written_at_version_1() {
    let mut shell = Shell::new();
    shell.commit_with(OffsetCommit {
        retention_time_ms: Some(1_000),
        ..commit("", -1, 3)
    });
    let mut value = Vec::new();
    value.extend(1i16.to_be_bytes());
    value.extend(3i64.to_be_bytes());
    value.extend(*b"\0\x04note");
    value.extend(shell.now_ms.to_be_bytes());
    value.extend((shell.now_ms + 1_000).to_be_bytes());
    assert_eq!(shell.log[0].value.as_deref(), Some(&value[..]));
}

#[test]
fn a_group_is_written_at_version_3() {
    let mut shell = Shell::new();
    shell.stable_group(1);
    let record = shell.log.last().unwrap();
    assert_eq!(record.key[..], *b"\0\x02\0\x01g");
    let value = record.value.clone().unwrap();
    assert_eq!(value[..2], [0, 3]);
    let decoded = tidemark_wire::decode::<GroupMetadataValue>(value.slice(2..), 3).unwrap();
    assert_eq!(decoded.protocol_type, "consumer");
    assert_eq!(decoded.generation, 1);
    assert_eq!(decoded.protocol.as_deref(), Some("range"));
    assert_eq!(decoded.leader.as_ref(), Some(&decoded.members[0].member_id));
    assert_eq!(decoded.members[0].rebalance_timeout, REBALANCE_MS);
    assert_eq!(decoded.members[0].session_timeout, SESSION_MS);
    assert_eq!(decoded.members[0].subscription, subscription(&["t"]));
    assert_eq!(decoded.members[0].assignment, "a0");
}

#[test]
fn a_new_group_is_stored_before_its_first_member_is_in() {
    let mut shell = Shell::new();
    shell.joined(new_member(1));
    assert_eq!(shell.log.len(), 1);
    shell.restart();
    assert_eq!(shell.state(), "Empty");
}

fn value_at<M: Message>(message: &M, version: i16) -> Bytes {
    let mut writer = Writer::new();
    writer.i16(version);
    message.encode(&mut writer, version).unwrap();
    writer.into_bytes()
}

#[test]
fn offset_commits_of_all_versions_are_read() {
    for version in OffsetCommitValue::MIN_VERSION..=OffsetCommitValue::MAX_VERSION {
        for key_type in [0u8, 1] {
            let mut shell = Shell::new();
            shell.log.push(LogRecord {
                key: Bytes::from([&[0, key_type][..], b"\0\x01g\0\x01t\0\0\0\0"].concat()),
                value: Some(value_at(
                    &OffsetCommitValue {
                        offset: 12,
                        leader_epoch: 4,
                        metadata: "m".into(),
                        commit_timestamp: shell.now_ms,
                        expire_timestamp: if version == 1 { shell.now_ms + 5 } else { -1 },
                        topic_id: Uuid([3; 16]),
                        ..Default::default()
                    },
                    version,
                )),
            });
            shell.restart();
            let fetched = &shell.fetch(None).topics[0];
            assert_eq!(fetched.partitions[0].offset, 12, "version {version}");
            let epoch = if version >= 3 { 4 } else { -1 };
            assert_eq!(fetched.partitions[0].leader_epoch, epoch);
            let id = if version >= 4 {
                Uuid([3; 16])
            } else {
                Uuid::ZERO
            };
            assert_eq!(fetched.topic_id, id);
        }
    }
}

#[test]
fn groups_of_all_versions_are_read() {
    use tidemark_wire::messages::group_metadata_value::MemberMetadata;
    for version in GroupMetadataValue::MIN_VERSION..=GroupMetadataValue::MAX_VERSION {
        let mut shell = Shell::new();
        shell.log.push(LogRecord {
            key: Bytes::from_static(b"\0\x02\0\x01g"),
            value: Some(value_at(
                &GroupMetadataValue {
                    protocol_type: "consumer".into(),
                    generation: 6,
                    protocol: Some("range".into()),
                    leader: Some("m".into()),
                    current_state_timestamp: shell.now_ms,
                    members: vec![MemberMetadata {
                        member_id: "m".into(),
                        client_id: "c".into(),
                        client_host: "/h".into(),
                        session_timeout: 7_000,
                        subscription: subscription(&["t"]),
                        assignment: "a".into(),
                        ..Default::default()
                    }],
                    ..Default::default()
                },
                version,
            )),
        });
        shell.restart();
        assert_eq!(
            shell.heartbeat("m", 6),
            ErrorCode::None,
            "version {version}"
        );
        assert_eq!(shell.synced(sync("m", 6)).assignment, "a");
        let group = &shell.coordinator.groups()["g"];
        assert_eq!(group.rebalance_timeout_ms(), 7_000);
    }
}

#[test]
fn records_of_the_newer_groups_are_passed_over() {
    let mut shell = Shell::new();
    shell.commit("", -1, 5);
    for key_type in [3u8, 8, 10, 17, 99] {
        shell.log.push(LogRecord {
            key: Bytes::from(vec![0, key_type, 1, 2, 3]),
            value: Some(Bytes::from_static(b"\0\0whatever")),
        });
    }
    shell.restart();
    assert_eq!(shell.coordinator.skipped_records(), 5);
    assert_eq!(shell.offset_of("t"), 5);
}

#[test]
fn a_record_that_cannot_be_read_is_an_error_that_names_its_offset() {
    let commit_key = Bytes::from_static(b"\0\x01\0\x01g\0\x01t\0\0\0\0");
    let group_key = Bytes::from_static(b"\0\x02\0\x01g");
    for (key, value) in [
        (Bytes::new(), None),
        (Bytes::from_static(b"\0"), None),
        (Bytes::from_static(b"\0\x01\0\x05g"), None),
        (commit_key.clone(), Some(Bytes::from_static(b"\0\x03\0"))),
        (commit_key, Some(Bytes::from_static(b"\0\x63"))),
        (group_key, Some(Bytes::from_static(b"\0\x03\0\0\0\0"))),
    ] {
        let mut coordinator = GroupCoordinator::new(GroupConfig::default());
        let error = coordinator.replay(77, &key, value.as_ref()).unwrap_err();
        assert!(error.to_string().contains("offset 77"), "{error}");
    }
}

#[test]
fn a_group_tombstone_leaves_offsets_that_have_none() {
    let mut shell = Shell::new();
    shell.commit("", -1, 5);
    shell.log.push(LogRecord {
        key: Bytes::from_static(b"\0\x02\0\x01g"),
        value: None,
    });
    shell.restart();
    assert_eq!(shell.offset_of("t"), 5);
}

#[test]
fn offsets_beyond_the_end_go_back_to_it_or_are_forgotten() {
    let committed = |topic: &str, offset: i64| {
        let record = crate::records::CoordinatorRecord::OffsetCommit {
            group_id: "g".to_owned(),
            topic: topic.to_owned(),
            partition: 0,
            value: Some(OffsetAndMetadata {
                offset,
                leader_epoch: 4,
                metadata: "note".to_owned(),
                commit_timestamp_ms: 77,
                expire_timestamp_ms: None,
                topic_id: Uuid([1; 16]),
            }),
        };
        record.encode().unwrap()
    };
    let end_of = |topic: &str, _: i32| (topic == "t").then_some(10);
    let look = |record: &LogRecord| clamp(5, &record.key, record.value.as_ref(), end_of).unwrap();
    assert_eq!(look(&committed("t", 10)), None);
    let found = look(&committed("t", 11)).unwrap();
    assert_eq!((found.from, found.to), (11, Some(10)));
    let written =
        crate::records::CoordinatorRecord::decode(5, &committed("t", 11).key, found.value.as_ref());
    let Some(crate::records::CoordinatorRecord::OffsetCommit { value, .. }) = written.unwrap()
    else {
        panic!("a commit stays one");
    };
    let value = value.unwrap();
    assert_eq!((value.offset, value.leader_epoch), (10, -1));
    assert_eq!((&*value.metadata, value.commit_timestamp_ms), ("note", 77));
    let gone = look(&committed("other", 3)).unwrap();
    assert_eq!((gone.to, gone.value), (None, None));
    let tombstone = LogRecord {
        value: None,
        ..committed("other", 3)
    };
    assert_eq!(look(&tombstone), None);
}
