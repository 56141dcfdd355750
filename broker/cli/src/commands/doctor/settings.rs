//! Was anything set that the brokers keep but do not act on yet?

use tidemark_client::admin::{ConfigEntry, ConfigResource, ConfigSource};

use super::{Check, Finding, Patient};
use crate::commands::config::is_unhonoured;

/// Topics looked at; on a large cluster the first ones must do.
const MOST_TOPICS: usize = 500;

/// Asks every broker and topic for its settings.
pub async fn check(patient: &Patient<'_>) -> Check {
    let brokers = patient
        .reachable
        .iter()
        .map(|id| ConfigResource::Broker(*id));
    let topics = patient
        .info
        .topics
        .values()
        .filter(|topic| !topic.internal)
        .take(MOST_TOPICS)
        .map(|topic| ConfigResource::Topic(topic.name.clone()));
    let mut findings = Vec::new();
    let mut looked_at = 0;
    for resource in brokers.chain(topics) {
        match patient.cluster.describe_configs(&resource).await {
            Ok(entries) => {
                looked_at += 1;
                findings.extend(entries.iter().filter_map(|entry| judge(&resource, entry)));
            }
            Err(error) => tracing::debug!(%error, %resource, "settings not looked at"),
        }
    }
    let seen = format!("all that was set is honoured ({looked_at} brokers and topics looked at)");
    Check::new("settings", seen, findings)
}

fn judge(resource: &ConfigResource, entry: &ConfigEntry) -> Option<Finding> {
    let own = match resource {
        ConfigResource::Topic(_) => entry.source == ConfigSource::Topic,
        _ => matches!(
            entry.source,
            ConfigSource::Broker | ConfigSource::BrokerDefault | ConfigSource::File
        ),
    };
    if !own || !is_unhonoured(entry) {
        return None;
    }
    let next = match resource {
        ConfigResource::Topic(name) => {
            format!("tidemark topic alter {name} --unset {}", entry.name)
        }
        _ => format!("take {} out of the broker's configuration", entry.name),
    };
    Some(Finding::new(
        format!(
            "{resource} sets {}={}, which has no effect yet",
            entry.name,
            entry.value.as_deref().unwrap_or("[hidden]")
        ),
        "the broker keeps the setting but does not act on it: do not rely on it",
        next,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(source: ConfigSource, documentation: &str) -> ConfigEntry {
        ConfigEntry {
            name: "unclean.leader.election.enable".to_owned(),
            value: Some("true".to_owned()),
            source,
            read_only: false,
            sensitive: false,
            documentation: Some(documentation.to_owned()),
        }
    }

    #[test]
    fn only_what_was_set_and_is_not_honoured_is_found() {
        let topic = ConfigResource::Topic("t".to_owned());
        let kept = "Not honoured yet: kept, without effect. What it does.";
        let finding = judge(&topic, &entry(ConfigSource::Topic, kept)).unwrap();
        assert_eq!(
            finding.next,
            "tidemark topic alter t --unset unclean.leader.election.enable"
        );
        assert_eq!(judge(&topic, &entry(ConfigSource::Default, kept)), None);
        assert_eq!(
            judge(&topic, &entry(ConfigSource::File, kept)),
            None,
            "that is the broker's finding"
        );
        assert_eq!(
            judge(&topic, &entry(ConfigSource::Topic, "What it does.")),
            None
        );
        let broker = ConfigResource::Broker(0);
        assert!(judge(&broker, &entry(ConfigSource::File, kept)).is_some());
    }
}
