//! What a leader refuses, with which of Kafka's errors.

use bytes::Bytes;

use super::{batch_of, build, forged};
use crate::{
    BatchBuilder, BatchError, BatchOptions, Compression, InvalidBatch, MAX_RECORD_ERRORS,
    ProducePolicy, RecordErrorReason, RecordRef, TimestampType, patch, validate_produce,
};

const NOW_MS: i64 = 5_000;
const CORRUPT_MESSAGE: i16 = 2;
const MESSAGE_TOO_LARGE: i16 = 10;
const INVALID_TIMESTAMP: i16 = 32;
const INVALID_TXN_STATE: i16 = 48;
const UNSUPPORTED_COMPRESSION_TYPE: i16 = 76;
const INVALID_RECORD: i16 = 87;

fn refusal(bytes: Bytes, policy: &ProducePolicy) -> (InvalidBatch, i16) {
    let error = validate_produce(bytes, policy, NOW_MS).unwrap_err();
    let code = error.kafka_error_code();
    (error, code)
}

fn refused(bytes: Bytes) -> (InvalidBatch, i16) {
    refusal(bytes, &ProducePolicy::default())
}

/// A valid batch changed at one place, with a valid CRC.
fn changed(at: usize, bytes: &[u8]) -> Bytes {
    let mut out = batch_of(Compression::None, &[b"a", b"b"]).to_vec();
    out[at..at + bytes.len()].copy_from_slice(bytes);
    patch::recompute_crc(&mut out).unwrap();
    out.into()
}

#[test]
fn a_good_batch_goes_through_without_a_copy() {
    for compression in Compression::ALL {
        let bytes = batch_of(compression, &[b"a", b"b", b"c"]);
        let valid = validate_produce(bytes.clone(), &ProducePolicy::default(), NOW_MS).unwrap();
        assert!(!valid.rewritten);
        assert_eq!(valid.batch.bytes.as_ptr(), bytes.as_ptr());
        assert_eq!(valid.batch.header.record_count, 3);
        assert_eq!(valid.max_timestamp_offset_delta, 2);
        let plain = batch_of(Compression::None, &[b"a", b"b", b"c"]);
        assert_eq!(valid.uncompressed_bytes, plain.len() - 61);
    }
}

#[test]
fn exactly_one_batch_is_wanted() {
    let one = batch_of(Compression::None, &[b"a"]);
    assert_eq!(
        refused(Bytes::new()),
        (InvalidBatch::Missing, INVALID_RECORD)
    );
    let two = Bytes::from([&one[..], &one[..]].concat());
    let extra_bytes = one.len();
    assert_eq!(
        refused(two),
        (
            InvalidBatch::MoreThanOneBatch { extra_bytes },
            INVALID_RECORD
        )
    );
    let cut = one.slice(..one.len() - 1);
    assert!(matches!(
        refused(cut),
        (
            InvalidBatch::Unreadable(BatchError::Truncated { .. }),
            INVALID_RECORD
        )
    ));
}

#[test]
fn old_formats_are_named() {
    for magic in [0, 1] {
        assert_eq!(
            refused(changed(16, &[magic as u8])),
            (InvalidBatch::OldFormat { magic }, INVALID_RECORD)
        );
    }
    assert!(matches!(
        refused(changed(16, &[3])),
        (
            InvalidBatch::Unreadable(BatchError::UnsupportedMagic { magic: 3 }),
            INVALID_RECORD
        )
    ));
}

#[test]
fn damage_is_corrupt_message_whatever_it_hit() {
    let good = batch_of(Compression::None, &[b"a", b"b"]);
    for at in 17..good.len() {
        let mut bytes = good.to_vec();
        bytes[at] ^= 0x80;
        let (error, code) = refused(bytes.into());
        assert!(
            matches!(
                error,
                InvalidBatch::Unreadable(BatchError::CrcMismatch { .. })
            ),
            "{at}: {error}"
        );
        assert_eq!(code, CORRUPT_MESSAGE);
    }
    let (_, code) = refused(changed(8, &(-1i32).to_be_bytes()));
    assert_eq!(code, CORRUPT_MESSAGE);
}

#[test]
fn size_is_limited_to_the_byte() {
    let bytes = batch_of(Compression::None, &[b"abc"]);
    let policy = |max_message_bytes| ProducePolicy {
        max_message_bytes,
        ..ProducePolicy::default()
    };
    assert!(validate_produce(bytes.clone(), &policy(bytes.len()), NOW_MS).is_ok());
    let size_bytes = bytes.len();
    let max_bytes = size_bytes - 1;
    assert_eq!(
        refusal(bytes, &policy(max_bytes)),
        (
            InvalidBatch::TooLarge {
                size_bytes,
                max_bytes
            },
            MESSAGE_TOO_LARGE
        )
    );
}

#[test]
fn counts_offsets_and_sequences_must_agree() {
    let mut moved = batch_of(Compression::None, &[b"a"]).to_vec();
    patch::set_base_offset(&mut moved, 1).unwrap();
    assert_eq!(
        refused(moved.into()),
        (InvalidBatch::BaseOffset { base_offset: 1 }, INVALID_RECORD)
    );
    for (record_count, last_offset_delta) in [(2, 0), (2, 2), (0, 1), (1, 1), (3, 1)] {
        let mut bytes = changed(57, &i32::to_be_bytes(record_count)).to_vec();
        bytes[23..27].copy_from_slice(&i32::to_be_bytes(last_offset_delta));
        patch::recompute_crc(&mut bytes).unwrap();
        assert_eq!(
            refused(bytes.into()),
            (
                InvalidBatch::Count {
                    record_count,
                    last_offset_delta
                },
                INVALID_RECORD
            )
        );
    }
    assert_eq!(refused(forged(Compression::None, 0, &[])).1, INVALID_RECORD);
    // Producer id 7 with sequence -1.
    assert_eq!(
        refused(changed(43, &7i64.to_be_bytes())),
        (
            InvalidBatch::Sequence {
                producer_id: 7,
                base_sequence: -1
            },
            INVALID_RECORD
        )
    );
}

#[test]
fn offset_deltas_count_up_from_zero() {
    for compression in Compression::ALL {
        let mut builder = BatchBuilder::new(BatchOptions {
            compression,
            ..BatchOptions::default()
        });
        builder.append_at(0, &RecordRef::default()).unwrap();
        builder.append_at(2, &RecordRef::default()).unwrap();
        let mut bytes = builder.build().unwrap().to_vec();
        bytes[23..27].copy_from_slice(&1i32.to_be_bytes());
        patch::recompute_crc(&mut bytes).unwrap();
        assert_eq!(
            refused(bytes.into()),
            (
                InvalidBatch::OffsetDelta {
                    index: 1,
                    offset_delta: 2
                },
                INVALID_RECORD
            )
        );
    }
}

#[test]
fn control_and_transactional_batches_need_permission() {
    for (control, transactional, expected) in [
        (true, false, (InvalidBatch::Control, INVALID_RECORD)),
        (
            false,
            true,
            (InvalidBatch::Transactional, INVALID_TXN_STATE),
        ),
    ] {
        let bytes = build(
            BatchOptions {
                control,
                transactional,
                ..BatchOptions::default()
            },
            &[b"a"],
        );
        assert_eq!(refused(bytes.clone()), expected);
        let policy = ProducePolicy {
            allow_control: control,
            allow_transactional: transactional,
            ..ProducePolicy::default()
        };
        assert!(validate_produce(bytes, &policy, NOW_MS).is_ok());
    }
}

#[test]
fn zstd_needs_a_client_that_knows_it() {
    let policy = ProducePolicy {
        allow_zstd: false,
        ..ProducePolicy::default()
    };
    let bytes = batch_of(Compression::Zstd, &[b"a"]);
    assert_eq!(
        refusal(bytes, &policy),
        (InvalidBatch::ZstdNotAllowed, UNSUPPORTED_COMPRESSION_TYPE)
    );
    assert!(validate_produce(batch_of(Compression::Lz4, &[b"a"]), &policy, NOW_MS).is_ok());
}

fn batch_with(compression: Compression, records: &[(i64, Option<&[u8]>)]) -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions {
        compression,
        ..BatchOptions::default()
    });
    for (timestamp_ms, key) in records {
        builder
            .append(&RecordRef {
                timestamp_ms: *timestamp_ms,
                key: *key,
                ..RecordRef::default()
            })
            .unwrap();
    }
    builder.build().unwrap()
}

#[test]
fn compacted_topics_want_keys_and_say_which_records_lack_them() {
    let policy = ProducePolicy {
        compacted: true,
        ..ProducePolicy::default()
    };
    for compression in Compression::ALL {
        let bytes = batch_with(
            compression,
            &[(1, Some(b"k")), (2, None), (3, Some(b"")), (4, None)],
        );
        let (error, code) = refusal(bytes.clone(), &policy);
        assert_eq!(code, INVALID_RECORD);
        let indexes: Vec<u32> = error
            .record_errors()
            .iter()
            .map(|error| error.batch_index)
            .collect();
        assert_eq!(indexes, [1, 3]);
        assert!(error.to_string().contains("2 records are refused"));
        assert!(validate_produce(bytes, &ProducePolicy::default(), NOW_MS).is_ok());
    }
}

#[test]
fn timestamps_are_bounded_on_both_sides() {
    let policy = ProducePolicy {
        timestamp_before_max_ms: 1_000,
        timestamp_after_max_ms: 200,
        ..ProducePolicy::default()
    };
    for compression in Compression::ALL {
        let good = batch_with(
            compression,
            // -1 is no timestamp, which is always accepted.
            &[(4_000, None), (5_200, None), (-1, None)],
        );
        assert!(validate_produce(good, &policy, NOW_MS).is_ok());
        let bad = batch_with(
            compression,
            &[(3_999, None), (4_000, None), (5_201, None), (-2, None)],
        );
        let (error, code) = refusal(bad.clone(), &policy);
        assert_eq!(code, INVALID_TIMESTAMP);
        let refused: Vec<_> = error.record_errors().to_vec();
        assert_eq!(
            refused.iter().map(|e| e.batch_index).collect::<Vec<_>>(),
            [0, 2, 3]
        );
        assert_eq!(
            refused[1].reason,
            RecordErrorReason::Timestamp {
                timestamp_ms: 5_201,
                min_ms: 4_000,
                max_ms: 5_200
            }
        );
        // With log append time what producers say does not matter.
        let policy = ProducePolicy {
            timestamp_type: TimestampType::LogAppendTime,
            ..policy
        };
        assert!(validate_produce(bad, &policy, NOW_MS).is_ok());
    }
    // The widest bounds take the widest timestamps.
    let policy = ProducePolicy {
        timestamp_after_max_ms: i64::MAX,
        ..ProducePolicy::default()
    };
    let bytes = batch_with(Compression::None, &[(i64::MIN, None), (i64::MAX, None)]);
    assert!(validate_produce(bytes, &policy, NOW_MS).is_ok());
}

#[test]
fn producers_do_not_set_log_append_time() {
    let bytes = build(
        BatchOptions {
            log_append_time_ms: Some(NOW_MS),
            ..BatchOptions::default()
        },
        &[b"a"],
    );
    for timestamp_type in [TimestampType::CreateTime, TimestampType::LogAppendTime] {
        let policy = ProducePolicy {
            timestamp_type,
            ..ProducePolicy::default()
        };
        let (error, code) = refusal(bytes.clone(), &policy);
        assert_eq!(code, INVALID_TIMESTAMP);
        assert_eq!(
            error.record_errors()[0].reason,
            RecordErrorReason::LogAppendTime
        );
    }
}

#[test]
fn the_list_of_refused_records_is_bounded() {
    let records = vec![(1, None); MAX_RECORD_ERRORS + 10];
    let policy = ProducePolicy {
        compacted: true,
        ..ProducePolicy::default()
    };
    let (error, _) = refusal(batch_with(Compression::None, &records), &policy);
    assert_eq!(error.record_errors().len(), MAX_RECORD_ERRORS);
    assert!(
        matches!(error, InvalidBatch::Records { total, .. } if total as usize == records.len())
    );
}
