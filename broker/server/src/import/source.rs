//! Finding partitions' directories among what somebody named.

use crate::partition::{DELETED_SUFFIX, STRAY_SUFFIX};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use tidemark_env::disk::{DirEntry, Disk};
use tidemark_model::{check_topic_name, is_internal_topic};

/// Directories of these endings hold a partition that Kafka deletes, moves or does not know.
const PASSED_OVER: [&str; 3] = [DELETED_SUFFIX, "-future", STRAY_SUFFIX];

/// Why what was named cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It cannot be read.
    #[error("{} cannot be read: {error}", path.display())]
    Unreadable {
        /// What was named.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It holds no partitions.
    #[error(
        "{} holds no partitions: name a partition's directory, <topic>-<partition>, or one that holds such", path.display()
    )]
    NoPartitions {
        /// What was named.
        path: PathBuf,
    },
    /// Its name does not say which partition it is.
    #[error(
        "{} holds segments, but its name does not say of which partition: name it <topic>-<partition>", path.display()
    )]
    Nameless {
        /// What was named.
        path: PathBuf,
    },
    /// It is of a topic of Kafka's own.
    #[error(
        "{} belongs to {topic}, which is Kafka's own: brokers keep such a topic for themselves. Offsets of groups are \
         set with `tidemark group reset`", path.display()
    )]
    Internal {
        /// What was named.
        path: PathBuf,
        /// The topic.
        topic: String,
    },
    /// Two directories of one partition.
    #[error(
        "{} and {} are both partition {topic}-{partition}: name one of the replicas", first.display(), second.display()
    )]
    Twice {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// One.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
}

/// A partition's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    /// Size of its segments in bytes.
    pub(super) bytes: u64,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Sources {
    /// By topic and partition.
    pub(super) topics: BTreeMap<String, BTreeMap<i32, Found>>,
    /// What was passed over.
    pub(super) notes: Vec<String>,
}

/// Finds the partitions in `named`, which are partitions' directories or hold such.
pub(super) fn find(disk: &dyn Disk, named: &[PathBuf]) -> Result<Sources, SourceError> {
    let mut sources = Sources::default();
    for path in named {
        let entries = list(disk, path)?;
        let has_segments = entries.iter().any(is_segment);
        let name = path.file_name().and_then(|name| name.to_str());
        match name.and_then(parse_explicit) {
            Some((topic, partition)) if has_segments => {
                if is_kafkas_own(&topic) {
                    let path = path.clone();
                    return Err(SourceError::Internal { path, topic });
                }
                sources.add(topic, partition, path, &entries)?;
                if let Some(parent) = path.parent() {
                    sources.note_unclean(disk, parent);
                }
            }
            _ if has_segments => return Err(SourceError::Nameless { path: path.clone() }),
            _ => sources.add_all_in(disk, path, &entries)?,
        }
    }
    Ok(sources)
}

impl Sources {
    fn add(
        &mut self,
        topic: String,
        partition: i32,
        path: &Path,
        entries: &[DirEntry],
    ) -> Result<(), SourceError> {
        let bytes = entries.iter().filter(|entry| is_segment(entry));
        let found = Found {
            path: path.to_owned(),
            bytes: bytes.map(|entry| entry.len).sum(),
        };
        let partitions = self.topics.entry(topic.clone()).or_default();
        match partitions.insert(partition, found) {
            Some(other) if other.path != path => Err(SourceError::Twice {
                topic,
                partition,
                first: other.path,
                second: path.to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// Adds the partitions in a data directory of Kafka's.
    fn add_all_in(
        &mut self,
        disk: &dyn Disk,
        path: &Path,
        entries: &[DirEntry],
    ) -> Result<(), SourceError> {
        let mut found = 0;
        let mut own: BTreeMap<String, usize> = BTreeMap::new();
        for entry in entries.iter().filter(|entry| entry.is_dir) {
            let inside = path.join(&entry.name);
            match parse(&entry.name) {
                Some((topic, _)) if is_kafkas_own(&topic) => *own.entry(topic).or_default() += 1,
                Some((topic, partition)) => {
                    let entries = list(disk, &inside)?;
                    self.add(topic, partition, &inside, &entries)?;
                    found += 1;
                }
                None if PASSED_OVER.iter().any(|end| entry.name.ends_with(end)) => {
                    self.notes.push(format!(
                        "{} is not a live partition and was passed over",
                        inside.display()
                    ));
                }
                None => {}
            }
        }
        for (topic, count) in own {
            self.notes.push(format!(
                "{topic} is Kafka's own and was passed over ({count} {} in {})",
                if count == 1 {
                    "directory"
                } else {
                    "directories"
                },
                path.display()
            ));
        }
        if found == 0 {
            return Err(SourceError::NoPartitions {
                path: path.to_owned(),
            });
        }
        self.note_unclean(disk, path);
        Ok(())
    }

    /// Says so when Kafka has not closed its logs in `dir`, where it leaves a mark when it has.
    fn note_unclean(&mut self, disk: &dyn Disk, dir: &Path) {
        let has = |name| disk.exists(&dir.join(name)).unwrap_or(false);
        if has("recovery-point-offset-checkpoint") && !has(".kafka_cleanshutdown") {
            let note = format!(
                "Kafka did not stop cleanly on {}, or still runs: records that it had not written are not there",
                dir.display()
            );
            if !self.notes.contains(&note) {
                self.notes.push(note);
            }
        }
    }
}

fn list(disk: &dyn Disk, path: &Path) -> Result<Vec<DirEntry>, SourceError> {
    disk.list(path).map_err(|error| SourceError::Unreadable {
        path: path.to_owned(),
        error,
    })
}

fn is_segment(entry: &DirEntry) -> bool {
    !entry.is_dir && entry.name.ends_with(".log")
}

fn is_kafkas_own(topic: &str) -> bool {
    is_internal_topic(topic) || topic == "__cluster_metadata"
}

/// Topic and partition of a directory's name.
fn parse(name: &str) -> Option<(String, i32)> {
    let (topic, partition) = name.rsplit_once('-')?;
    let digits = partition.bytes().all(|b| b.is_ascii_digit());
    let canonical = digits && (partition == "0" || !partition.starts_with('0'));
    let partition = partition.parse().ok().filter(|_| canonical)?;
    check_topic_name(topic).ok()?;
    Some((topic.to_owned(), partition))
}

/// As [`parse`]; a directory that was set aside (`<topic>-<partition>.<id>-stray`) can be named.
fn parse_explicit(name: &str) -> Option<(String, i32)> {
    match name.strip_suffix(STRAY_SUFFIX) {
        Some(stray) => parse(stray.rsplit_once('.')?.0),
        None => parse(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_topic_and_partition() {
        let some = |topic: &str, partition| Some((topic.to_owned(), partition));
        assert_eq!(parse("orders-0"), some("orders", 0));
        assert_eq!(parse("a-b.c_d-1-12"), some("a-b.c_d-1", 12));
        for name in [
            "orders",
            "-1",
            "orders-",
            "orders-01",
            "orders-+1",
            "orders-4294967296",
            "a b-1",
            "orders-0.abc-stray",
            "orders-0.abc-delete",
        ] {
            assert_eq!(parse(name), None, "{name}");
        }
        for aside in [
            "orders-0.I0rXWEl5RlKBedsbDP0i-w-stray",
            "orders-0.I0rXWEl5RlKBedsbDP0i-w~2-stray",
        ] {
            assert_eq!(parse_explicit(aside), some("orders", 0));
        }
        assert_eq!(parse_explicit("orders-0.abc-delete"), None);
    }
}
