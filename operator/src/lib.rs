//! The operator: brings Tidemark clusters, topics and groups to what their resources say.
//!
//! Each kind goes the same way: observe, plan (pure), build (pure), apply, status.

pub mod cluster;
