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
pub mod murmur2;
pub mod producer;

pub use cluster::{
    Broker, Cluster, ClusterInfo, ClusterOptions, Lane, Node, PartitionInfo, TopicInfo, Topics,
};
pub use connection::{BrokerVersions, Connection, ConnectionOptions};
pub use consumer::assignor::TopicPartition;
pub use error::{ClientError, error_code};
pub use tidemark_records::Compression;
