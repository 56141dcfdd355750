//! Where replicas should be: plans read and shown. What decides is the client's placement.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use tidemark_client::admin::RegisteredBroker;
pub use tidemark_client::admin::placement::{Move, Target, current, drain, spread};
use tidemark_client::{Cluster, TopicPartition};

use crate::failure::Failure;
use crate::output::{Out, Table, ids};

/// A file as Kafka's own tool reads and writes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanFile {
    /// Always 1.
    pub version: i32,
    /// Where each partition should be.
    pub partitions: Vec<PlannedPartition>,
}

/// One partition of a [`PlanFile`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedPartition {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The brokers that should hold it, first the preferred leader.
    pub replicas: Vec<i32>,
}

impl PlannedPartition {
    /// Which partition.
    pub fn at(&self) -> TopicPartition {
        TopicPartition::new(self.topic.clone(), self.partition)
    }
}

/// Reads a plan file.
pub fn parse(text: &str) -> Result<PlanFile, String> {
    let plan: PlanFile = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if plan.version != 1 {
        return Err(format!("version {} is not known, only 1", plan.version));
    }
    let mut seen = BTreeSet::new();
    for partition in &plan.partitions {
        let at = partition.at();
        let distinct: BTreeSet<&i32> = partition.replicas.iter().collect();
        if distinct.is_empty() {
            return Err(format!("{at} would have no replicas"));
        }
        if distinct.len() < partition.replicas.len() {
            return Err(format!("{at} names a broker twice"));
        }
        if !seen.insert(at.clone()) {
            return Err(format!("{at} is planned twice"));
        }
    }
    Ok(plan)
}

/// A broker that is registered.
pub async fn known_broker(cluster: &Cluster, id: i32) -> Result<RegisteredBroker, Failure> {
    let all = cluster.registered_brokers().await?;
    let known: Vec<i32> = all.iter().map(|one| one.broker.id).collect();
    let found = all.into_iter().find(|one| one.broker.id == id);
    found.ok_or_else(|| {
        Failure::usage(format!(
            "there is no broker {id} in the cluster, only {}",
            ids(&known)
        ))
        .next("tidemark cluster describe")
    })
}

/// The brokers that replicas can be put on: all that are up and not cordoned, or of these the
/// ones named.
pub async fn targets(cluster: &Cluster, named: &[i32]) -> Result<Vec<Target>, Failure> {
    let all = cluster.registered_brokers().await?;
    for id in named {
        match all.iter().find(|one| one.broker.id == *id) {
            Some(one) if !one.fenced => {}
            Some(_) => {
                return Err(Failure::finding(format!(
                    "broker {id} is fenced: it is not up"
                )));
            }
            None => {
                return Err(
                    Failure::usage(format!("there is no broker {id} in the cluster"))
                        .next("tidemark cluster describe"),
                );
            }
        }
    }
    let mut targets = Vec::new();
    for one in all.into_iter().filter(|one| !one.fenced) {
        let id = one.broker.id;
        if !named.is_empty() && !named.contains(&id) {
            continue;
        }
        // One that was named is taken at the person's word: the controller refuses it if need be.
        if named.is_empty() && is_cordoned(cluster, id).await {
            continue;
        }
        targets.push(Target {
            id,
            rack: one.broker.rack,
        });
    }
    Ok(targets)
}

/// Whether all directories of a broker are cordoned, as far as it tells.
async fn is_cordoned(cluster: &Cluster, id: i32) -> bool {
    let dirs = cluster.describe_log_dirs(id).await;
    dirs.is_ok_and(|dirs| !dirs.is_empty() && dirs.iter().all(|dir| dir.cordoned))
}

/// A table of moves.
pub fn show(out: &mut Out, moves: &[Move]) -> Result<(), Failure> {
    let mut table = Table::new(&["PARTITION", "FROM", "TO"]);
    for one in moves {
        table.row(vec![one.at().to_string(), ids(&one.from), ids(&one.to)]);
    }
    out.table(&table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plan_files_are_kafkas() {
        let text = r#"{"version":1,"partitions":[
            {"topic":"t","partition":0,"replicas":[1,2],"log_dirs":["any","any"]}]}"#;
        let plan = parse(text).unwrap();
        assert_eq!(plan.partitions[0].replicas, [1, 2]);
        let written = serde_json::to_string(&plan).unwrap();
        assert_eq!(parse(&written).unwrap(), plan);
        for (bad, said) in [
            (r#"{"version":2,"partitions":[]}"#, "version 2"),
            (
                r#"{"version":1,"partitions":[{"topic":"t","partition":0,"replicas":[]}]}"#,
                "no replicas",
            ),
            (
                r#"{"version":1,"partitions":[{"topic":"t","partition":0,"replicas":[1,1]}]}"#,
                "twice",
            ),
            (
                r#"{"version":1,"partitions":[{"topic":"t","partition":0,"replicas":[1]},{"topic":"t","partition":0,"replicas":[2]}]}"#,
                "planned twice",
            ),
            ("{", "EOF"),
        ] {
            let error = parse(bad).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }
}
