//! A Topic's spec in Kafka's terms, checked.

use std::collections::BTreeMap;

use tidemark_config::{Scope, check};

use super::{Cleanup, TopicSpec};
use crate::cluster::Tier;
use crate::common::Invalid;
use crate::units::{duration_ms, size_bytes};

/// What a topic should be, in Kafka's terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// How many partitions.
    pub partitions: i32,
    /// How many replicas, if the spec says.
    pub replicas: Option<i32>,
    /// Settings by Kafka's names.
    pub settings: BTreeMap<String, String>,
}

impl Wanted {
    /// With what the cluster says where the topic does not: whether it moves to the bucket. A topic
    /// that is compacted does only where it says so itself, and is refused then.
    #[must_use]
    pub fn with_defaults(mut self, tier: Option<&Tier>) -> Self {
        let enabled = tier.is_some_and(|tier| tier.defaults.enabled);
        let policy = self.settings.get("cleanup.policy");
        if enabled && !policy.is_some_and(|policy| policy.contains("compact")) {
            let name = "remote.storage.enable".to_owned();
            self.settings.entry(name).or_insert("true".to_owned());
        }
        self
    }
}

/// Checks a spec and says it in Kafka's terms.
///
/// # Errors
/// The first thing that is wrong.
pub fn validate(name: &str, spec: &TopicSpec) -> Result<Wanted, Invalid> {
    let legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty()
        || name.len() > 249
        || [".", ".."].contains(&name)
        || !name.chars().all(legal)
    {
        return Err(Invalid::new(
            "InvalidName",
            format!("'{name}' is no topic name: use letters, digits, '.', '_' and '-'"),
        ));
    }
    if name.starts_with("__") {
        return Err(Invalid::new(
            "InvalidName",
            format!("{name}: topics that begin with __ are the cluster's own"),
        ));
    }
    if spec.partitions < 1 {
        return Err(Invalid::new(
            "InvalidPartitions",
            "a topic has at least one partition",
        ));
    }
    if let (Some(min), Some(replicas)) = (spec.min_insync_replicas, spec.replicas)
        && min > replicas
    {
        return Err(Invalid::new(
            "MinIsrAboveReplicas",
            format!("minInsyncReplicas ({min}) is more than replicas ({replicas})"),
        ));
    }
    let unit = |error: crate::units::UnitError| Invalid::new("InvalidUnit", error.to_string());
    let mut own = Vec::new();
    if let Some(text) = &spec.retention {
        own.push(("retention.ms", duration_ms(text).map_err(unit)?.to_string()));
    }
    if let Some(text) = &spec.retention_bytes {
        own.push((
            "retention.bytes",
            size_bytes(text).map_err(unit)?.to_string(),
        ));
    }
    if let Some(cleanup) = spec.cleanup {
        let policy = match cleanup {
            Cleanup::Delete => "delete",
            Cleanup::Compact => "compact",
            Cleanup::CompactAndDelete => "compact,delete",
        };
        own.push(("cleanup.policy", policy.to_owned()));
    }
    if let Some(min) = spec.min_insync_replicas {
        own.push(("min.insync.replicas", min.to_string()));
    }
    if let Some(tier) = &spec.tier {
        if let Some(enabled) = tier.enabled {
            own.push(("remote.storage.enable", enabled.to_string()));
        }
        let local = tier
            .local
            .settings()
            .map_err(|invalid| Invalid::new(invalid.reason, format!("tier.{}", invalid.message)))?;
        own.extend(local);
    }
    let mut settings = spec.config.clone();
    for (key, value) in own {
        if settings.insert(key.to_owned(), value).is_some() {
            return Err(Invalid::new(
                "SettingGivenTwice",
                format!("{key} is in config and in a field of its own: give one of them"),
            ));
        }
    }
    for (key, value) in &settings {
        check(Scope::Topic, key, value)
            .map_err(|error| Invalid::new("InvalidSetting", error.to_string()))?;
    }
    Ok(Wanted {
        name: name.to_owned(),
        partitions: spec.partitions,
        replicas: spec.replicas,
        settings,
    })
}

/// Checks what may not change in a Topic, as its rules do.
///
/// # Errors
/// The first thing that may not.
pub fn validate_change(old: &TopicSpec, new: &TopicSpec) -> Result<(), Invalid> {
    let refuse = |text: &str| Err(Invalid::new("Immutable", text));
    if old.cluster_ref != new.cluster_ref {
        return refuse("clusterRef cannot change: make another Topic");
    }
    if old.topic_name != new.topic_name {
        return refuse("topicName cannot change: make another Topic");
    }
    if new.partitions < old.partitions {
        return refuse("partitions cannot be taken away");
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::common::{ClusterRef, LocalRetention};

    pub(crate) fn spec() -> TopicSpec {
        TopicSpec {
            cluster_ref: ClusterRef {
                name: "orders".into(),
            },
            topic_name: None,
            partitions: 3,
            replicas: None,
            min_insync_replicas: None,
            retention: None,
            retention_bytes: None,
            cleanup: None,
            tier: None,
            config: Default::default(),
            existing: Default::default(),
            management_policy: Default::default(),
            deletion_policy: Default::default(),
        }
    }

    #[test]
    fn fields_become_kafkas_settings() {
        let spec = TopicSpec {
            retention: Some("7d".into()),
            retention_bytes: Some("unlimited".into()),
            cleanup: Some(Cleanup::CompactAndDelete),
            tier: Some(super::super::TopicTier {
                enabled: Some(true),
                local: LocalRetention {
                    local_retention: Some("1h".into()),
                    local_retention_bytes: Some("1Mi".into()),
                },
            }),
            replicas: Some(3),
            min_insync_replicas: Some(2),
            config: [("segment.bytes".to_owned(), "1048576".to_owned())].into(),
            ..spec()
        };
        let wanted = validate("payments", &spec).expect("a good spec");
        let settings: Vec<(&str, &str)> = wanted
            .settings
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        assert_eq!(
            settings,
            [
                ("cleanup.policy", "compact,delete"),
                ("local.retention.bytes", "1048576"),
                ("local.retention.ms", "3600000"),
                ("min.insync.replicas", "2"),
                ("remote.storage.enable", "true"),
                ("retention.bytes", "-1"),
                ("retention.ms", "604800000"),
                ("segment.bytes", "1048576"),
            ]
        );
    }

    #[test]
    fn a_topic_moves_to_the_bucket_where_its_cluster_says_so_and_it_does_not_say_otherwise() {
        let tier: Tier = serde_json::from_value(serde_json::json!({
            "url": "s3://bucket/prefix", "defaults": {"enabled": true},
        }))
        .expect("a tier");
        let moves = |spec: &TopicSpec, tier: Option<&Tier>| {
            let wanted = validate("t", spec).expect("good").with_defaults(tier);
            wanted.settings.get("remote.storage.enable").cloned()
        };
        assert_eq!(moves(&spec(), None), None);
        assert_eq!(moves(&spec(), Some(&tier)).as_deref(), Some("true"));
        let not = TopicSpec {
            tier: Some(super::super::TopicTier {
                enabled: Some(false),
                ..Default::default()
            }),
            ..spec()
        };
        assert_eq!(moves(&not, Some(&tier)).as_deref(), Some("false"));
        let compacted = TopicSpec {
            cleanup: Some(Cleanup::Compact),
            ..spec()
        };
        assert_eq!(moves(&compacted, Some(&tier)), None);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_reason() {
        let reason =
            |name: &str, spec: TopicSpec| validate(name, &spec).expect_err("refused").reason;
        let config = |key: &str, value: &str| TopicSpec {
            config: [(key.to_owned(), value.to_owned())].into(),
            ..spec()
        };
        for name in ["", "..", "a b", "__consumer_offsets", &"x".repeat(250)] {
            assert_eq!(reason(name, spec()), "InvalidName", "{name}");
        }
        let min = TopicSpec {
            replicas: Some(2),
            min_insync_replicas: Some(3),
            ..spec()
        };
        assert_eq!(reason("t", min), "MinIsrAboveReplicas");
        let twice = TopicSpec {
            retention: Some("1d".into()),
            ..config("retention.ms", "1")
        };
        assert_eq!(reason("t", twice), "SettingGivenTwice");
        assert_eq!(reason("t", config("retention", "1")), "InvalidSetting");
        assert_eq!(reason("t", config("segment.bytes", "x")), "InvalidSetting");
        let unit = TopicSpec {
            retention: Some("7w".into()),
            ..spec()
        };
        assert_eq!(reason("t", unit), "InvalidUnit");
    }
}
