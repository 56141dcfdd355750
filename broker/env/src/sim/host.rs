//! A host: its tasks, its clock, its chance, its disk, and how they end.

use std::cell::RefCell;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::task::AbortHandle;

use super::{World, ip_of, lock};
use crate::clock;
use crate::disk::MemDisk;
use crate::random::Random;

/// A disk that stands still is asked this often whether it goes on.
const STALLED: Duration = Duration::from_millis(10);

thread_local! {
    /// Whose task is polled on this thread.
    static CURRENT: RefCell<Option<Arc<Host>>> = const { RefCell::new(None) };
}

/// How a host ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// The process is killed: its system closes what it had open, and keeps what it wrote.
    Kill,
    /// The power goes: nobody is told, and what was not synced is lost, all of it or in part.
    Power,
}

pub(super) struct HostState {
    /// Counts starts: tasks, listeners and connections of an earlier one are dead.
    pub(super) life: u64,
    pub(super) up: bool,
    /// The power is off: not even the system answers.
    pub(super) dark: bool,
    paused: bool,
    parked: Vec<Waker>,
    tasks: Vec<AbortHandle>,
    skew_ms: i64,
    /// As it was at the start.
    first_skew_ms: i64,
    random: Random,
    pub(super) next_port: u16,
    disk: MemDisk,
    /// The disk stands still: what it is given waits.
    stalled: bool,
}

impl HostState {
    pub(super) fn new(random: Random, disk: MemDisk) -> Self {
        Self {
            life: 0,
            up: true,
            dark: false,
            paused: false,
            parked: Vec::new(),
            tasks: Vec::new(),
            skew_ms: 0,
            first_skew_ms: 0,
            random,
            next_port: 40_000,
            disk,
            stalled: false,
        }
    }
}

/// A host of a [`World`].
pub struct Host {
    pub(super) world: Arc<World>,
    pub(super) index: usize,
    pub(super) name: String,
    pub(super) state: Mutex<HostState>,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

impl Host {
    /// Its name, by which others reach it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address.
    pub fn ip(&self) -> IpAddr {
        ip_of(self.index)
    }

    /// Its disk.
    pub fn disk(&self) -> MemDisk {
        lock(&self.state).disk.clone()
    }

    /// Gives it an empty disk. For a host that is down.
    pub fn replace_disk(&self) {
        lock(&self.state).disk = MemDisk::new();
    }

    /// Whether it was started and has not ended.
    pub fn is_up(&self) -> bool {
        let state = lock(&self.state);
        state.up && !state.disk.power_is_off()
    }

    /// Sets its wall clock this far from the world's, in milliseconds.
    pub fn set_skew_ms(&self, skew_ms: i64) {
        lock(&self.state).skew_ms = skew_ms;
    }

    /// Its wall clock.
    pub fn now_ms(&self) -> i64 {
        self.world.now_ms() + lock(&self.state).skew_ms
    }

    /// Its wall clock as it would be if it had not jumped since the start.
    fn steady_ms(&self) -> i64 {
        self.world.now_ms() + lock(&self.state).first_skew_ms
    }

    /// Starts `future` as a task of this host. It is dropped when the host ends.
    pub fn spawn<F>(self: &Arc<Self>, name: &'static str, future: F) -> crate::task::Task<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let _here = enter(self);
        crate::task::spawn(name, future)
    }

    /// Its tasks stop where they are; its system goes on to take connections and bytes.
    pub fn pause(&self) {
        lock(&self.state).paused = true;
        self.world.note("pause", self.index as u64, 0, &[]);
    }

    /// Whether its disk stands still from now on: it gives no error, and no answer.
    pub fn stall_disk(&self, stalled: bool) {
        lock(&self.state).stalled = stalled;
        self.world
            .note("stall", self.index as u64, u64::from(stalled), &[]);
    }

    /// Its tasks go on.
    pub fn resume(&self) {
        let parked = {
            let mut state = lock(&self.state);
            state.paused = false;
            std::mem::take(&mut state.parked)
        };
        self.world.note("resume", self.index as u64, 0, &[]);
        parked.iter().for_each(Waker::wake_by_ref);
    }

    /// Ends it at once: none of its tasks runs again, and they are dropped before this returns.
    /// Its disk keeps what `death` leaves, chosen by `seed`. It is down until [`Host::start`].
    pub async fn end(self: &Arc<Self>, death: Death, seed: u64) {
        let (tasks, disk) = {
            let mut state = lock(&self.state);
            state.up = false;
            state.dark = death == Death::Power;
            state.life += 1;
            state.paused = false;
            state.parked.clear();
            (std::mem::take(&mut state.tasks), state.disk.clone())
        };
        self.world.note("end", self.index as u64, death as u64, &[]);
        self.world.host_ended(self.index, death);
        disk.clear_faults();
        match death {
            Death::Kill => disk.restart(),
            Death::Power if seed.is_multiple_of(4) => disk.crash_with_seed(seed),
            Death::Power => disk.crash_torn(seed),
        }
        for task in &tasks {
            task.abort();
        }
        while tasks.iter().any(|task| !task.is_finished()) {
            tokio::task::yield_now().await;
        }
    }

    /// It is up again, with nothing running.
    pub fn start(&self) {
        let mut state = lock(&self.state);
        state.up = true;
        state.dark = false;
        state.first_skew_ms = state.skew_ms;
    }

    /// Keeps the handle of a task of this host, so that it ends with the host.
    pub(crate) fn track(&self, handle: AbortHandle) {
        let mut state = lock(&self.state);
        if state.tasks.len() >= 64 && state.tasks.len().is_power_of_two() {
            state.tasks.retain(|task| !task.is_finished());
        }
        state.tasks.push(handle);
    }

    /// Whether what is done in its `life` still has an effect.
    pub(super) fn lives(&self, life: u64) -> bool {
        let state = lock(&self.state);
        state.up && state.life == life && !state.disk.power_is_off()
    }

    /// How often it has ended: tells one life of it from the next.
    pub fn life(&self) -> u64 {
        lock(&self.state).life
    }
}

/// Restores who was current before.
pub(super) struct Here(Option<Arc<Host>>);

impl Drop for Here {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

pub(super) fn enter(host: &Arc<Host>) -> Here {
    Here(CURRENT.replace(Some(Arc::clone(host))))
}

/// The host whose task is being polled.
pub(crate) fn current() -> Option<Arc<Host>> {
    CURRENT.with_borrow(Clone::clone)
}

/// Whether the caller runs on a simulated host.
pub(crate) fn is_simulated() -> bool {
    CURRENT.with_borrow(Option::is_some)
}

/// The current host's wall clock.
pub(crate) fn now_ms() -> Option<i64> {
    CURRENT.with_borrow(|host| Some(host.as_ref()?.now_ms()))
}

/// The current host's time that does not jump.
pub(crate) fn steady_ms() -> Option<i64> {
    CURRENT.with_borrow(|host| Some(host.as_ref()?.steady_ms()))
}

/// The current host's chance.
pub(crate) fn with_random<T>(draw: impl FnOnce(&mut Random) -> T) -> Option<T> {
    CURRENT.with_borrow(|host| Some(draw(&mut lock(&host.as_ref()?.state).random)))
}

/// As long as a disk takes, on a simulated host.
pub(crate) async fn pause_for_disk() {
    if let Some(host) = current() {
        clock::sleep(host.world.disk_delay()).await;
        while lock(&host.state).stalled {
            clock::sleep(STALLED).await;
        }
    }
}

/// A future of a host's task.
pub(crate) struct Hosted<F> {
    host: Arc<Host>,
    life: u64,
    future: Option<Pin<Box<F>>>,
}

/// Makes `future` one of `host`.
pub(crate) fn hosted<F: Future>(host: Arc<Host>, future: F) -> Hosted<F> {
    Hosted {
        life: host.life(),
        host,
        future: Some(Box::pin(future)),
    }
}

impl<F: Future> Future for Hosted<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        if !self.host.lives(self.life) {
            // It is about to be aborted.
            return Poll::Pending;
        }
        {
            let mut state = lock(&self.host.state);
            if state.paused {
                state.parked.push(context.waker().clone());
                return Poll::Pending;
            }
        }
        if self.host.world.defers() {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let _here = enter(&self.host);
        match &mut self.future {
            Some(future) => future.as_mut().poll(context),
            None => Poll::Pending,
        }
    }
}

impl<F> Drop for Hosted<F> {
    fn drop(&mut self) {
        // What its destructors ask for, they ask of the host.
        let _here = enter(&self.host);
        drop(self.future.take());
    }
}
