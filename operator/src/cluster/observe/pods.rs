//! What Kubernetes says of a broker's pod.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod as KubePod};

use super::super::roller::{Cause, Pod};

/// Since when a pod is ready.
pub(super) fn ready_since_ms(pod: &KubePod) -> Option<i64> {
    let mut all = pod.status.as_ref()?.conditions.iter().flatten();
    let ready = all.find(|one| one.type_ == "Ready" && one.status == "True")?;
    Some(ready.last_transition_time.as_ref()?.0.as_millisecond())
}

/// What a pod comes to.
pub(super) fn pod(pod: Option<&KubePod>) -> Pod {
    let Some(pod) = pod.filter(|pod| pod.metadata.deletion_timestamp.is_none()) else {
        return Pod::Absent;
    };
    let status = pod.status.clone().unwrap_or_default();
    let condition = |type_: &str| {
        let mut all = status.conditions.iter().flatten();
        all.find(|condition| condition.type_ == type_)
    };
    let made = pod.metadata.creation_timestamp.as_ref();
    let made_ms = made.map_or(0, |time| time.0.as_millisecond());
    let ready = condition("Ready");
    if ready.is_some_and(|ready| ready.status == "True") {
        return Pod::Ready;
    }
    let since_ms = ready
        .and_then(|ready| ready.last_transition_time.as_ref())
        .map_or(made_ms, |time| time.0.as_millisecond());
    let containers: Vec<&ContainerStatus> = status
        .init_container_statuses
        .iter()
        .chain(&status.container_statuses)
        .flatten()
        .collect();
    if let Some(found) = containers.iter().find_map(|one| stuck(one, since_ms)) {
        return found;
    }
    if status.phase.as_deref() == Some("Failed") {
        let text = status.message.or(status.reason);
        return Pod::Crashing {
            text: text.unwrap_or_else(|| "its pod failed".to_owned()),
            since_ms,
        };
    }
    let runs = |one: &&ContainerStatus| one.state.as_ref().is_some_and(|s| s.running.is_some());
    if status
        .container_statuses
        .iter()
        .flatten()
        .any(|one| runs(&one))
    {
        return Pod::Unready { since_ms };
    }
    let unscheduled = condition("PodScheduled").filter(|c| c.status == "False");
    let text = unscheduled.and_then(|condition| condition.message.clone());
    let cause = match (&unscheduled, &text) {
        (Some(_), Some(text)) if out_of_reach(text) => Cause::Volume,
        (Some(_), _) => Cause::Unschedulable,
        (None, _) => Cause::Starting,
    };
    Pod::Pending {
        cause,
        text: text.unwrap_or_else(|| "its pod starts".to_owned()),
        since_ms,
    }
}

/// Whether the scheduler says that the node is gone where a volume is. One that is cordoned or full has
/// it still: a disk is not lost for that.
fn out_of_reach(text: &str) -> bool {
    let about_volume = |reason: &str| {
        // The last one is of those that are not asked any further.
        let words = [
            "volume node affinity",
            "PersistentVolume's node affinity",
            "[VolumeBinding]",
        ];
        words.iter().any(|words| reason.contains(words))
    };
    let unreachable = |reason: &str| reason.contains("node.kubernetes.io/unreachable");
    let listed = text.split_once("nodes are available: ");
    let listed = listed.map_or(text, |(_, listed)| listed);
    let reasons = listed.split(". ").next().unwrap_or_default();
    let mut reasons = reasons.split(", ");
    reasons.clone().any(about_volume) && reasons.all(|r| about_volume(r) || unreachable(r))
}

/// A container that does not get to run.
fn stuck(container: &ContainerStatus, since_ms: i64) -> Option<Pod> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref().unwrap_or_default();
    let pulls = BTreeSet::from([
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "CreateContainerConfigError",
    ]);
    let last = container.last_state.as_ref();
    let ended = last.and_then(|state| state.terminated.as_ref());
    let said = ended.and_then(|ended| ended.message.clone());
    let text = [waiting.message.clone(), said].into_iter().flatten();
    let text = text.collect::<Vec<_>>().join("; ");
    let text = if text.is_empty() {
        reason.to_owned()
    } else {
        text
    };
    match reason {
        "CrashLoopBackOff" => Some(Pod::Crashing { text, since_ms }),
        reason if pulls.contains(reason) => Some(Pod::Pending {
            cause: Cause::ImagePull,
            text,
            since_ms,
        }),
        _ => None,
    }
}
