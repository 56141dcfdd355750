//! BrokerHeartbeat (KIP-631): a broker is there, and says what it wants.

use crate::controller::Node;
use std::sync::Arc;
use tidemark_quorum::decide::Heartbeat;
use tidemark_wire::ErrorCode;
use tidemark_wire::messages::{BrokerHeartbeatRequest, BrokerHeartbeatResponse};

pub(crate) async fn handle(
    node: &Arc<Node>,
    request: BrokerHeartbeatRequest,
) -> BrokerHeartbeatResponse {
    let beat = Heartbeat {
        broker_id: request.broker_id,
        broker_epoch: request.broker_epoch,
        image_index: u64::try_from(request.current_metadata_offset).unwrap_or(0),
        want_fence: request.want_fence,
        want_shutdown: request.want_shut_down,
    };
    let refuse = |code: ErrorCode| BrokerHeartbeatResponse {
        error_code: code.code(),
        ..Default::default()
    };
    match node.heartbeat(beat).await {
        Ok(Ok(answer)) => BrokerHeartbeatResponse {
            is_caught_up: answer.is_caught_up,
            is_fenced: answer.is_fenced,
            should_shut_down: answer.should_shut_down,
            ..Default::default()
        },
        Ok(Err(refusal)) => refuse(refusal.code),
        Err(error) => refuse(error.error_code()),
    }
}
