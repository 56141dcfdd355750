//! Whose a quorum's directory is, and the token that lets it begin a new quorum, once.

use std::collections::BTreeMap;
use std::path::Path;

use tidemark_env::disk::{Disk, read_file, write_file_atomic};
use tidemark_model::{MetadataRecord, decode_batch, encode_batch};
use tidemark_wire::Uuid;

use super::codec::{Reader, Writer};
use super::error::StoreError;
use super::frame::{HEAD_BYTES, be_u32, check_head, crc32c, head};
use super::journal::Journal;
use super::snapshot::MOST_SNAPSHOT_BYTES;
use super::types::{Membership, VoterId, VoterNode};
use crate::dirs::create_durably;

const IDENTITY_MAGIC: [u8; 8] = *b"TIDENODE";
const TOKEN_MAGIC: [u8; 8] = *b"TIDEBOOT";
const FIRST_MAGIC: [u8; 8] = *b"TIDEFRST";
const IDENTITY: &str = "identity";
const TOKEN: &str = "bootstrap";
const FIRST: &str = "first";
const MOST_BYTES: usize = 64 * 1024;
const PREFIX_BYTES: usize = HEAD_BYTES + 4;

/// Whose a quorum's directory is. It is written once; a directory that was lost is replaced
/// by one with another id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VoterIdentity {
    /// The cluster.
    pub cluster_id: Uuid,
    /// The node, and this directory.
    pub voter: VoterId,
}

/// Who begins a new quorum.
pub type InitialVoters = BTreeMap<VoterId, VoterNode>;

/// Makes `dir` the directory of `identity`, once. With `initial_voters`, which must be the
/// same for each of them, the first start begins a new quorum; without, the node waits
/// until a living quorum takes it in. Blocks.
///
/// # Errors
/// [`StoreError::Formatted`] when it has an identity already.
pub fn format(
    disk: &dyn Disk,
    dir: &Path,
    identity: VoterIdentity,
    initial_voters: Option<&InitialVoters>,
) -> Result<(), StoreError> {
    format_with(disk, dir, identity, initial_voters, &[])
}

/// [`format`] for a cluster that comes back from a bucket: `first` are the records that the new
/// quorum's metadata begin with, the same for each voter. Blocks.
///
/// # Errors
/// [`StoreError::Formatted`] when it has an identity already.
pub fn format_with(
    disk: &dyn Disk,
    dir: &Path,
    identity: VoterIdentity,
    initial_voters: Option<&InitialVoters>,
    first: &[MetadataRecord],
) -> Result<(), StoreError> {
    create_durably(disk, dir).map_err(StoreError::io(dir))?;
    if let Some(found) = read_identity(disk, dir)? {
        return Err(StoreError::Formatted {
            path: dir.to_owned(),
            node_id: found.voter.node_id,
            cluster_id: found.cluster_id.to_string(),
        });
    }
    Journal::create(disk, dir)?;
    if let Some(voters) = initial_voters {
        let mut writer = Writer::default();
        writer.membership(&Membership::new(
            vec![voters.keys().copied().collect()],
            voters.clone(),
        ));
        put(disk, &dir.join(TOKEN), TOKEN_MAGIC, &writer.out)?;
        if !first.is_empty() {
            put(disk, &dir.join(FIRST), FIRST_MAGIC, &encode_batch(first))?;
        }
    }
    let mut writer = Writer::default();
    writer.uuid(identity.cluster_id);
    writer.voter_id(identity.voter);
    // Last: with it the directory is whole.
    put(disk, &dir.join(IDENTITY), IDENTITY_MAGIC, &writer.out)
}

/// Whose `dir` is; `None` if it was never formatted. Blocks.
///
/// # Errors
/// Those of the disk, and of a file that is not sound.
pub fn read_identity(disk: &dyn Disk, dir: &Path) -> Result<Option<VoterIdentity>, StoreError> {
    let path = dir.join(IDENTITY);
    let Some(mut reader) = get(disk, &path, IDENTITY_MAGIC, MOST_BYTES)? else {
        return Ok(None);
    };
    let read = || {
        let cluster_id = reader.uuid()?;
        let voter = reader.voter_id()?;
        reader.finish("an identity")?;
        Ok(VoterIdentity { cluster_id, voter })
    };
    read()
        .map(Some)
        .map_err(StoreError::unreadable(&path, PREFIX_BYTES))
}

/// The token of `dir`, if it has one. Blocks.
pub(super) fn read_token(disk: &dyn Disk, dir: &Path) -> Result<Option<InitialVoters>, StoreError> {
    let path = dir.join(TOKEN);
    let Some(mut reader) = get(disk, &path, TOKEN_MAGIC, MOST_BYTES)? else {
        return Ok(None);
    };
    let membership = reader
        .membership()
        .map_err(StoreError::unreadable(&path, PREFIX_BYTES))?;
    let nodes = membership.nodes();
    Ok(Some(nodes.map(|(id, node)| (*id, node.clone())).collect()))
}

/// The records that the metadata of a new quorum begin with. Blocks.
pub(super) fn read_first(disk: &dyn Disk, dir: &Path) -> Result<Vec<MetadataRecord>, StoreError> {
    let path = dir.join(FIRST);
    let Some(reader) = get(disk, &path, FIRST_MAGIC, MOST_SNAPSHOT_BYTES)? else {
        return Ok(Vec::new());
    };
    decode_batch(&reader.rest()).map_err(StoreError::unreadable(&path, PREFIX_BYTES))
}

/// Uses the token up, durably. Blocks.
pub(super) fn consume_token(disk: &dyn Disk, dir: &Path) -> Result<(), StoreError> {
    let path = dir.join(TOKEN);
    disk.remove(&path)
        .and_then(|()| disk.sync_dir(dir))
        .map_err(StoreError::io(&path))
}

fn put(disk: &dyn Disk, path: &Path, magic: [u8; 8], body: &[u8]) -> Result<(), StoreError> {
    let mut bytes = head(magic).to_vec();
    bytes.extend_from_slice(&crc32c(&[body]).to_be_bytes());
    bytes.extend_from_slice(body);
    write_file_atomic(disk, path, &bytes).map_err(StoreError::io(path))
}

fn get(
    disk: &dyn Disk,
    path: &Path,
    magic: [u8; 8],
    most_bytes: usize,
) -> Result<Option<Reader>, StoreError> {
    if !disk.exists(path).map_err(StoreError::io(path))? {
        return Ok(None);
    }
    let bytes = read_file(disk, path, most_bytes).map_err(StoreError::io(path))?;
    check_head(path, &bytes, magic)?;
    let crc = be_u32(&bytes[HEAD_BYTES..]);
    if bytes.len() < PREFIX_BYTES || crc != Some(crc32c(&[&bytes[PREFIX_BYTES..]])) {
        return Err(StoreError::corrupt(
            path,
            HEAD_BYTES,
            "its checksum is wrong",
        ));
    }
    Ok(Some(Reader::new(bytes.slice(PREFIX_BYTES..))))
}
