//! Flushes to the device: how long one takes here, and how many a broker asks for.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::failure::{Result, while_doing};
use crate::stats::percentile;

/// Latency of an append of 4 KiB and an fdatasync.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct FlushLatency {
    /// Median in microseconds.
    pub p50_us: f64,
    /// 99th percentile in microseconds.
    pub p99_us: f64,
    /// Flushes measured.
    pub samples: usize,
}

/// Measures the device under `dir`: at most 500 flushes and at most three seconds.
pub fn measure_latency(dir: &Path) -> Result<FlushLatency> {
    let path = dir.join(format!("flush-probe-{}", std::process::id()));
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .open(&path)
        .map_err(while_doing("opening a probe file"))?;
    let block = [0x5a_u8; 4096];
    let end = Instant::now() + Duration::from_secs(3);
    let mut micros = Vec::new();
    while micros.len() < 500 && Instant::now() < end {
        let start = Instant::now();
        file.write_all(&block)
            .and_then(|()| file.sync_data())
            .map_err(while_doing("flushing a probe file"))?;
        micros.push(start.elapsed().as_secs_f64() * 1e6);
    }
    drop(file);
    fs::remove_file(&path).map_err(while_doing("removing a probe file"))?;
    Ok(FlushLatency {
        p50_us: percentile(&mut micros, 0.5).unwrap_or_default(),
        p99_us: percentile(&mut micros, 0.99).unwrap_or_default(),
        samples: micros.len(),
    })
}

/// System calls that put data on the device, counted in the kernel by `perf stat`.
const EVENTS: [&str; 4] = [
    "syscalls:sys_enter_fsync",
    "syscalls:sys_enter_fdatasync",
    // RWF_DSYNC: a write that is flushed before it returns.
    "syscalls:sys_enter_pwritev2",
    "syscalls:sys_enter_syncfs",
];

/// Histograms of ours whose counts are durable writes; the first one on the page is taken.
const METRICS: [&str; 2] = [
    "tidemark_wal_fsync_duration_seconds_count",
    "tidemark_fsync_duration_seconds_count",
];

/// Flushes that a broker asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Flushes {
    /// `fsync` calls.
    pub fsync: u64,
    /// `fdatasync` calls.
    pub fdatasync: u64,
    /// `pwritev2` calls with `RWF_DSYNC`.
    pub dsync: u64,
    /// `syncfs` calls: whole file systems, written behind; not what an acknowledgement waits for.
    pub syncfs: u64,
    /// Durable writes by the broker's own count, when the kernel's cannot be had.
    pub by_metric: Option<u64>,
}

impl Flushes {
    /// Both together.
    pub fn and(self, other: Flushes) -> Flushes {
        let either = |a: Option<u64>, b: Option<u64>| match (a, b) {
            (None, None) => None,
            (a, b) => Some(a.unwrap_or_default() + b.unwrap_or_default()),
        };
        Flushes {
            fsync: self.fsync + other.fsync,
            fdatasync: self.fdatasync + other.fdatasync,
            dsync: self.dsync + other.dsync,
            syncfs: self.syncfs + other.syncfs,
            by_metric: either(self.by_metric, other.by_metric),
        }
    }

    /// Those that an acknowledgement may rest on.
    pub fn durable(&self) -> u64 {
        self.by_metric
            .unwrap_or(self.fsync + self.fdatasync + self.dsync)
    }
}

/// Counts the flushes of one process while it is alive.
pub enum Counter {
    /// By `perf stat`.
    Perf {
        /// The counting process.
        perf: Child,
        /// Where it writes.
        output: PathBuf,
    },
    /// By the broker's own metric.
    Metric {
        /// `host:port` of its HTTP listener.
        address: String,
        /// The count at the beginning.
        before: u64,
    },
}

impl Counter {
    /// Begins to count. Without `perf`, tracefs or rights the broker's own metric is read, if
    /// it has one; `None` when nothing can be counted.
    pub fn start(pid: u32, dir: &Path, metrics: Option<String>) -> Option<Counter> {
        Counter::perf(pid, dir).or_else(|| {
            let address = metrics?;
            let before = scrape(&address)?;
            Some(Counter::Metric { address, before })
        })
    }

    fn perf(pid: u32, dir: &Path) -> Option<Counter> {
        let output = dir.join(format!("flushes-{pid}"));
        let mut command = Command::new("perf");
        command.args(["stat", "-x", ",", "-o"]).arg(&output);
        for event in EVENTS {
            command.args(["-e", event]);
            if event.ends_with("pwritev2") {
                command.args(["--filter", "flags & 2"]);
            }
        }
        command
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut perf = command.spawn().ok()?;
        // perf says nowhere that it has attached; it does so within milliseconds.
        std::thread::sleep(Duration::from_millis(200));
        match perf.try_wait() {
            Ok(None) => Some(Counter::Perf { perf, output }),
            _ => None,
        }
    }

    /// Ends the count and returns it.
    pub fn stop(mut self) -> Option<Flushes> {
        match &mut self {
            Counter::Perf { perf, output } => {
                let pid = rustix::process::Pid::from_child(perf);
                rustix::process::kill_process(pid, rustix::process::Signal::INT).ok()?;
                for _ in 0..250 {
                    if !matches!(perf.try_wait(), Ok(None)) {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
                let text = fs::read_to_string(&*output).ok();
                fs::remove_file(output).unwrap_or_default();
                parse_perf(&text?)
            }
            Counter::Metric { address, before } => Some(Flushes {
                by_metric: Some(scrape(address)?.saturating_sub(*before)),
                ..Flushes::default()
            }),
        }
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        if let Counter::Perf { perf, .. } = self {
            // Gone already after a proper stop.
            perf.kill().unwrap_or_default();
            perf.wait().ok();
        }
    }
}

/// Reads `perf stat -x ,` output; `None` unless every event was counted.
pub fn parse_perf(text: &str) -> Option<Flushes> {
    let count = |event: &str| -> Option<u64> {
        let line = text.lines().find(|l| l.split(',').any(|f| f == event))?;
        line.split(',').next()?.trim().parse().ok()
    };
    Some(Flushes {
        fsync: count(EVENTS[0])?,
        fdatasync: count(EVENTS[1])?,
        dsync: count(EVENTS[2])?,
        syncfs: count(EVENTS[3])?,
        by_metric: None,
    })
}

/// The count of durable writes on a page of metrics.
pub fn parse_metrics(page: &str) -> Option<u64> {
    METRICS.iter().find_map(|name| {
        page.lines().find_map(|line| {
            let value = line.strip_prefix(name)?;
            // Labels, if there are any, end at a bracket.
            let value = value.rsplit('}').next()?.trim();
            value.parse::<f64>().ok().map(|v| v as u64)
        })
    })
}

fn scrape(address: &str) -> Option<u64> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut page = String::new();
    stream.read_to_string(&mut page).ok()?;
    parse_metrics(&page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perf_counts_by_call() {
        let text = "# started on Sun\n\n3,,syscalls:sys_enter_fsync,1,100.00,,\n\
                    4,,syscalls:sys_enter_fdatasync,1,100.00,,\n\
                    5,,syscalls:sys_enter_pwritev2,1,100.00,,\n\
                    1,,syscalls:sys_enter_syncfs,1,100.00,,\n";
        let counted = parse_perf(text).unwrap();
        assert_eq!((counted.dsync, counted.syncfs), (5, 1));
        assert_eq!(counted.durable(), 12, "syncfs carries no acknowledgement");
        let refused = text.replace("4,,", "<not counted>,,");
        assert_eq!(parse_perf(&refused), None, "a part is not a count");
        assert_eq!(parse_perf(""), None);
    }

    #[test]
    fn the_metric_of_the_log_comes_first() {
        let page = "# HELP x y\ntidemark_fsync_duration_seconds_count 7\n\
                    tidemark_wal_fsync_duration_seconds_count{dir=\"/a b\"} 42\n";
        assert_eq!(parse_metrics(page), Some(42));
        assert_eq!(
            parse_metrics("tidemark_fsync_duration_seconds_count 7"),
            Some(7)
        );
        assert_eq!(parse_metrics("kafka_x 1\n"), None);
    }

    #[test]
    fn the_device_answers() {
        let dir = std::env::temp_dir();
        let latency = measure_latency(&dir).unwrap();
        assert!(latency.samples > 0 && latency.p50_us > 0.0 && latency.p50_us <= latency.p99_us);
    }
}
