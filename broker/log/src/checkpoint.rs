//! `tidemark-checkpoint`: how much of each log of a data directory is in its segment
//! files, and which write-ahead log holds the rest.
//!
//! One file for the whole directory, replaced whole. Everything that an entry claims
//! was synced before the file was written. What lies in segment files above it is not
//! trusted: a recovery cuts it off and applies the write-ahead log's later groups.
//!
//! Layout, big-endian: `TMCK`, version (u16), flags (u16, bit 0: closed cleanly), ring
//! id (16 bytes), released LSN (u64), next LSN (u64), next log id (u64), count of entries
//! (u32); each entry
//! is log id (u64), topic id (16 bytes), partition (i32), last epoch (i32), LSN (u64),
//! log start (i64), end (i64), base of the end's segment (i64), position in it (u64), high
//! watermark (i64, from version 2 on); then the CRC-32C of all before (u32).

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use tidemark_env::disk::{self, Disk};
use tidemark_records::crc32c;
use tidemark_wal::{LogId, Lsn, RingId};
use tidemark_wire::Uuid;

use crate::cursor::Cursor;
use crate::error::OpenError;
use crate::names;

const MAGIC: &[u8; 4] = b"TMCK";
const VERSION: u16 = 2;
/// Without high watermarks.
const FIRST_VERSION: u16 = 1;
const FLAG_CLEAN: u16 = 1;
const HEADER_BYTES: usize = 52;
const ENTRY_BYTES: usize = 80;
const FIRST_ENTRY_BYTES: usize = 72;
/// A file longer than this is not one: over seven million logs.
const MAX_BYTES: usize = 512 << 20;

/// How much of one log is in its segment files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogCheckpoint {
    /// The topic.
    pub topic_id: Uuid,
    /// The partition.
    pub partition: i32,
    /// The newest leader epoch, -1 without one.
    pub last_epoch: i32,
    /// All of the log's records in groups up to this one are in its files.
    pub lsn: Lsn,
    /// First offset of the log.
    pub log_start: i64,
    /// Offset after the last record in the files.
    pub end: i64,
    /// Base offset of the segment that the end lies in.
    pub segment_base: i64,
    /// Position of the end in that segment, in bytes.
    pub position: u64,
    /// Records below were known to be committed: the high watermark, which may be above the end.
    pub high_watermark: i64,
}

impl LogCheckpoint {
    /// Of a log that is empty when group `lsn` says that it exists.
    pub fn empty(topic_id: Uuid, partition: i32, lsn: Lsn) -> Self {
        Self {
            topic_id,
            partition,
            last_epoch: -1,
            lsn,
            log_start: 0,
            end: 0,
            segment_base: 0,
            position: 0,
            high_watermark: 0,
        }
    }
}

/// What `tidemark-checkpoint` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirCheckpoint {
    /// The write-ahead log that goes with it.
    pub ring: RingId,
    /// Whether everything was in the files, so that the write-ahead log need not be read.
    pub clean: bool,
    /// Groups up to this one are needed by no log, and their room in the ring may have been
    /// used again: what there is to be applied is above it.
    pub released_lsn: Lsn,
    /// No group had this number yet when it was written.
    pub next_lsn: Lsn,
    /// No log had this id yet.
    pub next_log_id: u64,
    /// The logs of the directory.
    pub logs: BTreeMap<LogId, LogCheckpoint>,
}

impl DirCheckpoint {
    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.logs.len() * ENTRY_BYTES + 4);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_be_bytes());
        let flags = if self.clean { FLAG_CLEAN } else { 0 };
        bytes.extend_from_slice(&flags.to_be_bytes());
        bytes.extend_from_slice(&self.ring.0);
        bytes.extend_from_slice(&self.released_lsn.to_be_bytes());
        bytes.extend_from_slice(&self.next_lsn.to_be_bytes());
        bytes.extend_from_slice(&self.next_log_id.to_be_bytes());
        let count = u32::try_from(self.logs.len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&count.to_be_bytes());
        for (id, log) in &self.logs {
            bytes.extend_from_slice(&id.0.to_be_bytes());
            bytes.extend_from_slice(&log.topic_id.0);
            bytes.extend_from_slice(&log.partition.to_be_bytes());
            bytes.extend_from_slice(&log.last_epoch.to_be_bytes());
            bytes.extend_from_slice(&log.lsn.to_be_bytes());
            bytes.extend_from_slice(&log.log_start.to_be_bytes());
            bytes.extend_from_slice(&log.end.to_be_bytes());
            bytes.extend_from_slice(&log.segment_base.to_be_bytes());
            bytes.extend_from_slice(&log.position.to_be_bytes());
            bytes.extend_from_slice(&log.high_watermark.to_be_bytes());
        }
        let crc = crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_be_bytes());
        bytes
    }

    /// Reads the file's bytes.
    ///
    /// # Errors
    /// What is wrong with them, in words.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let mut cursor = Cursor(bytes);
        if cursor.take::<4>()? != *MAGIC {
            return Err("it does not begin with TMCK".to_owned());
        }
        let version = u16::from_be_bytes(cursor.take()?);
        if !(FIRST_VERSION..=VERSION).contains(&version) {
            return Err(format!(
                "it has version {version}, this program knows {VERSION}: run the newer release that wrote it"
            ));
        }
        let Some((body, crc)) = bytes.split_last_chunk::<4>() else {
            return Err("it ends too early".to_owned());
        };
        let (stored, computed) = (u32::from_be_bytes(*crc), crc32c(body));
        if stored != computed {
            return Err(format!(
                "stored CRC-32C {stored:#010x}, computed {computed:#010x}"
            ));
        }
        let flags = u16::from_be_bytes(cursor.take()?);
        let ring = RingId(cursor.take()?);
        let released_lsn = u64::from_be_bytes(cursor.take()?);
        let next_lsn = u64::from_be_bytes(cursor.take()?);
        let next_log_id = u64::from_be_bytes(cursor.take()?);
        let count = u32::from_be_bytes(cursor.take()?);
        let entry_bytes = match version {
            FIRST_VERSION => FIRST_ENTRY_BYTES,
            _ => ENTRY_BYTES,
        };
        let expected = HEADER_BYTES as u64 + u64::from(count) * entry_bytes as u64 + 4;
        if bytes.len() as u64 != expected {
            return Err(format!(
                "it has {} bytes where {count} logs take {expected}",
                bytes.len()
            ));
        }
        let mut logs = BTreeMap::new();
        for _ in 0..count {
            let id = LogId(u64::from_be_bytes(cursor.take()?));
            let mut log = LogCheckpoint {
                topic_id: Uuid(cursor.take()?),
                partition: i32::from_be_bytes(cursor.take()?),
                last_epoch: i32::from_be_bytes(cursor.take()?),
                lsn: u64::from_be_bytes(cursor.take()?),
                log_start: i64::from_be_bytes(cursor.take()?),
                end: i64::from_be_bytes(cursor.take()?),
                segment_base: i64::from_be_bytes(cursor.take()?),
                position: u64::from_be_bytes(cursor.take()?),
                high_watermark: 0,
            };
            log.high_watermark = match version {
                FIRST_VERSION => log.log_start,
                _ => i64::from_be_bytes(cursor.take()?),
            };
            logs.insert(id, log);
        }
        Ok(Self {
            ring,
            clean: flags & FLAG_CLEAN != 0,
            released_lsn,
            next_lsn,
            next_log_id,
            logs,
        })
    }

    /// Reads the file of data directory `dir`; `None` when there is none.
    ///
    /// # Errors
    /// `BadFile` for one that is damaged or from a newer release, `Io`.
    pub fn read(disk: &dyn Disk, dir: &Path) -> Result<Option<Self>, OpenError> {
        let file = dir.join(names::CHECKPOINT);
        let bytes = match disk::read_file(disk, &file, MAX_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        Self::decode(&bytes)
            .map(Some)
            .map_err(|reason| OpenError::BadFile { file, reason })
    }

    /// Replaces the file of data directory `dir`, durably.
    ///
    /// # Errors
    /// The disk failed; the old file is still there or replaced whole.
    pub fn write(&self, disk: &dyn Disk, dir: &Path) -> io::Result<()> {
        disk::write_file_atomic(disk, &dir.join(names::CHECKPOINT), &self.encode())
    }
}
