//! Creating topics on behalf of clients and of the broker itself.

use crate::broker::Broker;
use std::collections::BTreeMap;
use std::sync::Arc;
use tidemark_wire::ErrorCode;
use tidemark_wire::messages::CreateTopicsRequest;
use tidemark_wire::messages::create_topics_request::CreatableTopic;

/// Creates topics that a client named without creating them (`auto.create.topics.enable`); gives
/// why those that are still missing could not be.
pub(crate) async fn create_on_first_use(
    broker: &Arc<Broker>,
    names: Vec<String>,
) -> BTreeMap<String, ErrorCode> {
    let topics = names.iter().map(|name| CreatableTopic {
        name: name.clone(),
        num_partitions: -1,
        replication_factor: -1,
        ..Default::default()
    });
    let request = CreateTopicsRequest {
        topics: topics.collect(),
        ..Default::default()
    };
    match broker.ask_controller(request).await {
        Ok(response) => {
            let results = response.topics.into_iter();
            let refused =
                results.filter_map(|result| match ErrorCode::from_code(result.error_code) {
                    ErrorCode::None | ErrorCode::TopicAlreadyExists => None,
                    error => Some((result.name, error)),
                });
            refused.collect()
        }
        Err(error) => {
            tracing::error!(%error, "topics could not be created");
            names
                .into_iter()
                .map(|name| (name, error.error_code()))
                .collect()
        }
    }
}

/// Creates a topic that the broker itself needs.
pub(crate) async fn create_internal(
    broker: &Arc<Broker>,
    name: &'static str,
) -> Result<(), String> {
    let topic = CreatableTopic {
        name: name.to_owned(),
        num_partitions: -1,
        replication_factor: -1,
        ..Default::default()
    };
    let request = CreateTopicsRequest {
        topics: vec![topic],
        ..Default::default()
    };
    let created = broker.ask_controller(request).await;
    let created = created.map_err(|error| error.to_string())?;
    match created.topics.into_iter().next() {
        Some(topic) if topic.error_code == ErrorCode::None.code() => Ok(()),
        Some(topic) => Err(topic.error_message.unwrap_or_default()),
        None => Err("the controller did not answer".to_owned()),
    }
}
