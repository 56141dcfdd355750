//! One suite for every disk, and what only the one in memory can do.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

use super::*;

fn on_both(check: impl Fn(&dyn Disk, &Path)) {
    let memory = MemDisk::new();
    let root = PathBuf::from("/data");
    memory.create_dir_all(&root).unwrap();
    check(&memory, &root);
    let real = tempfile::tempdir().unwrap();
    check(&FileDisk::new(), real.path());
}

#[test]
fn written_bytes_are_read_back_at_their_positions() {
    on_both(|disk, root| {
        let file = disk.open(&root.join("a"), OpenMode::CreateNew).unwrap();
        file.write_at(b"hello", 0).unwrap();
        assert_eq!(file.append(b" world").unwrap(), 5);
        file.write_vectored_at(&mut [IoSlice::new(b"!"), IoSlice::new(b"?")], 11)
            .unwrap();
        assert_eq!(file.len().unwrap(), 13);
        assert_eq!(&file.read_bytes_at(0, 100).unwrap()[..], b"hello world!?");
        assert_eq!(&file.read_bytes_at(6, 5).unwrap()[..], b"world");
        assert!(file.read_bytes_at(13, 5).unwrap().is_empty());
        let mut buffer = [0u8; 4];
        let error = file.read_exact_at(&mut buffer, 11).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        // On its way to the device, all of it is as it was, and what is not there is no matter.
        file.begin_writeback(0, 1 << 20);
        file.begin_writeback(5, 0);
        assert_eq!(&file.read_bytes_at(0, 100).unwrap()[..], b"hello world!?");
        file.set_len(3).unwrap();
        assert_eq!(&file.read_bytes_at(0, 100).unwrap()[..], b"hel");
        file.sync_data().unwrap();
        file.sync_all().unwrap();
    });
}

#[test]
fn names_are_listed_renamed_and_removed() {
    on_both(|disk, root| {
        let dir = root.join("x/y");
        disk.create_dir_all(&dir).unwrap();
        disk.create_dir_all(&dir).unwrap();
        write_file_atomic(disk, &dir.join("b"), b"12").unwrap();
        write_file_atomic(disk, &dir.join("b"), b"123").unwrap();
        disk.open(&dir.join("a"), OpenMode::Create).unwrap();
        let names: Vec<_> = disk.list(&dir).unwrap();
        assert_eq!(
            names,
            [("a", 0), ("b", 3)].map(|(name, len)| DirEntry {
                name: name.into(),
                is_dir: false,
                len
            })
        );
        assert!(disk.list(&root.join("x")).unwrap()[0].is_dir);
        assert_eq!(&read_file(disk, &dir.join("b"), 3).unwrap()[..], b"123");
        let error = read_file(disk, &dir.join("b"), 2).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        disk.rename(&root.join("x/y"), &root.join("x/z")).unwrap();
        assert!(!disk.exists(&dir).unwrap());
        assert!(disk.exists(&root.join("x/z/b")).unwrap());
        disk.remove(&root.join("x/z/b")).unwrap();
        let error = disk.remove(&root.join("x/z/b")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        disk.remove_dir_all(&root.join("x")).unwrap();
        assert!(!disk.exists(&root.join("x")).unwrap());
        assert!(disk.space(root).unwrap().free_bytes > 0);
    });
}

#[test]
fn what_is_in_a_directory_is_not_renamed_over() {
    on_both(|disk, root| {
        for dir in ["new", "old"] {
            disk.create_dir_all(&root.join(dir)).unwrap();
            write_file_atomic(disk, &root.join(dir).join("a"), dir.as_bytes()).unwrap();
        }
        let (new, old) = (root.join("new"), root.join("old"));
        let kind = |from: &Path, to: &Path| disk.rename(from, to).map_err(|error| error.kind());
        assert_eq!(kind(&new, &old), Err(io::ErrorKind::DirectoryNotEmpty));
        assert_eq!(kind(&new.join("a"), &old), Err(io::ErrorKind::IsADirectory));
        assert_eq!(
            kind(&new, &old.join("a")),
            Err(io::ErrorKind::NotADirectory)
        );
        assert_eq!(&read_file(disk, &old.join("a"), 3).unwrap()[..], b"old");
        disk.remove(&old.join("a")).unwrap();
        assert_eq!(kind(&new, &old), Ok(()));
        assert_eq!(&read_file(disk, &old.join("a"), 3).unwrap()[..], b"new");
    });
}

#[test]
fn open_modes_say_whether_the_file_may_exist() {
    on_both(|disk, root| {
        let path = root.join("f");
        for mode in [OpenMode::Read, OpenMode::ReadWrite] {
            let error = disk.open(&path, mode).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
            assert!(error.to_string().contains("f"), "{error}");
        }
        disk.open(&path, OpenMode::CreateNew).unwrap();
        let error = disk.open(&path, OpenMode::CreateNew).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        let reader = disk.open(&path, OpenMode::Read).unwrap();
        assert!(reader.write_at(b"x", 0).is_err());
        assert!(disk.open(&root.join("no/f"), OpenMode::Create).is_err());
    });
}

#[test]
fn a_directory_is_locked_for_one_holder() {
    on_both(|disk, root| {
        let held = disk.lock_dir(root).unwrap();
        let error = disk.lock_dir(root).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(held);
        disk.lock_dir(root).unwrap();
    });
}

fn memory_with_file() -> (MemDisk, PathBuf) {
    let disk = MemDisk::new();
    disk.create_dir_all(Path::new("/d")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    let path = PathBuf::from("/d/f");
    let file = disk.open(&path, OpenMode::CreateNew).unwrap();
    file.write_at(b"synced", 0).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(Path::new("/d")).unwrap();
    (disk, path)
}

#[test]
fn a_crash_drops_what_was_not_synced() {
    let (disk, path) = memory_with_file();
    let file = disk.open(&path, OpenMode::ReadWrite).unwrap();
    file.write_at(b"lost", 6).unwrap();
    let unnamed = disk.open(Path::new("/d/g"), OpenMode::Create).unwrap();
    unnamed.write_at(b"content", 0).unwrap();
    unnamed.sync_data().unwrap();
    disk.rename(&path, Path::new("/d/renamed")).unwrap();
    disk.crash();
    assert!(
        file.write_at(b"x", 0).is_err(),
        "handles die with the crash"
    );
    let names: Vec<_> = disk.list(Path::new("/d")).unwrap();
    assert_eq!(names.len(), 1, "{names:?}");
    assert_eq!(&read_file(&disk, &path, 100).unwrap()[..], b"synced");
}

#[test]
fn a_seeded_crash_keeps_a_prefix_and_repeats_itself() {
    let mut outcomes = std::collections::BTreeSet::new();
    for seed in 0..64 {
        let contents: Vec<_> = (0..2)
            .map(|_| {
                let (disk, path) = memory_with_file();
                let file = disk.open(&path, OpenMode::ReadWrite).unwrap();
                file.write_at(b" one", 6).unwrap();
                file.write_at(b" two", 10).unwrap();
                disk.crash_with_seed(seed);
                read_file(&disk, &path, 100).unwrap()
            })
            .collect();
        assert_eq!(contents[0], contents[1]);
        assert!(b"synced one two".starts_with(&contents[0][..]));
        assert!(contents[0].len() >= 6);
        outcomes.insert(contents[0].len());
    }
    assert!(outcomes.len() > 5, "{outcomes:?}");
}

#[test]
fn planned_faults_hit_their_calls_and_are_used_up() {
    let (disk, path) = memory_with_file();
    let file = disk.open(&path, OpenMode::ReadWrite).unwrap();
    disk.inject(Fault {
        op: FaultOp::Sync,
        path_contains: "/d/f".into(),
        after: 1,
        times: 1,
        error: FaultError::Eio,
    });
    file.sync_data().unwrap();
    assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(5));
    file.sync_data().unwrap();
    disk.set_capacity(Some(8));
    file.write_at(b"12", 6).unwrap();
    assert_eq!(
        file.write_at(b"3", 8).unwrap_err().kind(),
        io::ErrorKind::StorageFull
    );
    file.write_at(b"3", 0).unwrap();
    disk.set_capacity(Some(10));
    assert!(file.write_at(b"4567", 8).is_err());
    assert_eq!(&file.read_bytes_at(8, 9).unwrap()[..], b"45", "what fits");
    disk.corrupt(&path, 1, 0xff).unwrap();
    assert_eq!(file.read_bytes_at(1, 1).unwrap()[0], b'y' ^ 0xff);
}

#[test]
fn a_renamed_directory_keeps_what_was_synced_in_it() {
    let (disk, _) = memory_with_file();
    disk.open(Path::new("/d/unsynced"), OpenMode::Create)
        .unwrap();
    disk.rename(Path::new("/d"), Path::new("/e")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk.crash();
    assert!(!disk.exists(Path::new("/d")).unwrap());
    let names: Vec<_> = disk.list(Path::new("/e")).unwrap();
    assert_eq!(names.len(), 1, "{names:?}");
    let found = read_file(&disk, Path::new("/e/f"), 100).unwrap();
    assert_eq!(&found[..], b"synced");
}

#[test]
fn durable_writes_survive_and_are_read_back() {
    on_both(|disk, root| {
        let file = disk
            .open_direct(&root.join("ring"), OpenMode::CreateNew)
            .unwrap();
        let block = vec![7u8; 3 << 12];
        // Once as a direct write wants it, once at an address and length of any kind.
        let aligned = block.as_ptr().align_offset(1 << 12);
        let aligned = &block[aligned..aligned + (1 << 12)];
        file.write_durable_at(&mut [IoSlice::new(aligned), IoSlice::new(aligned)], 0)
            .unwrap();
        file.write_durable_at(&mut [IoSlice::new(b"odd"), IoSlice::new(b"ly")], 4097)
            .unwrap();
        assert_eq!(file.len().unwrap(), 8192);
        assert_eq!(&file.read_bytes_at(4096, 7).unwrap()[..], b"\x07oddly\x07");
        file.write_at(b"later", 0).unwrap();
        assert_eq!(&file.read_bytes_at(0, 6).unwrap()[..], b"later\x07");
    });
}

#[test]
fn a_durable_write_that_returned_is_there_after_a_crash() {
    let (disk, path) = memory_with_file();
    let file = disk.open_direct(&path, OpenMode::ReadWrite).unwrap();
    file.write_durable_at(&mut [IoSlice::new(b" kept")], 6)
        .unwrap();
    disk.crash();
    assert_eq!(&read_file(&disk, &path, 100).unwrap()[..], b"synced kept");
}

#[test]
fn a_synced_file_system_survives_whole() {
    let (disk, path) = memory_with_file();
    let file = disk.open(&path, OpenMode::ReadWrite).unwrap();
    file.write_at(b" too", 6).unwrap();
    disk.create_dir_all(Path::new("/d/new")).unwrap();
    disk.open(Path::new("/d/new/g"), OpenMode::Create)
        .unwrap()
        .write_at(b"content", 0)
        .unwrap();
    disk.sync_filesystem(Path::new("/d")).unwrap();
    disk.crash();
    assert_eq!(&read_file(&disk, &path, 100).unwrap()[..], b"synced too");
    let found = read_file(&disk, Path::new("/d/new/g"), 100).unwrap();
    assert_eq!(&found[..], b"content");
    let real = tempfile::tempdir().unwrap();
    FileDisk::new().sync_filesystem(real.path()).unwrap();
}

#[test]
fn a_torn_crash_keeps_any_blocks_and_repeats_itself() {
    let mut outcomes = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let contents: Vec<_> = (0..2)
            .map(|_| {
                let (disk, path) = memory_with_file();
                let file = disk.open(&path, OpenMode::ReadWrite).unwrap();
                file.write_at(&[b'.'; 4 << 12], 0).unwrap();
                file.sync_data().unwrap();
                file.write_at(&[b'x'; 4 << 12], 0).unwrap();
                disk.crash_torn(seed);
                read_file(&disk, &path, 1 << 20).unwrap()
            })
            .collect();
        assert_eq!(contents[0], contents[1]);
        assert_eq!(contents[0].len(), 4 << 12);
        for sector in contents[0].chunks(512) {
            assert!(
                sector.iter().all(|byte| *byte == sector[0]),
                "sectors are whole"
            );
        }
        outcomes.insert(contents[0].clone());
    }
    let later_without_earlier = outcomes
        .iter()
        .any(|content| content.starts_with(b".") && content.ends_with(b"x"));
    assert!(
        later_without_earlier && outcomes.len() > 20,
        "{}",
        outcomes.len()
    );
}

#[test]
fn a_flush_delay_is_paid_by_whatever_flushes() {
    let root = tempfile::tempdir().unwrap();
    let delay = std::time::Duration::from_millis(20);
    let disk = FileDisk::new().with_flush_delay(delay);
    let file = disk
        .open_direct(&root.path().join("f"), OpenMode::CreateNew)
        .unwrap();
    for flush in [
        &(|| file.write_durable_at(&mut [IoSlice::new(b"x")], 0)) as &dyn Fn() -> io::Result<()>,
        &|| file.sync_data(),
        &|| disk.sync_dir(root.path()),
        &|| disk.sync_filesystem(root.path()),
    ] {
        let before = crate::clock::monotonic();
        flush().unwrap();
        assert!(before.elapsed() >= delay);
    }
}

#[test]
fn the_power_goes_after_so_many_changes() {
    let disk = MemDisk::new();
    let path = Path::new("/f");
    let file = disk.open(path, OpenMode::CreateNew).unwrap();
    disk.cut_power_after(2);
    file.write_at(b"one", 0).unwrap();
    assert_eq!(file.read_bytes_at(0, 3).unwrap(), "one");
    assert!(!disk.power_is_off());
    file.sync_data().unwrap();
    assert!(disk.power_is_off());
    assert!(file.write_at(b"two", 0).is_err() && file.read_bytes_at(0, 3).is_err());
    assert!(disk.sync_dir(Path::new("/")).is_err());
    disk.keep_power();
    assert!(disk.power_is_off(), "what is off stays off");
    disk.crash();
    assert!(!disk.power_is_off());
    disk.cut_power_after(0);
    disk.crash();
    disk.cut_power_after(1);
    disk.keep_power();
    for _ in 0..3 {
        disk.sync_dir(Path::new("/")).unwrap();
    }
}
