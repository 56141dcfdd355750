//! Tasks and threads: the one spawn seam.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::thread::JoinHandle;

use crate::sim;

/// Why a task ended without its result.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// It was aborted, or its runtime was shut down.
    #[error("task {name} was cancelled before it finished")]
    Cancelled {
        /// The name that it was spawned under.
        name: &'static str,
    },
    /// It panicked. In the product a panic ends the process before this is seen.
    #[error("task {name} panicked: {message}")]
    Panicked {
        /// The name that it was spawned under.
        name: &'static str,
        /// The panic's own text, where it had one.
        message: String,
    },
}

/// A spawned task. Dropping it lets the task run on; awaiting it gives the result.
#[derive(Debug)]
pub struct Task<T> {
    name: &'static str,
    handle: tokio::task::JoinHandle<T>,
}

impl<T> Task<T> {
    pub(crate) fn new(name: &'static str, handle: tokio::task::JoinHandle<T>) -> Self {
        Self { name, handle }
    }

    /// The name that it was spawned under.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Stops the task at its next await; awaiting it then says [`TaskError::Cancelled`].
    pub fn abort(&self) {
        self.handle.abort();
    }

    /// Whether the task has ended, in whatever way.
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, TaskError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let name = self.name;
        Pin::new(&mut self.handle)
            .poll(context)
            .map(|joined| joined.map_err(|error| task_error(name, error)))
    }
}

fn task_error(name: &'static str, error: tokio::task::JoinError) -> TaskError {
    match error.try_into_panic() {
        Ok(payload) => {
            let message = payload
                .downcast_ref::<&str>()
                .map(ToString::to_string)
                .or_else(|| payload.downcast_ref::<String>().cloned())
                .unwrap_or_else(|| "no message".to_owned());
            TaskError::Panicked { name, message }
        }
        Err(_) => TaskError::Cancelled { name },
    }
}

/// Whether the caller runs on a host of a simulation ([`crate::sim`]): what would be a thread
/// has to be a task there, and nothing may block.
pub fn is_simulated() -> bool {
    sim::is_simulated()
}

/// As long as the disk takes to make something durable: a while on a host of a simulation, whose
/// calls do not take any time themselves, and none elsewhere.
pub async fn pause_for_disk() {
    sim::pause_for_disk().await;
}

/// Starts `future` on the runtime of the caller. A task of a host of a simulation is one of that
/// host.
///
/// Must be called from inside a runtime ([`crate::runtime`]).
#[allow(clippy::disallowed_methods, reason = "the one place that spawns tasks")]
pub fn spawn<F>(name: &'static str, future: F) -> Task<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    // Boxed, so that the runtime's code for a task exists once for each output and not once for
    // each future: it was a tenth of the binary.
    let future: Pin<Box<dyn Future<Output = F::Output> + Send>> = Box::pin(future);
    match sim::current() {
        None => Task::new(name, tokio::spawn(future)),
        Some(host) => {
            let handle = tokio::spawn(sim::hosted(Arc::clone(&host), future));
            host.track(handle.abort_handle());
            Task::new(name, handle)
        }
    }
}

/// Runs `work`, which may block, on the runtime's blocking pool.
///
/// # Errors
/// [`TaskError`] when it panicked or the runtime was shut down before it began.
#[allow(
    clippy::disallowed_methods,
    reason = "the one place that uses the blocking pool"
)]
pub async fn blocking<T, F>(work: F) -> Result<T, TaskError>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    if sim::is_simulated() {
        let working = async {
            sim::pause_for_disk().await;
            work()
        };
        return spawn("blocking", working).await;
    }
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| task_error("blocking", error))
}

/// Starts a named operating-system thread.
///
/// # Errors
/// The system refused another thread.
pub fn thread<T, F>(name: &str, work: F) -> io::Result<JoinHandle<T>>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
}

/// Does `work` on a named thread, which nobody waits for.
///
/// # Errors
/// The system refused another thread.
pub fn background<F>(name: &'static str, work: F) -> io::Result<()>
where
    F: FnOnce() + Send + 'static,
{
    if sim::is_simulated() {
        let working = async {
            sim::pause_for_disk().await;
            work();
        };
        drop(spawn(name, working));
        return Ok(());
    }
    thread(name, work).map(drop)
}

/// Does `work` on each of `items`, in any order, on the caller's thread and up to `threads - 1`
/// more of this name; they have ended when this returns. Blocks.
///
/// # Errors
/// The first that `work` gave: items that nobody had begun with by then are left alone.
#[allow(
    clippy::disallowed_methods,
    reason = "the one place that starts scoped threads"
)]
pub fn in_parallel<T, E, F>(name: &str, threads: usize, items: Vec<T>, work: F) -> Result<(), E>
where
    T: Send,
    E: Send,
    F: Fn(T) -> Result<(), E> + Sync,
{
    let threads = if sim::is_simulated() { 1 } else { threads };
    let helpers = threads.min(items.len()).saturating_sub(1);
    let queue = Mutex::new(items.into_iter());
    let failed = Mutex::new(None);
    let take = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work_through = || {
        while let Some(item) = take() {
            if let Err(error) = work(item) {
                let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                failed.get_or_insert(error);
                while take().is_some() {}
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..helpers {
            let thread = std::thread::Builder::new().name(name.to_owned());
            // Where the system has no more threads, those that there are do it all.
            if thread.spawn_scoped(scope, work_through).is_err() {
                break;
            }
        }
        work_through();
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    failed.map_or(Ok(()), Err)
}
