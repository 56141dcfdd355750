//! Which partitions a broker holds, and which are not as they should be: so that what
//! concerns one broker costs in proportion to what it holds.

use imbl::{OrdMap, OrdSet};

use crate::ids::{BrokerId, TopicPartition};
use crate::partition::Partition;

/// Follows from the partitions alone: no part of snapshots or hashes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PartitionIndex {
    by_broker: OrdMap<BrokerId, OrdSet<TopicPartition>>,
    unsettled: OrdSet<TopicPartition>,
}

impl PartitionIndex {
    /// Partitions with a replica on `broker`.
    pub(crate) fn held_by(&self, broker: BrokerId) -> Option<&OrdSet<TopicPartition>> {
        self.by_broker.get(&broker)
    }

    /// Partitions that are not [`Partition::is_settled`].
    pub(crate) fn unsettled(&self) -> &OrdSet<TopicPartition> {
        &self.unsettled
    }

    /// Takes over that a partition came, changed or went.
    pub(crate) fn update(
        &mut self,
        at: TopicPartition,
        before: Option<&Partition>,
        after: Option<&Partition>,
    ) {
        let (old, new) = (replicas(before), replicas(after));
        if old != new {
            for broker in old.iter().filter(|b| !new.contains(b)) {
                if let Some(held) = self.by_broker.get_mut(broker) {
                    held.remove(&at);
                    if held.is_empty() {
                        self.by_broker.remove(broker);
                    }
                }
            }
            for broker in new.iter().filter(|b| !old.contains(b)) {
                self.by_broker.entry(*broker).or_default().insert(at);
            }
        }
        let unsettled = |state: Option<&Partition>| state.is_some_and(|p| !p.is_settled());
        match (unsettled(before), unsettled(after)) {
            (false, true) => {
                self.unsettled.insert(at);
            }
            (true, false) => {
                self.unsettled.remove(&at);
            }
            (true, true) | (false, false) => {}
        }
    }
}

fn replicas(state: Option<&Partition>) -> &[BrokerId] {
    state.map_or(&[], |p| &p.replicas)
}
