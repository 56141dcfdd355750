//! DeleteRecords (KIP-107): moves the start of partitions up; answered when that is durable.

use super::prelude::*;
use crate::partition::{Partition, error_code};
use tidemark_log::LogError;
use tidemark_wire::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use tidemark_wire::messages::{DeleteRecordsRequest, DeleteRecordsResponse};

/// Stands for the high watermark.
const UP_TO_HIGH_WATERMARK: i64 = -1;

pub(crate) async fn handle(
    broker: &Arc<Broker>,
    _: &Context,
    request: DeleteRecordsRequest,
) -> DeleteRecordsResponse {
    let image = broker.image();
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let found = image.topic(&topic.name);
        let internal = found.is_some_and(|found| found.is_internal());
        let id = found.map(|found| found.id);
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in topic.partitions {
            let partition = id
                .ok_or(ErrorCode::UnknownTopicOrPartition)
                .and_then(|id| broker.partitions.find(id, asked.partition_index));
            let deleted = match partition {
                // Its records are the state of groups.
                Ok(_) if internal => Err(ErrorCode::InvalidTopicException),
                Ok(partition) => delete(partition, asked.offset).await,
                Err(error) => Err(error),
            };
            partitions.push(DeleteRecordsPartitionResult {
                partition_index: asked.partition_index,
                low_watermark: deleted.unwrap_or(-1),
                error_code: deleted.err().unwrap_or_default().code(),
                ..Default::default()
            });
        }
        topics.push(DeleteRecordsTopicResult {
            name: topic.name,
            partitions,
            ..Default::default()
        });
    }
    DeleteRecordsResponse {
        topics,
        ..Default::default()
    }
}

async fn delete(partition: Arc<Partition>, offset: i64) -> Result<i64, ErrorCode> {
    if !partition.policy().settings.cleanup_delete {
        // A compacted topic's records go by their keys.
        return Err(ErrorCode::PolicyViolation);
    }
    let lsn = partition
        .with_log(|log, high_watermark| {
            let target = if offset == UP_TO_HIGH_WATERMARK {
                *high_watermark
            } else {
                offset
            };
            if target < 0 || target > *high_watermark {
                return Err(ErrorCode::OffsetOutOfRange);
            }
            log.delete_records(target)
                .map_err(|error: LogError| error_code(&error))
        })
        .map_err(|_| ErrorCode::NotLeaderOrFollower)??;
    partition.log_start_moved();
    if let Some(lsn) = lsn {
        let durable = partition.dir().wal.when_durable(lsn).await;
        durable.map_err(|_| ErrorCode::KafkaStorageError)?;
    }
    partition
        .bounds()
        .map(|bounds| bounds.log_start)
        .map_err(|_| ErrorCode::NotLeaderOrFollower)
}
