//! Brokers' disks.

use serde_json::{Value, json};

use super::{Build, Node, broker_labels, claim_name, lasting};

impl Build<'_> {
    /// A broker's disk.
    #[must_use]
    pub fn claim(&self, node: &Node) -> Option<Value> {
        let (cluster, pool) = (self.cluster, self.pool(node)?);
        let mut claim = json!({
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": lasting(cluster, &claim_name(cluster, node.id), &broker_labels(cluster, node)),
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": pool.storage.size}},
            },
        });
        if let Some(class) = &pool.storage.storage_class_name {
            claim["spec"]["storageClassName"] = json!(class);
        }
        Some(claim)
    }
}
