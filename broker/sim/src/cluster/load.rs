//! What clients do: they write, read, read in groups, make and delete topics.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tidemark_client::admin::OffsetSpec;
use tidemark_client::consumer::{
    Consumer, ConsumerConfig, ConsumerRecord, GroupConfig, OffsetReset, Start,
};
use tidemark_client::producer::{Producer, ProducerConfig, ProducerRecord, Receipt};
use tidemark_client::{Cluster, ClusterOptions, ConnectionOptions, TopicPartition};
use tidemark_env::clock;
use tidemark_env::random::Random;
use tidemark_env::sim::Host;
use tidemark_env::task::Task;
use tokio::sync::watch;

use super::machine::Machine;
use super::{Record, Tiered, admin, in_sync, raw};
use crate::checker::{Event, Place};

pub(super) const TOPIC: &str = "orders";
pub(super) const PARTITIONS: i32 = 3;
const GROUP: &str = "shippers";
/// Between two tries of a client.
pub(super) const PAUSE: Duration = Duration::from_millis(300);
/// A record is not older than this when it is appended.
const OLDEST_MS: i64 = 25_000;
/// How long a poll waits.
const POLL: Duration = Duration::from_millis(500);

/// What clients share.
#[derive(Clone)]
pub(super) struct Shared {
    bootstrap: String,
    pub(super) replicas: i16,
    pub(super) record: Record,
    tiered: Option<Tiered>,
    pub(super) ready: Arc<AtomicBool>,
    /// Nothing new is written.
    stop: watch::Receiver<bool>,
    /// Everything was read.
    over: watch::Receiver<bool>,
    waits_for: Arc<Mutex<String>>,
    grouped: Arc<Mutex<BTreeSet<(i32, i64)>>>,
}

/// What members of the group had read before their cluster was lost, and came back with it.
pub(super) struct Before {
    grouped: BTreeSet<(i32, i64)>,
}

/// Writers of a cluster that came back are others than those of before.
const BY_OF_A_LIFE: u32 = 1_000_000;

/// The clients of a history.
pub(super) struct Load {
    shared: Shared,
    stop: watch::Sender<bool>,
    over: watch::Sender<bool>,
    writers: Mutex<Vec<Task<()>>>,
    readers: Mutex<Vec<Task<()>>>,
    brokers: i32,
    at_the_end: Arc<Host>,
}

pub(super) fn place(partition: i32) -> Place {
    (TOPIC.to_owned(), partition)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts them.
pub(super) fn start(
    clients: &[Arc<Host>],
    machines: &[Machine],
    tiered: Option<&Tiered>,
    record: &Record,
    before: Option<Before>,
    mut random: Random,
) -> Load {
    let (by_from, grouped) =
        before.map_or_else(Default::default, |before| (BY_OF_A_LIFE, before.grouped));
    let (stop, stopped) = watch::channel(false);
    let (over, is_over) = watch::channel(false);
    let addresses: Vec<String> = machines.iter().map(Machine::address).collect();
    let shared = Shared {
        bootstrap: addresses.join(","),
        replicas: i16::try_from(machines.len().min(3)).unwrap_or(1),
        record: record.clone(),
        tiered: tiered.cloned(),
        ready: Arc::default(),
        stop: stopped,
        over: is_over,
        waits_for: Arc::default(),
        grouped: Arc::new(Mutex::new(grouped)),
    };
    let mut writers = Vec::new();
    let mut readers = Vec::new();
    let mut chance = || Random::at(random.number());
    let host = |index: usize| &clients[index % clients.len()];
    let admin = admin::topics(shared.clone(), chance());
    writers.push(host(2).spawn("admin", admin));
    if machines.len() > 1 {
        let moving = admin::replicas(shared.clone(), machines.len(), chance());
        writers.push(host(0).spawn("mover", moving));
    }
    if tiered.is_some() {
        let deleting = admin::records(shared.clone(), chance());
        writers.push(host(1).spawn("deleter", deleting));
        let reading = read_by_time(shared.clone(), 10, chance());
        readers.push(host(0).spawn("reader by time", reading));
    }
    for by in 0..3 {
        let writing = write(shared.clone(), by_from + by, chance());
        writers.push(host(by as usize).spawn("writer", writing));
    }
    writers.push(host(1).spawn(
        "raw writer",
        raw::write(shared.clone(), by_from + 50, chance()),
    ));
    for by in 0..2 {
        let reading = read(shared.clone(), by, chance());
        readers.push(host(1 + by as usize).spawn("reader", reading));
    }
    for by in 0..2 {
        let asks = u32::try_from(by).unwrap_or(0) + 1;
        let reading = read_in_group(shared.clone(), asks, chance());
        readers.push(host(by).spawn("member", reading));
    }
    readers.push(host(1).spawn("offsets", watch_offsets(shared.clone())));
    Load {
        shared,
        stop,
        over,
        writers: Mutex::new(writers),
        readers: Mutex::new(readers),
        brokers: i32::try_from(machines.len()).unwrap_or(0),
        at_the_end: Arc::clone(host(0)),
    }
}

impl Load {
    /// Whether there is something to write to.
    pub(super) fn is_ready(&self) -> bool {
        self.shared.ready.load(Ordering::Relaxed)
    }

    /// What is left of its knowledge when each partition begins anew at its end in the bucket.
    pub(super) fn before(&self, ends: impl Fn(i32) -> i64) -> Before {
        let grouped = lock(&self.shared.grouped);
        let left = grouped.iter().filter(|(p, offset)| *offset < ends(*p));
        Before {
            grouped: left.copied().collect(),
        }
    }

    /// What the end of the history waits for.
    pub(super) fn waits_for(&self) -> String {
        lock(&self.shared.waits_for).clone()
    }

    pub(super) fn wait_for(&self, what: &str) {
        self.shared.wait_for(what);
    }

    /// Writes nothing more, and reads all that is there, until everybody has and every replica is
    /// in sync.
    pub(super) async fn end(&self) {
        self.stop.send_replace(true);
        self.wait_for("writers");
        let writers = std::mem::take(&mut *lock(&self.writers));
        for writer in writers {
            self.ended(writer.await);
        }
        self.until_in_sync().await;
        self.wait_for("the group");
        let there = self.find().await;
        self.wait_for("the bucket");
        while !there.iter().all(|(partition, records)| {
            let last = records.last().map(|(offset, _)| *offset);
            self.shared.is_tiered_to(*partition, last)
        }) {
            clock::sleep(PAUSE).await;
        }
        self.wait_for("the group");
        let there = there.iter().flat_map(|(partition, records)| {
            let offsets = records.iter().map(|(offset, _)| *offset);
            offsets.map(|offset| (*partition, offset))
        });
        let there: BTreeSet<(i32, i64)> = there.collect();
        loop {
            // What retention has taken meanwhile the group is not given any more.
            let start = |partition| self.shared.range(partition).map_or(0, |(start, _)| start);
            let starts: BTreeMap<i32, i64> = (0..PARTITIONS).map(|p| (p, start(p))).collect();
            let grouped = lock(&self.shared.grouped).clone();
            let lacks = there.difference(&grouped);
            let lacks = lacks.filter(|(p, offset)| starts.get(p).is_none_or(|s| offset >= s));
            let lacks: Vec<_> = lacks.collect();
            let Some(first) = lacks.first() else { break };
            let count = lacks.len();
            self.wait_for(&format!("the group, which lacks {count} from {first:?} on"));
            clock::sleep(PAUSE).await;
        }
        self.over.send_replace(true);
        self.wait_for("readers");
        let readers = std::mem::take(&mut *lock(&self.readers));
        for reader in readers {
            self.ended(reader.await);
        }
        // After the last of them: what nobody knew of may have been committed until then.
        self.wait_for("the last reader");
        for (partition, records) in self.find().await {
            let at = place(partition);
            if self.shared.has_retention()
                && let Some((below, _)) = records.first()
            {
                // What is left of it is looked at on disks and bucket.
                let (at, below) = (at.clone(), *below);
                self.shared.record.event(Event::Deletes { at, below });
            }
            self.shared.record.event(Event::Found { at, records });
        }
        // Some of it may have been committed by fewer, as a follower left the ISR meanwhile.
        self.until_in_sync().await;
    }

    async fn until_in_sync(&self) {
        let in_sync = in_sync::wait(self.shared.clone(), self.brokers);
        self.ended(self.at_the_end.spawn("in sync", in_sync).await);
    }

    async fn find(&self) -> Found {
        let finding = self.at_the_end.spawn("finder", find(self.shared.clone()));
        let found = finding.await;
        found.unwrap_or_else(|error| {
            self.ended(Err(error));
            Found::default()
        })
    }

    fn ended(&self, result: Result<(), tidemark_env::task::TaskError>) {
        if let Err(error) = result {
            self.shared.record.broken(error.to_string());
        }
    }
}

impl Shared {
    /// A client, as soon as somebody answers.
    pub(super) async fn cluster(&self) -> Cluster {
        let options = ClusterOptions {
            connection: ConnectionOptions {
                connect_timeout: Duration::from_secs(2),
                request_timeout: Duration::from_secs(5),
                ..ConnectionOptions::default()
            },
            retry_for: Duration::from_secs(5),
            ..ClusterOptions::default()
        };
        loop {
            match Cluster::connect(&self.bootstrap, options.clone()).await {
                Ok(cluster) => return cluster,
                Err(_) => clock::sleep(PAUSE).await,
            }
        }
    }

    pub(super) async fn ready(&self) {
        while !self.ready.load(Ordering::Relaxed) {
            clock::sleep(PAUSE).await;
        }
    }

    /// The settings of the topic.
    pub(super) fn topic_configs(&self) -> Vec<(String, String)> {
        let Some(tiered) = &self.tiered else {
            return Vec::new();
        };
        let retention_bytes = tiered.retention_bytes.unwrap_or(-1);
        let configs = [
            ("remote.storage.enable", "true".to_owned()),
            ("segment.ms", "2000".to_owned()),
            // Shorter than a producer tries: what a new replica knows of producers, it is told.
            ("local.retention.ms", "7000".to_owned()),
            ("retention.ms", "-1".to_owned()),
            ("retention.bytes", retention_bytes.to_string()),
            ("file.delete.delay.ms", "500".to_owned()),
        ];
        configs.map(|(name, value)| (name.to_owned(), value)).into()
    }

    /// Whether the bucket has a partition up to `offset`, if it is to have it.
    fn is_tiered_to(&self, partition: i32, offset: Option<i64>) -> bool {
        let (Some(_), Some(offset)) = (&self.tiered, offset) else {
            return true;
        };
        let range = self.range(partition);
        range.is_some_and(|(_, end)| end > offset)
    }

    /// What the bucket has of a partition, from and up to.
    fn range(&self, partition: i32) -> Option<(i64, i64)> {
        self.tiered.as_ref()?.bucket.range(TOPIC, partition)
    }

    /// Whether a part of the records goes by itself.
    fn has_retention(&self) -> bool {
        let tiered = self.tiered.as_ref();
        tiered.is_some_and(|tiered| tiered.retention_bytes.is_some())
    }

    /// Says what the end of the history waits for.
    pub(super) fn wait_for(&self, what: &str) {
        what.clone_into(&mut lock(&self.waits_for));
    }

    pub(super) fn stopped(&self) -> bool {
        *self.stop.borrow()
    }

    fn over(&self) -> bool {
        *self.over.borrow()
    }

    pub(super) fn failed(&self, what: &str, error: &tidemark_client::ClientError) {
        let text = match error.code() {
            Some(code) => format!("{code:?}"),
            None => format!("{error:?}")
                .split([' ', '{', '('])
                .next()
                .unwrap_or_default()
                .to_owned(),
        };
        self.record.saw(format!("{what} failed: {text}"));
    }
}

/// A value with as many bytes as chance wants around it.
pub(super) fn payload(value: u64, random: &mut Random) -> Bytes {
    let padding = match random.below(40) {
        0 => random.below(20_000),
        _ => random.below(200),
    };
    let mut bytes = value.to_be_bytes().to_vec();
    bytes.resize(8 + usize::try_from(padding).unwrap_or(0), b'.');
    Bytes::from(bytes)
}

fn value_of(record: &ConsumerRecord) -> u64 {
    let value = record.value.as_ref().and_then(|value| value.get(..8));
    value.map_or(0, |value| {
        u64::from_be_bytes(value.try_into().unwrap_or_default())
    })
}

/// Writes until it is told to stop, then waits for all acknowledgements.
async fn write(shared: Shared, by: u32, mut random: Random) {
    shared.ready().await;
    // A producer that fails for good is followed by another.
    for life in 0.. {
        if shared.stopped() {
            return;
        }
        let by = by + 100 * life;
        let cluster = shared.cluster().await;
        let config = ProducerConfig {
            delivery_timeout_ms: 20_000,
            linger_ms: random.between(0, 20),
            batch_bytes: 4 << 10,
            ..ProducerConfig::default()
        };
        let Ok(producer) = Producer::new(cluster, config) else {
            return shared.record.broken("no producer".to_owned());
        };
        let mut waiting: Vec<(u64, Receipt)> = Vec::new();
        let mut failed = false;
        while !shared.stopped() && !failed {
            for _ in 0..random.below(20) {
                let partition = i32::try_from(random.below(PARTITIONS as u64)).unwrap_or(0);
                let value = shared.record.value();
                let to = place(partition);
                shared.record.event(Event::Send { by, to, value });
                let record = ProducerRecord {
                    topic: TOPIC.to_owned(),
                    partition: Some(partition),
                    value: Some(payload(value, &mut random)),
                    ..ProducerRecord::default()
                };
                match producer.send(record).await {
                    Ok(receipt) => waiting.push((value, receipt)),
                    Err(error) => {
                        shared.failed("send", &error);
                        // It was never given to anybody.
                        shared.record.event(Event::Refused { value });
                        failed = true;
                        break;
                    }
                }
            }
            if waiting.len() > 40 || random.one_in(4) {
                for (value, receipt) in waiting.drain(..) {
                    failed |= !settle(&shared, value, receipt).await;
                }
            }
            clock::sleep(Duration::from_millis(random.below(150))).await;
        }
        for (value, receipt) in waiting {
            settle(&shared, value, receipt).await;
        }
        drop(producer.close().await);
    }
}

/// Notes what became of a write; says whether it was acknowledged.
async fn settle(shared: &Shared, value: u64, receipt: Receipt) -> bool {
    match receipt.delivered().await {
        Ok(delivered) => {
            let offset = (delivered.offset >= 0).then_some(delivered.offset);
            shared.record.event(Event::Acked { value, offset });
            true
        }
        Err(error) => {
            shared.failed("write", &error);
            shared.record.event(Event::Unknown { value });
            false
        }
    }
}

fn consumer_config() -> ConsumerConfig {
    ConsumerConfig {
        reset: OffsetReset::Earliest,
        ..ConsumerConfig::default()
    }
}

/// Records by partition, in their order.
fn by_partition(records: &[ConsumerRecord]) -> Vec<(i32, Vec<(i64, u64)>)> {
    let mut runs: Vec<(i32, Vec<(i64, u64)>)> = Vec::new();
    for record in records {
        let read = (record.offset, value_of(record));
        match runs.last_mut() {
            Some((partition, run)) if *partition == record.partition => run.push(read),
            _ => runs.push((record.partition, vec![read])),
        }
    }
    runs
}

fn from_the_beginning() -> impl Iterator<Item = (TopicPartition, Start)> {
    (0..PARTITIONS).map(|partition| {
        let start = Start::At(OffsetSpec::Earliest);
        (TopicPartition::new(TOPIC, partition), start)
    })
}

/// Reads from the beginning, again and again.
async fn read(shared: Shared, by: u32, mut random: Random) {
    shared.ready().await;
    while !shared.over() {
        let cluster = shared.cluster().await;
        let mut consumer = Consumer::new(cluster, consumer_config());
        shared.record.event(Event::Seek { by });
        consumer.assign(from_the_beginning());
        let until = clock::monotonic() + Duration::from_millis(random.below(60_000));
        while !shared.over() && clock::monotonic() < until {
            match consumer.poll(POLL).await {
                Ok(records) => {
                    for (partition, records) in by_partition(&records) {
                        let from = place(partition);
                        shared.record.event(Event::Read { by, from, records });
                    }
                }
                Err(error) => {
                    shared.failed("read", &error);
                    break;
                }
            }
        }
        drop(consumer.close().await);
    }
}

/// Reads from some time on, again and again.
async fn read_by_time(shared: Shared, by: u32, mut random: Random) {
    shared.ready().await;
    while !shared.over() {
        let cluster = shared.cluster().await;
        let mut consumer = Consumer::new(cluster, consumer_config());
        let ago_ms = i64::try_from(random.below(40_000)).unwrap_or(0);
        let from_ms = clock::now_ms() - ago_ms;
        shared.record.event(Event::Seek { by });
        let committed = shared.record.read();
        consumer.assign((0..PARTITIONS).map(|index| {
            let from = Start::At(OffsetSpec::AtTime(from_ms));
            (TopicPartition::new(TOPIC, index), from)
        }));
        let mut begun = BTreeSet::new();
        let until = clock::monotonic() + Duration::from_millis(random.below(10_000));
        while !shared.over() && clock::monotonic() < until {
            match consumer.poll(POLL).await {
                Ok(records) => {
                    for first in &records {
                        if !begun.insert(first.partition) {
                            continue;
                        }
                        shared.record.saw("read by time");
                        // What was written since is younger than that, however late it came; but
                        // nobody is told of a record before it is committed.
                        let at = place(first.partition);
                        let end = committed.get(&at).copied().unwrap_or(0);
                        // Below what was deleted meanwhile one goes on where the log begins.
                        let told = shared.record.deleted(&at) + 1..end;
                        if first.timestamp_ms < from_ms
                            && ago_ms > OLDEST_MS
                            && told.contains(&first.offset)
                        {
                            shared.record.broken(format!(
                                "who read {at:?} from {from_ms} on got {} of {}",
                                first.offset, first.timestamp_ms
                            ));
                        }
                    }
                    for (partition, records) in by_partition(&records) {
                        let from = place(partition);
                        shared.record.event(Event::Read { by, from, records });
                    }
                }
                Err(error) => {
                    shared.failed("read by time", &error);
                    break;
                }
            }
        }
        drop(consumer.close().await);
    }
}

/// Reads as a member of a group, which commits what it has read.
async fn read_in_group(shared: Shared, by: u32, mut random: Random) {
    shared.ready().await;
    while !shared.over() {
        let cluster = shared.cluster().await;
        let config = ConsumerConfig {
            group: Some(GroupConfig {
                session_timeout_ms: 6000,
                rebalance_timeout_ms: 10_000,
                heartbeat_interval_ms: 1000,
                ..GroupConfig::new(GROUP)
            }),
            ..consumer_config()
        };
        let mut consumer = Consumer::new(cluster.clone(), config);
        if let Err(error) = consumer.subscribe(vec![TOPIC.to_owned()]) {
            return shared.record.broken(error.to_string());
        }
        let until = clock::monotonic() + Duration::from_millis(5000 + random.below(60_000));
        while !shared.over() && clock::monotonic() < until {
            match consumer.poll(POLL).await {
                Ok(records) => {
                    for (partition, records) in by_partition(&records) {
                        let offsets = records.iter().map(|(offset, _)| (partition, *offset));
                        lock(&shared.grouped).extend(offsets);
                        shared.record.event(Event::GroupRead {
                            group: GROUP.to_owned(),
                            from: place(partition),
                            records,
                        });
                    }
                }
                Err(error) => {
                    shared.failed("group read", &error);
                    break;
                }
            }
            if random.one_in(3) {
                let progress = consumer.progress();
                shared.record.event(Event::Asks { by });
                let result = consumer.commit().await;
                let coordinator = match result {
                    Ok(()) => coordinator(&cluster).await,
                    Err(_) => -1,
                };
                for (partition, progress) in progress {
                    let (at, Some(next)) = (place(partition.partition), progress.position) else {
                        continue;
                    };
                    let group = GROUP.to_owned();
                    shared.record.event(match result {
                        Ok(()) => Event::Committed {
                            by,
                            coordinator,
                            group,
                            at,
                            next,
                        },
                        Err(_) => Event::CommitUnknown { group, at, next },
                    });
                }
                match result {
                    Ok(()) => shared.record.saw("commit"),
                    Err(error) => shared.failed("commit", &error),
                }
            }
        }
        drop(consumer.close().await);
    }
}

/// The coordinator of the last answer.
async fn coordinator(cluster: &Cluster) -> i32 {
    cluster.group_coordinator(GROUP).await.unwrap_or(-1)
}

/// Looks where the group goes on; says whether there was an answer.
async fn offsets(shared: &Shared, cluster: &Cluster, is_last: bool) -> bool {
    let by = 0;
    shared.record.event(Event::Asks { by });
    match cluster.group_offsets(GROUP).await {
        Ok(offsets) => {
            let coordinator = match is_last {
                true => None,
                false => Some(coordinator(cluster).await),
            };
            for partition in 0..PARTITIONS {
                let committed = offsets.get(&TopicPartition::new(TOPIC, partition));
                shared.record.event(Event::GoesOn {
                    by,
                    coordinator,
                    group: GROUP.to_owned(),
                    at: place(partition),
                    next: committed.map(|committed| committed.offset),
                });
            }
            true
        }
        Err(error) => {
            shared.failed("offsets", &error);
            false
        }
    }
}

/// Looks often where the group goes on, and once more at the end.
async fn watch_offsets(shared: Shared) {
    shared.ready().await;
    let mut cluster = shared.cluster().await;
    loop {
        let over = shared.over();
        let answered = offsets(&shared, &cluster, over).await;
        if over && answered {
            return;
        }
        clock::sleep(Duration::from_millis(200)).await;
        if !answered {
            cluster = shared.cluster().await;
        }
    }
}

/// Offsets and values by partition.
type Found = BTreeMap<i32, Vec<(i64, u64)>>;

/// Reads all that there is.
async fn find(shared: Shared) -> Found {
    loop {
        let cluster = shared.cluster().await;
        let mut consumer = Consumer::new(cluster, consumer_config());
        consumer.assign(from_the_beginning());
        let mut found: Found = (0..PARTITIONS).map(|index| (index, Vec::new())).collect();
        loop {
            let Ok(records) = consumer.poll(POLL).await else {
                break;
            };
            for (partition, mut records) in by_partition(&records) {
                found.entry(partition).or_default().append(&mut records);
            }
            let progress = consumer.progress();
            let done = progress.len() == found.len()
                && progress.values().all(|progress| {
                    progress.high_watermark.is_some()
                        && progress.position.unwrap_or(0) >= progress.high_watermark.unwrap_or(0)
                });
            if done && records.is_empty() {
                drop(consumer.close().await);
                return found;
            }
        }
        clock::sleep(PAUSE).await;
    }
}
