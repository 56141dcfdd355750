//! SyncGroup, Heartbeat, LeaveGroup, and members that do not come back.

use std::collections::BTreeMap;

use bytes::Bytes;
use tidemark_wire::ErrorCode;

use crate::context::Context;
use crate::group::{Group, GroupState};
use crate::join::{
    complete_join, maybe_complete_join_phase, prepare_rebalance, prepare_rebalance_or_complete_join,
};
use crate::records::{CoordinatorRecord, GroupRecord};
use crate::request::{Heartbeat, LeaveGroup, LeavingMember, SyncGroup, Token};
use crate::response::{LeaveGroupResponse, LeftMember, Response, SyncGroupResponse};

/// From this version on protocol type and name must be given (KIP-559).
const MANDATORY_PROTOCOL_VERSION: i16 = 5;

/// SyncGroup. The leader's is stored and then answers all.
pub(crate) fn sync(
    group: Option<&mut Group>,
    request: SyncGroup,
    token: Token,
    cx: &mut Context<'_>,
) {
    let refuse = |error, cx: &mut Context<'_>| {
        cx.reply(token, Response::SyncGroup(SyncGroupResponse::error(error)));
    };
    let group = match validate_sync(group, &request) {
        Ok(group) => group,
        Err(error) => return refuse(error, cx),
    };
    match group.state {
        GroupState::Empty => refuse(ErrorCode::UnknownMemberId, cx),
        GroupState::PreparingRebalance => refuse(ErrorCode::RebalanceInProgress, cx),
        GroupState::CompletingRebalance => {
            group.park_sync(&request.member_id, token, cx);
            remove_pending_sync(group, &request.member_id, cx);
            if group.is_leader(&request.member_id) {
                store_assignment(group, request, cx);
            }
        }
        GroupState::Stable => {
            remove_pending_sync(group, &request.member_id, cx);
            let Some(member) = group.members.get_mut(&request.member_id) else {
                return refuse(ErrorCode::UnknownMemberId, cx);
            };
            let timeout_ms = member.session_timeout_ms;
            member.restart_session(&group.id, timeout_ms, cx);
            let response = SyncGroupResponse {
                error: ErrorCode::None,
                protocol_type: group.protocol_type.clone(),
                protocol_name: group.protocol_name.clone(),
                assignment: member.assignment.clone(),
            };
            cx.reply(token, Response::SyncGroup(response));
        }
    }
}

fn validate_sync<'g>(
    group: Option<&'g mut Group>,
    request: &SyncGroup,
) -> Result<&'g mut Group, ErrorCode> {
    if request.group_id.is_empty() {
        return Err(ErrorCode::InvalidGroupId);
    }
    let named = request.protocol_type.is_some() && request.protocol_name.is_some();
    if request.api_version >= MANDATORY_PROTOCOL_VERSION && !named {
        return Err(ErrorCode::InconsistentGroupProtocol);
    }
    let group = group.ok_or(ErrorCode::UnknownMemberId)?;
    group.validate_member(&request.member_id, request.group_instance_id.as_deref())?;
    if request.generation_id != group.generation_id {
        return Err(ErrorCode::IllegalGeneration);
    }
    let differs =
        |asked: &Option<String>, actual: &Option<String>| asked.is_some() && asked != actual;
    if differs(&request.protocol_type, &group.protocol_type)
        || differs(&request.protocol_name, &group.protocol_name)
    {
        return Err(ErrorCode::InconsistentGroupProtocol);
    }
    Ok(group)
}

fn remove_pending_sync(group: &mut Group, member_id: &str, cx: &mut Context<'_>) {
    group.pending_sync.remove(member_id);
    if group.pending_sync.is_empty() {
        cx.timers.cancel(&mut group.sync_timer);
    }
}

fn store_assignment(group: &mut Group, request: SyncGroup, cx: &mut Context<'_>) {
    let assignments: BTreeMap<String, Bytes> = request.assignments.into_iter().collect();
    let record = group.to_record(cx.now_ms, |member| {
        let assignment = assignments.get(&member.id);
        // A copy, so that one slice does not keep the leader's whole request alive.
        assignment.map_or_else(Bytes::new, |a| Bytes::copy_from_slice(a))
    });
    if record.size_bytes() > cx.config.max_group_record_bytes {
        tracing::warn!(
            group = group.id,
            bytes = record.size_bytes(),
            "assignment does not fit into a record of the offsets topic"
        );
        // What Kafka answers when the append is refused for its size.
        group.answer_syncs(ErrorCode::UnknownServerError, cx);
        return prepare_rebalance(group, cx);
    }
    cx.records.push(CoordinatorRecord::GroupMetadata {
        group_id: group.id.clone(),
        value: Some(record),
    });
}

/// The leader's assignment is in the log: it becomes the members'.
pub(crate) fn apply_assignment(group: &mut Group, record: GroupRecord, cx: &mut Context<'_>) {
    let current = group.generation_id == record.generation_id;
    if group.state != GroupState::CompletingRebalance || !current {
        return;
    }
    for stored in record.members {
        if let Some(member) = group.members.get_mut(&stored.member_id) {
            member.assignment = stored.assignment;
        }
    }
    group.transition_to(GroupState::Stable, cx.now_ms);
    group.answer_syncs(ErrorCode::None, cx);
}

/// Heartbeat. Keeps the session and tells of a rebalance.
pub(crate) fn heartbeat(
    group: Option<&mut Group>,
    request: &Heartbeat,
    cx: &mut Context<'_>,
) -> ErrorCode {
    if request.group_id.is_empty() {
        return ErrorCode::InvalidGroupId;
    }
    let Some(group) = group else {
        return ErrorCode::UnknownMemberId;
    };
    let instance_id = request.group_instance_id.as_deref();
    if let Err(error) = group.validate_member(&request.member_id, instance_id) {
        return error;
    }
    if request.generation_id != group.generation_id {
        return ErrorCode::IllegalGeneration;
    }
    if let Some(member) = group.members.get_mut(&request.member_id) {
        let timeout_ms = member.session_timeout_ms;
        member.restart_session(&group.id, timeout_ms, cx);
    }
    if group.state == GroupState::PreparingRebalance {
        ErrorCode::RebalanceInProgress
    } else {
        ErrorCode::None
    }
}

/// LeaveGroup, of any number of members.
pub(crate) fn leave(
    group: Option<&mut Group>,
    request: LeaveGroup,
    cx: &mut Context<'_>,
) -> Response {
    let mut response = LeaveGroupResponse {
        error: ErrorCode::None,
        members: Vec::with_capacity(request.members.len()),
    };
    if request.group_id.is_empty() {
        response.error = ErrorCode::InvalidGroupId;
        return Response::LeaveGroup(response);
    }
    let mut group = group;
    let mut any_left = false;
    for leaving in request.members {
        let error = match &mut group {
            None => ErrorCode::UnknownMemberId,
            Some(group) => leave_one(group, &leaving, cx),
        };
        any_left |= error == ErrorCode::None;
        response.members.push(LeftMember {
            member_id: leaving.member_id,
            group_instance_id: leaving.group_instance_id,
            error,
        });
    }
    if let (Some(group), true) = (group, any_left) {
        match group.state {
            GroupState::Empty => {}
            GroupState::PreparingRebalance => maybe_complete_join_phase(group, cx),
            GroupState::CompletingRebalance | GroupState::Stable => {
                prepare_rebalance_or_complete_join(group, cx);
            }
        }
    }
    Response::LeaveGroup(response)
}

fn leave_one(group: &mut Group, leaving: &LeavingMember, cx: &mut Context<'_>) -> ErrorCode {
    let instance_id = leaving.group_instance_id.as_deref();
    let member_id = if leaving.member_id.is_empty() {
        // An administrator removes a static member by its instance id alone.
        match instance_id.and_then(|i| group.static_members.get(i)) {
            Some(member_id) => member_id.clone(),
            None => return ErrorCode::UnknownMemberId,
        }
    } else if group.pending_join.contains_key(&leaving.member_id) {
        leaving.member_id.clone()
    } else {
        if let Err(error) = group.validate_member(&leaving.member_id, instance_id) {
            return error;
        }
        leaving.member_id.clone()
    };
    tracing::info!(group = group.id, member = member_id, reason = ?leaving.reason, "member leaves");
    group.remove(&member_id, cx);
    ErrorCode::None
}

/// The session of a member (or of a member id never used) has run out. The
/// caller has made sure that no parked request stands for the heartbeat.
pub(crate) fn on_session_timeout(group: &mut Group, member_id: &str, cx: &mut Context<'_>) {
    let was_member = group.members.contains_key(member_id);
    tracing::info!(group = group.id, member = member_id, "session timed out");
    group.remove(member_id, cx);
    match group.state {
        GroupState::Empty => {}
        GroupState::PreparingRebalance => {
            if group.has_all_members_joined() {
                complete_join(group, cx);
            }
        }
        GroupState::CompletingRebalance | GroupState::Stable => {
            if was_member {
                prepare_rebalance(group, cx);
            }
        }
    }
}

/// Members that joined but did not fetch their assignment in time are out.
pub(crate) fn on_sync_timeout(group: &mut Group, cx: &mut Context<'_>) {
    let in_sync_phase = matches!(
        group.state,
        GroupState::CompletingRebalance | GroupState::Stable
    );
    if !in_sync_phase || group.pending_sync.is_empty() {
        return;
    }
    let silent = std::mem::take(&mut group.pending_sync);
    tracing::info!(group = group.id, members = ?silent, "members did not sync in time");
    for member_id in &silent {
        group.remove(member_id, cx);
    }
    prepare_rebalance(group, cx);
}
