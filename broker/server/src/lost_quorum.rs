//! What a directory of the metadata quorum knows, and going on from it alone when the majority is
//! lost for good. Its process must be stopped.

use std::path::Path;
use std::sync::Arc;
use tidemark_env::disk::Disk;
use tidemark_quorum::raft::{self, StoreError};
use tidemark_wire::Uuid;

/// What a directory of the metadata quorum knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuorumDirectory {
    /// The cluster.
    pub cluster_id: Uuid,
    /// The node that it belongs to.
    pub node_id: i32,
    /// Its identity.
    pub directory_id: Uuid,
    /// Term and index of the last entry that it has, if any.
    pub last: Option<(u64, u64)>,
    /// Index of the last entry that is known here to be committed, if any.
    pub committed: Option<u64>,
    /// Changes after that, each of which may or may not have been acknowledged.
    pub uncertain_batches: usize,
    /// Topics in all that it has.
    pub topics: usize,
    /// Brokers in all that it has.
    pub brokers: usize,
    /// The other voters: node, directory, address.
    pub others: Vec<(i32, Uuid, String)>,
}

/// Looks into a directory of the metadata quorum. Blocks.
///
/// # Errors
/// When it is none, is in use or damaged, and those of the disk.
pub fn inspect_quorum(disk: &Arc<dyn Disk>, dir: &Path) -> Result<QuorumDirectory, StoreError> {
    let found = raft::inspect(disk, dir)?;
    let me = found.identity.voter;
    let membership = found.all.membership.membership();
    let others = membership.voter_ids().filter(|voter| *voter != me);
    let others = others.map(|voter| {
        let node = membership.get_node(&voter);
        let address = node.map(|node| node.address.clone()).unwrap_or_default();
        (voter.node_id, voter.directory_id, address)
    });
    Ok(QuorumDirectory {
        cluster_id: found.identity.cluster_id,
        node_id: me.node_id,
        directory_id: me.directory_id,
        last: found.last.map(|last| (last.leader_id.term, last.index)),
        committed: found.committed.applied.map(|applied| applied.index),
        uncertain_batches: found.uncertain_batches,
        topics: found.all.image.topic_count(),
        brokers: found.all.image.brokers().count(),
        others: others.collect(),
    })
}

/// Makes the voter of a directory the only one of its quorum; see [`raft::force`] for what is lost
/// by it. Blocks.
///
/// # Errors
/// As [`inspect_quorum`], and when the directory was in no quorum.
pub fn force_quorum(disk: &Arc<dyn Disk>, dir: &Path) -> Result<(), StoreError> {
    raft::force(disk, dir).map(drop)
}
