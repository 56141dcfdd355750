//! A shell with a log in memory and a clock that is moved by hand, and members
//! that speak the protocol in a line each.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use tidemark_wire::{ErrorCode, Uuid};

use crate::*;

pub(super) const SESSION_MS: i32 = 10_000;
pub(super) const REBALANCE_MS: i32 = 60_000;
pub(super) const INITIAL_DELAY_MS: i32 = 3_000;

/// The shell. Unless `commits` is off, whatever is appended is committed at once.
pub(super) struct Shell {
    pub(super) coordinator: GroupCoordinator,
    pub(super) log: Vec<LogRecord>,
    pub(super) commits: bool,
    pub(super) now_ms: i64,
    config: GroupConfig,
    next_token: u64,
    answers: BTreeMap<Token, Response>,
}

impl Shell {
    pub(super) fn new() -> Self {
        Self::with(GroupConfig::default())
    }

    pub(super) fn with(config: GroupConfig) -> Self {
        let mut shell = Self {
            coordinator: GroupCoordinator::new(config.clone()),
            log: Vec::new(),
            commits: true,
            now_ms: 1_000_000,
            config,
            next_token: 0,
            answers: BTreeMap::new(),
        };
        let records = shell.coordinator.loaded(shell.now_ms, 0);
        shell.append(records);
        shell
    }

    /// Drops the coordinator and loads another from the log.
    pub(super) fn restart(&mut self) {
        self.coordinator = GroupCoordinator::new(self.config.clone());
        for (offset, record) in self.log.iter().enumerate() {
            self.coordinator
                .replay(offset as i64, &record.key, record.value.as_ref())
                .unwrap();
        }
        let records = self.coordinator.loaded(self.now_ms, self.log.len() as i64);
        self.append(records);
    }

    pub(super) fn set_config(&mut self, change: impl FnOnce(&mut GroupConfig)) {
        change(&mut self.config);
    }

    /// Appends what a step returned, commits it, and collects answers.
    pub(super) fn append(&mut self, records: Vec<LogRecord>) {
        if !records.is_empty() {
            self.log.extend(records);
            self.coordinator.appended(self.log.len() as i64 - 1);
        }
        if self.commits {
            self.coordinator.committed(self.log.len() as i64);
        }
        self.collect();
    }

    pub(super) fn collect(&mut self) {
        for (token, response) in self.coordinator.take_replies() {
            let twice = self.answers.insert(token, response);
            assert_eq!(twice, None, "{token:?} answered twice");
        }
    }

    pub(super) fn send(&mut self, request: Request) -> Token {
        let token = Token(self.next_token);
        self.next_token += 1;
        let records = self.coordinator.handle(self.now_ms, token, request);
        self.append(records);
        token
    }

    pub(super) fn try_take(&mut self, token: Token) -> Option<Response> {
        self.answers.remove(&token)
    }

    pub(super) fn take(&mut self, token: Token) -> Response {
        self.try_take(token).expect("no answer yet")
    }

    pub(super) fn is_parked(&self, token: Token) -> bool {
        !self.answers.contains_key(&token)
    }

    /// Moves the clock, ticking whenever the coordinator asks for it.
    pub(super) fn advance(&mut self, by_ms: i32) {
        let end_ms = self.now_ms + i64::from(by_ms);
        for _ in 0..100_000 {
            match self.coordinator.next_deadline_ms() {
                Some(at_ms) if at_ms <= end_ms => {
                    self.now_ms = self.now_ms.max(at_ms);
                    let records = self.coordinator.tick(self.now_ms);
                    self.append(records);
                }
                _ => {
                    self.now_ms = end_ms;
                    return;
                }
            }
        }
        panic!("the clock does not get past {}", self.now_ms);
    }

    /// Moves the clock from deadline to deadline until there is an answer.
    pub(super) fn advance_until_answered(&mut self, token: Token) {
        for _ in 0..1_000 {
            if !self.is_parked(token) {
                return;
            }
            let at_ms = self.coordinator.next_deadline_ms().expect("a deadline");
            self.advance((at_ms - self.now_ms).max(0) as i32);
        }
        panic!("{token:?} is never answered");
    }

    pub(super) fn join(&mut self, join: JoinGroup) -> Token {
        self.send(Request::JoinGroup(join))
    }

    pub(super) fn take_join(&mut self, token: Token) -> JoinGroupResponse {
        match self.take(token) {
            Response::JoinGroup(response) => response,
            other => panic!("not a join: {other:?}"),
        }
    }

    /// A join that is answered at once.
    pub(super) fn joined(&mut self, join: JoinGroup) -> JoinGroupResponse {
        let token = self.join(join);
        self.take_join(token)
    }

    pub(super) fn sync(&mut self, sync: SyncGroup) -> Token {
        self.send(Request::SyncGroup(sync))
    }

    pub(super) fn take_sync(&mut self, token: Token) -> SyncGroupResponse {
        match self.take(token) {
            Response::SyncGroup(response) => response,
            other => panic!("not a sync: {other:?}"),
        }
    }

    pub(super) fn synced(&mut self, sync: SyncGroup) -> SyncGroupResponse {
        let token = self.sync(sync);
        self.take_sync(token)
    }

    pub(super) fn heartbeat(&mut self, member_id: &str, generation_id: i32) -> ErrorCode {
        self.heartbeat_as(member_id, None, generation_id)
    }

    pub(super) fn heartbeat_as(
        &mut self,
        member_id: &str,
        instance_id: Option<&str>,
        generation_id: i32,
    ) -> ErrorCode {
        let token = self.send(Request::Heartbeat(Heartbeat {
            group_id: "g".into(),
            generation_id,
            member_id: member_id.into(),
            group_instance_id: instance_id.map(Into::into),
        }));
        match self.take(token) {
            Response::Heartbeat(error) => error,
            other => panic!("not a heartbeat: {other:?}"),
        }
    }

    pub(super) fn leave(&mut self, members: Vec<LeavingMember>) -> LeaveGroupResponse {
        let token = self.send(Request::LeaveGroup(LeaveGroup {
            group_id: "g".into(),
            members,
        }));
        match self.take(token) {
            Response::LeaveGroup(response) => response,
            other => panic!("not a leave: {other:?}"),
        }
    }

    /// Commits `offset` for partition 0 of `t`.
    pub(super) fn commit(&mut self, member_id: &str, generation_id: i32, offset: i64) -> ErrorCode {
        self.commit_with(commit(member_id, generation_id, offset))
    }

    pub(super) fn commit_with(&mut self, commit: OffsetCommit) -> ErrorCode {
        let token = self.send(Request::OffsetCommit(commit));
        match self.take(token) {
            Response::OffsetCommit(response) => response.topics[0].partitions[0].1,
            other => panic!("not a commit: {other:?}"),
        }
    }

    pub(super) fn fetch(&mut self, topics: Option<Vec<TopicPartitions>>) -> OffsetFetchResponse {
        let token = self.send(Request::OffsetFetch(OffsetFetch {
            group_id: "g".into(),
            topics,
        }));
        match self.take(token) {
            Response::OffsetFetch(response) => response,
            other => panic!("not a fetch: {other:?}"),
        }
    }

    /// The committed offset of partition 0 of a topic, -1 for none.
    pub(super) fn offset_of(&mut self, topic: &str) -> i64 {
        let response = self.fetch(Some(vec![topic_partitions(topic, &[0])]));
        response.topics[0].partitions[0].offset
    }

    pub(super) fn describe(&mut self) -> DescribedGroup {
        let token = self.send(Request::DescribeGroups(DescribeGroups {
            api_version: 6,
            group_ids: vec!["g".into()],
        }));
        match self.take(token) {
            Response::DescribeGroups(mut groups) => groups.remove(0),
            other => panic!("not a description: {other:?}"),
        }
    }

    pub(super) fn state(&mut self) -> &'static str {
        self.describe().state
    }

    pub(super) fn delete_group(&mut self) -> ErrorCode {
        let token = self.send(Request::DeleteGroups(DeleteGroups {
            group_ids: vec!["g".into()],
        }));
        match self.take(token) {
            Response::DeleteGroups(groups) => groups[0].1,
            other => panic!("not a deletion: {other:?}"),
        }
    }

    /// A stable group `g` of `count` dynamic members at generation 1, subscribed
    /// to `t`. The first id is the leader's; assignments are `a0`, `a1`, ….
    pub(super) fn stable_group(&mut self, count: u8) -> Vec<String> {
        let joins: Vec<JoinGroup> = (0..count)
            .map(|n| {
                let id = self.joined(new_member(n)).member_id;
                JoinGroup {
                    member_id: id,
                    ..new_member(n)
                }
            })
            .collect();
        let ids = joins.iter().map(|j| j.member_id.clone()).collect();
        self.stabilize(joins, 1);
        ids
    }

    /// Sends joins that make up the whole group, passes the join phase, and
    /// syncs all with `a0`, `a1`, … in the order of the joins.
    pub(super) fn stabilize(&mut self, joins: Vec<JoinGroup>, generation_id: i32) -> Vec<String> {
        let tokens: Vec<Token> = joins.into_iter().map(|j| self.join(j)).collect();
        self.advance_until_answered(tokens[0]);
        let joined: Vec<JoinGroupResponse> =
            tokens.into_iter().map(|t| self.take_join(t)).collect();
        for response in &joined {
            assert_eq!(response.error, ErrorCode::None);
            assert_eq!(response.generation_id, generation_id);
        }
        let ids: Vec<String> = joined.iter().map(|j| j.member_id.clone()).collect();
        let mut tokens = Vec::new();
        for id in &ids {
            let mut request = sync(id, generation_id);
            if *id == joined[0].leader {
                request.assignments = assignments(&ids);
            }
            tokens.push(self.sync(request));
        }
        for (index, token) in tokens.into_iter().enumerate() {
            let response = self.take_sync(token);
            assert_eq!(response.error, ErrorCode::None);
            assert_eq!(response.assignment, Bytes::from(format!("a{index}")));
        }
        assert_eq!(self.state(), "Stable");
        ids
    }
}

/// `a0`, `a1`, … for the members.
pub(super) fn assignments(ids: &[String]) -> Vec<(String, Bytes)> {
    ids.iter()
        .enumerate()
        .map(|(index, id)| (id.clone(), Bytes::from(format!("a{index}"))))
        .collect()
}

/// Consumer subscription metadata at version 1.
pub(super) fn subscription(topics: &[&str]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_i16(1);
    out.put_i32(topics.len() as i32);
    for topic in topics {
        out.put_i16(topic.len() as i16);
        out.put_slice(topic.as_bytes());
    }
    out.put_i32(-1);
    out.put_i32(0);
    out.freeze()
}

/// A JoinGroup of a new dynamic consumer; `number` makes its member id.
pub(super) fn new_member(number: u8) -> JoinGroup {
    JoinGroup {
        api_version: 9,
        group_id: "g".into(),
        member_id: String::new(),
        group_instance_id: None,
        client_id: "client".into(),
        client_host: "/127.0.0.1".into(),
        session_timeout_ms: SESSION_MS,
        rebalance_timeout_ms: REBALANCE_MS,
        protocol_type: "consumer".into(),
        protocols: vec![("range".into(), subscription(&["t"]))],
        reason: None,
        random: Uuid([number; 16]),
    }
}

/// The same at version 3, which needs no second request.
pub(super) fn old_member(number: u8) -> JoinGroup {
    JoinGroup {
        api_version: 3,
        ..new_member(number)
    }
}

/// The JoinGroup of a member that has its id.
pub(super) fn rejoin(member_id: &str) -> JoinGroup {
    JoinGroup {
        member_id: member_id.into(),
        ..new_member(99)
    }
}

/// A JoinGroup of a new static consumer.
pub(super) fn static_member(instance_id: &str, number: u8) -> JoinGroup {
    JoinGroup {
        group_instance_id: Some(instance_id.into()),
        ..new_member(number)
    }
}

/// A follower's SyncGroup.
pub(super) fn sync(member_id: &str, generation_id: i32) -> SyncGroup {
    SyncGroup {
        api_version: 5,
        group_id: "g".into(),
        generation_id,
        member_id: member_id.into(),
        group_instance_id: None,
        protocol_type: Some("consumer".into()),
        protocol_name: Some("range".into()),
        assignments: Vec::new(),
    }
}

pub(super) fn leaving(member_id: &str) -> LeavingMember {
    LeavingMember {
        member_id: member_id.into(),
        group_instance_id: None,
        reason: Some("the consumer is being closed".into()),
    }
}

/// An OffsetCommit for partition 0 of `t`.
pub(super) fn commit(member_id: &str, generation_id: i32, offset: i64) -> OffsetCommit {
    OffsetCommit {
        api_version: 9,
        group_id: "g".into(),
        generation_id,
        member_id: member_id.into(),
        group_instance_id: None,
        retention_time_ms: None,
        topics: vec![commit_topic("t", offset)],
    }
}

pub(super) fn commit_topic(name: &str, offset: i64) -> CommitTopic {
    CommitTopic {
        name: name.into(),
        topic_id: Uuid::ZERO,
        partitions: vec![CommitPartition {
            partition: 0,
            offset,
            leader_epoch: 7,
            metadata: Some("note".into()),
        }],
    }
}

pub(super) fn topic_partitions(name: &str, partitions: &[i32]) -> TopicPartitions {
    TopicPartitions {
        name: name.into(),
        topic_id: Uuid::ZERO,
        partitions: partitions.to_vec(),
    }
}
