//! A reduced log says of every key what the whole log says, and has no gaps.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use crate::compact::{Newest, ReduceError, Reducer};
use crate::{Batch, BatchBuilder, BatchOptions, Compression, Limits, RecordRef};

type Entry = (Option<u8>, Option<u8>);

/// Batches of records (key, value) from offset `from` on.
fn log(from: i64, batches: &[Vec<Entry>], compression: Compression) -> Vec<Batch> {
    let mut base_offset = from;
    let mut all = Vec::new();
    for (epoch, records) in (3..).zip(batches) {
        let mut builder = BatchBuilder::new(BatchOptions {
            compression,
            base_offset,
            partition_leader_epoch: epoch,
            producer_id: 7,
            producer_epoch: 0,
            base_sequence: 0,
            ..BatchOptions::default()
        });
        for (key, value) in records {
            let (key, value) = (key.map(|k| [k]), value.map(|v| [v]));
            let record = RecordRef {
                timestamp_ms: 1_000 + base_offset,
                key: key.as_ref().map(|k| &k[..]),
                value: value.as_ref().map(|v| &v[..]),
                headers: &[(b"h", Some(b"x"))],
            };
            builder.append(&record).unwrap();
        }
        let mut bytes = builder.build().unwrap();
        let batch = Batch::split_first(&mut bytes).unwrap().unwrap();
        base_offset = batch.header.next_offset();
        all.push(batch);
    }
    all
}

fn reduced(from: i64, log: &[Batch]) -> Vec<Batch> {
    let mut newest = Newest::default();
    for batch in log {
        newest.note(batch, Limits::default()).unwrap();
    }
    let mut reducer = Reducer::new(&newest, from, Limits::default());
    let mut out = Vec::new();
    for batch in log {
        reducer.reduce(batch, &mut out, |_| None).unwrap();
    }
    reducer.finish(&mut out);
    let mut out = Bytes::from(out);
    std::iter::from_fn(|| Batch::split_first(&mut out).unwrap()).collect()
}

/// The offset, the value and the timestamp of each key's last record.
fn state(from: i64, log: &[Batch]) -> BTreeMap<Bytes, (i64, Option<Bytes>, i64, usize)> {
    let mut state = BTreeMap::new();
    for batch in log {
        batch.verify_crc().unwrap();
        for record in batch.records(Limits::default()).unwrap() {
            let record = record.unwrap();
            if let Some(key) = record.key.filter(|_| record.offset >= from) {
                let headers = record.headers.len();
                let said = (record.offset, record.value, record.timestamp_ms, headers);
                state.insert(key, said);
            }
        }
    }
    state
}

fn count(log: &[Batch]) -> usize {
    let counts = log.iter().map(|batch| batch.header.record_count as usize);
    counts.sum()
}

proptest! {
    #[test]
    fn it_says_the_same_of_every_key_and_has_no_gaps(
        batches in prop::collection::vec(
            prop::collection::vec((prop::option::weighted(0.9, 0..6u8), prop::option::of(0..9u8)), 1..6),
            1..12,
        ),
        skipped in 0..3i64,
        lz4: bool,
    ) {
        let compression = if lz4 { Compression::Lz4 } else { Compression::None };
        let whole = log(100, &batches, compression);
        // A log may begin inside of its first batch.
        let from = 100 + skipped.min(i64::from(whole[0].header.last_offset_delta));
        let less = reduced(from, &whole);
        prop_assert_eq!(state(from, &less), state(from, &whole));
        prop_assert_eq!(count(&less), state(from, &whole).len());
        let mut next = from;
        for batch in &less {
            prop_assert_eq!(batch.header.base_offset, next);
            prop_assert!(!batch.header.has_producer_id());
            next = batch.header.next_offset();
        }
        prop_assert_eq!(next, whole.last().unwrap().header.next_offset());
        // Once more changes nothing.
        prop_assert_eq!(reduced(from, &less), less);
    }
}

#[test]
fn values_can_be_changed_on_the_way() {
    let whole = log(
        0,
        &[vec![(Some(1), Some(1)), (Some(2), Some(2))]],
        Compression::None,
    );
    let mut newest = Newest::default();
    newest.note(&whole[0], Limits::default()).unwrap();
    assert_eq!(newest.keys(), 2);
    let mut out = Vec::new();
    let mut reducer = Reducer::new(&newest, 0, Limits::default());
    let change =
        |record: &crate::Record| (record.offset == 1).then(|| Some(Bytes::from_static(b"new")));
    reducer.reduce(&whole[0], &mut out, change).unwrap();
    let mut out = Bytes::from(out);
    let batch = Batch::split_first(&mut out).unwrap().unwrap();
    let values = batch.records(Limits::default()).unwrap();
    let values: Vec<_> = values.map(|r| r.unwrap().value.unwrap()).collect();
    assert_eq!(
        values,
        [Bytes::from_static(&[1]), Bytes::from_static(b"new")]
    );
    assert_eq!(batch.header.partition_leader_epoch, 3);
}

#[test]
fn what_may_have_been_aborted_stays_and_makes_nothing_void() {
    let mut whole = log(0, &[vec![(Some(1), Some(1))]], Compression::None);
    let mut builder = BatchBuilder::new(BatchOptions {
        base_offset: 1,
        partition_leader_epoch: 3,
        producer_id: 9,
        producer_epoch: 0,
        base_sequence: 0,
        transactional: true,
        ..BatchOptions::default()
    });
    let record = RecordRef {
        key: Some(&[1]),
        value: Some(&[2]),
        ..RecordRef::default()
    };
    builder.append(&record).unwrap();
    let mut bytes = builder.build().unwrap();
    whole.push(Batch::split_first(&mut bytes).unwrap().unwrap());
    let less = reduced(0, &whole);
    assert_eq!(count(&less), 2);
    assert_eq!(less[1], whole[1]);
}

#[test]
fn a_gap_that_a_batch_cannot_span_is_filled() {
    let far = i64::from(i32::MAX) + 10;
    let mut whole = log(0, &[vec![(Some(1), Some(1))]], Compression::None);
    whole.extend(log(far, &[vec![(Some(1), Some(2))]], Compression::None));
    let less = reduced(0, &whole);
    assert_eq!(count(&less), 1);
    let ends: Vec<i64> = less
        .iter()
        .map(|batch| batch.header.next_offset())
        .collect();
    assert_eq!(*ends.last().unwrap(), far + 1);
    assert_eq!(less[0].header.base_offset, 0);
    for pair in less.windows(2) {
        assert_eq!(pair[0].header.next_offset(), pair[1].header.base_offset);
    }
}

#[test]
fn batches_out_of_order_are_refused() {
    let whole = log(5, &[vec![(Some(1), Some(1))]], Compression::None);
    let newest = Newest::default();
    let mut reducer = Reducer::new(&newest, 0, Limits::default());
    let mut out = Vec::new();
    reducer.reduce(&whole[0], &mut out, |_| None).unwrap();
    let again = reducer.reduce(&whole[0], &mut out, |_| None);
    assert!(
        matches!(again, Err(ReduceError::Overlap { .. })),
        "{again:?}"
    );
}
