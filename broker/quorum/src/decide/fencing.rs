//! What a broker's going and coming does to the partitions that it holds (KIP-631).
//!
//! Cost is in proportion to what the brokers concerned hold.

use std::collections::BTreeSet;

use tidemark_model::{BrokerId, Image, MetadataRecord, NO_LEADER, Partition, TopicPartition};

use super::Context;
use super::state::{Change, MinInsync, is_active, next_state, record_change};

/// Decides that brokers may not lead any more: each fenced, out of every ISR, and all that
/// they led led by others where that loses nothing. Brokers that are fenced already, or
/// unknown, are passed over.
///
/// To be asked with all that have gone at one time, so that none of them is given what
/// another one led.
pub fn fence_brokers(
    image: &Image,
    context: Context<'_>,
    brokers: &[BrokerId],
) -> Vec<MetadataRecord> {
    let going: BTreeSet<BrokerId> = brokers
        .iter()
        .copied()
        .filter(|id| image.broker(*id).is_some_and(|b| !b.fenced))
        .collect();
    let mut records: Vec<MetadataRecord> = going
        .iter()
        .filter_map(|id| image.broker(*id))
        .map(|broker| MetadataRecord::BrokerFenced {
            broker_id: broker.id,
            broker_epoch: broker.epoch,
            fenced: true,
        })
        .collect();
    take_down(image, context, &going, &[], &mut records);
    records
}

/// Whether a broker may step back that takes no more records, as its disk is full: somebody gains
/// by it, and all of what several brokers hold has another in sync who is up. What it alone holds
/// has no leader then, until there is room again.
pub fn may_step_back(image: &Image, broker_id: BrokerId) -> bool {
    let is_another = |id: &BrokerId| *id != broker_id && is_active(image, *id);
    let mut shared = image
        .partitions_on(broker_id)
        .filter(|(_, state)| state.replicas.len() > 1)
        .map(|(_, state)| state.isr.iter().any(is_another))
        .peekable();
    shared.peek().is_some() && shared.all(|another| another)
}

/// Takes a broker out of the ISRs and ELRs of partitions whose logs are damaged there, and gives
/// those that it led to others. Not where nobody else holds what was acknowledged: such a partition
/// is offline with its log, and comes back with it when that is mended.
pub(super) fn give_up_damaged(
    image: &Image,
    context: Context<'_>,
    broker_id: BrokerId,
    damaged: &[TopicPartition],
) -> Vec<MetadataRecord> {
    let damaged: BTreeSet<TopicPartition> = damaged.iter().copied().collect();
    let min_insync = MinInsync::new(image, context);
    let lost = [broker_id];
    let change = Change {
        lost: &lost,
        ..Change::default()
    };
    let given_up = damaged.into_iter().filter_map(|at| {
        let state = image.topic_by_id(at.topic_id)?.partition(at.partition)?;
        let holders = || state.isr.iter().chain(&state.elr);
        if !holders().any(|id| *id == broker_id) || holders().all(|id| *id == broker_id) {
            return None;
        }
        let mut wanted = Partition::clone(state);
        wanted.isr.retain(|id| *id != broker_id);
        let min = min_insync.of(at.topic_id);
        let after = next_state(state, wanted, change, min, |id| is_active(image, id));
        record_change(image, at, state, after)
    });
    given_up.collect()
}

/// Decides that a broker may lead from now on: what waited for it has a leader again.
pub(super) fn unfence_broker(
    image: &Image,
    context: Context<'_>,
    broker_id: BrokerId,
) -> Vec<MetadataRecord> {
    let Some(broker) = image.broker(broker_id) else {
        return Vec::new();
    };
    let min_insync = MinInsync::new(image, context);
    let up = |id| id == broker_id || is_active(image, id);
    let unfenced = MetadataRecord::BrokerFenced {
        broker_id,
        broker_epoch: broker.epoch,
        fenced: false,
    };
    let led = image.partitions_on(broker_id).filter_map(|(at, state)| {
        if state.leader != NO_LEADER {
            return None;
        }
        let min = min_insync.of(at.topic_id);
        let after = next_state(state, (**state).clone(), Change::default(), min, up);
        record_change(image, at, state, after)
    });
    std::iter::once(unfenced).chain(led).collect()
}

/// Decides the controlled shutdown of a broker: it will stop, and leads nothing from now on.
pub(super) fn begin_shutdown(
    image: &Image,
    context: Context<'_>,
    broker_id: BrokerId,
) -> Vec<MetadataRecord> {
    let Some(broker) = image.broker(broker_id).filter(|b| !b.shutting_down) else {
        return Vec::new();
    };
    let mut records = vec![MetadataRecord::BrokerShuttingDown {
        broker_id,
        broker_epoch: broker.epoch,
    }];
    take_down(image, context, &[broker_id].into(), &[], &mut records);
    records
}

/// Takes brokers out of every ISR and gives what they led to others; those in `lost` are
/// out of every ELR as well.
pub(super) fn take_down(
    image: &Image,
    context: Context<'_>,
    going: &BTreeSet<BrokerId>,
    lost: &[BrokerId],
    records: &mut Vec<MetadataRecord>,
) {
    let min_insync = MinInsync::new(image, context);
    let up = |id| !going.contains(&id) && is_active(image, id);
    let change = Change {
        lost,
        ..Change::default()
    };
    // Tens of thousands where a large broker fails: room for them is taken once.
    records.reserve(going.iter().map(|id| image.replica_count(*id)).sum());
    let mut take_down_one = |at: TopicPartition, state: &Partition| {
        let in_sync = state.isr.iter().any(|id| going.contains(id));
        let eligible = state.elr.iter().any(|id| lost.contains(id));
        if in_sync || eligible || going.contains(&state.leader) {
            let mut wanted = state.clone();
            wanted.isr.retain(|id| !going.contains(id));
            let min = min_insync.of(at.topic_id);
            let after = next_state(state, wanted, change, min, up);
            records.extend(record_change(image, at, state, after));
        }
    };
    for id in going {
        for (at, state) in image.partitions_on(*id) {
            // With what several hold, the first of them in order brings it.
            let first = state.replicas.iter().filter(|r| going.contains(r)).min();
            if first == Some(id) {
                take_down_one(at, state);
            }
        }
    }
}
