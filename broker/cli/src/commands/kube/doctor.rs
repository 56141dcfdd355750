//! `tidemark doctor --cluster`: what the resources of a Cluster say, what its brokers' metrics say,
//! and what the doctor finds that is run beside one of them.

use std::collections::BTreeMap;

use serde::Deserialize;
use tidemark_crds::{Cluster, ConsumerGroup, Topic};
use tidemark_env::clock;

use super::metrics::Metrics;
use super::plan::topics_of;
use super::status::unwell;
use super::{Kubectl, Place, cluster, pod_name, typed};
use crate::commands::doctor::{Check, Finding, certificates};
use crate::failure::Failure;
use crate::output::{bytes, plural};
use crate::when::format_duration;

/// Clocks that are kept in step differ by far less.
const SKEW_MS: i64 = 5_000;
/// Records that wait for longer than this to be in the bucket are late: more than twice the default
/// of tier.upload.max.lag.ms.
const LATE_SECONDS: f64 = 900.0;

/// What was seen of a cluster.
struct Seen {
    cluster: Cluster,
    topics: Vec<Topic>,
    groups: Vec<ConsumerGroup>,
    /// Each broker's metrics, or why there are none.
    metrics: Vec<(i32, Result<Metrics, String>)>,
    /// When they were asked for and when they were there, by this machine's clock in milliseconds.
    asked_ms: BTreeMap<i32, (i64, i64)>,
    /// A disk with less than this free is a finding, in percent.
    low_disk: u8,
}

#[derive(Deserialize)]
struct Inside {
    checks: Vec<Check>,
}

/// Looks at a Cluster. A disk with less than `low_disk` percent free is a finding.
///
/// # Errors
/// Kubernetes that cannot be asked; a Cluster that is not there.
pub async fn run(name: &str, place: &Place, low_disk: u8) -> Result<Vec<Check>, Failure> {
    let kubectl = Kubectl::new(place);
    let found = cluster(&kubectl, place, name).await?;
    let groups: Vec<ConsumerGroup> = kubectl.list(&["consumergroups.tidemark.dev"]).await?;
    let status = found.status.clone().unwrap_or_default();
    let namespace = found.metadata.namespace.clone().unwrap_or_default();
    let (mut metrics, mut asked_ms) = (Vec::new(), BTreeMap::new());
    for broker in &status.brokers {
        let pod = pod_name(name, broker.id);
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:8080/proxy/metrics");
        let from_ms = clock::now_ms();
        let page = kubectl.text(&["get", "--raw", &path]).await;
        asked_ms.insert(broker.id, (from_ms, clock::now_ms()));
        let page = page
            .map(|page| Metrics::read(&page))
            .map_err(|failure| failure.message);
        metrics.push((broker.id, page));
    }
    let seen = Seen {
        topics: topics_of(&kubectl, name).await?,
        groups: groups
            .into_iter()
            .filter(|group| group.spec.cluster_ref.name == name)
            .collect(),
        cluster: found,
        metrics,
        asked_ms,
        low_disk,
    };
    let mut checks = judge(&seen, name, place, clock::now_ms());
    match status.brokers.iter().find(|broker| broker.state == "Ready") {
        None => checks.push(Check::new(
            "brokers",
            "",
            vec![Finding::new(
                format!("no broker of {name} is ready"),
                "nothing can be asked of the brokers themselves",
                typed(place, &format!("logs {name}")),
            )],
        )),
        Some(broker) => {
            let pod = pod_name(name, broker.id);
            let low_disk = low_disk.to_string();
            let mut asked = vec!["exec", &pod, "-c", "broker", "--", "tidemark", "doctor"];
            asked.extend(["--low-disk", &low_disk, "-o", "json"]);
            let text = kubectl.output(&asked).await?;
            let inside: Result<Inside, _> = serde_json::from_str(&text);
            let inside = inside
                .map_err(|error| Failure::finding(format!("the doctor in {pod}: {error}")))?;
            let run = format!("{} ", typed(place, &format!("run {name} --")));
            checks.extend(inside.checks.into_iter().map(|check| {
                check.with_next(|next| {
                    // What is typed there is typed from here.
                    next.replacen(
                        "tidemark ",
                        &run,
                        usize::from(next.starts_with("tidemark ")),
                    )
                })
            }));
        }
    }
    Ok(checks)
}

fn judge(seen: &Seen, name: &str, place: &Place, now_ms: i64) -> Vec<Check> {
    vec![
        of_cluster(seen, name, place),
        of_resources(seen, place),
        of_metrics(seen, name, place),
        of_disks(seen, name),
        of_certificates(seen, name, now_ms),
        of_clocks(seen),
        of_tier(seen, name, place),
    ]
}

fn of_cluster(seen: &Seen, name: &str, place: &Place) -> Check {
    let status = seen.cluster.status.clone().unwrap_or_default();
    let mut findings = Vec::new();
    if status.conditions.is_empty() {
        findings.push(Finding::new(
            "no operator has looked at it yet",
            "nothing is made or repaired without one",
            "kubectl get deploy -A -l app.kubernetes.io/name=tidemark-operator",
        ));
    }
    for what in unwell(&status) {
        let why = match what.split(' ').next().unwrap_or_default() {
            "Ready" => "clients cannot write or read everything",
            "FullyReplicated" => {
                "records have fewer copies than they should: another loss may stop or lose writes"
            }
            "QuorumHealthy" => "without a controller no leader is elected, and no topic made",
            "StorageReady" => "a broker's disk is full, or cannot be used as the spec says",
            "Accepted" => "what the spec says now is not done",
            _ => "what the spec asks for is not there yet",
        };
        findings.push(Finding::new(
            what,
            why,
            typed(place, &format!("status {name}")),
        ));
    }
    if let Some(plan) = status
        .disruption
        .as_ref()
        .filter(|plan| plan.state == "AwaitingApproval")
    {
        findings.push(Finding::new(
            format!(
                "the restart of {} waits for approval",
                plural(plan.restarts.len() as i64, "broker")
            ),
            format!("{} is not in force before that", plan.reasons.join(", ")),
            typed(place, &format!("plan {name}")),
        ));
    }
    Check::new(
        "resource",
        format!("{} brokers ready", status.ready),
        findings,
    )
}

fn of_resources(seen: &Seen, place: &Place) -> Check {
    let mut findings = Vec::new();
    for topic in &seen.topics {
        let (name, status) = (
            topic.metadata.name.clone().unwrap_or_default(),
            topic.status.clone().unwrap_or_default(),
        );
        match status.pending_id {
            Some(id) => findings.push(Finding::new(
                format!(
                    "Topic {name} waits for approval: {}",
                    status.pending.join("; ")
                ),
                "the change would delete records",
                typed(place, &format!("approve --topic {name} {id}")),
            )),
            None if !status.message.is_empty() => findings.push(Finding::new(
                format!("Topic {name}: {}", status.message),
                "the topic is not what its resource says",
                format!("kubectl describe topic.tidemark.dev {name}"),
            )),
            None => {}
        }
    }
    for group in &seen.groups {
        let name = group.metadata.name.clone().unwrap_or_default();
        let status = group.status.clone().unwrap_or_default();
        for one in status.conditions.iter().filter(|one| one.status == "False") {
            // A reset that is only shown is asked for as it is.
            if one.reason == "DryRun" {
                continue;
            }
            findings.push(Finding::new(
                format!("ConsumerGroup {name}: {} ({})", one.message, one.reason),
                format!("{} is False", one.type_),
                format!("kubectl describe consumergroup.tidemark.dev {name}"),
            ));
        }
    }
    let seen = format!(
        "{} and {} as they should be",
        plural(seen.topics.len() as i64, "topic"),
        plural(seen.groups.len() as i64, "group")
    );
    Check::new("topics and groups", seen, findings)
}

/// The brokers that told, with what they told.
fn told(seen: &Seen) -> impl Iterator<Item = (i32, &Metrics)> {
    seen.metrics
        .iter()
        .filter_map(|(id, page)| Some((*id, page.as_ref().ok()?)))
}

fn of_metrics(seen: &Seen, name: &str, place: &Place) -> Check {
    let mut findings = Vec::new();
    for (id, page) in &seen.metrics {
        if let Err(why) = page {
            findings.push(Finding::new(
                format!("broker {id} does not tell its metrics"),
                why.clone(),
                typed(place, &format!("logs {name} --broker {id}")),
            ));
        }
    }
    let under: f64 = told(seen)
        .map(|(_, page)| page.sum("tidemark_under_min_isr_partitions"))
        .sum();
    if under > 0.0 {
        findings.push(Finding::new(
            format!("{under} partitions are under their minimum in sync"),
            "producers with acks=all are refused there until enough replicas are back",
            typed(place, &format!("run {name} -- cluster")),
        ));
    }
    let controllers: f64 = told(seen)
        .map(|(_, page)| page.sum("tidemark_active_controller"))
        .sum();
    // Where some do not tell, the controller may be one of them.
    let all_told = seen.metrics.iter().all(|(_, page)| page.is_ok());
    if all_told && !seen.metrics.is_empty() && controllers != 1.0 {
        findings.push(Finding::new(
            format!("{controllers} brokers say that they are the controller"),
            "without one no leader is elected and no topic made; an election takes seconds",
            typed(place, &format!("run {name} -- cluster quorum describe")),
        ));
    }
    let brokers = told(seen).count();
    Check::new(
        "metrics",
        format!(
            "{} tell, one is the controller",
            plural(brokers as i64, "broker")
        ),
        findings,
    )
}

fn of_disks(seen: &Seen, name: &str) -> Check {
    let mut findings = Vec::new();
    let mut disks = 0;
    for (id, page) in told(seen) {
        let full = page.sum("tidemark_disk_read_only") > 0.0;
        for free in page.all("tidemark_disk_free_bytes") {
            disks += 1;
            let capacity = page.all("tidemark_disk_capacity_bytes").iter();
            let capacity = capacity
                .filter(|one| one.labels == free.labels)
                .map(|one| one.value);
            let percent = 100.0 * free.value / capacity.sum::<f64>().max(1.0);
            if percent >= f64::from(seen.low_disk) && !full {
                continue;
            }
            let pools = seen.cluster.spec.pools.iter();
            let index = pools
                .clone()
                .position(|pool| pool_of(seen, id) == Some(pool.name.as_str()))
                .unwrap_or(0);
            let size = pools
                .clone()
                .nth(index)
                .map_or("", |pool| pool.storage.size.as_str());
            let left = format!(
                "broker {id} has {} left, {percent:.0}% of its disk",
                bytes(free.value as i64),
            );
            findings.push(Finding::new(
                match full {
                    true => format!("{left}: it takes no records"),
                    false => left,
                },
                "a broker whose disk is full refuses writes; a claim grows while it is in use, where its class allows it",
                format!(
                    "kubectl patch cluster.tidemark.dev {name} --type=json -p '[{{\"op\":\"replace\",\"path\":\"/spec/pools/{index}/storage/size\",\"value\":\"{}\"}}]'",
                    doubled(size)
                ),
            ));
        }
    }
    Check::new(
        "claims",
        format!("{} with room", plural(disks, "disk")),
        findings,
    )
}

fn pool_of(seen: &Seen, broker: i32) -> Option<&str> {
    let brokers = &seen.cluster.status.as_ref()?.brokers;
    let broker = brokers.iter().find(|one| one.id == broker)?;
    Some(&broker.pool)
}

/// Twice a size, in the same unit.
fn doubled(size: &str) -> String {
    let digits = size.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = size.split_at(digits);
    match number.parse::<u64>() {
        Ok(number) => format!("{}{unit}", number.saturating_mul(2)),
        Err(_) => "SIZE".to_owned(),
    }
}

fn of_certificates(seen: &Seen, name: &str, now_ms: i64) -> Check {
    let mut findings = Vec::new();
    let mut looked_at = 0;
    for (id, page) in told(seen) {
        for one in page.all("tidemark_certificate_expiry_timestamp_seconds") {
            looked_at += 1;
            let listener = one.labels.get("listener");
            let listener = listener.map_or("its listener", String::as_str);
            let whose = format!("of broker {id} for {listener}");
            let next = "kubectl get cluster.tidemark.dev NAME -o jsonpath='{.status.certificates}'";
            let next = next.replace("NAME", name);
            let ends_ms = (one.value * 1_000.0) as i64;
            findings.extend(certificates::judge(&whose, ends_ms, now_ms, &next));
        }
    }
    Check::new(
        "certificates",
        format!("{} last", plural(looked_at, "certificate")),
        findings,
    )
}

fn of_clocks(seen: &Seen) -> Check {
    let mut findings = Vec::new();
    for (id, page) in told(seen) {
        let Some(clock) = page.all("tidemark_clock_timestamp_seconds").first() else {
            continue;
        };
        let clock_ms = (clock.value * 1_000.0) as i64;
        let Some((from_ms, to_ms)) = seen.asked_ms.get(&id) else {
            continue;
        };
        let off = match (from_ms - clock_ms, clock_ms - to_ms) {
            (behind_ms, _) if behind_ms > SKEW_MS => {
                format!("{} behind", format_duration(behind_ms))
            }
            (_, ahead_ms) if ahead_ms > SKEW_MS => {
                format!("{} ahead of", format_duration(ahead_ms))
            }
            _ => continue,
        };
        findings.push(Finding::new(
            format!("the clock of broker {id} is {off} this machine's"),
            "retention, and records that are stamped on arrival, go by the broker's clock; certificates look expired or not valid yet",
            format!("compare the clocks: date -u here, and chronyc tracking or timedatectl on the node of broker {id}"),
        ));
    }
    Check::new(
        "brokers' clocks",
        "they agree with this machine's",
        findings,
    )
}

fn of_tier(seen: &Seen, name: &str, place: &Place) -> Check {
    let mut findings = Vec::new();
    for (id, page) in told(seen) {
        let lag = page.sum("tidemark_tier_lag_seconds");
        if lag > LATE_SECONDS {
            let failures = page.sum("tidemark_tier_failures_total");
            findings.push(Finding::new(
                format!("records of broker {id} wait since {} to be in the bucket", format_duration((lag * 1_000.0) as i64)),
                format!("{failures} uploads and reads failed since it started; what is not in the bucket fills its disk"),
                typed(place, &format!("logs {name} --broker {id}")),
            ));
        }
    }
    Check::new("bucket", "nothing waits for it", findings)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seen(page: &str) -> Seen {
        let cluster = json!({
            "apiVersion": "tidemark.dev/v1alpha1", "kind": "Cluster", "metadata": {"name": "orders"},
            "spec": {"pools": [{"name": "a", "replicas": 1, "storage": {"size": "1Gi"}}, {"name": "b", "replicas": 1, "storage": {"size": "10Gi"}}]},
            "status": {"ready": "1/1", "brokers": [{"id": 0, "pool": "b", "state": "Ready", "stale": false}],
                "conditions": [{"type": "Ready", "status": "True", "reason": "Serving", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
        });
        Seen {
            cluster: serde_json::from_value(cluster).expect("a Cluster"),
            topics: vec![],
            groups: vec![],
            metrics: vec![(0, Ok(Metrics::read(page)))],
            asked_ms: [(0, (999_999_999_000, 1_000_000_000_000))].into(),
            low_disk: 10,
        }
    }

    /// What is found with these lines in a page that is well.
    fn found(lines: &str) -> Vec<(String, String)> {
        let page = format!("tidemark_active_controller 1\n{lines}");
        let checks = judge(&seen(&page), "orders", &Place::default(), 1_000_000_000_000);
        let all = checks.into_iter().flat_map(Check::into_findings);
        all.map(|finding| (finding.what, finding.next)).collect()
    }

    #[test]
    fn what_is_wrong_is_found_and_what_is_well_is_not() {
        assert_eq!(found(""), []);
        assert_eq!(
            found(
                "tidemark_disk_free_bytes{directory=\"d\"} 90\ntidemark_disk_capacity_bytes{directory=\"d\"} 100\n"
            ),
            []
        );
        let little = "tidemark_disk_free_bytes{directory=\"d\"} 9\ntidemark_disk_capacity_bytes{directory=\"d\"} 100\n";
        let (what, next) = found(little).remove(0);
        assert_eq!(what, "broker 0 has 9 B left, 9% of its disk");
        assert!(
            next.contains("/spec/pools/1/storage/size") && next.contains("20Gi"),
            "{next}"
        );
        for (line, says) in [
            (
                "tidemark_under_min_isr_partitions 2",
                "2 partitions are under their minimum",
            ),
            ("tidemark_active_controller 1", "2 brokers say"),
            ("tidemark_tier_lag_seconds 4000", "wait since 1h"),
            (
                "tidemark_clock_timestamp_seconds 999999900",
                "the clock of broker 0 is 1m39s behind this machine's",
            ),
            (
                "tidemark_clock_timestamp_seconds 1000003600",
                "1h ahead of this machine's",
            ),
            (
                "tidemark_certificate_expiry_timestamp_seconds{listener=\"SSL\"} 1000086400",
                "for SSL ends in 1d",
            ),
            (
                "tidemark_certificate_expiry_timestamp_seconds{listener=\"SSL\"} 999999999",
                "ended at 2001-09-09",
            ),
        ] {
            let found = found(line);
            assert!(
                found.len() == 1 && found[0].0.contains(says),
                "{line}: {found:?}"
            );
        }
        assert_eq!(
            found(
                "tidemark_certificate_expiry_timestamp_seconds 2000000000\ntidemark_tier_lag_seconds 12\ntidemark_clock_timestamp_seconds 999999996"
            ),
            []
        );
    }

    #[test]
    fn how_much_room_there_has_to_be_is_the_callers() {
        let page = "tidemark_disk_free_bytes{directory=\"d\"} 9\ntidemark_disk_capacity_bytes{directory=\"d\"} 100\n";
        let found_below = |low_disk| {
            let seen = Seen {
                low_disk,
                ..seen(page)
            };
            of_disks(&seen, "orders").into_findings().len()
        };
        assert_eq!((found_below(10), found_below(9)), (1, 0));
    }

    #[test]
    fn a_broker_that_tells_nothing_is_found() {
        let mut silent = seen("");
        silent.metrics = vec![(0, Err("refused".to_owned()))];
        let checks = judge(&silent, "orders", &Place::default(), 0);
        let all: Vec<Finding> = checks.into_iter().flat_map(Check::into_findings).collect();
        assert_eq!(all.len(), 1, "{all:?}");
        assert!(all[0].next.contains("logs orders --broker 0"));
    }

    #[test]
    fn a_size_is_doubled_in_its_unit() {
        assert_eq!(doubled("10Gi"), "20Gi");
        assert_eq!(doubled("x"), "SIZE");
    }
}
