//! `Cluster`: brokers that keep one set of topics together.

mod disruption;
mod features;
mod listeners;
mod racks;
mod recovery;
mod restore;
mod settings;
mod tier;
mod validate;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use disruption::{Day, Disruption, DisruptionMode, Opens, Unreplicated, Window};
pub use features::{FeaturePolicy, Features, FeaturesStatus};
pub use listeners::{
    Authentication, AuthenticationType, Bootstrap, Certificates, CertificatesStatus, IssuerRef,
    Listener, ListenerStatus, ListenerTls, ListenerType, PerBroker, Times, TlsSource,
    default_listeners,
};
pub use racks::Racks;
pub use recovery::{DiskLost, DiskLostPolicy, Recovery};
pub use restore::{Restore, RestoreMode, RestoreStatus};
pub use settings::{Changes, Settings, changes, settings};
pub use tier::{CREDENTIALS_DIR, Tier, TierStatus};
pub use validate::{OWNED_SETTINGS, validate, validate_change, validate_name};

use crate::common::{Config, DeletionPolicy};

/// A Tidemark cluster: brokers, their disks, and the settings that they share.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "tidemark.dev",
    version = "v1alpha1",
    kind = "Cluster",
    namespaced,
    derive = "PartialEq",
    doc = "A Tidemark cluster: brokers, their disks, and the settings that they share.",
    status = "ClusterStatus",
    shortname = "tmc",
    category = "tidemark",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.ready"),
    printcolumn(
        name = "Available",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    ),
    printcolumn(
        name = "ISR",
        type_ = "integer",
        description = "partitions that lack an in-sync replica",
        json_path = ".status.partitions.underReplicated"
    ),
    printcolumn(
        name = "Tier Lag",
        type_ = "string",
        description = "how long the oldest record waits to be in the bucket",
        json_path = ".status.tier.lag"
    ),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$')")
        .message("the name must be a DNS label of at most 40 characters that begins with a letter")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.pools.map(p, p.replicas).sum() >= self.quorum.voters")
        .message("there must be at least as many brokers as voters: set quorum.voters to 1 for fewer than 3"),
    validation = Rule::new("self.listeners.all(a, !(a.port in [8080, 9090, 9091]))")
        .message("ports 8080, 9090 and 9091 are the cluster's own"),
    validation = Rule::new("self.listeners.all(a, !(a.name in ['replication', 'controller', 'http', 'quorum']))")
        .message("the names replication, controller, http and quorum are the cluster's own"),
    validation = Rule::new("self.listeners.all(a, self.listeners.exists_one(b, b.port == a.port))")
        .message("each listener needs a port of its own"),
    validation = Rule::new("!has(oldSelf.tier) || has(self.tier)")
        .message("tier cannot be taken out: what is in the bucket would be lost to the cluster"),
    validation = Rule::new("!has(self.restore) || has(self.tier)")
        .message("a restored cluster keeps its topics in a bucket: give tier"),
    validation = Rule::new("!has(self.restore) || !has(self.tier) || self.restore.mode != 'Takeover' || !has(self.restore.source) || self.restore.source == self.tier.url")
        .message("a takeover is of the bucket of tier.url: take out restore.source"),
    validation = Rule::new("!has(self.restore) || !has(self.tier) || self.restore.mode != 'Clone' || (has(self.restore.source) && self.restore.source != self.tier.url)")
        .message("a clone is of another bucket than tier.url: give it as restore.source"),
    validation = Rule::new("!has(oldSelf.racks) || has(self.racks)")
        .message("racks cannot be taken out: brokers are bound to where they are"),
    validation = Rule::new("has(self.restore) == has(oldSelf.restore)")
        .message("restore is chosen when the cluster is made: it can neither come nor go later"),
    validation = Rule::new("oldSelf.pools.all(o, o.replicas == 0 || self.pools.exists(p, p.name == o.name))")
        .message("a pool is taken out when it has no brokers: set its replicas to 0 first")
)]
pub struct ClusterSpec {
    /// The image that brokers run. Filled in by the operator when the cluster is made, so that a
    /// newer operator does not move it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// When the cluster begins to use what only newer versions know.
    #[serde(default)]
    pub features: Features,
    /// While true the operator changes nothing of this cluster but its status.
    #[serde(default)]
    pub paused: bool,
    /// When brokers may be restarted.
    #[serde(default)]
    pub disruption: Disruption,
    /// Who keeps the metadata.
    #[serde(default)]
    pub quorum: Quorum,
    /// Where brokers are. Without it they are spread over zones and nodes as far as that goes, and
    /// replicas are placed without regard to it. It counts for brokers that are made from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub racks: Option<Racks>,
    /// Groups of brokers that are alike.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[schemars(length(min = 1, max = 16))]
    pub pools: Vec<Pool>,
    /// Where clients come in. Among brokers, and to the quorum, it is always TLS by which both ends
    /// prove who they are.
    #[serde(default = "default_listeners")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[schemars(length(min = 1, max = 8))]
    pub listeners: Vec<Listener>,
    /// How long certificates of the cluster's own authority are good, which are made anew in time
    /// without a restart.
    #[serde(default)]
    pub certificates: Certificates,
    /// Settings of all brokers by Kafka's names. Those that brokers take while they run restart
    /// nobody; for the others brokers are restarted, one at a time. Those that follow from other
    /// fields are refused.
    #[serde(default, skip_serializing_if = "Config::is_empty")]
    #[schemars(extend("maxProperties" = 128))]
    pub config: Config,
    /// The bucket that records move to. It can be added later, and is never taken out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<Tier>,
    /// What the cluster begins with of another one's bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<Restore>,
    /// What is done by itself about what is lost.
    #[serde(default)]
    pub recovery: Recovery,
    /// Whether claims go with the cluster.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

/// Who keeps the metadata.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.voters in [1, 3, 5]").message("voters must be 1, 3 or 5"),
    validation = Rule::new("self.voters == oldSelf.voters")
        .message("the number of voters is chosen when the cluster is made")
)]
pub struct Quorum {
    /// How many brokers vote: 1, 3 or 5. The first brokers do, by id.
    #[serde(default = "three")]
    #[schemars(range(min = 1, max = 5))]
    pub voters: i32,
}

fn three() -> i32 {
    3
}

impl Default for Quorum {
    fn default() -> Self {
        Self { voters: three() }
    }
}

/// Brokers that are alike.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pool {
    /// A DNS label.
    #[schemars(
        length(min = 1, max = 20),
        regex(pattern = r"^[a-z]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub name: String,
    /// How many brokers. With fewer, those that go are emptied first: what they hold moves to the
    /// others, and one that votes is replaced.
    #[schemars(range(min = 0, max = 100))]
    pub replicas: i32,
    /// The brokers that go first when replicas gets smaller; after them those with the highest ids.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub remove: Vec<i32>,
    /// Of each broker's container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Each broker's disk.
    pub storage: Storage,
}

/// A broker's disk: a claim that the operator makes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("quantity(self.size).compareTo(quantity(oldSelf.size)) >= 0")
        .message("a disk cannot shrink"),
    validation = Rule::new("has(self.storageClassName) == has(oldSelf.storageClassName) && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)")
        .message("storageClassName cannot change")
)]
pub struct Storage {
    /// Its size, such as 100Gi. It can grow, where the storage class allows it.
    #[schemars(
        length(max = 20),
        regex(pattern = r"^[1-9][0-9]*(k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$")
    )]
    pub size: String,
    /// The class of the claim; the default class where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub storage_class_name: Option<String>,
    /// Whether the claim of a broker that is taken out goes with it.
    #[serde(default)]
    pub on_scale_down: DeletionPolicy,
}

/// What the operator sees and does.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// The generation of the spec that this speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// One line: what is going on.
    #[serde(default)]
    pub message: String,
    /// Brokers that are ready, of those that are wanted.
    #[serde(default)]
    pub ready: String,
    /// The cluster's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// Where clients inside of Kubernetes begin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<String>,
    /// Where clients come in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<ListenerStatus>,
    /// Certificates that the operator makes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificates: Option<CertificatesStatus>,
    /// The active controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<i32>,
    /// The level of what the cluster uses of newer versions; as long as all brokers tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<FeaturesStatus>,
    /// Each broker.
    #[serde(default)]
    pub brokers: Vec<BrokerStatus>,
    /// Partitions, when they were last asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<PartitionsStatus>,
    /// The bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<TierStatus>,
    /// What came back of another cluster's bucket, or would.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<RestoreStatus>,
    /// Settings that are not as the spec says, or that it does not know of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<ConfigStatus>,
    /// What a pending change restarts, and what it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disruption: Option<DisruptionStatus>,
    /// Accepted, Ready, Reconciled, FullyReplicated, QuorumHealthy, StorageReady, ListenersReady,
    /// CertificatesValid, ConfigApplied, TierHealthy, Restored.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// Settings, where there is something to be told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigStatus {
    /// Settings that are not taken, each with the reason; what was in force before stays so.
    #[serde(default)]
    pub refused: Vec<String>,
    /// Settings of all brokers that somebody else set while they run: they are left alone.
    #[serde(default)]
    pub foreign: Vec<String>,
}

/// One broker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BrokerStatus {
    /// Its id.
    pub id: i32,
    /// Its pool.
    pub pool: String,
    /// What it is: Ready, Starting, CatchingUp, DiskFull and so on.
    pub state: String,
    /// Whether it has to be restarted for a change.
    pub stale: bool,
}

/// Partitions, counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PartitionsStatus {
    /// All.
    pub total: i64,
    /// Those that lack an in-sync replica.
    pub under_replicated: i64,
    /// Those without a leader.
    pub offline: i64,
}

/// What a pending change restarts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DisruptionStatus {
    /// Names the plan: what the annotation tidemark.dev/approve has to say.
    pub id: String,
    /// Why it waits, or what it does: a reason from a closed list.
    pub state: String,
    /// The same for people.
    pub message: String,
    /// Brokers that are to be restarted, in this order.
    pub restarts: Vec<i32>,
    /// Why.
    pub reasons: Vec<String>,
    /// Partitions that will be offline while their broker restarts, some where there are many.
    #[serde(default)]
    pub unavoidable: Vec<String>,
}
