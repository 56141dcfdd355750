//! OffsetFetch: where groups have got to; one group below version 8, several from it on.

use super::prelude::*;
use tidemark_coordinator::{self as request, TopicPartitions};
use tidemark_coordinator::{FetchedPartition, OffsetFetchResponse as Fetched};
use tidemark_model::Image;
use tidemark_wire::messages::offset_fetch_request::OffsetFetchRequestTopics;
use tidemark_wire::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use tidemark_wire::messages::{OffsetFetchRequest, OffsetFetchResponse};

/// From here on several groups are asked for at once (KIP-709).
const FIRST_VERSION_OF_GROUPS: i16 = 8;
/// From here on topics are named by id (KIP-848).
const FIRST_VERSION_BY_ID: i16 = 10;
/// From here on a group's error has a place of its own.
const FIRST_VERSION_OF_GROUP_ERROR: i16 = 2;

pub(crate) async fn handle(
    broker: &Arc<Broker>,
    context: &Context,
    asked: OffsetFetchRequest,
) -> OffsetFetchResponse {
    if context.version < FIRST_VERSION_OF_GROUPS {
        let topics = asked.topics.map(|topics| {
            let topic =
                |t: tidemark_wire::messages::offset_fetch_request::OffsetFetchRequestTopic| {
                    TopicPartitions {
                        name: t.name,
                        topic_id: Uuid::ZERO,
                        partitions: t.partition_indexes,
                    }
                };
            topics.into_iter().map(topic).collect()
        });
        let fetched = ask(broker, asked.group_id, topics).await;
        return single(context.version, fetched);
    }
    let by_id = context.version >= FIRST_VERSION_BY_ID;
    let image = broker.image();
    let mut groups = Vec::with_capacity(asked.groups.len());
    for group in asked.groups {
        let mut unknown = Vec::new();
        let topics = group.topics.map(|topics| {
            topics
                .into_iter()
                .filter_map(|topic| resolve(&image, topic, by_id, &mut unknown))
                .collect()
        });
        let fetched = ask(broker, group.group_id, topics).await;
        groups.push(of_group(&image, by_id, fetched, unknown));
    }
    OffsetFetchResponse {
        groups,
        ..Default::default()
    }
}

async fn ask(
    broker: &Arc<Broker>,
    group_id: String,
    topics: Option<Vec<TopicPartitions>>,
) -> Fetched {
    let request = Request::OffsetFetch(request::OffsetFetch {
        group_id: group_id.clone(),
        topics,
    });
    match broker.groups.ask(broker, request).await {
        Response::OffsetFetch(fetched) => fetched,
        _ => Fetched {
            group_id,
            error: MISMATCH,
            topics: Vec::new(),
        },
    }
}

/// A topic of the request by name and id; one whose id is not known goes to `unknown`.
fn resolve(
    image: &Image,
    topic: OffsetFetchRequestTopics,
    by_id: bool,
    unknown: &mut Vec<OffsetFetchRequestTopics>,
) -> Option<TopicPartitions> {
    if !by_id {
        let topic_id = image
            .topic(&topic.name)
            .map_or(Uuid::ZERO, |found| found.id);
        return Some(TopicPartitions {
            name: topic.name,
            topic_id,
            partitions: topic.partition_indexes,
        });
    }
    match image.topic_by_id(topic.topic_id) {
        Some(found) => Some(TopicPartitions {
            name: found.name.to_string(),
            topic_id: found.id,
            partitions: topic.partition_indexes,
        }),
        None => {
            unknown.push(topic);
            None
        }
    }
}

fn single(version: i16, fetched: Fetched) -> OffsetFetchResponse {
    let partition = |p: FetchedPartition| OffsetFetchResponsePartition {
        partition_index: p.partition,
        committed_offset: p.offset,
        committed_leader_epoch: p.leader_epoch,
        metadata: Some(p.metadata),
        error_code: p.error.code(),
        ..Default::default()
    };
    let topics = fetched
        .topics
        .into_iter()
        .map(|topic| OffsetFetchResponseTopic {
            name: topic.name,
            partitions: topic.partitions.into_iter().map(partition).collect(),
            ..Default::default()
        });
    let error_code = if version >= FIRST_VERSION_OF_GROUP_ERROR {
        fetched.error.code()
    } else {
        0
    };
    OffsetFetchResponse {
        error_code,
        topics: topics.collect(),
        ..Default::default()
    }
}

fn of_group(
    image: &Image,
    by_id: bool,
    fetched: Fetched,
    unknown: Vec<OffsetFetchRequestTopics>,
) -> OffsetFetchResponseGroup {
    let partition = |p: FetchedPartition| OffsetFetchResponsePartitions {
        partition_index: p.partition,
        committed_offset: p.offset,
        committed_leader_epoch: p.leader_epoch,
        metadata: Some(p.metadata),
        error_code: p.error.code(),
        ..Default::default()
    };
    let mut topics: Vec<OffsetFetchResponseTopics> = Vec::with_capacity(fetched.topics.len());
    for topic in fetched.topics {
        let current = image.topic(&topic.name).map(|found| found.id);
        // An offset of a topic that is gone cannot be named by id.
        if by_id && current.is_none() {
            continue;
        }
        topics.push(OffsetFetchResponseTopics {
            name: if by_id { String::new() } else { topic.name },
            topic_id: if by_id {
                current.unwrap_or(Uuid::ZERO)
            } else {
                Uuid::ZERO
            },
            partitions: topic.partitions.into_iter().map(partition).collect(),
            ..Default::default()
        });
    }
    topics.extend(unknown.into_iter().map(|topic| {
        OffsetFetchResponseTopics {
            topic_id: topic.topic_id,
            partitions: topic
                .partition_indexes
                .into_iter()
                .map(|index| partition(FetchedPartition::absent(index, ErrorCode::UnknownTopicId)))
                .collect(),
            ..Default::default()
        }
    }));
    OffsetFetchResponseGroup {
        group_id: fetched.group_id,
        error_code: fetched.error.code(),
        topics,
        ..Default::default()
    }
}
