//! What is told in which situation.

use super::*;
use crate::cluster::outside::Addresses;
use serde_json::json;

fn cluster(more: &serde_json::Value) -> Cluster {
    let mut cluster = json!({
        "apiVersion": "tidemark.dev/v1alpha1",
        "kind": "Cluster",
        "metadata": {"name": "orders", "namespace": "shop", "uid": "u-1", "generation": 4},
        "spec": {"image": "a", "pools": [{"name": "brokers", "replicas": 3, "storage": {"size": "10Gi"}}]},
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        cluster["spec"][key] = value.clone();
    }
    serde_json::from_value(cluster).expect("a good cluster")
}

/// Nobody comes from elsewhere.
static ADDRESSES: Addresses = Addresses::new();

fn formation() -> Formation {
    Formation::new(
        "C".into(),
        (0..3).map(|id| (id, format!("D{id}"))).collect(),
    )
}

/// The status of three brokers on the template of image `a`.
fn told(cluster: &Cluster, image: &str, isr: &[i32]) -> ClusterStatus {
    told_at(cluster, image, Some(isr), 1_000)
}

/// The same at a time; without an ISR the brokers cannot be asked.
fn told_at(cluster: &Cluster, image: &str, isr: Option<&[i32]>, now_ms: i64) -> ClusterStatus {
    told_by(cluster, &formation(), image, isr, now_ms)
}

/// The same of another formation.
fn told_by(
    cluster: &Cluster,
    formation: &Formation,
    image: &str,
    isr: Option<&[i32]>,
    now_ms: i64,
) -> ClusterStatus {
    told_with(cluster, formation, image, isr, now_ms, |_| ())
}

/// The same of brokers that are changed before.
fn told_with(
    cluster: &Cluster,
    formation: &Formation,
    image: &str,
    isr: Option<&[i32]>,
    now_ms: i64,
    change: impl FnOnce(&mut [roller::Broker]),
) -> ClusterStatus {
    let nodes = build::nodes(&[], &cluster.spec.pools);
    let settings = tidemark_crds::cluster::settings(&cluster.spec);
    let of = |image| Build {
        cluster,
        formation,
        image,
        settings: &settings,
        addresses: &ADDRESSES,
    };
    let brokers = nodes.iter().map(|node| roller::Broker {
        id: node.id,
        voter: true,
        pod: Pod::Ready,
        ready_since_ms: None,
        template: of("a").template_hash(node).expect("of a pool"),
        life: Some(Life::Running),
        leased: false,
        cut_off: false,
    });
    let mut observed = Observed {
        brokers: brokers.collect(),
        image: isr.map(|isr| roller::Image {
            controller: Some(1),
            partitions: vec![roller::Partition {
                name: "orders-0".into(),
                replicas: vec![0, 1, 2],
                isr: isr.to_vec(),
                min_isr: 2,
            }],
            offline: usize::from(isr.is_empty()),
        }),
        unreachable: None,
        directories: BTreeMap::new(),
        tier: vec![],
        contact: None,
        used: BTreeMap::new(),
        levels: BTreeMap::new(),
        reasons: match image {
            "a" => BTreeMap::new(),
            _ => nodes
                .iter()
                .map(|node| (node.id, vec!["ImageChange"]))
                .collect(),
        },
    };
    change(&mut observed.brokers);
    let plan = plan(
        cluster,
        &of(image),
        &nodes,
        &observed,
        BTreeSet::new(),
        now_ms,
    );
    let decision = roller::decide(
        &observed.brokers,
        observed.image.as_ref(),
        &plan.plan,
        1_000,
    );
    let told = Told {
        cluster,
        formation,
        nodes: &nodes,
        observed: &observed,
        plan: &plan,
        decision: &decision,
        shrinking: &shrink::Decision::Idle,
        leaving: &BTreeSet::new(),
        joining: None,
        live: Some(&ConfigStatus::default()),
        features: None,
        storage: &[],
        listeners: &[],
        certified: &Certified::default(),
    };
    status(&told, now_ms)
}

fn of<'a>(status: &'a ClusterStatus, type_: &str) -> (&'a str, &'a str) {
    let found = status.conditions.iter().find(|c| c.type_ == type_);
    let found = found.expect("the condition is there");
    (&found.status, &found.reason)
}

#[test]
fn a_cluster_that_is_well_says_little() {
    let status = told(&cluster(&json!({})), "a", &[0, 1, 2]);
    assert_eq!(
        (status.ready.as_str(), status.message.as_str()),
        ("3/3", "")
    );
    assert_eq!(status.observed_generation, Some(4));
    assert_eq!(
        status.bootstrap.as_deref(),
        Some("orders-bootstrap.shop.svc:9092")
    );
    assert_eq!(status.disruption, None);
    assert!(
        status.conditions.iter().all(|c| c.status == "True"),
        "{:?}",
        status.conditions
    );
}

#[test]
fn what_waits_for_approval_is_shown_with_its_name() {
    let waiting = cluster(&json!({"disruption": {"mode": "Approval"}}));
    let status = told(&waiting, "b", &[0, 1, 2]);
    let disruption = status.disruption.clone().expect("a preview");
    assert_eq!(disruption.state, "AwaitingApproval");
    assert_eq!(disruption.restarts, [0, 2, 1]);
    assert_eq!(disruption.reasons, ["ImageChange"]);
    assert_eq!(of(&status, "Ready"), ("True", "Serving"));
    assert_eq!(of(&status, "Reconciled"), ("False", "AwaitingApproval"));
    assert_eq!(status.message, "restart of 3 brokers awaits approval");
    // Its name approves it, and not another plan.
    let mut approved = waiting;
    approved
        .annotations_mut()
        .insert(APPROVE.into(), disruption.id);
    let rolling = told(&approved, "b", &[0, 1, 2]).disruption.expect("a roll");
    assert_eq!(
        (rolling.state.as_str(), rolling.message.as_str()),
        ("Rolling", "restarting broker 0")
    );
    let other = told(&approved, "c", &[0, 1, 2])
        .disruption
        .expect("a preview");
    assert_eq!(other.state, "AwaitingApproval");
}

#[test]
fn what_waits_for_its_window_says_which_one_is_next() {
    // The first of January 1970 was a Thursday.
    let window = json!({"name": "night", "days": ["Friday"], "start": "02:30", "duration": "2h"});
    let waiting = cluster(&json!({"disruption": {"windows": [window]}}));
    let status = told(&waiting, "b", &[0, 1, 2]);
    let disruption = status.disruption.clone().expect("a preview");
    assert_eq!(disruption.state, "OutOfWindow");
    assert_eq!(of(&status, "Ready"), ("True", "Serving"));
    assert_eq!(of(&status, "Reconciled"), ("False", "OutOfWindow"));
    assert_eq!(
        status.message,
        "3 restarts wait: night opens on Friday at 02:30 UTC"
    );
    let open_ms = (24 + 3) * 3_600_000;
    let rolling = told_at(&waiting, "b", Some(&[0, 1, 2]), open_ms).disruption;
    assert_eq!(rolling.expect("a roll").state, "Rolling");
}

#[test]
fn partitions_tell_on_clients_before_they_tell_on_the_spec() {
    let status = told(&cluster(&json!({})), "a", &[0, 1]);
    assert_eq!(of(&status, "Ready"), ("True", "Serving"));
    assert_eq!(of(&status, "FullyReplicated"), ("False", "UnderReplicated"));
    assert_eq!(status.partitions.expect("asked").under_replicated, 1);
    let status = told(&cluster(&json!({})), "a", &[]);
    assert_eq!(of(&status, "Ready"), ("False", "PartitionsOffline"));
}

#[test]
fn a_full_disk_is_told_where_one_looks_with_what_to_do() {
    let text = "the disk is full: /data takes no records: raise storage.size of pool brokers";
    let cluster = cluster(&json!({}));
    let full = |image, isr, serves, pod: Pod| {
        let isr = Some(isr);
        told_with(&cluster, &formation(), image, isr, 1_000, |brokers| {
            brokers[1].pod = pod;
            brokers[1].life = Some(Life::DiskFull {
                text: text.into(),
                serves,
            });
        })
    };
    // Others lead: clients do not notice.
    let stepped_back = full("a", &[0, 2][..], false, Pod::Unready { since_ms: 0 });
    assert_eq!(of(&stepped_back, "Ready"), ("True", "Serving"));
    // It leads what it takes no records into.
    let serving = full("a", &[0, 1, 2][..], true, Pod::Ready);
    assert_eq!(of(&serving, "Ready"), ("False", "DiskFull"));
    for status in [&stepped_back, &serving] {
        assert_eq!(of(status, "StorageReady"), ("False", "DiskFull"));
        assert_eq!(of(status, "Reconciled"), ("False", "DiskFull"));
        assert_eq!(status.brokers[1].state, "DiskFull");
        assert_eq!(status.message, format!("broker 1: {text}"));
    }
    // A change waits for it, and says so.
    let rolling = full("b", &[0, 1, 2][..], true, Pod::Ready);
    let disruption = rolling.disruption.as_ref().expect("a preview");
    assert_eq!(disruption.state, "DiskFull");
    assert_eq!(rolling.message, format!("broker 1: {text}"));
}

#[test]
fn a_spec_that_is_refused_keeps_what_was_told_of_the_brokers() {
    let mut cluster = cluster(&json!({}));
    cluster.status = Some(told(&cluster, "a", &[0, 1, 2]));
    let invalid = Invalid::new("OwnedSetting", "config: node.id follows from other fields");
    let status = refused(&cluster, &invalid, 2_000);
    assert_eq!(of(&status, "Accepted"), ("False", "OwnedSetting"));
    assert_eq!(of(&status, "Ready"), ("True", "Serving"));
    assert_eq!(status.message, invalid.message);
}

#[test]
fn an_election_is_no_outage() {
    let mut cluster = cluster(&json!({}));
    let mut at = |isr: Option<&[i32]>, now_ms| {
        let status = told_at(&cluster, "a", isr, now_ms);
        cluster.status = Some(status.clone());
        let (ready, reason) = of(&status, "Ready");
        (ready.to_owned(), reason.to_owned())
    };
    let serving = ("True".to_owned(), "Serving".to_owned());
    let unreachable = ("False".to_owned(), "BrokersUnreachable".to_owned());
    // One that was never heard of does not serve.
    assert_eq!(at(None, 0), unreachable);
    assert_eq!(at(Some(&[0, 1, 2]), 1_000), serving);
    assert_eq!(at(None, 2_000), serving);
    assert_eq!(at(None, 2_000 + UNHEARD_MS), serving);
    assert_eq!(at(None, 2_001 + UNHEARD_MS), unreachable);
    assert_eq!(at(Some(&[0, 1, 2]), 60_000), serving);
}

#[test]
fn a_lag_is_told_roughly_so_that_the_status_stays_as_it_is() {
    for (ms, told) in [
        (0, "0s"),
        (9_999, "9s"),
        (11_000, "10s"),
        (59_000, "50s"),
        (61_000, "1m"),
        (3_599_000, "59m"),
        (7_300_000, "2h"),
    ] {
        assert_eq!(rounded(ms), told);
    }
}

#[test]
fn a_restore_is_told_from_its_preview_to_what_came_back() {
    let restored = cluster(&json!({"tier": {"url": "s3://a/b"}, "restore": {"mode": "Takeover"}}));
    let before = Before {
        reason: "DryRun",
        text: "cluster C".into(),
        report: vec!["cluster C".into(), "a: 1".into()],
    };
    let status = unformed(&restored, &before, 1_000);
    assert_eq!(of(&status, "Restored"), ("False", "DryRun"));
    assert_eq!(
        (status.ready.as_str(), status.message.as_str()),
        ("0/3", "cluster C")
    );
    let shown = status.restore.expect("it is asked for");
    assert_eq!((shown.source.as_str(), shown.report.len()), ("s3://a/b", 2));
    let state = |formation: &Formation| {
        let status = told_by(&restored, formation, "a", Some(&[0, 1, 2][..]), 1_000);
        let (is, reason) = of(&status, "Restored");
        let report = status
            .restore
            .as_ref()
            .expect("it is asked for")
            .report
            .len();
        (is.to_owned(), reason.to_owned(), report)
    };
    let of = |is: &str, reason: &str, lines| (is.to_owned(), reason.to_owned(), lines);
    let mut formation = formation();
    assert_eq!(state(&formation), of("False", "FormedWithout", 0));
    formation.restore = vec!["--restore=s3://a/b".into()];
    assert_eq!(state(&formation), of("False", "Restoring", 0));
    formation.report = Some("cluster C\ngroup g: offset 5 in a-0 goes back to 3".into());
    assert_eq!(state(&formation), of("True", "TakenOver", 2));
    let quiet = told(&cluster(&json!({})), "a", &[0, 1, 2]);
    assert!(quiet.conditions.iter().all(|c| c.type_ != "Restored"));
}
