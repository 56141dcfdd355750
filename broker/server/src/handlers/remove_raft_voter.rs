//! RemoveRaftVoter (KIP-853): a node keeps the metadata no more.

use super::prelude::*;
use crate::voters::{self, VoterChange};
use std::time::Duration;
use tidemark_quorum::raft::VoterId;
use tidemark_wire::messages::{RemoveRaftVoterRequest, RemoveRaftVoterResponse};

/// The request names no timeout.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn handle(
    broker: &Arc<Broker>,
    _: &Context,
    request: RemoveRaftVoterRequest,
) -> RemoveRaftVoterResponse {
    let removed = async {
        voters::check_cluster(broker, request.cluster_id.as_deref())?;
        let voter = VoterId {
            node_id: request.voter_id,
            directory_id: request.voter_directory_id,
        };
        voters::change(broker, VoterChange::Remove { voter }, PATIENCE).await
    };
    let (error, message) = removed.await.err().unzip();
    RemoveRaftVoterResponse {
        error_code: error.unwrap_or_default().code(),
        error_message: message,
        ..Default::default()
    }
}
