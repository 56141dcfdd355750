//! JoinGroup and the join phase: who is in the next generation.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use bytes::Bytes;
use tidemark_wire::{ErrorCode, Uuid};

use crate::context::Context;
use crate::group::{Group, GroupState, InitialRebalance};
use crate::member::Member;
use crate::offsets::MAX_STRING_BYTES;
use crate::records::{CoordinatorRecord, MemberRecord};
use crate::request::{JoinGroup, Token};
use crate::response::{JoinGroupResponse, Response};
use crate::timers::TimerKey;

/// From this version on a new member is first told its id (KIP-394).
const MEMBER_ID_REQUIRED_VERSION: i16 = 4;
/// From this version on a leader can be told to assign nothing (KIP-814).
const SKIP_ASSIGNMENT_VERSION: i16 = 9;
/// What Kafka's clients allow for an instance id, in bytes.
const MAX_INSTANCE_ID_BYTES: usize = 249;
/// How much of a client id goes into the member ids made from it, in bytes.
const MAX_CLIENT_ID_BYTES: usize = 249;
/// Member ids that a group hands out before it waits for some to be used or to expire.
const MAX_PENDING_MEMBERS: usize = 10_000;

/// JoinGroup. The answer comes at once, or when the join phase ends.
pub(crate) fn join(
    groups: &mut BTreeMap<String, Group>,
    mut request: JoinGroup,
    token: Token,
    cx: &mut Context<'_>,
) {
    if let Err(error) = check(&request, cx) {
        return refuse(token, error, &request.member_id, cx);
    }
    keep_own_copies(&mut request);
    if !groups.contains_key(&request.group_id) {
        if !request.member_id.is_empty() {
            return refuse(token, ErrorCode::UnknownMemberId, &request.member_id, cx);
        }
        let group = Group::new(&request.group_id, Some(cx.now_ms));
        if !group.supports(&request.protocol_type, &request.protocols) {
            return refuse(token, ErrorCode::InconsistentGroupProtocol, "", cx);
        }
        // The group must be known after a restart: somebody is about to join it.
        cx.records.push(CoordinatorRecord::GroupMetadata {
            group_id: group.id.clone(),
            value: Some(group.to_record(cx.now_ms, |_| Bytes::new())),
        });
        groups.insert(request.group_id.clone(), group);
    }
    let Some(group) = groups.get_mut(&request.group_id) else {
        return;
    };
    if !accepts(group, &request.member_id, cx) {
        group.remove(&request.member_id, cx);
        maybe_complete_join_phase(group, cx);
        return refuse(token, ErrorCode::GroupMaxSizeReached, "", cx);
    }
    if !group.supports(&request.protocol_type, &request.protocols) {
        let error = ErrorCode::InconsistentGroupProtocol;
        return refuse(token, error, &request.member_id, cx);
    }
    if request.member_id.is_empty() {
        join_new_member(group, request, token, cx);
    } else {
        join_known_member(group, request, token, cx);
    }
}

fn refuse(token: Token, error: ErrorCode, member_id: &str, cx: &mut Context<'_>) {
    let response = JoinGroupResponse::error(error, member_id);
    cx.reply(token, Response::JoinGroup(response));
}

fn check(request: &JoinGroup, cx: &Context<'_>) -> Result<(), ErrorCode> {
    let bounds = cx.config.min_session_timeout_ms..=cx.config.max_session_timeout_ms;
    if request.group_id.is_empty() || request.group_id.len() > MAX_STRING_BYTES {
        return Err(ErrorCode::InvalidGroupId);
    }
    if !bounds.contains(&request.session_timeout_ms) {
        return Err(ErrorCode::InvalidSessionTimeout);
    }
    // What is longer does not fit into the group's record.
    let instance_bytes = request.group_instance_id.as_ref().map_or(0, String::len);
    if instance_bytes > MAX_INSTANCE_ID_BYTES || request.client_host.len() > MAX_STRING_BYTES {
        return Err(ErrorCode::InvalidRequest);
    }
    let mut names = request.protocols.iter().map(|(name, _)| name);
    if request.protocol_type.len() > MAX_STRING_BYTES || names.any(|n| n.len() > MAX_STRING_BYTES) {
        return Err(ErrorCode::InconsistentGroupProtocol);
    }
    Ok(())
}

/// Brings the request into the form that is kept: each protocol once, timeouts
/// filled in, and no slice that keeps the request's buffer alive.
fn keep_own_copies(request: &mut JoinGroup) {
    let mut seen = BTreeSet::new();
    request
        .protocols
        .retain(|(name, _)| seen.insert(name.clone()));
    for (_, metadata) in &mut request.protocols {
        *metadata = Bytes::copy_from_slice(metadata);
    }
    if request.api_version == 0 || request.rebalance_timeout_ms == -1 {
        request.rebalance_timeout_ms = request.session_timeout_ms;
    }
    request.rebalance_timeout_ms = request.rebalance_timeout_ms.max(0);
    truncate(&mut request.client_id, MAX_STRING_BYTES);
}

fn truncate(text: &mut String, max_bytes: usize) {
    if text.len() > max_bytes {
        let end = (0..=max_bytes).rev().find(|i| text.is_char_boundary(*i));
        text.truncate(end.unwrap_or(0));
    }
}

/// Whether there is room. While members rejoin those that came first stay, so
/// the ones already waiting are counted, not the members.
fn accepts(group: &Group, member_id: &str, cx: &Context<'_>) -> bool {
    let member = group.members.get(member_id);
    let room = match group.state {
        GroupState::Empty => true,
        GroupState::PreparingRebalance => {
            member.is_some_and(Member::is_awaiting_join)
                || group.awaiting_join_count() < cx.config.max_size
        }
        GroupState::CompletingRebalance | GroupState::Stable => {
            member.is_some() || group.members.len() < cx.config.max_size
        }
    };
    room && (!member_id.is_empty() || group.pending_join.len() < MAX_PENDING_MEMBERS)
}

/// Kafka's form: what names the member, a dash, and a random UUID.
fn new_member_id(request: &JoinGroup) -> String {
    let named = request.group_instance_id.as_ref();
    let mut id = named.unwrap_or(&request.client_id).clone();
    truncate(&mut id, MAX_CLIENT_ID_BYTES);
    for (index, byte) in Uuid::from_random(request.random.0).0.iter().enumerate() {
        if matches!(index, 0 | 4 | 6 | 8 | 10) {
            id.push('-');
        }
        // Writing to a string cannot fail.
        write!(id, "{byte:02x}").ok();
    }
    id
}

fn join_new_member(group: &mut Group, request: JoinGroup, token: Token, cx: &mut Context<'_>) {
    let member_id = new_member_id(&request);
    if group.members.contains_key(&member_id) || group.pending_join.contains_key(&member_id) {
        // The same random bytes twice: only a broken source of them does that.
        return refuse(token, ErrorCode::CoordinatorNotAvailable, "", cx);
    }
    if let Some(instance_id) = &request.group_instance_id {
        match group.static_members.get(instance_id).cloned() {
            Some(old_id) => replace_static_member(group, &old_id, &member_id, request, token, cx),
            None => add_member(group, &member_id, request, token, cx),
        }
    } else if request.api_version >= MEMBER_ID_REQUIRED_VERSION {
        let mut timer = crate::timers::Timer::default();
        let deadline_ms = cx.now_ms + i64::from(request.session_timeout_ms);
        cx.timers
            .set(&mut timer, deadline_ms, || TimerKey::Session {
                group_id: group.id.clone(),
                member_id: member_id.clone(),
            });
        group.pending_join.insert(member_id.clone(), timer);
        refuse(token, ErrorCode::MemberIdRequired, &member_id, cx);
    } else {
        add_member(group, &member_id, request, token, cx);
    }
}

fn join_known_member(group: &mut Group, request: JoinGroup, token: Token, cx: &mut Context<'_>) {
    let member_id = request.member_id.clone();
    let instance_id = request.group_instance_id.as_deref();
    if instance_id.is_none() && group.pending_join.contains_key(&member_id) {
        return add_member(group, &member_id, request, token, cx);
    }
    if let Err(error) = group.validate_member(&member_id, instance_id) {
        return refuse(token, error, &member_id, cx);
    }
    let unchanged = group
        .members
        .get(&member_id)
        .is_some_and(|m| m.protocols == request.protocols);
    let answer_now = match group.state {
        GroupState::Empty | GroupState::PreparingRebalance => false,
        // It may not have received the first answer.
        GroupState::CompletingRebalance => unchanged,
        // A leader rejoins because it wants to assign anew: topics have changed.
        GroupState::Stable => unchanged && !group.is_leader(&member_id),
    };
    if answer_now {
        let response = group.joined(&member_id);
        return cx.reply(token, Response::JoinGroup(response));
    }
    tracing::info!(group = group.id, member = member_id, reason = ?request.reason, "member rejoins");
    group.update_member(
        &member_id,
        request.protocols,
        request.rebalance_timeout_ms,
        request.session_timeout_ms,
    );
    group.park_join(&member_id, token, cx);
    prepare_rebalance_or_complete_join(group, cx);
}

fn add_member(
    group: &mut Group,
    member_id: &str,
    request: JoinGroup,
    token: Token,
    cx: &mut Context<'_>,
) {
    tracing::info!(group = group.id, member = member_id, reason = ?request.reason, "member joins");
    if group.state == GroupState::PreparingRebalance && group.previous_state == GroupState::Empty {
        group.new_member_added = true;
    }
    if group.members.is_empty() {
        group.protocol_type = Some(request.protocol_type);
    }
    if let Some(mut timer) = group.pending_join.remove(member_id) {
        cx.timers.cancel(&mut timer);
    }
    let record = MemberRecord {
        member_id: member_id.to_owned(),
        instance_id: request.group_instance_id,
        client_id: request.client_id,
        client_host: request.client_host,
        rebalance_timeout_ms: request.rebalance_timeout_ms,
        session_timeout_ms: request.session_timeout_ms,
        subscription: Bytes::new(),
        assignment: Bytes::new(),
    };
    let mut member = Member::from_record(record, "");
    member.protocols = request.protocols;
    member.is_new = true;
    // It cannot send heartbeats before it has an answer, and a client that went
    // away cannot be seen while its request is parked.
    member.restart_session(&group.id, cx.config.new_member_join_timeout_ms, cx);
    group.add(member);
    group.park_join(member_id, token, cx);
    prepare_rebalance_or_complete_join(group, cx);
}

/// A static member that restarted joins without its member id (KIP-345).
fn replace_static_member(
    group: &mut Group,
    old_id: &str,
    new_id: &str,
    request: JoinGroup,
    token: Token,
    cx: &mut Context<'_>,
) {
    tracing::info!(
        group = group.id,
        old = old_id,
        new = new_id,
        "static member restarted"
    );
    let leader_before = group.leader_id.clone().unwrap_or_default();
    group.replace_static_member(old_id, new_id, cx);
    group.update_member(
        new_id,
        request.protocols,
        request.rebalance_timeout_ms,
        request.session_timeout_ms,
    );
    if let Some(member) = group.members.get_mut(new_id) {
        member.is_new = false;
        member.client_id = request.client_id;
        member.client_host = request.client_host;
        member.restart_session(&group.id, request.session_timeout_ms, cx);
    }
    match group.state {
        GroupState::Stable if group.protocol_name == group.select_protocol() => {
            // Nothing changes for the others: only the new id is stored.
            group.subscribed_topics = group.compute_subscribed_topics();
            let record = group.to_record(cx.now_ms, |m| m.assignment.clone());
            cx.records.push(CoordinatorRecord::GroupMetadata {
                group_id: group.id.clone(),
                value: Some(record),
            });
            let mut response = group.joined(new_id);
            if request.api_version >= SKIP_ASSIGNMENT_VERSION {
                response.skip_assignment = group.is_leader(new_id);
            } else {
                // It must not take itself for the leader and assign: the old id is named.
                response.leader = leader_before;
                response.members = Vec::new();
            }
            cx.reply(token, Response::JoinGroup(response));
        }
        GroupState::Stable | GroupState::CompletingRebalance => {
            // The leader may be assigning to the old id at this moment.
            group.park_join(new_id, token, cx);
            prepare_rebalance(group, cx);
        }
        GroupState::PreparingRebalance | GroupState::Empty => {
            group.park_join(new_id, token, cx);
            maybe_complete_join_phase(group, cx);
        }
    }
}

/// Begins a rebalance, or ends the join phase of the one under way if it can.
pub(crate) fn prepare_rebalance_or_complete_join(group: &mut Group, cx: &mut Context<'_>) {
    if group.state == GroupState::PreparingRebalance {
        maybe_complete_join_phase(group, cx);
    } else {
        prepare_rebalance(group, cx);
    }
}

/// Begins a rebalance: members learn of it from their heartbeats and rejoin.
pub(crate) fn prepare_rebalance(group: &mut Group, cx: &mut Context<'_>) {
    if group.state == GroupState::CompletingRebalance {
        for member in group.members.values_mut() {
            member.assignment = Bytes::new();
        }
        group.answer_syncs(ErrorCode::RebalanceInProgress, cx);
    }
    group.pending_sync.clear();
    cx.timers.cancel(&mut group.sync_timer);
    let is_initial = group.state == GroupState::Empty;
    group.transition_to(GroupState::PreparingRebalance, cx.now_ms);
    if is_initial {
        let delay_ms = i64::from(cx.config.initial_rebalance_delay_ms.max(0));
        group.new_member_added = false;
        group.initial = Some(InitialRebalance {
            delay_ms,
            remaining_ms: (group.rebalance_timeout_ms() - delay_ms).max(0),
        });
        arm_join_timer(group, delay_ms, cx);
    } else if group.has_all_members_joined() {
        complete_join(group, cx);
    } else {
        arm_join_timer(group, group.rebalance_timeout_ms(), cx);
    }
}

fn arm_join_timer(group: &mut Group, after_ms: i64, cx: &mut Context<'_>) {
    let key = TimerKey::Join {
        group_id: group.id.clone(),
    };
    cx.timers.cancel(&mut group.join_timer);
    cx.timers
        .set(&mut group.join_timer, cx.now_ms + after_ms, || key);
}

/// Ends the join phase if all members have joined. The first rebalance of an
/// empty group always waits for its delay.
pub(crate) fn maybe_complete_join_phase(group: &mut Group, cx: &mut Context<'_>) {
    if group.state == GroupState::PreparingRebalance
        && group.previous_state != GroupState::Empty
        && group.has_all_members_joined()
    {
        complete_join(group, cx);
    }
}

/// The join timer has run out.
pub(crate) fn on_join_timeout(group: &mut Group, cx: &mut Context<'_>) {
    if group.state != GroupState::PreparingRebalance {
        return;
    }
    match group.initial {
        Some(initial) if group.new_member_added && initial.remaining_ms > 0 => {
            // Members keep coming: wait on, but not past the rebalance timeout.
            let configured_ms = i64::from(cx.config.initial_rebalance_delay_ms.max(0));
            let delay_ms = configured_ms.min(initial.remaining_ms);
            group.new_member_added = false;
            group.initial = Some(InitialRebalance {
                delay_ms,
                remaining_ms: (initial.remaining_ms - initial.delay_ms).max(0),
            });
            arm_join_timer(group, delay_ms, cx);
        }
        _ => complete_join(group, cx),
    }
}

/// Ends the join phase: who has not rejoined is out, and the next generation
/// begins. Static members stay until their session ends.
pub(crate) fn complete_join(group: &mut Group, cx: &mut Context<'_>) {
    cx.timers.cancel(&mut group.join_timer);
    group.initial = None;
    let gone: Vec<String> = group
        .members
        .values()
        .filter(|m| !m.is_awaiting_join() && m.instance_id.is_none())
        .map(|m| m.id.clone())
        .collect();
    for member_id in &gone {
        group.remove(member_id, cx);
    }
    if !gone.is_empty() {
        tracing::info!(group = group.id, members = ?gone, "members did not rejoin in time");
    }
    if !group.members.is_empty() && !group.elect_joined_leader() {
        // Only static members are left and none is back: wait for them, or for
        // their sessions to end. At least a moment, whatever timeout they asked for.
        return arm_join_timer(group, group.rebalance_timeout_ms().max(1_000), cx);
    }
    group.init_next_generation(cx.now_ms);
    tracing::info!(
        group = group.id,
        generation = group.generation_id,
        members = group.members.len(),
        "new generation"
    );
    if group.state == GroupState::Empty {
        let record = group.to_record(cx.now_ms, |_| Bytes::new());
        return cx.records.push(CoordinatorRecord::GroupMetadata {
            group_id: group.id.clone(),
            value: Some(record),
        });
    }
    let member_ids: Vec<String> = group.members.keys().cloned().collect();
    for member_id in member_ids {
        let response = group.joined(&member_id);
        group.answer_join(&member_id, response, cx);
        if let Some(member) = group.members.get_mut(&member_id) {
            member.is_new = false;
            let timeout_ms = member.session_timeout_ms;
            member.restart_session(&group.id, timeout_ms, cx);
        }
        group.pending_sync.insert(member_id);
    }
    let key = TimerKey::Sync {
        group_id: group.id.clone(),
    };
    let deadline_ms = cx.now_ms + group.rebalance_timeout_ms();
    cx.timers.cancel(&mut group.sync_timer);
    cx.timers.set(&mut group.sync_timer, deadline_ms, || key);
}
