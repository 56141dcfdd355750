//! Everything in which Tidemark differs from Kafka's table, each with its reason:
//! other defaults, what is honoured, what is refused, what changes at run time.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use crate::Scope;
use crate::value::Value;

/// Whether Tidemark acts on a setting.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Status {
    /// It does what its documentation says.
    Honoured,
    /// It is stored and shown, marked, and has no effect yet.
    Kept,
    /// Only harmless values are accepted.
    Refused(&'static Refusal),
}

/// A setting that is refused unless it is empty, because ignoring it would lose data or open what
/// the operator meant to be shut.
#[derive(Debug, PartialEq)]
pub struct Refusal {
    scope: Scope,
    name: &'static str,
    /// What ignoring the value would do, and what to do instead.
    pub reason: &'static str,
}

impl Refusal {
    pub(crate) fn scope(&self) -> Scope {
        self.scope
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn allows(&self, value: &Value) -> bool {
        match value {
            Value::Text(text) => text.is_empty(),
            Value::List(items) => items.is_empty(),
            _ => false,
        }
    }
}

const fn refuse(scope: Scope, name: &'static str, reason: &'static str) -> Refusal {
    Refusal {
        scope,
        name,
        reason,
    }
}

/// Settings whose silence would lose data or protection.
pub static REFUSED: &[Refusal] = &[
    refuse(
        Scope::Broker,
        "authorizer.class.name",
        "this version has no access control, so everybody would be let in; remove it and restrict the network instead.",
    ),
    refuse(
        Scope::Broker,
        "create.topic.policy.class.name",
        "Java classes cannot be loaded, so topics that the policy forbids would be created; remove it.",
    ),
    refuse(
        Scope::Broker,
        "alter.config.policy.class.name",
        "Java classes cannot be loaded, so changes that the policy forbids would be made; remove it.",
    ),
    refuse(
        Scope::Broker,
        "config.providers",
        "Java classes cannot be loaded, so ${provider:...} placeholders would be taken literally; write the values themselves.",
    ),
];

/// A default that is not Kafka's.
#[derive(Debug)]
pub struct Deviation {
    /// Where.
    pub scope: Scope,
    /// Which setting.
    pub name: &'static str,
    /// Ours, in the table's notation of values.
    pub default: Option<&'static str>,
    /// Why.
    pub reason: &'static str,
}

const fn deviate(
    scope: Scope,
    name: &'static str,
    default: Option<&'static str>,
    reason: &'static str,
) -> Deviation {
    Deviation {
        scope,
        name,
        default,
        reason,
    }
}

/// Where Tidemark's defaults differ from Kafka's.
pub static DEVIATIONS: &[Deviation] = &[
    deviate(
        Scope::Topic,
        "min.insync.replicas",
        Some("2"),
        "acks=all promises a second disk; the effective value is min(this, replication factor), so topics with one replica still accept writes.",
    ),
    deviate(
        Scope::Broker,
        "min.insync.replicas",
        Some("2"),
        "As the topic setting of this name.",
    ),
    deviate(
        Scope::Broker,
        "log.dir",
        Some("/var/lib/tidemark"),
        "Data under /tmp does not survive a reboot.",
    ),
    deviate(
        Scope::Broker,
        "node.id",
        Some("0"),
        "A cluster of one needs no number from its operator; broker ids start at 0.",
    ),
    deviate(
        Scope::Broker,
        "process.roles",
        Some("broker,controller"),
        "One process does both.",
    ),
    deviate(
        Scope::Broker,
        "controller.listener.names",
        None,
        "A quorum of one needs no listener.",
    ),
    deviate(
        Scope::Broker,
        "controller.quorum.election.timeout.ms",
        Some("1500"),
        "A voter without a leader stands for election after this to twice this long; heartbeats come three times as often.",
    ),
    deviate(
        Scope::Broker,
        "leader.imbalance.check.interval.seconds",
        Some("30"),
        "Kafka's five minutes leave a broker that came back without leaders for as long.",
    ),
    deviate(
        Scope::Broker,
        "queued.max.request.bytes",
        Some("134217728"),
        "Memory for requests is bounded by default; Kafka's is not.",
    ),
    deviate(
        Scope::Broker,
        "socket.send.buffer.bytes",
        Some("262144"),
        "Kafka's 100 KiB, doubled by the system, are 20 MB/s to a reader 10 ms away; two and a half times as much costs no more CPU.",
    ),
    deviate(
        Scope::Broker,
        "offsets.topic.replication.factor",
        Some("3"),
        "Kafka's number, but capped at the number of brokers when the topic is first needed, so that a single broker serves groups; set explicitly, it is a demand.",
    ),
    deviate(
        Scope::Broker,
        "metric.reporters",
        Some(""),
        "There is no JMX; metrics are on the HTTP listener.",
    ),
    deviate(
        Scope::Broker,
        "principal.builder.class",
        None,
        "No Java classes.",
    ),
    deviate(
        Scope::Broker,
        "sasl.oauthbearer.jwt.retriever.class",
        None,
        "No Java classes.",
    ),
    deviate(
        Scope::Broker,
        "sasl.oauthbearer.jwt.validator.class",
        None,
        "No Java classes.",
    ),
    deviate(
        Scope::Broker,
        "remote.log.metadata.manager.class.name",
        None,
        "No Java classes.",
    ),
];

/// Topic settings that have no effect yet; the others are honoured. Nothing reads `flush.messages`
/// and `flush.ms`, whose promises hold at every value: records are fsynced before they are
/// acknowledged.
static TOPIC_KEPT: &[&str] = &[
    "compression.lz4.level",
    "delete.retention.ms",
    "max.compaction.lag.ms",
    "min.cleanable.dirty.ratio",
    "min.compaction.lag.ms",
    "preallocate",
    "remote.log.copy.disable",
    "remote.log.delete.on.disable",
    "unclean.leader.election.enable",
];

/// Broker settings that have an effect; the others are kept.
static BROKER_HONOURED: &[&str] = &[
    "advertised.listeners",
    "auto.create.topics.enable",
    "auto.leader.rebalance.enable",
    "broker.heartbeat.interval.ms",
    "broker.id",
    "broker.rack",
    "broker.session.timeout.ms",
    "compression.gzip.level",
    "compression.type",
    "compression.zstd.level",
    "connections.max.idle.ms",
    "controlled.shutdown.enable",
    "controller.listener.names",
    "controller.quorum.bootstrap.servers",
    "controller.quorum.election.timeout.ms",
    "controller.quorum.voters",
    "default.replication.factor",
    "delete.topic.enable",
    "disk.flush.delay.us",
    "fetch.max.bytes",
    "fetch.memory.max.bytes",
    "follower.replication.throttled.rate",
    "group.initial.rebalance.delay.ms",
    "group.max.session.timeout.ms",
    "group.max.size",
    "group.min.session.timeout.ms",
    "http.listen",
    "initial.broker.registration.timeout.ms",
    "inter.broker.listener.name",
    "leader.imbalance.check.interval.seconds",
    "leader.imbalance.per.broker.percentage",
    "leader.replication.throttled.rate",
    "listener.security.protocol.map",
    "listeners",
    "log.cleanup.policy",
    "log.dir",
    "log.dirs",
    "log.flush.interval.messages",
    "log.flush.interval.ms",
    "log.flush.scheduler.interval.ms",
    "log.index.interval.bytes",
    "log.index.size.max.bytes",
    "log.local.retention.bytes",
    "log.local.retention.ms",
    "log.message.timestamp.after.max.ms",
    "log.message.timestamp.before.max.ms",
    "log.message.timestamp.type",
    "log.retention.bytes",
    "log.retention.check.interval.ms",
    "log.retention.hours",
    "log.retention.minutes",
    "log.retention.ms",
    "log.roll.hours",
    "log.roll.jitter.hours",
    "log.roll.jitter.ms",
    "log.roll.ms",
    "log.segment.bytes",
    "log.segment.delete.delay.ms",
    "max.connections",
    "max.connections.per.ip",
    "max.incremental.fetch.session.cache.slots",
    "max.request.partition.size.limit",
    "message.max.bytes",
    "metadata.log.dir",
    "min.insync.replicas",
    "node.id",
    "num.partitions",
    "offset.metadata.max.bytes",
    "offsets.retention.check.interval.ms",
    "offsets.retention.minutes",
    "offsets.topic.num.partitions",
    "offsets.topic.replication.factor",
    "offsets.topic.segment.bytes",
    "process.roles",
    "producer.id.expiration.ms",
    "queued.max.request.bytes",
    "remote.log.manager.copier.thread.pool.size",
    "remote.log.manager.copy.max.bytes.per.second",
    "remote.log.manager.fetch.max.bytes.per.second",
    "remote.log.reader.threads",
    "replica.fetch.backoff.ms",
    "replica.fetch.max.bytes",
    "replica.fetch.min.bytes",
    "replica.fetch.response.max.bytes",
    "replica.fetch.wait.max.ms",
    "replica.lag.time.max.ms",
    "replica.selector.class",
    "replica.socket.timeout.ms",
    "security.inter.broker.protocol",
    "socket.connection.setup.timeout.ms",
    "socket.request.max.bytes",
    "socket.send.buffer.bytes",
    "ssl.client.auth",
    "ssl.enabled.protocols",
    "ssl.endpoint.identification.algorithm",
    "ssl.keystore.certificate.chain",
    "ssl.keystore.key",
    "ssl.keystore.location",
    "ssl.keystore.type",
    "ssl.truststore.certificates",
    "ssl.truststore.location",
    "ssl.truststore.type",
    "telemetry.max.bytes",
    "tier.cache.bytes",
    "tier.cache.disk.bytes",
    "tier.credentials.dir",
    "tier.delete.delay.ms",
    "tier.endpoint",
    "tier.region",
    "tier.reserve.bytes",
    "tier.trash.ms",
    "tier.upload.max.lag.ms",
    "tier.url",
    "wal.dir",
    "wal.file.bytes",
    "wal.max.bytes",
    "wal.memory.bytes",
];

/// Group settings that have an effect; the others are kept. None of the group
/// types that have settings of their own is served yet.
static GROUP_HONOURED: &[&str] = &["tidemark.reset"];

pub(crate) fn status(scope: Scope, name: &str) -> Status {
    if let Some(refusal) = REFUSED.iter().find(|r| r.scope == scope && r.name == name) {
        return Status::Refused(refusal);
    }
    let honoured = match scope {
        Scope::Topic => !TOPIC_KEPT.contains(&name),
        Scope::Broker => BROKER_HONOURED.contains(&name),
        Scope::Group => GROUP_HONOURED.contains(&name),
    };
    if honoured {
        Status::Honoured
    } else {
        Status::Kept
    }
}

pub(crate) fn deviation(scope: Scope, name: &str) -> Option<&'static Deviation> {
    DEVIATIONS
        .iter()
        .find(|d| d.scope == scope && d.name == name)
}

/// Whether a setting may change while brokers run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutability {
    /// Only in the broker's file, at start.
    ReadOnly,
    /// For one broker by its id.
    PerBroker,
    /// For one broker, or for all at once.
    ClusterWide,
}

/// Kafka's list of broker settings that change at run time, those that need no
/// listener prefix; spellings in minutes and hours are not on it.
static DYNAMIC: &[&str] = &[
    "background.threads",
    "compression.gzip.level",
    "compression.lz4.level",
    "compression.type",
    "compression.zstd.level",
    "config.providers",
    "cordoned.log.dirs",
    "follower.fetch.last.tiered.offset.enable",
    "group.coordinator.append.linger.ms",
    "group.coordinator.cached.buffer.max.bytes",
    "log.cleaner.backoff.ms",
    "log.cleaner.dedupe.buffer.size",
    "log.cleaner.delete.retention.ms",
    "log.cleaner.io.buffer.load.factor",
    "log.cleaner.io.buffer.size",
    "log.cleaner.io.max.bytes.per.second",
    "log.cleaner.max.compaction.lag.ms",
    "log.cleaner.min.cleanable.ratio",
    "log.cleaner.min.compaction.lag.ms",
    "log.cleaner.threads",
    "log.cleanup.policy",
    "log.flush.interval.messages",
    "log.flush.interval.ms",
    "log.index.interval.bytes",
    "log.index.size.max.bytes",
    "log.local.retention.bytes",
    "log.local.retention.ms",
    "log.message.timestamp.after.max.ms",
    "log.message.timestamp.before.max.ms",
    "log.message.timestamp.type",
    "log.preallocate",
    "log.retention.bytes",
    "log.retention.ms",
    "log.roll.jitter.ms",
    "log.roll.ms",
    "log.segment.bytes",
    "log.segment.delete.delay.ms",
    "max.connection.creation.rate",
    "max.connections",
    "max.connections.per.ip",
    "max.connections.per.ip.overrides",
    "message.max.bytes",
    "metric.reporters",
    "min.insync.replicas",
    "num.io.threads",
    "num.network.threads",
    "num.recovery.threads.per.data.dir",
    "num.replica.fetchers",
    "producer.id.expiration.ms",
    "remote.fetch.max.wait.ms",
    "remote.list.offsets.request.timeout.ms",
    "remote.log.index.file.cache.total.size.bytes",
    "remote.log.manager.copier.thread.pool.size",
    "remote.log.manager.copy.max.bytes.per.second",
    "remote.log.manager.expiration.thread.pool.size",
    "remote.log.manager.fetch.max.bytes.per.second",
    "remote.log.manager.follower.thread.pool.size",
    "remote.log.reader.threads",
    "share.coordinator.append.linger.ms",
    "share.coordinator.cached.buffer.max.bytes",
    "transaction.partition.verification.enable",
    "unclean.leader.election.enable",
];

pub(crate) fn mutability(scope: Scope, name: &str) -> Mutability {
    match scope {
        Scope::Broker if name == "cordoned.log.dirs" => Mutability::PerBroker,
        Scope::Broker if !DYNAMIC.contains(&name) => Mutability::ReadOnly,
        _ => Mutability::ClusterWide,
    }
}

/// Broker settings that a topic setting falls back to, strongest spelling first,
/// each with the factor that turns it into the topic setting's unit.
pub(crate) fn topic_synonyms(name: &str) -> &'static [(&'static str, i64)] {
    const HOUR_MS: i64 = 3_600_000;
    const MINUTE_MS: i64 = 60_000;
    match name {
        "cleanup.policy" => &[("log.cleanup.policy", 1)],
        "compression.gzip.level" => &[("compression.gzip.level", 1)],
        "compression.lz4.level" => &[("compression.lz4.level", 1)],
        "compression.type" => &[("compression.type", 1)],
        "compression.zstd.level" => &[("compression.zstd.level", 1)],
        "delete.retention.ms" => &[("log.cleaner.delete.retention.ms", 1)],
        "file.delete.delay.ms" => &[("log.segment.delete.delay.ms", 1)],
        "flush.messages" => &[("log.flush.interval.messages", 1)],
        "flush.ms" => &[
            ("log.flush.interval.ms", 1),
            ("log.flush.scheduler.interval.ms", 1),
        ],
        "index.interval.bytes" => &[("log.index.interval.bytes", 1)],
        "local.retention.bytes" => &[("log.local.retention.bytes", 1)],
        "local.retention.ms" => &[("log.local.retention.ms", 1)],
        "max.compaction.lag.ms" => &[("log.cleaner.max.compaction.lag.ms", 1)],
        "max.message.bytes" => &[("message.max.bytes", 1)],
        "message.timestamp.after.max.ms" => &[("log.message.timestamp.after.max.ms", 1)],
        "message.timestamp.before.max.ms" => &[("log.message.timestamp.before.max.ms", 1)],
        "message.timestamp.type" => &[("log.message.timestamp.type", 1)],
        "min.cleanable.dirty.ratio" => &[("log.cleaner.min.cleanable.ratio", 1)],
        "min.compaction.lag.ms" => &[("log.cleaner.min.compaction.lag.ms", 1)],
        "min.insync.replicas" => &[("min.insync.replicas", 1)],
        "preallocate" => &[("log.preallocate", 1)],
        "retention.bytes" => &[("log.retention.bytes", 1)],
        "retention.ms" => &[
            ("log.retention.ms", 1),
            ("log.retention.minutes", MINUTE_MS),
            ("log.retention.hours", HOUR_MS),
        ],
        "segment.bytes" => &[("log.segment.bytes", 1)],
        "segment.index.bytes" => &[("log.index.size.max.bytes", 1)],
        "segment.jitter.ms" => &[
            ("log.roll.jitter.ms", 1),
            ("log.roll.jitter.hours", HOUR_MS),
        ],
        "segment.ms" => &[("log.roll.ms", 1), ("log.roll.hours", HOUR_MS)],
        "unclean.leader.election.enable" => &[("unclean.leader.election.enable", 1)],
        _ => &[],
    }
}

/// The broker setting that a group setting falls back to: the same with `group.` before it.
pub(crate) fn group_synonym(name: &str) -> Option<&'static str> {
    crate::settings(Scope::Broker)
        .iter()
        .map(|s| s.name)
        .find(|broker| broker.strip_prefix("group.") == Some(name))
}

static DOCS: LazyLock<BTreeMap<&'static str, &'static str>> = LazyLock::new(|| {
    include_str!("../schema/docs.tsv")
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .collect()
});

/// One sentence on a setting: its own, or that of its family (`ssl.*`).
pub(crate) fn doc(scope: Scope, name: &str) -> &'static str {
    if let Some(own) = DOCS.get(name) {
        return own;
    }
    if scope == Scope::Topic {
        return "";
    }
    let mut family = name;
    while let Some((shorter, _)) = family.rsplit_once('.') {
        family = shorter;
        if let Some(doc) = DOCS.get(format!("{family}.*").as_str()) {
            return doc;
        }
    }
    ""
}

#[cfg(test)]
pub(crate) fn broker_lists() -> impl Iterator<Item = &'static str> {
    BROKER_HONOURED.iter().chain(DYNAMIC).copied()
}

#[cfg(test)]
pub(crate) fn topic_kept() -> &'static [&'static str] {
    TOPIC_KEPT
}
