//! A producer that tries nothing twice, one batch at a time: it knows what was refused.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidemark_client::{Cluster, Lane, Node, Topics};
use tidemark_env::clock;
use tidemark_env::random::Random;
use tidemark_records::{BatchBuilder, BatchOptions, RecordRef};
use tidemark_wire::ErrorCode;
use tidemark_wire::messages::ProduceRequest;
use tidemark_wire::messages::produce_request::{PartitionProduceData, TopicProduceData};

use super::load::{PARTITIONS, Shared, TOPIC, payload, place};
use crate::checker::Event;

/// The last version that names topics.
const LAST_WITH_NAMES: i16 = 12;

/// Writes until it is told to stop.
pub(super) async fn write(shared: Shared, by: u32, mut random: Random) {
    let mut by = by;
    shared.ready().await;
    let mut cluster = shared.cluster().await;
    let mut info = None;
    while !shared.stopped() {
        clock::sleep(Duration::from_millis(random.below(100))).await;
        let known = match info.take() {
            Some(known) => known,
            None => match cluster.metadata(Topics::Named(&[TOPIC])).await {
                Ok(known) => known,
                Err(_) => {
                    cluster = shared.cluster().await;
                    continue;
                }
            },
        };
        let partition = i32::try_from(random.below(PARTITIONS as u64)).unwrap_or(0);
        let topic = known.topics.get(TOPIC);
        let leader = topic.and_then(|topic| topic.partitions.get(&partition)?.leader);
        let Some(leader) = leader else {
            continue;
        };
        let (mut values, to) = (Vec::new(), place(partition));
        let mut builder = BatchBuilder::new(BatchOptions::default());
        for _ in 0..=random.below(4) {
            let value = shared.record.value();
            let bytes = payload(value, &mut random);
            let record = RecordRef {
                timestamp_ms: clock::now_ms(),
                value: Some(&bytes),
                ..RecordRef::default()
            };
            if builder.append(&record).is_ok() {
                values.push(value);
                let to = to.clone();
                shared.record.event(Event::Send { by, to, value });
            }
        }
        let Ok(batch) = builder.build() else {
            return shared.record.broken("no batch could be built".to_owned());
        };
        let batch = match random.one_in(20) {
            true => damaged(&batch),
            false => batch,
        };
        let result = send(&cluster, leader, partition, batch).await;
        match &result {
            Ok((ErrorCode::None, _)) => info = Some(known),
            Ok((code, _)) => shared.record.saw(format!("write refused: {code:?}")),
            Err(error) => {
                shared.failed("raw write", error);
                cluster = shared.cluster().await;
            }
        }
        let is_known = match &result {
            Ok((code, _)) => *code == ErrorCode::None || certainly_refused(*code),
            Err(_) => false,
        };
        if !is_known {
            // It may be on its way still, and arrive after the next one: without sequence numbers
            // nobody would notice.
            by += 100;
        }
        for (offset, value) in (0..).zip(values) {
            shared.record.event(match &result {
                Ok((ErrorCode::None, base)) => Event::Acked {
                    value,
                    offset: Some(base + offset),
                },
                Ok((code, _)) if certainly_refused(*code) => {
                    shared.record.saw("refused write");
                    Event::Refused { value }
                }
                _ => Event::Unknown { value },
            });
        }
    }
}

/// What is said only of batches that nobody has appended.
fn certainly_refused(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::CorruptMessage | ErrorCode::NotEnoughReplicas | ErrorCode::InvalidRecord
    )
}

/// The batch with a bit of its records turned.
fn damaged(batch: &Bytes) -> Bytes {
    let mut bytes = BytesMut::from(&batch[..]);
    if let Some(last) = bytes.last_mut() {
        *last ^= 1;
    }
    bytes.freeze()
}

/// The partition's error code and the offset of the first record.
async fn send(
    cluster: &Cluster,
    leader: i32,
    partition: i32,
    batch: Bytes,
) -> Result<(ErrorCode, i64), tidemark_client::ClientError> {
    let request = ProduceRequest {
        acks: -1,
        timeout_ms: 4000,
        topic_data: vec![TopicProduceData {
            name: TOPIC.to_owned(),
            partition_data: vec![PartitionProduceData {
                index: partition,
                records: Some(batch),
                ..PartitionProduceData::default()
            }],
            ..TopicProduceData::default()
        }],
        ..ProduceRequest::default()
    };
    let connection = cluster.connection(Node::Id(leader), Lane::Produce).await?;
    let version = connection.version_of::<ProduceRequest>(LAST_WITH_NAMES)?;
    let response = connection
        .send_at(&request, version, Duration::from_secs(5))
        .await?;
    let answer = response.responses.first();
    let answer = answer.and_then(|topic| topic.partition_responses.first());
    Ok(
        answer.map_or((ErrorCode::UnknownServerError, -1), |answer| {
            (
                tidemark_client::error_code(answer.error_code),
                answer.base_offset,
            )
        }),
    )
}
