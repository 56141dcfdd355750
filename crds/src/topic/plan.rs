//! What to do about a topic: what is there and what is wanted in, steps out; pure.

use std::collections::BTreeMap;
use std::fmt;

use super::{Existing, ManagementPolicy, Wanted};
use crate::common::Invalid;
use crate::units::Limit;

/// A topic as it is in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actual {
    /// Its id.
    pub id: String,
    /// How many partitions.
    pub partitions: i32,
    /// The fewest replicas of a partition.
    pub replicas: i32,
    /// All settings in force.
    pub settings: BTreeMap<String, Setting>,
}

/// A setting in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its value.
    pub value: String,
    /// Whether it was set on the topic, rather than being a default.
    pub on_topic: bool,
}

/// Who claims a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// When the resource was made, in ms since 1970.
    pub created_ms: i64,
    /// Its uid.
    pub uid: String,
    /// Its name.
    pub name: String,
}

/// Of all resources that claim a name in a cluster, the one that has it: the oldest. It does not
/// depend on what an operator saw first, or remembers.
#[must_use]
pub fn owner_of(claims: &[Owner]) -> Option<&Owner> {
    claims.iter().min()
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make the topic.
    Create {
        /// With so many partitions.
        partitions: i32,
        /// And replicas, if the spec says.
        replicas: Option<i32>,
        /// And settings.
        settings: BTreeMap<String, String>,
    },
    /// Give it more partitions.
    Grow {
        /// So many in all.
        to: i32,
    },
    /// Change settings: a value, or back to the default.
    Alter(BTreeMap<String, Option<String>>),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create {
                partitions,
                replicas,
                settings,
            } => {
                let plural = if *partitions == 1 { "" } else { "s" };
                write!(f, "made with {partitions} partition{plural}")?;
                if let Some(replicas) = replicas {
                    write!(f, ", replicas={replicas}")?;
                }
                settings
                    .iter()
                    .try_for_each(|(name, value)| write!(f, ", {name}={value}"))
            }
            Self::Grow { to } => write!(f, "grown to {to} partitions"),
            Self::Alter(changes) => {
                let each = changes.iter().map(|(name, value)| match value {
                    Some(value) => format!("{name}={value}"),
                    None => format!("{name} back to the default"),
                });
                f.write_str(&each.collect::<Vec<_>>().join(", "))
            }
        }
    }
}

/// A difference that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// The setting, or `replicas`, or `partitions`.
    pub what: String,
    /// What it is.
    pub actual: String,
    /// What it should be; `None` is the default.
    pub wanted: Option<String>,
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wanted = self.wanted.as_deref().unwrap_or("the default");
        write!(f, "{} is {}, not {wanted}", self.what, self.actual)
    }
}

/// A change that would delete records, and waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// The change.
    pub change: Drift,
    /// What it would do.
    pub effect: &'static str,
}

impl fmt::Display for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.change, self.effect)
    }
}

/// What to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// To be done now, in this order.
    pub steps: Vec<Step>,
    /// To be done after somebody approved it.
    pub pending: Vec<Pending>,
    /// What differs and stays so.
    pub drift: Vec<Drift>,
}

impl Plan {
    /// Names the changes that wait, so that an approval of these is none of others.
    #[must_use]
    pub fn pending_id(&self) -> Option<String> {
        if self.pending.is_empty() {
            return None;
        }
        // FNV-1a: short, and the same in every build.
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        for pending in &self.pending {
            for byte in pending.to_string().bytes().chain([0]) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        Some(format!("t-{:08x}", (hash >> 32) ^ (hash & 0xffff_ffff)))
    }
}

/// Plans. `known_id` is the id under which the operator knew the topic, and `approved` what the
/// resource's annotation says.
///
/// # Errors
/// Why nothing is to be done.
pub fn plan(
    wanted: &Wanted,
    actual: Option<&Actual>,
    (existing, policy): (Existing, ManagementPolicy),
    known_id: Option<&str>,
    approved: Option<&str>,
) -> Result<Plan, Invalid> {
    let observe = policy == ManagementPolicy::Observe;
    let Some(actual) = actual else {
        if observe {
            return Err(Invalid::new(
                "NotFound",
                format!("there is no topic {}, and it is only observed", wanted.name),
            ));
        }
        return Ok(Plan {
            steps: vec![Step::Create {
                partitions: wanted.partitions,
                replicas: wanted.replicas,
                settings: wanted.settings.clone(),
            }],
            ..Plan::default()
        });
    };
    if known_id.is_none() && existing == Existing::Refuse && !observe {
        return Err(Invalid::new(
            "Exists",
            format!(
                "there is a topic {} already: existing: Adopt takes it over",
                wanted.name
            ),
        ));
    }
    if actual.partitions > wanted.partitions && !observe {
        return Err(Invalid::new(
            "PartitionsBelowActual",
            format!(
                "the topic has {} partitions, and none can be taken away: say so in the spec",
                actual.partitions
            ),
        ));
    }
    let mut plan = differences(wanted, actual);
    if observe {
        let drift = std::mem::take(&mut plan);
        plan.drift = drift.into_drift(wanted, actual);
        return Ok(plan);
    }
    if plan.pending_id().as_deref() == approved && approved.is_some() {
        let changes = std::mem::take(&mut plan.pending);
        let approved = changes
            .into_iter()
            .map(|p| (p.change.what, p.change.wanted));
        plan.alter(approved.collect());
    }
    Ok(plan)
}

impl Plan {
    fn alter(&mut self, changes: BTreeMap<String, Option<String>>) {
        if changes.is_empty() {
            return;
        }
        match self.steps.iter_mut().find_map(|step| match step {
            Step::Alter(all) => Some(all),
            _ => None,
        }) {
            Some(all) => all.extend(changes),
            None => self.steps.push(Step::Alter(changes)),
        }
    }

    /// Everything as mere differences.
    fn into_drift(self, wanted: &Wanted, actual: &Actual) -> Vec<Drift> {
        let mut drift = self.drift;
        if wanted.partitions != actual.partitions {
            drift.push(Drift {
                what: "partitions".into(),
                actual: actual.partitions.to_string(),
                wanted: Some(wanted.partitions.to_string()),
            });
        }
        for step in self.steps {
            if let Step::Alter(changes) = step {
                drift.extend(changes.into_iter().map(|(what, wanted)| Drift {
                    actual: value_of(actual, &what),
                    what,
                    wanted,
                }));
            }
        }
        drift.extend(self.pending.into_iter().map(|pending| pending.change));
        drift
    }
}

fn value_of(actual: &Actual, name: &str) -> String {
    let setting = actual.settings.get(name);
    setting.map_or_else(|| "not set".to_owned(), |setting| setting.value.clone())
}

fn differences(wanted: &Wanted, actual: &Actual) -> Plan {
    let mut plan = Plan::default();
    if let Some(replicas) = wanted.replicas
        && replicas != actual.replicas
    {
        plan.drift.push(Drift {
            what: "replicas".into(),
            actual: actual.replicas.to_string(),
            wanted: Some(replicas.to_string()),
        });
    }
    if actual.partitions < wanted.partitions {
        plan.steps.push(Step::Grow {
            to: wanted.partitions,
        });
    }
    let mut changes = BTreeMap::new();
    for (name, value) in &wanted.settings {
        let is_so = actual
            .settings
            .get(name)
            .is_some_and(|setting| setting.on_topic && same(name, &setting.value, value));
        if !is_so {
            changes.insert(name.clone(), Some(value.clone()));
        }
    }
    for (name, setting) in &actual.settings {
        if setting.on_topic && !wanted.settings.contains_key(name) {
            changes.insert(name.clone(), None);
        }
    }
    for (name, value) in std::mem::take(&mut changes) {
        match effect(&name, actual, value.as_deref()) {
            Some(effect) => plan.pending.push(Pending {
                change: Drift {
                    actual: value_of(actual, &name),
                    what: name,
                    wanted: value,
                },
                effect,
            }),
            None => {
                changes.insert(name, value);
            }
        }
    }
    plan.alter(changes);
    plan
}

/// Whether two values say the same: lists do in any order.
fn same(name: &str, one: &str, other: &str) -> bool {
    if name == "cleanup.policy" {
        return policies(one) == policies(other);
    }
    one.trim() == other.trim()
}

fn policies(value: &str) -> Vec<&str> {
    let mut all: Vec<&str> = value.split(',').map(str::trim).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// What a change would delete, if anything.
fn effect(name: &str, actual: &Actual, value: Option<&str>) -> Option<&'static str> {
    let now = actual.settings.get(name)?.value.as_str();
    match name {
        "retention.ms" | "retention.bytes" => {
            let lowered = "records beyond the new limit would be deleted";
            // What the default is, only the broker knows.
            let Some(value) = value else {
                return Some("records beyond the cluster's default would be deleted");
            };
            let (now, value) = (now.trim().parse().ok()?, value.trim().parse().ok()?);
            (Limit::from_kafka(value) < Limit::from_kafka(now)).then_some(lowered)
        }
        "cleanup.policy" => {
            let Some(value) = value else {
                return Some("records would be deleted by the cluster's default");
            };
            let had = policies(now);
            let gains = |policy| policies(value).contains(&policy) && !had.contains(&policy);
            if gains("delete") {
                return Some("old records would be deleted");
            }
            gains("compact").then_some("all but the newest record of each key would be deleted")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::validate::tests::spec;
    use super::*;
    use crate::topic::{Cleanup, TopicSpec, validate};

    fn wanted(spec: &TopicSpec) -> Wanted {
        validate("t", spec).expect("a good spec")
    }

    fn actual(partitions: i32, settings: &[(&str, &str, bool)]) -> Actual {
        let setting = |(name, value, on_topic): &(&str, &str, bool)| {
            let setting = Setting {
                value: (*value).to_owned(),
                on_topic: *on_topic,
            };
            ((*name).to_owned(), setting)
        };
        Actual {
            id: "A".into(),
            partitions,
            replicas: 3,
            settings: settings.iter().map(setting).collect(),
        }
    }

    fn full(wanted: &Wanted, actual: Option<&Actual>) -> Result<Plan, Invalid> {
        plan(wanted, actual, Default::default(), None, None)
    }

    fn retention(text: &str) -> Wanted {
        wanted(&TopicSpec {
            retention: Some(text.into()),
            ..spec()
        })
    }

    fn alter(name: &str, value: Option<&str>) -> Step {
        Step::Alter([(name.to_owned(), value.map(str::to_owned))].into())
    }

    #[test]
    fn what_is_missing_is_made() {
        let plan = full(&retention("1s"), None).expect("a plan");
        assert_eq!(
            plan.steps,
            [Step::Create {
                partitions: 3,
                replicas: None,
                settings: [("retention.ms".to_owned(), "1000".to_owned())].into(),
            }]
        );
    }

    #[test]
    fn what_is_as_it_should_be_is_left_alone() {
        let settings = [
            ("retention.ms", "1000", true),
            ("segment.bytes", "5", false),
        ];
        let plan = full(&retention("1s"), Some(&actual(3, &settings)));
        assert_eq!(plan, Ok(Plan::default()));
        // A list is the same in any order.
        let both = wanted(&TopicSpec {
            cleanup: Some(Cleanup::CompactAndDelete),
            ..spec()
        });
        let settings = [("cleanup.policy", "delete, compact", true)];
        assert_eq!(
            full(&both, Some(&actual(3, &settings))),
            Ok(Plan::default())
        );
    }

    #[test]
    fn partitions_grow_and_never_shrink() {
        let wanted = wanted(&spec());
        let plan = full(&wanted, Some(&actual(1, &[]))).expect("a plan");
        assert_eq!(plan.steps, [Step::Grow { to: 3 }]);
        let refused = full(&wanted, Some(&actual(4, &[]))).expect_err("refused");
        assert_eq!(refused.reason, "PartitionsBelowActual");
    }

    #[test]
    fn drift_is_mended() {
        // Somebody changed one of ours, and set one that the spec does not name.
        let settings = [
            ("retention.ms", "500", true),
            ("segment.bytes", "1048576", true),
        ];
        let plan = full(&retention("1s"), Some(&actual(3, &settings))).expect("a plan");
        let changes = [
            ("retention.ms".to_owned(), Some("1000".to_owned())),
            ("segment.bytes".to_owned(), None),
        ];
        assert_eq!(plan.steps, [Step::Alter(changes.into())]);
        assert_eq!(plan.pending, []);
    }

    #[test]
    fn what_would_delete_records_waits() {
        // From, to, whether it waits.
        for (now, then, waits) in [
            ("1000", "2s", false),
            ("2000", "1s", true),
            ("-1", "9999d", true),
            ("1000", "unlimited", false),
        ] {
            let actual = actual(3, &[("retention.ms", now, true)]);
            let plan = full(&retention(then), Some(&actual)).expect("a plan");
            assert_eq!(plan.pending.len(), usize::from(waits), "{now} to {then}");
            assert_eq!(plan.steps.is_empty(), waits, "{now} to {then}");
        }
        // A default that is lower than what the topic has now, too: adopting would delete.
        let adopted = actual(3, &[("retention.ms", "604800000", false)]);
        let plan = full(&retention("1s"), Some(&adopted)).expect("a plan");
        assert_eq!(plan.pending.len(), 1);
        // And going back to a default that is not known.
        let plan = full(
            &wanted(&spec()),
            Some(&actual(3, &[("retention.ms", "5", true)])),
        );
        assert_eq!(plan.expect("a plan").pending.len(), 1);
    }

    #[test]
    fn a_policy_that_deletes_more_waits() {
        for (now, then, waits) in [
            ("delete", Cleanup::Compact, true),
            ("compact", Cleanup::Delete, true),
            ("compact", Cleanup::CompactAndDelete, true),
            ("compact,delete", Cleanup::Delete, false),
            ("compact,delete", Cleanup::Compact, false),
        ] {
            let wanted = wanted(&TopicSpec {
                cleanup: Some(then),
                ..spec()
            });
            let plan = full(&wanted, Some(&actual(3, &[("cleanup.policy", now, true)])));
            let pending = plan.expect("a plan").pending;
            assert_eq!(pending.len(), usize::from(waits), "{now} to {then:?}");
        }
    }

    #[test]
    fn an_approval_is_of_these_changes_and_no_others() {
        let actual = actual(3, &[("retention.ms", "5000", true)]);
        let approve = |wanted: &Wanted, id: Option<&str>| {
            plan(wanted, Some(&actual), Default::default(), None, id).expect("a plan")
        };
        let (one, two) = (retention("1s"), retention("2s"));
        let id = approve(&one, None).pending_id().expect("it waits");
        let plan = approve(&one, Some(&id));
        assert_eq!(plan.steps, [alter("retention.ms", Some("1000"))]);
        assert_eq!(plan.pending, []);
        let plan = approve(&two, Some(&id));
        assert_eq!(plan.steps, []);
        assert_eq!(plan.pending.len(), 1);
    }

    #[test]
    fn a_topic_that_is_there_is_adopted_or_refused() {
        let (wanted, actual) = (wanted(&spec()), actual(3, &[]));
        let of = |existing, known| {
            let policies = (existing, ManagementPolicy::Full);
            plan(&wanted, Some(&actual), policies, known, None)
        };
        assert_eq!(of(Existing::Adopt, None), Ok(Plan::default()));
        let refused = of(Existing::Refuse, None).expect_err("refused");
        assert_eq!(refused.reason, "Exists");
        // One that it made itself is not a stranger's.
        assert_eq!(of(Existing::Refuse, Some("A")), Ok(Plan::default()));
    }

    #[test]
    fn an_observed_topic_is_not_touched() {
        let policies = (Existing::Refuse, ManagementPolicy::Observe);
        let observe =
            |actual: Option<&Actual>| plan(&retention("1s"), actual, policies, None, None);
        assert_eq!(observe(None).expect_err("refused").reason, "NotFound");
        let plan = observe(Some(&actual(4, &[("retention.ms", "2000", true)]))).expect("a plan");
        assert_eq!((plan.steps, plan.pending), (vec![], vec![]));
        let drift: Vec<String> = plan.drift.iter().map(ToString::to_string).collect();
        assert_eq!(
            drift,
            ["partitions is 4, not 3", "retention.ms is 2000, not 1000"]
        );
    }

    #[test]
    fn replicas_that_differ_are_shown() {
        let wanted = wanted(&TopicSpec {
            replicas: Some(2),
            ..spec()
        });
        let plan = full(&wanted, Some(&actual(3, &[]))).expect("a plan");
        assert_eq!(plan.drift[0].to_string(), "replicas is 3, not 2");
    }

    #[test]
    fn a_name_belongs_to_the_oldest_claim() {
        let claim = |created_ms, uid: &str| Owner {
            created_ms,
            uid: uid.into(),
            name: uid.into(),
        };
        let claims = [claim(2, "a"), claim(1, "c"), claim(1, "b")];
        assert_eq!(owner_of(&claims), Some(&claims[2]));
    }
}
