//! What has been appended and is not in the segment files yet: the tail in memory, and
//! the work of writing it behind.
//!
//! An append goes into the write-ahead log; its bytes come back as a slice of the
//! group that made it durable ([`Log::durable`]). From then on they are read from
//! memory, until a [`WriteJob`] has put them into the segment's file. Rolls wait in the
//! same order, so no file is touched under the log's lock.
//!
//! **Invariant:** segment files hold only what the write-ahead log holds durably, and
//! what they hold ends at the end of a group when a checkpoint says so.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::Bytes;
use tidemark_env::disk::OpenMode;
use tidemark_wal::{Lsn, Placed};

use crate::log::Log;
use crate::names;
use crate::retention::Doomed;
use crate::segment::{LogShared, SegmentFiles};
use crate::tail::IndexEntries;

/// Slices that one system call takes.
const MAX_SLICES: usize = 1024;

/// Appended bytes that wait to be written.
#[derive(Debug, Clone)]
pub(crate) struct Unwritten {
    lsn: Lsn,
    pub(crate) base_offset: i64,
    pub(crate) next_offset: i64,
    pub(crate) max_timestamp_ms: i64,
    files: Arc<SegmentFiles>,
    /// Where they go in the segment's file.
    position: u32,
    len: u32,
    /// Where they are in the payload of their group.
    at: u32,
    /// The bytes, once they are durable.
    pub(crate) bytes: Option<Bytes>,
}

/// A segment that was sealed, and the one begun after it.
#[derive(Debug)]
struct Roll {
    sealed: Arc<SegmentFiles>,
    entries: IndexEntries,
    snapshot: Vec<u8>,
    created: Arc<SegmentFiles>,
}

/// Where the segment files end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) end: i64,
    pub(crate) segment_base: i64,
    pub(crate) position: u32,
}

/// What the files of a log are behind with.
#[derive(Debug)]
pub(crate) struct Behind {
    /// Where the segment files end.
    pub(crate) written: Written,
    /// What waits to be written, in the order in which it was appended.
    batches: VecDeque<Unwritten>,
    /// Records below survive a power cut.
    pub(crate) durable_end: i64,
    /// How many of `batches`, from the front, are durable.
    durable: usize,
    /// Their bytes.
    durable_bytes: u64,
    rolls: VecDeque<Roll>,
    /// A job is being run outside of the lock.
    running: bool,
    /// A job that failed for want of room, to be tried again before any other.
    stuck: Option<Box<WriteJob>>,
    /// Segments from this base offset on have been written to since the last checkpoint.
    pub(crate) unsynced_from: i64,
    /// Names in the directory have changed since the last checkpoint.
    pub(crate) names_dirty: bool,
    /// Whether `leader-epoch-checkpoint` lags behind.
    pub(crate) epochs_dirty: bool,
    /// Files that wait for their removal.
    pub(crate) doomed: Vec<Doomed>,
    /// The group that tells of a cut which the files do not show yet.
    pub(crate) cutting: Option<Lsn>,
    /// Why the files change no more.
    pub(crate) failed: Option<String>,
}

impl Behind {
    fn new(written: Written) -> Self {
        Self {
            written,
            batches: VecDeque::new(),
            durable_end: written.end,
            durable: 0,
            durable_bytes: 0,
            rolls: VecDeque::new(),
            running: false,
            stuck: None,
            unsynced_from: i64::MAX,
            names_dirty: false,
            epochs_dirty: false,
            doomed: Vec::new(),
            cutting: None,
            failed: None,
        }
    }

    /// From which segment on there is something to be synced, and whether epochs and names are: a
    /// checkpoint sees to all of it.
    pub(crate) fn take_unsynced(&mut self) -> (i64, bool, bool) {
        (
            std::mem::replace(&mut self.unsynced_from, i64::MAX),
            std::mem::take(&mut self.epochs_dirty),
            std::mem::take(&mut self.names_dirty),
        )
    }

    /// Whether there is nothing to remember.
    fn is_finished(&self) -> bool {
        self.is_settled()
            && self.unsynced_from == i64::MAX
            && !self.names_dirty
            && !self.epochs_dirty
            && self.doomed.is_empty()
            && self.cutting.is_none()
            && self.failed.is_none()
    }

    fn is_settled(&self) -> bool {
        self.batches.is_empty() && self.rolls.is_empty() && !self.running && self.stuck.is_none()
    }
}

#[derive(Debug)]
enum Step {
    Write {
        files: Arc<SegmentFiles>,
        position: u32,
        slices: Vec<Bytes>,
    },
    Index {
        files: Arc<SegmentFiles>,
        entries: IndexEntries,
    },
    Snapshot {
        offset: i64,
        bytes: Vec<u8>,
    },
    Create {
        files: Arc<SegmentFiles>,
    },
}

/// Work on a log's files, to be done outside of its lock and handed back.
#[derive(Debug)]
#[must_use = "run it, then tell Log::written or Log::write_failed"]
pub struct WriteJob {
    shared: Arc<LogShared>,
    steps: Vec<Step>,
    written: Written,
    batches: usize,
    rolls: usize,
    bytes: u64,
}

impl WriteJob {
    /// Bytes of records in it.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes. Blocks; nothing is synced. May be run again after an error.
    ///
    /// # Errors
    /// The disk is full (try again when there is room) or failed.
    pub fn run(&self) -> io::Result<()> {
        for step in &self.steps {
            match step {
                Step::Write {
                    files,
                    position,
                    slices,
                } => {
                    let file = files.log(&self.shared)?;
                    let mut at = u64::from(*position);
                    for part in slices.chunks(MAX_SLICES) {
                        let mut slices: Vec<IoSlice<'_>> =
                            part.iter().map(|bytes| IoSlice::new(bytes)).collect();
                        file.write_vectored_at(&mut slices, at)?;
                        at += part.iter().map(|bytes| bytes.len() as u64).sum::<u64>();
                    }
                    // A checkpoint would have all of it to write at once, before what is
                    // acknowledged meanwhile.
                    let begun = u64::from(*position);
                    file.begin_writeback(begun, at - begun);
                }
                Step::Index { files, entries } => entries.write(&self.shared, files)?,
                Step::Snapshot { offset, bytes } => {
                    let path = self.shared.path(*offset, names::SNAPSHOT);
                    let file = self.shared.disk().open(&path, OpenMode::Create)?;
                    file.set_len(0)?;
                    file.write_at(bytes, 0)?;
                }
                Step::Create { files } => create_files(&self.shared, files)?,
            }
        }
        Ok(())
    }
}

/// Makes the files of a new segment, empty.
pub(crate) fn create_files(shared: &LogShared, files: &SegmentFiles) -> io::Result<()> {
    let open = |extension| {
        let path = shared.path(files.base_offset, extension);
        let file = shared.disk().open(&path, OpenMode::Create)?;
        if !file.is_empty()? {
            // What a failed attempt of before left.
            file.set_len(0)?;
        }
        Ok::<_, io::Error>(file)
    };
    let log = open(names::LOG)?;
    files.set_log(log);
    open(names::INDEX)?;
    open(names::TIME_INDEX)?;
    Ok(())
}

impl Log {
    /// What the files are behind with, to be added to. Asked for before the segments take note of what
    /// is appended: where the files end is remembered from then on.
    pub(crate) fn behind(&mut self) -> &mut Behind {
        let behind = match self.behind.take() {
            Some(behind) => behind,
            None => Box::new(Behind::new(self.all_written())),
        };
        self.behind.insert(behind)
    }

    /// Where the segment files end.
    pub(crate) fn files_end(&self) -> Written {
        self.behind
            .as_ref()
            .map_or_else(|| self.all_written(), |behind| behind.written)
    }

    /// Where they end once everything is in them.
    fn all_written(&self) -> Written {
        let active = self.active();
        Written {
            end: self.end,
            segment_base: active.base_offset(),
            position: active.size_bytes,
        }
    }

    /// Takes note of bytes that the write-ahead log has taken.
    pub(crate) fn note_unwritten(
        &mut self,
        placed: Placed,
        (base_offset, next_offset): (i64, i64),
        max_timestamp_ms: i64,
        size_bytes: usize,
    ) {
        let files = self.active().files().clone();
        let position = self.active().size_bytes;
        let size_bytes = u32::try_from(size_bytes).unwrap_or(u32::MAX);
        self.since_snapshot_bytes = self.since_snapshot_bytes.saturating_add(size_bytes);
        let behind = self.behind();
        debug_assert!(
            behind
                .batches
                .back()
                .is_none_or(|last| last.lsn <= placed.lsn),
            "groups are numbered in the order of appends"
        );
        behind.batches.push_back(Unwritten {
            lsn: placed.lsn,
            base_offset,
            next_offset,
            max_timestamp_ms,
            files,
            position,
            len: size_bytes,
            at: placed.position,
            bytes: None,
        });
    }

    /// Takes note that the active segment was sealed and another begun.
    pub(crate) fn note_roll(
        &mut self,
        sealed: Arc<SegmentFiles>,
        entries: IndexEntries,
        snapshot: Vec<u8>,
        created: Arc<SegmentFiles>,
    ) {
        self.since_snapshot_bytes = 0;
        self.behind().rolls.push_back(Roll {
            sealed,
            entries,
            snapshot,
            created,
        });
    }

    /// Takes note that group `lsn` of the write-ahead log is durable; `payload` holds its
    /// bytes. Returns the durable offset. What a truncation took since is passed over.
    pub fn durable(&mut self, lsn: Lsn, payload: &Bytes) -> i64 {
        let Some(behind) = &mut self.behind else {
            return self.end;
        };
        while let Some(batch) = behind.batches.get_mut(behind.durable) {
            if batch.lsn != lsn {
                debug_assert!(batch.lsn > lsn, "group {} was passed over", batch.lsn);
                break;
            }
            let (at, len) = (batch.at as usize, batch.len as usize);
            batch.bytes = Some(payload.slice(at..at + len));
            behind.durable += 1;
            behind.durable_bytes += u64::from(batch.len);
            debug_assert!(
                batch.base_offset >= behind.durable_end,
                "I3: offsets are contiguous"
            );
            behind.durable_end = batch.next_offset;
        }
        debug_assert!(behind.durable_end <= self.end);
        behind.durable_end
    }

    /// Bytes that are durable and not in the segment files yet.
    pub fn unwritten_bytes(&self) -> u64 {
        self.behind
            .as_ref()
            .map_or(0, |behind| behind.durable_bytes)
    }

    /// Whether there is anything for [`Log::write_job`] to do.
    pub fn wants_write(&self) -> bool {
        self.behind.as_ref().is_some_and(|behind| {
            behind.failed.is_none()
                && !behind.running
                && (behind.durable > 0
                    || behind.stuck.is_some()
                    || (behind.batches.is_empty() && !behind.rolls.is_empty()))
        })
    }

    /// Whether whole segments wait to be written.
    pub(crate) fn has_unwritten_segments(&self) -> bool {
        self.behind
            .as_ref()
            .is_some_and(|behind| !behind.rolls.is_empty())
    }

    /// Whether all that was appended is in the segment files.
    pub fn is_settled(&self) -> bool {
        self.behind
            .as_ref()
            .is_none_or(|behind| behind.is_settled())
    }

    /// What is durable and not in the segment files, as work on them: whole groups only, and no
    /// group more once it has `most_bytes`. `None` when there is nothing, or a job is being run
    /// already.
    pub fn write_job(&mut self, most_bytes: u64) -> Option<WriteJob> {
        if !self.wants_write() {
            return None;
        }
        let shared = self.shared.clone();
        let behind = self.behind.as_mut()?;
        let mut written = behind.written;
        behind.running = true;
        if let Some(stuck) = behind.stuck.take() {
            return Some(*stuck);
        }
        let mut steps = Vec::new();
        let mut rolls = behind.rolls.iter_mut().peekable();
        let (mut rolled, mut batches, mut bytes) = (0, 0, 0);
        let mut last_lsn = None;
        let mut roll = |steps: &mut Vec<Step>, roll: &mut Roll, written: &mut Written| {
            steps.push(Step::Index {
                files: roll.sealed.clone(),
                entries: std::mem::take(&mut roll.entries),
            });
            let base = roll.created.base_offset;
            steps.push(Step::Snapshot {
                offset: base,
                bytes: std::mem::take(&mut roll.snapshot),
            });
            steps.push(Step::Create {
                files: roll.created.clone(),
            });
            *written = Written {
                end: base,
                segment_base: base,
                position: 0,
            };
            rolled += 1;
        };
        for batch in behind.batches.iter().take(behind.durable) {
            if bytes >= most_bytes && last_lsn != Some(batch.lsn) {
                break;
            }
            while let Some(due) =
                rolls.next_if(|roll| roll.created.base_offset <= batch.base_offset)
            {
                roll(&mut steps, due, &mut written);
            }
            debug_assert_eq!(batch.files.base_offset, written.segment_base);
            debug_assert_eq!(batch.position, written.position, "segments have no holes");
            let Some(slice) = &batch.bytes else {
                debug_assert!(false, "a durable batch has its bytes");
                break;
            };
            match steps.last_mut() {
                Some(Step::Write { files, slices, .. }) if Arc::ptr_eq(files, &batch.files) => {
                    slices.push(slice.clone());
                }
                _ => steps.push(Step::Write {
                    files: batch.files.clone(),
                    position: batch.position,
                    slices: vec![slice.clone()],
                }),
            }
            last_lsn = Some(batch.lsn);
            batches += 1;
            bytes += u64::from(batch.len);
            written.position += batch.len;
            written.end = batch.next_offset;
        }
        let end = written.end;
        while let Some(due) = rolls.next_if(|roll| roll.created.base_offset <= end) {
            roll(&mut steps, due, &mut written);
        }
        let active = self.active().files().clone();
        if written.segment_base == active.base_offset
            && let Some(tail) = &mut self.tail
            && let Some(entries) = tail.take_entries(written.position, written.end)
        {
            steps.push(Step::Index {
                files: active,
                entries,
            });
        }
        Some(WriteJob {
            shared,
            steps,
            written,
            batches,
            rolls: rolled,
            bytes,
        })
    }

    /// Takes note of a job that was run: what it wrote is read from the files from now on.
    pub fn written(&mut self, job: WriteJob) {
        let WriteJob {
            steps,
            written,
            batches,
            rolls,
            bytes,
            ..
        } = job;
        let Some(behind) = &mut self.behind else {
            return;
        };
        for step in steps {
            match step {
                Step::Create { .. } => behind.names_dirty = true,
                Step::Snapshot { offset, .. } => {
                    behind.names_dirty = true;
                    self.snapshot_at_end = offset == self.end;
                }
                Step::Write { .. } | Step::Index { .. } => {}
            }
        }
        behind.unsynced_from = behind.unsynced_from.min(behind.written.segment_base);
        behind.written = written;
        behind.running = false;
        behind.batches.drain(..batches);
        behind.durable -= batches;
        behind.durable_bytes -= bytes;
        behind.rolls.drain(..rolls);
        if behind.is_settled() && behind.batches.capacity() > 64 {
            behind.batches.shrink_to(16);
        }
        debug_assert!(written.end <= behind.durable_end);
    }

    /// Takes back a job that could not be run; [`Log::write_job`] gives it again.
    pub fn write_failed(&mut self, job: WriteJob) {
        let behind = self.behind();
        behind.running = false;
        behind.stuck = Some(Box::new(job));
    }

    /// The first group that the files lack something of.
    pub(crate) fn first_unwritten_lsn(&self) -> Option<Lsn> {
        let behind = self.behind.as_ref()?;
        behind.batches.front().map(|batch| batch.lsn)
    }

    /// Batches in memory from the one that holds `offset` on, as far as they are durable.
    pub(crate) fn in_memory(&self, offset: i64) -> impl Iterator<Item = &Unwritten> {
        let batches = self.behind.as_ref().map(|behind| {
            let from = behind
                .batches
                .partition_point(|batch| batch.next_offset <= offset);
            behind
                .batches
                .range(from.min(behind.durable)..behind.durable)
        });
        batches.into_iter().flatten()
    }

    /// How much of segment `index` is in its file.
    pub(crate) fn written_bytes(&self, index: usize) -> u32 {
        let segment = &self.segments[index];
        let written = self.files_end();
        match segment.base_offset().cmp(&written.segment_base) {
            std::cmp::Ordering::Less => segment.size_bytes,
            std::cmp::Ordering::Equal => written.position,
            std::cmp::Ordering::Greater => 0,
        }
    }

    /// Drops the bookkeeping of what the files are behind with when that is nothing.
    pub(crate) fn forget_finished(&mut self) {
        let finished = self.behind.take_if(|behind| behind.is_finished());
        debug_assert!(finished.is_none_or(|behind| {
            behind.written == self.all_written() && behind.durable_end == self.end
        }));
    }
}
