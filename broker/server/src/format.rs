//! Formatting: every data directory gets its identity once, and a controller's the token that lets
//! it begin a quorum.
//!
//! **Invariant:** the quorum's directory is written last, and an identity never changes: a
//! formatting that was cut short can be repeated with the same words, and gives the same ids.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use tidemark_config::{BrokerSettings, Listener};
use tidemark_env::disk::Disk;
use tidemark_env::net::host_name;
use tidemark_model::{BrokerId, MetadataRecord};
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
    /// A node that joins has to be told what.
    #[error(
        "node {0} begins no quorum, so it joins a cluster that there is: say which by its cluster id"
    )]
    NoCluster(BrokerId),
    /// There was a quorum, and its directory is gone: a new one would know of no topic, and all
    /// records would be taken for a stranger's.
    #[error(
        "{} holds {entry}, so there was a quorum before, and {} is not formatted: bring that directory back, or, where other controllers keep the metadata, format it without initial voters", path.display(), quorum.display()
    )]
    Used {
        /// The directory.
        path: PathBuf,
        /// What is in it.
        entry: String,
        /// The quorum's directory, which is empty.
        quorum: PathBuf,
    },
    /// Two directories of one node that do not belong together.
    #[error(
        "{} has directory.id {found}, and the quorum's directory in it is of directory {of_quorum}: bring back what belongs together, or empty both", path.display()
    )]
    Mixed {
        /// The directory.
        path: PathBuf,
        /// Its id.
        found: Uuid,
        /// The id in the quorum's directory.
        of_quorum: Uuid,
    },
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
    /// The id that stands for none.
    #[error("the initial voters name no directory id for node {0}: give it a random one")]
    NoDirectoryId(BrokerId),
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

/// Directories that were never formatted, or not to the end.
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

/// What is there of a node's directories.
struct Found {
    /// Each directory, and its identity if it has one.
    dirs: Vec<(PathBuf, Option<DirectoryIdentity>)>,
    /// Where this node is a controller: the quorum's directory, and whose it is.
    quorum: Option<(PathBuf, Option<VoterIdentity>)>,
}

impl Found {
    /// Reads all, and fails where they are not of this node, of one cluster (`cluster_id`, where
    /// that is given), or copies of one another.
    fn read(
        disk: &dyn Disk,
        settings: &BrokerSettings,
        cluster_id: Option<Uuid>,
    ) -> Result<Self, FormatError> {
        let mut dirs = Vec::new();
        for dir in directories(settings) {
            let identity = DirectoryIdentity::read(disk, &dir)?;
            dirs.push((dir, identity));
        }
        let quorum = if settings.roles.controller {
            let dir = quorum_dir(settings);
            let identity = raft::read_identity(disk, &dir)?;
            Some((dir, identity))
        } else {
            None
        };
        let found = Self { dirs, quorum };
        found.check(settings, cluster_id.or_else(|| found.cluster_id()))?;
        Ok(found)
    }

    fn cluster_id(&self) -> Option<Uuid> {
        let of_dirs = self.known().next().map(|(_, known)| known.cluster_id);
        of_dirs.or_else(|| Some(self.voter()?.1.cluster_id))
    }

    fn known(&self) -> impl Iterator<Item = (&PathBuf, &DirectoryIdentity)> {
        let known = self.dirs.iter();
        known.filter_map(|(dir, identity)| Some((dir, identity.as_ref()?)))
    }

    fn voter(&self) -> Option<(&PathBuf, &VoterIdentity)> {
        let (dir, identity) = self.quorum.as_ref()?;
        Some((dir, identity.as_ref()?))
    }

    fn check(
        &self,
        settings: &BrokerSettings,
        cluster_id: Option<Uuid>,
    ) -> Result<(), FormatError> {
        let Some(cluster_id) = cluster_id else {
            return Ok(());
        };
        for (at, (dir, identity)) in self.known().enumerate() {
            identity.check(dir, cluster_id, settings.node_id)?;
            let copied =
                |(_, other): &(_, &DirectoryIdentity)| other.directory_id == identity.directory_id;
            if let Some((first, _)) = self.known().take(at).find(copied) {
                return Err(FormatError::Identity(IdentityError::Copied {
                    first: first.clone(),
                    second: dir.clone(),
                }));
            }
        }
        let Some((dir, voter)) = self.voter() else {
            return Ok(());
        };
        let as_directory = DirectoryIdentity {
            cluster_id: voter.cluster_id,
            node_id: voter.voter.node_id,
            directory_id: voter.voter.directory_id,
        };
        as_directory.check(dir, cluster_id, settings.node_id)?;
        let around = Path::new(&settings.quorum.log_dir);
        match self.known().find(|(dir, _)| *dir == around) {
            Some((path, known)) if known.directory_id != as_directory.directory_id => {
                Err(FormatError::Mixed {
                    path: path.clone(),
                    found: known.directory_id,
                    of_quorum: as_directory.directory_id,
                })
            }
            _ => Ok(()),
        }
    }

    /// The directories that have no identity; then the quorum's, where that is all that is missing.
    fn missing(&self) -> Vec<PathBuf> {
        let without = |(dir, identity): &(PathBuf, _)| match identity {
            None => Some(dir.clone()),
            Some(_) => None,
        };
        let missing: Vec<PathBuf> = self.dirs.iter().filter_map(without).collect();
        match &self.quorum {
            Some((dir, None)) if missing.is_empty() => vec![dir.clone()],
            _ => missing,
        }
    }

    /// All of it, where nothing is missing.
    fn whole(self, node_id: BrokerId) -> Result<Formatted, Unformatted> {
        let missing = self.missing();
        let Some(cluster_id) = self.cluster_id().filter(|_| missing.is_empty()) else {
            return Err(Unformatted(missing));
        };
        let known = self.known();
        Ok(Formatted {
            cluster_id,
            node_id,
            directories: known
                .map(|(dir, id)| (dir.clone(), id.directory_id))
                .collect(),
            quorum: self.quorum.map(|(dir, _)| dir),
        })
    }
}

/// The identities of a node's directories, in the order of `log.dirs` (after the quorum's, where
/// that is none of them). Blocks.
///
/// # Errors
/// [`Unformatted`] inside of `Ok` where there are some without one; directories that are not of
/// this node, or not of one cluster.
pub fn read_formatted(
    disk: &Arc<dyn Disk>,
    settings: &BrokerSettings,
) -> Result<Result<Formatted, Unformatted>, FormatError> {
    Ok(Found::read(&**disk, settings, None)?.whole(settings.node_id))
}

/// Formats the directories of the node that `settings` describe: those that have no identity yet.
/// Where `cluster_id` is not given, it is that of a directory that has one, else `new_id` makes it
/// up. Blocks. Whoever calls holds the locks of the directories.
///
/// # Errors
/// [`FormatError::Already`] where nothing is left to be done; see the others.
pub fn format(
    disk: &Arc<dyn Disk>,
    settings: &BrokerSettings,
    cluster_id: Option<Uuid>,
    voters: &Voters,
    new_id: impl FnMut() -> Uuid,
) -> Result<Formatted, FormatError> {
    format_with(disk, settings, cluster_id, voters, &[], new_id)
}

/// [`format`] for a cluster that comes back from a bucket: a quorum that this node begins starts
/// with `first`. Blocks.
///
/// # Errors
/// Those of [`format`].
pub fn format_with(
    disk: &Arc<dyn Disk>,
    settings: &BrokerSettings,
    cluster_id: Option<Uuid>,
    voters: &Voters,
    first: &[MetadataRecord],
    mut new_id: impl FnMut() -> Uuid,
) -> Result<Formatted, FormatError> {
    let (disk, node_id) = (&**disk, settings.node_id);
    let named = check_voters(settings, voters)?;
    let found = Found::read(disk, settings, cluster_id)?;
    if found.missing().is_empty() {
        return Err(FormatError::Already {
            cluster_id: found.cluster_id().unwrap_or_default(),
            path: found.dirs.into_iter().next().unwrap_or_default().0,
            node_id,
        });
    }
    check_unused(disk, &found, voters)?;
    let cluster_id = match cluster_id.or_else(|| found.cluster_id()) {
        Some(cluster_id) => cluster_id,
        None if *voters == Voters::Others => return Err(FormatError::NoCluster(node_id)),
        None => new_id(),
    };
    // A quorum's directory that has an identity goes before the list: it may have voted.
    let of_voter = found.voter().map(|(_, voter)| voter.voter.directory_id);
    let around = PathBuf::from(&settings.quorum.log_dir);
    let named = of_voter.or(named);
    for (dir, identity) in &found.dirs {
        let (Some(known), Some(named)) = (identity, named) else {
            continue;
        };
        if *dir == around && known.directory_id != named {
            return Err(FormatError::OtherDirectory {
                path: dir.clone(),
                found: known.directory_id,
                named,
                node_id,
            });
        }
    }
    let mut directories = Vec::with_capacity(found.dirs.len());
    for (dir, identity) in found.dirs {
        let directory_id = match (identity, named.filter(|_| dir == around)) {
            (Some(known), _) => known.directory_id,
            (None, named) => {
                let directory_id = named.unwrap_or_else(&mut new_id);
                let identity = DirectoryIdentity {
                    cluster_id,
                    node_id,
                    directory_id,
                };
                identity.write(disk, &dir)?;
                directory_id
            }
        };
        directories.push((dir, directory_id));
    }
    if let Some((dir, None)) = &found.quorum {
        let own = directories.iter().find(|(dir, _)| *dir == around);
        let voter = VoterId {
            node_id,
            directory_id: own.map_or_else(&mut new_id, |(_, id)| *id),
        };
        let initial = initial_voters(settings, voters, voter);
        let identity = VoterIdentity { cluster_id, voter };
        raft::format_with(disk, dir, identity, initial.as_ref(), first)?;
    }
    Ok(Formatted {
        cluster_id,
        node_id,
        directories,
        quorum: found.quorum.map(|(dir, _)| dir),
    })
}

/// A new quorum begins only where there was none: fails where a directory that has an identity
/// holds more than that.
fn check_unused(disk: &dyn Disk, found: &Found, voters: &Voters) -> Result<(), FormatError> {
    let Some((quorum, None)) = found.quorum.as_ref().filter(|_| *voters != Voters::Others) else {
        return Ok(());
    };
    for (dir, _) in found.known() {
        if let Some(entry) = DirectoryIdentity::data_in(disk, dir)? {
            return Err(FormatError::Used {
                path: dir.clone(),
                entry,
                quorum: quorum.clone(),
            });
        }
    }
    Ok(())
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
    if let Some(bad) = voters.iter().find(|voter| voter.directory_id.is_zero()) {
        return Err(FormatError::NoDirectoryId(bad.node_id));
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
            let address = address.map_or_else(String::new, dialled);
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

/// `host:port` of a listener, with this machine's name where it has no host.
fn dialled(listener: &Listener) -> String {
    let port = listener.port;
    match listener.host.as_str() {
        "" | "0.0.0.0" | "::" => format!("{}:{port}", host_name()),
        host if host.contains(':') => format!("[{host}]:{port}"),
        host => format!("{host}:{port}"),
    }
}

#[cfg(test)]
mod tests;
