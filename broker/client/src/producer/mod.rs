//! Writing: partitioning, batching, and delivery in order.

pub mod accumulator;
pub mod partitioner;
