//! Kafka's offset index (8 bytes an entry) and time index (12 bytes an entry).
//!
//! An offset entry names the last offset of a batch and where the batch begins; a
//! time entry the largest timestamp so far and the last offset of its batch. Offsets
//! are relative to the segment's base. Both are sparse: a look-up gives the entry at
//! or before the target, and reading goes on from there. An index is only ever a
//! hint: what it points at is checked before it is believed.

use std::io;

use tidemark_env::disk::DiskFile;

/// Bytes of an offset index entry.
pub(crate) const OFFSET_ENTRY_BYTES: usize = 8;
/// Bytes of a time index entry.
pub(crate) const TIME_ENTRY_BYTES: usize = 12;
/// A binary search ends when so many entries are left, and reads them at once.
const BLOCK_ENTRIES: u64 = 256;

/// One entry of an offset index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetPosition {
    /// Last offset of the batch.
    pub offset: i64,
    /// Where the batch begins in the segment, in bytes.
    pub position: u32,
}

/// One entry of a time index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimestampOffset {
    /// Largest timestamp of the segment up to here, in milliseconds.
    pub timestamp_ms: i64,
    /// Last offset of the batch that has it.
    pub offset: i64,
}

/// The relative form of an offset, if it has one.
pub(crate) fn relative(base: i64, offset: i64) -> Option<i32> {
    let relative = i32::try_from(offset.checked_sub(base)?).ok()?;
    (relative >= 0).then_some(relative)
}

impl OffsetPosition {
    pub(crate) fn encode(self, base: i64) -> [u8; OFFSET_ENTRY_BYTES] {
        let mut bytes = [0; OFFSET_ENTRY_BYTES];
        let relative = relative(base, self.offset).unwrap_or(0);
        bytes[..4].copy_from_slice(&relative.to_be_bytes());
        bytes[4..].copy_from_slice(&self.position.to_be_bytes());
        bytes
    }

    pub(crate) fn decode(base: i64, bytes: &[u8]) -> Self {
        let mut relative = [0; 4];
        relative.copy_from_slice(&bytes[..4]);
        let mut position = [0; 4];
        position.copy_from_slice(&bytes[4..8]);
        Self {
            offset: base.wrapping_add(i64::from(i32::from_be_bytes(relative))),
            position: u32::from_be_bytes(position),
        }
    }
}

impl TimestampOffset {
    pub(crate) fn encode(self, base: i64) -> [u8; TIME_ENTRY_BYTES] {
        let mut bytes = [0; TIME_ENTRY_BYTES];
        let relative = relative(base, self.offset).unwrap_or(0);
        bytes[..8].copy_from_slice(&self.timestamp_ms.to_be_bytes());
        bytes[8..].copy_from_slice(&relative.to_be_bytes());
        bytes
    }

    pub(crate) fn decode(base: i64, bytes: &[u8]) -> Self {
        let mut timestamp = [0; 8];
        timestamp.copy_from_slice(&bytes[..8]);
        let mut relative = [0; 4];
        relative.copy_from_slice(&bytes[8..12]);
        Self {
            timestamp_ms: i64::from_be_bytes(timestamp),
            offset: base.wrapping_add(i64::from(i32::from_be_bytes(relative))),
        }
    }
}

/// The last of the first `count` entries of `entry_bytes` for which `keep` holds, and its number;
/// `keep` must hold for a prefix of them.
fn last_where(
    file: &dyn DiskFile,
    count: u64,
    entry_bytes: usize,
    keep: impl Fn(&[u8]) -> bool,
) -> io::Result<Option<(u64, Vec<u8>)>> {
    let (mut low, mut high) = (0, count);
    let mut probe = [0u8; TIME_ENTRY_BYTES];
    let probe = &mut probe[..entry_bytes];
    while high - low > BLOCK_ENTRIES {
        let middle = low + (high - low) / 2;
        file.read_exact_at(probe, middle * entry_bytes as u64)?;
        if keep(probe) {
            low = middle;
        } else {
            high = middle;
        }
    }
    let len = usize::try_from(high - low).unwrap_or(0) * entry_bytes;
    let block = file.read_bytes_at(low * entry_bytes as u64, len)?;
    Ok((low..)
        .zip(block.chunks_exact(entry_bytes))
        .take_while(|(_, entry)| keep(entry))
        .last()
        .map(|(number, entry)| (number, entry.to_vec())))
}

/// The entry with the largest offset that is not above `target`, and its number.
pub(crate) fn floor_offset(
    file: &dyn DiskFile,
    base: i64,
    target: i64,
) -> io::Result<Option<(u64, OffsetPosition)>> {
    let count = file.len()? / OFFSET_ENTRY_BYTES as u64;
    let found = last_where(file, count, OFFSET_ENTRY_BYTES, |entry| {
        OffsetPosition::decode(base, entry).offset <= target
    })?;
    Ok(found.map(|(number, entry)| (number, OffsetPosition::decode(base, &entry))))
}

/// The last entry of a batch that begins at or before `position` and ends at or below `offset`.
/// With `near`, the number of an entry that is before it, a read of what follows there is tried
/// first.
pub(crate) fn floor_position(
    file: &dyn DiskFile,
    base: i64,
    near: Option<u64>,
    position: u64,
    offset: i64,
) -> io::Result<Option<OffsetPosition>> {
    let keep = |entry: &[u8]| {
        let entry = OffsetPosition::decode(base, entry);
        u64::from(entry.position) <= position && entry.offset <= offset
    };
    if let Some(near) = near {
        let len = BLOCK_ENTRIES as usize * OFFSET_ENTRY_BYTES;
        let block = file.read_bytes_at(near * OFFSET_ENTRY_BYTES as u64, len)?;
        let mut entries = block.chunks_exact(OFFSET_ENTRY_BYTES);
        let found = entries.by_ref().take_while(|entry| keep(entry)).last();
        // It ends within the block, or the index does.
        if entries.len() > 0 || block.len() < len {
            return Ok(found.map(|entry| OffsetPosition::decode(base, entry)));
        }
    }
    let count = file.len()? / OFFSET_ENTRY_BYTES as u64;
    let found = last_where(file, count, OFFSET_ENTRY_BYTES, keep)?;
    Ok(found.map(|(_, entry)| OffsetPosition::decode(base, &entry)))
}

/// The entry with the largest timestamp that is below `target_ms`.
pub(crate) fn below_timestamp(
    file: &dyn DiskFile,
    base: i64,
    target_ms: i64,
) -> io::Result<Option<TimestampOffset>> {
    let count = file.len()? / TIME_ENTRY_BYTES as u64;
    let found = last_where(file, count, TIME_ENTRY_BYTES, |entry| {
        TimestampOffset::decode(base, entry).timestamp_ms < target_ms
    })?;
    Ok(found.map(|(_, entry)| TimestampOffset::decode(base, &entry)))
}

/// The last whole entry of a time index.
pub(crate) fn last_timestamp(
    file: &dyn DiskFile,
    base: i64,
) -> io::Result<Option<TimestampOffset>> {
    let count = file.len()? / TIME_ENTRY_BYTES as u64;
    let Some(last) = count.checked_sub(1) else {
        return Ok(None);
    };
    let mut entry = [0u8; TIME_ENTRY_BYTES];
    file.read_exact_at(&mut entry, last * TIME_ENTRY_BYTES as u64)?;
    Ok(Some(TimestampOffset::decode(base, &entry)))
}

/// Cuts off the entries at the end of an offset index that point at or behind
/// `position`, are of records at or above `end`, or do not increase.
pub(crate) fn trim_offsets(
    file: &dyn DiskFile,
    base: i64,
    position: u32,
    end: i64,
) -> io::Result<()> {
    trim(file, OFFSET_ENTRY_BYTES, |entry, before| {
        let entry = OffsetPosition::decode(base, entry);
        let before = before.map(|before| OffsetPosition::decode(base, before));
        entry.position < position
            && entry.offset < end
            && before.is_none_or(|before| {
                before.offset < entry.offset && before.position < entry.position
            })
    })
}

/// Cuts off the entries at the end of a time index that are of records at or above
/// `end`, or do not increase.
pub(crate) fn trim_times(file: &dyn DiskFile, base: i64, end: i64) -> io::Result<()> {
    trim(file, TIME_ENTRY_BYTES, |entry, before| {
        let entry = TimestampOffset::decode(base, entry);
        let before = before.map(|before| TimestampOffset::decode(base, before));
        entry.offset < end && before.is_none_or(|before| before.timestamp_ms < entry.timestamp_ms)
    })
}

/// Cuts entries off the end of a file while `good` does not hold for the last one and
/// the one before it. A power cut may have left anything there.
fn trim(
    file: &dyn DiskFile,
    entry_bytes: usize,
    good: impl Fn(&[u8], Option<&[u8]>) -> bool,
) -> io::Result<()> {
    let len = file.len()?;
    let mut count = len / entry_bytes as u64;
    'blocks: while count > 0 {
        let from = count.saturating_sub(BLOCK_ENTRIES);
        // One more in front, to compare with.
        let first = from.saturating_sub(1);
        let bytes = usize::try_from(count - first).unwrap_or(0) * entry_bytes;
        let block = file.read_bytes_at(first * entry_bytes as u64, bytes)?;
        let entries: Vec<&[u8]> = block.chunks_exact(entry_bytes).collect();
        while count > from {
            let at = usize::try_from(count - first - 1).unwrap_or(0);
            let (Some(entry), before) = (
                entries.get(at),
                at.checked_sub(1).and_then(|before| entries.get(before)),
            ) else {
                count -= 1;
                continue;
            };
            if good(entry, before.copied()) {
                break 'blocks;
            }
            count -= 1;
        }
    }
    if count * entry_bytes as u64 != len {
        file.set_len(count * entry_bytes as u64)?;
    }
    Ok(())
}
