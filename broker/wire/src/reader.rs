//! Reads the protocol's primitive types from untrusted bytes.

use crate::{DecodeError, Records, TaggedFields, Uuid};
use bytes::Bytes;

/// Memory that a message may take beyond its share of the input.
const BUDGET_FLOOR_BYTES: usize = 256 * 1024;
/// Memory that a message may take for each byte of the input. Real messages stay below 5.
const BUDGET_PER_INPUT_BYTE: usize = 10;

/// A position in a message's bytes, and the memory that the message may still take.
///
/// Every count and length is checked against the bytes left before anything is allocated, and
/// every allocation is charged to a budget in proportion to the input: an input of many empty
/// elements is refused, not expanded. Byte fields are slices of the input, not copies.
#[derive(Debug)]
pub struct Reader {
    input: Bytes,
    at: usize,
    end: usize,
    budget: usize,
    budget_total: usize,
}

impl Reader {
    /// A reader at the start of `input`.
    pub fn new(input: Bytes) -> Reader {
        let budget = input.len().saturating_mul(BUDGET_PER_INPUT_BYTE) + BUDGET_FLOOR_BYTES;
        Reader {
            at: 0,
            end: input.len(),
            input,
            budget,
            budget_total: budget,
        }
    }

    /// Bytes not read yet.
    pub fn remaining(&self) -> usize {
        self.end - self.at
    }

    /// The bytes not read yet, as a slice of the input.
    pub fn rest(&self) -> Bytes {
        self.input.slice(self.at..self.end)
    }

    /// Checks that everything was read.
    pub fn finish(&self) -> Result<(), DecodeError> {
        match self.remaining() {
            0 => Ok(()),
            left => Err(DecodeError::Trailing { left }),
        }
    }

    fn charge(&mut self, bytes: usize) -> Result<(), DecodeError> {
        match self.budget.checked_sub(bytes) {
            Some(left) => {
                self.budget = left;
                Ok(())
            }
            None => Err(DecodeError::Expansion {
                budget: self.budget_total,
            }),
        }
    }

    fn skip(&mut self, count: usize) -> Result<usize, DecodeError> {
        if count > self.remaining() {
            return Err(DecodeError::Truncated {
                at: self.at,
                wanted: count - self.remaining(),
            });
        }
        let at = self.at;
        self.at += count;
        Ok(at)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let at = self.skip(N)?;
        let mut value = [0; N];
        value.copy_from_slice(&self.input[at..at + N]);
        Ok(value)
    }

    /// One byte; anything but zero is true.
    pub fn bool(&mut self) -> Result<bool, DecodeError> {
        Ok(self.fixed::<1>()? != [0])
    }

    /// A signed byte.
    pub fn i8(&mut self) -> Result<i8, DecodeError> {
        self.fixed().map(i8::from_be_bytes)
    }

    /// A big-endian 16-bit integer.
    pub fn i16(&mut self) -> Result<i16, DecodeError> {
        self.fixed().map(i16::from_be_bytes)
    }

    /// A big-endian unsigned 16-bit integer.
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        self.fixed().map(u16::from_be_bytes)
    }

    /// A big-endian 32-bit integer.
    pub fn i32(&mut self) -> Result<i32, DecodeError> {
        self.fixed().map(i32::from_be_bytes)
    }

    /// A big-endian unsigned 32-bit integer.
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.fixed().map(u32::from_be_bytes)
    }

    /// A big-endian 64-bit integer.
    pub fn i64(&mut self) -> Result<i64, DecodeError> {
        self.fixed().map(i64::from_be_bytes)
    }

    /// A big-endian 64-bit float.
    pub fn f64(&mut self) -> Result<f64, DecodeError> {
        self.fixed().map(f64::from_be_bytes)
    }

    /// Sixteen bytes.
    pub fn uuid(&mut self) -> Result<Uuid, DecodeError> {
        self.fixed().map(Uuid)
    }

    /// An unsigned integer of 7 bits a byte, at most 32 bits.
    pub fn unsigned_varint(&mut self) -> Result<u32, DecodeError> {
        let start = self.at;
        let mut value = 0u32;
        for shift in (0..35).step_by(7) {
            let [byte] = self.fixed::<1>()?;
            if shift == 28 && byte > 0x0f {
                break;
            }
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Varint { at: start })
    }

    /// A length prefix: `None` for null. At most what is left of the input.
    fn length(&mut self, compact: bool, wide: bool) -> Result<Option<usize>, DecodeError> {
        let at = self.at;
        let length = if compact {
            i64::from(self.unsigned_varint()?) - 1
        } else if wide {
            i64::from(self.i32()?)
        } else {
            i64::from(self.i16()?)
        };
        let left = self.remaining();
        match usize::try_from(length) {
            Ok(length) if length <= left => Ok(Some(length)),
            Err(_) if length == -1 => Ok(None),
            _ => Err(DecodeError::Length { at, length, left }),
        }
    }

    fn required<T>(&self, value: Option<T>, may_be_null: bool) -> Result<Option<T>, DecodeError> {
        match value {
            None if !may_be_null => Err(DecodeError::Null { at: self.at }),
            value => Ok(value),
        }
    }

    fn present<T>(&self, value: Option<T>) -> Result<T, DecodeError> {
        value.ok_or(DecodeError::Null { at: self.at })
    }

    /// A string, null where this version allows it.
    pub fn nullable_string(
        &mut self,
        compact: bool,
        may_be_null: bool,
    ) -> Result<Option<String>, DecodeError> {
        let Some(length) = self.length(compact, false)? else {
            return self.required(None, may_be_null);
        };
        self.charge(length)?;
        let at = self.skip(length)?;
        match std::str::from_utf8(&self.input[at..at + length]) {
            Ok(text) => Ok(Some(text.to_owned())),
            Err(_) => Err(DecodeError::Utf8 { at }),
        }
    }

    /// A string.
    pub fn string(&mut self, compact: bool) -> Result<String, DecodeError> {
        let value = self.nullable_string(compact, false)?;
        self.present(value)
    }

    /// A slice of the input, null where this version allows it.
    pub fn nullable_bytes(
        &mut self,
        compact: bool,
        may_be_null: bool,
    ) -> Result<Option<Bytes>, DecodeError> {
        let Some(length) = self.length(compact, true)? else {
            return self.required(None, may_be_null);
        };
        let at = self.skip(length)?;
        Ok(Some(self.input.slice(at..at + length)))
    }

    /// A slice of the input.
    pub fn bytes(&mut self, compact: bool) -> Result<Bytes, DecodeError> {
        let value = self.nullable_bytes(compact, false)?;
        self.present(value)
    }

    /// Records behind a length; they are always here.
    pub fn records(&mut self, compact: bool) -> Result<Records, DecodeError> {
        self.bytes(compact).map(Records::Here)
    }

    /// Records behind a length, or null.
    pub fn nullable_records(
        &mut self,
        compact: bool,
        may_be_null: bool,
    ) -> Result<Option<Records>, DecodeError> {
        let bytes = self.nullable_bytes(compact, may_be_null)?;
        Ok(bytes.map(Records::Here))
    }

    /// An array, null where this version allows it.
    pub fn nullable_array<T>(
        &mut self,
        compact: bool,
        may_be_null: bool,
        mut element: impl FnMut(&mut Reader) -> Result<T, DecodeError>,
    ) -> Result<Option<Vec<T>>, DecodeError> {
        // Every element takes at least a byte, so the count is at most what is left.
        let Some(count) = self.length(compact, true)? else {
            return self.required(None, may_be_null);
        };
        self.charge(count.saturating_mul(size_of::<T>()))?;
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(element(self)?);
        }
        Ok(Some(items))
    }

    /// An array.
    pub fn array<T>(
        &mut self,
        compact: bool,
        element: impl FnMut(&mut Reader) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let value = self.nullable_array(compact, false, element)?;
        self.present(value)
    }

    /// A struct behind a presence byte where this version allows null, and bare elsewhere.
    pub fn nullable_struct<T>(
        &mut self,
        may_be_null: bool,
        decode: impl FnOnce(&mut Reader) -> Result<T, DecodeError>,
    ) -> Result<Option<Box<T>>, DecodeError> {
        if may_be_null && self.i8()? < 0 {
            return Ok(None);
        }
        self.charge(size_of::<T>())?;
        Ok(Some(Box::new(decode(self)?)))
    }

    /// A struct that may be null in a tagged field. Kafka writes the null there as a single zero,
    /// the compact null, where the presence byte would be.
    pub fn tagged_nullable_struct<T>(
        &mut self,
        decode: impl FnOnce(&mut Reader) -> Result<T, DecodeError>,
    ) -> Result<Option<Box<T>>, DecodeError> {
        if self.remaining() == 1 {
            self.at += 1;
            return Ok(None);
        }
        self.nullable_struct(true, decode)
    }

    /// The tagged fields at the end of a struct. `known` reads a field that the schema has and
    /// answers true, or answers false and leaves it to be kept in `unknown`.
    pub fn tagged_fields(
        &mut self,
        unknown: &mut TaggedFields,
        mut known: impl FnMut(u32, &mut Reader) -> Result<bool, DecodeError>,
    ) -> Result<(), DecodeError> {
        let count = self.unsigned_varint()?;
        for _ in 0..count {
            let tag = self.unsigned_varint()?;
            let length = self.unsigned_varint()? as usize;
            let left = self.remaining();
            if length > left {
                return Err(DecodeError::Length {
                    at: self.at,
                    length: length as i64,
                    left,
                });
            }
            let outer_end = std::mem::replace(&mut self.end, self.at + length);
            if known(tag, self)? {
                self.finish()?;
            } else {
                // A vector of these doubles as it grows; charge for the larger half too.
                self.charge(3 * size_of::<(u32, Bytes)>())?;
                unknown.push(tag, self.rest());
                self.at = self.end;
            }
            self.end = outer_end;
        }
        Ok(())
    }
}
