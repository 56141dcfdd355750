//! Topics made, seen, changed and deleted; exit codes; JSON for scripts.

use serde_json::json;

use crate::harness::{Broker, run_against};

#[test]
fn a_topic_is_made_described_changed_and_deleted() {
    let broker = Broker::start();
    broker.ok(&[
        "topic",
        "create",
        "orders",
        "-p",
        "3",
        "--set",
        "retention.ms=86400000",
    ]);
    let list = broker.json(&["topic", "list"]);
    assert_eq!(list[0]["topic"], "orders");
    assert_eq!(list[0]["partitions"], 3);
    assert_eq!(
        list.as_array().unwrap().len(),
        1,
        "internal topics are left out: {list}"
    );

    let described = broker.json(&["topic", "describe", "orders"]);
    assert_eq!(described["partitions"][2]["leader"], 0);
    assert_eq!(described["partitions"][2]["isr"], json!([0]));
    assert_eq!(described["settings"][0]["name"], "retention.ms");
    assert_eq!(described["settings"][0]["value"], "86400000");

    broker.ok(&[
        "topic",
        "alter",
        "orders",
        "-p",
        "5",
        "--set",
        "max.message.bytes=2000000",
        "--unset",
        "retention.ms",
    ]);
    let described = broker.json(&["topic", "describe", "orders"]);
    assert_eq!(described["partitions"].as_array().unwrap().len(), 5);
    assert_eq!(described["settings"].as_array().unwrap().len(), 1);
    assert_eq!(described["settings"][0]["name"], "max.message.bytes");

    let plan = broker.ok(&["topic", "delete", "orders"]);
    assert!(
        plan.contains("would be deleted") && plan.contains("--execute"),
        "{plan}"
    );
    assert_eq!(broker.json(&["topic", "list"]).as_array().unwrap().len(), 1);
    broker.ok(&["topic", "delete", "orders", "--execute"]);
    assert_eq!(broker.json(&["topic", "list"]), json!([]));
}

#[test]
fn what_cannot_be_is_refused_with_the_next_command() {
    let broker = Broker::start();
    broker.ok(&["topic", "create", "payments"]);
    broker
        .run(&["topic", "create", "payments"])
        .failed(1, "TOPIC_ALREADY_EXISTS")
        .failed(1, "next: tidemark --bootstrap");
    broker.ok(&["topic", "create", "payments", "--if-not-exists"]);
    broker
        .run(&["topic", "describe", "paymets"])
        .failed(1, "did you mean payments?")
        .failed(1, "topic describe payments");
    broker
        .run(&["topic", "create", "x", "--set", "retention.sm=1"])
        .failed(1, "INVALID_CONFIG");
    broker
        .run(&["topic", "alter", "payments", "--set", "retention.ms=soon"])
        .failed(1, "INVALID_CONFIG");
    broker
        .run(&["topic", "create", "x", "-r", "3"])
        .failed(1, "INVALID_REPLICATION_FACTOR");
    broker.ok(&["topic", "alter", "payments", "-p", "4"]);
    broker
        .run(&["topic", "alter", "payments", "-p", "2"])
        .failed(1, "cannot be taken away");
    let wrong = broker
        .run(&["topic", "describe", "nothing", "-o", "json"])
        .failed(1, "does not exist");
    let error: serde_json::Value =
        serde_json::from_str(&wrong.stderr).expect("errors are JSON, too");
    assert_eq!(error["exit"], 1);
}

#[test]
fn a_dry_run_does_nothing() {
    let broker = Broker::start();
    broker.ok(&["topic", "create", "a", "--dry-run"]);
    assert_eq!(broker.json(&["topic", "list"]), json!([]));
    broker.ok(&["topic", "create", "a", "-p", "1"]);
    broker.ok(&[
        "topic",
        "alter",
        "a",
        "-p",
        "4",
        "--set",
        "retention.ms=1000",
        "--dry-run",
    ]);
    let described = broker.json(&["topic", "describe", "a"]);
    assert_eq!(described["partitions"].as_array().unwrap().len(), 1);
    assert_eq!(described["settings"], json!([]));
}

#[test]
fn a_change_that_is_half_refused_is_not_half_done() {
    let broker = Broker::start();
    broker.ok(&["topic", "create", "a", "-p", "1"]);
    broker
        .run(&[
            "topic",
            "alter",
            "a",
            "-p",
            "4",
            "--set",
            "retention.ms=never",
        ])
        .failed(1, "INVALID_CONFIG");
    let described = broker.json(&["topic", "describe", "a"]);
    assert_eq!(described["partitions"].as_array().unwrap().len(), 1);
}

#[test]
fn records_are_trimmed() {
    let broker = Broker::start();
    broker.ok(&["topic", "create", "a", "-p", "1"]);
    broker.ok_with_input(&["produce", "a"], &crate::harness::numbers(1..=10));
    let plan = broker.json(&["topic", "trim", "a", "--before", "4"]);
    assert_eq!(
        (&plan[0]["records"], &plan[0]["new_start"]),
        (&json!(4), &json!(4))
    );
    assert_eq!(broker.ok(&["consume", "a"]).lines().count(), 10);
    broker.ok(&["topic", "trim", "a", "--before", "4", "--execute"]);
    assert_eq!(broker.ok(&["consume", "a"]).lines().next(), Some("5"));
    broker
        .run(&["consume", "a", "--from", "2"])
        .failed(1, "has offsets 4 to 10");
}

#[test]
fn settings_of_brokers_are_shown_and_changed() {
    let broker = Broker::start();
    broker.ok(&["config", "set", "--brokers", "log.retention.ms=7200000"]);
    let shown = broker.json(&["config", "show", "--broker", "0", "log.retention.ms"]);
    assert_eq!(shown[0]["value"], "7200000", "{shown}");
    broker
        .run(&["config", "set", "--brokers", "log.retention.sm=1"])
        .failed(1, "INVALID_CONFIG");
}

#[test]
fn exit_codes_are_what_scripts_rely_on() {
    run_against("127.0.0.1:1", &["topic", "list"], b"").failed(3, "cannot reach 127.0.0.1:1");
    run_against("127.0.0.1:1", &["topic", "frobnicate"], b"").failed(2, "frobnicate");
    run_against("127.0.0.1:port", &["topic", "list"], b"").failed(2, "port");
    run_against("127.0.0.1:1", &["group", "reset", "g", "--to", "soon"], b"")
        .failed(2, "is not a place");
    assert_eq!(run_against("127.0.0.1:1", &["--help"], b"").code, 0);
}

#[test]
fn completions_are_printed_without_a_broker() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run_against("127.0.0.1:1", &["completions", shell], b"").ok();
        assert!(script.contains("consume"), "{shell}: {script}");
    }
}
