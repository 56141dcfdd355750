//! Importing a directory that looks like Kafka's: no checkpoint of ours.

use super::basics::{Spec, batch};
use super::*;
use crate::import::{ImportArgs, ImportError, Imported, import_partition};
use tidemark_env::disk::OpenMode;
use tidemark_wire::Uuid;

fn source() -> PathBuf {
    PathBuf::from("/kafka/orders-3")
}

/// A directory as Kafka would leave it: 20 batches in small segments.
fn kafka_directory(disk: &MemDisk) -> Vec<Batch> {
    disk.create_dir_all(&source()).unwrap();
    let config = LogConfig {
        segment_bytes: 1000,
        ..LogConfig::default()
    };
    let (mut log, _) = open_in(Arc::new(disk.clone()), source(), &config).unwrap();
    for sequence in 0..20 {
        let spec = Spec {
            value_bytes: 100,
            producer: Some((5, 0, sequence)),
            ..Spec::default()
        };
        log.append_as_leader(&batch(&spec), 6, NOW_MS).unwrap();
    }
    flush(&mut log);
    let batches = read_all(&log, 0);
    log.close(NOW_MS).unwrap();
    let kafka = source().parent().unwrap().to_path_buf();
    disk.remove(&kafka.join("tidemark-checkpoint")).unwrap();
    disk.remove_dir_all(&kafka.join("wal")).unwrap();
    batches
}

fn import(disk: &MemDisk) -> Result<Imported, ImportError> {
    import_unless_expired(disk, None)
}

fn import_unless_expired(
    disk: &MemDisk,
    expired_before_ms: Option<i64>,
) -> Result<Imported, ImportError> {
    let args = ImportArgs {
        disk: Arc::new(disk.clone()),
        source: source(),
        target: dir(),
        partition: 0,
        topic_id: Uuid([3; 16]),
        now_ms: NOW_MS,
        expired_before_ms,
    };
    let mut last = (0, 0);
    let imported = import_partition(&args, |done, total| {
        assert!(done >= last.0 && done <= total);
        last = (done, total);
    })?;
    assert_eq!(last.0, last.1);
    Ok(imported)
}

#[test]
fn a_partition_is_imported_with_its_offsets_producers_and_log_start() {
    let disk = memory_disk();
    let batches = kafka_directory(&disk);
    let file = disk
        .open(
            &PathBuf::from("/kafka/log-start-offset-checkpoint"),
            OpenMode::Create,
        )
        .unwrap();
    file.write_at(b"0\n2\norders 2 9\norders 3 7\n", 0).unwrap();
    let imported = import(&disk).unwrap();
    assert_eq!((imported.log_start_offset, imported.end_offset), (7, 20));
    assert_eq!((imported.batches, imported.latest_epoch), (20, Some(6)));
    assert_eq!(imported.last_producer_id, 5);
    assert!(imported.notes.is_empty());
    assert!(matches!(
        import(&disk),
        Err(ImportError::TargetNotEmpty { .. })
    ));
    disk.crash();
    let checkpoint = DirCheckpoint {
        ring: RingId([0; 16]),
        clean: true,
        released_lsn: 0,
        next_lsn: 1,
        next_log_id: 2,
        logs: BTreeMap::from([(LogId(1), imported.checkpoint)]),
    };
    checkpoint.write(&disk, dir().parent().unwrap()).unwrap();
    let with = With {
        topic_id: Some(Uuid([3; 16])),
        ..With::default()
    };
    let (mut log, recovery) =
        open_with(&shared(&disk), &dir(), &LogConfig::default(), &with).unwrap();
    assert!(recovery.clean, "{recovery:?}");
    assert_eq!(recovery.topic_id, Some(Uuid([3; 16])));
    assert_eq!(read_all(&log, 7), batches[7..]);
    let again = batch(&Spec {
        value_bytes: 100,
        producer: Some((5, 0, 19)),
        ..Spec::default()
    });
    assert!(log.append_as_leader(&again, 7, NOW_MS).unwrap().duplicate);
}

#[test]
fn a_torn_tail_is_left_out_and_damage_refused() {
    let disk = memory_disk();
    kafka_directory(&disk);
    let last = disk
        .list(&source())
        .unwrap()
        .into_iter()
        .rfind(|entry| entry.name.ends_with(".log"))
        .unwrap();
    let path = source().join(&last.name);
    let file = disk.open(&path, OpenMode::ReadWrite).unwrap();
    // Kafka preallocates with zeros, and a crash leaves half a batch.
    file.append(&[0; 500]).unwrap();
    let imported = import(&disk).unwrap();
    assert_eq!(imported.end_offset, 20);
    assert!(imported.notes[0].contains("500 bytes"), "{imported:?}");

    disk.remove_dir_all(&dir()).unwrap();
    disk.corrupt(&source().join("00000000000000000000.log"), 100, 1)
        .unwrap();
    let error = import(&disk).unwrap_err();
    assert!(
        matches!(&error, ImportError::Corrupt { position: 0, .. }),
        "{error}"
    );
    assert!(!disk.exists(&dir()).unwrap(), "nothing is left behind");
}

#[test]
fn old_formats_strange_directories_and_half_compactions_are_refused() {
    let disk = memory_disk();
    disk.create_dir_all(&source()).unwrap();
    assert!(matches!(import(&disk), Err(ImportError::NoSegments { .. })));
    let path = source().join("00000000000000000000.log");
    let file = disk.open(&path, OpenMode::Create).unwrap();
    let mut old = vec![0u8; 8];
    old.extend(30i32.to_be_bytes());
    old.extend([0, 0, 0, 0, 1]);
    old.extend([0; 25]);
    file.write_at(&old, 0).unwrap();
    let error = import(&disk).unwrap_err();
    assert!(
        matches!(error, ImportError::OldFormat { magic: 1, .. }),
        "{error}"
    );
    disk.open(
        &source().join("00000000000000000000.log.swap"),
        OpenMode::Create,
    )
    .unwrap();
    assert!(matches!(
        import(&disk),
        Err(ImportError::InterruptedCompaction { .. })
    ));
}

#[test]
fn what_retention_would_delete_at_once_is_refused() {
    let disk = memory_disk();
    let batches = kafka_directory(&disk);
    let newest_ms = batches[0].header.max_timestamp_ms;
    let error = import_unless_expired(&disk, Some(i64::MAX)).unwrap_err();
    assert!(
        matches!(&error, ImportError::Expired { newest_ms: found, .. } if *found >= newest_ms),
        "{error}"
    );
    assert!(!disk.exists(&dir()).unwrap(), "nothing is left behind");
    assert_eq!(
        import_unless_expired(&disk, Some(newest_ms))
            .unwrap()
            .end_offset,
        20
    );
}
