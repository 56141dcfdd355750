//! CreateTopics.

use super::prelude::*;
use super::{AS_ASKED, changed};
use tidemark_config::describe_topic;
use tidemark_quorum::decide::{self, NewTopic};
use tidemark_wire::messages::create_topics_response::{
    CreatableTopicConfigs, CreatableTopicResult,
};
use tidemark_wire::messages::{CreateTopicsRequest, CreateTopicsResponse};

pub(crate) async fn handle(
    broker: &Arc<Broker>,
    context: &Context,
    request: CreateTopicsRequest,
) -> CreateTopicsResponse {
    let names: Vec<String> = request
        .topics
        .iter()
        .map(|topic| topic.name.clone())
        .collect();
    let topics: Vec<NewTopic> = request
        .topics
        .into_iter()
        .map(|topic| NewTopic {
            name: topic.name,
            num_partitions: topic.num_partitions,
            replication_factor: topic.replication_factor,
            assignments: topic
                .assignments
                .into_iter()
                .map(|a| (a.partition_index, a.broker_ids))
                .collect(),
            configs: topic
                .configs
                .into_iter()
                .map(|c| (c.name, c.value))
                .collect(),
        })
        .collect();
    let count = topics.len();
    let validate_only = request.validate_only;
    let decided = broker.change(move |image, context, settings| {
        decide::create_topics(
            image,
            context,
            settings,
            &topics,
            validate_only,
            crate::broker::new_id,
        )
    });
    let results = changed(decided.await, count);
    let image = broker.image();
    // From version 5 on the answer tells what was created (KIP-525).
    let tell = context.version >= 5;
    let topics = names
        .into_iter()
        .zip(results)
        .map(|(name, result)| match result {
            Ok(created) => {
                let configs = describe_topic(&created.configs, broker.partitions.layers(&image));
                let configs = configs.into_iter().map(|config| CreatableTopicConfigs {
                    name: config.name.to_string(),
                    read_only: config.read_only,
                    config_source: config.source.code(),
                    is_sensitive: config.sensitive,
                    value: config.value,
                    ..Default::default()
                });
                CreatableTopicResult {
                    name,
                    topic_id: if validate_only {
                        Uuid::ZERO
                    } else {
                        created.topic_id
                    },
                    num_partitions: if tell {
                        created.num_partitions
                    } else {
                        AS_ASKED.into()
                    },
                    replication_factor: if tell {
                        created.replication_factor
                    } else {
                        AS_ASKED
                    },
                    configs: tell.then(|| configs.collect()),
                    ..Default::default()
                }
            }
            Err((error, message)) => CreatableTopicResult {
                name,
                error_code: error.code(),
                error_message: Some(message),
                configs: if tell { Some(Vec::new()) } else { None },
                ..Default::default()
            },
        });
    CreateTopicsResponse {
        topics: topics.collect(),
        ..Default::default()
    }
}
