//! What to say of a group, and when to move its offsets; pure.
//!
//! A reset is done once. What was begun is written down before the group's offsets are
//! touched ([`Record`]), and what was begun and not seen to end is judged by the
//! offsets themselves: all are where the record says they were, or they have been moved.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ConsumerGroupSpec, LagStatus, Reset, ResetTo, WhenActive};
use crate::common::{Invalid, moment_ms};
use crate::units::{Limit, duration_ms, rounded};

/// Offsets by topic and partition.
pub type Offsets = BTreeMap<(String, i32), i64>;

/// A group and its partitions, as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// How many members.
    pub members: i32,
    /// What it has committed.
    pub committed: Offsets,
    /// Where those partitions end.
    pub ends: Offsets,
    /// The oldest record that is there and not committed, in ms since 1970, where brokers told.
    pub oldest_ms: Option<i64>,
    /// The member that each partition is assigned to, as people know it.
    pub owners: BTreeMap<(String, i32), String>,
}

/// Where the partitions stand that a group with members has lag in, and since when it is seen to
/// stand there: offset, and ms since 1970.
pub type Standing = BTreeMap<(String, i32), (i64, i64)>;

/// Where a group stands now, given where it was seen to stand `before`.
#[must_use]
pub fn standing(before: &Standing, view: &View, now_ms: i64) -> Standing {
    if view.members == 0 {
        return Standing::new();
    }
    let stands = |(at, end): (&(String, i32), &i64)| {
        let committed = *view.committed.get(at)?;
        let known = before.get(at).filter(|(offset, _)| *offset == committed);
        let since_ms = known.map_or(now_ms, |(_, since_ms)| *since_ms);
        (*end > committed).then(|| (at.clone(), (committed, since_ms)))
    };
    view.ends.iter().filter_map(stands).collect()
}

/// What a group does not get on in, in a sentence; nothing while it does, or the spec does not ask.
#[must_use]
pub fn stuck(
    spec: &ConsumerGroupSpec,
    view: &View,
    standing: &Standing,
    now_ms: i64,
) -> Option<String> {
    let bound = &spec.lag.as_ref()?.stuck_after;
    // Checked before, by validate.
    let Ok(Limit::Of(most_ms)) = duration_ms(bound) else {
        return None;
    };
    let long = standing
        .iter()
        .filter(|(_, (_, since_ms))| now_ms - since_ms >= most_ms);
    let count = long.clone().count();
    let (at, (offset, _)) = long.min_by_key(|(_, (_, since_ms))| *since_ms)?;
    let (topic, partition) = at;
    let who = match view.owners.get(at) {
        Some(owner) => format!("{owner} has it"),
        None => "no member has it".to_owned(),
    };
    let others = match count {
        1 => String::new(),
        _ => format!("; others that stand: {}", count - 1),
    };
    Some(format!(
        "{topic}-{partition} stands at offset {offset} for more than {bound}, and {who}{others}"
    ))
}

/// How far behind a group is, and in which topics.
#[must_use]
pub fn lag(view: &View) -> (LagStatus, BTreeMap<String, i64>) {
    let mut total: i64 = 0;
    let mut topics: BTreeMap<String, i64> = BTreeMap::new();
    let mut worst: Option<(i64, String)> = None;
    for ((topic, partition), end) in &view.ends {
        let Some(committed) = view.committed.get(&(topic.clone(), *partition)) else {
            continue;
        };
        // An end that was asked for a moment earlier may be behind the offset.
        let lag = end.saturating_sub(*committed).max(0);
        total = total.saturating_add(lag);
        let of_topic = topics.entry(topic.clone()).or_default();
        *of_topic = of_topic.saturating_add(lag);
        if lag > 0 && worst.as_ref().is_none_or(|(most, _)| lag > *most) {
            worst = Some((lag, format!("{topic}-{partition}")));
        }
    }
    let status = LagStatus {
        records: total,
        time: None,
        worst: worst.map(|(_, partition)| partition),
    };
    (status, topics)
}

/// Whether the lag is within bounds, with a reason; `None` where there are no bounds. `stuck` is
/// what the group does not get on in.
#[must_use]
pub fn within_bounds(
    spec: &ConsumerGroupSpec,
    lag: &LagStatus,
    (view, stuck): (&View, Option<&str>),
    now_ms: i64,
) -> Option<(bool, &'static str, String)> {
    let bounds = spec.lag.as_ref()?;
    if let Some(stuck) = stuck {
        return Some((false, "Stuck", stuck.to_owned()));
    }
    let mut text = format!("{} records behind", lag.records);
    if let Some(most) = bounds.records {
        text.push_str(&format!(", {most} are allowed"));
        if lag.records > most {
            return Some((false, "TooFarBehind", text));
        }
    }
    if let (Some(most), Some(oldest_ms)) = (&bounds.time, view.oldest_ms)
        && let Ok(Limit::Of(most_ms)) = duration_ms(most)
        && now_ms - oldest_ms > most_ms
    {
        let age = rounded(now_ms - oldest_ms);
        let text = format!("the oldest record that was not read is {age} old, {most} are allowed");
        return Some((false, "TooOld", text));
    }
    Some((true, "WithinBounds", text))
}

/// Whether there are members enough, with a reason; `None` where the spec does not say.
#[must_use]
pub fn populated(spec: &ConsumerGroupSpec, members: i32) -> Option<(bool, &'static str, String)> {
    let least = spec.min_members?;
    let text = format!("{members} members, {least} are wanted");
    Some(match members < least {
        true => (false, "TooFewMembers", text),
        false => (true, "EnoughMembers", text),
    })
}

/// Where a reset goes, for whoever asks the brokers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The log start.
    Earliest,
    /// The high watermark.
    Latest,
    /// The first record at or after a moment, in ms since 1970.
    At(i64),
    /// From where the group is.
    Shift(i64),
}

/// Checks what the schema cannot.
///
/// # Errors
/// The first thing that is wrong.
pub fn validate(group_id: &str, spec: &ConsumerGroupSpec) -> Result<(), Invalid> {
    if group_id.is_empty() {
        return Err(Invalid::new("InvalidName", "a group has a name"));
    }
    if let Some(bounds) = &spec.lag {
        let stuck_after = Some(&bounds.stuck_after);
        for (field, text) in [("time", bounds.time.as_ref()), ("stuckAfter", stuck_after)] {
            if let Some(Err(error)) = text.map(|text| duration_ms(text)) {
                let text = format!("lag.{field}: {error}");
                return Err(Invalid::new("InvalidUnit", text));
            }
        }
    }
    if let Some(reset) = &spec.reset {
        target(&reset.to, 0)?;
        deadline(reset)?;
    }
    Ok(())
}

/// Checks what may not change in a ConsumerGroup, as its rules do.
///
/// # Errors
/// The first thing that may not.
pub fn validate_change(old: &ConsumerGroupSpec, new: &ConsumerGroupSpec) -> Result<(), Invalid> {
    let refuse = |text: &str| Err(Invalid::new("Immutable", text));
    if old.cluster_ref != new.cluster_ref {
        return refuse("clusterRef cannot change: make another ConsumerGroup");
    }
    if old.group_id != new.group_id {
        return refuse("groupId cannot change: make another ConsumerGroup");
    }
    Ok(())
}

fn deadline(reset: &Reset) -> Result<Option<i64>, Invalid> {
    reset.not_after.as_deref().map(moment_ms).transpose()
}

/// Where a reset goes.
///
/// # Errors
/// When it says nothing, or several things.
pub fn target(to: &ResetTo, now_ms: i64) -> Result<Target, Invalid> {
    let one = || {
        Invalid::new(
            "InvalidReset",
            "reset.to: give one of earliest, latest, time, ago and shift",
        )
    };
    let mut targets = Vec::new();
    if to.earliest == Some(true) {
        targets.push(Target::Earliest);
    }
    if to.latest == Some(true) {
        targets.push(Target::Latest);
    }
    if let Some(text) = &to.time {
        targets.push(Target::At(moment_ms(text)?));
    }
    if let Some(text) = &to.ago {
        match duration_ms(text) {
            Ok(Limit::Of(ms)) => targets.push(Target::At(now_ms.saturating_sub(ms).max(0))),
            Ok(Limit::Unlimited) => targets.push(Target::Earliest),
            Err(error) => return Err(Invalid::new("InvalidUnit", error.to_string())),
        }
    }
    if let Some(records) = to.shift {
        targets.push(Target::Shift(records));
    }
    match targets.as_slice() {
        [target] => Ok(*target),
        _ => Err(one()),
    }
}

/// One partition's move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// Where the group was; `None` where it had committed nothing.
    pub from: Option<i64>,
    /// Where it goes.
    pub to: i64,
}

/// How far a reset is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// It was begun; whether it was done is not known.
    Begun,
    /// It was done.
    Applied,
    /// It is not done any more.
    Refused,
}

/// What is kept of a group's last reset, in the cluster and not in a status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Which.
    pub token: String,
    /// How far it is.
    pub phase: Phase,
    /// What it moves; nothing where that is not known any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moves: Vec<Move>,
}

/// What is known of a reset from what stands in the cluster, with the group, and from what stands
/// beside it with all its moves, and may be lost.
#[must_use]
pub fn recorded(token: &str, in_cluster: Option<Record>, beside: Option<Record>) -> Option<Record> {
    let of_token = |record: &Record| record.token == token;
    match (in_cluster.filter(of_token), beside.filter(of_token)) {
        (Some(known), Some(full)) if full.phase != Phase::Applied => Some(Record {
            phase: known.phase,
            ..full
        }),
        (known, full) => full.or(known),
    }
}

/// What to do about a reset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The spec asks for none.
    None,
    /// Show it.
    DryRun(Vec<Move>),
    /// Not yet, and why.
    Wait(String),
    /// Write down that it is begun, move the offsets, write down that it is done.
    Apply(Vec<Move>),
    /// Write down that it was done: the offsets say so.
    Confirm(Vec<Move>),
    /// Write down that this token is not to be done, and why.
    Refuse(String),
    /// Its time is over.
    Expired,
    /// It was done already.
    Applied(Vec<Move>),
    /// It was refused already.
    Refused,
}

/// Decides on a reset. `moves` is where its target is now, for each partition it is about.
///
/// # Errors
/// What is wrong with the spec.
pub fn decide_reset(
    reset: Option<&Reset>,
    record: Option<&Record>,
    view: &View,
    moves: &[Move],
    now_ms: i64,
) -> Result<Decision, Invalid> {
    let Some(reset) = reset else {
        return Ok(Decision::None);
    };
    let begun = match record.filter(|record| record.token == reset.token) {
        Some(record) => match record.phase {
            Phase::Applied => return Ok(Decision::Applied(record.moves.clone())),
            Phase::Refused => return Ok(Decision::Refused),
            Phase::Begun => Some(record),
        },
        None => None,
    };
    if begun.is_some_and(|record| record.moves.is_empty()) {
        let text = "it was begun, and what it was to move is not known any more, so that it may have been done: look at the group's offsets, and give another token";
        return Ok(Decision::Refuse(text.to_owned()));
    }
    if let Some(record) = begun
        && moved(record, view)
    {
        return Ok(Decision::Confirm(record.moves.clone()));
    }
    if reset.dry_run {
        return Ok(Decision::DryRun(moves.to_vec()));
    }
    if deadline(reset)?.is_some_and(|deadline| now_ms > deadline) {
        return Ok(Decision::Expired);
    }
    if view.members > 0 {
        let text = format!(
            "the group has {} members, who would commit over it",
            view.members
        );
        return Ok(match reset.when_active {
            WhenActive::Wait => Decision::Wait(text),
            WhenActive::Refuse => Decision::Refuse(text),
        });
    }
    // What was begun is done as it was written down, so that a repetition is the same.
    let moves = begun.map_or(moves, |record| &record.moves);
    if moves.is_empty() {
        return Ok(Decision::Wait(
            "the group has committed nothing in these topics".to_owned(),
        ));
    }
    Ok(Decision::Apply(moves.to_vec()))
}

/// Whether any of the offsets is not where it was: they are committed in one batch, so that one
/// that moved says that all did.
fn moved(record: &Record, view: &View) -> bool {
    record.moves.iter().any(|step| {
        let now = view.committed.get(&(step.topic.clone(), step.partition));
        step.from != Some(step.to) && now.copied() != step.from
    })
}
