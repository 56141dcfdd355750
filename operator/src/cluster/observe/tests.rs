//! What pods and answers come to.

use super::*;
use crate::cluster::roller::Cause;
use serde_json::json;

fn of(status: &Value) -> Pod {
    let object = json!({
        "metadata": {"name": "orders-0-0", "creationTimestamp": "1970-01-01T00:00:01Z"},
        "status": status,
    });
    pod(Some(&serde_json::from_value(object).expect("a pod")))
}

#[test]
fn a_pod_is_what_kubernetes_says_of_it() {
    assert_eq!(pod(None), Pod::Absent);
    let ready = |status: &str| json!({"type": "Ready", "status": status, "lastTransitionTime": "1970-01-01T00:00:02Z"});
    assert_eq!(of(&json!({"conditions": [ready("True")]})), Pod::Ready);
    let running = json!([{"name": "broker", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": {"running": {}}}]);
    assert_eq!(
        of(&json!({"conditions": [ready("False")], "containerStatuses": running})),
        Pod::Unready { since_ms: 2_000 }
    );
    let waiting = |reason: &str| json!([{"name": "broker", "image": "", "imageID": "", "ready": false, "restartCount": 3, "state": {"waiting": {"reason": reason, "message": "back-off"}}}]);
    for field in ["containerStatuses", "initContainerStatuses"] {
        let crash =
            of(&json!({"conditions": [ready("False")], field: waiting("CrashLoopBackOff")}));
        assert!(matches!(crash, Pod::Crashing { ref text, since_ms: 2_000 } if text == "back-off"));
    }
    for (reason, cause) in [
        ("ImagePullBackOff", Cause::ImagePull),
        ("ContainerCreating", Cause::Starting),
    ] {
        let found = of(&json!({"containerStatuses": waiting(reason)}));
        let Pod::Pending {
            cause: found,
            since_ms: 1_000,
            ..
        } = found
        else {
            panic!("{found:?}")
        };
        assert_eq!(found, cause, "{reason}");
    }
    let unscheduled = |message: &str| {
        of(
            &json!({"conditions": [{"type": "PodScheduled", "status": "False", "message": message}]}),
        )
    };
    for (message, cause) in [
        (
            "0/3 nodes are available: 3 Insufficient memory.",
            Cause::Unschedulable,
        ),
        (
            "0/3 nodes are available: 3 node(s) had volume node affinity conflict.",
            Cause::Volume,
        ),
        (
            "0/2 nodes are available: 2 node(s) didn't match PersistentVolume's node affinity. no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.",
            Cause::Volume,
        ),
        (
            "0/3 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/unreachable: }, 2 node(s) had volume node affinity conflict.",
            Cause::Volume,
        ),
        // The node is there, and cannot take it now.
        (
            "0/3 nodes are available: 1 node(s) were unschedulable, 2 node(s) had volume node affinity conflict. preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.",
            Cause::Unschedulable,
        ),
        (
            "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't match PersistentVolume's node affinity.",
            Cause::Unschedulable,
        ),
    ] {
        let Pod::Pending {
            cause: found, text, ..
        } = unscheduled(message)
        else {
            panic!("{message}")
        };
        assert_eq!((found, text.as_str()), (cause, message));
    }
}

#[test]
fn a_pod_that_is_going_is_gone() {
    let object = json!({
        "metadata": {"deletionTimestamp": "1970-01-01T00:00:01Z"},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    });
    let going: KubePod = serde_json::from_value(object).expect("a pod");
    assert_eq!(pod(Some(&going)), Pod::Absent);
}

#[test]
fn a_broker_is_what_it_says() {
    let of = |state: Value, why: Option<&str>| {
        life(&json!({"lifecycle": state}), why.map(str::to_owned))
    };
    assert_eq!(of(json!({"state": "Running"}), None), Life::Running);
    let why = "catching up: not in sync in 3 of its partitions";
    assert_eq!(
        of(json!({"state": "Running"}), Some(why)),
        Life::Behind(why.into())
    );
    assert_eq!(
        of(json!({"state": "Running"}), Some("fenced")),
        Life::Running
    );
    assert_eq!(
        of(json!({"state": "Recovering", "done": 1, "total": 2}), None),
        Life::Recovering { done: 1, total: 2 }
    );
    assert_eq!(
        of(json!({"state": "DirectoryFailed", "reason": "EIO"}), None),
        Life::DirectoryFailed("EIO".into())
    );
    assert_eq!(
        of(json!({"state": "Starting"}), Some("reading its metadata")),
        Life::Starting
    );
}

#[test]
fn a_full_disk_is_what_a_broker_waits_for_whatever_it_is_at() {
    let of = |state: &str, why: Option<&str>| {
        let state = json!({"lifecycle": {"state": state, "done": 1, "total": 2}, "diskFull": "the disk is full"});
        life(&state, why.map(str::to_owned))
    };
    let full = |serves| Life::DiskFull {
        text: "the disk is full".into(),
        serves,
    };
    assert_eq!(of("Running", None), full(true));
    assert_eq!(of("Running", Some("fenced: the disk is full")), full(false));
    assert_eq!(
        of("Recovering", Some("the start waits for room")),
        full(false)
    );
    assert_eq!(
        of("Starting", Some("the start waits for room")),
        full(false)
    );
    assert_eq!(of("Stopping", Some("stopping")), Life::Stopping);
}
