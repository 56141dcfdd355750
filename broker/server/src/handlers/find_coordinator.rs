//! FindCoordinator: which broker coordinates a group (or, not yet, a transaction).

use super::prelude::*;
use crate::groups::Groups;
use tidemark_model::CONSUMER_OFFSETS;
use tidemark_wire::messages::find_coordinator_response::Coordinator;
use tidemark_wire::messages::{FindCoordinatorRequest, FindCoordinatorResponse};

/// From here on several keys are asked for at once (KIP-699).
const FIRST_VERSION_OF_KEYS: i16 = 4;
const KEY_TYPE_GROUP: i8 = 0;
const KEY_TYPE_TRANSACTION: i8 = 1;
const KEY_TYPE_SHARE: i8 = 2;

pub(crate) async fn handle(
    broker: &Arc<Broker>,
    context: &Context,
    asked: FindCoordinatorRequest,
) -> FindCoordinatorResponse {
    let keys = if context.version >= FIRST_VERSION_OF_KEYS {
        asked.coordinator_keys
    } else {
        vec![asked.key]
    };
    let mut coordinators = Vec::with_capacity(keys.len());
    for key in keys {
        coordinators.push(find(broker, context, asked.key_type, key).await);
    }
    if context.version >= FIRST_VERSION_OF_KEYS {
        return FindCoordinatorResponse {
            coordinators,
            ..Default::default()
        };
    }
    let found = coordinators.pop().unwrap_or_default();
    FindCoordinatorResponse {
        error_code: found.error_code,
        error_message: found.error_message,
        node_id: found.node_id,
        host: found.host,
        port: found.port,
        ..Default::default()
    }
}

async fn find(broker: &Arc<Broker>, context: &Context, key_type: i8, key: String) -> Coordinator {
    let refused = |key: String, error: ErrorCode, message: &str| Coordinator {
        key,
        node_id: -1,
        port: -1,
        error_code: error.code(),
        error_message: Some(message.to_string()),
        ..Default::default()
    };
    match key_type {
        KEY_TYPE_GROUP => {}
        // One clear refusal that no client retries, rather than a coordinator that never comes.
        KEY_TYPE_TRANSACTION => {
            return refused(key, TRANSACTIONS_REFUSED, TRANSACTIONS_REFUSED_MESSAGE);
        }
        KEY_TYPE_SHARE => {
            return refused(
                key,
                ErrorCode::UnsupportedVersion,
                "share groups are not supported by this broker",
            );
        }
        other => {
            return refused(
                key,
                ErrorCode::InvalidRequest,
                &format!("unknown coordinator type {other}"),
            );
        }
    }
    if let Err(error) = broker.groups.ensure_topic(broker).await {
        return refused(key, ErrorCode::CoordinatorNotAvailable, &error);
    }
    if broker.groups.is_offline(broker, &key) {
        return refused(
            key,
            ErrorCode::CoordinatorNotAvailable,
            "the log that the group's offsets are in is damaged: see the broker's log",
        );
    }
    let image = broker.image();
    let leader = image
        .topic(CONSUMER_OFFSETS)
        .and_then(|topic| Groups::partition_of(topic, &key))
        .and_then(|partition| image.broker(partition.leader))
        .filter(|leader| !leader.fenced);
    let Some(leader) = leader else {
        return refused(
            key,
            ErrorCode::CoordinatorNotAvailable,
            "the partition that the group is kept in has no leader",
        );
    };
    let Some(endpoint) = leader.endpoint(&context.listener) else {
        return refused(
            key,
            ErrorCode::CoordinatorNotAvailable,
            "the coordinator is not advertised on this listener",
        );
    };
    Coordinator {
        key,
        node_id: leader.id,
        host: endpoint.host.clone(),
        port: i32::from(endpoint.port),
        ..Default::default()
    }
}
