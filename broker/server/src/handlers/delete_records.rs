//! DeleteRecords (KIP-107): moves the start of partitions up; answered when that is durable, and so
//! on every live replica.

use super::prelude::*;
use crate::fetch::{Signal, Subscription};
use crate::partition::{Partition, Wants, error_code};
use std::time::Duration;
use tidemark_env::clock::{self, Instant};
use tidemark_log::LogError;
use tidemark_wire::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use tidemark_wire::messages::{DeleteRecordsRequest, DeleteRecordsResponse};

/// Stands for the high watermark.
const UP_TO_HIGH_WATERMARK: i64 = -1;
const ANY_EPOCH: i32 = -1;

pub(crate) async fn handle(
    broker: &Arc<Broker>,
    _: &Context,
    request: DeleteRecordsRequest,
) -> DeleteRecordsResponse {
    let image = broker.image();
    let timeout = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
    let deadline = clock::monotonic() + timeout;
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let found = image.topic(&topic.name);
        let internal = found.is_some_and(|found| found.is_internal());
        let id = found.map(|found| found.id);
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in topic.partitions {
            let partition = id
                .ok_or(ErrorCode::UnknownTopicOrPartition)
                .and_then(|id| broker.partitions.find(&image, id, asked.partition_index));
            let deleted = match partition {
                // Its records are the state of groups.
                Ok(_) if internal => Err(ErrorCode::InvalidTopicException),
                Ok(partition) => delete(broker, partition, asked.offset, deadline).await,
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

async fn delete(
    broker: &Broker,
    partition: Arc<Partition>,
    offset: i64,
    deadline: Instant,
) -> Result<i64, ErrorCode> {
    if !partition.policy().settings.cleanup_delete {
        // A compacted topic's records go by their keys.
        return Err(ErrorCode::PolicyViolation);
    }
    let closed = ErrorCode::NotLeaderOrFollower;
    let (_, bounds) = partition.leading(ANY_EPOCH)?;
    if let Some(tier) = &broker.tier
        && partition.policy().settings.remote_storage_enable
    {
        let target = match offset {
            UP_TO_HIGH_WATERMARK => bounds.high_watermark,
            offset => offset,
        };
        if target < 0 || target > bounds.high_watermark {
            return Err(ErrorCode::OffsetOutOfRange);
        }
        // First where they would come back from.
        let deleted = clock::timeout(
            deadline.saturating_duration_since(clock::monotonic()),
            tier.delete_records(&partition, target),
        );
        match deleted.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(topic = %partition.topic, partition = partition.index, error, "records are not deleted from the bucket");
                return Err(ErrorCode::KafkaStorageError);
            }
            Err(_) => return Err(ErrorCode::RequestTimedOut),
        }
        if target < bounds.log_start {
            return Ok(target);
        }
    }
    let (lsn, target) = partition
        .with_log(|log, high_watermark| {
            let target = if offset == UP_TO_HIGH_WATERMARK {
                *high_watermark
            } else {
                offset
            };
            if target < 0 || target > *high_watermark {
                return Err(ErrorCode::OffsetOutOfRange);
            }
            let lsn = log.delete_records(target);
            let lsn = lsn.map_err(|error: LogError| error_code(&error))?;
            Ok((lsn, target))
        })
        .map_err(|_| closed)??;
    partition.log_start_moved();
    if let Some(lsn) = lsn {
        let durable = partition.dir().wal.when_durable(lsn).await;
        durable.map_err(|_| ErrorCode::KafkaStorageError)?;
    }
    let signal = Signal::new();
    let partition = Subscription::new(partition, Arc::clone(&signal), 0, Wants::LowWatermark);
    loop {
        let low = partition.partition.low_watermark().ok_or(closed)?;
        if low >= target {
            return Ok(low);
        }
        signal.take();
        tokio::select! {
            () = signal.changed() => {}
            () = clock::sleep_until(deadline) => return Err(ErrorCode::RequestTimedOut),
        }
    }
}
