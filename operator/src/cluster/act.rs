//! Carrying out one step.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::json;
use tidemark_client::Cluster as Brokers;
use tidemark_client::admin::Disruption;
use tidemark_wire::{ErrorCode, Uuid};
use twox_hash::XxHash64;

use super::build::{self, Build, LEASE, REPLICATION_PORT};
use super::leave::leave_quorum;
use super::observe::{Children, Observed};
use super::roller::{Decision, Reason, Step};
use crate::apply::{apply, merge};
use crate::contact;
use crate::context::{Context, Error};

/// A restarted broker should be back after this.
const LEASE_MS: i64 = 10 * 60_000;

/// Does a step; answers with what to wait for where the controller refused it.
///
/// # Errors
/// Kubernetes'.
pub async fn act(
    context: &Context,
    build: &Build<'_>,
    children: &Children,
    observed: &Observed,
    step: &Step,
    demoted: &BTreeSet<i32>,
) -> Result<Option<Decision>, Error> {
    let cluster = build.cluster;
    match step {
        Step::Repair(id) => {
            let note = format!("broker {id} is down: it gets its new template");
            context.tell(cluster, false, "Repairing", &note).await;
            renew(context, build, children, *id).await?;
        }
        Step::ColdStart(ids) => {
            let note = format!("no broker is ready: {ids:?} get their templates at once");
            context.tell(cluster, true, "ColdStart", &note).await;
            for id in ids {
                renew(context, build, children, *id).await?;
            }
        }
        Step::EndLease(id) => end_lease(context, build, children, observed, *id).await?,
        Step::Restart {
            broker,
            unavoidable,
        } => {
            let leave = lease(context, build, observed, *broker, unavoidable).await;
            if let Err((reason, text)) = leave {
                return Ok(Some(Decision::Wait(reason, text)));
            }
            note_lease(context, build, *broker, Some(&token(build, *broker))).await?;
            if demoted.contains(broker)
                && let Some((brokers, _)) = &observed.contact
            {
                leave_quorum(brokers, *broker).await?;
            }
            let note = format!("broker {broker} is restarted on its new template");
            context.tell(cluster, false, "Restarting", &note).await;
            renew(context, build, children, *broker).await?;
        }
    }
    Ok(None)
}

/// The token of a broker's lease: the same after a restart of the operator, so that it gets its own
/// lease again.
fn token(build: &Build<'_>, id: i32) -> Uuid {
    let name = format!("{}/{id}", build.formation.cluster_id);
    let [high, low] = [1, 2].map(|seed| XxHash64::oneshot(seed, name.as_bytes()).to_be_bytes());
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&high);
    bytes[8..].copy_from_slice(&low);
    Uuid::from_random(bytes)
}

/// Connects to brokers that answer, ready or not.
async fn connect(
    context: &Context,
    build: &Build<'_>,
    observed: &Observed,
) -> Result<Brokers, Error> {
    let up = observed.brokers.iter().filter(|b| b.life.is_some());
    let each = up.map(|b| format!("{}:{REPLICATION_PORT}", build::host(build.cluster, b.id)));
    let bootstrap = each.collect::<Vec<_>>().join(",");
    let way = contact::way(context, build.cluster).await?;
    Ok(contact::connect(&bootstrap, &way).await?)
}

/// Asks the controller for leave to stop a broker: it knows what the image did not tell yet.
async fn lease(
    context: &Context,
    build: &Build<'_>,
    observed: &Observed,
    id: i32,
    unavoidable: &[String],
) -> Result<(), (Reason, String)> {
    let unreachable = |error: Error| (Reason::BrokersUnreachable, error.to_string());
    let brokers = connect(context, build, observed)
        .await
        .map_err(unreachable)?;
    match brokers
        .begin_disruption(id, token(build, id), LEASE_MS)
        .await
    {
        Ok(Disruption::Granted { .. }) => Ok(()),
        Ok(Disruption::Hindered(partitions)) => {
            let hindering: Vec<String> = partitions
                .iter()
                .map(|tp| format!("{}-{}", tp.topic, tp.partition))
                .filter(|name| !unavoidable.contains(name))
                .collect();
            // Those that no order of restarts keeps available were weighed already.
            if hindering.is_empty() {
                return Ok(());
            }
            let text = format!(
                "the controller refuses leave to stop broker {id}: {}",
                hindering.join(", ")
            );
            Err((Reason::MinIsr, text))
        }
        Err(error) if error.code() == Some(ErrorCode::NotEnoughReplicas) => {
            Err((Reason::MinIsr, error.to_string()))
        }
        Err(error) => Err(unreachable(error.into())),
    }
}

/// Writes down, or takes out, that there is leave to stop a broker.
async fn note_lease(
    context: &Context,
    build: &Build<'_>,
    id: i32,
    token: Option<&Uuid>,
) -> Result<(), Error> {
    let sets: Api<StatefulSet> = context.beside(build.cluster);
    let token = token.map(ToString::to_string);
    let patch = json!({"metadata": {"annotations": {LEASE: token}}});
    let name = build::broker_name(build.cluster, id);
    merge(&sets, &name, &patch, &format!("the lease of {name}")).await
}

async fn end_lease(
    context: &Context,
    build: &Build<'_>,
    children: &Children,
    observed: &Observed,
    id: i32,
) -> Result<(), Error> {
    let token = children.lease(id).and_then(|token| token.parse().ok());
    if let Some(token) = token {
        let brokers = connect(context, build, observed).await?;
        brokers.end_disruption(id, token).await?;
    }
    note_lease(context, build, id, None).await
}

/// Gives a broker its template, and takes its pod, so that it comes back on that.
async fn renew(
    context: &Context,
    build: &Build<'_>,
    children: &Children,
    id: i32,
) -> Result<(), Error> {
    let node = children.nodes.iter().find(|node| node.id == id);
    let Some(set) = node.and_then(|node| build.stateful_set(node)) else {
        return Ok(());
    };
    let sets: Api<StatefulSet> = context.beside(build.cluster);
    apply(&sets, &set).await?;
    context.metrics.restarted(build.cluster);
    let Some(pod) = children.pod(id) else {
        return Ok(());
    };
    let pods: Api<Pod> = context.beside(build.cluster);
    // That pod and no other: one that has come meanwhile is on the new template.
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: pod.uid(),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    match pods.delete(&pod.name_any(), &params).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => Err(Error::kube(format!("deleting pod {}", pod.name_any()))(
            error,
        )),
    }
}
