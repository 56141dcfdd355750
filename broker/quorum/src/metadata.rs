//! A node's view of the cluster's metadata, and its way of changing them, whether it keeps them
//! or follows those that do.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidemark_model::{BrokerId, Image};
use tokio::sync::watch;

use crate::decide::Decision;
use crate::raft::{Activity, Fold, Followed, NodeStatus, Quorum, QuorumError};

/// The cluster's metadata, as far as this node has them.
#[derive(Debug)]
pub enum Metadata {
    /// This node is a voter.
    Voter(Arc<Quorum>),
    /// This node follows the voters.
    Observer(Followed),
}

impl Metadata {
    /// The newest image.
    pub fn image(&self) -> Arc<Image> {
        match self {
            Self::Voter(quorum) => quorum.image(),
            Self::Observer(followed) => followed.image(),
        }
    }

    /// Follows what is committed. A slow follower sees the newest, not each; compare with
    /// [`Image::changes_since`].
    pub fn watch(&self) -> watch::Receiver<Fold> {
        match self {
            Self::Voter(quorum) => quorum.watch(),
            Self::Observer(followed) => followed.watch(),
        }
    }

    /// Waits until the image is at `index` or later.
    pub async fn reached(&self, index: u64) {
        let mut folds = self.watch();
        drop(folds.wait_for(|fold| fold.image.index() >= index).await);
    }

    /// Decides on the newest image with all that is on its way, makes the records durable on a
    /// majority, and gives the decision's result with the image that they fold into here.
    ///
    /// # Errors
    /// [`QuorumError::NotController`] where another node is active: nothing was changed then.
    pub async fn propose_async<T, F>(&self, decide: F) -> Result<(T, Arc<Image>), QuorumError>
    where
        T: Send + 'static,
        F: FnOnce(&Image) -> Decision<T> + Send + 'static,
    {
        match self {
            Self::Voter(quorum) => quorum.propose(decide).await,
            Self::Observer(_) => Err(QuorumError::NotController { leader: None }),
        }
    }

    /// Whether this node is the active controller now.
    pub fn is_active(&self) -> bool {
        match self {
            Self::Voter(quorum) => quorum.is_active().is_some(),
            Self::Observer(_) => false,
        }
    }

    /// Follows whether this node is the active controller; `None` where it never is.
    pub fn activity(&self) -> Option<Activity> {
        match self {
            Self::Voter(quorum) => Some(quorum.activity()),
            Self::Observer(_) => None,
        }
    }

    /// The active controller's node, as far as is known here.
    pub fn controller_id(&self) -> Option<BrokerId> {
        match self {
            Self::Voter(quorum) => quorum.controller_id(),
            Self::Observer(followed) => followed.leader().map(|(leader, _)| leader.node_id),
        }
    }

    /// Has the active controller answer `payload`, over a connection of its own.
    ///
    /// # Errors
    /// [`QuorumError::NotController`] when nobody is known to be active, or the one that was
    /// asked is not any more: it has done nothing. [`QuorumError::LeadershipLost`] when the
    /// answer did not come.
    pub async fn forward(&self, payload: Bytes, patience: Duration) -> Result<Bytes, QuorumError> {
        match self {
            Self::Voter(quorum) => quorum.forward(payload, patience).await,
            Self::Observer(followed) => followed.forward(payload, patience).await,
        }
    }

    /// Where this voter stands; `None` where this node is none.
    pub fn status(&self) -> Option<NodeStatus> {
        match self {
            Self::Voter(quorum) => Some(quorum.status()),
            Self::Observer(_) => None,
        }
    }

    /// Ends when the log has failed, so that the process must end, with why; never where this
    /// node keeps none.
    pub async fn failed(&self) -> String {
        match self {
            Self::Voter(quorum) => quorum.failed().await,
            Self::Observer(_) => std::future::pending().await,
        }
    }

    /// Ends what runs, without waiting, as a process that is killed.
    pub fn abandon(&self) {
        match self {
            Self::Voter(quorum) => quorum.abandon(),
            Self::Observer(followed) => followed.close(),
        }
    }

    /// Stops following, and taking part.
    pub async fn close(&self) {
        match self {
            Self::Voter(quorum) => quorum.close().await,
            Self::Observer(followed) => followed.close(),
        }
    }
}
