//! Why a leader refuses a produced batch, and the Kafka error for it.

use crate::{BatchError, Compression};

/// Which Kafka error an invalid batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KafkaError {
    UnknownServerError = -1,
    CorruptMessage = 2,
    MessageTooLarge = 10,
    InvalidTimestamp = 32,
    InvalidTxnState = 48,
    UnsupportedCompressionType = 76,
    InvalidRecord = 87,
}

/// Why a produced batch is refused. [`Self::kafka_error_code`] is the error
/// of Kafka's protocol for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBatch {
    /// There is no batch at all: INVALID_RECORD.
    #[error("the produce request has no record batch for the partition: send exactly one")]
    Missing,
    /// Formats 0 and 1, of before Kafka 0.11: INVALID_RECORD, as Kafka answers
    /// Produce 3 and higher (UNSUPPORTED_FOR_MESSAGE_FORMAT is what it
    /// answers where lower versions are served).
    #[error(
        "the record batch has magic {magic}, produce requests may only have magic 2: upgrade the client or set its message format to v2"
    )]
    OldFormat {
        /// The magic byte.
        magic: i8,
    },
    /// More than one batch, or bytes after it: INVALID_RECORD.
    #[error(
        "{extra_bytes} bytes follow the first record batch: send exactly one batch per partition"
    )]
    MoreThanOneBatch {
        /// Bytes after the first batch.
        extra_bytes: usize,
    },
    /// Larger than the topic allows, as sent or after recompression:
    /// MESSAGE_TOO_LARGE.
    #[error(
        "the record batch has {size_bytes} bytes, the topic takes {max_bytes}: send smaller batches or raise max.message.bytes"
    )]
    TooLarge {
        /// Size of the batch.
        size_bytes: usize,
        /// `max.message.bytes`.
        max_bytes: usize,
    },
    /// Wrong CRC or a length that cannot be: CORRUPT_MESSAGE. Other bytes that
    /// do not parse or decompress, under a good CRC, were written so:
    /// INVALID_RECORD, which clients do not retry.
    #[error(transparent)]
    Unreadable(#[from] BatchError),
    /// Produce below version 7: UNSUPPORTED_COMPRESSION_TYPE.
    #[error("zstd needs Produce version 7 or higher: upgrade the client or use another codec")]
    ZstdNotAllowed,
    /// INVALID_RECORD.
    #[error("the base offset of a produced batch must be 0, it is {base_offset}")]
    BaseOffset {
        /// Base offset found.
        base_offset: i64,
    },
    /// INVALID_RECORD.
    #[error(
        "the record batch counts {record_count} records, but its last offset delta is {last_offset_delta}"
    )]
    Count {
        /// Records counted by the header.
        record_count: i32,
        /// Last offset delta of the header.
        last_offset_delta: i32,
    },
    /// INVALID_RECORD.
    #[error("record {index} has offset delta {offset_delta}: deltas must count up from 0")]
    OffsetDelta {
        /// Position in the batch, from 0.
        index: u32,
        /// Delta found.
        offset_delta: i32,
    },
    /// INVALID_RECORD.
    #[error("clients may not write control batches")]
    Control,
    /// INVALID_TXN_STATE, which ends the producer's transaction for good.
    #[error("transactional batches are not accepted here")]
    Transactional,
    /// INVALID_RECORD.
    #[error("the batch of producer {producer_id} has the invalid sequence number {base_sequence}")]
    Sequence {
        /// Producer id of the batch.
        producer_id: i64,
        /// Its base sequence.
        base_sequence: i32,
    },
    /// Single records are refused, and with them the batch: INVALID_TIMESTAMP
    /// if any timestamp is among them, else INVALID_RECORD. They are the
    /// `record_errors` of Produce 8 and higher (KIP-467).
    #[error("{total} records are refused; first: record {}: {}",
        errors.first().map_or(0, |error| error.batch_index),
        errors.first().map_or(RecordErrorReason::NullKey, |error| error.reason))]
    Records {
        /// The first [`MAX_RECORD_ERRORS`] of them, in order.
        errors: Vec<RecordError>,
        /// How many there are in all.
        total: u32,
    },
    /// The batch could not be compressed for the topic: UNKNOWN_SERVER_ERROR.
    #[error("the batch could not be compressed as {codec}: {reason}")]
    Recompression {
        /// The topic's codec.
        codec: Compression,
        /// What it said.
        reason: String,
    },
}

/// Refused records listed per batch: a hostile batch has millions, and no
/// client reads more than a few.
pub const MAX_RECORD_ERRORS: usize = 1_000;

/// One refused record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordError {
    /// Position in the batch, from 0.
    pub batch_index: u32,
    /// Why.
    pub reason: RecordErrorReason,
}

/// Why a record is refused; Display is the `batch_index_error_message`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordErrorReason {
    /// The topic is compacted, so records need keys.
    #[error("a compacted topic takes no record without a key")]
    NullKey,
    /// The timestamp lies outside of the topic's bounds.
    #[error(
        "timestamp {timestamp_ms} is out of range: it must be within [{min_ms}, {max_ms}] (message.timestamp.before.max.ms and after.max.ms)"
    )]
    Timestamp {
        /// Of the record, in milliseconds since 1970.
        timestamp_ms: i64,
        /// Lowest allowed now.
        min_ms: i64,
        /// Highest allowed now.
        max_ms: i64,
    },
    /// The producer set the attribute that only leaders set.
    #[error("producers must not set the timestamp type LogAppendTime")]
    LogAppendTime,
}

impl InvalidBatch {
    fn kafka_error(&self) -> KafkaError {
        match self {
            Self::TooLarge { .. } => KafkaError::MessageTooLarge,
            Self::Unreadable(BatchError::CrcMismatch { .. } | BatchError::InvalidLength { .. }) => {
                KafkaError::CorruptMessage
            }
            Self::ZstdNotAllowed => KafkaError::UnsupportedCompressionType,
            Self::Transactional => KafkaError::InvalidTxnState,
            Self::Recompression { .. } => KafkaError::UnknownServerError,
            Self::Records { errors, .. }
                if errors
                    .iter()
                    .any(|error| error.reason != RecordErrorReason::NullKey) =>
            {
                KafkaError::InvalidTimestamp
            }
            _ => KafkaError::InvalidRecord,
        }
    }

    /// The number of the error in Kafka's protocol, for `ErrorCode::from_code`.
    #[must_use]
    pub fn kafka_error_code(&self) -> i16 {
        self.kafka_error() as i16
    }

    /// The refused records, empty if the batch as a whole is refused.
    #[must_use]
    pub fn record_errors(&self) -> &[RecordError] {
        match self {
            Self::Records { errors, .. } => errors,
            _ => &[],
        }
    }
}
