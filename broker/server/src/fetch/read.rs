//! What a fetch finds at one partition.

use super::session::Wanted;
use super::signal::{Signal, Slot};
use crate::broker::Broker;
use crate::net::Permit;
use crate::partition::{Bounds, FollowerRead, Partition, Wants};
use crate::replica::Side;
use crate::tier::ColdRead;
use bytes::Bytes;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tidemark_env::{clock, task};
use tidemark_log::{Piece, ReadError, ReadPlan, ReadRecords};
use tidemark_model::BrokerId;
use tidemark_replication::{ConsumerFetch, FollowerFetch, Rack, RoleName};
use tidemark_wire::ErrorCode;

/// A partition that a fetch watches; it stops watching on drop.
pub(crate) struct Subscription {
    pub(crate) partition: Arc<Partition>,
    signal: Arc<Signal>,
    slot: Slot,
}

impl Subscription {
    /// Has `slot` of `signal` marked whenever `partition` has something new.
    pub(crate) fn new(
        partition: Arc<Partition>,
        signal: Arc<Signal>,
        slot: Slot,
        wants: Wants,
    ) -> Subscription {
        partition.watch(&signal, slot, wants);
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
    /// The end of the log, told to followers that are outside of it.
    pub(crate) end: i64,
    /// Who should be asked instead (KIP-392).
    pub(crate) preferred: i32,
    /// Nothing can be said now: the answer passes the partition over.
    pub(crate) silent: bool,
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
    /// For a follower whose log has to begin at `log_start`: the producers of what lies below.
    pub(crate) producers: Option<Bytes>,
    /// The records count against this broker's replication rate.
    throttled: bool,
    /// There are records, and that rate lets none of them go for so long.
    pub(crate) wait: Option<Duration>,
}

impl Found {
    /// A refusal.
    pub(crate) fn error(error: ErrorCode) -> Found {
        Found {
            error,
            high_watermark: -1,
            log_start: -1,
            end: -1,
            preferred: NOBODY,
            silent: false,
            diverging: None,
            pieces: Vec::new(),
            bytes: 0,
            more: false,
            held: None,
            producers: None,
            throttled: false,
            wait: None,
        }
    }

    /// What of an answer it takes, in bytes.
    pub(crate) fn size_bytes(&self) -> usize {
        self.bytes + self.producers.as_ref().map_or(0, Bytes::len)
    }
}

/// Stands for no broker.
const NOBODY: i32 = -1;

/// Who reads.
#[derive(Debug, Clone)]
pub(crate) enum Reader {
    Consumer {
        /// Where it is; empty when it does not say.
        rack: String,
        /// Whether a follower may answer it.
        from_follower: bool,
    },
    Follower {
        broker: BrokerId,
    },
}

impl Reader {
    /// What a parked fetch of it waits for.
    pub(crate) fn wants(&self) -> Wants {
        match self {
            Reader::Consumer { .. } => Wants::Committed,
            Reader::Follower { .. } => Wants::Durable,
        }
    }
}

fn at(bounds: Bounds) -> Found {
    Found {
        high_watermark: bounds.high_watermark,
        log_start: bounds.log_start,
        ..Found::error(ErrorCode::None)
    }
}

/// What is known under the lock, and the read to be run outside of it, if there is one.
fn plan(
    broker: &Arc<Broker>,
    partition: &Arc<Partition>,
    reader: &Reader,
    wanted: &Wanted,
    limit: (usize, bool),
) -> (Found, Option<ReadPlan>) {
    match reader {
        Reader::Consumer {
            rack,
            from_follower,
        } => {
            if let Some(preferred) = preferred(broker, partition, rack, wanted)
                && let Ok(bounds) = partition.bounds()
            {
                let found = Found {
                    preferred,
                    ..at(bounds)
                };
                return (found, None);
            }
            let position = (
                wanted.fetch_offset,
                wanted.current_leader_epoch,
                wanted.last_fetched_epoch,
            );
            match partition.consumer_read(position, limit, *from_follower) {
                Ok((bounds, ConsumerFetch::Diverging(parts), _)) => {
                    let diverging = Some((parts.epoch, parts.end_offset));
                    (
                        Found {
                            diverging,
                            ..at(bounds)
                        },
                        None,
                    )
                }
                Ok((bounds, _, plan)) => (at(bounds), plan),
                Err((ErrorCode::OffsetOutOfRange, Some(bounds)))
                    if wanted.fetch_offset < bounds.log_start =>
                {
                    (cold(broker, partition, wanted, bounds, limit), None)
                }
                Err((error, bounds)) => {
                    let found = bounds.map_or(Found::error(error), at);
                    (Found { error, ..found }, None)
                }
            }
        }
        Reader::Follower { broker: follower } => {
            let Some((log_start, durable)) = wanted.follower else {
                return (Found::error(ErrorCode::InvalidRequest), None);
            };
            let fetch = FollowerFetch {
                broker: *follower,
                fetch_offset: wanted.fetch_offset,
                last_fetched_epoch: (wanted.last_fetched_epoch >= 0)
                    .then_some(wanted.last_fetched_epoch),
                log_start,
                durable,
            };
            match partition.follower_read(&fetch, limit.0, limit.1) {
                FollowerRead::Records {
                    bounds,
                    plan,
                    throttled,
                } => {
                    let wait = match throttled && !plan.is_empty() {
                        true => throttled_for(broker),
                        false => None,
                    };
                    let plan = wait.is_none().then_some(*plan);
                    let found = Found {
                        throttled,
                        wait,
                        ..at(bounds)
                    };
                    (found, plan)
                }
                FollowerRead::Wait => {
                    let silent = true;
                    (
                        Found {
                            silent,
                            ..Found::error(ErrorCode::None)
                        },
                        None,
                    )
                }
                FollowerRead::Diverging(bounds, epoch, end) => {
                    let diverging = Some((epoch, end));
                    (
                        Found {
                            diverging,
                            ..at(bounds)
                        },
                        None,
                    )
                }
                FollowerRead::OutOfRange(bounds) => {
                    let error = ErrorCode::OffsetOutOfRange;
                    let end = bounds.end;
                    (
                        Found {
                            error,
                            end,
                            ..at(bounds)
                        },
                        None,
                    )
                }
                FollowerRead::Refused(error) => (Found::error(error), None),
            }
        }
    }
}

/// How long this broker gives nothing to throttled replicas.
fn throttled_for(broker: &Broker) -> Option<Duration> {
    let replicas = broker.partitions.replicas();
    replicas.throttled_for(Side::Leader, &broker.settings())
}

/// What a consumer finds below the log's start: in the bucket, where the topic is tiered.
fn cold(
    broker: &Arc<Broker>,
    partition: &Arc<Partition>,
    wanted: &Wanted,
    bounds: Bounds,
    (max_bytes, at_least_one_batch): (usize, bool),
) -> Found {
    let out_of_range = Found {
        error: ErrorCode::OffsetOutOfRange,
        ..at(bounds)
    };
    let tiered = partition.policy().settings.remote_storage_enable;
    let (Some(tier), true) = (&broker.tier, tiered) else {
        return out_of_range;
    };
    match partition.role() {
        RoleName::Leader => {}
        // Its reader goes to the leader with that.
        RoleName::Follower => return out_of_range,
        // Of one whose log has failed a reader asks the next leader, and does not begin anew.
        _ => {
            let error = ErrorCode::NotLeaderOrFollower;
            return Found {
                error,
                ..at(bounds)
            };
        }
    }
    match tier.read(broker, partition, wanted.fetch_offset, max_bytes) {
        ColdRead::Records(records) if records.bytes.len() > max_bytes && !at_least_one_batch => {
            Found {
                more: true,
                ..at(bounds)
            }
        }
        ColdRead::Records(records) => Found {
            bytes: records.bytes.len(),
            pieces: vec![Piece::Memory(records.bytes)],
            more: true,
            ..at(bounds)
        },
        ColdRead::Wait => at(bounds),
        ColdRead::OutOfRange => out_of_range,
        ColdRead::Failed(error) => Found {
            error,
            ..at(bounds)
        },
    }
}

/// The follower that a consumer should read from, if the cluster chooses by racks.
fn preferred(
    broker: &Broker,
    partition: &Partition,
    rack: &str,
    wanted: &Wanted,
) -> Option<BrokerId> {
    if rack.is_empty() || !broker.settings().rack_aware_reads {
        return None;
    }
    let image = broker.image();
    let racks: Vec<Rack<'_>> = image
        .brokers()
        .map(|known| Rack {
            broker: known.id,
            rack: known.rack.as_deref(),
        })
        .collect();
    partition.preferred_read_replica(rack, wanted.fetch_offset, &racks)
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
///
/// Followers take none: there are few of them, and the cluster waits for them.
pub(crate) async fn look(
    broker: &Arc<Broker>,
    partition: &Arc<Partition>,
    reader: &Reader,
    wanted: &Wanted,
    max_bytes: usize,
    first: bool,
) -> Found {
    let (mut found, mut plan) = plan(broker, partition, reader, wanted, (max_bytes, first));
    if let (Some(_), Reader::Consumer { .. }) = (&broker.tier, reader)
        && let Some(start) = partition.start_above(found.log_start)
    {
        found.log_start = start;
    }
    if wanted.follower.is_some() && found.end >= 0 && wanted.fetch_offset < found.log_start {
        (found, plan) = first_batch(partition, wanted, found, max_bytes).await;
    }
    if wanted.follower.is_some() && found.end >= 0 {
        return with_producers(partition, found, (max_bytes, first)).await;
    }
    let cold = std::mem::take(&mut found.pieces);
    let (pieces, more) = if cold.is_empty() {
        let Some(plan) = plan.filter(|plan| !plan.is_empty()) else {
            return found;
        };
        match run(plan).await {
            Ok(read) => (read.pieces, read.more),
            Err(error) => {
                tracing::warn!(topic = %partition.topic, partition = partition.index, %error, "records cannot be read");
                let error = code(&error);
                return Found { error, ..found };
            }
        }
    } else {
        (cold, found.more)
    };
    let of_follower = matches!(reader, Reader::Follower { .. });
    let held = match held_bytes(&pieces) {
        0 => None,
        _ if of_follower => None,
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
    let bytes = pieces.iter().map(Piece::len).sum();
    if !of_follower {
        partition.count_out(bytes as u64);
    }
    if found.throttled {
        let replicas = broker.partitions.replicas();
        replicas.count_throttled(Side::Leader, &broker.settings(), bytes);
    }
    Found {
        held,
        bytes,
        pieces,
        more,
        ..found
    }
}

/// A follower that begins below the log start is told where the batch begins that holds it, as
/// batches go whole; and from there it is given that batch, though its offset is below the start.
async fn first_batch(
    partition: &Partition,
    wanted: &Wanted,
    found: Found,
    max_bytes: usize,
) -> (Found, Option<ReadPlan>) {
    let log_start = found.log_start;
    let planned = |max_bytes| {
        let upper = i64::MAX;
        partition.with_log(|log, _| log.read_plan(log_start, max_bytes, upper, true))
    };
    let Ok(Ok(plan)) = planned(1) else {
        return (found, None);
    };
    match run(plan).await {
        Ok(ReadRecords {
            first_offset: Some(begin),
            ..
        }) if begin < log_start => {
            let again = planned(max_bytes).ok().and_then(Result::ok);
            if begin == wanted.fetch_offset {
                let found = Found {
                    error: ErrorCode::None,
                    end: -1,
                    ..found
                };
                return (found, again);
            }
            let log_start = begin;
            (Found { log_start, ..found }, None)
        }
        _ => (found, None),
    }
}

/// A follower that is outside of the log begins where the log does. It never sees what lies below,
/// and may lead one day: it is told whose that was, or to ask again.
async fn with_producers(
    partition: &Partition,
    found: Found,
    (max_bytes, at_least_one): (usize, bool),
) -> Found {
    let planned = partition.with_log(|log, _| log.producers_plan(found.log_start));
    let snapshot = match planned {
        Ok(Ok(plan)) => {
            let reading = task::blocking(move || plan.run(clock::now_ms()));
            let read = reading.await;
            read.unwrap_or_else(|error| Err(ReadError::Io(io::Error::other(error))))
        }
        Ok(Err(error)) => Err(error),
        Err(_) => return Found::error(ErrorCode::NotLeaderOrFollower),
    };
    match snapshot {
        Ok(snapshot) if snapshot.len() > max_bytes && !at_least_one => Found {
            silent: true,
            more: true,
            ..Found::error(ErrorCode::None)
        },
        Ok(snapshot) => Found {
            producers: Some(snapshot.into()),
            ..found
        },
        Err(error) => {
            tracing::debug!(topic = %partition.topic, partition = partition.index, %error, "a follower is not told of the producers yet");
            Found::error(ErrorCode::OffsetNotAvailable)
        }
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
