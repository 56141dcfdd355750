//! How a node comes to the metadata: as a voter with a directory of the quorum, or as one that
//! follows.

use super::Inbox;
use crate::ServerConfig;
use crate::broker::new_id;
use crate::format::{FormatError, Voters, format, read_formatted};
use crate::net::Acceptor;
use crate::tls::Tls;
use std::path::PathBuf;
use std::sync::Arc;
use tidemark_config::{BrokerSettings, Listener};
use tidemark_env::disk::Disk;
use tidemark_env::task::{self, TaskError};
use tidemark_quorum::raft::{
    Followed, ObserverConfig, Quorum, QuorumConfig, QuorumStartError, StoreError,
};
use tidemark_quorum::{DirectoryIdentity, IdentityError, Metadata};

/// Why a node does not come to the metadata.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// A data directory is not this node's, or cannot be formatted.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// Directories were never formatted.
    #[error(
        "not formatted: {}. Give them their identity with tidemark format",
        .0.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    Unformatted(Vec<PathBuf>),
    /// The metadata quorum cannot be taken part in.
    #[error(transparent)]
    Quorum(#[from] QuorumStartError),
    /// The process is shutting down.
    #[error(transparent)]
    Task(#[from] TaskError),
}

impl From<IdentityError> for JoinError {
    fn from(error: IdentityError) -> Self {
        Self::Format(error.into())
    }
}

/// What a node has when it has come to the metadata.
pub(crate) struct Joined {
    pub(crate) metadata: Metadata,
    /// Identities of `log.dirs`, in their order.
    pub(crate) identities: Vec<DirectoryIdentity>,
}

/// Takes part in the metadata quorum, or follows it. Where nothing is formatted and the
/// configuration says so, it begins a quorum of one.
pub(crate) async fn join(
    config: &ServerConfig,
    settings: &BrokerSettings,
    inbox: &Arc<Inbox>,
    (acceptor, tls): (Option<Acceptor>, &Tls),
) -> Result<Joined, JoinError> {
    let (disk, of) = (Arc::clone(&config.disk), settings.clone());
    let format_if_empty = config.format_if_empty;
    let formatted = task::blocking(move || formatted(&disk, &of, format_if_empty)).await??;
    let identities = formatted
        .directories
        .into_iter()
        .filter(|(dir, _)| {
            settings
                .log_dirs
                .iter()
                .any(|of| dir == of.as_ref() as &std::path::Path)
        })
        .map(|(_, directory_id)| DirectoryIdentity {
            cluster_id: formatted.cluster_id,
            node_id: formatted.node_id,
            directory_id,
        })
        .collect();
    let cluster_id = formatted.cluster_id;
    let metadata = match formatted.quorum {
        Some(dir) => {
            let mut of = QuorumConfig::new(dir, cluster_id, settings.node_id);
            of.election_ms = settings.quorum.election_timeout_ms;
            of.heartbeat_ms = of.heartbeat_ms.min(of.election_ms / 3);
            let advertised = settings.quorum.advertised.as_ref();
            // One for all interfaces, or any port, says nothing.
            let advertised = advertised.filter(|at| !at.host.is_empty() && at.port != 0);
            of.advertised = advertised.map(Listener::address);
            of.bootstrap = settings.quorum.bootstrap_servers.clone();
            let (disk, inbox) = (Arc::clone(&config.disk), Arc::clone(inbox));
            let quorum = Quorum::start(disk, tls.to_controllers(), of, inbox).await?;
            if let Some(acceptor) = acceptor {
                let serving = Arc::clone(&quorum);
                quorum.until_closed(acceptor.run_with(move |stream| serving.serve(stream)));
            }
            Metadata::Voter(quorum)
        }
        None => {
            let of = ObserverConfig {
                cluster_id,
                node_id: settings.node_id,
                voters: settings.quorum.bootstrap_servers.clone(),
            };
            Metadata::Observer(Followed::start(tls.to_controllers(), of))
        }
    };
    Ok(Joined {
        metadata,
        identities,
    })
}

/// The identities of a node's directories. Blocks.
fn formatted(
    disk: &Arc<dyn Disk>,
    settings: &BrokerSettings,
    format_if_empty: bool,
) -> Result<crate::Formatted, JoinError> {
    let missing = match read_formatted(disk, settings)? {
        Ok(formatted) => return Ok(formatted),
        Err(unformatted) => unformatted.0,
    };
    // Where there are identities and no metadata, they were lost: nothing takes their place.
    let dirs = settings.log_dirs.len();
    let quorum = crate::quorum_dir(settings);
    let of_quorum = tidemark_quorum::raft::read_identity(&**disk, &quorum);
    let is_known = of_quorum.map_err(FormatError::from)?.is_some();
    let others = || settings.log_dirs.iter().map(PathBuf::from);
    let is_new = others().all(|dir| missing.contains(&dir));
    if !is_known && !is_new {
        return Err(QuorumStartError::from(StoreError::NotFormatted { path: quorum }).into());
    }
    if !format_if_empty || !(is_known && missing.len() < dirs || settings.quorum.listener.is_none())
    {
        return Err(JoinError::Unformatted(missing));
    }
    Ok(format(disk, settings, None, &Voters::Standalone, new_id)?)
}
