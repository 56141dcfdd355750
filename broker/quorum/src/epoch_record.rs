//! What each log directory says of the broker epoch that it was used in last.
//!
//! Written before the broker asks to be unfenced in that epoch: a directory that says less than
//! the cluster's metadata was not there when the broker last acknowledged anything.

use std::io;
use std::path::Path;

use tidemark_env::disk::{Disk, read_file, write_file_atomic};
use tidemark_model::BrokerEpoch;

use crate::IdentityError;
use crate::decide::RecordedDirectory;
use crate::identity::DirectoryIdentity;

/// Name of the file in each data directory.
const FILE_NAME: &str = "tidemark-epoch";
/// Longest file that is believed.
const MOST_BYTES: usize = 4096;

/// Reads what `dir`, of that identity, says of itself. Blocks.
///
/// # Errors
/// Those of the disk, and of a file that does not say what it must.
pub fn read_epoch(
    disk: &dyn Disk,
    dir: &Path,
    identity: &DirectoryIdentity,
) -> Result<RecordedDirectory, IdentityError> {
    let path = dir.join(FILE_NAME);
    let io_error = |source: io::Error| IdentityError::Io {
        path: path.clone(),
        source,
    };
    let mut recorded = RecordedDirectory {
        directory_id: identity.directory_id,
        cluster_id: identity.cluster_id,
        broker_id: identity.node_id,
        broker_epoch: None,
    };
    if disk.exists(&path).map_err(io_error)? {
        let bytes = read_file(disk, &path, MOST_BYTES).map_err(io_error)?;
        let text = std::str::from_utf8(&bytes).ok();
        let epoch = text.and_then(|text| text.trim().strip_prefix("broker.epoch="));
        let epoch: Option<BrokerEpoch> = epoch.and_then(|epoch| epoch.parse().ok());
        let invalid = || IdentityError::Invalid {
            path: path.clone(),
            reason: "it does not name a broker epoch".to_owned(),
        };
        recorded.broker_epoch = Some(epoch.ok_or_else(invalid)?);
    }
    Ok(recorded)
}

/// Has `dir` say that it is used in `epoch`, durably. Blocks.
///
/// # Errors
/// Those of the disk.
pub fn write_epoch(disk: &dyn Disk, dir: &Path, epoch: BrokerEpoch) -> Result<(), IdentityError> {
    let path = dir.join(FILE_NAME);
    let text = format!("broker.epoch={epoch}\n");
    write_file_atomic(disk, &path, text.as_bytes())
        .map_err(|source| IdentityError::Io { path, source })
}
