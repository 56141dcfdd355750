//! The directory's checkpoint: its format, and what it lets go of.

use super::basics::records;
use super::*;
use crate::checkpoint::LogCheckpoint;
use crate::sync::sync_parts;

fn example() -> DirCheckpoint {
    let log = |partition, end| LogCheckpoint {
        topic_id: Uuid([9; 16]),
        partition,
        last_epoch: 3,
        lsn: 17,
        log_start: 2,
        end,
        segment_base: 5,
        position: 4_096,
        high_watermark: 7,
    };
    DirCheckpoint {
        ring: RingId([7; 16]),
        clean: false,
        released_lsn: 15,
        next_lsn: 18,
        next_log_id: 12,
        logs: BTreeMap::from([(LogId(3), log(0, 8)), (LogId(11), log(1, 900))]),
    }
}

#[test]
fn a_checkpoint_comes_back_as_it_was_and_any_changed_bit_is_noticed() {
    let checkpoint = example();
    let bytes = checkpoint.encode();
    assert_eq!(DirCheckpoint::decode(&bytes).unwrap(), checkpoint);
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(DirCheckpoint::decode(&damaged).is_err(), "bit {bit}");
    }
    for len in 0..bytes.len() {
        assert!(DirCheckpoint::decode(&bytes[..len]).is_err(), "{len} bytes");
    }
    let mut newer = bytes;
    newer[5] = 9;
    let error = DirCheckpoint::decode(&newer).unwrap_err();
    assert!(error.contains("version 9"), "{error}");
}

#[test]
fn a_checkpoint_without_high_watermarks_is_read() {
    let checkpoint = example();
    let bytes = checkpoint.encode();
    let (header, rest) = bytes.split_at(52);
    let mut older = header.to_vec();
    older[5] = 1;
    for entry in rest[..rest.len() - 4].chunks(80) {
        older.extend_from_slice(&entry[..72]);
    }
    let crc = tidemark_records::crc32c(&older);
    older.extend_from_slice(&crc.to_be_bytes());
    let mut expected = checkpoint;
    for log in expected.logs.values_mut() {
        log.high_watermark = log.log_start;
    }
    assert_eq!(DirCheckpoint::decode(&older).unwrap(), expected);
}

#[test]
fn what_was_committed_is_known_to_the_next_start_but_for_what_was_cut_since() {
    let disk = memory_disk();
    let (mut log, _) = open(&disk, &LogConfig::default()).unwrap();
    assert_eq!(log.committed_offset(), 0);
    for _ in 0..4 {
        log.append_as_leader(&records(2), 0, NOW_MS).unwrap();
    }
    log.note_committed(6);
    log.flush();
    log.checkpoint();
    drop(log);
    let (mut log, _) = open(&disk, &LogConfig::default()).unwrap();
    assert_eq!(log.committed_offset(), 6);
    // Given up, and other records are in their place: none of them is known to be committed.
    log.truncate_to(4, NOW_MS).unwrap();
    assert_eq!(log.committed_offset(), 4);
    log.append_as_leader(&records(2), 1, NOW_MS).unwrap();
    log.flush();
    drop(log);
    let (log, _) = open(&disk, &LogConfig::default()).unwrap();
    assert_eq!((log.end_offset(), log.committed_offset()), (6, 4));
}

#[test]
fn only_groups_behind_the_checkpoint_are_replayed() {
    let disk = memory_disk();
    let (mut log, _) = open(&disk, &LogConfig::default()).unwrap();
    let size = records(2).bytes.len() as u64;
    for _ in 0..4 {
        log.append_as_leader(&records(2), 0, NOW_MS).unwrap();
        log.flush();
    }
    log.checkpoint();
    for _ in 0..3 {
        log.append_as_leader(&records(2), 0, NOW_MS).unwrap();
        log.flush();
    }
    // These are in the segment's file as well, but no checkpoint says so.
    log.settle().unwrap();
    drop(log);
    let (log, recovery) = open(&disk, &LogConfig::default()).unwrap();
    assert_eq!(log.end_offset(), 14);
    assert_eq!(recovery.replayed_bytes, 3 * size);
    assert_eq!(
        recovery.untrusted_bytes,
        3 * size,
        "cut off, and written again"
    );
    assert_eq!(read_all(&log, 0).len(), 7);
}

#[test]
fn a_group_that_is_partly_written_behind_is_not_claimed() {
    let disk = memory_disk();
    let config = LogConfig {
        segment_bytes: 300,
        ..LogConfig::default()
    };
    let (mut log, _) = open(&disk, &config).unwrap();
    for _ in 0..6 {
        log.append_as_leader(&records(2), 0, NOW_MS).unwrap();
    }
    log.flush();
    // The first segment of the group is written, then the disk is full.
    let used = (1 << 40) - disk.free_bytes(&dir()).unwrap();
    disk.set_capacity(Some(used + 350));
    assert!(log.settle().is_err());
    let cut = log.wal.durable_lsn();
    let part = log.checkpoint_part(cut);
    assert!(part.entry.lsn < cut, "{part:?}");
    assert_eq!(part.entry.end, 0);
    log.checkpoint_failed(&part);
    disk.set_capacity(None);
    drop(log);
    let (log, _) = open(&disk, &config).unwrap();
    assert_eq!(log.end_offset(), 12);
    assert_eq!(read_all(&log, 0).len(), 6);
}

#[test]
fn records_of_a_damaged_log_are_kept_until_it_is_mended() {
    let disk = memory_disk();
    let (mut log, _) = open(&disk, &LogConfig::default()).unwrap();
    for _ in 0..3 {
        log.append_as_leader(&records(2), 0, NOW_MS).unwrap();
        log.flush();
    }
    log.checkpoint();
    for _ in 0..2 {
        log.append_as_leader(&records(2), 0, NOW_MS).unwrap();
        log.flush();
    }
    let ring = log.ring;
    drop(log);
    let segment = dir().join("00000000000000000000.log");
    let whole = tidemark_env::disk::read_file(&disk, &segment, 1 << 20).unwrap();
    disk.open(&segment, tidemark_env::disk::OpenMode::ReadWrite)
        .unwrap()
        .set_len(5)
        .unwrap();
    assert!(open(&disk, &LogConfig::default()).is_err());
    // What a broker does then: it keeps them, and begins a new ring.
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let data = PathBuf::from("/data");
    let at = |ring: RingId| data.join("wal").join(ring.to_string());
    let mut recovered = RecoveredDir::read(&shared, &data, at, false).unwrap();
    let (id, known) = recovered.take(Uuid::default(), 0).unwrap();
    let kept = crate::KeptTail::keep(&disk, &dir(), &known)
        .unwrap()
        .unwrap();
    assert_eq!(kept.bytes, 2 * records(2).bytes.len() as u64);
    let checkpoint = DirCheckpoint {
        ring: RingId([1; 16]),
        clean: true,
        released_lsn: 0,
        next_lsn: recovered.next_lsn,
        next_log_id: recovered.next_log_id,
        logs: BTreeMap::from([(id, known.checkpoint)]),
    };
    checkpoint.write(&disk, &data).unwrap();
    disk.remove_dir_all(&at(ring)).unwrap();
    disk.open(&segment, tidemark_env::disk::OpenMode::ReadWrite)
        .unwrap()
        .write_at(&whole, 0)
        .unwrap();
    for _ in 0..2 {
        let (log, _) = open(&disk, &LogConfig::default()).unwrap();
        assert_eq!(log.end_offset(), 10);
        assert_eq!(read_all(&log, 0).len(), 5);
    }
    assert!(
        !disk.exists(&kept.path).unwrap(),
        "it is not needed any more"
    );
}

/// Found by a power cut test: a topic was deleted while its part of a checkpoint was made.
#[test]
fn a_log_that_is_deleted_while_it_is_checkpointed_is_passed_over() {
    let disk = memory_disk();
    let (mut log, _) = open(&disk, &LogConfig::default()).unwrap();
    log.append_as_leader(&records(2), 3, NOW_MS).unwrap();
    log.flush();
    log.settle().unwrap();
    let cut = log.wal.durable_lsn();
    let part = log.checkpoint_part(cut);
    disk.rename(&dir(), &PathBuf::from("/data/topic-0.deleted"))
        .unwrap();
    sync_parts(&disk, &PathBuf::from("/data"), &[part]).unwrap();
}

/// An unmounted volume, or a `wal.dir` that was changed, must not pass for an empty log.
#[test]
fn a_write_ahead_log_that_is_not_there_is_asked_for() {
    let disk = memory_disk();
    let (mut log, _) = open(&disk, &LogConfig::default()).unwrap();
    log.append_as_leader(&records(2), 0, NOW_MS).unwrap();
    log.flush();
    drop(log);
    let ring = ring_dir(&disk, &PathBuf::from("/data"));
    let aside = PathBuf::from("/aside");
    disk.rename(&ring, &aside).unwrap();
    let error = open(&disk, &LogConfig::default()).unwrap_err().to_string();
    assert!(error.contains("wal.dir"), "{error}");
    disk.rename(&aside, &ring).unwrap();
    let (log, _) = open(&disk, &LogConfig::default()).unwrap();
    assert_eq!(log.end_offset(), 2);
}
