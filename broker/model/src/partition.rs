//! What is registered of a partition, and what makes that sound.

use crate::ids::{BrokerEpoch, BrokerId, LeaderEpoch, NO_LEADER, PartitionEpoch, TopicPartition};
use crate::rejected::Rejected;

/// A partition's registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Brokers that hold it, the preferred leader first. During a reassignment the old
    /// and the new ones.
    pub replicas: Vec<BrokerId>,
    /// Those in sync.
    pub isr: Vec<BrokerId>,
    /// Those out of sync that still hold everything acknowledged (KIP-966).
    pub elr: Vec<BrokerId>,
    /// Those that were in ISR or ELR last, and lost a disk since: asked first when a leader
    /// is chosen at the risk of losing records (KIP-966).
    pub last_known_elr: Vec<BrokerId>,
    /// Replicas that a reassignment adds (KIP-455).
    pub adding: Vec<BrokerId>,
    /// Replicas that a reassignment will remove.
    pub removing: Vec<BrokerId>,
    /// Its leader, or [`NO_LEADER`].
    pub leader: BrokerId,
    /// Counts leaders.
    pub leader_epoch: LeaderEpoch,
    /// Counts changes.
    pub partition_epoch: PartitionEpoch,
    /// The last leader epoch whose leader may have lacked acknowledged records, -1 if none:
    /// only a follower whose log ends in an older epoch may truncate below its high watermark.
    pub unclean_epoch: LeaderEpoch,
    /// Where the log of a replica begins that holds nothing: 0, but for a partition that came back
    /// from a bucket, which has the records below.
    pub first_offset: i64,
    /// Whether replicas that are in sync and hold nothing take their first records from the
    /// partition's backup in the bucket.
    pub from_backup: bool,
}

impl Default for Partition {
    /// On no broker, without a leader: a start for others.
    fn default() -> Self {
        Self {
            replicas: Vec::new(),
            isr: Vec::new(),
            elr: Vec::new(),
            last_known_elr: Vec::new(),
            adding: Vec::new(),
            removing: Vec::new(),
            leader: NO_LEADER,
            leader_epoch: 0,
            partition_epoch: 0,
            unclean_epoch: -1,
            first_offset: 0,
            from_backup: false,
        }
    }
}

impl Partition {
    /// How many replicas it has, those not counted that a reassignment only adds.
    pub fn replication_factor(&self) -> usize {
        self.replicas.len() - self.adding.len()
    }

    /// How many must be in sync before acks=all is answered: `min.insync.replicas`, at
    /// most the replication factor.
    pub fn effective_min_isr(&self, min_insync_replicas: i32) -> usize {
        usize::try_from(min_insync_replicas)
            .unwrap_or(1)
            .clamp(1, self.replication_factor().max(1))
    }

    /// Whether a reassignment is under way.
    pub fn is_reassigning(&self) -> bool {
        !self.adding.is_empty() || !self.removing.is_empty()
    }

    /// Whether the preferred leader leads, all replicas are in sync and none is moving.
    pub fn is_settled(&self) -> bool {
        self.replicas.first() == Some(&self.leader)
            && self.isr.len() == self.replicas.len()
            && self.elr.is_empty()
            && !self.is_reassigning()
    }

    /// Whether the partition may be registered like this.
    pub(crate) fn check(&self, at: TopicPartition) -> Result<(), Rejected> {
        let unsound = |reason| Err(unsound(at, reason));
        let within = |set: &[BrokerId]| set.iter().all(|b| self.replicas.contains(b));
        if self.replicas.is_empty() {
            return unsound("it has no replicas");
        }
        let sets = [
            &self.replicas,
            &self.isr,
            &self.elr,
            &self.last_known_elr,
            &self.adding,
            &self.removing,
        ];
        if sets.into_iter().any(|set| repeats(set)) {
            return unsound("a broker is listed twice");
        }
        if self.replicas.iter().any(|b| *b < 0) {
            return unsound("a replica's broker id is negative");
        }
        if !sets.into_iter().all(|set| within(set)) {
            return unsound("ISR, ELR, added and removed brokers must be replicas");
        }
        if self.elr.iter().any(|b| self.isr.contains(b)) {
            return unsound("a broker is in ISR and ELR");
        }
        if self.adding.iter().any(|b| self.removing.contains(b)) {
            return unsound("a broker is added and removed");
        }
        if self.replication_factor() == 0 {
            return unsound("all replicas are only being added");
        }
        if self.leader != NO_LEADER && !self.isr.contains(&self.leader) {
            return unsound("the leader must be in the ISR");
        }
        if self.leader_epoch < 0 || self.partition_epoch < 0 {
            return unsound("an epoch is negative");
        }
        if self.unclean_epoch < -1 || self.unclean_epoch > self.leader_epoch {
            return unsound("the unclean epoch is none that a leader had");
        }
        if self.first_offset < 0 {
            return unsound("its first offset is negative");
        }
        Ok(())
    }

    /// Whether the partition may become `after`: epochs go up, and nobody is taken to hold
    /// what it was not known to hold. `current_epoch` tells a broker's epoch if it is up.
    pub(crate) fn check_change(
        &self,
        at: TopicPartition,
        after: &Partition,
        unclean: bool,
        joined: &[(BrokerId, BrokerEpoch)],
        current_epoch: impl Fn(BrokerId) -> Option<BrokerEpoch>,
    ) -> Result<(), Rejected> {
        let held = |b: &BrokerId| self.isr.contains(b) || self.elr.contains(b);
        if after.leader_epoch < self.leader_epoch {
            return Err(unsound(at, "the leader epoch would go down"));
        }
        if after.leader != self.leader {
            if after.leader_epoch == self.leader_epoch {
                return Err(unsound(at, "a new leader needs a new leader epoch"));
            }
            if after.leader != NO_LEADER && !unclean && !held(&after.leader) {
                return Err(unsound(
                    at,
                    "a new leader was neither in the ISR nor the ELR",
                ));
            }
        }
        let removed = self.replicas.iter().any(|b| !after.replicas.contains(b));
        if removed && after.leader_epoch == self.leader_epoch {
            return Err(unsound(at, "without a replica it needs a new leader epoch"));
        }
        if unclean && (after.leader == NO_LEADER || after.leader_epoch == self.leader_epoch) {
            return Err(unsound(
                at,
                "an unclean election needs a leader and a new epoch",
            ));
        }
        if after.elr.iter().any(|b| !held(b)) {
            return Err(unsound(at, "who enters the ELR must have been in the ISR"));
        }
        for broker_id in after.isr.iter().filter(|b| !self.isr.contains(b)) {
            let expected = joined.iter().find(|(id, _)| id == broker_id);
            let expected = expected.map(|(_, epoch)| *epoch);
            let actual = current_epoch(*broker_id);
            if expected.is_none() || expected != actual {
                return Err(Rejected::BrokerEpoch {
                    broker_id: *broker_id,
                    expected,
                    actual,
                });
            }
        }
        Ok(())
    }
}

fn unsound(at: TopicPartition, reason: &'static str) -> Rejected {
    Rejected::UnsoundPartition {
        topic_id: at.topic_id,
        partition: at.partition,
        reason,
    }
}

fn repeats(set: &[BrokerId]) -> bool {
    set.iter().enumerate().any(|(at, b)| set[..at].contains(b))
}
