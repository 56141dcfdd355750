//! What can be wrong with the bytes of a record batch.

use crate::Compression;

/// A batch that cannot be read.
///
/// For a produce request [`crate::InvalidBatch`] wraps this with the Kafka
/// error it maps to. On other paths `Truncated` is a batch cut by a size limit
/// (fetch answers) or a torn tail (logs) and everything else is corruption.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Fewer bytes than the batch says it has.
    #[error("record batch is cut off: {needed_bytes} bytes needed, {available_bytes} there")]
    Truncated {
        /// Bytes that the batch (or its header) needs.
        needed_bytes: usize,
        /// Bytes that are there.
        available_bytes: usize,
    },
    /// Not the v2 format; 0 and 1 are the formats before Kafka 0.11.
    #[error(
        "record batch has magic {magic}, only 2 is supported: use a client that writes the v2 message format"
    )]
    UnsupportedMagic {
        /// The magic byte found.
        magic: i8,
    },
    /// The length field is smaller than a header, or negative.
    #[error("record batch says it is {length} bytes long, less than its header")]
    InvalidLength {
        /// Value of the length field (bytes after it).
        length: i32,
    },
    /// Codec ids 5, 6 and 7 have no meaning.
    #[error(
        "record batch has unknown compression {id}: use none, gzip, snappy, lz4 or zstd (0 to 4)"
    )]
    UnknownCompression {
        /// Low three bits of the attributes.
        id: u8,
    },
    /// A count or delta that cannot be negative is.
    #[error("record batch has a negative {field} ({value})")]
    Negative {
        /// Name of the field.
        field: &'static str,
        /// Its value.
        value: i32,
    },
    /// The stored checksum is not that of the bytes.
    #[error(
        "record batch is corrupt: stored CRC-32C {stored:#010x}, computed {computed:#010x}: send it again"
    )]
    CrcMismatch {
        /// Checksum in the header.
        stored: u32,
        /// Checksum of the bytes.
        computed: u32,
    },
    /// A record does not parse.
    #[error("record {index} of the batch is malformed: {reason}")]
    MalformedRecord {
        /// Position in the batch, from 0.
        index: u32,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The header counts fewer records than there are bytes for.
    #[error("record batch has bytes left after its {count} declared records")]
    TrailingBytes {
        /// Records declared by the header.
        count: i32,
    },
    /// The compressed payload does not decompress.
    #[error("record batch does not decompress as {codec}: {reason}")]
    Decompress {
        /// Codec named by the attributes.
        codec: Compression,
        /// What the codec said.
        reason: String,
    },
    /// Decompressing would give more than the caller allows.
    #[error(
        "record batch decompresses to more than {limit_bytes} bytes: send smaller or less compressible batches"
    )]
    DecompressedTooLarge {
        /// The caller's limit.
        limit_bytes: usize,
    },
}
