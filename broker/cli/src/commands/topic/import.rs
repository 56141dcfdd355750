//! `tidemark topic import`: takes in partition directories written by Kafka.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use tidemark_config::ConfigMap;
use tidemark_env::disk::FileDisk;
use tidemark_env::task;
use tidemark_server::{ImportConfig, ImportFailure, ImportReport, import_partitions};

use crate::commands::broker::read_settings;
use crate::context::{Context, parse_setting};
use crate::failure::{Exit, Failure};
use crate::output::{Table, bytes, plural};
use crate::progress::Progress;
use crate::when::{format_duration, format_moment};

/// Take in partition directories written by Kafka, offsets kept
///
/// Works on the files of a broker that is stopped: stop it, import, start it again. Everything is
/// checked and copied; what Kafka wrote is only read. All partitions are taken in, or none.
/// A topic that does not exist is made; one that exists must have no records in these partitions.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Partition directories, named TOPIC-PARTITION as Kafka names them, or directories that hold such
    #[arg(required = true, value_name = "DIR")]
    dirs: Vec<PathBuf>,
    /// The data of a broker that was run with `tidemark dev`
    #[arg(
        long,
        default_value = "./data",
        value_name = "DIR",
        conflicts_with = "config"
    )]
    data: PathBuf,
    /// The configuration of a broker that was run with `tidemark broker`
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A setting of the topics that are made, by Kafka's name: --set retention.ms=-1
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_setting)]
    set: Vec<(String, String)>,
}

#[derive(Debug, Serialize)]
struct Report {
    partitions: Vec<Row>,
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Row {
    topic: String,
    partition: i32,
    start: i64,
    end: i64,
    segments: usize,
    bytes: u64,
    from: String,
}

/// Runs the command.
pub async fn run(args: Args, context: &mut Context) -> Result<Exit, Failure> {
    let settings = match &args.config {
        Some(file) => read_settings(file)?,
        None => ConfigMap::from([("log.dirs".to_owned(), args.data.display().to_string())]),
    };
    let config = ImportConfig {
        settings,
        disk: Arc::new(FileDisk::new()),
        sources: args.dirs.clone(),
        topic_configs: args.set.clone(),
    };
    let imported = task::blocking(move || {
        let mut progress = Progress::new();
        let imported = import_partitions(&config, |at| {
            progress.update(|| {
                let percent = at.done_bytes.saturating_mul(100) / at.total_bytes.max(1);
                format!("{percent}% {}", at.source.display())
            });
        });
        progress.clear();
        imported
    })
    .await
    .map_err(Failure::bug)?;
    let start = start_command(&args);
    let imported = imported.map_err(|failure| explain(&args, &start, failure))?;
    show(imported, &start, context)?;
    Ok(Exit::Ok)
}

fn show(imported: ImportReport, start: &str, context: &mut Context) -> Result<(), Failure> {
    let mut report = Report {
        partitions: Vec::new(),
        notes: imported.notes,
    };
    for one in imported.partitions {
        report.notes.extend(one.imported.notes);
        report.partitions.push(Row {
            topic: one.topic,
            partition: one.partition,
            start: one.imported.log_start_offset,
            end: one.imported.end_offset,
            segments: one.imported.segments,
            bytes: one.imported.bytes,
            from: one.source.display().to_string(),
        });
    }
    context.out.show(&report, |out| {
        let mut table = Table::new(&["TOPIC", "PARTITION", "START", "END", "SEGMENTS", "SIZE"]);
        for row in &report.partitions {
            table.row(vec![
                row.topic.clone(),
                row.partition.to_string(),
                row.start.to_string(),
                row.end.to_string(),
                row.segments.to_string(),
                bytes(i64::try_from(row.bytes).unwrap_or(i64::MAX)),
            ]);
        }
        out.table(&table)?;
        for note in &report.notes {
            out.line(&format!("note: {note}"))?;
        }
        let partitions = i64::try_from(report.partitions.len()).unwrap_or(i64::MAX);
        out.line(&format!(
            "Imported {}, offsets kept. To serve them: {start}",
            plural(partitions, "partition")
        ))
    })
}

/// What starts the broker.
fn start_command(args: &Args) -> String {
    match &args.config {
        Some(file) => format!("tidemark broker --config {}", file.display()),
        None if args.data.as_os_str() == "./data" => "tidemark dev".to_owned(),
        None => format!("tidemark dev --data {}", args.data.display()),
    }
}

/// What to type again, with a setting.
fn again_with(args: &Args, setting: &str) -> String {
    let mut line = "tidemark topic import".to_owned();
    match &args.config {
        Some(file) => line.push_str(&format!(" --config {}", file.display())),
        None if args.data.as_os_str() == "./data" => {}
        None => line.push_str(&format!(" --data {}", args.data.display())),
    }
    for (name, value) in &args.set {
        line.push_str(&format!(" --set {name}={value}"));
    }
    line.push_str(&format!(" --set {setting}"));
    for dir in &args.dirs {
        line.push_str(&format!(" {}", dir.display()));
    }
    line
}

fn explain(args: &Args, start: &str, failure: ImportFailure) -> Failure {
    let message = failure.to_string();
    match failure {
        ImportFailure::Config(_) | ImportFailure::Source(_) => Failure::usage(message),
        ImportFailure::NoBroker { .. } => Failure::usage(message).next(start.to_owned()),
        ImportFailure::HasRecords { topic, .. } => {
            Failure::finding(message).next(format!("tidemark topic describe {topic}"))
        }
        ImportFailure::Expired {
            topic,
            from,
            newest_ms,
            retention_ms,
            exists,
        } => {
            let message = format!(
                "topic {topic} would keep records for {} (retention.ms={retention_ms}), and the first segment of {} \
                 has nothing newer than {}: it would be deleted at once. Choose the topic's own retention.ms",
                format_duration(retention_ms),
                from.display(),
                format_moment(newest_ms)
            );
            if exists {
                let alter = format!("tidemark topic alter {topic} --set retention.ms=-1");
                let message = format!("{message} while the broker runs: {alter}");
                return Failure::finding(message).next(start.to_owned());
            }
            Failure::finding(message).next(again_with(args, "retention.ms=-1"))
        }
        _ => Failure::finding(message),
    }
}
