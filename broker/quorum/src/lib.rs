//! The metadata log and the controller's decisions.
//!
//! [`decide`] holds pure functions from an image and a request to records;
//! [`Controller`] makes the records durable in the [`MetadataLog`] and publishes the
//! image that they fold into.
//!
//! **Invariant:** an image is published only after the batch that made it is fsynced,
//! and what a client is told comes from the batch that was applied.

mod controller;
pub mod decide;
mod dirs;
mod epoch_record;
mod identity;
mod log;
mod metadata;
mod offline;
pub mod raft;

#[cfg(test)]
mod tests;

pub use controller::{Controller, StartError, Started};
pub use epoch_record::{read_epoch, write_epoch};
pub use identity::{DirectoryIdentity, IdentityError};
pub use log::{MetadataLog, MetadataLogError, Recovery};
pub use metadata::Metadata;
pub use offline::{Offline, OfflineError};
pub use raft::QuorumError;
