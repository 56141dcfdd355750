//! Which leader epoch began at which offset (KIP-101), and the file that keeps it.

use std::fmt::Write as _;

use smallvec::SmallVec;

/// An epoch and the offset of its first record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochEntry {
    /// The leader epoch.
    pub epoch: i32,
    /// The log's end when that leader began.
    pub start_offset: i64,
}

/// Answer to OffsetsForLeaderEpoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochEnd {
    /// The largest epoch of the log that is not above the one asked for.
    pub epoch: i32,
    /// The offset after that epoch's last record.
    pub end_offset: i64,
}

/// The epochs of a log, oldest first; epochs and offsets both increase.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeaderEpochs {
    // Most logs have one.
    entries: SmallVec<[EpochEntry; 1]>,
}

impl LeaderEpochs {
    /// All entries, oldest first.
    pub fn entries(&self) -> &[EpochEntry] {
        &self.entries
    }

    /// The newest epoch, `None` in a log that never had one.
    pub fn latest(&self) -> Option<i32> {
        self.entries.last().map(|entry| entry.epoch)
    }

    /// Notes that `epoch` begins at `start_offset`; says whether that was news.
    ///
    /// Entries that it contradicts (not older, or not earlier) are dropped, as
    /// Kafka does; an epoch that is known already keeps its start.
    pub fn assign(&mut self, epoch: i32, start_offset: i64) -> bool {
        if epoch < 0 || self.latest().is_some_and(|latest| latest == epoch) {
            return false;
        }
        self.entries
            .retain(|entry| entry.epoch < epoch && entry.start_offset < start_offset);
        self.entries.push(EpochEntry {
            epoch,
            start_offset,
        });
        true
    }

    /// Where `epoch` ends in a log that ends at `log_end`; `None` when the epoch is
    /// above all known ones (Kafka answers with epoch and offset -1).
    pub fn end_offset(&self, epoch: i32, log_end: i64) -> Option<EpochEnd> {
        if epoch < 0 {
            return None;
        }
        if self.latest() == Some(epoch) {
            return Some(EpochEnd {
                epoch,
                end_offset: log_end,
            });
        }
        let above = self.entries.partition_point(|entry| entry.epoch <= epoch);
        let next = self.entries.get(above)?;
        let own = above
            .checked_sub(1)
            .map_or(epoch, |index| self.entries[index].epoch);
        Some(EpochEnd {
            epoch: own,
            end_offset: next.start_offset,
        })
    }

    /// The epoch of the record at `offset`.
    pub fn epoch_at(&self, offset: i64) -> Option<i32> {
        let above = self
            .entries
            .partition_point(|entry| entry.start_offset <= offset);
        above.checked_sub(1).map(|index| self.entries[index].epoch)
    }

    /// Forgets epochs that begin at or after `end_offset`; says whether any did.
    pub fn truncate_from_end(&mut self, end_offset: i64) -> bool {
        let kept = self
            .entries
            .partition_point(|entry| entry.start_offset < end_offset);
        let changed = kept < self.entries.len();
        self.entries.truncate(kept);
        changed
    }

    /// Forgets epochs whose records all lie below `start_offset`; the one that
    /// holds it begins there now. Says whether anything changed.
    pub fn truncate_from_start(&mut self, start_offset: i64) -> bool {
        let above = self
            .entries
            .partition_point(|entry| entry.start_offset <= start_offset);
        let Some(holding) = above.checked_sub(1) else {
            return false;
        };
        if holding == 0 && self.entries[0].start_offset == start_offset {
            return false;
        }
        self.entries.drain(..holding);
        self.entries[0].start_offset = start_offset;
        true
    }

    /// The text of `leader-epoch-checkpoint`: version 0, count, `epoch offset` lines.
    pub fn to_text(&self) -> String {
        let mut text = format!("0\n{}\n", self.entries.len());
        for entry in &self.entries {
            // Writing to a String cannot fail.
            if writeln!(text, "{} {}", entry.epoch, entry.start_offset).is_err() {
                break;
            }
        }
        text
    }

    /// Reads the text of `leader-epoch-checkpoint`.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut lines = text.lines();
        match lines.next() {
            Some("0") => {}
            Some(version) => return Err(format!("version '{version}', only 0 is known")),
            None => return Err("it is empty".to_owned()),
        }
        let count: usize = lines
            .next()
            .and_then(|line| line.trim().parse().ok())
            .ok_or("its second line is not a count")?;
        let mut entries: SmallVec<[EpochEntry; 1]> = SmallVec::new();
        for line in lines.filter(|line| !line.is_empty()) {
            let entry = line
                .split_once(' ')
                .and_then(|(epoch, offset)| {
                    Some(EpochEntry {
                        epoch: epoch.parse().ok()?,
                        start_offset: offset.trim().parse().ok()?,
                    })
                })
                .ok_or_else(|| format!("line '{line}' is not 'epoch offset'"))?;
            if entries.last().is_some_and(|last| {
                last.epoch >= entry.epoch || last.start_offset > entry.start_offset
            }) {
                return Err(format!("line '{line}' is not above the line before it"));
            }
            entries.push(entry);
        }
        if entries.len() != count {
            return Err(format!("it says {count} entries and has {}", entries.len()));
        }
        Ok(Self { entries })
    }
}
