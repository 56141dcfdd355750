//! From the bytes of a fetch answer to the records that a reader should see. Pure.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use tidemark_records::{Batch, BatchError, Headers, Limits};
use tidemark_wire::messages::fetch_response::AbortedTransaction;

use crate::error::ClientError;

/// A record as a reader gets it.
#[derive(Debug, Clone)]
pub struct ConsumerRecord {
    /// Its topic.
    pub topic: Arc<str>,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Milliseconds since the epoch.
    pub timestamp_ms: i64,
    /// The epoch of the leader that took it.
    pub leader_epoch: i32,
    /// The key.
    pub key: Option<Bytes>,
    /// The value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Headers in order.
    pub headers: Headers,
}

/// What one partition's bytes held.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    pub(crate) records: Vec<ConsumerRecord>,
    /// Where to read on; the offset asked for if there was nothing whole.
    pub(crate) next_offset: i64,
    /// The leader epoch of the last batch; -1 if there was none, or it does not say.
    pub(crate) leader_epoch: i32,
}

/// The records at or after `from` in `bytes`, which may begin before it and end in a cut batch.
///
/// With `aborted` (read committed) records of aborted transactions are left out; control records
/// always are.
pub(crate) fn parse(
    topic: &Arc<str>,
    partition: i32,
    from: i64,
    mut bytes: Bytes,
    aborted: Option<&[AbortedTransaction]>,
) -> Result<Parsed, ClientError> {
    let mut parsed = Parsed {
        records: Vec::new(),
        next_offset: from,
        leader_epoch: -1,
    };
    let mut pending: Vec<&AbortedTransaction> = aborted.unwrap_or_default().iter().collect();
    pending.sort_by_key(|transaction| std::cmp::Reverse(transaction.first_offset));
    let mut aborting: HashSet<i64> = HashSet::new();
    let bad = |offset: i64, source: BatchError| ClientError::Records {
        what: format!("the batch at offset {offset} of {topic}-{partition}"),
        source,
    };
    loop {
        let batch = match Batch::split_first(&mut bytes) {
            Ok(Some(batch)) => batch,
            // The answer's size limit cut the last batch: it comes whole with the next answer.
            Ok(None) | Err(BatchError::Truncated { .. }) => return Ok(parsed),
            Err(source) => return Err(bad(parsed.next_offset, source)),
        };
        let header = &batch.header;
        batch
            .verify_crc()
            .map_err(|source| bad(header.base_offset, source))?;
        let next_offset = header.next_offset();
        if next_offset <= parsed.next_offset {
            continue;
        }
        while let Some(transaction) = pending.pop_if(|t| t.first_offset <= header.last_offset()) {
            aborting.insert(transaction.producer_id);
        }
        let records = |batch: &Batch| {
            batch
                .records(Limits::default())
                .map_err(|source| bad(header.base_offset, source))
        };
        if header.is_control() {
            let marker = records(&batch)?.next().and_then(Result::ok);
            if marker.is_some_and(|marker| is_abort(marker.key.as_deref())) {
                aborting.remove(&header.producer_id);
            }
        } else if !(header.is_transactional() && aborting.contains(&header.producer_id)) {
            for record in records(&batch)? {
                let record = record.map_err(|source| bad(header.base_offset, source))?;
                if record.offset < from {
                    continue;
                }
                parsed.records.push(ConsumerRecord {
                    topic: topic.clone(),
                    partition,
                    offset: record.offset,
                    timestamp_ms: record.timestamp_ms,
                    leader_epoch: header.partition_leader_epoch,
                    key: record.key,
                    value: record.value,
                    headers: record.headers,
                });
            }
        }
        parsed.next_offset = next_offset;
        parsed.leader_epoch = header.partition_leader_epoch;
    }
}

/// A control record's key is a version and a type; type 0 aborts a transaction.
fn is_abort(key: Option<&[u8]>) -> bool {
    key.and_then(|key| key.get(2..4)) == Some(&[0, 0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_records::{BatchBuilder, BatchOptions, RecordRef};

    fn batch(options: BatchOptions, values: &[&str]) -> Bytes {
        let mut builder = BatchBuilder::new(options);
        for value in values {
            builder
                .append(&RecordRef {
                    timestamp_ms: 5,
                    key: None,
                    value: Some(value.as_bytes()),
                    headers: &[],
                })
                .unwrap();
        }
        builder.build().unwrap()
    }

    fn marker(base_offset: i64, producer_id: i64, kind: u8) -> Bytes {
        let mut builder = BatchBuilder::new(BatchOptions {
            base_offset,
            producer_id,
            producer_epoch: 0,
            transactional: true,
            control: true,
            ..BatchOptions::default()
        });
        builder
            .append(&RecordRef {
                timestamp_ms: 5,
                key: Some(&[0, 0, 0, kind]),
                value: Some(&[0; 6]),
                headers: &[],
            })
            .unwrap();
        builder.build().unwrap()
    }

    fn transactional(base_offset: i64, producer_id: i64, values: &[&str]) -> Bytes {
        batch(
            BatchOptions {
                base_offset,
                producer_id,
                producer_epoch: 0,
                base_sequence: 0,
                transactional: true,
                ..BatchOptions::default()
            },
            values,
        )
    }

    fn seen(parsed: &Parsed) -> Vec<(i64, String)> {
        parsed
            .records
            .iter()
            .map(|r| {
                let value = r.value.as_deref().unwrap_or_default();
                (r.offset, String::from_utf8_lossy(value).into_owned())
            })
            .collect()
    }

    fn at(offset: i64, value: &str) -> (i64, String) {
        (offset, value.to_owned())
    }

    #[test]
    fn a_read_in_the_middle_of_a_batch_skips_what_is_before_it() {
        let bytes = batch(
            BatchOptions {
                base_offset: 10,
                ..BatchOptions::default()
            },
            &["a", "b", "c"],
        );
        let parsed = parse(&"t".into(), 0, 11, bytes, None).unwrap();
        assert_eq!(seen(&parsed), [at(11, "b"), at(12, "c")]);
        assert_eq!(parsed.next_offset, 13);
    }

    #[test]
    fn a_cut_batch_waits_for_the_next_answer() {
        let whole = batch(BatchOptions::default(), &["a"]);
        let next = batch(
            BatchOptions {
                base_offset: 1,
                ..BatchOptions::default()
            },
            &["b"],
        );
        for cut in [1, 30, next.len() - 1] {
            let bytes = [&whole[..], &next[..cut]].concat();
            let parsed = parse(&"t".into(), 0, 0, bytes.into(), None).unwrap();
            assert_eq!(parsed.next_offset, 1, "cut at {cut}");
            assert_eq!(seen(&parsed), [at(0, "a")]);
        }
    }

    #[test]
    fn a_damaged_batch_is_an_error_that_names_its_place() {
        let mut bytes = batch(BatchOptions::default(), &["abc"]).to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        let error = parse(&"t".into(), 3, 0, bytes.into(), None).unwrap_err();
        assert!(error.to_string().contains("offset 0 of t-3"), "{error}");
    }

    #[test]
    fn aborted_transactions_and_markers_are_left_out() {
        let bytes = [
            transactional(0, 7, &["bad"]),
            transactional(1, 8, &["good"]),
            marker(2, 7, 0),
            transactional(3, 7, &["later"]),
            marker(4, 7, 1),
        ]
        .concat();
        let aborted = [AbortedTransaction {
            producer_id: 7,
            first_offset: 0,
            ..AbortedTransaction::default()
        }];
        let parsed = parse(&"t".into(), 0, 0, bytes.clone().into(), Some(&aborted)).unwrap();
        assert_eq!(seen(&parsed), [at(1, "good"), at(3, "later")]);
        assert_eq!(parsed.next_offset, 5);
        let parsed = parse(&"t".into(), 0, 0, bytes.into(), None).unwrap();
        assert_eq!(parsed.records.len(), 3);
    }
}
