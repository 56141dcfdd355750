//! Creating topics on behalf of clients and of the broker itself.

use crate::broker::Broker;
use std::collections::BTreeMap;
use std::sync::Arc;
use tidemark_quorum::decide::{self, NewTopic};
use tidemark_wire::ErrorCode;

/// Creates topics that a client named without creating them (`auto.create.topics.enable`); gives
/// why those that are still missing could not be.
pub(crate) async fn create_on_first_use(
    broker: &Arc<Broker>,
    names: Vec<String>,
) -> BTreeMap<String, ErrorCode> {
    let asked = names.clone();
    let created = broker
        .change(move |image, context, settings| {
            let topics: Vec<NewTopic> = asked
                .into_iter()
                .map(|name| NewTopic {
                    name,
                    num_partitions: -1,
                    replication_factor: -1,
                    ..NewTopic::default()
                })
                .collect();
            decide::create_topics(
                image,
                context,
                settings,
                &topics,
                false,
                crate::broker::new_id,
            )
        })
        .await;
    match created {
        Ok(results) => {
            let refused =
                names
                    .into_iter()
                    .zip(results)
                    .filter_map(|(name, result)| match result {
                        Err(refusal) if refusal.code != ErrorCode::TopicAlreadyExists => {
                            Some((name, refusal.code))
                        }
                        _ => None,
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
    let created = broker
        .change(move |image, context, settings| {
            decide::create_internal_topic(image, context, settings, name, crate::broker::new_id)
        })
        .await;
    match created {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(refusal)) => Err(refusal.message),
        Err(error) => Err(error.to_string()),
    }
}
