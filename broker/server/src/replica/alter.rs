//! AlterPartition: what leaders of this broker want their ISRs to be (KIP-497).

use super::lock;
use crate::broker::Broker;
use std::collections::BTreeSet;
use std::sync::Arc;
use tidemark_model::TopicPartition;
use tidemark_replication::Proposal;
use tidemark_wire::ErrorCode;
use tidemark_wire::messages::alter_partition_request::{BrokerState, PartitionData, TopicData};
use tidemark_wire::messages::{AlterPartitionRequest, AlterPartitionResponse};

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
    let partitions: Vec<TopicPartition> = proposals.iter().map(|(at, _)| *at).collect();
    let answered = broker.ask_controller(request(broker, proposals)).await;
    let answer = match answered {
        Ok(answer) if answer.error_code == ErrorCode::None.code() => answer,
        Ok(refused) => {
            let error = ErrorCode::from_code(refused.error_code);
            tracing::warn!(%error, "the controller takes no ISRs from this broker");
            AlterPartitionResponse::default()
        }
        Err(error) => {
            tracing::warn!(%error, "the controller could not be asked for other ISRs");
            AlterPartitionResponse::default()
        }
    };
    let mut accepted = BTreeSet::new();
    for topic in answer.topics {
        for partition in topic.partitions {
            let at = TopicPartition {
                topic_id: topic.topic_id,
                partition: partition.partition_index,
            };
            match ErrorCode::from_code(partition.error_code) {
                ErrorCode::None => drop(accepted.insert(at)),
                error => tracing::debug!(
                    topic_id = %at.topic_id, partition = at.partition, %error,
                    "another ISR was refused"
                ),
            }
        }
    }
    let told = partitions.into_iter();
    told.map(|at| (at, accepted.contains(&at))).collect()
}

fn request(broker: &Broker, proposals: Vec<(TopicPartition, Proposal)>) -> AlterPartitionRequest {
    let mut topics: Vec<TopicData> = Vec::new();
    for (at, proposal) in proposals {
        let members = proposal.isr.into_iter().map(|(id, epoch)| BrokerState {
            broker_id: id,
            broker_epoch: epoch,
            ..Default::default()
        });
        let partition = PartitionData {
            partition_index: at.partition,
            leader_epoch: proposal.leader_epoch,
            partition_epoch: proposal.partition_epoch,
            new_isr_with_epochs: members.collect(),
            ..Default::default()
        };
        let same = |last: &&mut TopicData| last.topic_id == at.topic_id;
        match topics.last_mut().filter(same) {
            Some(topic) => topic.partitions.push(partition),
            None => topics.push(TopicData {
                topic_id: at.topic_id,
                partitions: vec![partition],
                ..Default::default()
            }),
        }
    }
    AlterPartitionRequest {
        broker_id: broker.id,
        broker_epoch: broker.epoch,
        topics,
        ..Default::default()
    }
}
