//! Zigzag varints, the integers of records.

/// The longest encoding of an `i32`.
pub(crate) const MAX_VARINT_BYTES: usize = 5;
/// The longest encoding of an `i64`.
pub(crate) const MAX_VARLONG_BYTES: usize = 10;

/// A read position in a slice.
pub(crate) struct Cursor<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) at: usize,
}

pub(crate) const CUT: &str = "it is cut off";
pub(crate) const VARINT_TOO_LONG: &str = "a variable-length integer is too long";

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub(crate) fn u8(&mut self) -> Result<u8, &'static str> {
        let byte = *self.bytes.get(self.at).ok_or(CUT)?;
        self.at += 1;
        Ok(byte)
    }

    pub(crate) fn skip(&mut self, len: usize) -> Result<(), &'static str> {
        if len > self.remaining() {
            return Err(CUT);
        }
        self.at += len;
        Ok(())
    }

    pub(crate) fn varint(&mut self) -> Result<i32, &'static str> {
        let mut value: u32 = 0;
        for index in 0..MAX_VARINT_BYTES {
            let byte = self.u8()?;
            value |= u32::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                return Ok(unzigzag32(value));
            }
        }
        Err(VARINT_TOO_LONG)
    }

    pub(crate) fn varlong(&mut self) -> Result<i64, &'static str> {
        let mut value: u64 = 0;
        for index in 0..MAX_VARLONG_BYTES {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                return Ok(unzigzag64(value));
            }
        }
        Err(VARINT_TOO_LONG)
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
