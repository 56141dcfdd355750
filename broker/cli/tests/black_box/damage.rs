//! What the tools say of a partition whose log is damaged, and of a broker that is not there.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::{BINARY, Broker, numbers, run_against};

/// A broker over topic `hurt`, whose partition 0 was damaged while it was down.
fn damaged() -> Broker {
    let mut broker = Broker::start();
    broker.ok(&["topic", "create", "hurt", "-p", "2"]);
    broker.ok_with_input(&["produce", "hurt", "-p", "0"], &numbers(1..=100));
    broker.ok_with_input(&["produce", "hurt", "-p", "1"], &numbers(1..=100));
    broker.stop("TERM");
    let segment = broker.data().join("hurt-0/00000000000000000000.log");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes.pop().expect("acknowledged records");
    std::fs::write(&segment, bytes).unwrap();
    broker.restart()
}

#[test]
fn a_damaged_log_is_found_and_its_topic_described() {
    let broker = damaged();
    let done = broker.run(&["doctor"]);
    assert_eq!(done.code, 1, "{done:?}");
    let what = "1 partition offline on broker 0, which is up: hurt-0";
    assert!(done.stdout.contains(what), "{done:?}");
    let log = broker.data().join("hurt-0").display().to_string();
    let next = done.stdout.lines().find(|line| line.contains("next: "));
    let next = next.unwrap_or_else(|| panic!("{done:?}"));
    assert!(
        next.contains("--cut-corrupt-logs") && next.contains(&log),
        "{next}"
    );

    let text = broker.ok(&["topic", "describe", "hurt"]);
    assert!(text.contains("1 partition without a leader"), "{text}");
    let report = broker.json(&["topic", "describe", "hurt"]);
    let partitions = &report["partitions"];
    assert_eq!(partitions[0]["leader"], Value::Null, "{report}");
    assert_eq!(partitions[0]["offline"][0], 0, "{report}");
    assert_eq!(partitions[1]["end"], 100, "{report}");
    let rest = broker.ok(&["consume", "hurt", "-p", "1"]);
    assert_eq!(rest.as_bytes(), numbers(1..=100));
}

#[test]
fn an_offset_that_only_some_partitions_have() {
    let broker = Broker::start();
    broker.ok(&["topic", "create", "t", "-p", "2"]);
    broker.ok_with_input(&["produce", "t", "-p", "1"], &numbers(1..=10));
    let done = broker
        .run(&["consume", "t", "--from", "2"])
        .failed(1, "t-0 has offsets 0 to 0");
    assert!(
        done.stderr.contains("consume t -p 1 --from 2"),
        "{}",
        done.stderr
    );
    let rest = broker.ok(&["consume", "t", "-p", "1", "--from", "2"]);
    assert_eq!(rest.as_bytes(), numbers(3..=10));
    broker
        .run(&["consume", "t", "--from", "20"])
        .failed(1, "topic describe t");
}

#[test]
fn where_nobody_answers_the_next_step_is_said_in_json_too() {
    let next = "tidemark dev --listen 127.0.0.1:1";
    run_against("127.0.0.1:1", &["topic", "list"], b"").failed(3, &format!("next: {next}"));
    let done = run_against("127.0.0.1:1", &["topic", "list", "-o", "json"], b"");
    let error: Value = serde_json::from_str(&done.stderr).unwrap();
    assert_eq!(error["next"], next, "{done:?}");
}

#[test]
fn what_is_logged_to_a_file_has_no_colours() {
    let data = tempfile::tempdir().unwrap();
    let mut process = Command::new(BINARY)
        .args(["dev", "--listen", "127.0.0.1:0"])
        .args(["--set", "num.recovery.threads.per.data.dir=4", "--data"])
        .arg(data.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = String::new();
    BufReader::new(process.stdout.take().unwrap())
        .read_line(&mut ready)
        .unwrap();
    assert!(ready.starts_with("ready"), "{ready}");
    process.kill().unwrap();
    process.wait().unwrap();
    let mut log = String::new();
    process
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut log)
        .unwrap();
    assert!(log.contains("WARN"), "{log}");
    assert!(!log.contains('\u{1b}'), "{log:?}");
}
