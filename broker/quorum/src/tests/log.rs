//! The file: what survives, what is cut, what is refused.

use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use tidemark_env::disk::{
    Disk, Fault, FaultError, FaultOp, MemDisk, OpenMode, read_file, write_file_atomic,
};
use tidemark_model::{ConfigResource, Image, MetadataRecord};

use crate::{MetadataLog, MetadataLogError, Recovery};

const DIR: &str = "/data/metadata";
const LOG: &str = "/data/metadata/log";
const HEADER_BYTES: usize = 16;

fn disk() -> Arc<MemDisk> {
    Arc::new(MemDisk::new())
}

fn open(disk: &Arc<MemDisk>) -> Result<(MetadataLog, Image, Recovery), MetadataLogError> {
    MetadataLog::open(disk.clone(), Path::new(DIR), false)
}

fn setting(value: usize) -> MetadataRecord {
    MetadataRecord::ConfigChanged {
        resource: ConfigResource::AllBrokers,
        name: format!("n{}", value % 3),
        value: Some(value.to_string()),
    }
}

/// Commits `count` batches; the image and the log's length before the first and after each.
fn commit_batches(disk: &Arc<MemDisk>, count: usize) -> Vec<(u64, usize)> {
    let (mut log, mut image, _) = open(disk).unwrap();
    let length = || bytes(disk).len();
    let mut states = vec![(image.hash(), length())];
    for n in 0..count {
        let batch = [setting(n)];
        image = image.apply(&batch).unwrap();
        log.commit(&batch).unwrap();
        states.push((image.hash(), length()));
    }
    states
}

fn bytes(disk: &Arc<MemDisk>) -> Vec<u8> {
    read_file(&**disk, Path::new(LOG), 1 << 20)
        .unwrap()
        .to_vec()
}

fn disk_with_log(bytes: &[u8]) -> Arc<MemDisk> {
    let disk = disk();
    disk.create_dir_all(Path::new(DIR)).unwrap();
    write_file_atomic(&*disk, Path::new(LOG), bytes).unwrap();
    disk
}

#[test]
fn a_file_torn_at_any_byte_recovers_to_the_batches_before() {
    let whole = disk();
    let states = commit_batches(&whole, 5);
    let bytes = bytes(&whole);
    for cut in 0..=bytes.len() {
        let torn = disk_with_log(&bytes[..cut]);
        if cut < HEADER_BYTES {
            assert!(
                matches!(open(&torn), Err(MetadataLogError::Corrupt { .. })),
                "{cut}"
            );
            continue;
        }
        let (hash, end) = *states.iter().rev().find(|(_, end)| *end <= cut).unwrap();
        let (mut log, image, recovery) = open(&torn).unwrap();
        assert_eq!(image.hash(), hash, "cut at {cut}");
        assert_eq!(recovery.torn_bytes, (cut - end) as u64);
        // It goes on as if the torn write had never been tried.
        let batch = [setting(77)];
        let image = image.apply(&batch).unwrap();
        log.commit(&batch).unwrap();
        let (_, again, recovery) = open(&torn).unwrap();
        assert_eq!((again.hash(), again.index()), (image.hash(), image.index()));
        assert_eq!(recovery.torn_bytes, 0);
    }
}

#[test]
fn a_flipped_bit_is_refused_unless_nothing_durable_follows() {
    let whole = disk();
    let states = commit_batches(&whole, 4);
    let bytes = bytes(&whole);
    let (before_last, last_begins) = states[3];
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            match open(&disk_with_log(&damaged)) {
                Ok((_, image, _)) => {
                    assert!(at >= last_begins, "byte {at} bit {bit} was not noticed");
                    assert_eq!(image.hash(), before_last, "byte {at} bit {bit}");
                }
                Err(error) => {
                    assert!(at < last_begins, "byte {at} bit {bit}: {error}");
                    assert!(
                        matches!(error, MetadataLogError::Corrupt { .. }),
                        "byte {at} bit {bit}: {error}"
                    );
                    assert!(
                        error.to_string().contains("Restore the directory"),
                        "{error}"
                    );
                }
            }
        }
    }
}

#[test]
fn damage_is_left_as_it_was_found() {
    let whole = disk();
    let states = commit_batches(&whole, 3);
    whole
        .corrupt(Path::new(LOG), states[1].1 as u64 + 25, 0xff)
        .unwrap();
    let before = bytes(&whole);
    assert!(open(&whole).is_err());
    assert_eq!(bytes(&whole), before);
}

#[test]
fn a_missing_entry_is_noticed() {
    let whole = disk();
    let states = commit_batches(&whole, 3);
    let mut bytes = bytes(&whole);
    bytes.drain(states[0].1..states[1].1);
    let error = open(&disk_with_log(&bytes)).unwrap_err();
    assert!(matches!(error, MetadataLogError::Corrupt { .. }), "{error}");
    let whole = disk();
    let states = commit_batches(&whole, 3);
    let mut bytes = self::bytes(&whole);
    bytes.drain(states[1].1..states[2].1);
    assert!(open(&disk_with_log(&bytes)).is_err());
}

#[test]
fn a_newer_format_is_named() {
    let whole = disk();
    commit_batches(&whole, 1);
    let mut bytes = bytes(&whole);
    bytes[11] = 2;
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &bytes[..12]);
    bytes[12..16].copy_from_slice(&u32::try_from(crc).unwrap().to_be_bytes());
    let error = open(&disk_with_log(&bytes)).unwrap_err();
    assert!(
        matches!(error, MetadataLogError::NewerFormat { found: 2, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("run the version that wrote it"));
}

#[test]
fn a_log_that_must_exist_is_not_made() {
    let disk = disk();
    let error = MetadataLog::open(disk.clone(), Path::new(DIR), true).unwrap_err();
    assert!(matches!(error, MetadataLogError::Missing { .. }), "{error}");
    let (log, _, recovery) = open(&disk).unwrap();
    assert!(recovery.created && log.index() == 0);
    assert!(!open(&disk).unwrap().2.created);
}

#[test]
fn a_new_log_in_new_directories_survives_a_power_cut() {
    for seed in 0..20 {
        let disk = disk();
        commit_batches(&disk, 1);
        disk.crash_with_seed(seed);
        assert_eq!(open(&disk).unwrap().1.index(), 1, "seed {seed}");
    }
}

#[test]
fn a_snapshot_takes_the_place_of_the_log_before_it() {
    let disk = disk();
    let (mut log, mut image, _) = open(&disk).unwrap();
    log.set_snapshot_after_bytes(200);
    let mut snapshots = 0;
    for n in 0..100 {
        let batch = [setting(n)];
        image = image.apply(&batch).unwrap();
        log.commit(&batch).unwrap();
        if log.wants_snapshot() {
            log.snapshot(&image).unwrap();
            snapshots += 1;
        }
    }
    assert!(snapshots > 5);
    assert!(bytes(&disk).len() < 500, "the log starts over");
    let (log, again, recovery) = open(&disk).unwrap();
    assert_eq!((again.hash(), again.index()), (image.hash(), 100));
    assert_eq!(log.index(), 100);
    assert!(recovery.replayed_batches < 20);

    disk.remove(Path::new(LOG)).unwrap();
    assert!(matches!(open(&disk), Err(MetadataLogError::Missing { .. })));
}

#[test]
fn a_damaged_snapshot_is_refused() {
    let disk = disk();
    let (mut log, mut image, _) = open(&disk).unwrap();
    image = image.apply(&[setting(1)]).unwrap();
    log.commit(&[setting(1)]).unwrap();
    log.snapshot(&image).unwrap();
    let path = Path::new("/data/metadata/snapshot");
    let length = read_file(&*disk, path, 1 << 20).unwrap().len();
    for at in 0..length {
        disk.corrupt(path, at as u64, 0x10).unwrap();
        assert!(
            matches!(open(&disk), Err(MetadataLogError::Corrupt { .. })),
            "byte {at}"
        );
        disk.corrupt(path, at as u64, 0x10).unwrap();
    }
    assert_eq!(open(&disk).unwrap().1.hash(), image.hash());
}

#[test]
fn entries_that_a_snapshot_covers_are_skipped() {
    // As after a crash between the snapshot's rename and the cut of the log.
    let disk = disk();
    commit_batches(&disk, 4);
    let (mut log, image, _) = open(&disk).unwrap();
    let full = bytes(&disk);
    log.snapshot(&image).unwrap();
    let file = disk.open(Path::new(LOG), OpenMode::ReadWrite).unwrap();
    file.write_at(&full, 0).unwrap();
    let (_, again, recovery) = open(&disk).unwrap();
    assert_eq!((again.hash(), again.index()), (image.hash(), 4));
    assert_eq!(recovery.replayed_batches, 0);
}

#[test]
fn a_full_disk_refuses_one_batch_and_a_failed_fsync_all_after_it() {
    let disk = disk();
    let (mut log, image, _) = open(&disk).unwrap();
    log.commit(&[setting(1)]).unwrap();
    disk.set_capacity(Some(bytes(&disk).len() as u64 + 10));
    assert!(log.commit(&[setting(2)]).is_err());
    assert!(!log.has_failed());
    disk.set_capacity(None);
    log.commit(&[setting(3)]).unwrap();

    disk.inject(Fault {
        op: FaultOp::Sync,
        path_contains: "metadata/log".into(),
        after: 0,
        times: 1,
        error: FaultError::Eio,
    });
    assert!(log.commit(&[setting(4)]).is_err());
    assert!(log.has_failed());
    assert!(matches!(
        log.commit(&[setting(5)]),
        Err(MetadataLogError::Failed)
    ));

    let (_, again, _) = open(&disk).unwrap();
    let kept = image
        .apply(&[setting(1)])
        .unwrap()
        .apply(&[setting(3)])
        .unwrap();
    let with_unanswered = kept.apply(&[setting(4)]).unwrap();
    assert!([kept.hash(), with_unanswered.hash()].contains(&again.hash()));
}

proptest! {
    /// Whatever a power cut leaves, every committed batch is there, and at most the one
    /// that was under way besides.
    #[test]
    fn committed_batches_survive_a_power_cut(
        steps in prop::collection::vec(0..10u8, 1..40),
        seeds in prop::collection::vec(any::<u64>(), 1..4),
    ) {
        let disk = disk();
        let mut committed = Image::default();
        for seed in seeds {
            let (mut log, image, _) = open(&disk).unwrap();
            prop_assert_eq!(image.hash(), committed.hash());
            prop_assert_eq!(image.index(), committed.index());
            for step in &steps {
                let batch = [setting(usize::from(*step) + usize::try_from(committed.index()).unwrap())];
                log.commit(&batch).unwrap();
                committed = committed.apply(&batch).unwrap();
                if *step == 0 {
                    log.snapshot(&committed).unwrap();
                }
            }
            disk.crash_with_seed(seed);
        }
        prop_assert_eq!(open(&disk).unwrap().1.hash(), committed.hash());
    }

    /// A commit or a snapshot that dies at any of its disk operations loses nothing before it.
    #[test]
    fn a_failure_at_any_step_loses_nothing_committed(after in 0..12u32, op in 0..3usize, seed in any::<u64>()) {
        let disk = disk();
        let (mut log, mut committed, _) = open(&disk).unwrap();
        disk.inject(Fault {
            op: [FaultOp::Write, FaultOp::Sync, FaultOp::Name][op],
            path_contains: "metadata".into(),
            after,
            times: u32::MAX,
            error: FaultError::Eio,
        });
        let mut unanswered = None;
        for n in 0..8 {
            let batch = [setting(n)];
            let next = committed.apply(&batch).unwrap();
            if log.commit(&batch).is_err() {
                unanswered = Some(next.hash());
                break;
            }
            committed = next;
            if n % 2 == 1 && log.snapshot(&committed).is_err() {
                break;
            }
        }
        disk.clear_faults();
        disk.crash_with_seed(seed);
        let found = open(&disk).unwrap().1.hash();
        prop_assert!(found == committed.hash() || Some(found) == unanswered);
    }

    #[test]
    fn any_bytes_open_or_err(bytes in prop::collection::vec(any::<u8>(), 0..200), sound_header: bool) {
        let whole = disk();
        commit_batches(&whole, 0);
        let mut file = if sound_header { self::bytes(&whole) } else { Vec::new() };
        file.extend_from_slice(&bytes);
        drop(open(&disk_with_log(&file)));
    }
}
