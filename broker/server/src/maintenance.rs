//! Work that goes on beside the data path: retention, removal of deleted files, forgetting silent
//! producers. One partition at a time, on a thread of its own.

use crate::broker::Broker;
use crate::partition::Partition;
use std::sync::Arc;
use std::time::Duration;
use tidemark_env::{clock, task};
use tidemark_log::{Deletions, LogError};
use tokio::sync::watch;

/// Files of deleted segments are looked at this often at least: their delay is a minute by default.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Starts the task. Retention runs every `log.retention.check.interval.ms`.
pub(crate) fn start(broker: &Arc<Broker>, mut stop: watch::Receiver<bool>) {
    let broker = Arc::clone(broker);
    drop(task::spawn("maintenance", async move {
        let mut last_retention = clock::monotonic();
        loop {
            let interval_ms = broker.settings().log_retention_check_interval_ms;
            let interval = Duration::from_millis(u64::try_from(interval_ms).unwrap_or(1).max(1));
            tokio::select! {
                () = clock::sleep(interval.min(LONGEST_PAUSE)) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let retention = last_retention.elapsed() >= interval;
            if retention {
                last_retention = clock::monotonic();
            }
            let partitions = broker.partitions.all();
            let round = task::blocking(move || {
                for partition in partitions {
                    if let Err(error) = tend(&partition, retention) {
                        tracing::error!(
                            topic = %partition.topic, partition = partition.index, %error,
                            "retention failed"
                        );
                    }
                }
            });
            if let Err(error) = round.await {
                tracing::error!(%error, "maintenance ended early");
            }
        }
    }));
}

/// Tends one partition. Blocks.
fn tend(partition: &Arc<Partition>, retention: bool) -> Result<(), LogError> {
    let now_ms = clock::now_ms();
    // Retention deletes what is in files.
    if retention && partition.with_log(|log, _| log.retention_waits_for_files(now_ms)) == Ok(true) {
        partition.write_behind(u64::MAX).map_err(LogError::Io)?;
    }
    let deletable = partition.deletable();
    let planned = partition.with_log(|log, high_watermark| {
        let mut deleted = 0;
        if retention {
            log.expire_producers(now_ms);
            let report = log.apply_retention_below(now_ms, *high_watermark, deletable)?;
            deleted = report.deleted_segments;
            if deleted > 0 {
                tracing::info!(
                    topic = %partition.topic, partition = partition.index,
                    segments = deleted, bytes = report.deleted_bytes, log_start = log.log_start_offset(),
                    "deleted old segments"
                );
            }
        }
        let due = log.take_due_deletions(now_ms);
        Ok::<_, LogError>((deleted, due))
    });
    // Closed meanwhile: there is nothing left to tend.
    let Ok(planned) = planned else { return Ok(()) };
    let (deleted, due) = planned?;
    // An idle partition holds no file open, and little memory.
    partition.rest();
    if deleted > 0 {
        partition.log_start_moved();
    }
    due.into_iter().for_each(Deletions::run);
    Ok(())
}
