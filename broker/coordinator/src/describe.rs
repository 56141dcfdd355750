//! Listing, describing and deleting groups.

use std::collections::BTreeMap;

use bytes::Bytes;
use tidemark_wire::ErrorCode;

use crate::context::Context;
use crate::group::{Group, GroupState};
use crate::offsets;
use crate::records::CoordinatorRecord;
use crate::request::{DescribeGroups, ListGroups};
use crate::response::{DescribedGroup, DescribedMember, ListGroupsResponse, ListedGroup, Response};

/// The one type of group that this coordinator has, as Kafka writes it.
const CLASSIC: &str = "classic";
/// From this version on an unknown group is an error (KIP-1043).
const UNKNOWN_GROUP_ERROR_VERSION: i16 = 6;

/// ListGroups.
pub(crate) fn list(groups: &BTreeMap<String, Group>, request: &ListGroups) -> Response {
    let passes = |filter: &[String], value: &str| {
        filter.is_empty() || filter.iter().any(|f| f.trim().eq_ignore_ascii_case(value))
    };
    let listed = groups
        .values()
        .filter(|g| {
            passes(&request.states_filter, g.state.name()) && passes(&request.types_filter, CLASSIC)
        })
        .map(|g| ListedGroup {
            group_id: g.id.clone(),
            protocol_type: g.protocol_type.clone().unwrap_or_default(),
            state: g.state.name(),
            group_type: CLASSIC,
        });
    Response::ListGroups(ListGroupsResponse {
        error: ErrorCode::None,
        groups: listed.collect(),
    })
}

/// DescribeGroups.
pub(crate) fn describe(groups: &BTreeMap<String, Group>, request: &DescribeGroups) -> Response {
    let described = request.group_ids.iter().map(|id| match groups.get(id) {
        Some(group) => describe_one(group),
        None if request.api_version >= UNKNOWN_GROUP_ERROR_VERSION => {
            let message = format!("Group {id} not found.");
            DescribedGroup::refused(id.clone(), ErrorCode::GroupIdNotFound, Some(message))
        }
        None => DescribedGroup::refused(id.clone(), ErrorCode::None, None),
    });
    Response::DescribeGroups(described.collect())
}

fn describe_one(group: &Group) -> DescribedGroup {
    let is_stable = group.state == GroupState::Stable;
    let protocol = group.protocol_name.as_deref().filter(|_| is_stable);
    let members = group.members.values().map(|m| DescribedMember {
        member_id: m.id.clone(),
        group_instance_id: m.instance_id.clone(),
        client_id: m.client_id.clone(),
        client_host: m.client_host.clone(),
        metadata: protocol.map_or_else(Bytes::new, |p| m.metadata(Some(p))),
        assignment: m.assignment.clone(),
    });
    DescribedGroup {
        group_id: group.id.clone(),
        error: ErrorCode::None,
        error_message: None,
        state: group.state.name(),
        protocol_type: group.protocol_type.clone().unwrap_or_default(),
        protocol: protocol.unwrap_or_default().to_owned(),
        members: members.collect(),
    }
}

/// DeleteGroups: the records that forget empty groups and all that is theirs.
pub(crate) fn delete(
    groups: &BTreeMap<String, Group>,
    group_ids: Vec<String>,
    cx: &mut Context<'_>,
) -> Response {
    let mut results: Vec<(String, ErrorCode)> = Vec::with_capacity(group_ids.len());
    let mut seen: BTreeMap<String, ErrorCode> = BTreeMap::new();
    for id in group_ids {
        // A group named twice is deleted once.
        let error = match (seen.get(&id).copied(), groups.get(&id)) {
            (Some(error), _) => error,
            (None, None) => ErrorCode::GroupIdNotFound,
            (None, Some(group)) if group.state != GroupState::Empty => ErrorCode::NonEmptyGroup,
            (None, Some(group)) => {
                offsets::forget_all(group, cx);
                cx.records.push(CoordinatorRecord::GroupMetadata {
                    group_id: id.clone(),
                    value: None,
                });
                ErrorCode::None
            }
        };
        seen.insert(id.clone(), error);
        results.push((id, error));
    }
    Response::DeleteGroups(results)
}
