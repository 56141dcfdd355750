//! Runs many histories, for longer than a test may.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

use clap::{Parser, Subcommand};
use tidemark_env::{clock, sim, task};
use tidemark_sim::history::{self, Options};
use tidemark_sim::{cluster, seeds, told};
use tracing_subscriber::filter::{EnvFilter, LevelFilter, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::prelude::*;

/// Runs seeded histories with faults and checks what is promised.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Histories of data directories.
    Directories(Directories),
    /// Histories of whole brokers and their clients, each seed in a process of its own.
    Cluster(Cluster),
}

#[derive(Parser)]
struct Directories {
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// Steps of a history at most.
    #[arg(long, default_value_t = Options::default().max_steps)]
    steps: u64,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

#[derive(Parser)]
struct Cluster {
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// Brokers.
    #[arg(long, default_value_t = cluster::Options::default().brokers)]
    brokers: usize,
    /// Simulated seconds with faults.
    #[arg(long, default_value_t = cluster::Options::default().seconds)]
    seconds: u64,
    /// The topic is tiered, and the bucket has faults of its own.
    #[arg(long)]
    tiered: bool,
    /// The cluster is lost with all its disks, and comes back from the bucket.
    #[arg(long, requires = "tiered")]
    restored: bool,
    /// Processes at a time.
    #[arg(long, default_value_t = 2)]
    processes: usize,
    /// Runs this seed alone, in this process, and tells what happened.
    #[arg(long)]
    seed: Option<u64>,
    /// With --seed: prints a line for everything that happens, to compare two runs by.
    #[arg(long)]
    lines: bool,
    /// With --seed: prints what brokers log, as `info` or `tidemark_server=debug`.
    #[arg(long)]
    log: Option<String>,
}

/// In front of a line of a log: which host, and simulated seconds.
struct Place;

impl FormatTime for Place {
    fn format_time(&self, w: &mut Writer<'_>) -> std::fmt::Result {
        match sim::place() {
            Some((host, since)) => write!(w, "{:9.3} {host:<9}", since.as_secs_f64()),
            None => write!(w, "{:9} {:<9}", "", "-"),
        }
    }
}

/// Real seconds that a seed may take.
const PATIENCE: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    match Args::parse().command {
        Command::Directories(args) => directories(&args),
        Command::Cluster(args) => match args.seed {
            Some(seed) => one(seed, &args),
            None => many(&args),
        },
    }
}

fn directories(args: &Directories) -> ExitCode {
    // A failed history is told with its steps; a backtrace of each would hide them.
    std::panic::set_hook(Box::new(|_| ()));
    let options = Options {
        max_steps: args.steps,
        ..Options::default()
    };
    let started = clock::monotonic();
    let mut out = std::io::stdout();
    let mut done = 0;
    while done < args.seeds {
        let part = 500.min(args.seeds - done);
        let from = args.from + done;
        let seeds = (from..from + part).collect();
        let ran = task::in_parallel("history", args.threads.max(1), seeds, |seed| {
            history::run(seed, &options).map(drop)
        });
        if let Err(violation) = ran {
            drop(writeln!(out, "{violation}"));
            return ExitCode::FAILURE;
        }
        done += part;
        let took = started.elapsed().as_secs_f64();
        drop(writeln!(
            out,
            "{done} histories in {took:.0} s, {:.0} a minute, none broke a promise",
            done as f64 / took * 60.0
        ));
    }
    ExitCode::SUCCESS
}

/// One seed, for people and for [`many`].
fn one(seed: u64, args: &Cluster) -> ExitCode {
    let printing = args.log.as_ref().map(|filter| {
        tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .with_timer(Place)
            .with_ansi(false)
            .with_filter(EnvFilter::new(filter))
    });
    // What replicas and readers come to again and again is told to who asks for it.
    let counted = Targets::new()
        .with_default(LevelFilter::INFO)
        .with_target("tidemark_client::consumer", LevelFilter::DEBUG)
        .with_target("tidemark_server::partition", LevelFilter::DEBUG);
    tracing_subscriber::registry()
        .with(told::Counting.with_filter(counted))
        .with(printing)
        .init();
    // A panic anywhere fails the seed, whoever would have caught it.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        hook(panic);
        drop(writeln!(std::io::stdout(), "broken panic: {panic}"));
        std::process::exit(1);
    }));
    let (_ends_with_us, ends) = mpsc::channel::<()>();
    let watching = task::background("watchdog", move || {
        if ends.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
            drop(writeln!(
                std::io::stdout(),
                "broken it still ran after {} s",
                PATIENCE.as_secs()
            ));
            std::process::exit(1);
        }
    });
    let options = cluster::Options {
        brokers: args.brokers,
        seconds: args.seconds,
        tiered: args.tiered,
        restored: args.restored,
        lines: args.lines,
    };
    // Not locked while it runs: whoever panics, or waits too long, has to be able to say so.
    let mut out = std::io::stdout();
    let report = match watching.map_err(|error| error.to_string()) {
        Ok(()) => cluster::run(seed, &options),
        Err(error) => Err(error),
    };
    let report = match report {
        Ok(mut report) => {
            report.seen.extend(told::take());
            report
        }
        Err(error) => {
            drop(writeln!(out, "broken {error}"));
            return ExitCode::FAILURE;
        }
    };
    for line in &report.lines {
        drop(writeln!(out, "line {line}"));
    }
    drop(write!(out, "{}", seeds::told(&report)));
    match report.broken.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn many(args: &Cluster) -> ExitCode {
    let mut out = std::io::stdout();
    let all = seeds::Seeds {
        from: args.from,
        count: args.seeds,
        brokers: args.brokers,
        seconds: args.seconds,
        tiered: args.tiered,
        restored: args.restored,
        processes: args.processes,
    };
    let (summary, good) = match std::env::current_exe() {
        Ok(program) => seeds::run(&program, &all),
        Err(error) => (format!("this program cannot be found: {error}\n"), false),
    };
    drop(write!(out, "{summary}"));
    match good {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
