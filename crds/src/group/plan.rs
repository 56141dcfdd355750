//! What to say of a group, and when to move its offsets; pure.
//!
//! A reset is done once. What was begun is written down beside the cluster before the group's
//! offsets are touched ([`Record`]), and what was begun and not seen to end is judged by the
//! offsets themselves: all are where the record says they were, or they have been moved.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{ConsumerGroupSpec, LagStatus, Reset, ResetTo, WhenActive};
use crate::common::Invalid;
use crate::units::{Limit, duration_ms};

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
        worst: worst.map(|(_, partition)| partition),
    };
    (status, topics)
}

/// Whether the lag is within bounds, with a reason; `None` where there are no bounds.
#[must_use]
pub fn within_bounds(
    spec: &ConsumerGroupSpec,
    lag: &LagStatus,
) -> Option<(bool, &'static str, String)> {
    let bound = spec.lag.as_ref()?.records;
    let behind = format!("{} records behind, {bound} are allowed", lag.records);
    Some(match lag.records > bound {
        true => (false, "TooFarBehind", behind),
        false => (true, "WithinBounds", behind),
    })
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

fn moment(text: &str) -> Result<i64, Invalid> {
    let parsed: Result<Timestamp, _> = text.parse();
    parsed.map(Timestamp::as_millisecond).map_err(|_| {
        let says = format!("'{text}' is no moment in time: write it as 2026-11-25T12:00:00Z");
        Invalid::new("InvalidTime", says)
    })
}

fn deadline(reset: &Reset) -> Result<Option<i64>, Invalid> {
    reset.not_after.as_deref().map(moment).transpose()
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
        targets.push(Target::At(moment(text)?));
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

/// What is kept of a group's last reset, beside the cluster and not in a status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Which.
    pub token: String,
    /// How far it is.
    pub phase: Phase,
    /// What it moves.
    pub moves: Vec<Move>,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::ClusterRef;

    fn spec() -> ConsumerGroupSpec {
        ConsumerGroupSpec {
            cluster_ref: ClusterRef {
                name: "orders".into(),
            },
            group_id: None,
            min_members: None,
            lag: None,
            reset: None,
        }
    }

    fn offsets(all: &[(i32, i64)]) -> Offsets {
        let offset = |(partition, offset): &(i32, i64)| (("t".to_owned(), *partition), *offset);
        all.iter().map(offset).collect()
    }

    fn reset(dry_run: bool) -> Reset {
        Reset {
            token: "one".into(),
            not_after: None,
            topics: vec![],
            to: ResetTo {
                earliest: Some(true),
                ..ResetTo::default()
            },
            dry_run,
            when_active: WhenActive::Wait,
        }
    }

    fn view(members: i32, committed: i64) -> View {
        View {
            members,
            committed: offsets(&[(0, committed)]),
            ends: offsets(&[(0, 100)]),
        }
    }

    fn moves() -> Vec<Move> {
        vec![Move {
            topic: "t".into(),
            partition: 0,
            from: Some(60),
            to: 0,
        }]
    }

    fn record(phase: Phase) -> Record {
        Record {
            token: "one".into(),
            phase,
            moves: moves(),
        }
    }

    fn decide(reset: &Reset, record: Option<&Record>, view: &View) -> Decision {
        decide_reset(Some(reset), record, view, &moves(), 1_000).expect("a good spec")
    }

    #[test]
    fn lag_is_counted_where_something_is_committed() {
        let view = View {
            members: 1,
            committed: offsets(&[(0, 40), (1, 7), (2, 9)]),
            ends: offsets(&[(0, 100), (1, 7), (2, 8), (3, 1_000)]),
        };
        let (status, topics) = lag(&view);
        assert_eq!(status.records, 60);
        assert_eq!(status.worst.as_deref(), Some("t-0"));
        assert_eq!(topics, [("t".to_owned(), 60)].into());
    }

    #[test]
    fn bounds_are_told_on_both_sides() {
        let bounded = ConsumerGroupSpec {
            lag: Some(super::super::LagBounds { records: 10 }),
            min_members: Some(2),
            ..spec()
        };
        let of = |records| LagStatus {
            records,
            worst: None,
        };
        let lag = |records| within_bounds(&bounded, &of(records)).map(|(well, why, _)| (well, why));
        assert_eq!(lag(10), Some((true, "WithinBounds")));
        assert_eq!(lag(11), Some((false, "TooFarBehind")));
        assert_eq!(within_bounds(&spec(), &of(11)), None);
        let members = |count| populated(&bounded, count).map(|(well, why, _)| (well, why));
        assert_eq!(members(2), Some((true, "EnoughMembers")));
        assert_eq!(members(1), Some((false, "TooFewMembers")));
        assert_eq!(populated(&spec(), 0), None);
    }

    #[test]
    fn a_dry_run_shows_and_does_not_use_up_the_token() {
        let empty = view(0, 60);
        assert_eq!(
            decide(&reset(true), None, &empty),
            Decision::DryRun(moves())
        );
        // The same token then runs.
        assert_eq!(
            decide(&reset(false), None, &empty),
            Decision::Apply(moves())
        );
    }

    #[test]
    fn a_reset_is_done_once() {
        let applied = record(Phase::Applied);
        // The group has moved on since, even to where it was.
        for committed in [0, 60, 80] {
            let decision = decide(&reset(false), Some(&applied), &view(0, committed));
            assert_eq!(decision, Decision::Applied(moves()));
        }
        let mut next = reset(false);
        next.token = "two".into();
        assert_eq!(
            decide(&next, Some(&applied), &view(0, 60)),
            Decision::Apply(moves())
        );
    }

    #[test]
    fn a_reset_that_was_cut_short_is_judged_by_the_offsets() {
        let begun = record(Phase::Begun);
        let of =
            |members, committed| decide(&reset(false), Some(&begun), &view(members, committed));
        assert_eq!(of(0, 60), Decision::Apply(moves()));
        assert_eq!(of(0, 0), Decision::Confirm(moves()));
        // Members came and went on from there.
        assert_eq!(of(3, 10), Decision::Confirm(moves()));
        // They came before it was done.
        assert!(matches!(of(3, 60), Decision::Wait(_)));
        // Somebody made it a dry run meanwhile: what was done stands, and what was not is not.
        assert_eq!(
            decide(&reset(true), Some(&begun), &view(0, 60)),
            Decision::DryRun(moves())
        );
        let decision = decide(&reset(true), Some(&begun), &view(0, 0));
        assert_eq!(decision, Decision::Confirm(moves()));
    }

    #[test]
    fn a_group_with_members_is_waited_for_or_refused() {
        let mut reset = reset(false);
        assert!(matches!(
            decide(&reset, None, &view(2, 60)),
            Decision::Wait(_)
        ));
        reset.when_active = WhenActive::Refuse;
        assert!(matches!(
            decide(&reset, None, &view(2, 60)),
            Decision::Refuse(_)
        ));
        let refused = record(Phase::Refused);
        assert_eq!(
            decide(&reset, Some(&refused), &view(0, 60)),
            Decision::Refused
        );
    }

    #[test]
    fn a_reset_has_its_time() {
        let mut late = reset(false);
        late.not_after = Some("1970-01-01T00:00:00.999Z".into());
        assert_eq!(decide(&late, None, &view(0, 60)), Decision::Expired);
        late.not_after = Some("1970-01-01T00:00:01Z".into());
        assert_eq!(decide(&late, None, &view(0, 60)), Decision::Apply(moves()));
    }

    #[test]
    fn there_is_one_target() {
        let to = |change: &dyn Fn(&mut ResetTo)| {
            let mut to = ResetTo::default();
            change(&mut to);
            target(&to, 10_000)
        };
        assert_eq!(to(&|t| t.ago = Some("4s".into())), Ok(Target::At(6_000)));
        assert_eq!(to(&|t| t.shift = Some(-5)), Ok(Target::Shift(-5)));
        assert_eq!(
            to(&|t| t.time = Some("1970-01-01T00:00:02Z".into())),
            Ok(Target::At(2_000))
        );
        let reason = |change: &dyn Fn(&mut ResetTo)| to(change).expect_err("refused").reason;
        assert_eq!(reason(&|_| ()), "InvalidReset");
        assert_eq!(
            reason(&|t| (t.earliest, t.shift) = (Some(true), Some(1))),
            "InvalidReset"
        );
        assert_eq!(reason(&|t| t.time = Some("noon".into())), "InvalidTime");
        assert_eq!(reason(&|t| t.ago = Some("6w".into())), "InvalidUnit");
    }
}
