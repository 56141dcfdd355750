//! The ring goes round, and waits where it must.

use std::sync::Mutex;

use tidemark_env::disk::{Fault, FaultError, FaultOp};

use super::*;

#[test]
fn the_ring_goes_round_and_keeps_what_was_not_let_go_of() {
    let (_, disk) = memory_disk();
    let wal = create(&disk, small());
    let mut recycled = 0;
    let mut offset = 0i64;
    while offset < 300 {
        append(&wal, offset.cast_unsigned() % 3, offset, 6000);
        offset += 1;
        if !wal.write_next() {
            // Full: everything above is still needed.
            recycled = wal.durable_lsn() - 2;
            wal.recycle(recycled);
            assert!(wal.write_next(), "there is room now");
        }
        let found = look(&disk, RING, recycled);
        assert_genuine(&found);
        assert!(found.damage.is_empty() && found.torn.is_none());
        assert_eq!(found.last_lsn, wal.durable_lsn());
        let lsns: Vec<_> = found.entries.iter().map(|entry| entry.lsn).collect();
        let expected: Vec<_> = (recycled + 1..=wal.durable_lsn()).collect();
        assert_eq!(lsns, expected);
        let files = disk.list(&dir()).unwrap();
        assert!(files.len() <= 4, "{files:?}");
    }
    assert!(recycled > 200);
}

#[test]
fn a_full_ring_waits_until_it_is_recycled() {
    let (_, disk) = memory_disk();
    let wal = create(&disk, small());
    for offset in 0..100 {
        append(&wal, 1, offset, 12_000);
    }
    while wal.write_next() {}
    let durable = wal.durable_lsn();
    // Four files of four groups.
    assert_eq!(durable, 16);
    let pressure = wal.pressure();
    assert!((pressure.ring - 1.0).abs() < 1e-9, "{pressure:?}");
    assert!(pressure.queued_bytes > 80 * 12_000);
    wal.recycle(3);
    assert!(!wal.write_next(), "one group of the oldest file is needed");
    wal.recycle(4);
    assert!(wal.write_next());
    // What is not durable cannot be let go of.
    wal.recycle(1000);
    let mut written = 17;
    while wal.pressure().queued_bytes > 0 {
        wal.recycle(wal.durable_lsn());
        while wal.write_next() {
            written += 1;
        }
    }
    assert_eq!((written, wal.durable_lsn()), (100, 100));
}

#[test]
fn files_are_made_ahead_up_to_the_limit() {
    let (_, disk) = memory_disk();
    let wal = create(&disk, small());
    assert!(wal.prepare().unwrap());
    assert!(!wal.prepare().unwrap(), "two are spare");
    for offset in 0..5 {
        append(&wal, 1, offset, 12_000);
        wal.write_next();
    }
    assert!(wal.prepare().unwrap() && wal.prepare().unwrap());
    assert!(!wal.prepare().unwrap(), "four are all that may be");
    assert_eq!(disk.list(&dir()).unwrap().len(), 4);
}

#[test]
fn files_of_another_ring_are_used_again_or_removed() {
    let (_, disk) = memory_disk();
    let wal = create(&disk, small());
    for offset in 0..9 {
        append(&wal, 1, offset, 12_000);
        wal.write_next();
    }
    // One is longer than the others.
    append(&wal, 1, 9, 100_000);
    wal.write_next();
    wal.stop();
    let before = disk.list(&dir()).unwrap();
    assert_eq!(before.len(), 4, "{before:?}");
    let ring = RingId([9; 16]);
    let wal = Wal::create(disk.clone(), small(), ring, 11, Box::new(|_| ())).unwrap();
    assert_eq!(disk.list(&dir()).unwrap().len(), 3);
    append(&wal, 1, 10, 100);
    assert!(wal.write_next());
    assert_eq!(wal.durable_lsn(), 11);
    let found = look(&disk, ring, 10);
    assert_eq!((found.entries.len(), found.last_lsn), (1, 11));
    let found = look(&disk, ring, 0);
    assert_eq!((found.entries.len(), found.last_lsn), (1, 11));
    assert!(found.damage.is_empty(), "the ring begins at 11");
    // Fewer may be kept than there are.
    let mut config = small();
    config.max_bytes = 128 << 10;
    let _wal = Wal::create(disk.clone(), config, RING, 12, Box::new(|_| ())).unwrap();
    assert_eq!(disk.list(&dir()).unwrap().len(), 2);
}

#[test]
fn a_full_disk_keeps_the_ring_small_and_fails_nothing() {
    let (memory, disk) = memory_disk();
    let wal = create(&disk, small());
    // Room for one file more, but for little else then.
    memory.set_capacity(Some(170 << 10));
    assert!(!wal.prepare().unwrap());
    for offset in 0..6 {
        append(&wal, 1, offset, 12_000);
    }
    while wal.write_next() {}
    assert_eq!((wal.durable_lsn(), wal.failure()), (4, None));
    assert_eq!(disk.list(&dir()).unwrap().len(), 1, "no half file is left");
    assert_eq!(
        wal.pressure().ring,
        1.0,
        "whoever makes checkpoints hears of it"
    );
    wal.recycle(4);
    assert!(wal.pressure().ring < 1.0);
    assert!(wal.write_next() && wal.write_next());
    let found = look(&disk, RING, 4);
    assert_eq!(found.last_lsn, 6);
    assert_genuine(&found);
    memory.set_capacity(None);
    assert!(wal.prepare().unwrap());
}

#[test]
fn a_ring_begins_on_a_full_disk_and_gets_its_first_file_when_there_is_room() {
    let (memory, disk) = memory_disk();
    memory.set_capacity(Some(10 << 10));
    let wal = create(&disk, small());
    append(&wal, 1, 0, 12_000);
    assert!(!wal.write_next());
    assert_eq!((wal.pressure().ring, wal.failure()), (1.0, None));
    let refused = wal.prepare().unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::StorageFull);
    let files = disk.list(&dir()).unwrap();
    assert_eq!((files.len(), files[0].len), (1, 0), "no half file is left");
    assert_eq!(look(&disk, RING, 0).last_lsn, 0);
    memory.set_capacity(Some(100 << 10));
    assert!(
        wal.prepare().unwrap(),
        "the first file may take the last room"
    );
    assert!(wal.write_next());
    assert_eq!(look(&disk, RING, 0).last_lsn, 1);
}

#[test]
fn a_ring_that_cannot_be_made_says_so() {
    let (memory, disk) = memory_disk();
    memory.inject(Fault {
        op: FaultOp::Sync,
        path_contains: ".wal.new".into(),
        after: 0,
        times: 1,
        error: FaultError::Eio,
    });
    let made = Wal::create(disk.clone(), small(), RING, 1, Box::new(|_| ()));
    assert_eq!(made.unwrap_err().raw_os_error(), Some(5));
    assert!(disk.list(&dir()).unwrap().is_empty());
}

#[test]
fn synced_files_are_written_again_without_growing() {
    let (memory, disk) = memory_disk();
    let lens = Arc::new(Mutex::new(Vec::new()));
    let wal = create(&disk, small());
    for offset in 0..4 {
        append(&wal, 1, offset, 8_000);
        wal.write_next();
        lens.lock()
            .unwrap()
            .push(memory.list(&dir()).unwrap()[0].len);
    }
    assert!(lens.lock().unwrap().iter().all(|len| *len == 64 << 10));
}
