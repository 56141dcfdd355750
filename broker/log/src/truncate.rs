//! Cutting a log at its end, for followers whose leader has another history.

use std::io;
use std::sync::atomic::Ordering;

use tidemark_wal::{Lsn, Record};

use crate::behind::Written;
use crate::error::LogError;
use crate::handover::PlacedProducers;
use crate::log::Log;
use crate::names;
use crate::read::Access;
use crate::recovery::{load_producers, snapshot_offsets};
use crate::tail::Tail;

/// Where a log is cut.
pub(crate) struct Cut {
    pub(crate) segment: usize,
    pub(crate) position: u32,
    pub(crate) end: i64,
}

/// A cut that the write-ahead log was told of, to be finished once that is durable.
#[must_use = "the log stays as it is until Log::finish_cut"]
pub struct PendingCut {
    change: Change,
    /// The group to wait for; `None` if nothing changes.
    pub lsn: Option<Lsn>,
}

enum Change {
    Nothing,
    /// Epochs that begin at or above the offset go, no record does.
    Epochs(i64),
    End(Cut),
    /// Everything goes, and the log begins there, with or without the producers that a snapshot
    /// of that offset knows.
    All(i64, bool),
}

impl Log {
    /// Cuts the log so that it ends at `offset`, or at the start of the batch that
    /// holds it: batches go whole. Returns the new end. Offsets below the log start
    /// reset the log to begin there. Epochs that begin at or above `offset` go, also where
    /// no record does.
    ///
    /// The write-ahead log knows of it, durably, before a file changes. Begins a new
    /// generation and rolls producers and epochs back. Blocks until all that was
    /// appended is written; the caller sees to it that nobody appends, and that no
    /// [`crate::WriteJob`] is under way, meanwhile.
    ///
    /// # Errors
    /// The disk failed or the segment is damaged; the log is out of use then if
    /// anything had been changed.
    pub fn truncate_to(&mut self, offset: i64, now_ms: i64) -> Result<i64, LogError> {
        let pending = self.begin_truncate(offset)?;
        self.wait_and_finish(pending, now_ms)
    }

    /// Removes everything and lets the log begin at `offset`. Blocks, as
    /// [`Log::truncate_to`] does.
    ///
    /// # Errors
    /// The disk failed; the log is out of use then.
    pub fn truncate_fully(&mut self, offset: i64, now_ms: i64) -> Result<i64, LogError> {
        let pending = self.begin_reset(offset, None)?;
        self.wait_and_finish(pending, now_ms)
    }

    fn wait_and_finish(&mut self, pending: PendingCut, now_ms: i64) -> Result<i64, LogError> {
        if let (Some(wal), Some(lsn)) = (&self.shared.parent.wal, pending.lsn) {
            let waited = wal.wait_durable(lsn);
            waited.map_err(|failure| LogError::Failed {
                reason: failure.to_string(),
            })?;
        }
        self.finish_cut(pending, now_ms)
    }

    /// The first half of [`Log::truncate_to`], for whoever must not wait while holding the
    /// log: nothing has changed yet, and nothing may until [`Log::finish_cut`].
    ///
    /// # Errors
    /// The disk failed; [`LogError::Unsettled`] while not all of the log is in its files.
    pub fn begin_truncate(&mut self, offset: i64) -> Result<PendingCut, LogError> {
        self.check_usable()?;
        if offset >= self.end {
            // A leader's history may contradict an epoch that has no records here: kept, it
            // would be asked about again and again.
            let newest = self.epochs.entries().last();
            if newest.is_none_or(|epoch| epoch.start_offset < offset) {
                let (change, lsn) = (Change::Nothing, None);
                return Ok(PendingCut { change, lsn });
            }
            let end_offset = self.end;
            return self.begin(Change::Epochs(offset), &Record::Truncate { end_offset });
        }
        if offset < self.log_start {
            return self.begin_reset(offset, None);
        }
        self.settle_for_truncation()?;
        let cut = self.find_cut(offset)?;
        if cut.end < self.log_start {
            // The batch that goes holds the log start: nothing is left to keep.
            return self.begin_reset(self.log_start, None);
        }
        let end_offset = cut.end;
        self.begin(Change::End(cut), &Record::Truncate { end_offset })
    }

    /// The first half of [`Log::truncate_fully`]. The log knows the producers afterwards that were
    /// put into their place for `offset`; otherwise none.
    ///
    /// # Errors
    /// As [`Log::begin_truncate`].
    pub fn begin_reset(
        &mut self,
        offset: i64,
        producers: Option<&PlacedProducers>,
    ) -> Result<PendingCut, LogError> {
        self.check_usable()?;
        self.settle_for_truncation()?;
        let start_offset = offset.max(0);
        let keeps_producers = producers.is_some_and(|placed| placed.offset == start_offset);
        let record = Record::Reset {
            start_offset,
            keeps_producers,
        };
        self.begin(Change::All(start_offset, keeps_producers), &record)
    }

    fn begin(&mut self, change: Change, record: &Record<'_>) -> Result<PendingCut, LogError> {
        let lsn = Some(self.journal(record)?);
        // Until the files show it, no checkpoint may say that they do.
        self.behind().cutting = lsn;
        Ok(PendingCut { change, lsn })
    }

    /// The second half, when the group is durable. Returns the new end. Changes files, and
    /// syncs none.
    ///
    /// # Errors
    /// The disk failed; the log is out of use then.
    pub fn finish_cut(&mut self, pending: PendingCut, now_ms: i64) -> Result<i64, LogError> {
        self.behind().cutting = None;
        match pending.change {
            Change::Nothing => self.begin_generation(),
            Change::Epochs(offset) => {
                self.begin_generation();
                let changed = self.epochs.truncate_from_end(offset);
                self.note_epochs(changed);
            }
            Change::End(cut) => {
                let done = self.cut(&cut, now_ms);
                self.failing(done)?;
            }
            Change::All(start_offset, keeps_producers) => {
                let done = self.reset(start_offset, keeps_producers, now_ms);
                self.failing(done)?;
            }
        }
        debug_assert!(self.log_start <= self.end && self.durable_offset() <= self.end);
        Ok(self.end)
    }

    /// Whether a cut was begun that the files do not show yet.
    pub(crate) fn is_being_cut(&self) -> bool {
        let behind = self.behind.as_ref();
        behind.is_some_and(|behind| behind.cutting.is_some())
    }

    /// Writes out what is durable, which has to be everything: files are what is cut.
    fn settle_for_truncation(&mut self) -> Result<(), LogError> {
        self.settle()?;
        if !self.is_settled() {
            return Err(LogError::Unsettled);
        }
        Ok(())
    }

    fn failing<T>(&mut self, result: Result<T, LogError>) -> Result<T, LogError> {
        result.inspect_err(|error| self.fail(error.to_string()))
    }

    pub(crate) fn find_cut(&self, offset: i64) -> Result<Cut, LogError> {
        let holding = self
            .segments
            .partition_point(|segment| segment.base_offset() <= offset)
            .saturating_sub(1);
        let view = self.view(holding, offset, 0, offset);
        let file = view.files.log(&self.shared)?;
        let (start, _) = view.start(&self.shared, Access::Any, offset)?;
        let found = view.find(&self.shared, &file, start, offset)?;
        Ok(match found {
            Some((position, header)) => Cut {
                segment: holding,
                position: u32::try_from(position).unwrap_or(u32::MAX),
                end: header.base_offset.min(offset),
            },
            None => Cut {
                segment: holding,
                position: view.size_bytes,
                end: offset,
            },
        })
    }

    pub(crate) fn cut(&mut self, cut: &Cut, now_ms: i64) -> Result<(), LogError> {
        self.tail = None;
        self.begin_generation();
        while self.segments.len() > cut.segment + 1 {
            self.remove_last_segment()?;
        }
        let segment = &mut self.segments[cut.segment];
        let file = segment.files().log(&self.shared)?;
        file.set_len(u64::from(cut.position))?;
        segment.size_bytes = cut.position;
        segment.set_max_timestamp(None);
        let files = segment.files().clone();
        let (tail, _) = Tail::rebuild(
            &self.shared,
            &files,
            cut.position,
            self.config.index_interval_bytes,
            now_ms,
        )?;
        self.tail = Some(Box::new(tail));
        self.end = cut.end;
        self.committed = self.committed.min(cut.end);
        let behind = self.behind();
        behind.written = Written {
            end: cut.end,
            segment_base: files.base_offset,
            position: cut.position,
        };
        behind.unsynced_from = behind.unsynced_from.min(files.base_offset);
        self.after_cut(now_ms)
    }

    fn reset(&mut self, offset: i64, keeps_producers: bool, now_ms: i64) -> Result<(), LogError> {
        self.tail = None;
        self.begin_generation();
        while !self.segments.is_empty() {
            self.remove_last_segment()?;
        }
        for doomed in std::mem::take(&mut self.behind().doomed) {
            doomed.remove(self.shared.disk());
        }
        // What they know of is gone, whatever offset it had, but for what was put there for this.
        let mut gone = snapshot_offsets(&self.shared)?;
        gone.retain(|snapshot| !(keeps_producers && *snapshot == offset));
        for snapshot in gone {
            let path = self.shared.path(snapshot, names::SNAPSHOT);
            self.shared.disk().remove(&path)?;
        }
        self.create_segment(offset)?;
        let behind = self.behind();
        behind.unsynced_from = offset;
        behind.durable_end = offset;
        self.tail = Some(Box::new(Tail::new(offset, now_ms)));
        self.log_start = offset;
        self.end = offset;
        self.committed = offset;
        self.note_epochs(!self.epochs.entries().is_empty());
        self.epochs = Default::default();
        self.after_cut(now_ms)
    }

    /// From here on reads of before count for nothing.
    fn begin_generation(&self) {
        self.shared.generation.fetch_add(1, Ordering::AcqRel);
    }

    fn remove_last_segment(&mut self) -> io::Result<()> {
        self.behind().names_dirty = true;
        let Some(segment) = self.segments.pop() else {
            return Ok(());
        };
        segment.release();
        let base = segment.base_offset();
        self.shared
            .disk()
            .remove(&self.shared.path(base, names::LOG))?;
        for extension in [names::INDEX, names::TIME_INDEX, names::TXN_INDEX] {
            match self
                .shared
                .disk()
                .remove(&self.shared.path(base, extension))
            {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Brings all that depends on the records back to the new end.
    fn after_cut(&mut self, now_ms: i64) -> Result<(), LogError> {
        let end = self.end;
        let behind = self.behind();
        behind.durable_end = behind.durable_end.min(end);
        let changed = self.epochs.truncate_from_end(self.end);
        self.note_epochs(changed);
        let snapshots = snapshot_offsets(&self.shared)?;
        let (producers, snapshot_offset) = load_producers(
            &self.shared,
            snapshots,
            i64::MAX,
            &self.segments,
            self.end,
            now_ms,
        )?;
        self.producers = producers;
        self.snapshot_at_end = snapshot_offset == Some(self.end);
        self.behind().names_dirty = true;
        Ok(())
    }
}
