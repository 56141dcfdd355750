//! Every rule that the API server evaluates is one here as well.

use serde_json::json;

use super::*;
use crate::reference::messages;

fn document(kind: &str, spec: &Value) -> Value {
    json!({"apiVersion": "tidemark.dev/v1alpha1", "kind": kind, "metadata": {"name": "one"}, "spec": spec})
}

fn cluster() -> Value {
    let pool =
        json!({"name": "a", "replicas": 3, "storage": {"size": "1Gi", "storageClassName": "fast"}});
    document("Cluster", &json!({"pools": [pool]}))
}

fn listening() -> Value {
    let mut cluster = cluster();
    let mutual = json!([{"type": "MutualTLS", "caSecretRef": {"name": "clients"}}]);
    cluster["spec"]["listeners"] = json!([
        {"name": "plain", "port": 9092},
        {"name": "tls", "port": 9093, "type": "NodePort", "tls": {}, "authentication": mutual},
    ]);
    cluster
}

fn restored() -> Value {
    let mut restored = tiered();
    restored["spec"]["restore"] = json!({"mode": "Takeover"});
    restored
}

fn racked() -> Value {
    let mut racked = cluster();
    racked["spec"]["racks"] = json!({"values": ["z1", "z2"]});
    racked
}

fn tiered() -> Value {
    let mut cluster = cluster();
    cluster["spec"]["tier"] = json!({"url": "s3://acme/orders"});
    cluster
}

fn topic() -> Value {
    document(
        "Topic",
        &json!({"clusterRef": {"name": "one"}, "topicName": "one", "partitions": 3}),
    )
}

fn group() -> Value {
    let reset = json!({"token": "a", "to": {"latest": true}});
    document(
        "ConsumerGroup",
        &json!({"clusterRef": {"name": "one"}, "groupId": "one", "reset": reset}),
    )
}

fn read_one(document: &Value) -> Resource {
    read(document).expect("a good one").expect("one of ours")
}

type Change = fn(&mut Value);

#[test]
fn every_rule_of_the_api_server_is_held_here_too() {
    let give = "give one of them";
    // The rule's message, a document that is well, what makes it break the rule.
    let broken: Vec<(&str, Value, Change)> = vec![
        ("the name must be a DNS label", cluster(), |v| {
            v["metadata"]["name"] = json!("1a");
        }),
        ("at least as many brokers as voters", cluster(), |v| {
            v["spec"]["pools"][0]["replicas"] = json!(2);
        }),
        ("voters must be 1, 3 or 5", cluster(), |v| {
            v["spec"]["quorum"] = json!({"voters": 2});
        }),
        ("ports 8080, 9090 and 9091", listening(), |v| {
            v["spec"]["listeners"][0]["port"] = json!(9091);
        }),
        ("the names replication, controller", listening(), |v| {
            v["spec"]["listeners"][0]["name"] = json!("replication");
        }),
        ("each listener needs a port of its own", listening(), |v| {
            v["spec"]["listeners"][0]["port"] = json!(9093);
        }),
        ("MutualTLS needs tls", listening(), |v| {
            v["spec"]["listeners"][1]
                .as_object_mut()
                .expect("an object")
                .remove("tls");
        }),
        ("source Secret needs secretRef", listening(), |v| {
            v["spec"]["listeners"][1]["tls"] = json!({"source": "Secret"});
        }),
        ("source CertManager needs issuerRef", listening(), |v| {
            v["spec"]["listeners"][1]["tls"] = json!({"issuerRef": {"name": "acme"}});
        }),
        ("minInsyncReplicas is more than replicas", topic(), |v| {
            v["spec"]["replicas"] = json!(1);
            v["spec"]["minInsyncReplicas"] = json!(2);
        }),
        (give, topic(), |v| {
            v["spec"]["retention"] = json!("1d");
            v["spec"]["config"] = json!({"retention.ms": "1"});
        }),
        (give, topic(), |v| {
            v["spec"]["retentionBytes"] = json!("1");
            v["spec"]["config"] = json!({"retention.bytes": "1"});
        }),
        (give, topic(), |v| {
            v["spec"]["cleanup"] = json!("Delete");
            v["spec"]["config"] = json!({"cleanup.policy": "delete"});
        }),
        (give, topic(), |v| {
            v["spec"]["minInsyncReplicas"] = json!(1);
            v["spec"]["config"] = json!({"min.insync.replicas": "1"});
        }),
        (give, topic(), |v| {
            v["spec"]["tier"] = json!({"enabled": true});
            v["spec"]["config"] = json!({"remote.storage.enable": "true"});
        }),
        (give, topic(), |v| {
            v["spec"]["tier"] = json!({"localRetention": "1d"});
            v["spec"]["config"] = json!({"local.retention.ms": "1"});
        }),
        (give, topic(), |v| {
            v["spec"]["tier"] = json!({"localRetentionBytes": "1"});
            v["spec"]["config"] = json!({"local.retention.bytes": "1"});
        }),
        ("a restored cluster keeps its topics", restored(), |v| {
            v["spec"].as_object_mut().expect("an object").remove("tier");
        }),
        ("a takeover is of the bucket", restored(), |v| {
            v["spec"]["restore"]["source"] = json!("s3://acme/other");
        }),
        ("a clone is of another bucket", restored(), |v| {
            v["spec"]["restore"]["mode"] = json!("Clone");
        }),
        ("give one of earliest", group(), |v| {
            v["spec"]["reset"]["to"] = json!({});
        }),
    ];
    let changed: Vec<(&str, Value, Change)> = vec![
        (
            "a pool is taken out when it has no brokers",
            cluster(),
            |v| {
                v["spec"]["pools"][0]["name"] = json!("b");
            },
        ),
        (
            "type and port of a listener cannot change",
            listening(),
            |v| {
                v["spec"]["listeners"][1]["type"] = json!("LoadBalancer");
            },
        ),
        ("racks cannot be taken out", racked(), |v| {
            v["spec"]
                .as_object_mut()
                .expect("an object")
                .remove("racks");
        }),
        ("racks.topologyKey cannot change", racked(), |v| {
            v["spec"]["racks"]["topologyKey"] = json!("kubernetes.io/hostname");
        }),
        (
            "restore is chosen when the cluster is made",
            restored(),
            |v| {
                v["spec"]
                    .as_object_mut()
                    .expect("an object")
                    .remove("restore");
            },
        ),
        (
            "restore cannot change once it is no dry run",
            restored(),
            |v| {
                v["spec"]["restore"]["topics"] = json!(["a"]);
            },
        ),
        ("tier cannot be taken out", tiered(), |v| {
            v["spec"].as_object_mut().expect("an object").remove("tier");
        }),
        ("tier.url cannot change", tiered(), |v| {
            v["spec"]["tier"]["url"] = json!("s3://acme/other");
        }),
        ("a disk cannot shrink", cluster(), |v| {
            v["spec"]["pools"][0]["storage"]["size"] = json!("512Mi");
        }),
        ("storageClassName cannot change", cluster(), |v| {
            v["spec"]["pools"][0]["storage"] = json!({"size": "1Gi"});
        }),
        (
            "the number of voters is chosen when the cluster is made",
            cluster(),
            |v| {
                v["spec"]["quorum"] = json!({"voters": 1});
            },
        ),
        ("topicName cannot change", topic(), |v| {
            v["spec"]["topicName"] = json!("two");
        }),
        (
            "clusterRef cannot change: make another Topic",
            topic(),
            |v| v["spec"]["clusterRef"]["name"] = json!("two"),
        ),
        ("partitions cannot be taken away", topic(), |v| {
            v["spec"]["partitions"] = json!(2);
        }),
        ("groupId cannot change", group(), |v| {
            v["spec"]["groupId"] = json!("two");
        }),
        (
            "clusterRef cannot change: make another ConsumerGroup",
            group(),
            |v| {
                v["spec"]["clusterRef"]["name"] = json!("two");
            },
        ),
    ];
    for (message, good, change) in &broken {
        assert!(read(good).is_ok(), "{message}");
        let mut bad = good.clone();
        change(&mut bad);
        assert!(read(&bad).is_err(), "{message}: {bad} is to be refused");
    }
    for (message, good, change) in &changed {
        let old = read_one(good);
        assert_eq!(old.validate_change(&old), Ok(()), "{message}");
        let mut bad = good.clone();
        change(&mut bad);
        let refused = read_one(&bad).validate_change(&old).expect_err("refused");
        assert!(
            refused.message.contains(message),
            "'{}' instead of '{message}'",
            refused.message
        );
    }
    // A rule that is new is new here, too.
    for (_, definition) in reference::definitions() {
        for rule in messages(&definition) {
            let known = broken
                .iter()
                .chain(&changed)
                .any(|(message, ..)| rule.contains(message));
            assert!(
                known,
                "{}: '{rule}' is not held by manifest.rs",
                definition.spec.names.kind
            );
        }
    }
}

#[test]
fn what_is_no_resource_of_ours_is_told_apart() {
    let other = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}});
    assert_eq!(read(&other), Ok(None));
    let reason = |document: &Value| read(document).expect_err("refused").reason;
    assert_eq!(reason(&json!({"kind": "Topic"})), "NoKind");
    assert_eq!(reason(&json!("text")), "NoKind");
    assert_eq!(reason(&document("Topics", &json!({}))), "UnknownKind");
    let mut newer = topic();
    newer["apiVersion"] = json!("tidemark.dev/v9");
    assert_eq!(reason(&newer), "UnknownVersion");
    let mut named = topic();
    named["metadata"]["name"] = json!("Payments_1");
    assert_eq!(reason(&named), "InvalidName");
    let mut misplaced = topic();
    misplaced["partitions"] = json!(3);
    assert_eq!(reason(&misplaced), "InvalidSchema");
    assert_eq!(reason(&document("Topic", &Value::Null)), "InvalidSchema");
}
