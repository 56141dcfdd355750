//! What administrators ask of a cluster, as methods of [`Cluster`]: topics, settings,
//! groups, offsets, brokers.

mod cluster;
mod configs;
mod groups;
mod offsets;
pub mod placement;
mod topics;

pub use cluster::{
    Disruption, Election, OngoingReassignment, PartitionResults, Quorum, QuorumReplica,
    RegisteredBroker, leads_already,
};
pub use configs::{ConfigChange, ConfigEntry, ConfigOp, ConfigResource, ConfigSource};
pub use groups::{CommittedOffset, GroupDescription, GroupListing, GroupMember};
pub(crate) use groups::{by_topic, check_commit, commit_request};
pub use offsets::{ListedOffset, OffsetSpec};
pub use topics::{LogDir, LogDirReplica, NewTopic};

use std::sync::Arc;

use tidemark_wire::{ErrorCode, Request};

use crate::cluster::{Cluster, Lane, Node, Retry};
use crate::connection::Connection;
use crate::error::{ClientError, error_code};
use crate::metadata::Topics;

impl Cluster {
    /// Builds a request for the version agreed on (not above `cap`) and sends it once. A controller
    /// that cannot be connected to is followed by another one, which is waited for.
    pub(crate) async fn ask<R: Request>(
        &self,
        node: Node,
        cap: i16,
        build: impl Fn(i16) -> R,
    ) -> Result<R::Response, ClientError> {
        let connection = match node {
            Node::Controller => self.controller().await?,
            _ => self.connection(node, Lane::Admin).await?,
        };
        let version = connection.version_of::<R>(cap)?;
        let timeout = self.options().connection.request_timeout;
        connection.send_at(&build(version), version, timeout).await
    }

    /// A connection to the controller, found again while it is gone for `retry_for`. Nothing was
    /// asked of it yet, so nothing can be done twice.
    async fn controller(&self) -> Result<Arc<Connection>, ClientError> {
        let mut retry = Retry::new(self.options());
        loop {
            match self.connection(Node::Controller, Lane::Admin).await {
                Err(error) if error.is_unreachable() => {
                    self.metadata(Topics::None).await?;
                    if !retry.pause().await {
                        return Err(error);
                    }
                }
                reached => return reached,
            }
        }
    }

    /// As [`Self::ask`], to the coordinator of a group, found again when it has moved.
    pub(crate) async fn ask_coordinator<R: Request>(
        &self,
        group: &str,
        cap: i16,
        build: impl Fn(i16) -> R,
        code: impl Fn(&R::Response) -> i16,
    ) -> Result<R::Response, ClientError> {
        let mut retry = Retry::new(self.options());
        loop {
            let coordinator = self.group_coordinator(group).await?;
            let result = self.ask(Node::Id(coordinator), cap, &build).await;
            let moved = match &result {
                Ok(response) => matches!(
                    error_code(code(response)),
                    ErrorCode::NotCoordinator
                        | ErrorCode::CoordinatorNotAvailable
                        | ErrorCode::CoordinatorLoadInProgress
                ),
                Err(error) => error.is_unreachable(),
            };
            if !moved {
                return result;
            }
            self.forget_coordinator(group);
            if !retry.pause().await {
                return result;
            }
        }
    }

    /// Milliseconds that a broker may take over an admin request.
    pub(crate) fn server_timeout_ms(&self) -> i32 {
        i32::try_from(self.options().connection.request_timeout.as_millis()).unwrap_or(i32::MAX)
    }
}
