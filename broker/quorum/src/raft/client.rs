//! Asking another node of the quorum.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::error::{
    Fatal, NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable,
};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{RaftNetwork, RaftNetworkFactory, Snapshot};
use tidemark_env::clock;
use tidemark_env::net::Stream;
use tidemark_wire::Uuid;

use super::types::{TypeConfig, Vote, VoterId, VoterNode};
use super::wire::{Hello, PROTOCOL_VERSION, Request, Response, Welcome, invalid, receive, send};

/// A connection may take so long to come about, hello included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Snapshots travel in parts of this size.
pub(super) const PART_BYTES: usize = 1024 * 1024;

/// What a [`Dial`] gives.
pub type Dialled<'a> = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send + 'a>>;

/// How to reach an address; TCP, or a simulation's network.
pub trait Dial: Send + Sync + 'static {
    /// Connects to `address` (`host:port`).
    fn dial<'a>(&'a self, address: &'a str, timeout: Duration) -> Dialled<'a>;
}

/// TCP.
#[derive(Debug, Clone, Copy, Default)]
pub struct TcpDial;

impl Dial for TcpDial {
    fn dial<'a>(&'a self, address: &'a str, timeout: Duration) -> Dialled<'a> {
        Box::pin(tidemark_env::net::connect(address, timeout))
    }
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The connection, or what came over it.
    #[error("quorum listener {address}: {source}")]
    Io {
        /// Who was called.
        address: String,
        /// How it failed.
        #[source]
        source: io::Error,
    },
    /// The other end does not take this node's calls.
    #[error("quorum listener {address} {reason}")]
    Refused {
        /// Who was called.
        address: String,
        /// Why.
        reason: String,
    },
}

/// Who calls, and how.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) dial: Arc<dyn Dial>,
    pub(super) cluster_id: Uuid,
    pub(super) me: VoterId,
}

/// A way to one other node, with at most one connection, which is kept between calls.
pub(super) struct Link {
    caller: Caller,
    address: String,
    /// Who must be there.
    to: Option<VoterId>,
    idle: Option<Stream>,
}

impl Link {
    pub(super) fn new(caller: Caller, address: String, to: Option<VoterId>) -> Link {
        Link {
            caller,
            address,
            to,
            idle: None,
        }
    }

    /// Asks and waits. This future may be dropped at any time: the connection is put back
    /// only after a whole answer, so that no call gets the answer to another.
    pub(super) async fn call(
        &mut self,
        request: &Request,
        timeout: Duration,
    ) -> Result<Response, CallError> {
        let mut stream = match self.idle.take() {
            Some(stream) => stream,
            None => self.connect().await?,
        };
        let exchange = async {
            send(&mut stream, &request.encode()).await?;
            let answer = receive(&mut stream).await?;
            let answer = answer.ok_or(io::ErrorKind::UnexpectedEof)?;
            Response::decode(answer).map_err(|error| invalid(error.to_string()))
        };
        let response = match clock::timeout(timeout, exchange).await {
            Ok(answered) => answered,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        let response = response.map_err(|source| self.io(source))?;
        self.idle = Some(stream);
        Ok(response)
    }

    /// Connects, if it is not connected yet.
    pub(super) async fn open(&mut self) -> Result<(), CallError> {
        if self.idle.is_none() {
            self.idle = Some(self.connect().await?);
        }
        Ok(())
    }

    async fn connect(&self) -> Result<Stream, CallError> {
        let hello = Hello {
            version: PROTOCOL_VERSION,
            cluster_id: self.caller.cluster_id,
            from: self.caller.me,
            to: self.to,
        };
        let connecting = async {
            let mut stream = self
                .caller
                .dial
                .dial(&self.address, CONNECT_TIMEOUT)
                .await?;
            send(&mut stream, &hello.encode()).await?;
            let welcome = receive(&mut stream).await?;
            let welcome = welcome.ok_or(io::ErrorKind::UnexpectedEof)?;
            let welcome = Welcome::decode(welcome).map_err(|error| invalid(error.to_string()))?;
            Ok((stream, welcome))
        };
        let connected = match clock::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        let (stream, welcome) = connected.map_err(|source| self.io(source))?;
        let reason = match welcome {
            Welcome::Come(_) => return Ok(stream),
            Welcome::Version(version) => format!(
                "speaks version {version} of the quorum's protocol, and this node version {PROTOCOL_VERSION}: run the same version of Tidemark on both"
            ),
            Welcome::Cluster(cluster) => format!(
                "is of cluster {cluster}, and this node of cluster {}",
                self.caller.cluster_id
            ),
            Welcome::Other(other) => format!(
                "is {other}, and {} was expected: a directory that was replaced joins as a new voter",
                self.to.unwrap_or_default()
            ),
        };
        Err(CallError::Refused {
            address: self.address.clone(),
            reason,
        })
    }

    fn io(&self, source: io::Error) -> CallError {
        CallError::Io {
            address: self.address.clone(),
            source,
        }
    }

    fn unexpected(&self, response: &Response) -> CallError {
        let reason = match response {
            Response::Failed(text) => format!("cannot: {text}"),
            _ => "answers something else than was asked".to_owned(),
        };
        CallError::Refused {
            address: self.address.clone(),
            reason,
        }
    }
}

/// Makes openraft's ways to other members.
pub(super) struct Links(pub(super) Caller);

impl RaftNetworkFactory<TypeConfig> for Links {
    type Network = Link;

    async fn new_client(&mut self, target: VoterId, node: &VoterNode) -> Link {
        Link::new(self.0.clone(), node.address.clone(), Some(target))
    }
}

type RpcError = RPCError<VoterId, VoterNode, RaftError<VoterId>>;

fn rpc_error(error: &CallError) -> RpcError {
    match error {
        // Time has passed, so another try may follow at once.
        CallError::Io { source, .. } if source.kind() == io::ErrorKind::TimedOut => {
            RPCError::Network(NetworkError::new(error))
        }
        // Whoever accepts and closes at once would be asked without a pause: backed off.
        CallError::Io { .. } | CallError::Refused { .. } => {
            RPCError::Unreachable(Unreachable::new(error))
        }
    }
}

fn streaming_error(error: &CallError) -> StreamingError<TypeConfig, Fatal<VoterId>> {
    match rpc_error(error) {
        RPCError::Unreachable(error) => StreamingError::Unreachable(error),
        _ => StreamingError::Network(NetworkError::new(error)),
    }
}

impl RaftNetwork<TypeConfig> for Link {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<VoterId>, RpcError> {
        match self
            .call(&Request::Append(request), option.hard_ttl())
            .await
        {
            Ok(Response::Append(response)) => Ok(response),
            Ok(other) => Err(rpc_error(&self.unexpected(&other))),
            Err(error) => Err(rpc_error(&error)),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<VoterId>,
        option: RPCOption,
    ) -> Result<VoteResponse<VoterId>, RpcError> {
        match self.call(&Request::Vote(request), option.hard_ttl()).await {
            Ok(Response::Vote(response)) => Ok(response),
            Ok(other) => Err(rpc_error(&self.unexpected(&other))),
            Err(error) => Err(rpc_error(&error)),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<TypeConfig>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<VoterId>, StreamingError<TypeConfig, Fatal<VoterId>>> {
        let bytes = snapshot.snapshot.0;
        let sending = self.send_snapshot(vote, &bytes, option.hard_ttl());
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = sending => match sent {
                Ok(vote) => Ok(SnapshotResponse::new(vote)),
                Err(error) => Err(streaming_error(&error)),
            },
        }
    }
}

impl Link {
    /// `patience` is for each part.
    async fn send_snapshot(
        &mut self,
        vote: Vote,
        bytes: &Bytes,
        patience: Duration,
    ) -> Result<Vote, CallError> {
        let mut offset = 0;
        // A part that was not answered is not sent again: the receiver begins anew with
        // the connection.
        self.idle = None;
        loop {
            let part = bytes.slice(offset..bytes.len().min(offset + PART_BYTES));
            let length = part.len();
            let request = Request::Install {
                vote,
                total: bytes.len() as u64,
                offset: offset as u64,
                part,
            };
            offset += length;
            match self.call(&request, patience).await? {
                Response::Installed(Some(vote)) => return Ok(vote),
                Response::Installed(None) if offset < bytes.len() => {}
                other => return Err(self.unexpected(&other)),
            }
        }
    }
}
