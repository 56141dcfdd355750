//! Append, read, flush, reopen.

use super::*;
use crate::{AppendError, ReadError};
use tidemark_records::{BatchOptions, Compression, RecordRef};

pub(crate) struct Spec {
    pub(crate) records: usize,
    pub(crate) value_bytes: usize,
    pub(crate) timestamp_ms: i64,
    pub(crate) producer: Option<(i64, i16, i32)>,
    pub(crate) compression: Compression,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            records: 1,
            value_bytes: 10,
            timestamp_ms: NOW_MS,
            producer: None,
            compression: Compression::None,
        }
    }
}

/// A batch as a producer sends it; record `n` has timestamp `timestamp_ms + n`.
pub(crate) fn batch(spec: &Spec) -> Batch {
    let (producer_id, producer_epoch, base_sequence) = spec.producer.unwrap_or((-1, -1, -1));
    let mut builder = BatchBuilder::new(BatchOptions {
        compression: spec.compression,
        producer_id,
        producer_epoch,
        base_sequence,
        ..BatchOptions::default()
    });
    let value = vec![b'v'; spec.value_bytes];
    for index in 0..spec.records {
        builder
            .append(&RecordRef {
                timestamp_ms: spec.timestamp_ms + index as i64,
                key: None,
                value: Some(&value),
                headers: &[],
            })
            .unwrap();
    }
    let mut bytes = builder.build().unwrap();
    Batch::split_first(&mut bytes).unwrap().unwrap()
}

pub(crate) fn records(records: usize) -> Batch {
    batch(&Spec {
        records,
        ..Spec::default()
    })
}

#[test]
fn appended_batches_are_read_back_with_their_offsets_and_epochs() {
    let disk = memory_disk();
    let (mut log, recovery) = open(&disk, &LogConfig::default()).unwrap();
    assert!(recovery.created);
    let first = log.append_as_leader(&records(3), 0, NOW_MS).unwrap();
    let second = log.append_as_leader(&records(2), 4, NOW_MS).unwrap();
    assert_eq!((first.base_offset, first.last_offset), (0, 2));
    assert_eq!((second.base_offset, second.last_offset), (3, 4));
    assert_eq!((log.end_offset(), log.durable_offset()), (5, 0));
    assert!(read_all(&log, 0).is_empty(), "nothing is durable yet");
    flush(&mut log);
    assert_eq!(log.durable_offset(), 5);
    let batches = read_all(&log, 0);
    assert_eq!(batches.len(), 2);
    assert_eq!(batches[1].header.base_offset, 3);
    assert_eq!(batches[1].header.partition_leader_epoch, 4);
    assert_eq!(log.end_offset_for_epoch(0).unwrap().end_offset, 3);
    assert_eq!(log.end_offset_for_epoch(4).unwrap().end_offset, 5);
    assert!(log.end_offset_for_epoch(5).is_none());
    assert!(!log.wal.write_next(), "nothing is left to be flushed");
}

#[test]
fn an_append_touches_no_file_and_a_flush_is_one_write() {
    let disk = memory_disk();
    let (mut log, _) = open(&disk, &LogConfig::default()).unwrap();
    log.append_as_leader(&records(1), 0, NOW_MS).unwrap();
    flush(&mut log);
    let before = (disk.writes(), disk.reads());
    for _ in 0..100 {
        log.append_as_leader(&records(10), 0, NOW_MS).unwrap();
    }
    assert_eq!((disk.writes(), disk.reads()), before);
    flush(&mut log);
    assert_eq!((disk.writes(), disk.reads()), (before.0 + 1, before.1));
    // They are read from memory, and their segment gets them in one write.
    assert_eq!(read_all(&log, 0).len(), 101);
    assert_eq!((disk.writes(), disk.reads()), (before.0 + 1, before.1));
    let job = log.write_job(u64::MAX).unwrap();
    job.run().unwrap();
    log.written(job);
    assert_eq!(disk.writes(), before.0 + 2 + 2, "and two indexes");
    assert!(log.is_settled());
    assert_eq!(read_all(&log, 0).len(), 101);
}

#[test]
fn a_read_from_inside_a_batch_gives_the_whole_batch() {
    let disk = memory_disk();
    let (mut log, _) = open(&disk, &LogConfig::default()).unwrap();
    for _ in 0..3 {
        log.append_as_leader(&records(5), 0, NOW_MS).unwrap();
    }
    for written in [false, true] {
        flush(&mut log);
        if written {
            log.settle().unwrap();
        }
        reads_whole_batches(&log);
    }
}

fn reads_whole_batches(log: &Log) {
    let read = |offset, max_bytes, upper, whole| {
        log.read_plan(offset, max_bytes, upper, whole)
            .unwrap()
            .load()
            .unwrap()
    };
    let found = read(7, 1 << 20, 15, true);
    assert_eq!((found.first_offset, found.next_offset), (Some(5), 15));
    assert!(!found.more);
    assert_eq!(split(found.records).len(), 2);
    let size = records(5).bytes.len();
    let one = read(7, size + 1, 15, true);
    assert_eq!(
        (one.records.len(), one.next_offset, one.more),
        (size, 10, true)
    );
    let oversized = read(7, 1, 15, true);
    assert_eq!((oversized.records.len(), oversized.more), (size, true));
    let none = read(7, 1, 15, false);
    assert_eq!((none.records.len(), none.more), (0, true));
    let bounded = read(0, 1 << 20, 10, true);
    assert_eq!((bounded.next_offset, bounded.more), (10, false));
    let inside = read(0, 1 << 20, 9, true);
    assert_eq!(
        inside.next_offset, 5,
        "a batch is below the bound or not read"
    );
    assert!(log.read_plan(15, 100, 15, true).unwrap().is_empty());
    for offset in [-1, 16] {
        assert!(matches!(
            log.read_plan(offset, 100, 15, true),
            Err(ReadError::OutOfRange {
                log_start: 0,
                end: 15,
                ..
            })
        ));
    }
}

#[test]
fn a_clean_close_is_opened_without_a_scan() {
    let disk = memory_disk();
    let config = LogConfig {
        segment_bytes: 1000,
        ..LogConfig::default()
    };
    let (mut log, _) = open(&disk, &config).unwrap();
    for sequence in 0..40 {
        let spec = Spec {
            value_bytes: 100,
            producer: Some((7, 0, sequence)),
            ..Spec::default()
        };
        log.append_as_leader(&batch(&spec), 2, NOW_MS).unwrap();
    }
    flush(&mut log);
    let before = (
        read_all(&log, 0),
        log.producers().clone(),
        log.epochs().clone(),
    );
    assert!(log.segment_count() > 3);
    log.close(NOW_MS).unwrap();
    disk.crash();
    let (log, recovery) = open(&disk, &config).unwrap();
    assert!(recovery.clean, "{recovery:?}");
    assert_eq!((log.end_offset(), log.durable_offset()), (40, 40));
    assert_eq!(
        before,
        (
            read_all(&log, 0),
            log.producers().clone(),
            log.epochs().clone()
        )
    );
}

#[test]
fn what_was_flushed_survives_a_crash_and_the_rest_may_not() {
    let disk = memory_disk();
    let (mut log, _) = open(&disk, &LogConfig::default()).unwrap();
    log.append_as_leader(&records(3), 0, NOW_MS).unwrap();
    flush(&mut log);
    log.append_as_leader(&records(3), 1, NOW_MS).unwrap();
    disk.crash();
    let (log, recovery) = open(&disk, &LogConfig::default()).unwrap();
    assert!(!recovery.clean && !recovery.created, "{recovery:?}");
    assert_eq!((log.end_offset(), log.durable_offset()), (3, 3));
    assert_eq!(read_all(&log, 0).len(), 1);
    assert_eq!(log.epochs().latest(), Some(0));
}

#[test]
fn a_full_disk_keeps_records_in_memory_until_there_is_room() {
    let disk = memory_disk();
    let (mut log, _) = open(&disk, &LogConfig::default()).unwrap();
    log.append_as_leader(&records(3), 0, NOW_MS).unwrap();
    flush(&mut log);
    log.settle().unwrap();
    log.append_as_leader(&records(30), 0, NOW_MS).unwrap();
    flush(&mut log);
    let used = (1 << 40) - disk.free_bytes(&dir()).unwrap();
    disk.set_capacity(Some(used + 50));
    for _ in 0..2 {
        let error = log.settle().unwrap_err();
        let LogError::Io(error) = error else {
            panic!("{error}")
        };
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
        assert_eq!(read_all(&log, 0).len(), 2, "from file and memory");
    }
    assert!(log.failure().is_none());
    disk.set_capacity(None);
    log.append_as_leader(&records(30), 0, NOW_MS).unwrap();
    flush(&mut log);
    log.settle().unwrap();
    assert_eq!(read_all(&log, 0).len(), 3);
    let file = log.active().files().log(&log.shared).unwrap();
    assert_eq!(file.len().unwrap(), log.size_bytes());
}

#[test]
fn the_last_five_batches_of_a_producer_are_answered_again() {
    let disk = memory_disk();
    let (mut log, _) = open(&disk, &LogConfig::default()).unwrap();
    let numbered = |sequence| {
        batch(&Spec {
            producer: Some((4, 0, sequence)),
            ..Spec::default()
        })
    };
    for sequence in 0..7 {
        log.append_as_leader(&numbered(sequence), 0, NOW_MS)
            .unwrap();
    }
    for sequence in 2..7 {
        let again = log
            .append_as_leader(&numbered(sequence), 0, NOW_MS)
            .unwrap();
        assert_eq!(
            (again.duplicate, again.base_offset, again.last_offset),
            (true, i64::from(sequence), i64::from(sequence))
        );
    }
    let error = log.append_as_leader(&numbered(1), 0, NOW_MS).unwrap_err();
    assert!(
        matches!(error, AppendError::OutOfOrderSequence { .. }),
        "{error}"
    );
    assert_eq!(log.end_offset(), 7);
}
