//! Traffic by topic, with a bounded number of series.

use std::collections::HashMap;

/// Topics with series of their own.
pub(crate) const SHOWN_TOPICS: usize = 200;
/// The label of all others. A topic of this very name is counted with them.
pub(crate) const OTHER: &str = "other";

/// What went through a topic since the process started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    pub(super) bytes_in: u64,
    pub(super) records_in: u64,
    pub(super) bytes_out: u64,
}

impl Traffic {
    pub(super) fn add(&mut self, more: Traffic) {
        self.bytes_in = self.bytes_in.saturating_add(more.bytes_in);
        self.records_in = self.records_in.saturating_add(more.records_in);
        self.bytes_out = self.bytes_out.saturating_add(more.bytes_out);
    }

    /// What came since `before`. A smaller count began anew: the topic was deleted and recreated.
    fn since(self, before: Traffic) -> Traffic {
        let grown = |now: u64, before: u64| now.checked_sub(before).unwrap_or(now);
        Traffic {
            bytes_in: grown(self.bytes_in, before.bytes_in),
            records_in: grown(self.records_in, before.records_in),
            bytes_out: grown(self.bytes_out, before.bytes_out),
        }
    }
}

/// One series of topics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) traffic: Traffic,
    pub(super) size_bytes: u64,
    pub(super) partitions: u64,
}

#[derive(Debug, Default)]
struct Topic {
    row: Row,
    before: Traffic,
}

/// The topics of one scrape, and of the one before to tell what came since.
#[derive(Debug, Default)]
pub(super) struct Topics {
    topics: HashMap<String, Topic>,
    total: Traffic,
    other: Traffic,
}

impl Topics {
    /// Begins a scrape.
    pub(super) fn begin(&mut self) {
        for topic in self.topics.values_mut() {
            topic.before = topic.row.traffic;
            topic.row = Row::default();
        }
    }

    /// Adds one partition.
    pub(super) fn add(&mut self, topic: &str, size_bytes: u64, traffic: Traffic) {
        if !self.topics.contains_key(topic) {
            self.topics.insert(topic.to_owned(), Topic::default());
        }
        if let Some(Topic { row, .. }) = self.topics.get_mut(topic) {
            row.traffic.add(traffic);
            row.size_bytes = row.size_bytes.saturating_add(size_bytes);
            row.partitions += 1;
        }
    }

    /// Ends a scrape: the rows in order of their topics' names, the row of all others last (if
    /// there ever was any other).
    pub(super) fn end(&mut self, shown: usize) -> Vec<(&str, Row)> {
        self.topics.retain(|_, topic| topic.row.partitions > 0);
        let mut ranked: Vec<(&str, &Topic)> = self
            .topics
            .iter()
            .map(|(name, topic)| (name.as_str(), topic))
            .collect();
        ranked.sort_unstable_by_key(|(name, topic)| {
            (
                *name == OTHER,
                std::cmp::Reverse(topic.row.size_bytes),
                *name,
            )
        });
        let own = ranked.iter().filter(|(name, _)| *name != OTHER).count();
        let others = ranked.split_off(own.min(shown));
        let mut other = Row::default();
        for (_, topic) in &ranked {
            self.total.add(topic.row.traffic.since(topic.before));
        }
        for (_, topic) in &others {
            let came = topic.row.traffic.since(topic.before);
            self.total.add(came);
            self.other.add(came);
            other.size_bytes = other.size_bytes.saturating_add(topic.row.size_bytes);
            other.partitions += topic.row.partitions;
        }
        other.traffic = self.other;
        let mut rows: Vec<(&str, Row)> = ranked
            .into_iter()
            .map(|(name, topic)| (name, topic.row))
            .collect();
        rows.sort_unstable_by_key(|(name, _)| *name);
        if !others.is_empty() || other != Row::default() {
            rows.push((OTHER, other));
        }
        rows
    }

    /// Topics in the last scrape.
    pub(super) fn len(&self) -> usize {
        self.topics.len()
    }

    /// Traffic of all topics, those that are gone included.
    pub(super) fn total(&self) -> Traffic {
        self.total
    }
}
