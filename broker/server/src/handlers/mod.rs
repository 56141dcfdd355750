//! One file per API: from the wire to what the broker knows, and back.

pub(crate) mod add_raft_voter;
pub(crate) mod allocate_producer_ids;
pub(crate) mod alter_configs;
pub(crate) mod alter_partition;
pub(crate) mod alter_partition_reassignments;
pub(crate) mod alter_replica_log_dirs;
pub(crate) mod api_versions;
pub(crate) mod begin_disruption;
pub(crate) mod broker_heartbeat;
pub(crate) mod broker_registration;
pub(crate) mod create_partitions;
pub(crate) mod create_topics;
pub(crate) mod delete_groups;
pub(crate) mod delete_records;
pub(crate) mod delete_topics;
pub(crate) mod describe_cluster;
pub(crate) mod describe_configs;
pub(crate) mod describe_groups;
pub(crate) mod describe_log_dirs;
pub(crate) mod describe_producers;
pub(crate) mod describe_quorum;
pub(crate) mod describe_topic_partitions;
pub(crate) mod durable_ack;
pub(crate) mod elect_leaders;
pub(crate) mod end_disruption;
pub(crate) mod fetch;
pub(crate) mod find_coordinator;
pub(crate) mod get_telemetry_subscriptions;
pub(crate) mod heartbeat;
pub(crate) mod incremental_alter_configs;
pub(crate) mod init_producer_id;
pub(crate) mod join_group;
mod leadership;
pub(crate) mod leave_group;
pub(crate) mod list_groups;
pub(crate) mod list_offsets;
pub(crate) mod list_partition_reassignments;
pub(crate) mod metadata;
pub(crate) mod offset_commit;
pub(crate) mod offset_delete;
pub(crate) mod offset_fetch;
pub(crate) mod offset_for_leader_epoch;
pub(crate) mod produce;
pub(crate) mod produce_legacy;
pub(crate) mod push_telemetry;
pub(crate) mod remove_raft_voter;
pub(crate) mod sync_group;
#[cfg(test)]
mod tests;
pub(crate) mod unregister_broker;
pub(crate) mod update_features;

/// What most handlers use.
mod prelude {
    pub(super) use super::{
        MISMATCH, TRANSACTIONS_REFUSED, TRANSACTIONS_REFUSED_MESSAGE, operations,
    };
    pub(super) use crate::broker::{Broker, new_id as random_uuid};
    pub(super) use crate::context::Context;
    pub(super) use std::sync::Arc;
    pub(super) use tidemark_coordinator::{Request, Response};
    pub(super) use tidemark_wire::{ErrorCode, Uuid};
}

use tidemark_quorum::QuorumError;
use tidemark_quorum::decide::Refusal;
use tidemark_wire::ErrorCode;

/// Stands in answers for a number that is not told.
const AS_ASKED: i16 = -1;

/// Error and message of an item that was refused.
type Refused = (ErrorCode, String);

/// The results of a change, item by item; the change's own failure is every item's.
fn changed<T>(
    decided: Result<Vec<Result<T, Refusal>>, QuorumError>,
    count: usize,
) -> Vec<Result<T, Refused>> {
    match decided {
        Ok(results) => results
            .into_iter()
            .map(|r| r.map_err(|refusal| (refusal.code, refusal.message)))
            .collect(),
        Err(error) => {
            tracing::error!(%error, "metadata could not be changed");
            (0..count)
                .map(|_| Err((error.error_code(), error.to_string())))
                .collect()
        }
    }
}

/// Puts what was found of partitions under their topics, in the order in which those come first.
fn per_topic<T>(
    partitions: impl IntoIterator<Item = ((String, i32), T)>,
) -> Vec<(String, Vec<(i32, T)>)> {
    let mut topics: Vec<(String, Vec<(i32, T)>)> = Vec::new();
    for ((topic, index), found) in partitions {
        match topics.last_mut() {
            Some((last, of_last)) if *last == topic => of_last.push((index, found)),
            _ => topics.push((topic, vec![(index, found)])),
        }
    }
    topics
}

/// Parts items that could be read from those that were refused before they got anywhere.
fn to_each<T>(items: impl Iterator<Item = Result<T, Refusal>>) -> (Vec<Option<Refused>>, Vec<T>) {
    let mut good = Vec::new();
    let slots = items.map(|item| match item {
        Ok(item) => {
            good.push(item);
            None
        }
        Err(refusal) => Some((refusal.code, refusal.message)),
    });
    (slots.collect(), good)
}

/// Puts results back into the order of the request.
fn from_each<T>(
    slots: Vec<Option<Refused>>,
    results: Vec<Result<T, Refused>>,
) -> Vec<Result<T, Refused>> {
    let mut results = results.into_iter();
    let missing = || Err((ErrorCode::UnknownServerError, "no result".to_string()));
    slots
        .into_iter()
        .map(|slot| slot.map_or_else(|| results.next().unwrap_or_else(missing), Err))
        .collect()
}

/// The coordinator answered with another API's response, which it never does.
const MISMATCH: ErrorCode = ErrorCode::UnknownServerError;

/// How a transactional producer is turned away until there are transactions: clients give up on
/// this error at once instead of waiting for a coordinator.
const TRANSACTIONS_REFUSED: ErrorCode = ErrorCode::TransactionalIdAuthorizationFailed;
const TRANSACTIONS_REFUSED_MESSAGE: &str =
    "transactions are not supported by this broker: use a producer without transactional.id";

/// Operations that a client may do, as bits by Kafka's operation codes. There is no authorizer, so
/// it is all that a resource has.
mod operations {
    /// The client did not ask.
    pub(super) const NOT_ASKED: i32 = i32::MIN;
    /// Read, delete, describe, describe and alter configs.
    pub(super) const OF_GROUP: i32 = 1 << 3 | 1 << 6 | 1 << 8 | 1 << 10 | 1 << 11;
    /// Read, write, create, delete, alter, describe, describe and alter configs.
    pub(super) const OF_TOPIC: i32 =
        1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 11;
    /// Create, alter, describe, cluster action, describe and alter configs, idempotent write.
    pub(super) const OF_CLUSTER: i32 =
        1 << 5 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12;
}
