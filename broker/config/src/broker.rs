//! A broker's settings, resolved into what the server uses.

use std::collections::BTreeMap;
use std::fmt;

use crate::layers::{BrokerLayers, missing};
use crate::quorum::{QuorumSettings, Roles, check_roles, quorum, roles};
use crate::tls::{self, Protocol, TlsSettings};
use crate::{ConfigError, Scope};

/// One `NAME://host:port` of `listeners` or `advertised.listeners`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// The listener's name, upper case.
    pub name: String,
    /// Host or address; empty for all interfaces.
    pub host: String,
    /// Port; 0 asks the system for one.
    pub port: u16,
}

impl Listener {
    /// `host:port`, with an IPv6 host in brackets.
    pub fn address(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.name, self.address())
    }
}

/// Reads a list of `NAME://host:port`; names must be unique. IPv6 hosts stand in brackets.
pub fn parse_listeners(setting: &str, items: &[String]) -> Result<Vec<Listener>, ConfigError> {
    let mut listeners: Vec<Listener> = Vec::with_capacity(items.len());
    for item in items {
        let invalid = |reason: &str| ConfigError::InvalidValue {
            name: setting.to_owned(),
            value: item.clone(),
            reason: reason.to_owned(),
        };
        let (name, address) = item
            .split_once("://")
            .ok_or_else(|| invalid("Listeners are written NAME://host:port"))?;
        let (host, port) = address
            .rsplit_once(':')
            .ok_or_else(|| invalid("Listeners are written NAME://host:port"))?;
        let port = port
            .parse()
            .map_err(|_| invalid("The port must be a number from 0 to 65535"))?;
        let host = match host.strip_prefix('[') {
            Some(rest) => rest
                .strip_suffix(']')
                .ok_or_else(|| invalid("An IPv6 host must be closed by ]"))?,
            None if host.contains(':') => {
                return Err(invalid("An IPv6 host must stand in brackets, as [::1]"));
            }
            None => host,
        };
        if name.is_empty() {
            return Err(invalid("The listener has no name"));
        }
        let name = name.to_ascii_uppercase();
        if listeners.iter().any(|l| l.name == name) {
            return Err(invalid("Each listener must have a different name"));
        }
        listeners.push(Listener {
            name,
            host: host.to_owned(),
            port,
        });
    }
    Ok(listeners)
}

/// The one replica selector that there is, by the name that Kafka has for it.
const RACK_AWARE: &str = "org.apache.kafka.common.replica.RackAwareReplicaSelector";

/// The listener that brokers reach each other on.
fn inter_broker_listener(
    layers: BrokerLayers<'_>,
    listeners: &[Listener],
    tls: &BTreeMap<String, TlsSettings>,
) -> Result<String, ConfigError> {
    let Some(name) = layers.text("inter.broker.listener.name")? else {
        let found = if layers.is_set("security.inter.broker.protocol") {
            let protocol = layers.text("security.inter.broker.protocol")?;
            let speaks = |listener: &&Listener| match protocol.as_deref() {
                Some("SSL") => tls.contains_key(&listener.name),
                Some("PLAINTEXT") => !tls.contains_key(&listener.name),
                _ => false,
            };
            let found = listeners.iter().find(speaks);
            if found.is_none() && !listeners.is_empty() {
                return Err(ConfigError::Conflict(format!(
                    "security.inter.broker.protocol is {}, and no listener speaks that: add one to listeners, or name one by inter.broker.listener.name",
                    protocol.unwrap_or_default()
                )));
            }
            found
        } else {
            listeners.first()
        };
        return Ok(found
            .map(|listener| listener.name.clone())
            .unwrap_or_default());
    };
    if listeners.iter().any(|listener| listener.name == name) {
        return Ok(name);
    }
    Err(ConfigError::Conflict(format!(
        "inter.broker.listener.name ({name}) must be the name of one of listeners"
    )))
}

/// How tiered topics go to their bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TierSettings {
    /// `tier.url`.
    pub url: String,
    /// `tier.endpoint`.
    pub endpoint: Option<String>,
    /// `tier.region`.
    pub region: Option<String>,
    /// `tier.credentials.dir`.
    pub credentials_dir: Option<String>,
    /// `tier.cache.bytes`.
    pub cache_bytes: i64,
    /// `tier.cache.disk.bytes`; 0 for none.
    pub cache_disk_bytes: i64,
    /// `tier.upload.max.lag.ms`.
    pub upload_max_lag_ms: i64,
    /// `tier.trash.ms`.
    pub trash_ms: i64,
    /// `tier.delete.delay.ms`.
    pub delete_delay_ms: i64,
    /// `tier.reserve.bytes`; -1 leaves a tenth of the disk free, or half of the room where that
    /// is less.
    pub reserve_bytes: i64,
    /// `remote.log.manager.copy.max.bytes.per.second`.
    pub copy_max_bytes_per_second: i64,
    /// `remote.log.manager.fetch.max.bytes.per.second`.
    pub fetch_max_bytes_per_second: i64,
    /// `remote.log.reader.threads`: requests at the same time for blocks of records.
    pub readers: i32,
    /// `remote.log.manager.copier.thread.pool.size`: uploads at the same time.
    pub uploads: i32,
}

/// A broker's settings in force.
#[derive(Debug, Clone, PartialEq)]
pub struct BrokerSettings {
    /// `process.roles`.
    pub roles: Roles,
    /// The metadata quorum.
    pub quorum: QuorumSettings,
    /// `broker.heartbeat.interval.ms`.
    pub broker_heartbeat_interval_ms: i32,
    /// `broker.session.timeout.ms`: a broker that is silent for so long is fenced.
    pub broker_session_timeout_ms: i32,
    /// `initial.broker.registration.timeout.ms`.
    pub initial_broker_registration_timeout_ms: i32,
    /// `auto.leader.rebalance.enable`.
    pub auto_leader_rebalance_enable: bool,
    /// `leader.imbalance.check.interval.seconds`, in ms.
    pub leader_imbalance_check_interval_ms: i64,
    /// `leader.imbalance.per.broker.percentage`: more of a broker's preferred leaderships than this
    /// must be elsewhere before they are given back to it.
    pub leader_imbalance_per_broker_percentage: i32,
    /// `controlled.shutdown.enable`.
    pub controlled_shutdown_enable: bool,
    /// `node.id`, else `broker.id`, else 0.
    pub node_id: i32,
    /// `broker.rack`.
    pub rack: Option<String>,
    /// `listeners` but those of `controller.listener.names`; empty only where the node is no
    /// broker; all of them PLAINTEXT.
    pub listeners: Vec<Listener>,
    /// `advertised.listeners`, else `listeners`; a host may be empty (the server fills in its own).
    pub advertised_listeners: Vec<Listener>,
    /// `log.dirs`, else `log.dir`; never empty.
    pub log_dirs: Vec<String>,
    /// `http.listen` (ours): address of health and metrics; `None` turns them off.
    pub http_listen: Option<String>,
    /// `fetch.memory.max.bytes` (ours): memory that fetch answers being sent may hold.
    pub fetch_memory_max_bytes: i64,
    /// `wal.dir` (ours): where write-ahead logs are kept; `None` beside the data.
    pub wal_dir: Option<String>,
    /// `wal.file.bytes` (ours): size of one file of a write-ahead log.
    pub wal_file_bytes: i64,
    /// `wal.max.bytes` (ours): room that a write-ahead log may take.
    pub wal_max_bytes: i64,
    /// `wal.memory.bytes` (ours): memory for records that are not in their segments yet.
    pub wal_memory_bytes: i64,
    /// `tier.*` (ours): where tiered topics go; `None` without a bucket.
    pub tier: Option<TierSettings>,
    /// `disk.flush.delay.us` (ours): how much longer every flush takes.
    pub disk_flush_delay_us: i64,
    /// `num.partitions`: of topics created without saying.
    pub num_partitions: i32,
    /// `default.replication.factor`.
    pub default_replication_factor: i16,
    /// `auto.create.topics.enable`.
    pub auto_create_topics_enable: bool,
    /// `delete.topic.enable`.
    pub delete_topic_enable: bool,
    /// `offsets.topic.num.partitions`.
    pub offsets_topic_num_partitions: i32,
    /// `offsets.topic.replication.factor`.
    pub offsets_topic_replication_factor: i16,
    /// Whether `offsets.topic.replication.factor` was set, and so must be met.
    pub offsets_topic_replication_factor_demanded: bool,
    /// `offsets.topic.segment.bytes`.
    pub offsets_topic_segment_bytes: i32,
    /// `offsets.retention.minutes`, in ms.
    pub offsets_retention_ms: i64,
    /// `offsets.retention.check.interval.ms`.
    pub offsets_retention_check_interval_ms: i64,
    /// `offsets.commit.timeout.ms`.
    pub offsets_commit_timeout_ms: i32,
    /// `offset.metadata.max.bytes`.
    pub offset_metadata_max_bytes: i32,
    /// `group.min.session.timeout.ms`.
    pub group_min_session_timeout_ms: i32,
    /// `group.max.session.timeout.ms`.
    pub group_max_session_timeout_ms: i32,
    /// `group.initial.rebalance.delay.ms`.
    pub group_initial_rebalance_delay_ms: i32,
    /// `group.max.size`.
    pub group_max_size: i32,
    /// `socket.request.max.bytes`.
    pub socket_request_max_bytes: i32,
    /// `socket.send.buffer.bytes`; `None` where the system sizes it (-1).
    pub socket_send_buffer_bytes: Option<usize>,
    /// `queued.max.request.bytes`: memory that requests being served may hold at once; `None` without limit.
    pub queued_max_request_bytes: Option<i64>,
    /// `max.incremental.fetch.session.cache.slots`.
    pub max_incremental_fetch_session_cache_slots: i32,
    /// `max.request.partition.size.limit`: most partitions in one DescribeTopicPartitions.
    pub max_request_partition_size_limit: i32,
    /// `connections.max.idle.ms`; `None` where connections may idle for ever (a negative value).
    pub connections_max_idle_ms: Option<i64>,
    /// `max.connections`.
    pub max_connections: i32,
    /// `max.connections.per.ip`.
    pub max_connections_per_ip: i32,
    /// `log.retention.check.interval.ms`.
    pub log_retention_check_interval_ms: i64,
    /// `fetch.max.bytes`: the most that one fetch answers with.
    pub fetch_max_bytes: i32,
    /// `message.max.bytes`.
    pub message_max_bytes: i32,
    /// `producer.id.expiration.ms`.
    pub producer_id_expiration_ms: i32,
    /// `telemetry.max.bytes`.
    pub telemetry_max_bytes: i32,
    /// `inter.broker.listener.name`: one of `listeners`; the first one where it is not set.
    pub inter_broker_listener: String,
    /// TLS of the listeners that speak it, controllers' included, by name.
    pub tls: BTreeMap<String, TlsSettings>,
    /// `replica.lag.time.max.ms`.
    pub replica_lag_time_max_ms: i64,
    /// `replica.fetch.wait.max.ms`.
    pub replica_fetch_wait_max_ms: i32,
    /// `replica.fetch.min.bytes`.
    pub replica_fetch_min_bytes: i32,
    /// `replica.fetch.max.bytes`: of one partition.
    pub replica_fetch_max_bytes: i32,
    /// `replica.fetch.response.max.bytes`.
    pub replica_fetch_response_max_bytes: i32,
    /// `replica.fetch.backoff.ms`.
    pub replica_fetch_backoff_ms: i32,
    /// `replica.socket.timeout.ms`.
    pub replica_socket_timeout_ms: i32,
    /// `socket.connection.setup.timeout.ms`: of a follower's connection to its leader (KIP-601).
    pub connection_setup_timeout_ms: i64,
    /// `leader.replication.throttled.rate`: bytes a second that this broker gives to throttled
    /// replicas.
    pub leader_replication_throttled_rate: i64,
    /// `follower.replication.throttled.rate`: bytes a second that it takes for its own.
    pub follower_replication_throttled_rate: i64,
    /// Whether `replica.selector.class` names the selector by racks (KIP-392).
    pub rack_aware_reads: bool,
}

impl BrokerSettings {
    /// Resolves and checks everything that is set, then what the parts say together.
    ///
    /// Fails on an unknown name (with a suggestion), a bad value, a refused one, a
    /// listener of a protocol that is not served, or contradictions.
    pub fn resolve(layers: BrokerLayers<'_>) -> Result<Self, ConfigError> {
        for (_, map) in layers.each() {
            for (name, text) in map {
                crate::check(Scope::Broker, name, text)?;
            }
        }
        let all_listeners = parse_listeners("listeners", &layers.list("listeners")?)?;
        if all_listeners.is_empty() {
            return Err(missing("listeners"));
        }
        let controllers: Vec<String> = layers
            .list("controller.listener.names")?
            .iter()
            .map(|name| name.to_ascii_uppercase())
            .collect();
        // Controllers are spoken to by nodes that have no such listener, too.
        let names = all_listeners.iter().map(|listener| &listener.name);
        let mut tls = BTreeMap::new();
        for name in names.chain(&controllers) {
            if tls::protocol_of(layers, name, &controllers)? == Protocol::Ssl {
                let settings = tls::of_listener(layers, name)?;
                let serves = all_listeners.iter().any(|listener| listener.name == *name);
                if serves && settings.certificate_chain.is_none() {
                    return Err(ConfigError::Conflict(format!(
                        "listener {name} speaks TLS and has no certificate: set ssl.keystore.type=PEM, and ssl.keystore.location to a file with the certificate, its chain and its key"
                    )));
                }
                tls.insert(name.clone(), settings);
            }
        }
        let advertised = layers.list("advertised.listeners")?;
        let all_advertised = if advertised.is_empty() {
            all_listeners.clone()
        } else {
            parse_listeners("advertised.listeners", &advertised)?
        };
        check_advertised(&all_listeners, &all_advertised)?;
        let roles = roles(layers)?;
        let log_dirs = log_dirs(layers)?;
        let quorum = quorum(
            layers,
            roles,
            &controllers,
            &all_listeners,
            &all_advertised,
            &log_dirs,
        )?;
        let of_clients = |all: Vec<Listener>| -> Vec<Listener> {
            let mut of_clients = all;
            of_clients.retain(|listener| !controllers.contains(&listener.name));
            of_clients
        };
        let listeners = of_clients(all_listeners);
        let advertised_listeners = of_clients(all_advertised);
        check_roles(roles, &listeners)?;
        let short = |name: &str| -> Result<i16, ConfigError> {
            i16::try_from(layers.long(name)?).map_err(|_| ConfigError::InvalidValue {
                name: name.to_owned(),
                value: layers.long(name).unwrap_or_default().to_string(),
                reason: "Value must be no more than 32767".to_owned(),
            })
        };
        let settings = Self {
            node_id: node_id(layers)?,
            rack: layers.text("broker.rack")?,
            inter_broker_listener: inter_broker_listener(layers, &listeners, &tls)?,
            tls,
            advertised_listeners,
            listeners,
            log_dirs,
            roles,
            quorum,
            broker_heartbeat_interval_ms: layers.int("broker.heartbeat.interval.ms")?,
            broker_session_timeout_ms: layers.int("broker.session.timeout.ms")?,
            initial_broker_registration_timeout_ms: layers
                .int("initial.broker.registration.timeout.ms")?,
            auto_leader_rebalance_enable: layers.boolean("auto.leader.rebalance.enable")?,
            leader_imbalance_check_interval_ms: layers
                .long("leader.imbalance.check.interval.seconds")?
                .saturating_mul(1000),
            leader_imbalance_per_broker_percentage: layers
                .int("leader.imbalance.per.broker.percentage")?,
            controlled_shutdown_enable: layers.boolean("controlled.shutdown.enable")?,
            http_listen: layers.text("http.listen")?,
            fetch_memory_max_bytes: layers.long("fetch.memory.max.bytes")?,
            wal_dir: layers.text("wal.dir")?,
            wal_file_bytes: layers.long("wal.file.bytes")?,
            wal_max_bytes: layers.long("wal.max.bytes")?,
            wal_memory_bytes: layers.long("wal.memory.bytes")?,
            tier: match layers.text("tier.url")? {
                None => None,
                Some(url) => Some(TierSettings {
                    url,
                    endpoint: layers.text("tier.endpoint")?,
                    region: layers.text("tier.region")?,
                    credentials_dir: layers.text("tier.credentials.dir")?,
                    cache_bytes: layers.long("tier.cache.bytes")?,
                    cache_disk_bytes: layers.long("tier.cache.disk.bytes")?,
                    upload_max_lag_ms: layers.long("tier.upload.max.lag.ms")?,
                    trash_ms: layers.long("tier.trash.ms")?,
                    delete_delay_ms: layers.long("tier.delete.delay.ms")?,
                    reserve_bytes: layers.long("tier.reserve.bytes")?,
                    copy_max_bytes_per_second: layers
                        .long("remote.log.manager.copy.max.bytes.per.second")?,
                    fetch_max_bytes_per_second: layers
                        .long("remote.log.manager.fetch.max.bytes.per.second")?,
                    readers: layers.int("remote.log.reader.threads")?,
                    uploads: layers.int("remote.log.manager.copier.thread.pool.size")?,
                }),
            },
            disk_flush_delay_us: layers.long("disk.flush.delay.us")?,
            num_partitions: layers.int("num.partitions")?,
            default_replication_factor: short("default.replication.factor")?,
            auto_create_topics_enable: layers.boolean("auto.create.topics.enable")?,
            delete_topic_enable: layers.boolean("delete.topic.enable")?,
            offsets_topic_num_partitions: layers.int("offsets.topic.num.partitions")?,
            offsets_topic_replication_factor: short("offsets.topic.replication.factor")?,
            offsets_topic_replication_factor_demanded: layers
                .is_set("offsets.topic.replication.factor"),
            offsets_topic_segment_bytes: layers.int("offsets.topic.segment.bytes")?,
            offsets_retention_ms: layers
                .long("offsets.retention.minutes")?
                .saturating_mul(60_000),
            offsets_retention_check_interval_ms: layers
                .long("offsets.retention.check.interval.ms")?,
            offsets_commit_timeout_ms: layers.int("offsets.commit.timeout.ms")?,
            offset_metadata_max_bytes: layers.int("offset.metadata.max.bytes")?,
            group_min_session_timeout_ms: layers.int("group.min.session.timeout.ms")?,
            group_max_session_timeout_ms: layers.int("group.max.session.timeout.ms")?,
            group_initial_rebalance_delay_ms: layers.int("group.initial.rebalance.delay.ms")?,
            group_max_size: layers.int("group.max.size")?,
            socket_request_max_bytes: layers.int("socket.request.max.bytes")?,
            socket_send_buffer_bytes: send_buffer_bytes(layers)?,
            queued_max_request_bytes: Some(layers.long("queued.max.request.bytes")?)
                .filter(|n| *n > 0),
            max_incremental_fetch_session_cache_slots: layers
                .int("max.incremental.fetch.session.cache.slots")?,
            max_request_partition_size_limit: layers.int("max.request.partition.size.limit")?,
            connections_max_idle_ms: Some(layers.long("connections.max.idle.ms")?)
                .filter(|n| *n >= 0),
            max_connections: layers.int("max.connections")?,
            max_connections_per_ip: layers.int("max.connections.per.ip")?,
            log_retention_check_interval_ms: layers.long("log.retention.check.interval.ms")?,
            fetch_max_bytes: layers.int("fetch.max.bytes")?,
            message_max_bytes: layers.int("message.max.bytes")?,
            producer_id_expiration_ms: layers.int("producer.id.expiration.ms")?,
            telemetry_max_bytes: layers.int("telemetry.max.bytes")?,
            replica_lag_time_max_ms: layers.long("replica.lag.time.max.ms")?,
            replica_fetch_wait_max_ms: layers.int("replica.fetch.wait.max.ms")?,
            replica_fetch_min_bytes: layers.int("replica.fetch.min.bytes")?,
            replica_fetch_max_bytes: layers.int("replica.fetch.max.bytes")?,
            replica_fetch_response_max_bytes: layers.int("replica.fetch.response.max.bytes")?,
            replica_fetch_backoff_ms: layers.int("replica.fetch.backoff.ms")?,
            replica_socket_timeout_ms: layers.int("replica.socket.timeout.ms")?,
            connection_setup_timeout_ms: layers.long("socket.connection.setup.timeout.ms")?,
            leader_replication_throttled_rate: layers.long("leader.replication.throttled.rate")?,
            follower_replication_throttled_rate: layers
                .long("follower.replication.throttled.rate")?,
            rack_aware_reads: rack_aware_reads(layers)?,
        };
        settings.check_together()?;
        Ok(settings)
    }

    fn check_together(&self) -> Result<(), ConfigError> {
        let conflict = |text: String| Err(ConfigError::Conflict(text));
        if self.group_min_session_timeout_ms > self.group_max_session_timeout_ms {
            return conflict(format!(
                "group.min.session.timeout.ms ({}) must not exceed group.max.session.timeout.ms ({})",
                self.group_min_session_timeout_ms, self.group_max_session_timeout_ms
            ));
        }
        if self.broker_heartbeat_interval_ms < 1
            || self.broker_session_timeout_ms / 2 < self.broker_heartbeat_interval_ms
        {
            return conflict(format!(
                "broker.heartbeat.interval.ms ({}) must be at least 1 and at most half of broker.session.timeout.ms ({}), or one late heartbeat would fence the broker",
                self.broker_heartbeat_interval_ms, self.broker_session_timeout_ms
            ));
        }
        let wait_ms = self.replica_fetch_wait_max_ms;
        if wait_ms < 0 || i64::from(wait_ms) > self.replica_lag_time_max_ms {
            return conflict(format!(
                "replica.fetch.wait.max.ms ({wait_ms}) must be at least 0 and at most replica.lag.time.max.ms ({}), or followers would leave the ISR while they wait for records",
                self.replica_lag_time_max_ms
            ));
        }
        if wait_ms >= self.replica_socket_timeout_ms {
            return conflict(format!(
                "replica.socket.timeout.ms ({}) must be more than replica.fetch.wait.max.ms ({wait_ms}), or a follower would give up on every fetch that waits",
                self.replica_socket_timeout_ms
            ));
        }
        if self.connection_setup_timeout_ms < 1 {
            return conflict(format!(
                "socket.connection.setup.timeout.ms ({}) must be at least 1, or no follower would reach its leader",
                self.connection_setup_timeout_ms
            ));
        }
        if let Some(queued) = self.queued_max_request_bytes
            && queued < i64::from(self.socket_request_max_bytes)
        {
            return conflict(format!(
                "queued.max.request.bytes ({queued}) must be at least socket.request.max.bytes ({}), or the largest request could never be read",
                self.socket_request_max_bytes
            ));
        }
        for (name, factor) in [
            (
                "default.replication.factor",
                self.default_replication_factor,
            ),
            (
                "offsets.topic.replication.factor",
                self.offsets_topic_replication_factor,
            ),
        ] {
            if factor < 1 {
                return Err(ConfigError::InvalidValue {
                    name: name.to_owned(),
                    value: factor.to_string(),
                    reason: "Value must be at least 1".to_owned(),
                });
            }
        }
        Ok(())
    }
}

fn send_buffer_bytes(layers: BrokerLayers<'_>) -> Result<Option<usize>, ConfigError> {
    let name = "socket.send.buffer.bytes";
    match layers.int(name)? {
        -1 => Ok(None),
        bytes => match usize::try_from(bytes) {
            Ok(bytes) if bytes > 0 => Ok(Some(bytes)),
            _ => Err(ConfigError::InvalidValue {
                name: name.to_owned(),
                value: bytes.to_string(),
                reason: "Value must be at least 1, or -1 for the system to size it".to_owned(),
            }),
        },
    }
}

fn rack_aware_reads(layers: BrokerLayers<'_>) -> Result<bool, ConfigError> {
    match layers.text("replica.selector.class")? {
        Some(class) if class == RACK_AWARE => Ok(true),
        Some(class) if !class.is_empty() => Err(ConfigError::InvalidValue {
            name: "replica.selector.class".to_owned(),
            value: class,
            reason: format!(
                "Java classes cannot be loaded; {RACK_AWARE} is served, or none to read from leaders"
            ),
        }),
        _ => Ok(false),
    }
}

fn node_id(layers: BrokerLayers<'_>) -> Result<i32, ConfigError> {
    let node = layers.int("node.id")?;
    let broker = layers.int("broker.id")?;
    match (layers.is_set("node.id"), layers.is_set("broker.id")) {
        (true, true) if node != broker => Err(ConfigError::Conflict(format!(
            "node.id ({node}) and broker.id ({broker}) are two names of one thing: set node.id only"
        ))),
        (false, true) if broker < 0 => Err(ConfigError::InvalidValue {
            name: "broker.id".to_owned(),
            value: broker.to_string(),
            reason: "Value must be at least 0".to_owned(),
        }),
        (false, true) => Ok(broker),
        _ => Ok(node),
    }
}

fn log_dirs(layers: BrokerLayers<'_>) -> Result<Vec<String>, ConfigError> {
    let mut dirs = layers.list("log.dirs")?;
    if dirs.is_empty() {
        dirs = layers.list("log.dir")?;
    }
    if dirs.is_empty() || dirs.iter().any(String::is_empty) {
        return Err(ConfigError::Conflict(
            "log.dirs names no directory, or an empty one: set it to where the data should live"
                .to_owned(),
        ));
    }
    for (at, dir) in dirs.iter().enumerate() {
        if dirs[..at].contains(dir) {
            return Err(ConfigError::Conflict(format!("log.dirs names {dir} twice")));
        }
    }
    Ok(dirs)
}

fn check_advertised(listeners: &[Listener], advertised: &[Listener]) -> Result<(), ConfigError> {
    for a in advertised {
        if !listeners.iter().any(|l| l.name == a.name) {
            return Err(ConfigError::Conflict(format!(
                "advertised.listeners names {}, which is not in listeners",
                a.name
            )));
        }
    }
    Ok(())
}
