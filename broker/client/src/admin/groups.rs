//! Groups and their offsets.

use std::collections::BTreeMap;

use tidemark_wire::ErrorCode;
use tidemark_wire::messages::consumer_group_describe_response as described;
use tidemark_wire::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use tidemark_wire::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use tidemark_wire::messages::offset_fetch_request::OffsetFetchRequestGroup;
use tidemark_wire::messages::{
    ConsumerGroupDescribeRequest, DeleteGroupsRequest, DescribeGroupsRequest, ListGroupsRequest,
    OffsetCommitRequest, OffsetDeleteRequest, OffsetFetchRequest,
};

use crate::cluster::{Cluster, Node};
use crate::consumer::protocol;
use crate::error::{ClientError, error_code};
use crate::metadata::{TopicPartition, Topics};

/// From this version on OffsetFetch and OffsetCommit name topics by id; names are what people type.
const LAST_WITH_NAMES: i16 = 9;

/// A group as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupListing {
    /// Its id.
    pub group: String,
    /// `consumer` for classic consumers; empty for a group that only has offsets.
    pub protocol_type: String,
    /// `Stable`, `Empty` and so on; empty from brokers before 2.6.
    pub state: String,
    /// `classic`, `consumer`, `share`; empty from brokers before 3.8.
    pub group_type: String,
    /// The broker that listed it.
    pub coordinator: i32,
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMember {
    /// Its id.
    pub member_id: String,
    /// Its `group.instance.id`.
    pub instance_id: Option<String>,
    /// What it calls itself.
    pub client_id: String,
    /// Where it connects from.
    pub host: String,
    /// What it has been given.
    pub assignment: Vec<TopicPartition>,
}

/// A group with its members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupDescription {
    /// Its id.
    pub group: String,
    /// `Stable`, `Empty`, `PreparingRebalance`, `CompletingRebalance`, `Dead` and so on.
    pub state: String,
    /// `classic` or `consumer`.
    pub group_type: String,
    /// The assignor that is in use.
    pub assignor: String,
    /// The coordinating broker.
    pub coordinator: i32,
    /// Its members.
    pub members: Vec<GroupMember>,
}

/// What a group committed for a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The next offset to read.
    pub offset: i64,
    /// The epoch of the last record that was read; -1 if unknown.
    pub leader_epoch: i32,
    /// What the committer added.
    pub metadata: String,
}

/// What a consumer's assignment bytes say; nothing if they are not in the consumer protocol.
fn decode_assignment(bytes: bytes::Bytes) -> Vec<TopicPartition> {
    protocol::decode_assignment(bytes).unwrap_or_default()
}

impl Cluster {
    /// All groups of all brokers, sorted by id.
    ///
    /// # Errors
    /// When a broker cannot be asked.
    pub async fn list_groups(&self) -> Result<Vec<GroupListing>, ClientError> {
        let brokers = self.metadata(Topics::None).await?.brokers;
        let mut groups = Vec::new();
        for id in brokers.into_keys() {
            let response = self
                .ask(Node::Id(id), i16::MAX, |_| ListGroupsRequest::default())
                .await?;
            ClientError::check(response.error_code, None, || {
                format!("groups of broker {id}")
            })?;
            groups.extend(response.groups.into_iter().map(|group| GroupListing {
                group: group.group_id,
                protocol_type: group.protocol_type,
                state: group.group_state,
                group_type: group.group_type.to_lowercase(),
                coordinator: id,
            }));
        }
        groups.sort_by(|a, b| a.group.cmp(&b.group));
        groups.dedup_by(|a, b| a.group == b.group);
        Ok(groups)
    }

    /// One group with its members, of the classic or the consumer protocol; `None` if there is no such group.
    ///
    /// # Errors
    /// The coordinator's.
    pub async fn describe_group(
        &self,
        group: &str,
    ) -> Result<Option<GroupDescription>, ClientError> {
        if let Some(found) = self.describe_consumer_group(group).await? {
            return Ok(Some(found));
        }
        let response = self
            .ask_coordinator(
                group,
                i16::MAX,
                |_| DescribeGroupsRequest {
                    groups: vec![group.to_owned()],
                    ..DescribeGroupsRequest::default()
                },
                |response| response.groups.first().map_or(0, |g| g.error_code),
            )
            .await?;
        let Some(found) = response.groups.into_iter().next() else {
            return Ok(None);
        };
        if error_code(found.error_code) == ErrorCode::GroupIdNotFound {
            return Ok(None);
        }
        ClientError::check(found.error_code, found.error_message.as_deref(), || {
            format!("describing group {group}")
        })?;
        // Brokers before DescribeGroups 6 call a group that is not there dead.
        if found.group_state == "Dead" {
            return Ok(None);
        }
        Ok(Some(GroupDescription {
            group: found.group_id,
            state: found.group_state,
            group_type: "classic".to_owned(),
            assignor: found.protocol_data,
            coordinator: self.group_coordinator(group).await?,
            members: found
                .members
                .into_iter()
                .map(|member| GroupMember {
                    member_id: member.member_id,
                    instance_id: member.group_instance_id,
                    client_id: member.client_id,
                    host: member.client_host.trim_start_matches('/').to_owned(),
                    assignment: decode_assignment(member.member_assignment),
                })
                .collect(),
        }))
    }

    /// A group of the consumer protocol (KIP-848); `None` if it is not one.
    async fn describe_consumer_group(
        &self,
        group: &str,
    ) -> Result<Option<GroupDescription>, ClientError> {
        let asked = self
            .ask_coordinator(
                group,
                i16::MAX,
                |_| ConsumerGroupDescribeRequest {
                    group_ids: vec![group.to_owned()],
                    ..ConsumerGroupDescribeRequest::default()
                },
                |response| response.groups.first().map_or(0, |g| g.error_code),
            )
            .await;
        let response = match asked {
            Ok(response) => response,
            Err(ClientError::Unsupported { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(found) = response.groups.into_iter().next() else {
            return Ok(None);
        };
        match error_code(found.error_code) {
            ErrorCode::None => {}
            ErrorCode::GroupIdNotFound | ErrorCode::UnsupportedVersion => return Ok(None),
            _ => {
                ClientError::check(found.error_code, found.error_message.as_deref(), || {
                    format!("describing group {group}")
                })?;
            }
        }
        let partitions = |assignment: described::Assignment| {
            assignment
                .topic_partitions
                .into_iter()
                .flat_map(|topic| {
                    let name = topic.topic_name;
                    topic
                        .partitions
                        .into_iter()
                        .map(move |partition| TopicPartition::new(name.clone(), partition))
                })
                .collect()
        };
        Ok(Some(GroupDescription {
            group: found.group_id,
            state: found.group_state,
            group_type: "consumer".to_owned(),
            assignor: found.assignor_name,
            coordinator: self.group_coordinator(group).await?,
            members: found
                .members
                .into_iter()
                .map(|member| GroupMember {
                    member_id: member.member_id,
                    instance_id: member.instance_id,
                    client_id: member.client_id,
                    host: member.client_host.trim_start_matches('/').to_owned(),
                    assignment: partitions(member.assignment),
                })
                .collect(),
        }))
    }

    /// Deletes a group and its offsets.
    ///
    /// # Errors
    /// NON_EMPTY_GROUP while it has members, GROUP_ID_NOT_FOUND.
    pub async fn delete_group(&self, group: &str) -> Result<(), ClientError> {
        let response = self
            .ask_coordinator(
                group,
                i16::MAX,
                |_| DeleteGroupsRequest {
                    groups_names: vec![group.to_owned()],
                    ..DeleteGroupsRequest::default()
                },
                |response| response.results.first().map_or(0, |r| r.error_code),
            )
            .await?;
        for result in response.results {
            ClientError::check(result.error_code, None, || {
                format!("deleting group {group}")
            })?;
        }
        Ok(())
    }

    /// All that a group has committed.
    ///
    /// # Errors
    /// The coordinator's.
    pub async fn group_offsets(
        &self,
        group: &str,
    ) -> Result<BTreeMap<TopicPartition, CommittedOffset>, ClientError> {
        let response = self
            .ask_coordinator(
                group,
                LAST_WITH_NAMES,
                |version| offset_fetch(group, version),
                |response| {
                    response
                        .groups
                        .first()
                        .map_or(response.error_code, |g| g.error_code)
                },
            )
            .await?;
        let what = || format!("offsets of group {group}");
        ClientError::check(response.error_code, None, what)?;
        let mut offsets = BTreeMap::new();
        let mut add = |topic: &str, partition: i32, code: i16, committed: CommittedOffset| {
            ClientError::check(code, None, || {
                format!("offset of group {group} in {topic}-{partition}")
            })?;
            if committed.offset >= 0 {
                offsets.insert(TopicPartition::new(topic, partition), committed);
            }
            Ok::<(), ClientError>(())
        };
        for topic in response.topics {
            for p in topic.partitions {
                let committed = CommittedOffset {
                    offset: p.committed_offset,
                    leader_epoch: p.committed_leader_epoch,
                    metadata: p.metadata.unwrap_or_default(),
                };
                add(&topic.name, p.partition_index, p.error_code, committed)?;
            }
        }
        for group in response.groups {
            ClientError::check(group.error_code, None, what)?;
            for topic in group.topics {
                for p in topic.partitions {
                    let committed = CommittedOffset {
                        offset: p.committed_offset,
                        leader_epoch: p.committed_leader_epoch,
                        metadata: p.metadata.unwrap_or_default(),
                    };
                    add(&topic.name, p.partition_index, p.error_code, committed)?;
                }
            }
        }
        Ok(offsets)
    }

    /// Commits offsets for a group without being a member; it must have no members.
    ///
    /// # Errors
    /// UNKNOWN_MEMBER_ID while the group has members; else the first error of a partition.
    pub async fn alter_group_offsets(
        &self,
        group: &str,
        offsets: &BTreeMap<TopicPartition, i64>,
    ) -> Result<(), ClientError> {
        let committed: BTreeMap<TopicPartition, (i64, i32)> = offsets
            .iter()
            .map(|(tp, offset)| (tp.clone(), (*offset, -1)))
            .collect();
        let response = self
            .ask_coordinator(
                group,
                LAST_WITH_NAMES,
                |_| commit_request(group, -1, "", None, &committed),
                |response| {
                    let first = response.topics.first().and_then(|t| t.partitions.first());
                    first.map_or(0, |p| p.error_code)
                },
            )
            .await?;
        check_commit(&response, group)
    }

    /// Deletes what a group committed for these partitions.
    ///
    /// # Errors
    /// GROUP_SUBSCRIBED_TO_TOPIC while a member reads the topic; else the first error of a partition.
    pub async fn delete_group_offsets(
        &self,
        group: &str,
        partitions: &[TopicPartition],
    ) -> Result<(), ClientError> {
        let response = self
            .ask_coordinator(
                group,
                i16::MAX,
                |_| OffsetDeleteRequest {
                    group_id: group.to_owned(),
                    topics: by_topic(partitions.iter().map(|tp| (tp, ())))
                        .into_iter()
                        .map(|(name, partitions)| OffsetDeleteRequestTopic {
                            name,
                            partitions: partitions
                                .into_iter()
                                .map(|(partition_index, ())| OffsetDeleteRequestPartition {
                                    partition_index,
                                    ..OffsetDeleteRequestPartition::default()
                                })
                                .collect(),
                            ..OffsetDeleteRequestTopic::default()
                        })
                        .collect(),
                    ..OffsetDeleteRequest::default()
                },
                |response| response.error_code,
            )
            .await?;
        ClientError::check(response.error_code, None, || {
            format!("deleting offsets of group {group}")
        })?;
        for topic in response.topics {
            for p in topic.partitions {
                ClientError::check(p.error_code, None, || {
                    format!(
                        "deleting the offset of group {group} in {}-{}",
                        topic.name, p.partition_index
                    )
                })?;
            }
        }
        Ok(())
    }
}

fn offset_fetch(group: &str, version: i16) -> OffsetFetchRequest {
    let mut request = OffsetFetchRequest {
        require_stable: version >= 7,
        ..OffsetFetchRequest::default()
    };
    if version >= 8 {
        request.groups = vec![OffsetFetchRequestGroup {
            group_id: group.to_owned(),
            topics: None,
            ..OffsetFetchRequestGroup::default()
        }];
    } else {
        request.group_id = group.to_owned();
        request.topics = None;
    }
    request
}

/// An OffsetCommit of these offsets and leader epochs.
pub(crate) fn commit_request(
    group: &str,
    generation: i32,
    member_id: &str,
    instance_id: Option<&str>,
    offsets: &BTreeMap<TopicPartition, (i64, i32)>,
) -> OffsetCommitRequest {
    OffsetCommitRequest {
        group_id: group.to_owned(),
        generation_id_or_member_epoch: generation,
        member_id: member_id.to_owned(),
        group_instance_id: instance_id.map(str::to_owned),
        topics: by_topic(offsets.iter().map(|(tp, committed)| (tp, *committed)))
            .into_iter()
            .map(|(name, partitions)| OffsetCommitRequestTopic {
                name,
                partitions: partitions
                    .into_iter()
                    .map(
                        |(partition_index, (offset, epoch))| OffsetCommitRequestPartition {
                            partition_index,
                            committed_offset: offset,
                            committed_leader_epoch: epoch,
                            committed_metadata: Some(String::new()),
                            ..OffsetCommitRequestPartition::default()
                        },
                    )
                    .collect(),
                ..OffsetCommitRequestTopic::default()
            })
            .collect(),
        ..OffsetCommitRequest::default()
    }
}

/// The first error in the answer to a commit.
pub(crate) fn check_commit(
    response: &tidemark_wire::messages::OffsetCommitResponse,
    group: &str,
) -> Result<(), ClientError> {
    for topic in &response.topics {
        for p in &topic.partitions {
            ClientError::check(p.error_code, None, || {
                format!(
                    "committing for group {group} in {}-{}",
                    topic.name, p.partition_index
                )
            })?;
        }
    }
    Ok(())
}

/// Partitions (with what belongs to each) by topic.
pub(crate) fn by_topic<'a, T>(
    partitions: impl Iterator<Item = (&'a TopicPartition, T)>,
) -> BTreeMap<String, Vec<(i32, T)>> {
    let mut topics: BTreeMap<String, Vec<(i32, T)>> = BTreeMap::new();
    for (tp, with) in partitions {
        topics
            .entry(tp.topic.clone())
            .or_default()
            .push((tp.partition, with));
    }
    topics
}
