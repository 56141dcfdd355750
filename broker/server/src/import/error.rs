//! Why an import does not happen.

use super::SourceError;
use crate::format::FormatError;
use std::path::{Path, PathBuf};
use tidemark_config::ConfigError;
use tidemark_log::import::ImportError;
use tidemark_quorum::OfflineError;
use tidemark_quorum::decide::Refusal;

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportFailure {
    /// A data directory's checkpoint cannot be used.
    #[error("data directory {path}: {error}")]
    Checkpoint {
        /// The directory.
        path: PathBuf,
        /// Why.
        error: tidemark_log::OpenError,
    },
    /// The broker did not close its logs.
    #[error(
        "the broker of {path} was not stopped cleanly: start it once, stop it with SIGTERM, then import"
    )]
    NotClean {
        /// The directory.
        path: PathBuf,
    },
    /// Settings make no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is no broker's data.
    #[error(
        "{} holds no broker's data: name the data directory of a broker that has run", path.display()
    )]
    NoBroker {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A broker runs on the data.
    #[error(
        "a broker runs on {}: stop it, import, and start it again", path.display()
    )]
    Running {
        /// The data directory.
        path: PathBuf,
    },
    /// Not all data directories were named.
    #[error(
        "the broker has {has} data directories and {named} were named: name all of them in log.dirs"
    )]
    Directories {
        /// How many it registered.
        has: usize,
        /// How many were named.
        named: usize,
    },
    /// The sources are not what can be imported.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Some of a topic's partitions are not there.
    #[error(
        "topic {topic}: partition {missing} of {count} is not among the directories: name them all in one \
         command, from every broker of the Kafka cluster that has some"
    )]
    Missing {
        /// The topic.
        topic: String,
        /// Those that are missing.
        missing: String,
        /// How many the topic must have.
        count: i32,
    },
    /// The partition has records of its own.
    #[error(
        "partition {topic}-{partition} has records already, up to offset {end_offset}, and the offsets of others \
         cannot be kept beside them: delete the topic first, or leave {} out", from.display()
    )]
    HasRecords {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// Its end.
        end_offset: i64,
        /// What was to be imported.
        from: PathBuf,
    },
    /// Settings were given for a topic that exists.
    #[error(
        "topic {topic} exists, and its settings stay as they are: leave --set out, and change them with \
         `tidemark topic alter` while the broker runs"
    )]
    ConfigsOfExisting {
        /// The topic.
        topic: String,
    },
    /// The topic cannot be.
    #[error("topic {topic} cannot be made: {refusal}")]
    Refused {
        /// The topic.
        topic: String,
        /// Why.
        refusal: Refusal,
    },
    /// Retention would delete what was imported.
    #[error(
        "topic {topic} would keep records for {retention_ms} ms (retention.ms), and the first segment of {} has \
         nothing newer than {newest_ms} ms after 1970: it would be deleted at once. Set the topic's own retention.ms", from.display()
    )]
    Expired {
        /// The topic.
        topic: String,
        /// What was to be imported.
        from: PathBuf,
        /// Largest timestamp of its first segment, in milliseconds since 1970.
        newest_ms: i64,
        /// The topic's `retention.ms`.
        retention_ms: i64,
        /// Whether the topic exists.
        exists: bool,
    },
    /// A number that Kafka never gives.
    #[error("{}: {what} {found} is none that Kafka gave; nothing was imported", from.display())]
    Implausible {
        /// What was to be imported.
        from: PathBuf,
        /// Which number.
        what: &'static str,
        /// It.
        found: i64,
    },
    /// No room.
    #[error(
        "{} has {free_bytes} bytes free for {}, which has {needed_bytes}", path.display(), from.display()
    )]
    NoRoom {
        /// The data directory.
        path: PathBuf,
        /// What was to be imported.
        from: PathBuf,
        /// What is free.
        free_bytes: u64,
        /// What is needed.
        needed_bytes: u64,
    },
    /// A partition's directory cannot be taken.
    #[error("{}: {error}", from.display())]
    Partition {
        /// What was to be imported.
        from: PathBuf,
        /// Why it was not.
        error: ImportError,
    },
    /// A partition of the broker cannot be opened.
    #[error("partition {topic}-{partition} of the broker cannot be opened: {error}")]
    Open {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// Why.
        error: tidemark_log::OpenError,
    },
    /// A data directory cannot be read or written.
    #[error("{}: {error}", path.display())]
    Disk {
        /// The directory.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The data directories are not a broker's.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The metadata cannot be read or changed.
    #[error(transparent)]
    Metadata(#[from] OfflineError),
}

/// A disk's error with the directory that it is about.
pub(super) fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> ImportFailure {
    let path = path.to_owned();
    move |error| ImportFailure::Disk { path, error }
}
