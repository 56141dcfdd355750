//! Which fields of the resources mean something to `tidemark dev -f`, and why the others do not.
//! A test holds this table against the definitions: a field that is new must be put here.

use serde_json::Value;
use tidemark_crds::manifest::Name;

/// Why nothing of listeners and certificates means something.
const PLAIN: &str = "brokers listen on 127.0.0.1 alone here, in plain text";

/// Fields below `spec` that are given and mean nothing here, each with the reason.
const WITHOUT_EFFECT: &[(&str, &str, &str)] = &[
    (
        "Cluster",
        "deletionPolicy",
        "taking the file away deletes nothing",
    ),
    (
        "Cluster",
        "disruption.mode",
        "nothing is restarted while this runs",
    ),
    (
        "Cluster",
        "disruption.unreplicated",
        "nothing is restarted while this runs",
    ),
    (
        "Cluster",
        "disruption.windows[].name",
        "nothing is restarted while this runs",
    ),
    (
        "Cluster",
        "disruption.windows[].days",
        "nothing is restarted while this runs",
    ),
    (
        "Cluster",
        "disruption.windows[].start",
        "nothing is restarted while this runs",
    ),
    (
        "Cluster",
        "disruption.windows[].duration",
        "nothing is restarted while this runs",
    ),
    (
        "Cluster",
        "features.policy",
        "all brokers are of one version here",
    ),
    (
        "Cluster",
        "features.soak",
        "all brokers are of one version here",
    ),
    (
        "Cluster",
        "features.level",
        "all brokers are of one version here",
    ),
    ("Cluster", "certificates.validity", PLAIN),
    ("Cluster", "certificates.renewBefore", PLAIN),
    ("Cluster", "certificates.caValidity", PLAIN),
    ("Cluster", "certificates.caRenewBefore", PLAIN),
    ("Cluster", "certificates.caOverlap", PLAIN),
    ("Cluster", "listeners[].name", PLAIN),
    ("Cluster", "listeners[].port", PLAIN),
    ("Cluster", "listeners[].type", PLAIN),
    ("Cluster", "listeners[].tls.source", PLAIN),
    ("Cluster", "listeners[].tls.secretRef.name", PLAIN),
    ("Cluster", "listeners[].tls.issuerRef.name", PLAIN),
    ("Cluster", "listeners[].tls.issuerRef.kind", PLAIN),
    ("Cluster", "listeners[].tls.issuerRef.group", PLAIN),
    ("Cluster", "listeners[].authentication[].type", PLAIN),
    (
        "Cluster",
        "listeners[].authentication[].caSecretRef.name",
        PLAIN,
    ),
    ("Cluster", "listeners[].bootstrap.host", PLAIN),
    ("Cluster", "listeners[].bootstrap.annotations", PLAIN),
    ("Cluster", "listeners[].perBroker.hostTemplate", PLAIN),
    ("Cluster", "listeners[].perBroker.annotations", PLAIN),
    ("Cluster", "image", "brokers run this very binary"),
    (
        "Cluster",
        "pools[].remove",
        "the brokers of a process leave it together",
    ),
    (
        "Cluster",
        "pools[].storage.onScaleDown",
        "a broker's disk is a directory here",
    ),
    (
        "Cluster",
        "tier.credentials.secretRef.name",
        "a directory is the bucket here",
    ),
    (
        "Cluster",
        "racks.topologyKey",
        "all brokers are in this process",
    ),
    ("Cluster", "racks.values", "all brokers are in this process"),
    (
        "Cluster",
        "recovery.diskLost.after",
        "a broker's disk is a directory here",
    ),
    (
        "Cluster",
        "recovery.diskLost.policy",
        "a broker's disk is a directory here",
    ),
    (
        "Cluster",
        "restore.at",
        "a development cluster begins with its own data: tidemark format --restore",
    ),
    (
        "Cluster",
        "restore.dryRun",
        "a development cluster begins with its own data: tidemark format --restore",
    ),
    (
        "Cluster",
        "restore.mode",
        "a development cluster begins with its own data: tidemark format --restore",
    ),
    (
        "Cluster",
        "restore.replicationFactor",
        "a development cluster begins with its own data: tidemark format --restore",
    ),
    (
        "Cluster",
        "restore.source",
        "a development cluster begins with its own data: tidemark format --restore",
    ),
    (
        "Cluster",
        "restore.topics",
        "a development cluster begins with its own data: tidemark format --restore",
    ),
    ("Cluster", "tier.endpoint", "a directory is the bucket here"),
    ("Cluster", "tier.region", "a directory is the bucket here"),
    ("Cluster", "paused", "nothing is restarted while this runs"),
    (
        "Cluster",
        "pools[].resources",
        "all brokers share this process",
    ),
    (
        "Cluster",
        "pools[].storage.size",
        "a broker's disk is a directory here",
    ),
    (
        "Cluster",
        "pools[].storage.storageClassName",
        "a broker's disk is a directory here",
    ),
    (
        "Topic",
        "deletionPolicy",
        "what is taken out of the file stays: tidemark topic delete",
    ),
];

/// Fields below `spec` that are honoured.
#[cfg(test)]
const HONOURED: &[(&str, &[&str])] = &[
    (
        "Cluster",
        &[
            "config",
            "pools[].name",
            "pools[].replicas",
            "quorum.voters",
            "tier.cache.size",
            "tier.defaults.enabled",
            "tier.defaults.localRetention",
            "tier.defaults.localRetentionBytes",
            "tier.upload.maxLag",
            "tier.url",
        ],
    ),
    (
        "Topic",
        &[
            "cleanup",
            "clusterRef.name",
            "config",
            "existing",
            "managementPolicy",
            "minInsyncReplicas",
            "partitions",
            "replicas",
            "retention",
            "retentionBytes",
            "tier.enabled",
            "tier.localRetention",
            "tier.localRetentionBytes",
            "topicName",
        ],
    ),
    (
        "ConsumerGroup",
        &[
            "clusterRef.name",
            "groupId",
            "lag.records",
            "lag.stuckAfter",
            "lag.time",
            "minMembers",
            "reset.dryRun",
            "reset.notAfter",
            "reset.to.ago",
            "reset.to.earliest",
            "reset.to.latest",
            "reset.to.shift",
            "reset.to.time",
            "reset.token",
            "reset.topics",
            "reset.whenActive",
        ],
    ),
];

/// What is given in these documents and means nothing here, a sentence for each field.
pub fn without_effect(documents: &[Value]) -> Vec<String> {
    let given = |(kind, path, _): &&(&str, &str, &str)| {
        documents
            .iter()
            .filter(|document| Name::of(document).kind == *kind)
            .any(|document| is_given(&document["spec"], path))
    };
    let all = WITHOUT_EFFECT.iter().filter(given);
    all.map(|(kind, path, why)| format!("{kind}: spec.{path} has no effect here: {why}"))
        .collect()
}

fn is_given(value: &Value, path: &str) -> bool {
    let (step, rest) = match path.split_once('.') {
        Some((step, rest)) => (step, Some(rest)),
        None => (path, None),
    };
    let below = |value: &Value| match rest {
        Some(rest) => is_given(value, rest),
        None => !value.is_null(),
    };
    match step.strip_suffix("[]") {
        Some(list) => value[list].as_array().into_iter().flatten().any(below),
        None => below(&value[step]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tidemark_crds::reference;

    use super::*;

    #[test]
    fn every_field_of_the_definitions_is_honoured_or_said_not_to_be() {
        for (_, definition) in reference::definitions() {
            let kind = definition.spec.names.kind.as_str();
            let mut known: Vec<String> = HONOURED
                .iter()
                .filter(|(of, _)| *of == kind)
                .flat_map(|(_, fields)| fields.iter().map(|field| (*field).to_owned()))
                .chain(
                    WITHOUT_EFFECT
                        .iter()
                        .filter(|(of, ..)| *of == kind)
                        .map(|(_, field, _)| (*field).to_owned()),
                )
                .collect();
            known.sort();
            let mut fields = reference::spec_fields(&definition);
            fields.sort();
            assert_eq!(
                known, fields,
                "fields of {kind}: put what is new into fields.rs"
            );
        }
    }

    #[test]
    fn what_is_given_and_means_nothing_is_said_once() {
        let pool = json!({"name": "a", "replicas": 1, "storage": {"size": "1Gi"}});
        let cluster = json!({"kind": "Cluster", "spec": {"pools": [pool, pool], "config": {}}});
        assert_eq!(
            without_effect(&[cluster]),
            [
                "Cluster: spec.pools[].storage.size has no effect here: a broker's disk is a directory here"
            ]
        );
        let topic = json!({"kind": "Topic", "spec": {"deletionPolicy": null}});
        assert_eq!(without_effect(&[topic]), [""; 0]);
    }
}
