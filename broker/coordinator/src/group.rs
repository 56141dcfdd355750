//! One classic group: its members, its votes, its offsets, and the state
//! changes that need nothing but the group itself.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use indexmap::IndexMap;
use tidemark_wire::ErrorCode;

use crate::context::Context;
use crate::member::Member;
use crate::offsets::Offsets;
use crate::records::{GroupRecord, MemberRecord};
use crate::request::Token;
use crate::response::{JoinGroupResponse, JoinedMember, Response, SyncGroupResponse};
use crate::subscription;
use crate::timers::Timer;

/// The protocol type of the consumer clients (and the only one whose metadata
/// the coordinator looks into).
pub(crate) const CONSUMER_PROTOCOL_TYPE: &str = "consumer";

/// The states of Kafka's classic group. A dead group is one that is not there,
/// so that state is only a word in answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum GroupState {
    /// No members; offsets perhaps.
    Empty,
    /// Members are asked to (re)join; their JoinGroups are parked.
    PreparingRebalance,
    /// A generation has begun; SyncGroups are parked until the leader's is stored.
    CompletingRebalance,
    /// Every member has its assignment.
    Stable,
}

impl GroupState {
    pub(crate) const ALL: [GroupState; 4] = [
        Self::Empty,
        Self::PreparingRebalance,
        Self::CompletingRebalance,
        Self::Stable,
    ];

    /// The state as Kafka writes it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
        }
    }
}

/// How the delay of a first rebalance goes on when members keep coming.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InitialRebalance {
    pub(crate) delay_ms: i64,
    pub(crate) remaining_ms: i64,
}

/// One group.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) id: String,
    pub(crate) state: GroupState,
    pub(crate) previous_state: GroupState,
    pub(crate) generation_id: i32,
    pub(crate) protocol_type: Option<String>,
    pub(crate) protocol_name: Option<String>,
    pub(crate) leader_id: Option<String>,
    pub(crate) members: IndexMap<String, Member>,
    /// Instance id to member id.
    pub(crate) static_members: BTreeMap<String, String>,
    /// Member ids handed out with `MEMBER_ID_REQUIRED` and not used yet.
    pub(crate) pending_join: BTreeMap<String, Timer>,
    /// Members of this generation that have not sent their SyncGroup.
    pub(crate) pending_sync: BTreeSet<String>,
    /// How many members know each protocol.
    supported: BTreeMap<String, usize>,
    awaiting_join: usize,
    /// A member came during the delay of a first rebalance.
    pub(crate) new_member_added: bool,
    pub(crate) initial: Option<InitialRebalance>,
    /// What the members subscribe to, where that can be told.
    pub(crate) subscribed_topics: Option<BTreeSet<String>>,
    /// When the group came into its state; unknown in records of old brokers.
    pub(crate) state_timestamp_ms: Option<i64>,
    pub(crate) join_timer: Timer,
    pub(crate) sync_timer: Timer,
    pub(crate) offsets: Offsets,
}

impl Group {
    pub(crate) fn new(id: &str, state_timestamp_ms: Option<i64>) -> Self {
        Self {
            id: id.to_owned(),
            state: GroupState::Empty,
            previous_state: GroupState::Empty,
            generation_id: 0,
            protocol_type: None,
            protocol_name: None,
            leader_id: None,
            members: IndexMap::new(),
            static_members: BTreeMap::new(),
            pending_join: BTreeMap::new(),
            pending_sync: BTreeSet::new(),
            supported: BTreeMap::new(),
            awaiting_join: 0,
            new_member_added: false,
            initial: None,
            subscribed_topics: None,
            state_timestamp_ms,
            join_timer: Timer::default(),
            sync_timer: Timer::default(),
            offsets: Offsets::default(),
        }
    }

    /// A group that has nothing but offsets.
    pub(crate) fn with_offsets(id: &str, offsets: Offsets) -> Self {
        let mut group = Self::new(id, None);
        group.offsets = offsets;
        group
    }

    /// The group as a stored record tells of it; `offsets` are carried over.
    /// Members that contradict each other (no broker writes that) are dropped.
    pub(crate) fn from_record(id: &str, record: GroupRecord, offsets: Offsets) -> Self {
        let mut group = Self::new(id, record.state_timestamp_ms);
        group.generation_id = record.generation_id.max(0);
        group.offsets = offsets;
        group.protocol_type = Some(record.protocol_type).filter(|t| !t.is_empty());
        let protocol = record.protocol_name.clone().unwrap_or_default();
        group.protocol_name = record.protocol_name;
        for member in record.members {
            let taken = group.members.contains_key(&member.member_id)
                || member
                    .instance_id
                    .as_ref()
                    .is_some_and(|i| group.static_members.contains_key(i));
            if !taken {
                group.add(Member::from_record(member, &protocol));
            }
        }
        if !group.members.is_empty() {
            group.state = GroupState::Stable;
            group.previous_state = GroupState::CompletingRebalance;
        }
        if let Some(leader) = record.leader_id
            && group.members.contains_key(&leader)
        {
            group.leader_id = Some(leader);
        }
        group.subscribed_topics = group.compute_subscribed_topics();
        group
    }

    /// The record that stores the group with `assignment_of` its members.
    pub(crate) fn to_record(
        &self,
        now_ms: i64,
        assignment_of: impl Fn(&Member) -> Bytes,
    ) -> GroupRecord {
        GroupRecord {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation_id: self.generation_id,
            protocol_name: self.protocol_name.clone(),
            leader_id: self.leader_id.clone(),
            state_timestamp_ms: Some(now_ms),
            members: self
                .members
                .values()
                .map(|m| MemberRecord {
                    member_id: m.id.clone(),
                    instance_id: m.instance_id.clone(),
                    client_id: m.client_id.clone(),
                    client_host: m.client_host.clone(),
                    rebalance_timeout_ms: m.rebalance_timeout_ms,
                    session_timeout_ms: m.session_timeout_ms,
                    subscription: m.metadata(self.protocol_name.as_deref()),
                    assignment: assignment_of(m),
                })
                .collect(),
        }
    }

    pub(crate) fn transition_to(&mut self, state: GroupState, now_ms: i64) {
        self.previous_state = self.state;
        self.state = state;
        self.state_timestamp_ms = Some(now_ms);
    }

    pub(crate) fn is_leader(&self, member_id: &str) -> bool {
        self.leader_id.as_deref() == Some(member_id)
    }

    pub(crate) fn uses_consumer_protocol(&self) -> bool {
        self.protocol_type.as_deref() == Some(CONSUMER_PROTOCOL_TYPE)
    }

    pub(crate) fn awaiting_join_count(&self) -> usize {
        self.awaiting_join
    }

    pub(crate) fn has_all_members_joined(&self) -> bool {
        self.members.len() == self.awaiting_join && self.pending_join.is_empty()
    }

    /// The longest rebalance timeout of the members, in milliseconds.
    pub(crate) fn rebalance_timeout_ms(&self) -> i64 {
        let longest = self.members.values().map(|m| m.rebalance_timeout_ms).max();
        i64::from(longest.unwrap_or(0).max(0))
    }

    /// Adds a member whose id and instance id are free.
    pub(crate) fn add(&mut self, member: Member) {
        if let Some(instance) = &member.instance_id {
            self.static_members
                .insert(instance.clone(), member.id.clone());
        }
        if self.leader_id.is_none() {
            self.leader_id = Some(member.id.clone());
        }
        self.count_protocols(&member.protocols);
        self.members.insert(member.id.clone(), member);
    }

    /// Removes a member (or a pending member id), answers what it has parked
    /// and lets the next member lead if it was the leader.
    pub(crate) fn remove(&mut self, member_id: &str, cx: &mut Context<'_>) {
        if let Some(mut member) = self.members.shift_remove(member_id) {
            self.uncount_protocols(&member.protocols);
            // The client retries with no member id if it is still there.
            if let Some(token) = member.awaiting_join.take() {
                self.awaiting_join -= 1;
                let refusal = JoinGroupResponse::error(ErrorCode::UnknownMemberId, "");
                cx.reply(token, Response::JoinGroup(refusal));
            }
            if let Some(token) = member.awaiting_sync.take() {
                let refusal = SyncGroupResponse::error(ErrorCode::UnknownMemberId);
                cx.reply(token, Response::SyncGroup(refusal));
            }
            if let Some(instance) = &member.instance_id {
                self.static_members.remove(instance);
            }
            cx.timers.cancel(&mut member.session);
        }
        if self.is_leader(member_id) {
            self.leader_id = self.members.keys().next().cloned();
        }
        if let Some(mut timer) = self.pending_join.remove(member_id) {
            cx.timers.cancel(&mut timer);
        }
        self.pending_sync.remove(member_id);
    }

    /// Gives a static member a new id and keeps the rest. Whoever waits under
    /// the old id is fenced.
    pub(crate) fn replace_static_member(
        &mut self,
        old_id: &str,
        new_id: &str,
        cx: &mut Context<'_>,
    ) {
        let Some((index, _, mut member)) = self.members.shift_remove_full(old_id) else {
            return;
        };
        if let Some(token) = member.awaiting_join.take() {
            self.awaiting_join -= 1;
            let refusal = JoinGroupResponse::error(ErrorCode::FencedInstanceId, old_id);
            cx.reply(token, Response::JoinGroup(refusal));
        }
        if let Some(token) = member.awaiting_sync.take() {
            let refusal = SyncGroupResponse::error(ErrorCode::FencedInstanceId);
            cx.reply(token, Response::SyncGroup(refusal));
        }
        cx.timers.cancel(&mut member.session);
        member.id = new_id.to_owned();
        if let Some(instance) = &member.instance_id {
            self.static_members
                .insert(instance.clone(), new_id.to_owned());
        }
        if self.is_leader(old_id) {
            self.leader_id = Some(new_id.to_owned());
        }
        if self.pending_sync.remove(old_id) {
            self.pending_sync.insert(new_id.to_owned());
        }
        self.members.shift_insert(index, new_id.to_owned(), member);
    }

    /// Parks a JoinGroup. One that was parked before for the same member comes
    /// from a connection the client gave up: it is told to start over.
    pub(crate) fn park_join(&mut self, member_id: &str, token: Token, cx: &mut Context<'_>) {
        let Some(member) = self.members.get_mut(member_id) else {
            return;
        };
        match member.awaiting_join.replace(token) {
            None => self.awaiting_join += 1,
            Some(old) => {
                let refusal = JoinGroupResponse::error(ErrorCode::RebalanceInProgress, member_id);
                cx.reply(old, Response::JoinGroup(refusal));
            }
        }
    }

    /// Answers a parked JoinGroup, if there is one.
    pub(crate) fn answer_join(
        &mut self,
        member_id: &str,
        response: JoinGroupResponse,
        cx: &mut Context<'_>,
    ) {
        let Some(member) = self.members.get_mut(member_id) else {
            return;
        };
        if let Some(token) = member.awaiting_join.take() {
            self.awaiting_join -= 1;
            cx.reply(token, Response::JoinGroup(response));
        }
    }

    /// Parks a SyncGroup; see [`Group::park_join`] for one parked before.
    pub(crate) fn park_sync(&mut self, member_id: &str, token: Token, cx: &mut Context<'_>) {
        if let Some(member) = self.members.get_mut(member_id)
            && let Some(old) = member.awaiting_sync.replace(token)
        {
            let refusal = SyncGroupResponse::error(ErrorCode::RebalanceInProgress);
            cx.reply(old, Response::SyncGroup(refusal));
        }
    }

    /// Answers every parked SyncGroup: with the member's assignment, or with an error.
    pub(crate) fn answer_syncs(&mut self, error: ErrorCode, cx: &mut Context<'_>) {
        for member in self.members.values_mut() {
            let Some(token) = member.awaiting_sync.take() else {
                continue;
            };
            let response = if error == ErrorCode::None {
                SyncGroupResponse {
                    error,
                    protocol_type: self.protocol_type.clone(),
                    protocol_name: self.protocol_name.clone(),
                    assignment: member.assignment.clone(),
                }
            } else {
                SyncGroupResponse::error(error)
            };
            cx.reply(token, Response::SyncGroup(response));
            // A session that ran out while the request was parked was let pass.
            let timeout_ms = member.session_timeout_ms;
            member.restart_session(&self.id, timeout_ms, cx);
        }
    }

    /// All parked requests, to be refused: the state is about to be dropped.
    pub(crate) fn take_parked(&mut self) -> Vec<(Token, Response)> {
        let mut parked = Vec::new();
        for member in self.members.values_mut() {
            if let Some(token) = member.awaiting_join.take() {
                let response = JoinGroupResponse::error(ErrorCode::None, member.id.clone());
                parked.push((token, Response::JoinGroup(response)));
            }
            if let Some(token) = member.awaiting_sync.take() {
                let response = SyncGroupResponse::error(ErrorCode::None);
                parked.push((token, Response::SyncGroup(response)));
            }
        }
        self.awaiting_join = 0;
        parked
    }

    /// Disarms everything that the group has armed.
    pub(crate) fn cancel_timers(&mut self, cx: &mut Context<'_>) {
        cx.timers.cancel(&mut self.join_timer);
        cx.timers.cancel(&mut self.sync_timer);
        for member in self.members.values_mut() {
            cx.timers.cancel(&mut member.session);
        }
        for timer in self.pending_join.values_mut() {
            cx.timers.cancel(timer);
        }
    }

    /// Replaces what a member told at its last join.
    pub(crate) fn update_member(
        &mut self,
        member_id: &str,
        protocols: Vec<(String, Bytes)>,
        rebalance_timeout_ms: i32,
        session_timeout_ms: i32,
    ) {
        let Some(member) = self.members.get_mut(member_id) else {
            return;
        };
        let old = std::mem::replace(&mut member.protocols, protocols);
        let new = member.protocols.clone();
        member.rebalance_timeout_ms = rebalance_timeout_ms;
        member.session_timeout_ms = session_timeout_ms;
        self.uncount_protocols(&old);
        self.count_protocols(&new);
    }

    /// Whether a member with these protocols can be in the group: there is one
    /// among them that all members know.
    pub(crate) fn supports(&self, protocol_type: &str, protocols: &[(String, Bytes)]) -> bool {
        if self.state == GroupState::Empty {
            return !protocol_type.is_empty() && !protocols.is_empty();
        }
        self.protocol_type.as_deref() == Some(protocol_type)
            && protocols.iter().any(|(name, _)| self.all_support(name))
    }

    /// The protocol of the next generation: each member votes for the first of
    /// its own that all know. Between equals the first by name wins.
    pub(crate) fn select_protocol(&self) -> Option<String> {
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.members.values() {
            let vote = member.protocols.iter().find(|(n, _)| self.all_support(n));
            if let Some((name, _)) = vote {
                *votes.entry(name).or_default() += 1;
            }
        }
        let most = votes.values().copied().max()?;
        votes
            .into_iter()
            .find(|(_, count)| *count == most)
            .map(|(name, _)| name.to_owned())
    }

    /// If the leader has not rejoined the first member that has leads. False if
    /// nobody has.
    pub(crate) fn elect_joined_leader(&mut self) -> bool {
        let leader = self.leader_id.as_ref().and_then(|l| self.members.get(l));
        if leader.is_some_and(Member::is_awaiting_join) {
            return true;
        }
        let joined = self.members.values().find(|m| m.is_awaiting_join());
        match joined {
            Some(member) => {
                self.leader_id = Some(member.id.clone());
                true
            }
            None => false,
        }
    }

    /// Begins the next generation with the members there are.
    pub(crate) fn init_next_generation(&mut self, now_ms: i64) {
        // Only a forged record can bring the generation up to the end of its range.
        self.generation_id = self.generation_id.checked_add(1).unwrap_or(0);
        let next = if self.members.is_empty() {
            self.protocol_name = None;
            GroupState::Empty
        } else {
            self.protocol_name = self.select_protocol();
            GroupState::CompletingRebalance
        };
        self.subscribed_topics = self.compute_subscribed_topics();
        self.transition_to(next, now_ms);
        self.pending_sync.clear();
    }

    /// All members with their metadata, as the leader gets them.
    pub(crate) fn joined_members(&self) -> Vec<JoinedMember> {
        self.members
            .values()
            .map(|m| JoinedMember {
                member_id: m.id.clone(),
                group_instance_id: m.instance_id.clone(),
                metadata: m.metadata(self.protocol_name.as_deref()),
            })
            .collect()
    }

    /// The answer to a member that is in the current generation.
    pub(crate) fn joined(&self, member_id: &str) -> JoinGroupResponse {
        JoinGroupResponse {
            error: ErrorCode::None,
            generation_id: self.generation_id,
            protocol_type: self.protocol_type.clone(),
            protocol_name: self.protocol_name.clone(),
            leader: self.leader_id.clone().unwrap_or_default(),
            skip_assignment: false,
            member_id: member_id.to_owned(),
            members: if self.is_leader(member_id) {
                self.joined_members()
            } else {
                Vec::new()
            },
        }
    }

    /// Whether a request's member id (and instance id) are of this group.
    pub(crate) fn validate_member(
        &self,
        member_id: &str,
        instance_id: Option<&str>,
    ) -> Result<(), ErrorCode> {
        if let Some(instance) = instance_id {
            match self.static_members.get(instance) {
                None => return Err(ErrorCode::UnknownMemberId),
                Some(id) if id != member_id => return Err(ErrorCode::FencedInstanceId),
                Some(_) => {}
            }
        }
        if self.members.contains_key(member_id) {
            Ok(())
        } else {
            Err(ErrorCode::UnknownMemberId)
        }
    }

    /// Whether a member consumes the topic. A consumer group whose metadata
    /// cannot be read is taken to consume everything.
    pub(crate) fn is_subscribed_to(&self, topic: &str) -> bool {
        match &self.subscribed_topics {
            Some(topics) => topics.contains(topic),
            None => self.uses_consumer_protocol(),
        }
    }

    /// The union of what the members subscribe to, if all of it can be read.
    pub(crate) fn compute_subscribed_topics(&self) -> Option<BTreeSet<String>> {
        if !self.uses_consumer_protocol() {
            return None;
        }
        let mut topics = BTreeSet::new();
        if self.members.is_empty() {
            return Some(topics);
        }
        let protocol = self.protocol_name.as_deref()?;
        for member in self.members.values() {
            topics.extend(subscription::topics(&member.metadata(Some(protocol)))?);
        }
        Some(topics)
    }

    fn all_support(&self, protocol: &str) -> bool {
        self.supported.get(protocol).copied().unwrap_or(0) == self.members.len()
    }

    fn count_protocols(&mut self, protocols: &[(String, Bytes)]) {
        for (name, _) in protocols {
            *self.supported.entry(name.clone()).or_default() += 1;
        }
    }

    fn uncount_protocols(&mut self, protocols: &[(String, Bytes)]) {
        for (name, _) in protocols {
            if let Some(count) = self.supported.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    self.supported.remove(name);
                }
            }
        }
    }
}
