//! `topic import`: partitions' directories taken into the data of a stopped broker.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::{Broker, Done, numbers, run_against};

/// Nobody needs to be there: an import works on files.
const NOBODY: &str = "127.0.0.1:1";

fn import(into: &Broker, from: &[&Path], more: &[&str]) -> Done {
    let data = into.data().display().to_string();
    let from: Vec<String> = from.iter().map(|dir| dir.display().to_string()).collect();
    let mut arguments = vec!["topic", "import", "--data", &data];
    arguments.extend(from.iter().map(String::as_str));
    arguments.extend(more);
    run_against(NOBODY, &arguments, b"")
}

/// A stopped broker with topic `t` of two partitions.
fn a_source() -> (Broker, Vec<Value>) {
    let mut source = Broker::start();
    source.ok(&["topic", "create", "t", "-p", "2"]);
    source.ok_with_input(
        &["produce", "t", "--partition", "0", "-z", "zstd"],
        &numbers(1..=50),
    );
    source.ok_with_input(
        &["produce", "t", "--partition", "1", "-k", "="],
        b"a=1\nb=2\n",
    );
    source.ok_with_input(
        &["produce", "t", "--partition", "1", "-H", "h=v"],
        b"three\n",
    );
    let records = records_of(&source, "t");
    assert_eq!(records.len(), 53);
    assert_eq!(source.stop("TERM"), Some(0));
    (source, records)
}

fn a_stopped_broker() -> Broker {
    let mut broker = Broker::start();
    assert_eq!(broker.stop("TERM"), Some(0));
    broker
}

fn dir(broker: &Broker, name: &str) -> PathBuf {
    broker.data().join(name)
}

/// All records of a topic, by partition and offset.
fn records_of(broker: &Broker, topic: &str) -> Vec<Value> {
    let mut records: Vec<Value> = broker
        .ok(&["consume", topic, "-o", "json"])
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    records.sort_by_key(|r| (r["partition"].as_i64(), r["offset"].as_i64()));
    records
}

#[test]
fn records_are_served_as_they_were_and_more_follow_them() {
    let (source, records) = a_source();
    let mut broker = Broker::start();
    import(&broker, &[source.data()], &[])
        .failed(1, "a broker runs on")
        .failed(1, "stop it, import, and start it again");
    broker.stop("TERM");
    let said: Value = serde_json::from_str(
        &import(
            &broker,
            &[&dir(&source, "t-0"), &dir(&source, "t-1")],
            &["-o", "json", "--set", "max.message.bytes=2000000"],
        )
        .ok(),
    )
    .unwrap();
    assert_eq!(said["partitions"][0]["topic"], "t");
    assert_eq!(said["partitions"][0]["end"], 50);
    assert_eq!(said["partitions"][1]["end"], 3);
    let mut broker = broker.restart();
    assert_eq!(records_of(&broker, "t"), records);
    let described = broker.json(&["topic", "describe", "t"]);
    assert_eq!(described["settings"][0]["name"], "max.message.bytes");
    broker.ok_with_input(&["produce", "t", "--partition", "0"], b"51\n");
    broker.stop("KILL");
    let mut broker = broker.restart();
    let now = records_of(&broker, "t");
    assert_eq!(now.len(), 54);
    assert_eq!(
        (&now[50]["offset"], &now[50]["value"]),
        (&json!(50), &json!("51"))
    );
    broker.stop("TERM");
    import(&broker, &[source.data()], &[]).failed(1, "has records already, up to offset 51");
    assert_eq!(records_of(&broker.restart(), "t"), now);
}

#[test]
fn a_new_producer_is_not_taken_for_one_that_the_log_remembers() {
    // Both clusters count producer ids from 0, and sequences do so for each producer.
    let mut source = Broker::start();
    source.ok(&["topic", "create", "t", "-p", "1"]);
    source.ok_with_input(&["produce", "t"], b"theirs\n");
    source.stop("TERM");
    let broker = a_stopped_broker();
    let table = import(&broker, &[&dir(&source, "t-0")], &[]).ok();
    assert!(
        table.contains("Imported 1 partition, offsets kept."),
        "{table}"
    );
    let broker = broker.restart();
    broker.ok_with_input(&["produce", "t"], b"ours\n");
    assert_eq!(broker.ok(&["consume", "t"]), "theirs\nours\n");
}

#[test]
fn an_empty_topic_takes_partitions_and_gets_more() {
    let (source, records) = a_source();
    let mut broker = Broker::start();
    broker.ok(&["topic", "create", "t", "-p", "1"]);
    broker.stop("TERM");
    import(&broker, &[source.data()], &["--set", "retention.ms=-1"])
        .failed(1, "topic t exists, and its settings stay as they are");
    import(&broker, &[source.data()], &[]).ok();
    let broker = broker.restart();
    assert_eq!(records_of(&broker, "t"), records);
    broker.ok_with_input(&["produce", "t", "--partition", "0"], b"51\n");
    assert_eq!(records_of(&broker, "t")[50]["offset"], 50);
}

#[test]
fn what_cannot_be_taken_is_refused_and_leaves_nothing() {
    let (source, _) = a_source();
    let broker = a_stopped_broker();
    import(&broker, &[&dir(&source, "t-1")], &[])
        .failed(1, "topic t: partition 0 of 2 is not among the directories");
    import(
        &broker,
        &[&dir(&source, "t-0"), source.data(), source.data()],
        &[],
    )
    .ok();
    let broker = a_stopped_broker();
    copy_dir(&dir(&source, "t-0"), &dir(&source, "nameless"));
    import(&broker, &[&dir(&source, "metadata")], &[]).failed(2, "holds no partitions");
    import(&broker, &[&dir(&source, "nameless")], &[]).failed(2, "does not say of which partition");
    import(&broker, &[&dir(&source, "nothing-0")], &[]).failed(2, "nothing-0");
    let empty = tempfile::tempdir().unwrap();
    import(&broker, &[empty.path()], &[]).failed(2, "holds no partitions");
    let copy = empty.path().join("t-0");
    copy_dir(&dir(&source, "t-0"), &copy);
    import(&broker, &[&copy, source.data()], &[]).failed(2, "are both partition t-0");
    import(&broker, &[source.data()], &["--set", "retention.sm=1"]).failed(1, "retention.sm");
    let data = empty.path().display().to_string();
    run_against(NOBODY, &["topic", "import", "--data", &data, &data], b"")
        .failed(2, "holds no broker's data")
        .failed(2, "next: tidemark dev --data");
    assert!(
        !empty.path().join(".lock").exists(),
        "nothing is made by mistake"
    );

    let segment = dir(&source, "t-1").join("00000000000000000000.log");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[70] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    import(&broker, &[source.data()], &[]).failed(1, "is corrupt at position 0");
    for left in [".import", "t-0", "t-1"] {
        assert!(!dir(&broker, left).exists(), "{left} stays behind");
    }
    assert_eq!(broker.restart().json(&["topic", "list"]), json!([]));
}

#[test]
fn what_retention_would_delete_at_once_is_refused_until_somebody_chooses() {
    let (source, records) = a_source();
    let mut broker = Broker::start();
    broker.ok(&["config", "set", "log.retention.ms=1", "--brokers"]);
    broker.stop("TERM");
    import(&broker, &[source.data()], &[])
        .failed(1, "retention.ms=1")
        .failed(1, "next: tidemark --bootstrap 127.0.0.1:1 topic import")
        .failed(1, "--set retention.ms=-1");
    import(&broker, &[source.data()], &["--set", "retention.ms=-1"]).ok();
    assert_eq!(records_of(&broker.restart(), "t"), records);
}

#[test]
fn an_import_that_was_cut_short_is_done_again() {
    let (source, records) = a_source();
    let broker = a_stopped_broker();
    // Killed while it copied, and before the metadata had the topic.
    let half = dir(&broker, ".import").join("0.importing");
    std::fs::create_dir_all(&half).unwrap();
    std::fs::write(half.join("00000000000000000000.log"), b"half").unwrap();
    copy_dir(&dir(&source, "t-0"), &dir(&broker, "t-0"));
    import(&broker, &[source.data()], &[]).ok();
    assert!(!dir(&broker, ".import").exists());
    let broker = broker.restart();
    assert_eq!(records_of(&broker, "t"), records);
    let strays = std::fs::read_dir(broker.data()).unwrap().filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_string_lossy().ends_with("-stray")
    });
    assert_eq!(strays.count(), 1, "what was in the way is set aside");
}

#[test]
fn a_directory_that_was_set_aside_is_taken_back() {
    let (source, records) = a_source();
    let broker = a_stopped_broker();
    let aside = |n: u8| dir(&broker, &format!("t-{n}.I0rXWEl5RlKBedsbDP0i-w-stray"));
    copy_dir(&dir(&source, "t-0"), &aside(0));
    copy_dir(&dir(&source, "t-1"), &aside(1));
    import(&broker, &[&aside(0), &aside(1)], &[]).ok();
    assert_eq!(records_of(&broker.restart(), "t"), records);
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
