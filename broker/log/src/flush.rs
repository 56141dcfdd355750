//! Making a log durable, and noting how far it is, outside the log's lock.

use std::io;
use std::sync::Arc;

use tidemark_env::disk::OpenMode;

use crate::error::LogError;
use crate::log::Log;
use crate::names;
use crate::segment::{LogShared, SegmentFiles, lock};

/// Files to sync so that a log is durable up to an offset.
#[derive(Debug)]
#[must_use = "nothing is synced until it is run"]
pub struct FlushTicket {
    shared: Arc<LogShared>,
    segments: Vec<Arc<SegmentFiles>>,
    sync_names: bool,
    done: Flushed,
}

/// What a [`FlushTicket`] achieved, to be handed back to its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "tell Log::flushed"]
pub struct Flushed {
    end: i64,
    generation: u64,
    names_changed: u64,
}

impl Flushed {
    /// The offset up to which all was synced, if the log was not truncated meanwhile.
    pub fn end_offset(&self) -> i64 {
        self.end
    }
}

impl FlushTicket {
    /// The offset up to which the log will be durable.
    pub fn end_offset(&self) -> i64 {
        self.done.end
    }

    /// Syncs. Blocks.
    ///
    /// # Errors
    /// The disk failed, and what is in its page cache cannot be trusted any more:
    /// call [`Log::fail`] (or end the process), do not try again.
    pub fn run(self) -> io::Result<Flushed> {
        sync_segments(&self.shared, &self.segments)?;
        let mut checkpoint = lock(&self.shared.checkpoint);
        if self.sync_names {
            // The checkpoint of a new log has been written but not synced.
            checkpoint.sync(&*self.shared.disk)?;
            sync_names(&self.shared)?;
        }
        checkpoint.hint(&*self.shared.disk, self.done.generation, self.done.end)?;
        drop(checkpoint);
        Ok(self.done)
    }
}

fn sync_segments(shared: &LogShared, segments: &[Arc<SegmentFiles>]) -> io::Result<()> {
    for files in segments {
        match files.log(shared) {
            Ok(file) => file.sync_data()?,
            // Removed since: by retention or a truncation, which has its own syncs.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

pub(crate) fn sync_names(shared: &LogShared) -> io::Result<()> {
    shared.disk.sync_dir(&shared.dir)?;
    match shared.dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => shared.disk.sync_dir(parent),
        _ => Ok(()),
    }
}

/// All that has to be synced so that the next recovery begins at the log's end as it
/// was when the job was made.
#[derive(Debug)]
#[must_use = "nothing is synced until it is run"]
pub struct CheckpointJob {
    shared: Arc<LogShared>,
    segments: Vec<Arc<SegmentFiles>>,
    snapshot: Option<i64>,
    sync_names: bool,
    log_start: i64,
    segment_base: i64,
    position: u64,
    /// Only the log start changes: nothing else is claimed.
    only_log_start: bool,
    done: Flushed,
}

/// What a [`CheckpointJob`] achieved, to be handed back to its log.
#[derive(Debug, Clone, Copy)]
#[must_use = "tell Log::checkpointed"]
pub struct Checkpointed {
    flushed: Flushed,
    only_log_start: bool,
}

impl CheckpointJob {
    /// Syncs segments, indexes and snapshot, then notes it in `tidemark-checkpoint`.
    /// Blocks.
    ///
    /// # Errors
    /// The disk failed: as for [`FlushTicket::run`].
    pub fn run(self) -> io::Result<Checkpointed> {
        let shared = &*self.shared;
        if !self.only_log_start {
            sync_segments(shared, &self.segments)?;
            for files in &self.segments {
                // A segment's snapshot was written when the one before was sealed.
                for extension in [names::INDEX, names::TIME_INDEX, names::SNAPSHOT] {
                    sync_if_there(shared, files.base_offset, extension)?;
                }
            }
            if let Some(offset) = self.snapshot {
                sync_if_there(shared, offset, names::SNAPSHOT)?;
            }
        }
        // Before the slot claims anything: a clean open relies on the names.
        if self.sync_names {
            sync_names(shared)?;
        }
        let mut checkpoint = lock(&shared.checkpoint);
        // Truncation holds this lock while it begins a new generation, so a stale
        // job cannot raise what it has lowered.
        let current_generation = shared.generation();
        checkpoint.update(&*shared.disk, |next| {
            if self.done.generation != current_generation {
                return;
            }
            next.log_start = next.log_start.max(self.log_start);
            if !self.only_log_start && self.done.end >= next.recovery_point {
                next.recovery_point = self.done.end;
                next.segment_base = self.segment_base;
                next.position = self.position;
                next.durable_end = next.durable_end.max(self.done.end);
            }
        })?;
        drop(checkpoint);
        Ok(Checkpointed {
            flushed: self.done,
            only_log_start: self.only_log_start,
        })
    }
}

pub(crate) fn sync_if_there(shared: &LogShared, offset: i64, extension: &str) -> io::Result<()> {
    match shared
        .disk
        .open(&shared.path(offset, extension), OpenMode::ReadWrite)
    {
        Ok(file) => file.sync_data(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

impl Log {
    fn flushed_when_done(&self) -> Flushed {
        Flushed {
            end: self.end,
            generation: self.generation(),
            names_changed: self.names_changed,
        }
    }

    /// Segments with bytes at or above `offset`, oldest first.
    pub(crate) fn segments_from(&self, offset: i64) -> Vec<Arc<SegmentFiles>> {
        let first = self
            .segments
            .partition_point(|segment| segment.base_offset() <= offset)
            .saturating_sub(1);
        self.segments[first..]
            .iter()
            .map(|segment| segment.files.clone())
            .collect()
    }

    /// What to sync to make the log durable up to its present end; `None` when it is.
    ///
    /// A new segment's name is synced with it, so durability never passes a file
    /// that a power cut could unname.
    pub fn flush_target(&mut self) -> Option<FlushTicket> {
        let names_changed = self.names_changed > self.names_synced;
        if self.failed.is_some() || (self.durable == self.end && !names_changed) {
            return None;
        }
        let sync_names = names_changed || self.names_unsure;
        Some(FlushTicket {
            shared: self.shared.clone(),
            segments: if self.durable < self.end {
                self.segments_from(self.durable)
            } else {
                Vec::new()
            },
            sync_names,
            done: self.flushed_when_done(),
        })
    }

    /// Takes note of a finished flush; returns the durable offset. One from before a
    /// truncation changes nothing.
    pub fn flushed(&mut self, flushed: Flushed) -> i64 {
        if flushed.generation == self.generation() {
            debug_assert!(flushed.end <= self.end);
            self.durable = self.durable.max(flushed.end);
            self.note_names(flushed);
        }
        self.durable
    }

    /// Whether a checkpoint is worth its syncs now: a segment has been sealed since.
    pub fn wants_checkpoint(&self) -> bool {
        self.failed.is_none() && self.sealed_since_checkpoint > 0
    }

    /// The checkpoint of the log as it is now; `None` when the last one says the same.
    /// Writes index entries that were kept back; the syncs are the job's.
    ///
    /// # Errors
    /// The disk failed; the log is out of use then, unless the disk is only full.
    pub fn checkpoint_job(&mut self) -> Result<Option<CheckpointJob>, LogError> {
        self.check_usable()?;
        let current = lock(&self.shared.checkpoint).current();
        let position = u64::from(self.active().size_bytes);
        let segment_base = self.active().base_offset();
        let unchanged = current.recovery_point == self.end
            && current.log_start == self.log_start
            && current.segment_base == segment_base
            && current.position == position
            && !self.epochs_dirty
            && self.names_changed == self.names_synced;
        if unchanged {
            return Ok(None);
        }
        let written = self.write_epochs().and_then(|()| {
            let files = self.active().files.clone();
            match &mut self.tail {
                Some(tail) => tail.write_entries(&self.shared, &files),
                None => Ok(()),
            }
        });
        if let Err(error) = written {
            if error.kind() != io::ErrorKind::StorageFull {
                self.fail(error.to_string());
            }
            return Err(error.into());
        }
        Ok(Some(CheckpointJob {
            shared: self.shared.clone(),
            // The segment of the last checkpoint gets index entries until it is sealed.
            segments: self.segments_from(current.segment_base.min(self.durable)),
            snapshot: self.snapshot_offset,
            sync_names: self.names_changed > self.names_synced || self.names_unsure,
            log_start: self.log_start,
            segment_base,
            position,
            only_log_start: false,
            done: self.flushed_when_done(),
        }))
    }

    /// A job that makes only the log start durable.
    pub(crate) fn log_start_job(&self) -> CheckpointJob {
        CheckpointJob {
            shared: self.shared.clone(),
            segments: Vec::new(),
            snapshot: None,
            sync_names: self.names_changed > self.names_synced || self.names_unsure,
            log_start: self.log_start,
            segment_base: 0,
            position: 0,
            only_log_start: true,
            done: self.flushed_when_done(),
        }
    }

    /// Takes note of a finished checkpoint; returns the durable offset.
    ///
    /// That one does not move: it moves only by [`Log::flushed`], so that whoever waits
    /// for it is told in one place.
    pub fn checkpointed(&mut self, checkpointed: Checkpointed) -> i64 {
        let flushed = checkpointed.flushed;
        if !checkpointed.only_log_start && flushed.generation == self.generation() {
            self.sealed_since_checkpoint = 0;
            self.note_names(flushed);
        }
        self.durable
    }

    fn note_names(&mut self, flushed: Flushed) {
        if flushed.names_changed > self.names_synced || self.names_unsure {
            // Whenever one of these holds, tickets and jobs sync the names.
            self.names_synced = self.names_synced.max(flushed.names_changed);
            self.names_unsure = false;
        }
    }

    /// Closes the log cleanly: writes index entries and the producers' snapshot,
    /// syncs everything and notes it, so that the next open reads no records.
    ///
    /// # Errors
    /// The disk failed; nothing durable is lost, the next open recovers.
    pub fn close(mut self, now_ms: i64) -> Result<(), LogError> {
        self.check_usable()?;
        if self.active().size_bytes > 0 {
            if self.tail.is_some() {
                self.seal_indexes(now_ms)?;
            }
            self.write_snapshot()?;
        }
        if let Some(job) = self.checkpoint_job()? {
            let done = job.run()?;
            self.checkpointed(done);
        }
        debug_assert_eq!(
            lock(&self.shared.checkpoint).current().recovery_point,
            self.end
        );
        for doomed in self.doomed.drain(..) {
            doomed.remove(&*self.shared.disk);
        }
        Ok(())
    }
}
