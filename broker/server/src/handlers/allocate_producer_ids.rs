//! AllocateProducerIds (KIP-730): a broker takes a block of producer ids.

use crate::controller::Node;
use std::sync::Arc;
use tidemark_wire::ErrorCode;
use tidemark_wire::messages::{AllocateProducerIdsRequest, AllocateProducerIdsResponse};

pub(crate) async fn handle(
    node: &Arc<Node>,
    request: AllocateProducerIdsRequest,
) -> AllocateProducerIdsResponse {
    let refuse = |code: ErrorCode| AllocateProducerIdsResponse {
        error_code: code.code(),
        ..Default::default()
    };
    let taken = node.allocate_producer_ids(request.broker_id, request.broker_epoch);
    match taken.await {
        Ok(Ok(block)) => AllocateProducerIdsResponse {
            producer_id_start: block.first,
            producer_id_len: i32::try_from(block.count).unwrap_or(i32::MAX),
            ..Default::default()
        },
        Ok(Err(refusal)) => refuse(refusal.code),
        Err(error) => refuse(error.error_code()),
    }
}
