//! What is assigned and how far each partition has been read. Pure.

use std::collections::{BTreeMap, VecDeque};

use tidemark_wire::Uuid;

use super::fetched::ConsumerRecord;
use crate::admin::OffsetSpec;
use crate::metadata::TopicPartition;

/// Where reading a partition begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At this offset.
    Offset(i64),
    /// Where that is must be asked.
    At(OffsetSpec),
}

/// One assigned partition.
#[derive(Debug)]
pub(crate) struct Position {
    /// Tells this assignment from an earlier one of the same partition.
    pub(crate) epoch: u64,
    /// Where the next fetch begins, or what to ask first.
    pub(crate) fetch: Start,
    /// What the reader has been given: the offset after the last record.
    pub(crate) consumed: Option<i64>,
    /// The leader epoch of the last record given; -1 if unknown.
    pub(crate) leader_epoch: i32,
    /// The topic and the leader epoch in which the leader had all up to this position; `None`
    /// before anybody was asked.
    pub(crate) valid_in: Option<(Uuid, i32)>,
    /// The end of the log as of the last answer.
    pub(crate) high_watermark: Option<i64>,
    /// A fetch, or a question about the position, is on its way.
    pub(crate) fetching: bool,
    /// Not before then, after an error.
    pub(crate) retry_at_ms: i64,
}

/// Records that were fetched but not yet given to the reader.
#[derive(Debug)]
pub(crate) struct Buffered {
    pub(crate) from: TopicPartition,
    pub(crate) records: VecDeque<ConsumerRecord>,
    pub(crate) next_offset: i64,
    /// The leader epoch of what is before `next_offset`.
    pub(crate) leader_epoch: i32,
}

/// What can be asked of a partition's leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ready {
    /// Records.
    Fetch,
    /// Whether it has what was read (KIP-320).
    Validate,
    /// Nothing: it led before what was read was written.
    Deposed,
}

impl Position {
    /// What to ask of who leads `topic` in `leader_epoch`; a reader that comes from an earlier
    /// leader, or from what a group has committed, asks first whether this one has what was read.
    pub(crate) fn ready(&mut self, topic: Uuid, leader_epoch: i32) -> Ready {
        let known = self.valid_in.filter(|_| !topic.is_zero());
        if known.is_some_and(|(known, _)| known != topic) {
            // Another topic of this name: what was read before says nothing about it.
            self.leader_epoch = -1;
        }
        // Brokers before 2.1 tell no epochs.
        if leader_epoch < 0 || self.leader_epoch < 0 {
            self.valid_in = Some((topic, leader_epoch));
        }
        match self.valid_in {
            Some((_, valid_in)) if valid_in == leader_epoch => Ready::Fetch,
            _ if leader_epoch < self.leader_epoch => Ready::Deposed,
            _ => Ready::Validate,
        }
    }
}

/// All assigned partitions.
#[derive(Debug, Default)]
pub(crate) struct Positions {
    pub(crate) partitions: BTreeMap<TopicPartition, Position>,
    buffer: VecDeque<Buffered>,
    next_epoch: u64,
}

impl Positions {
    /// Begins to read a partition, behind a record of `leader_epoch` if that is known (else -1); an
    /// earlier position of it is forgotten.
    pub(crate) fn add(&mut self, tp: TopicPartition, start: Start, leader_epoch: i32) {
        self.next_epoch += 1;
        self.buffer.retain(|buffered| buffered.from != tp);
        let position = Position {
            epoch: self.next_epoch,
            fetch: start,
            consumed: match start {
                Start::Offset(offset) => Some(offset),
                Start::At(_) => None,
            },
            leader_epoch,
            valid_in: None,
            high_watermark: None,
            fetching: false,
            retry_at_ms: i64::MIN,
        };
        self.partitions.insert(tp, position);
    }

    /// Stops reading what `keep` refuses.
    pub(crate) fn retain(&mut self, keep: impl Fn(&TopicPartition) -> bool) {
        self.partitions.retain(|tp, _| keep(tp));
        self.buffer.retain(|buffered| keep(&buffered.from));
    }

    /// Where a partition that was to be asked begins, and in which leader epoch (-1 if unknown).
    pub(crate) fn resolve(&mut self, tp: &TopicPartition, offset: i64, leader_epoch: i32) {
        if let Some(position) = self.partitions.get_mut(tp) {
            position.fetch = Start::Offset(offset);
            position.consumed = Some(offset);
            position.leader_epoch = leader_epoch;
            position.valid_in = None;
        }
    }

    /// What must be asked before it can be fetched.
    pub(crate) fn unresolved(&self) -> BTreeMap<TopicPartition, OffsetSpec> {
        self.partitions
            .iter()
            .filter_map(|(tp, position)| match position.fetch {
                Start::At(spec) => Some((tp.clone(), spec)),
                Start::Offset(_) => None,
            })
            .collect()
    }

    /// What can be fetched now, with its offset: nothing on its way, nothing waiting for the reader.
    pub(crate) fn fetchable(&self, now_ms: i64) -> Vec<(TopicPartition, i64, u64)> {
        self.partitions
            .iter()
            .filter(|(tp, position)| {
                !position.fetching
                    && position.retry_at_ms <= now_ms
                    && !self.buffer.iter().any(|buffered| buffered.from == **tp)
            })
            .filter_map(|(tp, position)| match position.fetch {
                Start::Offset(offset) => Some((tp.clone(), offset, position.epoch)),
                Start::At(_) => None,
            })
            .collect()
    }

    /// The position that a fetch was sent for, if it is still the same.
    pub(crate) fn answered(&mut self, tp: &TopicPartition, epoch: u64) -> Option<&mut Position> {
        let position = self.partitions.get_mut(tp).filter(|p| p.epoch == epoch)?;
        position.fetching = false;
        Some(position)
    }

    /// Keeps fetched records for the reader.
    pub(crate) fn push(&mut self, buffered: Buffered) {
        if let Some(position) = self.partitions.get_mut(&buffered.from) {
            position.fetch = Start::Offset(buffered.next_offset);
            if buffered.records.is_empty() {
                // Only markers or gaps: the reader is past them.
                position.consumed = Some(buffered.next_offset);
                position.leader_epoch = position.leader_epoch.max(buffered.leader_epoch);
            } else {
                self.buffer.push_back(buffered);
            }
        }
    }

    /// Up to `max` records for the reader, in order within each partition.
    pub(crate) fn take(&mut self, max: usize) -> Vec<ConsumerRecord> {
        let mut taken = Vec::new();
        while taken.len() < max {
            let Some(first) = self.buffer.front_mut() else {
                break;
            };
            let count = first.records.len().min(max - taken.len());
            let at = taken.len();
            taken.extend(first.records.drain(..count));
            let done = first.records.is_empty();
            if let Some(position) = self.partitions.get_mut(&first.from)
                && let Some(last) = taken[at..].last()
            {
                let (next, epoch) = match done {
                    true => (first.next_offset, first.leader_epoch),
                    false => (last.offset + 1, last.leader_epoch),
                };
                position.consumed = Some(next);
                position.leader_epoch = epoch;
            }
            if done {
                self.buffer.pop_front();
            }
        }
        taken
    }

    /// What a commit would say: offset and leader epoch by partition.
    pub(crate) fn consumed(&self) -> BTreeMap<TopicPartition, (i64, i32)> {
        self.partitions
            .iter()
            .filter_map(|(tp, p)| Some((tp.clone(), (p.consumed?, p.leader_epoch))))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tp(partition: i32) -> TopicPartition {
        TopicPartition::new("t", partition)
    }

    fn records(partition: i32, offsets: std::ops::Range<i64>) -> Buffered {
        Buffered {
            from: tp(partition),
            next_offset: offsets.end,
            leader_epoch: 3,
            records: offsets
                .map(|offset| ConsumerRecord {
                    topic: "t".into(),
                    partition,
                    offset,
                    timestamp_ms: 0,
                    leader_epoch: 3,
                    key: None,
                    value: None,
                    headers: Default::default(),
                })
                .collect(),
        }
    }

    #[test]
    fn what_is_committed_is_what_was_given_not_what_was_fetched() {
        let mut positions = Positions::default();
        positions.add(tp(0), Start::Offset(10), -1);
        positions.push(records(0, 10..15));
        assert_eq!(positions.consumed()[&tp(0)], (10, -1));
        assert_eq!(positions.take(2).len(), 2);
        assert_eq!(positions.consumed()[&tp(0)], (12, 3));
        assert!(
            positions.fetchable(0).is_empty(),
            "the rest waits for the reader"
        );
        assert_eq!(positions.take(100).len(), 3);
        assert_eq!(positions.consumed()[&tp(0)], (15, 3));
        assert_eq!(positions.fetchable(0), [(tp(0), 15, 1)]);
    }

    #[test]
    fn an_answer_for_an_earlier_assignment_is_ignored() {
        let mut positions = Positions::default();
        positions.add(tp(0), Start::Offset(0), -1);
        let (_, _, epoch) = positions.fetchable(0)[0].clone();
        positions.add(tp(0), Start::Offset(5), -1);
        assert!(positions.answered(&tp(0), epoch).is_none());
    }

    #[test]
    fn revoked_partitions_lose_their_buffered_records() {
        let mut positions = Positions::default();
        positions.add(tp(0), Start::Offset(0), -1);
        positions.add(tp(1), Start::Offset(0), -1);
        positions.push(records(0, 0..2));
        positions.push(records(1, 0..2));
        positions.retain(|tp| tp.partition == 1);
        assert!(positions.take(10).iter().all(|r| r.partition == 1));
        assert_eq!(positions.consumed().len(), 1);
    }

    #[test]
    fn positions_to_be_asked_are_not_fetched() {
        let mut positions = Positions::default();
        positions.add(tp(0), Start::At(OffsetSpec::Latest), -1);
        assert!(positions.fetchable(0).is_empty());
        assert_eq!(positions.unresolved()[&tp(0)], OffsetSpec::Latest);
        assert!(positions.consumed().is_empty());
        positions.resolve(&tp(0), 9, -1);
        assert_eq!(positions.fetchable(0), [(tp(0), 9, 1)]);
        assert_eq!(positions.consumed()[&tp(0)], (9, -1));
    }

    #[test]
    fn a_position_is_validated_by_each_leader_and_not_asked_of_a_deposed_one() {
        let topic = Uuid([1; 16]);
        let mut positions = Positions::default();
        // As a group has committed it.
        positions.add(tp(0), Start::Offset(781), 7);
        let position = positions.partitions.get_mut(&tp(0)).unwrap();
        assert_eq!(position.ready(topic, 6), Ready::Deposed);
        assert_eq!(position.ready(topic, 8), Ready::Validate);
        position.valid_in = Some((topic, 8));
        assert_eq!(position.ready(topic, 8), Ready::Fetch);
        assert_eq!(position.ready(topic, 9), Ready::Validate);
        position.valid_in = Some((topic, 9));
        // A topic that was made anew counts from the beginning.
        assert_eq!(position.ready(Uuid([2; 16]), 0), Ready::Fetch);
    }

    #[test]
    fn a_position_without_an_epoch_can_only_be_fetched() {
        let mut positions = Positions::default();
        positions.add(tp(0), Start::Offset(5), -1);
        positions.add(tp(1), Start::Offset(5), 4);
        let mut ready = |partition, leader_epoch| {
            let position = positions.partitions.get_mut(&tp(partition)).unwrap();
            position.ready(Uuid::ZERO, leader_epoch)
        };
        assert_eq!(ready(0, 3), Ready::Fetch);
        assert_eq!(ready(0, 4), Ready::Fetch);
        // A broker that tells no epochs.
        assert_eq!(ready(1, -1), Ready::Fetch);
    }

    #[test]
    fn behind_markers_the_epoch_is_theirs() {
        let mut positions = Positions::default();
        positions.add(tp(0), Start::Offset(0), -1);
        let markers = Buffered {
            records: VecDeque::new(),
            leader_epoch: 5,
            ..records(0, 0..4)
        };
        positions.push(markers);
        assert_eq!(positions.consumed()[&tp(0)], (4, 5));
    }
}
