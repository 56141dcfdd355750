//! Thousands of histories. `SIM_SEEDS=n` runs so many, `SIM_SEED=n` only one and tells
//! its steps.

use std::collections::BTreeMap;
use std::sync::Mutex;

use tidemark_env::task;
use tidemark_sim::history::{Options, run};

const SEEDS: u64 = 5_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn what_was_promised_survives_every_history() {
    // A violation is told with its steps; panics on the way would hide them.
    std::panic::set_hook(Box::new(|_| ()));
    let (from, count) = match number("SIM_SEED") {
        Some(seed) => (seed, 1),
        None => (0, number("SIM_SEEDS").unwrap_or(SEEDS)),
    };
    let seen = Mutex::new(BTreeMap::<&str, u64>::new());
    let seeds = (from..from + count).collect();
    let ran = task::in_parallel("history", 2, seeds, |seed| {
        let report = run(seed, &Options::default())?;
        let mut seen = seen.lock().unwrap();
        for (what, times) in report.seen {
            *seen.entry(what).or_default() += times;
        }
        Ok(())
    });
    let _hook = std::panic::take_hook();
    if let Err(violation) = ran {
        let violation: tidemark_sim::history::Violation = violation;
        panic!("{violation}");
    }
    let seen = seen.into_inner().unwrap();
    println!("{count} histories: {seen:?}");
    if count >= 1000 {
        // They are worth something.
        for what in [
            "clean close",
            "create",
            "delete",
            "directory failed",
            "duplicate",
            "kill",
            "no room",
            "power cut",
            "kill in a step",
            "end in a step",
            "read",
            "recovery ended by a crash",
            "retention",
            "ring full",
            "stale read",
            "torn tail",
            "truncation",
        ] {
            assert!(
                seen.get(what).is_some_and(|times| *times > 50),
                "{what}: {seen:?}"
            );
        }
    }
}

#[test]
fn equal_seeds_give_equal_histories() {
    for seed in 0..40 {
        let options = Options::default();
        if let (Ok(first), Ok(second)) = (run(seed, &options), run(seed, &options)) {
            assert_eq!(first, second, "seed {seed}");
            let other = run(seed + 1, &options).map(|report| report.trace);
            assert_ne!(Some(first.trace), other.ok(), "seed {seed} and the next");
        }
    }
}
