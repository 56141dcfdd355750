//! Tends one partition in the bucket, as its leader.

use super::{Known, NOT_BEHIND, PAUSE_MS, Pace, Tier, id_of, lock, longer};
use crate::broker::Broker;
use crate::partition::Partition;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tidemark_env::{clock, task};
use tidemark_log::ReadError;
use tidemark_model::LeaderEpoch;
use tidemark_tier::document::{self, Document};
use tidemark_tier::manifest::{Expired, Keep};
use tidemark_tier::upload::{Upload, UploadError, new_id};
use tidemark_tier::{Created, Manifest, SegmentRef, TierError, layout};

/// Records are read from the local log in pieces of this size.
const READ_BYTES: usize = 1 << 20;
const ANY_EPOCH: i32 = -1;

/// A topic's name beside its data, for whoever has only the bucket.
#[derive(Debug, Serialize, Deserialize)]
struct TopicName {
    name: String,
}

impl Document for TopicName {
    const FORMAT: &'static str = "tidemark-topic";
}

/// Why a partition cannot be tended now.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// This broker does not lead it any more.
    #[error("another broker leads the partition")]
    NotLed,
    #[error(transparent)]
    Upload(#[from] UploadError),
    #[error("the local log cannot be read: {0}")]
    Log(String),
    /// The log that this broker leads with is empty, and the bucket is not.
    #[error(
        "the bucket has records up to offset {end}, and the leader's log is empty at {log_end}: \
         nothing is uploaded, so that nothing in the bucket is given up. Elect a replica that has \
         the records, or delete the topic"
    )]
    Empty { end: i64, log_end: i64 },
}

impl From<TierError> for Trouble {
    fn from(error: TierError) -> Trouble {
        Trouble::Upload(UploadError::Tier(error))
    }
}

impl Trouble {
    fn outcome(&self) -> &'static str {
        match self {
            Trouble::NotLed => "not_led",
            Trouble::Upload(UploadError::Tier(error)) => error.outcome(),
            Trouble::Upload(UploadError::Build(_)) | Trouble::Log(_) => "local_log",
            Trouble::Empty { .. } => "empty_leader",
        }
    }
}

impl Tier {
    /// Does what is due. A failure is told once, and tried again later.
    pub(super) async fn tend(&self, broker: &Broker, partition: &Arc<Partition>) {
        let mut pace = partition.cold.tending.lock().await;
        if clock::now_ms() < pace.next_ms {
            return;
        }
        let (topic, index) = (&partition.topic, partition.index);
        match self.tend_now(broker, partition, &mut pace).await {
            Ok(()) => {
                if pace.trouble.take().is_some() {
                    tracing::info!(%topic, partition = index, "the bucket takes the partition again");
                }
                (pace.pause_ms, pace.next_ms) = (0, 0);
                partition.cold.troubled.store(false, Ordering::Release);
            }
            Err(Trouble::NotLed) => {}
            Err(trouble) => {
                broker.metrics.tier_failed(trouble.outcome());
                let text = trouble.to_string();
                if pace.trouble.as_ref() != Some(&text) {
                    tracing::warn!(%topic, partition = index, error = text, "not uploaded; local records stay");
                }
                pace.trouble = Some(text);
                pace.pause_ms = longer(pace.pause_ms);
                pace.next_ms = clock::now_ms() + pace.pause_ms;
                partition.cold.look_again();
                partition.cold.troubled.store(true, Ordering::Release);
                // Readers that wait are told.
                partition.log_start_moved();
            }
        }
    }

    async fn tend_now(
        &self,
        broker: &Broker,
        partition: &Arc<Partition>,
        pace: &mut Pace,
    ) -> Result<(), Trouble> {
        let epoch = led(partition)?;
        let mut known = self.find_out(partition, epoch).await?;
        while let Some(to) = self.due(partition, &known, pace)? {
            let Some(entry) = self.upload(broker, partition, &known, to).await? else {
                break;
            };
            let change = |manifest: &mut Manifest| manifest.append(entry);
            known = self.write(partition, &known, change).await?;
        }
        let interval_ms = broker.settings().log_retention_check_interval_ms;
        let now_ms = clock::now_ms();
        if now_ms - pace.retention_ms >= interval_ms.min(*PAUSE_MS.end()) {
            pace.retention_ms = now_ms;
            known = self.expire(partition, known).await?;
            self.sweep(partition, known).await?;
        }
        Ok(())
    }

    /// Where the partition stands in the bucket. A new leader first cuts off what it never had.
    async fn find_out(
        &self,
        partition: &Arc<Partition>,
        epoch: LeaderEpoch,
    ) -> Result<Known, Trouble> {
        if let Some(known) = partition.cold.known().filter(|known| known.epoch == epoch) {
            return Ok(known);
        }
        let id = id_of(partition);
        let writer = self.writer(epoch);
        let since_ms = partition.replicas_now_ms();
        let log = partition.with_log(|log, _| {
            let ends: Vec<(i32, i64)> = log
                .epochs()
                .entries()
                .iter()
                .filter_map(|entry| {
                    let end = log.end_offset_for_epoch(entry.epoch)?;
                    Some((entry.epoch, end.end_offset))
                })
                .collect();
            (log.log_start_offset(), log.end_offset(), ends)
        });
        let (log_start, log_end, ends) = log.map_err(|_| Trouble::NotLed)?;
        let Some(key) = self.bucket.first_key(&id.manifests()).await? else {
            let manifest = Manifest::first(&partition.topic, id, writer, log_start);
            let known = Known {
                epoch,
                manifest: Arc::new(manifest),
                crc32: None,
                since_ms,
            };
            self.publish(partition, &known);
            return Ok(known);
        };
        let (manifest, crc32) = self.bucket.document::<Manifest>(&key).await?;
        manifest.check(&key)?;
        if manifest.id() != id || layout::manifest_sequence(&key) != Some(manifest.sequence) {
            return Err(TierError::Damaged {
                key,
                reason: "it is another partition's".to_owned(),
            }
            .into());
        }
        if log_start == log_end && log_end < manifest.end_offset {
            return Err(Trouble::Empty {
                end: manifest.end_offset,
                log_end,
            });
        }
        let known = Known {
            epoch,
            manifest: Arc::new(manifest),
            crc32: Some(crc32),
            since_ms,
        };
        let mut cut = (*known.manifest).clone();
        let end_of = |epoch| {
            ends.iter()
                .find(|(known, _)| *known == epoch)
                .map(|(_, end)| *end)
        };
        if cut.cut_to_lineage(log_start, end_of, clock::now_ms()) {
            tracing::warn!(
                topic = %partition.topic, partition = partition.index,
                from = cut.end_offset, to = known.manifest.end_offset,
                "the bucket has records that this leader never had: they do not count any more"
            );
            return self
                .write(partition, &known, |manifest| {
                    *manifest = with(&cut, manifest);
                })
                .await;
        }
        if known.manifest.writer.leader_epoch > epoch {
            known.manifest.succeed(writer, crc32)?;
        }
        self.publish(partition, &known);
        Ok(known)
    }

    /// Up to where the next object goes: the end of a segment, or all that is committed when that
    /// has waited long enough.
    fn due(
        &self,
        partition: &Partition,
        known: &Known,
        pace: &mut Pace,
    ) -> Result<Option<i64>, Trouble> {
        let end = known.manifest.end_offset;
        let looked = partition.with_log(|log, high_watermark| {
            let upper = (*high_watermark).min(log.durable_offset());
            (upper, log.sealed_end(end, upper))
        });
        let (upper, sealed) = looked.map_err(|_| Trouble::NotLed)?;
        let behind = &partition.cold.behind_since_ms;
        if upper <= end {
            pace.behind = None;
            behind.store(NOT_BEHIND, Ordering::Release);
            return Ok(None);
        }
        let now_ms = clock::now_ms();
        let since_ms = match pace.behind {
            Some((at, since_ms)) if at == end => since_ms,
            _ => now_ms,
        };
        pace.behind = Some((end, since_ms));
        behind.store(since_ms, Ordering::Release);
        let late = now_ms - since_ms >= self.settings.upload_max_lag_ms;
        Ok(sealed.or(late.then_some(upper)))
    }

    /// Uploads records from the manifest's end up to `to`, or as many as a segment holds. `None`
    /// when there are none.
    async fn upload(
        &self,
        broker: &Broker,
        partition: &Arc<Partition>,
        known: &Known,
        to: i64,
    ) -> Result<Option<SegmentRef>, Trouble> {
        let id = id_of(partition);
        let from = known.manifest.end_offset;
        let most_bytes = u64::from(partition.policy().log.segment_bytes);
        let writer = self.writer(known.epoch);
        let mut upload = Upload::new(
            &self.bucket,
            (&partition.topic, id),
            from,
            (writer.generation, writer.leader_epoch),
        );
        while upload.end_offset() < to && upload.log_bytes() < most_bytes {
            let next = upload.end_offset();
            let plan = partition.with_log(|log, _| log.read_plan(next, READ_BYTES, to, true));
            let taken = match plan.map_err(|_| Trouble::NotLed)? {
                Ok(plan) => task::blocking(move || plan.load()).await,
                Err(error) => Ok(Err(error)),
            };
            let loaded = match taken {
                Ok(Ok(loaded)) => loaded,
                Ok(Err(ReadError::OutOfRange { log_start, .. })) if log_start > next => {
                    upload.abort().await;
                    return self.skip(partition, known, log_start).await.map(|()| None);
                }
                Ok(Err(error)) => {
                    upload.abort().await;
                    return Err(Trouble::Log(error.to_string()));
                }
                Err(error) => {
                    upload.abort().await;
                    return Err(Trouble::Log(error.to_string()));
                }
            };
            if loaded.records.is_empty() {
                break;
            }
            if let Err(error) = upload.add(&loaded.records).await {
                upload.abort().await;
                return Err(error.into());
            }
        }
        if upload.end_offset() == from {
            upload.abort().await;
            return Ok(None);
        }
        if led(partition)? != known.epoch {
            upload.abort().await;
            return Err(Trouble::NotLed);
        }
        let entry = upload.finish().await?;
        broker.metrics.tier_uploaded(entry.size_bytes);
        tracing::debug!(
            topic = %partition.topic, partition = partition.index,
            from = entry.base_offset, to = entry.end_offset, bytes = entry.size_bytes, "uploaded"
        );
        Ok(Some(entry))
    }

    /// The log starts above what the bucket has: what lies between was deleted (DeleteRecords).
    async fn skip(
        &self,
        partition: &Arc<Partition>,
        known: &Known,
        log_start: i64,
    ) -> Result<(), Trouble> {
        let now_ms = clock::now_ms();
        self.write(partition, known, |manifest| {
            manifest.raise_start(log_start, now_ms);
        })
        .await
        .map(|_| ())
    }

    /// Writes the next manifest.
    async fn write(
        &self,
        partition: &Arc<Partition>,
        known: &Known,
        change: impl FnOnce(&mut Manifest),
    ) -> Result<Known, Trouble> {
        let id = id_of(partition);
        let writer = self.writer(known.epoch);
        let mut next = match known.crc32 {
            Some(crc32) => known.manifest.succeed(writer, crc32)?,
            None => {
                let name = TopicName {
                    name: partition.topic.to_string(),
                };
                let key = layout::topic(id.topic_id);
                self.bucket.create_document(&key, &name).await?;
                (*known.manifest).clone()
            }
        };
        change(&mut next);
        while let Some(chunk) = next.to_move() {
            let chunk_id = new_id();
            let key = id.chunk(chunk_id);
            let bytes = document::encode(&chunk).map_err(|error| TierError::Damaged {
                key: key.clone(),
                reason: error.to_string(),
            })?;
            let crc32 = document::checksum(&bytes);
            self.bucket.put(&key, bytes).await?;
            next.moved(&chunk, chunk_id, crc32);
        }
        let key = id.manifest(next.sequence);
        next.check(&key)?;
        if led(partition)? != known.epoch {
            return Err(Trouble::NotLed);
        }
        let since_ms = partition.replicas_now_ms();
        let (created, crc32) = self.bucket.create_document(&key, &next).await?;
        if created != Created::Ours {
            return Err(TierError::Superseded {
                key,
                reason: "another leader wrote it first".to_owned(),
            }
            .into());
        }
        let known = Known {
            epoch: known.epoch,
            manifest: Arc::new(next),
            crc32: Some(crc32),
            since_ms,
        };
        self.publish(partition, &known);
        Ok(known)
    }

    fn publish(&self, partition: &Partition, known: &Known) {
        *lock(&partition.cold.known) = Some(known.clone());
        partition.log_start_moved();
    }

    /// Retention over both: what is in the bucket goes by the age and size of the whole.
    async fn expire(&self, partition: &Arc<Partition>, known: Known) -> Result<Known, Trouble> {
        let settings = &partition.policy().settings;
        if !settings.cleanup_delete || known.crc32.is_none() {
            return Ok(known);
        }
        let end = known.manifest.end_offset;
        let local = partition.with_log(|log, _| log.bytes_above(end));
        let keep = Keep {
            ms: settings.retention_ms,
            bytes: settings.retention_bytes.and_then(|n| u64::try_from(n).ok()),
            local_bytes: local.map_err(|_| Trouble::NotLed)?,
        };
        let now_ms = clock::now_ms();
        match known.manifest.expired(keep, now_ms) {
            Expired::StartAt(start) if start > known.manifest.start_offset => {
                let known = self
                    .write(partition, &known, |next| next.raise_start(start, now_ms))
                    .await?;
                tracing::info!(
                    topic = %partition.topic, partition = partition.index, log_start = start,
                    "deleted old records in the bucket"
                );
                Ok(known)
            }
            Expired::StartAt(_) => Ok(known),
            Expired::BringBack => {
                let Some(oldest) = known.manifest.chunks.first() else {
                    return Ok(known);
                };
                let chunk = self.reader.chunk(id_of(partition), oldest).await?;
                self.write(partition, &known, |next| {
                    next.bring_back(chunk.segments.clone(), now_ms);
                })
                .await
            }
        }
    }

    /// Deletes what has not counted for long enough. What a chunk names goes with it, unless it
    /// came back.
    async fn sweep(&self, partition: &Arc<Partition>, known: Known) -> Result<(), Trouble> {
        let due = known
            .manifest
            .garbage_due(self.settings.delete_delay_ms, clock::now_ms());
        let due: Vec<String> = due.into_iter().map(|garbage| garbage.key.clone()).collect();
        if due.is_empty() || !partition.confirmed_since(known.epoch, known.since_ms) {
            return Ok(());
        }
        for key in &due {
            if key.contains("/chunk/") {
                self.sweep_chunk(partition, &known, key).await?;
            }
            self.bucket.delete(key).await?;
        }
        self.write(partition, &known, |next| next.forget(&due))
            .await?;
        Ok(())
    }

    async fn sweep_chunk(
        &self,
        partition: &Partition,
        known: &Known,
        key: &str,
    ) -> Result<(), Trouble> {
        let id = id_of(partition);
        let chunk = match self
            .bucket
            .document::<tidemark_tier::manifest::Chunk>(key)
            .await
        {
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

    /// Moves the start up to `offset` in the bucket (DeleteRecords), as far as it has anything.
    ///
    /// # Errors
    /// In words; it may be tried again.
    pub(crate) async fn delete_records(
        &self,
        partition: &Arc<Partition>,
        offset: i64,
    ) -> Result<(), String> {
        let _pace = partition.cold.tending.lock().await;
        let moved = async {
            let epoch = led(partition)?;
            let known = self.find_out(partition, epoch).await?;
            if known.crc32.is_none() || offset <= known.manifest.start_offset {
                return Ok(());
            }
            let to = offset.min(known.manifest.end_offset);
            let now_ms = clock::now_ms();
            self.write(partition, &known, |next| next.raise_start(to, now_ms))
                .await
                .map(|_| ())
        };
        moved.await.map_err(|trouble: Trouble| {
            partition.cold.look_again();
            trouble.to_string()
        })
    }
}

/// `cut` as the successor `next` says it.
fn with(cut: &Manifest, next: &Manifest) -> Manifest {
    Manifest {
        sequence: next.sequence,
        writer: next.writer,
        predecessor: next.predecessor,
        ..cut.clone()
    }
}

fn led(partition: &Partition) -> Result<LeaderEpoch, Trouble> {
    let led = partition.leading(ANY_EPOCH);
    led.map(|(epoch, _)| epoch).map_err(|_| Trouble::NotLed)
}
