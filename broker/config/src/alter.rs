//! IncrementalAlterConfigs and AlterConfigs as pure functions over a resource's values.

use crate::exceptions::Mutability;
use crate::layers::ConfigMap;
use crate::value::split_list;
use crate::{ConfigError, Scope, Setting, ValueType, setting};

/// What to do with one setting (KIP-339).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Replace the value.
    Set,
    /// Remove it, so that it falls back.
    Delete,
    /// Add elements to a list.
    Append,
    /// Remove elements from a list.
    Subtract,
}

impl Operation {
    /// Reads the number that IncrementalAlterConfigs carries.
    pub fn from_code(code: i8) -> Option<Self> {
        match code {
            0 => Some(Self::Set),
            1 => Some(Self::Delete),
            2 => Some(Self::Append),
            3 => Some(Self::Subtract),
            _ => None,
        }
    }
}

/// One requested change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The setting.
    pub name: String,
    /// What to do.
    pub operation: Operation,
    /// The value; not needed for [`Operation::Delete`].
    pub value: Option<String>,
}

/// Which broker resource is changed, as that limits what may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A topic.
    Topic,
    /// A group.
    Group,
    /// One broker by id.
    Broker,
    /// All brokers (the broker resource with the empty name).
    AllBrokers,
}

impl Target {
    /// The table that its settings are in.
    pub fn scope(self) -> Scope {
        match self {
            Self::Topic => Scope::Topic,
            Self::Group => Scope::Group,
            Self::Broker | Self::AllBrokers => Scope::Broker,
        }
    }
}

/// The values after `changes`, each checked; `current` is what the resource has now.
///
/// Fails as a whole on the first bad change. A setting named twice is refused, as
/// the order of two changes would decide silently.
pub fn apply(
    target: Target,
    current: &ConfigMap,
    changes: &[Change],
) -> Result<ConfigMap, ConfigError> {
    let mut after = current.clone();
    for (at, change) in changes.iter().enumerate() {
        if changes[..at].iter().any(|c| c.name == change.name) {
            return Err(ConfigError::Conflict(format!(
                "Error due to duplicate config keys: {}",
                change.name
            )));
        }
        let setting = alterable(target, &change.name)?;
        match change.operation {
            Operation::Delete => {
                after.remove(&change.name);
            }
            Operation::Set => {
                let value = required(change)?;
                setting.check(value)?;
                after.insert(change.name.clone(), value.to_owned());
            }
            Operation::Append | Operation::Subtract => {
                let value = edited_list(setting, after.get(&change.name), change)?;
                setting.check(&value)?;
                after.insert(change.name.clone(), value);
            }
        }
    }
    Ok(after)
}

/// AlterConfigs (the whole set at once): the values that replace all there were.
pub fn replace(
    target: Target,
    values: &[(String, Option<String>)],
) -> Result<ConfigMap, ConfigError> {
    let changes: Vec<Change> = values
        .iter()
        .map(|(name, value)| Change {
            name: name.clone(),
            operation: Operation::Set,
            value: value.clone(),
        })
        .collect();
    apply(target, &ConfigMap::new(), &changes)
}

/// What turns `before` into `after`: the new value of each changed name, `None` for removed.
pub fn difference(before: &ConfigMap, after: &ConfigMap) -> Vec<(String, Option<String>)> {
    let removed = before
        .keys()
        .filter(|name| !after.contains_key(*name))
        .map(|name| (name.clone(), None));
    let set = after
        .iter()
        .filter(|(name, value)| before.get(*name) != Some(value))
        .map(|(name, value)| (name.clone(), Some(value.clone())));
    let mut all: Vec<_> = removed.chain(set).collect();
    all.sort();
    all
}

fn alterable(target: Target, name: &str) -> Result<&'static Setting, ConfigError> {
    let setting = setting(target.scope(), name)?;
    match (target, setting.mutability) {
        (Target::Topic | Target::Group, _)
        | (Target::Broker, Mutability::PerBroker | Mutability::ClusterWide)
        | (Target::AllBrokers, Mutability::ClusterWide) => Ok(setting),
        (Target::Broker | Target::AllBrokers, Mutability::ReadOnly) => {
            Err(ConfigError::ReadOnly(name.to_owned()))
        }
        (Target::AllBrokers, Mutability::PerBroker) if setting.dynamic_only => Ok(setting),
        (Target::AllBrokers, Mutability::PerBroker) => Err(ConfigError::Conflict(format!(
            "Cannot update {name} for all brokers at once: a broker id must be given"
        ))),
    }
}

fn required(change: &Change) -> Result<&str, ConfigError> {
    change.value.as_deref().ok_or_else(|| {
        ConfigError::Conflict(format!("Null value not supported for {}", change.name))
    })
}

fn edited_list(
    setting: &Setting,
    current: Option<&String>,
    change: &Change,
) -> Result<String, ConfigError> {
    if setting.value_type != ValueType::List {
        return Err(ConfigError::Conflict(format!(
            "Can't {} to key {} because its type is not LIST.",
            if change.operation == Operation::Append {
                "APPEND"
            } else {
                "SUBTRACT"
            },
            change.name
        )));
    }
    let given = split_list(required(change)?);
    let mut items = split_list(
        current
            .map(String::as_str)
            .or(setting.default)
            .unwrap_or_default(),
    );
    if change.operation == Operation::Append {
        for item in given {
            if !items.contains(&item) {
                items.push(item);
            }
        }
    } else {
        items.retain(|item| !given.contains(item));
    }
    Ok(items.join(","))
}
