//! The table of broker, topic and group settings: parse, validate, describe; pure.
//!
//! Names, types, defaults and bounds are Kafka 4.3's (`schema/*.tsv`). Where
//! Tidemark differs, it says so in one place: [`exceptions`]. Stored values are
//! strings, as they are on the wire; they are checked when they are set
//! ([`check`], [`alter::apply`]) and resolved into typed structs once per change
//! ([`TopicSettings`], [`BrokerSettings`], [`GroupSettings`]).

pub mod alter;
mod broker;
mod describe;
pub mod exceptions;
mod group;
mod layers;
mod quorum;
mod reference;
mod table;
pub mod tls;
mod topic;
mod value;

pub use alter::{Change, Operation, Target};
pub use broker::{BrokerSettings, Listener, TierSettings, parse_listeners};
pub use describe::{Described, Synonym, describe_broker, describe_group, describe_topic};
pub use exceptions::{Mutability, Status};
pub use group::GroupSettings;
pub use layers::{BrokerLayers, ConfigMap, Source};
pub use quorum::{QuorumSettings, Roles};
pub use reference::reference;
pub use table::{Scope, Setting, check, setting, settings, unhonoured};
pub use tls::{ClientAuth, Pem, Protocol, TlsSettings, TlsVersion};
pub use topic::{CompressionType, ThrottledReplicas, TimestampType, TopicSettings};
pub use value::{Validator, Value, ValueType};

/// Why a setting was not accepted. `Display` is the message a client is shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No such name in this scope; carries the closest known name, if one is close.
    #[error("Unknown {scope} config name: {name}{}", suggestion.as_ref().map(|s| format!("; did you mean {s}?")).unwrap_or_default())]
    UnknownName {
        /// Where it was looked for.
        scope: Scope,
        /// What was asked for.
        name: String,
        /// A known name that is close to it.
        suggestion: Option<&'static str>,
    },
    /// The value does not parse as the setting's type or breaks its bounds.
    #[error("Invalid value {value} for configuration {name}: {reason}")]
    InvalidValue {
        /// The setting.
        name: String,
        /// The value as given; `[hidden]` for passwords.
        value: String,
        /// What is expected, a full sentence.
        reason: String,
    },
    /// Known, not implemented, and ignoring it would lose data or let in whom it shuts out.
    #[error("Configuration {name}={value} is refused: {reason}")]
    Refused {
        /// The setting.
        name: String,
        /// The value as given.
        value: String,
        /// What would have gone wrong, and what to do.
        reason: &'static str,
    },
    /// Two settings that contradict each other, or a required one that is missing.
    #[error("{0}")]
    Conflict(String),
    /// A broker setting that takes effect only at start.
    #[error(
        "Cannot update configuration {0} dynamically: set it in the broker's configuration and restart the broker"
    )]
    ReadOnly(String),
}

#[cfg(test)]
mod tests;
