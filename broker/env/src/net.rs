//! Sockets: listeners and byte streams that a simulation can replace.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::set_socket_send_buffer_size;
use rustix::net::{SendAncillaryBuffer, SendFlags};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

use crate::clock;
use crate::disk::{COPY_BYTES, FileRange};
use crate::sim::{self, SimListener};

/// The system sends this much of a file in one go: other connections have their turn in between.
const SEND_FILE_BYTES: usize = 512 * 1024;
/// EINVAL.
const INVALID: i32 = Errno::INVAL.raw_os_error();

/// What a [`Stream`] is made of.
pub trait Io: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Io for T {}

enum Transport {
    Tcp(TcpStream),
    Other(Box<dyn Io>),
}

/// A connected, ordered, two-way stream of bytes.
pub struct Stream(Transport);

impl Stream {
    /// Wraps any transport (TLS over another stream, an in-memory pipe).
    pub fn new(io: impl Io + 'static) -> Self {
        Self(Transport::Other(Box::new(io)))
    }

    /// Moves it to the calling task's runtime. A socket belongs to the runtime that accepted or
    /// connected it: a task elsewhere hears of every arrival by way of a thread of that one, which
    /// costs two more switches of threads and a system call.
    ///
    /// # Errors
    /// The system cannot watch the socket here (out of descriptors, say).
    pub fn settle(self) -> io::Result<Self> {
        match self.0 {
            Transport::Tcp(stream) => {
                let stream = TcpStream::from_std(stream.into_std()?)?;
                Ok(Self(Transport::Tcp(stream)))
            }
            other => Ok(Self(other)),
        }
    }

    /// Bounds what the system holds for the other end to take: it doubles `bytes` for its own needs,
    /// and does not size the buffer by itself any more. Only a TCP stream has such a buffer.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn bound_send_buffer(&self, bytes: usize) -> io::Result<()> {
        match &self.0 {
            Transport::Tcp(stream) => Ok(set_socket_send_buffer_size(stream, bytes)?),
            Transport::Other(_) => Ok(()),
        }
    }

    fn io(&mut self) -> Pin<&mut dyn Io> {
        match &mut self.0 {
            Transport::Tcp(stream) => Pin::new(stream),
            Transport::Other(io) => Pin::new(&mut **io),
        }
    }

    /// Writes some of `slices`, and says how many bytes. With `more` the system may keep them back
    /// until the next write, which must follow at once.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn write_slices(&mut self, slices: &[IoSlice<'_>], more: bool) -> io::Result<usize> {
        match &self.0 {
            Transport::Tcp(stream) if more => {
                let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
                let send = || {
                    let mut control = SendAncillaryBuffer::default();
                    Ok(rustix::net::sendmsg(stream, slices, &mut control, flags)?)
                };
                stream.async_io(Interest::WRITABLE, send).await
            }
            _ => self.write_vectored(slices).await,
        }
    }

    /// Sends a part of a file, by the system itself where both ends are its own (`sendfile`), and
    /// through a buffer otherwise. `patience` is how long the other end may take nothing.
    ///
    /// The caller sees to it that the range is in memory: reading it blocks.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file ends before the range does, `TimedOut`, and those of the file
    /// and the connection. An unknown part of the range has been sent then: end the connection.
    pub async fn send_file(&mut self, mut range: FileRange, patience: Duration) -> io::Result<()> {
        let file = range.file.clone();
        let stream = match (&self.0, file.as_fd()) {
            (Transport::Tcp(stream), Some(fd)) => Some((stream, fd)),
            _ => None,
        };
        let Some((stream, fd)) = stream else {
            return self.copy_file(range, patience).await;
        };
        while range.len > 0 {
            let send = || {
                let len = range.len.min(SEND_FILE_BYTES);
                let sent = rustix::io::retry_on_intr(|| {
                    rustix::fs::sendfile(stream, fd, Some(&mut range.position.clone()), len)
                });
                Ok(sent?)
            };
            let sent = stream.async_io(Interest::WRITABLE, send);
            match clock::timeout(patience, sent).await? {
                // The file's own file system cannot do it.
                Err(error) if error.raw_os_error() == Some(INVALID) => {
                    return self.copy_file(range, patience).await;
                }
                Err(error) => return Err(error),
                Ok(0) => return Err(range.too_short()),
                Ok(sent) => {
                    range.position += sent as u64;
                    range.len -= sent.min(range.len);
                }
            }
        }
        Ok(())
    }

    async fn copy_file(&mut self, mut range: FileRange, patience: Duration) -> io::Result<()> {
        let mut buffer = vec![0; range.len.min(COPY_BYTES)];
        while range.len > 0 {
            let len = range.len.min(buffer.len());
            let read = range.file.read_at(&mut buffer[..len], range.position)?;
            if read == 0 {
                return Err(range.too_short());
            }
            let mut left = &buffer[..read];
            while !left.is_empty() {
                match clock::timeout(patience, self.write(left)).await?? {
                    0 => return Err(io::ErrorKind::WriteZero.into()),
                    written => left = &left[written..],
                }
            }
            range.position += read as u64;
            range.len -= read;
        }
        Ok(())
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
        self.io().poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.io().poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.io().poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.0 {
            Transport::Tcp(stream) => stream.is_write_vectored(),
            Transport::Other(io) => io.is_write_vectored(),
        }
    }
}

#[derive(Debug)]
enum Bound {
    Tcp(TcpListener),
    Simulated(SimListener),
}

/// A bound listening socket.
#[derive(Debug)]
pub struct Listener(Bound);

/// Binds a listening socket to `address` (`host:port`, port 0 picks a free one).
///
/// # Errors
/// The name does not resolve, or the address is taken or not ours.
#[allow(clippy::disallowed_methods, reason = "the one place that listens")]
pub async fn listen(address: &str) -> io::Result<Listener> {
    let bound = match sim::current() {
        None => Bound::Tcp(TcpListener::bind(address).await?),
        Some(host) => Bound::Simulated(sim::listen(host, address)?),
    };
    Ok(Listener(bound))
}

impl Listener {
    /// Waits for the next connection.
    ///
    /// # Errors
    /// Those of `accept(2)`: EMFILE among them, which passes; do not end the loop on it.
    pub async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        let listener = match &self.0 {
            Bound::Tcp(listener) => listener,
            Bound::Simulated(listener) => return Ok(listener.accept().await),
        };
        let (stream, peer) = listener.accept().await?;
        stream.set_nodelay(true)?;
        Ok((Stream(Transport::Tcp(stream)), peer))
    }

    /// The address that was bound, with the real port.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            Bound::Tcp(listener) => listener.local_addr(),
            Bound::Simulated(listener) => Ok(listener.local_addr()),
        }
    }
}

/// This machine's name, for a listener that is bound to every address; `localhost` without one.
pub fn host_name() -> String {
    if let Some(host) = sim::current() {
        return host.name().to_owned();
    }
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
    let connecting = async {
        if let Some(host) = sim::current() {
            return sim::connect(host, address).await;
        }
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Stream(Transport::Tcp(stream)))
    };
    let connected = clock::timeout(timeout, connecting).await;
    connected.unwrap_or_else(|_| {
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!(
                "no connection to {address} within {} ms",
                timeout.as_millis()
            ),
        ))
    })
}
