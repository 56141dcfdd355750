//! `tidemark topic import`: takes in a partition directory written by Kafka.

use std::path::PathBuf;

use crate::context::Context;
use crate::failure::{Exit, Failure};

/// Take in a partition directory written by Kafka, offsets kept
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The directory, named as Kafka names it: TOPIC-PARTITION
    dir: PathBuf,
}

/// Runs the command.
pub async fn run(args: Args, _context: &mut Context) -> Result<Exit, Failure> {
    Err(Failure::finding(format!(
        "{} cannot be imported: this build has no broker yet",
        args.dir.display()
    )))
}
