//! Disks that are full: what makes room, and what is told when one is and when it is no more; pure.
//!
//! Nothing is restarted for one: the broker goes on by itself when there is room, and a start would
//! find none either.

#[cfg(test)]
mod tests;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt;
use tidemark_crds::Cluster;
use tidemark_crds::cluster::ClusterStatus;
use tidemark_crds::units::{Limit, size_bytes};

use super::build::{Node, broker_name};
use super::observe;
use super::roller::{Broker, Life};

/// What the status calls a broker whose disk is full.
pub const STATE: &str = "DiskFull";
/// What helps on any disk.
const DELETE: &str = "delete topics, or lower their retention";

/// What makes room on a broker's disk; `refused` has a line for each claim that could not grow.
#[must_use]
pub fn room(
    cluster: &Cluster,
    node: &Node,
    claim: Option<&PersistentVolumeClaim>,
    refused: &[String],
) -> String {
    let pool = cluster.spec.pools.iter().find(|p| p.name == node.pool);
    let (Some(claim), Some(pool)) = (claim, pool) else {
        return DELETE.to_owned();
    };
    let (name, wanted) = (claim.name_any(), &pool.storage.size);
    let mut refused = refused.iter();
    if let Some(line) = refused.find(|line| line.starts_with(&format!("{name} "))) {
        return format!("{line}; {DELETE}");
    }
    let (has, asked) = (capacity(claim), observe::requested(claim));
    let below = |bytes: Option<i64>| match (bytes, size_bytes(wanted)) {
        (Some(bytes), Ok(Limit::Of(wanted))) => bytes < wanted,
        _ => false,
    };
    if cluster.spec.paused && below(asked) {
        return format!("spec.paused keeps {name} from growing to {wanted}");
    }
    let waits = claim.status.as_ref().and_then(|s| s.conditions.as_ref());
    let mut waits = waits.into_iter().flatten();
    if waits.any(|one| one.type_ == "FileSystemResizePending" && one.status == "True") {
        return format!(
            "{name} has grown, and its file system is next: where that does not begin by itself, its storage class wants another pod: kubectl delete pod {}",
            format_args!("{}-0", broker_name(cluster, node.id))
        );
    }
    let more = |asked| has.is_some_and(|has| asked > has);
    if below(asked) || below(has) || asked.is_some_and(more) {
        return format!("{name} grows to {wanted}");
    }
    format!(
        "raise storage.size of pool {}, and {name} grows from {wanted}; or {DELETE}",
        pool.name
    )
}

/// What a claim's volume holds, in bytes.
fn capacity(claim: &PersistentVolumeClaim) -> Option<i64> {
    let has = claim.status.as_ref()?.capacity.as_ref()?.get("storage")?;
    match size_bytes(&has.0) {
        Ok(Limit::Of(bytes)) => Some(bytes),
        _ => None,
    }
}

/// Something that is told in an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// Whether somebody should act.
    pub warning: bool,
    /// One word.
    pub reason: &'static str,
    /// A sentence.
    pub note: String,
}

/// Whose disk is full, or is no more, and was not so in the last status.
#[must_use]
pub fn news(old: Option<&ClusterStatus>, brokers: &[Broker]) -> Vec<News> {
    let known = |id: i32| {
        let mut told = old.iter().flat_map(|status| &status.brokers);
        told.any(|broker| broker.id == id && broker.state == STATE)
    };
    let of = |broker: &Broker| {
        let id = broker.id;
        match (&broker.life, known(id)) {
            (Some(Life::DiskFull { text, .. }), false) => Some(News {
                warning: true,
                reason: "DiskFull",
                note: format!("broker {id}: {text}"),
            }),
            // One that does not answer, or only just starts, does not know yet.
            (Some(Life::Running | Life::Behind(_)), true) => Some(News {
                warning: false,
                reason: "DiskHasRoom",
                note: format!("broker {id}: there is room on its disk again, and it takes records"),
            }),
            _ => None,
        }
    };
    brokers.iter().filter_map(of).collect()
}
