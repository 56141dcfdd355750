//! AlterPartitionReassignments (KIP-455): where partitions should be.

use super::prelude::*;
use super::{changed, per_topic};
use tidemark_quorum::decide::{self, Reassignment};
use tidemark_wire::messages::alter_partition_reassignments_response::{
    ReassignablePartitionResponse, ReassignableTopicResponse,
};
use tidemark_wire::messages::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse,
};

pub(crate) async fn handle(
    broker: &Arc<Broker>,
    _: &Context,
    request: AlterPartitionReassignmentsRequest,
) -> AlterPartitionReassignmentsResponse {
    let allow_factor_change = request.allow_replication_factor_change;
    let wanted: Vec<Reassignment> = request
        .topics
        .into_iter()
        .flat_map(|topic| {
            let name = topic.name;
            topic
                .partitions
                .into_iter()
                .map(move |partition| Reassignment {
                    topic: name.clone(),
                    partition: partition.partition_index,
                    replicas: partition.replicas,
                })
        })
        .collect();
    let asked: Vec<(String, i32)> = wanted
        .iter()
        .map(|one| (one.topic.clone(), one.partition))
        .collect();
    let decided = broker.change(move |image, context, _| {
        decide::alter_reassignments(image, context, &wanted, allow_factor_change)
    });
    let results = changed(decided.await, asked.len());
    let responses = per_topic(asked.into_iter().zip(results))
        .into_iter()
        .map(|(name, results)| {
            let partitions = results.into_iter().map(|(index, result)| {
                let (error, message) = result.err().unzip();
                ReassignablePartitionResponse {
                    partition_index: index,
                    error_code: error.unwrap_or_default().code(),
                    error_message: message,
                    ..Default::default()
                }
            });
            ReassignableTopicResponse {
                partitions: partitions.collect(),
                name,
                ..Default::default()
            }
        });
    AlterPartitionReassignmentsResponse {
        allow_replication_factor_change: allow_factor_change,
        responses: responses.collect(),
        ..Default::default()
    }
}
