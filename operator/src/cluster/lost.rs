//! Disks that are lost, and are replaced by empty ones.
//!
//! **Invariant:** a disk is given up only while every other broker is ready, which means in sync, and
//! somebody else is in sync for each partition that was on it: whatever was committed is there. A
//! voter's disk is another member of the quorum: the old one is taken out before, the new one joins
//! when it has caught up.
//!
//! Each step is found in the objects: the formation says whose disk is replaced and which claim goes.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim};
use kube::{Api, ResourceExt};
use serde_json::json;
use tidemark_crds::cluster::DiskLostPolicy;

use super::build::{self, Build, REPLACED, REPLACING, Replacing, USED};
use super::leave::{annotate, delete, leave_quorum, scale};
use super::observe::{Children, Observed};
use super::roller::{Broker, Cause, Image, Life, Pod};
use crate::context::{Context, Error};

/// The annotation of a Cluster that asks for a broker's disk to be replaced: its id.
pub const REPLACE_DISK: &str = "tidemark.dev/replace-disk";
/// What a broker says of its disk where another one was before.
const SAYS: &str = "its disk is lost";
/// Partitions that are named at most.
const NAMED: usize = 5;

/// Who wants lost disks to be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// The broker that a person named.
    pub broker: Option<i32>,
    /// For how long a disk has to be lost before it is replaced anyway; none for never.
    pub after_ms: Option<i64>,
}

/// What to do about lost disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// None is.
    Nothing,
    /// Nothing yet, and why.
    Wait(String),
    /// Replace that of this broker.
    Replace(i32),
}

/// Decides on a disk to be replaced.
#[must_use]
pub fn decide(brokers: &[Broker], image: Option<&Image>, asked: Asked, now_ms: i64) -> Decision {
    let mut lost = brokers.iter().filter_map(|b| Some((b, evidence(b)?)));
    let Some((broker, (why, since_ms))) = lost.next() else {
        return Decision::Nothing;
    };
    let id = broker.id;
    let wait = |text: String| Decision::Wait(format!("broker {id}: {why}; {text}"));
    if let Err(hindrance) = spare(brokers, image, broker) {
        return wait(format!("its disk is not replaced: {hindrance}"));
    }
    let long = asked.after_ms.is_some_and(|ms| now_ms - since_ms >= ms);
    if asked.broker == Some(id) || long {
        return Decision::Replace(id);
    }
    wait(match asked.after_ms {
        Some(_) => "its disk is replaced when it stays so".to_owned(),
        None => format!(
            "all that was committed is on other brokers: to have its disk replaced, give the Cluster the annotation {REPLACE_DISK}={id}"
        ),
    })
}

/// Why a broker's disk is lost, and since when, in ms since 1970.
fn evidence(broker: &Broker) -> Option<(String, i64)> {
    match (&broker.pod, &broker.life) {
        (Pod::Crashing { text, since_ms }, _) if text.contains(SAYS) => {
            Some(("its disk is empty".to_owned(), *since_ms))
        }
        (
            Pod::Pending {
                cause: Cause::Volume,
                text,
                since_ms,
            },
            _,
        ) => Some((text.clone(), *since_ms)),
        (Pod::Unready { since_ms }, Some(Life::DirectoryFailed(text))) => {
            Some((text.clone(), *since_ms))
        }
        _ => None,
    }
}

/// Whether nothing that was committed is on this broker's disk alone.
fn spare(brokers: &[Broker], image: Option<&Image>, lost: &Broker) -> Result<(), String> {
    let others = brokers.iter().filter(|broker| broker.id != lost.id);
    if let Some(other) = others.clone().find(|other| other.pod != Pod::Ready) {
        return Err(format!("broker {} is not ready", other.id));
    }
    let Some(image) = image else {
        return Err("the brokers cannot be asked".to_owned());
    };
    let voters = others.filter(|broker| broker.voter).count();
    if lost.voter && voters <= voters.div_ceil(2) {
        return Err("the quorum has no majority without it".to_owned());
    }
    let held = image.partitions.iter();
    let held = held.filter(|p| p.replicas.contains(&lost.id) || p.isr.contains(&lost.id));
    let alone = held.filter(|p| p.isr.iter().all(|id| *id == lost.id));
    let alone: Vec<&str> = alone.map(|p| p.name.as_str()).collect();
    match alone.is_empty() {
        true => Ok(()),
        false => {
            let some = alone.iter().take(NAMED).copied().collect::<Vec<_>>();
            Err(format!(
                "{} partitions have nobody else in sync: {}",
                alone.len(),
                some.join(", ")
            ))
        }
    }
}

/// Goes on with a disk that is being replaced, or begins with one that is lost. Answers with what is
/// told of it; nothing where all is well.
///
/// # Errors
/// Kubernetes', and the brokers'.
pub async fn step(
    context: &Context,
    build: &Build<'_>,
    children: &Children,
    observed: &Observed,
    now_ms: i64,
) -> Result<Option<String>, Error> {
    if let Some(replacing) = &build.formation.replacing {
        return go_on(context, build, children, observed, replacing)
            .await
            .map(Some);
    }
    let cluster = build.cluster;
    let policy = &cluster.spec.recovery.disk_lost;
    let named = cluster.annotations().get(REPLACE_DISK);
    let asked = Asked {
        broker: named.and_then(|id| id.parse().ok()),
        after_ms: match policy.policy {
            DiskLostPolicy::Manual => None,
            // Checked before, by validate.
            DiskLostPolicy::Replace => policy.after_ms().ok().flatten(),
        },
    };
    let id = match decide(&observed.brokers, observed.image.as_ref(), asked, now_ms) {
        Decision::Nothing => return Ok(None),
        Decision::Wait(text) => return Ok(Some(text)),
        Decision::Replace(id) => id,
    };
    let replacing = Replacing {
        broker: id,
        claim: children.claim(cluster, id).and_then(ResourceExt::uid),
        made: false,
    };
    note(
        context,
        build,
        &json!({REPLACING: json!(replacing).to_string()}),
    )
    .await?;
    let text = format!("broker {id}: its disk is lost, and is replaced by an empty one");
    context.tell(cluster, true, "ReplacingDisk", &text).await;
    Ok(Some(text))
}

async fn note(
    context: &Context,
    build: &Build<'_>,
    annotations: &serde_json::Value,
) -> Result<(), Error> {
    let maps: Api<ConfigMap> = context.beside(build.cluster);
    annotate(&maps, &build::formation_name(build.cluster), annotations).await
}

async fn go_on(
    context: &Context,
    build: &Build<'_>,
    children: &Children,
    observed: &Observed,
    replacing: &Replacing,
) -> Result<String, Error> {
    let (cluster, id) = (build.cluster, replacing.broker);
    if replacing.made {
        if children.stopped(id) {
            scale(context, cluster, id, 1).await?;
        }
        note(context, build, &json!({REPLACING: null})).await?;
        return Ok(format!("broker {id} starts on another disk"));
    }
    if !children.stopped(id) {
        let Some((brokers, _)) = &observed.contact else {
            return Ok("the brokers cannot be asked".to_owned());
        };
        // Its directory is not coming back, and must not be counted.
        leave_quorum(brokers, id).await?;
        scale(context, cluster, id, 0).await?;
        return Ok(format!("broker {id} is stopped: its disk is replaced"));
    }
    if children.pod(id).is_some() {
        return Ok(format!("broker {id} stops: its disk is replaced"));
    }
    let claim = children.claim(cluster, id);
    if let Some(claim) = claim.filter(|claim| claim.uid() == replacing.claim) {
        if claim.metadata.deletion_timestamp.is_none() {
            let claims: Api<PersistentVolumeClaim> = context.beside(cluster);
            delete(&claims, &claim.name_any()).await?;
        }
        return Ok(format!("{} is deleted", claim.name_any()));
    }
    let without = |ids: &BTreeSet<i32>| {
        let mut ids = ids.clone();
        ids.remove(&id);
        ids
    };
    let mut replaced = build.formation.replaced.clone();
    replaced.insert(id);
    let made = Replacing {
        made: true,
        ..replacing.clone()
    };
    let noted = json!({
        USED: json!(without(&build.formation.used)).to_string(),
        REPLACED: json!(replaced).to_string(),
        REPLACING: json!(made).to_string(),
    });
    note(context, build, &noted).await?;
    Ok(format!("broker {id} gets another disk"))
}
