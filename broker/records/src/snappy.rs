//! Snappy as Kafka's clients write it: xerial's framing (the Java client) or
//! one raw block (librdkafka and others).

use std::io::{self, Read};

const XERIAL_MAGIC: &[u8; 8] = b"\x82SNAPPY\0";
/// Magic, version and oldest compatible version.
const XERIAL_HEADER: &[u8; 16] = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
/// Uncompressed bytes of the blocks that the Java client writes.
const XERIAL_BLOCK_BYTES: usize = 32 * 1024;
/// Three bytes of Snappy copy at most 64: no honest block grows by more, so
/// a length that says otherwise is refused before it is allocated.
const MAX_RATIO: usize = 22;

fn invalid(message: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// Reads either form, telling them apart by the magic.
pub(crate) struct SnappyReader<'a> {
    input: &'a [u8],
    framed: bool,
    block: Vec<u8>,
    at: usize,
    failed: bool,
}

impl<'a> SnappyReader<'a> {
    pub(crate) fn new(input: &'a [u8]) -> Self {
        Self {
            input,
            framed: input.starts_with(XERIAL_MAGIC),
            block: Vec::new(),
            at: 0,
            failed: false,
        }
    }

    fn next_block(&mut self) -> io::Result<()> {
        let compressed = if self.framed {
            // Streams may be concatenated, each with its header.
            while self.input.starts_with(XERIAL_MAGIC) {
                self.input = self
                    .input
                    .get(XERIAL_HEADER.len()..)
                    .ok_or_else(|| invalid("the xerial header is cut off"))?;
            }
            let Some((len, rest)) = self.input.split_first_chunk::<4>() else {
                if self.input.is_empty() {
                    return Ok(());
                }
                return Err(invalid("a block length is cut off"));
            };
            let len = u32::from_be_bytes(*len) as usize;
            let (block, rest) = rest
                .split_at_checked(len)
                .ok_or_else(|| invalid("a block is cut off"))?;
            self.input = rest;
            block
        } else {
            std::mem::take(&mut self.input)
        };
        let len = snap::raw::decompress_len(compressed).map_err(invalid)?;
        if len > compressed.len().saturating_mul(MAX_RATIO) {
            return Err(invalid("a block claims more bytes than it can hold"));
        }
        self.block.clear();
        self.block.resize(len, 0);
        self.at = 0;
        snap::raw::Decoder::new()
            .decompress(compressed, &mut self.block)
            .map_err(invalid)?;
        Ok(())
    }
}

impl Read for SnappyReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.failed {
            return Err(invalid("an earlier block was corrupt"));
        }
        while self.at == self.block.len() && !self.input.is_empty() {
            if let Err(error) = self.next_block() {
                self.failed = true;
                return Err(error);
            }
        }
        let len = out.len().min(self.block.len() - self.at);
        out[..len].copy_from_slice(&self.block[self.at..self.at + len]);
        self.at += len;
        Ok(len)
    }
}

/// Compresses in xerial's framing, blocks and all as the Java client does.
pub(crate) fn compress(input: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(XERIAL_HEADER.len() + input.len() / 2);
    out.extend_from_slice(XERIAL_HEADER);
    let mut encoder = snap::raw::Encoder::new();
    for block in input.chunks(XERIAL_BLOCK_BYTES) {
        let len_at = out.len();
        let start = len_at + 4;
        out.resize(start + snap::raw::max_compress_len(block.len()), 0);
        let len = encoder
            .compress(block, &mut out[start..])
            .map_err(invalid)?;
        out[len_at..start].copy_from_slice(&(len as u32).to_be_bytes());
        out.truncate(start + len);
    }
    Ok(out)
}
