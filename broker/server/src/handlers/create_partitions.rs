//! CreatePartitions.

use super::changed;
use super::prelude::*;
use tidemark_quorum::decide::{self, MorePartitions};
use tidemark_wire::messages::create_partitions_response::CreatePartitionsTopicResult;
use tidemark_wire::messages::{CreatePartitionsRequest, CreatePartitionsResponse};

pub(crate) async fn handle(
    broker: &Arc<Broker>,
    _: &Context,
    request: CreatePartitionsRequest,
) -> CreatePartitionsResponse {
    let names: Vec<String> = request
        .topics
        .iter()
        .map(|topic| topic.name.clone())
        .collect();
    let topics: Vec<MorePartitions> = request
        .topics
        .into_iter()
        .map(|topic| MorePartitions {
            name: topic.name,
            count: topic.count,
            assignments: topic
                .assignments
                .map(|all| all.into_iter().map(|a| a.broker_ids).collect()),
        })
        .collect();
    let validate_only = request.validate_only;
    let decided =
        broker.change(move |image, _, _| decide::create_partitions(image, &topics, validate_only));
    let results = names
        .iter()
        .zip(changed(decided.await, names.len()))
        .map(|(name, result)| {
            let (error, message) = result.err().unzip();
            CreatePartitionsTopicResult {
                name: name.clone(),
                error_code: error.unwrap_or_default().code(),
                error_message: message,
                ..Default::default()
            }
        });
    CreatePartitionsResponse {
        results: results.collect(),
        ..Default::default()
    }
}
