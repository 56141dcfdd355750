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
mod identity;
mod log;
pub mod raft;

#[cfg(test)]
mod tests;

pub use controller::{Controller, ProposeError, StartError, Started};
pub use identity::{DirectoryIdentity, IdentityError};
pub use log::{MetadataLog, MetadataLogError, Recovery};
