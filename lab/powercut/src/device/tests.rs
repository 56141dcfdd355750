//! What survives a cut, by hand and against chance.
use super::*;

fn synced(device: &mut Device, ino: Ino) {
    let sync = device.begin_file_sync(ino).unwrap();
    device.finish_sync(sync);
}

fn names_synced(device: &mut Device, ino: Ino) {
    let sync = device.begin_dir_sync(ino).unwrap();
    device.finish_sync(sync);
}

/// Cuts until one keeps nothing unasked.
fn cuts(make: impl Fn(&mut Device), check: impl Fn(&Device)) {
    for seed in 0..200 {
        let mut device = Device::new(seed);
        make(&mut device);
        device.cut();
        check(&device);
    }
}

/// Whether `check` holds after some cuts and fails after others.
fn both_ways(make: impl Fn(&mut Device), check: impl Fn(&Device) -> bool) {
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        let mut device = Device::new(seed);
        make(&mut device);
        device.cut();
        seen.insert(check(&device));
    }
    assert_eq!(seen.len(), 2, "{seen:?}");
}

fn content(device: &Device, name: &str) -> Option<Vec<u8>> {
    let ino = device.lookup(ROOT, name).ok()?;
    Some(device.read(ino, 0, usize::MAX).unwrap().to_vec())
}

#[test]
fn what_was_synced_survives_every_cut() {
    cuts(
        |device| {
            let a = device.create(ROOT, "a", false).unwrap();
            device.write(a, 0, &[1; 10_000]).unwrap();
            synced(device, a);
            names_synced(device, ROOT);
        },
        |device| assert_eq!(content(device, "a").unwrap(), vec![1; 10_000]),
    );
}

#[test]
fn a_name_needs_the_sync_of_its_directory() {
    both_ways(
        |device| {
            let a = device.create(ROOT, "a", false).unwrap();
            device.write(a, 0, &[1; 10]).unwrap();
            synced(device, a);
        },
        |device| content(device, "a").is_some(),
    );
}

#[test]
fn bytes_need_the_sync_of_their_file_and_one_that_began_after_them() {
    let made = |device: &mut Device| {
        let a = device.create(ROOT, "a", false).unwrap();
        names_synced(device, ROOT);
        device.write(a, 0, &[1; BLOCK]).unwrap();
        let sync = device.begin_file_sync(a).unwrap();
        device.write(a, 0, &[2; BLOCK]).unwrap();
        device.write(a, BLOCK as u64, &[2; BLOCK]).unwrap();
        device.finish_sync(sync);
    };
    both_ways(made, |device| content(device, "a").unwrap().len() == BLOCK);
    both_ways(made, |device| content(device, "a").unwrap()[0] == 1);
    cuts(made, |device| {
        let found = content(device, "a").unwrap();
        assert!(found[..BLOCK].iter().all(|b| [1, 2].contains(b)));
        assert!(found[BLOCK..].iter().all(|b| [0, 2].contains(b)));
    });
}

#[test]
fn an_older_sync_that_ends_later_takes_nothing_back() {
    let mut device = Device::new(1);
    let a = device.create(ROOT, "a", false).unwrap();
    names_synced(&mut device, ROOT);
    device.write(a, 0, b"old").unwrap();
    let older = device.begin_file_sync(a).unwrap();
    device.write(a, 0, b"newer").unwrap();
    synced(&mut device, a);
    device.finish_sync(older);
    device.cut();
    assert_eq!(content(&device, "a").unwrap(), b"newer");
}

#[test]
fn blocks_are_torn_and_survive_out_of_order() {
    let mut torn = false;
    let mut reordered = false;
    for seed in 0..300 {
        let mut device = Device::new(seed);
        let a = device.create(ROOT, "a", false).unwrap();
        device.write(a, 0, &vec![1; 16 * BLOCK]).unwrap();
        synced(&mut device, a);
        names_synced(&mut device, ROOT);
        device.write(a, 0, &vec![2; 16 * BLOCK]).unwrap();
        device.cut();
        let found = content(&device, "a").unwrap();
        let kept: Vec<_> = found
            .chunks(BLOCK)
            .map(|b| b.iter().all(|x| *x == 2))
            .collect();
        torn |= found
            .chunks(BLOCK)
            .any(|b| b.contains(&1) && b.contains(&2));
        reordered |= kept.windows(2).any(|pair| !pair[0] && pair[1]);
        assert!(found.chunks(SECTOR).all(|s| s.iter().all(|x| *x == s[0])));
    }
    assert!(torn && reordered);
}

#[test]
fn a_rename_is_whole_or_not_at_all() {
    let made = |device: &mut Device| {
        for (name, byte) in [("a", 1), ("b", 2)] {
            let ino = device.create(ROOT, name, false).unwrap();
            device.write(ino, 0, &[byte]).unwrap();
            synced(device, ino);
        }
        names_synced(device, ROOT);
        device.rename((ROOT, "a"), (ROOT, "b"), false).unwrap();
    };
    both_ways(made, |device| content(device, "b") == Some(vec![1]));
    cuts(made, |device| {
        let old = content(device, "a") == Some(vec![1]) && content(device, "b") == Some(vec![2]);
        let new = content(device, "a").is_none() && content(device, "b") == Some(vec![1]);
        assert!(old || new);
    });
}

#[test]
fn a_rename_between_directories_loses_nothing() {
    let made = |device: &mut Device| {
        let (x, y) = (
            device.create(ROOT, "x", true).unwrap(),
            device.create(ROOT, "y", true).unwrap(),
        );
        device.create(x, "f", false).unwrap();
        names_synced(device, x);
        names_synced(device, ROOT);
        device.rename((x, "f"), (y, "f"), false).unwrap();
    };
    cuts(made, |device| {
        let at = |dir| {
            device
                .lookup(device.lookup(ROOT, dir).unwrap(), "f")
                .is_ok()
        };
        assert!(at("x") != at("y"));
    });
}

#[test]
fn a_cut_length_comes_back_until_it_is_synced() {
    let made = |device: &mut Device| {
        let a = device.create(ROOT, "a", false).unwrap();
        device.write(a, 0, &[1; 9000]).unwrap();
        synced(device, a);
        names_synced(device, ROOT);
        device.set_len(a, 5000).unwrap();
    };
    both_ways(made, |device| content(device, "a").unwrap().len() == 9000);
    cuts(
        |device| {
            made(device);
            let a = device.lookup(ROOT, "a").unwrap();
            device.set_len(a, 9000).unwrap();
            synced(device, a);
        },
        |device| {
            let found = content(device, "a").unwrap();
            assert!(found[..5000].iter().all(|b| *b == 1) && found[5000..].iter().all(|b| *b == 0));
            assert_eq!(found.len(), 9000);
        },
    );
}

#[test]
fn syncfs_keeps_everything_and_lies_keep_nothing() {
    let made = |device: &mut Device| {
        let x = device.create(ROOT, "x", true).unwrap();
        let a = device.create(x, "a", false).unwrap();
        device.write(a, 0, &[1; 5000]).unwrap();
        let sync = device.begin_fs_sync();
        device.finish_sync(sync);
    };
    let kept = |device: &Device| {
        let Ok(x) = device.lookup(ROOT, "x") else {
            return false;
        };
        let Ok(a) = device.lookup(x, "a") else {
            return false;
        };
        device.read(a, 0, usize::MAX).unwrap() == [1; 5000]
    };
    cuts(made, |device| assert!(kept(device)));
    for lies in [(true, false), (false, true)] {
        let lying = |device: &mut Device| {
            device.lies = Lies {
                files: lies.0,
                names: lies.1,
            };
            made(device);
        };
        both_ways(lying, kept);
    }
}
