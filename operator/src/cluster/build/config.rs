//! Brokers' files: their settings, and what they may find on their disks.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};

use super::{
    Build, CLIENT_PORT, HTTP_PORT, Node, QUORUM_PORT, REPLICATION_PORT, broker_labels, broker_name,
    host, metadata,
};

/// The setting that names the voters.
pub(super) const QUORUM_SERVERS: &str = "controller.quorum.bootstrap.servers";

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

impl Build<'_> {
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
        if let Some(rack) = self.formation.racks.get(&node.id) {
            settings.insert("broker.rack".to_owned(), rack.clone());
        }
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
        // Whoever comes to vote later joins a quorum that there is, and so does another disk.
        let replaced = self.formation.replaced.contains(&node.id);
        let begins = self.votes(node.id) && !self.formation.changed() && !replaced;
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
