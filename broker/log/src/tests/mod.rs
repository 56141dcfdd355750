//! Tests of the log on the memory disk and on real files.

mod basics;
mod checkpoints;
mod crashes;
mod damage;
mod formats;
mod handover;
mod imports;
mod model;
mod reads;
mod sharing;

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tidemark_env::disk::{Disk, MemDisk};
use tidemark_records::{Batch, BatchBuilder};
use tidemark_wal::{Failure, LogId, Lsn, Member, Record, RingId, Wal, WalConfig};
use tidemark_wire::Uuid;

use crate::checkpoint::DirCheckpoint;
use crate::{
    AppendError, Appended, DataDir, Log, LogConfig, LogError, OnCorruption, OpenArgs, OpenError,
    RecoveredDir, Recovery, write_checkpoint,
};

pub(crate) const NOW_MS: i64 = 1_700_000_000_000;

pub(crate) fn dir() -> PathBuf {
    PathBuf::from("/data/topic-0")
}

pub(crate) fn memory_disk() -> MemDisk {
    let disk = MemDisk::new();
    disk.create_dir_all(&PathBuf::from("/data")).unwrap();
    disk.sync_dir(&PathBuf::from("/")).unwrap();
    disk
}

/// Keeps what the write-ahead log tells until the test hands it on.
#[derive(Default)]
struct Inbox(Mutex<Vec<(Lsn, Bytes)>>);

impl Member for Inbox {
    fn durable(self: Arc<Self>, lsn: Lsn, payload: &Bytes) {
        self.0.lock().unwrap().push((lsn, payload.clone()));
    }

    fn failed(self: Arc<Self>, _: &Failure) {}
}

/// A log with the data directory around it: its only log. No thread writes: [`flush`]
/// does, and [`checkpoint`].
pub(crate) struct TestLog {
    log: Option<Log>,
    disk: Arc<dyn Disk>,
    data: PathBuf,
    ring: RingId,
    pub(crate) wal: Arc<Wal>,
    topic_id: Uuid,
    inbox: Arc<Inbox>,
    next_log_id: u64,
}

impl Deref for TestLog {
    type Target = Log;

    fn deref(&self) -> &Log {
        self.log.as_ref().unwrap()
    }
}

impl DerefMut for TestLog {
    fn deref_mut(&mut self) -> &mut Log {
        self.log.as_mut().unwrap()
    }
}

impl std::fmt::Debug for TestLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.log.fmt(f)
    }
}

impl TestLog {
    pub(crate) fn append_as_leader(
        &mut self,
        batch: &Batch,
        epoch: i32,
        now_ms: i64,
    ) -> Result<Appended, AppendError> {
        let inbox = self.inbox.clone();
        self.deref_mut()
            .append_as_leader(batch, epoch, now_ms, |_| Some(inbox as Arc<dyn Member>))
    }

    pub(crate) fn append_as_follower(
        &mut self,
        bytes: &Bytes,
        now_ms: i64,
    ) -> Result<Appended, AppendError> {
        let inbox = self.inbox.clone();
        self.deref_mut()
            .append_as_follower(bytes, now_ms, |_| Some(inbox.clone() as Arc<dyn Member>))
    }

    /// Makes everything durable that was appended.
    pub(crate) fn flush(&mut self) {
        while self.wal.write_next() {}
        self.deliver();
    }

    pub(crate) fn deliver(&mut self) {
        let told = std::mem::take(&mut *self.inbox.0.lock().unwrap());
        for (lsn, payload) in told {
            self.durable(lsn, &payload);
        }
    }

    /// Writes what is durable behind, and notes it.
    pub(crate) fn checkpoint(&mut self) {
        self.settle().unwrap();
        let cut = self.wal.durable_lsn();
        let part = self.checkpoint_part(cut);
        let lsn = part.entry.lsn;
        self.note(&part, false);
        self.wal.recycle(lsn);
    }

    pub(crate) fn checkpoint_part(&mut self, cut: Lsn) -> crate::CheckpointPart {
        let of = (self.topic_id, 0);
        self.deref_mut().checkpoint_part(cut, of)
    }

    fn note(&self, part: &crate::CheckpointPart, clean: bool) {
        let checkpoint = DirCheckpoint {
            ring: self.ring,
            clean,
            released_lsn: part.entry.lsn,
            next_lsn: self.wal.durable_lsn() + 1,
            next_log_id: self.next_log_id,
            logs: BTreeMap::new(),
        };
        let parts = std::slice::from_ref(part);
        write_checkpoint(&*self.disk, &self.data, checkpoint, parts).unwrap();
    }

    pub(crate) fn truncate_to(&mut self, offset: i64, now_ms: i64) -> Result<i64, LogError> {
        self.flush();
        self.deref_mut().truncate_to(offset, now_ms)
    }

    pub(crate) fn truncate_fully(&mut self, offset: i64, now_ms: i64) -> Result<i64, LogError> {
        self.flush();
        self.deref_mut().truncate_fully(offset, now_ms)
    }

    pub(crate) fn close(mut self, now_ms: i64) -> Result<(), LogError> {
        self.flush();
        self.wal.stop();
        let cut = self.wal.durable_lsn();
        let part = self
            .log
            .take()
            .unwrap()
            .close(cut, (self.topic_id, 0), now_ms)?;
        self.note(&part, true);
        Ok(())
    }
}

/// How [`open_with`] opens.
pub(crate) struct With {
    pub(crate) topic_id: Option<Uuid>,
    pub(crate) on_corruption: OnCorruption,
}

impl Default for With {
    fn default() -> Self {
        Self {
            topic_id: None,
            on_corruption: OnCorruption::Refuse,
        }
    }
}

/// The disk as logs hold it.
pub(crate) fn shared(disk: &MemDisk) -> Arc<dyn Disk> {
    Arc::new(disk.clone())
}

/// Opens a log and the data directory around it, as a broker does when it starts.
pub(crate) fn open_with(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    config: &LogConfig,
    with: &With,
) -> Result<(TestLog, Recovery), OpenError> {
    static RINGS: AtomicU64 = AtomicU64::new(1);
    let data = dir.parent().unwrap().to_path_buf();
    let rings = data.join("wal");
    let cut = with.on_corruption == OnCorruption::Truncate;
    let at = |ring: RingId| rings.join(ring.to_string());
    let mut recovered = RecoveredDir::read(disk, &data, at, cut)?;
    let mut id = [0; 16];
    id[8..].copy_from_slice(&RINGS.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    let ring = RingId(id);
    disk.create_dir_all(&at(ring))?;
    let config_of_wal = WalConfig {
        dir: at(ring),
        file_bytes: 64 << 10,
        max_bytes: 64 << 20,
        chunk_bytes: 64 << 10,
        memory_bytes: 16 << 20,
    };
    let wal = Wal::create(
        disk.clone(),
        config_of_wal,
        ring,
        recovered.next_lsn,
        Box::new(|_| {}),
    )?;
    disk.sync_dir(&rings)?;
    disk.sync_dir(&data)?;
    let topic_id = with.topic_id.unwrap_or_default();
    let known = recovered.take(topic_id, 0);
    let (id, known) = match known {
        Some((id, known)) => (id, Some(known)),
        None => {
            let id = LogId(recovered.next_log_id);
            recovered.next_log_id += 1;
            if !disk.exists(dir)? {
                let create = Record::Create {
                    topic_id: topic_id.0,
                    partition: 0,
                };
                wal.append(id, &create, |_| None).unwrap();
            }
            (id, None)
        }
    };
    let (log, recovery) = Log::open(OpenArgs {
        parent: Arc::new(DataDir {
            disk: disk.clone(),
            path: data.clone(),
            wal: Some(wal.clone()),
        }),
        name: dir.file_name().unwrap().to_owned(),
        id,
        topic_id: with.topic_id,
        trust_indexes: recovered.clean,
        known,
        config: Arc::new(config.clone()),
        on_corruption: with.on_corruption,
        now_ms: NOW_MS,
    })?;
    let mut log = TestLog {
        log: Some(log),
        disk: disk.clone(),
        data,
        ring,
        wal,
        topic_id: recovery.topic_id.unwrap_or_default(),
        inbox: Arc::default(),
        next_log_id: recovered.next_log_id,
    };
    log.checkpoint();
    for entry in disk.list(&rings)? {
        if entry.name != ring.to_string() {
            disk.remove_dir_all(&rings.join(entry.name))?;
        }
    }
    Ok((log, recovery))
}

#[allow(clippy::needless_pass_by_value, reason = "tests make it on the spot")]
pub(crate) fn open_in(
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    config: &LogConfig,
) -> Result<(TestLog, Recovery), OpenError> {
    open_with(&disk, &dir, config, &With::default())
}

pub(crate) fn open(disk: &MemDisk, config: &LogConfig) -> Result<(TestLog, Recovery), OpenError> {
    open_in(Arc::new(disk.clone()), dir(), config)
}

pub(crate) fn flush(log: &mut TestLog) {
    log.flush();
}

/// Where a data directory's only write-ahead log is.
pub(crate) fn ring_dir(disk: &dyn Disk, data: &Path) -> PathBuf {
    let rings = disk.list(&data.join("wal")).unwrap();
    data.join("wal").join(&rings[0].name)
}

/// All batches from `from` up to the durable end.
pub(crate) fn read_all(log: &Log, from: i64) -> Vec<Batch> {
    let mut batches = Vec::new();
    let mut offset = from;
    while offset < log.durable_offset() {
        let read = log
            .read_plan(offset, 1 << 20, log.durable_offset(), true)
            .unwrap()
            .load()
            .unwrap();
        assert!(read.next_offset > offset, "{read:?}");
        offset = read.next_offset;
        batches.extend(split(read.records));
    }
    batches
}

pub(crate) fn split(mut bytes: Bytes) -> Vec<Batch> {
    let mut batches = Vec::new();
    while let Some(batch) = Batch::split_first(&mut bytes).unwrap() {
        batch.verify_crc().unwrap();
        batches.push(batch);
    }
    batches
}
