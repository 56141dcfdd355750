//! Moving replicas (KIP-455).

use std::collections::BTreeSet;

use tidemark_model::{BrokerId, Image, MetadataRecord, Partition, TopicPartition};
use tidemark_wire::ErrorCode;

use super::placement::check_manual;
use super::state::{Change, MinInsync, is_active, next_state, record_change};
use super::topics::unknown_topic;
use super::{Context, Decision, Refusal};

/// Where a partition should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reassignment {
    /// The topic.
    pub topic: String,
    /// Index of the partition.
    pub partition: i32,
    /// Its replicas, the preferred leader first; `None` cancels what is under way.
    pub replicas: Option<Vec<BrokerId>>,
}

/// A reassignment under way, as ListPartitionReassignments shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OngoingReassignment {
    /// The partition.
    pub at: TopicPartition,
    /// All brokers that hold it now.
    pub replicas: Vec<BrokerId>,
    /// Those of them that are added.
    pub adding: Vec<BrokerId>,
    /// Those of them that will be removed.
    pub removing: Vec<BrokerId>,
}

/// Decides AlterPartitionReassignments; each partition by itself.
///
/// Replicas to add are added at once, and those to remove stay until all added ones are in
/// sync and enough stay in sync without those removed. Cancelled, or given another goal, a
/// partition loses replicas that were only being added; that is refused while too few would
/// be in sync without them, for they may be among the few that hold everything. Unless
/// `allow_factor_change` (KIP-860), as many replicas as now are asked for.
pub fn alter_reassignments(
    image: &Image,
    context: Context<'_>,
    requests: &[Reassignment],
    allow_factor_change: bool,
) -> Decision<Vec<Result<(), Refusal>>> {
    let min_insync = MinInsync::new(image, context);
    let mut records = Vec::new();
    let mut seen = BTreeSet::new();
    let result = requests
        .iter()
        .map(|request| {
            if !seen.insert((&request.topic, request.partition)) {
                return Err(Refusal::new(
                    ErrorCode::InvalidRequest,
                    "The partition is named twice.",
                ));
            }
            let topic = image
                .topic(&request.topic)
                .ok_or_else(|| unknown_topic(&request.topic))?;
            let before = topic.partition(request.partition).ok_or_else(|| {
                Refusal::new(
                    ErrorCode::UnknownTopicOrPartition,
                    format!(
                        "Topic {} has no partition {}.",
                        request.topic, request.partition
                    ),
                )
            })?;
            let at = TopicPartition {
                topic_id: topic.id,
                partition: request.partition,
            };
            let min = min_insync.of(topic.id);
            let wanted = match &request.replicas {
                None => cancelled(before, min)?,
                Some(target) => {
                    if !allow_factor_change && target.len() != before.replication_factor() {
                        return Err(Refusal::new(
                            ErrorCode::InvalidReplicationFactor,
                            format!(
                                "The replication factor is changed from {} to {}, and the request does not allow that.",
                                before.replication_factor(),
                                target.len()
                            ),
                        ));
                    }
                    towards(image, before, target, min)?
                }
            };
            let up = |id| is_active(image, id);
            let after = next_state(before, wanted, Change::default(), min, up);
            records.extend(record_change(image, at, before, after));
            Ok(())
        })
        .collect();
    Decision { records, result }
}

/// What a partition is without what its reassignment has begun.
fn cancelled(before: &Partition, min_insync_replicas: i32) -> Result<Partition, Refusal> {
    if !before.is_reassigning() {
        return Err(Refusal::new(
            ErrorCode::NoReassignmentInProgress,
            "No reassignment of the partition is under way.",
        ));
    }
    let mut wanted = before.clone();
    wanted.removing.clear();
    drop_added(before, &mut wanted, |_| false, min_insync_replicas)?;
    Ok(wanted)
}

fn towards(
    image: &Image,
    before: &Partition,
    target: &[BrokerId],
    min_insync_replicas: i32,
) -> Result<Partition, Refusal> {
    check_manual(image, target, None)?;
    let held = |id: &BrokerId| before.replicas.contains(id);
    if let Some(id) = target
        .iter()
        .find(|id| !held(id) && image.broker(**id).is_some_and(|b| b.cordoned))
    {
        return Err(Refusal::new(
            ErrorCode::InvalidReplicaAssignment,
            format!("Broker {id} is cordoned: it gets no new replicas."),
        ));
    }
    let mut wanted = before.clone();
    drop_added(
        before,
        &mut wanted,
        |id| target.contains(&id),
        min_insync_replicas,
    )?;
    // What it is on for good, before this reassignment and any that it replaces.
    let original: Vec<BrokerId> = before
        .replicas
        .iter()
        .copied()
        .filter(|id| !before.adding.contains(id))
        .collect();
    let is_original = |id: &BrokerId| original.contains(id);
    wanted.adding = target
        .iter()
        .copied()
        .filter(|id| !is_original(id))
        .collect();
    wanted.removing = original
        .iter()
        .copied()
        .filter(|id| !target.contains(id))
        .collect();
    wanted.replicas = target.to_vec();
    wanted.replicas.extend(&wanted.removing);
    Ok(wanted)
}

/// Takes away replicas that were only being added, but those that `stay`.
fn drop_added(
    before: &Partition,
    wanted: &mut Partition,
    stay: impl Fn(BrokerId) -> bool,
    min_insync_replicas: i32,
) -> Result<(), Refusal> {
    let goes = |id: &BrokerId| before.adding.contains(id) && !stay(*id);
    wanted.replicas.retain(|id| !goes(id));
    wanted.isr.retain(|id| !goes(id));
    wanted.elr.retain(|id| !goes(id));
    wanted.last_known_elr.retain(|id| !goes(id));
    wanted.adding.retain(|id| !goes(id));
    let harmless = wanted.isr == before.isr && wanted.elr == before.elr;
    if !harmless && wanted.isr.len() < wanted.effective_min_isr(min_insync_replicas) {
        return Err(Refusal::new(
            ErrorCode::InvalidReplicaAssignment,
            format!(
                "Only {} replica(s) would be in sync without those being added, and {} have to be: wait until more are.",
                wanted.isr.len(),
                wanted.effective_min_isr(min_insync_replicas)
            ),
        ));
    }
    Ok(())
}

/// Decides to complete reassignments that can be completed though no ISR changes: after a
/// lower `min.insync.replicas`, for one.
pub fn complete_reassignments(image: &Image, context: Context<'_>) -> Vec<MetadataRecord> {
    let min_insync = MinInsync::new(image, context);
    image
        .unsettled_partitions()
        .filter(|(_, state)| state.is_reassigning())
        .filter_map(|(at, state)| {
            let (wanted, min) = ((**state).clone(), min_insync.of(at.topic_id));
            let up = |id| is_active(image, id);
            let after = next_state(state, wanted, Change::default(), min, up);
            record_change(image, at, state, after)
        })
        .collect()
}

/// All reassignments under way; O(partitions that are not settled).
pub fn list_reassignments(image: &Image) -> impl Iterator<Item = OngoingReassignment> {
    image
        .unsettled_partitions()
        .filter(|(_, state)| state.is_reassigning())
        .map(|(at, state)| OngoingReassignment {
            at,
            replicas: state.replicas.clone(),
            adding: state.adding.clone(),
            removing: state.removing.clone(),
        })
}
