//! Names for the numbers that metadata is made of. They are aliases, not newtypes:
//! all of them come from and go to the wire as they are.

use tidemark_wire::Uuid;

/// Identity of a topic; a topic deleted and created again has another one (KIP-516).
pub type TopicId = Uuid;
/// A broker's number, from 0.
pub type BrokerId = i32;
/// Counts a broker's registrations; one that came before is stale (KIP-631).
pub type BrokerEpoch = i64;
/// Counts a partition's leaders; what is appended carries it.
pub type LeaderEpoch = i32;
/// Counts the changes of a partition's registration (KIP-497).
pub type PartitionEpoch = i32;
/// Position of a record in a partition.
pub type Offset = i64;
/// Identity of an idempotent producer (KIP-98).
pub type ProducerId = i64;

/// Stands among those that may hold some of a deleted topic for the bucket of tiered topics.
pub const IN_BUCKET: BrokerId = -2;

/// Stands where a partition has no leader.
pub const NO_LEADER: BrokerId = -1;

/// One partition of one topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// The topic.
    pub topic_id: TopicId,
    /// Index of the partition, from 0.
    pub partition: i32,
}
