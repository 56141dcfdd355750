//! `tidemark cluster`: who is there.

use serde::Serialize;
use tidemark_client::Topics;

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::Table;

/// Show the brokers of the cluster
#[derive(Debug, clap::Args)]
pub struct Args {}

#[derive(Debug, Serialize)]
struct ClusterReport {
    cluster_id: Option<String>,
    controller: Option<i32>,
    brokers: Vec<BrokerReport>,
}

#[derive(Debug, Serialize)]
struct BrokerReport {
    id: i32,
    address: String,
    rack: Option<String>,
    leaders: usize,
    replicas: usize,
}

/// Runs the command.
pub async fn run(_args: Args, context: &mut Context) -> Result<Exit, Failure> {
    let cluster = context.cluster().await?;
    let info = cluster.metadata(Topics::All).await?;
    let partitions = || {
        info.topics
            .values()
            .flat_map(|topic| topic.partitions.values())
    };
    let report = ClusterReport {
        cluster_id: info.cluster_id.clone(),
        controller: info.controller,
        brokers: info
            .brokers
            .values()
            .map(|broker| BrokerReport {
                id: broker.id,
                address: broker.address(),
                rack: broker.rack.clone(),
                leaders: partitions().filter(|p| p.leader == Some(broker.id)).count(),
                replicas: partitions()
                    .filter(|p| p.replicas.contains(&broker.id))
                    .count(),
            })
            .collect(),
    };
    context.out.show(&report, |out| {
        out.line(&format!(
            "Cluster {}",
            report.cluster_id.as_deref().unwrap_or("without an id")
        ))?;
        let mut table = Table::new(&[
            "BROKER",
            "ADDRESS",
            "RACK",
            "LEADERS",
            "REPLICAS",
            "CONTROLLER",
        ]);
        for broker in &report.brokers {
            let is_controller = report.controller == Some(broker.id);
            table.row(vec![
                broker.id.to_string(),
                broker.address.clone(),
                broker.rack.clone().unwrap_or_else(|| "-".to_owned()),
                broker.leaders.to_string(),
                broker.replicas.to_string(),
                if is_controller {
                    "yes".to_owned()
                } else {
                    String::new()
                },
            ]);
        }
        out.table(&table)
    })?;
    Ok(Exit::Ok)
}
