//! Deletes objects: those that no longer count, after a grace, and those that never came to count.

use super::upload::Trouble;
use super::{Known, Pace, Sweep, Tier, id_of};
use crate::partition::Partition;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tidemark_env::clock;
use tidemark_tier::manifest::Chunk;
use tidemark_tier::orphans::orphans;
use tidemark_tier::{SegmentRef, TierError};

impl Tier {
    /// Deletes what has not counted for long enough. What a chunk names goes with it, unless it
    /// came back.
    pub(super) async fn sweep(
        &self,
        partition: &Arc<Partition>,
        known: Known,
    ) -> Result<Known, Trouble> {
        let due = known
            .manifest
            .garbage_due(self.settings.delete_delay_ms, clock::now_ms());
        let due: Vec<String> = due.into_iter().map(|garbage| garbage.key.clone()).collect();
        if due.is_empty() || !partition.confirmed_since(known.epoch, known.since_ms) {
            return Ok(known);
        }
        self.check_owner().await?;
        for key in &due {
            if key.contains("/chunk/") {
                self.sweep_chunk(partition, &known, key).await?;
            }
            self.bucket.delete(key).await?;
        }
        self.write(partition, &known, |next| next.forget(&due))
            .await
    }

    async fn sweep_chunk(
        &self,
        partition: &Partition,
        known: &Known,
        key: &str,
    ) -> Result<(), Trouble> {
        let id = id_of(partition);
        let chunk = match self.bucket.document::<Chunk>(key).await {
            Ok((chunk, _)) => chunk,
            Err(TierError::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let manifest = &known.manifest;
        for entry in &chunk.segments {
            let counts = entry.end_offset > manifest.start_offset;
            let listed = |other: &str| manifest.garbage.iter().any(|garbage| garbage.key == other);
            let entry_key = entry.key(id);
            if !counts && !listed(&entry_key) {
                self.bucket.delete(&entry_key).await?;
            }
        }
        Ok(())
    }

    /// Deletes what uploads have left behind, `tier.delete.delay.ms` after a first manifest of
    /// this leader's: what was uploaded in its epoch or before, and is in no manifest.
    pub(super) async fn sweep_orphans(
        &self,
        partition: &Arc<Partition>,
        known: &Known,
        pace: &mut Pace,
    ) -> Result<(), Trouble> {
        let writer = &known.manifest.writer;
        let is_own = known.crc32.is_some()
            && writer.id == self.id
            && writer.leader_epoch == known.epoch
            && writer.generation == self.generation.load(Ordering::Acquire);
        // One whose answer was lost, or which was given up, may arrive still.
        let may_arrive = partition.cold.attempts.load(Ordering::Acquire)
            > known.manifest.sequence.saturating_add(1);
        if !is_own || may_arrive {
            return Ok(());
        }
        let now_ms = clock::steady_ms();
        match pace.sweep {
            Sweep::Done(epoch) if epoch == known.epoch => return Ok(()),
            Sweep::Wanted | Sweep::Done(_) => {
                pace.sweep = Sweep::DueAt(now_ms.saturating_add(self.settings.delete_delay_ms));
                return Ok(());
            }
            Sweep::DueAt(due_ms) if now_ms < due_ms => return Ok(()),
            Sweep::DueAt(_) => {}
        }
        if !partition.confirmed_since(known.epoch, known.since_ms) {
            return Ok(());
        }
        self.check_owner().await?;
        let id = id_of(partition);
        let objects = self.bucket.list(&id.prefix()).await?;
        let in_chunks = self.in_chunks(partition, known).await?;
        let keys = objects.iter().map(|object| object.key.as_str());
        let orphans = orphans(&known.manifest, &in_chunks, keys);
        for key in &orphans {
            self.bucket.delete(key).await?;
        }
        if !orphans.is_empty() {
            tracing::info!(
                topic = %partition.topic, partition = partition.index, objects = orphans.len(),
                "deleted from the bucket what uploads had left behind"
            );
        }
        pace.sweep = Sweep::Done(known.epoch);
        Ok(())
    }

    /// The entries of all chunks, and of those that are garbage.
    async fn in_chunks(
        &self,
        partition: &Partition,
        known: &Known,
    ) -> Result<Vec<SegmentRef>, Trouble> {
        let id = id_of(partition);
        let mut entries = Vec::new();
        for chunk in &known.manifest.chunks {
            let chunk = self.bucket.chunk(id, chunk).await?;
            entries.extend(chunk.segments);
        }
        for garbage in &known.manifest.garbage {
            if !tidemark_tier::layout::is_chunk(&garbage.key) {
                continue;
            }
            match self.bucket.document::<Chunk>(&garbage.key).await {
                Ok((chunk, _)) => entries.extend(chunk.segments),
                Err(TierError::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(entries)
    }
}
