//! The controller at 1,000 brokers and 1,000,000 partitions of three replicas: what the
//! failure of a broker costs, and how long a snapshot takes.
//!
//! `cargo run --release -p tidemark-quorum --example controller_scale`
//!
//! Broker 0 leads 10,000 partitions and follows 20,000, in 10,000 topics: no two leaders of
//! it stand together. Bars: its failure decided and folded in 100 ms, 512 MiB resident, a
//! snapshot loaded in 3 s. The first failure meets cold caches and memory that the process
//! has never touched; it costs up to twice the others.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a measurement")]
#![allow(
    clippy::disallowed_methods,
    reason = "/proc tells what memory is resident"
)]

use std::collections::BTreeMap;

use tidemark_env::clock::monotonic;
use tidemark_model::{
    BrokerId, Endpoint, Image, MetadataRecord, Partition, TopicId, decode_batch, decode_snapshot,
    encode_batch,
};
use tidemark_quorum::decide::{Context, fence_brokers, rebalance_leaders};
use tidemark_wire::Uuid;

/// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BROKERS: i32 = 1000;
const TOPICS: u32 = 10_000;
const PARTITIONS_PER_TOPIC: u32 = 100;

fn main() {
    let started = monotonic();
    let image = build();
    println!("built in {} ms", started.elapsed().as_millis());
    let leads = |image: &Image, id: BrokerId| {
        let held = image.partitions_on(id);
        held.filter(|(_, state)| state.leader == id).count()
    };
    println!(
        "broker 0 leads {} and holds {}; resident {} MiB",
        leads(&image, 0),
        image.replica_count(0),
        resident_mib("VmRSS")
    );

    let fixed = BTreeMap::new();
    let context = Context {
        broker_id: 1,
        fixed: &fixed,
    };
    for round in 0..10 {
        let started = monotonic();
        let records = fence_brokers(&image, context, &[0]);
        let decided = started.elapsed();
        let after = image.apply(&records).unwrap();
        let folded = started.elapsed();
        assert_eq!(leads(&after, 0), 0);
        let bytes = encode_batch(&records).len();
        let started = monotonic();
        let received = decode_batch(&encode_batch(&records)).unwrap();
        let coded = started.elapsed();
        assert_eq!(received.len(), records.len());
        println!(
            "failure {round}: {} records, {bytes} bytes: decided in {:.1} ms, folded in {:.1} ms, together {:.1} ms; encoded and decoded in {:.1} ms",
            records.len(),
            decided.as_secs_f64() * 1e3,
            (folded - decided).as_secs_f64() * 1e3,
            folded.as_secs_f64() * 1e3,
            coded.as_secs_f64() * 1e3,
        );
    }
    println!("resident {} MiB", resident_mib("VmRSS"));

    let started = monotonic();
    let unneeded = rebalance_leaders(&image, context, 10, 1000);
    println!(
        "rebalance of a settled cluster in {:.1} ms, {} records",
        started.elapsed().as_secs_f64() * 1e3,
        unneeded.records.len()
    );

    let started = monotonic();
    let bytes = image.encode_snapshot();
    println!(
        "snapshot of {} MiB encoded in {} ms; resident {} MiB",
        bytes.len() >> 20,
        started.elapsed().as_millis(),
        resident_mib("VmRSS")
    );
    let index = image.index();
    drop(image);
    let started = monotonic();
    let loaded = decode_snapshot(index, &bytes).unwrap();
    println!(
        "snapshot loaded in {} ms; resident {} MiB, at most {} MiB so far",
        started.elapsed().as_millis(),
        resident_mib("VmRSS"),
        resident_mib("VmHWM")
    );
    assert_eq!(loaded.topic_count(), TOPICS as usize);
}

fn build() -> Image {
    let mut image = Image::default();
    let registered: Vec<MetadataRecord> = (0..BROKERS).map(register).collect();
    image = image.apply(&registered).unwrap();
    for topic in 0..TOPICS {
        let topic_id = id_of(topic);
        let mut batch = vec![MetadataRecord::TopicCreated {
            topic_id,
            name: format!("topic-{topic}"),
        }];
        for partition in 0..PARTITIONS_PER_TOPIC {
            let n = topic * PARTITIONS_PER_TOPIC + partition;
            let replicas = replicas_of(n);
            batch.push(MetadataRecord::PartitionCreated {
                topic_id,
                partition: i32::try_from(partition).unwrap(),
                state: Partition {
                    isr: replicas.clone(),
                    leader: replicas[0],
                    replicas,
                    ..Partition::default()
                },
            });
        }
        image = image.apply(&batch).unwrap();
    }
    image
}

fn register(broker_id: BrokerId) -> MetadataRecord {
    MetadataRecord::BrokerRegistered {
        broker_id,
        incarnation_id: id_of(1_000_000 + broker_id.unsigned_abs()),
        broker_epoch: 1,
        previous_epoch: None,
        directories: vec![id_of(2_000_000 + broker_id.unsigned_abs())],
        endpoints: vec![Endpoint {
            name: "PLAINTEXT".into(),
            host: format!("broker-{broker_id}.brokers.example"),
            port: 9092,
            security_protocol: 0,
        }],
        rack: Some(format!("rack-{}", broker_id % 10)),
        fenced: false,
        logs_lost: false,
        features: Vec::new(),
        restored: None,
    }
}

/// Topic ids are random in life: mixed, so that their order is not that of creation.
fn id_of(n: u32) -> TopicId {
    let mut z = u64::from(n).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let mut id = [1; 16];
    id[..8].copy_from_slice(&(z ^ (z >> 31)).to_be_bytes());
    id[8..12].copy_from_slice(&n.to_be_bytes());
    Uuid(id)
}

fn replicas_of(n: u32) -> Vec<BrokerId> {
    let others = BROKERS.unsigned_abs() - 1;
    // Three different brokers other than 0.
    let at = |k: u32| {
        let step = 1 + (n / others) % 300;
        i32::try_from((n + k * step) % others).unwrap() + 1
    };
    match n % 100 {
        0 => vec![0, at(0), at(1)],
        1 | 51 => vec![at(0), 0, at(1)],
        _ => vec![at(0), at(1), at(2)],
    }
}

fn resident_mib(field: &str) -> u64 {
    let status = std::fs::read("/proc/self/status").unwrap_or_default();
    let status = String::from_utf8_lossy(&status);
    let line = status.lines().find(|line| line.starts_with(field));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) >> 10
}
