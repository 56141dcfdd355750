//! Mounting the disk, and asking the kernel whether it passes on what the test depends on.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags};

use crate::chance::Chance;
use crate::device::Counts;
use crate::fuse::{self, Shared};

const THREADS: usize = 4;
/// What only Linux 6.18 and later pass on, and only to a mount of this kind.
pub const SYNCFS: &str = "syncfs";

/// A mount of the disk, good until the next cut.
#[derive(Debug)]
pub struct Mounted {
    at: PathBuf,
    threads: Vec<JoinHandle<()>>,
}

impl Mounted {
    /// Mounts the disk. `block_device` is any block device, which the kernel wants to see for a mount
    /// of this type and which nobody reads or writes.
    pub fn new(device: &Shared, block_device: &Path, at: &Path, seed: u64) -> io::Result<Self> {
        let connection = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/fuse")?;
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,blksize=4096",
            connection.as_raw_fd()
        );
        let options = CString::new(options)?;
        rustix::mount::mount(
            block_device,
            at,
            "fuseblk",
            MountFlags::NOATIME | MountFlags::NODEV | MountFlags::NOSUID,
            options.as_c_str(),
        )?;
        let connection = Arc::new(connection);
        let generation = fuse::lock(device).generation();
        let mut chance = Chance::new(seed);
        let threads = (0..THREADS)
            .map(|_| {
                let (connection, device) = (Arc::clone(&connection), Arc::clone(device));
                let chance = chance.fork();
                std::thread::spawn(move || fuse::serve(&connection, &device, generation, chance))
            })
            .collect();
        Ok(Self {
            at: at.to_owned(),
            threads,
        })
    }

    /// Unmounts; whoever had files open must be dead.
    pub fn unmount(mut self) -> io::Result<()> {
        let until = Instant::now() + Duration::from_secs(10);
        while let Err(errno) = rustix::mount::unmount(&self.at, UnmountFlags::empty()) {
            if errno != rustix::io::Errno::BUSY || Instant::now() > until {
                return Err(errno.into());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        for thread in self.threads.drain(..) {
            // One that panicked has said so.
            drop(thread.join());
        }
        Ok(())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            // What else could be done on the way out?
            rustix::mount::unmount(&self.at, UnmountFlags::DETACH).ok();
        }
    }
}

/// Does every kind of write and sync on a mount and says what the kernel did not pass on.
pub fn missing_in_kernel(device: &Shared, at: &Path) -> io::Result<Vec<String>> {
    let path = at.join("probe");
    let counts = || fuse::lock(device).counts;
    let mut missing = Vec::new();
    let mut expect = |what: &str, before: Counts, reached: fn(Counts) -> u64| {
        if reached(counts()) == reached(before) {
            missing.push(what.to_owned());
        }
    };

    let mut before = counts();
    let mut file = File::create(&path)?;
    file.write_all(b"one")?;
    expect("a write, at once", before, |c| c.writes);
    file.sync_data()?;
    expect("fdatasync", before, |c| c.file_syncs);
    before = counts();
    file.sync_all()?;
    expect("fsync", before, |c| c.file_syncs);
    before = counts();
    rustix::io::pwritev2(
        &file,
        &[io::IoSlice::new(b"two")],
        0,
        rustix::io::ReadWriteFlags::DSYNC,
    )?;
    expect("the sync of RWF_DSYNC", before, |c| c.file_syncs);
    // O_DIRECT wants memory at an address that the device can use: a page of a larger buffer.
    let direct = OpenOptions::new()
        .write(true)
        .custom_flags(i32::try_from(rustix::fs::OFlags::DIRECT.bits()).unwrap_or(0))
        .open(&path)?;
    let buffer = vec![7; 3 * 4096];
    let page = buffer.as_ptr().align_offset(4096);
    let page = &buffer[page..page + 4096];
    before = counts();
    direct.write_all_at(page, 0)?;
    expect("O_DIRECT", before, |c| c.direct_writes);
    before = counts();
    rustix::io::pwritev2(
        &direct,
        &[io::IoSlice::new(page)],
        4096,
        rustix::io::ReadWriteFlags::DSYNC,
    )?;
    expect("the sync of O_DIRECT with RWF_DSYNC", before, |c| {
        c.file_syncs
    });
    before = counts();
    let directory = File::open(at)?;
    directory.sync_all()?;
    expect("fsync of a directory", before, |c| c.dir_syncs);
    before = counts();
    rustix::fs::syncfs(&directory)?;
    expect(SYNCFS, before, |c| c.fs_syncs);
    fs::remove_file(&path)?;
    Ok(missing)
}
