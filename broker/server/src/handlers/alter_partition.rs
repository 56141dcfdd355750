//! AlterPartition (KIP-497, KIP-903): a leader says who is in sync with it.

use crate::controller::Node;
use std::sync::Arc;
use tidemark_model::TopicPartition;
use tidemark_quorum::decide::NewIsr;
use tidemark_wire::ErrorCode;
use tidemark_wire::messages::alter_partition_response::{PartitionData, TopicData};
use tidemark_wire::messages::{AlterPartitionRequest, AlterPartitionResponse};

pub(crate) async fn handle(
    node: &Arc<Node>,
    request: AlterPartitionRequest,
) -> AlterPartitionResponse {
    let asked = request.topics.iter().flat_map(|topic| {
        topic.partitions.iter().map(|partition| NewIsr {
            at: TopicPartition {
                topic_id: topic.topic_id,
                partition: partition.partition_index,
            },
            leader_epoch: partition.leader_epoch,
            partition_epoch: partition.partition_epoch,
            isr: partition
                .new_isr_with_epochs
                .iter()
                .map(|member| (member.broker_id, member.broker_epoch))
                .collect(),
        })
    });
    let refuse = |code: ErrorCode| AlterPartitionResponse {
        error_code: code.code(),
        ..Default::default()
    };
    let asked: Vec<NewIsr> = asked.collect();
    let decided = node.alter_partitions(request.broker_id, request.broker_epoch, asked);
    let mut results = match decided.await {
        Ok(Ok(results)) => results.into_iter(),
        Ok(Err(refusal)) => return refuse(refusal.code),
        Err(error) => return refuse(error.error_code()),
    };
    let topics = request.topics.into_iter().map(|topic| TopicData {
        topic_id: topic.topic_id,
        partitions: topic
            .partitions
            .into_iter()
            .zip(results.by_ref())
            .map(|(partition, result)| match result {
                Ok(state) => PartitionData {
                    partition_index: partition.partition_index,
                    leader_id: state.leader,
                    leader_epoch: state.leader_epoch,
                    isr: state.isr,
                    partition_epoch: state.partition_epoch,
                    ..Default::default()
                },
                Err(refusal) => PartitionData {
                    partition_index: partition.partition_index,
                    error_code: refusal.code.code(),
                    ..Default::default()
                },
            })
            .collect(),
        ..Default::default()
    });
    AlterPartitionResponse {
        topics: topics.collect(),
        ..Default::default()
    }
}
