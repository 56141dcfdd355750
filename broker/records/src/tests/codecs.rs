//! What other clients' compressors write.

use bytes::Bytes;

use super::{batch_of, forged, only_batch, records_of};
use crate::compress::compress;
use crate::decompress::decompress;
use crate::{BatchError, Compression};

const CODECS: [Compression; 4] = [
    Compression::Gzip,
    Compression::Snappy,
    Compression::Lz4,
    Compression::Zstd,
];

/// The records section of an uncompressed batch with 300 KB in it: more than
/// one block of every codec.
fn plain() -> (i32, Bytes) {
    let values: Vec<Vec<u8>> = (0..3_000u32)
        .map(|n| format!("{:0100}", n.wrapping_mul(2_654_435_761)).into_bytes())
        .collect();
    let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
    let batch = batch_of(Compression::None, &values);
    (3_000, batch.slice(61..))
}

fn reads(codec: Compression, compressed: &[u8]) {
    let (count, plain) = plain();
    assert_eq!(
        decompress(codec, compressed, plain.len()).unwrap(),
        plain,
        "{codec}"
    );
    let batch = only_batch(&forged(codec, count, compressed));
    assert_eq!(records_of(&batch).len(), count as usize);
}

fn refuses(codec: Compression, compressed: &[u8]) -> String {
    match decompress(codec, compressed, 1 << 24) {
        Err(BatchError::Decompress { reason, .. }) => reason,
        other => panic!("{codec}: {other:?}"),
    }
}

fn lz4_frame(flags: u8, block_descriptor: u8, extra: &[u8]) -> Vec<u8> {
    let mut out = vec![0x04, 0x22, 0x4d, 0x18, flags, block_descriptor];
    out.extend_from_slice(extra);
    let checksum = twox_hash::XxHash32::oneshot(0, &out[4..]);
    out.push((checksum >> 8) as u8);
    out
}

#[test]
fn raw_snappy_is_read() {
    let (_, plain) = plain();
    let raw = snap::raw::Encoder::new().compress_vec(&plain).unwrap();
    reads(Compression::Snappy, &raw);
}

#[test]
fn concatenated_streams_are_read() {
    let (_, plain) = plain();
    let (left, right) = plain.split_at(plain.len() / 3);
    for codec in CODECS {
        let mut both = compress(codec, None, left).unwrap();
        both.extend(compress(codec, None, right).unwrap());
        reads(codec, &both);
    }
}

#[test]
fn lz4_frames_with_every_option_are_read() {
    let (_, plain) = plain();
    for (block_descriptor, block_bytes) in [(0x40, 64 << 10), (0x70, 4 << 20)] {
        for checksums in [false, true] {
            let flags = if checksums { 0x7c } else { 0x68 };
            let mut out = lz4_frame(flags, block_descriptor, &(plain.len() as u64).to_le_bytes());
            for block in plain.chunks(block_bytes) {
                let data = lz4_flex::block::compress(block);
                out.extend_from_slice(&(data.len() as u32).to_le_bytes());
                out.extend_from_slice(&data);
                if checksums {
                    let checksum = twox_hash::XxHash32::oneshot(0, &data);
                    out.extend_from_slice(&checksum.to_le_bytes());
                }
            }
            out.extend_from_slice(&[0; 4]);
            if checksums {
                let checksum = twox_hash::XxHash32::oneshot(0, &plain);
                out.extend_from_slice(&checksum.to_le_bytes());
            }
            reads(Compression::Lz4, &out);
            if checksums {
                let last = out.len() - 1;
                out[last] ^= 1;
                assert!(refuses(Compression::Lz4, &out).contains("content's checksum"));
            }
        }
    }
}

#[test]
fn stored_lz4_blocks_are_read_and_written() {
    // Noise does not compress.
    let mut state = 1u64;
    let noise: Vec<u8> = (0..100_000)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        })
        .collect();
    let compressed = compress(Compression::Lz4, None, &noise).unwrap();
    assert!(compressed.len() > noise.len());
    assert_eq!(
        decompress(Compression::Lz4, &compressed, noise.len()).unwrap(),
        noise
    );
}

#[test]
fn lz4_frames_that_kafkas_clients_cannot_read_are_refused() {
    let cases: [(u8, u8, &str); 5] = [
        (0x40, 0x40, "linked blocks"),
        (0x61, 0x40, "dictionary"),
        (0xa0, 0x40, "version"),
        (0x60, 0x30, "block size"),
        (0x60, 0xc0, "block size"),
    ];
    for (flags, block_descriptor, reason) in cases {
        let frame = lz4_frame(flags, block_descriptor, &[]);
        let said = refuses(Compression::Lz4, &frame);
        assert!(said.contains(reason), "{said}");
    }
    let mut frame = lz4_frame(0x60, 0x40, &[]);
    *frame.last_mut().unwrap() ^= 1;
    assert!(refuses(Compression::Lz4, &frame).contains("header's checksum"));
}

#[test]
fn cut_streams_are_errors_at_every_length() {
    let plain: Vec<u8> = (0..2_000u32).flat_map(|n| n.to_be_bytes()).collect();
    for codec in CODECS {
        let compressed = compress(codec, None, &plain).unwrap();
        for len in 1..compressed.len() {
            let result = decompress(codec, &compressed[..len], 1 << 20);
            // Xerial's framing has no end mark: a cut between blocks is only
            // seen by the count of records.
            if codec == Compression::Snappy && len == 16 {
                assert_eq!(result.unwrap().len(), 0);
            } else {
                assert!(
                    matches!(result, Err(BatchError::Decompress { .. })),
                    "{codec} {len}"
                );
            }
        }
    }
}

#[test]
fn bytes_after_the_stream_are_errors() {
    for codec in CODECS {
        let mut compressed = compress(codec, None, b"something").unwrap();
        compressed.extend_from_slice(b"junk after it");
        refuses(codec, &compressed);
    }
}
