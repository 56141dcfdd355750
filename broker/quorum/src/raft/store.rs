//! The log as openraft sees it: entries in memory, and a journal that makes them durable.
//!
//! What it is told to forget on disk it forgets only when a durable snapshot covers it, and
//! it never takes back what was committed.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{AnyError, LogState, RaftLogReader, StorageIOError};
use tidemark_env::disk::{DirLock, Disk};
use tokio::sync::watch;

use super::codec::entry_bytes;
use super::error::StoreError;
use super::fold::Fold;
use super::journal::{Event, Journal, RaftRecovery};
use super::snapshot::{self, SnapshotBytes};
use super::types::{Entry, LogId, SnapshotMeta, StorageError, TypeConfig, Vote, VoterId};
use super::writer::{Done, Writer};

/// About so many bytes of entries go to a follower at once; one entry goes at any size.
const READ_BYTES: usize = 2 * 1024 * 1024;

/// The log's memory, shared by what appends, reads and purges.
#[derive(Debug, Default)]
pub(super) struct Memory {
    entries: BTreeMap<u64, Entry>,
    /// Bytes of `entries`, about.
    bytes: usize,
    /// Bytes of all entries that were ever pushed, about.
    pushed_bytes: u64,
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    /// Purged in memory, not yet on disk.
    to_purge: Option<LogId>,
    /// Not worth an fsync: it goes with the next group.
    unsaved_committed: Option<LogId>,
}

impl Memory {
    fn remove_from(&mut self, index: u64) {
        for entry in self.entries.split_off(&index).values() {
            self.bytes -= entry_bytes(entry);
        }
    }

    fn remove_through(&mut self, index: u64) {
        let rest = self.entries.split_off(&(index + 1));
        for entry in std::mem::replace(&mut self.entries, rest).values() {
            self.bytes -= entry_bytes(entry);
        }
    }

    fn push(&mut self, entry: Entry) {
        let bytes = entry_bytes(&entry);
        self.bytes += bytes;
        self.pushed_bytes += bytes as u64;
        self.entries.insert(entry.log_id.index, entry);
    }

    fn last(&self) -> Option<LogId> {
        match self.entries.last_key_value() {
            Some((_, entry)) => Some(entry.log_id),
            None => self.purged,
        }
    }
}

/// How far the snapshot on disk goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Snapshotted {
    Through(Option<LogId>),
    Failed,
}

/// The directory of a voter: its log and its snapshot. Clones share it.
#[derive(Debug, Clone)]
pub struct LogStore {
    pub(super) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    pub(super) me: VoterId,
    pub(super) inline: bool,
    pub(super) snapshotted: watch::Sender<Snapshotted>,
    /// Held while a snapshot is written, so that an older one never replaces a newer one.
    pub(super) snapshot_lock: Mutex<Option<(SnapshotMeta, SnapshotBytes)>>,
    memory: Mutex<Memory>,
    writer: Writer,
}

/// What [`LogStore::open`] found.
#[derive(Debug)]
pub struct Opened {
    /// The log.
    pub store: LogStore,
    /// What the snapshot comes to, or nothing.
    pub fold: Fold,
    /// What opening the log had to do.
    pub recovery: RaftRecovery,
}

impl LogStore {
    /// Opens the log of `me` in `dir`. With `inline`, for a disk in memory, what blocks is
    /// done by the caller; otherwise on a thread of the log's own. Blocks.
    ///
    /// # Errors
    /// [`StoreError::InUse`], damage, a newer format, those of the disk.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        me: VoterId,
        inline: bool,
    ) -> Result<Opened, StoreError> {
        let lock = lock(&*disk, dir)?;
        let (journal, remembered, recovery) = Journal::open(disk.clone(), dir)?;
        let found = snapshot::read(&*disk, dir)?;
        let held = found
            .as_ref()
            .map(|(fold, bytes)| (snapshot::meta(fold), bytes.clone()));
        let fold = found.map_or_else(Fold::default, |(fold, _)| fold);
        if remembered.purged > fold.applied {
            return Err(StoreError::corrupt(
                &dir.join("snapshot"),
                0,
                "it is older than what the log needs, or missing",
            ));
        }
        let mut memory = Memory {
            vote: remembered.vote,
            committed: remembered.committed,
            purged: remembered.purged,
            ..Memory::default()
        };
        for entry in remembered.entries.into_values() {
            memory.push(entry);
        }
        if memory.committed > memory.last().max(fold.applied) {
            return Err(StoreError::corrupt(
                dir,
                0,
                "the log ends before entries that are known to be committed",
            ));
        }
        let shared = Shared {
            disk,
            dir: dir.to_owned(),
            me,
            inline,
            snapshotted: watch::Sender::new(Snapshotted::Through(fold.applied)),
            snapshot_lock: Mutex::new(held),
            memory: Mutex::new(memory),
            writer: Writer::start(journal, lock, inline).map_err(StoreError::io(dir))?,
        };
        Ok(Opened {
            store: LogStore {
                shared: Arc::new(shared),
            },
            fold,
            recovery,
        })
    }

    /// Bytes of the entries that are not purged, about.
    pub fn log_bytes(&self) -> usize {
        self.shared.memory().bytes
    }

    /// Bytes of all entries since the log was opened, those it began with included, about.
    pub(super) fn appended_bytes(&self) -> u64 {
        self.shared.memory().pushed_bytes
    }

    /// The last entry.
    pub fn last(&self) -> Option<LogId> {
        self.shared.memory().last()
    }

    /// The last entry that a snapshot has replaced.
    pub fn purged(&self) -> Option<LogId> {
        self.shared.memory().purged
    }

    pub(super) fn vote_and_committed(&self) -> (Option<Vote>, Option<LogId>) {
        let memory = self.shared.memory();
        (memory.vote, memory.committed)
    }

    /// Entries `from..=to` as far as they are there, of about `most_bytes`, but at least one.
    pub(super) fn read(&self, from: u64, to: u64, most_bytes: usize) -> Vec<Entry> {
        let memory = self.shared.memory();
        let mut bytes = 0;
        let mut found: Vec<Entry> = Vec::new();
        if from > to {
            return found;
        }
        for entry in memory.entries.range(from..=to).map(|(_, entry)| entry) {
            bytes += entry_bytes(entry);
            if bytes > most_bytes && !found.is_empty() {
                break;
            }
            found.push(entry.clone());
        }
        found
    }

    /// Sets how long a segment may get, where the caller writes.
    #[cfg(test)]
    pub(super) fn set_segment_bytes(&self, bytes: u64) {
        self.shared.writer.set_segment_bytes(bytes);
    }

    /// Lets go of the directory when all that was queued is durable.
    pub(super) async fn close(&self) {
        let events = self.shared.purge_events();
        self.shared.write(events, Done::Nobody);
        self.shared.writer.stop().await;
    }
}

fn lock(disk: &dyn Disk, dir: &Path) -> Result<DirLock, StoreError> {
    disk.lock_dir(dir).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => StoreError::InUse {
            path: dir.to_owned(),
        },
        _ => StoreError::io(dir)(source),
    })
}

impl Shared {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        // Nothing panics while it is held but on a broken invariant, after which the
        // process ends.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self, mut events: Vec<Event>, done: Done) {
        let committed = self.memory().unsaved_committed.take();
        events.extend(committed.map(Event::Committed));
        self.writer.write(events, done);
    }

    async fn write_durably(&self, events: Vec<Event>) -> io::Result<()> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.write(events, Done::Reply(sender));
        receiver
            .await
            .unwrap_or_else(|_| Err(io::Error::other("the log was closed")))
    }

    /// What may be forgotten on disk by now.
    fn purge_events(&self) -> Vec<Event> {
        let snapshotted = *self.snapshotted.borrow();
        let mut memory = self.memory();
        match (memory.to_purge, snapshotted) {
            (Some(purge), Snapshotted::Through(through)) if Some(purge) <= through => {
                memory.to_purge = None;
                vec![Event::Purged(purge)]
            }
            _ => Vec::new(),
        }
    }

    /// The snapshot on disk, which is held in memory, too: it is sent from there.
    pub(super) fn snapshot(&self) -> Option<(SnapshotMeta, SnapshotBytes)> {
        let held = self.snapshot_lock.lock();
        held.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Told when a snapshot is durable, or cannot be.
    pub(super) fn snapshot_is(&self, now: Snapshotted) {
        self.snapshotted.send_replace(now);
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> (Bound<u64>, Bound<u64>) {
    (range.start_bound().cloned(), range.end_bound().cloned())
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        let memory = self.shared.memory();
        let found = memory.entries.range(bounds(&range));
        Ok(found.map(|(_, entry)| entry.clone()).collect())
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, StorageError> {
        Ok(self.read(start, end.saturating_sub(1), READ_BYTES))
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let memory = self.shared.memory();
        Ok(LogState {
            last_purged_log_id: memory.purged,
            last_log_id: memory.last(),
        })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        self.shared.memory().vote = Some(*vote);
        self.shared
            .write_durably(vec![Event::Voted(*vote)])
            .await
            .map_err(|error| StorageIOError::write_vote(AnyError::new(&error)).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        let mut vote = self.shared.memory().vote;
        if let Some(vote) = &mut vote
            && vote.leader_id.node_id == self.shared.me
        {
            // It led when it stopped. It leads again only when it wins an election: it
            // cannot know what has happened since.
            vote.committed = false;
        }
        Ok(vote)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        let mut memory = self.shared.memory();
        if committed > memory.committed {
            memory.committed = committed;
            memory.unsaved_committed = committed;
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        let memory = self.shared.memory();
        // Never past what is here: a snapshot covers the rest.
        Ok(memory.committed.min(memory.last()))
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<TypeConfig>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let mut events = Vec::new();
        // Entries after a hole wait for the snapshot that fills it.
        let to_purge = self.shared.memory().to_purge;
        if to_purge.is_some() {
            let mut snapshotted = self.shared.snapshotted.subscribe();
            let reached = snapshotted
                .wait_for(|now| match now {
                    Snapshotted::Through(through) => *through >= to_purge,
                    Snapshotted::Failed => true,
                })
                .await
                .is_ok_and(|now| *now != Snapshotted::Failed);
            if !reached {
                return Err(StorageIOError::write_logs(AnyError::error(
                    "the snapshot before these entries could not be written",
                ))
                .into());
            }
            events = self.shared.purge_events();
        }
        {
            let mut memory = self.shared.memory();
            for entry in entries {
                let next = memory.last().map(|last| last.index + 1);
                if next.is_some_and(|next| next != entry.log_id.index) {
                    return Err(StorageIOError::write_log_entry(
                        entry.log_id,
                        AnyError::error(format!("the next entry is {next:?}")),
                    )
                    .into());
                }
                memory.push(entry.clone());
                events.push(Event::Entry(entry));
            }
        }
        self.shared.write(events, Done::Flushed(callback));
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        {
            let mut memory = self.shared.memory();
            if memory.committed.is_some_and(|id| id.index >= log_id.index) {
                return Err(StorageIOError::write_log_entry(
                    log_id,
                    AnyError::error("a committed entry is never taken back"),
                )
                .into());
            }
            memory.remove_from(log_id.index);
        }
        self.shared
            .write_durably(vec![Event::Truncated(log_id.index)])
            .await
            .map_err(|error| StorageIOError::write_logs(AnyError::new(&error)).into())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        {
            let mut memory = self.shared.memory();
            memory.remove_through(log_id.index);
            memory.purged = memory.purged.max(Some(log_id));
            memory.to_purge = memory.to_purge.max(Some(log_id));
        }
        // Nobody waits for it: until it is durable the entries are read again at a start.
        let events = self.shared.purge_events();
        if !events.is_empty() {
            self.shared.write(events, Done::Nobody);
        }
        Ok(())
    }
}
