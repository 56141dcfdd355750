//! Who the members are, and changing them: what the quorum and its listener both do on the leader.

use std::collections::BTreeMap;
use std::time::Duration;

use openraft::ChangeMembers;
use tidemark_env::clock;

use super::propose::{QuorumError, refused};
use super::types::{Membership, Raft, VoterId, VoterNode};

/// A change that nobody asked for by hand takes no longer than this, or is tried again later.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The members, as of the newest entry of the log.
pub(super) fn members(raft: &Raft) -> Membership {
    let metrics = raft.metrics();
    metrics.borrow().membership_config.membership().clone()
}

/// Changes the members, with `retain` so that who loses a vote stays a learner.
///
/// # Errors
/// [`QuorumError::TimedOut`] when a majority does not agree within `patience`.
pub(super) async fn change_members(
    raft: &Raft,
    change: ChangeMembers<VoterId, VoterNode>,
    retain: bool,
    patience: Duration,
) -> Result<(), QuorumError> {
    match clock::timeout(patience, raft.change_membership(change, retain)).await {
        Ok(changed) => changed.map(drop).map_err(|error| refused(&error, raft)),
        Err(_) => Err(QuorumError::TimedOut),
    }
}

/// A node id has one directory at a time: a learner with another one is what the node had before,
/// and goes. Gives the members after that.
///
/// # Errors
/// [`QuorumError::Failed`] where the other directory has a vote.
pub(super) async fn make_way(
    raft: &Raft,
    node: VoterId,
    patience: Duration,
) -> Result<Membership, QuorumError> {
    let known = members(raft);
    let is_other = |known: &VoterId| known.node_id == node.node_id && *known != node;
    let before = known.nodes().map(|(known, _)| *known).find(is_other);
    let Some(before) = before else {
        return Ok(known);
    };
    if known.voter_ids().any(|voter| voter == before) {
        return Err(QuorumError::Failed(format!(
            "node {} is known with directory {}: remove that one first",
            before.node_id, before.directory_id
        )));
    }
    let gone = ChangeMembers::RemoveNodes([before].into());
    change_members(raft, gone, true, patience).await?;
    Ok(members(raft))
}

/// Counts `from` among the members, without a vote.
///
/// # Errors
/// Those of [`make_way`] and [`change_members`].
pub(super) async fn admit(raft: &Raft, from: VoterId, address: String) -> Result<(), QuorumError> {
    let known = make_way(raft, from, PATIENCE).await?;
    if known.get_node(&from).is_some() {
        return Ok(());
    }
    let node = BTreeMap::from([(from, VoterNode { address })]);
    change_members(raft, ChangeMembers::AddNodes(node), true, PATIENCE).await?;
    tracing::info!(node = %from, "a node without a vote follows the metadata quorum");
    Ok(())
}
