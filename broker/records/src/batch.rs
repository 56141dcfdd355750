//! A record batch in memory and the iterator over its records.

use std::iter::FusedIterator;

use bytes::Bytes;

use crate::header::{ATTRIBUTES_AT, BATCH_OVERHEAD_BYTES};
use crate::record::parse_record;
use crate::varint::{Cursor, Source};
use crate::{BatchError, BatchHeader, Compression, Headers, Record, TimestampType, decompress};

/// How much a batch may make us allocate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that the records of one batch may decompress to.
    pub max_decompressed_bytes: usize,
}

impl Default for Limits {
    /// 128 MiB: over a hundred times the largest batch of the default settings.
    fn default() -> Self {
        Self {
            max_decompressed_bytes: 128 << 20,
        }
    }
}

/// One v2 record batch: its parsed header and all of its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The parsed header.
    pub header: BatchHeader,
    /// The batch with its header, exactly `header.size_bytes()` long.
    pub bytes: Bytes,
}

impl Batch {
    /// Takes the first batch off `bytes`; `None` if there is nothing left.
    /// Nothing is taken on an error.
    ///
    /// # Errors
    /// `Truncated` if the batch is cut (the last batch of a fetch answer may
    /// be), or any error of [`BatchHeader::parse`].
    pub fn split_first(bytes: &mut Bytes) -> Result<Option<Self>, BatchError> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let header = BatchHeader::parse(bytes)?;
        let needed_bytes = header.size_bytes();
        if bytes.len() < needed_bytes {
            return Err(BatchError::Truncated {
                needed_bytes,
                available_bytes: bytes.len(),
            });
        }
        Ok(Some(Self {
            header,
            bytes: bytes.split_to(needed_bytes),
        }))
    }

    /// Compares the checksum in the header with that of the bytes.
    ///
    /// # Errors
    /// `CrcMismatch`.
    pub fn verify_crc(&self) -> Result<(), BatchError> {
        verify_crc(&self.header, &self.bytes)
    }

    /// The records section as it lies in the batch, compressed or not.
    #[must_use]
    pub fn payload(&self) -> Bytes {
        self.bytes.slice(BATCH_OVERHEAD_BYTES..)
    }

    /// Iterates over the records. Uncompressed batches are read in place;
    /// compressed ones are decompressed into one buffer first, which keys and
    /// values then share. The CRC is not checked here.
    ///
    /// # Errors
    /// `Decompress`, `DecompressedTooLarge`.
    pub fn records(&self, limits: Limits) -> Result<Records, BatchError> {
        let header = self.header;
        let codec = header.compression();
        let payload = if header.record_count == 0 || codec == Compression::None {
            self.payload()
        } else {
            decompress::decompress(
                codec,
                &self.bytes[BATCH_OVERHEAD_BYTES..],
                limits.max_decompressed_bytes,
            )?
        };
        Ok(Records {
            header,
            payload,
            at: 0,
            index: 0,
            failed: false,
        })
    }
}

/// [`Batch::verify_crc`] for bytes that are not in a `Batch`. The slice must
/// be the whole batch.
pub(crate) fn verify_crc(header: &BatchHeader, bytes: &[u8]) -> Result<(), BatchError> {
    let computed = crate::crc32c(&bytes[ATTRIBUTES_AT..]);
    if computed == header.crc {
        Ok(())
    } else {
        Err(BatchError::CrcMismatch {
            stored: header.crc,
            computed,
        })
    }
}

/// Iterator over the records of one batch. It ends after its first error, and
/// an error is also what it gives when bytes are left after the last record.
#[derive(Debug, Clone)]
pub struct Records {
    header: BatchHeader,
    payload: Bytes,
    at: usize,
    index: u32,
    failed: bool,
}

impl Records {
    /// The decompressed records section.
    #[must_use]
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }
}

impl Iterator for Records {
    type Item = Result<Record, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        if self.index == self.header.record_count.max(0) as u32 {
            if self.header.record_count > 0 && self.at < self.payload.len() {
                self.failed = true;
                return Some(Err(BatchError::TrailingBytes {
                    count: self.header.record_count,
                }));
            }
            return None;
        }
        let mut cursor = Cursor::new(&self.payload, self.at);
        let raw = match parse_record(&mut cursor) {
            Ok(raw) => raw,
            Err(reason) => {
                self.failed = true;
                return Some(Err(BatchError::MalformedRecord {
                    index: self.index,
                    reason,
                }));
            }
        };
        self.at = cursor.position();
        self.index += 1;
        let timestamp_ms = match self.header.timestamp_type() {
            TimestampType::LogAppendTime => self.header.max_timestamp_ms,
            TimestampType::CreateTime => self
                .header
                .base_timestamp_ms
                .wrapping_add(raw.timestamp_delta_ms),
        };
        Some(Ok(Record {
            offset: self
                .header
                .base_offset
                .wrapping_add(i64::from(raw.offset_delta)),
            timestamp_ms,
            key: raw.key.map(|range| self.payload.slice(range)),
            value: raw.value.map(|range| self.payload.slice(range)),
            headers: Headers::new(self.payload.slice(raw.headers), raw.header_count),
        }))
    }
}

impl FusedIterator for Records {}
