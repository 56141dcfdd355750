//! `spec.restore`: what a cluster begins with of another one's bucket.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ClusterSpec;
use crate::common::{Invalid, moment_ms};

/// What a cluster begins with: topics, records and groups of another one that had a bucket. Chosen
/// when the cluster is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("oldSelf.dryRun || self == oldSelf")
    .message("restore cannot change once it is no dry run: what a cluster begins with is chosen when it is made"))]
pub struct Restore {
    /// Takeover: the bucket of tier.url becomes this cluster's, and the one that it belonged to,
    /// should it still run, writes nothing more there. Clone: the bucket of source is copied into
    /// that of tier.url, which has to be empty, and stays as it is.
    pub mode: RestoreMode,
    /// The bucket that is copied, as tier.url names it; its endpoint, region and credentials are
    /// those of tier. In a takeover it is tier.url, and need not be given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 8, max = 1024),
        regex(pattern = r"^(s3|gs|az)://[^ ]+$|^file:///[^ ]+$")
    )]
    pub source: Option<String>,
    /// As of this moment, as 2026-11-25T12:00:00Z; the latest that is there where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40), extend("format" = "date-time"))]
    pub at: Option<String>,
    /// Only topics of these names, in which * stands for anything; all where it is empty. Groups
    /// come back in any case.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 100),
        inner(length(min = 1, max = 249), regex(pattern = r"^[a-zA-Z0-9._*-]+$"))
    )]
    pub topics: Vec<String>,
    /// Topics get at most so many replicas, and never more than there are brokers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub replication_factor: Option<i32>,
    /// While true, status.restore shows what would come back, and neither the cluster nor anything
    /// in the bucket is made.
    #[serde(default)]
    pub dry_run: bool,
}

/// What becomes of the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RestoreMode {
    /// It becomes the new cluster's.
    Takeover,
    /// It is copied.
    Clone,
}

/// What is told of a restore.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoreStatus {
    /// The bucket that it is from.
    pub source: String,
    /// What comes back, or came; then what does not, and what is not as it was. In lines, and not
    /// all of them where there are many.
    #[serde(default)]
    pub report: Vec<String>,
}

impl Restore {
    /// The bucket that is restored from, where tier.url is `own`.
    #[must_use]
    pub fn source<'a>(&'a self, own: &'a str) -> &'a str {
        self.source.as_deref().unwrap_or(own)
    }
}

/// What the rules say of a restore, and what they cannot.
pub(super) fn validate(spec: &ClusterSpec) -> Result<(), Invalid> {
    let Some(restore) = &spec.restore else {
        return Ok(());
    };
    let refuse = |text: &str| Err(Invalid::new("InvalidRestore", text));
    let Some(tier) = &spec.tier else {
        return refuse("a restored cluster keeps its topics in a bucket: give tier");
    };
    let of_itself = restore.source(&tier.url) == tier.url;
    match restore.mode {
        RestoreMode::Takeover if !of_itself => {
            return refuse("a takeover is of the bucket of tier.url: take out restore.source");
        }
        RestoreMode::Clone if of_itself => {
            return refuse("a clone is of another bucket than tier.url: give it as restore.source");
        }
        RestoreMode::Takeover | RestoreMode::Clone => {}
    }
    if let Some(at) = &restore.at {
        moment_ms(at).map_err(|error| {
            Invalid::new(error.reason, format!("restore.at: {}", error.message))
        })?;
    }
    Ok(())
}

/// What may not change of a restore.
pub(super) fn validate_change(old: Option<&Restore>, new: Option<&Restore>) -> Result<(), Invalid> {
    let refuse = |text: &str| Err(Invalid::new("Immutable", text));
    match (old, new) {
        (None, Some(_)) | (Some(_), None) => {
            refuse("restore is chosen when the cluster is made: it can neither come nor go later")
        }
        (Some(old), Some(new)) if !old.dry_run && old != new => refuse(
            "restore cannot change once it is no dry run: what a cluster begins with is chosen when it is made",
        ),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(restore: &Value) -> ClusterSpec {
        serde_json::from_value(json!({
            "pools": [{"name": "brokers", "replicas": 3, "storage": {"size": "1Gi"}}],
            "tier": {"url": "s3://acme/orders"},
            "restore": restore,
        }))
        .expect("a spec")
    }

    #[test]
    fn a_takeover_is_of_the_own_bucket_and_a_clone_of_another() {
        for good in [
            json!({"mode": "Takeover"}),
            json!({"mode": "Takeover", "source": "s3://acme/orders", "at": "2026-11-25T12:00:00Z"}),
            json!({"mode": "Clone", "source": "s3://acme/other", "topics": ["a.*"]}),
        ] {
            assert_eq!(validate(&spec(&good)), Ok(()), "{good}");
        }
        for (bad, says) in [
            (
                json!({"mode": "Takeover", "source": "s3://acme/other"}),
                "take out restore.source",
            ),
            (json!({"mode": "Clone"}), "give it as restore.source"),
            (
                json!({"mode": "Clone", "source": "s3://acme/orders"}),
                "give it as restore.source",
            ),
            (
                json!({"mode": "Takeover", "at": "noon"}),
                "restore.at: 'noon'",
            ),
        ] {
            let message = validate(&spec(&bad)).expect_err("refused").message;
            assert!(message.contains(says), "{bad}: {message}");
        }
        let mut without = spec(&json!({"mode": "Takeover"}));
        without.tier = None;
        assert_eq!(
            validate(&without).expect_err("refused").reason,
            "InvalidRestore"
        );
    }

    #[test]
    fn only_a_dry_run_can_change() {
        let restore = |more: Value| spec(&more).restore.expect("it is given");
        let shown = restore(json!({"mode": "Takeover", "dryRun": true}));
        let done = restore(json!({"mode": "Takeover"}));
        let of_topic = restore(json!({"mode": "Takeover", "topics": ["a"]}));
        for (old, new) in [(&shown, &done), (&shown, &of_topic), (&done, &done)] {
            assert_eq!(validate_change(Some(old), Some(new)), Ok(()));
        }
        for (old, new) in [
            (Some(&done), Some(&shown)),
            (Some(&done), Some(&of_topic)),
            (Some(&done), None),
            (None, Some(&done)),
        ] {
            assert!(validate_change(old, new).is_err(), "{old:?} to {new:?}");
        }
    }
}
