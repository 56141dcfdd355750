//! Log files looked at from outside the broker.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::{Broker, run_against};

/// Any address will do: files need no broker.
const NOBODY: &str = "127.0.0.1:1";

fn file(broker: &Broker, name: &str) -> PathBuf {
    broker.data().join("t-0").join(name)
}

fn dump(path: &Path, more: &[&str]) -> crate::harness::Done {
    let path = path.display().to_string();
    let mut arguments = vec!["log", "dump", &path];
    arguments.extend(more);
    run_against(NOBODY, &arguments, b"")
}

fn a_stopped_broker_with_records() -> Broker {
    let mut broker = Broker::start();
    broker.ok(&["topic", "create", "t", "-p", "1"]);
    broker.ok_with_input(&["produce", "t", "-k", "=", "-z", "zstd"], b"a=1\nb=2\n");
    broker.ok_with_input(&["produce", "t"], b"three\n");
    assert_eq!(broker.stop("TERM"), Some(0));
    broker
}

#[test]
fn a_segment_is_shown_batch_by_batch_and_record_by_record() {
    let broker = a_stopped_broker_with_records();
    let segment = file(&broker, "00000000000000000000.log");
    let shown = dump(&segment, &["-o", "json", "--records"]).ok();
    let rows: Vec<Value> = shown
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let batches: Vec<&Value> = rows
        .iter()
        .map(|row| &row["batch"])
        .filter(|b| !b.is_null())
        .collect();
    assert_eq!(batches[0]["compression"], "zstd");
    assert_eq!(
        (&batches[0]["base_offset"], &batches[0]["last_offset"]),
        (&json!(0), &json!(1))
    );
    assert_eq!(batches.last().unwrap()["last_offset"], 2);
    let values: Vec<&Value> = rows
        .iter()
        .map(|row| &row["record"]["value"])
        .filter(|v| !v.is_null())
        .collect();
    assert_eq!(values, ["1", "2", "three"]);
    let table = dump(&segment, &["-r"]).ok();
    assert!(
        table.contains("zstd") && table.contains("key \"a\"  value \"1\""),
        "{table}"
    );
}

#[test]
fn damage_is_shown_and_is_a_finding() {
    let broker = a_stopped_broker_with_records();
    let segment = file(&broker, "00000000000000000000.log");
    let mut bytes = std::fs::read(&segment).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let done = dump(&segment, &[]).failed(1, "is damaged in 1 place");
    assert!(done.stdout.contains("WRONG CRC"), "{done:?}");
}

#[test]
fn the_small_files_are_shown_and_others_are_not() {
    let broker = a_stopped_broker_with_records();
    for name in [
        "leader-epoch-checkpoint",
        "../tidemark-checkpoint",
        "00000000000000000000.index",
    ] {
        dump(&file(&broker, name), &[]).ok();
    }
    dump(&file(&broker, "partition.metadata"), &[]).failed(2, "none of the files");
    dump(&file(&broker, "00000000000000000009.log"), &[]).failed(2, "00000000000000000009.log");
}
