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

/// Step in which a buffer is filled, so that no more of it is touched than
/// there is to put in.
const FILL_BYTES: usize = 64 * 1024;

/// Decompresses all of `input` into one buffer of at most `limit_bytes`. For
/// the moment of its last growth a quarter of the limit is held besides.
pub(crate) fn decompress(
    codec: Compression,
    input: &[u8],
    limit_bytes: usize,
) -> Result<Bytes, BatchError> {
    let failed = |error: io::Error| codec_error(codec, &error);
    let mut decoder = Decoder::new(codec, input, limit_bytes).map_err(failed)?;
    // Batches often shrink to a quarter. Capacities are fractions of the
    // limit, each four times the one before: the copies of a growth then never
    // add up to much more than the limit, as those of doubling would.
    let wanted = input.len().saturating_mul(4);
    let mut capacity = limit_bytes;
    while capacity / 4 >= wanted.max(1_024) {
        capacity /= 4;
    }
    let mut out = Vec::with_capacity(capacity);
    let mut filled = 0;
    loop {
        if filled == capacity {
            if capacity == limit_bytes {
                break;
            }
            // Rounding down above lost up to three bytes per step.
            let larger = capacity.saturating_mul(4).saturating_add(3);
            capacity = larger.min(limit_bytes);
            out.reserve_exact(capacity - out.len());
        }
        if filled == out.len() {
            out.resize(filled + FILL_BYTES.min(capacity - filled), 0);
        }
        match decoder.read(&mut out[filled..]) {
            Ok(0) => {
                out.truncate(filled);
                return Ok(finished(out));
            }
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
    match decoder.read(&mut [0; 1]).map_err(failed)? {
        0 => Ok(finished(out)),
        _ => Err(BatchError::DecompressedTooLarge { limit_bytes }),
    }
}

/// Gives back what was reserved in vain if that is most of it.
fn finished(mut out: Vec<u8>) -> Bytes {
    if out.len() < out.capacity() / 2 {
        out.shrink_to_fit();
    }
    Bytes::from(out)
}
