//! BrokerHeartbeat (KIP-631): a broker is there, and says what it wants.

use crate::controller::Node;
use bytes::{Buf, BufMut, BytesMut};
use std::sync::Arc;
use tidemark_model::TopicPartition;
use tidemark_quorum::decide::Heartbeat;
use tidemark_wire::messages::{BrokerHeartbeatRequest, BrokerHeartbeatResponse};
use tidemark_wire::{ErrorCode, Uuid};

/// Tag of the partitions whose logs are damaged.
const DAMAGED: u32 = 10_000;
/// Topic and partition.
const DAMAGED_BYTES: usize = 16 + 4;

/// Adds the partitions whose logs are damaged, if there are any.
pub(crate) fn put_damaged(request: &mut BrokerHeartbeatRequest, damaged: &[TopicPartition]) {
    if damaged.is_empty() {
        return;
    }
    let mut bytes = BytesMut::with_capacity(damaged.len() * DAMAGED_BYTES);
    for at in damaged {
        bytes.put_slice(&at.topic_id.0);
        bytes.put_i32(at.partition);
    }
    request.unknown_tagged_fields.push(DAMAGED, bytes.freeze());
}

fn damaged(request: &BrokerHeartbeatRequest) -> Vec<TopicPartition> {
    let fields = request.unknown_tagged_fields.as_slice();
    let Some((_, bytes)) = fields.iter().find(|(tag, _)| *tag == DAMAGED) else {
        return Vec::new();
    };
    let each = bytes.chunks_exact(DAMAGED_BYTES).map(|mut bytes| {
        let mut id = [0; 16];
        bytes.copy_to_slice(&mut id);
        TopicPartition {
            topic_id: Uuid(id),
            partition: bytes.get_i32(),
        }
    });
    each.collect()
}

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
        damaged: damaged(&request),
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
