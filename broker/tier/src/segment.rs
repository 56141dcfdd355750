//! An object with records: how it is laid out, and what is found in it. Pure.
//!
//! ```text
//! records      whole batches, as they lie in a Kafka segment
//! index        entries of 24 bytes: base offset, position, largest timestamp up to the next entry
//! sections     what later versions add, such as aborted transactions; the footer names them
//! footer       a document (JSON and its checksum)
//! trailer      length of the footer (u32), "TMSEG", version 1 (3 bytes)
//! ```
//!
//! Numbers are big-endian. Records come first and are read by ranges; everything behind them is
//! one range, too.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use tidemark_records::{Batch, BatchError, BatchHeader};
use tidemark_wire::Uuid;

use crate::document::{self, Document};
use crate::error::TierError;
use crate::layout::PartitionId;
use crate::manifest::SegmentRef;

/// An index entry for every so many bytes of records.
pub const INDEX_INTERVAL_BYTES: u64 = 64 * 1024;
const ENTRY_BYTES: usize = 24;
const TRAILER_MAGIC: &[u8; 8] = b"TMSEG\0\0\x01";
const TRAILER_BYTES: usize = 12;

/// One entry of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexEntry {
    /// Base offset of the batch at `position`.
    pub base_offset: i64,
    /// Where that batch begins in the object.
    pub position: u64,
    /// The largest timestamp of the batches from here up to the next entry.
    pub max_timestamp_ms: i64,
}

/// A part of an object between its index and its footer. None has a meaning yet: whoever does not
/// know a kind passes it over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section {
    /// What is in it: `aborted` for transactions whose records do not count, and so on.
    pub kind: String,
    /// Its length.
    pub bytes: u64,
    /// CRC-32 of its bytes.
    pub crc32: u32,
}

/// The document at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Footer {
    /// The topic's name.
    pub topic: String,
    /// The topic's id, as text.
    pub topic_id: String,
    /// The partition's index.
    pub partition: i32,
    /// Offset of the first record.
    pub base_offset: i64,
    /// The offset after the last.
    pub end_offset: i64,
    /// Bytes of records.
    pub log_bytes: u64,
    /// CRC-32 of the records' bytes.
    pub log_crc32: u32,
    /// Bytes of the index.
    pub index_bytes: u64,
    /// CRC-32 of the index's bytes.
    pub index_crc32: u32,
    /// What follows the index, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sections: Vec<Section>,
    /// The largest timestamp, -1 without.
    pub max_timestamp_ms: i64,
    /// Leader epochs of the records, with their first offsets.
    pub epochs: Vec<(i32, i64)>,
    /// The generation of the cluster that wrote it.
    pub generation: u32,
    /// The leader epoch that it was uploaded in.
    pub leader_epoch: i32,
}

impl Document for Footer {
    const FORMAT: &'static str = "tidemark-segment";
}

/// Puts an object together while its records go by.
#[derive(Debug)]
pub struct Builder {
    partition: PartitionId,
    topic: String,
    base_offset: i64,
    end_offset: i64,
    log_bytes: u64,
    log_crc: crc32fast::Hasher,
    object_crc: crc32fast::Hasher,
    entries: Vec<IndexEntry>,
    epochs: Vec<(i32, i64)>,
    max_timestamp_ms: i64,
}

/// Why records cannot go into an object.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BuildError {
    /// A batch is not whole or not what its CRC says.
    #[error("the batch at offset {offset} on the local disk is damaged: {error}")]
    Batch {
        /// Where.
        offset: i64,
        /// What is wrong.
        error: BatchError,
    },
    /// Offsets do not follow.
    #[error("the batch at {base_offset} follows one that ends at {expected}")]
    Gap {
        /// The batch's.
        base_offset: i64,
        /// What should come.
        expected: i64,
    },
}

impl Builder {
    /// An object of `partition` from `base_offset` on.
    pub fn new(topic: &str, partition: PartitionId, base_offset: i64) -> Builder {
        Builder {
            partition,
            topic: topic.to_owned(),
            base_offset,
            end_offset: base_offset,
            log_bytes: 0,
            log_crc: crc32fast::Hasher::new(),
            object_crc: crc32fast::Hasher::new(),
            entries: Vec::new(),
            epochs: Vec::new(),
            max_timestamp_ms: -1,
        }
    }

    /// The offset after the last record.
    pub fn end_offset(&self) -> i64 {
        self.end_offset
    }

    /// Bytes of records so far.
    pub fn log_bytes(&self) -> u64 {
        self.log_bytes
    }

    /// Takes whole batches, whose CRCs are checked: what leaves this broker is what came.
    ///
    /// # Errors
    /// A batch is damaged or out of its place; the object is of no use then.
    pub fn add(&mut self, batches: &Bytes) -> Result<(), BuildError> {
        let mut rest = batches.clone();
        loop {
            let before = rest.len();
            let batch = Batch::split_first(&mut rest).map_err(|error| BuildError::Batch {
                offset: self.end_offset,
                error,
            })?;
            let Some(batch) = batch else { break };
            batch.verify_crc().map_err(|error| BuildError::Batch {
                offset: self.end_offset,
                error,
            })?;
            self.note(&batch.header, (before - rest.len()) as u64)?;
        }
        self.log_crc.update(batches);
        self.object_crc.update(batches);
        Ok(())
    }

    fn note(&mut self, header: &BatchHeader, size_bytes: u64) -> Result<(), BuildError> {
        // A log may start inside of a batch.
        let begins_below = self.log_bytes == 0 && header.base_offset < self.base_offset;
        if header.base_offset != self.end_offset && !begins_below {
            return Err(BuildError::Gap {
                base_offset: header.base_offset,
                expected: self.end_offset,
            });
        }
        let due = match self.entries.last() {
            None => true,
            Some(last) => self.log_bytes - last.position >= INDEX_INTERVAL_BYTES,
        };
        if due {
            self.entries.push(IndexEntry {
                base_offset: header.base_offset,
                position: self.log_bytes,
                max_timestamp_ms: header.max_timestamp_ms,
            });
        }
        if let Some(last) = self.entries.last_mut() {
            last.max_timestamp_ms = last.max_timestamp_ms.max(header.max_timestamp_ms);
        }
        let epoch = header.partition_leader_epoch;
        if self.epochs.last().is_none_or(|(last, _)| *last != epoch) {
            self.epochs
                .push((epoch, header.base_offset.max(self.base_offset)));
        }
        self.max_timestamp_ms = self.max_timestamp_ms.max(header.max_timestamp_ms);
        self.log_bytes += size_bytes;
        self.end_offset = header.next_offset();
        Ok(())
    }

    /// What follows the records in the object `key`, and the entry for the manifest.
    ///
    /// # Errors
    /// The footer cannot be written as JSON.
    pub fn finish(
        &self,
        key: &str,
        generation: u32,
        leader_epoch: i32,
        id: Uuid,
    ) -> Result<(Bytes, SegmentRef), TierError> {
        let mut tail = BytesMut::with_capacity(self.entries.len() * ENTRY_BYTES + 1024);
        for entry in &self.entries {
            tail.put_i64(entry.base_offset);
            tail.put_u64(entry.position);
            tail.put_i64(entry.max_timestamp_ms);
        }
        let footer = Footer {
            topic: self.topic.clone(),
            topic_id: self.partition.topic_id.to_string(),
            partition: self.partition.partition,
            base_offset: self.base_offset,
            end_offset: self.end_offset,
            log_bytes: self.log_bytes,
            log_crc32: self.log_crc.clone().finalize(),
            index_bytes: tail.len() as u64,
            index_crc32: crc32fast::hash(&tail),
            sections: Vec::new(),
            max_timestamp_ms: self.max_timestamp_ms,
            epochs: self.epochs.clone(),
            generation,
            leader_epoch,
        };
        let footer = document::encode(key, &footer)?;
        tail.put_slice(&footer);
        tail.put_u32(u32::try_from(footer.len()).unwrap_or(u32::MAX));
        tail.put_slice(TRAILER_MAGIC);
        let mut object_crc = self.object_crc.clone();
        object_crc.update(&tail);
        let entry = SegmentRef {
            base_offset: self.base_offset,
            end_offset: self.end_offset,
            leader_epoch,
            id,
            size_bytes: self.log_bytes + tail.len() as u64,
            log_bytes: self.log_bytes,
            crc32: object_crc.finalize(),
            max_timestamp_ms: self.max_timestamp_ms,
            epochs: self.epochs.clone(),
        };
        Ok((tail.freeze(), entry))
    }
}

/// What follows the records of an object, read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail {
    /// The document.
    pub footer: Footer,
    /// The index; never empty, by rising offsets and positions.
    pub index: Vec<IndexEntry>,
}

impl Tail {
    /// Reads what follows the records: the last `bytes.len()` bytes of an object.
    ///
    /// # Errors
    /// It is damaged, or of a newer version.
    pub fn decode(key: &str, bytes: &Bytes) -> Result<Tail, TierError> {
        let damaged = |reason: String| TierError::damaged(key, reason);
        let trailer_at = bytes
            .len()
            .checked_sub(TRAILER_BYTES)
            .ok_or_else(|| damaged("it is too short for a trailer".to_owned()))?;
        let mut trailer = &bytes[trailer_at..];
        let footer_bytes = trailer.get_u32() as usize;
        if trailer[..5] != TRAILER_MAGIC[..5] {
            return Err(damaged("it does not end as a segment does".to_owned()));
        }
        if trailer != TRAILER_MAGIC {
            let version = u32::from_be_bytes([0, trailer[5], trailer[6], trailer[7]]);
            return Err(TierError::Newer {
                key: key.to_owned(),
                version,
                known: 1,
            });
        }
        let footer_at = trailer_at
            .checked_sub(footer_bytes)
            .ok_or_else(|| damaged(format!("a footer of {footer_bytes} bytes has no room")))?;
        let footer: Footer = document::decode(key, &bytes[footer_at..trailer_at])?;
        let sections = footer
            .sections
            .iter()
            .try_fold(0u64, |sum, section| sum.checked_add(section.bytes));
        let index_bytes = sections.and_then(|bytes| (footer_at as u64).checked_sub(bytes));
        if index_bytes != Some(footer.index_bytes)
            || !footer.index_bytes.is_multiple_of(ENTRY_BYTES as u64)
        {
            return Err(damaged(format!(
                "its index and sections have {footer_at} bytes, of which the footer says {} and {sections:?}",
                footer.index_bytes
            )));
        }
        // It is not more than what is there.
        let index_end = usize::try_from(footer.index_bytes).unwrap_or(footer_at);
        let (index, mut rest) = bytes[..footer_at].split_at(index_end);
        for section in &footer.sections {
            let end = usize::try_from(section.bytes).unwrap_or(rest.len());
            let (of_section, after) = rest.split_at(end.min(rest.len()));
            if crc32fast::hash(of_section) != section.crc32 {
                return Err(damaged(format!(
                    "its section {} does not have its checksum",
                    section.kind
                )));
            }
            rest = after;
        }
        if crc32fast::hash(index) != footer.index_crc32 {
            return Err(damaged("its index does not have its checksum".to_owned()));
        }
        let index: Vec<IndexEntry> = index
            .chunks_exact(ENTRY_BYTES)
            .map(|mut entry| IndexEntry {
                base_offset: entry.get_i64(),
                position: entry.get_u64(),
                max_timestamp_ms: entry.get_i64(),
            })
            .collect();
        let rising = index.windows(2).all(|pair| {
            pair[0].base_offset < pair[1].base_offset && pair[0].position < pair[1].position
        });
        let inside = index
            .last()
            .is_some_and(|last| last.position < footer.log_bytes);
        if !rising || !inside || index.first().is_none_or(|first| first.position != 0) {
            return Err(damaged("its index is no index of its records".to_owned()));
        }
        Ok(Tail { footer, index })
    }

    /// Where to begin reading for `offset`.
    pub fn entry_of(&self, offset: i64) -> IndexEntry {
        let after = self
            .index
            .partition_point(|entry| entry.base_offset <= offset);
        // `decode` lets no empty index through.
        self.index[after.saturating_sub(1)]
    }

    /// The stretch of the object that holds the first record of `timestamp_ms` or later: where it
    /// begins and ends. `from` lies below it.
    pub fn stretch_by_time(&self, timestamp_ms: i64, from: u64) -> Option<(u64, u64)> {
        let found = self.index.iter().enumerate().find(|(index, entry)| {
            entry.max_timestamp_ms >= timestamp_ms && self.end_of(*index) > from
        });
        found.map(|(index, entry)| (entry.position, self.end_of(index)))
    }

    /// Where the stretch of an entry ends.
    fn end_of(&self, index: usize) -> u64 {
        self.index
            .get(index + 1)
            .map_or(self.footer.log_bytes, |next| next.position)
    }
}
