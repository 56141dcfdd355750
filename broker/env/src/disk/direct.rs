//! A file whose durable writes go past the page cache: `O_DIRECT` and `RWF_DSYNC`.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use rustix::fs::OFlags;
use rustix::io::{Errno, ReadWriteFlags};

use super::file::{FlushDelay, RealFile, about, options};
use super::{DiskFile, OpenMode};

/// Durable writes are one system call each. What the file system does not take is
/// done another way from then on: first without `O_DIRECT`, then with a sync of its own.
#[derive(Debug)]
pub(super) struct DirectFile {
    /// Reads, and whatever need not be durable.
    plain: RealFile,
    direct: Option<File>,
    /// Neither was refused yet.
    takes_direct: AtomicBool,
    takes_dsync: AtomicBool,
    delay: FlushDelay,
}

impl DirectFile {
    /// `plain` is open for writing.
    pub(super) fn new(plain: RealFile, delay: FlushDelay) -> io::Result<Self> {
        let flags = i32::try_from(OFlags::DIRECT.bits()).expect("flags of open fit an int");
        let opened = options(OpenMode::ReadWrite)
            .custom_flags(flags)
            .open(&plain.path);
        let direct = match opened {
            Ok(file) => Some(file),
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => None,
            Err(error) => return Err(about(&plain.path)(error)),
        };
        Ok(Self {
            plain,
            takes_direct: AtomicBool::new(direct.is_some()),
            direct,
            takes_dsync: AtomicBool::new(true),
            delay,
        })
    }

    /// One `pwritev2`, on whichever descriptor the file system takes. `None`: it has
    /// no durable writes.
    fn write_some(
        &self,
        slices: &[IoSlice<'_>],
        position: u64,
    ) -> rustix::io::Result<Option<usize>> {
        loop {
            let direct = self
                .direct
                .as_ref()
                .filter(|_| self.takes_direct.load(Ordering::Relaxed));
            let file = direct.unwrap_or(&self.plain.file);
            match rustix::io::pwritev2(file, slices, position, ReadWriteFlags::DSYNC) {
                Ok(count) => return Ok(Some(count)),
                Err(Errno::INTR) => {}
                Err(Errno::INVAL) if direct.is_some() => {
                    tracing::info!(
                        path = %self.plain.path.display(),
                        "no direct writes on this file system: they go through the page cache"
                    );
                    self.takes_direct.store(false, Ordering::Relaxed);
                }
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(None),
                Err(errno) => return Err(errno),
            }
        }
    }
}

impl DiskFile for DirectFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.plain.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.plain.write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.plain.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.plain.sync_all()
    }

    fn len(&self) -> io::Result<u64> {
        self.plain.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.plain.set_len(len)
    }

    fn write_vectored_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.plain.write_vectored_at(slices, offset)
    }

    fn write_durable_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut left = slices;
        let mut position = offset;
        while left.iter().any(|slice| !slice.is_empty()) {
            if !self.takes_dsync.load(Ordering::Relaxed) {
                self.plain.write_vectored_at(left, position)?;
                return self.plain.sync_data();
            }
            match self.write_some(left, position) {
                Ok(Some(0)) => {
                    return Err(about(&self.plain.path)(io::ErrorKind::WriteZero.into()));
                }
                Ok(Some(count)) => {
                    position += count as u64;
                    IoSlice::advance_slices(&mut left, count);
                }
                Ok(None) => self.takes_dsync.store(false, Ordering::Relaxed),
                Err(errno) => return Err(about(&self.plain.path)(errno.into())),
            }
        }
        self.delay.pass();
        Ok(())
    }

    fn read_bytes_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        self.plain.read_bytes_at(offset, len)
    }
}
