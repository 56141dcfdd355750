//! What becomes of one partition when its ISR, its brokers or its replicas change: leader,
//! epochs, who stays eligible, whether a reassignment is done. Every decision about a
//! partition goes through [`next_state`].

use tidemark_model::{
    BrokerId, ConfigResource, Image, LeaderEpoch, MetadataRecord, NO_LEADER, Partition, TopicId,
    TopicPartition,
};

use super::Context;

/// `min.insync.replicas` by topic, as all nodes see it: the topic's, else that of all
/// brokers, else the deciding broker's file, else the default.
#[derive(Debug, Clone, Copy)]
pub(super) struct MinInsync<'a> {
    image: &'a Image,
    fallback: i32,
}

const MIN_INSYNC_REPLICAS: &str = "min.insync.replicas";

impl<'a> MinInsync<'a> {
    pub(super) fn new(image: &'a Image, context: Context<'a>) -> Self {
        let layers = context.layers(image);
        let found = layers.get(MIN_INSYNC_REPLICAS);
        let fallback = found.and_then(|(text, _)| text.parse().ok()).unwrap_or(1);
        Self { image, fallback }
    }

    /// As set; [`Partition::effective_min_isr`] caps it.
    pub(super) fn of(self, topic_id: TopicId) -> i32 {
        let configs = self.image.configs(&ConfigResource::Topic(topic_id));
        let own = configs.get(MIN_INSYNC_REPLICAS);
        own.and_then(|text| text.parse().ok())
            .unwrap_or(self.fallback)
    }
}

/// What a change wants of a partition.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Change<'a> {
    /// Brokers that lost what they held: they are eligible no more.
    pub(super) lost: &'a [BrokerId],
    /// Who should lead, if in sync and up.
    pub(super) prefer: Option<BrokerId>,
    /// Whether a reassignment stays as it is, though it could be completed.
    pub(super) stay: bool,
}

/// What `wanted`, which is `before` with another ISR or other replicas, becomes.
///
/// - A reassignment whose added replicas are all in sync is completed, if what stays in
///   sync suffices.
/// - A leader that is out of the ISR or not up gives way: to the first replica that is in
///   sync and up, or, with the ISR empty, to the first that is eligible and up. Never to
///   another one.
/// - A replica that goes ends the leader's epoch: what the leader knows of it may not count
///   when it is added again, with an empty disk.
/// - Below the effective minimum in sync, who was in sync or eligible stays eligible
///   (KIP-966): no record was acknowledged without them. At the minimum nobody needs to be.
pub(super) fn next_state(
    before: &Partition,
    mut wanted: Partition,
    change: Change<'_>,
    min_insync_replicas: i32,
    is_active: impl Fn(BrokerId) -> bool,
) -> Partition {
    if !change.stay {
        complete_reassignment(&mut wanted, min_insync_replicas, &is_active);
    }
    let mut after = wanted;
    let preferred = change
        .prefer
        .filter(|id| after.isr.contains(id) && is_active(*id));
    let keeps = after.isr.contains(&after.leader) && is_active(after.leader);
    if let Some(leader) = preferred {
        lead(before, &mut after, leader);
    } else if !keeps {
        let active = |ids: &[BrokerId]| {
            after
                .replicas
                .iter()
                .copied()
                .find(|id| ids.contains(id) && is_active(*id))
        };
        if let Some(leader) = active(&after.isr) {
            lead(before, &mut after, leader);
        } else if after.isr.is_empty()
            && let Some(leader) = active(&held(before, change.lost))
        {
            after.isr = vec![leader];
            lead(before, &mut after, leader);
        } else {
            lead(before, &mut after, NO_LEADER);
        }
    }
    let removed = before
        .replicas
        .iter()
        .any(|id| !after.replicas.contains(id));
    if removed && after.leader_epoch == before.leader_epoch {
        after.leader_epoch = next_epoch(before.leader_epoch);
    }
    let stays_eligible = after.isr.len() < after.effective_min_isr(min_insync_replicas);
    let outside = |after: &Partition, ids: Vec<BrokerId>| -> Vec<BrokerId> {
        ids.into_iter()
            .filter(|id| after.replicas.contains(id) && !after.isr.contains(id))
            .collect()
    };
    if stays_eligible {
        let mut known = before.last_known_elr.clone();
        for id in before.isr.iter().chain(&before.elr) {
            if change.lost.contains(id) && !known.contains(id) {
                known.push(*id);
            }
        }
        after.elr = outside(&after, held(before, change.lost));
        after.last_known_elr = outside(&after, known);
        after.last_known_elr.retain(|id| !after.elr.contains(id));
    } else {
        after.elr = Vec::new();
        after.last_known_elr = Vec::new();
    }
    after
}

/// Who holds everything acknowledged: in sync or eligible before, and nothing lost since.
fn held(before: &Partition, lost: &[BrokerId]) -> Vec<BrokerId> {
    let known = before.isr.iter().chain(&before.elr);
    known.copied().filter(|id| !lost.contains(id)).collect()
}

/// Makes `leader` lead, in an epoch of its own.
fn lead(before: &Partition, after: &mut Partition, leader: BrokerId) {
    if leader != before.leader {
        after.leader = leader;
        after.leader_epoch = next_epoch(before.leader_epoch);
    }
}

/// The epoch after `epoch`. At the end of the numbers it stays, and the fold rejects it.
pub(super) fn next_epoch(epoch: LeaderEpoch) -> LeaderEpoch {
    epoch.saturating_add(1)
}

/// Drops the replicas that a reassignment removes, if all that it adds are in sync, and
/// what stays in sync is enough and has somebody to lead.
fn complete_reassignment(
    state: &mut Partition,
    min_insync_replicas: i32,
    is_active: &impl Fn(BrokerId) -> bool,
) {
    if !state.is_reassigning() || !state.adding.iter().all(|id| state.isr.contains(id)) {
        return;
    }
    let mut done = state.clone();
    done.replicas.retain(|id| !state.removing.contains(id));
    done.isr.retain(|id| !state.removing.contains(id));
    done.adding.clear();
    done.removing.clear();
    if done.isr.len() >= done.effective_min_isr(min_insync_replicas)
        && done.isr.iter().any(|id| is_active(*id))
    {
        *state = done;
    }
}

/// The record of a change, `None` if there is none.
pub(super) fn record_change(
    image: &Image,
    at: TopicPartition,
    before: &Partition,
    after: Partition,
) -> Option<MetadataRecord> {
    let epoch_of = |id| image.broker(id).map(|b| b.epoch);
    (after != *before).then(|| MetadataRecord::partition_change(at, before, after, epoch_of))
}

/// Whether a broker may lead and be in sync at an image.
pub(super) fn is_active(image: &Image, id: BrokerId) -> bool {
    image.broker(id).is_some_and(|b| b.is_active())
}
