//! AlterPartition: what leaders of this broker want their ISRs to be (KIP-497).

use super::lock;
use crate::broker::Broker;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tidemark_model::TopicPartition;
use tidemark_replication::Proposal;
use tidemark_wire::messages::AlterPartitionRequest;
use tidemark_wire::messages::alter_partition_request::{BrokerState, PartitionData, TopicData};
use tidemark_wire::{ErrorCode, Uuid};

/// Asks the controller for what was proposed, all of it at once, for ever.
pub(super) async fn run(broker: &Arc<Broker>) {
    let replicas = broker.partitions.replicas();
    loop {
        replicas.proposed.notified().await;
        let proposals = std::mem::take(&mut *lock(&replicas.proposals));
        if proposals.is_empty() {
            continue;
        }
        let proposals: Vec<_> = proposals.into_iter().collect();
        for (at, accepted) in alter_partitions(broker, proposals).await {
            if let Some(partition) = broker.partitions.get(at.topic_id, at.partition) {
                partition.alter_answered(accepted);
            }
        }
    }
}

/// Proposes ISRs to the controller; gives which it did not refuse. Who is refused proposes again
/// later, by itself.
pub(crate) async fn alter_partitions(
    broker: &Arc<Broker>,
    proposals: Vec<(TopicPartition, Proposal)>,
) -> Vec<(TopicPartition, bool)> {
    let mut topics: BTreeMap<Uuid, Vec<PartitionData>> = BTreeMap::new();
    for (at, proposal) in &proposals {
        let members = proposal.isr.iter().map(|(id, epoch)| BrokerState {
            broker_id: *id,
            broker_epoch: *epoch,
            ..Default::default()
        });
        topics.entry(at.topic_id).or_default().push(PartitionData {
            partition_index: at.partition,
            leader_epoch: proposal.leader_epoch,
            partition_epoch: proposal.partition_epoch,
            new_isr_with_epochs: members.collect(),
            ..Default::default()
        });
    }
    let request = AlterPartitionRequest {
        broker_id: broker.id,
        broker_epoch: broker.epoch,
        topics: topics
            .into_iter()
            .map(|(topic_id, partitions)| TopicData {
                topic_id,
                partitions,
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    };
    let mut accepted = BTreeSet::new();
    match broker.ask_controller(request).await {
        Ok(response) if response.error_code == ErrorCode::None.code() => {
            for topic in response.topics {
                for partition in topic.partitions {
                    let at = TopicPartition {
                        topic_id: topic.topic_id,
                        partition: partition.partition_index,
                    };
                    match ErrorCode::from_code(partition.error_code) {
                        ErrorCode::None => drop(accepted.insert(at)),
                        error => {
                            tracing::debug!(topic_id = %at.topic_id, partition = at.partition, error = error.name(), "another ISR was refused");
                        }
                    }
                }
            }
        }
        Ok(response) => {
            let error = ErrorCode::from_code(response.error_code);
            tracing::warn!(
                error = error.name(),
                "the controller takes no ISRs from this broker"
            );
        }
        Err(error) => {
            tracing::warn!(%error, "the controller could not be asked for other ISRs");
        }
    }
    let told = proposals.into_iter();
    told.map(|(at, _)| (at, accepted.contains(&at))).collect()
}
