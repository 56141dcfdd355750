//! Tells a waiting fetch which of its partitions have something new, as epoll tells of sockets:
//! partitions push, the fetch looks only at what was pushed.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tidemark_env::wake::{Home, Sleeper};
use tokio::sync::Notify;

/// The place of a partition in its fetch session.
pub(crate) type Slot = u32;

/// The ready list of one fetch session, or of one fetch without a session.
#[derive(Debug)]
pub(crate) struct Signal {
    ready: Mutex<Ready>,
    changed: Notify,
    home: OnceLock<Home>,
}

impl Sleeper for Signal {
    fn wake(&self) {
        self.changed.notify_one();
    }
}

#[derive(Debug, Default)]
struct Ready {
    queue: Vec<Slot>,
    queued: Vec<bool>,
}

impl Signal {
    /// An empty list, of fetches on the caller's thread.
    pub(crate) fn new() -> Arc<Signal> {
        Arc::new(Signal {
            ready: Mutex::default(),
            changed: Notify::new(),
            home: OnceLock::from(Home::here()),
        })
    }

    /// An empty list, of a task that will say where it runs.
    pub(crate) fn of_nobody_yet() -> Arc<Signal> {
        Arc::new(Signal {
            ready: Mutex::default(),
            changed: Notify::new(),
            home: OnceLock::new(),
        })
    }

    /// The calling task waits for it, on this thread. The first call counts.
    pub(crate) fn settle(&self) {
        self.home.get_or_init(Home::here);
    }

    /// Puts a slot on the ready list if it is not there, and wakes the fetch.
    pub(crate) fn mark(self: &Arc<Self>, slot: Slot) {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        let at = slot as usize;
        if ready.queued.len() <= at {
            ready.queued.resize(at + 1, false);
        }
        if !std::mem::replace(&mut ready.queued[at], true) {
            ready.queue.push(slot);
            drop(ready);
            self.wake_waiter();
        }
    }

    /// Wakes the fetch without a new slot on the list.
    pub(crate) fn wake_waiter(self: &Arc<Self>) {
        match self.home.get() {
            Some(home) => home.wake(self),
            None => self.changed.notify_one(),
        }
    }

    /// Takes the ready list, oldest first.
    pub(crate) fn take(&self) -> Vec<Slot> {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = std::mem::take(&mut ready.queue);
        for slot in &taken {
            ready.queued[*slot as usize] = false;
        }
        taken
    }

    /// Waits until something was marked since the last wait.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }
}
