//! One connection to one broker: versions agreed on first, then requests pipelined, each answer
//! matched to its request by correlation id.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidemark_env::net::Stream;
use tidemark_env::task::Task;
use tidemark_env::{clock, task};
use tidemark_wire::messages::{
    ApiVersionsRequest, ApiVersionsResponse, RequestHeader, ResponseHeader,
};
use tidemark_wire::{ApiKey, ErrorCode, Message, Reader, Request, Segment, Writer};
use tidemark_wire::{request_header_version, response_header_version};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot};

use crate::error::ClientError;

/// How a connection behaves.
#[derive(Debug, Clone)]
pub struct ConnectionOptions {
    /// Sent with every request; brokers log it and hang quotas on it.
    pub client_id: String,
    /// For the connection itself and the first exchange on it.
    pub connect_timeout: Duration,
    /// For each request, unless it says otherwise.
    pub request_timeout: Duration,
    /// The largest response accepted.
    pub max_response_bytes: usize,
    /// Requests that may wait to be written before senders wait too.
    pub queued_requests: usize,
    /// Speak TLS.
    pub tls: Option<Arc<tidemark_tls::Client>>,
}

impl Default for ConnectionOptions {
    fn default() -> Self {
        Self {
            client_id: "tidemark".to_owned(),
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            max_response_bytes: 256 << 20,
            queued_requests: 16,
            tls: None,
        }
    }
}

/// The version ranges that a broker serves, by API.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BrokerVersions {
    ranges: HashMap<i16, (i16, i16)>,
    /// Features the cluster has switched on, with their level.
    pub finalized_features: Vec<(String, i16)>,
}

impl BrokerVersions {
    fn new(response: &ApiVersionsResponse) -> Self {
        Self {
            ranges: response
                .api_keys
                .iter()
                .map(|api| (api.api_key, (api.min_version, api.max_version)))
                .collect(),
            finalized_features: response
                .finalized_features
                .iter()
                .map(|feature| (feature.name.clone(), feature.max_version_level))
                .collect(),
        }
    }

    /// The oldest and newest version of an API that the broker serves.
    #[must_use]
    pub fn range(&self, api: ApiKey) -> Option<(i16, i16)> {
        self.ranges.get(&(api as i16)).copied()
    }

    /// The newest version that both sides know, not above `cap`.
    #[must_use]
    pub fn newest_common(&self, api: ApiKey, ours: (i16, i16), cap: i16) -> Option<i16> {
        let (min, max) = self.range(api)?;
        let version = max.min(ours.1).min(cap);
        (version >= min && version >= ours.0).then_some(version)
    }

    /// How many APIs the broker serves.
    #[must_use]
    pub fn api_count(&self) -> usize {
        self.ranges.len()
    }
}

type Answer = Result<Bytes, ClientError>;

/// Who is told of a request's end.
enum Waiter {
    /// Of its answer.
    Answer(oneshot::Sender<Answer>),
    /// That it was handed to the system: there will be no answer.
    Written(oneshot::Sender<Result<(), ClientError>>),
}

struct Outgoing {
    frame: Vec<Bytes>,
    correlation_id: i32,
    waiter: Waiter,
}

#[derive(Default)]
struct State {
    waiting: HashMap<i32, oneshot::Sender<Answer>>,
    closed: Option<ClientError>,
}

struct Shared {
    address: String,
    state: Mutex<State>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the connection: who waits hears why, and so does who comes later.
    fn close(&self, error: &ClientError) {
        let mut state = self.state();
        if state.closed.is_none() {
            state.closed = Some(error.clone());
        }
        for (_, answer) in state.waiting.drain() {
            // A waiter that has gone away needs no answer.
            drop(answer.send(Err(error.clone())));
        }
    }

    fn ended(&self, reason: impl Into<String>) -> ClientError {
        ClientError::Closed {
            address: self.address.clone(),
            reason: reason.into(),
        }
    }
}

/// A connection to one broker. Shared by `Arc`; dropping the last one closes it.
pub struct Connection {
    shared: Arc<Shared>,
    outgoing: mpsc::Sender<Outgoing>,
    next_correlation_id: AtomicI32,
    versions: BrokerVersions,
    options: ConnectionOptions,
    tasks: [Task<()>; 2],
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("address", &self.shared.address)
            .finish_non_exhaustive()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Connection {
    /// Connects to `address` (`host:port`) and agrees on versions.
    ///
    /// # Errors
    /// `Unreachable`, or what went wrong in the first exchange.
    pub async fn connect(address: &str, options: &ConnectionOptions) -> Result<Self, ClientError> {
        let tls = options.tls.as_deref();
        let stream = tidemark_tls::connect(address, tls, options.connect_timeout)
            .await
            .map_err(|error| ClientError::Unreachable {
                address: address.to_owned(),
                reason: error.to_string(),
            })?;
        Self::over(stream, address, options).await
    }

    /// The same over a stream that is already connected.
    ///
    /// # Errors
    /// What went wrong in the first exchange.
    pub async fn over(
        stream: Stream,
        address: &str,
        options: &ConnectionOptions,
    ) -> Result<Self, ClientError> {
        let shared = Arc::new(Shared {
            address: address.to_owned(),
            state: Mutex::default(),
        });
        let (outgoing, queue) = mpsc::channel(options.queued_requests.max(1));
        let (reader, writer) = tokio::io::split(stream);
        let tasks = [
            task::spawn("client-write", write_loop(writer, queue, shared.clone())),
            task::spawn(
                "client-read",
                read_loop(reader, shared.clone(), options.max_response_bytes),
            ),
        ];
        let mut connection = Self {
            shared,
            outgoing,
            next_correlation_id: AtomicI32::new(1),
            versions: BrokerVersions::default(),
            options: options.clone(),
            tasks,
        };
        connection.versions = connection.negotiate().await?;
        Ok(connection)
    }

    /// Asks for the broker's versions at our newest; a broker that does not know it answers in the
    /// oldest layout with UNSUPPORTED_VERSION and what it does know (KIP-511).
    async fn negotiate(&self) -> Result<BrokerVersions, ClientError> {
        let request = ApiVersionsRequest {
            client_software_name: "tidemark".to_owned(),
            client_software_version: env!("CARGO_PKG_VERSION").to_owned(),
            ..ApiVersionsRequest::default()
        };
        let mut version = ApiVersionsRequest::MAX_VERSION;
        for _ in 0..2 {
            let body = self
                .exchange(&request, version, self.options.connect_timeout)
                .await?;
            let unsupported = body.starts_with(&ErrorCode::UnsupportedVersion.code().to_be_bytes());
            let answered_at = if unsupported { 0 } else { version };
            let response: ApiVersionsResponse =
                self.decode(ApiKey::ApiVersions, answered_at, &mut Reader::new(body))?;
            if !unsupported {
                ClientError::check(response.error_code, None, || {
                    format!("ApiVersions of {}", self.address())
                })?;
                return Ok(BrokerVersions::new(&response));
            }
            version = BrokerVersions::new(&response)
                .newest_common(
                    ApiKey::ApiVersions,
                    (
                        ApiVersionsRequest::MIN_VERSION,
                        ApiVersionsRequest::MAX_VERSION,
                    ),
                    version - 1,
                )
                .unwrap_or(0);
        }
        Err(ClientError::Server {
            what: format!("ApiVersions of {}", self.address()),
            code: ErrorCode::UnsupportedVersion,
            message: Some("asked at a version that it said it serves".to_owned()),
        })
    }

    /// `host:port` of the broker.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.shared.address
    }

    /// What the broker serves.
    #[must_use]
    pub fn versions(&self) -> &BrokerVersions {
        &self.versions
    }

    /// Whether the connection has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.state().closed.is_some()
    }

    /// The version at which requests of this type go to this broker, not above `cap`.
    ///
    /// # Errors
    /// `Unsupported` when there is no common one.
    pub fn version_of<R: Request>(&self, cap: i16) -> Result<i16, ClientError> {
        self.versions
            .newest_common(R::API_KEY, (R::MIN_VERSION, R::MAX_VERSION), cap)
            .ok_or_else(|| ClientError::Unsupported {
                address: self.address().to_owned(),
                api: R::API_KEY,
                ours_min: R::MIN_VERSION,
                ours_max: R::MAX_VERSION.min(cap),
                theirs: match self.versions.range(R::API_KEY) {
                    Some((min, max)) => format!("it serves {min} to {max}"),
                    None => "it does not serve it at all".to_owned(),
                },
            })
    }

    /// Sends a request at the newest common version and waits for its answer.
    ///
    /// # Errors
    /// `Unsupported`, `Encode`, `Closed`, `Timeout`, `Decode`.
    pub async fn send<R: Request>(&self, request: &R) -> Result<R::Response, ClientError> {
        let version = self.version_of::<R>(i16::MAX)?;
        self.send_at(request, version, self.options.request_timeout)
            .await
    }

    /// Sends a request at a given version, with a timeout of its own.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn send_at<R: Request>(
        &self,
        request: &R,
        version: i16,
        timeout: Duration,
    ) -> Result<R::Response, ClientError> {
        let body = self.exchange(request, version, timeout).await?;
        self.decode(R::API_KEY, version, &mut Reader::new(body))
    }

    /// Sends a request that has no answer (a produce with acks=0); returns when the system has it.
    ///
    /// # Errors
    /// `Encode`, `Closed`. That it was sent does not mean that it arrived.
    pub async fn send_one_way<R: Request>(
        &self,
        request: &R,
        version: i16,
    ) -> Result<(), ClientError> {
        let (waiter, written) = oneshot::channel();
        self.enqueue(request, version, Waiter::Written(waiter))
            .await?;
        written
            .await
            .unwrap_or_else(|_| Err(self.shared.ended("its writer is gone")))
    }

    /// The body of the answer, its header taken off.
    async fn exchange<R: Request>(
        &self,
        request: &R,
        version: i16,
        timeout: Duration,
    ) -> Result<Bytes, ClientError> {
        let (answer, answered) = oneshot::channel();
        let exchange = async {
            let correlation_id = self
                .enqueue(request, version, Waiter::Answer(answer))
                .await?;
            let bytes = answered
                .await
                .unwrap_or_else(|_| Err(self.shared.ended("its reader is gone")))?;
            let mut reader = Reader::new(bytes);
            let header: ResponseHeader =
                ResponseHeader::decode(&mut reader, response_header_version(R::API_KEY, version))
                    .map_err(|source| self.undecodable(R::API_KEY, version, source))?;
            debug_assert_eq!(header.correlation_id, correlation_id);
            Ok(reader.rest())
        };
        match clock::timeout(timeout, exchange).await {
            Ok(result) => result,
            Err(_) => {
                let error = ClientError::Timeout {
                    address: self.address().to_owned(),
                    api: R::API_KEY,
                    after_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
                };
                // Answers come in order: behind one that does not come, none will.
                self.shared.close(&error);
                for task in &self.tasks {
                    task.abort();
                }
                Err(error)
            }
        }
    }

    async fn enqueue<R: Request>(
        &self,
        request: &R,
        version: i16,
        waiter: Waiter,
    ) -> Result<i32, ClientError> {
        let correlation_id = self.next_correlation_id.fetch_add(1, Ordering::Relaxed);
        let frame = frame(request, version, correlation_id, &self.options.client_id)?;
        if let Some(error) = self.shared.state().closed.clone() {
            return Err(error);
        }
        let outgoing = Outgoing {
            frame,
            correlation_id,
            waiter,
        };
        self.outgoing.send(outgoing).await.map_err(|_| {
            let closed = self.shared.state().closed.clone();
            closed.unwrap_or_else(|| self.shared.ended("its writer is gone"))
        })?;
        Ok(correlation_id)
    }

    fn decode<M: Message>(
        &self,
        api: ApiKey,
        version: i16,
        reader: &mut Reader,
    ) -> Result<M, ClientError> {
        let message =
            M::decode(reader, version).map_err(|source| self.undecodable(api, version, source))?;
        Ok(message)
    }

    fn undecodable(
        &self,
        api: ApiKey,
        version: i16,
        source: tidemark_wire::DecodeError,
    ) -> ClientError {
        ClientError::Decode {
            address: self.address().to_owned(),
            api,
            version,
            source,
        }
    }
}

/// Frames up to this size are written as one piece.
const ONE_PIECE_BYTES: usize = 64 << 10;

/// Length, header and body of a request; large payloads stay where they are.
fn frame<R: Request>(
    request: &R,
    version: i16,
    correlation_id: i32,
    client_id: &str,
) -> Result<Vec<Bytes>, ClientError> {
    let header = RequestHeader {
        request_api_key: R::API_KEY as i16,
        request_api_version: version,
        correlation_id,
        client_id: Some(client_id.to_owned()),
        ..RequestHeader::default()
    };
    let mut writer = Writer::new();
    header
        .encode(&mut writer, request_header_version(R::API_KEY, version))
        .and_then(|()| request.encode(&mut writer, version))
        .map_err(|source| ClientError::Encode {
            api: R::API_KEY,
            version,
            source,
        })?;
    let bytes = writer.written();
    let length = i32::try_from(bytes).map_err(|_| {
        ClientError::Invalid(format!(
            "a {} of {bytes} bytes is too large to send",
            R::NAME
        ))
    })?;
    let length = Bytes::copy_from_slice(&length.to_be_bytes());
    // A request has all of its records here.
    let segments = writer.into_segments();
    let bodies = segments.into_iter().filter_map(Segment::into_bytes);
    let pieces: Vec<Bytes> = std::iter::once(length).chain(bodies).collect();
    if bytes <= ONE_PIECE_BYTES {
        return Ok(vec![pieces.concat().into()]);
    }
    Ok(pieces)
}

async fn write_loop(
    mut writer: WriteHalf<Stream>,
    mut queue: mpsc::Receiver<Outgoing>,
    shared: Arc<Shared>,
) {
    while let Some(outgoing) = queue.recv().await {
        let told = match outgoing.waiter {
            Waiter::Answer(answer) => {
                let mut state = shared.state();
                if let Some(error) = &state.closed {
                    drop(answer.send(Err(error.clone())));
                    continue;
                }
                state.waiting.insert(outgoing.correlation_id, answer);
                None
            }
            Waiter::Written(told) => Some(told),
        };
        let written = async {
            for piece in &outgoing.frame {
                writer.write_all(piece).await?;
            }
            writer.flush().await
        };
        let result = written
            .await
            .map_err(|error| shared.ended(error.to_string()));
        if let Some(told) = told {
            // A waiter that has gone away need not be told.
            drop(told.send(result.clone()));
        }
        if let Err(error) = result {
            shared.close(&error);
            // The queue closes with this task; what is in it is answered by the dropped senders.
            return;
        }
    }
}

async fn read_loop(mut reader: ReadHalf<Stream>, shared: Arc<Shared>, max_response_bytes: usize) {
    let error = loop {
        match read_frame(&mut reader, &shared, max_response_bytes).await {
            Ok(frame) => {
                let Some(id) = frame.first_chunk::<4>().map(|id| i32::from_be_bytes(*id)) else {
                    break shared.ended("it sent a response of less than four bytes");
                };
                let Some(answer) = shared.state().waiting.remove(&id) else {
                    break shared.ended(format!("it answered request {id}, which was not asked"));
                };
                // A waiter that has gone away needs no answer.
                drop(answer.send(Ok(frame)));
            }
            Err(error) => break error,
        }
    };
    shared.close(&error);
}

async fn read_frame(
    reader: &mut ReadHalf<Stream>,
    shared: &Shared,
    max_response_bytes: usize,
) -> Result<Bytes, ClientError> {
    let ended = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => shared.ended("the broker closed it"),
        _ => shared.ended(error.to_string()),
    };
    let length = reader.read_i32().await.map_err(ended)?;
    let bytes = usize::try_from(length)
        .ok()
        .filter(|bytes| *bytes <= max_response_bytes)
        .ok_or_else(|| ClientError::ResponseTooLarge {
            address: shared.address.clone(),
            bytes: i64::from(length),
            limit: max_response_bytes,
        })?;
    // Grows with what arrives, not with what is announced.
    let mut frame = BytesMut::with_capacity(bytes.min(1 << 20));
    let mut limited = reader.take(bytes as u64);
    while frame.len() < bytes {
        if limited.read_buf(&mut frame).await.map_err(ended)? == 0 {
            return Err(shared.ended("the broker closed it in the middle of a response"));
        }
    }
    Ok(frame.freeze())
}

#[cfg(test)]
mod tests;
