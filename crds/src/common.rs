//! What the kinds share: references, conditions, and how a refusal is told.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{Limit, UnitError, duration_ms, size_bytes};

/// Settings by Kafka's names.
pub type Config = BTreeMap<String, String>;

/// The cluster that a resource belongs to, in the resource's own namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterRef {
    /// Name of the Cluster.
    #[schemars(length(min = 1, max = 40))]
    pub name: String,
}

/// Whether what is outside Kubernetes goes with the resource.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// It stays.
    #[default]
    Retain,
    /// It is deleted as well.
    Delete,
}

/// What of a tiered topic stays on local disks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalRetention {
    /// How long records stay on local disks once they are in the bucket (local.retention.ms), such
    /// as 24h, or unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 40),
        regex(pattern = r"^([0-9]+(ms|s|m|h|d))+$|^unlimited$")
    )]
    pub local_retention: Option<String>,
    /// How much of each partition stays on local disks (local.retention.bytes), such as 10Gi, or
    /// unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 20),
        regex(pattern = r"^[0-9]+(k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$|^unlimited$")
    )]
    pub local_retention_bytes: Option<String>,
}

impl LocalRetention {
    /// Settings of a topic, by Kafka's names; those of all topics have `log.` before them.
    ///
    /// # Errors
    /// A unit that is not read, with its field.
    pub fn settings(&self) -> Result<Vec<(&'static str, String)>, Invalid> {
        let of = |field: &str, name, read: Result<Limit, UnitError>| match read {
            Ok(limit) => Ok((name, limit.to_string())),
            Err(error) => Err(Invalid::new("InvalidUnit", format!("{field}: {error}"))),
        };
        let mut settings = Vec::new();
        if let Some(text) = &self.local_retention {
            let read = duration_ms(text);
            settings.push(of("localRetention", "local.retention.ms", read)?);
        }
        if let Some(text) = &self.local_retention_bytes {
            let read = size_bytes(text);
            settings.push(of("localRetentionBytes", "local.retention.bytes", read)?);
        }
        Ok(settings)
    }
}

/// Why a spec is not accepted: a reason from a closed list, and a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Invalid {
    /// CamelCase, as conditions have it.
    pub reason: &'static str,
    /// What is wrong, and what to write instead.
    pub message: String,
}

impl Invalid {
    /// A refusal.
    #[must_use]
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

/// Reads a moment, in ms since 1970.
pub(crate) fn moment_ms(text: &str) -> Result<i64, Invalid> {
    let parsed: Result<Timestamp, _> = text.parse();
    parsed.map(Timestamp::as_millisecond).map_err(|_| {
        let says = format!("'{text}' is no moment in time: write it as 2026-11-25T12:00:00Z");
        Invalid::new("InvalidTime", says)
    })
}

/// A condition as it is now; [`set_condition`] keeps the time of the last change.
#[must_use]
pub fn condition(
    type_: &str,
    status: Option<bool>,
    reason: &str,
    message: impl Into<String>,
    generation: Option<i64>,
    now_ms: i64,
) -> Condition {
    let status = match status {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.into(),
        observed_generation: generation,
        last_transition_time: Time(Timestamp::from_millisecond(now_ms).unwrap_or_default()),
    }
}

/// Puts a condition among others: its time is that of the last change of its status.
pub fn set_condition(conditions: &mut Vec<Condition>, mut new: Condition) {
    match conditions.iter_mut().find(|old| old.type_ == new.type_) {
        Some(old) => {
            if old.status == new.status {
                new.last_transition_time = old.last_transition_time.clone();
            }
            *old = new;
        }
        None => conditions.push(new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conditions_time_is_that_of_its_last_change() {
        let mut all = Vec::new();
        set_condition(
            &mut all,
            condition("Ready", Some(true), "A", "", None, 1_000),
        );
        set_condition(
            &mut all,
            condition("Ready", Some(true), "B", "", None, 2_000),
        );
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].reason, "B");
        assert_eq!(all[0].last_transition_time.0.as_millisecond(), 1_000);
        set_condition(&mut all, condition("Ready", None, "C", "", None, 3_000));
        assert_eq!(all[0].last_transition_time.0.as_millisecond(), 3_000);
    }
}
