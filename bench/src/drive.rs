//! One load against one broker, for `bench/profile`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::failure::{Failure, Result, while_doing};
use crate::load::{Load, Pace, Produced, RECORD_BYTES, Unmeasured};
use crate::memory::WarmMemory;
use crate::plan::{Batching, DEFAULTS, LARGE};
use crate::raw::Raw;
use crate::scenario::{MAIN, Shape};
use crate::stats::percentile;
use crate::topics::create_topic;
use crate::wire;

/// What to drive.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Broker, `host:port`.
    #[arg(long)]
    bootstrap: String,
    /// Topic; it is created when it is not there.
    #[arg(long)]
    topic: String,
    /// Which load.
    #[arg(long, value_enum)]
    load: Kind,
    /// Seconds.
    #[arg(long)]
    seconds: f64,

    /// Fills free memory with pages of an empty file in this directory first.
    #[arg(long)]
    warm: Option<PathBuf>,

    /// Partitions of the topic.
    #[arg(long, default_value_t = MAIN.partitions, value_parser = clap::value_parser!(i32).range(1..))]
    partitions: i32,

    /// Producers that share `produce`, `produce-large`, `steady` and `single`.
    #[arg(long, default_value_t = MAIN.producers, value_parser = clap::value_parser!(u32).range(1..))]
    producers: u32,

    /// MB/s of `steady`.
    #[arg(long, default_value_t = 5)]
    rate: u32,

    /// Records of the topic, for loads that read it.
    #[arg(long, default_value_t = 0)]
    records: u64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// 16 KiB batches, as fast as acknowledgements come.
    Produce,
    /// 256 KiB batches, as fast as acknowledgements come.
    ProduceLarge,
    /// Reads the topic as fast as possible, again and again.
    Consume,
    /// One record of 1 KiB per request, one request in flight.
    Small,
    /// 16 KiB batches at `--rate`, an open loop.
    Steady,
    /// A record, its acknowledgement, a pause, and again.
    Single,
}

/// Drives it and prints `requests=`, `records=`, `mb=` and `seconds=`; and, for loads that have
/// intended times, `p50_ms=` and `p99_ms=`.
pub fn run(args: &Args) -> Result<()> {
    let mut memory = args.warm.as_deref().map(WarmMemory::new).transpose()?;
    memory.as_mut().map(WarmMemory::fill).transpose()?;
    let shape = Shape {
        partitions: args.partitions,
        producers: args.producers,
        ..MAIN
    };
    // A topic that is there already is what a second drive wants.
    create_topic(&args.bootstrap, &args.topic, shape.partitions, None).unwrap_or_default();
    let mut latencies = String::new();
    let mut timed = |mut done: Produced| {
        latencies = percentiles(&mut done.latencies_ms);
        (0, done.records, done.seconds)
    };
    let (requests, records, seconds) = match args.load {
        Kind::Produce => saturate(args, shape, DEFAULTS)?,
        Kind::ProduceLarge => saturate(args, shape, LARGE)?,
        Kind::Consume => {
            let pace = Pace::Fast {
                seconds: args.seconds,
            };
            let load = Load::new(false);
            let (at, topic) = (&args.bootstrap, &args.topic);
            let done = load.consume(at, topic, shape, args.records, pace, &mut Unmeasured)?;
            (0, done.bytes / RECORD_BYTES as u64, done.seconds)
        }
        Kind::Small => small(args)?,
        Kind::Steady => {
            let (at, topic) = (&args.bootstrap, &args.topic);
            let load = Load::new(false);
            let done = load.fixed(at, topic, shape, args.rate, args.seconds, &mut Unmeasured)?;
            timed(done)
        }
        Kind::Single => {
            let (at, topic) = (&args.bootstrap, &args.topic);
            let load = Load::new(false);
            timed(load.one_by_one(at, topic, shape, args.seconds, &mut Unmeasured)?)
        }
    };
    let mb = (records * RECORD_BYTES as u64) as f64 / 1e6;
    let text = format!(
        "{latencies}requests={requests}\nrecords={records}\nmb={mb:.3}\nseconds={seconds:.3}\n"
    );
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(while_doing("printing"))
}

/// Percentiles as lines of the output.
fn percentiles(latencies_ms: &mut [f64]) -> String {
    let named = [("p50_ms", 0.5), ("p99_ms", 0.99)];
    let lines = named.map(|(name, fraction)| {
        let at = percentile(latencies_ms, fraction);
        at.map_or_else(String::new, |at| format!("{name}={at:.3}\n"))
    });
    lines.concat()
}

fn saturate(args: &Args, shape: Shape, batching: Batching) -> Result<(u64, u64, f64)> {
    let done = Load::new(false).saturate(
        &args.bootstrap,
        &args.topic,
        shape,
        batching,
        args.seconds,
        u64::MAX,
        &mut Unmeasured,
    )?;
    Ok((0, done.records, done.seconds))
}

fn small(args: &Args) -> Result<(u64, u64, f64)> {
    let mut raw = Raw::connect(&args.bootstrap).map_err(while_doing("connecting"))?;
    let value = vec![0x5a; RECORD_BYTES];
    let batch = wire::batch(&[&value], 0);
    let start = Instant::now();
    let length = Duration::from_secs_f64(args.seconds);
    let mut requests = 0;
    while start.elapsed() < length {
        let partition = (requests % args.partitions as u64) as i32;
        let batches = [(partition, batch.clone())].into();
        let answer = raw
            .produce(&[(args.topic.clone(), batches)].into())
            .map_err(while_doing("producing"))?;
        match answer.values().flat_map(BTreeMap::values).next() {
            Some((0, _)) => requests += 1,
            // Leaders are chosen a moment after a topic is made.
            Some((3 | 5 | 6, _)) if requests == 0 => std::thread::sleep(Duration::from_millis(5)),
            other => return Err(Failure::Finding(format!("producing: {other:?}"))),
        }
    }
    Ok((requests, requests, start.elapsed().as_secs_f64()))
}
