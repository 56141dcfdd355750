//! Are all partitions led, and all replicas in sync?

use std::collections::BTreeMap;

use tidemark_client::PartitionInfo;
use tidemark_client::admin::ConfigResource;

use super::{Check, Finding, Patient};
use crate::commands::cluster::throttle;
use crate::output::{ids, plural};

/// How many partitions a finding names.
const NAMED: usize = 5;

/// Looks at all partitions in the metadata.
pub async fn check(patient: &Patient<'_>) -> Check {
    let mut offline = Vec::new();
    let mut damaged: BTreeMap<i32, Vec<String>> = BTreeMap::new();
    let mut under = Vec::new();
    for topic in patient.info.topics.values() {
        for partition in topic.partitions.values() {
            let name = format!("{}-{}", topic.name, partition.partition);
            if partition.leader.is_none() {
                // A broker that is up and yet does not have it cannot use its log.
                let up = |id: &&i32| patient.reachable.contains(id);
                match partition.offline.iter().find(up) {
                    Some(broker) => damaged.entry(*broker).or_default().push(name),
                    None => offline.push(name),
                }
            } else if partition.isr.len() < partition.replicas.len() {
                under.push((name, partition));
            }
        }
    }
    let mut findings = Vec::new();
    for (broker, names) in &damaged {
        let dirs = patient.cluster.describe_log_dirs(*broker).await;
        let dirs = dirs.unwrap_or_default().into_iter().map(|dir| dir.path);
        findings.push(damaged_finding(*broker, names, &dirs.collect::<Vec<_>>()));
    }
    findings.extend(offline_finding(&offline));
    findings.extend(under_minimum(patient, &under).await);
    findings.extend(under_finding(&under));
    findings.extend(alone(patient));
    findings.extend(single_finding(&singles(patient)));
    findings.extend(throttled(patient).await);
    let partitions: usize = patient
        .info
        .topics
        .values()
        .map(|t| t.partitions.len())
        .sum();
    let seen = format!("{} led and in sync", plural(partitions as i64, "partition"));
    Check::new("replicas", seen, findings)
}

fn some_of(names: &[String]) -> String {
    let shown = names
        .iter()
        .take(NAMED)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn topic_of(partition: &str) -> &str {
    partition
        .rsplit_once('-')
        .map_or(partition, |(topic, _)| topic)
}

fn offline_finding(offline: &[String]) -> Option<Finding> {
    let first = offline.first()?;
    Some(Finding::new(
        format!(
            "{} without a leader: {}",
            plural(offline.len() as i64, "partition"),
            some_of(offline)
        ),
        "nothing can be written to or read from them until a broker that holds them is back",
        format!("tidemark topic describe {}", topic_of(first)),
    ))
}

fn damaged_finding(broker: i32, names: &[String], dirs: &[String]) -> Finding {
    let first = names.first().map_or("", String::as_str);
    let log = match dirs {
        [dir] => format!("{}/{first}", dir.trim_end_matches('/')),
        _ => format!("{first} in a data directory"),
    };
    Finding::new(
        format!(
            "{} offline on broker {broker}, which is up: {}",
            plural(names.len() as i64, "partition"),
            some_of(names)
        ),
        "its log is damaged or its disk failed: nothing of it is given out or taken in; the broker's log and /state say where",
        format!(
            "restore {log} of broker {broker} from a copy; or give up what is behind the damage: stop the broker, and start it once with --cut-corrupt-logs"
        ),
    )
}

fn under_finding(under: &[(String, &PartitionInfo)]) -> Option<Finding> {
    let (first, _) = under.first()?;
    let mut missing: BTreeMap<i32, usize> = BTreeMap::new();
    for (_, partition) in under {
        for replica in partition
            .replicas
            .iter()
            .filter(|r| !partition.isr.contains(r))
        {
            *missing.entry(*replica).or_default() += 1;
        }
    }
    let names: Vec<String> = under.iter().map(|(name, _)| name.clone()).collect();
    let brokers: Vec<i32> = missing.into_keys().collect();
    Some(Finding::new(
        format!(
            "{} under-replicated: {}",
            plural(under.len() as i64, "partition"),
            some_of(&names)
        ),
        format!(
            "broker {} is down or behind; losing another may stop or lose writes",
            ids(&brokers)
        ),
        format!("tidemark topic describe {}", topic_of(first)),
    ))
}

/// Topics that people made with one replica although there are brokers for more.
fn singles(patient: &Patient<'_>) -> Vec<String> {
    if patient.info.brokers.len() < 2 {
        return Vec::new();
    }
    let topics = patient.info.topics.values().filter(|topic| !topic.internal);
    let single = topics.filter(|topic| topic.partitions.values().any(|p| p.replicas.len() == 1));
    single.map(|topic| topic.name.clone()).collect()
}

fn single_finding(topics: &[String]) -> Option<Finding> {
    let first = topics.first()?;
    Some(Finding::new(
        format!(
            "{} with one replica: {}",
            plural(topics.len() as i64, "topic"),
            some_of(topics)
        ),
        "they are offline whenever their broker is, and lost with its disk",
        format!(
            "tidemark cluster reassign --topics {first} -o json > plan.json; add brokers to its replicas; tidemark cluster reassign --plan plan.json --execute"
        ),
    ))
}

/// Which of those that lack a replica are under their minimum: producers with acks=all are refused.
async fn under_minimum(
    patient: &Patient<'_>,
    under: &[(String, &PartitionInfo)],
) -> Option<Finding> {
    let mut minimum: BTreeMap<&str, usize> = BTreeMap::new();
    let mut names = Vec::new();
    for (name, partition) in under {
        let topic = topic_of(name);
        let least = match minimum.get(topic) {
            Some(least) => *least,
            None => {
                let resource = ConfigResource::Topic(topic.to_owned());
                let settings = patient.cluster.describe_configs(&resource).await.ok()?;
                let mut settings = settings
                    .into_iter()
                    .filter(|one| one.name == "min.insync.replicas");
                let least = settings.next()?.value?.trim().parse().ok()?;
                minimum.insert(topic, least);
                least
            }
        };
        if partition.isr.len() < least.min(partition.replicas.len()) {
            names.push(name.clone());
        }
    }
    under_minimum_finding(&names)
}

fn under_minimum_finding(names: &[String]) -> Option<Finding> {
    let first = names.first()?;
    Some(Finding::new(
        format!(
            "{} under min.insync.replicas: {}",
            plural(names.len() as i64, "partition"),
            some_of(names)
        ),
        "producers with acks=all are refused there until enough replicas are back",
        format!("tidemark topic describe {}", topic_of(first)),
    ))
}

/// Offsets on a single replica although there are brokers for more.
fn alone(patient: &Patient<'_>) -> Option<Finding> {
    let topic = patient.info.topics.get("__consumer_offsets")?;
    let replicas = topic.partitions.values().map(|p| p.replicas.len()).min()?;
    if patient.info.brokers.len() < 2 || replicas > 1 {
        return None;
    }
    Some(Finding::new(
        format!("the offsets of all groups have one replica, on a cluster of {} brokers", patient.info.brokers.len()),
        "groups whose broker is down can neither read nor commit",
        "set offsets.topic.replication.factor=3 before the first group, or reassign __consumer_offsets".to_owned(),
    ))
}

/// A throttle that a move has left behind: it slows down every replica that catches up.
async fn throttled(patient: &Patient<'_>) -> Option<Finding> {
    let moving = patient.cluster.reassignments(None).await.ok()?;
    if !moving.is_empty() {
        return None;
    }
    let left = throttle::find(patient.cluster, patient.info).await.ok()?;
    if left.is_empty() {
        return None;
    }
    Some(Finding::new(
        format!(
            "replication is throttled, though nothing is being moved: {}",
            left.text()
        ),
        "a replica that falls behind catches up no faster than that lets it",
        "tidemark cluster reassign --unthrottle".to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(isr: &[i32]) -> PartitionInfo {
        PartitionInfo {
            partition: 0,
            leader: Some(1),
            leader_epoch: 0,
            replicas: vec![1, 2, 3],
            isr: isr.to_vec(),
            offline: Vec::new(),
        }
    }

    #[test]
    fn partitions_are_named_up_to_a_limit() {
        let offline: Vec<String> = (0..8).map(|n| format!("my-topic-{n}")).collect();
        let finding = offline_finding(&offline).unwrap();
        assert!(
            finding.what.ends_with("my-topic-4 and 3 more"),
            "{}",
            finding.what
        );
        assert_eq!(finding.next, "tidemark topic describe my-topic");
        assert_eq!(offline_finding(&[]), None);
    }

    #[test]
    fn topics_that_hang_on_one_disk_are_named() {
        assert_eq!(single_finding(&[]), None);
        let finding = single_finding(&["legacy".to_owned()]).unwrap();
        assert_eq!(finding.what, "1 topic with one replica: legacy");
        let finding = under_minimum_finding(&["t-0".to_owned(), "t-1".to_owned()]).unwrap();
        assert_eq!(
            finding.what,
            "2 partitions under min.insync.replicas: t-0, t-1"
        );
    }

    #[test]
    fn a_damaged_log_is_named_with_what_mends_it() {
        let names = ["my-topic-3".to_owned()];
        let finding = damaged_finding(4, &names, &["/data/".to_owned()]);
        assert!(
            finding.what.starts_with("1 partition offline on broker 4"),
            "{}",
            finding.what
        );
        assert!(
            finding.next.contains("/data/my-topic-3")
                && finding.next.contains("--cut-corrupt-logs"),
            "{}",
            finding.next
        );
    }

    #[test]
    fn the_brokers_that_are_behind_are_named() {
        let lagging = partition(&[1, 3]);
        let finding = under_finding(&[("t-0".to_owned(), &lagging)]).unwrap();
        assert!(finding.why.starts_with("broker 2 "), "{}", finding.why);
        assert_eq!(under_finding(&[]), None);
    }
}
