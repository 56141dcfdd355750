//! Backups of compacted partitions: the whole of one, reduced to the last record of each key, takes
//! the place of the one before.
//!
//! **Invariant:** a backup is all that the high watermark covered when it began, or it is not named
//! by a manifest. Local records are never deleted because of it.

use super::upload::{READ_BYTES, Trouble, led};
use super::{Known, Pace, Tier, id_of};
use crate::broker::Broker;
use crate::partition::Partition;
use bytes::Bytes;
use std::sync::Arc;
use tidemark_env::{clock, task};
use tidemark_log::ReadError;
use tidemark_model::LeaderEpoch;
use tidemark_records::compact::{Newest, Reducer};
use tidemark_records::{Batch, Limits};
use tidemark_tier::SegmentRef;
use tidemark_tier::upload::Upload;

/// Of its time a partition spends one part in so many on backups at most,
const SHARE: i64 = 10;
/// but pauses no longer than so many bytes of its log for each millisecond make: a bucket that hung
/// over a small one is no reason to have none for long.
const BYTES_PER_MS: i64 = 1 << 10;
/// What stays of so many bytes goes out at once.
const PIECE_BYTES: usize = 1 << 20;

impl Tier {
    /// Makes a backup where one is due: when something was written since the last one and has
    /// waited for `tier.upload.max.lag.ms`.
    pub(super) async fn back_up(
        &self,
        broker: &Broker,
        partition: &Arc<Partition>,
        pace: &mut Pace,
    ) -> Result<(), Trouble> {
        let epoch = led(partition)?;
        let known = self.find_backup(partition, epoch).await?;
        let bounds = partition.bounds().map_err(|_| Trouble::NotLed)?;
        let upper = bounds.high_watermark.min(bounds.durable);
        let now_ms = clock::steady_ms();
        if pace.end != known.manifest.end_offset {
            pace.end = known.manifest.end_offset;
            partition.cold.is_behind(false, now_ms);
        }
        let since_ms = partition.cold.is_behind(upper > pace.end, now_ms);
        if upper <= pace.end {
            return self.sweep_backups(broker, partition, known, pace).await;
        }
        if now_ms - since_ms < self.settings.upload_max_lag_ms || now_ms < pace.backup_ms {
            return Ok(());
        }
        self.check_named(partition, &known).await?;
        let entries = self
            .upload_whole(broker, partition, &known, (bounds.log_start, upper))
            .await?;
        let done_ms = clock::steady_ms();
        let log_bytes = partition.with_log(|log, _| log.size_bytes());
        let log_bytes = i64::try_from(log_bytes.unwrap_or(0)).unwrap_or(i64::MAX);
        let pause_ms = (done_ms - now_ms).max(0) * (SHARE - 1);
        pace.backup_ms = done_ms + pause_ms.min(log_bytes / BYTES_PER_MS);
        let objects = entries.len();
        let chunked = self.chunked(partition, &known).await?;
        let known = self
            .write(partition, &known, |next| {
                next.replace(bounds.log_start, entries, &chunked, clock::now_ms());
            })
            .await?;
        tracing::debug!(
            topic = %partition.topic, partition = partition.index, to = upper, objects,
            "backed up"
        );
        partition.cold.is_behind(false, now_ms);
        self.sweep_backups(broker, partition, known, pace).await
    }

    async fn sweep_backups(
        &self,
        broker: &Broker,
        partition: &Arc<Partition>,
        known: Known,
        pace: &mut Pace,
    ) -> Result<(), Trouble> {
        let now_ms = clock::steady_ms();
        let mut known = known;
        if now_ms >= pace.retention_due_ms {
            let interval_ms = broker.settings().log_retention_check_interval_ms;
            pace.retention_due_ms = now_ms + interval_ms;
            if known.crc32.is_some() {
                known = self.sweep(partition, known).await?;
            }
        }
        self.sweep_orphans(partition, &known, pace).await
    }

    /// The entries that are in chunks: more of them than a manifest holds, in a very large backup.
    async fn chunked(
        &self,
        partition: &Partition,
        known: &Known,
    ) -> Result<Vec<SegmentRef>, Trouble> {
        let mut entries = Vec::new();
        for chunk in &known.manifest.chunks {
            let found = self.reader.chunk(id_of(partition), chunk).await?;
            entries.extend(found.segments.iter().cloned());
        }
        Ok(entries)
    }

    /// The newest backup, as the leader of `epoch` finds it.
    async fn find_backup(
        &self,
        partition: &Arc<Partition>,
        epoch: LeaderEpoch,
    ) -> Result<Known, Trouble> {
        if let Some(known) = partition.cold.known().filter(|known| known.is_of(epoch)) {
            return Ok(known);
        }
        let known = self.newest(partition, epoch, 0).await?;
        self.publish(partition, &known);
        Ok(known)
    }

    /// Uploads what stays of the partition between two offsets.
    async fn upload_whole(
        &self,
        broker: &Broker,
        partition: &Arc<Partition>,
        known: &Known,
        (from, to): (i64, i64),
    ) -> Result<Vec<SegmentRef>, Trouble> {
        self.check_owner().await?;
        let writer = self.writer(known.epoch)?;
        let mut newest = Newest::default();
        let mut at = from;
        while at < to {
            let batches;
            (batches, at) = read(partition, at, to).await?;
            for batch in &batches {
                newest
                    .note(batch, Limits::default())
                    .map_err(|error| Trouble::Log(error.to_string()))?;
            }
        }
        let begin = |base_offset| {
            Upload::new(
                &self.bucket,
                (&partition.topic.name, id_of(partition)),
                base_offset,
                (writer.generation, writer.leader_epoch),
            )
        };
        let most_bytes = u64::from(partition.policy().log.segment_bytes);
        let mut reducer = Reducer::new(&newest, from, Limits::default());
        let (mut entries, mut upload, mut out) = (Vec::new(), begin(from), Vec::new());
        let mut at = from;
        let mut filled = Ok(());
        while at < to && filled.is_ok() {
            let batches;
            (batches, at) = match read(partition, at, to).await {
                Ok(read) => read,
                Err(trouble) => {
                    filled = Err(trouble);
                    break;
                }
            };
            for batch in &batches {
                if let Err(error) = reducer.reduce(batch, &mut out, |_| None) {
                    filled = Err(Trouble::Log(error.to_string()));
                }
            }
            if out.len() >= PIECE_BYTES && filled.is_ok() {
                let piece = Bytes::from(std::mem::take(&mut out));
                filled = upload.add(&piece).await.map_err(Trouble::from);
                if filled.is_ok() && upload.log_bytes() >= most_bytes {
                    let next = begin(upload.end_offset());
                    entries.push(std::mem::replace(&mut upload, next).finish().await?);
                }
            }
        }
        if filled.is_ok() {
            reducer.finish(&mut out);
            filled = upload.add(&out.into()).await.map_err(Trouble::from);
        }
        // What was read belongs to that leadership.
        if filled.is_ok() && led(partition).ok() != Some(known.epoch) {
            filled = Err(Trouble::NotLed);
        }
        if let Err(trouble) = filled {
            upload.abort().await;
            return Err(trouble);
        }
        match upload.log_bytes() {
            0 => upload.abort().await,
            _ => entries.push(upload.finish().await?),
        }
        let bytes = entries.iter().map(|entry| entry.size_bytes).sum();
        broker.metrics.tier_uploaded(bytes);
        Ok(entries)
    }
}

/// The next batches from `at` on, and the offset after them.
async fn read(partition: &Partition, at: i64, to: i64) -> Result<(Vec<Batch>, i64), Trouble> {
    let failed = |error: ReadError| match error {
        ReadError::OutOfRange { log_start, .. } if log_start > at => Trouble::Deleted,
        error => Trouble::Log(error.to_string()),
    };
    let plan = partition.with_log(|log, _| log.read_plan(at, READ_BYTES, to, true));
    let plan = plan.map_err(|_| Trouble::NotLed)?.map_err(failed)?;
    let loaded = task::blocking(move || plan.load())
        .await
        .map_err(|error| Trouble::Log(error.to_string()))?;
    let loaded = loaded.map_err(failed)?;
    if loaded.next_offset <= at {
        // A backup that lacks records must not count.
        return Err(Trouble::Log(format!(
            "nothing can be read from offset {at} on, below {to}"
        )));
    }
    let mut bytes = loaded.records;
    let mut batches = Vec::new();
    while let Some(batch) =
        Batch::split_first(&mut bytes).map_err(|error| Trouble::Log(error.to_string()))?
    {
        batches.push(batch);
    }
    Ok((batches, loaded.next_offset))
}
