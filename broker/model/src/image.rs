//! The image: all metadata at one index, immutable, shared, cheap to change.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::{OrdMap, Vector};
use tidemark_wire::Uuid;

use crate::ids::{
    BrokerEpoch, BrokerId, LeaderEpoch, NO_LEADER, PartitionEpoch, ProducerId, TopicId,
};
use crate::names::{InvalidTopicName, check_topic_name, collision_key, is_internal_topic};
use crate::record::{ConfigResource, Endpoint, MetadataRecord};

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
}

/// A partition's registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Brokers that hold it, the preferred leader first.
    pub replicas: Vec<BrokerId>,
    /// Those in sync.
    pub isr: Vec<BrokerId>,
    /// Those out of sync that still hold everything acknowledged (KIP-966).
    pub elr: Vec<BrokerId>,
    /// Its leader, or [`NO_LEADER`].
    pub leader: BrokerId,
    /// Counts leaders.
    pub leader_epoch: LeaderEpoch,
    /// Counts changes.
    pub partition_epoch: PartitionEpoch,
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
    #[error("no more changes fit: a counter is at its end")]
    Exhausted,
}

/// All metadata at one index. Cloning is cheap; changing makes a new image that
/// shares all that did not change.
#[derive(Debug, Clone, Default)]
pub struct Image {
    index: u64,
    pub(crate) cluster_id: Option<Uuid>,
    pub(crate) features: OrdMap<String, i16>,
    pub(crate) brokers: OrdMap<BrokerId, Arc<Broker>>,
    pub(crate) topics: OrdMap<TopicId, Arc<Topic>>,
    topic_ids: OrdMap<Arc<str>, TopicId>,
    collision_keys: OrdMap<String, TopicId>,
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

    /// Folds one batch: all of it or, when any record's precondition fails, none.
    pub fn apply(&self, batch: &[MetadataRecord]) -> Result<Image, Rejected> {
        let mut next = self.clone();
        let mut superseded = Vec::new();
        for record in batch {
            next.apply_one(record, &mut superseded)?;
        }
        next.check_epochs_raised(self, &superseded)?;
        next.index = self.index.checked_add(1).ok_or(Rejected::Exhausted)?;
        Ok(next)
    }

    pub(crate) fn at_index(mut self, index: u64) -> Image {
        self.index = index;
        self
    }

    fn apply_one(
        &mut self,
        record: &MetadataRecord,
        superseded: &mut Vec<BrokerId>,
    ) -> Result<(), Rejected> {
        match record {
            MetadataRecord::ClusterId { cluster_id } => {
                if self.cluster_id.is_some() {
                    return Err(Rejected::ClusterIdSet);
                }
                self.cluster_id = Some(*cluster_id);
            }
            MetadataRecord::FeatureLevel { name, level } => {
                if *level < 0 {
                    return Err(Rejected::NegativeFeatureLevel {
                        name: name.clone(),
                        level: *level,
                    });
                }
                if *level == 0 {
                    self.features.remove(name);
                } else {
                    self.features.insert(name.clone(), *level);
                }
            }
            MetadataRecord::BrokerRegistered { .. } => self.register(record, superseded)?,
            MetadataRecord::BrokerFenced {
                broker_id,
                broker_epoch,
                fenced,
            } => {
                let mut broker = self.broker_at(*broker_id, *broker_epoch)?;
                Arc::make_mut(&mut broker).fenced = *fenced;
                self.brokers.insert(*broker_id, broker);
            }
            MetadataRecord::BrokerUnregistered {
                broker_id,
                broker_epoch,
            } => {
                self.broker_at(*broker_id, *broker_epoch)?;
                self.brokers.remove(broker_id);
                superseded.push(*broker_id);
            }
            MetadataRecord::TopicCreated { topic_id, name } => {
                self.create_topic(*topic_id, name)?;
            }
            MetadataRecord::PartitionCreated {
                topic_id,
                partition,
                state,
            } => self.create_partition(*topic_id, *partition, state)?,
            MetadataRecord::PartitionChanged { .. } => self.change_partition(record)?,
            MetadataRecord::TopicDeleted { topic_id } => {
                let topic = self
                    .topics
                    .remove(topic_id)
                    .ok_or(Rejected::UnknownTopic(*topic_id))?;
                self.topic_ids.remove(&topic.name);
                self.collision_keys.remove(&collision_key(&topic.name));
                self.configs.remove(&ConfigResource::Topic(*topic_id));
            }
            MetadataRecord::ConfigChanged {
                resource,
                name,
                value,
            } => self.change_config(resource, name, value.as_deref())?,
            MetadataRecord::ProducerIdBlock {
                broker_id,
                broker_epoch,
                first,
                next,
            } => {
                self.broker_at(*broker_id, *broker_epoch)?;
                if *first != self.next_producer_id || next <= first {
                    return Err(Rejected::ProducerIds {
                        first: *first,
                        next: *next,
                        actual: self.next_producer_id,
                    });
                }
                self.next_producer_id = *next;
            }
            MetadataRecord::NextProducerId { next } => {
                if *next < self.next_producer_id {
                    return Err(Rejected::ProducerIds {
                        first: *next,
                        next: *next,
                        actual: self.next_producer_id,
                    });
                }
                self.next_producer_id = *next;
            }
        }
        Ok(())
    }

    fn broker_at(&self, id: BrokerId, epoch: BrokerEpoch) -> Result<Arc<Broker>, Rejected> {
        match self.brokers.get(&id) {
            Some(broker) if broker.epoch == epoch => Ok(broker.clone()),
            other => Err(Rejected::BrokerEpoch {
                broker_id: id,
                expected: Some(epoch),
                actual: other.map(|b| b.epoch),
            }),
        }
    }

    fn register(
        &mut self,
        record: &MetadataRecord,
        superseded: &mut Vec<BrokerId>,
    ) -> Result<(), Rejected> {
        let MetadataRecord::BrokerRegistered {
            broker_id,
            incarnation_id,
            broker_epoch,
            previous_epoch,
            directories,
            endpoints,
            rack,
            fenced,
        } = record
        else {
            return Ok(());
        };
        if *broker_id < 0 {
            return Err(Rejected::NegativeBrokerId(*broker_id));
        }
        let previous = self.brokers.get(broker_id);
        let actual = previous.map(|b| b.epoch);
        if actual != *previous_epoch {
            return Err(Rejected::BrokerEpoch {
                broker_id: *broker_id,
                expected: *previous_epoch,
                actual,
            });
        }
        if let Some(previous) = previous {
            if *broker_epoch <= previous.epoch {
                return Err(Rejected::BrokerEpochNotRaised {
                    broker_id: *broker_id,
                    previous: previous.epoch,
                    new: *broker_epoch,
                });
            }
            if previous.incarnation_id != *incarnation_id {
                superseded.push(*broker_id);
            }
        }
        self.brokers.insert(
            *broker_id,
            Arc::new(Broker {
                id: *broker_id,
                incarnation_id: *incarnation_id,
                epoch: *broker_epoch,
                directories: directories.clone(),
                endpoints: endpoints.clone(),
                rack: rack.clone(),
                fenced: *fenced,
            }),
        );
        Ok(())
    }

    /// A process incarnation never continues a leader epoch: one epoch, one history.
    fn check_epochs_raised(&self, before: &Image, brokers: &[BrokerId]) -> Result<(), Rejected> {
        if brokers.is_empty() {
            return Ok(());
        }
        for topic in before.topics.values() {
            for (index, old) in topic.partitions.iter().enumerate() {
                if !brokers.contains(&old.leader) {
                    continue;
                }
                let index = i32::try_from(index).map_err(|_| Rejected::Exhausted)?;
                if let Some(new) = self.partition(topic.id, index)
                    && new.leader_epoch <= old.leader_epoch
                {
                    return Err(Rejected::LeaderEpochKept {
                        broker_id: old.leader,
                        topic_id: topic.id,
                        partition: index,
                    });
                }
            }
        }
        Ok(())
    }

    fn create_topic(&mut self, id: TopicId, name: &str) -> Result<(), Rejected> {
        check_topic_name(name)?;
        if self.topic_ids.contains_key(name) {
            return Err(Rejected::TopicExists(name.to_owned()));
        }
        if let Some(existing) = self.colliding_topic(name) {
            return Err(Rejected::TopicCollides {
                new: name.to_owned(),
                existing: existing.name.to_string(),
            });
        }
        if id.is_zero() || self.topics.contains_key(&id) {
            return Err(Rejected::TopicIdTaken(id));
        }
        let name: Arc<str> = Arc::from(name);
        self.topic_ids.insert(name.clone(), id);
        self.collision_keys.insert(collision_key(&name), id);
        self.topics.insert(
            id,
            Arc::new(Topic {
                id,
                name,
                partitions: Vector::new(),
            }),
        );
        Ok(())
    }

    fn topic_mut(&mut self, id: TopicId) -> Result<&mut Topic, Rejected> {
        self.topics
            .get_mut(&id)
            .map(Arc::make_mut)
            .ok_or(Rejected::UnknownTopic(id))
    }

    fn create_partition(
        &mut self,
        topic_id: TopicId,
        partition: i32,
        state: &Partition,
    ) -> Result<(), Rejected> {
        let topic = self.topic_mut(topic_id)?;
        if usize::try_from(partition) != Ok(topic.partitions.len()) {
            return Err(Rejected::PartitionOutOfOrder {
                topic_id,
                partition,
                actual: topic.partitions.len(),
            });
        }
        check_partition(topic_id, partition, state)?;
        topic.partitions.push_back(Arc::new(state.clone()));
        Ok(())
    }

    fn change_partition(&mut self, record: &MetadataRecord) -> Result<(), Rejected> {
        let MetadataRecord::PartitionChanged {
            topic_id,
            partition,
            expected_epoch,
            leader,
            leader_epoch,
            isr,
            elr,
            replicas,
        } = record
        else {
            return Ok(());
        };
        let (topic_id, partition) = (*topic_id, *partition);
        let topic = self.topic_mut(topic_id)?;
        let slot = usize::try_from(partition)
            .ok()
            .and_then(|at| topic.partitions.get_mut(at))
            .ok_or(Rejected::UnknownPartition {
                topic_id,
                partition,
            })?;
        if slot.partition_epoch != *expected_epoch {
            return Err(Rejected::PartitionEpoch {
                topic_id,
                partition,
                expected: *expected_epoch,
                actual: slot.partition_epoch,
            });
        }
        let unsound = |reason| Rejected::UnsoundPartition {
            topic_id,
            partition,
            reason,
        };
        if *leader_epoch < slot.leader_epoch {
            return Err(unsound("the leader epoch would go down"));
        }
        if *leader != slot.leader && *leader_epoch == slot.leader_epoch {
            return Err(unsound("a new leader needs a new leader epoch"));
        }
        let state = Partition {
            replicas: replicas.clone().unwrap_or_else(|| slot.replicas.clone()),
            isr: isr.clone(),
            elr: elr.clone(),
            leader: *leader,
            leader_epoch: *leader_epoch,
            partition_epoch: slot
                .partition_epoch
                .checked_add(1)
                .ok_or(Rejected::Exhausted)?,
        };
        check_partition(topic_id, partition, &state)?;
        *slot = Arc::new(state);
        Ok(())
    }

    fn change_config(
        &mut self,
        resource: &ConfigResource,
        name: &str,
        value: Option<&str>,
    ) -> Result<(), Rejected> {
        if let ConfigResource::Topic(id) = resource
            && !self.topics.contains_key(id)
        {
            return Err(Rejected::UnknownTopic(*id));
        }
        let mut map = self.configs.get(resource).cloned().unwrap_or_default();
        match value {
            Some(value) => {
                Arc::make_mut(&mut map).insert(name.to_owned(), value.to_owned());
            }
            None => {
                Arc::make_mut(&mut map).remove(name);
            }
        }
        if map.is_empty() {
            self.configs.remove(resource);
        } else {
            self.configs.insert(resource.clone(), map);
        }
        Ok(())
    }
}

fn check_partition(topic_id: TopicId, partition: i32, state: &Partition) -> Result<(), Rejected> {
    let unsound = |reason| {
        Err(Rejected::UnsoundPartition {
            topic_id,
            partition,
            reason,
        })
    };
    let within = |set: &[BrokerId]| set.iter().all(|b| state.replicas.contains(b));
    if state.replicas.is_empty() {
        return unsound("it has no replicas");
    }
    if repeats(&state.replicas) || repeats(&state.isr) || repeats(&state.elr) {
        return unsound("a broker is listed twice");
    }
    if state.replicas.iter().any(|b| *b < 0) {
        return unsound("a replica's broker id is negative");
    }
    if !within(&state.isr) || !within(&state.elr) {
        return unsound("ISR and ELR must be replicas");
    }
    if state.elr.iter().any(|b| state.isr.contains(b)) {
        return unsound("a broker is in ISR and ELR");
    }
    if state.leader != NO_LEADER && !state.isr.contains(&state.leader) {
        return unsound("the leader must be in the ISR");
    }
    if state.leader_epoch < 0 || state.partition_epoch < 0 {
        return unsound("an epoch is negative");
    }
    Ok(())
}

fn repeats(set: &[BrokerId]) -> bool {
    set.iter().enumerate().any(|(at, b)| set[..at].contains(b))
}
