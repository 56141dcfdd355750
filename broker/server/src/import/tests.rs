//! Imports that fail or lose power at every step.

use super::*;
use crate::format::{Voters, format};
use std::path::PathBuf;
use tidemark_env::disk::{Disk, Fault, FaultError, FaultOp, MemDisk, OpenMode};
use tidemark_log::{DataDir, Known, Log, LogConfig, OnCorruption, OpenArgs};
use tidemark_model::Endpoint;
use tidemark_quorum::decide::{LostDirectories, Registration, register_broker};
use tidemark_records::{Batch, BatchBuilder, BatchOptions, RecordRef, patch};
use tidemark_wal::LogId;
use tidemark_wire::Uuid;

const NOW_MS: i64 = 1_700_000_000_000;
const RECORDS: i64 = 20;

fn batch(sequence: i32) -> Batch {
    let mut builder = BatchBuilder::new(BatchOptions {
        producer_id: 7,
        producer_epoch: 0,
        base_sequence: sequence,
        ..BatchOptions::default()
    });
    let record = RecordRef {
        timestamp_ms: NOW_MS,
        key: None,
        value: Some(&[b'v'; 100]),
        headers: &[],
    };
    builder.append(&record).expect("room for one record");
    let mut bytes = builder.build().expect("a batch");
    let batch = Batch::split_first(&mut bytes).expect("sound");
    batch.expect("one")
}

/// Two partitions of Kafka's in `/kafka`, and a broker's data in `/data`.
fn disk() -> MemDisk {
    let disk = MemDisk::new();
    for index in 0..2 {
        let dir = PathBuf::from(format!("/kafka/t-{index}"));
        disk.create_dir_all(&dir).expect("a directory");
        for base in [0, RECORDS / 2] {
            let path = dir.join(format!("{base:020}.log"));
            let file = disk.open(&path, OpenMode::Create).expect("a segment");
            for offset in base..base + RECORDS / 2 {
                let mut bytes = batch(offset as i32).bytes.to_vec();
                patch::set_base_offset(&mut bytes, offset).expect("a batch");
                patch::set_partition_leader_epoch(&mut bytes, 6).expect("a batch");
                file.append(&bytes).expect("room");
            }
        }
        disk.sync_filesystem(&PathBuf::from("/")).expect("a sync");
    }
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let settings = ConfigMap::from([("log.dirs".into(), "/data".into())]);
    let settings = BrokerSettings::resolve(crate::start::layers(&settings)).expect("settings");
    let formatted = format(&shared, &settings, None, &Voters::Standalone, new_id);
    let formatted = formatted.expect("an empty directory");
    let registration = Registration {
        broker_id: 0,
        incarnation_id: new_id(),
        directories: formatted.directories.iter().map(|dir| dir.1).collect(),
        endpoints: vec![Endpoint {
            name: "PLAINTEXT".into(),
            host: "h".into(),
            port: 9092,
            security_protocol: 0,
        }],
        rack: None,
    };
    let decide =
        move |image: &Image| register_broker(image, &registration, LostDirectories::Refuse);
    let (registered, _) = metadata(&disk).propose(decide).expect("durable");
    registered.expect("a broker");
    disk
}

fn metadata(disk: &MemDisk) -> Offline {
    let identity = DirectoryIdentity::read(disk, &PathBuf::from("/data")).expect("sound");
    let cluster_id = identity.expect("an identity").cluster_id;
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    Offline::new(disk, PathBuf::from("/data/metadata"), cluster_id, 0)
}

fn import(disk: &MemDisk) -> Result<ImportReport, ImportFailure> {
    let config = ImportConfig {
        settings: ConfigMap::from([("log.dirs".into(), "/data".into())]),
        disk: Arc::new(disk.clone()),
        sources: vec![PathBuf::from("/kafka")],
        topic_configs: vec![("retention.ms".into(), "-1".into())],
    };
    import_partitions(&config, |_| {})
}

fn open(disk: &MemDisk, index: i32, topic_id: Uuid) -> Log {
    let data = PathBuf::from("/data");
    let checkpoint = DirCheckpoint::read(disk, &data).expect("sound");
    let mut logs = checkpoint.expect("a checkpoint").logs.into_values();
    let known = logs
        .find(|log| log.topic_id == topic_id && log.partition == index)
        .expect("the checkpoint knows it");
    let (log, _) = Log::open(OpenArgs {
        parent: Arc::new(DataDir {
            disk: Arc::new(disk.clone()),
            path: data,
            wal: None,
        }),
        name: format!("t-{index}").into(),
        id: LogId(0),
        topic_id: Some(topic_id),
        known: Some(Known {
            checkpoint: known,
            ..Known::default()
        }),
        trust_indexes: true,
        config: Arc::new(LogConfig::default()),
        on_corruption: OnCorruption::Refuse,
        now_ms: NOW_MS,
    })
    .expect("a sound log");
    log
}

/// The topic is not there, or is there with everything in it.
fn whole_or_absent(disk: &MemDisk) -> bool {
    let image = metadata(disk).image().expect("sound");
    let Some(topic) = image.topic("t") else {
        return false;
    };
    assert_eq!(topic.partitions.len(), 2);
    assert!(image.next_producer_id() > 7, "id 7 must not be given out");
    for (index, partition) in (0..).zip(&topic.partitions) {
        let log = open(disk, index, topic.id);
        assert_eq!(log.end_offset(), RECORDS);
        assert!(partition.leader_epoch > 6, "{partition:?}");
    }
    true
}

#[test]
fn an_import_that_fails_anywhere_leaves_no_half_topic_and_can_be_repeated() {
    let mut failures = 0;
    for op in [FaultOp::Write, FaultOp::Sync, FaultOp::Name] {
        // Far more steps of each kind than there are: the last rounds go well.
        for after in 0..200 {
            let disk = disk();
            disk.inject(Fault {
                op,
                path_contains: String::new(),
                after,
                times: 1,
                error: FaultError::Eio,
            });
            let done = import(&disk);
            disk.clear_faults();
            if done.is_err() {
                failures += 1;
                // A write to the metadata that failed may have been done.
                if !whole_or_absent(&disk) {
                    import(&disk).expect("the second time nothing fails");
                    assert!(whole_or_absent(&disk), "{op:?} {after}");
                }
            } else {
                assert!(whole_or_absent(&disk), "{op:?} {after}");
            }
        }
    }
    assert!(failures > 30, "only {failures} faults were met");
}

#[test]
fn a_power_cut_after_any_step_leaves_no_half_topic() {
    for op in [FaultOp::Write, FaultOp::Sync, FaultOp::Name] {
        for after in 0..200 {
            let disk = disk();
            // All that comes after the step fails, the cleaning up too: as if it had stopped there.
            disk.inject(Fault {
                op,
                path_contains: String::new(),
                after,
                times: u32::MAX,
                error: FaultError::Eio,
            });
            let done = import(&disk).is_ok();
            disk.clear_faults();
            disk.crash_with_seed(u64::from(after));
            let there = whole_or_absent(&disk);
            assert!(there || !done, "{op:?} {after}: what was done is lost");
            if !there {
                import(&disk).expect("the second time nothing fails");
                assert!(whole_or_absent(&disk));
            }
        }
    }
}
