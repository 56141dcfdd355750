//! The operating system's files.
#![allow(
    clippy::disallowed_methods,
    reason = "the one place that touches the real file system"
)]

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rustix::fs::FlockOperation;
use rustix::io::{Errno, ReadWriteFlags};

use super::direct::DirectFile;
use super::{DirEntry, DirLock, Disk, DiskFile, OpenMode, Space};

/// The operating system's file system. Errors name the path that they are about.
#[derive(Debug, Clone, Default)]
pub struct FileDisk {
    delay: FlushDelay,
    /// Directories whose file systems were synced: an error of writing back is told to
    /// descriptors that were open by then, so they stay open.
    filesystems: Arc<Mutex<BTreeMap<PathBuf, Arc<File>>>>,
}

impl FileDisk {
    /// The file system of this machine.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, on a slower device: whatever makes something durable takes so much
    /// longer. For measurements.
    #[must_use]
    pub fn with_flush_delay(mut self, delay: Duration) -> Self {
        self.delay = FlushDelay(delay);
        self
    }

    fn filesystem(&self, path: &Path) -> io::Result<Arc<File>> {
        let mut open = self
            .filesystems
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.get(path) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(File::open(path).map_err(about(path))?);
        open.insert(path.to_owned(), Arc::clone(&file));
        Ok(file)
    }
}

/// How much longer a flush takes than the device makes it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct FlushDelay(Duration);

impl FlushDelay {
    /// Called once for each flush.
    pub(super) fn pass(self) {
        if !self.0.is_zero() {
            std::thread::sleep(self.0);
        }
    }
}

/// Says which path an error is about, keeping its kind.
pub(super) fn about(path: &Path) -> impl FnOnce(io::Error) -> io::Error + '_ {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// What [`OpenMode`] means to the system.
pub(super) fn options(mode: OpenMode) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true);
    match mode {
        OpenMode::Read => {}
        OpenMode::ReadWrite => {
            options.write(true);
        }
        OpenMode::Create => {
            options.write(true).create(true).truncate(false);
        }
        OpenMode::CreateNew => {
            options.write(true).create_new(true);
        }
    }
    options
}

impl Disk for FileDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path).map_err(about(path))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path).map_err(about(path))? {
            let entry = entry.map_err(about(path))?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let metadata = match fs::metadata(entry.path()) {
                Ok(metadata) => metadata,
                // Removed since it was listed, or a dangling link.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(about(&entry.path())(error)),
            };
            entries.push(DirEntry {
                name,
                is_dir: metadata.is_dir(),
                len: if metadata.is_dir() { 0 } else { metadata.len() },
            });
        }
        entries.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(entries)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists().map_err(about(path))
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let file = options(mode).open(path).map_err(about(path))?;
        Ok(Arc::new(RealFile {
            file,
            path: path.to_owned(),
            delay: self.delay,
        }))
    }

    fn open_direct(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let file = options(mode).open(path).map_err(about(path))?;
        let plain = RealFile {
            file,
            path: path.to_owned(),
            delay: self.delay,
        };
        if mode == OpenMode::Read {
            return Ok(Arc::new(plain));
        }
        Ok(Arc::new(DirectFile::new(plain, self.delay)?))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path).map_err(about(path))
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path).map_err(about(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to).map_err(about(from))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)
            .and_then(|directory| directory.sync_all())
            .map_err(about(path))?;
        self.delay.pass();
        Ok(())
    }

    fn sync_filesystem(&self, path: &Path) -> io::Result<()> {
        let directory = self.filesystem(path)?;
        rustix::fs::syncfs(&*directory).map_err(|errno| about(path)(errno.into()))?;
        self.delay.pass();
        Ok(())
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(path).map_err(|errno| about(path)(errno.into()))?;
        Ok(Space {
            free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
        })
    }

    fn lock_dir(&self, path: &Path) -> io::Result<DirLock> {
        let lock_path = path.join(".lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(about(&lock_path))?;
        rustix::fs::flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive).map_err(
            |errno| {
                let error = io::Error::from(errno);
                if error.kind() == io::ErrorKind::WouldBlock {
                    io::Error::new(
                        io::ErrorKind::WouldBlock,
                        format!(
                            "{} is in use by another process: stop that one or choose another directory",
                            path.display()
                        ),
                    )
                } else {
                    about(&lock_path)(error)
                }
            },
        )?;
        Ok(DirLock::new(file))
    }
}

#[derive(Debug)]
pub(super) struct RealFile {
    pub(super) file: File,
    pub(super) path: PathBuf,
    delay: FlushDelay,
}

impl DiskFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            match self.file.read_at(buffer, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map_err(about(&self.path)),
            }
        }
    }

    fn read_cached_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let buffers = &mut [IoSliceMut::new(buffer)];
        match rustix::io::preadv2(&self.file, buffers, offset, ReadWriteFlags::NOWAIT) {
            Ok(read) => Ok(read),
            // A file system that cannot tell; a read that was interrupted was waiting.
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INTR) => {
                Err(io::ErrorKind::WouldBlock.into())
            }
            Err(errno) => Err(about(&self.path)(errno.into())),
        }
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file
            .write_all_at(bytes, offset)
            .map_err(about(&self.path))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data().map_err(about(&self.path))?;
        self.delay.pass();
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all().map_err(about(&self.path))?;
        self.delay.pass();
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata().map_err(about(&self.path))?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len).map_err(about(&self.path))
    }

    fn write_vectored_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut left = slices;
        let mut position = offset;
        while left.iter().any(|slice| !slice.is_empty()) {
            match rustix::io::pwritev(&self.file, left, position) {
                Ok(0) => return Err(about(&self.path)(io::ErrorKind::WriteZero.into())),
                Ok(written) => {
                    position += written as u64;
                    IoSlice::advance_slices(&mut left, written);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(about(&self.path)(errno.into())),
            }
        }
        Ok(())
    }

    fn read_bytes_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        // Into spare capacity: the buffer is not zeroed first.
        let mut buffer: Vec<u8> = Vec::with_capacity(len);
        while buffer.len() < len {
            let position = offset + buffer.len() as u64;
            let wanted = len - buffer.len();
            let read = if buffer.capacity() - buffer.len() == wanted {
                rustix::io::pread(
                    &self.file,
                    rustix::buffer::spare_capacity(&mut buffer),
                    position,
                )
            } else {
                // The allocator gave more than was asked for: keep to what was asked.
                let filled = buffer.len();
                buffer.resize(len, 0);
                let read = rustix::io::pread(&self.file, &mut buffer[filled..], position);
                buffer.truncate(filled + read.unwrap_or(0));
                read
            };
            match read {
                Ok(0) => break,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(about(&self.path)(errno.into())),
            }
        }
        Ok(Bytes::from(buffer))
    }
}
