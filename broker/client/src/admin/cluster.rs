//! Brokers, leaders, replicas and voters: described, moved, elected, taken in and out.

use std::collections::BTreeMap;

use tidemark_wire::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use tidemark_wire::messages::update_features_request::FeatureUpdateKey;
use tidemark_wire::messages::{
    AddRaftVoterRequest, AlterPartitionReassignmentsRequest, BeginDisruptionRequest,
    DescribeClusterRequest, DescribeQuorumRequest, ElectLeadersRequest, EndDisruptionRequest,
    ListPartitionReassignmentsRequest, RemoveRaftVoterRequest, UnregisterBrokerRequest,
    UpdateFeaturesRequest, add_raft_voter_request, describe_quorum_request,
    describe_quorum_response, elect_leaders_request, list_partition_reassignments_request,
};
use tidemark_wire::{ErrorCode, Uuid};

use super::{ConfigChange, ConfigOp, ConfigResource};
use crate::cluster::{Cluster, Node};
use crate::error::ClientError;
use crate::metadata::{Broker, TopicPartition};

/// From here on fenced brokers can be asked for (KIP-1073).
const FIRST_VERSION_OF_FENCED: i16 = 2;
/// Kafka's number of a level that may only go up.
const UPGRADE: i8 = 1;
/// Kafka's name for the log of the metadata.
const METADATA_TOPIC: &str = "__cluster_metadata";
/// The setting that keeps new replicas off a broker's directories (KIP-1066).
const CORDONED_DIRS: &str = "cordoned.log.dirs";

/// A registered broker.
#[derive(Debug, Clone)]
pub struct RegisteredBroker {
    /// Where it is.
    pub broker: Broker,
    /// Whether it serves nobody: stopped, out of touch, or still starting. Brokers before Kafka
    /// 4.1 do not tell; those that are fenced are missing in their answers.
    pub fenced: bool,
}

/// What of a partition is being moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OngoingReassignment {
    /// The partition.
    pub partition: TopicPartition,
    /// All that hold it now.
    pub replicas: Vec<i32>,
    /// Those that come.
    pub adding: Vec<i32>,
    /// Those that go.
    pub removing: Vec<i32>,
}

/// Which leader is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Election {
    /// The first replica.
    Preferred,
    /// Any that is up, though records may be lost.
    Unclean,
}

/// What became of partitions, one by one.
pub type PartitionResults = Vec<(TopicPartition, Result<(), ClientError>)>;

/// What is said to somebody who wants to stop a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disruption {
    /// It may be stopped.
    Granted {
        /// Until when it should be back, in ms since 1970.
        until_ms: i64,
    },
    /// These would have fewer in sync than acks=all needs: some of them, where there are many.
    Hindered(Vec<TopicPartition>),
}

/// One that has the metadata's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuorumReplica {
    /// Its node.
    pub id: i32,
    /// Its directory; zero from those who do not tell.
    pub directory: Uuid,
    /// Where its log ends.
    pub log_end: i64,
    /// When it fetched last, in ms since 1970; -1 if unknown.
    pub last_fetch_ms: i64,
    /// When it had everything last, in ms since 1970; -1 if unknown.
    pub last_caught_up_ms: i64,
}

/// Who keeps the metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quorum {
    /// The leader, which is the active controller.
    pub leader: i32,
    /// Its epoch.
    pub epoch: i32,
    /// What of the log is committed.
    pub high_watermark: i64,
    /// Those with a vote.
    pub voters: Vec<QuorumReplica>,
    /// Those without.
    pub observers: Vec<QuorumReplica>,
    /// Where voters listen, `host:port` by node.
    pub addresses: BTreeMap<i32, String>,
}

fn named<T>(partitions: &[(TopicPartition, T)]) -> BTreeMap<&str, Vec<(i32, &T)>> {
    let mut topics: BTreeMap<&str, Vec<(i32, &T)>> = BTreeMap::new();
    for (tp, what) in partitions {
        topics
            .entry(&tp.topic)
            .or_default()
            .push((tp.partition, what));
    }
    topics
}

fn indexes(partitions: &[TopicPartition]) -> BTreeMap<&str, Vec<i32>> {
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for tp in partitions {
        topics.entry(&tp.topic).or_default().push(tp.partition);
    }
    topics
}

impl Cluster {
    /// All brokers, those too that serve nobody, by id.
    ///
    /// # Errors
    /// When no broker answers.
    pub async fn registered_brokers(&self) -> Result<Vec<RegisteredBroker>, ClientError> {
        let response = self
            .ask(Node::Any, i16::MAX, |version| DescribeClusterRequest {
                endpoint_type: 1,
                include_fenced_brokers: version >= FIRST_VERSION_OF_FENCED,
                ..DescribeClusterRequest::default()
            })
            .await?;
        ClientError::check(
            response.error_code,
            response.error_message.as_deref(),
            || "describing the cluster".to_owned(),
        )?;
        let brokers = response.brokers.into_iter().map(|broker| RegisteredBroker {
            fenced: broker.is_fenced,
            broker: Broker {
                id: broker.broker_id,
                host: broker.host,
                port: broker.port,
                rack: broker.rack,
            },
        });
        let mut brokers: Vec<RegisteredBroker> = brokers.collect();
        brokers.sort_by_key(|one| one.broker.id);
        Ok(brokers)
    }

    /// Says where partitions should be, the preferred leader first; `None` cancels a move.
    ///
    /// # Errors
    /// When the request as a whole fails.
    pub async fn reassign(
        &self,
        moves: &[(TopicPartition, Option<Vec<i32>>)],
    ) -> Result<PartitionResults, ClientError> {
        let topics = named(moves);
        let response = self
            .ask(Node::Controller, i16::MAX, |_| {
                let topics = topics.iter().map(|(name, partitions)| ReassignableTopic {
                    name: (*name).to_owned(),
                    partitions: partitions
                        .iter()
                        .map(|(partition_index, replicas)| ReassignablePartition {
                            partition_index: *partition_index,
                            replicas: (*replicas).clone(),
                            ..ReassignablePartition::default()
                        })
                        .collect(),
                    ..ReassignableTopic::default()
                });
                AlterPartitionReassignmentsRequest {
                    timeout_ms: self.server_timeout_ms(),
                    topics: topics.collect(),
                    ..AlterPartitionReassignmentsRequest::default()
                }
            })
            .await?;
        ClientError::check(
            response.error_code,
            response.error_message.as_deref(),
            || "moving replicas".to_owned(),
        )?;
        let results = response.responses.into_iter().flat_map(|topic| {
            let name = topic.name;
            topic.partitions.into_iter().map(move |partition| {
                let tp = TopicPartition::new(name.clone(), partition.partition_index);
                let message = partition.error_message.as_deref();
                let result =
                    ClientError::check(partition.error_code, message, || format!("moving {tp}"));
                (tp, result)
            })
        });
        Ok(results.collect())
    }

    /// The moves that are under way: of these partitions, or all.
    ///
    /// # Errors
    /// When the request fails.
    pub async fn reassignments(
        &self,
        of: Option<&[TopicPartition]>,
    ) -> Result<Vec<OngoingReassignment>, ClientError> {
        let topics = of.map(indexes);
        let response = self
            .ask(Node::Controller, i16::MAX, |_| {
                let topics = topics.as_ref().map(|topics| {
                    let topics = topics.iter().map(|(name, indexes)| {
                        list_partition_reassignments_request::ListPartitionReassignmentsTopics {
                            name: (*name).to_owned(),
                            partition_indexes: indexes.clone(),
                            ..Default::default()
                        }
                    });
                    topics.collect()
                });
                ListPartitionReassignmentsRequest {
                    timeout_ms: self.server_timeout_ms(),
                    topics,
                    ..ListPartitionReassignmentsRequest::default()
                }
            })
            .await?;
        ClientError::check(
            response.error_code,
            response.error_message.as_deref(),
            || "listing moves of replicas".to_owned(),
        )?;
        let moves = response.topics.into_iter().flat_map(|topic| {
            let name = topic.name;
            topic
                .partitions
                .into_iter()
                .map(move |partition| OngoingReassignment {
                    partition: TopicPartition::new(name.clone(), partition.partition_index),
                    replicas: partition.replicas,
                    adding: partition.adding_replicas,
                    removing: partition.removing_replicas,
                })
        });
        let mut moves: Vec<OngoingReassignment> = moves.collect();
        moves.sort_by(|a, b| a.partition.cmp(&b.partition));
        Ok(moves)
    }

    /// Has leaders elected: of these partitions, or of all that need one. ELECTION_NOT_NEEDED is
    /// told of partitions that have the leader asked for.
    ///
    /// # Errors
    /// When the request as a whole fails.
    pub async fn elect_leaders(
        &self,
        election: Election,
        of: Option<&[TopicPartition]>,
    ) -> Result<PartitionResults, ClientError> {
        let topics = of.map(indexes);
        let response = self
            .ask(Node::Controller, i16::MAX, |_| {
                let topic_partitions = topics.as_ref().map(|topics| {
                    let topics = topics.iter().map(|(topic, partitions)| {
                        elect_leaders_request::TopicPartitions {
                            topic: (*topic).to_owned(),
                            partitions: partitions.clone(),
                            ..Default::default()
                        }
                    });
                    topics.collect()
                });
                ElectLeadersRequest {
                    election_type: match election {
                        Election::Preferred => 0,
                        Election::Unclean => 1,
                    },
                    topic_partitions,
                    timeout_ms: self.server_timeout_ms(),
                    ..ElectLeadersRequest::default()
                }
            })
            .await?;
        ClientError::check(response.error_code, None, || "electing leaders".to_owned())?;
        let results = response.replica_election_results.into_iter();
        let results = results.flat_map(|topic| {
            let name = topic.topic;
            topic.partition_result.into_iter().map(move |result| {
                let tp = TopicPartition::new(name.clone(), result.partition_id);
                let message = result.error_message.as_deref();
                let elected = ClientError::check(result.error_code, message, || {
                    format!("electing a leader of {tp}")
                });
                (tp, elected)
            })
        });
        Ok(results.collect())
    }

    /// Keeps new replicas off a broker, or lets them come again (KIP-1066).
    ///
    /// # Errors
    /// The broker's; it has to be up.
    pub async fn cordon(&self, broker: i32, cordoned: bool) -> Result<(), ClientError> {
        self.alter_configs(&ConfigResource::Broker(broker), &[cordon(cordoned)], false)
            .await
    }

    /// As [`Self::cordon`], told to the controller: the broker may be down. Kafka's brokers take only
    /// what is about themselves.
    ///
    /// # Errors
    /// The controller's.
    pub async fn cordon_by_controller(
        &self,
        broker: i32,
        cordoned: bool,
    ) -> Result<(), ClientError> {
        let resource = ConfigResource::Broker(broker);
        self.alter_configs_at(Node::Controller, &resource, &[cordon(cordoned)], false)
            .await
    }

    /// Asks for leave to stop a broker for `ttl_ms`: granted while every partition that it holds
    /// keeps enough in sync without it, and without the others that there is leave to stop. Who
    /// asks again with the same token gets more time. A request of ours that Kafka does not have.
    ///
    /// # Errors
    /// NOT_ENOUGH_REPLICAS when it has to wait, with what hinders.
    pub async fn begin_disruption(
        &self,
        broker: i32,
        token: Uuid,
        ttl_ms: i64,
    ) -> Result<Disruption, ClientError> {
        let response = self
            .ask(Node::Controller, i16::MAX, |_| BeginDisruptionRequest {
                broker_id: broker,
                token,
                ttl_ms,
                ..BeginDisruptionRequest::default()
            })
            .await?;
        if !response.topics.is_empty() {
            let partitions = response.topics.into_iter().flat_map(|topic| {
                let of = move |partition| TopicPartition::new(topic.name.clone(), partition);
                topic.partitions.into_iter().map(of)
            });
            return Ok(Disruption::Hindered(partitions.collect()));
        }
        ClientError::check(
            response.error_code,
            response.error_message.as_deref(),
            || format!("leave to stop broker {broker}"),
        )?;
        Ok(Disruption::Granted {
            until_ms: response.until_ms,
        })
    }

    /// Ends what [`Self::begin_disruption`] began: the broker is back, or is not to be stopped.
    ///
    /// # Errors
    /// The controller's.
    pub async fn end_disruption(&self, broker: i32, token: Uuid) -> Result<(), ClientError> {
        let response = self
            .ask(Node::Controller, i16::MAX, |_| EndDisruptionRequest {
                broker_id: broker,
                token,
                ..EndDisruptionRequest::default()
            })
            .await?;
        ClientError::check(
            response.error_code,
            response.error_message.as_deref(),
            || format!("giving back the leave to stop broker {broker}"),
        )
    }

    /// Has the cluster use a level of a feature (KIP-584), which all brokers have to know.
    ///
    /// # Errors
    /// The controller's, such as INVALID_UPDATE_VERSION with the broker that does not know it.
    pub async fn raise_feature(&self, name: &str, level: i16) -> Result<(), ClientError> {
        // From version 2 on one error speaks for all features.
        let response = self
            .ask(Node::Controller, i16::MAX, |_| UpdateFeaturesRequest {
                feature_updates: vec![FeatureUpdateKey {
                    feature: name.to_owned(),
                    max_version_level: level,
                    upgrade_type: UPGRADE,
                    ..FeatureUpdateKey::default()
                }],
                ..UpdateFeaturesRequest::default()
            })
            .await?;
        let what = || format!("level {level} of {name}");
        ClientError::check(response.error_code, response.error_message.as_deref(), what)?;
        for result in response.results {
            ClientError::check(result.error_code, result.error_message.as_deref(), what)?;
        }
        Ok(())
    }

    /// Takes a broker that is stopped out of the cluster.
    ///
    /// # Errors
    /// The controller's, such as BROKER_ID_NOT_REGISTERED.
    pub async fn unregister_broker(&self, broker: i32) -> Result<(), ClientError> {
        let response = self
            .ask(Node::Controller, i16::MAX, |_| UnregisterBrokerRequest {
                broker_id: broker,
                ..UnregisterBrokerRequest::default()
            })
            .await?;
        ClientError::check(
            response.error_code,
            response.error_message.as_deref(),
            || format!("unregistering broker {broker}"),
        )
    }

    /// Who keeps the metadata, and how far each has it.
    ///
    /// # Errors
    /// The controller's.
    pub async fn describe_quorum(&self) -> Result<Quorum, ClientError> {
        let what = || "describing the metadata quorum".to_owned();
        let response = self
            .ask(Node::Controller, i16::MAX, |_| DescribeQuorumRequest {
                topics: vec![describe_quorum_request::TopicData {
                    topic_name: METADATA_TOPIC.to_owned(),
                    partitions: vec![describe_quorum_request::PartitionData::default()],
                    ..Default::default()
                }],
                ..DescribeQuorumRequest::default()
            })
            .await?;
        ClientError::check(response.error_code, response.error_message.as_deref(), what)?;
        let mut topics = response.topics.into_iter();
        let partition = topics
            .next()
            .and_then(|topic| topic.partitions.into_iter().next());
        let partition = partition.ok_or_else(|| ClientError::Server {
            what: what(),
            code: ErrorCode::UnknownServerError,
            message: Some("the answer is empty".to_owned()),
        })?;
        ClientError::check(
            partition.error_code,
            partition.error_message.as_deref(),
            what,
        )?;
        let addresses = response.nodes.into_iter().filter_map(|node| {
            let listener = node.listeners.into_iter().next()?;
            Some((node.node_id, format!("{}:{}", listener.host, listener.port)))
        });
        Ok(Quorum {
            leader: partition.leader_id,
            epoch: partition.leader_epoch,
            high_watermark: partition.high_watermark,
            voters: partition.current_voters.iter().map(replica).collect(),
            observers: partition.observers.iter().map(replica).collect(),
            addresses: addresses.collect(),
        })
    }

    /// Takes a voter into the metadata quorum, reached at `host` and `port` of its controller
    /// listener.
    ///
    /// # Errors
    /// The controller's.
    pub async fn add_voter(
        &self,
        (id, directory): (i32, Uuid),
        (listener, host, port): (&str, &str, u16),
    ) -> Result<(), ClientError> {
        let cluster_id = self.info().cluster_id.clone();
        let response = self
            .ask(Node::Controller, i16::MAX, |_| AddRaftVoterRequest {
                cluster_id: cluster_id.clone(),
                timeout_ms: self.server_timeout_ms(),
                voter_id: id,
                voter_directory_id: directory,
                listeners: vec![add_raft_voter_request::Listener {
                    name: listener.to_owned(),
                    host: host.to_owned(),
                    port,
                    ..Default::default()
                }],
                ..AddRaftVoterRequest::default()
            })
            .await?;
        ClientError::check(
            response.error_code,
            response.error_message.as_deref(),
            || format!("adding voter {id}"),
        )
    }

    /// Takes a voter out of the metadata quorum.
    ///
    /// # Errors
    /// The controller's.
    pub async fn remove_voter(&self, id: i32, directory: Uuid) -> Result<(), ClientError> {
        let cluster_id = self.info().cluster_id.clone();
        let response = self
            .ask(Node::Controller, i16::MAX, |_| RemoveRaftVoterRequest {
                cluster_id: cluster_id.clone(),
                voter_id: id,
                voter_directory_id: directory,
                ..RemoveRaftVoterRequest::default()
            })
            .await?;
        ClientError::check(
            response.error_code,
            response.error_message.as_deref(),
            || format!("removing voter {id}"),
        )
    }
}

fn cordon(cordoned: bool) -> ConfigChange {
    ConfigChange {
        name: CORDONED_DIRS.to_owned(),
        op: match cordoned {
            true => ConfigOp::Set,
            false => ConfigOp::Delete,
        },
        value: cordoned.then(|| "*".to_owned()),
    }
}

fn replica(state: &describe_quorum_response::ReplicaState) -> QuorumReplica {
    QuorumReplica {
        id: state.replica_id,
        directory: state.replica_directory_id,
        log_end: state.log_end_offset,
        last_fetch_ms: state.last_fetch_timestamp,
        last_caught_up_ms: state.last_caught_up_timestamp,
    }
}

/// Whether an election was not needed: the leader asked for leads.
#[must_use]
pub fn leads_already(error: &ClientError) -> bool {
    error.code() == Some(ErrorCode::ElectionNotNeeded)
}
