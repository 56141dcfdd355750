//! Records written and read back: keys, headers, nulls, codecs, sizes; from everywhere to everywhere.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::harness::{Broker, numbers, until};

fn one_partition(broker: &Broker, topic: &str) {
    broker.ok(&["topic", "create", topic, "-p", "1"]);
}

#[test]
fn lines_come_back_in_order_from_one_partition_in_every_codec() {
    let broker = Broker::start();
    let lines = numbers(1..=20_000);
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        one_partition(&broker, codec);
        broker.ok_with_input(&["produce", codec, "-z", codec], &lines);
        assert_eq!(broker.ok(&["consume", codec]).as_bytes(), lines, "{codec}");
    }
}

#[test]
fn keys_go_where_the_java_client_sends_them() {
    let broker = Broker::start();
    broker.ok(&["topic", "create", "keys", "-p", "7"]);
    // murmur2 without its sign, modulo 7, of the hashes that the Java client's own tests name.
    let keys = [
        ("21", -973_932_308_i32),
        ("foobar", -790_332_482),
        ("abc", 479_470_107),
    ];
    let lines: String = keys.iter().map(|(key, _)| format!("{key}=v\n")).collect();
    broker.ok_with_input(&["produce", "keys", "-k", "="], lines.as_bytes());
    let read = broker.ok(&["consume", "keys", "-t", "{key} {partition}"]);
    for (key, hash) in keys {
        let partition = (hash & 0x7fff_ffff) % 7;
        assert!(
            read.lines()
                .any(|line| line == format!("{key} {partition}")),
            "{key} in {read}"
        );
    }
}

#[test]
fn partitions_are_chosen_by_hand_or_in_turn() {
    let broker = Broker::start();
    broker.ok(&["topic", "create", "t", "-p", "4"]);
    broker.ok_with_input(&["produce", "t", "-p", "3"], &numbers(1..=5));
    let summary: Value = serde_json::from_str(&broker.ok_with_input(
        &["produce", "t", "--round-robin", "-o", "json"],
        &numbers(1..=8),
    ))
    .unwrap();
    assert_eq!(summary["records"], 8);
    for partition in ["0", "1", "2", "3"] {
        assert_eq!(summary["partitions"][partition]["records"], 2, "{summary}");
    }
    assert_eq!(summary["partitions"]["3"]["first_offset"], 5);
    assert_eq!(broker.ok(&["consume", "t", "-p", "3"]).lines().count(), 7);
    broker
        .run_with_input(&["produce", "t", "-p", "9"], b"x\n")
        .failed(1, "no partition 9");
}

#[test]
fn json_round_trips_keys_headers_nulls_bytes_and_time() {
    let broker = Broker::start();
    one_partition(&broker, "a");
    one_partition(&broker, "b");
    let lines = [
        json!({"key": "k", "value": "v", "headers": [{"key": "h", "value": "1"}, {"key": "h", "value": null}], "timestamp_ms": 1_700_000_000_123_i64}),
        json!({"key": null, "value": null, "headers": [], "timestamp_ms": 1_700_000_000_124_i64}),
        json!({"key": {"base64": "/v8="}, "value": "gr\u{fc}n", "headers": [], "timestamp_ms": 1_700_000_000_125_i64}),
    ];
    let input: String = lines.iter().map(|line| format!("{line}\n")).collect();
    broker.ok_with_input(&["produce", "a", "--input", "json"], input.as_bytes());
    let first = broker.ok(&["consume", "a", "-o", "json"]);
    broker.ok_with_input(&["produce", "b", "--input", "json"], first.as_bytes());
    let second = broker.ok(&["consume", "b", "--format", "json"]);
    for (index, line) in second.lines().enumerate() {
        let read: Value = serde_json::from_str(line).unwrap();
        for field in ["key", "value", "headers", "timestamp_ms"] {
            assert_eq!(read[field], lines[index][field], "{field} of {line}");
        }
        assert_eq!(read["offset"], index);
    }
    assert_eq!(second.lines().count(), 3);
}

#[test]
fn reading_begins_anywhere() {
    let broker = Broker::start();
    one_partition(&broker, "t");
    let lines: String = (0..10)
        .map(|n| {
            format!(
                "{}\n",
                json!({"value": n.to_string(), "timestamp_ms": 1_700_000_000_000_i64 + n * 1000})
            )
        })
        .collect();
    broker.ok_with_input(&["produce", "t", "--input", "json"], lines.as_bytes());
    let from = |place: &str| broker.ok(&["consume", "t", "--from", place, "--delimiter", " "]);
    assert_eq!(from("beginning"), "0 1 2 3 4 5 6 7 8 9 ");
    assert_eq!(from("7"), "7 8 9 ");
    assert_eq!(from("end-2"), "8 9 ");
    assert_eq!(from("end"), "");
    assert_eq!(from("@1700000004500"), "5 6 7 8 9 ");
    assert_eq!(from("2023-11-14T22:13:29Z"), "9 ");
    assert_eq!(from("-1s"), "");
    assert_eq!(
        broker.ok(&["consume", "t", "-n", "2", "--from", "3"]),
        "3\n4\n"
    );
}

#[test]
fn following_sees_what_comes_later() {
    let broker = Broker::start();
    one_partition(&broker, "t");
    broker.ok_with_input(&["produce", "t"], b"before\n");
    let mut reader = broker.background(&["consume", "t", "--follow"]);
    reader.wait_for_lines(1);
    broker.ok_with_input(&["produce", "t"], b"after\n");
    reader.wait_for_lines(2);
    let (code, seen) = reader.stop("TERM");
    assert_eq!(
        (code, seen),
        (0, vec!["before".to_owned(), "after".to_owned()])
    );
}

#[test]
fn a_pipe_is_read_as_it_fills() {
    let broker = Broker::start();
    one_partition(&broker, "t");
    let mut writer = broker.background(&["produce", "t"]);
    writer.write(b"one\ntwo\nunfini");
    until("two records", || {
        broker.ok(&["consume", "t"]).lines().count() == 2
    });
    writer.write(b"shed");
    let (code, said) = writer.finish();
    assert_eq!(code, 0);
    assert!(said[0].starts_with("3 records"), "{said:?}");
    assert_eq!(broker.ok(&["consume", "t"]), "one\ntwo\nunfinished\n");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let broker = Broker::start();
    one_partition(&broker, "t");
    broker.ok_with_input(&["produce", "t"], &numbers(1..=50_000));
    let piped = std::process::Command::new("sh")
        .arg("-c")
        .arg(format!(
            "{{ {} -b {} consume t; echo code $? >&2; }} | head -n 1",
            crate::harness::BINARY,
            broker.address
        ))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&piped.stdout), "1\n");
    assert_eq!(String::from_utf8_lossy(&piped.stderr), "code 0\n");
}

#[test]
fn large_records_pass_and_too_large_ones_say_what_to_change() {
    let broker = Broker::start();
    one_partition(&broker, "t");
    let mut megabyte = vec![b'x'; 1_000_000];
    megabyte.push(b'\n');
    broker.ok_with_input(&["produce", "t"], &megabyte);
    assert_eq!(broker.ok(&["consume", "t"]).len(), 1_000_001);
    let mut too_large = vec![b'x'; 2_000_000];
    too_large.push(b'\n');
    broker
        .run_with_input(&["produce", "t"], &too_large)
        .failed(1, "MESSAGE_TOO_LARGE")
        .failed(1, "max.message.bytes");
    broker.ok(&["topic", "alter", "t", "--set", "max.message.bytes=3000000"]);
    broker.ok_with_input(&["produce", "t"], &too_large);
    assert_eq!(
        broker.ok(&["consume", "t", "--from", "end-1"]).len(),
        2_000_001
    );
}

#[test]
fn a_batch_that_is_too_large_goes_in_parts() {
    let broker = Broker::start();
    broker.ok(&[
        "topic",
        "create",
        "t",
        "-p",
        "1",
        "--set",
        "max.message.bytes=5000",
    ]);
    let lines = numbers(1..=20_000);
    broker.ok_with_input(&["produce", "t", "--batch-bytes", "100000"], &lines);
    assert_eq!(broker.ok(&["consume", "t"]).as_bytes(), lines);
}

#[test]
fn a_line_that_makes_no_sense_is_named_and_what_came_before_is_written() {
    let broker = Broker::start();
    one_partition(&broker, "t");
    broker
        .run_with_input(&["produce", "t", "-k", ":"], b"a:1\nb:2\nbroken\nc:3\n")
        .failed(1, "line 3");
    assert_eq!(
        broker.ok(&["consume", "t", "--format", "key-value", "-k", ":"]),
        "a:1\nb:2\n"
    );
    broker.run_with_input(&["produce", "t"], b"x\n").ok();
    broker
        .run_with_input(&["produce", "nowhere"], b"x\n")
        .failed(1, "topic create nowhere");
    broker.ok_with_input(&["produce", "somewhere", "--create"], b"x\n");
}

#[test]
fn acks_none_and_leader_write_too() {
    let broker = Broker::start();
    for acks in ["none", "leader"] {
        one_partition(&broker, acks);
        broker.ok_with_input(&["produce", acks, "--acks", acks], &numbers(1..=100));
        until("all records", || {
            broker.ok(&["consume", acks]).as_bytes() == numbers(1..=100)
        });
    }
}

#[test]
fn a_broker_killed_in_the_middle_loses_nothing_and_repeats_nothing() {
    let mut broker = Broker::start();
    one_partition(&broker, "t");
    let mut writer =
        broker.background(&["produce", "t", "--linger", "1ms", "--batch-bytes", "2000"]);
    let mut written: BTreeMap<u32, u32> = BTreeMap::new();
    for round in 0..3 {
        let range = round * 3_000 + 1..=(round + 1) * 3_000;
        writer.write(&numbers(range.clone()));
        until("the round has begun", || {
            let end = broker.json(&["topic", "describe", "t"])["records"].as_i64();
            end > Some(i64::from(round) * 3_000)
        });
        broker.stop("KILL");
        broker = broker.restart();
        written.extend(range.map(|n| (n, 1)));
    }
    let (code, said) = writer.finish();
    assert_eq!(code, 0, "{said:?}");
    let read = broker.ok(&["consume", "t"]);
    let expected: Vec<String> = written.keys().map(ToString::to_string).collect();
    let read: Vec<&str> = read.lines().collect();
    assert_eq!(read.len(), expected.len());
    assert!(
        read.iter().zip(&expected).all(|(a, b)| a == b),
        "order was lost"
    );
}
