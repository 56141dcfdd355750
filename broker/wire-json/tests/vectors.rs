//! The golden vectors: bytes written by Apache Kafka's own serializers for every message at every
//! version. Decoding must give Kafka's JSON, and encoding the very same bytes again.

use bytes::Bytes;
use flate2::read::GzDecoder;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader};

fn unhex(text: &str) -> Bytes {
    (0..text.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&text[i..i + 2], 16).expect("hex"))
        .collect()
}

#[allow(clippy::disallowed_methods, reason = "a test's own input")]
fn vectors() -> Vec<Value> {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../wire/testdata/message-vectors.jsonl.gz"
    );
    let lines = BufReader::new(GzDecoder::new(
        File::open(path).expect("the vectors are in the repository"),
    ))
    .lines();
    lines
        .map(|line| serde_json::from_str(&line.expect("gzip")).expect("json"))
        .collect()
}

#[test]
fn every_vector_decodes_to_kafkas_json_and_encodes_to_kafkas_bytes() {
    let vectors = vectors();
    let mut failures = Vec::new();
    let mut names = BTreeSet::new();
    for vector in &vectors {
        let name = vector["message"].as_str().expect("a name");
        let version = vector["version"].as_i64().expect("a version") as i16;
        let bytes = unhex(vector["hex"].as_str().expect("hex"));
        names.insert(name);
        let problem = match tidemark_wire_json::by_name(name, bytes.clone(), version) {
            None => Some("no such message".to_string()),
            Some(Err(error)) => Some(format!("does not decode: {error}")),
            Some(Ok((json, _))) if json != vector["json"] => {
                Some(format!("{json}\n  but Kafka has {}", vector["json"]))
            }
            Some(Ok((_, Err(error)))) => Some(format!("does not encode: {error}")),
            Some(Ok((_, Ok(encoded)))) if encoded != bytes => Some(format!(
                "encodes to {encoded:02x?}\n  but Kafka to {bytes:02x?}"
            )),
            Some(Ok(_)) => None,
        };
        failures.extend(problem.map(|problem| format!("{name} v{version}: {problem}")));
    }
    assert_eq!(vectors.len(), 2723);
    assert_eq!(names.len(), 240);
    assert!(
        failures.is_empty(),
        "{} of {} fail:\n{}",
        failures.len(),
        vectors.len(),
        failures[..failures.len().min(20)].join("\n")
    );
}

#[test]
fn every_truncation_of_a_vector_is_an_error() {
    for vector in vectors().iter().step_by(7) {
        let name = vector["message"].as_str().expect("a name");
        let version = vector["version"].as_i64().expect("a version") as i16;
        let bytes = unhex(vector["hex"].as_str().expect("hex"));
        for length in 0..bytes.len().min(300) {
            let decoded = tidemark_wire_json::by_name(name, bytes.slice(..length), version)
                .expect("a known message");
            assert!(
                decoded.is_err(),
                "{name} v{version} cut to {length} of {} bytes decodes",
                bytes.len()
            );
        }
    }
}
