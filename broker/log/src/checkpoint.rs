//! `tidemark-checkpoint`: how much of a partition's log is known to be on disk.
//!
//! Three slots of 512 bytes in one file. The first two take turns and are synced
//! after each write: log start, and the recovery point, below which every file has
//! been synced. The third is a hint: the durable end, written after each sync of the
//! log without a sync of its own. A hint may be lost with the power, but what it
//! says was true, so recovery tells damage (below it) from a torn tail (above).
//!
//! Slot: `TMCP`, version (u16), kind (u8), 0, then big-endian: sequence (u64),
//! generation (u64), log start (i64), recovery point (i64), base of its segment
//! (i64), its position there (u64), durable end (i64), CRC-32C of all before (u32).
//! A log is cleanly closed when its last segment ends at the recovery point: there
//! is no separate marker.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidemark_env::disk::{Disk, DiskFile, OpenMode};
use tidemark_records::crc32c;

use crate::error::OpenError;
use crate::names;

const SLOT_BYTES: u64 = 512;
const HINT_SLOT: u64 = 2;
const MAGIC: &[u8; 4] = b"TMCP";
const VERSION: u16 = 1;
const KIND_CHECKPOINT: u8 = 1;
const KIND_HINT: u8 = 2;
const RECORD_BYTES: usize = 8 + 7 * 8 + 4;

/// What a checkpoint says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checkpoint {
    /// The log's generation; every truncation begins a new one.
    pub generation: u64,
    /// First offset of the log.
    pub log_start: i64,
    /// All records below are synced, with their indexes and epochs.
    pub recovery_point: i64,
    /// Base offset of the segment that the recovery point lies in.
    pub segment_base: i64,
    /// Position of the recovery point in that segment, in bytes.
    pub position: u64,
    /// All records below are synced; at least the recovery point.
    pub durable_end: i64,
}

fn encode(kind: u8, sequence: u64, checkpoint: &Checkpoint) -> [u8; RECORD_BYTES] {
    let mut bytes = [0u8; RECORD_BYTES];
    bytes[..4].copy_from_slice(MAGIC);
    bytes[4..6].copy_from_slice(&VERSION.to_be_bytes());
    bytes[6] = kind;
    let fields = [
        sequence.to_be_bytes(),
        checkpoint.generation.to_be_bytes(),
        checkpoint.log_start.to_be_bytes(),
        checkpoint.recovery_point.to_be_bytes(),
        checkpoint.segment_base.to_be_bytes(),
        checkpoint.position.to_be_bytes(),
        checkpoint.durable_end.to_be_bytes(),
    ];
    for (index, field) in fields.iter().enumerate() {
        bytes[8 + index * 8..16 + index * 8].copy_from_slice(field);
    }
    let crc = crc32c(&bytes[..RECORD_BYTES - 4]);
    bytes[RECORD_BYTES - 4..].copy_from_slice(&crc.to_be_bytes());
    bytes
}

enum Slot {
    Empty,
    Newer(u16),
    Valid(u64, Checkpoint),
}

fn decode(kind: u8, bytes: &[u8]) -> Slot {
    let Some(bytes) = bytes.first_chunk::<RECORD_BYTES>() else {
        return Slot::Empty;
    };
    let crc = crc32c(&bytes[..RECORD_BYTES - 4]).to_be_bytes();
    if bytes[..4] != MAGIC[..] || bytes[RECORD_BYTES - 4..] != crc {
        return Slot::Empty;
    }
    let version = u16::from_be_bytes([bytes[4], bytes[5]]);
    if version != VERSION {
        return Slot::Newer(version);
    }
    if bytes[6] != kind {
        return Slot::Empty;
    }
    let field = |index: usize| {
        let mut field = [0u8; 8];
        field.copy_from_slice(&bytes[8 + index * 8..16 + index * 8]);
        field
    };
    let checkpoint = Checkpoint {
        generation: u64::from_be_bytes(field(1)),
        log_start: i64::from_be_bytes(field(2)),
        recovery_point: i64::from_be_bytes(field(3)),
        segment_base: i64::from_be_bytes(field(4)),
        position: u64::from_be_bytes(field(5)),
        durable_end: i64::from_be_bytes(field(6)),
    };
    Slot::Valid(u64::from_be_bytes(field(0)), checkpoint)
}

/// The open (or openable) checkpoint file of one log and what it says.
#[derive(Debug)]
pub(crate) struct CheckpointFile {
    path: PathBuf,
    file: Option<Arc<dyn DiskFile>>,
    sequence: u64,
    hints: u64,
    current: Checkpoint,
}

impl CheckpointFile {
    /// A file that is written at the first [`Self::update`].
    pub(crate) fn new(dir: &Path, current: Checkpoint) -> Self {
        Self {
            path: dir.join(names::CHECKPOINT),
            file: None,
            sequence: 0,
            hints: 0,
            current,
        }
    }

    /// Reads the file in `dir`; `None` when there is none. `unsynced` is what is true
    /// when nothing in it is valid.
    pub(crate) fn read(
        disk: &dyn Disk,
        dir: &Path,
        unsynced: Checkpoint,
    ) -> Result<Option<Self>, OpenError> {
        let path = dir.join(names::CHECKPOINT);
        let file = match disk.open(&path, OpenMode::ReadWrite) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let bytes = file.read_bytes_at(0, 3 * SLOT_BYTES as usize)?;
        let slot = |index: u64, kind: u8| {
            let at = (index * SLOT_BYTES) as usize;
            decode(kind, bytes.get(at..).unwrap_or_default())
        };
        let mut found: Option<(u64, Checkpoint)> = None;
        for index in 0..HINT_SLOT {
            match slot(index, KIND_CHECKPOINT) {
                Slot::Empty => {}
                Slot::Newer(version) => {
                    return Err(OpenError::BadFile {
                        file: path,
                        reason: format!(
                            "it has version {version}, this program knows {VERSION}: run the newer release that wrote it"
                        ),
                    });
                }
                Slot::Valid(sequence, checkpoint) => {
                    if found.is_none_or(|(newest, _)| sequence > newest) {
                        found = Some((sequence, checkpoint));
                    }
                }
            }
        }
        // A file without a valid slot is that of a log which lost its power before its
        // first sync: nothing was promised, but it is ours and has no gaps.
        let (sequence, mut current) = found.unwrap_or((0, unsynced));
        let mut hints = 0;
        if let Slot::Valid(hint_sequence, hint) = slot(HINT_SLOT, KIND_HINT)
            && hint.generation == current.generation
        {
            hints = hint_sequence;
            current.durable_end = current.durable_end.max(hint.durable_end);
        }
        Ok(Some(Self {
            path,
            file: None,
            sequence,
            hints,
            current,
        }))
    }

    /// What the file says.
    pub(crate) fn current(&self) -> Checkpoint {
        self.current
    }

    fn file(&mut self, disk: &dyn Disk) -> io::Result<Arc<dyn DiskFile>> {
        if let Some(file) = &self.file {
            return Ok(file.clone());
        }
        let file = disk.open(&self.path, OpenMode::Create)?;
        self.file = Some(file.clone());
        Ok(file)
    }

    /// Changes the checkpoint and syncs it. A new file's name still needs a sync of
    /// its directory. On an error the change may or may not be on disk.
    pub(crate) fn update(
        &mut self,
        disk: &dyn Disk,
        change: impl FnOnce(&mut Checkpoint),
    ) -> io::Result<()> {
        self.write(disk, change)?;
        self.sync(disk)
    }

    /// Changes the checkpoint; [`Self::sync`] makes that durable.
    pub(crate) fn write(
        &mut self,
        disk: &dyn Disk,
        change: impl FnOnce(&mut Checkpoint),
    ) -> io::Result<()> {
        let mut next = self.current;
        change(&mut next);
        let file = self.file(disk)?;
        self.sequence += 1;
        let slot = self.sequence % HINT_SLOT;
        file.write_at(
            &encode(KIND_CHECKPOINT, self.sequence, &next),
            slot * SLOT_BYTES,
        )?;
        self.current = next;
        Ok(())
    }

    /// Makes the file's contents durable.
    pub(crate) fn sync(&mut self, disk: &dyn Disk) -> io::Result<()> {
        self.file(disk)?.sync_data()
    }

    /// Notes, without a sync, that everything below `durable_end` is synced.
    pub(crate) fn hint(
        &mut self,
        disk: &dyn Disk,
        generation: u64,
        durable_end: i64,
    ) -> io::Result<()> {
        if generation != self.current.generation || durable_end <= self.current.durable_end {
            return Ok(());
        }
        self.current.durable_end = durable_end;
        self.hints += 1;
        let bytes = encode(KIND_HINT, self.hints, &self.current);
        self.file(disk)?.write_at(&bytes, HINT_SLOT * SLOT_BYTES)
    }

    /// Closes the file until it is needed again.
    pub(crate) fn release(&mut self) {
        self.file = None;
    }
}

/// Reads the checkpoint of the partition directory `dir`, for showing it.
///
/// # Errors
/// Those of reading it; a version that is not known.
pub fn read(disk: &dyn Disk, dir: &Path) -> Result<Option<Checkpoint>, OpenError> {
    Ok(CheckpointFile::read(disk, dir, Checkpoint::default())?.map(|file| file.current()))
}
