//! `tidemark format`: gives data directories their identity.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use tidemark_config::{BrokerLayers, BrokerSettings, ConfigMap};
use tidemark_env::disk::{Disk, FileDisk};
use tidemark_env::{random, task};
use tidemark_server::{FormatError, Formatted, InitialVoter, Voters};
use tidemark_wire::Uuid;

use super::broker::read_settings;
use crate::context::{Context, parse_setting};
use crate::failure::{Exit, Failure};
use crate::output::Table;

/// Give a broker's empty data directories their identity, once
///
/// A broker starts only in formatted directories: one whose disk was lost would otherwise come
/// back as if nothing had been on it. Without a list of voters, and with no other controllers in
/// the file, the node begins a quorum of its own. For a cluster, make up one id for each
/// controller's directory (`--random-uuid`) and one for the cluster, and format every node with
/// the same list:
///
///   tidemark format --config 1.yaml --cluster-id ID --initial-voters 1@a:9093:ID1,2@b:9093:ID2,3@c:9093:ID3
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The broker's configuration, a YAML file with a `config:` map of settings by Kafka's names
    #[arg(long, value_name = "FILE", required_unless_present = "random_uuid")]
    pub config: Option<PathBuf>,
    /// A setting that goes before the file's, by Kafka's name
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_setting)]
    pub set: Vec<(String, String)>,
    /// The cluster, the same for every node; made up and printed where it is not given
    #[arg(long, value_name = "ID")]
    pub cluster_id: Option<Uuid>,
    /// The controllers that begin the quorum, as NODE@HOST:PORT:DIRECTORY_ID with commas between
    #[arg(
        long,
        visible_alias = "initial-controllers",
        value_name = "VOTERS",
        value_delimiter = ',',
        value_parser = parse_voter
    )]
    pub initial_voters: Vec<InitialVoter>,
    /// Begin a quorum of this node alone
    #[arg(long, conflicts_with_all = ["initial_voters", "no_initial_voters"])]
    pub standalone: bool,
    /// Join a quorum that there is, or follow it without a vote
    #[arg(
        long,
        visible_alias = "no-initial-controllers",
        conflicts_with = "initial_voters"
    )]
    pub no_initial_voters: bool,
    /// No error where everything is formatted already
    #[arg(long)]
    pub ignore_formatted: bool,
    /// Print one random id and do nothing else
    #[arg(long, conflicts_with_all = ["config", "set", "cluster_id", "initial_voters"])]
    pub random_uuid: bool,
}

/// Reads `NODE@HOST:PORT:DIRECTORY_ID`.
fn parse_voter(text: &str) -> Result<InitialVoter, String> {
    let parts = || {
        let (node_id, rest) = text.split_once('@')?;
        let (address, directory_id) = rest.rsplit_once(':')?;
        let (_, port) = address.rsplit_once(':')?;
        port.parse::<u16>().ok().filter(|port| *port > 0)?;
        Some(InitialVoter {
            node_id: node_id.parse().ok()?,
            address: address.to_owned(),
            directory_id: directory_id.parse().ok()?,
        })
    };
    parts().ok_or_else(|| {
        "voters are written NODE@HOST:PORT:DIRECTORY_ID; `tidemark format --random-uuid` prints a directory id".to_owned()
    })
}

/// A random id, as directories and clusters have.
pub fn random_uuid() -> Uuid {
    let mut bytes = [0; 16];
    random::fill(&mut bytes);
    Uuid::from_random(bytes)
}

/// The settings of a node as its file and command line say them.
pub fn resolve(settings: &ConfigMap) -> Result<BrokerSettings, Failure> {
    let none = ConfigMap::new();
    let layers = BrokerLayers {
        dynamic: &none,
        dynamic_default: &none,
        fixed: settings,
    };
    BrokerSettings::resolve(layers).map_err(|error| Failure::usage(error.to_string()))
}

/// Formats what `settings` describe.
pub async fn format(
    settings: BrokerSettings,
    cluster_id: Option<Uuid>,
    voters: Voters,
) -> Result<Formatted, FormatFailure> {
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::new());
    let formatting =
        move || tidemark_server::format(&disk, &settings, cluster_id, &voters, random_uuid);
    match task::blocking(formatting).await {
        Ok(Ok(formatted)) => Ok(formatted),
        Ok(Err(error)) => Err(FormatFailure::Format(error)),
        Err(error) => Err(FormatFailure::Other(Failure::bug(error))),
    }
}

/// Why nothing was formatted.
#[derive(Debug)]
pub enum FormatFailure {
    /// It was refused, or the disk failed.
    Format(FormatError),
    /// Anything else.
    Other(Failure),
}

impl From<FormatFailure> for Failure {
    fn from(failure: FormatFailure) -> Self {
        match failure {
            FormatFailure::Other(failure) => failure,
            FormatFailure::Format(error) => {
                let usage = !matches!(error, FormatError::Identity(_) | FormatError::Store(_));
                let text = error.to_string();
                match error {
                    FormatError::Already { .. } => {
                        Failure::finding(text).next("tidemark broker --config FILE")
                    }
                    _ if usage => Failure::usage(text),
                    _ => Failure::finding(text),
                }
            }
        }
    }
}

/// One formatted directory, for scripts.
#[derive(Debug, Serialize)]
struct Row {
    directory: String,
    directory_id: String,
    roles: Vec<&'static str>,
}

/// What was formatted, for scripts.
#[derive(Debug, Serialize)]
struct Report {
    cluster_id: String,
    node_id: i32,
    directories: Vec<Row>,
}

fn report(formatted: &Formatted, settings: &BrokerSettings) -> Report {
    let row = |(path, id): &(PathBuf, Uuid)| {
        let holds_logs = settings
            .log_dirs
            .iter()
            .any(|dir| path.as_os_str() == &**dir);
        let quorum = formatted.quorum.as_ref();
        let holds_quorum = quorum.is_some_and(|dir| dir.parent() == Some(path));
        let roles = [(holds_logs, "logs"), (holds_quorum, "metadata quorum")];
        Row {
            directory: path.display().to_string(),
            directory_id: id.to_string(),
            roles: roles
                .iter()
                .filter_map(|(is, role)| is.then_some(*role))
                .collect(),
        }
    };
    Report {
        cluster_id: formatted.cluster_id.to_string(),
        node_id: formatted.node_id,
        directories: formatted.directories.iter().map(row).collect(),
    }
}

/// Runs the command.
pub async fn run(args: Args, context: &mut Context) -> Result<Exit, Failure> {
    let Some(file) = args.config.as_ref().filter(|_| !args.random_uuid) else {
        context.out.line(&random_uuid().to_string())?;
        return Ok(Exit::Ok);
    };
    let mut map = read_settings(file)?;
    map.extend(args.set);
    let settings = resolve(&map)?;
    let alone = settings.quorum.bootstrap_servers.len() <= 1;
    let voters = match (args.standalone, args.no_initial_voters) {
        (true, _) => Voters::Standalone,
        (_, true) => Voters::Others,
        _ if !args.initial_voters.is_empty() => Voters::Initial(args.initial_voters),
        _ if !settings.roles.controller => Voters::Others,
        _ if alone => Voters::Standalone,
        _ => {
            return Err(Failure::usage(
                "the file names several controllers: say who begins the quorum with --initial-voters NODE@HOST:PORT:DIRECTORY_ID,…, or --no-initial-voters where there is one already",
            )
            .next("tidemark format --random-uuid, once for each controller"));
        }
    };
    let formatted = match format(settings.clone(), args.cluster_id, voters).await {
        Err(FormatFailure::Format(FormatError::Already { .. })) if args.ignore_formatted => {
            let (disk, of): (Arc<dyn Disk>, _) = (Arc::new(FileDisk::new()), settings.clone());
            let read = task::blocking(move || tidemark_server::read_formatted(&disk, &of)).await;
            match read.map_err(Failure::bug)? {
                Ok(Ok(formatted)) => formatted,
                Ok(Err(error)) => return Err(Failure::finding(error.to_string())),
                Err(error) => return Err(FormatFailure::Format(error).into()),
            }
        }
        other => other?,
    };
    let report = report(&formatted, &settings);
    context.out.show(&report, |out| {
        out.line(&format!(
            "node {} of cluster {}",
            report.node_id, report.cluster_id
        ))?;
        let mut table = Table::new(&["DIRECTORY", "DIRECTORY ID", "FOR"]);
        for row in &report.directories {
            table.row(vec![
                row.directory.clone(),
                row.directory_id.clone(),
                row.roles.join(", "),
            ]);
        }
        out.table(&table)?;
        out.line(&format!(
            "next:  tidemark broker --config {}",
            file.display()
        ))
    })?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn voters_are_read_as_kafka_writes_them() {
        let id = random_uuid();
        let voter = parse_voter(&format!("3@[::1]:9093:{id}")).unwrap();
        assert_eq!((voter.node_id, voter.address.as_str()), (3, "[::1]:9093"));
        assert_eq!(voter.directory_id, id);
        for bad in [
            "3",
            "3@host:9093",
            "x@host:9093:AAAA",
            "3@host:0:AAAAAAAAAAAAAAAAAAAAAQ",
        ] {
            assert!(parse_voter(bad).unwrap_err().contains("NODE@HOST"), "{bad}");
        }
    }
}
