//! What is there: the cluster's objects, its pods, and what brokers say.

mod pods;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::future::join_all;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    ConfigMap, PersistentVolumeClaim, Pod as KubePod, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::Value;
use tidemark_client::admin::{ConfigEntry, ConfigResource, Quorum};
use tidemark_client::{ClientError, Cluster as Brokers, Topics};
use tidemark_crds::Cluster;
use tidemark_crds::units::{Limit, size_bytes};
use tidemark_tls::Client;
use tidemark_wire::Uuid;

use super::authority::Used;
use super::build::{
    self, BROKER_ID, Build, CLUSTER, FORMED, Formation, HTTP_PORT, LEASE, Node, POOL, REMOVED,
    REPLICATION_PORT, TEMPLATE,
};
use super::certificates;
use super::features::{self, Levels};
use super::full;
use super::roller::{Broker, Image, Life, Partition, Pod};
use crate::contact;
use crate::context::{Context, Error};
use pods::{pod, ready_since_ms};

/// The setting that says how many have to be in sync for acks=all.
const MIN_ISR: &str = "min.insync.replicas";

/// The objects of a cluster.
#[derive(Debug, Default)]
pub struct Children {
    /// Who began it.
    pub formation: Option<Formation>,
    /// Where that is written.
    pub formation_map: Option<ConfigMap>,
    /// Brokers that there are, by their StatefulSets and claims.
    pub nodes: Vec<Node>,
    sets: BTreeMap<i32, StatefulSet>,
    claims: BTreeMap<String, PersistentVolumeClaim>,
    pods: BTreeMap<i32, KubePod>,
    files: BTreeMap<i32, ConfigMap>,
    services: BTreeMap<String, Service>,
    /// The identity of the pods.
    pub account: Option<ServiceAccount>,
    /// How many of them may be drained away.
    pub budget: Option<PodDisruptionBudget>,
    /// Who may reach them.
    pub policy: Option<NetworkPolicy>,
    /// What clients are told to trust.
    pub trust: Option<ConfigMap>,
    secrets: BTreeMap<String, Secret>,
}

impl Children {
    /// The claim of a broker.
    pub fn claim(&self, cluster: &Cluster, id: i32) -> Option<&PersistentVolumeClaim> {
        self.claims.get(&build::claim_name(cluster, id))
    }

    /// Whether a broker has its StatefulSet.
    pub fn has_set(&self, id: i32) -> bool {
        self.sets.contains_key(&id)
    }

    /// Whether a broker's StatefulSet is there and makes no pod.
    pub fn stopped(&self, id: i32) -> bool {
        let spec = self.sets.get(&id).and_then(|set| set.spec.as_ref());
        spec.is_some_and(|spec| spec.replicas == Some(0))
    }

    /// The claims of all brokers that there are.
    pub fn claims_by_node(&self) -> impl Iterator<Item = (Node, &PersistentVolumeClaim)> {
        let claims = self.claims.values();
        let of_nodes = claims.filter_map(|claim| Some((node_of(claim.labels())?, claim)));
        of_nodes.filter(|(node, _)| self.nodes.contains(node))
    }

    /// The claims that are kept though their brokers were taken out.
    pub fn removed(&self) -> impl Iterator<Item = &PersistentVolumeClaim> {
        let claims = self.claims.values();
        let without = |claim: &&PersistentVolumeClaim| {
            node_of(claim.labels()).is_none_or(|node| !self.nodes.contains(&node))
        };
        claims.filter(without)
    }

    /// A claim, if there is any.
    pub fn any_claim(&self) -> Option<&PersistentVolumeClaim> {
        self.claims.values().next()
    }

    /// What the formatting of brokers' disks said where it was done.
    pub fn said_at_format(&self) -> impl Iterator<Item = &str> {
        let statuses = self.pods.values().filter_map(|pod| {
            let status = pod.status.as_ref()?;
            status.init_container_statuses.as_ref()
        });
        let done = statuses.flatten().filter(|one| one.name == "format");
        done.filter_map(|one| {
            let ended = one.state.as_ref()?.terminated.as_ref()?;
            ended.message.as_deref().filter(|_| ended.exit_code == 0)
        })
    }

    /// The pod of a broker.
    pub fn pod(&self, id: i32) -> Option<&KubePod> {
        self.pods.get(&id)
    }

    /// A Service.
    pub fn service(&self, name: &str) -> Option<&Service> {
        self.services.get(name)
    }

    /// Puts a Service among them, for tests.
    #[cfg(test)]
    pub fn put_service(&mut self, service: Service) {
        self.services.insert(service.name_any(), service);
    }

    /// Puts a broker's pod among them, for tests.
    #[cfg(test)]
    pub fn put_pod(&mut self, id: i32, pod: KubePod) {
        self.pods.insert(id, pod);
    }

    /// Puts a broker's files among them, for tests.
    #[cfg(test)]
    pub fn put_files(&mut self, id: i32, files: ConfigMap) {
        self.files.insert(id, files);
    }

    /// All Services.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }

    /// A Secret that the operator made.
    pub fn secret(&self, name: &str) -> Option<&Secret> {
        self.secrets.get(name)
    }

    /// A broker's files.
    pub fn files(&self, id: i32) -> Option<&ConfigMap> {
        self.files.get(&id)
    }

    /// What brokers' files say of a setting now.
    pub fn in_file(&self, name: &str) -> Option<String> {
        let mut maps = self.files.values();
        maps.find_map(|map| build::read_property(map, name))
    }

    /// The leave to stop a broker, as it was written down.
    pub fn lease(&self, id: i32) -> Option<&str> {
        let set = self.sets.get(&id)?;
        set.annotations().get(LEASE).map(String::as_str)
    }
}

fn node_of(labels: &BTreeMap<String, String>) -> Option<Node> {
    Some(Node {
        id: labels.get(BROKER_ID)?.parse().ok()?,
        pool: labels.get(POOL)?.clone(),
    })
}

/// Whether a claim's disk has been in use.
pub fn formed(claim: &PersistentVolumeClaim) -> bool {
    claim.annotations().contains_key(FORMED)
}

/// What a claim asks for, in bytes.
pub fn requested(claim: &PersistentVolumeClaim) -> Option<i64> {
    let resources = claim.spec.as_ref()?.resources.as_ref()?;
    let asked = resources.requests.as_ref()?.get("storage")?;
    match size_bytes(&asked.0) {
        Ok(Limit::Of(bytes)) => Some(bytes),
        _ => None,
    }
}

/// Reads a cluster's objects, live: nothing that cannot be undone is decided on a cache.
///
/// # Errors
/// Kubernetes'.
pub async fn children(context: &Context, cluster: &Cluster) -> Result<Children, Error> {
    let ours = ListParams::default().labels(&format!("{CLUSTER}={}", cluster.name_any()));
    let mut children = Children::default();
    let maps: Api<ConfigMap> = context.beside(cluster);
    let formation = maps
        .get_opt(&build::formation_name(cluster))
        .await
        .map_err(Error::kube("reading the formation"))?;
    if let Some(map) = formation {
        let read = build::read_formation(&map).ok_or_else(|| {
            let name = build::formation_name(cluster);
            Error::Malformed(format!("ConfigMap {name} is not what the operator wrote"))
        })?;
        children.formation = Some(read);
        children.formation_map = Some(map);
    }
    let sets: Api<StatefulSet> = context.beside(cluster);
    let sets = sets.list(&ours).await;
    for set in sets.map_err(Error::kube("listing StatefulSets"))? {
        if let Some(node) = node_of(set.labels()) {
            children.sets.insert(node.id, set);
            children.nodes.push(node);
        }
    }
    let claims: Api<PersistentVolumeClaim> = context.beside(cluster);
    let claims = claims.list(&ours).await;
    for claim in claims.map_err(Error::kube("listing claims"))? {
        // A claim without its broker is of a cluster that was deleted and is made again, or of a
        // broker that was taken out.
        if let Some(node) = node_of(claim.labels())
            && !children.nodes.iter().any(|known| known.id == node.id)
            && !claim.annotations().contains_key(REMOVED)
        {
            children.nodes.push(node);
        }
        children.claims.insert(claim.name_any(), claim);
    }
    let maps = maps.list(&ours).await;
    for map in maps.map_err(Error::kube("listing ConfigMaps"))? {
        if let Some(node) = node_of(map.labels()) {
            children.files.insert(node.id, map);
        } else if map.name_any() == certificates::trust_name(cluster) {
            children.trust = Some(map);
        }
    }
    let secrets: Api<Secret> = context.beside(cluster);
    let secrets = secrets.list(&ours).await;
    for secret in secrets.map_err(Error::kube("listing Secrets"))? {
        children.secrets.insert(secret.name_any(), secret);
    }
    let policies: Api<NetworkPolicy> = context.beside(cluster);
    let policy = policies.get_opt(&cluster.name_any()).await;
    children.policy = policy.map_err(Error::kube("reading the NetworkPolicy"))?;
    let services: Api<Service> = context.beside(cluster);
    let services = services.list(&ours).await;
    for service in services.map_err(Error::kube("listing Services"))? {
        children.services.insert(service.name_any(), service);
    }
    let accounts: Api<ServiceAccount> = context.beside(cluster);
    let account = accounts.get_opt(&cluster.name_any()).await;
    children.account = account.map_err(Error::kube("reading the ServiceAccount"))?;
    let budgets: Api<PodDisruptionBudget> = context.beside(cluster);
    let budget = budgets.get_opt(&cluster.name_any()).await;
    children.budget = budget.map_err(Error::kube("reading the PodDisruptionBudget"))?;
    let pods: Api<KubePod> = context.beside(cluster);
    let pods = pods.list(&ours).await;
    for pod in pods.map_err(Error::kube("listing pods"))? {
        if let Some(node) = node_of(pod.labels()) {
            children.pods.insert(node.id, pod);
        }
    }
    Ok(children)
}

/// What a broker says of the bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// It is known to be the cluster's.
    pub opened: bool,
    /// How long the oldest record waits.
    pub lag_ms: i64,
    /// What went wrong last.
    pub last_error: Option<String>,
}

/// What brokers are and say.
#[derive(Debug, Default)]
pub struct Observed {
    /// Each broker.
    pub brokers: Vec<Broker>,
    /// What the controller says; `None` when nobody answers.
    pub image: Option<Image>,
    /// Why nobody answers.
    pub unreachable: Option<String>,
    /// Why each pod is of another template than it should be, where it is.
    pub reasons: BTreeMap<i32, Vec<&'static str>>,
    /// The metadata's directory of each broker that answers and runs as a voter.
    pub directories: BTreeMap<i32, Uuid>,
    /// What brokers that answer say of the bucket.
    pub tier: Vec<Bucket>,
    /// What certificates each broker that answers uses towards others.
    pub used: BTreeMap<i32, Used>,
    /// What levels each broker that answers knows and uses.
    pub levels: BTreeMap<i32, Levels>,
    /// The way to the brokers, and who votes, where they answer.
    pub contact: Option<(Brokers, Quorum)>,
}

/// Asks brokers; `refused` has a line for each claim that could not grow.
pub async fn brokers(
    way: &Arc<Client>,
    build: &Build<'_>,
    children: &Children,
    nodes: &[Node],
    refused: &[String],
) -> Observed {
    let cluster = build.cluster;
    let each = nodes.iter().map(|node| async move {
        let pod = pod(children.pod(node.id));
        let state = match pod {
            Pod::Ready | Pod::Unready { .. } => {
                contact::state(&build::host(cluster, node.id), HTTP_PORT).await
            }
            _ => None,
        };
        let labels = children.pod(node.id).map(ResourceExt::labels);
        let template = labels.and_then(|labels| labels.get(TEMPLATE)).cloned();
        let directory = state.as_ref().and_then(|(state, _)| directory(state));
        let tier = state.as_ref().and_then(|(state, _)| bucket(state));
        let used = state.as_ref().and_then(|(state, _)| used(state));
        let made = children.pod(node.id);
        let made = made.and_then(|pod| pod.metadata.creation_timestamp.as_ref());
        let levels = state.as_ref();
        let levels = levels.and_then(|(state, _)| features::levels(state, made));
        let life = state.map(|(state, why)| match life(&state, why) {
            Life::DiskFull { text, serves } => {
                let claim = children.claim(cluster, node.id);
                let room = full::room(cluster, node, claim, refused);
                let text = format!("{text}: {room}");
                Life::DiskFull { text, serves }
            }
            life => life,
        });
        let broker = Broker {
            id: node.id,
            voter: build.votes(node.id),
            life,
            pod,
            ready_since_ms: children.pod(node.id).and_then(ready_since_ms),
            template: template.unwrap_or_default(),
            leased: children.lease(node.id).is_some(),
            cut_off: false,
        };
        (broker, (directory, (tier, (used, levels))))
    });
    let (brokers, said): (Vec<_>, Vec<_>) = join_all(each).await.into_iter().unzip();
    let (directories, said): (Vec<_>, Vec<_>) = said.into_iter().unzip();
    let (tier, said): (Vec<_>, Vec<_>) = said.into_iter().unzip();
    let (used, levels): (Vec<_>, Vec<_>) = said.into_iter().unzip();
    let levels = brokers.iter().zip(levels);
    let levels = levels.filter_map(|(broker, levels)| Some((broker.id, levels?)));
    let used = brokers.iter().zip(used);
    let used = used.filter_map(|(broker, used)| Some((broker.id, used?)));
    let up = brokers.iter().filter(|broker| broker.life.is_some());
    let bootstrap: Vec<String> = up
        .map(|broker| format!("{}:{REPLICATION_PORT}", build::host(cluster, broker.id)))
        .collect();
    let stale = |broker: &Broker| {
        let node = nodes.iter().find(|node| node.id == broker.id)?;
        let (wanted, pod) = (build.template_hash(node)?, children.pod(broker.id)?);
        let stale = wanted != broker.template;
        stale.then(|| (broker.id, build.reasons(node, pod.annotations())))
    };
    let named = brokers.iter().zip(directories);
    let mut observed = Observed {
        used: used.collect(),
        levels: levels.collect(),
        reasons: brokers.iter().filter_map(stale).collect(),
        directories: named.filter_map(|(b, d)| Some((b.id, d?))).collect(),
        brokers,
        tier: tier.into_iter().flatten().collect(),
        ..Observed::default()
    };
    if bootstrap.is_empty() {
        observed.unreachable = Some("no broker answers".to_owned());
        return observed;
    }
    match image(way, &bootstrap.join(",")).await {
        Ok((image, brokers, quorum)) => {
            observed.image = Some(image);
            observed.contact = Some((brokers, quorum));
        }
        Err(error) => observed.unreachable = Some(error.to_string()),
    }
    votes(build, &mut observed);
    observed
}

/// Who votes is what the quorum says, not what it is to become.
fn votes(build: &Build<'_>, observed: &mut Observed) {
    let Some((_, quorum)) = &observed.contact else {
        return;
    };
    for broker in &mut observed.brokers {
        let id = broker.id;
        broker.voter = quorum.voters.iter().any(|voter| voter.id == id);
        let runs_as_one = observed.directories.contains_key(&id);
        broker.cut_off = runs_as_one && !broker.voter && !build.votes(id);
    }
}

/// What the cluster says of itself.
async fn image(
    way: &Arc<Client>,
    bootstrap: &str,
) -> Result<(Image, Brokers, Quorum), ClientError> {
    let brokers = contact::connect(bootstrap, way).await?;
    let quorum = brokers.describe_quorum().await?;
    let info = brokers.metadata(Topics::All).await?;
    let mut image = Image {
        controller: (quorum.leader >= 0).then_some(quorum.leader),
        ..Image::default()
    };
    let names: Vec<ConfigResource> = info.topics.keys().map(|name| of_topic(name)).collect();
    let asked = [MIN_ISR.to_owned()];
    let settings = brokers.describe_configs_of(&names, Some(&asked)).await?;
    for topic in info.topics.values() {
        let settings = settings.get(&of_topic(&topic.name));
        let min_isr = settings.map_or(1, |settings| min_isr(settings));
        for partition in topic.partitions.values() {
            image.offline += usize::from(partition.leader.is_none());
            image.partitions.push(Partition {
                name: format!("{}-{}", topic.name, partition.partition),
                replicas: partition.replicas.clone(),
                isr: partition.isr.clone(),
                min_isr,
            });
        }
    }
    Ok((image, brokers, quorum))
}

fn of_topic(name: &str) -> ConfigResource {
    ConfigResource::Topic(name.to_owned())
}

fn min_isr(settings: &[ConfigEntry]) -> usize {
    let value = settings
        .iter()
        .find(|setting| setting.name == MIN_ISR)
        .and_then(|setting| setting.value.as_deref()?.parse().ok());
    value.unwrap_or(1)
}

fn bucket(state: &Value) -> Option<Bucket> {
    let tier = state.get("tier")?;
    Some(Bucket {
        opened: tier["opened"].as_bool()?,
        lag_ms: tier["lagMs"].as_i64()?,
        last_error: tier["lastError"].as_str().map(str::to_owned),
    })
}

/// What a broker uses towards others: all that it shows, and whom all of its ends trust.
fn used(state: &Value) -> Option<Used> {
    let tls = state.get("tls")?;
    let listeners = &tls["listeners"];
    let ends = [
        &listeners["REPLICATION"],
        &listeners["CONTROLLER"],
        &tls["toBrokers"],
        &tls["toControllers"],
    ];
    let mut used: Option<Used> = None;
    for end in ends.into_iter().filter(|end| end.is_object()) {
        let trusted = end["trusted"].as_array().into_iter().flatten();
        let trusted: BTreeSet<String> = trusted
            .filter_map(|serial| serial.as_str().map(str::to_owned))
            .collect();
        let all = used.get_or_insert_with(|| Used {
            trusted: trusted.clone(),
            ..Used::default()
        });
        all.trusted.retain(|serial| trusted.contains(serial));
        all.shown.extend(end["serial"].as_str().map(str::to_owned));
    }
    used
}

/// The directory that a voter keeps the metadata in: that of its records.
fn directory(state: &Value) -> Option<Uuid> {
    let identity = &state["identity"];
    let mut roles = identity["roles"].as_array()?.iter();
    let votes = roles.any(|role| role == "controller");
    votes.then(|| identity["directoryIds"][0].as_str()?.parse().ok())?
}

/// What a broker's own words come to.
fn life(state: &Value, not_ready: Option<String>) -> Life {
    let lifecycle = &state["lifecycle"];
    match (lifecycle["state"].as_str(), state["diskFull"].as_str()) {
        (Some("Stopping"), _) => Life::Stopping,
        // Whatever it is at: it is this that it waits for.
        (_, Some(text)) => Life::DiskFull {
            text: text.to_owned(),
            serves: not_ready.is_none(),
        },
        (Some("DirectoryFailed"), _) => {
            let reason = lifecycle["reason"].as_str();
            Life::DirectoryFailed(reason.unwrap_or("a directory failed").to_owned())
        }
        (Some("Recovering"), _) => Life::Recovering {
            done: lifecycle["done"].as_u64().unwrap_or(0),
            total: lifecycle["total"].as_u64().unwrap_or(0),
        },
        (Some("Starting"), _) => Life::Starting,
        _ => match not_ready {
            Some(why) if why.starts_with("catching up") => Life::Behind(why),
            _ => Life::Running,
        },
    }
}
