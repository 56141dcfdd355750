//! The LZ4 frame format as far as Kafka uses it: independent blocks.
//!
//! Frames are read here and not with a general reader, since those allocate
//! the declared block size (4 MiB and more) for a frame of seven bytes, and
//! accept what Kafka's clients then cannot read (linked blocks).

use std::hash::Hasher;
use std::io::{self, Read};

const MAGIC: u32 = 0x184D_2204;
const VERSION: u8 = 0b0100_0000;
const VERSION_MASK: u8 = 0b1100_0000;
const BLOCK_INDEPENDENCE: u8 = 0b0010_0000;
const BLOCK_CHECKSUM: u8 = 0b0001_0000;
const CONTENT_SIZE: u8 = 0b0000_1000;
const CONTENT_CHECKSUM: u8 = 0b0000_0100;
const RESERVED_OR_DICTIONARY: u8 = 0b0000_0011;
/// In a block's length: the block is stored, not compressed.
const STORED: u32 = 0x8000_0000;
/// Blocks of the Java client.
const BLOCK_BYTES: usize = 64 * 1024;
const BLOCK_SIZE_ID: u8 = 4;
/// One byte of LZ4 stands for at most 255.
const MAX_RATIO: usize = 255;

fn invalid(message: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

fn xxh32(bytes: &[u8]) -> u32 {
    twox_hash::XxHash32::oneshot(0, bytes)
}

struct Frame {
    max_block_bytes: usize,
    block_checksum: bool,
    content_checksum: Option<twox_hash::XxHash32>,
    content_size: Option<u64>,
    produced_bytes: u64,
}

/// Decompresses concatenated frames.
pub(crate) struct Lz4Reader<'a> {
    input: &'a [u8],
    frame: Option<Frame>,
    block: Vec<u8>,
    at: usize,
    failed: bool,
}

impl<'a> Lz4Reader<'a> {
    pub(crate) fn new(input: &'a [u8]) -> Self {
        Self {
            input,
            frame: None,
            block: Vec::new(),
            at: 0,
            failed: false,
        }
    }

    fn take(&mut self, len: usize) -> io::Result<&'a [u8]> {
        let (taken, rest) = self
            .input
            .split_at_checked(len)
            .ok_or_else(|| invalid("the frame is cut off"))?;
        self.input = rest;
        Ok(taken)
    }

    fn take_u32(&mut self) -> io::Result<u32> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn frame_header(&mut self) -> io::Result<Frame> {
        if self.take_u32()? != MAGIC {
            return Err(invalid("it is not an LZ4 frame"));
        }
        let descriptor = self.input;
        let flags = self.take(1)?[0];
        let block_descriptor = self.take(1)?[0];
        if flags & VERSION_MASK != VERSION {
            return Err(invalid("the frame has an unknown version"));
        }
        if flags & RESERVED_OR_DICTIONARY != 0 {
            return Err(invalid("the frame has reserved bits or a dictionary"));
        }
        if flags & BLOCK_INDEPENDENCE == 0 {
            return Err(invalid(
                "the frame has linked blocks: use independent blocks",
            ));
        }
        // 4 is 64 KiB, each one more is four times as much.
        let max_block_bytes = match block_descriptor {
            0x40 => 64 << 10,
            0x50 => 256 << 10,
            0x60 => 1 << 20,
            0x70 => 4 << 20,
            _ => return Err(invalid("the frame has an invalid block size")),
        };
        let mut content_size = None;
        if flags & CONTENT_SIZE != 0 {
            let low = u64::from(self.take_u32()?);
            content_size = Some(low | (u64::from(self.take_u32()?) << 32));
        }
        let descriptor = &descriptor[..descriptor.len() - self.input.len()];
        if self.take(1)?[0] != (xxh32(descriptor) >> 8) as u8 {
            return Err(invalid("the frame header's checksum is wrong"));
        }
        Ok(Frame {
            max_block_bytes,
            block_checksum: flags & BLOCK_CHECKSUM != 0,
            content_checksum: (flags & CONTENT_CHECKSUM != 0)
                .then(|| twox_hash::XxHash32::with_seed(0)),
            content_size,
            produced_bytes: 0,
        })
    }

    fn end_frame(&mut self, frame: &Frame) -> io::Result<()> {
        if let Some(hash) = &frame.content_checksum
            && self.take_u32()? != hash.finish_32()
        {
            return Err(invalid("the content's checksum is wrong"));
        }
        match frame.content_size {
            Some(size) if size != frame.produced_bytes => {
                Err(invalid("the content is not as long as the frame says"))
            }
            _ => Ok(()),
        }
    }

    fn next_block(&mut self) -> io::Result<()> {
        self.block.clear();
        self.at = 0;
        let mut frame = match self.frame.take() {
            Some(frame) => frame,
            None => self.frame_header()?,
        };
        let len_field = self.take_u32()?;
        if len_field == 0 {
            return self.end_frame(&frame);
        }
        let len = (len_field & !STORED) as usize;
        if len > frame.max_block_bytes {
            return Err(invalid("a block is larger than the frame says"));
        }
        let data = self.take(len)?;
        if frame.block_checksum && self.take_u32()? != xxh32(data) {
            return Err(invalid("a block's checksum is wrong"));
        }
        if len_field & STORED != 0 {
            self.block.extend_from_slice(data);
        } else {
            let room = frame.max_block_bytes.min(len.saturating_mul(MAX_RATIO));
            self.block.resize(room, 0);
            let filled =
                lz4_flex::block::decompress_into(data, &mut self.block).map_err(invalid)?;
            self.block.truncate(filled);
        }
        if let Some(hash) = &mut frame.content_checksum {
            hash.write(&self.block);
        }
        frame.produced_bytes += self.block.len() as u64;
        self.frame = Some(frame);
        Ok(())
    }
}

impl Read for Lz4Reader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.failed {
            return Err(invalid("an earlier block was corrupt"));
        }
        while self.at == self.block.len() && (self.frame.is_some() || !self.input.is_empty()) {
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

/// Writes one frame of independent 64 KiB blocks without checksums but the
/// header's, as the Java client does.
pub(crate) fn compress(input: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(32 + input.len() / 2);
    out.extend_from_slice(&MAGIC.to_le_bytes());
    let descriptor = [VERSION | BLOCK_INDEPENDENCE, BLOCK_SIZE_ID << 4];
    out.extend_from_slice(&descriptor);
    out.push((xxh32(&descriptor) >> 8) as u8);
    for block in input.chunks(BLOCK_BYTES) {
        let len_at = out.len();
        let start = len_at + 4;
        out.resize(
            start + lz4_flex::block::get_maximum_output_size(block.len()),
            0,
        );
        let len = lz4_flex::block::compress_into(block, &mut out[start..]).map_err(invalid)?;
        let len_field = if len < block.len() {
            out.truncate(start + len);
            len as u32
        } else {
            out.truncate(start);
            out.extend_from_slice(block);
            block.len() as u32 | STORED
        };
        out[len_at..start].copy_from_slice(&len_field.to_le_bytes());
    }
    out.extend_from_slice(&0u32.to_le_bytes());
    Ok(out)
}
