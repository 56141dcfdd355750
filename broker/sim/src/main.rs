//! Runs many histories, for longer than a test may.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser;
use tidemark_env::{clock, task};
use tidemark_sim::history::{Options, run};

/// Runs seeded histories of data directories with faults and checks what is promised.
#[derive(Parser)]
struct Args {
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

fn main() -> ExitCode {
    let args = Args::parse();
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
            run(seed, &options).map(drop)
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
