//! A data directory as the broker keeps it, without threads: the order of what it does
//! is that of the server's `log_dir.rs` and `registry.rs`.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tidemark_env::disk::{Disk, MemDisk};
use tidemark_log::checkpoint::{DirCheckpoint, LogCheckpoint};
use tidemark_log::{
    CheckpointPart, DataDir, Log, LogConfig, OnCorruption, OpenArgs, OpenError, RecoveredDir,
    WriteJob, topic_id_of, write_checkpoint,
};
use tidemark_wal::{Failure, LogId, Lsn, Member, Record, RingId, Wal, WalConfig};
use tidemark_wire::Uuid;

/// The time of every history, in milliseconds since 1970.
pub const NOW_MS: i64 = 1_700_000_000_000;

/// Sizes: small, so that everything wraps, rolls and fills up.
#[derive(Debug, Clone)]
pub struct Sizes {
    /// Of a file of the ring, in bytes.
    pub wal_file_bytes: u64,
    /// Of the ring, in bytes.
    pub wal_bytes: u64,
    /// Of a chunk of memory, in bytes.
    pub chunk_bytes: usize,
    /// Settings of the logs.
    pub log: LogConfig,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            wal_file_bytes: 24 << 10,
            wal_bytes: 120 << 10,
            chunk_bytes: 8 << 10,
            log: LogConfig {
                segment_bytes: 2500,
                index_interval_bytes: 300,
                retention_ms: -1,
                file_delete_delay_ms: 1000,
                ..LogConfig::default()
            },
        }
    }
}

/// Keeps what the write-ahead log tells until it is handed on: a partition whose lock
/// somebody else has.
#[derive(Default)]
pub struct Inbox(Mutex<Vec<(Lsn, Bytes)>>);

impl Member for Inbox {
    fn durable(self: Arc<Self>, lsn: Lsn, payload: &Bytes) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.push((lsn, payload.clone()));
    }

    fn failed(self: Arc<Self>, _: &Failure) {}
}

/// An open log.
pub struct Open {
    /// The log.
    pub log: Log,
    /// The topic's id.
    pub topic: Uuid,
    /// Who is told of its groups.
    pub inbox: Arc<Inbox>,
    /// A job that was run, and that the log has not been told of.
    pub job: Option<WriteJob>,
    /// The group that says that it exists, where one had to.
    pub created: Option<Lsn>,
    /// Its directory was there before.
    pub found: bool,
}

impl Open {
    /// Hands on what the write-ahead log told.
    pub fn deliver(&mut self) -> i64 {
        let told =
            std::mem::take(&mut *self.inbox.0.lock().unwrap_or_else(PoisonError::into_inner));
        for (lsn, payload) in told {
            self.log.durable(lsn, &payload);
        }
        self.log.durable_offset()
    }

    /// Tells the log of a job that was run.
    pub fn finish_job(&mut self) {
        if let Some(job) = self.job.take() {
            self.log.written(job);
        }
    }

    /// Writes what is durable into the segments.
    ///
    /// # Errors
    /// The disk is full or failed; the job is tried again later.
    pub fn settle(&mut self) -> io::Result<()> {
        self.finish_job();
        while let Some(job) = self.log.write_job(u64::MAX) {
            if let Err(error) = job.run() {
                self.log.write_failed(job);
                return Err(error);
            }
            self.log.written(job);
        }
        Ok(())
    }
}

/// A data directory that is in use.
pub struct Directory {
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// Where it is.
    pub path: PathBuf,
    /// Its write-ahead log.
    pub wal: Arc<Wal>,
    /// The ring's id.
    pub ring: RingId,
    /// The id of the next log.
    pub next_log_id: u64,
    /// The logs that are open.
    pub logs: BTreeMap<LogId, Open>,
    /// Those that are said to exist and are not open yet.
    creating: BTreeMap<LogId, LogCheckpoint>,
}

/// A log that the metadata places here.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The topic's id.
    pub topic: Uuid,
    /// The name of its directory.
    pub name: String,
}

fn rings(path: &Path) -> PathBuf {
    path.join("wal")
}

impl Directory {
    /// Reads what the directory was left with. Changes nothing.
    ///
    /// # Errors
    /// See [`RecoveredDir::read`].
    pub fn read(disk: &MemDisk, path: &Path) -> Result<RecoveredDir, OpenError> {
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let ring_dir = |ring: RingId| rings(path).join(ring.to_string());
        RecoveredDir::read(&disk, path, ring_dir, false)
    }

    /// Begins a new ring for a directory that was read.
    ///
    /// # Errors
    /// The disk failed or is full.
    pub fn begin(
        disk: &MemDisk,
        path: &Path,
        sizes: &Sizes,
        ring: RingId,
        recovered: &RecoveredDir,
    ) -> Result<Directory, OpenError> {
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let ring_dir = |ring: RingId| rings(path).join(ring.to_string());
        let dir = ring_dir(ring);
        disk.create_dir_all(&rings(path))?;
        match recovered.ring {
            Some(old) if recovered.clean && disk.exists(&ring_dir(old))? => {
                disk.rename(&ring_dir(old), &dir)?;
            }
            _ => disk.create_dir_all(&dir)?,
        }
        let config = WalConfig {
            dir,
            file_bytes: sizes.wal_file_bytes,
            max_bytes: sizes.wal_bytes,
            chunk_bytes: sizes.chunk_bytes,
            memory_bytes: 1 << 20,
        };
        let wal = Wal::create(
            Arc::clone(&disk),
            config,
            ring,
            recovered.next_lsn,
            Box::new(|_| {}),
        )?;
        disk.sync_dir(&rings(path))?;
        Ok(Directory {
            disk,
            path: path.to_path_buf(),
            wal,
            ring,
            next_log_id: recovered.next_log_id,
            logs: BTreeMap::new(),
            creating: BTreeMap::new(),
        })
    }

    /// Opens a log; a new one is said to exist first. [`Directory::add`] comes next.
    ///
    /// # Errors
    /// See [`Log::open`].
    pub fn open(
        &mut self,
        wanted: &Wanted,
        recovered: Option<&mut RecoveredDir>,
        config: &LogConfig,
    ) -> Result<(LogId, Open), OpenError> {
        let path = self.path.join(&wanted.name);
        let found = self.disk.exists(&path)?;
        let known = recovered.and_then(|recovered| recovered.take(wanted.topic, 0));
        let (id, known) = match known {
            Some((id, known)) => (id, Some(known)),
            None => {
                self.next_log_id += 1;
                (LogId(self.next_log_id - 1), None)
            }
        };
        let mut created = None;
        if !found && known.is_none() {
            let create = Record::Create {
                topic_id: wanted.topic.0,
                partition: 0,
            };
            let placed = self.wal.append(id, &create, |_| None);
            let placed = placed.map_err(|failure| OpenError::Io(io::Error::other(failure)))?;
            created = Some(placed.lsn);
            let empty = LogCheckpoint::empty(wanted.topic, 0, placed.lsn - 1);
            self.creating.insert(id, empty);
        }
        let trust_indexes = known.as_ref().is_some_and(|known| known.scan.is_none());
        let (log, _) = Log::open(OpenArgs {
            parent: Arc::new(DataDir {
                disk: Arc::clone(&self.disk),
                path: self.path.clone(),
                wal: Some(Arc::clone(&self.wal)),
            }),
            name: wanted.name.clone().into(),
            id,
            topic_id: Some(wanted.topic),
            known,
            trust_indexes,
            config: Arc::new(config.clone()),
            on_corruption: OnCorruption::Refuse,
            now_ms: NOW_MS,
        })?;
        let open = Open {
            log,
            topic: wanted.topic,
            inbox: Arc::default(),
            job: None,
            created,
            found,
        };
        Ok((id, open))
    }

    /// A log is open: checkpoints speak of it from now on.
    pub fn add(&mut self, id: LogId, open: Open) {
        self.creating.remove(&id);
        self.logs.insert(id, open);
    }

    /// All logs are open: notes that, and lets the old ring go.
    ///
    /// # Errors
    /// The disk failed or is full.
    pub fn opened(&mut self) -> io::Result<()> {
        self.checkpoint()?;
        for entry in self.disk.list(&rings(&self.path))? {
            if entry.is_dir && entry.name != self.ring.to_string() {
                self.disk
                    .remove_dir_all(&rings(&self.path).join(&entry.name))?;
            }
        }
        Ok(())
    }

    /// Syncs what is in the segments, says so, and lets the groups go that are in them.
    ///
    /// # Errors
    /// The disk failed or is full.
    pub fn checkpoint(&mut self) -> io::Result<()> {
        let cut = self.wal.durable_lsn();
        let parts: Vec<CheckpointPart> = self
            .logs
            .values_mut()
            .map(|open| open.log.checkpoint_part(cut, (open.topic, 0)))
            .collect();
        let oldest = parts.iter().map(|part| part.entry.lsn);
        let oldest = oldest.chain(self.creating.values().map(|log| log.lsn));
        let released = oldest.min().map_or(cut, |oldest| oldest.min(cut));
        let written = self.note(&parts, released, false);
        if let Err(error) = written {
            for part in &parts {
                if let Some(open) = self.logs.get_mut(&part.id) {
                    open.log.checkpoint_failed(part);
                }
            }
            return Err(error);
        }
        self.wal.recycle(released);
        Ok(())
    }

    /// Syncs `parts` and writes the checkpoint.
    ///
    /// # Errors
    /// The disk failed or is full.
    pub fn note(&self, parts: &[CheckpointPart], released_lsn: Lsn, clean: bool) -> io::Result<()> {
        let checkpoint = DirCheckpoint {
            ring: self.ring,
            clean,
            released_lsn,
            next_lsn: self.wal.durable_lsn() + 1,
            next_log_id: self.next_log_id,
            logs: self.creating.clone(),
        };
        write_checkpoint(&*self.disk, &self.path, checkpoint, parts)
    }

    /// Removes what deletions left, and sets directories of unknown topics aside.
    ///
    /// # Errors
    /// The disk failed.
    pub fn set_strays_aside(disk: &MemDisk, path: &Path, wanted: &[Wanted]) -> io::Result<()> {
        for entry in disk.list(path)? {
            let name = &entry.name;
            if !entry.is_dir || name.ends_with("-stray") || name == "wal" {
                continue;
            }
            if name.ends_with("-delete") {
                disk.remove_dir_all(&path.join(name))?;
                continue;
            }
            let id = topic_id_of(disk, &path.join(name)).unwrap_or(None);
            let known = wanted
                .iter()
                .any(|wanted| wanted.name == *name && id.is_none_or(|id| id == wanted.topic));
            if !known {
                let aside = path.join(format!("{name}.{}-stray", id.unwrap_or_default()));
                disk.rename(&path.join(name), &aside)?;
            }
        }
        Ok(())
    }

    /// Makes the name of a deleted log free and removes its files.
    ///
    /// # Errors
    /// The disk failed.
    pub fn remove_files(&self, name: &str, topic: Uuid) -> io::Result<()> {
        let doomed = self.path.join(format!("{name}.{topic}-delete"));
        self.disk.rename(&self.path.join(name), &doomed)?;
        self.disk.sync_dir(&self.path)?;
        self.disk.remove_dir_all(&doomed)
    }
}
