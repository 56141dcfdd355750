//! `tidemark log`: looks into log files.

use std::path::PathBuf;

use crate::context::Context;
use crate::failure::{Exit, Failure};

/// Look into log files
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show the batches of a segment file
    Dump(DumpArgs),
}

/// Show the batches of a segment file
#[derive(Debug, clap::Args)]
pub struct DumpArgs {
    /// A .log file of ours or of Kafka's
    file: PathBuf,
    /// Show the records too
    #[arg(long)]
    records: bool,
}

/// Runs the command.
pub async fn run(command: Command, _context: &mut Context) -> Result<Exit, Failure> {
    match command {
        Command::Dump(args) => Err(Failure::finding(format!(
            "{} cannot be shown: this build cannot read log files yet (records: {})",
            args.file.display(),
            args.records
        ))),
    }
}
