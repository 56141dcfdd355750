//! Tidemark's custom resources: `Cluster`, `Topic` and `ConsumerGroup` of `tidemark.dev/v1alpha1`.
//!
//! Types with their rules (CEL, checked by the API server), what CEL cannot say ([`cluster::validate`]
//! and its siblings), and the plans for topics and groups: what is there and what is wanted in,
//! what to do out. Everything is pure, and nothing here speaks to Kubernetes or to a broker.
//!
//! A field is here only once it works.

#![allow(
    clippy::duplicated_attributes,
    reason = "two columns of one type look like one attribute twice"
)]

pub mod cluster;
pub mod common;
pub mod group;
pub mod manifest;
pub mod reference;
pub mod schema;
pub mod topic;
pub mod units;

pub use cluster::{Cluster, ClusterSpec, ClusterStatus};
pub use common::{ClusterRef, Invalid, condition, set_condition};
pub use group::{ConsumerGroup, ConsumerGroupSpec, ConsumerGroupStatus};
pub use topic::{Topic, TopicSpec, TopicStatus};

/// The API group of all three kinds.
pub const GROUP: &str = "tidemark.dev";
/// Their version.
pub const VERSION: &str = "v1alpha1";
