//! The partitions that this broker holds, kept in step with the metadata image.

use super::aside::{DELETED_SUFFIX, STRAY_SUFFIX, free_path};
use super::log_dir::lock;
use super::{LogDir, Partition, Policy, WalSettings, is_full};
use crate::fatal::Failed;
use crate::import::UNFINISHED;
use crate::metrics::Metrics;
use crate::replica::Replicas;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use tidemark_config::{BrokerLayers, BrokerSettings, ConfigError, ConfigMap, TopicSettings};
use tidemark_env::disk::Disk;
use tidemark_env::{clock, task};
use tidemark_log::{LogError, OnCorruption, OpenError};
use tidemark_model::{
    BrokerId, ConfigResource, Image, Topic, TopicChange, TopicId, TopicPartition,
};
use tidemark_replication::{BrokerView, PartitionView};
use tidemark_wal::{Lsn, Record};
use tidemark_wire::ErrorCode;
use tokio::sync::watch;

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

impl RegistryError {
    /// Whether a disk had no room.
    pub(crate) fn is_full(&self) -> bool {
        match self {
            Self::Directory { source, .. }
            | Self::Open {
                source: OpenError::Io(source),
                ..
            }
            | Self::Wal {
                source: OpenError::Io(source),
                ..
            } => is_full(source),
            _ => false,
        }
    }
}

/// What the registry needs of its broker.
pub(crate) struct RegistryArgs {
    pub(crate) wal: WalSettings,
    /// Told when a data directory's disk has failed.
    pub(crate) failed: Failed,
    pub(crate) broker_id: BrokerId,
    /// What all replicas share.
    pub(crate) replicas: Arc<Replicas>,
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

/// What is registered of a partition.
type State = Arc<tidemark_model::Partition>;

/// All partitions of this broker.
pub(crate) struct Registry {
    pub(super) args: RegistryArgs,
    /// The data directories, in the order of `log.dirs`, once they are open.
    pub(super) log_dirs: RwLock<Vec<Arc<LogDir>>>,
    pub(super) partitions: RwLock<HashMap<(TopicId, i32), Arc<Partition>>>,
    pub(super) offline: RwLock<Arc<OfflineLogs>>,
    /// Partitions whose first records have to come from the bucket before they can be opened.
    pub(super) unseeded: Mutex<BTreeSet<(TopicId, i32)>>,
    /// Partitions that a full disk has no room to open: they are opened once there is some.
    pub(super) without_room: Mutex<BTreeSet<(TopicId, i32)>>,
    /// The image that the partitions are in step with.
    pub(super) applied: Mutex<Arc<Image>>,
    /// Its brokers, as replicas see them.
    brokers: Mutex<Arc<Vec<BrokerView>>>,
    pub(super) applied_index: watch::Sender<u64>,
    /// Partitions opened of those to be opened, while the broker starts.
    pub(crate) opened: AtomicUsize,
    pub(crate) to_open: AtomicUsize,
    pub(crate) scanned_bytes: AtomicU64,
}

/// Threads that open logs at start, and close them at the end.
pub(super) const OPENER_THREADS: usize = 4;

impl Registry {
    /// An empty registry.
    pub(crate) fn new(args: RegistryArgs) -> Registry {
        Registry {
            args,
            log_dirs: RwLock::default(),
            partitions: RwLock::default(),
            offline: RwLock::default(),
            unseeded: Mutex::default(),
            without_room: Mutex::default(),
            applied: Mutex::default(),
            brokers: Mutex::default(),
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
    pub(crate) fn find(
        &self,
        image: &Image,
        topic_id: TopicId,
        index: i32,
    ) -> Result<Arc<Partition>, ErrorCode> {
        self.get(topic_id, index).ok_or_else(|| {
            let without_room = || lock(&self.without_room).contains(&(topic_id, index));
            if self.offline().contains_key(&(topic_id, index)) || without_room() {
                return ErrorCode::KafkaStorageError;
            }
            match image.partition(topic_id, index) {
                // Held elsewhere, or about to be held here.
                Some(_) => ErrorCode::NotLeaderOrFollower,
                None => ErrorCode::UnknownTopicOrPartition,
            }
        })
    }

    /// Partitions whose first records have to come from the bucket.
    pub(crate) fn unseeded(&self) -> Vec<(TopicId, i32)> {
        let unseeded = self.unseeded.lock().unwrap_or_else(PoisonError::into_inner);
        unseeded.iter().copied().collect()
    }

    /// A partition's first records are in the directory `from`: it goes to its place, and the
    /// partition is served. Says whether there is still such a partition here that waits for them;
    /// `then` acts on it before the metadata go on. Blocks.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn seeded(
        &self,
        topic_id: TopicId,
        index: i32,
        from: &Path,
        settings: &BrokerSettings,
        then: impl FnOnce(&Image),
    ) -> std::io::Result<bool> {
        let applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        let image = Arc::clone(&applied);
        let waiting = || self.unseeded.lock().unwrap_or_else(PoisonError::into_inner);
        let forget = || waiting().remove(&(topic_id, index));
        let waits = waiting().contains(&(topic_id, index));
        let topic = image.topic_by_id(topic_id);
        let topic = topic.filter(|topic| waits && self.placed_here(topic).contains(&index));
        let Some(topic) = topic else {
            // It went, or was opened without them.
            forget();
            self.args.disk.remove_dir_all(from)?;
            return Ok(false);
        };
        if let Some(parent) = from.parent() {
            let path = parent.join(format!("{}-{index}", topic.name));
            self.args.disk.rename(from, &path)?;
            self.args.disk.sync_dir(parent)?;
        }
        forget();
        self.open_late(&image, topic, settings, |waited| waited == index);
        then(&image);
        Ok(true)
    }

    /// Whether partitions wait for room to be opened.
    pub(crate) fn waits_for_room(&self) -> bool {
        !lock(&self.without_room).is_empty()
    }

    /// Opens what there was no room for, once there is some and if it is still to be here; `then`
    /// acts on it before the metadata go on. Blocks.
    pub(crate) fn open_what_had_no_room(
        &self,
        settings: &BrokerSettings,
        then: impl FnOnce(&Image),
    ) {
        if self.log_dirs().iter().all(|dir| dir.is_full()) {
            return;
        }
        let applied = lock(&self.applied);
        let image = Arc::clone(&applied);
        let waiting = std::mem::take(&mut *lock(&self.without_room));
        let topics: BTreeSet<TopicId> = waiting.iter().map(|(topic_id, _)| *topic_id).collect();
        for topic in topics.iter().filter_map(|id| image.topic_by_id(*id)) {
            self.open_late(&image, topic, settings, |index| {
                waiting.contains(&(topic.id, index))
            });
        }
        then(&image);
    }

    /// Opens those partitions of a topic that waited for something, and shows them what the metadata
    /// say. Blocks.
    fn open_late(
        &self,
        image: &Image,
        topic: &Topic,
        settings: &BrokerSettings,
        waited: impl Fn(i32) -> bool,
    ) {
        self.open_missing(image, topic, settings);
        let mut states = self.states(topic, None);
        states.retain(|(at, _)| waited(at.partition));
        self.show(image, states);
    }

    /// What all replicas share.
    pub(crate) fn replicas(&self) -> &Arc<Replicas> {
        &self.args.replicas
    }

    /// Partitions that are placed here and whose logs cannot be used.
    pub(crate) fn offline(&self) -> Arc<OfflineLogs> {
        Arc::clone(&self.offline.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn change_offline(&self, change: impl FnOnce(&mut OfflineLogs)) {
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

    /// Brings the partitions in step with a newer image. Blocks.
    pub(crate) fn apply(&self, image: &Arc<Image>, settings: &BrokerSettings) {
        let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        let changes = image.changes_since(&applied);
        for change in &changes.topics {
            match change {
                TopicChange::Deleted(topic) => self.delete(topic, self.placed_here(topic)),
                TopicChange::Created(topic) => self.open_missing(image, topic, settings),
                TopicChange::Changed { before, after } => {
                    let stay = self.placed_here(after);
                    let mut gone = self.placed_here(before);
                    gone.retain(|index| !stay.contains(index));
                    if !gone.is_empty() {
                        self.delete(before, gone);
                    }
                    self.open_missing(image, after, settings);
                }
            }
        }
        let broker_changed = changes
            .configs
            .iter()
            .any(|r| matches!(r, ConfigResource::AllBrokers | ConfigResource::Broker(_)));
        // What a topic's replicas act on, besides its own state.
        let all_changed = broker_changed || !changes.brokers.is_empty();
        let mut changed = Vec::new();
        for change in &changes.topics {
            match change {
                TopicChange::Created(topic) => changed.extend(self.states(topic, None)),
                TopicChange::Changed { before, after } => {
                    changed.extend(self.states(after, Some(before)));
                }
                TopicChange::Deleted(_) => {}
            }
        }
        for resource in &changes.configs {
            if let ConfigResource::Topic(id) = resource
                && let Some(topic) = image.topic_by_id(*id)
            {
                self.refresh_policy(image, topic, settings);
                changed.extend(self.states(topic, None));
            }
        }
        if broker_changed {
            image
                .topics()
                .for_each(|topic| self.refresh_policy(image, topic, settings));
        }
        match all_changed {
            true => self.show_all(image),
            false => self.show(image, changed),
        }
        *applied = Arc::clone(image);
    }

    /// The states of a topic's partitions here: all, or those that are not what they were.
    fn states(&self, topic: &Topic, before: Option<&Topic>) -> Vec<(TopicPartition, State)> {
        let placed = self.placed_here(topic).into_iter();
        let changed = placed.filter_map(|partition| {
            let state = topic.partition(partition)?;
            let was = before.and_then(|before| before.partition(partition));
            let at = TopicPartition {
                topic_id: topic.id,
                partition,
            };
            was.is_none_or(|was| !Arc::ptr_eq(was, state))
                .then(|| (at, Arc::clone(state)))
        });
        changed.collect()
    }

    /// Shows all replicas what the metadata says, and waits until those that lead serve. Blocks.
    pub(super) fn show_all(&self, image: &Image) {
        let all = image.partitions_on(self.args.broker_id);
        self.show(image, all.map(|(at, state)| (at, Arc::clone(state))));
    }

    /// Shows replicas what the metadata says, and waits until those that lead from now on serve.
    /// Blocks.
    fn show(&self, image: &Image, states: impl IntoIterator<Item = (TopicPartition, State)>) {
        let brokers = self.brokers(image);
        let mut starting: HashMap<PathBuf, Lsn> = HashMap::new();
        for (at, state) in states {
            let Some(partition) = self.get(at.topic_id, at.partition) else {
                continue;
            };
            let min_isr = partition.policy().settings.min_insync_replicas;
            let view = PartitionView {
                image_index: i64::try_from(image.index()).unwrap_or(i64::MAX),
                effective_min_isr: state.effective_min_isr(min_isr),
                state,
                brokers: Arc::clone(&brokers),
            };
            if let Some(lsn) = partition.take_view(view) {
                let last = starting
                    .entry(partition.dir().path().to_path_buf())
                    .or_default();
                *last = lsn.max(*last);
            }
        }
        for dir in self.log_dirs() {
            if let Some(lsn) = starting.get(dir.path())
                && let Err(error) = dir.wait_durable(*lsn)
            {
                tracing::error!(dir = %dir.path().display(), %error, "new leader epochs do not begin");
            }
        }
    }

    /// The brokers of an image, the same for all partitions until one changes.
    fn brokers(&self, image: &Image) -> Arc<Vec<BrokerView>> {
        let newest = image.brokers().map(|broker| BrokerView {
            id: broker.id,
            epoch: broker.epoch,
            fenced: !broker.is_active(),
        });
        let newest: Vec<BrokerView> = newest.collect();
        let mut known = self.brokers.lock().unwrap_or_else(PoisonError::into_inner);
        if **known != newest {
            *known = Arc::new(newest);
        }
        Arc::clone(&known)
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

    pub(super) fn placed_here(&self, topic: &Topic) -> Vec<i32> {
        let here = |replicas: &[BrokerId]| replicas.contains(&self.args.broker_id);
        topic
            .partitions
            .iter()
            .enumerate()
            .filter(|(_, p)| here(&p.replicas))
            .map(|(i, _)| i as i32)
            .collect()
    }

    pub(super) fn policy(
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

    /// Removes logs of a topic. That they are gone is durable before their files go. Blocks.
    fn delete(&self, topic: &Topic, indexes: Vec<i32>) {
        let mut gone = Vec::new();
        for index in indexes {
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
            dir.remove(log.id());
            // A failed disk holds no records that anybody would apply.
            let said = dir.wal.append(log.id(), &Record::Delete, |_| None);
            gone.push((log.dir(), dir, said.ok()));
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
            let disk = Arc::clone(&self.args.disk);
            let name = format!("{}.{}", name.to_string_lossy(), topic.id);
            let renamed = free_path(&*disk, parent, &name, DELETED_SUFFIX).and_then(|doomed| {
                disk.rename(&path, &doomed)?;
                disk.sync_dir(parent)?;
                Ok(doomed)
            });
            match renamed {
                Ok(doomed) => remove_in_background(disk, doomed),
                Err(error) => {
                    tracing::error!(dir = %path.display(), %error, "a deleted topic's files stay");
                }
            }
        }
    }

    /// Removes what deletions left, and sets aside directories of topics that the metadata lacks.
    pub(super) fn set_strays_aside(&self, image: &Image) -> Result<(), RegistryError> {
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
                let placed = known.and_then(|found| found.partition(index));
                if placed.is_some_and(|state| state.replicas.contains(&self.args.broker_id)) {
                    continue;
                }
                let stray = format!("{name}.{}", id.unwrap_or_default());
                let aside =
                    free_path(&*self.args.disk, dir, &stray, STRAY_SUFFIX).map_err(failed)?;
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
                tracing::error!(dir = %dir.path().display(), reason, "logs are not closed cleanly");
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
                let part = log.close(cut, partition.of(), clock::now_ms())?;
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
                    dir = %dir.path().display(), error,
                    "logs were not closed cleanly; the next start recovers them"
                );
            }
        }
    }
}

fn remove_in_background(disk: Arc<dyn Disk>, dir: PathBuf) {
    let started = task::background("delete-log", move || {
        if let Err(error) = disk.remove_dir_all(&dir) {
            tracing::error!(dir = %dir.display(), %error, "a deleted log's files stay; remove them by hand");
        }
    });
    if let Err(error) = started {
        tracing::error!(%error, "no thread to remove a deleted log; it goes at the next start");
    }
}
