//! Accepts connections, a bounded number of them, and none that makes no progress.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tidemark_env::clock;
use tidemark_env::net::{Listener, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections at once; one more is closed at accept.
pub(super) const CONNECTIONS: usize = 128;
/// A connection ends when it took no byte of an answer for this long. It is above the pace of
/// scrapers, so that theirs stay open; bytes of a request do not count.
pub(super) const IDLE: Duration = Duration::from_secs(90);
/// Waits this long after a failed accept, so that running out of descriptors does not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// A listener for axum over the environment's own.
pub(super) struct Bounded {
    listener: Listener,
    address: SocketAddr,
    slots: Arc<Semaphore>,
    idle: Duration,
}

impl Bounded {
    pub(super) fn new(listener: Listener, address: SocketAddr) -> Bounded {
        Bounded::with(listener, address, CONNECTIONS, IDLE)
    }

    pub(super) fn with(
        listener: Listener,
        address: SocketAddr,
        connections: usize,
        idle: Duration,
    ) -> Bounded {
        Bounded {
            listener,
            address,
            slots: Arc::new(Semaphore::new(connections)),
            idle,
        }
    }
}

impl axum::serve::Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    if let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() {
                        return (Connection::new(stream, slot, self.idle), peer);
                    }
                    tracing::debug!(%peer, "health connection refused: too many are open");
                }
                Err(error) => {
                    tracing::warn!(%error, "accept failed on the health port; trying again");
                    clock::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

/// A connection that ends when it makes no progress.
pub(super) struct Connection {
    stream: Stream,
    idle: Duration,
    deadline: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Given back on drop.
    _slot: OwnedSemaphorePermit,
}

impl Connection {
    fn new(stream: Stream, slot: OwnedSemaphorePermit, idle: Duration) -> Connection {
        Connection {
            stream,
            idle,
            deadline: Box::pin(clock::sleep(idle)),
            _slot: slot,
        }
    }

    /// An error once the time is up; to be called on each poll, so that its waker is known.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.deadline.as_mut().poll(context) {
            // The future must not be polled again: the next check starts a new one.
            Poll::Ready(()) => {
                self.deadline = Box::pin(clock::sleep(self.idle));
                Err(io::ErrorKind::TimedOut.into())
            }
            Poll::Pending => Ok(()),
        }
    }

    fn progress(&mut self, written: io::Result<usize>) -> Poll<io::Result<usize>> {
        if matches!(written, Ok(bytes) if bytes > 0) {
            self.deadline = Box::pin(clock::sleep(self.idle));
        }
        Poll::Ready(written)
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes));
        self.progress(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, slices));
        self.progress(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
