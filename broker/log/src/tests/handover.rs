//! What a replica is told of producers whose records it never sees.

use super::basics::{Spec, batch};
use super::*;
use crate::producers::Producers;
use crate::{ProducersSnapshot, ReadError, snapshot};

fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 2000,
        ..LogConfig::default()
    }
}

/// Appends a batch of each of three producers, whose sequences go on.
fn append_round(log: &mut TestLog, round: i32) {
    for producer_id in 1..4 {
        let spec = Spec {
            records: 2,
            value_bytes: 100,
            producer: Some((producer_id, 0, round * 2)),
            ..Spec::default()
        };
        log.append_as_leader(&batch(&spec), 0, NOW_MS).unwrap();
    }
}

fn at(log: &TestLog, offset: i64) -> Producers {
    let found = log.producers_plan(offset).unwrap().run(NOW_MS).unwrap();
    snapshot::decode(&found, NOW_MS).unwrap()
}

/// What the batches below each offset make of the producers.
fn expected(log: &TestLog) -> BTreeMap<i64, Producers> {
    let mut producers = Producers::default();
    let mut all = BTreeMap::from([(0, producers.clone())]);
    for batch in read_all(log, 0) {
        producers.record(&batch.header, NOW_MS);
        all.insert(batch.header.next_offset(), producers.clone());
    }
    all
}

#[test]
fn the_producers_at_any_offset_are_those_of_the_records_below() {
    let disk = memory_disk();
    let (mut log, _) = open(&disk, &config()).unwrap();
    // In the files, in the write-ahead log's memory, and some of both.
    for settled in [false, true, false] {
        for _ in 0..7 {
            let round = i32::try_from(log.end_offset() / 6).unwrap();
            append_round(&mut log, round);
        }
        flush(&mut log);
        if settled {
            log.checkpoint();
        }
        let all = expected(&log);
        assert!(log.segment_count() > 2);
        for (offset, producers) in &all {
            assert_eq!(at(&log, *offset), *producers, "at {offset}");
        }
    }
    append_round(&mut log, 21);
    let end = log.end_offset();
    let refused = log.producers_plan(end);
    assert!(
        matches!(refused, Err(ReadError::OutOfRange { .. })),
        "not durable"
    );
}

#[test]
fn what_was_deleted_is_known_where_the_log_begins() {
    let disk = memory_disk();
    let (mut log, _) = open(&disk, &config()).unwrap();
    for round in 0..20 {
        append_round(&mut log, round);
    }
    flush(&mut log);
    log.checkpoint();
    let all = expected(&log);
    log.delete_records(100).unwrap();
    let end = log.end_offset();
    assert!(log.apply_retention(NOW_MS, end).unwrap().deleted_segments > 0);
    flush(&mut log);
    if let Some(deletions) = log.take_due_deletions(NOW_MS + 60_000) {
        deletions.run();
    }
    assert_eq!(log.log_start_offset(), 100);
    for (offset, producers) in all.range(100..) {
        assert_eq!(at(&log, *offset), *producers, "at {offset}");
    }
    assert!(
        log.producers_plan(0).is_err(),
        "nothing is known there any more"
    );
}

#[test]
fn a_log_that_begins_anew_knows_the_producers_it_was_given() {
    let leader_disk = memory_disk();
    let (mut leader, _) = open(&leader_disk, &config()).unwrap();
    for round in 0..10 {
        append_round(&mut leader, round);
    }
    flush(&mut leader);
    let told = leader.producers_plan(30).unwrap().run(NOW_MS).unwrap();
    let told = ProducersSnapshot::parse(told.into()).unwrap();
    let expected = at(&leader, 30);
    // It has a history of its own, with a snapshot at that very offset.
    for (given, crashes) in [(true, false), (true, true), (false, false), (false, true)] {
        let disk = memory_disk();
        let (mut log, _) = open(&disk, &config()).unwrap();
        for round in 0..3 {
            append_round(&mut log, round + 40);
        }
        flush(&mut log);
        log.checkpoint();
        let placed = given.then(|| log.producers_place(30).put(&told).unwrap());
        if !given {
            let stale = dir().join("00000000000000000030.snapshot");
            let own = snapshot::encode(log.producers());
            tidemark_env::disk::write_file_atomic(&disk, &stale, &own).unwrap();
        }
        let pending = log.begin_reset(30, placed.as_ref()).unwrap();
        flush(&mut log);
        if crashes {
            // The write-ahead log knows of it, the files do not.
            drop(pending);
            drop(log);
            disk.crash();
            (log, _) = open(&disk, &config()).unwrap();
        } else {
            assert_eq!(log.finish_cut(pending, NOW_MS).unwrap(), 30);
        }
        let known = match given {
            true => expected.clone(),
            false => Producers::default(),
        };
        assert_eq!((log.end_offset(), log.producers()), (30, &known));
        // And after a power cut without a checkpoint, with records of its own.
        let more = read_all(&leader, 30);
        log.append_as_follower(&more[0].bytes, NOW_MS).unwrap();
        flush(&mut log);
        let before = log.producers().clone();
        drop(log);
        disk.crash();
        let (log, _) = open(&disk, &config()).unwrap();
        assert_eq!((log.log_start_offset(), log.producers()), (30, &before));
        assert!(!given || at(&log, 30) == expected);
    }
}

#[test]
fn a_snapshot_that_is_none_is_refused() {
    assert!(ProducersSnapshot::parse(Bytes::from_static(b"none")).is_err());
}
