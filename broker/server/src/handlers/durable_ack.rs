//! DurableAck, a private request: a follower says what it has on its disk, which may commit what
//! producers wait for.

use super::prelude::*;
use tidemark_env::wake;
use tidemark_replication::DurableReport;
use tidemark_wire::messages::{DurableAckRequest, DurableAckResponse};

pub(crate) async fn handle(
    broker: &Arc<Broker>,
    _: &Context,
    request: DurableAckRequest,
) -> DurableAckResponse {
    let image = broker.image();
    let known = image.broker(request.broker_id);
    if known.is_none_or(|known| known.epoch != request.broker_epoch) {
        return DurableAckResponse {
            error_code: ErrorCode::StaleBrokerEpoch.code(),
            ..Default::default()
        };
    }
    // What it commits wakes many of the same threads.
    wake::together(|| {
        for topic in &request.topics {
            for said in &topic.partitions {
                let Some(partition) = broker.partitions.get(topic.topic_id, said.partition) else {
                    continue;
                };
                let report = DurableReport {
                    durable_end: said.durable_end,
                    leader_epoch: said.leader_epoch,
                    broker_epoch: request.broker_epoch,
                    generation: said.generation,
                };
                partition.durable_ack(request.broker_id, report);
            }
        }
    });
    if request.wants_to_fetch {
        let impatience = broker.partitions.replicas().impatience(request.broker_id);
        impatience.notify_one();
    }
    DurableAckResponse::default()
}
