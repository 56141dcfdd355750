//! ListPartitionReassignments (KIP-455): what is being moved.

use super::per_topic;
use super::prelude::*;
use std::collections::BTreeSet;
use tidemark_model::TopicPartition;
use tidemark_quorum::decide;
use tidemark_wire::messages::list_partition_reassignments_response::{
    OngoingPartitionReassignment, OngoingTopicReassignment,
};
use tidemark_wire::messages::{
    ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse,
};

pub(crate) async fn handle(
    broker: &Arc<Broker>,
    _: &Context,
    request: ListPartitionReassignmentsRequest,
) -> ListPartitionReassignmentsResponse {
    let image = broker.image();
    let wanted: Option<BTreeSet<TopicPartition>> = request.topics.map(|topics| {
        let named = topics.into_iter().flat_map(|topic| {
            let id = image.topic(&topic.name).map(|found| found.id);
            topic
                .partition_indexes
                .into_iter()
                .filter_map(move |partition| {
                    Some(TopicPartition {
                        topic_id: id?,
                        partition,
                    })
                })
        });
        named.collect()
    });
    let ongoing = decide::list_reassignments(&image)
        .filter(|one| {
            wanted
                .as_ref()
                .is_none_or(|wanted| wanted.contains(&one.at))
        })
        .filter_map(|one| {
            let topic = image.topic_by_id(one.at.topic_id)?;
            Some(((topic.name.to_string(), one.at.partition), one))
        });
    let topics = per_topic(ongoing).into_iter().map(|(name, moving)| {
        let partitions = moving
            .into_iter()
            .map(|(index, one)| OngoingPartitionReassignment {
                partition_index: index,
                replicas: one.replicas,
                adding_replicas: one.adding,
                removing_replicas: one.removing,
                ..Default::default()
            });
        OngoingTopicReassignment {
            partitions: partitions.collect(),
            name,
            ..Default::default()
        }
    });
    ListPartitionReassignmentsResponse {
        topics: topics.collect(),
        ..Default::default()
    }
}
