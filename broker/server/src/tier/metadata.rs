//! What the active controller does in the bucket: it keeps the cluster's metadata there, which a
//! restore begins with, and removes what deleted topics had.
//!
//! **Invariant:** a partition has a manifest in the bucket only if metadata there name the partition:
//! a restore would not know whose the records are ([`Tier::is_named`]).

use super::{ROUND, Tier};
use crate::broker::Broker;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tidemark_env::{clock, task};
use tidemark_model::{ConfigResource, Deletion, IN_BUCKET, Image, TopicId};
use tidemark_quorum::decide::{self, Decision};
use tidemark_tier::catalog::{Deleted, Snapshot, Topic};
use tidemark_tier::{Created, PartitionId, TierError, document, layout, restore};
use tokio::sync::watch;

/// The newest that stay.
const KEPT: usize = 16;
/// Changes of the metadata wait so long at most.
const LONGEST: Duration = Duration::from_secs(60);
/// After a failure it is tried again after so long at most.
const AGAIN: Duration = Duration::from_secs(10);

/// How many partitions of each topic the bucket's metadata name, as far as this broker knows.
#[derive(Debug, Default)]
pub(super) struct Named {
    partitions: BTreeMap<TopicId, usize>,
    /// The bucket is not asked again before this, by the clock that does not jump.
    next_ms: i64,
}

impl Named {
    fn learn(&mut self, snapshot: &Snapshot) {
        let of = |topic: &Topic| {
            let id = layout::parse_id(&topic.topic_id)?;
            Some((id, topic.leader_epochs.len()))
        };
        self.partitions = snapshot.topics.iter().filter_map(of).collect();
    }

    fn has(&self, id: PartitionId) -> bool {
        let known = self.partitions.get(&id.topic_id);
        known.is_some_and(|known| usize::try_from(id.partition).is_ok_and(|index| index < *known))
    }
}

/// Starts the task. It writes while this node is the active controller and the bucket is known to
/// be the cluster's.
pub(super) fn start(broker: &Arc<Broker>, tier: &Arc<Tier>, mut stop: watch::Receiver<bool>) {
    let (broker, tier) = (Arc::clone(broker), Arc::clone(tier));
    drop(task::spawn("tier-metadata", async move {
        let lag_ms = u64::try_from(tier.settings.upload_max_lag_ms / 2).unwrap_or(0);
        let every = Duration::from_millis(lag_ms).clamp(ROUND / 10, LONGEST);
        let mut written: Option<Snapshot> = None;
        let (mut looked_at, mut next, mut again) = (None, clock::monotonic(), clock::monotonic());
        let mut troubled_since: Option<clock::Instant> = None;
        let mut trash = Trash::default();
        loop {
            tokio::select! {
                () = clock::sleep(every.min(ROUND)) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let generation = tier.generation.load(Ordering::Acquire);
            if generation == 0 || !broker.controller.is_active() {
                // Whoever is active now tells it.
                (troubled_since, looked_at) = (None, None);
                broker.metrics.tier_snapshot_late(Duration::ZERO);
                continue;
            }
            let image = broker.image();
            let now = clock::monotonic();
            // Uploads wait for partitions to be named.
            let is_new = looked_at != Some(image.index()) && !tier.names_all(&image).await;
            if !is_new {
                looked_at = Some(image.index());
            }
            if now < again || (now < next && !is_new) {
                continue;
            }
            next = now + every;
            let newest = snapshot(&image, generation);
            let known = written
                .as_ref()
                .is_some_and(|written| written.says_the_same(&newest));
            let done = async {
                if !known {
                    tier.write_metadata(&newest).await?;
                    tier.named.lock().await.learn(&newest);
                    written = Some(newest);
                }
                tier.empty_trash(&broker, &mut trash).await
            };
            match done.await {
                Ok(()) => troubled_since = None,
                Err(error) => {
                    again = now + every.min(AGAIN);
                    broker.metrics.tier_failed(error.outcome());
                    if troubled_since.is_none() {
                        troubled_since = Some(clock::monotonic());
                        tracing::warn!(%error, "the bucket does not have the newest metadata");
                    }
                }
            }
            let late = troubled_since.map(|since| since.elapsed());
            broker.metrics.tier_snapshot_late(late.unwrap_or_default());
        }
    }));
}

/// When the objects of deleted topics may go, as far as that is known.
type Trash = BTreeMap<TopicId, i64>;

impl Tier {
    /// Whether metadata in the bucket name a partition. The bucket is asked once in a round.
    pub(super) async fn is_named(&self, id: PartitionId) -> Result<bool, TierError> {
        let mut named = self.named.lock().await;
        let now_ms = clock::steady_ms();
        if !named.has(id) && now_ms >= named.next_ms {
            named.next_ms = now_ms + i64::try_from(ROUND.as_millis()).unwrap_or(i64::MAX);
            let generation = self.generation.load(Ordering::Acquire);
            if let Some(newest) = restore::metadata(&self.bucket, generation, None).await? {
                named.learn(&newest);
            }
        }
        Ok(named.has(id))
    }

    /// Whether metadata in the bucket name all partitions, as far as this broker knows.
    async fn names_all(&self, image: &Image) -> bool {
        let named = self.named.lock().await;
        image.topics().all(|topic| {
            let known = named.partitions.get(&topic.id);
            known.is_some_and(|known| *known >= topic.partitions.len())
        })
    }

    /// Marks topics as deleted in the bucket, and removes what they had there once that has been
    /// trash for long enough. The metadata remember a topic until that is done.
    async fn empty_trash(&self, broker: &Arc<Broker>, trash: &mut Trash) -> Result<(), TierError> {
        let image = broker.image();
        let jobs = image
            .deletions()
            .filter(|job| job.brokers.contains(&IN_BUCKET));
        for job in jobs {
            let now_ms = clock::now_ms();
            let due_ms = match trash.get(&job.topic_id) {
                Some(due_ms) => *due_ms,
                None => {
                    let deleted_at_ms = self.mark_deleted(job, now_ms).await?;
                    let due_ms = deleted_at_ms.saturating_add(self.settings.trash_ms);
                    trash.insert(job.topic_id, due_ms);
                    due_ms
                }
            };
            if now_ms < due_ms {
                continue;
            }
            self.check_owner().await?;
            let mut objects = 0;
            for partition in 0..job.partitions {
                let id = PartitionId {
                    topic_id: job.topic_id,
                    partition,
                };
                for listed in self.bucket.list(&id.prefix()).await? {
                    self.bucket.delete(&listed.key).await?;
                    objects += 1;
                }
            }
            self.bucket.delete(&layout::topic(job.topic_id)).await?;
            let topic_id = job.topic_id;
            let confirmed = broker.change(move |image, _, _| Decision {
                records: decide::confirm_deletions(image, IN_BUCKET, &[topic_id]),
                result: (),
            });
            if let Err(error) = confirmed.await {
                // Whoever is the active controller does it again, and finds nothing.
                tracing::debug!(%error, "a deleted topic is not forgotten yet");
                continue;
            }
            trash.remove(&topic_id);
            tracing::info!(topic = %job.name, objects, "the bucket has nothing of the deleted topic any more");
        }
        trash.retain(|id, _| image.deletion(*id).is_some());
        Ok(())
    }

    /// Says in the bucket that a topic was deleted; gives since when that is said.
    async fn mark_deleted(&self, job: &Deletion, now_ms: i64) -> Result<i64, TierError> {
        self.check_owner().await?;
        let key = layout::deleted(job.topic_id);
        let deleted = Deleted {
            name: job.name.to_string(),
            deleted_at_ms: now_ms,
        };
        match self.bucket.create_document(&key, &deleted).await?.0 {
            Created::Ours => Ok(now_ms),
            Created::Theirs(bytes) => Ok(document::decode::<Deleted>(&key, &bytes)?.deleted_at_ms),
        }
    }

    /// Writes the metadata, and lets the oldest go.
    async fn write_metadata(&self, snapshot: &Snapshot) -> Result<(), TierError> {
        self.check_owner().await?;
        let key = layout::metadata(snapshot.generation, snapshot.index);
        // Another one with that key says the same: it is of the same index.
        self.bucket.create_document(&key, snapshot).await?;
        let listed = self.bucket.list(layout::METADATA).await?;
        let known = listed.into_iter().filter_map(|listed| {
            let of = layout::metadata_of(&listed.key)?;
            (of.0 <= snapshot.generation).then_some((of, listed.key))
        });
        let mut known: Vec<_> = known.collect();
        known.sort_unstable();
        // What a restore began with and came from is asked for by each controller that it formats.
        let before = known.iter().map(|(of, _)| *of);
        let before = before.filter(|(generation, _)| *generation < snapshot.generation);
        let before = before.max();
        let gone = known.len().saturating_sub(KEPT);
        for (of, key) in known.into_iter().take(gone) {
            if Some(of) != before && of != (snapshot.generation, 0) {
                self.bucket.delete(&key).await?;
            }
        }
        Ok(())
    }
}

/// What a restore needs of an image.
fn snapshot(image: &Image, generation: u32) -> Snapshot {
    let own = |resource: &ConfigResource| image.configs(resource).clone();
    let mut topics: Vec<Topic> = image
        .topics()
        .map(|topic| Topic {
            name: topic.name.to_string(),
            topic_id: topic.id.to_string(),
            replication_factor: topic
                .partitions
                .iter()
                .map(|state| i32::try_from(state.replication_factor()).unwrap_or(i32::MAX))
                .max()
                .unwrap_or(1),
            settings: own(&ConfigResource::Topic(topic.id)),
            leader_epochs: topic.partitions.iter().map(|p| p.leader_epoch).collect(),
            first_offsets: Vec::new(),
            from_backup: Vec::new(),
        })
        .collect();
    // What waits to come back is not to be forgotten meanwhile.
    topics.extend(image.restores().map(|restore| Topic {
        name: restore.name.clone(),
        topic_id: restore.topic_id.to_string(),
        replication_factor: restore.replication_factor,
        settings: restore.configs.clone(),
        leader_epochs: restore.partitions.iter().map(|p| p.leader_epoch).collect(),
        first_offsets: Vec::new(),
        from_backup: Vec::new(),
    }));
    topics.sort_by(|a, b| a.name.cmp(&b.name));
    let groups = image
        .configured()
        .filter_map(|(resource, map)| match resource {
            ConfigResource::Group(name) => Some((name.clone(), map.clone())),
            _ => None,
        });
    Snapshot {
        cluster_id: image.cluster_id().unwrap_or_default().to_string(),
        generation,
        index: image.index(),
        taken_at_ms: clock::now_ms(),
        next_producer_id: image.next_producer_id(),
        features: image
            .features()
            .map(|(name, level)| (name.to_owned(), level))
            .collect(),
        brokers: image.brokers().map(|broker| broker.id).collect(),
        settings: own(&ConfigResource::AllBrokers),
        groups: groups.collect::<BTreeMap<_, _>>(),
        topics,
        restored: None,
    }
}
