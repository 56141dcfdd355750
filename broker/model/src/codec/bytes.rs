//! Numbers, texts, ids and lists as bytes. A length is checked before anything is allocated.

use tidemark_wire::Uuid;

use super::CodecError;

pub(super) fn put_unsigned(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

pub(super) fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_unsigned(
        out,
        (value.cast_unsigned() << 1) ^ (value >> 63).cast_unsigned(),
    );
}

pub(super) fn put_length(out: &mut Vec<u8>, length: usize) {
    put_unsigned(out, length as u64);
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_length(out, bytes.len());
    out.extend_from_slice(bytes);
}

pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    put_bytes(out, text.as_bytes());
}

pub(super) fn put_uuid(out: &mut Vec<u8>, id: Uuid) {
    out.extend_from_slice(&id.0);
}

pub(super) fn put_brokers(out: &mut Vec<u8>, brokers: &[i32]) {
    put_length(out, brokers.len());
    for broker in brokers {
        put_signed(out, i64::from(*broker));
    }
}

pub(super) fn put_option<T>(
    out: &mut Vec<u8>,
    value: Option<&T>,
    put: impl FnOnce(&mut Vec<u8>, &T),
) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}

/// What is left to read.
#[derive(Debug)]
pub(super) struct Input<'a> {
    pub(super) bytes: &'a [u8],
}

impl<'a> Input<'a> {
    pub(super) fn take(
        &mut self,
        length: usize,
        what: &'static str,
    ) -> Result<&'a [u8], CodecError> {
        let (taken, rest) = self
            .bytes
            .split_at_checked(length)
            .ok_or(CodecError::Truncated(what))?;
        self.bytes = rest;
        Ok(taken)
    }

    pub(super) fn byte(&mut self, what: &'static str) -> Result<u8, CodecError> {
        Ok(self.take(1, what)?[0])
    }

    pub(super) fn unsigned(&mut self, what: &'static str) -> Result<u64, CodecError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte(what)?;
            let low = u64::from(byte & 0x7f);
            if shift == 63 && low > 1 {
                break;
            }
            value |= low << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(CodecError::Invalid("a number longer than 64 bits"))
    }

    pub(super) fn number<T: TryFrom<i64>>(&mut self) -> Result<T, CodecError> {
        let raw = self.unsigned("a number")?;
        let value = (raw >> 1).cast_signed() ^ -((raw & 1).cast_signed());
        T::try_from(value).map_err(|_| CodecError::Invalid("a number out of range"))
    }

    /// A count of things of at least a byte each: more than there are bytes is a lie.
    pub(super) fn count(&mut self, what: &'static str) -> Result<usize, CodecError> {
        usize::try_from(self.unsigned(what)?)
            .ok()
            .filter(|count| *count <= self.bytes.len())
            .ok_or(CodecError::Truncated(what))
    }

    pub(super) fn slice(&mut self, what: &'static str) -> Result<&'a [u8], CodecError> {
        let length = self.count(what)?;
        self.take(length, what)
    }

    pub(super) fn text(&mut self) -> Result<String, CodecError> {
        let bytes = self.slice("a text")?;
        std::str::from_utf8(bytes)
            .map(str::to_owned)
            .map_err(|_| CodecError::Invalid("a text that is not UTF-8"))
    }

    pub(super) fn uuid(&mut self) -> Result<Uuid, CodecError> {
        let bytes = self.take(16, "an id")?;
        bytes
            .try_into()
            .map(Uuid)
            .map_err(|_| CodecError::Truncated("an id"))
    }

    pub(super) fn boolean(&mut self) -> Result<bool, CodecError> {
        match self.byte("a flag")? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(CodecError::Invalid("a flag")),
        }
    }

    pub(super) fn option<T>(
        &mut self,
        take: impl FnOnce(&mut Self) -> Result<T, CodecError>,
    ) -> Result<Option<T>, CodecError> {
        Ok(if self.boolean()? {
            Some(take(self)?)
        } else {
            None
        })
    }

    pub(super) fn list<T>(
        &mut self,
        take: impl Fn(&mut Self) -> Result<T, CodecError>,
    ) -> Result<Vec<T>, CodecError> {
        let count = self.count("a list")?;
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(take(self)?);
        }
        Ok(items)
    }

    pub(super) fn brokers(&mut self) -> Result<Vec<i32>, CodecError> {
        self.list(Input::number)
    }

    pub(super) fn finish(self, what: &'static str) -> Result<(), CodecError> {
        match self.bytes.len() {
            0 => Ok(()),
            count => Err(CodecError::Trailing { what, count }),
        }
    }
}
