//! What one version of the metadata says about a partition and the brokers that hold it.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use tidemark_model::{BrokerEpoch, BrokerId, NO_LEADER, Partition};

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

/// A partition in one version of the metadata, most of it shared with the image.
///
/// Everything that the high watermark depends on comes from one of these: an ISR is never
/// judged by the `min.insync.replicas` of another version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionView {
    /// Index of the metadata log that this is the state at.
    pub image_index: i64,
    /// What is registered of it. Removing a replica ends the leader epoch: what the removed
    /// one fetched in it would count if it came back, though its files may go.
    pub state: Arc<Partition>,
    /// How many members the ISR needs: the topic's `min.insync.replicas`, at most the
    /// replication factor.
    pub effective_min_isr: usize,
    /// The registered brokers; only those among the replicas matter.
    pub brokers: Arc<Vec<BrokerView>>,
}

impl Deref for PartitionView {
    type Target = Partition;

    fn deref(&self) -> &Partition {
        &self.state
    }
}

impl DerefMut for PartitionView {
    fn deref_mut(&mut self) -> &mut Partition {
        Arc::make_mut(&mut self.state)
    }
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

    /// A broker, if it is registered.
    pub fn broker(&self, id: BrokerId) -> Option<&BrokerView> {
        self.brokers.iter().find(|broker| broker.id == id)
    }

    /// The epoch of a registered broker.
    pub fn broker_epoch(&self, id: BrokerId) -> Option<BrokerEpoch> {
        self.broker(id).map(|broker| broker.epoch)
    }
}
