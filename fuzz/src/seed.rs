//! Writes the golden vectors as a fuzzer's first inputs.
//!
//! The fuzzers do this themselves when `TIDEMARK_FUZZ_SEEDS` names a directory:
//! cargo-fuzz builds every binary of its package with the fuzzer's
//! instrumentation, which no other program could be linked with.

use std::fs;
use std::io::Read;
use std::path::Path;

use crate::{REQUESTS, RESPONSES};
use flate2::read::GzDecoder;
use serde_json::Value;

fn lines(path: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../broker")
        .join(path);
    let compressed = fs::read(path).expect("the vectors are in the repository");
    let mut text = String::new();
    GzDecoder::new(&compressed[..])
        .read_to_string(&mut text)
        .expect("the vectors are gzip");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("the vectors are JSON"))
        .collect()
}

fn hex(vector: &Value) -> Vec<u8> {
    let hex = vector["hex"].as_str().expect("a vector has bytes");
    (0..hex.len() / 2)
        .map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("bytes are hex"))
        .collect()
}

/// The seeds of a target.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let messages = match target {
        "batches" => return batches(),
        "requests" => REQUESTS,
        "responses" => RESPONSES,
        "tier" => return crate::tier::seeds(),
        other => panic!("there are no seeds for {other}"),
    };
    let mut seeds = Vec::new();
    for vector in lines("wire/testdata/message-vectors.jsonl.gz") {
        let name = vector["message"].as_str().expect("a vector has a name");
        let version = vector["version"].as_i64().expect("a vector has a version") as i16;
        if let Some((_, key)) = messages.iter().find(|(message, _)| *message == name) {
            let mut bytes = key.to_be_bytes().to_vec();
            bytes.extend(version.to_be_bytes());
            bytes.extend(hex(&vector));
            seeds.push(bytes);
        }
    }
    seeds
}

fn batches() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for vector in lines("records/testdata/record-batches.jsonl.gz") {
        let mut bytes = hex(&vector);
        seeds.push(bytes.clone());
        // And for a topic with its own codec and perhaps log append time,
        // chosen by a byte that is as good as random.
        bytes[12] = bytes[17] & 0x0f;
        seeds.push(bytes);
    }
    seeds
}

/// Writes the seeds of `target` and ends the process, if that was asked for.
pub fn seed_and_exit_if_asked(target: &str) {
    let Some(dir) = std::env::var_os("TIDEMARK_FUZZ_SEEDS") else {
        return;
    };
    let dir = Path::new(&dir);
    fs::create_dir_all(dir).expect("the corpus is writable");
    let seeds = seeds(target);
    for (index, bytes) in seeds.iter().enumerate() {
        fs::write(dir.join(format!("seed-{index:04}")), bytes).expect("the corpus is writable");
    }
    println!("{target}: {} seeds", seeds.len());
    std::process::exit(0);
}
