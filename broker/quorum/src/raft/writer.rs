//! Who writes the journal: a thread of its own, which makes all that is queued durable with
//! one fsync, or the caller, where the disk is a simulated one.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};

use openraft::storage::LogFlushed;
use tidemark_env::disk::DirLock;
use tokio::sync::oneshot;

use super::error::StoreError;
use super::journal::{Event, Journal};
use super::runtime::tell;
use super::types::TypeConfig;

/// Whom to tell when events are durable.
pub(super) enum Done {
    /// openraft, of entries.
    Flushed(LogFlushed<TypeConfig>),
    /// A task that waits.
    Reply(oneshot::Sender<io::Result<()>>),
    /// Nobody waits.
    Nobody,
}

impl Done {
    fn tell(self, result: Result<&(), &StoreError>) {
        let result = match result {
            Ok(()) => Ok(()),
            Err(error) => Err(io::Error::other(error.to_string())),
        };
        match self {
            Done::Flushed(callback) => callback.log_io_completed(result),
            Done::Reply(sender) => tell(sender, result),
            Done::Nobody => {}
        }
    }
}

enum Job {
    Write(Vec<Event>, Done),
    Stop(oneshot::Sender<()>),
}

/// Once it is stopped there is neither: what is still written to it gets an error.
pub(super) struct Writer(Mutex<Inner>);

enum Inner {
    Inline(Box<(Journal, DirLock)>),
    Thread(Sender<Job>),
    Stopped,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Writer")
    }
}

impl Writer {
    pub(super) fn start(journal: Journal, lock: DirLock, inline: bool) -> io::Result<Writer> {
        if inline {
            let inner = Inner::Inline(Box::new((journal, lock)));
            return Ok(Writer(Mutex::new(inner)));
        }
        let (sender, receiver) = channel();
        // It ends when the sender is dropped.
        drop(tidemark_env::task::thread("raft-log", move || {
            run(journal, lock, &receiver);
        })?);
        Ok(Writer(Mutex::new(Inner::Thread(sender))))
    }

    /// Queues events; they become durable in the order of these calls.
    pub(super) fn write(&self, events: Vec<Event>, done: Done) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *inner {
            Inner::Inline(held) => {
                let result = held.0.write(&events);
                drop(inner);
                if let Err(error) = &result {
                    tracing::error!(%error, "the metadata quorum's log cannot be written");
                }
                done.tell(result.as_ref());
            }
            Inner::Thread(sender) => {
                if let Err(refused) = sender.send(Job::Write(events, done))
                    && let Job::Write(_, done) = refused.0
                {
                    done.tell(Err(&StoreError::Failed));
                }
            }
            Inner::Stopped => done.tell(Err(&StoreError::Failed)),
        }
    }

    /// Sets how long a segment may get, where the caller writes.
    #[cfg(test)]
    pub(super) fn set_segment_bytes(&self, bytes: u64) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Inner::Inline(held) = &mut *inner {
            held.0.set_segment_bytes(bytes);
        }
    }

    /// Ends when all that was queued is durable and the directory is free.
    pub(super) async fn stop(&self) {
        let stopped = {
            let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match std::mem::replace(&mut *inner, Inner::Stopped) {
                Inner::Thread(sender) => {
                    let (told, stopped) = oneshot::channel();
                    sender.send(Job::Stop(told)).is_ok().then_some(stopped)
                }
                Inner::Inline(_) | Inner::Stopped => None,
            }
        };
        if let Some(stopped) = stopped {
            // An error means that the thread has ended, too.
            drop(stopped.await);
        }
    }
}

fn run(mut journal: Journal, lock: DirLock, queue: &Receiver<Job>) {
    let mut stop = None;
    while stop.is_none()
        && let Ok(first) = queue.recv()
    {
        let mut events = Vec::new();
        let mut waiting = Vec::new();
        for job in std::iter::once(first).chain(queue.try_iter()) {
            match job {
                Job::Write(mut more, done) => {
                    events.append(&mut more);
                    waiting.push(done);
                }
                Job::Stop(told) => {
                    stop = Some(told);
                    break;
                }
            }
        }
        let result = journal.write(&events);
        if let Err(error) = &result {
            tracing::error!(%error, "the metadata quorum's log cannot be written");
        }
        for done in waiting {
            done.tell(result.as_ref());
        }
    }
    // Who is told may open the directory at once.
    drop((journal, lock));
    if let Some(told) = stop {
        tell(told, ());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use tidemark_env::disk::{Disk, MemDisk};

    /// Says, when it is let go, whether the one who waits was told before.
    struct Held {
        stopped: oneshot::Receiver<()>,
        too_early: Arc<AtomicBool>,
    }

    impl Drop for Held {
        fn drop(&mut self) {
            let told = self.stopped.try_recv().is_ok();
            self.too_early.store(told, Ordering::Release);
        }
    }

    #[test]
    fn who_waits_for_the_end_finds_the_directory_free() {
        let disk = Arc::new(MemDisk::new());
        let dir = Path::new("/raft");
        disk.create_dir_all(dir).expect("a directory in memory");
        Journal::create(&*disk, dir).expect("an empty log");
        let (journal, ..) = Journal::open(disk, dir).expect("what was made");
        let (told, stopped) = oneshot::channel();
        let (sender, receiver) = channel();
        assert!(sender.send(Job::Stop(told)).is_ok());
        let too_early = Arc::new(AtomicBool::new(true));
        let held = Held {
            stopped,
            too_early: Arc::clone(&too_early),
        };
        run(journal, DirLock::new(held), &receiver);
        assert!(!too_early.load(Ordering::Acquire));
    }
}
