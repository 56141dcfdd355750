//! Damaged files, failing disks, and what opening makes of them.

use super::basics::{Spec, batch, records};
use super::*;
use crate::{LogError, ReadError, TimestampTarget};
use tidemark_env::disk::{Fault, FaultError, FaultOp, OpenMode, read_file};

fn log_path(base: i64) -> PathBuf {
    dir().join(format!("{base:020}.log"))
}

fn filled(disk: &MemDisk, config: &LogConfig, batches: usize) -> TestLog {
    let (mut log, _) = open(disk, config).unwrap();
    for _ in 0..batches {
        log.append_as_leader(&records(2), 0, NOW_MS).unwrap();
    }
    flush(&mut log);
    log
}

fn cutting() -> With {
    With {
        on_corruption: OnCorruption::Truncate,
        ..With::default()
    }
}

#[test]
fn a_segment_that_lost_bytes_is_refused_by_name_and_place_and_cut_when_asked() {
    let disk = memory_disk();
    let size = records(2).bytes.len() as u64;
    let mut log = filled(&disk, &LogConfig::default(), 5);
    log.checkpoint();
    log.append_as_leader(&records(2), 0, NOW_MS).unwrap();
    flush(&mut log);
    drop(log);
    // Half of the third batch is gone, and all behind it.
    let file = disk.open(&log_path(0), OpenMode::ReadWrite).unwrap();
    file.set_len(2 * size + 70).unwrap();
    for _ in 0..2 {
        let error = open(&disk, &LogConfig::default()).unwrap_err();
        let OpenError::Corrupt {
            file,
            position,
            offset,
            ..
        } = &error
        else {
            panic!("{error}")
        };
        assert_eq!((file, *position, *offset), (&log_path(0), 2 * size, 4));
        let text = error.to_string();
        assert!(
            text.contains("00000.log") && text.contains("with --cut-corrupt-logs"),
            "{text}"
        );
    }
    let (log, recovery) =
        open_with(&shared(&disk), &dir(), &LogConfig::default(), &cutting()).unwrap();
    // What the write-ahead log holds does not continue what is left: it is kept beside it.
    assert_eq!((log.end_offset(), recovery.lost_durable), (4, true));
    let aside = dir().join("00000000000000000010.log.cut");
    assert!(recovery.cut_kept_in.contains(&aside), "{recovery:?}");
    let kept = read_file(&disk, &aside, 1 << 20).unwrap();
    assert_eq!(kept.len() as u64, size);
    drop(log);
    let (log, _) = open(&disk, &LogConfig::default()).unwrap();
    assert_eq!(
        log.end_offset(),
        4,
        "and then it opens without being asked twice"
    );
}

#[test]
fn a_kept_tail_that_does_not_continue_the_log_is_set_aside_when_asked() {
    let disk = memory_disk();
    let size = records(2).bytes.len() as u64;
    let mut log = filled(&disk, &LogConfig::default(), 2);
    log.checkpoint();
    drop(log);
    // What an earlier start kept of a log that ended at 10.
    let kept = dir().join("00000000000000000010.log.kept");
    let mut bytes = records(2).bytes.to_vec();
    bytes[..8].copy_from_slice(&10i64.to_be_bytes());
    disk.open(&kept, OpenMode::Create)
        .unwrap()
        .write_at(&bytes, 0)
        .unwrap();
    let error = open(&disk, &LogConfig::default()).unwrap_err().to_string();
    assert!(
        error.contains("offset 10 follow a log that ends at 4"),
        "{error}"
    );
    assert!(disk.exists(&kept).unwrap(), "nothing is thrown away");
    let (log, recovery) =
        open_with(&shared(&disk), &dir(), &LogConfig::default(), &cutting()).unwrap();
    assert_eq!((log.end_offset(), recovery.lost_durable), (4, true));
    let aside = dir().join("00000000000000000010.log.kept.cut");
    let left = read_file(&disk, &aside, 1 << 20).unwrap();
    assert_eq!(left.len() as u64, size);
    assert!(!disk.exists(&kept).unwrap());
}

#[test]
fn damage_in_the_write_ahead_log_is_refused_and_cut_when_asked() {
    let disk = memory_disk();
    let mut log = filled(&disk, &LogConfig::default(), 3);
    log.append_as_leader(&records(2), 0, NOW_MS).unwrap();
    flush(&mut log);
    log.append_as_leader(&records(2), 0, NOW_MS).unwrap();
    flush(&mut log);
    drop(log);
    let ring = ring_dir(&disk, &PathBuf::from("/data"));
    let file = disk.list(&ring).unwrap()[0].name.clone();
    // Three groups with a head and a payload of a block each; the second one's payload.
    disk.corrupt(&ring.join(file), 3 * 4096 + 65, 1).unwrap();
    let error = open(&disk, &LogConfig::default()).unwrap_err();
    assert!(
        matches!(&error, OpenError::Corrupt { offset: 6, .. }),
        "{error}"
    );
    let (log, recovery) =
        open_with(&shared(&disk), &dir(), &LogConfig::default(), &cutting()).unwrap();
    assert!(recovery.lost_durable);
    assert_eq!(
        log.end_offset(),
        6,
        "up to the damage, and nothing behind it"
    );
    drop(log);
    let (log, _) = open(&disk, &LogConfig::default()).unwrap();
    assert_eq!(
        log.end_offset(),
        6,
        "and then it opens without being asked twice"
    );
}

#[test]
fn a_torn_group_is_cut_without_a_question() {
    let disk = memory_disk();
    let mut log = filled(&disk, &LogConfig::default(), 3);
    log.append_as_leader(&records(2), 0, NOW_MS).unwrap();
    flush(&mut log);
    drop(log);
    let ring = ring_dir(&disk, &PathBuf::from("/data"));
    let file = disk.list(&ring).unwrap()[0].name.clone();
    disk.corrupt(&ring.join(file), 3 * 4096 + 65, 1).unwrap();
    let (log, recovery) = open(&disk, &LogConfig::default()).unwrap();
    assert_eq!((log.end_offset(), log.durable_offset()), (6, 6));
    assert!(
        !recovery.lost_durable,
        "nothing says that it was acknowledged"
    );
    drop(log);
    let (log, recovery) = open(&disk, &LogConfig::default()).unwrap();
    assert_eq!(recovery.replayed_bytes, 0, "a checkpoint has it");
    assert_eq!(log.end_offset(), 6);
}

#[test]
fn lost_bytes_and_lost_segments_are_damage() {
    for case in 0..3 {
        let disk = memory_disk();
        let config = LogConfig {
            segment_bytes: 300,
            ..LogConfig::default()
        };
        let log = filled(&disk, &config, 9);
        let bases: Vec<i64> = log
            .segments
            .iter()
            .map(|segment| segment.base_offset())
            .collect();
        log.close(NOW_MS).unwrap();
        let last = *bases.last().unwrap();
        match case {
            0 => disk.remove(&log_path(last)).unwrap(),
            1 => {
                let file = disk.open(&log_path(last), OpenMode::ReadWrite).unwrap();
                file.set_len(file.len().unwrap() - 1).unwrap();
            }
            _ => {
                for base in &bases {
                    disk.remove(&log_path(*base)).unwrap();
                }
            }
        }
        let error = open(&disk, &config).unwrap_err();
        assert!(
            matches!(error, OpenError::Corrupt { .. }),
            "{case}: {error}"
        );
    }
}

#[test]
fn missing_and_senseless_indexes_are_made_again() {
    let disk = memory_disk();
    let config = LogConfig {
        segment_bytes: 2000,
        index_interval_bytes: 100,
        ..LogConfig::default()
    };
    let log = filled(&disk, &config, 60);
    let bases: Vec<i64> = log
        .segments
        .iter()
        .map(|segment| segment.base_offset())
        .collect();
    assert!(bases.len() > 2);
    log.close(NOW_MS).unwrap();
    let files = |base: i64| {
        ["index", "timeindex"].map(|extension| {
            let path = dir().join(format!("{base:020}.{extension}"));
            tidemark_env::disk::read_file(&disk, &path, 1 << 20).unwrap()
        })
    };
    let before: Vec<_> = bases.iter().map(|base| files(*base)).collect();
    assert!(before.iter().all(|[offsets, _]| offsets.len() > 16));
    disk.remove(&dir().join(format!("{:020}.index", bases[0])))
        .unwrap();
    let odd = dir().join(format!("{:020}.timeindex", bases[1]));
    disk.open(&odd, OpenMode::ReadWrite)
        .unwrap()
        .append(b"x")
        .unwrap();
    let (log, recovery) = open(&disk, &config).unwrap();
    assert_eq!(recovery.rebuilt_indexes, 2);
    for (base, before) in bases.iter().zip(&before).take(2) {
        assert_eq!(&files(*base), before, "made again as they were");
    }
    assert_eq!(read_all(&log, 0).len(), 60);
}

#[test]
fn an_index_that_lies_does_not_mislead_a_read() {
    let disk = memory_disk();
    let config = LogConfig {
        index_interval_bytes: 100,
        ..LogConfig::default()
    };
    filled(&disk, &config, 60).close(NOW_MS).unwrap();
    let index = dir().join("00000000000000000000.index");
    let len = disk.open(&index, OpenMode::Read).unwrap().len().unwrap();
    // Positions that are nowhere, offsets that are higher than they should be.
    for entry in 0..len / 8 {
        disk.corrupt(&index, entry * 8 + 7, 0x0f).unwrap();
    }
    let (log, _) = open(&disk, &config).unwrap();
    for offset in 0..log.end_offset() {
        let read = log.read_plan(offset, 1, 120, true).unwrap().load().unwrap();
        assert_eq!(read.first_offset, Some(offset / 2 * 2));
    }
}

#[test]
fn damage_is_found_when_it_is_read() {
    let disk = memory_disk();
    filled(&disk, &LogConfig::default(), 5)
        .close(NOW_MS)
        .unwrap();
    let size = records(2).bytes.len() as u64;
    disk.corrupt(&log_path(0), 2 * size + 16, 0xff).unwrap();
    let (log, _) = open(&disk, &LogConfig::default()).unwrap();
    let error = log
        .read_plan(6, 1000, 10, true)
        .unwrap()
        .load()
        .unwrap_err();
    assert!(
        matches!(&error, ReadError::Corrupt { position, .. } if *position == 2 * size),
        "{error}"
    );
    let error = log
        .timestamp_plan(TimestampTarget::Max, 10)
        .run()
        .unwrap_err();
    assert!(matches!(error, ReadError::Corrupt { .. }));
    let good = log.read_plan(0, 1, 10, true).unwrap().load().unwrap();
    assert_eq!(good.next_offset, 2);
}

#[test]
fn a_failed_write_ahead_log_refuses_and_what_was_there_is_still_read() {
    let disk = memory_disk();
    let mut log = filled(&disk, &LogConfig::default(), 1);
    disk.inject(Fault {
        op: FaultOp::Write,
        path_contains: ".wal".into(),
        after: 0,
        times: 1,
        error: FaultError::Eio,
    });
    log.append_as_leader(&records(2), 0, NOW_MS).unwrap();
    flush(&mut log);
    assert_eq!(
        log.durable_offset(),
        2,
        "what was not written is not durable"
    );
    let error = log.append_as_leader(&records(2), 0, NOW_MS).unwrap_err();
    assert!(
        matches!(error, crate::AppendError::Log(LogError::Failed { .. })),
        "{error}"
    );
    assert_eq!(read_all(&log, 0).len(), 1);
    drop(log);
    let (log, _) = open(&disk, &LogConfig::default()).unwrap();
    assert_eq!(log.end_offset(), 2);
}

#[test]
fn what_was_appended_before_a_truncation_stays_away() {
    let disk = memory_disk();
    let mut log = filled(&disk, &LogConfig::default(), 1);
    for _ in 0..3 {
        log.append_as_leader(&records(2), 0, NOW_MS).unwrap();
    }
    flush(&mut log);
    log.settle().unwrap();
    let plan = log.read_plan(6, 1000, 8, true).unwrap();
    log.truncate_to(2, NOW_MS).unwrap();
    log.append_as_leader(&records(3), 1, NOW_MS).unwrap();
    flush(&mut log);
    assert_eq!(log.durable_offset(), 5);
    assert!(matches!(plan.load(), Err(ReadError::Stale)));
    drop(log);
    disk.crash();
    let (log, _) = open(&disk, &LogConfig::default()).unwrap();
    let epochs: Vec<i32> = read_all(&log, 0)
        .iter()
        .map(|batch| batch.header.partition_leader_epoch)
        .collect();
    assert_eq!((log.end_offset(), epochs), (5, vec![0, 1]));
}

#[test]
fn a_newer_checkpoint_or_another_topic_is_refused() {
    let disk = memory_disk();
    let id = tidemark_wire::Uuid([7; 16]);
    let open_as = |topic_id| {
        let with = With {
            topic_id,
            ..With::default()
        };
        open_with(&shared(&disk), &dir(), &LogConfig::default(), &with)
    };
    let (mut log, _) = open_as(Some(id)).unwrap();
    log.append_as_leader(&records(1), 0, NOW_MS).unwrap();
    log.close(NOW_MS).unwrap();
    assert_eq!(crate::topic_id_of(&disk, &dir()).unwrap(), Some(id));
    let error = open_as(Some(tidemark_wire::Uuid([8; 16]))).unwrap_err();
    assert!(error.to_string().contains(&id.to_string()), "{error}");
    let text =
        tidemark_env::disk::read_file(&disk, &dir().join("partition.metadata"), 100).unwrap();
    assert_eq!(text, format!("version: 0\ntopic_id: {id}"));
}

#[test]
fn old_segments_go_by_age_and_the_active_one_rolls_first() {
    let disk = memory_disk();
    let config = LogConfig {
        segment_ms: 1000,
        retention_ms: 5000,
        file_delete_delay_ms: 100,
        ..LogConfig::default()
    };
    let (mut log, _) = open(&disk, &config).unwrap();
    for second in 0..4 {
        let spec = Spec {
            timestamp_ms: NOW_MS + second * 1001,
            ..Spec::default()
        };
        log.append_as_leader(&batch(&spec), 0, NOW_MS).unwrap();
    }
    assert_eq!(log.segment_count(), 4, "one for each segment.ms");
    flush(&mut log);
    log.settle().unwrap();
    let retain = |log: &mut TestLog, now_ms, high_watermark| {
        log.apply_retention(now_ms, high_watermark)
            .unwrap()
            .deleted_segments
    };
    assert_eq!(retain(&mut log, NOW_MS + 5000, 4), 0);
    assert_eq!(
        retain(&mut log, NOW_MS + 6002, 1),
        1,
        "nothing above the high watermark"
    );
    assert_eq!(log.log_start_offset(), 1);
    assert_eq!(retain(&mut log, NOW_MS + 60_000, 4), 3);
    assert_eq!(
        (
            log.log_start_offset(),
            log.end_offset(),
            log.segment_count()
        ),
        (4, 4, 1)
    );
    assert_eq!(log.size_bytes(), 0);
    assert_eq!(retain(&mut log, NOW_MS + 600_000, 4), 0);
    let segments = |disk: &MemDisk| {
        disk.list(&dir())
            .unwrap()
            .iter()
            .filter(|entry| entry.name.ends_with(".log"))
            .count()
    };
    assert_eq!(segments(&disk), 5);
    assert!(log.take_due_deletions(NOW_MS).is_none());
    assert!(
        log.take_due_deletions(NOW_MS + 600_000).is_none(),
        "not before the write-ahead log says that they are below the log start"
    );
    flush(&mut log);
    log.take_due_deletions(NOW_MS + 60_100).unwrap().run();
    assert_eq!(segments(&disk), 1);
    log.append_as_leader(&records(2), 0, NOW_MS).unwrap();
    log.close(NOW_MS).unwrap();
    let (log, recovery) = open(&disk, &config).unwrap();
    assert!(recovery.clean);
    assert_eq!((log.log_start_offset(), log.end_offset()), (4, 6));
}
