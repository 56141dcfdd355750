//! A simulated world: hosts with clocks, disks and chance of their own, and the network between
//! them, all on one paused current-thread runtime.
//!
//! A task belongs to the host that spawned it: while it is polled, everything in this crate that
//! would ask the operating system asks that host instead. Nothing blocks there: what the product
//! gives to threads are tasks. Outside of a host nothing of this is in the way; the seams ask
//! once, when a task, a thread or a socket is made.

mod host;
mod link;
mod net;
mod trace;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::clock::{self, Instant};
use crate::disk::MemDisk;
use crate::random::Random;

pub use host::{Death, Host};
pub use trace::Trace;

pub(crate) use trace::mix_bytes;

pub(crate) use host::{
    current, hosted, is_simulated, now_ms, pause_for_disk, steady_ms, with_random,
};
pub(crate) use net::{SimListener, connect, listen};

use host::HostState;
use link::Connection;

/// The wall clock of a world at its beginning, in milliseconds since 1970.
pub const EPOCH_MS: i64 = 1_700_000_000_000;

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic fails the whole simulation.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How the network, the disks and the scheduler behave between faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weather {
    /// Milliseconds that a message travels: from, to.
    pub delay_ms: (i64, i64),
    /// One message in so many is late by up to [`Weather::late_ms`]; 0 for none.
    pub late_one_in: u64,
    /// See there.
    pub late_ms: i64,
    /// One message in so many ends its connection; 0 for none.
    pub reset_one_in: u64,
    /// Milliseconds that a disk takes for what is durable: from, to.
    pub disk_ms: (i64, i64),
    /// One poll in so many comes a little later than it could; 0 for none.
    pub defer_one_in: u64,
}

impl Default for Weather {
    fn default() -> Self {
        Self {
            delay_ms: (0, 2),
            late_one_in: 300,
            late_ms: 200,
            reset_one_in: 0,
            disk_ms: (0, 3),
            defer_one_in: 32,
        }
    }
}

struct State {
    hosts: Vec<Arc<Host>>,
    names: BTreeMap<String, usize>,
    listeners: BTreeMap<(usize, u16), Arc<net::Queue>>,
    connections: Vec<Weak<Connection>>,
    /// Directed: nothing passes from the first to the second.
    cut: Vec<(usize, usize)>,
    weather: Weather,
    network: Random,
    scheduler: Random,
}

/// All hosts, and the network between them.
pub struct World {
    began: Instant,
    seed: u64,
    state: Mutex<State>,
    trace: Mutex<Trace>,
}

/// Where and when the caller is, for logs: the name of its simulated host, and how long the world
/// has been.
pub fn place() -> Option<(String, Duration)> {
    let host = host::current()?;
    Some((host.name.clone(), host.world.elapsed()))
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("World")
    }
}

impl World {
    /// A world without hosts. Inside the runtime whose paused time it is to have.
    pub fn new(seed: u64) -> Arc<World> {
        Arc::new(World {
            began: clock::monotonic(),
            seed,
            state: Mutex::new(State {
                hosts: Vec::new(),
                names: BTreeMap::new(),
                listeners: BTreeMap::new(),
                connections: Vec::new(),
                cut: Vec::new(),
                weather: Weather::default(),
                network: Random::new(seed, 1),
                scheduler: Random::new(seed, 2),
            }),
            trace: Mutex::default(),
        })
    }

    /// Adds a host of this name, which is up and has an empty disk.
    pub fn add_host(self: &Arc<Self>, name: &str) -> Arc<Host> {
        let mut state = lock(&self.state);
        let index = state.hosts.len();
        let disk = MemDisk::new();
        let host = Arc::new(Host {
            world: Arc::clone(self),
            index,
            name: name.to_owned(),
            state: Mutex::new(HostState::new(
                Random::new(self.seed, 100 + index as u64),
                disk,
            )),
        });
        state.hosts.push(Arc::clone(&host));
        state.names.insert(name.to_owned(), index);
        host
    }

    /// How long the world has been.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// The right time, in milliseconds since 1970.
    fn now_ms(&self) -> i64 {
        EPOCH_MS + i64::try_from(self.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    /// Sets how the world behaves from now on.
    pub fn set_weather(&self, weather: Weather) {
        lock(&self.state).weather = weather;
    }

    /// Lets nothing pass from one host to another, until [`World::heal`]: what is sent waits.
    pub fn cut(&self, from: &Host, to: &Host) {
        let mut state = lock(&self.state);
        let link = (from.index, to.index);
        if !state.cut.contains(&link) {
            state.cut.push(link);
        }
        drop(state);
        self.note("cut", link.0 as u64, link.1 as u64, &[]);
    }

    /// Mends all cuts. What waited arrives later, or the connection has given up meanwhile.
    pub fn heal(&self) {
        let cut = std::mem::take(&mut lock(&self.state).cut);
        self.note("heal", cut.len() as u64, 0, &[]);
        for connection in self.connections() {
            connection.healed(self, &cut);
        }
    }

    /// Ends about one in `times` of the connections, for both ends.
    pub fn reset_connections(&self, times: u64) {
        for connection in self.connections() {
            if lock(&self.state).network.one_in(times) {
                connection.reset(self.now());
            }
        }
    }

    /// A hash of all that happened so far: messages, disks, time and faults.
    pub fn hash(&self) -> u64 {
        let mut trace = lock(&self.trace).clone();
        trace.add("end", self.nanos(), 0, 0, &[]);
        for host in self.hosts() {
            trace.add("disk", 0, host.index as u64, host.disk().trace(), &[]);
        }
        trace.hash()
    }

    /// Keeps a line for each thing that happens, to compare two runs by.
    pub fn keep_lines(&self) {
        lock(&self.trace).keep_lines();
    }

    /// The lines that were kept since the last call.
    pub fn take_lines(&self) -> Vec<String> {
        lock(&self.trace).take_lines()
    }

    /// Adds something to the trace: what, two numbers of its own, and bytes.
    pub fn note(&self, what: &'static str, one: u64, other: u64, bytes: &[u8]) {
        let at = self.nanos();
        lock(&self.trace).add(what, at, one, other, bytes);
    }

    fn nanos(&self) -> u64 {
        u64::try_from(self.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn now(&self) -> Instant {
        clock::monotonic()
    }

    fn hosts(&self) -> Vec<Arc<Host>> {
        lock(&self.state).hosts.clone()
    }

    fn connections(&self) -> Vec<Arc<Connection>> {
        let mut state = lock(&self.state);
        state
            .connections
            .retain(|connection| connection.strong_count() > 0);
        let open = state.connections.iter();
        open.filter_map(Weak::upgrade).collect()
    }

    fn is_cut(&self, from: usize, to: usize) -> bool {
        lock(&self.state).cut.contains(&(from, to))
    }

    /// How long a message travels from now.
    fn delay(&self) -> Duration {
        let mut state = lock(&self.state);
        let Weather {
            delay_ms: (from, to),
            late_one_in,
            late_ms,
            ..
        } = state.weather;
        let mut ms = state.network.between(from, to);
        if late_one_in > 0 && state.network.one_in(late_one_in) {
            ms += state.network.between(0, late_ms);
        }
        Duration::from_millis(u64::try_from(ms).unwrap_or(0))
    }

    fn loses(&self) -> bool {
        let mut state = lock(&self.state);
        let times = state.weather.reset_one_in;
        times > 0 && state.network.one_in(times)
    }

    fn defers(&self) -> bool {
        let mut state = lock(&self.state);
        let times = state.weather.defer_one_in;
        times > 0 && state.scheduler.one_in(times)
    }

    fn disk_delay(&self) -> Duration {
        let mut state = lock(&self.state);
        let (from, to) = state.weather.disk_ms;
        let ms = state.scheduler.between(from, to);
        Duration::from_millis(u64::try_from(ms).unwrap_or(0))
    }

    /// The host that a name or an address stands for.
    fn resolve(&self, name: &str) -> io::Result<Arc<Host>> {
        let state = lock(&self.state);
        let by_address = || {
            state
                .hosts
                .iter()
                .find(|host| host.ip().to_string() == name)
        };
        let by_name = state.names.get(name).map(|index| &state.hosts[*index]);
        by_name.or_else(by_address).cloned().ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("no host is called {name}"))
        })
    }
}

fn ip_of(index: usize) -> IpAddr {
    let [high, low] = u16::try_from(index + 1).unwrap_or(u16::MAX).to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(10, 0, high, low))
}

/// The port of `host:port`, and the host.
fn parts_of(address: &str) -> io::Result<(&str, u16)> {
    let parts = address.rsplit_once(':');
    parts
        .and_then(|(host, port)| Some((host, port.parse().ok()?)))
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{address} is not HOST:PORT"),
            )
        })
}

#[cfg(test)]
mod tests;
