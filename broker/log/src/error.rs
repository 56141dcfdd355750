//! What can go wrong with a log, and what to do about it.

use std::io;
use std::path::PathBuf;

use tidemark_records::BatchError;

/// A log directory cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk failed.
    #[error("cannot open the log: {0}")]
    Io(#[from] io::Error),
    /// Bytes that were known to be on disk are damaged or gone.
    #[error(
        "{file} is corrupt at position {position} (offset {offset}): {reason}. Restore the file from a \
         copy, or cut the log there and lose what follows: start the broker once with --cut-corrupt-logs"
    )]
    Corrupt {
        /// The damaged file.
        file: PathBuf,
        /// Where the damage begins, in bytes.
        position: u64,
        /// The first offset that cannot be read.
        offset: i64,
        /// What is wrong.
        reason: String,
    },
    /// A small file beside the segments makes no sense.
    #[error("{file} cannot be used: {reason}")]
    BadFile {
        /// The file.
        file: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
}

/// An operation on an open log failed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The disk failed, or has no room.
    #[error("{}", of_disk(.0))]
    Io(#[from] io::Error),
    /// An earlier write or sync failed: what is in the page cache cannot be trusted.
    #[error("the log is out of use since a disk error ({reason}); replace the disk and restart")]
    Failed {
        /// The first error.
        reason: String,
    },
    /// It was asked to be cut while records are on their way to the disk.
    #[error("records of the log are still being written; try again")]
    Unsettled,
    /// A segment cannot be read.
    #[error("{file} is corrupt at position {position}: {reason}")]
    Corrupt {
        /// The damaged file.
        file: PathBuf,
        /// Where, in bytes.
        position: u64,
        /// What is wrong.
        reason: String,
    },
    /// An offset outside of the log was named.
    #[error("offset {offset} is outside of the log, which holds {log_start} to {end}")]
    OffsetOutOfRange {
        /// The offset asked for.
        offset: i64,
        /// First offset of the log.
        log_start: i64,
        /// Offset after the last record.
        end: i64,
    },
}

/// A batch was not appended; the log is as it was.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The sequence number leaves a gap (OUT_OF_ORDER_SEQUENCE_NUMBER).
    #[error(
        "producer {producer_id} sent sequence {sequence} where {expected} was expected: a batch before \
         it is missing"
    )]
    OutOfOrderSequence {
        /// The producer.
        producer_id: i64,
        /// The sequence number of the batch's first record.
        sequence: i32,
        /// The one that would have been right.
        expected: i32,
    },
    /// The producer has been replaced by one with a newer epoch (INVALID_PRODUCER_EPOCH).
    #[error("producer {producer_id} has epoch {epoch}, but {current} is in use: it was fenced")]
    InvalidProducerEpoch {
        /// The producer.
        producer_id: i64,
        /// The epoch of the batch.
        epoch: i16,
        /// The newest epoch seen.
        current: i16,
    },
    /// The batch is larger than a segment or than `max.message.bytes` allows.
    #[error(
        "the batch has {size_bytes} bytes, more than the {max_bytes} allowed: send smaller ones"
    )]
    TooLarge {
        /// Size of the batch in bytes.
        size_bytes: usize,
        /// The limit in bytes.
        max_bytes: u32,
    },
    /// The leader epoch is older than one in the log.
    #[error(
        "leader epoch {epoch} is older than epoch {current} of the log: another leader took over"
    )]
    StaleLeaderEpoch {
        /// The epoch to append in.
        epoch: i32,
        /// The log's newest.
        current: i32,
    },
    /// Replicated batches do not continue the log.
    #[error("a batch at offset {base_offset} does not continue the log, which ends at {end}")]
    NotContiguous {
        /// Base offset of the batch.
        base_offset: i64,
        /// The log's end.
        end: i64,
    },
    /// Replicated bytes are not whole batches.
    #[error("the bytes to append are not whole record batches: {0}")]
    BadBatch(#[from] BatchError),
    /// No offset is left, or the batch is empty.
    #[error("the batch cannot get offsets: {reason}")]
    NoOffsets {
        /// Why not.
        reason: &'static str,
    },
    /// The disk is full. Appends work again when there is room.
    #[error("the log's disk is full: {0}")]
    DiskFull(io::Error),
    /// The disk failed, now or earlier; the log is out of use.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Records could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The offset is not in the log (OFFSET_OUT_OF_RANGE).
    #[error("offset {offset} is outside of the log, which holds {log_start} to {end}")]
    OutOfRange {
        /// The offset asked for.
        offset: i64,
        /// First offset of the log.
        log_start: i64,
        /// Offset after the last record.
        end: i64,
    },
    /// The log was truncated or its segment deleted since the plan was made: make a new one.
    #[error("the log changed while it was read; try again")]
    Stale,
    /// The segment is damaged (CORRUPT_MESSAGE or KAFKA_STORAGE_ERROR).
    #[error("{file} is corrupt at position {position}: {reason}")]
    Corrupt {
        /// The damaged file.
        file: PathBuf,
        /// Where, in bytes.
        position: u64,
        /// What is wrong.
        reason: String,
    },
    /// The disk failed.
    #[error("the log cannot be read: {0}")]
    Io(io::Error),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        // A segment that retention removed between plan and read.
        if error.kind() == io::ErrorKind::NotFound {
            ReadError::Stale
        } else {
            ReadError::Io(error)
        }
    }
}

impl From<ReadError> for LogError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::OutOfRange {
                offset,
                log_start,
                end,
            } => LogError::OffsetOutOfRange {
                offset,
                log_start,
                end,
            },
            ReadError::Corrupt {
                file,
                position,
                reason,
            } => LogError::Corrupt {
                file,
                position,
                reason,
            },
            ReadError::Stale => LogError::Io(io::ErrorKind::NotFound.into()),
            ReadError::Io(error) => LogError::Io(error),
        }
    }
}

/// What a disk's error is to people: one that is full has not failed.
fn of_disk(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::StorageFull => {
            format!(
                "the log's disk is full: {error}. Free some room; a broker that ended can be started then"
            )
        }
        _ => format!("the log's disk failed: {error}"),
    }
}
