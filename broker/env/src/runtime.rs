//! Where tasks run: the process' main runtime and the net threads.
//!
//! A net thread is one operating-system thread with a current-thread runtime of
//! its own. Connections are given to one at accept and stay there, which spares
//! the wake-ups and locks of a work-stealing pool. Futures stay `Send` all the same.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

use crate::seats::{Seat, Seats};
use crate::task::{self, Task};
use crate::wake::Relay;

fn current_thread_runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// Runs `future` to its end on a current-thread runtime made for it.
///
/// # Errors
/// The runtime could not be made (out of file descriptors, say).
pub fn block_on<F: Future>(future: F) -> io::Result<F::Output> {
    Ok(current_thread_runtime()?.block_on(future))
}

struct NetThread {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// A fixed set of net threads, numbered from 0.
///
/// Dropping it stops them: their tasks are dropped at their next await. On a host of a simulation
/// there are none: what is started on them are tasks like all others of the host.
pub struct NetThreads {
    threads: Vec<NetThread>,
    count: usize,
    seats: Seats,
}

impl std::fmt::Debug for NetThreads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NetThreads")
            .field("count", &self.count)
            .finish()
    }
}

impl NetThreads {
    /// Starts `count` net threads (at least one).
    ///
    /// # Errors
    /// The system refused a thread or the descriptors of a runtime.
    pub fn start(count: usize) -> io::Result<Self> {
        let mut started = Self {
            threads: Vec::with_capacity(count.max(1)),
            count: count.max(1),
            seats: Seats::new(count.max(1)),
        };
        if task::is_simulated() {
            return Ok(started);
        }
        for index in 0..started.count {
            let runtime = current_thread_runtime()?;
            let handle = runtime.handle().clone();
            let (stop, stopped) = oneshot::channel::<()>();
            let thread = task::thread(&format!("net-{index}"), move || {
                let relay = Arc::new(Relay::default());
                relay.settle();
                // Nothing is ever sent: the dropped sender means stop.
                runtime.block_on(async {
                    tokio::select! {
                        stopped = stopped => drop(stopped),
                        () = relay.run() => {}
                    }
                });
                runtime.shutdown_background();
            })?;
            started.threads.push(NetThread {
                handle,
                stop: Some(stop),
                thread: Some(thread),
            });
        }
        Ok(started)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Never: there is at least one.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// A place for a connection, on the net thread with the fewest that carry records.
    pub fn seat(&self) -> Seat {
        self.seats.take()
    }

    /// Starts `future` on net thread `index` (taken modulo [`Self::len`]).
    pub fn spawn_on<F>(&self, index: usize, name: &'static str, future: F) -> Task<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        match self.threads.get(index % self.count) {
            Some(thread) => Task::new(name, thread.handle.spawn(future)),
            None => task::spawn(name, future),
        }
    }

    /// Stops all net threads and waits for them; their tasks are dropped.
    ///
    /// Blocks; call it from outside the net threads.
    pub fn shutdown(mut self) {
        self.stop_all();
        for thread in &mut self.threads {
            if let Some(joined) = thread.thread.take()
                && joined.join().is_err()
            {
                tracing::error!("a net thread panicked");
            }
        }
    }

    fn stop_all(&mut self) {
        for thread in &mut self.threads {
            // Its receiver wakes up when the sender goes.
            drop(thread.stop.take());
        }
    }
}

impl Drop for NetThreads {
    fn drop(&mut self) {
        self.stop_all();
    }
}
