//! Why a batch of records did not apply.

use tidemark_wire::Uuid;

use crate::ids::{BrokerEpoch, BrokerId, PartitionEpoch, ProducerId, TopicId};
use crate::names::InvalidTopicName;

/// Why a batch of records did not apply. Nothing of it did.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message says it")]
pub enum Rejected {
    #[error("the cluster id is already set")]
    ClusterIdSet,
    #[error("feature level {level} of {name} is negative")]
    NegativeFeatureLevel { name: String, level: i16 },
    #[error("broker {broker_id} has epoch {actual:?}, and the record expects {expected:?}")]
    BrokerEpoch {
        broker_id: BrokerId,
        expected: Option<BrokerEpoch>,
        actual: Option<BrokerEpoch>,
    },
    #[error("broker id {0} is negative")]
    NegativeBrokerId(BrokerId),
    #[error("new epoch {new} of broker {broker_id} is not above {previous}")]
    BrokerEpochNotRaised {
        broker_id: BrokerId,
        previous: BrokerEpoch,
        new: BrokerEpoch,
    },
    #[error(
        "broker {broker_id} registered anew or left, but the batch does not raise the leader epoch of partition {partition} of topic {topic_id}, which it leads"
    )]
    LeaderEpochKept {
        broker_id: BrokerId,
        topic_id: TopicId,
        partition: i32,
    },
    #[error(transparent)]
    TopicName(#[from] InvalidTopicName),
    #[error("a topic named {0} exists already")]
    TopicExists(String),
    #[error("topic {new} collides with existing topic {existing}: '.' and '_' count as one")]
    TopicCollides { new: String, existing: String },
    #[error("topic id {0} is reserved or in use")]
    TopicIdTaken(TopicId),
    #[error("topic id {0} cannot come back without partitions and replicas")]
    EmptyRestore(TopicId),
    #[error("no topic has id {0}")]
    UnknownTopic(TopicId),
    #[error("topic {topic_id} has no partition {partition}")]
    UnknownPartition { topic_id: TopicId, partition: i32 },
    #[error("topic {topic_id} has {actual} partitions, so partition {partition} cannot be next")]
    PartitionOutOfOrder {
        topic_id: TopicId,
        partition: i32,
        actual: usize,
    },
    #[error(
        "partition {partition} of topic {topic_id} has epoch {actual}, and the record expects {expected}"
    )]
    PartitionEpoch {
        topic_id: TopicId,
        partition: i32,
        expected: PartitionEpoch,
        actual: PartitionEpoch,
    },
    #[error("partition {partition} of topic {topic_id}: {reason}")]
    UnsoundPartition {
        topic_id: TopicId,
        partition: i32,
        reason: &'static str,
    },
    #[error(
        "producer ids from {first} to {next} were asked for, and {actual} is the next free one"
    )]
    ProducerIds {
        first: ProducerId,
        next: ProducerId,
        actual: ProducerId,
    },
    #[error(
        "broker {broker_id} is fenced, stops, lost its logs or leaves, but the batch keeps it in the {role} of partition {partition} of topic {topic_id}"
    )]
    KeptIn {
        broker_id: BrokerId,
        role: &'static str,
        topic_id: TopicId,
        partition: i32,
    },
    #[error("broker {0} is shutting down and cannot be unfenced: it has to register again")]
    ShuttingDown(BrokerId),
    #[error("broker {broker_id} is leased to {holder:?}, not to {token}")]
    Lease {
        broker_id: BrokerId,
        token: Uuid,
        holder: Option<Uuid>,
    },
    #[error("decided on image {decided_at}, and {actual} is the newest")]
    Outdated { decided_at: u64, actual: u64 },
    #[error("the data of topic {topic_id} is not waited for from broker {broker_id}")]
    NoDeletion {
        topic_id: TopicId,
        broker_id: BrokerId,
    },
    #[error("no more changes fit: a counter is at its end")]
    Exhausted,
}
