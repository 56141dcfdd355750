//! Uploads: records go by in order, the object is read back, then it counts.

use bytes::{Bytes, BytesMut};
use object_store::{MultipartUpload, PutPayload};
use tidemark_env::random;
use tidemark_wire::Uuid;

use crate::bucket::{Bucket, deadline, within};
use crate::error::TierError;
use crate::layout::PartitionId;
use crate::manifest::SegmentRef;
use crate::segment::{BuildError, Builder};

/// Bytes of one part, and of what is held in memory of an upload.
pub const PART_BYTES: usize = 8 << 20;

/// Why an upload came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The bucket.
    #[error(transparent)]
    Tier(#[from] TierError),
    /// The records.
    #[error(transparent)]
    Build(#[from] BuildError),
}

/// One object on its way.
#[derive(Debug)]
pub struct Upload {
    bucket: Bucket,
    key: String,
    id: Uuid,
    generation: u32,
    leader_epoch: i32,
    builder: Builder,
    part: BytesMut,
    parts: Option<Box<dyn MultipartUpload>>,
}

/// An id nobody else has.
pub(crate) fn new_id() -> Uuid {
    let mut bytes = [0; 16];
    random::fill(&mut bytes);
    Uuid::from_random(bytes)
}

impl Upload {
    /// An upload of `partition` from `base_offset` on, by the leader of `leader_epoch`.
    pub fn new(
        bucket: &Bucket,
        (topic, partition): (&str, PartitionId),
        base_offset: i64,
        (generation, leader_epoch): (u32, i32),
    ) -> Upload {
        let id = new_id();
        Upload {
            bucket: bucket.clone(),
            key: partition.segment(base_offset, leader_epoch, id),
            id,
            generation,
            leader_epoch,
            builder: Builder::new(topic, partition, base_offset),
            part: BytesMut::new(),
            parts: None,
        }
    }

    /// The offset after the last record taken.
    pub fn end_offset(&self) -> i64 {
        self.builder.end_offset()
    }

    /// Bytes of records taken.
    pub fn log_bytes(&self) -> u64 {
        self.builder.log_bytes()
    }

    /// Takes whole batches; a part that is full goes out.
    ///
    /// # Errors
    /// The bucket does not take it, or the records are damaged. [`Upload::abort`] then.
    pub async fn add(&mut self, batches: &Bytes) -> Result<(), UploadError> {
        self.builder.add(batches)?;
        self.part.extend_from_slice(batches);
        let part_bytes = self.bucket.part_bytes();
        while self.part.len() >= part_bytes {
            let part = self.part.split_to(part_bytes).freeze();
            self.send(part).await?;
        }
        Ok(())
    }

    async fn send(&mut self, part: Bytes) -> Result<(), TierError> {
        self.bucket.may_send(part.len() as u64).await;
        let parts = match &mut self.parts {
            Some(parts) => parts,
            none => none.insert(self.bucket.multipart(&self.key).await?),
        };
        let limit = deadline(part.len() as u64);
        let sent = parts.put_part(PutPayload::from_bytes(part));
        within(&self.key, limit, sent).await
    }

    /// Completes the object, reads it back, and gives its entry for a manifest.
    ///
    /// # Errors
    /// The bucket does not take it, or does not give back what it took.
    pub async fn finish(mut self) -> Result<SegmentRef, UploadError> {
        let (tail, entry) =
            self.builder
                .finish(&self.key, self.generation, self.leader_epoch, self.id)?;
        self.part.extend_from_slice(&tail);
        let last = self.part.split().freeze();
        if self.parts.is_none() {
            self.bucket.put(&self.key, last).await?;
        } else {
            let sent = self.send(last).await;
            let completed = match (sent, &mut self.parts) {
                (Ok(()), Some(parts)) => within(&self.key, deadline(0), parts.complete())
                    .await
                    .map(|_| ()),
                (sent, _) => sent,
            };
            if let Err(error) = completed {
                self.abort().await;
                return Err(error.into());
            }
            self.parts = None;
        }
        check_object(&self.bucket, &self.key, entry.size_bytes, entry.crc32).await?;
        Ok(entry)
    }

    /// Gives an upload up.
    pub async fn abort(mut self) {
        if let Some(mut parts) = self.parts.take()
            && let Err(error) = within(&self.key, deadline(0), parts.abort()).await
        {
            // The store's own rules for unfinished uploads clear it away.
            tracing::debug!(%error, "an upload that was given up stays unfinished");
        }
    }
}

/// Reads a whole object and holds it against its length and checksum.
///
/// # Errors
/// It is missing, damaged, or the bucket does not answer.
pub async fn check_object(
    bucket: &Bucket,
    key: &str,
    size_bytes: u64,
    crc32: u32,
) -> Result<(), TierError> {
    let found = bucket.size_bytes(key).await?;
    if found != size_bytes {
        return Err(TierError::damaged(
            key,
            format!("it has {found} bytes, and should have {size_bytes}"),
        ));
    }
    let mut crc = crc32fast::Hasher::new();
    let mut at = 0;
    while at < size_bytes {
        let len = (size_bytes - at).min(bucket.part_bytes() as u64);
        crc.update(&bucket.get_range(key, at, len).await?);
        at += len;
    }
    let found = crc.finalize();
    if found == crc32 {
        Ok(())
    } else {
        Err(TierError::damaged(
            key,
            format!("its checksum is {found:08x}, and should be {crc32:08x}"),
        ))
    }
}
