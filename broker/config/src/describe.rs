//! What DescribeConfigs needs to know of each setting of a resource.

use crate::exceptions::{self, Mutability};
use crate::layers::{BrokerLayers, ConfigMap, Source, resolve_group, resolve_topic};
use crate::{Scope, Setting, Status, ValueType, setting, settings};

/// One place that gives (or would give) a setting its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Synonym {
    /// Name there; a broker setting's for what a topic falls back to.
    pub name: &'static str,
    /// Value there, in that name's unit; `None` if it must not be shown.
    pub value: Option<String>,
    /// Which place.
    pub source: Source,
}

/// One setting of a resource, as in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// Its name.
    pub name: &'static str,
    /// The value in force; `None` if there is none or it must not be shown.
    pub value: Option<String>,
    /// Where the value comes from.
    pub source: Source,
    /// Every place that has a value, strongest first; the first is in force.
    pub synonyms: Vec<Synonym>,
    /// Whether AlterConfigs would refuse it.
    pub read_only: bool,
    /// Whether its value is hidden.
    pub sensitive: bool,
    /// Its type.
    pub value_type: ValueType,
    /// False where the value is kept without effect.
    pub honoured: bool,
    /// One sentence, marked when the setting has no effect.
    pub documentation: String,
}

impl Described {
    /// Whether nothing but the default gives the value.
    pub fn is_default(&self) -> bool {
        self.source == Source::Default
    }
}

/// All settings of a topic: its own values over the broker's over the defaults.
pub fn describe_topic(topic: &ConfigMap, broker: BrokerLayers<'_>) -> Vec<Described> {
    settings(Scope::Topic)
        .iter()
        .map(|s| {
            let names: Vec<&'static str> = exceptions::topic_synonyms(s.name)
                .iter()
                .map(|(name, _)| *name)
                .collect();
            let synonyms = synonyms(s, Some((topic, Source::DynamicTopic)), &names, broker);
            describe(s, resolve_topic(s, topic, broker), synonyms, false)
        })
        .collect()
}

/// All settings of a group.
pub fn describe_group(group: &ConfigMap, broker: BrokerLayers<'_>) -> Vec<Described> {
    settings(Scope::Group)
        .iter()
        .map(|s| {
            let names: Vec<&'static str> = exceptions::group_synonym(s.name).into_iter().collect();
            let synonyms = synonyms(s, Some((group, Source::DynamicGroup)), &names, broker);
            describe(s, resolve_group(s, group, broker), synonyms, false)
        })
        .collect()
}

/// All settings of a broker; those that exist only at run time are listed once set.
pub fn describe_broker(broker: BrokerLayers<'_>) -> Vec<Described> {
    settings(Scope::Broker)
        .iter()
        .filter(|s| !s.dynamic_only || broker.is_set(s.name))
        .map(|s| {
            let value = broker
                .get(s.name)
                .map(|(value, source)| (value.to_owned(), source));
            let read_only = s.mutability == Mutability::ReadOnly;
            describe(s, value, synonyms(s, None, &[s.name], broker), read_only)
        })
        .collect()
}

fn synonyms(
    s: &Setting,
    own: Option<(&ConfigMap, Source)>,
    names: &[&'static str],
    broker: BrokerLayers<'_>,
) -> Vec<Synonym> {
    let shown = |value: &str| (!s.is_sensitive()).then(|| value.to_owned());
    let mut found = Vec::new();
    if let Some((map, source)) = own
        && let Some(value) = map.get(s.name)
    {
        found.push(Synonym {
            name: s.name,
            value: shown(value),
            source,
        });
    }
    for (source, map) in broker.each() {
        for &name in names {
            if let Some(value) = map.get(name) {
                found.push(Synonym {
                    name,
                    value: shown(value),
                    source,
                });
            }
        }
    }
    for &name in names {
        if let Some(value) = setting(Scope::Broker, name).ok().and_then(|s| s.default) {
            found.push(Synonym {
                name,
                value: shown(value),
                source: Source::Default,
            });
        }
    }
    found
}

fn describe(
    s: &Setting,
    value: Option<(String, Source)>,
    synonyms: Vec<Synonym>,
    read_only: bool,
) -> Described {
    let (value, source) = match value {
        Some((value, source)) => (Some(value), source),
        None => (None, Source::Default),
    };
    Described {
        name: s.name,
        value: value.filter(|_| !s.is_sensitive()),
        source,
        synonyms,
        read_only,
        sensitive: s.is_sensitive(),
        value_type: s.value_type,
        honoured: s.status != Status::Kept,
        documentation: s.documentation(),
    }
}
