//! `tidemark topic describe`.

use std::collections::BTreeMap;

use serde::Serialize;
use tidemark_client::admin::{ConfigEntry, ConfigResource, ConfigSource, OffsetSpec};
use tidemark_client::{ClientError, Cluster, TopicInfo, TopicPartition};

use crate::commands::config::{SettingReport, is_unhonoured, settings_table};
use crate::context::{Context, existing_topic};
use crate::failure::{Exit, Failure};
use crate::output::{Table, bytes, count, ids, plural};

/// Show a topic's partitions and settings
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Its name
    name: String,
    /// Show all settings, not only those that were set
    #[arg(long, short = 'a')]
    all: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    topic: String,
    id: String,
    internal: bool,
    records: Option<i64>,
    bytes: Option<i64>,
    partitions: Vec<PartitionReport>,
    settings: Vec<SettingReport>,
}

#[derive(Debug, Serialize)]
struct PartitionReport {
    partition: i32,
    leader: Option<i32>,
    leader_epoch: i32,
    replicas: Vec<i32>,
    isr: Vec<i32>,
    /// Replicas that are down, or whose logs cannot be used.
    offline: Vec<i32>,
    start: Option<i64>,
    end: Option<i64>,
    bytes: Option<i64>,
}

/// Runs the command.
pub async fn run(args: Args, context: &mut Context) -> Result<Exit, Failure> {
    let cluster = context.cluster().await?;
    let topic = existing_topic(&cluster, &args.name).await?;
    let bounds = topic_bounds(&cluster, &topic).await?;
    let sizes = leader_sizes(&cluster, &topic).await;
    let settings = settings(&cluster, &topic.name, args.all).await?;
    let partitions: Vec<PartitionReport> = topic
        .partitions
        .values()
        .map(|p| {
            let bounds = bounds.get(&p.partition);
            PartitionReport {
                partition: p.partition,
                leader: p.leader,
                leader_epoch: p.leader_epoch,
                replicas: p.replicas.clone(),
                isr: p.isr.clone(),
                offline: p.offline.clone(),
                start: bounds.map(|b| b.0),
                end: bounds.map(|b| b.1),
                bytes: sizes.get(&p.partition).copied(),
            }
        })
        .collect();
    let report = Report {
        topic: topic.name.clone(),
        id: topic.id.to_string(),
        internal: topic.internal,
        records: partitions.iter().map(|p| Some(p.end? - p.start?)).sum(),
        bytes: partitions.iter().map(|p| p.bytes).sum(),
        partitions,
        settings,
    };
    context.out.show(&report, |out| {
        let records = report
            .records
            .map_or("?".to_owned(), |n| plural(n, "record"));
        let size = report
            .bytes
            .map(|b| format!(", {}", bytes(b)))
            .unwrap_or_default();
        out.line(&format!(
            "Topic {} (id {}): {}, {records}{size}",
            report.topic,
            report.id,
            plural(report.partitions.len() as i64, "partition"),
        ))?;
        out.line("")?;
        let mut table = Table::new(&[
            "PARTITION",
            "LEADER",
            "REPLICAS",
            "IN SYNC",
            "START",
            "END",
            "SIZE",
        ]);
        let or_none = |number: Option<i64>| number.map_or("?".to_owned(), count);
        for p in &report.partitions {
            table.row(vec![
                p.partition.to_string(),
                p.leader.map_or("none".to_owned(), |id| id.to_string()),
                ids(&p.replicas),
                ids(&p.isr),
                or_none(p.start),
                or_none(p.end),
                p.bytes.map_or("?".to_owned(), bytes),
            ]);
        }
        out.table(&table)?;
        let unled = |p: &&PartitionReport| p.leader.is_none();
        let leaderless = report.partitions.iter().filter(unled).count();
        if leaderless > 0 {
            out.line("")?;
            out.line(&format!(
                "{} without a leader: `tidemark doctor` looks for the reason",
                plural(leaderless as i64, "partition")
            ))?;
        }
        if !report.settings.is_empty() {
            out.line("")?;
            out.table(&settings_table(&report.settings))?;
        }
        Ok(())
    })?;
    Ok(Exit::Ok)
}

async fn settings(
    cluster: &Cluster,
    topic: &str,
    all: bool,
) -> Result<Vec<SettingReport>, Failure> {
    let resource = ConfigResource::Topic(topic.to_owned());
    let entries = cluster.describe_configs(&resource).await?;
    let shown = |entry: &&ConfigEntry| {
        all || entry.source == ConfigSource::Topic
            || (is_unhonoured(entry) && entry.source != ConfigSource::Default)
    };
    Ok(entries
        .iter()
        .filter(shown)
        .map(SettingReport::new)
        .collect())
}

/// First and next offset of each partition that has a leader.
pub async fn topic_bounds(
    cluster: &Cluster,
    topic: &TopicInfo,
) -> Result<BTreeMap<i32, (i64, i64)>, ClientError> {
    let led: Vec<TopicPartition> = topic
        .partitions
        .values()
        .filter(|p| p.leader.is_some())
        .map(|p| TopicPartition::new(topic.name.clone(), p.partition))
        .collect();
    let ask = |spec: OffsetSpec| led.iter().map(move |tp| (tp.clone(), spec)).collect();
    let starts = cluster
        .list_offsets(&ask(OffsetSpec::Earliest), false)
        .await?;
    let ends = cluster
        .list_offsets(&ask(OffsetSpec::Latest), false)
        .await?;
    Ok(starts
        .into_iter()
        .filter_map(|(tp, start)| Some((tp.partition, (start.offset, ends.get(&tp)?.offset))))
        .collect())
}

/// Bytes on the leader of each partition; what a broker does not tell is left out.
async fn leader_sizes(cluster: &Cluster, topic: &TopicInfo) -> BTreeMap<i32, i64> {
    let mut leaders: Vec<i32> = topic.partitions.values().filter_map(|p| p.leader).collect();
    leaders.sort_unstable();
    leaders.dedup();
    let mut sizes = BTreeMap::new();
    for leader in leaders {
        let dirs = match cluster.describe_log_dirs(leader).await {
            Ok(dirs) => dirs,
            Err(error) => {
                tracing::debug!(%error, leader, "no sizes");
                continue;
            }
        };
        for replica in dirs.into_iter().flat_map(|dir| dir.replicas) {
            let partition = replica.partition.partition;
            let led = topic.partitions.get(&partition).and_then(|p| p.leader) == Some(leader);
            if replica.partition.topic == topic.name && led {
                sizes.insert(partition, replica.size_bytes);
            }
        }
    }
    sizes
}
