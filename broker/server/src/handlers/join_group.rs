//! JoinGroup: become a member of a classic group.

use super::prelude::*;
use tidemark_coordinator as request;
use tidemark_wire::messages::join_group_response::JoinGroupResponseMember;
use tidemark_wire::messages::{JoinGroupRequest, JoinGroupResponse};

pub(crate) async fn handle(
    broker: &Arc<Broker>,
    context: &Context,
    asked: JoinGroupRequest,
) -> JoinGroupResponse {
    let request = Request::JoinGroup(request::JoinGroup {
        api_version: context.version,
        group_id: asked.group_id,
        member_id: asked.member_id,
        group_instance_id: asked.group_instance_id,
        client_id: context.client_id.clone(),
        client_host: format!("/{}", context.peer.ip()),
        session_timeout_ms: asked.session_timeout_ms,
        rebalance_timeout_ms: asked.rebalance_timeout_ms,
        protocol_type: asked.protocol_type,
        protocols: asked
            .protocols
            .into_iter()
            .map(|p| (p.name, p.metadata))
            .collect(),
        reason: asked.reason,
        random: random_uuid(),
    });
    let Response::JoinGroup(joined) = broker.groups.ask(broker, request).await else {
        return JoinGroupResponse {
            error_code: MISMATCH.code(),
            ..Default::default()
        };
    };
    let protocol_name = match joined.protocol_name {
        // Versions below 7 cannot say null.
        None if context.version < 7 => Some(String::new()),
        name => name,
    };
    let members = joined
        .members
        .into_iter()
        .map(|member| JoinGroupResponseMember {
            member_id: member.member_id,
            group_instance_id: member.group_instance_id,
            metadata: member.metadata,
            ..Default::default()
        });
    JoinGroupResponse {
        error_code: joined.error.code(),
        generation_id: joined.generation_id,
        protocol_type: joined.protocol_type,
        protocol_name,
        leader: joined.leader,
        skip_assignment: joined.skip_assignment,
        member_id: joined.member_id,
        members: members.collect(),
        ..Default::default()
    }
}
