//! Record batches: as they come, and again with length and CRC made right, so
//! that the fuzzer gets past them.

use bytes::Bytes;
use tidemark_records::{
    BATCH_OVERHEAD_BYTES, Batch, Compression, LENGTH_PREFIX_BYTES, Limits, ProducePolicy,
    TimestampType, TopicCompression, patch, validate_produce,
};

use crate::allocation::bounded;

const LIMITS: Limits = Limits {
    max_decompressed_bytes: 256 * 1024,
};

/// Fuzzes record batches.
pub fn batches(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    split_and_read(&bytes);
    if bytes.len() < BATCH_OVERHEAD_BYTES {
        return;
    }
    let mut repaired = data.to_vec();
    let length = (data.len() - LENGTH_PREFIX_BYTES) as i32;
    repaired[8..12].copy_from_slice(&length.to_be_bytes());
    repaired[16] = 2;
    patch::set_base_offset(&mut repaired, 0).expect("there is a header");
    patch::recompute_crc(&mut repaired).expect("there is a header");
    let repaired = Bytes::from(repaired);
    split_and_read(&repaired);
    // Bytes that a leader overwrites choose what it is to do.
    produce(&repaired, data[12], data[13]);
}

/// Everything that a consumer does.
fn split_and_read(bytes: &Bytes) {
    let mut rest = bytes.clone();
    while let Ok(Some(batch)) = Batch::split_first(&mut rest) {
        assert_eq!(batch.bytes.len(), batch.header.size_bytes());
        let _ = batch.verify_crc();
        let input = batch.bytes.len();
        bounded("records", input, LIMITS.max_decompressed_bytes, || {
            read(&batch)
        });
    }
}

/// Number of records if all are well formed.
fn read(batch: &Batch) -> Option<usize> {
    let mut count = 0;
    for record in batch.records(LIMITS).ok()? {
        let record = record.ok()?;
        assert_eq!(record.headers.iter().count(), record.headers.len());
        count += 1;
    }
    Some(count)
}

/// Everything that a leader does.
fn produce(bytes: &Bytes, topic: u8, level: u8) {
    let compression = match Compression::from_id(topic & 7) {
        Some(codec) => TopicCompression::Codec {
            codec,
            // Levels that allocate hundreds of megabytes are the topic
            // owner's choice, not the producer's.
            level: Some(i32::from(level % 10)),
        },
        None => TopicCompression::Producer,
    };
    let policy = ProducePolicy {
        max_message_bytes: usize::MAX,
        timestamp_type: match topic & 8 {
            0 => TimestampType::CreateTime,
            _ => TimestampType::LogAppendTime,
        },
        timestamp_after_max_ms: match topic & 16 {
            0 => i64::MAX,
            _ => 1,
        },
        compression,
        compacted: topic & 32 != 0,
        allow_transactional: true,
        allow_control: topic & 64 != 0,
        limits: LIMITS,
        ..ProducePolicy::default()
    };
    let now_ms = 1_700_000_000_000;
    let result = bounded(
        "produce",
        bytes.len(),
        LIMITS.max_decompressed_bytes,
        || validate_produce(bytes.clone(), &policy, now_ms),
    );
    match result {
        Ok(valid) => {
            let batch = valid.batch;
            batch.verify_crc().expect("an accepted batch has its CRC");
            // What a leader accepts, every consumer can read.
            let count = read(&batch).expect("an accepted batch can be read");
            assert_eq!(count, batch.header.record_count as usize);
            assert_eq!(valid.rewritten, batch.bytes != *bytes);
            assert!(valid.max_timestamp_offset_delta < batch.header.record_count);
            // Accepting is idempotent, but for the append time.
            let policy = ProducePolicy {
                timestamp_type: TimestampType::CreateTime,
                ..policy
            };
            if batch.header.timestamp_type() == TimestampType::CreateTime {
                let again = validate_produce(batch.bytes.clone(), &policy, now_ms)
                    .expect("an accepted batch is accepted again");
                assert!(!again.rewritten);
            }
        }
        Err(error) => {
            assert_ne!(error.kafka_error_code(), 0);
            assert!(!error.to_string().is_empty());
        }
    }
}
