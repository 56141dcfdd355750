//! A topic's settings, resolved into what its logs and its produce path use.

use std::collections::BTreeSet;

use crate::layers::{BrokerLayers, ConfigMap, missing, resolve_topic};
use crate::{ConfigError, Scope, Value, setting};

/// `compression.type` of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CompressionType {
    /// As the producer sent it.
    #[default]
    Producer,
    /// Stored uncompressed.
    Uncompressed,
    /// gzip.
    Gzip,
    /// Snappy.
    Snappy,
    /// LZ4 frames.
    Lz4,
    /// Zstandard.
    Zstd,
}

/// `message.timestamp.type` of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TimestampType {
    /// The producer's clock.
    #[default]
    CreateTime,
    /// The broker's clock at append.
    LogAppendTime,
}

/// Which replicas of a topic are held to a replication rate (KIP-73).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ThrottledReplicas {
    /// `*`.
    All,
    /// These partitions on these brokers; empty for none.
    These(BTreeSet<(i32, i32)>),
}

impl ThrottledReplicas {
    /// Whether the replica of `partition` on `broker` is one of them.
    pub fn contains(&self, partition: i32, broker: i32) -> bool {
        match self {
            Self::All => true,
            Self::These(replicas) => replicas.contains(&(partition, broker)),
        }
    }

    /// From the items of a list that was checked.
    fn of(items: &[String]) -> Self {
        if items.iter().any(|item| item == "*") {
            return Self::All;
        }
        let pair = |item: &String| {
            let (partition, broker) = item.split_once(':')?;
            Some((partition.parse().ok()?, broker.parse().ok()?))
        };
        Self::These(items.iter().filter_map(pair).collect())
    }
}

/// A topic's settings in force; resolve once per change, then share.
#[derive(Debug, Clone, PartialEq)]
pub struct TopicSettings {
    /// `cleanup.policy` contains `delete`: old segments go by time and size.
    pub cleanup_delete: bool,
    /// `cleanup.policy` contains `compact`: the last value of each key stays.
    pub cleanup_compact: bool,
    /// `compression.type`.
    pub compression_type: CompressionType,
    /// `compression.gzip.level`, -1 for the library's default.
    pub compression_gzip_level: i32,
    /// `compression.lz4.level`.
    pub compression_lz4_level: i32,
    /// `compression.zstd.level`.
    pub compression_zstd_level: i32,
    /// `delete.retention.ms`: how long a compacted topic keeps tombstones.
    pub delete_retention_ms: i64,
    /// `file.delete.delay.ms`.
    pub file_delete_delay_ms: i64,
    /// `flush.messages`.
    pub flush_messages: i64,
    /// `flush.ms`.
    pub flush_ms: i64,
    /// `follower.replication.throttled.replicas`: what they fetch is held to their broker's rate.
    pub follower_throttled_replicas: ThrottledReplicas,
    /// `index.interval.bytes`.
    pub index_interval_bytes: i32,
    /// `leader.replication.throttled.replicas`: what is fetched from them is held to their broker's
    /// rate.
    pub leader_throttled_replicas: ThrottledReplicas,
    /// `local.retention.bytes`, -2 for `retention.bytes`.
    pub local_retention_bytes: i64,
    /// `local.retention.ms`, -2 for `retention.ms`.
    pub local_retention_ms: i64,
    /// `max.compaction.lag.ms`.
    pub max_compaction_lag_ms: i64,
    /// `max.message.bytes`: the largest batch accepted, after compression.
    pub max_message_bytes: i32,
    /// `message.timestamp.after.max.ms`.
    pub timestamp_after_max_ms: i64,
    /// `message.timestamp.before.max.ms`.
    pub timestamp_before_max_ms: i64,
    /// `message.timestamp.type`.
    pub timestamp_type: TimestampType,
    /// `min.cleanable.dirty.ratio`.
    pub min_cleanable_dirty_ratio: f64,
    /// `min.compaction.lag.ms`.
    pub min_compaction_lag_ms: i64,
    /// `min.insync.replicas` as set; see [`TopicSettings::effective_min_isr`].
    pub min_insync_replicas: i32,
    /// `preallocate`.
    pub preallocate: bool,
    /// `remote.storage.enable`.
    pub remote_storage_enable: bool,
    /// `retention.bytes` per partition; `None` without limit.
    pub retention_bytes: Option<i64>,
    /// `retention.ms`; `None` without limit.
    pub retention_ms: Option<i64>,
    /// `segment.bytes`.
    pub segment_bytes: i32,
    /// `segment.index.bytes`.
    pub segment_index_bytes: i32,
    /// `segment.jitter.ms`.
    pub segment_jitter_ms: i64,
    /// `segment.ms`.
    pub segment_ms: i64,
    /// `unclean.leader.election.enable`.
    pub unclean_leader_election_enable: bool,
}

impl TopicSettings {
    /// Resolves the topic's own values over the broker's over the defaults.
    ///
    /// Fails where a value does not parse, is out of bounds or refused, or where two
    /// contradict each other.
    pub fn resolve(topic: &ConfigMap, broker: BrokerLayers<'_>) -> Result<Self, ConfigError> {
        let values = Values { topic, broker };
        let policies = values.list("cleanup.policy")?;
        let settings = Self {
            cleanup_delete: policies.iter().any(|p| p == "delete"),
            cleanup_compact: policies.iter().any(|p| p == "compact"),
            compression_type: match values.text("compression.type")?.as_str() {
                "uncompressed" => CompressionType::Uncompressed,
                "gzip" => CompressionType::Gzip,
                "snappy" => CompressionType::Snappy,
                "lz4" => CompressionType::Lz4,
                "zstd" => CompressionType::Zstd,
                _ => CompressionType::Producer,
            },
            compression_gzip_level: values.int("compression.gzip.level")?,
            compression_lz4_level: values.int("compression.lz4.level")?,
            compression_zstd_level: values.int("compression.zstd.level")?,
            delete_retention_ms: values.long("delete.retention.ms")?,
            file_delete_delay_ms: values.long("file.delete.delay.ms")?,
            flush_messages: values.long("flush.messages")?,
            flush_ms: values.long("flush.ms")?,
            follower_throttled_replicas: ThrottledReplicas::of(
                &values.list("follower.replication.throttled.replicas")?,
            ),
            index_interval_bytes: values.int("index.interval.bytes")?,
            leader_throttled_replicas: ThrottledReplicas::of(
                &values.list("leader.replication.throttled.replicas")?,
            ),
            local_retention_bytes: values.long("local.retention.bytes")?,
            local_retention_ms: values.long("local.retention.ms")?,
            max_compaction_lag_ms: values.long("max.compaction.lag.ms")?,
            max_message_bytes: values.int("max.message.bytes")?,
            timestamp_after_max_ms: values.long("message.timestamp.after.max.ms")?,
            timestamp_before_max_ms: values.long("message.timestamp.before.max.ms")?,
            timestamp_type: match values.text("message.timestamp.type")?.as_str() {
                "LogAppendTime" => TimestampType::LogAppendTime,
                _ => TimestampType::CreateTime,
            },
            min_cleanable_dirty_ratio: values.double("min.cleanable.dirty.ratio")?,
            min_compaction_lag_ms: values.long("min.compaction.lag.ms")?,
            min_insync_replicas: values.int("min.insync.replicas")?,
            preallocate: values.boolean("preallocate")?,
            remote_storage_enable: values.boolean("remote.storage.enable")?,
            retention_bytes: Some(values.long("retention.bytes")?).filter(|n| *n >= 0),
            retention_ms: Some(values.long("retention.ms")?).filter(|n| *n >= 0),
            segment_bytes: values.int("segment.bytes")?,
            segment_index_bytes: values.int("segment.index.bytes")?,
            segment_jitter_ms: values.long("segment.jitter.ms")?,
            segment_ms: values.long("segment.ms")?,
            unclean_leader_election_enable: values.boolean("unclean.leader.election.enable")?,
        };
        settings.check()?;
        if settings.remote_storage_enable && !values.has_bucket() {
            return Err(ConfigError::Conflict(
                "remote.storage.enable=true needs a bucket: give every broker and controller \
                 tier.url, such as tier.url=s3://bucket/prefix"
                    .to_owned(),
            ));
        }
        Ok(settings)
    }

    /// What acks=all needs in sync: `min.insync.replicas`, capped by the replicas there are.
    pub fn effective_min_isr(&self, replicas: usize) -> usize {
        usize::try_from(self.min_insync_replicas)
            .unwrap_or(1)
            .clamp(1, replicas.max(1))
    }

    fn check(&self) -> Result<(), ConfigError> {
        if self.min_compaction_lag_ms > self.max_compaction_lag_ms {
            return Err(ConfigError::Conflict(format!(
                "Conflicting topic settings: min.compaction.lag.ms ({}) > max.compaction.lag.ms ({})",
                self.min_compaction_lag_ms, self.max_compaction_lag_ms
            )));
        }
        Ok(())
    }
}

impl Default for TopicSettings {
    /// The table's defaults.
    fn default() -> Self {
        let empty = ConfigMap::new();
        Self::resolve(
            &empty,
            BrokerLayers {
                dynamic: &empty,
                dynamic_default: &empty,
                fixed: &empty,
            },
        )
        .expect("the table's defaults resolve: a test asserts it")
    }
}

/// Typed access to the values of one topic.
struct Values<'a> {
    topic: &'a ConfigMap,
    broker: BrokerLayers<'a>,
}

impl Values<'_> {
    /// Whether the broker knows where tiered topics go.
    fn has_bucket(&self) -> bool {
        let layers = self.broker.each();
        let url = layers.iter().find_map(|(_, layer)| layer.get("tier.url"));
        url.is_some_and(|url| !url.is_empty())
    }

    fn value(&self, name: &str) -> Result<Value, ConfigError> {
        let s = setting(Scope::Topic, name)?;
        let (text, _) = resolve_topic(s, self.topic, self.broker).ok_or_else(|| missing(name))?;
        s.check(&text)
    }

    fn long(&self, name: &str) -> Result<i64, ConfigError> {
        self.value(name)?.as_i64().ok_or_else(|| missing(name))
    }

    fn int(&self, name: &str) -> Result<i32, ConfigError> {
        i32::try_from(self.long(name)?).map_err(|_| missing(name))
    }

    fn double(&self, name: &str) -> Result<f64, ConfigError> {
        match self.value(name)? {
            Value::Double(number) => Ok(number),
            _ => Err(missing(name)),
        }
    }

    fn boolean(&self, name: &str) -> Result<bool, ConfigError> {
        match self.value(name)? {
            Value::Boolean(b) => Ok(b),
            _ => Err(missing(name)),
        }
    }

    fn text(&self, name: &str) -> Result<String, ConfigError> {
        match self.value(name)? {
            Value::Text(text) => Ok(text),
            _ => Err(missing(name)),
        }
    }

    fn list(&self, name: &str) -> Result<Vec<String>, ConfigError> {
        match self.value(name)? {
            Value::List(items) => Ok(items),
            _ => Err(missing(name)),
        }
    }
}
