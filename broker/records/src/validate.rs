//! What a leader checks and rewrites in a produced batch before it appends it.
//!
//! Pure and without locks: run it before taking the partition's. Uncompressed
//! records are walked in place; compressed ones are decompressed through one
//! small buffer and forgotten, unless the topic wants another codec. Nothing
//! is allocated per record. Anything of many records or with a rewrite can
//! take milliseconds: [`ProducePolicy::may_be_slow`] says when to leave the
//! network thread.

use bytes::Bytes;

use crate::batch::verify_crc;
use crate::compress::compress;
use crate::header::{
    ATTRIBUTES_AT, BATCH_OVERHEAD_BYTES, COMPRESSION_MASK, LENGTH_AT, LENGTH_PREFIX_BYTES,
    MAX_TIMESTAMP_AT, TIMESTAMP_TYPE_BIT,
};
use crate::record::parse_record;
use crate::varint::{Cursor, Source};
use crate::walk::Stream;
use crate::{
    Batch, BatchError, BatchHeader, Compression, Limits, NO_TIMESTAMP_MS, TimestampType,
    decompress, patch,
};
use crate::{InvalidBatch, MAX_RECORD_ERRORS, RecordError, RecordErrorReason};

/// A topic's `compression.type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TopicCompression {
    /// `producer`: as the batch came.
    #[default]
    Producer,
    /// This codec, whatever the batch came with.
    Codec {
        /// The codec; `None` is the setting's `uncompressed`.
        codec: Compression,
        /// `compression.gzip.level` or `compression.zstd.level`; `None` is
        /// the codec's default.
        level: Option<i32>,
    },
}

/// What a partition accepts. The names in parentheses are topic settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducePolicy {
    /// Largest batch in bytes, as it comes and as it is stored
    /// (`max.message.bytes`).
    pub max_message_bytes: usize,
    /// Whose timestamps count (`message.timestamp.type`).
    pub timestamp_type: TimestampType,
    /// How far in the past record timestamps may lie
    /// (`message.timestamp.before.max.ms`); `i64::MAX` for any.
    pub timestamp_before_max_ms: i64,
    /// How far in the future record timestamps may lie
    /// (`message.timestamp.after.max.ms`); `i64::MAX` for any.
    pub timestamp_after_max_ms: i64,
    /// Codec to store batches in (`compression.type`).
    pub compression: TopicCompression,
    /// Whether records need keys (`cleanup.policy` contains `compact`).
    pub compacted: bool,
    /// Whether the batch may be transactional.
    pub allow_transactional: bool,
    /// Whether the batch may be a control batch; never from a client.
    pub allow_control: bool,
    /// Whether the batch may be compressed with zstd: Produce version 7 or
    /// higher (KIP-110).
    pub allow_zstd: bool,
    /// Bytes that the batch may decompress to.
    pub limits: Limits,
}

impl Default for ProducePolicy {
    /// Kafka's default topic settings, for a client without transactions.
    fn default() -> Self {
        Self {
            max_message_bytes: 1_048_588,
            timestamp_type: TimestampType::CreateTime,
            timestamp_before_max_ms: i64::MAX,
            timestamp_after_max_ms: 3_600_000,
            compression: TopicCompression::Producer,
            compacted: false,
            allow_transactional: false,
            allow_control: false,
            allow_zstd: true,
            limits: Limits::default(),
        }
    }
}

impl ProducePolicy {
    /// Whether validating a batch of `bytes` may take long (decompression or
    /// compression of more than a few hundred microseconds), so that it should
    /// not run on a thread that serves connections. A cheap guess.
    #[must_use]
    pub fn may_be_slow(&self, bytes: &[u8]) -> bool {
        const SLOW_BYTES: usize = 64 * 1024;
        let Ok(header) = BatchHeader::parse(bytes) else {
            return false;
        };
        let codec = header.compression();
        let recompresses =
            matches!(self.compression, TopicCompression::Codec { codec: to, .. } if to != codec);
        bytes.len() > SLOW_BYTES && (recompresses || codec != Compression::None)
    }
}

/// A batch that may be appended, but for base offset and leader epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidatedBatch {
    /// The batch to append: the very bytes that came, unless `rewritten`.
    pub batch: Batch,
    /// Whether codec or timestamps were rewritten.
    pub rewritten: bool,
    /// Offset of the first record with the batch's maximum timestamp, minus
    /// the base offset.
    pub max_timestamp_offset_delta: i32,
    /// Bytes of the records before compression.
    pub uncompressed_bytes: usize,
}

/// Checks a batch that a producer sent, and rewrites it where the topic's
/// settings ask for it. `now_ms` is the leader's time in milliseconds since
/// 1970, which becomes the timestamp of topics with LogAppendTime.
///
/// # Errors
/// See [`InvalidBatch`].
pub fn validate_produce(
    mut bytes: Bytes,
    policy: &ProducePolicy,
    now_ms: i64,
) -> Result<ValidatedBatch, InvalidBatch> {
    let header = check_batch(&bytes, policy)?;
    bytes.truncate(header.size_bytes());
    let source_codec = header.compression();
    let (target_codec, level) = match policy.compression {
        TopicCompression::Producer => (source_codec, None),
        TopicCompression::Codec { codec, level } => (codec, level),
    };
    let payload = bytes.slice(BATCH_OVERHEAD_BYTES..);
    let mut check = RecordCheck::new(&header, policy, now_ms);
    let mut recompressed = None;
    if source_codec == target_codec {
        if source_codec == Compression::None {
            walk_slice(&payload, &mut check)?;
        } else {
            walk_compressed(source_codec, &payload, policy.limits, &mut check)?;
        }
    } else {
        let plain = if source_codec == Compression::None {
            payload
        } else {
            let limit_bytes = policy.limits.max_decompressed_bytes;
            decompress::decompress(source_codec, &payload, limit_bytes)?
        };
        walk_slice(&plain, &mut check)?;
        if check.errors.is_empty() {
            let compressed = compress(target_codec, level, &plain).map_err(|error| {
                InvalidBatch::Recompression {
                    codec: target_codec,
                    reason: error.to_string(),
                }
            })?;
            recompressed = Some(compressed);
        }
    }
    let summary = check.finish()?;

    let (max_timestamp_ms, max_timestamp_offset_delta) = match policy.timestamp_type {
        TimestampType::LogAppendTime => (now_ms, 0),
        TimestampType::CreateTime => (summary.max_timestamp_ms, summary.max_timestamp_offset_delta),
    };
    let same_timestamps = policy.timestamp_type == header.timestamp_type()
        && max_timestamp_ms == header.max_timestamp_ms;
    let rewritten = recompressed.is_some() || !same_timestamps;
    let batch = if rewritten {
        let stored = recompressed
            .as_deref()
            .unwrap_or(&bytes[BATCH_OVERHEAD_BYTES..]);
        rewrite(
            &header,
            &bytes,
            stored,
            target_codec,
            policy,
            max_timestamp_ms,
        )?
    } else {
        Batch { header, bytes }
    };
    Ok(ValidatedBatch {
        batch,
        rewritten,
        max_timestamp_offset_delta,
        uncompressed_bytes: summary.uncompressed_bytes,
    })
}

/// What can be said without looking at records.
fn check_batch(bytes: &Bytes, policy: &ProducePolicy) -> Result<BatchHeader, InvalidBatch> {
    if bytes.is_empty() {
        return Err(InvalidBatch::Missing);
    }
    let header = BatchHeader::parse_unchecked(bytes).map_err(|error| match error {
        BatchError::UnsupportedMagic {
            magic: magic @ 0..=1,
        } => InvalidBatch::OldFormat { magic },
        other => InvalidBatch::Unreadable(other),
    })?;
    let size_bytes = header.size_bytes();
    let batch = bytes.get(..size_bytes).ok_or(BatchError::Truncated {
        needed_bytes: size_bytes,
        available_bytes: bytes.len(),
    })?;
    if bytes.len() > size_bytes {
        return Err(InvalidBatch::MoreThanOneBatch {
            extra_bytes: bytes.len() - size_bytes,
        });
    }
    if size_bytes > policy.max_message_bytes {
        return Err(InvalidBatch::TooLarge {
            size_bytes,
            max_bytes: policy.max_message_bytes,
        });
    }
    // What was damaged on the way can be sent again, so the CRC comes before
    // everything that it covers.
    verify_crc(&header, batch)?;
    header.check()?;
    if header.base_offset != 0 {
        return Err(InvalidBatch::BaseOffset {
            base_offset: header.base_offset,
        });
    }
    if header.compression() == Compression::Zstd && !policy.allow_zstd {
        return Err(InvalidBatch::ZstdNotAllowed);
    }
    if header.record_count == 0 || header.record_count - 1 != header.last_offset_delta {
        return Err(InvalidBatch::Count {
            record_count: header.record_count,
            last_offset_delta: header.last_offset_delta,
        });
    }
    if header.is_control() && !policy.allow_control {
        return Err(InvalidBatch::Control);
    }
    if header.is_transactional() && !policy.allow_transactional {
        return Err(InvalidBatch::Transactional);
    }
    if header.has_producer_id() && header.base_sequence < 0 {
        return Err(InvalidBatch::Sequence {
            producer_id: header.producer_id,
            base_sequence: header.base_sequence,
        });
    }
    Ok(header)
}

struct RecordSummary {
    max_timestamp_ms: i64,
    max_timestamp_offset_delta: i32,
    uncompressed_bytes: usize,
}

/// The checks of single records, and what is learnt on the way.
struct RecordCheck<'a> {
    header: &'a BatchHeader,
    policy: &'a ProducePolicy,
    now_ms: i64,
    index: u32,
    summary: RecordSummary,
    errors: Vec<RecordError>,
    error_count: u32,
}

impl<'a> RecordCheck<'a> {
    fn new(header: &'a BatchHeader, policy: &'a ProducePolicy, now_ms: i64) -> Self {
        Self {
            header,
            policy,
            now_ms,
            index: 0,
            summary: RecordSummary {
                max_timestamp_ms: NO_TIMESTAMP_MS,
                max_timestamp_offset_delta: 0,
                uncompressed_bytes: 0,
            },
            errors: Vec::new(),
            error_count: 0,
        }
    }

    fn is_done(&self) -> bool {
        self.index == self.header.record_count as u32
    }

    fn record(
        &mut self,
        timestamp_delta_ms: i64,
        offset_delta: i32,
        has_key: bool,
    ) -> Result<(), InvalidBatch> {
        let index = self.index;
        if i64::from(offset_delta) != i64::from(index) {
            return Err(InvalidBatch::OffsetDelta {
                index,
                offset_delta,
            });
        }
        let timestamp_ms = self
            .header
            .base_timestamp_ms
            .wrapping_add(timestamp_delta_ms);
        if let Some(reason) = self.refusal(timestamp_ms, has_key) {
            self.error_count += 1;
            if self.errors.len() < MAX_RECORD_ERRORS {
                self.errors.push(RecordError {
                    batch_index: index,
                    reason,
                });
            }
        }
        if timestamp_ms > self.summary.max_timestamp_ms {
            self.summary.max_timestamp_ms = timestamp_ms;
            self.summary.max_timestamp_offset_delta = offset_delta;
        }
        self.index += 1;
        Ok(())
    }

    fn refusal(&self, timestamp_ms: i64, has_key: bool) -> Option<RecordErrorReason> {
        let policy = self.policy;
        if policy.compacted && !has_key {
            return Some(RecordErrorReason::NullKey);
        }
        if self.header.timestamp_type() == TimestampType::LogAppendTime {
            return Some(RecordErrorReason::LogAppendTime);
        }
        if policy.timestamp_type == TimestampType::LogAppendTime || timestamp_ms == NO_TIMESTAMP_MS
        {
            return None;
        }
        let min_ms = self.now_ms.saturating_sub(policy.timestamp_before_max_ms);
        let max_ms = self.now_ms.saturating_add(policy.timestamp_after_max_ms);
        let in_range = (policy.timestamp_before_max_ms == i64::MAX || timestamp_ms >= min_ms)
            && timestamp_ms <= max_ms;
        (!in_range).then_some(RecordErrorReason::Timestamp {
            timestamp_ms,
            min_ms,
            max_ms,
        })
    }

    fn finish(self) -> Result<RecordSummary, InvalidBatch> {
        if self.error_count > 0 {
            return Err(InvalidBatch::Records {
                errors: self.errors,
                total: self.error_count,
            });
        }
        Ok(self.summary)
    }
}

fn walk_slice(payload: &[u8], check: &mut RecordCheck<'_>) -> Result<(), InvalidBatch> {
    let mut cursor = Cursor::new(payload, 0);
    while !check.is_done() {
        let record = parse_record(&mut cursor).map_err(|reason| BatchError::MalformedRecord {
            index: check.index,
            reason,
        })?;
        check.record(
            record.timestamp_delta_ms,
            record.offset_delta,
            record.key.is_some(),
        )?;
    }
    if cursor.position() != payload.len() {
        return Err(trailing(check));
    }
    check.summary.uncompressed_bytes = payload.len();
    Ok(())
}

fn walk_compressed(
    codec: Compression,
    payload: &[u8],
    limits: Limits,
    check: &mut RecordCheck<'_>,
) -> Result<(), InvalidBatch> {
    let mut stream = Stream::new(codec, payload, limits.max_decompressed_bytes)?;
    while !check.is_done() {
        let record = match parse_record(&mut stream) {
            Ok(record) => record,
            Err(error) => return Err(stream.batch_error(error, check.index).into()),
        };
        check.record(
            record.timestamp_delta_ms,
            record.offset_delta,
            record.key.is_some(),
        )?;
    }
    check.summary.uncompressed_bytes = stream.position();
    match stream.is_at_end() {
        Ok(true) => Ok(()),
        Ok(false) => Err(trailing(check)),
        Err(error) => Err(stream.batch_error(error, check.index).into()),
    }
}

fn trailing(check: &RecordCheck<'_>) -> InvalidBatch {
    InvalidBatch::Unreadable(BatchError::TrailingBytes {
        count: check.header.record_count,
    })
}

/// A copy of the batch with another payload, codec and timestamp. Offset and
/// timestamp deltas of the records stay as they are: so does their encoding.
fn rewrite(
    header: &BatchHeader,
    original: &[u8],
    payload: &[u8],
    codec: Compression,
    policy: &ProducePolicy,
    max_timestamp_ms: i64,
) -> Result<Batch, InvalidBatch> {
    let size_bytes = BATCH_OVERHEAD_BYTES + payload.len();
    let too_large = InvalidBatch::TooLarge {
        size_bytes,
        max_bytes: policy.max_message_bytes,
    };
    if size_bytes > policy.max_message_bytes {
        return Err(too_large);
    }
    let length = i32::try_from(size_bytes - LENGTH_PREFIX_BYTES).map_err(|_| too_large)?;
    let mut attributes =
        (header.attributes & !COMPRESSION_MASK & !TIMESTAMP_TYPE_BIT) | i16::from(codec.id());
    if policy.timestamp_type == TimestampType::LogAppendTime {
        attributes |= TIMESTAMP_TYPE_BIT;
    }
    let mut out = Vec::with_capacity(size_bytes);
    out.extend_from_slice(&original[..BATCH_OVERHEAD_BYTES]);
    out.extend_from_slice(payload);
    out[LENGTH_AT..LENGTH_AT + 4].copy_from_slice(&length.to_be_bytes());
    out[ATTRIBUTES_AT..ATTRIBUTES_AT + 2].copy_from_slice(&attributes.to_be_bytes());
    out[MAX_TIMESTAMP_AT..MAX_TIMESTAMP_AT + 8].copy_from_slice(&max_timestamp_ms.to_be_bytes());
    patch::recompute_crc(&mut out)?;
    Ok(Batch {
        header: BatchHeader::parse(&out)?,
        bytes: Bytes::from(out),
    })
}
