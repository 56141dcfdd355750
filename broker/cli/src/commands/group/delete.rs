//! `tidemark group delete`.

use serde::Serialize;
use tidemark_wire::ErrorCode;

use super::unknown_group;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::{Table, plural};

/// Delete groups and their offsets (shows what would go; --execute does it)
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Their ids
    #[arg(required = true)]
    groups: Vec<String>,
    /// Do it
    #[arg(long)]
    execute: bool,
}

#[derive(Debug, Serialize)]
struct Row {
    group: String,
    state: String,
    members: usize,
    offsets: usize,
    deleted: bool,
    error: Option<String>,
}

/// Runs the command.
pub async fn run(args: Args, context: &mut Context) -> Result<Exit, Failure> {
    let cluster = context.cluster().await?;
    let mut rows = Vec::new();
    for group in &args.groups {
        let Some(described) = cluster.describe_group(group).await? else {
            return Err(unknown_group(&cluster, group).await);
        };
        rows.push(Row {
            group: group.clone(),
            state: described.state,
            members: described.members.len(),
            offsets: cluster.group_offsets(group).await?.len(),
            deleted: false,
            error: None,
        });
    }
    if args.execute {
        for row in &mut rows {
            match cluster.delete_group(&row.group).await {
                Ok(()) => row.deleted = true,
                Err(error) if error.code() == Some(ErrorCode::NonEmptyGroup) => {
                    row.error = Some(format!(
                        "has {}: stop them first",
                        plural(row.members as i64, "member")
                    ));
                }
                Err(error) => row.error = Some(error.to_string()),
            }
        }
    }
    context.out.show(&rows, |out| {
        let mut table = Table::new(&["GROUP", "STATE", "MEMBERS", "OFFSETS", "RESULT"]);
        for row in &rows {
            table.row(vec![
                row.group.clone(),
                row.state.clone(),
                row.members.to_string(),
                row.offsets.to_string(),
                match (&row.error, row.deleted) {
                    (Some(error), _) => error.clone(),
                    (None, true) => "deleted".to_owned(),
                    (None, false) if row.members > 0 => "has members: stop them first".to_owned(),
                    (None, false) => "would be deleted".to_owned(),
                },
            ]);
        }
        out.table(&table)?;
        if !args.execute {
            let groups = args.groups.join(" ");
            out.line(&format!(
                "Nothing was done. To do it: tidemark group delete {groups} --execute"
            ))?;
        }
        Ok(())
    })?;
    let failed = rows.iter().any(|row| row.error.is_some());
    Ok(if failed { Exit::Finding } else { Exit::Ok })
}
