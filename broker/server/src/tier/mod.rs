//! Tiered storage: what this broker leads of tiered topics goes to the bucket, and what is there
//! only is read from it.
//!
//! `upload.rs` tends one partition at a time: it finds out where the partition stands in the
//! bucket, uploads what is due, moves its start by retention, deletes what no longer counts.
//! `backup.rs` does the same for compacted partitions, which go to the bucket as a whole.
//! `metadata.rs` keeps the cluster's metadata there, on the active controller. `seed.rs` fetches
//! what a partition that came back from a bucket begins with.
//! `read.rs` answers from the bucket; a fetch never waits there for it, it is parked and looks
//! again when what it asked for has come.
//!
//! **Invariant:** a local record goes by age or size only if the manifest covers it that this
//! broker wrote or found as the leader, and every in-sync replica has fetched from it since
//! ([`Cold::deletable`]).

mod backup;
mod metadata;
mod read;
mod seed;
mod upload;

pub(crate) use read::ColdRead;

use crate::broker::{Broker, new_id};
use crate::partition::Partition;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tidemark_config::TierSettings;
use tidemark_env::{clock, task};
use tidemark_model::{CONSUMER_OFFSETS, LeaderEpoch};
use tidemark_tier::catalog::Owner;
use tidemark_tier::{
    Bucket, BucketOptions, Cache, Created, Manifest, PartitionId, Reader, TierError, Writer,
    document, layout, restore,
};
use tidemark_wire::Uuid;
use tokio::sync::{Semaphore, watch};

/// Partitions are looked at this often.
const ROUND: Duration = Duration::from_secs(1);
/// Pauses after failures, doubled from the first to the last.
const PAUSE_MS: std::ops::RangeInclusive<i64> = 1_000..=60_000;

/// The bucket, while this broker runs.
pub(crate) struct Tier {
    settings: TierSettings,
    bucket: Bucket,
    reader: Reader,
    /// This process, in what it writes.
    id: Uuid,
    /// The cluster's generation in the bucket; 0 until the bucket is known to be the cluster's.
    generation: AtomicU32,
    /// The bucket could not be opened, when that was tried last.
    troubled: AtomicBool,
    uploads: Semaphore,
    /// Partitions whose first records are on their way.
    seeding: Mutex<BTreeMap<(Uuid, i32), seed::Seeding>>,
}

/// What is known of a partition in the bucket.
#[derive(Debug, Clone)]
struct Known {
    /// The leader epoch in which it was found out, or [`LOOK_AGAIN`].
    epoch: LeaderEpoch,
    manifest: Arc<Manifest>,
    /// The checksum of the manifest's document; `None` while there is none.
    crc32: Option<u32>,
    /// When it was written or found, by the clock of replicas.
    since_ms: i64,
}

/// Stands for no epoch: what is known is good for readers only.
const LOOK_AGAIN: LeaderEpoch = -1;

/// The bucket has everything, as far as is known.
const NOT_BEHIND: i64 = 0;

/// A partition's part of this.
#[derive(Debug, Default)]
pub(crate) struct Cold {
    known: Mutex<Option<Known>>,
    /// Who tends it does so alone.
    tending: tokio::sync::Mutex<Pace>,
    /// The bucket failed whoever tended it last.
    troubled: AtomicBool,
    /// When there was first something that the bucket does not have, or [`NOT_BEHIND`].
    behind_since_ms: AtomicI64,
    /// It is being tended, or waits to be.
    queued: AtomicBool,
    /// Offsets that are on their way to the cache.
    coming: Mutex<BTreeSet<i64>>,
    /// Where the bucket failed a reader, for the next to ask there.
    failed: Mutex<BTreeSet<i64>>,
}

/// When what is due.
#[derive(Debug, Default)]
struct Pace {
    /// Not before this.
    next_ms: i64,
    pause_ms: i64,
    /// The last trouble, told once.
    trouble: Option<String>,
    retention_ms: i64,
    /// The end in the bucket that [`Cold::behind_since_ms`] speaks of.
    end: i64,
    /// No backup before this.
    backup_ms: i64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cold {
    fn known(&self) -> Option<Known> {
        lock(&self.known).clone()
    }

    /// Who is ahead, and what became of a lost answer, is in the bucket: the leader has to look
    /// there before it writes again.
    fn look_again(&self) {
        if let Some(known) = &mut *lock(&self.known) {
            known.epoch = LOOK_AGAIN;
        }
    }

    /// The offsets that the bucket has: from, and up to. `None` while that is not known.
    pub(crate) fn range(&self) -> Option<(i64, i64)> {
        let known = lock(&self.known);
        let manifest = &known.as_ref()?.manifest;
        Some((manifest.start_offset, manifest.end_offset))
    }

    /// The leader epoch of a record in the bucket, as far as that is known here.
    pub(crate) fn epoch_at(&self, offset: i64) -> Option<LeaderEpoch> {
        self.known()?.manifest.epoch_at(offset)
    }

    /// Up to where local records may go, if the leader of `epoch` asks; `confirmed` says whether
    /// the ISR has fetched from it since a time.
    pub(crate) fn deletable(
        &self,
        epoch: LeaderEpoch,
        confirmed: impl FnOnce(i64) -> bool,
    ) -> Option<i64> {
        let known = self.known()?;
        let is = known.epoch == epoch && known.crc32.is_some() && confirmed(known.since_ms);
        is.then_some(known.manifest.end_offset)
    }
}

impl Tier {
    /// The bucket of the settings. Asks nothing of it yet.
    ///
    /// # Errors
    /// The address cannot be used.
    pub(crate) fn new(settings: &TierSettings) -> Result<Tier, TierError> {
        let options = BucketOptions {
            endpoint: settings.endpoint.clone(),
            region: settings.region.clone(),
        };
        let bucket = Bucket::open(&settings.url, &options)?;
        let cache_bytes = u64::try_from(settings.cache_bytes).unwrap_or(0);
        Ok(Tier {
            reader: Reader::new(bucket.clone(), Cache::new(cache_bytes)),
            bucket,
            id: new_id(),
            generation: AtomicU32::new(0),
            troubled: AtomicBool::new(false),
            uploads: Semaphore::new(usize::try_from(settings.uploads).unwrap_or(1).max(1)),
            seeding: Mutex::default(),
            settings: settings.clone(),
        })
    }

    /// This broker as one that writes, once it is known that it may.
    fn writer(&self, leader_epoch: LeaderEpoch) -> Result<Writer, TierError> {
        match self.generation.load(Ordering::Acquire) {
            0 => Err(TierError::Away {
                key: layout::OWNERS.to_owned(),
                reason: "it is not known yet whether the bucket is this cluster's".to_owned(),
            }),
            generation => Ok(Writer {
                generation,
                leader_epoch,
                id: self.id,
            }),
        }
    }

    /// Makes sure that no restore has made another cluster the owner of the bucket: from then on
    /// this one neither writes nor deletes there.
    async fn check_owner(&self) -> Result<(), TierError> {
        let next = match self.generation.load(Ordering::Acquire) {
            0 => return Ok(()),
            generation => layout::owner(generation.saturating_add(1)),
        };
        match self.bucket.size_bytes(&next).await {
            Err(TierError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
            Ok(_) => {
                self.generation.store(0, Ordering::Release);
                Err(TierError::Superseded {
                    key: next,
                    reason: "the bucket was taken over by a restored cluster".to_owned(),
                })
            }
        }
    }

    /// Makes sure that the bucket is this cluster's: the first to come says so in it.
    async fn open(&self, cluster_id: Uuid) -> Result<(), TierError> {
        let mine = Owner {
            cluster_id: cluster_id.to_string(),
            generation: 1,
        };
        let owner = match restore::owner(&self.bucket).await? {
            Some(owner) => owner,
            None => {
                self.bucket.probe().await?;
                let key = layout::owner(1);
                match self.bucket.create_document(&key, &mine).await?.0 {
                    Created::Ours => mine.clone(),
                    Created::Theirs(bytes) => document::decode(&key, &bytes)?,
                }
            }
        };
        if owner.cluster_id != mine.cluster_id {
            return Err(TierError::Superseded {
                key: layout::owner(owner.generation),
                reason: format!(
                    "{} holds the logs of cluster {}: give this one another prefix in tier.url",
                    self.bucket.address(),
                    owner.cluster_id
                ),
            });
        }
        self.generation.store(owner.generation, Ordering::Release);
        Ok(())
    }
}

/// Starts the task, if there is a bucket.
pub(crate) fn start(broker: &Arc<Broker>, mut stop: watch::Receiver<bool>) {
    let Some(tier) = broker.tier.clone() else {
        return;
    };
    metadata::start(broker, &tier, stop.clone());
    let broker = Arc::clone(broker);
    drop(task::spawn("tier", async move {
        let mut pause_ms = 0;
        loop {
            let wait = match pause_ms {
                0 => ROUND,
                pause_ms => Duration::from_millis(u64::try_from(pause_ms).unwrap_or(0)),
            };
            tokio::select! {
                () = clock::sleep(wait) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            if tier.generation.load(Ordering::Acquire) == 0 {
                let Some(cluster_id) = broker.image().cluster_id() else {
                    continue;
                };
                match tier.open(cluster_id).await {
                    Ok(()) => {
                        tier.troubled.store(false, Ordering::Release);
                        tracing::info!(
                            bucket = tier.bucket.address(),
                            "the bucket is this cluster's"
                        );
                    }
                    Err(error) => {
                        broker.metrics.tier_failed(error.outcome());
                        tracing::error!(bucket = tier.bucket.address(), %error, "tiered topics stay on local disks");
                        tier.troubled.store(true, Ordering::Release);
                        // Readers that wait are told.
                        let waiting = broker.partitions.all();
                        waiting
                            .iter()
                            .for_each(|partition| partition.log_start_moved());
                        pause_ms = longer(pause_ms);
                        continue;
                    }
                }
            }
            pause_ms = 0;
            tier.seed(&broker);
            tier.round(&broker);
        }
    }));
}

fn longer(pause_ms: i64) -> i64 {
    (pause_ms * 2).clamp(*PAUSE_MS.start(), *PAUSE_MS.end())
}

impl Tier {
    /// Has every tiered partition that is led here tended, a few at a time.
    fn round(self: &Arc<Self>, broker: &Arc<Broker>) {
        let mut lag_ms = 0;
        for partition in broker.partitions.all() {
            let backed_up = partition.policy().backed_up || *partition.topic == *CONSUMER_OFFSETS;
            let tiered = partition.policy().settings.remote_storage_enable;
            if !(backed_up || tiered) || !partition.leads() {
                continue;
            }
            let since_ms = partition.cold.behind_since_ms.load(Ordering::Acquire);
            if since_ms != NOT_BEHIND {
                lag_ms = lag_ms.max(clock::now_ms() - since_ms);
            }
            if partition.cold.queued.swap(true, Ordering::AcqRel) {
                continue;
            }
            let (tier, broker) = (Arc::clone(self), Arc::clone(broker));
            drop(task::spawn("tier-partition", async move {
                if let Ok(_permit) = tier.uploads.acquire().await {
                    tier.tend(&broker, &partition, backed_up).await;
                }
                partition.cold.queued.store(false, Ordering::Release);
            }));
        }
        broker.metrics.tier_lag(lag_ms);
    }
}

fn id_of(partition: &Partition) -> PartitionId {
    let at = partition.at();
    PartitionId {
        topic_id: at.topic_id,
        partition: at.partition,
    }
}
