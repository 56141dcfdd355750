//! What is told of a topic.

use std::collections::BTreeMap;

use super::*;
use tidemark_crds::topic::{Drift, Pending};

fn topic(status: Option<TopicStatus>) -> Topic {
    let object = json!({
        "apiVersion": "tidemark.dev/v1alpha1",
        "kind": "Topic",
        "metadata": {"name": "payments", "generation": 2},
        "spec": {"clusterRef": {"name": "orders"}, "partitions": 3},
    });
    let mut topic: Topic = serde_json::from_value(object).expect("a good topic");
    topic.status = status;
    topic
}

fn actual(id: &str) -> Actual {
    Actual {
        id: id.into(),
        partitions: 3,
        replicas: 2,
        settings: BTreeMap::new(),
    }
}

fn drift() -> Drift {
    Drift {
        what: "retention.ms".into(),
        actual: "2000".into(),
        wanted: Some("1000".into()),
    }
}

fn of<'a>(status: &'a TopicStatus, type_: &str) -> (&'a str, &'a str) {
    let found = status.conditions.iter().find(|c| c.type_ == type_);
    let found = found.expect("the condition is there");
    (&found.status, &found.reason)
}

#[test]
fn a_topic_as_it_should_be_says_little() {
    let told = status(&topic(None), Ok((actual("A"), Plan::default())), 1_000);
    assert_eq!(told.message, "");
    assert_eq!(of(&told, "Synced"), ("True", "AsSpecified"));
    assert_eq!((told.partitions, told.replicas), (Some(3), Some(2)));
}

#[test]
fn what_waits_is_shown_with_what_approves_it() {
    let plan = Plan {
        pending: vec![Pending {
            change: drift(),
            effect: "records beyond the new limit would be deleted",
        }],
        ..Plan::default()
    };
    let id = plan.pending_id();
    let told = status(&topic(None), Ok((actual("A"), plan)), 1_000);
    assert_eq!(of(&told, "Synced"), ("False", "AwaitingApproval"));
    assert_eq!(told.pending.len(), 1);
    assert!(told.pending_id.is_some());
    assert_eq!(told.pending_id, id);
    // Once it is done nothing of it is left.
    let done = status(
        &topic(Some(told)),
        Ok((actual("A"), Plan::default())),
        1_000,
    );
    assert_eq!((done.pending.len(), done.pending_id), (0, None));
}

#[test]
fn drift_that_stays_and_a_topic_that_was_replaced_are_told() {
    let plan = Plan {
        drift: vec![drift()],
        ..Plan::default()
    };
    let told = status(&topic(None), Ok((actual("A"), plan)), 1_000);
    assert_eq!(of(&told, "Synced"), ("False", "Drifted"));
    assert_eq!(told.message, "retention.ms is 2000, not 1000");
    let replaced = status(
        &topic(Some(told)),
        Ok((actual("B"), Plan::default())),
        1_000,
    );
    assert_eq!(of(&replaced, "Synced"), ("True", "Replaced"));
    assert!(
        replaced.message.contains("had the id A"),
        "{}",
        replaced.message
    );
}

#[test]
fn brokers_that_do_not_answer_say_nothing_of_the_spec() {
    let well = status(&topic(None), Ok((actual("A"), Plan::default())), 1_000);
    let of_reason = |reason| {
        let invalid = Invalid::new(reason, "why");
        status(&topic(Some(well.clone())), Err(invalid), 2_000)
    };
    let unreachable = of_reason("ClusterUnreachable");
    assert_eq!(of(&unreachable, "Accepted").0, "Unknown");
    assert_eq!(of(&unreachable, "Ready").0, "Unknown");
    assert_eq!(unreachable.topic_id.as_deref(), Some("A"));
    let taken = of_reason("NameTaken");
    assert_eq!(of(&taken, "Accepted"), ("False", "NameTaken"));
    assert_eq!(taken.message, "why");
}
