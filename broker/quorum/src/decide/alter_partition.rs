//! Leaders changing their ISRs (KIP-497, KIP-903).

use tidemark_model::{
    BrokerEpoch, BrokerId, Image, LeaderEpoch, MetadataRecord, Partition, PartitionEpoch,
    TopicPartition,
};
use tidemark_wire::ErrorCode;

use super::brokers::check_epoch;
use super::state::{Change, MinInsync, is_active, next_state};
use super::{Context, Decision, Refusal};

/// An ISR that a leader wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewIsr {
    /// The partition.
    pub at: TopicPartition,
    /// The epoch in which the leader leads.
    pub leader_epoch: LeaderEpoch,
    /// The partition epoch that it knows.
    pub partition_epoch: PartitionEpoch,
    /// The ISR, each with the epoch in which the leader heard of it.
    pub isr: Vec<(BrokerId, BrokerEpoch)>,
}

/// Decides AlterPartition: each partition by itself; answers with the state of each.
///
/// Asked by a leader that is no broker of that epoch any more, all are refused.
pub fn alter_partitions(
    image: &Image,
    context: Context<'_>,
    broker_id: BrokerId,
    broker_epoch: BrokerEpoch,
    requests: &[NewIsr],
) -> Decision<Result<Vec<Result<Partition, Refusal>>, Refusal>> {
    if let Err(refusal) = check_epoch(image, broker_id, broker_epoch) {
        return Decision {
            records: Vec::new(),
            result: Err(refusal),
        };
    }
    let min_insync = MinInsync::new(image, context);
    let mut records = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    let result = requests
        .iter()
        .map(|request| {
            if !seen.insert(request.at) {
                return Err(invalid("The partition is named twice."));
            }
            let before = check(image, broker_id, request)?;
            let mut wanted = before.clone();
            wanted.isr = request.isr.iter().map(|(id, _)| *id).collect();
            let min = min_insync.of(request.at.topic_id);
            let up = |id| is_active(image, id);
            // A reassignment that this completes is a change of its own: who leads then was
            // in sync before, by the leader's word.
            let first = Change {
                stay: true,
                ..Change::default()
            };
            let mut after = before.clone();
            for (wanted, change) in [(Some(wanted), first), (None, Change::default())] {
                let asked = wanted.is_some();
                let wanted = wanted.unwrap_or_else(|| after.clone());
                let next = next_state(&after, wanted, change, min, up);
                // What was asked for raises the partition epoch though it be what is there: a
                // leader takes back an addition with it, and has to see that it is settled.
                if asked || next != after {
                    let epoch_of = |id| image.broker(id).map(|b| b.epoch);
                    let record = MetadataRecord::partition_change(
                        request.at,
                        &after,
                        next.clone(),
                        epoch_of,
                    );
                    records.push(record);
                    after = next;
                    after.partition_epoch = after.partition_epoch.saturating_add(1);
                }
            }
            if after.leader != before.leader {
                return Err(Refusal::new(
                    ErrorCode::NewLeaderElected,
                    "The reassignment is complete, and another broker leads.",
                ));
            }
            if after.leader_epoch != before.leader_epoch {
                return Err(Refusal::new(
                    ErrorCode::FencedLeaderEpoch,
                    "The reassignment is complete, and began a new leader epoch.",
                ));
            }
            Ok(after)
        })
        .collect();
    Decision {
        records,
        result: Ok(result),
    }
}

fn check<'a>(
    image: &'a Image,
    asker: BrokerId,
    request: &NewIsr,
) -> Result<&'a Partition, Refusal> {
    let at = request.at;
    let topic = image.topic_by_id(at.topic_id).ok_or_else(|| {
        Refusal::new(
            ErrorCode::UnknownTopicId,
            format!("No topic has id {}.", at.topic_id),
        )
    })?;
    let state = topic.partition(at.partition).ok_or_else(|| {
        Refusal::new(
            ErrorCode::UnknownTopicOrPartition,
            format!("Topic {} has no partition {}.", topic.name, at.partition),
        )
    })?;
    if request.leader_epoch > state.leader_epoch || request.partition_epoch > state.partition_epoch
    {
        return Err(Refusal::new(
            ErrorCode::NotController,
            "The leader knows a newer state than this controller.",
        ));
    }
    if request.leader_epoch < state.leader_epoch {
        return Err(Refusal::new(
            ErrorCode::FencedLeaderEpoch,
            format!("The partition is in leader epoch {}.", state.leader_epoch),
        ));
    }
    if state.leader != asker {
        return Err(invalid("The broker does not lead the partition."));
    }
    if request.partition_epoch < state.partition_epoch {
        return Err(Refusal::new(
            ErrorCode::InvalidUpdateVersion,
            format!("The partition is in epoch {}.", state.partition_epoch),
        ));
    }
    for (at, (id, _)) in request.isr.iter().enumerate() {
        if request.isr[..at].iter().any(|(other, _)| other == id) {
            return Err(invalid("A broker is in the ISR twice."));
        }
        if !state.replicas.contains(id) {
            return Err(invalid(&format!("Broker {id} is no replica.")));
        }
    }
    if !request.isr.iter().any(|(id, _)| *id == asker) {
        return Err(invalid("The leader is not in the ISR."));
    }
    for (id, epoch) in &request.isr {
        let current = image.broker(*id).filter(|b| b.is_active());
        if current.is_none_or(|b| b.epoch != *epoch) {
            return Err(Refusal::new(
                ErrorCode::IneligibleReplica,
                format!("Broker {id} of epoch {epoch} is not registered, fenced or shutting down."),
            ));
        }
    }
    Ok(state)
}

fn invalid(message: &str) -> Refusal {
    Refusal::new(ErrorCode::InvalidRequest, message)
}
