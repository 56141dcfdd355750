//! Which partition a record goes to: by its key's murmur2, else sticky per batch, else in turn. Pure.

use std::collections::HashMap;

use crate::murmur2::partition_for_key;

/// How records without a key (or all records, for [`Strategy::RoundRobin`]) are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Strategy {
    /// Keys by murmur2; records without one stay on a partition until a batch's worth went there (KIP-480, KIP-794).
    #[default]
    KeyOrSticky,
    /// Every record to the next partition, keys notwithstanding.
    RoundRobin,
}

/// Remembers where each topic's next record without a key goes.
#[derive(Debug)]
pub struct Partitioner {
    strategy: Strategy,
    /// Bytes that go to a sticky partition before another is chosen.
    switch_bytes: usize,
    topics: HashMap<String, State>,
}

#[derive(Debug, Default)]
struct State {
    partition: Option<i32>,
    bytes: usize,
}

impl Partitioner {
    /// A partitioner that leaves a sticky partition after `switch_bytes`.
    #[must_use]
    pub fn new(strategy: Strategy, switch_bytes: usize) -> Self {
        Self {
            strategy,
            switch_bytes,
            topics: HashMap::new(),
        }
    }

    /// The partition for one record.
    ///
    /// `partitions` is the topic's count; `available` those with a leader now (sticky records go to
    /// one of them when they move on; keyed ones never care, or order would break); `chance` is a
    /// random number. Both are asked for only when a sticky partition is left.
    pub fn choose(
        &mut self,
        topic: &str,
        key: Option<&[u8]>,
        record_bytes: usize,
        partitions: i32,
        available: impl FnOnce() -> Vec<i32>,
        chance: impl FnOnce() -> u64,
    ) -> i32 {
        if let (Strategy::KeyOrSticky, Some(key)) = (self.strategy, key) {
            return partition_for_key(key, partitions);
        }
        if !self.topics.contains_key(topic) {
            self.topics.insert(topic.to_owned(), State::default());
        }
        let state = self
            .topics
            .get_mut(topic)
            .expect("the topic's state was inserted above");
        match self.strategy {
            Strategy::RoundRobin => {
                let next = state
                    .partition
                    .map_or(0, |last| (last + 1) % partitions.max(1));
                state.partition = Some(next);
                next
            }
            Strategy::KeyOrSticky => {
                let stale = state.partition.is_none_or(|current| {
                    state.bytes >= self.switch_bytes || current >= partitions
                });
                if stale {
                    state.partition =
                        Some(another(state.partition, partitions, &available(), chance()));
                    state.bytes = 0;
                }
                state.bytes += record_bytes;
                state.partition.unwrap_or(0)
            }
        }
    }
}

/// A partition other than `last` where there is one.
fn another(last: Option<i32>, partitions: i32, available: &[i32], chance: u64) -> i32 {
    if available.is_empty() {
        return (chance % partitions.max(1) as u64) as i32;
    }
    let others = available.iter().filter(|p| Some(**p) != last).count();
    if others == 0 {
        return available[0];
    }
    let index = (chance % others as u64) as usize;
    available
        .iter()
        .copied()
        .filter(|p| Some(*p) != last)
        .nth(index)
        .unwrap_or(available[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_keep_their_partition_even_without_a_leader() {
        let mut partitioner = Partitioner::new(Strategy::KeyOrSticky, 100);
        let with_leader = partitioner.choose("t", Some(b"abc"), 10, 7, || (0..7).collect(), || 1);
        let without = partitioner.choose("t", Some(b"abc"), 10, 7, Vec::new, || 99);
        assert_eq!(with_leader, without);
        assert_eq!(with_leader, partition_for_key(b"abc", 7));
    }

    #[test]
    fn sticky_moves_on_after_a_batch() {
        let mut partitioner = Partitioner::new(Strategy::KeyOrSticky, 100);
        let chosen: Vec<i32> = (0..20)
            .map(|i| partitioner.choose("t", None, 25, 3, || vec![0, 1, 2], || i))
            .collect();
        for run in chosen.chunks(4) {
            assert!(run.iter().all(|p| *p == run[0]), "{chosen:?}");
        }
        assert_ne!(chosen[0], chosen[4]);
    }

    #[test]
    fn sticky_avoids_partitions_without_a_leader() {
        let mut partitioner = Partitioner::new(Strategy::KeyOrSticky, 1);
        for chance in 0..50 {
            let partition = partitioner.choose("t", None, 5, 4, || vec![1, 3], || chance);
            assert!([1, 3].contains(&partition));
        }
    }

    #[test]
    fn round_robin_takes_turns_per_topic() {
        let mut partitioner = Partitioner::new(Strategy::RoundRobin, 100);
        let turns: Vec<i32> = (0..5)
            .map(|_| partitioner.choose("t", Some(b"same"), 1, 3, || vec![0, 1, 2], || 7))
            .collect();
        assert_eq!(turns, [0, 1, 2, 0, 1]);
        assert_eq!(partitioner.choose("u", None, 1, 3, Vec::new, || 7), 0);
    }
}
