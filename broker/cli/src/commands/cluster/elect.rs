//! `tidemark cluster elect`.

use serde::Serialize;
use tidemark_client::admin::{Election, leads_already};
use tidemark_client::{Cluster, PartitionInfo, TopicPartition};

use super::{Named, parse_named, partitions_of, typed};
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::{Table, ids};

/// Have leaders elected: the preferred ones, or any at the risk of losing records
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Topics, or TOPIC:PARTITION,…; with --preferred all that need it, where none is named
    #[arg(value_name = "TOPIC[:PARTITION,…]", value_parser = parse_named)]
    named: Vec<Named>,
    /// The first replica leads, where it is in sync: nothing is lost
    #[arg(long, required_unless_present = "unclean")]
    preferred: bool,
    /// Of partitions without a leader any replica leads that is up, whatever it lacks (shows what
    /// may be lost; --accept-data-loss does it)
    #[arg(long, conflicts_with = "preferred", requires = "named")]
    unclean: bool,
    /// With --unclean: do it, though acknowledged records may be lost for good
    #[arg(long, requires = "unclean")]
    accept_data_loss: bool,
}

#[derive(Debug, Serialize)]
struct Row {
    topic: String,
    partition: i32,
    leader: Option<i32>,
    /// Those that are in sync: only they are known to have everything.
    isr: Vec<i32>,
    /// Replicas that are up, and could be made leader.
    up: Vec<i32>,
    /// Replicas that are not: what only they have is lost.
    down: Vec<i32>,
    result: &'static str,
    error: Option<String>,
}

/// Runs the command.
pub async fn run(args: Args, context: &mut Context) -> Result<Exit, Failure> {
    let cluster = context.cluster().await?;
    if args.unclean {
        return unclean(&args, &cluster, context).await;
    }
    let named = partitions_of(&cluster, &args.named).await?;
    let partitions: Vec<TopicPartition> = named.into_iter().map(|(tp, _)| tp).collect();
    let of = (!args.named.is_empty()).then_some(&*partitions);
    let mut results = cluster.elect_leaders(Election::Preferred, of).await?;
    results.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut rows = Vec::with_capacity(results.len());
    for (tp, result) in results {
        let topic = cluster.fresh_topic(&tp.topic, false).await?;
        let Some(state) = topic.partitions.get(&tp.partition) else {
            continue;
        };
        rows.push(row(&tp, state, outcome(result)));
    }
    context.out.show(&rows, |out| {
        if rows.is_empty() {
            return out.line("Every preferred leader leads.");
        }
        let mut table = Table::new(&["PARTITION", "LEADER", "IN SYNC", "RESULT"]);
        for row in &rows {
            table.row(vec![
                TopicPartition::new(row.topic.clone(), row.partition).to_string(),
                row.leader.map_or("none".to_owned(), |id| id.to_string()),
                ids(&row.isr),
                row.said(),
            ]);
        }
        out.table(&table)
    })?;
    Ok(exit(&rows))
}

fn outcome(result: Result<(), tidemark_client::ClientError>) -> (&'static str, Option<String>) {
    match result {
        Ok(()) => ("elected", None),
        Err(error) if leads_already(&error) => ("leads already", None),
        Err(error) => ("refused", Some(error.to_string())),
    }
}

fn row(
    tp: &TopicPartition,
    state: &PartitionInfo,
    (result, error): (&'static str, Option<String>),
) -> Row {
    let (down, up) = state
        .replicas
        .iter()
        .partition(|id| state.offline.contains(id));
    Row {
        topic: tp.topic.clone(),
        partition: tp.partition,
        leader: state.leader,
        isr: state.isr.clone(),
        up,
        down,
        result,
        error,
    }
}

impl Row {
    fn said(&self) -> String {
        self.error.clone().unwrap_or_else(|| self.result.to_owned())
    }
}

fn exit(rows: &[Row]) -> Exit {
    match rows.iter().any(|row| row.error.is_some()) {
        true => Exit::Finding,
        false => Exit::Ok,
    }
}

async fn unclean(args: &Args, cluster: &Cluster, context: &mut Context) -> Result<Exit, Failure> {
    let named = partitions_of(cluster, &args.named).await?;
    let unled: Vec<_> = named
        .into_iter()
        .filter(|(_, state)| state.leader.is_none())
        .collect();
    let mut rows: Vec<Row> = unled
        .iter()
        .map(|(tp, state)| row(tp, state, ("would be elected", None)))
        .collect();
    if args.accept_data_loss && !unled.is_empty() {
        let partitions: Vec<TopicPartition> = unled.into_iter().map(|(tp, _)| tp).collect();
        for (tp, result) in cluster
            .elect_leaders(Election::Unclean, Some(&partitions))
            .await?
        {
            let at = |row: &&mut Row| row.topic == tp.topic && row.partition == tp.partition;
            if let Some(row) = rows.iter_mut().find(at) {
                (row.result, row.error) = outcome(result);
            }
        }
    }
    context.out.show(&rows, |out| {
        if rows.is_empty() {
            return out.line("All of these partitions have a leader: nothing has to be risked.");
        }
        let mut table = Table::new(&["PARTITION", "UP", "DOWN", "LAST IN SYNC", "RESULT"]);
        for row in &rows {
            table.row(vec![
                TopicPartition::new(row.topic.clone(), row.partition).to_string(),
                ids(&row.up),
                ids(&row.down),
                ids(&row.isr),
                row.said(),
            ]);
        }
        out.table(&table)?;
        if !args.accept_data_loss {
            out.line("")?;
            out.line(
                "What may be lost: every acknowledged record that only replicas which are down have, \
                 for good, even when they come back. Those last in sync have everything: bring one of \
                 them back instead, if you can.",
            )?;
            out.line(&format!(
                "Nothing was done. To do it: tidemark cluster elect --unclean{} --accept-data-loss",
                typed(&args.named)
            ))?;
        }
        Ok(())
    })?;
    Ok(exit(&rows))
}
