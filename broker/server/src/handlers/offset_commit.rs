//! OffsetCommit: store where a group has got to.

use super::prelude::*;
use tidemark_coordinator::{self as request, CommitPartition, CommitTopic};
use tidemark_wire::messages::offset_commit_request::OffsetCommitRequestTopic;
use tidemark_wire::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use tidemark_wire::messages::{OffsetCommitRequest, OffsetCommitResponse};

/// From here on topics are named by id (KIP-848).
const FIRST_VERSION_BY_ID: i16 = 10;

pub(crate) async fn handle(
    broker: &Arc<Broker>,
    context: &Context,
    asked: OffsetCommitRequest,
) -> OffsetCommitResponse {
    let image = broker.image();
    let by_id = context.version >= FIRST_VERSION_BY_ID;
    // Where each topic of the request is answered from, so that the answer keeps its order.
    let mut slots: Vec<Result<usize, OffsetCommitResponseTopic>> =
        Vec::with_capacity(asked.topics.len());
    let mut known = Vec::new();
    for topic in asked.topics {
        let found = if by_id {
            image.topic_by_id(topic.topic_id)
        } else {
            image.topic(&topic.name)
        };
        match found {
            Some(found) => {
                slots.push(Ok(known.len()));
                known.push(commit_topic(found.name.to_string(), found.id, topic));
            }
            None => {
                let error = if by_id {
                    ErrorCode::UnknownTopicId
                } else {
                    ErrorCode::UnknownTopicOrPartition
                };
                slots.push(Err(refused(topic, error)));
            }
        }
    }
    let request = Request::OffsetCommit(request::OffsetCommit {
        api_version: context.version,
        group_id: asked.group_id,
        generation_id: asked.generation_id_or_member_epoch,
        member_id: asked.member_id,
        group_instance_id: asked.group_instance_id,
        retention_time_ms: (asked.retention_time_ms >= 0).then_some(asked.retention_time_ms),
        topics: known,
    });
    let committed = match broker.groups.ask(broker, request).await {
        Response::OffsetCommit(committed) => committed.topics,
        _ => Vec::new(),
    };
    let mut committed: Vec<Option<_>> = committed.into_iter().map(Some).collect();
    let topics = slots.into_iter().filter_map(|slot| match slot {
        Err(refused) => Some(refused),
        Ok(at) => committed
            .get_mut(at)?
            .take()
            .map(|topic| OffsetCommitResponseTopic {
                name: if by_id { String::new() } else { topic.name },
                topic_id: if by_id { topic.topic_id } else { Uuid::ZERO },
                partitions: topic
                    .partitions
                    .into_iter()
                    .map(|(index, error)| partition(index, error))
                    .collect(),
                ..Default::default()
            }),
    });
    OffsetCommitResponse {
        topics: topics.collect(),
        ..Default::default()
    }
}

fn commit_topic(name: String, topic_id: Uuid, topic: OffsetCommitRequestTopic) -> CommitTopic {
    let partitions = topic.partitions.into_iter().map(|p| CommitPartition {
        partition: p.partition_index,
        offset: p.committed_offset,
        leader_epoch: p.committed_leader_epoch,
        metadata: p.committed_metadata,
    });
    CommitTopic {
        name,
        topic_id,
        partitions: partitions.collect(),
    }
}

fn partition(partition_index: i32, error: ErrorCode) -> OffsetCommitResponsePartition {
    OffsetCommitResponsePartition {
        partition_index,
        error_code: error.code(),
        ..Default::default()
    }
}

fn refused(topic: OffsetCommitRequestTopic, error: ErrorCode) -> OffsetCommitResponseTopic {
    OffsetCommitResponseTopic {
        name: topic.name,
        topic_id: topic.topic_id,
        partitions: topic
            .partitions
            .iter()
            .map(|p| partition(p.partition_index, error))
            .collect(),
        ..Default::default()
    }
}
