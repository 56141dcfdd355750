//! The way of a change into the log.
//!
//! One task decides, on the newest image with all that is in flight folded in. Everything that
//! is queued goes into one entry, and few entries are outstanding, as raft makes each durable
//! by itself: a queue of entries would hold votes and heartbeats up. An answer comes from what
//! applying the entry gave.

use std::collections::VecDeque;
use std::sync::Arc;

use openraft::error::{ClientWriteError, RaftError};
use tidemark_model::{Image, MetadataRecord, Rejected};
use tidemark_wire::ErrorCode;
use tokio::sync::{mpsc, oneshot, watch};

use super::active::{Activity, Metrics, leads};
use super::fold::Fold;
use super::runtime::tell;
use super::types::{Applied, Batch, Proposal, Raft, Refused, TypeConfig, VoterId, VoterNode};
use crate::decide::Decision;

/// So many proposals may wait to be decided; more wait to be queued.
const QUEUE: usize = 1024;
/// Entries that are on their way at once: one is written while the next gathers.
const MOST_OUTSTANDING: usize = 2;
/// An entry takes what is queued until its batches are this long, in bytes.
const ENTRY_BYTES: usize = 1024 * 1024;
/// Longest batch, in bytes.
const MOST_BATCH_BYTES: usize = 8 * 1024 * 1024;

/// Why a proposal has no result.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QuorumError {
    /// This node is not the active controller: nothing was changed.
    #[error("this node is not the active controller{}", leader.as_ref().map_or(String::new(), |(id, node)| format!("; node {} at {} is", id.node_id, node.address)))]
    NotController {
        /// Who leads, where that is known.
        leader: Option<(VoterId, VoterNode)>,
    },
    /// Leadership was lost meanwhile: the change may or may not come into force.
    #[error(
        "the controller was replaced while the change was on its way: it may or may not have been made"
    )]
    LeadershipLost,
    /// No majority has agreed in time: the change may or may not come into force.
    #[error(
        "no majority of the metadata quorum has agreed in time; the change may or may not be made: look at the quorum's members"
    )]
    TimedOut,
    /// A precondition did not hold: a defect, as decisions are made on the image they apply to.
    #[error("the change contradicts the cluster's metadata: {0}")]
    Rejected(#[from] Rejected),
    /// One batch is too large.
    #[error("a metadata change of {0} bytes is too large to be one batch; split the request")]
    TooLarge(usize),
    /// The log or its disk failed.
    #[error("the metadata quorum's log has failed on this node: {0}")]
    Failed(String),
    /// The node is closing.
    #[error("the node is shutting down")]
    Stopping,
}

impl QuorumError {
    /// What a client is told.
    pub fn error_code(&self) -> ErrorCode {
        match self {
            Self::NotController { .. } | Self::LeadershipLost | Self::Stopping => {
                ErrorCode::NotController
            }
            Self::TimedOut => ErrorCode::RequestTimedOut,
            Self::Rejected(_) => ErrorCode::UnknownServerError,
            Self::TooLarge(_) => ErrorCode::PolicyViolation,
            Self::Failed(_) => ErrorCode::KafkaStorageError,
        }
    }
}

/// A proposal that waits, whatever its result is.
pub(super) trait Job: Send {
    /// Decides. Once.
    fn decide(&mut self, image: &Image) -> Vec<MetadataRecord>;
    /// Tells the proposer.
    fn finish(self: Box<Self>, outcome: Result<Arc<Image>, QuorumError>);
}

type Reply<T> = oneshot::Sender<Result<(T, Arc<Image>), QuorumError>>;

struct Typed<T, F> {
    decide: Option<F>,
    result: Option<T>,
    reply: Reply<T>,
}

impl<T, F> Job for Typed<T, F>
where
    T: Send,
    F: FnOnce(&Image) -> Decision<T> + Send,
{
    fn decide(&mut self, image: &Image) -> Vec<MetadataRecord> {
        let Some(decide) = self.decide.take() else {
            return Vec::new();
        };
        let Decision { records, result } = decide(image);
        self.result = Some(result);
        records
    }

    fn finish(self: Box<Self>, outcome: Result<Arc<Image>, QuorumError>) {
        let outcome = match (outcome, self.result) {
            (Ok(image), Some(result)) => Ok((result, image)),
            (Ok(_), None) => Err(QuorumError::Stopping),
            (Err(error), _) => Err(error),
        };
        tell(self.reply, outcome);
    }
}

/// Where proposals are queued. Clones share the queue.
#[derive(Clone)]
pub(super) struct Proposals(mpsc::Sender<Box<dyn Job>>);

impl Proposals {
    /// Queues a decision and waits for what becomes of it. Dropping the future after it is
    /// queued does not take it back.
    pub(super) async fn propose<T, F>(&self, decide: F) -> Result<(T, Arc<Image>), QuorumError>
    where
        T: Send + 'static,
        F: FnOnce(&Image) -> Decision<T> + Send + 'static,
    {
        let (reply, told) = oneshot::channel();
        let job = Typed {
            decide: Some(decide),
            result: None,
            reply,
        };
        if self.0.send(Box::new(job)).await.is_err() {
            return Err(QuorumError::Stopping);
        }
        told.await.unwrap_or(Err(QuorumError::Stopping))
    }
}

type Write = oneshot::Receiver<openraft::raft::ClientWriteResult<TypeConfig>>;

/// An entry on its way.
struct Outstanding {
    /// Its proposers, each with the number of its batch in the entry; one that changes
    /// nothing has none, and waits as what it has seen is not in force yet.
    jobs: Vec<(Box<dyn Job>, Option<usize>)>,
    /// `None` when there is nothing to write.
    write: Option<Write>,
    /// An entry before it did not come into force: what was seen here never was.
    tainted: bool,
}

/// The task that decides.
pub(super) struct Proposer {
    raft: Raft,
    activity: Activity,
    folds: watch::Receiver<Fold>,
    queue: mpsc::Receiver<Box<dyn Job>>,
    outstanding: VecDeque<Outstanding>,
    /// The leadership that the outstanding entries were decided in.
    epoch: u64,
    /// The image with all that is outstanding folded in.
    ahead: Arc<Image>,
    /// Something that was folded in ahead did not come into force.
    broken: bool,
}

impl Proposer {
    pub(super) fn new(
        raft: Raft,
        activity: Activity,
        folds: watch::Receiver<Fold>,
    ) -> (Proposer, Proposals) {
        let (sender, queue) = mpsc::channel(QUEUE);
        let proposer = Proposer {
            raft,
            activity,
            folds,
            queue,
            outstanding: VecDeque::new(),
            epoch: 0,
            ahead: Arc::default(),
            broken: false,
        };
        (proposer, Proposals(sender))
    }

    pub(super) async fn run(mut self) {
        let mut metrics = self.raft.metrics();
        loop {
            let room = self.outstanding.len() < MOST_OUTSTANDING;
            let waiting = !self.outstanding.is_empty();
            let epoch = self.epoch;
            let oldest = self.outstanding.front_mut().map(|oldest| &mut oldest.write);
            tokio::select! {
                biased;
                written = written(oldest) => self.settle(&written),
                // Not all that a lost leadership leaves on its way is heard of again.
                () = lost(&mut metrics, epoch), if waiting => self.abandon(),
                job = self.queue.recv(), if room => match job {
                    Some(job) => self.take(job).await,
                    None => break,
                },
            }
        }
        self.abandon();
    }

    /// Tells the proposers of all that is outstanding what is known of it by now.
    fn abandon(&mut self) {
        while let Some(oldest) = self.outstanding.front_mut() {
            let written = match &mut oldest.write {
                None => Ok(None),
                Some(write) => match write.try_recv() {
                    Ok(result) => outcome(result),
                    Err(_) => Err(QuorumError::LeadershipLost),
                },
            };
            self.settle(&written);
        }
    }

    /// Decides on what is queued, and sends it off as one entry.
    async fn take(&mut self, first: Box<dyn Job>) {
        let Some(epoch) = self.activity.epoch() else {
            return first.finish(Err(self.not_controller()));
        };
        if epoch != self.epoch {
            // Everything that was logged before this leadership has been applied.
            self.abandon();
            self.epoch = epoch;
        }
        while self.broken && !self.outstanding.is_empty() {
            let oldest = self.outstanding.front_mut().map(|oldest| &mut oldest.write);
            let written = written(oldest).await;
            self.settle(&written);
        }
        self.broken = false;
        if self.outstanding.is_empty() {
            self.ahead = self.folds.borrow().image.clone();
        }
        let mut jobs = Vec::new();
        let mut batches = Vec::new();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(mut job) = next {
            let records = job.decide(&self.ahead);
            match self.batch(records) {
                Ok(None) => jobs.push((job, None)),
                Ok(Some(batch)) => {
                    bytes += batch.bytes().len();
                    jobs.push((job, Some(batches.len())));
                    batches.push(batch);
                }
                Err(error) => job.finish(Err(error)),
            }
            next = match bytes < ENTRY_BYTES {
                true => self.queue.try_recv().ok(),
                false => None,
            };
        }
        let write = match batches.is_empty() {
            true => None,
            false => {
                let proposal = Proposal { epoch, batches };
                match self.raft.client_write_ff(proposal).await {
                    Ok(write) => Some(write),
                    Err(error) => {
                        for (job, _) in jobs {
                            job.finish(Err(QuorumError::Failed(error.to_string())));
                        }
                        // What was folded in ahead will not come.
                        self.broken = true;
                        return;
                    }
                }
            }
        };
        self.outstanding.push_back(Outstanding {
            jobs,
            write,
            tainted: false,
        });
    }

    /// Folds a decision in ahead of its commit.
    fn batch(&mut self, records: Vec<MetadataRecord>) -> Result<Option<Batch>, QuorumError> {
        if records.is_empty() {
            return Ok(None);
        }
        let ahead = self.ahead.apply(&records)?;
        let batch = Batch::new(records);
        if batch.bytes().len() > MOST_BATCH_BYTES {
            return Err(QuorumError::TooLarge(batch.bytes().len()));
        }
        self.ahead = Arc::new(ahead);
        Ok(Some(batch))
    }

    /// Tells the proposers of the oldest entry what became of it.
    fn settle(&mut self, written: &Result<Option<Applied>, QuorumError>) {
        let Some(oldest) = self.outstanding.pop_front() else {
            return;
        };
        let whole = match written {
            Ok(Some(applied)) => applied.outcomes.iter().all(Result::is_ok),
            Ok(None) => true,
            Err(_) => false,
        };
        if !whole {
            // Later entries were decided on this one. They are settled before anything else
            // is decided.
            self.broken = true;
            for later in &mut self.outstanding {
                later.tainted = true;
            }
        }
        let newest = self.folds.borrow().image.clone();
        for (job, batch) in oldest.jobs {
            let outcome = match (written, batch) {
                (Err(error), _) => Err(error.clone()),
                (Ok(Some(applied)), Some(at)) => match applied.outcomes.get(at) {
                    Some(Ok(())) => Ok(applied.image.clone()),
                    Some(Err(Refused::Rejected(rejected))) => Err(rejected.clone().into()),
                    Some(Err(Refused::Epoch { .. })) => Err(self.not_controller()),
                    None => Err(QuorumError::LeadershipLost),
                },
                // It changes nothing, but has seen what was on its way.
                (Ok(_), _) if oldest.tainted || !whole => Err(QuorumError::LeadershipLost),
                (Ok(_), _) => Ok(newest.clone()),
            };
            job.finish(outcome);
        }
    }

    fn not_controller(&self) -> QuorumError {
        QuorumError::NotController {
            leader: leader(&self.raft),
        }
    }
}

/// Who leads, as far as this node knows, if it is another.
pub(super) fn leader(raft: &Raft) -> Option<(VoterId, VoterNode)> {
    let metrics = raft.metrics();
    let metrics = metrics.borrow();
    let leader = metrics.current_leader.filter(|id| *id != metrics.id)?;
    let node = metrics.membership_config.membership().get_node(&leader)?;
    Some((leader, node.clone()))
}

/// Ends when this node leads in `epoch` no more.
async fn lost(metrics: &mut watch::Receiver<Metrics>, epoch: u64) {
    drop(metrics.wait_for(|now| leads(now) != Some(epoch)).await);
}

/// What became of an entry; never, when there is none.
async fn written(write: Option<&mut Option<Write>>) -> Result<Option<Applied>, QuorumError> {
    let Some(write) = write else {
        return std::future::pending().await;
    };
    let Some(write) = write else {
        return Ok(None);
    };
    match write.await {
        Ok(result) => outcome(result),
        // openraft ended without a word.
        Err(_) => Err(QuorumError::LeadershipLost),
    }
}

fn outcome(
    result: openraft::raft::ClientWriteResult<TypeConfig>,
) -> Result<Option<Applied>, QuorumError> {
    match result {
        Ok(response) => Ok(Some(response.data)),
        // An entry that was never logged and one that was taken back look alike.
        Err(ClientWriteError::ForwardToLeader(_)) => Err(QuorumError::LeadershipLost),
        Err(error) => Err(QuorumError::Failed(error.to_string())),
    }
}

/// What a change of members that openraft refused comes to.
pub(super) fn refused(
    error: &RaftError<VoterId, ClientWriteError<VoterId, VoterNode>>,
    raft: &Raft,
) -> QuorumError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => QuorumError::NotController {
            leader: leader(raft),
        },
        other => QuorumError::Failed(other.to_string()),
    }
}
