//! Letting go of what an operator holds, for when it is uninstalled.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tidemark_crds::Topic;
use tidemark_env::clock;

use crate::apply::merge;
use crate::context::Error;
use crate::topic::FINALIZER;
use crate::watched::Watched;

/// How long pods of an operator may take to go.
const PATIENCE_MS: i64 = 120_000;
/// How often they are looked for.
const LOOK: Duration = Duration::from_secs(1);

/// Takes the finalizer from all Topics of a namespace, or of all; how many had it. `after` is the
/// labels and the namespace of pods that must be gone before: an operator that runs puts it back.
///
/// # Errors
/// Kubernetes', and pods that do not go.
pub async fn run(namespace: Option<&str>, after: Option<(&str, &str)>) -> Result<usize, Error> {
    let client = Client::try_default()
        .await
        .map_err(Error::kube("connecting to Kubernetes"))?;
    if let Some((labels, namespace)) = after {
        gone(&Api::namespaced(client.clone(), namespace), labels).await?;
    }
    // One that cannot be read has a finalizer as well.
    let topics: Api<Watched<Topic>> = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let all = topics
        .list(&ListParams::default())
        .await
        .map_err(Error::kube("listing topics"))?;
    let mut released = 0;
    for topic in all {
        let mut finalizers = topic.finalizers().to_vec();
        let had = finalizers.len();
        finalizers.retain(|finalizer| finalizer != FINALIZER);
        if finalizers.len() == had {
            continue;
        }
        let own: Api<Topic> =
            Api::namespaced(client.clone(), &topic.namespace().unwrap_or_default());
        let patch = json!({"metadata": {
            "finalizers": finalizers,
            "resourceVersion": topic.resource_version(),
        }});
        merge(&own, &topic.name_any(), &patch, "the finalizer of a topic").await?;
        released += 1;
    }
    Ok(released)
}

/// Waits until no pod has these labels.
async fn gone(pods: &Api<Pod>, labels: &str) -> Result<(), Error> {
    let begun_ms = clock::steady_ms();
    loop {
        let left = pods
            .list(&ListParams::default().labels(labels))
            .await
            .map_err(Error::kube("listing the operator's pods"))?;
        if left.items.is_empty() {
            return Ok(());
        }
        if clock::steady_ms() - begun_ms > PATIENCE_MS {
            return Err(Error::Malformed(format!(
                "pods of {labels} are still there: an operator that runs would put its finalizer back"
            )));
        }
        clock::sleep(LOOK).await;
    }
}
