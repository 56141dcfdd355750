//! Threads that make appended records durable.
//!
//! A partition that was appended to is queued once; by the time a thread comes to it, all that was
//! appended meanwhile goes with the same sync. Nothing waits for a timer.

use super::Partition;
use crate::metrics::Metrics;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use tidemark_env::{clock, task};
use tidemark_log::{FlushTicket, Flushed};

#[derive(Default)]
struct Queue {
    partitions: VecDeque<Arc<Partition>>,
    stopping: bool,
}

/// The flusher threads of a log directory, and their queue.
pub(crate) struct Flusher {
    queue: Mutex<Queue>,
    more: Condvar,
    metrics: Arc<Metrics>,
}

impl Flusher {
    /// Starts `threads` threads. The file system merges their syncs into fewer journal commits.
    pub(crate) fn start(threads: usize, metrics: Arc<Metrics>) -> io::Result<Arc<Flusher>> {
        let flusher = Arc::new(Flusher {
            queue: Mutex::default(),
            more: Condvar::new(),
            metrics,
        });
        for index in 0..threads {
            let flusher = Arc::clone(&flusher);
            drop(task::thread(&format!("flush-{index}"), move || {
                while let Some(partition) = flusher.next() {
                    partition.flush();
                }
            })?);
        }
        Ok(flusher)
    }

    pub(super) fn enqueue(&self, partition: Arc<Partition>) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.partitions.push_back(partition);
        drop(queue);
        self.more.notify_one();
    }

    fn next(&self) -> Option<Arc<Partition>> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(partition) = queue.partitions.pop_front() {
                return Some(partition);
            }
            if queue.stopping {
                return None;
            }
            queue = self
                .more
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Runs one ticket, counted and timed.
    pub(super) fn run(&self, ticket: FlushTicket) -> io::Result<Flushed> {
        let started = clock::monotonic();
        let flushed = ticket.run();
        self.metrics.fsync(started.elapsed());
        flushed
    }

    /// Ends the threads once the queue is empty.
    pub(crate) fn stop(&self) {
        self.queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .stopping = true;
        self.more.notify_all();
    }
}
