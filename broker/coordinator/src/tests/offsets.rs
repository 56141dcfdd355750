//! OffsetCommit, OffsetFetch, OffsetDelete, and topics that go away.

use std::collections::BTreeMap;

use tidemark_wire::{ErrorCode, Uuid};

use super::shell::*;
use crate::*;

#[test]
fn a_client_without_a_group_commits_and_fetches() {
    let mut shell = Shell::new();
    assert_eq!(shell.offset_of("t"), -1);
    assert_eq!(shell.commit("", -1, 42), ErrorCode::None);
    let response = shell.fetch(Some(vec![topic_partitions("t", &[0, 1])]));
    assert_eq!(response.error, ErrorCode::None);
    let partitions = &response.topics[0].partitions;
    assert_eq!(
        partitions[0],
        FetchedPartition {
            partition: 0,
            offset: 42,
            leader_epoch: 7,
            metadata: "note".into(),
            error: ErrorCode::None
        }
    );
    assert_eq!(partitions[1], FetchedPartition::absent(1, ErrorCode::None));
    let group = shell.describe();
    assert_eq!((group.state, &*group.protocol_type), ("Empty", ""));
}

#[test]
fn offsets_survive_a_restart() {
    let mut shell = Shell::new();
    shell.commit("", -1, 1);
    shell.commit("", -1, 2);
    shell.commit_with(OffsetCommit {
        topics: vec![commit_topic("u", 3)],
        ..commit("", -1, 0)
    });
    let before = shell.fetch(None);
    assert_eq!(before.topics.len(), 2);
    shell.restart();
    assert_eq!(shell.fetch(None), before);
    assert_eq!(shell.offset_of("t"), 2);
    assert_eq!(shell.coordinator.offset_count(), 2);
}

#[test]
fn members_commit_in_their_generation() {
    let mut shell = Shell::new();
    let ids = shell.stable_group(1);
    assert_eq!(shell.commit(&ids[0], 1, 5), ErrorCode::None);
    assert_eq!(shell.commit(&ids[0], 0, 6), ErrorCode::IllegalGeneration);
    assert_eq!(shell.commit(&ids[0], 2, 6), ErrorCode::IllegalGeneration);
    assert_eq!(shell.commit(&ids[0], -1, 6), ErrorCode::IllegalGeneration);
    assert_eq!(shell.commit("nobody", 1, 6), ErrorCode::UnknownMemberId);
    // From outside only while nobody is in.
    assert_eq!(shell.commit("", -1, 6), ErrorCode::UnknownMemberId);
    assert_eq!(shell.offset_of("t"), 5);
    shell.leave(vec![leaving(&ids[0])]);
    assert_eq!(shell.commit("", -1, 7), ErrorCode::None);
    assert_eq!(shell.commit(&ids[0], 1, 8), ErrorCode::UnknownMemberId);
    assert_eq!(shell.offset_of("t"), 7);
}

#[test]
fn members_commit_while_others_rejoin_but_not_between_join_and_sync() {
    let mut shell = Shell::new();
    let ids = shell.stable_group(2);
    let token = shell.join(rejoin(&ids[0]));
    assert_eq!(shell.commit(&ids[1], 1, 5), ErrorCode::None);
    let other = shell.join(rejoin(&ids[1]));
    assert_eq!(shell.take_join(token).generation_id, 2);
    assert_eq!(shell.take_join(other).generation_id, 2);
    assert_eq!(shell.commit(&ids[1], 2, 6), ErrorCode::RebalanceInProgress);
    assert_eq!(shell.offset_of("t"), 5);
}

#[test]
fn a_generation_of_an_unknown_group_is_refused_by_version() {
    let mut shell = Shell::new();
    assert_eq!(shell.commit("m", 1, 5), ErrorCode::GroupIdNotFound);
    let old = OffsetCommit {
        api_version: 8,
        ..commit("m", 1, 5)
    };
    assert_eq!(shell.commit_with(old), ErrorCode::IllegalGeneration);
    assert!(shell.log.is_empty());
}

#[test]
fn metadata_has_a_limit_and_only_its_partition_is_refused() {
    let mut shell = Shell::new();
    let partition = |partition, metadata: String| CommitPartition {
        partition,
        offset: 9,
        leader_epoch: -1,
        metadata: Some(metadata),
    };
    let token = shell.send(Request::OffsetCommit(OffsetCommit {
        topics: vec![CommitTopic {
            name: "t".into(),
            topic_id: Uuid::ZERO,
            partitions: vec![
                partition(0, "x".repeat(4_097)),
                partition(1, "x".repeat(4_096)),
                // Counted in characters, as Kafka does: 8192 bytes.
                partition(2, "é".repeat(4_096)),
                partition(3, "é".repeat(4_097)),
            ],
        }],
        ..commit("", -1, 0)
    }));
    let Response::OffsetCommit(response) = shell.take(token) else {
        panic!("not a commit");
    };
    let too_large = ErrorCode::OffsetMetadataTooLarge;
    assert_eq!(
        response.topics[0].partitions,
        [
            (0, too_large),
            (1, ErrorCode::None),
            (2, ErrorCode::None),
            (3, too_large)
        ]
    );
    assert_eq!(shell.log.len(), 2);
    assert_eq!(shell.offset_of("t"), -1);
}

#[test]
fn absent_metadata_and_epoch_are_kept_as_such() {
    let mut shell = Shell::new();
    let mut request = commit("", -1, 5);
    request.topics[0].partitions[0].metadata = None;
    request.topics[0].partitions[0].leader_epoch = -1;
    assert_eq!(shell.commit_with(request), ErrorCode::None);
    shell.restart();
    let response = shell.fetch(None);
    assert_eq!(response.topics[0].partitions[0].metadata, "");
    assert_eq!(response.topics[0].partitions[0].leader_epoch, -1);
}

fn commit_under(topic_id: Uuid, partition: i32, offset: i64) -> OffsetCommit {
    let mut request = commit("", -1, offset);
    request.topics[0].topic_id = topic_id;
    request.topics[0].partitions[0].partition = partition;
    request
}

#[test]
fn an_offset_of_a_topic_made_anew_is_not_given() {
    let mut shell = Shell::new();
    let (old, new) = (Uuid([1; 16]), Uuid([2; 16]));
    shell.commit_with(commit_under(old, 0, 5));
    shell.restart();
    let fetch_under = |shell: &mut Shell, topic_id| {
        let response = shell.fetch(Some(vec![TopicPartitions {
            topic_id,
            ..topic_partitions("t", &[0])
        }]));
        assert_eq!(response.topics[0].topic_id, topic_id);
        response.topics[0].partitions[0].offset
    };
    assert_eq!(fetch_under(&mut shell, old), 5);
    assert_eq!(fetch_under(&mut shell, new), -1);
    assert_eq!(fetch_under(&mut shell, Uuid::ZERO), 5);
    // All offsets: each under the id that it was committed under.
    shell.commit_with(commit_under(new, 1, 6));
    let topics = shell.fetch(None).topics;
    let ids: Vec<Uuid> = topics.iter().map(|t| t.topic_id).collect();
    assert_eq!(ids, [old, new]);
}

#[test]
fn deleted_topics_take_their_offsets_with_them() {
    let mut shell = Shell::new();
    let (old, new) = (Uuid([1; 16]), Uuid([2; 16]));
    shell.commit_with(commit_under(old, 0, 5));
    shell.commit_with(commit_under(new, 1, 6));
    shell.commit_with(OffsetCommit {
        topics: vec![commit_topic("u", 7)],
        ..commit("", -1, 0)
    });
    assert_eq!(
        shell.coordinator.topics_with_offsets(),
        [
            ("t".to_owned(), old),
            ("t".to_owned(), new),
            ("u".to_owned(), Uuid::ZERO)
        ]
        .into()
    );
    let deleted = BTreeMap::from([("t".to_owned(), old)]);
    let records = shell.coordinator.topics_deleted(shell.now_ms, &deleted);
    assert_eq!(records.len(), 1);
    shell.append(records);
    for _ in 0..2 {
        let response = shell.fetch(Some(vec![topic_partitions("t", &[0, 1])]));
        let offsets: Vec<i64> = response.topics[0]
            .partitions
            .iter()
            .map(|p| p.offset)
            .collect();
        assert_eq!(offsets, [-1, 6]);
        assert_eq!(shell.offset_of("u"), 7);
        shell.restart();
    }
    // An id that nobody knows does not keep an offset.
    let deleted = BTreeMap::from([("t".to_owned(), Uuid::ZERO), ("u".to_owned(), new)]);
    let records = shell.coordinator.topics_deleted(shell.now_ms, &deleted);
    shell.append(records);
    assert_eq!(shell.coordinator.offset_count(), 0);
}

fn delete(shell: &mut Shell, topics: &[&str]) -> OffsetDeleteResponse {
    let token = shell.send(Request::OffsetDelete(OffsetDelete {
        group_id: "g".into(),
        topics: topics.iter().map(|t| topic_partitions(t, &[0])).collect(),
    }));
    match shell.take(token) {
        Response::OffsetDelete(response) => response,
        other => panic!("{other:?}"),
    }
}

#[test]
fn offsets_of_topics_that_are_consumed_cannot_be_deleted() {
    let mut shell = Shell::new();
    let ids = shell.stable_group(1);
    shell.commit_with(OffsetCommit {
        topics: vec![commit_topic("t", 1), commit_topic("u", 2)],
        ..commit(&ids[0], 1, 0)
    });
    let response = delete(&mut shell, &["t", "u", "v"]);
    assert_eq!(response.error, ErrorCode::None);
    let errors: Vec<ErrorCode> = response.topics.iter().map(|t| t.partitions[0].1).collect();
    assert_eq!(
        errors,
        [
            ErrorCode::GroupSubscribedToTopic,
            ErrorCode::None,
            ErrorCode::None
        ]
    );
    assert_eq!((shell.offset_of("t"), shell.offset_of("u")), (1, -1));
    shell.leave(vec![leaving(&ids[0])]);
    delete(&mut shell, &["t"]);
    assert_eq!(shell.offset_of("t"), -1);
    shell.restart();
    assert_eq!(shell.coordinator.offset_count(), 0);
}

#[test]
fn offsets_of_other_protocols_cannot_be_deleted_while_there_are_members() {
    let mut shell = Shell::new();
    assert_eq!(delete(&mut shell, &["t"]).error, ErrorCode::GroupIdNotFound);
    let token = shell.join(JoinGroup {
        protocol_type: "connect".into(),
        ..old_member(1)
    });
    shell.advance_until_answered(token);
    let response = delete(&mut shell, &["t"]);
    assert_eq!(response.error, ErrorCode::NonEmptyGroup);
    assert!(response.topics.is_empty());
}

#[test]
fn what_members_subscribe_to_is_read_again_after_a_restart() {
    let mut shell = Shell::new();
    shell.stable_group(1);
    shell.restart();
    let response = delete(&mut shell, &["t", "u"]);
    assert_eq!(
        response.topics[0].partitions[0].1,
        ErrorCode::GroupSubscribedToTopic
    );
    assert_eq!(response.topics[1].partitions[0].1, ErrorCode::None);
}
