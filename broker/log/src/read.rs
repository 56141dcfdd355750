//! Reading records by offset: planned under the log's lock, run outside of it.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tidemark_env::disk::DiskFile;
use tidemark_records::{BATCH_OVERHEAD_BYTES, BatchHeader};

use crate::error::ReadError;
use crate::index;
use crate::log::Log;
use crate::scan::{BatchScanner, Step};
use crate::segment::{LogShared, SegmentFiles};

/// Part of a segment as it was when a plan was made.
#[derive(Debug, Clone)]
pub(crate) struct SegmentView {
    pub(crate) files: Arc<SegmentFiles>,
    pub(crate) size_bytes: u32,
    /// Where the batch begins that holds the offset, when memory knew.
    pub(crate) exact: Option<u32>,
    /// Where to begin looking, when an index entry in memory knew.
    pub(crate) hint: Option<u32>,
}

/// A read that has been planned.
#[derive(Debug, Clone)]
pub struct ReadPlan {
    shared: Arc<LogShared>,
    generation: u64,
    offset: i64,
    max_bytes: usize,
    upper: i64,
    at_least_one_batch: bool,
    first: Option<SegmentView>,
    next: Option<SegmentView>,
    memory: Vec<MemoryBatch>,
}

/// A batch of the tail in memory.
#[derive(Debug, Clone)]
struct MemoryBatch {
    base_offset: i64,
    next_offset: i64,
    bytes: Bytes,
}

/// Records that were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadRecords {
    /// Whole batches, one after the other; empty when nothing fits or is there yet.
    /// The first one may begin below the offset asked for.
    pub records: Bytes,
    /// Base offset of the first batch, `None` without one.
    pub first_offset: Option<i64>,
    /// Where to read on.
    pub next_offset: i64,
    /// Whether there was a batch that `max_bytes` left no room for.
    pub more: bool,
}

impl Log {
    /// Plans to read whole batches from the one that holds `offset` on: at most
    /// `max_bytes` of them, and only those that lie wholly below offset `upper` (the
    /// high watermark, or the end for followers). With `at_least_one_batch` a first
    /// batch larger than `max_bytes` is read all the same (KIP-74).
    ///
    /// # Errors
    /// [`ReadError::OutOfRange`] for an offset below the log's start or above its end.
    pub fn read_plan(
        &self,
        offset: i64,
        max_bytes: usize,
        upper: i64,
        at_least_one_batch: bool,
    ) -> Result<ReadPlan, ReadError> {
        if offset < self.log_start || offset > self.end {
            return Err(ReadError::OutOfRange {
                offset,
                log_start: self.log_start,
                end: self.end,
            });
        }
        let mut views = (None, None);
        let upper = upper.min(self.durable);
        if offset < upper.min(self.written.end) {
            let holding = self
                .segments
                .partition_point(|segment| segment.base_offset() <= offset)
                .saturating_sub(1);
            views.0 = Some(self.view(holding, offset));
            views.1 = (holding + 1..self.segments.len())
                .map(|index| self.view(index, offset))
                .find(|view| view.size_bytes > 0);
        }
        // One more than fits, to know that there is more.
        let mut before = 0;
        let memory = self
            .in_memory(offset)
            .take_while(|batch| batch.next_offset <= upper && offset < upper)
            .enumerate()
            .map_while(|(index, batch)| {
                if index > 1 && before > max_bytes {
                    return None;
                }
                let bytes = batch.bytes.clone()?;
                before += bytes.len();
                Some(MemoryBatch {
                    base_offset: batch.base_offset,
                    next_offset: batch.next_offset,
                    bytes,
                })
            })
            .collect();
        Ok(ReadPlan {
            shared: self.shared.clone(),
            generation: self.generation(),
            offset,
            max_bytes,
            upper,
            at_least_one_batch,
            first: views.0,
            next: views.1,
            memory,
        })
    }

    pub(crate) fn view(&self, index: usize, offset: i64) -> SegmentView {
        let segment = &self.segments[index];
        let active = index + 1 == self.segments.len();
        let tail = self.tail.as_ref().filter(|_| active);
        SegmentView {
            files: segment.files.clone(),
            size_bytes: self.written_bytes(index),
            exact: tail.and_then(|tail| tail.exact(offset)),
            hint: tail.and_then(|tail| tail.floor(offset)),
        }
    }
}

impl SegmentView {
    pub(crate) fn corrupt(&self, shared: &LogShared, position: u64, reason: String) -> ReadError {
        ReadError::Corrupt {
            file: self.files.log_path(shared),
            position,
            reason,
        }
    }

    /// Where the index says to begin looking for `offset`. A missing index says 0.
    pub(crate) fn start(&self, shared: &LogShared, offset: i64) -> io::Result<u32> {
        if let Some(hint) = self.hint {
            return Ok(hint);
        }
        if offset <= self.files.base_offset {
            return Ok(0);
        }
        let index = match self.files.index(shared) {
            Ok(index) => index,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(error),
        };
        let entry = index::floor_offset(&*index, self.files.base_offset, offset)?;
        Ok(entry
            .map(|entry| entry.position)
            .filter(|position| *position < self.size_bytes)
            .unwrap_or(0))
    }

    /// The first batch whose last offset is not below `offset`, looking at headers
    /// from `start` on, and from the segment's beginning if the index misled us.
    pub(crate) fn find(
        &self,
        shared: &LogShared,
        file: &Arc<dyn DiskFile>,
        start: u32,
        offset: i64,
    ) -> Result<Option<(u64, BatchHeader)>, ReadError> {
        let mut scanner =
            BatchScanner::headers(file.clone(), u64::from(start), u64::from(self.size_bytes));
        let mut first = true;
        loop {
            match scanner.step()? {
                Step::Batch { position, header } if header.last_offset() >= offset => {
                    // An entry that points behind the batch, or nowhere sensible.
                    if first && start > 0 && header.base_offset > offset {
                        return self.find(shared, file, 0, offset);
                    }
                    return Ok(Some((position, header)));
                }
                Step::Batch { .. } => first = false,
                Step::End => return Ok(None),
                Step::Bad { .. } if first && start > 0 => {
                    return self.find(shared, file, 0, offset);
                }
                Step::Bad { position, reason } => {
                    return Err(self.corrupt(shared, position, reason));
                }
            }
        }
    }
}

/// What one segment had.
struct Found {
    records: Bytes,
    first_offset: Option<i64>,
    next_offset: i64,
    more: bool,
}

impl Found {
    fn nothing(offset: i64) -> Self {
        Self {
            records: Bytes::new(),
            first_offset: None,
            next_offset: offset,
            more: false,
        }
    }
}

impl ReadPlan {
    /// Whether there is nothing to read below the upper bound.
    pub fn is_empty(&self) -> bool {
        self.first.is_none() && self.memory.is_empty()
    }

    /// The offset that was asked for.
    pub fn offset(&self) -> i64 {
        self.offset
    }

    /// Reads. Blocks.
    ///
    /// # Errors
    /// [`ReadError::Stale`] when the log was truncated or lost the segment since:
    /// make a new plan. Otherwise damage or a failed disk.
    pub fn run(&self) -> Result<ReadRecords, ReadError> {
        let mut outcome = ReadRecords {
            records: Bytes::new(),
            first_offset: None,
            next_offset: self.offset,
            more: false,
        };
        for view in [&self.first, &self.next].into_iter().flatten() {
            let found = match self.read_segment(view) {
                Ok(found) => found,
                // Damage may be what a truncation looks like from here.
                Err(_) if self.shared.generation() != self.generation => {
                    return Err(ReadError::Stale);
                }
                Err(error) => return Err(error),
            };
            if found.more || found.first_offset.is_some() {
                outcome.records = found.records;
                outcome.first_offset = found.first_offset;
                outcome.next_offset = found.next_offset;
                outcome.more = found.more;
                break;
            }
        }
        if self.shared.generation() != self.generation {
            return Err(ReadError::Stale);
        }
        if !outcome.more {
            self.add_memory(&mut outcome);
        }
        Ok(outcome)
    }

    /// Goes on with what is in memory, where the files end.
    fn add_memory(&self, outcome: &mut ReadRecords) {
        let mut taken: Vec<&Bytes> = Vec::new();
        let mut size = outcome.records.len();
        for batch in &self.memory {
            if batch.next_offset <= outcome.next_offset {
                continue;
            }
            if !outcome.records.is_empty() && batch.base_offset > outcome.next_offset {
                // Files go on in between.
                outcome.more = true;
                break;
            }
            let first = size == 0 && self.at_least_one_batch;
            if size + batch.bytes.len() > self.max_bytes && !first {
                outcome.more = true;
                break;
            }
            outcome.first_offset.get_or_insert(batch.base_offset);
            outcome.next_offset = batch.next_offset;
            size += batch.bytes.len();
            taken.push(&batch.bytes);
        }
        if let ([only], true) = (&taken[..], outcome.records.is_empty()) {
            outcome.records = (*only).clone();
        } else if !taken.is_empty() {
            let mut whole = BytesMut::with_capacity(size);
            whole.extend_from_slice(&outcome.records);
            taken
                .iter()
                .for_each(|bytes| whole.extend_from_slice(bytes));
            outcome.records = whole.freeze();
        }
    }

    fn read_segment(&self, view: &SegmentView) -> Result<Found, ReadError> {
        let file = view.files.log(&self.shared)?;
        let position = match view.exact {
            Some(position) => u64::from(position),
            None => {
                let start = view.start(&self.shared, self.offset)?;
                match view.find(&self.shared, &file, start, self.offset)? {
                    Some((position, _)) => position,
                    None => return Ok(Found::nothing(self.offset)),
                }
            }
        };
        let left = usize::try_from(u64::from(view.size_bytes) - position).unwrap_or(0);
        let wanted = self.max_bytes.max(BATCH_OVERHEAD_BYTES).min(left);
        let window = file.read_bytes_at(position, wanted)?;
        self.collect(view, &file, position, &window)
    }

    /// The whole batches at the start of `window`, which begins at `position`.
    fn collect(
        &self,
        view: &SegmentView,
        file: &Arc<dyn DiskFile>,
        position: u64,
        window: &Bytes,
    ) -> Result<Found, ReadError> {
        let mut found = Found::nothing(self.offset);
        let left = u64::from(view.size_bytes) - position;
        let mut taken = 0;
        while (taken as u64) < left {
            let Some(rest) = window
                .get(taken..)
                .filter(|rest| rest.len() >= BATCH_OVERHEAD_BYTES)
            else {
                found.more = true;
                break;
            };
            let header = match BatchHeader::parse(rest) {
                Ok(header) => header,
                Err(error) => {
                    return Err(view.corrupt(
                        &self.shared,
                        position + taken as u64,
                        error.to_string(),
                    ));
                }
            };
            let size = header.size_bytes();
            if header.next_offset() > self.upper {
                break;
            }
            if (size as u64) > left - taken as u64 {
                return Err(view.corrupt(
                    &self.shared,
                    position + taken as u64,
                    format!("the batch should have {size} bytes"),
                ));
            }
            let fits = taken + size <= self.max_bytes;
            if taken == 0 && !fits && self.at_least_one_batch {
                found.first_offset = Some(header.base_offset);
                found.next_offset = header.next_offset();
                found.more = (size as u64) < left && header.next_offset() < self.upper;
                found.records = if size <= window.len() {
                    window.slice(..size)
                } else {
                    file.read_bytes_at(position, size)?
                };
                return Ok(found);
            }
            if !fits {
                found.more = true;
                break;
            }
            found.first_offset.get_or_insert(header.base_offset);
            found.next_offset = header.next_offset();
            taken += size;
        }
        found.records = window.slice(..taken);
        Ok(found)
    }
}
