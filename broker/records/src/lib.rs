//! Record batches: views, validation, builders and compression; no I/O.
//!
//! A [`Batch`] is a zero-copy view of one Kafka v2 record batch (KIP-98), its
//! [`BatchHeader`] the 61 bytes in front, and [`Batch::records`] walks what is
//! inside, decompressing under a limit that the caller chooses.
//! [`BatchBuilder`] writes batches, [`patch`] changes the two fields that a
//! leader assigns, and [`validate_produce`] is all that a leader checks and
//! rewrites before it appends. [`compact`] reduces a log to the last record of
//! each key.

mod batch;
mod builder;
pub mod compact;
mod compress;
mod compression;
mod decompress;
mod error;
mod header;
mod invalid;
mod lz4;
pub mod patch;
mod record;
mod snappy;
mod validate;
mod varint;
mod walk;

pub use batch::{Batch, Limits, Records};
pub use builder::{BatchBuilder, BatchOptions, BuildError, HeaderRef, RecordRef};
pub use compression::{Compression, UnknownCompressionName};
pub use error::BatchError;
pub use header::{BATCH_OVERHEAD_BYTES, BatchHeader, LENGTH_PREFIX_BYTES, TimestampType};
pub use invalid::{InvalidBatch, MAX_RECORD_ERRORS, RecordError, RecordErrorReason};
pub use record::{Headers, HeadersIter, Record, RecordHeader};
pub use validate::{ProducePolicy, TopicCompression, ValidatedBatch, validate_produce};

/// The producer id of a batch that is not idempotent.
pub const NO_PRODUCER_ID: i64 = -1;
/// The producer epoch of a batch that is not idempotent.
pub const NO_PRODUCER_EPOCH: i16 = -1;
/// The base sequence of a batch that is not idempotent.
pub const NO_SEQUENCE: i32 = -1;
/// The partition leader epoch of a batch that no leader has appended yet.
pub const NO_PARTITION_LEADER_EPOCH: i32 = -1;
/// The timestamp of a batch without records.
pub const NO_TIMESTAMP_MS: i64 = -1;

/// CRC-32C (Castagnoli) of `bytes`, the checksum of record batches.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    // The algorithm is 32 bits wide, the upper half of the answer is zero.
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

#[cfg(test)]
mod tests;
