//! Logs in object storage: what lies where in the bucket, how it gets there, how it is read.
//!
//! The layout is documented in `docs/tier-format.md` for whoever wants to write another reader.
//! Everything in a bucket is written once and never changed. What a partition has there is said
//! by its manifests, a chain of which each names its predecessor ([`Manifest`]); what no manifest
//! names does not count.
//!
//! * [`layout`], [`document`], [`catalog`], [`manifest`], [`orphans`], [`segment`] are pure: names,
//!   formats, decisions.
//! * [`bucket`], [`upload`], [`reader`], [`verify`], [`restore`] do what they say.
//!
//! **Invariant:** manifests of a partition form one chain; (generation, leader epoch) never
//! decreases along it; the offsets that one names are contiguous.

pub mod bucket;
pub mod budget;
pub mod catalog;
mod credentials;
pub mod document;
mod error;
pub mod layout;
pub mod manifest;
pub mod orphans;
pub mod reader;
pub mod restore;
pub mod segment;
mod shelf;
mod store;
mod streams;
pub mod upload;
pub mod verify;

#[cfg(test)]
mod tests;

pub use bucket::{Bucket, BucketOptions, Created};
pub use budget::{BytesPerSecond, Requests};
pub use credentials::{CredentialFiles, Credentials};
pub use error::TierError;
pub use layout::PartitionId;
pub use manifest::{ChunkRef, Garbage, Manifest, Place, SegmentRef, Writer};
pub use reader::{Cache, Reader};
pub use shelf::Shelf;
