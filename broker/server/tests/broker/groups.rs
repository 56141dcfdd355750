//! Groups over the wire, with the frames of a classic consumer.

use crate::common::{Connection, broker, start_in};
use crate::kit::*;
use bytes::Bytes;
use tidemark_server::RunningServer;
use tidemark_wire::ErrorCode;
use tidemark_wire::messages::join_group_request::JoinGroupRequestProtocol;
use tidemark_wire::messages::sync_group_request::SyncGroupRequestAssignment;
use tidemark_wire::messages::*;

pub const JOIN: i16 = 9;
const SYNC: i16 = 5;
const HEARTBEAT: i16 = 4;
const LEAVE: i16 = 5;

/// A member of a group on a connection of its own.
pub struct Member {
    pub c: Connection,
    group: String,
    pub id: String,
    generation: i32,
    session_timeout_ms: i32,
}

impl Member {
    pub async fn new(server: &RunningServer, group: &str) -> Member {
        let mut c = Connection::open(server).await;
        let find = FindCoordinatorRequest {
            coordinator_keys: vec![group.into()],
            ..Default::default()
        };
        let found = c.ask(&find, 6).await;
        assert_eq!(found.coordinators[0].error_code, NONE);
        Member {
            c,
            group: group.into(),
            id: String::new(),
            generation: -1,
            session_timeout_ms: 30_000,
        }
    }

    fn join_request(&self) -> JoinGroupRequest {
        JoinGroupRequest {
            group_id: self.group.clone(),
            session_timeout_ms: self.session_timeout_ms,
            rebalance_timeout_ms: 60_000,
            member_id: self.id.clone(),
            group_instance_id: None,
            protocol_type: "consumer".into(),
            protocols: vec![JoinGroupRequestProtocol {
                name: "range".into(),
                metadata: Bytes::from_static(b"meta"),
                ..Default::default()
            }],
            reason: None,
            ..Default::default()
        }
    }

    /// Gets a member id, as the first join of a client does (KIP-394).
    async fn introduce(&mut self) {
        if self.id.is_empty() {
            let answer = self.c.ask(&self.join_request(), JOIN).await;
            assert_eq!(answer.error_code, code(ErrorCode::MemberIdRequired));
            self.id = answer.member_id;
        }
    }

    /// Sends the join that is answered when the rebalance is through.
    pub async fn send_join(&mut self) -> i32 {
        self.introduce().await;
        let request = self.join_request();
        self.c.send(&request, JOIN).await
    }

    async fn joined(&mut self, id: i32) -> JoinGroupResponse {
        let joined = self
            .c
            .answer::<JoinGroupRequest>(JOIN, id)
            .await
            .expect("an answer");
        assert_eq!(joined.error_code, NONE);
        self.generation = joined.generation_id;
        joined
    }

    pub async fn join(&mut self) -> JoinGroupResponse {
        let id = self.send_join().await;
        self.joined(id).await
    }

    fn sync_request(&self, assignments: &[(&str, &'static [u8])]) -> SyncGroupRequest {
        let assignment = |(member, bytes): &(&str, &'static [u8])| SyncGroupRequestAssignment {
            member_id: member.to_string(),
            assignment: Bytes::from_static(bytes),
            ..Default::default()
        };
        SyncGroupRequest {
            group_id: self.group.clone(),
            generation_id: self.generation,
            member_id: self.id.clone(),
            group_instance_id: None,
            protocol_type: Some("consumer".into()),
            protocol_name: Some("range".into()),
            assignments: assignments.iter().map(assignment).collect(),
            ..Default::default()
        }
    }

    async fn sync(&mut self, assignments: &[(&str, &'static [u8])]) -> SyncGroupResponse {
        let request = self.sync_request(assignments);
        self.c.ask(&request, SYNC).await
    }

    pub async fn heartbeat(&mut self) -> i16 {
        let request = HeartbeatRequest {
            group_id: self.group.clone(),
            generation_id: self.generation,
            member_id: self.id.clone(),
            group_instance_id: None,
            ..Default::default()
        };
        self.c.ask(&request, HEARTBEAT).await.error_code
    }

    async fn leave(&mut self) -> i16 {
        let member = leave_group_request::MemberIdentity {
            member_id: self.id.clone(),
            group_instance_id: None,
            ..Default::default()
        };
        let request = LeaveGroupRequest {
            group_id: self.group.clone(),
            members: vec![member],
            ..Default::default()
        };
        let left = self.c.ask(&request, LEAVE).await;
        assert_eq!(left.error_code, NONE);
        left.members[0].error_code
    }
}

pub async fn commit(c: &mut Connection, group: &str, topic: &str, offset: i64) -> i16 {
    let partition = offset_commit_request::OffsetCommitRequestPartition {
        committed_offset: offset,
        committed_leader_epoch: -1,
        committed_metadata: Some("note".into()),
        ..Default::default()
    };
    let request = OffsetCommitRequest {
        group_id: group.into(),
        generation_id_or_member_epoch: -1,
        group_instance_id: None,
        topics: vec![offset_commit_request::OffsetCommitRequestTopic {
            name: topic.into(),
            partitions: vec![partition],
            ..Default::default()
        }],
        ..Default::default()
    };
    let answer = c.ask(&request, 8).await;
    answer.topics[0].partitions[0].error_code
}

/// Offset and metadata that the group committed for partition 0.
pub async fn committed(c: &mut Connection, group: &str, topic: &str) -> (i64, Option<String>) {
    let request = OffsetFetchRequest {
        group_id: group.into(),
        topics: Some(vec![offset_fetch_request::OffsetFetchRequestTopic {
            name: topic.into(),
            partition_indexes: vec![0],
            ..Default::default()
        }]),
        ..Default::default()
    };
    let mut answer = OffsetFetchResponse::default();
    until("the coordinator has loaded", async || {
        answer = c.ask(&request, 7).await;
        ![
            ErrorCode::CoordinatorLoadInProgress,
            ErrorCode::NotCoordinator,
        ]
        .map(code)
        .contains(&answer.error_code)
    })
    .await;
    assert_eq!(answer.error_code, NONE);
    let partition = answer.topics.remove(0).partitions.remove(0);
    (partition.committed_offset, partition.metadata)
}

#[tokio::test]
async fn two_members_share_a_group_and_hear_of_each_other() {
    let broker = broker(&[]).await;
    let mut a = Member::new(&broker.server, "g").await;
    let joined = a.join().await;
    assert_eq!(
        (joined.leader.as_str(), joined.members.len()),
        (a.id.as_str(), 1)
    );
    assert_eq!(joined.protocol_name.as_deref(), Some("range"));
    let id = a.id.clone();
    assert_eq!(&a.sync(&[(&id, b"all")]).await.assignment[..], b"all");
    assert_eq!(a.heartbeat().await, NONE);
    // A second member's join waits for the first one, who hears of it by its heartbeat.
    let mut b = Member::new(&broker.server, "g").await;
    let parked = b.send_join().await;
    until("the rebalance is told", async || {
        a.heartbeat().await == code(ErrorCode::RebalanceInProgress)
    })
    .await;
    let joined = a.join().await;
    assert_eq!(joined.members.len(), 2, "the leader is told of all");
    let other = b.joined(parked).await;
    assert_eq!(other.generation_id, joined.generation_id);
    assert!(other.members.is_empty(), "the others are not");
    // The follower's sync waits for the leader's.
    let request = b.sync_request(&[]);
    let waiting = b.c.send(&request, SYNC).await;
    let (first, second) = (a.id.clone(), b.id.clone());
    let synced = a.sync(&[(&first, b"one"), (&second, b"two")]).await;
    assert_eq!(
        (synced.error_code, &synced.assignment[..]),
        (NONE, &b"one"[..])
    );
    let synced = b.c.answer::<SyncGroupRequest>(SYNC, waiting).await.unwrap();
    assert_eq!(
        (synced.error_code, &synced.assignment[..]),
        (NONE, &b"two"[..])
    );
    // One leaves, the other takes over.
    assert_eq!(a.leave().await, NONE);
    assert_eq!(a.heartbeat().await, code(ErrorCode::UnknownMemberId));
    assert_eq!(b.heartbeat().await, code(ErrorCode::RebalanceInProgress));
    let joined = b.join().await;
    assert_eq!(
        (joined.leader.as_str(), joined.members.len()),
        (b.id.as_str(), 1)
    );
}

#[tokio::test]
async fn stale_generations_and_strangers_are_refused() {
    let broker = broker(&[]).await;
    let mut a = Member::new(&broker.server, "g").await;
    a.join().await;
    a.generation += 1;
    assert_eq!(a.heartbeat().await, code(ErrorCode::IllegalGeneration));
    let synced = a.sync(&[]).await;
    assert_eq!(synced.error_code, code(ErrorCode::IllegalGeneration));
    a.id = "nobody".into();
    assert_eq!(a.heartbeat().await, code(ErrorCode::UnknownMemberId));
}

#[tokio::test]
async fn a_silent_member_is_out_after_its_session_timeout() {
    let broker = broker(&[("group.min.session.timeout.ms", "100")]).await;
    let mut a = Member::new(&broker.server, "g").await;
    a.session_timeout_ms = 300;
    a.join().await;
    let id = a.id.clone();
    a.sync(&[(&id, b"")]).await;
    assert_eq!(a.heartbeat().await, NONE);
    let mut observer = Connection::open(&broker.server).await;
    until("the group is empty", async || {
        let request = DescribeGroupsRequest {
            groups: vec!["g".into()],
            ..Default::default()
        };
        let described = observer.ask(&request, 5).await;
        described.groups[0].group_state == "Empty"
    })
    .await;
    assert_eq!(a.heartbeat().await, code(ErrorCode::UnknownMemberId));
}

#[tokio::test]
async fn a_client_that_vanishes_while_its_join_is_parked_does_not_hold_the_group() {
    let broker = broker(&[("group.min.session.timeout.ms", "100")]).await;
    let mut a = Member::new(&broker.server, "g").await;
    a.join().await;
    let id = a.id.clone();
    a.sync(&[(&id, b"")]).await;
    let mut b = Member::new(&broker.server, "g").await;
    b.session_timeout_ms = 300;
    b.send_join().await;
    until("the join is parked", async || {
        a.heartbeat().await == code(ErrorCode::RebalanceInProgress)
    })
    .await;
    drop(b);
    assert_eq!(
        a.join().await.members.len(),
        2,
        "nobody knows yet that it is gone"
    );
    let id = a.id.clone();
    a.sync(&[(&id, b"")]).await;
    until("the vanished member is out", async || {
        a.heartbeat().await == code(ErrorCode::RebalanceInProgress)
    })
    .await;
    assert_eq!(a.join().await.members.len(), 1);
}

#[tokio::test]
async fn committed_offsets_survive_a_restart() {
    let broker = broker(&[]).await;
    let member = Member::new(&broker.server, "g").await;
    let mut c = member.c;
    topic(&mut c, "t", 1).await;
    assert_eq!(commit(&mut c, "g", "t", 41).await, NONE);
    assert_eq!(commit(&mut c, "g", "t", 42).await, NONE);
    assert_eq!(committed(&mut c, "other", "t").await.0, -1);
    broker.server.shutdown().await;
    let server = start_in(&broker.dir, &[]).await;
    let mut c = Connection::open(&server).await;
    assert_eq!(committed(&mut c, "g", "t").await, (42, Some("note".into())));
}

#[tokio::test]
async fn offsets_of_a_deleted_topic_are_forgotten() {
    let broker = broker(&[]).await;
    let mut c = Member::new(&broker.server, "g").await.c;
    topic(&mut c, "t", 1).await;
    assert_eq!(commit(&mut c, "g", "t", 42).await, NONE);
    assert_eq!(delete_topic(&mut c, "t").await, NONE);
    topic(&mut c, "t", 1).await;
    assert_eq!(committed(&mut c, "g", "t").await.0, -1);
}
