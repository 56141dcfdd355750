//! Tests against batches written by Apache Kafka, and of everything hostile.

mod batches;
mod builders;
mod codecs;
mod compact;
mod golden;
mod hostile;
mod properties;
mod validation;
mod validation_rewrites;

use std::io::Read;

use bytes::Bytes;
use serde_json::Value;

use crate::{
    Batch, BatchBuilder, BatchOptions, Compression, HeaderRef, Limits, Record, RecordHeader,
    RecordRef,
};

/// A batch that Apache Kafka wrote, and what Kafka says is in it.
pub(crate) struct Golden {
    pub(crate) name: String,
    pub(crate) bytes: Bytes,
    pub(crate) json: Value,
}

pub(crate) fn golden() -> Vec<Golden> {
    let compressed = include_bytes!("../../testdata/record-batches.jsonl.gz");
    let mut text = String::new();
    flate2::read::GzDecoder::new(&compressed[..])
        .read_to_string(&mut text)
        .unwrap();
    let vectors: Vec<Golden> = text
        .lines()
        .map(|line| {
            let json: Value = serde_json::from_str(line).unwrap();
            Golden {
                name: json["name"].as_str().unwrap().to_owned(),
                bytes: unhex(json["hex"].as_str().unwrap()),
                json: json["batches"][0].clone(),
            }
        })
        .collect();
    assert_eq!(vectors.len(), 122);
    vectors
}

fn unhex(hex: &str) -> Bytes {
    (0..hex.len() / 2)
        .map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap())
        .collect()
}

pub(crate) fn only_batch(bytes: &Bytes) -> Batch {
    let mut rest = bytes.clone();
    let batch = Batch::split_first(&mut rest).unwrap().unwrap();
    assert!(rest.is_empty());
    batch
}

pub(crate) fn records_of(batch: &Batch) -> Vec<Record> {
    batch
        .records(Limits::default())
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap()
}

/// Appends a decoded record to a builder.
pub(crate) fn append(builder: &mut BatchBuilder, timestamp_ms: i64, record: &Record) {
    let headers: Vec<RecordHeader> = record.headers.iter().collect();
    let headers: Vec<HeaderRef<'_>> = headers
        .iter()
        .map(|header| (header.key.as_ref(), header.value.as_deref()))
        .collect();
    let record_ref = RecordRef {
        timestamp_ms,
        key: record.key.as_deref(),
        value: record.value.as_deref(),
        headers: &headers,
    };
    let expected = builder.size_bytes_with(&record_ref);
    builder.append_at(record.offset, &record_ref).unwrap();
    assert_eq!(builder.size_bytes(), expected);
}

/// A batch of records with the given values and keys `k0`, `k1` …, 1 ms apart
/// from 1000 ms on.
pub(crate) fn batch_of(compression: Compression, values: &[&[u8]]) -> Bytes {
    build(
        BatchOptions {
            compression,
            ..BatchOptions::default()
        },
        values,
    )
}

pub(crate) fn build(options: BatchOptions, values: &[&[u8]]) -> Bytes {
    let mut builder = BatchBuilder::new(options);
    for (index, value) in values.iter().enumerate() {
        builder
            .append(&RecordRef {
                timestamp_ms: 1_000 + index as i64,
                key: Some(format!("k{index}").as_bytes()),
                value: Some(value),
                headers: &[],
            })
            .unwrap();
    }
    builder.build().unwrap()
}

/// A batch with this payload, whatever that is, and a valid CRC.
pub(crate) fn forged(compression: Compression, record_count: i32, payload: &[u8]) -> Bytes {
    let mut out = batch_of(Compression::None, &[b"v"])[..61].to_vec();
    out.extend_from_slice(payload);
    let length = (out.len() - 12) as i32;
    out[8..12].copy_from_slice(&length.to_be_bytes());
    out[21..23].copy_from_slice(&i16::from(compression.id()).to_be_bytes());
    out[23..27].copy_from_slice(&(record_count - 1).max(0).to_be_bytes());
    out[57..61].copy_from_slice(&record_count.to_be_bytes());
    crate::patch::recompute_crc(&mut out).unwrap();
    out.into()
}
