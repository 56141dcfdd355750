//! DescribeProducers (KIP-664): the idempotent producers that a partition remembers. Clients ask
//! its leader, and may ask a follower by its id: the producers that each knows are in its log.

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
        let found = image.topic(&topic.name);
        let partitions = topic.partition_indexes.into_iter().map(|index| {
            let held = found.and_then(|topic| broker.partitions.get(topic.id, index));
            let producers =
                held.and_then(|partition| partition.with_log(|log, _| of_log(log)).ok());
            let elsewhere = found.is_some_and(|topic| topic.partition(index).is_some());
            match producers {
                Some(active_producers) => PartitionResponse {
                    partition_index: index,
                    active_producers,
                    ..Default::default()
                },
                None if elsewhere => PartitionResponse {
                    partition_index: index,
                    error_code: ErrorCode::NotLeaderOrFollower.code(),
                    error_message: Some(format!(
                        "partition {index} of topic {} is not held here",
                        topic.name
                    )),
                    ..Default::default()
                },
                None => PartitionResponse {
                    partition_index: index,
                    error_code: ErrorCode::UnknownTopicOrPartition.code(),
                    error_message: Some(format!(
                        "there is no partition {index} of topic {}",
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
