//! `tidemark cluster describe`: brokers, and partitions that lack something.

use serde::Serialize;
use tidemark_client::{ClientError, ClusterInfo, PartitionInfo, TopicPartition, Topics};

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::{Table, ids, plural};

/// Partitions shown of those that lack something; JSON has all.
const SHOWN: usize = 20;

/// Show the brokers, what they lead and hold, and what is under-replicated
#[derive(Debug, clap::Args)]
pub struct Args {}

#[derive(Debug, Serialize)]
struct ClusterReport {
    cluster_id: Option<String>,
    controller: Option<i32>,
    brokers: Vec<BrokerReport>,
    partitions: usize,
    moving: Option<usize>,
    under_replicated: Vec<PartitionReport>,
}

#[derive(Debug, Serialize)]
struct BrokerReport {
    id: i32,
    address: String,
    rack: Option<String>,
    /// `null` from clusters that do not tell.
    fenced: Option<bool>,
    leaders: usize,
    replicas: usize,
    /// Replicas here that are not in sync.
    behind: usize,
}

#[derive(Debug, Serialize)]
struct PartitionReport {
    topic: String,
    partition: i32,
    leader: Option<i32>,
    replicas: Vec<i32>,
    isr: Vec<i32>,
}

/// Runs the command.
pub async fn run(_args: Args, context: &mut Context) -> Result<Exit, Failure> {
    let cluster = context.cluster().await?;
    let info = cluster.metadata(Topics::All).await?;
    let known = match cluster.registered_brokers().await {
        Ok(registered) => registered
            .into_iter()
            .map(|one| (one.broker, Some(one.fenced)))
            .collect(),
        // Brokers before Kafka 2.8.
        Err(ClientError::Unsupported { .. }) => {
            let brokers = info.brokers.values().cloned();
            brokers.map(|broker| (broker, None)).collect::<Vec<_>>()
        }
        Err(error) => return Err(error.into()),
    };
    let moving = match cluster.reassignments(None).await {
        Ok(moving) => Some(moving.len()),
        Err(ClientError::Unsupported { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let partitions = || {
        let topics = info.topics.values();
        topics.flat_map(|topic| topic.partitions.values())
    };
    let count = |holds: &dyn Fn(&PartitionInfo) -> bool| partitions().filter(|p| holds(p)).count();
    let brokers = known.into_iter().map(|(broker, fenced)| {
        let id = broker.id;
        BrokerReport {
            id,
            address: broker.address(),
            fenced,
            leaders: count(&|p| p.leader == Some(id)),
            replicas: count(&|p| p.replicas.contains(&id)),
            behind: count(&|p| p.replicas.contains(&id) && !p.isr.contains(&id)),
            rack: broker.rack,
        }
    });
    let report = ClusterReport {
        cluster_id: info.cluster_id.clone(),
        controller: info.controller,
        brokers: brokers.collect(),
        partitions: partitions().count(),
        moving,
        under_replicated: lacking(&info),
    };
    context.out.show(&report, |out| show(out, &report))?;
    Ok(Exit::Ok)
}

/// The partitions of which not all replicas are in sync, or that nobody leads.
fn lacking(info: &ClusterInfo) -> Vec<PartitionReport> {
    let mut found = Vec::new();
    for topic in info.topics.values() {
        for p in topic.partitions.values() {
            if p.leader.is_none() || p.isr.len() < p.replicas.len() {
                found.push(PartitionReport {
                    topic: topic.name.clone(),
                    partition: p.partition,
                    leader: p.leader,
                    replicas: p.replicas.clone(),
                    isr: p.isr.clone(),
                });
            }
        }
    }
    found
}

fn show(out: &mut crate::output::Out, report: &ClusterReport) -> Result<(), Failure> {
    out.line(&format!(
        "Cluster {}",
        report.cluster_id.as_deref().unwrap_or("without an id")
    ))?;
    let mut table = Table::new(&[
        "BROKER",
        "ADDRESS",
        "RACK",
        "STATE",
        "LEADERS",
        "REPLICAS",
        "BEHIND",
        "CONTROLLER",
    ]);
    for broker in &report.brokers {
        let is_controller = report.controller == Some(broker.id);
        table.row(vec![
            broker.id.to_string(),
            broker.address.clone(),
            broker.rack.clone().unwrap_or_else(|| "-".to_owned()),
            match broker.fenced {
                Some(true) => "fenced".to_owned(),
                _ => "up".to_owned(),
            },
            broker.leaders.to_string(),
            broker.replicas.to_string(),
            broker.behind.to_string(),
            match is_controller {
                true => "yes".to_owned(),
                false => String::new(),
            },
        ]);
    }
    out.table(&table)?;
    let moving = report.moving.unwrap_or(0);
    if moving > 0 {
        out.line("")?;
        out.line(&format!(
            "{} being moved: `tidemark cluster reassign` shows them",
            plural(moving as i64, "partition")
        ))?;
    }
    if report.under_replicated.is_empty() {
        return Ok(());
    }
    out.line("")?;
    let unled = report
        .under_replicated
        .iter()
        .filter(|p| p.leader.is_none());
    out.line(&format!(
        "{} of {} not in sync on all replicas, {} without a leader",
        report.under_replicated.len(),
        plural(report.partitions as i64, "partition"),
        unled.count()
    ))?;
    let mut table = Table::new(&["PARTITION", "LEADER", "REPLICAS", "IN SYNC"]);
    for p in report.under_replicated.iter().take(SHOWN) {
        table.row(vec![
            TopicPartition::new(p.topic.clone(), p.partition).to_string(),
            p.leader.map_or("none".to_owned(), |id| id.to_string()),
            ids(&p.replicas),
            ids(&p.isr),
        ]);
    }
    out.table(&table)?;
    let hidden = report.under_replicated.len().saturating_sub(SHOWN);
    if hidden > 0 {
        out.line(&format!("and {hidden} more: -o json has all"))?;
    }
    Ok(())
}
