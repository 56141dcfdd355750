//! Requests in the few shapes that the tests need.

use crate::common::{Connection, PATIENCE, get, series};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tidemark_config::{BrokerLayers, BrokerSettings, ConfigMap};
use tidemark_env::clock;
use tidemark_env::disk::{Disk, FileDisk};
use tidemark_records::{Batch, BatchBuilder, BatchOptions, Limits, RecordRef};
use tidemark_server::{RunningServer, Voters};
use tidemark_wire::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use tidemark_wire::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
use tidemark_wire::messages::fetch_response::PartitionData;
use tidemark_wire::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use tidemark_wire::messages::produce_request::{PartitionProduceData, TopicProduceData};
use tidemark_wire::messages::produce_response::PartitionProduceResponse;
use tidemark_wire::messages::*;
use tidemark_wire::{ErrorCode, Records, Uuid};

/// The last version of Produce, Fetch that names topics.
pub const BY_NAME: i16 = 12;
pub const NONE: i16 = 0;

pub const TOPIC: i8 = 2;
pub const BROKER: i8 = 4;

/// Asks again until `condition` holds.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = clock::monotonic() + PATIENCE;
    while !condition().await {
        assert!(clock::monotonic() < deadline, "never came true: {what}");
        clock::sleep(Duration::from_millis(5)).await;
    }
}

pub fn settings_of(own: &[(&str, String)]) -> ConfigMap {
    own.iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone()))
        .collect()
}

/// Formats the directories of a node that is one of several.
pub fn format(own: &ConfigMap, voters: &Voters) {
    let none = ConfigMap::new();
    let layers = BrokerLayers {
        dynamic: &none,
        dynamic_default: &none,
        fixed: own,
    };
    let resolved = BrokerSettings::resolve(layers).unwrap();
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::new());
    let mut ids = resolved.node_id as u8;
    let new_id = || {
        ids += 10;
        Uuid([ids; 16])
    };
    tidemark_server::format(&disk, &resolved, Some(Uuid([9; 16])), voters, new_id).unwrap();
}

/// A batch of these values.
pub fn batch(values: &[&[u8]]) -> Bytes {
    batch_as(BatchOptions::default(), values)
}

pub fn batch_as(options: BatchOptions, values: &[&[u8]]) -> Bytes {
    let mut builder = BatchBuilder::new(options);
    for value in values {
        let record = RecordRef {
            timestamp_ms: clock::now_ms(),
            value: Some(value),
            ..Default::default()
        };
        builder.append(&record).expect("a small record");
    }
    builder.build().expect("a batch")
}

/// A batch of an idempotent producer.
pub fn batch_of(producer: i64, epoch: i16, sequence: i32, values: &[&[u8]]) -> Bytes {
    let options = BatchOptions {
        producer_id: producer,
        producer_epoch: epoch,
        base_sequence: sequence,
        ..Default::default()
    };
    batch_as(options, values)
}

/// The end of a partition's log, durable or not.
pub async fn end_of(server: &RunningServer, topic: &str, index: i32) -> i64 {
    let page = get(server, "/metrics/partitions").await.1;
    let labels = format!("{{topic=\"{topic}\",partition=\"{index}\"}}");
    let end = series(&page, &format!("tidemark_partition_end_offset{labels}"));
    end.parse().unwrap()
}

pub async fn topic(c: &mut Connection, name: &str, partitions: i32) -> Uuid {
    topic_with(c, name, partitions, &[]).await
}

pub async fn topic_with(
    c: &mut Connection,
    name: &str,
    partitions: i32,
    configs: &[(&str, &str)],
) -> Uuid {
    let response = c.ask(&create(name, partitions, configs), 7).await;
    let created = &response.topics[0];
    assert_eq!(created.error_code, NONE, "{:?}", created.error_message);
    created.topic_id
}

pub fn create(name: &str, partitions: i32, configs: &[(&str, &str)]) -> CreateTopicsRequest {
    let config = |(name, value): &(&str, &str)| CreatableTopicConfig {
        name: name.to_string(),
        value: Some(value.to_string()),
        ..Default::default()
    };
    let topic = CreatableTopic {
        name: name.into(),
        num_partitions: partitions,
        replication_factor: -1,
        configs: configs.iter().map(config).collect(),
        ..Default::default()
    };
    CreateTopicsRequest {
        topics: vec![topic],
        timeout_ms: 10_000,
        ..Default::default()
    }
}

pub async fn delete_topic(c: &mut Connection, name: &str) -> i16 {
    let request = DeleteTopicsRequest {
        topic_names: vec![name.into()],
        timeout_ms: 10_000,
        ..Default::default()
    };
    c.ask(&request, 5).await.responses[0].error_code
}

/// Sets one setting; gives error and message.
pub async fn set(
    c: &mut Connection,
    resource: i8,
    of: &str,
    name: &str,
    value: &str,
) -> (i16, Option<String>) {
    let response = c.ask(&alter(resource, of, name, value), 1).await;
    let answer = response.responses.into_iter().next().expect("one answer");
    (answer.error_code, answer.error_message)
}

pub fn alter(resource: i8, of: &str, name: &str, value: &str) -> IncrementalAlterConfigsRequest {
    let config = AlterableConfig {
        name: name.into(),
        config_operation: 0,
        value: Some(value.into()),
        ..Default::default()
    };
    let resource = AlterConfigsResource {
        resource_type: resource,
        resource_name: of.into(),
        configs: vec![config],
        ..Default::default()
    };
    IncrementalAlterConfigsRequest {
        resources: vec![resource],
        ..Default::default()
    }
}

pub fn produce_request(topic: &str, acks: i16, entries: Vec<(i32, Bytes)>) -> ProduceRequest {
    let partition_data = entries
        .into_iter()
        .map(|(index, records)| PartitionProduceData {
            index,
            records: Some(records),
            ..Default::default()
        });
    ProduceRequest {
        acks,
        timeout_ms: 10_000,
        topic_data: vec![TopicProduceData {
            name: topic.into(),
            partition_data: partition_data.collect(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// Produces with acks=all; gives the partition's answer.
pub async fn produce(
    c: &mut Connection,
    topic: &str,
    index: i32,
    records: Bytes,
) -> PartitionProduceResponse {
    let request = produce_request(topic, -1, vec![(index, records)]);
    let response = c.ask(&request, BY_NAME).await;
    first_of(response)
}

pub fn first_of(response: ProduceResponse) -> PartitionProduceResponse {
    let topic = response.responses.into_iter().next().expect("a topic");
    topic
        .partition_responses
        .into_iter()
        .next()
        .expect("a partition")
}

/// Produces one record that must be taken; gives its offset.
pub async fn put(c: &mut Connection, topic: &str, index: i32, value: &[u8]) -> i64 {
    let answer = produce(c, topic, index, batch(&[value])).await;
    assert_eq!(answer.error_code, NONE, "{:?}", answer.error_message);
    answer.base_offset
}

/// What a fetch wants of one partition.
pub fn from(index: i32, offset: i64) -> FetchPartition {
    FetchPartition {
        partition: index,
        fetch_offset: offset,
        current_leader_epoch: -1,
        last_fetched_epoch: -1,
        partition_max_bytes: 1 << 20,
        ..Default::default()
    }
}

/// A fetch without a session that does not wait.
pub fn fetch_request(topic: &str, partitions: Vec<FetchPartition>) -> FetchRequest {
    let topics = if partitions.is_empty() {
        Vec::new()
    } else {
        vec![FetchTopic {
            topic: topic.into(),
            partitions,
            ..Default::default()
        }]
    };
    FetchRequest {
        max_wait_ms: 0,
        min_bytes: 1,
        session_epoch: -1,
        topics,
        ..Default::default()
    }
}

pub fn forgetting(topic: &str, partitions: Vec<i32>) -> Vec<ForgottenTopic> {
    vec![ForgottenTopic {
        topic: topic.into(),
        partitions,
        ..Default::default()
    }]
}

/// Reads one partition once, without waiting.
pub async fn read(c: &mut Connection, topic: &str, index: i32, offset: i64) -> PartitionData {
    let request = fetch_request(topic, vec![from(index, offset)]);
    let mut response = c.ask(&request, BY_NAME).await;
    assert_eq!(response.error_code, NONE);
    response.responses.remove(0).partitions.remove(0)
}

/// The partitions of a fetch answer, in its order.
pub fn partitions_of(response: &FetchResponse) -> Vec<&PartitionData> {
    response
        .responses
        .iter()
        .flat_map(|topic| &topic.partitions)
        .collect()
}

/// Bytes of records in a fetch answer.
pub fn bytes_of(response: &FetchResponse) -> usize {
    partitions_of(response)
        .iter()
        .map(|p| p.records.as_ref().map_or(0, Records::len))
        .sum()
}

pub fn batches(data: &PartitionData) -> Vec<Batch> {
    let records = data.records.clone();
    let mut bytes = records.and_then(Records::into_bytes).unwrap_or_default();
    let mut all = Vec::new();
    while let Some(batch) = Batch::split_first(&mut bytes).expect("whole batches") {
        batch.verify_crc().expect("a sound batch");
        all.push(batch);
    }
    all
}

/// Offsets and values of the records in an answer.
pub fn values(data: &PartitionData) -> Vec<(i64, Vec<u8>)> {
    let mut all = Vec::new();
    for batch in batches(data) {
        for record in batch.records(Limits::default()).expect("records") {
            let record = record.expect("a record");
            all.push((record.offset, record.value.unwrap_or_default().to_vec()));
        }
    }
    all
}

/// Earliest (-2) or latest (-1) offset, or another that ListOffsets knows.
pub async fn offset(c: &mut Connection, topic: &str, index: i32, timestamp: i64) -> i64 {
    let found = try_offset(c, topic, index, timestamp).await;
    found.expect("an offset")
}

/// The same, or the error.
pub async fn try_offset(
    c: &mut Connection,
    topic: &str,
    index: i32,
    timestamp: i64,
) -> Result<i64, i16> {
    let partition = list_offsets_request::ListOffsetsPartition {
        partition_index: index,
        current_leader_epoch: -1,
        timestamp,
        ..Default::default()
    };
    let request = ListOffsetsRequest {
        replica_id: -1,
        topics: vec![list_offsets_request::ListOffsetsTopic {
            name: topic.into(),
            partitions: vec![partition],
            ..Default::default()
        }],
        ..Default::default()
    };
    let response = c.ask(&request, 9).await;
    let answer = &response.topics[0].partitions[0];
    match answer.error_code {
        NONE => Ok(answer.offset),
        error => Err(error),
    }
}

pub async fn delete_records(
    c: &mut Connection,
    topic: &str,
    index: i32,
    before: i64,
) -> (i16, i64) {
    let partition = delete_records_request::DeleteRecordsPartition {
        partition_index: index,
        offset: before,
        ..Default::default()
    };
    let request = DeleteRecordsRequest {
        topics: vec![delete_records_request::DeleteRecordsTopic {
            name: topic.into(),
            partitions: vec![partition],
            ..Default::default()
        }],
        timeout_ms: 10_000,
        ..Default::default()
    };
    let response = c.ask(&request, 2).await;
    let answer = &response.topics[0].partitions[0];
    (answer.error_code, answer.low_watermark)
}

pub fn code(error: ErrorCode) -> i16 {
    error.code()
}
