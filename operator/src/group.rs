//! `ConsumerGroup`: tells how a group does, and moves its offsets once for each token.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::controller::Action;
use kube::{Api, Resource, ResourceExt};
use serde_json::json;
use tidemark_client::admin::{
    ConfigChange, ConfigOp, ConfigResource, GroupDescription, OffsetSpec,
};
use tidemark_client::consumer::{Consumer, ConsumerConfig, OffsetReset, Start};
use tidemark_client::{ClientError, Cluster as Brokers, TopicPartition};
use tidemark_crds::group::{
    Decision, LagStatus, Move, Phase, Record, ResetStatus, Standing, Target, View, decide_reset,
    lag, populated, recorded, standing, stuck, target, validate, within_bounds,
};
use tidemark_crds::units::rounded;
use tidemark_crds::{
    Cluster, ConsumerGroup, ConsumerGroupStatus, Invalid, condition, set_condition,
};
use tidemark_env::clock;
use tidemark_wire::ErrorCode;
use twox_hash::XxHash64;

use crate::apply::{apply, status as write_status};
use crate::cluster::build::CLUSTER;
use crate::context::{Context, Error, WAITING};

/// Moves that are shown at most.
const SHOWN: usize = 50;
/// The setting of a group that says which reset was done last.
const RESET: &str = "tidemark.reset";
/// Partitions whose oldest record is looked at, those with the most lag.
const MOST_LOOKED_AT: usize = 100;
/// How long brokers are asked for the oldest record.
const LOOK: Duration = Duration::from_secs(2);

/// What was found out about a group.
struct Found {
    state: String,
    group_type: String,
    coordinator: Option<i32>,
    view: View,
    stuck: Option<String>,
    decision: Result<Decision, Invalid>,
}

/// Looks at a group, and moves its offsets where that is due.
///
/// # Errors
/// Kubernetes'. What brokers refuse stands in the status.
pub async fn reconcile(group: Arc<ConsumerGroup>, context: Arc<Context>) -> Result<Action, Error> {
    if group.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let groups: Api<ConsumerGroup> = context.beside(&*group);
    let cluster = context.cluster_of(&*group, &group.spec.cluster_ref).await?;
    let found = match (validate(group.group_id(), &group.spec), cluster) {
        (Err(invalid), _) => Err(invalid),
        (Ok(()), None) => {
            let text = format!("there is no Cluster {}", group.spec.cluster_ref.name);
            Err(Invalid::new("ClusterNotFound", text))
        }
        (Ok(()), Some(cluster)) => match look(&context, &group, &cluster).await {
            Ok(found) => Ok(found),
            Err(Error::Brokers(error)) => {
                context.forget_brokers_of(&cluster);
                Err(Invalid::new("ClusterUnreachable", error.to_string()))
            }
            Err(error) => return Err(error),
        },
    };
    let stuck = found.as_ref().ok().and_then(|found| found.stuck.clone());
    let new = status(&group, found, clock::now_ms());
    let mut was = group.status.iter().flat_map(|old| &old.conditions);
    let known = was.any(|condition| condition.reason == "Stuck");
    if let Some(text) = stuck.filter(|_| !known) {
        context.tell(&*group, true, "Stuck", &text).await;
    }
    write_status(&groups, &group.name_any(), group.status.as_ref(), &new).await?;
    Ok(Action::requeue(WAITING))
}

async fn look(context: &Context, group: &ConsumerGroup, cluster: &Cluster) -> Result<Found, Error> {
    let brokers = context.brokers_of(cluster).await?;
    let id = group.group_id();
    let Some((described, view)) = observe(&brokers, id).await? else {
        return Ok(Found {
            state: "NotFound".to_owned(),
            group_type: String::new(),
            coordinator: None,
            view: View::default(),
            stuck: None,
            decision: Ok(Decision::None),
        });
    };
    let view = View {
        oldest_ms: oldest(&brokers, &view).await?,
        ..view
    };
    let stuck = stands(context, group, &view);
    let token = group.spec.reset.as_ref().map(|reset| reset.token.as_str());
    let records = Records::new(context, &brokers, (cluster, id), token.unwrap_or_default());
    let decision = reset(&brokers, group, &view, &records).await?;
    match &decision {
        Ok(Decision::Apply(moves)) => {
            let text = summary(moves);
            context.tell(group, false, "ResetApplied", &text).await;
        }
        Ok(Decision::Refuse(text)) => context.tell(group, true, "ResetRefused", text).await,
        _ => {}
    }
    Ok(Found {
        state: described.state,
        group_type: described.group_type,
        coordinator: Some(described.coordinator),
        view,
        stuck,
        decision,
    })
}

/// What a group does not get on in. Where it stood before is remembered by this process alone: by
/// another one it is seen to stand from its first look on.
fn stands(context: &Context, group: &ConsumerGroup, view: &View) -> Option<String> {
    let key = (group.namespace().unwrap_or_default(), group.name_any());
    let now_ms = clock::now_ms();
    let mut known = context
        .standing
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let before = known.remove(&key).unwrap_or_default();
    let now: Standing = standing(&before, view, now_ms);
    let told = stuck(&group.spec, view, &now, now_ms);
    if !now.is_empty() {
        known.insert(key, now);
    }
    told
}

/// The timestamp of the oldest record that a group has not committed, in ms since 1970: that at the
/// committed offset of each partition with lag. Nothing without lag, or where no broker told in
/// time.
///
/// # Errors
/// When brokers refuse.
pub async fn oldest(brokers: &Brokers, view: &View) -> Result<Option<i64>, ClientError> {
    let behind = |(at, end): (&(String, i32), &i64)| {
        let committed = *view.committed.get(at)?;
        (*end > committed).then(|| (end - committed, at.clone(), committed))
    };
    let mut behind: Vec<_> = view.ends.iter().filter_map(behind).collect();
    behind.sort_by_key(|(lag, ..)| std::cmp::Reverse(*lag));
    behind.truncate(MOST_LOOKED_AT);
    let mut waiting: BTreeMap<TopicPartition, i64> = behind
        .into_iter()
        .map(|(_, (topic, partition), committed)| {
            (TopicPartition::new(topic, partition), committed)
        })
        .collect();
    let config = ConsumerConfig {
        // What is gone already is older than anything that is there.
        reset: OffsetReset::Earliest,
        max_bytes: 1 << 20,
        partition_max_bytes: 16 << 10,
        ..ConsumerConfig::default()
    };
    let mut oldest_ms: Option<i64> = None;
    let deadline = clock::monotonic() + LOOK;
    while !waiting.is_empty() && clock::monotonic() < deadline {
        let mut consumer = Consumer::new(brokers.clone(), config.clone());
        let starts = waiting
            .iter()
            .map(|(at, offset)| (at.clone(), Start::Offset(*offset)));
        consumer.assign(starts);
        let left = deadline.saturating_duration_since(clock::monotonic());
        for record in consumer.poll(left).await? {
            // The first of its partition; what lies behind it came later.
            let at = TopicPartition::new(record.topic.to_string(), record.partition);
            if waiting.remove(&at).is_some() {
                let found_ms = record.timestamp_ms;
                oldest_ms = Some(oldest_ms.map_or(found_ms, |known_ms| known_ms.min(found_ms)));
            }
        }
    }
    Ok(oldest_ms.filter(|oldest_ms| *oldest_ms >= 0))
}

/// A group as it is, if it is.
///
/// # Errors
/// When brokers cannot be asked.
pub async fn observe(
    brokers: &Brokers,
    id: &str,
) -> Result<Option<(GroupDescription, View)>, ClientError> {
    let described = match brokers.describe_group(id).await {
        Err(error) if error.code() == Some(ErrorCode::GroupIdNotFound) => None,
        other => other?,
    };
    let Some(described) = described else {
        return Ok(None);
    };
    let committed = brokers.group_offsets(id).await?;
    let offsets: BTreeMap<(String, i32), i64> = committed
        .iter()
        .map(|(tp, committed)| ((tp.topic.clone(), tp.partition), committed.offset))
        .collect();
    let ends = listed(brokers, offsets.keys(), OffsetSpec::Latest).await?;
    let owned = described.members.iter().flat_map(|member| {
        let who = format!("{} at {}", member.client_id, member.host);
        let partitions = member.assignment.iter();
        partitions.map(move |at| ((at.topic.clone(), at.partition), who.clone()))
    });
    let view = View {
        members: i32::try_from(described.members.len()).unwrap_or(i32::MAX),
        committed: offsets,
        ends,
        oldest_ms: None,
        owners: owned.collect(),
    };
    Ok(Some((described, view)))
}

async fn listed(
    brokers: &Brokers,
    partitions: impl Iterator<Item = &(String, i32)>,
    spec: OffsetSpec,
) -> Result<BTreeMap<(String, i32), i64>, ClientError> {
    let wanted =
        partitions.map(|(topic, index)| (TopicPartition::new(topic.clone(), *index), spec));
    let found = brokers.list_offsets(&wanted.collect(), false).await?;
    let offset = found
        .into_iter()
        .map(|(tp, listed)| ((tp.topic, tp.partition), listed.offset));
    Ok(offset.collect())
}

/// Where it is kept which resets were begun and done, beside the cluster.
pub trait Memory {
    /// A group's last reset.
    fn read(&self) -> impl Future<Output = Result<Option<Record>, Error>> + Send;
    /// Writes it down; it is there after a crash when this returns.
    fn write(&self, record: &Record) -> impl Future<Output = Result<(), Error>> + Send;
}

/// Decides on a reset, and carries it out: a decision to apply, confirm or refuse is done and
/// written down when this returns.
///
/// # Errors
/// When brokers or the memory cannot be asked, or brokers refuse. What is wrong with the spec is
/// the inner error.
pub async fn reset(
    brokers: &Brokers,
    group: &ConsumerGroup,
    view: &View,
    memory: &impl Memory,
) -> Result<Result<Decision, Invalid>, Error> {
    let Some(spec) = &group.spec.reset else {
        return Ok(Ok(Decision::None));
    };
    let now_ms = clock::now_ms();
    let moves = match target(&spec.to, now_ms) {
        Ok(target) => moves(brokers, view, &spec.topics, target).await?,
        Err(invalid) => return Ok(Err(invalid)),
    };
    let record = memory.read().await?;
    let decision = match decide_reset(Some(spec), record.as_ref(), view, &moves, now_ms) {
        Ok(decision) => decision,
        Err(invalid) => return Ok(Err(invalid)),
    };
    let note = |phase, moves: &[Move]| Record {
        token: spec.token.clone(),
        phase,
        moves: moves.to_vec(),
    };
    match &decision {
        Decision::Apply(moves) => {
            memory.write(&note(Phase::Begun, moves)).await?;
            let offsets = moves.iter().map(|step| {
                let tp = TopicPartition::new(step.topic.clone(), step.partition);
                (tp, step.to)
            });
            let moved = brokers
                .alter_group_offsets(group.group_id(), &offsets.collect())
                .await;
            match moved {
                Ok(()) => {}
                // A member came in between: nothing was moved.
                Err(error) if error.code() == Some(ErrorCode::UnknownMemberId) => {
                    let text = "a member joined before the offsets were moved".to_owned();
                    return Ok(Ok(Decision::Wait(text)));
                }
                Err(error) => return Err(error.into()),
            }
            memory.write(&note(Phase::Applied, moves)).await?;
        }
        Decision::Confirm(moves) => memory.write(&note(Phase::Applied, moves)).await?,
        Decision::Refuse(_) => memory.write(&note(Phase::Refused, &[])).await?,
        _ => {}
    }
    Ok(Ok(decision))
}

/// Where each partition goes.
async fn moves(
    brokers: &Brokers,
    view: &View,
    topics: &[String],
    target: Target,
) -> Result<Vec<Move>, ClientError> {
    let chosen = |topic: &String| topics.is_empty() || topics.contains(topic);
    let about: Vec<(String, i32)> = view
        .committed
        .keys()
        .filter(|(topic, _)| chosen(topic))
        .cloned()
        .collect();
    let starts = listed(brokers, about.iter(), OffsetSpec::Earliest).await?;
    let at = match target {
        Target::At(ms) => listed(brokers, about.iter(), OffsetSpec::AtTime(ms)).await?,
        _ => BTreeMap::new(),
    };
    let place = |partition: &(String, i32)| {
        let from = view.committed.get(partition).copied();
        let (start, end) = (*starts.get(partition)?, *view.ends.get(partition)?);
        let to = match target {
            Target::Earliest => start,
            Target::Latest => end,
            // -1: no record is that late.
            Target::At(_) => at
                .get(partition)
                .copied()
                .filter(|o| *o >= 0)
                .unwrap_or(end),
            Target::Shift(by) => from?.saturating_add(by),
        };
        Some(Move {
            topic: partition.0.clone(),
            partition: partition.1,
            from,
            to: to.clamp(start, end.max(start)),
        })
    };
    Ok(about.iter().filter_map(place).collect())
}

/// The memory of resets. Which one was done stands with the group in the cluster, as a setting of it,
/// and is there however often the resources are made again; what it moves stands in a ConfigMap beside
/// the cluster.
struct Records<'a> {
    brokers: &'a Brokers,
    maps: Api<ConfigMap>,
    cluster: &'a Cluster,
    group: &'a str,
    token: &'a str,
    name: String,
}

impl<'a> Records<'a> {
    fn new(
        context: &Context,
        brokers: &'a Brokers,
        (cluster, group): (&'a Cluster, &'a str),
        token: &'a str,
    ) -> Self {
        let hash = XxHash64::oneshot(0, group.as_bytes());
        Self {
            brokers,
            maps: context.beside(cluster),
            name: format!("{}-reset-{hash:016x}", cluster.name_any()),
            cluster,
            group,
            token,
        }
    }

    async fn in_cluster(&self) -> Result<Option<Record>, Error> {
        let resource = ConfigResource::Group(self.group.to_owned());
        let settings = self.brokers.describe_configs(&resource).await?;
        let found = settings.into_iter().find(|setting| setting.name == RESET);
        let Some(text) = found.and_then(|setting| setting.value) else {
            return Ok(None);
        };
        // One that cannot be read may stand for a reset that was done.
        let record = serde_json::from_str(&text).map_err(|error| {
            let group = self.group;
            Error::Malformed(format!(
                "{RESET} of group {group} is not what the operator wrote: {error}"
            ))
        })?;
        Ok(Some(record))
    }

    async fn write_to_cluster(&self, record: &Record) -> Result<(), Error> {
        let bare = Record {
            moves: Vec::new(),
            ..record.clone()
        };
        let change = ConfigChange {
            name: RESET.to_owned(),
            op: ConfigOp::Set,
            value: Some(json!(bare).to_string()),
        };
        let resource = ConfigResource::Group(self.group.to_owned());
        Ok(self
            .brokers
            .alter_configs(&resource, &[change], false)
            .await?)
    }

    async fn beside(&self) -> Result<Option<Record>, Error> {
        let map = self.maps.get_opt(&self.name).await;
        let map = map.map_err(Error::kube("reading the resets of a group"))?;
        let Some(data) = map.and_then(|map| map.data) else {
            return Ok(None);
        };
        let text = data.get("record").map(String::as_str).unwrap_or_default();
        let record = serde_json::from_str(text).map_err(|error| {
            let name = &self.name;
            Error::Malformed(format!(
                "ConfigMap {name} is not what the operator wrote: {error}"
            ))
        })?;
        Ok(Some(record))
    }

    async fn put_beside(&self, record: &Record) -> Result<(), Error> {
        let owners: Vec<_> = self.cluster.controller_owner_ref(&()).into_iter().collect();
        let object = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": self.name,
                "labels": {CLUSTER: self.cluster.name_any()},
                "ownerReferences": owners,
            },
            "data": {"group": self.group, "record": json!(record).to_string()},
        });
        apply(&self.maps, &object).await.map(|_| ())
    }
}

impl Memory for Records<'_> {
    async fn read(&self) -> Result<Option<Record>, Error> {
        let (known, full) = (self.in_cluster().await?, self.beside().await?);
        Ok(recorded(self.token, known, full))
    }

    async fn write(&self, record: &Record) -> Result<(), Error> {
        // Before it is done all that it moves is written down, and after it was done the cluster is
        // the first to know.
        match record.phase {
            Phase::Begun => {
                self.put_beside(record).await?;
                self.write_to_cluster(record).await
            }
            Phase::Applied | Phase::Refused => {
                self.write_to_cluster(record).await?;
                self.put_beside(record).await
            }
        }
    }
}

/// A reset in a line.
#[must_use]
pub fn summary(moves: &[Move]) -> String {
    let on: i64 = moves
        .iter()
        .map(|step| step.to.saturating_sub(step.from.unwrap_or(0)))
        .sum();
    format!("{} partitions, {on:+} records", moves.len())
}

fn shown(moves: &[Move]) -> Vec<String> {
    let line = |step: &Move| {
        let from = step
            .from
            .map_or_else(|| "-".to_owned(), |from| from.to_string());
        format!("{}-{}: {from} to {}", step.topic, step.partition, step.to)
    };
    moves.iter().take(SHOWN).map(line).collect()
}

/// A reset as a status tells it, and whether it was done; `None` where the spec asks for none.
#[must_use]
pub fn reset_status(token: &str, decision: &Decision) -> Option<(ResetStatus, bool)> {
    let (phase, summary, plan) = match decision {
        Decision::None => return None,
        Decision::DryRun(moves) => ("DryRun", summary(moves), shown(moves)),
        Decision::Wait(text) => ("Waiting", text.clone(), vec![]),
        Decision::Refuse(text) => ("Refused", text.clone(), vec![]),
        Decision::Refused => ("Refused", "give another token to try again".into(), vec![]),
        Decision::Expired => ("Expired", "notAfter has passed".into(), vec![]),
        Decision::Apply(moves) | Decision::Confirm(moves) | Decision::Applied(moves) => {
            ("Applied", summary(moves), shown(moves))
        }
    };
    let status = ResetStatus {
        token: token.to_owned(),
        phase: phase.to_owned(),
        summary,
        plan,
    };
    Some((status, phase == "Applied"))
}

fn status(
    group: &ConsumerGroup,
    found: Result<Found, Invalid>,
    now_ms: i64,
) -> ConsumerGroupStatus {
    let generation = group.metadata.generation;
    let mut new = group.status.clone().unwrap_or_default();
    new.observed_generation = generation;
    let mut conditions = std::mem::take(&mut new.conditions);
    let mut set = |type_: &str, is: Option<bool>, reason: &str, text: &str| {
        let condition = condition(type_, is, reason, text, generation, now_ms);
        set_condition(&mut conditions, condition);
    };
    match found {
        Err(invalid) => {
            let accepted = match invalid.reason {
                "ClusterUnreachable" | "ClusterNotFound" => None,
                _ => Some(false),
            };
            set("Accepted", accepted, invalid.reason, &invalid.message);
            set("Ready", accepted, invalid.reason, &invalid.message);
            new.message = invalid.message;
        }
        Ok(found) => {
            let (mut behind, topics): (LagStatus, _) = lag(&found.view);
            let age_ms = found.view.oldest_ms.map(|oldest_ms| now_ms - oldest_ms);
            behind.time = age_ms.map(rounded);
            let seen = (&found.view, found.stuck.as_deref());
            new.message = String::new();
            set("Ready", Some(true), "Seen", "");
            for (type_, bound) in [
                (
                    "LagWithinBounds",
                    within_bounds(&group.spec, &behind, seen, now_ms),
                ),
                ("Populated", populated(&group.spec, found.view.members)),
            ] {
                let Some((well, reason, text)) = bound else {
                    continue;
                };
                set(type_, Some(well), reason, &text);
                if !well {
                    new.message = text;
                }
            }
            let token = group.spec.reset.as_ref().map(|reset| reset.token.as_str());
            new.reset = None;
            match &found.decision {
                Ok(decision) => {
                    set("Accepted", Some(true), "Valid", "");
                    if let Some((reset, applied)) =
                        reset_status(token.unwrap_or_default(), decision)
                    {
                        set("ResetApplied", Some(applied), &reset.phase, &reset.summary);
                        if !applied {
                            new.message = format!("reset {}: {}", reset.token, reset.summary);
                        }
                        new.reset = Some(reset);
                    }
                }
                Err(invalid) => {
                    set("Accepted", Some(false), invalid.reason, &invalid.message);
                    new.message.clone_from(&invalid.message);
                }
            }
            new.state = found.state;
            new.group_type = found.group_type;
            new.coordinator = found.coordinator;
            new.members = found.view.members;
            new.lag = Some(behind);
            new.topics = topics;
        }
    }
    // What the spec does not ask for any more is not told any more.
    let spec = &group.spec;
    conditions.retain(|condition| match condition.type_.as_str() {
        "LagWithinBounds" => spec.lag.is_some(),
        "Populated" => spec.min_members.is_some(),
        "ResetApplied" => spec.reset.is_some(),
        _ => true,
    });
    new.conditions = conditions;
    new
}
