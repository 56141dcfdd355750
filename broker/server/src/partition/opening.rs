//! Opening partitions: at start with what the checkpoints and write-ahead logs hold, and later
//! those of new topics.

use super::log_dir::lock;
use super::registry::{OPENER_THREADS, OfflineLog, Registry, RegistryError};
use super::{LogDir, Partition, TopicHere, is_full};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use tidemark_config::BrokerSettings;
use tidemark_env::disk::OpenMode;
use tidemark_env::{clock, task};
use tidemark_log::{
    KeptTail, Known, Log, LogError, OnCorruption, OpenArgs, OpenError, RecoveredDir, Recovery,
};
use tidemark_model::{Image, Topic, TopicId};
use tidemark_wal::LogId;

/// What the data directories were left with, while their logs are opened.
type Left = BTreeMap<PathBuf, Mutex<RecoveredDir>>;

/// A partition that is open.
struct Opened {
    id: (TopicId, i32),
    log_id: LogId,
    partition: Arc<Partition>,
    /// Its files were there before: a checkpoint has to speak of them.
    found: bool,
}

impl Registry {
    /// Opens everything that `image` places here, with what the write-ahead logs hold. Directories
    /// that the image does not know are set aside. Where a disk had no room for it (see
    /// [`RegistryError::is_full`]) it can be called again. Blocks.
    pub(crate) fn open_all(
        &self,
        image: &Arc<Image>,
        settings: &BrokerSettings,
    ) -> Result<(), RegistryError> {
        let left = self.open_dirs()?;
        self.set_strays_aside(image)?;
        let mut wanted = Vec::new();
        for topic in image.topics() {
            let here = TopicHere::new(topic, self.policy(image, topic, settings)?, self.replicas());
            for index in self.placed_here(topic) {
                wanted.push((Arc::clone(topic), index, Arc::clone(&here)));
            }
        }
        self.to_open.store(wanted.len(), Ordering::Relaxed);
        let opened = Mutex::new(Vec::with_capacity(wanted.len()));
        let open = |(topic, index, here): (Arc<Topic>, i32, Arc<TopicHere>)| {
            if let Some(one) = self.open_or_set_offline(&topic, index, here, Some(&left))? {
                let mut opened = opened.lock().unwrap_or_else(PoisonError::into_inner);
                opened.push(one);
            }
            Ok(())
        };
        task::in_parallel("open-log", OPENER_THREADS, wanted, open)?;
        let opened = opened.into_inner().unwrap_or_else(PoisonError::into_inner);
        for dir in self.log_dirs() {
            for one in opened
                .iter()
                .filter(|one| Arc::ptr_eq(one.partition.dir(), &dir))
            {
                dir.add(one.log_id, Arc::clone(&one.partition));
            }
            // Everything that was found is durable, and noted, before anything is added to it.
            dir.opened(&self.args.wal)
                .map_err(|source| of_dir(&dir, source))?;
        }
        // Nothing runs before all directories are settled: a start that found no room is tried again.
        for dir in self.log_dirs() {
            dir.begin().map_err(|source| of_dir(&dir, source))?;
        }
        self.serve(opened);
        self.show_all(image);
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

    /// Partitions are found by requests from now on.
    fn serve(&self, opened: Vec<Opened>) {
        for one in opened {
            self.partitions
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(one.id, one.partition);
            self.opened.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn open_missing(&self, image: &Image, topic: &Topic, settings: &BrokerSettings) {
        let here = match self.policy(image, topic, settings) {
            Ok(policy) => self
                .topic_here(topic)
                .unwrap_or_else(|| TopicHere::new(topic, policy, self.replicas())),
            Err(error) => return tracing::error!(%error, "topic is not served"),
        };
        let mut opened = Vec::new();
        for index in self.placed_here(topic) {
            // A damaged one stays offline until the next start: only then is it known how far it
            // has to go, and what is missing told from what never was.
            let offline = self.offline().contains_key(&(topic.id, index));
            if offline || self.get(topic.id, index).is_some() {
                continue;
            }
            match self.open_or_set_offline(topic, index, Arc::clone(&here), None) {
                Ok(one) => opened.extend(one),
                Err(error) => {
                    tracing::error!(%error, "partition is not served");
                    self.cannot_be_opened(topic, index, error);
                }
            }
        }
        for one in &opened {
            let dir = Arc::clone(one.partition.dir());
            dir.add(one.log_id, Arc::clone(&one.partition));
        }
        // Files that were there before are known to no write-ahead log: a checkpoint has to.
        for dir in self.log_dirs() {
            let here = |one: &&Opened| one.found && Arc::ptr_eq(one.partition.dir(), &dir);
            if opened.iter().any(|one| here(&one))
                && let Err(error) = dir.checkpoint(false)
            {
                tracing::error!(%error, "partitions are not served");
                dir.log_failed(&LogError::Io(error));
                return;
            }
        }
        self.serve(opened);
    }

    /// A topic as those of its partitions have it that are open.
    fn topic_here(&self, topic: &Topic) -> Option<Arc<TopicHere>> {
        let mut placed = self.placed_here(topic).into_iter();
        let open = placed.find_map(|index| self.get(topic.id, index))?;
        Some(Arc::clone(&open.topic))
    }

    /// Where there is no room it is opened once there is some. Else nobody would open it again: the
    /// next start has to, on a disk that works.
    fn cannot_be_opened(&self, topic: &Topic, index: i32, error: RegistryError) {
        let error = match error {
            RegistryError::Directory { source, .. } => source,
            RegistryError::Open { source, .. } | RegistryError::Wal { source, .. } => {
                match source {
                    OpenError::Io(error) => error,
                    OpenError::Corrupt { .. } | OpenError::BadFile { .. } => return,
                }
            }
            RegistryError::Config { .. } => return,
        };
        let dir = self.log_dir_of(&self.directory(&topic.name, index).0);
        match dir {
            Some(dir) if is_full(&error) => {
                dir.has_no_room(&error.to_string());
                lock(&self.without_room).insert((topic.id, index));
            }
            Some(dir) => dir.log_failed(&LogError::Io(error)),
            None => {}
        }
    }

    /// Opens a partition. One whose log is damaged is offline and says so; the others are served.
    fn open_or_set_offline(
        &self,
        topic: &Topic,
        index: i32,
        here: Arc<TopicHere>,
        left: Option<&Left>,
    ) -> Result<Option<Opened>, RegistryError> {
        let (path, mut found) = self.directory(&topic.name, index);
        let Some(dir) = self.log_dir_of(&path) else {
            return Ok(None);
        };
        let known = left.and_then(|left| {
            let mut left = left
                .get(dir.path())?
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            left.take(topic.id, index)
        });
        if let Some(state) = topic.partition(index)
            && !found
            && known.is_none()
        {
            let me = self.args.broker_id;
            let mut unseeded = self.unseeded.lock().unwrap_or_else(PoisonError::into_inner);
            if state.from_backup && (state.isr.contains(&me) || state.elr.contains(&me)) {
                unseeded.insert((topic.id, index));
                return Ok(None);
            }
            // If it waited, it was taken out meanwhile, and copies its leader's log.
            unseeded.remove(&(topic.id, index));
            drop(unseeded);
            if state.first_offset > 0 && !state.from_backup {
                self.begin_at(&path, state.first_offset).map_err(|source| {
                    RegistryError::Directory {
                        path: path.clone(),
                        source,
                    }
                })?;
                found = true;
            }
        }
        let (log_id, known) = match known {
            Some((log_id, known)) => (log_id, Some(known)),
            None => (dir.next_log_id(), None),
        };
        match self.open(
            topic,
            index,
            here,
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

    /// Makes the directory of a log that holds nothing and begins at `offset`: an empty segment says
    /// so. It is there whole or not at all.
    fn begin_at(&self, path: &Path, offset: i64) -> std::io::Result<()> {
        let disk = &*self.args.disk;
        let beside = begun_beside(path);
        if disk.exists(&beside)? {
            disk.remove_dir_all(&beside)?;
        }
        disk.create_dir_all(&beside)?;
        let segment = disk.open(&segment_file(&beside, offset), OpenMode::Create)?;
        segment.sync_all()?;
        disk.sync_dir(&beside)?;
        disk.rename(&beside, path)?;
        match path.parent() {
            Some(parent) => disk.sync_dir(parent),
            None => Ok(()),
        }
    }

    /// Where the first records of a partition that is to be opened are put together: a directory
    /// that counts for nothing until it is renamed.
    pub(crate) fn seed_directory(&self, topic: &str, index: i32) -> PathBuf {
        begun_beside(&self.directory(topic, index).0)
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
        here: Arc<TopicHere>,
        (dir, log_id, path): (&Arc<LogDir>, LogId, PathBuf),
        known: Option<Known>,
        found: bool,
    ) -> Result<Option<Opened>, RegistryError> {
        let failed = |source| RegistryError::Open {
            topic: topic.name.to_string(),
            partition: index,
            source,
        };
        if topic.partition(index).is_none() {
            return Ok(None);
        }
        if !found && known.is_none() {
            dir.create_log(log_id, topic.id, index)
                .map_err(|failure| failed(OpenError::Io(std::io::Error::other(failure))))?;
        }
        let trust_indexes = known.as_ref().is_some_and(|known| known.scan.is_none());
        let (log, recovery) = Log::open(OpenArgs {
            parent: Arc::clone(&dir.of_logs),
            name: path.file_name().unwrap_or_default().to_owned(),
            id: log_id,
            topic_id: Some(topic.id),
            known,
            trust_indexes,
            config: Arc::clone(&here.policy().log),
            on_corruption: self.args.on_corruption,
            now_ms: clock::now_ms(),
        })
        .map_err(|source| {
            if let OpenError::Io(error) = &source
                && is_full(error)
                && !found
            {
                self.undo_opening(dir, log_id, &path);
            }
            failed(source)
        })?;
        self.scanned_bytes.fetch_add(
            recovery.scanned_bytes + recovery.replayed_bytes,
            Ordering::Relaxed,
        );
        report_cut(&path, &recovery);
        let partition = Arc::new(Partition::new(here, index, log, Arc::clone(dir)));
        Ok(Some(Opened {
            id: (topic.id, index),
            log_id,
            partition,
            found,
        }))
    }

    /// What was begun of a log that is opened for the first time goes: the next try has an id of its
    /// own, and the log of the highest one is the one that lives.
    fn undo_opening(&self, dir: &LogDir, log_id: LogId, path: &Path) {
        dir.remove(log_id);
        match self.args.disk.remove_dir_all(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "what was begun of a partition stays");
            }
            _ => {}
        }
    }

    fn log_dir_of(&self, path: &Path) -> Option<Arc<LogDir>> {
        self.log_dirs()
            .into_iter()
            .find(|dir| Some(dir.path()) == path.parent())
    }

    /// Where a partition is, or is to be: the directory that has it, else the one with the fewest
    /// partitions of those that have room; and whether it is there.
    fn directory(&self, topic: &str, index: i32) -> (PathBuf, bool) {
        let name = format!("{topic}-{index}");
        let dirs = || self.args.dirs.iter();
        let exists = |path: &PathBuf| self.args.disk.exists(path).unwrap_or(false);
        if let Some(existing) = dirs().map(|dir| dir.join(&name)).find(exists) {
            return (existing, true);
        }
        let held = match self.args.dirs.len() {
            // There is no choice: all that are open need not be counted for each that is made.
            0 | 1 => Vec::new(),
            _ => self.all(),
        };
        let mut counts: BTreeMap<&Path, usize> = BTreeMap::new();
        for partition in &held {
            *counts.entry(partition.dir.path()).or_default() += 1;
        }
        let open = self.log_dirs();
        let is_full = |path: &PathBuf| open.iter().any(|dir| dir.path() == path && dir.is_full());
        let fewest = dirs().min_by_key(|dir| (is_full(dir), counts.get(dir.as_path())));
        let path = fewest.map_or_else(|| PathBuf::from(&name), |dir| dir.join(&name));
        (path, false)
    }
}

fn of_dir(dir: &LogDir, source: std::io::Error) -> RegistryError {
    RegistryError::Directory {
        path: dir.path().to_path_buf(),
        source,
    }
}

/// The name of a partition's directory while it is not whole: none that a partition has.
fn begun_beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".restore");
    PathBuf::from(name)
}

/// The file of the segment that begins at `base_offset`.
pub(crate) fn segment_file(dir: &Path, base_offset: i64) -> PathBuf {
    dir.join(format!("{base_offset:020}.log"))
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
