//! A commit group on the disk: pure functions.
//!
//! A group begins at a multiple of 4 KiB: a block of header and directory, padded with
//! zeros to 4 KiB, and the payload, padded likewise. Numbers are little-endian.
//!
//! ```text
//! header, 96 bytes
//!   0  8  magic "TMWALGRP"
//!   8  2  version: 1              a newer one is refused by name
//!  10  2  zero
//!  12  4  CRC-32C of header and directory, these four bytes left out
//!  16 16  ring id                 magic, version and ring id stay here in every version
//!  32  8  LSN
//!  40  8  LSN of the ring's first group
//!  48  8  synced LSN: all groups up to here were durable when this one was written
//!  56  4  the CRC of the previous group's header; 0 in the ring's first group
//!  60  4  entries in the directory, at most 8192
//!  64  8  length of the payload, padding left out
//!  72  8  number of the file
//!  80  8  position of this header in it
//!  88  8  zero
//! directory, 48 bytes for each record
//!   0  1  kind: 1 create, 2 delete, 3 batches, 4 truncate, 5 reset, 6 epoch, 7 log start
//!   1  3  zero
//!   4  4  leader epoch, or the partition's index
//!   8  8  log id
//!  16  8  base offset, or the offset; the first half of a topic id
//!  24  8  next offset; the second half of a topic id
//!  32  4  length of its bytes in the payload
//!  36  4  their position in the payload
//!  40  4  CRC-32C of the first 21 of them (or all, when there are fewer)
//!  44  4  zero
//! ```
//!
//! The payload has no checksum of its own: a record batch's CRC covers all but its first
//! 21 bytes, and those are covered by the directory.

use bytes::BufMut;

use crate::types::{LogId, Lsn, Record, RingId};

/// Everything is written at multiples of this.
pub(crate) const BLOCK: usize = 4096;
pub(crate) const BLOCK_U64: u64 = 4096;
pub(crate) const HEADER_BYTES: usize = 96;
pub(crate) const ENTRY_BYTES: usize = 48;
/// A group with as many records is closed.
pub(crate) const MAX_ENTRIES: usize = 8192;
/// Longest header and directory, padded.
pub(crate) const MAX_HEADER_BLOCK: usize =
    (HEADER_BYTES + MAX_ENTRIES * ENTRY_BYTES).next_multiple_of(BLOCK);
/// The first bytes of a record batch, which its own CRC does not cover.
const HEAD_BYTES: usize = 21;
const MAGIC: &[u8; 8] = b"TMWALGRP";
const VERSION: u16 = 1;
const CRC_AT: usize = 12;
const CRC_END: usize = 16;
const RING_END: usize = 32;

fn crc32c(bytes: &[u8]) -> u32 {
    // A 32-bit CRC fits its low half.
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// The CRC of a record's first bytes.
pub(crate) fn head_crc(bytes: &[u8]) -> u32 {
    crc32c(&bytes[..bytes.len().min(HEAD_BYTES)])
}

/// An entry of the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RawEntry {
    pub(crate) kind: u8,
    pub(crate) epoch: i32,
    pub(crate) log: LogId,
    pub(crate) first: u64,
    pub(crate) second: u64,
    pub(crate) len: u32,
    pub(crate) position: u32,
    pub(crate) head_crc: u32,
}

pub(crate) const CREATE: u8 = 1;
pub(crate) const DELETE: u8 = 2;
pub(crate) const BATCHES: u8 = 3;
pub(crate) const TRUNCATE: u8 = 4;
pub(crate) const RESET: u8 = 5;
pub(crate) const EPOCH: u8 = 6;
pub(crate) const LOG_START: u8 = 7;

impl RawEntry {
    /// The entry of a record whose bytes are at `position`. The CRC comes later.
    pub(crate) fn of(log: LogId, record: &Record<'_>, position: u32, len: u32) -> Self {
        let (kind, epoch, first, second) = match *record {
            Record::Create {
                topic_id,
                partition,
            } => {
                let id = u128::from_be_bytes(topic_id);
                // Its two halves.
                (CREATE, partition, (id >> 64) as u64, id as u64)
            }
            Record::Delete => (DELETE, 0, 0, 0),
            Record::Batches {
                base_offset,
                next_offset,
                leader_epoch,
                ..
            } => (
                BATCHES,
                leader_epoch,
                base_offset.cast_unsigned(),
                next_offset.cast_unsigned(),
            ),
            Record::Truncate { end_offset } => (TRUNCATE, 0, end_offset.cast_unsigned(), 0),
            Record::Reset {
                start_offset,
                keeps_producers,
            } => (
                RESET,
                0,
                start_offset.cast_unsigned(),
                u64::from(keeps_producers),
            ),
            Record::Epoch {
                leader_epoch,
                start_offset,
            } => (EPOCH, leader_epoch, start_offset.cast_unsigned(), 0),
            Record::LogStart { offset } => (LOG_START, 0, offset.cast_unsigned(), 0),
        };
        Self {
            kind,
            epoch,
            log,
            first,
            second,
            len,
            position,
            head_crc: 0,
        }
    }
}

/// What a header says, its directory aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) ring: RingId,
    pub(crate) lsn: Lsn,
    pub(crate) first_lsn: Lsn,
    pub(crate) synced_lsn: Lsn,
    pub(crate) previous_crc: u32,
    pub(crate) payload_bytes: u64,
    pub(crate) file: u64,
    pub(crate) position: u64,
}

/// Length of a header and a directory of `entries`, padded.
pub(crate) fn header_block_bytes(entries: usize) -> usize {
    (HEADER_BYTES + entries * ENTRY_BYTES).next_multiple_of(BLOCK)
}

/// Puts header and directory into `buffer`, which is empty, and gives their CRC. The CRC
/// of each record's first bytes is taken from `payload`.
pub(crate) fn encode(
    buffer: &mut impl GrowingBuffer,
    header: &Header,
    entries: &[RawEntry],
    payload: &[u8],
) -> u32 {
    buffer.put_slice(MAGIC);
    buffer.put_u16_le(VERSION);
    buffer.put_u16_le(0);
    buffer.put_u32_le(0);
    buffer.put_slice(&header.ring.0);
    buffer.put_u64_le(header.lsn);
    buffer.put_u64_le(header.first_lsn);
    buffer.put_u64_le(header.synced_lsn);
    buffer.put_u32_le(header.previous_crc);
    buffer.put_u32_le(u32::try_from(entries.len()).expect("a directory has few entries"));
    buffer.put_u64_le(header.payload_bytes);
    buffer.put_u64_le(header.file);
    buffer.put_u64_le(header.position);
    buffer.put_u64_le(0);
    for entry in entries {
        let crc = if entry.len == 0 {
            0
        } else {
            head_crc(&payload[entry.position as usize..][..entry.len as usize])
        };
        buffer.put_u32_le(u32::from(entry.kind));
        buffer.put_i32_le(entry.epoch);
        buffer.put_u64_le(entry.log.0);
        buffer.put_u64_le(entry.first);
        buffer.put_u64_le(entry.second);
        buffer.put_u32_le(entry.len);
        buffer.put_u32_le(entry.position);
        buffer.put_u32_le(crc);
        buffer.put_u32_le(0);
    }
    let bytes = buffer.filled();
    let crc = block_crc(bytes);
    bytes[CRC_AT..CRC_END].copy_from_slice(&crc.to_le_bytes());
    let padding = header_block_bytes(entries.len()) - bytes.len();
    buffer.put_bytes(0, padding);
    crc
}

/// A buffer that can be looked back into.
pub(crate) trait GrowingBuffer: BufMut {
    /// What was put so far.
    fn filled(&mut self) -> &mut [u8];
}

impl GrowingBuffer for bytes::BytesMut {
    fn filled(&mut self) -> &mut [u8] {
        self
    }
}

fn block_crc(bytes: &[u8]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(&bytes[..CRC_AT]);
    digest.update(&bytes[CRC_END..]);
    digest.finalize() as u32
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

/// What the first block of a group looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Looks {
    /// Not a header of this ring.
    Other,
    /// A header of this ring in a version that is newer than this program.
    Newer(u16),
    /// A header of this ring whose directory has so many entries, if it is sound.
    Header {
        /// At most [`MAX_ENTRIES`].
        entries: usize,
    },
}

/// Looks at the first [`HEADER_BYTES`] of a block.
pub(crate) fn look(block: &[u8], ring: RingId) -> Looks {
    if block.len() < HEADER_BYTES || &block[..8] != MAGIC || block[CRC_END..RING_END] != ring.0 {
        return Looks::Other;
    }
    let version = u16::from_le_bytes([block[8], block[9]]);
    if version > VERSION {
        return Looks::Newer(version);
    }
    let entries = u32_at(block, 60) as usize;
    if version != VERSION || entries > MAX_ENTRIES {
        return Looks::Other;
    }
    Looks::Header { entries }
}

/// The number that a header states, sound or not.
pub(crate) fn stated_lsn(block: &[u8]) -> Lsn {
    u64_at(block, 32)
}

/// Header and directory out of a whole block that [`look`] found, and their CRC; `None`
/// when they are not what was written.
pub(crate) fn decode(block: &[u8], entries: usize) -> Option<(Header, Vec<RawEntry>, u32)> {
    let bytes = block.get(..HEADER_BYTES + entries * ENTRY_BYTES)?;
    let crc = block_crc(bytes);
    if crc != u32_at(bytes, CRC_AT) {
        return None;
    }
    let mut ring = [0; 16];
    ring.copy_from_slice(&bytes[CRC_END..RING_END]);
    let header = Header {
        ring: RingId(ring),
        lsn: u64_at(bytes, 32),
        first_lsn: u64_at(bytes, 40),
        synced_lsn: u64_at(bytes, 48),
        previous_crc: u32_at(bytes, 56),
        payload_bytes: u64_at(bytes, 64),
        file: u64_at(bytes, 72),
        position: u64_at(bytes, 80),
    };
    let mut directory = Vec::with_capacity(entries);
    for entry in bytes[HEADER_BYTES..].chunks_exact(ENTRY_BYTES) {
        let raw = RawEntry {
            kind: entry[0],
            epoch: u32_at(entry, 4).cast_signed(),
            log: LogId(u64_at(entry, 8)),
            first: u64_at(entry, 16),
            second: u64_at(entry, 24),
            len: u32_at(entry, 32),
            position: u32_at(entry, 36),
            head_crc: u32_at(entry, 40),
        };
        if u64::from(raw.position) + u64::from(raw.len) > header.payload_bytes {
            return None;
        }
        directory.push(raw);
    }
    Some((header, directory, crc))
}
