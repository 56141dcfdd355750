//! The objects of a cluster, as they should be; pure.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};
use tidemark_crds::Cluster;
use tidemark_crds::cluster::{CREDENTIALS_DIR, Pool, Settings};
use tidemark_crds::common::DeletionPolicy;
use twox_hash::XxHash64;

/// The port for clients.
pub const CLIENT_PORT: u16 = 9092;
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
/// The annotations of a pod that say what of the spec went into its template, part by part: where
/// they are the same and the template differs, the operator did that.
pub const PARTS: [(&str, &str); 4] = [
    ("tidemark.dev/image", "ImageChange"),
    ("tidemark.dev/resources", "ResourcesChange"),
    ("tidemark.dev/config", "StaticConfig"),
    (ROLES, "RoleChange"),
];
/// The annotation of a Cluster that asks for a restart of its brokers: any other value does. It is an
/// annotation of the pods as well.
pub const RESTART: (&str, &str) = ("tidemark.dev/restart", "ManualRestart");
/// The annotation of a pod that says whether it takes part in the quorum.
const ROLES: &str = "tidemark.dev/roles";
/// What a difference is that the operator alone made.
pub const OPERATOR_UPGRADE: &str = "OperatorUpgrade";
/// The annotation of a claim whose disk has been formatted.
pub const FORMED: &str = "tidemark.dev/formed";
/// The setting that names the voters.
const QUORUM_SERVERS: &str = "controller.quorum.bootstrap.servers";
/// The annotation of a claim whose broker is on its way out of the cluster.
pub const LEAVING: &str = "tidemark.dev/leaving";
/// The annotation of a claim that is kept though its broker was taken out.
pub const REMOVED: &str = "tidemark.dev/removed";
/// The annotation of a StatefulSet whose broker there is leave to stop.
pub const LEASE: &str = "tidemark.dev/lease";
/// The annotation of the formation that says who votes now, where that is not who voted first.
pub const VOTERS: &str = "tidemark.dev/voters";

/// Who begins the cluster: chosen once, by the operator, and never changed; and who votes now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Formation {
    /// The cluster's id.
    pub cluster_id: String,
    /// Its first voters: broker and directory id.
    pub first: Vec<(i32, String)>,
    /// Those that are to vote now.
    pub voters: BTreeSet<i32>,
}

impl Formation {
    /// A formation whose first voters are still the voters.
    #[must_use]
    pub fn new(cluster_id: String, first: Vec<(i32, String)>) -> Self {
        let voters = first.iter().map(|(id, _)| *id).collect();
        Self {
            cluster_id,
            first,
            voters,
        }
    }

    /// Whether somebody else votes than at first.
    fn changed(&self) -> bool {
        !self.first.iter().map(|(id, _)| id).eq(&self.voters)
    }
}

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

/// The annotation of the formation that names the settings of all brokers that are the spec's.
pub const LIVE: &str = "tidemark.dev/live-settings";

/// What a broker's disk may lack when it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    /// Everything: the broker is new.
    MayBeEmpty,
    /// The quorum's directory: the broker is to vote, and did not yet.
    MayLackQuorum,
    /// Nothing: what is missing is lost.
    InUse,
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

/// Where clients in Kubernetes begin.
#[must_use]
pub fn bootstrap(cluster: &Cluster) -> String {
    format!(
        "{}-bootstrap.{}.svc:{CLIENT_PORT}",
        name(cluster),
        namespace(cluster)
    )
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

/// The formation, which nothing changes.
#[must_use]
pub fn formation(cluster: &Cluster, formation: &Formation) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": lasting(cluster, &formation_name(cluster), &labels(cluster)),
        "immutable": true,
        "data": {
            "cluster-id": formation.cluster_id,
            "voters": json!(formation.first).to_string(),
        },
    })
}

/// Reads what [`formation`] wrote, and who was written down to vote since.
#[must_use]
pub fn read_formation(map: &ConfigMap) -> Option<Formation> {
    let data = map.data.as_ref()?;
    let first = serde_json::from_str(data.get("voters")?).ok()?;
    let mut formation = Formation::new(data.get("cluster-id")?.clone(), first);
    if let Some(voters) = map.annotations().get(VOTERS) {
        formation.voters = serde_json::from_str(voters).ok()?;
    }
    Some(formation)
}

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

fn port(name: &str, port: u16) -> Value {
    json!({"name": name, "port": port, "targetPort": port, "protocol": "TCP"})
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
            "ports": [port("client", CLIENT_PORT)],
        },
    })
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
                "ports": [
                    port("client", CLIENT_PORT),
                    port("replication", REPLICATION_PORT),
                    port("quorum", QUORUM_PORT),
                    port("http", HTTP_PORT),
                ],
            },
        })
    }

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

    /// A broker's settings, by Kafka's names.
    #[must_use]
    pub fn properties(&self, node: &Node) -> BTreeMap<String, String> {
        let (cluster, votes) = (self.cluster, self.votes(node.id));
        let own = host(cluster, node.id);
        let voters = self.formation.voters.iter();
        let quorum: Vec<String> = voters
            .map(|id| format!("{}:{QUORUM_PORT}", host(cluster, *id)))
            .collect();
        let mut listeners = vec![("CLIENT", CLIENT_PORT), ("REPLICATION", REPLICATION_PORT)];
        if votes {
            listeners.push(("CONTROLLER", QUORUM_PORT));
        }
        let listen = |host: &str| {
            let each = listeners
                .iter()
                .map(|(name, port)| format!("{name}://{host}:{port}"));
            each.collect::<Vec<_>>().join(",")
        };
        // Of the quorum's size, which does not change: a default that follows the brokers would
        // restart all of them for one that comes.
        let replicas = cluster.spec.quorum.voters.min(3);
        let min_isr = if replicas < 2 { 1 } else { 2 };
        let mut settings: BTreeMap<String, String> = [
            ("default.replication.factor", replicas.to_string()),
            ("offsets.topic.replication.factor", replicas.to_string()),
            ("min.insync.replicas", min_isr.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        settings.extend(self.settings.fixed.clone());
        settings.extend(
            [
                ("node.id", node.id.to_string()),
                (
                    "process.roles",
                    if votes { "broker,controller" } else { "broker" }.to_owned(),
                ),
                ("listeners", listen("")),
                ("advertised.listeners", listen(&own)),
                (
                    "listener.security.protocol.map",
                    "CLIENT:PLAINTEXT,REPLICATION:PLAINTEXT,CONTROLLER:PLAINTEXT".to_owned(),
                ),
                ("inter.broker.listener.name", "REPLICATION".to_owned()),
                ("controller.listener.names", "CONTROLLER".to_owned()),
                (QUORUM_SERVERS, quorum.join(",")),
                ("log.dirs", "/var/lib/tidemark/data".to_owned()),
                ("http.listen", format!("0.0.0.0:{HTTP_PORT}")),
            ]
            .map(|(name, value)| (name.to_owned(), value)),
        );
        settings
    }

    /// A broker's files. `disk` is what may be missing on its disk.
    #[must_use]
    pub fn files(&self, node: &Node, disk: Disk) -> Value {
        let cluster = self.cluster;
        let properties: String = self
            .properties(node)
            .iter()
            .map(|(name, value)| format!("{name}={}\n", escaped(value)))
            .collect();
        let first = self.formation.first.iter();
        let voters: Vec<String> = first
            .map(|(id, directory)| format!("{id}@{}:{QUORUM_PORT}:{directory}", host(cluster, *id)))
            .collect();
        // Whoever comes to vote later joins a quorum that there is.
        let begins = self.votes(node.id) && !self.formation.changed();
        let formation = json!({
            "clusterId": self.formation.cluster_id,
            "voters": if begins { voters } else { Vec::new() },
            "mayFormat": disk == Disk::MayBeEmpty,
            "mayJoinQuorum": disk == Disk::MayLackQuorum,
        });
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata(cluster, &broker_name(cluster, node.id), &broker_labels(cluster, node)),
            "data": {
                "broker.properties": properties,
                "formation.json": format!("{formation:#}\n"),
            },
        })
    }

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
                "selector": {"matchLabels": {CLUSTER: self::name(cluster), BROKER_ID: node.id.to_string()}},
                "template": template,
            },
        }))
    }

    /// What of the spec goes into a template, part by part.
    fn parts(&self, node: &Node, pool: &Pool) -> BTreeMap<String, String> {
        let parts = [
            self.image.to_owned(),
            json!(pool.resources).to_string(),
            json!(self.settings.fixed).to_string(),
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
            // Read at a start only, and a broker that runs hears of other voters from the quorum.
            .filter(|(name, _)| *name != QUORUM_SERVERS)
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
            json!({"name": "data", "mountPath": "/var/lib/tidemark"}),
        ];
        let mut volumes = vec![
            json!({"name": "files", "configMap": {"name": broker_name(cluster, node.id)}}),
            json!({"name": "data", "persistentVolumeClaim": {"claimName": claim_name(cluster, node.id)}}),
        ];
        let tier = cluster.spec.tier.as_ref();
        if let Some(credentials) = tier.and_then(|tier| tier.credentials.as_ref()) {
            let secret = &credentials.secret_ref.name;
            mounts.push(json!({"name": "tier", "mountPath": CREDENTIALS_DIR, "readOnly": true}));
            // A broker does not wait for it: records stay on local disks meanwhile.
            volumes.push(json!({"name": "tier", "secret": {"secretName": secret, "optional": true, "defaultMode": 0o440}}));
        }
        let restricted = json!({
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
        });
        let spread = |key: &str| {
            json!({
                "maxSkew": 1,
                "topologyKey": key,
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {CLUSTER: name(cluster)}},
            })
        };
        Some(json!({
            "metadata": {
                "labels": broker_labels(cluster, node),
                "annotations": annotations,
            },
            "spec": {
                "serviceAccountName": name(cluster),
                "automountServiceAccountToken": false,
                "enableServiceLinks": false,
                "terminationGracePeriodSeconds": 60,
                "securityContext": {
                    "runAsNonRoot": true,
                    "runAsUser": 65532,
                    "runAsGroup": 65532,
                    "fsGroup": 65532,
                    "fsGroupChangePolicy": "OnRootMismatch",
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "topologySpreadConstraints": [
                    spread("topology.kubernetes.io/zone"),
                    spread("kubernetes.io/hostname"),
                ],
                "initContainers": [{
                    "name": "format",
                    "image": self.image,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["tidemark", "format", "--config", config, "--formation", "/etc/tidemark/formation.json"],
                    "volumeMounts": mounts,
                    "securityContext": restricted,
                    "resources": pool.resources.clone().unwrap_or_default(),
                }],
                "containers": [{
                    "name": "broker",
                    "image": self.image,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["tidemark", "broker", "--config", config],
                    "ports": [
                        {"name": "client", "containerPort": CLIENT_PORT},
                        {"name": "replication", "containerPort": REPLICATION_PORT},
                        {"name": "quorum", "containerPort": QUORUM_PORT},
                        {"name": "http", "containerPort": HTTP_PORT},
                    ],
                    // An hour for a log that is long to recover.
                    "startupProbe": with(probe("/livez"), &[("periodSeconds", 2), ("failureThreshold", 1_800)]),
                    "livenessProbe": with(probe("/livez"), &[("periodSeconds", 10), ("failureThreshold", 3)]),
                    "readinessProbe": with(probe("/readyz"), &[("periodSeconds", 2), ("failureThreshold", 1)]),
                    "volumeMounts": mounts,
                    "securityContext": restricted,
                    "resources": pool.resources.clone().unwrap_or_default(),
                }],
                "volumes": volumes,
            },
        }))
    }
}

/// A value in a broker's files.
#[must_use]
pub fn read_property(files: &ConfigMap, name: &str) -> Option<String> {
    let text = files.data.as_ref()?.get("broker.properties")?;
    let mut lines = text.lines().filter_map(|line| line.split_once('='));
    let (_, value) = lines.find(|(key, _)| *key == name)?;
    Some(value.replace("\\\\", "\\"))
}

/// A value in a properties file: a line that ends in a backslash would go on.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace(['\n', '\r'], " ")
}

/// Short, and the same in every build.
fn hash(text: &str) -> String {
    format!("{:016x}", XxHash64::oneshot(0, text.as_bytes()))
}
