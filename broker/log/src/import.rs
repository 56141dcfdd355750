//! Taking in a partition's directory that Apache Kafka wrote, offsets kept.
//!
//! Everything is checked before anything is believed: every batch's CRC, that offsets
//! increase, that segments follow each other. The source is only read. The copy is
//! made beside its target and renamed when it is whole and synced.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidemark_env::disk::{self, Disk, DiskFile, OpenMode};
use tidemark_records::BatchHeader;
use tidemark_wal::LogId;
use tidemark_wire::Uuid;

use crate::checkpoint::{DirCheckpoint, LogCheckpoint};
use crate::config::LogConfig;
use crate::error::{LogError, OpenError};
use crate::index::relative;
use crate::log::Log;
use crate::names;
use crate::recovery::{OnCorruption, OpenArgs, topic_id_of};
use crate::scan::{BatchScanner, Step, find_batch_after};
use crate::segment::DataDir;
use crate::sync::sync_parts;

const COPY_BYTES: usize = 1 << 20;
const MAX_SMALL_FILE_BYTES: usize = 256 << 20;

/// What to import, and where to.
#[derive(Debug)]
pub struct ImportArgs {
    /// The disk of both.
    pub disk: Arc<dyn Disk>,
    /// Kafka's directory, `<topic>-<partition>`. Kafka must not be running on it.
    pub source: PathBuf,
    /// The directory to make; it must not exist, or be empty.
    pub target: PathBuf,
    /// Id of the topic that it becomes part of.
    pub topic_id: Uuid,
    /// The partition that it becomes.
    pub partition: i32,
    /// The time, in milliseconds since 1970.
    pub now_ms: i64,
    /// Refuse when the first segment has nothing newer than this time in milliseconds:
    /// retention would delete it at once.
    pub expired_before_ms: Option<i64>,
}

/// What was imported.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Imported {
    /// First offset.
    pub log_start_offset: i64,
    /// Offset after the last record.
    pub end_offset: i64,
    /// Segments.
    pub segments: usize,
    /// Batches.
    pub batches: u64,
    /// Bytes of batches.
    pub bytes: u64,
    /// The newest leader epoch: the partition's leader must begin above it.
    pub latest_epoch: Option<i32>,
    /// The largest producer id in it, or -1: new producers must be given larger ones, as
    /// the log knows this one's sequence numbers.
    pub last_producer_id: i64,
    /// What the data directory's checkpoint has to say of it.
    pub checkpoint: LogCheckpoint,
    /// What somebody should know: a torn tail that was left out, an open transaction.
    pub notes: Vec<String>,
}

/// Why a directory was not imported. Nothing is left at the target.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The source is not a partition's directory.
    #[error(
        "{path} holds no segments (.log files): name a partition's directory, <topic>-<partition>"
    )]
    NoSegments {
        /// The source.
        path: PathBuf,
    },
    /// There is something at the target.
    #[error("{path} exists and is not empty: import into a new partition")]
    TargetNotEmpty {
        /// The target.
        path: PathBuf,
    },
    /// Kafka was in the middle of rewriting segments.
    #[error(
        "{file} says that compaction was interrupted: start Kafka once, stop it cleanly, then import"
    )]
    InterruptedCompaction {
        /// The `.swap` file.
        file: PathBuf,
    },
    /// Messages older than Kafka 0.11.
    #[error(
        "{file} has messages of the old format {magic} at position {position}: let Kafka 3.x rewrite the topic \
         (mirror it into a new one) and import that"
    )]
    OldFormat {
        /// The segment.
        file: PathBuf,
        /// Where, in bytes.
        position: u64,
        /// 0 or 1.
        magic: u8,
    },
    /// Retention would delete what was imported.
    #[error(
        "{file} has nothing newer than {newest_ms} ms after 1970: retention would delete it at once"
    )]
    Expired {
        /// The first segment.
        file: PathBuf,
        /// Its largest timestamp, in milliseconds since 1970.
        newest_ms: i64,
    },
    /// A segment is damaged.
    #[error(
        "{file} is corrupt at position {position}: {reason}. Nothing was imported; import another replica"
    )]
    Corrupt {
        /// The segment.
        file: PathBuf,
        /// Where, in bytes.
        position: u64,
        /// What is wrong.
        reason: String,
    },
    /// The disk failed.
    #[error("cannot import: {0}")]
    Io(#[from] io::Error),
    /// The copy cannot be opened.
    #[error("the copy cannot be opened: {0}")]
    Open(#[from] OpenError),
    /// The copy cannot be closed.
    #[error("the copy cannot be completed: {0}")]
    Log(#[from] LogError),
}

/// Imports a partition's directory. `progress` is told how many bytes have been
/// checked or copied so far, and how many that will be. Blocks.
///
/// # Errors
/// See [`ImportError`].
pub fn import_partition(
    args: &ImportArgs,
    mut progress: impl FnMut(u64, u64),
) -> Result<Imported, ImportError> {
    let disk = &*args.disk;
    let sources = segments(disk, &args.source)?;
    if disk.exists(&args.target)? && !disk.list(&args.target)?.is_empty() {
        return Err(ImportError::TargetNotEmpty {
            path: args.target.clone(),
        });
    }
    let total = 2 * sources.iter().map(|(_, len)| len).sum::<u64>();
    let mut done = 0;
    let mut imported = Imported {
        last_producer_id: -1,
        ..Imported::default()
    };
    let mut newest_ms = -1;
    let mut lens = Vec::with_capacity(sources.len());
    let mut expected = 0;
    for (index, (base, len)) in sources.iter().copied().enumerate() {
        let last = index + 1 == sources.len();
        let path = names::path(&args.source, base, names::LOG);
        let mut seen = |header: &BatchHeader| {
            newest_ms = newest_ms.max(header.max_timestamp_ms);
            imported.last_producer_id = imported.last_producer_id.max(header.producer_id);
            imported.batches += 1;
            imported.bytes += header.size_bytes() as u64;
        };
        let (kept, note) = check_segment(disk, &path, base, len, last, &mut expected, &mut seen)?;
        imported.segments += 1;
        imported.notes.extend(note);
        let expired = args
            .expired_before_ms
            .is_some_and(|cutoff| newest_ms < cutoff);
        if index == 0 && newest_ms >= 0 && expired {
            return Err(ImportError::Expired {
                file: path,
                newest_ms,
            });
        }
        lens.push((base, kept));
        done += len;
        progress(done, total);
    }
    let staging = names::with_suffix(&args.target, ".importing");
    if disk.exists(&staging)? {
        disk.remove_dir_all(&staging)?;
    }
    disk.create_dir_all(&staging)?;
    let copied = copy(args, &staging, &lens, &mut |bytes| {
        done += bytes;
        progress(done, total);
    })
    .and_then(|()| complete(args, &staging, &mut imported));
    if let Err(error) = copied {
        if let Err(left) = disk.remove_dir_all(&staging) {
            tracing::warn!(path = %staging.display(), error = %left, "an unfinished import stays behind");
        }
        return Err(error);
    }
    if disk.exists(&args.target)? {
        disk.remove_dir_all(&args.target)?;
    }
    disk.rename(&staging, &args.target)?;
    if let Some(parent) = args.target.parent() {
        disk.sync_dir(parent)?;
    }
    progress(total, total);
    Ok(imported)
}

/// Base offsets and lengths of the segments in `dir`.
fn segments(disk: &dyn Disk, dir: &Path) -> Result<Vec<(i64, u64)>, ImportError> {
    let mut found = Vec::new();
    for entry in disk.list(dir)? {
        if entry.name.ends_with(".swap") {
            return Err(ImportError::InterruptedCompaction {
                file: dir.join(entry.name),
            });
        }
        if let Some((base, names::LOG)) = names::parse(&entry.name) {
            found.push((base, entry.len));
        }
    }
    if found.is_empty() {
        return Err(ImportError::NoSegments {
            path: dir.to_owned(),
        });
    }
    Ok(found)
}

/// Checks a segment; gives how much of it is good, which is all but a torn tail, and a
/// note of the tail.
fn check_segment(
    disk: &dyn Disk,
    path: &Path,
    base: i64,
    len: u64,
    last: bool,
    expected: &mut i64,
    seen: &mut dyn FnMut(&BatchHeader),
) -> Result<(u64, Option<String>), ImportError> {
    let corrupt = |position: u64, reason: String| ImportError::Corrupt {
        file: path.to_owned(),
        position,
        reason,
    };
    if len > u64::from(u32::MAX) {
        return Err(corrupt(
            0,
            format!("{len} bytes are too many for a segment"),
        ));
    }
    if base < *expected {
        return Err(corrupt(
            0,
            format!("the segment before it ends at offset {expected}"),
        ));
    }
    *expected = base;
    let file = disk.open(path, OpenMode::Read)?;
    let mut scanner = BatchScanner::verified(file.clone(), 0, len);
    loop {
        let position = scanner.position();
        match scanner.step()? {
            Step::End => return Ok((len, None)),
            Step::Batch { header, .. } => {
                check_batch(&header, base, *expected)
                    .map_err(|reason| corrupt(position, reason))?;
                *expected = header.next_offset();
                seen(&header);
            }
            Step::Bad { position, reason } => {
                if let Some(magic) = old_format(&*file, position, len)? {
                    return Err(ImportError::OldFormat {
                        file: path.to_owned(),
                        position,
                        magic,
                    });
                }
                if !last || find_batch_after(&file, position, len, *expected - 1)?.is_some() {
                    return Err(corrupt(position, reason));
                }
                let note = format!(
                    "the last {} bytes of {} were never completely written and are left out",
                    len - position,
                    path.display()
                );
                return Ok((position, Some(note)));
            }
        }
    }
}

fn check_batch(header: &BatchHeader, base: i64, expected: i64) -> Result<(), String> {
    if header.base_offset < expected {
        return Err(format!(
            "the batch has offset {}, and {expected} is the lowest that can follow",
            header.base_offset
        ));
    }
    if relative(base, header.last_offset()).is_none() {
        return Err(format!(
            "offset {} is too far from the segment's base",
            header.last_offset()
        ));
    }
    Ok(())
}

/// 0 or 1 when what is at `position` looks like a message of before Kafka 0.11.
fn old_format(file: &dyn DiskFile, position: u64, len: u64) -> io::Result<Option<u8>> {
    let head = file.read_bytes_at(position, 17)?;
    let Some(head) = head.first_chunk::<17>() else {
        return Ok(None);
    };
    let size = i32::from_be_bytes([head[8], head[9], head[10], head[11]]);
    let plausible = size >= 14 && i64::from(size) <= i64::try_from(len).unwrap_or(i64::MAX);
    Ok((plausible && head[16] < 2).then_some(head[16]))
}

/// Copies the good part of the segments and the small files that are kept.
fn copy(
    args: &ImportArgs,
    staging: &Path,
    lens: &[(i64, u64)],
    progress: &mut dyn FnMut(u64),
) -> Result<(), ImportError> {
    let disk = &*args.disk;
    for (base, len) in lens.iter().copied() {
        let from = disk.open(&names::path(&args.source, base, names::LOG), OpenMode::Read)?;
        let to = disk.open(&names::path(staging, base, names::LOG), OpenMode::CreateNew)?;
        let mut at = 0;
        while at < len {
            let wanted = usize::try_from(len - at)
                .unwrap_or(COPY_BYTES)
                .min(COPY_BYTES);
            let part = from.read_bytes_at(at, wanted)?;
            if part.is_empty() {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            to.write_at(&part, at)?;
            at += part.len() as u64;
            progress(part.len() as u64);
        }
        to.sync_data()?;
    }
    for entry in disk.list(&args.source)? {
        let wanted = entry.name == names::EPOCHS
            || matches!(
                names::parse(&entry.name),
                Some((_, names::SNAPSHOT | names::TXN_INDEX))
            );
        if wanted && !entry.is_dir {
            let bytes =
                disk::read_file(disk, &args.source.join(&entry.name), MAX_SMALL_FILE_BYTES)?;
            let to = disk.open(&staging.join(&entry.name), OpenMode::CreateNew)?;
            to.write_at(&bytes, 0)?;
            to.sync_data()?;
        }
    }
    Ok(())
}

/// Opens the copy, which makes its indexes and state, and closes it cleanly.
fn complete(args: &ImportArgs, staging: &Path, imported: &mut Imported) -> Result<(), ImportError> {
    let parent = DataDir {
        disk: args.disk.clone(),
        path: staging.parent().unwrap_or(Path::new("")).to_owned(),
        wal: None,
    };
    let (mut log, _) = Log::open(OpenArgs {
        parent: Arc::new(parent),
        name: staging.file_name().unwrap_or_default().to_owned(),
        id: LogId(0),
        topic_id: Some(args.topic_id),
        known: None,
        trust_indexes: false,
        config: Arc::new(LogConfig::default()),
        on_corruption: OnCorruption::Refuse,
        now_ms: args.now_ms,
    })?;
    if let Some(start) = log_start(&*args.disk, &args.source)? {
        log.start_at(start.min(log.durable_offset()));
    }
    imported.log_start_offset = log.log_start_offset();
    imported.end_offset = log.end_offset();
    imported.latest_epoch = log.epochs().latest();
    let producers = log.producers().iter().map(|entry| entry.producer_id);
    imported.last_producer_id = producers.fold(imported.last_producer_id, i64::max);
    if let Some(first) = log.producers().first_unstable_offset() {
        imported.notes.push(format!(
            "a transaction that began at offset {first} was never finished: consumers that read only \
             committed records stop there"
        ));
    }
    let part = log.close(0, (args.topic_id, args.partition), args.now_ms)?;
    imported.checkpoint = part.entry;
    sync_parts(&*args.disk, staging, &[part])?;
    Ok(())
}

/// The partition's log start in Kafka's `log-start-offset-checkpoint`, which lies beside
/// the partitions' directories, or in our own checkpoint there.
fn log_start(disk: &dyn Disk, source: &Path) -> io::Result<Option<i64>> {
    let (Some(parent), Some(name)) = (
        source.parent(),
        source.file_name().and_then(|name| name.to_str()),
    ) else {
        return Ok(None);
    };
    // One that cannot be read is none: more records are then served, not fewer.
    if let Ok(Some(ours)) = DirCheckpoint::read(disk, parent) {
        let id = topic_id_of(disk, source).unwrap_or(None);
        let index = name
            .rsplit_once('-')
            .and_then(|(_, index)| index.parse().ok());
        let mut logs = ours.logs.values();
        let log = logs.find(|log| Some(log.topic_id) == id && Some(log.partition) == index);
        return Ok(log.map(|log| log.log_start));
    }
    let path = parent.join("log-start-offset-checkpoint");
    if !disk.exists(&path)? {
        return Ok(None);
    }
    let bytes = disk::read_file(disk, &path, MAX_SMALL_FILE_BYTES)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.lines().skip(2).find_map(|line| {
        let mut words = line.split_whitespace();
        let (topic, partition, offset) = (words.next()?, words.next()?, words.next()?);
        (format!("{topic}-{partition}") == name)
            .then(|| offset.parse().ok())
            .flatten()
    }))
}
