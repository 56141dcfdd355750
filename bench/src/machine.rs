//! What the figures were taken on and with.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::contender::Places;
use crate::procfs::{parse_kib_line, parse_mount};

/// The machine, the versions and the day.
#[derive(Debug, Clone, Serialize)]
pub struct Facts {
    /// Day of the run in UTC, `2026-01-31`.
    pub date: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Model of the processor.
    pub processor: String,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Kernel release.
    pub kernel: String,
    /// File system and device under the data directories.
    pub disk: String,
    /// Load averages before the run.
    pub load_average: String,
    /// What was measured, and with what: name and version.
    pub versions: Vec<(String, String)>,
}

/// Collects the facts; what cannot be found out is said to be unknown.
pub fn facts(places: &Places) -> Facts {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let processor = read("/proc/cpuinfo").lines().find_map(|l| {
        Some(
            l.strip_prefix("model name")?
                .split_once(':')?
                .1
                .trim()
                .to_owned(),
        )
    });
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    Facts {
        date: date_of(seconds),
        cores: std::thread::available_parallelism().map_or(0, usize::from),
        processor: processor.unwrap_or_else(unknown),
        memory_bytes: parse_kib_line(&read("/proc/meminfo"), "MemTotal").unwrap_or_default(),
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        disk: parse_mount(&read("/proc/mounts"), &places.data).unwrap_or_else(unknown),
        load_average: read("/proc/loadavg")
            .split_whitespace()
            .take(3)
            .collect::<Vec<_>>()
            .join(" "),
        versions: versions(places),
    }
}

fn versions(places: &Places) -> Vec<(String, String)> {
    let commit = first_line(
        Command::new("git")
            .arg("-C")
            .arg(&places.root)
            .args(["describe", "--always", "--dirty"]),
    );
    let tidemark = match &places.tidemark {
        Some(binary) => {
            let version = first_line(Command::new(binary).arg("--version"));
            let number = version.strip_prefix("tidemark ").unwrap_or(&version);
            format!("{number} (commit {commit})")
        }
        None => "not measured".to_owned(),
    };
    vec![
        ("Tidemark".to_owned(), tidemark),
        (
            "Apache Kafka".to_owned(),
            kafka_version(&places.root).unwrap_or_else(unknown),
        ),
        (
            "Java".to_owned(),
            first_line(Command::new("java").arg("-version")),
        ),
        (
            "librdkafka".to_owned(),
            rdkafka::util::get_rdkafka_version().1,
        ),
    ]
}

fn unknown() -> String {
    "unknown".to_owned()
}

/// The version in the name of the broker's jar.
fn kafka_version(root: &Path) -> Option<String> {
    let jars = fs::read_dir(root.join("lab/.cache/kafka/libs")).ok()?;
    jars.flatten().find_map(|jar| {
        let name = jar.file_name().into_string().ok()?;
        Some(
            name.strip_prefix("kafka_2.13-")?
                .strip_suffix(".jar")?
                .to_owned(),
        )
    })
}

/// The first line that a command prints, on either stream.
fn first_line(command: &mut Command) -> String {
    let text = command.output().ok().map(|o| [o.stdout, o.stderr].concat());
    text.and_then(|t| {
        String::from_utf8_lossy(&t)
            .lines()
            .next()
            .map(str::to_owned)
    })
    .unwrap_or_else(unknown)
}

/// The day in UTC of seconds since 1970, by the civil calendar.
pub fn date_of(unix_s: u64) -> String {
    // Days since 0000-03-01: years begin in March, so that the leap day is the last one.
    let days = unix_s / 86_400 + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_of_the_calendar() {
        assert_eq!(date_of(0), "1970-01-01");
        assert_eq!(date_of(951_782_400), "2000-02-29");
        assert_eq!(date_of(951_868_799), "2000-02-29");
        assert_eq!(date_of(951_868_800), "2000-03-01");
        assert_eq!(date_of(1_798_675_200), "2026-12-31");
        assert_eq!(date_of(1_798_761_600), "2027-01-01");
    }
}
