//! What a fetch finds at one partition.

use super::session::Wanted;
use super::signal::{Signal, Slot};
use crate::broker::Broker;
use crate::net::Permit;
use crate::partition::Partition;
use std::io;
use std::sync::Arc;
use tidemark_env::task;
use tidemark_log::{Piece, ReadError, ReadPlan, ReadRecords};
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
    /// The records, as they lie.
    pub(crate) pieces: Vec<Piece>,
    /// The length of `pieces` together.
    pub(crate) bytes: usize,
    /// Whether there was a batch that the limit left no room for.
    pub(crate) more: bool,
    /// The memory that the records hold.
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
            pieces: Vec::new(),
            bytes: 0,
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

/// What is known under the lock, and the read to be run outside of it, if there is one.
fn plan(
    partition: &Partition,
    wanted: &Wanted,
    max_bytes: usize,
    at_least_one_batch: bool,
) -> (Found, Option<ReadPlan>) {
    let planned = partition.with_bounds(|log, bounds| {
        if let Err(error) = check_epoch(wanted.current_leader_epoch, bounds.leader_epoch) {
            return (Found::error(error), None);
        }
        let found = Found {
            high_watermark: bounds.high_watermark,
            log_start: bounds.log_start,
            ..Found::error(ErrorCode::None)
        };
        if wanted.last_fetched_epoch >= 0 {
            match log.end_offset_for_epoch(wanted.last_fetched_epoch) {
                Some(end)
                    if end.epoch < wanted.last_fetched_epoch
                        || end.end_offset < wanted.fetch_offset =>
                {
                    let diverging = Some((end.epoch, end.end_offset));
                    return (Found { diverging, ..found }, None);
                }
                Some(_) => {}
                None => {
                    let error = ErrorCode::OffsetOutOfRange;
                    return (Found { error, ..found }, None);
                }
            }
        }
        // Past the high watermark and up to the end there is nothing to read yet.
        let upper = bounds.high_watermark;
        match log.read_plan(wanted.fetch_offset, max_bytes, upper, at_least_one_batch) {
            Ok(plan) => (found, Some(plan)),
            Err(error) => {
                let error = code(&error);
                (Found { error, ..found }, None)
            }
        }
    });
    planned.unwrap_or((Found::error(ErrorCode::NotLeaderOrFollower), None))
}

fn code(error: &ReadError) -> ErrorCode {
    match error {
        ReadError::OutOfRange { .. } => ErrorCode::OffsetOutOfRange,
        ReadError::Stale => ErrorCode::NotLeaderOrFollower,
        ReadError::Corrupt { .. } => ErrorCode::CorruptMessage,
        ReadError::Io(_) => ErrorCode::KafkaStorageError,
    }
}

/// Finds the records without waiting for the disk on this thread, which would stall its other
/// connections: what is not in the page cache is read into it by the blocking pool first.
async fn run(plan: ReadPlan) -> Result<ReadRecords, ReadError> {
    if let Some(read) = plan.run_cached()? {
        return Ok(read);
    }
    let reading = task::blocking(move || {
        let read = plan.run()?;
        read.warm()?;
        Ok(read)
    });
    reading
        .await
        .unwrap_or_else(|error| Err(ReadError::Io(io::Error::other(error))))
}

/// Finds what `wanted` asks for, at most `max_bytes` of it, and takes memory for what of it is held
/// in memory. The `first` to be read for an answer may be a batch above the limit (KIP-74), and
/// waits for memory; the others are left for the next fetch when there is none (waiting while
/// holding could wait for ever).
pub(crate) async fn look(
    broker: &Broker,
    partition: &Partition,
    wanted: &Wanted,
    max_bytes: usize,
    first: bool,
) -> Found {
    let (found, plan) = plan(partition, wanted, max_bytes, first);
    let Some(plan) = plan.filter(|plan| !plan.is_empty()) else {
        return found;
    };
    let read = match run(plan).await {
        Ok(read) => read,
        Err(error) => {
            tracing::warn!(topic = %partition.topic, partition = partition.index, %error, "records cannot be read");
            let error = code(&error);
            return Found { error, ..found };
        }
    };
    let held = match held_bytes(&read.pieces) {
        0 => None,
        bytes if first => Some(broker.fetch_memory.take(bytes).await),
        bytes => match broker.fetch_memory.try_take(bytes) {
            Some(permit) => Some(permit),
            None => {
                return Found {
                    more: true,
                    ..found
                };
            }
        },
    };
    let bytes = read.size_bytes();
    partition.count_out(bytes as u64);
    Found {
        held,
        bytes,
        pieces: read.pieces,
        more: read.more,
        ..found
    }
}

/// The memory that an answer takes until it is sent: parts of files take none.
fn held_bytes(pieces: &[Piece]) -> usize {
    let held = pieces.iter().map(|piece| match piece {
        Piece::Memory(bytes) => bytes.len(),
        Piece::File(_) => 0,
    });
    held.sum()
}
