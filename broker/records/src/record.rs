//! One record of a batch and its headers, as slices of the batch.

use std::ops::Range;

use bytes::Bytes;

use crate::varint::{CUT, Cursor};

/// A record, its key, value and headers slices of the batch it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Offset in the partition.
    pub offset: i64,
    /// Milliseconds since 1970: the producer's, or the append time of the
    /// batch if that is its timestamp type.
    pub timestamp_ms: i64,
    /// Key, `None` if null.
    pub key: Option<Bytes>,
    /// Value, `None` if null (a tombstone on compacted topics).
    pub value: Option<Bytes>,
    /// Headers in order, with duplicate keys.
    pub headers: Headers,
}

/// A header of a record (KIP-82).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordHeader {
    /// Key; UTF-8 by agreement, any bytes in fact.
    pub key: Bytes,
    /// Value, `None` if null.
    pub value: Option<Bytes>,
}

/// The headers of a record, checked when the record was read and decoded when
/// they are asked for: a record without interest in them costs nothing, and a
/// record of thousands of them no more memory than its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Headers {
    bytes: Bytes,
    count: u32,
}

impl Headers {
    pub(crate) fn new(bytes: Bytes, count: u32) -> Self {
        Self { bytes, count }
    }

    /// Number of headers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The headers in the order they were written.
    #[must_use]
    pub fn iter(&self) -> HeadersIter {
        HeadersIter {
            bytes: self.bytes.clone(),
            at: 0,
            remaining: self.count,
        }
    }
}

impl IntoIterator for &Headers {
    type Item = RecordHeader;
    type IntoIter = HeadersIter;

    fn into_iter(self) -> HeadersIter {
        self.iter()
    }
}

/// Iterator of [`Headers::iter`].
#[derive(Debug, Clone)]
pub struct HeadersIter {
    bytes: Bytes,
    at: usize,
    remaining: u32,
}

impl Iterator for HeadersIter {
    type Item = RecordHeader;

    fn next(&mut self) -> Option<RecordHeader> {
        if self.remaining == 0 {
            return None;
        }
        let mut cursor = Cursor {
            bytes: &self.bytes,
            at: self.at,
        };
        // The bytes were walked when the record was parsed: no error is left.
        let (key, value) = header_ranges(&mut cursor).ok()?;
        self.at = cursor.at;
        self.remaining -= 1;
        Some(RecordHeader {
            key: self.bytes.slice(key),
            value: value.map(|range| self.bytes.slice(range)),
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.remaining as usize, Some(self.remaining as usize))
    }
}

impl ExactSizeIterator for HeadersIter {}

/// Where the parts of a record lie in the slice it was parsed from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawRecord {
    pub(crate) timestamp_delta_ms: i64,
    pub(crate) offset_delta: i32,
    pub(crate) key: Option<Range<usize>>,
    pub(crate) value: Option<Range<usize>>,
    pub(crate) headers: Range<usize>,
    pub(crate) header_count: u32,
}

/// A range with its length in front; null if that is negative.
fn nullable_range(cursor: &mut Cursor<'_>) -> Result<Option<Range<usize>>, &'static str> {
    let len = cursor.varint()?;
    let Ok(len) = usize::try_from(len) else {
        return Ok(None);
    };
    let start = cursor.at;
    cursor.skip(len)?;
    Ok(Some(start..cursor.at))
}

type HeaderRanges = (Range<usize>, Option<Range<usize>>);

fn header_ranges(cursor: &mut Cursor<'_>) -> Result<HeaderRanges, &'static str> {
    let key = nullable_range(cursor)?.ok_or("a header key is null")?;
    let value = nullable_range(cursor)?;
    Ok((key, value))
}

/// Parses the record at the cursor and moves the cursor behind it.
pub(crate) fn parse_record(cursor: &mut Cursor<'_>) -> Result<RawRecord, &'static str> {
    let len = usize::try_from(cursor.varint()?).map_err(|_| "its length is negative")?;
    if len > cursor.remaining() {
        return Err(CUT);
    }
    let end = cursor.at + len;
    // A record may not reach into the next one.
    let mut body = Cursor {
        bytes: &cursor.bytes[..end],
        at: cursor.at,
    };
    // The attributes of single records are unused; whatever they say is kept.
    body.u8()?;
    let timestamp_delta_ms = body.varlong()?;
    let offset_delta = body.varint()?;
    let key = nullable_range(&mut body)?;
    let value = nullable_range(&mut body)?;
    let header_count =
        u32::try_from(body.varint()?).map_err(|_| "its number of headers is negative")?;
    let headers_at = body.at;
    // Each header takes at least two bytes, so a lie ends the loop early.
    for _ in 0..header_count {
        header_ranges(&mut body)?;
    }
    if body.at != end {
        return Err("its length is larger than its contents");
    }
    cursor.at = end;
    Ok(RawRecord {
        timestamp_delta_ms,
        offset_delta,
        key,
        value,
        headers: headers_at..end,
        header_count,
    })
}
