//! One segment of a log: what readers share of it, and what its owner knows.

use std::cell::OnceCell;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fmt, io};

use smallvec::SmallVec;
use tidemark_env::disk::{Disk, DiskFile, OpenMode};
use tidemark_wal::Wal;

use crate::index::{TimestampOffset, relative};
use crate::names;

/// A lock that a panicked holder does not spoil: all that is behind these locks is
/// replaced whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A data directory, as its logs share it.
pub struct DataDir {
    /// The disk that it is on.
    pub disk: Arc<dyn Disk>,
    /// Where it is.
    pub path: PathBuf,
    /// Where its logs are written ahead; `None` to look at them, or to prepare them.
    pub wal: Option<Arc<Wal>>,
}

impl fmt::Debug for DataDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DataDir({})", self.path.display())
    }
}

/// What a log and its outstanding plans share.
#[derive(Debug)]
pub(crate) struct LogShared {
    pub(crate) parent: Arc<DataDir>,
    /// The name of the partition's directory.
    pub(crate) name: Box<OsStr>,
    /// Bumped before a truncation touches any file: a read that saw two values
    /// may have seen half of each log.
    pub(crate) generation: AtomicU64,
}

impl LogShared {
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(crate) fn disk(&self) -> &dyn Disk {
        &*self.parent.disk
    }

    /// The partition's directory.
    pub(crate) fn dir(&self) -> PathBuf {
        self.parent.path.join(&*self.name)
    }

    pub(crate) fn path(&self, offset: i64, extension: &str) -> PathBuf {
        names::path(&self.dir(), offset, extension)
    }
}

/// The files of one segment, opened when they are needed.
#[derive(Debug)]
pub(crate) struct SegmentFiles {
    pub(crate) base_offset: i64,
    log: Mutex<Option<Arc<dyn DiskFile>>>,
    index: Mutex<Option<Arc<dyn DiskFile>>>,
    /// Whether a handle was asked for since the last [`Self::release_unused`].
    used: AtomicBool,
}

impl SegmentFiles {
    pub(crate) fn new(base_offset: i64) -> Arc<Self> {
        Arc::new(Self {
            base_offset,
            log: Mutex::new(None),
            index: Mutex::new(None),
            used: AtomicBool::new(false),
        })
    }

    pub(crate) fn log_path(&self, shared: &LogShared) -> PathBuf {
        shared.path(self.base_offset, names::LOG)
    }

    fn cached(
        &self,
        slot: &Mutex<Option<Arc<dyn DiskFile>>>,
        shared: &LogShared,
        extension: &str,
    ) -> io::Result<Arc<dyn DiskFile>> {
        self.used.store(true, Ordering::Relaxed);
        let mut slot = lock(slot);
        if let Some(file) = &*slot {
            return Ok(file.clone());
        }
        let path = shared.path(self.base_offset, extension);
        let file = shared.disk().open(&path, OpenMode::ReadWrite)?;
        *slot = Some(file.clone());
        Ok(file)
    }

    /// The `.log` file.
    pub(crate) fn log(&self, shared: &LogShared) -> io::Result<Arc<dyn DiskFile>> {
        self.cached(&self.log, shared, names::LOG)
    }

    /// The `.index` file.
    pub(crate) fn index(&self, shared: &LogShared) -> io::Result<Arc<dyn DiskFile>> {
        self.cached(&self.index, shared, names::INDEX)
    }

    /// The `.log` file, if it is open.
    pub(crate) fn open_log(&self) -> Option<Arc<dyn DiskFile>> {
        self.used.store(true, Ordering::Relaxed);
        lock(&self.log).clone()
    }

    /// The `.index` file, if it is open.
    pub(crate) fn open_index(&self) -> Option<Arc<dyn DiskFile>> {
        self.used.store(true, Ordering::Relaxed);
        lock(&self.index).clone()
    }

    /// The `.timeindex` file; it is not kept open.
    pub(crate) fn time_index(&self, shared: &LogShared) -> io::Result<Arc<dyn DiskFile>> {
        let path = shared.path(self.base_offset, names::TIME_INDEX);
        shared.disk().open(&path, OpenMode::ReadWrite)
    }

    /// Puts an already open `.log` file into its place.
    pub(crate) fn set_log(&self, file: Arc<dyn DiskFile>) {
        *lock(&self.log) = Some(file);
    }

    /// Closes the handles unless they were used since the last call.
    pub(crate) fn release_unused(&self) {
        if !self.used.swap(false, Ordering::Relaxed) {
            self.release();
        }
    }

    /// Whether any handle is open.
    pub(crate) fn is_open(&self) -> bool {
        lock(&self.log).is_some() || lock(&self.index).is_some()
    }

    /// Closes the handles.
    pub(crate) fn release(&self) {
        *lock(&self.log) = None;
        *lock(&self.index) = None;
    }
}

/// The segments of a log. Most have one.
pub(crate) type Segments = SmallVec<[Segment; 1]>;

/// One segment as its owner knows it.
#[derive(Debug)]
pub(crate) struct Segment {
    base_offset: i64,
    /// Made when they are asked for, and forgotten when nobody uses them.
    files: OnceCell<Arc<SegmentFiles>>,
    /// Appended bytes.
    pub(crate) size_bytes: u32,
    /// Largest timestamp in milliseconds, -1 in a segment without any; [`NOT_ASKED_FOR`] until it
    /// has been asked for.
    max_timestamp_ms: i64,
    /// The last offset of its batch, relative to the segment's as in the time index.
    max_timestamp_at: i32,
}

const NOT_ASKED_FOR: i64 = i64::MIN;

impl Segment {
    pub(crate) fn new(base_offset: i64, size_bytes: u32) -> Self {
        Self {
            base_offset,
            files: OnceCell::new(),
            size_bytes,
            max_timestamp_ms: NOT_ASKED_FOR,
            max_timestamp_at: 0,
        }
    }

    /// The first `size_bytes` of it.
    pub(crate) fn up_to(&self, size_bytes: u32) -> Self {
        Self {
            files: OnceCell::from(self.files().clone()),
            ..Self::new(self.base_offset, size_bytes)
        }
    }

    pub(crate) fn base_offset(&self) -> i64 {
        self.base_offset
    }

    pub(crate) fn files(&self) -> &Arc<SegmentFiles> {
        self.files
            .get_or_init(|| SegmentFiles::new(self.base_offset))
    }

    /// Largest timestamp and the last offset of its batch, once it has been asked for; -1 in a
    /// segment without any.
    pub(crate) fn max_timestamp(&self) -> Option<TimestampOffset> {
        (self.max_timestamp_ms != NOT_ASKED_FOR).then(|| TimestampOffset {
            timestamp_ms: self.max_timestamp_ms,
            offset: self.base_offset + i64::from(self.max_timestamp_at),
        })
    }

    pub(crate) fn set_max_timestamp(&mut self, max: Option<TimestampOffset>) {
        self.max_timestamp_ms = max.map_or(NOT_ASKED_FOR, |max| max.timestamp_ms);
        let at = max.and_then(|max| relative(self.base_offset, max.offset));
        self.max_timestamp_at = at.unwrap_or(0);
    }

    /// Whether anything is kept of its files.
    #[cfg(test)]
    pub(crate) fn has_files(&self) -> bool {
        self.files.get().is_some()
    }

    /// Closes the files' handles.
    pub(crate) fn release(&self) {
        if let Some(files) = self.files.get() {
            files.release();
        }
    }

    /// Closes the handles unless they were used since the last call.
    pub(crate) fn release_unused(&mut self) {
        let Some(files) = self.files.get() else {
            return;
        };
        files.release_unused();
        // Whoever else has them got them from here, under the log's lock.
        if Arc::strong_count(files) == 1 && !files.is_open() {
            self.files.take();
        }
    }
}
