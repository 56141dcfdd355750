//! Groups: shared work, kept places, resets.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::{Background, Broker, numbers, until};

fn members(broker: &Broker, group: &str) -> Vec<Value> {
    let done = broker.run(&["group", "describe", group, "-o", "json"]);
    let described: Value = serde_json::from_str(&done.stdout).unwrap_or_default();
    if described["state"] != "Stable" {
        return Vec::new();
    }
    described["members"].as_array().cloned().unwrap_or_default()
}

/// Waits until the group is at rest with so many members of which so many have partitions.
fn settled(broker: &Broker, group: &str, all: usize, busy: usize) {
    until(&format!("{all} members, {busy} of them busy"), || {
        let members = members(broker, group);
        let with_partitions = members
            .iter()
            .filter(|m| m["partitions"] != json!([]))
            .count();
        members.len() == all && with_partitions == busy
    });
}

/// A broker that lets members beat often, so that they notice a rebalance soon.
fn quick_to_rebalance() -> Broker {
    Broker::start_with(&["--set", "group.min.session.timeout.ms=500"])
}

fn all_seen(readers: &mut [&mut Background]) -> Vec<String> {
    readers
        .iter_mut()
        .flat_map(|reader| {
            reader.drain();
            reader.seen.clone()
        })
        .collect()
}

#[test]
fn a_group_goes_on_where_it_was() {
    let broker = Broker::start();
    broker.ok(&["topic", "create", "t", "-p", "1"]);
    broker.ok_with_input(&["produce", "t"], &numbers(1..=10));
    assert_eq!(
        broker.ok(&["consume", "t", "-g", "g", "-n", "4"]),
        "1\n2\n3\n4\n"
    );
    assert_eq!(broker.ok(&["consume", "t", "-g", "g", "-n", "2"]), "5\n6\n");
    assert_eq!(broker.ok(&["consume", "t", "-g", "g"]), "7\n8\n9\n10\n");
    assert_eq!(broker.ok(&["consume", "t", "-g", "g"]), "");
    // Each group has its own place.
    assert_eq!(
        broker.ok(&["consume", "t", "-g", "other"]).lines().count(),
        10
    );
    let described = broker.json(&["group", "describe", "g"]);
    assert_eq!(described["partitions"][0]["committed"], 10);
    assert_eq!(described["lag"], 0);
    assert_eq!(described["state"], "Empty");
    let groups = broker.json(&["group", "list"]);
    let groups: Vec<&str> = groups
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|g| g["group"].as_str())
        .collect();
    assert_eq!(groups, ["g", "other"]);
}

#[test]
fn members_share_partitions_and_take_over_from_each_other() {
    for assignor in ["range", "roundrobin", "cooperative-sticky"] {
        let broker = quick_to_rebalance();
        broker.ok(&["topic", "create", "t", "-p", "4"]);
        let member = || {
            broker.background(&[
                "consume",
                "t",
                "-g",
                "g",
                "--follow",
                "--session-timeout",
                "1s",
                "--assignor",
                assignor,
            ])
        };
        let (mut first, mut second) = (member(), member());
        settled(&broker, "g", 2, 2);
        broker.ok_with_input(&["produce", "t", "--round-robin"], &numbers(1..=400));
        until("the first part is read", || {
            all_seen(&mut [&mut first, &mut second]).len() == 400
        });
        assert!(
            !first.seen.is_empty() && !second.seen.is_empty(),
            "both had work"
        );

        let (code, from_first) = first.stop("TERM");
        assert_eq!(code, 0);
        settled(&broker, "g", 1, 1);
        broker.ok_with_input(&["produce", "t", "--round-robin"], &numbers(401..=800));
        until("the rest is read", || {
            second.drain();
            from_first.len() + second.seen.len() == 800
        });
        let (_, from_second) = second.stop("INT");
        let unique: BTreeSet<&String> = from_first.iter().chain(&from_second).collect();
        assert_eq!(unique.len(), 800, "{assignor}: each record once");
        assert_eq!(
            broker.json(&["group", "describe", "g"])["lag"],
            0,
            "{assignor}"
        );
    }
}

#[test]
fn more_members_than_partitions_leave_some_idle() {
    let broker = quick_to_rebalance();
    broker.ok(&["topic", "create", "t", "-p", "2"]);
    let readers: Vec<Background> = (0..4)
        .map(|_| {
            broker.background(&[
                "consume",
                "t",
                "-g",
                "g",
                "--follow",
                "--session-timeout",
                "1s",
            ])
        })
        .collect();
    settled(&broker, "g", 4, 2);
    let text = broker.ok(&["group", "describe", "g"]);
    assert!(text.contains("2 members without a partition"), "{text}");
    drop(readers);
}

#[test]
fn a_reset_shows_its_plan_first_and_needs_an_empty_group() {
    let broker = Broker::start();
    broker.ok(&["topic", "create", "t", "-p", "1"]);
    broker.ok_with_input(&["produce", "t"], &numbers(1..=10));
    broker.ok(&["consume", "t", "-g", "g"]);
    let plan = broker.json(&["group", "reset", "g", "--to", "shift:-3"]);
    assert_eq!(plan["executed"], false);
    assert_eq!(
        plan["steps"][0],
        json!({
            "topic": "t", "partition": 0, "from": 10, "to": 7, "by": -3, "lag_after": 3, "note": ""
        })
    );
    assert_eq!(
        broker.ok(&["consume", "t", "-g", "g"]),
        "",
        "a dry run moves nothing"
    );
    for (place, next) in [
        ("shift:-3", "8"),
        ("beginning", "1"),
        ("2", "3"),
        ("-1h", "1"),
        ("end-1", "10"),
    ] {
        broker.ok(&["group", "reset", "g", "--to", place, "--execute"]);
        let read = broker.ok(&["consume", "t", "-g", "g"]);
        assert_eq!(read.lines().next(), Some(next), "{place}");
    }
    broker.ok(&[
        "group",
        "reset",
        "new",
        "--topic",
        "t:0",
        "--to",
        "9",
        "--execute",
    ]);
    assert_eq!(broker.ok(&["consume", "t", "-g", "new"]), "10\n");

    let reader = broker.background(&["consume", "t", "-g", "g", "--follow"]);
    settled(&broker, "g", 1, 1);
    broker
        .run(&["group", "reset", "g", "--to", "beginning", "--execute"])
        .failed(1, "has members")
        .failed(1, "group describe g --members");
    let refused = broker.run(&["group", "delete", "g", "--execute"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stdout.contains("stop them first"), "{refused:?}");
    reader.stop("TERM");
    broker.ok(&["group", "delete", "g", "--execute"]);
    broker
        .run(&["group", "describe", "g"])
        .failed(1, "does not exist");
}

#[test]
fn a_group_that_is_not_there_is_guessed_at() {
    let broker = Broker::start();
    broker.ok_with_input(&["produce", "t", "--create"], b"x\n");
    broker.ok(&["consume", "t", "-g", "billing"]);
    broker
        .run(&["group", "describe", "biling"])
        .failed(1, "did you mean billing?");
    broker
        .run(&["group", "reset", "fresh", "--to", "end"])
        .failed(1, "a topic must be named");
}

#[test]
fn a_static_member_keeps_its_partitions_over_a_restart() {
    let broker = Broker::start();
    broker.ok(&["topic", "create", "t", "-p", "2"]);
    let member =
        |id: &str| broker.background(&["consume", "t", "-g", "g", "--follow", "--instance-id", id]);
    let one = member("one");
    let two = member("two");
    settled(&broker, "g", 2, 2);
    let place = |instance: &str| {
        let members = members(&broker, "g");
        let found = members.iter().find(|m| m["instance"] == instance);
        found.map(|m| m["partitions"].clone())
    };
    let before = place("one");
    one.stop("TERM");
    let one = member("one");
    settled(&broker, "g", 2, 2);
    assert_eq!(place("one"), before);
    drop((one, two));
}

#[test]
fn a_member_outlives_a_broker_that_is_killed_and_started_again() {
    let mut broker = Broker::start();
    broker.ok(&["topic", "create", "t", "-p", "2"]);
    let mut reader = broker.background(&["consume", "t", "-g", "g", "--follow"]);
    broker.ok_with_input(&["produce", "t", "--round-robin"], &numbers(1..=100));
    reader.wait_for_lines(100);
    broker.stop("KILL");
    let broker = broker.restart();
    broker.ok_with_input(&["produce", "t", "--round-robin"], &numbers(101..=200));
    until("the later records are read", || {
        reader.drain();
        (101..=200).all(|n| reader.seen.contains(&n.to_string()))
    });
    let (code, _) = reader.stop("TERM");
    assert_eq!(code, 0);
    assert_eq!(broker.json(&["group", "describe", "g"])["lag"], 0);
}

#[test]
fn a_member_that_is_killed_is_replaced_and_what_it_had_not_committed_is_read_again() {
    let broker = quick_to_rebalance();
    broker.ok(&["topic", "create", "t", "-p", "2"]);
    let session = &["--session-timeout", "2s"];
    let consume = [
        "consume", "t", "-g", "g", "--follow", session[0], session[1],
    ];
    let mut killed = broker.background(&consume);
    settled(&broker, "g", 1, 1);
    broker.ok_with_input(&["produce", "t", "--round-robin"], &numbers(1..=50));
    killed.wait_for_lines(50);
    killed.stop("KILL");
    let mut heir = broker.background(&consume);
    heir.wait_for_lines(50);
    let read: BTreeSet<&String> = heir.seen.iter().collect();
    assert_eq!(
        read.len(),
        50,
        "nothing was committed, so all is read again"
    );
}
