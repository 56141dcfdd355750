//! The task that sends what is ready and sees each batch to its end.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidemark_env::{clock, task};
use tidemark_records::{BatchBuilder, BatchOptions, HeaderRef, RecordRef};
use tidemark_wire::messages::produce_request::{PartitionProduceData, TopicProduceData};
use tidemark_wire::messages::{InitProducerIdRequest, ProduceRequest};
use tidemark_wire::{ErrorCode, Uuid};
use tokio::sync::mpsc;

use super::accumulator::Batch;
use super::delivery::{Verdict, judge};
use super::identity::Identity;
use super::{Acks, Delivered, PartitionStats, ProducerConfig, Shared, Waiter};
use crate::cluster::{Cluster, Lane, Node};
use crate::error::{ClientError, error_code};
use crate::metadata::{TopicPartition, Topics};

/// The newest Produce version that names topics; later ones have only ids.
const LAST_WITH_NAMES: i16 = 12;
/// How often metadata is asked for at most while a leader is looked for.
const REFRESH_EVERY_MS: i64 = 200;

/// How old metadata may grow: topics that got more partitions are noticed by then.
const METADATA_MAX_AGE_MS: i64 = 300_000;

type Sent = Batch<Waiter>;

/// One partition's part of an answer.
#[derive(Debug, Clone)]
struct Answer {
    code: ErrorCode,
    message: Option<String>,
    base_offset: i64,
    log_append_time_ms: i64,
}

enum Event {
    Answered {
        node: i32,
        batches: Vec<Sent>,
        answers: Result<HashMap<TopicPartition, Answer>, ClientError>,
    },
    Refreshed,
    Identified(Result<(i64, i16), ClientError>),
}

pub(super) struct Sender {
    cluster: Cluster,
    config: Arc<ProducerConfig>,
    shared: Arc<Shared>,
    identity: Identity,
    identifying: bool,
    identify_at_ms: i64,
    refreshing: bool,
    refresh_at_ms: i64,
    refresh_wanted: bool,
    in_flight: HashMap<i32, usize>,
    events: mpsc::UnboundedSender<Event>,
    inbox: mpsc::UnboundedReceiver<Event>,
}

impl Sender {
    pub(super) fn new(cluster: Cluster, config: Arc<ProducerConfig>, shared: Arc<Shared>) -> Self {
        let (events, inbox) = mpsc::unbounded_channel();
        Self {
            cluster,
            config,
            shared,
            identity: Identity::default(),
            identifying: false,
            identify_at_ms: 0,
            refreshing: false,
            refresh_at_ms: 0,
            refresh_wanted: false,
            in_flight: HashMap::new(),
            events,
            inbox,
        }
    }

    /// Runs until it is aborted.
    pub(super) async fn run(mut self) {
        loop {
            self.fail_expired();
            self.identify_if_needed();
            self.send_ready();
            self.refresh_if_wanted();
            let wait = Duration::from_millis(self.next_wakeup_ms());
            let shared = self.shared.clone();
            tokio::select! {
                () = shared.work.notified() => {}
                Some(event) = self.inbox.recv() => self.take(event),
                () = clock::sleep(wait) => {}
            }
        }
    }

    fn next_wakeup_ms(&self) -> u64 {
        let now_ms = self.shared.now_ms();
        let mut wake_ms = now_ms + 1_000;
        if let Some(at_ms) = self.shared.state().accumulator.next_ready_ms() {
            // What is ready but could not go waits for an event, not for the clock.
            if at_ms > now_ms {
                wake_ms = wake_ms.min(at_ms);
            }
        }
        if self.refresh_wanted && !self.refreshing {
            wake_ms = wake_ms.min(self.refresh_at_ms);
        }
        if self.needs_identity() && !self.identifying {
            wake_ms = wake_ms.min(self.identify_at_ms.max(now_ms + 10));
        }
        u64::try_from(wake_ms - now_ms).unwrap_or(0)
    }

    fn needs_identity(&self) -> bool {
        self.config.idempotent && !self.identity.is_usable()
    }

    fn fail_expired(&mut self) {
        let after_ms = self.config.delivery_timeout_ms;
        let expired = {
            let mut state = self.shared.state();
            state.accumulator.expired(self.shared.now_ms())
        };
        for batch in expired {
            if batch.attempts > 0 {
                self.identity.in_doubt();
            }
            let error = ClientError::DeliveryTimeout {
                topic: batch.to.topic.clone(),
                partition: batch.to.partition,
                after_ms,
                last: batch.last_error.clone(),
            };
            self.fail(batch, &error);
        }
    }

    /// A new identity may only begin when nothing is under way under the old one.
    fn identify_if_needed(&mut self) {
        if !self.needs_identity() || self.identifying {
            return;
        }
        let now_ms = self.shared.now_ms();
        if now_ms < self.identify_at_ms || self.shared.state().accumulator.has_unsettled() {
            return;
        }
        self.identifying = true;
        let cluster = self.cluster.clone();
        let events = self.events.clone();
        task::spawn("producer-id", async move {
            let result = identify(&cluster).await;
            // Nobody listens any more when the producer is gone.
            drop(events.send(Event::Identified(result)));
        });
    }

    fn refresh_if_wanted(&mut self) {
        let now_ms = self.shared.now_ms();
        let old = now_ms - self.refresh_at_ms > METADATA_MAX_AGE_MS;
        if !(self.refresh_wanted || old) || self.refreshing || now_ms < self.refresh_at_ms {
            return;
        }
        self.refresh_wanted = false;
        self.refreshing = true;
        self.refresh_at_ms = now_ms + REFRESH_EVERY_MS;
        let cluster = self.cluster.clone();
        let events = self.events.clone();
        task::spawn("producer-metadata", async move {
            let info = cluster.info();
            let names: Vec<&str> = info.topics.keys().map(String::as_str).collect();
            if let Err(error) = cluster.metadata(Topics::Named(&names)).await {
                tracing::debug!(%error, "metadata could not be refreshed");
            }
            drop(events.send(Event::Refreshed));
        });
    }

    fn send_ready(&mut self) {
        let info = self.cluster.info();
        let shared = self.shared.clone();
        let mut state = shared.state();
        let now_ms = shared.now_ms();
        let mut requests: BTreeMap<i32, Vec<Sent>> = BTreeMap::new();
        let mut bytes: HashMap<i32, usize> = HashMap::new();
        for to in state.accumulator.ready(now_ms) {
            let leader = info
                .topics
                .get(&to.topic)
                .and_then(|topic| topic.partitions.get(&to.partition))
                .and_then(|partition| partition.leader);
            let Some(leader) = leader else {
                self.refresh_wanted = true;
                continue;
            };
            if self.in_flight.get(&leader).copied().unwrap_or(0) >= self.config.max_in_flight {
                continue;
            }
            let Some(first) = state.accumulator.peek(&to) else {
                continue;
            };
            if self.config.idempotent && first.stamp.is_none() && !self.identity.is_usable() {
                continue;
            }
            let weight = bytes.entry(leader).or_default();
            if *weight > 0 && *weight + first.size_bytes > self.config.max_request_bytes {
                // The rest goes with the next request, right after this one.
                shared.work.notify_one();
                continue;
            }
            *weight += first.size_bytes;
            let Some(mut batch) = state.accumulator.take(&to) else {
                continue;
            };
            if self.config.idempotent && batch.stamp.is_none() {
                batch.stamp = self.identity.stamp(&to, batch.records.len());
            }
            if batch.attempts > 0 {
                state.stats.retries += 1;
            }
            batch.attempts += 1;
            requests.entry(leader).or_default().push(batch);
        }
        drop(state);
        for (node, mut batches) in requests {
            *self.in_flight.entry(node).or_default() += 1;
            let cluster = self.cluster.clone();
            let config = self.config.clone();
            let events = self.events.clone();
            task::spawn("produce", async move {
                let answers = produce(&cluster, &config, node, &mut batches).await;
                drop(events.send(Event::Answered {
                    node,
                    batches,
                    answers,
                }));
            });
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Refreshed => self.refreshing = false,
            Event::Identified(result) => self.identified(result),
            Event::Answered {
                node,
                batches,
                answers,
            } => {
                if let Some(count) = self.in_flight.get_mut(&node) {
                    *count = count.saturating_sub(1);
                }
                for batch in batches {
                    self.settle(batch, &answers);
                }
                self.shared.settled.notify_waiters();
            }
        }
    }

    fn identified(&mut self, result: Result<(i64, i16), ClientError>) {
        self.identifying = false;
        match result {
            Ok((id, epoch)) => self.identity.renew(id, epoch),
            Err(error) if error.is_retriable() => {
                tracing::debug!(%error, "no producer id yet");
                self.identify_at_ms = self.shared.now_ms() + self.config.retry_backoff_ms;
            }
            Err(error) => {
                let drained = {
                    let mut state = self.shared.state();
                    state.failed = Some(error.clone());
                    state.accumulator.drain()
                };
                for batch in drained {
                    self.fail(batch, &error);
                }
            }
        }
    }

    fn settle(
        &mut self,
        mut batch: Sent,
        answers: &Result<HashMap<TopicPartition, Answer>, ClientError>,
    ) {
        let verdict = match answers {
            Ok(answers) => match answers.get(&batch.to) {
                Some(answer) => {
                    batch.last_error = error_text(answer);
                    judge(answer.code, answer.base_offset, batch.records.len())
                }
                None => {
                    batch.last_error =
                        Some("the broker's answer leaves the partition out".to_owned());
                    Verdict::Retry { refresh: true }
                }
            },
            Err(error) => {
                batch.last_error = Some(error.to_string());
                if error.is_retriable() {
                    Verdict::Retry { refresh: true }
                } else {
                    Verdict::Refused
                }
            }
        };
        let answer = answers
            .as_ref()
            .ok()
            .and_then(|a| a.get(&batch.to))
            .cloned();
        match verdict {
            Verdict::Written(base_offset) => {
                self.written(
                    batch,
                    base_offset,
                    answer.map_or(-1, |a| a.log_append_time_ms),
                );
            }
            Verdict::Retry { refresh } => {
                self.refresh_wanted |= refresh;
                let at_ms = self.shared.now_ms() + self.config.retry_backoff_ms;
                self.shared.state().accumulator.retry(batch, at_ms);
            }
            Verdict::Split => {
                // Two records make two batches; one record alone is refused instead.
                let unsplit = self.shared.state().accumulator.split(batch);
                if let Some(batch) = unsplit {
                    self.refuse(batch, answer.as_ref(), answers);
                }
            }
            Verdict::Refused => {
                match (batch.stamp, answers) {
                    (Some(stamp), Ok(_)) => {
                        self.identity.refused(&batch.to, stamp);
                        self.shared.state().accumulator.unstamp(&batch.to);
                    }
                    // An answer that we cannot read may have said that it was written.
                    (Some(_), Err(_)) => self.identity.in_doubt(),
                    (None, _) => {}
                }
                self.refuse(batch, answer.as_ref(), answers);
            }
            Verdict::SequenceLost => {
                self.identity.in_doubt();
                self.refuse(batch, answer.as_ref(), answers);
            }
        }
    }

    fn refuse(
        &mut self,
        batch: Sent,
        answer: Option<&Answer>,
        answers: &Result<HashMap<TopicPartition, Answer>, ClientError>,
    ) {
        let error = match (answer, answers) {
            (Some(answer), _) => ClientError::Server {
                what: format!("writing to {}", batch.to),
                code: answer.code,
                message: answer.message.clone(),
            },
            (None, Err(error)) => error.clone(),
            (None, Ok(_)) => ClientError::Shutdown,
        };
        self.shared.state().accumulator.finish(&batch);
        self.fail(batch, &error);
    }

    fn written(&mut self, batch: Sent, base_offset: i64, log_append_time_ms: i64) {
        let mut state = self.shared.state();
        state.accumulator.finish(&batch);
        let partition = batch.to.partition;
        let count = batch.records.len() as u64;
        let last_offset = if base_offset < 0 {
            -1
        } else {
            base_offset.saturating_add_unsigned(count) - 1
        };
        let stats = state
            .stats
            .partitions
            .entry(batch.to.clone())
            .or_insert(PartitionStats {
                records: 0,
                first_offset: base_offset,
                last_offset,
            });
        stats.records += count;
        stats.last_offset = last_offset;
        for (record, index) in batch.records.into_iter().zip(0..) {
            let (key, value) = (record.key.as_ref(), record.value.as_ref());
            let bytes = key.map_or(0, Bytes::len) + value.map_or(0, Bytes::len);
            state.stats.acked_records += 1;
            state.stats.acked_bytes += bytes as u64;
            if let Some(waiter) = record.waiter {
                let delivered = Delivered {
                    partition,
                    offset: if base_offset < 0 {
                        -1
                    } else {
                        base_offset + index
                    },
                    log_append_time_ms,
                };
                // A caller that does not wait is told by the stats.
                drop(waiter.send(Ok(delivered)));
            }
        }
    }

    /// Tells the records of a batch that is no longer in the accumulator that they failed.
    fn fail(&mut self, batch: Sent, error: &ClientError) {
        {
            let mut state = self.shared.state();
            state.stats.failed_records += batch.records.len() as u64;
            if state.stats.first_error.is_none() {
                state.stats.first_error = Some(error.clone());
            }
        }
        for record in batch.records {
            if let Some(waiter) = record.waiter {
                drop(waiter.send(Err(error.clone())));
            }
        }
        self.shared.settled.notify_waiters();
    }
}

fn error_text(answer: &Answer) -> Option<String> {
    if answer.code.is_none() {
        return None;
    }
    Some(match &answer.message {
        Some(message) => format!("{} ({message})", answer.code),
        None => answer.code.to_string(),
    })
}

async fn identify(cluster: &Cluster) -> Result<(i64, i16), ClientError> {
    let request = InitProducerIdRequest {
        transactional_id: None,
        transaction_timeout_ms: i32::MAX,
        ..InitProducerIdRequest::default()
    };
    let response = cluster.send(Node::Any, Lane::Admin, &request).await?;
    ClientError::check(response.error_code, None, || {
        "asking for a producer id".to_owned()
    })?;
    Ok((response.producer_id, response.producer_epoch))
}

async fn produce(
    cluster: &Cluster,
    config: &ProducerConfig,
    node: i32,
    batches: &mut [Sent],
) -> Result<HashMap<TopicPartition, Answer>, ClientError> {
    for batch in batches.iter_mut() {
        if batch.encoded.is_none() {
            batch.encoded = Some(encode(batch, config)?);
        }
    }
    let info = cluster.info();
    let id_of = |topic: &str| info.topics.get(topic).map_or(Uuid::ZERO, |t| t.id);
    let mut by_topic: BTreeMap<&str, Vec<PartitionProduceData>> = BTreeMap::new();
    for batch in batches.iter() {
        by_topic
            .entry(&batch.to.topic)
            .or_default()
            .push(PartitionProduceData {
                index: batch.to.partition,
                records: batch.encoded.clone(),
                ..PartitionProduceData::default()
            });
    }
    let all_have_ids = by_topic.keys().all(|topic| !id_of(topic).is_zero());
    let topic_data: Vec<TopicProduceData> = by_topic
        .into_iter()
        .map(|(name, partition_data)| TopicProduceData {
            name: name.to_owned(),
            topic_id: id_of(name),
            partition_data,
            ..TopicProduceData::default()
        })
        .collect();
    let names_by_id: HashMap<Uuid, String> = topic_data
        .iter()
        .map(|topic| (topic.topic_id, topic.name.clone()))
        .collect();
    let timeout = cluster.options().connection.request_timeout;
    let request = ProduceRequest {
        acks: config.acks.to_wire(),
        timeout_ms: i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX),
        topic_data,
        ..ProduceRequest::default()
    };
    let connection = cluster.connection(Node::Id(node), Lane::Produce).await?;
    let cap = if all_have_ids {
        i16::MAX
    } else {
        LAST_WITH_NAMES
    };
    let version = connection.version_of::<ProduceRequest>(cap)?;
    if config.acks == Acks::None {
        connection.send_one_way(&request, version).await?;
        let unknown = Answer {
            code: ErrorCode::None,
            message: None,
            base_offset: -1,
            log_append_time_ms: -1,
        };
        return Ok(batches
            .iter()
            .map(|batch| (batch.to.clone(), unknown.clone()))
            .collect());
    }
    // The broker waits for its replicas that long; its answer takes a moment more.
    let patience = timeout + Duration::from_secs(5);
    let response = connection.send_at(&request, version, patience).await?;
    let mut answers = HashMap::new();
    for topic in response.responses {
        let name = match names_by_id.get(&topic.topic_id) {
            Some(name) if topic.name.is_empty() => name.clone(),
            _ => topic.name,
        };
        for partition in topic.partition_responses {
            let detail = partition
                .record_errors
                .into_iter()
                .find_map(|e| e.batch_index_error_message);
            answers.insert(
                TopicPartition::new(name.clone(), partition.index),
                Answer {
                    code: error_code(partition.error_code),
                    message: detail.or(partition.error_message),
                    base_offset: partition.base_offset,
                    log_append_time_ms: partition.log_append_time_ms,
                },
            );
        }
    }
    Ok(answers)
}

fn encode(batch: &Sent, config: &ProducerConfig) -> Result<Bytes, ClientError> {
    let mut options = BatchOptions {
        compression: config.compression,
        compression_level: config.compression_level,
        ..BatchOptions::default()
    };
    if let Some(stamp) = batch.stamp {
        options.producer_id = stamp.producer_id;
        options.producer_epoch = stamp.producer_epoch;
        options.base_sequence = stamp.base_sequence;
    }
    let unbuildable = |error: tidemark_records::BuildError| {
        ClientError::Invalid(format!(
            "a batch for {} cannot be written: {error}",
            batch.to
        ))
    };
    let mut builder = BatchBuilder::with_capacity(options, batch.size_bytes);
    for record in &batch.records {
        let headers: Vec<HeaderRef<'_>> = record
            .headers
            .iter()
            .map(|(name, value)| (name.as_ref(), value.as_deref()))
            .collect();
        let record = RecordRef {
            timestamp_ms: record.timestamp_ms,
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            headers: &headers,
        };
        builder.append(&record).map_err(unbuildable)?;
    }
    builder.build().map_err(unbuildable)
}
