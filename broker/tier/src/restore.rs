//! What a bucket has to restore a cluster from, read with no broker running; and how a partition's
//! manifests are taken over.

use bytes::Bytes;
use object_store::{MultipartUpload, PutPayload};
use tidemark_records::Batch;

use crate::bucket::{Bucket, Created, deadline, within};
use crate::catalog::{Owner, Snapshot, Topic};
use crate::error::TierError;
use crate::layout::{self, PartitionId};
use crate::manifest::{Manifest, SegmentRef, Writer};
use crate::segment::Tail;
use crate::upload::{check_object, new_id};

/// Records of a backup are read in pieces of about this size.
const PIECE_BYTES: u64 = 8 << 20;

/// A partition as a bucket has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Whose it is.
    pub id: PartitionId,
    /// Its newest manifest and that one's checksum; none where nothing was uploaded yet.
    pub manifest: Option<(Manifest, u32)>,
    /// All entries, those in chunks included.
    pub entries: Vec<SegmentRef>,
    /// The offset after the last record that comes back: the manifest's end, or less where the
    /// partition is to go back to a moment.
    pub end_offset: i64,
}

impl Part {
    /// The first offset that can be read.
    pub fn start_offset(&self) -> i64 {
        let start = self.manifest.as_ref().map_or(0, |(m, _)| m.start_offset);
        start.min(self.end_offset)
    }

    /// When the whole of a compacted partition was backed up last, in milliseconds since 1970.
    pub fn backup_at_ms(&self) -> Option<i64> {
        self.manifest.as_ref()?.0.backup_at_ms
    }

    /// Bytes of its objects.
    pub fn size_bytes(&self) -> u64 {
        self.entries.iter().map(|entry| entry.size_bytes).sum()
    }

    /// The largest timestamp of what comes back, in milliseconds since 1970; -1 without.
    pub fn newest_ms(&self) -> i64 {
        let inside = |entry: &&SegmentRef| entry.base_offset < self.end_offset;
        let newest = self.entries.iter().filter(inside);
        newest
            .map(|entry| entry.max_timestamp_ms)
            .max()
            .unwrap_or(-1)
    }
}

/// Who the bucket belongs to; `None` for one that nobody owns.
///
/// # Errors
/// The bucket does not answer, or the word is damaged.
pub async fn owner(bucket: &Bucket) -> Result<Option<Owner>, TierError> {
    let owners = bucket.list(layout::OWNERS).await?;
    let Some(last) = owners.into_iter().map(|listed| listed.key).max() else {
        return Ok(None);
    };
    Ok(Some(bucket.document::<Owner>(&last).await?.0))
}

/// The newest metadata of a generation up to `generation`, or the newest that were taken by the
/// moment `at_ms`. Where all are younger than that, the oldest.
///
/// # Errors
/// The bucket does not answer, or one is damaged.
pub async fn metadata(
    bucket: &Bucket,
    generation: u32,
    at_ms: Option<i64>,
) -> Result<Option<Snapshot>, TierError> {
    let listed = bucket.list(layout::METADATA).await?;
    let known = listed.into_iter().filter_map(|listed| {
        let of = layout::metadata_of(&listed.key)?;
        (of.0 <= generation).then_some((of, listed.key))
    });
    let mut known: Vec<_> = known.collect();
    known.sort_unstable();
    let mut oldest = None;
    for (_, key) in known.into_iter().rev() {
        let snapshot = bucket.document::<Snapshot>(&key).await?.0;
        if at_ms.is_none_or(|at_ms| snapshot.taken_at_ms <= at_ms) {
            return Ok(Some(snapshot));
        }
        oldest = Some(snapshot);
    }
    Ok(oldest)
}

/// What the bucket has of each partition of a topic, as of `at_ms` where that is given.
///
/// # Errors
/// The bucket does not answer, or something that is needed is damaged.
pub async fn parts(
    bucket: &Bucket,
    topic: &Topic,
    at_ms: Option<i64>,
) -> Result<Vec<Part>, TierError> {
    let topic_id = layout::parse_id(&topic.topic_id)
        .ok_or_else(|| TierError::damaged(layout::METADATA, "a topic's id in it is none"))?;
    let mut parts = Vec::with_capacity(topic.leader_epochs.len());
    for (partition, _) in (0..).zip(&topic.leader_epochs) {
        let id = PartitionId {
            topic_id,
            partition,
        };
        parts.push(part(bucket, id, at_ms).await?);
    }
    Ok(parts)
}

/// What the bucket has of a partition, as of `at_ms` where that is given. A backup is whole: it
/// stays as it is.
///
/// # Errors
/// The bucket does not answer, or something that is needed is damaged.
pub async fn part(bucket: &Bucket, id: PartitionId, at_ms: Option<i64>) -> Result<Part, TierError> {
    let Some((manifest, crc32, entries)) = bucket.newest_manifest(id, None).await? else {
        return Ok(Part {
            id,
            manifest: None,
            entries: Vec::new(),
            end_offset: 0,
        });
    };
    let end_offset = match at_ms {
        Some(at_ms) if manifest.backup_at_ms.is_none() => {
            end_at(bucket, id, &entries, at_ms).await?
        }
        _ => None,
    };
    Ok(Part {
        id,
        end_offset: end_offset.unwrap_or(manifest.end_offset),
        manifest: Some((manifest, crc32)),
        entries,
    })
}

/// Where the first batch lies that has a record younger than `at_ms`.
async fn end_at(
    bucket: &Bucket,
    id: PartitionId,
    entries: &[SegmentRef],
    at_ms: i64,
) -> Result<Option<i64>, TierError> {
    let younger = |entry: &&SegmentRef| entry.max_timestamp_ms > at_ms;
    let Some(entry) = entries.iter().find(younger) else {
        return Ok(None);
    };
    let key = entry.key(id);
    let len = entry.size_bytes - entry.log_bytes;
    let tail = bucket.get_range(&key, entry.log_bytes, len).await?;
    let tail = Tail::decode(&key, &tail)?;
    let mut from = 0;
    while let Some((begin, end)) = tail.stretch_by_time(at_ms.saturating_add(1), from) {
        let mut bytes = bucket.get_range(&key, begin, end - begin).await?;
        while let Some(batch) = split(&key, &mut bytes)? {
            if batch.header.max_timestamp_ms > at_ms {
                return Ok(Some(batch.header.base_offset.max(entry.base_offset)));
            }
        }
        from = end;
    }
    // The entry knows of it, and its object does not: the whole entry goes.
    Ok(Some(entry.base_offset))
}

fn split(key: &str, bytes: &mut Bytes) -> Result<Option<Batch>, TierError> {
    Batch::split_first(bytes).map_err(|error| TierError::damaged(key, error.to_string()))
}

/// The batches of an entry, read piece by piece and checked.
#[derive(Debug)]
pub struct Pieces {
    bucket: Bucket,
    key: String,
    end_offset: i64,
    /// Where pieces end, the last first.
    ends: Vec<u64>,
    at: u64,
}

impl Pieces {
    /// Begins to read `entry` of partition `id`.
    ///
    /// # Errors
    /// The bucket does not answer, or the object's index is damaged.
    pub async fn open(
        bucket: &Bucket,
        id: PartitionId,
        entry: &SegmentRef,
    ) -> Result<Pieces, TierError> {
        let key = entry.key(id);
        let len = entry.size_bytes - entry.log_bytes;
        let tail = bucket.get_range(&key, entry.log_bytes, len).await?;
        let tail = Tail::decode(&key, &tail)?;
        let (mut ends, mut last) = (vec![entry.log_bytes], 0);
        for next in tail.index.iter().map(|next| next.position) {
            if next - last >= PIECE_BYTES {
                ends.push(next);
                last = next;
            }
        }
        ends.sort_unstable_by(|a, b| b.cmp(a));
        Ok(Pieces {
            bucket: bucket.clone(),
            key,
            end_offset: entry.end_offset,
            ends,
            at: 0,
        })
    }

    /// The next batches; `None` at the end. The object may hold more than counts.
    ///
    /// # Errors
    /// The bucket does not answer, or a batch is damaged.
    pub async fn next(&mut self) -> Result<Option<Vec<Batch>>, TierError> {
        let Some(end) = self.ends.pop() else {
            return Ok(None);
        };
        let len = end.saturating_sub(self.at);
        let mut bytes = self.bucket.get_range(&self.key, self.at, len).await?;
        self.at = end;
        let mut batches = Vec::new();
        while let Some(batch) = split(&self.key, &mut bytes)? {
            batch
                .verify_crc()
                .map_err(|error| TierError::damaged(&self.key, error.to_string()))?;
            if batch.header.base_offset < self.end_offset {
                batches.push(batch);
            }
        }
        Ok(Some(batches))
    }
}

/// Makes the partition's next manifest that of `writer`'s generation, so that no broker of an
/// earlier one can write another; cut at the part's end. One that is of that generation stays.
/// Gives the newest.
///
/// # Errors
/// The bucket does not answer, or belongs to a generation that counts for more.
pub async fn take_over(
    bucket: &Bucket,
    part: &Part,
    writer: Writer,
    now_ms: i64,
    change: impl Fn(&mut Manifest),
) -> Result<Option<Manifest>, TierError> {
    let Some((manifest, crc32)) = &part.manifest else {
        return Ok(None);
    };
    if manifest.writer.generation >= writer.generation {
        return Ok(Some(manifest.clone()));
    }
    let mut next = manifest.succeed(writer, *crc32)?;
    next.cut_at(part.end_offset, &part.entries, now_ms);
    change(&mut next);
    let key = part.id.manifest(next.sequence);
    next.check(&key)?;
    match bucket.create_document(&key, &next).await?.0 {
        Created::Ours => Ok(Some(next)),
        Created::Theirs(_) => Err(TierError::Away {
            key,
            reason: "a broker of the cluster that is restored from still writes; try again"
                .to_owned(),
        }),
    }
}

/// Copies what comes back of a partition into another bucket, where `writer` owns it; `entries` in
/// the place of the part's where they are there already. A partition that is there stays.
///
/// # Errors
/// A bucket does not answer, or an object is damaged.
pub async fn copy(
    from: &Bucket,
    into: &Bucket,
    part: &Part,
    writer: Writer,
    entries: Option<Vec<SegmentRef>>,
) -> Result<(), TierError> {
    let Some((manifest, _)) = &part.manifest else {
        return Ok(());
    };
    if into.first_key(&part.id.manifests()).await?.is_some() {
        return Ok(());
    }
    let mut next = Manifest::first(&manifest.topic, part.id, writer, part.start_offset());
    next.backup_at_ms = manifest.backup_at_ms;
    next.backup_leader_epoch = next.backup_at_ms.and(Some(writer.leader_epoch));
    let copied = entries.is_some();
    for mut entry in entries.unwrap_or_else(|| part.entries.clone()) {
        if entry.base_offset >= part.end_offset {
            break;
        }
        if !copied {
            copy_object(from, into, &entry.key(part.id), &entry).await?;
        }
        entry.end_offset = entry.end_offset.min(part.end_offset);
        let end = entry.end_offset;
        entry.epochs.retain(|(_, start)| *start < end);
        if next.segments.is_empty() {
            // The start may lie inside of the first entry.
            next.end_offset = entry.base_offset;
        }
        next.append(entry);
    }
    while let Some(chunk) = next.to_move() {
        let id = new_id();
        let crc32 = into.put_document(&part.id.chunk(id), &chunk).await?;
        next.moved(&chunk, id, crc32);
    }
    let key = part.id.manifest(next.sequence);
    next.check(&key)?;
    into.create_document(&key, &next).await?;
    Ok(())
}

async fn copy_object(
    from: &Bucket,
    into: &Bucket,
    key: &str,
    entry: &SegmentRef,
) -> Result<(), TierError> {
    let mut parts = into.multipart(key).await?;
    let mut at = 0;
    while at < entry.size_bytes {
        let len = (entry.size_bytes - at).min(PIECE_BYTES);
        let bytes = from.get_range(key, at, len).await?;
        let sent = parts.put_part(PutPayload::from_bytes(bytes));
        within(key, deadline(len), sent).await?;
        at += len;
    }
    within(key, deadline(0), parts.complete()).await?;
    check_object(into, key, entry.size_bytes, entry.crc32).await
}
