//! Whether the net threads get to their work in time.
//!
//! A timer on each net thread is due every [`TICK`]. How late it runs is how long some task kept
//! the thread from polling others (or the thread waited for a processor).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tidemark_env::clock::{self, Instant};
use tidemark_env::runtime::NetThreads;

/// Between two ticks.
pub(crate) const TICK: Duration = Duration::from_millis(100);
/// A tick that is later than this is a slow poll.
pub(crate) const SLOW: Duration = Duration::from_millis(10);
/// A thread without a tick for this long is stuck: the process is not live.
pub(crate) const STUCK: Duration = Duration::from_secs(10);
/// The longest delay is told of the current and the last window of this length.
const WINDOW: Duration = Duration::from_secs(60);

/// The ticks of all net threads.
#[derive(Debug)]
pub(crate) struct Watchdog {
    began: Instant,
    threads: Vec<Mutex<Ticks>>,
}

/// The ticks of one thread; times are since the watchdog began.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ticks {
    last: Option<Duration>,
    slow: u64,
    window: u64,
    longest: Duration,
    longest_before: Duration,
}

/// One net thread at a scrape.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct NetThreadSample {
    /// Its number, from 0.
    pub(crate) thread: usize,
    pub(crate) slow_polls: u64,
    /// The longest delay within the last one to two minutes.
    pub(crate) longest_delay: Duration,
    /// Since its last tick, or its start.
    pub(crate) tick_age: Duration,
}

impl Ticks {
    pub(super) fn record(&mut self, at: Duration, late: Duration) {
        self.turn(at);
        self.last = Some(at);
        self.longest = self.longest.max(late);
        if late > SLOW {
            self.slow += 1;
        }
    }

    fn turn(&mut self, at: Duration) {
        let window = at.as_secs() / WINDOW.as_secs();
        if window > self.window {
            let next = window == self.window + 1;
            self.longest_before = if next { self.longest } else { Duration::ZERO };
            self.longest = Duration::ZERO;
            self.window = window;
        }
    }

    pub(super) fn age(&self, at: Duration) -> Duration {
        self.last
            .map_or(Duration::ZERO, |last| at.saturating_sub(last))
    }

    pub(super) fn sample(mut self, thread: usize, at: Duration) -> NetThreadSample {
        self.turn(at);
        NetThreadSample {
            thread,
            slow_polls: self.slow,
            longest_delay: self.longest.max(self.longest_before),
            tick_age: self.age(at),
        }
    }
}

impl Watchdog {
    /// A watchdog over this many threads. It takes a thread for live until [`Self::start`].
    pub(crate) fn new(threads: usize) -> Arc<Watchdog> {
        let threads = (0..threads).map(|_| Mutex::default()).collect();
        Arc::new(Watchdog {
            began: clock::monotonic(),
            threads,
        })
    }

    /// Starts ticking on each of the threads, for as long as they run.
    pub(crate) fn start(self: &Arc<Self>, threads: &NetThreads) {
        for index in 0..self.threads.len().min(threads.len()) {
            let watchdog = Arc::clone(self);
            // From here on it is expected to tick, even if it never gets to it.
            self.record(index, self.now(), Duration::ZERO);
            drop(threads.spawn_on(index, "watchdog", async move {
                loop {
                    let due = clock::monotonic() + TICK;
                    clock::sleep_until(due).await;
                    watchdog.tick(index, due, clock::monotonic());
                }
            }));
        }
    }

    fn tick(&self, index: usize, due: Instant, now: Instant) {
        let at = now.saturating_duration_since(self.began);
        self.record(index, at, now.saturating_duration_since(due));
    }

    pub(super) fn record(&self, index: usize, at: Duration, late: Duration) {
        if let Some(ticks) = self.threads.get(index) {
            let mut ticks = ticks.lock().unwrap_or_else(PoisonError::into_inner);
            ticks.record(at, late);
        }
    }

    /// All threads at this moment.
    pub(crate) fn samples(&self) -> Vec<NetThreadSample> {
        self.samples_at(self.now())
    }

    /// Whether no thread is stuck.
    pub(crate) fn live(&self) -> bool {
        self.live_at(self.now())
    }

    pub(super) fn live_at(&self, at: Duration) -> bool {
        self.samples_at(at)
            .iter()
            .all(|sample| sample.tick_age < STUCK)
    }

    fn samples_at(&self, at: Duration) -> Vec<NetThreadSample> {
        let sample = |(index, ticks): (usize, &Mutex<Ticks>)| {
            let ticks = *ticks.lock().unwrap_or_else(PoisonError::into_inner);
            ticks.sample(index, at)
        };
        self.threads.iter().enumerate().map(sample).collect()
    }

    /// Since the watchdog began.
    fn now(&self) -> Duration {
        clock::monotonic().saturating_duration_since(self.began)
    }
}
