//! Room: files of the ring, memory, and how much of both is in use.

use std::io::{self, ErrorKind};
use std::time::Duration;

use tidemark_env::clock;

use crate::ring::{self, Ring};
use crate::types::{Limits, Lsn, Pressure};
use crate::wal::{Wal, lock};

impl Wal {
    /// Writes one file of zeros ahead, if fewer than two are spare, the ring may grow, and
    /// the disk has room to spare. Says whether it did. Blocks.
    ///
    /// # Errors
    /// The file could not be made: `StorageFull` only when there is no other file.
    pub fn prepare(&self) -> io::Result<bool> {
        let file_bytes = {
            let ring = lock(&self.ring);
            if ring.ring.spare_files() >= 2 || !ring.ring.may_grow() {
                return Ok(false);
            }
            ring.ring.file_bytes()
        };
        let is_first = lock(&self.ring).ring.is_empty();
        if !is_first && !ring::has_room(&*self.disk, &self.dir, file_bytes)? {
            return Ok(false);
        }
        let number = lock(&self.ring).ring.begin_file();
        let made = ring::make_file(&*self.disk, &self.dir, number, file_bytes);
        self.change_ring(|ring| ring.end_file(number, made.is_ok()));
        match made {
            Err(error) if error.kind() == ErrorKind::StorageFull && !is_first => Ok(false),
            made => made.map(|()| true),
        }
    }

    /// Groups up to `checkpointed` are safe elsewhere, whatever happens: files with none
    /// above may be written over.
    pub fn recycle(&self, checkpointed: Lsn) {
        let checkpointed = checkpointed.min(self.durable_lsn());
        self.change_ring(|ring| ring.recycle(checkpointed));
        self.memory_freed();
    }

    pub(crate) fn change_ring<T>(&self, change: impl FnOnce(&mut Ring) -> T) {
        let mut ring = lock(&self.ring);
        change(&mut ring.ring);
        ring.changes += 1;
        drop(ring);
        self.ring_changed.ring();
    }

    /// How much of memory and ring is in use.
    pub fn pressure(&self) -> Pressure {
        let (memory_bytes, allowed, queued_bytes) = {
            let mut queue = lock(&self.queue);
            queue.pool.collect();
            let pool = &queue.pool;
            (pool.used_bytes(), pool.allowed_bytes(), queue.queued_bytes)
        };
        let state = lock(&self.ring);
        let ring = &state.ring;
        let ring_bytes = ring.used_bytes();
        // Without a file to go on with it is full, whatever it might grow to.
        let is_full = state.full_at == Some(state.changes);
        Pressure {
            memory: memory_bytes as f64 / allowed as f64,
            ring: match is_full {
                true => 1.0,
                false => ring_bytes as f64 / ring.max_bytes() as f64,
            },
            ring_bytes,
            memory_bytes,
            queued_bytes,
        }
    }

    /// Waits until memory or ring are used up to one of `limits`, until [`Wal::nudge`],
    /// the end, or `timeout`; gives the pressure then. For one thread. Blocks.
    pub fn wait_for_pressure(&self, limits: Limits, timeout: Duration) -> Pressure {
        let started = clock::monotonic();
        let mut nudged = lock(&self.nudged);
        loop {
            let left = timeout.saturating_sub(started.elapsed());
            if let Some(pressure) = self.passed(limits, &mut nudged, left) {
                return pressure;
            }
            nudged = self.pressure_changed.wait_timeout(nudged, left);
        }
    }

    /// [`Wal::wait_for_pressure`] for one task.
    pub async fn when_pressure(&self, limits: Limits, timeout: Duration) -> Pressure {
        let started = clock::monotonic();
        loop {
            let left = timeout.saturating_sub(started.elapsed());
            if let Some(pressure) = self.passed(limits, &mut lock(&self.nudged), left) {
                return pressure;
            }
            // Either way it is looked at again.
            drop(clock::timeout(left, self.pressure_changed.rung()).await);
        }
    }

    /// The pressure, where a wait for it is over.
    fn passed(&self, limits: Limits, nudged: &mut bool, left: Duration) -> Option<Pressure> {
        let pressure = self.pressure();
        let over = std::mem::take(nudged)
            || limits.passed(&pressure)
            || left.is_zero()
            || self.ended().is_some();
        over.then_some(pressure)
    }

    /// Ends a [`Wal::wait_for_pressure`], or the next one.
    pub fn nudge(&self) {
        *lock(&self.nudged) = true;
        self.pressure_changed.ring();
    }

    /// Whoever waits for pressure looks at it again.
    pub(crate) fn look_at_pressure(&self) {
        // The lock keeps this from falling between that one's look and its sleep.
        drop(lock(&self.nudged));
        self.pressure_changed.ring();
    }
}
