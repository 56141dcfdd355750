//! Tiered storage: what this broker leads of tiered topics goes to the bucket, and what is there
//! only is read from it.
//!
//! `upload.rs` tends one partition at a time: it finds out where the partition stands in the
//! bucket, uploads what is due, moves its start by retention. `sweep.rs` deletes what no longer
//! counts, and what never did. `backup.rs` does the same for compacted partitions, which go to the
//! bucket as a whole. `metadata.rs` keeps the cluster's metadata there, on the active controller.
//! `owner.rs` knows whose the bucket is.
//! `seed.rs` fetches what a partition that came back from a bucket begins with.
//! `read.rs` answers from the bucket; a fetch never waits there for it, it is parked and looks
//! again when what it asked for has come. `reserve.rs` looks how much only waits for the bucket,
//! and slows producers before that fills the disk.
//!
//! **Invariant:** a local record goes by age or size only if the manifest covers it that this
//! broker wrote or found as the leader, and every in-sync replica has fetched from it since
//! ([`Cold::deletable`]).

mod backup;
mod metadata;
mod owner;
mod read;
mod reserve;
mod seed;
mod sweep;
mod upload;

pub(crate) use read::{ColdRead, shelf};
pub(crate) use reserve::{Brake, Reserve, slower};

use crate::broker::{Broker, new_id};
use crate::partition::Partition;
use reserve::{BrakeCell, Reserves};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tidemark_config::TierSettings;
use tidemark_env::{clock, random, task};
use tidemark_model::{CONSUMER_OFFSETS, LeaderEpoch};
use tidemark_tier::{
    Bucket, BytesPerSecond, Cache, CredentialFiles, Credentials, Manifest, PartitionId, Reader,
    Requests, Shelf, TierError,
};
use tidemark_wire::{ErrorCode, Uuid};
use tokio::sync::{Semaphore, watch};

/// Partitions are looked at this often.
const ROUND: Duration = Duration::from_secs(1);
/// Kafka's way to say that there is no limit.
const ENDLESS: u64 = i64::MAX as u64;
/// Pauses after failures, doubled from the first to the last.
const PAUSE_MS: std::ops::RangeInclusive<i64> = 1_000..=20_000;
/// Retention in the bucket is looked at this often at least.
const RETENTION_MS: i64 = 60_000;
/// How often it is told that the bucket takes nothing, or gives nothing.
const TELL_AGAIN_MS: i64 = 60_000;

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
    /// The credentials in use, where they come from, and when they were taken.
    credentials: Mutex<Credentials>,
    credential_files: CredentialFiles,
    reopened_ms: AtomicI64,
    /// They were taken since the last round.
    mended: AtomicBool,
    uploads: Semaphore,
    named: tokio::sync::Mutex<metadata::Named>,
    reserves: Reserves,
    /// Bytes that go to the bucket, and come from it.
    up: BytesPerSecond,
    down: BytesPerSecond,
    /// Partitions whose first records are on their way.
    seeding: Mutex<BTreeMap<(Uuid, i32), seed::Seeding>>,
}

/// What is known of a partition in the bucket.
#[derive(Debug, Clone)]
struct Known {
    /// The leader epoch in which it was found out.
    epoch: LeaderEpoch,
    /// What became of a lost answer, and who is ahead, is in the bucket: good for readers only.
    look_again: bool,
    manifest: Arc<Manifest>,
    /// The checksum of the manifest's document; `None` while there is none.
    crc32: Option<u32>,
    /// When it was written or found, by the clock of replicas.
    since_ms: i64,
}

impl Known {
    /// Whether the leader of `epoch` may go on from it.
    fn is_of(&self, epoch: LeaderEpoch) -> bool {
        self.epoch == epoch && !self.look_again
    }
}

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
    /// When there was first something that the bucket does not have, or [`NOT_BEHIND`]; by the
    /// clock that does not jump, as all that is due.
    behind_since_ms: AtomicI64,
    /// It is being tended, or waits to be.
    queued: AtomicBool,
    rest: Mutex<Option<Rest>>,
    brake: BrakeCell,
    /// One more than the highest number of a manifest that this process tried to write.
    attempts: AtomicU64,
    /// Offsets that are on their way to the cache.
    coming: Mutex<BTreeSet<i64>>,
    /// Where the bucket failed a reader, for the next to ask there.
    failed: Mutex<BTreeSet<i64>>,
    /// From when on it is told again that the bucket fails readers.
    tell_ms: AtomicI64,
}

/// [`Cold`], made when there is first something to know: most partitions are not tiered, and one at
/// rest should cost little.
#[derive(Debug, Default)]
pub(crate) struct ColdCell(OnceLock<Box<Cold>>);

impl ColdCell {
    /// What producers to it have to put up with.
    pub(crate) fn brake(&self) -> Brake {
        self.0.get().map_or(Brake::Off, |cold| cold.brake.get())
    }
}

impl Deref for ColdCell {
    type Target = Cold;

    fn deref(&self) -> &Cold {
        self.0.get_or_init(Box::default)
    }
}

/// When it is looked for what uploads have left behind: once in each leader epoch, and again after
/// trouble.
#[derive(Debug, Default)]
enum Sweep {
    /// Not before there is a manifest of this leader's.
    #[default]
    Wanted,
    /// At this time.
    DueAt(i64),
    Done(LeaderEpoch),
}

/// When what is due.
#[derive(Debug, Default)]
struct Pace {
    /// Not before this.
    next_ms: i64,
    pause_ms: i64,
    /// When it failed last.
    failed_ms: i64,
    /// The last trouble, told once.
    trouble: Option<String>,
    /// When retention is looked at next.
    retention_due_ms: i64,
    sweep: Sweep,
    /// The end in the bucket that [`Cold::behind_since_ms`] speaks of.
    end: i64,
    /// No backup before this.
    backup_ms: i64,
}

impl Pace {
    /// When something is due of a partition for which all was done, if nothing happens to it.
    fn rests_until(&self, cold: &Cold, settings: &TierSettings) -> i64 {
        let mut until_ms = self.retention_due_ms;
        let since_ms = cold.behind_since_ms.load(Ordering::Acquire);
        if since_ms != NOT_BEHIND {
            until_ms = until_ms.min(since_ms.saturating_add(settings.upload_max_lag_ms));
        }
        match self.sweep {
            Sweep::DueAt(due_ms) => until_ms.min(due_ms),
            Sweep::Wanted | Sweep::Done(_) => until_ms,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cold {
    /// Notes whether the bucket lacks something, and gives since when.
    fn is_behind(&self, behind: bool, now_ms: i64) -> i64 {
        let since = &self.behind_since_ms;
        match (behind, since.load(Ordering::Acquire)) {
            (false, _) => since.store(NOT_BEHIND, Ordering::Release),
            (true, NOT_BEHIND) => since.store(now_ms, Ordering::Release),
            (true, _) => {}
        }
        since.load(Ordering::Acquire)
    }

    fn rest(&self, rest: Option<Rest>) {
        *lock(&self.rest) = rest;
    }

    /// Whether there is nothing to do for it now.
    fn rests(&self, seen: Seen, now_ms: i64) -> bool {
        let rest = *lock(&self.rest);
        rest.is_some_and(|rest| {
            now_ms < rest.until_ms && rest.seen.is_none_or(|before| before == seen)
        })
    }

    fn known(&self) -> Option<Known> {
        lock(&self.known).clone()
    }

    /// Who is ahead, and what became of a lost answer, is in the bucket: the leader has to look
    /// there before it writes again.
    fn look_again(&self) {
        if let Some(known) = &mut *lock(&self.known) {
            known.look_again = true;
        }
    }

    /// Whether it is to be told now that the bucket fails readers; once a minute it is.
    fn is_news(&self, now_ms: i64) -> bool {
        let next = |due_ms| (due_ms <= now_ms).then_some(now_ms + TELL_AGAIN_MS);
        let order = Ordering::Relaxed;
        self.tell_ms.fetch_update(order, order, next).is_ok()
    }

    /// Where a log begins that has its records from `log_start` on here, and is led here in that
    /// epoch if it is. `None` while it is not known.
    ///
    /// What a leader knows from another epoch may be old. The bucket may reach further by now, and
    /// begin higher: a reader who was told so is not sent back below that.
    pub(crate) fn start_above(&self, log_start: i64, led_in: Option<LeaderEpoch>) -> Option<i64> {
        let known = self.known()?;
        let manifest = &known.manifest;
        match led_in {
            Some(epoch) if epoch != known.epoch => None,
            _ if manifest.end_offset >= log_start => Some(manifest.start_offset.min(log_start)),
            // What lies between was deleted.
            _ => Some(log_start),
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
        let is = known.is_of(epoch) && known.crc32.is_some() && confirmed(known.since_ms);
        is.then_some(known.manifest.end_offset)
    }
}

impl Tier {
    /// The bucket of the settings, or `instead` of it, with what is kept of it on disk. Asks nothing of
    /// it yet.
    ///
    /// # Errors
    /// The address cannot be used.
    pub(crate) fn new(
        settings: &TierSettings,
        instead: Option<Bucket>,
        shelf: Option<Shelf>,
    ) -> Result<Tier, TierError> {
        // A start does not wait for them, and does not fail for want of them.
        let credential_files = CredentialFiles::of(settings.credentials_dir.as_deref());
        let credentials = match credential_files.read() {
            Ok(credentials) => credentials,
            Err(error) => {
                tracing::warn!(%error, "credentials for the bucket");
                Credentials::new()
            }
        };
        let options = owner::options(settings, credentials.clone());
        let bucket = match instead {
            Some(bucket) => bucket,
            None => Bucket::open(&settings.url, &options)?,
        };
        let (up, down) = (BytesPerSecond::default(), BytesPerSecond::default());
        let bucket = bucket.with_budgets(up.clone(), down.clone());
        let cache_bytes = u64::try_from(settings.cache_bytes).unwrap_or(0);
        Ok(Tier {
            reader: Reader::new(
                bucket.clone(),
                Cache::new(cache_bytes),
                Requests::new(usize::try_from(settings.readers).unwrap_or(1)),
            )
            .with_shelf(shelf),
            bucket,
            id: new_id(),
            generation: AtomicU32::new(0),
            troubled: AtomicBool::new(false),
            reserves: Reserves::default(),
            up,
            down,
            trouble: Mutex::new(None),
            lag_ms: AtomicI64::new(0),
            credentials: Mutex::new(credentials),
            credential_files,
            reopened_ms: AtomicI64::new(0),
            mended: AtomicBool::new(false),
            uploads: Semaphore::new(usize::try_from(settings.uploads).unwrap_or(1).max(1)),
            named: tokio::sync::Mutex::default(),
            seeding: Mutex::default(),
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
}

/// Starts the tasks, if there is a bucket.
pub(crate) fn start(broker: &Arc<Broker>, mut stop: watch::Receiver<bool>) {
    let Some(tier) = broker.tier.clone() else {
        return;
    };
    metadata::start(broker, &tier, stop.clone());
    drop(task::spawn(
        "tier-open",
        owner::open(Arc::clone(&tier), Arc::clone(broker), stop.clone()),
    ));
    if tier.credential_files != CredentialFiles::None {
        owner::start_reloading(Arc::clone(&tier), stop.clone());
    }
    let broker = Arc::clone(broker);
    drop(task::spawn("tier", async move {
        loop {
            tokio::select! {
                () = clock::sleep(ROUND) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            if tier.generation.load(Ordering::Acquire) > 0 {
                tier.seed(&broker);
            }
            tier.round(&broker).await;
        }
    }));
}

fn longer(pause_ms: i64) -> i64 {
    (pause_ms * 2).clamp(*PAUSE_MS.start(), *PAUSE_MS.end())
}

/// Some of a pause, so that those that failed together do not come back together.
fn jittered(pause_ms: i64) -> i64 {
    let half = pause_ms / 2;
    half + i64::try_from(random::below(half.unsigned_abs() + 1)).unwrap_or(0)
}

impl Tier {
    /// Has every tiered partition that is led here and has something due tended, a few at a time,
    /// and looks how much waits for the bucket.
    async fn round(self: &Arc<Self>, broker: &Arc<Broker>) {
        if let Some(settings) = &broker.settings().tier {
            let limit = |bytes| u64::try_from(bytes).ok().filter(|bytes| *bytes < ENDLESS);
            self.up.set(limit(settings.copy_max_bytes_per_second));
            self.down.set(limit(settings.fetch_max_bytes_per_second));
        }
        let (mut lag_ms, mut troubled, mut behind) = (0, false, Vec::new());
        let is_open = self.generation.load(Ordering::Acquire) > 0;
        let now_ms = clock::steady_ms();
        let mended = self.mended.swap(false, Ordering::AcqRel);
        for partition in broker.partitions.all() {
            let backed_up =
                partition.policy().backed_up || *partition.topic.name == *CONSUMER_OFFSETS;
            if !backed_up && !partition.policy().settings.remote_storage_enable {
                continue;
            }
            let Ok(seen) = Seen::of(&partition) else {
                // Whoever leads it has to see to it.
                partition.cold.is_behind(false, now_ms);
                partition.cold.rest(None);
                partition.cold.brake.set(Brake::Off);
                continue;
            };
            if !is_open {
                partition
                    .cold
                    .is_behind(seen.high_watermark > seen.log_start, now_ms);
            }
            if mended {
                partition.cold.rest(None);
            }
            troubled |= partition.cold.troubled.load(Ordering::Acquire);
            let since_ms = partition.cold.behind_since_ms.load(Ordering::Acquire);
            if since_ms != NOT_BEHIND {
                lag_ms = lag_ms.max(now_ms - since_ms);
            }
            // What is backed up stays here in any case.
            if since_ms == NOT_BEHIND || backed_up {
                partition.cold.brake.set(Brake::Off);
            } else {
                behind.push(Arc::clone(&partition));
            }
            if !is_open
                || partition.cold.rests(seen, now_ms)
                || partition.cold.queued.swap(true, Ordering::AcqRel)
            {
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
        self.lag_ms.store(lag_ms, Ordering::Release);
        if is_open && !troubled {
            *lock(&self.trouble) = None;
        }
        self.look_at_reserves(broker, behind).await;
    }

    /// How much waits for the bucket, by data directory.
    pub(crate) fn reserves(&self) -> BTreeMap<PathBuf, Reserve> {
        self.reserves.all()
    }
}

/// What a partition has to do with the bucket follows from this, and from time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    epoch: LeaderEpoch,
    log_start: i64,
    high_watermark: i64,
}

impl Seen {
    fn of(partition: &Partition) -> Result<Seen, ErrorCode> {
        const ANY_EPOCH: i32 = -1;
        let (epoch, bounds) = partition.leading(ANY_EPOCH)?;
        Ok(Seen {
            epoch,
            log_start: bounds.log_start,
            high_watermark: bounds.high_watermark,
        })
    }
}

/// Until when there is nothing to do for a partition.
#[derive(Debug, Clone, Copy)]
struct Rest {
    /// As long as this is what there is; `None` for whatever happens.
    seen: Option<Seen>,
    until_ms: i64,
}

fn id_of(partition: &Partition) -> PartitionId {
    let at = partition.at();
    PartitionId {
        topic_id: at.topic_id,
        partition: at.partition,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_tier::{Manifest, PartitionId, Writer};

    #[test]
    fn a_new_leader_does_not_say_where_the_log_began_for_another() {
        let cold = Cold::default();
        assert_eq!(cold.start_above(486, Some(1)), None);
        let id = PartitionId {
            topic_id: Uuid([1; 16]),
            partition: 0,
        };
        let writer = Writer {
            generation: 1,
            leader_epoch: 1,
            id: Uuid([2; 16]),
        };
        let mut manifest = Manifest::first("t", id, writer, 398);
        manifest.end_offset = 527;
        *lock(&cold.known) = Some(Known {
            epoch: 1,
            look_again: false,
            manifest: Arc::new(manifest),
            crc32: None,
            since_ms: 0,
        });
        for (log_start, start) in [(300, 300), (398, 398), (486, 398), (527, 398), (528, 528)] {
            assert_eq!(cold.start_above(log_start, Some(1)), Some(start));
            // Who follows is asked by readers that are near.
            assert_eq!(cold.start_above(log_start, None), Some(start));
            // By now it may be above what others have told readers.
            assert_eq!(cold.start_above(log_start, Some(3)), None);
        }
        // Whatever became of its own last write, nobody else has moved the start.
        cold.look_again();
        assert_eq!(cold.start_above(486, Some(1)), Some(398));
    }
}
