//! What a partition at rest costs in a broker that runs: memory, descriptors and tasks.
//!
//! Counted is what is asked of the allocator, in a process of its own: other tests would count, too.

use super::{Partition, Registry};
use crate::metrics::ProcessSample;
use crate::testing::counting::live_bytes;
use crate::testing::{ELSEWHERE, HERE, Two};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tidemark_env::clock;
use tidemark_records::{Batch, BatchBuilder, BatchOptions, RecordRef};

/// So many partitions are looked at together.
const PARTITIONS: i32 = 400;

/// Bytes for each partition of a topic.
#[derive(Debug)]
struct Cost {
    /// What it owns itself.
    own: usize,
    /// What the maps of partitions and logs have of it.
    registries: usize,
    /// All that the process holds for it, the metadata included.
    all: usize,
}

/// The process at a moment at which nothing goes on: the least of what is seen in many looks, since
/// something always begins or ends in a broker.
async fn at_rest() -> (usize, u64, usize) {
    let mut least = (usize::MAX, u64::MAX, usize::MAX);
    for _ in 0..50 {
        let files = ProcessSample::take().open_files.expect("Linux tells");
        let tasks = tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks();
        least.0 = least.0.min(live_bytes());
        least.1 = least.1.min(files);
        least.2 = least.2.min(tasks);
        clock::sleep(Duration::from_millis(5)).await;
    }
    least
}

fn per_partition(before: usize, after: usize) -> usize {
    after.saturating_sub(before) / PARTITIONS as usize
}

/// A batch of one record, of this producer.
fn batch(producer_id: i64) -> Batch {
    let idempotent = producer_id >= 0;
    let mut builder = BatchBuilder::new(BatchOptions {
        producer_id,
        producer_epoch: if idempotent { 0 } else { -1 },
        base_sequence: if idempotent { 0 } else { -1 },
        ..BatchOptions::default()
    });
    let record = RecordRef {
        timestamp_ms: clock::now_ms(),
        value: Some(b"value"),
        ..RecordRef::default()
    };
    builder.append(&record).expect("a small record");
    let mut bytes = builder.build().expect("a batch");
    let batch = Batch::split_first(&mut bytes).expect("it parses");
    batch.expect("it is there")
}

/// Writes to each partition, and brings it to rest as time would.
fn use_and_rest(registry: &Registry, partitions: &[Arc<Partition>], producer_id: i64) {
    let batch = batch(producer_id);
    for partition in partitions {
        let appended = partition.append(&batch, clock::now_ms(), false);
        appended.expect("it leads").expect("it has room");
    }
    for partition in partitions {
        let touched = partition.lock().touched;
        partition.dir.wait_durable(touched).expect("a disk");
    }
    for dir in registry.log_dirs() {
        dir.write_behind(true).expect("a disk");
        dir.checkpoint(false).expect("a disk");
    }
    for partition in partitions {
        // What was appended to since the last time rests at the next one, and its files, which were
        // in use then, are closed at the one after that.
        for _ in 0..3 {
            partition.rest();
        }
    }
}

/// What partitions on these brokers cost; the last thing that is done with them.
async fn cost(two: &Two, name: &str, replicas: Vec<i32>, producer_id: i64) -> Cost {
    let registry = &two.broker.partitions;
    let (before, files, tasks) = at_rest().await;
    two.topic(name, PARTITIONS, replicas).await;
    let mut held = registry.all();
    held.retain(|partition| *partition.topic.name == *name);
    use_and_rest(registry, &held, producer_id);
    let (after, files_after, tasks_after) = at_rest().await;
    // The broker has a few of its own, which come and go.
    let few = PARTITIONS as usize / 10;
    let more_files = files_after.saturating_sub(files);
    assert!(
        more_files < few as u64,
        "a partition at rest holds no file open: {more_files}"
    );
    let more_tasks = tasks_after.saturating_sub(tasks);
    assert!(
        more_tasks < few,
        "a partition at rest has no task: {more_tasks}"
    );
    {
        let mut map = registry
            .partitions
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        map.retain(|_, partition| *partition.topic.name != *name);
        map.shrink_to_fit();
    }
    for partition in &held {
        let id = partition.with_log(|log, _| log.id()).expect("it is open");
        partition.dir.remove(id);
    }
    let removed = at_rest().await.0;
    for partition in &held {
        assert_eq!(Arc::strong_count(partition), 1, "nobody else holds it");
    }
    let list = held.capacity() * size_of::<Arc<Partition>>();
    drop(held);
    let dropped = at_rest().await.0;
    Cost {
        own: per_partition(dropped + list, removed),
        registries: per_partition(removed, after),
        all: per_partition(before + list, after),
    }
}

#[test]
fn a_partition_at_rest_is_small() {
    let alone = std::process::Command::new(std::env::current_exe().expect("a path"))
        .args(["--ignored", "--exact", "--nocapture"])
        .arg("partition::memory::in_a_process_of_its_own")
        .status();
    assert!(alone.expect("the test runs").success());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "`a_partition_at_rest_is_small` runs it"]
async fn in_a_process_of_its_own() {
    let two = Two::start(&[]).await;
    // What all partitions share is there from now on.
    cost(&two, "first", vec![HERE], -1).await;
    let elsewhere = cost(&two, "elsewhere", vec![ELSEWHERE], -1).await;
    let alone = cost(&two, "alone", vec![HERE], -1).await;
    let produced = cost(&two, "produced", vec![HERE], 7).await;
    let replicated = cost(&two, "replicated", vec![HERE, ELSEWHERE], -1).await;
    println!("bytes for each partition at rest:   its own  registries  all");
    for (what, cost) in [
        ("on another broker", &elsewhere),
        ("with one replica", &alone),
        ("with a follower", &replicated),
        ("with a known producer", &produced),
    ] {
        let Cost {
            own,
            registries,
            all,
        } = cost;
        println!("  {what:32} {own:8} {registries:11} {all:4}");
    }
    println!("  of these, the struct: {}", size_of::<Partition>());
    assert!(alone.own <= 512, "{alone:?}");
    assert!(replicated.own <= 600, "{replicated:?}");
    assert!(produced.own <= 900, "{produced:?}");
}
