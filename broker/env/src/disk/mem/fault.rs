//! Planned failures.

use std::io;

/// Which calls a [`Fault`] hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultOp {
    /// Reads of file contents.
    Read,
    /// Writes and changes of length.
    Write,
    /// Syncs of files and directories.
    Sync,
    /// Making, renaming and removing names.
    Name,
}

/// What a [`Fault`] answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultError {
    /// The device failed.
    Eio,
    /// The device is full. A write may have been done in part.
    Enospc,
}

impl FaultError {
    pub(super) fn error(self) -> io::Error {
        match self {
            FaultError::Eio => io::Error::from_raw_os_error(5),
            FaultError::Enospc => io::Error::from_raw_os_error(28),
        }
    }
}

/// A planned failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Which calls it hits.
    pub op: FaultOp,
    /// Only paths that contain this text; empty for all.
    pub path_contains: String,
    /// How many matching calls go well first.
    pub after: u32,
    /// How many calls fail then; it is used up afterwards.
    pub times: u32,
    /// The error.
    pub error: FaultError,
}
