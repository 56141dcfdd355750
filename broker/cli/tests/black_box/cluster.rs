//! Brokers shown, leaders elected, replicas moved: what one broker can show of it.

use serde_json::{Value, json};

use crate::harness::Broker;

#[test]
fn the_cluster_is_described_with_and_without_the_word() {
    let broker = Broker::start();
    broker.ok(&["topic", "create", "orders", "-p", "3"]);
    let described = broker.json(&["cluster", "describe"]);
    assert_eq!(described, broker.json(&["cluster"]));
    assert_eq!(described["brokers"][0]["id"], 0);
    assert_eq!(described["brokers"][0]["fenced"], false);
    assert_eq!(described["brokers"][0]["leaders"], 3);
    assert_eq!(described["brokers"][0]["behind"], 0);
    assert_eq!(described["under_replicated"], json!([]));
    let table = broker.ok(&["cluster", "describe"]);
    assert!(table.contains("BEHIND") && table.contains("up"), "{table}");
}

#[test]
fn a_plan_is_shown_before_anything_moves_and_kafkas_files_are_read() {
    let broker = Broker::start();
    broker.ok(&["topic", "create", "orders", "-p", "2"]);
    let shown = broker.ok(&["cluster", "reassign", "--topics", "orders", "--dry-run"]);
    assert!(shown.contains("Nothing has to be moved"), "{shown}");
    let plan = json!({"version": 1, "partitions": [
        {"topic": "orders", "partition": 1, "replicas": [0, 7], "log_dirs": ["any", "any"]},
    ]});
    let file = broker.data().join("plan.json");
    std::fs::write(&file, plan.to_string()).unwrap();
    let file = file.to_str().unwrap();
    let planned = broker.json(&["cluster", "reassign", "--plan", file]);
    assert_eq!(planned["executed"], false);
    assert_eq!(planned["partitions"][0]["replicas"], json!([0, 7]));
    assert_eq!(planned["back"]["partitions"][0]["replicas"], json!([0]));
    let shown = broker.ok(&["cluster", "reassign", "--plan", file]);
    assert!(
        shown.contains("Nothing was done") && shown.contains("--execute"),
        "{shown}"
    );
    // There is no broker 7.
    let refused = broker.run(&[
        "cluster",
        "reassign",
        "--plan",
        file,
        "--execute",
        "-o",
        "json",
    ]);
    assert_eq!(refused.code, 1, "{refused:?}");
    let refused: Value = serde_json::from_str(&refused.stdout).unwrap();
    let error = refused["moves"][0]["error"].as_str().unwrap();
    assert!(error.contains("INVALID_REPLICA_ASSIGNMENT"), "{error}");
    assert_eq!(broker.json(&["cluster", "reassign"]), json!([]));
    broker
        .run(&["cluster", "reassign", "--topics", "ordrs"])
        .failed(1, "did you mean orders?");
    broker
        .run(&["cluster", "reassign", "--brokers", "7"])
        .failed(2, "no broker 7");
    std::fs::write(file, "{\"version\": 3, \"partitions\": []}").unwrap();
    broker
        .run(&["cluster", "reassign", "--plan", file])
        .failed(2, "version 3");
}

#[test]
fn leaders_that_lead_already_are_told_and_losing_records_takes_its_own_word() {
    let broker = Broker::start();
    broker.ok(&["topic", "create", "orders", "-p", "2"]);
    let all = broker.ok(&["cluster", "elect", "--preferred"]);
    assert!(all.contains("Every preferred leader leads"), "{all}");
    let named = broker.json(&["cluster", "elect", "--preferred", "orders:1"]);
    assert_eq!(named[0]["partition"], 1);
    assert_eq!(named[0]["result"], "leads already");
    broker.run(&["cluster", "elect"]).failed(2, "--preferred");
    broker
        .run(&["cluster", "elect", "--unclean"])
        .failed(2, "TOPIC");
    broker
        .run(&["cluster", "elect", "--preferred", "--accept-data-loss"])
        .failed(2, "--unclean");
    broker
        .run(&["cluster", "elect", "--preferred", "orders:9"])
        .failed(2, "no partition 9");
    let led = broker.ok(&[
        "cluster",
        "elect",
        "--unclean",
        "orders",
        "--accept-data-loss",
    ]);
    assert!(led.contains("nothing has to be risked"), "{led}");
}

#[test]
fn a_cordoned_broker_gets_nothing_and_the_last_one_cannot_be_drained() {
    let broker = Broker::start();
    broker.ok(&["topic", "create", "orders"]);
    broker.ok(&["cluster", "cordon", "0"]);
    broker
        .run(&["topic", "create", "more"])
        .failed(1, "INVALID_REPLICATION_FACTOR");
    broker.ok(&["cluster", "uncordon", "0"]);
    broker.ok(&["topic", "create", "more"]);
    broker
        .run(&["cluster", "drain", "0"])
        .failed(1, "there are only 0 brokers");
    broker
        .run(&["cluster", "drain", "5"])
        .failed(2, "no broker 5");
    broker
        .run(&["cluster", "unregister", "0"])
        .failed(1, "tidemark --bootstrap");
    broker
        .run(&["cluster", "unregister", "5"])
        .failed(1, "BROKER_ID_NOT_REGISTERED");
}

#[test]
fn a_broker_is_stopped_by_leave_and_one_that_is_needed_is_not() {
    let broker = Broker::start();
    let granted = broker.json(&["cluster", "disrupt", "0", "--for", "30s"]);
    assert_eq!(granted["granted"], true);
    assert!(granted["until_ms"].as_i64().unwrap() > 0);
    let token = granted["token"].as_str().unwrap();
    // Somebody else has to wait; who has leave may have more time, or give it back.
    broker
        .run(&["cluster", "disrupt", "0"])
        .failed(1, "Somebody else has leave");
    broker.ok(&["cluster", "disrupt", "0", "--token", token]);
    broker.ok(&["cluster", "disrupt", "0", "--end", "--token", token]);
    broker.ok(&["topic", "create", "orders"]);
    let needed = broker.run(&["cluster", "disrupt", "0"]);
    assert_eq!(needed.code, 1);
    let said = "may not be stopped now: orders-0 would";
    assert!(needed.stdout.contains(said), "{needed:?}");
    broker
        .run(&["cluster", "disrupt", "7"])
        .failed(1, "Broker 7 is not registered");
}

#[test]
fn the_quorum_is_described_and_voters_are_asked_for_by_their_directories() {
    let broker = Broker::start();
    let quorum = broker.json(&["cluster", "quorum", "describe"]);
    assert_eq!(quorum["leader"], 0);
    assert_eq!(quorum["replicas"][0]["role"], "leader");
    assert_eq!(quorum["replicas"][0]["lag"], 0);
    assert!(quorum["high_watermark"].as_i64().unwrap() > 0);
    broker
        .run(&["cluster", "quorum", "remove", "9"])
        .failed(2, "node 9 is no voter");
    broker
        .run(&[
            "cluster",
            "quorum",
            "add",
            "9",
            "--address",
            "h:1",
            "--directory",
            "x",
        ])
        .failed(2, "base64url");
}

#[test]
fn what_a_lone_voter_would_lose_is_shown_before_it_goes_on_alone() {
    let mut broker = Broker::start();
    broker.ok(&["topic", "create", "orders"]);
    let dir = broker.data().join("metadata");
    let dir = dir.to_str().unwrap();
    let force = ["cluster", "quorum", "force", "--dir", dir];
    broker.run(&force).failed(1, "in use");
    broker.stop("TERM");
    let shown = broker.json(&force);
    assert_eq!(
        (&shown["done"], &shown["topics"]),
        (&json!(false), &json!(1))
    );
    assert_eq!(shown["voters_lost"], json!([]));
    let told = broker.ok(&force);
    assert!(
        told.contains("What may be lost") && told.contains("--accept-data-loss"),
        "{told}"
    );
    let mut done = force.to_vec();
    done.push("--accept-data-loss");
    assert_eq!(broker.json(&done)["done"], true);
    let broker = broker.restart();
    assert_eq!(broker.json(&["topic", "list"])[0]["topic"], "orders");
    broker.ok(&["topic", "create", "more"]);
    let nowhere = ["cluster", "quorum", "force", "--dir", "/nowhere"];
    broker.run(&nowhere).failed(1, "not formatted");
}

#[test]
fn a_throttle_goes_with_the_move_and_one_that_is_left_is_found_and_taken_away() {
    let brokers = Broker::start_with(&["--brokers", "3"]);
    brokers.ok(&["topic", "create", "orders", "--replicas", "1"]);
    let line = "x".repeat(10_000) + "\n";
    brokers.ok_with_input(&["produce", "orders"], line.repeat(100).as_bytes());
    let described = brokers.json(&["topic", "describe", "orders"]);
    let from = described["partitions"][0]["replicas"][0].as_i64().unwrap();
    let to = from % 3 + 1;
    let plan = json!({"version": 1, "partitions": [
        {"topic": "orders", "partition": 0, "replicas": [to, from]},
    ]});
    let file = brokers.data().join("plan.json");
    std::fs::write(&file, plan.to_string()).unwrap();
    let file = file.to_str().unwrap();
    let throttled = [
        "cluster",
        "reassign",
        "--plan",
        file,
        "--throttle",
        "5000000",
    ];
    let shown = brokers.ok(&throttled);
    assert!(shown.contains("--throttle 5000000 --execute"), "{shown}");
    let moved = brokers.json(&[&throttled[..], &["--execute"]].concat());
    assert_eq!(
        (&moved["done"], &moved["throttled"]),
        (&json!(true), &json!(false))
    );
    let settings = brokers.ok(&["config", "show", "--topic", "orders"]);
    assert!(!settings.contains(&format!("0:{from}")), "{settings}");
    let found = || brokers.run(&["doctor"]).stdout;
    assert!(!found().contains("throttled"), "{}", found());

    // As a move leaves it that was not waited for.
    let rate = "leader.replication.throttled.rate=1000";
    brokers.ok(&["config", "set", "--broker", "1", rate]);
    let said = found();
    let what = "though nothing is being moved: 0 topics on broker 1";
    assert!(said.contains(what), "{said}");
    let said = brokers.ok(&["cluster", "reassign"]);
    assert!(said.contains("--unthrottle"), "{said}");
    let said = brokers.ok(&["cluster", "reassign", "--unthrottle"]);
    assert!(said.contains("Not throttled any more"), "{said}");
    assert!(!found().contains("throttled"), "{}", found());
}
