//! Brokers' pods: the StatefulSet of each, and what holds for all of them.

use std::collections::BTreeMap;

use kube::ResourceExt;
use serde_json::{Value, json};
use tidemark_crds::Cluster;
use tidemark_crds::cluster::{CREDENTIALS_DIR, Pool};
use twox_hash::XxHash64;

use super::super::certificates::{self, DIR};
use super::config::{ADVERTISED, CLIENT_FILE, QUORUM_SERVERS};
use super::{
    BROKER_ID, Build, CLUSTER, HTTP_PORT, Node, QUORUM_PORT, REPLICATION_PORT, RESTART, TEMPLATE,
    broker_labels, broker_name, claim_name, host, labels, metadata, name,
};

/// The annotations of a pod that say what of the spec went into its template, part by part: where
/// they are the same and the template differs, the operator did that.
pub const PARTS: [(&str, &str); 4] = [
    ("tidemark.dev/image", IMAGE_CHANGE),
    ("tidemark.dev/resources", "ResourcesChange"),
    ("tidemark.dev/config", "StaticConfig"),
    (ROLES, "RoleChange"),
];
/// The annotation of a pod that says whether it takes part in the quorum.
const ROLES: &str = "tidemark.dev/roles";
/// What another image is.
pub const IMAGE_CHANGE: &str = "ImageChange";
/// What a difference is that the operator alone made.
pub const OPERATOR_UPGRADE: &str = "OperatorUpgrade";

/// The identity of the pods. It may do nothing, and has no token.
#[must_use]
pub fn service_account(cluster: &Cluster) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(cluster, &name(cluster), &labels(cluster)),
        "automountServiceAccountToken": false,
    })
}

/// One broker at a time may be drained away, and only while all others are ready, which means in
/// sync: so drains are safe while no operator runs.
#[must_use]
pub fn disruption_budget(cluster: &Cluster) -> Value {
    json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(cluster, &name(cluster), &labels(cluster)),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": {CLUSTER: name(cluster)}},
        },
    })
}

impl Build<'_> {
    /// The hash of a broker's template.
    #[must_use]
    pub fn template_hash(&self, node: &Node) -> Option<String> {
        Some(hash(&self.bare_template(node)?.to_string()))
    }

    /// A broker's StatefulSet.
    #[must_use]
    pub fn stateful_set(&self, node: &Node) -> Option<Value> {
        let (cluster, name) = (self.cluster, broker_name(self.cluster, node.id));
        let mut template = self.bare_template(node)?;
        let hash = hash(&template.to_string());
        template["metadata"]["labels"][TEMPLATE] = json!(hash);
        let mut labels = broker_labels(cluster, node);
        labels.insert(TEMPLATE.to_owned(), hash);
        Some(json!({
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": metadata(cluster, &name, &labels),
            "spec": {
                "replicas": 1,
                "serviceName": name,
                "updateStrategy": {"type": "OnDelete"},
                "podManagementPolicy": "Parallel",
                "selector": {"matchLabels": {CLUSTER: super::name(cluster), BROKER_ID: node.id.to_string()}},
                "template": template,
            },
        }))
    }

    /// What of the spec goes into a template, part by part.
    pub(super) fn parts(&self, node: &Node, pool: &Pool) -> BTreeMap<String, String> {
        let ports = self.cluster.spec.listeners.iter().map(|of| of.port);
        let ports: Vec<i32> = ports.collect();
        let parts = [
            self.image.to_owned(),
            json!(pool.resources).to_string(),
            json!([self.settings.fixed, self.tls(), ports]).to_string(),
            self.votes(node.id).to_string(),
        ];
        let named = PARTS.iter().zip(parts);
        let mut parts: BTreeMap<String, String> = named
            .map(|((name, _), part)| ((*name).to_owned(), hash(&part)))
            .collect();
        // Where nobody asked there is none: the annotation came after the first clusters.
        if let Some(asked) = self.cluster.annotations().get(RESTART.0) {
            parts.insert(RESTART.0.to_owned(), hash(asked));
        }
        parts
    }

    /// Why a pod with these annotations is not of the template that it should be of.
    #[must_use]
    pub fn reasons(&self, node: &Node, of_pod: &BTreeMap<String, String>) -> Vec<&'static str> {
        let Some(pool) = self.pool(node) else {
            return Vec::new();
        };
        let wanted = self.parts(node, pool);
        let changed = PARTS
            .iter()
            .chain([&RESTART])
            .filter(|(name, _)| wanted.get(*name) != of_pod.get(*name));
        let reasons: Vec<&str> = changed.map(|(_, reason)| *reason).collect();
        match reasons.is_empty() {
            true => vec![OPERATOR_UPGRADE],
            false => reasons,
        }
    }

    fn bare_template(&self, node: &Node) -> Option<Value> {
        let (cluster, pool) = (self.cluster, self.pool(node)?);
        let config = "/etc/tidemark/broker.properties";
        let files: String = self
            .properties(node)
            .iter()
            // A broker that runs hears of other voters from the quorum, and follows its address.
            .filter(|(name, _)| *name != QUORUM_SERVERS && *name != ADVERTISED)
            .map(|(name, value)| format!("{name}={value}\n"))
            .collect();
        let mut annotations = self.parts(node, pool);
        annotations.insert("tidemark.dev/settings".to_owned(), hash(&files));
        let probe =
            |path: &str| json!({"httpGet": {"path": path, "port": "http"}, "timeoutSeconds": 5});
        let with = |mut probe: Value, more: &[(&str, i32)]| {
            for (key, value) in more {
                probe[*key] = json!(value);
            }
            probe
        };
        let mut mounts = vec![
            json!({"name": "files", "mountPath": "/etc/tidemark", "readOnly": true}),
            json!({"name": "tls", "mountPath": DIR, "readOnly": true}),
            json!({"name": "data", "mountPath": "/var/lib/tidemark"}),
        ];
        let mut volumes = vec![
            json!({"name": "files", "configMap": {"name": broker_name(cluster, node.id)}}),
            json!({"name": "tls", "secret": {"secretName": certificates::secret_name(cluster, node.id), "defaultMode": 0o440}}),
            json!({"name": "data", "persistentVolumeClaim": {"claimName": claim_name(cluster, node.id)}}),
        ];
        let tier = cluster.spec.tier.as_ref();
        if let Some(credentials) = tier.and_then(|tier| tier.credentials.as_ref()) {
            let secret = &credentials.secret_ref.name;
            mounts.push(json!({"name": "tier", "mountPath": CREDENTIALS_DIR, "readOnly": true}));
            // A broker does not wait for it: records stay on local disks meanwhile.
            volumes.push(json!({"name": "tier", "secret": {"secretName": secret, "optional": true, "defaultMode": 0o440}}));
        }
        let mut format = vec!["tidemark", "format", "--config", config];
        format.extend(["--formation", "/etc/tidemark/formation.json"]);
        let mut first = self.formation.first.iter();
        if first.any(|(id, _)| *id == node.id) {
            format.extend(self.formation.restore.iter().map(String::as_str));
        }
        let spread = |key: &str| {
            json!({
                "maxSkew": 1,
                "topologyKey": key,
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {CLUSTER: name(cluster)}},
            })
        };
        let mut template = json!({
            "metadata": {
                "labels": broker_labels(cluster, node),
                "annotations": annotations,
            },
            "spec": {
                "serviceAccountName": name(cluster),
                "automountServiceAccountToken": false,
                "enableServiceLinks": false,
                "terminationGracePeriodSeconds": 60,
                "securityContext": restricted_pod(),
                "topologySpreadConstraints": [
                    spread("topology.kubernetes.io/zone"),
                    spread("kubernetes.io/hostname"),
                ],
                "initContainers": [{
                    "name": "format",
                    "image": self.image,
                    "imagePullPolicy": "IfNotPresent",
                    "command": format,
                    // What it says when it fails is what the status says.
                    "terminationMessagePolicy": "FallbackToLogsOnError",
                    "volumeMounts": mounts,
                    "securityContext": restricted(),
                    "resources": pool.resources.clone().unwrap_or_default(),
                }],
                "containers": [{
                    "name": "broker",
                    "image": self.image,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["tidemark", "broker", "--config", config],
                    "terminationMessagePolicy": "FallbackToLogsOnError",
                    // For commands that are run beside the broker: what clients' listeners speak
                    // does not matter to them.
                    "env": [
                        {"name": "TIDEMARK_BOOTSTRAP", "value": format!("{}:{REPLICATION_PORT}", host(cluster, node.id))},
                        {"name": "TIDEMARK_COMMAND_CONFIG", "value": format!("/etc/tidemark/{CLIENT_FILE}")},
                    ],
                    "ports": [
                        {"name": "replication", "containerPort": REPLICATION_PORT},
                        {"name": "quorum", "containerPort": QUORUM_PORT},
                        {"name": "http", "containerPort": HTTP_PORT},
                    ],
                    // An hour for a log that is long to recover.
                    "startupProbe": with(probe("/livez"), &[("periodSeconds", 2), ("failureThreshold", 1_800)]),
                    "livenessProbe": with(probe("/livez"), &[("periodSeconds", 10), ("failureThreshold", 3)]),
                    "readinessProbe": with(probe("/readyz"), &[("periodSeconds", 2), ("failureThreshold", 1)]),
                    "volumeMounts": mounts,
                    "securityContext": restricted(),
                    "resources": pool.resources.clone().unwrap_or_default(),
                }],
                "volumes": volumes,
            },
        });
        let rack = self.formation.racks.get(&node.id);
        if let (Some(racks), Some(rack)) = (&cluster.spec.racks, rack) {
            let there = json!({"key": racks.topology_key, "operator": "In", "values": [rack]});
            template["spec"]["affinity"] = json!({"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [{"matchExpressions": [there]}],
                },
            }});
        }
        Some(template)
    }
}

/// What holds for every pod of ours.
pub(super) fn restricted_pod() -> Value {
    json!({
        "runAsNonRoot": true,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "fsGroup": 65532,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    })
}

/// What holds for every container of ours.
pub(super) fn restricted() -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"]},
    })
}

/// Short, and the same in every build.
pub(super) fn hash(text: &str) -> String {
    format!("{:016x}", XxHash64::oneshot(0, text.as_bytes()))
}
