//! Which broker may be restarted now, or what is waited for; pure.
//!
//! [`decide`] is asked again after every change of the world and remembers nothing: everything it
//! goes by is in the objects and in the brokers. Its first rule is that what is broken is repaired
//! before anything else, its second that a broker that works is stopped only while every other one
//! works and no partition goes below its minimum in sync.

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use tidemark_crds::cluster::{DisruptionMode, Unreplicated};

/// Without any broker ready for so long, templates are given to all that do not run.
pub const COLD_START_MS: i64 = 2 * 60_000;
/// A pod that waits for so long is not going to start by itself.
pub const PENDING_MS: i64 = 5 * 60_000;
/// A broker that runs and is not ready after so long, for no reason that it names, halts the roll.
pub const HALT_MS: i64 = 10 * 60_000;
/// The first broker on another image is looked at for so long before the next one follows.
pub const CANARY_MS: i64 = 2 * 60_000;
/// Partitions that are named at most.
const NAMED: usize = 5;

/// A broker, as Kubernetes and it itself tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Its id.
    pub id: i32,
    /// Whether it votes in the quorum.
    pub voter: bool,
    /// Its pod.
    pub pod: Pod,
    /// Since when its pod is ready, in ms since 1970.
    pub ready_since_ms: Option<i64>,
    /// The hash of the template that its pod was made of; empty without a pod.
    pub template: String,
    /// What it says of itself; `None` when it does not answer.
    pub life: Option<Life>,
    /// Whether the operator has leave to stop it.
    pub leased: bool,
    /// Whether it runs as a voter and was taken out of the quorum: it hears of nothing until it
    /// starts as one that follows.
    pub cut_off: bool,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pod {
    /// There is none, or it is going.
    Absent,
    /// It does not run yet.
    Pending {
        /// Why.
        cause: Cause,
        /// Kubernetes' own words.
        text: String,
        /// Since when, in ms since 1970.
        since_ms: i64,
    },
    /// Its container ends again and again.
    Crashing {
        /// Kubernetes' own words.
        text: String,
        /// Since when it is not ready, in ms since 1970.
        since_ms: i64,
    },
    /// Its container runs and is not ready.
    Unready {
        /// Since when, in ms since 1970.
        since_ms: i64,
    },
    /// It is ready.
    Ready,
}

/// Why a pod does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// No node takes it.
    Unschedulable,
    /// Its image cannot be had.
    ImagePull,
    /// Its volume cannot.
    Volume,
    /// It was only just made, or Kubernetes does not say.
    Starting,
}

/// What a broker says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Life {
    /// It has not come to its logs yet.
    Starting,
    /// It opens its logs.
    Recovering {
        /// So many are open,
        done: u64,
        /// of so many.
        total: u64,
    },
    /// It runs, and lacks something: its own words.
    Behind(String),
    /// It serves.
    Running,
    /// It is about to end.
    Stopping,
    /// A directory is marked as failed.
    DirectoryFailed(String),
    /// A disk has no room.
    DiskFull {
        /// Its own words, and what makes room.
        text: String,
        /// Whether it is ready all the same: it leads what it takes no records into.
        serves: bool,
    },
}

/// The cluster, as its controller tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// The active controller.
    pub controller: Option<i32>,
    /// All partitions.
    pub partitions: Vec<Partition>,
    /// How many of them nobody leads.
    pub offline: usize,
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Topic and index.
    pub name: String,
    /// Who should hold it.
    pub replicas: Vec<i32>,
    /// Who is in sync.
    pub isr: Vec<i32>,
    /// How many must be, for acks=all.
    pub min_isr: usize,
}

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The hash of the template that each broker should have.
    pub targets: BTreeMap<i32, String>,
    /// Brokers that are on their way out: they are not restarted, and nobody waits for them.
    pub leaving: BTreeSet<i32>,
    /// Brokers that vote and are not to any more: they are out of the quorum before they are
    /// restarted as those that follow it.
    pub demoted: BTreeSet<i32>,
    /// Nothing is written.
    pub paused: bool,
    /// Who decides on a restart.
    pub mode: DisruptionMode,
    /// Whether a person approved this plan.
    pub approved: bool,
    /// Whether all that is to be restarted is so for what a newer operator changed, and for nothing
    /// that the spec asks for.
    pub by_operator: bool,
    /// Where no window is open: which one is next.
    pub closed: Option<String>,
    /// Whether brokers get another image.
    pub new_image: bool,
    /// What happens to partitions that no order of restarts keeps available.
    pub unreplicated: Unreplicated,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// It is down already: its new template, and its pod goes.
    Repair(i32),
    /// No broker is ready: all these get their templates at once.
    ColdStart(Vec<i32>),
    /// Ask for leave, write its template, delete its pod.
    Restart {
        /// The broker.
        broker: i32,
        /// Partitions that will be offline meanwhile, whatever one does.
        unavoidable: Vec<String>,
    },
    /// It is back: give back the leave.
    EndLease(i32),
}

/// Why nothing is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Kubernetes is about to make the pod.
    PodMissing,
    /// A pod fails on the template it should have.
    BrokerFailing,
    /// No node takes a pod.
    Unschedulable,
    /// An image cannot be had.
    ImagePull,
    /// A volume cannot be had.
    DiskUnreachable,
    /// A directory is marked as failed.
    DirectoryFailed,
    /// A disk has no room: its broker goes on by itself when there is some, and a restart gives none.
    DiskFull,
    /// A disk is lost, and is replaced or waits for it.
    DiskLost,
    /// A broker opens its logs.
    LogRecovery,
    /// A broker is not in all its ISRs.
    IsrCatchUp,
    /// A broker starts or stops.
    Starting,
    /// A broker runs for long and is not ready.
    RollHalted,
    /// The spec says so.
    Paused,
    /// The spec says so.
    DisruptionsOff,
    /// Nobody has approved this plan.
    AwaitingApproval,
    /// The spec allows restarts at other times.
    OutOfWindow,
    /// The first broker on another image has to prove itself.
    Canary,
    /// The brokers cannot be asked.
    BrokersUnreachable,
    /// A partition would have too few in sync.
    MinIsr,
    /// A partition that has no other replica would be offline, and the spec forbids it.
    Unreplicated,
    /// The quorum would lose its majority.
    Quorum,
    /// No broker runs.
    ColdStart,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nothing: all is as it should be.
    Idle,
    /// This.
    Do(Step),
    /// Nothing, for this reason.
    Wait(Reason, String),
}

impl Broker {
    fn ready(&self) -> bool {
        self.pod == Pod::Ready
    }

    fn target<'a>(&self, plan: &'a Plan) -> Option<&'a str> {
        plan.targets.get(&self.id).map(String::as_str)
    }

    /// Whether its pod is of another template than it should be.
    #[must_use]
    pub fn stale(&self, plan: &Plan) -> bool {
        self.pod != Pod::Absent
            && !plan.leaving.contains(&self.id)
            && self.target(plan).is_some_and(|t| t != self.template)
    }

    fn unready_since(&self) -> Option<i64> {
        match self.pod {
            Pod::Pending { since_ms, .. }
            | Pod::Crashing { since_ms, .. }
            | Pod::Unready { since_ms } => Some(since_ms),
            Pod::Absent | Pod::Ready => None,
        }
    }

    /// Whether it is down for a cause that another template may mend.
    fn mendable(&self, now_ms: i64) -> bool {
        match &self.pod {
            Pod::Crashing { .. } => true,
            Pod::Unready { .. } => self.cut_off,
            // Nothing of it has ever run, and waiting does not bring the image.
            Pod::Pending {
                cause: Cause::ImagePull,
                ..
            } => true,
            Pod::Pending {
                cause: Cause::Unschedulable | Cause::Starting,
                since_ms,
                ..
            } => now_ms - since_ms > PENDING_MS,
            _ => false,
        }
    }

    /// Why one waits for it; `None` when it is ready and takes records.
    fn trouble(&self, now_ms: i64) -> Option<(Reason, String)> {
        let id = self.id;
        let long = |since_ms: i64| now_ms - since_ms > HALT_MS;
        Some(match (&self.pod, &self.life) {
            (Pod::Ready | Pod::Unready { .. }, Some(Life::DiskFull { text, .. })) => {
                (Reason::DiskFull, format!("broker {id}: {text}"))
            }
            (Pod::Ready, _) => return None,
            (Pod::Absent, _) => (Reason::PodMissing, format!("broker {id} has no pod yet")),
            (Pod::Crashing { text, .. }, _) => {
                (Reason::BrokerFailing, format!("broker {id}: {text}"))
            }
            (Pod::Pending { cause, text, .. }, _) => {
                let reason = match cause {
                    Cause::Unschedulable => Reason::Unschedulable,
                    Cause::ImagePull => Reason::ImagePull,
                    Cause::Volume => Reason::DiskUnreachable,
                    Cause::Starting => Reason::Starting,
                };
                (reason, format!("broker {id}: {text}"))
            }
            (Pod::Unready { .. }, Some(Life::DirectoryFailed(text))) => {
                (Reason::DirectoryFailed, format!("broker {id}: {text}"))
            }
            (Pod::Unready { .. }, Some(Life::Recovering { done, total })) => (
                Reason::LogRecovery,
                format!("broker {id} opens its logs, {done} of {total}"),
            ),
            (Pod::Unready { .. }, Some(Life::Behind(text))) => {
                (Reason::IsrCatchUp, format!("broker {id}: {text}"))
            }
            (Pod::Unready { since_ms }, _) if long(*since_ms) => (
                Reason::RollHalted,
                format!("broker {id} is not ready after {} min", HALT_MS / 60_000),
            ),
            (Pod::Unready { .. }, _) => (Reason::Starting, format!("broker {id} starts")),
        })
    }
}

/// The order of restarts: the active controller last, so that the quorum changes its leader once.
#[must_use]
pub fn order(brokers: &[Broker], plan: &Plan, controller: Option<i32>) -> Vec<i32> {
    let stale = brokers.iter().filter(|broker| broker.stale(plan));
    let mut ids: Vec<i32> = stale.map(|broker| broker.id).collect();
    ids.sort_by_key(|id| (controller == Some(*id), *id));
    ids
}

/// Partitions that cannot keep their minimum in sync while a broker is down, however long one waits.
#[must_use]
pub fn unavoidable(image: &Image, broker: i32) -> Vec<String> {
    let held = image.partitions.iter();
    let held = held.filter(|p| p.replicas.contains(&broker) && p.replicas.len() <= p.min_isr);
    held.map(|p| p.name.clone()).collect()
}

/// Decides on the next step.
#[must_use]
pub fn decide(brokers: &[Broker], image: Option<&Image>, plan: &Plan, now_ms: i64) -> Decision {
    let stale: BTreeSet<i32> = brokers
        .iter()
        .filter(|broker| broker.stale(plan))
        .map(|broker| broker.id)
        .collect();
    if !plan.paused
        && let Some(step) = repair(brokers, image, &stale, now_ms)
    {
        return Decision::Do(step);
    }
    // Those that are broken come before those that take their time: their cause is what to look at.
    let stay = |broker: &&Broker| !plan.leaving.contains(&broker.id);
    let mut troubles: Vec<(Reason, String)> = brokers
        .iter()
        .filter(stay)
        .filter_map(|broker| broker.trouble(now_ms))
        .collect();
    troubles.sort_by_key(|(reason, _)| {
        matches!(
            reason,
            Reason::Starting | Reason::PodMissing | Reason::IsrCatchUp | Reason::LogRecovery
        )
    });
    if let Some((reason, text)) = troubles.into_iter().next() {
        let nobody = image.is_none() && !brokers.iter().any(Broker::ready);
        return match (nobody, reason) {
            (true, Reason::Starting | Reason::PodMissing) => {
                Decision::Wait(Reason::ColdStart, format!("no broker is ready; {text}"))
            }
            _ => Decision::Wait(reason, text),
        };
    }
    if stale.is_empty() {
        return Decision::Idle;
    }
    let count = stale.len();
    if plan.paused {
        return Decision::Wait(Reason::Paused, format!("{count} restarts wait: paused"));
    }
    match plan.mode {
        DisruptionMode::Never => {
            return Decision::Wait(
                Reason::DisruptionsOff,
                format!("{count} restarts wait: disruption.mode is Never"),
            );
        }
        DisruptionMode::Automatic if plan.by_operator && !plan.approved => {
            return Decision::Wait(
                Reason::AwaitingApproval,
                format!("a newer operator would restart {count} brokers, and awaits approval"),
            );
        }
        DisruptionMode::Approval if !plan.approved => {
            return Decision::Wait(
                Reason::AwaitingApproval,
                format!("restart of {count} brokers awaits approval"),
            );
        }
        DisruptionMode::Approval | DisruptionMode::Automatic => {}
    }
    if let Some(next) = &plan.closed {
        return Decision::Wait(
            Reason::OutOfWindow,
            format!("{count} restarts wait: {next}"),
        );
    }
    let Some(image) = image else {
        return Decision::Wait(
            Reason::BrokersUnreachable,
            "the brokers do not answer, so none is restarted".to_owned(),
        );
    };
    if let Some(id) = canary(brokers, plan, now_ms) {
        return Decision::Wait(
            Reason::Canary,
            format!(
                "broker {id} is the first on the new image: it runs for {} min before others follow",
                CANARY_MS / 60_000
            ),
        );
    }
    restart(brokers, image, plan)
}

/// The only broker on another image, as long as it is new there.
fn canary(brokers: &[Broker], plan: &Plan, now_ms: i64) -> Option<i32> {
    let renewed = |b: &&Broker| !plan.leaving.contains(&b.id) && !b.stale(plan);
    let mut renewed = brokers.iter().filter(renewed);
    let (first, second) = (renewed.next()?, renewed.next());
    let since_ms = first.ready_since_ms?;
    (plan.new_image && second.is_none() && now_ms - since_ms < CANARY_MS).then_some(first.id)
}

/// What to do about brokers that are down, and leave that is not needed any more.
fn repair(
    brokers: &[Broker],
    image: Option<&Image>,
    stale: &BTreeSet<i32>,
    now_ms: i64,
) -> Option<Step> {
    // Whether or not it is to be restarted again: who keeps its leave keeps all others waiting.
    let back = |broker: &&Broker| broker.leased && broker.ready();
    if let Some(broker) = brokers.iter().find(back) {
        return Some(Step::EndLease(broker.id));
    }
    let down = |broker: &&Broker| stale.contains(&broker.id) && broker.mendable(now_ms);
    if let Some(broker) = brokers.iter().find(down) {
        return Some(Step::Repair(broker.id));
    }
    let none_ready = !brokers.iter().any(Broker::ready);
    let latest = brokers.iter().filter_map(Broker::unready_since).max();
    let long = latest.is_some_and(|since_ms| now_ms - since_ms > COLD_START_MS);
    if image.is_some() || !none_ready || !long {
        return None;
    }
    let may = |broker: &&Broker| {
        let busy = matches!(broker.life, Some(Life::Recovering { .. }));
        stale.contains(&broker.id) && !busy
    };
    let all: Vec<i32> = brokers.iter().filter(may).map(|broker| broker.id).collect();
    (!all.is_empty()).then_some(Step::ColdStart(all))
}

/// The next restart, where all brokers are ready.
fn restart(brokers: &[Broker], image: &Image, plan: &Plan) -> Decision {
    let order = order(brokers, plan, image.controller);
    let mut hindered = None;
    for id in &order {
        let last = order.len() == 1;
        if image.controller == Some(*id) && !last {
            continue;
        }
        match safe(brokers, image, plan, *id) {
            Ok(unavoidable) => {
                return Decision::Do(Step::Restart {
                    broker: *id,
                    unavoidable,
                });
            }
            Err(wait) => hindered = hindered.or(Some(wait)),
        }
    }
    let (reason, text) = hindered.unwrap_or((Reason::Quorum, "no broker may be stopped".into()));
    Decision::Wait(reason, text)
}

/// Whether a broker may be stopped, and what goes offline with it in any case.
fn safe(
    brokers: &[Broker],
    image: &Image,
    plan: &Plan,
    id: i32,
) -> Result<Vec<String>, (Reason, String)> {
    let leaves = plan.demoted.contains(&id);
    let others = brokers.iter().filter(|b| b.voter && b.id != id);
    let left = others.clone().filter(|broker| broker.ready()).count();
    let me = brokers.iter().any(|b| b.voter && b.id == id && !leaves);
    let voters = others.count() + usize::from(me);
    // A quorum of one is down while its voter is: there is no better moment.
    if voters > 1 && left <= voters / 2 {
        let text = format!("without broker {id} the quorum has no majority");
        return Err((Reason::Quorum, text));
    }
    let mut unavoidable = Vec::new();
    let mut hindering = Vec::new();
    for partition in &image.partitions {
        if !partition.replicas.contains(&id) {
            continue;
        }
        let others = partition.isr.iter().filter(|other| **other != id).count();
        if partition.replicas.len() <= partition.min_isr {
            let full = partition.isr.len() >= partition.replicas.len();
            match full {
                true => unavoidable.push(partition.name.clone()),
                false => hindering.push(partition.name.clone()),
            }
        } else if others < partition.min_isr {
            // Also where it is outside of the ISR: it may be the one that is catching up.
            hindering.push(partition.name.clone());
        }
    }
    if !hindering.is_empty() {
        let text = format!(
            "without broker {id} {} of its partitions would have too few in sync: {}",
            hindering.len(),
            named(&hindering)
        );
        return Err((Reason::MinIsr, text));
    }
    if !unavoidable.is_empty() && plan.unreplicated == Unreplicated::Block {
        let text = format!(
            "without broker {id} {} would be offline, and disruption.unreplicated is Block",
            named(&unavoidable)
        );
        return Err((Reason::Unreplicated, text));
    }
    Ok(unavoidable)
}

fn named(partitions: &[String]) -> String {
    let mut text = partitions
        .iter()
        .take(NAMED)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    if partitions.len() > NAMED {
        text.push_str(", …");
    }
    text
}
