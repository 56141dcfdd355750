//! `tidemark kube` and `doctor --cluster`, with a kubectl that answers from files.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::harness::BINARY;

/// A kubectl that answers what it was told to, and notes what it was asked.
struct Kubectl(tempfile::TempDir);

impl Kubectl {
    /// `answers` by the words after the place, as they are typed.
    fn new(answers: &[(&str, &Value)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut script =
            "#!/bin/sh\necho \"$@\" >> \"$(dirname \"$0\")/asked\"\ncase \"$*\" in\n".to_owned();
        for (index, (words, answer)) in answers.iter().enumerate() {
            let file = directory.path().join(format!("answer-{index}"));
            let text = answer
                .as_str()
                .map_or_else(|| answer.to_string(), str::to_owned);
            std::fs::write(&file, text).unwrap();
            script.push_str(&format!("*'{words}'*) cat '{}';;\n", file.display()));
        }
        script.push_str("*) echo \"Error from server (NotFound): $*\" >&2; exit 1;;\nesac\n");
        let path = directory.path().join("kubectl");
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self(directory)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("kubectl")
    }

    fn asked(&self) -> String {
        std::fs::read_to_string(self.0.path().join("asked")).unwrap_or_default()
    }

    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let done = Command::new(BINARY)
            .args(arguments)
            .env("KUBECTL", self.path())
            .output()
            .unwrap();
        said(&done)
    }
}

fn said(done: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        done.status.code().unwrap_or(-1),
        text(&done.stdout),
        text(&done.stderr),
    )
}

fn condition(type_: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({"type": type_, "status": status, "reason": reason, "message": message, "lastTransitionTime": "2026-01-01T00:00:00Z"})
}

fn cluster() -> Value {
    let broker = |id: i32| json!({"id": id, "pool": "a", "state": "Ready", "stale": true});
    json!({
        "apiVersion": "tidemark.dev/v1alpha1", "kind": "Cluster",
        "metadata": {"name": "orders", "namespace": "shop", "generation": 2},
        "spec": {"disruption": {"mode": "Approval"}, "pools": [{"name": "a", "replicas": 3, "storage": {"size": "10Gi"}}]},
        "status": {
            "observedGeneration": 2, "ready": "3/3", "message": "restart of 3 brokers awaits approval d-7f3a", "controller": 1,
            "brokers": [broker(0), broker(1), broker(2)],
            "partitions": {"total": 12, "underReplicated": 0, "offline": 0},
            "disruption": {"id": "d-7f3a", "state": "AwaitingApproval", "message": "", "restarts": [2, 0, 1], "reasons": ["ImageChange"], "unavoidable": ["legacy-0"]},
            "conditions": [condition("Ready", "True", "Serving", ""), condition("Reconciled", "False", "AwaitingApproval", "restart of 3 brokers")],
        },
    })
}

fn list(items: &[Value]) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

fn pending_topic() -> Value {
    json!({
        "apiVersion": "tidemark.dev/v1alpha1", "kind": "Topic", "metadata": {"name": "payments"},
        "spec": {"clusterRef": {"name": "orders"}},
        "status": {"partitions": 3, "replicas": 3, "pendingId": "t-1", "pending": ["retention.ms is 5, not 1: records beyond the new limit would be deleted"], "message": "waits for approval"},
    })
}

fn shop() -> Kubectl {
    Kubectl::new(&[
        ("json cluster.tidemark.dev orders", &cluster()),
        ("json clusters.tidemark.dev", &list(&[cluster()])),
        ("json topics.tidemark.dev", &list(&[pending_topic()])),
        ("json topic.tidemark.dev payments", &pending_topic()),
        ("json consumergroups.tidemark.dev", &list(&[])),
        ("annotate --overwrite", &json!("annotated")),
        ("logs -l", &json!("lines")),
        (
            "exec -i orders-0-0 -c broker -- tidemark topic list",
            &json!("topics"),
        ),
        (
            "exec orders-0-0 -c broker -- tidemark doctor --low-disk 6 -o json",
            &json!({"cluster_id": "C", "findings": 1, "checks": [
            {"name": "replicas", "seen": "", "findings": [{"what": "1 topic with one replica: x", "why": "w", "next": "tidemark topic describe x"}]}]}),
        ),
        (
            "proxy/metrics",
            &json!(
                "tidemark_active_controller 1\ntidemark_disk_free_bytes{directory=\"d\"} 5\ntidemark_disk_capacity_bytes{directory=\"d\"} 100\n"
            ),
        ),
    ])
}

#[test]
fn a_cluster_is_shown_with_what_it_waits_for() {
    let shop = shop();
    let (code, out, _) = shop.run(&["kube", "status", "-n", "shop"]);
    assert_eq!(code, 1, "it is not reconciled");
    assert!(out.contains("orders  3/3    True"), "{out}");
    assert!(
        shop.asked().contains("--namespace shop get"),
        "{}",
        shop.asked()
    );
    let (code, out, _) = shop.run(&["kube", "status", "orders"]);
    assert_eq!(code, 1);
    for says in [
        "3/3 brokers ready",
        "12 partitions, 0 under-replicated",
        "payments",
        "next: tidemark kube plan orders",
    ] {
        assert!(out.contains(says), "no '{says}' in {out}");
    }
    let (_, out, _) = shop.run(&["kube", "status", "orders", "-o", "json"]);
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["cluster"]["name"], "orders");
    assert_eq!(report["topics"][0]["pendingId"], "t-1");
}

#[test]
fn a_plan_is_shown_and_only_the_one_that_is_shown_is_approved() {
    let shop = shop();
    let (code, out, _) = shop.run(&["kube", "plan", "orders"]);
    assert_eq!(code, 0);
    for says in [
        "Plan d-7f3a   ImageChange",
        "one at a time: 2, 0, 1",
        "legacy-0",
        "approve orders d-7f3a",
        "approve --topic payments t-1",
    ] {
        assert!(out.contains(says), "no '{says}' in {out}");
    }
    let (code, _, error) = shop.run(&["kube", "approve", "orders", "d-0000"]);
    assert_eq!(code, 1);
    assert!(
        error.contains("the plan of orders is d-7f3a now") && !shop.asked().contains("annotate"),
        "{error}"
    );
    let (code, _, _) = shop.run(&["kube", "approve", "orders", "d-7f3a"]);
    assert_eq!(code, 0);
    assert!(
        shop.asked().contains(
            "annotate --overwrite cluster.tidemark.dev orders tidemark.dev/approve=d-7f3a"
        )
    );
    let (code, _, error) = shop.run(&["kube", "approve", "--topic", "payments", "t-2"]);
    assert!(
        code == 1 && error.contains("what waits is t-1 now"),
        "{error}"
    );
    assert_eq!(
        shop.run(&["kube", "approve", "--topic", "payments", "t-1"])
            .0,
        0
    );
    assert_eq!(shop.run(&["kube", "restart", "orders"]).0, 0);
    assert!(shop.asked().contains("tidemark.dev/restart=20"));
}

#[test]
fn commands_run_beside_a_broker_and_logs_are_of_all_or_one() {
    let shop = shop();
    assert_eq!(
        shop.run(&["kube", "run", "orders", "--", "topic", "list"]),
        (0, "topics".to_owned(), String::new())
    );
    assert_eq!(shop.run(&["kube", "logs", "orders", "--broker", "2"]).0, 0);
    assert!(
        shop.asked()
            .contains("tidemark.dev/cluster=orders,tidemark.dev/broker-id=2")
    );
    let (code, _, error) = shop.run(&["kube", "run", "none", "--", "topic", "list"]);
    assert!(
        code == 1 && error.contains("NotFound") && error.contains("next: tidemark kube status"),
        "{error}"
    );
}

#[test]
fn the_doctor_puts_together_what_all_of_them_say() {
    let shop = shop();
    let doctor = ["doctor", "--cluster", "orders", "-n", "shop"];
    let (code, out, error) = shop.run(&[&doctor[..], &["--low-disk", "6"]].concat());
    assert_eq!(code, 1, "{error}");
    for says in [
        "Reconciled is False",
        "waits for approval: retention.ms is 5",
        "broker 2 has 5 B left, 5% of its disk",
        "\"value\":\"20Gi\"",
        "1 topic with one replica: x",
        "next: tidemark kube -n shop run orders -- topic describe x",
    ] {
        assert!(out.contains(says), "no '{says}' in {out}");
    }
}

#[test]
fn what_helps_is_gathered_and_nothing_is_written_over() {
    let shop = shop();
    let directory = tempfile::tempdir().unwrap();
    let to = directory.path().join("bundle");
    let (code, out, error) = shop.run(&["kube", "gather", "orders", "--to", to.to_str().unwrap()]);
    assert_eq!(code, 0, "{error}");
    assert!(out.contains("next: tar czf"), "{out}");
    let metrics = std::fs::read_to_string(to.join("orders-2-0.metrics")).unwrap();
    assert!(metrics.contains("tidemark_active_controller"));
    let missing = std::fs::read_to_string(to.join("events.txt")).unwrap();
    assert!(missing.starts_with("not to be had"), "{missing}");
    let (code, _, error) = shop.run(&["kube", "gather", "orders", "--to", to.to_str().unwrap()]);
    assert!(
        code == 2 && error.contains("it is there already"),
        "{error}"
    );
}

#[test]
fn a_plugin_is_the_same_binary_by_another_name() {
    let shop = shop();
    let directory = tempfile::tempdir().unwrap();
    let plugin = directory.path().join("kubectl-tidemark");
    std::os::unix::fs::symlink(BINARY, &plugin).unwrap();
    let done = Command::new(&plugin)
        .args(["plan", "orders"])
        .env("KUBECTL", shop.path())
        .output()
        .unwrap();
    let (code, out, error) = said(&done);
    assert_eq!(code, 0, "{error}");
    assert!(
        out.contains("next: kubectl tidemark approve orders d-7f3a"),
        "{out}"
    );
    let done = Command::new(BINARY)
        .args(["kube", "status"])
        .env("KUBECTL", "/nowhere/kubectl")
        .output()
        .unwrap();
    let (code, _, error) = said(&done);
    assert!(
        code == 2 && error.contains("there is no /nowhere/kubectl on the path"),
        "{error}"
    );
}
