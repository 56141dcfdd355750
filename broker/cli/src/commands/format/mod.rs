//! `tidemark format`: gives data directories their identity.

mod formation;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use tidemark_config::{BrokerLayers, BrokerSettings, ConfigMap};
use tidemark_env::disk::{Disk, FileDisk};
use tidemark_env::{clock, random, task};
use tidemark_server::{FormatError, Formatted, InitialVoter, RestoreOptions, Unformatted, Voters};
use tidemark_wire::Uuid;

use self::formation::format_by;
use super::broker::read_settings;
use super::tier::Restoring;
use crate::context::{Context, parse_setting};
use crate::failure::{Exit, Failure};
use crate::output::Table;
use crate::when::parse_moment;

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
    /// The broker's configuration, as `tidemark broker` takes it
    #[arg(long, value_name = "FILE", required_unless_present = "random_uuid")]
    pub config: Option<PathBuf>,
    /// A setting that goes before the file's, by Kafka's name
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_setting)]
    pub set: Vec<(String, String)>,
    /// The cluster, the same for every node; made up and printed where it is not given
    #[arg(long, value_name = "ID", value_parser = parse_id)]
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
    /// Who begins the cluster, as the operator writes it; in place of the arguments that say so, and
    /// no error where everything is formatted for that cluster already
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["cluster_id", "initial_voters", "standalone", "no_initial_voters"]
    )]
    pub formation: Option<PathBuf>,
    /// Begin with what a bucket has of a lost cluster: topics, records, groups. That of tier.url is
    /// taken over, and the lost cluster, should it still run, writes nothing more there; another
    /// one is copied into that of tier.url. See `tidemark tier restore --dry-run`
    #[arg(long, value_name = "URL", conflicts_with = "no_initial_voters")]
    pub restore: Option<String>,
    /// Restore only topics of this name, in which * stands for anything; may be repeated
    #[arg(long, value_name = "NAME", requires = "restore")]
    pub restore_topic: Vec<String>,
    /// Restore as of a moment: -6h, 2026-11-22T13:00:00Z
    #[arg(
        long,
        value_name = "TIME",
        requires = "restore",
        allow_hyphen_values = true
    )]
    pub restore_at: Option<String>,
    /// Give restored topics at most so many replicas
    #[arg(long, value_name = "N", requires = "restore")]
    pub restore_replication_factor: Option<i32>,
    /// Place restored topics once there are so many brokers; those of the lost cluster otherwise
    #[arg(long, value_name = "N", requires = "restore")]
    pub restore_brokers: Option<i32>,
    /// Write what comes back to this file as well, 4 KiB at most: Kubernetes reads why a container
    /// ended from such a file
    #[arg(long, value_name = "FILE", requires = "restore")]
    pub restore_report: Option<PathBuf>,
    /// No error where everything is formatted already
    #[arg(long)]
    pub ignore_formatted: bool,
    /// Print one random id and do nothing else
    #[arg(long, conflicts_with_all = ["config", "set", "cluster_id", "initial_voters"])]
    pub random_uuid: bool,
}

/// Reads an id that may be given away: Kafka keeps the lowest hundred for itself.
fn parse_id(text: &str) -> Result<Uuid, String> {
    let wrong = |what: String| format!("{what}; `tidemark format --random-uuid` prints one");
    let id: Uuid = text.parse().map_err(|error| wrong(format!("{error}")))?;
    match id.0 {
        [high @ .., low] if low < 100 && high == [0; 15] => {
            Err(wrong(format!("'{text}' is reserved")))
        }
        _ => Ok(id),
    }
}

/// Reads `NODE@HOST:PORT:DIRECTORY_ID`.
fn parse_voter(text: &str) -> Result<InitialVoter, String> {
    let parts = || {
        let (node_id, rest) = text.split_once('@')?;
        let (address, directory_id) = rest.rsplit_once(':')?;
        let (host, port) = address.rsplit_once(':')?;
        port.parse::<u16>().ok().filter(|port| *port > 0)?;
        let node_id = node_id.parse().ok().filter(|node_id| *node_id >= 0)?;
        (!host.is_empty()).then_some((node_id, address, directory_id))
    };
    let (node_id, address, directory_id) = parts().ok_or(
        "voters are written NODE@HOST:PORT:DIRECTORY_ID; `tidemark format --random-uuid` prints a directory id",
    )?;
    Ok(InitialVoter {
        node_id,
        address: address.to_owned(),
        directory_id: parse_id(directory_id)?,
    })
}

/// A random id, as directories and clusters have. It does not begin like an option.
pub fn random_uuid() -> Uuid {
    loop {
        let mut bytes = [0; 16];
        random::fill(&mut bytes);
        let id = Uuid::from_random(bytes);
        if !id.to_string().starts_with('-') {
            return id;
        }
    }
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

/// What the arguments say is to come back.
fn restoring(args: &Args) -> Result<Option<Restoring>, Failure> {
    let at_ms = args.restore_at.as_deref().map(moment).transpose()?;
    Ok(args.restore.as_ref().map(|url| Restoring {
        url: url.clone(),
        options: RestoreOptions {
            topics: args.restore_topic.clone(),
            at_ms,
            replication_factor: args.restore_replication_factor,
            brokers: args.restore_brokers,
        },
        report: args.restore_report.clone(),
    }))
}

/// Reads a moment.
pub fn moment(text: &str) -> Result<i64, Failure> {
    parse_moment(text, clock::now_ms()).map_err(Failure::usage)
}

/// Formats what `settings` describe.
async fn format(
    settings: &BrokerSettings,
    cluster_id: Option<Uuid>,
    voters: Voters,
    restore: Option<&Restoring>,
) -> Result<Formatted, FormatFailure> {
    let (mut cluster_id, mut first) = (cluster_id, Vec::new());
    if let Some(restore) = restore
        && read(settings).await?.is_err()
    {
        let id = cluster_id.unwrap_or_else(random_uuid);
        first = restore.take_over(settings, id).await?;
        cluster_id = Some(id);
    }
    let settings = settings.clone();
    on_disk(move |disk| {
        let mut locks = Vec::new();
        // What is formatted may be in use, and is not written to.
        if tidemark_server::read_formatted(disk, &settings)?.is_err() {
            for dir in settings.log_dirs.iter().map(PathBuf::from) {
                let in_use = |error| Failure::finding(format!("data directory: {error}"));
                locks.push(disk.lock_dir(&dir).map_err(in_use)?);
            }
        }
        let made =
            tidemark_server::format_with(disk, &settings, cluster_id, &voters, &first, random_uuid);
        Ok(made?)
    })
    .await
}

/// The identities of what `settings` describe; made up by `voters` where there are none yet.
pub async fn format_once(
    settings: &BrokerSettings,
    cluster_id: Option<Uuid>,
    voters: Voters,
    restore: Option<&Restoring>,
) -> Result<Formatted, Failure> {
    match format(settings, cluster_id, voters, restore).await {
        Err(FormatFailure::Format(FormatError::Already { .. })) => {
            let formatted = read(settings).await?;
            formatted.map_err(|unformatted| Failure::finding(unformatted.to_string()))
        }
        other => Ok(other?),
    }
}

/// The identities of what `settings` describe.
async fn read(settings: &BrokerSettings) -> Result<Result<Formatted, Unformatted>, FormatFailure> {
    let settings = settings.clone();
    on_disk(move |disk| Ok(tidemark_server::read_formatted(disk, &settings)?)).await
}

/// Work on the real disk, beside the runtime.
async fn on_disk<T: Send + 'static>(
    work: impl FnOnce(&Arc<dyn Disk>) -> Result<T, FormatFailure> + Send + 'static,
) -> Result<T, FormatFailure> {
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::new());
    match task::blocking(move || work(&disk)).await {
        Ok(done) => done,
        Err(error) => Err(Failure::bug(error).into()),
    }
}

/// Fails where a directory is not formatted, with the command that does it.
pub async fn require_formatted(
    file: &Path,
    set: &[(String, String)],
    settings: &BrokerSettings,
) -> Result<(), Failure> {
    let Err(unformatted) = read(settings).await? else {
        return Ok(());
    };
    let next = command(&file.display().to_string(), set, settings);
    Err(Failure::usage(unformatted.to_string()).next(next))
}

/// The command that formats the node of a file.
fn command(file: &str, set: &[(String, String)], settings: &BrokerSettings) -> String {
    let mut command = format!("tidemark format --config {}", quoted(file));
    for (name, value) in set {
        command.push_str(&format!(" --set {}", quoted(&format!("{name}={value}"))));
    }
    if !settings.roles.controller {
        command.push_str(" --cluster-id ID");
    } else if !is_alone(settings) {
        command.push_str(" --cluster-id ID --initial-voters NODE@HOST:PORT:DIRECTORY_ID,…");
    }
    command
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,=@+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// Whether the file names no other controllers.
fn is_alone(settings: &BrokerSettings) -> bool {
    settings.quorum.bootstrap_servers.len() <= 1
}

/// Why nothing was formatted.
#[derive(Debug)]
pub enum FormatFailure {
    /// It was refused, or the disk failed.
    Format(FormatError),
    /// Anything else.
    Other(Failure),
}

impl From<FormatError> for FormatFailure {
    fn from(error: FormatError) -> Self {
        Self::Format(error)
    }
}

impl From<Failure> for FormatFailure {
    fn from(failure: Failure) -> Self {
        Self::Other(failure)
    }
}

impl From<FormatFailure> for Failure {
    fn from(failure: FormatFailure) -> Self {
        let error = match failure {
            FormatFailure::Other(failure) => return failure,
            FormatFailure::Format(error) => error,
        };
        let text = error.to_string();
        match error {
            FormatError::Already { .. } => {
                Self::finding(text).next("tidemark broker --config FILE")
            }
            FormatError::NoCluster(_) => {
                Self::usage(text).next("tidemark --bootstrap HOST:PORT cluster")
            }
            FormatError::NoDirectoryId(_) => {
                Self::usage(text).next("tidemark format --random-uuid")
            }
            FormatError::Identity(_)
            | FormatError::Store(_)
            | FormatError::Mixed { .. }
            | FormatError::Used { .. } => Self::finding(text),
            _ => Self::usage(text),
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
    let restore = restoring(&args)?;
    let restore = restore.as_ref();
    let mut map = read_settings(file)?;
    map.extend(args.set);
    let settings = resolve(&map)?;
    if let Some(formation) = &args.formation {
        let formatted = format_by(formation, &settings, restore).await?;
        let report = report(&formatted, &settings);
        context.out.show(&report, |out| {
            let (node, cluster) = (report.node_id, &report.cluster_id);
            out.line(&format!("node {node} of cluster {cluster}"))
        })?;
        return Ok(Exit::Ok);
    }
    let for_others = others_voters(&args.initial_voters);
    let voters = match (args.standalone, args.no_initial_voters) {
        (true, _) => Voters::Standalone,
        (_, true) => Voters::Others,
        _ if !args.initial_voters.is_empty() => Voters::Initial(args.initial_voters),
        _ if !settings.roles.controller => Voters::Others,
        _ if is_alone(&settings) => Voters::Standalone,
        _ => {
            return Err(Failure::usage(
                "the file names several controllers: say who begins the quorum with --initial-voters NODE@HOST:PORT:DIRECTORY_ID,…, or --no-initial-voters where there is one already",
            )
            .next("tidemark format --random-uuid, once for each controller"));
        }
    };
    let formatted = if args.ignore_formatted {
        format_once(&settings, args.cluster_id, voters, restore).await?
    } else {
        format(&settings, args.cluster_id, voters, restore).await?
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
        let file = quoted(&file.display().to_string());
        out.line(&format!("next:  tidemark broker --config {file}"))?;
        if settings.roles.controller && settings.quorum.listener.is_none() {
            return Ok(());
        }
        out.line(&format!(
            "       tidemark format --config FILE --cluster-id {} {for_others}   for each other node",
            report.cluster_id
        ))
    })?;
    Ok(Exit::Ok)
}

/// What the other nodes are formatted with.
fn others_voters(voters: &[InitialVoter]) -> String {
    if voters.is_empty() {
        return "--no-initial-voters".to_owned();
    }
    let each = voters.iter().map(|voter| {
        let (node_id, address) = (voter.node_id, &voter.address);
        format!("{node_id}@{address}:{}", voter.directory_id)
    });
    format!("--initial-voters {}", each.collect::<Vec<_>>().join(","))
}
