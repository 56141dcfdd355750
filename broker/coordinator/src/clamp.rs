//! Committed offsets of a cluster that comes back with less than it had.

use bytes::Bytes;

use crate::records::{CoordinatorRecord, LogRecord, ReplayError};

/// A committed offset that lies beyond what there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clamped {
    /// The group.
    pub group: String,
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset that was committed.
    pub from: i64,
    /// The offset in its place; `None` where the partition is not there: it is forgotten.
    pub to: Option<i64>,
    /// The record's new value.
    pub value: Option<Bytes>,
}

/// Looks at a record of `__consumer_offsets` (at `offset`, for errors): gives what becomes of it if
/// it commits an offset beyond the end of its partition, which `end_of` knows; `None` for any other.
///
/// # Errors
/// The record cannot be read.
pub fn clamp(
    offset: i64,
    key: &Bytes,
    value: Option<&Bytes>,
    end_of: impl Fn(&str, i32) -> Option<i64>,
) -> Result<Option<Clamped>, ReplayError> {
    let Some(CoordinatorRecord::OffsetCommit {
        group_id,
        topic,
        partition,
        value: Some(mut committed),
    }) = CoordinatorRecord::decode(offset, key, value)?
    else {
        return Ok(None);
    };
    let end = end_of(&topic, partition);
    if end.is_some_and(|end| committed.offset <= end) {
        return Ok(None);
    }
    let from = committed.offset;
    let value = match end {
        None => None,
        Some(end) => {
            committed.offset = end;
            // It was that of a record which is not there.
            committed.leader_epoch = -1;
            let record = CoordinatorRecord::OffsetCommit {
                group_id: group_id.clone(),
                topic: topic.clone(),
                partition,
                value: Some(committed),
            };
            // Its strings came out of a record: they fit into one.
            let LogRecord { value, .. } =
                record.encode().map_err(|error| ReplayError::Unwritable {
                    offset,
                    source: error,
                })?;
            value
        }
    };
    Ok(Some(Clamped {
        group: group_id,
        topic,
        partition,
        from,
        to: end,
        value,
    }))
}
