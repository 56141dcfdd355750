//! A small async Kafka client: the command line, the operator and the tests speak through it.
//!
//! [`Cluster`] knows where the brokers are and sends any request of [`tidemark_wire`] at the newest
//! version that both sides know; [`admin`], [`producer`] and [`consumer`] are what people do with it.
//! It works against any Kafka cluster, not only ours.
//!
//! **Invariant:** within a partition records are sent and delivered in order, whatever is retried.

pub mod admin;
pub mod cluster;
pub mod connection;
pub mod consumer;
pub mod error;
pub mod metadata;
pub mod murmur2;
pub mod producer;

pub use cluster::{Cluster, ClusterOptions, Lane, Node};
pub use connection::{BrokerVersions, Connection, ConnectionOptions};
pub use error::{ClientError, error_code};
pub use metadata::{Broker, ClusterInfo, PartitionInfo, TopicInfo, TopicPartition, Topics};
pub use tidemark_records::Compression;
