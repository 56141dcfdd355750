//! What a ring holds when it is found again.
//!
//! Headers are looked for at every multiple of 4 KiB that is not inside a sound group, in
//! all files. Groups are then followed by number: each names the CRC of the one before.
//! Where one is missing or bad, the highest synced LSN that any sound header states
//! decides: above it nobody was told of the group, and the ring ends before it; at or
//! below it acknowledged bytes are damaged.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tidemark_env::disk::{Disk, DiskFile, OpenMode};

use crate::format::{
    self, BLOCK, BLOCK_U64, HEADER_BYTES, Header, Looks, MAX_HEADER_BLOCK, RawEntry,
};
use crate::ring::number_of;
use crate::types::{LogId, Lsn, RingId};

/// Read at once while looking for headers.
const WINDOW_BYTES: usize = 1 << 20;

/// What a record did; [`crate::Record`] without its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// Binds the log's id to a partition.
    Create {
        /// The topic's id.
        topic_id: [u8; 16],
        /// The partition's index.
        partition: i32,
    },
    /// The log is gone; its id is dead from here on.
    Delete,
    /// Record batches: [`Scan::read`] gives them.
    Batches {
        /// Offset of the first record.
        base_offset: i64,
        /// One more than the offset of the last.
        next_offset: i64,
        /// Epoch of the leader that appended them.
        leader_epoch: i32,
    },
    /// Everything from an offset on was cut off.
    Truncate {
        /// The new end.
        end_offset: i64,
    },
    /// Everything was removed.
    Reset {
        /// The log begins and ends here now.
        start_offset: i64,
        /// What a snapshot says of the producers at that very offset is kept.
        keeps_producers: bool,
    },
    /// A leader's epoch began.
    Epoch {
        /// The epoch.
        leader_epoch: i32,
        /// Its first offset.
        start_offset: i64,
    },
    /// The log's start moved up.
    LogStart {
        /// The new start.
        offset: i64,
    },
}

impl EntryKind {
    /// `None`: a kind that version 1 does not have.
    fn of(raw: &RawEntry) -> Option<Self> {
        let offset = raw.first.cast_signed();
        Some(match raw.kind {
            format::CREATE => {
                let id = (u128::from(raw.first) << 64) | u128::from(raw.second);
                EntryKind::Create {
                    topic_id: id.to_be_bytes(),
                    partition: raw.epoch,
                }
            }
            format::DELETE => EntryKind::Delete,
            format::BATCHES => EntryKind::Batches {
                base_offset: offset,
                next_offset: raw.second.cast_signed(),
                leader_epoch: raw.epoch,
            },
            format::TRUNCATE => EntryKind::Truncate { end_offset: offset },
            format::RESET => EntryKind::Reset {
                start_offset: offset,
                keeps_producers: raw.second != 0,
            },
            format::EPOCH => EntryKind::Epoch {
                leader_epoch: raw.epoch,
                start_offset: offset,
            },
            format::LOG_START => EntryKind::LogStart { offset },
            _ => return None,
        })
    }
}

/// A record that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The log that it is of.
    pub log: LogId,
    /// Its group.
    pub lsn: Lsn,
    /// What it did.
    pub kind: EntryKind,
    /// Length of its bytes; 0 for all but `Batches`.
    pub len: u32,
    /// Which of the scan's files they are in.
    pub(crate) file: usize,
    /// And where.
    pub(crate) position: u64,
}

/// Where a ring was cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Torn {
    /// The group that was being written.
    pub lsn: Lsn,
    /// The file, where something of it was found.
    pub file: Option<PathBuf>,
    /// The position in it.
    pub position: u64,
    /// What is wrong with it.
    pub reason: String,
}

/// Acknowledged bytes that are not what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The group.
    pub lsn: Lsn,
    /// The log whose record it is; `None` when not even that can be read: it may be
    /// anyone's.
    pub log: Option<LogId>,
    /// The offsets of that record, from the first to one more than the last.
    pub offsets: Option<(i64, i64)>,
    /// The file, where it is known.
    pub file: Option<PathBuf>,
    /// The position in it.
    pub position: u64,
    /// What is wrong.
    pub reason: String,
}

/// What a ring holds.
#[derive(Debug)]
pub struct Scan {
    /// In the order in which they were appended; damaged ones are left out.
    pub entries: Vec<Entry>,
    /// The last group; `after` when there is none.
    pub last_lsn: Lsn,
    /// What was being written at the end. Nobody was told of it.
    pub torn: Option<Torn>,
    /// What is missing of the groups up to the last.
    pub damage: Vec<Damage>,
    files: Vec<(PathBuf, Arc<dyn DiskFile>)>,
}

impl Scan {
    /// Makes durable what was read: a process that was killed may have left the last
    /// group in the page cache only, and whoever acts on it must not see it go. Blocks.
    ///
    /// # Errors
    /// The disk failed.
    pub fn sync(&self) -> io::Result<()> {
        self.files.iter().try_for_each(|(_, file)| file.sync_data())
    }

    /// The bytes of an entry.
    ///
    /// # Errors
    /// The file cannot be read any more.
    pub fn read(&self, entry: &Entry) -> io::Result<Bytes> {
        let Some((path, file)) = self.files.get(entry.file) else {
            return Ok(Bytes::new());
        };
        let bytes = file.read_bytes_at(entry.position, entry.len as usize)?;
        if bytes.len() != entry.len as usize {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{} became shorter while it was read", path.display()),
            ));
        }
        Ok(bytes)
    }
}

/// Says what is wrong with the bytes of an entry, if anything is.
pub type Verify<'a> = dyn Fn(&Entry, &[u8]) -> Result<(), String> + 'a;

/// A group whose header and directory are sound.
struct Found {
    header: Header,
    crc: u32,
    directory: Vec<RawEntry>,
    file: usize,
    /// Of its payload.
    position: u64,
    /// The file ends before its payload does.
    short: bool,
}

/// Reads what ring `ring` in `dir` holds above `after`. `verify` says of each `Batches`
/// entry what is wrong with its bytes, if anything is; the first 21 of them were checked
/// before. Nothing is changed: two scans give the same. Blocks.
///
/// Memory is in proportion to the number of records found.
///
/// # Errors
/// The files could not be read, or a newer version wrote them (`InvalidData`).
pub fn scan(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    ring: RingId,
    after: Lsn,
    verify: &Verify<'_>,
) -> io::Result<Scan> {
    let mut groups = Groups {
        ring,
        after,
        found: BTreeMap::new(),
        synced: 0,
        first: None,
        broken: BTreeMap::new(),
    };
    let mut files = Vec::new();
    for entry in disk.list(dir)? {
        let Some(number) = number_of(&entry.name).filter(|_| !entry.is_dir) else {
            continue;
        };
        let path = dir.join(&entry.name);
        let file = disk.open(&path, OpenMode::Read)?;
        groups.read_file(&path, &*file, number, files.len())?;
        files.push((path, file));
    }
    let mut scan = Scan {
        entries: Vec::new(),
        last_lsn: after,
        torn: None,
        damage: Vec::new(),
        files,
    };
    groups.follow(&mut scan, verify)?;
    Ok(scan)
}

struct Groups {
    ring: RingId,
    after: Lsn,
    /// Those above `after`.
    found: BTreeMap<Lsn, Found>,
    /// The highest synced LSN that any sound header of the ring states.
    synced: Lsn,
    /// The ring's first group, as its headers state it.
    first: Option<Lsn>,
    /// Where headers of this ring are that are not sound: file and position, by the
    /// number that they state. Only used to say where something is wrong.
    broken: BTreeMap<Lsn, (usize, u64)>,
}

/// A sliding look at a file.
struct Window<'a> {
    file: &'a dyn DiskFile,
    /// Length of the file.
    len: u64,
    from: u64,
    bytes: Bytes,
}

impl Window<'_> {
    /// `len` bytes at `position`; fewer at the end of the file.
    fn at(&mut self, position: u64, len: usize) -> io::Result<Bytes> {
        let inside = |window: &Self| {
            let from = usize::try_from(position.checked_sub(window.from)?).ok()?;
            (from + len <= window.bytes.len()).then(|| window.bytes.slice(from..from + len))
        };
        if let Some(bytes) = inside(self) {
            return Ok(bytes);
        }
        self.from = position;
        let left = usize::try_from(self.len.saturating_sub(position)).unwrap_or(usize::MAX);
        let wanted = WINDOW_BYTES.max(len).min(left);
        self.bytes = self.file.read_bytes_at(position, wanted)?;
        Ok(inside(self).unwrap_or_else(|| self.bytes.clone()))
    }
}

impl Groups {
    fn read_file(
        &mut self,
        path: &Path,
        file: &dyn DiskFile,
        number: u64,
        index: usize,
    ) -> io::Result<()> {
        let len = file.len()?;
        let mut window = Window {
            file,
            len,
            from: 0,
            bytes: Bytes::new(),
        };
        let mut position = 0;
        while position < len {
            let next = self.read_group(path, &mut window, position, len, number, index)?;
            position = next.unwrap_or(position + BLOCK_U64);
        }
        Ok(())
    }

    /// Reads the group whose header is at `position`, if one is; gives where it ends.
    fn read_group(
        &mut self,
        path: &Path,
        window: &mut Window<'_>,
        position: u64,
        len: u64,
        number: u64,
        index: usize,
    ) -> io::Result<Option<u64>> {
        let block = window.at(position, BLOCK)?;
        let entries = match format::look(&block, self.ring) {
            Looks::Other => return Ok(None),
            Looks::Newer(version) => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!(
                        "{} was written by a newer version of this program (write-ahead log \
                         version {version}): start that one",
                        path.display()
                    ),
                ));
            }
            Looks::Header { entries } => entries,
        };
        let block_bytes = format::header_block_bytes(entries);
        debug_assert!(block_bytes <= MAX_HEADER_BLOCK);
        let block = if block_bytes > BLOCK {
            window.at(position, block_bytes)?
        } else {
            block
        };
        let Some((header, directory, crc)) = format::decode(&block, entries) else {
            self.broken
                .insert(format::stated_lsn(&block), (index, position));
            return Ok(None);
        };
        // A sound header in another place is a copy, not a group.
        if header.file != number || header.position != position {
            return Ok(None);
        }
        self.synced = self.synced.max(header.synced_lsn);
        self.first = self.first.or(Some(header.first_lsn));
        let payload = position + block_bytes as u64;
        let end = payload
            .checked_add(header.payload_bytes)
            .filter(|end| *end <= len);
        if header.lsn > self.after {
            let found = Found {
                header,
                crc,
                directory,
                file: index,
                position: payload,
                short: end.is_none(),
            };
            self.found.entry(header.lsn).or_insert(found);
        }
        Ok(Some(
            end.map_or(payload, |end| end.next_multiple_of(BLOCK_U64)),
        ))
    }

    /// Goes from group to group.
    fn follow(&mut self, scan: &mut Scan, verify: &Verify<'_>) -> io::Result<()> {
        let Some(first) = self.first else {
            // Nothing was ever written, or none of it is left.
            return Ok(());
        };
        let mut lsn = (self.after + 1).max(first);
        scan.last_lsn = lsn - 1;
        // Of the group before, where it is known.
        let mut previous = (lsn == first).then_some(0);
        loop {
            let acknowledged = lsn <= self.synced;
            let Some(found) = self.found.get(&lsn) else {
                if acknowledged {
                    let last = self.last_missing(lsn);
                    self.missing(scan, lsn, last);
                    scan.last_lsn = last;
                    lsn = last + 1;
                    previous = None;
                    continue;
                }
                self.torn(scan, lsn);
                return Ok(());
            };
            let broken_chain = previous.is_some_and(|crc| crc != found.header.previous_crc);
            let group = check(scan, lsn, found, verify)?;
            let path = scan.files.get(found.file).map(|(path, _)| path.clone());
            let chain =
                broken_chain.then(|| format!("group {lsn} does not follow the one before it"));
            if !acknowledged {
                let reason = chain.or_else(|| group.bad.first().map(|(_, reason)| reason.clone()));
                if let Some(reason) = reason {
                    scan.torn = Some(Torn {
                        lsn,
                        file: path,
                        position: found.header.position,
                        reason,
                    });
                    return Ok(());
                }
            } else if let Some(reason) = chain {
                scan.damage.push(Damage {
                    lsn,
                    log: None,
                    offsets: None,
                    file: path.clone(),
                    position: found.header.position,
                    reason,
                });
            }
            for (entry, reason) in group.bad {
                let offsets = match entry.kind {
                    EntryKind::Batches {
                        base_offset,
                        next_offset,
                        ..
                    } => Some((base_offset, next_offset)),
                    _ => None,
                };
                scan.damage.push(Damage {
                    lsn,
                    log: Some(entry.log),
                    offsets,
                    file: path.clone(),
                    position: entry.position,
                    reason,
                });
            }
            scan.entries.extend(group.good);
            scan.last_lsn = lsn;
            previous = Some(found.crc);
            lsn += 1;
        }
    }
}

impl Groups {
    /// The last of the acknowledged groups that are missing from `lsn` on.
    fn last_missing(&self, lsn: Lsn) -> Lsn {
        let next = self.found.range(lsn..).next();
        next.map_or(self.synced, |(next, _)| (next - 1).min(self.synced))
    }

    /// Groups that were acknowledged are not there.
    fn missing(&self, scan: &mut Scan, lsn: Lsn, last: Lsn) {
        let broken = self.broken.get(&lsn);
        scan.damage.push(Damage {
            lsn,
            log: None,
            offsets: None,
            file: broken.and_then(|(file, _)| Some(scan.files.get(*file)?.0.clone())),
            position: broken.map_or(0, |(_, position)| *position),
            reason: match broken {
                Some(_) if lsn == last => format!(
                    "the directory of group {lsn} of the write-ahead log, which was acknowledged, has a wrong checksum"
                ),
                _ => format!(
                    "groups {lsn} to {last} of the write-ahead log, which were acknowledged, are missing"
                ),
            },
        });
    }

    /// The ring ends before `lsn`: says so, if anything of it was written.
    fn torn(&self, scan: &mut Scan, lsn: Lsn) {
        let broken = self.broken.get(&lsn);
        let later = self.found.range(lsn..).next();
        let reason = match (broken, later) {
            (Some(_), _) => format!("the directory of group {lsn} has a wrong checksum"),
            (None, Some((later, _))) => format!("group {lsn} is missing before group {later}"),
            (None, None) => return,
        };
        scan.torn = Some(Torn {
            lsn,
            file: broken.and_then(|(file, _)| Some(scan.files.get(*file)?.0.clone())),
            position: broken.map_or(0, |(_, position)| *position),
            reason,
        });
    }
}

/// The entries of a group.
struct Checked {
    good: Vec<Entry>,
    bad: Vec<(Entry, String)>,
}

fn check(scan: &Scan, lsn: Lsn, found: &Found, verify: &Verify<'_>) -> io::Result<Checked> {
    let mut checked = Checked {
        good: Vec::with_capacity(found.directory.len()),
        bad: Vec::new(),
    };
    // The file is at least as long, or the header was not taken at its word.
    let payload = match usize::try_from(found.header.payload_bytes) {
        Ok(len) if !found.short => scan.files[found.file]
            .1
            .read_bytes_at(found.position, len)?,
        _ => Bytes::new(),
    };
    for raw in &found.directory {
        let entry = Entry {
            log: raw.log,
            lsn,
            // Version 1 has no others, and the CRC was right.
            kind: EntryKind::of(raw).ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!(
                        "group {lsn} of the write-ahead log has a record of unknown kind {}",
                        raw.kind
                    ),
                )
            })?,
            len: raw.len,
            file: found.file,
            position: found.position + u64::from(raw.position),
        };
        let problem = if raw.len == 0 {
            None
        } else {
            let from = raw.position as usize;
            match payload.get(from..from + raw.len as usize) {
                None => Some("the file ends before its bytes".to_owned()),
                Some(bytes) if format::head_crc(bytes) != raw.head_crc => {
                    Some("its first bytes have another checksum than was noted".to_owned())
                }
                Some(bytes) => verify(&entry, bytes).err(),
            }
        };
        match problem {
            None => checked.good.push(entry),
            Some(reason) => checked.bad.push((entry, reason)),
        }
    }
    Ok(checked)
}

const _: () = assert!(HEADER_BYTES < BLOCK);
