//! Histories with power cuts in them: what was acknowledged is there, the rest is a
//! prefix, and nothing that is needed is written over.

use tidemark_env::disk::{Fault, FaultError, FaultOp};
use tidemark_env::random::Random;

use super::*;

const HISTORIES: u64 = 2000;

#[derive(Debug, Default)]
struct Seen {
    torn: u32,
    kept_unacknowledged: u32,
    wrapped: u32,
}

fn config() -> WalConfig {
    WalConfig {
        dir: dir(),
        file_bytes: 24 << 10,
        max_bytes: 96 << 10,
        chunk_bytes: 8 << 10,
        memory_bytes: 32 << 10,
    }
}

/// A few lives of one directory.
fn history(seed: u64, seen: &mut Seen) {
    let mut random = Random::at(seed);
    let (memory, disk) = memory_disk();
    let mut first_lsn = 1;
    let mut offset = 0;
    for life in 0..1 + random.below(3) {
        let ring = RingId([u8::try_from(life).unwrap(); 16]);
        let wal = Wal::create(disk.clone(), config(), ring, first_lsn, Box::new(|_| ())).unwrap();
        // All that was appended, with its group.
        let mut appended: Vec<(Lsn, u64, EntryKind, usize)> = Vec::new();
        let mut checkpointed = first_lsn - 1;
        let mut last_tried = first_lsn - 1;
        for _ in 0..random.below(120) {
            match random.below(10) {
                0..5 => {
                    let len = match random.below(20) {
                        0 => 8 << 10,
                        1 => 9_000 + random.below(30_000) as usize,
                        _ => 25 + random.below(3000) as usize,
                    };
                    let log = random.below(4);
                    let placed = append(&wal, log, offset, len);
                    let kind = EntryKind::Batches {
                        base_offset: offset,
                        next_offset: offset + 1,
                        leader_epoch: 3,
                    };
                    appended.push((placed.lsn, log, kind, len));
                    offset += 1;
                }
                5 => {
                    let kind = EntryKind::LogStart { offset };
                    let placed = wal
                        .append(LogId(9), &Record::LogStart { offset }, |_| None)
                        .unwrap();
                    appended.push((placed.lsn, 9, kind, 0));
                }
                6..9 => {
                    let before = wal.durable_lsn();
                    if wal.write_next() {
                        assert_eq!(wal.durable_lsn(), before + 1);
                    }
                }
                _ => {
                    let durable = wal.durable_lsn();
                    checkpointed += random.below(durable - checkpointed + 1);
                    wal.recycle(checkpointed);
                    if random.below(2) == 0 {
                        wal.prepare().unwrap();
                    }
                }
            }
        }
        let durable = wal.durable_lsn();
        if durable - (first_lsn - 1) > 12 {
            seen.wrapped += 1;
        }
        // The power goes, often while a group is being written.
        if random.below(4) > 0 {
            memory.inject(Fault {
                op: FaultOp::Sync,
                path_contains: ".wal".into(),
                after: 0,
                times: 1,
                error: FaultError::Eio,
            });
            if wal.write_next() {
                last_tried = durable + 1;
            }
            memory.clear_faults();
            assert_eq!(wal.durable_lsn(), durable, "it had not returned");
        }
        let last_tried = last_tried.max(durable);
        memory.crash_torn(random.clone().number());

        let found = look(&disk, ring, checkpointed);
        assert!(found.damage.is_empty(), "{:?}", found.damage);
        assert!(
            found.last_lsn >= durable && found.last_lsn <= last_tried,
            "{durable} were acknowledged, {last_tried} tried, {} found",
            found.last_lsn
        );
        assert!(found.torn.as_ref().is_none_or(|torn| torn.lsn > durable));
        seen.torn += u32::from(found.torn.is_some());
        seen.kept_unacknowledged += u32::from(found.last_lsn > durable);
        let expected: Vec<_> = appended
            .iter()
            .filter(|(lsn, ..)| *lsn > checkpointed && *lsn <= found.last_lsn)
            .copied()
            .collect();
        let entries: Vec<_> = found
            .entries
            .iter()
            .map(|entry| (entry.lsn, entry.log.0, entry.kind, entry.len as usize))
            .collect();
        assert_eq!(entries, expected);
        assert_genuine(&found);
        first_lsn = found.last_lsn + 1;
    }
}

#[test]
fn what_was_acknowledged_survives_any_crash_and_nothing_else_is_invented() {
    let mut seen = Seen::default();
    for seed in 0..HISTORIES {
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            history(seed, &mut seen);
        }));
        if let Err(panic) = done {
            eprintln!("history {seed}");
            std::panic::resume_unwind(panic);
        }
    }
    // The histories are worth something.
    assert!(seen.torn > 100, "{seen:?}");
    assert!(seen.kept_unacknowledged > 100, "{seen:?}");
    assert!(seen.wrapped > 100, "{seen:?}");
}
