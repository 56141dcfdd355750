//! Opening a log: finding its segments, checking what a crash may have left, and
//! putting the state together again.
//!
//! A log that the checkpoint knows is trusted up to where the checkpoint says that its
//! files end. What lies behind is cut off and the write-ahead log's later records are
//! applied, so opening twice gives what opening once gives. Fewer bytes than the
//! checkpoint says are damage, which is reported and not repaired unasked.
//!
//! A log that nobody knows was written by another program: all of it is scanned, CRCs
//! checked, and bad bytes at its end are a torn tail and cut off.

mod dir;
mod files;
mod segments;

pub use dir::{KeptTail, RecoveredDir};
pub use files::topic_id_of;
pub(crate) use files::{
    MAX_SNAPSHOT_BYTES, ensure_snapshot, load_producers, read_topic_id, replay, snapshot_offsets,
};

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tidemark_env::disk::{self, DirEntry, Disk, OpenMode};
use tidemark_wal::{Entry, EntryKind, LogId, Scan};
use tidemark_wire::Uuid;

use crate::checkpoint::LogCheckpoint;
use crate::config::LogConfig;
use crate::epochs::LeaderEpochs;
use crate::error::OpenError;
use crate::log::Log;
use crate::names;
use crate::segment::{DataDir, LogShared, Segment, Segments};
use crate::tail::Tail;

/// A checkpoint file of epochs longer than this is not one.
const MAX_SMALL_FILE_BYTES: usize = 16 << 20;

/// What to do when bytes that were known durable are damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnCorruption {
    /// Refuse to open the log.
    #[default]
    Refuse,
    /// Cut the log at the damage, keeping what was cut beside it (`.cut`). Loses
    /// acknowledged records: only when a person asked for it.
    Truncate,
}

/// What is known of a log before it is opened.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// What the checkpoint says of it.
    pub checkpoint: LogCheckpoint,
    /// The write-ahead log's later records of it, in order.
    pub replay: Vec<Entry>,
    /// Where their bytes are.
    pub scan: Option<Arc<Scan>>,
    /// What is damaged of them, if anything: it is to be found where they end.
    pub damage: Option<String>,
}

/// How to open a log.
#[derive(Debug)]
pub struct OpenArgs {
    /// Where it is.
    pub parent: Arc<DataDir>,
    /// The name of the partition's directory, `<topic>-<partition>`. Made when it is not there.
    pub name: OsString,
    /// Its id in the write-ahead log, if it has one.
    pub id: LogId,
    /// The topic's id: written to a new directory's `partition.metadata`, compared
    /// with that of an existing one. `None` takes what is there.
    pub topic_id: Option<Uuid>,
    /// What the checkpoint and the write-ahead log know of it; `None` for a new log, or
    /// one that another program wrote.
    pub known: Option<Known>,
    /// Whether index files need no look: the directory was closed cleanly.
    pub trust_indexes: bool,
    /// Settings.
    pub config: Arc<LogConfig>,
    /// What to do about damage.
    pub on_corruption: OnCorruption,
    /// The time, in milliseconds since 1970.
    pub now_ms: i64,
}

/// What opening a log found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The log was new: nothing was there before.
    pub created: bool,
    /// Nothing had to be scanned: it was closed cleanly, or has not changed since.
    pub clean: bool,
    /// Bytes whose CRCs were checked.
    pub scanned_bytes: u64,
    /// Bytes that lay behind the trusted end and were cut off.
    pub untrusted_bytes: u64,
    /// Bytes of records that came from the write-ahead log.
    pub replayed_bytes: u64,
    /// Bytes cut off the end.
    pub cut_bytes: u64,
    /// Why they were cut, and where.
    pub cut_reason: Option<String>,
    /// Where they were kept, when there were valid batches among them.
    pub cut_kept_in: Vec<PathBuf>,
    /// Records that were known to be on disk are gone: only where [`OnCorruption::Truncate`] allowed it.
    pub lost_durable: bool,
    /// Segments that did not continue the log and were taken out of it.
    pub segments_set_aside: usize,
    /// Segments whose indexes were made anew.
    pub rebuilt_indexes: usize,
    /// Topic id in `partition.metadata`.
    pub topic_id: Option<Uuid>,
}

impl Log {
    /// Opens the log in a directory, or makes a new one there.
    ///
    /// # Errors
    /// [`OpenError::Corrupt`] for damage (see [`OnCorruption`]), `BadFile` for a
    /// directory of another topic or a newer release, `Io`.
    pub fn open(args: OpenArgs) -> Result<(Log, Recovery), OpenError> {
        Opening::new(args)?.run()
    }
}

struct Opening {
    args: OpenArgs,
    dir: PathBuf,
    files: BTreeMap<String, u64>,
    bases: Vec<i64>,
    recovery: Recovery,
}

/// The segments while they are gone through, and in the end what they gave.
struct Scanned {
    /// Where the trusted part of the files ends.
    trusted: Trusted,
    /// Whether there was a checkpoint: otherwise another program wrote the log, and
    /// compaction may have left gaps in it.
    known: bool,
    epochs: LeaderEpochs,
    segments: Segments,
    end: i64,
    tail: Option<Box<Tail>>,
}

/// Up to where a log's files are trusted.
#[derive(Debug, Clone, Copy)]
struct Trusted {
    log_start: i64,
    end: i64,
    segment_base: i64,
    position: u64,
    /// Epochs that begin here or later are not.
    epochs_end: i64,
}

impl Opening {
    fn new(args: OpenArgs) -> Result<Self, OpenError> {
        let mut recovery = Recovery::default();
        let (disk, dir) = (&args.parent.disk, args.parent.path.join(&args.name));
        let entries = match disk.list(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                disk.create_dir_all(&dir)?;
                Vec::new()
            }
            Err(error) => return Err(error.into()),
        };
        let mut files = BTreeMap::new();
        for DirEntry { name, is_dir, len } in entries {
            let leftover = name.ends_with(names::DELETED_SUFFIX)
                || name.ends_with(".tmp")
                || name.ends_with(".cleaned");
            if leftover && !is_dir {
                disk.remove(&dir.join(&name))?;
            } else if !is_dir {
                files.insert(name, len);
            }
        }
        let bases: Vec<i64> = files
            .keys()
            .filter_map(|name| names::parse(name))
            .filter(|(_, extension)| *extension == names::LOG)
            .map(|(base, _)| base)
            .collect();
        recovery.created = bases.is_empty() && args.known.is_none();
        Ok(Self {
            args,
            dir,
            files,
            bases,
            recovery,
        })
    }

    fn disk(&self) -> &dyn Disk {
        &*self.args.parent.disk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn run(mut self) -> Result<(Log, Recovery), OpenError> {
        self.topic_id()?;
        self.remove_orphans()?;
        let shared = Arc::new(LogShared {
            parent: self.args.parent.clone(),
            name: self.args.name.clone().into_boxed_os_str(),
            generation: AtomicU64::new(1),
        });
        let known = self.args.known.take();
        let (trusted, replay_from) = self.trusted(&shared, known.as_ref())?;
        if known.is_some() {
            self.remove_deleted(&trusted)?;
        }
        let epochs_before = self.read_epochs(known.is_none())?;
        let mut scanned = Scanned {
            trusted,
            known: known.is_some(),
            epochs: epochs_before.clone(),
            segments: Segments::new(),
            end: trusted.end,
            tail: None,
        };
        self.scan(&shared, &mut scanned)?;
        let end = scanned.end;
        let first_base = scanned.segments.first().map_or(end, Segment::base_offset);
        let mut epochs = std::mem::take(&mut scanned.epochs);
        segments::extend_epochs(&shared, &scanned.segments, &mut epochs, trusted.log_start)?;
        epochs.truncate_from_end(trusted.epochs_end.min(end + 1));
        let (producers, snapshot_offset) = self.producers(&shared, &scanned)?;
        let epochs_changed = epochs != epochs_before;
        let mut log = Log {
            config: self.args.config.clone(),
            segments: scanned.segments,
            tail: scanned.tail,
            log_start: first_base.min(end),
            end,
            committed: 0,
            id: self.args.id,
            behind: None,
            epochs,
            producers,
            snapshot_at_end: snapshot_offset == Some(end),
            since_snapshot_bytes: 0,
            opened_ms: self.args.now_ms,
            shared,
        };
        if log.segments.is_empty() {
            log.create_segment(log.end)?;
        }
        log.note_epochs(epochs_changed);
        if let Some(known) = &known {
            self.replay(&mut log, known, replay_from)?;
        }
        let log_start = trusted.log_start.max(log.log_start).min(log.end);
        log.log_start = log_start;
        log.committed = known
            .as_ref()
            .map_or(log_start, committed)
            .clamp(log_start, log.end);
        let epochs_changed = log.epochs.truncate_from_start(log_start);
        log.note_epochs(epochs_changed);
        self.finish(&mut log, known.as_ref());
        Ok((log, self.recovery))
    }

    /// Removes segments that end at or below the log start: retention had deleted them, and a
    /// power cut brought their names back, maybe with less in them than they once had.
    fn remove_deleted(&mut self, trusted: &Trusted) -> Result<(), OpenError> {
        let next = self.bases.iter().skip(1);
        let deleted: Vec<i64> = std::iter::zip(&self.bases, next)
            .filter(|(base, next)| **next <= trusted.log_start && **base < trusted.segment_base)
            .map(|(base, _)| *base)
            .collect();
        for base in &deleted {
            // Of one base; the log first, as without it the others are orphans to the next start.
            let of_base = |name: &&String| names::parse(name).is_some_and(|(of, _)| of == *base);
            let mut names: Vec<String> = self.files.keys().filter(of_base).cloned().collect();
            names.retain(|name| !name.ends_with(names::SNAPSHOT));
            names.sort_by_key(|name| !name.ends_with(names::LOG));
            for name in names {
                self.disk().remove(&self.path(&name))?;
                self.files.remove(&name);
            }
        }
        self.bases.retain(|base| !deleted.contains(base));
        Ok(())
    }

    /// Up to where the files are trusted, and which of the records to be applied is the
    /// first: a truncation lowers the one and skips the records before it.
    fn trusted(
        &mut self,
        shared: &Arc<LogShared>,
        known: Option<&Known>,
    ) -> Result<(Trusted, usize), OpenError> {
        let Some(known) = known else {
            let first_base = self.bases.first().copied().unwrap_or(0);
            let nothing = Trusted {
                log_start: first_base,
                end: first_base,
                segment_base: first_base,
                position: 0,
                epochs_end: i64::MAX,
            };
            return Ok((nothing, 0));
        };
        let checkpoint = &known.checkpoint;
        let mut trusted = Trusted {
            log_start: checkpoint.log_start,
            end: checkpoint.end,
            segment_base: checkpoint.segment_base,
            position: checkpoint.position,
            // One that begins at the end has no records yet: its leader said so durably.
            epochs_end: checkpoint.end + 1,
        };
        let (mut from, mut reset) = (0, None);
        for (index, entry) in known.replay.iter().enumerate() {
            match entry.kind {
                EntryKind::LogStart { offset } => trusted.log_start = trusted.log_start.max(offset),
                EntryKind::Reset {
                    start_offset,
                    keeps_producers,
                } => {
                    reset = Some(keeps_producers.then_some(start_offset));
                    trusted = Trusted {
                        log_start: start_offset,
                        end: start_offset,
                        segment_base: start_offset,
                        position: 0,
                        epochs_end: i64::MIN,
                    };
                    from = index + 1;
                }
                EntryKind::Truncate { end_offset } if end_offset <= trusted.end => {
                    trusted.end = end_offset;
                    trusted.epochs_end = trusted.epochs_end.min(end_offset);
                    from = index + 1;
                }
                _ => {}
            }
        }
        if let Some(kept) = reset {
            for base in std::mem::take(&mut self.bases) {
                self.remove_segment(base)?;
            }
            // What they know of is gone, whatever offset they have, but for what was put there for
            // the reset.
            let snapshots = self.files.keys().filter(|name| {
                names::parse(name).is_some_and(|(offset, extension)| {
                    extension == names::SNAPSHOT && kept != Some(offset)
                })
            });
            for name in snapshots.cloned().collect::<Vec<_>>() {
                self.disk().remove(&self.path(&name))?;
                self.files.remove(&name);
            }
        } else if trusted.end < checkpoint.end {
            (trusted.segment_base, trusted.position) = self.locate(shared, trusted.end)?;
        }
        Ok((trusted, from))
    }

    /// Applies the write-ahead log's records from index `from` on.
    fn replay(&mut self, log: &mut Log, known: &Known, from: usize) -> Result<(), OpenError> {
        self.replay_kept(log)?;
        for (index, entry) in known.replay.iter().enumerate().skip(from) {
            match entry.kind {
                EntryKind::Batches { base_offset, .. } => {
                    let Some(scan) = &known.scan else {
                        return Err(self.bad_wal("its records' bytes are not at hand"));
                    };
                    let bytes = scan.read(entry)?;
                    if base_offset != log.end {
                        self.check_may_leave_out(log, base_offset)?;
                        let (disk, dir) = (self.disk(), &self.dir);
                        let aside = KeptTail::write(disk, dir, known, index, names::CUT_SUFFIX)?;
                        self.left_out(log, base_offset, aside.map(|aside| aside.path));
                        break;
                    }
                    self.recovery.replayed_bytes += bytes.len() as u64;
                    log.replay_batch(entry.lsn, &bytes, self.args.now_ms)?;
                }
                EntryKind::Truncate { end_offset } => {
                    log.settle().map_err(io::Error::other)?;
                    let cut = log.find_cut(end_offset).map_err(io::Error::other)?;
                    log.cut(&cut, self.args.now_ms).map_err(io::Error::other)?;
                }
                EntryKind::Epoch {
                    leader_epoch,
                    start_offset,
                } => log.assign_epoch(leader_epoch, start_offset),
                EntryKind::LogStart { offset } => {
                    log.log_start = log.log_start.max(offset);
                }
                EntryKind::Create { .. } | EntryKind::Delete | EntryKind::Reset { .. } => {}
            }
        }
        log.settle().map_err(io::Error::other)?;
        debug_assert!(log.is_settled());
        match &known.damage {
            Some(reason) if self.args.on_corruption == OnCorruption::Refuse => {
                Err(OpenError::Corrupt {
                    file: PathBuf::from("the write-ahead log"),
                    position: 0,
                    offset: log.end,
                    reason: reason.clone(),
                })
            }
            Some(reason) => {
                self.recovery.lost_durable = true;
                self.recovery.cut_reason = Some(reason.clone());
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Records at `base_offset` do not continue the log. They may be left out where a
    /// person allowed it, and what is missing is before them.
    fn check_may_leave_out(&self, log: &Log, base_offset: i64) -> Result<(), OpenError> {
        if self.args.on_corruption == OnCorruption::Truncate && base_offset > log.end {
            return Ok(());
        }
        Err(self.bad_wal(&format!(
            "records at offset {base_offset} follow a log that ends at {}",
            log.end
        )))
    }

    fn left_out(&mut self, log: &Log, base_offset: i64, kept_in: Option<PathBuf>) {
        self.recovery.lost_durable = true;
        self.recovery.cut_reason.get_or_insert_with(|| {
            format!(
                "records from offset {} to {base_offset} are missing",
                log.end
            )
        });
        self.recovery.cut_kept_in.extend(kept_in);
    }

    fn bad_wal(&self, reason: &str) -> OpenError {
        OpenError::BadFile {
            file: self.dir.clone(),
            reason: format!(
                "the write-ahead log does not continue it: {reason}. Restore the directory from a copy"
            ),
        }
    }

    /// Marks what has to be synced before the log's end may be called durable: all that
    /// was relied on, since what the page cache holds is not durable.
    fn finish(&mut self, log: &mut Log, known: Option<&Known>) {
        if self.recovery.created {
            self.recovery.clean = true;
            let behind = log.behind();
            behind.names_dirty = true;
            behind.unsynced_from = 0;
            return;
        }
        let behind = log.behind.as_ref();
        let untouched = self.recovery.cut_bytes == 0
            && self.recovery.scanned_bytes == 0
            && self.recovery.replayed_bytes == 0
            && self.recovery.untrusted_bytes == 0
            && self.recovery.rebuilt_indexes == 0
            && self.recovery.segments_set_aside == 0
            && known.is_none_or(|known| known.replay.is_empty())
            && !behind.is_some_and(|behind| behind.names_dirty);
        let as_noted = known.is_some_and(|known| {
            known.checkpoint.end == log.end
                && known.checkpoint.segment_base == log.active().base_offset()
        });
        let epochs_dirty = behind.is_some_and(|behind| behind.epochs_dirty);
        self.recovery.clean = untouched && as_noted && !epochs_dirty;
        if self.recovery.clean {
            return;
        }
        let from = match known {
            // A cut that the process before had made, and not synced, may lie further back.
            Some(known) if self.recovery.rebuilt_indexes == 0 => {
                let base = known.checkpoint.segment_base;
                base.min(log.active().base_offset())
            }
            _ => 0,
        };
        let behind = log.behind();
        behind.names_dirty = true;
        behind.unsynced_from = behind.unsynced_from.min(from);
    }

    fn topic_id(&mut self) -> Result<(), OpenError> {
        let path = self.path(names::METADATA);
        if !self.files.contains_key(names::METADATA) {
            if let Some(id) = self.args.topic_id {
                let file = self.disk().open(&path, OpenMode::Create)?;
                file.write_at(format!("version: 0\ntopic_id: {id}").as_bytes(), 0)?;
            }
            self.recovery.topic_id = self.args.topic_id;
            return Ok(());
        }
        let found = read_topic_id(self.disk(), &self.dir)?;
        match (self.args.topic_id, found) {
            (Some(wanted), None) => {
                // Torn while it was written: the metadata knows better.
                let text = format!("version: 0\ntopic_id: {wanted}");
                disk::write_file_atomic(self.disk(), &path, text.as_bytes())?;
                self.recovery.topic_id = Some(wanted);
            }
            (Some(wanted), Some(found)) if wanted != found => {
                return Err(OpenError::BadFile {
                    file: path,
                    reason: format!(
                        "it belongs to topic id {found}, and the topic has id {wanted}: move the \
                         directory away if its records are not needed"
                    ),
                });
            }
            (_, found) => self.recovery.topic_id = found,
        }
        Ok(())
    }

    /// Removes index files without a segment: a crash came between their removals.
    fn remove_orphans(&self) -> Result<(), OpenError> {
        for name in self.files.keys() {
            if let Some((base, names::INDEX | names::TIME_INDEX | names::TXN_INDEX)) =
                names::parse(name)
                && self.bases.binary_search(&base).is_err()
            {
                self.disk().remove(&self.path(name))?;
            }
        }
        Ok(())
    }

    fn read_epochs(&self, foreign: bool) -> Result<LeaderEpochs, OpenError> {
        if !self.files.contains_key(names::EPOCHS) {
            return Ok(LeaderEpochs::default());
        }
        let path = self.path(names::EPOCHS);
        let bytes = disk::read_file(self.disk(), &path, MAX_SMALL_FILE_BYTES)?;
        let parsed = std::str::from_utf8(&bytes)
            .map_err(|_| "it is not text".to_owned())
            .and_then(LeaderEpochs::parse);
        match parsed {
            Ok(epochs) => Ok(epochs),
            // All of the log is scanned then, and every batch names its epoch.
            Err(_) if foreign => Ok(LeaderEpochs::default()),
            Err(reason) => Err(OpenError::BadFile {
                file: path,
                reason: format!("{reason}. Restore it from a copy"),
            }),
        }
    }
}

/// Up to where records were known to be committed. What was cut off since was not, or was given up.
fn committed(known: &Known) -> i64 {
    let cuts = known.replay.iter().filter_map(|entry| match entry.kind {
        EntryKind::Truncate { end_offset } => Some(end_offset),
        EntryKind::Reset { start_offset, .. } => Some(start_offset),
        _ => None,
    });
    cuts.fold(known.checkpoint.high_watermark, i64::min)
}
