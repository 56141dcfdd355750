//! The quorum's log on disk: everything that raft must remember, in the order in which it
//! happened, in segments.
//!
//! What is made durable together is a group: one write, one fsync, one checksum. A group is
//! written only after the one before it is durable, so that a bad group with a sound one
//! after it is damage, and a bad one with nothing after it is the torn end of a write that
//! nobody was told of. Groups are numbered through all segments: a missing segment shows.
//! A segment begins with what was true when it was made, so that older ones can go as soon
//! as all entries in them are purged.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tidemark_env::disk::{Disk, DiskFile, OpenMode, read_file, write_file_atomic};

use super::codec::{Reader, Writer};
use super::error::StoreError;
use super::frame::{HEAD_BYTES, be_u32, be_u64, check_head, crc32c, head};
use super::types::{Entry, LogId, Vote};

const SEGMENT_MAGIC: [u8; 8] = *b"TIDERAFT";
/// Head, then a number that only this segment has: bytes of records that look like a group
/// do not have its checksum.
const SEGMENT_HEAD_BYTES: usize = HEAD_BYTES + 8;
const GROUP_MAGIC: [u8; 4] = *b"TMRG";
/// Magic, payload length, number, CRC-32C of salt, length, number and payload.
const GROUP_HEAD_BYTES: usize = 20;
/// A segment that is longer than this is followed by another.
pub(super) const SEGMENT_BYTES: u64 = 8 * 1024 * 1024;
const SUFFIX: &str = ".raft";

const ENTRY: u8 = 1;
const TRUNCATED: u8 = 2;
const VOTED: u8 = 3;
const COMMITTED: u8 = 4;
const PURGED: u8 = 5;

/// Something that must not be forgotten.
#[derive(Debug, Clone)]
pub(super) enum Event {
    /// An entry after the last one.
    Entry(Entry),
    /// All entries from this index on are gone.
    Truncated(u64),
    /// The vote.
    Voted(Vote),
    /// So far the log is known to be committed.
    Committed(LogId),
    /// All entries up to this are in a durable snapshot, and gone.
    Purged(LogId),
}

/// What the events so far come to.
#[derive(Debug, Clone, Default)]
pub(super) struct Remembered {
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    pub(super) purged: Option<LogId>,
    pub(super) entries: BTreeMap<u64, Entry>,
    /// Index of the next entry, where that is known.
    next: Option<u64>,
}

impl Remembered {
    /// Takes in one event; why not, where it contradicts those before it.
    fn take(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Entry(entry) => {
                let index = entry.log_id.index;
                if let Some(next) = self.next
                    && next != index
                {
                    return Err(format!("entry {index} is where entry {next} should be"));
                }
                self.next = Some(index + 1);
                self.entries.insert(index, entry);
            }
            Event::Truncated(from) => {
                if self.committed.is_some_and(|id| id.index >= from) {
                    return Err(format!("it takes back entry {from}, which was committed"));
                }
                self.entries.split_off(&from);
                self.next = Some(from);
            }
            Event::Voted(vote) => self.vote = Some(vote),
            Event::Committed(id) => self.committed = self.committed.max(Some(id)),
            Event::Purged(id) => {
                self.purged = self.purged.max(Some(id));
                self.entries = self.entries.split_off(&(id.index + 1));
                // The oldest segment may begin with entries that were purged only later.
                if self.next.is_some_and(|next| next <= id.index) {
                    self.next = Some(id.index + 1);
                }
            }
        }
        Ok(())
    }
}

/// What opening the log had to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RaftRecovery {
    /// Groups that were read.
    pub groups: u64,
    /// Bytes of a torn last write that were cut off.
    pub torn_bytes: u64,
}

#[derive(Debug)]
struct Older {
    path: PathBuf,
    /// The highest index of an entry in it.
    highest: Option<u64>,
}

/// The open log. One writer.
#[derive(Debug)]
pub(super) struct Journal {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    file: Arc<dyn DiskFile>,
    current: Older,
    sequence: u64,
    salt: u64,
    end: u64,
    segment_bytes: u64,
    next_group: u64,
    older: VecDeque<Older>,
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    failed: bool,
}

impl Journal {
    /// Makes an empty log in `dir`, which exists. Blocks.
    pub(super) fn create(disk: &dyn Disk, dir: &Path) -> Result<(), StoreError> {
        if list(disk, dir)?.is_empty() {
            make_segment(disk, dir, 1, 0, &Remembered::default())?;
        }
        Ok(())
    }

    /// Opens the log in `dir`. Blocks.
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
    ) -> Result<(Journal, Remembered, RaftRecovery), StoreError> {
        let mut recovery = RaftRecovery::default();
        let segments = list(&*disk, dir)?;
        if segments.is_empty() {
            return Err(StoreError::corrupt(dir, 0, "the log's files are missing"));
        }
        let mut remembered = Remembered::default();
        let mut older = VecDeque::new();
        let mut next_group = None;
        let mut last = None;
        let count = segments.len();
        for (at, (sequence, path)) in segments.into_iter().enumerate() {
            if let Some((expected, _, _)) = last.map(|(s, a, b): (u64, u64, usize)| (s + 1, a, b))
                && expected != sequence
            {
                return Err(StoreError::corrupt(
                    &path,
                    0,
                    format!("segment {expected}, which came before it, is missing"),
                ));
            }
            let bytes =
                read_file(&*disk, &path, u32::MAX as usize).map_err(StoreError::io(&path))?;
            let replayed = replay(&path, &bytes, &mut remembered, &mut next_group)?;
            recovery.groups += replayed.groups;
            if at + 1 < count && replayed.end < bytes.len() {
                return Err(StoreError::corrupt(
                    &path,
                    replayed.end,
                    "a group does not match its checksum, though a later segment follows",
                ));
            }
            recovery.torn_bytes = (bytes.len() - replayed.end) as u64;
            last = Some((sequence, replayed.salt, replayed.end));
            older.push_back(Older {
                path,
                highest: replayed.highest,
            });
        }
        let (Some(current), Some((sequence, salt, end))) = (older.pop_back(), last) else {
            return Err(StoreError::Failed);
        };
        check_whole(&current.path, &mut remembered)?;
        let io_error = || StoreError::io(&current.path);
        let file = disk
            .open(&current.path, OpenMode::ReadWrite)
            .map_err(io_error())?;
        if recovery.torn_bytes > 0 {
            file.set_len(end as u64).map_err(io_error())?;
        }
        // What was read may still be in the page cache only: make it durable before
        // anybody acts on it.
        file.sync_data().map_err(io_error())?;
        for segment in &older {
            disk.open(&segment.path, OpenMode::ReadWrite)
                .and_then(|file| file.sync_data())
                .map_err(StoreError::io(&segment.path))?;
        }
        disk.sync_dir(dir).map_err(StoreError::io(dir))?;
        let journal = Journal {
            disk,
            dir: dir.to_owned(),
            file,
            current,
            sequence,
            salt,
            end: end as u64,
            segment_bytes: SEGMENT_BYTES,
            next_group: next_group.unwrap_or(0),
            older,
            vote: remembered.vote,
            committed: remembered.committed,
            purged: remembered.purged,
            failed: false,
        };
        Ok((journal, remembered, recovery))
    }

    /// Sets how long a segment may get, in bytes.
    #[cfg(test)]
    pub(super) fn set_segment_bytes(&mut self, bytes: u64) {
        self.segment_bytes = bytes;
    }

    /// Writes one group and fsyncs it: on success all of it survives a power cut. Blocks.
    ///
    /// # Errors
    /// Those of the disk. Afterwards what is on disk is not known, and nothing more is
    /// written.
    pub(super) fn write(&mut self, events: &[Event]) -> Result<(), StoreError> {
        if self.failed {
            return Err(StoreError::Failed);
        }
        if events.is_empty() {
            return Ok(());
        }
        // Undone at the end: whatever goes wrong in between leaves it so.
        self.failed = true;
        if self.end >= self.segment_bytes {
            self.roll()?;
        }
        let group = group(self.salt, self.next_group, events);
        let written = self.file.write_at(&group, self.end);
        written
            .and_then(|()| self.file.sync_data())
            .map_err(StoreError::io(&self.current.path))?;
        self.end += group.len() as u64;
        self.next_group += 1;
        for event in events {
            match event {
                Event::Entry(entry) => {
                    self.current.highest = self.current.highest.max(Some(entry.log_id.index));
                }
                Event::Voted(vote) => self.vote = Some(*vote),
                Event::Committed(id) => self.committed = self.committed.max(Some(*id)),
                Event::Purged(id) => self.purged = self.purged.max(Some(*id)),
                Event::Truncated(_) => {}
            }
        }
        self.collect()?;
        self.failed = false;
        Ok(())
    }

    fn roll(&mut self) -> Result<(), StoreError> {
        let now = Remembered {
            vote: self.vote,
            committed: self.committed,
            purged: self.purged,
            ..Remembered::default()
        };
        let sequence = self.sequence + 1;
        let path = make_segment(&*self.disk, &self.dir, sequence, self.next_group, &now)?;
        let bytes =
            read_file(&*self.disk, &path, u32::MAX as usize).map_err(StoreError::io(&path))?;
        let mut next_group = Some(self.next_group);
        let made = replay(&path, &bytes, &mut Remembered::default(), &mut next_group)?;
        self.file = self
            .disk
            .open(&path, OpenMode::ReadWrite)
            .map_err(StoreError::io(&path))?;
        self.sequence = sequence;
        self.salt = made.salt;
        self.end = made.end as u64;
        self.next_group = next_group.unwrap_or(self.next_group);
        let current = Older {
            path,
            highest: None,
        };
        self.older
            .push_back(std::mem::replace(&mut self.current, current));
        Ok(())
    }

    /// Removes the oldest segments while everything in them is purged.
    fn collect(&mut self) -> Result<(), StoreError> {
        let purged = self.purged.map(|id| id.index);
        while let Some(oldest) = self.older.front()
            && oldest.highest <= purged
        {
            // Not synced: a name that comes back is read again and removed again.
            self.disk
                .remove(&oldest.path)
                .map_err(StoreError::io(&oldest.path))?;
            self.older.pop_front();
        }
        Ok(())
    }
}

/// Entries must follow each other from the purged one, or from the first, without a hole.
fn check_whole(path: &Path, remembered: &mut Remembered) -> Result<(), StoreError> {
    let expected = remembered.purged.map_or(0, |id| id.index + 1);
    remembered.entries = remembered.entries.split_off(&expected);
    match remembered.entries.first_key_value() {
        Some((first, _)) if *first != expected => Err(StoreError::corrupt(
            path,
            0,
            format!("entries {expected} to {} are missing", first - 1),
        )),
        _ => Ok(()),
    }
}

fn list(disk: &dyn Disk, dir: &Path) -> Result<Vec<(u64, PathBuf)>, StoreError> {
    let mut segments = Vec::new();
    for entry in disk.list(dir).map_err(StoreError::io(dir))? {
        if let Some(number) = entry.name.strip_suffix(SUFFIX)
            && let Ok(sequence) = number.parse()
        {
            segments.push((sequence, dir.join(&entry.name)));
        }
    }
    segments.sort_unstable();
    Ok(segments)
}

/// Makes a segment whole or not at all: its head, and a group of what is true so far.
fn make_segment(
    disk: &dyn Disk,
    dir: &Path,
    sequence: u64,
    number: u64,
    now: &Remembered,
) -> Result<PathBuf, StoreError> {
    let path = dir.join(format!("{sequence:020}{SUFFIX}"));
    let salt = tidemark_env::random::u64();
    let mut events = Vec::new();
    events.extend(now.vote.map(Event::Voted));
    events.extend(now.purged.map(Event::Purged));
    events.extend(now.committed.map(Event::Committed));
    let mut bytes = head(SEGMENT_MAGIC).to_vec();
    bytes.extend_from_slice(&salt.to_be_bytes());
    bytes.extend_from_slice(&group(salt, number, &events));
    write_file_atomic(disk, &path, &bytes).map_err(StoreError::io(&path))?;
    Ok(path)
}

fn group(salt: u64, number: u64, events: &[Event]) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.out.resize(GROUP_HEAD_BYTES, 0);
    for event in events {
        match event {
            Event::Entry(entry) => {
                writer.u8(ENTRY);
                writer.entry(entry);
            }
            Event::Truncated(from) => {
                writer.u8(TRUNCATED);
                writer.u64(*from);
            }
            Event::Voted(vote) => {
                writer.u8(VOTED);
                writer.vote(*vote);
            }
            Event::Committed(id) => {
                writer.u8(COMMITTED);
                writer.log_id(*id);
            }
            Event::Purged(id) => {
                writer.u8(PURGED);
                writer.log_id(*id);
            }
        }
    }
    let mut group = writer.out;
    let length = u32::try_from(group.len() - GROUP_HEAD_BYTES).unwrap_or(u32::MAX);
    let (head, payload) = group.split_at_mut(GROUP_HEAD_BYTES);
    head[..4].copy_from_slice(&GROUP_MAGIC);
    head[4..8].copy_from_slice(&length.to_be_bytes());
    head[8..16].copy_from_slice(&number.to_be_bytes());
    let crc = crc32c(&[&salt.to_be_bytes(), &head[4..16], payload]);
    head[16..].copy_from_slice(&crc.to_be_bytes());
    group
}

struct Group {
    number: u64,
    payload: std::ops::Range<usize>,
}

/// The sound group that begins at `at`.
fn parse_group(salt: u64, bytes: &[u8], at: usize) -> Option<Group> {
    let rest = bytes.get(at..)?.strip_prefix(&GROUP_MAGIC)?;
    let length = usize::try_from(be_u32(rest)?).ok()?;
    let number = be_u64(rest.get(4..)?)?;
    let crc = be_u32(rest.get(12..)?)?;
    let payload = rest.get(16..)?.get(..length)?;
    let begin = at + GROUP_HEAD_BYTES;
    (crc == crc32c(&[&salt.to_be_bytes(), &rest[..12], payload])).then_some(Group {
        number,
        payload: begin..begin + length,
    })
}

struct Replayed {
    salt: u64,
    /// Where the sound groups end.
    end: usize,
    groups: u64,
    highest: Option<u64>,
}

fn replay(
    path: &Path,
    bytes: &Bytes,
    remembered: &mut Remembered,
    next_group: &mut Option<u64>,
) -> Result<Replayed, StoreError> {
    check_head(path, bytes, SEGMENT_MAGIC)?;
    let salt = be_u64(&bytes[HEAD_BYTES..])
        .ok_or_else(|| StoreError::corrupt(path, HEAD_BYTES, "its head is cut short"))?;
    let mut replayed = Replayed {
        salt,
        end: SEGMENT_HEAD_BYTES,
        groups: 0,
        highest: None,
    };
    while replayed.end < bytes.len() {
        let at = replayed.end;
        let Some(group) = parse_group(salt, bytes, at) else {
            let later =
                (at + 1..bytes.len()).find(|from| parse_group(salt, bytes, *from).is_some());
            match later {
                Some(later) => {
                    return Err(StoreError::corrupt(
                        path,
                        at,
                        format!(
                            "a group does not match its checksum, though a later one, at byte {later}, does"
                        ),
                    ));
                }
                None if replayed.groups == 0 => {
                    return Err(StoreError::corrupt(
                        path,
                        at,
                        "the group that it was made with does not match its checksum",
                    ));
                }
                None => break,
            }
        };
        if let Some(expected) = *next_group
            && expected != group.number
        {
            return Err(StoreError::corrupt(
                path,
                at,
                format!("group {} is where group {expected} should be", group.number),
            ));
        }
        *next_group = Some(group.number + 1);
        let mut reader = Reader::new(bytes.slice(group.payload.clone()));
        while !reader.is_empty() {
            let event = take_event(&mut reader).map_err(StoreError::unreadable(path, at))?;
            if let Event::Entry(entry) = &event {
                replayed.highest = replayed.highest.max(Some(entry.log_id.index));
            }
            remembered
                .take(event)
                .map_err(|reason| StoreError::corrupt(path, at, reason))?;
        }
        replayed.groups += 1;
        replayed.end = group.payload.end;
    }
    if replayed.groups == 0 {
        return Err(StoreError::corrupt(path, replayed.end, "it ends too early"));
    }
    Ok(replayed)
}

fn take_event(reader: &mut Reader) -> Result<Event, tidemark_model::CodecError> {
    Ok(match reader.u8()? {
        ENTRY => Event::Entry(reader.entry()?),
        TRUNCATED => Event::Truncated(reader.u64()?),
        VOTED => Event::Voted(reader.vote()?),
        COMMITTED => Event::Committed(reader.log_id()?),
        PURGED => Event::Purged(reader.log_id()?),
        newer => {
            return Err(tidemark_model::CodecError::Newer {
                what: "metadata log event",
                found: u64::from(newer),
                newest: u64::from(PURGED),
            });
        }
    })
}
