//! What a leader changes: codec, timestamps.

use super::{batch_of, build, only_batch, records_of};
use crate::{
    BatchOptions, Compression, InvalidBatch, ProducePolicy, TimestampType, TopicCompression, patch,
    validate_produce,
};

const NOW_MS: i64 = 5_000;

fn to_codec(codec: Compression, level: Option<i32>) -> ProducePolicy {
    ProducePolicy {
        compression: TopicCompression::Codec { codec, level },
        ..ProducePolicy::default()
    }
}

#[test]
fn log_append_time_replaces_timestamps_and_crc_only() {
    let policy = ProducePolicy {
        timestamp_type: TimestampType::LogAppendTime,
        ..ProducePolicy::default()
    };
    for compression in Compression::ALL {
        let bytes = batch_of(compression, &[b"a", b"b"]);
        let valid = validate_produce(bytes.clone(), &policy, NOW_MS).unwrap();
        assert!(valid.rewritten);
        let mut expected = bytes.to_vec();
        patch::set_log_append_time(&mut expected, NOW_MS).unwrap();
        assert_eq!(valid.batch.bytes, expected);
        assert_eq!(valid.batch, only_batch(&valid.batch.bytes));
        assert_eq!(valid.max_timestamp_offset_delta, 0);
        for record in records_of(&valid.batch) {
            assert_eq!(record.timestamp_ms, NOW_MS);
        }
    }
}

#[test]
fn a_wrong_max_timestamp_is_corrected() {
    let good = batch_of(Compression::Snappy, &[b"a", b"b", b"c"]);
    let mut wrong = good.to_vec();
    patch::set_max_timestamp(&mut wrong, 999_999).unwrap();
    let valid = validate_produce(wrong.into(), &ProducePolicy::default(), NOW_MS).unwrap();
    assert!(valid.rewritten);
    assert_eq!(valid.batch.bytes, good);
    assert_eq!(valid.max_timestamp_offset_delta, 2);
}

#[test]
fn every_codec_becomes_every_other() {
    let values: Vec<Vec<u8>> = (0..500)
        .map(|n| format!("value {n}").into_bytes())
        .collect();
    let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
    for from in Compression::ALL {
        let bytes = build(
            BatchOptions {
                compression: from,
                producer_id: 4,
                producer_epoch: 2,
                base_sequence: 17,
                ..BatchOptions::default()
            },
            &values,
        );
        let before = only_batch(&bytes);
        for to in Compression::ALL {
            let valid = validate_produce(bytes.clone(), &to_codec(to, None), NOW_MS).unwrap();
            assert_eq!(valid.rewritten, from != to);
            let after = &valid.batch;
            after.verify_crc().unwrap();
            assert_eq!(after.header.compression(), to);
            assert_eq!(records_of(after), records_of(&before));
            assert_eq!(after.header.producer_id, 4);
            assert_eq!(after.header.producer_epoch, 2);
            assert_eq!(after.header.base_sequence, 17);
            assert_eq!(after.header.record_count, 500);
            // What we write for a codec is what its builder writes.
            let built = build(
                BatchOptions {
                    compression: to,
                    producer_id: 4,
                    producer_epoch: 2,
                    base_sequence: 17,
                    ..BatchOptions::default()
                },
                &values,
            );
            assert_eq!(after.bytes, built);
        }
    }
}

#[test]
fn recompression_takes_the_topics_level_and_append_time() {
    let value: Vec<u8> = (0..40_000u32)
        .flat_map(|n| {
            (n.wrapping_mul(2_654_435_761) >> 20)
                .to_string()
                .into_bytes()
        })
        .collect();
    let bytes = batch_of(Compression::None, &[&value]);
    let size = |level| {
        let policy = ProducePolicy {
            timestamp_type: TimestampType::LogAppendTime,
            ..to_codec(Compression::Gzip, Some(level))
        };
        let valid = validate_produce(bytes.clone(), &policy, NOW_MS).unwrap();
        valid.batch.verify_crc().unwrap();
        assert_eq!(valid.batch.header.compression(), Compression::Gzip);
        assert_eq!(records_of(&valid.batch)[0].timestamp_ms, NOW_MS);
        valid.batch.bytes.len()
    };
    assert!(size(9) < size(1));
}

#[test]
fn a_batch_that_grows_beyond_the_limit_is_too_large() {
    let bytes = batch_of(Compression::Gzip, &[&[0; 10_000]]);
    let policy = ProducePolicy {
        max_message_bytes: 5_000,
        ..to_codec(Compression::None, None)
    };
    let error = validate_produce(bytes, &policy, NOW_MS).unwrap_err();
    assert!(matches!(
        error,
        InvalidBatch::TooLarge {
            size_bytes: 10_000..,
            max_bytes: 5_000
        }
    ));
}

#[test]
fn refused_records_are_refused_before_recompression() {
    let bytes = batch_of(Compression::None, &[b"a", b"b"]);
    let policy = ProducePolicy {
        timestamp_before_max_ms: 10,
        ..to_codec(Compression::Zstd, None)
    };
    let error = validate_produce(bytes, &policy, NOW_MS).unwrap_err();
    assert_eq!(error.record_errors().len(), 2);
}

#[test]
fn only_large_work_is_called_slow() {
    let small = batch_of(Compression::Gzip, &[b"a"]);
    let noise: Vec<u8> = (0..100_000u32)
        .map(|n| (n.wrapping_mul(n).wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let large = batch_of(Compression::None, &[&noise]);
    let large_snappy = batch_of(Compression::Snappy, &[&noise]);
    assert!(!ProducePolicy::default().may_be_slow(&small));
    assert!(!ProducePolicy::default().may_be_slow(&large));
    assert!(ProducePolicy::default().may_be_slow(&large_snappy));
    assert!(to_codec(Compression::Zstd, None).may_be_slow(&large));
    assert!(!ProducePolicy::default().may_be_slow(b"junk"));
}
