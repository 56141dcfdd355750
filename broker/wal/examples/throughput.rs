//! How much a write-ahead log takes on a real directory, and what that costs.
//!
//! `cargo run --release -p tidemark-wal --example throughput -- DIR [SECONDS] [FLUSH_DELAY_US]`
//!
//! Appenders each keep some records in flight: one shows the latency of a group, many
//! the throughput. A checkpointer lets groups go as soon as they are durable.
#![allow(clippy::print_stdout, reason = "it prints what it measured")]

use std::collections::VecDeque;
use std::error::Error;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tidemark_env::disk::{Disk, FileDisk};
use tidemark_env::{clock, runtime, task};
use tidemark_wal::{
    Failure, GroupWritten, Limits, LogId, Lsn, Member, Record, RingId, Wal, WalConfig,
};

/// Holds on to payloads for a while, as a partition does until its segment is written.
#[derive(Default)]
struct Tail(Mutex<VecDeque<Bytes>>);

impl Member for Tail {
    fn durable(self: Arc<Self>, _lsn: Lsn, payload: &Bytes) {
        if let Ok(mut tail) = self.0.lock() {
            tail.push_back(payload.clone());
        }
    }
    fn failed(self: Arc<Self>, failure: &Failure) {
        println!("failed: {failure}");
    }
}

/// CPU time of this process in seconds, ended threads included.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    let ticks: u64 = after
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    ticks as f64 / 100.0
}

struct Case {
    record_bytes: usize,
    appenders: u64,
    in_flight: usize,
}

#[derive(Default)]
struct Seen {
    groups: AtomicU64,
    payload: AtomicU64,
    written: AtomicU64,
    latencies: Mutex<Vec<Duration>>,
}

fn run(dir: &str, seconds: f64, delay: Duration, case: &Case) -> Result<(), Box<dyn Error>> {
    let seen = Arc::new(Seen::default());
    let observed = Arc::clone(&seen);
    let observer = Box::new(move |group: &GroupWritten| {
        observed.groups.fetch_add(1, Ordering::Relaxed);
        observed
            .payload
            .fetch_add(group.payload_bytes as u64, Ordering::Relaxed);
        observed
            .written
            .fetch_add(group.bytes as u64, Ordering::Relaxed);
        if let Ok(mut latencies) = observed.latencies.lock() {
            latencies.push(group.write_latency);
        }
    });
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::new().with_flush_delay(delay));
    let config = WalConfig {
        max_bytes: 128 << 20,
        ..WalConfig::new(PathBuf::from(dir).join("throughput-wal"))
    };
    let wal = Wal::create(disk, config, RingId([1; 16]), 1, observer)?;
    while wal.prepare()? {}
    wal.run_writer()?;
    let tail = Arc::new(Tail::default());
    let stop = Arc::new(AtomicBool::new(false));
    let checkpointer = {
        let (wal, stop, tail) = (Arc::clone(&wal), Arc::clone(&stop), Arc::clone(&tail));
        task::thread("checkpointer", move || {
            let limits = Limits {
                memory: 0.7,
                ring: 0.5,
            };
            while !stop.load(Ordering::Relaxed) {
                wal.wait_for_pressure(limits, Duration::from_millis(100));
                let durable = wal.durable_lsn();
                if let Ok(mut tail) = tail.0.lock() {
                    tail.clear();
                }
                wal.recycle(durable);
                if let Err(error) = wal.prepare() {
                    println!("no file made ahead: {error}");
                }
            }
        })?
    };
    let (began, cpu) = (clock::monotonic(), cpu_seconds());
    let appenders: Vec<_> = (0..case.appenders)
        .map(|log| {
            let (wal, stop, tail) = (Arc::clone(&wal), Arc::clone(&stop), Arc::clone(&tail));
            let (len, in_flight) = (case.record_bytes, case.in_flight);
            task::thread("appender", move || {
                let bytes = vec![42; len];
                let mut registered = 0;
                let mut pending = VecDeque::new();
                let work = async {
                    while !stop.load(Ordering::Relaxed) {
                        wal.admit().await;
                        let record = Record::Batches {
                            base_offset: 0,
                            next_offset: 1,
                            leader_epoch: 0,
                            parts: &[&bytes],
                        };
                        let touched = |lsn| {
                            let first = registered != lsn;
                            registered = lsn;
                            first.then(|| Arc::clone(&tail) as Arc<dyn Member>)
                        };
                        let Ok(placed) = wal.append(LogId(log), &record, touched) else {
                            return;
                        };
                        pending.push_back(placed.lsn);
                        if pending.len() >= in_flight
                            && let Some(lsn) = pending.pop_front()
                            && wal.when_durable(lsn).await.is_err()
                        {
                            return;
                        }
                    }
                };
                drop(runtime::block_on(work));
            })
        })
        .collect::<Result<_, _>>()?;
    runtime::block_on(clock::sleep(Duration::from_secs_f64(seconds)))?;
    stop.store(true, Ordering::Relaxed);
    for thread in appenders {
        drop(thread.join());
    }
    let (took, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    wal.stop();
    wal.nudge();
    drop(checkpointer.join());
    let payload = seen.payload.load(Ordering::Relaxed) as f64;
    let groups = seen.groups.load(Ordering::Relaxed) as f64;
    let mut latencies = seen.latencies.lock().map_err(|_| "poisoned")?.clone();
    latencies.sort_unstable();
    let at = |share: f64| {
        let index = (latencies.len() as f64 * share) as usize;
        latencies
            .get(index.min(latencies.len().saturating_sub(1)))
            .map_or(0, Duration::as_micros)
    };
    println!(
        "{:>8} B x {:>2} appenders x {:>4} in flight: {:>7.1} MB/s {:>7.0} groups/s {:>9.0} records/s \
         {:>6.2} CPU-s/GB, write p50 {:>5} p99 {:>6} us, padded {:.2}x",
        case.record_bytes,
        case.appenders,
        case.in_flight,
        payload / took / 1e6,
        groups / took,
        payload / case.record_bytes as f64 / took,
        cpu / (payload / 1e9),
        at(0.5),
        at(0.99),
        seen.written.load(Ordering::Relaxed) as f64 / payload,
    );
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().ok_or("which directory?")?;
    let seconds = arguments.next().map_or(Ok(3.0), |text| text.parse())?;
    let delay_us = arguments.next().map_or(Ok(0), |text| text.parse())?;
    for record_bytes in [1 << 10, 16 << 10, 256 << 10] {
        for (appenders, in_flight) in [(1, 1), (2, 64), (2, 1024)] {
            let case = Case {
                record_bytes,
                appenders,
                // What is in flight stays well below the memory.
                in_flight: in_flight.min(((16 << 20) / record_bytes).max(1)),
            };
            run(&dir, seconds, Duration::from_micros(delay_us), &case)?;
        }
    }
    let made = PathBuf::from(dir).join("throughput-wal");
    FileDisk::new().remove_dir_all(&made)?;
    Ok(())
}
