//! What a process cannot go on with.

use std::path::PathBuf;
use tokio::sync::watch;

/// Why the process has to end, and what whoever runs it should do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fatal {
    /// What a disk's page cache holds cannot be trusted any more; the directory is marked.
    #[error("the disk of data directory {} failed: {reason}", dir.display())]
    Disk {
        /// The data directory.
        dir: PathBuf,
        /// The first error.
        reason: String,
    },
    /// Files of a log are half changed for want of room.
    #[error("a log of data directory {} could not be changed on a full disk: {reason}", dir.display())]
    Full {
        /// The data directory.
        dir: PathBuf,
        /// The error.
        reason: String,
    },
    /// A disk does not answer: what was given to it may become durable, and nobody can wait for that.
    #[error("the disk of data directory {} has not finished a write for {} ms", dir.display(), .for_ms)]
    Stuck {
        /// The data directory.
        dir: PathBuf,
        /// How long at least, in milliseconds.
        for_ms: u64,
    },
    /// This node's part of the metadata quorum has ended.
    #[error("the metadata log cannot be written: {0}")]
    Metadata(String),
    /// The registration is over.
    #[error("{0}")]
    Unregistered(String),
}

impl Fatal {
    /// The next step, in the words of a command's `next:`.
    pub fn next(&self) -> &'static str {
        match self {
            Self::Disk { .. } => {
                "replace the disk, then start again with an empty directory in its place"
            }
            Self::Full { .. } | Self::Metadata(_) => {
                "look at the disk, make room where it is full, then start again"
            }
            Self::Stuck { .. } => {
                "look at the disk: the kernel's log says what it waits for. Start again once it answers, \
                 or with an empty directory on another one"
            }
            Self::Unregistered(_) => {
                "look for another process with this node.id; where there is none, start again"
            }
        }
    }
}

/// Tells of the first one.
pub(crate) type Failed = watch::Sender<Option<Fatal>>;
/// Hears of it.
pub(crate) type Failing = watch::Receiver<Option<Fatal>>;

/// Waits for it.
pub(crate) async fn first(failing: &Failing) -> Fatal {
    let mut failing = failing.clone();
    let told = failing.wait_for(Option::is_some).await;
    match told.ok().and_then(|fatal| fatal.clone()) {
        Some(fatal) => fatal,
        // Nobody is left who could say so.
        None => std::future::pending().await,
    }
}
