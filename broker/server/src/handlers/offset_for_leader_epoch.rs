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
    let replica_id = request.replica_id;
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
            let known = asked.current_leader_epoch;
            let end = partition.leading(known).and_then(|(_, bounds)| {
                Ok((partition.epoch_end(known, asked.leader_epoch)?, bounds))
            });
            match end {
                Err(error) => refused(error),
                // For a consumer the current epoch ends where it may read to.
                Ok((Some(end), bounds)) => EpochEndOffset {
                    partition: asked.partition,
                    leader_epoch: end.epoch,
                    end_offset: match replica_id >= 0 {
                        true => end.end_offset,
                        false => end.end_offset.min(bounds.high_watermark),
                    },
                    ..Default::default()
                },
                Ok((None, _)) => refused(ErrorCode::None),
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
