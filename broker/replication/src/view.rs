//! What one version of the metadata says about a partition and the brokers that hold it.

use tidemark_model::{BrokerEpoch, BrokerId, LeaderEpoch, NO_LEADER, PartitionEpoch};

/// A broker that holds a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerView {
    /// Its number.
    pub id: BrokerId,
    /// Its epoch.
    pub epoch: BrokerEpoch,
    /// Whether the controller has fenced it.
    pub fenced: bool,
}

/// A partition in one version of the metadata.
///
/// Everything that the high watermark depends on comes from one of these: an ISR is never
/// judged by the `min.insync.replicas` of another version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionView {
    /// Index of the metadata log that this is the state at.
    pub image_index: i64,
    /// Its leader, or [`NO_LEADER`].
    pub leader: BrokerId,
    /// Counts leaders.
    pub leader_epoch: LeaderEpoch,
    /// The last leader epoch whose leader was elected without being known to hold everything
    /// acknowledged, -1 if none.
    pub unclean_epoch: LeaderEpoch,
    /// Counts changes.
    pub partition_epoch: PartitionEpoch,
    /// Brokers that hold it. Removing one must end the leader epoch: what the removed one
    /// fetched in it would count if it came back, though its files may go.
    pub replicas: Vec<BrokerId>,
    /// Those in sync.
    pub isr: Vec<BrokerId>,
    /// Those out of sync that hold everything acknowledged (KIP-966).
    pub elr: Vec<BrokerId>,
    /// How many members the ISR needs: the topic's `min.insync.replicas`, at most the
    /// replication factor.
    pub effective_min_isr: usize,
    /// The registered brokers among the replicas.
    pub brokers: Vec<BrokerView>,
}

impl PartitionView {
    /// Whether the ISR is large enough for the high watermark to move.
    pub fn has_min_isr(&self) -> bool {
        self.isr.len() >= self.effective_min_isr.max(1)
    }

    /// Whether the partition has a leader.
    pub fn has_leader(&self) -> bool {
        self.leader != NO_LEADER
    }

    /// A broker among the replicas, if it is registered.
    pub fn broker(&self, id: BrokerId) -> Option<&BrokerView> {
        self.brokers.iter().find(|broker| broker.id == id)
    }

    /// The epoch of a registered broker.
    pub fn broker_epoch(&self, id: BrokerId) -> Option<BrokerEpoch> {
        self.broker(id).map(|broker| broker.epoch)
    }
}
