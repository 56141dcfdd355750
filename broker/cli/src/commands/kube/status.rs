//! `kubectl tidemark status`.

use serde::Serialize;
use tidemark_crds::{Cluster, ClusterStatus, ConsumerGroup, ConsumerGroupStatus, TopicStatus};

use super::plan::{is_current, topics_of};
use super::{Kubectl, Place, cluster, typed};
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::{Table, plural};

#[derive(Debug, Serialize)]
struct Named<S> {
    name: String,
    #[serde(flatten)]
    status: S,
}

#[derive(Debug, Serialize)]
struct Report {
    cluster: Named<ClusterStatus>,
    topics: Vec<Named<TopicStatus>>,
    groups: Vec<Named<ConsumerGroupStatus>>,
}

/// All clusters.
pub async fn all(kubectl: &Kubectl, context: &mut Context) -> Result<Exit, Failure> {
    let clusters: Vec<Cluster> = kubectl.list(&["clusters.tidemark.dev"]).await?;
    let named: Vec<Named<ClusterStatus>> = clusters
        .into_iter()
        .map(|cluster| Named {
            name: cluster.metadata.name.unwrap_or_default(),
            status: cluster.status.unwrap_or_default(),
        })
        .collect();
    context.out.show(&named, |out| {
        if named.is_empty() {
            return out.line("There are no Clusters here; examples/cluster.yaml is the smallest.");
        }
        let mut table = Table::new(&["NAME", "READY", "AVAILABLE", "UNDER-REPLICATED", "MESSAGE"]);
        for one in &named {
            let lacks = one
                .status
                .partitions
                .as_ref()
                .map(|all| all.under_replicated.to_string());
            table.row(vec![
                one.name.clone(),
                one.status.ready.clone(),
                condition(&one.status, "Ready").to_owned(),
                lacks.unwrap_or_else(|| "-".to_owned()),
                one.status.message.clone(),
            ]);
        }
        out.table(&table)
    })?;
    let well = named.iter().all(|one| unwell(&one.status).is_empty());
    Ok(if well { Exit::Ok } else { Exit::Finding })
}

fn condition<'a>(status: &'a ClusterStatus, type_: &str) -> &'a str {
    let of = status.conditions.iter().find(|one| one.type_ == type_);
    of.map_or("-", |one| &one.status)
}

/// Conditions that are not as they should be, as sentences.
pub fn unwell(status: &ClusterStatus) -> Vec<String> {
    let all = status.conditions.iter().filter(|one| one.status != "True");
    all.map(|one| match one.message.is_empty() {
        true => format!("{} is {}: {}", one.type_, one.status, one.reason),
        false => format!(
            "{} is {}: {} ({})",
            one.type_, one.status, one.message, one.reason
        ),
    })
    .collect()
}

/// One cluster with what belongs to it.
pub async fn one(
    kubectl: &Kubectl,
    place: &Place,
    name: &str,
    context: &mut Context,
) -> Result<Exit, Failure> {
    let cluster = cluster(kubectl, place, name).await?;
    let groups: Vec<ConsumerGroup> = kubectl.list(&["consumergroups.tidemark.dev"]).await?;
    let current = is_current(&cluster);
    let report = Report {
        cluster: Named {
            name: name.to_owned(),
            status: cluster.status.unwrap_or_default(),
        },
        topics: topics_of(kubectl, name)
            .await?
            .into_iter()
            .map(|topic| Named {
                name: topic.metadata.name.unwrap_or_default(),
                status: topic.status.unwrap_or_default(),
            })
            .collect(),
        groups: groups
            .into_iter()
            .filter(|group| group.spec.cluster_ref.name == name)
            .map(|group| Named {
                name: group.metadata.name.unwrap_or_default(),
                status: group.status.unwrap_or_default(),
            })
            .collect(),
    };
    let unwell = unwell(&report.cluster.status);
    context.out.show(&report, |out| {
        for line in lines(name, &report.cluster.status, current) {
            out.line(&line)?;
        }
        for table in tables(&report) {
            if table.is_empty() {
                continue;
            }
            out.line("")?;
            out.table(&table)?;
        }
        if !unwell.is_empty() {
            out.line("")?;
        }
        for what in &unwell {
            out.line(what)?;
        }
        if let Some(plan) = &report.cluster.status.disruption {
            let waits = format!(
                "{} to restart ({})",
                plural(plan.restarts.len() as i64, "broker"),
                plan.reasons.join(", ")
            );
            out.line(&format!(
                "{waits}\nnext: {}",
                typed(place, &format!("plan {name}"))
            ))?;
        } else if !unwell.is_empty() {
            out.line(&format!("next: tidemark doctor --cluster {name}"))?;
        }
        Ok(())
    })?;
    Ok(if unwell.is_empty() && current {
        Exit::Ok
    } else {
        Exit::Finding
    })
}

fn lines(name: &str, status: &ClusterStatus, current: bool) -> Vec<String> {
    if status.conditions.is_empty() {
        return vec![format!("Cluster {name}: no operator has looked at it yet")];
    }
    let mut lines = vec![format!("Cluster {name}: {} brokers ready", status.ready)];
    if !current {
        lines.push("The operator has not seen the newest spec yet.".to_owned());
    }
    if !status.message.is_empty() {
        lines.push(status.message.clone());
    }
    if let Some(all) = &status.partitions {
        lines.push(format!(
            "{}, {} under-replicated, {} without a leader",
            plural(all.total, "partition"),
            all.under_replicated,
            all.offline
        ));
    }
    if let Some(bootstrap) = &status.bootstrap {
        lines.push(format!("clients begin at {bootstrap}"));
    }
    lines
}

fn tables(report: &Report) -> [Table; 3] {
    let status = &report.cluster.status;
    let mut brokers = Table::new(&["BROKER", "POOL", "STATE", "RESTART", "CONTROLLER"]);
    for broker in &status.brokers {
        let word = |is: bool, word: &str| if is { word.to_owned() } else { String::new() };
        brokers.row(vec![
            broker.id.to_string(),
            broker.pool.clone(),
            broker.state.clone(),
            word(broker.stale, "due"),
            word(status.controller == Some(broker.id), "yes"),
        ]);
    }
    let number = |number: Option<i64>| number.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let mut topics = Table::new(&["TOPIC", "PARTITIONS", "REPLICAS", "MESSAGE"]);
    for topic in &report.topics {
        topics.row(vec![
            topic.name.clone(),
            number(topic.status.partitions.map(i64::from)),
            number(topic.status.replicas.map(i64::from)),
            topic.status.message.clone(),
        ]);
    }
    let mut groups = Table::new(&["GROUP", "STATE", "MEMBERS", "LAG", "MESSAGE"]);
    for group in &report.groups {
        groups.row(vec![
            group.name.clone(),
            group.status.state.clone(),
            group.status.members.to_string(),
            number(group.status.lag.as_ref().map(|lag| lag.records)),
            group.status.message.clone(),
        ]);
    }
    [brokers, topics, groups]
}
