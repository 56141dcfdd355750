//! The head that every file of the quorum begins with, and checksums.

use std::path::Path;

use super::error::StoreError;

/// Version of the quorum's files.
pub(super) const FORMAT_VERSION: u32 = 1;
/// Magic, version, CRC-32C of the two.
pub(super) const HEAD_BYTES: usize = 16;

pub(super) fn crc32c(parts: &[&[u8]]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    for part in parts {
        digest.update(part);
    }
    u32::try_from(digest.finalize()).unwrap_or(u32::MAX)
}

pub(super) fn head(magic: [u8; 8]) -> [u8; HEAD_BYTES] {
    let mut head = [0u8; HEAD_BYTES];
    head[..8].copy_from_slice(&magic);
    head[8..12].copy_from_slice(&FORMAT_VERSION.to_be_bytes());
    let crc = crc32c(&[&head[..12]]);
    head[12..].copy_from_slice(&crc.to_be_bytes());
    head
}

/// Checks that a file begins with a head of this magic, in a version that is known.
pub(super) fn check_head(path: &Path, bytes: &[u8], magic: [u8; 8]) -> Result<(), StoreError> {
    let corrupt = |reason: &str| StoreError::corrupt(path, 0, reason);
    let head = bytes
        .first_chunk::<HEAD_BYTES>()
        .ok_or_else(|| corrupt("its head is cut short"))?;
    if head[..8] != magic {
        return Err(corrupt("it does not begin as such a file does"));
    }
    if be_u32(&head[12..]) != Some(crc32c(&[&head[..12]])) {
        return Err(corrupt("the checksum of its head is wrong"));
    }
    match be_u32(&head[8..]) {
        Some(FORMAT_VERSION) => Ok(()),
        Some(found) if found > FORMAT_VERSION => Err(StoreError::NewerFormat {
            path: path.to_owned(),
            found,
            newest: FORMAT_VERSION,
        }),
        _ => Err(corrupt("its format version is not valid")),
    }
}

pub(super) fn be_u32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.first_chunk()?))
}

pub(super) fn be_u64(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(*bytes.first_chunk()?))
}
