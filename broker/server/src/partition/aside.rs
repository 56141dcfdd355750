//! Names of directories that are put aside.

use std::io;
use std::path::{Path, PathBuf};
use tidemark_env::disk::Disk;

/// A directory that waits for its removal ends so.
pub(crate) const DELETED_SUFFIX: &str = "-delete";
/// A directory that belongs to no topic of the metadata ends so.
pub(crate) const STRAY_SUFFIX: &str = "-stray";

/// The path in `dir` of `name` and `suffix`, or with a number between them where that is taken: the
/// same partition may have been put aside before, and neither takes the other's place.
///
/// # Errors
/// The disk does not say what there is.
pub(crate) fn free_path(
    disk: &dyn Disk,
    dir: &Path,
    name: &str,
    suffix: &str,
) -> io::Result<PathBuf> {
    let mut path = dir.join(format!("{name}{suffix}"));
    let mut number = 1;
    while disk.exists(&path)? {
        number += 1;
        path = dir.join(format!("{name}~{number}{suffix}"));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_env::disk::MemDisk;

    #[test]
    fn what_was_put_aside_before_stays() {
        let disk = MemDisk::new();
        let dir = Path::new("/data");
        for expected in ["t-0.id-stray", "t-0.id~2-stray", "t-0.id~3-stray"] {
            let path = free_path(&disk, dir, "t-0.id", STRAY_SUFFIX).unwrap();
            assert_eq!(path, dir.join(expected));
            disk.create_dir_all(&path).unwrap();
        }
    }
}
