//! When a log begins a new segment, and how.

use std::io;

use crate::behind::{Written, create_files};
use crate::error::LogError;
use crate::index::relative;
use crate::log::Log;
use crate::segment::Segment;
use crate::snapshot;
use crate::tail::Tail;

impl Log {
    /// Makes the tail's bookkeeping available, and a new segment where one is due.
    pub(crate) fn roll_if_due(
        &mut self,
        size_bytes: usize,
        newest_ms: i64,
        last_offset: i64,
        now_ms: i64,
    ) -> Result<(), LogError> {
        if let Err(error) = self.tail(now_ms) {
            self.fail(error.to_string());
            return Err(error.into());
        }
        if self.roll_due(size_bytes, newest_ms, last_offset, now_ms) {
            self.roll(now_ms)?;
        }
        Ok(())
    }

    pub(crate) fn tail(&mut self, now_ms: i64) -> io::Result<&mut Tail> {
        let loaded = match self.tail.take() {
            Some(tail) => tail,
            None => {
                let active = self.active();
                Box::new(Tail::load(
                    &self.shared,
                    active.files(),
                    active.size_bytes,
                    now_ms,
                )?)
            }
        };
        Ok(self.tail.insert(loaded))
    }

    /// Kafka's conditions for a new segment before `size_bytes` more are appended.
    fn roll_due(&self, size_bytes: usize, newest_ms: i64, last_offset: i64, now_ms: i64) -> bool {
        let active = self.active();
        let Some(tail) = &self.tail else {
            return false;
        };
        if active.size_bytes == 0 {
            return relative(active.base_offset(), last_offset).is_none();
        }
        let config = &self.config;
        let too_large =
            u64::from(active.size_bytes) + size_bytes as u64 > u64::from(config.segment_bytes);
        let waited_ms = if tail.first_timestamp_ms >= 0 {
            newest_ms.saturating_sub(tail.first_timestamp_ms)
        } else {
            now_ms.saturating_sub(tail.created_ms)
        };
        let too_old = waited_ms > config.segment_ms.saturating_sub(self.jitter_ms());
        too_large
            || too_old
            || tail.index_full(config.segment_index_bytes)
            || relative(active.base_offset(), last_offset).is_none()
    }

    /// A share of the jitter that differs between partitions and segments.
    fn jitter_ms(&self) -> i64 {
        let bound = self.config.segment_jitter_ms.min(self.config.segment_ms);
        if bound <= 0 {
            return 0;
        }
        let name = self.shared.name.as_encoded_bytes();
        let mut hash = self.active().base_offset() as u64 ^ 0xcbf2_9ce4_8422_2325;
        for byte in name {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        i64::try_from(hash % bound.unsigned_abs()).unwrap_or(0)
    }

    /// Seals the active segment and begins a new one at the end of the log. Its files
    /// are made when it is their turn to be written.
    ///
    /// # Errors
    /// The tail's bookkeeping could not be read; the log is as before.
    pub(crate) fn roll(&mut self, now_ms: i64) -> Result<(), LogError> {
        debug_assert!(
            self.active().size_bytes > 0,
            "an empty segment is not rolled"
        );
        let tail = self.tail(now_ms)?;
        tail.add_time_entry();
        let entries = tail.take_all_entries();
        let max_timestamp = tail.max_timestamp;
        self.active_mut().set_max_timestamp(Some(max_timestamp));
        let sealed = self.active().files().clone();
        let segment = Segment::new(self.end, 0);
        let snapshot = snapshot::encode(&self.producers);
        self.note_roll(sealed, entries, snapshot, segment.files().clone());
        self.segments.push(segment);
        self.tail = Some(Box::new(Tail::new(self.end, now_ms)));
        Ok(())
    }

    /// Adds an empty segment with its files.
    pub(crate) fn create_segment(&mut self, base_offset: i64) -> io::Result<()> {
        let segment = Segment::new(base_offset, 0);
        create_files(&self.shared, segment.files())?;
        self.segments.push(segment);
        let behind = self.behind();
        behind.names_dirty = true;
        behind.written = Written {
            end: base_offset,
            segment_base: base_offset,
            position: 0,
        };
        Ok(())
    }
}
