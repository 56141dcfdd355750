//! Random members, requests, restarts and passing time; what must hold of all of it.
//!
//! Mutations and what they turn red:
//! - `<=` for `<` in `GroupCoordinator::committed`: `Check::append` finds an
//!   answer before its record is committed.
//! - no `answer_syncs` in `join::prepare_rebalance`, or no answers in
//!   `Group::remove`: `every_request_is_answered`.
//! - no `GroupMetadata` record in `join::replace_static_member`, or none for a
//!   group that became empty in `join::complete_join`: `replay_gives_the_same_state`.
//! - `answer_syncs` before the assignments are set in `sync::apply_assignment`:
//!   an assignment of another generation is seen.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use tidemark_wire::{ErrorCode, Uuid};

use super::shell::*;
use crate::group::GroupState;
use crate::*;

/// One thing that happens. Members are named by their place in the list of all
/// ids ever given; stale ones are as likely as live ones.
#[derive(Debug, Clone, Copy)]
enum Step {
    JoinNew {
        old: bool,
        instance: Option<u8>,
    },
    Rejoin {
        member: u8,
        topics: u8,
    },
    Sync {
        member: u8,
        stale: bool,
    },
    Heartbeat {
        member: u8,
        stale: bool,
    },
    Leave {
        member: u8,
    },
    LeaveInstance {
        instance: u8,
    },
    Commit {
        member: u8,
        outside: bool,
        offset: i64,
    },
    Read,
    Delete,
    DeleteOffsets,
    DeleteTopic,
    Wait {
        ms: i32,
    },
    Commits {
        behind: u8,
    },
    Restart,
    FailAppend,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (any::<bool>(), prop::option::of(0u8..3))
            .prop_map(|(old, instance)| Step::JoinNew { old, instance }),
        8 => (any::<u8>(), 0u8..3).prop_map(|(member, topics)| Step::Rejoin { member, topics }),
        8 => (any::<u8>(), prop::bool::weighted(0.1))
            .prop_map(|(member, stale)| Step::Sync { member, stale }),
        4 => (any::<u8>(), prop::bool::weighted(0.1))
            .prop_map(|(member, stale)| Step::Heartbeat { member, stale }),
        2 => any::<u8>().prop_map(|member| Step::Leave { member }),
        1 => (0u8..3).prop_map(|instance| Step::LeaveInstance { instance }),
        4 => (any::<u8>(), any::<bool>(), 0i64..100)
            .prop_map(|(member, outside, offset)| Step::Commit { member, outside, offset }),
        2 => Just(Step::Read),
        1 => Just(Step::Delete),
        1 => Just(Step::DeleteOffsets),
        1 => Just(Step::DeleteTopic),
        6 => (0i32..8_000).prop_map(|ms| Step::Wait { ms }),
        1 => (8_000i32..100_000).prop_map(|ms| Step::Wait { ms }),
        4 => (0u8..4).prop_map(|behind| Step::Commits { behind }),
        1 => Just(Step::Restart),
        1 => Just(Step::FailAppend),
    ]
}

/// What a group looks like in the log.
type Stored = BTreeMap<String, (String, Vec<(String, String)>)>;

/// The shell, the clients, and what was promised to whom.
struct Check {
    coordinator: GroupCoordinator,
    log: Vec<LogRecord>,
    high_watermark: i64,
    now_ms: i64,
    next_token: u64,
    /// Requests without an answer.
    open: BTreeMap<Token, Request>,
    /// For each request the log end when it was decided: no answer before that is committed.
    decided_at: BTreeMap<Token, i64>,
    /// All member ids given out, with their instance ids and the last generation joined.
    members: Vec<(String, Option<String>, i32)>,
    highest_generation: i32,
    /// Whether generations may begin anew: the group was deleted or its unstored ones were lost.
    may_restart: bool,
    /// Assignments that the leader of a generation gave.
    given: BTreeMap<(i32, String), Bytes>,
    next_assignment: u64,
    max_size: usize,
}

impl Check {
    fn config(&self) -> GroupConfig {
        GroupConfig {
            max_size: self.max_size,
            offsets_retention_ms: 150_000,
            offsets_retention_check_interval_ms: 40_000,
            new_member_join_timeout_ms: 30_000,
            ..GroupConfig::default()
        }
    }

    fn new(max_size: usize) -> Self {
        let mut check = Self {
            coordinator: GroupCoordinator::new(GroupConfig::default()),
            log: Vec::new(),
            high_watermark: 0,
            now_ms: 5_000_000,
            next_token: 0,
            open: BTreeMap::new(),
            decided_at: BTreeMap::new(),
            members: Vec::new(),
            highest_generation: 0,
            may_restart: true,
            given: BTreeMap::new(),
            next_assignment: 0,
            max_size,
        };
        check.load();
        check
    }

    fn load(&mut self) {
        self.coordinator = GroupCoordinator::new(self.config());
        for (offset, record) in self.log.iter().enumerate() {
            self.coordinator
                .replay(offset as i64, &record.key, record.value.as_ref())
                .unwrap();
        }
        let records = self.coordinator.loaded(self.now_ms, self.log.len() as i64);
        self.coordinator.committed(self.high_watermark);
        self.append(records);
    }

    fn append(&mut self, records: Vec<LogRecord>) {
        if !records.is_empty() {
            self.log.extend(records);
            self.coordinator.appended(self.log.len() as i64 - 1);
        }
        let log_end = self.log.len() as i64;
        for (token, response) in self.coordinator.take_replies() {
            let decided_at = self.decided_at.get(&token).copied().unwrap_or(log_end);
            let request = self.open.remove(&token).expect("answered once");
            // An answer given in this step depends on all that it appended.
            assert!(
                decided_at <= self.high_watermark && self.coordinator.is_active(),
                "{request:?} answered at {} but needs {decided_at}",
                self.high_watermark
            );
            self.note(&request, &response);
        }
        // What is open and no longer parked was decided now, and needs all that
        // is in the log now.
        let parked: Vec<Token> = self
            .coordinator
            .groups()
            .values()
            .flat_map(|g| g.members.values())
            .flat_map(|m| m.awaiting_join.into_iter().chain(m.awaiting_sync))
            .collect();
        for token in self.open.keys() {
            if !parked.contains(token) {
                self.decided_at.entry(*token).or_insert(log_end);
            }
        }
        self.check_groups();
    }

    /// Checks an answer against what was promised.
    fn note(&mut self, request: &Request, response: &Response) {
        match (request, response) {
            (Request::JoinGroup(request), Response::JoinGroup(response)) => {
                let joined = response.error == ErrorCode::None;
                if response.error == ErrorCode::MemberIdRequired || joined {
                    let generation = if joined { response.generation_id } else { -1 };
                    let known = self
                        .members
                        .iter_mut()
                        .find(|(id, ..)| *id == response.member_id);
                    match known {
                        Some(known) => known.2 = generation,
                        None => self.members.push((
                            response.member_id.clone(),
                            request.group_instance_id.clone(),
                            generation,
                        )),
                    }
                }
                if joined {
                    assert!(response.generation_id > 0);
                    assert!(!response.leader.is_empty());
                    assert_eq!(response.protocol_name.as_deref(), Some("range"));
                }
            }
            (Request::SyncGroup(request), Response::SyncGroup(response))
                if response.error == ErrorCode::None =>
            {
                let key = (request.generation_id, request.member_id.clone());
                // Static members inherit under a new id what their old one was given.
                let inherited = request.group_instance_id.is_some();
                match self.given.get(&key) {
                    Some(given) => assert_eq!(*given, response.assignment),
                    None => assert!(inherited || response.assignment.is_empty()),
                }
            }
            _ => {}
        }
    }

    fn check_groups(&mut self) {
        let Some(group) = self.coordinator.groups().get("g") else {
            self.may_restart = true;
            return;
        };
        if !self.may_restart {
            assert!(group.generation_id >= self.highest_generation);
        }
        self.may_restart = false;
        self.highest_generation = group.generation_id;
        let waiting = group.members.values().filter(|m| m.is_awaiting_join());
        assert_eq!(waiting.count(), group.awaiting_join_count());
        assert_eq!(group.members.is_empty(), group.leader_id.is_none());
        if let Some(leader) = &group.leader_id {
            assert!(group.members.contains_key(leader));
        }
        for (instance, id) in &group.static_members {
            assert_eq!(group.members[id].instance_id.as_ref(), Some(instance));
        }
        match group.state {
            GroupState::Empty => assert!(group.members.is_empty()),
            GroupState::PreparingRebalance => {
                assert!(group.pending_sync.is_empty());
                assert!(group.members.values().all(|m| m.awaiting_sync.is_none()));
            }
            GroupState::CompletingRebalance => assert_eq!(group.awaiting_join_count(), 0),
            GroupState::Stable => {
                assert!(!group.members.is_empty());
                for member in group.members.values() {
                    assert!(member.awaiting_join.is_none() && member.awaiting_sync.is_none());
                    if member.instance_id.is_none()
                        && let Some(given) =
                            self.given.get(&(group.generation_id, member.id.clone()))
                    {
                        assert_eq!(*given, member.assignment);
                    }
                }
            }
        }
    }

    fn send(&mut self, request: Request) {
        let token = Token(self.next_token);
        self.next_token += 1;
        self.open.insert(token, request.clone());
        let records = self.coordinator.handle(self.now_ms, token, request);
        self.append(records);
    }

    fn advance(&mut self, by_ms: i32) {
        let end_ms = self.now_ms + i64::from(by_ms);
        for _ in 0..10_000 {
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

    fn commit_to(&mut self, high_watermark: i64) {
        self.high_watermark = self.high_watermark.max(high_watermark);
        self.coordinator.committed(self.high_watermark);
        self.append(Vec::new());
    }

    fn member(&self, index: u8) -> (String, Option<String>, i32) {
        match self.members.len() {
            0 => ("nobody".into(), None, 1),
            // Recent ids are the likely ones.
            len => self.members[len - 1 - usize::from(index) % len.min(6)].clone(),
        }
    }

    /// An assignment for all members, each unlike any other ever given.
    fn assign(&mut self, leader: &str, generation_id: i32) -> Vec<(String, Bytes)> {
        let Some(group) = self.coordinator.groups().get("g") else {
            return Vec::new();
        };
        let accepted = group.state == GroupState::CompletingRebalance
            && group.generation_id == generation_id
            && group.is_leader(leader);
        let ids: Vec<String> = group.members.keys().cloned().collect();
        let mut assignments = Vec::new();
        for id in ids {
            self.next_assignment += 1;
            let assignment = Bytes::from(format!("assignment {}", self.next_assignment));
            if accepted {
                self.given
                    .insert((generation_id, id.clone()), assignment.clone());
            }
            assignments.push((id, assignment));
        }
        assignments
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::JoinNew { old, instance } => {
                let mut random = [0; 16];
                random[8..].copy_from_slice(&self.next_token.to_be_bytes());
                random.rotate_left(8);
                self.send(Request::JoinGroup(JoinGroup {
                    api_version: if old { 3 } else { 9 },
                    group_instance_id: instance.map(|i| format!("i{i}")),
                    random: Uuid(random),
                    ..new_member(0)
                }));
            }
            Step::Rejoin { member, topics } => {
                let (member_id, group_instance_id, _) = self.member(member);
                let topics = ["t", "u", "v"][usize::from(topics)];
                self.send(Request::JoinGroup(JoinGroup {
                    member_id,
                    group_instance_id,
                    protocols: vec![("range".into(), subscription(&[topics]))],
                    ..new_member(0)
                }));
            }
            Step::Sync { member, stale } => {
                let (member_id, group_instance_id, generation) = self.member(member);
                let generation_id = generation - i32::from(stale);
                let fenced = self.is_fenced(&member_id, group_instance_id.as_deref());
                let assignments = if fenced {
                    Vec::new()
                } else {
                    self.assign(&member_id, generation_id)
                };
                self.send(Request::SyncGroup(SyncGroup {
                    group_instance_id,
                    assignments,
                    ..sync(&member_id, generation_id)
                }));
            }
            Step::Heartbeat { member, stale } => {
                let (member_id, group_instance_id, generation) = self.member(member);
                self.send(Request::Heartbeat(Heartbeat {
                    group_id: "g".into(),
                    generation_id: generation - i32::from(stale),
                    member_id,
                    group_instance_id,
                }));
            }
            Step::Leave { member } => {
                let (member_id, group_instance_id, _) = self.member(member);
                self.send(Request::LeaveGroup(LeaveGroup {
                    group_id: "g".into(),
                    members: vec![LeavingMember {
                        group_instance_id,
                        ..leaving(&member_id)
                    }],
                }));
            }
            Step::LeaveInstance { instance } => {
                self.send(Request::LeaveGroup(LeaveGroup {
                    group_id: "g".into(),
                    members: vec![LeavingMember {
                        group_instance_id: Some(format!("i{instance}")),
                        ..leaving("")
                    }],
                }));
            }
            Step::Commit {
                member,
                outside,
                offset,
            } => {
                let (member_id, group_instance_id, generation) = self.member(member);
                let request = if outside {
                    commit("", -1, offset)
                } else {
                    OffsetCommit {
                        group_instance_id,
                        ..commit(&member_id, generation, offset)
                    }
                };
                self.send(Request::OffsetCommit(request));
            }
            Step::Read => {
                self.send(Request::OffsetFetch(OffsetFetch {
                    group_id: "g".into(),
                    topics: None,
                }));
                self.send(Request::DescribeGroups(DescribeGroups {
                    api_version: 6,
                    group_ids: vec!["g".into()],
                }));
                self.send(Request::ListGroups(ListGroups::default()));
            }
            Step::Delete => {
                self.send(Request::DeleteGroups(DeleteGroups {
                    group_ids: vec!["g".into()],
                }));
            }
            Step::DeleteOffsets => {
                self.send(Request::OffsetDelete(OffsetDelete {
                    group_id: "g".into(),
                    topics: vec![topic_partitions("t", &[0])],
                }));
            }
            Step::DeleteTopic => {
                let topics = BTreeMap::from([("t".to_owned(), Uuid::ZERO)]);
                let records = self.coordinator.topics_deleted(self.now_ms, &topics);
                self.append(records);
            }
            Step::Wait { ms } => self.advance(ms),
            Step::Commits { behind } => self.commit_to(self.log.len() as i64 - i64::from(behind)),
            Step::Restart => self.restart(),
            Step::FailAppend => {
                let token = Token(self.next_token);
                self.next_token += 1;
                let request = Request::OffsetCommit(commit("", -1, 1));
                self.open.insert(token, request.clone());
                let lost = self.coordinator.handle(self.now_ms, token, request);
                if lost.is_empty() {
                    return self.append(Vec::new());
                }
                self.coordinator.append_failed(ErrorCode::NotEnoughReplicas);
                self.refused(ErrorCode::CoordinatorNotAvailable);
                self.reload();
            }
        }
    }

    fn is_fenced(&self, member_id: &str, instance_id: Option<&str>) -> bool {
        self.coordinator
            .groups()
            .get("g")
            .is_none_or(|g| g.validate_member(member_id, instance_id).is_err())
    }

    /// Every open request has just been refused.
    fn refused(&mut self, error: ErrorCode) {
        for (token, response) in self.coordinator.take_replies() {
            let request = self.open.remove(&token).expect("answered once");
            if let Response::JoinGroup(response) = &response {
                assert_eq!(response.error, error, "{request:?}");
            }
            if let Response::OffsetCommit(response) = &response {
                assert_eq!(response.topics[0].partitions[0].1, error);
            }
        }
        assert!(self.open.is_empty(), "never answered: {:?}", self.open);
    }

    fn restart(&mut self) {
        self.coordinator.resign();
        self.refused(ErrorCode::NotCoordinator);
        self.reload();
    }

    fn reload(&mut self) {
        // Generations that were never stored may be given again, to others.
        self.may_restart = true;
        self.load();
        let stored = self.coordinator.groups().get("g");
        let stored = stored.map_or(0, |g| g.generation_id);
        self.given
            .retain(|(generation, _), _| *generation <= stored);
    }

    /// The stored state of the groups at rest, and all offsets.
    fn stored(coordinator: &GroupCoordinator, at_rest: &[String]) -> Stored {
        let groups = coordinator.groups().iter().map(|(id, group)| {
            let state = if at_rest.contains(id) {
                let members: Vec<String> = group
                    .members
                    .values()
                    .map(|m| {
                        let metadata = m.metadata(group.protocol_name.as_deref());
                        let timeouts = (m.session_timeout_ms, m.rebalance_timeout_ms);
                        let client = (&m.client_id, &m.client_host);
                        let ids = (&m.id, &m.instance_id);
                        format!(
                            "{ids:?} {client:?} {timeouts:?} {metadata:?} {:?}",
                            m.assignment
                        )
                    })
                    .collect();
                format!(
                    "{:?} {} {:?} {:?} {:?} {:?} {members:?}",
                    group.state,
                    group.generation_id,
                    group.protocol_type,
                    group.protocol_name,
                    group.leader_id,
                    group.subscribed_topics,
                )
            } else {
                String::new()
            };
            let offsets = group
                .offsets
                .iter()
                .map(|(topic, partition, value)| {
                    (format!("{topic}-{partition}"), format!("{value:?}"))
                })
                .collect();
            (id.clone(), (state, offsets))
        });
        groups.collect()
    }

    /// Replaying the log gives what there is now.
    fn replay_gives_the_same_state(&self) {
        let mut replayed = GroupCoordinator::new(self.config());
        for (offset, record) in self.log.iter().enumerate() {
            replayed
                .replay(offset as i64, &record.key, record.value.as_ref())
                .unwrap();
        }
        let at_rest: Vec<String> = self
            .coordinator
            .groups()
            .values()
            .filter(|g| matches!(g.state, GroupState::Empty | GroupState::Stable))
            .map(|g| g.id.clone())
            .collect();
        assert_eq!(
            Self::stored(&replayed, &at_rest),
            Self::stored(&self.coordinator, &at_rest)
        );
    }

    /// Once all is committed and time passes, nobody is left without an answer,
    /// and what is left of the group goes too.
    fn every_request_is_answered(&mut self) {
        for _ in 0..10 {
            self.commit_to(self.log.len() as i64);
            self.advance(60_000);
        }
        self.commit_to(self.log.len() as i64);
        assert!(self.open.is_empty(), "never answered: {:?}", self.open);
        assert!(self.coordinator.groups().is_empty());
        assert_eq!(self.coordinator.armed_timers(), 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn groups_keep_their_promises(
        max_size in prop_oneof![Just(2usize), Just(1_000)],
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut check = Check::new(max_size);
        for step in steps {
            check.run(step);
            check.replay_gives_the_same_state();
        }
        check.every_request_is_answered();
        check.replay_gives_the_same_state();
    }
}
