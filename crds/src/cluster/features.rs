//! `spec.features`: when the cluster begins to use what only newer versions know.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::Invalid;
use crate::units::{Limit, duration_ms};

/// When the cluster begins to use what only newer versions know: formats and requests among brokers,
/// by a level (tidemark.version). Until then its brokers can go back to the version before; a level
/// never goes down again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Features {
    /// Automatic: the newest level that all brokers know, after a while in which all of them have run
    /// without being restarted. Manual: the level that is given, as soon as all brokers know it.
    #[serde(default)]
    pub policy: FeaturePolicy,
    /// For how long all brokers have to run before a level is taken by itself, or unlimited.
    #[serde(default = "a_day")]
    #[schemars(
        length(max = 40),
        regex(pattern = r"^([0-9]+(ms|s|m|h|d))+$|^unlimited$")
    )]
    pub soak: String,
    /// The level: with Automatic the highest that is taken, with Manual the one to take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 32_767))]
    pub level: Option<i16>,
}

fn a_day() -> String {
    "24h".to_owned()
}

impl Default for Features {
    fn default() -> Self {
        Self {
            policy: FeaturePolicy::default(),
            soak: a_day(),
            level: None,
        }
    }
}

/// Who decides on a level.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FeaturePolicy {
    /// The operator.
    #[default]
    Automatic,
    /// A person.
    Manual,
}

impl Features {
    /// For how long all brokers have to run; none for ever.
    ///
    /// # Errors
    /// A unit that is not read.
    pub fn soak_ms(&self) -> Result<Option<i64>, Invalid> {
        match duration_ms(&self.soak) {
            Ok(Limit::Of(ms)) => Ok(Some(ms)),
            Ok(Limit::Unlimited) => Ok(None),
            Err(error) => {
                let text = format!("features.soak: {error}");
                Err(Invalid::new("InvalidUnit", text))
            }
        }
    }
}

/// The level that is in use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FeaturesStatus {
    /// The level that is in use; 0 until the first one is taken.
    pub level: i16,
    /// The newest one that all brokers know.
    pub newest: i16,
    /// What the next level waits for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}
