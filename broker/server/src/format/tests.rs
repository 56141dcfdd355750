//! Formatting: what it makes, what it refuses, and that a power cut in it can be made good.

use super::*;
use tidemark_config::{BrokerLayers, ConfigMap};
use tidemark_env::disk::MemDisk;

fn settings(more: &[(&str, &str)]) -> BrokerSettings {
    let mut map = ConfigMap::from([
        ("node.id".to_owned(), "1".to_owned()),
        ("log.dirs".to_owned(), "/a,/b".to_owned()),
    ]);
    map.extend(more.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
    let none = ConfigMap::new();
    BrokerSettings::resolve(BrokerLayers {
        dynamic: &none,
        dynamic_default: &none,
        fixed: &map,
    })
    .unwrap()
}

const CLUSTER: &[(&str, &str)] = &[
    ("listeners", "PLAINTEXT://:9092,CONTROLLER://a:9093"),
    ("controller.listener.names", "CONTROLLER"),
    ("controller.quorum.bootstrap.servers", "a:9093,b:9093"),
];

/// Ids that are counted up.
fn ids(from: u8) -> impl FnMut() -> Uuid {
    let mut next = from;
    move || {
        next += 1;
        Uuid::from_random([next; 16])
    }
}

fn id(n: u8) -> Uuid {
    Uuid::from_random([n; 16])
}

fn voters() -> Voters {
    let voter = |node_id: i32, host: &str, n: u8| InitialVoter {
        node_id,
        address: format!("{host}:9093"),
        directory_id: id(n),
    };
    Voters::Initial(vec![voter(1, "a", 101), voter(2, "b", 102)])
}

fn mem() -> (MemDisk, Arc<dyn Disk>) {
    let mem = MemDisk::default();
    let disk: Arc<dyn Disk> = Arc::new(mem.clone());
    (mem, disk)
}

/// What is not formatted.
fn missing(disk: &Arc<dyn Disk>, settings: &BrokerSettings) -> Vec<PathBuf> {
    match read_formatted(disk, settings) {
        Ok(Err(Unformatted(missing))) => missing,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_formatted_is_found_again() {
    let (mem, disk) = mem();
    let settings = settings(CLUSTER);
    assert_eq!(
        missing(&disk, &settings),
        [Path::new("/a"), Path::new("/b")]
    );
    let made = format(&disk, &settings, None, &voters(), ids(0)).unwrap();
    assert_eq!(made.directories[0], (PathBuf::from("/a"), id(101)));
    assert_eq!(made.directories[1].0, Path::new("/b"));
    mem.crash();
    assert_eq!(read_formatted(&disk, &settings).unwrap().unwrap(), made);
    let voter = raft::read_identity(&*disk, Path::new("/a/metadata"));
    assert_eq!(voter.unwrap().unwrap().voter.directory_id, id(101));
    let again = format(&disk, &settings, None, &voters(), ids(50)).unwrap_err();
    assert!(matches!(again, FormatError::Already { .. }), "{again}");
}

#[test]
fn a_node_that_is_no_controller_has_no_quorum_directory() {
    let (_, disk) = mem();
    let settings = settings(&[
        ("process.roles", "broker"),
        ("controller.quorum.bootstrap.servers", "a:9093"),
    ]);
    let refused = format(&disk, &settings, None, &Voters::Standalone, ids(0)).unwrap_err();
    assert!(matches!(refused, FormatError::NoController(1)), "{refused}");
    let refused = format(&disk, &settings, None, &Voters::Others, ids(0)).unwrap_err();
    assert!(matches!(refused, FormatError::NoCluster(1)), "{refused}");
    let made = format(&disk, &settings, Some(id(9)), &Voters::Others, ids(0)).unwrap();
    assert_eq!((made.cluster_id, made.quorum), (id(9), None));
    assert!(read_formatted(&disk, &settings).unwrap().is_ok());
}

#[test]
fn contradictions_are_refused_and_leave_nothing() {
    let (_, disk) = mem();
    let here = settings(CLUSTER);
    let Voters::Initial(mut list) = voters() else {
        panic!("a list")
    };
    list[1].node_id = 1;
    let twice = format(&disk, &here, None, &Voters::Initial(list.clone()), ids(0)).unwrap_err();
    assert!(matches!(twice, FormatError::Twice(_)), "{twice}");
    list[0].node_id = 3;
    list[1].node_id = 2;
    let absent = format(&disk, &here, None, &Voters::Initial(list), ids(0)).unwrap_err();
    assert!(matches!(absent, FormatError::NotAVoter(1)), "{absent}");
    let alone = format(&disk, &settings(&[]), None, &voters(), ids(0)).unwrap_err();
    assert!(matches!(alone, FormatError::NoListener), "{alone}");
    assert_eq!(missing(&disk, &here).len(), 2);
}

#[test]
fn a_directory_of_another_cluster_is_not_taken_over() {
    let (_, disk) = mem();
    let here = settings(CLUSTER);
    format(&disk, &here, Some(id(1)), &voters(), ids(0)).unwrap();
    let foreign = format(&disk, &here, Some(id(2)), &voters(), ids(0)).unwrap_err();
    assert!(matches!(foreign, FormatError::Identity(_)), "{foreign}");
    let other = settings(&[("node.id", "2")]);
    let foreign = format(&disk, &other, None, &Voters::Standalone, ids(0)).unwrap_err();
    assert!(matches!(foreign, FormatError::Identity(_)), "{foreign}");
}

#[test]
fn a_copied_directory_and_one_with_strange_files_are_refused() {
    let (_, disk) = mem();
    let here = settings(&[]);
    format(&disk, &here, None, &Voters::Standalone, ids(0)).unwrap();
    let first = DirectoryIdentity::read(&*disk, Path::new("/a")).unwrap();
    disk.create_dir_all(Path::new("/c")).unwrap();
    first.unwrap().write(&*disk, Path::new("/c")).unwrap();
    let with_copy = settings(&[("log.dirs", "/a,/b,/c")]);
    let copied = read_formatted(&disk, &with_copy).unwrap_err();
    assert!(
        matches!(copied, FormatError::Identity(IdentityError::Copied { .. })),
        "{copied}"
    );
    disk.create_dir_all(Path::new("/etc/ssh")).unwrap();
    let strange = settings(&[("log.dirs", "/etc")]);
    let refused = format(&disk, &strange, None, &Voters::Standalone, ids(50)).unwrap_err();
    assert!(
        matches!(
            refused,
            FormatError::Identity(IdentityError::NotOurs { .. })
        ),
        "{refused}"
    );
}

#[test]
fn a_lost_metadata_disk_does_not_begin_a_second_quorum_of_its_cluster() {
    let (_, disk) = mem();
    let apart = settings(&[("metadata.log.dir", "/meta")]);
    let first = format(&disk, &apart, None, &Voters::Standalone, ids(0)).unwrap();
    assert_eq!(first.directories.len(), 3);
    disk.create_dir_all(Path::new("/b/t-0")).unwrap();
    let elsewhere = settings(&[("metadata.log.dir", "/new")]);
    assert_eq!(missing(&disk, &elsewhere), [Path::new("/new")]);
    let refused = format(&disk, &elsewhere, None, &Voters::Standalone, ids(50)).unwrap_err();
    assert!(
        matches!(&refused, FormatError::Used { entry, .. } if entry == "t-0"),
        "{refused}"
    );
    // As a member that joins it may be formatted.
    let joined = format(&disk, &elsewhere, None, &Voters::Others, ids(50)).unwrap();
    assert_eq!(joined.cluster_id, first.cluster_id);
}

#[test]
fn a_directory_that_was_added_or_replaced_is_given_an_identity_beside_the_others() {
    let (_, disk) = mem();
    let one = settings(&[("log.dirs", "/a")]);
    let first = format(&disk, &one, None, &Voters::Standalone, ids(0)).unwrap();
    disk.create_dir_all(Path::new("/a/t-0")).unwrap();
    let two = settings(&[]);
    assert_eq!(missing(&disk, &two), [Path::new("/b")]);
    let second = format(&disk, &two, None, &Voters::Standalone, ids(50)).unwrap();
    assert_eq!(second.cluster_id, first.cluster_id);
    assert_eq!(second.directories[0], first.directories[0]);
    // What the quorum's directory says of itself outlives a lost file beside it.
    disk.remove(Path::new("/a/meta.properties")).unwrap();
    disk.remove_dir_all(Path::new("/a/t-0")).unwrap();
    let third = format(&disk, &two, None, &Voters::Standalone, ids(90)).unwrap();
    assert_eq!(third, second);
}

#[test]
fn another_quorums_directory_is_not_taken_over() {
    let (_, disk) = mem();
    let here = settings(&[]);
    let made = format(&disk, &here, None, &Voters::Standalone, ids(0)).unwrap();
    let other = DirectoryIdentity {
        cluster_id: made.cluster_id,
        node_id: 1,
        directory_id: id(77),
    };
    other.write(&*disk, Path::new("/a")).unwrap();
    let mixed = read_formatted(&disk, &here).unwrap_err();
    assert!(matches!(mixed, FormatError::Mixed { .. }), "{mixed}");
}

#[test]
fn a_power_cut_at_any_operation_is_made_good_by_the_same_words() {
    let here = settings(CLUSTER);
    let mut cut = 0;
    for operation in 0..200 {
        for seed in 0..4_u64 {
            let (mem, disk) = mem();
            mem.cut_power_after(operation);
            let first = format(&disk, &here, Some(id(9)), &voters(), ids(0));
            cut += u32::from(first.is_err());
            mem.crash_torn(seed * 1000 + operation);
            let second = format(&disk, &here, Some(id(9)), &voters(), ids(50));
            match (&first, second) {
                (Ok(_), Err(FormatError::Already { .. })) | (_, Ok(_)) => {}
                // Its last write may have come through.
                (Err(_), Err(FormatError::Already { .. })) => {}
                (_, other) => panic!("operation {operation}, seed {seed}: {other:?}"),
            }
            mem.crash();
            let found = read_formatted(&disk, &here).unwrap().unwrap();
            assert_eq!(found.directories[0].1, id(101));
            if let Ok(first) = first {
                assert_eq!(found, first, "operation {operation}, seed {seed}");
            }
        }
    }
    assert!(cut > 40, "the power was cut {cut} times in the middle");
}
