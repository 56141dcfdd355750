//! A connection between two hosts: two directions, each with its bytes on the way.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::host::Host;
use super::{Death, World, lock};
use crate::clock::Instant;

/// Bytes of one direction that may be on the way or unread.
const WINDOW_BYTES: usize = 256 * 1024;

/// One direction.
struct Way {
    /// Bytes, and when they arrive.
    sent: VecDeque<(Instant, Bytes)>,
    bytes: usize,
    last: Instant,
    /// When the end arrives, behind the bytes.
    closed: Option<Instant>,
    /// Nobody reads any more.
    deaf: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Way {
    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()]
            .into_iter()
            .flatten()
        {
            waker.wake();
        }
    }
}

/// A connection.
pub(super) struct Connection {
    /// The two hosts, and their lives at the beginning.
    ends: [(Arc<Host>, u64); 2],
    /// The first is what the first end sends.
    ways: [Mutex<Way>; 2],
    /// When each end learns that it is no more.
    resets: Mutex<[Option<Instant>; 2]>,
}

impl Connection {
    pub(super) fn new(from: (Arc<Host>, u64), to: (Arc<Host>, u64), now: Instant) -> Arc<Self> {
        let way = || {
            Mutex::new(Way {
                sent: VecDeque::new(),
                bytes: 0,
                last: now,
                closed: None,
                deaf: false,
                reader: None,
                writer: None,
            })
        };
        Arc::new(Connection {
            ends: [from, to],
            ways: [way(), way()],
            resets: Mutex::new([None; 2]),
        })
    }

    fn index(&self, end: usize) -> usize {
        self.ends[end].0.index
    }

    fn lives(&self, end: usize) -> bool {
        self.ends[end].0.lives(self.ends[end].1)
    }

    fn wake(&self) {
        for way in &self.ways {
            lock(way).wake();
        }
    }

    /// Both ends learn at `at` that it is no more.
    pub(super) fn reset(&self, at: Instant) {
        for end in [0, 1] {
            self.reset_end(end, at);
        }
    }

    fn reset_end(&self, end: usize, at: Instant) {
        lock(&self.resets)[end].get_or_insert(at);
        self.wake();
    }

    fn is_reset(&self, end: usize, now: Instant) -> Option<Instant> {
        lock(&self.resets)[end].filter(|at| *at <= now)
    }

    /// Cuts were mended: what waited is sent again, or the connection had given up.
    pub(super) fn healed(&self, world: &World, cut: &[(usize, usize)]) {
        for end in [0, 1] {
            if !cut.contains(&(self.index(end), self.index(1 - end))) {
                continue;
            }
            let again = {
                let mut state = lock(&world.state);
                if state.network.one_in(4) {
                    None
                } else {
                    // Nobody knows that the way is free until something is sent again.
                    Some(state.network.between(0, 1000))
                }
            };
            let now = world.now();
            let Some(ms) = again else {
                self.reset(now);
                continue;
            };
            let at = now + Duration::from_millis(ms.unsigned_abs());
            let mut way = lock(&self.ways[end]);
            for (arrives, _) in &mut way.sent {
                *arrives = at.max(*arrives);
            }
            way.closed = way.closed.map(|arrives| at.max(arrives));
            way.last = at.max(way.last);
            way.wake();
        }
    }

    /// One end's host has ended.
    pub(super) fn host_ended(&self, world: &World, host: usize, death: Death) {
        for end in [0, 1] {
            if self.index(end) != host {
                continue;
            }
            let cut = world.is_cut(host, self.index(1 - end));
            if death == Death::Kill && !cut {
                self.reset_end(1 - end, world.now() + world.delay());
            }
        }
    }
}

impl World {
    pub(super) fn host_ended(&self, host: usize, death: Death) {
        lock(&self.state).listeners.retain(|(of, _), _| *of != host);
        for connection in self.connections() {
            connection.host_ended(self, host, death);
        }
    }
}

/// One end of a connection.
pub(super) struct SimStream {
    connection: Arc<Connection>,
    end: usize,
    /// Until the next bytes, or the end, arrive.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl SimStream {
    pub(super) fn new(connection: Arc<Connection>, end: usize) -> Self {
        Self {
            connection,
            end,
            waiting: None,
        }
    }

    fn world(&self) -> &Arc<World> {
        &self.connection.ends[self.end].0.world
    }

    /// Ready at `at`.
    fn poll_until(&mut self, at: Instant, context: &mut Context<'_>) -> Poll<()> {
        let sleep = match &mut self.waiting {
            Some(sleep) if sleep.deadline() == at => sleep,
            waiting => waiting.insert(Box::pin(crate::clock::sleeping_until(at))),
        };
        ready!(sleep.as_mut().poll(context));
        self.waiting = None;
        Poll::Ready(())
    }
}

fn reset() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

impl AsyncRead for SimStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let connection = Arc::clone(&self.connection);
        let (mine, other) = (connection.index(self.end), connection.index(1 - self.end));
        loop {
            let now = self.world().now();
            if connection.is_reset(self.end, now).is_some() {
                return Poll::Ready(Err(reset()));
            }
            let cut = self.world().is_cut(other, mine);
            let mut way = lock(&connection.ways[1 - self.end]);
            way.reader = Some(context.waker().clone());
            let first = way.sent.front().map(|(at, _)| *at);
            let due = first.or(way.closed).filter(|_| !cut);
            // A reset is not behind anything.
            let reset_at = lock(&connection.resets)[self.end];
            let due = match (due, reset_at) {
                (Some(due), Some(reset_at)) => Some(due.min(reset_at)),
                (due, reset_at) => due.or(reset_at),
            };
            let Some(due) = due else {
                return Poll::Pending;
            };
            if due > now {
                drop(way);
                ready!(self.poll_until(due, context));
                continue;
            }
            let Some((_, bytes)) = way.sent.front_mut() else {
                return Poll::Ready(Ok(()));
            };
            let count = bytes.len().min(buffer.remaining());
            buffer.put_slice(&bytes[..count]);
            bytes.advance(count);
            if bytes.is_empty() {
                way.sent.pop_front();
            }
            way.bytes -= count;
            if let Some(writer) = way.writer.take() {
                writer.wake();
            }
            return Poll::Ready(Ok(()));
        }
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let (connection, end, world) = (&self.connection, self.end, self.world());
        let now = world.now();
        if connection.is_reset(end, now).is_some() {
            return Poll::Ready(Err(reset()));
        }
        if !connection.lives(end) {
            // The power went in the middle of this poll: nothing leaves any more.
            return Poll::Ready(Ok(bytes.len()));
        }
        let other = 1 - end;
        let (mine, theirs) = (connection.index(end), connection.index(other));
        let mut way = lock(&connection.ways[end]);
        if way.closed.is_some() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = WINDOW_BYTES.saturating_sub(way.bytes);
        if room == 0 {
            way.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let bytes = &bytes[..bytes.len().min(room)];
        let deaf = way.deaf || !connection.lives(other);
        if deaf || world.loses() {
            drop(way);
            world.note("lost", mine as u64, theirs as u64, bytes);
            let host = &connection.ends[other].0;
            let answers = !lock(&host.state).dark && !world.is_cut(theirs, mine);
            if answers {
                let at = now + world.delay() + world.delay();
                match deaf {
                    true => connection.reset_end(end, at),
                    false => connection.reset(at),
                }
            }
            return Poll::Ready(Ok(bytes.len()));
        }
        let arrives = (now + world.delay()).max(way.last);
        way.last = arrives;
        way.bytes += bytes.len();
        way.sent.push_back((arrives, Bytes::copy_from_slice(bytes)));
        if let Some(reader) = way.reader.take() {
            reader.wake();
        }
        drop(way);
        world.note("sent", mine as u64, theirs as u64, bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.close();
        Poll::Ready(Ok(()))
    }
}

impl SimStream {
    /// Nothing more is sent.
    fn close(&self) {
        if !self.connection.lives(self.end) {
            return;
        }
        let world = self.world();
        let arrives = world.now() + world.delay();
        let mut way = lock(&self.connection.ways[self.end]);
        let arrives = arrives.max(way.last);
        way.closed.get_or_insert(arrives);
        way.wake();
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        self.close();
        let mut way = lock(&self.connection.ways[1 - self.end]);
        way.deaf = true;
        way.sent.clear();
        way.bytes = 0;
        way.wake();
    }
}
