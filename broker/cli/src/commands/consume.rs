//! `tidemark consume`: records out of topics, alone or as a member of a group.

use std::collections::BTreeMap;
use std::time::Duration;

use tidemark_client::consumer::assignor::Assignor;
use tidemark_client::consumer::{Consumer, ConsumerConfig, GroupConfig, OffsetReset, Start};
use tidemark_client::{ClientError, Cluster, TopicPartition};
use tidemark_env::clock;

use crate::commands::places::locate_all;
use crate::context::{Context, existing_topic};
use crate::failure::{Exit, Failure};
use crate::output::plural;
use crate::position::{PLACES, Place, parse_place};
use crate::progress::Progress;
use crate::record_format::{RecordFormat, parse_template, unescape, write_record};

/// How long one poll waits: how soon the end is noticed, not how soon a record is.
const POLL: Duration = Duration::from_millis(500);
/// Records given out between two flushes of standard output.
const AT_ONCE: usize = 2_000;

/// Read records
///
/// Without a group: from the beginning (or --from) up to the end as it is now, or on and on with --follow.
/// As a member of a group: from where the group is, sharing the partitions with its other members.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("Places: {PLACES}"))]
pub struct Args {
    /// The topics
    #[arg(required = true)]
    topics: Vec<String>,
    /// Read as a member of this group and commit what was read
    #[arg(long, short = 'g', value_name = "ID")]
    group: Option<String>,
    /// Where to begin; with a group only where it has no offset yet [default: beginning]
    #[arg(long, value_name = "PLACE", allow_hyphen_values = true)]
    from: Option<String>,
    /// Only these partitions
    #[arg(long, short = 'p', value_delimiter = ',', conflicts_with = "group")]
    partition: Vec<i32>,
    /// Stop after so many records
    #[arg(long, short = 'n', value_name = "N")]
    count: Option<u64>,
    /// Do not stop at the end
    #[arg(long, short = 'f')]
    follow: bool,
    /// How records are written; -o json means json
    #[arg(long, value_enum, default_value = "value", conflicts_with = "template")]
    format: FormatArg,
    /// Records as this says: '{partition}:{offset} {key}\t{value}'; also {topic} {timestamp} {timestamp_ms} {headers}
    #[arg(long, short = 't', value_name = "TEXT")]
    template: Option<String>,
    /// What stands between key and value
    #[arg(long, short = 'k', default_value = "\\t", value_name = "TEXT")]
    key_separator: String,
    /// What stands behind each record
    #[arg(long, default_value = "\\n", value_name = "TEXT")]
    delimiter: String,
    /// What stands for a null key or value
    #[arg(long, default_value = "", value_name = "TEXT")]
    null: String,
    /// Leave out records of transactions that were not committed
    #[arg(long)]
    read_committed: bool,
    /// How the group shares its partitions
    #[arg(long, value_enum, value_name = "NAME", default_value = "range")]
    assignor: AssignorArg,
    /// How long the group waits for a member that says nothing before its partitions go to others
    #[arg(long, default_value = "45s", value_parser = crate::context::parse_timeout, value_name = "DURATION")]
    session_timeout: Duration,
    /// Keeps this member's place in the group over restarts
    #[arg(long, value_name = "ID", requires = "group")]
    instance_id: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum FormatArg {
    /// The value
    Value,
    /// Key and value
    KeyValue,
    /// One JSON object per line
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum AssignorArg {
    /// Ranges per topic
    Range,
    /// In turn over all topics
    Roundrobin,
    /// As few moves as possible
    CooperativeSticky,
}

/// Runs the command.
pub async fn run(args: Args, context: &mut Context) -> Result<Exit, Failure> {
    let writer = Writer::new(&args, context.out.is_json())?;
    let from = args.from.as_deref().unwrap_or("beginning");
    let place = parse_place(from, clock::now_ms()).map_err(Failure::usage)?;
    if matches!(place, Place::Shift(_)) {
        return Err(Failure::usage(
            "--from cannot shift: there is nothing to count from; use end-N",
        ));
    }
    let cluster = context.cluster().await?;
    for topic in &args.topics {
        existing_topic(&cluster, topic).await?;
    }
    let config = ConsumerConfig {
        group: args.group.as_ref().map(|group| group_config(&args, group)),
        reset: match place {
            Place::End => OffsetReset::Latest,
            _ => OffsetReset::Earliest,
        },
        read_committed: args.read_committed,
        auto_commit: args.group.as_ref().map(|_| Duration::from_secs(5)),
        ..ConsumerConfig::default()
    };
    let mut ends = Ends::default();
    let mut consumer = Consumer::new(cluster.clone(), config);
    match &args.group {
        Some(group) => {
            if !matches!(place, Place::Beginning | Place::End) {
                return Err(Failure::usage(
                    "a group begins at the beginning or the end where it has no offset",
                )
                .next(format!(
                    "tidemark group reset {group} --topic {} --to {from}",
                    args.topics[0]
                )));
            }
            consumer.subscribe(args.topics.clone())?;
        }
        None => {
            let starts = starts(&args, &cluster, place, &mut ends).await?;
            consumer.assign(starts);
        }
    }
    let read = read(&args, &mut consumer, &writer, &mut ends, context).await;
    let flushed = context.out.flush();
    let committed = match (&read, &flushed) {
        // What was not written out is not committed as read.
        (Ok(_), Ok(())) => consumer.close().await,
        _ => Ok(()),
    };
    let records = read?;
    flushed?;
    committed?;
    tracing::debug!(records, "done");
    Ok(Exit::Ok)
}

fn group_config(args: &Args, group: &str) -> GroupConfig {
    let session_ms = i32::try_from(args.session_timeout.as_millis()).unwrap_or(i32::MAX);
    GroupConfig {
        session_timeout_ms: session_ms,
        // Several heartbeats fit into a session, so that one may get lost.
        heartbeat_interval_ms: u64::try_from(session_ms / 3).unwrap_or(0).clamp(100, 3_000),
        instance_id: args.instance_id.clone(),
        assignors: match args.assignor {
            AssignorArg::Range => vec![Assignor::Range, Assignor::RoundRobin],
            AssignorArg::Roundrobin => vec![Assignor::RoundRobin, Assignor::Range],
            AssignorArg::CooperativeSticky => vec![Assignor::CooperativeSticky],
        },
        ..GroupConfig::new(group)
    }
}

/// Where each partition begins; also notes where it ends now.
async fn starts(
    args: &Args,
    cluster: &Cluster,
    place: Place,
    ends: &mut Ends,
) -> Result<Vec<(TopicPartition, Start)>, Failure> {
    let mut partitions = Vec::new();
    for name in &args.topics {
        let topic = cluster.topic(name).await?;
        if let Some(missing) = args
            .partition
            .iter()
            .find(|p| !topic.partitions.contains_key(p))
        {
            return Err(ClientError::UnknownPartition {
                topic: name.clone(),
                partition: *missing,
                count: topic.partitions.len(),
            }
            .into());
        }
        let wanted = topic
            .partitions
            .keys()
            .filter(|p| args.partition.is_empty() || args.partition.contains(p));
        partitions.extend(wanted.map(|p| TopicPartition::new(name.clone(), *p)));
    }
    let located = locate_all(
        cluster,
        &partitions,
        place,
        &BTreeMap::new(),
        args.read_committed,
    )
    .await?;
    let mut starts = Vec::new();
    for (tp, place_in) in &located {
        if place_in.moved && matches!(place, Place::Offset(_)) {
            let from = args.from.as_deref().unwrap_or_default();
            let has_it =
                |other: &&TopicPartition| other.topic == tp.topic && !located[*other].moved;
            return Err(Failure::finding(format!(
                "{tp} has offsets {} to {}: {from} is not among them",
                place_in.bounds.start, place_in.bounds.end,
            ))
            .next(match located.keys().find(has_it) {
                Some(other) => format!(
                    "tidemark consume {} -p {} --from {from}",
                    other.topic, other.partition
                ),
                None => format!("tidemark topic describe {}", tp.topic),
            }));
        }
    }
    for (tp, located) in located {
        ends.0.insert(tp.clone(), located.bounds.end);
        starts.push((tp, Start::Offset(located.offset)));
    }
    Ok(starts)
}

/// Where each partition ended when it was first looked at.
#[derive(Debug, Default)]
struct Ends(BTreeMap<TopicPartition, i64>);

impl Ends {
    /// Whether everything assigned has been read up to where it ended.
    fn reached(&mut self, consumer: &Consumer) -> bool {
        if !consumer.is_settled() {
            return false;
        }
        consumer.progress().into_iter().all(|(tp, progress)| {
            if let Some(high_watermark) = progress.high_watermark {
                self.0.entry(tp.clone()).or_insert(high_watermark);
            }
            match (self.0.get(&tp), progress.position) {
                (Some(end), Some(position)) => position >= *end,
                _ => false,
            }
        })
    }
}

async fn read(
    args: &Args,
    consumer: &mut Consumer,
    writer: &Writer,
    ends: &mut Ends,
    context: &mut Context,
) -> Result<u64, Failure> {
    let mut progress = Progress::new();
    let to_terminal = std::io::IsTerminal::is_terminal(&std::io::stdout());
    let mut records: u64 = 0;
    let mut buffer = Vec::new();
    let mut stop = std::pin::pin!(stop_signal());
    loop {
        let left = args
            .count
            .map_or(u64::MAX, |count| count.saturating_sub(records));
        if left == 0 || (!args.follow && ends.reached(consumer)) {
            break;
        }
        let at_most = usize::try_from(left).unwrap_or(usize::MAX).min(AT_ONCE);
        let polled = tokio::select! {
            polled = consumer.poll_up_to(at_most, POLL) => polled,
            () = &mut stop => break,
        };
        let polled = match polled {
            Ok(polled) => polled,
            Err(error) if error.is_retriable() && args.follow => {
                tracing::warn!(%error, "trying again");
                clock::sleep(POLL).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        for record in &polled {
            // The end of a partition counts, not what came after it was looked at.
            let behind = ends
                .0
                .get(&TopicPartition::new(&*record.topic, record.partition));
            if !args.follow
                && args.group.is_none()
                && behind.is_some_and(|end| record.offset >= *end)
            {
                continue;
            }
            write_record(&mut buffer, record, &writer.format, &writer.null);
            buffer.extend_from_slice(&writer.delimiter);
            records += 1;
        }
        if !buffer.is_empty() {
            progress.clear();
            context.out.raw(&buffer)?;
            // A group commits what was given out: it must have left us by then.
            context.out.flush()?;
            buffer.clear();
        }
        if !to_terminal {
            progress.update(|| format!("{} read", plural(records as i64, "record")));
        }
    }
    progress.clear();
    Ok(records)
}

/// Ctrl-C or SIGTERM.
async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        // Without it the default action ends us, which loses nothing but the last commit.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

/// How records are written.
#[derive(Debug)]
struct Writer {
    format: RecordFormat,
    delimiter: Vec<u8>,
    null: Vec<u8>,
}

impl Writer {
    fn new(args: &Args, json: bool) -> Result<Self, Failure> {
        let format = match (&args.template, args.format) {
            (Some(template), _) => {
                RecordFormat::Template(parse_template(template).map_err(Failure::usage)?)
            }
            (None, FormatArg::Value) if json => RecordFormat::Json,
            (None, FormatArg::Value) => RecordFormat::Value,
            (None, FormatArg::KeyValue) => {
                RecordFormat::KeyValue(unescape(&args.key_separator).map_err(Failure::usage)?)
            }
            (None, FormatArg::Json) => RecordFormat::Json,
        };
        Ok(Self {
            format,
            delimiter: unescape(&args.delimiter).map_err(Failure::usage)?,
            null: unescape(&args.null).map_err(Failure::usage)?,
        })
    }
}
