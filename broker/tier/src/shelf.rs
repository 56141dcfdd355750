//! Blocks that were read from the bucket, on a local disk with a hard bound: what memory has no
//! room for is not fetched again.
//!
//! Each block is a file with a checksum. Nothing here is synced or outlives the process: what is
//! found at a start is removed, and what does not come back as it was written counts as not there.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tidemark_env::disk::{Disk, OpenMode};
use tidemark_wire::Uuid;

const CRC_BYTES: usize = 4;

/// An object, and the number of a block in it.
pub(crate) type Key = (Uuid, u64);

/// Blocks on a disk; who was not asked for longest goes first.
#[derive(Debug, Clone)]
pub struct Shelf(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    capacity_bytes: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    used_bytes: u64,
    clock: u64,
    /// When each was asked for last, and its length.
    known: BTreeMap<Key, (u64, u64)>,
    /// The same by time.
    order: BTreeMap<u64, Key>,
    /// On their way to the disk; their room is set aside. Who is forgotten meanwhile leaves.
    writing: BTreeSet<Key>,
    /// Writing failed, and somebody was told.
    failing: bool,
}

impl State {
    fn touch(&mut self, key: Key, len: u64) {
        self.clock += 1;
        if let Some((before, _)) = self.known.insert(key, (self.clock, len)) {
            self.order.remove(&before);
        }
        self.order.insert(self.clock, key);
    }

    fn remove(&mut self, key: &Key) {
        if let Some((at, len)) = self.known.remove(key) {
            self.order.remove(&at);
            self.used_bytes -= len;
        }
    }

    /// Sets room aside, if there is any; gives who goes for it.
    fn make_room(&mut self, len: u64, capacity_bytes: u64) -> (bool, Vec<Key>) {
        let mut gone = Vec::new();
        if len > capacity_bytes {
            return (false, gone);
        }
        while self.used_bytes + len > capacity_bytes {
            // What is being written is not known yet, and stays.
            let Some((_, oldest)) = self.order.pop_first() else {
                return (false, gone);
            };
            self.remove(&oldest);
            gone.push(oldest);
        }
        self.used_bytes += len;
        (true, gone)
    }
}

impl Shelf {
    /// An empty one of `capacity_bytes` in `dir`, which is made; what is there goes. Blocks.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn open(disk: Arc<dyn Disk>, dir: PathBuf, capacity_bytes: u64) -> io::Result<Shelf> {
        if disk.exists(&dir)? {
            disk.remove_dir_all(&dir)?;
        }
        disk.create_dir_all(&dir)?;
        Ok(Shelf(Arc::new(Inner {
            disk,
            dir,
            capacity_bytes,
            state: Mutex::default(),
        })))
    }

    /// Bytes of files.
    pub fn size_bytes(&self) -> u64 {
        self.state().used_bytes
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, (id, number): &Key) -> PathBuf {
        self.0.dir.join(format!("{id}-{number}.block"))
    }

    /// Whether a block is there.
    pub(crate) fn has(&self, id: Uuid, number: u64) -> bool {
        self.state().known.contains_key(&(id, number))
    }

    /// A block, if it is there as it was. Blocks.
    pub(crate) fn get(&self, id: Uuid, number: u64) -> Option<Bytes> {
        let key = (id, number);
        let len = {
            let mut state = self.state();
            let (_, len) = *state.known.get(&key)?;
            state.touch(key, len);
            len
        };
        match self.read(&key, len) {
            Ok(found) => Some(found),
            Err(error) => {
                tracing::warn!(%error, file = %self.path(&key).display(), "a cached block is fetched again");
                self.state().remove(&key);
                drop(self.0.disk.remove(&self.path(&key)));
                None
            }
        }
    }

    fn read(&self, key: &Key, len: u64) -> io::Result<Bytes> {
        let file = self.0.disk.open(&self.path(key), OpenMode::Read)?;
        let whole = file.read_bytes_at(0, usize::try_from(len).unwrap_or(usize::MAX))?;
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "it is not what was written");
        let at = whole.len().checked_sub(CRC_BYTES).ok_or_else(damaged)?;
        let bytes = whole.slice(..at);
        match whole.len() as u64 == len && whole[at..] == crc(key, &bytes) {
            true => Ok(bytes),
            false => Err(damaged()),
        }
    }

    /// Keeps a block, if there is room for it. Blocks.
    pub(crate) fn put(&self, id: Uuid, number: u64, bytes: &Bytes) {
        let key = (id, number);
        let len = (bytes.len() + CRC_BYTES) as u64;
        let (has_room, gone) = {
            let mut state = self.state();
            if state.known.contains_key(&key) || state.writing.contains(&key) {
                return;
            }
            let (has_room, gone) = state.make_room(len, self.0.capacity_bytes);
            if has_room {
                state.writing.insert(key);
            }
            (has_room, gone)
        };
        self.delete(&gone);
        if !has_room {
            return;
        }
        let written = self.write(&key, bytes);
        let mut state = self.state();
        let is_wanted = state.writing.remove(&key);
        match written {
            Ok(()) => {
                state.failing = false;
                if is_wanted {
                    state.touch(key, len);
                    return;
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut state.failing, true) {
                    tracing::warn!(%error, dir = %self.0.dir.display(), "blocks from the bucket are not kept on disk");
                }
            }
        }
        state.used_bytes -= len;
        drop(state);
        drop(self.0.disk.remove(&self.path(&key)));
    }

    fn write(&self, key: &Key, bytes: &Bytes) -> io::Result<()> {
        let file = self.0.disk.open(&self.path(key), OpenMode::Create)?;
        file.set_len(0)?;
        file.write_at(bytes, 0)?;
        file.write_at(&crc(key, bytes), bytes.len() as u64)
    }

    /// Forgets the blocks of an object, and gives whose files are to be deleted.
    pub(crate) fn forget(&self, id: Uuid) -> Vec<Key> {
        let mut state = self.state();
        let all = state.known.range((id, 0)..=(id, u64::MAX));
        let gone: Vec<Key> = all.map(|(key, _)| *key).collect();
        gone.iter().for_each(|key| state.remove(key));
        state.writing.retain(|(of, _)| *of != id);
        gone
    }

    /// Deletes the files of blocks that were forgotten. Blocks.
    pub(crate) fn delete(&self, keys: &[Key]) {
        for key in keys {
            if let Err(error) = self.0.disk.remove(&self.path(key)) {
                tracing::debug!(%error, "a cached block stays until the next start");
            }
        }
    }
}

/// The checksum of a block, which says whose it is as well.
fn crc((id, number): &Key, bytes: &[u8]) -> [u8; CRC_BYTES] {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&id.0);
    crc.update(&number.to_be_bytes());
    crc.update(bytes);
    crc.finalize().to_be_bytes()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tidemark_env::disk::{Fault, FaultError, FaultOp, MemDisk};
    use tidemark_env::task;

    use super::*;

    fn id(number: u8) -> Uuid {
        Uuid([number; 16])
    }

    fn block(of: u8) -> Bytes {
        vec![of; 996].into()
    }

    fn files(disk: &MemDisk) -> usize {
        disk.list(Path::new("/cache")).unwrap().len()
    }

    fn shelf(disk: &MemDisk, capacity_bytes: u64) -> Shelf {
        Shelf::open(Arc::new(disk.clone()), "/cache".into(), capacity_bytes).unwrap()
    }

    #[test]
    fn what_was_not_asked_for_longest_goes_first_and_the_bound_holds() {
        let disk = MemDisk::new();
        let shelf = shelf(&disk, 3500);
        for number in 0..3 {
            shelf.put(id(1), number, &block(1));
        }
        assert_eq!(shelf.get(id(1), 0), Some(block(1)));
        shelf.put(id(2), 0, &block(2));
        assert_eq!((shelf.size_bytes(), files(&disk)), (3000, 3));
        assert_eq!(shelf.get(id(1), 1), None, "it was asked for before 0 was");
        assert!(shelf.get(id(1), 0).is_some() && shelf.get(id(2), 0) == Some(block(2)));
        shelf.put(id(3), 0, &vec![0; 5000].into());
        assert_eq!(files(&disk), 3, "it is larger than the whole");
        shelf.delete(&shelf.forget(id(1)));
        assert_eq!((shelf.size_bytes(), files(&disk)), (1000, 1));
    }

    #[test]
    fn a_block_that_comes_twice_at_once_takes_room_once() {
        let disk = MemDisk::new();
        let shelf = shelf(&disk, 3500);
        let wait = std::sync::Barrier::new(8);
        let put: Result<(), ()> = task::in_parallel("put", 8, vec![(); 8], |()| {
            wait.wait();
            (0..3).for_each(|number| shelf.put(id(1), number, &block(1)));
            Ok(())
        });
        put.unwrap();
        assert_eq!((shelf.size_bytes(), files(&disk)), (3000, 3));
        assert!((0..3).all(|number| shelf.get(id(1), number) == Some(block(1))));
    }

    #[test]
    fn what_is_not_as_it_was_written_is_not_there() {
        let disk = MemDisk::new();
        let shelf = shelf(&disk, 10_000);
        for at in [0, 500, 998] {
            shelf.put(id(1), 7, &block(1));
            let file = disk
                .open(&shelf.path(&(id(1), 7)), OpenMode::ReadWrite)
                .unwrap();
            file.write_at(b"?", at).unwrap();
            assert_eq!(shelf.get(id(1), 7), None);
            assert_eq!((shelf.size_bytes(), files(&disk)), (0, 0));
        }
        shelf.put(id(1), 7, &block(1));
        let file = disk
            .open(&shelf.path(&(id(1), 7)), OpenMode::ReadWrite)
            .unwrap();
        file.set_len(100).unwrap();
        assert_eq!(shelf.get(id(1), 7), None);
    }

    #[test]
    fn a_disk_that_takes_nothing_costs_nothing_and_a_start_begins_with_nothing() {
        let disk = MemDisk::new();
        let kept = shelf(&disk, 10_000);
        disk.inject(Fault {
            op: FaultOp::Write,
            path_contains: "cache".to_owned(),
            after: 0,
            times: 1,
            error: FaultError::Eio,
        });
        kept.put(id(1), 0, &block(1));
        assert_eq!(
            (kept.get(id(1), 0), kept.size_bytes(), files(&disk)),
            (None, 0, 0)
        );
        kept.put(id(1), 0, &block(1));
        assert_eq!(kept.get(id(1), 0), Some(block(1)));
        let next = shelf(&disk, 10_000);
        assert_eq!((next.get(id(1), 0), files(&disk)), (None, 0));
    }
}
