//! What a bucket says of the cluster as a whole: whose it is, its topics, its metadata.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::document::Document;

/// Settings by name.
pub type Settings = BTreeMap<String, String>;

/// Who a bucket belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The cluster's id.
    pub cluster_id: String,
    /// Counts owners from 1; the highest is the one.
    pub generation: u32,
}

impl Document for Owner {
    const FORMAT: &'static str = "tidemark-owner";
}

/// A topic's name beside its data, for whoever has only the bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicName {
    /// The name.
    pub name: String,
}

impl Document for TopicName {
    const FORMAT: &'static str = "tidemark-topic";
}

/// A topic was deleted. Its objects go after the time that a deleted topic is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    /// The topic's name.
    pub name: String,
    /// When, in milliseconds since 1970.
    pub deleted_at_ms: i64,
}

impl Document for Deleted {
    const FORMAT: &'static str = "tidemark-deleted";
}

/// The cluster's metadata at one moment: what a restore needs of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The cluster's id.
    pub cluster_id: String,
    /// Its generation in the bucket.
    pub generation: u32,
    /// Index of the metadata's image; 0 for what a restore began with.
    pub index: u64,
    /// When it was taken, in milliseconds since 1970.
    pub taken_at_ms: i64,
    /// The first producer id that was not given out.
    pub next_producer_id: i64,
    /// Finalized feature levels, by name.
    pub features: BTreeMap<String, i16>,
    /// Ids of the brokers.
    pub brokers: Vec<i32>,
    /// Settings for all brokers that were set at run time.
    pub settings: Settings,
    /// Settings of groups, by name.
    pub groups: BTreeMap<String, Settings>,
    /// Topics, by name.
    pub topics: Vec<Topic>,
    /// Where the cluster came from, if it was restored and this is what it began with.
    #[serde(default)]
    pub restored: Option<Restored>,
}

impl Document for Snapshot {
    const FORMAT: &'static str = "tidemark-metadata";
}

impl Snapshot {
    /// Whether it says the same as another, but for when it was taken.
    pub fn says_the_same(&self, other: &Snapshot) -> bool {
        let timeless = |snapshot: &Snapshot| Snapshot {
            index: 0,
            taken_at_ms: 0,
            restored: None,
            ..snapshot.clone()
        };
        timeless(self) == timeless(other)
    }

    /// The highest leader epoch of any partition.
    pub fn highest_epoch(&self) -> i32 {
        let epochs = self.topics.iter().flat_map(|topic| &topic.leader_epochs);
        epochs.copied().max().unwrap_or(0)
    }
}

/// A topic in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Its id.
    pub topic_id: String,
    /// How many replicas its partitions have.
    pub replication_factor: i32,
    /// Its own settings.
    pub settings: Settings,
    /// The leader epoch of each partition.
    pub leader_epochs: Vec<i32>,
    /// In what a restore begins with: where the log of each partition begins; otherwise empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub first_offsets: Vec<i64>,
    /// In what a restore begins with: whether the records of each partition come back from a
    /// backup; otherwise empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from_backup: Vec<bool>,
}

/// Where a restored cluster came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// The bucket's address.
    pub bucket: String,
    /// The cluster whose it was.
    pub cluster_id: String,
    /// The generation of it.
    pub generation: u32,
    /// The moment as of which it came back, in milliseconds since 1970; none for the latest.
    pub at_ms: Option<i64>,
    /// When, in milliseconds since 1970.
    pub restored_at_ms: i64,
}
