//! What cert-manager is asked for, and whose words are told.

use super::*;

fn cluster() -> Cluster {
    let tls = json!({"source": "CertManager", "issuerRef": {"name": "acme"}});
    let document = json!({
        "apiVersion": "tidemark.dev/v1alpha1", "kind": "Cluster",
        "metadata": {"name": "orders", "namespace": "shop", "uid": "u-1"},
        "spec": {"pools": [], "listeners": [
            {"name": "client", "port": 9092},
            {"name": "apps", "port": 9093, "tls": tls},
            {"name": "own", "port": 9094, "tls": {}},
        ]},
    });
    serde_json::from_value(document).expect("a cluster")
}

fn node(id: i32) -> Node {
    Node {
        id,
        pool: "brokers".into(),
    }
}

#[test]
fn cert_manager_is_asked_for_each_broker() {
    let cluster = cluster();
    let hosts = BTreeSet::from(["orders-1.shop.svc", "10.0.0.7"].map(str::to_owned));
    let asked = wanted(&cluster, &cluster.spec.listeners[1], &node(1), &hosts);
    let spec = &asked["spec"];
    assert_eq!(spec["secretName"], "orders-1-apps-tls");
    let issuer = json!({"name": "acme", "kind": "Issuer", "group": "cert-manager.io"});
    assert_eq!(spec["issuerRef"], issuer);
    assert_eq!(spec["dnsNames"], json!(["orders-1.shop.svc"]));
    assert_eq!(spec["ipAddresses"], json!(["10.0.0.7"]));
    let names = names(&cluster, &[&node(0), &node(1)]);
    assert!(names.iter().eq(["orders-0-apps-tls", "orders-1-apps-tls"]));
}

fn object(uid: &str, revision: Option<&str>, conditions: &Value) -> DynamicObject {
    let annotations = revision.map(|number| json!({REVISION: number}));
    let owner = json!({"apiVersion": "cert-manager.io/v1", "kind": "Certificate", "name": "c", "uid": "c-1"});
    let owners = revision.map(|_| vec![owner]);
    let object = json!({
        "metadata": {"name": uid, "uid": uid, "annotations": annotations, "ownerReferences": owners},
        "status": {"conditions": conditions},
    });
    serde_json::from_value(object).expect("an object")
}

#[test]
fn the_issuers_words_go_before_those_of_the_certificate() {
    let condition = |type_, status, text| json!({"type": type_, "status": status, "message": text});
    let missing = "Issuing certificate as Secret does not exist";
    let waiting = json!([
        condition("Ready", "False", missing),
        condition("Issuing", "True", missing),
    ]);
    let certificate = object("c-1", None, &waiting);
    assert_eq!(words(&certificate, &[]), missing);
    let request = |revision, status, text| {
        let approved = condition("Approved", "True", "approved");
        let ready = condition("Ready", status, text);
        object("r", Some(revision), &json!([approved, ready]))
    };
    let unknown = "Referenced \"Issuer\" not found: issuer.cert-manager.io \"acme\" not found";
    // As numbers, not as text.
    let requests = [
        request("10", "False", unknown),
        request("9", "False", "older"),
    ];
    assert_eq!(words(&certificate, &requests), unknown);
    let mut others = request("11", "False", "another's");
    others.metadata.owner_references.as_mut().expect("owners")[0].uid = "c-2".to_owned();
    let issued = request("1", "True", "Certificate fetched from issuer successfully");
    assert_eq!(words(&certificate, &[others, issued]), missing);
    let failed = "The certificate request has failed to complete and will be retried: denied";
    let refused = json!([
        condition("Ready", "False", missing),
        condition("Issuing", "False", failed),
    ]);
    assert_eq!(words(&object("c-1", None, &refused), &[]), failed);
    let nothing = words(&object("c-1", None, &Value::Null), &[]);
    assert!(nothing.contains("does its controller run"), "{nothing}");
}

#[test]
fn a_kind_that_is_not_there_is_absent_as_an_object_is() {
    use kube::core::response::Status;
    let refused = |reason: &str, code| {
        let status = Status::failure("404 page not found", reason).with_code(code);
        is_absent(&kube::Error::Api(Box::new(status)))
    };
    // As kube reads an answer that is not a Status.
    assert!(refused("Failed to parse error data", 404));
    assert!(refused("NotFound", 404));
    assert!(!refused("Forbidden", 403));
}
