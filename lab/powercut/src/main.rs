//! Cuts the power under the built binary, again and again, and looks for what it had promised.
//!
//! `lab/powercut/run` builds this and gives it a directory and a block device.
#![allow(
    clippy::print_stdout,
    reason = "a test program that prints its progress"
)]

mod books;
mod broker;
mod chance;
mod check;
mod device;
mod fuse;
mod load;
mod mount;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clap::Parser;
use tidemark_client::{Cluster, ClusterOptions, ConnectionOptions};

use crate::broker::{Launch, Running};
use crate::chance::Chance;
use crate::device::{Counts, Device, Lies, ROOT, Survivors};
use crate::fuse::Shared;
use crate::load::Load;
use crate::mount::Mounted;

/// Rounds between two sets of topics.
const ROUNDS_PER_AGE: u64 = 5;
/// Rounds within which a lying disk must be found out.
const PROOF_ROUNDS: u64 = 6;

/// Kills the broker under load, drops all that was not synced, and checks what it had acknowledged.
#[derive(Debug, Parser)]
#[command(name = "lab/powercut/run", bin_name = "lab/powercut/run")]
struct Options {
    /// Power cuts under load.
    #[arg(long, default_value_t = 50)]
    rounds: u64,
    /// Where chance begins; one from the clock if absent. Threads and sockets have a will of their own,
    /// so a seed gives the same choices again but not the same interleaving.
    #[arg(long)]
    seed: Option<u64>,
    /// The disk only pretends to sync files: this run must fail.
    #[arg(long)]
    no_fsync: bool,
    /// Shows first that the test fails on a disk that only pretends to sync files, and on one that
    /// only pretends to sync directories.
    #[arg(long)]
    prove: bool,
    /// Appends the outcome to this file, as Markdown.
    #[arg(long)]
    record: Option<PathBuf>,
    /// The binary under test.
    #[arg(long)]
    binary: PathBuf,
    /// An empty directory.
    #[arg(long)]
    work: PathBuf,
    /// A block device that nothing is written to: a mount of this kind needs one.
    #[arg(long)]
    block_device: PathBuf,
}

/// What a run came to.
#[derive(Debug, Default)]
struct Outcome {
    rounds: u64,
    acked: u64,
    failed: u64,
    starts: Vec<Duration>,
    survivors: Survivors,
    counts: Counts,
    wrong: Vec<String>,
    took: Duration,
}

impl Outcome {
    fn summary(&self) -> String {
        let mut starts = self.starts.clone();
        starts.sort_unstable();
        let median = starts.get(starts.len() / 2).map_or(0, Duration::as_millis);
        let max = starts.last().map_or(0, Duration::as_millis);
        let (s, c) = (self.survivors, self.counts);
        format!(
            "{} cuts, {} records acknowledged, {} failed, start {median} ms (median) {max} ms (max); \
             unsynced blocks: {} lost, {} kept, {} torn; unsynced names: {} lost, {} kept; \
             {} writes ({} O_DIRECT, {} dsync), syncs: {} files, {} directories, {} all; {} s",
            self.rounds,
            self.acked,
            self.failed,
            s.blocks_lost,
            s.blocks_kept,
            s.blocks_torn,
            s.names_lost,
            s.names_kept,
            c.writes,
            c.direct_writes,
            c.dsync_writes,
            c.file_syncs,
            c.dir_syncs,
            c.fs_syncs,
            self.took.as_secs()
        )
    }
}

/// A broker on its disk.
struct Stand {
    device: Shared,
    launch: Launch,
    mounted: Option<Mounted>,
    broker: Option<Running>,
    at: PathBuf,
    block_device: PathBuf,
    chance: Chance,
    survivors: Survivors,
}

impl Stand {
    fn new(options: &Options, work: &Path, seed: u64) -> std::io::Result<Self> {
        let at = work.join("disk");
        std::fs::create_dir_all(&at)?;
        let mut chance = Chance::new(seed);
        let device = Arc::new(Mutex::new(Device::new(chance.number())));
        let own_wal_dir = chance.percent(50);
        Ok(Self {
            device,
            launch: Launch::new(&options.binary, work, &at, own_wal_dir)?,
            mounted: None,
            broker: None,
            at,
            block_device: options.block_device.clone(),
            chance,
            survivors: Survivors::default(),
        })
    }

    fn mount(&mut self) -> Result<(), String> {
        let seed = self.chance.number();
        let mounted = Mounted::new(&self.device, &self.block_device, &self.at, seed);
        self.mounted = Some(mounted.map_err(|error| format!("cannot mount the disk: {error}"))?);
        Ok(())
    }

    /// Kills the broker and cuts the power at one moment: no call of the broker is answered between
    /// the two, and after them it runs no more.
    fn cut(&mut self) -> Result<(), String> {
        {
            let mut device = fuse::lock(&self.device);
            if let Some(broker) = &mut self.broker {
                broker.signal_kill();
            }
            self.survivors += device.cut();
        }
        self.broker = None;
        if let Some(mounted) = self.mounted.take() {
            let done = mounted.unmount();
            done.map_err(|error| format!("cannot unmount the disk: {error}"))?;
        }
        self.mount()
    }

    fn configure(&mut self) -> Result<(), String> {
        let configured = self.launch.configure(&mut self.chance);
        configured.map_err(|error| format!("no configuration: {error}"))
    }

    async fn start(&mut self) -> Result<Duration, String> {
        self.configure()?;
        let (broker, took) = self.launch.start().await?;
        self.broker = Some(broker);
        Ok(took)
    }
}

async fn wait(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// Rounds until the last, or until something is wrong.
async fn run(
    stand: &mut Stand,
    rounds: u64,
    lies: Lies,
    outcome: &mut Outcome,
) -> Result<(), String> {
    stand.mount()?;
    let missing = mount::missing_in_kernel(&stand.device, &stand.at);
    let missing = missing.map_err(|error| format!("the disk does not work: {error}"))?;
    if missing == [mount::SYNCFS] {
        println!("  this kernel passes syncfs on to nobody: a binary that uses it fails here");
    } else if !missing.is_empty() {
        return Err(format!(
            "this kernel does not pass on {}: a mount cannot know what was promised",
            missing.join(", ")
        ));
    }
    let root = fuse::lock(&stand.device).begin_fs_sync();
    fuse::lock(&stand.device).finish_sync(root);
    fuse::lock(&stand.device).counts = Counts::default();
    stand.configure()?;
    stand.launch.format()?;
    let mut start = stand.start().await?;
    let options = ClusterOptions {
        connection: ConnectionOptions {
            client_id: "powercut".to_owned(),
            connect_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(8),
            ..ConnectionOptions::default()
        },
        retry_for: Duration::from_secs(10),
        retry_backoff: Duration::from_millis(20),
    };
    let cluster = Cluster::connect(&stand.launch.address, options).await;
    let cluster = cluster.map_err(|error| error.to_string())?;
    let books = load::SharedBooks::default();
    let mut load = Load::new(&cluster, &books).map_err(|error| error.to_string())?;
    for round in 0..rounds {
        let age = round / ROUNDS_PER_AGE;
        if round % ROUNDS_PER_AGE == 0 {
            load.begin_age(age).await?;
        }
        fuse::lock(&stand.device).lies = lies;
        let before = load::lock(&books).acked;
        load.begin(stand.chance.fork(), age);
        wait(Duration::from_millis(600 + stand.chance.below(1800))).await;
        if let Some(status) = stand.broker.as_mut().and_then(Running::ended) {
            return Err(format!("the broker ended under load: {status}"));
        }
        let survivors = stand.survivors;
        stand.cut()?;
        load.stop();
        let mut again = 0;
        while again < 3 && stand.chance.percent(30) {
            // Once more, somewhere in the recovery.
            again += 1;
            let broker = stand.launch.spawn().map_err(|error| error.to_string())?;
            stand.broker = Some(broker);
            let most = u64::try_from(start.as_micros()).unwrap_or(0) * 3 / 2;
            wait(Duration::from_micros(stand.chance.below(most))).await;
            stand.cut()?;
        }
        start = stand.start().await?;
        outcome.starts.push(start);
        // First: a request that was in flight at the cut is tried again, and must not be
        // acknowledged between reading what is there and judging it.
        let settled = load.settle().await;
        outcome
            .wrong
            .extend(check::names_and_offsets(&cluster, &books).await);
        let (records, wrong) = check::records(&cluster, &books).await;
        outcome.wrong.extend(wrong);
        outcome.wrong.extend(settled.err());
        outcome.rounds = round + 1;
        let books = load::lock(&books);
        (outcome.acked, outcome.failed) = (books.acked, books.failed);
        outcome.counts = fuse::lock(&stand.device).counts;
        outcome.survivors = stand.survivors;
        if books.failed > 0 {
            let first = load.first_failure().unwrap_or_default();
            outcome.wrong.push(format!(
                "{} records failed, the first: {first}",
                books.failed
            ));
        }
        println!(
            "  round {:3}: {:5} acknowledged, {:4} unsynced blocks lost, {} cuts in recovery, ready in {:3} ms, \
             {records} records read back{}",
            round + 1,
            books.acked - before,
            stand.survivors.blocks_lost - survivors.blocks_lost,
            again,
            start.as_millis(),
            if outcome.wrong.is_empty() {
                ""
            } else {
                ": WRONG"
            }
        );
        if !outcome.wrong.is_empty() {
            break;
        }
    }
    Ok(())
}

async fn whole_run(options: &Options, name: &str, seed: u64, rounds: u64, lies: Lies) -> Outcome {
    println!("{name}: {rounds} rounds, seed {seed}");
    let from = Instant::now();
    let work = options.work.join(name.replace(' ', "-"));
    let mut outcome = Outcome::default();
    match Stand::new(options, &work, seed) {
        Err(error) => outcome.wrong.push(error.to_string()),
        Ok(mut stand) => {
            if let Err(error) = run(&mut stand, rounds, lies, &mut outcome).await {
                outcome.wrong.push(error);
            }
            stand.broker = None;
            if let Some(Err(error)) = stand.mounted.take().map(Mounted::unmount) {
                outcome
                    .wrong
                    .push(format!("cannot unmount the disk: {error}"));
            }
            if !outcome.wrong.is_empty() {
                let kept = work.join("survivors");
                if let Err(error) = fuse::lock(&stand.device).dump(ROOT, &kept) {
                    println!("  the files cannot be kept: {error}");
                }
            }
        }
    }
    outcome.took = from.elapsed();
    for wrong in outcome.wrong.iter().take(10) {
        println!("  {wrong}");
    }
    println!("  {}", outcome.summary());
    outcome
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let options = Options::parse();
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seed = options
        .seed
        .unwrap_or_else(|| clock.map_or(1, |since| u64::from(since.subsec_nanos())));
    let mut lines = Vec::new();
    let mut good = true;
    if options.prove {
        let files = Lies {
            files: true,
            names: false,
        };
        let names = Lies {
            files: false,
            names: true,
        };
        for (name, lies) in [("lying about files", files), ("lying about names", names)] {
            let outcome = whole_run(&options, name, seed, PROOF_ROUNDS, lies).await;
            let verdict = match outcome.wrong.first() {
                Some(first) => format!("red in round {}, as it must be: {first}", outcome.rounds),
                None => "NOT FOUND OUT: the test cannot fail".to_owned(),
            };
            good &= !outcome.wrong.is_empty();
            lines.push(format!("{name}: {verdict}"));
        }
    }
    let lies = Lies {
        files: options.no_fsync,
        names: false,
    };
    let outcome = whole_run(&options, "power cuts", seed, options.rounds, lies).await;
    good &= outcome.wrong.is_empty();
    let verdict = if outcome.wrong.is_empty() {
        "nothing acknowledged was lost"
    } else {
        "FAILED"
    };
    lines.push(format!(
        "power cuts, seed {seed}: {verdict}: {}",
        outcome.summary()
    ));
    lines.extend(
        outcome
            .wrong
            .iter()
            .take(10)
            .map(|wrong| format!("  {wrong}")),
    );
    println!();
    for line in &lines {
        println!("powercut: {line}");
    }
    if let Some(path) = &options.record {
        let text: String = lines.iter().map(|line| format!("- {line}\n")).collect();
        let written = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()));
        if let Err(error) = written {
            println!("powercut: {} cannot be written: {error}", path.display());
            good = false;
        }
    }
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
