//! CreateTopics.

use super::prelude::*;
use super::{AS_ASKED, changed};
use tidemark_config::describe_topic;
use tidemark_model::CONSUMER_OFFSETS;
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
    if let [topic] = &*request.topics
        && context.is_of_broker()
        && topic.name == CONSUMER_OFFSETS
    {
        return create_internal(broker, CONSUMER_OFFSETS).await;
    }
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

/// Creates a topic that brokers need, with the settings for it.
async fn create_internal(broker: &Arc<Broker>, name: &'static str) -> CreateTopicsResponse {
    let decided = broker.change(move |image, context, settings| {
        let created = decide::create_internal_topic(image, context, settings, name, random_uuid);
        decide::Decision {
            records: created.records,
            result: vec![created.result],
        }
    });
    let results = changed(decided.await, 1).into_iter();
    let topics = results.map(|result| {
        let (error, message) = result.err().unzip();
        CreatableTopicResult {
            name: name.to_owned(),
            error_code: error.unwrap_or(ErrorCode::None).code(),
            error_message: message,
            ..Default::default()
        }
    });
    CreateTopicsResponse {
        topics: topics.collect(),
        ..Default::default()
    }
}
