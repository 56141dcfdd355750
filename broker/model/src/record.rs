//! The records that metadata is made of. Each carries what must hold for it to apply.

use std::fmt;

use crate::ids::{
    BrokerEpoch, BrokerId, LeaderEpoch, PartitionEpoch, ProducerId, TopicId, TopicPartition,
};
use crate::image::Restore;
use crate::partition::Partition;
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

/// A feature's levels that a broker's software has (KIP-584).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureRange {
    /// The feature, such as `group.version`.
    pub name: String,
    /// Its lowest level.
    pub min: i16,
    /// Its highest level.
    pub max: i16,
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
    /// batch bumps the leader epoch of every partition it leads. A process that comes
    /// back fenced leads nothing and is in no ISR after the batch; one that lost a
    /// directory is in no ELR either. A cordon stays.
    ///
    /// With the epoch that it has, the same process says where it is reached now: its life goes
    /// on, and nothing else of it may be another.
    BrokerRegistered {
        /// Its number.
        broker_id: BrokerId,
        /// Identity of the process.
        incarnation_id: Uuid,
        /// Its new epoch, above the previous one; or its own, where only its address changes.
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
        /// Whether its disks are not those that its last epoch left: they may lack
        /// records that it had acknowledged.
        logs_lost: bool,
        /// Levels of features that it has.
        features: Vec<FeatureRange>,
        /// What only a snapshot knows; `None` in a registration.
        restored: Option<RestoredBroker>,
    },
    /// A broker may lead from now on, or no more. Applies if `broker_epoch` is its epoch.
    /// One that is fenced leads nothing and is in no ISR after the batch.
    BrokerFenced {
        /// The broker.
        broker_id: BrokerId,
        /// Its epoch.
        broker_epoch: BrokerEpoch,
        /// Whether it may not lead.
        fenced: bool,
    },
    /// A broker will stop (KIP-631's controlled shutdown). Applies if `broker_epoch` is its
    /// epoch. It leads nothing and is in no ISR after the batch.
    BrokerShuttingDown {
        /// The broker.
        broker_id: BrokerId,
        /// Its epoch.
        broker_epoch: BrokerEpoch,
    },
    /// A broker gets no more new replicas, or does again. Applies if `broker_epoch` is its
    /// epoch; holds for the broker id until it is changed.
    BrokerCordoned {
        /// The broker.
        broker_id: BrokerId,
        /// Its epoch.
        broker_epoch: BrokerEpoch,
        /// Whether it gets none.
        cordoned: bool,
    },
    /// A broker is gone for good. Applies if `broker_epoch` is its epoch, and if no
    /// partition has a replica on it after the batch.
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
    /// a changed leader has a higher leader epoch, and no epoch goes down. Unless
    /// `unclean`, a new leader was in the ISR or the ELR. Who enters the ELR was in the
    /// ISR. Who enters the ISR is in `joined` with the epoch it has now, and is neither
    /// fenced nor shutting down.
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
        /// New last known ELR (KIP-966).
        last_known_elr: Vec<BrokerId>,
        /// New replicas being added and being removed (KIP-455), where they change.
        reassignment: Option<(Vec<BrokerId>, Vec<BrokerId>)>,
        /// Who enters the ISR, with its epoch (KIP-903).
        joined: Vec<(BrokerId, BrokerEpoch)>,
        /// Whether the new leader was chosen though it may lack acknowledged records.
        unclean: bool,
    },
    /// A topic and its settings end. Applies if the topic exists.
    TopicDeleted {
        /// The topic.
        topic_id: TopicId,
    },
    /// A topic and its settings end, and its data is to be removed: a job that is remembered
    /// until all that hold some of it have said so. Applies if the topic exists.
    TopicDeletionStarted {
        /// The topic.
        topic_id: TopicId,
    },
    /// The job of a deleted topic's data as a snapshot knows it.
    TopicDeletionPending {
        /// The topic.
        topic_id: TopicId,
        /// Its name.
        name: String,
        /// How many partitions it had.
        partitions: i32,
        /// Brokers that may hold some of it.
        brokers: Vec<BrokerId>,
    },
    /// A broker holds nothing of a deleted topic any more. Applies if the job waits for it.
    /// With the last one the job ends.
    TopicDeletionConfirmed {
        /// The topic.
        topic_id: TopicId,
        /// The broker.
        broker_id: BrokerId,
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
    /// A broker may be stopped until a time.
    ///
    /// Applies if `broker_epoch` is its epoch, if no other token holds a lease on it, and
    /// if nothing was folded since the image of index `decided_at`, on which the loss was
    /// found bearable.
    DisruptionGranted {
        /// The broker.
        broker_id: BrokerId,
        /// Its epoch.
        broker_epoch: BrokerEpoch,
        /// Who asked, so that it may ask again.
        token: Uuid,
        /// When the lease ends by itself, in ms since 1970.
        expires_at_ms: i64,
        /// Index of the image it was decided on; `None` in a snapshot.
        decided_at: Option<u64>,
    },
    /// A lease is over. Applies if `token` holds it.
    DisruptionEnded {
        /// The broker.
        broker_id: BrokerId,
        /// Who asked.
        token: Uuid,
    },
    /// A topic is to come back from a bucket, and waits for brokers to be placed on: nobody else
    /// gets its name or its id. Applies as the creation of a topic does; ends with that.
    TopicRestorePending(Restore),
}

/// What a snapshot knows of a broker besides its registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestoredBroker {
    /// See [`crate::Broker::registered_at`].
    pub registered_at: u64,
    /// See [`crate::Broker::unfenced_epoch`].
    pub unfenced_epoch: Option<BrokerEpoch>,
    /// See [`crate::Broker::shutting_down`].
    pub shutting_down: bool,
    /// See [`crate::Broker::cordoned`].
    pub cordoned: bool,
}

impl MetadataRecord {
    /// The record that makes `after` of the partition that is `before`. `epoch_of` tells
    /// the epochs of brokers that enter the ISR; those it does not know are left out, and
    /// the fold will refuse them.
    pub fn partition_change(
        at: TopicPartition,
        before: &Partition,
        after: Partition,
        epoch_of: impl Fn(BrokerId) -> Option<BrokerEpoch>,
    ) -> MetadataRecord {
        let joined = after
            .isr
            .iter()
            .filter(|id| !before.isr.contains(id))
            .filter_map(|id| Some((*id, epoch_of(*id)?)))
            .collect();
        let reassigned = before.adding != after.adding || before.removing != after.removing;
        MetadataRecord::PartitionChanged {
            topic_id: at.topic_id,
            partition: at.partition,
            expected_epoch: before.partition_epoch,
            leader: after.leader,
            leader_epoch: after.leader_epoch,
            unclean: after.unclean_epoch != before.unclean_epoch,
            joined,
            replicas: (before.replicas != after.replicas).then_some(after.replicas),
            reassignment: reassigned.then_some((after.adding, after.removing)),
            isr: after.isr,
            elr: after.elr,
            last_known_elr: after.last_known_elr,
        }
    }
}
