//! A snapshot: the image at one place of the log, with who was in the quorum then. The same
//! bytes lie on disk and travel to other nodes.

use std::path::Path;

use bytes::Bytes;
use tidemark_env::disk::{Disk, read_file, write_file_atomic};
use tidemark_model::{Image, decode_batch, encode_batch};

use super::codec::{Reader, Writer};
use super::error::StoreError;
use super::fold::Fold;
use super::frame::{HEAD_BYTES, be_u32, check_head, crc32c, head};
use super::types::{LogId, SnapshotMeta};

const MAGIC: [u8; 8] = *b"TIDESHOT";
/// Head, then CRC-32C of what follows.
const PREFIX_BYTES: usize = HEAD_BYTES + 4;
const FILE: &str = "snapshot";
/// Longest snapshot that is believed.
pub(super) const MOST_SNAPSHOT_BYTES: usize = 1 << 30;

/// A snapshot as bytes. Clones share them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SnapshotBytes(pub(super) Bytes);

/// Names the snapshot at a place of the log: there is one content for one place.
fn id_of(last: Option<LogId>) -> String {
    last.map_or_else(|| "empty".to_owned(), |id| id.to_string())
}

pub(super) fn meta(fold: &Fold) -> SnapshotMeta {
    SnapshotMeta {
        last_log_id: fold.applied,
        last_membership: fold.membership.clone(),
        snapshot_id: id_of(fold.applied),
    }
}

/// O(image).
pub(super) fn encode(fold: &Fold) -> SnapshotBytes {
    let mut writer = Writer::default();
    writer.out.extend_from_slice(&head(MAGIC));
    writer.u32(0);
    writer.option(fold.applied, Writer::log_id);
    writer.stored_membership(&fold.membership);
    writer.u64(fold.image.index());
    writer
        .out
        .extend_from_slice(&encode_batch(&fold.image.snapshot()));
    let mut out = writer.out;
    let crc = crc32c(&[&out[PREFIX_BYTES..]]);
    out[HEAD_BYTES..PREFIX_BYTES].copy_from_slice(&crc.to_be_bytes());
    SnapshotBytes(out.into())
}

/// `path` is for errors: a file, or the name of whoever sent it.
pub(super) fn decode(path: &Path, snapshot: &SnapshotBytes) -> Result<Fold, StoreError> {
    let bytes = &snapshot.0;
    check_head(path, bytes, MAGIC)?;
    let crc = be_u32(&bytes[HEAD_BYTES..]);
    if bytes.len() < PREFIX_BYTES || crc != Some(crc32c(&[&bytes[PREFIX_BYTES..]])) {
        return Err(StoreError::corrupt(
            path,
            HEAD_BYTES,
            "its checksum is wrong",
        ));
    }
    let unreadable = || StoreError::unreadable(path, PREFIX_BYTES);
    let mut reader = Reader::new(bytes.slice(PREFIX_BYTES..));
    let applied = reader.option(Reader::log_id).map_err(unreadable())?;
    let membership = reader.stored_membership().map_err(unreadable())?;
    let index = reader.u64().map_err(unreadable())?;
    let records = decode_batch(&reader.rest()).map_err(unreadable())?;
    let image = Image::restore(index, &records).map_err(|rejected| {
        StoreError::corrupt(
            path,
            PREFIX_BYTES,
            format!("it contradicts itself: {rejected}"),
        )
    })?;
    Ok(Fold {
        applied,
        membership,
        image: image.into(),
    })
}

/// Blocks.
pub(super) fn write(disk: &dyn Disk, dir: &Path, bytes: &SnapshotBytes) -> Result<(), StoreError> {
    let path = dir.join(FILE);
    write_file_atomic(disk, &path, &bytes.0).map_err(StoreError::io(&path))
}

/// The snapshot in `dir`, if there is one. Blocks.
pub(super) fn read(
    disk: &dyn Disk,
    dir: &Path,
) -> Result<Option<(Fold, SnapshotBytes)>, StoreError> {
    let path = dir.join(FILE);
    let io_error = || StoreError::io(&path);
    if !disk.exists(&path).map_err(io_error())? {
        return Ok(None);
    }
    let bytes = SnapshotBytes(read_file(disk, &path, MOST_SNAPSHOT_BYTES).map_err(io_error())?);
    Ok(Some((decode(&path, &bytes)?, bytes)))
}
