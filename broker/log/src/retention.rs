//! What leaves a log at its beginning: by age, by size, by DeleteRecords.
//!
//! Whole segments go, oldest first, and only below the high watermark; the log start
//! moves to what is left. Their files are removed after `file.delete.delay.ms`, when
//! the write-ahead log says durably that they are below the log start.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tidemark_env::disk::Disk;
use tidemark_wal::{Lsn, Record};

use crate::error::LogError;
use crate::index;
use crate::log::Log;
use crate::names;
use crate::recovery::ensure_snapshot;
use crate::segment::Segment;
use crate::tail::NO_TIMESTAMP;

/// A file of a segment that is no longer part of the log.
#[derive(Debug, Clone)]
pub(crate) struct Doomed {
    pub(crate) path: PathBuf,
    due_ms: i64,
    /// The group that says so: before it is durable the file stays.
    lsn: Lsn,
}

impl Doomed {
    pub(crate) fn remove(&self, disk: &dyn Disk) {
        if let Err(error) = disk.remove(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "a deleted segment's file stays behind");
        }
    }
}

/// Files whose delay is over, to be removed outside the log's lock.
#[derive(Debug)]
#[must_use = "nothing is removed until it is run"]
pub struct Deletions {
    disk: Arc<dyn Disk>,
    files: Vec<Doomed>,
}

impl Deletions {
    /// Removes the files; one that cannot be removed is logged and left. Blocks.
    pub fn run(self) {
        for file in &self.files {
            file.remove(&*self.disk);
        }
    }
}

/// What retention did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetentionReport {
    /// Segments that went.
    pub deleted_segments: usize,
    /// Their bytes.
    pub deleted_bytes: u64,
}

/// Why a segment may go.
#[derive(Debug, Clone, Copy)]
enum Reason {
    BelowLogStart,
    TooLarge,
    TooOld,
}

impl Log {
    /// Deletes segments that lie below the log start, that are too much by
    /// `retention.bytes`, or too old by `retention.ms`. An active segment that is due
    /// is rolled first. Does a little file I/O: renames, and the time index of the
    /// oldest segment once.
    ///
    /// # Errors
    /// The disk failed. Segments that went before stay gone.
    pub fn apply_retention(
        &mut self,
        now_ms: i64,
        high_watermark: i64,
    ) -> Result<RetentionReport, LogError> {
        self.apply_retention_below(now_ms, high_watermark, i64::MAX)
    }

    /// [`Log::apply_retention`] where age and size delete only what is below `elsewhere`, the end
    /// of what is kept in another place.
    ///
    /// # Errors
    /// As there.
    pub fn apply_retention_below(
        &mut self,
        now_ms: i64,
        high_watermark: i64,
        elsewhere: i64,
    ) -> Result<RetentionReport, LogError> {
        self.check_usable()?;
        let mut report = RetentionReport::default();
        if self.is_being_cut() {
            return Ok(report);
        }
        let mut reasons = vec![Reason::BelowLogStart];
        if self.config.delete_retention {
            reasons.extend([Reason::TooLarge, Reason::TooOld]);
        }
        for reason in reasons {
            let upper = match reason {
                Reason::BelowLogStart => high_watermark,
                Reason::TooLarge | Reason::TooOld => high_watermark.min(elsewhere),
            };
            let count = self.deletable(reason, now_ms, upper)?;
            if count == 0 {
                continue;
            }
            if count == self.segments.len() {
                self.roll(now_ms)?;
                self.settle()?;
                debug_assert!(self.is_settled(), "it was before the roll");
            }
            let before = self.size_bytes();
            let deleted = self.delete_first(count, now_ms);
            report.deleted_bytes += before - self.size_bytes();
            report.deleted_segments += deleted?;
        }
        Ok(report)
    }

    /// Whether [`Log::apply_retention`] leaves what it would delete if it were in the segment
    /// files: sealed segments, or an active one of which every record is too old. Files are
    /// touched by nothing else for as long as memory has room.
    pub fn retention_waits_for_files(&self, now_ms: i64) -> bool {
        let keeps_ms = self.config.retention_ms;
        let by_age = self.config.delete_retention && keeps_ms >= 0 && !self.is_settled();
        let too_old = by_age
            && self.tail.as_ref().is_some_and(|tail| {
                let newest_ms = tail.max_timestamp.timestamp_ms;
                newest_ms > NO_TIMESTAMP && now_ms.saturating_sub(newest_ms) > keeps_ms
            });
        self.has_unwritten_segments() || too_old
    }

    /// Bytes of the oldest segments that age and size would delete, if they were not above
    /// `elsewhere`, the end of what is kept in another place.
    ///
    /// # Errors
    /// An index cannot be read.
    pub fn held_back_bytes(
        &mut self,
        now_ms: i64,
        high_watermark: i64,
        elsewhere: i64,
    ) -> Result<u64, LogError> {
        self.check_usable()?;
        if !self.config.delete_retention || self.is_being_cut() {
            return Ok(0);
        }
        let large = self.deletable(Reason::TooLarge, now_ms, high_watermark)?;
        let old = self.deletable(Reason::TooOld, now_ms, high_watermark)?;
        let mut held_back = 0;
        for index in 0..large.max(old) {
            let next = self.segments.get(index + 1);
            if next.map_or(self.end, Segment::base_offset) > elsewhere {
                held_back += u64::from(self.segments[index].size_bytes);
            }
        }
        Ok(held_back)
    }

    /// How many of the oldest segments may go for `reason`.
    fn deletable(
        &mut self,
        reason: Reason,
        now_ms: i64,
        high_watermark: i64,
    ) -> Result<usize, LogError> {
        let mut excess = match u64::try_from(self.config.retention_bytes) {
            Ok(limit) => self.size_bytes().saturating_sub(limit),
            Err(_) => 0,
        };
        for index in 0..self.segments.len() {
            let size = u64::from(self.segments[index].size_bytes);
            let next_base = self.segments.get(index + 1).map(|next| next.base_offset());
            let base = self.segments[index].base_offset();
            let written = match next_base {
                Some(_) => base < self.files_end().segment_base,
                None => self.is_settled(),
            };
            if !written {
                // Its files are still being written: it goes with a later round.
                return Ok(index);
            }
            let upper = next_base.unwrap_or(self.end);
            let last_and_empty = next_base.is_none() && size == 0;
            if last_and_empty || upper > high_watermark || upper > self.durable_offset() {
                return Ok(index);
            }
            let go = match reason {
                Reason::BelowLogStart => {
                    next_base.is_some_and(|next_base| next_base <= self.log_start)
                }
                Reason::TooLarge => {
                    let go = size > 0 && excess >= size;
                    excess = excess.saturating_sub(size);
                    go
                }
                Reason::TooOld => {
                    self.config.retention_ms >= 0
                        && now_ms.saturating_sub(self.newest_ms(index, now_ms)?)
                            > self.config.retention_ms
                }
            };
            if !go {
                return Ok(index);
            }
        }
        Ok(self.segments.len())
    }

    /// The largest timestamp of a segment. One without timestamps counts as old as
    /// the time since the log was opened.
    fn newest_ms(&mut self, index: usize, now_ms: i64) -> Result<i64, LogError> {
        let newest = if let Some(max) = self.segments[index].max_timestamp() {
            max.timestamp_ms
        } else if index + 1 == self.segments.len() {
            self.tail(now_ms)?.max_timestamp.timestamp_ms
        } else {
            let files = self.segments[index].files();
            let file = files.time_index(&self.shared)?;
            let last = index::last_timestamp(&*file, files.base_offset)?;
            self.segments[index].set_max_timestamp(last);
            last.map_or(NO_TIMESTAMP, |last| last.timestamp_ms)
        };
        Ok(if newest > NO_TIMESTAMP {
            newest
        } else {
            self.opened_ms
        })
    }

    /// Takes the first `count` segments out of the log. At least one stays. Their files
    /// go later ([`Log::take_due_deletions`]).
    fn delete_first(&mut self, count: usize, now_ms: i64) -> Result<usize, LogError> {
        let count = count.min(self.segments.len() - 1);
        if count == 0 {
            return Ok(0);
        }
        ensure_snapshot(&self.shared, &self.segments, count, now_ms)?;
        let log_start = self.log_start.max(self.segments[count].base_offset());
        let lsn = self.journal(&Record::LogStart { offset: log_start })?;
        self.log_start = log_start;
        let changed = self.epochs.truncate_from_start(log_start);
        self.note_epochs(changed);
        let due_ms = now_ms.saturating_add(self.config.file_delete_delay_ms);
        let mut doomed = Vec::new();
        for segment in self.segments.drain(..count) {
            segment.release();
            // The log file goes first: without it the others are orphans.
            for extension in [
                names::LOG,
                names::INDEX,
                names::TIME_INDEX,
                names::TXN_INDEX,
                names::SNAPSHOT,
            ] {
                doomed.push(Doomed {
                    path: self.shared.path(segment.base_offset(), extension),
                    due_ms,
                    lsn,
                });
            }
        }
        let behind = self.behind();
        behind.names_dirty = true;
        behind.doomed.append(&mut doomed);
        debug_assert!(self.log_start <= self.durable_offset());
        Ok(count)
    }

    /// Files of deleted segments whose delay is over.
    pub fn take_due_deletions(&mut self, now_ms: i64) -> Option<Deletions> {
        let wal = self.shared.parent.wal.as_ref();
        let durable = wal.map(|wal| wal.durable_lsn());
        let said = |doomed: &mut Doomed| durable.is_none_or(|durable| doomed.lsn <= durable);
        let behind = self.behind.as_mut()?;
        let due: Vec<Doomed> = behind
            .doomed
            .extract_if(.., |doomed| doomed.due_ms <= now_ms && said(doomed))
            .collect();
        (!due.is_empty()).then(|| Deletions {
            disk: self.shared.parent.disk.clone(),
            files: due,
        })
    }

    /// Bytes of the segments that begin at or above `offset`.
    pub fn bytes_above(&self, offset: i64) -> u64 {
        let above = self
            .segments
            .iter()
            .filter(|segment| segment.base_offset() >= offset);
        above.map(|segment| u64::from(segment.size_bytes)).sum()
    }

    /// Where the first segment ends that ends above `offset`, if it is sealed and ends no later
    /// than `upper`.
    pub fn sealed_end(&self, offset: i64, upper: i64) -> Option<i64> {
        let mut bases = self.segments.iter().map(Segment::base_offset);
        bases
            .find(|base| *base > offset)
            .filter(|base| *base <= upper)
    }

    /// Moves the log start up to `offset` (DeleteRecords, KIP-107; followers with
    /// their leader). Readers see it at once; answer when the returned group is durable.
    /// `None` when the log starts there or above already. The segments below go with the
    /// next [`Log::apply_retention`].
    ///
    /// # Errors
    /// `OffsetOutOfRange` above what is durable; the caller also refuses offsets
    /// above the high watermark.
    pub fn delete_records(&mut self, offset: i64) -> Result<Option<Lsn>, LogError> {
        self.check_usable()?;
        if offset > self.durable_offset() {
            return Err(LogError::OffsetOutOfRange {
                offset,
                log_start: self.log_start,
                end: self.durable_offset(),
            });
        }
        if offset <= self.log_start {
            return Ok(None);
        }
        let lsn = self.journal(&Record::LogStart { offset })?;
        self.log_start = offset;
        let changed = self.epochs.truncate_from_start(offset);
        self.note_epochs(changed);
        Ok(Some(lsn))
    }

    /// Lets a log that is being prepared begin at `offset`.
    pub(crate) fn start_at(&mut self, offset: i64) {
        if offset > self.log_start {
            self.log_start = offset;
            let changed = self.epochs.truncate_from_start(offset);
            self.note_epochs(changed);
        }
    }
}
