//! `tidemark group list`.

use serde::Serialize;

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::Table;

/// List groups
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only groups whose id contains this
    filter: Option<String>,
    /// Only groups in this state, such as Stable or Empty
    #[arg(long)]
    state: Option<String>,
}

#[derive(Debug, Serialize)]
struct Row {
    group: String,
    state: String,
    #[serde(rename = "type")]
    group_type: String,
    protocol_type: String,
    coordinator: i32,
}

/// Runs the command.
pub async fn run(args: Args, context: &mut Context) -> Result<Exit, Failure> {
    let cluster = context.cluster().await?;
    let rows: Vec<Row> = cluster
        .list_groups()
        .await?
        .into_iter()
        .filter(|g| {
            args.filter
                .as_deref()
                .is_none_or(|text| g.group.contains(text))
        })
        .filter(|g| {
            args.state
                .as_deref()
                .is_none_or(|state| g.state.eq_ignore_ascii_case(state))
        })
        .map(|g| Row {
            group: g.group,
            state: g.state,
            group_type: g.group_type,
            protocol_type: g.protocol_type,
            coordinator: g.coordinator,
        })
        .collect();
    context.out.show(&rows, |out| {
        if rows.is_empty() {
            return out.line("No groups. One begins with: tidemark consume TOPIC --group NAME");
        }
        let mut table = Table::new(&["GROUP", "STATE", "TYPE", "COORDINATOR"]);
        for row in &rows {
            table.row(vec![
                row.group.clone(),
                row.state.clone(),
                row.group_type.clone(),
                row.coordinator.to_string(),
            ]);
        }
        out.table(&table)
    })?;
    Ok(Exit::Ok)
}
