//! One partition as this broker holds it, leading or following: a plain struct behind one lock.
//!
//! The lock is held for decisions and for a copy into the write-ahead log, never across I/O or an
//! await. What reads and writes files is a plan or a job, taken under the lock and run outside.
//! What leads and follows is decided by a [`Replica`]; `role.rs` tells it what happens, and does
//! what it says.
//!
//! **Invariant:** the replica hears of everything that the log does, in its order, under the lock.

mod acks;
mod aside;
mod ballast;
mod cut;
mod log_dir;
#[cfg(test)]
mod memory;
mod opening;
mod policy;
mod registry;
mod role;
mod topic;
mod waits;

pub(crate) use acks::Acks;
pub(crate) use aside::{DELETED_SUFFIX, STRAY_SUFFIX, free_path};
pub(crate) use ballast::{Ballast, FULL_RETRY, StartWaits, is_full};
pub(crate) use log_dir::{LogDir, WalSettings, failed_mark};
pub(crate) use opening::segment_file;
pub(crate) use policy::Policy;
pub use registry::RegistryError;
pub(crate) use registry::{OfflineLogs, Registry, RegistryArgs};
pub(crate) use role::{Acked, FollowerRead, RunOfRecords, refused};
pub(crate) use topic::TopicHere;
pub(crate) use waits::Wants;

use crate::fetch::{Signal, Slot};
use crate::replica::Fetcher;
use crate::tier::ColdCell;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tidemark_log::{AppendError, Appended, Log, LogError};
use tidemark_model::{BrokerId, LeaderEpoch, TopicId, TopicPartition};
use tidemark_records::Batch;
use tidemark_replication::{Event, Refusal, Replica};
use tidemark_wal::{Lsn, Member};
use waits::Waits;

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
    replica: Replica,
    /// The group of the write-ahead log that tells this partition when it is durable.
    touched: Lsn,
    /// On the list of those with something to be written into segments.
    dirty: bool,
    waits: Waits,
    /// Who fetches for it, while it follows, and its place there.
    following: Option<(Arc<Fetcher>, Slot)>,
    throttled: Throttled,
    /// What it has taken in since the broker started.
    bytes_in: u64,
    records_in: u64,
}

/// Whether this replica is held to its broker's replication rates while it is not in sync
/// (KIP-73).
#[derive(Debug, Clone, Copy, Default)]
struct Throttled {
    as_leader: bool,
    as_follower: bool,
}

impl Throttled {
    fn of(policy: &Policy, partition: i32, broker: BrokerId) -> Throttled {
        let settings = &policy.settings;
        Throttled {
            as_leader: settings
                .leader_throttled_replicas
                .contains(partition, broker),
            as_follower: settings
                .follower_throttled_replicas
                .contains(partition, broker),
        }
    }
}

/// A partition that this broker has a replica of.
pub(crate) struct Partition {
    pub(crate) topic: Arc<TopicHere>,
    pub(crate) index: i32,
    state: Mutex<State>,
    dir: Arc<LogDir>,
    /// What of it is in the bucket, where the topic is tiered.
    pub(crate) cold: ColdCell,
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
}

/// Stands for whatever epoch a client knows.
const ANY_EPOCH: i32 = -1;

/// The partition is not (or no more) served here.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Closed;

/// Why nothing can be appended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum NotServed {
    Closed,
    Refused(Refusal),
}

impl Partition {
    pub(crate) fn new(topic: Arc<TopicHere>, index: i32, log: Log, dir: Arc<LogDir>) -> Partition {
        let state = State {
            replica: topic.replicas.replica(role::log_state(&log)),
            log: Some(log),
            touched: 0,
            dirty: false,
            waits: Waits::default(),
            following: None,
            throttled: Throttled::of(&topic.policy(), index, topic.replicas.broker_id()),
            bytes_in: 0,
            records_in: 0,
        };
        Partition {
            topic,
            index,
            state: Mutex::new(state),
            dir,
            cold: ColdCell::default(),
            bytes_out: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic ends the process, so a poisoned lock is only seen in tests.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The settings in force.
    pub(crate) fn policy(&self) -> Arc<Policy> {
        self.topic.policy()
    }

    /// Puts new settings of its topic in force.
    pub(crate) fn set_policy(&self, policy: Arc<Policy>) {
        {
            let mut state = self.lock();
            state.throttled = Throttled::of(&policy, self.index, self.topic.replicas.broker_id());
            if let Some(log) = &mut state.log {
                log.set_config(Arc::clone(&policy.log));
            }
        }
        self.topic.set_policy(policy);
    }

    /// Its identity.
    pub(crate) fn at(&self) -> TopicPartition {
        TopicPartition {
            topic_id: self.topic.id,
            partition: self.index,
        }
    }

    /// The same, as checkpoints say it.
    pub(super) fn of(&self) -> (TopicId, i32) {
        (self.topic.id, self.index)
    }

    /// Where consumers can begin to read: in the bucket, where that reaches further back than this
    /// log. `None` while it is not known whether it does.
    pub(crate) fn start_above(&self, log_start: i64) -> Option<i64> {
        if log_start <= 0 || !self.policy().settings.remote_storage_enable {
            return Some(log_start);
        }
        let led_in = self.leading(ANY_EPOCH).ok().map(|(epoch, _)| epoch);
        self.cold.start_above(log_start, led_in)
    }

    /// The data directory that it is in.
    pub(crate) fn dir(&self) -> &Arc<LogDir> {
        &self.dir
    }

    /// Appends a validated batch as the leader; it is on its way to the disk then.
    pub(crate) fn append(
        self: &Arc<Self>,
        batch: &Batch,
        now_ms: i64,
        acks_all: bool,
    ) -> Result<Result<Appended, AppendError>, NotServed> {
        self.append_if(batch, now_ms, acks_all, |_| true)
    }

    /// The same for `acks=all`, but only while it is led in that epoch.
    pub(crate) fn append_in(
        self: &Arc<Self>,
        epoch: LeaderEpoch,
        batch: &Batch,
        now_ms: i64,
    ) -> Result<Result<Appended, AppendError>, NotServed> {
        self.append_if(batch, now_ms, true, |led| led == epoch)
    }

    fn append_if(
        self: &Arc<Self>,
        batch: &Batch,
        now_ms: i64,
        acks_all: bool,
        wanted: impl FnOnce(LeaderEpoch) -> bool,
    ) -> Result<Result<Appended, AppendError>, NotServed> {
        if self.dir.is_full() {
            let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return Ok(Err(AppendError::DiskFull(full)));
        }
        let mut state = self.lock();
        let State {
            log,
            replica,
            touched,
            bytes_in,
            records_in,
            ..
        } = &mut *state;
        let log = log.as_mut().ok_or(NotServed::Closed)?;
        let epoch = match replica.check_append(acks_all) {
            Ok(epoch) if wanted(epoch) => epoch,
            Ok(_) => return Err(NotServed::Refused(Refusal::NotLeader)),
            // The log says better why.
            Err(Refusal::Offline(_)) if log.failure().is_some() => -1,
            Err(refusal) => return Err(NotServed::Refused(refusal)),
        };
        let appended = log.append_as_leader(batch, epoch, now_ms, |lsn| {
            (std::mem::replace(touched, lsn) != lsn).then(|| Arc::clone(self) as Arc<dyn Member>)
        });
        if let Ok(appended) = &appended
            && !appended.duplicate
        {
            *bytes_in += batch.bytes.len() as u64;
            *records_in += batch.header.record_count.max(0) as u64;
            let event = Event::Appended {
                epoch,
                base_offset: appended.base_offset,
                end_offset: appended.last_offset + 1,
            };
            self.step(&mut state, event);
        }
        if matches!(&appended, Ok(appended) if appended.duplicate) {
            tracing::debug!(topic = %self.topic, partition = self.index, "a duplicate is answered");
        }
        Ok(appended)
    }

    /// Has `acks` told when the high watermark reaches `target`, which may be at once.
    pub(crate) fn when_committed(&self, target: i64, acks: &Arc<Acks>) {
        let mut state = self.lock();
        if state.replica.log().high_watermark >= target || state.log.is_none() {
            drop(state);
            return acks.done();
        }
        state.waits.for_committed(target, acks);
    }

    /// Has `slot` of `signal` marked whenever what it wants moves.
    pub(crate) fn watch(&self, signal: &Arc<Signal>, slot: Slot, wants: Wants) {
        self.lock().waits.watch(Arc::clone(signal), slot, wants);
    }

    /// Ends a [`Partition::watch`].
    pub(crate) fn unwatch(&self, signal: &Arc<Signal>, slot: Slot) {
        self.lock().waits.unwatch(signal, slot);
    }

    /// Where the log begins and ends.
    pub(crate) fn bounds(&self) -> Result<Bounds, Closed> {
        self.with_bounds(|_, bounds| bounds)
    }

    /// Runs `look` under the lock, with where the log begins and ends at that moment.
    pub(crate) fn with_bounds<T>(&self, look: impl FnOnce(&Log, Bounds) -> T) -> Result<T, Closed> {
        let state = self.lock();
        let log = state.log.as_ref().ok_or(Closed)?;
        Ok(look(log, bounds_of(log, &state.replica)))
    }

    /// Runs `use_log` under the lock, with the high watermark: for decisions and plans, not for
    /// reads or syncs.
    pub(crate) fn with_log<T>(
        &self,
        use_log: impl FnOnce(&mut Log, &i64) -> T,
    ) -> Result<T, Closed> {
        let mut state = self.lock();
        let State { log, replica, .. } = &mut *state;
        let log = log.as_mut().ok_or(Closed)?;
        let result = use_log(log, &replica.log().high_watermark);
        let offset = log.log_start_offset();
        // Of a log that was cut the replica hears with its next event, where it begins too.
        let hears = role::generation(log) == replica.log().generation;
        if hears && offset > replica.log().log_start {
            // It asks for nothing.
            replica.step(0, Event::LogStart { offset }, &mut Vec::new());
        }
        Ok(result)
    }

    /// The data directory that the log is in, and the bytes that it has there.
    pub(crate) fn placed(&self) -> Result<(PathBuf, u64), Closed> {
        let size_bytes = self.with_log(|log, _| log.size_bytes())?;
        Ok((self.dir.path().to_path_buf(), size_bytes))
    }

    /// Counts bytes that a fetch took.
    pub(crate) fn count_out(&self, bytes: u64) {
        self.bytes_out.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What went in and out.
    pub(crate) fn traffic(&self) -> Traffic {
        let state = self.lock();
        Traffic {
            bytes_in: state.bytes_in,
            records_in: state.records_in,
            bytes_out: self.bytes_out.load(Ordering::Relaxed),
        }
    }

    /// Tells watchers that the log start moved.
    pub(crate) fn log_start_moved(&self) {
        self.lock().waits.mark(|_| true);
    }

    /// Writes what is durable into the segments' files. Blocks.
    pub(crate) fn write_behind(self: &Arc<Self>, most_bytes: u64) -> std::io::Result<()> {
        let job = match self.with_log(|log, _| log.write_job(most_bytes)) {
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

    /// Lets go of what only a partition that is in use needs. To be called now and then, every minute
    /// say: what was not used since the last time goes.
    pub(crate) fn rest(&self) {
        let mut state = self.lock();
        state.waits.rest();
        if let Some(log) = &mut state.log {
            log.release_idle();
        }
    }

    /// The disk failed: nothing more becomes durable.
    pub(super) fn disk_failed(self: &Arc<Self>, reason: &str) {
        let mut state = self.lock();
        if let Some(log) = state.log.as_mut() {
            log.fail(reason);
        }
        self.step(&mut state, Event::LogFailed);
    }

    /// Stops serving the partition; whoever waits for it is told, and gives up.
    pub(crate) fn close(&self) -> Option<Log> {
        let mut state = self.lock();
        state.waits.release_all();
        state.unfollow();
        state.waits.mark(|_| true);
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

impl State {
    /// Nobody fetches for it any more.
    fn unfollow(&mut self) {
        if let Some((fetcher, slot)) = self.following.take() {
            fetcher.forget(slot);
        }
    }
}

fn bounds_of(log: &Log, replica: &Replica) -> Bounds {
    Bounds {
        log_start: log.log_start_offset(),
        high_watermark: replica.log().high_watermark,
        end: log.end_offset(),
        durable: log.durable_offset(),
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
