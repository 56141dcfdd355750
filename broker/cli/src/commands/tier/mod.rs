//! `tidemark tier`: looks into a bucket, with no broker running.

mod growth;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use tidemark_config::BrokerSettings;
use tidemark_model::MetadataRecord;
use tidemark_server::{RestoreError, RestoreOptions, RestoreReport};
use tidemark_tier::layout;
use tidemark_tier::verify::{self, Finding};
use tidemark_tier::{Bucket, BucketOptions, CredentialFiles, Credentials, TierError};
use tidemark_wire::Uuid;

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
    /// Draw how much it has held, by the time of its records
    Growth(Args),
    /// Hold everything in the bucket against its manifests
    ///
    /// Exit code 1 when something is missing, damaged, or does not belong there.
    Verify(VerifyArgs),
    /// Give a new cluster what the bucket holds of a lost one
    ///
    /// With --dry-run, prints what would come back and changes nothing. Otherwise takes the bucket
    /// over for the cluster of --cluster-id, as `tidemark format --restore` does by itself: the
    /// cluster that wrote it, should it still run, writes nothing more there. With --into it stays
    /// as it is, and is copied.
    Restore(RestoreArgs),
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

/// What is to come back, and to whom.
#[derive(Debug, clap::Args)]
pub struct RestoreArgs {
    /// s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or file:///directory
    url: String,
    /// Where the object store is, when the address does not say, such as http://127.0.0.1:8333
    #[arg(long, env = "TIDEMARK_TIER_ENDPOINT")]
    endpoint: Option<String>,
    /// The object store's region
    #[arg(long, env = "TIDEMARK_TIER_REGION")]
    region: Option<String>,
    /// Only topics of this name, in which * stands for anything; may be repeated
    #[arg(long, value_name = "NAME")]
    topic: Vec<String>,
    /// As of a moment: -6h, 2026-11-22T13:00:00Z
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    at: Option<String>,
    /// Give topics at most so many replicas
    #[arg(long, value_name = "N")]
    replication_factor: Option<i32>,
    /// Place topics once there are so many brokers; those of the lost cluster otherwise
    #[arg(long, value_name = "N")]
    brokers: Option<i32>,
    /// Copy it into this bucket, which has to be empty
    #[arg(long, value_name = "URL", conflicts_with = "dry_run")]
    into: Option<String>,
    /// The new cluster's id, from `tidemark format --random-uuid`
    #[arg(long, value_name = "ID", required_unless_present = "dry_run")]
    cluster_id: Option<Uuid>,
    /// Print what would come back and change nothing
    #[arg(long, conflicts_with = "cluster_id")]
    dry_run: bool,
    /// Write what comes back to this file as well, 4 KiB at most: Kubernetes reads why a container
    /// ended from such a file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// Runs the command.
pub async fn run(command: Command, context: &mut Context) -> Result<Exit, Failure> {
    match command {
        Command::Ls(args) => ls(&args, context).await,
        Command::Growth(args) => growth::run(&args, context).await,
        Command::Verify(args) => check(&args, context).await,
        Command::Restore(args) => restore(args, context).await,
    }
}

fn open(args: &Args) -> Result<Bucket, Failure> {
    let options = BucketOptions {
        endpoint: args.endpoint.clone(),
        region: args.region.clone(),
        credentials: credentials(None)?,
    };
    open_bucket(&args.url, &options)
}

/// Credentials that lie in files: of `tier.credentials.dir`, or those that the environment names.
fn credentials(dir: Option<&str>) -> Result<Credentials, Failure> {
    let read = CredentialFiles::of(dir).read();
    read.map_err(|error| Failure::finding(format!("credentials for the bucket: {error}")))
}

/// Opens the bucket of an address.
pub fn open_bucket(url: &str, options: &BucketOptions) -> Result<Bucket, Failure> {
    Bucket::open(url, options).map_err(|error| Failure::usage(error.to_string()))
}

async fn restore(args: RestoreArgs, context: &mut Context) -> Result<Exit, Failure> {
    let options = BucketOptions {
        endpoint: args.endpoint,
        region: args.region,
        credentials: credentials(None)?,
    };
    let bucket = open_bucket(&args.url, &options)?;
    let into = args.into.as_deref().map(|url| open_bucket(url, &options));
    let into = into.transpose()?;
    let at_ms = args.at.as_deref().map(super::format::moment).transpose()?;
    let wanted = RestoreOptions {
        topics: args.topic,
        at_ms,
        replication_factor: args.replication_factor,
        brokers: args.brokers,
    };
    let report = match args.cluster_id {
        None => tidemark_server::preview_restore(&bucket, &wanted).await,
        Some(cluster_id) => {
            let done = tidemark_server::restore(&bucket, into.as_ref(), cluster_id, &wanted).await;
            done.map(|(report, _)| report)
        }
    };
    let report = report.map_err(|error| not_restored(&error))?;
    if let Some(path) = &args.report {
        write_report(path, &report)?;
    }
    context.out.show(&report, |out| {
        for line in restore_lines(&report) {
            out.line(&line)?;
        }
        match args.cluster_id {
            None => out.line("Nothing was changed."),
            Some(id) => out.line(&format!(
                "next:  tidemark format --config FILE --cluster-id {id} --restore {}",
                args.url
            )),
        }
    })?;
    Ok(Exit::Ok)
}

/// What a new cluster is to begin with.
#[derive(Debug)]
pub struct Restoring {
    /// The bucket's address.
    pub url: String,
    /// What of it.
    pub options: RestoreOptions,
    /// The file that is told what came of it.
    pub report: Option<PathBuf>,
}

impl Restoring {
    /// Takes the bucket over for the cluster, or copies it into the cluster's own. Says what comes
    /// back on standard error.
    pub async fn take_over(
        &self,
        settings: &BrokerSettings,
        cluster_id: Uuid,
    ) -> Result<Vec<MetadataRecord>, Failure> {
        let Some(tier) = &settings.tier else {
            return Err(Failure::usage(format!(
                "a restored cluster keeps its topics in a bucket: set tier.url, to {} to take that one over, or to an empty one to copy it",
                self.url
            )));
        };
        let options = BucketOptions {
            endpoint: tier.endpoint.clone(),
            region: tier.region.clone(),
            credentials: credentials(tier.credentials_dir.as_deref())?,
        };
        let source = open_bucket(&self.url, &options)?;
        let into = match tier.url == self.url {
            true => None,
            false => Some(open_bucket(&tier.url, &options)?),
        };
        let restored =
            tidemark_server::restore(&source, into.as_ref(), cluster_id, &self.options).await;
        let (report, first) = restored.map_err(|error| not_restored(&error))?;
        let mut text = restore_lines(&report).join("\n");
        text.push('\n');
        // The report of formatting is what goes to standard output; this may be lost.
        drop(std::io::stderr().write_all(text.as_bytes()));
        if let Some(path) = &self.report {
            write_report(path, &report)?;
        }
        Ok(first)
    }
}

/// Why nothing is restored.
pub fn not_restored(error: &RestoreError) -> Failure {
    match error {
        RestoreError::Tier(error) => away(error),
        error => Failure::finding(error.to_string()),
    }
}

/// What comes back, in lines for people.
pub fn restore_lines(report: &RestoreReport) -> Vec<String> {
    let mut lines = vec![source_line(report)];
    lines.extend(topic_lines(report));
    lines.extend(loss_lines(report));
    lines
}

/// Most bytes of a container's termination message.
const MOST_REPORT_BYTES: usize = 4_096;

/// Writes what comes back to a file: what is not as it was first, since not all may have room.
fn write_report(path: &Path, report: &RestoreReport) -> Result<(), Failure> {
    let mut lines = vec![source_line(report)];
    lines.extend(loss_lines(report));
    lines.extend(topic_lines(report));
    #[allow(
        clippy::disallowed_methods,
        reason = "a file that is named on the command line: no simulation stands in for it"
    )]
    let written = std::fs::write(path, bounded(&lines, MOST_REPORT_BYTES));
    written.map_err(|error| Failure::file(&path.display().to_string(), &error))
}

/// As many of the lines as have room, and how many have not.
fn bounded(lines: &[String], most_bytes: usize) -> String {
    let whole: usize = lines.iter().map(|line| line.len() + 1).sum();
    let left_out = |left| format!("… and {} more\n", plural(as_i64(left), "line"));
    let mut text = String::new();
    for (at, line) in lines.iter().enumerate() {
        let rest = lines.len() - at;
        let room = most_bytes.saturating_sub(left_out(rest).len());
        if whole > most_bytes && text.len() + line.len() + 1 > room {
            text.push_str(&left_out(rest));
            break;
        }
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// Of which cluster it is, and of when.
fn source_line(report: &RestoreReport) -> String {
    format!(
        "cluster {}, generation {}, metadata of {}",
        report.source_cluster_id,
        report.source_generation,
        format_moment(report.metadata_taken_at_ms)
    )
}

/// The topics that come back.
fn topic_lines(report: &RestoreReport) -> Vec<String> {
    let mut lines = Vec::new();
    for topic in &report.topics {
        let records: i64 = topic
            .partitions
            .iter()
            .map(|part| part.end_offset - part.start_offset)
            .sum();
        let size: u64 = topic.partitions.iter().map(|part| part.bytes).sum();
        lines.push(format!(
            "{}: {}, {} offsets, {}, {}",
            topic.name,
            plural(as_i64(topic.partitions.len()), "partition"),
            count(records),
            bytes(i64::try_from(size).unwrap_or(i64::MAX)),
            plural(i64::from(topic.replication_factor), "replica"),
        ));
        for (index, part) in topic.partitions.iter().enumerate() {
            let newest = match (part.backup_at_ms, part.newest_record_ms) {
                (Some(backup_ms), _) => format!("backed up {}", format_moment(backup_ms)),
                (None, -1) => continue,
                (None, newest) => format!("newest record {}", format_moment(newest)),
            };
            lines.push(format!(
                "  {index}: {} to {}, {newest}",
                count(part.start_offset),
                count(part.end_offset)
            ));
        }
    }
    lines
}

/// What does not come back, and what is not as it was.
fn loss_lines(report: &RestoreReport) -> Vec<String> {
    let mut lines = Vec::new();
    for clamp in &report.clamped {
        let becomes = match clamp.to {
            Some(to) => format!("goes back to {}", count(to)),
            None => "is forgotten: the topic does not come back".to_owned(),
        };
        lines.push(format!(
            "group {}: offset {} in {}-{} {becomes}",
            clamp.group,
            count(clamp.from),
            clamp.topic,
            clamp.partition
        ));
    }
    lines.extend(report.warnings.iter().map(|text| format!("note: {text}")));
    lines
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_the_lines_that_have_room_and_says_how_many_have_not() {
        let lines: Vec<String> = (0..10).map(|i| format!("line {i}")).collect();
        assert_eq!(bounded(&lines, 1_000), format!("{}\n", lines.join("\n")));
        assert_eq!(bounded(&lines, 70), format!("{}\n", lines.join("\n")));
        let cut = bounded(&lines, 69);
        assert!(cut.len() <= 69, "{cut}");
        assert!(
            cut.starts_with("line 0\n") && cut.ends_with("… and 4 lines more\n"),
            "{cut}"
        );
        assert_eq!(bounded(&["long".repeat(9)], 10), "… and 1 line more\n");
    }
}
