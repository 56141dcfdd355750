//! A log on a disk that forgets what was not synced.

use tidemark_replication::{EpochStart, Epochs, LogState};

use tidemark_env::random::Random;

/// A record: its leader epoch and a value that no other record has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    pub epoch: i32,
    pub value: u64,
}

/// One replica's log.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    /// Identity of the directory.
    pub directory: u64,
    pub log_start: i64,
    /// Offset of the first of `records`.
    base: i64,
    records: Vec<Record>,
    pub durable_end: i64,
    pub generation: i64,
    /// Whether each would survive a crash by itself.
    epochs: Vec<(EpochStart, bool)>,
    /// A high watermark that was noted some time ago.
    pub noted_high_watermark: i64,
}

impl Disk {
    /// A new one.
    pub fn blank(directory: u64) -> Self {
        Self {
            directory,
            ..Self::default()
        }
    }

    /// Whether it is as new.
    pub fn is_blank(&self) -> bool {
        self.end() == 0 && self.epochs.is_empty()
    }

    pub fn end(&self) -> i64 {
        self.base + self.records.len() as i64
    }

    pub fn get(&self, offset: i64) -> Option<&Record> {
        let at = usize::try_from(offset - self.base).ok()?;
        self.records.get(at)
    }

    pub fn append(&mut self, records: &[Record]) {
        for record in records {
            let start_offset = self.end();
            self.begin_epoch(record.epoch, start_offset);
            self.records.push(*record);
        }
    }

    pub fn begin_epoch(&mut self, epoch: i32, start_offset: i64) {
        if self.epochs.last().is_some_and(|(e, _)| e.epoch == epoch) {
            return;
        }
        self.epochs.retain(|(e, _)| e.start_offset < start_offset);
        assert!(
            self.epochs.last().is_none_or(|(e, _)| e.epoch < epoch),
            "epochs along a log"
        );
        let entry = EpochStart {
            epoch,
            start_offset,
        };
        self.epochs.push((entry, false));
    }

    /// A write that began at this generation and end has reached the disk.
    pub fn synced(&mut self, end: i64, generation: i64) {
        if generation == self.generation {
            self.durable_end = self.durable_end.max(end);
        }
    }

    /// Whether a crash would leave the start of an epoch.
    pub fn has_begun(&self, epoch: i32) -> bool {
        let mut epochs = self.epochs.iter();
        epochs.any(|(e, durable)| e.epoch == epoch && *durable)
    }

    /// The start of an epoch has reached the disk.
    pub fn epoch_synced(&mut self, epoch: i32, generation: i64) {
        if generation != self.generation {
            return;
        }
        if let Some((entry, durable)) = self.epochs.iter_mut().find(|(e, _)| e.epoch == epoch) {
            *durable = true;
            self.durable_end = self.durable_end.max(entry.start_offset);
        }
    }

    pub fn truncate(&mut self, to: i64) {
        self.generation += 1;
        let keep = usize::try_from(to - self.base).unwrap_or(0);
        self.records.truncate(keep);
        self.epochs.retain(|(e, _)| e.start_offset < to);
        // One disk, one order: the cut is behind what was written before.
        self.durable_end = self.end();
    }

    pub fn reset(&mut self, to: i64) {
        self.generation += 1;
        self.records.clear();
        self.epochs.clear();
        (self.base, self.log_start, self.durable_end) = (to, to, to);
    }

    pub fn raise_log_start(&mut self, to: i64) {
        self.log_start = self.log_start.max(to);
        self.durable_end = self.durable_end.max(self.log_start);
        let above = self.epochs.partition_point(|(e, _)| e.start_offset <= to);
        if above > 0 {
            self.epochs.drain(..above - 1);
            self.epochs[0].0.start_offset = to;
        }
    }

    /// The power goes: any part of what was not synced may be there, but nothing behind
    /// a gap. Then everything found is synced.
    pub fn crash(&mut self, random: &mut Random) {
        let end = random.between(self.durable_end, self.end());
        self.records
            .truncate(usize::try_from(end - self.base).unwrap_or(0));
        let keep_last = random.one_in(2);
        self.epochs.retain(|(e, durable)| {
            e.start_offset < end || (e.start_offset == end && (*durable || keep_last))
        });
        self.epochs
            .iter_mut()
            .for_each(|(_, durable)| *durable = true);
        self.durable_end = end;
        self.generation = random.between(0, 2);
    }

    /// What a replica is told at start.
    pub fn state(&self) -> LogState {
        LogState {
            log_start: self.log_start,
            end: self.end(),
            durable_end: self.durable_end,
            generation: self.generation,
            high_watermark: self.noted_high_watermark,
            epochs: Epochs::new(self.epochs.iter().map(|(e, _)| *e).collect()),
        }
    }
}
