//! What leaves a log at its beginning: by age, by size, by DeleteRecords.
//!
//! Whole segments go, oldest first, and only below the high watermark; the log start
//! moves to what is left. Their files are renamed (`.deleted`) at once and removed
//! after `file.delete.delay.ms`.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tidemark_env::disk::Disk;

use crate::error::LogError;
use crate::flush::CheckpointJob;
use crate::index;
use crate::log::Log;
use crate::names;
use crate::recovery::ensure_snapshot;
use crate::tail::NO_TIMESTAMP;

/// A file that was renamed away and waits for its removal.
#[derive(Debug, Clone)]
pub(crate) struct Doomed {
    pub(crate) path: PathBuf,
    pub(crate) due_ms: i64,
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
        self.check_usable()?;
        let mut report = RetentionReport::default();
        let mut reasons = vec![Reason::BelowLogStart];
        if self.config.delete_retention {
            reasons.extend([Reason::TooLarge, Reason::TooOld]);
        }
        for reason in reasons {
            let count = self.deletable(reason, now_ms, high_watermark)?;
            if count == 0 {
                continue;
            }
            if count == self.segments.len() {
                self.roll(now_ms)?;
            }
            let before = self.size_bytes;
            let deleted = self.delete_first(count, now_ms);
            report.deleted_bytes += before - self.size_bytes;
            report.deleted_segments += deleted?;
        }
        Ok(report)
    }

    /// How many of the oldest segments may go for `reason`.
    fn deletable(
        &mut self,
        reason: Reason,
        now_ms: i64,
        high_watermark: i64,
    ) -> Result<usize, LogError> {
        let mut excess = match u64::try_from(self.config.retention_bytes) {
            Ok(limit) => self.size_bytes.saturating_sub(limit),
            Err(_) => 0,
        };
        for index in 0..self.segments.len() {
            let size = u64::from(self.segments[index].size_bytes);
            let next_base = self.segments.get(index + 1).map(|next| next.base_offset());
            let upper = next_base.unwrap_or(self.end);
            let last_and_empty = next_base.is_none() && size == 0;
            if last_and_empty || upper > high_watermark || upper > self.durable {
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
        let newest = if index + 1 == self.segments.len() {
            self.tail(now_ms)?.max_timestamp.timestamp_ms
        } else if let Some(max) = self.segments[index].max_timestamp {
            max.timestamp_ms
        } else {
            let files = &self.segments[index].files;
            let file = files.time_index(&self.shared)?;
            let last = index::last_timestamp(&*file, files.base_offset)?;
            self.segments[index].max_timestamp = last;
            last.map_or(NO_TIMESTAMP, |last| last.timestamp_ms)
        };
        Ok(if newest > NO_TIMESTAMP {
            newest
        } else {
            self.opened_ms
        })
    }

    /// Takes the first `count` segments out of the log. At least one stays.
    fn delete_first(&mut self, count: usize, now_ms: i64) -> Result<usize, LogError> {
        let mut deleted = 0;
        let mut failure = None;
        let count = count.min(self.segments.len() - 1);
        ensure_snapshot(&self.shared, &self.segments, count, now_ms)?;
        for _ in 0..count {
            let base = self.segments[0].base_offset();
            // The log file goes first: without it the others are orphans.
            if let Err(error) = self.doom(base, names::LOG, now_ms) {
                failure = Some(error);
                break;
            }
            let segment = self.segments.remove(0);
            segment.files.release();
            self.size_bytes -= u64::from(segment.size_bytes);
            deleted += 1;
            for extension in [
                names::INDEX,
                names::TIME_INDEX,
                names::TXN_INDEX,
                names::SNAPSHOT,
            ] {
                match self.doom(base, extension, now_ms) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        tracing::warn!(%error, "a deleted segment's file stays behind");
                    }
                    _ => {}
                }
            }
        }
        if deleted > 0 {
            self.log_start = self.log_start.max(self.segments[0].base_offset());
            self.epochs_dirty |= self.epochs.truncate_from_start(self.log_start);
        }
        debug_assert!(self.log_start <= self.durable);
        failure.map_or(Ok(deleted), |error| Err(error.into()))
    }

    fn doom(&mut self, base: i64, extension: &str, now_ms: i64) -> io::Result<()> {
        let from = self.shared.path(base, extension);
        let path = names::with_suffix(&from, names::DELETED_SUFFIX);
        self.shared.disk.rename(&from, &path)?;
        self.names_changed += 1;
        self.doomed.push(Doomed {
            path,
            due_ms: now_ms.saturating_add(self.config.file_delete_delay_ms),
        });
        Ok(())
    }

    /// Files of deleted segments whose delay is over.
    pub fn take_due_deletions(&mut self, now_ms: i64) -> Option<Deletions> {
        let due: Vec<Doomed> = self
            .doomed
            .extract_if(.., |doomed| doomed.due_ms <= now_ms)
            .collect();
        (!due.is_empty()).then(|| Deletions {
            disk: self.shared.disk.clone(),
            files: due,
        })
    }

    /// Moves the log start up to `offset` (DeleteRecords, KIP-107; followers with
    /// their leader). Readers see it at once; answer when the job has run, which
    /// makes it durable. `None` when the log starts there or above already. The
    /// segments below go with the next [`Log::apply_retention`].
    ///
    /// # Errors
    /// `OffsetOutOfRange` above what is durable; the caller also refuses offsets
    /// above the high watermark.
    pub fn delete_records(&mut self, offset: i64) -> Result<Option<CheckpointJob>, LogError> {
        self.check_usable()?;
        if offset > self.durable {
            return Err(LogError::OffsetOutOfRange {
                offset,
                log_start: self.log_start,
                end: self.durable,
            });
        }
        if offset <= self.log_start {
            return Ok(None);
        }
        self.log_start = offset;
        self.epochs_dirty |= self.epochs.truncate_from_start(offset);
        Ok(Some(self.log_start_job()))
    }
}
