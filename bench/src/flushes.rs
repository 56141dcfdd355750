//! Flushes to the device: how long one takes here, and how many a broker asks for.

use std::fs::{self, OpenOptions};
use std::io::Write;
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
    let path = dir.join("flush-probe");
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
const EVENTS: [&str; 3] = [
    "syscalls:sys_enter_fsync",
    "syscalls:sys_enter_fdatasync",
    // RWF_DSYNC: a write that is flushed before it returns.
    "syscalls:sys_enter_pwritev2",
];

/// Counts the flushes of one process while it is alive.
pub struct Counter {
    perf: Child,
    output: PathBuf,
}

impl Counter {
    /// Begins to count, `None` when this machine does not let us (no perf, no tracefs, no rights).
    pub fn start(pid: u32, dir: &Path) -> Option<Counter> {
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
            Ok(None) => Some(Counter { perf, output }),
            _ => None,
        }
    }

    /// Ends the count and returns it.
    pub fn stop(mut self) -> Option<u64> {
        let pid = rustix::process::Pid::from_child(&self.perf);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).ok()?;
        for _ in 0..250 {
            if !matches!(self.perf.try_wait(), Ok(None)) {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let text = fs::read_to_string(&self.output).ok();
        fs::remove_file(&self.output).unwrap_or_default();
        parse_perf(&text?)
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        // Gone already after a proper stop.
        self.perf.kill().unwrap_or_default();
        self.perf.wait().ok();
    }
}

/// Adds up the counts in `perf stat -x ,` output; `None` unless every event was counted.
pub fn parse_perf(text: &str) -> Option<u64> {
    let counts: Vec<Option<u64>> = text
        .lines()
        .filter(|line| line.contains("syscalls:"))
        .map(|line| line.split(',').next()?.trim().parse().ok())
        .collect();
    (counts.len() == EVENTS.len())
        .then(|| counts.into_iter().sum::<Option<u64>>())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perf_counts_add_up() {
        let text = "# started on Sun\n\n3,,syscalls:sys_enter_fsync,1,100.00,,\n\
                    4,,syscalls:sys_enter_fdatasync,1,100.00,,\n\
                    0,,syscalls:sys_enter_pwritev2,1,100.00,,\n";
        assert_eq!(parse_perf(text), Some(7));
        let refused = text.replace("4,,", "<not counted>,,");
        assert_eq!(parse_perf(&refused), None, "a part is not a count");
        assert_eq!(parse_perf(""), None);
    }

    #[test]
    fn the_device_answers() {
        let dir = std::env::temp_dir();
        let latency = measure_latency(&dir).unwrap();
        assert!(latency.samples > 0 && latency.p50_us > 0.0 && latency.p50_us <= latency.p99_us);
    }
}
