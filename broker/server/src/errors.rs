//! The errors inside answers: of the whole, of its items, of their partitions. For the metrics.

use crate::metrics::Metrics;
use tidemark_wire::messages::*;
use tidemark_wire::{ApiKey, ErrorCode};

/// An answer that tells of errors.
pub(crate) trait Errors {
    /// Shows every error code in it, those that say "no error" too.
    fn each(&self, code: &mut impl FnMut(i16));
}

/// Counts the errors that an answer tells of.
pub(crate) fn count(metrics: &Metrics, api: ApiKey, answer: &impl Errors) {
    answer.each(&mut |code| {
        if code != ErrorCode::None.code() {
            metrics.error(api, ErrorCode::from_code(code));
        }
    });
}

/// Goes down a path of fields, all of them lists but the last.
macro_rules! at {
    ($place:expr, $code:ident, $field:ident) => {
        $code($place.$field)
    };
    ($place:expr, $code:ident, $list:ident $($rest:ident)+) => {
        for item in &$place.$list {
            at!(item, $code, $($rest)+);
        }
    };
}

macro_rules! errors {
    ($($answer:ident: $($($path:ident).+),+;)*) => {$(
        impl Errors for $answer {
            fn each(&self, code: &mut impl FnMut(i16)) {
                $(at!(self, code, $($path)+);)+
            }
        }
    )*};
}

errors! {
    AddRaftVoterResponse: error_code;
    AllocateProducerIdsResponse: error_code;
    AlterConfigsResponse: responses.error_code;
    AlterPartitionReassignmentsResponse: error_code, responses.partitions.error_code;
    AlterPartitionResponse: error_code, topics.partitions.error_code;
    AlterReplicaLogDirsResponse: results.partitions.error_code;
    ApiVersionsResponse: error_code;
    BeginDisruptionResponse: error_code;
    BrokerHeartbeatResponse: error_code;
    BrokerRegistrationResponse: error_code;
    CreatePartitionsResponse: results.error_code;
    CreateTopicsResponse: topics.error_code;
    DeleteGroupsResponse: results.error_code;
    DeleteRecordsResponse: topics.partitions.error_code;
    DeleteTopicsResponse: responses.error_code;
    DescribeClusterResponse: error_code;
    DescribeConfigsResponse: results.error_code;
    DescribeGroupsResponse: groups.error_code;
    DescribeLogDirsResponse: error_code, results.error_code;
    DescribeProducersResponse: topics.partitions.error_code;
    DescribeQuorumResponse: error_code, topics.partitions.error_code;
    DescribeTopicPartitionsResponse: topics.error_code, topics.partitions.error_code;
    DurableAckResponse: error_code;
    ElectLeadersResponse: error_code, replica_election_results.partition_result.error_code;
    EndDisruptionResponse: error_code;
    FetchResponse: error_code, responses.partitions.error_code;
    FindCoordinatorResponse: error_code, coordinators.error_code;
    GetTelemetrySubscriptionsResponse: error_code;
    HeartbeatResponse: error_code;
    IncrementalAlterConfigsResponse: responses.error_code;
    InitProducerIdResponse: error_code;
    JoinGroupResponse: error_code;
    LeaveGroupResponse: error_code, members.error_code;
    ListGroupsResponse: error_code;
    ListOffsetsResponse: topics.partitions.error_code;
    ListPartitionReassignmentsResponse: error_code;
    MetadataResponse: error_code, topics.error_code, topics.partitions.error_code;
    OffsetCommitResponse: topics.partitions.error_code;
    OffsetDeleteResponse: error_code, topics.partitions.error_code;
    OffsetFetchResponse: error_code, topics.partitions.error_code, groups.error_code, groups.topics.partitions.error_code;
    OffsetForLeaderEpochResponse: topics.partitions.error_code;
    ProduceResponse: responses.partition_responses.error_code;
    PushTelemetryResponse: error_code;
    RemoveRaftVoterResponse: error_code;
    SyncGroupResponse: error_code;
    UnregisterBrokerResponse: error_code;
    UpdateFeaturesResponse: error_code, results.error_code;
}
