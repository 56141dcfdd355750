//! Looks through a bucket, with no broker running: is all there that manifests name, and is it
//! what was put there?

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::bucket::{Bucket, Listed};
use crate::document;
use crate::error::TierError;
use crate::layout::{self, PartitionId};
use crate::manifest::{Manifest, SegmentRef};
use crate::segment::Tail;
use crate::upload::check_object;

/// What is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The object's key.
    pub key: String,
    /// What it is, in a word: `missing`, `damaged`, `gap`, `orphan`, `foreign`.
    pub kind: &'static str,
    /// What it means.
    pub what: String,
}

/// A partition as its newest manifest has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The manifest.
    pub manifest: Manifest,
    /// Its entries, those in chunks included, oldest first.
    pub entries: Vec<SegmentRef>,
}

/// Lists every partition's objects.
///
/// # Errors
/// The bucket does not answer.
pub async fn by_partition(
    bucket: &Bucket,
) -> Result<(BTreeMap<PartitionId, Vec<Listed>>, Vec<Listed>), TierError> {
    let mut partitions: BTreeMap<PartitionId, Vec<Listed>> = BTreeMap::new();
    let mut others = Vec::new();
    for listed in bucket.list("").await? {
        match layout::partition_of(&listed.key) {
            Some(partition) => partitions.entry(partition).or_default().push(listed),
            None => others.push(listed),
        }
    }
    Ok((partitions, others))
}

/// The newest manifest among `objects`, with its chunks; none when there is none. Where a broker is
/// at work it may be of later than the list.
///
/// # Errors
/// It is damaged, or the bucket does not answer.
pub async fn newest(
    bucket: &Bucket,
    partition: PartitionId,
    objects: &[Listed],
) -> Result<Option<Found>, TierError> {
    let sequences = objects
        .iter()
        .filter_map(|object| layout::manifest_sequence(&object.key));
    let Some(listed) = sequences.max() else {
        return Ok(None);
    };
    let listed = partition.manifest(listed);
    let newest = bucket.newest_manifest(partition, Some(listed)).await?;
    Ok(newest.map(|(manifest, _, entries)| Found { manifest, entries }))
}

/// Looks through one partition, as `objects` lists it. With `deep`, every byte is read and every
/// batch's CRC checked; otherwise lengths and indexes are.
///
/// A broker may be at work: what it puts there or lets go of meanwhile is not wrong. Where something
/// is found and the list has changed, the partition is looked through again, and what is wrong both
/// times is a finding.
///
/// # Errors
/// The bucket does not answer. What is wrong in it is a finding.
pub async fn partition(
    bucket: &Bucket,
    id: PartitionId,
    objects: &[Listed],
    deep: bool,
) -> Result<(Option<Found>, Vec<Finding>), TierError> {
    let first = look_through(bucket, id, objects, deep).await?;
    if first.1.is_empty() {
        return Ok(first);
    }
    let now = bucket.list(&id.prefix()).await?;
    if keys(&now) == keys(objects) {
        return Ok(first);
    }
    let (found, mut findings) = look_through(bucket, id, &now, deep).await?;
    let before = &first.1;
    findings.retain(|finding| {
        let same = |other: &Finding| (&other.key, other.kind) == (&finding.key, finding.kind);
        before.iter().any(same)
    });
    Ok((found, findings))
}

fn keys(objects: &[Listed]) -> BTreeSet<&str> {
    objects.iter().map(|object| object.key.as_str()).collect()
}

async fn look_through(
    bucket: &Bucket,
    id: PartitionId,
    objects: &[Listed],
    deep: bool,
) -> Result<(Option<Found>, Vec<Finding>), TierError> {
    let mut findings = Vec::new();
    let found = match newest(bucket, id, objects).await {
        Ok(found) => found,
        Err(error) => {
            findings.push(finding(error)?);
            return Ok((None, findings));
        }
    };
    let there: BTreeMap<&str, u64> = objects
        .iter()
        .map(|object| (object.key.as_str(), object.size_bytes))
        .collect();
    chain(bucket, id, objects, &mut findings).await?;
    let mut named = BTreeSet::new();
    if let Some(Found { manifest, entries }) = &found {
        named.extend(manifest.garbage.iter().map(|garbage| garbage.key.clone()));
        named.extend(manifest.chunks.iter().map(|chunk| id.chunk(chunk.id)));
        let mut next = manifest.base_offset();
        for entry in entries {
            let key = entry.key(id);
            if entry.base_offset != next {
                let what = format!(
                    "records from {next} to {} are in no object",
                    entry.base_offset
                );
                findings.push(Finding {
                    key: key.clone(),
                    kind: "gap",
                    what,
                });
            }
            next = entry.end_offset;
            match there.get(key.as_str()) {
                None => findings.push(Finding {
                    key: key.clone(),
                    kind: "missing",
                    what: format!(
                        "records from {} to {} are lost",
                        entry.base_offset, entry.end_offset
                    ),
                }),
                Some(_) => {
                    if let Err(error) = object(bucket, id, entry, deep).await {
                        findings.push(finding(error)?);
                    }
                }
            }
            named.insert(key);
        }
    }
    for object in objects {
        if layout::manifest_sequence(&object.key).is_none() && !named.contains(&object.key) {
            findings.push(Finding {
                key: object.key.clone(),
                kind: "orphan",
                what: format!(
                    "no manifest names it: {} bytes of an upload that came to nothing, or foreign",
                    object.size_bytes
                ),
            });
        }
    }
    Ok((found, findings))
}

/// Every manifest follows its predecessor.
async fn chain(
    bucket: &Bucket,
    id: PartitionId,
    objects: &[Listed],
    findings: &mut Vec<Finding>,
) -> Result<(), TierError> {
    let mut sequences: Vec<u64> = objects
        .iter()
        .filter_map(|object| layout::manifest_sequence(&object.key))
        .collect();
    sequences.sort_unstable();
    let mut before: Option<(Manifest, u32)> = None;
    for sequence in sequences {
        let key = id.manifest(sequence);
        let bytes = match bucket.get(&key).await {
            Ok(bytes) => bytes,
            Err(error) => {
                findings.push(finding(error)?);
                continue;
            }
        };
        let manifest = match document::decode::<Manifest>(&key, &bytes) {
            Ok(manifest) => manifest,
            Err(error) => {
                findings.push(finding(error)?);
                before = None;
                continue;
            }
        };
        if let Some(wrong) = follows(&manifest, before.as_ref()) {
            findings.push(Finding {
                key,
                kind: "gap",
                what: wrong,
            });
        }
        before = Some((manifest, document::checksum(&bytes)));
    }
    Ok(())
}

fn follows(manifest: &Manifest, before: Option<&(Manifest, u32)>) -> Option<String> {
    let (before, crc32) = before?;
    let named = manifest.predecessor?;
    if named.sequence != before.sequence || named.crc32 != *crc32 {
        return Some(format!(
            "it follows manifest {} with checksum {:08x}, and there is {} with {crc32:08x}",
            named.sequence, named.crc32, before.sequence
        ));
    }
    let rank = |m: &Manifest| (m.writer.generation, m.writer.leader_epoch);
    (rank(manifest) < rank(before)).then(|| {
        format!(
            "its writer is of (generation, epoch) {:?}, the one before of {:?}",
            rank(manifest),
            rank(before)
        )
    })
}

async fn object(
    bucket: &Bucket,
    id: PartitionId,
    entry: &SegmentRef,
    deep: bool,
) -> Result<(), TierError> {
    let key = entry.key(id);
    let size = bucket.size_bytes(&key).await?;
    if size != entry.size_bytes {
        return Err(TierError::damaged(
            &key,
            format!("it has {size} bytes, and should have {}", entry.size_bytes),
        ));
    }
    if deep {
        check_object(bucket, &key, entry.size_bytes, entry.crc32).await?;
    }
    let len = entry.size_bytes - entry.log_bytes;
    let bytes: Bytes = bucket.get_range(&key, entry.log_bytes, len).await?;
    let tail = Tail::decode(&key, &bytes)?;
    if tail.footer.base_offset != entry.base_offset || tail.footer.end_offset < entry.end_offset {
        return Err(TierError::damaged(
            &key,
            format!(
                "it holds records from {} to {}, and should hold {} to {}",
                tail.footer.base_offset,
                tail.footer.end_offset,
                entry.base_offset,
                entry.end_offset
            ),
        ));
    }
    Ok(())
}

/// What is wrong with an object is a finding; a bucket that does not answer is not.
fn finding(error: TierError) -> Result<Finding, TierError> {
    let (key, kind) = match &error {
        TierError::NotFound { key } => (key.clone(), "missing"),
        TierError::Damaged { key, .. } => (key.clone(), "damaged"),
        _ => return Err(error),
    };
    Ok(Finding {
        key,
        kind,
        what: error.to_string(),
    })
}
