//! An open file in memory.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use super::{Change, FaultError, FaultOp, InodeRef, State, lock};
use crate::disk::DiskFile;
use crate::sim::mix_bytes;

#[derive(Debug)]
pub(super) struct MemFile {
    pub(super) state: Arc<Mutex<State>>,
    pub(super) incarnation: u64,
    pub(super) inode: InodeRef,
    pub(super) path: PathBuf,
    pub(super) writable: bool,
}

impl MemFile {
    fn checked(&self, op: FaultOp) -> io::Result<MutexGuard<'_, State>> {
        let mut state = lock(&self.state);
        if state.incarnation != self.incarnation {
            return Err(io::Error::other(format!(
                "{}: opened before the crash",
                self.path.display()
            )));
        }
        if op == FaultOp::Write && !self.writable {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("{}: opened for reading", self.path.display()),
            ));
        }
        state.check_fault(op, &self.path)?;
        Ok(state)
    }

    fn change(&self, change: Change, new_len: u64) -> io::Result<()> {
        let mut state = self.checked(FaultOp::Write)?;
        state.writes += 1;
        if let Change::Write { offset, bytes } = &change {
            state.trace = mix_bytes(state.trace ^ *offset, bytes);
        }
        if let Some(capacity) = state.capacity_bytes {
            let used = state.used_bytes();
            let old = lock(&self.inode).current.len() as u64;
            if new_len > old && used + (new_len - old) > capacity {
                // As a real one does, it takes what fits.
                if let Change::Write { offset, bytes } = change {
                    let room = (old + capacity.saturating_sub(used)).saturating_sub(offset);
                    let fits = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
                    if fits > 0 {
                        let bytes = bytes[..fits].to_vec();
                        lock(&self.inode).change(Change::Write { offset, bytes });
                    }
                }
                return Err(FaultError::Enospc.error());
            }
        }
        lock(&self.inode).change(change);
        Ok(())
    }
}

impl DiskFile for MemFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.checked(FaultOp::Read)?;
        state.reads += 1;
        let inode = lock(&self.inode);
        let Ok(start) = usize::try_from(offset) else {
            return Ok(0);
        };
        let Some(left) = inode.current.get(start..) else {
            return Ok(0);
        };
        let count = left.len().min(buffer.len());
        buffer[..count].copy_from_slice(&left[..count]);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let len = lock(&self.inode).current.len() as u64;
        self.change(
            Change::Write {
                offset,
                bytes: bytes.to_vec(),
            },
            len.max(offset + bytes.len() as u64),
        )
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.checked(FaultOp::Sync)?;
        state.file_syncs += 1;
        lock(&self.inode).sync();
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.inode).current.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::SetLen(len), len)
    }

    fn write_vectored_at(&self, slices: &mut [io::IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(slices.iter().map(|slice| slice.len()).sum());
        for slice in slices.iter() {
            bytes.extend_from_slice(slice);
        }
        self.write_at(&bytes, offset)
    }
}
