//! What groups have committed: read out of its backup, and held against what comes back.

use std::collections::BTreeMap;

use tidemark_coordinator::{Clamped, clamp};
use tidemark_model::CONSUMER_OFFSETS;
use tidemark_records::Limits;
use tidemark_records::compact::{Newest, Reducer};
use tidemark_tier::restore::{Part, Pieces};
use tidemark_tier::upload::{Upload, UploadError};
use tidemark_tier::{Bucket, SegmentRef, Writer};

use super::{RestoreError, Source};

/// Where each partition that comes back ends, by topic and index.
pub(super) type Ends = BTreeMap<String, Vec<i64>>;

pub(super) fn ends(sources: &[Source]) -> Ends {
    let of = |source: &Source| {
        let ends = source.parts.iter().map(|part| part.end_offset).collect();
        (source.topic.name.clone(), ends)
    };
    sources.iter().map(of).collect()
}

/// The backups of groups' offsets.
pub(super) fn offsets_of(sources: &[Source]) -> impl Iterator<Item = (&str, &Part)> {
    let offsets = sources
        .iter()
        .filter(|source| source.topic.name == CONSUMER_OFFSETS);
    offsets.flat_map(|source| {
        let backed_up = source.parts.iter();
        backed_up
            .filter(|part| part.backup_at_ms().is_some())
            .map(|part| (source.topic.name.as_str(), part))
    })
}

/// Reads a backup of groups' offsets: what is newest of each key, and which offsets lie beyond the
/// ends of their partitions, by the offset of their record.
pub(super) async fn read_offsets(
    bucket: &Bucket,
    topic: &str,
    part: &Part,
    ends: &Ends,
) -> Result<(Newest, Vec<Clamped>), RestoreError> {
    let broken = |reason: String| RestoreError::Offsets {
        key: format!("{topic}-{}", part.id.partition),
        reason,
    };
    let mut newest = Newest::default();
    let mut records = Vec::new();
    for entry in &part.entries {
        let mut pieces = Pieces::open(bucket, part.id, entry).await?;
        while let Some(batches) = pieces.next().await? {
            for batch in &batches {
                newest
                    .note(batch, Limits::default())
                    .map_err(|error| broken(error.to_string()))?;
                if batch.header.is_control() {
                    continue;
                }
                let of_batch = batch
                    .records(Limits::default())
                    .map_err(|error| broken(error.to_string()))?;
                for record in of_batch {
                    let record = record.map_err(|error| broken(error.to_string()))?;
                    let Some(key) = &record.key else { continue };
                    let clamped = clamp(record.offset, key, record.value.as_ref(), |topic, at| {
                        let at = usize::try_from(at).ok()?;
                        ends.get(topic)?.get(at).copied()
                    });
                    if let Some(clamped) = clamped.map_err(|error| broken(error.to_string()))? {
                        records.push((record, clamped));
                    }
                }
            }
        }
    }
    records.retain(|(record, _)| newest.keeps(record));
    let clamped = records.into_iter().map(|(_, clamped)| clamped);
    let clamped = clamped.collect();
    Ok((newest, clamped))
}

/// Writes a backup of groups' offsets anew, with none beyond the ends.
pub(super) async fn rewrite(
    source: &Bucket,
    (into, writer): (&Bucket, Writer),
    topic: &str,
    part: &Part,
    (newest, ends): (&Newest, &Ends),
) -> Result<Vec<SegmentRef>, RestoreError> {
    let broken = |reason: String| RestoreError::Offsets {
        key: format!("{topic}-{}", part.id.partition),
        reason,
    };
    let upload_failed = |error: UploadError| match error {
        UploadError::Tier(error) => RestoreError::Tier(error),
        error => broken(error.to_string()),
    };
    let start = part.start_offset();
    let begin = |at| {
        let (generation, epoch) = (writer.generation, writer.leader_epoch);
        Upload::new(into, (topic, part.id), at, (generation, epoch))
    };
    let mut entries = Vec::new();
    let mut reducer = Reducer::new(newest, start, Limits::default());
    for (at, entry) in part.entries.iter().enumerate() {
        let mut upload = begin(
            entries
                .last()
                .map_or(start, |last: &SegmentRef| last.end_offset),
        );
        let mut pieces = Pieces::open(source, part.id, entry).await?;
        while let Some(batches) = pieces.next().await? {
            let mut out = Vec::new();
            for batch in &batches {
                let change = |record: &tidemark_records::Record| {
                    let key = record.key.as_ref()?;
                    let end_of = |topic: &str, at: i32| {
                        ends.get(topic)?.get(usize::try_from(at).ok()?).copied()
                    };
                    // It was read before, without an error.
                    let clamped = clamp(record.offset, key, record.value.as_ref(), end_of);
                    clamped.ok().flatten().map(|clamped| clamped.value)
                };
                reducer
                    .reduce(batch, &mut out, change)
                    .map_err(|error| broken(error.to_string()))?;
            }
            upload.add(&out.into()).await.map_err(upload_failed)?;
        }
        if at + 1 == part.entries.len() {
            let mut out = Vec::new();
            reducer.finish(&mut out);
            upload.add(&out.into()).await.map_err(upload_failed)?;
        }
        match upload.log_bytes() {
            0 => upload.abort().await,
            _ => entries.push(upload.finish().await.map_err(upload_failed)?),
        }
    }
    Ok(entries)
}
