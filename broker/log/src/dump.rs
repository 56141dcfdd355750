//! The files of a partition's directory as typed rows, for looking at them.
//!
//! Streams: a segment of any size takes a bounded amount of memory. Damage is a row,
//! not an error, and is the last row where reading cannot go on.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidemark_env::disk::{self, Disk, DiskFile, OpenMode};
use tidemark_records::{Batch, BatchHeader, Limits, Record};

use crate::checkpoint::{DirCheckpoint, LogCheckpoint};
use crate::epochs::{EpochEntry, LeaderEpochs};
use crate::error::OpenError;
use crate::index::{OFFSET_ENTRY_BYTES, OffsetPosition, TIME_ENTRY_BYTES, TimestampOffset};
use crate::names;
use crate::producers::ProducerEntry;
use crate::scan::{BatchScanner, Step};
use crate::snapshot;
use crate::txn_index::{self, AbortedTransaction};

/// Index bytes read at a time; a multiple of every entry's size.
const INDEX_CHUNK_BYTES: usize = 34 * 12 * 8 * 16;
const MAX_SMALL_FILE_BYTES: usize = 256 << 20;

/// What a file of a partition's directory holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// `.log`: record batches.
    Log,
    /// `.index`: offsets to positions.
    OffsetIndex,
    /// `.timeindex`: timestamps to offsets.
    TimeIndex,
    /// `.txnindex`: aborted transactions.
    TransactionIndex,
    /// `.snapshot`: producers.
    ProducerSnapshot,
    /// `leader-epoch-checkpoint`.
    LeaderEpochs,
    /// `tidemark-checkpoint`.
    Checkpoint,
}

impl FileKind {
    /// The kind of the file at `path`, by its name.
    pub fn of(path: &Path) -> Option<FileKind> {
        match path.file_name()?.to_str()? {
            names::EPOCHS => Some(FileKind::LeaderEpochs),
            names::CHECKPOINT => Some(FileKind::Checkpoint),
            name => match name.rsplit_once('.')?.1 {
                names::LOG => Some(FileKind::Log),
                names::INDEX => Some(FileKind::OffsetIndex),
                names::TIME_INDEX => Some(FileKind::TimeIndex),
                names::TXN_INDEX => Some(FileKind::TransactionIndex),
                names::SNAPSHOT => Some(FileKind::ProducerSnapshot),
                _ => None,
            },
        }
    }
}

/// A batch in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchRow {
    /// Where it begins in the file, in bytes.
    pub position: u64,
    /// Its header.
    pub header: BatchHeader,
    /// The CRC-32C of its bytes when that is not the one in the header.
    pub wrong_crc: Option<u32>,
}

/// One row of a dump.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Row {
    /// A batch of a segment.
    Batch(BatchRow),
    /// An entry of an offset index.
    Offset(OffsetPosition),
    /// An entry of a time index.
    Time(TimestampOffset),
    /// An entry of a transaction index.
    Aborted(AbortedTransaction),
    /// A producer of a snapshot.
    Producer(Box<ProducerEntry>),
    /// A leader epoch.
    Epoch(EpochEntry),
    /// The write-ahead log that our checkpoint goes with, and whether it was closed cleanly.
    Ring {
        /// The ring's id, in hexadecimal digits.
        ring: String,
        /// The number of the next group.
        next_lsn: u64,
        /// Everything was in the segment files.
        clean: bool,
    },
    /// A log in our checkpoint, with its id in the write-ahead log.
    Checkpoint(u64, LogCheckpoint),
    /// Something that cannot be read.
    Damage {
        /// Where, in bytes.
        position: u64,
        /// What is wrong.
        reason: String,
    },
}

/// A file cannot be dumped.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The name says nothing.
    #[error(
        "{0} is none of the files of a partition's or data directory: name a .log, .index, .timeindex, \
         .txnindex, .snapshot, leader-epoch-checkpoint or tidemark-checkpoint"
    )]
    UnknownKind(PathBuf),
    /// Index entries are relative to the offset that should be in the name.
    #[error("{0} does not begin with an offset of 20 digits, which its entries are relative to")]
    NoBaseOffset(PathBuf),
    /// The disk failed, or there is no such file.
    #[error("cannot read: {0}")]
    Io(#[from] io::Error),
    /// A newer release wrote it.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// The rows of one file, as an iterator.
#[derive(Debug)]
pub struct Dump {
    kind: FileKind,
    source: Source,
    done: bool,
}

#[derive(Debug)]
enum Source {
    Batches {
        file: Arc<dyn DiskFile>,
        scanner: BatchScanner,
    },
    Index {
        file: Arc<dyn DiskFile>,
        base: i64,
        position: u64,
        rows: VecDeque<Row>,
    },
    Rows(VecDeque<Row>),
}

impl Dump {
    /// Opens the file at `path`; its name says what it is.
    ///
    /// # Errors
    /// See [`DumpError`].
    pub fn open(disk: &dyn Disk, path: &Path) -> Result<Dump, DumpError> {
        let kind = FileKind::of(path).ok_or_else(|| DumpError::UnknownKind(path.to_owned()))?;
        let source = match kind {
            FileKind::Log => {
                let file = disk.open(path, OpenMode::Read)?;
                let len = file.len()?;
                Source::Batches {
                    scanner: BatchScanner::headers(file.clone(), 0, len),
                    file,
                }
            }
            FileKind::OffsetIndex | FileKind::TimeIndex | FileKind::TransactionIndex => {
                let name = path.file_name().and_then(|name| name.to_str());
                let (base, _) = name
                    .and_then(names::parse)
                    .ok_or_else(|| DumpError::NoBaseOffset(path.to_owned()))?;
                Source::Index {
                    file: disk.open(path, OpenMode::Read)?,
                    base,
                    position: 0,
                    rows: VecDeque::new(),
                }
            }
            FileKind::ProducerSnapshot => {
                let bytes = disk::read_file(disk, path, MAX_SMALL_FILE_BYTES)?;
                Source::Rows(match snapshot::decode(&bytes, 0) {
                    Ok(producers) => producers
                        .iter()
                        .map(|entry| Row::Producer(Box::new(entry.clone())))
                        .collect(),
                    Err(reason) => damage(0, reason),
                })
            }
            FileKind::LeaderEpochs => {
                let bytes = disk::read_file(disk, path, MAX_SMALL_FILE_BYTES)?;
                let parsed = LeaderEpochs::parse(&String::from_utf8_lossy(&bytes));
                Source::Rows(match parsed {
                    Ok(epochs) => epochs.entries().iter().copied().map(Row::Epoch).collect(),
                    Err(reason) => damage(0, reason),
                })
            }
            FileKind::Checkpoint => {
                let bytes = disk::read_file(disk, path, MAX_SMALL_FILE_BYTES)?;
                Source::Rows(match DirCheckpoint::decode(&bytes) {
                    Ok(checkpoint) => {
                        let ring = Row::Ring {
                            ring: checkpoint.ring.to_string(),
                            next_lsn: checkpoint.next_lsn,
                            clean: checkpoint.clean,
                        };
                        let logs = checkpoint.logs.iter();
                        let logs = logs.map(|(id, log)| Row::Checkpoint(id.0, *log));
                        std::iter::once(ring).chain(logs).collect()
                    }
                    Err(reason) => damage(0, reason),
                })
            }
        };
        Ok(Dump {
            kind,
            source,
            done: false,
        })
    }

    /// What kind of file it is.
    pub fn kind(&self) -> FileKind {
        self.kind
    }

    /// The records of a batch that this dump of a segment gave. Decompressing stops at
    /// `limits`.
    ///
    /// # Errors
    /// The disk failed; or, inside, that the batch does not decode.
    pub fn records(
        &self,
        row: &BatchRow,
        limits: Limits,
    ) -> io::Result<Result<Vec<Record>, tidemark_records::BatchError>> {
        let Source::Batches { file, .. } = &self.source else {
            return Ok(Ok(Vec::new()));
        };
        let batch = Batch {
            header: row.header,
            bytes: file.read_bytes_at(row.position, row.header.size_bytes())?,
        };
        Ok(batch.records(limits).and_then(Iterator::collect))
    }

    fn row(&mut self) -> io::Result<Option<Row>> {
        match &mut self.source {
            Source::Rows(rows) => Ok(rows.pop_front()),
            Source::Batches { scanner, .. } => Ok(match scanner.step()? {
                Step::End => None,
                Step::Bad { position, reason } => {
                    self.done = true;
                    Some(Row::Damage { position, reason })
                }
                Step::Batch { position, header } => Some(Row::Batch(BatchRow {
                    position,
                    wrong_crc: scanner.crc_mismatch(position, &header)?,
                    header,
                })),
            }),
            Source::Index {
                file,
                base,
                position,
                rows,
            } => {
                if rows.is_empty() {
                    let chunk = file.read_bytes_at(*position, INDEX_CHUNK_BYTES)?;
                    *rows = index_rows(self.kind, *base, *position, &chunk);
                    *position += chunk.len() as u64;
                }
                Ok(rows.pop_front())
            }
        }
    }
}

fn damage(position: u64, reason: String) -> VecDeque<Row> {
    VecDeque::from([Row::Damage { position, reason }])
}

fn index_rows(kind: FileKind, base: i64, position: u64, chunk: &[u8]) -> VecDeque<Row> {
    type Decode = fn(i64, &[u8]) -> Option<Row>;
    let (entry_bytes, decode): (usize, Decode) = match kind {
        FileKind::OffsetIndex => (OFFSET_ENTRY_BYTES, |base, bytes| {
            Some(Row::Offset(OffsetPosition::decode(base, bytes)))
        }),
        FileKind::TimeIndex => (TIME_ENTRY_BYTES, |base, bytes| {
            Some(Row::Time(TimestampOffset::decode(base, bytes)))
        }),
        _ => (txn_index::ENTRY_BYTES, |_, bytes| {
            txn_index::decode(bytes).map(Row::Aborted)
        }),
    };
    let entries = chunk.chunks_exact(entry_bytes);
    let rest = entries.remainder().len();
    let mut rows: VecDeque<Row> = entries
        .enumerate()
        .map(|(index, bytes)| {
            decode(base, bytes).unwrap_or_else(|| Row::Damage {
                position: position + (index * entry_bytes) as u64,
                reason: "an entry of an unknown version".to_owned(),
            })
        })
        .collect();
    if rest > 0 {
        rows.push_back(Row::Damage {
            position: position + (chunk.len() - rest) as u64,
            reason: format!("{rest} bytes where an entry has {entry_bytes}"),
        });
    }
    rows
}

impl Iterator for Dump {
    type Item = io::Result<Row>;

    fn next(&mut self) -> Option<io::Result<Row>> {
        if self.done {
            return None;
        }
        let row = self.row();
        self.done |= !matches!(row, Ok(Some(_)));
        row.transpose()
    }
}
