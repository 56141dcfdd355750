//! Leave to stop a broker, granted only while nothing becomes unavailable by it.

use std::collections::BTreeSet;

use tidemark_model::{BrokerEpoch, BrokerId, Image, MetadataRecord, TopicPartition};
use tidemark_wire::Uuid;

use super::brokers::check_epoch;
use super::state::MinInsync;
use super::{Context, Decision, Refusal};

/// A request to stop a broker for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disruption {
    /// The broker.
    pub broker_id: BrokerId,
    /// The epoch in which the asker knows it.
    pub broker_epoch: BrokerEpoch,
    /// Who asks; the same token may ask again for more time.
    pub token: Uuid,
    /// How long, in ms.
    pub ttl_ms: i64,
}

/// Why a broker may not be stopped now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DisruptionRefused {
    /// The request is not sound.
    Refused(Refusal),
    /// Another token has leave already.
    Held {
        /// Until when, in ms since 1970.
        until_ms: i64,
    },
    /// These would have fewer in sync than acks=all needs.
    Partitions(Vec<TopicPartition>),
}

/// Decides a lease; answers with the time when it ends, in ms since 1970.
///
/// Granted only if every partition that has the broker in its ISR would still have enough
/// in sync without it and without all others that may be stopped now. The time of the end
/// is in the record, so that all agree on it; `now_ms` is since 1970.
pub fn begin_disruption(
    image: &Image,
    context: Context<'_>,
    now_ms: i64,
    request: Disruption,
) -> Decision<Result<i64, DisruptionRefused>> {
    match decide(image, context, now_ms, request) {
        Ok((until_ms, records)) => Decision {
            records,
            result: Ok(until_ms),
        },
        Err(refused) => Decision {
            records: Vec::new(),
            result: Err(refused),
        },
    }
}

fn decide(
    image: &Image,
    context: Context<'_>,
    now_ms: i64,
    request: Disruption,
) -> Result<(i64, Vec<MetadataRecord>), DisruptionRefused> {
    let Disruption {
        broker_id,
        broker_epoch,
        token,
        ttl_ms,
    } = request;
    check_epoch(image, broker_id, broker_epoch).map_err(DisruptionRefused::Refused)?;
    let mut records = Vec::new();
    if let Some(lease) = image.lease(broker_id)
        && lease.token != token
    {
        if lease.expires_at_ms > now_ms {
            return Err(DisruptionRefused::Held {
                until_ms: lease.expires_at_ms,
            });
        }
        records.push(MetadataRecord::DisruptionEnded {
            broker_id,
            token: lease.token,
        });
    }
    let mut stopped: BTreeSet<BrokerId> = image
        .leases()
        .filter(|lease| lease.expires_at_ms > now_ms)
        .map(|lease| lease.broker_id)
        .collect();
    stopped.insert(broker_id);
    let min_insync = MinInsync::new(image, context);
    let falls: Vec<TopicPartition> = image
        .partitions_on(broker_id)
        .filter(|(at, state)| {
            let left = state.isr.iter().filter(|id| !stopped.contains(id)).count();
            let needed = state.effective_min_isr(min_insync.of(at.topic_id));
            state.isr.contains(&broker_id) && left < needed
        })
        .map(|(at, _)| at)
        .collect();
    if !falls.is_empty() {
        return Err(DisruptionRefused::Partitions(falls));
    }
    let expires_at_ms = now_ms.saturating_add(ttl_ms.max(0));
    records.push(MetadataRecord::DisruptionGranted {
        broker_id,
        broker_epoch,
        token,
        expires_at_ms,
        decided_at: Some(image.index()),
    });
    Ok((expires_at_ms, records))
}

/// Decides the end of a lease; one that is over already stays so.
pub fn end_disruption(image: &Image, broker_id: BrokerId, token: Uuid) -> Vec<MetadataRecord> {
    let held = image.lease(broker_id).filter(|lease| lease.token == token);
    held.map(|_| MetadataRecord::DisruptionEnded { broker_id, token })
        .into_iter()
        .collect()
}

/// Decides the end of all leases whose time has come.
pub fn sweep_leases(image: &Image, now_ms: i64) -> Vec<MetadataRecord> {
    image
        .leases()
        .filter(|lease| lease.expires_at_ms <= now_ms)
        .map(|lease| MetadataRecord::DisruptionEnded {
            broker_id: lease.broker_id,
            token: lease.token,
        })
        .collect()
}
