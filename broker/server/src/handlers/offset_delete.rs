//! OffsetDelete (KIP-496): forget offsets of topics that a group does not consume.

use super::prelude::*;
use tidemark_coordinator::{self as request, TopicPartitions};
use tidemark_wire::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use tidemark_wire::messages::{OffsetDeleteRequest, OffsetDeleteResponse};

pub(crate) async fn handle(
    broker: &Arc<Broker>,
    _: &Context,
    asked: OffsetDeleteRequest,
) -> OffsetDeleteResponse {
    let image = broker.image();
    let topics = asked.topics.into_iter().map(|topic| TopicPartitions {
        topic_id: image
            .topic(&topic.name)
            .map_or(Uuid::ZERO, |found| found.id),
        partitions: topic.partitions.iter().map(|p| p.partition_index).collect(),
        name: topic.name,
    });
    let request = Request::OffsetDelete(request::OffsetDelete {
        group_id: asked.group_id,
        topics: topics.collect(),
    });
    let Response::OffsetDelete(deleted) = broker.groups.ask(broker, request).await else {
        return OffsetDeleteResponse {
            error_code: MISMATCH.code(),
            ..Default::default()
        };
    };
    let topics = deleted
        .topics
        .into_iter()
        .map(|topic| OffsetDeleteResponseTopic {
            name: topic.name,
            partitions: topic
                .partitions
                .into_iter()
                .map(|(partition_index, error)| OffsetDeleteResponsePartition {
                    partition_index,
                    error_code: error.code(),
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        });
    OffsetDeleteResponse {
        error_code: deleted.error.code(),
        topics: topics.collect(),
        ..Default::default()
    }
}
