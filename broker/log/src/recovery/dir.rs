//! What a data directory held when it was last in use: the checkpoint, and what the
//! write-ahead log has beyond it, sorted by log.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tidemark_env::disk::{self, Disk, OpenMode};
use tidemark_records::{Batch, BatchHeader};
use tidemark_wal::{Entry, EntryKind, LogId, Lsn, RingId, Scan, scan};
use tidemark_wire::Uuid;

use super::{Known, Opening};
use crate::checkpoint::{DirCheckpoint, LogCheckpoint};
use crate::error::OpenError;
use crate::log::Log;
use crate::names;

/// Ends the name of a file of records that came from a write-ahead log and wait for
/// their log to be mended.
const KEPT_SUFFIX: &str = ".kept";
/// A file of kept records longer than this is not one: a write-ahead log is smaller.
const MAX_KEPT_BYTES: usize = 8 << 30;

/// A data directory as it was left.
#[derive(Debug)]
pub struct RecoveredDir {
    /// The ring that the checkpoint names; `None` in a directory that never had one.
    pub ring: Option<RingId>,
    /// Whether it was closed cleanly.
    pub clean: bool,
    /// The number of the next group.
    pub next_lsn: Lsn,
    /// The id of the next log.
    pub next_log_id: u64,
    /// Why the end of the write-ahead log was cut, if it was.
    pub torn: Option<String>,
    logs: HashMap<(Uuid, i32), (LogId, Known)>,
}

impl RecoveredDir {
    /// Reads the checkpoint of data directory `dir`, and the ring in `ring_dir(id)` that
    /// it names, which is made durable as it was read. Nothing is changed. Blocks.
    ///
    /// # Errors
    /// A damaged checkpoint, or a write-ahead log damaged in a way that does not say
    /// whose records are lost; `cut_corrupt` takes what there is then.
    pub fn read(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        ring_dir: impl FnOnce(RingId) -> PathBuf,
        cut_corrupt: bool,
    ) -> Result<Self, OpenError> {
        let Some(checkpoint) = DirCheckpoint::read(&**disk, dir)? else {
            return Ok(Self {
                ring: None,
                clean: true,
                next_lsn: 1,
                next_log_id: 1,
                torn: None,
                logs: HashMap::new(),
            });
        };
        let mut recovered = Self {
            ring: Some(checkpoint.ring),
            clean: checkpoint.clean,
            next_lsn: checkpoint.next_lsn,
            next_log_id: checkpoint.next_log_id,
            torn: None,
            logs: HashMap::new(),
        };
        let mut logs: BTreeMap<LogId, Known> = checkpoint
            .logs
            .iter()
            .map(|(id, checkpoint)| {
                let known = Known {
                    checkpoint: *checkpoint,
                    ..Known::default()
                };
                (*id, known)
            })
            .collect();
        if !checkpoint.clean {
            let ring_dir = ring_dir(checkpoint.ring);
            // A ring has a file before a checkpoint names it.
            let files = match disk.list(&ring_dir) {
                Ok(entries) => entries.iter().filter(|entry| !entry.is_dir).count(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
                Err(error) => return Err(error.into()),
            };
            if files == 0 {
                return Err(OpenError::BadFile {
                    file: ring_dir,
                    reason: "the write-ahead log that holds acknowledged records of this data \
                             directory is not there. Mount its volume, or set wal.dir as it was"
                        .to_owned(),
                });
            }
            let found = scan(
                disk,
                &ring_dir,
                checkpoint.ring,
                checkpoint.released_lsn,
                &verify,
            )?;
            found.sync()?;
            recovered.next_lsn = recovered.next_lsn.max(found.last_lsn + 1);
            recovered.torn = found
                .torn
                .as_ref()
                .map(|torn| format!("group {}: {}", torn.lsn, torn.reason));
            recovered.sort(&mut logs, found, &ring_dir, cut_corrupt)?;
        }
        for (id, known) in logs {
            let key = (known.checkpoint.topic_id, known.checkpoint.partition);
            // Ids go up: the last one is the one that lives.
            recovered.logs.insert(key, (id, known));
        }
        Ok(recovered)
    }

    /// Gives each log its records of the write-ahead log.
    fn sort(
        &mut self,
        logs: &mut BTreeMap<LogId, Known>,
        found: Scan,
        ring_dir: &Path,
        cut_corrupt: bool,
    ) -> Result<(), OpenError> {
        let mut damaged: BTreeMap<LogId, (Lsn, String)> = BTreeMap::new();
        for damage in &found.damage {
            match damage.log {
                Some(log) => {
                    damaged
                        .entry(log)
                        .or_insert_with(|| (damage.lsn, damage.reason.clone()));
                }
                None if cut_corrupt => {
                    tracing::error!(
                        file = %ring_dir.display(), lsn = damage.lsn, reason = damage.reason,
                        "acknowledged records are lost: part of the write-ahead log cannot be read"
                    );
                }
                None => {
                    return Err(OpenError::Corrupt {
                        file: ring_dir.to_owned(),
                        position: damage.position,
                        offset: -1,
                        reason: damage.reason.clone(),
                    });
                }
            }
        }
        let found = Arc::new(found);
        for entry in &found.entries {
            let id = entry.log;
            self.next_log_id = self.next_log_id.max(id.0 + 1);
            match entry.kind {
                EntryKind::Create {
                    topic_id,
                    partition,
                } => {
                    // A checkpoint that already knows of it knows more.
                    // Its first records may be in the group that makes it.
                    let before = entry.lsn.saturating_sub(1);
                    logs.entry(id).or_insert_with(|| Known {
                        checkpoint: LogCheckpoint::empty(Uuid(topic_id), partition, before),
                        ..Known::default()
                    });
                }
                EntryKind::Delete => drop(logs.remove(&id)),
                _ => {
                    // Records of ids that are dead, or that nobody made, say nothing.
                    let Some(known) = logs.get_mut(&id) else {
                        continue;
                    };
                    let lost = damaged.get(&id).is_some_and(|(lsn, _)| entry.lsn >= *lsn);
                    if entry.lsn > known.checkpoint.lsn && !lost {
                        known.replay.push(entry.clone());
                        known.scan.get_or_insert_with(|| found.clone());
                    }
                }
            }
        }
        for (id, (lsn, reason)) in damaged {
            if let Some(known) = logs.get_mut(&id)
                && lsn > known.checkpoint.lsn
            {
                known.damage = Some(reason);
            }
        }
        Ok(())
    }

    /// What is known of a partition's log, with its id.
    pub fn take(&mut self, topic_id: Uuid, partition: i32) -> Option<(LogId, Known)> {
        self.logs.remove(&(topic_id, partition))
    }

    /// The logs that nobody took.
    pub fn left(&self) -> impl Iterator<Item = (&(Uuid, i32), &(LogId, Known))> {
        self.logs.iter()
    }
}

/// Whether the bytes of an entry are the batch that it says.
fn verify(entry: &Entry, bytes: &[u8]) -> Result<(), String> {
    let EntryKind::Batches {
        base_offset,
        next_offset,
        leader_epoch,
    } = entry.kind
    else {
        return Ok(());
    };
    let header = BatchHeader::parse(bytes).map_err(|error| error.to_string())?;
    if header.size_bytes() != bytes.len()
        || header.base_offset != base_offset
        || header.next_offset() != next_offset
        || header.partition_leader_epoch != leader_epoch
    {
        return Err(format!(
            "the batch is not the one at offsets {base_offset} to {next_offset}"
        ));
    }
    let computed = tidemark_records::crc32c(&bytes[CRC_FROM..]);
    if computed != header.crc {
        return Err(format!(
            "the batch at offset {base_offset} has CRC-32C {:#010x}, computed {computed:#010x}",
            header.crc
        ));
    }
    Ok(())
}

/// Where the bytes begin that a batch's CRC covers.
const CRC_FROM: usize = 21;

/// Records of a log that cannot be opened, kept beside it until it is mended.
#[derive(Debug)]
pub struct KeptTail {
    /// The file.
    pub path: PathBuf,
    /// Records' bytes in it.
    pub bytes: u64,
}

impl KeptTail {
    /// Writes the write-ahead log's records of a log that cannot be opened into a file in
    /// its directory, durably: the next open that goes well takes them from there.
    /// `None` when there are none.
    ///
    /// # Errors
    /// The disk failed or is full.
    pub fn keep(disk: &dyn Disk, dir: &Path, known: &Known) -> Result<Option<Self>, OpenError> {
        Self::write(disk, dir, known, 0, KEPT_SUFFIX)
    }

    /// Writes the batches of `known.replay[from..]` into a file named after the first one.
    pub(super) fn write(
        disk: &dyn Disk,
        dir: &Path,
        known: &Known,
        from: usize,
        suffix: &str,
    ) -> Result<Option<Self>, OpenError> {
        let batches: Vec<&Entry> = known.replay[from..]
            .iter()
            .filter(|entry| matches!(entry.kind, EntryKind::Batches { .. }))
            .collect();
        let (Some(first), Some(scan)) = (batches.first(), &known.scan) else {
            return Ok(None);
        };
        let EntryKind::Batches { base_offset, .. } = first.kind else {
            return Ok(None);
        };
        let path = names::with_suffix(&names::path(dir, base_offset, names::LOG), suffix);
        let file = disk.open(&path, OpenMode::Create)?;
        file.set_len(0)?;
        let mut at = 0;
        for entry in batches {
            let bytes = scan.read(entry)?;
            file.write_at(&bytes, at)?;
            at += bytes.len() as u64;
        }
        file.sync_data()?;
        disk.sync_dir(dir)?;
        Ok(Some(Self { path, bytes: at }))
    }
}

impl Opening {
    /// Applies records that an earlier start kept because the log could not be opened.
    pub(super) fn replay_kept(&mut self, log: &mut Log) -> Result<(), OpenError> {
        let kept: Vec<String> = self
            .files
            .keys()
            .filter(|name| name.ends_with(KEPT_SUFFIX))
            .cloned()
            .collect();
        for name in kept {
            let path = self.path(&name);
            let mut bytes: Bytes = disk::read_file(self.disk(), &path, MAX_KEPT_BYTES)?;
            let before = log.end;
            let mut gap_at = None;
            while let Ok(Some(batch)) = Batch::split_first(&mut bytes) {
                if batch.header.base_offset > log.end {
                    gap_at.get_or_insert(batch.header.base_offset);
                }
                if batch.header.base_offset == log.end && batch.verify_crc().is_ok() {
                    self.recovery.replayed_bytes += batch.bytes.len() as u64;
                    // Group 0 comes before all others.
                    log.replay_batch(0, &batch.bytes, self.args.now_ms)?;
                }
            }
            if let Some(base_offset) = gap_at {
                self.check_may_leave_out(log, base_offset)?;
                let aside = names::with_suffix(&path, names::CUT_SUFFIX);
                self.disk().rename(&path, &aside)?;
                self.left_out(log, base_offset, Some(aside));
            } else if log.end == before {
                // An earlier open has taken it in, and a checkpoint has made it durable.
                self.disk().remove(&path)?;
            }
        }
        Ok(())
    }
}
