//! Following the quorum without a vote: pulling what was committed, and folding it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidemark_env::clock;
use tidemark_env::task::{Task, spawn};
use tidemark_model::Image;
use tidemark_wire::Uuid;
use tokio::sync::watch;

use super::client::{CallError, Caller, Dial, Link, PART_BYTES};
use super::fold::Fold;
use super::propose::QuorumError;
use super::snapshot::{self, MOST_SNAPSHOT_BYTES, SnapshotBytes};
use super::types::{LogId, VoterId, VoterNode};
use super::wire::{Request, Response};

/// Entries come in answers of about this size.
const FETCH_BYTES: u32 = 1024 * 1024;
/// A voter without news answers after so long.
const WAIT: Duration = Duration::from_millis(5000);
/// Beyond that wait, an answer takes no longer than this.
const PATIENCE: Duration = Duration::from_secs(10);
/// All voters have failed: wait so long before the next round.
const PAUSE: Duration = Duration::from_millis(500);

/// Why a voter is not followed any further.
#[derive(Debug, thiserror::Error)]
enum FollowError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("{0}")]
    Answer(String),
}

/// Who observes, and whom.
pub struct ObserverConfig {
    /// The cluster.
    pub cluster_id: Uuid,
    /// This node's id; an observer's directory is none of the quorum's business.
    pub node_id: i32,
    /// `host:port` of the voters' quorum listeners. Those that the log names are used, too.
    pub voters: Vec<String>,
}

/// What an observer knows of the quorum: its newest fold, and who leads.
#[derive(Clone)]
pub struct Followed {
    caller: Caller,
    folds: watch::Receiver<Fold>,
    leader: watch::Receiver<Option<VoterId>>,
    task: Arc<Task<()>>,
}

impl std::fmt::Debug for Followed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Followed by {}", self.caller.me.node_id)
    }
}

impl Followed {
    /// Starts a task that follows, until [`Followed::close`].
    pub fn start(dial: Arc<dyn Dial>, config: ObserverConfig) -> Followed {
        let (observer, folds) = Observer::new(dial, config, Fold::default());
        Followed {
            caller: observer.caller.clone(),
            leader: observer.leader.subscribe(),
            folds,
            task: Arc::new(spawn("raft-observe", observer.run())),
        }
    }

    /// The newest image.
    pub fn image(&self) -> Arc<Image> {
        self.folds.borrow().image.clone()
    }

    /// Follows what is committed.
    pub fn watch(&self) -> watch::Receiver<Fold> {
        self.folds.clone()
    }

    /// Who leads, as the voters say, if its address is known.
    pub fn leader(&self) -> Option<(VoterId, VoterNode)> {
        let leader = (*self.leader.borrow())?;
        let folds = self.folds.borrow();
        let node = folds.membership.membership().get_node(&leader)?;
        Some((leader, node.clone()))
    }

    /// As [`super::Quorum::forward`].
    ///
    /// # Errors
    /// As there.
    pub async fn forward(&self, payload: Bytes, patience: Duration) -> Result<Bytes, QuorumError> {
        super::quorum::forward(&self.caller, self.leader(), payload, patience).await
    }

    /// Follows no more.
    pub fn close(&self) {
        self.task.abort();
    }
}

/// Follows the quorum.
pub struct Observer {
    caller: Caller,
    seeds: Vec<String>,
    fold: Fold,
    published: watch::Sender<Fold>,
    leader: watch::Sender<Option<VoterId>>,
    /// The voter to ask next.
    turn: usize,
}

impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Observer at {:?}", self.fold.applied)
    }
}

impl Observer {
    /// An observer that begins with `fold`, the default one for a new node, and what it
    /// publishes.
    pub fn new(
        dial: Arc<dyn Dial>,
        config: ObserverConfig,
        fold: Fold,
    ) -> (Observer, watch::Receiver<Fold>) {
        let (published, follow) = watch::channel(fold.clone());
        let me = VoterId {
            node_id: config.node_id,
            directory_id: Uuid::ZERO,
        };
        let observer = Observer {
            caller: Caller {
                dial,
                cluster_id: config.cluster_id,
                me,
            },
            seeds: config.voters,
            fold,
            published,
            leader: watch::Sender::new(None),
            // Not all observers begin with the same voter.
            turn: usize::try_from(config.node_id).unwrap_or(0),
        };
        (observer, follow)
    }

    /// Follows until it is dropped.
    pub async fn run(mut self) {
        let mut failed = 0;
        loop {
            let addresses = self.addresses();
            let Some(address) = addresses.get(self.turn % addresses.len().max(1)) else {
                tracing::error!(
                    "no voter of the metadata quorum is known: nothing can be followed"
                );
                return;
            };
            let before = self.fold.applied;
            let error = self.follow(address.clone()).await;
            match failed {
                0 => tracing::info!(%error, "the metadata quorum is followed at another voter"),
                // Again and again while there is none.
                _ => tracing::debug!(%error, "nor can it be at this one"),
            }
            self.turn = self.turn.wrapping_add(1);
            failed = match self.fold.applied == before {
                true => failed + 1,
                false => 0,
            };
            if failed > 0 && failed % addresses.len() == 0 {
                clock::sleep(PAUSE).await;
            }
        }
    }

    /// Those that the log names, then those that were configured.
    fn addresses(&self) -> Vec<String> {
        let membership = self.fold.membership.membership();
        let mut addresses: Vec<String> = membership
            .voter_ids()
            .filter_map(|id| membership.get_node(&id))
            .map(|node| node.address.clone())
            .collect();
        for seed in &self.seeds {
            if !addresses.contains(seed) {
                addresses.push(seed.clone());
            }
        }
        addresses
    }

    /// Follows one voter until it fails.
    async fn follow(&mut self, address: String) -> FollowError {
        let mut link = Link::new(self.caller.clone(), address, None);
        loop {
            if let Err(error) = self.fetch(&mut link).await {
                return error;
            }
        }
    }

    async fn fetch(&mut self, link: &mut Link) -> Result<(), FollowError> {
        let request = Request::Fetch {
            after: self.fold.applied,
            max_bytes: FETCH_BYTES,
            max_wait_ms: u32::try_from(WAIT.as_millis()).unwrap_or(u32::MAX),
        };
        match link.call(&request, WAIT + PATIENCE).await? {
            Response::Fetched {
                entries,
                committed,
                leader,
            } => {
                self.leader
                    .send_if_modified(|known| std::mem::replace(known, leader) != leader);
                if entries.is_empty() && committed < self.fold.applied {
                    // It is behind what was seen elsewhere; another one may not be.
                    return Err(answer("it is behind this observer"));
                }
                let next = self.fold.next_index();
                if entries.is_empty() && committed.is_some_and(|last| last.index >= next) {
                    // Asked again it would say the same, at once.
                    return Err(answer("it has not what it says is committed"));
                }
                for entry in &entries {
                    if entry.log_id.index != self.fold.next_index()
                        || Some(entry.log_id) > committed
                    {
                        return Err(answer("its entries do not follow those before them"));
                    }
                    self.fold.apply(entry);
                }
                if !entries.is_empty() {
                    self.published.send_replace(self.fold.clone());
                }
                Ok(())
            }
            Response::Snapshot { last, total } => {
                let fold = self.fetch_snapshot(link, last, total).await?;
                if fold.applied <= self.fold.applied {
                    return Err(answer("its snapshot is older than what was asked for"));
                }
                self.fold = fold;
                self.published.send_replace(self.fold.clone());
                Ok(())
            }
            Response::Failed(text) => Err(FollowError::Answer(text)),
            _ => Err(answer("it answers something else than was asked")),
        }
    }

    async fn fetch_snapshot(
        &self,
        link: &mut Link,
        mut last: LogId,
        mut total: u64,
    ) -> Result<Fold, FollowError> {
        let mut bytes = BytesMut::new();
        loop {
            if total > MOST_SNAPSHOT_BYTES as u64 {
                return Err(answer("its snapshot is too long"));
            }
            let request = Request::FetchSnapshot {
                last,
                offset: bytes.len() as u64,
                max_bytes: u32::try_from(PART_BYTES).unwrap_or(u32::MAX),
            };
            match link.call(&request, PATIENCE).await? {
                Response::SnapshotPart(part) if part.is_empty() => {
                    return Err(answer("a part of its snapshot is empty"));
                }
                Response::SnapshotPart(part) => bytes.extend_from_slice(&part),
                // A newer one has taken its place.
                Response::Snapshot {
                    last: newer,
                    total: length,
                } if newer > last => {
                    (last, total) = (newer, length);
                    bytes.clear();
                }
                _ => return Err(answer("it answers something else than was asked")),
            }
            if bytes.len() as u64 >= total {
                return decode(last, bytes.freeze());
            }
        }
    }
}

fn answer(text: &str) -> FollowError {
    FollowError::Answer(text.to_owned())
}

fn decode(last: LogId, bytes: Bytes) -> Result<Fold, FollowError> {
    let fold = snapshot::decode(Path::new("a voter's snapshot"), &SnapshotBytes(bytes))
        .map_err(|error| FollowError::Answer(error.to_string()))?;
    match fold.applied == Some(last) {
        true => Ok(fold),
        false => Err(answer("its snapshot is not the one that was announced")),
    }
}
