//! What leaves a log at its beginning: by age, by size, by DeleteRecords.

use std::path::PathBuf;

use tidemark_env::disk::Disk;

/// A file that was renamed away and waits for its removal.
#[derive(Debug, Clone)]
pub(crate) struct Doomed {
    pub(crate) path: PathBuf,
    pub(crate) due_ms: i64,
}

impl Doomed {
    pub(crate) fn remove(&self, disk: &dyn Disk) {
        if let Err(error) = disk.remove(&self.path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "a deleted segment's file stays behind");
        }
    }
}
