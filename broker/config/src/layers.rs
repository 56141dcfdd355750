//! Where a broker's values come from, and which one wins.

use std::collections::BTreeMap;

use crate::{ConfigError, Scope, Setting, Value, exceptions, setting};

/// Values by name, as they were set.
pub type ConfigMap = BTreeMap<String, String>;

/// Where a value comes from, in DescribeConfigs' numbering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Set on the topic.
    DynamicTopic,
    /// Set on this broker at run time.
    DynamicBroker,
    /// Set on all brokers at run time.
    DynamicDefaultBroker,
    /// In this broker's own file or command line.
    StaticBroker,
    /// Nowhere: the table's default.
    Default,
    /// Set on the group.
    DynamicGroup,
}

impl Source {
    /// The number that DescribeConfigs sends (`DescribeConfigsResponse.ConfigSource`).
    pub fn code(self) -> i8 {
        match self {
            Self::DynamicTopic => 1,
            Self::DynamicBroker => 2,
            Self::DynamicDefaultBroker => 3,
            Self::StaticBroker => 4,
            Self::Default => 5,
            Self::DynamicGroup => 8,
        }
    }
}

/// One broker's settings by layer; earlier layers win.
#[derive(Debug, Clone, Copy)]
pub struct BrokerLayers<'a> {
    /// Set on this broker at run time.
    pub dynamic: &'a ConfigMap,
    /// Set on all brokers at run time (the broker resource with the empty name).
    pub dynamic_default: &'a ConfigMap,
    /// From its file and command line.
    pub fixed: &'a ConfigMap,
}

impl<'a> BrokerLayers<'a> {
    /// Each layer with its source, strongest first.
    pub(crate) fn each(self) -> [(Source, &'a ConfigMap); 3] {
        [
            (Source::DynamicBroker, self.dynamic),
            (Source::DynamicDefaultBroker, self.dynamic_default),
            (Source::StaticBroker, self.fixed),
        ]
    }

    /// Whether any layer sets it.
    pub fn is_set(self, name: &str) -> bool {
        self.each().iter().any(|(_, map)| map.contains_key(name))
    }

    /// The value in force and its source; `None` where nothing sets it and there is no default.
    pub fn get(self, name: &str) -> Option<(&'a str, Source)> {
        self.first_of(&[name])
    }

    /// The first value found for any of `names`: by layer first, then by order of names.
    ///
    /// So `log.retention.ms` beats `log.retention.hours` within a layer, and what was
    /// set at run time beats every spelling in the file.
    pub(crate) fn first_of(self, names: &[&str]) -> Option<(&'a str, Source)> {
        for (source, map) in self.each() {
            if let Some(value) = names.iter().find_map(|name| map.get(*name)) {
                return Some((value, source));
            }
        }
        names
            .iter()
            .find_map(|name| setting(Scope::Broker, name).ok()?.default)
            .map(|value| (value, Source::Default))
    }

    /// The parsed value in force.
    pub(crate) fn value(self, name: &str) -> Result<Option<Value>, ConfigError> {
        let setting = setting(Scope::Broker, name)?;
        self.get(name)
            .map(|(text, _)| setting.check(text))
            .transpose()
    }

    pub(crate) fn long(self, name: &str) -> Result<i64, ConfigError> {
        self.value(name)?
            .and_then(|v| v.as_i64())
            .ok_or_else(|| missing(name))
    }

    pub(crate) fn int(self, name: &str) -> Result<i32, ConfigError> {
        i32::try_from(self.long(name)?).map_err(|_| missing(name))
    }

    pub(crate) fn boolean(self, name: &str) -> Result<bool, ConfigError> {
        match self.value(name)? {
            Some(Value::Boolean(b)) => Ok(b),
            _ => Err(missing(name)),
        }
    }

    /// Empty text counts as not set.
    pub(crate) fn text(self, name: &str) -> Result<Option<String>, ConfigError> {
        Ok(match self.value(name)? {
            Some(Value::Text(text)) if !text.is_empty() => Some(text),
            _ => None,
        })
    }

    pub(crate) fn list(self, name: &str) -> Result<Vec<String>, ConfigError> {
        Ok(match self.value(name)? {
            Some(Value::List(items)) => items,
            _ => Vec::new(),
        })
    }
}

pub(crate) fn missing(name: &str) -> ConfigError {
    ConfigError::Conflict(format!(
        "Missing required configuration \"{name}\" which has no default value"
    ))
}

/// The value of a topic setting in force, in the topic setting's own unit.
pub(crate) fn resolve_topic(
    s: &Setting,
    topic: &ConfigMap,
    broker: BrokerLayers<'_>,
) -> Option<(String, Source)> {
    if let Some(value) = topic.get(s.name) {
        return Some((value.clone(), Source::DynamicTopic));
    }
    let synonyms = exceptions::topic_synonyms(s.name);
    let converted = |value: &str, factor: i64| match value.trim().parse::<i64>() {
        Ok(number) if factor != 1 && number < 0 => "-1".to_owned(),
        Ok(number) if factor != 1 => number.saturating_mul(factor).to_string(),
        _ => value.to_owned(),
    };
    for (source, map) in broker.each() {
        for (name, factor) in synonyms {
            if let Some(value) = map.get(*name) {
                return Some((converted(value, *factor), source));
            }
        }
    }
    s.default.map(|value| (value.to_owned(), Source::Default))
}

/// The value of a group setting in force.
pub(crate) fn resolve_group(
    s: &Setting,
    group: &ConfigMap,
    broker: BrokerLayers<'_>,
) -> Option<(String, Source)> {
    if let Some(value) = group.get(s.name) {
        return Some((value.clone(), Source::DynamicGroup));
    }
    exceptions::group_synonym(s.name)
        .and_then(|name| broker.get(name))
        .map(|(value, source)| (value.to_owned(), source))
        .or_else(|| s.default.map(|value| (value.to_owned(), Source::Default)))
}
