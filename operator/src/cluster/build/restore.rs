//! A cluster that begins with what another one's bucket holds: how its voters are formatted, and the
//! pod that shows beforehand what would come back.

use serde_json::{Value, json};
use tidemark_crds::Cluster;
use tidemark_crds::cluster::{Restore, Tier};

use super::stateful_set::{hash, restricted, restricted_pod};
use super::{metadata, name};

/// Where Kubernetes reads what a container says at its end.
pub const TERMINATION_LOG: &str = "/dev/termination-log";
/// The annotation of the pod that shows a restore: of which one it is.
pub const OF: &str = "tidemark.dev/restore";

/// The bucket of a restore, and what of it is asked for, as `format` takes it with `prefix` restore-
/// and `tier restore` without. Nothing where the spec asks for none.
fn asked(cluster: &Cluster, prefix: &str) -> Option<(String, Vec<String>)> {
    let (restore, tier) = both(cluster)?;
    let mut arguments = Vec::new();
    let mut add = |name: &str, value: String| {
        arguments.push(format!("--{prefix}{name}={value}"));
    };
    for topic in &restore.topics {
        add("topic", topic.clone());
    }
    if let Some(at) = &restore.at {
        add("at", at.clone());
    }
    // Of the spec as it is when the cluster begins: topics are placed once all its brokers are there,
    // and one with more replicas than brokers never would be.
    let pools = cluster.spec.pools.iter();
    let brokers: i32 = pools.map(|pool| pool.replicas).sum();
    let most = restore.replication_factor.unwrap_or(brokers).min(brokers);
    add("replication-factor", most.to_string());
    add("brokers", brokers.to_string());
    Some((restore.source(&tier.url).to_owned(), arguments))
}

fn both(cluster: &Cluster) -> Option<(&Restore, &Tier)> {
    Some((cluster.spec.restore.as_ref()?, cluster.spec.tier.as_ref()?))
}

/// What the first voters are formatted with; empty where the cluster begins with nothing.
#[must_use]
pub fn restore_arguments(cluster: &Cluster) -> Vec<String> {
    let Some((source, more)) = asked(cluster, "restore-") else {
        return Vec::new();
    };
    let mut arguments = vec![format!("--restore={source}")];
    arguments.extend(more);
    arguments.push(format!("--restore-report={TERMINATION_LOG}"));
    arguments
}

/// The name of the pod that shows what would come back.
#[must_use]
pub fn preview_name(cluster: &Cluster) -> String {
    format!("{}-restore-preview", name(cluster))
}

/// A pod that reads the bucket and says at its end what would come back: the operator itself has no
/// credentials of it. It carries no label of the cluster, since it is no broker.
#[must_use]
pub fn preview(cluster: &Cluster, image: &str) -> Option<Value> {
    let (source, more) = asked(cluster, "")?;
    let tier = cluster.spec.tier.as_ref()?;
    let mut command = vec![
        "tidemark".to_owned(),
        "tier".to_owned(),
        "restore".to_owned(),
    ];
    command.extend([source, "--dry-run".to_owned()]);
    command.extend(more);
    let options = [("endpoint", &tier.endpoint), ("region", &tier.region)];
    let given = options
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.as_ref()?)));
    command.extend(given.map(|(name, value)| format!("--{name}={value}")));
    command.push(format!("--report={TERMINATION_LOG}"));
    let secret = tier
        .credentials
        .as_ref()
        .map(|credentials| &credentials.secret_ref.name);
    let environment: Vec<Value> = secret
        .iter()
        .map(|name| json!({"secretRef": {"name": name, "optional": true}}))
        .collect();
    let mut metadata = metadata(cluster, &preview_name(cluster), &[].into());
    let of = json!([image, command, environment]).to_string();
    metadata["annotations"] = json!({OF: hash(&of)});
    Some(json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            // A bucket that does not answer may do so later.
            "restartPolicy": "OnFailure",
            "securityContext": restricted_pod(),
            "containers": [{
                "name": "preview",
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "command": command,
                "envFrom": environment,
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "securityContext": restricted(),
            }],
        },
    }))
}
