//! `tidemark topic delete`.

use serde::Serialize;

use super::describe::topic_bounds;
use crate::context::{Context, existing_topic};
use crate::failure::{Exit, Failure};
use crate::output::{Table, count};

/// Delete topics and all records in them (shows what would go; --execute does it)
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Their names
    #[arg(required = true)]
    names: Vec<String>,
    /// Do it
    #[arg(long)]
    execute: bool,
}

#[derive(Debug, Serialize)]
struct Row {
    topic: String,
    partitions: i32,
    records: i64,
    deleted: bool,
    error: Option<String>,
}

/// Runs the command.
pub async fn run(args: Args, context: &mut Context) -> Result<Exit, Failure> {
    let cluster = context.cluster().await?;
    let mut rows = Vec::new();
    for name in &args.names {
        let topic = existing_topic(&cluster, name).await?;
        let bounds = topic_bounds(&cluster, &topic).await?;
        rows.push(Row {
            topic: name.clone(),
            partitions: topic.partition_count(),
            records: bounds.values().map(|(start, end)| end - start).sum(),
            deleted: false,
            error: None,
        });
    }
    if args.execute {
        for (name, result) in cluster.delete_topics(&args.names).await? {
            if let Some(row) = rows.iter_mut().find(|row| row.topic == name) {
                row.deleted = result.is_ok();
                row.error = result.err().map(|error| error.to_string());
            }
        }
    }
    context.out.show(&rows, |out| {
        let mut table = Table::new(&["TOPIC", "PARTITIONS", "RECORDS", "RESULT"]);
        for row in &rows {
            let result = match (&row.error, row.deleted) {
                (Some(error), _) => error.clone(),
                (None, true) => "deleted".to_owned(),
                (None, false) => "would be deleted".to_owned(),
            };
            table.row(vec![
                row.topic.clone(),
                row.partitions.to_string(),
                count(row.records),
                result,
            ]);
        }
        out.table(&table)?;
        if !args.execute {
            let names = args.names.join(" ");
            out.line(&format!(
                "Nothing was done. To do it: tidemark topic delete {names} --execute"
            ))?;
        }
        Ok(())
    })?;
    let failed = rows.iter().any(|row| row.error.is_some());
    Ok(if failed { Exit::Finding } else { Exit::Ok })
}
