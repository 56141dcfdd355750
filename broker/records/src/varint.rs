//! Zigzag varints, the integers of records.

/// The longest encoding of an `i32`.
pub(crate) const MAX_VARINT_BYTES: usize = 5;
/// The longest encoding of an `i64`.
pub(crate) const MAX_VARLONG_BYTES: usize = 10;

pub(crate) const CUT: &str = "it is cut off";
pub(crate) const VARINT_TOO_LONG: &str = "a variable-length integer is too long";

/// Bytes in order, from memory or from a decompressor. Positions count from
/// the start of the records section.
pub(crate) trait Source {
    /// What can go wrong; a malformed record always can.
    type Error: From<&'static str>;

    /// Position of the next byte.
    fn position(&self) -> usize;
    /// Makes reading beyond `end` an error.
    fn set_end(&mut self, end: usize);
    /// Takes one byte.
    fn u8(&mut self) -> Result<u8, Self::Error>;
    /// Passes over `len` bytes.
    fn skip(&mut self, len: usize) -> Result<(), Self::Error>;

    /// Takes a zigzag varint of at most five bytes.
    fn varint(&mut self) -> Result<i32, Self::Error> {
        let mut value: u32 = 0;
        for index in 0..MAX_VARINT_BYTES {
            let byte = self.u8()?;
            value |= u32::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                return Ok(unzigzag32(value));
            }
        }
        Err(VARINT_TOO_LONG.into())
    }

    /// Takes a zigzag varint of at most ten bytes.
    fn varlong(&mut self) -> Result<i64, Self::Error> {
        let mut value: u64 = 0;
        for index in 0..MAX_VARLONG_BYTES {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                return Ok(unzigzag64(value));
            }
        }
        Err(VARINT_TOO_LONG.into())
    }
}

/// A read position in a slice.
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Cursor<'a> {
    /// Starts at `at`, which must not be beyond the end.
    pub(crate) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self {
            bytes,
            at,
            end: bytes.len(),
        }
    }
}

impl Source for Cursor<'_> {
    type Error = &'static str;

    fn position(&self) -> usize {
        self.at
    }

    fn set_end(&mut self, end: usize) {
        self.end = end.min(self.bytes.len());
    }

    #[inline]
    fn u8(&mut self) -> Result<u8, &'static str> {
        if self.at >= self.end {
            return Err(CUT);
        }
        let byte = self.bytes[self.at];
        self.at += 1;
        Ok(byte)
    }

    #[inline]
    fn skip(&mut self, len: usize) -> Result<(), &'static str> {
        if len > self.end.saturating_sub(self.at) {
            return Err(CUT);
        }
        self.at += len;
        Ok(())
    }
}

pub(crate) fn unzigzag32(value: u32) -> i32 {
    ((value >> 1) as i32) ^ -((value & 1) as i32)
}

pub(crate) fn unzigzag64(value: u64) -> i64 {
    ((value >> 1) as i64) ^ -((value & 1) as i64)
}

fn zigzag64(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// Appends `value`; an `i32` and the same number as `i64` encode alike.
pub(crate) fn put_varlong(out: &mut Vec<u8>, value: i64) {
    let mut rest = zigzag64(value);
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Bytes that [`put_varlong`] appends.
pub(crate) fn varlong_bytes(value: i64) -> usize {
    let bits = 64 - zigzag64(value).leading_zeros() as usize;
    bits.div_ceil(7).max(1)
}
