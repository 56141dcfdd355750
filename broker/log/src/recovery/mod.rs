//! Opening a log: finding its segments, checking what a crash may have left, and
//! putting the state together again.
//!
//! The log is trusted up to the recovery point of its checkpoint and scanned, CRCs
//! checked, from there. Bad bytes above what was known durable are a torn tail and
//! cut off; bad bytes below are damage, which is reported and not repaired unasked.
//! Opening twice gives what opening once gives.

mod files;
mod segments;

pub use files::topic_id_of;
pub(crate) use files::{ensure_snapshot, load_producers, read_topic_id, snapshot_offsets};

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tidemark_env::disk::{self, DirEntry, Disk, OpenMode};
use tidemark_wire::Uuid;

use crate::checkpoint::{Checkpoint, CheckpointFile};
use crate::config::LogConfig;
use crate::epochs::LeaderEpochs;
use crate::error::OpenError;
use crate::log::Log;
use crate::names;
use crate::segment::{Segment, lock};
use crate::tail::{Tail, open_indexes};

/// A checkpoint file of epochs longer than this is not one.
const MAX_SMALL_FILE_BYTES: usize = 16 << 20;

/// What to do when bytes that were known durable are damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnCorruption {
    /// Refuse to open the log.
    #[default]
    Refuse,
    /// Cut the log at the damage, keeping what was cut beside it (`.cut`). Loses
    /// acknowledged records: only when a person asked for it.
    Truncate,
}

/// How to open a log.
#[derive(Debug)]
pub struct OpenArgs {
    /// Where it is.
    pub disk: Arc<dyn Disk>,
    /// The partition's directory, `<topic>-<partition>`. Made when it is not there.
    pub dir: PathBuf,
    /// The topic's id: written to a new directory's `partition.metadata`, compared
    /// with that of an existing one. `None` takes what is there.
    pub topic_id: Option<Uuid>,
    /// Settings.
    pub config: Arc<LogConfig>,
    /// What to do about damage.
    pub on_corruption: OnCorruption,
    /// The time, in milliseconds since 1970.
    pub now_ms: i64,
}

/// What opening a log found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The log was new: nothing was there before.
    pub created: bool,
    /// Nothing had to be scanned: it was closed cleanly, or has not changed since.
    pub clean: bool,
    /// Bytes whose CRCs were checked.
    pub scanned_bytes: u64,
    /// Bytes cut off the end.
    pub cut_bytes: u64,
    /// Why they were cut, and where.
    pub cut_reason: Option<String>,
    /// Where they were kept, when there were valid batches among them.
    pub cut_kept_in: Vec<PathBuf>,
    /// Records that were known to be on disk are gone: only where [`OnCorruption::Truncate`] allowed it.
    pub lost_durable: bool,
    /// Segments that did not continue the log and were taken out of it.
    pub segments_set_aside: usize,
    /// Segments whose indexes were made anew.
    pub rebuilt_indexes: usize,
    /// Topic id in `partition.metadata`.
    pub topic_id: Option<Uuid>,
}

impl Log {
    /// Opens the log in a directory, or makes a new one there.
    ///
    /// # Errors
    /// [`OpenError::Corrupt`] for damage (see [`OnCorruption`]), `BadFile` for a
    /// directory of another topic or a newer release, `Io`.
    pub fn open(args: OpenArgs) -> Result<(Log, Recovery), OpenError> {
        Opening::new(args)?.run()
    }
}

struct Opening {
    args: OpenArgs,
    files: BTreeMap<String, u64>,
    bases: Vec<i64>,
    recovery: Recovery,
}

/// The segments while they are gone through, and in the end what they gave.
struct Scanned {
    checkpoint: Checkpoint,
    /// Whether there was a checkpoint: otherwise another program wrote the log, and
    /// compaction may have left gaps in it.
    known: bool,
    epochs: LeaderEpochs,
    segments: Vec<Segment>,
    end: i64,
    tail: Option<Box<Tail>>,
}

impl Opening {
    fn new(args: OpenArgs) -> Result<Self, OpenError> {
        let mut recovery = Recovery::default();
        let entries = match args.disk.list(&args.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                args.disk.create_dir_all(&args.dir)?;
                Vec::new()
            }
            Err(error) => return Err(error.into()),
        };
        let mut files = BTreeMap::new();
        for DirEntry { name, is_dir, len } in entries {
            let leftover = name.ends_with(names::DELETED_SUFFIX)
                || name.ends_with(".tmp")
                || name.ends_with(".cleaned");
            if leftover && !is_dir {
                args.disk.remove(&args.dir.join(&name))?;
            } else if !is_dir {
                files.insert(name, len);
            }
        }
        let bases: Vec<i64> = files
            .keys()
            .filter_map(|name| names::parse(name))
            .filter(|(_, extension)| *extension == names::LOG)
            .map(|(base, _)| base)
            .collect();
        recovery.created = bases.is_empty() && !files.contains_key(names::CHECKPOINT);
        Ok(Self {
            args,
            files,
            bases,
            recovery,
        })
    }

    fn disk(&self) -> &dyn Disk {
        &*self.args.disk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.args.dir.join(name)
    }

    fn run(mut self) -> Result<(Log, Recovery), OpenError> {
        self.topic_id()?;
        self.remove_orphans()?;
        let first_base = self.bases.first().copied().unwrap_or(0);
        let nothing_known = Checkpoint {
            generation: 1,
            log_start: first_base,
            recovery_point: first_base,
            segment_base: first_base,
            position: 0,
            durable_end: first_base,
        };
        let file = CheckpointFile::read(self.disk(), &self.args.dir, nothing_known)?;
        let known = file.as_ref().map(CheckpointFile::current);
        let checkpoint = known.unwrap_or(nothing_known);
        let file = file.unwrap_or_else(|| CheckpointFile::new(&self.args.dir, checkpoint));
        let shared = Log::new_shared(self.args.disk.clone(), self.args.dir.clone(), file);
        let epochs_before = self.read_epochs(known.is_none())?;
        let mut scanned = Scanned {
            checkpoint,
            known: known.is_some(),
            epochs: epochs_before.clone(),
            segments: Vec::with_capacity(self.bases.len()),
            end: checkpoint.recovery_point,
            tail: None,
        };
        self.scan(&shared, &mut scanned)?;
        let end = scanned.end;
        let first_base = scanned.segments.first().map_or(end, Segment::base_offset);
        let log_start = checkpoint.log_start.max(first_base).min(end);
        let mut epochs = std::mem::take(&mut scanned.epochs);
        // One that begins at the end has no records yet: its leader said so durably.
        epochs.truncate_from_end(end + 1);
        epochs.truncate_from_start(log_start);
        let (producers, snapshot_offset) = self.producers(&shared, &scanned)?;
        let size_bytes = scanned
            .segments
            .iter()
            .map(|segment| u64::from(segment.size_bytes))
            .sum();
        let mut log = Log {
            config: self.args.config.clone(),
            segments: scanned.segments,
            tail: scanned.tail,
            log_start,
            end,
            durable: end,
            size_bytes,
            epochs_dirty: epochs != epochs_before,
            epochs,
            producers,
            snapshot_offset,
            names_changed: 0,
            names_synced: 0,
            names_unsure: true,
            sealed_since_checkpoint: 0,
            doomed: Vec::new(),
            failed: None,
            opened_ms: self.args.now_ms,
            idle_end: end,
            shared,
        };
        self.finish(&mut log, &checkpoint, known.is_some())?;
        Ok((log, self.recovery))
    }

    /// Makes durable what was found, so that the log may say so.
    fn finish(
        &mut self,
        log: &mut Log,
        checkpoint: &Checkpoint,
        known: bool,
    ) -> Result<(), OpenError> {
        if log.segments.is_empty() {
            log.create_segment(log.end)?;
        }
        if self.recovery.created {
            // Nothing to keep yet; the first flush syncs the names.
            self.recovery.clean = true;
            log.names_changed += 1;
            lock(&log.shared.checkpoint).write(self.disk(), |_| {})?;
            return Ok(());
        }
        let active = log.active();
        let clean = known
            && self.recovery.cut_bytes == 0
            && self.recovery.scanned_bytes == 0
            && self.recovery.rebuilt_indexes == 0
            && self.recovery.segments_set_aside == 0
            && checkpoint.recovery_point == log.end
            && checkpoint.segment_base == active.base_offset()
            && !log.epochs_dirty
            && log.names_changed == 0;
        self.recovery.clean = clean;
        if clean {
            return Ok(());
        }
        // What the page cache holds is not durable: sync all that was relied on
        // before the end is reported as durable.
        log.write_epochs()?;
        let position = u64::from(log.active().size_bytes);
        let segment_base = log.active().base_offset();
        for segment in &log.segments {
            if segment.base_offset() >= checkpoint.segment_base || !known {
                segment.files.log(&log.shared)?.sync_data()?;
            }
        }
        for segment in &log.segments {
            if segment.base_offset() >= checkpoint.segment_base || self.recovery.rebuilt_indexes > 0
            {
                let (offsets, times) = open_indexes(&log.shared, &segment.files)?;
                offsets.sync_data()?;
                times.sync_data()?;
            }
        }
        let (log_start, end) = (log.log_start, log.end);
        // Hints of before a cut must not be believed after it.
        let cut = self.recovery.cut_bytes > 0 || self.recovery.segments_set_aside > 0;
        let generation = log.generation() + u64::from(cut);
        log.shared.generation.store(generation, Ordering::Release);
        lock(&log.shared.checkpoint).update(&*log.shared.disk, |next| {
            next.generation = generation;
            next.log_start = log_start;
            next.recovery_point = end;
            next.segment_base = segment_base;
            next.position = position;
            next.durable_end = end;
        })?;
        self.disk().sync_dir(&self.args.dir)?;
        if let Some(parent) = self
            .args
            .dir
            .parent()
            .filter(|path| !path.as_os_str().is_empty())
        {
            self.disk().sync_dir(parent)?;
        }
        log.names_synced = log.names_changed;
        log.names_unsure = false;
        Ok(())
    }

    fn topic_id(&mut self) -> Result<(), OpenError> {
        let path = self.path(names::METADATA);
        if !self.files.contains_key(names::METADATA) {
            if let Some(id) = self.args.topic_id {
                let file = self.disk().open(&path, OpenMode::Create)?;
                file.write_at(format!("version: 0\ntopic_id: {id}").as_bytes(), 0)?;
                if !self.recovery.created {
                    file.sync_data()?;
                }
            }
            self.recovery.topic_id = self.args.topic_id;
            return Ok(());
        }
        let found = read_topic_id(self.disk(), &self.args.dir)?;
        match (self.args.topic_id, found) {
            (Some(wanted), None) => {
                // Torn while it was written: the metadata knows better.
                let text = format!("version: 0\ntopic_id: {wanted}");
                disk::write_file_atomic(self.disk(), &path, text.as_bytes())?;
                self.recovery.topic_id = Some(wanted);
            }
            (Some(wanted), Some(found)) if wanted != found => {
                return Err(OpenError::BadFile {
                    file: path,
                    reason: format!(
                        "it belongs to topic id {found}, and the topic has id {wanted}: move the \
                         directory away if its records are not needed"
                    ),
                });
            }
            (_, found) => self.recovery.topic_id = found,
        }
        Ok(())
    }

    /// Removes index files without a segment: a crash came between their removals.
    fn remove_orphans(&self) -> Result<(), OpenError> {
        for name in self.files.keys() {
            if let Some((base, names::INDEX | names::TIME_INDEX | names::TXN_INDEX)) =
                names::parse(name)
                && self.bases.binary_search(&base).is_err()
            {
                self.disk().remove(&self.path(name))?;
            }
        }
        Ok(())
    }

    fn read_epochs(&self, foreign: bool) -> Result<LeaderEpochs, OpenError> {
        if !self.files.contains_key(names::EPOCHS) {
            return Ok(LeaderEpochs::default());
        }
        let path = self.path(names::EPOCHS);
        let bytes = disk::read_file(self.disk(), &path, MAX_SMALL_FILE_BYTES)?;
        let parsed = std::str::from_utf8(&bytes)
            .map_err(|_| "it is not text".to_owned())
            .and_then(LeaderEpochs::parse);
        match parsed {
            Ok(epochs) => Ok(epochs),
            // All of the log is scanned then, and every batch names its epoch.
            Err(_) if foreign => Ok(LeaderEpochs::default()),
            Err(reason) => Err(OpenError::BadFile {
                file: path,
                reason: format!(
                    "{reason}. Remove {} as well as this file to have the log scanned",
                    names::CHECKPOINT
                ),
            }),
        }
    }
}
