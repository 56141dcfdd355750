//! What a log should hold: a list of batches and of changes to it, each with the number
//! of its group, so that the log at any group can be put together.

use tidemark_log::Producers;
use tidemark_records::Batch;
use tidemark_wal::{LogId, Lsn};
use tidemark_wire::Uuid;

/// A log at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// All batches since the last reset, deleted ones too: producers depend on them.
    pub batches: Vec<Batch>,
    /// First offset.
    pub log_start: i64,
    /// Offset of the next record.
    pub end: i64,
    /// Leader epochs and where they begin, oldest first.
    pub epochs: Vec<(i32, i64)>,
    /// A newer epoch at the end that a checkpoint noted and that was never durable: it
    /// may be gone at any start.
    pub phantom: Option<i32>,
    /// Below this offset epochs may be forgotten: the log was asked to start here, and a
    /// checkpoint may have noted that before it was durable.
    pub epochs_from: i64,
}

/// One record of the write-ahead log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A batch at the end.
    Append(Batch),
    /// The log ends here now.
    Truncate(i64),
    /// The log is empty and begins here.
    Reset(i64),
    /// The log starts here.
    LogStart(i64),
    /// A leader's epoch began at the end.
    Epoch(i32),
    /// The log is gone.
    Delete,
}

impl State {
    /// Batches that can be read, whole or in part.
    pub fn live(&self) -> impl Iterator<Item = &Batch> {
        self.batches
            .iter()
            .filter(|batch| batch.header.last_offset() >= self.log_start)
    }

    /// The newest leader epoch, -1 without one.
    pub fn latest_epoch(&self) -> i32 {
        self.phantom.unwrap_or(-1).max(self.durable_epoch())
    }

    /// The newest leader epoch that must be known, -1 without one.
    pub fn durable_epoch(&self) -> i32 {
        self.epochs.last().map_or(-1, |(epoch, _)| *epoch)
    }

    /// The producers, as the function of all batches that they are.
    pub fn producers(&self) -> Producers {
        let mut producers = Producers::default();
        for batch in &self.batches {
            producers.record(&batch.header, 0);
        }
        producers
    }

    /// Where a truncation to `offset` really cuts, and whether all is reset there.
    pub fn cut(&self, offset: i64) -> Change {
        if offset < self.log_start {
            return Change::Reset(offset);
        }
        let holding = self
            .batches
            .iter()
            .find(|batch| batch.header.last_offset() >= offset);
        let end = holding.map_or(offset, |batch| batch.header.base_offset.min(offset));
        if end < self.log_start {
            Change::Reset(self.log_start)
        } else {
            Change::Truncate(end)
        }
    }

    fn begin_epoch(&mut self, epoch: i32) {
        if epoch > self.durable_epoch() {
            let start = self.end;
            self.epochs.retain(|(_, at)| *at < start);
            self.epochs.push((epoch, start));
        }
    }

    /// Applies a change.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Append(batch) => {
                self.begin_epoch(batch.header.partition_leader_epoch);
                self.end = batch.header.next_offset();
                self.batches.push(batch.clone());
            }
            Change::Truncate(end) => {
                self.batches
                    .retain(|batch| batch.header.next_offset() <= *end);
                self.epochs.retain(|(_, start)| start < end);
                self.phantom = None;
                self.end = *end;
            }
            Change::Reset(start) => {
                *self = State {
                    log_start: *start,
                    end: *start,
                    ..State::default()
                };
            }
            Change::LogStart(offset) => {
                self.log_start = self.log_start.max(*offset);
                // The epoch that holds the start begins there from now on.
                let start = self.log_start;
                let above = self.epochs.partition_point(|(_, at)| *at <= start);
                if let Some(holding) = above.checked_sub(1) {
                    self.epochs.drain(..holding);
                    self.epochs[0].1 = start;
                }
            }
            Change::Epoch(epoch) => self.begin_epoch(*epoch),
            Change::Delete => {}
        }
    }
}

/// One log that the metadata has, or had until lately.
#[derive(Debug)]
pub struct Shadow {
    /// The topic's id.
    pub topic: Uuid,
    /// The name of its directory.
    pub name: String,
    /// Its id in the write-ahead log, once it has one.
    pub log: Option<LogId>,
    /// What was found at the last start.
    base: State,
    /// Everything since, in order.
    changes: Vec<(Lsn, Change)>,
    /// All of that together.
    pub now: State,
    /// The last durable end that was reported, and how many changes there were then.
    promised: Option<(usize, i64)>,
    /// The group that says that it is gone.
    pub deleted: Option<Lsn>,
}

impl Shadow {
    /// An empty log.
    pub fn new(topic: Uuid, name: String) -> Self {
        Self {
            topic,
            name,
            log: None,
            base: State::default(),
            changes: Vec::new(),
            now: State::default(),
            promised: None,
            deleted: None,
        }
    }

    /// Notes a change that group `lsn` holds.
    pub fn note(&mut self, lsn: Lsn, change: Change) {
        self.now.apply(&change);
        if change == Change::Delete {
            self.deleted = Some(lsn);
        }
        self.changes.push((lsn, change));
    }

    /// Notes that `durable` was reported.
    pub fn promise(&mut self, durable: i64) {
        self.promised = Some((self.changes.len(), durable));
    }

    /// The log with all groups up to `lsn`.
    pub fn at(&self, lsn: Lsn) -> State {
        let mut state = self.base.clone();
        for (_, change) in self.changes.iter().take_while(|(at, _)| *at <= lsn) {
            state.apply(change);
        }
        state
    }

    /// Whether what was reported durable is in the log that ends at `end` and holds the
    /// groups up to `lsn`: only a durable truncation may have taken it.
    pub fn keeps_promise(&self, lsn: Lsn, end: i64) -> bool {
        let Some((changes, durable)) = self.promised else {
            return true;
        };
        let cut = self.changes.iter().skip(changes).any(|(at, change)| {
            *at <= lsn && matches!(change, Change::Truncate(_) | Change::Reset(_))
        });
        cut || end >= durable
    }

    /// The largest start that the log ever had since it was found: a start that is not
    /// durable yet may be in force already.
    pub fn newest_start(&self) -> i64 {
        let asked = self.changes.iter().filter_map(|(_, change)| match change {
            Change::LogStart(offset) => Some(*offset),
            _ => None,
        });
        asked.fold(self.base.log_start, i64::max)
    }

    /// The largest epoch that was ever begun since it was found.
    pub fn newest_epoch(&self) -> i32 {
        let begun = self.changes.iter().filter_map(|(_, change)| match change {
            Change::Epoch(epoch) => Some(*epoch),
            Change::Append(batch) => Some(batch.header.partition_leader_epoch),
            _ => None,
        });
        begun.fold(self.base.latest_epoch(), i32::max)
    }

    /// It was found as `state` at a start: that is where it goes on.
    pub fn found(&mut self, state: State) {
        self.now = state.clone();
        self.base = state;
        self.changes.clear();
        self.promised = None;
    }
}
