//! The quorum's settings, and those of a broker's life in the cluster.

use std::time::Duration;
use tidemark_config::ConfigMap;
use tidemark_quorum::raft::QuorumConfig;

/// How a node takes part in the cluster.
#[derive(Debug, Clone)]
pub(crate) struct ClusterSettings {
    /// `broker.heartbeat.interval.ms`.
    pub(crate) heartbeat: Duration,
    /// `broker.session.timeout.ms`.
    pub(crate) session_ms: i64,
    /// `controller.listener.names`, the first: where voters and observers talk.
    pub(crate) controller_listener: Option<String>,
    /// `inter.broker.listener.name`.
    pub(crate) inter_broker_listener: Option<String>,
    /// `auto.leader.rebalance.enable`: how often (`leader.imbalance.check.interval.seconds`).
    pub(crate) rebalance: Option<Duration>,
    /// `leader.imbalance.per.broker.percentage`.
    pub(crate) imbalance_percent: usize,
    /// `controller.quorum.election.timeout.ms`, where it is set.
    election_ms: Option<u64>,
}

fn number<T: std::str::FromStr>(settings: &ConfigMap, name: &str) -> Option<T> {
    settings
        .get(name)
        .and_then(|value| value.trim().parse().ok())
}

fn first(settings: &ConfigMap, name: &str) -> Option<String> {
    let names = settings.get(name)?;
    let first = names
        .split(',')
        .map(str::trim)
        .find(|name| !name.is_empty())?;
    Some(first.to_uppercase())
}

impl ClusterSettings {
    /// From what was set in the file and on the command line.
    pub(crate) fn read(settings: &ConfigMap) -> ClusterSettings {
        let millis =
            |name, default| Duration::from_millis(number(settings, name).unwrap_or(default));
        let rebalance = settings
            .get("auto.leader.rebalance.enable")
            .is_none_or(|enabled| enabled.trim().eq_ignore_ascii_case("true"));
        let every = number(settings, "leader.imbalance.check.interval.seconds").unwrap_or(30);
        ClusterSettings {
            heartbeat: millis("broker.heartbeat.interval.ms", 2000),
            session_ms: number(settings, "broker.session.timeout.ms").unwrap_or(9000),
            controller_listener: first(settings, "controller.listener.names"),
            inter_broker_listener: first(settings, "inter.broker.listener.name"),
            rebalance: rebalance.then(|| Duration::from_secs(every)),
            imbalance_percent: number(settings, "leader.imbalance.per.broker.percentage")
                .unwrap_or(10),
            election_ms: number(settings, "controller.quorum.election.timeout.ms"),
        }
    }

    /// Has a voter of `config` keep to what is set of elections.
    pub(crate) fn apply(&self, config: &mut QuorumConfig) {
        if let Some(election_ms) = self.election_ms {
            config.election_min_ms = election_ms.max(50);
            config.election_max_ms = config.election_min_ms * 2;
            config.heartbeat_ms = config.election_min_ms / 4;
        }
    }
}
