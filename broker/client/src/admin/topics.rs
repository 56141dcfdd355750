//! Topics: made, deleted, widened, cut; and where they lie on disk.

use std::collections::BTreeMap;

use tidemark_wire::messages::create_partitions_request::CreatePartitionsTopic;
use tidemark_wire::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use tidemark_wire::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use tidemark_wire::messages::delete_topics_request::DeleteTopicState;
use tidemark_wire::messages::{
    CreatePartitionsRequest, CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest,
    DescribeLogDirsRequest,
};
use tidemark_wire::{ErrorCode, Uuid};

use crate::cluster::{Cluster, Node};
use crate::error::ClientError;
use crate::metadata::TopicPartition;

/// A topic to be made.
#[derive(Debug, Clone, Default)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// How many partitions; `None` leaves it to the cluster.
    pub partitions: Option<i32>,
    /// How many replicas of each; `None` leaves it to the cluster.
    pub replicas: Option<i16>,
    /// Brokers by partition, first the preferred leader; empty leaves it to the cluster.
    pub assignment: Vec<Vec<i32>>,
    /// Settings that differ from the cluster's defaults.
    pub configs: Vec<(String, String)>,
}

/// A directory of a broker's logs.
#[derive(Debug, Clone)]
pub struct LogDir {
    /// The broker.
    pub broker: i32,
    /// Its path there.
    pub path: String,
    /// What is wrong with it; NONE if nothing.
    pub error: ErrorCode,
    /// Bytes of its volume; -1 if the broker does not say.
    pub total_bytes: i64,
    /// Bytes left on its volume; -1 if the broker does not say.
    pub usable_bytes: i64,
    /// Whether new replicas are kept off it (KIP-1066).
    pub cordoned: bool,
    /// The replicas in it.
    pub replicas: Vec<LogDirReplica>,
}

/// One replica on disk.
#[derive(Debug, Clone)]
pub struct LogDirReplica {
    /// Which partition.
    pub partition: TopicPartition,
    /// Bytes of its segments.
    pub size_bytes: i64,
    /// Records that it lacks of the high watermark.
    pub offset_lag: i64,
}

impl Cluster {
    /// Makes a topic, or with `validate_only` says whether it could be made; answers its id (zero from old brokers).
    ///
    /// # Errors
    /// The broker's, such as TOPIC_ALREADY_EXISTS.
    pub async fn create_topic(
        &self,
        topic: &NewTopic,
        validate_only: bool,
    ) -> Result<Uuid, ClientError> {
        let assigned = !topic.assignment.is_empty();
        let creatable = CreatableTopic {
            name: topic.name.clone(),
            num_partitions: if assigned {
                -1
            } else {
                topic.partitions.unwrap_or(-1)
            },
            replication_factor: if assigned {
                -1
            } else {
                topic.replicas.unwrap_or(-1)
            },
            assignments: topic
                .assignment
                .iter()
                .zip(0..)
                .map(|(brokers, partition_index)| CreatableReplicaAssignment {
                    partition_index,
                    broker_ids: brokers.clone(),
                    ..CreatableReplicaAssignment::default()
                })
                .collect(),
            configs: topic
                .configs
                .iter()
                .map(|(name, value)| CreatableTopicConfig {
                    name: name.clone(),
                    value: Some(value.clone()),
                    ..CreatableTopicConfig::default()
                })
                .collect(),
            ..CreatableTopic::default()
        };
        let response = self
            .ask(Node::Controller, i16::MAX, |_| CreateTopicsRequest {
                topics: vec![creatable.clone()],
                timeout_ms: self.server_timeout_ms(),
                validate_only,
                ..CreateTopicsRequest::default()
            })
            .await?;
        let what = || format!("creating topic {}", topic.name);
        let Some(result) = response.topics.into_iter().next() else {
            return Err(ClientError::Invalid(format!(
                "{}: the broker's answer is empty",
                what()
            )));
        };
        ClientError::check(result.error_code, result.error_message.as_deref(), what)?;
        Ok(result.topic_id)
    }

    /// Deletes topics; what became of each, in their order.
    ///
    /// # Errors
    /// When the request as a whole fails.
    pub async fn delete_topics(
        &self,
        names: &[String],
    ) -> Result<Vec<(String, Result<(), ClientError>)>, ClientError> {
        let response = self
            .ask(Node::Controller, i16::MAX, |version| {
                let mut request = DeleteTopicsRequest {
                    timeout_ms: self.server_timeout_ms(),
                    ..DeleteTopicsRequest::default()
                };
                if version >= 6 {
                    request.topics = names
                        .iter()
                        .map(|name| DeleteTopicState {
                            name: Some(name.clone()),
                            ..DeleteTopicState::default()
                        })
                        .collect();
                } else {
                    request.topic_names = names.to_vec();
                }
                request
            })
            .await?;
        Ok(response
            .responses
            .into_iter()
            .map(|result| {
                let name = result.name.unwrap_or_else(|| result.topic_id.to_string());
                let outcome =
                    ClientError::check(result.error_code, result.error_message.as_deref(), || {
                        format!("deleting topic {name}")
                    });
                (name, outcome)
            })
            .collect())
    }

    /// Widens a topic to `count` partitions in all.
    ///
    /// # Errors
    /// The broker's, such as INVALID_PARTITIONS when it has that many already.
    pub async fn create_partitions(
        &self,
        topic: &str,
        count: i32,
        validate_only: bool,
    ) -> Result<(), ClientError> {
        let response = self
            .ask(Node::Controller, i16::MAX, |_| CreatePartitionsRequest {
                topics: vec![CreatePartitionsTopic {
                    name: topic.to_owned(),
                    count,
                    assignments: None,
                    ..CreatePartitionsTopic::default()
                }],
                timeout_ms: self.server_timeout_ms(),
                validate_only,
                ..CreatePartitionsRequest::default()
            })
            .await?;
        for result in response.results {
            ClientError::check(result.error_code, result.error_message.as_deref(), || {
                format!("widening topic {topic} to {count} partitions")
            })?;
        }
        Ok(())
    }

    /// Deletes the records below the given offsets (-1: all); answers each partition's new log start offset.
    ///
    /// # Errors
    /// When a leader cannot be asked; errors of single partitions are in the map.
    pub async fn delete_records(
        &self,
        before: &BTreeMap<TopicPartition, i64>,
    ) -> Result<BTreeMap<TopicPartition, Result<i64, ClientError>>, ClientError> {
        let mut results = BTreeMap::new();
        for (leader, partitions) in self.by_leader(before.keys(), true).await? {
            let response = self
                .ask(Node::Id(leader), i16::MAX, |_| {
                    let mut topics: BTreeMap<&str, Vec<DeleteRecordsPartition>> = BTreeMap::new();
                    for tp in &partitions {
                        topics
                            .entry(&tp.topic)
                            .or_default()
                            .push(DeleteRecordsPartition {
                                partition_index: tp.partition,
                                offset: before.get(tp).copied().unwrap_or(0),
                                ..DeleteRecordsPartition::default()
                            });
                    }
                    DeleteRecordsRequest {
                        topics: topics
                            .into_iter()
                            .map(|(name, partitions)| DeleteRecordsTopic {
                                name: name.to_owned(),
                                partitions,
                                ..DeleteRecordsTopic::default()
                            })
                            .collect(),
                        timeout_ms: self.server_timeout_ms(),
                        ..DeleteRecordsRequest::default()
                    }
                })
                .await?;
            for topic in response.topics {
                for partition in topic.partitions {
                    let tp = TopicPartition::new(topic.name.clone(), partition.partition_index);
                    let outcome = ClientError::check(partition.error_code, None, || {
                        format!("deleting records of {tp}")
                    })
                    .map(|()| partition.low_watermark);
                    results.insert(tp, outcome);
                }
            }
        }
        Ok(results)
    }

    /// The log directories of one broker with all replicas in them.
    ///
    /// # Errors
    /// When the broker cannot be asked.
    pub async fn describe_log_dirs(&self, broker: i32) -> Result<Vec<LogDir>, ClientError> {
        let response = self
            .ask(Node::Id(broker), i16::MAX, |_| DescribeLogDirsRequest {
                topics: None,
                ..DescribeLogDirsRequest::default()
            })
            .await?;
        ClientError::check(response.error_code, None, || {
            format!("log directories of broker {broker}")
        })?;
        Ok(response
            .results
            .into_iter()
            .map(|dir| LogDir {
                broker,
                path: dir.log_dir,
                error: crate::error::error_code(dir.error_code),
                total_bytes: dir.total_bytes,
                usable_bytes: dir.usable_bytes,
                cordoned: dir.is_cordoned,
                replicas: dir
                    .topics
                    .into_iter()
                    .flat_map(|topic| {
                        let name = topic.name;
                        topic.partitions.into_iter().map(move |p| LogDirReplica {
                            partition: TopicPartition::new(name.clone(), p.partition_index),
                            size_bytes: p.partition_size,
                            offset_lag: p.offset_lag,
                        })
                    })
                    .collect(),
            })
            .collect())
    }
}
