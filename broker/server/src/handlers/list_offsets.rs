//! ListOffsets: offsets by time, and the special timestamps.

use super::prelude::*;
use crate::partition::Partition;
use tidemark_env::task;
use tidemark_log::{ReadError, TimestampTarget};
use tidemark_wire::messages::list_offsets_request::ListOffsetsPartition;
use tidemark_wire::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use tidemark_wire::messages::{ListOffsetsRequest, ListOffsetsResponse};

/// From here on an offset comes with its leader epoch (KIP-320).
const FIRST_VERSION_OF_EPOCHS: i16 = 4;
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
/// The record with the largest timestamp (KIP-734), from version 7.
const MAX_TIMESTAMP: i64 = -3;
/// The first offset on local disk (KIP-405), from version 8.
const EARLIEST_LOCAL: i64 = -4;
/// The last offset in remote storage (KIP-1005), from version 9.
const LATEST_TIERED: i64 = -5;
/// The first offset that is not in remote storage (KIP-1023), from version 11.
const EARLIEST_PENDING_UPLOAD: i64 = -6;

/// Timestamp, offset and leader epoch of what was found; -1 each when there is no such record.
struct Found {
    timestamp: i64,
    offset: i64,
    leader_epoch: i32,
}

const NOTHING: Found = Found {
    timestamp: -1,
    offset: -1,
    leader_epoch: -1,
};

pub(crate) async fn handle(
    broker: &Arc<Broker>,
    context: &Context,
    request: ListOffsetsRequest,
) -> ListOffsetsResponse {
    let image = broker.image();
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let id = image.topic(&topic.name).map(|found| found.id);
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in topic.partitions {
            let partition = id
                .ok_or(ErrorCode::UnknownTopicOrPartition)
                .and_then(|id| broker.partitions.find(&image, id, asked.partition_index));
            let found = match partition {
                Ok(partition) => {
                    let version = context.version;
                    find(broker, &partition, version, &asked, request.replica_id).await
                }
                Err(error) => Err(error),
            };
            let partition_index = asked.partition_index;
            partitions.push(match found {
                Ok(found) => ListOffsetsPartitionResponse {
                    partition_index,
                    timestamp: found.timestamp,
                    offset: found.offset,
                    leader_epoch: if context.version >= FIRST_VERSION_OF_EPOCHS {
                        found.leader_epoch
                    } else {
                        -1
                    },
                    ..Default::default()
                },
                Err(error) => ListOffsetsPartitionResponse {
                    partition_index,
                    error_code: error.code(),
                    ..Default::default()
                },
            });
        }
        topics.push(ListOffsetsTopicResponse {
            name: topic.name,
            partitions,
            ..Default::default()
        });
    }
    ListOffsetsResponse {
        topics,
        ..Default::default()
    }
}

async fn find(
    broker: &Broker,
    partition: &Arc<Partition>,
    version: i16,
    asked: &ListOffsetsPartition,
    replica_id: i32,
) -> Result<Found, ErrorCode> {
    let closed = ErrorCode::NotLeaderOrFollower;
    let (leader_epoch, bounds) = partition.leading(asked.current_leader_epoch)?;
    let at = |offset: i64| {
        let epoch = partition
            .with_log(|log, _| log.epochs().epoch_at(offset))
            .map_err(|_| closed)?;
        Ok(Found {
            timestamp: -1,
            offset,
            leader_epoch: epoch.unwrap_or(leader_epoch),
        })
    };
    let needs = |first: i16| {
        if version >= first {
            Ok(())
        } else {
            Err(ErrorCode::UnsupportedVersion)
        }
    };
    let target = match asked.timestamp {
        // There are no transactions yet: what is committed is stable. Followers go on to the end.
        LATEST => {
            let offset = match replica_id >= 0 {
                true => bounds.end,
                false => partition.latest_offset(asked.current_leader_epoch)?,
            };
            return Ok(Found {
                timestamp: -1,
                offset,
                leader_epoch,
            });
        }
        EARLIEST => {
            let start = partition.start_above(bounds.log_start);
            return match start.ok_or(ErrorCode::OffsetNotAvailable)? {
                start if start < bounds.log_start => Ok(Found {
                    timestamp: -1,
                    offset: start,
                    leader_epoch: partition.cold.epoch_at(start).unwrap_or(-1),
                }),
                start => at(start),
            };
        }
        EARLIEST_LOCAL => return needs(8).and_then(|()| at(bounds.log_start)),
        LATEST_TIERED => {
            needs(9)?;
            return Ok(match partition.cold.range() {
                Some((start, end)) if end > start => Found {
                    timestamp: -1,
                    offset: end - 1,
                    leader_epoch: partition.cold.epoch_at(end - 1).unwrap_or(-1),
                },
                _ => NOTHING,
            });
        }
        EARLIEST_PENDING_UPLOAD => {
            needs(11)?;
            let end = partition.cold.range().map_or(0, |(_, end)| end);
            return at(end.max(bounds.log_start));
        }
        MAX_TIMESTAMP => {
            needs(7)?;
            TimestampTarget::Max
        }
        timestamp if timestamp >= 0 => TimestampTarget::AtOrAfter(timestamp),
        _ => return Err(ErrorCode::InvalidRequest),
    };
    if let (TimestampTarget::AtOrAfter(timestamp), Some(tier)) = (target, &broker.tier)
        && bounds.log_start > 0
        && partition.policy().settings.remote_storage_enable
    {
        let found = tier.find_by_time(broker, partition, timestamp, bounds.log_start);
        if let Some(found) = found.await? {
            return Ok(Found {
                timestamp: found.timestamp_ms,
                offset: found.offset,
                leader_epoch: found.leader_epoch,
            });
        }
    }
    // A new leader may not know yet of all that is committed: that nothing is so young, it cannot say.
    let knows_all = partition.latest_offset(asked.current_leader_epoch);
    let plan = partition
        .with_log(|log, high_watermark| log.timestamp_plan(target, *high_watermark))
        .map_err(|_| closed)?;
    // Looks into indexes and batches of any age: not on a net thread.
    match task::blocking(move || plan.run()).await {
        Ok(Ok(Some(found))) => Ok(Found {
            timestamp: found.timestamp_ms,
            offset: found.offset,
            leader_epoch: found.leader_epoch,
        }),
        Ok(Ok(None)) => knows_all.map(|_| NOTHING),
        Ok(Err(ReadError::Stale)) => Err(closed),
        Ok(Err(error)) => {
            tracing::warn!(topic = %partition.topic, partition = partition.index, %error, "no offset by time");
            Err(ErrorCode::KafkaStorageError)
        }
        Err(_) => Err(ErrorCode::UnknownServerError),
    }
}
