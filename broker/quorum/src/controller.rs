//! The controller's shell: one proposal at a time, fsynced, then published.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidemark_env::disk::Disk;
use tidemark_model::{BrokerId, Image, MetadataRecord};
use tidemark_wire::Uuid;
use tokio::sync::watch;

use crate::decide::Decision;
use crate::identity::{DirectoryIdentity, IdentityError};
use crate::log::{MetadataLog, MetadataLogError, Recovery};
use crate::raft::{Fold, QuorumError};

/// Why a broker's metadata could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A data directory is not this broker's.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The metadata log is not sound.
    #[error(transparent)]
    Log(#[from] MetadataLogError),
    /// The first record could not be written.
    #[error(transparent)]
    Propose(#[from] QuorumError),
    /// No directory was given.
    #[error("log.dirs names no directory")]
    NoDirectory,
}

/// What [`Controller::start`] found or made.
#[derive(Debug)]
pub struct Started {
    /// The controller, its image published.
    pub controller: Arc<Controller>,
    /// The cluster.
    pub cluster_id: Uuid,
    /// The identity of each data directory, in the order given.
    pub directories: Vec<DirectoryIdentity>,
    /// What opening the metadata log had to do.
    pub recovery: Recovery,
}

/// The metadata of a cluster of one: a log and the image it folds into.
#[derive(Debug)]
pub struct Controller {
    log: Mutex<MetadataLog>,
    images: watch::Sender<Fold>,
}

impl Controller {
    /// Opens the metadata in `dir`. `must_exist` as for [`MetadataLog::open`]. Blocks.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        must_exist: bool,
    ) -> Result<(Arc<Controller>, Recovery), MetadataLogError> {
        let (log, image, recovery) = MetadataLog::open(disk, dir, must_exist)?;
        let controller = Controller {
            log: Mutex::new(log),
            images: watch::Sender::new(fold(Arc::new(image))),
        };
        Ok((Arc::new(controller), recovery))
    }

    /// Checks the identities of a broker's data directories, opens the metadata in the
    /// first one's `metadata/`, and gives directories that are new their identity. Blocks.
    ///
    /// `new_id` hands out random ids; the first start takes the cluster's from it.
    pub fn start(
        disk: &Arc<dyn Disk>,
        dirs: &[PathBuf],
        node_id: BrokerId,
        mut new_id: impl FnMut() -> Uuid,
    ) -> Result<Started, StartError> {
        let first = dirs.first().ok_or(StartError::NoDirectory)?;
        let mut found = Vec::with_capacity(dirs.len());
        for dir in dirs {
            found.push(DirectoryIdentity::read(&**disk, dir)?);
        }
        let formed = found.iter().flatten().next().map(|id| id.cluster_id);
        for (dir, identity) in dirs.iter().zip(&found) {
            if let (Some(identity), Some(cluster_id)) = (identity, formed) {
                identity.check(dir, cluster_id, node_id)?;
            }
        }
        let (controller, recovery) =
            Controller::open(disk.clone(), &first.join("metadata"), formed.is_some())?;
        let known = controller.image().cluster_id();
        let cluster_id = match known {
            Some(cluster_id) => cluster_id,
            None => {
                let cluster_id = formed.unwrap_or_else(&mut new_id);
                let records = vec![MetadataRecord::ClusterId { cluster_id }];
                controller.propose(|_| Decision {
                    records,
                    result: (),
                })?;
                cluster_id
            }
        };
        let directories = identify(disk, dirs, found, cluster_id, node_id, new_id)?;
        Ok(Started {
            controller,
            cluster_id,
            directories,
            recovery,
        })
    }

    /// Gives a broker the controller of another one in the same process, and its data
    /// directories their identities. Blocks.
    ///
    /// # Errors
    /// A directory is not this broker's; the controller has no cluster yet.
    pub fn join(
        controller: Arc<Controller>,
        disk: &Arc<dyn Disk>,
        dirs: &[PathBuf],
        node_id: BrokerId,
        new_id: impl FnMut() -> Uuid,
    ) -> Result<Started, StartError> {
        let mut found = Vec::with_capacity(dirs.len());
        for dir in dirs {
            found.push(DirectoryIdentity::read(&**disk, dir)?);
        }
        let cluster_id = controller.image().cluster_id();
        let cluster_id = cluster_id.ok_or(StartError::NoDirectory)?;
        let directories = identify(disk, dirs, found, cluster_id, node_id, new_id)?;
        Ok(Started {
            controller,
            cluster_id,
            directories,
            recovery: Recovery::default(),
        })
    }

    /// The newest image.
    pub fn image(&self) -> Arc<Image> {
        self.images.borrow().image.clone()
    }

    /// Follows images. A slow follower sees the newest, not each; compare with
    /// [`Image::changes_since`].
    pub fn watch(&self) -> watch::Receiver<Fold> {
        self.images.subscribe()
    }

    /// Decides on the newest image, makes the records durable, publishes the image
    /// they fold into, and returns the decision's result with that image. Blocks on
    /// the disk: not for async code.
    ///
    /// A decision without records changes nothing and touches no disk.
    pub fn propose<T>(
        &self,
        decide: impl FnOnce(&Image) -> Decision<T>,
    ) -> Result<(T, Arc<Image>), QuorumError> {
        let mut log = self.lock();
        let before = self.image();
        let Decision { records, result } = decide(&before);
        if records.is_empty() {
            return Ok((result, before));
        }
        let after = Arc::new(before.apply(&records)?);
        log.commit(&records).map_err(|error| match error {
            MetadataLogError::TooLarge(bytes) => QuorumError::TooLarge(bytes),
            other => QuorumError::Failed(other.to_string()),
        })?;
        self.images.send_replace(fold(after.clone()));
        if log.wants_snapshot()
            && let Err(error) = log.snapshot(&after)
        {
            tracing::error!(%error, "no metadata snapshot; the metadata log keeps growing");
        }
        Ok((result, after))
    }

    /// [`Controller::propose`] from async code, on the blocking pool.
    pub async fn propose_async<T, F>(
        self: &Arc<Self>,
        decide: F,
    ) -> Result<(T, Arc<Image>), QuorumError>
    where
        T: Send + 'static,
        F: FnOnce(&Image) -> Decision<T> + Send + 'static,
    {
        let controller = self.clone();
        tidemark_env::task::blocking(move || controller.propose(decide))
            .await
            .unwrap_or(Err(QuorumError::Stopping))
    }

    /// Whether the metadata log has failed, so that the broker should stop.
    pub fn has_failed(&self) -> bool {
        self.lock().has_failed()
    }

    fn lock(&self) -> MutexGuard<'_, MetadataLog> {
        // A panic while it was held cannot have left it half changed: every step of
        // the log leaves it consistent or marked as failed.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fold(image: Arc<Image>) -> Fold {
    Fold {
        image,
        ..Fold::default()
    }
}

/// Checks the identities of a broker's data directories, and gives one to each that is new.
fn identify(
    disk: &Arc<dyn Disk>,
    dirs: &[PathBuf],
    found: Vec<Option<DirectoryIdentity>>,
    cluster_id: Uuid,
    node_id: BrokerId,
    mut new_id: impl FnMut() -> Uuid,
) -> Result<Vec<DirectoryIdentity>, StartError> {
    let mut directories: Vec<DirectoryIdentity> = Vec::with_capacity(dirs.len());
    for (dir, identity) in dirs.iter().zip(found) {
        let identity = match identity {
            Some(identity) => {
                identity.check(dir, cluster_id, node_id)?;
                identity
            }
            None => {
                let identity = DirectoryIdentity {
                    cluster_id,
                    node_id,
                    directory_id: new_id(),
                };
                identity.write(&**disk, dir)?;
                identity
            }
        };
        if let Some(at) = directories
            .iter()
            .position(|other| other.directory_id == identity.directory_id)
        {
            return Err(IdentityError::Copied {
                first: dirs[at].clone(),
                second: dir.clone(),
            }
            .into());
        }
        directories.push(identity);
    }
    Ok(directories)
}
