//! Waking tasks of net threads together.
//!
//! To wake a task of another thread costs a system call, however many of that thread's tasks
//! are woken at the same moment. Whoever wakes many, as the writer of a write-ahead log does
//! after a group, does so inside [`together`]: each net thread is woken once then, and wakes
//! its tasks itself.

use std::cell::RefCell;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

thread_local! {
    /// The relay of this net thread.
    static HOME: RefCell<Option<Arc<Relay>>> = const { RefCell::new(None) };
    /// Relays with something in them that this thread has put there and not told of yet;
    /// `None` outside of [`together`].
    static UNTOLD: RefCell<Option<Vec<Arc<Relay>>>> = const { RefCell::new(None) };
}

/// Something that a task waits for.
pub trait Sleeper: Send + Sync {
    /// Wakes the task.
    fn wake(&self);
}

/// Those of one net thread that are to be woken.
#[derive(Default)]
pub(crate) struct Relay {
    due: Mutex<Vec<Arc<dyn Sleeper>>>,
    told: Notify,
}

impl Relay {
    /// Makes this the relay of the calling thread.
    pub(crate) fn settle(self: &Arc<Self>) {
        HOME.set(Some(Arc::clone(self)));
    }

    /// Wakes whoever is due, for ever.
    pub(crate) async fn run(&self) {
        loop {
            self.told.notified().await;
            let due = std::mem::take(&mut *self.lock());
            due.iter().for_each(|sleeper| sleeper.wake());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<dyn Sleeper>>> {
        // A push cannot leave it half changed.
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The net thread that a task runs on; nowhere for tasks of other threads.
#[derive(Clone, Default)]
pub struct Home(Option<Arc<Relay>>);

impl std::fmt::Debug for Home {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Home" } else { "Nowhere" })
    }
}

impl Home {
    /// Where the caller runs.
    pub fn here() -> Home {
        Home(HOME.with_borrow(Clone::clone))
    }

    /// Wakes a sleeper of this thread: at once, or at the end of [`together`].
    pub fn wake(&self, sleeper: &Arc<impl Sleeper + 'static>) {
        let relayed = UNTOLD.with_borrow_mut(|untold| {
            let (Some(untold), Some(relay)) = (untold, &self.0) else {
                return false;
            };
            let mut due = relay.lock();
            if due.is_empty() {
                // Whoever puts the first one in tells of all.
                untold.push(Arc::clone(relay));
            }
            due.push(Arc::clone(sleeper) as Arc<dyn Sleeper>);
            true
        });
        if !relayed {
            sleeper.wake();
        }
    }
}

/// Runs `wake_many`, and wakes each net thread once for all of its sleepers.
pub fn together<T>(wake_many: impl FnOnce() -> T) -> T {
    /// What was there before is put back, so that one may stand inside another.
    struct Tell(Option<Vec<Arc<Relay>>>);
    impl Drop for Tell {
        fn drop(&mut self) {
            for relay in UNTOLD.replace(self.0.take()).unwrap_or_default() {
                relay.told.notify_one();
            }
        }
    }
    let _tell = Tell(UNTOLD.replace(Some(Vec::new())));
    wake_many()
}

/// Tells one thread that something has changed that it looks at under a lock; or one task, where
/// there are no threads ([`crate::sim`]).
#[derive(Debug, Default)]
pub struct Bell {
    thread: Condvar,
    task: Notify,
}

impl Bell {
    /// Wakes who waits, or who waits next if it is a task.
    pub fn ring(&self) {
        self.thread.notify_all();
        self.task.notify_one();
    }

    /// Waits, without the lock. Blocks.
    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        // A panic ends the process, so a poisoned lock is only seen in tests.
        let waited = self.thread.wait(guard);
        waited.unwrap_or_else(PoisonError::into_inner)
    }

    /// [`Bell::wait`] for at most `timeout`.
    pub fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Duration,
    ) -> MutexGuard<'a, T> {
        let waited = self.thread.wait_timeout(guard, timeout);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Waits, without holding the lock: a ring since the last one was waited for counts.
    pub async fn rung(&self) {
        self.task.notified().await;
    }
}
