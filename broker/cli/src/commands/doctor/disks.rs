//! Is there room on the brokers' disks, and do they work?

use tidemark_client::ClientError;
use tidemark_client::admin::LogDir;
use tidemark_wire::ErrorCode;

use super::{Check, Finding, Patient};
use crate::output::{bytes, plural};

/// With this much left no share of a disk is worth a word.
const PLENTY_BYTES: i64 = 100 << 30;
/// Less than this is worth a word whatever the share.
const LOW_BYTES: i64 = 1 << 30;

/// Asks every broker for its log directories; one with less than `low_percent` of its disk left is a finding.
pub async fn check(patient: &Patient<'_>, low_percent: u8) -> Check {
    let mut findings = Vec::new();
    let mut seen = 0;
    let mut silent = 0;
    for broker in &patient.reachable {
        match patient.cluster.describe_log_dirs(*broker).await {
            Ok(dirs) => {
                for dir in dirs {
                    seen += 1;
                    silent += i64::from(dir.usable_bytes < 0);
                    findings.extend(judge(&dir, low_percent));
                }
            }
            Err(error) => findings.push(unasked(*broker, &error)),
        }
    }
    let mut text = format!("{} with room", plural(seen - silent, "disk"));
    if silent > 0 {
        text.push_str(&format!(", {silent} of which the broker does not say"));
    }
    Check::new("disks", text, findings)
}

fn unasked(broker: i32, error: &ClientError) -> Finding {
    Finding::new(
        format!("broker {broker} does not say how its disks are"),
        error.to_string(),
        format!("look at the log of broker {broker}"),
    )
}

fn judge(dir: &LogDir, low_percent: u8) -> Option<Finding> {
    let place = format!("broker {} in {}", dir.broker, dir.path);
    if dir.error != ErrorCode::None {
        return Some(Finding::new(
            format!("{place}: {}", dir.error),
            "the broker has given the directory up: its replicas are offline",
            format!(
                "look for I/O errors on its machine: dmesg | tail; then replace the disk of broker {}",
                dir.broker
            ),
        ));
    }
    if dir.usable_bytes < 0 || dir.total_bytes <= 0 {
        return None;
    }
    let percent = dir.usable_bytes.saturating_mul(100) / dir.total_bytes;
    let low = dir.usable_bytes < LOW_BYTES
        || (percent < i64::from(low_percent) && dir.usable_bytes < PLENTY_BYTES);
    if !low {
        return None;
    }
    let largest = dir.replicas.iter().max_by_key(|replica| replica.size_bytes);
    let next = match largest {
        Some(replica) if replica.size_bytes > 0 => {
            format!(
                "tidemark topic alter {} --set retention.ms=86400000",
                replica.partition.topic
            )
        }
        _ => format!(
            "make room in {}: its partitions are not what fills it",
            dir.path
        ),
    };
    Some(Finding::new(
        format!(
            "{place} has {} left, {percent}% of its disk",
            bytes(dir.usable_bytes)
        ),
        "a broker whose disk is full refuses writes; the largest partition there is where retention helps most",
        next,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_client::TopicPartition;
    use tidemark_client::admin::LogDirReplica;

    fn dir(total_bytes: i64, usable_bytes: i64) -> LogDir {
        LogDir {
            broker: 2,
            path: "/data".to_owned(),
            cordoned: false,
            error: ErrorCode::None,
            total_bytes,
            usable_bytes,
            replicas: vec![LogDirReplica {
                partition: TopicPartition::new("orders", 0),
                size_bytes: 10,
                offset_lag: 0,
            }],
        }
    }

    #[test]
    fn a_disk_with_little_left_is_found() {
        let tib = 1_i64 << 40;
        let gib = 1_i64 << 30;
        assert_eq!(judge(&dir(tib, tib / 2), 10), None);
        assert_eq!(
            judge(&dir(100 * tib, 2 * tib), 10),
            None,
            "2% of a large disk is plenty"
        );
        assert_eq!(judge(&dir(-1, -1), 10), None, "old brokers do not say");
        assert!(
            judge(&dir(2 * gib, gib - 1), 10).is_some(),
            "half of a tiny disk is little"
        );
        assert_eq!(judge(&dir(tib, tib / 16), 5), None, "as asked for");
        let finding = judge(&dir(tib, tib / 16), 10).unwrap();
        assert!(
            finding.what.contains("/data has 64.0 GiB left, 6%"),
            "{}",
            finding.what
        );
        assert!(
            finding.next.contains("topic alter orders"),
            "{}",
            finding.next
        );
    }

    #[test]
    fn a_failed_directory_is_found_whatever_room_it_has() {
        let failed = LogDir {
            error: ErrorCode::KafkaStorageError,
            ..dir(-1, -1)
        };
        assert!(
            judge(&failed, 10)
                .unwrap()
                .what
                .contains("KAFKA_STORAGE_ERROR")
        );
    }
}
