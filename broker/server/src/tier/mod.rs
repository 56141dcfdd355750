//! Tiered storage: what this broker leads of tiered topics goes to the bucket, and what is there
//! only is read from it.
//!
//! `upload.rs` tends one partition at a time: it finds out where the partition stands in the
//! bucket, uploads what is due, moves its start by retention, deletes what no longer counts.
//! `read.rs` answers from the bucket; a fetch never waits there for it, it is parked and looks
//! again when what it asked for has come.
//!
//! **Invariant:** a local record goes by age or size only if the manifest covers it that this
//! broker wrote or found as the leader, and every in-sync replica has fetched from it since
//! ([`Cold::deletable`]).

mod read;
mod upload;

pub(crate) use read::ColdRead;

use crate::broker::{Broker, new_id};
use crate::partition::Partition;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tidemark_config::TierSettings;
use tidemark_env::{clock, task};
use tidemark_model::LeaderEpoch;
use tidemark_tier::document::Document;
use tidemark_tier::{
    Bucket, BucketOptions, Cache, Created, Manifest, PartitionId, Reader, TierError, Writer,
    document, layout,
};
use tidemark_wire::Uuid;
use tokio::sync::{Semaphore, watch};

/// Partitions are looked at this often.
const ROUND: Duration = Duration::from_secs(1);
/// Credentials are read again this often.
const RELOAD: Duration = Duration::from_secs(5);
/// Pauses after failures, doubled from the first to the last.
const PAUSE_MS: std::ops::RangeInclusive<i64> = 1_000..=60_000;

/// Who a bucket belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Owner {
    cluster_id: String,
    generation: u32,
}

impl Document for Owner {
    const FORMAT: &'static str = "tidemark-owner";
}

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
    /// The last thing that went wrong, while something does.
    trouble: Mutex<Option<String>>,
    /// How long the oldest record waits that is led here.
    lag_ms: AtomicI64,
    /// The credentials in use, and when they were taken.
    credentials: Mutex<BTreeMap<String, String>>,
    reopened_ms: AtomicI64,
    uploads: Semaphore,
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
        // A start does not wait for them, and does not fail for want of them.
        let credentials = match credentials_of(settings) {
            Ok(credentials) => credentials,
            Err(error) => {
                tracing::warn!(%error, "credentials for the bucket");
                BTreeMap::new()
            }
        };
        let options = options(settings, credentials.clone());
        let bucket = Bucket::open(&settings.url, &options)?;
        let cache_bytes = u64::try_from(settings.cache_bytes).unwrap_or(0);
        Ok(Tier {
            reader: Reader::new(bucket.clone(), Cache::new(cache_bytes)),
            bucket,
            id: new_id(),
            generation: AtomicU32::new(0),
            troubled: AtomicBool::new(false),
            trouble: Mutex::new(None),
            lag_ms: AtomicI64::new(0),
            credentials: Mutex::new(credentials),
            reopened_ms: AtomicI64::new(0),
            uploads: Semaphore::new(usize::try_from(settings.uploads).unwrap_or(1).max(1)),
            settings: settings.clone(),
        })
    }

    /// What is told of it: where it is, how far it is behind, and what is wrong with it.
    pub(crate) fn state(&self) -> serde_json::Value {
        serde_json::json!({
            "url": self.bucket.address(),
            "opened": self.generation.load(Ordering::Acquire) != 0,
            "lagMs": self.lag_ms.load(Ordering::Acquire),
            "lastError": *lock(&self.trouble),
        })
    }

    /// Takes credentials that were changed. Blocks.
    fn reload(&self) {
        let taken = credentials_of(&self.settings).map_err(|error| error.to_string());
        let taken = taken.and_then(|now| {
            if *lock(&self.credentials) == now {
                return Ok(false);
            }
            let options = options(&self.settings, now.clone());
            self.bucket
                .reopen(&options)
                .map_err(|error| error.to_string())?;
            *lock(&self.credentials) = now;
            Ok(true)
        });
        match taken {
            Ok(false) => {}
            Ok(true) => {
                self.reopened_ms.store(clock::now_ms(), Ordering::Release);
                tracing::info!(bucket = self.bucket.address(), "new credentials are in use");
            }
            Err(error) => {
                tracing::warn!(
                    error,
                    "credentials for the bucket: those before stay in use"
                );
            }
        }
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

    /// Makes sure that the bucket is this cluster's: the first to come says so in it.
    async fn open(&self, cluster_id: Uuid) -> Result<(), TierError> {
        let mut owners = self.bucket.list(layout::OWNERS).await?;
        owners.sort_by(|a, b| a.key.cmp(&b.key));
        let mine = Owner {
            cluster_id: cluster_id.to_string(),
            generation: 1,
        };
        let owner = match owners.last() {
            Some(last) => self.bucket.document::<Owner>(&last.key).await?.0,
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

fn credentials_of(settings: &TierSettings) -> std::io::Result<BTreeMap<String, String>> {
    let dir = settings.credentials_dir.as_ref().map(std::path::Path::new);
    dir.map_or(Ok(BTreeMap::new()), tidemark_tier::read_credentials)
}

fn options(settings: &TierSettings, credentials: BTreeMap<String, String>) -> BucketOptions {
    BucketOptions {
        endpoint: settings.endpoint.clone(),
        region: settings.region.clone(),
        credentials,
    }
}

/// Starts the task, if there is a bucket.
pub(crate) fn start(broker: &Arc<Broker>, mut stop: watch::Receiver<bool>) {
    let Some(tier) = broker.tier.clone() else {
        return;
    };
    if tier.settings.credentials_dir.is_some() {
        start_reloading(Arc::clone(&tier), stop.clone());
    }
    let broker = Arc::clone(broker);
    drop(task::spawn("tier", async move {
        let (mut pause_ms, mut next_ms) = (0, 0);
        loop {
            tokio::select! {
                () = clock::sleep(ROUND) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            // Credentials that were mended are tried at once.
            let failed_ms = next_ms - pause_ms;
            if clock::now_ms() < next_ms && tier.reopened_ms.load(Ordering::Acquire) < failed_ms {
                continue;
            }
            if tier.generation.load(Ordering::Acquire) == 0 {
                let Some(cluster_id) = broker.image().cluster_id() else {
                    continue;
                };
                match tier.open(cluster_id).await {
                    Ok(()) => {
                        tier.troubled.store(false, Ordering::Release);
                        *lock(&tier.trouble) = None;
                        tracing::info!(
                            bucket = tier.bucket.address(),
                            "the bucket is this cluster's"
                        );
                    }
                    Err(error) => {
                        broker.metrics.tier_failed(error.outcome());
                        tracing::error!(bucket = tier.bucket.address(), %error, "tiered topics stay on local disks");
                        tier.troubled.store(true, Ordering::Release);
                        *lock(&tier.trouble) = Some(error.to_string());
                        // Readers that wait are told.
                        let waiting = broker.partitions.all();
                        waiting
                            .iter()
                            .for_each(|partition| partition.log_start_moved());
                        pause_ms = longer(pause_ms);
                        next_ms = clock::now_ms() + pause_ms;
                        continue;
                    }
                }
            }
            (pause_ms, next_ms) = (0, 0);
            tier.round(&broker);
        }
    }));
}

/// Looks for changed credentials, until `stop` turns true.
fn start_reloading(tier: Arc<Tier>, mut stop: watch::Receiver<bool>) {
    drop(task::spawn("tier-credentials", async move {
        loop {
            tokio::select! {
                () = clock::sleep(RELOAD) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let reloading = Arc::clone(&tier);
            if task::blocking(move || reloading.reload()).await.is_err() {
                return;
            }
        }
    }));
}

fn longer(pause_ms: i64) -> i64 {
    (pause_ms * 2).clamp(*PAUSE_MS.start(), *PAUSE_MS.end())
}

impl Tier {
    /// Has every tiered partition that is led here tended, a few at a time.
    fn round(self: &Arc<Self>, broker: &Arc<Broker>) {
        let (mut lag_ms, mut troubled) = (0, false);
        for partition in broker.partitions.all() {
            if !partition.policy().settings.remote_storage_enable || !partition.leads() {
                continue;
            }
            troubled |= partition.cold.troubled.load(Ordering::Acquire);
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
                    tier.tend(&broker, &partition).await;
                }
                partition.cold.queued.store(false, Ordering::Release);
            }));
        }
        broker.metrics.tier_lag(lag_ms);
        self.lag_ms.store(lag_ms, Ordering::Release);
        if !troubled {
            *lock(&self.trouble) = None;
        }
    }
}

fn id_of(partition: &Partition) -> PartitionId {
    let at = partition.at();
    PartitionId {
        topic_id: at.topic_id,
        partition: at.partition,
    }
}
