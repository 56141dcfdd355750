//! Round trips of random batches through every codec.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::{only_batch, records_of};
use crate::{
    Batch, BatchBuilder, BatchOptions, Compression, HeaderRef, Limits, ProducePolicy, RecordRef,
    patch, validate_produce,
};

#[derive(Debug, Clone)]
struct Input {
    timestamp_ms: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(any::<u8>(), 0..300),
        (any::<u8>(), 0..100_000usize).prop_map(|(byte, len)| vec![byte; len]),
    ]
}

fn inputs() -> impl Strategy<Value = Vec<Input>> {
    let headers = vec(("[a-c]{0,2}", option::of(vec(any::<u8>(), 0..20))), 0..4);
    vec(
        (
            prop_oneof![0..2_000_000_000_000i64, any::<i64>()],
            option::of(vec(any::<u8>(), 0..40)),
            option::of(value()),
            headers,
        )
            .prop_map(|(timestamp_ms, key, value, headers)| Input {
                timestamp_ms,
                key,
                value,
                headers,
            }),
        1..20,
    )
}

fn build(options: BatchOptions, inputs: &[Input]) -> Bytes {
    let mut builder = BatchBuilder::new(options);
    for input in inputs {
        let headers: Vec<HeaderRef<'_>> = input
            .headers
            .iter()
            .map(|(key, value)| (key.as_bytes(), value.as_deref()))
            .collect();
        builder
            .append(&RecordRef {
                timestamp_ms: input.timestamp_ms,
                key: input.key.as_deref(),
                value: input.value.as_deref(),
                headers: &headers,
            })
            .unwrap();
    }
    builder.build().unwrap()
}

fn assert_holds(batch: &Batch, inputs: &[Input]) {
    let records = records_of(batch);
    assert_eq!(records.len(), inputs.len());
    for (index, (record, input)) in records.iter().zip(inputs).enumerate() {
        assert_eq!(record.offset, batch.header.base_offset + index as i64);
        assert_eq!(record.timestamp_ms, input.timestamp_ms);
        assert_eq!(record.key.as_deref(), input.key.as_deref());
        assert_eq!(record.value.as_deref(), input.value.as_deref());
        let headers: Vec<_> = record
            .headers
            .iter()
            .map(|h| (h.key.to_vec(), h.value.map(|v| v.to_vec())))
            .collect();
        let expected: Vec<_> = input
            .headers
            .iter()
            .map(|(key, value)| (key.as_bytes().to_vec(), value.clone()))
            .collect();
        assert_eq!(headers, expected);
    }
}

fn codec() -> impl Strategy<Value = Compression> {
    proptest::sample::select(&Compression::ALL[..])
}

fn anything_goes() -> ProducePolicy {
    ProducePolicy {
        max_message_bytes: usize::MAX,
        timestamp_after_max_ms: i64::MAX,
        ..ProducePolicy::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..Default::default() })]

    #[test]
    fn what_goes_in_comes_out(inputs in inputs(), compression in codec(), base_offset in 0..1i64 << 60) {
        let options = BatchOptions { compression, base_offset, ..BatchOptions::default() };
        let batch = only_batch(&build(options, &inputs));
        batch.verify_crc().unwrap();
        assert_holds(&batch, &inputs);
    }

    #[test]
    fn a_leader_changes_codecs_and_nothing_else(inputs in inputs(), from in codec(), to in codec()) {
        let options = BatchOptions { compression: from, ..BatchOptions::default() };
        let bytes = build(options, &inputs);
        let policy = ProducePolicy {
            compression: crate::TopicCompression::Codec { codec: to, level: None },
            ..anything_goes()
        };
        let valid = validate_produce(bytes.clone(), &policy, 0).unwrap();
        prop_assert_eq!(valid.rewritten, from != to);
        prop_assert_eq!(valid.batch.header.compression(), to);
        valid.batch.verify_crc().unwrap();
        assert_holds(&valid.batch, &inputs);
        // And back again: for uncompressed batches these are the same bytes.
        if from == Compression::None {
            let policy = ProducePolicy {
                compression: crate::TopicCompression::Codec { codec: from, level: None },
                ..anything_goes()
            };
            let back = validate_produce(valid.batch.bytes, &policy, 0).unwrap();
            prop_assert_eq!(back.batch.bytes, bytes);
        }
    }

    #[test]
    fn noise_in_the_records_never_panics(payload in vec(any::<u8>(), 0..400), compression in codec(), count in 0..50i32) {
        let mut bytes = super::forged(compression, count, &payload).to_vec();
        patch::recompute_crc(&mut bytes).unwrap();
        let bytes = Bytes::from(bytes);
        let limits = Limits { max_decompressed_bytes: 1 << 16 };
        let batch = only_batch(&bytes);
        let read = batch.records(limits).map(|records| records.collect::<Result<Vec<_>, _>>());
        let valid = validate_produce(bytes, &ProducePolicy { limits, ..anything_goes() }, 0);
        // The walk and the iterator agree on what can be read.
        if valid.is_ok() {
            prop_assert!(matches!(read, Ok(Ok(_))));
        }
    }

    #[test]
    fn noise_as_a_batch_never_panics(bytes in vec(any::<u8>(), 0..200)) {
        let mut bytes = Bytes::from(bytes);
        prop_assert!(validate_produce(bytes.clone(), &anything_goes(), 0).is_err());
        while let Ok(Some(batch)) = Batch::split_first(&mut bytes) {
            prop_assert!(batch.bytes.len() >= 61);
        }
    }
}
