//! `tidemark cluster quorum`: who keeps the metadata.

use serde::Serialize;
use tidemark_client::Cluster;
use tidemark_client::admin::{Quorum, QuorumReplica};
use tidemark_env::clock;
use tidemark_wire::Uuid;

use super::force;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::{Table, count};

/// Show and change who keeps the metadata
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show voters and observers, and how far each has the metadata
    Describe(DescribeArgs),
    /// Take in one more voter
    Add(AddArgs),
    /// Take out a voter
    Remove(RemoveArgs),
    /// Go on from one voter's directory alone when the majority is lost for good (shows what would
    /// be lost; --accept-data-loss does it)
    Force(force::Args),
}

/// Show voters and observers, and how far each has the metadata
#[derive(Debug, clap::Args)]
pub struct DescribeArgs {}

/// Take in one more voter
#[derive(Debug, clap::Args)]
pub struct AddArgs {
    /// Its node id
    node: i32,
    /// The id of the directory in which it keeps the metadata: directory.id in its meta.properties
    #[arg(long, value_name = "ID")]
    directory: Uuid,
    /// Where its controller listener is
    #[arg(long, value_name = "HOST:PORT")]
    address: String,
    /// The name of that listener
    #[arg(long, default_value = "CONTROLLER", value_name = "NAME")]
    listener: String,
}

/// Take out a voter
#[derive(Debug, clap::Args)]
pub struct RemoveArgs {
    /// Its node id
    node: i32,
    /// The id of its directory; not needed while the node is a voter with only one
    #[arg(long, value_name = "ID")]
    directory: Option<Uuid>,
}

#[derive(Debug, Serialize)]
struct Report {
    leader: i32,
    epoch: i32,
    high_watermark: i64,
    replicas: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    node: i32,
    directory: String,
    role: &'static str,
    address: Option<String>,
    log_end: i64,
    lag: i64,
    /// Since it fetched last, if that is known.
    last_fetch_ago_ms: Option<i64>,
}

/// Runs the command.
pub async fn run(command: Command, context: &mut Context) -> Result<Exit, Failure> {
    let command = match command {
        // There is nobody to be asked.
        Command::Force(args) => return force::run(args, context).await,
        command => command,
    };
    let cluster = context.cluster().await?;
    match command {
        Command::Describe(_) | Command::Force(_) => {}
        Command::Add(args) => {
            let (host, port) = parse_address(&args.address).map_err(Failure::usage)?;
            let voter = (args.node, args.directory);
            let at = (&*args.listener, host, port);
            cluster.add_voter(voter, at).await.map_err(after_change)?;
        }
        Command::Remove(args) => {
            let directory = match args.directory {
                Some(directory) => directory,
                None => directory_of(&cluster.describe_quorum().await?, args.node)?,
            };
            cluster
                .remove_voter(args.node, directory)
                .await
                .map_err(after_change)?;
        }
    }
    describe(&cluster, context).await
}

fn after_change(error: tidemark_client::ClientError) -> Failure {
    Failure::from(error).or_next(|| "tidemark cluster quorum describe".to_owned())
}

fn parse_address(address: &str) -> Result<(&str, u16), String> {
    let wrong = || format!("'{address}' is not host:port");
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match port.parse() {
        Ok(port) if !host.is_empty() => Ok((host, port)),
        _ => Err(wrong()),
    }
}

/// The directory of a voter that has one.
fn directory_of(quorum: &Quorum, node: i32) -> Result<Uuid, Failure> {
    let mut of_node = quorum.voters.iter().filter(|voter| voter.id == node);
    match (of_node.next(), of_node.next()) {
        (Some(voter), None) => Ok(voter.directory),
        (None, _) => Err(Failure::usage(format!("node {node} is no voter"))
            .next("tidemark cluster quorum describe")),
        (Some(_), Some(_)) => Err(Failure::usage(format!(
            "node {node} has a vote with two directories: say which one with --directory"
        ))
        .next("tidemark cluster quorum describe")),
    }
}

async fn describe(cluster: &Cluster, context: &mut Context) -> Result<Exit, Failure> {
    let quorum = cluster.describe_quorum().await?;
    let leader_end = quorum.voters.iter().find(|voter| voter.id == quorum.leader);
    let leader_end = leader_end.map_or(quorum.high_watermark, |leader| leader.log_end);
    let now_ms = clock::now_ms();
    let row = |replica: &QuorumReplica, role| Row {
        node: replica.id,
        directory: replica.directory.to_string(),
        role,
        address: quorum.addresses.get(&replica.id).cloned(),
        log_end: replica.log_end,
        lag: (leader_end - replica.log_end).max(0),
        last_fetch_ago_ms: (replica.last_fetch_ms >= 0)
            .then(|| (now_ms - replica.last_fetch_ms).max(0)),
    };
    let voters = quorum.voters.iter().map(|voter| {
        let role = match voter.id == quorum.leader {
            true => "leader",
            false => "voter",
        };
        row(voter, role)
    });
    let observers = quorum.observers.iter().map(|one| row(one, "observer"));
    let report = Report {
        leader: quorum.leader,
        epoch: quorum.epoch,
        high_watermark: quorum.high_watermark,
        replicas: voters.chain(observers).collect(),
    };
    context.out.show(&report, |out| {
        out.line(&format!(
            "Controller {}, epoch {}, {} committed",
            report.leader, report.epoch, report.high_watermark
        ))?;
        let mut table = Table::new(&["NODE", "ROLE", "LAG", "LOG END", "ADDRESS", "DIRECTORY"]);
        for row in &report.replicas {
            table.row(vec![
                row.node.to_string(),
                row.role.to_owned(),
                count(row.lag),
                count(row.log_end),
                row.address.clone().unwrap_or_else(|| "-".to_owned()),
                row.directory.clone(),
            ]);
        }
        out.table(&table)
    })?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voter(id: i32, directory: u8) -> QuorumReplica {
        QuorumReplica {
            id,
            directory: Uuid([directory; 16]),
            log_end: 0,
            last_fetch_ms: -1,
            last_caught_up_ms: -1,
        }
    }

    #[test]
    fn a_voters_directory_is_known_where_it_has_one() {
        let quorum = Quorum {
            leader: 1,
            epoch: 1,
            high_watermark: 0,
            voters: vec![voter(1, 1), voter(2, 2), voter(2, 3)],
            observers: vec![voter(4, 4)],
            addresses: std::collections::BTreeMap::new(),
        };
        assert_eq!(directory_of(&quorum, 1).unwrap(), Uuid([1; 16]));
        assert!(
            directory_of(&quorum, 2)
                .unwrap_err()
                .message
                .contains("two directories")
        );
        assert!(
            directory_of(&quorum, 4)
                .unwrap_err()
                .message
                .contains("no voter")
        );
    }

    #[test]
    fn addresses_have_a_host_and_a_port() {
        assert_eq!(parse_address("a:1"), Ok(("a", 1)));
        assert_eq!(parse_address("[::1]:9093"), Ok(("::1", 9093)));
        for bad in ["a", ":1", "a:x", "a:99999"] {
            assert!(parse_address(bad).is_err(), "{bad}");
        }
    }
}
