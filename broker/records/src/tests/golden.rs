//! The 122 batches that Apache Kafka wrote.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::{Golden, append, golden, only_batch, records_of};
use crate::record::parse_record;
use crate::varint::Cursor;
use crate::{
    Batch, BatchBuilder, BatchOptions, Compression, Limits, ProducePolicy, TimestampType, patch,
    validate_produce,
};

fn bytes_of(json: &Value) -> Option<Vec<u8>> {
    json.as_str().map(|text| STANDARD.decode(text).unwrap())
}

#[test]
fn every_field_and_record_decodes_as_kafka_says() {
    for Golden { name, bytes, json } in golden() {
        let batch = only_batch(&bytes);
        batch.verify_crc().unwrap();
        let header = batch.header;
        assert_eq!(json["baseOffset"], header.base_offset, "{name}");
        assert_eq!(json["lastOffset"], header.last_offset(), "{name}");
        assert_eq!(json["leaderEpoch"], header.partition_leader_epoch, "{name}");
        assert_eq!(json["sizeInBytes"], header.size_bytes(), "{name}");
        assert_eq!(json["crc"], header.crc, "{name}");
        assert_eq!(json["maxTimestamp"], header.max_timestamp_ms, "{name}");
        let timestamp_type = match header.timestamp_type() {
            TimestampType::CreateTime => "CreateTime",
            TimestampType::LogAppendTime => "LogAppendTime",
        };
        assert_eq!(json["timestampType"], timestamp_type, "{name}");
        assert_eq!(json["compression"], header.compression().name(), "{name}");
        assert_eq!(json["producerId"], header.producer_id, "{name}");
        assert_eq!(json["producerEpoch"], header.producer_epoch, "{name}");
        assert_eq!(json["baseSequence"], header.base_sequence, "{name}");
        assert_eq!(json["transactional"], header.is_transactional(), "{name}");
        assert_eq!(json["control"], header.is_control(), "{name}");

        let records = records_of(&batch);
        let expected = json["records"].as_array().unwrap();
        assert_eq!(records.len(), expected.len(), "{name}");
        assert_eq!(records.len(), header.record_count as usize, "{name}");
        for (record, expected) in records.iter().zip(expected) {
            assert_eq!(expected["offset"], record.offset, "{name}");
            assert_eq!(expected["timestamp"], record.timestamp_ms, "{name}");
            assert_eq!(bytes_of(&expected["key"]).as_deref(), record.key.as_deref());
            assert_eq!(
                bytes_of(&expected["value"]).as_deref(),
                record.value.as_deref(),
                "{name}"
            );
            let expected_headers = expected["headers"].as_array().unwrap();
            assert_eq!(record.headers.len(), expected_headers.len(), "{name}");
            assert_eq!(record.headers.iter().len(), expected_headers.len());
            for (header, expected) in record.headers.iter().zip(expected_headers) {
                assert_eq!(expected[0].as_str().unwrap().as_bytes(), header.key);
                assert_eq!(bytes_of(&expected[1]).as_deref(), header.value.as_deref());
            }
        }
    }
}

/// Timestamps of the records as the producer set them, which batches with log
/// append time keep in their deltas.
fn create_timestamps(batch: &Batch) -> Vec<i64> {
    let records = batch.records(Limits::default()).unwrap();
    let mut cursor = Cursor::new(records.payload(), 0);
    (0..batch.header.record_count)
        .map(|_| {
            batch.header.base_timestamp_ms + parse_record(&mut cursor).unwrap().timestamp_delta_ms
        })
        .collect()
}

fn rebuild(batch: &Batch, compression: Compression) -> bytes::Bytes {
    let header = batch.header;
    let mut builder = BatchBuilder::new(BatchOptions {
        compression,
        compression_level: None,
        log_append_time_ms: (header.timestamp_type() == TimestampType::LogAppendTime)
            .then_some(header.max_timestamp_ms),
        base_offset: header.base_offset,
        partition_leader_epoch: header.partition_leader_epoch,
        producer_id: header.producer_id,
        producer_epoch: header.producer_epoch,
        base_sequence: header.base_sequence,
        transactional: header.is_transactional(),
        control: header.is_control(),
    });
    for (record, timestamp_ms) in records_of(batch).iter().zip(create_timestamps(batch)) {
        append(&mut builder, timestamp_ms, record);
    }
    builder.build().unwrap()
}

#[test]
fn uncompressed_batches_are_built_byte_for_byte() {
    let mut seen = 0;
    for Golden { name, bytes, .. } in golden() {
        let batch = only_batch(&bytes);
        if batch.header.compression() == Compression::None {
            assert_eq!(rebuild(&batch, Compression::None), bytes, "{name}");
            seen += 1;
        }
    }
    assert_eq!(seen, 26);
}

#[test]
fn compressed_batches_hold_the_same_records_when_built_again() {
    for Golden { name, bytes, .. } in golden() {
        let batch = only_batch(&bytes);
        for compression in Compression::ALL {
            let again = only_batch(&rebuild(&batch, compression));
            again.verify_crc().unwrap();
            assert_eq!(again.header.compression(), compression);
            assert_eq!(records_of(&again), records_of(&batch), "{name}");
            assert_eq!(create_timestamps(&again), create_timestamps(&batch));
        }
    }
}

/// Kafka's own compressed bytes go through validation untouched.
#[test]
fn a_leader_keeps_what_kafka_wrote() {
    let mut seen = 0;
    for Golden { name, bytes, .. } in golden() {
        let header = only_batch(&bytes).header;
        if header.is_control() || header.timestamp_type() == TimestampType::LogAppendTime {
            continue;
        }
        let mut bytes = bytes.to_vec();
        patch::set_base_offset(&mut bytes, 0).unwrap();
        let bytes = bytes::Bytes::from(bytes);
        let policy = ProducePolicy {
            allow_transactional: true,
            ..ProducePolicy::default()
        };
        let valid = validate_produce(bytes.clone(), &policy, 1_700_000_000_000).unwrap();
        assert!(!valid.rewritten, "{name}");
        assert_eq!(valid.batch.bytes, bytes, "{name}");
        let records = records_of(&valid.batch);
        let newest = &records[valid.max_timestamp_offset_delta as usize];
        assert_eq!(newest.timestamp_ms, header.max_timestamp_ms, "{name}");
        seen += 1;
    }
    assert_eq!(seen, 60);
}
