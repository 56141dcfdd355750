//! The partition that groups are kept in, as its leader of one epoch sees it.
//!
//! **Invariant:** nothing of it is used in another epoch. Offsets below which all was committed in
//! one may hold another leader's records in the next.

use crate::partition::{Acks, Bounds, NotServed, Partition, refused};
use std::sync::Arc;
use std::time::Duration;
use tidemark_coordinator::{GroupConfig, GroupCoordinator, LogRecord, ReplayError};
use tidemark_env::clock;
use tidemark_log::{AppendError, ReadError};
use tidemark_model::LeaderEpoch;
use tidemark_records::{Batch, BatchBuilder, BatchError, BatchOptions, Limits, RecordRef};
use tidemark_wire::ErrorCode;

/// Read at once while loading.
const LOAD_BYTES: usize = 1 << 20;

/// Why a coordinator could not be loaded.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error("this broker does not lead the partition any more")]
    NotLed,
    #[error("the log failed: {0}")]
    Failed(String),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Batch(#[from] BatchError),
    #[error(transparent)]
    Replay(#[from] ReplayError),
}

/// A partition of `__consumer_offsets` that this broker leads, or has led.
pub(super) struct GroupLog {
    partition: Arc<Partition>,
    leader_epoch: LeaderEpoch,
}

impl GroupLog {
    pub(super) fn new(partition: Arc<Partition>, leader_epoch: LeaderEpoch) -> GroupLog {
        GroupLog {
            partition,
            leader_epoch,
        }
    }

    pub(super) fn index(&self) -> i32 {
        self.partition.index
    }

    pub(super) fn is_of(&self, partition: &Arc<Partition>, leader_epoch: LeaderEpoch) -> bool {
        Arc::ptr_eq(&self.partition, partition) && self.leader_epoch == leader_epoch
    }

    /// Where it begins and ends, while this broker leads it in the epoch and serves.
    pub(super) fn bounds(&self) -> Option<Bounds> {
        let led = self.partition.leading(self.leader_epoch).ok()?;
        Some(led.1)
    }

    /// Waits until this broker has begun to serve as the leader, or will not, at most for
    /// `timeout`.
    pub(super) async fn wait_serving(&self, timeout: Duration) {
        let acks = Arc::new(Acks::new(1));
        self.partition.when_serving(&acks);
        acks.wait(timeout).await;
    }

    /// Why it takes no more records, if so.
    pub(super) fn failure(&self) -> Option<String> {
        self.partition.failure()
    }

    /// Waits until the high watermark reaches `target`, or never will, at most for `timeout`.
    pub(super) async fn wait_committed(&self, target: i64, timeout: Duration) {
        let acks = Arc::new(Acks::new(1));
        self.partition.when_committed(target, &acks);
        acks.wait(timeout).await;
    }

    /// Appends records as one batch, in the epoch or not at all; gives the offset of the last.
    pub(super) fn append(&self, records: &[LogRecord]) -> Result<i64, ErrorCode> {
        let now_ms = clock::now_ms();
        let mut builder = BatchBuilder::new(BatchOptions::default());
        for record in records {
            let record = RecordRef {
                timestamp_ms: now_ms,
                key: Some(&record.key),
                value: record.value.as_deref(),
                headers: &[],
            };
            builder
                .append(&record)
                .map_err(|_| ErrorCode::MessageTooLarge)?;
        }
        let mut bytes = builder.build().map_err(|_| ErrorCode::UnknownServerError)?;
        let batch = Batch::split_first(&mut bytes)
            .ok()
            .flatten()
            .ok_or(ErrorCode::UnknownServerError)?;
        match self.partition.append_in(self.leader_epoch, &batch, now_ms) {
            Err(NotServed::Closed) => Err(ErrorCode::NotLeaderOrFollower),
            Err(NotServed::Refused(refusal)) => Err(refused(refusal)),
            Ok(Ok(appended)) => Ok(appended.last_offset),
            Ok(Err(AppendError::TooLarge { .. })) => Err(ErrorCode::MessageTooLarge),
            Ok(Err(_)) => Err(ErrorCode::KafkaStorageError),
        }
    }

    /// Replays the log from its start to `end` into a new coordinator; all of it must be durable.
    /// `go_on` is asked now and then. Blocks.
    pub(super) fn replay(
        &self,
        config: GroupConfig,
        end: i64,
        go_on: impl Fn() -> bool,
    ) -> Result<GroupCoordinator, LoadError> {
        let mut coordinator = GroupCoordinator::new(config);
        let mut at = self.bounds().ok_or(LoadError::NotLed)?.log_start;
        while at < end {
            if !go_on() || self.bounds().is_none() {
                return Err(LoadError::NotLed);
            }
            let plan = self
                .partition
                .with_log(|log, _| log.read_plan(at, LOAD_BYTES, end, true));
            let read = plan.map_err(|_| LoadError::NotLed)??.load()?;
            if read.next_offset <= at {
                // A coordinator that lacks records must not serve.
                return Err(LoadError::Failed(format!(
                    "nothing can be read from offset {at} on, and it ends at {end}"
                )));
            }
            let mut bytes = read.records;
            while let Some(batch) = Batch::split_first(&mut bytes)? {
                if batch.header.is_control() {
                    continue;
                }
                for record in batch.records(Limits::default())? {
                    let record = record?;
                    if let Some(key) = &record.key
                        && record.offset >= at
                    {
                        coordinator.replay(record.offset, key, record.value.as_ref())?;
                    }
                }
            }
            at = read.next_offset;
        }
        Ok(coordinator)
    }
}
