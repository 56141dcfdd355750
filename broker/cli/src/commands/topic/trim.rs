//! `tidemark topic trim`: deletes the records before a place.

use std::collections::BTreeMap;

use serde::Serialize;
use tidemark_client::TopicPartition;
use tidemark_env::clock;

use crate::commands::places::{Located, locate_all};
use crate::context::{Context, existing_topic};
use crate::failure::{Exit, Failure};
use crate::output::{Table, count};
use crate::position::{PLACES, Place, parse_place};

/// Delete old records (shows what would go; --execute does it)
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The topic
    name: String,
    /// Delete what is before: end, an offset, a time such as -7d
    #[arg(long, value_name = "PLACE", allow_hyphen_values = true)]
    before: String,
    /// Only these partitions
    #[arg(long, short = 'p', value_delimiter = ',')]
    partition: Vec<i32>,
    /// Do it
    #[arg(long)]
    execute: bool,
}

#[derive(Debug, Serialize)]
struct Row {
    topic: String,
    partition: i32,
    start: i64,
    end: i64,
    new_start: i64,
    records: i64,
    error: Option<String>,
}

/// Runs the command.
pub async fn run(args: Args, context: &mut Context) -> Result<Exit, Failure> {
    let place = parse_place(&args.before, clock::now_ms()).map_err(Failure::usage)?;
    if matches!(place, Place::Shift(_) | Place::Beginning) {
        return Err(Failure::usage(format!(
            "--before takes one of: {PLACES} (but not shift or beginning)"
        )));
    }
    let cluster = context.cluster().await?;
    let topic = existing_topic(&cluster, &args.name).await?;
    let partitions: Vec<TopicPartition> = topic
        .partitions
        .keys()
        .filter(|p| args.partition.is_empty() || args.partition.contains(p))
        .map(|p| TopicPartition::new(args.name.clone(), *p))
        .collect();
    let located = locate_all(&cluster, &partitions, place, &BTreeMap::new(), false).await?;
    let mut rows: Vec<Row> = located
        .iter()
        .map(|(tp, Located { offset, bounds, .. })| Row {
            topic: tp.topic.clone(),
            partition: tp.partition,
            start: bounds.start,
            end: bounds.end,
            new_start: *offset,
            records: offset - bounds.start,
            error: None,
        })
        .collect();
    if args.execute {
        let before = located
            .iter()
            .map(|(tp, to)| (tp.clone(), to.offset))
            .collect();
        for (tp, result) in cluster.delete_records(&before).await? {
            if let Some(row) = rows.iter_mut().find(|row| row.partition == tp.partition) {
                match result {
                    Ok(start) => row.new_start = start,
                    Err(error) => row.error = Some(error.to_string()),
                }
            }
        }
    }
    context.out.show(&rows, |out| {
        let mut table = Table::new(&[
            "PARTITION",
            "START",
            "END",
            "NEW START",
            "RECORDS",
            "RESULT",
        ]);
        for row in &rows {
            table.row(vec![
                row.partition.to_string(),
                count(row.start),
                count(row.end),
                count(row.new_start),
                count(row.records),
                match (&row.error, args.execute) {
                    (Some(error), _) => error.clone(),
                    (None, true) => "deleted".to_owned(),
                    (None, false) => "would be deleted".to_owned(),
                },
            ]);
        }
        out.table(&table)?;
        if !args.execute {
            out.line("Nothing was done. To do it, add --execute")?;
        }
        Ok(())
    })?;
    let failed = rows.iter().any(|row| row.error.is_some());
    Ok(if failed { Exit::Finding } else { Exit::Ok })
}
