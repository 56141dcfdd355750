//! Requests on their way to the active controller, and answers on their way back.

use super::{Node, requests};
use crate::broker::Broker;
use crate::context::{Context, UNKNOWN_PEER};
use crate::dispatch::{self, Answer};
use crate::errors::Errors;
use crate::net::{FrameError, peek};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;
use tidemark_env::clock;
use tidemark_log::Piece;
use tidemark_quorum::QuorumError;
use tidemark_quorum::raft::{Answer as Handled, ForwardHandler, VoterId};
use tidemark_wire::messages::{RequestHeader, ResponseHeader};
use tidemark_wire::{
    ApiKey, ErrorCode, Message, Reader, Request, Writer, request_header_version,
    response_header_version,
};

/// A controller is looked for this long before its request is given up.
const PATIENCE: Duration = Duration::from_secs(15);
/// An answer of the active controller takes no longer.
const ANSWER: Duration = Duration::from_secs(30);
/// The pauses between two tries: from this …
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// … to this.
const LAST_PAUSE: Duration = Duration::from_millis(500);
/// The format of what travels, for a later one to be told apart.
const FORMAT: u8 = 1;

/// What the active controller has said.
pub(super) struct Answered {
    /// The answer's frame, with its length in front.
    frame: Bytes,
    /// Index of the image that it tells of.
    index: u64,
}

/// Takes what other nodes forward, from when the quorum starts.
#[derive(Default)]
pub(crate) struct Inbox(OnceLock<Weak<Node>>);

impl Inbox {
    /// Whom it hands requests to.
    pub(crate) fn open(&self, node: &Arc<Node>) {
        drop(self.0.set(Arc::downgrade(node)));
    }
}

impl ForwardHandler for Inbox {
    fn handle<'a>(&'a self, _: VoterId, payload: Bytes) -> Handled<'a> {
        Box::pin(async move {
            let node = self.0.get().and_then(Weak::upgrade);
            let node = node.ok_or("this node is starting, or stopping")?;
            let travelling = Travelling::decode(payload)
                .ok_or("what was forwarded is no request of this version")?;
            let frame = node.serve(travelling).await?;
            let mut answer = BytesMut::with_capacity(8 + frame.len());
            answer.put_u64(node.metadata.image().index());
            answer.put(frame);
            Ok(answer.freeze())
        })
    }
}

/// A request as it travels.
pub(super) struct Travelling {
    /// The listener that it came in on; empty for a broker's own.
    listener: Arc<str>,
    peer: SocketAddr,
    /// Header and body.
    frame: Bytes,
}

impl Travelling {
    fn encode(&self) -> Bytes {
        let peer = self.peer.to_string();
        let mut bytes = BytesMut::with_capacity(64 + self.frame.len());
        bytes.put_u8(FORMAT);
        for text in [&*self.listener, &*peer] {
            bytes.put_u16(u16::try_from(text.len()).unwrap_or(0));
            bytes.put_slice(text.as_bytes());
        }
        bytes.put_slice(&self.frame);
        bytes.freeze()
    }

    fn decode(mut bytes: Bytes) -> Option<Travelling> {
        if bytes.try_get_u8().ok()? != FORMAT {
            return None;
        }
        let mut text = || {
            let length = usize::from(bytes.try_get_u16().ok()?);
            let text = (bytes.len() >= length).then(|| bytes.split_to(length))?;
            String::from_utf8(text.to_vec()).ok()
        };
        let (listener, peer) = (text()?, text()?);
        Some(Travelling {
            listener: listener.into(),
            peer: peer.parse().ok()?,
            frame: bytes,
        })
    }
}

impl Node {
    /// Serves a request as the controller; gives the answer's frame.
    async fn serve(self: &Arc<Self>, request: Travelling) -> Result<Bytes, String> {
        let (key, version) = peek(&request.frame).map_err(|error| error.to_string())?;
        let api = ApiKey::from_i16(key).ok_or_else(|| format!("API {key} is not known"))?;
        let is_own = request.listener.is_empty();
        let opened = Context::open(request.frame, api, version, request.peer, request.listener);
        let answer = match opened {
            Ok((context, body)) if is_own && requests::is_private(api) => {
                requests::serve(self, &context, body).await
            }
            Ok((context, body)) => match self.broker().await {
                Some(broker) => dispatch::dispatch(&broker, context, body).await,
                None => return Err("this node is starting, or stopping".to_owned()),
            },
            Err(error) => Err(error),
        };
        whole(answer.map_err(|error| error.to_string())?)
    }

    /// Has the active controller answer, whichever it is; looks for it until `deadline`.
    async fn exchange(
        self: &Arc<Self>,
        request: &Travelling,
        patience: Duration,
    ) -> Result<Answered, QuorumError> {
        let deadline = clock::monotonic() + patience;
        let mut pause = FIRST_PAUSE;
        loop {
            let left = deadline.saturating_duration_since(clock::monotonic());
            let error = match self.exchange_once(request, left.max(FIRST_PAUSE)).await {
                Ok(answered) => return Ok(answered),
                // What a node asks by itself may be carried out twice.
                Err(error @ (QuorumError::NotController { .. } | QuorumError::LeadershipLost)) => {
                    error
                }
                Err(error) => return Err(error),
            };
            if clock::monotonic() + pause >= deadline {
                return Err(error);
            }
            clock::sleep(pause).await;
            pause = LAST_PAUSE.min(pause * 2);
        }
    }

    async fn exchange_once(
        self: &Arc<Self>,
        request: &Travelling,
        patience: Duration,
    ) -> Result<Answered, QuorumError> {
        if self.metadata.is_active() {
            let here = Travelling {
                listener: Arc::clone(&request.listener),
                peer: request.peer,
                frame: request.frame.clone(),
            };
            let frame = self.serve(here).await.map_err(QuorumError::Failed)?;
            let index = self.metadata.image().index();
            return Ok(Answered { frame, index });
        }
        let patience = patience.min(ANSWER);
        let mut answer = self.metadata.forward(request.encode(), patience).await?;
        match answer.try_get_u64() {
            Ok(index) => Ok(Answered {
                frame: answer,
                index,
            }),
            Err(_) => Err(QuorumError::Failed(
                "the controller's answer is cut short".to_owned(),
            )),
        }
    }

    /// Asks the active controller on this node's own behalf, looking for it for `patience`.
    /// Gives the answer, and the index of the image that it tells of.
    pub(super) async fn ask<R: Request>(
        self: &Arc<Self>,
        request: &R,
        patience: Duration,
    ) -> Result<(R::Response, u64), QuorumError>
    where
        R::Response: Errors,
    {
        let version = R::API_KEY.stable_versions().1;
        let travelling = Travelling {
            listener: Arc::from(""),
            peer: UNKNOWN_PEER,
            frame: own_frame(request, version)?,
        };
        let deadline = clock::monotonic() + patience;
        let mut pause = FIRST_PAUSE;
        loop {
            let left = deadline.saturating_duration_since(clock::monotonic());
            let answered = self.exchange(&travelling, left).await?;
            let mut frame = answered.frame;
            frame.advance(4.min(frame.len()));
            let failed = |error: tidemark_wire::DecodeError| {
                QuorumError::Failed(format!("the controller's answer does not decode: {error}"))
            };
            let mut reader = Reader::new(frame);
            ResponseHeader::decode(&mut reader, response_header_version(R::API_KEY, version))
                .map_err(failed)?;
            let response = R::Response::decode(&mut reader, version).map_err(failed)?;
            // It was replaced while it was at it.
            let mut moved = false;
            response.each(&mut |code| moved |= code == ErrorCode::NotController.code());
            if !moved || clock::monotonic() + pause >= deadline {
                return Ok((response, answered.index));
            }
            clock::sleep(pause).await;
            pause = LAST_PAUSE.min(pause * 2);
        }
    }
}

impl Broker {
    /// Asks the active controller, whichever node it is, and waits until this broker is in step
    /// with the answer. Looks for a controller for 15 s.
    ///
    /// # Errors
    /// [`QuorumError::NotController`] when there was none; others when it may have been done.
    pub(crate) async fn ask_controller<R: Request>(
        &self,
        request: R,
    ) -> Result<R::Response, QuorumError>
    where
        R::Response: Errors,
    {
        let (response, index) = self.node.ask(&request, PATIENCE).await?;
        // The partitions follow those themselves.
        if !requests::is_private(R::API_KEY) {
            self.partitions.applied(index).await;
        }
        Ok(response)
    }

    /// Has the active controller, if it is another node, answer a client's request; `None` when
    /// this node is to answer it, be it that no controller was found.
    pub(crate) async fn forward(
        &self,
        context: &Context,
        frame: Bytes,
    ) -> Result<Option<Answer>, FrameError> {
        if self.node.metadata.is_active() {
            return Ok(None);
        }
        let request = Travelling {
            listener: Arc::clone(&context.listener),
            peer: context.peer,
            frame,
        };
        let started = clock::monotonic();
        let mut pause = FIRST_PAUSE;
        loop {
            match self.node.metadata.forward(request.encode(), ANSWER).await {
                Ok(mut answer) => {
                    let index = answer
                        .try_get_u64()
                        .map_err(|_| FrameError::Controller("cut short".to_owned()))?;
                    self.partitions.applied(index).await;
                    self.metrics.request(context.api, started.elapsed());
                    return Ok(Some(Answer {
                        pieces: VecDeque::from([Piece::Memory(answer)]),
                        held: Vec::new(),
                    }));
                }
                Err(QuorumError::NotController { .. }) => {}
                // It may have been carried out: the client finds out, as it does when a
                // connection is lost.
                Err(error) => return Err(FrameError::Controller(error.to_string())),
            }
            if started.elapsed() + pause >= PATIENCE || self.node.metadata.is_active() {
                return Ok(None);
            }
            clock::sleep(pause).await;
            pause = LAST_PAUSE.min(pause * 2);
        }
    }
}

/// Header and body of a request of this node's own.
fn own_frame<R: Request>(request: &R, version: i16) -> Result<Bytes, QuorumError> {
    let header = RequestHeader {
        request_api_key: R::API_KEY as i16,
        request_api_version: version,
        correlation_id: 0,
        client_id: Some("broker".to_owned()),
        ..Default::default()
    };
    let mut writer = Writer::new();
    let header_version = request_header_version(R::API_KEY, version);
    let encoded = header
        .encode(&mut writer, header_version)
        .and_then(|()| request.encode(&mut writer, version));
    match encoded {
        Ok(()) => Ok(writer.into_bytes()),
        Err(error) => Err(QuorumError::Failed(error.to_string())),
    }
}

/// An answer in one piece. The controller's answers have no records.
fn whole(answer: Answer) -> Result<Bytes, String> {
    let mut bytes = BytesMut::new();
    for piece in answer.pieces {
        match piece {
            Piece::Memory(part) => bytes.put(part),
            _ => return Err("the answer lies in a file".to_owned()),
        }
    }
    Ok(bytes.freeze())
}
