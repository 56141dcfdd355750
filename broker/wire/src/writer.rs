//! Writes the protocol's primitive types.

use crate::{EncodeError, Records, TaggedFields, Uuid};
use bytes::{BufMut, Bytes, BytesMut};

/// Byte fields from this length on are shared, not copied, when the segments are taken.
const SHARE_FROM_BYTES: usize = 1024;

/// A part of a written message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// Bytes to send as they are.
    Bytes(Bytes),
    /// So many bytes of records that the sender has elsewhere and sends in this place.
    Elsewhere(usize),
}

impl Segment {
    /// The bytes, if they are here.
    pub fn into_bytes(self) -> Option<Bytes> {
        match self {
            Segment::Bytes(bytes) => Some(bytes),
            Segment::Elsewhere(_) => None,
        }
    }
}

/// A message being written: a buffer, and shared byte fields to be inserted at positions in it,
/// so that record payloads reach the socket without a copy.
#[derive(Debug, Default)]
pub struct Writer {
    buffer: BytesMut,
    shared: Vec<(usize, Segment)>,
    shared_bytes: usize,
    may_announce: bool,
}

impl Writer {
    /// An empty writer.
    pub fn new() -> Writer {
        Writer::default()
    }

    /// An empty writer whose buffer has room for `bytes`.
    pub fn with_capacity(bytes: usize) -> Writer {
        Writer {
            buffer: BytesMut::with_capacity(bytes),
            ..Writer::default()
        }
    }

    /// An empty writer with room for `bytes`, whose records may be [`Records::Elsewhere`]: only for
    /// who takes [`Writer::into_segments`] and fills them in.
    pub fn announcing(bytes: usize) -> Writer {
        Writer {
            may_announce: true,
            ..Writer::with_capacity(bytes)
        }
    }

    /// Bytes written so far, shared and announced ones included.
    pub fn written(&self) -> usize {
        self.buffer.len() + self.shared_bytes
    }

    /// Everything as one buffer; copies the shared fields.
    pub fn into_bytes(self) -> Bytes {
        if self.shared.is_empty() {
            return self.buffer.freeze();
        }
        let mut whole = BytesMut::with_capacity(self.written());
        debug_assert!(!self.may_announce, "nothing of it is elsewhere");
        for segment in self.into_segments() {
            whole.put_slice(&segment.into_bytes().unwrap_or_default());
        }
        whole.freeze()
    }

    /// Everything as a sequence of buffers, shared fields among them as they came. Only a writer
    /// that is [`Writer::announcing`] has segments elsewhere.
    pub fn into_segments(self) -> Vec<Segment> {
        let buffer = self.buffer.freeze();
        let mut segments = Vec::with_capacity(self.shared.len() * 2 + 1);
        let mut from = 0;
        for (at, shared) in self.shared {
            if at > from {
                segments.push(Segment::Bytes(buffer.slice(from..at)));
            }
            segments.push(shared);
            from = at;
        }
        if from < buffer.len() {
            segments.push(Segment::Bytes(buffer.slice(from..)));
        }
        segments
    }

    /// One byte, 1 for true.
    pub fn bool(&mut self, value: bool) {
        self.buffer.put_u8(u8::from(value));
    }

    /// A signed byte.
    pub fn i8(&mut self, value: i8) {
        self.buffer.put_i8(value);
    }

    /// A big-endian 16-bit integer.
    pub fn i16(&mut self, value: i16) {
        self.buffer.put_i16(value);
    }

    /// A big-endian unsigned 16-bit integer.
    pub fn u16(&mut self, value: u16) {
        self.buffer.put_u16(value);
    }

    /// A big-endian 32-bit integer.
    pub fn i32(&mut self, value: i32) {
        self.buffer.put_i32(value);
    }

    /// A big-endian unsigned 32-bit integer.
    pub fn u32(&mut self, value: u32) {
        self.buffer.put_u32(value);
    }

    /// A big-endian 64-bit integer.
    pub fn i64(&mut self, value: i64) {
        self.buffer.put_i64(value);
    }

    /// A big-endian 64-bit float.
    pub fn f64(&mut self, value: f64) {
        self.buffer.put_f64(value);
    }

    /// Sixteen bytes.
    pub fn uuid(&mut self, value: Uuid) {
        self.buffer.put_slice(&value.0);
    }

    /// Bytes as they are, without a length.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.buffer.put_slice(bytes);
    }

    /// An unsigned integer of 7 bits a byte.
    pub fn unsigned_varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.buffer.put_u8((value as u8 & 0x7f) | 0x80);
            value >>= 7;
        }
        self.buffer.put_u8(value as u8);
    }

    fn length(&mut self, length: usize, compact: bool, wide: bool) -> Result<(), EncodeError> {
        let too_long = |_| EncodeError::TooLong { length };
        // i32::MAX bounds compact lengths too: readers hold them in a signed integer.
        let wide_length = i32::try_from(length).map_err(too_long)?;
        if compact {
            self.unsigned_varint(wide_length as u32 + 1);
        } else if wide {
            self.i32(wide_length);
        } else {
            self.i16(i16::try_from(length).map_err(too_long)?);
        }
        Ok(())
    }

    fn null(&mut self, compact: bool, wide: bool, may_be_null: bool) -> Result<(), EncodeError> {
        if !may_be_null {
            return Err(EncodeError::Null);
        }
        match (compact, wide) {
            (true, _) => self.unsigned_varint(0),
            (false, true) => self.i32(-1),
            (false, false) => self.i16(-1),
        }
        Ok(())
    }

    /// A string.
    pub fn string(&mut self, value: &str, compact: bool) -> Result<(), EncodeError> {
        self.length(value.len(), compact, false)?;
        self.buffer.put_slice(value.as_bytes());
        Ok(())
    }

    /// A string or null.
    pub fn nullable_string(
        &mut self,
        value: Option<&str>,
        compact: bool,
        may_be_null: bool,
    ) -> Result<(), EncodeError> {
        match value {
            Some(value) => self.string(value, compact),
            None => self.null(compact, false, may_be_null),
        }
    }

    /// Bytes behind a length; long ones are shared.
    pub fn bytes(&mut self, value: &Bytes, compact: bool) -> Result<(), EncodeError> {
        self.length(value.len(), compact, true)?;
        if value.len() >= SHARE_FROM_BYTES {
            self.shared_bytes += value.len();
            let shared = Segment::Bytes(value.clone());
            self.shared.push((self.buffer.len(), shared));
        } else {
            self.buffer.put_slice(value);
        }
        Ok(())
    }

    /// Bytes behind a length, or null.
    pub fn nullable_bytes(
        &mut self,
        value: Option<&Bytes>,
        compact: bool,
        may_be_null: bool,
    ) -> Result<(), EncodeError> {
        match value {
            Some(value) => self.bytes(value, compact),
            None => self.null(compact, true, may_be_null),
        }
    }

    /// Records behind a length.
    pub fn records(&mut self, value: &Records, compact: bool) -> Result<(), EncodeError> {
        match value {
            Records::Here(bytes) => self.bytes(bytes, compact),
            Records::Elsewhere(_) if !self.may_announce => Err(EncodeError::Elsewhere),
            Records::Elsewhere(len) => {
                self.length(*len, compact, true)?;
                self.shared_bytes += len;
                self.shared
                    .push((self.buffer.len(), Segment::Elsewhere(*len)));
                Ok(())
            }
        }
    }

    /// Records behind a length, or null.
    pub fn nullable_records(
        &mut self,
        value: Option<&Records>,
        compact: bool,
        may_be_null: bool,
    ) -> Result<(), EncodeError> {
        match value {
            Some(value) => self.records(value, compact),
            None => self.null(compact, true, may_be_null),
        }
    }

    /// An array.
    pub fn array<T>(
        &mut self,
        items: &[T],
        compact: bool,
        mut element: impl FnMut(&mut Writer, &T) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        self.length(items.len(), compact, true)?;
        items.iter().try_for_each(|item| element(self, item))
    }

    /// An array or null.
    pub fn nullable_array<T>(
        &mut self,
        items: Option<&[T]>,
        compact: bool,
        may_be_null: bool,
        element: impl FnMut(&mut Writer, &T) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        match items {
            Some(items) => self.array(items, compact, element),
            None => self.null(compact, true, may_be_null),
        }
    }

    /// A struct behind a presence byte where this version allows null, and bare elsewhere.
    pub fn nullable_struct<T>(
        &mut self,
        value: Option<&T>,
        may_be_null: bool,
        encode: impl FnOnce(&mut Writer, &T) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        match (value, may_be_null) {
            (None, false) => Err(EncodeError::Null),
            (None, true) => {
                self.i8(-1);
                Ok(())
            }
            (Some(value), true) => {
                self.i8(1);
                encode(self, value)
            }
            (Some(value), false) => encode(self, value),
        }
    }

    /// A struct that may be null in a tagged field, where Kafka writes null as a single zero.
    pub fn tagged_nullable_struct<T>(
        &mut self,
        value: Option<&T>,
        encode: impl FnOnce(&mut Writer, &T) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        if value.is_none() {
            self.unsigned_varint(0);
            return Ok(());
        }
        self.nullable_struct(value, true, encode)
    }

    /// The tagged fields of a struct whose schema has none.
    pub fn tagged_fields(&mut self, unknown: &TaggedFields) {
        TagWriter::new(unknown).finish(self);
    }
}

/// The tagged fields of a struct, collected and then written by ascending tag (KIP-482).
#[derive(Debug)]
pub struct TagWriter<'a> {
    known: Vec<(u32, Bytes)>,
    unknown: &'a TaggedFields,
}

impl<'a> TagWriter<'a> {
    /// Starts with the fields that the schema does not know.
    pub fn new(unknown: &'a TaggedFields) -> TagWriter<'a> {
        TagWriter {
            known: Vec::new(),
            unknown,
        }
    }

    /// Adds a field of the schema.
    pub fn add(
        &mut self,
        tag: u32,
        write: impl FnOnce(&mut Writer) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        let mut writer = Writer::new();
        let w = &mut writer;
        write(w)?;
        self.known.push((tag, writer.into_bytes()));
        Ok(())
    }

    /// Writes the count and the fields.
    pub fn finish(self, w: &mut Writer) {
        let mut fields: Vec<&(u32, Bytes)> =
            self.known.iter().chain(self.unknown.as_slice()).collect();
        fields.sort_by_key(|(tag, _)| *tag);
        w.unsigned_varint(fields.len() as u32);
        for (tag, value) in fields {
            w.unsigned_varint(*tag);
            w.unsigned_varint(value.len() as u32);
            w.raw(value);
        }
    }
}
