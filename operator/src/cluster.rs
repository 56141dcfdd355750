//! `Cluster`: observe, plan, at most one disruptive step, status.

pub mod roller;
