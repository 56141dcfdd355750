//! What is known of the segment that is appended to: index entries that are not
//! written yet, and what decides when the next entry or segment is due.
//!
//! Entries are kept back so that an append costs one write. They are lost in a crash
//! and made again by recovery, which scans what lies behind the checkpoint anyway.

use std::collections::VecDeque;
use std::io;

use tidemark_env::disk::{DiskFile, OpenMode};
use tidemark_records::BatchHeader;

use crate::index::{self, OFFSET_ENTRY_BYTES, OffsetPosition, TIME_ENTRY_BYTES, TimestampOffset};
use crate::names;
use crate::scan::{BatchScanner, Step};
use crate::segment::{LogShared, SegmentFiles};

/// Index entries kept back before they are written.
const MAX_PENDING_ENTRIES: usize = 256;

/// Newest batches whose positions are remembered.
const MAX_RECENT_BATCHES: usize = 64;

/// The timestamp of a segment that has none.
pub(crate) const NO_TIMESTAMP: i64 = -1;

/// Bookkeeping of the active segment.
#[derive(Debug)]
pub(crate) struct Tail {
    base_offset: i64,
    /// Timestamp of the first batch, -1 while there is none.
    pub(crate) first_timestamp_ms: i64,
    /// When the segment was made (or opened), for segments without timestamps.
    pub(crate) created_ms: i64,
    pub(crate) max_timestamp: TimestampOffset,
    bytes_since_entry: u32,
    /// Whether anything was appended since this was asked last.
    appended: bool,
    /// Base offsets and positions of the newest batches, for readers at the tail.
    recent: VecDeque<(i64, u32)>,
    pending_offsets: Vec<OffsetPosition>,
    pending_times: Vec<TimestampOffset>,
    /// Entries in the files.
    written_offsets: u32,
    written_times: u32,
    last_time_entry: TimestampOffset,
}

impl Tail {
    /// The tail of a new, empty segment.
    pub(crate) fn new(base_offset: i64, now_ms: i64) -> Self {
        let none = TimestampOffset {
            timestamp_ms: NO_TIMESTAMP,
            offset: base_offset,
        };
        Self {
            base_offset,
            first_timestamp_ms: NO_TIMESTAMP,
            created_ms: now_ms,
            max_timestamp: none,
            bytes_since_entry: 0,
            appended: false,
            recent: VecDeque::new(),
            pending_offsets: Vec::new(),
            pending_times: Vec::new(),
            written_offsets: 0,
            written_times: 0,
            last_time_entry: none,
        }
    }

    /// The tail of a segment that has `size_bytes`, whose index files are sane.
    pub(crate) fn load(
        shared: &LogShared,
        files: &SegmentFiles,
        size_bytes: u32,
        now_ms: i64,
    ) -> io::Result<Self> {
        let mut tail = Self::new(files.base_offset, now_ms);
        if size_bytes == 0 {
            return Ok(tail);
        }
        let log = files.log(shared)?;
        if let Step::Batch { header, .. } =
            BatchScanner::headers(log.clone(), 0, u64::from(size_bytes)).step()?
        {
            tail.first_timestamp_ms = header.max_timestamp_ms;
        }
        let (offset_index, time_index) = open_indexes(shared, files)?;
        let count = |file: &dyn DiskFile, entry: usize| -> io::Result<u32> {
            Ok(u32::try_from(file.len()? / entry as u64).unwrap_or(u32::MAX))
        };
        tail.written_offsets = count(&*offset_index, OFFSET_ENTRY_BYTES)?;
        tail.written_times = count(&*time_index, TIME_ENTRY_BYTES)?;
        if let Some(last) = index::last_timestamp(&*time_index, files.base_offset)? {
            tail.last_time_entry = last;
            tail.max_timestamp = last;
        }
        // Batches behind the last time entry may have larger timestamps.
        let from =
            index::floor_offset(&*offset_index, files.base_offset, tail.max_timestamp.offset)?
                .map_or(0, |(_, entry)| entry.position);
        let mut scanner = BatchScanner::headers(log, u64::from(from), u64::from(size_bytes));
        while let Step::Batch { header, .. } = scanner.step()? {
            tail.note_timestamp(&header);
        }
        Ok(tail)
    }

    /// The tail of a segment whose index files are emptied.
    pub(crate) fn with_fresh_indexes(
        shared: &LogShared,
        files: &SegmentFiles,
        now_ms: i64,
    ) -> io::Result<Self> {
        let (offset_index, time_index) = open_indexes(shared, files)?;
        offset_index.set_len(0)?;
        time_index.set_len(0)?;
        Ok(Self::new(files.base_offset, now_ms))
    }

    /// Makes the indexes of the first `size_bytes` of a segment anew, from the headers
    /// of its batches; with where and why that ended early.
    pub(crate) fn rebuild(
        shared: &LogShared,
        files: &SegmentFiles,
        size_bytes: u32,
        interval: u32,
        now_ms: i64,
    ) -> io::Result<(Self, Option<(u64, String)>)> {
        let mut tail = Self::with_fresh_indexes(shared, files, now_ms)?;
        let file = files.log(shared)?;
        let mut scanner = BatchScanner::headers(file, 0, u64::from(size_bytes));
        let bad = loop {
            match scanner.step()? {
                Step::End => break None,
                Step::Bad { position, reason } => break Some((position, reason)),
                Step::Batch { position, header } => {
                    let position = u32::try_from(position).unwrap_or(u32::MAX);
                    tail.note_batch(&header, position, interval);
                    if tail.wants_write() {
                        tail.write_entries(shared, files)?;
                    }
                }
            }
        };
        tail.write_entries(shared, files)?;
        Ok((tail, bad))
    }

    fn note_timestamp(&mut self, header: &BatchHeader) {
        if header.max_timestamp_ms > self.max_timestamp.timestamp_ms {
            self.max_timestamp = TimestampOffset {
                timestamp_ms: header.max_timestamp_ms,
                offset: header.last_offset(),
            };
        }
    }

    /// Takes note of a batch at `position`, whose header has its final offsets.
    pub(crate) fn note_batch(&mut self, header: &BatchHeader, position: u32, interval: u32) {
        if self.first_timestamp_ms == NO_TIMESTAMP && position == 0 {
            self.first_timestamp_ms = header.max_timestamp_ms;
        }
        self.note_timestamp(header);
        self.appended = true;
        if self.recent.len() == MAX_RECENT_BATCHES {
            self.recent.pop_front();
        }
        self.recent.push_back((header.base_offset, position));
        if self.bytes_since_entry > interval {
            self.pending_offsets.push(OffsetPosition {
                offset: header.last_offset(),
                position,
            });
            self.add_time_entry();
            self.bytes_since_entry = 0;
        }
        let size = u32::try_from(header.size_bytes()).unwrap_or(u32::MAX);
        self.bytes_since_entry = self.bytes_since_entry.saturating_add(size);
    }

    /// Whether anything was appended since the last call.
    pub(crate) fn take_appended(&mut self) -> bool {
        std::mem::take(&mut self.appended)
    }

    /// Adds the largest timestamp to the time index unless it is there already; done
    /// with every offset entry, and when the segment is sealed.
    pub(crate) fn add_time_entry(&mut self) {
        if self.max_timestamp.timestamp_ms > self.last_time_entry.timestamp_ms {
            self.pending_times.push(self.max_timestamp);
            self.last_time_entry = self.max_timestamp;
        }
    }

    /// Base offset and position of the batch that holds `offset`, if it is one of the newest.
    pub(crate) fn exact(&self, offset: i64) -> Option<(i64, u32)> {
        let above = self.recent.partition_point(|(base, _)| *base <= offset);
        above.checked_sub(1).map(|index| self.recent[index])
    }

    /// The last entry in memory of a batch that begins at or before `position` and ends at or
    /// below `offset`.
    pub(crate) fn floor_position(&self, position: u64, offset: i64) -> Option<OffsetPosition> {
        let above = self.pending_offsets.partition_point(|entry| {
            u64::from(entry.position) <= position && entry.offset <= offset
        });
        above
            .checked_sub(1)
            .map(|index| self.pending_offsets[index])
    }

    /// Where to begin looking for `offset`, when an entry in memory knows.
    pub(crate) fn floor(&self, offset: i64) -> Option<u32> {
        let above = self
            .pending_offsets
            .partition_point(|entry| entry.offset <= offset);
        above
            .checked_sub(1)
            .map(|index| self.pending_offsets[index].position)
    }

    /// Whether an index has reached `max_bytes`.
    pub(crate) fn index_full(&self, max_bytes: u32) -> bool {
        let full = |written: u32, pending: usize, entry: usize| {
            let entries = u64::from(written) + pending as u64;
            // One place is kept for the entry that sealing adds.
            entries + 1 >= u64::from(max_bytes) / entry as u64
        };
        full(
            self.written_offsets,
            self.pending_offsets.len(),
            OFFSET_ENTRY_BYTES,
        ) || full(
            self.written_times,
            self.pending_times.len(),
            TIME_ENTRY_BYTES,
        )
    }

    /// Whether enough entries have gathered to write them.
    pub(crate) fn wants_write(&self) -> bool {
        self.pending_offsets.len() >= MAX_PENDING_ENTRIES
    }

    /// Takes the entries of batches that begin below `position`, of records below
    /// `offset`: what is in the segment's file. `None` when there are none.
    pub(crate) fn take_entries(&mut self, position: u32, offset: i64) -> Option<IndexEntries> {
        let offsets = self
            .pending_offsets
            .partition_point(|entry| entry.position < position);
        let times = self
            .pending_times
            .partition_point(|entry| entry.offset < offset);
        if offsets == 0 && times == 0 {
            return None;
        }
        let entries = IndexEntries {
            offsets_at: u64::from(self.written_offsets) * OFFSET_ENTRY_BYTES as u64,
            offsets: self.pending_offsets[..offsets]
                .iter()
                .flat_map(|entry| entry.encode(self.base_offset))
                .collect(),
            times_at: u64::from(self.written_times) * TIME_ENTRY_BYTES as u64,
            times: self.pending_times[..times]
                .iter()
                .flat_map(|entry| entry.encode(self.base_offset))
                .collect(),
        };
        self.pending_offsets.drain(..offsets);
        self.pending_times.drain(..times);
        self.written_offsets += u32::try_from(offsets).unwrap_or(0);
        self.written_times += u32::try_from(times).unwrap_or(0);
        Some(entries)
    }

    /// Takes all entries.
    pub(crate) fn take_all_entries(&mut self) -> IndexEntries {
        self.take_entries(u32::MAX, i64::MAX).unwrap_or_default()
    }

    /// Writes the entries that were kept back.
    pub(crate) fn write_entries(
        &mut self,
        shared: &LogShared,
        files: &SegmentFiles,
    ) -> io::Result<()> {
        debug_assert_eq!(files.base_offset, self.base_offset);
        self.take_all_entries().write(shared, files)
    }
}

/// Index entries on their way to the files.
#[derive(Debug, Default)]
pub(crate) struct IndexEntries {
    offsets_at: u64,
    offsets: Vec<u8>,
    times_at: u64,
    times: Vec<u8>,
}

impl IndexEntries {
    /// Writes them where they belong. May be done again.
    pub(crate) fn write(&self, shared: &LogShared, files: &SegmentFiles) -> io::Result<()> {
        if self.offsets.is_empty() && self.times.is_empty() {
            return Ok(());
        }
        let (offset_index, time_index) = open_indexes(shared, files)?;
        if !self.offsets.is_empty() {
            offset_index.write_at(&self.offsets, self.offsets_at)?;
        }
        if !self.times.is_empty() {
            time_index.write_at(&self.times, self.times_at)?;
        }
        Ok(())
    }
}

type IndexFiles = (std::sync::Arc<dyn DiskFile>, std::sync::Arc<dyn DiskFile>);

/// Opens both indexes for writing, making them where they do not exist.
pub(crate) fn open_indexes(shared: &LogShared, files: &SegmentFiles) -> io::Result<IndexFiles> {
    let open = |extension| {
        shared
            .disk()
            .open(&shared.path(files.base_offset, extension), OpenMode::Create)
    };
    Ok((open(names::INDEX)?, open(names::TIME_INDEX)?))
}
