//! The shell-facing side of a coordinator: loading, appending, and holding
//! answers back until what they depend on is committed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

use bytes::Bytes;
use tidemark_wire::{ErrorCode, Uuid};

use crate::config::GroupConfig;
use crate::context::Context;
use crate::group::{Group, GroupState};
use crate::records::{CoordinatorRecord, LogRecord, ReplayError};
use crate::request::{Request, Token};
use crate::response::Response;
use crate::standing::GroupStanding;
use crate::timers::{Timer, TimerKey, Timers};
use crate::{describe, join, offsets, sync};

/// Records of expiry written by one step; the rest is left to the next.
const MAX_EXPIRY_RECORDS_PER_STEP: usize = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lifecycle {
    Loading,
    Active,
    /// Its state is gone; the log has to be replayed into a new coordinator.
    Failed,
}

/// What waits for [`GroupCoordinator::appended`].
#[derive(Debug)]
struct PendingAppend {
    now_ms: i64,
    records: Vec<CoordinatorRecord>,
    replies: Vec<(Token, Response)>,
}

/// The coordinator of all groups of one partition of `__consumer_offsets`.
///
/// It is driven by a shell that owns the log, the clock and the connections:
///
/// 1. A new one is loading. The shell calls [`replay`](Self::replay) with every
///    record up to the log end, then [`loaded`](Self::loaded), then
///    [`committed`](Self::committed) with the high watermark it knows.
/// 2. [`handle`](Self::handle), [`tick`](Self::tick),
///    [`topics_deleted`](Self::topics_deleted) and `loaded` return the records
///    to append. If there are any, the shell appends them, in order, and calls
///    [`appended`](Self::appended) or [`append_failed`](Self::append_failed)
///    before anything else.
/// 3. Whenever the high watermark moves the shell calls
///    [`committed`](Self::committed).
/// 4. After any of these calls [`take_replies`](Self::take_replies) gives what
///    may be answered now, and [`next_deadline_ms`](Self::next_deadline_ms)
///    says when to `tick` next.
///
/// Stored state changes only when its own records are applied, after their
/// append. Every answer, reads and errors too, waits until the high watermark
/// has passed the last record appended when it was made. Every token handed in
/// comes out of `take_replies` exactly once.
#[derive(Debug)]
pub struct GroupCoordinator {
    config: GroupConfig,
    lifecycle: Lifecycle,
    groups: BTreeMap<String, Group>,
    timers: Timers,
    retention: Timer,
    /// The group after which the search for expired offsets goes on.
    retention_cursor: Option<String>,
    pending: Option<PendingAppend>,
    /// Answers, with the offset that must be committed first; offsets never decrease.
    waiting: VecDeque<(i64, Token, Response)>,
    ready: Vec<(Token, Response)>,
    /// Offset of the last record in the log.
    last_offset: i64,
    high_watermark: i64,
    skipped_records: u64,
}

impl GroupCoordinator {
    /// A coordinator that has yet to be loaded.
    pub fn new(config: GroupConfig) -> Self {
        Self {
            config,
            lifecycle: Lifecycle::Loading,
            groups: BTreeMap::new(),
            timers: Timers::default(),
            retention: Timer::default(),
            retention_cursor: None,
            pending: None,
            waiting: VecDeque::new(),
            ready: Vec::new(),
            last_offset: -1,
            high_watermark: 0,
            skipped_records: 0,
        }
    }

    /// Applies one record of the log while loading. Records of the newer group
    /// protocols are passed over: they stay in the log. Control records are not
    /// to be handed in.
    ///
    /// # Errors
    /// [`ReplayError`] if the record is of a known type but cannot be read.
    pub fn replay(
        &mut self,
        offset: i64,
        key: &Bytes,
        value: Option<&Bytes>,
    ) -> Result<(), ReplayError> {
        if self.lifecycle != Lifecycle::Loading {
            return Err(ReplayError::NotLoading { offset });
        }
        match CoordinatorRecord::decode(offset, key, value)? {
            None => self.skipped_records += 1,
            Some(CoordinatorRecord::OffsetCommit {
                group_id,
                topic,
                partition,
                value,
            }) => apply_offset(&mut self.groups, group_id, topic, partition, value),
            Some(CoordinatorRecord::GroupMetadata { group_id, value }) => {
                let offsets = self.groups.remove(&group_id).map(|g| g.offsets);
                let offsets = offsets.unwrap_or_default();
                let group = match value {
                    Some(record) => Group::from_record(&group_id, record, offsets),
                    None if offsets.is_empty() => return Ok(()),
                    None => Group::with_offsets(&group_id, offsets),
                };
                self.groups.insert(group_id, group);
            }
        }
        Ok(())
    }

    /// Everything up to `log_end_offset` has been replayed: sessions begin
    /// anew and requests are served.
    #[must_use = "records must be appended, then `appended` called"]
    pub fn loaded(&mut self, now_ms: i64, log_end_offset: i64) -> Vec<LogRecord> {
        if self.lifecycle != Lifecycle::Loading {
            return Vec::new();
        }
        self.lifecycle = Lifecycle::Active;
        self.last_offset = log_end_offset - 1;
        let interval_ms = self.config.offsets_retention_check_interval_ms;
        self.timers.set(
            &mut self.retention,
            now_ms.saturating_add(interval_ms),
            || TimerKey::Retention,
        );
        self.step(now_ms, |groups, cx| {
            for group in groups.values_mut() {
                for member in group.members.values_mut() {
                    let timeout_ms = member.session_timeout_ms;
                    member.restart_session(&group.id, timeout_ms, cx);
                }
                if group.members.len() > cx.config.max_size {
                    tracing::info!(group = group.id, "loaded group is over group.max.size");
                    join::prepare_rebalance(group, cx);
                }
            }
        })
    }

    /// Takes a request. Its answer may be there at once, or after `appended`
    /// and `committed`, or when other members or a timer bring it about.
    #[must_use = "records must be appended, then `appended` called"]
    pub fn handle(&mut self, now_ms: i64, token: Token, request: Request) -> Vec<LogRecord> {
        let refusal = match self.lifecycle {
            // A member has nothing to gain from looking for another coordinator.
            Lifecycle::Loading if matches!(request, Request::Heartbeat(_)) => Some(ErrorCode::None),
            Lifecycle::Loading => Some(ErrorCode::CoordinatorLoadInProgress),
            Lifecycle::Failed => Some(ErrorCode::NotCoordinator),
            // The shell broke the order of calls: nothing may be decided now.
            Lifecycle::Active if self.pending.is_some() => Some(ErrorCode::CoordinatorNotAvailable),
            Lifecycle::Active => None,
        };
        if let Some(error) = refusal {
            self.ready.push((token, Response::refusal(&request, error)));
            return Vec::new();
        }
        self.step(now_ms, |groups, cx| dispatch(groups, request, token, cx))
    }

    /// Lets deadlines up to `now_ms` pass.
    #[must_use = "records must be appended, then `appended` called"]
    pub fn tick(&mut self, now_ms: i64) -> Vec<LogRecord> {
        if self.lifecycle != Lifecycle::Active || self.pending.is_some() {
            return Vec::new();
        }
        let interval_ms = self.config.offsets_retention_check_interval_ms;
        let mut retention = std::mem::take(&mut self.retention);
        let mut cursor = self.retention_cursor.take();
        // What this tick arms waits for the next, so that this one ends.
        let armed_before = self.timers.next_sequence();
        let records = self.step(now_ms, |groups, cx| {
            while let Some((entry, key)) = cx.timers.pop_due(now_ms, armed_before) {
                match &key {
                    TimerKey::Session {
                        group_id,
                        member_id,
                    } => {
                        let Some(group) = groups.get_mut(group_id) else {
                            continue;
                        };
                        let member = group.members.get_mut(member_id);
                        let satisfied =
                            member.as_ref().is_some_and(|m| m.has_satisfied_heartbeat());
                        let timer = match member {
                            Some(member) => Some(&mut member.session),
                            None => group.pending_join.get_mut(member_id),
                        };
                        let member_id = member_id.clone();
                        let Some(timer) = timer else { continue };
                        if cx.timers.fired(timer, entry, now_ms, key) && !satisfied {
                            sync::on_session_timeout(group, &member_id, cx);
                        }
                    }
                    TimerKey::Join { group_id } => {
                        if let Some(group) = groups.get_mut(group_id)
                            && cx.timers.fired(&mut group.join_timer, entry, now_ms, key)
                        {
                            join::on_join_timeout(group, cx);
                        }
                    }
                    TimerKey::Sync { group_id } => {
                        if let Some(group) = groups.get_mut(group_id)
                            && cx.timers.fired(&mut group.sync_timer, entry, now_ms, key)
                        {
                            sync::on_sync_timeout(group, cx);
                        }
                    }
                    TimerKey::Retention => {
                        if !cx.timers.fired(&mut retention, entry, now_ms, key) {
                            continue;
                        }
                        cursor = expire(groups, cursor.take(), cx);
                        let again_ms = match cursor {
                            Some(_) => now_ms,
                            None => now_ms.saturating_add(interval_ms),
                        };
                        cx.timers
                            .set(&mut retention, again_ms, || TimerKey::Retention);
                    }
                }
            }
        });
        self.retention = retention;
        self.retention_cursor = cursor;
        records
    }

    /// Topics have been deleted (name and id, [`Uuid::ZERO`] if unknown): their
    /// offsets go with them. An offset known to be of another topic of that
    /// name stays.
    #[must_use = "records must be appended, then `appended` called"]
    pub fn topics_deleted(
        &mut self,
        now_ms: i64,
        topics: &BTreeMap<String, Uuid>,
    ) -> Vec<LogRecord> {
        if self.lifecycle != Lifecycle::Active || self.pending.is_some() {
            return Vec::new();
        }
        self.step(now_ms, |groups, cx| {
            for group in groups.values() {
                offsets::forget_topics(group, topics, cx);
            }
        })
    }

    /// The records that the last call returned are in the log; the last of them
    /// at `last_offset`. They are applied.
    pub fn appended(&mut self, last_offset: i64) {
        let Some(pending) = self.pending.take() else {
            return;
        };
        self.last_offset = self.last_offset.max(last_offset);
        let mut replies = pending.replies;
        let mut cx = Context {
            now_ms: pending.now_ms,
            config: &self.config,
            timers: &mut self.timers,
            records: &mut Vec::new(),
            replies: &mut replies,
        };
        for record in pending.records {
            apply_own(&mut self.groups, record, &mut cx);
        }
        self.hold_back(replies);
    }

    /// The records that the last call returned did not make it into the log,
    /// or not all of them. The state is dropped, all requests are refused with
    /// what Kafka makes of `error`, and a new coordinator has to be loaded.
    pub fn append_failed(&mut self, error: ErrorCode) {
        self.fail(match error {
            ErrorCode::UnknownTopicOrPartition
            | ErrorCode::NotEnoughReplicas
            | ErrorCode::NotEnoughReplicasAfterAppend
            | ErrorCode::RequestTimedOut => ErrorCode::CoordinatorNotAvailable,
            ErrorCode::NotLeaderOrFollower
            | ErrorCode::FencedLeaderEpoch
            | ErrorCode::KafkaStorageError => ErrorCode::NotCoordinator,
            ErrorCode::MessageTooLarge
            | ErrorCode::RecordListTooLarge
            | ErrorCode::InvalidFetchSize => ErrorCode::UnknownServerError,
            other => other,
        });
    }

    /// The partition has another leader (or this broker stops): the state is
    /// dropped and all requests are refused with `NOT_COORDINATOR`.
    pub fn resign(&mut self) {
        self.fail(ErrorCode::NotCoordinator);
    }

    /// All records below `high_watermark` are committed.
    pub fn committed(&mut self, high_watermark: i64) {
        self.high_watermark = self.high_watermark.max(high_watermark);
        // Mutation: with `<=` here the test `no_reply_before_its_record_is_committed`
        // and the property test turn red.
        while self
            .waiting
            .front()
            .is_some_and(|(offset, ..)| *offset < self.high_watermark)
        {
            if let Some((_, token, response)) = self.waiting.pop_front() {
                self.ready.push((token, response));
            }
        }
    }

    /// Answers that may be given now.
    #[must_use = "each answer is handed out once"]
    pub fn take_replies(&mut self) -> Vec<(Token, Response)> {
        std::mem::take(&mut self.ready)
    }

    /// When [`tick`](Self::tick) has something to do. It may find that a
    /// session was extended since; then this says the later time.
    pub fn next_deadline_ms(&self) -> Option<i64> {
        self.timers.next_deadline_ms()
    }

    /// Whether requests are served: false while loading, and after a failed
    /// append or [`resign`](Self::resign).
    pub fn is_active(&self) -> bool {
        self.lifecycle == Lifecycle::Active
    }

    /// No groups of any state, by its name as Kafka writes it: for [`Self::count_groups`].
    pub fn no_groups() -> BTreeMap<&'static str, usize> {
        BTreeMap::from(GroupState::ALL.map(|state| (state.name(), 0)))
    }

    /// Adds up how many groups there are of each state.
    pub fn count_groups(&self, counts: &mut BTreeMap<&'static str, usize>) {
        for group in self.groups.values() {
            *counts.entry(group.state.name()).or_default() += 1;
        }
    }

    /// Shows every group as it stands, in order of their names.
    pub fn visit_groups(&self, visitor: &mut dyn FnMut(GroupStanding<'_>)) {
        for (id, group) in &self.groups {
            visitor(GroupStanding {
                id,
                state: group.state.name(),
                members: group.members.len(),
                generation_id: group.generation_id,
                offsets: &group.offsets,
            });
        }
    }

    /// How many offsets are stored.
    pub fn offset_count(&self) -> usize {
        self.groups.values().map(|g| g.offsets.iter().count()).sum()
    }

    /// The topics that offsets are stored of, with the ids they were committed
    /// under. After loading, those that no longer exist go to
    /// [`topics_deleted`](Self::topics_deleted).
    pub fn topics_with_offsets(&self) -> BTreeSet<(String, Uuid)> {
        let all = self.groups.values().flat_map(|g| g.offsets.iter());
        all.map(|(topic, _, value)| (topic.to_owned(), value.topic_id))
            .collect()
    }

    /// How many records of newer group protocols were passed over in loading.
    pub fn skipped_records(&self) -> u64 {
        self.skipped_records
    }

    fn step(
        &mut self,
        now_ms: i64,
        decide: impl FnOnce(&mut BTreeMap<String, Group>, &mut Context<'_>),
    ) -> Vec<LogRecord> {
        let mut records = Vec::new();
        let mut replies = Vec::new();
        let mut cx = Context {
            now_ms,
            config: &self.config,
            timers: &mut self.timers,
            records: &mut records,
            replies: &mut replies,
        };
        decide(&mut self.groups, &mut cx);
        if records.is_empty() {
            self.hold_back(replies);
            return Vec::new();
        }
        let encoded: Result<Vec<LogRecord>, _> =
            records.iter().map(CoordinatorRecord::encode).collect();
        self.pending = Some(PendingAppend {
            now_ms,
            records,
            replies,
        });
        match encoded {
            Ok(encoded) => encoded,
            Err(error) => {
                // Lengths are checked where requests come in, so this is a defect:
                // better to reload than to go on with a record missing.
                tracing::error!(%error, "a coordinator record cannot be written");
                self.fail(ErrorCode::UnknownServerError);
                Vec::new()
            }
        }
    }

    /// Keeps answers until the last record appended so far is committed.
    fn hold_back(&mut self, replies: Vec<(Token, Response)>) {
        for (token, response) in replies {
            if self.waiting.is_empty() && self.last_offset < self.high_watermark {
                self.ready.push((token, response));
            } else {
                self.waiting.push_back((self.last_offset, token, response));
            }
        }
    }

    fn fail(&mut self, error: ErrorCode) {
        self.lifecycle = Lifecycle::Failed;
        let mut lost: Vec<(Token, Response)> = Vec::new();
        lost.extend(self.waiting.drain(..).map(|(_, token, r)| (token, r)));
        lost.extend(self.pending.take().map(|p| p.replies).unwrap_or_default());
        for group in self.groups.values_mut() {
            lost.extend(group.take_parked());
        }
        self.ready
            .extend(lost.into_iter().map(|(t, r)| (t, r.into_error(error))));
        self.groups.clear();
        self.timers = Timers::default();
        self.retention = Timer::default();
        self.retention_cursor = None;
    }

    #[cfg(test)]
    pub(crate) fn groups(&self) -> &BTreeMap<String, Group> {
        &self.groups
    }

    #[cfg(test)]
    pub(crate) fn armed_timers(&self) -> usize {
        self.timers.len()
    }
}

fn dispatch(
    groups: &mut BTreeMap<String, Group>,
    request: Request,
    token: Token,
    cx: &mut Context<'_>,
) {
    let response = match request {
        Request::JoinGroup(request) => return join::join(groups, request, token, cx),
        Request::SyncGroup(request) => {
            let group = groups.get_mut(&request.group_id);
            return sync::sync(group, request, token, cx);
        }
        Request::Heartbeat(request) => {
            let group = groups.get_mut(&request.group_id);
            Response::Heartbeat(sync::heartbeat(group, &request, cx))
        }
        Request::LeaveGroup(request) => {
            let group = groups.get_mut(&request.group_id);
            sync::leave(group, request, cx)
        }
        Request::OffsetCommit(request) => {
            let group = groups.get_mut(&request.group_id);
            offsets::commit(group, &request, cx)
        }
        Request::OffsetFetch(request) => offsets::fetch(groups.get(&request.group_id), &request),
        Request::OffsetDelete(request) => {
            offsets::delete(groups.get(&request.group_id), &request, cx)
        }
        Request::ListGroups(request) => describe::list(groups, &request),
        Request::DescribeGroups(request) => describe::describe(groups, &request),
        Request::DeleteGroups(request) => describe::delete(groups, request.group_ids, cx),
    };
    cx.reply(token, response);
}

/// Applies a record that this coordinator has just appended. Members are ahead
/// of the log (they are asked to rejoin if it loses them), offsets never are.
fn apply_own(
    groups: &mut BTreeMap<String, Group>,
    record: CoordinatorRecord,
    cx: &mut Context<'_>,
) {
    match record {
        CoordinatorRecord::OffsetCommit {
            group_id,
            topic,
            partition,
            value,
        } => apply_offset(groups, group_id, topic, partition, value),
        CoordinatorRecord::GroupMetadata {
            group_id,
            value: Some(record),
        } => {
            if let Some(group) = groups.get_mut(&group_id) {
                sync::apply_assignment(group, record, cx);
            }
        }
        CoordinatorRecord::GroupMetadata {
            group_id,
            value: None,
        } => {
            if let Some(mut group) = groups.remove(&group_id) {
                group.cancel_timers(cx);
                if !group.offsets.is_empty() {
                    let offsets = std::mem::take(&mut group.offsets);
                    groups.insert(group_id.clone(), Group::with_offsets(&group_id, offsets));
                }
            }
        }
    }
}

fn apply_offset(
    groups: &mut BTreeMap<String, Group>,
    group_id: String,
    topic: String,
    partition: i32,
    value: Option<crate::records::OffsetAndMetadata>,
) {
    if let Some(group) = groups.get_mut(&group_id) {
        group.offsets.apply(topic, partition, value);
    } else if value.is_some() {
        // A group that only stores offsets has no record of its own.
        let mut group = Group::new(&group_id, None);
        group.offsets.apply(topic, partition, value);
        groups.insert(group_id, group);
    }
}

/// Looks for expired offsets from the group after `cursor` on. Gives the group
/// to go on after, if it stopped early.
fn expire(
    groups: &BTreeMap<String, Group>,
    cursor: Option<String>,
    cx: &mut Context<'_>,
) -> Option<String> {
    let from = cursor.map_or(Bound::Unbounded, Bound::Excluded);
    for (id, group) in groups.range::<String, _>((from, Bound::Unbounded)) {
        if group.state == GroupState::Empty || !group.offsets.is_empty() {
            offsets::expire(group, cx);
        }
        if cx.records.len() >= MAX_EXPIRY_RECORDS_PER_STEP {
            return Some(id.clone());
        }
    }
    None
}
