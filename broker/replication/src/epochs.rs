//! Which leader epoch began at which offset, and where two histories part (KIP-101, KIP-279).

use smallvec::SmallVec;
use tidemark_model::{LeaderEpoch, Offset};

/// An epoch and where its leader began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochStart {
    /// The leader epoch.
    pub epoch: LeaderEpoch,
    /// The log's end when that leader began.
    pub start_offset: Offset,
}

/// Where an epoch ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochEnd {
    /// The largest epoch of the log that is not above the one asked for.
    pub epoch: LeaderEpoch,
    /// The offset after its last record.
    pub end_offset: Offset,
}

/// The epochs of a log, oldest first; epochs increase, offsets do not decrease.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
// Most logs have one.
pub struct Epochs(SmallVec<[EpochStart; 1]>);

impl Epochs {
    /// From the log's own list, oldest first.
    pub fn new(starts: Vec<EpochStart>) -> Self {
        debug_assert!(starts.windows(2).all(|w| w[0].epoch < w[1].epoch));
        Self(starts.into())
    }

    /// All of them, oldest first.
    pub fn entries(&self) -> &[EpochStart] {
        &self.0
    }

    /// The newest.
    pub fn latest(&self) -> Option<LeaderEpoch> {
        self.0.last().map(|entry| entry.epoch)
    }

    /// Notes that `epoch` begins at `start_offset`, unless it has begun already. One that
    /// began there without ever getting a record has no history to keep.
    pub fn assign(&mut self, epoch: LeaderEpoch, start_offset: Offset) {
        if self.latest() == Some(epoch) {
            return;
        }
        self.truncate_from_end(start_offset);
        debug_assert!(
            self.latest().is_none_or(|latest| latest < epoch),
            "epochs do not decrease along a log"
        );
        self.0.push(EpochStart {
            epoch,
            start_offset,
        });
    }

    /// Where `epoch` ends in a log that ends at `log_end`; `None` if it is above all that
    /// the log knows. One below all that it knows ends where they begin.
    pub fn end_of(&self, epoch: LeaderEpoch, log_end: Offset) -> Option<EpochEnd> {
        let above = self.0.partition_point(|entry| entry.epoch <= epoch);
        let own = above.checked_sub(1).map(|at| self.0[at].epoch);
        match self.0.get(above) {
            Some(next) => Some(EpochEnd {
                epoch: own.unwrap_or(epoch),
                end_offset: next.start_offset,
            }),
            None if own == Some(epoch) => Some(EpochEnd {
                epoch,
                end_offset: log_end,
            }),
            None => None,
        }
    }

    /// The end of the newest epoch that is not above `epoch`, even if the log knows none
    /// newer; `None` if it has no such epoch.
    pub fn end_at_most(&self, epoch: LeaderEpoch, log_end: Offset) -> Option<EpochEnd> {
        let above = self.0.partition_point(|entry| entry.epoch <= epoch);
        let own = above.checked_sub(1).map(|at| self.0[at].epoch)?;
        let next = self.0.get(above).map(|next| next.start_offset);
        Some(EpochEnd {
            epoch: own,
            end_offset: next.unwrap_or(log_end),
        })
    }

    /// Forgets epochs that begin at or after `end_offset`.
    pub fn truncate_from_end(&mut self, end_offset: Offset) {
        let kept = self.0.partition_point(|e| e.start_offset < end_offset);
        self.0.truncate(kept);
    }

    /// Forgets epochs whose records all lie below `start_offset`.
    pub fn truncate_from_start(&mut self, start_offset: Offset) {
        let above = self.0.partition_point(|e| e.start_offset <= start_offset);
        if let Some(holding) = above.checked_sub(1) {
            self.0.drain(..holding);
            self.0[0].start_offset = start_offset;
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}
