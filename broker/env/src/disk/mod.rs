//! Files behind a trait: the real ones, and ones in memory that can fail and crash.
//!
//! The contract that both keep: written bytes are readable at once, but survive a
//! power cut only after [`DiskFile::sync_data`]; a created, renamed or removed name
//! survives only after [`Disk::sync_dir`] of its directory. All calls block.

mod direct;
mod file;
mod mem;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::num::NonZeroU64;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::Advice;

pub use file::FileDisk;
pub use mem::{Fault, FaultError, FaultOp, MemDisk};

/// How [`Disk::open`] opens a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// Reading only; the file must exist.
    Read,
    /// Reading and writing; the file must exist.
    ReadWrite,
    /// Reading and writing; the file is made when it does not exist.
    Create,
    /// Reading and writing; `AlreadyExists` when there is such a file.
    CreateNew,
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The last part of the path.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Length in bytes; 0 for directories.
    pub len: u64,
}

/// Room on the file system that holds a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that an unprivileged process can still write.
    pub free_bytes: u64,
    /// Size of the file system in bytes.
    pub total_bytes: u64,
}

/// Holds a directory for this process alone; dropping it lets go.
pub struct DirLock {
    _held: Box<dyn Any + Send + Sync>,
}

impl DirLock {
    /// Of a directory that is held for as long as `held` lives.
    pub fn new(held: impl Any + Send + Sync) -> DirLock {
        DirLock {
            _held: Box::new(held),
        }
    }
}

impl Debug for DirLock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DirLock")
    }
}

/// A file system.
pub trait Disk: Send + Sync + Debug {
    /// Makes `path` and its missing parents directories; an existing one is fine.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// The names in directory `path`, sorted. Names that are not UTF-8 are left out.
    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>>;

    /// Whether there is a file or directory at `path`.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// Opens a file. A new name needs [`Disk::sync_dir`] to survive a power cut.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file whose durable writes go past the page cache where the file system
    /// lets them ([`DiskFile::write_durable_at`]): positions, lengths and addresses of
    /// what is written should be multiples of 4 KiB. Elsewhere it is [`Disk::open`].
    fn open_direct(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        self.open(path, mode)
    }

    /// Removes a file; open handles keep working.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Removes a directory and all in it; open handles keep working.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Renames a file (replacing one of that name) or a directory (replacing an empty one).
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Makes the names in directory `path` survive a power cut.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Makes all that was written below directory `path`, names included, survive a
    /// power cut. A real one syncs the whole file system that holds `path`, and tells
    /// of failed writes since it was first asked about that path.
    fn sync_filesystem(&self, path: &Path) -> io::Result<()> {
        for entry in self.list(path)? {
            let child = path.join(&entry.name);
            if entry.is_dir {
                self.sync_filesystem(&child)?;
            } else {
                match self.open(&child, OpenMode::Read) {
                    Ok(file) => file.sync_all()?,
                    // Removed since it was listed.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
        }
        self.sync_dir(path)
    }

    /// Room on the file system that holds `path`.
    fn space(&self, path: &Path) -> io::Result<Space>;

    /// Free bytes on the file system that holds `path`.
    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        Ok(self.space(path)?.free_bytes)
    }

    /// Takes directory `path` for this process alone, by a lock on its file `.lock`.
    ///
    /// `WouldBlock` when another process (or another holder in this one) has it.
    fn lock_dir(&self, path: &Path) -> io::Result<DirLock>;
}

/// Reading a byte in each of these says whether a range is in memory.
const PROBE_BYTES: u64 = 256 * 1024;

/// Bytes of an open file, which stay readable when its name is removed.
#[derive(Debug, Clone)]
pub struct FileRange {
    /// The file.
    pub file: Arc<dyn DiskFile>,
    /// Where the range begins, in bytes.
    pub position: u64,
    /// Its length in bytes.
    pub len: usize,
}

impl FileRange {
    /// All of it in memory. Blocks.
    ///
    /// # Errors
    /// Those of reading; `UnexpectedEof` when the file ends before the range does.
    pub fn read(&self) -> io::Result<Bytes> {
        let bytes = self.file.read_bytes_at(self.position, self.len)?;
        match bytes.len() == self.len {
            true => Ok(bytes),
            false => Err(self.too_short()),
        }
    }

    /// Whether reading it would not wait for the disk, as far as a look at some of it can tell.
    pub fn is_cached(&self) -> bool {
        let end = self.position + self.len as u64;
        let mut at = self.position;
        let mut byte = [0];
        while at < end {
            match self.file.read_cached_at(&mut byte, at) {
                Ok(_) => {}
                // Other errors come again when it is read, and are told then.
                Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
            }
            at = match at + 1 == end {
                true => end,
                false => (at + PROBE_BYTES).min(end - 1),
            };
        }
        true
    }

    /// Reads all of it once, so that it is in memory afterwards if there is room. Blocks.
    ///
    /// # Errors
    /// Those of reading.
    pub fn warm(&self) -> io::Result<()> {
        let mut buffer = vec![0; self.len.min(COPY_BYTES)];
        let end = self.position + self.len as u64;
        let mut at = self.position;
        while at < end {
            let len = buffer.len().min(usize::try_from(end - at).unwrap_or(0));
            match self.file.read_at(&mut buffer[..len], at)? {
                0 => return Ok(()),
                read => at += read as u64,
            }
        }
        Ok(())
    }

    pub(crate) fn too_short(&self) -> io::Error {
        io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!(
                "a file ends within bytes {} to {} of it, which were to be read",
                self.position,
                self.position + self.len as u64
            ),
        )
    }
}

/// What is copied from a file goes through memory in pieces of this size.
pub(crate) const COPY_BYTES: usize = 256 * 1024;

/// An open file. Reads and writes name their position; there is no cursor.
pub trait DiskFile: Send + Sync + Debug {
    /// Reads up to `buffer.len()` bytes at `offset`; 0 means the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Like [`DiskFile::read_at`], but `WouldBlock` instead of waiting for the disk: when the bytes
    /// are not in memory, or when there is no telling.
    fn read_cached_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read_at(buffer, offset)
    }

    /// The operating system's handle, for what it can do with a file by itself; `None` for a file
    /// that is not one of its own.
    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Writes all of `bytes` at `offset`, growing the file where needed.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Asks for bytes that were written to be on their way to the device, so that a sync finds little
    /// to do later. Waits for nothing and promises nothing; they stay in memory.
    fn begin_writeback(&self, offset: u64, len: u64) {
        if let (Some(fd), Some(len)) = (self.as_fd(), NonZeroU64::new(len)) {
            // On Linux this begins the writing of what is dirty, and drops what has been written:
            // that is nothing yet. `sync_file_range` has no safe wrapper.
            if let Err(error) = rustix::fs::fadvise(fd, offset, Some(len), Advice::DontNeed) {
                tracing::trace!(%error, "a sync will have more to write");
            }
        }
    }

    /// Makes the written bytes and the length survive a power cut.
    fn sync_data(&self) -> io::Result<()>;

    /// Like [`DiskFile::sync_data`], with all of the file's attributes.
    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }

    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Whether the length is 0.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts the file, or grows it with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Writes all of `slices` one after the other at `offset`, in one call where
    /// the system can. The slices are consumed.
    fn write_vectored_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut position = offset;
        for slice in slices.iter() {
            self.write_at(slice, position)?;
            position += slice.len() as u64;
        }
        Ok(())
    }

    /// Writes all of `slices` one after the other at `offset`; they survive a power cut
    /// when it returns. Until then any part of them may. The slices are consumed.
    fn write_durable_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.write_vectored_at(slices, offset)?;
        self.sync_data()
    }

    /// Writes `bytes` at the end and says where they begin. For one writer at a time.
    fn append(&self, bytes: &[u8]) -> io::Result<u64> {
        let position = self.len()?;
        self.write_at(bytes, position)?;
        Ok(position)
    }

    /// Reads up to `len` bytes at `offset`; fewer only at the end of the file.
    fn read_bytes_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let mut buffer = vec![0u8; len];
        let mut filled = 0;
        while filled < len {
            match self.read_at(&mut buffer[filled..], offset + filled as u64)? {
                0 => break,
                count => filled += count,
            }
        }
        buffer.truncate(filled);
        Ok(Bytes::from(buffer))
    }

    /// Fills `buffer` from `offset`; `UnexpectedEof` when the file ends before.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read_at(&mut buffer[filled..], offset + filled as u64)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => filled += count,
            }
        }
        Ok(())
    }
}

/// A file of which only what is in memory can be read: everything else is `WouldBlock`.
#[derive(Debug)]
pub struct CachedOnly(pub Arc<dyn DiskFile>);

impl DiskFile for CachedOnly {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_cached_at(buffer, offset)
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// The whole of a small file.
///
/// # Errors
/// Those of opening and reading it; `InvalidData` when it is longer than `max_bytes`.
pub fn read_file(disk: &dyn Disk, path: &Path, max_bytes: usize) -> io::Result<Bytes> {
    let file = disk.open(path, OpenMode::Read)?;
    let len = file.len()?;
    match usize::try_from(len) {
        Ok(len) if len <= max_bytes => file.read_bytes_at(0, len),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "{} is {len} bytes long, more than the {max_bytes} that it may have",
                path.display()
            ),
        )),
    }
}

/// Replaces the file at `path` by `bytes`, whole or not at all, and makes it durable:
/// a temporary file beside it (`.tmp` appended) is written, synced and renamed, and
/// the directory synced.
///
/// # Errors
/// Those of any of the steps; the old file is then still there or replaced whole.
pub fn write_file_atomic(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = Path::new(&temporary);
    let file = disk.open(temporary, OpenMode::Create)?;
    file.set_len(0)?;
    file.write_at(bytes, 0)?;
    file.sync_data()?;
    disk.rename(temporary, path)?;
    match path.parent() {
        Some(parent) => disk.sync_dir(parent),
        None => Ok(()),
    }
}
