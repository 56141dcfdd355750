//! What is collected at a scrape, and the pages made of it.

use super::families::{self as f, Family};
use super::process::ProcessSample;
use super::text::Text;
use super::topics::{SHOWN_TOPICS, Topics, Traffic};
use super::watchdog::NetThreadSample;
use crate::tier::Reserve;
use std::fmt::Display;
use std::time::Duration;

/// Partitions that `/metrics/partitions` lists: some 20 MB of text.
pub(crate) const SHOWN_PARTITIONS: usize = 20_000;

/// The broker's state at one moment, for `/metrics`.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    /// What this broker's clock says, in milliseconds since 1970.
    pub(crate) now_ms: i64,
    /// Since the process started.
    pub(crate) uptime: Duration,
    /// Whether `/readyz` answers 200.
    pub(crate) ready: bool,
    /// Whether nothing is served because a data directory is marked as failed.
    pub(crate) directory_failed: bool,
    /// Partitions still to be recovered.
    pub(crate) recovery_left: u64,
    /// Partitions that came back from a bucket and wait for their backup.
    pub(crate) awaiting_backup: u64,
    pub(crate) memory: Vec<MemorySample>,
    /// How many groups are in each state, by Kafka's name of the state.
    pub(crate) groups: Vec<(&'static str, u64)>,
    /// Those with the most lag, and all others together.
    pub(crate) lags: Vec<GroupSample>,
    pub(crate) controller: ControllerSample,
    pub(crate) fetch_sessions: u64,
    pub(crate) disks: Vec<DiskSample>,
    pub(crate) net_threads: Vec<NetThreadSample>,
    pub(crate) process: ProcessSample,
}

/// A memory budget.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct MemorySample {
    pub(crate) budget: &'static str,
    pub(crate) used_bytes: u64,
    pub(crate) limit_bytes: u64,
}

/// A data directory. What a failed disk no longer tells is 0.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DiskSample {
    pub(crate) directory: String,
    /// Bytes that our data takes.
    pub(crate) used_bytes: u64,
    pub(crate) capacity_bytes: u64,
    pub(crate) free_bytes: u64,
    pub(crate) online: bool,
    /// The disk is full: nothing is taken in.
    pub(crate) read_only: bool,
    /// What waits for the bucket, where tiered partitions are led.
    pub(crate) reserve: Option<Reserve>,
    /// Bytes that wait for the write-ahead log's writer.
    pub(crate) wal_queued_bytes: u64,
    /// Bytes of the write-ahead log that a start after a crash has to read.
    pub(crate) wal_held_bytes: u64,
}

/// A group that is coordinated here.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct GroupSample {
    pub(crate) group: String,
    /// Kafka's name of it; empty for many together.
    pub(crate) state: &'static str,
    pub(crate) members: u64,
    pub(crate) rebalances: u64,
    /// Sum of the committed offsets.
    pub(crate) committed: i64,
    /// Records that are to be consumed, as far as is known here.
    pub(crate) lag_records: u64,
    /// Age of the oldest of them, in milliseconds.
    pub(crate) lag_ms: u64,
    /// Partitions whose lag is not known here.
    pub(crate) unknown_partitions: u64,
}

impl GroupSample {
    /// Counts one more group. Ages do not add up.
    pub(crate) fn add(&mut self, more: &GroupSample) {
        self.members += more.members;
        self.rebalances += more.rebalances;
        self.committed = self.committed.saturating_add(more.committed);
        self.lag_records += more.lag_records;
        self.unknown_partitions += more.unknown_partitions;
    }
}

/// What this broker knows of the controller, and of the cluster from it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct ControllerSample {
    pub(crate) active: bool,
    /// Since an active controller was last heard of.
    pub(crate) contact_age: Duration,
    /// Whether this broker is fenced.
    pub(crate) fenced: bool,
    pub(crate) fenced_brokers: u64,
    pub(crate) leaderless: u64,
}

/// How a partition stands with its replicas; nothing where this broker does not lead it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Standing {
    pub(crate) leads: bool,
    pub(crate) under_replicated: bool,
    pub(crate) under_min_isr: bool,
    pub(crate) at_min_isr: bool,
    /// Records that the slowest follower lacks.
    pub(crate) lag: i64,
}

/// A partition; traffic is since the process started.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct PartitionSample<'a> {
    pub(crate) topic: &'a str,
    pub(crate) index: i32,
    pub(crate) log_start: i64,
    pub(crate) high_watermark: i64,
    pub(crate) end: i64,
    pub(crate) durable: i64,
    pub(crate) size_bytes: u64,
    pub(crate) segments: u64,
    pub(crate) bytes_in: u64,
    pub(crate) records_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) standing: Standing,
    /// Whether it can be read and written; offsets and sizes of one that cannot may be 0.
    pub(crate) online: bool,
}

impl<'a> PartitionSample<'a> {
    /// A partition of `topic` whose log cannot be used: nothing of it is known.
    pub(crate) fn offline(topic: &'a str, index: i32) -> PartitionSample<'a> {
        PartitionSample {
            topic,
            index,
            log_start: 0,
            high_watermark: 0,
            end: 0,
            durable: 0,
            size_bytes: 0,
            segments: 0,
            bytes_in: 0,
            records_in: 0,
            bytes_out: 0,
            standing: Standing::default(),
            online: false,
        }
    }
}

/// Where partitions are walked at a scrape.
pub(crate) trait PartitionSource {
    /// Shows each partition once, in any order, with its lock held no longer than to copy.
    fn visit(&self, visitor: &mut dyn FnMut(PartitionSample<'_>));
}

/// Appends to `page` (what the registry holds) what is collected at a scrape.
pub(super) fn write(
    page: String,
    snapshot: &Snapshot,
    partitions: &dyn PartitionSource,
    topics: &mut Topics,
) -> String {
    let mut text = Text::after(page);
    text.begin(&f::BUILD_INFO);
    text.sample(&f::BUILD_INFO, &[&env!("CARGO_PKG_VERSION")], &1);
    text.single(&f::CLOCK, &(snapshot.now_ms as f64 / 1_000.0));
    text.single(&f::UPTIME, &snapshot.uptime.as_secs_f64());
    text.single(&f::READY, &u8::from(snapshot.ready));
    text.single(&f::RECOVERY_LEFT, &snapshot.recovery_left);
    text.single(&f::AWAITING_BACKUP, &snapshot.awaiting_backup);
    let failed = u8::from(snapshot.directory_failed);
    text.single(&f::DIRECTORY_FAILED, &failed);
    text.single(&f::FETCH_SESSIONS, &snapshot.fetch_sessions);
    rows(&mut text, &f::GROUPS, &snapshot.groups, |row| {
        (&row.0, &row.1)
    });
    groups(&mut text, &snapshot.lags);
    let controller = &snapshot.controller;
    text.single(&f::ACTIVE_CONTROLLER, &u8::from(controller.active));
    let age = controller.contact_age.as_secs_f64();
    text.single(&f::CONTROLLER_CONTACT, &age);
    text.single(&f::FENCED, &u8::from(controller.fenced));
    text.single(&f::FENCED_BROKERS, &controller.fenced_brokers);
    text.single(&f::LEADERLESS, &controller.leaderless);
    rows(&mut text, &f::MEMORY_USED, &snapshot.memory, |m| {
        (&m.budget, &m.used_bytes)
    });
    rows(&mut text, &f::MEMORY_LIMIT, &snapshot.memory, |m| {
        (&m.budget, &m.limit_bytes)
    });
    rows(&mut text, &f::DISK_USED, &snapshot.disks, |d| {
        (&d.directory, &d.used_bytes)
    });
    rows(&mut text, &f::DISK_CAPACITY, &snapshot.disks, |d| {
        (&d.directory, &d.capacity_bytes)
    });
    rows(&mut text, &f::DISK_FREE, &snapshot.disks, |d| {
        (&d.directory, &d.free_bytes)
    });
    text.begin(&f::DISK_ONLINE);
    for disk in &snapshot.disks {
        text.sample(&f::DISK_ONLINE, &[&disk.directory], &u8::from(disk.online));
    }
    text.begin(&f::DISK_READ_ONLY);
    for disk in &snapshot.disks {
        let read_only = u8::from(disk.read_only);
        text.sample(&f::DISK_READ_ONLY, &[&disk.directory], &read_only);
    }
    let reserves = |bytes: fn(&Reserve) -> u64| {
        let of = move |disk: &DiskSample| Some((disk.directory.clone(), bytes(&disk.reserve?)));
        snapshot.disks.iter().filter_map(of).collect::<Vec<_>>()
    };
    let held_back = reserves(|reserve| reserve.held_back_bytes);
    rows(&mut text, &f::TIER_HELD_BACK, &held_back, |(dir, bytes)| {
        (dir, bytes)
    });
    let reserve = reserves(|reserve| reserve.reserve_bytes);
    rows(&mut text, &f::TIER_RESERVE, &reserve, |(dir, bytes)| {
        (dir, bytes)
    });
    rows(&mut text, &f::WAL_QUEUED, &snapshot.disks, |d| {
        (&d.directory, &d.wal_queued_bytes)
    });
    rows(&mut text, &f::WAL_HELD, &snapshot.disks, |d| {
        (&d.directory, &d.wal_held_bytes)
    });
    process(&mut text, &snapshot.process);
    let threads = &snapshot.net_threads;
    rows(&mut text, &f::SLOW_POLLS, threads, |t| {
        (&t.thread, &t.slow_polls)
    });
    for (family, of) in [
        (
            &f::POLL_DELAY_MAX,
            (|t| t.longest_delay) as fn(&NetThreadSample) -> Duration,
        ),
        (&f::TICK_AGE, |t| t.tick_age),
    ] {
        text.begin(family);
        for thread in threads {
            text.sample(family, &[&thread.thread], &of(thread).as_secs_f64());
        }
    }
    walk(&mut text, partitions, topics);
    text.into_string()
}

fn rows<T>(
    text: &mut Text,
    family: &Family,
    samples: &[T],
    of: fn(&T) -> (&dyn Display, &dyn Display),
) {
    text.begin(family);
    for sample in samples {
        let (label, value) = of(sample);
        text.sample(family, &[label], value);
    }
}

fn groups(text: &mut Text, groups: &[GroupSample]) {
    rows(text, &f::GROUP_LAG, groups, |g| (&g.group, &g.lag_records));
    text.begin(&f::GROUP_LAG_SECONDS);
    for group in groups.iter().filter(|g| !g.state.is_empty()) {
        let age = Duration::from_millis(group.lag_ms).as_secs_f64();
        text.sample(&f::GROUP_LAG_SECONDS, &[&group.group], &age);
    }
    rows(text, &f::GROUP_UNKNOWN, groups, |g| {
        (&g.group, &g.unknown_partitions)
    });
    rows(text, &f::GROUP_COMMITTED, groups, |g| {
        (&g.group, &g.committed)
    });
    rows(text, &f::GROUP_MEMBERS, groups, |g| (&g.group, &g.members));
    text.begin(&f::GROUP_STATE);
    for group in groups.iter().filter(|g| !g.state.is_empty()) {
        text.sample(&f::GROUP_STATE, &[&group.group, &group.state], &1);
    }
    rows(text, &f::GROUP_REBALANCES, groups, |g| {
        (&g.group, &g.rebalances)
    });
}

fn process(text: &mut Text, process: &ProcessSample) {
    if let Some(seconds) = process.cpu_seconds {
        text.single(&f::CPU, &seconds);
    }
    for (family, value) in [
        (&f::RESIDENT_MEMORY, process.resident_bytes),
        (&f::THREADS, process.threads),
        (&f::OPEN_FILES, process.open_files),
        (&f::OPEN_FILES_LIMIT, process.open_files_limit),
    ] {
        if let Some(value) = value {
            text.single(family, &value);
        }
    }
}

fn walk(text: &mut Text, partitions: &dyn PartitionSource, topics: &mut Topics) {
    let (mut count, mut offline) = (0_u64, 0_u64);
    let (mut led, mut lag_max) = ([0_u64; 4], 0_i64);
    topics.begin();
    partitions.visit(&mut |p| {
        count += 1;
        offline += u64::from(!p.online);
        let Standing {
            leads,
            under_replicated,
            under_min_isr,
            at_min_isr,
            lag,
        } = p.standing;
        let counted = [leads, under_replicated, under_min_isr, at_min_isr];
        led.iter_mut()
            .zip(counted)
            .for_each(|(sum, one)| *sum += u64::from(one));
        lag_max = lag_max.max(lag);
        let traffic = Traffic {
            bytes_in: p.bytes_in,
            records_in: p.records_in,
            bytes_out: p.bytes_out,
        };
        topics.add(p.topic, p.size_bytes, traffic);
    });
    let rows = topics.end(SHOWN_TOPICS);
    for (family, of) in [
        (
            &f::TOPIC_RECEIVED_BYTES,
            (|r| r.traffic.bytes_in) as fn(&super::topics::Row) -> u64,
        ),
        (&f::TOPIC_RECEIVED_RECORDS, |r| r.traffic.records_in),
        (&f::TOPIC_SENT_BYTES, |r| r.traffic.bytes_out),
        (&f::TOPIC_SIZE, |r| r.size_bytes),
        (&f::TOPIC_PARTITIONS, |r| r.partitions),
    ] {
        text.begin(family);
        for (topic, row) in &rows {
            text.sample(family, &[topic], &of(row));
        }
    }
    let total = topics.total();
    text.single(&f::RECEIVED_BYTES, &total.bytes_in);
    text.single(&f::RECEIVED_RECORDS, &total.records_in);
    text.single(&f::SENT_BYTES, &total.bytes_out);
    text.single(&f::TOPICS, &topics.len());
    text.single(&f::PARTITIONS, &count);
    text.single(&f::PARTITIONS_OFFLINE, &offline);
    text.single(&f::LEADERS, &led[0]);
    text.single(&f::UNDER_REPLICATED, &led[1]);
    text.single(&f::UNDER_MIN_ISR, &led[2]);
    text.single(&f::AT_MIN_ISR, &led[3]);
    text.single(&f::FOLLOWER_LAG_MAX, &lag_max);
}

/// The page of all partitions, in order of topic and index.
pub(super) fn partitions_page(source: &dyn PartitionSource, shown: usize) -> String {
    type Of = fn(&PartitionSample<'static>) -> i128;
    let mut listed: Vec<(String, PartitionSample<'static>)> = Vec::new();
    let mut more = 0_u64;
    source.visit(&mut |p| {
        if listed.len() < shown {
            listed.push((p.topic.to_owned(), PartitionSample { topic: "", ..p }));
        } else {
            more += 1;
        }
    });
    listed.sort_unstable_by(|(a, p), (b, q)| (a, p.index).cmp(&(b, q.index)));
    let mut text = Text::default();
    for (family, of) in [
        (&f::PARTITION_LOG_START, (|p| p.log_start.into()) as Of),
        (&f::PARTITION_HIGH_WATERMARK, |p| p.high_watermark.into()),
        (&f::PARTITION_END, |p| p.end.into()),
        (&f::PARTITION_DURABLE, |p| p.durable.into()),
        (&f::PARTITION_SIZE, |p| p.size_bytes.into()),
        (&f::PARTITION_SEGMENTS, |p| p.segments.into()),
        (&f::PARTITION_FOLLOWER_LAG, |p| p.standing.lag.into()),
        (&f::PARTITION_ONLINE, |p| p.online.into()),
        (&f::PARTITION_RECEIVED_BYTES, |p| p.bytes_in.into()),
        (&f::PARTITION_RECEIVED_RECORDS, |p| p.records_in.into()),
        (&f::PARTITION_SENT_BYTES, |p| p.bytes_out.into()),
    ] {
        text.begin(family);
        for (topic, partition) in &listed {
            text.sample(family, &[topic, &partition.index], &of(partition));
        }
    }
    if more > 0 {
        text.comment(format_args!("{more} more partitions are not listed"));
    }
    text.into_string()
}
