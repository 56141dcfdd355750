//! Changing fields of a batch in place.
//!
//! Base offset and partition leader epoch lie outside the CRC, which is what
//! lets a leader assign them without touching the rest.

use crate::BatchError;
use crate::header::{
    ATTRIBUTES_AT, BASE_OFFSET_AT, BATCH_OVERHEAD_BYTES, CRC_AT, MAX_TIMESTAMP_AT,
    PARTITION_LEADER_EPOCH_AT, TIMESTAMP_TYPE_BIT,
};

fn put(batch: &mut [u8], at: usize, value: &[u8]) -> Result<(), BatchError> {
    if batch.len() < BATCH_OVERHEAD_BYTES {
        return Err(BatchError::Truncated {
            needed_bytes: BATCH_OVERHEAD_BYTES,
            available_bytes: batch.len(),
        });
    }
    batch[at..at + value.len()].copy_from_slice(value);
    Ok(())
}

/// Sets the offset of the first record; the CRC stays valid.
///
/// # Errors
/// `Truncated` if `batch` is shorter than a header.
pub fn set_base_offset(batch: &mut [u8], base_offset: i64) -> Result<(), BatchError> {
    put(batch, BASE_OFFSET_AT, &base_offset.to_be_bytes())
}

/// Sets the epoch of the appending leader; the CRC stays valid.
///
/// # Errors
/// `Truncated` if `batch` is shorter than a header.
pub fn set_partition_leader_epoch(batch: &mut [u8], epoch: i32) -> Result<(), BatchError> {
    put(batch, PARTITION_LEADER_EPOCH_AT, &epoch.to_be_bytes())
}

/// Marks the batch as timestamped by the leader at `append_time_ms`
/// (milliseconds since 1970) and recomputes the CRC. `batch` must be exactly
/// one batch.
///
/// # Errors
/// `Truncated` if `batch` is shorter than a header.
pub fn set_log_append_time(batch: &mut [u8], append_time_ms: i64) -> Result<(), BatchError> {
    put(batch, MAX_TIMESTAMP_AT, &append_time_ms.to_be_bytes())?;
    let attributes =
        i16::from_be_bytes([batch[ATTRIBUTES_AT], batch[ATTRIBUTES_AT + 1]]) | TIMESTAMP_TYPE_BIT;
    put(batch, ATTRIBUTES_AT, &attributes.to_be_bytes())?;
    recompute_crc(batch)
}

/// Sets the largest timestamp (milliseconds since 1970) and recomputes the
/// CRC. `batch` must be exactly one batch.
///
/// # Errors
/// `Truncated` if `batch` is shorter than a header.
pub fn set_max_timestamp(batch: &mut [u8], max_timestamp_ms: i64) -> Result<(), BatchError> {
    put(batch, MAX_TIMESTAMP_AT, &max_timestamp_ms.to_be_bytes())?;
    recompute_crc(batch)
}

/// Makes the CRC that of the bytes. `batch` must be exactly one batch.
///
/// # Errors
/// `Truncated` if `batch` is shorter than a header.
pub fn recompute_crc(batch: &mut [u8]) -> Result<(), BatchError> {
    let crc = crate::crc32c(batch.get(ATTRIBUTES_AT..).unwrap_or_default());
    put(batch, CRC_AT, &crc.to_be_bytes())
}
