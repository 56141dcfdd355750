//! `ConsumerGroup`: what a group should be doing, and one-shot resets of its offsets.

mod plan;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use plan::{
    Decision, Move, Phase, Record, Standing, Target, View, decide_reset, lag, populated, recorded,
    standing, stuck, target, validate, validate_change, within_bounds,
};

use crate::common::ClusterRef;

/// A consumer group: what it should be doing, and one-shot resets of its offsets.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "tidemark.dev",
    version = "v1alpha1",
    kind = "ConsumerGroup",
    namespaced,
    derive = "PartialEq",
    doc = "A consumer group of a Tidemark cluster.",
    status = "ConsumerGroupStatus",
    shortname = "tmg",
    category = "tidemark",
    printcolumn(
        name = "Cluster",
        type_ = "string",
        json_path = ".spec.clusterRef.name"
    ),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Members", type_ = "integer", json_path = ".status.members"),
    printcolumn(name = "Lag", type_ = "integer", json_path = ".status.lag.records"),
    printcolumn(
        name = "Behind",
        type_ = "string",
        description = "how old the oldest record is that was not read",
        json_path = ".status.lag.time"
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
    validation = Rule::new("has(self.groupId) == has(oldSelf.groupId) && (!has(self.groupId) || self.groupId == oldSelf.groupId)")
        .message("groupId cannot change: make another ConsumerGroup")
)]
pub struct ConsumerGroupSpec {
    /// The cluster, in the same namespace.
    #[x_kube(validation = Rule::new("self == oldSelf").message("clusterRef cannot change: make another ConsumerGroup"))]
    pub cluster_ref: ClusterRef,
    /// The group; the name of the resource where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 249))]
    pub group_id: Option<String>,
    /// With fewer members the condition Populated is False.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub min_members: Option<i32>,
    /// With more lag the condition LagWithinBounds is False.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<LagBounds>,
    /// Moves the group's offsets, once for each token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset: Option<Reset>,
}

/// How much lag is well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LagBounds {
    /// Records, over all partitions; without it any number is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub records: Option<i64>,
    /// How old the oldest record may be that is there and not committed, such as 10m; without it any
    /// age is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40), regex(pattern = r"^([0-9]+(ms|s|m|h|d))+$"))]
    pub time: Option<String>,
    /// The group is stuck when it has members and lag, and does not get on in a partition for so
    /// long.
    #[serde(default = "five_minutes")]
    #[schemars(
        length(max = 40),
        regex(pattern = r"^([0-9]+(ms|s|m|h|d))+$|^unlimited$")
    )]
    pub stuck_after: String,
}

fn five_minutes() -> String {
    "5m".to_owned()
}

/// A reset of offsets: shown first, done once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reset {
    /// Names this reset. The same token is not done twice: which one was done last stands with the
    /// group in the cluster, as its setting tidemark.reset.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")
    )]
    pub token: String,
    /// After this moment it is not done any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40), extend("format" = "date-time"))]
    pub not_after: Option<String>,
    /// The topics; all that the group has offsets in where it is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), inner(length(max = 249)))]
    pub topics: Vec<String>,
    /// Where to.
    pub to: ResetTo,
    /// While true, status.reset shows what would be done. A dry run does not use up the token.
    #[serde(default = "yes")]
    pub dry_run: bool,
    /// What to do while the group has members, who would commit over it.
    #[serde(default)]
    pub when_active: WhenActive,
}

fn yes() -> bool {
    true
}

/// Where a reset moves offsets to: one of these.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.earliest), has(self.latest), has(self.time), has(self.ago), has(self.shift)].filter(x, x).size() == 1")
    .message("give one of earliest, latest, time, ago and shift"))]
pub struct ResetTo {
    /// The first record that is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub earliest: Option<bool>,
    /// The end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest: Option<bool>,
    /// The first record at or after this moment, as 2026-11-25T12:00:00Z.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40), extend("format" = "date-time"))]
    pub time: Option<String>,
    /// The first record that is not older than this, as 6h. Counted from the reset itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40), regex(pattern = r"^([0-9]+(ms|s|m|h|d))+$"))]
    pub ago: Option<String>,
    /// So many records on, or back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shift: Option<i64>,
}

/// What to do while the group has members.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WhenActive {
    /// The reset waits until they are gone.
    #[default]
    Wait,
    /// It is refused: another token is needed.
    Refuse,
}

/// What the operator sees of a group.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConsumerGroupStatus {
    /// The generation of the spec that this speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// One line: what is going on.
    #[serde(default)]
    pub message: String,
    /// The group's state, as Kafka names it.
    #[serde(default)]
    pub state: String,
    /// Its type, as Kafka names it.
    #[serde(default, rename = "type")]
    pub group_type: String,
    /// The broker that coordinates it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coordinator: Option<i32>,
    /// How many members.
    #[serde(default)]
    pub members: i32,
    /// How far behind it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<LagStatus>,
    /// The lag in each topic.
    #[serde(default)]
    pub topics: BTreeMap<String, i64>,
    /// The reset that the spec asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset: Option<ResetStatus>,
    /// Accepted, Ready, LagWithinBounds, Populated, ResetApplied.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// How far behind a group is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LagStatus {
    /// Records that are there and not committed, over all partitions.
    pub records: i64,
    /// How old the oldest of them is, rounded, where brokers told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// The partition with the most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worst: Option<String>,
}

/// A reset, and how far it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResetStatus {
    /// Which.
    pub token: String,
    /// DryRun, Waiting, Refused, Expired, Applied.
    pub phase: String,
    /// What it does or did, in a line.
    pub summary: String,
    /// Each partition: from, to. Some, where there are many.
    #[serde(default)]
    pub plan: Vec<String>,
}

impl ConsumerGroup {
    /// The group's id in the cluster.
    #[must_use]
    pub fn group_id(&self) -> &str {
        let own = self.metadata.name.as_deref().unwrap_or_default();
        self.spec.group_id.as_deref().unwrap_or(own)
    }
}
