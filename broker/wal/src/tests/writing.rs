//! What is appended, written and found again; failures.

use std::sync::Mutex;
use tidemark_env::disk::{Fault, FaultError, FaultOp, read_file};

use super::*;

#[test]
fn every_kind_of_record_is_found_again_as_it_was() {
    let (_, disk) = memory_disk();
    let wal = create(&disk, small());
    let bytes = batch(5, 100);
    let parts: &[&[u8]] = &[&bytes[..30], &bytes[30..31], &[], &bytes[31..]];
    let records = [
        Record::Create {
            topic_id: *b"0123456789abcdef",
            partition: -7,
        },
        batches(5, parts),
        Record::Epoch {
            leader_epoch: 9,
            start_offset: i64::MAX,
        },
        Record::Truncate { end_offset: -1 },
        Record::LogStart { offset: 77 },
        Record::Reset {
            start_offset: 1,
            keeps_producers: true,
        },
        Record::Delete,
    ];
    for (index, record) in records.iter().enumerate() {
        wal.append(LogId(index as u64 + 1), record, |_| None)
            .unwrap();
        if index == 2 {
            assert!(wal.write_next());
        }
    }
    assert!(wal.write_next());
    assert!(!wal.write_next(), "nothing is left");
    let found = look(&disk, RING, 0);
    let kinds: Vec<_> = found
        .entries
        .iter()
        .map(|entry| (entry.log.0, entry.lsn, entry.kind))
        .collect();
    let expected = [
        EntryKind::Create {
            topic_id: *b"0123456789abcdef",
            partition: -7,
        },
        EntryKind::Batches {
            base_offset: 5,
            next_offset: 6,
            leader_epoch: 3,
        },
        EntryKind::Epoch {
            leader_epoch: 9,
            start_offset: i64::MAX,
        },
        EntryKind::Truncate { end_offset: -1 },
        EntryKind::LogStart { offset: 77 },
        EntryKind::Reset {
            start_offset: 1,
            keeps_producers: true,
        },
        EntryKind::Delete,
    ];
    for (index, (log, lsn, kind)) in kinds.iter().enumerate() {
        assert_eq!(*log, index as u64 + 1);
        assert_eq!(*lsn, if index < 3 { 1 } else { 2 });
        assert_eq!(*kind, expected[index]);
    }
    assert_eq!(kinds.len(), expected.len());
    assert_eq!(&found.read(&found.entries[1]).unwrap()[..], bytes);
    assert_eq!((found.last_lsn, found.torn.clone()), (2, None));
    assert!(found.damage.is_empty());
    let later = look(&disk, RING, 1);
    assert_eq!(later.entries[..], found.entries[3..]);
    let other = look(&disk, RingId([8; 16]), 0);
    assert_eq!((other.entries.len(), other.last_lsn), (0, 0));
}

#[test]
fn members_are_told_of_their_group_with_its_bytes() {
    let (_, disk) = memory_disk();
    let wal = create(&disk, small());
    let told = Arc::new(Told::default());
    let bytes = [batch(0, 50), batch(1, 60)];
    for (offset, bytes) in bytes.iter().enumerate() {
        let member = told.clone();
        let placed = wal
            .append(LogId(1), &batches(offset as i64, &[bytes]), |lsn| {
                assert_eq!(lsn, 1);
                // It registers once.
                (offset == 0).then_some(member as Arc<dyn Member>)
            })
            .unwrap();
        assert_eq!(placed.lsn, 1);
        assert_eq!(placed.position, if offset == 0 { 0 } else { 50 });
    }
    assert_eq!(wal.durable_lsn(), 0);
    assert!(told.durable.lock().unwrap().is_empty());
    assert!(wal.write_next());
    assert_eq!(wal.durable_lsn(), 1);
    let durable = told.durable.lock().unwrap();
    assert_eq!(durable.len(), 1);
    assert_eq!(&durable[0].1[..], bytes.concat());
    wal.wait_durable(1).unwrap();
}

#[test]
fn who_waits_where_no_writer_runs_writes() {
    let (memory, disk) = memory_disk();
    let wal = create(&disk, small());
    let lsn = append(&wal, 1, 0, 100).lsn;
    wal.wait_durable(lsn).unwrap();
    memory.crash();
    assert_eq!(look(&disk, RING, 0).entries.len(), 1);
}

#[test]
fn records_of_any_size_are_found_again() {
    let (_, disk) = memory_disk();
    let mut config = small();
    config.max_bytes = 640 << 10;
    let wal = create(&disk, config);
    // Chunks have 16 KiB, files 64 KiB.
    let sizes = [
        25, 4096, 4097, 16384, 16385, 200_000, 100, 16384, 70_000, 30,
    ];
    for (offset, size) in sizes.iter().enumerate() {
        append(&wal, 1, offset as i64, *size);
    }
    while wal.write_next() {}
    let found = look(&disk, RING, 0);
    assert_eq!(found.last_lsn, wal.durable_lsn());
    assert_eq!(found.entries.len(), sizes.len());
    assert_genuine(&found);
    // Files that became longer count as long as they are.
    let files = disk.list(&dir()).unwrap();
    let bytes: u64 = files.iter().map(|file| file.len).sum();
    assert_eq!(wal.pressure().ring_bytes, bytes);
    assert!(files.iter().any(|file| file.len > 200_000));
    // What is let go of is cut back when it is used again.
    let mut offset = 100;
    while wal.pressure().queued_bytes > 0 || offset < 200 {
        wal.recycle(wal.durable_lsn());
        append(&wal, 1, offset, 10_000);
        offset += 1;
        while wal.write_next() {}
        assert!(offset < 1000);
    }
    for entry in disk.list(&dir()).unwrap() {
        assert_eq!(entry.len, 64 << 10, "{}", entry.name);
    }
}

#[test]
fn a_group_is_closed_when_its_directory_is_full() {
    let (_, disk) = memory_disk();
    let mut config = small();
    config.file_bytes = 1 << 20;
    config.max_bytes = 4 << 20;
    let wal = create(&disk, config);
    let records = crate::format::MAX_ENTRIES + 10;
    for offset in 0..records {
        wal.append(
            LogId(1),
            &Record::LogStart {
                offset: offset as i64,
            },
            |_| None,
        )
        .unwrap();
    }
    assert!(wal.write_next() && wal.write_next() && !wal.write_next());
    let found = look(&disk, RING, 0);
    assert_eq!(found.entries.len(), records);
    assert_eq!(found.last_lsn, 2);
}

#[test]
fn a_failed_write_fails_everyone_and_everything_after_it() {
    for op in [FaultOp::Write, FaultOp::Sync] {
        let (memory, disk) = memory_disk();
        let wal = create(&disk, small());
        let told = [Arc::new(Told::default()), Arc::new(Told::default())];
        append(&wal, 1, 0, 100);
        assert!(wal.write_next());
        memory.inject(Fault {
            op,
            path_contains: ".wal".into(),
            after: 0,
            times: 1,
            error: FaultError::Eio,
        });
        for (offset, member) in told.iter().enumerate() {
            // Each fills a chunk, so that they are in two groups.
            let bytes = batch(offset as i64, 16 << 10);
            let member = member.clone();
            let parts: &[&[u8]] = &[&bytes];
            let record = batches(offset as i64, parts);
            wal.append(LogId(1), &record, |_| Some(member)).unwrap();
        }
        wal.write_next();
        assert_eq!(wal.durable_lsn(), 1);
        for member in &told {
            let failed = member.failed.lock().unwrap();
            assert!(matches!(failed[..], [Failure::Disk(_)]), "{failed:?}");
            assert!(member.durable.lock().unwrap().is_empty());
        }
        assert!(matches!(wal.failure(), Some(Failure::Disk(_))));
        let bytes = batch(3, 30);
        let refused = wal.append(LogId(1), &batches(3, &[&bytes]), |_| None);
        assert!(matches!(refused, Err(Failure::Disk(_))));
        assert!(wal.wait_durable(2).is_err());
        wal.wait_durable(1).unwrap();
        assert!(futures_executor::block_on(wal.when_durable(2)).is_err());
        assert!(!wal.write_next());
        wal.stop();
    }
}

#[test]
fn a_disk_given_up_from_elsewhere_fails_what_is_queued() {
    let (_, disk) = memory_disk();
    let wal = create(&disk, small());
    let told = Arc::new(Told::default());
    let bytes = batch(0, 30);
    let member = told.clone();
    wal.append(LogId(1), &batches(0, &[&bytes]), |_| Some(member))
        .unwrap();
    wal.fail("another file could not be synced".into());
    wal.fail("once more".into());
    assert_eq!(told.failed.lock().unwrap().len(), 1);
    let text = wal.failure().unwrap().to_string();
    assert!(text.contains("another file"), "{text}");
    assert!(!wal.write_next());
}

#[test]
fn what_is_queued_is_written_before_it_stops() {
    let (_, disk) = memory_disk();
    let wal = create(&disk, small());
    // More than the ring has room for: stopping waits for no checkpoint.
    for offset in 0..40 {
        append(&wal, 1, offset, 16 << 10);
    }
    wal.stop();
    assert_eq!(wal.durable_lsn(), 40);
    let bytes = batch(3, 30);
    let refused = wal.append(LogId(1), &batches(3, &[&bytes]), |_| None);
    assert_eq!(refused, Err(Failure::Stopped));
    assert_eq!(wal.failure(), None);
    assert_eq!(wal.wait_durable(41), Err(Failure::Stopped));
    assert_eq!(look(&disk, RING, 0).entries.len(), 40);
}

#[test]
fn a_group_is_one_durable_write_and_is_counted() {
    let (memory, disk) = memory_disk();
    let written = Arc::new(Mutex::new(Vec::new()));
    let seen = written.clone();
    let wal = Wal::create(
        disk,
        small(),
        RING,
        1,
        Box::new(move |group| seen.lock().unwrap().push(*group)),
    )
    .unwrap();
    append(&wal, 1, 0, 5000);
    append(&wal, 2, 0, 100);
    let (writes, syncs) = (memory.writes(), memory.file_syncs());
    assert!(wal.write_next());
    assert_eq!(memory.writes() - writes, 1);
    assert_eq!(memory.file_syncs() - syncs, 1);
    let written = written.lock().unwrap();
    assert_eq!(written.len(), 1);
    let group = &written[0];
    assert_eq!((group.lsn, group.records), (1, 2));
    assert_eq!((group.payload_bytes, group.bytes), (5100, 3 << 12));
    assert!(group.write_latency <= group.took);
}

#[test]
fn a_newer_version_is_refused_by_name() {
    let (memory, disk) = memory_disk();
    let wal = create(&disk, small());
    append(&wal, 1, 0, 100);
    assert!(wal.write_next());
    let name = &disk.list(&dir()).unwrap()[0].name;
    let path = dir().join(name);
    let magic = &read_file(&memory, &path, 1 << 20).unwrap()[..8];
    assert_eq!(magic, b"TMWALGRP");
    memory.corrupt(&path, 8, 3).unwrap();
    let error = scan(&disk, &dir(), RING, 0, &verify).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    assert!(error.to_string().contains("version 2"), "{error}");
    assert!(error.to_string().contains(name), "{error}");
}
