//! Decompression as a stream, and into one bounded buffer.
//!
//! Every codec is a [`Read`] whose own memory is bounded by the input or by a
//! constant, whatever the input claims about its size.

use std::io::{self, Read};

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;

use crate::lz4::Lz4Reader;
use crate::snappy::SnappyReader;
use crate::{BatchError, Compression};

/// The window every zstd decoder should accept (RFC 8878, 3.1.1.1.2).
const MIN_ZSTD_WINDOW_LOG: u32 = 23;
/// The largest window that zstd's own decoder accepts unasked.
const MAX_ZSTD_WINDOW_LOG: u32 = 27;

/// The decompressed bytes of a records section as a stream.
pub(crate) enum Decoder<'a> {
    Gzip(Box<MultiGzDecoder<&'a [u8]>>),
    Snappy(SnappyReader<'a>),
    Lz4(Lz4Reader<'a>),
    Zstd(Box<zstd::stream::read::Decoder<'static, &'a [u8]>>),
    None(&'a [u8]),
}

impl<'a> Decoder<'a> {
    /// `limit_bytes` is what the caller will read at most; zstd windows beyond
    /// it (and beyond 8 MiB) are refused.
    pub(crate) fn new(codec: Compression, input: &'a [u8], limit_bytes: usize) -> io::Result<Self> {
        Ok(match codec {
            Compression::None => Self::None(input),
            Compression::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(input))),
            Compression::Snappy => Self::Snappy(SnappyReader::new(input)),
            Compression::Lz4 => Self::Lz4(Lz4Reader::new(input)),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
                let limit_log = usize::BITS - limit_bytes.saturating_sub(1).leading_zeros();
                decoder
                    .window_log_max(limit_log.clamp(MIN_ZSTD_WINDOW_LOG, MAX_ZSTD_WINDOW_LOG))?;
                Self::Zstd(Box::new(decoder))
            }
        })
    }
}

impl Read for Decoder<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::None(rest) => rest.read(out),
            Self::Gzip(decoder) => decoder.read(out),
            Self::Snappy(decoder) => decoder.read(out),
            Self::Lz4(decoder) => decoder.read(out),
            Self::Zstd(decoder) => decoder.read(out),
        }
    }
}

pub(crate) fn codec_error(codec: Compression, error: &io::Error) -> BatchError {
    BatchError::Decompress {
        codec,
        reason: error.to_string(),
    }
}

/// Decompresses all of `input` into one buffer of at most `limit_bytes`.
pub(crate) fn decompress(
    codec: Compression,
    input: &[u8],
    limit_bytes: usize,
) -> Result<Bytes, BatchError> {
    let failed = |error: io::Error| codec_error(codec, &error);
    let mut decoder = Decoder::new(codec, input, limit_bytes).map_err(failed)?;
    // Typical batches shrink to a quarter; the buffer then grows by doubling,
    // but never past the limit (`Vec` alone would double past it).
    let mut out = Vec::with_capacity(input.len().saturating_mul(4).clamp(64, limit_bytes.max(64)));
    loop {
        if out.len() == out.capacity() {
            let room = limit_bytes.saturating_sub(out.len()).min(out.len());
            if room == 0 {
                break;
            }
            out.reserve_exact(room);
        }
        let room = out.capacity() - out.len();
        let read = (&mut decoder)
            .take(room as u64)
            .read_to_end_exact(&mut out, room)
            .map_err(failed)?;
        if read < room {
            break;
        }
    }
    if out.len() >= limit_bytes {
        let mut probe = [0; 1];
        if out.len() > limit_bytes || decoder.read(&mut probe).map_err(failed)? > 0 {
            return Err(BatchError::DecompressedTooLarge { limit_bytes });
        }
    }
    Ok(Bytes::from(out))
}

trait ReadExactly: Read {
    /// Reads until `room` bytes or the end; never makes `out` grow beyond its
    /// capacity, which `read_to_end` does to probe for the end.
    fn read_to_end_exact(&mut self, out: &mut Vec<u8>, room: usize) -> io::Result<usize> {
        let start = out.len();
        out.resize(start + room, 0);
        let mut filled = start;
        let result = loop {
            if filled == out.len() {
                break Ok(());
            }
            match self.read(&mut out[filled..]) {
                Ok(0) => break Ok(()),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        out.truncate(filled);
        result.map(|()| filled - start)
    }
}

impl<R: Read> ReadExactly for R {}
