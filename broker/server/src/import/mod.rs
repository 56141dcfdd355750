//! Taking partitions' directories that Kafka wrote into the data of a broker that is stopped.
//!
//! Copies are made and checked in a directory of their own, put in place when all are whole, and
//! become topics by one last change of the metadata: until then a start finds no new topic, and
//! sets aside what is already in place.

mod error;
mod source;
#[cfg(test)]
mod tests;

pub use error::ImportFailure;
pub use source::SourceError;

use crate::broker::new_id;
use crate::format::{FormatError, quorum_dir, read_formatted};
use crate::partition::{STRAY_SUFFIX, free_path};
use error::failed;
use source::{Found, Sources};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tidemark_config::{BrokerSettings, ConfigMap, TopicSettings};
use tidemark_env::clock;
use tidemark_env::disk::Disk;
use tidemark_log::checkpoint::{DirCheckpoint, LogCheckpoint};
use tidemark_log::import::{ImportArgs, ImportError, Imported, import_partition};
use tidemark_log::topic_id_of;
use tidemark_model::{Broker, ConfigResource, Image, MetadataRecord, Topic, TopicId};
use tidemark_quorum::decide::{self, Context, Decision, MorePartitions, NewTopic, Refusal};
use tidemark_quorum::{DirectoryIdentity, Offline};
use tidemark_wal::{LogId, RingId};

/// Copies that are not whole yet are in here, in each data directory.
pub(crate) const UNFINISHED: &str = ".import";
/// Kafka counts leader epochs and producer ids up from 0; what is above these never came from it,
/// and would leave no room to count on.
const MOST_LEADER_EPOCH: i32 = i32::MAX / 2;
const MOST_PRODUCER_ID: i64 = i64::MAX / 2;

/// What to import, and into which broker's data.
#[derive(Debug, Clone)]
pub struct ImportConfig {
    /// The broker's settings by Kafka's names; `log.dirs` says where its data is.
    pub settings: ConfigMap,
    /// The disk of the data and of the sources.
    pub disk: Arc<dyn Disk>,
    /// Partitions' directories (`<topic>-<partition>`), or directories that hold such.
    pub sources: Vec<PathBuf>,
    /// Settings of the topics that are made.
    pub topic_configs: Vec<(String, String)>,
}

/// A partition that was imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedPartition {
    /// Its topic.
    pub topic: String,
    /// Its index.
    pub partition: i32,
    /// The directory that it came from.
    pub source: PathBuf,
    /// What was in it.
    pub imported: Imported,
}

/// What was imported.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImportReport {
    /// By topic and partition.
    pub partitions: Vec<ImportedPartition>,
    /// What somebody should know, such as directories that were passed over.
    pub notes: Vec<String>,
}

/// How far an import is.
#[derive(Debug, Clone, Copy)]
pub struct ImportProgress<'a> {
    /// The directory that is being checked or copied.
    pub source: &'a Path,
    /// Bytes done, of all partitions; each byte is checked and then copied.
    pub done_bytes: u64,
    /// Bytes to be done.
    pub total_bytes: u64,
}

/// Imports partitions into the data of a broker that is stopped: all of them, or none. The sources
/// are only read. Blocks.
///
/// A topic that does not exist is made, with as many partitions as were named. One that exists
/// must never have had records in these partitions, and may get more of them.
///
/// # Errors
/// See [`ImportFailure`].
pub fn import_partitions(
    config: &ImportConfig,
    mut progress: impl FnMut(ImportProgress<'_>),
) -> Result<ImportReport, ImportFailure> {
    let disk = &config.disk;
    let settings = BrokerSettings::resolve(crate::start::layers(&config.settings))?;
    let dirs: Vec<PathBuf> = settings.log_dirs.iter().map(PathBuf::from).collect();
    let mut locks = Vec::with_capacity(dirs.len());
    for dir in &dirs {
        // Nothing is made in a directory that was named by mistake.
        let identity = dir.join("meta.properties");
        if !disk.exists(&identity).map_err(failed(dir))? {
            return Err(ImportFailure::NoBroker { path: dir.clone() });
        }
        locks.push(disk.lock_dir(dir).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => ImportFailure::Running { path: dir.clone() },
            _ => failed(dir)(error),
        })?);
    }
    let import = Import::open(config, settings, dirs)?;
    import.clean()?;
    let Sources { topics, notes } = source::find(&**disk, &config.sources)?;
    let targets = import.plan(topics)?;
    let done = import
        .copy(&targets, &mut progress)
        .and_then(|copies| import.commit(&targets, copies));
    let cleaned = import.clean();
    let partitions = done?;
    cleaned?;
    drop(locks);
    Ok(ImportReport { partitions, notes })
}

/// A topic to import into.
struct Target {
    name: String,
    id: TopicId,
    existing: Option<Arc<Topic>>,
    /// `retention.ms`, unless somebody chose it for this topic.
    retention_ms: Option<i64>,
    partitions: BTreeMap<i32, Found>,
}

impl Target {
    /// How many partitions the topic has now.
    fn has(&self) -> i32 {
        let has = |topic: &Arc<Topic>| i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
        self.existing.as_ref().map_or(0, has)
    }

    /// How many it will have.
    fn count(&self) -> i32 {
        let last = self.partitions.last_key_value();
        let named = last.map_or(0, |(index, _)| index.saturating_add(1));
        named.max(self.has())
    }
}

/// A checked copy, not in place yet.
struct Copied<'t> {
    target: &'t Target,
    index: i32,
    /// The data directory.
    dir: PathBuf,
    /// Where the copy is now.
    at: PathBuf,
    source: PathBuf,
    imported: Imported,
}

impl Copied<'_> {
    fn place(&self) -> PathBuf {
        self.dir
            .join(format!("{}-{}", self.target.name, self.index))
    }

    /// Whether the metadata has the partition already.
    fn is_known(&self) -> bool {
        self.index < self.target.has()
    }

    /// Above every epoch in the log.
    fn leader_epoch(&self) -> i32 {
        self.imported.latest_epoch.map_or(0, |latest| latest + 1)
    }
}

struct Import<'a> {
    config: &'a ImportConfig,
    settings: BrokerSettings,
    dirs: Vec<PathBuf>,
    metadata: Offline,
    image: Arc<Image>,
    broker: Arc<Broker>,
}

impl<'a> Import<'a> {
    fn open(
        config: &'a ImportConfig,
        settings: BrokerSettings,
        dirs: Vec<PathBuf>,
    ) -> Result<Self, ImportFailure> {
        let mut settings = settings;
        let none = || ImportFailure::NoBroker {
            path: PathBuf::new(),
        };
        let first = dirs.first().ok_or_else(none)?;
        let identity =
            DirectoryIdentity::read(&*config.disk, first).map_err(FormatError::Identity)?;
        // Nobody needs to know the number of the broker whose data it is.
        if let (false, Some(identity)) = (config.settings.contains_key("node.id"), &identity) {
            settings.node_id = identity.node_id;
        }
        let node_id = settings.node_id;
        let formatted = read_formatted(&config.disk, &settings)?;
        let formatted = formatted.map_err(|unformatted| ImportFailure::NoBroker {
            path: unformatted.0.first().unwrap_or(first).clone(),
        })?;
        let dir = quorum_dir(&settings);
        let metadata = Offline::new(config.disk.clone(), dir, formatted.cluster_id, node_id);
        let image = metadata.image()?;
        let no_broker = || ImportFailure::NoBroker {
            path: first.clone(),
        };
        let broker = image.broker(node_id).ok_or_else(no_broker)?.clone();
        if broker.directories.len() != dirs.len() {
            return Err(ImportFailure::Directories {
                has: broker.directories.len(),
                named: dirs.len(),
            });
        }
        Ok(Import {
            config,
            settings,
            dirs,
            metadata,
            image,
            broker,
        })
    }

    fn context(&self) -> Context<'_> {
        Context {
            broker_id: self.broker.id,
            fixed: &self.config.settings,
        }
    }

    /// Removes copies that are not in place.
    fn clean(&self) -> Result<(), ImportFailure> {
        let disk = &self.config.disk;
        for dir in &self.dirs {
            let unfinished = dir.join(UNFINISHED);
            if disk.exists(&unfinished).map_err(failed(dir))? {
                disk.remove_dir_all(&unfinished)
                    .map_err(failed(&unfinished))?;
            }
        }
        Ok(())
    }

    /// Refuses what can be refused before anything is copied.
    fn plan(
        &self,
        topics: BTreeMap<String, BTreeMap<i32, Found>>,
    ) -> Result<Vec<Target>, ImportFailure> {
        let mut targets = Vec::with_capacity(topics.len());
        for (name, partitions) in topics {
            let existing = self.image.topic(&name).cloned();
            let target = Target {
                id: existing.as_ref().map_or_else(new_id, |topic| topic.id),
                retention_ms: self.retention_not_chosen(existing.as_deref())?,
                name,
                existing,
                partitions,
            };
            check_complete(&target)?;
            if target.existing.is_some() && !self.config.topic_configs.is_empty() {
                return Err(ImportFailure::ConfigsOfExisting { topic: target.name });
            }
            for (index, found) in target.partitions.range(..target.has()) {
                self.check_empty(&target, *index, found)?;
            }
            targets.push(target);
        }
        self.new_partitions(&targets)?;
        Ok(targets)
    }

    /// The `retention.ms` of a topic that nobody chose for it.
    fn retention_not_chosen(&self, existing: Option<&Topic>) -> Result<Option<i64>, ImportFailure> {
        let given: ConfigMap = self.config.topic_configs.iter().cloned().collect();
        let own = match existing {
            Some(topic) => self.image.configs(&ConfigResource::Topic(topic.id)),
            None => &given,
        };
        if own.contains_key("retention.ms") {
            return Ok(None);
        }
        let settings = TopicSettings::resolve(own, self.context().layers(&self.image))?;
        Ok(settings.retention_ms.filter(|_| settings.cleanup_delete))
    }

    /// What the checkpoint beside partition directory `dir` says of its logs.
    fn known_logs(&self, dir: &Path) -> Result<Vec<LogCheckpoint>, ImportFailure> {
        let parent = dir.parent().unwrap_or(dir);
        let checkpoint = self.checkpoint(parent)?;
        Ok(checkpoint.logs.into_values().collect())
    }

    /// The checkpoint of a data directory, or an empty one. One that was not closed cleanly does
    /// not say all.
    fn checkpoint(&self, dir: &Path) -> Result<DirCheckpoint, ImportFailure> {
        let read = DirCheckpoint::read(&*self.config.disk, dir);
        match read.map_err(|error| ImportFailure::Checkpoint {
            path: dir.to_path_buf(),
            error,
        })? {
            Some(checkpoint) if !checkpoint.clean => Err(ImportFailure::NotClean {
                path: dir.to_path_buf(),
            }),
            Some(checkpoint) => Ok(checkpoint),
            None => Ok(DirCheckpoint {
                ring: RingId([0; 16]),
                clean: true,
                released_lsn: 0,
                next_lsn: 1,
                next_log_id: 1,
                logs: BTreeMap::new(),
            }),
        }
    }

    /// Has the checkpoints of the data directories know the copies.
    fn note_in_checkpoints(&self, copies: &[Copied<'_>]) -> Result<(), ImportFailure> {
        for dir in &self.dirs {
            let here: Vec<_> = copies.iter().filter(|copied| copied.dir == *dir).collect();
            if here.is_empty() {
                continue;
            }
            let mut checkpoint = self.checkpoint(dir)?;
            for copied in here {
                let entry = LogCheckpoint {
                    topic_id: copied.target.id,
                    partition: copied.index,
                    lsn: checkpoint.next_lsn - 1,
                    ..copied.imported.checkpoint
                };
                let same = |log: &LogCheckpoint| {
                    log.topic_id == entry.topic_id && log.partition == entry.partition
                };
                checkpoint.logs.retain(|_, log| !same(log));
                let id = LogId(checkpoint.next_log_id);
                checkpoint.next_log_id += 1;
                checkpoint.logs.insert(id, entry);
            }
            checkpoint
                .write(&*self.config.disk, dir)
                .map_err(failed(dir))?;
        }
        Ok(())
    }

    /// Refuses a partition that has, or ever had, records: offsets are given out once.
    fn check_empty(&self, target: &Target, index: i32, found: &Found) -> Result<(), ImportFailure> {
        let disk = &self.config.disk;
        let name = format!("{}-{index}", target.name);
        for dir in self.dirs.iter().map(|dir| dir.join(&name)) {
            if !disk.exists(&dir).map_err(failed(&dir))? {
                continue;
            }
            let id = topic_id_of(&**disk, &dir).map_err(|error| ImportFailure::Open {
                topic: target.name.clone(),
                partition: index,
                error,
            })?;
            // A directory that no checkpoint knows was never served: nothing was ever in it.
            let known = match id {
                Some(id) if id == target.id => self.known_logs(&dir)?,
                _ => Vec::new(),
            };
            let known = known
                .into_iter()
                .find(|log| log.topic_id == target.id && log.partition == index);
            let end_offset = known.map_or(0, |log| log.end);
            if end_offset > 0 {
                return Err(ImportFailure::HasRecords {
                    topic: target.name.clone(),
                    partition: index,
                    end_offset,
                    from: found.path.clone(),
                });
            }
        }
        Ok(())
    }

    /// Copies and checks all partitions.
    fn copy<'t>(
        &self,
        targets: &'t [Target],
        progress: &mut dyn FnMut(ImportProgress<'_>),
    ) -> Result<Vec<Copied<'t>>, ImportFailure> {
        let wanted = targets
            .iter()
            .flat_map(|target| target.partitions.iter().map(move |(i, f)| (target, *i, f)));
        let wanted: Vec<(&Target, i32, &Found)> = wanted.collect();
        let dirs = self.choose_dirs(&wanted)?;
        // Each byte is checked, and then copied.
        let total_bytes = wanted.iter().map(|(_, _, found)| 2 * found.bytes).sum();
        let mut before = 0;
        let mut copies = Vec::with_capacity(wanted.len());
        for (number, ((target, index, found), dir)) in wanted.into_iter().zip(dirs).enumerate() {
            let unfinished = dir.join(UNFINISHED);
            let now_ms = clock::now_ms();
            let args = ImportArgs {
                disk: Arc::clone(&self.config.disk),
                source: found.path.clone(),
                target: unfinished.join(number.to_string()),
                topic_id: target.id,
                partition: index,
                now_ms,
                expired_before_ms: target.retention_ms.map(|kept| now_ms.saturating_sub(kept)),
            };
            self.config
                .disk
                .create_dir_all(&unfinished)
                .map_err(failed(&unfinished))?;
            let imported = import_partition(&args, |done, _| {
                progress(ImportProgress {
                    source: &found.path,
                    done_bytes: (before + done).min(total_bytes),
                    total_bytes,
                });
            });
            let imported = imported.map_err(|error| refused(target, found, error))?;
            check_numbers(found, &imported)?;
            before += 2 * found.bytes;
            copies.push(Copied {
                target,
                index,
                dir,
                at: args.target,
                source: args.source,
                imported,
            });
        }
        Ok(copies)
    }

    /// The data directory for each partition: the one that has it, else that with the most room.
    fn choose_dirs(
        &self,
        wanted: &[(&Target, i32, &Found)],
    ) -> Result<Vec<PathBuf>, ImportFailure> {
        let disk = &self.config.disk;
        let mut room = Vec::with_capacity(self.dirs.len());
        for dir in &self.dirs {
            room.push((disk.free_bytes(dir).map_err(failed(dir))?, dir));
        }
        let mut chosen = Vec::with_capacity(wanted.len());
        for (target, index, found) in wanted {
            let name = format!("{}-{index}", target.name);
            let there = |(_, dir): &&mut (u64, &PathBuf)| {
                *index < target.has() && disk.exists(&dir.join(&name)).unwrap_or(false)
            };
            let dir = match room.iter_mut().find(there) {
                Some(there) => Some(there),
                None => room.iter_mut().max_by_key(|(free, _)| *free),
            };
            let (free_bytes, dir) = dir.expect("a broker has a data directory");
            if *free_bytes < found.bytes {
                return Err(ImportFailure::NoRoom {
                    path: (*dir).clone(),
                    from: found.path.clone(),
                    free_bytes: *free_bytes,
                    needed_bytes: found.bytes,
                });
            }
            *free_bytes -= found.bytes;
            chosen.push((*dir).clone());
        }
        Ok(chosen)
    }

    /// Puts the copies in place and makes them topics.
    fn commit(
        &self,
        targets: &[Target],
        copies: Vec<Copied<'_>>,
    ) -> Result<Vec<ImportedPartition>, ImportFailure> {
        // Both are harmless without the copies, and the copies are not without them.
        let mut first = self.new_leader_epochs(&copies);
        first.extend(self.used_producer_ids(&copies));
        self.propose(first)?;
        let mut last = self.new_partitions(targets)?;
        for record in &mut last {
            if let MetadataRecord::PartitionCreated {
                topic_id,
                partition,
                state,
            } = record
                && let Some(copied) = copies
                    .iter()
                    .find(|copied| copied.target.id == *topic_id && copied.index == *partition)
            {
                state.leader_epoch = copied.leader_epoch();
            }
        }
        let placed = copies
            .iter()
            .try_for_each(|copied| self.put_in_place(copied))
            .and_then(|()| self.note_in_checkpoints(&copies));
        if let Err(error) = placed {
            self.take_back(&copies);
            return Err(error);
        }
        // When this fails, the metadata may have the topics all the same: the copies stay, and the
        // next start sets them aside if it does not.
        self.propose(last)?;
        let imported = |copied: Copied<'_>| ImportedPartition {
            topic: copied.target.name.clone(),
            partition: copied.index,
            source: copied.source,
            imported: copied.imported,
        };
        Ok(copies.into_iter().map(imported).collect())
    }

    fn propose(&self, records: Vec<MetadataRecord>) -> Result<(), ImportFailure> {
        let decided = move |_: &Image| Decision {
            records,
            result: (),
        };
        self.metadata.propose(decided)?;
        Ok(())
    }

    /// Topics and partitions that the metadata lacks.
    fn new_partitions(&self, targets: &[Target]) -> Result<Vec<MetadataRecord>, ImportFailure> {
        let here = vec![self.broker.id];
        let refused = |target: &Target, refusal: Refusal| ImportFailure::Refused {
            topic: target.name.clone(),
            refusal,
        };
        let mut records = Vec::new();
        let new = targets.iter().filter(|target| target.existing.is_none());
        let new: Vec<&Target> = new.collect();
        let request = |target: &&Target| NewTopic {
            name: target.name.clone(),
            num_partitions: -1,
            replication_factor: -1,
            assignments: (0..target.count())
                .map(|index| (index, here.clone()))
                .collect(),
            configs: self
                .config
                .topic_configs
                .iter()
                .map(|(name, value)| (name.clone(), Some(value.clone())))
                .collect(),
        };
        let requests: Vec<NewTopic> = new.iter().map(request).collect();
        let mut ids = new.iter().map(|target| target.id);
        let made = decide::create_topics(
            &self.image,
            self.context(),
            &self.settings,
            &requests,
            false,
            || ids.next().unwrap_or_else(new_id),
        );
        for (target, result) in new.iter().zip(made.result) {
            result.map_err(|refusal| refused(target, refusal))?;
        }
        records.extend(made.records);
        for target in targets {
            if target.existing.is_none() || target.count() == target.has() {
                continue;
            }
            let more = (target.has()..target.count()).map(|_| here.clone());
            let request = MorePartitions {
                name: target.name.clone(),
                count: target.count(),
                assignments: Some(more.collect()),
            };
            let made = decide::create_partitions(&self.image, &[request], false);
            for result in made.result {
                result.map_err(|refusal| refused(target, refusal))?;
            }
            records.extend(made.records);
        }
        Ok(records)
    }

    /// Leader epochs above those in the copies, for partitions that the metadata has.
    fn new_leader_epochs(&self, copies: &[Copied<'_>]) -> Vec<MetadataRecord> {
        let known = |copied: &Copied<'_>| {
            let state = self.image.partition(copied.target.id, copied.index)?;
            Some(MetadataRecord::PartitionChanged {
                topic_id: copied.target.id,
                partition: copied.index,
                expected_epoch: state.partition_epoch,
                leader: state.leader,
                leader_epoch: copied
                    .leader_epoch()
                    .max(state.leader_epoch.saturating_add(1)),
                isr: state.isr.clone(),
                elr: state.elr.clone(),
                replicas: None,
                last_known_elr: state.last_known_elr.clone(),
                reassignment: None,
                joined: Vec::new(),
                unclean: false,
            })
        };
        copies.iter().filter_map(known).collect()
    }

    /// Takes the producer ids in the copies out of use: a log knows the sequence numbers of its
    /// producers, and would take the first records of another one of that id for repeated ones.
    fn used_producer_ids(&self, copies: &[Copied<'_>]) -> Option<MetadataRecord> {
        let last = copies.iter().map(|copied| copied.imported.last_producer_id);
        let next = last.max()?.saturating_add(1);
        let first = self.image.next_producer_id();
        (next > first).then_some(MetadataRecord::ProducerIdBlock {
            broker_id: self.broker.id,
            broker_epoch: self.broker.epoch,
            first,
            next,
        })
    }

    fn put_in_place(&self, copied: &Copied<'_>) -> Result<(), ImportFailure> {
        let disk = &self.config.disk;
        let place = copied.place();
        let moved = || {
            if disk.exists(&place)? {
                if copied.is_known() {
                    // It was found empty; a crash right here makes an empty one again.
                    disk.remove_dir_all(&place)?;
                } else {
                    // Of an import that was cut short, or of a topic that is gone: as a start does.
                    let id = topic_id_of(&**disk, &place)
                        .unwrap_or(None)
                        .unwrap_or_default();
                    let name = place.file_name().unwrap_or_default().to_string_lossy();
                    let stray = format!("{name}.{id}");
                    let aside = free_path(&**disk, &copied.dir, &stray, STRAY_SUFFIX)?;
                    disk.rename(&place, &aside)?;
                }
            }
            disk.rename(&copied.at, &place)?;
            disk.sync_dir(&copied.dir)
        };
        moved().map_err(failed(&place))
    }

    /// Removes what was put in place and did not become part of a topic.
    fn take_back(&self, copies: &[Copied<'_>]) {
        let disk = &self.config.disk;
        for copied in copies.iter().filter(|copied| !copied.is_known()) {
            let place = copied.place();
            let ours = topic_id_of(&**disk, &place).ok().flatten() == Some(copied.target.id);
            if ours && let Err(error) = disk.remove_dir_all(&place) {
                tracing::warn!(path = %place.display(), %error, "a copy stays behind; the next start sets it aside");
            }
        }
    }
}

/// Refuses a topic with a gap in its partitions.
fn check_complete(target: &Target) -> Result<(), ImportFailure> {
    const SHOWN: usize = 10;
    let missing = |index: &i32| !target.partitions.contains_key(index);
    let mut gaps = (target.has()..target.count()).filter(missing);
    let shown: Vec<String> = gaps.by_ref().take(SHOWN).map(|i| i.to_string()).collect();
    if shown.is_empty() {
        return Ok(());
    }
    let more = if gaps.next().is_some() {
        " and more"
    } else {
        ""
    };
    Err(ImportFailure::Missing {
        topic: target.name.clone(),
        missing: shown.join(", ") + more,
        count: target.count(),
    })
}

fn refused(target: &Target, found: &Found, error: ImportError) -> ImportFailure {
    match (error, target.retention_ms) {
        (ImportError::Expired { newest_ms, .. }, Some(retention_ms)) => ImportFailure::Expired {
            topic: target.name.clone(),
            from: found.path.clone(),
            newest_ms,
            retention_ms,
            exists: target.existing.is_some(),
        },
        (error, _) => ImportFailure::Partition {
            from: found.path.clone(),
            error,
        },
    }
}

/// Refuses numbers that leave no room to count on.
fn check_numbers(found: &Found, imported: &Imported) -> Result<(), ImportFailure> {
    let latest_epoch = imported.latest_epoch.unwrap_or(0);
    let implausible = |what, number| {
        Err(ImportFailure::Implausible {
            from: found.path.clone(),
            what,
            found: number,
        })
    };
    if !(0..=MOST_LEADER_EPOCH).contains(&latest_epoch) {
        return implausible("leader epoch", i64::from(latest_epoch));
    }
    if imported.last_producer_id > MOST_PRODUCER_ID {
        return implausible("producer id", imported.last_producer_id);
    }
    Ok(())
}
