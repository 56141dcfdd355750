//! Cutting a log at its end, for followers whose leader has another history.

use std::io;
use std::sync::atomic::Ordering;

use crate::error::LogError;
use crate::flush::sync_names;
use crate::log::Log;
use crate::names;
use crate::read::Access;
use crate::recovery::{load_producers, snapshot_offsets};
use crate::segment::lock;
use crate::tail::{Tail, open_indexes};

/// Where a log is cut.
struct Cut {
    segment: usize,
    position: u32,
    end: i64,
}

impl Log {
    /// Cuts the log so that it ends at `offset`, or at the start of the batch that
    /// holds it: batches go whole. Returns the new end. Offsets below the log start
    /// reset the log to begin there.
    ///
    /// Begins a new generation, rolls producers and epochs back, and syncs. Blocks;
    /// the caller sees to it that nobody appends meanwhile.
    ///
    /// # Errors
    /// The disk failed or the segment is damaged; the log is out of use then if
    /// anything had been changed.
    pub fn truncate_to(&mut self, offset: i64, now_ms: i64) -> Result<i64, LogError> {
        self.check_usable()?;
        if offset >= self.end {
            return Ok(self.end);
        }
        if offset < self.log_start {
            return self.truncate_fully(offset, now_ms);
        }
        let cut = self.find_cut(offset)?;
        if cut.end < self.log_start {
            // The batch that goes holds the log start: nothing is left to keep.
            return self.truncate_fully(self.log_start, now_ms);
        }
        let done = self.cut(&cut, now_ms);
        self.failing(done)?;
        debug_assert!(self.log_start <= self.end && self.durable <= self.end);
        Ok(self.end)
    }

    /// Removes everything and lets the log begin at `offset`. Blocks, as
    /// [`Log::truncate_to`] does.
    ///
    /// # Errors
    /// The disk failed; the log is out of use then.
    pub fn truncate_fully(&mut self, offset: i64, now_ms: i64) -> Result<i64, LogError> {
        self.check_usable()?;
        let done = self.reset(offset.max(0), now_ms);
        self.failing(done)?;
        Ok(self.end)
    }

    fn failing<T>(&mut self, result: Result<T, LogError>) -> Result<T, LogError> {
        result.inspect_err(|error| self.fail(error.to_string()))
    }

    fn find_cut(&self, offset: i64) -> Result<Cut, LogError> {
        let holding = self
            .segments
            .partition_point(|segment| segment.base_offset() <= offset)
            .saturating_sub(1);
        let view = self.view(holding, offset, 0, offset);
        let file = view.files.log(&self.shared)?;
        let start = view.start(&self.shared, Access::Any, offset)?;
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

    fn cut(&mut self, cut: &Cut, now_ms: i64) -> Result<(), LogError> {
        self.tail = None;
        let segment_base = self.segments[cut.segment].base_offset();
        self.begin_generation(|next| {
            if next.recovery_point > cut.end {
                next.recovery_point = cut.end;
                next.segment_base = segment_base;
                next.position = u64::from(cut.position);
            }
            next.durable_end = next.durable_end.min(cut.end);
        })?;
        while self.segments.len() > cut.segment + 1 {
            self.remove_last_segment()?;
        }
        let segment = &mut self.segments[cut.segment];
        let file = segment.files.log(&self.shared)?;
        file.set_len(u64::from(cut.position))?;
        file.sync_data()?;
        segment.size_bytes = cut.position;
        segment.max_timestamp = None;
        let files = segment.files.clone();
        let (tail, _) = Tail::rebuild(
            &self.shared,
            &files,
            cut.position,
            self.config.index_interval_bytes,
            now_ms,
        )?;
        self.tail = Some(Box::new(tail));
        // The checkpoint may claim them up to here.
        let (offsets, times) = open_indexes(&self.shared, &files)?;
        offsets.sync_data()?;
        times.sync_data()?;
        self.end = cut.end;
        self.after_cut(now_ms)
    }

    fn reset(&mut self, offset: i64, now_ms: i64) -> Result<(), LogError> {
        self.tail = None;
        let first_base = self.segments[0].base_offset();
        // First nothing is claimed, then it all goes, then the new beginning counts.
        self.begin_generation(|next| {
            next.recovery_point = first_base;
            next.segment_base = first_base;
            next.position = 0;
            next.durable_end = first_base.min(next.log_start);
            next.log_start = next.log_start.min(offset);
        })?;
        while !self.segments.is_empty() {
            self.remove_last_segment()?;
        }
        // What they know of is gone, whatever offset it had.
        for snapshot in snapshot_offsets(&self.shared)? {
            let path = self.shared.path(snapshot, names::SNAPSHOT);
            self.shared.disk.remove(&path)?;
        }
        self.create_segment(offset)?;
        sync_names(&self.shared)?;
        lock(&self.shared.checkpoint).update(&*self.shared.disk, |next| {
            next.log_start = offset;
            next.recovery_point = offset;
            next.segment_base = offset;
            next.position = 0;
            next.durable_end = offset;
        })?;
        self.tail = Some(Box::new(Tail::new(offset, now_ms)));
        self.log_start = offset;
        self.durable = offset;
        self.end = offset;
        self.epochs_dirty |= !self.epochs.entries().is_empty();
        self.epochs = Default::default();
        self.after_cut(now_ms)
    }

    /// From here on reads and flushes of before count for nothing. The checkpoint is
    /// lowered, durably, before any file changes.
    fn begin_generation(
        &mut self,
        lower: impl FnOnce(&mut crate::checkpoint::Checkpoint),
    ) -> io::Result<()> {
        let mut checkpoint = lock(&self.shared.checkpoint);
        let generation = self.shared.generation() + 1;
        self.shared.generation.store(generation, Ordering::Release);
        checkpoint.update(&*self.shared.disk, |next| {
            lower(next);
            next.generation = generation;
        })
    }

    fn remove_last_segment(&mut self) -> io::Result<()> {
        let Some(segment) = self.segments.pop() else {
            return Ok(());
        };
        segment.files.release();
        self.names_changed += 1;
        let base = segment.base_offset();
        self.shared
            .disk
            .remove(&segment.files.log_path(&self.shared))?;
        for extension in [names::INDEX, names::TIME_INDEX, names::TXN_INDEX] {
            match self.shared.disk.remove(&self.shared.path(base, extension)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Brings all that depends on the records back to the new end.
    fn after_cut(&mut self, now_ms: i64) -> Result<(), LogError> {
        self.durable = self.durable.min(self.end);
        self.size_bytes = self
            .segments
            .iter()
            .map(|segment| u64::from(segment.size_bytes))
            .sum();
        self.epochs_dirty |= self.epochs.truncate_from_end(self.end);
        self.write_epochs()?;
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
        self.snapshot_offset = snapshot_offset;
        sync_names(&self.shared)?;
        self.names_synced = self.names_changed;
        Ok(())
    }
}
