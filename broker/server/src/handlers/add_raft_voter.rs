//! AddRaftVoter (KIP-853): one more node keeps the metadata.

use super::prelude::*;
use crate::voters::{self, VoterChange};
use std::time::Duration;
use tidemark_quorum::raft::VoterId;
use tidemark_wire::messages::{AddRaftVoterRequest, AddRaftVoterResponse};

pub(crate) async fn handle(
    broker: &Arc<Broker>,
    _: &Context,
    request: AddRaftVoterRequest,
) -> AddRaftVoterResponse {
    let patience = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
    let added = async {
        voters::check_cluster(broker, request.cluster_id.as_deref())?;
        let listener = request.listeners.first().ok_or_else(|| {
            voters::refused(ErrorCode::InvalidRequest, "the voter has no listener")
        })?;
        let voter = VoterId {
            node_id: request.voter_id,
            directory_id: request.voter_directory_id,
        };
        let change = VoterChange::Add {
            voter,
            address: match listener.host.contains(':') {
                true => format!("[{}]:{}", listener.host, listener.port),
                false => format!("{}:{}", listener.host, listener.port),
            },
        };
        voters::change(broker, change, patience).await
    };
    let (error, message) = added.await.err().unzip();
    AddRaftVoterResponse {
        error_code: error.unwrap_or_default().code(),
        error_message: message,
        ..Default::default()
    }
}
