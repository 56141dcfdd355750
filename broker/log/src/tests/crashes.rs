//! Crashes at awkward moments, each of which once lost something.

use tidemark_env::disk::{Fault, FaultError, FaultOp, OpenMode};

use super::basics::records;
use super::*;
use crate::names;
use crate::segment::Segment;
use crate::sync::sync_parts;

fn fail_sync(disk: &MemDisk, path_contains: &str, after: u32) {
    disk.inject(Fault {
        op: FaultOp::Sync,
        path_contains: path_contains.to_owned(),
        after,
        times: 1,
        error: FaultError::Eio,
    });
}

fn read(disk: &Arc<dyn Disk>) -> RecoveredDir {
    let at = |ring: RingId| PathBuf::from("/data/wal").join(ring.to_string());
    RecoveredDir::read(disk, &PathBuf::from("/data"), at, false).unwrap()
}

#[test]
fn a_record_in_the_group_that_makes_its_log_is_replayed() {
    let disk = memory_disk();
    let (log, _) = open(&disk, &LogConfig::default()).unwrap();
    let (id, topic_id) = (LogId(77), Uuid([5; 16]));
    let create = Record::Create {
        topic_id: topic_id.0,
        partition: 3,
    };
    let epoch = Record::Epoch {
        leader_epoch: 9,
        start_offset: 0,
    };
    let created = log.wal.append(id, &create, |_| None).unwrap();
    let begun = log.wal.append(id, &epoch, |_| None).unwrap();
    assert_eq!(created.lsn, begun.lsn);
    assert!(log.wal.write_next());
    drop(log);
    let shared: Arc<dyn Disk> = Arc::new(disk);
    let (found, known) = read(&shared).take(topic_id, 3).unwrap();
    assert_eq!((found, known.replay.len()), (id, 1));
}

#[test]
fn an_epoch_that_a_truncation_took_stays_away() {
    let disk = memory_disk();
    let (mut log, _) = open(&disk, &LogConfig::default()).unwrap();
    log.append_as_leader(&records(2), 0, NOW_MS).unwrap();
    log.append_as_leader(&records(2), 1, NOW_MS).unwrap();
    log.flush();
    log.checkpoint();
    assert_eq!(log.truncate_to(2, NOW_MS).unwrap(), 2);
    assert_eq!(log.epochs().latest(), Some(0));
    drop(log);
    let (mut log, _) = open(&disk, &LogConfig::default()).unwrap();
    assert_eq!(log.epochs().latest(), Some(0));
    log.truncate_fully(40, NOW_MS).unwrap();
    drop(log);
    let (log, _) = open(&disk, &LogConfig::default()).unwrap();
    assert_eq!(log.epochs().latest(), None);
}

#[test]
fn a_checkpoint_in_the_middle_of_a_cut_does_not_claim_it() {
    for finished in [false, true] {
        let disk = memory_disk();
        let (mut log, _) = open(&disk, &LogConfig::default()).unwrap();
        log.append_as_leader(&records(2), 0, NOW_MS).unwrap();
        log.append_as_leader(&records(2), 1, NOW_MS).unwrap();
        log.flush();
        log.checkpoint();
        let pending = log.begin_truncate(2).unwrap();
        log.flush();
        log.checkpoint();
        if finished {
            assert_eq!(log.finish_cut(pending, NOW_MS).unwrap(), 2);
        }
        drop(log);
        let (log, _) = open(&disk, &LogConfig::default()).unwrap();
        assert_eq!((log.end_offset(), log.epochs().latest()), (2, Some(0)));
    }
}

/// Of a checkpoint's segments nothing is left, and the log had been cut below its end before: what
/// is applied begins below the first file.
#[test]
fn what_retention_took_after_a_cut_is_not_missed() {
    let disk = memory_disk();
    let config = LogConfig {
        segment_bytes: 200,
        file_delete_delay_ms: 0,
        ..LogConfig::default()
    };
    let (mut log, _) = open(&disk, &config).unwrap();
    for _ in 0..2 {
        log.append_as_leader(&records(2), 0, NOW_MS).unwrap();
    }
    log.flush();
    log.checkpoint();
    assert_eq!(log.segment_count(), 1, "the checkpoint names the first");
    assert_eq!(log.truncate_to(2, NOW_MS).unwrap(), 2);
    for _ in 0..6 {
        log.append_as_leader(&records(2), 1, NOW_MS).unwrap();
    }
    log.flush();
    log.settle().unwrap();
    log.delete_records(10).unwrap();
    log.flush();
    assert!(log.apply_retention(NOW_MS, 14).unwrap().deleted_segments > 0);
    log.flush();
    log.take_due_deletions(NOW_MS).unwrap().run();
    let files = disk.list(&dir()).unwrap();
    let mut bases = files.iter().filter_map(|file| names::parse(&file.name));
    assert!(
        bases.all(|(base, extension)| extension != names::LOG || base > 4),
        "{files:?}"
    );
    drop(log);
    let (log, recovery) = open(&disk, &config).unwrap();
    assert_eq!(recovery.cut_reason, None);
    assert_eq!((log.log_start_offset(), log.end_offset()), (10, 14));
    let bases: Vec<i64> = log.segments.iter().map(Segment::base_offset).collect();
    assert!(bases.is_sorted(), "{bases:?}");
    let offsets = read_all(&log, 10);
    let offsets = offsets.iter().map(|batch| batch.header.base_offset);
    assert_eq!(offsets.collect::<Vec<_>>(), [10, 12]);
}

/// As above, but nobody deleted them.
#[test]
fn a_segment_that_is_missing_after_a_cut_is_damage() {
    let disk = memory_disk();
    let (mut log, _) = open(&disk, &LogConfig::default()).unwrap();
    for _ in 0..2 {
        log.append_as_leader(&records(2), 0, NOW_MS).unwrap();
    }
    log.flush();
    log.checkpoint();
    assert_eq!(log.truncate_to(2, NOW_MS).unwrap(), 2);
    drop(log);
    disk.remove(&dir().join(format!("{:020}.log", 0))).unwrap();
    let error = open(&disk, &LogConfig::default()).unwrap_err();
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
}

#[test]
fn an_epoch_without_records_goes_with_a_truncation_at_the_end() {
    let disk = memory_disk();
    let (mut log, _) = open(&disk, &LogConfig::default()).unwrap();
    log.append_as_leader(&records(2), 0, NOW_MS).unwrap();
    log.start_epoch(4).unwrap();
    log.flush();
    log.checkpoint();
    assert_eq!(log.truncate_to(3, NOW_MS).unwrap(), 2);
    assert_eq!(log.epochs().latest(), Some(4), "it begins below 3");
    assert_eq!(log.truncate_to(2, NOW_MS).unwrap(), 2);
    assert_eq!(log.epochs().latest(), Some(0));
    drop(log);
    let (mut log, _) = open(&disk, &LogConfig::default()).unwrap();
    assert_eq!((log.epochs().latest(), log.end_offset()), (Some(0), 2));
    // The same without a checkpoint in between.
    log.start_epoch(6).unwrap();
    assert_eq!(log.truncate_to(2, NOW_MS).unwrap(), 2);
    drop(log);
    let (log, _) = open(&disk, &LogConfig::default()).unwrap();
    assert_eq!((log.epochs().latest(), log.end_offset()), (Some(0), 2));
}

#[test]
fn a_topic_id_that_was_torn_is_written_again() {
    let disk = memory_disk();
    drop(open(&disk, &LogConfig::default()).unwrap());
    let id = Uuid([5; 16]);
    for torn in [
        &b"version: "[..],
        b"version: 0\ntopic_id: AAA",
        b"version: \0\0",
        b"",
    ] {
        let file = disk
            .open(&dir().join("partition.metadata"), OpenMode::Create)
            .unwrap();
        file.set_len(0).unwrap();
        file.write_at(torn, 0).unwrap();
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let with = With {
            topic_id: Some(id),
            ..With::default()
        };
        open_with(&shared, &dir(), &LogConfig::default(), &with).unwrap();
        assert_eq!(crate::topic_id_of(&disk, &dir()).unwrap(), Some(id));
    }
}

#[test]
fn epochs_that_were_put_in_place_and_not_synced_survive_the_next_checkpoint() {
    let disk = memory_disk();
    let (mut log, _) = open(&disk, &LogConfig::default()).unwrap();
    log.start_epoch(3).unwrap();
    log.flush();
    // The process dies between the rename of the epochs' file and the directory's sync.
    fail_sync(&disk, "topic-0", 1);
    let cut = log.wal.durable_lsn();
    let part = log.checkpoint_part(cut);
    assert!(sync_parts(&disk, &PathBuf::from("/data"), &[part]).is_err());
    drop(log);
    drop(open(&disk, &LogConfig::default()).unwrap());
    disk.crash();
    let (log, _) = open(&disk, &LogConfig::default()).unwrap();
    assert_eq!(log.epochs().latest(), Some(3));
}

#[test]
fn a_group_that_was_only_in_the_page_cache_is_durable_before_it_is_acted_on() {
    let disk = memory_disk();
    let (mut log, _) = open(&disk, &LogConfig::default()).unwrap();
    log.append_as_leader(&records(2), 0, NOW_MS).unwrap();
    // The process dies while it waits for the group to be durable.
    fail_sync(&disk, ".wal", 0);
    log.flush();
    assert_eq!(log.durable_offset(), 0);
    drop(log);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let found = read(&shared).next_lsn;
    disk.crash();
    assert_eq!(read(&shared).next_lsn, found);
}
