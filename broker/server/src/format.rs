//! Formatting: every data directory gets its identity once, and a controller's the token that lets
//! it begin a quorum.
//!
//! **Invariant:** the quorum's directory is written last, and an identity never changes: a
//! formatting that was cut short can be repeated with the same words, and gives the same ids.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use tidemark_config::BrokerSettings;
use tidemark_env::disk::Disk;
use tidemark_model::BrokerId;
use tidemark_quorum::raft::{self, InitialVoters, StoreError, VoterId, VoterIdentity, VoterNode};
use tidemark_quorum::{DirectoryIdentity, IdentityError};
use tidemark_wire::Uuid;

/// Who begins the metadata quorum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Voters {
    /// This node alone.
    Standalone,
    /// These; each is formatted with the same list.
    Initial(Vec<InitialVoter>),
    /// Others: this node joins a quorum that there is, or only follows it.
    Others,
}

/// One of the nodes that begin a quorum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitialVoter {
    /// Its `node.id`.
    pub node_id: BrokerId,
    /// `host:port` of its controllers' listener.
    pub address: String,
    /// The id that its metadata directory gets.
    pub directory_id: Uuid,
}

/// What formatting made, or found to be made already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Formatted {
    /// The cluster.
    pub cluster_id: Uuid,
    /// The node.
    pub node_id: BrokerId,
    /// Each directory and its id; the quorum's first where it is none of `log.dirs`.
    pub directories: Vec<(PathBuf, Uuid)>,
    /// The quorum's directory, where this node is a controller.
    pub quorum: Option<PathBuf>,
}

/// Why directories were not formatted.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// A directory cannot be used, or belongs to somebody else.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The quorum's directory cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// All of it is formatted.
    #[error("{} is formatted already, for node {node_id} of cluster {cluster_id}", path.display())]
    Already {
        /// The first directory.
        path: PathBuf,
        /// The node.
        node_id: BrokerId,
        /// The cluster.
        cluster_id: Uuid,
    },
    /// Voters were named, and this node is none of them.
    #[error(
        "node {0} is not among the initial voters: add it as {0}@HOST:PORT:DIRECTORY_ID, or format it without initial voters so that it joins them later"
    )]
    NotAVoter(BrokerId),
    /// The node's list of voters does not fit its directory.
    #[error(
        "{} has directory.id {found}, and the initial voters name {named} for node {node_id}: name the one that it has", path.display()
    )]
    OtherDirectory {
        /// The directory of the quorum.
        path: PathBuf,
        /// Its id.
        found: Uuid,
        /// The id in the list.
        named: Uuid,
        /// The node.
        node_id: BrokerId,
    },
    /// A node or a directory is in the list twice.
    #[error("the initial voters name {0} twice")]
    Twice(String),
    /// The node does not vote.
    #[error(
        "process.roles says that node {0} is no controller, so it cannot be a voter: format it without initial voters"
    )]
    NoController(BrokerId),
    /// The others could not reach it.
    #[error(
        "a quorum of several voters needs controller.listener.names, and that listener in listeners"
    )]
    NoListener,
}

/// Directories that were never formatted.
#[derive(Debug, thiserror::Error)]
#[error("not formatted: {}", .0.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "))]
pub struct Unformatted(pub Vec<PathBuf>);

/// The directory of the quorum's log.
pub fn quorum_dir(settings: &BrokerSettings) -> PathBuf {
    Path::new(&settings.quorum.log_dir).join("metadata")
}

/// The directories that have an identity: `log.dirs`, and the quorum's before them where it is
/// none of them.
fn directories(settings: &BrokerSettings) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = settings.log_dirs.iter().map(PathBuf::from).collect();
    let of_quorum = PathBuf::from(&settings.quorum.log_dir);
    if settings.roles.controller && !all.contains(&of_quorum) {
        all.insert(0, of_quorum);
    }
    all
}

/// The identities of a node's directories, in the order of `log.dirs` (after the quorum's, where
/// that is none of them). Blocks.
///
/// # Errors
/// [`Unformatted`] inside of `Ok` where there are some without one; else those of reading them.
pub fn read_formatted(
    disk: &Arc<dyn Disk>,
    settings: &BrokerSettings,
) -> Result<Result<Formatted, Unformatted>, FormatError> {
    let dirs = directories(settings);
    let mut found = Vec::with_capacity(dirs.len());
    for dir in &dirs {
        found.push(DirectoryIdentity::read(&**disk, dir)?);
    }
    let known: Vec<_> = found.iter().flatten().collect();
    check_known(&dirs, &found, settings.node_id, None)?;
    let quorum = settings.roles.controller.then(|| quorum_dir(settings));
    let mut missing: Vec<PathBuf> = dirs
        .iter()
        .zip(&found)
        .filter(|(_, identity)| identity.is_none())
        .map(|(dir, _)| dir.clone())
        .collect();
    if let Some(dir) = &quorum
        && missing.is_empty()
        && raft::read_identity(&**disk, dir)?.is_none()
    {
        missing.push(dir.clone());
    }
    let Some(first) = known.first().filter(|_| missing.is_empty()) else {
        return Ok(Err(Unformatted(missing)));
    };
    let cluster_id = first.cluster_id;
    let ids = known.iter().map(|identity| identity.directory_id);
    Ok(Ok(Formatted {
        cluster_id,
        node_id: settings.node_id,
        directories: dirs.into_iter().zip(ids).collect(),
        quorum,
    }))
}

/// All identities are of one cluster and of this node, and none is a copy.
fn check_known(
    dirs: &[PathBuf],
    found: &[Option<DirectoryIdentity>],
    node_id: BrokerId,
    cluster_id: Option<Uuid>,
) -> Result<(), FormatError> {
    let known = || {
        let both = dirs.iter().zip(found);
        both.filter_map(|(dir, identity)| Some((dir, identity.as_ref()?)))
    };
    let cluster_id = cluster_id.or_else(|| known().next().map(|(_, first)| first.cluster_id));
    for (at, (dir, identity)) in known().enumerate() {
        identity.check(dir, cluster_id.unwrap_or(identity.cluster_id), node_id)?;
        let earlier = known().take(at);
        let copied =
            |(_, other): &(_, &DirectoryIdentity)| other.directory_id == identity.directory_id;
        if let Some((first, _)) = earlier.into_iter().find(copied) {
            return Err(FormatError::Identity(IdentityError::Copied {
                first: first.clone(),
                second: dir.clone(),
            }));
        }
    }
    Ok(())
}

/// Formats the directories of the node that `settings` describe. Where `cluster_id` is not given,
/// it is that of a directory that has one, else `new_id` makes it up. Blocks.
///
/// # Errors
/// [`FormatError::Already`] where nothing is left to be done; see the others.
pub fn format(
    disk: &Arc<dyn Disk>,
    settings: &BrokerSettings,
    cluster_id: Option<Uuid>,
    voters: &Voters,
    mut new_id: impl FnMut() -> Uuid,
) -> Result<Formatted, FormatError> {
    let node_id = settings.node_id;
    let named = check_voters(settings, voters)?;
    let dirs = directories(settings);
    let mut found = Vec::with_capacity(dirs.len());
    for dir in &dirs {
        found.push(DirectoryIdentity::read(&**disk, dir)?);
    }
    check_known(&dirs, &found, node_id, cluster_id)?;
    if let Ok(formatted) = read_formatted(disk, settings)? {
        return Err(FormatError::Already {
            path: dirs[0].clone(),
            node_id,
            cluster_id: formatted.cluster_id,
        });
    }
    let cluster_id = cluster_id
        .or_else(|| found.iter().flatten().next().map(|known| known.cluster_id))
        .unwrap_or_else(&mut new_id);
    let of_quorum = PathBuf::from(&settings.quorum.log_dir);
    let mut directories = Vec::with_capacity(dirs.len());
    for (dir, identity) in dirs.into_iter().zip(found) {
        let named = named.filter(|_| dir == of_quorum);
        let directory_id = match (identity, named) {
            (Some(known), Some(named)) if known.directory_id != named => {
                return Err(FormatError::OtherDirectory {
                    path: dir,
                    found: known.directory_id,
                    named,
                    node_id,
                });
            }
            (Some(known), _) => known.directory_id,
            (None, named) => {
                let directory_id = named.unwrap_or_else(&mut new_id);
                let identity = DirectoryIdentity {
                    cluster_id,
                    node_id,
                    directory_id,
                };
                identity.write(&**disk, &dir)?;
                directory_id
            }
        };
        directories.push((dir, directory_id));
    }
    let quorum = settings.roles.controller.then(|| quorum_dir(settings));
    if let Some(dir) = &quorum
        && raft::read_identity(&**disk, dir)?.is_none()
    {
        let own = directories.iter().find(|(dir, _)| *dir == of_quorum);
        let voter = VoterId {
            node_id,
            directory_id: own.map_or_else(&mut new_id, |(_, id)| *id),
        };
        let initial = initial_voters(settings, voters, voter);
        let identity = VoterIdentity { cluster_id, voter };
        raft::format(&**disk, dir, identity, initial.as_ref())?;
    }
    Ok(Formatted {
        cluster_id,
        node_id,
        directories,
        quorum,
    })
}

/// The directory id that the list names for this node.
fn check_voters(settings: &BrokerSettings, voters: &Voters) -> Result<Option<Uuid>, FormatError> {
    let node_id = settings.node_id;
    if *voters != Voters::Others && !settings.roles.controller {
        return Err(FormatError::NoController(node_id));
    }
    let Voters::Initial(voters) = voters else {
        return Ok(None);
    };
    for (at, voter) in voters.iter().enumerate() {
        let earlier = &voters[..at];
        if earlier.iter().any(|other| other.node_id == voter.node_id) {
            return Err(FormatError::Twice(format!("node {}", voter.node_id)));
        }
        if earlier
            .iter()
            .any(|other| other.directory_id == voter.directory_id)
        {
            let text = format!("directory {}", voter.directory_id);
            return Err(FormatError::Twice(text));
        }
    }
    if voters.len() > 1 && settings.quorum.listener.is_none() {
        return Err(FormatError::NoListener);
    }
    let own = voters.iter().find(|voter| voter.node_id == node_id);
    own.map(|voter| Some(voter.directory_id))
        .ok_or(FormatError::NotAVoter(node_id))
}

fn initial_voters(
    settings: &BrokerSettings,
    voters: &Voters,
    own: VoterId,
) -> Option<InitialVoters> {
    match voters {
        Voters::Others => None,
        Voters::Standalone => {
            // A quorum of one is dialled by nobody until it grows.
            let address = settings.quorum.advertised.as_ref();
            let address = address.map_or_else(String::new, |l| format!("{}:{}", l.host, l.port));
            Some(InitialVoters::from([(own, VoterNode { address })]))
        }
        Voters::Initial(voters) => {
            let each = voters.iter().map(|voter| {
                let id = VoterId {
                    node_id: voter.node_id,
                    directory_id: voter.directory_id,
                };
                let address = voter.address.clone();
                (id, VoterNode { address })
            });
            Some(each.collect())
        }
    }
}

#[cfg(test)]
mod tests;
