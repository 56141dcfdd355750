//! `tidemark cluster quorum force`: going on from one directory when the majority is lost.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use tidemark_env::disk::{Disk, FileDisk};
use tidemark_env::task;
use tidemark_server::QuorumDirectory;

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::{Table, plural};

/// Go on from one voter's directory alone when the majority is lost for good (shows what would be
/// lost; --accept-data-loss does it)
///
/// The process that uses the directory must be stopped. Look into the directories of all voters
/// that are left and take the one with the last entry of the highest term and index.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The directory in which the voter keeps the metadata
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Do it, though acknowledged changes of the metadata may be lost for good
    #[arg(long)]
    accept_data_loss: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    cluster_id: String,
    node: i32,
    directory: String,
    last_term: Option<u64>,
    last_index: Option<u64>,
    committed_index: Option<u64>,
    uncertain_changes: usize,
    topics: usize,
    brokers: usize,
    voters_lost: Vec<Voter>,
    done: bool,
}

#[derive(Debug, Serialize)]
struct Voter {
    node: i32,
    directory: String,
    address: String,
}

impl Report {
    fn new(found: &QuorumDirectory, done: bool) -> Self {
        let others = found.others.iter();
        Self {
            cluster_id: found.cluster_id.to_string(),
            node: found.node_id,
            directory: found.directory_id.to_string(),
            last_term: found.last.map(|last| last.0),
            last_index: found.last.map(|last| last.1),
            committed_index: found.committed,
            uncertain_changes: found.uncertain_batches,
            topics: found.topics,
            brokers: found.brokers,
            voters_lost: others
                .map(|(node, directory, address)| Voter {
                    node: *node,
                    directory: directory.to_string(),
                    address: address.clone(),
                })
                .collect(),
            done,
        }
    }
}

/// Runs the command.
pub async fn run(args: Args, context: &mut Context) -> Result<Exit, Failure> {
    let Args {
        dir,
        accept_data_loss,
    } = args;
    let path = dir.clone();
    let found = task::blocking(move || {
        let disk: Arc<dyn Disk> = Arc::new(FileDisk::new());
        let found = tidemark_server::inspect_quorum(&disk, &path)?;
        if accept_data_loss {
            tidemark_server::force_quorum(&disk, &path)?;
        }
        Ok::<_, tidemark_server::QuorumStoreError>(found)
    })
    .await
    .map_err(Failure::bug)?
    .map_err(|error| Failure::finding(error.to_string()))?;
    let report = Report::new(&found, accept_data_loss);
    context.out.show(&report, |out| {
        out.line(&format!(
            "Node {} of cluster {} knows {} and {}",
            report.node,
            report.cluster_id,
            plural(report.topics as i64, "topic"),
            plural(report.brokers as i64, "broker"),
        ))?;
        let number = |number: Option<u64>| number.map_or("none".to_owned(), |n| n.to_string());
        let mut table = Table::new(&["LAST TERM", "LAST ENTRY", "KNOWN COMMITTED", "UNCERTAIN"]);
        table.row(vec![
            number(report.last_term),
            number(report.last_index),
            number(report.committed_index),
            report.uncertain_changes.to_string(),
        ]);
        out.table(&table)?;
        out.line("")?;
        let mut table = Table::new(&["VOTER LOST", "ADDRESS", "DIRECTORY"]);
        for voter in &report.voters_lost {
            table.row(vec![
                voter.node.to_string(),
                voter.address.clone(),
                voter.directory.clone(),
            ]);
        }
        out.table(&table)?;
        if report.done {
            out.line("The node leads alone at its next start. Empty the directories of the voters that are lost before they start again: with what they have, they could go on without it.")?;
            return out.line("Then take them in again: tidemark cluster quorum add NODE --directory ID --address HOST:PORT");
        }
        out.line("What may be lost: every acknowledged change of the metadata after the last entry here, such as topics made, settings, and who is in sync; and with that records.")?;
        out.line("Uncertain changes come into force, acknowledged or not.")?;
        out.line(&format!(
            "Nothing was done. To do it: tidemark cluster quorum force --dir {} --accept-data-loss",
            dir.display()
        ))
    })?;
    Ok(Exit::Ok)
}
