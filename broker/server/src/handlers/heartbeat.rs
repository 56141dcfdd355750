//! Heartbeat: stay a member, and hear of rebalances.

use super::prelude::*;
use tidemark_coordinator as request;
use tidemark_wire::messages::{HeartbeatRequest, HeartbeatResponse};

pub(crate) async fn handle(
    broker: &Arc<Broker>,
    _: &Context,
    asked: HeartbeatRequest,
) -> HeartbeatResponse {
    let request = Request::Heartbeat(request::Heartbeat {
        group_id: asked.group_id,
        generation_id: asked.generation_id,
        member_id: asked.member_id,
        group_instance_id: asked.group_instance_id,
    });
    let error = match broker.groups.ask(broker, request).await {
        Response::Heartbeat(error) => error,
        _ => MISMATCH,
    };
    HeartbeatResponse {
        error_code: error.code(),
        ..Default::default()
    }
}
