//! Writing record batches.

use bytes::Bytes;

use crate::compress::compress;
use crate::header::{
    ATTRIBUTES_AT, BATCH_OVERHEAD_BYTES, CONTROL_BIT, CRC_AT, LENGTH_PREFIX_BYTES,
    TIMESTAMP_TYPE_BIT, TRANSACTIONAL_BIT,
};
use crate::varint::{put_varlong, varlong_bytes};
use crate::{
    Compression, NO_PARTITION_LEADER_EPOCH, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, NO_SEQUENCE,
    NO_TIMESTAMP_MS,
};

/// A header to write: key and value, null if `None`.
pub type HeaderRef<'a> = (&'a [u8], Option<&'a [u8]>);

/// A record to write.
#[derive(Debug, Clone, Copy, Default)]
pub struct RecordRef<'a> {
    /// Milliseconds since 1970, or [`NO_TIMESTAMP_MS`].
    pub timestamp_ms: i64,
    /// Key, null if `None`.
    pub key: Option<&'a [u8]>,
    /// Value, null if `None`.
    pub value: Option<&'a [u8]>,
    /// Headers in order; keys may repeat.
    pub headers: &'a [HeaderRef<'a>],
}

/// What a batch says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchOptions {
    /// Codec of the records.
    pub compression: Compression,
    /// Level for gzip (1 to 9) or zstd (-131072 to 22); `None` is the default.
    pub compression_level: Option<i32>,
    /// Set for a batch with log append time: milliseconds since 1970.
    pub log_append_time_ms: Option<i64>,
    /// Offset of the first record; producers send 0.
    pub base_offset: i64,
    /// Epoch of the leader, -1 for producers.
    pub partition_leader_epoch: i32,
    /// Producer id, -1 without idempotence.
    pub producer_id: i64,
    /// Producer epoch, -1 without idempotence.
    pub producer_epoch: i16,
    /// Sequence number of the first record, -1 without idempotence.
    pub base_sequence: i32,
    /// Whether the batch is part of a transaction.
    pub transactional: bool,
    /// Whether the records are control records.
    pub control: bool,
}

impl Default for BatchOptions {
    /// An uncompressed batch of a producer without idempotence.
    fn default() -> Self {
        Self {
            compression: Compression::None,
            compression_level: None,
            log_append_time_ms: None,
            base_offset: 0,
            partition_leader_epoch: NO_PARTITION_LEADER_EPOCH,
            producer_id: NO_PRODUCER_ID,
            producer_epoch: NO_PRODUCER_EPOCH,
            base_sequence: NO_SEQUENCE,
            transactional: false,
            control: false,
        }
    }
}

/// Why a record or batch cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// A batch has at least one record.
    #[error("a record batch needs at least one record")]
    Empty,
    /// Sizes, counts and offset deltas are 32-bit.
    #[error("the record does not fit into its batch: end the batch before it")]
    TooLarge,
    /// Offsets rise within a batch.
    #[error("record offset {offset} does not come after {previous} (or the base offset)")]
    OffsetOutOfOrder {
        /// Offset of the record.
        offset: i64,
        /// Offset of the record before it.
        previous: i64,
    },
    /// The codec failed; the message is its own.
    #[error("the batch cannot be compressed as {codec}: {reason}")]
    Compress {
        /// The codec.
        codec: Compression,
        /// What it said.
        reason: String,
    },
}

/// Collects records into one batch.
///
/// ```
/// use tidemark_records::{BatchBuilder, BatchOptions, RecordRef};
/// let mut builder = BatchBuilder::new(BatchOptions::default());
/// let record = RecordRef { timestamp_ms: 1_700_000_000_000, value: Some(b"v"), ..Default::default() };
/// if builder.size_bytes_with(&record) <= 16 * 1024 {
///     builder.append(&record)?;
/// }
/// let batch = builder.build()?;
/// # Ok::<(), tidemark_records::BuildError>(())
/// ```
#[derive(Debug, Clone)]
pub struct BatchBuilder {
    options: BatchOptions,
    /// Room for the header, then the records uncompressed.
    out: Vec<u8>,
    record_count: i32,
    last_offset: i64,
    base_timestamp_ms: i64,
    max_timestamp_ms: i64,
}

/// Largest batch that its 32-bit length can tell.
const MAX_BATCH_BYTES: usize = i32::MAX as usize;

impl BatchBuilder {
    /// An empty batch.
    #[must_use]
    pub fn new(options: BatchOptions) -> Self {
        Self::with_capacity(options, 512)
    }

    /// An empty batch with room for `size_bytes` before it allocates again.
    #[must_use]
    pub fn with_capacity(options: BatchOptions, size_bytes: usize) -> Self {
        let mut out = Vec::with_capacity(size_bytes.max(BATCH_OVERHEAD_BYTES));
        out.resize(BATCH_OVERHEAD_BYTES, 0);
        Self {
            options,
            out,
            record_count: 0,
            last_offset: options.base_offset.wrapping_sub(1),
            base_timestamp_ms: NO_TIMESTAMP_MS,
            max_timestamp_ms: NO_TIMESTAMP_MS,
        }
    }

    /// Number of records so far.
    #[must_use]
    pub fn record_count(&self) -> usize {
        self.record_count as usize
    }

    /// Whether there is no record yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.record_count == 0
    }

    /// Size so far, header included, before compression.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.out.len()
    }

    /// What [`Self::size_bytes`] would be after appending `record`: compare it
    /// with `batch.size` or `max.request.size` first. Incompressible data may
    /// come out a few bytes larger than this after compression.
    #[must_use]
    pub fn size_bytes_with(&self, record: &RecordRef<'_>) -> usize {
        let (timestamp_delta_ms, offset_delta) =
            self.deltas(record, self.last_offset.wrapping_add(1));
        let body_bytes = body_bytes(record, timestamp_delta_ms, offset_delta);
        self.out
            .len()
            .saturating_add(varlong_bytes(body_bytes as i64))
            .saturating_add(body_bytes)
    }

    /// Sets producer id, epoch and first sequence, which a producer often
    /// learns only when it sends.
    pub fn set_producer_state(
        &mut self,
        producer_id: i64,
        producer_epoch: i16,
        base_sequence: i32,
    ) {
        self.options.producer_id = producer_id;
        self.options.producer_epoch = producer_epoch;
        self.options.base_sequence = base_sequence;
    }

    fn deltas(&self, record: &RecordRef<'_>, offset: i64) -> (i64, i64) {
        let base_timestamp_ms = if self.record_count == 0 {
            record.timestamp_ms
        } else {
            self.base_timestamp_ms
        };
        (
            record.timestamp_ms.wrapping_sub(base_timestamp_ms),
            offset.wrapping_sub(self.options.base_offset),
        )
    }

    /// Appends a record at the next offset.
    ///
    /// # Errors
    /// `TooLarge`; the batch is as it was then.
    pub fn append(&mut self, record: &RecordRef<'_>) -> Result<(), BuildError> {
        self.append_at(self.last_offset.wrapping_add(1), record)
    }

    /// Appends a record at `offset`, which may leave a gap.
    ///
    /// # Errors
    /// `OffsetOutOfOrder`, `TooLarge`; the batch is as it was then.
    pub fn append_at(&mut self, offset: i64, record: &RecordRef<'_>) -> Result<(), BuildError> {
        if offset <= self.last_offset || offset < self.options.base_offset {
            return Err(BuildError::OffsetOutOfOrder {
                offset,
                previous: self.last_offset,
            });
        }
        let (timestamp_delta_ms, offset_delta) = self.deltas(record, offset);
        let body_bytes = body_bytes(record, timestamp_delta_ms, offset_delta);
        let size_bytes = self
            .out
            .len()
            .saturating_add(body_bytes)
            .saturating_add(varlong_bytes(body_bytes as i64));
        if size_bytes > MAX_BATCH_BYTES
            || i32::try_from(offset_delta).is_err()
            || self.record_count == i32::MAX
        {
            return Err(BuildError::TooLarge);
        }
        put_varlong(&mut self.out, body_bytes as i64);
        self.out.push(0);
        put_varlong(&mut self.out, timestamp_delta_ms);
        put_varlong(&mut self.out, offset_delta);
        put_nullable(&mut self.out, record.key);
        put_nullable(&mut self.out, record.value);
        put_varlong(&mut self.out, record.headers.len() as i64);
        for (key, value) in record.headers {
            put_nullable(&mut self.out, Some(key));
            put_nullable(&mut self.out, *value);
        }
        debug_assert_eq!(self.out.len(), size_bytes);
        if self.record_count == 0 {
            self.base_timestamp_ms = record.timestamp_ms;
        }
        self.max_timestamp_ms = self.max_timestamp_ms.max(record.timestamp_ms);
        self.last_offset = offset;
        self.record_count += 1;
        Ok(())
    }

    /// Compresses the records and writes header and CRC.
    ///
    /// # Errors
    /// `Empty`, `Compress`, or `TooLarge` if compression made it so.
    pub fn build(self) -> Result<Bytes, BuildError> {
        if self.record_count == 0 {
            return Err(BuildError::Empty);
        }
        let mut attributes = i16::from(self.options.compression.id());
        let mut max_timestamp_ms = self.max_timestamp_ms;
        if let Some(append_time_ms) = self.options.log_append_time_ms {
            attributes |= TIMESTAMP_TYPE_BIT;
            max_timestamp_ms = append_time_ms;
        }
        if self.options.transactional {
            attributes |= TRANSACTIONAL_BIT;
        }
        if self.options.control {
            attributes |= CONTROL_BIT;
        }
        let mut out = self.out;
        let options = &self.options;
        if options.compression != Compression::None {
            let compressed = compress(
                options.compression,
                options.compression_level,
                &out[BATCH_OVERHEAD_BYTES..],
            )
            .map_err(|error| BuildError::Compress {
                codec: options.compression,
                reason: error.to_string(),
            })?;
            out.truncate(BATCH_OVERHEAD_BYTES);
            out.extend_from_slice(&compressed);
        }
        let length =
            i32::try_from(out.len() - LENGTH_PREFIX_BYTES).map_err(|_| BuildError::TooLarge)?;
        // Offsets were kept within 32 bits of the base when they were appended.
        let last_offset_delta = self.last_offset.wrapping_sub(options.base_offset) as i32;
        let mut header = Vec::with_capacity(BATCH_OVERHEAD_BYTES);
        header.extend_from_slice(&options.base_offset.to_be_bytes());
        header.extend_from_slice(&length.to_be_bytes());
        header.extend_from_slice(&options.partition_leader_epoch.to_be_bytes());
        header.push(2);
        header.extend_from_slice(&[0; 4]);
        header.extend_from_slice(&attributes.to_be_bytes());
        header.extend_from_slice(&last_offset_delta.to_be_bytes());
        header.extend_from_slice(&self.base_timestamp_ms.to_be_bytes());
        header.extend_from_slice(&max_timestamp_ms.to_be_bytes());
        header.extend_from_slice(&options.producer_id.to_be_bytes());
        header.extend_from_slice(&options.producer_epoch.to_be_bytes());
        header.extend_from_slice(&options.base_sequence.to_be_bytes());
        header.extend_from_slice(&self.record_count.to_be_bytes());
        out[..BATCH_OVERHEAD_BYTES].copy_from_slice(&header);
        let crc = crate::crc32c(&out[ATTRIBUTES_AT..]);
        out[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
        Ok(Bytes::from(out))
    }
}

fn nullable_bytes(value: Option<&[u8]>) -> usize {
    match value {
        None => 1,
        Some(value) => varlong_bytes(value.len() as i64) + value.len(),
    }
}

fn put_nullable(out: &mut Vec<u8>, value: Option<&[u8]>) {
    match value {
        None => put_varlong(out, -1),
        Some(value) => {
            put_varlong(out, value.len() as i64);
            out.extend_from_slice(value);
        }
    }
}

fn body_bytes(record: &RecordRef<'_>, timestamp_delta_ms: i64, offset_delta: i64) -> usize {
    let headers_bytes: usize = record
        .headers
        .iter()
        .map(|(key, value)| nullable_bytes(Some(key)) + nullable_bytes(*value))
        .sum();
    1 + varlong_bytes(timestamp_delta_ms)
        + varlong_bytes(offset_delta)
        + nullable_bytes(record.key)
        + nullable_bytes(record.value)
        + varlong_bytes(record.headers.len() as i64)
        + headers_bytes
}
