//! Which handler serves which API. The advertised table is made from the same list.

use crate::broker::Broker;
use crate::context::Context;
use crate::errors;
use crate::handlers;
use crate::net::{FrameError, Permit, answer};
use bytes::Bytes;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use tidemark_env::clock;
use tidemark_log::Piece;
use tidemark_wire::messages::ApiVersionsResponse;
use tidemark_wire::{ApiKey, ErrorCode, Message, Reader};

/// Answers ready for the socket; no pieces for a request that gets none.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) pieces: VecDeque<Piece>,
    /// Memory to give back once it is sent.
    pub(crate) held: Vec<Permit>,
}

impl Answer {
    /// Puts another one behind it.
    pub(crate) fn append(&mut self, mut next: Answer) {
        self.pieces.append(&mut next.pieces);
        self.held.append(&mut next.held);
    }
}

/// Encodes a response, with the memory that it holds.
pub(crate) fn answered<M: Message>(context: &Context, response: &M) -> Result<Answer, FrameError> {
    Ok(Answer {
        pieces: answer(context, response)?,
        held: context.take_held(),
    })
}

/// An answer that waits for something.
pub(crate) type Later = Pin<Box<dyn Future<Output = Result<Answer, FrameError>> + Send>>;

macro_rules! apis {
    ($($api:ident => $handler:ident,)*) => {
        /// The APIs that this broker serves, at every stable version of Kafka 4.3, and its own.
        pub(crate) const SERVED: &[ApiKey] = &[ApiKey::Produce, $(ApiKey::$api,)*];

        /// Serves one request of any API but Produce.
        pub(crate) async fn dispatch(broker: &Arc<Broker>, context: Context, body: Bytes) -> Result<Answer, FrameError> {
            let started = clock::monotonic();
            let api = context.api;
            let answer = match api {
                $(ApiKey::$api => Box::pin(async move {
                    let request = decode(&context, body)?;
                    let response = handlers::$handler::handle(broker, &context, request).await;
                    errors::count(&broker.metrics, api, &response);
                    answered(&context, &response)
                }).await,)*
                _ => Err(FrameError::Api { key: api as i16, version: context.version }),
            };
            broker.metrics.request(api, started.elapsed());
            answer
        }
    };
}

apis! {
    Fetch => fetch,
    ListOffsets => list_offsets,
    Metadata => metadata,
    OffsetCommit => offset_commit,
    OffsetFetch => offset_fetch,
    FindCoordinator => find_coordinator,
    JoinGroup => join_group,
    Heartbeat => heartbeat,
    LeaveGroup => leave_group,
    SyncGroup => sync_group,
    DescribeGroups => describe_groups,
    ListGroups => list_groups,
    ApiVersions => api_versions,
    CreateTopics => create_topics,
    DeleteTopics => delete_topics,
    DeleteRecords => delete_records,
    InitProducerId => init_producer_id,
    OffsetForLeaderEpoch => offset_for_leader_epoch,
    DescribeConfigs => describe_configs,
    AlterConfigs => alter_configs,
    AlterReplicaLogDirs => alter_replica_log_dirs,
    DescribeLogDirs => describe_log_dirs,
    CreatePartitions => create_partitions,
    DeleteGroups => delete_groups,
    IncrementalAlterConfigs => incremental_alter_configs,
    OffsetDelete => offset_delete,
    DescribeQuorum => describe_quorum,
    DescribeCluster => describe_cluster,
    DescribeProducers => describe_producers,
    GetTelemetrySubscriptions => get_telemetry_subscriptions,
    PushTelemetry => push_telemetry,
    DescribeTopicPartitions => describe_topic_partitions,
    DurableAck => durable_ack,
    BeginDisruption => begin_disruption,
    EndDisruption => end_disruption,
    ElectLeaders => elect_leaders,
    AlterPartitionReassignments => alter_partition_reassignments,
    ListPartitionReassignments => list_partition_reassignments,
    UpdateFeatures => update_features,
    UnregisterBroker => unregister_broker,
    AddRaftVoter => add_raft_voter,
    RemoveRaftVoter => remove_raft_voter,
}

/// Whether an API is the active controller's: asked of another broker, the request is forwarded.
/// What brokers themselves ask of the controller is on no listener (`controller/requests.rs`).
pub(crate) fn is_controllers(api: ApiKey) -> bool {
    matches!(
        api,
        ApiKey::CreateTopics
            | ApiKey::DeleteTopics
            | ApiKey::CreatePartitions
            | ApiKey::AlterConfigs
            | ApiKey::IncrementalAlterConfigs
            | ApiKey::AlterPartitionReassignments
            | ApiKey::ListPartitionReassignments
            | ApiKey::DescribeQuorum
            | ApiKey::ElectLeaders
            | ApiKey::UpdateFeatures
            | ApiKey::UnregisterBroker
            | ApiKey::BeginDisruption
            | ApiKey::EndDisruption
            | ApiKey::AddRaftVoter
            | ApiKey::RemoveRaftVoter
    )
}

/// Reads a request's body. Bytes after it are passed over, as Kafka does: librdkafka sends three
/// too many with Metadata.
pub(crate) fn decode<M: Message>(context: &Context, body: Bytes) -> Result<M, FrameError> {
    let failed = |source| FrameError::Decode {
        api: context.api,
        version: context.version,
        source,
    };
    M::decode(&mut Reader::new(body), context.version).map_err(failed)
}

/// The versions of an API that are advertised. Produce goes down to 0 although 0 to 2 are only
/// answered with an error: librdkafka turns compression off for a broker that starts at 3.
pub(crate) fn advertised(api: ApiKey) -> (i16, i16) {
    match (api, api.stable_versions()) {
        (ApiKey::Produce, (_, last)) => (0, last),
        (_, versions) => versions,
    }
}

/// The answer to a request whose version is not served, where its sender can read one; an error
/// where it cannot, which ends the connection as it does in Kafka.
pub(crate) fn refusal(
    broker: &Broker,
    api: ApiKey,
    version: i16,
    frame: &Bytes,
) -> Result<Option<Answer>, FrameError> {
    let (first, last) = api.stable_versions();
    if !SERVED.contains(&api) {
        return Err(FrameError::Api {
            key: api as i16,
            version,
        });
    }
    if (first..=last).contains(&version) {
        return Ok(None);
    }
    let refused = || broker.metrics.error(api, ErrorCode::UnsupportedVersion);
    match api {
        ApiKey::ApiVersions => {
            // KIP-511: a client of a later version reads version 0 and tries again.
            let context = Context::bare(api, 0, frame)?;
            refused();
            let response = ApiVersionsResponse {
                error_code: ErrorCode::UnsupportedVersion.code(),
                api_keys: handlers::api_versions::table(),
                ..Default::default()
            };
            answered(&context, &response).map(Some)
        }
        ApiKey::Produce if (0..first).contains(&version) => {
            let pieces = handlers::produce_legacy::refuse(version, frame)?;
            refused();
            Ok(Some(Answer {
                pieces,
                held: Vec::new(),
            }))
        }
        _ => Err(FrameError::Version {
            api,
            version,
            first,
            last,
        }),
    }
}

/// Starts a produce request: its records are in the log when this returns. What is left is to
/// wait until they are durable. `None` when the producer wants no answer (acks=0).
pub(crate) async fn produce(
    broker: &Arc<Broker>,
    context: Context,
    body: Bytes,
) -> Result<Option<Later>, FrameError> {
    let started = clock::monotonic();
    let request = decode(&context, body)?;
    let waiting = handlers::produce::start(broker, &context, request).await?;
    let broker = Arc::clone(broker);
    let Some(waiting) = waiting else {
        broker.metrics.request(ApiKey::Produce, started.elapsed());
        return Ok(None);
    };
    Ok(Some(Box::pin(async move {
        let response = waiting.await;
        errors::count(&broker.metrics, ApiKey::Produce, &response);
        broker.metrics.request(ApiKey::Produce, started.elapsed());
        answered(&context, &response)
    })))
}
