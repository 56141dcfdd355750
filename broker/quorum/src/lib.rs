//! The metadata log and the controller's decisions.
//!
//! [`decide`] holds pure functions from an image and a request to records; [`raft`] makes the
//! records durable on a majority of the voters and publishes the image that they fold into, on
//! each node's [`Metadata`]. A single broker is a quorum of one.
//!
//! **Invariant:** an image is published only after the batch that made it is fsynced on a
//! majority, and what a client is told comes from the batch that was applied.

pub mod decide;
mod dirs;
mod epoch_record;
mod identity;
mod metadata;
mod offline;
pub mod raft;

#[cfg(test)]
mod tests;

pub use epoch_record::{read_epoch, write_epoch};
pub use identity::{DirectoryIdentity, IdentityError};
pub use metadata::Metadata;
pub use offline::{Offline, OfflineError};
pub use raft::QuorumError;
