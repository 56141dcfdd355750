//! `dev` and `broker`: what they say, what they keep, how they stop.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::harness::{BINARY, Broker, numbers, run_against};

#[test]
fn data_outlives_a_clean_stop_and_a_kill() {
    let mut broker = Broker::start();
    broker.ok(&["topic", "create", "t", "-p", "1"]);
    broker.ok_with_input(&["produce", "t"], &numbers(1..=100));
    broker.ok(&["consume", "t", "-g", "g", "-n", "30"]);
    assert_eq!(broker.stop("TERM"), Some(0));
    let mut broker = broker.restart();
    assert_eq!(
        broker
            .ok(&["consume", "t", "-g", "g", "-n", "10"])
            .lines()
            .next(),
        Some("31")
    );
    broker.stop("KILL");
    let broker = broker.restart();
    assert_eq!(broker.ok(&["consume", "t"]).as_bytes(), numbers(1..=100));
    assert_eq!(
        broker.ok(&["consume", "t", "-g", "g"]).lines().next(),
        Some("41")
    );
}

#[test]
fn what_ready_says_to_type_next_works() {
    let data = tempfile::tempdir().unwrap();
    let mut process = Command::new(BINARY)
        .args(["dev", "--listen", "127.0.0.1:0", "--data"])
        .arg(data.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut hints = Vec::new();
    for line in BufReader::new(process.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if let Some((_, hint)) = line.split_once("next:  ") {
            hints.push(hint.to_owned());
        } else if !hints.is_empty() {
            hints.push(line.trim().to_owned());
            break;
        }
    }
    let type_it = |hint: &str| {
        let directory = std::path::Path::new(BINARY).parent().unwrap();
        let path = format!("{}:{}", directory.display(), std::env::var("PATH").unwrap());
        let output = Command::new("sh")
            .arg("-c")
            .arg(hint)
            .env("PATH", path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{hint}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    type_it(&hints[0]);
    assert_eq!(type_it(&hints[1]), "hello\n");
    process.kill().unwrap();
    process.wait().unwrap();
}

#[test]
fn a_broker_runs_from_a_file_and_settings_go_before_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("broker.yaml");
    let data = directory.path().join("data");
    let text = format!(
        "config:\n  node.id: 7\n  listeners: PLAINTEXT://127.0.0.1:0\n  http.listen: 127.0.0.1:0\n  log.dirs: {}\n  num.partitions: 2\n",
        data.display()
    );
    std::fs::write(&file, text).unwrap();
    let path = file.display().to_string();
    run_against("127.0.0.1:1", &["format", "--config", &path], b"").ok();
    let mut process = Command::new(BINARY)
        .args(["broker", "--set", "num.partitions=5", "--config"])
        .arg(&file)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let ready = lines.next().unwrap().unwrap();
    let address = ready.strip_prefix("ready  ").expect(&ready).to_owned();
    let cluster = run_against(&address, &["cluster", "-o", "json"], b"").ok();
    let cluster: serde_json::Value = serde_json::from_str(&cluster).unwrap();
    assert_eq!(cluster["brokers"][0]["id"], 7);
    run_against(&address, &["topic", "create", "t"], b"").ok();
    let described = run_against(&address, &["topic", "describe", "t", "-o", "json"], b"").ok();
    let described: serde_json::Value = serde_json::from_str(&described).unwrap();
    assert_eq!(described["partitions"].as_array().unwrap().len(), 5);
    Command::new("kill")
        .arg(process.id().to_string())
        .status()
        .unwrap();
    assert_eq!(process.wait().unwrap().code(), Some(0));
}

#[test]
fn a_configuration_that_makes_no_sense_is_a_usage_error() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("broker.yaml");
    let run = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let output = Command::new(BINARY)
            .args(["broker", "--config"])
            .arg(&file)
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, said) = run("config:\n  num.partitons: 2\n");
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("num.partitions"), "{said}");
    let (code, said) = run("settings: {}\n");
    assert_eq!(code, Some(2), "{said}");
    let missing = run_against("127.0.0.1:1", &["broker", "--config", "/nowhere.yaml"], b"");
    assert_eq!(missing.code, 2, "{missing:?}");
}
