//! The metadata log of a single broker: one append-only file, fsynced with every
//! batch, and a snapshot that lets it start over.
//!
//! `log` is a 16-byte header and entries; `snapshot` is a header and one entry, whose
//! batch rebuilds the image at its index. An entry is written only after the one
//! before it is durable, so bad bytes with a sound entry after them are damage, and
//! bad bytes with nothing after them are the torn end of a write nobody was told of.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidemark_env::disk::{Disk, DiskFile, OpenMode, read_file, write_file_atomic};
use tidemark_model::{CodecError, Image, MetadataRecord, Rejected, decode_batch, encode_batch};

use crate::dirs::create_durably;

/// First bytes of the log.
const LOG_MAGIC: [u8; 8] = *b"TIDEMETA";
/// First bytes of the snapshot.
const SNAPSHOT_MAGIC: [u8; 8] = *b"TIDESNAP";
/// Version of both files.
const FORMAT_VERSION: u32 = 1;
/// Magic, version, CRC-32C of the two.
const HEADER_BYTES: usize = 16;
/// First bytes of an entry.
const ENTRY_MAGIC: [u8; 4] = *b"TMKE";
/// Magic, payload length, index, CRC-32C of length, index and payload.
const ENTRY_HEADER_BYTES: usize = 20;
/// The log starts over from a snapshot when it is longer than this and than the snapshot.
const SNAPSHOT_AFTER_BYTES: u64 = 20 * 1024 * 1024;
/// Longest file that is read into memory at start.
const MOST_FILE_BYTES: usize = u32::MAX as usize;

/// What opening the log had to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovery {
    /// There was no log: this is a new cluster.
    pub created: bool,
    /// Batches replayed after the snapshot.
    pub replayed_batches: u64,
    /// Bytes of a torn last write that were cut off.
    pub torn_bytes: u64,
}

/// Why the metadata log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MetadataLogError {
    /// The disk failed.
    #[error("metadata log {}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// How.
        #[source]
        source: io::Error,
    },
    /// Written by a newer Tidemark.
    #[error(
        "{} has format version {found}, and this version of Tidemark reads up to {FORMAT_VERSION}: run the version that wrote it, or a newer one", path.display()
    )]
    NewerFormat {
        /// Which file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// Bytes that were durable have changed.
    #[error(
        "{} is damaged at byte {position}: {reason}. Nothing was changed. Restore the directory {} from a copy taken before the damage, or move the broker's data away to begin an empty cluster", path.display(), path.parent().unwrap_or(path).display()
    )]
    Corrupt {
        /// Which file.
        path: PathBuf,
        /// Where.
        position: u64,
        /// What is wrong there.
        reason: String,
    },
    /// A sound entry whose records cannot be read.
    #[error("{} holds records that cannot be read at byte {position}: {source}", path.display())]
    Records {
        /// Which file.
        path: PathBuf,
        /// Where.
        position: u64,
        /// Why.
        #[source]
        source: CodecError,
    },
    /// There should be a log and there is none.
    #[error(
        "{} is missing, though this broker's data directories belong to a cluster already: restore it, or move the broker's data away to begin an empty cluster", path.display()
    )]
    Missing {
        /// Which file.
        path: PathBuf,
    },
    /// An earlier write failed, so what is on disk is not known.
    #[error(
        "metadata cannot be changed: an earlier write to the metadata log failed; mend the disk and restart the broker"
    )]
    Failed,
    /// One batch is too large.
    #[error("a metadata change of {0} bytes is too large to be one batch; split the request")]
    TooLarge(usize),
}

/// The open metadata log. One writer.
#[derive(Debug)]
pub struct MetadataLog {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    file: Arc<dyn DiskFile>,
    /// Where the next entry goes.
    end: u64,
    /// Index of the last entry.
    index: u64,
    /// Size of the snapshot, which the log may grow to before the next one.
    snapshot_bytes: u64,
    snapshot_after_bytes: u64,
    failed: bool,
}

impl MetadataLog {
    /// Opens the log in `dir` (made if missing) and folds what it holds.
    ///
    /// `must_exist` is for a broker whose data directories say that it belongs to a
    /// cluster: a missing log is then an error, not a new cluster.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        must_exist: bool,
    ) -> Result<(MetadataLog, Image, Recovery), MetadataLogError> {
        let log_path = dir.join("log");
        let snapshot_path = dir.join("snapshot");
        let mut recovery = Recovery::default();
        let io_at = |path: &Path| {
            let path = path.to_owned();
            move |source| MetadataLogError::Io { path, source }
        };
        create_durably(&*disk, dir).map_err(io_at(dir))?;
        let has_snapshot = disk.exists(&snapshot_path).map_err(io_at(&snapshot_path))?;
        if !disk.exists(&log_path).map_err(io_at(&log_path))? {
            if must_exist || has_snapshot {
                return Err(MetadataLogError::Missing { path: log_path });
            }
            write_file_atomic(&*disk, &log_path, &file_header(LOG_MAGIC))
                .map_err(io_at(&log_path))?;
            recovery.created = true;
        }
        let mut image = Image::default();
        let mut snapshot_bytes = 0;
        if has_snapshot {
            let bytes = read_file(&*disk, &snapshot_path, MOST_FILE_BYTES)
                .map_err(io_at(&snapshot_path))?;
            image = read_snapshot(&snapshot_path, &bytes)?;
            snapshot_bytes = bytes.len() as u64;
        }
        let bytes = read_file(&*disk, &log_path, MOST_FILE_BYTES).map_err(io_at(&log_path))?;
        let (image, end) = replay(&log_path, &bytes, image, &mut recovery)?;
        let file = disk
            .open(&log_path, OpenMode::ReadWrite)
            .map_err(io_at(&log_path))?;
        if end < bytes.len() as u64 {
            recovery.torn_bytes = bytes.len() as u64 - end;
            file.set_len(end).map_err(io_at(&log_path))?;
        }
        // What was read may still be in the page cache only: make it durable before
        // anybody acts on it.
        file.sync_data().map_err(io_at(&log_path))?;
        disk.sync_dir(dir).map_err(io_at(dir))?;
        let log = MetadataLog {
            disk,
            dir: dir.to_owned(),
            file,
            end,
            index: image.index(),
            snapshot_bytes,
            snapshot_after_bytes: SNAPSHOT_AFTER_BYTES,
            failed: false,
        };
        Ok((log, image, recovery))
    }

    /// Index of the last batch.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Whether an earlier failure forbids every further write.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// Appends one batch and fsyncs it. On success it survives a power cut.
    ///
    /// When the disk is too full to write, the log is cut back and stays usable; after
    /// any other failure, of an fsync above all, it is not: what reached the disk is unknown.
    pub fn commit(&mut self, batch: &[MetadataRecord]) -> Result<(), MetadataLogError> {
        if self.failed {
            return Err(MetadataLogError::Failed);
        }
        let payload = encode_batch(batch);
        let index = self.index + 1;
        let entry = entry(index, &payload).ok_or(MetadataLogError::TooLarge(payload.len()))?;
        if let Err(source) = self.file.write_at(&entry, self.end) {
            self.failed = !is_full(&source) || self.cut_back().is_err();
            return Err(self.io("log", source));
        }
        if let Err(source) = self.file.sync_data() {
            self.failed = true;
            return Err(self.io("log", source));
        }
        self.end += entry.len() as u64;
        self.index = index;
        Ok(())
    }

    /// Whether the log has grown enough to start over from a snapshot.
    pub fn wants_snapshot(&self) -> bool {
        !self.failed && self.end > self.snapshot_after_bytes.max(self.snapshot_bytes)
    }

    /// Sets how long the log may grow before it wants a snapshot.
    pub fn set_snapshot_after_bytes(&mut self, bytes: u64) {
        self.snapshot_after_bytes = bytes;
    }

    /// Writes a snapshot of `image`, which must be at this log's index, and empties the log.
    ///
    /// A crash between the two leaves entries that the snapshot covers: they are skipped.
    pub fn snapshot(&mut self, image: &Image) -> Result<(), MetadataLogError> {
        if self.failed || image.index() != self.index {
            return Err(MetadataLogError::Failed);
        }
        let payload = encode_batch(&image.snapshot());
        let entry =
            entry(image.index(), &payload).ok_or(MetadataLogError::TooLarge(payload.len()))?;
        let mut bytes = file_header(SNAPSHOT_MAGIC).to_vec();
        bytes.extend_from_slice(&entry);
        write_file_atomic(&*self.disk, &self.dir.join("snapshot"), &bytes).map_err(|source| {
            self.failed = !is_full(&source);
            self.io("snapshot", source)
        })?;
        self.snapshot_bytes = bytes.len() as u64;
        let cut = self
            .file
            .set_len(HEADER_BYTES as u64)
            .and_then(|()| self.file.sync_data());
        if let Err(source) = cut {
            self.failed = true;
            return Err(self.io("log", source));
        }
        self.end = HEADER_BYTES as u64;
        Ok(())
    }

    fn cut_back(&self) -> io::Result<()> {
        self.file.set_len(self.end)?;
        self.file.sync_data()
    }

    fn io(&self, file: &str, source: io::Error) -> MetadataLogError {
        MetadataLogError::Io {
            path: self.dir.join(file),
            source,
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

fn crc32c(parts: &[&[u8]]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    for part in parts {
        digest.update(part);
    }
    u32::try_from(digest.finalize()).unwrap_or(u32::MAX)
}

fn file_header(magic: [u8; 8]) -> [u8; HEADER_BYTES] {
    let mut header = [0u8; HEADER_BYTES];
    header[..8].copy_from_slice(&magic);
    header[8..12].copy_from_slice(&FORMAT_VERSION.to_be_bytes());
    let crc = crc32c(&[&header[..12]]);
    header[12..].copy_from_slice(&crc.to_be_bytes());
    header
}

fn check_file_header(path: &Path, bytes: &[u8], magic: [u8; 8]) -> Result<(), MetadataLogError> {
    let corrupt = |reason: &str| MetadataLogError::Corrupt {
        path: path.to_owned(),
        position: 0,
        reason: reason.to_owned(),
    };
    let header = bytes
        .get(..HEADER_BYTES)
        .ok_or_else(|| corrupt("its header is cut short"))?;
    if header[..8] != magic {
        return Err(corrupt("it does not begin as such a file does"));
    }
    if be_u32(&header[12..]) != Some(crc32c(&[&header[..12]])) {
        return Err(corrupt("the checksum of its header is wrong"));
    }
    match be_u32(&header[8..]) {
        Some(FORMAT_VERSION) => Ok(()),
        Some(found) if found > FORMAT_VERSION => Err(MetadataLogError::NewerFormat {
            path: path.to_owned(),
            found,
        }),
        _ => Err(corrupt("its format version is not valid")),
    }
}

fn be_u32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.first_chunk()?))
}

fn be_u64(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(*bytes.first_chunk()?))
}

/// `None` when the payload is longer than an entry can say.
fn entry(index: u64, payload: &[u8]) -> Option<Vec<u8>> {
    let length = u32::try_from(payload.len()).ok()?.to_be_bytes();
    let index = index.to_be_bytes();
    let crc = crc32c(&[&length, &index, payload]).to_be_bytes();
    let mut entry = Vec::with_capacity(ENTRY_HEADER_BYTES + payload.len());
    entry.extend_from_slice(&ENTRY_MAGIC);
    entry.extend_from_slice(&length);
    entry.extend_from_slice(&index);
    entry.extend_from_slice(&crc);
    entry.extend_from_slice(payload);
    Some(entry)
}

struct Entry<'a> {
    index: u64,
    payload: &'a [u8],
    size: usize,
}

/// The sound entry that `bytes` begin with.
fn parse_entry(bytes: &[u8]) -> Option<Entry<'_>> {
    let rest = bytes.strip_prefix(&ENTRY_MAGIC)?;
    let length = be_u32(rest)?;
    let index = be_u64(rest.get(4..)?)?;
    let crc = be_u32(rest.get(12..)?)?;
    let payload = rest.get(16..)?.get(..usize::try_from(length).ok()?)?;
    (crc == crc32c(&[&rest[..12], payload])).then_some(Entry {
        index,
        payload,
        size: ENTRY_HEADER_BYTES + payload.len(),
    })
}

fn read_snapshot(path: &Path, bytes: &[u8]) -> Result<Image, MetadataLogError> {
    check_file_header(path, bytes, SNAPSHOT_MAGIC)?;
    let corrupt = |reason: String| MetadataLogError::Corrupt {
        path: path.to_owned(),
        position: HEADER_BYTES as u64,
        reason,
    };
    let body = &bytes[HEADER_BYTES..];
    let entry = parse_entry(body)
        .filter(|entry| entry.size == body.len())
        .ok_or_else(|| corrupt("the snapshot's checksum or length is wrong".to_owned()))?;
    let records = decode_batch(entry.payload).map_err(|source| MetadataLogError::Records {
        path: path.to_owned(),
        position: HEADER_BYTES as u64,
        source,
    })?;
    Image::restore(entry.index, &records)
        .map_err(|rejected| corrupt(format!("the snapshot contradicts itself: {rejected}")))
}

/// Folds the log's entries onto `image`; also where the sound entries end.
fn replay(
    path: &Path,
    bytes: &[u8],
    mut image: Image,
    recovery: &mut Recovery,
) -> Result<(Image, u64), MetadataLogError> {
    check_file_header(path, bytes, LOG_MAGIC)?;
    let mut at = HEADER_BYTES;
    let mut last_index = None;
    while at < bytes.len() {
        let corrupt = |reason: String| MetadataLogError::Corrupt {
            path: path.to_owned(),
            position: at as u64,
            reason,
        };
        let Some(entry) = parse_entry(&bytes[at..]) else {
            if let Some(later) = next_entry(bytes, at + 1) {
                return Err(corrupt(format!(
                    "an entry does not match its checksum, though a later one, at byte {later}, does"
                )));
            }
            break;
        };
        if last_index.is_some_and(|last| entry.index != last + 1) {
            return Err(corrupt(format!(
                "entry {} follows entry {}",
                entry.index,
                last_index.unwrap_or_default()
            )));
        }
        last_index = Some(entry.index);
        if entry.index > image.index() {
            if entry.index != image.index() + 1 {
                return Err(corrupt(format!(
                    "entries {} to {} are missing",
                    image.index() + 1,
                    entry.index - 1
                )));
            }
            image = fold(path, at, &image, entry.payload)?;
            recovery.replayed_batches += 1;
        }
        at += entry.size;
    }
    Ok((image, at as u64))
}

fn fold(
    path: &Path,
    position: usize,
    image: &Image,
    payload: &[u8],
) -> Result<Image, MetadataLogError> {
    let records = decode_batch(payload).map_err(|source| MetadataLogError::Records {
        path: path.to_owned(),
        position: position as u64,
        source,
    })?;
    image
        .apply(&records)
        .map_err(|rejected: Rejected| MetadataLogError::Corrupt {
            path: path.to_owned(),
            position: position as u64,
            reason: format!("an entry contradicts those before it: {rejected}"),
        })
}

/// Where the next sound entry begins, at or after `from`.
fn next_entry(bytes: &[u8], from: usize) -> Option<usize> {
    (from..bytes.len().saturating_sub(ENTRY_HEADER_BYTES))
        .find(|at| bytes[*at..].starts_with(&ENTRY_MAGIC) && parse_entry(&bytes[*at..]).is_some())
}
