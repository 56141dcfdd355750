//! DescribeProducers (KIP-664): the idempotent producers that a partition remembers.

use super::prelude::*;
use tidemark_wire::messages::describe_producers_response::{
    PartitionResponse, ProducerState, TopicResponse,
};
use tidemark_wire::messages::{DescribeProducersRequest, DescribeProducersResponse};

pub(crate) async fn handle(
    broker: &Arc<Broker>,
    _: &Context,
    request: DescribeProducersRequest,
) -> DescribeProducersResponse {
    let image = broker.image();
    let topics = request.topics.into_iter().map(|topic| {
        let id = image.topic(&topic.name).map(|found| found.id);
        let partitions = topic.partition_indexes.into_iter().map(|index| {
            let found = id.and_then(|id| broker.partitions.get(id, index));
            let producers =
                found.and_then(|partition| partition.with_log(|log, _| of_log(log)).ok());
            match producers {
                Some(active_producers) => PartitionResponse {
                    partition_index: index,
                    active_producers,
                    ..Default::default()
                },
                None => PartitionResponse {
                    partition_index: index,
                    error_code: ErrorCode::UnknownTopicOrPartition.code(),
                    error_message: Some(format!(
                        "there is no partition {index} of topic {} here",
                        topic.name
                    )),
                    ..Default::default()
                },
            }
        });
        TopicResponse {
            partitions: partitions.collect(),
            name: topic.name,
            ..Default::default()
        }
    });
    DescribeProducersResponse {
        topics: topics.collect(),
        ..Default::default()
    }
}

fn of_log(log: &tidemark_log::Log) -> Vec<ProducerState> {
    let producer = |entry: &tidemark_log::ProducerEntry| ProducerState {
        producer_id: entry.producer_id,
        producer_epoch: i32::from(entry.epoch),
        last_sequence: entry.last_sequence(),
        last_timestamp: entry.last_timestamp_ms,
        coordinator_epoch: entry.coordinator_epoch,
        current_txn_start_offset: entry.transaction_first_offset.unwrap_or(-1),
        ..Default::default()
    };
    log.producers().iter().map(producer).collect()
}
