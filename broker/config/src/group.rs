//! A group's own settings (KIP-848, share and streams groups), resolved.

use crate::layers::{BrokerLayers, ConfigMap, missing, resolve_group};
use crate::{ConfigError, Scope, setting};

/// The settings of one consumer group in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSettings {
    /// `consumer.session.timeout.ms`.
    pub consumer_session_timeout_ms: i32,
    /// `consumer.heartbeat.interval.ms`.
    pub consumer_heartbeat_interval_ms: i32,
    /// `consumer.assignment.interval.ms`.
    pub consumer_assignment_interval_ms: i32,
}

impl GroupSettings {
    /// Resolves the group's own values over the broker's `group.*` over the defaults.
    pub fn resolve(group: &ConfigMap, broker: BrokerLayers<'_>) -> Result<Self, ConfigError> {
        let int = |name: &str| -> Result<i32, ConfigError> {
            let s = setting(Scope::Group, name)?;
            let (text, _) = resolve_group(s, group, broker).ok_or_else(|| missing(name))?;
            s.check(&text)?
                .as_i64()
                .and_then(|n| i32::try_from(n).ok())
                .ok_or_else(|| missing(name))
        };
        Ok(Self {
            consumer_session_timeout_ms: int("consumer.session.timeout.ms")?,
            consumer_heartbeat_interval_ms: int("consumer.heartbeat.interval.ms")?,
            consumer_assignment_interval_ms: int("consumer.assignment.interval.ms")?,
        })
    }
}
