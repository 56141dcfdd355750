use super::*;

fn accumulator(batch_bytes: usize, linger_ms: i64) -> Accumulator<u32> {
    Accumulator::new(Limits {
        batch_bytes,
        linger_ms,
        buffer_bytes: 10_000,
        delivery_timeout_ms: 1_000,
    })
}

fn record(id: u32, value_bytes: usize) -> Queued<u32> {
    Queued {
        timestamp_ms: 0,
        key: None,
        value: Some(Bytes::from(vec![b'x'; value_bytes])),
        headers: Vec::new(),
        waiter: id,
    }
}

fn to(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

fn stamp(base_sequence: i32) -> Stamp {
    Stamp {
        producer_id: 7,
        producer_epoch: 0,
        base_sequence,
    }
}

fn ids(batch: &Batch<u32>) -> Vec<u32> {
    batch.records.iter().map(|r| r.waiter).collect()
}

#[test]
fn a_batch_lingers_until_its_time() {
    let mut accumulator = accumulator(1_000, 5);
    assert!(!accumulator.append(&to(0), record(1, 10), 100));
    assert!(!accumulator.append(&to(0), record(2, 10), 102));
    assert_eq!(accumulator.ready(104), []);
    assert_eq!(accumulator.next_ready_ms(), Some(105));
    assert_eq!(accumulator.ready(105), [to(0)]);
    assert_eq!(ids(&accumulator.take(&to(0)).unwrap()), [1, 2]);
}

#[test]
fn a_full_batch_does_not_linger() {
    let mut accumulator = accumulator(200, 1_000);
    assert!(!accumulator.append(&to(0), record(1, 80), 0));
    assert!(accumulator.append(&to(0), record(2, 80), 0));
    assert_eq!(accumulator.ready(0), [to(0)]);
    assert_eq!(ids(&accumulator.take(&to(0)).unwrap()), [1]);
}

#[test]
fn one_batch_of_a_partition_travels_at_a_time() {
    let mut accumulator = accumulator(100, 0);
    accumulator.append(&to(0), record(1, 80), 0);
    accumulator.append(&to(0), record(2, 80), 0);
    accumulator.append(&to(1), record(3, 80), 0);
    assert_eq!(accumulator.ready(0), [to(0), to(1)]);
    let first = accumulator.take(&to(0)).unwrap();
    assert!(accumulator.take(&to(0)).is_none());
    assert_eq!(accumulator.ready(0), [to(1)]);
    accumulator.finish(&first);
    assert_eq!(accumulator.ready(0), [to(0), to(1)]);
    assert_eq!(ids(&accumulator.take(&to(0)).unwrap()), [2]);
}

#[test]
fn a_retry_comes_before_what_was_added_later() {
    let mut accumulator = accumulator(100, 0);
    accumulator.append(&to(0), record(1, 80), 0);
    accumulator.append(&to(0), record(2, 80), 0);
    let mut first = accumulator.take(&to(0)).unwrap();
    first.attempts = 1;
    first.stamp = Some(stamp(0));
    accumulator.retry(first, 50);
    assert_eq!(accumulator.ready(49), []);
    assert!(accumulator.has_unsettled());
    assert_eq!(accumulator.ready(50), [to(0)]);
    let again = accumulator.take(&to(0)).unwrap();
    assert_eq!(ids(&again), [1]);
    accumulator.finish(&again);
    assert!(!accumulator.has_unsettled());
}

#[test]
fn records_never_join_a_batch_that_was_sent() {
    let mut accumulator = accumulator(1_000, 0);
    accumulator.append(&to(0), record(1, 10), 0);
    let first = accumulator.take(&to(0)).unwrap();
    accumulator.retry(first, 0);
    accumulator.append(&to(0), record(2, 10), 0);
    assert_eq!(ids(&accumulator.take(&to(0)).unwrap()), [1]);
}

#[test]
fn a_split_keeps_order_and_sequences() {
    let mut accumulator = accumulator(10_000, 0);
    for id in 0..5 {
        accumulator.append(&to(0), record(id, 10), 0);
    }
    let mut batch = accumulator.take(&to(0)).unwrap();
    batch.stamp = Some(stamp(i32::MAX));
    accumulator.append(&to(0), record(5, 10), 0);
    assert!(accumulator.split(batch).is_none());
    let first = accumulator.take(&to(0)).unwrap();
    assert_eq!(ids(&first), [0, 1]);
    assert_eq!(first.stamp.unwrap().base_sequence, i32::MAX);
    accumulator.finish(&first);
    let second = accumulator.take(&to(0)).unwrap();
    assert_eq!(ids(&second), [2, 3, 4]);
    assert_eq!(second.stamp.unwrap().base_sequence, 1);
    accumulator.finish(&second);
    let rest = accumulator.take(&to(0)).unwrap();
    assert_eq!(ids(&rest), [5]);
    let rest = accumulator.split(rest).unwrap();
    accumulator.finish(&rest);
    assert!(accumulator.is_empty());
    assert_eq!(accumulator.buffered_bytes, 0);
}

#[test]
fn the_buffer_is_bounded_but_takes_one_large_record() {
    let mut accumulator = accumulator(1_000, 0);
    assert!(accumulator.has_room(1_000_000));
    accumulator.append(&to(0), record(1, 9_000), 0);
    assert!(!accumulator.has_room(2_000));
    let batch = accumulator.take(&to(0)).unwrap();
    assert!(!accumulator.has_room(2_000));
    accumulator.finish(&batch);
    assert!(accumulator.has_room(2_000));
}

#[test]
fn old_batches_expire_unless_they_travel() {
    let mut accumulator = accumulator(100, 0);
    accumulator.append(&to(0), record(1, 80), 0);
    accumulator.append(&to(0), record(2, 80), 500);
    accumulator.append(&to(1), record(3, 80), 0);
    let travelling = accumulator.take(&to(1)).unwrap();
    let expired = accumulator.expired(1_001);
    assert_eq!(expired.iter().flat_map(ids).collect::<Vec<_>>(), [1]);
    accumulator.finish(&travelling);
    assert_eq!(accumulator.drain().len(), 1);
    assert!(accumulator.is_empty());
    assert_eq!(accumulator.buffered_bytes, 0);
}

#[test]
fn flushing_ends_lingering() {
    let mut accumulator = accumulator(1_000, 60_000);
    accumulator.append(&to(0), record(1, 10), 0);
    assert_eq!(accumulator.ready(0), []);
    accumulator.set_flushing(true);
    assert_eq!(accumulator.ready(0), [to(0)]);
}

#[test]
fn the_half_behind_a_refused_one_is_stamped_anew() {
    let mut accumulator = accumulator(10_000, 0);
    accumulator.append(&to(0), record(0, 10), 0);
    accumulator.append(&to(0), record(1, 10), 0);
    let mut batch = accumulator.take(&to(0)).unwrap();
    batch.stamp = Some(stamp(4));
    assert!(accumulator.split(batch).is_none());
    let refused = accumulator.take(&to(0)).unwrap();
    accumulator.finish(&refused);
    accumulator.unstamp(&to(0));
    assert!(!accumulator.has_unsettled());
    assert_eq!(accumulator.take(&to(0)).unwrap().stamp, None);
}
