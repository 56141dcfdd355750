//! What a partition knows of its idempotent producers (KIP-98): enough to answer a
//! repeated batch with its original offsets and to refuse a gap.
//!
//! The state at an offset is a function of the records below it,
//! expiry aside.

use std::collections::BTreeMap;

use tidemark_records::BatchHeader;

use crate::error::AppendError;

/// Batches remembered for each producer: what a client may have in flight.
pub const REMEMBERED_BATCHES: usize = 5;

/// One appended batch of a producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProducerBatch {
    /// Sequence number of its last record.
    pub last_sequence: i32,
    /// Offset of its last record.
    pub last_offset: i64,
    /// Last offset minus first.
    pub offset_delta: i32,
    /// Its largest timestamp in milliseconds.
    pub timestamp_ms: i64,
}

impl ProducerBatch {
    /// Sequence number of its first record; sequences wrap from `i32::MAX` to 0.
    pub fn first_sequence(&self) -> i32 {
        let first = i64::from(self.last_sequence) - i64::from(self.offset_delta);
        i32::try_from(first & i64::from(i32::MAX)).unwrap_or(0)
    }

    /// Offset of its first record.
    pub fn first_offset(&self) -> i64 {
        self.last_offset - i64::from(self.offset_delta)
    }
}

/// One producer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducerEntry {
    /// Its id.
    pub producer_id: i64,
    /// The newest epoch seen.
    pub epoch: i16,
    /// Timestamp of its newest batch in milliseconds, -1 if none.
    pub last_timestamp_ms: i64,
    /// When it last appended, by this broker's clock. Not a function of the log.
    pub last_active_ms: i64,
    /// Epoch of the transaction coordinator that wrote its last marker, or -1.
    pub coordinator_epoch: i32,
    /// First offset of its open transaction.
    pub transaction_first_offset: Option<i64>,
    batches: [ProducerBatch; REMEMBERED_BATCHES],
    count: u8,
}

impl ProducerEntry {
    pub(crate) fn new(producer_id: i64, epoch: i16) -> Self {
        Self {
            producer_id,
            epoch,
            last_timestamp_ms: -1,
            last_active_ms: 0,
            coordinator_epoch: -1,
            transaction_first_offset: None,
            batches: Default::default(),
            count: 0,
        }
    }

    /// The remembered batches of its current epoch, oldest first.
    pub fn batches(&self) -> &[ProducerBatch] {
        &self.batches[..usize::from(self.count)]
    }

    /// Its newest batch in its current epoch.
    pub fn last_batch(&self) -> Option<&ProducerBatch> {
        self.batches().last()
    }

    /// Sequence number of its newest record, -1 if none in its current epoch.
    pub fn last_sequence(&self) -> i32 {
        self.last_batch().map_or(-1, |batch| batch.last_sequence)
    }

    pub(crate) fn set_epoch(&mut self, epoch: i16) {
        if epoch != self.epoch {
            self.epoch = epoch;
            self.count = 0;
        }
    }

    pub(crate) fn push(&mut self, batch: ProducerBatch) {
        if usize::from(self.count) == REMEMBERED_BATCHES {
            self.batches.rotate_left(1);
            self.count -= 1;
        }
        self.batches[usize::from(self.count)] = batch;
        self.count += 1;
    }
}

/// What to do with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SequenceCheck {
    /// Append it.
    New,
    /// It is in the log already, as this.
    Duplicate(ProducerBatch),
}

/// The producers of one partition, by id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Producers {
    // `None` is none, as in most partitions. Boxed: of the others most have one or two, and a node
    // of the map has room for eleven.
    entries: Option<Box<Entries>>,
}

type Entries = BTreeMap<i64, Box<ProducerEntry>>;

impl Producers {
    /// All producers in order of their ids, for DescribeProducers.
    pub fn iter(&self) -> impl Iterator<Item = &ProducerEntry> {
        let entries = self.entries.iter();
        entries.flat_map(|entries| entries.values().map(|entry| &**entry))
    }

    /// How many producers are known.
    pub fn len(&self) -> usize {
        self.entries.as_ref().map_or(0, |entries| entries.len())
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.entries.is_none()
    }

    /// The producer of that id.
    pub fn get(&self, producer_id: i64) -> Option<&ProducerEntry> {
        let entry = self.entries.as_ref()?.get(&producer_id);
        entry.map(|entry| &**entry)
    }

    /// The first offset of the oldest open transaction.
    pub fn first_unstable_offset(&self) -> Option<i64> {
        self.iter()
            .filter_map(|entry| entry.transaction_first_offset)
            .min()
    }

    /// Whether a client's batch continues what its producer sent.
    ///
    /// A producer that is not known may begin with any sequence number: its earlier
    /// records may have been deleted.
    ///
    /// # Errors
    /// `OutOfOrderSequence` for a gap, `InvalidProducerEpoch` for a fenced producer.
    pub fn check(&self, header: &BatchHeader) -> Result<SequenceCheck, AppendError> {
        if !header.has_producer_id() {
            return Ok(SequenceCheck::New);
        }
        let Some(entry) = self.get(header.producer_id) else {
            return Ok(SequenceCheck::New);
        };
        if header.producer_epoch < entry.epoch {
            return Err(AppendError::InvalidProducerEpoch {
                producer_id: header.producer_id,
                epoch: header.producer_epoch,
                current: entry.epoch,
            });
        }
        let expected = if header.producer_epoch > entry.epoch {
            0
        } else {
            let original = entry.batches().iter().find(|batch| {
                batch.first_sequence() == header.base_sequence
                    && batch.last_sequence == header.last_sequence()
            });
            if let Some(original) = original {
                return Ok(SequenceCheck::Duplicate(*original));
            }
            match entry.last_sequence() {
                i32::MAX => 0,
                last => last + 1,
            }
        };
        if header.base_sequence == expected {
            Ok(SequenceCheck::New)
        } else {
            Err(AppendError::OutOfOrderSequence {
                producer_id: header.producer_id,
                sequence: header.base_sequence,
                expected,
            })
        }
    }

    /// Takes note of an appended batch. `header` has its final offsets.
    pub fn record(&mut self, header: &BatchHeader, now_ms: i64) {
        if !header.has_producer_id() {
            return;
        }
        let entries = self.entries.get_or_insert_default();
        let entry = entries.entry(header.producer_id).or_insert_with(|| {
            let entry = ProducerEntry::new(header.producer_id, header.producer_epoch);
            Box::new(entry)
        });
        entry.set_epoch(header.producer_epoch);
        entry.last_active_ms = now_ms;
        entry.last_timestamp_ms = header.max_timestamp_ms;
        if header.is_control() {
            // The end of a transaction, either way.
            entry.transaction_first_offset = None;
            return;
        }
        entry.push(ProducerBatch {
            last_sequence: header.last_sequence(),
            last_offset: header.last_offset(),
            offset_delta: header.last_offset_delta,
            timestamp_ms: header.max_timestamp_ms,
        });
        if header.is_transactional() && entry.transaction_first_offset.is_none() {
            entry.transaction_first_offset = Some(header.base_offset);
        }
    }

    /// Forgets producers that have been silent for `expiration_ms`, unless they
    /// have a transaction open. Returns how many.
    pub fn expire(&mut self, now_ms: i64, expiration_ms: i64) -> usize {
        let before = self.len();
        if let Some(entries) = &mut self.entries {
            entries.retain(|_, entry| {
                entry.transaction_first_offset.is_some()
                    || now_ms.saturating_sub(entry.last_active_ms) < expiration_ms
            });
            self.entries.take_if(|entries| entries.is_empty());
        }
        before - self.len()
    }

    pub(crate) fn insert(&mut self, entry: ProducerEntry) {
        let entries = self.entries.get_or_insert_default();
        entries.insert(entry.producer_id, Box::new(entry));
    }
}
