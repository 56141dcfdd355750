//! The log against a model: a list of batches, under random operations, crashes and
//! torn writes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use tidemark_env::disk::{Disk, FileDisk, MemDisk};

use super::basics::{Spec, batch};
use super::*;
use crate::{AppendError, Producers, TimestampTarget};

#[derive(Debug, Clone)]
enum Op {
    Append {
        records: usize,
        value_bytes: usize,
        producer: Option<u8>,
        epoch_bump: bool,
        late_ms: i64,
    },
    Resend {
        producer: u8,
        back: usize,
    },
    Gap {
        producer: u8,
    },
    Flush,
    Checkpoint,
    Settle,
    ReleaseIdle,
    Read {
        offset: u64,
        max_bytes: usize,
        upper: u64,
    },
    ByTime {
        late_ms: i64,
    },
    MaxTime,
    DeleteRecords {
        offset: u64,
    },
    Retain {
        bytes: u64,
    },
    Truncate {
        offset: u64,
    },
    Reset {
        offset: i64,
    },
    Close,
    Kill,
    PowerCut {
        seed: u64,
    },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => (1usize..6, 1usize..300, prop::option::of(0u8..3), prop::bool::weighted(0.1), 0i64..5000).prop_map(
            |(records, value_bytes, producer, epoch_bump, late_ms)| Op::Append { records, value_bytes, producer, epoch_bump, late_ms }),
        2 => (0u8..3, 0usize..7).prop_map(|(producer, back)| Op::Resend { producer, back }),
        1 => (0u8..3).prop_map(|producer| Op::Gap { producer }),
        4 => Just(Op::Flush),
        2 => Just(Op::Checkpoint),
        3 => Just(Op::Settle),
        1 => Just(Op::ReleaseIdle),
        4 => (any::<u64>(), 0usize..3000, any::<u64>()).prop_map(|(offset, max_bytes, upper)| Op::Read { offset, max_bytes, upper }),
        2 => (0i64..5000).prop_map(|late_ms| Op::ByTime { late_ms }),
        1 => Just(Op::MaxTime),
        1 => any::<u64>().prop_map(|offset| Op::DeleteRecords { offset }),
        1 => (0u64..4000).prop_map(|bytes| Op::Retain { bytes }),
        1 => any::<u64>().prop_map(|offset| Op::Truncate { offset }),
        1 => (0i64..1000).prop_map(|offset| Op::Reset { offset }),
        1 => Just(Op::Close),
        1 => Just(Op::Kill),
        2 => any::<u64>().prop_map(|seed| Op::PowerCut { seed }),
    ]
}

/// What the log should hold: every batch with its final offsets.
#[derive(Debug, Default, Clone)]
struct Model {
    batches: Vec<Batch>,
    log_start: i64,
    end: i64,
}

impl Model {
    fn live(&self) -> impl Iterator<Item = &Batch> {
        self.batches
            .iter()
            .filter(|batch| batch.header.last_offset() >= self.log_start)
    }

    /// The producers as the function of all batches that they are.
    fn producers(&self) -> Producers {
        let mut producers = Producers::default();
        for batch in &self.batches {
            producers.record(&batch.header, NOW_MS);
        }
        producers
    }

    fn truncate(&mut self, offset: i64) -> i64 {
        self.batches
            .retain(|batch| batch.header.last_offset() < offset);
        let end = self.batches.last().map(|batch| batch.header.next_offset());
        match end {
            Some(end) if end >= self.log_start => self.end = end,
            // Nothing is left that could be read: the log is reset.
            _ => {
                self.batches.clear();
                self.end = self.log_start;
            }
        }
        self.end
    }

    fn first_at(&self, from_ms: i64, upper: i64) -> Option<(i64, i64)> {
        self.live()
            .flat_map(|batch| batch.records(Default::default()).unwrap())
            .map(|record| record.unwrap())
            .find(|record| record.offset >= self.log_start && record.timestamp_ms >= from_ms)
            .filter(|record| record.offset < upper)
            .map(|record| (record.offset, record.timestamp_ms))
    }
}

struct World {
    disk: Arc<dyn Disk>,
    memory: Option<MemDisk>,
    dir: PathBuf,
    config: LogConfig,
    log: Option<TestLog>,
    model: Model,
    sequences: BTreeMap<u8, i32>,
    epoch: i32,
}

impl World {
    fn log(&mut self) -> &mut TestLog {
        self.log.as_mut().unwrap()
    }

    fn reopen(&mut self) -> Recovery {
        let (log, recovery) = open_in(self.disk.clone(), self.dir.clone(), &self.config).unwrap();
        self.log = Some(log);
        recovery
    }

    fn send(&mut self, spec: &Spec) -> Result<(crate::Appended, Batch), AppendError> {
        let epoch = self.epoch;
        let sent = batch(spec);
        let appended = self.log().append_as_leader(&sent, epoch, NOW_MS)?;
        let mut bytes = sent.bytes.to_vec();
        tidemark_records::patch::set_base_offset(&mut bytes, appended.base_offset).unwrap();
        tidemark_records::patch::set_partition_leader_epoch(&mut bytes, epoch).unwrap();
        let stored = Batch::split_first(&mut Bytes::from(bytes))
            .unwrap()
            .unwrap();
        Ok((appended, stored))
    }

    /// After a crash the log is the model cut at some batch, not below `durable`.
    fn after_crash(&mut self, durable: i64) {
        let log = self.log.as_ref().unwrap();
        let (end, start) = (log.end_offset(), log.log_start_offset());
        assert!(
            end >= durable,
            "end {end} below the reported durable {durable}"
        );
        assert!(end <= self.model.end, "{end} {}", self.model.end);
        assert_eq!(log.durable_offset(), end);
        self.model
            .batches
            .retain(|batch| batch.header.last_offset() < end);
        self.model.end = end;
        // Retention without a checkpoint may be undone: more is there, never less.
        assert!(start <= self.model.log_start.min(end));
        let first = self
            .model
            .batches
            .first()
            .map_or(end, |batch| batch.header.base_offset);
        self.model.log_start = start.max(first).min(end);
        assert_eq!(self.model.log_start, start);
        self.sequences.clear();
        for entry in self.model.producers().iter() {
            self.sequences.insert(
                entry.producer_id as u8,
                entry.last_sequence().wrapping_add(1).max(0),
            );
        }
    }

    fn check(&mut self) {
        let model = self.model.clone();
        let log = self.log();
        assert_eq!(log.end_offset(), model.end);
        assert_eq!(log.log_start_offset(), model.log_start);
        assert!(log.log_start_offset() <= log.durable_offset());
        assert!(log.durable_offset() <= log.end_offset());
        let found = read_all(log, model.log_start);
        let durable = log.durable_offset();
        let expected: Vec<Batch> = model
            .live()
            .filter(|batch| batch.header.next_offset() <= durable)
            .cloned()
            .collect();
        assert_eq!(found, expected);
        let mut epoch = i32::MIN;
        for batch in &found {
            assert!(batch.header.partition_leader_epoch >= epoch, "I3");
            epoch = batch.header.partition_leader_epoch;
            assert_eq!(
                log.epochs().epoch_at(batch.header.last_offset()),
                Some(epoch)
            );
        }
    }

    fn check_producers(&mut self) {
        let expected = self.model.producers();
        assert_eq!(self.log().producers(), &expected, "I15");
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Append {
                records,
                value_bytes,
                producer,
                epoch_bump,
                late_ms,
            } => {
                self.epoch += i32::from(epoch_bump);
                let producer = producer.map(|id| (id, *self.sequences.entry(id).or_default()));
                let spec = Spec {
                    records,
                    value_bytes,
                    timestamp_ms: NOW_MS - late_ms,
                    producer: producer.map(|(id, sequence)| (i64::from(id), 0, sequence)),
                    ..Spec::default()
                };
                let (appended, stored) = self.send(&spec).unwrap();
                assert!(!appended.duplicate);
                assert_eq!(appended.base_offset, self.model.end);
                if let Some((id, sequence)) = producer {
                    self.sequences.insert(id, sequence + records as i32);
                }
                self.model.end = stored.header.next_offset();
                self.model.batches.push(stored);
            }
            Op::Resend { producer, back } => {
                let sent: Vec<Batch> = self
                    .model
                    .batches
                    .iter()
                    .filter(|batch| batch.header.producer_id == i64::from(producer))
                    .cloned()
                    .collect();
                let Some(original) = sent
                    .len()
                    .checked_sub(back + 1)
                    .map(|index| sent[index].clone())
                else {
                    return;
                };
                let epoch = self.epoch;
                let again = self.log().append_as_leader(&original, epoch, NOW_MS);
                if back < 5 {
                    let again = again.unwrap();
                    assert!(again.duplicate);
                    assert_eq!(
                        (again.base_offset, again.last_offset),
                        (original.header.base_offset, original.header.last_offset())
                    );
                } else {
                    assert!(
                        matches!(again, Err(AppendError::OutOfOrderSequence { .. })),
                        "{again:?}"
                    );
                }
            }
            Op::Gap { producer } => {
                let known = self.model.producers().get(i64::from(producer)).is_some();
                let next = *self.sequences.entry(producer).or_default();
                let spec = Spec {
                    producer: Some((i64::from(producer), 0, next + 1)),
                    ..Spec::default()
                };
                if known {
                    assert!(matches!(
                        self.send(&spec),
                        Err(AppendError::OutOfOrderSequence { .. })
                    ));
                }
            }
            Op::Flush => {
                flush(self.log());
                assert_eq!(self.log().durable_offset(), self.model.end);
            }
            Op::Checkpoint => self.log().checkpoint(),
            Op::Settle => self.log().settle().unwrap(),
            Op::ReleaseIdle => self.log().release_idle(),
            Op::Read {
                offset,
                max_bytes,
                upper,
            } => self.read(offset, max_bytes, upper),
            Op::ByTime { late_ms } => {
                let target = NOW_MS - late_ms;
                let end = self.log().durable_offset();
                let found = self
                    .log()
                    .timestamp_plan(TimestampTarget::AtOrAfter(target), end)
                    .run()
                    .unwrap();
                assert_eq!(
                    found.map(|found| (found.offset, found.timestamp_ms)),
                    self.model.first_at(target, end)
                );
            }
            Op::MaxTime => {
                let end = self.log().durable_offset();
                let found = self
                    .log()
                    .timestamp_plan(TimestampTarget::Max, end)
                    .run()
                    .unwrap();
                let max = self
                    .model
                    .live()
                    .filter(|batch| batch.header.next_offset() <= end)
                    .map(|batch| batch.header.max_timestamp_ms)
                    .max();
                let expected = max.and_then(|max| self.model.first_at(max, end));
                assert_eq!(
                    found.map(|found| (found.offset, found.timestamp_ms)),
                    expected
                );
            }
            Op::DeleteRecords { offset } => {
                let durable = self.log().durable_offset();
                let start = self.model.log_start;
                let offset = start + (offset % ((durable - start) as u64 + 1)) as i64;
                self.log().delete_records(offset).unwrap();
                self.model.log_start = offset;
            }
            Op::Retain { bytes } => {
                self.log().settle().unwrap();
                let mut config = self.config.clone();
                config.retention_bytes = bytes as i64;
                self.log().set_config(Arc::new(config));
                let durable = self.log().durable_offset();
                self.log().apply_retention(NOW_MS, durable).unwrap();
                let start = self.log().log_start_offset();
                assert!(start >= self.model.log_start && start <= durable);
                self.model.log_start = start;
                let config = Arc::new(self.config.clone());
                self.log().set_config(config);
                if let Some(deletions) = self.log().take_due_deletions(NOW_MS + 60_000) {
                    deletions.run();
                }
            }
            Op::Truncate { offset } => {
                let start = self.model.log_start;
                let offset = start + (offset % ((self.model.end - start) as u64 + 1)) as i64;
                let before = self.log().generation();
                let changed = offset < self.model.end;
                let end = self.log().truncate_to(offset, NOW_MS).unwrap();
                if changed {
                    assert_eq!(end, self.model.truncate(offset));
                    assert!(self.log().generation() > before);
                }
                self.resync_sequences();
            }
            Op::Reset { offset } => {
                self.log().truncate_fully(offset, NOW_MS).unwrap();
                self.model = Model {
                    batches: Vec::new(),
                    log_start: offset,
                    end: offset,
                };
                self.resync_sequences();
            }
            Op::Close => {
                self.log.take().unwrap().close(NOW_MS).unwrap();
                if let Some(memory) = &self.memory {
                    memory.crash();
                }
                let recovery = self.reopen();
                assert!(recovery.clean, "{recovery:?}");
            }
            Op::Kill => {
                // kill -9: nothing written is lost.
                let durable = self.log().durable_offset();
                self.log = None;
                self.reopen();
                assert_eq!(self.log().end_offset(), durable);
                self.after_crash(durable);
            }
            Op::PowerCut { seed } => {
                let Some(memory) = self.memory.clone() else {
                    return;
                };
                let durable = self.log().durable_offset();
                self.log = None;
                memory.crash_with_seed(seed);
                self.reopen();
                self.after_crash(durable);
                // Recovery is idempotent: once more gives the same.
                let end = self.model.end;
                self.log = None;
                memory.crash();
                self.reopen();
                assert_eq!(self.log().end_offset(), end);
            }
        }
    }

    fn resync_sequences(&mut self) {
        self.sequences.clear();
        for entry in self.model.producers().iter() {
            self.sequences
                .insert(entry.producer_id as u8, entry.last_sequence() + 1);
        }
    }

    fn read(&mut self, offset: u64, max_bytes: usize, upper: u64) {
        let (start, end) = (self.model.log_start, self.model.end);
        let span = (end - start) as u64 + 1;
        let offset = start + (offset % span) as i64;
        let upper = (start + (upper % span) as i64).min(self.log().durable_offset());
        let read = self
            .log()
            .read_plan(offset, max_bytes, upper, true)
            .unwrap()
            .load()
            .unwrap();
        let mut expected = Vec::new();
        let mut size = 0;
        for batch in self
            .model
            .live()
            .filter(|batch| batch.header.last_offset() >= offset)
        {
            let fits = expected.is_empty() || size + batch.bytes.len() <= max_bytes;
            if offset >= upper || batch.header.next_offset() > upper || !fits {
                break;
            }
            size += batch.bytes.len();
            expected.push(batch.clone());
        }
        let found = split(read.records);
        // A read may stop at the end of a segment, but not before the first batch.
        assert!(found.len() <= expected.len(), "{found:?} {expected:?}");
        assert_eq!(found[..], expected[..found.len()]);
        assert_eq!(found.is_empty(), expected.is_empty());
        let next = found
            .last()
            .map_or(offset, |batch| batch.header.next_offset());
        assert_eq!(read.next_offset, next);
    }
}

fn run(disk: Arc<dyn Disk>, memory: Option<MemDisk>, dir: &Path, ops: &[Op]) {
    let config = LogConfig {
        segment_bytes: 2500,
        index_interval_bytes: 300,
        retention_ms: -1,
        ..LogConfig::default()
    };
    let mut world = World {
        disk,
        memory,
        dir: dir.to_owned(),
        config,
        log: None,
        model: Model::default(),
        sequences: BTreeMap::new(),
        epoch: 0,
    };
    world.reopen();
    let mut lost_history = false;
    for op in ops {
        world.apply(op);
        world.check();
        // Producers forget nothing when old records go, but what a reopened log knows
        // of records before its first segment comes from a snapshot.
        lost_history |= matches!(op, Op::Retain { .. });
        if !lost_history {
            world.check_producers();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn the_log_in_memory_does_what_the_model_does(ops in prop::collection::vec(op(), 1..60)) {
        let disk = memory_disk();
        run(Arc::new(disk.clone()), Some(disk), &dir(), &ops);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_log_on_real_files_does_what_the_model_does(ops in prop::collection::vec(op(), 1..40)) {
        let root = tempfile::tempdir().unwrap();
        run(Arc::new(FileDisk::new()), None, &root.path().join("topic-0"), &ops);
    }
}
