//! OffsetForLeaderEpoch (KIP-101, KIP-320): where an epoch ends in this leader's log.

use super::prelude::*;
use tidemark_wire::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use tidemark_wire::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};

pub(crate) async fn handle(
    broker: &Arc<Broker>,
    _: &Context,
    request: OffsetForLeaderEpochRequest,
) -> OffsetForLeaderEpochResponse {
    let image = broker.image();
    let topics = request.topics.into_iter().map(|topic| {
        let id = image.topic(&topic.topic).map(|found| found.id);
        let partitions = topic.partitions.into_iter().map(|asked| {
            let refused = |error: ErrorCode| EpochEndOffset {
                error_code: error.code(),
                partition: asked.partition,
                ..Default::default()
            };
            let partition = match id
                .ok_or(ErrorCode::UnknownTopicOrPartition)
                .and_then(|id| broker.partitions.find(&image, id, asked.partition))
            {
                Ok(partition) => partition,
                Err(error) => return refused(error),
            };
            match partition.epoch_end(asked.current_leader_epoch, asked.leader_epoch) {
                Err(error) => refused(error),
                // The end of the log, not the high watermark: a new leader may know less of that
                // than consumers have read, and they would go back to it.
                Ok(Some(end)) => EpochEndOffset {
                    partition: asked.partition,
                    leader_epoch: end.epoch,
                    end_offset: end.end_offset,
                    ..Default::default()
                },
                Ok(None) => refused(ErrorCode::None),
            }
        });
        OffsetForLeaderTopicResult {
            partitions: partitions.collect(),
            topic: topic.topic,
            ..Default::default()
        }
    });
    OffsetForLeaderEpochResponse {
        topics: topics.collect(),
        ..Default::default()
    }
}
