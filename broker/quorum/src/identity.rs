//! Which cluster, broker and disk a data directory belongs to: Kafka's `meta.properties`.

use std::io;
use std::path::{Path, PathBuf};

use tidemark_env::disk::{Disk, read_file, write_file_atomic};
use tidemark_model::BrokerId;
use tidemark_wire::Uuid;

use crate::dirs::create_durably;

/// Name of the file in each data directory.
const FILE_NAME: &str = "meta.properties";
/// Longest file that is believed.
const MOST_BYTES: usize = 64 * 1024;

/// What a data directory belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryIdentity {
    /// The cluster.
    pub cluster_id: Uuid,
    /// The broker.
    pub node_id: BrokerId,
    /// The directory itself; another one after the disk was replaced.
    pub directory_id: Uuid,
}

/// Why a data directory is not used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The disk failed.
    #[error("data directory {}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// How.
        #[source]
        source: io::Error,
    },
    /// A file that does not say what it must.
    #[error("{}: {reason}; restore the file, or move the directory away to begin with an empty one", path.display())]
    Invalid {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Written by a newer version.
    #[error(
        "{} has version {version}, and this version of Tidemark reads version 1: run the version that wrote it, or a newer one", path.display()
    )]
    Newer {
        /// Which.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// It belongs to somebody else.
    #[error(
        "data directory {} belongs to {what} {found}, and this broker is of {what} {expected}: check node.id and log.dirs, or use an empty directory", path.display()
    )]
    Foreign {
        /// Which.
        path: PathBuf,
        /// "cluster" or "broker".
        what: &'static str,
        /// What it says.
        found: String,
        /// What it should say.
        expected: String,
    },
    /// Two directories with one identity: one is a copy of the other.
    #[error(
        "data directories {} and {} have the same directory.id: one is a copy of the other, remove it from log.dirs", first.display(), second.display()
    )]
    Copied {
        /// One.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// Something is there, and it is not ours.
    #[error(
        "data directory {} holds {entry} and no {FILE_NAME}: set log.dirs to an empty directory, or restore {FILE_NAME}", path.display()
    )]
    NotOurs {
        /// Which.
        path: PathBuf,
        /// Something found in it.
        entry: String,
    },
}

impl DirectoryIdentity {
    /// Reads the identity of `dir`; `None` if it has none and is empty enough to be given one.
    ///
    /// The directory is made if it is missing.
    pub fn read(disk: &dyn Disk, dir: &Path) -> Result<Option<Self>, IdentityError> {
        let path = dir.join(FILE_NAME);
        let io_error = |source| IdentityError::Io {
            path: dir.to_owned(),
            source,
        };
        create_durably(disk, dir).map_err(io_error)?;
        if !disk.exists(&path).map_err(io_error)? {
            return match Self::data_in(disk, dir)? {
                None => Ok(None),
                Some(entry) => Err(IdentityError::NotOurs {
                    path: dir.to_owned(),
                    entry,
                }),
            };
        }
        let bytes = read_file(disk, &path, MOST_BYTES).map_err(io_error)?;
        parse(&path, &bytes).map(Some)
    }

    /// Something in `dir` that is neither its identity nor the metadata: a broker ran there.
    ///
    /// # Errors
    /// [`IdentityError::Io`].
    pub fn data_in(disk: &dyn Disk, dir: &Path) -> Result<Option<String>, IdentityError> {
        let entries = disk.list(dir).map_err(|source| IdentityError::Io {
            path: dir.to_owned(),
            source,
        })?;
        let mut names = entries.into_iter().map(|entry| entry.name);
        Ok(names.find(|name| name != FILE_NAME && !is_harmless(name)))
    }

    /// Writes the identity of `dir`, durably.
    pub fn write(&self, disk: &dyn Disk, dir: &Path) -> Result<(), IdentityError> {
        let text = format!(
            "cluster.id={}\ndirectory.id={}\nnode.id={}\nversion=1\n",
            self.cluster_id, self.directory_id, self.node_id
        );
        write_file_atomic(disk, &dir.join(FILE_NAME), text.as_bytes()).map_err(|source| {
            IdentityError::Io {
                path: dir.to_owned(),
                source,
            }
        })
    }

    /// Fails when the directory belongs to another cluster or broker.
    ///
    /// # Errors
    /// [`IdentityError::Foreign`].
    pub fn check(
        &self,
        dir: &Path,
        cluster_id: Uuid,
        node_id: BrokerId,
    ) -> Result<(), IdentityError> {
        let foreign = |what, found: String, expected: String| IdentityError::Foreign {
            path: dir.to_owned(),
            what,
            found,
            expected,
        };
        if self.cluster_id != cluster_id {
            return Err(foreign(
                "cluster",
                self.cluster_id.to_string(),
                cluster_id.to_string(),
            ));
        }
        if self.node_id != node_id {
            return Err(foreign(
                "broker",
                self.node_id.to_string(),
                node_id.to_string(),
            ));
        }
        Ok(())
    }
}

/// What may be in a directory that is about to be ours: file systems' own names, and
/// what an interrupted first start leaves.
fn is_harmless(name: &str) -> bool {
    matches!(
        name,
        "lost+found" | ".lock" | "metadata" | "meta.properties.tmp"
    )
}

/// Reads Java properties as far as this file needs them.
fn parse(path: &Path, bytes: &[u8]) -> Result<DirectoryIdentity, IdentityError> {
    let invalid = |reason: String| IdentityError::Invalid {
        path: path.to_owned(),
        reason,
    };
    let text = std::str::from_utf8(bytes).map_err(|_| invalid("it is not text".to_owned()))?;
    let get = |key: &str| {
        text.lines()
            .map(str::trim)
            .filter(|line| !line.starts_with(['#', '!']))
            .filter_map(|line| line.split_once('='))
            .find(|(found, _)| found.trim() == key)
            .map(|(_, value)| value.trim())
            .ok_or_else(|| invalid(format!("it lacks {key}")))
    };
    let uuid = |key: &str| {
        let value = get(key)?;
        value
            .parse::<Uuid>()
            .map_err(|e| invalid(format!("{key}: {e}")))
    };
    let version: u32 = get("version")?
        .parse()
        .map_err(|_| invalid("version is not a number".to_owned()))?;
    if version > 1 {
        return Err(IdentityError::Newer {
            path: path.to_owned(),
            version,
        });
    }
    Ok(DirectoryIdentity {
        cluster_id: uuid("cluster.id")?,
        node_id: get("node.id")?
            .parse()
            .map_err(|_| invalid("node.id is not a number".to_owned()))?,
        directory_id: uuid("directory.id")?,
    })
}
