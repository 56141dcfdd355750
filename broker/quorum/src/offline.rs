//! The metadata of a node that does not run, where it keeps them alone.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tidemark_env::clock;
use tidemark_env::disk::Disk;
use tidemark_model::{BrokerId, Image};
use tidemark_wire::Uuid;

use crate::decide::Decision;
use crate::raft::{NoForwarding, Quorum, QuorumConfig, QuorumError, QuorumStartError, TcpDial};

/// The only voter is elected in far less.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why the metadata of a node that does not run cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// Its log cannot be used.
    #[error(transparent)]
    Start(#[from] QuorumStartError),
    /// The change cannot be made.
    #[error(transparent)]
    Change(#[from] QuorumError),
    /// Others keep the metadata, too.
    #[error(
        "{0} nodes keep the cluster's metadata, and this one cannot change them by itself: this works on a cluster of one"
    )]
    Several(usize),
    /// The system gives no more descriptors.
    #[error("cannot read the metadata: {0}")]
    Runtime(std::io::Error),
}

/// The metadata of a node that does not run. Whoever uses them holds the lock of the directory.
#[derive(Debug)]
pub struct Offline {
    disk: Arc<dyn Disk>,
    config: QuorumConfig,
}

impl Offline {
    /// The metadata that `node_id` keeps in `dir`.
    pub fn new(disk: Arc<dyn Disk>, dir: PathBuf, cluster_id: Uuid, node_id: BrokerId) -> Offline {
        let mut config = QuorumConfig::new(dir, cluster_id, node_id);
        config.inline = true;
        Offline { disk, config }
    }

    /// Reads the metadata. Blocks; not for async code.
    ///
    /// # Errors
    /// See [`OfflineError`].
    pub fn image(&self) -> Result<Arc<Image>, OfflineError> {
        let nothing = |_: &Image| Decision {
            records: Vec::new(),
            result: (),
        };
        Ok(self.propose(nothing)?.1)
    }

    /// Decides a change and makes it durable. Blocks; not for async code.
    ///
    /// # Errors
    /// See [`OfflineError`].
    pub fn propose<T, F>(&self, decide: F) -> Result<(T, Arc<Image>), OfflineError>
    where
        T: Send + 'static,
        F: FnOnce(&Image) -> Decision<T> + Send + 'static,
    {
        let proposed = tidemark_env::runtime::block_on(async {
            let (disk, config) = (self.disk.clone(), self.config.clone());
            let forward = Arc::new(NoForwarding);
            let quorum = Quorum::start(disk, Arc::new(TcpDial), config, forward).await?;
            let voters = quorum.membership().voter_ids().count();
            let proposed = match voters {
                0 | 1 => propose(&quorum, decide).await,
                several => Err(OfflineError::Several(several)),
            };
            quorum.close().await;
            proposed
        });
        proposed.map_err(OfflineError::Runtime)?
    }
}

async fn propose<T, F>(quorum: &Quorum, decide: F) -> Result<(T, Arc<Image>), OfflineError>
where
    T: Send + 'static,
    F: FnOnce(&Image) -> Decision<T> + Send + 'static,
{
    let mut activity = quorum.activity();
    let active = async {
        while activity.epoch().is_none() {
            if !activity.changed().await {
                break;
            }
        }
    };
    tokio::select! {
        reason = quorum.failed() => return Err(QuorumError::Failed(reason).into()),
        waited = clock::timeout(PATIENCE, active) => {
            waited.map_err(|_| QuorumError::TimedOut)?;
        }
    }
    Ok(quorum.propose(decide).await?)
}
