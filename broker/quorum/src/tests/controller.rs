//! The shell: what is published, and which directories are accepted.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidemark_env::disk::{Disk, Fault, FaultError, FaultOp, MemDisk, write_file_atomic};
use tidemark_model::MetadataRecord;
use tidemark_wire::{ErrorCode, Uuid};

use super::{context, ids_from, new_topic, registration, settings};
use crate::decide::{Decision, LostDirectories, create_topics, register_broker};
use crate::{Controller, IdentityError, MetadataLogError, QuorumError, StartError, Started};

fn mem() -> (Arc<MemDisk>, Arc<dyn Disk>) {
    let disk = Arc::new(MemDisk::new());
    (disk.clone(), disk)
}

fn dirs(names: &[&str]) -> Vec<PathBuf> {
    names.iter().map(PathBuf::from).collect()
}

fn start(disk: &Arc<dyn Disk>, names: &[&str], first_id: u8) -> Result<Started, StartError> {
    Controller::start(disk, &dirs(names), 0, ids_from(first_id))
}

fn create(controller: &Controller, name: &str, id: u8) -> Result<(), QuorumError> {
    let settings = settings();
    controller
        .propose(|image| {
            create_topics(
                image,
                context(),
                &settings,
                &[new_topic(name, 1, 1)],
                false,
                ids_from(id),
            )
        })
        .map(|(results, _)| {
            results.into_iter().for_each(|r| drop(r.unwrap()));
        })
}

fn register(controller: &Controller) {
    controller
        .propose(|image| register_broker(image, &registration(0, 1), LostDirectories::Refuse))
        .unwrap()
        .0
        .unwrap();
}

#[test]
fn what_is_proposed_is_published_and_found_again() {
    let (mem, disk) = mem();
    let started = start(&disk, &["/a", "/b"], 10).unwrap();
    assert!(started.recovery.created);
    assert_eq!(started.directories.len(), 2);
    register(&started.controller);
    let mut watch = started.controller.watch();
    watch.mark_unchanged();
    create(&started.controller, "orders", 50).unwrap();
    assert!(watch.has_changed().unwrap());
    let image = watch.borrow_and_update().image.clone();
    assert!(image.topic("orders").is_some());
    let hash = image.hash();
    mem.crash_with_seed(7);

    let again = start(&disk, &["/a", "/b"], 90).unwrap();
    assert!(!again.recovery.created);
    assert_eq!(again.cluster_id, started.cluster_id);
    assert_eq!(again.directories, started.directories);
    assert_eq!(again.controller.image().hash(), hash);
}

#[test]
fn a_change_that_is_not_durable_is_not_published() {
    let (mem, disk) = mem();
    let controller = start(&disk, &["/a"], 10).unwrap().controller;
    register(&controller);
    let before = controller.image();
    mem.inject(Fault {
        op: FaultOp::Sync,
        path_contains: "metadata/log".into(),
        after: 0,
        times: 1,
        error: FaultError::Eio,
    });
    let error = create(&controller, "orders", 50).unwrap_err();
    assert_eq!(error.error_code(), ErrorCode::KafkaStorageError);
    assert_eq!(controller.image().hash(), before.hash());
    assert!(controller.has_failed());
    assert!(matches!(
        create(&controller, "other", 60),
        Err(QuorumError::Failed(_))
    ));
}

#[test]
fn a_rejected_batch_is_neither_written_nor_published() {
    let (mem, disk) = mem();
    let controller = start(&disk, &["/a"], 10).unwrap().controller;
    let (before, writes) = (controller.image(), mem.writes());
    let error = controller
        .propose(|_| Decision {
            records: vec![
                MetadataRecord::TopicCreated {
                    topic_id: Uuid([9; 16]),
                    name: "good".into(),
                },
                MetadataRecord::TopicDeleted {
                    topic_id: Uuid([8; 16]),
                },
            ],
            result: (),
        })
        .unwrap_err();
    assert!(matches!(error, QuorumError::Rejected(_)), "{error}");
    assert_eq!(controller.image().hash(), before.hash());
    assert_eq!(mem.writes(), writes);
    // A decision without records touches no disk.
    controller
        .propose(|_| Decision {
            records: Vec::new(),
            result: (),
        })
        .unwrap();
    assert_eq!(mem.writes(), writes);
}

#[test]
fn directories_of_others_are_refused() {
    let (_, disk) = mem();
    start(&disk, &["/a"], 10).unwrap();
    start(&disk, &["/other"], 30).unwrap();
    let error = start(&disk, &["/a", "/other"], 50).unwrap_err();
    assert!(
        matches!(
            error,
            StartError::Identity(IdentityError::Foreign {
                what: "cluster",
                ..
            })
        ),
        "{error}"
    );
    let error = Controller::start(&disk, &dirs(&["/a"]), 1, ids_from(50)).unwrap_err();
    assert!(
        matches!(
            error,
            StartError::Identity(IdentityError::Foreign { what: "broker", .. })
        ),
        "{error}"
    );
}

#[test]
fn a_directory_with_strange_files_or_without_its_metadata_is_refused() {
    let (_, disk) = mem();
    disk.create_dir_all(Path::new("/etc/ssh")).unwrap();
    let error = start(&disk, &["/etc"], 10).unwrap_err();
    assert!(
        matches!(error, StartError::Identity(IdentityError::NotOurs { .. })),
        "{error}"
    );
    start(&disk, &["/a"], 10).unwrap();
    disk.remove_dir_all(Path::new("/a/metadata")).unwrap();
    let error = start(&disk, &["/a"], 20).unwrap_err();
    assert!(
        matches!(error, StartError::Log(MetadataLogError::Missing { .. })),
        "{error}"
    );
}

#[test]
fn a_copied_directory_is_refused_and_a_new_one_gets_an_identity() {
    let (_, disk) = mem();
    let first = start(&disk, &["/a"], 10).unwrap();
    let second = start(&disk, &["/a", "/b"], 20).unwrap();
    assert_eq!(second.directories[0], first.directories[0]);
    assert_ne!(second.directories[1], first.directories[0]);
    disk.create_dir_all(Path::new("/c")).unwrap();
    first.directories[0].write(&*disk, Path::new("/c")).unwrap();
    let error = start(&disk, &["/a", "/c"], 30).unwrap_err();
    assert!(
        matches!(error, StartError::Identity(IdentityError::Copied { .. })),
        "{error}"
    );
}

#[test]
fn identity_files_of_kafkas_format_are_read() {
    let (_, disk) = mem();
    let write = |text: &str| {
        disk.create_dir_all(Path::new("/k")).unwrap();
        write_file_atomic(&*disk, Path::new("/k/meta.properties"), text.as_bytes()).unwrap();
        crate::DirectoryIdentity::read(&*disk, Path::new("/k"))
    };
    let id = Uuid([5; 16]);
    let text = format!(
        "#\n#Mon Jan 01 00:00:00 UTC 2024\nnode.id=3\ndirectory.id={id}\nversion=1\ncluster.id={id}\n"
    );
    let identity = write(&text).unwrap().unwrap();
    assert_eq!(
        (identity.node_id, identity.cluster_id, identity.directory_id),
        (3, id, id)
    );
    assert!(matches!(
        write(&text.replace("version=1", "version=2")),
        Err(IdentityError::Newer { version: 2, .. })
    ));
    for bad in [
        "",
        "version=1",
        &text.replace("node.id=3", "node.id=x"),
        &text.replace("cluster.id", "cluster"),
    ] {
        assert!(
            matches!(write(bad), Err(IdentityError::Invalid { .. })),
            "{bad}"
        );
    }
}

#[test]
fn an_interrupted_first_start_is_taken_up_again() {
    for after in 0..40 {
        let (mem, disk) = mem();
        mem.inject(Fault {
            op: if after % 2 == 0 {
                FaultOp::Sync
            } else {
                FaultOp::Name
            },
            path_contains: String::new(),
            after: after / 2,
            times: u32::MAX,
            error: FaultError::Eio,
        });
        drop(start(&disk, &["/a", "/b"], 10));
        mem.clear_faults();
        mem.crash_with_seed(u64::from(after));
        let started = start(&disk, &["/a", "/b"], 50).unwrap_or_else(|e| panic!("{after}: {e}"));
        assert_eq!(started.directories.len(), 2);
    }
}
