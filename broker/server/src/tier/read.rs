//! Reads from the bucket: for fetches, which do not wait here, and by time.

use super::{Known, Tier, id_of, lock};
use crate::broker::Broker;
use crate::partition::Partition;
use futures_util::FutureExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tidemark_env::disk::Disk;
use tidemark_env::{clock, task};
use tidemark_tier::reader::{ColdRecords, Timed};
use tidemark_tier::{PartitionId, Place, Reader, SegmentRef, Shelf, TierError};
use tidemark_wire::ErrorCode;

/// What a fetch finds in the bucket.
pub(crate) enum ColdRead {
    Records(ColdRecords),
    /// Not yet: who watches the partition is told when it is worth looking again.
    Wait,
    OutOfRange,
    Failed(ErrorCode),
}

impl Tier {
    /// What the bucket has from `offset` on, if it is in memory; else it is on its way then.
    pub(crate) fn read(
        self: &Arc<Self>,
        broker: &Arc<Broker>,
        partition: &Arc<Partition>,
        offset: i64,
        max_bytes: usize,
    ) -> ColdRead {
        let cold = &partition.cold;
        let Some(known) = cold.known() else {
            // Whoever tends it finds out.
            let troubled = [&self.troubled, &cold.troubled];
            return match troubled.iter().any(|is| is.load(Ordering::Acquire)) {
                true => ColdRead::Failed(ErrorCode::KafkaStorageError),
                false => ColdRead::Wait,
            };
        };
        if offset < known.manifest.start_offset {
            return ColdRead::OutOfRange;
        }
        if offset >= known.manifest.end_offset {
            // Found out before the last of it was uploaded, in another epoch.
            return match cold.troubled.load(Ordering::Acquire) {
                true => ColdRead::Failed(ErrorCode::KafkaStorageError),
                false => ColdRead::Wait,
            };
        }
        if lock(&cold.failed).remove(&offset) {
            return ColdRead::Failed(ErrorCode::KafkaStorageError);
        }
        if lock(&cold.coming).contains(&offset) {
            return ColdRead::Wait;
        }
        let max_bytes = max_bytes as u64;
        let reading = find_and_read(
            self.reader.clone(),
            known,
            id_of(partition),
            offset,
            max_bytes,
        );
        let mut reading = Box::pin(reading);
        match (&mut reading).now_or_never() {
            Some(Ok(records)) => {
                broker.metrics.tier_read(records.bytes.len() as u64);
                return ColdRead::Records(records);
            }
            Some(Err(error)) => {
                failed(broker, partition, Some(offset), &error);
                return ColdRead::Failed(ErrorCode::KafkaStorageError);
            }
            None => {}
        }
        lock(&cold.coming).insert(offset);
        let (broker, partition) = (Arc::clone(broker), Arc::clone(partition));
        drop(task::spawn("tier-read", async move {
            let read = reading.await;
            if let Err(error) = read {
                lock(&partition.cold.failed).insert(offset);
                failed(&broker, &partition, Some(offset), &error);
            }
            lock(&partition.cold.coming).remove(&offset);
            partition.log_start_moved();
        }));
        ColdRead::Wait
    }

    /// The first record below `below` with a timestamp of `timestamp_ms` or later, if the bucket
    /// has it.
    ///
    /// # Errors
    /// [`ErrorCode::OffsetNotAvailable`]: it cannot be told now.
    pub(crate) async fn find_by_time(
        &self,
        broker: &Broker,
        partition: &Partition,
        timestamp_ms: i64,
        below: i64,
    ) -> Result<Option<Timed>, ErrorCode> {
        // What was found out in another epoch may end too early: it is not known what lies between.
        let known = partition.cold.known();
        let known = known.filter(|known| below <= known.manifest.end_offset);
        let known = known.ok_or(ErrorCode::OffsetNotAvailable)?;
        let found = self.search_by_time(&known, id_of(partition), timestamp_ms, below);
        found.await.map_err(|error| {
            failed(broker, partition, None, &error);
            ErrorCode::OffsetNotAvailable
        })
    }

    async fn search_by_time(
        &self,
        known: &Known,
        id: PartitionId,
        timestamp_ms: i64,
        below: i64,
    ) -> Result<Option<Timed>, TierError> {
        let start = known.manifest.start_offset;
        // An object may hold such a record only below the start, or cut off: the next one then.
        let mut from = start;
        while let Some(place) = known.manifest.find_by_time_from(timestamp_ms, from) {
            let entry = match place {
                Place::Segment(entry) => entry.clone(),
                Place::Chunk(chunk) => {
                    let loaded = self.reader.chunk(id, chunk).await?;
                    let fits = |entry: &&SegmentRef| {
                        entry.max_timestamp_ms >= timestamp_ms && entry.end_offset > from
                    };
                    match loaded.segments.iter().find(fits) {
                        Some(entry) => entry.clone(),
                        None => {
                            from = chunk.end_offset;
                            continue;
                        }
                    }
                }
            };
            if entry.base_offset >= below {
                return Ok(None);
            }
            let found = self
                .reader
                .find_by_time(id, &entry, start, timestamp_ms)
                .await?;
            if let Some(found) = found {
                return Ok(Some(found).filter(|found| found.offset < below));
            }
            from = entry.end_offset;
        }
        Ok(None)
    }
}

/// Counts it, and says so once a minute: readers ask again, and there may be many.
fn failed(broker: &Broker, partition: &Partition, offset: Option<i64>, error: &TierError) {
    broker.metrics.tier_failed(error.outcome());
    if partition.cold.is_news(clock::steady_ms()) {
        tracing::warn!(topic = %partition.topic, partition = partition.index, offset, %error, "not read from the bucket; readers are told to ask again");
    }
    if matches!(error, TierError::NotFound { .. }) {
        // Deleted since: the newest manifest tells what is there.
        partition.cold.look_again();
    }
}

async fn find_and_read(
    reader: Reader,
    known: Known,
    id: tidemark_tier::PartitionId,
    offset: i64,
    max_bytes: u64,
) -> Result<ColdRecords, TierError> {
    let missing = || TierError::Damaged {
        key: id.manifest(known.manifest.sequence),
        reason: format!("it names no object for offset {offset}"),
    };
    match known.manifest.find(offset) {
        Some(Place::Segment(entry)) => {
            let next = match known.manifest.find(entry.end_offset) {
                Some(Place::Segment(next)) => Some(next),
                Some(Place::Chunk(_)) | None => None,
            };
            reader.read(id, (entry, next), offset, max_bytes).await
        }
        Some(Place::Chunk(chunk)) => {
            let chunk = reader.chunk(id, chunk).await?;
            let after = chunk
                .segments
                .partition_point(|entry| entry.base_offset <= offset);
            let entry = after.checked_sub(1).and_then(|at| chunk.segments.get(at));
            let both = (entry.ok_or_else(missing)?, chunk.segments.get(after));
            reader.read(id, both, offset, max_bytes).await
        }
        None => Err(missing()),
    }
}

/// The folder of what was read from the bucket, in the first data directory.
const SHELF: &str = "tier-cache";

/// Room on disk for what was read from the bucket, if there is to be some. What an earlier process
/// left there goes. Blocks.
pub(crate) fn shelf(disk: &Arc<dyn Disk>, dirs: &[PathBuf], capacity_bytes: i64) -> Option<Shelf> {
    let dir = dirs.first()?.join(SHELF);
    let opened = match u64::try_from(capacity_bytes) {
        Ok(capacity_bytes) if capacity_bytes > 0 => {
            Shelf::open(Arc::clone(disk), dir.clone(), capacity_bytes).map(Some)
        }
        _ => match disk.exists(&dir) {
            Ok(true) => disk.remove_dir_all(&dir).map(|()| None),
            there => there.map(|_| None),
        },
    };
    opened.unwrap_or_else(|error| {
        tracing::warn!(%error, dir = %dir.display(), "what is read from the bucket is not kept on disk");
        None
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Cold, TELL_AGAIN_MS};

    #[test]
    fn that_the_bucket_fails_readers_is_told_once_a_minute() {
        let cold = Cold::default();
        let told: Vec<i64> = (0..3 * TELL_AGAIN_MS)
            .step_by(100)
            .filter(|now_ms| cold.is_news(*now_ms))
            .collect();
        assert_eq!(told, [0, TELL_AGAIN_MS, 2 * TELL_AGAIN_MS]);
    }
}
