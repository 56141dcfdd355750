//! Files byte for byte, the dump of them, and the pure structs behind them.

use std::path::Path;

use super::basics::{Spec, batch, records};
use super::*;
use crate::dump::{Dump, DumpError, FileKind, Row};
use crate::producers::SequenceCheck;
use crate::{AppendError, LeaderEpochs, ProducerEntry, Producers, snapshot};
use tidemark_env::disk::{OpenMode, read_file};
use tidemark_records::{BatchHeader, Limits, crc32c};

fn rows(disk: &MemDisk, name: &str) -> Vec<Row> {
    rows_of(disk, dir().join(name))
}

fn rows_of(disk: &MemDisk, path: impl AsRef<Path>) -> Vec<Row> {
    Dump::open(disk, path.as_ref())
        .unwrap()
        .map(|row| row.unwrap())
        .collect()
}

fn small_segments() -> LogConfig {
    LogConfig {
        segment_bytes: 900,
        index_interval_bytes: 200,
        ..LogConfig::default()
    }
}

/// Ten batches of two records, 165 bytes each: five to a segment, an index entry
/// for every second batch behind the first.
fn written(disk: &MemDisk) {
    let (mut log, _) = open(disk, &small_segments()).unwrap();
    for index in 0..10 {
        let spec = Spec {
            records: 2,
            value_bytes: 45,
            timestamp_ms: NOW_MS + index * 10,
            producer: Some((9, 1, index as i32 * 2)),
            ..Spec::default()
        };
        log.append_as_leader(&batch(&spec), 3, NOW_MS).unwrap();
    }
    log.close(NOW_MS).unwrap();
}

#[test]
fn a_segment_and_its_indexes_are_dumped_as_kafka_lays_them_out() {
    let disk = memory_disk();
    written(&disk);
    let size = 165u64;
    let log = "00000000000000000000.log";
    let positions: Vec<(u64, i64, i32, Option<u32>)> = rows(&disk, log)
        .iter()
        .map(|row| match row {
            Row::Batch(row) => (
                row.position,
                row.header.base_offset,
                row.header.partition_leader_epoch,
                row.wrong_crc,
            ),
            other => panic!("{other:?}"),
        })
        .collect();
    let expected: Vec<_> = (0..5).map(|n| (n * size, n as i64 * 2, 3, None)).collect();
    assert_eq!(positions, expected);
    let offsets: Vec<_> = rows(&disk, "00000000000000000000.index")
        .into_iter()
        .map(|row| match row {
            Row::Offset(entry) => (entry.offset, entry.position),
            other => panic!("{other:?}"),
        })
        .collect();
    // The last offset of a batch, and where the batch begins.
    assert_eq!(offsets, [(5, 330), (9, 660)]);
    let times: Vec<_> = rows(&disk, "00000000000000000000.timeindex")
        .into_iter()
        .map(|row| match row {
            Row::Time(entry) => (entry.timestamp_ms - NOW_MS, entry.offset),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(times, [(21, 5), (41, 9)]);
    // The second segment's last timestamp is there since the log was closed.
    let last = rows(&disk, "00000000000000000010.timeindex").pop();
    assert!(
        matches!(last, Some(Row::Time(entry)) if entry.offset == 19),
        "{last:?}"
    );
    let raw = read_file(&disk, &dir().join("00000000000000000010.index"), 100).unwrap();
    assert_eq!(
        raw[..8],
        [0, 0, 0, 5, 0, 0, 1, 74],
        "offsets are relative to the base"
    );
}

#[test]
fn records_and_small_files_are_dumped() {
    let disk = memory_disk();
    written(&disk);
    let mut dump = Dump::open(&disk, &dir().join("00000000000000000010.log")).unwrap();
    assert_eq!(dump.kind(), FileKind::Log);
    let Some(Ok(Row::Batch(row))) = dump.next() else {
        panic!("no batch")
    };
    let found = dump.records(&row, Limits::default()).unwrap().unwrap();
    assert_eq!(
        found.iter().map(|record| record.offset).collect::<Vec<_>>(),
        [10, 11]
    );
    let epochs = rows(&disk, "leader-epoch-checkpoint");
    assert!(
        matches!(epochs[..], [Row::Epoch(entry)] if (entry.epoch, entry.start_offset) == (3, 0))
    );
    let producers = rows(&disk, "00000000000000000020.snapshot");
    let [Row::Producer(entry)] = &producers[..] else {
        panic!("{producers:?}")
    };
    assert_eq!(
        (entry.producer_id, entry.epoch, entry.last_sequence()),
        (9, 1, 19)
    );
    assert_eq!(entry.batches().len(), 5);
    let sealed = rows(&disk, "00000000000000000010.snapshot");
    assert!(
        matches!(&sealed[..], [Row::Producer(entry)] if entry.last_sequence() == 9),
        "one is written with every new segment: {sealed:?}"
    );
    let checkpoint = rows_of(&disk, "/data/tidemark-checkpoint");
    assert!(
        matches!(&checkpoint[..], [Row::Ring { clean: true, .. }, Row::Checkpoint(1, found)] if found.end == 20),
        "{checkpoint:?}"
    );
}

#[test]
fn damage_is_a_row_and_strange_names_are_refused() {
    let disk = memory_disk();
    written(&disk);
    let path = dir().join("00000000000000000000.log");
    disk.corrupt(&path, 100, 1).unwrap();
    let found = rows(&disk, "00000000000000000000.log");
    assert!(matches!(&found[0], Row::Batch(row) if row.wrong_crc.is_some()));
    assert_eq!(found.len(), 5, "a wrong CRC does not end the walk");
    disk.corrupt(&path, 165 + 16, 0xff).unwrap();
    let found = rows(&disk, "00000000000000000000.log");
    assert!(
        matches!(&found[1], Row::Damage { position: 165, .. }),
        "{found:?}"
    );
    assert_eq!(found.len(), 2);
    disk.corrupt(&dir().join("00000000000000000020.snapshot"), 20, 1)
        .unwrap();
    assert!(matches!(
        rows(&disk, "00000000000000000020.snapshot")[..],
        [Row::Damage { .. }]
    ));
    assert!(matches!(
        Dump::open(&disk, Path::new("/data/topic-0/what")),
        Err(DumpError::UnknownKind(_))
    ));
    assert!(matches!(
        Dump::open(&disk, Path::new("/data/topic-0/what.index")),
        Err(DumpError::NoBaseOffset(_))
    ));
    let file = disk
        .open(
            &dir().join("00000000000000000000.index"),
            OpenMode::ReadWrite,
        )
        .unwrap();
    file.append(&[1, 2, 3]).unwrap();
    let last = rows(&disk, "00000000000000000000.index").pop();
    assert!(
        matches!(last, Some(Row::Damage { position: 16, .. })),
        "{last:?}"
    );
}

#[test]
fn a_snapshot_begins_as_kafkas_does_and_comes_back_whole() {
    let mut producers = Producers::default();
    for sequence in 0..7 {
        let mut header = batch(&Spec {
            producer: Some((0x0102_0304, 5, sequence)),
            ..Spec::default()
        })
        .header;
        header.base_offset = 100 + i64::from(sequence);
        producers.record(&header, NOW_MS);
    }
    let bytes = snapshot::encode(&producers);
    let mut expected = vec![0, 1];
    expected.extend(crc32c(&bytes[6..]).to_be_bytes());
    expected.extend([0, 0, 0, 1]);
    expected.extend(0x0102_0304i64.to_be_bytes());
    expected.extend(5i16.to_be_bytes());
    expected.extend(6i32.to_be_bytes());
    expected.extend(106i64.to_be_bytes());
    expected.extend(0i32.to_be_bytes());
    expected.extend(NOW_MS.to_be_bytes());
    expected.extend((-1i32).to_be_bytes());
    expected.extend((-1i64).to_be_bytes());
    assert_eq!(bytes[..expected.len()], expected);
    assert_eq!(snapshot::decode(&bytes, NOW_MS).unwrap(), producers);
    // As Kafka writes it: the newest batch only.
    let mut kafka = expected.clone();
    let crc = crc32c(&kafka[6..]);
    kafka[2..6].copy_from_slice(&crc.to_be_bytes());
    let read = snapshot::decode(&kafka, NOW_MS).unwrap();
    let entry: &ProducerEntry = read.iter().next().unwrap();
    assert_eq!((entry.last_sequence(), entry.batches().len()), (6, 1));
    for cut in 0..bytes.len() {
        assert!(snapshot::decode(&bytes[..cut], NOW_MS).is_err());
    }
    let mut newer = bytes;
    newer[1] = 2;
    assert!(
        snapshot::decode(&newer, NOW_MS)
            .unwrap_err()
            .contains("version 2")
    );
}

fn header(epoch: i16, base_sequence: i32, records: i32) -> BatchHeader {
    let mut header = batch(&Spec {
        producer: Some((1, epoch, base_sequence)),
        ..Spec::default()
    })
    .header;
    header.last_offset_delta = records - 1;
    header.record_count = records;
    header
}

#[test]
fn sequences_are_checked_as_kafka_does() {
    let mut producers = Producers::default();
    let new =
        |producers: &Producers, header| matches!(producers.check(&header), Ok(SequenceCheck::New));
    assert!(
        new(&producers, header(0, 17, 3)),
        "an unknown producer begins anywhere"
    );
    producers.record(&header(0, 17, 3), NOW_MS);
    assert!(new(&producers, header(0, 20, 1)));
    for wrong in [0, 16, 21] {
        let found = producers.check(&header(0, wrong, 1));
        assert!(
            matches!(found, Err(AppendError::OutOfOrderSequence { expected: 20, sequence, .. }) if sequence == wrong),
            "{found:?}"
        );
    }
    assert!(
        matches!(producers.check(&header(0, 17, 3)), Ok(SequenceCheck::Duplicate(found)) if found.last_sequence == 19)
    );
    assert!(
        producers.check(&header(0, 17, 2)).is_err(),
        "not the batch that was sent"
    );
    assert!(new(&producers, header(1, 0, 1)), "a new epoch begins at 0");
    assert!(producers.check(&header(1, 20, 1)).is_err());
    producers.record(&header(1, 0, 1), NOW_MS);
    assert!(matches!(
        producers.check(&header(0, 20, 1)),
        Err(AppendError::InvalidProducerEpoch {
            epoch: 0,
            current: 1,
            ..
        })
    ));
}

#[test]
fn sequences_wrap_from_the_largest_to_zero() {
    let mut producers = Producers::default();
    let before = header(0, i32::MAX - 1, 2);
    producers.record(&before, NOW_MS);
    assert!(matches!(
        producers.check(&header(0, 0, 1)),
        Ok(SequenceCheck::New)
    ));
    producers.record(&header(0, 0, 1), NOW_MS);
    assert!(matches!(
        producers.check(&before),
        Ok(SequenceCheck::Duplicate(_))
    ));
    let over = header(0, i32::MAX, 3);
    let mut producers = Producers::default();
    producers.record(&over, NOW_MS);
    assert_eq!(producers.get(1).unwrap().last_sequence(), 1);
    assert!(matches!(
        producers.check(&over),
        Ok(SequenceCheck::Duplicate(_))
    ));
    assert!(matches!(
        producers.check(&header(0, 2, 1)),
        Ok(SequenceCheck::New)
    ));
}

#[test]
fn silent_producers_are_forgotten_unless_in_a_transaction() {
    let mut producers = Producers::default();
    producers.record(&header(0, 0, 1), NOW_MS);
    let mut other = header(0, 0, 1);
    other.producer_id = 2;
    other.attributes |= 0x10;
    producers.record(&other, NOW_MS);
    assert_eq!(producers.first_unstable_offset(), Some(0));
    assert_eq!(producers.expire(NOW_MS + 99, 100), 0);
    assert_eq!(producers.expire(NOW_MS + 100, 100), 1);
    assert!(producers.get(1).is_none() && producers.get(2).is_some());
}

#[test]
fn epochs_answer_as_kafka_does() {
    let mut epochs = LeaderEpochs::default();
    assert!(epochs.end_offset(0, 10).is_none());
    for (epoch, start) in [(2, 10), (4, 20), (7, 30)] {
        assert!(epochs.assign(epoch, start));
        assert!(!epochs.assign(epoch, start + 1));
    }
    let end = |epoch| {
        epochs
            .end_offset(epoch, 35)
            .map(|end| (end.epoch, end.end_offset))
    };
    assert_eq!(end(7), Some((7, 35)));
    assert_eq!(end(8), None);
    assert_eq!(end(5), Some((4, 30)));
    assert_eq!(end(2), Some((2, 20)));
    assert_eq!(end(1), Some((1, 10)), "below all: where the first begins");
    assert_eq!(end(-1), None);
    let text = epochs.to_text();
    assert_eq!(text, "0\n3\n2 10\n4 20\n7 30\n");
    assert_eq!(LeaderEpochs::parse(&text).unwrap(), epochs);
    for bad in [
        "",
        "1\n0\n",
        "0\nx\n",
        "0\n2\n1 1\n",
        "0\n1\n1\n",
        "0\n2\n2 1\n1 2\n",
    ] {
        assert!(LeaderEpochs::parse(bad).is_err(), "{bad:?}");
    }
    assert!(epochs.truncate_from_start(25));
    assert_eq!(epochs.to_text(), "0\n2\n4 25\n7 30\n");
    assert!(!epochs.truncate_from_start(25));
    assert!(epochs.truncate_from_end(30));
    assert_eq!(epochs.latest(), Some(4));
    assert!(epochs.assign(9, 25), "an epoch without records gives way");
    assert_eq!(epochs.to_text(), "0\n1\n9 25\n");
}

#[test]
fn a_log_at_rest_holds_little() {
    let disk = memory_disk();
    let (mut log, _) = open(&disk, &LogConfig::default()).unwrap();
    log.append_as_leader(&records(3), 0, NOW_MS).unwrap();
    flush(&mut log);
    log.checkpoint();
    for _ in 0..3 {
        log.release_idle();
    }
    let at_rest = |log: &Log| {
        let files = log.segments.iter().any(|segment| segment.has_files());
        log.tail.is_none() && log.behind.is_none() && !files
    };
    assert!(at_rest(&log));
    let end = log.end_offset();
    log.apply_retention(NOW_MS, end).unwrap();
    assert!(at_rest(&log), "retention knows the newest timestamp");
    assert!(
        std::mem::size_of::<Log>() <= 200,
        "{}",
        std::mem::size_of::<Log>()
    );
    log.append_as_leader(&records(3), 0, NOW_MS).unwrap();
    flush(&mut log);
    assert_eq!(read_all(&log, 0).len(), 2);
}
