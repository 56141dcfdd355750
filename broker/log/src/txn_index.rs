//! Kafka's `.txnindex`: the aborted transactions of a segment (KIP-98).
//!
//! Logs written here have none yet; imported ones may, and a consumer that reads only
//! what is committed needs them.

use std::io;
use std::sync::Arc;

use crate::error::ReadError;
use crate::log::Log;
use crate::names;
use crate::segment::{LogShared, SegmentFiles};
use tidemark_env::disk::OpenMode;

/// Bytes of an entry.
pub(crate) const ENTRY_BYTES: usize = 34;
/// A segment's index longer than this is not one (about two million transactions).
pub(crate) const MAX_BYTES: usize = 64 << 20;

/// A transaction that was aborted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbortedTransaction {
    /// Who began it.
    pub producer_id: i64,
    /// Offset of its first record.
    pub first_offset: i64,
    /// Offset of its abort marker.
    pub last_offset: i64,
    /// The last stable offset when it ended.
    pub last_stable_offset: i64,
}

/// Reads one entry; `None` for a version that is not known.
pub(crate) fn decode(bytes: &[u8]) -> Option<AbortedTransaction> {
    let bytes = bytes.first_chunk::<ENTRY_BYTES>()?;
    let field = |index: usize| {
        let mut field = [0u8; 8];
        field.copy_from_slice(&bytes[2 + index * 8..10 + index * 8]);
        i64::from_be_bytes(field)
    };
    (bytes[..2] == [0, 0]).then(|| AbortedTransaction {
        producer_id: field(0),
        first_offset: field(1),
        last_offset: field(2),
        last_stable_offset: field(3),
    })
}

/// A look-up of aborted transactions that has been planned.
#[derive(Debug, Clone)]
pub struct AbortedPlan {
    shared: Arc<LogShared>,
    segments: Vec<Arc<SegmentFiles>>,
    from: i64,
    upper: i64,
}

impl Log {
    /// Plans to list the aborted transactions that touch records from `from` up to
    /// below `upper`.
    pub fn aborted_plan(&self, from: i64, upper: i64) -> AbortedPlan {
        AbortedPlan {
            shared: self.shared.clone(),
            segments: self.segments_from(from),
            from,
            upper,
        }
    }

    /// Below this offset every transaction is decided: the last stable offset, at
    /// most `high_watermark`.
    pub fn last_stable_offset(&self, high_watermark: i64) -> i64 {
        self.producers
            .first_unstable_offset()
            .map_or(high_watermark, |first| first.min(high_watermark))
    }
}

impl AbortedPlan {
    /// Looks. Blocks.
    ///
    /// # Errors
    /// The disk failed.
    pub fn run(&self) -> Result<Vec<AbortedTransaction>, ReadError> {
        let mut found = Vec::new();
        for files in &self.segments {
            let path = self.shared.path(files.base_offset, names::TXN_INDEX);
            let file = match self.shared.disk().open(&path, OpenMode::Read) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error.into()),
            };
            let len = usize::try_from(file.len()?).unwrap_or(usize::MAX);
            let bytes = file.read_bytes_at(0, len.min(MAX_BYTES))?;
            for entry in bytes.chunks_exact(ENTRY_BYTES).filter_map(decode) {
                if entry.last_offset >= self.from && entry.first_offset < self.upper {
                    found.push(entry);
                }
                // Whatever was aborted later ended above the upper bound.
                if entry.last_stable_offset >= self.upper {
                    return Ok(found);
                }
            }
        }
        Ok(found)
    }
}
