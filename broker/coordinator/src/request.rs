//! What a coordinator is asked: one struct per API, free of wire versions but
//! where Kafka's answer depends on the version.

use bytes::Bytes;
use tidemark_wire::Uuid;

/// Names a request until its answer; chosen by the caller, never looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// One request to the coordinator of the group(s) that it names.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// Become a member, or take part in the next generation.
    JoinGroup(JoinGroup),
    /// Hand over (leader) and fetch an assignment.
    SyncGroup(SyncGroup),
    /// Stay a member.
    Heartbeat(Heartbeat),
    /// Remove members.
    LeaveGroup(LeaveGroup),
    /// Store offsets.
    OffsetCommit(OffsetCommit),
    /// Read offsets of one group.
    OffsetFetch(OffsetFetch),
    /// Remove offsets of topics that the group does not consume.
    OffsetDelete(OffsetDelete),
    /// List the groups of this coordinator.
    ListGroups(ListGroups),
    /// Describe groups.
    DescribeGroups(DescribeGroups),
    /// Remove empty groups and their offsets.
    DeleteGroups(DeleteGroups),
}

/// JoinGroup 0-9.
#[derive(Debug, Clone, PartialEq)]
pub struct JoinGroup {
    /// Version of the request. Below 4 no member id is asked for first; from 9 on
    /// `skip_assignment` is understood; at 0 the session is also the rebalance timeout.
    pub api_version: i16,
    /// The group; empty is refused.
    pub group_id: String,
    /// The member id, empty for a new member.
    pub member_id: String,
    /// The static member's instance id (KIP-345).
    pub group_instance_id: Option<String>,
    /// From the request's header; empty if it had none.
    pub client_id: String,
    /// The peer's address as Kafka writes it, `/127.0.0.1`.
    pub client_host: String,
    /// Session timeout in milliseconds.
    pub session_timeout_ms: i32,
    /// Rebalance timeout in milliseconds; -1 stands for the session timeout.
    pub rebalance_timeout_ms: i32,
    /// `consumer`, `connect`, …
    pub protocol_type: String,
    /// Name and metadata of each protocol, in order of preference.
    pub protocols: Vec<(String, Bytes)>,
    /// Why the client (re)joins, for the log (KIP-800).
    pub reason: Option<String>,
    /// Sixteen random bytes for the member id, should one be made.
    pub random: Uuid,
}

/// SyncGroup 0-5.
#[derive(Debug, Clone, PartialEq)]
pub struct SyncGroup {
    /// Version of the request; from 5 on protocol type and name are mandatory.
    pub api_version: i16,
    /// The group.
    pub group_id: String,
    /// The generation that the member joined.
    pub generation_id: i32,
    /// The member.
    pub member_id: String,
    /// The static member's instance id.
    pub group_instance_id: Option<String>,
    /// The protocol type that the member believes in.
    pub protocol_type: Option<String>,
    /// The protocol that the member believes to be chosen.
    pub protocol_name: Option<String>,
    /// Member id and assignment; filled by the leader only.
    pub assignments: Vec<(String, Bytes)>,
}

/// Heartbeat 0-4.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    /// The group.
    pub group_id: String,
    /// The generation that the member is in.
    pub generation_id: i32,
    /// The member.
    pub member_id: String,
    /// The static member's instance id.
    pub group_instance_id: Option<String>,
}

/// LeaveGroup 0-5; versions below 3 name one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaveGroup {
    /// The group.
    pub group_id: String,
    /// Who leaves.
    pub members: Vec<LeavingMember>,
}

/// One member of a [`LeaveGroup`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeavingMember {
    /// The member id; may be empty where an instance id is given.
    pub member_id: String,
    /// The static member's instance id.
    pub group_instance_id: Option<String>,
    /// Why, for the log (KIP-800).
    pub reason: Option<String>,
}

/// OffsetCommit 2-10. Topic ids of version 10 are resolved by the caller, who
/// answers for unknown topics itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetCommit {
    /// Version of the request; from 9 on an unknown group is `GROUP_ID_NOT_FOUND`.
    pub api_version: i16,
    /// The group.
    pub group_id: String,
    /// The generation, or -1 for a client that manages its partitions itself.
    pub generation_id: i32,
    /// The member, empty with generation -1.
    pub member_id: String,
    /// The static member's instance id.
    pub group_instance_id: Option<String>,
    /// Versions 2-4 only: how long to keep the offsets; `None` (-1 on the wire) for the broker's setting.
    pub retention_time_ms: Option<i64>,
    /// What to store.
    pub topics: Vec<CommitTopic>,
}

/// One topic of an [`OffsetCommit`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitTopic {
    /// The topic's name.
    pub name: String,
    /// The topic's id, [`Uuid::ZERO`] if unknown; kept with the offset.
    pub topic_id: Uuid,
    /// What to store.
    pub partitions: Vec<CommitPartition>,
}

/// One partition of an [`OffsetCommit`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitPartition {
    /// The partition.
    pub partition: i32,
    /// The next offset to be read.
    pub offset: i64,
    /// Leader epoch of the last record read, -1 if unknown (KIP-320).
    pub leader_epoch: i32,
    /// The client's note; `None` is stored as an empty string.
    pub metadata: Option<String>,
}

/// OffsetFetch 1-10, one group of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetFetch {
    /// The group.
    pub group_id: String,
    /// What to read; `None` for all that the group has.
    pub topics: Option<Vec<TopicPartitions>>,
}

/// A topic and some of its partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicPartitions {
    /// The topic's name.
    pub name: String,
    /// The topic's id, [`Uuid::ZERO`] if unknown. Offsets that were committed
    /// under another id belong to a deleted topic and are not returned.
    pub topic_id: Uuid,
    /// The partitions.
    pub partitions: Vec<i32>,
}

/// OffsetDelete 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetDelete {
    /// The group.
    pub group_id: String,
    /// What to forget.
    pub topics: Vec<TopicPartitions>,
}

/// ListGroups 0-5.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListGroups {
    /// Only groups in one of these states, in any case; empty for all (KIP-518).
    pub states_filter: Vec<String>,
    /// Only groups of one of these types, in any case; empty for all (KIP-848).
    pub types_filter: Vec<String>,
}

/// DescribeGroups 0-6.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribeGroups {
    /// Version of the request; from 6 on an unknown group is `GROUP_ID_NOT_FOUND`.
    pub api_version: i16,
    /// The groups.
    pub group_ids: Vec<String>,
}

/// DeleteGroups 0-2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteGroups {
    /// The groups.
    pub group_ids: Vec<String>,
}
