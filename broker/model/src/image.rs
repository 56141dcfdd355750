//! The image: all metadata at one index, immutable, shared, cheap to change.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::{OrdMap, Vector};
use tidemark_wire::Uuid;

use crate::ids::{
    BrokerEpoch, BrokerId, LeaderEpoch, NO_LEADER, ProducerId, TopicId, TopicPartition,
};
use crate::index::PartitionIndex;
use crate::names::{collision_key, is_internal_topic};
use crate::partition::Partition;
use crate::record::{ConfigResource, Endpoint, FeatureRange};

/// Settings by name, as they were set.
pub type ConfigMap = BTreeMap<String, String>;

/// A registered broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Its number.
    pub id: BrokerId,
    /// Identity of the process that registered.
    pub incarnation_id: Uuid,
    /// Its epoch.
    pub epoch: BrokerEpoch,
    /// Identities of its log directories.
    pub directories: Vec<Uuid>,
    /// Where to reach it.
    pub endpoints: Vec<Endpoint>,
    /// Its rack.
    pub rack: Option<String>,
    /// Whether it may not lead.
    pub fenced: bool,
    /// Whether it will stop, and may lead nothing new.
    pub shutting_down: bool,
    /// Whether it gets no new replicas.
    pub cordoned: bool,
    /// Levels of features that it has.
    pub features: Vec<FeatureRange>,
    /// Index of the image in which it registered.
    pub registered_at: u64,
    /// The newest epoch in which it was not fenced, and may have acknowledged records.
    pub unfenced_epoch: Option<BrokerEpoch>,
}

impl Broker {
    /// Where clients of a listener reach it, if it has that listener.
    pub fn endpoint(&self, listener: &str) -> Option<&Endpoint> {
        self.endpoints
            .iter()
            .find(|endpoint| endpoint.name == listener)
    }

    /// Whether it may lead and be in ISRs.
    pub fn is_active(&self) -> bool {
        !self.fenced && !self.shutting_down
    }

    /// Whether new replicas may be put on it.
    pub fn is_usable(&self) -> bool {
        self.is_active() && !self.cordoned
    }
}

/// Leave to stop a broker until a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The broker.
    pub broker_id: BrokerId,
    /// Its epoch when the lease was granted.
    pub broker_epoch: BrokerEpoch,
    /// Who asked.
    pub token: Uuid,
    /// When the lease ends by itself, in ms since 1970.
    pub expires_at_ms: i64,
}

/// A deleted topic of which data may be left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deletion {
    /// The topic.
    pub topic_id: TopicId,
    /// Its name.
    pub name: Arc<str>,
    /// How many partitions it had.
    pub partitions: i32,
    /// Brokers that have not said yet that nothing is left, and [`crate::IN_BUCKET`] for the bucket;
    /// never empty.
    pub brokers: Vec<BrokerId>,
}

/// A partition of a topic that is to come back from a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoredPartition {
    /// The leader epoch that it begins in, above all that it ever had.
    pub leader_epoch: LeaderEpoch,
    /// See [`Partition::first_offset`].
    pub first_offset: i64,
    /// See [`Partition::from_backup`].
    pub from_backup: bool,
}

/// A topic that is to come back from a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restore {
    /// Its identity.
    pub topic_id: TopicId,
    /// Its name.
    pub name: String,
    /// How many replicas its partitions get.
    pub replication_factor: i32,
    /// It is placed once so many brokers can be given replicas.
    pub brokers: i32,
    /// Its settings.
    pub configs: ConfigMap,
    /// Its partitions by index.
    pub partitions: Vec<RestoredPartition>,
}

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Its identity.
    pub id: TopicId,
    /// Its name.
    pub name: Arc<str>,
    /// Its partitions by index.
    pub partitions: Vector<Arc<Partition>>,
}

impl Topic {
    /// Whether the cluster itself owns it.
    pub fn is_internal(&self) -> bool {
        is_internal_topic(&self.name)
    }

    /// The partition of that index.
    pub fn partition(&self, index: i32) -> Option<&Arc<Partition>> {
        usize::try_from(index)
            .ok()
            .and_then(|at| self.partitions.get(at))
    }
}

/// All metadata at one index. Cloning is cheap; changing makes a new image that
/// shares all that did not change.
#[derive(Debug, Clone, Default)]
pub struct Image {
    pub(crate) index: u64,
    pub(crate) cluster_id: Option<Uuid>,
    pub(crate) features: OrdMap<String, i16>,
    pub(crate) brokers: OrdMap<BrokerId, Arc<Broker>>,
    pub(crate) topics: OrdMap<TopicId, Arc<Topic>>,
    pub(crate) topic_ids: OrdMap<Arc<str>, TopicId>,
    pub(crate) collision_keys: OrdMap<String, TopicId>,
    pub(crate) partition_index: PartitionIndex,
    pub(crate) leases: OrdMap<BrokerId, Lease>,
    pub(crate) deletions: OrdMap<TopicId, Arc<Deletion>>,
    pub(crate) restores: OrdMap<TopicId, Arc<Restore>>,
    /// By [`collision_key`].
    pub(crate) restore_names: OrdMap<String, TopicId>,
    pub(crate) configs: OrdMap<ConfigResource, Arc<ConfigMap>>,
    pub(crate) next_producer_id: ProducerId,
}

static NO_CONFIGS: ConfigMap = ConfigMap::new();

impl Image {
    /// How many batches have been folded into it.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The cluster's identity, once it has one.
    pub fn cluster_id(&self) -> Option<Uuid> {
        self.cluster_id
    }

    /// Finalized feature levels, by name.
    pub fn features(&self) -> impl Iterator<Item = (&str, i16)> {
        self.features
            .iter()
            .map(|(name, level)| (name.as_str(), *level))
    }

    /// A registered broker.
    pub fn broker(&self, id: BrokerId) -> Option<&Arc<Broker>> {
        self.brokers.get(&id)
    }

    /// All registered brokers, by id.
    pub fn brokers(&self) -> impl Iterator<Item = &Arc<Broker>> {
        self.brokers.values()
    }

    /// A topic by name; O(log n).
    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topic_ids.get(name).and_then(|id| self.topics.get(id))
    }

    /// A topic by id; O(log n).
    pub fn topic_by_id(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.topics.get(&id)
    }

    /// All topics, by name.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.topic_ids.values().filter_map(|id| self.topics.get(id))
    }

    /// The topics whose names come after `name` (or at it, if `inclusive`), by name.
    pub fn topics_from(&self, name: &str, inclusive: bool) -> impl Iterator<Item = &Arc<Topic>> {
        let start: Arc<str> = Arc::from(name);
        let skip = start.clone();
        self.topic_ids
            .range(start..)
            .filter(move |(found, _)| inclusive || **found != skip)
            .filter_map(|(_, id)| self.topics.get(id))
    }

    /// How many topics there are.
    pub fn topic_count(&self) -> usize {
        self.topics.len()
    }

    /// A partition by topic id and index.
    pub fn partition(&self, topic_id: TopicId, partition: i32) -> Option<&Arc<Partition>> {
        self.topic_by_id(topic_id)?.partition(partition)
    }

    /// The existing topic that a new name would collide with, or be equal to.
    pub fn colliding_topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.collision_keys
            .get(collision_key(name).as_str())
            .and_then(|id| self.topics.get(id))
    }

    /// The settings of a resource itself, without what it falls back to.
    pub fn configs(&self, resource: &ConfigResource) -> &ConfigMap {
        self.configs.get(resource).map_or(&NO_CONFIGS, |map| map)
    }

    /// Everything that has settings of its own.
    pub fn configured(&self) -> impl Iterator<Item = (&ConfigResource, &ConfigMap)> {
        self.configs
            .iter()
            .map(|(resource, map)| (resource, &**map))
    }

    /// The first producer id that no broker has taken.
    pub fn next_producer_id(&self) -> ProducerId {
        self.next_producer_id
    }

    /// The partitions with a replica on a broker, and their states, in order; O(what it holds).
    pub fn partitions_on(
        &self,
        broker: BrokerId,
    ) -> impl Iterator<Item = (TopicPartition, &Arc<Partition>)> {
        let held = self.partition_index.held_by(broker);
        self.states(held.into_iter().flatten())
    }

    /// How many partitions have a replica on a broker; O(log n).
    pub fn replica_count(&self, broker: BrokerId) -> usize {
        self.partition_index.held_by(broker).map_or(0, |s| s.len())
    }

    /// The partitions that are not [`Partition::is_settled`]; O(how many there are).
    pub fn unsettled_partitions(&self) -> impl Iterator<Item = (TopicPartition, &Arc<Partition>)> {
        self.states(self.partition_index.unsettled().iter())
    }

    /// The partitions with a leader of which a broker holds a replica that is not in sync, but
    /// for those that a reassignment is adding; O(partitions that are not settled).
    pub fn behind_on(&self, broker: BrokerId) -> impl Iterator<Item = TopicPartition> {
        let behind = move |state: &Partition| {
            state.leader != NO_LEADER
                && state.replicas.contains(&broker)
                && !state.isr.contains(&broker)
                && !state.adding.contains(&broker)
        };
        let unsettled = self.unsettled_partitions();
        unsettled.filter_map(move |(at, state)| behind(state).then_some(at))
    }

    /// The states of partitions that come topic by topic: each topic is looked up once.
    fn states<'a>(
        &'a self,
        partitions: impl Iterator<Item = &'a TopicPartition>,
    ) -> impl Iterator<Item = (TopicPartition, &'a Arc<Partition>)> {
        let mut topic: Option<&'a Arc<Topic>> = None;
        partitions.filter_map(move |at| {
            if topic.is_none_or(|topic| topic.id != at.topic_id) {
                topic = self.topic_by_id(at.topic_id);
            }
            Some((*at, topic?.partition(at.partition)?))
        })
    }

    /// The level of a finalized feature, 0 if it is off.
    pub fn feature(&self, name: &str) -> i16 {
        self.features.get(name).copied().unwrap_or(0)
    }

    /// Leave to stop a broker; expired ones too, until they are swept.
    pub fn lease(&self, broker: BrokerId) -> Option<&Lease> {
        self.leases.get(&broker)
    }

    /// All leases, by broker.
    pub fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.leases.values()
    }

    /// The job of a deleted topic's data.
    pub fn deletion(&self, topic_id: TopicId) -> Option<&Arc<Deletion>> {
        self.deletions.get(&topic_id)
    }

    /// The jobs of deleted topics' data, by topic id.
    pub fn deletions(&self) -> impl Iterator<Item = &Arc<Deletion>> {
        self.deletions.values()
    }

    /// The topics that are to come back from a bucket, by id.
    pub fn restores(&self) -> impl Iterator<Item = &Arc<Restore>> {
        self.restores.values()
    }

    /// The topic to come back from a bucket whose name is `name`, or collides with it.
    pub fn restore_of(&self, name: &str) -> Option<&Arc<Restore>> {
        self.restore_names
            .get(collision_key(name).as_str())
            .and_then(|id| self.restores.get(id))
    }

    pub(crate) fn at_index(mut self, index: u64) -> Image {
        self.index = index;
        self
    }
}
