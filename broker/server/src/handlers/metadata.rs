//! Metadata: brokers, topics, partitions and their leaders; creates topics on first use.

use super::leadership::Leaders;
use super::prelude::*;
use crate::topics;
use tidemark_model::Topic;
use tidemark_wire::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use tidemark_wire::messages::{MetadataRequest, MetadataResponse};

/// Earlier clients do not know that error.
const FIRST_VERSION_OF_LISTENER_NOT_FOUND: i16 = 6;

pub(crate) async fn handle(
    broker: &Arc<Broker>,
    context: &Context,
    request: MetadataRequest,
) -> MetadataResponse {
    let wanted = match request.topics {
        // Version 0 has no null: an empty list asks for all.
        Some(topics) if context.version == 0 && topics.is_empty() => None,
        topics => topics,
    };
    let operations = match (
        context.version >= 8,
        request.include_topic_authorized_operations,
    ) {
        (true, true) => operations::OF_TOPIC,
        _ => operations::NOT_ASKED,
    };
    let mut leaders = Leaders::new(broker, context);
    let topics = match wanted {
        None => leaders
            .image
            .topics()
            .map(|topic| describe(&leaders, context.version, topic, operations))
            .collect(),
        Some(wanted) => {
            let create =
                request.allow_auto_topic_creation && broker.settings().auto_create_topics_enable;
            let missing: Vec<String> = wanted
                .iter()
                .filter(|topic| topic.topic_id.is_zero())
                .filter_map(|topic| topic.name.clone())
                .filter(|name| leaders.image.topic(name).is_none())
                .collect();
            let mut refused = std::collections::BTreeMap::new();
            if create && !missing.is_empty() {
                refused = topics::create_on_first_use(broker, missing).await;
                leaders = Leaders::new(broker, context);
            }
            wanted
                .into_iter()
                .map(|topic| {
                    if !topic.topic_id.is_zero() {
                        return match leaders.image.topic_by_id(topic.topic_id) {
                            Some(found) => describe(&leaders, context.version, found, operations),
                            None => MetadataResponseTopic {
                                error_code: ErrorCode::UnknownTopicId.code(),
                                name: if context.version >= 12 {
                                    None
                                } else {
                                    Some(String::new())
                                },
                                topic_id: topic.topic_id,
                                ..Default::default()
                            },
                        };
                    }
                    let name = topic.name.unwrap_or_default();
                    match leaders.image.topic(&name) {
                        Some(found) => describe(&leaders, context.version, found, operations),
                        None => unknown(name, &refused),
                    }
                })
                .collect()
        }
    };
    // Only brokers that serve: a client that asked a fenced one would learn nothing.
    let brokers = leaders.image.brokers().filter(|broker| !broker.fenced);
    let brokers = brokers.filter_map(|broker| {
        let endpoint = broker.endpoint(&context.listener)?;
        Some(MetadataResponseBroker {
            node_id: broker.id,
            host: endpoint.host.clone(),
            port: i32::from(endpoint.port),
            rack: broker.rack.clone(),
            ..Default::default()
        })
    });
    MetadataResponse {
        brokers: brokers.collect(),
        cluster_id: leaders.image.cluster_id().map(|id| id.to_string()),
        controller_id: broker.controller_id(),
        topics,
        cluster_authorized_operations: if request.include_cluster_authorized_operations {
            operations::OF_CLUSTER
        } else {
            operations::NOT_ASKED
        },
        ..Default::default()
    }
}

fn unknown(
    name: String,
    refused: &std::collections::BTreeMap<String, ErrorCode>,
) -> MetadataResponseTopic {
    let error = match tidemark_model::check_topic_name(&name) {
        Err(_) => ErrorCode::InvalidTopicException,
        Ok(()) => refused
            .get(&name)
            .copied()
            .unwrap_or(ErrorCode::UnknownTopicOrPartition),
    };
    MetadataResponseTopic {
        error_code: error.code(),
        name: Some(name),
        ..Default::default()
    }
}

fn describe(
    leaders: &Leaders,
    version: i16,
    topic: &Topic,
    operations: i32,
) -> MetadataResponseTopic {
    let partitions = topic
        .partitions
        .iter()
        .enumerate()
        .map(|(index, partition)| {
            let leadership = leaders.of(topic, index, partition);
            let error_code = match version < FIRST_VERSION_OF_LISTENER_NOT_FOUND
                && leadership.error_code == ErrorCode::ListenerNotFound.code()
            {
                true => ErrorCode::LeaderNotAvailable.code(),
                false => leadership.error_code,
            };
            MetadataResponsePartition {
                error_code,
                partition_index: index as i32,
                leader_id: leadership.leader_id,
                leader_epoch: partition.leader_epoch,
                replica_nodes: partition.replicas.clone(),
                isr_nodes: partition.isr.clone(),
                offline_replicas: leadership.offline_replicas,
                ..Default::default()
            }
        });
    MetadataResponseTopic {
        name: Some(topic.name.to_string()),
        topic_id: topic.id,
        is_internal: topic.is_internal(),
        partitions: partitions.collect(),
        topic_authorized_operations: operations,
        ..Default::default()
    }
}
