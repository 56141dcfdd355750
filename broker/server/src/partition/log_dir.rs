//! A data directory: its write-ahead log, which logs are in it, and what becomes of it when its
//! disk is full, slow or broken.

mod write_behind;

use super::Partition;
use super::ballast::{Ballast, is_full};
use crate::fatal::{Failed, Fatal};
use crate::metrics::Metrics;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tidemark_env::clock::Instant;
use tidemark_env::disk::{Disk, write_file_atomic};
use tidemark_env::{clock, random, task};
use tidemark_log::checkpoint::LogCheckpoint;
use tidemark_log::{CheckpointPart, DataDir, LogError, OpenError, RecoveredDir};
use tidemark_model::TopicId;
use tidemark_wal::{Failure, LogId, Lsn, Pressure, Record, RingId, Wal, WalConfig};

/// Says that the directory's disk failed.
const FAILED_MARK: &str = "tidemark-failed";

/// How write-ahead logs are kept.
#[derive(Debug, Clone)]
pub(crate) struct WalSettings {
    /// `wal.dir`.
    pub(crate) dir: Option<PathBuf>,
    pub(crate) file_bytes: u64,
    pub(crate) max_bytes: u64,
    pub(crate) memory_bytes: usize,
}

/// Bytes of one chunk of the tail in memory.
const CHUNK_BYTES: usize = 4 << 20;

#[derive(Default)]
struct Logs {
    open: BTreeMap<LogId, Arc<Partition>>,
    /// Logs that are being made: their first record may be durable before they are open.
    creating: BTreeMap<LogId, LogCheckpoint>,
    /// Logs that cannot be opened keep what is known of them.
    offline: BTreeMap<LogId, LogCheckpoint>,
}

/// A data directory.
pub(crate) struct LogDir {
    /// Its path, its disk and its write-ahead log, as its logs share them.
    pub(crate) of_logs: Arc<DataDir>,
    pub(crate) wal: Arc<Wal>,
    ballast: Ballast,
    ring: RingId,
    /// Half a file of the ring, as a share of it.
    file_share: f64,
    next_log_id: AtomicU64,
    logs: Mutex<Logs>,
    /// Partitions with something to be written, oldest first.
    dirty: Mutex<VecDeque<Arc<Partition>>>,
    /// There is no room: nothing more is taken in.
    full: AtomicBool,
    /// Until then others had better lead: the disk did not keep up.
    too_slow_until: Mutex<Option<Instant>>,
    stopping: AtomicBool,
    /// Ended as if the process had been killed: a killed process does nothing more.
    abandoned: AtomicBool,
    /// One checkpoint at a time.
    checkpointing: Mutex<()>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// The group that the disk was busy with at the last look, and for how long it has been.
    busy: Mutex<(Option<Lsn>, Duration)>,
    /// Told when the directory's disk has failed.
    failed: Failed,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic ends the process, so a poisoned lock is only seen in tests.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why an earlier process marked a data directory as failed, if one did.
pub(crate) fn failed_mark(disk: &dyn Disk, path: &Path) -> Option<String> {
    let mark = tidemark_env::disk::read_file(disk, &path.join(FAILED_MARK), 1 << 16).ok()?;
    Some(String::from_utf8_lossy(&mark).trim().to_owned())
}

impl LogDir {
    /// Reads what a data directory was left with, and begins a new ring for it. The old
    /// one stays until [`LogDir::opened`].
    pub(crate) fn open(
        disk: &Arc<dyn Disk>,
        path: &Path,
        settings: &WalSettings,
        cut_corrupt: bool,
        metrics: &Arc<Metrics>,
        failed: Failed,
    ) -> Result<(Arc<LogDir>, RecoveredDir), OpenError> {
        let rings = rings_of(path, settings);
        let ring_dir = |ring: RingId| rings.join(ring.to_string());
        let recovered = RecoveredDir::read(disk, path, ring_dir, cut_corrupt)?;
        if let Some(torn) = &recovered.torn {
            tracing::warn!(
                dir = %path.display(), torn,
                "the end of the write-ahead log was cut: it was being written when the broker stopped"
            );
        }
        let mut id = [0; 16];
        random::fill(&mut id);
        let ring = RingId(id);
        let dir = ring_dir(ring);
        disk.create_dir_all(&rings)?;
        // Others than the one that the checkpoint names are of starts that came to nothing.
        remove_rings(&**disk, &rings, recovered.ring)?;
        // What was closed cleanly needs its ring no more: its files are used again.
        match recovered.ring {
            Some(old) if recovered.clean && disk.exists(&ring_dir(old))? => {
                disk.rename(&ring_dir(old), &dir)?;
            }
            _ => disk.create_dir_all(&dir)?,
        }
        let config = WalConfig {
            dir,
            file_bytes: settings.file_bytes,
            max_bytes: settings.max_bytes,
            chunk_bytes: CHUNK_BYTES.min(settings.memory_bytes / 2),
            memory_bytes: settings.memory_bytes,
        };
        let metrics = Arc::clone(metrics);
        let observer = Box::new(move |group: &tidemark_wal::GroupWritten| {
            metrics.wal_group(group.took, group.bytes, group.records);
        });
        let wal = Wal::create(Arc::clone(disk), config, ring, recovered.next_lsn, observer)?;
        // The names on the way there as well: `wal.dir` may be new.
        for dir in rings.ancestors().take(3) {
            if !dir.as_os_str().is_empty() {
                disk.sync_dir(dir)?;
            }
        }
        let dir = LogDir {
            of_logs: Arc::new(DataDir {
                disk: Arc::clone(disk),
                path: path.to_path_buf(),
                wal: Some(Arc::clone(&wal)),
            }),
            wal,
            ballast: Ballast::of(disk, path),
            ring,
            file_share: settings.file_bytes as f64 / settings.max_bytes as f64 / 2.0,
            next_log_id: AtomicU64::new(recovered.next_log_id),
            logs: Mutex::default(),
            dirty: Mutex::default(),
            full: AtomicBool::new(false),
            too_slow_until: Mutex::default(),
            stopping: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            checkpointing: Mutex::default(),
            thread: Mutex::default(),
            busy: Mutex::default(),
            failed,
        };
        Ok((Arc::new(dir), recovered))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.of_logs.path
    }

    fn disk(&self) -> &dyn Disk {
        &*self.of_logs.disk
    }

    /// An id for a log that is new here.
    pub(crate) fn next_log_id(&self) -> LogId {
        LogId(self.next_log_id.fetch_add(1, Ordering::Relaxed))
    }

    /// Says in the write-ahead log that a log exists, before anything of it. Checkpoints
    /// speak of it from now on.
    pub(crate) fn create_log(
        &self,
        id: LogId,
        topic_id: TopicId,
        partition: i32,
    ) -> Result<(), Failure> {
        let create = Record::Create {
            topic_id: topic_id.0,
            partition,
        };
        let mut logs = lock(&self.logs);
        let placed = self.wal.append(id, &create, |_| None)?;
        let empty = LogCheckpoint::empty(topic_id, partition, placed.lsn - 1);
        logs.creating.insert(id, empty);
        Ok(())
    }

    /// A log is open: checkpoints speak of it from now on.
    pub(crate) fn add(&self, id: LogId, partition: Arc<Partition>) {
        let mut logs = lock(&self.logs);
        logs.offline.remove(&id);
        logs.creating.remove(&id);
        logs.open.insert(id, partition);
    }

    /// A log cannot be opened: checkpoints repeat what is known of it. Its records of the
    /// write-ahead log are kept elsewhere.
    pub(crate) fn add_offline(&self, id: LogId, mut known: LogCheckpoint) {
        known.lsn = self.wal.durable_lsn();
        lock(&self.logs).offline.insert(id, known);
    }

    /// A log is gone.
    pub(crate) fn remove(&self, id: LogId) {
        let mut logs = lock(&self.logs);
        logs.open.remove(&id);
        logs.creating.remove(&id);
        logs.offline.remove(&id);
    }

    /// Bytes of the write-ahead log that no checkpoint has let go of, the share of the
    /// memory in use, and so on.
    pub(crate) fn pressure(&self) -> Pressure {
        self.wal.pressure()
    }

    /// Whether nothing more is taken in for want of room.
    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    /// The disk does not keep up with what this broker leads: for `pause` others had better lead.
    /// Says whether that is news.
    pub(crate) fn resign(&self, pause: Duration) -> bool {
        let now = clock::monotonic();
        let before = lock(&self.too_slow_until).replace(now + pause);
        before.is_none_or(|until| until <= now)
    }

    /// Whether others had better lead what is here: there is no room, or the disk is too slow.
    pub(crate) fn steps_back(&self) -> bool {
        let too_slow = lock(&self.too_slow_until).is_some_and(|until| clock::monotonic() < until);
        too_slow || self.is_full()
    }

    /// All logs are open: makes durable what they rely on, says so in the first
    /// checkpoint of the new ring, and lets the old ring go. Blocks.
    pub(crate) fn opened(&self, settings: &WalSettings) -> io::Result<()> {
        self.checkpoint(false)?;
        let rings = rings_of(self.path(), settings);
        remove_rings(self.disk(), &rings, Some(self.ring))
    }

    /// Begins to write.
    pub(crate) fn begin(self: &Arc<Self>) -> io::Result<()> {
        if !self.ballast.make() {
            self.has_no_room("there is none to be set aside");
        }
        self.wal.run_writer()?;
        let dir = Arc::clone(self);
        if task::is_simulated() {
            drop(task::spawn(
                "write-behind",
                async move { dir.run_task().await },
            ));
            return Ok(());
        }
        let thread = task::thread("write-behind", move || dir.run())?;
        *lock(&self.thread) = Some(thread);
        Ok(())
    }

    /// A partition has something to be written.
    pub(super) fn enqueue(&self, partition: Arc<Partition>) {
        lock(&self.dirty).push_back(partition);
    }

    /// Ends the threads; everything that was appended is durable then. Blocks.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.wal.nudge();
        if let Some(thread) = lock(&self.thread).take()
            && thread.join().is_err()
        {
            tracing::error!("the write-behind thread panicked");
        }
        self.wal.stop();
    }

    /// Ends the threads without writing anything more, as if the process had been killed.
    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
        self.stopping.store(true, Ordering::Release);
        self.wal.fail("the broker was dropped".to_owned());
    }

    /// `passed` went by, in which this process ran: a disk that is busy with one group for `most` or
    /// longer stands still, which it does not say. The process ends, so that whoever runs it hears of
    /// it. The directory is not marked: nothing that was acknowledged depends on that group.
    pub(crate) fn watch(&self, passed: Duration, most: Duration) {
        let mut busy = lock(&self.busy);
        let writing = self.wal.writing();
        *busy = match *busy {
            (Some(before), so_far) if writing == Some(before) => (writing, so_far + passed),
            _ => (writing, Duration::ZERO),
        };
        let (Some(_), so_far) = *busy else { return };
        if so_far >= most && !self.stopping.load(Ordering::Acquire) {
            let for_ms = u64::try_from(so_far.as_millis()).unwrap_or(u64::MAX);
            self.failed.send_replace(Some(Fatal::Stuck {
                dir: self.path().to_path_buf(),
                for_ms,
            }));
        }
    }

    /// Notes that all logs were closed, so that the next start need not read the
    /// write-ahead log. Blocks.
    pub(crate) fn closed(&self, parts: &[CheckpointPart]) -> io::Result<()> {
        let offline = lock(&self.logs).offline.clone();
        self.note(parts, offline, self.wal.durable_lsn(), true)
    }

    /// Whether the disk failed.
    pub(crate) fn failure(&self) -> Option<String> {
        self.wal.failure().map(|failure| failure.to_string())
    }

    /// The disk failed: what its page cache holds cannot be trusted. Nothing more is
    /// acknowledged, the directory is marked, and whoever runs the broker is told.
    pub(crate) fn fail(&self, reason: &str) {
        // What was under way, a topic being made say, fails for that and says nothing of the disk.
        if self.abandoned.load(Ordering::Acquire) {
            return;
        }
        tracing::error!(
            dir = %self.path().display(), reason,
            "the data directory's disk failed: nothing more is taken in. Replace the disk"
        );
        self.take_nothing_more(reason);
        let mark = write_file_atomic(
            self.disk(),
            &self.path().join(FAILED_MARK),
            reason.as_bytes(),
        );
        if let Err(error) = mark {
            tracing::error!(dir = %self.path().display(), %error, "the directory cannot be marked as failed");
        }
        self.failed.send_replace(Some(Fatal::Disk {
            dir: self.path().to_path_buf(),
            reason: reason.to_owned(),
        }));
    }

    /// A log's files could not be changed: they are not what the write-ahead log says, until the
    /// next start has put that right. A disk that was only full is not given up for it.
    pub(crate) fn log_failed(&self, error: &LogError) {
        let reason = error.to_string();
        match error {
            LogError::Io(error) if is_full(error) => {
                // Or the thread would give the disk up for what it sees.
                self.stopping.store(true, Ordering::Release);
                self.take_nothing_more(&reason);
                self.failed.send_replace(Some(Fatal::Full {
                    dir: self.path().to_path_buf(),
                    reason,
                }));
            }
            _ => self.fail(&reason),
        }
    }

    fn take_nothing_more(&self, reason: &str) {
        self.wal.fail(reason.to_owned());
        let open: Vec<_> = lock(&self.logs).open.values().cloned().collect();
        for partition in open {
            partition.disk_failed(reason);
        }
    }

    pub(super) fn has_no_room(&self, reason: &str) {
        if self.full.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::error!(
            dir = %self.path().display(), reason,
            "the disk is full: the broker takes no records into this directory until there is room. \
             Delete topics, lower their retention, or grow the volume; no restart is needed"
        );
        // Room for what the metadata has to write so that something can be deleted.
        if let Err(error) = self.ballast.let_go_of_half() {
            tracing::warn!(%error, "the ballast cannot be let go");
        }
        // Whoever found it so: from now on the thread looks for room.
        self.wal.nudge();
    }

    fn has_room(&self) {
        if !self.is_full() || !self.ballast.make() {
            return;
        }
        self.full.store(false, Ordering::Release);
        tracing::info!(dir = %self.path().display(), "there is room on the disk again: records are taken in");
    }

    /// Waits until `lsn` is durable. Blocks.
    pub(crate) fn wait_durable(&self, lsn: Lsn) -> Result<(), io::Error> {
        self.wal.wait_durable(lsn).map_err(io::Error::other)
    }
}

/// Removes all rings in `rings` but one.
fn remove_rings(disk: &dyn Disk, rings: &Path, but: Option<RingId>) -> io::Result<()> {
    let kept = but.map(|ring| ring.to_string());
    for entry in disk.list(rings)? {
        if entry.is_dir && Some(&entry.name) != kept.as_ref() {
            disk.remove_dir_all(&rings.join(&entry.name))?;
        }
    }
    Ok(())
}

/// Where the rings of data directory `path` are.
fn rings_of(path: &Path, settings: &WalSettings) -> PathBuf {
    match &settings.dir {
        None => path.join("wal"),
        Some(dir) => {
            // Two data directories never share a place there.
            let name = path.to_string_lossy().replace(['/', '\\'], "_");
            dir.join(name.trim_start_matches('_'))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{FAILED_MARK, LogError};
    use crate::testing::Two;
    use std::io;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_a_killed_broker_was_at_says_nothing_of_its_disk() {
        let two = Two::start(&[]).await;
        let dir = two.broker.partitions.log_dirs().remove(0);
        let mark = dir.path().join(FAILED_MARK);
        two.server.kill().await;
        let error = LogError::Io(io::Error::other(dir.failure().expect("it takes nothing")));
        dir.log_failed(&error);
        assert!(!mark.exists());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_log_that_cannot_be_changed_marks_its_directory() {
        let two = Two::start(&[]).await;
        let dir = two.broker.partitions.log_dirs().remove(0);
        dir.log_failed(&LogError::Io(io::Error::other("it is broken")));
        assert!(dir.path().join(FAILED_MARK).exists());
        two.server.kill().await;
    }
}
