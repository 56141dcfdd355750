//! Brokers' files: their settings, and what they may find on their disks.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};
use tidemark_crds::cluster::{ListenerType, TlsSource};

use super::super::certificates::{DIR, OWN, TRUST, clients_file, shown_file};
use super::super::outside::kafka_name;
use super::{
    Build, HTTP_PORT, Node, QUORUM_PORT, REPLICATION_PORT, broker_labels, broker_name, host,
    metadata,
};

/// The setting that says where a broker is reached: followed by brokers that run.
pub(super) const ADVERTISED: &str = "advertised.listeners";
/// The file of those who ask brokers from beside them.
pub(super) const CLIENT_FILE: &str = "client.properties";
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
        let of_brokers = [("REPLICATION", REPLICATION_PORT)];
        let of_quorum = votes.then_some(("CONTROLLER", QUORUM_PORT));
        let of_cluster = of_brokers.into_iter().chain(of_quorum);
        let (mut listen, mut advertise) = (Vec::new(), Vec::new());
        for listener in &cluster.spec.listeners {
            let (name, port) = (kafka_name(listener), listener.port);
            listen.push(format!("{name}://:{port}"));
            let outside = self.addresses.get(&(listener.name.clone(), node.id));
            match (listener.type_, outside) {
                (ListenerType::Internal, _) => advertise.push(format!("{name}://{own}:{port}")),
                (_, Some(address)) => advertise.push(format!("{name}://{address}")),
                // As long as there is no address, nobody is told of this listener.
                (_, None) => {}
            }
        }
        for (name, port) in of_cluster {
            listen.push(format!("{name}://:{port}"));
            advertise.push(format!("{name}://{own}:{port}"));
        }
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
        settings.extend(self.tls());
        settings.extend(
            [
                ("node.id", node.id.to_string()),
                (
                    "process.roles",
                    if votes { "broker,controller" } else { "broker" }.to_owned(),
                ),
                ("listeners", listen.join(",")),
                (ADVERTISED, advertise.join(",")),
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

    /// What listeners speak, show and ask for: among brokers and to the quorum both ends prove who
    /// they are by certificates of the cluster's own authority.
    pub(super) fn tls(&self) -> BTreeMap<String, String> {
        let file = |name: &str| format!("{DIR}/{name}");
        let mut settings: BTreeMap<String, String> = [
            ("ssl.keystore.type", "PEM".to_owned()),
            ("ssl.keystore.location", file(OWN)),
            ("ssl.truststore.type", "PEM".to_owned()),
            ("ssl.truststore.location", file(TRUST)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        let mut protocols = Vec::new();
        let mut of_listener = |listener: &str, setting: &str, value: String| {
            let name = format!("listener.name.{listener}.{setting}");
            settings.insert(name, value);
        };
        for listener in &self.cluster.spec.listeners {
            let (name, kafka_name) = (&listener.name, kafka_name(listener));
            let Some(tls) = &listener.tls else {
                protocols.push(format!("{kafka_name}:PLAINTEXT"));
                continue;
            };
            protocols.push(format!("{kafka_name}:SSL"));
            if tls.source != TlsSource::Operator {
                of_listener(name, "ssl.keystore.location", file(&shown_file(listener)));
            }
            if !listener.authentication.is_empty() {
                of_listener(
                    name,
                    "ssl.truststore.location",
                    file(&clients_file(listener)),
                );
                of_listener(name, "ssl.client.auth", "required".to_owned());
            }
        }
        for name in ["REPLICATION", "CONTROLLER"] {
            protocols.push(format!("{name}:SSL"));
            of_listener(
                &name.to_lowercase(),
                "ssl.client.auth",
                "required".to_owned(),
            );
        }
        let protocols = protocols.join(",");
        settings.insert("listener.security.protocol.map".to_owned(), protocols);
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
                CLIENT_FILE: format!(
                    "security.protocol=SSL\nssl.keystore.type=PEM\nssl.keystore.location={DIR}/{OWN}\n\
                     ssl.truststore.type=PEM\nssl.truststore.location={DIR}/{TRUST}\n"
                ),
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
