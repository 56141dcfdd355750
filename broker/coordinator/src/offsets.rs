//! Committing, fetching, deleting and expiring offsets.

use std::collections::{BTreeMap, BTreeSet};

use tidemark_wire::{ErrorCode, Uuid};

use crate::context::Context;
use crate::group::{Group, GroupState};
use crate::records::{CoordinatorRecord, OffsetAndMetadata};
use crate::request::{CommitPartition, OffsetCommit, OffsetDelete, OffsetFetch};
use crate::response::{
    FetchedPartition, FetchedTopic, OffsetCommitResponse, OffsetDeleteResponse,
    OffsetFetchResponse, Response, TopicErrors,
};

/// The longest string that a record key or an old value can carry, in bytes.
pub(crate) const MAX_STRING_BYTES: usize = i16::MAX as usize;

/// The committed offsets of a group, by topic and partition.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Offsets {
    topics: BTreeMap<String, BTreeMap<i32, OffsetAndMetadata>>,
}

impl Offsets {
    pub(crate) fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    pub(crate) fn get(&self, topic: &str, partition: i32) -> Option<&OffsetAndMetadata> {
        self.topics.get(topic)?.get(&partition)
    }

    /// Stores an offset, or forgets it.
    pub(crate) fn apply(
        &mut self,
        topic: String,
        partition: i32,
        value: Option<OffsetAndMetadata>,
    ) {
        match value {
            Some(value) => {
                let partitions = self.topics.entry(topic).or_default();
                partitions.insert(partition, value);
            }
            None => {
                if let Some(partitions) = self.topics.get_mut(&topic) {
                    partitions.remove(&partition);
                    if partitions.is_empty() {
                        self.topics.remove(&topic);
                    }
                }
            }
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, i32, &OffsetAndMetadata)> {
        self.topics.iter().flat_map(|(topic, partitions)| {
            partitions
                .iter()
                .map(move |(partition, value)| (topic.as_str(), *partition, value))
        })
    }
}

/// Whether an offset committed under one topic id is no answer for another:
/// the topic was deleted and made anew in between.
fn is_other_topic(committed: Uuid, asked: Uuid) -> bool {
    committed != Uuid::ZERO && asked != Uuid::ZERO && committed != asked
}

/// A record that forgets an offset.
fn tombstone(group_id: &str, topic: &str, partition: i32) -> CoordinatorRecord {
    CoordinatorRecord::OffsetCommit {
        group_id: group_id.to_owned(),
        topic: topic.to_owned(),
        partition,
        value: None,
    }
}

/// OffsetCommit: the records of the offsets that can be stored, and the answer.
pub(crate) fn commit(
    group: Option<&mut Group>,
    request: &OffsetCommit,
    cx: &mut Context<'_>,
) -> Response {
    if let Err(error) = validate_commit(group, request, cx) {
        return refuse_commit(request, error);
    }
    let expire_timestamp_ms = request
        .retention_time_ms
        .map(|retention_ms| cx.now_ms.saturating_add(retention_ms));
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for partition in &topic.partitions {
            let error = check_partition(&topic.name, partition, cx);
            partitions.push((partition.partition, error));
            if error != ErrorCode::None {
                continue;
            }
            cx.records.push(CoordinatorRecord::OffsetCommit {
                group_id: request.group_id.clone(),
                topic: topic.name.clone(),
                partition: partition.partition,
                value: Some(OffsetAndMetadata {
                    offset: partition.offset,
                    leader_epoch: partition.leader_epoch,
                    metadata: partition.metadata.clone().unwrap_or_default(),
                    commit_timestamp_ms: cx.now_ms,
                    expire_timestamp_ms,
                    topic_id: topic.topic_id,
                }),
            });
        }
        topics.push(TopicErrors {
            name: topic.name.clone(),
            topic_id: topic.topic_id,
            partitions,
        });
    }
    Response::OffsetCommit(OffsetCommitResponse { topics })
}

fn check_partition(topic: &str, partition: &CommitPartition, cx: &Context<'_>) -> ErrorCode {
    if topic.len() > MAX_STRING_BYTES {
        return ErrorCode::UnknownTopicOrPartition;
    }
    let metadata = partition.metadata.as_deref().unwrap_or_default();
    let limit = cx.config.offset_metadata_max_bytes;
    // Kafka counts UTF-16 units whatever the setting's name says.
    let too_long = metadata.len() > limit && metadata.encode_utf16().count() > limit;
    if too_long || metadata.len() > MAX_STRING_BYTES {
        return ErrorCode::OffsetMetadataTooLarge;
    }
    ErrorCode::None
}

fn validate_commit(
    group: Option<&mut Group>,
    request: &OffsetCommit,
    cx: &mut Context<'_>,
) -> Result<(), ErrorCode> {
    if request.group_id.len() > MAX_STRING_BYTES {
        return Err(ErrorCode::InvalidGroupId);
    }
    let Some(group) = group else {
        // A client without a generation stores offsets in a group that has
        // nothing else: applying the first offset creates it.
        return match (request.generation_id < 0, request.api_version >= 9) {
            (true, _) => Ok(()),
            (false, true) => Err(ErrorCode::GroupIdNotFound),
            (false, false) => Err(ErrorCode::IllegalGeneration),
        };
    };
    if request.generation_id < 0 && group.state == GroupState::Empty {
        return Ok(());
    }
    let instance_id = request.group_instance_id.as_deref();
    if request.generation_id < 0 && request.member_id.is_empty() && instance_id.is_none() {
        // Others manage this group: a commit from outside would be lost on them.
        return Err(ErrorCode::UnknownMemberId);
    }
    group.validate_member(&request.member_id, instance_id)?;
    if request.generation_id != group.generation_id {
        return Err(ErrorCode::IllegalGeneration);
    }
    if group.state == GroupState::CompletingRebalance {
        return Err(ErrorCode::RebalanceInProgress);
    }
    // A commit is a sign of life.
    if let Some(member) = group.members.get_mut(&request.member_id) {
        let timeout_ms = member.session_timeout_ms;
        member.restart_session(&group.id, timeout_ms, cx);
    }
    Ok(())
}

fn refuse_commit(request: &OffsetCommit, error: ErrorCode) -> Response {
    let topics = request.topics.iter().map(|topic| TopicErrors {
        name: topic.name.clone(),
        topic_id: topic.topic_id,
        partitions: topic
            .partitions
            .iter()
            .map(|p| (p.partition, error))
            .collect(),
    });
    Response::OffsetCommit(OffsetCommitResponse {
        topics: topics.collect(),
    })
}

/// OffsetFetch. A group or offset that does not exist is no error: -1 is answered.
pub(crate) fn fetch(group: Option<&Group>, request: &OffsetFetch) -> Response {
    let topics = match &request.topics {
        Some(topics) => topics
            .iter()
            .map(|topic| FetchedTopic {
                name: topic.name.clone(),
                topic_id: topic.topic_id,
                partitions: topic
                    .partitions
                    .iter()
                    .map(|partition| {
                        let value = group
                            .and_then(|g| g.offsets.get(&topic.name, *partition))
                            .filter(|v| !is_other_topic(v.topic_id, topic.topic_id));
                        fetched(*partition, value)
                    })
                    .collect(),
            })
            .collect(),
        None => group.map(all_offsets).unwrap_or_default(),
    };
    Response::OffsetFetch(OffsetFetchResponse {
        group_id: request.group_id.clone(),
        error: ErrorCode::None,
        topics,
    })
}

fn all_offsets(group: &Group) -> Vec<FetchedTopic> {
    let mut topics: Vec<FetchedTopic> = Vec::new();
    for (topic, partition, value) in group.offsets.iter() {
        // Offsets of one name under two ids (the topic was made anew and not
        // all partitions were committed since) go under the id each came with.
        let same = topics
            .iter()
            .rev()
            .take_while(|t| t.name == topic)
            .position(|t| t.topic_id == value.topic_id)
            .map(|from_end| topics.len() - 1 - from_end);
        let index = same.unwrap_or_else(|| {
            topics.push(FetchedTopic {
                name: topic.to_owned(),
                topic_id: value.topic_id,
                partitions: Vec::new(),
            });
            topics.len() - 1
        });
        topics[index]
            .partitions
            .push(fetched(partition, Some(value)));
    }
    topics
}

fn fetched(partition: i32, value: Option<&OffsetAndMetadata>) -> FetchedPartition {
    match value {
        None => FetchedPartition::absent(partition, ErrorCode::None),
        Some(value) => FetchedPartition {
            partition,
            offset: value.offset,
            leader_epoch: value.leader_epoch,
            metadata: value.metadata.clone(),
            error: ErrorCode::None,
        },
    }
}

/// OffsetDelete: of topics that no member consumes.
pub(crate) fn delete(
    group: Option<&Group>,
    request: &OffsetDelete,
    cx: &mut Context<'_>,
) -> Response {
    let refuse = |error| {
        Response::OffsetDelete(OffsetDeleteResponse {
            error,
            topics: Vec::new(),
        })
    };
    let Some(group) = group else {
        return refuse(ErrorCode::GroupIdNotFound);
    };
    if group.state != GroupState::Empty && !group.uses_consumer_protocol() {
        return refuse(ErrorCode::NonEmptyGroup);
    }
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        let subscribed = group.is_subscribed_to(&topic.name);
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for partition in &topic.partitions {
            if subscribed {
                partitions.push((*partition, ErrorCode::GroupSubscribedToTopic));
                continue;
            }
            partitions.push((*partition, ErrorCode::None));
            if group.offsets.get(&topic.name, *partition).is_some() {
                cx.records
                    .push(tombstone(&group.id, &topic.name, *partition));
            }
        }
        topics.push(TopicErrors {
            name: topic.name.clone(),
            topic_id: topic.topic_id,
            partitions,
        });
    }
    Response::OffsetDelete(OffsetDeleteResponse {
        error: ErrorCode::None,
        topics,
    })
}

/// Records that forget all offsets of a group.
pub(crate) fn forget_all(group: &Group, cx: &mut Context<'_>) {
    for (topic, partition, _) in group.offsets.iter() {
        cx.records.push(tombstone(&group.id, topic, partition));
    }
}

/// Records that forget the offsets of deleted topics. An offset that is known
/// to be of another topic of the same name stays.
pub(crate) fn forget_topics(group: &Group, deleted: &BTreeMap<String, Uuid>, cx: &mut Context<'_>) {
    for (topic, topic_id) in deleted {
        for (partition, value) in group.offsets.topics.get(topic).into_iter().flatten() {
            if !is_other_topic(value.topic_id, *topic_id) {
                cx.records.push(tombstone(&group.id, topic, *partition));
            }
        }
    }
}

/// Records that forget what has expired (KIP-211), and the group itself if it
/// is empty and nothing is left of it.
pub(crate) fn expire(group: &Group, cx: &mut Context<'_>) {
    let mut kept = false;
    let mut expired = BTreeSet::new();
    for (topic, partition, value) in group.offsets.iter() {
        if is_expired(group, topic, value, cx) {
            expired.insert((topic, partition));
        } else {
            kept = true;
        }
    }
    for (topic, partition) in expired {
        cx.records.push(tombstone(&group.id, topic, partition));
    }
    // A member id that was handed out a moment ago is about to be used.
    if !kept && group.state == GroupState::Empty && group.pending_join.is_empty() {
        cx.records.push(CoordinatorRecord::GroupMetadata {
            group_id: group.id.clone(),
            value: None,
        });
    }
}

fn is_expired(group: &Group, topic: &str, value: &OffsetAndMetadata, cx: &Context<'_>) -> bool {
    // From when on the offset is not in use.
    let unused_since_ms = match (&group.protocol_type, group.state) {
        // Nobody but the committing client knows whether it is still there.
        (None, _) => value.commit_timestamp_ms,
        // The group's offsets are kept together for as long as it has members
        // and for the retention after. Records of old brokers do not say when
        // the last member left.
        (Some(_), GroupState::Empty) => group
            .state_timestamp_ms
            .unwrap_or(value.commit_timestamp_ms),
        // The members are known not to consume the topic.
        (Some(_), GroupState::Stable) if group.subscribed_topics.is_some() => {
            value.commit_timestamp_ms
        }
        (Some(_), _) => return false,
    };
    if group.is_subscribed_to(topic) {
        return false;
    }
    match value.expire_timestamp_ms {
        Some(expire_ms) => cx.now_ms >= expire_ms,
        None => cx.now_ms.saturating_sub(unused_since_ms) >= cx.config.offsets_retention_ms,
    }
}
