//! Folding what concerns partitions.

use std::sync::Arc;

use imbl::OrdMap;

use crate::ids::{BrokerId, TopicId, TopicPartition};
use crate::image::{Broker, Image, Topic};
use crate::index::PartitionIndex;
use crate::partition::Partition;
use crate::record::MetadataRecord;
use crate::rejected::Rejected;

impl Image {
    pub(super) fn create_partition(
        &mut self,
        topic_id: TopicId,
        partition: i32,
        state: &Partition,
    ) -> Result<(), Rejected> {
        let at = TopicPartition {
            topic_id,
            partition,
        };
        state.check(at)?;
        let active = |id: &BrokerId| self.brokers.get(id).is_some_and(|b| b.is_active());
        if let Some(broker_id) = state.isr.iter().find(|id| !active(id)) {
            return Err(Rejected::KeptIn {
                broker_id: *broker_id,
                role: "ISR",
                topic_id,
                partition,
            });
        }
        let topic = self.topic_mut(topic_id)?;
        if usize::try_from(partition) != Ok(topic.partitions.len()) {
            return Err(Rejected::PartitionOutOfOrder {
                topic_id,
                partition,
                actual: topic.partitions.len(),
            });
        }
        topic.partitions.push_back(Arc::new(state.clone()));
        self.partition_index.update(at, None, Some(state));
        Ok(())
    }

    /// Folds changes of partitions of one topic.
    pub(super) fn change_partitions(
        &mut self,
        topic_id: TopicId,
        records: &[MetadataRecord],
    ) -> Result<(), Rejected> {
        let topic = self.topics.get_mut(&topic_id).map(Arc::make_mut);
        let topic = topic.ok_or(Rejected::UnknownTopic(topic_id))?;
        for record in records {
            change_partition(topic, record, &self.brokers, &mut self.partition_index)?;
        }
        Ok(())
    }
}

/// Folds the change of one of a topic's partitions.
fn change_partition(
    topic: &mut Topic,
    record: &MetadataRecord,
    brokers: &OrdMap<BrokerId, Arc<Broker>>,
    index: &mut PartitionIndex,
) -> Result<(), Rejected> {
    let MetadataRecord::PartitionChanged {
        topic_id,
        partition,
        expected_epoch,
        leader,
        leader_epoch,
        isr,
        elr,
        replicas,
        last_known_elr,
        reassignment,
        joined,
        unclean,
    } = record
    else {
        return Ok(());
    };
    let at = TopicPartition {
        topic_id: *topic_id,
        partition: *partition,
    };
    let slot = usize::try_from(*partition)
        .ok()
        .and_then(|at| topic.partitions.get_mut(at))
        .ok_or(Rejected::UnknownPartition {
            topic_id: *topic_id,
            partition: *partition,
        })?;
    if slot.partition_epoch != *expected_epoch {
        return Err(Rejected::PartitionEpoch {
            topic_id: *topic_id,
            partition: *partition,
            expected: *expected_epoch,
            actual: slot.partition_epoch,
        });
    }
    let (adding, removing) = reassignment
        .clone()
        .unwrap_or_else(|| (slot.adding.clone(), slot.removing.clone()));
    let after = Partition {
        replicas: replicas.clone().unwrap_or_else(|| slot.replicas.clone()),
        isr: isr.clone(),
        elr: elr.clone(),
        last_known_elr: last_known_elr.clone(),
        adding,
        removing,
        leader: *leader,
        leader_epoch: *leader_epoch,
        partition_epoch: slot
            .partition_epoch
            .checked_add(1)
            .ok_or(Rejected::Exhausted)?,
        unclean_epoch: if *unclean {
            *leader_epoch
        } else {
            slot.unclean_epoch
        },
        first_offset: slot.first_offset,
        from_backup: slot.from_backup,
    };
    after.check(at)?;
    slot.check_change(at, &after, *unclean, joined, |id| {
        brokers.get(&id).filter(|b| b.is_active()).map(|b| b.epoch)
    })?;
    index.update(at, Some(slot), Some(&after));
    *slot = Arc::new(after);
    Ok(())
}
