//! Making directories that survive a power cut.

use std::io;
use std::path::{Path, PathBuf};

use tidemark_env::disk::Disk;

/// Makes `path` and its missing parents, and makes their names durable: a file synced
/// in a directory whose own name was never synced is lost with it.
pub(crate) fn create_durably(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    let mut made = Vec::new();
    for ancestor in path.ancestors().filter(|a| !a.as_os_str().is_empty()) {
        if disk.exists(ancestor)? {
            break;
        }
        made.push(ancestor);
    }
    disk.create_dir_all(path)?;
    for dir in made {
        disk.sync_dir(&parent(dir))?;
    }
    // It may have been made by an earlier start that was cut short before it synced.
    match disk.sync_dir(&parent(path)) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        other => other,
    }
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
        Some(parent) => parent.to_owned(),
        None => path.to_owned(),
    }
}
