//! Sockets: listeners and byte streams that a simulation can replace.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// What a [`Stream`] is made of.
pub trait Io: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Io for T {}

/// A connected, ordered, two-way stream of bytes.
pub struct Stream(Box<dyn Io>);

impl Stream {
    /// Wraps any transport (TLS over another stream, an in-memory pipe).
    pub fn new(io: impl Io + 'static) -> Self {
        Self(Box::new(io))
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stream")
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}

/// A bound listening socket.
#[derive(Debug)]
pub struct Listener(TcpListener);

/// Binds a listening socket to `address` (`host:port`, port 0 picks a free one).
///
/// # Errors
/// The name does not resolve, or the address is taken or not ours.
#[allow(clippy::disallowed_methods, reason = "the one place that listens")]
pub async fn listen(address: &str) -> io::Result<Listener> {
    Ok(Listener(TcpListener::bind(address).await?))
}

impl Listener {
    /// Waits for the next connection.
    ///
    /// # Errors
    /// Those of `accept(2)`: EMFILE among them, which passes; do not end the loop on it.
    pub async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        let (stream, peer) = self.0.accept().await?;
        stream.set_nodelay(true)?;
        Ok((Stream::new(stream), peer))
    }

    /// The address that was bound, with the real port.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// This machine's name, for a listener that is bound to every address; `localhost` without one.
pub fn host_name() -> String {
    let name = rustix::system::uname();
    match name.nodename().to_str() {
        Ok(name) if !name.is_empty() => name.to_owned(),
        _ => "localhost".to_owned(),
    }
}

/// Connects to `address` (`host:port`) within `timeout`, name look-up included.
///
/// # Errors
/// `TimedOut` when the time was up; otherwise why the connection failed.
#[allow(clippy::disallowed_methods, reason = "the one place that connects")]
pub async fn connect(address: &str, timeout: Duration) -> io::Result<Stream> {
    let stream = crate::clock::timeout(timeout, TcpStream::connect(address))
        .await
        .map_err(|_| {
            io::Error::new(
                io::ErrorKind::TimedOut,
                format!(
                    "no connection to {address} within {} ms",
                    timeout.as_millis()
                ),
            )
        })??;
    stream.set_nodelay(true)?;
    Ok(Stream::new(stream))
}
