//! A log reduced to the last record of each key: what compaction keeps (KIP-58).
//!
//! Two walks over the same batches: [`Newest::note`] learns where each key was written last,
//! [`Reducer::reduce`] writes the batches anew without what a later record of the same key made
//! void. A log that is reduced so is complete: what it says of every key is what the whole log
//! said.
//!
//! **Invariant:** what comes out follows without gaps. A batch begins where the one before ended,
//! also where all records between have gone, so that a reduced log has the offsets of the whole
//! one and is read, copied and recovered as any other.

use std::collections::HashMap;

use bytes::Bytes;

use crate::header::{
    BASE_OFFSET_AT, BATCH_OVERHEAD_BYTES, LAST_OFFSET_DELTA_AT, LENGTH_AT, LENGTH_PREFIX_BYTES,
    MAGIC_AT, PRODUCER_ID_AT, RECORD_COUNT_AT,
};
use crate::patch::recompute_crc;
use crate::{
    Batch, BatchBuilder, BatchError, BatchOptions, BuildError, HeaderRef, Limits,
    NO_PARTITION_LEADER_EPOCH, NO_PRODUCER_ID, NO_TIMESTAMP_MS, Record, RecordRef, TimestampType,
};

/// Why a batch cannot be reduced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReduceError {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] BatchError),
    /// It cannot be written.
    #[error(transparent)]
    Write(#[from] BuildError),
    /// It begins below the end of what came before.
    #[error("the batch at offset {base_offset} overlaps one that ends at {end_offset}")]
    Overlap {
        /// Where it begins.
        base_offset: i64,
        /// Where the batch before ended.
        end_offset: i64,
    },
}

/// Where each key was written last. Memory is in proportion to the keys and their lengths.
#[derive(Debug, Default)]
pub struct Newest {
    by_key: HashMap<Box<[u8]>, i64>,
}

impl Newest {
    /// Learns of a batch; batches come in the order of the log.
    ///
    /// # Errors
    /// Those of reading it.
    pub fn note(&mut self, batch: &Batch, limits: Limits) -> Result<(), BatchError> {
        if stays_whole(batch) {
            return Ok(());
        }
        for record in batch.records(limits)? {
            let record = record?;
            let Some(key) = &record.key else { continue };
            match self.by_key.get_mut(&key[..]) {
                Some(offset) => *offset = record.offset,
                None => {
                    self.by_key.insert(Box::from(&key[..]), record.offset);
                }
            }
        }
        Ok(())
    }

    /// Whether no later record makes this one void. Tombstones count as any other; a record
    /// without a key has no place in a compacted log.
    #[must_use]
    pub fn keeps(&self, record: &Record) -> bool {
        let newest = record
            .key
            .as_ref()
            .and_then(|key| self.by_key.get(&key[..]));
        newest.is_some_and(|newest| *newest <= record.offset)
    }

    /// How many keys there are.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.by_key.len()
    }
}

/// Control records, and records whose transaction may have been aborted, are not looked into: what
/// they make void is not known from themselves.
fn stays_whole(batch: &Batch) -> bool {
    batch.header.is_control() || batch.header.is_transactional()
}

/// Writes batches anew, without what is void.
#[derive(Debug)]
pub struct Reducer<'a> {
    newest: &'a Newest,
    limits: Limits,
    /// Where the next batch that comes out begins.
    written: i64,
    /// The end of the last batch that went in.
    seen: i64,
    /// Of the last batch that went in.
    leader_epoch: i32,
}

impl<'a> Reducer<'a> {
    /// Begins at the offset `from`, where the log begins.
    #[must_use]
    pub fn new(newest: &'a Newest, from: i64, limits: Limits) -> Self {
        Self {
            newest,
            limits,
            written: from,
            seen: from,
            leader_epoch: NO_PARTITION_LEADER_EPOCH,
        }
    }

    /// What stays of a batch, appended to `out` as whole batches: often nothing. `change` may give
    /// a record another value, or none. Sequences of producers do not stay: a log that was reduced cannot
    /// tell a repeated batch.
    ///
    /// # Errors
    /// The batch cannot be read or written, or is out of place.
    pub fn reduce(
        &mut self,
        batch: &Batch,
        out: &mut Vec<u8>,
        mut change: impl FnMut(&Record) -> Option<Option<Bytes>>,
    ) -> Result<(), ReduceError> {
        let header = &batch.header;
        // A log may begin inside of its first batch.
        let begins_below = self.written == self.seen && header.base_offset < self.seen;
        let first = self.leader_epoch == NO_PARTITION_LEADER_EPOCH;
        if header.base_offset < self.seen && !(begins_below && first) {
            return Err(ReduceError::Overlap {
                base_offset: header.base_offset,
                end_offset: self.seen,
            });
        }
        self.leader_epoch = header.partition_leader_epoch;
        if stays_whole(batch) {
            self.fill_up(header.base_offset, out);
            out.extend_from_slice(&batch.bytes);
            self.seen = header.next_offset();
            self.written = self.seen;
            return Ok(());
        }
        let start = self.written;
        let mut kept = Vec::new();
        for record in batch.records(self.limits)? {
            let record = record?;
            if record.offset >= start && self.newest.keeps(&record) {
                kept.push(record);
            }
        }
        self.seen = header.next_offset();
        if kept.is_empty() {
            return Ok(());
        }
        if header.last_offset() - self.written > i64::from(i32::MAX) {
            self.fill_up(header.base_offset, out);
        }
        let stamped = header.timestamp_type() == TimestampType::LogAppendTime;
        let mut builder = BatchBuilder::new(BatchOptions {
            compression: header.compression(),
            log_append_time_ms: stamped.then_some(header.max_timestamp_ms),
            base_offset: self.written,
            partition_leader_epoch: header.partition_leader_epoch,
            ..BatchOptions::default()
        });
        for record in &kept {
            let changed = change(record);
            let headers: Vec<_> = record.headers.iter().collect();
            let headers: Vec<HeaderRef<'_>> = headers
                .iter()
                .map(|header| (&header.key[..], header.value.as_deref()))
                .collect();
            builder.append_at(
                record.offset,
                &RecordRef {
                    timestamp_ms: record.timestamp_ms,
                    key: record.key.as_deref(),
                    value: changed.as_ref().unwrap_or(&record.value).as_deref(),
                    headers: &headers,
                },
            )?;
        }
        let from = out.len();
        out.extend_from_slice(&builder.build()?);
        // The last record may have gone, and its offset stays.
        let delta = (header.last_offset() - self.written) as i32;
        let batch = &mut out[from..];
        batch[LAST_OFFSET_DELTA_AT..LAST_OFFSET_DELTA_AT + 4].copy_from_slice(&delta.to_be_bytes());
        recompute_crc(batch)?;
        self.written = self.seen;
        Ok(())
    }

    /// The end: offsets at the end whose records have all gone are in a batch without records.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        self.fill_up(self.seen, out);
    }

    /// Batches without records up to `end`, as Kafka's cleaner leaves them.
    fn fill_up(&mut self, end: i64, out: &mut Vec<u8>) {
        while self.written < end {
            let last = (end - 1).min(self.written + i64::from(i32::MAX));
            let mut batch = [0; BATCH_OVERHEAD_BYTES];
            let mut put = |at: usize, bytes: &[u8]| {
                batch[at..at + bytes.len()].copy_from_slice(bytes);
            };
            let length = (BATCH_OVERHEAD_BYTES - LENGTH_PREFIX_BYTES) as i32;
            put(BASE_OFFSET_AT, &self.written.to_be_bytes());
            put(LENGTH_AT, &length.to_be_bytes());
            put(LENGTH_AT + 4, &self.leader_epoch.to_be_bytes());
            put(MAGIC_AT, &[2]);
            let delta = (last - self.written) as i32;
            put(LAST_OFFSET_DELTA_AT, &delta.to_be_bytes());
            put(LAST_OFFSET_DELTA_AT + 4, &NO_TIMESTAMP_MS.to_be_bytes());
            put(LAST_OFFSET_DELTA_AT + 12, &NO_TIMESTAMP_MS.to_be_bytes());
            put(PRODUCER_ID_AT, &NO_PRODUCER_ID.to_be_bytes());
            // Epoch and sequence of no producer.
            put(PRODUCER_ID_AT + 8, &[0xff; 6]);
            put(RECORD_COUNT_AT, &0i32.to_be_bytes());
            // A whole header: it cannot fail.
            drop(recompute_crc(&mut batch));
            out.extend_from_slice(&batch);
            self.written = last + 1;
        }
    }
}
