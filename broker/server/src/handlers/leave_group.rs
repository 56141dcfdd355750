//! LeaveGroup: one member below version 3, several from it on (KIP-345).

use super::prelude::*;
use tidemark_coordinator::{self as request, LeavingMember};
use tidemark_wire::messages::leave_group_response::MemberResponse;
use tidemark_wire::messages::{LeaveGroupRequest, LeaveGroupResponse};

pub(crate) async fn handle(
    broker: &Arc<Broker>,
    context: &Context,
    asked: LeaveGroupRequest,
) -> LeaveGroupResponse {
    let batch = context.version >= 3;
    let members = if batch {
        let member =
            |m: tidemark_wire::messages::leave_group_request::MemberIdentity| LeavingMember {
                member_id: m.member_id,
                group_instance_id: m.group_instance_id,
                reason: m.reason,
            };
        asked.members.into_iter().map(member).collect()
    } else {
        vec![LeavingMember {
            member_id: asked.member_id,
            group_instance_id: None,
            reason: None,
        }]
    };
    let request = Request::LeaveGroup(request::LeaveGroup {
        group_id: asked.group_id,
        members,
    });
    let Response::LeaveGroup(left) = broker.groups.ask(broker, request).await else {
        return LeaveGroupResponse {
            error_code: MISMATCH.code(),
            ..Default::default()
        };
    };
    if !batch {
        return LeaveGroupResponse {
            error_code: left.single_error().code(),
            ..Default::default()
        };
    }
    let members = left.members.into_iter().map(|member| MemberResponse {
        member_id: member.member_id,
        group_instance_id: member.group_instance_id,
        error_code: member.error.code(),
        ..Default::default()
    });
    LeaveGroupResponse {
        error_code: left.error.code(),
        members: members.collect(),
        ..Default::default()
    }
}
