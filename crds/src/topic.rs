//! `Topic`: one topic of a cluster.

mod plan;
mod validate;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use plan::{Actual, Drift, Owner, Pending, Plan, Setting, Step, owner_of, plan};
pub use validate::{Wanted, validate, validate_change};

use crate::common::{ClusterRef, Config, DeletionPolicy, LocalRetention};

/// A topic, in units people write.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "tidemark.dev",
    version = "v1alpha1",
    kind = "Topic",
    namespaced,
    derive = "PartialEq",
    doc = "A topic of a Tidemark cluster.",
    status = "TopicStatus",
    shortname = "tmt",
    category = "tidemark",
    printcolumn(
        name = "Cluster",
        type_ = "string",
        json_path = ".spec.clusterRef.name"
    ),
    printcolumn(
        name = "Partitions",
        type_ = "integer",
        json_path = ".status.partitions"
    ),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".status.replicas"),
    printcolumn(
        name = "Synced",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Synced')].status"
    ),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message"),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.topicName) == has(oldSelf.topicName) && (!has(self.topicName) || self.topicName == oldSelf.topicName)")
        .message("topicName cannot change: make another Topic"),
    validation = Rule::new("!has(self.minInsyncReplicas) || !has(self.replicas) || self.minInsyncReplicas <= self.replicas")
        .message("minInsyncReplicas is more than replicas"),
    validation = Rule::new("!has(self.config) || !(has(self.retention) && 'retention.ms' in self.config)")
        .message("retention and config['retention.ms'] say the same: give one of them"),
    validation = Rule::new("!has(self.config) || !(has(self.retentionBytes) && 'retention.bytes' in self.config)")
        .message("retentionBytes and config['retention.bytes'] say the same: give one of them"),
    validation = Rule::new("!has(self.config) || !(has(self.cleanup) && 'cleanup.policy' in self.config)")
        .message("cleanup and config['cleanup.policy'] say the same: give one of them"),
    validation = Rule::new("!has(self.config) || !has(self.tier) || !(has(self.tier.enabled) && 'remote.storage.enable' in self.config)")
        .message("tier.enabled and config['remote.storage.enable'] say the same: give one of them"),
    validation = Rule::new("!has(self.config) || !has(self.tier) || !(has(self.tier.localRetention) && 'local.retention.ms' in self.config)")
        .message("tier.localRetention and config['local.retention.ms'] say the same: give one of them"),
    validation = Rule::new("!has(self.config) || !has(self.tier) || !(has(self.tier.localRetentionBytes) && 'local.retention.bytes' in self.config)")
        .message("tier.localRetentionBytes and config['local.retention.bytes'] say the same: give one of them"),
    validation = Rule::new("!has(self.config) || !(has(self.minInsyncReplicas) && 'min.insync.replicas' in self.config)")
        .message("minInsyncReplicas and config['min.insync.replicas'] say the same: give one of them")
)]
pub struct TopicSpec {
    /// The cluster, in the same namespace.
    #[x_kube(validation = Rule::new("self == oldSelf").message("clusterRef cannot change: make another Topic"))]
    pub cluster_ref: ClusterRef,
    /// The topic's name; that of the resource where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 249), regex(pattern = r"^[a-zA-Z0-9._-]+$"))]
    pub topic_name: Option<String>,
    /// How many partitions. It can grow.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 100_000))]
    #[x_kube(validation = Rule::new("self >= oldSelf").message("partitions cannot be taken away"))]
    pub partitions: i32,
    /// How many brokers hold each partition; the cluster's default where it is not given. Counts
    /// when the topic is made: what differs later is shown as drift.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub replicas: Option<i32>,
    /// How many must have a record before its producer hears of it (min.insync.replicas).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub min_insync_replicas: Option<i32>,
    /// How long records are kept (retention.ms), such as 7d, or unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 40),
        regex(pattern = r"^([0-9]+(ms|s|m|h|d))+$|^unlimited$")
    )]
    pub retention: Option<String>,
    /// How much is kept of each partition (retention.bytes), such as 100Gi, or unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 20),
        regex(pattern = r"^[0-9]+(k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$|^unlimited$")
    )]
    pub retention_bytes: Option<String>,
    /// What becomes of old records (cleanup.policy).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cleanup: Option<Cleanup>,
    /// What of it is in the cluster's bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<TopicTier>,
    /// Other settings by Kafka's names.
    #[serde(default, skip_serializing_if = "Config::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub config: Config,
    /// What to do when there is such a topic already.
    #[serde(default)]
    pub existing: Existing,
    /// Observe: the operator reports and changes nothing.
    #[serde(default)]
    pub management_policy: ManagementPolicy,
    /// Whether the topic goes with the resource.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

/// What of a topic is in the cluster's bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TopicTier {
    /// Whether it moves there (remote.storage.enable); the cluster's tier.defaults.enabled where it
    /// is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// What of it stays on local disks.
    #[serde(flatten)]
    pub local: LocalRetention,
}

fn one() -> i32 {
    1
}

/// What becomes of old records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Cleanup {
    /// They are deleted by age and size.
    Delete,
    /// The newest of each key is kept.
    Compact,
    /// Both.
    CompactAndDelete,
}

/// What to do with a topic that is there already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Existing {
    /// It is taken over.
    #[default]
    Adopt,
    /// It is left alone.
    Refuse,
}

/// Whether the operator changes the topic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ManagementPolicy {
    /// It does.
    #[default]
    Full,
    /// It only reports.
    Observe,
}

/// What the operator sees of a topic.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TopicStatus {
    /// The generation of the spec that this speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// One line: what is going on.
    #[serde(default)]
    pub message: String,
    /// The topic's name.
    #[serde(default)]
    pub topic_name: String,
    /// Its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_id: Option<String>,
    /// Its partitions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<i32>,
    /// Its replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// What differs from the spec and is not mended by the operator.
    #[serde(default)]
    pub drift: Vec<String>,
    /// Changes that would delete records, and wait for the annotation tidemark.dev/approve.
    #[serde(default)]
    pub pending: Vec<String>,
    /// What the annotation has to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_id: Option<String>,
    /// Accepted, Ready, Synced.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

impl Topic {
    /// The name of the topic in the cluster.
    #[must_use]
    pub fn topic_name(&self) -> &str {
        let own = self.metadata.name.as_deref().unwrap_or_default();
        self.spec.topic_name.as_deref().unwrap_or(own)
    }
}
