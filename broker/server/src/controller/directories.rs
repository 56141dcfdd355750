//! Whose the data directories are, before anything else is read from them.

use crate::broker::new_id;
use std::path::{Path, PathBuf};
use tidemark_env::disk::Disk;
use tidemark_model::BrokerId;
use tidemark_quorum::raft::{
    self, InitialVoters, QuorumStartError, StoreError, VoterId, VoterIdentity, VoterNode,
};
use tidemark_quorum::{DirectoryIdentity, IdentityError};
use tidemark_wire::Uuid;

/// Name of the quorum's directory in the first data directory.
const METADATA: &str = "metadata";

/// Where a voter of the metadata quorum keeps its log.
pub(crate) fn metadata_dir(dirs: &[PathBuf]) -> PathBuf {
    dirs.first()
        .map_or_else(PathBuf::new, |dir| dir.join(METADATA))
}

/// Why data directories are not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DirectoriesError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Quorum(#[from] QuorumStartError),
}

impl From<StoreError> for DirectoriesError {
    fn from(error: StoreError) -> Self {
        Self::Quorum(error.into())
    }
}

/// Reads the identities of a node's data directories, in their order, and gives one to those that
/// were added. Blocks.
///
/// With `new_cluster`, directories that all are new become those of a new cluster of one; with
/// `member_of`, those of a node that only follows that cluster.
pub(crate) fn open(
    disk: &dyn Disk,
    dirs: &[PathBuf],
    node_id: BrokerId,
    new_cluster: bool,
    member_of: Option<Uuid>,
) -> Result<Vec<DirectoryIdentity>, DirectoriesError> {
    let mut found = Vec::with_capacity(dirs.len());
    for dir in dirs {
        found.push(DirectoryIdentity::read(disk, dir)?);
    }
    let formed = found.iter().flatten().next().map(|id| id.cluster_id);
    for (dir, identity) in dirs.iter().zip(&found) {
        if let (Some(identity), Some(cluster_id)) = (identity, formed) {
            identity.check(dir, cluster_id, node_id)?;
        }
    }
    let mut first_id = None;
    let cluster_id = match formed.or(member_of) {
        Some(cluster_id) => cluster_id,
        None if new_cluster => {
            let identity = format_alone(disk, &metadata_dir(dirs), node_id)?;
            first_id = Some(identity.voter.directory_id);
            identity.cluster_id
        }
        None => Uuid::ZERO,
    };
    let known = first_id.is_some() || member_of.is_some();
    if let (Some(None), Some(first), false) = (found.first(), dirs.first(), known) {
        // It should hold the metadata.
        let path = first.clone();
        return Err(StoreError::NotFormatted { path }.into());
    }
    let mut identities: Vec<DirectoryIdentity> = Vec::with_capacity(dirs.len());
    for (dir, identity) in dirs.iter().zip(found) {
        let identity = match identity {
            Some(identity) => identity,
            None => {
                let identity = DirectoryIdentity {
                    cluster_id,
                    node_id,
                    directory_id: first_id.take().unwrap_or_else(new_id),
                };
                identity.write(disk, dir)?;
                identity
            }
        };
        let same = |other: &DirectoryIdentity| other.directory_id == identity.directory_id;
        if let Some(at) = identities.iter().position(same) {
            return Err(IdentityError::Copied {
                first: dirs[at].clone(),
                second: dir.clone(),
            }
            .into());
        }
        identities.push(identity);
    }
    Ok(identities)
}

/// Makes `dir` that of the only voter of a new cluster; whose it is when an earlier start was
/// interrupted after that.
fn format_alone(
    disk: &dyn Disk,
    dir: &Path,
    node_id: BrokerId,
) -> Result<VoterIdentity, DirectoriesError> {
    if let Some(identity) = raft::read_identity(disk, dir)? {
        return Ok(identity);
    }
    let voter = VoterId {
        node_id,
        directory_id: new_id(),
    };
    let identity = VoterIdentity {
        cluster_id: new_id(),
        voter,
    };
    // Nobody else asks for it.
    let node = VoterNode::default();
    let voters = InitialVoters::from([(voter, node)]);
    raft::format(disk, dir, identity, Some(&voters))?;
    Ok(identity)
}
