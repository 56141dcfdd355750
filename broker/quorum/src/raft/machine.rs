//! The state machine as openraft sees it: the fold, published, and its snapshots.

use std::path::Path;
use std::sync::{Arc, PoisonError};

use openraft::storage::RaftStateMachine;
use openraft::{AnyError, RaftSnapshotBuilder, Snapshot, StorageIOError};
use tokio::sync::watch;

use super::error::StoreError;
use super::fold::Fold;
use super::snapshot::{self, SnapshotBytes};
use super::store::{LogStore, Shared, Snapshotted};
use super::types::{
    Applied, Entry, LogId, SnapshotMeta, StorageError, StoredMembership, TypeConfig,
};

/// Folds committed entries and publishes what they come to.
#[derive(Debug)]
pub struct Machine {
    fold: Fold,
    published: watch::Sender<Fold>,
    shared: Arc<Shared>,
}

impl Machine {
    /// A machine that goes on from `fold`, and publishes from there on.
    pub fn new(store: &LogStore, fold: Fold) -> (Machine, watch::Receiver<Fold>) {
        let (published, follow) = watch::channel(fold.clone());
        let shared = store.shared.clone();
        let machine = Machine {
            fold,
            published,
            shared,
        };
        (machine, follow)
    }
}

/// Runs what blocks: here where the disk is simulated, otherwise on the blocking pool.
async fn blocking<T: Send + 'static>(
    inline: bool,
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, AnyError> {
    let done = match inline {
        true => Ok(work()),
        false => tidemark_env::task::blocking(work).await,
    };
    match done {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(AnyError::new(&error)),
        Err(error) => Err(AnyError::new(&error)),
    }
}

/// Writes a snapshot unless there is a newer one; gives the one that is there then.
fn write_newer(shared: &Shared, fold: &Fold, bytes: SnapshotBytes) -> Result<(), StoreError> {
    let mut lock = shared
        .snapshot_lock
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if let Snapshotted::Through(through) = *shared.snapshotted.borrow()
        && through >= fold.applied
        && lock.is_some()
    {
        return Ok(());
    }
    let written = snapshot::write(&*shared.disk, &shared.dir, &bytes);
    shared.snapshot_is(match &written {
        Ok(()) => Snapshotted::Through(fold.applied),
        Err(_) => Snapshotted::Failed,
    });
    *lock = Some((snapshot::meta(fold), bytes));
    written
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        Ok((self.fold.applied, self.fold.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Applied>, StorageError>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let applied = entries
            .into_iter()
            .map(|entry| self.fold.apply(&entry))
            .collect();
        // Before anybody is answered: who has an answer finds its image.
        self.published.send_replace(self.fold.clone());
        Ok(applied)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            fold: self.fold.clone(),
            shared: self.shared.clone(),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotBytes>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        bytes: Box<SnapshotBytes>,
    ) -> Result<(), StorageError> {
        let shared = self.shared.clone();
        let expected = meta.last_log_id;
        let installed = blocking(self.shared.inline, move || {
            let fold = snapshot::decode(Path::new("the leader's snapshot"), &bytes)?;
            if fold.applied != expected {
                return Err(StoreError::corrupt(
                    Path::new("the leader's snapshot"),
                    0,
                    "it is not the one that was announced",
                ));
            }
            write_newer(&shared, &fold, *bytes)?;
            Ok(fold)
        });
        match installed.await {
            Ok(fold) => {
                self.fold = fold;
                self.published.send_replace(self.fold.clone());
                Ok(())
            }
            Err(error) => {
                self.shared.snapshot_is(Snapshotted::Failed);
                Err(StorageIOError::write_snapshot(Some(meta.signature()), error).into())
            }
        }
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError> {
        let current = self.shared.snapshot();
        Ok(current.map(|(meta, bytes)| Snapshot {
            meta,
            snapshot: Box::new(bytes),
        }))
    }
}

/// Makes a snapshot of the fold as it was when this was made.
#[derive(Debug)]
pub struct Builder {
    fold: Fold,
    shared: Arc<Shared>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError> {
        let fold = self.fold.clone();
        let shared = self.shared.clone();
        let meta = snapshot::meta(&fold);
        let bytes = blocking(self.shared.inline, move || {
            let bytes = snapshot::encode(&fold);
            write_newer(&shared, &fold, bytes.clone())?;
            Ok(bytes)
        });
        let bytes = bytes
            .await
            .map_err(|error| StorageIOError::write_snapshot(Some(meta.signature()), error))?;
        Ok(Snapshot {
            meta,
            snapshot: Box::new(bytes),
        })
    }
}
