//! What lies on the disks at the end, when every replica was in sync and every broker was stopped
//! cleanly.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use tidemark_env::disk::{Disk, MemDisk, OpenMode};
use tidemark_log::topic_id_of;
use tidemark_records::{Batch, Limits};

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

/// What is wrong on the disks, which are those of the brokers in their order.
pub(super) fn check(disks: &[MemDisk], history: &[Event]) -> Vec<String> {
    let mut broken = Vec::new();
    let mut all = Vec::new();
    for (broker, disk) in disks.iter().enumerate() {
        match read(disk) {
            Ok(records) => all.push(records),
            Err(why) => broken.push(format!("the disk of broker {broker}: {why}")),
        }
    }
    broken.extend(differences(&all));
    broken.extend(missing(&all, history));
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

/// What was found by a reader is on the disk of every replica.
fn missing(all: &[Records], history: &[Event]) -> Vec<String> {
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
        for (offset, value) in records {
            let held: Vec<_> = logs.iter().filter_map(|(_, log)| log.get(offset)).collect();
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
    let text = |error: io::Error| error.to_string();
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
    let mut bytes = file
        .read_bytes_at(0, len)
        .map_err(|error| error.to_string())?;
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
