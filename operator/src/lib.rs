//! The operator: brings Tidemark clusters, topics and groups to what their resources say.
//!
//! Each kind goes the same way: observe, plan (pure), build (pure), apply, status. Nothing is waited
//! for inside of a reconcile, and nothing is remembered between two of them: what was done stands in
//! labelled objects and in the cluster itself.

pub mod apply;
pub mod cluster;
pub mod contact;
pub mod context;
pub mod group;
pub mod lease;
pub mod metrics;
pub mod release;
pub mod run;
pub mod topic;
pub mod watched;

pub use context::{Context, Error};
pub use run::{Options, run};
