//! Room that is set aside on a data directory's disk for when it is full: one half for what the
//! metadata have to write so that something can be deleted, the other for the next start.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tidemark_env::clock;
use tidemark_env::disk::{Disk, OpenMode};

const FILE: &str = "tidemark-ballast";
/// All of it.
pub(crate) const BALLAST_BYTES: u64 = 4 << 20;
/// What a start may need before it can let go of the old ring: records to be put into segments,
/// checkpoints, epochs.
const TO_START_BYTES: u64 = BALLAST_BYTES / 2;
/// Without this much a start cannot even read its way to where it would wait.
const LEAST_BYTES: u64 = 256 << 10;
/// A full disk is asked this often whether there is room again.
pub(crate) const FULL_RETRY: Duration = Duration::from_secs(1);

/// The ballast of a data directory.
#[derive(Debug)]
pub(crate) struct Ballast {
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

impl Ballast {
    /// That of `dir`, there or not.
    pub(crate) fn of(disk: &Arc<dyn Disk>, dir: &Path) -> Ballast {
        Ballast {
            disk: Arc::clone(disk),
            path: dir.join(FILE),
        }
    }

    /// Sets aside what is missing of it; says whether it is whole. Where it cannot be, it stays as it
    /// was: more of it would only take what others need.
    pub(crate) fn make(&self) -> bool {
        let Ok(file) = self.disk.open(&self.path, OpenMode::Create) else {
            return false;
        };
        let Ok(before) = file.len() else {
            return false;
        };
        let zeros = vec![0; 1 << 20];
        let made = (|| {
            let mut at = before;
            while at < BALLAST_BYTES {
                let piece = zeros
                    .len()
                    .min(usize::try_from(BALLAST_BYTES - at).unwrap_or(0));
                file.write_at(&zeros[..piece], at)?;
                at += piece as u64;
            }
            file.sync_data()
        })();
        if made.is_err()
            && let Err(error) = file.set_len(before)
        {
            tracing::warn!(%error, "half a ballast cannot be taken back");
        }
        made.is_ok()
    }

    /// Lets go of what the metadata may need; the other half stays for the next start.
    pub(crate) fn let_go_of_half(&self) -> io::Result<()> {
        let file = match self.disk.open(&self.path, OpenMode::ReadWrite) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            opened => opened?,
        };
        match file.len()? > TO_START_BYTES {
            true => file.set_len(TO_START_BYTES),
            false => Ok(()),
        }
    }

    /// Whether the disk has room for as much of it as is missing when the disk is full: until then
    /// what is free is the metadata's.
    pub(crate) fn could_be_made(&self) -> bool {
        let free = self.free_bytes();
        free.is_none_or(|free| free >= BALLAST_BYTES - TO_START_BYTES)
    }

    /// `None` where the disk does not say.
    fn free_bytes(&self) -> Option<u64> {
        self.disk.free_bytes(self.path.parent()?).ok()
    }

    /// Lets go of all of it where a start would find no room otherwise, and waits until there is as
    /// much as it needs to begin with.
    pub(crate) async fn start(&self, waits: &StartWaits) {
        let short_of = |bytes| self.free_bytes().is_some_and(|free| free < bytes);
        if short_of(TO_START_BYTES) {
            match self.disk.remove(&self.path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    tracing::warn!(%error, "the ballast cannot be let go");
                }
                _ => {}
            }
        }
        while short_of(LEAST_BYTES) {
            waits.because(&format!("{}: nothing is free", self.path.display()));
            clock::sleep(FULL_RETRY).await;
        }
        waits.no_more();
    }
}

/// Why a broker that starts does not serve yet, where a disk has no room for it.
#[derive(Debug, Default)]
pub(crate) struct StartWaits(Mutex<Option<String>>);

impl StartWaits {
    /// The start waits; that is logged once.
    pub(crate) fn because(&self, reason: &str) {
        let mut waits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waits.is_some() {
            return;
        }
        *waits = Some(reason.to_owned());
        tracing::error!(
            reason,
            "the disk is full: the broker starts as soon as there is room. Grow the volume, or remove \
             what is not the broker's; no restart is needed"
        );
    }

    /// There is room.
    pub(crate) fn no_more(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// What is waited for.
    pub(crate) fn reason(&self) -> Option<String> {
        let waits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waits.clone()
    }
}

/// Whether the disk or a quota is used up.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
    )
}
