//! What lies on the disks and in the bucket at the end, when every replica was in sync and every broker was stopped
//! cleanly.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bytes::Bytes;
use tidemark_env::disk::{Disk, MemDisk, OpenMode};
use tidemark_log::topic_id_of;
use tidemark_records::{Batch, Limits};
use tidemark_tier::{Bucket, verify};

use super::machine::DATA;
use crate::checker::Event;

/// Partitions are told apart by the directory's name and the topic's id.
type Log = (String, [u8; 16]);

/// One broker's records by log and offset: leader epoch, and a checksum of the batch they are in.
type Records = BTreeMap<Log, BTreeMap<i64, Held>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    epoch: i32,
    batch_crc: u32,
    value: u64,
}

/// What lies in the bucket at the end.
#[derive(Debug, Default)]
pub(super) struct Cold {
    records: Records,
    /// Where each log begins and ends there.
    ranges: BTreeMap<Log, (i64, i64)>,
    /// What is wrong with it.
    pub(super) findings: Vec<String>,
}

/// Reads all that is in `bucket`.
pub(super) async fn cold(bucket: &Bucket) -> Result<Cold, String> {
    let mut cold = Cold::default();
    let (partitions, _) = verify::by_partition(bucket).await.map_err(text)?;
    for (id, objects) in partitions {
        let looked = verify::partition(bucket, id, &objects, true).await;
        let (found, findings) = looked.map_err(text)?;
        let wrong = findings.iter().filter(|finding| finding.kind != "orphan");
        let wrong = wrong.map(|wrong| format!("the bucket: {} {}", wrong.kind, wrong.what));
        cold.findings.extend(wrong);
        let Some(found) = found else { continue };
        if found.manifest.backup_at_ms.is_some() {
            // It has what is left of the log when it is reduced.
            continue;
        }
        let name = format!("{}-{}", found.manifest.topic, id.partition);
        let log = (name, id.topic_id.0);
        let range = (found.manifest.start_offset, found.manifest.end_offset);
        cold.ranges.insert(log.clone(), range);
        let records = cold.records.entry(log).or_default();
        for entry in found.entries {
            let key = entry.key(id);
            let bytes = bucket.get_range(&key, 0, entry.log_bytes).await;
            let mut all = BTreeMap::new();
            read_batches(bytes.map_err(text)?, &mut all)
                .map_err(|error| format!("{key}: {error}"))?;
            // What it holds beyond is not counted, nor what was deleted inside of a batch.
            let counts = |offset: &i64| (entry.base_offset..entry.end_offset).contains(offset);
            all.retain(|offset, _| counts(offset));
            records.append(&mut all);
        }
    }
    Ok(cold)
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// What is wrong on the disks, which are those of the brokers in their order, and in the bucket.
pub(super) fn check(disks: &[MemDisk], cold: &Cold, history: &[Event]) -> Vec<String> {
    let mut broken = Vec::new();
    let mut all = Vec::new();
    for (broker, disk) in disks.iter().enumerate() {
        match read(disk) {
            Ok(records) => all.push(records),
            Err(why) => broken.push(format!("the disk of broker {broker}: {why}")),
        }
    }
    broken.extend(holes(&all, cold));
    all.push(cold.records.clone());
    broken.extend(differences(&all));
    all.pop();
    broken.extend(missing(&all, cold, history));
    broken
}

/// Where a log begins on a disk, the bucket has all before.
fn holes(all: &[Records], cold: &Cold) -> Vec<String> {
    let mut broken = Vec::new();
    for (broker, records) in all.iter().enumerate() {
        for (log, held) in records {
            let Some((_, end)) = cold.ranges.get(log) else {
                continue;
            };
            if let Some((first, _)) = held.first_key_value()
                && first > end
            {
                broken.push(format!(
                    "{} begins at {first} on the disk of broker {broker}, and ends at {end} in \
                     the bucket",
                    log.0
                ));
            }
        }
    }
    broken
}

/// Two brokers that took a record in the same epoch have the same one.
fn differences(all: &[Records]) -> Vec<String> {
    let mut first: BTreeMap<(&Log, i32, i64), (usize, u32)> = BTreeMap::new();
    let mut broken = BTreeSet::new();
    for (broker, records) in all.iter().enumerate() {
        for (log, held) in records {
            for (offset, held) in held {
                let key = (log, held.epoch, *offset);
                let (other, crc) = *first.entry(key).or_insert((broker, held.batch_crc));
                if crc != held.batch_crc && broken.len() < 5 {
                    broken.insert(format!(
                        "brokers {other} and {broker} have different records at offset {offset} \
                         of {} in leader epoch {}",
                        log.0, held.epoch
                    ));
                }
            }
        }
    }
    broken.into_iter().collect()
}

/// What was found by a reader is on the disk of every replica, or below what is there in the
/// bucket.
fn missing(all: &[Records], cold: &Cold, history: &[Event]) -> Vec<String> {
    let mut broken = Vec::new();
    for event in history {
        let Event::Found { at, records } = event else {
            continue;
        };
        let name = format!("{}-{}", at.0, at.1);
        let logs: Vec<_> = all
            .iter()
            .flat_map(|records| records.iter().filter(|(log, _)| log.0 == name))
            .collect();
        let mut colds = cold.records.iter().filter(|(log, _)| log.0 == name);
        let in_bucket = colds.next().map(|(_, held)| held);
        let mut ranges = cold.ranges.iter().filter(|(log, _)| log.0 == name);
        let begins = ranges.next().map_or(0, |(_, (start, _))| *start);
        for (offset, value) in records {
            if *offset < begins {
                // Retention went on after it was read.
                continue;
            }
            let of = |held: &'_ BTreeMap<i64, Held>| {
                let begins = held.first_key_value().map_or(i64::MAX, |(first, _)| *first);
                let colder = in_bucket.filter(|_| *offset < begins);
                held.get(offset)
                    .or(colder.and_then(|held| held.get(offset)))
                    .copied()
            };
            let held: Vec<Held> = logs.iter().filter_map(|(_, log)| of(log)).collect();
            if held.is_empty() || held.len() < logs.len() {
                broken.push(format!(
                    "offset {offset} of {name} is on the disks of {} of {} replicas",
                    held.len(),
                    logs.len()
                ));
            } else if held.iter().any(|held| held.value != *value) {
                broken.push(format!(
                    "offset {offset} of {name} is {value} for readers, and on disks {held:?}"
                ));
            }
            if broken.len() >= 5 {
                return broken;
            }
        }
    }
    broken
}

fn read(disk: &MemDisk) -> Result<Records, String> {
    let mut records = Records::new();
    let path = Path::new(DATA);
    for entry in disk.list(path).map_err(text)? {
        let dir = path.join(&entry.name);
        if !entry.is_dir || entry.name.contains('.') {
            continue;
        }
        let Ok(Some(topic)) = topic_id_of(disk, &dir) else {
            continue;
        };
        let log = records.entry((entry.name.clone(), topic.0)).or_default();
        for file in disk.list(&dir).map_err(text)? {
            if file.name.ends_with(".log") {
                read_segment(disk, &dir.join(&file.name), log)
                    .map_err(|error| format!("{}/{}: {error}", entry.name, file.name))?;
            }
        }
    }
    Ok(records)
}

fn read_segment(disk: &MemDisk, path: &Path, log: &mut BTreeMap<i64, Held>) -> Result<(), String> {
    let file = disk.open(path, OpenMode::Read);
    let file = file.map_err(|error| error.to_string())?;
    let len = file.len().map_err(|error| error.to_string())?;
    let len = usize::try_from(len).map_err(|error| error.to_string())?;
    let bytes = file
        .read_bytes_at(0, len)
        .map_err(|error| error.to_string())?;
    read_batches(bytes, log)
}

fn read_batches(mut bytes: Bytes, log: &mut BTreeMap<i64, Held>) -> Result<(), String> {
    loop {
        let batch = Batch::split_first(&mut bytes).map_err(|error| error.to_string())?;
        let Some(batch) = batch else { return Ok(()) };
        batch.verify_crc().map_err(|error| error.to_string())?;
        let records = batch.records(Limits::default());
        for record in records.map_err(|error| error.to_string())? {
            let record = record.map_err(|error| error.to_string())?;
            let value = record.value.as_ref().and_then(|value| value.get(..8));
            let held = Held {
                epoch: batch.header.partition_leader_epoch,
                batch_crc: tidemark_records::crc32c(&batch.bytes[12..]),
                value: value.map_or(0, |value| {
                    u64::from_be_bytes(value.try_into().unwrap_or_default())
                }),
            };
            if log.insert(record.offset, held).is_some() {
                return Err(format!("offset {} is there twice", record.offset));
            }
        }
    }
}
