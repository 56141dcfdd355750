//! Whole brokers and their clients. `SIM_SEEDS=n` runs so many histories.

#![allow(unexpected_cfgs, reason = "a cfg of tokio's, for its own chance")]

use std::path::Path;

use tidemark_sim::seeds::{Seeds, in_a_process, run};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tidemark-sim");

fn seeds(count: u64, seconds: u64) -> Seeds {
    Seeds {
        from: 0,
        count,
        brokers: 3,
        seconds,
        tiered: false,
        restored: false,
        processes: 2,
    }
}

fn tiered(count: u64, seconds: u64) -> Seeds {
    Seeds {
        tiered: true,
        ..seeds(count, seconds)
    }
}

fn count(usually: u64) -> u64 {
    let count = std::env::var("SIM_SEEDS").ok();
    count
        .and_then(|count| count.parse().ok())
        .unwrap_or(usually)
}

#[test]
fn what_was_promised_to_clients_survives_every_history() {
    let (told, good) = run(Path::new(PROGRAM), &seeds(count(20), 60));
    println!("{told}");
    assert!(good, "{told}");
}

/// The bucket is away, slow, refuses, loses answers, lies.
#[test]
fn what_was_promised_survives_whatever_the_bucket_does() {
    let (told, good) = run(Path::new(PROGRAM), &tiered(count(20), 60));
    println!("{told}");
    assert!(good, "{told}");
}

/// All brokers and disks are lost, and the cluster comes back from its bucket.
#[test]
fn what_the_bucket_has_survives_the_loss_of_the_cluster() {
    let restored = Seeds {
        restored: true,
        ..tiered(count(10), 60)
    };
    let (told, good) = run(Path::new(PROGRAM), &restored);
    println!("{told}");
    assert!(good, "{told}");
}

/// Seeds that broke a promise once, or the harness.
#[test]
fn what_was_mended_stays_mended() {
    let all = seeds(1, 60);
    // 5, 26 and 63 never ended: a pause of what was followed no more was waited for without end.
    // 17, 154: a broker was stopped while it started, and started on a disk that was marked.
    // 1682: a consumer went back to a deposed leader, and began from the start. 4413: a broker
    // whose metadata log failed while it started asked for ever. 8148: a log that could not be cut
    // was out of use, and its broker went on without it. 51126: a member that was new began at what
    // its group had committed, asked a leader that had been deposed while it stood still, and began
    // from the start.
    for seed in [5, 17, 26, 63, 154, 1682, 4413, 8148, 51126] {
        let report = in_a_process(Path::new(PROGRAM), seed, &all);
        assert_eq!(report.broken, [""; 0], "seed {seed}");
    }
    let all = tiered(1, 60);
    // 262: as 51126. 234: a leader that had copied only what was local took a late retry for a new
    // batch. 110166: a start whose checkpoint's segment was deleted, and whose log had been cut below
    // that checkpoint's end, began a segment below its first one. 121101: a replica heard of the start
    // of a log before it heard that the log had begun anew. 121225: a leader whose log had just failed
    // told a reader in the bucket that its offset is out of range, and it began from the start. 210115:
    // a follower waited half a minute for a broker that was gone to answer its connection, while the
    // next one of that number led. 211056: a new leader sent a reader back to where the log had begun
    // before the last leader deleted.
    for seed in [234, 262, 110166, 121101, 121225, 210115, 211056] {
        let report = in_a_process(Path::new(PROGRAM), seed, &all);
        assert_eq!(report.broken, [""; 0], "seed {seed}");
    }
    let all = Seeds {
        restored: true,
        ..all
    };
    // 81000: a replica waited for its backup, was taken out of the ISR, copied the log and led; then
    // the backup came and took the place of that log. 81008: as 81000. 81023: all was lost before the
    // bucket had any metadata, and segments were there. 130003: a replica was moved away a second time
    // while its broker was down, which did not start then: what was set aside before was in the way. 130064: a bucket hung over a
    // backup of what groups had committed, and there was none for ten times as long.
    // 130102: what waited for its backup was tried again by a clock that had jumped back. 130470: the
    // disk failed while a replica's directory was taken in, and nobody opened it again. 200057: the
    // leader had deleted garbage, and replicas took its manifest for another backup, which none of
    // them may begin with: there were too few in sync.
    for seed in [81000, 81008, 81023, 130003, 130064, 130102, 130470, 200057] {
        let report = in_a_process(Path::new(PROGRAM), seed, &all);
        assert_eq!(report.broken, [""; 0], "seed {seed}");
    }
}

/// A single broker is the same code with a quorum of one.
#[test]
fn one_broker_alone_keeps_its_promises() {
    let alone = Seeds {
        brokers: 1,
        ..seeds(5, 60)
    };
    let (told, good) = run(Path::new(PROGRAM), &alone);
    assert!(good, "{told}");
}

#[test]
fn equal_seeds_give_equal_histories() {
    let mut hashes = Vec::new();
    for seed in 0..4 {
        let all = match seed % 2 {
            0 => seeds(1, 20),
            _ => tiered(1, 20),
        };
        let one = in_a_process(Path::new(PROGRAM), seed, &all);
        let other = in_a_process(Path::new(PROGRAM), seed, &all);
        assert_eq!(one.broken, [""; 0]);
        assert_eq!(one.hash, other.hash, "seed {seed}");
        assert_eq!(one.seen, other.seen, "seed {seed}");
        hashes.push(one.hash);
    }
    hashes.dedup();
    assert_eq!(hashes.len(), 4, "each seed has a history of its own");
}

/// In one process the runtime's own chance has to be seeded as well.
#[cfg(tokio_unstable)]
#[test]
fn equal_seeds_give_equal_histories_in_one_process() {
    use tidemark_sim::cluster::{Options, run};
    let options = Options {
        seconds: 20,
        ..Options::default()
    };
    for seed in 0..4 {
        let hash = || run(seed, &options).map(|report| report.hash);
        assert_eq!(hash(), hash(), "seed {seed}");
    }
}
