//! The objects as YAML, beside this file: `UPDATE=1 cargo test -p tidemark-operator` writes them.

use super::*;

fn cluster(more: &Value) -> Cluster {
    let mut cluster = json!({
        "apiVersion": "tidemark.dev/v1alpha1",
        "kind": "Cluster",
        "metadata": {"name": "orders", "namespace": "shop", "uid": "u-1"},
        "spec": {"pools": [{"name": "brokers", "replicas": 3, "storage": {"size": "10Gi"}}]},
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        cluster["spec"][key] = value.clone();
    }
    serde_json::from_value(cluster).expect("a good cluster")
}

fn formed() -> Formation {
    Formation {
        cluster_id: "C".into(),
        voters: (0..3).map(|id| (id, format!("D{id}"))).collect(),
    }
}

fn node(id: i32) -> Node {
    Node {
        id,
        pool: "brokers".into(),
    }
}

#[test]
#[allow(clippy::disallowed_methods, reason = "a check reads the repository")]
fn the_objects_are_as_they_were() {
    let (cluster, formed) = (
        cluster(&json!({"config": {"num.partitions": "3"}})),
        formed(),
    );
    let build = Build {
        cluster: &cluster,
        formation: &formed,
        image: "registry.lab/tidemark:1",
    };
    let objects = [
        formation(&cluster, &formed),
        service_account(&cluster),
        disruption_budget(&cluster),
        bootstrap_service(&cluster),
        build.service(&node(1)),
        build.claim(&node(1)).expect("of a pool"),
        build.files(&node(1), true),
        build.files(&node(3), false),
        build.stateful_set(&node(1)).expect("of a pool"),
    ];
    let text: String = objects
        .iter()
        .map(|object| format!("---\n{}", serde_norway::to_string(object).expect("YAML")))
        .collect();
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/src/cluster/build/objects.yaml"
    );
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, &text).expect("the repository is writable");
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        found == text,
        "objects.yaml differs: look at it with UPDATE=1 and git diff"
    );
}

#[test]
fn what_needs_no_restart_does_not_change_the_template() {
    let hash = |more: Value, image: &str| {
        let (cluster, formation) = (cluster(&more), formed());
        let build = Build {
            cluster: &cluster,
            formation: &formation,
            image,
        };
        build.template_hash(&node(0)).expect("of a pool")
    };
    let pools = |replicas: i32, size: &str, resources: Value| json!({"pools": [{"name": "brokers", "replicas": replicas, "storage": {"size": size}, "resources": resources}]});
    let first = hash(json!({}), "a");
    assert_eq!(hash(json!({}), "a"), first);
    assert_eq!(hash(json!({"paused": true}), "a"), first);
    assert_eq!(hash(json!({"deletionPolicy": "Delete"}), "a"), first);
    assert_eq!(hash(pools(5, "20Gi", Value::Null), "a"), first);
    assert_ne!(hash(json!({}), "b"), first);
    assert_ne!(hash(json!({"config": {"num.partitions": "3"}}), "a"), first);
    let resources = json!({"limits": {"memory": "1Gi"}});
    assert_ne!(hash(pools(3, "10Gi", resources), "a"), first);
}

#[test]
fn what_differs_is_named_and_what_the_operator_did_alone_too() {
    let (first, formation) = (cluster(&json!({})), formed());
    let build = Build {
        cluster: &first,
        formation: &formation,
        image: "a",
    };
    let set = build.stateful_set(&node(0)).expect("of a pool");
    let annotations = &set["spec"]["template"]["metadata"]["annotations"];
    let of_pod = serde_json::from_value(annotations.clone()).expect("strings");
    let reasons = |more: Value, image: &str| {
        let build = Build {
            cluster: &cluster(&more),
            formation: &formation,
            image,
        };
        build.reasons(&node(0), &of_pod)
    };
    assert_eq!(reasons(json!({}), "a"), ["OperatorUpgrade"]);
    assert_eq!(reasons(json!({"paused": true}), "b"), ["ImageChange"]);
    let config = json!({"config": {"num.partitions": "3"}});
    assert_eq!(reasons(config, "b"), ["ImageChange", "StaticConfig"]);
    let pools = json!({"pools": [{"name": "brokers", "replicas": 3, "storage": {"size": "10Gi"}, "resources": {"limits": {"cpu": "1"}}}]});
    assert_eq!(reasons(pools, "a"), ["ResourcesChange"]);
}

#[test]
fn settings_of_ours_go_before_those_of_the_spec() {
    let cluster = cluster(&json!({"config": {"node.id": "9", "min.insync.replicas": "1"}}));
    let formation = formed();
    let build = Build {
        cluster: &cluster,
        formation: &formation,
        image: "a",
    };
    let settings = build.settings(&node(1));
    assert_eq!(settings["node.id"], "1");
    assert_eq!(settings["min.insync.replicas"], "1");
    let none = tidemark_config::ConfigMap::new();
    for id in [1, 3] {
        let fixed = build.settings(&node(id));
        let layers = tidemark_config::BrokerLayers {
            dynamic: &none,
            dynamic_default: &none,
            fixed: &fixed,
        };
        tidemark_config::BrokerSettings::resolve(layers).expect("a broker takes them");
    }
}

#[test]
fn a_broker_keeps_its_id_and_a_new_one_takes_the_lowest() {
    let pool = |name: &str, replicas| Pool {
        name: name.into(),
        replicas,
        resources: None,
        storage: tidemark_crds::cluster::Storage {
            size: "1Gi".into(),
            storage_class_name: None,
        },
    };
    let pools = [pool("a", 2), pool("b", 2)];
    let ids = |nodes: &[Node]| -> Vec<(i32, String)> {
        nodes.iter().map(|n| (n.id, n.pool.clone())).collect()
    };
    let of = |id, pool: &str| (id, pool.to_owned());
    let first = nodes(&[], &pools);
    assert_eq!(
        ids(&first),
        [of(0, "a"), of(1, "a"), of(2, "b"), of(3, "b")]
    );
    assert_eq!(nodes(&first, &pools), first);
    let grown = nodes(&first, &[pool("a", 3), pool("b", 2)]);
    assert_eq!(grown[4].id, 4);
    assert_eq!(grown[4].pool, "a");
    let left = &first[1..];
    assert_eq!(nodes(left, &pools), first);
}

#[test]
fn a_formation_is_read_as_it_was_written() {
    let written = formation(&cluster(&json!({})), &formed());
    let data: BTreeMap<String, String> =
        serde_json::from_value(written["data"].clone()).expect("strings");
    assert_eq!(read_formation(&data), Some(formed()));
    assert_eq!(read_formation(&BTreeMap::new()), None);
}

#[test]
fn data_stays_unless_the_spec_says_otherwise() {
    for (policy, owners) in [("Retain", 0), ("Delete", 1)] {
        let cluster = cluster(&json!({"deletionPolicy": policy}));
        let formation = formed();
        let build = Build {
            cluster: &cluster,
            formation: &formation,
            image: "a",
        };
        let count = |object: Value| {
            object["metadata"]["ownerReferences"]
                .as_array()
                .map(Vec::len)
        };
        assert_eq!(
            count(build.claim(&node(0)).expect("of a pool")),
            Some(owners)
        );
        assert_eq!(count(super::formation(&cluster, &formation)), Some(owners));
        assert_eq!(count(build.service(&node(0))), Some(1));
    }
}

#[test]
fn a_restart_that_was_asked_for_is_a_reason_and_none_is_not() {
    let (quiet, formed) = (cluster(&json!({})), formed());
    let mut asked = quiet.clone();
    let annotations = asked.metadata.annotations.get_or_insert_default();
    annotations.insert(RESTART.0.to_owned(), "now".to_owned());
    let build = |cluster| Build {
        cluster,
        formation: &formed,
        image: "i",
    };
    let (quiet, asked) = (build(&quiet), build(&asked));
    assert_ne!(quiet.template_hash(&node(1)), asked.template_hash(&node(1)));
    let pool = quiet.pool(&node(1)).expect("a pool");
    let of_pod = quiet.parts(pool);
    assert!(!of_pod.contains_key(RESTART.0));
    assert_eq!(asked.reasons(&node(1), &of_pod), [RESTART.1]);
    // Another one is another restart.
    assert_eq!(
        asked.reasons(&node(1), &asked.parts(pool)),
        [OPERATOR_UPGRADE]
    );
}
