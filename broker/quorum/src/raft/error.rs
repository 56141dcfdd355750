//! Why a quorum's directory cannot be used.

use std::io;
use std::path::{Path, PathBuf};

use tidemark_model::CodecError;

/// Why a quorum's directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk failed.
    #[error("metadata quorum, {}: {source}", path.display())]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// How.
        #[source]
        source: io::Error,
    },
    /// Written by a newer Tidemark.
    #[error(
        "{} has format version {found}, and this version of Tidemark reads up to {newest}: run the version that wrote it, or a newer one", path.display()
    )]
    NewerFormat {
        /// Which file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version known here.
        newest: u32,
    },
    /// Bytes that were durable have changed.
    #[error(
        "{} is damaged at byte {position}: {reason}. Nothing was changed. While a majority of the quorum is well, remove this voter, empty the directory, and add it again", path.display()
    )]
    Corrupt {
        /// Which file.
        path: PathBuf,
        /// Where.
        position: u64,
        /// What is wrong there.
        reason: String,
    },
    /// Something sound that this version cannot read.
    #[error("{} holds what cannot be read at byte {position}: {source}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Where.
        position: u64,
        /// Why.
        #[source]
        source: CodecError,
    },
    /// The directory has no identity.
    #[error(
        "{} is not formatted: a new voter's directory is formatted once, and joins by a change of the quorum's members", path.display()
    )]
    NotFormatted {
        /// Which directory.
        path: PathBuf,
    },
    /// The directory has never been in a quorum.
    #[error(
        "{} of node {node_id} is in no quorum: only a directory that is can be gone on from", path.display()
    )]
    NotAVoter {
        /// Which directory.
        path: PathBuf,
        /// The node it belongs to.
        node_id: i32,
    },
    /// The directory has an identity already.
    #[error("{} is formatted already, for node {node_id} of cluster {cluster_id}", path.display())]
    Formatted {
        /// Which directory.
        path: PathBuf,
        /// The node it belongs to.
        node_id: i32,
        /// The cluster it belongs to.
        cluster_id: String,
    },
    /// The directory is somebody else's.
    #[error(
        "{} belongs to {what} {found}, and this is {what} {expected}: check node.id and the directories", path.display()
    )]
    Foreign {
        /// Which directory.
        path: PathBuf,
        /// "cluster" or "node".
        what: &'static str,
        /// What it says.
        found: String,
        /// What it should say.
        expected: String,
    },
    /// The log is in use.
    #[error("{} is in use by another process", path.display())]
    InUse {
        /// Which directory.
        path: PathBuf,
    },
    /// An earlier write failed, so what is on disk is not known.
    #[error("an earlier write to the metadata quorum's log failed; mend the disk and restart")]
    Failed,
}

impl StoreError {
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> StoreError + use<> {
        let path = path.to_owned();
        move |source| StoreError::Io { path, source }
    }

    pub(super) fn corrupt(path: &Path, position: usize, reason: impl Into<String>) -> StoreError {
        StoreError::Corrupt {
            path: path.to_owned(),
            position: position as u64,
            reason: reason.into(),
        }
    }

    pub(super) fn unreadable(
        path: &Path,
        position: usize,
    ) -> impl FnOnce(CodecError) -> StoreError + use<> {
        let path = path.to_owned();
        move |source| StoreError::Unreadable {
            path,
            position: position as u64,
            source,
        }
    }
}
