//! Passing over the records of a compressed batch without keeping them.

use std::io::{self, Read};

use crate::decompress::{Decoder, codec_error};
use crate::varint::{CUT, Source};
use crate::{BatchError, Compression};

/// What stops a walk.
pub(crate) enum WalkError {
    /// A record does not parse.
    Malformed(&'static str),
    /// The codec failed.
    Codec(io::Error),
    /// More bytes came out than allowed.
    TooLarge,
}

impl From<&'static str> for WalkError {
    fn from(reason: &'static str) -> Self {
        Self::Malformed(reason)
    }
}

const BUFFER_BYTES: usize = 8 * 1024;

/// Decompressed bytes passing through one small buffer.
pub(crate) struct Stream<'a> {
    decoder: Decoder<'a>,
    codec: Compression,
    limit_bytes: usize,
    buffer: Box<[u8; BUFFER_BYTES]>,
    at: usize,
    filled: usize,
    /// Position of the first byte of `buffer`.
    buffer_position: usize,
    end: usize,
}

impl<'a> Stream<'a> {
    pub(crate) fn new(
        codec: Compression,
        input: &'a [u8],
        limit_bytes: usize,
    ) -> Result<Self, BatchError> {
        Ok(Self {
            decoder: Decoder::new(codec, input, limit_bytes)
                .map_err(|error| codec_error(codec, &error))?,
            codec,
            limit_bytes,
            buffer: Box::new([0; BUFFER_BYTES]),
            at: 0,
            filled: 0,
            buffer_position: 0,
            end: usize::MAX,
        })
    }

    /// Reads on; `false` at the end.
    fn fill(&mut self) -> Result<bool, WalkError> {
        self.buffer_position += self.filled;
        self.at = 0;
        self.filled = 0;
        loop {
            match self.decoder.read(&mut self.buffer[..]) {
                Ok(read) => {
                    self.filled = read;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(WalkError::Codec(error)),
            }
        }
        if self.buffer_position + self.filled > self.limit_bytes {
            return Err(WalkError::TooLarge);
        }
        Ok(self.filled > 0)
    }

    /// Whether all bytes have been taken.
    pub(crate) fn is_at_end(&mut self) -> Result<bool, WalkError> {
        Ok(self.at == self.filled && !self.fill()?)
    }

    /// Says what went wrong at record `index`.
    pub(crate) fn batch_error(&self, error: WalkError, index: u32) -> BatchError {
        match error {
            WalkError::Malformed(reason) => BatchError::MalformedRecord { index, reason },
            WalkError::Codec(error) => codec_error(self.codec, &error),
            WalkError::TooLarge => BatchError::DecompressedTooLarge {
                limit_bytes: self.limit_bytes,
            },
        }
    }
}

impl Source for Stream<'_> {
    type Error = WalkError;

    fn position(&self) -> usize {
        self.buffer_position + self.at
    }

    fn set_end(&mut self, end: usize) {
        self.end = end;
    }

    #[inline]
    fn u8(&mut self) -> Result<u8, WalkError> {
        if self.position() >= self.end || (self.at == self.filled && !self.fill()?) {
            return Err(CUT.into());
        }
        let byte = self.buffer[self.at];
        self.at += 1;
        Ok(byte)
    }

    #[inline]
    fn skip(&mut self, mut len: usize) -> Result<(), WalkError> {
        if len > self.end.saturating_sub(self.position()) {
            return Err(CUT.into());
        }
        while len > self.filled - self.at {
            len -= self.filled - self.at;
            if !self.fill()? {
                return Err(CUT.into());
            }
        }
        self.at += len;
        Ok(())
    }
}
