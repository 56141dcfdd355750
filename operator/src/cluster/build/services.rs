//! Under which names a cluster and its brokers are found.

use serde_json::{Value, json};
use tidemark_crds::Cluster;

use super::{
    BROKER_ID, Build, CLUSTER, HTTP_PORT, Node, QUORUM_PORT, REPLICATION_PORT, broker_labels,
    broker_name, labels, metadata, name,
};

fn port(name: &str, port: u16) -> Value {
    json!({"name": name, "port": port, "targetPort": port, "protocol": "TCP"})
}

/// Those of listeners, and the cluster's own.
fn ports<const N: usize>(cluster: &Cluster, own: [Value; N]) -> Vec<Value> {
    let listeners = cluster.spec.listeners.iter();
    let listeners = listeners.filter_map(|of| Some(port(&of.name, u16::try_from(of.port).ok()?)));
    listeners.chain(own).collect()
}

/// Where clients begin: any broker that is ready.
#[must_use]
pub fn bootstrap_service(cluster: &Cluster) -> Value {
    let service = format!("{}-bootstrap", name(cluster));
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(cluster, &service, &labels(cluster)),
        "spec": {
            "type": "ClusterIP",
            "selector": {CLUSTER: name(cluster)},
            "ports": ports(cluster, [port("replication", REPLICATION_PORT)]),
        },
    })
}

impl Build<'_> {
    /// The name under which a broker is found, ready or not: others have to find it to get ready.
    #[must_use]
    pub fn service(&self, node: &Node) -> Value {
        let cluster = self.cluster;
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata(cluster, &broker_name(cluster, node.id), &broker_labels(cluster, node)),
            "spec": {
                "clusterIP": "None",
                "publishNotReadyAddresses": true,
                "selector": {CLUSTER: name(cluster), BROKER_ID: node.id.to_string()},
                "ports": ports(cluster, [
                    port("replication", REPLICATION_PORT),
                    port("quorum", QUORUM_PORT),
                    port("http", HTTP_PORT),
                ]),
            },
        })
    }
}
