//! What waits for a partition to move: requests, and the next steps of its own replica.

use super::Acks;
use crate::fetch::{Signal, Slot};
use std::sync::Arc;
use tidemark_model::LeaderEpoch;
use tidemark_wal::Lsn;

/// What a request that is parked at partitions waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wants {
    /// The high watermark or the log start to move.
    Committed,
    /// The durable end to move, as well.
    Durable,
    /// Followers to say that they have deleted.
    LowWatermark,
}

struct Watch {
    signal: Arc<Signal>,
    slot: Slot,
    wants: Wants,
}

/// Those who wait for an offset, lowest first.
#[derive(Default)]
struct Queue(Vec<(i64, Arc<Acks>)>);

impl Queue {
    fn add(&mut self, target: i64, acks: &Arc<Acks>) {
        // Targets nearly always come in order; a duplicate's may be lower.
        let at = self.0.partition_point(|(other, _)| *other <= target);
        self.0.insert(at, (target, Arc::clone(acks)));
    }

    /// Releases those who wait for no more than `reached`.
    fn release_to(&mut self, reached: i64) {
        let due = self.0.partition_point(|(target, _)| *target <= reached);
        for (_, acks) in self.0.drain(..due) {
            acks.done();
        }
    }
}

/// Stands below all offsets for whoever waits for the leader to serve.
const UNTIL_SERVING: i64 = -1;

#[derive(Default)]
struct Waiting {
    /// For the high watermark to reach an offset, or for this leader to serve.
    committed: Queue,
    /// For the durable end to reach an offset (acks=1).
    durable: Queue,
    /// Requests that want to know when something moves.
    watching: Vec<Watch>,
    starting: Option<(LeaderEpoch, Lsn)>,
    raise_to: i64,
}

/// What waits: made for the first that does, and kept until the partition rests. Most partitions
/// are at rest, and cost little then.
#[derive(Default)]
pub(super) struct Waits(Option<Box<Waiting>>);

impl Waits {
    fn make(&mut self) -> &mut Waiting {
        self.0.get_or_insert_default()
    }

    /// Has `acks` told when the high watermark reaches `target`.
    pub(super) fn for_committed(&mut self, target: i64, acks: &Arc<Acks>) {
        self.make().committed.add(target, acks);
    }

    /// Has `acks` told when the durable end reaches `target`.
    pub(super) fn for_durable(&mut self, target: i64, acks: &Arc<Acks>) {
        self.make().durable.add(target, acks);
    }

    /// Has `acks` told when this leader serves.
    pub(super) fn for_serving(&mut self, acks: &Arc<Acks>) {
        self.for_committed(UNTIL_SERVING, acks);
    }

    /// The high watermark is there.
    pub(super) fn committed(&mut self, reached: i64) {
        if let Some(waiting) = &mut self.0 {
            waiting.committed.release_to(reached);
        }
    }

    /// The durable end is there.
    pub(super) fn durable(&mut self, reached: i64) {
        if let Some(waiting) = &mut self.0 {
            waiting.durable.release_to(reached);
        }
    }

    /// This leader serves.
    pub(super) fn serving(&mut self) {
        self.committed(UNTIL_SERVING);
    }

    /// Ends every wait: whoever waited looks for what became of it.
    pub(super) fn release_all(&mut self) {
        self.committed(i64::MAX);
        self.durable(i64::MAX);
    }

    /// Has `slot` of `signal` marked whenever what it wants moves.
    pub(super) fn watch(&mut self, signal: Arc<Signal>, slot: Slot, wants: Wants) {
        self.make().watching.push(Watch {
            signal,
            slot,
            wants,
        });
    }

    /// Ends a [`Waits::watch`].
    pub(super) fn unwatch(&mut self, signal: &Arc<Signal>, slot: Slot) {
        if let Some(waiting) = &mut self.0 {
            waiting
                .watching
                .retain(|watch| !(Arc::ptr_eq(&watch.signal, signal) && watch.slot == slot));
        }
    }

    /// Marks those who want that.
    pub(super) fn mark(&self, whom: impl Fn(Wants) -> bool) {
        let watching = self.0.iter().flat_map(|waiting| &waiting.watching);
        for watch in watching.filter(|watch| whom(watch.wants)) {
            watch.signal.mark(watch.slot);
        }
    }

    /// The leader epoch whose start is being made durable, and by which group.
    pub(super) fn starting(&self) -> Option<(LeaderEpoch, Lsn)> {
        self.0.as_ref().and_then(|waiting| waiting.starting)
    }

    /// An epoch begins by that group.
    pub(super) fn start(&mut self, epoch: LeaderEpoch, lsn: Lsn) {
        self.make().starting = Some((epoch, lsn));
    }

    /// No epoch is beginning any more.
    pub(super) fn started(&mut self) {
        if let Some(waiting) = &mut self.0 {
            waiting.starting = None;
        }
    }

    /// Where the log start goes as soon as that is durable; 0 for nowhere.
    pub(super) fn raise_to(&self) -> i64 {
        self.0.as_ref().map_or(0, |waiting| waiting.raise_to)
    }

    pub(super) fn set_raise_to(&mut self, to: i64) {
        if to != self.raise_to() {
            self.make().raise_to = to;
        }
    }

    /// Forgets where it was kept who waits, if nobody does.
    pub(super) fn rest(&mut self) {
        self.0.take_if(|waiting| {
            waiting.committed.0.is_empty()
                && waiting.durable.0.is_empty()
                && waiting.watching.is_empty()
                && waiting.starting.is_none()
                && waiting.raise_to == 0
        });
    }
}
