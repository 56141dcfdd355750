//! One partition as its leader holds it: a plain struct behind one lock.
//!
//! The lock is held for decisions and for handing bytes to the page cache, never across a sync, a
//! record read or an await. What reads and syncs is a plan, taken under the lock and run outside.
//!
//! **Invariant:** the high watermark is the durable end: nothing is acknowledged or read that a
//! power cut could take back.

mod acks;
mod flusher;
mod policy;
mod registry;

pub(crate) use acks::Acks;
pub(crate) use flusher::Flusher;
pub(crate) use policy::Policy;
pub use registry::RegistryError;
pub(crate) use registry::{OfflineLogs, Registry, RegistryArgs};

use crate::fetch::{Signal, Slot};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use tidemark_log::{AppendError, Appended, Log, LogError};
use tidemark_records::Batch;

/// What a partition has taken in and given out since the broker started.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Traffic {
    pub(crate) bytes_in: u64,
    pub(crate) records_in: u64,
    pub(crate) bytes_out: u64,
}

/// How far a partition is with being flushed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Flush {
    Idle,
    Queued,
    /// A flusher thread is at it; `again` when more was appended meanwhile.
    Running {
        again: bool,
    },
}

pub(crate) struct State {
    /// `None` once the partition was closed or deleted.
    log: Option<Log>,
    leader_epoch: i32,
    high_watermark: i64,
    flush: Flush,
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
    state: Mutex<State>,
    policy: RwLock<Arc<Policy>>,
    flusher: Arc<Flusher>,
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
        leader_epoch: i32,
        policy: Arc<Policy>,
        flusher: Arc<Flusher>,
    ) -> Partition {
        let high_watermark = log.durable_offset();
        let state = State {
            log: Some(log),
            leader_epoch,
            high_watermark,
            flush: Flush::Idle,
            waiting: Vec::new(),
            watching: Vec::new(),
            traffic: Traffic::default(),
        };
        Partition {
            topic,
            index,
            state: Mutex::new(state),
            policy: RwLock::new(policy),
            flusher,
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

    /// Appends a validated batch and has it flushed.
    pub(crate) fn append(
        self: &Arc<Self>,
        batch: &Batch,
        now_ms: i64,
    ) -> Result<Result<Appended, AppendError>, Closed> {
        let mut state = self.lock();
        let epoch = state.leader_epoch;
        let log = state.log.as_mut().ok_or(Closed)?;
        let appended = match log.append_as_leader(batch, epoch, now_ms) {
            Ok(appended) => appended,
            Err(error) => return Ok(Err(error)),
        };
        if !appended.duplicate {
            state.traffic.bytes_in += batch.bytes.len() as u64;
            state.traffic.records_in += batch.header.record_count.max(0) as u64;
        }
        self.want_flush(state);
        Ok(Ok(appended))
    }

    fn want_flush(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        match state.flush {
            Flush::Idle => {
                state.flush = Flush::Queued;
                drop(state);
                self.flusher.enqueue(Arc::clone(self));
            }
            Flush::Queued => {}
            Flush::Running { .. } => state.flush = Flush::Running { again: true },
        }
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

    /// Makes everything appended so far durable, and publishes it. Blocks.
    fn flush(self: &Arc<Self>) {
        let ticket = {
            let mut state = self.lock();
            state.flush = Flush::Running { again: false };
            state.log.as_mut().and_then(Log::flush_target)
        };
        let flushed = ticket.map(|ticket| self.flusher.run(ticket));
        let mut state = self.lock();
        if let Some(log) = state.log.as_mut() {
            match flushed {
                Some(Ok(flushed)) => {
                    let durable = log.flushed(flushed);
                    self.publish(&mut state, durable);
                }
                Some(Err(error)) => {
                    tracing::error!(
                        topic = %self.topic, partition = self.index, %error,
                        "the disk failed while records were made durable; the partition takes no more records. \
                         Replace the disk and restart the broker"
                    );
                    log.fail(error.to_string());
                    release(state.waiting.drain(..));
                }
                None => {}
            }
        }
        let again = matches!(state.flush, Flush::Running { again: true });
        state.flush = Flush::Idle;
        if again {
            self.want_flush(state);
        }
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
        LogError::Io(_) | LogError::Failed { .. } | LogError::Corrupt { .. } => {
            ErrorCode::KafkaStorageError
        }
    }
}
