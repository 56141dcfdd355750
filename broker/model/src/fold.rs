//! Folding batches of records: each record's precondition when its turn comes, and what
//! a batch owes as a whole at its end.

mod partitions;

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::Vector;

use crate::ids::{BrokerEpoch, BrokerId, TopicId, TopicPartition};
use crate::image::{Broker, Deletion, Image, Lease, Restore, Topic};
use crate::names::{check_topic_name, collision_key};
use crate::record::{ConfigResource, MetadataRecord, RestoredBroker};
use crate::rejected::Rejected;

/// What must hold at the end of a batch for brokers that it put down.
#[derive(Debug, Default)]
struct Duties {
    /// The leader epoch of all that they led is raised: one epoch, one history.
    superseded: BTreeSet<BrokerId>,
    /// They lead nothing and are in no ISR.
    down: BTreeSet<BrokerId>,
    /// They are in no ISR and no ELR.
    lost: BTreeSet<BrokerId>,
    /// They hold nothing.
    gone: BTreeSet<BrokerId>,
}

/// A batch half folded.
#[derive(Debug)]
pub(crate) struct Fold {
    next: Image,
    duties: Duties,
}

impl Fold {
    pub(crate) fn on(image: &Image) -> Fold {
        Fold {
            next: image.clone(),
            duties: Duties::default(),
        }
    }

    pub(crate) fn apply(&mut self, record: &MetadataRecord) -> Result<(), Rejected> {
        self.next.apply_one(record, &mut self.duties)
    }

    pub(crate) fn finish(self, before: &Image) -> Result<Image, Rejected> {
        let Fold { mut next, duties } = self;
        next.check_duties(before, &duties)?;
        next.index = before.index.checked_add(1).ok_or(Rejected::Exhausted)?;
        Ok(next)
    }
}

impl Image {
    /// Folds one batch: all of it or, when any record's precondition fails, none.
    pub fn apply(&self, batch: &[MetadataRecord]) -> Result<Image, Rejected> {
        let mut fold = Fold::on(self);
        let mut rest = batch;
        while let Some((record, behind)) = rest.split_first() {
            if let MetadataRecord::PartitionChanged { topic_id, .. } = record {
                // Changes of one topic's partitions stand together: its path is copied once.
                let same = |other: &&MetadataRecord| matches!(other, MetadataRecord::PartitionChanged { topic_id: id, .. } if id == topic_id);
                let run = 1 + behind.iter().take_while(same).count();
                fold.next.change_partitions(*topic_id, &rest[..run])?;
                rest = &rest[run..];
            } else {
                fold.apply(record)?;
                rest = behind;
            }
        }
        fold.finish(self)
    }

    fn apply_one(&mut self, record: &MetadataRecord, duties: &mut Duties) -> Result<(), Rejected> {
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
            MetadataRecord::BrokerRegistered { .. } => self.register(record, duties)?,
            MetadataRecord::BrokerFenced {
                broker_id,
                broker_epoch,
                fenced,
            } => {
                let mut broker = self.broker_at(*broker_id, *broker_epoch)?;
                let changed = Arc::make_mut(&mut broker);
                changed.fenced = *fenced;
                if *fenced {
                    duties.down.insert(*broker_id);
                } else if changed.shutting_down {
                    return Err(Rejected::ShuttingDown(*broker_id));
                } else {
                    changed.unfenced_epoch = Some(*broker_epoch);
                }
                self.brokers.insert(*broker_id, broker);
            }
            MetadataRecord::BrokerShuttingDown {
                broker_id,
                broker_epoch,
            } => {
                let mut broker = self.broker_at(*broker_id, *broker_epoch)?;
                Arc::make_mut(&mut broker).shutting_down = true;
                self.brokers.insert(*broker_id, broker);
                duties.down.insert(*broker_id);
            }
            MetadataRecord::BrokerCordoned {
                broker_id,
                broker_epoch,
                cordoned,
            } => {
                let mut broker = self.broker_at(*broker_id, *broker_epoch)?;
                Arc::make_mut(&mut broker).cordoned = *cordoned;
                self.brokers.insert(*broker_id, broker);
            }
            MetadataRecord::BrokerUnregistered {
                broker_id,
                broker_epoch,
            } => {
                self.broker_at(*broker_id, *broker_epoch)?;
                self.brokers.remove(broker_id);
                self.leases.remove(broker_id);
                duties.gone.insert(*broker_id);
                let waiting: Vec<TopicId> = self
                    .deletions
                    .values()
                    .filter(|job| job.brokers.contains(broker_id))
                    .map(|job| job.topic_id)
                    .collect();
                for topic_id in waiting {
                    self.confirm_deletion(topic_id, *broker_id)?;
                }
            }
            MetadataRecord::TopicCreated { topic_id, name } => {
                self.create_topic(*topic_id, name)?;
            }
            MetadataRecord::PartitionCreated {
                topic_id,
                partition,
                state,
            } => self.create_partition(*topic_id, *partition, state)?,
            MetadataRecord::PartitionChanged { topic_id, .. } => {
                self.change_partitions(*topic_id, std::slice::from_ref(record))?;
            }
            MetadataRecord::TopicDeleted { topic_id } => {
                self.delete_topic(*topic_id)?;
            }
            MetadataRecord::TopicDeletionStarted { topic_id } => {
                let topic = self.delete_topic(*topic_id)?;
                let brokers: BTreeSet<BrokerId> = topic
                    .partitions
                    .iter()
                    .flat_map(|p| p.replicas.iter().copied())
                    .collect();
                self.add_deletion(Deletion {
                    topic_id: topic.id,
                    name: topic.name.clone(),
                    partitions: i32::try_from(topic.partitions.len())
                        .map_err(|_| Rejected::Exhausted)?,
                    brokers: brokers.into_iter().collect(),
                });
            }
            MetadataRecord::TopicDeletionPending {
                topic_id,
                name,
                partitions,
                brokers,
            } => {
                if self.topics.contains_key(topic_id) || self.deletions.contains_key(topic_id) {
                    return Err(Rejected::TopicIdTaken(*topic_id));
                }
                self.add_deletion(Deletion {
                    topic_id: *topic_id,
                    name: Arc::from(name.as_str()),
                    partitions: *partitions,
                    brokers: brokers.clone(),
                });
            }
            MetadataRecord::TopicDeletionConfirmed {
                topic_id,
                broker_id,
            } => self.confirm_deletion(*topic_id, *broker_id)?,
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
            MetadataRecord::DisruptionGranted { .. } => self.grant_lease(record)?,
            MetadataRecord::DisruptionEnded { broker_id, token } => {
                let holder = self.leases.get(broker_id).map(|lease| lease.token);
                if holder != Some(*token) {
                    return Err(Rejected::Lease {
                        broker_id: *broker_id,
                        token: *token,
                        holder,
                    });
                }
                self.leases.remove(broker_id);
            }
            MetadataRecord::TopicRestorePending(restore) => self.add_restore(restore)?,
        }
        Ok(())
    }

    fn add_restore(&mut self, restore: &Restore) -> Result<(), Rejected> {
        self.check_new_topic(restore.topic_id, &restore.name)?;
        let id = restore.topic_id;
        if self.restores.contains_key(&id) {
            return Err(Rejected::TopicIdTaken(id));
        }
        if restore.partitions.is_empty() || restore.replication_factor < 1 {
            return Err(Rejected::EmptyRestore(id));
        }
        self.restore_names.insert(collision_key(&restore.name), id);
        self.restores.insert(id, Arc::new(restore.clone()));
        Ok(())
    }

    fn grant_lease(&mut self, record: &MetadataRecord) -> Result<(), Rejected> {
        let MetadataRecord::DisruptionGranted {
            broker_id,
            broker_epoch,
            token,
            expires_at_ms,
            decided_at,
        } = record
        else {
            return Ok(());
        };
        if let Some(decided_at) = *decided_at {
            // A lease may be older than the registration in a snapshot only.
            self.broker_at(*broker_id, *broker_epoch)?;
            if decided_at != self.index {
                return Err(Rejected::Outdated {
                    decided_at,
                    actual: self.index,
                });
            }
        }
        let holder = self.leases.get(broker_id).map(|lease| lease.token);
        if holder.is_some_and(|holder| holder != *token) {
            return Err(Rejected::Lease {
                broker_id: *broker_id,
                token: *token,
                holder,
            });
        }
        self.leases.insert(
            *broker_id,
            Lease {
                broker_id: *broker_id,
                broker_epoch: *broker_epoch,
                token: *token,
                expires_at_ms: *expires_at_ms,
            },
        );
        Ok(())
    }

    fn delete_topic(&mut self, topic_id: TopicId) -> Result<Arc<Topic>, Rejected> {
        let topic = self
            .topics
            .remove(&topic_id)
            .ok_or(Rejected::UnknownTopic(topic_id))?;
        self.topic_ids.remove(&topic.name);
        self.collision_keys.remove(&collision_key(&topic.name));
        self.configs.remove(&ConfigResource::Topic(topic_id));
        for (partition, state) in (0..).zip(&topic.partitions) {
            let at = TopicPartition {
                topic_id,
                partition,
            };
            self.partition_index.update(at, Some(state), None);
        }
        Ok(topic)
    }

    fn add_deletion(&mut self, job: Deletion) {
        if !job.brokers.is_empty() {
            self.deletions.insert(job.topic_id, Arc::new(job));
        }
    }

    fn confirm_deletion(&mut self, topic_id: TopicId, broker_id: BrokerId) -> Result<(), Rejected> {
        let unknown = Rejected::NoDeletion {
            topic_id,
            broker_id,
        };
        let job = self.deletions.get_mut(&topic_id).map(Arc::make_mut);
        let job = job.ok_or(unknown.clone())?;
        let at = job.brokers.iter().position(|b| *b == broker_id);
        job.brokers.remove(at.ok_or(unknown)?);
        if job.brokers.is_empty() {
            self.deletions.remove(&topic_id);
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

    fn register(&mut self, record: &MetadataRecord, duties: &mut Duties) -> Result<(), Rejected> {
        let MetadataRecord::BrokerRegistered {
            broker_id,
            incarnation_id,
            broker_epoch,
            previous_epoch,
            directories,
            endpoints,
            rack,
            fenced,
            logs_lost,
            features,
            restored,
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
            let same_life = previous.epoch == *broker_epoch
                && previous.incarnation_id == *incarnation_id
                && previous.directories == *directories
                && previous.fenced == *fenced
                && !logs_lost
                && restored.is_none();
            if same_life {
                let moved = Broker {
                    endpoints: endpoints.clone(),
                    rack: rack.clone(),
                    features: features.clone(),
                    ..(**previous).clone()
                };
                self.brokers.insert(*broker_id, Arc::new(moved));
                return Ok(());
            }
            if *broker_epoch <= previous.epoch {
                return Err(Rejected::BrokerEpochNotRaised {
                    broker_id: *broker_id,
                    previous: previous.epoch,
                    new: *broker_epoch,
                });
            }
            if previous.incarnation_id != *incarnation_id {
                duties.superseded.insert(*broker_id);
            }
            let kept = |id| directories.contains(id);
            if *logs_lost || !previous.directories.iter().all(kept) {
                duties.lost.insert(*broker_id);
            }
        }
        let is_down = *fenced || restored.is_some_and(|known| known.shutting_down);
        if is_down {
            duties.down.insert(*broker_id);
        }
        let unfenced_before = previous.and_then(|b| b.unfenced_epoch);
        let known = restored.unwrap_or(RestoredBroker {
            registered_at: self.index.checked_add(1).ok_or(Rejected::Exhausted)?,
            unfenced_epoch: if *fenced {
                unfenced_before
            } else {
                Some(*broker_epoch)
            },
            shutting_down: false,
            cordoned: previous.is_some_and(|b| b.cordoned),
        });
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
                shutting_down: known.shutting_down,
                cordoned: known.cordoned,
                features: features.clone(),
                registered_at: known.registered_at,
                unfenced_epoch: known.unfenced_epoch,
            }),
        );
        Ok(())
    }

    /// Looks at what brokers that the batch put down held before it and hold after it.
    fn check_duties(&self, before: &Image, duties: &Duties) -> Result<(), Rejected> {
        for broker_id in &duties.superseded {
            for (at, old) in before.partitions_on(*broker_id) {
                if old.leader == *broker_id
                    && let Some(new) = self.partition(at.topic_id, at.partition)
                    && new.leader_epoch <= old.leader_epoch
                {
                    return Err(Rejected::LeaderEpochKept {
                        broker_id: *broker_id,
                        topic_id: at.topic_id,
                        partition: at.partition,
                    });
                }
            }
        }
        let is_active = |id: &BrokerId| self.brokers.get(id).is_some_and(|b| b.is_active());
        let down = duties.down.iter().filter(|id| !is_active(id));
        let down: BTreeSet<BrokerId> = down.copied().collect();
        for broker_id in down.iter().chain(&duties.lost).chain(&duties.gone) {
            let lost = duties.lost.contains(broker_id);
            let gone = duties.gone.contains(broker_id) && !self.brokers.contains_key(broker_id);
            for (at, state) in self.partitions_on(*broker_id) {
                let role = if gone {
                    "replicas"
                } else if state.isr.contains(broker_id) {
                    "ISR"
                } else if lost && state.elr.contains(broker_id) {
                    "ELR"
                } else {
                    continue;
                };
                return Err(Rejected::KeptIn {
                    broker_id: *broker_id,
                    role,
                    topic_id: at.topic_id,
                    partition: at.partition,
                });
            }
        }
        Ok(())
    }

    /// Whether a topic may be created, or be announced to come back.
    fn check_new_topic(&self, id: TopicId, name: &str) -> Result<(), Rejected> {
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
        if id.is_zero() || self.topics.contains_key(&id) || self.deletions.contains_key(&id) {
            return Err(Rejected::TopicIdTaken(id));
        }
        let restore = self.restore_of(name);
        if restore.is_some_and(|restore| restore.topic_id != id || restore.name != name) {
            return Err(Rejected::TopicExists(name.to_owned()));
        }
        Ok(())
    }

    fn create_topic(&mut self, id: TopicId, name: &str) -> Result<(), Rejected> {
        self.check_new_topic(id, name)?;
        match self.restores.get(&id) {
            Some(restore) if restore.name != name => return Err(Rejected::TopicIdTaken(id)),
            Some(_) => {
                self.restores.remove(&id);
                self.restore_names.remove(&collision_key(name));
            }
            None => {}
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
