//! Do brokers lead what they should?

use std::collections::BTreeMap;

use tidemark_client::ClusterInfo;

use super::{Check, Finding, Patient};
use crate::output::plural;

/// Leaders that are elsewhere, in percent of all, are worth a word from here on: after a restart
/// they come back by themselves, some minutes later (leader.imbalance.check.interval.seconds).
const SKEWED_PERCENT: usize = 20;
/// And only where there are so many.
const FEW: usize = 5;

/// Looks at who leads.
pub fn check(patient: &Patient<'_>) -> Check {
    let partitions: usize = patient
        .info
        .topics
        .values()
        .map(|topic| topic.partitions.len())
        .sum();
    let seen = format!(
        "{} led by whom they should",
        plural(partitions as i64, "partition")
    );
    Check::new(
        "leaders",
        seen,
        judge(patient.info, &patient.reachable)
            .into_iter()
            .collect(),
    )
}

fn judge(info: &ClusterInfo, reachable: &[i32]) -> Option<Finding> {
    let all: Vec<_> = info
        .topics
        .values()
        .flat_map(|topic| topic.partitions.values())
        .collect();
    // Those whose first replica could lead, and does not.
    let away: Vec<_> = all
        .iter()
        .filter(|partition| {
            let first = partition.replicas.first();
            first.is_some_and(|first| {
                partition.leader.is_some_and(|leader| leader != *first)
                    && partition.isr.contains(first)
                    && reachable.contains(first)
            })
        })
        .collect();
    if away.len() < FEW || away.len() * 100 < all.len() * SKEWED_PERCENT {
        return None;
    }
    let mut led: BTreeMap<i32, usize> = reachable.iter().map(|id| (*id, 0)).collect();
    for leader in all.iter().filter_map(|partition| partition.leader) {
        *led.entry(leader).or_default() += 1;
    }
    let least = led.iter().min_by_key(|(_, leads)| **leads)?;
    let most = led.iter().max_by_key(|(_, leads)| **leads)?;
    Some(Finding::new(
        format!(
            "{} not led by their first replica, which could",
            plural(away.len() as i64, "partition")
        ),
        format!(
            "broker {} leads {}, broker {} leads {}: what one does the others could share",
            most.0, most.1, least.0, least.1
        ),
        "tidemark cluster elect --preferred",
    ))
}

#[cfg(test)]
mod tests {
    use tidemark_client::{PartitionInfo, TopicInfo};
    use tidemark_wire::Uuid;

    use super::*;

    fn info(leaders: &[i32]) -> ClusterInfo {
        let partition = |(index, leader): (i32, &i32)| {
            let info = PartitionInfo {
                partition: index,
                leader: Some(*leader),
                leader_epoch: 0,
                replicas: vec![1 + index % 2, 2 - index % 2],
                isr: vec![1, 2],
                offline: Vec::new(),
            };
            (index, info)
        };
        let topic = TopicInfo {
            name: "t".into(),
            id: Uuid::ZERO,
            internal: false,
            partitions: (0..).zip(leaders).map(partition).collect(),
        };
        ClusterInfo {
            topics: [("t".to_owned(), topic)].into(),
            ..ClusterInfo::default()
        }
    }

    #[test]
    fn leaders_that_all_sit_on_one_broker_are_found() {
        assert_eq!(judge(&info(&[1, 2, 1, 2, 1, 2, 1, 2, 1, 2]), &[1, 2]), None);
        let all_on_one = info(&[1; 10]);
        let found = judge(&all_on_one, &[1, 2]).expect("skewed");
        assert_eq!(
            found.what,
            "5 partitions not led by their first replica, which could"
        );
        assert!(found.why.starts_with("broker 1 leads 10, broker 2 leads 0"));
        // One that is down cannot lead.
        assert_eq!(judge(&all_on_one, &[1]), None);
    }
}
