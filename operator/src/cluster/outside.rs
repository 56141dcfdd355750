//! Where clients come in: the Services of listeners, and the addresses that brokers advertise; pure.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt;
use serde_json::{Value, json};
use tidemark_crds::Cluster;
use tidemark_crds::cluster::{Listener, ListenerStatus, ListenerType};

use super::build::{self, Build, Node};
use super::observe::Children;

/// The addresses of brokers for clients from elsewhere, `host:port`, by listener and broker; one that
/// is pending is not among them.
pub type Addresses = BTreeMap<(String, i32), String>;

/// A listener's name in brokers' settings.
#[must_use]
pub fn kafka_name(listener: &Listener) -> String {
    listener.name.to_ascii_uppercase()
}

/// The listeners that are reached from elsewhere, too.
pub fn of_outside(cluster: &Cluster) -> impl Iterator<Item = &Listener> {
    let all = cluster.spec.listeners.iter();
    all.filter(|listener| listener.type_ != ListenerType::Internal)
}

/// The name of a listener's Service: of a broker, or the one that clients begin with.
#[must_use]
pub fn service_name(cluster: &Cluster, listener: &Listener, id: Option<i32>) -> String {
    match id {
        Some(id) => format!("{}-{}", build::broker_name(cluster, id), listener.name),
        None => format!("{}-{}-bootstrap", cluster.name_any(), listener.name),
    }
}

/// The address of a host and its port, in brackets where that is needed.
fn joined(host: &str, port: i32) -> String {
    match host.contains(':') && !host.starts_with('[') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

fn node_port(service: Option<&Service>) -> Option<i32> {
    let spec = service?.spec.as_ref()?;
    spec.ports.as_ref()?.first()?.node_port
}

/// What a load balancer says where it is.
fn balanced(service: Option<&Service>) -> Option<String> {
    let balancer = service?.status.as_ref()?.load_balancer.as_ref()?;
    let first = balancer.ingress.as_ref()?.first()?;
    first.hostname.clone().or_else(|| first.ip.clone())
}

/// Where each broker is reached from elsewhere. What it was told before stays while its pod, whose
/// node's address it is, is gone for a moment.
#[must_use]
pub fn addresses(cluster: &Cluster, children: &Children, nodes: &[Node]) -> Addresses {
    let mut all = Addresses::new();
    for listener in of_outside(cluster) {
        for node in nodes {
            let service = children.service(&service_name(cluster, listener, Some(node.id)));
            let template = listener.per_broker.as_ref();
            let named = template.and_then(|of| of.host_template.as_ref());
            let named = named.map(|template| template.replace("{id}", &node.id.to_string()));
            let found = match listener.type_ {
                ListenerType::NodePort => {
                    let status = children.pod(node.id).and_then(|pod| pod.status.as_ref());
                    let host = named.or_else(|| status?.host_ip.clone());
                    host.zip(node_port(service))
                }
                _ => named
                    .or_else(|| balanced(service))
                    .map(|host| (host, listener.port)),
            };
            let found = found.map(|(host, port)| joined(&host, port));
            let found = found.or_else(|| {
                let files = children.files(node.id)?;
                let told = build::read_property(files, "advertised.listeners")?;
                let begin = format!("{}://", kafka_name(listener));
                let mut told = told.split(',').filter_map(|one| one.strip_prefix(&begin));
                told.next().map(str::to_owned)
            });
            if let Some(address) = found {
                all.insert((listener.name.clone(), node.id), address);
            }
        }
    }
    all
}

/// The hosts that a broker is reached by, for its certificate.
#[must_use]
pub fn hosts(cluster: &Cluster, id: i32, addresses: &Addresses) -> BTreeSet<String> {
    let namespace = cluster.namespace().unwrap_or_default();
    let names = [
        build::broker_name(cluster, id),
        format!("{}-bootstrap", cluster.name_any()),
    ];
    let within = names.iter().flat_map(|name| {
        let short = format!("{name}.{namespace}");
        [
            name.clone(),
            short.clone(),
            format!("{short}.svc"),
            format!("{short}.svc.cluster.local"),
        ]
    });
    let mut hosts: BTreeSet<String> = within.collect();
    for listener in of_outside(cluster) {
        if let Some(address) = addresses.get(&(listener.name.clone(), id)) {
            let host = address
                .rsplit_once(':')
                .map_or(&**address, |(host, _)| host);
            let host = host.trim_matches(['[', ']']);
            // As certificates have addresses: one that is written otherwise is no other one.
            let address = host.parse::<IpAddr>().map(|address| address.to_string());
            hosts.insert(address.unwrap_or_else(|_| host.to_owned()));
        }
    }
    let begins = cluster.spec.listeners.iter();
    let begins = begins.filter_map(|listener| listener.bootstrap.as_ref()?.host.clone());
    hosts.extend(begins);
    hosts
}

impl Build<'_> {
    /// The Services of listeners that are reached from elsewhere: of each broker, and the one that
    /// clients begin with.
    #[must_use]
    pub fn outside_services(&self, nodes: &[&Node]) -> Vec<Value> {
        let cluster = self.cluster;
        let mut all = Vec::new();
        for listener in of_outside(cluster) {
            for node in nodes {
                let annotations = listener.per_broker.as_ref().map(|of| &of.annotations);
                let annotations = annotations.into_iter().flatten();
                let annotations: BTreeMap<&str, String> = annotations
                    .map(|(key, value)| (&**key, value.replace("{id}", &node.id.to_string())))
                    .collect();
                let name = service_name(cluster, listener, Some(node.id));
                let metadata = build::of_broker(cluster, node, &name, &annotations);
                all.push(service(
                    listener,
                    metadata,
                    &build::selector(cluster, Some(node.id)),
                ));
            }
            let annotations = listener.bootstrap.as_ref().map(|of| &of.annotations);
            let annotations = annotations.into_iter().flatten();
            let annotations: BTreeMap<&str, String> = annotations
                .map(|(key, value)| (&**key, value.clone()))
                .collect();
            let name = service_name(cluster, listener, None);
            let metadata = build::of_cluster(cluster, &name, &annotations);
            all.push(service(listener, metadata, &build::selector(cluster, None)));
        }
        all
    }
}

fn service(listener: &Listener, metadata: Value, selector: &Value) -> Value {
    let mut service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "type": match listener.type_ {
                ListenerType::NodePort => "NodePort",
                _ => "LoadBalancer",
            },
            "selector": selector,
            "ports": [{
                "name": listener.name,
                "port": listener.port,
                "targetPort": listener.port,
                "protocol": "TCP",
            }],
        },
    });
    // A broker is found where it is, ready or not; who begins wants one that is.
    if selector.get(build::BROKER_ID).is_some() {
        service["spec"]["publishNotReadyAddresses"] = json!(true);
    }
    service
}

/// Services of listeners that are there no more, and of brokers that are not.
#[must_use]
pub fn left_over(cluster: &Cluster, children: &Children, wanted: &[Value]) -> Vec<String> {
    let keep: BTreeSet<&str> = wanted
        .iter()
        .filter_map(|service| service["metadata"]["name"].as_str())
        .collect();
    let all = children.services();
    let outside = all.filter(|service| {
        let spec = service.spec.as_ref().and_then(|spec| spec.type_.as_deref());
        let owned = service.owner_references().iter();
        let ours = owned
            .into_iter()
            .any(|owner| Some(&owner.uid) == cluster.metadata.uid.as_ref());
        ours && matches!(spec, Some("NodePort" | "LoadBalancer"))
    });
    let names = outside.map(ResourceExt::name_any);
    names.filter(|name| !keep.contains(name.as_str())).collect()
}

/// What is told of listeners.
#[must_use]
pub fn status(
    cluster: &Cluster,
    children: &Children,
    nodes: &[Node],
    addresses: &Addresses,
) -> Vec<ListenerStatus> {
    let each = cluster.spec.listeners.iter().map(|listener| {
        let inside = build::bootstrap_host(cluster);
        let named = listener.bootstrap.as_ref().and_then(|of| of.host.clone());
        let begin = children.service(&service_name(cluster, listener, None));
        let bootstrap = match listener.type_ {
            ListenerType::Internal => Some((inside, listener.port)),
            ListenerType::NodePort => {
                let pods = nodes.iter().filter_map(|node| children.pod(node.id));
                let mut of_nodes = pods.filter_map(|pod| pod.status.as_ref()?.host_ip.clone());
                named.or_else(|| of_nodes.next()).zip(node_port(begin))
            }
            ListenerType::LoadBalancer => named
                .or_else(|| balanced(begin))
                .map(|host| (host, listener.port)),
        };
        let waiting: Vec<String> = match listener.type_ {
            ListenerType::Internal => Vec::new(),
            _ => nodes
                .iter()
                .filter(|node| !addresses.contains_key(&(listener.name.clone(), node.id)))
                .map(|node| node.id.to_string())
                .collect(),
        };
        let pending = match (waiting.is_empty(), &bootstrap) {
            (false, _) => Some(format!(
                "brokers without an address: {}",
                waiting.join(", ")
            )),
            (true, None) => Some("the bootstrap Service has no address".to_owned()),
            (true, Some(_)) => None,
        };
        let by_operator = listener
            .tls
            .as_ref()
            .is_some_and(|tls| tls.source == tidemark_crds::cluster::TlsSource::Operator);
        ListenerStatus {
            name: listener.name.clone(),
            bootstrap: bootstrap.map_or_else(String::new, |(host, port)| joined(&host, port)),
            trust: by_operator.then(|| super::certificates::trust_name(cluster)),
            pending,
        }
    });
    each.collect()
}
