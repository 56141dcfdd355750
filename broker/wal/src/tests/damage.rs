//! Bits that flip, files that go missing.

use super::*;

/// Twelve groups of one record each, of three logs, in three files.
fn filled() -> (MemDisk, Arc<dyn Disk>, Scan) {
    let (memory, disk) = memory_disk();
    let wal = create(&disk, small());
    for offset in 0..12i64 {
        append(&wal, 1 + offset.cast_unsigned() % 3, offset, 12_000);
        assert!(wal.write_next());
    }
    let found = look(&disk, RING, 0);
    assert_eq!(found.entries.len(), 12);
    (memory, disk, found)
}

fn path_of(found: &Scan, lsn: Lsn) -> (PathBuf, u64) {
    let entry = &found.entries[usize::try_from(lsn - 1).unwrap()];
    let name = format!("{:010}.wal", entry.file + 1);
    (dir().join(name), entry.position)
}

#[test]
fn acknowledged_bytes_that_changed_name_their_log() {
    for within in [0, 16, 20, 21, 500, 11_999] {
        let (memory, disk, before) = filled();
        let (path, position) = path_of(&before, 5);
        memory.corrupt(&path, position + within, 4).unwrap();
        let found = look(&disk, RING, 0);
        assert_eq!(found.damage.len(), 1, "{:?}", found.damage);
        let damage = &found.damage[0];
        assert_eq!((damage.lsn, damage.log), (5, Some(LogId(2))));
        assert_eq!(damage.offsets, Some((4, 5)));
        assert_eq!(damage.file.as_deref(), Some(&*path));
        assert_eq!((found.last_lsn, found.entries.len()), (12, 11));
        assert!(found.torn.is_none());
        assert_genuine(&found);
        assert!(look(&disk, RING, 5).damage.is_empty(), "not asked for");
    }
}

#[test]
fn an_unreadable_directory_may_be_anyones() {
    for within in [0, 9, 12, 33, 57, 96, 140] {
        let (memory, disk, before) = filled();
        let (path, position) = path_of(&before, 5);
        memory
            .corrupt(&path, position - 4096 + within, 0x80)
            .unwrap();
        if within == 9 {
            assert!(
                scan(&disk, &dir(), RING, 0, &verify).is_err(),
                "a newer version"
            );
            continue;
        }
        let found = look(&disk, RING, 0);
        assert_eq!(found.damage.len(), 1, "{:?}", found.damage);
        assert_eq!((found.damage[0].lsn, found.damage[0].log), (5, None));
        assert_eq!((found.last_lsn, found.entries.len()), (12, 11));
        assert!(found.torn.is_none());
    }
}

#[test]
fn the_last_group_is_torn_when_it_is_bad() {
    // In its header, its directory and its payload.
    for within in [-4096, -4000, -3990, 0, 20, 21, 11_999] {
        let (memory, disk, before) = filled();
        let (path, position) = path_of(&before, 12);
        let at = position.checked_add_signed(within).unwrap();
        memory.corrupt(&path, at, 1).unwrap();
        let found = look(&disk, RING, 0);
        assert!(found.damage.is_empty(), "{:?}", found.damage);
        assert_eq!((found.last_lsn, found.entries.len()), (11, 11));
        // Without its magic it does not look like anything.
        assert_eq!(found.torn.is_some(), within != -4096);
        assert!(found.torn.is_none_or(|torn| torn.lsn == 12));
    }
}

#[test]
fn no_bit_that_flips_gives_altered_bytes_out() {
    let (memory, disk, before) = filled();
    for entry in disk.list(&dir()).unwrap() {
        let path = dir().join(&entry.name);
        for position in (0..entry.len).step_by(509) {
            memory.corrupt(&path, position, 0x10).unwrap();
            let found = look(&disk, RING, 0);
            assert_genuine(&found);
            let lost = 12 - found.entries.len();
            let named = found.damage.len() + usize::from(found.last_lsn == 11);
            assert_eq!(lost, named, "{path:?} {position} {:?}", found.damage);
            memory.corrupt(&path, position, 0x10).unwrap();
        }
    }
    assert_eq!(look(&disk, RING, 0).entries, before.entries);
}

#[test]
fn a_missing_file_is_damage_except_behind_the_checkpoint() {
    let (_, disk, before) = filled();
    let (path, _) = path_of(&before, 5);
    disk.remove(&path).unwrap();
    let found = look(&disk, RING, 0);
    assert_eq!(found.damage.len(), 1, "{:?}", found.damage);
    assert_eq!((found.damage[0].lsn, found.damage[0].log), (5, None));
    assert!(found.damage[0].reason.contains("5 to 8"));
    let lsns: Vec<_> = found.entries.iter().map(|entry| entry.lsn).collect();
    assert_eq!(lsns, [1, 2, 3, 4, 9, 10, 11, 12]);
    assert!(look(&disk, RING, 8).damage.is_empty());
    assert_eq!(look(&disk, RING, 7).damage.len(), 1);
}

#[test]
fn a_missing_last_file_is_damage_as_far_as_others_know_of_it() {
    let (_, disk, before) = filled();
    let (path, _) = path_of(&before, 1);
    disk.remove(&path).unwrap();
    let found = look(&disk, RING, 0);
    assert_eq!((found.damage[0].lsn, found.damage[0].log), (1, None));
    assert_eq!(found.last_lsn, 12);
}

#[test]
fn a_copy_of_a_group_in_another_place_is_not_one() {
    let (memory, disk, before) = filled();
    let (path, position) = path_of(&before, 3);
    let file = memory
        .open(&path, tidemark_env::disk::OpenMode::ReadWrite)
        .unwrap();
    // Its header alone, in a file that is looked at first.
    let header = file.read_bytes_at(position - 4096, 4096).unwrap();
    let other = memory
        .open(
            &dir().join("0000000000.wal"),
            tidemark_env::disk::OpenMode::Create,
        )
        .unwrap();
    other.write_at(&header, position - 4096).unwrap();
    other.write_at(&header, 0).unwrap();
    let found = look(&disk, RING, 0);
    assert_eq!(found.entries.len(), before.entries.len());
    assert!(found.damage.is_empty(), "{:?}", found.damage);
    assert_genuine(&found);
}

#[test]
fn groups_of_another_history_do_not_follow() {
    let (memory, disk, before) = filled();
    // The same ring, numbers and places, but other records.
    let (_, other) = memory_disk();
    let wal = create(&other, small());
    for offset in 100..112 {
        append(&wal, 1, offset, 12_000);
        assert!(wal.write_next());
    }
    let (path, _) = path_of(&before, 5);
    let foreign = tidemark_env::disk::read_file(&*other, &path, 1 << 20).unwrap();
    let file = memory
        .open(&path, tidemark_env::disk::OpenMode::ReadWrite)
        .unwrap();
    file.write_at(&foreign, 0).unwrap();
    let found = look(&disk, RING, 0);
    let at: Vec<_> = found
        .damage
        .iter()
        .map(|damage| (damage.lsn, damage.log))
        .collect();
    assert_eq!(at, [(5, None), (9, None)], "{:?}", found.damage);
}
