//! The objects of a cluster, as they should be; pure.

mod claims;
mod config;
mod formation;
mod network;
mod restore;
mod services;
mod stateful_set;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use kube::{Resource, ResourceExt};
use serde_json::{Value, json};
use tidemark_crds::Cluster;
use tidemark_crds::cluster::{Pool, Settings};
use tidemark_crds::common::DeletionPolicy;

use super::outside::Addresses;

pub use config::{Disk, read_property};
pub use formation::{
    Formation, LIVE, RACKS, REPLACED, REPLACING, REPORT, Replacing, USED, VOTERS, formation,
    read_formation,
};
pub use network::network_policy;
pub use restore::{OF, preview, preview_name, restore_arguments};
pub use services::bootstrap_service;
pub use stateful_set::{IMAGE_CHANGE, OPERATOR_UPGRADE, disruption_budget, service_account};

/// The port among brokers.
pub const REPLICATION_PORT: u16 = 9091;
/// The port of the quorum.
pub const QUORUM_PORT: u16 = 9090;
/// The port of health and metrics.
pub const HTTP_PORT: u16 = 8080;

/// The label that says of which template a pod is.
pub const TEMPLATE: &str = "tidemark.dev/template";
/// The label of what belongs to a cluster.
pub const CLUSTER: &str = "tidemark.dev/cluster";
/// The label of what belongs to a broker.
pub const BROKER_ID: &str = "tidemark.dev/broker-id";
/// The label of what belongs to a pool.
pub const POOL: &str = "tidemark.dev/pool";
/// The annotation of a Cluster that asks for a restart of its brokers: any other value does. It is an
/// annotation of the pods as well.
pub const RESTART: (&str, &str) = ("tidemark.dev/restart", "ManualRestart");
/// The annotation of a claim whose disk has been formatted.
pub const FORMED: &str = "tidemark.dev/formed";
/// The annotation of a claim whose broker is on its way out of the cluster.
pub const LEAVING: &str = "tidemark.dev/leaving";
/// The annotation of a claim that is kept though its broker was taken out.
pub const REMOVED: &str = "tidemark.dev/removed";
/// The annotation of a StatefulSet whose broker there is leave to stop.
pub const LEASE: &str = "tidemark.dev/lease";

/// A broker that there should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Node {
    /// Its id.
    pub id: i32,
    /// Its pool's name.
    pub pool: String,
}

/// Which brokers there are to be, given those that there are: a broker keeps its id and its pool,
/// and a new one takes the lowest id that is free. Those that are to go ([`leaving`]) are among them.
#[must_use]
pub fn nodes(existing: &[Node], pools: &[Pool]) -> Vec<Node> {
    let mut nodes = existing.to_vec();
    for pool in pools {
        let have = nodes.iter().filter(|node| node.pool == pool.name).count();
        for _ in have..usize::try_from(pool.replicas).unwrap_or(0) {
            let free = (0..).find(|id| nodes.iter().all(|node| node.id != *id));
            nodes.push(Node {
                id: free.unwrap_or(i32::MAX),
                pool: pool.name.clone(),
            });
        }
    }
    nodes.sort();
    nodes
}

/// The brokers that are to go: of each pool those that it names, then those with the highest ids.
#[must_use]
pub fn leaving(existing: &[Node], pools: &[Pool]) -> BTreeSet<i32> {
    let mut leaving = BTreeSet::new();
    let names: BTreeSet<&str> = existing.iter().map(|node| node.pool.as_str()).collect();
    for name in names {
        let pool = pools.iter().find(|pool| pool.name == name);
        let stay = pool.map_or(0, |pool| usize::try_from(pool.replicas).unwrap_or(0));
        let named = |id: i32| pool.is_some_and(|pool| pool.remove.contains(&id));
        let of_pool = existing.iter().filter(|node| node.pool == name);
        let mut ids: Vec<i32> = of_pool.map(|node| node.id).collect();
        ids.sort_by_key(|id| (named(*id), *id));
        leaving.extend(ids.into_iter().skip(stay));
    }
    leaving
}

/// The racks of brokers: those that are `placed` stay, and each of the new ones, by their ids, gets
/// the one that the fewest of all `nodes` are in, by the order of `values` where several are.
#[must_use]
pub fn racks(
    placed: &BTreeMap<i32, String>,
    nodes: &[Node],
    new: &BTreeSet<i32>,
    values: &[String],
) -> BTreeMap<i32, String> {
    let mut racks = placed.clone();
    for id in new {
        let in_it = |rack: &String| {
            let in_it = |node: &&Node| racks.get(&node.id) == Some(rack);
            nodes.iter().filter(in_it).count()
        };
        if let Some(rack) = values.iter().min_by_key(|rack| in_it(rack)) {
            let rack = rack.clone();
            racks.insert(*id, rack);
        }
    }
    racks
}

/// What a cluster's objects are made from.
#[derive(Debug, Clone, Copy)]
pub struct Build<'a> {
    /// The resource.
    pub cluster: &'a Cluster,
    /// Its formation.
    pub formation: &'a Formation,
    /// The image of its brokers.
    pub image: &'a str,
    /// Its settings, sorted.
    pub settings: &'a Settings,
    /// Where its brokers are reached from elsewhere.
    pub addresses: &'a Addresses,
}

fn name(cluster: &Cluster) -> String {
    cluster.name_any()
}

fn namespace(cluster: &Cluster) -> String {
    cluster.namespace().unwrap_or_default()
}

/// The name of everything of one broker.
#[must_use]
pub fn broker_name(cluster: &Cluster, id: i32) -> String {
    format!("{}-{id}", name(cluster))
}

/// The host of a broker, from everywhere in Kubernetes.
#[must_use]
pub fn host(cluster: &Cluster, id: i32) -> String {
    format!("{}.{}.svc", broker_name(cluster, id), namespace(cluster))
}

/// The name of a broker's claim.
#[must_use]
pub fn claim_name(cluster: &Cluster, id: i32) -> String {
    format!("{}-data", broker_name(cluster, id))
}

/// The name of the formation.
#[must_use]
pub fn formation_name(cluster: &Cluster) -> String {
    format!("{}-formation", name(cluster))
}

/// The host that clients in Kubernetes begin with.
#[must_use]
pub fn bootstrap_host(cluster: &Cluster) -> String {
    format!("{}-bootstrap.{}.svc", name(cluster), namespace(cluster))
}

/// Where clients in Kubernetes begin: at the first listener.
#[must_use]
pub fn bootstrap(cluster: &Cluster) -> String {
    let first = cluster.spec.listeners.first();
    let port = first.map_or(0, |listener| listener.port);
    format!("{}:{port}", bootstrap_host(cluster))
}

/// Whom a Service of the cluster, or of one of its brokers, is for.
#[must_use]
pub fn selector(cluster: &Cluster, id: Option<i32>) -> Value {
    match id {
        Some(id) => json!({CLUSTER: name(cluster), BROKER_ID: id.to_string()}),
        None => json!({CLUSTER: name(cluster)}),
    }
}

/// Metadata of a child of the cluster, with annotations.
#[must_use]
pub fn of_cluster(cluster: &Cluster, name: &str, annotations: &BTreeMap<&str, String>) -> Value {
    annotated(metadata(cluster, name, &labels(cluster)), annotations)
}

/// Metadata of a child that is a broker's, with annotations.
#[must_use]
pub fn of_broker(
    cluster: &Cluster,
    node: &Node,
    name: &str,
    annotations: &BTreeMap<&str, String>,
) -> Value {
    annotated(
        metadata(cluster, name, &broker_labels(cluster, node)),
        annotations,
    )
}

fn annotated(mut metadata: Value, annotations: &BTreeMap<&str, String>) -> Value {
    if !annotations.is_empty() {
        metadata["annotations"] = json!(annotations);
    }
    metadata
}

fn labels(cluster: &Cluster) -> BTreeMap<String, String> {
    [
        ("app.kubernetes.io/name", "tidemark"),
        ("app.kubernetes.io/instance", &*name(cluster)),
        ("app.kubernetes.io/managed-by", "tidemark-operator"),
        (CLUSTER, &*name(cluster)),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

fn broker_labels(cluster: &Cluster, node: &Node) -> BTreeMap<String, String> {
    let mut labels = labels(cluster);
    labels.insert(BROKER_ID.to_owned(), node.id.to_string());
    labels.insert(POOL.to_owned(), node.pool.clone());
    labels
}

/// Metadata of a child that goes with the cluster.
fn metadata(cluster: &Cluster, name: &str, labels: &BTreeMap<String, String>) -> Value {
    let owners: Vec<_> = cluster.controller_owner_ref(&()).into_iter().collect();
    json!({
        "name": name,
        "namespace": namespace(cluster),
        "labels": labels,
        "ownerReferences": owners,
    })
}

/// Metadata of what holds the data: it goes with the cluster only where the spec says so.
fn lasting(cluster: &Cluster, name: &str, labels: &BTreeMap<String, String>) -> Value {
    let mut metadata = metadata(cluster, name, labels);
    if cluster.spec.deletion_policy == DeletionPolicy::Retain {
        metadata["ownerReferences"] = json!([]);
    }
    metadata
}

impl Build<'_> {
    fn pool(&self, node: &Node) -> Option<&Pool> {
        let mut pools = self.cluster.spec.pools.iter();
        pools.find(|pool| pool.name == node.pool)
    }

    /// Whether a broker is to take part in the quorum.
    #[must_use]
    pub fn votes(&self, id: i32) -> bool {
        self.formation.voters.contains(&id)
    }
}
