//! Listening and connecting on the simulated network.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;

use super::host::Host;
use super::link::{Connection, SimStream};
use super::{lock, parts_of};
use crate::clock;
use crate::net::Stream;

/// Connections that wait to be accepted; more are refused.
const BACKLOG: usize = 128;
/// A system asks again after this time when nobody answers.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Connections that wait to be accepted.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<VecDeque<(Stream, SocketAddr)>>,
    added: Notify,
}

/// A listening socket of a host.
pub(crate) struct SimListener {
    host: Arc<Host>,
    port: u16,
    queue: Arc<Queue>,
}

impl std::fmt::Debug for SimListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host.name, self.port)
    }
}

/// Listens on a port of the host, whatever the address says of it.
pub(crate) fn listen(host: Arc<Host>, address: &str) -> io::Result<SimListener> {
    let (_, port) = parts_of(address)?;
    let mut state = lock(&host.world.state);
    let port = match port {
        0 => next_port(&host),
        port => port,
    };
    let queue = Arc::new(Queue::default());
    if state.listeners.contains_key(&(host.index, port)) {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    state
        .listeners
        .insert((host.index, port), Arc::clone(&queue));
    drop(state);
    Ok(SimListener { host, port, queue })
}

fn next_port(host: &Host) -> u16 {
    let mut state = lock(&host.state);
    state.next_port = state.next_port.checked_add(1).unwrap_or(40_000);
    state.next_port
}

impl SimListener {
    pub(crate) async fn accept(&self) -> (Stream, SocketAddr) {
        loop {
            if let Some(accepted) = lock(&self.queue.waiting).pop_front() {
                return accepted;
            }
            self.queue.added.notified().await;
        }
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        SocketAddr::new(self.host.ip(), self.port)
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        let mut state = lock(&self.host.world.state);
        let key = (self.host.index, self.port);
        // A host that was started again may listen there anew.
        if let Some(queue) = state.listeners.get(&key)
            && Arc::ptr_eq(queue, &self.queue)
        {
            state.listeners.remove(&key);
        }
        drop(state);
        let left = std::mem::take(&mut *lock(&self.queue.waiting));
        drop(left);
    }
}

/// Connects a host to an address. Where nobody answers it waits for ever.
pub(crate) async fn connect(host: Arc<Host>, address: &str) -> io::Result<Stream> {
    let world = Arc::clone(&host.world);
    let (name, port) = parts_of(address)?;
    let target = world.resolve(name)?;
    let (mine, theirs) = (host.index, target.index);
    loop {
        clock::sleep(world.delay()).await;
        if !world.is_cut(mine, theirs) && !lock(&target.state).dark {
            break;
        }
        clock::sleep(ASK_AGAIN).await;
    }
    let queue = lock(&world.state).listeners.get(&(theirs, port)).cloned();
    let queue = queue.filter(|queue| target.is_up() && lock(&queue.waiting).len() < BACKLOG);
    let stream = queue.map(|queue| {
        let from = (Arc::clone(&host), host.life());
        let to = (Arc::clone(&target), target.life());
        let connection = Connection::new(from, to, world.now());
        let weak = Arc::downgrade(&connection);
        lock(&world.state).connections.push(weak);
        let peer = SocketAddr::new(host.ip(), next_port(&host));
        let theirs = Stream::new(SimStream::new(Arc::clone(&connection), 1));
        lock(&queue.waiting).push_back((theirs, peer));
        queue.added.notify_one();
        Stream::new(SimStream::new(connection, 0))
    });
    world.note(
        if stream.is_some() {
            "connect"
        } else {
            "refuse"
        },
        mine as u64,
        theirs as u64,
        &port.to_be_bytes(),
    );
    // The answer has a way to go as well.
    loop {
        clock::sleep(world.delay()).await;
        if !world.is_cut(theirs, mine) {
            break;
        }
        clock::sleep(ASK_AGAIN).await;
    }
    stream.ok_or_else(|| io::ErrorKind::ConnectionRefused.into())
}
