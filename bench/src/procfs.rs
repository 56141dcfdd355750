//! What the kernel says of a process: CPU time, waiting for a core, resident memory.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Nanoseconds of one task from its `schedstat`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TaskTime {
    /// On a core.
    pub run_ns: u64,
    /// Able to run, waiting for a core.
    pub wait_ns: u64,
}

/// CPU times of a process at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuSample {
    /// Living tasks by thread id.
    pub tasks: BTreeMap<u32, TaskTime>,
    /// utime + stime of the whole process, ended threads included, in clock ticks.
    pub process_ticks: u64,
    /// The whole machine's.
    pub machine: MachineTicks,
}

/// Clock ticks of all processors together, since the start of the machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MachineTicks {
    /// A processor had something to do, and the hypervisor ran another machine on it.
    pub stolen: u64,
    /// All, idle ones included.
    pub all: u64,
}

/// CPU used between two samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CpuUsed {
    /// Seconds on a core.
    pub run_s: f64,
    /// Seconds that threads waited for a core.
    pub wait_s: f64,
    /// What the hypervisor took, as a share of all processors' time.
    pub stolen_share: f64,
    /// False when threads ended in between, so that `run_s` is from the process' tick counter.
    pub exact: bool,
}

/// Parses a `schedstat` file: time on a core and time waiting, in ns, then a count of slices.
pub fn parse_schedstat(text: &str) -> Option<TaskTime> {
    let mut fields = text.split_ascii_whitespace();
    let run_ns = fields.next()?.parse().ok()?;
    let wait_ns = fields.next()?.parse().ok()?;
    Some(TaskTime { run_ns, wait_ns })
}

/// utime + stime in clock ticks from `/proc/PID/stat`. The name in brackets may hold anything,
/// spaces and brackets included: fields are counted from its last bracket.
pub fn parse_stat_ticks(text: &str) -> Option<u64> {
    let after = text.get(text.rfind(')')? + 1..)?;
    let mut fields = after.split_ascii_whitespace();
    let utime: u64 = fields.nth(11)?.parse().ok()?;
    let stime: u64 = fields.next()?.parse().ok()?;
    Some(utime + stime)
}

/// The line `cpu` of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal; what
/// follows is in user and nice already.
pub fn parse_machine_ticks(text: &str) -> Option<MachineTicks> {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields = line.split_ascii_whitespace().take(8);
    let ticks: Vec<u64> = fields.map(str::parse).collect::<Result<_, _>>().ok()?;
    Some(MachineTicks {
        stolen: *ticks.get(7)?,
        all: ticks.iter().sum(),
    })
}

/// A line such as `VmRSS:    1234 kB` of `/proc/PID/status` or `/proc/meminfo`, in bytes.
pub fn parse_kib_line(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let value = line.strip_prefix(name)?.strip_prefix(':')?.trim();
        let kib: u64 = value.strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    })
}

/// The difference of two samples. A thread that started in between counts from zero.
pub fn cpu_between(before: &CpuSample, after: &CpuSample, ticks_per_s: f64) -> CpuUsed {
    let mut run_ns = 0;
    let mut wait_ns = 0;
    for (tid, now) in &after.tasks {
        let then = before.tasks.get(tid).copied().unwrap_or_default();
        run_ns += now.run_ns.saturating_sub(then.run_ns);
        wait_ns += now.wait_ns.saturating_sub(then.wait_ns);
    }
    let run_s = run_ns as f64 / 1e9;
    let exact = before.tasks.keys().all(|tid| after.tasks.contains_key(tid));
    let by_ticks = after.process_ticks.saturating_sub(before.process_ticks) as f64 / ticks_per_s;
    let stolen = after.machine.stolen.saturating_sub(before.machine.stolen) as f64;
    let all = after.machine.all.saturating_sub(before.machine.all).max(1) as f64;
    CpuUsed {
        // Living threads are a lower bound of what the process used.
        run_s: if exact { run_s } else { run_s.max(by_ticks) },
        wait_s: wait_ns as f64 / 1e9,
        stolen_share: stolen / all,
        exact,
    }
}

/// Samples living processes together; `None` when one is gone.
pub fn sample_cpu(pids: &[u32]) -> Option<CpuSample> {
    let mut all = CpuSample {
        machine: parse_machine_ticks(&fs::read_to_string("/proc/stat").ok()?)?,
        ..CpuSample::default()
    };
    for pid in pids {
        let (tasks, process_ticks) = sample_one(*pid)?;
        all.tasks.extend(tasks);
        all.process_ticks += process_ticks;
    }
    Some(all)
}

fn sample_one(pid: u32) -> Option<(BTreeMap<u32, TaskTime>, u64)> {
    let root = format!("/proc/{pid}");
    let process_ticks = parse_stat_ticks(&fs::read_to_string(format!("{root}/stat")).ok()?)?;
    let mut tasks = BTreeMap::new();
    for entry in fs::read_dir(format!("{root}/task")).ok()?.flatten() {
        let tid = entry.file_name().to_str().and_then(|n| n.parse().ok());
        // A thread may end between the listing and the reading.
        let time = fs::read_to_string(entry.path().join("schedstat")).ok();
        if let (Some(tid), Some(time)) = (tid, time.as_deref().and_then(parse_schedstat)) {
            tasks.insert(tid, time);
        }
    }
    Some((tasks, process_ticks))
}

/// Clock ticks per second of `/proc/PID/stat`: USER_HZ, fixed at 100 in Linux's interface.
pub const TICKS_PER_S: f64 = 100.0;

/// Resident memory of a process in bytes.
pub fn resident_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    parse_kib_line(&status, "VmRSS")
}

/// The type and device of the file system that holds `path`, from `/proc/mounts`.
pub fn parse_mount(mounts: &str, path: &Path) -> Option<String> {
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let (device, at, kind) = (fields.next()?, fields.next()?, fields.next()?);
            path.starts_with(at)
                .then(|| (at.len(), format!("{kind} on {device}")))
        })
        .max_by_key(|(length, _)| *length)
        .map(|(_, text)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(tasks: &[(u32, u64, u64)], process_ticks: u64) -> CpuSample {
        CpuSample {
            tasks: tasks
                .iter()
                .map(|&(tid, run_ns, wait_ns)| (tid, TaskTime { run_ns, wait_ns }))
                .collect(),
            process_ticks,
            machine: MachineTicks::default(),
        }
    }

    #[test]
    fn what_a_hypervisor_takes_is_a_share_of_all_processors() {
        let text = "cpu  10 0 20 160 5 1 1 3 7 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        let machine = parse_machine_ticks(text).unwrap();
        assert_eq!((machine.stolen, machine.all), (3, 200));
        assert_eq!(parse_machine_ticks("cpu 1 2 3\n"), None);
        assert_eq!(parse_machine_ticks(""), None);
        let after = CpuSample {
            machine,
            ..CpuSample::default()
        };
        let used = cpu_between(&CpuSample::default(), &after, 100.0);
        assert_eq!(used.stolen_share, 0.015);
    }

    #[test]
    fn schedstat_has_run_and_wait() {
        let time = parse_schedstat("123456789 42 7\n").unwrap();
        assert_eq!((time.run_ns, time.wait_ns), (123_456_789, 42));
        assert_eq!(parse_schedstat(""), None);
        assert_eq!(parse_schedstat("12"), None);
        assert_eq!(parse_schedstat("a b c"), None);
    }

    #[test]
    fn stat_survives_a_hostile_name() {
        let line = "77 (a) b (c)) S 1 77 77 0 -1 4194304 1 2 3 4 150 25 0 0 20 0 1 0 9 9 9";
        assert_eq!(parse_stat_ticks(line), Some(175));
        assert_eq!(parse_stat_ticks("77 (x) S 1"), None);
        assert_eq!(parse_stat_ticks("no bracket"), None);
    }

    #[test]
    fn memory_lines_are_kib() {
        let status = "Name:\tjava\nVmHWM:\t 200 kB\nVmRSS:\t  100 kB\n";
        assert_eq!(parse_kib_line(status, "VmRSS"), Some(102_400));
        assert_eq!(parse_kib_line(status, "VmSwap"), None);
        assert_eq!(parse_kib_line("VmRSS: x kB", "VmRSS"), None);
    }

    #[test]
    fn new_threads_count_from_zero() {
        let before = sample(&[(1, 1_000_000_000, 0)], 100);
        let after = sample(&[(1, 1_500_000_000, 10_000_000), (2, 250_000_000, 0)], 175);
        let used = cpu_between(&before, &after, 100.0);
        assert_eq!((used.run_s, used.wait_s, used.exact), (0.75, 0.01, true));
    }

    #[test]
    fn ended_threads_count_through_the_process() {
        let before = sample(&[(1, 0, 0), (2, 1_000_000_000, 0)], 100);
        let after = sample(&[(1, 500_000_000, 0)], 250);
        let used = cpu_between(&before, &after, 100.0);
        assert_eq!((used.run_s, used.exact), (1.5, false));
        let coarse = sample(&[(1, 500_000_000, 0)], 100);
        assert_eq!(cpu_between(&before, &coarse, 100.0).run_s, 0.5);
    }

    #[test]
    fn this_process_can_be_sampled() {
        let pid = std::process::id();
        let before = sample_cpu(&[pid]).unwrap();
        let mut x = 1_u64;
        for i in 0..20_000_000_u64 {
            x = std::hint::black_box(x.wrapping_mul(i | 1));
        }
        let after = sample_cpu(&[pid]).unwrap();
        assert!(cpu_between(&before, &after, TICKS_PER_S).run_s > 0.0);
        assert!(resident_bytes(pid).unwrap() > 100_000);
    }

    #[test]
    fn the_deepest_mount_wins() {
        let mounts = "/dev/a / ext4 rw 0 0\n/dev/b /data xfs rw 0 0\n";
        let kind = |path: &str| parse_mount(mounts, Path::new(path)).unwrap();
        assert_eq!(kind("/data/x"), "xfs on /dev/b");
        assert_eq!(kind("/database"), "ext4 on /dev/a");
    }
}
