//! SyncGroup: the leader's assignment in, every member's share out.

use super::prelude::*;
use tidemark_coordinator as request;
use tidemark_wire::messages::{SyncGroupRequest, SyncGroupResponse};

pub(crate) async fn handle(
    broker: &Arc<Broker>,
    context: &Context,
    asked: SyncGroupRequest,
) -> SyncGroupResponse {
    let request = Request::SyncGroup(request::SyncGroup {
        api_version: context.version,
        group_id: asked.group_id,
        generation_id: asked.generation_id,
        member_id: asked.member_id,
        group_instance_id: asked.group_instance_id,
        protocol_type: asked.protocol_type,
        protocol_name: asked.protocol_name,
        assignments: asked
            .assignments
            .into_iter()
            .map(|a| (a.member_id, a.assignment))
            .collect(),
    });
    let Response::SyncGroup(synced) = broker.groups.ask(broker, request).await else {
        return SyncGroupResponse {
            error_code: MISMATCH.code(),
            ..Default::default()
        };
    };
    SyncGroupResponse {
        error_code: synced.error.code(),
        protocol_type: synced.protocol_type,
        protocol_name: synced.protocol_name,
        assignment: synced.assignment,
        ..Default::default()
    }
}
