//! Offsets by time (ListOffsets): planned under the log's lock, run outside of it.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tidemark_records::{Batch, BatchHeader, Limits};

use crate::error::ReadError;
use crate::index::{self, TimestampOffset};
use crate::log::Log;
use crate::read::{Access, SegmentView};
use crate::scan::{BatchScanner, Step};
use crate::segment::LogShared;
use crate::tail::NO_TIMESTAMP;

/// What is looked for. Earliest and latest offsets need no look-up: they are
/// [`Log::log_start_offset`] and the high watermark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampTarget {
    /// The first record whose timestamp is this or later, in milliseconds.
    AtOrAfter(i64),
    /// The first record with the largest timestamp (KIP-734).
    Max,
}

/// A record found by its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundTimestamp {
    /// Its offset.
    pub offset: i64,
    /// Its timestamp in milliseconds.
    pub timestamp_ms: i64,
    /// The epoch of the leader that appended it.
    pub leader_epoch: i32,
}

#[derive(Debug, Clone)]
struct TimeView {
    view: SegmentView,
    /// The segment's largest timestamp, where it is known already.
    max: Option<TimestampOffset>,
    /// Whether the time index ends with the largest timestamp.
    sealed: bool,
}

/// A look-up that has been planned.
#[derive(Debug, Clone)]
pub struct TimestampPlan {
    shared: Arc<LogShared>,
    generation: u64,
    target: TimestampTarget,
    log_start: i64,
    upper: i64,
    views: Vec<TimeView>,
    /// Batches that are not in the files yet.
    memory: Vec<Bytes>,
}

impl Log {
    /// Plans to look for a record by time among those at or above the log start and
    /// below offset `upper` (the high watermark, say).
    pub fn timestamp_plan(&self, target: TimestampTarget, upper: i64) -> TimestampPlan {
        let last = self.segments.len() - 1;
        let views = self
            .segments
            .iter()
            .enumerate()
            .map(|(index, segment)| (index, segment, self.written_bytes(index)))
            .filter(|(_, _, written)| *written > 0)
            .map(|(index, segment, written)| {
                // What is known of a segment counts when all of it is in the file.
                let whole = written == segment.size_bytes;
                TimeView {
                    view: SegmentView::new(segment, written),
                    max: match &self.tail {
                        _ if !whole => None,
                        Some(tail) if index == last => Some(tail.max_timestamp),
                        _ => segment.max_timestamp(),
                    },
                    sealed: segment.base_offset() < self.files_end().segment_base,
                }
            })
            .collect();
        let memory = self
            .in_memory(self.log_start)
            .filter(|batch| match target {
                TimestampTarget::AtOrAfter(target_ms) => batch.max_timestamp_ms >= target_ms,
                TimestampTarget::Max => true,
            })
            .filter_map(|batch| batch.bytes.clone())
            .collect();
        TimestampPlan {
            shared: self.shared.clone(),
            generation: self.generation(),
            target,
            log_start: self.log_start,
            upper: upper.min(self.durable_offset()),
            views,
            memory,
        }
    }
}

impl TimestampPlan {
    /// Looks. Blocks. `None` when no such record is below the upper bound.
    ///
    /// # Errors
    /// As for [`crate::ReadPlan::run`].
    pub fn run(&self) -> Result<Option<FoundTimestamp>, ReadError> {
        let found = match self.target {
            TimestampTarget::AtOrAfter(target_ms) => self.at_or_after(target_ms),
            TimestampTarget::Max => self.max(),
        };
        if self.shared.generation() != self.generation {
            return Err(ReadError::Stale);
        }
        Ok(found?.filter(|found| found.offset < self.upper))
    }

    fn at_or_after(&self, target_ms: i64) -> Result<Option<FoundTimestamp>, ReadError> {
        for view in &self.views {
            let max = match view.max {
                Some(max) => Some(max),
                None if view.sealed => self.last_time_entry(view)?,
                None => None,
            };
            if max.is_some_and(|max| max.timestamp_ms < target_ms) {
                continue;
            }
            let start = self.start_below(view, target_ms)?;
            let wanted = |header: &BatchHeader| header.max_timestamp_ms >= target_ms;
            if let Some(found) = self.first_record(view, start, wanted, target_ms)? {
                return Ok(Some(found));
            }
        }
        self.first_in_memory(target_ms, |header| header.max_timestamp_ms >= target_ms)
    }

    fn first_in_memory(
        &self,
        target_ms: i64,
        wanted: impl Fn(&BatchHeader) -> bool,
    ) -> Result<Option<FoundTimestamp>, ReadError> {
        let damaged = |error: tidemark_records::BatchError| ReadError::Corrupt {
            file: self.shared.dir(),
            position: 0,
            reason: format!("a batch in memory: {error}"),
        };
        for bytes in &self.memory {
            let header = BatchHeader::parse(bytes).map_err(damaged)?;
            if header.base_offset >= self.upper {
                break;
            }
            if header.last_offset() < self.log_start || !wanted(&header) {
                continue;
            }
            let batch = Batch {
                header,
                bytes: bytes.clone(),
            };
            if let Some(found) = self.first_of_batch(&batch, target_ms).map_err(damaged)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The first record of a batch with a timestamp of `target_ms` or later.
    fn first_of_batch(
        &self,
        batch: &Batch,
        target_ms: i64,
    ) -> Result<Option<FoundTimestamp>, tidemark_records::BatchError> {
        for record in batch.records(Limits::default())? {
            let record = record?;
            if record.timestamp_ms >= target_ms && record.offset >= self.log_start {
                return Ok(Some(FoundTimestamp {
                    offset: record.offset,
                    timestamp_ms: record.timestamp_ms,
                    leader_epoch: batch.header.partition_leader_epoch,
                }));
            }
        }
        Ok(None)
    }

    /// The largest timestamp of the batches in memory, with the last offset of its batch.
    fn max_in_memory(&self) -> Option<TimestampOffset> {
        let headers = self
            .memory
            .iter()
            .filter_map(|bytes| BatchHeader::parse(bytes).ok());
        headers
            .filter(|header| header.last_offset() >= self.log_start)
            .filter(|header| header.next_offset() <= self.upper)
            .map(|header| TimestampOffset {
                timestamp_ms: header.max_timestamp_ms,
                offset: header.last_offset(),
            })
            .filter(|max| max.timestamp_ms > NO_TIMESTAMP)
            .reduce(|best, max| {
                if max.timestamp_ms > best.timestamp_ms {
                    max
                } else {
                    best
                }
            })
    }

    fn max(&self) -> Result<Option<FoundTimestamp>, ReadError> {
        let mut best: Option<(&TimeView, TimestampOffset)> = None;
        for view in &self.views {
            let Some(max) = self.max_of(view)? else {
                continue;
            };
            if best.is_none_or(|(_, best)| max.timestamp_ms > best.timestamp_ms) {
                best = Some((view, max));
            }
        }
        let newer = self.max_in_memory();
        if let Some(newer) = newer
            && best.is_none_or(|(_, best)| newer.timestamp_ms > best.timestamp_ms)
        {
            return self.first_in_memory(newer.timestamp_ms, |header| {
                header.last_offset() >= newer.offset
            });
        }
        let Some((view, max)) = best else {
            return Ok(None);
        };
        let (start, _) = view.view.start(&self.shared, Access::Any, max.offset)?;
        let wanted = |header: &BatchHeader| header.last_offset() >= max.offset;
        self.first_record(view, start, wanted, max.timestamp_ms)
    }

    /// The largest timestamp of the segment's records that are not deleted.
    fn max_of(&self, view: &TimeView) -> Result<Option<TimestampOffset>, ReadError> {
        let cut = view.view.files.base_offset < self.log_start;
        if !cut {
            if let Some(max) = view.max {
                return Ok((max.timestamp_ms > NO_TIMESTAMP).then_some(max));
            }
            if view.sealed
                && let Some(max) = self.last_time_entry(view)?
            {
                return Ok(Some(max));
            }
        }
        let mut max: Option<TimestampOffset> = None;
        let file = view.view.files.log(&self.shared)?;
        let mut scanner = BatchScanner::headers(file, 0, u64::from(view.view.size_bytes));
        loop {
            match scanner.step()? {
                Step::End => return Ok(max),
                Step::Bad { position, reason } => {
                    return Err(view.view.corrupt(&self.shared, position, reason));
                }
                Step::Batch { header, .. } => {
                    let newer =
                        header.max_timestamp_ms > max.map_or(NO_TIMESTAMP, |max| max.timestamp_ms);
                    if header.last_offset() >= self.log_start && newer {
                        max = Some(TimestampOffset {
                            timestamp_ms: header.max_timestamp_ms,
                            offset: header.last_offset(),
                        });
                    }
                }
            }
        }
    }

    fn last_time_entry(&self, view: &TimeView) -> Result<Option<TimestampOffset>, ReadError> {
        match view.view.files.time_index(&self.shared) {
            Ok(file) => Ok(index::last_timestamp(&*file, view.view.files.base_offset)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// A position that no record of `target_ms` or later lies before.
    fn start_below(&self, view: &TimeView, target_ms: i64) -> Result<u32, ReadError> {
        let base = view.view.files.base_offset;
        let entry = match view.view.files.time_index(&self.shared) {
            Ok(file) => index::below_timestamp(&*file, base, target_ms)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        let from = entry.map_or(base, |entry| entry.offset).max(self.log_start);
        Ok(view.view.start(&self.shared, Access::Any, from)?.0)
    }

    /// The first record from `start` on with a timestamp of `target_ms` or later, in
    /// the batches that `wanted` lets through.
    fn first_record(
        &self,
        view: &TimeView,
        start: u32,
        wanted: impl Fn(&BatchHeader) -> bool,
        target_ms: i64,
    ) -> Result<Option<FoundTimestamp>, ReadError> {
        let file = view.view.files.log(&self.shared)?;
        let end = u64::from(view.view.size_bytes);
        let mut scanner = BatchScanner::headers(file.clone(), u64::from(start), end);
        loop {
            let (position, header) = match scanner.step()? {
                Step::End => return Ok(None),
                Step::Bad { position, reason } => {
                    return Err(view.view.corrupt(&self.shared, position, reason));
                }
                Step::Batch { position, header } => (position, header),
            };
            if header.base_offset >= self.upper {
                return Ok(None);
            }
            if header.last_offset() < self.log_start || !wanted(&header) {
                continue;
            }
            let bytes = file.read_bytes_at(position, header.size_bytes())?;
            let batch = Batch { header, bytes };
            let corrupt = |error: tidemark_records::BatchError| {
                view.view.corrupt(&self.shared, position, error.to_string())
            };
            if let Some(found) = self.first_of_batch(&batch, target_ms).map_err(corrupt)? {
                return Ok(Some(found));
            }
        }
    }
}
