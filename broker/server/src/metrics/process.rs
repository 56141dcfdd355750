//! What the system says about this process.

/// This process, at one moment; `None` where the system does not tell.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct ProcessSample {
    pub(crate) resident_bytes: Option<u64>,
    pub(crate) cpu_seconds: Option<f64>,
    pub(crate) threads: Option<u64>,
    pub(crate) open_files: Option<u64>,
    pub(crate) open_files_limit: Option<u64>,
}

/// Linux counts processor time for user space in hundredths of a second on every architecture
/// that we build for (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;

impl ProcessSample {
    /// Asks the system. Blocks for a moment (some files of /proc).
    #[allow(
        clippy::disallowed_methods,
        reason = "/proc is the kernel's answer, not a disk that a test would replace"
    )]
    pub(crate) fn take() -> ProcessSample {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).ok();
        let status = read("status");
        let status = |field| status.as_deref().and_then(|text| status_field(text, field));
        // One descriptor is that of the directory being read.
        let files = std::fs::read_dir("/proc/self/fd").ok();
        ProcessSample {
            resident_bytes: status("VmRSS:").map(|kib| kib.saturating_mul(1024)),
            threads: status("Threads:"),
            cpu_seconds: read("stat").as_deref().and_then(cpu_seconds),
            open_files: files.map(|entries| (entries.count() as u64).saturating_sub(1)),
            open_files_limit: read("limits").as_deref().and_then(open_files_limit),
        }
    }
}

/// The number after `field` in /proc/self/status.
pub(super) fn status_field(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}

/// User and system time in /proc/self/stat. The process' name, in parentheses, may hold anything.
pub(super) fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut ticks = after_name.split_whitespace().skip(11);
    let user: u64 = ticks.next()?.parse().ok()?;
    let system: u64 = ticks.next()?.parse().ok()?;
    Some(user.saturating_add(system) as f64 / TICKS_PER_SECOND)
}

/// The soft limit in /proc/self/limits; `None` when there is none.
pub(super) fn open_files_limit(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}
