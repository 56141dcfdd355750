//! ElectLeaders (KIP-183, KIP-460): the preferred leader, or any at the risk of losing records.

use super::per_topic;
use super::prelude::*;
use tidemark_quorum::decide::{self, ElectionType};
use tidemark_wire::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use tidemark_wire::messages::{ElectLeadersRequest, ElectLeadersResponse};

/// From here on there is an error of the whole, and a kind of election.
const FIRST_VERSION_OF_ERROR: i16 = 1;
const PREFERRED: i8 = 0;
const UNCLEAN: i8 = 1;

pub(crate) async fn handle(
    broker: &Arc<Broker>,
    context: &Context,
    request: ElectLeadersRequest,
) -> ElectLeadersResponse {
    let election = match request.election_type {
        PREFERRED => ElectionType::Preferred,
        UNCLEAN => ElectionType::Unclean,
        _ => return refused(context, ErrorCode::InvalidRequest),
    };
    let partitions: Option<Vec<(String, i32)>> = request.topic_partitions.map(|topics| {
        let named = topics.into_iter().flat_map(|topic| {
            let name = topic.topic;
            let partitions = topic.partitions.into_iter();
            partitions.map(move |partition| (name.clone(), partition))
        });
        named.collect()
    });
    let decided = broker
        .change(move |image, context, _| {
            decide::elect_leaders(image, context, election, partitions.as_deref())
        })
        .await;
    let results = match decided {
        Ok(results) => results,
        Err(error) => {
            tracing::error!(%error, "no leader could be elected");
            return refused(context, error.error_code());
        }
    };
    let results = per_topic(results).into_iter().map(|(topic, results)| {
        let partition_result = results.into_iter().map(|(partition_id, result)| {
            let (error, message) = result
                .err()
                .map(|refusal| (refusal.code, refusal.message))
                .unzip();
            PartitionResult {
                partition_id,
                error_code: error.unwrap_or_default().code(),
                error_message: message,
                ..Default::default()
            }
        });
        ReplicaElectionResult {
            partition_result: partition_result.collect(),
            topic,
            ..Default::default()
        }
    });
    ElectLeadersResponse {
        replica_election_results: results.collect(),
        ..Default::default()
    }
}

fn refused(context: &Context, error: ErrorCode) -> ElectLeadersResponse {
    ElectLeadersResponse {
        error_code: match context.version >= FIRST_VERSION_OF_ERROR {
            true => error.code(),
            false => ErrorCode::None.code(),
        },
        ..Default::default()
    }
}
