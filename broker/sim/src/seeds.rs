//! Many seeds, each in a process of its own: nothing is left over from one to the next, and one
//! that never ends can be ended.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use tidemark_env::{clock, task};

use crate::cluster::{LEAST_ACKNOWLEDGED, Report};

/// What has to be reached in at least one seed of twenty, or the histories are worth too little.
pub const STATES: &[&str] = &[
    "broker ended for its disk",
    "commit",
    "debug: a duplicate is answered",
    "fault: clock jump",
    "fault: connections reset",
    "fault: cut off",
    "fault: cut off one way",
    "fault: disk error",
    "fault: disk full",
    "fault: disk stands still",
    "fault: kill",
    "fault: kill on a full disk",
    "fault: pause",
    "fault: power cut",
    "fault: power cut at a change of some files",
    "fault: power cut at a change of the disk",
    "fault: restart",
    "fault: slow network and disks",
    "info: new generation",
    "info: there is room on the disk again: records are taken in",
    "info: this node is the active controller",
    "partitions added",
    "placed crash",
    "refused write",
    "topic deleted",
];
/// And these where there is no bucket, whose faults leave less time for it.
pub const STATES_UNTIERED: &[&str] = &["broker ended for a disk that stood still"];
/// And these where there are three brokers or more.
pub const STATES_OF_CLUSTERS: &[&str] = &[
    "debug: a log is cut",
    "debug: an ISR grows",
    "debug: an ISR shrinks",
    "fault: disk lost",
    "leaders elected",
    "replicas moved",
    "voter replaced",
    "warn: brokers are fenced: nothing was heard of them",
];
/// And these where there is a bucket.
pub const STATES_OF_TIERED: &[&str] = &[
    "bucket: a create that was given up came too late",
    "bucket: garbage deleted",
    "bucket: late write",
    "bucket: lie",
    "bucket: lost answer",
    "bucket: manifest",
    "bucket: no answer",
    "bucket: upload in parts",
    "fault: Crash at a manifest",
    "fault: Pause at a manifest",
    "fault: bucket Away",
    "fault: bucket Denied",
    "fault: bucket Flaky",
    "fault: bucket Lying",
    "fault: bucket Silent",
    "fault: bucket Slow",
    "fault: bucket Throttled",
    "bucket: orphan deleted",
    "error: records wait for the bucket and tier.reserve.bytes is used up: producers to tiered \
     topics are refused until it takes some",
    "info: deleted from the bucket what uploads had left behind",
    "info: producers to tiered topics are served as before",
    "read by time",
    "records deleted",
    "warn: records wait for the bucket: producers to tiered topics are slowed",
];
/// And these where the cluster is lost and comes back.
pub const STATES_OF_RESTORED: &[&str] = &[
    "broker of the old cluster goes on",
    "everything was uploaded before the loss",
    "restore: cut short",
    "restored",
];
/// What each seed has to have at least.
const LEAST_FAULTS: u64 = 5;
/// The share of seeds is looked at from so many on.
const ENOUGH: u64 = 40;
/// Who waits is told after each so many seeds.
const TOLD_EVERY: usize = 100;

/// Which seeds are run, and how.
#[derive(Debug, Clone)]
pub struct Seeds {
    /// The first.
    pub from: u64,
    /// How many.
    pub count: u64,
    /// Brokers of each.
    pub brokers: usize,
    /// Simulated seconds with faults.
    pub seconds: u64,
    /// With a bucket.
    pub tiered: bool,
    /// And the cluster is lost and comes back from it.
    pub restored: bool,
    /// Processes at a time.
    pub processes: usize,
}

/// A report in lines, as one process tells it to the other.
pub fn told(report: &Report) -> String {
    let mut text = format!(
        "hash {:016x}\nfaults {}\nacknowledged {}\nlasted {}\n",
        report.hash, report.faults, report.acknowledged, report.lasted_ms
    );
    for (what, times) in &report.seen {
        text += &format!("seen {times} {what}\n");
    }
    for what in &report.broken {
        text += &format!("broken {}\n", what.replace('\n', " "));
    }
    text
}

/// The report that a process told.
pub fn heard(text: &str) -> Report {
    let mut report = Report::default();
    for line in text.lines() {
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        let number = rest.parse().unwrap_or(0);
        match kind {
            "hash" => report.hash = u64::from_str_radix(rest, 16).unwrap_or(0),
            "faults" => report.faults = number,
            "acknowledged" => report.acknowledged = number,
            "lasted" => report.lasted_ms = number,
            "seen" => {
                let (times, what) = rest.split_once(' ').unwrap_or(("0", rest));
                let times = times.parse().unwrap_or(0);
                report.seen.insert(what.to_owned(), times);
            }
            "broken" => report.broken.push(rest.to_owned()),
            _ => {}
        }
    }
    report
}

/// Runs one seed in a process of `program`.
pub fn in_a_process(program: &Path, seed: u64, all: &Seeds) -> Report {
    let ran = Command::new(program)
        .args(["cluster", "--seed", &seed.to_string()])
        .args(["--brokers", &all.brokers.to_string()])
        .args(["--seconds", &all.seconds.to_string()])
        .args(all.tiered.then_some("--tiered"))
        .args(all.restored.then_some("--restored"))
        .stdin(Stdio::null())
        .output();
    let output = match ran {
        Ok(output) => output,
        Err(error) => {
            return Report {
                broken: vec![format!("no process: {error}")],
                ..Report::default()
            };
        }
    };
    let mut report = heard(&String::from_utf8_lossy(&output.stdout));
    if !output.status.success() && report.broken.is_empty() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().last().unwrap_or_default();
        report.broken.push(format!("{}: {last}", output.status));
    }
    report
}

/// Runs all seeds; gives what is to be said, and whether all was well. How far it is, and what
/// went wrong, is told on the standard error meanwhile.
pub fn run(program: &Path, all: &Seeds) -> (String, bool) {
    let started = clock::monotonic();
    let reports = Mutex::new(BTreeMap::new());
    let seeds = (all.from..all.from + all.count).collect();
    let ran: Result<(), ()> = task::in_parallel("seed", all.processes.max(1), seeds, |seed| {
        let report = in_a_process(program, seed, all);
        let mut reports = reports.lock().unwrap_or_else(PoisonError::into_inner);
        let mut err = std::io::stderr();
        for what in wrong(&report, all) {
            drop(writeln!(err, "seed {seed}: {what}"));
        }
        reports.insert(seed, report);
        if reports.len().is_multiple_of(TOLD_EVERY) {
            drop(writeln!(err, "{} of {} seeds", reports.len(), all.count));
        }
        Ok(())
    });
    let reports = reports.into_inner().unwrap_or_else(PoisonError::into_inner);
    let (mut text, good) = summary(&reports, all);
    let took = started.elapsed().as_secs_f64().max(0.001);
    let lasted: u64 = reports.values().map(|report| report.lasted_ms / 1000).sum();
    text += &format!(
        "{} seeds, {lasted} simulated seconds in {took:.0} s: {:.0} seeds a minute\n",
        reports.len(),
        reports.len() as f64 / took * 60.0
    );
    (text, good && ran.is_ok())
}

/// What is wrong with a history, or with what it is worth.
fn wrong(report: &Report, all: &Seeds) -> Vec<String> {
    let mut wrong = report.broken.clone();
    if report.faults < LEAST_FAULTS && all.seconds >= 60 {
        wrong.push(format!("only {} faults", report.faults));
    }
    if report.acknowledged < LEAST_ACKNOWLEDGED && all.seconds >= 60 {
        wrong.push(format!("only {} acknowledged records", report.acknowledged));
    }
    wrong
}

/// Faults, states and failures of all seeds, and whether all was well.
fn summary(reports: &BTreeMap<u64, Report>, all: &Seeds) -> (String, bool) {
    let mut text = String::new();
    let mut good = true;
    let mut seen: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for (what, times) in reports.values().flat_map(|report| &report.seen) {
        let (seeds, all_times) = seen.entry(what).or_default();
        *seeds += 1;
        *all_times += times;
    }
    let count = reports.len() as u64;
    text += &format!("{:>8} {:>7}  seen\n", "times", "seeds");
    for (what, (seeds, times)) in &seen {
        let share = *seeds as f64 / count.max(1) as f64 * 100.0;
        text += &format!("{times:>8} {share:>6.1}%  {what}\n");
    }
    let of_clusters = STATES_OF_CLUSTERS.iter().filter(|_| all.brokers > 2);
    let of_tiered = STATES_OF_TIERED.iter().filter(|_| all.tiered);
    let of_restored = STATES_OF_RESTORED.iter().filter(|_| all.restored);
    let untiered = STATES_UNTIERED.iter().filter(|_| !all.tiered);
    let states = STATES.iter().chain(of_clusters).chain(of_tiered);
    let states = states.chain(untiered);
    for what in states.chain(of_restored) {
        let (seeds, _) = seen.get(what).copied().unwrap_or_default();
        if count >= ENOUGH && seeds * 20 < count {
            good = false;
            text += &format!("in too few seeds: {what}\n");
        }
    }
    for (seed, report) in reports {
        let wrong = wrong(report, all);
        for what in wrong.iter().take(10) {
            text += &format!("seed {seed}: {what}\n");
        }
        if !wrong.is_empty() {
            good = false;
            text += &format!(
                "again: cargo run --profile sim -p tidemark-sim -- cluster{}{} --brokers {} --seconds {} --seed {seed}\n",
                if all.tiered { " --tiered" } else { "" },
                if all.restored { " --restored" } else { "" },
                all.brokers,
                all.seconds
            );
        }
    }
    (text, good)
}
