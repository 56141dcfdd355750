//! What a coordinator answers, and how an answer is turned into an error when
//! the record it waits for is lost.

use bytes::Bytes;
use tidemark_wire::{ErrorCode, Uuid};

use crate::request::Request;

/// The answer to the [`Request`] variant of the same name.
#[derive(Debug, Clone, PartialEq)]
pub enum Response {
    /// Answer to a JoinGroup.
    JoinGroup(JoinGroupResponse),
    /// Answer to a SyncGroup.
    SyncGroup(SyncGroupResponse),
    /// Answer to a Heartbeat.
    Heartbeat(ErrorCode),
    /// Answer to a LeaveGroup.
    LeaveGroup(LeaveGroupResponse),
    /// Answer to an OffsetCommit.
    OffsetCommit(OffsetCommitResponse),
    /// Answer to an OffsetFetch.
    OffsetFetch(OffsetFetchResponse),
    /// Answer to an OffsetDelete.
    OffsetDelete(OffsetDeleteResponse),
    /// Answer to a ListGroups.
    ListGroups(ListGroupsResponse),
    /// Answer to a DescribeGroups, in the order asked.
    DescribeGroups(Vec<DescribedGroup>),
    /// Answer to a DeleteGroups, in the order asked.
    DeleteGroups(Vec<(String, ErrorCode)>),
}

/// Answer to a JoinGroup. Versions below 7 write an absent protocol as an empty string.
#[derive(Debug, Clone, PartialEq)]
pub struct JoinGroupResponse {
    /// The error.
    pub error: ErrorCode,
    /// The generation joined, -1 with an error.
    pub generation_id: i32,
    /// The group's protocol type (version 7).
    pub protocol_type: Option<String>,
    /// The protocol chosen.
    pub protocol_name: Option<String>,
    /// The leader's member id, empty with an error.
    pub leader: String,
    /// The leader must not compute an assignment (KIP-814, version 9).
    pub skip_assignment: bool,
    /// The member's id.
    pub member_id: String,
    /// All members, for the leader only.
    pub members: Vec<JoinedMember>,
}

impl JoinGroupResponse {
    /// A refusal.
    pub fn error(error: ErrorCode, member_id: impl Into<String>) -> Self {
        Self {
            error,
            generation_id: -1,
            protocol_type: None,
            protocol_name: None,
            leader: String::new(),
            skip_assignment: false,
            member_id: member_id.into(),
            members: Vec::new(),
        }
    }
}

/// One member in the leader's [`JoinGroupResponse`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinedMember {
    /// The member's id.
    pub member_id: String,
    /// Its instance id (version 5).
    pub group_instance_id: Option<String>,
    /// Its metadata for the chosen protocol.
    pub metadata: Bytes,
}

/// Answer to a SyncGroup.
#[derive(Debug, Clone, PartialEq)]
pub struct SyncGroupResponse {
    /// The error.
    pub error: ErrorCode,
    /// The group's protocol type (version 5).
    pub protocol_type: Option<String>,
    /// The group's protocol (version 5).
    pub protocol_name: Option<String>,
    /// The member's assignment.
    pub assignment: Bytes,
}

impl SyncGroupResponse {
    /// A refusal.
    pub fn error(error: ErrorCode) -> Self {
        Self {
            error,
            protocol_type: None,
            protocol_name: None,
            assignment: Bytes::new(),
        }
    }
}

/// Answer to a LeaveGroup. Versions below 3 write [`LeaveGroupResponse::single_error`].
#[derive(Debug, Clone, PartialEq)]
pub struct LeaveGroupResponse {
    /// The error of the whole request.
    pub error: ErrorCode,
    /// One entry per member named, in that order.
    pub members: Vec<LeftMember>,
}

impl LeaveGroupResponse {
    /// The one error that versions below 3 have room for.
    pub fn single_error(&self) -> ErrorCode {
        if self.error != ErrorCode::None {
            return self.error;
        }
        self.members.first().map_or(ErrorCode::None, |m| m.error)
    }
}

/// One member of a [`LeaveGroupResponse`].
#[derive(Debug, Clone, PartialEq)]
pub struct LeftMember {
    /// As in the request.
    pub member_id: String,
    /// As in the request.
    pub group_instance_id: Option<String>,
    /// The error.
    pub error: ErrorCode,
}

/// Answer to an OffsetCommit.
#[derive(Debug, Clone, PartialEq)]
pub struct OffsetCommitResponse {
    /// One entry per topic of the request, in that order.
    pub topics: Vec<TopicErrors>,
}

/// A topic with an error for each partition.
#[derive(Debug, Clone, PartialEq)]
pub struct TopicErrors {
    /// The topic's name.
    pub name: String,
    /// The topic's id as in the request.
    pub topic_id: Uuid,
    /// Partition and its error.
    pub partitions: Vec<(i32, ErrorCode)>,
}

/// Answer to an OffsetFetch of one group.
#[derive(Debug, Clone, PartialEq)]
pub struct OffsetFetchResponse {
    /// The group.
    pub group_id: String,
    /// The error of the whole group.
    pub error: ErrorCode,
    /// The offsets; in the request's order, or by name where all were asked for.
    pub topics: Vec<FetchedTopic>,
}

/// One topic of an [`OffsetFetchResponse`].
#[derive(Debug, Clone, PartialEq)]
pub struct FetchedTopic {
    /// The topic's name.
    pub name: String,
    /// The topic's id: the request's, or where all were asked for the one
    /// committed under ([`Uuid::ZERO`] if unknown).
    pub topic_id: Uuid,
    /// The offsets.
    pub partitions: Vec<FetchedPartition>,
}

/// One partition of an [`OffsetFetchResponse`].
#[derive(Debug, Clone, PartialEq)]
pub struct FetchedPartition {
    /// The partition.
    pub partition: i32,
    /// The committed offset, -1 if there is none.
    pub offset: i64,
    /// The leader epoch committed with it, -1 if unknown.
    pub leader_epoch: i32,
    /// The client's note.
    pub metadata: String,
    /// The error.
    pub error: ErrorCode,
}

/// Answer to an OffsetDelete.
#[derive(Debug, Clone, PartialEq)]
pub struct OffsetDeleteResponse {
    /// The error of the whole request; `topics` is empty then.
    pub error: ErrorCode,
    /// One entry per topic of the request.
    pub topics: Vec<TopicErrors>,
}

/// Answer to a ListGroups, by group id.
#[derive(Debug, Clone, PartialEq)]
pub struct ListGroupsResponse {
    /// The error of the whole request.
    pub error: ErrorCode,
    /// The groups that pass the filters.
    pub groups: Vec<ListedGroup>,
}

/// One group of a [`ListGroupsResponse`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedGroup {
    /// The group.
    pub group_id: String,
    /// Its protocol type, empty for groups that only store offsets.
    pub protocol_type: String,
    /// Its state as Kafka writes it, `Stable`.
    pub state: &'static str,
    /// Its type as Kafka writes it, `classic`.
    pub group_type: &'static str,
}

/// One group of a DescribeGroups answer.
#[derive(Debug, Clone, PartialEq)]
pub struct DescribedGroup {
    /// The group.
    pub group_id: String,
    /// The error.
    pub error: ErrorCode,
    /// What is wrong (version 6).
    pub error_message: Option<String>,
    /// Its state as Kafka writes it; `Dead` for a group that does not exist.
    pub state: &'static str,
    /// Its protocol type.
    pub protocol_type: String,
    /// The protocol chosen, empty while there is none.
    pub protocol: String,
    /// Its members.
    pub members: Vec<DescribedMember>,
}

/// One member of a [`DescribedGroup`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedMember {
    /// The member's id.
    pub member_id: String,
    /// Its instance id (version 4).
    pub group_instance_id: Option<String>,
    /// Its client id.
    pub client_id: String,
    /// Where it connects from.
    pub client_host: String,
    /// Its metadata, while the group is stable.
    pub metadata: Bytes,
    /// Its assignment.
    pub assignment: Bytes,
}

impl Response {
    /// The answer that refuses `request` with `error`.
    pub fn refusal(request: &Request, error: ErrorCode) -> Self {
        match request {
            Request::JoinGroup(r) => {
                Self::JoinGroup(JoinGroupResponse::error(error, r.member_id.clone()))
            }
            Request::SyncGroup(_) => Self::SyncGroup(SyncGroupResponse::error(error)),
            Request::Heartbeat(_) => Self::Heartbeat(error),
            Request::LeaveGroup(_) => Self::LeaveGroup(LeaveGroupResponse {
                error,
                members: Vec::new(),
            }),
            Request::OffsetCommit(r) => Self::OffsetCommit(OffsetCommitResponse {
                topics: r
                    .topics
                    .iter()
                    .map(|t| TopicErrors {
                        name: t.name.clone(),
                        topic_id: t.topic_id,
                        partitions: t.partitions.iter().map(|p| (p.partition, error)).collect(),
                    })
                    .collect(),
            }),
            // Versions below 2 have no room for the group's error: it is also
            // at every partition that was asked for.
            Request::OffsetFetch(r) => Self::OffsetFetch(OffsetFetchResponse {
                group_id: r.group_id.clone(),
                error,
                topics: r
                    .topics
                    .iter()
                    .flatten()
                    .map(|t| FetchedTopic {
                        name: t.name.clone(),
                        topic_id: t.topic_id,
                        partitions: t
                            .partitions
                            .iter()
                            .map(|p| FetchedPartition::absent(*p, error))
                            .collect(),
                    })
                    .collect(),
            }),
            Request::OffsetDelete(_) => Self::OffsetDelete(OffsetDeleteResponse {
                error,
                topics: Vec::new(),
            }),
            Request::ListGroups(_) => Self::ListGroups(ListGroupsResponse {
                error,
                groups: Vec::new(),
            }),
            Request::DescribeGroups(r) => Self::DescribeGroups(
                r.group_ids
                    .iter()
                    .map(|id| DescribedGroup::refused(id.clone(), error, None))
                    .collect(),
            ),
            Request::DeleteGroups(r) => {
                Self::DeleteGroups(r.group_ids.iter().map(|id| (id.clone(), error)).collect())
            }
        }
    }

    /// The same answer turned into a refusal: its record did not make it.
    pub(crate) fn into_error(self, error: ErrorCode) -> Self {
        match self {
            Self::JoinGroup(r) => Self::JoinGroup(JoinGroupResponse::error(error, r.member_id)),
            Self::SyncGroup(_) => Self::SyncGroup(SyncGroupResponse::error(error)),
            Self::Heartbeat(_) => Self::Heartbeat(error),
            Self::LeaveGroup(_) => Self::LeaveGroup(LeaveGroupResponse {
                error,
                members: Vec::new(),
            }),
            Self::OffsetCommit(mut r) => {
                for topic in &mut r.topics {
                    for (_, code) in &mut topic.partitions {
                        *code = error;
                    }
                }
                Self::OffsetCommit(r)
            }
            Self::OffsetFetch(mut r) => {
                r.error = error;
                for topic in &mut r.topics {
                    for partition in &mut topic.partitions {
                        *partition = FetchedPartition::absent(partition.partition, error);
                    }
                }
                Self::OffsetFetch(r)
            }
            Self::OffsetDelete(_) => Self::OffsetDelete(OffsetDeleteResponse {
                error,
                topics: Vec::new(),
            }),
            Self::ListGroups(_) => Self::ListGroups(ListGroupsResponse {
                error,
                groups: Vec::new(),
            }),
            Self::DescribeGroups(groups) => Self::DescribeGroups(
                groups
                    .into_iter()
                    .map(|g| DescribedGroup::refused(g.group_id, error, None))
                    .collect(),
            ),
            Self::DeleteGroups(groups) => {
                Self::DeleteGroups(groups.into_iter().map(|(id, _)| (id, error)).collect())
            }
        }
    }
}

impl FetchedPartition {
    /// A partition without an offset to give.
    pub fn absent(partition: i32, error: ErrorCode) -> Self {
        Self {
            partition,
            offset: -1,
            leader_epoch: -1,
            metadata: String::new(),
            error,
        }
    }
}

impl DescribedGroup {
    /// A group that cannot be described.
    pub(crate) fn refused(group_id: String, error: ErrorCode, message: Option<String>) -> Self {
        Self {
            group_id,
            error,
            error_message: message,
            state: if error == ErrorCode::None || error == ErrorCode::GroupIdNotFound {
                "Dead"
            } else {
                ""
            },
            protocol_type: String::new(),
            protocol: String::new(),
            members: Vec::new(),
        }
    }
}
