//! Who may reach brokers' pods.

use kube::ResourceExt;
use serde_json::{Value, json};
use tidemark_crds::Cluster;

use super::{CLUSTER, HTTP_PORT, QUORUM_PORT, REPLICATION_PORT, labels, metadata, name};

/// Clients reach listeners, and whoever scrapes metrics the port of those. The ports among brokers are
/// for brokers and the operator.
#[must_use]
pub fn network_policy(cluster: &Cluster) -> Value {
    let tcp = |port: i64| json!({"port": port, "protocol": "TCP"});
    let listeners = cluster.spec.listeners.iter();
    let clients = listeners.map(|listener| tcp(i64::from(listener.port)));
    let open: Vec<Value> = clients.chain([tcp(i64::from(HTTP_PORT))]).collect();
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(cluster, &cluster.name_any(), &labels(cluster)),
        "spec": {
            "podSelector": {"matchLabels": {CLUSTER: name(cluster)}},
            "policyTypes": ["Ingress"],
            "ingress": [
                {"ports": open},
                {
                    "ports": [tcp(i64::from(REPLICATION_PORT)), tcp(i64::from(QUORUM_PORT))],
                    "from": [
                        {"podSelector": {"matchLabels": {CLUSTER: name(cluster)}}},
                        {
                            "namespaceSelector": {},
                            "podSelector": {
                                "matchLabels": {"app.kubernetes.io/name": "tidemark-operator"},
                            },
                        },
                    ],
                },
            ],
        },
    })
}
