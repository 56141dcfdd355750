//! `spec.recovery`: what is done by itself about what is lost.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::Invalid;
use crate::units::{Limit, duration_ms};

/// What is done by itself about what is lost.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Recovery {
    /// A broker's disk that is gone, empty, failed or out of reach.
    #[serde(default)]
    pub disk_lost: DiskLost,
}

/// What is done about a broker's disk that is lost. It is replaced by an empty one only while all
/// other brokers are in sync and have every record that was committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiskLost {
    /// Manual: nothing, until the annotation tidemark.dev/replace-disk names the broker. Replace: its
    /// claim is deleted and made anew, after a while.
    #[serde(default)]
    pub policy: DiskLostPolicy,
    /// For how long the disk has to be lost before it is replaced without being asked.
    #[serde(default = "half_an_hour")]
    #[schemars(length(max = 40), regex(pattern = r"^([0-9]+(ms|s|m|h|d))+$"))]
    pub after: String,
}

fn half_an_hour() -> String {
    "30m".to_owned()
}

impl Default for DiskLost {
    fn default() -> Self {
        Self {
            policy: DiskLostPolicy::default(),
            after: half_an_hour(),
        }
    }
}

/// Who decides that a disk is replaced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DiskLostPolicy {
    /// A person.
    #[default]
    Manual,
    /// The operator.
    Replace,
}

impl DiskLost {
    /// How long the disk has to be lost; none for never.
    ///
    /// # Errors
    /// A unit that is not read.
    pub fn after_ms(&self) -> Result<Option<i64>, Invalid> {
        match duration_ms(&self.after) {
            Ok(Limit::Of(ms)) => Ok(Some(ms)),
            Ok(Limit::Unlimited) => Ok(None),
            Err(error) => {
                let text = format!("recovery.diskLost.after: {error}");
                Err(Invalid::new("InvalidUnit", text))
            }
        }
    }
}
