//! DeleteTopics, by name and from version 6 on by id.

use super::changed;
use super::prelude::*;
use tidemark_quorum::decide::{self, TopicName};
use tidemark_wire::messages::delete_topics_response::DeletableTopicResult;
use tidemark_wire::messages::{DeleteTopicsRequest, DeleteTopicsResponse};

pub(crate) async fn handle(
    broker: &Arc<Broker>,
    context: &Context,
    request: DeleteTopicsRequest,
) -> DeleteTopicsResponse {
    let named: Vec<TopicName> = if context.version >= 6 {
        let named = request.topics.into_iter().map(|topic| match topic.name {
            Some(name) => TopicName::Name(name),
            None => TopicName::Id(topic.topic_id),
        });
        named.collect()
    } else {
        request
            .topic_names
            .into_iter()
            .map(TopicName::Name)
            .collect()
    };
    let asked = named.clone();
    let decided =
        broker.change(move |image, _, settings| decide::delete_topics(image, settings, &asked));
    let results = changed(decided.await, named.len());
    let by_id = context.version >= 6;
    let responses = named
        .into_iter()
        .zip(results)
        .map(|(asked, result)| match result {
            Ok((topic_id, name)) => DeletableTopicResult {
                name: Some(name),
                topic_id: if by_id { topic_id } else { Uuid::ZERO },
                ..Default::default()
            },
            Err((error, message)) => {
                let (name, topic_id) = match asked {
                    TopicName::Name(name) => (Some(name), Uuid::ZERO),
                    TopicName::Id(id) => (None, id),
                };
                DeletableTopicResult {
                    name,
                    topic_id,
                    error_code: error.code(),
                    error_message: Some(message),
                    ..Default::default()
                }
            }
        });
    DeleteTopicsResponse {
        responses: responses.collect(),
        ..Default::default()
    }
}
