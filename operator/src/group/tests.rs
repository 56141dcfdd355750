//! What is told of a group.

use super::*;

fn group(spec: &serde_json::Value, status: Option<ConsumerGroupStatus>) -> ConsumerGroup {
    let mut object = json!({
        "apiVersion": "tidemark.dev/v1alpha1",
        "kind": "ConsumerGroup",
        "metadata": {"name": "billing", "generation": 2},
        "spec": spec,
    });
    object["spec"]["clusterRef"] = json!({"name": "orders"});
    let mut group: ConsumerGroup = serde_json::from_value(object).expect("a good group");
    group.status = status;
    group
}

fn found(decision: Decision) -> Result<Found, Invalid> {
    let offset = |offset| BTreeMap::from([(("invoices".to_owned(), 0), offset)]);
    Ok(Found {
        state: "Empty".into(),
        group_type: "classic".into(),
        coordinator: Some(1),
        view: View {
            members: 0,
            committed: offset(4),
            ends: offset(10),
            oldest_ms: Some(400),
            owners: BTreeMap::new(),
        },
        stuck: None,
        decision: Ok(decision),
    })
}

fn moves() -> Vec<Move> {
    vec![Move {
        topic: "invoices".into(),
        partition: 0,
        from: Some(4),
        to: 0,
    }]
}

fn of<'a>(status: &'a ConsumerGroupStatus, type_: &str) -> Option<(&'a str, &'a str)> {
    let found = status.conditions.iter().find(|c| c.type_ == type_)?;
    Some((&found.status, &found.reason))
}

#[test]
fn lag_and_members_are_held_against_the_spec() {
    let bounded = group(&json!({"lag": {"records": 5}, "minMembers": 1}), None);
    let told = status(&bounded, found(Decision::None), 1_000);
    assert_eq!(told.lag.as_ref().map(|lag| lag.records), Some(6));
    assert_eq!(told.topics, BTreeMap::from([("invoices".to_owned(), 6)]));
    assert_eq!(
        of(&told, "LagWithinBounds"),
        Some(("False", "TooFarBehind"))
    );
    assert_eq!(of(&told, "Populated"), Some(("False", "TooFewMembers")));
    let time = told.lag.as_ref().and_then(|lag| lag.time.as_deref());
    assert_eq!(time, Some("0s"));
    let mut stands = found(Decision::None).expect("found");
    stands.stuck = Some("invoices-0 stands".into());
    let stuck = status(&bounded, Ok(stands), 1_000);
    assert_eq!(of(&stuck, "LagWithinBounds"), Some(("False", "Stuck")));
    // Without bounds there is nothing to hold it against.
    let told = status(&group(&json!({}), Some(told)), found(Decision::None), 2_000);
    assert_eq!(of(&told, "LagWithinBounds"), None);
    assert_eq!(of(&told, "Populated"), None);
    assert_eq!(told.message, "");
}

#[test]
fn a_reset_is_told_in_its_phases() {
    let spec = json!({"reset": {"token": "one", "to": {"earliest": true}}});
    let of_decision = |decision| status(&group(&spec, None), found(decision), 1_000);
    let dry = of_decision(Decision::DryRun(moves()));
    assert_eq!(of(&dry, "ResetApplied"), Some(("False", "DryRun")));
    let reset = dry.reset.expect("a reset");
    assert_eq!(reset.plan, ["invoices-0: 4 to 0"]);
    assert_eq!(reset.summary, "1 partitions, -4 records");
    let applied = of_decision(Decision::Applied(moves()));
    assert_eq!(of(&applied, "ResetApplied"), Some(("True", "Applied")));
    assert_eq!(applied.message, "");
    let waiting = of_decision(Decision::Wait("the group has 2 members".into()));
    assert_eq!(waiting.message, "reset one: the group has 2 members");
    assert_eq!(of(&waiting, "ResetApplied"), Some(("False", "Waiting")));
}

#[test]
fn brokers_that_do_not_answer_say_nothing_of_the_spec() {
    let of_reason = |reason| {
        let invalid = Invalid::new(reason, "why");
        status(&group(&json!({}), None), Err(invalid), 1_000)
    };
    let unreachable = of_reason("ClusterUnreachable");
    assert_eq!(
        of(&unreachable, "Accepted"),
        Some(("Unknown", "ClusterUnreachable"))
    );
    let wrong = of_reason("InvalidReset");
    assert_eq!(of(&wrong, "Accepted"), Some(("False", "InvalidReset")));
}
