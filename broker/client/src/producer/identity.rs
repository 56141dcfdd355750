//! The producer id and the sequences that make a repeated batch known as one (KIP-98, KIP-360). Pure.

use std::collections::HashMap;

use super::accumulator::{Stamp, add_sequence};
use crate::metadata::TopicPartition;

/// Who the producer is to the brokers, and how far each partition has got.
#[derive(Debug, Default)]
pub(crate) struct Identity {
    /// Producer id and epoch, once a broker gave them.
    id: Option<(i64, i16)>,
    next: HashMap<TopicPartition, i32>,
    /// A batch ended in doubt: the sequences cannot be trusted, a new id is needed.
    spoiled: bool,
}

impl Identity {
    /// Whether batches that have no stamp may be given one.
    pub(crate) fn is_usable(&self) -> bool {
        self.id.is_some() && !self.spoiled
    }

    /// A new identity from a broker: all sequences begin again.
    pub(crate) fn renew(&mut self, producer_id: i64, producer_epoch: i16) {
        self.id = Some((producer_id, producer_epoch));
        self.next.clear();
        self.spoiled = false;
    }

    /// The stamp of a partition's next batch of `count` records.
    pub(crate) fn stamp(&mut self, to: &TopicPartition, count: usize) -> Option<Stamp> {
        let (producer_id, producer_epoch) = self.id.filter(|_| !self.spoiled)?;
        let next = self.next.entry(to.clone()).or_insert(0);
        let base_sequence = *next;
        *next = add_sequence(base_sequence, count);
        Some(Stamp {
            producer_id,
            producer_epoch,
            base_sequence,
        })
    }

    /// A batch was refused for sure: the next one takes its sequence.
    pub(crate) fn refused(&mut self, to: &TopicPartition, stamp: Stamp) {
        if self.id == Some((stamp.producer_id, stamp.producer_epoch)) {
            self.next.insert(to.clone(), stamp.base_sequence);
        }
    }

    /// A batch ended without anybody knowing whether it was written, or its sequence was refused.
    pub(crate) fn in_doubt(&mut self) {
        self.spoiled = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_run_per_partition_and_begin_again_with_a_new_id() {
        let mut identity = Identity::default();
        let (a, b) = (TopicPartition::new("t", 0), TopicPartition::new("t", 1));
        assert_eq!(identity.stamp(&a, 3), None);
        identity.renew(7, 0);
        assert_eq!(identity.stamp(&a, 3).unwrap().base_sequence, 0);
        assert_eq!(identity.stamp(&a, 1).unwrap().base_sequence, 3);
        assert_eq!(identity.stamp(&b, 1).unwrap().base_sequence, 0);
        identity.in_doubt();
        assert!(!identity.is_usable());
        assert_eq!(identity.stamp(&a, 1), None);
        identity.renew(8, 0);
        assert_eq!(identity.stamp(&a, 1).unwrap().base_sequence, 0);
    }

    #[test]
    fn a_refused_batch_gives_its_sequence_back() {
        let mut identity = Identity::default();
        let a = TopicPartition::new("t", 0);
        identity.renew(7, 0);
        identity.stamp(&a, 3).unwrap();
        let refused = identity.stamp(&a, 5).unwrap();
        identity.refused(&a, refused);
        assert_eq!(identity.stamp(&a, 1).unwrap().base_sequence, 3);
        identity.renew(8, 0);
        identity.refused(&a, refused);
        assert_eq!(identity.stamp(&a, 1).unwrap().base_sequence, 0);
    }
}
