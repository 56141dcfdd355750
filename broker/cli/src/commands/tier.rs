//! `tidemark tier`: looks into a bucket, with no broker running.

use serde::Serialize;
use tidemark_tier::layout;
use tidemark_tier::verify::{self, Finding};
use tidemark_tier::{Bucket, BucketOptions, TierError};

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::{Table, bytes, count, plural};
use crate::progress::Progress;
use crate::when::format_moment;

/// Look into a bucket that topics are tiered to; no broker has to run
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List what each partition has in the bucket
    Ls(Args),
    /// Hold everything in the bucket against its manifests
    ///
    /// Exit code 1 when something is missing, damaged, or does not belong there.
    Verify(VerifyArgs),
}

/// Which bucket.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or file:///directory;
    /// credentials come from the environment, as those of the store's own tools
    url: String,
    /// Where the object store is, when the address does not say, such as http://127.0.0.1:8333
    #[arg(long, env = "TIDEMARK_TIER_ENDPOINT")]
    endpoint: Option<String>,
    /// The object store's region
    #[arg(long, env = "TIDEMARK_TIER_REGION")]
    region: Option<String>,
    /// Only topics whose name contains this
    #[arg(long)]
    topic: Option<String>,
}

/// Which bucket, and how closely.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    bucket: Args,
    /// Read every byte and check every checksum; otherwise lengths and indexes are looked at
    #[arg(long)]
    deep: bool,
}

/// Runs the command.
pub async fn run(command: Command, context: &mut Context) -> Result<Exit, Failure> {
    match command {
        Command::Ls(args) => ls(&args, context).await,
        Command::Verify(args) => check(&args, context).await,
    }
}

fn open(args: &Args) -> Result<Bucket, Failure> {
    let options = BucketOptions {
        endpoint: args.endpoint.clone(),
        region: args.region.clone(),
        ..BucketOptions::default()
    };
    Bucket::open(&args.url, &options).map_err(|error| Failure::usage(error.to_string()))
}

/// A bucket that does not answer.
fn away(error: &TierError) -> Failure {
    let failure = match error {
        TierError::Away { .. } => Failure::unreachable(error.to_string()),
        TierError::Denied { .. } => Failure::usage(error.to_string()),
        _ => Failure::finding(error.to_string()),
    };
    match error {
        TierError::Denied { .. } => {
            failure.next("export AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=…")
        }
        _ => failure,
    }
}

#[derive(Debug, Serialize)]
struct Row {
    topic: String,
    topic_id: String,
    partition: i32,
    /// First offset that can be read.
    start_offset: i64,
    /// The offset after the last.
    end_offset: i64,
    objects: usize,
    bytes: u64,
    /// The newest record, in milliseconds since 1970; -1 without.
    max_timestamp_ms: i64,
    manifest: u64,
    generation: u32,
    leader_epoch: i32,
}

async fn ls(args: &Args, context: &mut Context) -> Result<Exit, Failure> {
    let bucket = open(args)?;
    let (partitions, _) = verify::by_partition(&bucket)
        .await
        .map_err(|error| away(&error))?;
    let mut progress = Progress::new();
    let mut rows = Vec::new();
    let total = partitions.len();
    for (done, (id, objects)) in partitions.iter().enumerate() {
        progress.update(|| format!("reading manifests: {done} of {total} partitions"));
        let Some(found) = verify::newest(&bucket, *id, objects)
            .await
            .map_err(|error| away(&error))?
        else {
            continue;
        };
        let manifest = &found.manifest;
        rows.push(Row {
            topic: manifest.topic.clone(),
            topic_id: id.topic_id.to_string(),
            partition: id.partition,
            start_offset: manifest.start_offset,
            end_offset: manifest.end_offset,
            objects: found.entries.len(),
            bytes: manifest.size_bytes(),
            max_timestamp_ms: found
                .entries
                .iter()
                .map(|entry| entry.max_timestamp_ms)
                .max()
                .unwrap_or(-1),
            manifest: manifest.sequence,
            generation: manifest.writer.generation,
            leader_epoch: manifest.writer.leader_epoch,
        });
    }
    progress.clear();
    rows.retain(|row| wanted(args, &row.topic));
    rows.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
    context.out.show(&rows, |out| {
        if rows.is_empty() {
            return out.line("Nothing is tiered there.");
        }
        let mut table = Table::new(&[
            "TOPIC",
            "PARTITION",
            "START",
            "END",
            "OBJECTS",
            "SIZE",
            "NEWEST RECORD",
        ]);
        for row in &rows {
            table.row(vec![
                row.topic.clone(),
                row.partition.to_string(),
                count(row.start_offset),
                count(row.end_offset),
                count(i64::try_from(row.objects).unwrap_or(i64::MAX)),
                bytes(i64::try_from(row.bytes).unwrap_or(i64::MAX)),
                match row.max_timestamp_ms {
                    -1 => "-".to_owned(),
                    newest => format_moment(newest),
                },
            ]);
        }
        out.table(&table)
    })?;
    Ok(Exit::Ok)
}

fn wanted(args: &Args, topic: &str) -> bool {
    args.topic
        .as_deref()
        .is_none_or(|text| topic.contains(text))
}

#[derive(Debug, Serialize)]
struct Report {
    partitions: usize,
    objects: usize,
    bytes: u64,
    findings: Vec<Found>,
}

#[derive(Debug, Serialize)]
struct Found {
    kind: &'static str,
    key: String,
    what: String,
}

async fn check(args: &VerifyArgs, context: &mut Context) -> Result<Exit, Failure> {
    let bucket = open(&args.bucket)?;
    let (partitions, others) = verify::by_partition(&bucket)
        .await
        .map_err(|error| away(&error))?;
    let mut report = Report {
        partitions: 0,
        objects: 0,
        bytes: 0,
        findings: Vec::new(),
    };
    let mut progress = Progress::new();
    let total = partitions.len();
    for (done, (id, objects)) in partitions.iter().enumerate() {
        progress.update(|| format!("{done} of {total} partitions"));
        let (found, findings) = verify::partition(&bucket, *id, objects, args.deep)
            .await
            .map_err(|error| away(&error))?;
        if let Some(found) = &found {
            if !wanted(&args.bucket, &found.manifest.topic) {
                continue;
            }
            report.objects += found.entries.len();
            report.bytes += found.manifest.size_bytes();
        }
        report.partitions += 1;
        report.findings.extend(findings.into_iter().map(found_of));
    }
    progress.clear();
    let known = [layout::OWNERS, layout::METADATA, layout::TOPICS];
    for object in others {
        let folder = object.key.split('/').next().unwrap_or_default();
        if !known.contains(&folder) {
            report.findings.push(Found {
                kind: "foreign",
                key: object.key,
                what: "it is none of Tidemark's".to_owned(),
            });
        }
    }
    context.out.show(&report, |out| {
        for finding in &report.findings {
            out.line(&format!(
                "{}: {}\n  {}",
                finding.kind, finding.key, finding.what
            ))?;
        }
        let read = if args.deep {
            "every byte read"
        } else {
            "lengths and indexes looked at; --deep reads every byte"
        };
        out.line(&format!(
            "{}, {}, {}: {} ({read})",
            plural(as_i64(report.partitions), "partition"),
            plural(as_i64(report.objects), "object"),
            bytes(i64::try_from(report.bytes).unwrap_or(i64::MAX)),
            match report.findings.len() {
                0 => "all is there".to_owned(),
                findings => plural(as_i64(findings), "finding"),
            },
        ))
    })?;
    Ok(match report.findings.is_empty() {
        true => Exit::Ok,
        false => Exit::Finding,
    })
}

fn found_of(finding: Finding) -> Found {
    Found {
        kind: finding.kind,
        key: finding.key,
        what: finding.what,
    }
}

fn as_i64(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
