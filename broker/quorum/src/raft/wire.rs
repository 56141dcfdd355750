//! What the quorum's nodes say to each other: a hello, then requests and answers in turn,
//! each in a frame of length, checksum and body.
//!
//! Frames carry a checksum of their own: entries go from here to a disk and into the image,
//! and that of TCP lets too much through. A length is checked before anything is read, and
//! memory grows with what arrives.

use std::io;

use bytes::{Bytes, BytesMut};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};
use tidemark_env::net::Stream;
use tidemark_model::CodecError;
use tidemark_wire::Uuid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::codec::{Reader, Writer};
use super::frame::{be_u32, crc32c};
use super::types::{Entry, LogId, TypeConfig, Vote, VoterId};

/// First bytes of a connection.
const MAGIC: [u8; 4] = *b"TMQR";
/// Version of what follows. Both ends must have the same one.
pub(super) const PROTOCOL_VERSION: u32 = 1;
/// Longest frame, in bytes.
pub(super) const MOST_FRAME_BYTES: usize = 32 * 1024 * 1024;
/// A frame is read in pieces of this size, so that its length alone reserves nothing more.
const PIECE_BYTES: usize = 64 * 1024;
/// Longest text of an error.
const MOST_TEXT_BYTES: usize = 4096;
/// More entries than a request has.
const MOST_ENTRIES: usize = 1 << 20;

/// How a connection begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) version: u32,
    pub(super) cluster_id: Uuid,
    /// Who connects; an observer has no directory.
    pub(super) from: VoterId,
    /// Who is meant; `None` for whoever is there.
    pub(super) to: Option<VoterId>,
}

impl Hello {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.out.extend_from_slice(&MAGIC);
        // The version comes first, so that it is understood whatever follows.
        writer.u32(self.version);
        writer.uuid(self.cluster_id);
        writer.voter_id(self.from);
        writer.option(self.to, Writer::voter_id);
        writer.out
    }

    /// `Ok(Err(version))` for one of another version.
    pub(super) fn decode(bytes: &Bytes) -> Result<Result<Hello, u32>, CodecError> {
        let Some(rest) = bytes.strip_prefix(&MAGIC) else {
            return Err(CodecError::Invalid("the first bytes of a hello"));
        };
        let mut reader = Reader::new(bytes.slice_ref(rest));
        let version = reader.u32()?;
        if version != PROTOCOL_VERSION {
            return Ok(Err(version));
        }
        let hello = Hello {
            version,
            cluster_id: reader.uuid()?,
            from: reader.voter_id()?,
            to: reader.option(Reader::voter_id)?,
        };
        reader.finish("a hello")?;
        Ok(Ok(hello))
    }
}

/// What a hello is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Welcome {
    /// Go on: this is who is here.
    Come(VoterId),
    /// This one speaks that version.
    Version(u32),
    /// This one is of that cluster.
    Cluster(Uuid),
    /// This one is not who was meant.
    Other(VoterId),
}

impl Welcome {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        match self {
            Welcome::Come(id) => {
                writer.u8(0);
                writer.voter_id(*id);
            }
            Welcome::Version(version) => {
                writer.u8(1);
                writer.u32(*version);
            }
            Welcome::Cluster(id) => {
                writer.u8(2);
                writer.uuid(*id);
            }
            Welcome::Other(id) => {
                writer.u8(3);
                writer.voter_id(*id);
            }
        }
        writer.out
    }

    pub(super) fn decode(bytes: Bytes) -> Result<Welcome, CodecError> {
        let mut reader = Reader::new(bytes);
        Ok(match reader.u8()? {
            0 => Welcome::Come(reader.voter_id()?),
            1 => Welcome::Version(reader.u32()?),
            2 => Welcome::Cluster(reader.uuid()?),
            3 => Welcome::Other(reader.voter_id()?),
            _ => return Err(CodecError::Invalid("the answer to a hello")),
        })
    }
}

/// A question.
#[derive(Debug)]
pub(super) enum Request {
    Append(AppendEntriesRequest<TypeConfig>),
    Vote(VoteRequest<VoterId>),
    /// A part of a snapshot, in order, on one connection.
    Install {
        vote: Vote,
        total: u64,
        offset: u64,
        part: Bytes,
    },
    /// An observer's: what was committed after `after`.
    Fetch {
        after: Option<LogId>,
        max_bytes: u32,
        max_wait_ms: u32,
    },
    /// An observer's: a part of the snapshot at `last`.
    FetchSnapshot {
        last: LogId,
        offset: u64,
        max_bytes: u32,
    },
    /// Something for the controller, which only server and controller understand.
    Forward(Bytes),
    Status,
    /// Of a node that was a member and hears of no leader: it wants to follow again, without a
    /// vote, and is to be found at `address`.
    Join {
        address: String,
    },
}

/// Where a node stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeStatus {
    /// Who answers.
    pub voter: VoterId,
    /// Its term.
    pub term: u64,
    /// Whom it follows.
    pub leader: Option<VoterId>,
    /// Its last entry.
    pub last: Option<LogId>,
    /// The last entry that it has folded in.
    pub applied: Option<LogId>,
}

/// An answer.
#[derive(Debug)]
pub(super) enum Response {
    Append(AppendEntriesResponse<VoterId>),
    Vote(VoteResponse<VoterId>),
    /// A part has arrived; after the last one, what the receiver's vote is.
    Installed(Option<Vote>),
    Fetched {
        entries: Vec<Entry>,
        /// The last entry that is committed there.
        committed: Option<LogId>,
        leader: Option<VoterId>,
    },
    /// What was asked for is only in the snapshot at `last`.
    Snapshot {
        last: LogId,
        total: u64,
    },
    SnapshotPart(Bytes),
    Forwarded(Bytes),
    /// The one who was asked does not lead.
    NotLeader(Option<VoterId>),
    Status(NodeStatus),
    /// It did not work, and why.
    Failed(String),
    /// The leader counts whoever asked among the members.
    Joined,
}

impl Request {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        match self {
            Request::Append(request) => {
                writer.u8(0);
                writer.vote(request.vote);
                writer.option(request.prev_log_id, Writer::log_id);
                writer.option(request.leader_commit, Writer::log_id);
                writer.length(request.entries.len());
                for entry in &request.entries {
                    writer.entry(entry);
                }
            }
            Request::Vote(request) => {
                writer.u8(1);
                writer.vote(request.vote);
                writer.option(request.last_log_id, Writer::log_id);
            }
            Request::Install {
                vote,
                total,
                offset,
                part,
            } => {
                writer.u8(2);
                writer.vote(*vote);
                writer.u64(*total);
                writer.u64(*offset);
                writer.bytes(part);
            }
            Request::Fetch {
                after,
                max_bytes,
                max_wait_ms,
            } => {
                writer.u8(3);
                writer.option(*after, Writer::log_id);
                writer.u32(*max_bytes);
                writer.u32(*max_wait_ms);
            }
            Request::FetchSnapshot {
                last,
                offset,
                max_bytes,
            } => {
                writer.u8(4);
                writer.log_id(*last);
                writer.u64(*offset);
                writer.u32(*max_bytes);
            }
            Request::Forward(payload) => {
                writer.u8(5);
                writer.bytes(payload);
            }
            Request::Status => writer.u8(6),
            Request::Join { address } => {
                writer.u8(7);
                writer.bytes(address.as_bytes());
            }
        }
        writer.out
    }

    pub(super) fn decode(bytes: Bytes) -> Result<Request, CodecError> {
        let mut reader = Reader::new(bytes);
        let request = match reader.u8()? {
            0 => {
                let vote = reader.vote()?;
                let prev_log_id = reader.option(Reader::log_id)?;
                let leader_commit = reader.option(Reader::log_id)?;
                Request::Append(AppendEntriesRequest {
                    vote,
                    prev_log_id,
                    leader_commit,
                    entries: take_entries(&mut reader)?,
                })
            }
            1 => Request::Vote(VoteRequest {
                vote: reader.vote()?,
                last_log_id: reader.option(Reader::log_id)?,
            }),
            2 => Request::Install {
                vote: reader.vote()?,
                total: reader.u64()?,
                offset: reader.u64()?,
                part: reader.bytes("a part of a snapshot")?,
            },
            3 => Request::Fetch {
                after: reader.option(Reader::log_id)?,
                max_bytes: reader.u32()?,
                max_wait_ms: reader.u32()?,
            },
            4 => Request::FetchSnapshot {
                last: reader.log_id()?,
                offset: reader.u64()?,
                max_bytes: reader.u32()?,
            },
            5 => Request::Forward(reader.bytes("what is forwarded")?),
            6 => Request::Status,
            7 => Request::Join {
                address: reader.text(MOST_TEXT_BYTES, "an address")?,
            },
            _ => return Err(CodecError::Invalid("the kind of a request")),
        };
        reader.finish("a request")?;
        Ok(request)
    }
}

fn take_entries(reader: &mut Reader) -> Result<Vec<Entry>, CodecError> {
    let count = reader.count(37, MOST_ENTRIES, "entries")?;
    let mut entries: Vec<Entry> = Vec::new();
    for _ in 0..count {
        entries.push(reader.entry()?);
    }
    Ok(entries)
}

impl Response {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        match self {
            Response::Append(response) => {
                writer.u8(0);
                match response {
                    AppendEntriesResponse::Success => writer.u8(0),
                    AppendEntriesResponse::PartialSuccess(last) => {
                        writer.u8(1);
                        writer.option(*last, Writer::log_id);
                    }
                    AppendEntriesResponse::Conflict => writer.u8(2),
                    AppendEntriesResponse::HigherVote(vote) => {
                        writer.u8(3);
                        writer.vote(*vote);
                    }
                }
            }
            Response::Vote(response) => {
                writer.u8(1);
                writer.vote(response.vote);
                writer.bool(response.vote_granted);
                writer.option(response.last_log_id, Writer::log_id);
            }
            Response::Installed(vote) => {
                writer.u8(2);
                writer.option(*vote, Writer::vote);
            }
            Response::Fetched {
                entries,
                committed,
                leader,
            } => {
                writer.u8(3);
                writer.option(*committed, Writer::log_id);
                writer.option(*leader, Writer::voter_id);
                writer.length(entries.len());
                for entry in entries {
                    writer.entry(entry);
                }
            }
            Response::Snapshot { last, total } => {
                writer.u8(4);
                writer.log_id(*last);
                writer.u64(*total);
            }
            Response::SnapshotPart(part) => {
                writer.u8(5);
                writer.bytes(part);
            }
            Response::Forwarded(payload) => {
                writer.u8(6);
                writer.bytes(payload);
            }
            Response::NotLeader(leader) => {
                writer.u8(7);
                writer.option(*leader, Writer::voter_id);
            }
            Response::Status(status) => {
                writer.u8(8);
                writer.voter_id(status.voter);
                writer.u64(status.term);
                writer.option(status.leader, Writer::voter_id);
                writer.option(status.last, Writer::log_id);
                writer.option(status.applied, Writer::log_id);
            }
            Response::Failed(text) => {
                writer.u8(9);
                let mut most = text.len().min(MOST_TEXT_BYTES);
                while !text.is_char_boundary(most) {
                    most -= 1;
                }
                writer.bytes(&text.as_bytes()[..most]);
            }
            Response::Joined => writer.u8(10),
        }
        writer.out
    }

    pub(super) fn decode(bytes: Bytes) -> Result<Response, CodecError> {
        let mut reader = Reader::new(bytes);
        let response = match reader.u8()? {
            0 => Response::Append(match reader.u8()? {
                0 => AppendEntriesResponse::Success,
                1 => AppendEntriesResponse::PartialSuccess(reader.option(Reader::log_id)?),
                2 => AppendEntriesResponse::Conflict,
                3 => AppendEntriesResponse::HigherVote(reader.vote()?),
                _ => return Err(CodecError::Invalid("an answer to entries")),
            }),
            1 => Response::Vote(VoteResponse {
                vote: reader.vote()?,
                vote_granted: reader.bool()?,
                last_log_id: reader.option(Reader::log_id)?,
            }),
            2 => Response::Installed(reader.option(Reader::vote)?),
            3 => {
                let committed = reader.option(Reader::log_id)?;
                let leader = reader.option(Reader::voter_id)?;
                Response::Fetched {
                    entries: take_entries(&mut reader)?,
                    committed,
                    leader,
                }
            }
            4 => Response::Snapshot {
                last: reader.log_id()?,
                total: reader.u64()?,
            },
            5 => Response::SnapshotPart(reader.bytes("a part of a snapshot")?),
            6 => Response::Forwarded(reader.bytes("what was forwarded")?),
            7 => Response::NotLeader(reader.option(Reader::voter_id)?),
            8 => Response::Status(NodeStatus {
                voter: reader.voter_id()?,
                term: reader.u64()?,
                leader: reader.option(Reader::voter_id)?,
                last: reader.option(Reader::log_id)?,
                applied: reader.option(Reader::log_id)?,
            }),
            9 => Response::Failed(reader.text(MOST_TEXT_BYTES, "the text of an error")?),
            10 => Response::Joined,
            _ => return Err(CodecError::Invalid("the kind of an answer")),
        };
        reader.finish("an answer")?;
        Ok(response)
    }
}

/// Sends one frame.
pub(super) async fn send(stream: &mut Stream, body: &[u8]) -> io::Result<()> {
    if body.len() > MOST_FRAME_BYTES {
        return Err(invalid(format!(
            "a frame of {} bytes is longer than {MOST_FRAME_BYTES}",
            body.len()
        )));
    }
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut head = [0; 8];
    head[..4].copy_from_slice(&length);
    head[4..].copy_from_slice(&crc32c(&[&length, body]).to_be_bytes());
    stream.write_all(&head).await?;
    stream.write_all(body).await?;
    stream.flush().await
}

/// Waits for one frame; `None` when the other end has closed in between two.
pub(super) async fn receive(stream: &mut Stream) -> io::Result<Option<Bytes>> {
    let mut head = [0; 8];
    if stream.read(&mut head[..1]).await? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut head[1..]).await?;
    let length = be_u32(&head).unwrap_or(u32::MAX);
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > MOST_FRAME_BYTES {
        return Err(invalid(format!(
            "a frame of {length} bytes is announced, and {MOST_FRAME_BYTES} is the most"
        )));
    }
    let mut body = BytesMut::new();
    while body.len() < length {
        let from = body.len();
        body.resize(length.min(from + PIECE_BYTES), 0);
        stream.read_exact(&mut body[from..]).await?;
    }
    if be_u32(&head[4..]) != Some(crc32c(&[&head[..4], &body])) {
        return Err(invalid("the checksum of a frame is wrong".to_owned()));
    }
    Ok(Some(body.freeze()))
}

pub(super) fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}
