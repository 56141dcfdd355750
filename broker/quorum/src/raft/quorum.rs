//! A voter of the metadata quorum, from its directory to its listener. A single broker is a
//! quorum of one, and takes the same way.

mod learners;
mod membership;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use openraft::error::{Fatal, InitializeError, RaftError};
use openraft::{Config, SnapshotPolicy};
use tidemark_env::clock;
use tidemark_env::disk::Disk;
use tidemark_env::net::Stream;
use tidemark_env::task::{Task, spawn};
use tidemark_model::{BrokerId, Image, MetadataRecord};
use tidemark_wire::Uuid;
use tokio::sync::watch;

use super::active::{Activity, Metrics, Watch};
use super::client::{CallError, Caller, Dial, Link, Links};
use super::error::StoreError;
use super::fold::Fold;
use super::identity::{VoterIdentity, consume_token, read_first, read_identity, read_token};
use super::journal::RaftRecovery;
use super::machine::Machine;
use super::members::members;
use super::propose::{Proposals, Proposer, QuorumError, leader};
use super::server::{ForwardHandler, Server};
use super::store::LogStore;
use super::types::{Membership, Raft, VoterId, VoterNode};
use super::wire::{NodeStatus, Request, Response};
use crate::decide::Decision;

/// Entries that a snapshot covers are kept for those who are a little behind.
const KEPT_ENTRIES: u64 = 200;
/// How long other initial voters have to say whether there is a quorum already.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// How a voter runs.
#[derive(Debug, Clone)]
pub struct QuorumConfig {
    /// The directory of its log, formatted ([`super::format`]).
    pub dir: PathBuf,
    /// The cluster.
    pub cluster_id: Uuid,
    /// The node.
    pub node_id: BrokerId,
    /// `host:port` where others reach its quorum listener; `None` where only the log knows.
    pub advertised: Option<String>,
    /// `host:port` of nodes to ask who leads, beside those that the log names.
    pub bootstrap: Vec<String>,
    /// A leader is heard of this often.
    pub heartbeat_ms: u64,
    /// A voter that has not heard of its leader for so long lets others stand for election, and
    /// stands itself before it has been twice as long. Three heartbeats at least.
    pub election_ms: u64,
    /// A snapshot is made when the log has grown by so many bytes.
    pub snapshot_after_bytes: u64,
    /// The disk is simulated: what blocks is done where it is asked for.
    pub inline: bool,
}

impl QuorumConfig {
    /// Heartbeats of 500 ms and elections after 2.1 to 3 s, for a log on a volume of its own.
    pub fn new(dir: PathBuf, cluster_id: Uuid, node_id: BrokerId) -> QuorumConfig {
        QuorumConfig {
            dir,
            cluster_id,
            node_id,
            advertised: None,
            bootstrap: Vec::new(),
            heartbeat_ms: 500,
            election_ms: 1500,
            snapshot_after_bytes: 20 * 1024 * 1024,
            inline: tidemark_env::task::is_simulated(),
        }
    }
}

/// Why a voter did not start.
#[derive(Debug, thiserror::Error)]
pub enum QuorumStartError {
    /// Its directory cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A setting is out of range.
    #[error("metadata quorum: {0}")]
    Config(String),
    /// The log does not let it start.
    #[error("the metadata quorum's log cannot be used: {0}")]
    Raft(String),
    /// The token is for other voters.
    #[error(
        "the directory {} was formatted to begin a quorum of which this voter, {me}, is no member: format it again with the right initial voters", dir.display()
    )]
    NotInitial {
        /// The directory.
        dir: PathBuf,
        /// This voter.
        me: VoterId,
    },
    /// The process is shutting down.
    #[error("the process is shutting down")]
    Stopping,
}

/// A running voter.
pub struct Quorum {
    server: Arc<Server>,
    activity: Activity,
    proposals: Proposals,
    caller: Caller,
    recovery: RaftRecovery,
    catch_up: Duration,
    first: Vec<MetadataRecord>,
    tasks: Mutex<Vec<Task<()>>>,
}

impl std::fmt::Debug for Quorum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Quorum of {}", self.server.identity.voter)
    }
}

impl Quorum {
    /// Opens the directory and starts to take part. With a token from formatting, used up
    /// here, it begins a new quorum, unless one of the initial voters knows of one.
    ///
    /// # Errors
    /// See [`QuorumStartError`].
    pub async fn start(
        disk: Arc<dyn Disk>,
        dial: Arc<dyn Dial>,
        config: QuorumConfig,
        forward: Arc<dyn ForwardHandler>,
    ) -> Result<Arc<Quorum>, QuorumStartError> {
        let raft_config = raft_config(&config)?;
        let (of, dir) = (disk.clone(), config.clone());
        let (identity, token, first, opened) = blocking(config.inline, move || {
            let identity = identity(&*of, &dir)?;
            let token = read_token(&*of, &dir.dir)?;
            let opened = LogStore::open(of.clone(), &dir.dir, identity.voter, dir.inline)?;
            let first = match opened.fold.image.cluster_id() {
                None => read_first(&*of, &dir.dir)?,
                // They were the first.
                Some(_) => Vec::new(),
            };
            Ok((identity, token, first, opened))
        })
        .await?;
        let me = identity.voter;
        let caller = Caller {
            dial,
            cluster_id: identity.cluster_id,
            me,
        };
        let store = opened.store;
        let (machine, folds) = Machine::new(&store, opened.fold);
        let links = Links(caller.clone());
        let raft = Raft::new(me, Arc::new(raft_config), links, store.clone(), machine)
            .await
            .map_err(|error| QuorumStartError::Raft(error.to_string()))?;
        let election = Duration::from_millis(config.election_ms);
        let (watch, activity) = Watch::new(raft.clone(), election);
        let (proposer, proposals) = Proposer::new(raft.clone(), activity.clone(), folds.clone());
        let quorum = Quorum {
            server: Arc::new(Server {
                identity,
                raft: raft.clone(),
                store: store.clone(),
                folds: folds.clone(),
                activity: activity.clone(),
                forward,
                connections: AtomicUsize::new(0),
                heard: Mutex::new(clock::monotonic()),
            }),
            activity,
            proposals,
            caller,
            recovery: opened.recovery,
            catch_up: election,
            first,
            tasks: Mutex::default(),
        };
        quorum.keep(spawn("raft-active", watch.run()));
        quorum.keep(spawn("raft-propose", proposer.run()));
        let snapshots = snapshots(raft.clone(), store, folds, config.snapshot_after_bytes);
        quorum.keep(spawn("raft-snapshots", snapshots));
        let (server, caller) = (quorum.server.clone(), quorum.caller.clone());
        let learners = learners::Learners::new(server, caller, &config);
        quorum.keep(spawn("raft-learners", learners.run()));
        let quorum = Arc::new(quorum);
        if let Some(voters) = token {
            if !voters.contains_key(&me) {
                let dir = config.dir;
                return Err(QuorumStartError::NotInitial { dir, me });
            }
            match voters.len() {
                1 => quorum.begin(voters, disk, &config).await?,
                // The others are asked first, and may be asking this one: it must be served.
                _ => {
                    let beginning = quorum.clone();
                    quorum.keep(spawn("raft-begin", async move {
                        if let Err(error) = beginning.begin(voters, disk, &config).await {
                            tracing::error!(%error, "the metadata quorum could not begin");
                        }
                    }));
                }
            }
        }
        // Metrics say nothing yet.
        let alone = raft.with_raft_state(move |state| {
            let voters = state.membership_state.effective().voter_ids();
            voters.eq([me])
        });
        let failed = |error: Fatal<VoterId>| QuorumStartError::Raft(error.to_string());
        if alone.await.map_err(failed)? {
            // Nobody else can lead: no need to wait and see.
            raft.trigger().elect().await.map_err(failed)?;
        }
        Ok(quorum)
    }

    /// What the metadata are to begin with, beside the cluster's id, where this voter was formatted
    /// for a cluster that comes back from a bucket; empty once they have begun.
    pub fn first_records(&self) -> &[MetadataRecord] {
        &self.first
    }

    /// Begins a new quorum, unless there is one, and uses the token up.
    async fn begin(
        &self,
        voters: BTreeMap<VoterId, VoterNode>,
        disk: Arc<dyn Disk>,
        config: &QuorumConfig,
    ) -> Result<(), QuorumStartError> {
        let raft = &self.server.raft;
        let begun = raft.is_initialized().await;
        let begun = begun.map_err(|error| QuorumStartError::Raft(error.to_string()))?;
        if !begun && !self.exists(&voters).await {
            match raft.initialize(voters).await {
                Ok(()) => {}
                // A leader came first.
                Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
                Err(error) => return Err(QuorumStartError::Raft(error.to_string())),
            }
        }
        let dir = config.dir.clone();
        blocking(config.inline, move || consume_token(&*disk, &dir)).await
    }

    /// Whether one of the others knows of a quorum.
    async fn exists(&self, voters: &BTreeMap<VoterId, VoterNode>) -> bool {
        for (voter, node) in voters {
            if *voter == self.server.identity.voter {
                continue;
            }
            // The first entry is the membership, which each initial voter writes itself.
            if let Ok(status) = self.status_of(&node.address, ASK_TIMEOUT).await
                && status.last.is_some_and(|last| last.index > 0)
            {
                tracing::info!(
                    voter = %status.voter,
                    "the metadata quorum exists already: this node waits for it"
                );
                return true;
            }
        }
        false
    }

    fn keep(&self, task: Task<()>) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.retain(|task| !task.is_finished());
        tasks.push(task);
    }

    /// Who this is.
    pub fn identity(&self) -> VoterIdentity {
        self.server.identity
    }

    /// What opening the log had to do.
    pub fn recovery(&self) -> RaftRecovery {
        self.recovery
    }

    /// Serves one connection of the quorum listener.
    pub fn serve(&self, stream: Stream) {
        let server = self.server.clone();
        self.keep(spawn("raft-connection", async move {
            server.serve(stream).await;
        }));
    }

    /// Runs what accepts connections for [`Quorum::serve`] until the quorum is closed.
    pub fn until_closed(&self, listening: impl Future<Output = ()> + Send + 'static) {
        self.keep(spawn("raft-listen", listening));
    }

    /// What has been committed, as far as this node knows.
    pub fn fold(&self) -> Fold {
        self.server.folds.borrow().clone()
    }

    /// The newest committed image here.
    pub fn image(&self) -> Arc<Image> {
        self.server.folds.borrow().image.clone()
    }

    /// Follows what is committed. A slow follower sees the newest, not each.
    pub fn watch(&self) -> watch::Receiver<Fold> {
        self.server.folds.clone()
    }

    /// Whether this node may act as the controller.
    pub fn activity(&self) -> Activity {
        self.activity.clone()
    }

    /// The leadership in which this node may act as the controller, if it may now.
    pub fn is_active(&self) -> Option<u64> {
        self.activity.epoch()
    }

    /// Who leads, if it is another node that is known.
    pub fn leader(&self) -> Option<(VoterId, VoterNode)> {
        leader(&self.server.raft)
    }

    /// What raft says of itself.
    pub fn metrics(&self) -> Metrics {
        self.server.raft.metrics().borrow().clone()
    }

    /// Where this node stands.
    pub fn status(&self) -> NodeStatus {
        self.server.status()
    }

    /// Whether the log has failed, so that the node should stop.
    pub fn has_failed(&self) -> bool {
        self.metrics().running_state.is_err()
    }

    /// The members, as of the newest entry of the log.
    pub fn membership(&self) -> Membership {
        members(&self.server.raft)
    }

    /// Decides on the newest image with all that is on its way, and answers when the change
    /// is committed and applied here.
    ///
    /// # Errors
    /// [`QuorumError::NotController`] where another node leads: nothing was changed then.
    pub async fn propose<T, F>(&self, decide: F) -> Result<(T, Arc<Image>), QuorumError>
    where
        T: Send + 'static,
        F: FnOnce(&Image) -> Decision<T> + Send + 'static,
    {
        self.proposals.propose(decide).await
    }

    /// Has the leader's [`ForwardHandler`] answer `payload`.
    ///
    /// # Errors
    /// [`QuorumError::NotController`] when no other node leads or the one that was asked no
    /// longer does; [`QuorumError::LeadershipLost`] when the answer did not come.
    pub async fn forward(&self, payload: Bytes, patience: Duration) -> Result<Bytes, QuorumError> {
        let Some(leader) = self.leader() else {
            return Err(QuorumError::NotController { leader: None });
        };
        let asked = leader.0;
        let mut metrics = self.server.raft.metrics();
        // A machine that vanished does not answer, and does not end the connection either.
        let replaced = async move {
            let other = metrics.wait_for(|now| now.current_leader != Some(asked));
            drop(other.await);
        };
        tokio::select! {
            answered = forward(&self.caller, Some(leader), payload, patience) => answered,
            () = replaced => Err(QuorumError::LeadershipLost),
        }
    }

    /// The node of the active controller, as far as this one knows.
    pub fn controller_id(&self) -> Option<BrokerId> {
        let leader = self.metrics().current_leader?;
        Some(leader.node_id)
    }

    /// How far a member has the log, as index of its last entry: on the leader of every member,
    /// elsewhere of this one.
    pub fn matched(&self, voter: VoterId) -> Option<u64> {
        let metrics = self.metrics();
        if voter == metrics.id {
            return metrics.last_log_index;
        }
        let matched = metrics.replication?.get(&voter).copied().flatten()?;
        Some(matched.index)
    }

    /// Ends when the log has failed, with why.
    pub async fn failed(&self) -> String {
        let mut metrics = self.server.raft.metrics();
        loop {
            match &metrics.borrow_and_update().running_state {
                Ok(()) | Err(Fatal::Stopped) => {}
                Err(fatal) => return fatal.to_string(),
            }
            if metrics.changed().await.is_err() {
                // It was closed.
                return std::future::pending().await;
            }
        }
    }

    /// Asks a node where it stands.
    ///
    /// # Errors
    /// It cannot be reached, or is of another cluster or version.
    pub async fn status_of(
        &self,
        address: &str,
        patience: Duration,
    ) -> Result<NodeStatus, CallError> {
        status_of(&self.caller, address, patience).await
    }

    /// Makes a snapshot now.
    ///
    /// # Errors
    /// The log has failed.
    pub async fn snapshot(&self) -> Result<(), QuorumError> {
        let triggered = self.server.raft.trigger().snapshot().await;
        triggered.map_err(|error| QuorumError::Failed(error.to_string()))
    }

    /// Ends what it has running, without waiting: what is left ends with the last who holds it.
    pub fn abandon(&self) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        for task in tasks.drain(..) {
            task.abort();
        }
    }

    /// Stops taking part and lets go of the directory.
    pub async fn close(&self) {
        if let Err(error) = self.server.raft.shutdown().await {
            tracing::warn!(%error, "raft did not end well");
        }
        let tasks: Vec<_> = {
            let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            tasks.drain(..).collect()
        };
        for task in tasks {
            task.abort();
            // Its end is all that matters.
            drop(task.await);
        }
        self.server.store.close().await;
    }
}

/// As [`Quorum::status_of`].
async fn status_of(
    caller: &Caller,
    address: &str,
    patience: Duration,
) -> Result<NodeStatus, CallError> {
    let mut link = Link::new(caller.clone(), address.to_owned(), None);
    match link.call(&Request::Status, patience).await? {
        Response::Status(status) => Ok(status),
        _ => Err(CallError::Refused {
            address: address.to_owned(),
            reason: "answers something else than was asked".to_owned(),
        }),
    }
}

/// Has `leader`'s [`ForwardHandler`] answer `payload`.
pub(super) async fn forward(
    caller: &Caller,
    leader: Option<(VoterId, VoterNode)>,
    payload: Bytes,
    patience: Duration,
) -> Result<Bytes, QuorumError> {
    let Some((voter, node)) = leader else {
        return Err(QuorumError::NotController { leader: None });
    };
    let mut link = Link::new(caller.clone(), node.address.clone(), Some(voter));
    // Without a connection nothing was asked.
    if link.open().await.is_err() {
        return Err(QuorumError::NotController {
            leader: Some((voter, node)),
        });
    }
    match link.call(&Request::Forward(payload), patience).await {
        Ok(Response::Forwarded(answer)) => Ok(answer),
        Ok(Response::NotLeader(_)) => Err(QuorumError::NotController { leader: None }),
        Ok(Response::Failed(text)) => Err(QuorumError::Failed(text)),
        Ok(_) | Err(CallError::Io { .. }) => Err(QuorumError::LeadershipLost),
        Err(refused) => Err(QuorumError::Failed(refused.to_string())),
    }
}

async fn blocking<T: Send + 'static>(
    inline: bool,
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, QuorumStartError> {
    if inline {
        return Ok(work()?);
    }
    match tidemark_env::task::blocking(work).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(QuorumStartError::Stopping),
    }
}

fn identity(disk: &dyn Disk, config: &QuorumConfig) -> Result<VoterIdentity, StoreError> {
    let identity = read_identity(disk, &config.dir)?.ok_or_else(|| StoreError::NotFormatted {
        path: config.dir.clone(),
    })?;
    let foreign = |what, found: String, expected: String| StoreError::Foreign {
        path: config.dir.clone(),
        what,
        found,
        expected,
    };
    if identity.cluster_id != config.cluster_id {
        let (found, expected) = (identity.cluster_id, config.cluster_id);
        return Err(foreign("cluster", found.to_string(), expected.to_string()));
    }
    if identity.voter.node_id != config.node_id {
        let (found, expected) = (identity.voter.node_id, config.node_id);
        return Err(foreign("node", found.to_string(), expected.to_string()));
    }
    Ok(identity)
}

fn raft_config(config: &QuorumConfig) -> Result<Config, QuorumStartError> {
    let raft = Config {
        cluster_name: config.cluster_id.to_string(),
        heartbeat_interval: config.heartbeat_ms,
        // openraft adds a time between these to the longer of them, which is a leader's lease.
        election_timeout_min: config.election_ms * 2 / 5,
        election_timeout_max: config.election_ms,
        // For each part of a snapshot, and for taking in the last one.
        install_snapshot_timeout: 60_000,
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: KEPT_ENTRIES,
        ..Config::default()
    };
    raft.validate()
        .map_err(|error| QuorumStartError::Config(error.to_string()))
}

/// Has a snapshot made whenever the log has grown by `after_bytes`, or by the last snapshot's
/// length where that is more.
async fn snapshots(
    raft: Raft,
    store: LogStore,
    mut folds: watch::Receiver<Fold>,
    after_bytes: u64,
) {
    let mut from = store.appended_bytes();
    // What was there at the start counts, too.
    let mut grown = store.log_bytes() as u64;
    while folds.changed().await.is_ok() {
        let now = store.appended_bytes();
        grown += now - from;
        from = now;
        let snapshot = store.shared.snapshot();
        let snapshot_bytes = snapshot.map_or(0, |(_, bytes)| bytes.0.len() as u64);
        if grown > after_bytes.max(snapshot_bytes) {
            if raft.trigger().snapshot().await.is_err() {
                return;
            }
            grown = 0;
        }
    }
}
