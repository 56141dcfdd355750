//! What a fetch finds at one partition.

use super::session::Wanted;
use super::signal::{Signal, Slot};
use crate::broker::Broker;
use crate::net::Permit;
use crate::partition::Partition;
use bytes::Bytes;
use std::sync::Arc;
use tidemark_env::task;
use tidemark_log::{ReadError, ReadPlan};
use tidemark_wire::ErrorCode;

/// A partition that a fetch watches; it stops watching on drop.
pub(crate) struct Subscription {
    pub(crate) partition: Arc<Partition>,
    signal: Arc<Signal>,
    slot: Slot,
}

impl Subscription {
    /// Has `slot` of `signal` marked whenever `partition` has something new.
    pub(crate) fn new(partition: Arc<Partition>, signal: Arc<Signal>, slot: Slot) -> Subscription {
        partition.watch(&signal, slot);
        Subscription {
            partition,
            signal,
            slot,
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.partition.unwatch(&self.signal, self.slot);
    }
}

/// The answer for one partition.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) error: ErrorCode,
    pub(crate) high_watermark: i64,
    pub(crate) log_start: i64,
    /// Epoch and end offset where the client's log and this one part (KIP-595).
    pub(crate) diverging: Option<(i32, i64)>,
    pub(crate) records: Bytes,
    /// Whether there was a batch that the limit left no room for.
    pub(crate) more: bool,
    /// The memory that the records take.
    pub(crate) held: Option<Permit>,
}

impl Found {
    /// A refusal.
    pub(crate) fn error(error: ErrorCode) -> Found {
        Found {
            error,
            high_watermark: -1,
            log_start: -1,
            diverging: None,
            records: Bytes::new(),
            more: false,
            held: None,
        }
    }
}

/// Whether the epoch that a client knows is this leader's (KIP-320).
pub(crate) fn check_epoch(known: i32, current: i32) -> Result<(), ErrorCode> {
    match known {
        -1 => Ok(()),
        known if known < current => Err(ErrorCode::FencedLeaderEpoch),
        known if known > current => Err(ErrorCode::UnknownLeaderEpoch),
        _ => Ok(()),
    }
}

/// What is planned under the lock, to be read outside of it.
enum Planned {
    Answer(Found),
    Read {
        found: Found,
        plan: ReadPlan,
        cold: bool,
    },
}

fn plan(
    partition: &Partition,
    wanted: &Wanted,
    max_bytes: usize,
    at_least_one_batch: bool,
) -> Planned {
    let Ok(bounds) = partition.bounds() else {
        return Planned::Answer(Found::error(ErrorCode::NotLeaderOrFollower));
    };
    if let Err(error) = check_epoch(wanted.current_leader_epoch, bounds.leader_epoch) {
        return Planned::Answer(Found::error(error));
    }
    let mut found = Found {
        high_watermark: bounds.high_watermark,
        log_start: bounds.log_start,
        ..Found::error(ErrorCode::None)
    };
    let planned = partition.with_log(|log, _| {
        if wanted.last_fetched_epoch >= 0 {
            match log.end_offset_for_epoch(wanted.last_fetched_epoch) {
                Some(end)
                    if end.epoch < wanted.last_fetched_epoch
                        || end.end_offset < wanted.fetch_offset =>
                {
                    return Ok(Err((end.epoch, end.end_offset)));
                }
                Some(_) => {}
                None => return Err(ErrorCode::OffsetOutOfRange),
            }
        }
        // Past the high watermark and up to the end there is nothing to read yet (CORRECTNESS B9).
        // The bound is the one that the answer tells, not one that was raised meanwhile.
        let upper = bounds.high_watermark;
        match log.read_plan(wanted.fetch_offset, max_bytes, upper, at_least_one_batch) {
            Ok(plan) => Ok(Ok((plan, wanted.fetch_offset < log.active_segment_base()))),
            Err(error) => Err(code(&error)),
        }
    });
    match planned {
        Err(_) => Planned::Answer(Found::error(ErrorCode::NotLeaderOrFollower)),
        Ok(Err(error)) => Planned::Answer(Found { error, ..found }),
        Ok(Ok(Err(diverging))) => {
            found.diverging = Some(diverging);
            Planned::Answer(found)
        }
        Ok(Ok(Ok((plan, cold)))) => Planned::Read { found, plan, cold },
    }
}

fn code(error: &ReadError) -> ErrorCode {
    match error {
        ReadError::OutOfRange { .. } => ErrorCode::OffsetOutOfRange,
        ReadError::Stale => ErrorCode::NotLeaderOrFollower,
        ReadError::Corrupt { .. } => ErrorCode::CorruptMessage,
        ReadError::Io(_) => ErrorCode::KafkaStorageError,
    }
}

/// Reads what `wanted` asks for, at most `max_bytes` of it, and takes memory for it. The `first` to
/// be read for an answer may be a batch above the limit (KIP-74), and waits for memory; the others
/// are left for the next fetch when there is none (waiting while holding could wait for ever).
pub(crate) async fn look(
    broker: &Broker,
    partition: &Partition,
    wanted: &Wanted,
    max_bytes: usize,
    first: bool,
) -> Found {
    let (found, plan, cold) = match plan(partition, wanted, max_bytes, first) {
        Planned::Answer(found) => return found,
        Planned::Read { found, plan, .. } if plan.is_empty() => return found,
        Planned::Read { found, plan, cold } => (found, plan, cold),
    };
    let mut permit = match first {
        true => broker.fetch_memory.take(max_bytes).await,
        false => match broker.fetch_memory.try_take(max_bytes) {
            Some(permit) => permit,
            None => {
                return Found {
                    more: true,
                    ..found
                };
            }
        },
    };
    // The active segment was written a moment ago and is in the page cache; an older one may have
    // to come from the disk, which must not stall the other connections of this net thread.
    let read = if cold {
        match task::blocking(move || plan.run()).await {
            Ok(read) => read,
            Err(_) => return Found::error(ErrorCode::UnknownServerError),
        }
    } else {
        plan.run()
    };
    match read {
        Ok(read) => {
            partition.count_out(read.records.len() as u64);
            permit.shrink(read.records.len());
            Found {
                held: (!read.records.is_empty()).then_some(permit),
                records: read.records,
                more: read.more,
                ..found
            }
        }
        Err(error) => {
            tracing::warn!(topic = %partition.topic, partition = partition.index, %error, "records cannot be read");
            Found {
                error: code(&error),
                ..found
            }
        }
    }
}
