//! Splitting batches off a buffer, and patching them.

use bytes::Bytes;

use super::{batch_of, only_batch, records_of};
use crate::{Batch, BatchError, BatchHeader, Compression, TimestampType, patch};

#[test]
fn batches_split_off_one_after_another() {
    let first = batch_of(Compression::None, &[b"a", b"b"]);
    let second = batch_of(Compression::Zstd, &[b"c"]);
    let mut bytes = Bytes::from([&first[..], &second[..]].concat());
    assert_eq!(
        Batch::split_first(&mut bytes).unwrap().unwrap().bytes,
        first
    );
    assert_eq!(
        Batch::split_first(&mut bytes).unwrap().unwrap().bytes,
        second
    );
    assert_eq!(Batch::split_first(&mut bytes), Ok(None));
}

#[test]
fn a_cut_batch_says_what_is_missing_and_takes_nothing() {
    let whole = batch_of(Compression::None, &[b"value"]);
    for len in 1..whole.len() {
        let mut bytes = whole.slice(..len);
        let needed_bytes = match len {
            ..17 => 17,
            17..61 => 61,
            _ => whole.len(),
        };
        assert_eq!(
            Batch::split_first(&mut bytes),
            Err(BatchError::Truncated {
                needed_bytes,
                available_bytes: len
            })
        );
        assert_eq!(bytes.len(), len);
    }
}

#[test]
fn header_arithmetic_does_not_overflow() {
    let mut header = BatchHeader::parse(&batch_of(Compression::None, &[b"v"])).unwrap();
    header.base_offset = i64::MAX;
    header.last_offset_delta = 7;
    assert_eq!(header.last_offset(), i64::MAX);
    assert_eq!(header.next_offset(), i64::MAX);
    header.base_sequence = i32::MAX - 2;
    // Sequences go on at 0 after i32::MAX.
    assert_eq!(header.last_sequence(), 4);
    header.base_sequence = -1;
    assert_eq!(header.last_sequence(), -1);
}

#[test]
fn offset_and_epoch_are_patched_without_touching_the_crc() {
    let mut bytes = batch_of(Compression::Lz4, &[b"a", b"b"]).to_vec();
    patch::set_base_offset(&mut bytes, 1_000).unwrap();
    patch::set_partition_leader_epoch(&mut bytes, 5).unwrap();
    let batch = only_batch(&Bytes::from(bytes));
    batch.verify_crc().unwrap();
    assert_eq!(batch.header.partition_leader_epoch, 5);
    let offsets: Vec<i64> = records_of(&batch).iter().map(|r| r.offset).collect();
    assert_eq!(offsets, [1_000, 1_001]);
}

#[test]
fn log_append_time_is_what_all_records_then_have() {
    let mut bytes = batch_of(Compression::Gzip, &[b"a", b"b"]).to_vec();
    patch::set_log_append_time(&mut bytes, 77).unwrap();
    let batch = only_batch(&Bytes::from(bytes));
    batch.verify_crc().unwrap();
    assert_eq!(batch.header.timestamp_type(), TimestampType::LogAppendTime);
    assert!(records_of(&batch).iter().all(|r| r.timestamp_ms == 77));
}

#[test]
fn patching_less_than_a_header_is_an_error() {
    assert!(patch::set_base_offset(&mut [0; 60], 1).is_err());
    assert!(patch::set_partition_leader_epoch(&mut [], 1).is_err());
    assert!(patch::set_log_append_time(&mut [0; 10], 1).is_err());
    assert!(patch::recompute_crc(&mut [0; 10]).is_err());
    assert!(patch::set_max_timestamp(&mut [0; 10], 1).is_err());
}

#[test]
fn codecs_have_kafkas_ids_and_names() {
    for (id, name) in ["none", "gzip", "snappy", "lz4", "zstd"].iter().enumerate() {
        let codec = Compression::from_id(id as u8).unwrap();
        assert_eq!(codec.id() as usize, id);
        assert_eq!(codec.to_string(), *name);
        assert_eq!(name.parse(), Ok(codec));
    }
    assert_eq!(Compression::from_id(5), None);
    assert_eq!("uncompressed".parse(), Ok(Compression::None));
    assert!("producer".parse::<Compression>().is_err());
}
