//! `tidemark topic`: topics made, listed, described, changed, trimmed, deleted, imported.

mod alter;
mod create;
mod delete;
mod describe;
mod import;
mod list;
mod trim;

use crate::context::Context;
use crate::failure::{Exit, Failure};

/// Make, list, describe, change and delete topics
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a topic
    Create(create::Args),
    /// List topics
    List(list::Args),
    /// Show a topic's partitions and settings
    Describe(describe::Args),
    /// Change a topic's settings or add partitions
    Alter(alter::Args),
    /// Delete topics and all records in them (shows what would go; --execute does it)
    Delete(delete::Args),
    /// Delete old records (shows what would go; --execute does it)
    Trim(trim::Args),
    /// Take in a partition directory written by Kafka, offsets kept
    Import(import::Args),
}

/// Runs the command.
pub async fn run(command: Command, context: &mut Context) -> Result<Exit, Failure> {
    match command {
        Command::Create(args) => create::run(args, context).await,
        Command::List(args) => list::run(args, context).await,
        Command::Describe(args) => describe::run(args, context).await,
        Command::Alter(args) => alter::run(args, context).await,
        Command::Delete(args) => delete::run(args, context).await,
        Command::Trim(args) => trim::run(args, context).await,
        Command::Import(args) => import::run(args, context).await,
    }
}
