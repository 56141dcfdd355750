//! The 61-byte header of a v2 record batch.

use crate::{BatchError, Compression};

/// Bytes of the base offset and length fields, which the length does not count.
pub const LENGTH_PREFIX_BYTES: usize = 12;
/// Bytes in front of the records of a v2 batch.
pub const BATCH_OVERHEAD_BYTES: usize = 61;

pub(crate) const BASE_OFFSET_AT: usize = 0;
pub(crate) const LENGTH_AT: usize = 8;
pub(crate) const PARTITION_LEADER_EPOCH_AT: usize = 12;
pub(crate) const MAGIC_AT: usize = 16;
pub(crate) const CRC_AT: usize = 17;
/// The CRC covers everything from here to the end of the batch.
pub(crate) const ATTRIBUTES_AT: usize = 21;
pub(crate) const LAST_OFFSET_DELTA_AT: usize = 23;
pub(crate) const BASE_TIMESTAMP_AT: usize = 27;
pub(crate) const MAX_TIMESTAMP_AT: usize = 35;
pub(crate) const PRODUCER_ID_AT: usize = 43;
pub(crate) const PRODUCER_EPOCH_AT: usize = 51;
pub(crate) const BASE_SEQUENCE_AT: usize = 53;
pub(crate) const RECORD_COUNT_AT: usize = 57;

pub(crate) const COMPRESSION_MASK: i16 = 0x07;
pub(crate) const TIMESTAMP_TYPE_BIT: i16 = 0x08;
pub(crate) const TRANSACTIONAL_BIT: i16 = 0x10;
pub(crate) const CONTROL_BIT: i16 = 0x20;
pub(crate) const DELETE_HORIZON_BIT: i16 = 0x40;

/// Who set the timestamps of a batch (KIP-32).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TimestampType {
    /// The producer; each record has its own.
    #[default]
    CreateTime,
    /// The leader at append; all records share the batch's maximum timestamp.
    LogAppendTime,
}

/// The header of a v2 record batch, as parsed: only magic, length, codec and
/// signs have been checked, not the CRC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record; of the record that was first when records
    /// have been compacted away.
    pub base_offset: i64,
    /// Bytes of the batch after this field, at least 49.
    pub length_bytes: i32,
    /// Epoch of the leader that appended the batch, -1 before that.
    pub partition_leader_epoch: i32,
    /// Format version, always 2.
    pub magic: i8,
    /// CRC-32C of all bytes from the attributes on.
    pub crc: u32,
    /// Codec (bits 0-2), timestamp type (3), transactional (4), control (5),
    /// delete horizon (6).
    pub attributes: i16,
    /// Last offset minus base offset, never negative; kept when the last
    /// record is compacted away.
    pub last_offset_delta: i32,
    /// Base of the records' timestamp deltas, in milliseconds since 1970; the
    /// delete horizon if that attribute is set.
    pub base_timestamp_ms: i64,
    /// Largest timestamp, in milliseconds since 1970, or the append time.
    pub max_timestamp_ms: i64,
    /// Id of the idempotent or transactional producer, or -1.
    pub producer_id: i64,
    /// Epoch of the producer, or -1.
    pub producer_epoch: i16,
    /// Sequence number of the first record, or -1.
    pub base_sequence: i32,
    /// Number of records, never negative.
    pub record_count: i32,
}

pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

impl BatchHeader {
    /// Parses the header at the start of `bytes`; the records need not be there.
    ///
    /// # Errors
    /// `Truncated` (with 61 or, before the magic, 17 bytes needed),
    /// `UnsupportedMagic`, `InvalidLength`, `UnknownCompression`, `Negative`.
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        let header = Self::parse_unchecked(bytes)?;
        header.check()?;
        Ok(header)
    }

    /// Parses as far as the CRC has to be known good for: magic and length.
    pub(crate) fn parse_unchecked(bytes: &[u8]) -> Result<Self, BatchError> {
        let truncated = |needed_bytes| BatchError::Truncated {
            needed_bytes,
            available_bytes: bytes.len(),
        };
        if bytes.len() <= MAGIC_AT {
            return Err(truncated(MAGIC_AT + 1));
        }
        // The magic comes first: older formats have other headers.
        let magic = bytes[MAGIC_AT] as i8;
        if magic != 2 {
            return Err(BatchError::UnsupportedMagic { magic });
        }
        let length_bytes = i32::from_be_bytes(array(bytes, LENGTH_AT));
        if length_bytes < (BATCH_OVERHEAD_BYTES - LENGTH_PREFIX_BYTES) as i32 {
            return Err(BatchError::InvalidLength {
                length: length_bytes,
            });
        }
        if bytes.len() < BATCH_OVERHEAD_BYTES {
            return Err(truncated(BATCH_OVERHEAD_BYTES));
        }
        Ok(Self {
            base_offset: i64::from_be_bytes(array(bytes, BASE_OFFSET_AT)),
            length_bytes,
            partition_leader_epoch: i32::from_be_bytes(array(bytes, PARTITION_LEADER_EPOCH_AT)),
            magic,
            crc: u32::from_be_bytes(array(bytes, CRC_AT)),
            attributes: i16::from_be_bytes(array(bytes, ATTRIBUTES_AT)),
            last_offset_delta: i32::from_be_bytes(array(bytes, LAST_OFFSET_DELTA_AT)),
            base_timestamp_ms: i64::from_be_bytes(array(bytes, BASE_TIMESTAMP_AT)),
            max_timestamp_ms: i64::from_be_bytes(array(bytes, MAX_TIMESTAMP_AT)),
            producer_id: i64::from_be_bytes(array(bytes, PRODUCER_ID_AT)),
            producer_epoch: i16::from_be_bytes(array(bytes, PRODUCER_EPOCH_AT)),
            base_sequence: i32::from_be_bytes(array(bytes, BASE_SEQUENCE_AT)),
            record_count: i32::from_be_bytes(array(bytes, RECORD_COUNT_AT)),
        })
    }

    /// Checks what the CRC covers.
    pub(crate) fn check(&self) -> Result<(), BatchError> {
        let codec_id = (self.attributes & COMPRESSION_MASK) as u8;
        if Compression::from_id(codec_id).is_none() {
            return Err(BatchError::UnknownCompression { id: codec_id });
        }
        if self.last_offset_delta < 0 {
            return Err(BatchError::Negative {
                field: "last offset delta",
                value: self.last_offset_delta,
            });
        }
        if self.record_count < 0 {
            return Err(BatchError::Negative {
                field: "record count",
                value: self.record_count,
            });
        }
        Ok(())
    }

    /// Whole size of the batch with its header.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        // Parsing refused negative lengths; a header made by hand counts as empty.
        LENGTH_PREFIX_BYTES + usize::try_from(self.length_bytes).unwrap_or(0)
    }

    /// Offset of the last record (also when that one was compacted away).
    #[must_use]
    pub fn last_offset(&self) -> i64 {
        self.base_offset
            .saturating_add(i64::from(self.last_offset_delta))
    }

    /// The offset after the last record.
    #[must_use]
    pub fn next_offset(&self) -> i64 {
        self.last_offset().saturating_add(1)
    }

    /// Sequence number of the last record, or -1 without one. Sequences wrap
    /// from `i32::MAX` to 0.
    #[must_use]
    pub fn last_sequence(&self) -> i32 {
        if self.base_sequence < 0 {
            return crate::NO_SEQUENCE;
        }
        let sum = i64::from(self.base_sequence) + i64::from(self.last_offset_delta);
        (sum & i64::from(i32::MAX)) as i32
    }

    /// The codec of the records.
    #[must_use]
    pub fn compression(&self) -> Compression {
        // Parsing refused unknown codecs.
        Compression::from_id((self.attributes & COMPRESSION_MASK) as u8).unwrap_or_default()
    }

    /// Who set the timestamps.
    #[must_use]
    pub fn timestamp_type(&self) -> TimestampType {
        if self.attributes & TIMESTAMP_TYPE_BIT == 0 {
            TimestampType::CreateTime
        } else {
            TimestampType::LogAppendTime
        }
    }

    /// Whether the batch is part of a transaction.
    #[must_use]
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL_BIT != 0
    }

    /// Whether the records are markers of the brokers (commit, abort, leader
    /// change), which consumers skip.
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL_BIT != 0
    }

    /// When tombstones of this batch may go, in milliseconds since 1970
    /// (KIP-534); set by compaction.
    #[must_use]
    pub fn delete_horizon_ms(&self) -> Option<i64> {
        (self.attributes & DELETE_HORIZON_BIT != 0).then_some(self.base_timestamp_ms)
    }

    /// Whether the batch carries a producer id.
    #[must_use]
    pub fn has_producer_id(&self) -> bool {
        self.producer_id > crate::NO_PRODUCER_ID
    }
}
