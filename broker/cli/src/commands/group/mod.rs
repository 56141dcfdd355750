//! `tidemark group`: consumer groups listed, described, reset and deleted.

mod delete;
mod describe;
mod lag;
mod list;
mod reset;

use tidemark_client::Cluster;

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::suggest::closest;

/// List, describe, reset and delete consumer groups
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List groups
    List(list::Args),
    /// Show a group's members, offsets and lag
    Describe(describe::Args),
    /// Draw how far a group is behind while time goes by
    Lag(lag::Args),
    /// Move a group's offsets (shows the plan; --execute does it)
    Reset(reset::Args),
    /// Delete groups and their offsets (shows what would go; --execute does it)
    Delete(delete::Args),
}

/// Runs the command.
pub async fn run(command: Command, context: &mut Context) -> Result<Exit, Failure> {
    match command {
        Command::List(args) => list::run(args, context).await,
        Command::Describe(args) => describe::run(args, context).await,
        Command::Lag(args) => lag::run(args, context).await,
        Command::Reset(args) => reset::run(args, context).await,
        Command::Delete(args) => delete::run(args, context).await,
    }
}

/// The error for a group that is not there; says which was meant.
async fn unknown_group(cluster: &Cluster, group: &str) -> Failure {
    let failure =
        Failure::finding(format!("group {group} does not exist")).next("tidemark group list");
    // Only to be helpful: the error stands without it.
    let Ok(all) = cluster.list_groups().await else {
        return failure;
    };
    match closest(group, all.iter().map(|g| g.group.as_str())) {
        Some(meant) => Failure::finding(format!(
            "group {group} does not exist; did you mean {meant}?"
        ))
        .next(format!("tidemark group describe {meant}")),
        None => failure,
    }
}
