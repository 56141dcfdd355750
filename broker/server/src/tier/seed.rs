//! What a partition begins with that came back from a bucket and keeps all of its records here: the
//! last backup becomes its first segments, on every replica, before it is opened.
//!
//! **Invariant:** only replicas in ISR or ELR begin so, all with the same records: those of the
//! backup that the restore found. A later one is of a log that others have as it was written. A
//! replica that lost its disk later, or that waits when it is taken out, copies its leader's log.

use super::{PAUSE_MS, Tier, longer};
use crate::broker::Broker;
use crate::partition::segment_file;
use crate::restore::RESTORE_EPOCH;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use tidemark_env::disk::OpenMode;
use tidemark_env::{clock, task};
use tidemark_model::{BrokerId, LeaderEpoch, Partition, TopicId};
use tidemark_tier::restore::{self, Pieces};
use tidemark_tier::{PartitionId, TierError, layout};

/// How a partition's first records fare.
#[derive(Debug, Default)]
pub(super) struct Seeding {
    running: bool,
    /// Not before this, by the clock that does not jump.
    next_ms: i64,
    pause_ms: i64,
    trouble: Option<String>,
}

/// Why they are not there.
#[derive(Debug, thiserror::Error)]
enum SeedError {
    #[error(transparent)]
    Tier(#[from] TierError),
    #[error("its first records cannot be written: {0}")]
    Disk(#[from] std::io::Error),
    #[error("its first records cannot be written: {0}")]
    Task(String),
    #[error(
        "leader epoch {0} has made another backup since, and this replica still counts as one that \
         has all records"
    )]
    WentOn(LeaderEpoch),
}

/// Whether a replica that holds nothing begins with the backup that a manifest tells of: it is by
/// the leader of epoch `made_in`, the manifest by that of `told_in`.
fn may_begin_with(
    state: &Partition,
    me: BrokerId,
    (made_in, told_in): (LeaderEpoch, LeaderEpoch),
) -> bool {
    // Who was made the leader since, at the risk of losing records, has nobody to copy from.
    made_in == RESTORE_EPOCH || state.leader == me && state.leader_epoch > told_in
}

impl Tier {
    /// Fetches the first records of partitions that wait for them, a few at a time.
    pub(super) fn seed(self: &Arc<Self>, broker: &Arc<Broker>) {
        let now_ms = clock::steady_ms();
        for (topic_id, index) in broker.partitions.unseeded() {
            {
                let mut seeding = self.seeding.lock().unwrap_or_else(PoisonError::into_inner);
                let seeding = seeding.entry((topic_id, index)).or_default();
                if seeding.running || now_ms < seeding.next_ms {
                    continue;
                }
                seeding.running = true;
            }
            let (tier, broker) = (Arc::clone(self), Arc::clone(broker));
            drop(task::spawn("tier-seed", async move {
                let Ok(_permit) = tier.uploads.acquire().await else {
                    return;
                };
                let seeded = tier.seed_one(&broker, topic_id, index).await;
                tier.seeding_done(&broker, (topic_id, index), seeded);
            }));
        }
    }

    /// Why the first records of a partition did not come when they were fetched last.
    pub(crate) fn seeding_trouble(&self, topic_id: TopicId, index: i32) -> Option<String> {
        let all = self.seeding.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&(topic_id, index))?.trouble.clone()
    }

    fn seeding_done(
        &self,
        broker: &Arc<Broker>,
        (topic_id, index): (TopicId, i32),
        seeded: Result<(), SeedError>,
    ) {
        let mut all = self.seeding.lock().unwrap_or_else(PoisonError::into_inner);
        match seeded {
            Ok(()) => {
                all.remove(&(topic_id, index));
            }
            Err(error) => {
                let seeding = all.entry((topic_id, index)).or_default();
                let text = error.to_string();
                if seeding.trouble.as_ref() != Some(&text) {
                    let image = broker.image();
                    let topic = image.topic_by_id(topic_id).map(|topic| topic.name.clone());
                    let topic = topic.unwrap_or_default();
                    tracing::error!(%topic, partition = index, error = text, "a partition that comes back from the bucket is not served yet");
                }
                seeding.trouble = Some(text);
                seeding.running = false;
                seeding.pause_ms = longer(seeding.pause_ms).min(*PAUSE_MS.end());
                seeding.next_ms = clock::steady_ms() + seeding.pause_ms;
            }
        }
    }

    async fn seed_one(
        &self,
        broker: &Arc<Broker>,
        topic_id: TopicId,
        index: i32,
    ) -> Result<(), SeedError> {
        let image = broker.image();
        let name = image.topic_by_id(topic_id).map(|topic| topic.name.clone());
        let registry = Arc::clone(&broker.partitions);
        let dir = registry.seed_directory(name.as_deref().unwrap_or("deleted"), index);
        let disk = Arc::clone(registry.disk());
        let emptied = dir.clone();
        blocking(move || {
            if disk.exists(&emptied)? {
                disk.remove_dir_all(&emptied)?;
            }
            disk.create_dir_all(&emptied)
        })
        .await?;
        if name.is_some() {
            self.fetch_backup(broker, topic_id, index, &dir).await?;
        }
        let settings = broker.settings();
        let of_groups = Arc::clone(broker);
        let there = blocking(move || {
            registry.seeded(topic_id, index, &dir, &settings, |image| {
                of_groups.groups.apply(&of_groups, image, image);
            })
        })
        .await?;
        if there {
            tracing::info!(
                topic = %name.unwrap_or_default(), partition = index,
                "the partition came back from the bucket"
            );
        }
        Ok(())
    }

    /// Writes the records of the last backup into segments in `dir`.
    async fn fetch_backup(
        &self,
        broker: &Arc<Broker>,
        topic_id: TopicId,
        partition: i32,
        dir: &Path,
    ) -> Result<(), SeedError> {
        let generation = self.generation.load(Ordering::Acquire);
        let id = PartitionId {
            topic_id,
            partition,
        };
        let part = restore::part(&self.bucket, id, None).await?;
        let manifest = part.manifest.as_ref().map(|(manifest, _)| manifest);
        let good = manifest.filter(|manifest| {
            manifest.backup_at_ms.is_some() && manifest.writer.generation == generation
        });
        let Some(manifest) = good else {
            return Err(TierError::Damaged {
                key: id.manifests(),
                reason: format!(
                    "there is no backup of generation {generation}, by {}",
                    layout::owner(generation)
                ),
            }
            .into());
        };
        let image = broker.image();
        let told_in = manifest.writer.leader_epoch;
        let made_in = manifest.backup_leader_epoch.unwrap_or(told_in);
        if let Some(state) = image.partition(topic_id, partition)
            && !may_begin_with(state, broker.id, (made_in, told_in))
        {
            return Err(SeedError::WentOn(made_in));
        }
        for entry in &part.entries {
            let disk = Arc::clone(broker.partitions.disk());
            let path = segment_file(dir, entry.base_offset);
            let file = blocking(move || disk.open(&path, OpenMode::Create)).await?;
            let mut pieces = Pieces::open(&self.bucket, id, entry).await?;
            let mut at = 0;
            while let Some(batches) = pieces.next().await? {
                let file = Arc::clone(&file);
                at = blocking(move || {
                    for batch in &batches {
                        file.write_at(&batch.bytes, at)?;
                        at += batch.bytes.len() as u64;
                    }
                    Ok(at)
                })
                .await?;
            }
            blocking(move || file.sync_all()).await?;
        }
        let (disk, dir) = (Arc::clone(broker.partitions.disk()), dir.to_path_buf());
        blocking(move || disk.sync_dir(&dir)).await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, SeedError> {
    match task::blocking(work).await {
        Ok(done) => Ok(done?),
        Err(error) => Err(SeedError::Task(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_has_nobody_to_copy_from_begins_with_a_later_backup() {
        let led_by = |leader, leader_epoch| Partition {
            leader,
            leader_epoch,
            ..Partition::default()
        };
        let restored = RESTORE_EPOCH;
        assert!(may_begin_with(&led_by(0, 8), 1, (restored, restored)));
        // The leader deleted garbage, and has written that.
        assert!(may_begin_with(&led_by(0, 8), 1, (restored, 8)));
        assert!(!may_begin_with(&led_by(0, 8), 1, (8, 8)));
        // It has not heard of the leader that made it, or of one that had to tell something.
        assert!(!may_begin_with(&led_by(1, 7), 1, (8, 8)));
        assert!(!may_begin_with(&led_by(1, 9), 1, (8, 10)));
        assert!(may_begin_with(&led_by(1, 9), 1, (8, 8)));
    }
}
