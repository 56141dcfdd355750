//! Answering other nodes of the quorum, and observers.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use openraft::Snapshot;
use tidemark_env::clock::{self, Instant};
use tidemark_env::net::Stream;
use tokio::sync::watch;

use super::active::Activity;
use super::fold::Fold;
use super::identity::VoterIdentity;
use super::members::admit;
use super::snapshot::{self, MOST_SNAPSHOT_BYTES, SnapshotBytes};
use super::store::LogStore;
use super::types::{LogId, Raft, TypeConfig, Vote, VoterId};
use super::wire::{Hello, NodeStatus, Request, Response, Welcome, receive, send};

/// A connection says hello within this time.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that asks nothing for so long is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);
/// An answer that is not taken in so long ends the connection.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// An observer waits no longer than this for something new.
const MOST_WAIT: Duration = Duration::from_secs(30);
/// Most bytes of entries, or of a snapshot, that go out at once.
const MOST_FETCH_BYTES: usize = 4 * 1024 * 1024;
/// Connections beyond this are closed at once.
const MOST_CONNECTIONS: usize = 4096;

/// What a [`ForwardHandler`] gives.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Result<Bytes, String>> + Send + 'a>>;

/// What takes requests that other nodes forward to the active controller.
pub trait ForwardHandler: Send + Sync + 'static {
    /// Answers `payload`, which `from` sent. The text of an error goes back to it.
    fn handle<'a>(&'a self, from: VoterId, payload: Bytes) -> Answer<'a>;
}

/// For a quorum to which nothing is forwarded.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoForwarding;

impl ForwardHandler for NoForwarding {
    fn handle<'a>(&'a self, _: VoterId, _: Bytes) -> Answer<'a> {
        Box::pin(async { Err("nothing is forwarded here".to_owned()) })
    }
}

pub(super) struct Server {
    pub(super) identity: VoterIdentity,
    pub(super) raft: Raft,
    pub(super) store: LogStore,
    pub(super) folds: watch::Receiver<Fold>,
    pub(super) activity: Activity,
    pub(super) forward: Arc<dyn ForwardHandler>,
    pub(super) connections: AtomicUsize,
    /// When a leader was heard last, or this node started.
    pub(super) heard: Mutex<Instant>,
}

struct Connected<'a>(&'a AtomicUsize);

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A snapshot that is arriving.
struct Incoming {
    vote: Vote,
    total: u64,
    bytes: BytesMut,
}

impl Server {
    /// Serves one connection until it ends.
    pub(super) async fn serve(&self, mut stream: Stream) {
        let before = self.connections.fetch_add(1, Ordering::Relaxed);
        let _connected = Connected(&self.connections);
        if before >= MOST_CONNECTIONS {
            tracing::warn!(
                connections = before,
                "the quorum listener has too many connections: one more was closed"
            );
            return;
        }
        if let Err(error) = self.talk(&mut stream).await {
            tracing::debug!(%error, "a connection to the quorum listener ended");
        }
    }

    async fn talk(&self, stream: &mut Stream) -> std::io::Result<()> {
        let Some(from) = clock::timeout(HELLO_TIMEOUT, self.welcome(stream)).await?? else {
            return Ok(());
        };
        let mut incoming = None;
        loop {
            let Some(frame) = clock::timeout(IDLE_TIMEOUT, receive(stream)).await?? else {
                return Ok(());
            };
            let response = match Request::decode(frame) {
                Ok(request) => self.answer(from, request, &mut incoming).await,
                Err(error) => Response::Failed(error.to_string()),
            };
            clock::timeout(SEND_TIMEOUT, send(stream, &response.encode())).await??;
        }
    }

    async fn welcome(&self, stream: &mut Stream) -> std::io::Result<Option<VoterId>> {
        let Some(frame) = receive(stream).await? else {
            return Ok(None);
        };
        let me = self.identity.voter;
        let (welcome, from) = match Hello::decode(&frame) {
            Err(error) => return Err(super::wire::invalid(error.to_string())),
            Ok(Err(_)) => (Welcome::Version(super::wire::PROTOCOL_VERSION), None),
            Ok(Ok(hello)) if hello.cluster_id != self.identity.cluster_id => {
                (Welcome::Cluster(self.identity.cluster_id), None)
            }
            Ok(Ok(hello)) if hello.to.is_some_and(|to| to != me) => (Welcome::Other(me), None),
            Ok(Ok(hello)) => (Welcome::Come(me), Some(hello.from)),
        };
        send(stream, &welcome.encode()).await?;
        Ok(from)
    }

    async fn answer(
        &self,
        from: VoterId,
        request: Request,
        incoming: &mut Option<Incoming>,
    ) -> Response {
        match request {
            Request::Append(request) if request.vote.leader_id.node_id == from => {
                *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = clock::monotonic();
                match self.raft.append_entries(request).await {
                    Ok(response) => Response::Append(response),
                    Err(error) => Response::Failed(error.to_string()),
                }
            }
            Request::Vote(request) if request.vote.leader_id.node_id == from => {
                match self.raft.vote(request).await {
                    Ok(response) => Response::Vote(response),
                    Err(error) => Response::Failed(error.to_string()),
                }
            }
            Request::Install {
                vote,
                total,
                offset,
                part,
            } if vote.leader_id.node_id == from => {
                match self.install(incoming, vote, total, offset, &part).await {
                    Ok(vote) => Response::Installed(vote),
                    Err(text) => Response::Failed(text),
                }
            }
            Request::Append(_) | Request::Vote(_) | Request::Install { .. } => {
                Response::Failed(format!("{from} speaks for another node"))
            }
            Request::Fetch {
                after,
                max_bytes,
                max_wait_ms,
            } => {
                let wait = Duration::from_millis(u64::from(max_wait_ms)).min(MOST_WAIT);
                let most = usize::try_from(max_bytes).unwrap_or(usize::MAX);
                self.fetch(after, most.min(MOST_FETCH_BYTES), wait).await
            }
            Request::FetchSnapshot {
                last,
                offset,
                max_bytes,
            } => self.snapshot_part(last, offset, max_bytes),
            Request::Forward(payload) => match self.activity.epoch() {
                None => Response::NotLeader(self.leader()),
                Some(_) => match self.forward.handle(from, payload).await {
                    Ok(answer) => Response::Forwarded(answer),
                    Err(text) => Response::Failed(text),
                },
            },
            Request::Status => Response::Status(self.status()),
            Request::Join { address } => match self.activity.epoch() {
                None => Response::NotLeader(self.leader()),
                Some(_) => match admit(&self.raft, from, address).await {
                    Ok(()) => Response::Joined,
                    Err(error) => Response::Failed(error.to_string()),
                },
            },
        }
    }

    /// How long no leader has been heard.
    pub(super) fn unheard(&self) -> Duration {
        let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        clock::monotonic().saturating_duration_since(heard)
    }

    fn leader(&self) -> Option<VoterId> {
        self.raft.metrics().borrow().current_leader
    }

    pub(super) fn status(&self) -> NodeStatus {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        NodeStatus {
            voter: self.identity.voter,
            term: metrics.current_term,
            leader: metrics.current_leader,
            last: self.store.last(),
            applied: metrics.last_applied,
        }
    }

    /// Takes in a part; after the last one, this node's vote.
    async fn install(
        &self,
        incoming: &mut Option<Incoming>,
        vote: Vote,
        total: u64,
        offset: u64,
        part: &[u8],
    ) -> Result<Option<Vote>, String> {
        if offset == 0 {
            if total > MOST_SNAPSHOT_BYTES as u64 {
                return Err(format!(
                    "a snapshot of {total} bytes is longer than {MOST_SNAPSHOT_BYTES}"
                ));
            }
            *incoming = Some(Incoming {
                vote,
                total,
                bytes: BytesMut::new(),
            });
        }
        let Some(mut arriving) = incoming.take() else {
            return Err("this part of a snapshot follows no other".to_owned());
        };
        if arriving.vote != vote
            || arriving.total != total
            || arriving.bytes.len() as u64 != offset
            || offset + part.len() as u64 > total
        {
            return Err("this part of a snapshot does not follow the one before it".to_owned());
        }
        arriving.bytes.extend_from_slice(part);
        if (arriving.bytes.len() as u64) < total {
            // What brings nothing would go on for ever.
            if part.is_empty() {
                return Err("this part of a snapshot is empty".to_owned());
            }
            *incoming = Some(arriving);
            return Ok(None);
        }
        let bytes = SnapshotBytes(arriving.bytes.freeze());
        let fold = snapshot::decode(Path::new("the leader's snapshot"), &bytes)
            .map_err(|error| error.to_string())?;
        let snapshot: Snapshot<TypeConfig> = Snapshot {
            meta: snapshot::meta(&fold),
            snapshot: Box::new(bytes),
        };
        match self.raft.install_full_snapshot(vote, snapshot).await {
            Ok(response) => Ok(Some(response.vote)),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn fetch(&self, after: Option<LogId>, most_bytes: usize, wait: Duration) -> Response {
        let next = after.map_or(0, |after| after.index.saturating_add(1));
        let mut folds = self.folds.clone();
        let news = folds.wait_for(|fold| fold.next_index() > next);
        // Without news the answer is empty, and says how far this node is. Whoever asks must
        // not get it at once from a node that will never have any.
        if let Ok(Err(_)) = clock::timeout(wait, news).await.map(|news| news.map(drop)) {
            return Response::Failed("this voter has stopped".to_owned());
        }
        let committed = self.folds.borrow().applied;
        let purged = self.store.purged();
        if purged.map_or(0, |purged| purged.index + 1) > next {
            return self.newest_snapshot();
        }
        if let Some(after) = after
            && Some(after) != purged
            && let [mine] = &*self.store.read(after.index, after.index, 0)
            && committed.is_some_and(|committed| committed.index >= after.index)
            && mine.log_id != after
        {
            return Response::Failed(format!(
                "entry {} is {} here, and {after} where it was asked for: that is another history",
                after.index, mine.log_id
            ));
        }
        let to = committed.map_or(0, |committed| committed.index);
        let entries = match committed.is_some_and(|committed| committed.index >= next) {
            true => self.store.read(next, to, most_bytes),
            false => Vec::new(),
        };
        match entries.first() {
            // A purge came in between.
            Some(first) if first.log_id.index != next => self.newest_snapshot(),
            _ => Response::Fetched {
                entries,
                committed,
                leader: self.leader(),
            },
        }
    }

    fn newest_snapshot(&self) -> Response {
        let held = self.store.shared.snapshot();
        match held.and_then(|(meta, bytes)| Some((meta.last_log_id?, bytes))) {
            Some((last, bytes)) => Response::Snapshot {
                last,
                total: bytes.0.len() as u64,
            },
            None => Response::Failed("there is no snapshot yet".to_owned()),
        }
    }

    fn snapshot_part(&self, last: LogId, offset: u64, max_bytes: u32) -> Response {
        match self.store.shared.snapshot() {
            Some((meta, bytes)) if meta.last_log_id == Some(last) => {
                let all = bytes.0;
                let from = usize::try_from(offset).unwrap_or(usize::MAX).min(all.len());
                let most = usize::try_from(max_bytes).unwrap_or(usize::MAX);
                let to = all.len().min(from + most.min(MOST_FETCH_BYTES));
                Response::SnapshotPart(all.slice(from..to))
            }
            // There is a newer one: begin anew.
            _ => self.newest_snapshot(),
        }
    }
}
