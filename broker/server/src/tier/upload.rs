//! Tends one partition in the bucket, as its leader.

use super::{Known, Pace, RETENTION_MS, Rest, Seen, Sweep, Tier, id_of, jittered, lock, longer};
use crate::broker::{Broker, new_id};
use crate::partition::Partition;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tidemark_env::{clock, task};
use tidemark_log::ReadError;
use tidemark_model::LeaderEpoch;
use tidemark_tier::catalog::TopicName;
use tidemark_tier::manifest::{Expired, Keep};
use tidemark_tier::upload::{Upload, UploadError};
use tidemark_tier::{Created, Manifest, SegmentRef, TierError, layout};

/// Records are read from the local log in pieces of this size.
pub(super) const READ_BYTES: usize = 1 << 20;
const ANY_EPOCH: i32 = -1;

/// What is to be done next for a partition.
enum Due {
    /// The log begins only there: what lies between was deleted (DeleteRecords).
    Skip(i64),
    /// An object up to there.
    Upload(i64),
}

/// Why a partition cannot be tended now.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// This broker does not lead it any more.
    #[error("another broker leads the partition")]
    NotLed,
    /// The active controller is about to write them.
    #[error("the metadata in the bucket do not name the partition yet")]
    NotNamed,
    #[error(transparent)]
    Upload(#[from] UploadError),
    #[error("the local log cannot be read: {0}")]
    Log(String),
    /// Its beginning moved under the reader: the next round finds it elsewhere.
    #[error("records were deleted while they were uploaded")]
    Deleted,
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
            Trouble::NotNamed => "not_named",
            Trouble::Deleted => "deleted",
            Trouble::Upload(UploadError::Tier(error)) => error.outcome(),
            Trouble::Upload(UploadError::Build(_)) | Trouble::Log(_) => "local_log",
            Trouble::Empty { .. } => "empty_leader",
        }
    }
}

impl Tier {
    /// Does what is due. A failure is told once, and tried again later.
    pub(super) async fn tend(&self, broker: &Broker, partition: &Arc<Partition>, backed_up: bool) {
        let mut pace = partition.cold.tending.lock().await;
        // Credentials that were mended are tried at once.
        let now_ms = clock::steady_ms();
        if now_ms < pace.next_ms && self.reopened_ms.load(Ordering::Acquire) <= pace.failed_ms {
            return;
        }
        let seen = Seen::of(partition).ok();
        let (topic, index) = (&partition.topic.name, partition.index);
        let tended = match backed_up {
            true => self.back_up(broker, partition, &mut pace).await,
            false => self.tend_now(broker, partition, &mut pace).await,
        };
        match tended {
            Ok(()) => {
                if pace.trouble.take().is_some() {
                    tracing::info!(%topic, partition = index, "the bucket takes the partition again");
                }
                (pace.pause_ms, pace.next_ms) = (0, 0);
                let until_ms = pace.rests_until(&partition.cold, &self.settings);
                let rest = seen.map(|seen| Rest {
                    seen: Some(seen),
                    until_ms,
                });
                partition.cold.rest(rest);
                partition.cold.troubled.store(false, Ordering::Release);
            }
            Err(Trouble::NotLed | Trouble::NotNamed | Trouble::Deleted) => {}
            Err(trouble) => {
                broker.metrics.tier_failed(trouble.outcome());
                let text = trouble.to_string();
                if pace.trouble.as_ref() != Some(&text) {
                    tracing::warn!(%topic, partition = index, error = text, "not uploaded; local records stay");
                }
                *lock(&self.trouble) = Some(format!("{topic}-{index}: {text}"));
                pace.trouble = Some(text);
                // Something may have been left behind.
                pace.sweep = Sweep::default();
                pace.pause_ms = longer(pace.pause_ms);
                pace.failed_ms = clock::steady_ms();
                pace.next_ms = pace.failed_ms + jittered(pace.pause_ms);
                partition.cold.rest(Some(Rest {
                    seen: None,
                    until_ms: pace.next_ms,
                }));
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
        while let Some(due) = self.due(partition, &known, pace)? {
            self.check_named(partition, &known).await?;
            known = match due {
                Due::Skip(to) => {
                    let now_ms = clock::now_ms();
                    let skip = |next: &mut Manifest| next.raise_start(to, now_ms);
                    self.write(partition, &known, skip).await?
                }
                Due::Upload(to) => {
                    let Some(entry) = self.upload(broker, partition, &known, to).await? else {
                        break;
                    };
                    self.write(partition, &known, |next| next.append(entry))
                        .await?
                }
            };
        }
        let now_ms = clock::steady_ms();
        if now_ms >= pace.retention_due_ms {
            let interval_ms = broker.settings().log_retention_check_interval_ms;
            pace.retention_due_ms = now_ms + interval_ms.min(RETENTION_MS);
            known = self.expire(partition, known).await?;
            known = self.sweep(partition, known).await?;
        }
        self.sweep_orphans(partition, &known, pace).await
    }

    /// Makes sure that a restore knows of what gets its first manifest.
    pub(super) async fn check_named(
        &self,
        partition: &Partition,
        known: &Known,
    ) -> Result<(), Trouble> {
        match known.crc32.is_some() || self.is_named(id_of(partition)).await? {
            true => Ok(()),
            false => Err(Trouble::NotNamed),
        }
    }

    /// The newest manifest, which the leader of `epoch` may follow with its own; the first one, of a
    /// log that begins at `start`, where there is none.
    pub(super) async fn newest(
        &self,
        partition: &Arc<Partition>,
        epoch: LeaderEpoch,
        start: i64,
    ) -> Result<Known, Trouble> {
        let id = id_of(partition);
        let writer = self.writer(epoch)?;
        let since_ms = partition.replicas_now_ms();
        let (manifest, crc32) = match self.bucket.first_key(&id.manifests()).await? {
            None => (
                Manifest::first(&partition.topic.name, id, writer, start),
                None,
            ),
            Some(key) => {
                let (manifest, crc32) = self.bucket.manifest(id, &key).await?;
                // Who counts for more has led since: it is not for this leader to say what counts.
                manifest.succeed(writer, crc32)?;
                (manifest, Some(crc32))
            }
        };
        Ok(Known {
            epoch,
            look_again: false,
            manifest: Arc::new(manifest),
            crc32,
            since_ms,
        })
    }

    /// Where the partition stands in the bucket. A new leader first cuts off what it never had.
    async fn find_out(
        &self,
        partition: &Arc<Partition>,
        epoch: LeaderEpoch,
    ) -> Result<Known, Trouble> {
        if let Some(known) = partition.cold.known().filter(|known| known.is_of(epoch)) {
            return Ok(known);
        }
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
        let known = self.newest(partition, epoch, log_start).await?;
        if known.crc32.is_none() {
            self.publish(partition, &known);
            return Ok(known);
        }
        // What a cluster wrote last that this one was restored from is none of this log's.
        let ours = known.manifest.writer.generation >= self.writer(epoch)?.generation;
        let end = known.manifest.end_offset;
        if ours && log_start == log_end && log_end < end {
            return Err(Trouble::Empty { end, log_end });
        }
        let end_of = |epoch| {
            let end = ends.iter().find(|(known, _)| *known == epoch);
            end.map(|(_, end)| *end)
        };
        let now_ms = clock::now_ms();
        let cut = |manifest: &mut Manifest| manifest.cut_to_lineage(log_start, end_of, now_ms);
        let mut after = (*known.manifest).clone();
        if cut(&mut after) {
            tracing::warn!(
                topic = %partition.topic, partition = partition.index,
                from = after.end_offset, to = known.manifest.end_offset,
                "the bucket has records that this leader never had: they do not count any more"
            );
            return self
                .write(partition, &known, |next| {
                    cut(next);
                })
                .await;
        }
        self.publish(partition, &known);
        Ok(known)
    }

    /// What comes next: an object up to the end of a segment, or of all that is committed when that
    /// has waited long enough.
    fn due(
        &self,
        partition: &Partition,
        known: &Known,
        pace: &mut Pace,
    ) -> Result<Option<Due>, Trouble> {
        let end = known.manifest.end_offset;
        let looked = partition.with_log(|log, high_watermark| {
            let upper = (*high_watermark).min(log.durable_offset());
            let sealed = log.sealed_end(end, upper);
            (log.log_start_offset(), upper, sealed)
        });
        let (log_start, upper, sealed) = looked.map_err(|_| Trouble::NotLed)?;
        if log_start > end {
            return Ok(Some(Due::Skip(log_start)));
        }
        let now_ms = clock::steady_ms();
        if pace.end != end {
            // What waited is there; what came since begins to wait.
            pace.end = end;
            partition.cold.is_behind(false, now_ms);
        }
        let since_ms = partition.cold.is_behind(upper > end, now_ms);
        if upper <= end {
            return Ok(None);
        }
        let late = now_ms - since_ms >= self.settings.upload_max_lag_ms;
        Ok(sealed.or(late.then_some(upper)).map(Due::Upload))
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
        let from = known.manifest.end_offset;
        let writer = self.writer(known.epoch)?;
        let mut upload = Upload::new(
            &self.bucket,
            (&partition.topic.name, id_of(partition)),
            from,
            (writer.generation, writer.leader_epoch),
        );
        let filled = match fill(partition, &mut upload, to).await {
            Ok(()) if upload.end_offset() == from => Ok(false),
            // What was read belongs to that leadership.
            Ok(()) => match led(partition) {
                Ok(epoch) if epoch == known.epoch => Ok(true),
                _ => Err(Trouble::NotLed),
            },
            Err(trouble) => Err(trouble),
        };
        if !matches!(filled, Ok(true)) {
            upload.abort().await;
            return filled.map(|_| None);
        }
        let entry = upload.finish().await?;
        broker.metrics.tier_uploaded(entry.size_bytes);
        tracing::debug!(
            topic = %partition.topic, partition = partition.index,
            from = entry.base_offset, to = entry.end_offset, bytes = entry.size_bytes, "uploaded"
        );
        Ok(Some(entry))
    }

    /// Writes the next manifest.
    pub(super) async fn write(
        &self,
        partition: &Arc<Partition>,
        known: &Known,
        change: impl FnOnce(&mut Manifest),
    ) -> Result<Known, Trouble> {
        let id = id_of(partition);
        let writer = self.writer(known.epoch)?;
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
            let crc32 = self
                .bucket
                .put_document(&id.chunk(chunk_id), &chunk)
                .await?;
            next.moved(&chunk, chunk_id, crc32);
        }
        let key = id.manifest(next.sequence);
        next.check(&key)?;
        self.check_owner().await?;
        if led(partition)? != known.epoch {
            return Err(Trouble::NotLed);
        }
        let attempts = &partition.cold.attempts;
        attempts.fetch_max(next.sequence + 1, Ordering::AcqRel);
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
            look_again: false,
            manifest: Arc::new(next),
            crc32: Some(crc32),
            since_ms,
        };
        self.publish(partition, &known);
        Ok(known)
    }

    pub(super) fn publish(&self, partition: &Partition, known: &Known) {
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

    /// Moves the start up to `offset` in the bucket (DeleteRecords), if it has anything.
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
            // Above what it has, it is empty there.
            let now_ms = clock::now_ms();
            self.write(partition, &known, |next| next.raise_start(offset, now_ms))
                .await
                .map(|_| ())
        };
        moved.await.map_err(|trouble: Trouble| {
            partition.cold.look_again();
            trouble.to_string()
        })
    }
}

/// Reads records of the local log into an upload, up to `to` or as many as a segment holds.
async fn fill(partition: &Partition, upload: &mut Upload, to: i64) -> Result<(), Trouble> {
    let most_bytes = u64::from(partition.policy().log.segment_bytes);
    while upload.end_offset() < to && upload.log_bytes() < most_bytes {
        let next = upload.end_offset();
        let plan = partition.with_log(|log, _| log.read_plan(next, READ_BYTES, to, true));
        let loaded = match plan.map_err(|_| Trouble::NotLed)? {
            Ok(plan) => task::blocking(move || plan.load())
                .await
                .map_err(|error| Trouble::Log(error.to_string()))?,
            Err(error) => Err(error),
        };
        let loaded = loaded.map_err(|error| match error {
            ReadError::OutOfRange { log_start, .. } if log_start > next => Trouble::Deleted,
            error => Trouble::Log(error.to_string()),
        })?;
        if loaded.records.is_empty() {
            break;
        }
        upload.add(&loaded.records).await?;
    }
    Ok(())
}

pub(super) fn led(partition: &Partition) -> Result<LeaderEpoch, Trouble> {
    let led = partition.leading(ANY_EPOCH);
    led.map(|(epoch, _)| epoch).map_err(|_| Trouble::NotLed)
}
