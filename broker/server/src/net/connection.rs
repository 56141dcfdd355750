//! One connection: requests are started in the order they came and answered in that order.
//!
//! Produce requests are pipelined: the next one is appended while the one before waits to be
//! durable. Every other API starts only after all earlier answers, so that a client never sees an
//! effect of a later request before that of an earlier one.

use super::Permit;
use super::frame::{self, FrameError};
use crate::broker::Broker;
use crate::context::Context;
use crate::dispatch::{self, Answer};
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tidemark_env::clock;
use tidemark_env::net::Stream;
use tidemark_env::seats::Seat;
use tidemark_log::Piece;
use tidemark_wire::ApiKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

/// Produce requests of one connection that may wait for durability at once.
const PIPELINE: usize = 64;
/// Room for a read; a larger frame gets its exact size.
const READ_BYTES: usize = 16 * 1024;
/// A buffer that a large frame has grown is given back above this.
const KEEP_BUFFER_BYTES: usize = 256 * 1024;

/// A request is read this far before it takes its share of the memory for requests.
const UNCOUNTED_BYTES: usize = 64 * 1024;
/// A request or answer that holds memory and does not move for this long ends its connection.
const STALLED: Duration = Duration::from_secs(30);
/// A part of a file up to this length is copied, and sent with what stands beside it.
const SMALL_BYTES: usize = 8 * 1024;
/// Pieces that are sent at once.
const MAX_SLICES: usize = 64;
const NEVER: Duration = Duration::from_secs(10 * 365 * 86_400);

/// What a read waits for.
#[derive(Clone, Copy, PartialEq)]
enum Wait {
    /// The next request: a stopping broker ends the connection here.
    Request,
    /// The rest of a request that holds nothing yet.
    Rest,
    /// The rest of a request whose memory is set aside.
    Counted,
}

type Pending = Pin<Box<dyn Future<Output = Result<Answer, FrameError>> + Send>>;

struct Connection {
    broker: Arc<Broker>,
    stream: Stream,
    peer: SocketAddr,
    listener: Arc<str>,
    seat: Seat,
    buffer: BytesMut,
    pending: VecDeque<Pending>,
    stop: watch::Receiver<bool>,
}

/// Why a connection ended, besides the other end closing it.
enum End {
    Closed,
    Idle,
    Stopping,
    Frame(FrameError),
    Io(io::Error),
}

impl From<FrameError> for End {
    fn from(error: FrameError) -> End {
        End::Frame(error)
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> End {
        End::Io(error)
    }
}

/// Serves a connection to its end.
pub(super) async fn serve(
    broker: Arc<Broker>,
    stream: Stream,
    peer: SocketAddr,
    listener: Arc<str>,
    seat: Seat,
    stop: watch::Receiver<bool>,
) {
    broker.metrics.connections.inc();
    let metrics = Arc::clone(&broker.metrics);
    let mut connection = Connection {
        broker,
        stream,
        peer,
        listener,
        seat,
        buffer: BytesMut::new(),
        pending: VecDeque::new(),
        stop,
    };
    let Err(end) = connection.run().await;
    match end {
        End::Closed => tracing::debug!(%peer, "connection closed by the client"),
        End::Idle => tracing::debug!(%peer, "connection closed: idle for connections.max.idle.ms"),
        End::Stopping => tracing::debug!(%peer, "connection closed: the broker is stopping"),
        End::Io(error) => tracing::debug!(%peer, %error, "connection lost"),
        End::Frame(error) => {
            metrics.bad_requests.inc();
            tracing::warn!(%peer, %error, "connection closed: not a request that this broker can serve");
        }
    }
    metrics.connections.dec();
}

impl Connection {
    async fn run(&mut self) -> Result<std::convert::Infallible, End> {
        loop {
            if self.is_stopping() {
                while !self.pending.is_empty() {
                    self.answer_oldest().await?;
                }
                return Err(End::Stopping);
            }
            let (frame, permit) = self.next_frame().await?;
            let (key, version) = frame::peek(&frame)?;
            let Some(api) = ApiKey::from_i16(key) else {
                return Err(FrameError::Api { key, version }.into());
            };
            if matches!(api, ApiKey::Produce | ApiKey::Fetch) {
                self.seat.carries_records();
            }
            let pipelined = api == ApiKey::Produce;
            while !self.pending.is_empty() && (!pipelined || self.pending.len() >= PIPELINE) {
                self.answer_oldest().await?;
            }
            self.start(api, version, frame, permit).await?;
        }
    }

    async fn start(
        &mut self,
        api: ApiKey,
        version: i16,
        frame: Bytes,
        permit: Permit,
    ) -> Result<(), End> {
        if let Some(answer) = dispatch::refusal(&self.broker, api, version, &frame)? {
            return Ok(self.write(answer).await?);
        }
        let whole = frame.clone();
        let (context, body) =
            Context::open(frame, api, version, self.peer, Arc::clone(&self.listener))?;
        let broker = Arc::clone(&self.broker);
        if dispatch::is_controllers(api)
            && let Some(answer) = broker.forward(&context, whole).await?
        {
            drop(permit);
            return Ok(self.write(answer).await?);
        }
        if api == ApiKey::Produce {
            if let Some(pending) = dispatch::produce(&broker, context, body).await? {
                self.pending.push_back(Box::pin(async move {
                    let answer = pending.await;
                    drop(permit);
                    answer
                }));
            }
            return Ok(());
        }
        let answering = dispatch::dispatch(&broker, context, body);
        let answer = if api == ApiKey::Fetch {
            tokio::select! {
                answer = answering => answer?,
                // It may be parked for long, and a reader loses nothing by asking another broker.
                _ = stopped(&mut self.stop) => return Err(End::Stopping),
            }
        } else {
            answering.await?
        };
        drop(permit);
        self.write(answer).await?;
        Ok(())
    }

    /// The next request, answering finished ones while it waits for it.
    async fn next_frame(&mut self) -> Result<(Bytes, Permit), End> {
        let limit = self.broker.settings().socket_request_max_bytes;
        let length = loop {
            if let Some(length) = frame::length(&self.buffer, limit)? {
                break length;
            }
            self.fill(READ_BYTES, Wait::Request).await?;
        };
        // Only what has begun to arrive counts against the memory of all: a length is quickly said.
        while self.buffer.len() < (length + 4).min(UNCOUNTED_BYTES) {
            self.fill(READ_BYTES.min(length + 4), Wait::Rest).await?;
        }
        let permit = loop {
            let budget = self.broker.request_memory.clone();
            match self.pending.front_mut() {
                None => break budget.take(length).await,
                // What this connection holds is given back by its own answers.
                Some(oldest) => tokio::select! {
                    biased;
                    answer = oldest => self.finish_oldest(answer?).await?,
                    permit = budget.take(length) => break permit,
                },
            }
        };
        while self.buffer.len() < length + 4 {
            self.fill(length + 4 - self.buffer.len(), Wait::Counted)
                .await?;
        }
        let frame = frame::take(&mut self.buffer, length);
        if self.buffer.is_empty() && self.buffer.capacity() > KEEP_BUFFER_BYTES {
            self.buffer = BytesMut::new();
        }
        Ok((frame, permit))
    }

    /// Reads at least a byte, answering finished requests meanwhile.
    async fn fill(&mut self, room: usize, wait: Wait) -> Result<(), End> {
        let patience = match wait {
            Wait::Counted => self.idle().min(STALLED),
            _ => self.idle(),
        };
        self.buffer.reserve(room);
        loop {
            let read = match self.pending.front_mut() {
                None => tokio::select! {
                    biased;
                    read = self.stream.read_buf(&mut self.buffer) => read?,
                    _ = stopped(&mut self.stop), if wait == Wait::Request => return Err(End::Stopping),
                    () = clock::sleep(patience) => return Err(End::Idle),
                },
                Some(oldest) => tokio::select! {
                    biased;
                    answer = oldest => {
                        self.finish_oldest(answer?).await?;
                        continue;
                    }
                    read = self.stream.read_buf(&mut self.buffer) => read?,
                },
            };
            return if read == 0 { Err(End::Closed) } else { Ok(()) };
        }
    }

    /// How long a connection may be silent.
    fn idle(&self) -> Duration {
        let idle = self.broker.settings().connections_max_idle_ms;
        idle.and_then(|ms| u64::try_from(ms).ok())
            .map_or(NEVER, Duration::from_millis)
    }

    fn is_stopping(&self) -> bool {
        // A dropped sender means that the broker is gone, which is the same thing.
        *self.stop.borrow() || self.stop.has_changed().is_err()
    }

    async fn answer_oldest(&mut self) -> Result<(), End> {
        if let Some(oldest) = self.pending.front_mut() {
            let answer = oldest.await?;
            self.finish_oldest(answer).await?;
        }
        Ok(())
    }

    /// Sends the answer of the oldest request, and of those after it that are done by now: what
    /// became durable together leaves in one write.
    async fn finish_oldest(&mut self, mut answers: Answer) -> Result<(), End> {
        drop(self.pending.pop_front());
        let mut failed = None;
        while let Some(next) = self.pending.front_mut() {
            match poll_fn(|context| Poll::Ready(next.as_mut().poll(context))).await {
                Poll::Pending => break,
                Poll::Ready(Ok(answer)) => answers.append(answer),
                Poll::Ready(Err(error)) => {
                    failed = Some(error);
                    break;
                }
            }
            drop(self.pending.pop_front());
        }
        self.write(answers).await?;
        failed.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Sends answers; the memory that they hold is given back afterwards. A client that takes
    /// nothing for long loses its connection: others may be waiting for that memory.
    async fn write(&mut self, answer: Answer) -> io::Result<()> {
        let mut left = answer.pieces;
        let patience = self.idle().min(STALLED);
        while let Some(first) = left.pop_front() {
            match first {
                Piece::File(range) if range.len > SMALL_BYTES => {
                    self.stream.send_file(range, patience).await?;
                }
                // Less work to copy than to send by itself.
                Piece::File(range) => left.push_front(Piece::Memory(range.read()?)),
                Piece::Memory(bytes) => {
                    left.push_front(Piece::Memory(bytes));
                    self.write_memory(&mut left, patience).await?;
                }
            }
        }
        // What TLS has not handed on yet; nothing where the socket takes bytes as they are.
        clock::timeout(patience, self.stream.flush()).await??;
        drop(answer.held);
        Ok(())
    }

    /// Sends some of what lies in memory at the beginning of `left`.
    async fn write_memory(
        &mut self,
        left: &mut VecDeque<Piece>,
        patience: Duration,
    ) -> io::Result<()> {
        for piece in left.iter_mut().take(MAX_SLICES) {
            match piece {
                Piece::Memory(_) => {}
                Piece::File(range) if range.len <= SMALL_BYTES => {
                    *piece = Piece::Memory(range.read()?);
                }
                Piece::File(_) => break,
            }
        }
        let memory = |piece| match piece {
            Piece::Memory(bytes) => Some(bytes),
            Piece::File(_) => None,
        };
        let slices: Vec<IoSlice<'_>> = left
            .iter()
            .map_while(|piece| match piece {
                Piece::Memory(bytes) => Some(IoSlice::new(bytes)),
                Piece::File(_) => None,
            })
            .take(MAX_SLICES)
            .collect();
        let more = slices.len() < left.len();
        let sending = self.stream.write_slices(&slices, more);
        let mut written = clock::timeout(patience, sending).await??;
        if written == 0 && slices.iter().any(|slice| !slice.is_empty()) {
            return Err(io::ErrorKind::WriteZero.into());
        }
        while let Some(mut first) = left.pop_front().and_then(memory) {
            if first.len() > written {
                left.push_front(Piece::Memory(first.split_off(written)));
                break;
            }
            written -= first.len();
            if !matches!(left.front(), Some(Piece::Memory(_))) {
                break;
            }
        }
        Ok(())
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A dropped sender means that the broker is gone, which is the same thing.
    drop(stop.wait_for(|stop| *stop).await);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Two;
    use std::future::{pending, ready};
    use std::sync::Mutex;
    use std::task::Context as TaskContext;
    use tidemark_env::runtime::NetThreads;
    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    /// What was written, a call at a time. Nothing ever comes from it.
    #[derive(Clone, Default)]
    struct Writes(Arc<Mutex<Vec<Vec<u8>>>>);

    impl AsyncRead for Writes {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut TaskContext<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Writes {
        fn poll_write(
            self: Pin<&mut Self>,
            context: &mut TaskContext<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(context, &[IoSlice::new(bytes)])
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            _: &mut TaskContext<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let bytes: Vec<u8> = slices
                .iter()
                .flat_map(|slice| slice.iter().copied())
                .collect();
            let count = bytes.len();
            self.0.lock().unwrap().push(bytes);
            Poll::Ready(Ok(count))
        }

        fn is_write_vectored(&self) -> bool {
            true
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn saying(text: &'static str) -> Answer {
        Answer {
            pieces: [Piece::Memory(Bytes::from_static(text.as_bytes()))].into(),
            held: Vec::new(),
        }
    }

    async fn connection(writes: &Writes) -> (Connection, Two, watch::Sender<bool>) {
        let two = Two::start(&[]).await;
        let (stopper, stop) = watch::channel(false);
        let connection = Connection {
            broker: Arc::clone(&two.broker),
            stream: Stream::new(writes.clone()),
            peer: crate::context::UNKNOWN_PEER,
            listener: Arc::from("PLAINTEXT"),
            seat: NetThreads::start(1).unwrap().seat(),
            buffer: BytesMut::new(),
            pending: VecDeque::new(),
            stop,
        };
        (connection, two, stopper)
    }

    #[tokio::test]
    async fn answers_that_are_ready_together_leave_in_one_write() {
        let writes = Writes::default();
        let (mut connection, _two, _stopper) = connection(&writes).await;
        let answers = ["one ", "two ", "three"];
        let ready_ones = answers.map(|text| -> Pending { Box::pin(ready(Ok(saying(text)))) });
        connection.pending.extend(ready_ones);
        connection.pending.push_back(Box::pin(pending()));
        connection
            .pending
            .push_back(Box::pin(ready(Ok(saying("late")))));
        assert!(connection.answer_oldest().await.is_ok());
        assert_eq!(*writes.0.lock().unwrap(), [b"one two three"]);
        assert_eq!(connection.pending.len(), 2, "the fourth holds up the fifth");
    }

    #[tokio::test]
    async fn answers_before_a_request_that_fails_are_sent() {
        let writes = Writes::default();
        let (mut connection, _two, _stopper) = connection(&writes).await;
        let failed = || FrameError::Api { key: 0, version: 0 };
        connection.pending = [
            Box::pin(ready(Ok(saying("one")))) as Pending,
            Box::pin(ready(Err(failed()))),
        ]
        .into();
        let end = connection.answer_oldest().await;
        assert!(matches!(end, Err(End::Frame(FrameError::Api { .. }))));
        assert_eq!(*writes.0.lock().unwrap(), [b"one"]);
    }
}
