//! Listeners that are reached from elsewhere: their Services, and what becomes of addresses.

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use tidemark_crds::cluster::Settings;

use super::*;
use crate::cluster::build::Formation;

fn cluster() -> Cluster {
    let document = json!({
        "apiVersion": "tidemark.dev/v1alpha1",
        "kind": "Cluster",
        "metadata": {"name": "orders", "namespace": "shop", "uid": "u-1"},
        "spec": {
            "quorum": {"voters": 1},
            "pools": [{"name": "brokers", "replicas": 2, "storage": {"size": "10Gi"}}],
            "listeners": [
                {"name": "client", "port": 9092},
                {"name": "nodes", "port": 9094, "type": "NodePort", "tls": {}},
                {
                    "name": "cloud", "port": 9095, "type": "LoadBalancer", "tls": {},
                    "perBroker": {"annotations": {"dns": "b-{id}.acme.com"}},
                    "bootstrap": {"host": "kafka.acme.com"},
                },
            ],
        },
    });
    serde_json::from_value(document).expect("a good cluster")
}

fn nodes() -> Vec<Node> {
    let node = |id| Node {
        id,
        pool: "brokers".into(),
    };
    vec![node(0), node(1)]
}

fn children(objects: &[Value]) -> Children {
    let mut children = Children::default();
    for object in objects {
        let read = |object: &Value| object.clone();
        match object["kind"].as_str() {
            Some("Service") => {
                children.put_service(serde_json::from_value::<Service>(read(object)).expect("one"));
            }
            Some("Pod") => {
                children.put_pod(0, serde_json::from_value::<Pod>(read(object)).expect("one"))
            }
            _ => {
                let map = serde_json::from_value::<ConfigMap>(read(object)).expect("one");
                children.put_files(0, map);
            }
        }
    }
    children
}

fn pod(host: &str) -> Value {
    json!({"kind": "Pod", "metadata": {"name": "orders-0-0"}, "status": {"hostIP": host}})
}

fn by_nodes(port: i32) -> Value {
    json!({
        "kind": "Service", "metadata": {"name": "orders-0-nodes"},
        "spec": {"ports": [{"port": 9094, "nodePort": port}]},
    })
}

fn by_cloud(ingress: &Value) -> Value {
    json!({
        "kind": "Service", "metadata": {"name": "orders-0-cloud"},
        "status": {"loadBalancer": {"ingress": ingress}},
    })
}

#[test]
fn a_pending_address_holds_up_its_listener_alone() {
    let (cluster, nodes) = (cluster(), nodes());
    let found = children(&[by_nodes(31_000), pod("10.0.0.7"), by_cloud(&json!([]))]);
    let told = addresses(&cluster, &found, &nodes);
    let expected = Addresses::from([(("nodes".to_owned(), 0), "10.0.0.7:31000".to_owned())]);
    assert_eq!(told, expected);
    let status = status(&cluster, &found, &nodes, &told);
    assert_eq!(status[0].pending, None);
    assert_eq!(status[0].bootstrap, "orders-bootstrap.shop.svc:9092");
    assert_eq!(
        status[1].pending.as_deref(),
        Some("brokers without an address: 1")
    );
    assert_eq!(status[1].trust.as_deref(), Some("orders-trust"));
    assert_eq!(
        status[2].pending.as_deref(),
        Some("brokers without an address: 0, 1")
    );

    let found = children(&[by_cloud(&json!([{"ip": "2001:db8::7"}]))]);
    let told = addresses(&cluster, &found, &nodes);
    assert_eq!(told[&("cloud".to_owned(), 0)], "[2001:db8::7]:9095");
    let names = hosts(&cluster, 0, &told);
    for name in [
        "orders-0.shop.svc",
        "orders-bootstrap",
        "2001:db8::7",
        "kafka.acme.com",
    ] {
        assert!(names.contains(name), "{name}: {names:?}");
    }
}

#[test]
fn what_was_told_stays_while_the_pod_is_gone_and_a_name_goes_before_an_address() {
    let (mut cluster, nodes) = (cluster(), nodes());
    let properties = "advertised.listeners=CLIENT://a:9092,NODES://10.0.0.7:31000\n";
    let map = json!({"kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"broker.properties": properties}});
    let found = children(&[by_nodes(31_000), map]);
    let told = addresses(&cluster, &found, &nodes);
    assert_eq!(told[&("nodes".to_owned(), 0)], "10.0.0.7:31000");
    cluster.spec.listeners[1].per_broker = Some(tidemark_crds::cluster::PerBroker {
        host_template: Some("b-{id}.acme.com".to_owned()),
        annotations: BTreeMap::new(),
    });
    let told = addresses(&cluster, &found, &nodes);
    assert_eq!(told[&("nodes".to_owned(), 0)], "b-0.acme.com:31000");
}

#[test]
fn each_broker_has_a_service_and_what_is_left_over_goes() {
    let cluster = cluster();
    let nodes = nodes();
    let formation = Formation::new("C".into(), vec![(0, "D".into())]);
    let addresses = Addresses::from([(("cloud".to_owned(), 0), "1.2.3.4:9095".to_owned())]);
    let build = Build {
        cluster: &cluster,
        formation: &formation,
        image: "i",
        settings: &Settings::default(),
        addresses: &addresses,
    };
    let wanted = build.outside_services(&nodes.iter().collect::<Vec<_>>());
    let names: Vec<&str> = wanted
        .iter()
        .filter_map(|one| one["metadata"]["name"].as_str())
        .collect();
    assert_eq!(
        names,
        [
            "orders-0-nodes",
            "orders-1-nodes",
            "orders-nodes-bootstrap",
            "orders-0-cloud",
            "orders-1-cloud",
            "orders-cloud-bootstrap",
        ]
    );
    assert_eq!(wanted[4]["metadata"]["annotations"]["dns"], "b-1.acme.com");
    assert_eq!(wanted[0]["spec"]["publishNotReadyAddresses"], true);
    assert!(wanted[2]["spec"].get("publishNotReadyAddresses").is_none());
    let mut old = wanted[0].clone();
    old["metadata"]["name"] = json!("orders-0-before");
    let found = children(&[old, wanted[0].clone()]);
    assert_eq!(left_over(&cluster, &found, &wanted), ["orders-0-before"]);

    let properties = build.properties(&nodes[0]);
    assert_eq!(
        properties["advertised.listeners"],
        "CLIENT://orders-0.shop.svc:9092,CLOUD://1.2.3.4:9095,REPLICATION://orders-0.shop.svc:9091,CONTROLLER://orders-0.shop.svc:9090"
    );
    assert!(
        properties["listeners"].contains("NODES://:9094"),
        "it listens, and nobody is told"
    );
    let mut set = properties.clone();
    set.retain(|name, _| name.contains("protocol.map") || name.contains("client.auth"));
    assert_eq!(
        set.into_values().collect::<Vec<_>>(),
        [
            "required",
            "required",
            "CLIENT:PLAINTEXT,NODES:SSL,CLOUD:SSL,REPLICATION:SSL,CONTROLLER:SSL",
        ]
    );
}
