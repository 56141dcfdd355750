//! DescribeTopicPartitions (KIP-966): partitions page by page, with their eligible leaders.

use super::leadership::Leaders;
use super::prelude::*;
use tidemark_model::Topic;
use tidemark_wire::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use tidemark_wire::messages::{DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse};

pub(crate) async fn handle(
    broker: &Arc<Broker>,
    context: &Context,
    request: DescribeTopicPartitionsRequest,
) -> DescribeTopicPartitionsResponse {
    let leaders = Leaders::new(broker, context);
    let most = broker.settings().max_request_partition_size_limit;
    let mut left = usize::try_from(request.response_partition_limit.min(most))
        .unwrap_or(0)
        .max(1);
    let (from_name, mut from_index) = match &request.cursor {
        Some(cursor) => (cursor.topic_name.clone(), cursor.partition_index.max(0)),
        None => (String::new(), 0),
    };
    let mut names: Vec<String> = if request.topics.is_empty() {
        leaders
            .image
            .topics_from(&from_name, true)
            .map(|topic| topic.name.to_string())
            .collect()
    } else {
        request
            .topics
            .into_iter()
            .map(|topic| topic.name)
            .filter(|name| *name >= from_name)
            .collect()
    };
    names.sort();
    names.dedup();
    let mut response = DescribeTopicPartitionsResponse {
        next_cursor: None,
        ..Default::default()
    };
    for name in names {
        let start = if name == from_name {
            std::mem::take(&mut from_index)
        } else {
            0
        };
        if left == 0 {
            response.next_cursor = Some(Box::new(Cursor {
                topic_name: name,
                partition_index: start,
                ..Default::default()
            }));
            break;
        }
        let Some(topic) = leaders.image.topic(&name) else {
            let error = match tidemark_model::check_topic_name(&name) {
                Ok(()) => ErrorCode::UnknownTopicOrPartition,
                Err(_) => ErrorCode::InvalidTopicException,
            };
            response.topics.push(DescribeTopicPartitionsResponseTopic {
                error_code: error.code(),
                name: Some(name),
                ..Default::default()
            });
            continue;
        };
        let described = describe(&leaders, topic, start as usize, left);
        left -= described.partitions.len();
        let next = start as usize + described.partitions.len();
        response.topics.push(described);
        if next < topic.partitions.len() {
            response.next_cursor = Some(Box::new(Cursor {
                topic_name: name,
                partition_index: next as i32,
                ..Default::default()
            }));
            break;
        }
    }
    response
}

fn describe(
    leaders: &Leaders,
    topic: &Topic,
    start: usize,
    most: usize,
) -> DescribeTopicPartitionsResponseTopic {
    let partitions = topic
        .partitions
        .iter()
        .enumerate()
        .skip(start)
        .take(most)
        .map(|(index, partition)| {
            let leadership = leaders.of(topic, index, partition);
            DescribeTopicPartitionsResponsePartition {
                error_code: leadership.error_code,
                partition_index: index as i32,
                leader_id: leadership.leader_id,
                leader_epoch: partition.leader_epoch,
                replica_nodes: partition.replicas.clone(),
                isr_nodes: partition.isr.clone(),
                eligible_leader_replicas: Some(partition.elr.clone()),
                last_known_elr: Some(partition.last_known_elr.clone()),
                offline_replicas: leadership.offline_replicas,
                ..Default::default()
            }
        });
    DescribeTopicPartitionsResponseTopic {
        name: Some(topic.name.to_string()),
        topic_id: topic.id,
        is_internal: topic.is_internal(),
        partitions: partitions.collect(),
        topic_authorized_operations: operations::OF_TOPIC,
        ..Default::default()
    }
}
