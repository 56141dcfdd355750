//! `Cluster`: observe, plan, at most one disruptive step, status.
//!
//! Steps are done in an order in which none waits for what a later one mends: disks grow before
//! anybody asks whether brokers are well, because a full disk may be why they are not.

mod act;
pub mod authority;
pub mod build;
pub mod certificates;
mod features;
mod full;
mod leave;
mod live;
mod lost;
mod observe;
pub mod outside;
mod restore;
pub mod roller;
pub mod shrink;
mod status;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tidemark_crds::Cluster;
use tidemark_crds::cluster::Settings;
use tidemark_crds::units::{Limit, size_bytes};
use tidemark_env::{clock, random};
use tidemark_wire::Uuid;

use crate::apply::{apply, ensure, merge, status as write_status};
use crate::context::{BUSY, Context, Error, WAITING, WELL};
use build::{Build, FORMED, Formation};
use observe::Children;
use roller::{Decision, Reason, Step};

/// Brings a cluster one step closer to its spec.
///
/// # Errors
/// Kubernetes'. What brokers refuse stands in the status.
pub async fn reconcile(cluster: Arc<Cluster>, context: Arc<Context>) -> Result<Action, Error> {
    if cluster.metadata.deletion_timestamp.is_some() {
        // Children go with their owner, and data stays or goes as their owners say.
        return Ok(Action::await_change());
    }
    let clusters: Api<Cluster> = context.beside(&*cluster);
    let tell = async |new| {
        let old = cluster.status.as_ref();
        write_status(&clusters, &cluster.name_any(), old, new).await
    };
    let now_ms = clock::now_ms();
    if let Err(invalid) = tidemark_crds::cluster::validate(&cluster.spec) {
        let new = status::refused(&cluster, &invalid, now_ms);
        tell(&new).await?;
        return Ok(Action::await_change());
    }
    let Some(image) = cluster.spec.image.clone() else {
        if cluster.spec.paused {
            return Ok(Action::requeue(WAITING));
        }
        // Written down, so that a newer operator does not move a cluster that is there.
        let patch = json!({"spec": {"image": context.image}});
        merge(&clusters, &cluster.name_any(), &patch, "writing spec.image").await?;
        return Ok(Action::requeue(BUSY));
    };
    let children = observe::children(&context, &cluster).await?;
    let storage = match cluster.spec.paused {
        true => Vec::new(),
        false => grow(&context, &cluster, &children).await?,
    };
    let mut formation = match &children.formation {
        Some(formation) => formation.clone(),
        None if cluster.spec.paused => return Ok(Action::requeue(WAITING)),
        None => match restore::before(&context, &cluster, &image, &children).await? {
            Some(before) => {
                tell(&status::unformed(&cluster, &before, now_ms)).await?;
                return Ok(Action::requeue(WAITING));
            }
            None => form(&context, &cluster).await?,
        },
    };
    let nodes = build::nodes(&children.nodes, &cluster.spec.pools);
    if !cluster.spec.paused {
        formation.racks = place(&context, &cluster, &children, &formation, &nodes).await?;
    }
    // Checked before, by validate.
    let times = cluster.spec.certificates.times();
    let times = times.map_err(|invalid| Error::Malformed(invalid.message))?;
    let authorities = certificates::begin(&context, &cluster, &children, &times, now_ms).await?;
    let way = context.ways.by(&cluster, &authorities, now_ms)?;
    let settings = settings(&cluster, &children);
    let addresses = outside::addresses(&cluster, &children, &nodes);
    let build = Build {
        cluster: &cluster,
        formation: &formation,
        image: &image,
        settings: &settings,
        addresses: &addresses,
    };
    let leaving = build::leaving(&nodes, &cluster.spec.pools);
    let observed = observe::brokers(&way, &build, &children, &nodes, &storage).await;
    let kept = |node: &&build::Node| leave::is_kept(&children, &leaving, node);
    let kept: Vec<&build::Node> = nodes.iter().filter(kept).collect();
    // Those too of a cluster that is paused: they end all the same.
    let certified = certificates::renew(
        &context,
        &certificates::Deciding {
            build: &build,
            children: &children,
            observed: &observed,
            nodes: &kept,
            addresses: &addresses,
            times,
            now_ms,
        },
        &authorities,
    )
    .await?;
    let (mut joining, mut live) = (None, None);
    if !cluster.spec.paused {
        furnish(&context, &build, &children, &observed, &kept).await?;
        remember_formed(&context, &build, &children, &observed).await?;
        restore::note(&context, &build, &children).await?;
        joining = leave::join_quorum(&build, &observed).await;
        live = match live::apply(&context, &build, &observed).await {
            // It stops nothing else, and is told with the others that could not be asked.
            Err(Error::Brokers(error)) => {
                tracing::warn!(cluster = cluster.name_any(), %error, "settings");
                None
            }
            done => done?,
        };
    }
    // Those too that were stopped on their way out and are to stay after all: nobody waits for a pod
    // of theirs before they are called back.
    let going = leaving
        .union(&leave::marked_ones(&children))
        .copied()
        .collect();
    let plan = status::plan(&cluster, &build, &nodes, &observed, going, now_ms);
    let image = observed.image.as_ref();
    let mut decision = roller::decide(&observed.brokers, image, &plan.plan, now_ms);
    if let Decision::Do(step) = &decision {
        let demoted = &plan.plan.demoted;
        let done = act::act(&context, &build, &children, &observed, step, demoted).await?;
        decision = done.unwrap_or(decision);
    }
    if !cluster.spec.paused && !matches!(decision, Decision::Do(_)) {
        let lost = match lost::step(&context, &build, &children, &observed, now_ms).await {
            Err(Error::Brokers(error)) => Some(error.to_string()),
            done => done?,
        };
        if let Some(text) = lost {
            decision = Decision::Wait(Reason::DiskLost, text);
        }
    }
    // Never with a roll.
    let shrinking = match decision {
        Decision::Idle if !cluster.spec.paused => {
            match leave::step(&context, &build, &children, &observed, &leaving).await {
                Err(Error::Brokers(error)) => shrink::Decision::Wait(error.to_string()),
                done => done?,
            }
        }
        _ => shrink::Decision::Idle,
    };
    let idle = matches!(
        (&decision, &shrinking),
        (Decision::Idle, shrink::Decision::Idle)
    );
    let may = idle && !cluster.spec.paused;
    let features = features::step(&context, &cluster, &observed, may, now_ms).await;
    let listeners = outside::status(&cluster, &children, &nodes, &addresses);
    let pending = listeners.iter().any(|listener| listener.pending.is_some());
    let under_way = pending || certified.status.rotation.is_some();
    let told = status::Told {
        cluster: &cluster,
        formation: &formation,
        nodes: &nodes,
        observed: &observed,
        plan: &plan,
        decision: &decision,
        shrinking: &shrinking,
        leaving: &leaving,
        joining: joining.as_deref(),
        live: live.as_ref(),
        features: features.as_ref(),
        storage: &storage,
        listeners: &listeners,
        certified: &certified,
    };
    let new = status::status(&told, now_ms);
    context.metrics.seen(&cluster, &new, now_ms);
    for news in full::news(cluster.status.as_ref(), &observed.brokers) {
        let full::News {
            warning,
            reason,
            note,
        } = news;
        context.tell(&*cluster, warning, reason, &note).await;
    }
    tell(&new).await?;
    Ok(match decision {
        Decision::Idle => match shrinking {
            // What is told by files and Services tells nobody.
            shrink::Decision::Idle if under_way => Action::requeue(WAITING),
            shrink::Decision::Idle => Action::requeue(WELL),
            shrink::Decision::Do(_) | shrink::Decision::Wait(_) => Action::requeue(BUSY),
            shrink::Decision::Blocked(_) => Action::requeue(WAITING),
        },
        Decision::Do(Step::EndLease(_) | Step::Restart { .. } | Step::Repair(_))
        | Decision::Do(Step::ColdStart(_))
        | Decision::Wait(
            Reason::Starting | Reason::PodMissing | Reason::IsrCatchUp | Reason::DiskLost,
            _,
        ) => Action::requeue(BUSY),
        Decision::Wait(..) => Action::requeue(WAITING),
    })
}

/// The settings, sorted; of one that is refused what is in brokers' files stays there.
fn settings(cluster: &Cluster, children: &Children) -> Settings {
    let mut settings = tidemark_crds::cluster::settings(&cluster.spec);
    for name in settings.refused.keys() {
        if let Some(value) = children.in_file(name) {
            settings.fixed.insert(name.clone(), value);
        }
    }
    settings
}

/// Lets claims grow, first of all: one line for each that cannot.
async fn grow(
    context: &Context,
    cluster: &Cluster,
    children: &Children,
) -> Result<Vec<String>, Error> {
    let claims: Api<PersistentVolumeClaim> = context.beside(cluster);
    let mut refused = Vec::new();
    for (node, claim) in children.claims_by_node() {
        let pool = cluster.spec.pools.iter().find(|p| p.name == node.pool);
        let Some(pool) = pool else { continue };
        let asked = observe::requested(claim);
        let (Ok(Limit::Of(want)), Some(have)) = (size_bytes(&pool.storage.size), asked) else {
            continue;
        };
        if want <= have {
            continue;
        }
        let name = claim.name_any();
        let size = &pool.storage.size;
        let patch = json!({"spec": {"resources": {"requests": {"storage": size}}}});
        let params = PatchParams::default();
        match claims.patch(&name, &params, &Patch::Merge(&patch)).await {
            Ok(_) => {
                let note = format!("{name} grows to {size}");
                context.tell(cluster, false, "DiskGrows", &note).await;
            }
            // Of a class that does not grow: the others do, and the rest of the spec applies.
            Err(kube::Error::Api(status)) if matches!(status.code, 403 | 422) => {
                refused.push(format!("{name} cannot grow: {}", status.message));
            }
            Err(error) => return Err(Error::kube(format!("growing {name}"))(error)),
        }
    }
    Ok(refused)
}

/// Chooses who begins the cluster, and writes it down before any broker is there.
async fn form(context: &Context, cluster: &Cluster) -> Result<Formation, Error> {
    let nodes = build::nodes(&[], &cluster.spec.pools);
    let voters = usize::try_from(cluster.spec.quorum.voters).unwrap_or(1);
    let first = nodes.iter().take(voters);
    let first = first.map(|node| (node.id, random_id())).collect();
    let formation = Formation {
        restore: build::restore_arguments(cluster),
        ..Formation::new(random_id(), first)
    };
    let maps: Api<ConfigMap> = context.beside(cluster);
    let object = serde_json::from_value(build::formation(cluster, &formation))
        .map_err(|error| Error::Malformed(format!("the formation: {error}")))?;
    // Created and never applied: of two operators one forms the cluster, and the other one fails here.
    maps.create(&kube::api::PostParams::default(), &object)
        .await
        .map_err(Error::kube("writing the formation"))?;
    let note = format!("cluster {} is formed", formation.cluster_id);
    context.tell(cluster, false, "Formed", &note).await;
    Ok(formation)
}

/// The rack of each broker; those of new ones are chosen and written down before their disks are
/// made, which stay where they are.
async fn place(
    context: &Context,
    cluster: &Cluster,
    children: &Children,
    formation: &Formation,
    nodes: &[build::Node],
) -> Result<BTreeMap<i32, String>, Error> {
    let placed = &formation.racks;
    let Some(racks) = &cluster.spec.racks else {
        return Ok(placed.clone());
    };
    let ids = nodes.iter().map(|node| node.id);
    let new = ids.filter(|id| children.claim(cluster, *id).is_none() && !placed.contains_key(id));
    let chosen = build::racks(placed, nodes, &new.collect(), &racks.values);
    if chosen != *placed {
        let maps: Api<ConfigMap> = context.beside(cluster);
        let noted = json!({build::RACKS: json!(chosen).to_string()});
        leave::annotate(&maps, &build::formation_name(cluster), &noted).await?;
    }
    Ok(chosen)
}

/// A random id that does not begin like an option.
fn random_id() -> String {
    loop {
        let mut bytes = [0; 16];
        random::fill(&mut bytes);
        let id = Uuid::from_random(bytes).to_string();
        if !id.starts_with('-') {
            return id;
        }
    }
}

/// Makes what is missing, and mends what restarts nobody. A StatefulSet that is there is the
/// roller's to change.
async fn furnish(
    context: &Context,
    build: &Build<'_>,
    children: &Children,
    observed: &observe::Observed,
    nodes: &[&build::Node],
) -> Result<(), Error> {
    let cluster = build.cluster;
    let services: Api<Service> = context.beside(cluster);
    let accounts: Api<ServiceAccount> = context.beside(cluster);
    let budgets: Api<PodDisruptionBudget> = context.beside(cluster);
    let maps: Api<ConfigMap> = context.beside(cluster);
    let claims: Api<PersistentVolumeClaim> = context.beside(cluster);
    let sets: Api<StatefulSet> = context.beside(cluster);
    let account = build::service_account(cluster);
    ensure(&accounts, children.account.as_ref(), &account).await?;
    let budget = build::disruption_budget(cluster);
    ensure(&budgets, children.budget.as_ref(), &budget).await?;
    if let Some(found) = &children.formation_map {
        own(&maps, found, &build::formation(cluster, build.formation)).await?;
    }
    let service = async |wanted: Value| {
        let name = wanted["metadata"]["name"].as_str().unwrap_or_default();
        ensure(&services, children.service(name), &wanted).await
    };
    service(build::bootstrap_service(cluster)).await?;
    let outside = build.outside_services(nodes);
    for name in outside::left_over(cluster, children, &outside) {
        leave::delete(&services, &name).await?;
    }
    for wanted in outside {
        service(wanted).await?;
    }
    let policies: Api<NetworkPolicy> = context.beside(cluster);
    let policy = build::network_policy(cluster);
    ensure(&policies, children.policy.as_ref(), &policy).await?;
    leave::sweep(context, cluster, children).await?;
    for node in nodes {
        service(build.service(node)).await?;
        let disk = leave::disk(build, children, observed, node.id);
        ensure(&maps, children.files(node.id), &build.files(node, disk)).await?;
        let wanted = build.claim(node);
        match (children.claim(cluster, node.id), wanted) {
            (None, Some(claim)) => {
                apply(&claims, &claim).await?;
            }
            (Some(found), Some(claim)) => {
                if !children.has_set(node.id) {
                    leave::use_again(context, cluster, found).await?;
                }
                own(&claims, found, &claim).await?;
            }
            (_, None) => {}
        }
        if !children.has_set(node.id)
            && let Some(set) = build.stateful_set(node)
        {
            apply(&sets, &set).await?;
        }
    }
    Ok(())
}

/// Has what holds data go or stay with the cluster, as the spec says now.
async fn own<K>(api: &Api<K>, found: &K, wanted: &Value) -> Result<(), Error>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let owners = &wanted["metadata"]["ownerReferences"];
    if json!(found.owner_references()) == *owners {
        return Ok(());
    }
    let patch = json!({"metadata": {"ownerReferences": owners}});
    let name = found.name_any();
    merge(api, &name, &patch, &format!("the owner of {name}")).await
}

/// A broker that was ready has a disk: from then on an empty one is a lost one, be it on that claim or
/// on another.
async fn remember_formed(
    context: &Context,
    build: &Build<'_>,
    children: &Children,
    observed: &observe::Observed,
) -> Result<(), Error> {
    let cluster = build.cluster;
    let claims: Api<PersistentVolumeClaim> = context.beside(cluster);
    let mut used = build.formation.used.clone();
    for broker in &observed.brokers {
        let Some(claim) = children.claim(cluster, broker.id) else {
            continue;
        };
        if broker.pod != roller::Pod::Ready {
            continue;
        }
        used.insert(broker.id);
        if !observe::formed(claim) {
            let patch = json!({"metadata": {"annotations": {FORMED: "true"}}});
            merge(&claims, &claim.name_any(), &patch, "marking a claim").await?;
        }
    }
    if used == build.formation.used {
        return Ok(());
    }
    let maps: Api<ConfigMap> = context.beside(cluster);
    let noted = json!({build::USED: json!(used).to_string()});
    leave::annotate(&maps, &build::formation_name(cluster), &noted).await
}
