//! Do the clocks of writers and of this machine agree? Records from the future say that they do not.

use std::collections::BTreeMap;

use tidemark_client::TopicPartition;
use tidemark_client::admin::OffsetSpec;
use tidemark_env::clock;

use super::{Check, Finding, Patient};
use crate::output::plural;
use crate::when::{format_duration, format_moment};

/// Clocks that are kept in step differ by far less.
const SKEW_MS: i64 = 60_000;
/// Partitions looked at; on a large cluster the first ones must do.
const MOST_PARTITIONS: usize = 2_000;

/// Asks for the newest timestamp of each partition.
pub async fn check(patient: &Patient<'_>) -> Check {
    let led = |p: &&tidemark_client::PartitionInfo| {
        p.leader.is_some_and(|l| patient.reachable.contains(&l))
    };
    let wanted: BTreeMap<TopicPartition, OffsetSpec> = patient
        .info
        .topics
        .values()
        .filter(|topic| !topic.internal)
        .flat_map(|topic| {
            let partitions = topic.partitions.values().filter(led);
            partitions.map(|p| TopicPartition::new(topic.name.clone(), p.partition))
        })
        .take(MOST_PARTITIONS)
        .map(|tp| (tp, OffsetSpec::MaxTimestamp))
        .collect();
    let newest = match patient.cluster.list_offsets(&wanted, false).await {
        Ok(newest) => newest,
        Err(error) => {
            return Check::new("clocks", format!("not looked at: {error}"), Vec::new());
        }
    };
    let now_ms = clock::now_ms();
    let mut by_topic: BTreeMap<&str, i64> = BTreeMap::new();
    for (tp, listed) in &newest {
        let latest = by_topic.entry(&tp.topic).or_insert(-1);
        *latest = (*latest).max(listed.timestamp_ms);
    }
    let findings = by_topic
        .iter()
        .filter_map(|(topic, latest)| judge(topic, *latest, now_ms))
        .collect();
    let seen = format!(
        "no record from the future in {}",
        plural(wanted.len() as i64, "partition")
    );
    Check::new("clocks", seen, findings)
}

fn judge(topic: &str, latest_ms: i64, now_ms: i64) -> Option<Finding> {
    let ahead_ms = latest_ms.saturating_sub(now_ms);
    (ahead_ms > SKEW_MS).then(|| {
        Finding::new(
            format!(
                "topic {topic} has a record of {}, {} ahead of this machine's clock",
                format_moment(latest_ms),
                format_duration(ahead_ms)
            ),
            "a writer's clock or this one is wrong; segments with such records outlive their retention by as much",
            format!("compare the clocks: timedatectl; or stamp on arrival: tidemark topic alter {topic} --set message.timestamp.type=LogAppendTime"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_from_the_future_are_found() {
        assert_eq!(judge("t", -1, 1_000_000), None, "an empty topic");
        assert_eq!(judge("t", 1_000_000 + SKEW_MS, 1_000_000), None);
        let finding = judge("t", 1_000_000 + 2 * 3_600_000, 1_000_000).unwrap();
        assert!(finding.what.contains("2h ahead"), "{}", finding.what);
    }
}
