//! `spec.config`, sorted: what stands in brokers' files, what brokers take while they run, and what
//! is refused; pure.

use std::collections::{BTreeMap, BTreeSet};

use tidemark_config::{Mutability, Scope, setting};

use super::ClusterSpec;
use crate::common::Config;

/// A cluster's settings by what becomes of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Read by a broker when it starts: a change restarts it.
    pub fixed: Config,
    /// Taken by brokers while they run.
    pub live: Config,
    /// Not taken, and why. What was in force stays so.
    pub refused: BTreeMap<String, String>,
}

/// Sorts settings. One that is wrong holds up no other.
#[must_use]
pub fn settings(spec: &ClusterSpec) -> Settings {
    // Checked before, by validate.
    let of_tier = spec.tier.as_ref().and_then(|tier| tier.settings().ok());
    let mut all = spec.config.clone();
    all.extend(of_tier.unwrap_or_default());
    sort(&all)
}

fn sort(config: &Config) -> Settings {
    let mut sorted = Settings::default();
    for (name, value) in config {
        let checked = setting(Scope::Broker, name).and_then(|setting| {
            setting.check(value)?;
            Ok(setting.mutability)
        });
        let of = match checked {
            Ok(Mutability::ClusterWide) => &mut sorted.live,
            Ok(Mutability::ReadOnly | Mutability::PerBroker) => &mut sorted.fixed,
            Err(error) => {
                sorted.refused.insert(name.clone(), error.to_string());
                continue;
            }
        };
        of.insert(name.clone(), value.clone());
    }
    sorted
}

/// What is to be changed of the settings that all brokers share.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Those that get a value.
    pub set: Config,
    /// Those that go back to their default.
    pub delete: BTreeSet<String>,
    /// Those that somebody else set: they stay.
    pub foreign: BTreeSet<String>,
    /// Those that are the spec's, once this is done.
    pub ours: BTreeSet<String>,
}

impl Changes {
    /// Whether nothing is to be changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.delete.is_empty()
    }
}

/// Plans changes: `now` is what all brokers share, and `ours` what the spec set of it before.
#[must_use]
pub fn changes(settings: &Settings, now: &Config, ours: &BTreeSet<String>) -> Changes {
    let mut changes = Changes::default();
    for (name, value) in &settings.live {
        if now.get(name) != Some(value) {
            changes.set.insert(name.clone(), value.clone());
        }
        changes.ours.insert(name.clone());
    }
    for name in now.keys() {
        let refused = settings.refused.contains_key(name);
        match ours.contains(name) {
            _ if settings.live.contains_key(name) => {}
            true if refused => {
                changes.ours.insert(name.clone());
            }
            true => {
                changes.delete.insert(name.clone());
            }
            false => {
                changes.foreign.insert(name.clone());
            }
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pairs: &[(&str, &str)]) -> Config {
        let owned = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        owned.collect()
    }

    fn names(of: &[&str]) -> BTreeSet<String> {
        of.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn settings_go_where_they_take_effect_and_a_wrong_one_alone_is_refused() {
        let sorted = sort(&config(&[
            ("num.partitions", "3"),
            ("log.retention.ms", "60000"),
            ("message.max.bytes", "-4"),
            ("num.partition", "3"),
        ]));
        assert_eq!(sorted.fixed, config(&[("num.partitions", "3")]));
        assert_eq!(sorted.live, config(&[("log.retention.ms", "60000")]));
        let refused: Vec<&str> = sorted.refused.keys().map(String::as_str).collect();
        assert_eq!(refused, ["message.max.bytes", "num.partition"]);
        assert!(
            sorted.refused["message.max.bytes"].contains("at least 0"),
            "{sorted:?}"
        );
    }

    #[test]
    fn what_differs_is_set_and_what_the_spec_gave_up_goes_back() {
        let sorted = sort(&config(&[
            ("log.retention.ms", "2"),
            ("message.max.bytes", "9"),
        ]));
        let now = config(&[
            ("log.retention.ms", "1"),
            ("message.max.bytes", "9"),
            ("log.segment.bytes", "5"),
            ("log.roll.ms", "7"),
        ]);
        let ours = names(&["log.retention.ms", "message.max.bytes", "log.segment.bytes"]);
        let plan = changes(&sorted, &now, &ours);
        assert_eq!(plan.set, config(&[("log.retention.ms", "2")]));
        assert_eq!(plan.delete, names(&["log.segment.bytes"]));
        assert_eq!(
            plan.foreign,
            names(&["log.roll.ms"]),
            "somebody else's stays"
        );
        assert_eq!(plan.ours, names(&["log.retention.ms", "message.max.bytes"]));
    }

    #[test]
    fn what_is_refused_changes_nothing_of_what_is_in_force() {
        let sorted = sort(&config(&[("message.max.bytes", "-4")]));
        let now = config(&[("message.max.bytes", "9")]);
        let plan = changes(&sorted, &now, &names(&["message.max.bytes"]));
        assert!(plan.is_empty(), "{plan:?}");
        assert_eq!(plan.ours, names(&["message.max.bytes"]));
    }

    #[test]
    fn what_is_as_it_should_be_is_left_alone() {
        let wanted = config(&[("log.retention.ms", "2")]);
        let plan = changes(&sort(&wanted), &wanted, &BTreeSet::new());
        assert!(plan.is_empty());
        // It was somebody's, and is the spec's from now on.
        assert_eq!(plan.ours, names(&["log.retention.ms"]));
    }
}
