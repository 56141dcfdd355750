//! What is told of a cluster; pure.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use tidemark_crds::cluster::{
    BrokerStatus, ClusterStatus, ConfigStatus, DisruptionStatus, FeaturesStatus, ListenerStatus,
    PartitionsStatus, RestoreMode, RestoreStatus, TierStatus,
};
use tidemark_crds::units::rounded;
use tidemark_crds::{Cluster, Invalid, condition, set_condition};
use twox_hash::XxHash64;

use super::build::{self, Build, Formation, Node};
use super::certificates::Certified;
use super::full;
use super::observe::Observed;
use super::restore::Before;
use super::roller::{self, Decision, Life, Plan, Pod, Reason, Step};
use super::shrink;

/// The annotation that approves a plan.
pub const APPROVE: &str = "tidemark.dev/approve";
/// How long nobody may be asked before it is told to clients: longer than an election takes.
const UNHEARD_MS: i64 = 15_000;
/// Partitions that are named at most.
const NAMED: usize = 10;

/// A plan, and its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Names what it comes to, so that an approval of it is none of another.
    pub id: String,
    /// The plan.
    pub plan: Plan,
}

/// What the spec asks of the roller, which leaves those alone that are on their way out.
#[must_use]
pub fn plan(
    cluster: &Cluster,
    build: &Build<'_>,
    nodes: &[Node],
    observed: &Observed,
    leaving: BTreeSet<i32>,
    now_ms: i64,
) -> Named {
    let targets: BTreeMap<i32, String> = nodes
        .iter()
        .filter_map(|node| Some((node.id, build.template_hash(node)?)))
        .collect();
    let id = format!(
        "d-{:08x}",
        XxHash64::oneshot(0, format!("{targets:?}").as_bytes()) >> 32
    );
    let approved = cluster.annotations().get(APPROVE) == Some(&id);
    let disruption = &cluster.spec.disruption;
    Named {
        plan: Plan {
            targets,
            demoted: demoted(build, &leaving, observed),
            leaving,
            paused: cluster.spec.paused,
            mode: disruption.mode,
            approved,
            by_operator: observed
                .reasons
                .values()
                .all(|reasons| *reasons == [build::OPERATOR_UPGRADE]),
            // Checked before, by validate.
            closed: disruption
                .closed(now_ms)
                .ok()
                .flatten()
                .map(|next| next.to_string()),
            new_image: observed
                .reasons
                .values()
                .any(|reasons| reasons.contains(&build::IMAGE_CHANGE)),
            unreplicated: disruption.unreplicated,
        },
        id,
    }
}

/// Who votes and is not to, of those that stay.
fn demoted(build: &Build<'_>, leaving: &BTreeSet<i32>, observed: &Observed) -> BTreeSet<i32> {
    let stay = observed.brokers.iter().filter(|b| !leaving.contains(&b.id));
    let demoted = stay.filter(|broker| broker.voter && !build.votes(broker.id));
    demoted.map(|broker| broker.id).collect()
}

/// Everything that is told.
#[derive(Debug, Clone, Copy)]
pub struct Told<'a> {
    /// The resource.
    pub cluster: &'a Cluster,
    /// Its formation.
    pub formation: &'a Formation,
    /// Its brokers.
    pub nodes: &'a [Node],
    /// What was seen.
    pub observed: &'a Observed,
    /// What is wanted.
    pub plan: &'a Named,
    /// What is done.
    pub decision: &'a Decision,
    /// What is done about brokers that leave.
    pub shrinking: &'a shrink::Decision,
    /// Those.
    pub leaving: &'a BTreeSet<i32>,
    /// What is told of settings; nothing where nobody could be asked.
    pub live: Option<&'a ConfigStatus>,
    /// The level of what is used of newer versions; nothing where not all brokers tell.
    pub features: Option<&'a FeaturesStatus>,
    /// Why a voter could not join the quorum.
    pub joining: Option<&'a str>,
    /// Claims that cannot be as they should.
    pub storage: &'a [String],
    /// Where clients come in.
    pub listeners: &'a [ListenerStatus],
    /// Its certificates.
    pub certified: &'a Certified,
}

/// The status of a spec that is not accepted.
#[must_use]
pub fn refused(cluster: &Cluster, invalid: &Invalid, now_ms: i64) -> ClusterStatus {
    let mut status = cluster.status.clone().unwrap_or_default();
    let generation = cluster.metadata.generation;
    status.observed_generation = generation;
    status.message.clone_from(&invalid.message);
    let new = condition(
        "Accepted",
        Some(false),
        invalid.reason,
        &*invalid.message,
        generation,
        now_ms,
    );
    set_condition(&mut status.conditions, new);
    status
}

/// The status of a cluster that is not formed yet.
#[must_use]
pub fn unformed(cluster: &Cluster, before: &Before, now_ms: i64) -> ClusterStatus {
    let generation = cluster.metadata.generation;
    let old = cluster.status.as_ref();
    let desired: i32 = cluster.spec.pools.iter().map(|pool| pool.replicas).sum();
    let mut status = ClusterStatus {
        observed_generation: generation,
        message: before.text.clone(),
        ready: format!("0/{desired}"),
        restore: restore_status(cluster, before.report.clone()),
        conditions: old.map(|old| old.conditions.clone()).unwrap_or_default(),
        ..ClusterStatus::default()
    };
    let accepted = ("Accepted", Some(true), "Valid", "");
    let not = |type_| (type_, Some(false), before.reason, before.text.as_str());
    for (type_, is, reason, text) in [accepted, not("Ready"), not("Reconciled"), not("Restored")] {
        let new = condition(type_, is, reason, text, generation, now_ms);
        set_condition(&mut status.conditions, new);
    }
    status
}

fn restore_status(cluster: &Cluster, report: Vec<String>) -> Option<RestoreStatus> {
    let (restore, tier) = (cluster.spec.restore.as_ref()?, cluster.spec.tier.as_ref()?);
    Some(RestoreStatus {
        source: restore.source(&tier.url).to_owned(),
        report,
    })
}

/// Whether the cluster began with what the spec says, with a reason; nothing where it says nothing.
fn restored(told: &Told<'_>) -> Option<(bool, &'static str, String)> {
    let restore = told.cluster.spec.restore.as_ref()?;
    if told.formation.restore.is_empty() {
        let name = build::formation_name(told.cluster);
        let text = format!(
            "the cluster was formed earlier, and without it: to begin again, delete the Cluster, ConfigMap {name} and the claims, and apply it again"
        );
        return Some((false, "FormedWithout", text));
    }
    Some(match &told.formation.report {
        None => {
            let text = "no voter has begun with what the bucket holds yet";
            (false, "Restoring", text.to_owned())
        }
        Some(report) => {
            let reason = match restore.mode {
                RestoreMode::Takeover => "TakenOver",
                RestoreMode::Clone => "Copied",
            };
            (
                true,
                reason,
                report.lines().next().unwrap_or_default().to_owned(),
            )
        }
    })
}

/// The status.
#[must_use]
pub fn status(told: &Told<'_>, now_ms: i64) -> ClusterStatus {
    let Told {
        cluster, observed, ..
    } = *told;
    let stay = |b: &&roller::Broker| !told.leaving.contains(&b.id);
    let ready = observed.brokers.iter().filter(stay);
    let ready = ready.filter(|b| b.pod == Pod::Ready).count();
    let desired: i32 = cluster.spec.pools.iter().map(|pool| pool.replicas).sum();
    let partitions = observed.image.as_ref().map(|image| PartitionsStatus {
        total: count(image.partitions.len()),
        under_replicated: count(image.partitions.iter().filter(|p| lacks(p)).count()),
        offline: count(image.offline),
    });
    let mut status = ClusterStatus {
        observed_generation: cluster.metadata.generation,
        message: message(told, ready, desired),
        ready: format!("{ready}/{desired}"),
        cluster_id: Some(told.formation.cluster_id.clone()),
        bootstrap: Some(build::bootstrap(cluster)),
        listeners: told.listeners.to_vec(),
        certificates: Some(told.certified.status.clone()),
        controller: observed.image.as_ref().and_then(|image| image.controller),
        features: told.features.cloned(),
        brokers: brokers(told),
        partitions,
        tier: bucket(told),
        restore: restore_status(
            cluster,
            told.formation
                .report
                .iter()
                .flat_map(|report| report.lines())
                .map(str::to_owned)
                .collect(),
        ),
        config: told
            .live
            .filter(|live| **live != ConfigStatus::default())
            .cloned(),
        disruption: disruption(told),
        conditions: cluster
            .status
            .as_ref()
            .map(|old| old.conditions.clone())
            .unwrap_or_default(),
    };
    for new in conditions(told, &status, ready, now_ms) {
        set_condition(&mut status.conditions, new);
    }
    status
}

fn count(of: usize) -> i64 {
    i64::try_from(of).unwrap_or(i64::MAX)
}

fn lacks(partition: &roller::Partition) -> bool {
    partition.isr.len() < partition.replicas.len()
}

fn stale(told: &Told<'_>) -> Vec<i32> {
    let controller = told
        .observed
        .image
        .as_ref()
        .and_then(|image| image.controller);
    roller::order(&told.observed.brokers, &told.plan.plan, controller)
}

fn message(told: &Told<'_>, ready: usize, desired: i32) -> String {
    let stale = stale(told).len();
    match told.decision {
        // It says of its own claim that it cannot grow.
        Decision::Wait(Reason::DiskFull, text) => text.clone(),
        _ if !told.storage.is_empty() => told.storage[0].clone(),
        Decision::Idle => leaving(told)
            .map(|(_, text)| text)
            .or_else(|| Some(restored(told).filter(|(is, ..)| !is)?.2))
            .unwrap_or_default(),
        Decision::Wait(_, text) if told.joining.is_some() => {
            format!("{text}: {}", told.joining.unwrap_or_default())
        }
        Decision::Wait(_, text) if stale > 0 && told.plan.plan.approved_to_roll() => {
            let done = told.nodes.len().saturating_sub(stale);
            format!("rolling {done}/{}: {text}", told.nodes.len())
        }
        Decision::Wait(_, text) if ready == 0 => format!("0/{desired} brokers are ready: {text}"),
        Decision::Wait(_, text) => text.clone(),
        Decision::Do(step) => doing(step),
    }
}

/// Why the brokers are not yet those that the spec asks for, where they are well.
fn leaving(told: &Told<'_>) -> Option<(&'static str, String)> {
    match told.shrinking {
        shrink::Decision::Idle => None,
        shrink::Decision::Do(step) => Some(("ScalingDown", step.to_string())),
        shrink::Decision::Wait(text) => Some(("ScalingDown", text.clone())),
        shrink::Decision::Blocked(text) => Some(("ScaleDownBlocked", text.clone())),
    }
}

trait Rolls {
    fn approved_to_roll(&self) -> bool;
}

impl Rolls for Plan {
    fn approved_to_roll(&self) -> bool {
        use tidemark_crds::cluster::DisruptionMode;
        match self.mode {
            _ if self.paused || self.closed.is_some() => false,
            DisruptionMode::Automatic => self.approved || !self.by_operator,
            DisruptionMode::Approval => self.approved,
            DisruptionMode::Never => false,
        }
    }
}

fn doing(step: &Step) -> String {
    match step {
        Step::Repair(id) => format!("repairing broker {id}"),
        Step::ColdStart(ids) => format!("starting brokers {ids:?}"),
        Step::Restart { broker, .. } => format!("restarting broker {broker}"),
        Step::EndLease(id) => format!("broker {id} is back"),
    }
}

/// What brokers say of the bucket, together.
fn bucket(told: &Told<'_>) -> Option<TierStatus> {
    told.cluster.spec.tier.as_ref()?;
    let all = &told.observed.tier;
    let lag_ms = all.iter().map(|bucket| bucket.lag_ms).max()?;
    Some(TierStatus {
        lag: rounded(lag_ms),
        last_error: all.iter().find_map(|bucket| bucket.last_error.clone()),
    })
}

fn brokers(told: &Told<'_>) -> Vec<BrokerStatus> {
    let status = |node: &Node| {
        let mut brokers = told.observed.brokers.iter();
        let broker = brokers.find(|broker| broker.id == node.id)?;
        Some(BrokerStatus {
            id: node.id,
            pool: node.pool.clone(),
            state: match state(broker) {
                "Ready" if told.leaving.contains(&node.id) => "Leaving",
                state => state,
            }
            .to_owned(),
            stale: broker.stale(&told.plan.plan),
        })
    };
    told.nodes.iter().filter_map(status).collect()
}

fn state(broker: &roller::Broker) -> &'static str {
    match (&broker.pod, &broker.life) {
        (Pod::Ready | Pod::Unready { .. }, Some(Life::DiskFull { .. })) => full::STATE,
        (Pod::Ready, _) => "Ready",
        (Pod::Absent, _) => "Absent",
        (Pod::Pending { .. }, _) => "Pending",
        (Pod::Crashing { .. }, _) => "Crashing",
        (Pod::Unready { .. }, Some(Life::Recovering { .. })) => "Recovering",
        (Pod::Unready { .. }, Some(Life::Behind(_))) => "CatchingUp",
        (Pod::Unready { .. }, Some(Life::Stopping)) => "Stopping",
        (Pod::Unready { .. }, Some(Life::DirectoryFailed(_))) => "DirectoryFailed",
        (Pod::Unready { .. }, Some(Life::Starting | Life::Running) | None) => "Starting",
    }
}

fn disruption(told: &Told<'_>) -> Option<DisruptionStatus> {
    let restarts = stale(told);
    if restarts.is_empty() {
        return None;
    }
    let reasons: BTreeSet<&str> = told.observed.reasons.values().flatten().copied().collect();
    let image = told.observed.image.as_ref();
    let unavoidable = |id: &i32| image.map(|image| roller::unavoidable(image, *id));
    let mut unavoidable: Vec<String> = restarts.iter().filter_map(unavoidable).flatten().collect();
    unavoidable.sort();
    unavoidable.dedup();
    unavoidable.truncate(NAMED);
    let (state, message) = match told.decision {
        Decision::Wait(reason, text) => (reason.to_string(), text.clone()),
        Decision::Do(step) => ("Rolling".to_owned(), doing(step)),
        Decision::Idle => ("Rolling".to_owned(), String::new()),
    };
    Some(DisruptionStatus {
        id: told.plan.id.clone(),
        state,
        message,
        restarts,
        reasons: reasons.into_iter().map(str::to_owned).collect(),
        unavoidable,
    })
}

/// Whether nobody could be asked for so long that clients will have noticed, as the last status
/// tells.
fn unheard(told: &Told<'_>, now_ms: i64) -> bool {
    let status = told.cluster.status.as_ref();
    let conditions = status.map_or(&[][..], |status| &status.conditions);
    let quorum = conditions.iter().find(|c| c.type_ == "QuorumHealthy");
    quorum.is_none_or(|quorum| {
        let since_ms = quorum.last_transition_time.0.as_millisecond();
        quorum.status == "Unknown" && now_ms - since_ms > UNHEARD_MS
    })
}

fn conditions(
    told: &Told<'_>,
    status: &ClusterStatus,
    ready: usize,
    now_ms: i64,
) -> Vec<Condition> {
    let generation = told.cluster.metadata.generation;
    let new = |type_: &str, is: Option<bool>, reason: &str, text: String| {
        condition(type_, is, reason, text, generation, now_ms)
    };
    let brokers = format!("{} brokers are ready", status.ready);
    let image = told.observed.image.as_ref();
    let unreachable = || told.observed.unreachable.clone().unwrap_or_default();
    let mut all = vec![new("Accepted", Some(true), "Valid", String::new())];
    let full = |of: fn(&Life) -> Option<&str>| {
        let brokers = told.observed.brokers.iter();
        let full =
            brokers.filter_map(|b| Some(format!("broker {}: {}", b.id, of(b.life.as_ref()?)?)));
        let full = full.collect::<Vec<_>>().join("; ");
        (!full.is_empty()).then_some(full)
    };
    let refuses = full(|life| match life {
        Life::DiskFull { text, serves: true } => Some(text),
        _ => None,
    });
    // It speaks for clients: brokers answer, and every partition has a leader that takes records.
    all.push(match (&status.partitions, ready) {
        (_, 0) => new("Ready", Some(false), "NoBrokerReady", brokers.clone()),
        // While a controller is elected nobody can be asked, and clients go on.
        (None, _) if !unheard(told, now_ms) => new("Ready", Some(true), "Serving", brokers.clone()),
        (None, _) => new("Ready", Some(false), "BrokersUnreachable", unreachable()),
        (Some(partitions), _) if partitions.offline > 0 => {
            let text = format!("{} partitions have no leader", partitions.offline);
            new("Ready", Some(false), "PartitionsOffline", text)
        }
        (Some(_), _) => match refuses {
            Some(text) => new("Ready", Some(false), "DiskFull", text),
            None => new("Ready", Some(true), "Serving", brokers.clone()),
        },
    });
    // It speaks for the spec: what it asks for is there.
    let wanted: i32 = told
        .cluster
        .spec
        .pools
        .iter()
        .map(|pool| pool.replicas)
        .sum();
    let complete = i64::from(wanted) == count(ready);
    all.push(match told.decision {
        _ if !told.storage.is_empty() => new(
            "Reconciled",
            Some(false),
            "ExpansionForbidden",
            told.storage.join("; "),
        ),
        Decision::Idle if leaving(told).is_some() => {
            let (reason, text) = leaving(told).unwrap_or_default();
            new("Reconciled", Some(false), reason, text)
        }
        Decision::Idle if complete => new("Reconciled", Some(true), "AsSpecified", String::new()),
        Decision::Idle => new("Reconciled", Some(false), "Starting", brokers),
        Decision::Wait(reason, text) => {
            new("Reconciled", Some(false), &reason.to_string(), text.clone())
        }
        Decision::Do(step) => new("Reconciled", Some(false), "Rolling", doing(step)),
    });
    all.push(match &status.partitions {
        None => new("FullyReplicated", None, "BrokersUnreachable", unreachable()),
        Some(partitions) if partitions.under_replicated > 0 => {
            let text = format!("{} partitions lack a replica", partitions.under_replicated);
            new("FullyReplicated", Some(false), "UnderReplicated", text)
        }
        Some(_) => new("FullyReplicated", Some(true), "InSync", String::new()),
    });
    all.push(match image {
        None => new("QuorumHealthy", None, "BrokersUnreachable", unreachable()),
        Some(image) => match image.controller {
            Some(id) => new(
                "QuorumHealthy",
                Some(true),
                "Led",
                format!("broker {id} leads"),
            ),
            None => new("QuorumHealthy", Some(false), "NoLeader", String::new()),
        },
    });
    all.push(match told.live {
        None => new("ConfigApplied", None, "BrokersUnreachable", unreachable()),
        Some(live) if !live.refused.is_empty() => {
            let text = live.refused.join("; ");
            new("ConfigApplied", Some(false), "SettingRefused", text)
        }
        Some(_) => new("ConfigApplied", Some(true), "AsSpecified", String::new()),
    });
    if told.cluster.spec.tier.is_some() {
        let opened = told.observed.tier.iter().all(|bucket| bucket.opened);
        all.push(match &status.tier {
            None => new("TierHealthy", None, "BrokersUnreachable", unreachable()),
            Some(tier) => match &tier.last_error {
                Some(error) => new("TierHealthy", Some(false), "Failing", error.clone()),
                None if !opened => new("TierHealthy", None, "Opening", String::new()),
                None => new("TierHealthy", Some(true), "Uploading", String::new()),
            },
        });
    }
    if let Some((is, reason, text)) = restored(told) {
        all.push(new("Restored", Some(is), reason, text));
    }
    let pending = told.listeners.iter().find_map(|listener| {
        let pending = listener.pending.as_ref()?;
        Some(format!("listener {}: {pending}", listener.name))
    });
    all.push(match pending {
        Some(text) => new("ListenersReady", Some(false), "AddressPending", text),
        None => new("ListenersReady", Some(true), "Advertised", String::new()),
    });
    let problems = &told.certified.problems;
    all.push(
        match (problems.is_empty(), &told.certified.status.rotation) {
            (false, _) => new(
                "CertificatesValid",
                Some(false),
                "SecretRefused",
                problems.join("; "),
            ),
            (true, Some(text)) => new("CertificatesValid", Some(true), "Rotating", text.clone()),
            (true, None) => new("CertificatesValid", Some(true), "Issued", String::new()),
        },
    );
    let disk = match told.decision {
        Decision::Wait(
            Reason::DirectoryFailed | Reason::DiskUnreachable | Reason::DiskLost,
            text,
        ) => Some(text),
        _ => told.storage.first(),
    };
    let full = full(|life| match life {
        Life::DiskFull { text, .. } => Some(text),
        _ => None,
    });
    all.push(match disk {
        _ if full.is_some() => new(
            "StorageReady",
            Some(false),
            "DiskFull",
            full.unwrap_or_default(),
        ),
        Some(text) => new("StorageReady", Some(false), "DiskTrouble", text.clone()),
        None => new("StorageReady", Some(true), "Bound", String::new()),
    });
    all
}
