//! Making segment files durable, and saying so: each log's part of a checkpoint.
//!
//! Parts are taken under the logs' locks, synced together outside of them, and only
//! then noted in the directory's file ([`crate::checkpoint`]).

use std::io;
use std::path::Path;
use std::sync::Arc;

use tidemark_env::disk::{Disk, OpenMode};
use tidemark_wal::{LogId, Lsn};
use tidemark_wire::Uuid;

use crate::checkpoint::{DirCheckpoint, LogCheckpoint};
use crate::error::LogError;
use crate::log::Log;
use crate::names;
use crate::segment::{DataDir, LogShared, SegmentFiles};
use crate::snapshot;

/// With more logs than this one sync of the whole file system is cheaper than theirs.
const MAX_SINGLE_SYNCS: usize = 16;
/// A producers' snapshot is due when so much has been appended since the last one:
/// a recovery looks at the headers behind it.
const SNAPSHOT_AFTER_BYTES: u32 = 64 << 20;

/// What a checkpoint says of one log, and what has to be synced before it may.
#[derive(Debug)]
#[must_use = "give it to write_checkpoint, or tell Log::checkpoint_failed"]
pub struct CheckpointPart {
    /// The log.
    pub id: LogId,
    /// What will be said of it.
    pub entry: LogCheckpoint,
    sync: Option<SyncWork>,
}

/// Files of one log to be written and synced.
#[derive(Debug)]
struct SyncWork {
    shared: Arc<LogShared>,
    segments: Vec<Arc<SegmentFiles>>,
    epochs: Option<String>,
    snapshot: Option<(i64, Vec<u8>)>,
    names: bool,
}

impl SyncWork {
    fn epochs_tmp(&self) -> std::path::PathBuf {
        let path = self.shared.dir().join(names::EPOCHS);
        names::with_suffix(&path, ".tmp")
    }

    /// Writes the small files; their names and contents are not synced.
    fn write(&self) -> io::Result<()> {
        let disk = self.shared.disk();
        if let Some((offset, bytes)) = &self.snapshot {
            let file = disk.open(
                &self.shared.path(*offset, names::SNAPSHOT),
                OpenMode::Create,
            )?;
            file.set_len(0)?;
            file.write_at(bytes, 0)?;
        }
        if let Some(text) = &self.epochs {
            let file = disk.open(&self.epochs_tmp(), OpenMode::Create)?;
            file.set_len(0)?;
            file.write_at(text.as_bytes(), 0)?;
        }
        Ok(())
    }

    /// Puts the epochs into place, once their bytes are synced.
    fn rename(&self) -> io::Result<()> {
        if self.epochs.is_some() {
            let to = self.shared.dir().join(names::EPOCHS);
            self.shared.disk().rename(&self.epochs_tmp(), &to)?;
        }
        Ok(())
    }

    /// Syncs the files one by one.
    fn sync_files(&self) -> io::Result<()> {
        let shared = &*self.shared;
        for files in &self.segments {
            match files.log(shared) {
                Ok(file) => file.sync_data()?,
                // Removed since, by retention.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            for extension in [names::INDEX, names::TIME_INDEX, names::SNAPSHOT] {
                let path = shared.path(files.base_offset, extension);
                sync_if_there(shared.disk(), &path)?;
            }
        }
        if let Some((offset, _)) = &self.snapshot {
            sync_if_there(shared.disk(), &shared.path(*offset, names::SNAPSHOT))?;
        }
        if self.epochs.is_some() {
            sync_if_there(shared.disk(), &self.epochs_tmp())?;
        }
        if self.names {
            sync_if_there(shared.disk(), &shared.dir().join(names::METADATA))?;
        }
        Ok(())
    }

    /// A log that was deleted since its part was taken needs nothing any more: its
    /// directory is renamed away before it is removed.
    fn unless_deleted(&self, result: io::Result<()>) -> io::Result<()> {
        match result {
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    && !self.shared.disk().exists(&self.shared.dir())? =>
            {
                Ok(())
            }
            other => other,
        }
    }

    fn sync_names(&self) -> io::Result<()> {
        if !self.names && self.epochs.is_none() && self.snapshot.is_none() {
            return Ok(());
        }
        sync_names(&self.shared)
    }
}

/// Syncs all that `parts` rely on. Blocks. The file system under `dir` is synced as a
/// whole when there is much.
///
/// # Errors
/// The disk is full (nothing is lost; tell [`Log::checkpoint_failed`]), or failed: then
/// what is in its page cache cannot be trusted any more.
pub(crate) fn sync_parts(disk: &dyn Disk, dir: &Path, parts: &[CheckpointPart]) -> io::Result<()> {
    let works: Vec<&SyncWork> = parts.iter().filter_map(|part| part.sync.as_ref()).collect();
    for work in &works {
        work.unless_deleted(work.write())?;
    }
    if works.len() > MAX_SINGLE_SYNCS {
        disk.sync_filesystem(dir)?;
        let renamed = works.iter().any(|work| work.epochs.is_some());
        works
            .iter()
            .try_for_each(|work| work.unless_deleted(work.rename()))?;
        if renamed {
            disk.sync_filesystem(dir)?;
        }
        return Ok(());
    }
    for work in works {
        let synced = work
            .sync_files()
            .and_then(|()| work.rename())
            .and_then(|()| work.sync_names());
        work.unless_deleted(synced)?;
    }
    Ok(())
}

/// Makes durable what `parts` rely on, and only then says so: replaces the checkpoint of data
/// directory `dir` by `checkpoint` with the entries of `parts` in it. Blocks.
///
/// # Errors
/// The disk is full (nothing is lost, and what the checkpoint said before still holds; tell
/// [`Log::checkpoint_failed`]), or failed: then what is in its page cache cannot be trusted any more.
pub fn write_checkpoint(
    disk: &dyn Disk,
    dir: &Path,
    mut checkpoint: DirCheckpoint,
    parts: &[CheckpointPart],
) -> io::Result<()> {
    sync_parts(disk, dir, parts)?;
    let entries = parts.iter().map(|part| (part.id, part.entry));
    checkpoint.logs.extend(entries);
    checkpoint.write(disk, dir)
}

/// Makes the names in a log's directory, and its own name, durable.
pub(crate) fn sync_names(shared: &LogShared) -> io::Result<()> {
    let DataDir { disk, path, .. } = &*shared.parent;
    disk.sync_dir(&shared.dir())?;
    match path.as_os_str().is_empty() {
        true => Ok(()),
        false => disk.sync_dir(path),
    }
}

/// Syncs a file that need not exist.
pub(crate) fn sync_if_there(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.open(path, OpenMode::ReadWrite) {
        Ok(file) => file.sync_data(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

impl Log {
    /// The log's part of a checkpoint, which names its topic and partition. `cut` is a group that
    /// was durable before this is called; all that is in the files is claimed, and no group above
    /// `cut`.
    pub fn checkpoint_part(
        &mut self,
        cut: Lsn,
        (topic_id, partition): (Uuid, i32),
    ) -> CheckpointPart {
        let snapshot = self.due_snapshot();
        let lsn = match self.first_unwritten_lsn() {
            Some(first) => cut.min(first - 1),
            None => cut,
        };
        let cutting = self.behind.as_ref().and_then(|behind| behind.cutting);
        let lsn = cutting.map_or(lsn, |cutting| lsn.min(cutting - 1));
        let written = self.files_end();
        let entry = LogCheckpoint {
            topic_id,
            partition,
            last_epoch: self.epochs.latest().unwrap_or(-1),
            lsn,
            log_start: self.log_start,
            end: written.end,
            segment_base: written.segment_base,
            position: u64::from(written.position),
            high_watermark: self.committed,
        };
        let (unsynced_from, epochs, names) = match &mut self.behind {
            Some(behind) => behind.take_unsynced(),
            None => (i64::MAX, false, false),
        };
        let unsynced = unsynced_from <= written.segment_base;
        let sync = (unsynced || epochs || names || snapshot.is_some()).then(|| SyncWork {
            shared: self.shared.clone(),
            segments: if unsynced {
                self.written_segments_from(unsynced_from)
            } else {
                Vec::new()
            },
            epochs: epochs.then(|| self.epochs.to_text()),
            snapshot,
            names,
        });
        CheckpointPart {
            id: self.id,
            entry,
            sync,
        }
    }

    /// Takes note that `part` did not become durable: the next one claims it again.
    pub fn checkpoint_failed(&mut self, part: &CheckpointPart) {
        if let Some(work) = &part.sync {
            let first = work.segments.first().map(|files| files.base_offset);
            let behind = self.behind();
            behind.unsynced_from = behind.unsynced_from.min(first.unwrap_or(i64::MAX));
            behind.epochs_dirty |= work.epochs.is_some();
            behind.names_dirty = true;
            if work.snapshot.is_some() {
                self.snapshot_at_end = false;
            }
        }
    }

    /// The producers' snapshot at the end of the files, where one is worth its while.
    fn due_snapshot(&mut self) -> Option<(i64, Vec<u8>)> {
        let due = self.since_snapshot_bytes >= SNAPSHOT_AFTER_BYTES
            && !self.producers.is_empty()
            && self.is_settled()
            && !self.snapshot_at_end;
        due.then(|| self.snapshot_now())
    }

    fn snapshot_now(&mut self) -> (i64, Vec<u8>) {
        self.since_snapshot_bytes = 0;
        self.snapshot_at_end = true;
        (self.end, snapshot::encode(&self.producers))
    }

    /// Segments with bytes at or above `offset`, oldest first.
    pub(crate) fn segments_from(&self, offset: i64) -> Vec<Arc<SegmentFiles>> {
        let first = self
            .segments
            .partition_point(|segment| segment.base_offset() <= offset)
            .saturating_sub(1);
        self.segments[first..]
            .iter()
            .map(|segment| segment.files().clone())
            .collect()
    }

    fn written_segments_from(&self, base: i64) -> Vec<Arc<SegmentFiles>> {
        let written = base..=self.files_end().segment_base;
        self.segments
            .iter()
            .filter(|segment| written.contains(&segment.base_offset()))
            .map(|segment| segment.files().clone())
            .collect()
    }

    /// Writes everything that is durable into the files. Blocks.
    ///
    /// # Errors
    /// The disk is full or failed.
    pub fn settle(&mut self) -> Result<(), LogError> {
        self.check_usable()?;
        while let Some(job) = self.write_job(u64::MAX) {
            if let Err(error) = job.run() {
                self.write_failed(job);
                return Err(error.into());
            }
            self.written(job);
        }
        Ok(())
    }

    /// Closes the log: writes what waits, the last index entry and the producers'
    /// snapshot, so that the next open reads no records. Blocks. The part is to be
    /// synced and noted in a checkpoint that is clean. Everything that was appended must
    /// be durable.
    ///
    /// # Errors
    /// The disk failed; nothing durable is lost, the next open recovers.
    pub fn close(
        mut self,
        cut: Lsn,
        of: (Uuid, i32),
        now_ms: i64,
    ) -> Result<CheckpointPart, LogError> {
        self.settle()?;
        debug_assert!(self.is_settled(), "what is not durable cannot be written");
        let mut part_snapshot = None;
        if self.active().size_bytes > 0 {
            if self.tail.is_some() {
                let files = self.active().files().clone();
                let shared = self.shared.clone();
                let tail = self.tail(now_ms)?;
                tail.add_time_entry();
                tail.write_entries(&shared, &files)?;
                let behind = self.behind();
                behind.unsynced_from = behind.unsynced_from.min(files.base_offset);
            }
            if !self.snapshot_at_end {
                part_snapshot = Some(self.snapshot_now());
            }
        }
        let doomed = self
            .behind
            .as_mut()
            .map(|behind| std::mem::take(&mut behind.doomed));
        for doomed in doomed.into_iter().flatten() {
            doomed.remove(self.shared.disk());
        }
        let mut part = self.checkpoint_part(cut, of);
        if part_snapshot.is_some() {
            let shared = self.shared.clone();
            let work = part.sync.get_or_insert_with(|| SyncWork {
                shared,
                segments: Vec::new(),
                epochs: None,
                snapshot: None,
                names: true,
            });
            work.snapshot = part_snapshot;
        }
        Ok(part)
    }
}
