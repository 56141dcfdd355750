//! The few messages that the raw client speaks: Produce 7, Fetch 11, ListOffsets 2, and record
//! batches. Pure. None of these versions has tagged fields.

use std::collections::BTreeMap;

/// API keys.
pub const PRODUCE: (i16, i16) = (0, 7);
/// Key and version of Fetch.
pub const FETCH: (i16, i16) = (1, 11);
/// Key and version of ListOffsets.
pub const LIST_OFFSETS: (i16, i16) = (2, 2);

/// Offsets, batches or anything else by topic and partition.
pub type ByPartition<T> = BTreeMap<String, BTreeMap<i32, T>>;

/// Appends big-endian fields.
#[derive(Debug, Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    fn put(&mut self, bytes: &[u8]) -> &mut Writer {
        self.0.extend_from_slice(bytes);
        self
    }

    fn i8(&mut self, v: i8) -> &mut Writer {
        self.put(&v.to_be_bytes())
    }

    fn i16(&mut self, v: i16) -> &mut Writer {
        self.put(&v.to_be_bytes())
    }

    fn i32(&mut self, v: i32) -> &mut Writer {
        self.put(&v.to_be_bytes())
    }

    fn i64(&mut self, v: i64) -> &mut Writer {
        self.put(&v.to_be_bytes())
    }

    fn string(&mut self, text: &str) -> &mut Writer {
        self.i16(text.len() as i16).put(text.as_bytes())
    }

    fn varint(&mut self, v: i64) -> &mut Writer {
        let mut rest = ((v << 1) ^ (v >> 63)) as u64;
        while rest >= 0x80 {
            self.0.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.0.push(rest as u8);
        self
    }

    /// An array of topics, each with an array of partitions.
    fn topics<T>(&mut self, topics: &ByPartition<T>, each: impl Fn(&mut Writer, i32, &T)) {
        self.i32(topics.len() as i32);
        for (name, partitions) in topics {
            self.string(name).i32(partitions.len() as i32);
            for (index, value) in partitions {
                each(self, *index, value);
            }
        }
    }
}

/// Reads big-endian fields; `None` at the end.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn i8(&mut self) -> Option<i8> {
        self.array().map(i8::from_be_bytes)
    }

    fn i16(&mut self) -> Option<i16> {
        self.array().map(i16::from_be_bytes)
    }

    fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_be_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_be_bytes)
    }

    fn string(&mut self) -> Option<String> {
        let n = usize::try_from(self.i16()?).ok()?;
        String::from_utf8(self.take(n)?.to_vec()).ok()
    }

    fn varint(&mut self) -> Option<i64> {
        let (mut value, mut shift) = (0_u64, 0);
        loop {
            let byte = self.array::<1>()?[0];
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some((value >> 1) as i64 ^ -((value & 1) as i64));
            }
            shift += 7;
        }
    }

    /// An array of topics, each with an array of partitions.
    fn topics<T>(
        &mut self,
        mut each: impl FnMut(&mut Reader<'a>) -> Option<(i32, T)>,
    ) -> Option<ByPartition<T>> {
        let mut all = ByPartition::new();
        for _ in 0..self.i32()? {
            let topic = all.entry(self.string()?).or_default();
            for _ in 0..self.i32()? {
                let (index, value) = each(self)?;
                topic.insert(index, value);
            }
        }
        Some(all)
    }
}

/// A whole request with its length in front.
pub fn frame((key, version): (i16, i16), correlation: i32, body: &[u8]) -> Vec<u8> {
    let mut out = Writer::default();
    out.i32(0).i16(key).i16(version).i32(correlation);
    out.string("bench").put(body);
    let length = (out.0.len() as i32 - 4).to_be_bytes();
    out.0[..4].copy_from_slice(&length);
    out.0
}

/// The body of a Produce request with acks=all: one batch per partition.
pub fn produce(batches: &ByPartition<Vec<u8>>, timeout_ms: i32) -> Vec<u8> {
    let mut out = Writer::default();
    out.i16(-1).i16(-1).i32(timeout_ms);
    out.topics(batches, |out, index, batch| {
        out.i32(index).i32(batch.len() as i32).put(batch);
    });
    out.0
}

/// Error code and base offset of every partition.
pub fn produced(body: &[u8]) -> Option<ByPartition<(i16, i64)>> {
    Reader(body).topics(|r| {
        let (index, error, base) = (r.i32()?, r.i16()?, r.i64()?);
        r.take(16)?;
        Some((index, (error, base)))
    })
}

/// The body of a ListOffsets request for log ends.
pub fn list_ends(partitions: &ByPartition<()>) -> Vec<u8> {
    let mut out = Writer::default();
    out.i32(-1).i8(0);
    out.topics(partitions, |out, index, ()| {
        out.i32(index).i64(-1);
    });
    out.0
}

/// Error code and offset of every partition.
pub fn listed(body: &[u8]) -> Option<ByPartition<(i16, i64)>> {
    let mut r = Reader(body);
    r.i32()?;
    r.topics(|r| {
        let (index, error, _timestamp) = (r.i32()?, r.i16()?, r.i64()?);
        Some((index, (error, r.i64()?)))
    })
}

/// The body of a Fetch request: the Java consumer's defaults. In a session (`session_epoch` > 0)
/// only partitions whose offset changed are named.
pub fn fetch(session_id: i32, session_epoch: i32, offsets: &ByPartition<i64>) -> Vec<u8> {
    let mut out = Writer::default();
    out.i32(-1).i32(500).i32(1).i32(52_428_800).i8(0);
    out.i32(session_id).i32(session_epoch);
    out.topics(offsets, |out, index, offset| {
        out.i32(index).i32(-1).i64(*offset).i64(-1).i32(1_048_576);
    });
    out.i32(0).string("");
    out.0
}

/// What a fetch brought for a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedPartition<'a> {
    /// Error code.
    pub error: i16,
    /// Record batches.
    pub records: &'a [u8],
}

/// What a fetch brought.
#[derive(Debug)]
pub struct Fetched<'a> {
    /// Error code of the whole request.
    pub error: i16,
    /// Session that the broker keeps, 0 for none.
    pub session_id: i32,
    /// Partitions with something to tell.
    pub partitions: ByPartition<FetchedPartition<'a>>,
}

/// Reads a Fetch response.
pub fn fetched(body: &[u8]) -> Option<Fetched<'_>> {
    let mut r = Reader(body);
    r.i32()?;
    let (error, session_id) = (r.i16()?, r.i32()?);
    let partitions = r.topics(|r| {
        let (index, error) = (r.i32()?, r.i16()?);
        r.take(24)?;
        for _ in 0..r.i32()? {
            r.take(16)?;
        }
        r.i32()?;
        let records = match usize::try_from(r.i32()?) {
            Ok(n) => r.take(n)?,
            Err(_) => &[],
        };
        Some((index, FetchedPartition { error, records }))
    })?;
    Some(Fetched {
        error,
        session_id,
        partitions,
    })
}

/// An uncompressed record batch of these values.
pub fn batch(values: &[&[u8]], timestamp_ms: i64) -> Vec<u8> {
    let mut after_crc = Writer::default();
    after_crc.i16(0).i32(values.len() as i32 - 1);
    after_crc.i64(timestamp_ms).i64(timestamp_ms);
    after_crc.i64(-1).i16(-1).i32(-1).i32(values.len() as i32);
    for (i, value) in values.iter().enumerate() {
        let mut record = Writer::default();
        record.i8(0).varint(0).varint(i as i64).varint(-1);
        record.varint(value.len() as i64).put(value).varint(0);
        after_crc.varint(record.0.len() as i64).put(&record.0);
    }
    let mut out = Writer::default();
    out.i64(0).i32(after_crc.0.len() as i32 + 9).i32(-1).i8(2);
    out.put(&crc32c(&after_crc.0).to_be_bytes())
        .put(&after_crc.0);
    out.0
}

/// Calls `each` with the values of all records at or after `from`; returns the next offset.
/// `None` when something is not an uncompressed batch of version 2.
pub fn values(records: &[u8], from: i64, mut each: impl FnMut(&[u8])) -> Option<i64> {
    let (mut r, mut next) = (Reader(records), from);
    while r.0.len() >= 12 {
        let base = r.i64()?;
        let length = usize::try_from(r.i32()?).ok()?;
        // The last batch of an answer may be cut off.
        let Some(body) = r.take(length) else { break };
        let mut b = Reader(body);
        b.i32()?;
        if b.i8()? != 2 {
            return None;
        }
        b.i32()?;
        if b.i16()? & 7 != 0 {
            return None;
        }
        let last = base + i64::from(b.i32()?);
        b.take(30)?;
        for _ in 0..b.i32()? {
            let length = usize::try_from(b.varint()?).ok()?;
            let mut record = Reader(b.take(length)?);
            record.i8()?;
            record.varint()?;
            let offset = base + record.varint()?;
            if let Ok(key) = usize::try_from(record.varint()?) {
                record.take(key)?;
            }
            let length = usize::try_from(record.varint()?).ok()?;
            let value = record.take(length)?;
            if offset >= from {
                each(value);
            }
        }
        next = next.max(last + 1);
    }
    Some(next)
}

/// CRC-32C, a table a byte: the client's few batches are not what is measured.
fn crc32c(data: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut i = 0;
        while i < 256 {
            let mut crc = i as u32;
            let mut bit = 0;
            while bit < 8 {
                crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
                bit += 1;
            }
            table[i] = crc;
            i += 1;
        }
        table
    };
    !data.iter().fold(!0, |crc: u32, byte| {
        (crc >> 8) ^ TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnoli() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn varints_survive() {
        for v in [0, -1, 1, 63, 64, -65, 1 << 40, i64::MIN, i64::MAX] {
            let mut w = Writer::default();
            w.varint(v);
            assert_eq!(Reader(&w.0).varint(), Some(v));
        }
        assert_eq!(Reader(&[0xff; 20]).varint(), None, "no end");
    }

    #[test]
    fn a_batch_can_be_read_from_its_middle_and_when_cut_off() {
        let mut log = batch(&[b"a", b"bc", b""], 7);
        let whole = log.len();
        let mut second = batch(&[b"d"], 8);
        second[..8].copy_from_slice(&3_i64.to_be_bytes());
        log.extend(second);
        let read = |log: &[u8], from| {
            let mut seen = Vec::new();
            let next = values(log, from, |v| seen.push(v.to_vec()));
            (next, seen.concat())
        };
        assert_eq!(read(&log, 0), (Some(4), b"abcd".to_vec()));
        assert_eq!(read(&log, 1), (Some(4), b"bcd".to_vec()));
        assert_eq!(read(&log[..whole + 20], 0), (Some(3), b"abc".to_vec()));
        log[16] = 1;
        assert_eq!(read(&log, 0).0, None, "an old version");
    }

    #[test]
    fn answers_that_end_early_are_no_answers() {
        let mut w = Writer::default();
        w.i32(0).i16(0).i32(9).i32(1).string("t").i32(1);
        w.i32(3).i16(0).i64(5).i64(5).i64(0).i32(-1).i32(-1);
        w.i32(2).put(b"xy");
        let whole = fetched(&w.0).unwrap();
        assert_eq!((whole.error, whole.session_id), (0, 9));
        assert_eq!(whole.partitions["t"][&3].records, b"xy");
        for cut in 0..w.0.len() {
            assert!(fetched(&w.0[..cut]).is_none(), "{cut}");
        }
    }
}
