//! A cluster that begins with what another one's bucket holds: what is shown before it is formed, and
//! what the voters say came back. The bucket is read and taken over by `tidemark format`, in their
//! pods.

use k8s_openapi::api::core::v1::{ConfigMap, ContainerState, Pod};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use tidemark_crds::Cluster;

use super::build::{self, Build};
use super::observe::Children;
use crate::apply::merge;
use crate::context::{Context, Error};

/// Why a cluster is not formed yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Before {
    /// CamelCase, as conditions have it.
    pub reason: &'static str,
    /// The same for people.
    pub text: String,
    /// What would come back, in lines.
    pub report: Vec<String>,
}

impl Before {
    fn new(reason: &'static str, text: impl Into<String>) -> Self {
        Self {
            reason,
            text: text.into(),
            report: Vec::new(),
        }
    }
}

/// Why a cluster is not to be formed yet; nothing where it may be.
///
/// # Errors
/// Kubernetes'.
pub async fn before(
    context: &Context,
    cluster: &Cluster,
    image: &str,
    children: &Children,
) -> Result<Option<Before>, Error> {
    let Some(restore) = &cluster.spec.restore else {
        return Ok(None);
    };
    if restore.dry_run {
        return preview(context, cluster, image).await.map(Some);
    }
    if let Some(claim) = children.any_claim() {
        let name = claim.name_any();
        let text = format!(
            "claim {name} is there: it may hold data of an earlier cluster, over which nothing is restored. Delete the claims, or give the cluster another name"
        );
        return Ok(Some(Before::new("ClaimsLeft", text)));
    }
    let pods: Api<Pod> = context.beside(cluster);
    delete(&pods, &build::preview_name(cluster)).await?;
    Ok(None)
}

/// What would come back, as a pod finds that reads the bucket.
async fn preview(context: &Context, cluster: &Cluster, image: &str) -> Result<Before, Error> {
    let reading = || Before::new("DryRun", "the bucket is looked through");
    let Some(wanted) = build::preview(cluster, image) else {
        return Ok(reading());
    };
    let pods: Api<Pod> = context.beside(cluster);
    let name = build::preview_name(cluster);
    let found = pods.get_opt(&name).await;
    match found.map_err(Error::kube(format!("reading pod {name}")))? {
        Some(pod) if pod.metadata.deletion_timestamp.is_some() => Ok(reading()),
        Some(pod) => {
            let of = pod.annotations().get(build::OF).map(String::as_str);
            if of != wanted["metadata"]["annotations"][build::OF].as_str() {
                delete(&pods, &name).await?;
                return Ok(reading());
            }
            Ok(shown(&pod).unwrap_or_else(reading))
        }
        None => {
            let pod = serde_json::from_value(wanted)
                .map_err(|error| Error::Malformed(format!("the preview's pod: {error}")))?;
            let made = pods.create(&PostParams::default(), &pod).await;
            made.map_err(Error::kube(format!("making pod {name}")))?;
            Ok(reading())
        }
    }
}

/// What the pod of a preview said at its end.
fn shown(pod: &Pod) -> Option<Before> {
    let status = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
    let ended = |state: Option<&ContainerState>| state?.terminated.clone();
    // One that failed may be about to begin again.
    let ended = ended(status.state.as_ref()).or_else(|| ended(status.last_state.as_ref()))?;
    let said = ended.message.unwrap_or_default();
    if ended.exit_code != 0 {
        let said = said.trim();
        return Some(Before::new("RestoreImpossible", said));
    }
    let report: Vec<String> = said.lines().map(str::to_owned).collect();
    let text = report.first().cloned().unwrap_or_default();
    Some(Before {
        report,
        ..Before::new("DryRun", text)
    })
}

async fn delete(pods: &Api<Pod>, name: &str) -> Result<(), Error> {
    match pods.delete(name, &DeleteParams::default()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(Error::kube(format!("deleting pod {name}"))(error)),
    }
}

/// Writes down what came back: it stands in the voters' pods, which do not stay.
///
/// # Errors
/// Kubernetes'.
pub async fn note(context: &Context, build: &Build<'_>, children: &Children) -> Result<(), Error> {
    if build.formation.restore.is_empty() {
        return Ok(());
    }
    // The voter that came first says the most: the others find done what it did.
    let Some(said) = children.said_at_format().max_by_key(|said| said.len()) else {
        return Ok(());
    };
    let known = build.formation.report.as_ref().map_or(0, String::len);
    if said.len() <= known {
        return Ok(());
    }
    let maps: Api<ConfigMap> = context.beside(build.cluster);
    let patch = json!({"metadata": {"annotations": {build::REPORT: said}}});
    let name = build::formation_name(build.cluster);
    merge(&maps, &name, &patch, "noting what was restored").await?;
    context.tell(build.cluster, false, "Restored", said).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(state: &serde_json::Value) -> Pod {
        let mut status = json!({"name": "preview", "image": "i", "imageID": "", "ready": false, "restartCount": 0});
        for (key, value) in state.as_object().into_iter().flatten() {
            status[key] = value.clone();
        }
        serde_json::from_value(json!({"metadata": {}, "status": {"containerStatuses": [status]}}))
            .expect("a pod")
    }

    #[test]
    fn a_preview_shows_what_the_pod_said_and_why_it_could_not() {
        let ended = |code: i32, message: &str| json!({"terminated": {"exitCode": code, "message": message}});
        let found = shown(&pod(&json!({"state": ended(0, "cluster C\na: 1\n")}))).expect("shown");
        assert_eq!((found.reason, found.text.as_str()), ("DryRun", "cluster C"));
        assert_eq!(found.report, ["cluster C", "a: 1"]);
        let found = shown(&pod(
            &json!({"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": ended(1, "no bucket\n")}),
        ));
        let found = found.expect("it failed");
        assert_eq!(
            (found.reason, found.text.as_str()),
            ("RestoreImpossible", "no bucket")
        );
        assert_eq!(shown(&pod(&json!({"state": {"running": {}}}))), None);
    }
}
