//! What the tests share: records that can be checked, members that remember.

mod crash;
mod damage;
mod memory;
mod ring;
mod threads;
mod writing;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tidemark_env::disk::{Disk, MemDisk};

use crate::*;

pub(super) const RING: RingId = RingId([7; 16]);

pub(super) fn dir() -> PathBuf {
    PathBuf::from("/wal/ring")
}

pub(super) fn small() -> WalConfig {
    WalConfig {
        dir: dir(),
        file_bytes: 64 << 10,
        max_bytes: 256 << 10,
        chunk_bytes: 16 << 10,
        memory_bytes: 64 << 10,
    }
}

pub(super) fn create(disk: &Arc<dyn Disk>, config: WalConfig) -> Arc<Wal> {
    Wal::create(Arc::clone(disk), config, RING, 1, Box::new(|_| ())).unwrap()
}

pub(super) fn memory_disk() -> (MemDisk, Arc<dyn Disk>) {
    let memory = MemDisk::new();
    memory.create_dir_all(Path::new("/wal")).unwrap();
    memory.sync_dir(Path::new("/")).unwrap();
    let disk: Arc<dyn Disk> = Arc::new(memory.clone());
    (memory, disk)
}

fn checksum(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// Bytes of `len` (25 at least) that know their offset and have a checksum that leaves
/// the first 21 out, as record batches have.
pub(super) fn batch(offset: i64, len: usize) -> Vec<u8> {
    let mut bytes = offset.to_be_bytes().to_vec();
    bytes.resize(21, 9);
    let mut random = offset.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while bytes.len() < len.max(25) {
        random = random.rotate_left(5).wrapping_mul(0xd134_2543_de82_ef95);
        bytes.push(random.to_le_bytes()[7]);
    }
    let crc = checksum(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes
}

pub(super) fn verify(entry: &Entry, bytes: &[u8]) -> Result<(), String> {
    let EntryKind::Batches { base_offset, .. } = entry.kind else {
        return Err("only batches have bytes".into());
    };
    if bytes[..8] != base_offset.to_be_bytes() {
        return Err("another offset".into());
    }
    if bytes[17..21] != checksum(&bytes[21..]).to_be_bytes() {
        return Err("another checksum".into());
    }
    Ok(())
}

pub(super) fn batches<'a>(offset: i64, parts: &'a [&'a [u8]]) -> Record<'a> {
    Record::Batches {
        base_offset: offset,
        next_offset: offset + 1,
        leader_epoch: 3,
        parts,
    }
}

pub(super) fn append(wal: &Wal, log: u64, offset: i64, len: usize) -> Placed {
    let bytes = batch(offset, len);
    wal.append(LogId(log), &batches(offset, &[&bytes]), |_| None)
        .unwrap()
}

/// A member that remembers what it was told.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) durable: Mutex<Vec<(Lsn, Bytes)>>,
    pub(super) failed: Mutex<Vec<Failure>>,
}

impl Member for Told {
    fn durable(self: Arc<Self>, lsn: Lsn, payload: &Bytes) {
        self.durable.lock().unwrap().push((lsn, payload.clone()));
    }
    fn failed(self: Arc<Self>, failure: &Failure) {
        self.failed.lock().unwrap().push(failure.clone());
    }
}

pub(super) fn look(disk: &Arc<dyn Disk>, ring: RingId, after: Lsn) -> Scan {
    let found = scan(disk, &dir(), ring, after, &verify).unwrap();
    let again = scan(disk, &dir(), ring, after, &verify).unwrap();
    assert_eq!(found.entries, again.entries, "a scan changes nothing");
    assert_eq!(found.damage, again.damage);
    assert_eq!((found.last_lsn, &found.torn), (again.last_lsn, &again.torn));
    found
}

/// The bytes of all batches are what was appended.
pub(super) fn assert_genuine(found: &Scan) {
    for entry in &found.entries {
        if let EntryKind::Batches { base_offset, .. } = entry.kind {
            let bytes = found.read(entry).unwrap();
            assert_eq!(&bytes[..], batch(base_offset, entry.len as usize));
        }
    }
}
