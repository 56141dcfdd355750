//! One record of a batch and its headers, as slices of the batch.

use std::ops::Range;

use bytes::Bytes;

use crate::varint::{Cursor, Source};

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
        let mut cursor = Cursor::new(&self.bytes, self.at);
        // The bytes were walked when the record was parsed: no error is left.
        let (key, value) = header_ranges(&mut cursor).ok()?;
        self.at = cursor.position();
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
fn nullable_range<S: Source>(source: &mut S) -> Result<Option<Range<usize>>, S::Error> {
    let len = source.varint()?;
    let Ok(len) = usize::try_from(len) else {
        return Ok(None);
    };
    let start = source.position();
    source.skip(len)?;
    Ok(Some(start..source.position()))
}

type HeaderRanges = (Range<usize>, Option<Range<usize>>);

fn header_ranges<S: Source>(source: &mut S) -> Result<HeaderRanges, S::Error> {
    let key = nullable_range(source)?.ok_or("a header key is null")?;
    let value = nullable_range(source)?;
    Ok((key, value))
}

/// Parses the next record and leaves the source behind it.
pub(crate) fn parse_record<S: Source>(source: &mut S) -> Result<RawRecord, S::Error> {
    source.set_end(usize::MAX);
    let len = usize::try_from(source.varint()?).map_err(|_| "its length is negative")?;
    // A record may not reach into the next one.
    let end = source.position().saturating_add(len);
    source.set_end(end);
    // The attributes of single records are unused; whatever they say is kept.
    source.u8()?;
    let timestamp_delta_ms = source.varlong()?;
    let offset_delta = source.varint()?;
    let key = nullable_range(source)?;
    let value = nullable_range(source)?;
    let header_count =
        u32::try_from(source.varint()?).map_err(|_| "its number of headers is negative")?;
    let headers_at = source.position();
    // Each header takes at least two bytes, so a lie ends the loop early.
    for _ in 0..header_count {
        header_ranges(source)?;
    }
    if source.position() != end {
        return Err("its length is larger than its contents".into());
    }
    Ok(RawRecord {
        timestamp_delta_ms,
        offset_delta,
        key,
        value,
        headers: headers_at..end,
        header_count,
    })
}
