//! Compression of a records section with a codec and a level.

use std::io::{self, Write};

use flate2::write::GzEncoder;

use crate::{Compression, lz4, snappy};

/// Compresses `input`. `level` is `compression.gzip.level` (1 to 9, -1 for
/// its default) or `compression.zstd.level` (-131072 to 22); `None` is the
/// codec's default. Snappy has no levels, and LZ4 always uses the fast
/// compressor, as Kafka does at its default level.
pub(crate) fn compress(
    codec: Compression,
    level: Option<i32>,
    input: &[u8],
) -> io::Result<Vec<u8>> {
    match codec {
        Compression::None => Ok(input.to_vec()),
        Compression::Gzip => {
            let level = match level.and_then(|level| u32::try_from(level).ok()) {
                Some(level) => flate2::Compression::new(level.clamp(1, 9)),
                None => flate2::Compression::default(),
            };
            let mut encoder = GzEncoder::new(Vec::with_capacity(64 + input.len() / 2), level);
            encoder.write_all(input)?;
            encoder.finish()
        }
        Compression::Snappy => snappy::compress(input),
        Compression::Lz4 => lz4::compress(input),
        Compression::Zstd => {
            zstd::bulk::compress(input, level.unwrap_or(zstd::DEFAULT_COMPRESSION_LEVEL))
        }
    }
}
