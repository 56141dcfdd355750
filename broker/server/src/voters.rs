//! Changing who keeps the metadata.

use crate::broker::Broker;
use std::sync::Arc;
use std::time::Duration;
use tidemark_quorum::raft::VoterId;
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
    _: &Arc<Broker>,
    change: VoterChange,
    _: Duration,
) -> Result<(), Refused> {
    let cannot = match change {
        VoterChange::Add { voter, address } => {
            format!("voter {voter} at {address} cannot be added")
        }
        VoterChange::Remove { voter } => format!("voter {voter} cannot be removed"),
    };
    Err(refused(
        ErrorCode::UnsupportedVersion,
        format!("this broker keeps its metadata alone: {cannot}"),
    ))
}
