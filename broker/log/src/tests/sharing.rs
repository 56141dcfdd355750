//! What followers append, and readers that run beside a writer.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::basics::{Spec, batch, records};
use super::*;
use crate::{AppendError, ReadError};
use tidemark_env::disk::{FileDisk, OpenMode};
use tidemark_env::task;

fn leader_bytes(disk: &MemDisk) -> Bytes {
    let (mut leader, _) = open(disk, &LogConfig::default()).unwrap();
    for epoch in [0, 0, 2] {
        leader.append_as_leader(&records(2), epoch, NOW_MS).unwrap();
    }
    flush(&mut leader);
    leader
        .read_plan(0, 1 << 20, 6, true)
        .unwrap()
        .load()
        .unwrap()
        .records
}

#[test]
fn a_follower_takes_what_its_leader_has_and_nothing_else() {
    let bytes = leader_bytes(&memory_disk());
    let disk = memory_disk();
    let (mut follower, _) = open(&disk, &LogConfig::default()).unwrap();
    let appended = follower.append_as_follower(&bytes, NOW_MS).unwrap();
    assert_eq!((appended.base_offset, appended.last_offset), (0, 5));
    flush(&mut follower);
    let read = follower
        .read_plan(0, 1 << 20, 6, true)
        .unwrap()
        .load()
        .unwrap();
    assert_eq!(read.records, bytes, "the same bytes on every replica");
    assert_eq!(follower.end_offset_for_epoch(0).unwrap().end_offset, 4);
    let again = follower.append_as_follower(&bytes, NOW_MS).unwrap_err();
    assert!(matches!(
        again,
        AppendError::NotContiguous {
            base_offset: 0,
            end: 6
        }
    ));
    let torn = follower.append_as_follower(&bytes.slice(..bytes.len() - 1), NOW_MS);
    assert!(torn.is_err());
    assert!(follower.append_as_follower(&Bytes::new(), NOW_MS).is_err());
    assert_eq!(follower.end_offset(), 6);
    let stale = follower
        .append_as_leader(&records(1), 1, NOW_MS)
        .unwrap_err();
    assert!(matches!(
        stale,
        AppendError::StaleLeaderEpoch {
            epoch: 1,
            current: 2
        }
    ));
}

#[test]
fn an_epoch_begins_durably_before_it_has_records() {
    let disk = memory_disk();
    let (mut log, _) = open(&disk, &LogConfig::default()).unwrap();
    log.append_as_leader(&records(2), 3, NOW_MS).unwrap();
    flush(&mut log);
    let lsn = log.start_epoch(5).unwrap().unwrap();
    log.wal.wait_durable(lsn).unwrap();
    drop(log);
    disk.crash();
    let (mut log, _) = open(&disk, &LogConfig::default()).unwrap();
    assert_eq!(log.epochs().latest(), Some(5));
    assert_eq!(log.end_offset_for_epoch(3).unwrap().end_offset, 2);
    assert_eq!(log.start_epoch(4).unwrap(), None);
    assert_eq!(log.epochs().latest(), Some(5));
}

#[test]
fn a_batch_larger_than_a_segment_is_refused_and_a_roll_on_a_full_disk_waits() {
    let disk = memory_disk();
    let config = LogConfig {
        segment_bytes: 300,
        ..LogConfig::default()
    };
    let (mut log, _) = open(&disk, &config).unwrap();
    let large = batch(&Spec {
        value_bytes: 300,
        ..Spec::default()
    });
    let error = log.append_as_leader(&large, 0, NOW_MS).unwrap_err();
    assert!(
        matches!(error, AppendError::TooLarge { max_bytes: 300, .. }),
        "{error}"
    );
    for _ in 0..3 {
        log.append_as_leader(&records(1), 0, NOW_MS).unwrap();
    }
    flush(&mut log);
    log.settle().unwrap();
    let used = (1 << 40) - disk.free_bytes(&dir()).unwrap();
    log.append_as_leader(&records(3), 0, NOW_MS).unwrap();
    flush(&mut log);
    disk.set_capacity(Some(used));
    for _ in 0..3 {
        assert!(
            log.settle().is_err(),
            "there is no room for the new segment"
        );
    }
    assert_eq!((log.segment_count(), log.end_offset()), (2, 6));
    assert_eq!(read_all(&log, 0).len(), 4, "the last one from memory");
    disk.set_capacity(None);
    log.settle().unwrap();
    assert_eq!(read_all(&log, 0).len(), 4);
}

#[test]
fn aborted_transactions_of_an_imported_log_are_listed() {
    let disk = memory_disk();
    let (mut log, _) = open(&disk, &LogConfig::default()).unwrap();
    for _ in 0..10 {
        log.append_as_leader(&records(2), 0, NOW_MS).unwrap();
    }
    flush(&mut log);
    log.settle().unwrap();
    let file = disk
        .open(
            &dir().join("00000000000000000000.txnindex"),
            OpenMode::Create,
        )
        .unwrap();
    for [producer, first, last, stable] in [[1i64, 2, 5, 6], [2, 4, 9, 10], [1, 12, 15, 16]] {
        let mut entry = vec![0, 0];
        for field in [producer, first, last, stable] {
            entry.extend(field.to_be_bytes());
        }
        file.append(&entry).unwrap();
    }
    let firsts = |from, upper| -> Vec<i64> {
        let found = log.aborted_plan(from, upper).run().unwrap();
        found.iter().map(|entry| entry.first_offset).collect()
    };
    assert_eq!(firsts(0, 20), [2, 4, 12]);
    assert_eq!(firsts(6, 20), [4, 12]);
    assert_eq!(firsts(0, 4), [2]);
    assert_eq!(firsts(10, 12), [0i64; 0]);
}

#[test]
fn readers_beside_a_writer_see_whole_batches_of_one_history() {
    let root = tempfile::tempdir().unwrap();
    let config = LogConfig {
        segment_bytes: 4000,
        index_interval_bytes: 500,
        retention_ms: -1,
        retention_bytes: 12_000,
        file_delete_delay_ms: 0,
        ..LogConfig::default()
    };
    let disk = Arc::new(FileDisk::new());
    let (log, _) = open_in(disk, root.path().join("topic-0"), &config).unwrap();
    let log = Arc::new(Mutex::new(log));
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..2)
        .map(|reader| {
            let (log, done) = (log.clone(), done.clone());
            task::thread("reader", move || {
                let (mut offset, mut read_batches) = (0, 0u64);
                while !done.load(Ordering::Relaxed) {
                    let plan = {
                        let log = log.lock().unwrap();
                        let upper = log.durable_offset();
                        log.read_plan(offset, 700 + reader * 1000, upper, true)
                    };
                    let read = match plan.and_then(|plan| plan.load()) {
                        Ok(read) => read,
                        Err(ReadError::Stale) => continue,
                        Err(ReadError::OutOfRange { log_start, .. }) => {
                            offset = log_start;
                            continue;
                        }
                        Err(error) => panic!("{error}"),
                    };
                    let mut expected = offset;
                    for batch in split(read.records) {
                        assert!(batch.header.base_offset <= expected);
                        // The epoch tells the history: it is written into the records.
                        let epoch = batch.header.partition_leader_epoch as u8;
                        let value = batch.records(Default::default()).unwrap().next().unwrap();
                        assert_eq!(value.unwrap().value.unwrap()[0], epoch);
                        expected = batch.header.next_offset();
                        read_batches += 1;
                    }
                    offset = read.next_offset;
                }
                read_batches
            })
            .unwrap()
        })
        .collect();
    let mut epoch = 0u8;
    for step in 0..3000i64 {
        let mut log = log.lock().unwrap();
        let mut builder = BatchBuilder::new(Default::default());
        let value = vec![epoch; 20 + (step as usize * 7) % 400];
        for _ in 0..1 + step % 3 {
            builder
                .append(&tidemark_records::RecordRef {
                    timestamp_ms: NOW_MS,
                    key: None,
                    value: Some(&value),
                    headers: &[],
                })
                .unwrap();
        }
        let batch = Batch::split_first(&mut builder.build().unwrap())
            .unwrap()
            .unwrap();
        log.append_as_leader(&batch, i32::from(epoch), NOW_MS)
            .unwrap();
        if step % 50 == 49 {
            let cut = log.log_start_offset().max(log.end_offset() - 9);
            log.truncate_to(cut, NOW_MS).unwrap();
            epoch += 1;
        }
        if step % 7 == 6 {
            flush(&mut log);
        }
        if step % 20 == 19 {
            log.settle().unwrap();
            let durable = log.durable_offset();
            log.apply_retention(NOW_MS, durable).unwrap();
            if let Some(deletions) = log.take_due_deletions(NOW_MS) {
                deletions.run();
            }
            log.release_idle();
        }
    }
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        assert!(reader.join().unwrap() > 0);
    }
    assert!(log.lock().unwrap().log_start_offset() > 0);
}
