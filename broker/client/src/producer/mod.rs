//! Writing: partitioning, batching, and delivery in order.
//!
//! [`Producer::send`] puts a record into its partition's batch; one task sends what is ready, a batch
//! per partition at a time, and tries again what failed for a passing reason. With idempotence (the
//! default) a batch that was written although its answer got lost is not written twice (KIP-98).

pub mod accumulator;
mod delivery;
mod identity;
pub mod partitioner;
mod sender;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tidemark_env::task::Task;
use tidemark_env::{clock, random, task};
use tidemark_records::Compression;
use tokio::sync::{Notify, oneshot};

use crate::cluster::Cluster;
use crate::error::ClientError;
use crate::metadata::TopicPartition;
use accumulator::{Accumulator, Limits, Queued};
use partitioner::{Partitioner, Strategy};

/// What a broker must have done before it acknowledges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Acks {
    /// All in-sync replicas have it.
    #[default]
    All,
    /// The leader has it.
    Leader,
    /// Nothing: no answer at all.
    None,
}

impl Acks {
    pub(crate) fn to_wire(self) -> i16 {
        match self {
            Self::All => -1,
            Self::Leader => 1,
            Self::None => 0,
        }
    }
}

/// How a producer behaves.
#[derive(Debug, Clone)]
pub struct ProducerConfig {
    /// What is waited for.
    pub acks: Acks,
    /// Codec of the batches.
    pub compression: Compression,
    /// The codec's level, where it has levels.
    pub compression_level: Option<i32>,
    /// Bytes of a batch before compression; a larger record is a batch of its own.
    pub batch_bytes: usize,
    /// How long a batch that is not full waits for more.
    pub linger_ms: i64,
    /// Bytes that may wait or travel before [`Producer::send`] waits.
    pub buffer_bytes: usize,
    /// Batches are put into one request up to this size.
    pub max_request_bytes: usize,
    /// How long a record is tried before it fails.
    pub delivery_timeout_ms: i64,
    /// The pause before a batch is tried again.
    pub retry_backoff_ms: i64,
    /// Requests on their way to one broker.
    pub max_in_flight: usize,
    /// Never writes a record twice; needs [`Acks::All`].
    pub idempotent: bool,
    /// How records are spread.
    pub strategy: Strategy,
    /// Lets a broker that is set so create topics that are not there.
    pub create_topics: bool,
}

impl Default for ProducerConfig {
    fn default() -> Self {
        Self {
            acks: Acks::All,
            compression: Compression::None,
            compression_level: None,
            batch_bytes: 64 << 10,
            linger_ms: 5,
            buffer_bytes: 64 << 20,
            max_request_bytes: 1 << 20,
            delivery_timeout_ms: 120_000,
            retry_backoff_ms: 100,
            max_in_flight: 5,
            idempotent: true,
            strategy: Strategy::KeyOrSticky,
            create_topics: false,
        }
    }
}

/// A record to be written.
#[derive(Debug, Clone, Default)]
pub struct ProducerRecord {
    /// The topic.
    pub topic: String,
    /// The partition; chosen by the [`Strategy`] if `None`.
    pub partition: Option<i32>,
    /// Milliseconds since the epoch; now if `None`.
    pub timestamp_ms: Option<i64>,
    /// The key.
    pub key: Option<Bytes>,
    /// The value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Headers in order.
    pub headers: Vec<(Bytes, Option<Bytes>)>,
}

/// Where a record was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivered {
    /// The partition.
    pub partition: i32,
    /// Its offset; -1 when the broker did not say (acks=0, or a repeated batch whose offset it no longer knew).
    pub offset: i64,
    /// When the log took it, if the topic stamps records then; else -1.
    pub log_append_time_ms: i64,
}

/// What became of a record, once that is known.
#[derive(Debug)]
pub struct Receipt(oneshot::Receiver<Result<Delivered, ClientError>>);

impl Receipt {
    /// Waits for the end of the record's way.
    ///
    /// # Errors
    /// Why it was not written, or not known to be.
    pub async fn delivered(self) -> Result<Delivered, ClientError> {
        self.0.await.unwrap_or(Err(ClientError::Shutdown))
    }
}

/// What a producer has done so far.
#[derive(Debug, Clone, Default)]
pub struct ProducerStats {
    /// Records acknowledged.
    pub acked_records: u64,
    /// Bytes of their keys and values.
    pub acked_bytes: u64,
    /// Records that failed.
    pub failed_records: u64,
    /// Batches that were sent again.
    pub retries: u64,
    /// Why the first record failed.
    pub first_error: Option<ClientError>,
    /// What was acknowledged, by partition.
    pub partitions: BTreeMap<TopicPartition, PartitionStats>,
}

/// What a producer has done in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionStats {
    /// Records acknowledged.
    pub records: u64,
    /// The first one's offset; -1 if the broker did not say.
    pub first_offset: i64,
    /// The last one's offset; -1 if the broker did not say.
    pub last_offset: i64,
}

type Waiter = Option<oneshot::Sender<Result<Delivered, ClientError>>>;

struct State {
    accumulator: Accumulator<Waiter>,
    partitioner: Partitioner,
    stats: ProducerStats,
    /// The producer is of no use any more.
    failed: Option<ClientError>,
    flushers: usize,
}

struct Shared {
    state: Mutex<State>,
    /// There may be something to send.
    work: Notify,
    /// Something came to its end.
    settled: Notify,
    started: clock::Instant,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Milliseconds since the producer was made: the clock of the accumulator.
    fn now_ms(&self) -> i64 {
        i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX)
    }
}

/// Writes records. Dropping it gives up what is not sent; [`Self::close`] sends it first.
pub struct Producer {
    cluster: Cluster,
    config: Arc<ProducerConfig>,
    shared: Arc<Shared>,
    sender: Task<()>,
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.sender.abort();
    }
}

impl Producer {
    /// A producer for a cluster.
    ///
    /// # Errors
    /// `Invalid` for a configuration that contradicts itself.
    pub fn new(cluster: Cluster, config: ProducerConfig) -> Result<Self, ClientError> {
        if config.idempotent && config.acks != Acks::All {
            return Err(ClientError::Invalid(
                "an idempotent producer needs acks=all: switch idempotence off to use less"
                    .to_owned(),
            ));
        }
        let limits = Limits {
            batch_bytes: config.batch_bytes,
            linger_ms: config.linger_ms,
            buffer_bytes: config.buffer_bytes,
            delivery_timeout_ms: config.delivery_timeout_ms,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                accumulator: Accumulator::new(limits),
                partitioner: Partitioner::new(config.strategy, config.batch_bytes),
                stats: ProducerStats::default(),
                failed: None,
                flushers: 0,
            }),
            work: Notify::new(),
            settled: Notify::new(),
            started: clock::monotonic(),
        });
        let config = Arc::new(config);
        let sender = sender::Sender::new(cluster.clone(), config.clone(), shared.clone());
        Ok(Self {
            cluster,
            config,
            shared,
            sender: task::spawn("producer", sender.run()),
        })
    }

    /// Takes a record; waits while the buffer is full. The receipt says what became of it.
    ///
    /// # Errors
    /// `UnknownTopic`, `UnknownPartition`, or that the producer failed for good.
    pub async fn send(&self, record: ProducerRecord) -> Result<Receipt, ClientError> {
        let (waiter, receipt) = oneshot::channel();
        self.enqueue(record, Some(waiter)).await?;
        Ok(Receipt(receipt))
    }

    /// As [`Self::send`] without a receipt: [`Self::stats`] counts what became of it.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn send_unwatched(&self, record: ProducerRecord) -> Result<(), ClientError> {
        self.enqueue(record, None).await
    }

    async fn enqueue(&self, record: ProducerRecord, waiter: Waiter) -> Result<(), ClientError> {
        let timestamp_ms = record.timestamp_ms.unwrap_or_else(clock::now_ms);
        let queued = Queued {
            timestamp_ms,
            key: record.key,
            value: record.value,
            headers: record.headers,
            waiter,
        };
        let info = self.cluster.info();
        let fetched;
        let topic = match info.topics.get(&record.topic) {
            Some(topic) => topic,
            None => {
                let create = self.config.create_topics;
                fetched = self.cluster.fresh_topic(&record.topic, create).await?;
                &fetched
            }
        };
        if let Some(partition) = record.partition
            && !topic.partitions.contains_key(&partition)
        {
            return Err(ClientError::UnknownPartition {
                topic: record.topic,
                partition,
                count: topic.partitions.len(),
            });
        }
        let record_bytes = queued.size_bytes();
        let mut to = TopicPartition::new(record.topic, 0);
        loop {
            let settled = self.shared.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            {
                let mut state = self.shared.state();
                if let Some(error) = &state.failed {
                    return Err(error.clone());
                }
                if state.accumulator.has_room(record_bytes) {
                    to.partition = record.partition.unwrap_or_else(|| {
                        state.partitioner.choose(
                            &to.topic,
                            queued.key.as_deref(),
                            record_bytes,
                            topic.partition_count(),
                            || topic.available(),
                            random::u64,
                        )
                    });
                    if state.accumulator.append(&to, queued, self.shared.now_ms()) {
                        self.shared.work.notify_one();
                    }
                    return Ok(());
                }
            }
            self.shared.work.notify_one();
            settled.await;
        }
    }

    /// Sends all that waits, without lingering, and waits until nothing is on its way.
    ///
    /// # Errors
    /// That the producer failed for good. Records that failed are in their receipts and in [`Self::stats`].
    pub async fn flush(&self) -> Result<(), ClientError> {
        self.count_flusher(1);
        let result = loop {
            let settled = self.shared.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            {
                let state = self.shared.state();
                if let Some(error) = &state.failed {
                    break Err(error.clone());
                }
                if state.accumulator.is_empty() {
                    break Ok(());
                }
            }
            self.shared.work.notify_one();
            settled.await;
        };
        self.count_flusher(-1);
        result
    }

    fn count_flusher(&self, by: isize) {
        let mut state = self.shared.state();
        state.flushers = state.flushers.saturating_add_signed(by);
        let flushing = state.flushers > 0;
        state.accumulator.set_flushing(flushing);
    }

    /// What was done so far.
    #[must_use]
    pub fn stats(&self) -> ProducerStats {
        self.shared.state().stats.clone()
    }

    /// Flushes and ends.
    ///
    /// # Errors
    /// As [`Self::flush`].
    pub async fn close(self) -> Result<ProducerStats, ClientError> {
        self.flush().await?;
        Ok(self.stats())
    }
}
