//! What lies in a bucket: as it comes, and again with the checksums made right, so that the
//! fuzzer gets past them. The first byte says what it is.

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Value, json};
use tidemark_tier::document::{self, Document};
use tidemark_tier::manifest::{Chunk, Expired, Keep};
use tidemark_tier::segment::Tail;
use tidemark_tier::{Manifest, layout};

use crate::allocation::bounded;

const KEY: &str = "a key";
const NOW_MS: i64 = 1_700_000_000_000;
/// JSON says in few bytes what takes many in memory: an empty member of a list is two.
const EXTRA_PER_BYTE: usize = 64;

/// Fuzzes manifests, chunks, tails of segments and keys.
pub fn tier(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else {
        return;
    };
    match kind % 4 {
        0 => {
            each::<Manifest>(data, |manifest| {
                if manifest.check(KEY).is_ok() {
                    decide(manifest);
                }
            });
        }
        1 => each::<Chunk>(data, |_| {}),
        2 => tails(data),
        _ => keys(data),
    }
}

/// Documents of one kind: `data` as it is, and as the line of one.
fn each<T: Document>(data: &[u8], look: impl Fn(T)) {
    let decode = |bytes: &[u8]| {
        let extra = EXTRA_PER_BYTE * bytes.len();
        bounded("document", bytes.len(), extra, || {
            document::decode::<T>(KEY, bytes)
        })
    };
    if let Ok(found) = decode(data) {
        look(found);
    }
    if let Ok(found) = decode(&with_checksum(data)) {
        // What can be read can be written, and is read again.
        let bytes = document::encode(KEY, &found).expect("what was read is JSON");
        assert!(document::decode::<T>(KEY, &bytes).is_ok());
        look(found);
    }
}

fn with_checksum(line: &[u8]) -> Vec<u8> {
    let mut bytes: Vec<u8> = line.iter().map(|byte| byte.max(&b' ')).copied().collect();
    let crc = crc32fast::hash(&bytes);
    bytes.extend(format!("\ncrc32:{crc:08x}\n").bytes());
    bytes
}

/// All that is decided from a manifest leaves one that is in order.
fn decide(manifest: Manifest) {
    let (start, end) = (manifest.start_offset, manifest.end_offset);
    for offset in [start, end, end.saturating_sub(1), start / 2 + end / 2] {
        let found = manifest.find(offset).is_some();
        assert_eq!(found, (start..end).contains(&offset), "offset {offset}");
        let _ = manifest.epoch_at(offset);
        let _ = manifest.find_by_time_from(NOW_MS, offset);
    }
    let _ = (manifest.size_bytes(), manifest.entry_count());
    let _ = manifest.garbage_due(1000, NOW_MS);
    let keep = Keep {
        ms: Some(1000),
        bytes: Some(1000),
        local_bytes: 10,
    };
    if let Expired::StartAt(at) = manifest.expired(keep, NOW_MS) {
        let mut raised = manifest.clone();
        raised.raise_start(at, NOW_MS);
        raised.check(KEY).expect("it was in order before");
    }
    let mut raised = manifest.clone();
    raised.raise_start(start / 2 + end / 2, NOW_MS);
    raised.check(KEY).expect("it was in order before");
    let mut cut = manifest.clone();
    cut.cut_to_lineage(start, |epoch| (epoch % 2 == 0).then_some(end / 2), NOW_MS);
    cut.check(KEY).expect("it was in order before");
}

/// The tail of a segment: as it is, and with lengths and checksums that fit.
fn tails(data: &[u8]) {
    look_at_tail(&Bytes::copy_from_slice(data));
    let Some((count, rest)) = data.split_first() else {
        return;
    };
    let (index, footer) = rest.split_at(rest.len().min(usize::from(*count) * 24));
    let Ok(Value::Object(mut footer)) = serde_json::from_slice::<Value>(footer) else {
        return;
    };
    footer.insert("index_bytes".to_owned(), json!(index.len()));
    footer.insert("index_crc32".to_owned(), json!(crc32fast::hash(index)));
    let line = serde_json::to_vec(&Value::Object(footer)).expect("it came from JSON");
    let footer = with_checksum(&line);
    let mut tail = BytesMut::from(index);
    tail.put_slice(&footer);
    tail.put_u32(footer.len() as u32);
    tail.put_slice(b"TMSEG\0\0\x01");
    look_at_tail(&tail.freeze());
}

fn look_at_tail(bytes: &Bytes) {
    let extra = EXTRA_PER_BYTE * bytes.len();
    let decoded = bounded("tail", bytes.len(), extra, || Tail::decode(KEY, bytes));
    let Ok(tail) = decoded else { return };
    let log_bytes = tail.footer.log_bytes;
    for offset in [
        i64::MIN,
        0,
        tail.footer.base_offset,
        tail.footer.end_offset,
        i64::MAX,
    ] {
        assert!(tail.entry_of(offset).position < log_bytes);
    }
    for (timestamp_ms, from) in [(0, 0), (NOW_MS, 0), (0, log_bytes)] {
        if let Some((begin, end)) = tail.stretch_by_time(timestamp_ms, from) {
            assert!(begin < end && end <= log_bytes);
        }
    }
}

fn keys(data: &[u8]) {
    let Ok(key) = std::str::from_utf8(data) else {
        return;
    };
    if let Some(sequence) = layout::manifest_sequence(key)
        && let Some(id) = layout::partition_of(key)
    {
        let again = id.manifest(sequence);
        assert_eq!(layout::manifest_sequence(&again), Some(sequence));
        assert_eq!(layout::partition_of(&again), Some(id));
    }
    let _ = (layout::segment_epoch(key), layout::is_chunk(key));
}

/// First inputs: one good document of each kind.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let entry = |base: i64, end: i64| {
        json!({
            "base_offset": base, "end_offset": end, "leader_epoch": 3,
            "id": "AAAAAAAAAAAAAAAAAAAAAQ", "size_bytes": 900, "log_bytes": 800, "crc32": 7,
            "max_timestamp_ms": 1_699_999_000_000_i64, "epochs": [[2, base], [3, base + 1]],
        })
    };
    let manifest = json!({
        "format": "tidemark-manifest", "version": 1, "topic": "t",
        "topic_id": "AAAAAAAAAAAAAAAAAAAAAg", "partition": 0, "sequence": 1,
        "writer": {"generation": 1, "leader_epoch": 3, "id": "AAAAAAAAAAAAAAAAAAAAAw"},
        "predecessor": {"sequence": 0, "crc32": 9},
        "start_offset": 5, "end_offset": 70,
        "head": [entry(0, 10)],
        "chunks": [{
            "base_offset": 10, "end_offset": 50, "id": "AAAAAAAAAAAAAAAAAAAABA", "entries": 4,
            "size_bytes": 4000, "max_timestamp_ms": 5, "first_max_timestamp_ms": 4, "crc32": 8,
        }],
        "segments": [entry(50, 60), entry(60, 70)],
        "garbage": [{"key": "k", "since_ms": 1}],
    });
    let chunk = json!({
        "format": "tidemark-chunk", "version": 1, "segments": [entry(10, 20), entry(20, 50)],
    });
    let footer = json!({
        "format": "tidemark-segment", "version": 1, "topic": "t", "topic_id": "x", "partition": 0,
        "base_offset": 0, "end_offset": 10, "log_bytes": 100, "log_crc32": 1, "index_bytes": 24,
        "index_crc32": 1, "max_timestamp_ms": 5, "epochs": [[0, 0]], "generation": 1,
        "leader_epoch": 0,
    });
    let mut tail = vec![2, 1];
    tail.extend([0; 24]);
    tail.extend(footer.to_string().bytes());
    let with = |kind: u8, text: String| [&[kind], text.as_bytes()].concat();
    vec![
        with(0, manifest.to_string()),
        with(1, chunk.to_string()),
        tail,
        with(3, "3f/AAAAAAAAAAAAAAAAAAAAAg/0/manifest/18446744073709551614".to_owned()),
        with(
            3,
            "3f/AAAAAAAAAAAAAAAAAAAAAg/0/00000000000000000005-0000000003-AAAAAAAAAAAAAAAAAAAAAQ.segment".to_owned(),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_are_good() {
        let seeds = seeds();
        let manifest: Manifest = document::decode(KEY, &with_checksum(&seeds[0][1..])).unwrap();
        manifest.check(KEY).unwrap();
        let chunk: Chunk = document::decode(KEY, &with_checksum(&seeds[1][1..])).unwrap();
        assert_eq!(chunk.segments.len(), 2);
        seeds.iter().for_each(|seed| tier(seed));
    }

    /// A little of what the fuzzer does, for where there is none: digits become other digits.
    #[test]
    fn numbers_may_be_anything() {
        let mut random = 1u64;
        let mut draw = |below: usize| {
            random = random
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (random >> 33) as usize % below
        };
        let numbers = [
            "0",
            "-1",
            "9223372036854775807",
            "-9223372036854775808",
            "18446744073709551615",
        ];
        for seed in seeds() {
            let head = seed[..2].to_vec();
            let text: Vec<char> = seed[2..].iter().map(|byte| char::from(*byte)).collect();
            for _ in 0..20_000 {
                let mut changed = String::new();
                let mut at = 0;
                while at < text.len() {
                    let digits = text[at..].iter().take_while(|c| c.is_ascii_digit()).count();
                    if digits > 0 && draw(8) == 0 {
                        changed += match draw(8) {
                            n if n < numbers.len() => numbers[n],
                            5 => "50",
                            6 => "60",
                            _ => "70",
                        };
                        at += digits;
                    } else {
                        changed.push(text[at]);
                        at += 1;
                    }
                }
                let mut input = head.clone();
                input.extend(changed.chars().map(|c| c as u8));
                tier(&input);
            }
        }
    }
}
