//! One partition as its leader holds it: a plain struct behind one lock.
//!
//! The lock is held for decisions and for a copy into the write-ahead log, never across I/O or an
//! await. What reads and writes files is a plan or a job, taken under the lock and run outside.
//!
//! **Invariant:** the high watermark is the durable end: nothing is acknowledged or read that a
//! power cut could take back.

mod acks;
mod log_dir;
mod opening;
mod policy;
mod registry;

pub(crate) use acks::Acks;
pub(crate) use log_dir::{LogDir, WalSettings, failed_mark};
pub(crate) use policy::Policy;
pub use registry::RegistryError;
pub(crate) use registry::{OfflineLogs, Registry, RegistryArgs};

use crate::fetch::{Signal, Slot};
use bytes::Bytes;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use tidemark_log::{AppendError, Appended, Log, LogError};
use tidemark_model::LeaderEpoch;
use tidemark_records::Batch;
use tidemark_wal::{Failure, LogId, Lsn, Member};

/// What a partition has taken in and given out since the broker started.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Traffic {
    pub(crate) bytes_in: u64,
    pub(crate) records_in: u64,
    pub(crate) bytes_out: u64,
}

pub(crate) struct State {
    /// `None` once the partition was closed or deleted.
    log: Option<Log>,
    leader_epoch: i32,
    high_watermark: i64,
    /// The group of the write-ahead log that tells this partition when it is durable.
    touched: Lsn,
    /// On the list of those with something to be written into segments.
    dirty: bool,
    /// Who waits for the high watermark to reach an offset, lowest first.
    waiting: Vec<(i64, Arc<Acks>)>,
    /// Fetches that want to know when the high watermark moves.
    watching: Vec<(Arc<Signal>, Slot)>,
    pub(crate) traffic: Traffic,
}

/// A partition that this broker leads.
pub(crate) struct Partition {
    pub(crate) topic: Arc<str>,
    pub(crate) index: i32,
    /// The log's id in the write-ahead log of its directory.
    pub(crate) log_id: LogId,
    state: Mutex<State>,
    policy: RwLock<Arc<Policy>>,
    dir: Arc<LogDir>,
    /// Bytes that fetches took: not behind the lock, which a fetch needs only once.
    bytes_out: AtomicU64,
}

/// Where a partition's log begins and ends, at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Bounds {
    pub(crate) log_start: i64,
    pub(crate) high_watermark: i64,
    pub(crate) end: i64,
    pub(crate) durable: i64,
    pub(crate) leader_epoch: i32,
}

/// The partition is not (or no more) served here.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Closed;

impl Partition {
    pub(crate) fn new(
        topic: Arc<str>,
        index: i32,
        log: Log,
        log_id: LogId,
        leader_epoch: i32,
        policy: Arc<Policy>,
        dir: Arc<LogDir>,
    ) -> Partition {
        let high_watermark = log.durable_offset();
        let state = State {
            log: Some(log),
            leader_epoch,
            high_watermark,
            touched: 0,
            dirty: false,
            waiting: Vec::new(),
            watching: Vec::new(),
            traffic: Traffic::default(),
        };
        Partition {
            topic,
            index,
            log_id,
            state: Mutex::new(state),
            policy: RwLock::new(policy),
            dir,
            bytes_out: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic ends the process, so a poisoned lock is only seen in tests.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The settings in force.
    pub(crate) fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts new settings in force.
    pub(crate) fn set_policy(&self, policy: Arc<Policy>) {
        if let Some(log) = &mut self.lock().log {
            log.set_config(Arc::clone(&policy.log));
        }
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = policy;
    }

    /// The epoch that this broker leads it in.
    pub(crate) fn leader_epoch(&self) -> i32 {
        self.lock().leader_epoch
    }

    /// Leads it in this epoch from now on.
    pub(crate) fn lead(&self, epoch: LeaderEpoch) {
        let mut state = self.lock();
        if state.leader_epoch == epoch {
            return;
        }
        state.leader_epoch = epoch;
        if let Some(Err(error)) = state.log.as_mut().map(|log| log.start_epoch(epoch)) {
            tracing::error!(topic = %self.topic, partition = self.index, %error, "the leader epoch could not be written");
        }
    }

    /// The data directory that it is in.
    pub(crate) fn dir(&self) -> &Arc<LogDir> {
        &self.dir
    }

    /// Appends a validated batch; it is on its way to the disk then.
    pub(crate) fn append(
        self: &Arc<Self>,
        batch: &Batch,
        now_ms: i64,
    ) -> Result<Result<Appended, AppendError>, Closed> {
        self.append_in(None, batch, now_ms)
    }

    /// The same, but only while it is led in that epoch, if one is given.
    pub(crate) fn append_in(
        self: &Arc<Self>,
        epoch: Option<LeaderEpoch>,
        batch: &Batch,
        now_ms: i64,
    ) -> Result<Result<Appended, AppendError>, Closed> {
        if self.dir.is_full() {
            let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return Ok(Err(AppendError::DiskFull(full)));
        }
        let mut state = self.lock();
        let State {
            log,
            leader_epoch,
            touched,
            traffic,
            ..
        } = &mut *state;
        if epoch.is_some_and(|epoch| epoch != *leader_epoch) {
            return Err(Closed);
        }
        let log = log.as_mut().ok_or(Closed)?;
        let appended = log.append_as_leader(batch, *leader_epoch, now_ms, |lsn| {
            (std::mem::replace(touched, lsn) != lsn).then(|| Arc::clone(self) as Arc<dyn Member>)
        });
        if let Ok(appended) = &appended
            && !appended.duplicate
        {
            traffic.bytes_in += batch.bytes.len() as u64;
            traffic.records_in += batch.header.record_count.max(0) as u64;
        }
        Ok(appended)
    }

    /// Has `acks` told when the high watermark reaches `target`, which may be at once.
    pub(crate) fn when_committed(&self, target: i64, acks: &Arc<Acks>) {
        let mut state = self.lock();
        if state.high_watermark >= target || state.log.is_none() {
            drop(state);
            acks.done();
            return;
        }
        // Targets nearly always come in order; a duplicate's may be lower.
        let at = state.waiting.partition_point(|(other, _)| *other <= target);
        state.waiting.insert(at, (target, Arc::clone(acks)));
    }

    /// Marks `slot` in `signal` whenever the high watermark or the log start moves.
    pub(crate) fn watch(&self, signal: &Arc<Signal>, slot: Slot) {
        self.lock().watching.push((Arc::clone(signal), slot));
    }

    /// Ends a [`Partition::watch`].
    pub(crate) fn unwatch(&self, signal: &Arc<Signal>, slot: Slot) {
        self.lock()
            .watching
            .retain(|(other, at)| !(Arc::ptr_eq(other, signal) && *at == slot));
    }

    /// Where the log begins and ends.
    pub(crate) fn bounds(&self) -> Result<Bounds, Closed> {
        self.with_bounds(|_, bounds| bounds)
    }

    /// Runs `look` under the lock, with where the log begins and ends at that moment.
    pub(crate) fn with_bounds<T>(&self, look: impl FnOnce(&Log, Bounds) -> T) -> Result<T, Closed> {
        let state = self.lock();
        let log = state.log.as_ref().ok_or(Closed)?;
        let bounds = Bounds {
            log_start: log.log_start_offset(),
            high_watermark: state.high_watermark,
            end: log.end_offset(),
            durable: log.durable_offset(),
            leader_epoch: state.leader_epoch,
        };
        Ok(look(log, bounds))
    }

    /// Runs `use_log` under the lock: for decisions and plans, not for reads or syncs.
    pub(crate) fn with_log<T>(
        &self,
        use_log: impl FnOnce(&mut Log, &mut i64) -> T,
    ) -> Result<T, Closed> {
        let mut state = self.lock();
        let State {
            log,
            high_watermark,
            ..
        } = &mut *state;
        Ok(use_log(log.as_mut().ok_or(Closed)?, high_watermark))
    }

    /// The data directory that the log is in, and the bytes that it has there.
    pub(crate) fn placed(&self) -> Result<(PathBuf, u64), Closed> {
        self.with_log(|log, _| {
            let dir = log.dir().parent().map(Path::to_path_buf);
            (dir.unwrap_or_default(), log.size_bytes())
        })
    }

    /// Counts bytes that a fetch took.
    pub(crate) fn count_out(&self, bytes: u64) {
        self.bytes_out.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What went in and out.
    pub(crate) fn traffic(&self) -> Traffic {
        Traffic {
            bytes_out: self.bytes_out.load(Ordering::Relaxed),
            ..self.lock().traffic
        }
    }

    /// Tells watchers that the log start moved.
    pub(crate) fn log_start_moved(&self) {
        for (signal, slot) in &self.lock().watching {
            signal.mark(*slot);
        }
    }

    /// Writes what is durable into the segments' files. Blocks.
    pub(crate) fn write_behind(self: &Arc<Self>) -> std::io::Result<()> {
        let job = match self.with_log(|log, _| log.write_job()) {
            Ok(Some(job)) => job,
            // Closed meanwhile, or nothing is left to be written.
            _ => {
                self.lock().dirty = false;
                return Ok(());
            }
        };
        let done = job.run();
        let mut state = self.lock();
        let State { log, dirty, .. } = &mut *state;
        let Some(log) = log.as_mut() else {
            // Its files are being removed.
            *dirty = false;
            return Ok(());
        };
        match &done {
            Ok(()) => log.written(job),
            Err(_) => log.write_failed(job),
        }
        *dirty = log.wants_write();
        if *dirty {
            drop(state);
            self.dir.enqueue(Arc::clone(self));
        }
        done
    }

    /// The disk failed: nothing more becomes durable.
    pub(super) fn disk_failed(&self, reason: &str) {
        let mut state = self.lock();
        if let Some(log) = state.log.as_mut() {
            log.fail(reason);
        }
        release(state.waiting.drain(..));
    }

    /// Raises the high watermark to `durable` and tells who waits for it.
    fn publish(&self, state: &mut State, durable: i64) {
        if durable <= state.high_watermark {
            return;
        }
        state.high_watermark = durable;
        let due = state
            .waiting
            .partition_point(|(target, _)| *target <= durable);
        release(state.waiting.drain(..due));
        for (signal, slot) in &state.watching {
            signal.mark(*slot);
        }
    }

    /// Stops serving the partition; whoever waits for it is told, and gives up.
    pub(crate) fn close(&self) -> Option<Log> {
        let mut state = self.lock();
        release(state.waiting.drain(..));
        for (signal, slot) in &state.watching {
            signal.mark(*slot);
        }
        state.log.take()
    }

    /// Why the log takes no more records, if so.
    pub(crate) fn failure(&self) -> Option<String> {
        self.lock()
            .log
            .as_ref()
            .and_then(|log| log.failure().map(str::to_owned))
    }
}

impl Member for Partition {
    fn durable(self: Arc<Self>, lsn: Lsn, payload: &Bytes) {
        let mut state = self.lock();
        let Some(log) = state.log.as_mut() else {
            return;
        };
        let durable = log.durable(lsn, payload);
        let wants_write = log.wants_write();
        self.publish(&mut state, durable);
        if wants_write && !std::mem::replace(&mut state.dirty, true) {
            drop(state);
            self.dir.enqueue(Arc::clone(&self));
        }
    }

    fn failed(self: Arc<Self>, failure: &Failure) {
        self.disk_failed(&failure.to_string());
    }
}

fn release(waiting: impl Iterator<Item = (i64, Arc<Acks>)>) {
    for (_, acks) in waiting {
        acks.done();
    }
}

/// The error that a client gets for a log that cannot be used.
pub(crate) fn error_code(error: &LogError) -> tidemark_wire::ErrorCode {
    use tidemark_wire::ErrorCode;
    match error {
        LogError::OffsetOutOfRange { .. } => ErrorCode::OffsetOutOfRange,
        LogError::Io(_)
        | LogError::Failed { .. }
        | LogError::Unsettled
        | LogError::Corrupt { .. } => ErrorCode::KafkaStorageError,
    }
}
