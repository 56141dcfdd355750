//! Which brokers hold a new partition.

use tidemark_model::{BrokerId, Image, Partition};
use tidemark_wire::ErrorCode;

use super::Refusal;

/// Brokers that may be given replicas, by id.
fn usable(image: &Image) -> Vec<BrokerId> {
    image
        .brokers()
        .filter(|broker| !broker.fenced)
        .map(|broker| broker.id)
        .collect()
}

/// Replicas for `count` partitions from index `first` on, leaders and followers spread evenly.
///
/// `turn` rotates where a topic begins, so that many small topics do not all begin on
/// the same broker. Racks are not looked at yet.
pub(super) fn place(
    image: &Image,
    first: usize,
    count: usize,
    replication_factor: usize,
    turn: usize,
) -> Result<Vec<Vec<BrokerId>>, Refusal> {
    let brokers = usable(image);
    if replication_factor > brokers.len() {
        return Err(Refusal::new(
            ErrorCode::InvalidReplicationFactor,
            format!(
                "Unable to replicate the partition {replication_factor} time(s): the target replication factor of {replication_factor} cannot be reached because only {} broker(s) are available.",
                brokers.len()
            ),
        ));
    }
    Ok((first..first + count)
        .map(|partition| {
            // Each time around the brokers, followers stand one broker further from
            // their leader, so that one broker's partitions do not all follow to one other.
            let leader = turn.wrapping_add(partition) % brokers.len();
            let step = 1 + (partition / brokers.len()) % brokers.len().saturating_sub(1).max(1);
            let mut replicas = vec![brokers[leader]];
            let mut at = leader + step;
            while replicas.len() < replication_factor {
                let candidate = brokers[at % brokers.len()];
                if !replicas.contains(&candidate) {
                    replicas.push(candidate);
                }
                at += 1;
            }
            replicas
        })
        .collect())
}

/// Checks replicas that somebody chose by hand; `factor` is what the others have.
pub(super) fn check_manual(
    image: &Image,
    replicas: &[BrokerId],
    factor: Option<usize>,
) -> Result<(), Refusal> {
    let refuse = |message: String| Err(Refusal::new(ErrorCode::InvalidReplicaAssignment, message));
    if replicas.is_empty() {
        return refuse(
            "The manual partition assignment includes an empty replica list.".to_owned(),
        );
    }
    for (at, id) in replicas.iter().enumerate() {
        if image.broker(*id).is_none() {
            return refuse(format!(
                "The manual partition assignment includes broker {id}, but no such broker is registered."
            ));
        }
        if replicas[..at].contains(id) {
            return refuse(format!(
                "The manual partition assignment includes the broker {id} more than once."
            ));
        }
    }
    if let Some(factor) = factor
        && factor != replicas.len()
    {
        return refuse(format!(
            "The manual partition assignment includes a partition with {} replica(s), but this is not consistent with previous partitions, which have {factor} replica(s).",
            replicas.len()
        ));
    }
    Ok(())
}

/// A new partition on `replicas`: those whose brokers are up are in sync, the first leads.
pub(super) fn new_partition(image: &Image, replicas: Vec<BrokerId>) -> Result<Partition, Refusal> {
    let isr: Vec<BrokerId> = replicas
        .iter()
        .copied()
        .filter(|id| image.broker(*id).is_some_and(|b| b.is_active()))
        .collect();
    let Some(leader) = isr.first().copied() else {
        return Err(Refusal::new(
            ErrorCode::InvalidReplicaAssignment,
            "All brokers specified in the manual partition assignment are fenced or in controlled shutdown.",
        ));
    };
    Ok(Partition {
        replicas,
        isr,
        leader,
        ..Partition::default()
    })
}
