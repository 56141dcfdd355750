//! `tidemark topic list`.

use serde::Serialize;
use tidemark_client::{TopicInfo, Topics};

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::Table;

/// List topics
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only topics whose name contains this
    filter: Option<String>,
    /// Also those that the cluster keeps for itself
    #[arg(long)]
    internal: bool,
}

#[derive(Debug, Serialize)]
struct Row {
    topic: String,
    id: String,
    partitions: usize,
    replicas: usize,
    /// Partitions with fewer replicas in sync than there should be.
    under_replicated: usize,
    /// Partitions without a leader.
    offline: usize,
    internal: bool,
}

impl Row {
    fn new(topic: &TopicInfo) -> Self {
        let partitions = topic.partitions.values();
        Self {
            topic: topic.name.clone(),
            id: topic.id.to_string(),
            partitions: topic.partitions.len(),
            replicas: partitions
                .clone()
                .map(|p| p.replicas.len())
                .max()
                .unwrap_or(0),
            under_replicated: partitions
                .clone()
                .filter(|p| p.isr.len() < p.replicas.len())
                .count(),
            offline: partitions.filter(|p| p.leader.is_none()).count(),
            internal: topic.internal,
        }
    }
}

/// Runs the command.
pub async fn run(args: Args, context: &mut Context) -> Result<Exit, Failure> {
    let cluster = context.cluster().await?;
    let info = cluster.metadata(Topics::All).await?;
    let rows: Vec<Row> = info
        .topics
        .values()
        .filter(|topic| args.internal || !topic.internal)
        .filter(|topic| {
            args.filter
                .as_deref()
                .is_none_or(|text| topic.name.contains(text))
        })
        .map(Row::new)
        .collect();
    context.out.show(&rows, |out| {
        if rows.is_empty() {
            return out.line("No topics. Make one: tidemark topic create NAME");
        }
        let mut table = Table::new(&[
            "TOPIC",
            "PARTITIONS",
            "REPLICAS",
            "UNDER-REPLICATED",
            "OFFLINE",
        ]);
        for row in &rows {
            table.row(vec![
                row.topic.clone(),
                row.partitions.to_string(),
                row.replicas.to_string(),
                row.under_replicated.to_string(),
                row.offline.to_string(),
            ]);
        }
        out.table(&table)
    })?;
    Ok(Exit::Ok)
}
