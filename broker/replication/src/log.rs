//! What replication knows of a log: a few numbers and its epochs.

use tidemark_model::Offset;

use crate::epochs::Epochs;

/// The log of one replica, as its shell told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogState {
    /// First offset that is kept.
    pub log_start: Offset,
    /// Offset after the last record appended.
    pub end: Offset,
    /// Offset after the last record that a power cut would leave.
    pub durable_end: Offset,
    /// Counts truncations and resets: what was said of an earlier one is void.
    pub generation: i64,
    /// Everything below is known to be committed.
    pub high_watermark: Offset,
    /// Its leader epochs.
    pub epochs: Epochs,
}

impl LogState {
    /// Panics in builds with assertions if the numbers contradict each other.
    pub(crate) fn check(&self) {
        debug_assert!(
            self.log_start <= self.high_watermark && self.high_watermark <= self.end,
            "log start <= high watermark <= end: {self:?}"
        );
        debug_assert!(self.durable_end <= self.end, "durable <= end: {self:?}");
    }

    /// Takes the end of a write that became durable; says whether it was news.
    pub(crate) fn durable(&mut self, end_offset: Offset, generation: i64) -> bool {
        // Of a log that has been cut since: other records may stand there now.
        if generation != self.generation {
            return false;
        }
        debug_assert!(end_offset <= self.end, "only what is appended gets durable");
        let news = end_offset > self.durable_end;
        self.durable_end = self.durable_end.max(end_offset.min(self.end));
        news
    }

    /// Raises the high watermark; says whether that was news. It never goes down here.
    pub(crate) fn raise_high_watermark(&mut self, to: Offset) -> bool {
        let to = to.min(self.end);
        let news = to > self.high_watermark;
        self.high_watermark = self.high_watermark.max(to);
        news
    }

    pub(crate) fn truncated(&mut self, end_offset: Offset, durable_end: Offset, generation: i64) {
        debug_assert!(generation > self.generation, "a cut begins a generation");
        self.generation = generation;
        self.end = self.end.min(end_offset);
        self.durable_end = durable_end.min(self.end);
        self.high_watermark = self.high_watermark.min(self.end);
        self.log_start = self.log_start.min(self.end);
        self.epochs.truncate_from_end(end_offset);
    }

    pub(crate) fn reset(&mut self, offset: Offset, generation: i64) {
        debug_assert!(generation > self.generation, "a reset begins a generation");
        self.generation = generation;
        self.log_start = offset;
        self.end = offset;
        self.durable_end = offset;
        self.high_watermark = offset;
        self.epochs.clear();
    }

    pub(crate) fn raise_log_start(&mut self, to: Offset) {
        debug_assert!(to <= self.high_watermark, "only what is committed goes");
        self.log_start = self.log_start.max(to.min(self.high_watermark));
        self.epochs.truncate_from_start(self.log_start);
    }
}
