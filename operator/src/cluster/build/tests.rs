//! The objects as YAML, beside this file: `UPDATE=1 cargo test -p tidemark-operator` writes them.

use k8s_openapi::api::core::v1::ConfigMap;

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

/// Nobody comes from elsewhere.
static ADDRESSES: Addresses = Addresses::new();

fn sorted(cluster: &Cluster) -> Settings {
    tidemark_crds::cluster::settings(&cluster.spec)
}

fn formed() -> Formation {
    Formation::new(
        "C".into(),
        (0..3).map(|id| (id, format!("D{id}"))).collect(),
    )
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
        settings: &sorted(&cluster),
        addresses: &ADDRESSES,
    };
    let objects = [
        formation(&cluster, &formed),
        service_account(&cluster),
        disruption_budget(&cluster),
        network_policy(&cluster),
        bootstrap_service(&cluster),
        build.service(&node(1)),
        build.claim(&node(1)).expect("of a pool"),
        build.files(&node(1), Disk::MayBeEmpty),
        build.files(&node(3), Disk::InUse),
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
            settings: &sorted(&cluster),
            addresses: &ADDRESSES,
        };
        build.template_hash(&node(0)).expect("of a pool")
    };
    let pools = |replicas: i32, size: &str, resources: Value| json!({"pools": [{"name": "brokers", "replicas": replicas, "storage": {"size": size}, "resources": resources}]});
    let first = hash(json!({}), "a");
    assert_eq!(hash(json!({}), "a"), first);
    assert_eq!(hash(json!({"paused": true}), "a"), first);
    assert_eq!(hash(json!({"deletionPolicy": "Delete"}), "a"), first);
    assert_eq!(hash(pools(5, "20Gi", Value::Null), "a"), first);
    // Brokers take it while they run, and one that is refused is not taken at all.
    let live = json!({"config": {"log.retention.ms": "5", "num.partitions": "many"}});
    assert_eq!(hash(live, "a"), first);
    let tier =
        |lag: &str| json!({"tier": {"url": "s3://a/b", "defaults": {"localRetention": lag}}});
    assert_ne!(hash(tier("1h"), "a"), first);
    assert_eq!(hash(tier("1h"), "a"), hash(tier("2h"), "a"));
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
        settings: &sorted(&first),
        addresses: &ADDRESSES,
    };
    let set = build.stateful_set(&node(0)).expect("of a pool");
    let annotations = &set["spec"]["template"]["metadata"]["annotations"];
    let of_pod = serde_json::from_value(annotations.clone()).expect("strings");
    let reasons = |more: Value, image: &str| {
        let changed = cluster(&more);
        let build = Build {
            cluster: &changed,
            formation: &formation,
            image,
            settings: &sorted(&changed),
            addresses: &ADDRESSES,
        };
        build.reasons(&node(0), &of_pod)
    };
    assert_eq!(reasons(json!({}), "a"), ["OperatorUpgrade"]);
    assert_eq!(reasons(json!({"paused": true}), "b"), ["ImageChange"]);
    let config = json!({"config": {"num.partitions": "3"}});
    assert_eq!(reasons(config, "b"), ["ImageChange", "StaticConfig"]);
    let pools = json!({"pools": [{"name": "brokers", "replicas": 3, "storage": {"size": "10Gi"}, "resources": {"limits": {"cpu": "1"}}}]});
    assert_eq!(reasons(pools, "a"), ["ResourcesChange"]);
    let tier = json!({"tier": {"url": "s3://a/b"}});
    assert_eq!(reasons(tier, "a"), ["StaticConfig"]);
}

#[test]
fn settings_of_ours_go_before_those_of_the_spec() {
    let cluster = cluster(&json!({"config": {"node.id": "9", "default.replication.factor": "1"}}));
    let formation = formed();
    let build = Build {
        cluster: &cluster,
        formation: &formation,
        image: "a",
        settings: &sorted(&cluster),
        addresses: &ADDRESSES,
    };
    let settings = build.properties(&node(1));
    assert_eq!(settings["node.id"], "1");
    assert_eq!(settings["default.replication.factor"], "1");
    let none = tidemark_config::ConfigMap::new();
    for id in [1, 3] {
        let fixed = build.properties(&node(id));
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
        remove: vec![],
        resources: None,
        storage: tidemark_crds::cluster::Storage {
            size: "1Gi".into(),
            storage_class_name: None,
            on_scale_down: DeletionPolicy::Retain,
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
    let mut map: ConfigMap = serde_json::from_value(written).expect("a ConfigMap");
    assert_eq!(read_formation(&map), Some(formed()));
    // Who votes since is written beside it: what is in it never changes.
    map.annotations_mut()
        .insert(VOTERS.into(), "[0,2,3]".into());
    let read = read_formation(&map).expect("still one");
    assert_eq!(
        (read.first, read.voters),
        (formed().first, [0, 2, 3].into())
    );
    assert_eq!(read_formation(&ConfigMap::default()), None);
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
            settings: &sorted(&cluster),
            addresses: &ADDRESSES,
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
    let settings = sorted(&quiet);
    let build = |cluster| Build {
        cluster,
        formation: &formed,
        image: "i",
        settings: &settings,
        addresses: &ADDRESSES,
    };
    let (quiet, asked) = (build(&quiet), build(&asked));
    assert_ne!(quiet.template_hash(&node(1)), asked.template_hash(&node(1)));
    let pool = quiet.pool(&node(1)).expect("a pool");
    let of_pod = quiet.parts(&node(1), pool);
    assert!(!of_pod.contains_key(RESTART.0));
    assert_eq!(asked.reasons(&node(1), &of_pod), [RESTART.1]);
    // Another one is another restart.
    assert_eq!(
        asked.reasons(&node(1), &asked.parts(&node(1), pool)),
        [OPERATOR_UPGRADE]
    );
}
#[test]
fn those_that_are_named_go_first_and_then_the_highest() {
    let pool = |name: &str, replicas: i32, remove: &[i32]| -> Pool {
        serde_json::from_value(json!({"name": name, "replicas": replicas, "remove": remove, "storage": {"size": "1Gi"}}))
            .expect("a pool")
    };
    let all = nodes(&[], &[pool("a", 5, &[])]);
    let go = |pools: &[Pool]| leaving(&all, pools).into_iter().collect::<Vec<_>>();
    assert_eq!(go(&[pool("a", 5, &[1])]), [0; 0], "replicas say how many");
    assert_eq!(go(&[pool("a", 7, &[])]), [0; 0]);
    assert_eq!(go(&[pool("a", 3, &[])]), [3, 4]);
    assert_eq!(go(&[pool("a", 3, &[1])]), [1, 4]);
    assert_eq!(go(&[pool("a", 4, &[1, 2])]), [2]);
    assert_eq!(go(&[pool("a", 4, &[9])]), [4], "one that there is not");
    assert_eq!(
        go(&[pool("b", 5, &[])]),
        [0, 1, 2, 3, 4],
        "of a pool that is gone"
    );
}

/// What a broker of a cluster that says nothing more is given: the hash of its template, its
/// properties and its formation.
fn given(formation: &Formation, id: i32) -> (Option<String>, String, Value) {
    let cluster = cluster(&json!({}));
    let build = Build {
        cluster: &cluster,
        formation,
        image: "a",
        settings: &sorted(&cluster),
        addresses: &ADDRESSES,
    };
    let files = build.files(&node(id), Disk::MayBeEmpty)["data"].clone();
    let text = |name: &str| files[name].as_str().expect("text").to_owned();
    let formation = serde_json::from_str(&text("formation.json")).expect("JSON");
    let hash = build.template_hash(&node(id));
    (hash, text("broker.properties"), formation)
}

#[test]
fn another_voter_restarts_nobody_else_and_begins_no_quorum() {
    let (first, mut other) = (formed(), formed());
    other.voters = [0, 2, 3].into();
    for id in [0, 2, 4] {
        let (before, after) = (given(&first, id), given(&other, id));
        assert_eq!(before.0, after.0, "broker {id} is not restarted");
        assert!(
            after.1.contains("orders-3.shop.svc:9090"),
            "and finds the quorum"
        );
    }
    for id in [1, 3] {
        assert_ne!(
            given(&first, id).0,
            given(&other, id).0,
            "broker {id} changes its role"
        );
    }
    assert!(
        given(&other, 3)
            .1
            .contains("process.roles=broker,controller")
    );
    assert_eq!(given(&other, 3).2["voters"], json!([]));
    assert_eq!(given(&other, 1).2["voters"], json!([]));
}

#[test]
fn a_restored_cluster_begins_with_what_the_spec_said_then() {
    let restored = |replicas: i32, more: Value| {
        let pools = json!([{"name": "brokers", "replicas": replicas, "storage": {"size": "10Gi"}}]);
        let mut restore = json!({"mode": "Takeover"});
        for (key, value) in more.as_object().into_iter().flatten() {
            restore[key] = value.clone();
        }
        cluster(
            &json!({"pools": pools, "tier": {"url": "s3://a/b", "region": "r"}, "restore": restore}),
        )
    };
    let first = restored(
        3,
        json!({"topics": ["a.*"], "at": "2026-11-25T12:00:00Z", "replicationFactor": 5}),
    );
    let arguments = [
        "--restore=s3://a/b",
        "--restore-topic=a.*",
        "--restore-at=2026-11-25T12:00:00Z",
        "--restore-replication-factor=3",
        "--restore-brokers=3",
        "--restore-report=/dev/termination-log",
    ];
    assert_eq!(restore_arguments(&first), arguments);
    assert_eq!(restore_arguments(&cluster(&json!({}))), [""; 0]);
    let formation = Formation {
        restore: restore_arguments(&first),
        ..formed()
    };
    let written = super::formation(&first, &formation);
    let map: ConfigMap = serde_json::from_value(written).expect("a ConfigMap");
    assert_eq!(read_formation(&map), Some(formation.clone()));
    // Later it grows, and nobody is restarted for that.
    let later = restored(5, json!({}));
    let template = |cluster: &Cluster, id: i32| {
        let build = Build {
            cluster,
            formation: &formation,
            image: "a",
            settings: &sorted(cluster),
            addresses: &ADDRESSES,
        };
        let set = build.stateful_set(&node(id)).expect("of a pool");
        let format = &set["spec"]["template"]["spec"]["initContainers"][0]["command"];
        (build.template_hash(&node(id)), format.to_string())
    };
    assert_eq!(template(&first, 1), template(&later, 1));
    assert!(template(&first, 1).1.contains("--restore=s3://a/b"));
    assert!(
        !template(&later, 3).1.contains("--restore"),
        "it follows the voters"
    );
    // What is shown is of the spec as it is now.
    let of = |cluster: &Cluster| preview(cluster, "a").expect("a restore");
    let shown = of(&first);
    let command = shown["spec"]["containers"][0]["command"].to_string();
    assert!(
        command.contains(r#""s3://a/b","--dry-run","--topic=a.*""#),
        "{command}"
    );
    assert!(command.contains("--region=r"), "{command}");
    assert_ne!(
        shown["metadata"]["annotations"],
        of(&later)["metadata"]["annotations"]
    );
    assert_eq!(shown["metadata"]["labels"], json!({}), "it is no broker");
}

#[test]
fn a_disk_that_took_anothers_place_begins_no_quorum() {
    let cluster = cluster(&json!({}));
    let begins = |formation: &Formation, id: i32| {
        let (hash, _, file) = given(formation, id);
        (file["voters"] != json!([]), hash)
    };
    let mut replaced = formed();
    replaced.replaced = [1].into();
    assert!(begins(&formed(), 1).0 && begins(&replaced, 0).0);
    assert!(!begins(&replaced, 1).0);
    assert_eq!(begins(&formed(), 1).1, begins(&replaced, 1).1);
    // What is noted beside the formation is read again.
    let noted = Formation {
        used: [0, 1].into(),
        replacing: Some(Replacing {
            broker: 1,
            claim: Some("u".into()),
            made: false,
        }),
        live: ["log.retention.ms".to_owned()].into(),
        ..replaced
    };
    let written = super::formation(&cluster, &noted);
    let mut map: ConfigMap = serde_json::from_value(written).expect("a ConfigMap");
    for (name, value) in [
        (USED, json!(noted.used)),
        (REPLACED, json!(noted.replaced)),
        (REPLACING, json!(noted.replacing)),
        (LIVE, json!(noted.live)),
    ] {
        map.annotations_mut().insert(name.into(), value.to_string());
    }
    assert_eq!(read_formation(&map), Some(noted));
}

#[test]
fn brokers_are_spread_over_racks_and_stay_there() {
    let nodes = |ids: std::ops::Range<i32>| ids.map(node).collect::<Vec<_>>();
    let values = ["z1".to_owned(), "z2".to_owned(), "z3".to_owned()];
    let none = BTreeMap::new();
    let first = racks(&none, &nodes(0..5), &(0..5).collect(), &values);
    let of = |racks: &BTreeMap<i32, String>| racks.values().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(of(&first), "z1 z2 z3 z1 z2");
    // One more goes to where the fewest are, and nobody else moves.
    let more = racks(&first, &nodes(0..6), &[5].into(), &values);
    assert_eq!(of(&more), "z1 z2 z3 z1 z2 z3");
    // Those that were there before racks were asked for have none.
    let late = racks(&none, &nodes(0..4), &[3].into(), &values);
    assert_eq!(late, [(3, "z1".to_owned())].into());
    // Those that left do not count.
    let left = racks(&first, &[node(1), node(2), node(7)], &[7].into(), &values);
    assert_eq!(left[&7], "z1");
}

#[test]
fn a_broker_is_bound_to_its_rack_and_tells_it() {
    let spec = json!({"racks": {"topologyKey": "zone", "values": ["z1", "z2"]}});
    let (plain, racked) = (cluster(&json!({})), cluster(&spec));
    let mut formation = formed();
    let of = |cluster: &Cluster, formation: &Formation, id: i32| {
        let build = Build {
            cluster,
            formation,
            image: "a",
            settings: &sorted(cluster),
            addresses: &ADDRESSES,
        };
        let set = build.stateful_set(&node(id)).expect("of a pool");
        let affinity = set["spec"]["template"]["spec"]["affinity"].clone();
        let rack = build.properties(&node(id)).get("broker.rack").cloned();
        (rack, affinity, build.template_hash(&node(id)))
    };
    // Racks that are asked for later restart nobody.
    assert_eq!(of(&plain, &formation, 1), of(&racked, &formation, 1));
    formation.racks = [(1, "z2".to_owned())].into();
    let (rack, affinity, _) = of(&racked, &formation, 1);
    assert_eq!(rack.as_deref(), Some("z2"));
    let text = affinity.to_string();
    assert!(
        text.contains(r#""key":"zone","operator":"In","values":["z2"]"#),
        "{text}"
    );
    assert_eq!(of(&racked, &formation, 0).0, None);
}
