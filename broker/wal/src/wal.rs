//! The shell: appenders, the writer and those who wait meet here.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::BytesMut;
use tidemark_env::disk::{Disk, OpenMode};
use tidemark_env::wake::Bell;
use tidemark_env::{clock, task};
use tokio::sync::Notify;

use crate::pool::Pool;
use crate::queue::Queue;
use crate::ring::{self, Ring};
use crate::types::{Failure, GroupWritten, LogId, Lsn, Member, Placed, Record, RingId, WalConfig};
use crate::writer::{Step, Writer};

/// Memory that its holders let go of without saying so is looked for this often.
const ADMIT_RETRY: Duration = Duration::from_millis(10);

pub(crate) struct RingState {
    pub(crate) ring: Ring,
    /// Counts whatever may end a wait for room.
    pub(crate) changes: u64,
    /// The count at which the writer found no file to go on with.
    pub(crate) full_at: Option<u64>,
}

impl RingState {
    /// The writer has no file to go on with. Gives the count of changes.
    pub(crate) fn full(&mut self) -> u64 {
        self.full_at = Some(self.changes);
        self.changes
    }
}

pub(crate) struct Done {
    /// Set once.
    pub(crate) ended: Option<Failure>,
    /// Threads in [`Wal::wait_durable`].
    pub(crate) waiting: usize,
}

/// A write-ahead log.
pub struct Wal {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    pub(crate) id: RingId,
    pub(crate) first_lsn: Lsn,
    pub(crate) observer: Box<dyn Fn(&GroupWritten) + Send + Sync>,
    pub(crate) queue: Mutex<Queue>,
    pub(crate) queued: Bell,
    pub(crate) writer: Mutex<Writer>,
    pub(crate) ring: Mutex<RingState>,
    pub(crate) ring_changed: Bell,
    /// All groups up to here are durable...
    pub(crate) durable: AtomicU64,
    /// ...and all who are touched by these were told.
    pub(crate) told: AtomicU64,
    pub(crate) done: Mutex<Done>,
    pub(crate) group_done: Condvar,
    pub(crate) group_done_async: Notify,
    /// More memory is in use than is allowed.
    pub(crate) crowded: AtomicBool,
    pub(crate) memory_freed: Notify,
    /// Whether somebody asked for a look at the pressure.
    pub(crate) nudged: Mutex<bool>,
    pub(crate) pressure_changed: Bell,
    pub(crate) stopping: AtomicBool,
    /// The ring grows for a group that cannot wait.
    pub(crate) growing: AtomicBool,
    /// The group that the disk has been given and has not answered for; 0 for none.
    pub(crate) writing: AtomicU64,
    /// A thread writes.
    pub(crate) running: AtomicBool,
    pub(crate) thread: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Wal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wal")
            .field("dir", &self.dir)
            .field("durable_lsn", &self.durable_lsn())
            .finish_non_exhaustive()
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic ends the process, so a poisoned lock is only seen in tests.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

impl Wal {
    /// Begins a fresh ring, whose first group is number `first_lsn`: above that of every
    /// group that [`scan`](crate::scan()) found in `config.dir`. Whatever other rings have
    /// there must be safe elsewhere, and nothing may say any more that they are to be
    /// read: their files are used again, or removed when they are of another size.
    /// `observer` is told of each group, on the writer's thread. Nothing is written until
    /// [`Wal::run_writer`], [`Wal::write_next`] or [`Wal::wait_durable`]. Blocks.
    ///
    /// # Errors
    /// The directory or its first file could not be made. With little room the file is made
    /// later, by [`Wal::prepare`] or when it is written to.
    pub fn create(
        disk: Arc<dyn Disk>,
        config: WalConfig,
        ring: RingId,
        first_lsn: Lsn,
        observer: Box<dyn Fn(&GroupWritten) + Send + Sync>,
    ) -> io::Result<Arc<Wal>> {
        let WalConfig {
            dir,
            file_bytes,
            max_bytes,
            chunk_bytes,
            memory_bytes,
        } = config;
        let file_bytes = ring::rounded_file_bytes(file_bytes);
        let first_lsn = first_lsn.max(1);
        disk.create_dir_all(&dir)?;
        if let Some(parent) = dir.parent() {
            disk.sync_dir(parent)?;
        }
        let max_files = (max_bytes / file_bytes).max(2);
        let spare = ring::take_over(&*disk, &dir, file_bytes, max_files)?;
        let mut files = Ring::new(file_bytes, max_bytes, first_lsn, spare);
        if files.spare_files() == 0 {
            let number = files.begin_file();
            // What the old ring holds goes before it, where there is little room.
            let made = match ring::has_room(&*disk, &dir, file_bytes)? {
                true => ring::make_file(&*disk, &dir, number, file_bytes),
                false => Err(ErrorKind::StorageFull.into()),
            };
            files.end_file(number, made.is_ok());
            match made {
                // What the old ring holds has to go first. An empty file tells this ring
                // from one whose volume is not there.
                Err(error) if error.kind() == ErrorKind::StorageFull => {
                    disk.open(&ring::path_of(&dir, 0), OpenMode::Create)?;
                    disk.sync_dir(&dir)?;
                }
                made => made?,
            }
        }
        Ok(Arc::new(Wal {
            disk,
            dir,
            id: ring,
            first_lsn,
            observer,
            queue: Mutex::new(Queue::new(first_lsn, Pool::new(chunk_bytes, memory_bytes))),
            queued: Bell::default(),
            writer: Mutex::new(Writer {
                current: None,
                previous_crc: 0,
                block: BytesMut::new(),
            }),
            ring: Mutex::new(RingState {
                ring: files,
                changes: 0,
                full_at: None,
            }),
            ring_changed: Bell::default(),
            durable: AtomicU64::new(first_lsn - 1),
            told: AtomicU64::new(first_lsn - 1),
            done: Mutex::new(Done {
                ended: None,
                waiting: 0,
            }),
            group_done: Condvar::new(),
            group_done_async: Notify::new(),
            crowded: AtomicBool::new(false),
            memory_freed: Notify::new(),
            nudged: Mutex::new(false),
            pressure_changed: Bell::default(),
            stopping: AtomicBool::new(false),
            growing: AtomicBool::new(false),
            writing: AtomicU64::new(0),
            running: AtomicBool::new(false),
            thread: Mutex::new(None),
        }))
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What tells it from other rings.
    pub fn ring_id(&self) -> RingId {
        self.id
    }

    /// Puts a record of `log` into the open group: a copy of its bytes, once. For callers
    /// who hold the lock of that log, so that its records are in order. `touched` gives
    /// the member to tell of that group, unless it is registered in it already; it is
    /// called under the queue's lock and must take no other. No I/O is done, and nothing
    /// is waited for: what a caller may append is bounded by [`Wal::admit`].
    ///
    /// # Errors
    /// The disk failed, or the write-ahead log was stopped; nothing was appended then.
    pub fn append(
        &self,
        log: LogId,
        record: &Record<'_>,
        touched: impl FnOnce(Lsn) -> Option<Arc<dyn Member>>,
    ) -> Result<Placed, Failure> {
        let (appended, crowded) = {
            let mut queue = lock(&self.queue);
            let appended = queue.append(log, record, touched)?;
            let pool = &queue.pool;
            let crowded = appended.more_memory && pool.used_bytes() > pool.allowed_bytes();
            (appended, crowded)
        };
        if appended.wake_writer {
            self.queued.ring();
        }
        if crowded {
            self.crowded.store(true, Ordering::Release);
        }
        if appended.more_memory {
            self.look_at_pressure();
        }
        Ok(appended.placed)
    }

    /// Waits while more memory is in use than is allowed; at once when the disk failed or
    /// this was stopped. To be called before taking the locks that [`Wal::append`] needs.
    pub async fn admit(&self) {
        while self.crowded.load(Ordering::Acquire) {
            let mut freed = pin!(self.memory_freed.notified());
            freed.as_mut().enable();
            if self.has_memory() {
                return;
            }
            self.look_at_pressure();
            // Either way it is looked at again.
            drop(clock::timeout(ADMIT_RETRY, freed).await);
        }
    }

    /// Looks for memory that was let go of. Says whether callers may go on.
    fn has_memory(&self) -> bool {
        let mut queue = lock(&self.queue);
        queue.pool.collect();
        let enough = queue.pool.used_bytes() <= queue.pool.allowed_bytes();
        if enough {
            // Under the queue's lock: an append that needs more sets it again.
            self.crowded.store(false, Ordering::Release);
        }
        enough || queue.ended.is_some()
    }

    /// Slices of payloads were let go of: whoever waits in [`Wal::admit`] looks again at
    /// once, instead of a few milliseconds later.
    pub fn memory_freed(&self) {
        if self.crowded.load(Ordering::Acquire) && self.has_memory() {
            self.memory_freed.notify_waiters();
        }
    }

    /// All groups up to here are durable.
    pub fn durable_lsn(&self) -> Lsn {
        self.durable.load(Ordering::Acquire)
    }

    /// Waits until group `lsn` is durable and its members were told. Blocks; where no
    /// writer runs, it writes. The caller must not hold a lock that a member of that group
    /// or an earlier one takes when it is told.
    ///
    /// # Errors
    /// It does not become durable any more.
    pub fn wait_durable(&self, lsn: Lsn) -> Result<(), Failure> {
        while !self.running.load(Ordering::Acquire) && !self.is_told(lsn) {
            match self.step() {
                Step::Wrote => {}
                // Those who make room are tasks of the thread that waits here.
                Step::Full(_) if task::is_simulated() => self.write_past_the_end(),
                Step::Full(_) | Step::Idle => break,
            }
        }
        let mut done = lock(&self.done);
        loop {
            if self.is_told(lsn) {
                return Ok(());
            }
            if let Some(ended) = &done.ended {
                return Err(ended.clone());
            }
            done.waiting += 1;
            done = wait(&self.group_done, done);
            done.waiting -= 1;
        }
    }

    /// [`Wal::wait_durable`] for tasks: it never writes itself.
    ///
    /// # Errors
    /// It does not become durable any more.
    pub async fn when_durable(&self, lsn: Lsn) -> Result<(), Failure> {
        loop {
            let mut group_done = pin!(self.group_done_async.notified());
            group_done.as_mut().enable();
            if self.is_told(lsn) {
                return Ok(());
            }
            if let Some(ended) = self.ended() {
                return Err(ended);
            }
            group_done.await;
        }
    }

    pub(crate) fn is_told(&self, lsn: Lsn) -> bool {
        self.told.load(Ordering::Acquire) >= lsn
    }

    pub(crate) fn ended(&self) -> Option<Failure> {
        lock(&self.done).ended.clone()
    }

    /// Starts the thread `wal-writer`, which runs until [`Wal::stop`] or a failure;
    /// a task on a host of a simulation.
    ///
    /// # Errors
    /// The system refused a thread.
    pub fn run_writer(self: &Arc<Self>) -> io::Result<()> {
        if task::is_simulated() {
            let wal = Arc::clone(self);
            drop(task::spawn(
                "wal-writer",
                async move { wal.run_task().await },
            ));
            return Ok(());
        }
        let mut thread = lock(&self.thread);
        if thread.is_none() {
            let wal = Arc::clone(self);
            *thread = Some(task::thread("wal-writer", move || wal.run())?);
            self.running.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// One step of the writer on the caller's thread: writes a group and tells everyone.
    /// `false` when nothing was queued, or the ring is full.
    pub fn write_next(&self) -> bool {
        matches!(self.step(), Step::Wrote)
    }

    /// Takes nothing more in, writes all that is queued, and ends the writer's thread;
    /// the ring grows for that where it is full. Blocks.
    pub fn stop(&self) {
        lock(&self.queue).ended.get_or_insert(Failure::Stopped);
        self.stopping.store(true, Ordering::Release);
        self.queued.ring();
        self.change_ring(|_| ());
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the writer of a write-ahead log panicked");
        }
        while self.write_next() {}
        lock(&self.done).ended.get_or_insert(Failure::Stopped);
        self.wake_everyone();
    }

    /// Gives the disk up: what is queued does not become durable, and its members are
    /// told. For failures that others had on it.
    pub fn fail(&self, reason: String) {
        self.give_up(reason);
    }

    pub(crate) fn wake_everyone(&self) {
        self.group_done.notify_all();
        self.group_done_async.notify_waiters();
        self.memory_freed.notify_waiters();
        self.queued.ring();
        self.change_ring(|_| ());
        self.look_at_pressure();
    }

    /// The group that the disk has been given and has not answered for, if any: a disk that stands
    /// still gives no error.
    pub fn writing(&self) -> Option<Lsn> {
        let lsn = self.writing.load(Ordering::Acquire);
        (lsn > 0).then_some(lsn)
    }

    /// Why the disk was given up, if it was.
    pub fn failure(&self) -> Option<Failure> {
        self.ended()
            .filter(|ended| matches!(ended, Failure::Disk(_)))
    }
}

#[cfg(test)]
impl Wal {
    /// Chunks of memory that were ever allocated, and those that nobody uses.
    pub(crate) fn chunks(&self) -> (usize, usize) {
        let mut queue = lock(&self.queue);
        queue.pool.collect();
        (queue.pool.allocations, queue.pool.free_chunks())
    }

    pub(crate) fn writer_sleeps(&self) -> bool {
        lock(&self.queue).writer_sleeps
    }
}
