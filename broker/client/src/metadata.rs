//! What a cluster's metadata say: where brokers are, which topics there are, who leads and holds them.

use std::collections::BTreeMap;

use tidemark_wire::messages::{
    MetadataRequest, MetadataResponse, metadata_request::MetadataRequestTopic,
};
use tidemark_wire::{ErrorCode, Uuid};

use crate::error::error_code;

/// One partition of one topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic's name.
    pub topic: String,
    /// The partition's index.
    pub partition: i32,
}

impl TopicPartition {
    /// `topic` and `partition` as one.
    #[must_use]
    pub fn new(topic: impl Into<String>, partition: i32) -> Self {
        Self {
            topic: topic.into(),
            partition,
        }
    }
}

impl std::fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// A broker and where it says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Its id.
    pub id: i32,
    /// The advertised host.
    pub host: String,
    /// The advertised port.
    pub port: i32,
    /// Its rack, if set.
    pub rack: Option<String>,
}

impl Broker {
    /// `host:port`, IPv6 hosts in brackets.
    #[must_use]
    pub fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// One partition and who holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionInfo {
    /// Its index.
    pub partition: i32,
    /// Who leads it, if anybody.
    pub leader: Option<i32>,
    /// The leader's epoch; -1 if unknown.
    pub leader_epoch: i32,
    /// The brokers that should hold it, preferred leader first.
    pub replicas: Vec<i32>,
    /// The in-sync replicas.
    pub isr: Vec<i32>,
    /// Replicas that are offline.
    pub offline: Vec<i32>,
}

/// One topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicInfo {
    /// Its name.
    pub name: String,
    /// Its id; zero from brokers before 2.8.
    pub id: Uuid,
    /// Whether the cluster keeps it for itself.
    pub internal: bool,
    /// Its partitions by index.
    pub partitions: BTreeMap<i32, PartitionInfo>,
}

impl TopicInfo {
    /// How many partitions it has.
    #[must_use]
    pub fn partition_count(&self) -> i32 {
        i32::try_from(self.partitions.len()).unwrap_or(i32::MAX)
    }

    /// The partitions that have a leader.
    #[must_use]
    pub fn available(&self) -> Vec<i32> {
        self.partitions
            .values()
            .filter(|p| p.leader.is_some())
            .map(|p| p.partition)
            .collect()
    }
}

/// What one Metadata answer said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterInfo {
    /// The cluster's id.
    pub cluster_id: Option<String>,
    /// The broker to send controller requests to, if known.
    pub controller: Option<i32>,
    /// All brokers that are up, by id.
    pub brokers: BTreeMap<i32, Broker>,
    /// The topics asked for, by name; those with an error are in `topic_errors`.
    pub topics: BTreeMap<String, TopicInfo>,
    /// Why topics that were asked for are not in `topics`.
    pub topic_errors: BTreeMap<String, ErrorCode>,
}

impl TopicInfo {
    /// Takes leaders of a later epoch from an earlier answer (KIP-320): a deposed leader that was
    /// not told yet names itself, and would say of what was written since that it is out of range.
    /// Gives the partitions that were told of an earlier epoch, and which.
    pub(crate) fn keep_newer(&mut self, known: &TopicInfo) -> BTreeMap<i32, i32> {
        let mut earlier = BTreeMap::new();
        // Without ids, an earlier epoch may be that of a new topic of the same name.
        if self.id != known.id || self.id == Uuid::ZERO {
            return earlier;
        }
        for (index, partition) in &mut self.partitions {
            match known.partitions.get(index) {
                Some(known) if known.leader_epoch > partition.leader_epoch => {
                    earlier.insert(*index, partition.leader_epoch);
                    partition.clone_from(known);
                }
                _ => {}
            }
        }
        earlier
    }
}

impl ClusterInfo {
    /// In which epoch a partition is led, as far as is known.
    pub(crate) fn leader_epoch(&self, topic: &str, partition: i32) -> Option<i32> {
        let partition = self.topics.get(topic)?.partitions.get(&partition)?;
        Some(partition.leader_epoch)
    }

    pub(crate) fn new(response: MetadataResponse) -> Self {
        let mut info = Self {
            cluster_id: response.cluster_id,
            controller: (response.controller_id >= 0).then_some(response.controller_id),
            ..Self::default()
        };
        for broker in response.brokers {
            info.brokers.insert(
                broker.node_id,
                Broker {
                    id: broker.node_id,
                    host: broker.host,
                    port: broker.port,
                    rack: broker.rack,
                },
            );
        }
        for topic in response.topics {
            let Some(name) = topic.name else { continue };
            match error_code(topic.error_code) {
                // Some partition has no leader; the partitions say which.
                ErrorCode::None | ErrorCode::LeaderNotAvailable if !topic.partitions.is_empty() => {
                }
                code => {
                    info.topic_errors.insert(name, code);
                    continue;
                }
            }
            let partitions = topic
                .partitions
                .into_iter()
                .map(|p| {
                    let partition = PartitionInfo {
                        partition: p.partition_index,
                        leader: (p.leader_id >= 0).then_some(p.leader_id),
                        leader_epoch: p.leader_epoch,
                        replicas: p.replica_nodes,
                        isr: p.isr_nodes,
                        offline: p.offline_replicas,
                    };
                    (partition.partition, partition)
                })
                .collect();
            let topic = TopicInfo {
                name: name.clone(),
                id: topic.topic_id,
                internal: topic.is_internal,
                partitions,
            };
            info.topics.insert(name, topic);
        }
        info
    }
}

/// Which topics a metadata request is about.
#[derive(Debug, Clone, Copy)]
pub enum Topics<'a> {
    /// All of them.
    All,
    /// None: brokers only.
    None,
    /// These.
    Named(&'a [&'a str]),
}

/// The request that asks about `topics`; `create` has those that are not there created.
pub(crate) fn metadata_request(topics: Topics<'_>, create: bool, version: i16) -> MetadataRequest {
    let topics = match topics {
        Topics::All if version == 0 => Some(Vec::new()),
        Topics::All => None,
        Topics::None => Some(Vec::new()),
        Topics::Named(names) => Some(
            names
                .iter()
                .map(|name| MetadataRequestTopic {
                    name: Some((*name).to_owned()),
                    ..MetadataRequestTopic::default()
                })
                .collect(),
        ),
    };
    MetadataRequest {
        topics,
        // Before version 4 brokers create by their own setting and cannot be told otherwise.
        allow_auto_topic_creation: create || version < 4,
        ..MetadataRequest::default()
    }
}
