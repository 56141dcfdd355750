//! Brokers that leave, and voters that come and go: what is seen of them, and the steps carried out.
//! What is to be done is decided in [`super::shrink`].

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Secret, Service};
use kube::api::{DeleteParams, DynamicObject};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tidemark_client::admin::{LogDir, Quorum, placement};
use tidemark_client::{ClientError, Cluster as Brokers, Topics};
use tidemark_crds::Cluster;
use tidemark_crds::common::DeletionPolicy;
use tidemark_wire::ErrorCode;

use super::build::{self, Build, LEAVING, Node, QUORUM_PORT, REMOVED, USED, VOTERS};
use super::certificates;
use super::observe::{Children, Observed};
use super::roller::Broker;
use super::shrink::{self, Decision, Member, Placed, Step, View};
use crate::apply::merge;
use crate::context::{Context, Error};

/// Decides on a step, and does it; called only while all brokers that stay are well.
///
/// # Errors
/// Kubernetes', and the brokers'.
pub async fn step(
    context: &Context,
    build: &Build<'_>,
    children: &Children,
    observed: &Observed,
    leaving: &BTreeSet<i32>,
) -> Result<Decision, Error> {
    let Some((brokers, quorum)) = &observed.contact else {
        let nobody = leaving.is_empty() && marked_ones(children).is_empty();
        return Ok(match nobody {
            true => Decision::Idle,
            false => Decision::Wait("the brokers cannot be asked".to_owned()),
        });
    };
    if is_settled(build, children, quorum, leaving) {
        return Ok(Decision::Idle);
    }
    let look = async || view(build, children, observed, leaving, brokers).await;
    let decision = shrink::decide(&look().await?);
    let Decision::Do(step) = &decision else {
        return Ok(decision);
    };
    if let Step::Stop(_) | Step::Remove(_) = step
        && !(as_read(context, build.cluster).await? && shrink::decide(&look().await?) == decision)
    {
        // It cannot be undone, so it is not done on what was true a moment ago.
        return Ok(Decision::Wait(format!("{step}: looking again")));
    }
    let act = Act {
        context,
        build,
        children,
        brokers,
    };
    act.act(step).await?;
    if !matches!(step, Step::Move(_)) {
        let note = step.to_string();
        context.tell(build.cluster, false, "ScaleDown", &note).await;
    }
    Ok(decision)
}

/// Whether nobody goes or came back, and who is to vote does; the brokers are asked no more then.
fn is_settled(
    build: &Build<'_>,
    children: &Children,
    quorum: &Quorum,
    leaving: &BTreeSet<i32>,
) -> bool {
    let votes: BTreeSet<i32> = quorum.voters.iter().map(|voter| voter.id).collect();
    let wanted = usize::try_from(build.cluster.spec.quorum.voters).unwrap_or(1);
    leaving.is_empty()
        && marked_ones(children).is_empty()
        && votes == build.formation.voters
        && votes.len() == wanted
}

/// Those that are marked as being on their way out.
pub fn marked_ones(children: &Children) -> BTreeSet<i32> {
    let claims = children.claims_by_node();
    let marked = claims.filter(|(_, claim)| marked(claim));
    marked.map(|(node, _)| node.id).collect()
}

fn marked(claim: &PersistentVolumeClaim) -> bool {
    claim.annotations().contains_key(LEAVING)
}

/// Whether the cluster's spec is still the one that was read.
async fn as_read(context: &Context, cluster: &Cluster) -> Result<bool, Error> {
    let clusters: Api<Cluster> = context.beside(cluster);
    let now = clusters.get(&cluster.name_any()).await;
    let now = now.map_err(Error::kube("reading the cluster"))?;
    Ok(now.spec == cluster.spec
        && now.uid() == cluster.uid()
        && now.metadata.deletion_timestamp.is_none())
}

async fn view(
    build: &Build<'_>,
    children: &Children,
    observed: &Observed,
    leaving: &BTreeSet<i32>,
    brokers: &Brokers,
) -> Result<View, ClientError> {
    let cluster = build.cluster;
    let quorum = brokers.describe_quorum().await?;
    let registered = brokers.registered_brokers().await?;
    let moving = brokers.reassignments(None).await?;
    let info = brokers.metadata(Topics::All).await?;
    let serves = |id: i32| registered.iter().any(|r| r.broker.id == id && !r.fenced);
    let up = observed.brokers.iter().filter(|broker| serves(broker.id));
    let dirs = up.map(|broker| async move {
        let dirs = brokers.describe_log_dirs(broker.id).await;
        Ok::<_, ClientError>((broker.id, dirs?))
    });
    let dirs: Result<BTreeMap<i32, Vec<LogDir>>, _> = join_all(dirs).await.into_iter().collect();
    let dirs = dirs?;
    let mut sizes = BTreeMap::new();
    for replica in dirs.values().flatten().flat_map(|dir| &dir.replicas) {
        let size = sizes.entry(&replica.partition).or_insert(0);
        *size = replica.size_bytes.max(*size);
    }
    let member = |broker: &Broker| {
        let id = broker.id;
        let of = registered.iter().find(|r| r.broker.id == id);
        let dirs = dirs.get(&id);
        Member {
            id,
            rack: of.and_then(|r| r.broker.rack.clone()),
            leaving: leaving.contains(&id),
            marked: children.claim(cluster, id).is_some_and(marked),
            serves: serves(id),
            cordoned: dirs.is_some_and(|dirs| dirs.iter().all(|dir| dir.cordoned)),
            voter: quorum.voters.iter().any(|voter| voter.id == id),
            votes: build.votes(id),
            stopped: children.stopped(id) && children.pod(id).is_none(),
            disk: dirs.and_then(|dirs| room(dirs)),
        }
    };
    let partitions = placement::current(&info, &moving);
    let now = |at: &tidemark_client::TopicPartition| {
        let topic = info.topics.get(&at.topic)?;
        Some(topic.partitions.get(&at.partition)?.replicas.clone())
    };
    Ok(View {
        members: observed.brokers.iter().map(member).collect(),
        partitions: partitions
            .into_iter()
            .map(|(at, to)| Placed {
                now: now(&at).unwrap_or_default(),
                bytes: sizes.get(&at).copied().unwrap_or(0),
                to,
                at,
            })
            .collect(),
        voters: usize::try_from(cluster.spec.quorum.voters).unwrap_or(1),
    })
}

/// The size of a broker's disks and what of it is free, if it tells.
fn room(dirs: &[LogDir]) -> Option<(i64, i64)> {
    let told = dirs
        .iter()
        .all(|d| d.total_bytes > 0 && d.usable_bytes >= 0);
    let sum = |of: fn(&LogDir) -> i64| dirs.iter().map(of).sum();
    told.then(|| (sum(|dir| dir.total_bytes), sum(|dir| dir.usable_bytes)))
}

/// Has those that are to vote and run as voters join the quorum: they hear of nothing before. Done
/// whatever else is waited for, and again after a failure. Answers with what failed.
pub async fn join_quorum(build: &Build<'_>, observed: &Observed) -> Option<String> {
    let (brokers, quorum) = observed.contact.as_ref()?;
    let outside = |id: &&i32| !quorum.voters.iter().any(|voter| voter.id == **id);
    for id in build.formation.voters.iter().filter(outside) {
        let Some(directory) = observed.directories.get(id) else {
            continue;
        };
        let host = build::host(build.cluster, *id);
        let at = ("CONTROLLER", host.as_str(), QUORUM_PORT);
        if let Err(error) = brokers.add_voter((*id, *directory), at).await {
            return Some(error.to_string());
        }
    }
    None
}

/// Takes a broker's vote, if it has one.
///
/// # Errors
/// The brokers'.
pub async fn leave_quorum(brokers: &Brokers, id: i32) -> Result<(), ClientError> {
    let quorum = brokers.describe_quorum().await?;
    for voter in quorum.voters.iter().filter(|voter| voter.id == id) {
        brokers.remove_voter(id, voter.directory).await?;
    }
    Ok(())
}

/// Deletes the claims that were to go with their brokers and did not yet.
///
/// # Errors
/// Kubernetes'.
pub async fn sweep(context: &Context, cluster: &Cluster, children: &Children) -> Result<(), Error> {
    let claims: Api<PersistentVolumeClaim> = context.beside(cluster);
    for claim in children.removed() {
        if claim.annotations().get(REMOVED) == Some(&format!("{:?}", DeletionPolicy::Delete)) {
            delete(&claims, &claim.name_any()).await?;
        }
    }
    Ok(())
}

/// A claim that was kept and whose broker comes again is in use again.
///
/// # Errors
/// Kubernetes'.
pub async fn use_again(
    context: &Context,
    cluster: &Cluster,
    claim: &PersistentVolumeClaim,
) -> Result<(), Error> {
    if !claim.annotations().contains_key(REMOVED) {
        return Ok(());
    }
    let claims: Api<PersistentVolumeClaim> = context.beside(cluster);
    annotate(
        &claims,
        &claim.name_any(),
        &json!({REMOVED: null, LEAVING: null}),
    )
    .await
}

/// Changes annotations.
pub async fn annotate<K>(api: &Api<K>, name: &str, annotations: &Value) -> Result<(), Error>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let patch = json!({"metadata": {"annotations": annotations}});
    merge(api, name, &patch, &format!("annotating {name}")).await
}

/// Deletes an object, if it is there.
///
/// # Errors
/// Kubernetes'.
pub async fn delete<K>(api: &Api<K>, name: &str) -> Result<(), Error>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    match api.delete(name, &DeleteParams::default()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(Error::kube(format!("deleting {name}"))(error)),
    }
}

/// Has a broker's StatefulSet make a pod, or none.
///
/// # Errors
/// Kubernetes'.
pub async fn scale(
    context: &Context,
    cluster: &Cluster,
    id: i32,
    replicas: i32,
) -> Result<(), Error> {
    let sets: Api<StatefulSet> = context.beside(cluster);
    let name = build::broker_name(cluster, id);
    let patch = json!({"spec": {"replicas": replicas}});
    merge(&sets, &name, &patch, &format!("scaling {name}")).await
}

struct Act<'a> {
    context: &'a Context,
    build: &'a Build<'a>,
    children: &'a Children,
    brokers: &'a Brokers,
}

impl Act<'_> {
    async fn act(&self, step: &Step) -> Result<(), Error> {
        match step {
            Step::Keep(id) => self.keep(*id).await,
            Step::Mark(id) => {
                self.annotate_claim(*id, &json!({LEAVING: "true"})).await?;
                Ok(self.brokers.cordon_by_controller(*id, true).await?)
            }
            Step::Promote(id) => self.vote(*id, true).await,
            Step::Demote(id) => self.vote(*id, false).await,
            Step::Move(moves) => {
                let moves: Vec<_> = moves.iter().map(|m| (m.at(), Some(m.to.clone()))).collect();
                let results = self.brokers.reassign(&moves).await?;
                for (_, result) in results {
                    result?;
                }
                Ok(())
            }
            Step::Stop(id) => {
                self.vote(*id, false).await?;
                leave_quorum(self.brokers, *id).await?;
                self.scale(*id, 0).await
            }
            Step::Remove(id) => self.remove(*id).await,
        }
    }

    async fn annotate_claim(&self, id: i32, annotations: &Value) -> Result<(), Error> {
        let claims: Api<PersistentVolumeClaim> = self.context.beside(self.build.cluster);
        let name = build::claim_name(self.build.cluster, id);
        annotate(&claims, &name, annotations).await
    }

    /// Writes down whether a broker is to vote.
    async fn vote(&self, id: i32, votes: bool) -> Result<(), Error> {
        let mut voters = self.build.formation.voters.clone();
        let changed = match votes {
            true => voters.insert(id),
            false => voters.remove(&id),
        };
        if !changed {
            return Ok(());
        }
        let cluster = self.build.cluster;
        let maps: Api<ConfigMap> = self.context.beside(cluster);
        let annotations = json!({VOTERS: json!(voters).to_string()});
        annotate(&maps, &build::formation_name(cluster), &annotations).await
    }

    async fn scale(&self, id: i32, replicas: i32) -> Result<(), Error> {
        scale(self.context, self.build.cluster, id, replicas).await
    }

    async fn keep(&self, id: i32) -> Result<(), Error> {
        let moving = self.brokers.reassignments(None).await?;
        let off = moving.into_iter().filter(|one| one.removing.contains(&id));
        let cancelled: Vec<_> = off.map(|one| (one.partition, None)).collect();
        if !cancelled.is_empty() {
            for (_, result) in self.brokers.reassign(&cancelled).await? {
                match result {
                    // It was done meanwhile.
                    Err(error) if error.code() == Some(ErrorCode::NoReassignmentInProgress) => {}
                    result => result?,
                }
            }
        }
        if self.children.stopped(id) {
            self.scale(id, 1).await?;
        }
        self.brokers.cordon_by_controller(id, false).await?;
        let none = json!({LEAVING: null, REMOVED: null});
        self.annotate_claim(id, &none).await
    }

    async fn remove(&self, id: i32) -> Result<(), Error> {
        let cluster = self.build.cluster;
        // What was said of it would hold for another broker of its id.
        match self.brokers.cordon_by_controller(id, false).await {
            // It was taken out before, and the operator was killed.
            Err(error) if error.code() == Some(ErrorCode::InvalidRequest) => {}
            done => done?,
        }
        match self.brokers.unregister_broker(id).await {
            Err(error) if error.code() == Some(ErrorCode::BrokerIdNotRegistered) => {}
            done => done?,
        }
        let pool = self.children.nodes.iter().find(|node| node.id == id);
        let pool = pool.and_then(|node| cluster.spec.pools.iter().find(|p| p.name == node.pool));
        let policy = pool.map_or(DeletionPolicy::Retain, |pool| pool.storage.on_scale_down);
        if self.children.claim(cluster, id).is_some() {
            self.annotate_claim(id, &json!({REMOVED: format!("{policy:?}")}))
                .await?;
        }
        // Another broker of its id begins with another disk, or says so where it is kept.
        let mut used = self.build.formation.used.clone();
        let maps: Api<ConfigMap> = self.context.beside(cluster);
        if used.remove(&id) {
            let noted = json!({USED: json!(used).to_string()});
            annotate(&maps, &build::formation_name(cluster), &noted).await?;
        }
        let name = build::broker_name(cluster, id);
        let services: Api<Service> = self.context.beside(cluster);
        let sets: Api<StatefulSet> = self.context.beside(cluster);
        delete(&maps, &name).await?;
        delete(&services, &name).await?;
        let secrets: Api<Secret> = self.context.beside(cluster);
        delete(&secrets, &certificates::secret_name(cluster, id)).await?;
        let of_others =
            |found: &DynamicObject| found.labels().get(build::BROKER_ID) != Some(&id.to_string());
        certificates::cert_manager::forget(self.context, cluster, of_others).await?;
        // Last but the claim: by it the broker is known.
        delete(&sets, &name).await
    }
}

/// Whether a broker's objects are still to be kept as they should be.
#[must_use]
pub fn is_kept(children: &Children, leaving: &BTreeSet<i32>, node: &Node) -> bool {
    !(leaving.contains(&node.id) && children.stopped(node.id))
}

/// The directory of a broker that is to vote, for what may be missing on its disk.
#[must_use]
pub fn disk(build: &Build<'_>, children: &Children, observed: &Observed, id: i32) -> build::Disk {
    let claim = children.claim(build.cluster, id);
    // Another claim than that which was in use is no new disk, but a lost one.
    let used = build.formation.used.contains(&id);
    if !used && !claim.is_some_and(super::observe::formed) {
        return build::Disk::MayBeEmpty;
    }
    let quorum = observed.contact.as_ref().map(|(_, quorum)| quorum);
    let outside = quorum.is_some_and(|q| !q.voters.iter().any(|voter| voter.id == id));
    match build.votes(id) && outside {
        true => build::Disk::MayLackQuorum,
        false => build::Disk::InUse,
    }
}
