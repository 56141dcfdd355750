//! The table itself: every known setting of every scope, parsed once.

use std::fmt;
use std::sync::LazyLock;

use crate::exceptions::{self, Mutability, Status};
use crate::value::{Validator, Value, ValueType};
use crate::{BrokerLayers, ConfigError};

/// What a setting belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// One broker, or all of them.
    Broker,
    /// One topic.
    Topic,
    /// One consumer, share or streams group.
    Group,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Broker => "broker",
            Self::Topic => "topic",
            Self::Group => "group",
        })
    }
}

/// One row of the table.
#[derive(Debug, Clone)]
pub struct Setting {
    /// Kafka's name.
    pub name: &'static str,
    /// Where it may be set.
    pub scope: Scope,
    /// How its text is read.
    pub value_type: ValueType,
    /// Value when it is not set anywhere; `None` where there is none.
    pub default: Option<&'static str>,
    /// Kafka's default where ours differs, with the reason.
    pub deviation: Option<&'static exceptions::Deviation>,
    /// Bounds.
    pub validator: Validator,
    /// Bounds in the notation of the tables, for people.
    pub valid: &'static str,
    /// Whether Tidemark acts on it.
    pub status: Status,
    /// Whether, and for whom, it may change while brokers run.
    pub mutability: Mutability,
    /// Set only at run time, never in a broker's file.
    pub dynamic_only: bool,
    /// One sentence.
    pub doc: &'static str,
}

impl Setting {
    /// Whether its value must not be shown.
    pub fn is_sensitive(&self) -> bool {
        self.value_type == ValueType::Password
    }

    /// Checks `text` against type, bounds and what Tidemark refuses.
    pub fn check(&self, text: &str) -> Result<Value, ConfigError> {
        let invalid = |reason: String| ConfigError::InvalidValue {
            name: self.name.to_owned(),
            value: if self.is_sensitive() {
                "[hidden]".to_owned()
            } else {
                shown(text)
            },
            reason,
        };
        let value = self.value_type.parse(text).map_err(invalid)?;
        self.validator.check(&value).map_err(invalid)?;
        if let Status::Refused(refusal) = &self.status
            && !refusal.allows(&value)
        {
            return Err(ConfigError::Refused {
                name: self.name.to_owned(),
                value: shown(text),
                reason: refusal.reason,
            });
        }
        Ok(value)
    }

    /// The documentation sentence, marked when the setting has no effect yet.
    pub fn documentation(&self) -> String {
        match self.status {
            Status::Honoured => self.doc.to_owned(),
            Status::Kept => format!("Not honoured yet: kept, without effect. {}", self.doc),
            Status::Refused(refusal) => {
                format!("{} Other values are refused: {}", self.doc, refusal.reason)
            }
        }
    }
}

/// A value cut to what an error message can carry.
fn shown(text: &str) -> String {
    const MOST_CHARS: usize = 200;
    match text.char_indices().nth(MOST_CHARS) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

static TOPIC: LazyLock<Vec<Setting>> = LazyLock::new(|| {
    parse_table(
        Scope::Topic,
        &[(include_str!("../schema/topic-configs.tsv"), false)],
    )
});
static GROUP: LazyLock<Vec<Setting>> = LazyLock::new(|| {
    parse_table(
        Scope::Group,
        &[
            (include_str!("../schema/group-configs.tsv"), false),
            (include_str!("../schema/own-group-configs.tsv"), false),
        ],
    )
});
static BROKER: LazyLock<Vec<Setting>> = LazyLock::new(|| {
    parse_table(
        Scope::Broker,
        &[
            (include_str!("../schema/broker-configs.tsv"), false),
            (include_str!("../schema/own-configs.tsv"), false),
            (include_str!("../schema/dynamic-only-configs.tsv"), true),
        ],
    )
});

/// All settings of a scope, sorted by name.
pub fn settings(scope: Scope) -> &'static [Setting] {
    match scope {
        Scope::Broker => &BROKER,
        Scope::Topic => &TOPIC,
        Scope::Group => &GROUP,
    }
}

/// The setting of that exact name. `listener.name.NAME.ssl.*` is that of one listener (KIP-103).
pub fn setting(scope: Scope, name: &str) -> Result<&'static Setting, ConfigError> {
    let table = settings(scope);
    let name = match name
        .strip_prefix("listener.name.")
        .map(|rest| rest.split_once('.'))
    {
        Some(Some((_, of_listener))) if of_listener.starts_with("ssl.") => of_listener,
        _ => name,
    };
    match table.binary_search_by(|s| s.name.cmp(name)) {
        Ok(at) => Ok(&table[at]),
        Err(_) => Err(ConfigError::UnknownName {
            scope,
            name: shown(name),
            suggestion: closest(table, name),
        }),
    }
}

/// Looks a setting up and checks a value for it: name, type, bounds, refusals.
pub fn check(scope: Scope, name: &str, text: &str) -> Result<Value, ConfigError> {
    setting(scope, name)?.check(text)
}

/// Names set in a broker's own file that have no effect yet: warn of each once.
pub fn unhonoured(layers: BrokerLayers<'_>) -> Vec<&'static Setting> {
    settings(Scope::Broker)
        .iter()
        .filter(|s| s.status == Status::Kept && layers.is_set(s.name))
        .collect()
}

fn parse_table(scope: Scope, sources: &[(&'static str, bool)]) -> Vec<Setting> {
    let mut rows: Vec<Setting> = sources
        .iter()
        .flat_map(|&(text, dynamic_only)| {
            text.lines()
                .skip(1)
                .filter(|line| !line.trim().is_empty())
                .map(move |line| {
                    parse_row(scope, line, dynamic_only)
                        .expect("rows of the committed tables parse: a test reads them all")
                })
        })
        .collect();
    rows.sort_by_key(|s| s.name);
    rows
}

fn parse_row(scope: Scope, line: &'static str, dynamic_only: bool) -> Option<Setting> {
    let mut columns = line.split('\t');
    let name = columns.next()?;
    let value_type = ValueType::from_name(columns.next()?)?;
    let default = parse_default(value_type, columns.next()?);
    let valid = columns.next().unwrap_or("");
    let deviation = exceptions::deviation(scope, name);
    let status = exceptions::status(scope, name);
    Some(Setting {
        name,
        scope,
        value_type,
        default: deviation.map_or(default, |d| d.default),
        deviation,
        validator: Validator::from_notation(value_type, valid)?,
        valid,
        status,
        mutability: if dynamic_only {
            Mutability::PerBroker
        } else {
            exceptions::mutability(scope, name)
        },
        dynamic_only,
        doc: exceptions::doc(scope, name),
    })
}

fn parse_default(value_type: ValueType, text: &'static str) -> Option<&'static str> {
    match (value_type, text) {
        (_, "null" | "(required)") => None,
        (ValueType::List, _) => Some(
            text.strip_prefix('[')
                .and_then(|t| t.strip_suffix(']'))
                .unwrap_or(text),
        ),
        (ValueType::Class, _) => Some(text.strip_prefix("class ").unwrap_or(text)),
        _ => Some(text),
    }
}

/// The nearest name by edit distance, if near enough to be what was meant.
fn closest(table: &'static [Setting], name: &str) -> Option<&'static str> {
    const LONGEST_NAME: usize = 80;
    if name.len() > LONGEST_NAME {
        return None;
    }
    table
        .iter()
        .map(|s| (distance(s.name.as_bytes(), name.as_bytes()), s.name))
        .min()
        .filter(|(distance, _)| *distance <= 1 + name.len() / 5)
        .map(|(_, name)| name)
}

fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
