//! AlterPartition: what leaders of this broker want their ISRs to be (KIP-497).

use super::lock;
use crate::broker::Broker;
use std::sync::Arc;
use tidemark_model::TopicPartition;
use tidemark_quorum::decide::{self, NewIsr};
use tidemark_replication::Proposal;

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
    let wanted: Vec<NewIsr> = proposals
        .into_iter()
        .map(|(at, proposal)| NewIsr {
            at,
            leader_epoch: proposal.leader_epoch,
            partition_epoch: proposal.partition_epoch,
            isr: proposal.isr,
        })
        .collect();
    let (fixed, broker_id, epoch) = (Arc::clone(&broker.fixed), broker.id, broker.epoch);
    let asked = broker.controller.propose_async(move |image| {
        let context = decide::Context {
            broker_id,
            fixed: &fixed,
        };
        decide::alter_partitions(image, context, broker_id, epoch, &wanted)
    });
    let refused_all = || partitions.iter().map(|at| (*at, false)).collect();
    let results = match asked.await {
        Ok((Ok(results), _)) => results,
        Ok((Err(refusal), _)) => {
            tracing::warn!(%refusal, "the controller takes no ISRs from this broker");
            return refused_all();
        }
        Err(error) => {
            tracing::warn!(%error, "the controller could not be asked for other ISRs");
            return refused_all();
        }
    };
    let told = partitions.iter().zip(results);
    told.map(|(at, result)| match result {
        Ok(_) => (*at, true),
        Err(refusal) => {
            tracing::debug!(topic_id = %at.topic_id, partition = at.partition, %refusal, "another ISR was refused");
            (*at, false)
        }
    })
    .collect()
}
