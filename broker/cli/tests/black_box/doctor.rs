//! Every finding of the doctor, provoked.

use serde_json::Value;

use crate::harness::{Broker, run_against};
use crate::proxy;

/// What the doctor finds at an address; it must end with code 1, and say what, why and next of each.
fn findings(address: &str) -> Vec<(String, String, String)> {
    let done = run_against(address, &["doctor", "-o", "json"], b"");
    assert_eq!(done.code, 1, "{done:?}");
    let report: Value = serde_json::from_str(&done.stdout).unwrap();
    let mut found = Vec::new();
    for check in report["checks"].as_array().unwrap() {
        for finding in check["findings"].as_array().unwrap() {
            let text = |field: &str| finding[field].as_str().unwrap().to_owned();
            assert!(!text("why").is_empty());
            found.push((
                check["name"].as_str().unwrap().to_owned(),
                text("what"),
                text("next"),
            ));
        }
    }
    assert_eq!(report["findings"], found.len());
    found
}

/// The one finding there is.
fn finding(address: &str) -> (String, String, String) {
    let mut found = findings(address);
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

#[test]
fn a_healthy_broker_has_no_findings() {
    let broker = Broker::start();
    broker.ok_with_input(&["produce", "t", "--create"], b"x\n");
    let text = broker.ok(&["doctor"]);
    assert!(text.ends_with("Nothing found.\n"), "{text}");
}

#[test]
fn nobody_there() {
    let done = run_against("127.0.0.1:1", &["doctor"], b"").failed(3, "nobody listens there");
    assert!(
        done.stderr
            .contains("next: tidemark dev --listen 127.0.0.1:1"),
        "{done:?}"
    );
}

#[test]
fn one_of_two_bootstrap_addresses_is_dead() {
    let broker = Broker::start();
    let (check, what, _) = finding(&format!("127.0.0.1:1,{}", broker.address));
    assert_eq!(check, "bootstrap");
    assert!(what.contains("127.0.0.1:1 does not answer"), "{what}");
}

#[test]
fn an_advertised_address_where_nobody_answers() {
    let broker = Broker::start_with(&["--set", "advertised.listeners=PLAINTEXT://127.0.0.1:1"]);
    let bound = bound_address(&broker);
    let (check, what, next) = finding(&bound);
    assert_eq!(check, "advertised addresses");
    assert!(what.contains("broker 0 advertises 127.0.0.1:1"), "{what}");
    assert!(next.contains("advertised.listeners"), "{next}");
}

/// Where a broker really listens, whatever it advertises.
fn bound_address(broker: &Broker) -> String {
    let sockets = std::process::Command::new("sh")
        .arg("-c")
        .arg(format!(
            "for p in $(ls -l /proc/{}/fd | sed -n 's/.*socket:\\[\\([0-9]*\\)\\].*/\\1/p'); do \
             awk -v i=$p '$4 == \"0A\" && $10 == i {{ print $2 }}' /proc/net/tcp; done",
            broker.id()
        ))
        .output()
        .unwrap();
    let ports: Vec<u16> = String::from_utf8(sockets.stdout)
        .unwrap()
        .lines()
        .map(|line| u16::from_str_radix(line.rsplit(':').next().unwrap(), 16).unwrap())
        .collect();
    // One of them is the HTTP port: Kafka's answers as a broker does.
    let address = ports
        .iter()
        .map(|port| format!("127.0.0.1:{port}"))
        .find(|address| run_against(address, &["topic", "list", "--timeout", "2s"], b"").code == 0);
    address.unwrap_or_else(|| panic!("no Kafka listener among {ports:?}"))
}

#[test]
fn a_disk_with_little_room() {
    let broker = Broker::start();
    broker.ok_with_input(&["produce", "t", "--create"], b"x\n");
    let port = proxy::start(&broker.address, proxy::nearly_full);
    let (check, what, next) = finding(&format!("127.0.0.1:{port}"));
    assert_eq!(check, "disks");
    assert!(what.contains("1.0 GiB left, 1%"), "{what}");
    assert!(next.contains("retention.ms"), "{next}");
}

#[test]
fn a_disk_that_was_given_up() {
    let broker = Broker::start();
    let port = proxy::start(&broker.address, proxy::failed_disk);
    let (check, what, _) = finding(&format!("127.0.0.1:{port}"));
    assert_eq!(check, "disks");
    assert!(what.contains("KAFKA_STORAGE_ERROR"), "{what}");
}

#[test]
fn partitions_without_a_leader_and_behind() {
    let broker = Broker::start();
    broker.ok(&["topic", "create", "t", "-p", "3"]);
    let port = proxy::start(&broker.address, proxy::ill_replicas);
    let found = findings(&format!("127.0.0.1:{port}"));
    let what: Vec<&str> = found.iter().map(|(_, what, _)| what.as_str()).collect();
    assert_eq!(
        what,
        [
            "1 partition without a leader: t-0",
            "2 partitions under min.insync.replicas: t-1, t-2",
            "2 partitions under-replicated: t-1, t-2"
        ]
    );
}

#[test]
fn a_low_limit_of_open_files() {
    let broker = Broker::start_with_open_files(300);
    let (check, what, next) = finding(&broker.address);
    assert_eq!(check, "open files");
    assert!(what.contains("broker 0 may open 300 files"), "{what}");
    assert!(next.contains("ulimit -n"), "{next}");
}

#[test]
fn a_clock_that_is_ahead() {
    let broker = Broker::start();
    broker.ok(&["topic", "create", "t", "-p", "1"]);
    let now_ms = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_millis();
    let line = format!(
        "{{\"value\": \"x\", \"timestamp_ms\": {}}}\n",
        now_ms + 30 * 60_000
    );
    broker.ok_with_input(&["produce", "t", "--input", "json"], line.as_bytes());
    let (check, what, _) = finding(&broker.address);
    assert_eq!(check, "clocks");
    assert!(what.contains("ahead of this machine's clock"), "{what}");
}

#[test]
fn settings_without_effect() {
    let broker = Broker::start_with(&["--set", "num.recovery.threads.per.data.dir=4"]);
    broker.ok(&["topic", "create", "t", "--set", "min.compaction.lag.ms=5"]);
    let found = findings(&broker.address);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found[0]
            .1
            .contains("broker 0 sets num.recovery.threads.per.data.dir=4"),
        "{found:?}"
    );
    assert!(
        found[1].1.contains("topic t sets min.compaction.lag.ms=5"),
        "{found:?}"
    );
    let described = broker.ok(&["topic", "describe", "t"]);
    assert!(described.contains("kept, not honoured yet"), "{described}");
    // What the doctor says to type next cures it.
    let next = found[1].2.strip_prefix("tidemark ").unwrap();
    broker.ok(&next.split(' ').collect::<Vec<_>>());
    assert_eq!(findings(&broker.address).len(), 1);
}
