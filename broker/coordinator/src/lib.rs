//! Consumer groups and their offsets: pure state machines over a log.
//!
//! One [`GroupCoordinator`] serves the groups of one partition of
//! `__consumer_offsets` ([`partition_for`] says which): Kafka's classic group
//! protocol, with the offsets of all groups, as records in Kafka's own format.
//! It has no clock, no chance and no I/O: time and random bytes are handed in,
//! records to append and answers to give come out. The shell that drives it is
//! described at [`GroupCoordinator`].
//!
//! **Invariant:** an answer leaves only when every record that it depends on is
//! committed; replaying the log gives the stored state again.

mod clamp;
mod config;
mod context;
mod coordinator;
mod describe;
mod group;
mod join;
mod member;
mod offsets;
mod partition;
mod records;
mod request;
mod response;
mod standing;
mod subscription;
mod sync;
mod timers;

#[cfg(test)]
mod tests;

pub use clamp::{Clamped, clamp};
pub use config::GroupConfig;
pub use coordinator::GroupCoordinator;
pub use partition::partition_for;
pub use records::{LogRecord, OffsetAndMetadata, ReplayError};
pub use request::{
    CommitPartition, CommitTopic, DeleteGroups, DescribeGroups, Heartbeat, JoinGroup, LeaveGroup,
    LeavingMember, ListGroups, OffsetCommit, OffsetDelete, OffsetFetch, Request, SyncGroup, Token,
    TopicPartitions,
};
pub use response::{
    DescribedGroup, DescribedMember, FetchedPartition, FetchedTopic, JoinGroupResponse,
    JoinedMember, LeaveGroupResponse, LeftMember, ListGroupsResponse, ListedGroup,
    OffsetCommitResponse, OffsetDeleteResponse, OffsetFetchResponse, Response, SyncGroupResponse,
    TopicErrors,
};
pub use standing::GroupStanding;
