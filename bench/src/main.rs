//! Side-by-side measurements against Apache Kafka: one load generator, the same loads, in turn.
//!
//! `bench/run` installs Apache Kafka, builds both sides and starts this.

mod bars;
mod client;
mod contender;
mod drive;
mod experiment;
mod failure;
mod flushes;
mod load;
mod machine;
mod many;
mod memory;
mod plan;
mod procfs;
mod profile;
mod raw;
mod readings;
mod report;
mod scenario;
mod stats;
mod tailing;
mod topics;
mod wire;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use crate::contender::Places;
use crate::experiment::{Bench, Outcome, say};
use crate::failure::{Failure, Result, while_doing};
use crate::load::Load;
use crate::plan::{Contender, Plan, parse_only};
use crate::report::{Report, Section};
use crate::scenario::{Scenario, parse_scenarios};

/// Measures Tidemark and Apache Kafka side by side on this machine and prints ratios.
#[derive(Debug, Parser)]
#[command(name = "bench/run", bin_name = "bench/run", version)]
struct Options {
    #[command(subcommand)]
    tool: Option<Tool>,
    /// What is measured, separated by commas: main, partitions, producers, slow-disk,
    /// ten-thousand, tailing, replicated, tls, all.
    #[arg(long, default_value = "main")]
    scenario: String,
    /// About three minutes a scenario: shows that everything works, decides nothing.
    #[arg(long)]
    quick: bool,
    /// Seconds: runs every line of the harness once; for work on the harness.
    #[arg(long, hide = true, conflicts_with = "quick")]
    trial: bool,
    /// Contenders, separated by commas: tidemark, kafka, kafka-fsync; `kafka` alone means both
    /// kinds of Kafka.
    #[arg(long)]
    only: Option<String>,
    /// Rounds, instead of the plan's number.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=50))]
    rounds: Option<u8>,
    /// Producers with enable.idempotence.
    #[arg(long)]
    idempotence: bool,
    /// Where the brokers keep their data; a folder in it is created and removed.
    #[arg(long, default_value = "target/bench")]
    data: PathBuf,
    /// First port to try; better below the range that clients' own ports are taken from.
    #[arg(long, default_value_t = 19392)]
    port: u16,
    /// Leave the data directories and logs of the brokers.
    #[arg(long)]
    keep: bool,
    /// Also write bench/results/DATE-NAME.md.
    #[arg(long, value_name = "NAME")]
    record: Option<String>,
    /// What is printed.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// Parts of bench/profile.
#[derive(Debug, Subcommand)]
#[command(hide = true)]
enum Tool {
    /// Drives one load against a broker and prints what was acknowledged as NAME=VALUE.
    Drive(drive::Args),
    /// Groups the output of `perf script` on standard input.
    Profile(profile::Args),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let done = match &options.tool {
        Some(Tool::Drive(args)) => drive::run(args).map(|()| false),
        Some(Tool::Profile(args)) => profile::run(args).map(|()| false),
        None => run(&options),
    };
    match done {
        Ok(false) => ExitCode::SUCCESS,
        Ok(true) => ExitCode::from(1),
        Err(failure) => {
            writeln!(std::io::stderr(), "bench: {failure}").unwrap_or_default();
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Returns true when a bar is missed.
fn run(options: &Options) -> Result<bool> {
    let contenders = match &options.only {
        Some(text) => parse_only(text).map_err(Failure::Usage)?,
        None => vec![Contender::Tidemark, Contender::Kafka, Contender::KafkaFsync],
    };
    let scenarios = parse_scenarios(&options.scenario).map_err(Failure::Usage)?;
    let (plan_name, mut plan) = match (options.trial, options.quick) {
        (true, _) => ("trial", Plan::TRIAL),
        (_, true) => ("quick", Plan::QUICK),
        _ => ("full", Plan::FULL),
    };
    plan.rounds = options.rounds.map_or(plan.rounds, usize::from);
    if let Some(name) = &options.record {
        check_name(name)?;
    }
    let root = std::env::var_os("TIDEMARK_ROOT")
        .map_or_else(|| PathBuf::from("."), PathBuf::from)
        .canonicalize()
        .map_err(while_doing("finding the repository"))?;
    let data = options.data.join(format!("run-{}", std::process::id()));
    fs::create_dir_all(&data).map_err(while_doing("creating the data directory"))?;
    let data = data
        .canonicalize()
        .map_err(while_doing("finding the data directory"))?;
    let places = Places {
        root,
        tidemark: std::env::var_os("TIDEMARK_BIN").map(PathBuf::from),
        data,
        base_port: options.port,
    };
    let result = measure(options, &plan, plan_name, &places, &contenders, &scenarios);
    if !options.keep {
        if result.as_ref().is_ok_and(|(_, failure)| failure.is_none()) {
            fs::remove_dir_all(&places.data).map_err(while_doing("removing the data directory"))?;
        } else {
            keep_only_logs(&places.data);
        }
    }
    let (report, failure) = result?;
    let text = match options.output {
        Output::Table => report.text(),
        Output::Json => report.json().map_err(while_doing("writing JSON"))? + "\n",
    };
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(while_doing("printing"))?;
    if let Some(name) = &options.record {
        let folder = places.root.join("bench/results");
        let path = folder.join(format!("{}-{name}.md", report.facts.date));
        fs::create_dir_all(&folder)
            .and_then(|()| fs::write(&path, report.markdown()))
            .map_err(while_doing("recording the table"))?;
        writeln!(std::io::stderr(), "bench: recorded in {}", path.display()).unwrap_or_default();
    }
    match failure {
        Some(failure) => Err(failure),
        None => Ok(report.missed()),
    }
}

/// Measures every scenario. With several of them a failure ends its own only: it stands in the
/// report, and is returned as well so that the run does not pass.
fn measure(
    options: &Options,
    plan: &Plan,
    plan_name: &str,
    places: &Places,
    contenders: &[Contender],
    scenarios: &[Scenario],
) -> Result<(Report, Option<Failure>)> {
    check_room(plan, places, contenders.len())?;
    let facts = machine::facts(places);
    let load = Load::new(options.idempotence);
    let mut bench = Bench {
        plan,
        places,
        load: &load,
        contenders,
        keep: options.keep,
        standing: Vec::new(),
    };
    let (mut sections, mut worst) = (Vec::new(), None::<Failure>);
    for &scenario in scenarios {
        let flush_before = flushes::measure_latency(&places.data)?;
        let done = match scenario {
            Scenario::TenThousand | Scenario::Tailing => {
                bench.dismiss();
                if scenario == Scenario::Tailing {
                    tailing::run(&bench)
                } else {
                    many::run(&bench)
                }
            }
            _ => bench.run(scenario),
        };
        let (outcome, failure) = match done {
            Ok(outcome) => (outcome, None),
            Err(failure) if scenarios.len() == 1 => return Err(failure),
            Err(failure) => {
                say(&format!("{} did not finish: {failure}", scenario.name()));
                (Outcome::default(), Some(failure))
            }
        };
        let who = scenario.contenders(contenders);
        let judged = who.contains(&Contender::Tidemark) && who.len() > 1;
        sections.push(Section {
            scenario,
            rows: outcome.readings.rows(scenario, &who),
            bars: if judged {
                outcome.readings.bars(scenario)
            } else {
                Vec::new()
            },
            contenders: who,
            flush_before,
            flush_after: flushes::measure_latency(&places.data)?,
            notes: outcome.notes,
            failure: failure.as_ref().map(Failure::to_string),
            windows: outcome.windows,
        });
        // A broken promise weighs more than something that is missing.
        if worst.as_ref().is_none_or(|w| w.exit_code() != 1) {
            worst = failure.or(worst);
        }
    }
    bench.dismiss();
    let report = Report {
        name: options
            .record
            .clone()
            .unwrap_or_else(|| plan_name.to_owned()),
        facts,
        plan: plan.clone(),
        idempotence: options.idempotence,
        sections,
    };
    Ok((report, worst))
}

/// After a failure gigabytes of records help nobody, and what the brokers said does.
fn keep_only_logs(data: &Path) {
    for broker in fs::read_dir(data).into_iter().flatten().flatten() {
        for entry in fs::read_dir(broker.path()).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                // What cannot be removed stays: the failure itself is the news.
                fs::remove_dir_all(entry.path()).unwrap_or_default();
            }
        }
    }
    let text = format!("bench: the brokers' output is in {}", data.display());
    writeln!(std::io::stderr(), "{text}").unwrap_or_default();
}

/// A full disk in the middle would be a poor end of a quarter of an hour.
fn check_room(plan: &Plan, places: &Places, contenders: usize) -> Result<()> {
    let stat = rustix::fs::statvfs(&places.data).map_err(while_doing("asking for disk room"))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    // Deleted topics leave the disk a minute later: two rounds may be there at once.
    let needed = 2 * plan.bytes_per_round(contenders) + 2_000_000_000;
    if free < needed {
        return Err(Failure::Unreachable(format!(
            "{} has {} MB free and {} MB are needed: choose another place with --data",
            places.data.display(),
            free / 1_000_000,
            needed / 1_000_000
        )));
    }
    Ok(())
}

/// The name becomes a part of a file's.
fn check_name(name: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || name.len() > 60 || !name.chars().all(good) {
        return Err(Failure::Usage(format!(
            "--record {name:?}: letters, digits, - and _, at most 60"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_stays_in_its_folder() {
        assert!(check_name("two-cores_1").is_ok());
        for bad in ["", "../x", "a/b", "a b", &"x".repeat(61)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn options_are_consistent() {
        use clap::CommandFactory;
        Options::command().debug_assert();
    }
}
