//! The partitions that this broker holds, kept in step with the metadata image.

use super::{Flusher, Partition, Policy};
use crate::import::UNFINISHED;
use crate::metrics::Metrics;
use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use tidemark_config::{BrokerLayers, BrokerSettings, ConfigError, ConfigMap, TopicSettings};
use tidemark_env::disk::Disk;
use tidemark_env::{clock, task};
use tidemark_log::{Log, OnCorruption, OpenArgs, OpenError, Recovery};
use tidemark_model::{BrokerId, ConfigResource, Image, Topic, TopicChange, TopicId};
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
    /// Settings in the metadata make no sense.
    #[error("topic {topic}: {source}")]
    Config {
        /// The topic.
        topic: String,
        /// Why.
        source: ConfigError,
    },
    /// A thread could not be started.
    #[error("no thread: {0}")]
    Thread(std::io::Error),
}

/// What the registry needs of its broker.
pub(crate) struct RegistryArgs {
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
    flusher: Arc<Flusher>,
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

/// Flusher threads; enough for the file system to merge their journal commits.
const FLUSHER_THREADS: usize = 4;
/// Threads that open logs at start, and close them at the end.
const OPENER_THREADS: usize = 4;

impl Registry {
    /// An empty registry.
    pub(crate) fn new(args: RegistryArgs) -> Result<Registry, RegistryError> {
        let flusher = Flusher::start(FLUSHER_THREADS, Arc::clone(&args.metrics))
            .map_err(RegistryError::Thread)?;
        Ok(Registry {
            args,
            flusher,
            partitions: RwLock::default(),
            offline: RwLock::default(),
            applied: Mutex::default(),
            applied_index: watch::Sender::new(0),
            opened: AtomicUsize::new(0),
            to_open: AtomicUsize::new(0),
            scanned_bytes: AtomicU64::new(0),
        })
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

    /// Opens everything that `image` places here. Directories that it does not know are set aside.
    /// Blocks.
    pub(crate) fn open_all(
        &self,
        image: &Arc<Image>,
        settings: &BrokerSettings,
    ) -> Result<(), RegistryError> {
        self.set_strays_aside(image)?;
        let mut wanted = Vec::new();
        for topic in image.topics() {
            let policy = self.policy(image, topic, settings)?;
            for index in self.placed_here(topic) {
                wanted.push((Arc::clone(topic), index, Arc::clone(&policy)));
            }
        }
        self.to_open.store(wanted.len(), Ordering::Relaxed);
        let open = |(topic, index, policy): (Arc<Topic>, i32, Arc<Policy>)| {
            self.open_or_set_offline(&topic, index, policy)
        };
        task::in_parallel("open-log", OPENER_THREADS, wanted, open)?;
        *self.applied.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(image);
        self.applied_index.send_replace(image.index());
        Ok(())
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
        for index in self.placed_here(topic) {
            if self.get(topic.id, index).is_none()
                && let Err(error) = self.open_or_set_offline(topic, index, Arc::clone(&policy))
            {
                tracing::error!(%error, "partition is not served");
            }
        }
    }

    /// Opens a partition. One whose log is damaged is offline and says so; the others are served.
    fn open_or_set_offline(
        &self,
        topic: &Topic,
        index: i32,
        policy: Arc<Policy>,
    ) -> Result<(), RegistryError> {
        match self.open(topic, index, policy) {
            Err(
                error @ RegistryError::Open {
                    source: OpenError::Corrupt { .. } | OpenError::BadFile { .. },
                    ..
                },
            ) => {
                tracing::error!(%error, "partition is offline: nothing of it is given out or taken in");
                let log = OfflineLog {
                    topic: Arc::clone(&topic.name),
                    reason: error.to_string(),
                };
                self.change_offline(|offline| drop(offline.insert((topic.id, index), log)));
                Ok(())
            }
            other => other,
        }
    }

    fn open(&self, topic: &Topic, index: i32, policy: Arc<Policy>) -> Result<(), RegistryError> {
        let failed = |source| RegistryError::Open {
            topic: topic.name.to_string(),
            partition: index,
            source,
        };
        let Some(placed) = topic.partition(index) else {
            return Ok(());
        };
        let dir = self.directory(&topic.name, index);
        let (mut log, recovery) = Log::open(OpenArgs {
            disk: Arc::clone(&self.args.disk),
            dir: dir.clone(),
            topic_id: Some(topic.id),
            config: Arc::clone(&policy.log),
            on_corruption: self.args.on_corruption,
            now_ms: clock::now_ms(),
        })
        .map_err(failed)?;
        self.scanned_bytes
            .fetch_add(recovery.scanned_bytes, Ordering::Relaxed);
        report_cut(&dir, &recovery);
        log.start_epoch(placed.leader_epoch)
            .map_err(|error| failed(OpenError::Io(std::io::Error::other(error))))?;
        let partition = Arc::new(Partition::new(
            Arc::clone(&topic.name),
            index,
            log,
            placed.leader_epoch,
            policy,
            Arc::clone(&self.flusher),
        ));
        self.partitions
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert((topic.id, index), partition);
        // One that was offline can be mended while the broker runs.
        if self.offline().contains_key(&(topic.id, index)) {
            self.change_offline(|offline| drop(offline.remove(&(topic.id, index))));
        }
        self.opened.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Where a partition is, or is to be: the directory that has it, else the emptiest one.
    fn directory(&self, topic: &str, index: i32) -> PathBuf {
        let name = format!("{topic}-{index}");
        let existing = self
            .args
            .dirs
            .iter()
            .map(|dir| dir.join(&name))
            .find(|dir| self.args.disk.exists(dir).unwrap_or(false));
        if let Some(existing) = existing {
            return existing;
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
        emptiest
            .map(|dir| dir.join(&name))
            .unwrap_or_else(|| PathBuf::from(name))
    }

    fn delete(&self, topic: &Topic) {
        for index in self.placed_here(topic) {
            self.change_offline(|offline| drop(offline.remove(&(topic.id, index))));
            let removed = self
                .partitions
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&(topic.id, index));
            let Some(log) = removed.and_then(|partition| partition.close()) else {
                continue;
            };
            let dir = log.dir().to_path_buf();
            drop(log);
            let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else {
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
                .rename(&dir, &doomed)
                .and_then(|()| disk.sync_dir(parent));
            match renamed {
                Ok(()) => remove_in_background(disk, doomed),
                Err(error) => {
                    tracing::error!(dir = %dir.display(), %error, "a deleted topic's files stay");
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
        let close = |partition: Arc<Partition>| {
            if let Some(log) = partition.close()
                && let Err(error) = log.close(clock::now_ms())
            {
                tracing::error!(
                    topic = %partition.topic, partition = partition.index, %error,
                    "a log was not closed cleanly; the next start recovers it"
                );
            }
            Ok::<(), Infallible>(())
        };
        let Ok(()) = task::in_parallel("close-log", OPENER_THREADS, partitions, close);
        self.flusher.stop();
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
