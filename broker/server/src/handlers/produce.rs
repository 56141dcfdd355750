//! Produce: validate without a lock, append under it, answer when all of it is durable where the
//! producer wants it: on this broker's disk (acks=1), on those of the ISR (acks=all).

use super::leadership::{Hints, led_elsewhere};
use super::prelude::*;
use crate::net::FrameError;
use crate::partition::{Acked, Acks, NotServed, Partition, refused};
use crate::tier::{Brake, slower};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;
use tidemark_env::{clock, task};
use tidemark_log::{AppendError, Appended};
use tidemark_model::Image;
use tidemark_records::{InvalidBatch, ProducePolicy, ValidatedBatch, validate_produce};
use tidemark_replication as replication;
use tidemark_wire::ApiKey;
use tidemark_wire::messages::produce_response::{
    BatchIndexAndErrorMessage, NodeEndpoint, PartitionProduceResponse, TopicProduceResponse,
};
use tidemark_wire::messages::{ProduceRequest, ProduceResponse};

/// From here on topics are named by id (KIP-516).
const FIRST_VERSION_BY_ID: i16 = 13;
/// From here on zstd may be used (KIP-110).
const FIRST_VERSION_OF_ZSTD: i16 = 7;
/// From here on answers say who leads, and where that is (KIP-951).
const FIRST_VERSION_OF_LEADERS: i16 = 10;
const ACKS_ALL: i16 = -1;
const NO_OFFSET: i64 = -1;
const NOT_LED_HERE: &str = "this broker does not lead the partition";

const WAITS_FOR_BUCKET: &str = "the bucket takes no records, and tier.reserve.bytes of the disk are \
                                used up by what waits for it: nothing was appended";

type Waiting = Pin<Box<dyn Future<Output = ProduceResponse> + Send>>;

/// What became of one partition's batch before it is durable.
struct Outcome {
    index: i32,
    appended: Result<(Arc<Partition>, Appended), Refusal>,
}

#[derive(Debug)]
struct Refusal {
    error: ErrorCode,
    message: Option<String>,
    records: Vec<(u32, String)>,
    log_start: i64,
}

impl Refusal {
    fn new(error: ErrorCode, message: impl Into<String>) -> Refusal {
        Refusal {
            error,
            message: Some(message.into()),
            records: Vec::new(),
            log_start: NO_OFFSET,
        }
    }
}

/// Appends what the request carries. What is left, unless acks=0, is to wait for it to be durable.
///
/// # Errors
/// [`FrameError::Unanswered`] when a part of it was refused and acks=0 allows no answer.
pub(crate) async fn start(
    broker: &Arc<Broker>,
    context: &Context,
    request: ProduceRequest,
) -> Result<Option<Waiting>, FrameError> {
    let by_id = context.version >= FIRST_VERSION_BY_ID;
    let refused = refusal_of_all(&request);
    let image = broker.image();
    let started = clock::monotonic();
    let timeout = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
    let asked = Asked {
        version: context.version,
        acks: request.acks,
        deadline: started + timeout,
    };
    let mut topics = Vec::with_capacity(request.topic_data.len());
    let mut seen = BTreeSet::new();
    let mut slowed = Duration::ZERO;
    for topic in request.topic_data {
        let found = find(&image, by_id, &topic.name, topic.topic_id);
        let mut outcomes = Vec::with_capacity(topic.partition_data.len());
        for data in topic.partition_data {
            let appended = match (&refused, &found) {
                (Some((error, message)), _) => Err(Refusal::new(*error, *message)),
                (None, Err(error)) => Err(Refusal::new(*error, "the topic cannot be produced to")),
                (None, Ok(id)) if !seen.insert((*id, data.index)) => Err(Refusal::new(
                    ErrorCode::InvalidRequest,
                    "the partition is in the request twice",
                )),
                (None, Ok(id)) => {
                    let at = (&*image, *id, data.index);
                    append(broker, asked, at, data.records, &mut slowed).await
                }
            };
            outcomes.push(Outcome {
                index: data.index,
                appended,
            });
        }
        topics.push((topic.name, topic.topic_id, outcomes));
    }
    if !slowed.is_zero() {
        broker.metrics.tier_slowed.inc();
    }
    if request.acks == 0 {
        hold_back(slowed).await;
        let mut outcomes = topics.iter().flat_map(|(_, _, outcomes)| outcomes);
        return match outcomes.find_map(|outcome| outcome.appended.as_ref().err()) {
            None => Ok(None),
            Some(refusal) => {
                broker.metrics.error(ApiKey::Produce, refusal.error);
                Err(FrameError::Unanswered(refusal.error))
            }
        };
    }
    let acks = wait_for_all(&topics, request.acks);
    let (broker, started) = (Arc::clone(broker), clock::monotonic());
    let listener = Arc::clone(&context.listener);
    Ok(Some(Box::pin(async move {
        acks.wait(timeout).await;
        broker.metrics.produce_ack(asked.acks, started.elapsed());
        // The client sends no more for so long, or waits for this answer.
        hold_back(slowed).await;
        let mut hints = Hints::default();
        let responses = topics.into_iter().map(|(name, topic_id, outcomes)| {
            let found = find(&broker.image(), by_id, &name, topic_id);
            let answers = outcomes.into_iter().map(|outcome| {
                let mut answer = answer(outcome, asked.acks);
                if let Ok(id) = found {
                    name_leader(&broker, id, asked, &mut answer, &mut hints);
                }
                answer
            });
            TopicProduceResponse {
                partition_responses: answers.collect(),
                name: if by_id { String::new() } else { name },
                topic_id: if by_id { topic_id } else { Uuid::ZERO },
                ..Default::default()
            }
        });
        let mut response = ProduceResponse {
            responses: responses.collect(),
            throttle_time_ms: i32::try_from(slowed.as_millis()).unwrap_or(i32::MAX),
            ..Default::default()
        };
        let endpoints = hints
            .endpoints(&broker, &listener)
            .map(|(id, at, rack)| NodeEndpoint {
                node_id: id,
                host: at.host,
                port: i32::from(at.port),
                rack,
                ..Default::default()
            });
        response.node_endpoints = endpoints.collect();
        response
    })))
}

/// Slows a producer.
async fn hold_back(slowed: Duration) {
    if !slowed.is_zero() {
        clock::sleep(slowed).await;
    }
}

/// What all parts of a request have in common.
#[derive(Clone, Copy)]
struct Asked {
    version: i16,
    acks: i16,
    deadline: clock::Instant,
}

/// Says who leads a partition that is led elsewhere (KIP-951).
fn name_leader(
    broker: &Broker,
    topic_id: Uuid,
    asked: Asked,
    answer: &mut PartitionProduceResponse,
    hints: &mut Hints,
) {
    let error = ErrorCode::from_code(answer.error_code);
    if asked.version < FIRST_VERSION_OF_LEADERS || !led_elsewhere(error) {
        return;
    }
    if let Some(partition) = broker.image().partition(topic_id, answer.index) {
        hints.add(partition);
        answer.current_leader.leader_id = partition.leader;
        answer.current_leader.leader_epoch = partition.leader_epoch;
    }
}

/// What refuses a request as a whole.
fn refusal_of_all(request: &ProduceRequest) -> Option<(ErrorCode, &'static str)> {
    if !(-1..=1).contains(&request.acks) {
        return Some((
            ErrorCode::InvalidRequiredAcks,
            "acks must be -1 (all), 0 or 1",
        ));
    }
    if request.transactional_id.is_some() {
        return Some((TRANSACTIONS_REFUSED, TRANSACTIONS_REFUSED_MESSAGE));
    }
    None
}

fn find(image: &Image, by_id: bool, name: &str, id: Uuid) -> Result<Uuid, ErrorCode> {
    let (found, missing) = match by_id {
        true => (image.topic_by_id(id), ErrorCode::UnknownTopicId),
        false => (image.topic(name), ErrorCode::UnknownTopicOrPartition),
    };
    match found {
        None => Err(missing),
        Some(topic) if topic.is_internal() => Err(ErrorCode::InvalidTopicException),
        Some(topic) => Ok(topic.id),
    }
}

async fn append(
    broker: &Arc<Broker>,
    asked: Asked,
    (image, topic_id, index): (&Image, Uuid, i32),
    records: Option<Bytes>,
    slowed: &mut Duration,
) -> Result<(Arc<Partition>, Appended), Refusal> {
    let partition =
        broker
            .partitions
            .find(image, topic_id, index)
            .map_err(|error| match error {
                ErrorCode::KafkaStorageError => Refusal::new(
                    error,
                    "the partition's log is damaged: see the broker's log",
                ),
                ErrorCode::NotLeaderOrFollower => Refusal::new(error, NOT_LED_HERE),
                _ => Refusal::new(error, "the topic has no such partition"),
            })?;
    match partition.cold.brake() {
        Brake::Refuse => {
            broker.metrics.tier_refused.inc();
            return Err(Refusal::new(ErrorCode::KafkaStorageError, WAITS_FOR_BUCKET));
        }
        brake => *slowed = slower(*slowed, brake),
    }
    let policy = partition.policy();
    let produce = ProducePolicy {
        allow_zstd: asked.version >= FIRST_VERSION_OF_ZSTD,
        ..policy.produce
    };
    let now_ms = clock::now_ms();
    let validated = validate(records.unwrap_or_default(), produce, now_ms).await?;
    // No memory for it: its connection reads no more until there is some.
    partition.dir().wal.admit().await;
    loop {
        match partition.append(&validated.batch, now_ms, asked.acks == ACKS_ALL) {
            Ok(Ok(appended)) => return Ok((partition, appended)),
            Ok(Err(error)) => return Err(refused_by_log(broker, &partition, &error)),
            Err(NotServed::Refused(replication::Refusal::Wait))
                if clock::monotonic() < asked.deadline =>
            {
                let serving = Arc::new(Acks::new(1));
                partition.when_serving(&serving);
                serving.wait(asked.deadline - clock::monotonic()).await;
            }
            Err(NotServed::Refused(refusal)) => {
                let message = match refusal {
                    replication::Refusal::NotEnoughReplicas => {
                        "fewer replicas than min.insync.replicas are in sync: nothing was appended"
                    }
                    replication::Refusal::Offline(_) => "the partition is offline on this broker",
                    _ => NOT_LED_HERE,
                };
                return Err(Refusal::new(refused(refusal), message));
            }
            Err(NotServed::Closed) => {
                return Err(Refusal::new(ErrorCode::NotLeaderOrFollower, NOT_LED_HERE));
            }
        }
    }
}

async fn validate(
    records: Bytes,
    policy: ProducePolicy,
    now_ms: i64,
) -> Result<ValidatedBatch, Refusal> {
    let validated = if policy.may_be_slow(&records) {
        // Milliseconds of decompression would stall every connection of this net thread.
        match task::blocking(move || validate_produce(records, &policy, now_ms)).await {
            Ok(validated) => validated,
            Err(error) => {
                return Err(Refusal::new(
                    ErrorCode::UnknownServerError,
                    error.to_string(),
                ));
            }
        }
    } else {
        validate_produce(records, &policy, now_ms)
    };
    validated.map_err(|invalid: InvalidBatch| Refusal {
        error: ErrorCode::from_code(invalid.kafka_error_code()),
        message: Some(invalid.to_string()),
        records: invalid
            .record_errors()
            .iter()
            .map(|e| (e.batch_index, e.reason.to_string()))
            .collect(),
        log_start: NO_OFFSET,
    })
}

fn refused_by_log(broker: &Broker, partition: &Partition, error: &AppendError) -> Refusal {
    let code = match error {
        AppendError::OutOfOrderSequence { .. } => ErrorCode::OutOfOrderSequenceNumber,
        AppendError::InvalidProducerEpoch { .. } => ErrorCode::InvalidProducerEpoch,
        AppendError::TooLarge { .. } => ErrorCode::RecordListTooLarge,
        AppendError::StaleLeaderEpoch { .. } | AppendError::NotContiguous { .. } => {
            ErrorCode::NotLeaderOrFollower
        }
        AppendError::BadBatch(_) => ErrorCode::CorruptMessage,
        AppendError::NoOffsets { .. } => ErrorCode::InvalidRecord,
        AppendError::DiskFull(_) => {
            broker.metrics.disk_full.inc();
            ErrorCode::KafkaStorageError
        }
        AppendError::Log(error) => crate::partition::error_code(error),
    };
    // Of a full disk the log tells once, and a metric for each request.
    if code == ErrorCode::KafkaStorageError && !matches!(error, AppendError::DiskFull(_)) {
        tracing::warn!(topic = %partition.topic, partition = partition.index, %error, "records refused");
    }
    let log_start = partition
        .bounds()
        .map_or(NO_OFFSET, |bounds| bounds.log_start);
    Refusal {
        log_start,
        ..Refusal::new(code, error.to_string())
    }
}

fn wait_for_all(topics: &[(String, Uuid, Vec<Outcome>)], all: i16) -> Arc<Acks> {
    let appended = || {
        topics
            .iter()
            .flat_map(|(_, _, outcomes)| outcomes)
            .filter_map(|o| o.appended.as_ref().ok())
    };
    let acks = Arc::new(Acks::new(appended().count()));
    for (partition, appended) in appended() {
        // A duplicate waits for its original: it is acknowledged under the same condition.
        partition.when_acked(all, appended, &acks);
    }
    acks
}

fn answer(outcome: Outcome, acks: i16) -> PartitionProduceResponse {
    let index = outcome.index;
    let refusal = match outcome.appended {
        Err(refusal) => refusal,
        Ok((partition, appended)) => match partition.acked(acks, &appended) {
            Acked::Yes { log_start } => {
                return PartitionProduceResponse {
                    index,
                    base_offset: appended.base_offset,
                    log_append_time_ms: appended.log_append_time_ms,
                    log_start_offset: log_start,
                    ..Default::default()
                };
            }
            Acked::No(error, message) => Refusal::new(error, message),
        },
    };
    let record_errors =
        refusal
            .records
            .into_iter()
            .map(|(at, message)| BatchIndexAndErrorMessage {
                batch_index: i32::try_from(at).unwrap_or(i32::MAX),
                batch_index_error_message: Some(message),
                ..Default::default()
            });
    PartitionProduceResponse {
        index,
        error_code: refusal.error.code(),
        base_offset: NO_OFFSET,
        log_start_offset: refusal.log_start,
        record_errors: record_errors.collect(),
        error_message: refusal.message,
        ..Default::default()
    }
}
