//! What is there: the cluster's objects, its pods, and what brokers say.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    ConfigMap, ContainerStatus, PersistentVolumeClaim, Pod as KubePod,
};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::Value;
use tidemark_client::admin::ConfigResource;
use tidemark_client::{ClientError, Cluster as Brokers, Topics};
use tidemark_crds::Cluster;
use tidemark_crds::units::{Limit, size_bytes};

use super::build::{
    self, BROKER_ID, Build, CLUSTER, FORMED, Formation, HTTP_PORT, LEASE, Node, POOL,
    REPLICATION_PORT, TEMPLATE,
};
use super::roller::{Broker, Cause, Image, Life, Partition, Pod};
use crate::contact;
use crate::context::{Context, Error};

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

    /// All claims, with their brokers.
    pub fn claims_by_node(&self) -> impl Iterator<Item = (Node, &PersistentVolumeClaim)> {
        let claims = self.claims.values();
        claims.filter_map(|claim| Some((node_of(claim.labels())?, claim)))
    }

    /// The pod of a broker.
    pub fn pod(&self, id: i32) -> Option<&KubePod> {
        self.pods.get(&id)
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
        let data = map.data.as_ref();
        let read = data.and_then(build::read_formation).ok_or_else(|| {
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
        // A claim without its broker is of a cluster that was deleted and is made again.
        if let Some(node) = node_of(claim.labels())
            && !children.nodes.iter().any(|known| known.id == node.id)
        {
            children.nodes.push(node);
        }
        children.claims.insert(claim.name_any(), claim);
    }
    let pods: Api<KubePod> = context.beside(cluster);
    let pods = pods.list(&ours).await;
    for pod in pods.map_err(Error::kube("listing pods"))? {
        if let Some(node) = node_of(pod.labels()) {
            children.pods.insert(node.id, pod);
        }
    }
    Ok(children)
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
}

/// Asks brokers.
pub async fn brokers(build: &Build<'_>, children: &Children, nodes: &[Node]) -> Observed {
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
        Broker {
            id: node.id,
            voter: build.formation.voters.iter().any(|(id, _)| *id == node.id),
            life: state.map(|(state, why)| life(&state, why)),
            pod,
            template: template.unwrap_or_default(),
            leased: children.lease(node.id).is_some(),
        }
    });
    let brokers = join_all(each).await;
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
    let mut observed = Observed {
        reasons: brokers.iter().filter_map(stale).collect(),
        brokers,
        ..Observed::default()
    };
    if bootstrap.is_empty() {
        observed.unreachable = Some("no broker answers".to_owned());
        return observed;
    }
    match image(&bootstrap.join(",")).await {
        Ok(image) => observed.image = Some(image),
        Err(error) => observed.unreachable = Some(error.to_string()),
    }
    observed
}

/// What the cluster says of itself.
async fn image(bootstrap: &str) -> Result<Image, ClientError> {
    let brokers = contact::connect(bootstrap).await?;
    let controller = brokers.describe_quorum().await?.leader;
    let info = brokers.metadata(Topics::All).await?;
    let mut image = Image {
        controller: (controller >= 0).then_some(controller),
        ..Image::default()
    };
    for topic in info.topics.values() {
        let min_isr = min_isr(&brokers, &topic.name).await?;
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
    Ok(image)
}

async fn min_isr(brokers: &Brokers, topic: &str) -> Result<usize, ClientError> {
    let resource = ConfigResource::Topic(topic.to_owned());
    let settings = brokers.describe_configs(&resource).await?;
    let value = settings
        .iter()
        .find(|setting| setting.name == "min.insync.replicas")
        .and_then(|setting| setting.value.as_deref()?.parse().ok());
    Ok(value.unwrap_or(1))
}

/// What a broker's own words come to.
fn life(state: &Value, not_ready: Option<String>) -> Life {
    let lifecycle = &state["lifecycle"];
    match lifecycle["state"].as_str() {
        Some("DirectoryFailed") => {
            let reason = lifecycle["reason"].as_str();
            Life::DirectoryFailed(reason.unwrap_or("a directory failed").to_owned())
        }
        Some("Recovering") => Life::Recovering {
            done: lifecycle["done"].as_u64().unwrap_or(0),
            total: lifecycle["total"].as_u64().unwrap_or(0),
        },
        Some("Stopping") => Life::Stopping,
        _ => match not_ready {
            Some(why) if why.starts_with("catching up") => Life::Behind(why),
            _ => Life::Running,
        },
    }
}

/// What a pod comes to.
fn pod(pod: Option<&KubePod>) -> Pod {
    let Some(pod) = pod.filter(|pod| pod.metadata.deletion_timestamp.is_none()) else {
        return Pod::Absent;
    };
    let status = pod.status.clone().unwrap_or_default();
    let condition = |type_: &str| {
        let mut all = status.conditions.iter().flatten();
        all.find(|condition| condition.type_ == type_)
    };
    let made = pod.metadata.creation_timestamp.as_ref();
    let made_ms = made.map_or(0, |time| time.0.as_millisecond());
    let ready = condition("Ready");
    if ready.is_some_and(|ready| ready.status == "True") {
        return Pod::Ready;
    }
    let since_ms = ready
        .and_then(|ready| ready.last_transition_time.as_ref())
        .map_or(made_ms, |time| time.0.as_millisecond());
    let containers: Vec<&ContainerStatus> = status
        .init_container_statuses
        .iter()
        .chain(&status.container_statuses)
        .flatten()
        .collect();
    if let Some(found) = containers.iter().find_map(|one| stuck(one, since_ms)) {
        return found;
    }
    if status.phase.as_deref() == Some("Failed") {
        let text = status.message.or(status.reason);
        return Pod::Crashing {
            text: text.unwrap_or_else(|| "its pod failed".to_owned()),
            since_ms,
        };
    }
    let runs = |one: &&ContainerStatus| one.state.as_ref().is_some_and(|s| s.running.is_some());
    if status
        .container_statuses
        .iter()
        .flatten()
        .any(|one| runs(&one))
    {
        return Pod::Unready { since_ms };
    }
    let unscheduled = condition("PodScheduled").filter(|c| c.status == "False");
    let text = unscheduled.and_then(|condition| condition.message.clone());
    let cause = match (&unscheduled, &text) {
        // Where its volume is, no node is left to take it.
        (Some(_), Some(text)) if text.contains("volume node affinity") => Cause::Volume,
        (Some(_), _) => Cause::Unschedulable,
        (None, _) => Cause::Starting,
    };
    Pod::Pending {
        cause,
        text: text.unwrap_or_else(|| "its pod starts".to_owned()),
        since_ms,
    }
}

/// A container that does not get to run.
fn stuck(container: &ContainerStatus, since_ms: i64) -> Option<Pod> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref().unwrap_or_default();
    let pulls = BTreeSet::from([
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "CreateContainerConfigError",
    ]);
    let last = container.last_state.as_ref();
    let ended = last.and_then(|state| state.terminated.as_ref());
    let said = ended.and_then(|ended| ended.message.clone());
    let text = [waiting.message.clone(), said].into_iter().flatten();
    let text = text.collect::<Vec<_>>().join("; ");
    let text = if text.is_empty() {
        reason.to_owned()
    } else {
        text
    };
    match reason {
        "CrashLoopBackOff" => Some(Pod::Crashing { text, since_ms }),
        reason if pulls.contains(reason) => Some(Pod::Pending {
            cause: Cause::ImagePull,
            text,
            since_ms,
        }),
        _ => None,
    }
}
