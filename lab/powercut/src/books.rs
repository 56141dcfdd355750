//! What was sent, what was acknowledged, and what must therefore be found. Pure.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::chance::Chance;

/// Where a topic stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// A creation or deletion was sent and its outcome is not known.
    InDoubt,
    /// Its creation was acknowledged.
    There,
    /// Its deletion was acknowledged.
    Deleted,
}

/// A topic.
#[derive(Debug)]
pub struct Topic {
    /// Where it stands.
    pub life: Life,
    /// Whether producers write to it.
    pub open: bool,
    /// Bytes of its values at most; large ones make segments roll.
    pub value_bytes: usize,
    /// What retention leaves of a partition at least, in bytes; `None` without retention.
    pub retention_bytes: Option<u64>,
    /// By partition.
    pub partitions: Vec<Partition>,
}

/// Who wrote a record, and which of theirs in that partition it is.
pub type Id = (u16, u64);

/// What is known of a partition.
#[derive(Debug, Default)]
pub struct Partition {
    /// Records sent so far, by producer.
    pub sent: BTreeMap<u16, u64>,
    /// Acknowledged records by offset.
    pub acked: BTreeMap<i64, Id>,
    /// Acknowledged records whose offset the broker no longer knew.
    pub acked_somewhere: BTreeSet<Id>,
}

/// What a group committed.
#[derive(Debug, Default)]
pub struct Commits {
    /// The last number sent, and the last acknowledged.
    pub sent: i64,
    /// The last number acknowledged.
    pub acked: Option<i64>,
}

/// All of it.
#[derive(Debug, Default)]
pub struct Books {
    /// By name.
    pub topics: BTreeMap<String, Topic>,
    /// Of the group, by topic; always for partition 0.
    pub commits: BTreeMap<String, Commits>,
    /// Records acknowledged.
    pub acked: u64,
    /// Records that failed for good.
    pub failed: u64,
    /// Things that are wrong already, such as one offset told twice.
    pub wrong: Vec<String>,
}

/// The value of a record: it says which it is, and every byte of it follows from that.
pub fn value(topic: &str, partition: i32, (producer, seq): Id, most_bytes: usize) -> Bytes {
    let text = format!("{topic}/{partition}/{producer}/{seq}/");
    let seed = text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut chance = Chance::new(seed);
    let len = chance.index(most_bytes);
    let mut bytes = text.into_bytes();
    while bytes.len() < len {
        bytes.extend(chance.number().to_ne_bytes());
    }
    Bytes::from(bytes)
}

/// Which record a value is.
pub fn id_of(value: &[u8]) -> Option<Id> {
    let mut parts = value.split(|byte| *byte == b'/').skip(2);
    let mut number = || std::str::from_utf8(parts.next()?).ok()?.parse::<u64>().ok();
    let (producer, seq) = (number()?, number()?);
    Some((u16::try_from(producer).ok()?, seq))
}

/// What was read of a partition: its log start offset, its end, offsets and values.
#[derive(Debug, Default)]
pub struct Found {
    /// The log start offset.
    pub start: i64,
    /// The high watermark.
    pub end: i64,
    /// Offsets and values, as they came.
    pub records: Vec<(i64, Bytes)>,
}

impl Books {
    /// The numbers for the next record of a producer.
    pub fn next(&mut self, producer: u16, topic: &str, partition: i32) -> Option<(Id, usize)> {
        let topic = self.topics.get_mut(topic)?;
        let book = topic.partitions.get_mut(usize::try_from(partition).ok()?)?;
        let sent = book.sent.entry(producer).or_insert(0);
        *sent += 1;
        Some(((producer, *sent - 1), topic.value_bytes))
    }

    /// A record was acknowledged, at an offset or (-1) somewhere.
    pub fn acknowledged(&mut self, topic: &str, partition: i32, id: Id, offset: i64) {
        self.acked += 1;
        let Some(book) = self
            .topics
            .get_mut(topic)
            .and_then(|topic| topic.partitions.get_mut(usize::try_from(partition).ok()?))
        else {
            return;
        };
        if offset < 0 {
            book.acked_somewhere.insert(id);
        } else if let Some(other) = book.acked.insert(offset, id) {
            self.wrong.push(format!(
                "{topic}-{partition}: offset {offset} was acknowledged for {other:?} and for {id:?}"
            ));
        }
    }

    /// What is wrong with what was found of a partition.
    pub fn judge(&self, name: &str, partition: i32, found: &Found) -> Vec<String> {
        let mut wrong = Vec::new();
        let at = format!("{name}-{partition}");
        let Some(topic) = self.topics.get(name) else {
            return vec![format!("{at} is not known")];
        };
        let Some(book) = usize::try_from(partition)
            .ok()
            .and_then(|p| topic.partitions.get(p))
        else {
            return vec![format!("{at} is not known")];
        };
        let mut seen: BTreeMap<Id, i64> = BTreeMap::new();
        let mut last: BTreeMap<u16, u64> = BTreeMap::new();
        let mut following = found.start;
        for (offset, bytes) in &found.records {
            if *offset != following {
                wrong.push(format!(
                    "{at}: offset {offset} comes where {following} does"
                ));
            }
            following = offset + 1;
            let Some(id) = id_of(bytes) else {
                wrong.push(format!("{at}: nobody wrote what is at offset {offset}"));
                continue;
            };
            if *bytes != value(name, partition, id, topic.value_bytes) {
                wrong.push(format!("{at}: offset {offset}, {id:?}, was altered"));
            }
            if id.1 >= book.sent.get(&id.0).copied().unwrap_or(0) {
                wrong.push(format!("{at}: {id:?} at offset {offset} was never sent"));
            }
            if let Some(first) = seen.insert(id, *offset) {
                wrong.push(format!("{at}: {id:?} is at {first} and again at {offset}"));
            }
            if let Some(before) = last.insert(id.0, id.1)
                && before >= id.1
            {
                wrong.push(format!("{at}: {id:?} at {offset} comes after {before}"));
            }
        }
        if following != found.end {
            wrong.push(format!(
                "{at}: read up to {following}, the end is {}",
                found.end
            ));
        }
        let mut lost = Vec::new();
        for (offset, id) in book.acked.range(found.start..) {
            if seen.get(id) != Some(offset) {
                lost.push((*offset, *id, seen.get(id).copied()));
            }
        }
        if let Some((offset, id, elsewhere)) = lost.first() {
            wrong.push(format!(
                "{at}: {} acknowledged records are not where they were acknowledged, the first {id:?} \
                 at {offset} (it is at {elsewhere:?}; the log is {}..{})",
                lost.len(),
                found.start,
                found.end
            ));
        }
        let absent = |id: &&Id| found.start == 0 && !seen.contains_key(id);
        if let Some(id) = book.acked_somewhere.iter().find(absent) {
            wrong.push(format!("{at}: {id:?} was acknowledged and is not there"));
        }
        match topic.retention_bytes {
            None if found.start != 0 => {
                wrong.push(format!("{at}: the log starts at {}", found.start));
            }
            Some(keep) if found.start > 0 => {
                let bytes: usize = found.records.iter().map(|(_, value)| value.len()).sum();
                // Batches take more room on disk than their values, hence not the whole of it.
                if (bytes as u64) < keep / 2 {
                    wrong.push(format!("{at}: retention left {bytes} of {keep} bytes"));
                }
            }
            _ => {}
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn books() -> Books {
        let mut books = Books::default();
        let topic = Topic {
            life: Life::There,
            open: true,
            value_bytes: 100,
            retention_bytes: None,
            partitions: vec![Partition::default()],
        };
        books.topics.insert("t".to_owned(), topic);
        for at in 0..4 {
            let (id, _) = books.next(7, "t", 0).unwrap();
            if at < 3 {
                books.acknowledged("t", 0, id, at);
            }
        }
        books
    }

    fn found(seqs: &[u64]) -> Found {
        let records = seqs.iter().zip(0..);
        let records = records.map(|(seq, offset)| (offset, value("t", 0, (7, *seq), 100)));
        Found {
            start: 0,
            end: seqs.len() as i64,
            records: records.collect(),
        }
    }

    #[test]
    fn each_kind_of_wrong_is_told() {
        let books = books();
        let wrong = |found: &Found| books.judge("t", 0, found).join("; ");
        assert_eq!(wrong(&found(&[0, 1, 2])), "");
        assert_eq!(
            wrong(&found(&[0, 1, 2, 3])),
            "",
            "sent and not acknowledged may be there"
        );
        assert!(wrong(&found(&[0, 1])).contains("1 acknowledged records are not"));
        assert!(wrong(&found(&[0, 2, 1])).contains("comes after"));
        assert!(wrong(&found(&[0, 1, 2, 2])).contains("again"));
        assert!(wrong(&found(&[0, 1, 2, 4])).contains("never sent"));
        let mut altered = found(&[0, 1, 2]);
        altered.records[1].1 = Bytes::from_static(b"t/0/7/1/x");
        assert!(wrong(&altered).contains("altered"));
        let mut cut = found(&[0, 1, 2]);
        cut.end = 5;
        assert!(wrong(&cut).contains("the end is 5"));
        cut.start = 1;
        cut.records.remove(0);
        assert!(wrong(&cut).contains("starts at 1"));
    }

    #[test]
    fn an_offset_is_acknowledged_once() {
        let mut books = books();
        books.acknowledged("t", 0, (7, 3), 2);
        assert_eq!(books.wrong.len(), 1);
    }

    #[test]
    fn values_name_themselves() {
        for seq in 0..100 {
            assert_eq!(id_of(&value("a-b", 3, (9, seq), 300)), Some((9, seq)));
        }
        assert_eq!(id_of(b"t/0/x/1/"), None);
    }
}
