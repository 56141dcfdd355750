//! One waiter for a whole request, however many partitions it waits for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tidemark_env::clock;
use tidemark_env::wake::{Home, Sleeper};
use tokio::sync::Notify;

/// Counts partitions down; the last one wakes the request.
#[derive(Debug)]
pub(crate) struct Acks {
    left: AtomicUsize,
    all: Notify,
    home: Home,
}

impl Sleeper for Acks {
    fn wake(&self) {
        self.all.notify_one();
    }
}

impl Acks {
    /// Waits for `count` calls of [`Acks::done`]. Made by the task that waits.
    pub(crate) fn new(count: usize) -> Acks {
        Acks {
            left: AtomicUsize::new(count),
            all: Notify::new(),
            home: Home::here(),
        }
    }

    /// A partition has reached its offset, or never will.
    pub(crate) fn done(self: &Arc<Self>) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.home.wake(self);
        }
    }

    fn are_in(&self) -> bool {
        self.left.load(Ordering::Acquire) == 0
    }

    /// Waits for all, at most for `timeout`; says whether all came.
    pub(crate) async fn wait(&self, timeout: Duration) -> bool {
        let all = async {
            while !self.are_in() {
                self.all.notified().await;
            }
        };
        self.are_in() || clock::timeout(timeout, all).await.is_ok()
    }
}
