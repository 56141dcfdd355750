//! `tidemark log`: looks into log files.

mod dump;

use crate::context::Context;
use crate::failure::{Exit, Failure};

/// Look into log files
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show what a file of a partition's directory holds, ours or Kafka's
    Dump(dump::Args),
}

/// Runs the command.
pub async fn run(command: Command, context: &mut Context) -> Result<Exit, Failure> {
    match command {
        Command::Dump(args) => dump::run(&args, context),
    }
}
