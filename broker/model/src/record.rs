//! The records that metadata is made of. Each carries what must hold for it to apply.

use std::fmt;

use crate::ids::{BrokerEpoch, BrokerId, LeaderEpoch, PartitionEpoch, ProducerId, TopicId};
use tidemark_wire::Uuid;

/// What has settings of its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ConfigResource {
    /// A topic, by identity: a topic created again starts without settings.
    Topic(TopicId),
    /// One broker.
    Broker(BrokerId),
    /// All brokers.
    AllBrokers,
    /// A group.
    Group(String),
}

impl fmt::Display for ConfigResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic(id) => write!(f, "topic {id}"),
            Self::Broker(id) => write!(f, "broker {id}"),
            Self::AllBrokers => f.write_str("all brokers"),
            Self::Group(name) => write!(f, "group {name}"),
        }
    }
}

/// Where a broker can be reached on one listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The listener's name.
    pub name: String,
    /// Host that clients are told.
    pub host: String,
    /// Port that clients are told.
    pub port: u16,
    /// Kafka's number of the protocol; 0 is PLAINTEXT.
    pub security_protocol: i16,
}

/// One change of the cluster's metadata.
///
/// Stored and sent; a field is only ever added with a new version of its record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetadataRecord {
    /// Names the cluster. Applies once.
    ClusterId {
        /// The identity.
        cluster_id: Uuid,
    },
    /// Finalizes a feature at a level (KIP-584).
    FeatureLevel {
        /// The feature, such as `group.version`.
        name: String,
        /// Its level; 0 turns it off.
        level: i16,
    },
    /// A process has become a broker.
    ///
    /// Applies if `previous_epoch` is the epoch that broker id has now, and if the same
    /// batch bumps the leader epoch of every partition it leads.
    BrokerRegistered {
        /// Its number.
        broker_id: BrokerId,
        /// Identity of the process.
        incarnation_id: Uuid,
        /// Its new epoch, above the previous one.
        broker_epoch: BrokerEpoch,
        /// The epoch that it replaces, `None` for a broker id never seen.
        previous_epoch: Option<BrokerEpoch>,
        /// Identities of its log directories.
        directories: Vec<Uuid>,
        /// Where to reach it.
        endpoints: Vec<Endpoint>,
        /// Its rack.
        rack: Option<String>,
        /// Whether it may not lead yet.
        fenced: bool,
    },
    /// A broker may lead from now on, or no more. Applies if `broker_epoch` is its epoch.
    BrokerFenced {
        /// The broker.
        broker_id: BrokerId,
        /// Its epoch.
        broker_epoch: BrokerEpoch,
        /// Whether it may not lead.
        fenced: bool,
    },
    /// A broker is gone for good. Applies if `broker_epoch` is its epoch, and if the same
    /// batch bumps the leader epoch of every partition it leads.
    BrokerUnregistered {
        /// The broker.
        broker_id: BrokerId,
        /// Its epoch.
        broker_epoch: BrokerEpoch,
    },
    /// A topic begins, without partitions. Applies if neither name nor id is taken.
    TopicCreated {
        /// Its identity.
        topic_id: TopicId,
        /// Its name.
        name: String,
    },
    /// A topic gets its next partition. Applies if the topic exists and has exactly
    /// `partition` partitions.
    PartitionCreated {
        /// The topic.
        topic_id: TopicId,
        /// Index of the partition.
        partition: i32,
        /// Its state.
        state: crate::Partition,
    },
    /// A partition's leader, ISR, ELR or replicas change.
    ///
    /// Applies if `expected_epoch` is the partition's epoch and the new state is sound:
    /// a changed leader has a higher leader epoch, and no epoch goes down.
    PartitionChanged {
        /// The topic.
        topic_id: TopicId,
        /// Index of the partition.
        partition: i32,
        /// The partition epoch that the change was decided on.
        expected_epoch: PartitionEpoch,
        /// New leader, or [`crate::NO_LEADER`].
        leader: BrokerId,
        /// New leader epoch.
        leader_epoch: LeaderEpoch,
        /// New ISR.
        isr: Vec<BrokerId>,
        /// New ELR (KIP-966).
        elr: Vec<BrokerId>,
        /// New replicas, where they change.
        replicas: Option<Vec<BrokerId>>,
    },
    /// A topic and its settings end. Applies if the topic exists.
    TopicDeleted {
        /// The topic.
        topic_id: TopicId,
    },
    /// A setting gets a value, or falls back. Applies if its topic exists.
    ConfigChanged {
        /// Whose setting.
        resource: ConfigResource,
        /// Which.
        name: String,
        /// Its value; `None` removes it.
        value: Option<String>,
    },
    /// A broker takes the producer ids from `first` to before `next`.
    ///
    /// Applies if `first` is the next free one and `broker_epoch` is the broker's.
    ProducerIdBlock {
        /// The broker.
        broker_id: BrokerId,
        /// Its epoch.
        broker_epoch: BrokerEpoch,
        /// First id of the block.
        first: ProducerId,
        /// First id after it.
        next: ProducerId,
    },
    /// The next free producer id, in snapshots only. Applies if it does not go down.
    NextProducerId {
        /// The id.
        next: ProducerId,
    },
}
