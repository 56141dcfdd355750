//! The files of a ring: which are in use, which can be written over.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidemark_env::disk::{Disk, DiskFile, OpenMode};

use crate::format::{BLOCK, BLOCK_U64};
use crate::pool::aligned;
use crate::types::Lsn;

/// Ends the name of a file of a ring.
const SUFFIX: &str = ".wal";
/// Ends it until the file is written all over.
const NEW_SUFFIX: &str = ".wal.new";
/// Zeros are written in pieces of this size, so many with one call.
const ZEROS_BYTES: usize = 1 << 20;
const ZEROS_AT_ONCE: usize = 64;

/// The number in the name of a file of a ring.
pub(crate) fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX)?;
    if digits.len() != 10 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

pub(crate) fn path_of(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:010}{SUFFIX}"))
}

/// A file with groups in it.
#[derive(Debug)]
struct Used {
    number: u64,
    bytes: u64,
    /// Of the last group in it; of the current file, so far.
    last_lsn: Lsn,
}

/// A file that can be written over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spare {
    pub(crate) number: u64,
    pub(crate) bytes: u64,
    /// The last group that it held.
    pub(crate) last_lsn: Lsn,
}

/// Files of a ring, as numbers: nothing here does I/O.
#[derive(Debug)]
pub(crate) struct Ring {
    file_bytes: u64,
    max_bytes: u64,
    /// Oldest first; the last one is being written.
    used: VecDeque<Used>,
    spare: VecDeque<Spare>,
    /// Groups up to here are safe elsewhere.
    recycled: Lsn,
    next_number: u64,
    /// Files that are being made.
    making: u64,
}

impl Ring {
    /// `spare` are files of the right size that nobody needs.
    pub(crate) fn new(file_bytes: u64, max_bytes: u64, first_lsn: Lsn, spare: Vec<u64>) -> Self {
        let next_number = spare.iter().max().map_or(1, |number| number + 1);
        Self {
            file_bytes,
            max_bytes: max_bytes.max(2 * file_bytes),
            used: VecDeque::new(),
            spare: spare
                .into_iter()
                .map(|number| Spare {
                    number,
                    bytes: file_bytes,
                    last_lsn: 0,
                })
                .collect(),
            recycled: first_lsn.saturating_sub(1),
            next_number,
            making: 0,
        }
    }

    pub(crate) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    pub(crate) fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    pub(crate) fn spare_files(&self) -> usize {
        self.spare.len()
    }

    /// Whether there is no file at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.used.is_empty() && self.spare.is_empty()
    }

    fn total_bytes(&self) -> u64 {
        let used: u64 = self.used.iter().map(|file| file.bytes).sum();
        let spare: u64 = self.spare.iter().map(|file| file.bytes).sum();
        used + spare + self.making * self.file_bytes
    }

    pub(crate) fn may_grow(&self) -> bool {
        self.total_bytes() + self.file_bytes <= self.max_bytes
    }

    /// Bytes in files that cannot be written over.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.used.iter().map(|file| file.bytes).sum()
    }

    /// Sets a number aside for a file that is made now.
    pub(crate) fn begin_file(&mut self) -> u64 {
        self.making += 1;
        self.next_number += 1;
        self.next_number - 1
    }

    /// The file of this number was made, or not.
    pub(crate) fn end_file(&mut self, number: u64, made: bool) {
        self.making -= 1;
        if made {
            self.spare.push_back(Spare {
                number,
                bytes: self.file_bytes,
                last_lsn: 0,
            });
        }
    }

    /// The next file to write to. It is in use from now on, and has no group yet.
    pub(crate) fn take_spare(&mut self) -> Option<Spare> {
        let spare = self.spare.pop_front()?;
        debug_assert!(
            spare.last_lsn <= self.recycled,
            "a file is written over only when all that it holds is safe elsewhere"
        );
        // Whatever was written to the file before is through with.
        let last_lsn = self.used.back().map_or(self.recycled, |file| file.last_lsn);
        self.used.push_back(Used {
            number: spare.number,
            bytes: self.file_bytes,
            last_lsn,
        });
        self.let_go();
        Some(spare)
    }

    /// A group was written to the current file, which is `bytes` long now at least.
    pub(crate) fn wrote(&mut self, lsn: Lsn, bytes: u64) {
        if let Some(current) = self.used.back_mut() {
            current.last_lsn = lsn;
            current.bytes = current.bytes.max(bytes);
        }
    }

    /// Nothing more is written to the current file.
    pub(crate) fn retire_current(&mut self) {
        if let Some(current) = self.used.back()
            && current.last_lsn <= self.recycled
            && self.used.len() == 1
        {
            self.let_go_of_front();
        }
    }

    /// Groups up to `checkpointed` are safe elsewhere. Says whether that freed a file.
    pub(crate) fn recycle(&mut self, checkpointed: Lsn) -> bool {
        self.recycled = self.recycled.max(checkpointed);
        self.let_go()
    }

    fn let_go(&mut self) -> bool {
        let mut freed = false;
        while self.used.len() > 1
            && self
                .used
                .front()
                .is_some_and(|file| file.last_lsn <= self.recycled)
        {
            self.let_go_of_front();
            freed = true;
        }
        freed
    }

    fn let_go_of_front(&mut self) {
        if let Some(file) = self.used.pop_front() {
            self.spare.push_back(Spare {
                number: file.number,
                bytes: file.bytes,
                last_lsn: file.last_lsn,
            });
        }
    }
}

/// Whether the disk has room for another file, and as much again for what the records and
/// their metadata need: a ring that is kept small only costs checkpoints.
pub(crate) fn has_room(disk: &dyn Disk, dir: &Path, file_bytes: u64) -> io::Result<bool> {
    Ok(disk.free_bytes(dir)? >= 2 * file_bytes)
}

/// Makes a file of `bytes` zeros, all of them written, that survives a power cut.
///
/// Only written, a file needs no change of the file system's own records when it is
/// written again: that is what makes durable writes to it cheap.
pub(crate) fn make_file(disk: &dyn Disk, dir: &Path, number: u64, bytes: u64) -> io::Result<()> {
    let new = dir.join(format!("{number:010}{NEW_SUFFIX}"));
    let made = write_zeros(disk, &new, bytes)
        .and_then(|()| disk.rename(&new, &path_of(dir, number)))
        .and_then(|()| disk.sync_dir(dir));
    if made.is_err() {
        // On a full disk the part that was written is in the way.
        drop(disk.remove(&new));
    }
    made
}

fn write_zeros(disk: &dyn Disk, path: &Path, bytes: u64) -> io::Result<()> {
    let file = disk.open_direct(path, OpenMode::Create)?;
    let mut zeros = aligned(ZEROS_BYTES);
    zeros.resize(
        ZEROS_BYTES.min(usize::try_from(bytes).unwrap_or(ZEROS_BYTES)),
        0,
    );
    let mut position = 0;
    while position < bytes {
        let mut slices = Vec::with_capacity(ZEROS_AT_ONCE);
        let from = position;
        while position < bytes && slices.len() < ZEROS_AT_ONCE {
            let len =
                usize::try_from(bytes - position).map_or(zeros.len(), |left| left.min(zeros.len()));
            slices.push(IoSlice::new(&zeros[..len]));
            position += len as u64;
        }
        file.write_durable_at(&mut slices, from)?;
    }
    Ok(())
}

/// Files of other rings in `dir`: those of `file_bytes` can be used again, and the
/// numbers of at most `max_files` are given; others are removed.
pub(crate) fn take_over(
    disk: &dyn Disk,
    dir: &Path,
    file_bytes: u64,
    max_files: u64,
) -> io::Result<Vec<u64>> {
    let mut numbers: Vec<u64> = Vec::new();
    for entry in disk.list(dir)? {
        match number_of(&entry.name) {
            Some(number)
                if !entry.is_dir
                    && entry.len == file_bytes
                    && (numbers.len() as u64) < max_files =>
            {
                numbers.push(number);
            }
            Some(_) if !entry.is_dir => disk.remove(&dir.join(&entry.name))?,
            _ if entry.name.ends_with(NEW_SUFFIX) => disk.remove(&dir.join(&entry.name))?,
            _ => {}
        }
    }
    disk.sync_dir(dir)?;
    Ok(numbers)
}

/// Opens a file for the writer, cut back to its usual length.
pub(crate) fn open_spare(
    disk: &dyn Disk,
    dir: &Path,
    spare: Spare,
    file_bytes: u64,
) -> io::Result<Arc<dyn DiskFile>> {
    let file = disk.open_direct(&path_of(dir, spare.number), OpenMode::ReadWrite)?;
    if spare.bytes > file_bytes {
        file.set_len(file_bytes)?;
    }
    Ok(file)
}

/// File sizes are multiples of 4 KiB, and hold the smallest group at least.
pub(crate) fn rounded_file_bytes(bytes: u64) -> u64 {
    bytes.max(2 * BLOCK_U64).next_multiple_of(BLOCK as u64)
}
