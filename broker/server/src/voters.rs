//! Changing who keeps the metadata.

use crate::broker::Broker;
use std::sync::Arc;
use std::time::Duration;
use tidemark_quorum::raft::VoterId;
use tidemark_quorum::{Metadata, QuorumError};
use tidemark_wire::ErrorCode;

/// A change of the voters.
#[derive(Debug, Clone)]
pub(crate) enum VoterChange {
    /// One more, reached at `address`, `host:port`.
    Add {
        /// Its node and directory.
        voter: VoterId,
        /// Where its quorum listener is.
        address: String,
    },
    /// One less.
    Remove {
        /// Its node and directory.
        voter: VoterId,
    },
}

/// Error and message for the client.
pub(crate) type Refused = (ErrorCode, String);

pub(crate) fn refused(code: ErrorCode, message: impl Into<String>) -> Refused {
    (code, message.into())
}

/// Refuses a request that was meant for another cluster.
pub(crate) fn check_cluster(broker: &Broker, cluster_id: Option<&str>) -> Result<(), Refused> {
    let own = broker.image().cluster_id().map(|id| id.to_string());
    match cluster_id {
        Some(named) if own.as_deref() != Some(named) => Err(refused(
            ErrorCode::InconsistentClusterId,
            format!(
                "this is cluster {}, not {named}",
                own.unwrap_or_else(|| "without an id".to_owned())
            ),
        )),
        _ => Ok(()),
    }
}

/// Makes a change, and waits until a majority has agreed to it, at most for `patience`.
pub(crate) async fn change(
    broker: &Arc<Broker>,
    change: VoterChange,
    patience: Duration,
) -> Result<(), Refused> {
    let Metadata::Voter(quorum) = &*broker.controller else {
        let message = "this node is no voter of the metadata quorum";
        return Err(refused(ErrorCode::NotController, message));
    };
    let changed = match change {
        VoterChange::Add { voter, address } => quorum.add_voter(voter, address, patience).await,
        VoterChange::Remove { voter } => quorum.remove_voter(voter, patience).await,
    };
    changed.map_err(|error| match error {
        // It was not this node's log that failed.
        QuorumError::Failed(reason) => refused(ErrorCode::InvalidRequest, reason),
        error => refused(error.error_code(), error.to_string()),
    })
}
