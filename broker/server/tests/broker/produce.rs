//! Produce: order, acknowledgements, idempotence, and everything that is refused.

use crate::common::{Connection, TestBroker, broker, try_start};
use crate::kit::*;
use crate::slow_disk::{Gate, OpenAtEnd, SlowDisk};
use bytes::{BufMut, Bytes, BytesMut};
use std::sync::Arc;
use tidemark_env::clock;
use tidemark_records::{BatchBuilder, BatchOptions, Compression, RecordRef, TimestampType};
use tidemark_wire::messages::produce_response::PartitionProduceResponse;
use tidemark_wire::messages::*;
use tidemark_wire::{ErrorCode, Uuid};

async fn broker_on_a_slow_disk() -> (TestBroker, Arc<Gate>, OpenAtEnd) {
    let dir = tempfile::tempdir().unwrap();
    let (disk, gate) = SlowDisk::new();
    let server = try_start(disk, dir.path(), &[]).await.unwrap();
    let opener = OpenAtEnd(Arc::clone(&gate));
    (TestBroker { server, dir }, gate, opener)
}

async fn refused(c: &mut Connection, records: Bytes) -> PartitionProduceResponse {
    let answer = produce(c, "t", 0, records).await;
    assert_ne!(answer.error_code, NONE);
    assert_eq!(answer.base_offset, -1);
    assert!(answer.error_message.is_some(), "an error says why");
    answer
}

/// Red when `Partition::append` publishes what is not durable yet.
#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order_though_the_first_is_the_slowest() {
    let (broker, gate, _opener) = broker_on_a_slow_disk().await;
    let mut c = Connection::open(&broker.server).await;
    topic(&mut c, "t", 1).await;
    gate.shut();
    let slow = produce_request("t", -1, vec![(0, batch(&[b"slow"]))]);
    let quick = produce_request("unknown", -1, vec![(0, batch(&[b"quick"]))]);
    let mut ids = Vec::new();
    for _ in 0..10 {
        ids.push(c.send(&slow, BY_NAME).await);
        ids.push(c.send(&quick, BY_NAME).await);
    }
    let metadata = MetadataRequest::default();
    let last = c.send(&metadata, 9).await;
    // All ten are in the log before the first is durable.
    let mut other = Connection::open(&broker.server).await;
    until("all are appended", async || {
        end_of(&broker.server, "t", 0).await == 10
    })
    .await;
    assert_eq!(
        offset(&mut other, "t", 0, -1).await,
        0,
        "nothing is durable yet"
    );
    gate.open();
    for (at, id) in ids.into_iter().enumerate() {
        let answer = first_of(c.answer::<ProduceRequest>(BY_NAME, id).await.unwrap());
        if at % 2 == 0 {
            assert_eq!(
                (answer.error_code, answer.base_offset),
                (NONE, at as i64 / 2)
            );
        } else {
            assert_eq!(answer.error_code, code(ErrorCode::UnknownTopicOrPartition));
        }
    }
    assert!(c.answer::<MetadataRequest>(9, last).await.is_some());
}

#[tokio::test]
async fn acks_of_0_get_no_answer_and_those_of_1_and_all_do() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    topic(&mut c, "t", 1).await;
    let silent = produce_request("t", 0, vec![(0, batch(&[b"0"]))]);
    c.send(&silent, BY_NAME).await;
    for acks in [1, -1] {
        let request = produce_request("t", acks, vec![(0, batch(&[b"x"]))]);
        let answer = first_of(c.ask(&request, BY_NAME).await);
        assert_eq!(answer.error_code, NONE);
    }
    assert_eq!(values(&read(&mut c, "t", 0, 0).await).len(), 3);
}

#[tokio::test]
async fn a_failed_produce_that_wants_no_answer_ends_its_connection() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    c.send(
        &produce_request("unknown", 0, vec![(0, batch(&[b"x"]))]),
        BY_NAME,
    )
    .await;
    assert_eq!(c.frame().await, None, "how else could its producer know");
}

#[tokio::test]
async fn acks_that_do_not_exist_are_refused() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    topic(&mut c, "t", 1).await;
    for acks in [2, -2, i16::MAX] {
        let request = produce_request("t", acks, vec![(0, batch(&[b"x"]))]);
        let answer = first_of(c.ask(&request, BY_NAME).await);
        assert_eq!(answer.error_code, code(ErrorCode::InvalidRequiredAcks));
    }
    assert_eq!(offset(&mut c, "t", 0, -1).await, 0);
}

#[tokio::test]
async fn duplicates_of_an_idempotent_producer_are_answered_with_the_original_offset() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    topic(&mut c, "t", 1).await;
    let init = InitProducerIdRequest {
        transactional_id: None,
        transaction_timeout_ms: 60_000,
        ..Default::default()
    };
    let producer = c.ask(&init, 4).await;
    assert_eq!((producer.error_code, producer.producer_epoch), (NONE, 0));
    let id = producer.producer_id;
    for _ in 0..2 {
        for (sequence, expected) in [(0, 0), (2, 2), (4, 4)] {
            let records = batch_of(id, 0, sequence, &[b"a", b"b"]);
            let answer = produce(&mut c, "t", 0, records).await;
            assert_eq!((answer.error_code, answer.base_offset), (NONE, expected));
        }
    }
    assert_eq!(offset(&mut c, "t", 0, -1).await, 6);
    let other = c.ask(&init, 4).await.producer_id;
    assert_ne!(other, id, "ids are never given out twice");
}

/// Red when `answer` in `handlers/produce.rs` does not compare with the high watermark.
#[tokio::test]
async fn a_duplicate_is_acknowledged_only_once_its_original_is_durable() {
    let (broker, gate, _opener) = broker_on_a_slow_disk().await;
    let mut first = Connection::open(&broker.server).await;
    let mut second = Connection::open(&broker.server).await;
    topic(&mut first, "t", 1).await;
    gate.shut();
    let records = batch_of(7, 0, 0, &[b"once"]);
    let request = produce_request("t", -1, vec![(0, records)]);
    let original = first.send(&request, BY_NAME).await;
    let hasty = ProduceRequest {
        timeout_ms: 100,
        ..request.clone()
    };
    let answer = first_of(second.ask(&hasty, BY_NAME).await);
    assert_eq!(answer.error_code, code(ErrorCode::RequestTimedOut));
    gate.open();
    let answer = first_of(
        first
            .answer::<ProduceRequest>(BY_NAME, original)
            .await
            .unwrap(),
    );
    assert_eq!((answer.error_code, answer.base_offset), (NONE, 0));
    let answer = first_of(second.ask(&request, BY_NAME).await);
    assert_eq!((answer.error_code, answer.base_offset), (NONE, 0));
    assert_eq!(values(&read(&mut first, "t", 0, 0).await).len(), 1);
}

#[tokio::test]
async fn gaps_and_stale_epochs_of_a_producer_are_refused() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    topic(&mut c, "t", 1).await;
    produce(&mut c, "t", 0, batch_of(7, 1, 0, &[b"x"])).await;
    let answer = refused(&mut c, batch_of(7, 1, 2, &[b"gap"])).await;
    assert_eq!(answer.error_code, code(ErrorCode::OutOfOrderSequenceNumber));
    let answer = refused(&mut c, batch_of(7, 0, 1, &[b"stale"])).await;
    assert_eq!(answer.error_code, code(ErrorCode::InvalidProducerEpoch));
    let answer = refused(&mut c, batch_of(7, 2, 5, &[b"new epoch"])).await;
    assert_eq!(answer.error_code, code(ErrorCode::OutOfOrderSequenceNumber));
    let answer = produce(&mut c, "t", 0, batch_of(7, 2, 0, &[b"new epoch"])).await;
    assert_eq!((answer.error_code, answer.base_offset), (NONE, 1));
}

#[tokio::test]
async fn transactions_are_refused_at_once() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    topic(&mut c, "t", 1).await;
    let init = InitProducerIdRequest {
        transactional_id: Some("tx".into()),
        transaction_timeout_ms: 60_000,
        ..Default::default()
    };
    let answer = c.ask(&init, 4).await;
    assert_ne!(answer.error_code, NONE);
    assert!(!ErrorCode::from_code(answer.error_code).is_retriable());
    let request = ProduceRequest {
        transactional_id: Some("tx".into()),
        ..produce_request("t", -1, vec![(0, batch(&[b"x"]))])
    };
    let answer = first_of(c.ask(&request, BY_NAME).await);
    assert_ne!(answer.error_code, NONE);
    assert!(!ErrorCode::from_code(answer.error_code).is_retriable());
    for (transactional, control) in [(true, false), (false, true), (true, true)] {
        let options = BatchOptions {
            transactional,
            control,
            producer_id: 7,
            producer_epoch: 0,
            base_sequence: 0,
            ..Default::default()
        };
        let answer = refused(&mut c, batch_as(options, &[b"\0\0\0\0"])).await;
        assert!(!ErrorCode::from_code(answer.error_code).is_retriable());
    }
    assert_eq!(offset(&mut c, "t", 0, -1).await, 0);
}

#[tokio::test]
async fn the_second_entry_of_a_partition_in_one_request_is_refused() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    topic(&mut c, "t", 2).await;
    let entries = vec![
        (0, batch(&[b"first"])),
        (1, batch(&[b"other"])),
        (0, batch(&[b"second"])),
    ];
    let response = c.ask(&produce_request("t", -1, entries), BY_NAME).await;
    let errors: Vec<i16> = response.responses[0]
        .partition_responses
        .iter()
        .map(|p| p.error_code)
        .collect();
    assert_eq!(errors, [NONE, NONE, code(ErrorCode::InvalidRequest)]);
    assert_eq!(
        values(&read(&mut c, "t", 0, 0).await),
        [(0, b"first".to_vec())]
    );
}

#[tokio::test]
async fn internal_topics_take_no_records_of_clients() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    let find = FindCoordinatorRequest {
        key: "g".into(),
        ..Default::default()
    };
    assert_eq!(c.ask(&find, 3).await.error_code, NONE);
    let answer = produce(&mut c, "__consumer_offsets", 0, batch(&[b"x"])).await;
    assert_eq!(answer.error_code, code(ErrorCode::InvalidTopicException));
}

#[tokio::test]
async fn unknown_topics_ids_and_partitions_are_told_apart() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    topic(&mut c, "t", 1).await;
    let unknown = code(ErrorCode::UnknownTopicOrPartition);
    for index in [1, -1, i32::MAX] {
        let answer = produce(&mut c, "t", index, batch(&[b"x"])).await;
        assert_eq!((answer.index, answer.error_code), (index, unknown));
    }
    let answer = produce(&mut c, "u", 0, batch(&[b"x"])).await;
    assert_eq!(answer.error_code, unknown);
    let mut request = produce_request("", -1, vec![(0, batch(&[b"x"]))]);
    request.topic_data[0].topic_id = Uuid::from_random([9; 16]);
    let answer = first_of(c.ask(&request, 13).await);
    assert_eq!(answer.error_code, code(ErrorCode::UnknownTopicId));
}

#[tokio::test]
async fn produce_of_dropped_versions_is_refused_in_the_layout_of_each() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    topic(&mut c, "t", 1).await;
    let mut body = BytesMut::new();
    body.put_i16(1); // acks
    body.put_i32(1000); // timeout
    body.put_i32(1);
    body.put_i16(1);
    body.put_slice(b"t");
    body.put_i32(1);
    body.put_i32(0); // partition
    body.put_i32(4); // size of the message set
    body.put_slice(b"oldy");
    for version in 0..3 {
        let id = c.send_body(0, version, 1, &body).await;
        let mut expected = BytesMut::new();
        expected.put_i32(id);
        expected.put_i32(1);
        expected.put_i16(1);
        expected.put_slice(b"t");
        expected.put_i32(1);
        expected.put_i32(0);
        expected.put_i16(35);
        expected.put_i64(-1); // base offset
        if version >= 2 {
            expected.put_i64(-1); // log append time
        }
        if version >= 1 {
            expected.put_i32(0); // throttle time
        }
        assert_eq!(
            c.frame().await,
            Some(expected.freeze()),
            "version {version}"
        );
    }
    assert_eq!(offset(&mut c, "t", 0, -1).await, 0, "the connection lives");
}

#[tokio::test]
async fn a_batch_above_max_message_bytes_is_too_large() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    topic_with(&mut c, "t", 1, &[("max.message.bytes", "1000")]).await;
    let answer = refused(&mut c, batch(&[&[1; 2000]])).await;
    assert_eq!(answer.error_code, code(ErrorCode::MessageTooLarge));
    assert_eq!(put(&mut c, "t", 0, &[1; 800]).await, 0);
}

#[tokio::test]
async fn a_compacted_topic_refuses_records_without_keys_one_by_one() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    topic_with(&mut c, "t", 1, &[("cleanup.policy", "compact")]).await;
    let mut builder = BatchBuilder::new(BatchOptions::default());
    for key in [Some(b"k".as_slice()), None, Some(b"l"), None] {
        let record = RecordRef {
            timestamp_ms: clock::now_ms(),
            key,
            value: Some(b"v"),
            ..Default::default()
        };
        builder.append(&record).unwrap();
    }
    let answer = refused(&mut c, builder.build().unwrap()).await;
    assert_eq!(answer.error_code, code(ErrorCode::InvalidRecord));
    let at: Vec<i32> = answer.record_errors.iter().map(|e| e.batch_index).collect();
    assert_eq!(at, [1, 3]);
    assert!(answer.record_errors[0].batch_index_error_message.is_some());
    assert_eq!(offset(&mut c, "t", 0, -1).await, 0, "all or nothing");
}

#[tokio::test]
async fn log_append_time_is_the_brokers_for_records_and_answer() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    let settings = [("message.timestamp.type", "LogAppendTime")];
    topic_with(&mut c, "t", 1, &settings).await;
    topic(&mut c, "u", 1).await;
    let before = clock::now_ms();
    let old = |value| {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        let record = RecordRef {
            timestamp_ms: 1_000,
            value: Some(value),
            ..Default::default()
        };
        builder.append(&record).unwrap();
        builder.build().unwrap()
    };
    let answer = produce(&mut c, "t", 0, old(b"x")).await;
    assert!((before..=clock::now_ms()).contains(&answer.log_append_time_ms));
    let header = batches(&read(&mut c, "t", 0, 0).await)[0].header;
    assert_eq!(header.timestamp_type(), TimestampType::LogAppendTime);
    assert_eq!(header.max_timestamp_ms, answer.log_append_time_ms);
    assert_eq!(
        produce(&mut c, "u", 0, old(b"x")).await.log_append_time_ms,
        -1
    );
    let header = batches(&read(&mut c, "u", 0, 0).await)[0].header;
    assert_eq!(header.max_timestamp_ms, 1_000);
}

#[tokio::test]
async fn a_topics_compression_type_is_what_its_log_has() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    let codecs = [
        ("producer", Compression::Gzip),
        ("uncompressed", Compression::None),
        ("gzip", Compression::Gzip),
        ("snappy", Compression::Snappy),
        ("lz4", Compression::Lz4),
        ("zstd", Compression::Zstd),
    ];
    for (name, expected) in codecs {
        topic_with(&mut c, name, 1, &[("compression.type", name)]).await;
        let options = BatchOptions {
            compression: Compression::Gzip,
            ..Default::default()
        };
        let sent = batch_as(options, &[&[1; 500], &[2; 500]]);
        assert_eq!(produce(&mut c, name, 0, sent).await.error_code, NONE);
        let answered = read(&mut c, name, 0, 0).await;
        assert_eq!(
            batches(&answered)[0].header.compression(),
            expected,
            "{name}"
        );
        assert_eq!(values(&answered), [(0, vec![1; 500]), (1, vec![2; 500])]);
    }
}

#[tokio::test]
async fn zstd_is_refused_of_clients_from_before_it() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    topic(&mut c, "t", 1).await;
    let options = BatchOptions {
        compression: Compression::Zstd,
        ..Default::default()
    };
    let sent = batch_as(options, &[&[1; 500]]);
    for (version, error) in [
        (6, ErrorCode::UnsupportedCompressionType),
        (7, ErrorCode::None),
    ] {
        let request = produce_request("t", -1, vec![(0, sent.clone())]);
        let answer = first_of(c.ask(&request, version).await);
        assert_eq!(answer.error_code, error.code(), "version {version}");
    }
}

#[tokio::test]
async fn damaged_and_malformed_batches_are_refused_and_nothing_of_them_is_kept() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    topic(&mut c, "t", 1).await;
    let good = batch(&[b"a", b"b"]);
    let changed = |at: usize, byte: u8| {
        let mut bytes = good.to_vec();
        bytes[at] ^= byte;
        Bytes::from(bytes)
    };
    let corrupt = code(ErrorCode::CorruptMessage);
    let last = good.len() - 1;
    assert_eq!(
        refused(&mut c, changed(last, 1)).await.error_code,
        corrupt,
        "a flipped bit"
    );
    assert_eq!(
        refused(&mut c, changed(17, 1)).await.error_code,
        corrupt,
        "a wrong CRC"
    );
    refused(&mut c, changed(16, 3)).await; // another magic
    refused(&mut c, changed(60, 1)).await; // another count
    refused(&mut c, Bytes::new()).await;
    refused(&mut c, good.slice(..last)).await;
    refused(&mut c, good.slice(..20)).await;
    refused(&mut c, Bytes::from(vec![0xff; 200])).await;
    let twice = [good.clone(), good.clone()].concat();
    assert_eq!(
        refused(&mut c, Bytes::from(twice)).await.error_code,
        code(ErrorCode::InvalidRecord),
        "one batch per partition"
    );
    assert_eq!(offset(&mut c, "t", 0, -1).await, 0);
    let answer = produce(&mut c, "t", 0, good).await;
    assert_eq!(answer.base_offset, 0);
}

#[tokio::test]
async fn timestamps_too_far_ahead_are_refused() {
    let broker = broker(&[]).await;
    let mut c = Connection::open(&broker.server).await;
    let settings = [("message.timestamp.after.max.ms", "1000")];
    topic_with(&mut c, "t", 1, &settings).await;
    let mut builder = BatchBuilder::new(BatchOptions::default());
    let record = RecordRef {
        timestamp_ms: clock::now_ms() + 3_600_000,
        ..Default::default()
    };
    builder.append(&record).unwrap();
    let answer = refused(&mut c, builder.build().unwrap()).await;
    assert_eq!(answer.error_code, code(ErrorCode::InvalidTimestamp));
    assert_eq!(answer.record_errors.len(), 1);
}
