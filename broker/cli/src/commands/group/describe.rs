//! `tidemark group describe`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use tidemark_client::admin::{CommittedOffset, GroupDescription, ListedOffset, OffsetSpec};
use tidemark_client::{Cluster, TopicPartition, Topics};

use super::unknown_group;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::{Table, count, plural};

/// Show a group's members, offsets and lag
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Its id
    group: String,
    /// Show the members one by one
    #[arg(long, short = 'm')]
    members: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    group: String,
    state: String,
    #[serde(rename = "type")]
    group_type: String,
    assignor: String,
    coordinator: i32,
    lag: Option<i64>,
    members: Vec<MemberReport>,
    partitions: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct MemberReport {
    member: String,
    instance: Option<String>,
    client: String,
    host: String,
    partitions: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Row {
    topic: String,
    partition: i32,
    committed: Option<i64>,
    end: Option<i64>,
    lag: Option<i64>,
    client: Option<String>,
    host: Option<String>,
    member: Option<String>,
}

/// Runs the command.
pub async fn run(args: Args, context: &mut Context) -> Result<Exit, Failure> {
    let cluster = context.cluster().await?;
    let Some(described) = cluster.describe_group(&args.group).await? else {
        return Err(unknown_group(&cluster, &args.group).await);
    };
    let committed = cluster.group_offsets(&args.group).await?;
    let assigned = described.members.iter().flat_map(|m| &m.assignment);
    let partitions: BTreeSet<TopicPartition> = committed.keys().chain(assigned).cloned().collect();
    let ends = ends(&cluster, &partitions).await?;
    let report = report(described, &committed, &partitions, &ends);
    context.out.show(&report, |out| {
        let lag = report.lag.map_or("unknown".to_owned(), count);
        out.line(&format!(
            "Group {}: {}, {} group, {}, lag {lag}",
            report.group,
            report.state,
            report.group_type,
            plural(report.members.len() as i64, "member"),
        ))?;
        if !report.partitions.is_empty() {
            let mut table = Table::new(&[
                "TOPIC",
                "PARTITION",
                "COMMITTED",
                "END",
                "LAG",
                "CLIENT",
                "HOST",
            ]);
            let or_dash = |number: Option<i64>| number.map_or("-".to_owned(), count);
            for row in &report.partitions {
                table.row(vec![
                    row.topic.clone(),
                    row.partition.to_string(),
                    or_dash(row.committed),
                    or_dash(row.end),
                    or_dash(row.lag),
                    row.client.clone().unwrap_or_else(|| "-".to_owned()),
                    row.host.clone().unwrap_or_else(|| "-".to_owned()),
                ]);
            }
            out.line("")?;
            out.table(&table)?;
        }
        let idle = report
            .members
            .iter()
            .filter(|m| m.partitions.is_empty())
            .count();
        if args.members && !report.members.is_empty() {
            let mut table = Table::new(&["MEMBER", "INSTANCE", "CLIENT", "HOST", "PARTITIONS"]);
            for member in &report.members {
                table.row(vec![
                    member.member.clone(),
                    member.instance.clone().unwrap_or_else(|| "-".to_owned()),
                    member.client.clone(),
                    member.host.clone(),
                    member.partitions.join(" "),
                ]);
            }
            out.line("")?;
            out.table(&table)?;
        } else if idle > 0 {
            out.line("")?;
            out.line(&format!(
                "{} without a partition",
                plural(idle as i64, "member")
            ))?;
        }
        Ok(())
    })?;
    Ok(Exit::Ok)
}

/// The ends of those partitions that still exist and have a leader.
pub async fn ends(
    cluster: &Cluster,
    partitions: &BTreeSet<TopicPartition>,
) -> Result<BTreeMap<TopicPartition, ListedOffset>, Failure> {
    let names: BTreeSet<&str> = partitions.iter().map(|tp| tp.topic.as_str()).collect();
    let names: Vec<&str> = names.into_iter().collect();
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    let info = cluster.metadata(Topics::Named(&names)).await?;
    let wanted = partitions
        .iter()
        .filter(|tp| {
            let partition = info
                .topics
                .get(&tp.topic)
                .and_then(|t| t.partitions.get(&tp.partition));
            partition.is_some_and(|p| p.leader.is_some())
        })
        .map(|tp| (tp.clone(), OffsetSpec::Latest))
        .collect();
    Ok(cluster.list_offsets(&wanted, false).await?)
}

/// Records that are not committed, of partitions whose end is known.
pub fn lag(
    committed: &BTreeMap<TopicPartition, CommittedOffset>,
    ends: &BTreeMap<TopicPartition, ListedOffset>,
) -> i64 {
    let of = |(tp, at): (&TopicPartition, &CommittedOffset)| {
        let end = ends.get(tp)?;
        Some(end.offset.saturating_sub(at.offset).max(0))
    };
    committed.iter().filter_map(of).sum()
}

fn report(
    described: GroupDescription,
    committed: &BTreeMap<TopicPartition, CommittedOffset>,
    partitions: &BTreeSet<TopicPartition>,
    ends: &BTreeMap<TopicPartition, ListedOffset>,
) -> Report {
    let rows: Vec<Row> = partitions
        .iter()
        .map(|tp| {
            let owner = described.members.iter().find(|m| m.assignment.contains(tp));
            let committed = committed.get(tp).map(|c| c.offset);
            let end = ends.get(tp).map(|e| e.offset);
            Row {
                topic: tp.topic.clone(),
                partition: tp.partition,
                committed,
                end,
                lag: committed.zip(end).map(|(at, end)| (end - at).max(0)),
                client: owner.map(|m| m.client_id.clone()),
                host: owner.map(|m| m.host.clone()),
                member: owner.map(|m| m.member_id.clone()),
            }
        })
        .collect();
    Report {
        group: described.group,
        state: described.state,
        group_type: described.group_type,
        assignor: described.assignor,
        coordinator: described.coordinator,
        lag: rows
            .iter()
            .filter(|r| r.committed.is_some())
            .map(|r| r.lag)
            .sum(),
        members: described
            .members
            .into_iter()
            .map(|m| MemberReport {
                member: m.member_id,
                instance: m.instance_id,
                client: m.client_id,
                host: m.host,
                partitions: m.assignment.iter().map(ToString::to_string).collect(),
            })
            .collect(),
        partitions: rows,
    }
}
