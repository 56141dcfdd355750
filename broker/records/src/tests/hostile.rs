//! Input that lies: errors, never panics, never more memory than it is worth.

use bytes::Bytes;

use super::{batch_of, forged, golden, only_batch};
use crate::compress::compress;
use crate::{
    Batch, BatchError, Compression, InvalidBatch, Limits, ProducePolicy, patch, validate_produce,
};

fn records_error(bytes: &Bytes) -> BatchError {
    let batch = only_batch(bytes);
    match batch.records(Limits::default()) {
        Err(error) => error,
        Ok(records) => records
            .filter_map(Result::err)
            .next()
            .expect("some record is malformed"),
    }
}

#[test]
fn old_formats_and_impossible_headers_have_their_errors() {
    let valid = batch_of(Compression::None, &[b"v"]).to_vec();
    let with = |at: usize, bytes: &[u8]| {
        let mut out = valid.clone();
        out[at..at + bytes.len()].copy_from_slice(bytes);
        Batch::split_first(&mut Bytes::from(out)).unwrap_err()
    };
    for magic in [0, 1, 3, -1] {
        assert_eq!(
            with(16, &[magic as u8]),
            BatchError::UnsupportedMagic { magic }
        );
    }
    for length in [i32::MIN, -1, 0, 48] {
        assert_eq!(
            with(8, &length.to_be_bytes()),
            BatchError::InvalidLength { length }
        );
    }
    assert_eq!(
        with(8, &i32::MAX.to_be_bytes()),
        BatchError::Truncated {
            needed_bytes: 12 + i32::MAX as usize,
            available_bytes: valid.len()
        }
    );
    for id in 5..=7 {
        assert_eq!(with(22, &[id]), BatchError::UnknownCompression { id });
    }
    assert!(matches!(
        with(23, &(-1i32).to_be_bytes()),
        BatchError::Negative { .. }
    ));
    assert!(matches!(
        with(57, &i32::MIN.to_be_bytes()),
        BatchError::Negative { .. }
    ));
}

#[test]
fn malformed_records_say_which_and_why() {
    let cases: [(&[u8], &str); 9] = [
        (&[], "cut off"),
        // Length 10, nothing there.
        (&[20], "cut off"),
        // Negative length.
        (&[1], "length is negative"),
        // Six-byte varint.
        (&[0x80, 0x80, 0x80, 0x80, 0x80, 0x00], "too long"),
        // Key longer than the record.
        (&[12, 0, 0, 0, 80, 1, 0], "cut off"),
        // One byte more than the contents.
        (&[14, 0, 0, 0, 1, 1, 0, 9], "larger than its contents"),
        // Header count -1.
        (&[12, 0, 0, 0, 1, 1, 1], "number of headers is negative"),
        // Two billion headers in no bytes.
        (
            &[20, 0, 0, 0, 1, 1, 0xfe, 0xff, 0xff, 0xff, 0x0f],
            "cut off",
        ),
        // A null header key.
        (&[16, 0, 0, 0, 1, 1, 2, 1, 1], "header key is null"),
    ];
    for (payload, expected) in cases {
        let batch = forged(Compression::None, 1, payload);
        let BatchError::MalformedRecord { index: 0, reason } = records_error(&batch) else {
            panic!("{payload:?}");
        };
        assert!(reason.contains(expected), "{payload:?}: {reason}");
        let InvalidBatch::Unreadable(error) =
            validate_produce(batch, &ProducePolicy::default(), 0).unwrap_err()
        else {
            panic!("{payload:?}");
        };
        assert_eq!(error, BatchError::MalformedRecord { index: 0, reason });
        // The walk through a decompressor finds the same.
        for codec in [Compression::Gzip, Compression::Snappy, Compression::Zstd] {
            let compressed = compress(codec, None, payload).unwrap();
            let batch = forged(codec, 1, &compressed);
            assert_eq!(
                validate_produce(batch, &ProducePolicy::default(), 0).unwrap_err(),
                InvalidBatch::Unreadable(BatchError::MalformedRecord { index: 0, reason })
            );
        }
    }
}

#[test]
fn bytes_after_the_last_record_are_an_error() {
    let two = batch_of(Compression::None, &[b"a", b"b"]);
    for codec in Compression::ALL {
        let payload = compress(codec, None, &two[61..]).unwrap();
        let batch = forged(codec, 1, &payload);
        assert_eq!(
            records_error(&batch),
            BatchError::TrailingBytes { count: 1 }
        );
        assert_eq!(
            validate_produce(batch, &ProducePolicy::default(), 0).unwrap_err(),
            InvalidBatch::Unreadable(BatchError::TrailingBytes { count: 1 })
        );
        let batch = forged(codec, 3, &payload);
        assert!(matches!(
            validate_produce(batch, &ProducePolicy::default(), 0).unwrap_err(),
            InvalidBatch::Unreadable(BatchError::MalformedRecord { index: 2, .. })
        ));
    }
}

#[test]
fn any_changed_byte_is_detected_unless_it_is_not_the_producers() {
    for golden in golden() {
        // One byte in seven of the long ones is as good as all.
        let step = if golden.bytes.len() > 1_000 { 7 } else { 1 };
        for at in (0..golden.bytes.len()).step_by(step) {
            let mut bytes = golden.bytes.to_vec();
            bytes[at] ^= 1 << (at % 8);
            let detected = match Batch::split_first(&mut Bytes::from(bytes)) {
                Err(_) => true,
                Ok(batch) => batch.is_none_or(|batch| batch.verify_crc().is_err()),
            };
            // Base offset and leader epoch are the leader's and outside the CRC.
            let harmless = at < 8 || (12..16).contains(&at);
            assert_eq!(detected, !harmless, "{} byte {at}", golden.name);
        }
    }
}

#[test]
fn any_changed_byte_under_a_new_crc_is_survived() {
    let policy = ProducePolicy {
        allow_transactional: true,
        limits: Limits {
            max_decompressed_bytes: 1 << 20,
        },
        ..ProducePolicy::default()
    };
    for golden in golden() {
        if golden.bytes.len() > 1_000 {
            continue;
        }
        for at in 16..golden.bytes.len() {
            let mut bytes = golden.bytes.to_vec();
            bytes[at] = bytes[at].wrapping_add(1 + (at as u8 & 0x7f));
            patch::set_base_offset(&mut bytes, 0).unwrap();
            patch::recompute_crc(&mut bytes).unwrap();
            let bytes = Bytes::from(bytes);
            // What a leader accepts, a consumer can read.
            if let Ok(valid) = validate_produce(bytes, &policy, 1_700_000_000_000) {
                let records = valid.batch.records(policy.limits).unwrap();
                let count = records.map(Result::unwrap).count();
                assert_eq!(count, valid.batch.header.record_count as usize);
            }
        }
    }
}

fn bomb(codec: Compression, bytes: usize) -> Bytes {
    let value = vec![0; bytes];
    batch_of(codec, &[&value])
}

#[test]
fn bombs_are_errors_at_the_limit_and_fine_below() {
    const SIZE: usize = 4 << 20;
    for codec in Compression::ALL {
        if codec == Compression::None {
            continue;
        }
        let bytes = bomb(codec, SIZE);
        assert!(bytes.len() < SIZE / 15, "{codec}: {}", bytes.len());
        let batch = only_batch(&bytes);
        let plain = batch.records(Limits::default()).unwrap().payload().len();
        for (limit, fits) in [(1_000, false), (plain - 1, false), (plain, true)] {
            let limits = Limits {
                max_decompressed_bytes: limit,
            };
            assert_eq!(batch.records(limits).is_ok(), fits, "{codec} {limit}");
            let policy = ProducePolicy {
                limits,
                ..ProducePolicy::default()
            };
            let result = validate_produce(bytes.clone(), &policy, 5_000);
            assert_eq!(result.is_ok(), fits, "{codec} {limit}");
            if !fits {
                let too_large = BatchError::DecompressedTooLarge { limit_bytes: limit };
                assert_eq!(batch.records(limits).unwrap_err(), too_large);
                assert_eq!(result.unwrap_err(), InvalidBatch::Unreadable(too_large));
            }
        }
    }
}

#[test]
fn a_snappy_block_may_not_claim_more_than_it_can_hold() {
    // Length 2^32 - 1 in five bytes, then one literal.
    let block = [0xff, 0xff, 0xff, 0xff, 0x0f, 0x00, 0x41];
    let error = records_error(&forged(Compression::Snappy, 1, &block));
    assert!(error.to_string().contains("claims more bytes"), "{error}");
}

#[test]
fn a_zstd_window_beyond_the_limit_is_refused() {
    // A frame header with a window of 2^26 bytes and one empty raw block.
    let frame = [
        0x28,
        0xb5,
        0x2f,
        0xfd,
        0x00,
        (26 - 10) << 3,
        0x01,
        0x00,
        0x00,
    ];
    let batch = only_batch(&forged(Compression::Zstd, 1, &frame));
    let error = batch
        .records(Limits {
            max_decompressed_bytes: 1 << 20,
        })
        .unwrap_err();
    assert!(error.to_string().contains("emory"), "{error}");
    // Under a limit that large it is an empty stream.
    assert!(batch.records(Limits::default()).is_ok());
}
