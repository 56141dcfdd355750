//! Steps that append and read.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tidemark_log::AppendError;
use tidemark_records::{Batch, BatchBuilder, BatchOptions, RecordRef, patch};
use tidemark_wal::{LogId, Member};

use super::Done;
use crate::check;
use crate::directory::NOW_MS;
use crate::history::{HeldRead, World};
use crate::shadow::Change;

/// Producers of each log.
const PRODUCERS: i64 = 3;

/// What a batch is to be like.
pub(crate) struct Spec {
    records: u64,
    value_bytes: u64,
    producer: Option<(i64, i16, i32)>,
    base_offset: i64,
    epoch: i32,
}

impl World {
    pub(crate) fn batch(&mut self, spec: &Spec) -> Result<Batch, String> {
        let (producer_id, producer_epoch, base_sequence) = spec.producer.unwrap_or((-1, -1, -1));
        let mut builder = BatchBuilder::new(BatchOptions {
            producer_id,
            producer_epoch,
            base_sequence,
            base_offset: spec.base_offset,
            partition_leader_epoch: spec.epoch,
            ..BatchOptions::default()
        });
        for _ in 0..spec.records {
            let mut value = vec![0; usize::try_from(spec.value_bytes).unwrap_or(1)];
            let random = self.random.number().to_le_bytes();
            for (at, byte) in value.iter_mut().enumerate() {
                *byte = random[at % 8];
            }
            let timestamp_ms = NOW_MS - self.random.between(0, 5000);
            builder
                .append(&RecordRef {
                    timestamp_ms,
                    key: None,
                    value: Some(&value),
                    headers: &[],
                })
                .map_err(|error| error.to_string())?;
        }
        let mut bytes = builder.build().map_err(|error| error.to_string())?;
        Batch::split_first(&mut bytes)
            .map_err(|error| error.to_string())?
            .ok_or_else(|| "no batch".to_owned())
    }

    pub(crate) fn size(&mut self) -> u64 {
        match self.random.below(30) {
            0 if self.sizes.log.segment_bytes > 10_000 => 8_000 + self.random.below(4_000),
            0..6 => 300 + self.random.below(1200),
            _ => 1 + self.random.below(150),
        }
    }

    /// A leader's append: of somebody without idempotence, of a producer that goes on,
    /// sends again, leaves a gap, or begins a new epoch.
    pub(crate) fn append(&mut self) -> Done {
        let Some(id) = self.pick() else { return Ok(()) };
        let Some((_, shadow)) = self.parts(id) else {
            return Ok(());
        };
        let epoch = shadow.now.latest_epoch().max(0);
        let producers = shadow.now.producers();
        let producer = self.random.between(0, PRODUCERS - 1);
        let entry = producers.get(producer);
        let own = entry.map_or(0, |entry| entry.epoch);
        let next = entry.map_or(0, |entry| entry.last_sequence().wrapping_add(1).max(0));
        let kind = self.random.below(20);
        if kind < 3 {
            return self.send_again(id);
        }
        let gap = kind == 3 && entry.is_some();
        let idempotent = match kind {
            3 if gap => Some((producer, own, next.saturating_add(2))),
            4 => Some((producer, own.saturating_add(1), 0)),
            5..11 => Some((producer, own, next)),
            _ => None,
        };
        let value_bytes = self.size();
        let spec = Spec {
            records: 1 + self.random.below(if value_bytes > 300 { 1 } else { 4 }),
            value_bytes,
            producer: idempotent,
            base_offset: 0,
            epoch: -1,
        };
        let batch = self.batch(&spec)?;
        let Some((up, shadow)) = self.parts(id) else {
            return Ok(());
        };
        let expected = shadow.now.end;
        let Some(open) = up.logs.get_mut(&id) else {
            return Ok(());
        };
        let mut lsn = 0;
        let inbox = Arc::clone(&open.inbox);
        let appended = open.log.append_as_leader(&batch, epoch, NOW_MS, |at| {
            lsn = at;
            Some(inbox as Arc<dyn Member>)
        });
        match appended {
            Ok(_) if gap => Err(format!("I15: a gap of producer {producer} was taken")),
            Ok(appended) => {
                if appended.duplicate || appended.base_offset != expected {
                    return Err(format!("I3: appended at {expected}, and got {appended:?}"));
                }
                let mut bytes = batch.bytes.to_vec();
                patch::set_base_offset(&mut bytes, appended.base_offset)
                    .and_then(|()| patch::set_partition_leader_epoch(&mut bytes, epoch))
                    .map_err(|error| error.to_string())?;
                let stored = check::split(bytes.into())?.remove(0);
                self.say(|| format!("append to {}: {expected} in group {lsn}", id.0));
                self.note(id, lsn, Change::Append(stored));
                Ok(())
            }
            Err(AppendError::OutOfOrderSequence { .. }) if gap => Ok(()),
            Err(error) => self.trouble("append", &error),
        }
    }

    /// A batch that is in the log is sent once more.
    pub(crate) fn send_again(&mut self, id: LogId) -> Done {
        let back = self.random.index(8);
        let Some((up, shadow)) = self.parts(id) else {
            return Ok(());
        };
        let sent = shadow.now.batches.iter().rev();
        let Some(original) = sent.filter(|b| b.header.has_producer_id()).nth(back) else {
            return Ok(());
        };
        let original = original.clone();
        let newest = shadow
            .now
            .producers()
            .get(original.header.producer_id)
            .and_then(|entry| entry.last_batch())
            .is_some_and(|last| last.last_offset == original.header.last_offset());
        let epoch = shadow.now.latest_epoch().max(0);
        let Some(open) = up.logs.get_mut(&id) else {
            return Ok(());
        };
        match open
            .log
            .append_as_leader(&original, epoch, NOW_MS, |_| None)
        {
            Ok(again) if again.duplicate => {
                let header = &original.header;
                if (again.base_offset, again.last_offset)
                    != (header.base_offset, header.last_offset())
                {
                    return Err(format!("I15: a duplicate of {header:?} is {again:?}"));
                }
                self.saw("duplicate");
                Ok(())
            }
            Ok(again) => Err(format!(
                "I15: {:?} is twice in the log: {again:?}",
                original.header
            )),
            Err(
                AppendError::OutOfOrderSequence { .. } | AppendError::InvalidProducerEpoch { .. },
            ) if !newest => Ok(()),
            Err(error) => self.trouble("append again", &error),
        }
    }

    pub(crate) fn append_as_follower(&mut self) -> Done {
        let Some(id) = self.pick() else { return Ok(()) };
        let Some((_, shadow)) = self.parts(id) else {
            return Ok(());
        };
        let mut at = shadow.now.end;
        let mut epoch = shadow.now.latest_epoch().max(0);
        let mut bytes = BytesMut::new();
        for _ in 0..1 + self.random.below(4) {
            epoch += i32::from(self.random.one_in(6));
            let spec = Spec {
                records: 1 + self.random.below(3),
                value_bytes: 1 + self.random.below(120),
                producer: None,
                base_offset: at,
                epoch,
            };
            let batch = self.batch(&spec)?;
            at = batch.header.next_offset();
            bytes.extend_from_slice(&batch.bytes);
        }
        let bytes = bytes.freeze();
        let Some((up, _)) = self.parts(id) else {
            return Ok(());
        };
        let Some(open) = up.logs.get_mut(&id) else {
            return Ok(());
        };
        let mut lsns = Vec::new();
        let inbox = Arc::clone(&open.inbox);
        let appended = open.log.append_as_follower(&bytes, NOW_MS, |lsn| {
            let known = lsns.last() == Some(&lsn);
            lsns.push(lsn);
            (!known).then(|| Arc::clone(&inbox) as Arc<dyn Member>)
        });
        self.say(|| format!("follow in {}: groups {lsns:?}", id.0));
        for (batch, lsn) in check::split(bytes)?.into_iter().zip(lsns) {
            self.note(id, lsn, Change::Append(batch));
        }
        match appended {
            Ok(_) => Ok(()),
            Err(error) => self.trouble("follow", &error),
        }
    }

    pub(crate) fn plan_read(&mut self) -> Done {
        let Some(id) = self.pick() else { return Ok(()) };
        let mut random = self.random.clone();
        self.random.number();
        let Some((up, shadow)) = self.parts(id) else {
            return Ok(());
        };
        let Some(open) = up.logs.get(&id) else {
            return Ok(());
        };
        let log = &open.log;
        let durable = log.durable_offset();
        let offset = random.between(log.log_start_offset(), durable);
        let expected = shadow.now.batches.iter();
        let expected = expected
            .filter(|batch| batch.header.last_offset() >= offset)
            .filter(|batch| batch.header.next_offset() <= durable)
            .cloned()
            .collect();
        let max_bytes = random.index(3000);
        let plan = log
            .read_plan(offset, max_bytes, durable, true)
            .map_err(|error| format!("a read at {offset} cannot be planned: {error}"))?;
        self.reads.push(HeldRead { plan, expected });
        Ok(())
    }

    pub(crate) fn read(&mut self) -> Done {
        let index = self.random.index(self.reads.len());
        if self.reads.is_empty() {
            return Ok(());
        }
        let held = self.reads.swap_remove(index);
        match held.plan.load() {
            Ok(read) => {
                self.saw("read");
                same(read.records, &held.expected)
            }
            Err(tidemark_log::ReadError::Stale) => {
                self.saw("stale read");
                Ok(())
            }
            Err(error) => self.trouble("read", &error),
        }
    }
}

/// What was read must be the beginning of what lay there.
fn same(records: Bytes, expected: &[Batch]) -> Done {
    let found = check::split(records)?;
    match found.len() <= expected.len() && found[..] == expected[..found.len()] {
        true => Ok(()),
        false => Err(format!(
            "I9: a read gives {:?} where {:?} lay",
            found
                .iter()
                .map(|batch| batch.header.base_offset)
                .collect::<Vec<_>>(),
            expected
                .iter()
                .map(|batch| batch.header.base_offset)
                .collect::<Vec<_>>()
        )),
    }
}
