//! The thread that writes behind a write-ahead log.
//!
//! Records are durable in the write-ahead log and wait in memory; this thread writes
//! them into their segments when memory or the ring fills up, or once a minute, oldest
//! first. A checkpoint then syncs the segments and lets the ring's files go.
//!
//! **Invariant:** a group is recycled only when a durable checkpoint says of every log
//! that its files hold it.

use super::{LogDir, lock};
use crate::partition::ballast::{FULL_RETRY, is_full};
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tidemark_env::clock::{self, Instant};
use tidemark_env::task;
use tidemark_log::checkpoint::{DirCheckpoint, LogCheckpoint};
use tidemark_log::{CheckpointPart, write_checkpoint};
use tidemark_wal::{Limits, LogId, Lsn, Pressure};

/// Logs are written behind and checkpointed this often at least.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(60);
/// Writing behind begins when this share of the memory is in use...
const MEMORY_HIGH: f64 = 0.7;
/// ...and goes on down to this one.
const MEMORY_LOW: f64 = 0.6;
/// So much of one log at a time: a long job keeps a core and the disk from who waits for an
/// acknowledgement.
const PIECE_BYTES: u64 = 1 << 20;
/// A checkpoint is due when this share of the ring is in use.
const RING_HIGH: f64 = 0.5;
/// Memory that somebody held on to is looked at again after this time.
const HELD_RETRY: Duration = Duration::from_millis(20);

/// When the next round of writing behind is due.
struct Pace {
    /// The last checkpoint.
    last: Instant,
    pressure: Pressure,
    /// Somebody holds on to the memory: looking again at once would change nothing.
    held: bool,
}

impl Pace {
    fn new(dir: &LogDir) -> Pace {
        Pace {
            last: clock::monotonic(),
            pressure: dir.wal.pressure(),
            held: false,
        }
    }

    /// What ends the wait for it, and how long it takes at most.
    fn next(&self, dir: &LogDir) -> (Limits, Duration) {
        let due = CHECKPOINT_INTERVAL.saturating_sub(self.last.elapsed());
        if dir.is_full() {
            return (Limits::NONE, due.min(FULL_RETRY));
        }
        if self.held {
            return (Limits::NONE, due.min(HELD_RETRY));
        }
        let limits = Limits {
            memory: MEMORY_HIGH,
            // A file was begun: the next one is made ahead.
            ring: RING_HIGH.min(self.pressure.ring + dir.file_share),
        };
        (limits, due)
    }
}

impl LogDir {
    pub(super) fn run(&self) {
        let mut pace = Pace::new(self);
        loop {
            let (limits, due) = pace.next(self);
            let pressure = self.wal.wait_for_pressure(limits, due);
            if !self.round(&mut pace, pressure) {
                return;
            }
        }
    }

    /// [`LogDir::run`] as a task.
    pub(super) async fn run_task(&self) {
        let mut pace = Pace::new(self);
        loop {
            let (limits, due) = pace.next(self);
            let pressure = self.wal.when_pressure(limits, due).await;
            task::pause_for_disk().await;
            if !self.round(&mut pace, pressure) {
                return;
            }
        }
    }

    /// Does what is due; says whether there is more to come. Blocks.
    fn round(&self, pace: &mut Pace, pressure: Pressure) -> bool {
        if self.stopping.load(Ordering::Acquire) {
            return false;
        }
        if let Some(failure) = self.wal.failure() {
            self.fail(&failure.to_string());
            return false;
        }
        let checkpoint = pressure.ring >= RING_HIGH || pace.last.elapsed() >= CHECKPOINT_INTERVAL;
        if self.is_full() && !self.ballast.could_be_made() {
            // Or the loop would turn without a pause.
            pace.last = clock::monotonic();
            return !self.stopping.load(Ordering::Acquire);
        }
        let all = checkpoint || self.is_full();
        let done = (|| {
            if all || pressure.memory >= MEMORY_HIGH {
                self.write_behind(all)?;
            }
            if checkpoint {
                self.checkpoint(false)?;
                pace.last = clock::monotonic();
            }
            while pressure.ring > 0.0 && self.wal.prepare()? {}
            Ok(())
        })();
        match done {
            Ok(()) => self.has_room(),
            Err(error) if is_full(&error) => {
                self.has_no_room(&error.to_string());
                pace.last = clock::monotonic();
            }
            Err(error) => {
                self.fail(&error.to_string());
                return false;
            }
        }
        pace.pressure = self.wal.pressure();
        pace.held = pace.pressure.memory >= MEMORY_HIGH && lock(&self.dirty).is_empty();
        !self.stopping.load(Ordering::Acquire)
    }

    /// Writes what waits into segments, oldest first: all of it, or until memory is low.
    pub(in crate::partition) fn write_behind(&self, all: bool) -> io::Result<()> {
        // Those that become dirty meanwhile have their turn in the next round.
        let rounds = lock(&self.dirty).len();
        for _ in 0..rounds {
            if !all && self.wal.pressure().memory <= MEMORY_LOW {
                return Ok(());
            }
            let Some(partition) = lock(&self.dirty).pop_front() else {
                return Ok(());
            };
            partition.write_behind(if all { u64::MAX } else { PIECE_BYTES })?;
            self.wal.memory_freed();
        }
        Ok(())
    }

    /// Syncs what is in the segments, says so, and lets the groups go that are in them.
    /// Blocks.
    pub(crate) fn checkpoint(&self, clean: bool) -> io::Result<()> {
        let _one = lock(&self.checkpointing);
        let cut = self.wal.durable_lsn();
        let (open, others, creating) = {
            let logs = lock(&self.logs);
            let open: Vec<_> = logs.open.values().cloned().collect();
            let mut others = logs.offline.clone();
            others.extend(&logs.creating);
            let creating = logs.creating.values().map(|log| log.lsn).min();
            (open, others, creating)
        };
        let mut parts = Vec::with_capacity(open.len());
        let mut from = Vec::with_capacity(open.len());
        for partition in open {
            // One log that is out of use for an error of its files is out until the next start.
            if let Some(reason) = partition.failure() {
                return Err(io::Error::other(reason));
            }
            if let Ok(part) = partition.with_log(|log, _| log.checkpoint_part(cut, partition.of()))
            {
                parts.push(part);
                from.push(partition);
            }
        }
        // What is known of offline logs is not in the ring.
        let oldest = parts.iter().map(|part| part.entry.lsn).chain(creating);
        let released = oldest.min().map_or(cut, |oldest| oldest.min(cut));
        let written = self.note(&parts, others, released, clean);
        if written.is_err() {
            for (partition, part) in from.iter().zip(&parts) {
                if partition
                    .with_log(|log, _| log.checkpoint_failed(part))
                    .is_err()
                {
                    // Closed meanwhile: it has no more to say.
                }
            }
        }
        written?;
        self.wal.recycle(released);
        Ok(())
    }

    pub(super) fn note(
        &self,
        parts: &[CheckpointPart],
        others: BTreeMap<LogId, LogCheckpoint>,
        released_lsn: Lsn,
        clean: bool,
    ) -> io::Result<()> {
        let checkpoint = DirCheckpoint {
            ring: self.ring,
            clean,
            released_lsn,
            next_lsn: self.wal.durable_lsn() + 1,
            next_log_id: self.next_log_id.load(Ordering::Relaxed),
            logs: others,
        };
        write_checkpoint(self.disk(), self.path(), checkpoint, parts)
    }
}
