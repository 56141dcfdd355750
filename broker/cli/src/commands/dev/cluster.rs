//! What a development cluster is made of, and the settings of each of its brokers.
//!
//! Node N keeps its data in `broker-N` below the data directory. The first three vote; those that
//! are added later do not. Ports of the quorum are part of the voters' identity, so they are kept
//! in a file beside the brokers' directories.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tidemark_config::ConfigMap;
use tidemark_server::{InitialVoter, Voters};
use tidemark_wire::Uuid;

use crate::failure::Failure;

/// Name of the file in the data directory.
pub const FILE_NAME: &str = "dev-cluster.json";
/// Most brokers of a development cluster.
pub const MOST_BROKERS: u8 = 9;
/// Most voters.
const MOST_VOTERS: u8 = 3;
/// Name of the quorum's listener.
const LISTENER: &str = "CONTROLLER";

/// A cluster as it is kept in its data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Its id.
    pub cluster_id: String,
    /// How many brokers it has; their ids are counted from 1.
    pub brokers: u8,
    /// The first brokers, which vote.
    pub voters: Vec<Voter>,
}

/// A voter of the cluster's quorum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Voter {
    /// Where its quorum listens, on this machine.
    pub port: u16,
    /// The id of its directory.
    pub directory_id: String,
}

/// What a data directory is found to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nothing of a broker.
    Nothing,
    /// One broker's data.
    Single,
    /// A cluster.
    Cluster(Plan),
}

/// What is to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Run {
    /// One broker, in the data directory itself.
    Single,
    /// A new cluster of so many.
    New(u8),
    /// The cluster that is there, perhaps with more brokers than it had.
    Cluster(Plan),
}

/// What is to be run in `data`, where `asked` brokers are asked for.
///
/// # Errors
/// The directory was used for something that cannot become this.
pub fn choose(found: Found, asked: Option<u8>, data: &Path) -> Result<Run, Failure> {
    let another = |what: &str, brokers: u8| {
        let data = data.display();
        Err(Failure::usage(format!(
            "{data} holds {what}: run that, or choose another directory with --data"
        ))
        .next(format!("tidemark dev --brokers {brokers} --data {data}")))
    };
    match (found, asked) {
        (Found::Nothing | Found::Single, None | Some(1)) => Ok(Run::Single),
        (Found::Nothing, Some(brokers)) => Ok(Run::New(brokers)),
        (Found::Single, Some(_)) => another("the data of a single broker", 1),
        (Found::Cluster(plan), Some(fewer)) if fewer < plan.brokers => another(
            &format!(
                "a cluster of {} brokers, and the only replica of a partition may be on any of them",
                plan.brokers
            ),
            plan.brokers,
        ),
        (Found::Cluster(plan), asked) => Ok(Run::Cluster(Plan {
            brokers: asked.unwrap_or(plan.brokers),
            ..plan
        })),
    }
}

/// How many of so many brokers vote.
pub fn voters_of(brokers: u8) -> u8 {
    brokers.min(MOST_VOTERS)
}

/// Settings that differ between brokers, or that say who is in the cluster.
fn check_sets(sets: &[(String, String)]) -> Result<(), Failure> {
    const OURS: &[&str] = &[
        "advertised.listeners",
        "broker.id",
        "controller.listener.names",
        "controller.quorum.bootstrap.servers",
        "controller.quorum.voters",
        "inter.broker.listener.name",
        "listeners",
        "log.dir",
        "log.dirs",
        "metadata.log.dir",
        "node.id",
        "process.roles",
        "wal.dir",
    ];
    match sets.iter().find(|(name, _)| OURS.contains(&&**name)) {
        None => Ok(()),
        Some((name, _)) => Err(Failure::usage(format!(
            "--set {name} would be the same for every broker: `dev --brokers` gives each its own; for more than that, write a file for each and run `tidemark broker`"
        ))),
    }
}

/// The `nth` address from `address` on; port 0 stays 0.
fn counted_up(option: &str, address: &str, nth: u8) -> Result<String, Failure> {
    let wrong = || Failure::usage(format!("{option} is written HOST:PORT, not '{address}'"));
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().map_err(|_| wrong())?;
    if port == 0 {
        return Ok(address.to_owned());
    }
    let counted = port.checked_add(u16::from(nth)).ok_or_else(|| {
        Failure::usage(format!(
            "{option} {address}: there are no ports above 65535 for the other brokers"
        ))
    })?;
    Ok(format!("{host}:{counted}"))
}

impl Plan {
    /// Where a broker's data is.
    pub fn directory(data: &Path, node_id: u8) -> PathBuf {
        data.join(format!("broker-{node_id}"))
    }

    /// The ids of its brokers.
    pub fn nodes(&self) -> std::ops::RangeInclusive<u8> {
        1..=self.brokers
    }

    fn voter(&self, node_id: u8) -> Option<&Voter> {
        self.voters.get(usize::from(node_id).checked_sub(1)?)
    }

    /// The cluster's id, and who begins its quorum as `node_id` is formatted.
    ///
    /// # Errors
    /// The file that it was read from holds no ids.
    pub fn identity(&self, node_id: u8) -> Result<(Uuid, Voters), Failure> {
        let id = |text: &str| {
            let id: Result<Uuid, _> = text.parse();
            id.map_err(|error| Failure::finding(format!("{FILE_NAME}: {error}")))
        };
        let cluster_id = id(&self.cluster_id)?;
        if self.voter(node_id).is_none() {
            return Ok((cluster_id, Voters::Others));
        }
        let each = (1..).zip(&self.voters).map(|(node_id, voter)| {
            Ok(InitialVoter {
                node_id,
                address: format!("127.0.0.1:{}", voter.port),
                directory_id: id(&voter.directory_id)?,
            })
        });
        let voters = each.collect::<Result<Vec<_>, Failure>>()?;
        Ok((cluster_id, Voters::Initial(voters)))
    }

    /// The settings of each broker: client ports are counted up from `listen`, and `sets` go
    /// before what is made up here.
    ///
    /// # Errors
    /// Addresses that cannot be counted up; `sets` that cannot be the same for all.
    pub fn settings(
        &self,
        data: &Path,
        listen: &str,
        sets: &[(String, String)],
    ) -> Result<Vec<ConfigMap>, Failure> {
        check_sets(sets)?;
        let controllers = self.voters.iter();
        let controllers: Vec<String> = controllers
            .map(|voter| format!("127.0.0.1:{}", voter.port))
            .collect();
        let of_node = |node_id: u8| {
            let mut listeners = format!(
                "PLAINTEXT://{}",
                counted_up("--listen", listen, node_id - 1)?
            );
            let mut roles = "broker";
            if let Some(voter) = self.voter(node_id) {
                listeners.push_str(&format!(",{LISTENER}://127.0.0.1:{}", voter.port));
                roles = "broker,controller";
            }
            let directory = Self::directory(data, node_id).display().to_string();
            let mut settings = super::defaults(listeners, directory);
            let more = [
                ("node.id", node_id.to_string()),
                ("process.roles", roles.to_owned()),
                ("controller.listener.names", LISTENER.to_owned()),
                ("controller.quorum.bootstrap.servers", controllers.join(",")),
                (
                    "default.replication.factor",
                    self.brokers.min(3).to_string(),
                ),
                ("min.insync.replicas", self.brokers.min(2).to_string()),
            ];
            settings.extend(more.map(|(name, value)| (name.to_owned(), value)));
            settings.extend(sets.iter().cloned());
            if let Some(http) = settings.get_mut("http.listen").filter(|at| !at.is_empty()) {
                *http = counted_up("--set http.listen", http, node_id - 1)?;
            }
            Ok(settings)
        };
        self.nodes().map(of_node).collect()
    }
}
