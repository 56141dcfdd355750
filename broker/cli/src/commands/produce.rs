//! `tidemark produce`: lines or JSON into a topic.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;
use serde::Serialize;
use tidemark_client::Compression;
use tidemark_client::producer::partitioner::Strategy;
use tidemark_client::producer::{Acks, Producer, ProducerConfig, ProducerRecord, ProducerStats};
use tidemark_env::clock;
use tidemark_wire::ErrorCode;

use crate::context::{Context, existing_topic, parse_setting};
use crate::failure::{Exit, Failure};
use crate::input::read_lines;
use crate::output::{bytes, count, plural};
use crate::progress::Progress;
use crate::record_format::{parse_json, parse_line, unescape};
use crate::when::{format_duration, parse_duration};

/// Write records from standard input or files
///
/// Each line is a record. Keys choose the partition as in Kafka's Java client (murmur2);
/// records without a key go batch by batch to one partition after another.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The topic
    topic: String,
    /// Files to read; standard input if none, or for -
    files: Vec<PathBuf>,
    /// What lines are: text, or JSON objects as `consume -o json` writes them
    #[arg(long, value_enum, default_value = "lines")]
    input: Input,
    /// What stands between key and value in a line; \t and the like are understood
    #[arg(long, short = 'k', value_name = "TEXT")]
    key_separator: Option<String>,
    /// The key of all records
    #[arg(long, conflicts_with = "key_separator")]
    key: Option<String>,
    /// A key or value of exactly this text is null
    #[arg(long, value_name = "TEXT")]
    null: Option<String>,
    /// What ends a line: one byte
    #[arg(long, default_value = "\\n", value_name = "BYTE")]
    delimiter: String,
    /// A header of all records
    #[arg(long, short = 'H', value_name = "NAME=VALUE", value_parser = parse_setting)]
    header: Vec<(String, String)>,
    /// The partition of all records
    #[arg(long, short = 'p', conflicts_with = "round_robin")]
    partition: Option<i32>,
    /// Each record to the next partition, keys notwithstanding
    #[arg(long)]
    round_robin: bool,
    /// Compression: none, gzip, snappy, lz4, zstd
    #[arg(long, short = 'z', default_value = "none", value_name = "CODEC")]
    codec: Compression,
    /// What a broker must have done before it acknowledges
    #[arg(long, value_enum, default_value = "all")]
    acks: AcksArg,
    /// How long a batch waits for more records
    #[arg(long, default_value = "5ms", value_parser = parse_duration, value_name = "DURATION")]
    linger: i64,
    /// Bytes of a batch before compression
    #[arg(long, default_value_t = 64 << 10, value_name = "BYTES")]
    batch_bytes: usize,
    /// How long a record is tried before it fails
    #[arg(long, default_value = "2m", value_parser = parse_duration, value_name = "DURATION")]
    delivery_timeout: i64,
    /// Let the broker make the topic if it is not there and the broker is set so
    #[arg(long)]
    create: bool,
    /// Say nothing at the end
    #[arg(long, short = 'q')]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Input {
    /// Text
    Lines,
    /// JSON objects
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum AcksArg {
    /// All in-sync replicas have it
    #[value(alias = "-1")]
    All,
    /// The leader has it
    #[value(name = "leader", alias = "1")]
    Leader,
    /// Nothing is waited for
    #[value(name = "none", alias = "0")]
    None,
}

#[derive(Debug, Serialize)]
struct Summary {
    topic: String,
    records: u64,
    bytes: u64,
    failed: u64,
    retries: u64,
    seconds: f64,
    partitions: BTreeMap<i32, PartitionSummary>,
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct PartitionSummary {
    records: u64,
    first_offset: i64,
    last_offset: i64,
}

/// Runs the command.
pub async fn run(args: Args, context: &mut Context) -> Result<Exit, Failure> {
    let reader = Reader::new(&args)?;
    let cluster = context.cluster().await?;
    if args.create {
        cluster.fresh_topic(&args.topic, true).await?;
    } else {
        existing_topic(&cluster, &args.topic)
            .await
            .map_err(|failure| {
                let guessed = failure.message.contains("did you mean");
                let made = format!("tidemark topic create {}", args.topic);
                if guessed { failure } else { failure.next(made) }
            })?;
    }
    let acks = match args.acks {
        AcksArg::All => Acks::All,
        AcksArg::Leader => Acks::Leader,
        AcksArg::None => Acks::None,
    };
    let config = ProducerConfig {
        acks,
        idempotent: acks == Acks::All,
        compression: args.codec,
        batch_bytes: args.batch_bytes,
        linger_ms: args.linger,
        delivery_timeout_ms: args.delivery_timeout,
        strategy: if args.round_robin {
            Strategy::RoundRobin
        } else {
            Strategy::KeyOrSticky
        },
        create_topics: args.create,
        ..ProducerConfig::default()
    };
    let producer = Producer::new(cluster, config)?;
    let started = clock::monotonic();
    let sent = send_all(&args, &reader, &producer).await;
    // What was taken in is sent even when a later line makes no sense.
    let flushed = producer.flush().await;
    let stats = producer.stats();
    let summary = summary(&args.topic, &stats, started.elapsed().as_secs_f64());
    if !args.quiet {
        context
            .out
            .show(&summary, |out| out.line(&sentence(&summary)))?;
    }
    sent?;
    flushed?;
    match stats.first_error {
        Some(error) => Err(explain(error, &args.topic, stats.failed_records)),
        None => Ok(Exit::Ok),
    }
}

async fn send_all(args: &Args, reader: &Reader, producer: &Producer) -> Result<(), Failure> {
    let mut chunks = read_lines(args.files.clone(), reader.delimiter, reader.most_bytes)?;
    let mut progress = Progress::new();
    let mut number: u64 = 0;
    loop {
        let chunk = tokio::select! {
            chunk = chunks.recv() => chunk,
            // What was read so far is flushed by the caller.
            _ = tokio::signal::ctrl_c() => None,
        };
        let Some(chunk) = chunk else { break };
        for line in chunk? {
            number += 1;
            let record = reader
                .record(&line, &args.topic)
                .map_err(|problem| Failure::finding(format!("line {number}: {problem}")))?;
            producer.send_unwatched(record).await?;
        }
        let stats = producer.stats();
        if stats.first_error.is_some() {
            break;
        }
        progress.update(|| {
            format!(
                "{} sent, {} acknowledged",
                plural(number as i64, "record"),
                count(stats.acked_records as i64)
            )
        });
    }
    progress.clear();
    Ok(())
}

fn explain(error: tidemark_client::ClientError, topic: &str, failed: u64) -> Failure {
    let code = error.code();
    let mut failure = Failure::from(error);
    failure.message = format!(
        "{} failed; the first: {}",
        plural(failed as i64, "record"),
        failure.message
    );
    match code {
        Some(ErrorCode::MessageTooLarge | ErrorCode::RecordListTooLarge) => failure.next(format!(
            "tidemark topic alter {topic} --set max.message.bytes=BYTES"
        )),
        _ => failure.or_next(|| format!("tidemark topic describe {topic}")),
    }
}

fn summary(topic: &str, stats: &ProducerStats, seconds: f64) -> Summary {
    Summary {
        topic: topic.to_owned(),
        records: stats.acked_records,
        bytes: stats.acked_bytes,
        failed: stats.failed_records,
        retries: stats.retries,
        seconds,
        partitions: stats
            .partitions
            .iter()
            .map(|(tp, partition)| {
                let summary = PartitionSummary {
                    records: partition.records,
                    first_offset: partition.first_offset,
                    last_offset: partition.last_offset,
                };
                (tp.partition, summary)
            })
            .collect(),
        error: stats.first_error.as_ref().map(ToString::to_string),
    }
}

fn sentence(summary: &Summary) -> String {
    let per_second = if summary.seconds > 0.0 {
        summary.bytes as f64 / summary.seconds
    } else {
        0.0
    };
    let failed = match summary.failed {
        0 => String::new(),
        failed => format!(", {} failed", count(failed as i64)),
    };
    format!(
        "{} ({}) into {} of {}, {} ({}/s){failed}",
        plural(summary.records as i64, "record"),
        bytes(summary.bytes as i64),
        plural(summary.partitions.len() as i64, "partition"),
        summary.topic,
        format_duration((summary.seconds * 1000.0) as i64),
        bytes(per_second as i64),
    )
}

/// How lines become records.
#[derive(Debug)]
struct Reader {
    input: Input,
    delimiter: u8,
    most_bytes: usize,
    key_separator: Option<Vec<u8>>,
    null: Option<Vec<u8>>,
    key: Option<Bytes>,
    partition: Option<i32>,
    headers: Vec<(Bytes, Option<Bytes>)>,
}

impl Reader {
    fn new(args: &Args) -> Result<Self, Failure> {
        let delimiter = match unescape(&args.delimiter)
            .map_err(Failure::usage)?
            .as_slice()
        {
            [byte] => *byte,
            _ => {
                return Err(Failure::usage(format!(
                    "--delimiter is one byte, not '{}'",
                    args.delimiter
                )));
            }
        };
        let key_separator = args
            .key_separator
            .as_deref()
            .map(unescape)
            .transpose()
            .map_err(Failure::usage)?;
        if key_separator.as_ref().is_some_and(Vec::is_empty) {
            return Err(Failure::usage("--key-separator must not be empty"));
        }
        if args.input == Input::Json && key_separator.is_some() {
            return Err(Failure::usage(
                "--key-separator means nothing for JSON, whose objects have a \"key\"",
            ));
        }
        Ok(Self {
            input: args.input,
            delimiter,
            // Brokers refuse requests of more than 100 MiB.
            most_bytes: 100 << 20,
            key_separator,
            null: args.null.as_ref().map(|text| text.clone().into_bytes()),
            key: args.key.clone().map(Bytes::from),
            partition: args.partition,
            headers: args
                .header
                .iter()
                .map(|(name, value)| (Bytes::from(name.clone()), Some(Bytes::from(value.clone()))))
                .collect(),
        })
    }

    fn record(&self, line: &Bytes, topic: &str) -> Result<ProducerRecord, String> {
        let mut record = match self.input {
            Input::Lines => parse_line(
                line,
                topic,
                self.key_separator.as_deref(),
                self.null.as_deref(),
            )?,
            Input::Json => parse_json(line, topic)?,
        };
        if self.key.is_some() {
            record.key.clone_from(&self.key);
        }
        if self.partition.is_some() {
            record.partition = self.partition;
        }
        record.headers.extend(self.headers.iter().cloned());
        Ok(record)
    }
}
