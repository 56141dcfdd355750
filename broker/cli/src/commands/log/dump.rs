//! `tidemark log dump`: the rows of a segment, an index, a snapshot or a checkpoint, one line each.

use std::path::PathBuf;

use serde_json::{Value, json};
use tidemark_client::consumer::ConsumerRecord;
use tidemark_env::disk::FileDisk;
use tidemark_log::dump::{BatchRow, Dump, DumpError, FileKind, Row};
use tidemark_records::{Limits, Record, TimestampType};

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::progress::Progress;
use crate::record_format::record_json;
use crate::when::format_moment;

/// Show what a file of a partition's directory holds, ours or Kafka's
///
/// Exit code 1 when something in it is damaged. With -o json one object per line.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A .log, .index, .timeindex, .txnindex, .snapshot, leader-epoch-checkpoint or tidemark-checkpoint
    file: PathBuf,
    /// Show the records in each batch, too
    #[arg(long, short = 'r')]
    records: bool,
}

/// Runs the command.
pub fn run(args: &Args, context: &mut Context) -> Result<Exit, Failure> {
    let name = args.file.display().to_string();
    let failed = |error: std::io::Error| Failure::file(&name, &error);
    let disk = FileDisk::new();
    let mut dump = Dump::open(&disk, &args.file).map_err(|error| match error {
        DumpError::Io(error) => failed(error),
        other => Failure::usage(other.to_string()),
    })?;
    if !context.out.is_json() {
        context.out.line(heading(dump.kind()))?;
    }
    let mut progress = Progress::new();
    let mut damaged = 0_u64;
    let mut rows = 0_u64;
    while let Some(row) = dump.next() {
        let row = row.map_err(failed)?;
        rows += 1;
        damaged += u64::from(is_damage(&row));
        if context.out.is_json() {
            context.out.line(&row_json(&row).to_string())?;
        } else {
            context.out.line(&row_text(&row))?;
        }
        if let (true, Row::Batch(batch)) = (args.records, &row) {
            match dump.records(batch, Limits::default()).map_err(failed)? {
                Ok(records) => show_records(batch, records, context)?,
                Err(error) => {
                    damaged += 1;
                    let shown = Row::Damage {
                        position: batch.position,
                        reason: error.to_string(),
                    };
                    context.out.line(&match context.out.is_json() {
                        true => row_json(&shown).to_string(),
                        false => row_text(&shown),
                    })?;
                }
            }
        }
        progress.update(|| format!("{rows} rows"));
    }
    progress.clear();
    if damaged > 0 {
        let places = if damaged == 1 { "place" } else { "places" };
        return Err(
            Failure::finding(format!("{name} is damaged in {damaged} {places}"))
                .next("tidemark doctor"),
        );
    }
    Ok(Exit::Ok)
}

fn is_damage(row: &Row) -> bool {
    match row {
        Row::Damage { .. } => true,
        Row::Batch(batch) => batch.wrong_crc.is_some(),
        _ => false,
    }
}

fn show_records(
    batch: &BatchRow,
    records: Vec<Record>,
    context: &mut Context,
) -> Result<(), Failure> {
    for record in records {
        let shown = ConsumerRecord {
            topic: "".into(),
            partition: -1,
            offset: record.offset,
            timestamp_ms: record.timestamp_ms,
            leader_epoch: batch.header.partition_leader_epoch,
            key: record.key,
            value: record.value,
            headers: record.headers,
        };
        let mut object = record_json(&shown);
        if let Some(object) = object.as_object_mut() {
            // A file does not know of which partition it is.
            object.remove("topic");
            object.remove("partition");
        }
        if context.out.is_json() {
            context.out.line(&json!({ "record": object }).to_string())?;
        } else {
            context.out.line(&format!(
                "{:>12}  {:>12}  {}  key {}  value {}",
                "record",
                shown.offset,
                format_moment(shown.timestamp_ms),
                object["key"],
                object["value"]
            ))?;
        }
    }
    Ok(())
}

fn heading(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Log => {
            "    POSITION          BASE          LAST  RECORDS        SIZE  CODEC   EPOCH  PRODUCER  SEQUENCE  NEWEST                    FLAGS"
        }
        FileKind::OffsetIndex => "      OFFSET    POSITION",
        FileKind::TimeIndex => "      OFFSET  NEWEST",
        FileKind::TransactionIndex => "    PRODUCER         FIRST          LAST   LAST STABLE",
        FileKind::ProducerSnapshot => {
            "    PRODUCER  EPOCH  LAST SEQUENCE   LAST OFFSET  NEWEST                    TRANSACTION"
        }
        FileKind::LeaderEpochs => "       EPOCH         START",
        FileKind::Checkpoint => {
            "   LOG  TOPIC                   PARTITION         LSN     LOG START           END       SEGMENT    POSITION     COMMITTED   EPOCH"
        }
    }
}

fn flags(batch: &BatchRow) -> String {
    let header = &batch.header;
    let mut flags = Vec::new();
    if header.is_control() {
        flags.push("control".to_owned());
    }
    if header.is_transactional() {
        flags.push("transactional".to_owned());
    }
    if header.timestamp_type() == TimestampType::LogAppendTime {
        flags.push("log-append-time".to_owned());
    }
    if let Some(computed) = batch.wrong_crc {
        flags.push(format!(
            "WRONG CRC: stored {:#010x}, computed {computed:#010x}",
            header.crc
        ));
    }
    flags.join(" ")
}

fn row_text(row: &Row) -> String {
    let text = match row {
        Row::Batch(batch) => {
            let h = &batch.header;
            format!(
                "{:>12}  {:>12}  {:>12}  {:>7}  {:>10}  {:<6}  {:>5}  {:>8}  {:>8}  {:<24}  {}",
                batch.position,
                h.base_offset,
                h.last_offset(),
                h.record_count,
                h.size_bytes(),
                h.compression().name(),
                h.partition_leader_epoch,
                h.producer_id,
                h.base_sequence,
                format_moment(h.max_timestamp_ms),
                flags(batch)
            )
        }
        Row::Offset(entry) => format!("{:>12}  {:>10}", entry.offset, entry.position),
        Row::Time(entry) => format!(
            "{:>12}  {}",
            entry.offset,
            format_moment(entry.timestamp_ms)
        ),
        Row::Aborted(entry) => format!(
            "{:>12}  {:>12}  {:>12}  {:>12}",
            entry.producer_id, entry.first_offset, entry.last_offset, entry.last_stable_offset
        ),
        Row::Producer(entry) => {
            let newest = entry.last_batch();
            format!(
                "{:>12}  {:>5}  {:>13}  {:>12}  {:<24}  {}",
                entry.producer_id,
                entry.epoch,
                newest.map_or(-1, |b| b.last_sequence),
                newest.map_or(-1, |b| b.last_offset),
                format_moment(entry.last_timestamp_ms),
                entry
                    .transaction_first_offset
                    .map_or("-".to_owned(), |first| format!("open from {first}"))
            )
        }
        Row::Epoch(entry) => format!("{:>12}  {:>12}", entry.epoch, entry.start_offset),
        Row::Ring {
            ring,
            next_lsn,
            clean,
        } => format!(
            "write-ahead log {ring}, next group {next_lsn}, closed {}",
            if *clean { "cleanly" } else { "not yet" }
        ),
        Row::Checkpoint(id, c) => format!(
            "{:>6}  {:<22}  {:>9}  {:>10}  {:>12}  {:>12}  {:>12}  {:>10}  {:>12}  {:>6}",
            id,
            c.topic_id.to_string(),
            c.partition,
            c.lsn,
            c.log_start,
            c.end,
            c.segment_base,
            c.position,
            c.high_watermark,
            c.last_epoch
        ),
        Row::Damage { position, reason } => format!("{position:>12}  DAMAGED: {reason}"),
    };
    text.trim_end().to_owned()
}

fn row_json(row: &Row) -> Value {
    match row {
        Row::Batch(batch) => {
            let h = &batch.header;
            json!({ "batch": {
                "position": batch.position,
                "base_offset": h.base_offset,
                "last_offset": h.last_offset(),
                "records": h.record_count,
                "size_bytes": h.size_bytes(),
                "compression": h.compression().name(),
                "leader_epoch": h.partition_leader_epoch,
                "producer_id": h.producer_id,
                "producer_epoch": h.producer_epoch,
                "base_sequence": h.base_sequence,
                "max_timestamp_ms": h.max_timestamp_ms,
                "log_append_time": h.timestamp_type() == TimestampType::LogAppendTime,
                "transactional": h.is_transactional(),
                "control": h.is_control(),
                "crc": h.crc,
                "wrong_crc": batch.wrong_crc,
            }})
        }
        Row::Offset(entry) => {
            json!({ "offset": { "offset": entry.offset, "position": entry.position } })
        }
        Row::Time(entry) => {
            json!({ "time": { "timestamp_ms": entry.timestamp_ms, "offset": entry.offset } })
        }
        Row::Aborted(entry) => json!({ "aborted": {
            "producer_id": entry.producer_id,
            "first_offset": entry.first_offset,
            "last_offset": entry.last_offset,
            "last_stable_offset": entry.last_stable_offset,
        }}),
        Row::Producer(entry) => {
            let newest = entry.last_batch();
            json!({ "producer": {
                "producer_id": entry.producer_id,
                "epoch": entry.epoch,
                "last_sequence": newest.map(|b| b.last_sequence),
                "last_offset": newest.map(|b| b.last_offset),
                "last_timestamp_ms": entry.last_timestamp_ms,
                "coordinator_epoch": entry.coordinator_epoch,
                "transaction_first_offset": entry.transaction_first_offset,
            }})
        }
        Row::Epoch(entry) => {
            json!({ "epoch": { "epoch": entry.epoch, "start_offset": entry.start_offset } })
        }
        Row::Ring {
            ring,
            next_lsn,
            clean,
        } => json!({ "ring": { "id": ring, "next_lsn": next_lsn, "clean": clean } }),
        Row::Checkpoint(id, c) => json!({ "log": {
            "id": id,
            "topic_id": c.topic_id.to_string(),
            "partition": c.partition,
            "lsn": c.lsn,
            "log_start": c.log_start,
            "end": c.end,
            "segment_base": c.segment_base,
            "position": c.position,
            "high_watermark": c.high_watermark,
            "last_epoch": c.last_epoch,
        }}),
        Row::Damage { position, reason } => {
            json!({ "damage": { "position": position, "reason": reason } })
        }
    }
}
