//! Records waiting to be sent, gathered into one batch per partition. Pure: time comes in as `now_ms`.
//!
//! One batch of a partition is on its way at a time, and a batch that is to be tried again goes back
//! to the front: order within a partition survives every retry.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use crate::metadata::TopicPartition;

/// What a batch weighs before its first record.
const BATCH_OVERHEAD_BYTES: usize = 61;
/// The most that a record's own length and delta fields weigh.
const RECORD_OVERHEAD_BYTES: usize = 21;

/// Limits of an [`Accumulator`].
#[derive(Debug, Clone)]
pub struct Limits {
    /// A batch is closed when another record would take it past this (before compression).
    pub batch_bytes: usize,
    /// How long a batch that is not full waits for more.
    pub linger_ms: i64,
    /// The most that all waiting and travelling records may weigh.
    pub buffer_bytes: usize,
    /// A batch older than this fails instead of being tried again.
    pub delivery_timeout_ms: i64,
}

/// One record on its way; `T` is what hears of its end.
#[derive(Debug)]
pub struct Queued<T> {
    /// Milliseconds since the epoch.
    pub timestamp_ms: i64,
    /// The key, if any.
    pub key: Option<Bytes>,
    /// The value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Headers in their order, duplicates and null values kept.
    pub headers: Vec<(Bytes, Option<Bytes>)>,
    /// What hears of its end.
    pub waiter: T,
}

impl<T> Queued<T> {
    /// An upper bound of what the record adds to a batch.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let headers: usize = self
            .headers
            .iter()
            .map(|(name, value)| name.len() + value.as_ref().map_or(0, Bytes::len) + 10)
            .sum();
        RECORD_OVERHEAD_BYTES
            + self.key.as_ref().map_or(0, Bytes::len)
            + self.value.as_ref().map_or(0, Bytes::len)
            + headers
    }
}

/// Who an idempotent batch says it is from; kept over retries so that the broker knows it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// From InitProducerId.
    pub producer_id: i64,
    /// From InitProducerId.
    pub producer_epoch: i16,
    /// The sequence of the batch's first record.
    pub base_sequence: i32,
}

/// A batch in the making, waiting, or travelling.
#[derive(Debug)]
pub struct Batch<T> {
    /// Where it goes.
    pub to: TopicPartition,
    /// Its records, in order.
    pub records: Vec<Queued<T>>,
    /// An upper bound of its size before compression.
    pub size_bytes: usize,
    /// When its first record came.
    pub created_ms: i64,
    /// How often it was sent.
    pub attempts: u32,
    /// Not before this moment again.
    pub retry_at_ms: i64,
    /// Set when first sent by an idempotent producer.
    pub stamp: Option<Stamp>,
    /// The encoded batch, kept for retries.
    pub encoded: Option<Bytes>,
    /// What it last failed with.
    pub last_error: Option<String>,
    /// No more records are added.
    closed: bool,
}

#[derive(Debug)]
struct Queue<T> {
    waiting: VecDeque<Batch<T>>,
    travelling: bool,
}

/// All batches of one producer.
#[derive(Debug)]
pub struct Accumulator<T> {
    limits: Limits,
    queues: HashMap<TopicPartition, Queue<T>>,
    buffered_bytes: usize,
    travelling: usize,
    flushing: bool,
}

impl<T> Accumulator<T> {
    /// An empty one.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            queues: HashMap::new(),
            buffered_bytes: 0,
            travelling: 0,
            flushing: false,
        }
    }

    /// Whether a record of that size fits the buffer now (a lone record of any size always does).
    #[must_use]
    pub fn has_room(&self, record_bytes: usize) -> bool {
        self.buffered_bytes == 0 || self.buffered_bytes + record_bytes <= self.limits.buffer_bytes
    }

    /// Adds a record; true if a batch became ready to send by it.
    pub fn append(&mut self, to: &TopicPartition, record: Queued<T>, now_ms: i64) -> bool {
        let record_bytes = record.size_bytes();
        self.buffered_bytes += record_bytes;
        if !self.queues.contains_key(to) {
            let queue = Queue {
                waiting: VecDeque::new(),
                travelling: false,
            };
            self.queues.insert(to.clone(), queue);
        }
        let queue = self
            .queues
            .get_mut(to)
            .expect("the queue was inserted above");
        if let Some(open) = queue.waiting.back_mut().filter(|batch| !batch.closed) {
            if open.size_bytes + record_bytes <= self.limits.batch_bytes {
                open.size_bytes += record_bytes;
                open.records.push(record);
                return self.limits.linger_ms == 0 && !queue.travelling;
            }
            open.closed = true;
        }
        let became_ready = !queue.waiting.is_empty() || self.limits.linger_ms == 0 || self.flushing;
        queue.waiting.push_back(Batch {
            to: to.clone(),
            size_bytes: BATCH_OVERHEAD_BYTES + record_bytes,
            records: vec![record],
            created_ms: now_ms,
            attempts: 0,
            retry_at_ms: i64::MIN,
            stamp: None,
            encoded: None,
            last_error: None,
            closed: false,
        });
        became_ready && !queue.travelling
    }

    /// Partitions whose first batch should be sent now.
    #[must_use]
    pub fn ready(&self, now_ms: i64) -> Vec<TopicPartition> {
        let mut ready: Vec<TopicPartition> = self
            .queues
            .iter()
            .filter(|(_, queue)| {
                !queue.travelling && self.ready_at(queue).is_some_and(|at| at <= now_ms)
            })
            .map(|(to, _)| to.clone())
            .collect();
        ready.sort();
        ready
    }

    /// The next moment at which a batch that now waits becomes ready.
    #[must_use]
    pub fn next_ready_ms(&self) -> Option<i64> {
        self.queues
            .values()
            .filter(|queue| !queue.travelling)
            .filter_map(|queue| self.ready_at(queue))
            .min()
    }

    fn ready_at(&self, queue: &Queue<T>) -> Option<i64> {
        let first = queue.waiting.front()?;
        let full = first.closed || queue.waiting.len() > 1 || self.flushing;
        let lingered_at = if full || first.attempts > 0 {
            i64::MIN
        } else {
            first.created_ms.saturating_add(self.limits.linger_ms)
        };
        Some(lingered_at.max(first.retry_at_ms))
    }

    /// Takes a partition's first batch to send it; `None` if another is on its way or none waits.
    pub fn take(&mut self, from: &TopicPartition) -> Option<Batch<T>> {
        let queue = self.queues.get_mut(from)?;
        if queue.travelling {
            return None;
        }
        let mut batch = queue.waiting.pop_front()?;
        batch.closed = true;
        queue.travelling = true;
        self.travelling += 1;
        Some(batch)
    }

    /// The first waiting batch of a partition, to look at.
    #[must_use]
    pub fn peek(&self, partition: &TopicPartition) -> Option<&Batch<T>> {
        self.queues.get(partition)?.waiting.front()
    }

    /// A batch that was taken has come to its end: its room is free and the next may go.
    pub fn finish(&mut self, batch: &Batch<T>) {
        let records_bytes: usize = batch.records.iter().map(Queued::size_bytes).sum();
        self.buffered_bytes = self.buffered_bytes.saturating_sub(records_bytes);
        self.landed(&batch.to);
        if let Some(queue) = self.queues.get(&batch.to)
            && queue.waiting.is_empty()
            && !queue.travelling
        {
            self.queues.remove(&batch.to);
        }
    }

    /// Puts a batch that was taken back to the front, to be tried again at `at_ms`.
    pub fn retry(&mut self, mut batch: Batch<T>, at_ms: i64) {
        batch.retry_at_ms = at_ms;
        let to = batch.to.clone();
        self.landed(&to);
        if let Some(queue) = self.queues.get_mut(&to) {
            queue.waiting.push_front(batch);
        }
    }

    /// Puts a batch that was taken back as two halves; gives it back if it has one record.
    #[must_use]
    pub fn split(&mut self, mut batch: Batch<T>) -> Option<Batch<T>> {
        if batch.records.len() < 2 {
            return Some(batch);
        }
        let half = batch.records.len() / 2;
        let tail = batch.records.split_off(half);
        let second_stamp = batch.stamp.map(|stamp| Stamp {
            base_sequence: add_sequence(stamp.base_sequence, half),
            ..stamp
        });
        let size = |records: &[Queued<T>]| {
            BATCH_OVERHEAD_BYTES + records.iter().map(Queued::size_bytes).sum::<usize>()
        };
        let second = Batch {
            to: batch.to.clone(),
            size_bytes: size(&tail),
            records: tail,
            created_ms: batch.created_ms,
            attempts: batch.attempts,
            retry_at_ms: i64::MIN,
            stamp: second_stamp,
            encoded: None,
            last_error: None,
            closed: true,
        };
        batch.size_bytes = size(&batch.records);
        batch.encoded = None;
        batch.retry_at_ms = i64::MIN;
        let to = batch.to.clone();
        self.landed(&to);
        if let Some(queue) = self.queues.get_mut(&to) {
            queue.waiting.push_front(second);
            queue.waiting.push_front(batch);
        }
        None
    }

    fn landed(&mut self, to: &TopicPartition) {
        if let Some(queue) = self.queues.get_mut(to) {
            if queue.travelling {
                self.travelling -= 1;
            }
            queue.travelling = false;
        }
    }

    /// Takes out the waiting batches that are past their delivery timeout.
    pub fn expired(&mut self, now_ms: i64) -> Vec<Batch<T>> {
        let deadline = now_ms.saturating_sub(self.limits.delivery_timeout_ms);
        let mut expired = Vec::new();
        for queue in self.queues.values_mut() {
            if queue.travelling {
                continue;
            }
            while queue
                .waiting
                .front()
                .is_some_and(|batch| batch.created_ms < deadline)
            {
                expired.extend(queue.waiting.pop_front());
            }
        }
        self.forget(&expired);
        expired
    }

    /// Takes out every waiting batch (the producer is giving up).
    pub fn drain(&mut self) -> Vec<Batch<T>> {
        let mut drained = Vec::new();
        for queue in self.queues.values_mut() {
            drained.extend(queue.waiting.drain(..));
        }
        self.forget(&drained);
        drained
    }

    fn forget(&mut self, batches: &[Batch<T>]) {
        for batch in batches {
            let bytes: usize = batch.records.iter().map(Queued::size_bytes).sum();
            self.buffered_bytes = self.buffered_bytes.saturating_sub(bytes);
        }
        self.queues
            .retain(|_, queue| queue.travelling || !queue.waiting.is_empty());
    }

    /// Takes the stamps off a partition's waiting batches: the one before them was refused, so they
    /// were not written and their sequences move up.
    pub fn unstamp(&mut self, partition: &TopicPartition) {
        let waiting = self.queues.get_mut(partition).map(|q| &mut q.waiting);
        for batch in waiting.into_iter().flatten() {
            batch.stamp = None;
            batch.encoded = None;
        }
    }

    /// While true, batches do not linger.
    pub fn set_flushing(&mut self, flushing: bool) {
        self.flushing = flushing;
    }

    /// Whether nothing waits and nothing is on its way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.travelling == 0 && self.queues.values().all(|queue| queue.waiting.is_empty())
    }

    /// Whether any batch is on its way, or carries the stamp it was sent with.
    #[must_use]
    pub fn has_unsettled(&self) -> bool {
        self.travelling > 0
            || self
                .queues
                .values()
                .any(|queue| queue.waiting.iter().any(|batch| batch.stamp.is_some()))
    }
}

/// The sequence `count` records on; sequences go from the largest number to 0.
#[must_use]
pub fn add_sequence(sequence: i32, count: usize) -> i32 {
    ((sequence as u64 + count as u64) % (i32::MAX as u64 + 1)) as i32
}

#[cfg(test)]
mod tests;
