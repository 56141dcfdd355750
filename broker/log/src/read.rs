//! Reading records by offset: planned under the log's lock, run outside of it.
//!
//! A read gives ranges of files, not their bytes: a sender hands them to the system. Which batches
//! are in a range is found by the index and the few headers around the cut.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tidemark_env::disk::{CachedOnly, DiskFile, FileRange};
use tidemark_records::BatchHeader;

use crate::error::ReadError;
use crate::index::{self, OffsetPosition};
use crate::log::Log;
use crate::scan::{BatchScanner, Step};
use crate::segment::{LogShared, Segment, SegmentFiles};

/// Shorter reads walk over their headers: the index would hardly save one.
const MIN_REACH_BYTES: usize = 4096;

/// Whether a read may wait for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// It may: on a thread where that stalls nobody.
    Any,
    /// `WouldBlock` instead.
    Cached,
}

/// Part of a segment as it was when a plan was made.
#[derive(Debug, Clone)]
pub(crate) struct SegmentView {
    pub(crate) files: Arc<SegmentFiles>,
    pub(crate) size_bytes: u32,
    /// Base offset and position of the batch that holds the offset, when memory knew.
    exact: Option<(i64, u32)>,
    /// Where to begin looking, when an index entry in memory knew.
    hint: Option<u32>,
    /// The last index entry that the read reaches, when it is in memory.
    reach: Option<OffsetPosition>,
    /// Where the batches below the upper bound end, and the offset there, when memory knew.
    end: Option<(u32, i64)>,
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
    /// What follows the files.
    memory: Vec<MemoryBatch>,
}

/// A batch of the tail in memory.
#[derive(Debug, Clone)]
struct MemoryBatch {
    base_offset: i64,
    next_offset: i64,
    bytes: Bytes,
}

/// Records as they lie.
#[derive(Debug, Clone)]
pub enum Piece {
    /// In memory.
    Memory(Bytes),
    /// In a file. A truncation after the read shortens or changes it, a deletion does not.
    File(FileRange),
}

impl Piece {
    /// Its length in bytes.
    pub fn len(&self) -> usize {
        match self {
            Piece::Memory(bytes) => bytes.len(),
            Piece::File(range) => range.len,
        }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Records that were found.
#[derive(Debug, Clone)]
pub struct ReadRecords {
    /// Together they are whole batches, one after the other; none when nothing fits or is there
    /// yet. The first batch may begin below the offset asked for.
    pub pieces: Vec<Piece>,
    /// Base offset of the first batch, `None` without one.
    pub first_offset: Option<i64>,
    /// Where to read on.
    pub next_offset: i64,
    /// Whether there was a batch that `max_bytes` left no room for.
    pub more: bool,
}

impl ReadRecords {
    /// The length of all pieces in bytes.
    pub fn size_bytes(&self) -> usize {
        self.pieces.iter().map(Piece::len).sum()
    }

    /// Whether sending it would not wait for the disk.
    pub fn is_cached(&self) -> bool {
        self.files().all(FileRange::is_cached)
    }

    /// Reads what is not in memory once, so that it is in the page cache. Blocks.
    ///
    /// # Errors
    /// The disk failed.
    pub fn warm(&self) -> Result<(), ReadError> {
        self.files().try_for_each(FileRange::warm)?;
        Ok(())
    }

    fn files(&self) -> impl Iterator<Item = &FileRange> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Memory(_) => None,
            Piece::File(range) => Some(range),
        })
    }
}

/// Records that were read into memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedRecords {
    /// See [`ReadRecords::pieces`].
    pub records: Bytes,
    /// See [`ReadRecords::first_offset`].
    pub first_offset: Option<i64>,
    /// See [`ReadRecords::next_offset`].
    pub next_offset: i64,
    /// See [`ReadRecords::more`].
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
        let upper = upper.min(self.durable_offset());
        let mut views = (None, None);
        if offset < upper.min(self.files_end().end) {
            let holding = self
                .segments
                .partition_point(|segment| segment.base_offset() <= offset)
                .saturating_sub(1);
            views.0 = Some(self.view(holding, offset, max_bytes, upper));
            views.1 = (holding + 1..self.segments.len())
                .find(|index| self.written_bytes(*index) > 0)
                .map(|index| self.view(index, offset, max_bytes, upper));
        }
        Ok(ReadPlan {
            shared: self.shared.clone(),
            generation: self.generation(),
            offset,
            max_bytes,
            upper,
            at_least_one_batch,
            first: views.0,
            next: views.1,
            memory: self.memory_from(offset, max_bytes, upper),
        })
    }

    /// Batches in memory from the one that holds `offset` on: one more than fit into
    /// `max_bytes`, to know that there is more.
    fn memory_from(&self, offset: i64, max_bytes: usize, upper: i64) -> Vec<MemoryBatch> {
        if offset >= upper {
            return Vec::new();
        }
        let mut before = 0;
        self.in_memory(offset)
            .take_while(|batch| batch.next_offset <= upper)
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
            .collect()
    }

    pub(crate) fn view(
        &self,
        index: usize,
        offset: i64,
        max_bytes: usize,
        upper: i64,
    ) -> SegmentView {
        let segment = &self.segments[index];
        let mut view = SegmentView::new(segment, self.written_bytes(index));
        let next = self.segments.get(index + 1);
        // Where the file ends, which for the last one is where memory goes on.
        let written = self.files_end();
        let file_end = match next {
            Some(next) if segment.base_offset() < written.segment_base => next.base_offset(),
            _ => written.end,
        };
        if upper >= file_end {
            view.end = Some((view.size_bytes, file_end));
        }
        if let Some(tail) = self.tail.as_ref().filter(|_| next.is_none()) {
            view.exact = tail.exact(offset);
            view.hint = tail.floor(offset);
            let start = view.exact.map(|(_, position)| position).or(view.hint);
            view.reach = start.and_then(|start| {
                tail.floor_position(u64::from(start).saturating_add(max_bytes as u64), upper)
            });
            if view.end.is_none() {
                let holding = tail.exact(upper);
                view.end = holding
                    .filter(|(base, _)| *base == upper)
                    .map(|(base, position)| (position, base));
            }
        }
        view
    }
}

impl SegmentView {
    /// The first `size_bytes` of `segment`, of which nothing more is known.
    pub(crate) fn new(segment: &Segment, size_bytes: u32) -> SegmentView {
        SegmentView {
            files: segment.files().clone(),
            size_bytes,
            exact: None,
            hint: None,
            reach: None,
            end: None,
        }
    }

    pub(crate) fn corrupt(&self, shared: &LogShared, position: u64, reason: String) -> ReadError {
        ReadError::Corrupt {
            file: self.files.log_path(shared),
            position,
            reason,
        }
    }

    /// The index, unless there is none.
    fn index(
        &self,
        shared: &LogShared,
        access: Access,
    ) -> Result<Option<Arc<dyn DiskFile>>, io::Error> {
        if access == Access::Cached {
            let open = self.files.open_index().ok_or(io::ErrorKind::WouldBlock)?;
            return Ok(Some(Arc::new(CachedOnly(open))));
        }
        match self.files.index(shared) {
            Ok(index) => Ok(Some(index)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Where the index says to begin looking for `offset`, and the number of the entry that does.
    /// A missing index says 0.
    pub(crate) fn start(
        &self,
        shared: &LogShared,
        access: Access,
        offset: i64,
    ) -> io::Result<(u32, Option<u64>)> {
        if let Some(hint) = self.hint {
            return Ok((hint, None));
        }
        if offset <= self.files.base_offset {
            return Ok((0, Some(0)));
        }
        let Some(index) = self.index(shared, access)? else {
            return Ok((0, None));
        };
        let entry = index::floor_offset(&*index, self.files.base_offset, offset)?;
        Ok(entry
            .filter(|(_, entry)| entry.position < self.size_bytes)
            .map_or((0, Some(0)), |(number, entry)| {
                (entry.position, Some(number))
            }))
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

/// What one segment had: batches up to `end`, a position.
struct Found {
    end: u64,
    next_offset: i64,
    more: bool,
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

    /// Finds the records. Blocks.
    ///
    /// # Errors
    /// [`ReadError::Stale`] when the log was truncated or lost the segment since:
    /// make a new plan. Otherwise damage (where it was looked at) or a failed disk.
    pub fn run(&self) -> Result<ReadRecords, ReadError> {
        self.run_with(Access::Any)
    }

    /// Finds the records if neither that nor sending them waits for the disk; `None` otherwise,
    /// or when there is no telling.
    ///
    /// # Errors
    /// As for [`ReadPlan::run`].
    pub fn run_cached(&self) -> Result<Option<ReadRecords>, ReadError> {
        match self.run_with(Access::Cached) {
            Ok(found) => Ok(Some(found).filter(ReadRecords::is_cached)),
            Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads the records into memory. Blocks.
    ///
    /// # Errors
    /// As for [`ReadPlan::run`].
    pub fn load(&self) -> Result<LoadedRecords, ReadError> {
        let found = self.run()?;
        let mut parts = Vec::with_capacity(found.pieces.len());
        for piece in found.pieces {
            parts.push(match piece {
                Piece::Memory(bytes) => bytes,
                Piece::File(range) => self.unless_stale(range.read().map_err(ReadError::Io))?,
            });
        }
        let records = match parts.len() {
            1 => parts.remove(0),
            _ => {
                let mut whole = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
                parts.iter().for_each(|part| whole.extend_from_slice(part));
                whole.freeze()
            }
        };
        self.unless_stale(Ok(LoadedRecords {
            records,
            first_offset: found.first_offset,
            next_offset: found.next_offset,
            more: found.more,
        }))
    }

    /// Damage, and anything else, may be what a truncation looks like from here.
    fn unless_stale<T>(&self, result: Result<T, ReadError>) -> Result<T, ReadError> {
        match self.shared.generation() == self.generation {
            true => result,
            false => Err(ReadError::Stale),
        }
    }

    fn run_with(&self, access: Access) -> Result<ReadRecords, ReadError> {
        for view in [&self.first, &self.next].into_iter().flatten() {
            let found = self.unless_stale(self.read_segment(view, access))?;
            if found.more || found.first_offset.is_some() {
                return Ok(self.with_memory(found));
            }
        }
        self.unless_stale(Ok(self.with_memory(self.nothing())))
    }

    /// Goes on with what is in memory, where the files end.
    fn with_memory(&self, mut found: ReadRecords) -> ReadRecords {
        if found.more {
            return found;
        }
        let mut size_bytes = found.size_bytes();
        for batch in &self.memory {
            if found.first_offset.is_some() && batch.base_offset > found.next_offset {
                // Another file lies in between.
                found.more = true;
                break;
            }
            let first = size_bytes == 0 && self.at_least_one_batch;
            if size_bytes + batch.bytes.len() > self.max_bytes && !first {
                found.more = true;
                break;
            }
            found.first_offset.get_or_insert(batch.base_offset);
            found.next_offset = batch.next_offset;
            size_bytes += batch.bytes.len();
            found.pieces.push(Piece::Memory(batch.bytes.clone()));
        }
        found
    }

    fn nothing(&self) -> ReadRecords {
        ReadRecords {
            pieces: Vec::new(),
            first_offset: None,
            next_offset: self.offset,
            more: false,
        }
    }

    fn read_segment(&self, view: &SegmentView, access: Access) -> Result<ReadRecords, ReadError> {
        let file = match access {
            Access::Any => view.files.log(&self.shared)?,
            Access::Cached => view
                .files
                .open_log()
                .ok_or(io::Error::from(io::ErrorKind::WouldBlock))?,
        };
        let read: Arc<dyn DiskFile> = match access {
            Access::Any => file.clone(),
            Access::Cached => Arc::new(CachedOnly(file.clone())),
        };
        let (base, position, near) = match view.exact {
            Some((base, position)) => (base, u64::from(position), None),
            None => {
                let (start, near) = view.start(&self.shared, access, self.offset)?;
                match view.find(&self.shared, &read, start, self.offset)? {
                    Some((position, header)) => (header.base_offset, position, near),
                    None => return Ok(self.nothing()),
                }
            }
        };
        let found = self.cut(view, access, &read, (base, position), near)?;
        let len = usize::try_from(found.end - position).unwrap_or(0);
        if len == 0 {
            let more = found.more;
            return Ok(ReadRecords {
                more,
                ..self.nothing()
            });
        }
        let range = FileRange {
            file,
            position,
            len,
        };
        Ok(ReadRecords {
            pieces: vec![Piece::File(range)],
            first_offset: Some(base),
            next_offset: found.next_offset,
            more: found.more,
        })
    }

    /// Which of the batches from `position` on, where offset `base` is, are to be read; `near` is an
    /// index entry before their end.
    fn cut(
        &self,
        view: &SegmentView,
        access: Access,
        file: &Arc<dyn DiskFile>,
        (base, position): (i64, u64),
        near: Option<u64>,
    ) -> Result<Found, ReadError> {
        let limit = position.saturating_add(self.max_bytes as u64);
        if let Some((end, next_offset)) = view.end
            && u64::from(end) <= limit
        {
            // All of it, without a look. What begins above the bound gives nothing.
            return Ok(Found {
                end: u64::from(end).max(position),
                next_offset,
                more: false,
            });
        }
        let reach = match view.reach {
            Some(entry) => Some(entry),
            None if self.max_bytes < MIN_REACH_BYTES => None,
            None => match view.index(&self.shared, access)? {
                Some(index) => {
                    index::floor_position(&*index, view.files.base_offset, near, limit, self.upper)?
                }
                None => None,
            },
        };
        let sensible = |entry: &OffsetPosition| {
            u64::from(entry.position) > position
                && u64::from(entry.position) <= limit
                && entry.position < view.size_bytes
        };
        if let Some(entry) = reach.filter(sensible) {
            let from = u64::from(entry.position);
            let is_it = |header: &BatchHeader| {
                header.last_offset() == entry.offset && header.base_offset > base
            };
            if let Some(found) = self.walk(view, file, position, from, is_it)? {
                return Ok(found);
            }
        }
        let found = self.walk(view, file, position, position, |_| true)?;
        Ok(found.unwrap_or(Found {
            end: position,
            next_offset: self.offset,
            more: false,
        }))
    }

    /// Looks at headers from `from` on for the end of a read that begins at `position`; `None`
    /// when the first one is not what was expected there.
    fn walk(
        &self,
        view: &SegmentView,
        file: &Arc<dyn DiskFile>,
        position: u64,
        from: u64,
        is_expected: impl Fn(&BatchHeader) -> bool,
    ) -> Result<Option<Found>, ReadError> {
        let limit = position.saturating_add(self.max_bytes as u64);
        let size_bytes = u64::from(view.size_bytes);
        let mut scanner = BatchScanner::headers(file.clone(), from, size_bytes);
        let mut found = Found {
            end: from,
            next_offset: self.offset,
            more: false,
        };
        loop {
            let (at, header) = match scanner.step()? {
                Step::Batch { position, header } => (position, header),
                Step::End => break,
                Step::Bad { .. } if found.end == from && from > position => return Ok(None),
                Step::Bad { position, reason } => {
                    return Err(view.corrupt(&self.shared, position, reason));
                }
            };
            if at == from {
                if !is_expected(&header) {
                    return Ok(None);
                }
                if from > position {
                    found.next_offset = header.base_offset;
                }
            }
            let end = scanner.position();
            if header.next_offset() > self.upper {
                break;
            }
            if end > limit {
                if at > position || !self.at_least_one_batch {
                    found.more = true;
                    break;
                }
                found.end = end;
                found.next_offset = header.next_offset();
                found.more = end < size_bytes && found.next_offset < self.upper;
                break;
            }
            found.end = end;
            found.next_offset = header.next_offset();
        }
        Ok(Some(found))
    }
}
