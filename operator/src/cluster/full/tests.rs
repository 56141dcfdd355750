//! What makes room, and what is told once.

use super::*;
use crate::cluster::roller::Pod;
use serde_json::{Value, json};

fn cluster(size: &str, paused: bool) -> Cluster {
    let document = json!({
        "apiVersion": "tidemark.dev/v1alpha1",
        "kind": "Cluster",
        "metadata": {"name": "orders", "namespace": "shop"},
        "spec": {
            "paused": paused,
            "pools": [{"name": "brokers", "replicas": 3, "storage": {"size": size}}],
        },
    });
    serde_json::from_value(document).expect("a cluster")
}

fn claim(asked: &str, status: &Value) -> PersistentVolumeClaim {
    let document = json!({
        "metadata": {"name": "orders-1-data"},
        "spec": {"resources": {"requests": {"storage": asked}}},
        "status": status,
    });
    serde_json::from_value(document).expect("a claim")
}

fn has(size: &str) -> Value {
    json!({"capacity": {"storage": size}})
}

fn node() -> Node {
    Node {
        id: 1,
        pool: "brokers".into(),
    }
}

#[test]
fn what_makes_room_is_said_of_the_claim_as_it_is() {
    let of = |cluster: &Cluster, claim: &PersistentVolumeClaim, refused: &[String]| {
        room(cluster, &node(), Some(claim), refused)
    };
    assert_eq!(
        of(&cluster("1Gi", false), &claim("1Gi", &has("1Gi")), &[]),
        "raise storage.size of pool brokers, and orders-1-data grows from 1Gi; or delete topics, or lower their retention"
    );
    // It was asked to grow just now, or before.
    let larger = cluster("2Gi", false);
    for asked in ["1Gi", "2Gi"] {
        let grows = of(&larger, &claim(asked, &has("1Gi")), &[]);
        assert_eq!(grows, "orders-1-data grows to 2Gi");
    }
    let pending = json!({
        "capacity": {"storage": "1Gi"},
        "conditions": [{"type": "FileSystemResizePending", "status": "True"}],
    });
    let pending = of(&larger, &claim("2Gi", &pending), &[]);
    assert!(
        pending.ends_with("kubectl delete pod orders-1-0"),
        "{pending}"
    );
    assert_eq!(
        of(&cluster("2Gi", true), &claim("1Gi", &has("1Gi")), &[]),
        "spec.paused keeps orders-1-data from growing to 2Gi"
    );
    // A line of its own, not that of orders-11.
    let refused = [
        "orders-11-data cannot grow: no".to_owned(),
        "orders-1-data cannot grow: only dynamically provisioned".to_owned(),
    ];
    assert_eq!(
        of(&larger, &claim("1Gi", &has("1Gi")), &refused),
        "orders-1-data cannot grow: only dynamically provisioned; delete topics, or lower their retention"
    );
    assert_eq!(room(&larger, &node(), None, &[]), DELETE);
}

fn broker(life: Option<Life>) -> Broker {
    Broker {
        id: 1,
        voter: true,
        pod: Pod::Ready,
        ready_since_ms: None,
        template: String::new(),
        life,
        leased: false,
        cut_off: false,
    }
}

#[test]
fn it_is_told_when_it_begins_and_when_it_ends_and_not_in_between() {
    let last = |state: &str| -> ClusterStatus {
        let brokers = json!([{"id": 1, "pool": "brokers", "state": state, "stale": false}]);
        serde_json::from_value(json!({"brokers": brokers})).expect("a status")
    };
    let full = || {
        Some(Life::DiskFull {
            text: "the disk is full".into(),
            serves: false,
        })
    };
    let of = |old: Option<&ClusterStatus>, life| {
        let news = news(old, &[broker(life)]);
        let all = news.into_iter().map(|one| (one.warning, one.reason));
        all.collect::<Vec<_>>()
    };
    let (well, known) = (last("Ready"), last(STATE));
    for old in [None, Some(&well)] {
        assert_eq!(of(old, full()), [(true, "DiskFull")]);
        assert_eq!(of(old, Some(Life::Running)), []);
    }
    assert_eq!(of(Some(&known), full()), []);
    for life in [Life::Running, Life::Behind("catching up".into())] {
        assert_eq!(of(Some(&known), Some(life)), [(false, "DiskHasRoom")]);
    }
    // Who does not answer, or has not looked yet, does not know.
    for life in [None, Some(Life::Starting), Some(Life::Stopping)] {
        assert_eq!(of(Some(&known), life), []);
    }
}
