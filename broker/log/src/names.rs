//! Names of the files in a partition's directory.

use std::path::{Path, PathBuf};

pub(crate) const LOG: &str = "log";
pub(crate) const INDEX: &str = "index";
pub(crate) const TIME_INDEX: &str = "timeindex";
pub(crate) const TXN_INDEX: &str = "txnindex";
pub(crate) const SNAPSHOT: &str = "snapshot";
pub(crate) const EPOCHS: &str = "leader-epoch-checkpoint";
pub(crate) const METADATA: &str = "partition.metadata";
pub(crate) const CHECKPOINT: &str = "tidemark-checkpoint";
/// Appended to the names of files that wait for their removal, by Kafka and older releases.
pub(crate) const DELETED_SUFFIX: &str = ".deleted";
/// Appended to the names of what recovery cut off but did not want to destroy.
pub(crate) const CUT_SUFFIX: &str = ".cut";

/// `<offset in 20 digits>.<extension>` in `dir`.
pub(crate) fn path(dir: &Path, offset: i64, extension: &str) -> PathBuf {
    dir.join(format!("{offset:020}.{extension}"))
}

/// The offset and extension of a name that [`path`] could have made.
pub(crate) fn parse(name: &str) -> Option<(i64, &str)> {
    let (digits, extension) = name.split_at_checked(20)?;
    let extension = extension.strip_prefix('.')?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((digits.parse().ok()?, extension))
}

/// `path` with `suffix` appended to its name.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
