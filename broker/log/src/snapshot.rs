//! The `.snapshot` file: the producers at the offset in its name.
//!
//! Kafka's version 1: version (i16), CRC-32C of all that follows it (u32), the
//! entries. Kafka keeps only the newest batch of each producer there. Behind its
//! entries, still under the CRC, we append the older remembered batches; Kafka's
//! reader stops before them. Ours treats a file without that part as one without
//! older batches.

use tidemark_records::crc32c;

use crate::cursor::Cursor;
use crate::producers::{ProducerBatch, ProducerEntry, Producers};

const VERSION: i16 = 1;
const ENTRIES_AT: usize = 6;
/// Opens our own part: "TMPB" and version 1.
const OLDER_MAGIC: &[u8; 6] = b"TMPB\0\x01";
/// Bytes of one of Kafka's entries.
const ENTRY_BYTES: usize = 46;

/// The bytes of a snapshot.
pub(crate) fn encode(producers: &Producers) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(ENTRIES_AT + 4 + producers.len() * ENTRY_BYTES);
    bytes.extend_from_slice(&VERSION.to_be_bytes());
    bytes.extend_from_slice(&[0; 4]);
    let count = i32::try_from(producers.len()).unwrap_or(i32::MAX);
    bytes.extend_from_slice(&count.to_be_bytes());
    for entry in producers.iter() {
        let last = entry.last_batch().copied();
        bytes.extend_from_slice(&entry.producer_id.to_be_bytes());
        bytes.extend_from_slice(&entry.epoch.to_be_bytes());
        bytes.extend_from_slice(&entry.last_sequence().to_be_bytes());
        bytes.extend_from_slice(&last.map_or(-1, |batch| batch.last_offset).to_be_bytes());
        bytes.extend_from_slice(&last.map_or(0, |batch| batch.offset_delta).to_be_bytes());
        bytes.extend_from_slice(&entry.last_timestamp_ms.to_be_bytes());
        bytes.extend_from_slice(&entry.coordinator_epoch.to_be_bytes());
        bytes.extend_from_slice(&entry.transaction_first_offset.unwrap_or(-1).to_be_bytes());
    }
    if producers.iter().any(|entry| entry.batches().len() > 1) {
        bytes.extend_from_slice(OLDER_MAGIC);
        for entry in producers.iter() {
            let batches = entry.batches();
            let older = &batches[..batches.len().saturating_sub(1)];
            bytes.push(u8::try_from(older.len()).unwrap_or(0));
            for batch in older {
                bytes.extend_from_slice(&batch.last_sequence.to_be_bytes());
                bytes.extend_from_slice(&batch.last_offset.to_be_bytes());
                bytes.extend_from_slice(&batch.offset_delta.to_be_bytes());
                bytes.extend_from_slice(&batch.timestamp_ms.to_be_bytes());
            }
        }
    }
    let crc = crc32c(&bytes[ENTRIES_AT..]);
    bytes[2..ENTRIES_AT].copy_from_slice(&crc.to_be_bytes());
    bytes
}

/// Reads a snapshot. Producers count as active at `now_ms`.
///
/// # Errors
/// What is wrong with it, in words; such a file is not used.
pub(crate) fn decode(bytes: &[u8], now_ms: i64) -> Result<Producers, String> {
    let mut cursor = Cursor(bytes);
    let version = i16::from_be_bytes(cursor.take()?);
    if version != VERSION {
        return Err(format!("version {version}, only {VERSION} is known"));
    }
    let stored = u32::from_be_bytes(cursor.take()?);
    let computed = crc32c(cursor.0);
    if stored != computed {
        return Err(format!(
            "stored CRC-32C {stored:#010x}, computed {computed:#010x}"
        ));
    }
    let count = i32::from_be_bytes(cursor.take()?);
    let count = usize::try_from(count).map_err(|_| "a negative count".to_owned())?;
    if count > cursor.0.len() / ENTRY_BYTES {
        return Err(format!("{count} entries do not fit into it"));
    }
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        let producer_id = i64::from_be_bytes(cursor.take()?);
        let epoch = i16::from_be_bytes(cursor.take()?);
        let last_sequence = i32::from_be_bytes(cursor.take()?);
        let last_offset = i64::from_be_bytes(cursor.take()?);
        let offset_delta = i32::from_be_bytes(cursor.take()?);
        let timestamp_ms = i64::from_be_bytes(cursor.take()?);
        let coordinator_epoch = i32::from_be_bytes(cursor.take()?);
        let first_offset = i64::from_be_bytes(cursor.take()?);
        let mut entry = ProducerEntry::new(producer_id, epoch);
        entry.last_timestamp_ms = timestamp_ms;
        entry.last_active_ms = now_ms;
        entry.coordinator_epoch = coordinator_epoch;
        entry.transaction_first_offset = (first_offset >= 0).then_some(first_offset);
        let last = (last_offset >= 0).then_some(ProducerBatch {
            last_sequence,
            last_offset,
            offset_delta,
            timestamp_ms,
        });
        entries.push((entry, last));
    }
    let has_older = cursor.0.starts_with(OLDER_MAGIC);
    if has_older {
        cursor.0 = &cursor.0[OLDER_MAGIC.len()..];
    }
    let mut producers = Producers::default();
    for (mut entry, last) in entries {
        if has_older {
            let [older] = cursor.take::<1>()?;
            for _ in 0..older {
                entry.push(ProducerBatch {
                    last_sequence: i32::from_be_bytes(cursor.take()?),
                    last_offset: i64::from_be_bytes(cursor.take()?),
                    offset_delta: i32::from_be_bytes(cursor.take()?),
                    timestamp_ms: i64::from_be_bytes(cursor.take()?),
                });
            }
        }
        if let Some(last) = last {
            entry.push(last);
        }
        producers.insert(entry);
    }
    Ok(producers)
}
