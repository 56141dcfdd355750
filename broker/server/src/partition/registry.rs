//! The partitions that this broker holds, kept in step with the metadata image.

use super::{LogDir, Partition, Policy, WalSettings};
use crate::import::UNFINISHED;
use crate::metrics::Metrics;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use tidemark_config::{BrokerLayers, BrokerSettings, ConfigError, ConfigMap, TopicSettings};
use tidemark_env::disk::Disk;
use tidemark_env::{clock, task};
use tidemark_log::{
    Journal, KeptTail, Known, Log, LogError, OnCorruption, OpenArgs, OpenError, RecoveredDir,
    Recovery,
};
use tidemark_model::{BrokerId, ConfigResource, Image, Topic, TopicChange, TopicId};
use tidemark_wal::{LogId, Lsn, Record};
use tidemark_wire::ErrorCode;
use tokio::sync::watch;

/// A directory that waits for its removal ends so.
const DELETED_SUFFIX: &str = "-delete";
/// A directory that belongs to no topic of the metadata ends so.
const STRAY_SUFFIX: &str = "-stray";

/// Why partitions could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// A log cannot be opened.
    #[error("partition {topic}-{partition}: {source}")]
    Open {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// Why.
        source: OpenError,
    },
    /// A data directory cannot be listed or changed.
    #[error("data directory: {source}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why, naming the path.
        source: std::io::Error,
    },
    /// A checkpoint or a write-ahead log cannot be used.
    #[error("data directory {path}: {source}")]
    Wal {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: OpenError,
    },
    /// Settings in the metadata make no sense.
    #[error("topic {topic}: {source}")]
    Config {
        /// The topic.
        topic: String,
        /// Why.
        source: ConfigError,
    },
}

/// What the registry needs of its broker.
pub(crate) struct RegistryArgs {
    pub(crate) wal: WalSettings,
    /// Told when a data directory's disk has failed.
    pub(crate) failed: watch::Sender<Option<String>>,
    pub(crate) broker_id: BrokerId,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dirs: Vec<PathBuf>,
    pub(crate) fixed: ConfigMap,
    pub(crate) on_corruption: OnCorruption,
    pub(crate) metrics: Arc<Metrics>,
}

/// A partition that is placed here and whose log cannot be used.
#[derive(Debug, Clone)]
pub(crate) struct OfflineLog {
    pub(crate) topic: Arc<str>,
    /// `partition topic-index: why`, and what to do.
    pub(crate) reason: String,
}

/// The partitions whose logs cannot be used.
pub(crate) type OfflineLogs = BTreeMap<(TopicId, i32), OfflineLog>;

/// All partitions of this broker.
pub(crate) struct Registry {
    args: RegistryArgs,
    /// The data directories, in the order of `log.dirs`, once they are open.
    log_dirs: RwLock<Vec<Arc<LogDir>>>,
    partitions: RwLock<HashMap<(TopicId, i32), Arc<Partition>>>,
    offline: RwLock<Arc<OfflineLogs>>,
    /// The image that the partitions are in step with.
    applied: Mutex<Arc<Image>>,
    applied_index: watch::Sender<u64>,
    /// Partitions opened of those to be opened, while the broker starts.
    pub(crate) opened: AtomicUsize,
    pub(crate) to_open: AtomicUsize,
    pub(crate) scanned_bytes: AtomicU64,
}

/// What the data directories were left with, while their logs are opened.
type Left = BTreeMap<PathBuf, Mutex<RecoveredDir>>;

/// A partition that is open and is served when its leader epoch is durable.
struct Opened {
    id: (TopicId, i32),
    log_id: LogId,
    partition: Arc<Partition>,
    epoch_lsn: Option<Lsn>,
    /// Its files were there before: a checkpoint has to speak of them.
    found: bool,
}

/// Threads that open logs at start, and close them at the end.
const OPENER_THREADS: usize = 4;

impl Registry {
    /// An empty registry.
    pub(crate) fn new(args: RegistryArgs) -> Registry {
        Registry {
            args,
            log_dirs: RwLock::default(),
            partitions: RwLock::default(),
            offline: RwLock::default(),
            applied: Mutex::default(),
            applied_index: watch::Sender::new(0),
            opened: AtomicUsize::new(0),
            to_open: AtomicUsize::new(0),
            scanned_bytes: AtomicU64::new(0),
        }
    }

    /// The data directories, once they are open.
    pub(crate) fn log_dirs(&self) -> Vec<Arc<LogDir>> {
        self.log_dirs
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The settings of this broker in `image`.
    pub(crate) fn layers<'a>(&'a self, image: &'a Image) -> BrokerLayers<'a> {
        BrokerLayers {
            dynamic: image.configs(&ConfigResource::Broker(self.args.broker_id)),
            dynamic_default: image.configs(&ConfigResource::AllBrokers),
            fixed: &self.args.fixed,
        }
    }

    /// A partition that is held here.
    pub(crate) fn get(&self, topic_id: TopicId, index: i32) -> Option<Arc<Partition>> {
        self.partitions
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&(topic_id, index))
            .cloned()
    }

    /// A partition that is held here, or the error for a client that asks for it.
    pub(crate) fn find(&self, topic_id: TopicId, index: i32) -> Result<Arc<Partition>, ErrorCode> {
        self.get(topic_id, index).ok_or_else(|| {
            match self.offline().contains_key(&(topic_id, index)) {
                true => ErrorCode::KafkaStorageError,
                false => ErrorCode::UnknownTopicOrPartition,
            }
        })
    }

    /// Partitions that are placed here and whose logs cannot be used.
    pub(crate) fn offline(&self) -> Arc<OfflineLogs> {
        Arc::clone(&self.offline.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change_offline(&self, change: impl FnOnce(&mut OfflineLogs)) {
        let mut offline = self.offline.write().unwrap_or_else(PoisonError::into_inner);
        change(Arc::make_mut(&mut offline));
    }

    /// All partitions, in no particular order.
    pub(crate) fn all(&self) -> Vec<Arc<Partition>> {
        self.partitions
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    /// The data directories.
    pub(crate) fn dirs(&self) -> &[PathBuf] {
        &self.args.dirs
    }

    /// The disk that they are on.
    pub(crate) fn disk(&self) -> &Arc<dyn Disk> {
        &self.args.disk
    }

    /// Opens everything that `image` places here, with what the write-ahead logs hold. Directories
    /// that the image does not know are set aside. Blocks.
    pub(crate) fn open_all(
        &self,
        image: &Arc<Image>,
        settings: &BrokerSettings,
    ) -> Result<(), RegistryError> {
        let left = self.open_dirs()?;
        self.set_strays_aside(image)?;
        let mut wanted = Vec::new();
        for topic in image.topics() {
            let policy = self.policy(image, topic, settings)?;
            for index in self.placed_here(topic) {
                wanted.push((Arc::clone(topic), index, Arc::clone(&policy)));
            }
        }
        self.to_open.store(wanted.len(), Ordering::Relaxed);
        let opened = Mutex::new(Vec::with_capacity(wanted.len()));
        let open = |(topic, index, policy): (Arc<Topic>, i32, Arc<Policy>)| {
            if let Some(one) = self.open_or_set_offline(&topic, index, policy, Some(&left))? {
                let mut opened = opened.lock().unwrap_or_else(PoisonError::into_inner);
                opened.push(one);
            }
            Ok(())
        };
        task::in_parallel("open-log", OPENER_THREADS, wanted, open)?;
        let mut opened = opened.into_inner().unwrap_or_else(PoisonError::into_inner);
        for dir in self.log_dirs() {
            for one in opened
                .iter()
                .filter(|one| Arc::ptr_eq(one.partition.dir(), &dir))
            {
                dir.add(one.log_id, Arc::clone(&one.partition));
            }
            // Everything that was found is durable, and noted, before anything is added to it.
            dir.opened(&self.args.wal)
                .map_err(|source| RegistryError::Directory {
                    path: dir.path.clone(),
                    source,
                })?;
        }
        for one in &mut opened {
            let epoch = one.partition.leader_epoch();
            // A log that cannot take it says so to whoever asks.
            let started = one.partition.with_log(|log, _| log.start_epoch(epoch));
            one.epoch_lsn = started.ok().and_then(Result::ok).flatten();
        }
        self.serve(opened);
        *self.applied.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(image);
        self.applied_index.send_replace(image.index());
        Ok(())
    }

    /// Opens the write-ahead logs; gives what they and the checkpoints know of each log.
    fn open_dirs(&self) -> Result<Left, RegistryError> {
        let cut_corrupt = self.args.on_corruption == OnCorruption::Truncate;
        let mut left = Left::new();
        let mut dirs = Vec::with_capacity(self.args.dirs.len());
        for path in &self.args.dirs {
            let (dir, recovered) = LogDir::open(
                &self.args.disk,
                path,
                &self.args.wal,
                cut_corrupt,
                &self.args.metrics,
                self.args.failed.clone(),
            )
            .map_err(|source| RegistryError::Wal {
                path: path.clone(),
                source,
            })?;
            left.insert(path.clone(), Mutex::new(recovered));
            dirs.push(dir);
        }
        *self
            .log_dirs
            .write()
            .unwrap_or_else(PoisonError::into_inner) = dirs;
        Ok(left)
    }

    /// Serves partitions once the epochs that they are led in are durable. Blocks.
    fn serve(&self, opened: Vec<Opened>) {
        for one in opened {
            let dir = one.partition.dir();
            let waited = match one.epoch_lsn {
                Some(lsn) => dir.wait_durable(lsn),
                None => Ok(()),
            };
            if let Err(error) = waited {
                tracing::error!(topic = %one.partition.topic, partition = one.partition.index, %error, "partition is not served");
                continue;
            }
            self.partitions
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(one.id, one.partition);
            // One that was offline can be mended while the broker runs.
            if self.offline().contains_key(&one.id) {
                self.change_offline(|offline| drop(offline.remove(&one.id)));
            }
            self.opened.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Brings the partitions in step with a newer image. Blocks.
    pub(crate) fn apply(&self, image: &Arc<Image>, settings: &BrokerSettings) {
        let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        let changes = image.changes_since(&applied);
        for change in &changes.topics {
            match change {
                TopicChange::Deleted(topic) => self.delete(topic),
                TopicChange::Created(topic) => self.open_missing(image, topic, settings),
                TopicChange::Changed { after, .. } => self.open_missing(image, after, settings),
            }
        }
        let broker_changed = changes
            .configs
            .iter()
            .any(|r| matches!(r, ConfigResource::AllBrokers | ConfigResource::Broker(_)));
        if broker_changed {
            image
                .topics()
                .for_each(|topic| self.refresh_policy(image, topic, settings));
        } else {
            for resource in &changes.configs {
                if let ConfigResource::Topic(id) = resource
                    && let Some(topic) = image.topic_by_id(*id)
                {
                    self.refresh_policy(image, topic, settings);
                }
            }
        }
        *applied = Arc::clone(image);
    }

    /// Tells who waits that all is in step with the image of `index`.
    pub(crate) fn publish(&self, index: u64) {
        self.applied_index.send_replace(index);
    }

    /// Waits until the partitions are in step with the image of `index`.
    pub(crate) async fn applied(&self, index: u64) {
        let mut applied = self.applied_index.subscribe();
        // The sender lives as long as the registry.
        drop(applied.wait_for(|at| *at >= index).await);
    }

    fn placed_here(&self, topic: &Topic) -> Vec<i32> {
        let here = |replicas: &[BrokerId]| replicas.contains(&self.args.broker_id);
        topic
            .partitions
            .iter()
            .enumerate()
            .filter(|(_, p)| here(&p.replicas))
            .map(|(i, _)| i as i32)
            .collect()
    }

    fn policy(
        &self,
        image: &Image,
        topic: &Topic,
        broker: &BrokerSettings,
    ) -> Result<Arc<Policy>, RegistryError> {
        let failed = |source| RegistryError::Config {
            topic: topic.name.to_string(),
            source,
        };
        let layers = self.layers(image);
        let settings =
            TopicSettings::resolve(image.configs(&ConfigResource::Topic(topic.id)), layers)
                .map_err(failed)?;
        Ok(Arc::new(Policy::new(
            settings,
            broker.producer_id_expiration_ms,
        )))
    }

    fn refresh_policy(&self, image: &Image, topic: &Topic, settings: &BrokerSettings) {
        match self.policy(image, topic, settings) {
            Ok(policy) => {
                for index in self.placed_here(topic) {
                    if let Some(partition) = self.get(topic.id, index) {
                        partition.set_policy(Arc::clone(&policy));
                    }
                }
            }
            Err(error) => {
                tracing::error!(%error, "settings in the metadata cannot be used; the old ones stay in force");
            }
        }
    }

    fn open_missing(&self, image: &Image, topic: &Topic, settings: &BrokerSettings) {
        let policy = match self.policy(image, topic, settings) {
            Ok(policy) => policy,
            Err(error) => return tracing::error!(%error, "topic is not served"),
        };
        let mut opened = Vec::new();
        for index in self.placed_here(topic) {
            if self.get(topic.id, index).is_some() {
                continue;
            }
            match self.open_or_set_offline(topic, index, Arc::clone(&policy), None) {
                Ok(one) => opened.extend(one),
                Err(error) => tracing::error!(%error, "partition is not served"),
            }
        }
        for one in &mut opened {
            let dir = Arc::clone(one.partition.dir());
            dir.add(one.log_id, Arc::clone(&one.partition));
            let epoch = one.partition.leader_epoch();
            let started = one.partition.with_log(|log, _| log.start_epoch(epoch));
            one.epoch_lsn = started.ok().and_then(Result::ok).flatten();
        }
        // Files that were there before are known to no write-ahead log: a checkpoint has to.
        for dir in self.log_dirs() {
            let here = |one: &&Opened| one.found && Arc::ptr_eq(one.partition.dir(), &dir);
            if opened.iter().any(|one| here(&one))
                && let Err(error) = dir.checkpoint(false)
            {
                tracing::error!(%error, "partitions are not served");
                return;
            }
        }
        self.serve(opened);
    }

    /// Opens a partition. One whose log is damaged is offline and says so; the others are served.
    fn open_or_set_offline(
        &self,
        topic: &Topic,
        index: i32,
        policy: Arc<Policy>,
        left: Option<&Left>,
    ) -> Result<Option<Opened>, RegistryError> {
        let (path, found) = self.directory(&topic.name, index);
        let Some(dir) = self.log_dir_of(&path) else {
            return Ok(None);
        };
        let known = left.and_then(|left| {
            let mut left = left
                .get(&dir.path)?
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            left.take(topic.id, index)
        });
        let (log_id, known) = match known {
            Some((log_id, known)) => (log_id, Some(known)),
            None => (dir.next_log_id(), None),
        };
        match self.open(
            topic,
            index,
            policy,
            (&dir, log_id, path.clone()),
            known.clone(),
            found,
        ) {
            Err(
                error @ RegistryError::Open {
                    source: OpenError::Corrupt { .. } | OpenError::BadFile { .. },
                    ..
                },
            ) => {
                tracing::error!(%error, "partition is offline: nothing of it is given out or taken in");
                if let Some(known) = known {
                    self.keep_tail(&path, &known)?;
                    dir.add_offline(log_id, known.checkpoint);
                }
                let log = OfflineLog {
                    topic: Arc::clone(&topic.name),
                    reason: error.to_string(),
                };
                self.change_offline(|offline| drop(offline.insert((topic.id, index), log)));
                Ok(None)
            }
            other => other,
        }
    }

    /// What the write-ahead log holds of a log that cannot be opened must not go with the ring.
    fn keep_tail(&self, path: &Path, known: &Known) -> Result<(), RegistryError> {
        let kept =
            KeptTail::keep(&*self.args.disk, path, known).map_err(|source| RegistryError::Wal {
                path: path.to_path_buf(),
                source,
            })?;
        if let Some(kept) = kept {
            tracing::warn!(
                file = %kept.path.display(), bytes = kept.bytes,
                "the damaged log's newest records are kept in a file until it is mended"
            );
        }
        Ok(())
    }

    fn open(
        &self,
        topic: &Topic,
        index: i32,
        policy: Arc<Policy>,
        (dir, log_id, path): (&Arc<LogDir>, LogId, PathBuf),
        known: Option<Known>,
        found: bool,
    ) -> Result<Option<Opened>, RegistryError> {
        let failed = |source| RegistryError::Open {
            topic: topic.name.to_string(),
            partition: index,
            source,
        };
        let Some(placed) = topic.partition(index) else {
            return Ok(None);
        };
        if !found && known.is_none() {
            dir.create_log(log_id, topic.id, index)
                .map_err(|failure| failed(OpenError::Io(std::io::Error::other(failure))))?;
        }
        let trust_indexes = known.as_ref().is_some_and(|known| known.scan.is_none());
        let (log, recovery) = Log::open(OpenArgs {
            disk: Arc::clone(&self.args.disk),
            dir: path.clone(),
            topic_id: Some(topic.id),
            partition: index,
            journal: Some(Journal {
                wal: Arc::clone(&dir.wal),
                id: log_id,
            }),
            known,
            trust_indexes,
            config: Arc::clone(&policy.log),
            on_corruption: self.args.on_corruption,
            now_ms: clock::now_ms(),
        })
        .map_err(failed)?;
        self.scanned_bytes.fetch_add(
            recovery.scanned_bytes + recovery.replayed_bytes,
            Ordering::Relaxed,
        );
        report_cut(&path, &recovery);
        let partition = Arc::new(Partition::new(
            Arc::clone(&topic.name),
            index,
            log,
            log_id,
            placed.leader_epoch,
            policy,
            Arc::clone(dir),
        ));
        Ok(Some(Opened {
            id: (topic.id, index),
            log_id,
            partition,
            epoch_lsn: None,
            found,
        }))
    }

    fn log_dir_of(&self, path: &Path) -> Option<Arc<LogDir>> {
        self.log_dirs()
            .into_iter()
            .find(|dir| Some(dir.path.as_path()) == path.parent())
    }

    /// Where a partition is, or is to be: the directory that has it, else the emptiest one; and
    /// whether it is there.
    fn directory(&self, topic: &str, index: i32) -> (PathBuf, bool) {
        let name = format!("{topic}-{index}");
        let existing = self
            .args
            .dirs
            .iter()
            .map(|dir| dir.join(&name))
            .find(|dir| self.args.disk.exists(dir).unwrap_or(false));
        if let Some(existing) = existing {
            return (existing, true);
        }
        let mut counts: BTreeMap<&Path, usize> = self
            .args
            .dirs
            .iter()
            .map(|dir| (dir.as_path(), 0))
            .collect();
        if counts.len() > 1 {
            for partition in self.all() {
                if let Ok((dir, _)) = partition.placed()
                    && let Some(count) = counts.get_mut(dir.as_path())
                {
                    *count += 1;
                }
            }
        }
        let emptiest = self
            .args
            .dirs
            .iter()
            .min_by_key(|dir| counts.get(dir.as_path()).copied().unwrap_or(0));
        let path = emptiest
            .map(|dir| dir.join(&name))
            .unwrap_or_else(|| PathBuf::from(name));
        (path, false)
    }

    /// Removes the logs of a topic. That they are gone is durable before their files go. Blocks.
    fn delete(&self, topic: &Topic) {
        let mut gone = Vec::new();
        for index in self.placed_here(topic) {
            self.change_offline(|offline| drop(offline.remove(&(topic.id, index))));
            let removed = self
                .partitions
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&(topic.id, index));
            let Some(partition) = removed else { continue };
            let Some(log) = partition.close() else {
                continue;
            };
            let dir = Arc::clone(partition.dir());
            dir.remove(partition.log_id);
            // A failed disk holds no records that anybody would apply.
            let said = dir.wal.append(partition.log_id, &Record::Delete, |_| None);
            gone.push((log.dir().to_path_buf(), dir, said.ok()));
        }
        for (path, dir, said) in gone {
            if let Some(placed) = said
                && let Err(error) = dir.wait_durable(placed.lsn)
            {
                tracing::error!(path = %path.display(), %error, "a deleted topic's files stay");
                continue;
            }
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
                continue;
            };
            // Renamed first: the name is free at once for a topic created again, and a crash in
            // the middle of the removal leaves nothing that looks like a partition.
            let doomed = parent.join(format!(
                "{}.{}{DELETED_SUFFIX}",
                name.to_string_lossy(),
                topic.id
            ));
            let disk = Arc::clone(&self.args.disk);
            let renamed = disk
                .rename(&path, &doomed)
                .and_then(|()| disk.sync_dir(parent));
            match renamed {
                Ok(()) => remove_in_background(disk, doomed),
                Err(error) => {
                    tracing::error!(dir = %path.display(), %error, "a deleted topic's files stay");
                }
            }
        }
    }

    /// Removes what deletions left, and sets aside directories of topics that the metadata lacks.
    fn set_strays_aside(&self, image: &Image) -> Result<(), RegistryError> {
        for dir in &self.args.dirs {
            let failed = |source| RegistryError::Directory {
                path: dir.clone(),
                source,
            };
            for entry in self.args.disk.list(dir).map_err(failed)? {
                let name = entry.name.clone();
                // Write-ahead logs are kept in a directory that has no partition's name.
                if !entry.is_dir || name.ends_with(STRAY_SUFFIX) {
                    continue;
                }
                // Nothing of an import that did not end is in the metadata: it is copied anew.
                if name.ends_with(DELETED_SUFFIX) || name == UNFINISHED {
                    remove_in_background(Arc::clone(&self.args.disk), dir.join(&name));
                    continue;
                }
                let Some((topic, index)) = name
                    .rsplit_once('-')
                    .and_then(|(t, i)| Some((t, i.parse::<i32>().ok()?)))
                else {
                    continue;
                };
                let id =
                    tidemark_log::topic_id_of(&*self.args.disk, &dir.join(&name)).unwrap_or(None);
                let known = image
                    .topic(topic)
                    .filter(|found| id.is_none_or(|id| id == found.id));
                if known.and_then(|found| found.partition(index)).is_some() {
                    continue;
                }
                let aside = dir.join(format!("{name}.{}{STRAY_SUFFIX}", id.unwrap_or_default()));
                tracing::warn!(
                    from = %name, to = %aside.display(),
                    "a directory belongs to no topic of the metadata and is set aside; \
                     take its records back with `tidemark topic import`, or remove it"
                );
                self.args
                    .disk
                    .rename(&dir.join(&name), &aside)
                    .map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Closes every log cleanly, so that the next start reads no records. Blocks.
    pub(crate) fn close(&self) {
        let partitions: Vec<Arc<Partition>> = {
            let mut held = self
                .partitions
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            held.drain().map(|(_, partition)| partition).collect()
        };
        for dir in self.log_dirs() {
            dir.stop();
            if let Some(reason) = dir.failure() {
                tracing::error!(dir = %dir.path.display(), reason, "logs are not closed cleanly");
                continue;
            }
            let cut = dir.wal.durable_lsn();
            let here: Vec<Arc<Partition>> = partitions
                .iter()
                .filter(|partition| Arc::ptr_eq(partition.dir(), &dir))
                .cloned()
                .collect();
            let parts = Mutex::new(Vec::with_capacity(here.len()));
            let close = |partition: Arc<Partition>| {
                let Some(log) = partition.close() else {
                    return Ok(());
                };
                let part = log.close(cut, clock::now_ms())?;
                parts
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(part);
                Ok::<_, LogError>(())
            };
            let closed = task::in_parallel("close-log", OPENER_THREADS, here, close);
            let parts = parts.into_inner().unwrap_or_else(PoisonError::into_inner);
            let noted = closed
                .map_err(|error| error.to_string())
                .and_then(|()| dir.closed(&parts).map_err(|error| error.to_string()));
            if let Err(error) = noted {
                tracing::error!(
                    dir = %dir.path.display(), error,
                    "logs were not closed cleanly; the next start recovers them"
                );
            }
        }
    }
}

/// Says what opening a log cut off its end. Records that were acknowledged are never cut quietly.
fn report_cut(dir: &Path, recovery: &Recovery) {
    let reason = recovery.cut_reason.as_deref().unwrap_or_default();
    let cut_bytes = recovery.cut_bytes;
    if recovery.lost_durable {
        let kept: Vec<String> = recovery
            .cut_kept_in
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        let kept_in = match kept.is_empty() {
            true => "nowhere: no whole batch was left in it".to_owned(),
            false => kept.join(", "),
        };
        tracing::error!(
            dir = %dir.display(), cut_bytes, kept_in, reason,
            "acknowledged records were cut off a damaged log, as --cut-corrupt-logs allows: they are lost to clients"
        );
    } else if cut_bytes > 0 {
        tracing::warn!(
            dir = %dir.display(), cut_bytes, reason,
            "the end of a log was cut: it was being written when the broker stopped"
        );
    }
}

fn remove_in_background(disk: Arc<dyn Disk>, dir: PathBuf) {
    let started = task::thread("delete-log", move || {
        if let Err(error) = disk.remove_dir_all(&dir) {
            tracing::error!(dir = %dir.display(), %error, "a deleted log's files stay; remove them by hand");
        }
    });
    if let Err(error) = started {
        tracing::error!(%error, "no thread to remove a deleted log; it goes at the next start");
    }
}
