//! One test for each rule; `tests/histories.rs` has what happens between them.

mod follower;
mod leader;
mod reads;
mod throttle;

use crate::{
    Action, BrokerView, Common, DurableReport, EpochStart, Epochs, Event, FollowerFetch, Identity,
    LogState, PartitionView, Replica, Settings,
};
use std::sync::Arc;
use tidemark_model::{BrokerId, LeaderEpoch, Offset, Partition};

pub(crate) const ME: BrokerId = 1;
const INDEX: i64 = 100;

/// Version `INDEX` of a partition on brokers 1, 2 and 3, whose epochs are 11, 12 and 13, led
/// by `leader` in `epoch`, all in sync, two of whom the ISR needs.
pub(crate) fn view(leader: BrokerId, epoch: LeaderEpoch) -> PartitionView {
    let broker = |id| BrokerView {
        id,
        epoch: i64::from(id) + 10,
        fenced: false,
    };
    PartitionView {
        image_index: INDEX,
        state: Arc::new(Partition {
            leader,
            leader_epoch: epoch,
            partition_epoch: epoch,
            replicas: vec![1, 2, 3],
            isr: vec![1, 2, 3],
            ..Partition::default()
        }),
        effective_min_isr: 2,
        brokers: Arc::new(vec![broker(1), broker(2), broker(3)]),
    }
}

/// A broker in a view, to be changed.
pub(crate) fn broker(view: &mut PartitionView, at: usize) -> &mut BrokerView {
    &mut Arc::make_mut(&mut view.brokers)[at]
}

/// The next version, changed.
pub(crate) fn next(replica: &Replica, change: impl FnOnce(&mut PartitionView)) -> Event {
    let mut view = replica.view().cloned().unwrap();
    view.image_index += 1;
    change(&mut view);
    Event::Image(view)
}

/// A durable log of epochs 1 (from 0) and 2 (from 6) that ends at 10.
pub(crate) fn log() -> LogState {
    let starts = [(1, 0), (2, 6)].map(|(epoch, start_offset)| EpochStart {
        epoch,
        start_offset,
    });
    LogState {
        log_start: 0,
        end: 10,
        durable_end: 10,
        generation: 0,
        high_watermark: 4,
        epochs: Epochs::new(starts.to_vec()),
    }
}

pub(crate) fn replica(log: LogState) -> Replica {
    let me = Identity {
        broker_id: ME,
        broker_epoch: 11,
        registered_index: INDEX,
    };
    let settings = Settings::default();
    Replica::new(Arc::new(Common { me, settings }), log)
}

/// What comes of an event at a time.
pub(crate) fn at(replica: &mut Replica, now_ms: i64, event: Event) -> Vec<Action> {
    let mut actions = Vec::new();
    replica.step(now_ms, event, &mut actions);
    actions
}

/// What comes of an event.
pub(crate) fn step(replica: &mut Replica, event: Event) -> Vec<Action> {
    at(replica, 0, event)
}

/// Leader of epoch 3 from offset 10, and serving.
pub(crate) fn leader() -> Replica {
    let mut replica = replica(log());
    step(&mut replica, Event::Image(view(ME, 3)));
    step(&mut replica, Event::EpochStartDurable { epoch: 3 });
    replica
}

/// Appends up to `end` in the leader's epoch.
pub(crate) fn append(replica: &mut Replica, end: Offset) -> Vec<Action> {
    let (base_offset, epoch) = (replica.log().end, replica.check_append(false).unwrap());
    let appended = Event::Appended {
        epoch,
        base_offset,
        end_offset: end,
    };
    step(replica, appended)
}

/// The own disk has everything up to `end`.
pub(crate) fn sync(replica: &mut Replica, end_offset: Offset) -> Vec<Action> {
    let generation = replica.log().generation;
    let durable = Event::Durable {
        end_offset,
        generation,
    };
    step(replica, durable)
}

pub(crate) fn report(broker: BrokerId, durable_end: Offset) -> DurableReport {
    DurableReport {
        durable_end,
        leader_epoch: 3,
        broker_epoch: i64::from(broker) + 10,
        generation: 0,
    }
}

/// A fetch in epoch 3 from a follower whose last record is of `last_epoch`.
pub(crate) fn fetch(
    broker: BrokerId,
    fetch_offset: Offset,
    last_epoch: LeaderEpoch,
    durable_end: Offset,
) -> FollowerFetch {
    FollowerFetch {
        broker,
        fetch_offset,
        last_fetched_epoch: Some(last_epoch),
        log_start: 0,
        durable: report(broker, durable_end),
    }
}

pub(crate) fn high_watermark(offset: Offset) -> Vec<Action> {
    vec![Action::HighWatermark { offset }]
}
