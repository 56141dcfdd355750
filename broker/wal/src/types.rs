//! What goes into a write-ahead log and what it tells.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

/// Number of a commit group: from 1, one more for each, never used again on a disk.
pub type Lsn = u64;

/// Local id of a partition's log, never used again on that disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId(pub u64);

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Tells the files of one ring from what an earlier one left behind; chosen at random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RingId(pub [u8; 16]);

impl fmt::Display for RingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// One change of a partition's log.
#[derive(Debug, Clone, Copy)]
pub enum Record<'a> {
    /// Binds the log's id to a partition.
    Create {
        /// The topic's id.
        topic_id: [u8; 16],
        /// The partition's index.
        partition: i32,
    },
    /// The log is gone; its id is dead from here on.
    Delete,
    /// Record batches.
    Batches {
        /// Offset of the first record.
        base_offset: i64,
        /// One more than the offset of the last.
        next_offset: i64,
        /// Epoch of the leader that appended them.
        leader_epoch: i32,
        /// The bytes, in pieces: one after the other in the group's payload.
        parts: &'a [&'a [u8]],
    },
    /// Everything from an offset on was cut off.
    Truncate {
        /// The new end.
        end_offset: i64,
    },
    /// Everything was removed.
    Reset {
        /// The log begins and ends here now.
        start_offset: i64,
        /// What a snapshot says of the producers at that very offset is kept.
        keeps_producers: bool,
    },
    /// A leader's epoch began.
    Epoch {
        /// The epoch.
        leader_epoch: i32,
        /// Its first offset.
        start_offset: i64,
    },
    /// The log's start moved up.
    LogStart {
        /// The new start.
        offset: i64,
    },
}

/// Where a record was put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// Its group.
    pub lsn: Lsn,
    /// Position of its bytes in the group's payload.
    pub position: u32,
}

/// Who is told about a group: a partition.
pub trait Member: Send + Sync {
    /// All of the group is durable. `payload` has the bytes of all its `Batches` records;
    /// holding on to a slice of it keeps its chunk of memory in use.
    fn durable(self: Arc<Self>, lsn: Lsn, payload: &Bytes);

    /// The disk failed: neither the group nor anything after it becomes durable. It may
    /// be found after a restart all the same.
    fn failed(self: Arc<Self>, failure: &Failure);
}

/// Why nothing more becomes durable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// A write failed, or the disk was given up from elsewhere.
    #[error("the write-ahead log failed: {0}")]
    Disk(Arc<str>),
    /// It was stopped.
    #[error("the write-ahead log was stopped")]
    Stopped,
}

/// Where a ring is and how large it gets.
#[derive(Debug, Clone)]
pub struct WalConfig {
    /// Its directory, which holds nothing else.
    pub dir: PathBuf,
    /// Length of each file; rounded up to 4 KiB.
    pub file_bytes: u64,
    /// All files together; at least two of them.
    pub max_bytes: u64,
    /// Size of a chunk of memory; rounded up to 4 KiB. Larger records get memory of
    /// their own.
    pub chunk_bytes: usize,
    /// All chunks together; at least two of them.
    pub memory_bytes: usize,
}

impl WalConfig {
    /// The usual sizes in directory `dir`: files of 16 MiB, 512 MiB of them, chunks of
    /// 4 MiB, 64 MiB of memory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            file_bytes: 16 << 20,
            max_bytes: 512 << 20,
            chunk_bytes: 4 << 20,
            memory_bytes: 64 << 20,
        }
    }
}

/// How much a ring and its memory are in use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pressure {
    /// Chunks of memory in use, of those allowed; above 1 when more are in use.
    pub memory: f64,
    /// Bytes in files that cannot be written over yet, of those allowed; 1 when the writer
    /// waits for a file, and the disk has no room for another.
    pub ring: f64,
    /// Bytes in files that cannot be written over yet.
    pub ring_bytes: u64,
    /// Bytes of memory in use.
    pub memory_bytes: usize,
    /// Bytes that wait to be written, or are being written.
    pub queued_bytes: usize,
}

/// What [`crate::Wal::wait_for_pressure`] waits for, as shares like those of [`Pressure`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Share of the memory that may be in use.
    pub memory: f64,
    /// Share of the ring that may be in use.
    pub ring: f64,
}

impl Limits {
    /// Never reached.
    pub const NONE: Limits = Limits {
        memory: f64::INFINITY,
        ring: f64::INFINITY,
    };

    pub(crate) fn passed(self, pressure: &Pressure) -> bool {
        pressure.memory >= self.memory || pressure.ring >= self.ring
    }
}

/// What a group cost.
#[derive(Debug, Clone, Copy)]
pub struct GroupWritten {
    /// Its number.
    pub lsn: Lsn,
    /// Bytes written, padding included.
    pub bytes: usize,
    /// Bytes of its `Batches` records.
    pub payload_bytes: usize,
    /// Records in it.
    pub records: usize,
    /// From the moment it was taken until everyone was told.
    pub took: Duration,
    /// The write alone: how long the device took to make it durable.
    pub write_latency: Duration,
}
