//! The kernel's side of the disk: the FUSE protocol (7.31, `linux/fuse.h`) over `/dev/fuse`.
//!
//! No writeback cache: every write of the program under test is here before its call returns. A call
//! with RWF_DSYNC or O_DSYNC comes as a write and a sync after it; syncfs comes only from a mount of
//! the type `fuseblk`, and only from Linux 6.18 on. All integers are in the machine's byte order.

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;

use crate::chance::Chance;
use crate::device::{CAPACITY, Device, Ino, Stat, Sync};

const MAX_WRITE: usize = 1 << 20;
const HEADER: usize = 40;
const O_DSYNC: u32 = 0o10_000;
const FATTR_SIZE: u32 = 1 << 3;
const WRITE_CACHE: u32 = 1;
/// Names and attributes may be remembered: nobody but the kernel changes them.
const VALID_S: u64 = 3600;

/// The disk, shared by those who serve it and the one who cuts its power.
pub type Shared = Arc<Mutex<Device>>;

/// The disk, to look at or to change.
pub fn lock(device: &Shared) -> MutexGuard<'_, Device> {
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request's body, read from its front.
struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Errno> {
        let (first, rest) = self.0.split_first_chunk::<N>().ok_or(Errno::INVAL)?;
        self.0 = rest;
        Ok(*first)
    }

    fn u32(&mut self) -> Result<u32, Errno> {
        self.take().map(u32::from_ne_bytes)
    }

    fn u64(&mut self) -> Result<u64, Errno> {
        self.take().map(u64::from_ne_bytes)
    }

    fn skip(&mut self, bytes: usize) -> Result<(), Errno> {
        self.0 = self.0.get(bytes..).ok_or(Errno::INVAL)?;
        Ok(())
    }

    fn name(&mut self) -> Result<&'a str, Errno> {
        let end = self.0.iter().position(|b| *b == 0).ok_or(Errno::INVAL)?;
        let name = std::str::from_utf8(&self.0[..end]).map_err(|_| Errno::ILSEQ)?;
        self.0 = &self.0[end + 1..];
        Ok(name)
    }
}

/// An answer's body.
#[derive(Default)]
struct Answer(Vec<u8>);

impl Answer {
    fn u16(mut self, value: u16) -> Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    fn attributes(self, stat: Stat) -> Self {
        let (seconds, nanos) = (stat.modified.as_secs(), stat.modified.subsec_nanos());
        let mode = if stat.is_dir { 0o40_755 } else { 0o100_644 };
        self.u64(stat.ino)
            .u64(stat.len)
            .u64(stat.len.div_ceil(512))
            .u64(seconds)
            .u64(seconds)
            .u64(seconds)
            .u32(nanos)
            .u32(nanos)
            .u32(nanos)
            .u32(mode)
            .u32(1)
            .u32(0)
            .u32(0)
            .u32(0)
            .u32(4096)
            .u32(0)
    }

    fn entry(self, stat: Stat) -> Self {
        self.u64(stat.ino)
            .u64(0)
            .u64(VALID_S)
            .u64(VALID_S)
            .u32(0)
            .u32(0)
            .attributes(stat)
    }

    fn opened(self) -> Self {
        self.u64(0).u32(0).u32(0)
    }
}

enum Outcome {
    Answer(Answer),
    /// The answer comes when the sync is done.
    Sync(Sync),
    /// Requests that want no answer.
    Silence,
}

/// Serves one mount until it is unmounted. The mount is good for the disk's generation `generation`;
/// after a cut it gets EIO for everything.
pub fn serve(connection: &File, device: &Shared, generation: u64, mut chance: Chance) {
    let mut buffer = vec![0; MAX_WRITE + 64 * 1024];
    loop {
        let len = match (&*connection).read(&mut buffer) {
            Ok(len) if len >= HEADER => len,
            Ok(_) => return,
            // ENOENT: the request was interrupted before it was read.
            Err(error)
                if matches!(
                    Errno::from_io_error(&error),
                    Some(Errno::INTR | Errno::AGAIN | Errno::NOENT)
                ) =>
            {
                continue;
            }
            // ENODEV: unmounted.
            Err(_) => return,
        };
        let mut body = Body(&buffer[..len]);
        let (Ok(_), Ok(opcode), Ok(unique), Ok(node), Ok(())) = (
            body.u32(),
            body.u32(),
            body.u64(),
            body.u64(),
            body.skip(HEADER - 24),
        ) else {
            return;
        };
        let outcome = {
            let mut device = lock(device);
            if device.generation() == generation || opcode == 26 {
                handle(&mut device, opcode, node, body)
            } else if matches!(opcode, 2 | 36 | 42) {
                Ok(Outcome::Silence)
            } else {
                Err(Errno::IO)
            }
        };
        let outcome = match outcome {
            Ok(Outcome::Sync(sync)) => {
                std::thread::sleep(flush_time(&mut chance));
                let mut device = lock(device);
                if device.generation() == generation {
                    device.finish_sync(sync);
                    Ok(Answer::default())
                } else {
                    Err(Errno::IO)
                }
            }
            Ok(Outcome::Silence) => continue,
            Ok(Outcome::Answer(answer)) => Ok(answer),
            Err(errno) => Err(errno),
        };
        // Nobody waits for the answer any more if this fails.
        drop(reply(connection, unique, outcome));
    }
}

/// How long a flush takes, most of them as on a good disk, a few long.
fn flush_time(chance: &mut Chance) -> Duration {
    Duration::from_micros(match chance.below(20) {
        0..4 => 0,
        4..19 => 50 + chance.below(1500),
        _ => chance.below(12_000),
    })
}

fn reply(connection: &File, unique: u64, outcome: Result<Answer, Errno>) -> io::Result<usize> {
    let (error, body) = match outcome {
        Ok(answer) => (0, answer.0),
        Err(errno) => (-errno.raw_os_error(), Vec::new()),
    };
    let len = u32::try_from(16 + body.len()).unwrap_or(u32::MAX);
    let mut header = Vec::with_capacity(16);
    header.extend(len.to_ne_bytes());
    header.extend(error.to_ne_bytes());
    header.extend(unique.to_ne_bytes());
    (&*connection).write_vectored(&[IoSlice::new(&header), IoSlice::new(&body)])
}

fn handle(
    device: &mut Device,
    opcode: u32,
    node: Ino,
    mut body: Body<'_>,
) -> Result<Outcome, Errno> {
    let answer = Answer::default();
    let answer = match opcode {
        // LOOKUP
        1 => {
            let ino = device.lookup(node, body.name()?)?;
            answer.entry(device.stat(ino)?)
        }
        // FORGET, INTERRUPT, BATCH_FORGET: nothing is forgotten before the next cut.
        2 | 36 | 42 => return Ok(Outcome::Silence),
        // GETATTR
        3 => answer.u64(VALID_S).u64(0).attributes(device.stat(node)?),
        // SETATTR: only the length means anything here.
        4 => {
            let valid = body.u32()?;
            body.skip(12)?;
            if valid & FATTR_SIZE != 0 {
                device.set_len(node, body.u64()?)?;
            }
            answer.u64(VALID_S).u64(0).attributes(device.stat(node)?)
        }
        // MKNOD, MKDIR
        8 | 9 => {
            body.skip(if opcode == 8 { 16 } else { 8 })?;
            let ino = device.create(node, body.name()?, opcode == 9)?;
            answer.entry(device.stat(ino)?)
        }
        // UNLINK, RMDIR
        10 | 11 => {
            device.remove(node, body.name()?, opcode == 11)?;
            answer
        }
        // RENAME, RENAME2
        12 | 45 => {
            let to = body.u64()?;
            let flags = if opcode == 45 {
                let flags = body.u32()?;
                body.skip(4)?;
                flags
            } else {
                0
            };
            if flags > 1 {
                return Err(Errno::INVAL);
            }
            let (old, new) = (body.name()?, body.name()?);
            device.rename((node, old), (to, new), flags == 1)?;
            answer
        }
        // LINK
        13 => {
            let ino = body.u64()?;
            device.link(ino, node, body.name()?)?;
            answer.entry(device.stat(ino)?)
        }
        // OPEN, OPENDIR: there are no handles.
        14 | 27 => {
            device.stat(node)?;
            answer.opened()
        }
        // READ
        15 => {
            body.skip(8)?;
            let (offset, len) = (body.u64()?, body.u32()?);
            Answer(device.read(node, offset, len as usize)?.to_vec())
        }
        // WRITE
        16 => {
            body.skip(8)?;
            let (offset, len, write_flags) = (body.u64()?, body.u32()?, body.u32()?);
            body.skip(8)?;
            let flags = body.u32()?;
            body.skip(4)?;
            let bytes = body.0.get(..len as usize).ok_or(Errno::INVAL)?;
            if write_flags & WRITE_CACHE != 0 {
                // The kernel kept it back: then it is not known here what a program was promised.
                return Err(Errno::IO);
            }
            device.counts.direct_writes += u64::from(flags & O_DIRECT != 0);
            device.counts.dsync_writes += u64::from(flags & O_DSYNC != 0);
            device.write(node, offset, bytes)?;
            answer.u32(len).u32(0)
        }
        // STATFS
        17 => {
            let blocks = CAPACITY / 4096;
            let free = blocks.saturating_sub(device.used_bytes() / 4096);
            let sizes = answer.u64(blocks).u64(free).u64(free).u64(1 << 20);
            let names = sizes.u64(1 << 20).u32(4096).u32(255).u32(4096).u32(0);
            (0..6).fold(names, |answer, _| answer.u32(0))
        }
        // RELEASE, RELEASEDIR, DESTROY
        18 | 29 | 38 => answer,
        // FSYNC: of data alone or not is the same here, a length is always kept.
        20 => return device.begin_file_sync(node).map(Outcome::Sync),
        // INIT: asynchronous reads, big writes, many pages. No writeback cache.
        26 => {
            let (_, _, readahead, flags) = (body.u32()?, body.u32()?, body.u32()?, body.u32()?);
            let pages = u16::try_from(MAX_WRITE / 4096).unwrap_or(u16::MAX);
            let limits = answer
                .u32(7)
                .u32(31)
                .u32(readahead)
                .u32(flags & (1 | 1 << 5 | 1 << 22))
                .u16(64)
                .u16(48)
                .u32(u32::try_from(MAX_WRITE).unwrap_or(u32::MAX))
                .u32(1)
                .u16(pages)
                .u16(0);
            (0..8).fold(limits, |answer, _| answer.u32(0))
        }
        // READDIR
        28 => {
            body.skip(8)?;
            let (offset, room) = (body.u64()?, body.u32()? as usize);
            let mut answer = answer;
            let names = device.list(node)?;
            let skip = usize::try_from(offset).unwrap_or(usize::MAX);
            for (at, (name, ino, is_dir)) in names.iter().enumerate().skip(skip) {
                let size = (24 + name.len()).next_multiple_of(8);
                if answer.0.len() + size > room {
                    break;
                }
                let from = answer.0.len();
                let len = u32::try_from(name.len()).map_err(|_| Errno::NAMETOOLONG)?;
                answer = answer
                    .u64(*ino)
                    .u64(at as u64 + 1)
                    .u32(len)
                    .u32(if *is_dir { 4 } else { 8 });
                answer.0.extend(name.as_bytes());
                answer.0.resize(from + size, 0);
            }
            answer
        }
        // FSYNCDIR
        30 => return device.begin_dir_sync(node).map(Outcome::Sync),
        // CREATE
        35 => {
            body.skip(16)?;
            let ino = device.create(node, body.name()?, false)?;
            answer.entry(device.stat(ino)?).opened()
        }
        // FALLOCATE: KEEP_SIZE 1, PUNCH_HOLE 2, ZERO_RANGE 16
        43 => {
            body.skip(8)?;
            let (offset, len, mode) = (body.u64()?, body.u64()?, body.u32()?);
            if mode & !0x13 != 0 {
                return Err(Errno::OPNOTSUPP);
            }
            let end = offset.checked_add(len).ok_or(Errno::FBIG)?;
            if mode & 1 == 0 && end > device.stat(node)?.len {
                device.set_len(node, end)?;
            }
            if mode & 0x12 != 0 {
                device.zero(node, offset, len)?;
            }
            answer
        }
        // SYNCFS
        50 => return Ok(Outcome::Sync(device.begin_fs_sync())),
        _ => return Err(Errno::NOSYS),
    };
    Ok(Outcome::Answer(answer))
}

const O_DIRECT: u32 = if cfg!(target_arch = "aarch64") {
    0o200_000
} else {
    0o40_000
};
