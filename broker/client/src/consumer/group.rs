//! Membership in a classic group: join, take or compute an assignment, keep the place by heartbeats.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tidemark_env::task::Task;
use tidemark_env::{clock, task};
use tidemark_wire::messages::join_group_request::JoinGroupRequestProtocol;
use tidemark_wire::messages::leave_group_request::MemberIdentity;
use tidemark_wire::messages::sync_group_request::SyncGroupRequestAssignment;
use tidemark_wire::messages::{
    HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, SyncGroupRequest,
};
use tidemark_wire::{ErrorCode, Request};
use tokio::sync::Notify;

use super::assignor::{Assignor, Member};
use super::protocol;
use crate::cluster::{Cluster, Lane, Node, Retry};
use crate::error::{ClientError, error_code};
use crate::metadata::{TopicPartition, Topics};

/// How a member behaves.
#[derive(Debug, Clone)]
pub struct GroupConfig {
    /// The group's id.
    pub group: String,
    /// Set for a static member, which keeps its place over restarts (KIP-345).
    pub instance_id: Option<String>,
    /// What the member offers, best first. All cooperative, or none.
    pub assignors: Vec<Assignor>,
    /// Without a heartbeat for that long the coordinator drops the member.
    pub session_timeout_ms: i32,
    /// How long the others wait for the member in a rebalance.
    pub rebalance_timeout_ms: i32,
    /// Between two heartbeats.
    pub heartbeat_interval_ms: u64,
}

impl GroupConfig {
    /// The defaults for a group.
    #[must_use]
    pub fn new(group: impl Into<String>) -> Self {
        Self {
            group: group.into(),
            instance_id: None,
            assignors: vec![Assignor::Range, Assignor::RoundRobin],
            session_timeout_ms: 45_000,
            rebalance_timeout_ms: 60_000,
            heartbeat_interval_ms: 3_000,
        }
    }

    /// Whether members keep what they own while they join.
    #[must_use]
    pub fn is_cooperative(&self) -> bool {
        !self.assignors.is_empty() && self.assignors.iter().all(|a| a.is_cooperative())
    }
}

/// What heartbeats have learned.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    rejoin: AtomicBool,
    lost: AtomicBool,
    fenced: AtomicBool,
    pub(crate) changed: Notify,
}

impl Pulse {
    fn set(&self, flag: &AtomicBool) {
        flag.store(true, Ordering::SeqCst);
        self.changed.notify_one();
    }
}

/// A member's place in its group.
#[derive(Debug)]
pub(crate) struct Membership {
    cluster: Cluster,
    pub(crate) config: GroupConfig,
    pub(crate) topics: Vec<String>,
    pub(crate) member_id: String,
    pub(crate) generation: i32,
    pub(crate) pulse: Arc<Pulse>,
    heartbeats: Option<Task<()>>,
    joined: bool,
    /// Partition counts that the leader dealt by; empty for others.
    dealt: BTreeMap<String, i32>,
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.stop_heartbeats();
    }
}

impl Membership {
    pub(crate) fn new(cluster: Cluster, config: GroupConfig, topics: Vec<String>) -> Self {
        Self {
            cluster,
            config,
            topics,
            member_id: String::new(),
            generation: -1,
            pulse: Arc::default(),
            heartbeats: None,
            joined: false,
            dealt: BTreeMap::new(),
        }
    }

    /// Whether [`Self::join`] is due.
    pub(crate) fn must_join(&self) -> bool {
        !self.joined || self.pulse.rejoin.load(Ordering::SeqCst)
    }

    /// Whether the coordinator has dropped the member: what it owned is others' by now.
    pub(crate) fn is_lost(&self) -> bool {
        self.pulse.lost.load(Ordering::SeqCst)
    }

    /// Another took the place of this static member.
    pub(crate) fn is_fenced(&self) -> bool {
        self.pulse.fenced.load(Ordering::SeqCst)
    }

    /// Joins again at the next occasion.
    pub(crate) fn rejoin(&self) {
        self.pulse.set(&self.pulse.rejoin);
    }

    /// A commit or heartbeat was refused with this code.
    pub(crate) fn refused(&self, code: ErrorCode) {
        react(&self.pulse, code);
    }

    fn forget(&mut self) {
        self.member_id.clear();
        self.generation = -1;
    }

    fn stop_heartbeats(&mut self) {
        if let Some(task) = self.heartbeats.take() {
            task.abort();
        }
    }

    /// The topics whose partition counts the assignment was made from, if this member made it.
    pub(crate) fn dealt(&self) -> &BTreeMap<String, i32> {
        &self.dealt
    }

    /// Joins (again) and answers the partitions given to this member. Waits for the other members.
    pub(crate) async fn join(
        &mut self,
        owned: &[TopicPartition],
    ) -> Result<Vec<TopicPartition>, ClientError> {
        self.stop_heartbeats();
        self.joined = false;
        if self.is_lost() {
            self.forget();
        }
        let mut retry = Retry::new(self.cluster.options());
        loop {
            self.pulse = Arc::default();
            let error = match self.join_once(owned).await {
                Ok(assignment) => {
                    self.joined = true;
                    self.heartbeats = Some(self.start_heartbeats());
                    return Ok(assignment);
                }
                Err(error) => error,
            };
            match error.code() {
                Some(ErrorCode::MemberIdRequired) => continue,
                Some(ErrorCode::UnknownMemberId | ErrorCode::IllegalGeneration) => self.forget(),
                Some(ErrorCode::RebalanceInProgress) => {}
                Some(
                    ErrorCode::NotCoordinator
                    | ErrorCode::CoordinatorNotAvailable
                    | ErrorCode::CoordinatorLoadInProgress,
                ) => self.cluster.forget_coordinator(&self.config.group),
                _ if error.is_retriable() => self.cluster.forget_coordinator(&self.config.group),
                _ => return Err(error),
            }
            tracing::debug!(group = self.config.group, %error, "joining again");
            if !retry.pause().await {
                return Err(error);
            }
        }
    }

    async fn join_once(
        &mut self,
        owned: &[TopicPartition],
    ) -> Result<Vec<TopicPartition>, ClientError> {
        let what = |group: &str| format!("joining group {group}");
        let metadata = protocol::encode_subscription(&self.topics, owned, self.generation)?;
        let request = JoinGroupRequest {
            group_id: self.config.group.clone(),
            session_timeout_ms: self.config.session_timeout_ms,
            rebalance_timeout_ms: self.config.rebalance_timeout_ms,
            member_id: self.member_id.clone(),
            group_instance_id: self.config.instance_id.clone(),
            protocol_type: protocol::TYPE.to_owned(),
            protocols: self
                .config
                .assignors
                .iter()
                .map(|assignor| JoinGroupRequestProtocol {
                    name: assignor.name().to_owned(),
                    metadata: metadata.clone(),
                    ..JoinGroupRequestProtocol::default()
                })
                .collect(),
            ..JoinGroupRequest::default()
        };
        let joined = self.ask(&request).await?;
        if error_code(joined.error_code) == ErrorCode::MemberIdRequired {
            self.member_id = joined.member_id;
            return Err(ClientError::Server {
                what: what(&self.config.group),
                code: ErrorCode::MemberIdRequired,
                message: None,
            });
        }
        ClientError::check(joined.error_code, None, || what(&self.config.group))?;
        self.member_id.clone_from(&joined.member_id);
        self.generation = joined.generation_id;
        let protocol_name = joined.protocol_name.clone().unwrap_or_default();
        let assignments = self.deal(&joined, &protocol_name).await?;
        let request = SyncGroupRequest {
            group_id: self.config.group.clone(),
            generation_id: self.generation,
            member_id: self.member_id.clone(),
            group_instance_id: self.config.instance_id.clone(),
            protocol_type: Some(protocol::TYPE.to_owned()),
            protocol_name: Some(protocol_name),
            assignments,
            ..SyncGroupRequest::default()
        };
        let synced = self.ask(&request).await?;
        ClientError::check(synced.error_code, None, || {
            format!("taking the assignment of group {}", self.config.group)
        })?;
        protocol::decode_assignment(synced.assignment)
    }

    /// The leader's work: everybody's assignment. Nothing for other members.
    async fn deal(
        &mut self,
        joined: &JoinGroupResponse,
        protocol_name: &str,
    ) -> Result<Vec<SyncGroupRequestAssignment>, ClientError> {
        self.dealt.clear();
        if joined.leader != joined.member_id {
            return Ok(Vec::new());
        }
        let assignor = Assignor::from_name(protocol_name).ok_or_else(|| {
            ClientError::Invalid(format!(
                "group {} chose the assignor '{protocol_name}', which was not offered",
                self.config.group
            ))
        })?;
        let members: Vec<Member> = joined
            .members
            .iter()
            .map(|member| {
                protocol::decode_subscription(
                    member.member_id.clone(),
                    member.group_instance_id.clone(),
                    member.metadata.clone(),
                )
            })
            .collect::<Result<_, _>>()?;
        self.dealt = partition_counts(&self.cluster, &members).await?;
        if joined.skip_assignment {
            return Ok(Vec::new());
        }
        assignor
            .assign(&members, &self.dealt)
            .into_iter()
            .map(|(member_id, partitions)| {
                Ok(SyncGroupRequestAssignment {
                    member_id,
                    assignment: protocol::encode_assignment(&partitions)?,
                    ..SyncGroupRequestAssignment::default()
                })
            })
            .collect()
    }

    /// Sends to the coordinator; waits as long as a rebalance may take.
    async fn ask<R: Request>(&self, request: &R) -> Result<R::Response, ClientError> {
        let coordinator = self.cluster.group_coordinator(&self.config.group).await?;
        let connection = self
            .cluster
            .connection(Node::Id(coordinator), Lane::Group)
            .await?;
        let version = connection.version_of::<R>(i16::MAX)?;
        let patience = u64::try_from(self.config.rebalance_timeout_ms).unwrap_or(0);
        let timeout =
            Duration::from_millis(patience) + self.cluster.options().connection.request_timeout;
        connection.send_at(request, version, timeout).await
    }

    fn start_heartbeats(&self) -> Task<()> {
        let cluster = self.cluster.clone();
        let pulse = self.pulse.clone();
        let interval = Duration::from_millis(self.config.heartbeat_interval_ms);
        let request = HeartbeatRequest {
            group_id: self.config.group.clone(),
            generation_id: self.generation,
            member_id: self.member_id.clone(),
            group_instance_id: self.config.instance_id.clone(),
            ..HeartbeatRequest::default()
        };
        task::spawn("group-heartbeat", async move {
            loop {
                clock::sleep(interval).await;
                let beat = async {
                    let coordinator = cluster.group_coordinator(&request.group_id).await?;
                    let node = Node::Id(coordinator);
                    cluster.send(node, Lane::Group, &request).await
                };
                match beat.await {
                    Ok(response) => {
                        let code = error_code(response.error_code);
                        if code == ErrorCode::NotCoordinator
                            || code == ErrorCode::CoordinatorNotAvailable
                        {
                            cluster.forget_coordinator(&request.group_id);
                        }
                        react(&pulse, code);
                    }
                    Err(error) => {
                        tracing::debug!(%error, "a heartbeat failed");
                        cluster.forget_coordinator(&request.group_id);
                    }
                }
            }
        })
    }

    /// Leaves the group, so that the others need not wait for the session to end. Static members stay.
    pub(crate) async fn leave(&mut self) -> Result<(), ClientError> {
        self.stop_heartbeats();
        if self.member_id.is_empty() || self.config.instance_id.is_some() || self.is_lost() {
            return Ok(());
        }
        let coordinator = self.cluster.group_coordinator(&self.config.group).await?;
        let connection = self
            .cluster
            .connection(Node::Id(coordinator), Lane::Group)
            .await?;
        let version = connection.version_of::<LeaveGroupRequest>(i16::MAX)?;
        let mut request = LeaveGroupRequest {
            group_id: self.config.group.clone(),
            ..LeaveGroupRequest::default()
        };
        if version >= 3 {
            request.members = vec![MemberIdentity {
                member_id: self.member_id.clone(),
                ..MemberIdentity::default()
            }];
        } else {
            request.member_id.clone_from(&self.member_id);
        }
        self.forget();
        self.joined = false;
        let timeout = self.cluster.options().connection.request_timeout;
        let response = connection.send_at(&request, version, timeout).await?;
        ClientError::check(response.error_code, None, || {
            format!("leaving group {}", self.config.group)
        })
    }
}

fn react(pulse: &Pulse, code: ErrorCode) {
    match code {
        ErrorCode::RebalanceInProgress => pulse.set(&pulse.rejoin),
        ErrorCode::IllegalGeneration | ErrorCode::UnknownMemberId => {
            pulse.lost.store(true, Ordering::SeqCst);
            pulse.set(&pulse.rejoin);
        }
        ErrorCode::FencedInstanceId => {
            pulse.fenced.store(true, Ordering::SeqCst);
            pulse.set(&pulse.lost);
        }
        _ => {}
    }
}

/// How many partitions each topic of these members has; topics that are not there are left out.
async fn partition_counts(
    cluster: &Cluster,
    members: &[Member],
) -> Result<BTreeMap<String, i32>, ClientError> {
    let mut names: Vec<&str> = members
        .iter()
        .flat_map(|member| member.topics.iter().map(String::as_str))
        .collect();
    names.sort_unstable();
    names.dedup();
    counts_of(cluster, &names).await
}

/// How many partitions each of these topics has now.
pub(crate) async fn counts_of(
    cluster: &Cluster,
    names: &[&str],
) -> Result<BTreeMap<String, i32>, ClientError> {
    let info = cluster.metadata(Topics::Named(names)).await?;
    Ok(info
        .topics
        .into_iter()
        .map(|(name, topic)| (name, topic.partition_count()))
        .collect())
}
