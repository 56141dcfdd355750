//! What a node does in the cluster, and the metadata quorum as it has to know it.

use crate::ConfigError;
use crate::broker::Listener;
use crate::layers::BrokerLayers;

/// The least of `controller.quorum.election.timeout.ms`.
const LEAST_ELECTION_TIMEOUT_MS: u64 = 100;

/// What a node does: `process.roles`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roles {
    /// It keeps partitions and serves clients.
    pub broker: bool,
    /// It votes in the metadata quorum.
    pub controller: bool,
}

/// The metadata quorum, as this node has to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuorumSettings {
    /// The first of `controller.listener.names`: where this node's quorum listens. `None` where it
    /// is a quorum of one.
    pub listener: Option<Listener>,
    /// The first of `controller.listener.names`, whether this node has that listener or not; empty
    /// without any.
    pub listener_name: String,
    /// Where others can reach that: from `advertised.listeners`, else as it listens.
    pub advertised: Option<Listener>,
    /// `controller.quorum.bootstrap.servers`, else the addresses of `controller.quorum.voters`:
    /// `host:port` of nodes to ask who leads.
    pub bootstrap_servers: Vec<String>,
    /// `controller.quorum.election.timeout.ms`: without a leader for longer than this, and before
    /// it is twice as long, a voter stands for election.
    pub election_timeout_ms: u64,
    /// `metadata.log.dir`, else the first of `log.dirs`.
    pub log_dir: String,
}

pub(crate) fn roles(layers: BrokerLayers<'_>) -> Result<Roles, ConfigError> {
    let named = layers.list("process.roles")?;
    let has = |role: &str| named.iter().any(|name| name == role);
    Ok(Roles {
        broker: has("broker"),
        controller: has("controller"),
    })
}

pub(crate) fn check_roles(roles: Roles, listeners: &[Listener]) -> Result<(), ConfigError> {
    match (roles.broker, listeners.is_empty()) {
        (true, true) => Err(ConfigError::Conflict(
            "listeners has only controllers' listeners: add one for clients, as PLAINTEXT://:9092, or take broker out of process.roles".to_owned(),
        )),
        (false, false) => Err(ConfigError::Conflict(
            "process.roles says that this node is no broker, so all of listeners must be in controller.listener.names".to_owned(),
        )),
        _ => Ok(()),
    }
}

pub(crate) fn quorum(
    layers: BrokerLayers<'_>,
    roles: Roles,
    controllers: &[String],
    listeners: &[Listener],
    advertised: &[Listener],
    log_dirs: &[String],
) -> Result<QuorumSettings, ConfigError> {
    let conflict = |text: &str| Err(ConfigError::Conflict(text.to_owned()));
    let mut bootstrap_servers = layers.list("controller.quorum.bootstrap.servers")?;
    if bootstrap_servers.is_empty() {
        let voters = layers.list("controller.quorum.voters")?;
        let address = |voter: &String| match voter.split_once('@') {
            Some((_, address)) => address.to_owned(),
            None => voter.clone(),
        };
        bootstrap_servers = voters.iter().map(address).collect();
    }
    for server in &bootstrap_servers {
        let port = server.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
        if !matches!(port, Some(Ok(port)) if port > 0) {
            return Err(ConfigError::InvalidValue {
                name: "controller.quorum.bootstrap.servers".to_owned(),
                value: server.clone(),
                reason: "Servers are written host:port".to_owned(),
            });
        }
    }
    let first = |all: &[Listener]| {
        let mut all = all.iter();
        all.find(|listener| Some(&listener.name) == controllers.first())
            .cloned()
    };
    let listener = first(listeners).filter(|_| roles.controller);
    if roles.controller && !controllers.is_empty() && listener.is_none() {
        return conflict(
            "controller.listener.names names a listener that is not in listeners: add it, as CONTROLLER://:9093",
        );
    }
    if roles.controller && bootstrap_servers.len() > 1 && listener.is_none() {
        return conflict(
            "a quorum of several controllers needs a listener: set controller.listener.names=CONTROLLER and add CONTROLLER://:9093 to listeners",
        );
    }
    if !roles.controller && bootstrap_servers.is_empty() {
        return conflict(
            "a node that is no controller has to be told where they are: set controller.quorum.bootstrap.servers to host:port of each",
        );
    }
    let election_timeout_ms = layers.int("controller.quorum.election.timeout.ms")?;
    let election_timeout_ms = u64::try_from(election_timeout_ms).unwrap_or(0);
    if election_timeout_ms < LEAST_ELECTION_TIMEOUT_MS {
        return conflict(&format!(
            "controller.quorum.election.timeout.ms ({election_timeout_ms}) must be at least {LEAST_ELECTION_TIMEOUT_MS}, or one slow write to the disk would hold an election"
        ));
    }
    let log_dir = layers.text("metadata.log.dir")?;
    Ok(QuorumSettings {
        advertised: listener
            .as_ref()
            .and_then(|_| first(advertised))
            .or_else(|| listener.clone()),
        listener_name: controllers.first().cloned().unwrap_or_default(),
        listener,
        bootstrap_servers,
        election_timeout_ms,
        log_dir: log_dir
            .or_else(|| log_dirs.first().cloned())
            .unwrap_or_default(),
    })
}
