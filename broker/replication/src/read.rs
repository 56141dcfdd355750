//! What readers get: fetches, offsets, epochs, and which replica to read from.

use tidemark_model::{BrokerId, LeaderEpoch, Offset};

use crate::epochs::EpochEnd;
use crate::event::Diverging;
use crate::leader::diverging;
use crate::replica::{Refusal, Replica};

/// The decision on a consumer's fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsumerFetch {
    /// Send records from the fetch offset up to the high watermark.
    Read {
        /// The high watermark.
        to: Offset,
    },
    /// Nothing to send yet: what may stand there is not committed, or not there.
    Empty,
    /// `OFFSET_OUT_OF_RANGE`.
    OutOfRange,
    /// The consumer has records that this log has lost (KIP-320).
    Diverging(Diverging),
}

/// Where a candidate for reads stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rack<'a> {
    /// The broker.
    pub broker: BrokerId,
    /// Its rack.
    pub rack: Option<&'a str>,
}

/// Whether a request that names a leader epoch is meant for a replica in epoch `own`.
fn check_epoch(own: LeaderEpoch, asked: Option<LeaderEpoch>) -> Result<(), Refusal> {
    match asked {
        Some(asked) if asked < own => Err(Refusal::FencedEpoch),
        Some(asked) if asked > own => Err(Refusal::UnknownEpoch),
        _ => Ok(()),
    }
}

impl Replica {
    /// Decides on a consumer's fetch, from the leader or a follower (KIP-392).
    ///
    /// # Errors
    /// What to answer, or to wait for.
    pub fn consumer_fetch(
        &self,
        offset: Offset,
        current_epoch: Option<LeaderEpoch>,
        last_fetched_epoch: Option<LeaderEpoch>,
    ) -> Result<ConsumerFetch, Refusal> {
        let follows = self.followed_epoch();
        let own = match follows {
            Some(epoch) => epoch,
            None => self.serving_leader()?.epoch,
        };
        check_epoch(own, current_epoch)?;
        let log = self.log();
        if follows.is_none()
            && let Some(at) = diverging(log, last_fetched_epoch, offset)
        {
            return Ok(ConsumerFetch::Diverging(at));
        }
        if offset < log.log_start {
            return Ok(ConsumerFetch::OutOfRange);
        }
        if offset < log.high_watermark {
            return Ok(ConsumerFetch::Read {
                to: log.high_watermark,
            });
        }
        if offset == log.high_watermark {
            return Ok(ConsumerFetch::Empty);
        }
        if follows.is_some() {
            // It may be committed where the leader is: the follower cannot tell.
            return Err(Refusal::OffsetNotAvailable);
        }
        Ok(if offset <= log.end {
            ConsumerFetch::Empty
        } else {
            ConsumerFetch::OutOfRange
        })
    }

    /// Whether it leads and serves, in the epoch that a request names; the epoch, if so.
    ///
    /// # Errors
    /// What to answer, or to wait for.
    pub fn check_leader(&self, current_epoch: Option<LeaderEpoch>) -> Result<LeaderEpoch, Refusal> {
        let leader = self.serving_leader()?;
        check_epoch(leader.epoch, current_epoch)?;
        Ok(leader.epoch)
    }

    /// The latest offset, for ListOffsets. A new leader may know less than what readers
    /// have seen already, until it has committed all that it began with (KIP-207).
    ///
    /// # Errors
    /// What to answer, or to wait for.
    pub fn latest_offset(&self, current_epoch: Option<LeaderEpoch>) -> Result<Offset, Refusal> {
        let leader = self.serving_leader()?;
        check_epoch(leader.epoch, current_epoch)?;
        if self.log().high_watermark < leader.start_offset {
            return Err(Refusal::OffsetNotAvailable);
        }
        Ok(self.log().high_watermark)
    }

    /// Where `epoch` ends, for OffsetsForLeaderEpoch; `None` if it is not known.
    ///
    /// # Errors
    /// What to answer, or to wait for.
    pub fn epoch_end(
        &self,
        current_epoch: Option<LeaderEpoch>,
        epoch: LeaderEpoch,
    ) -> Result<Option<EpochEnd>, Refusal> {
        let leader = self.serving_leader()?;
        check_epoch(leader.epoch, current_epoch)?;
        Ok(self.log().epochs.end_of(epoch, self.log().end))
    }

    /// The follower that a consumer in `rack` should read `offset` from; `None` for this
    /// leader itself (KIP-392).
    pub fn preferred_read_replica(
        &self,
        rack: &str,
        offset: Offset,
        racks: &[Rack<'_>],
    ) -> Option<BrokerId> {
        let leader = self.serving_leader().ok()?;
        let view = self.view()?;
        let candidates = view.isr.iter().filter_map(|&id| {
            let live = view.broker(id).is_some_and(|broker| !broker.fenced);
            let end = leader.durable_end(id, self.log())?;
            // Who cannot have it yet would only send the consumer back.
            let has = leader.log_start(id, self.log())? <= offset && offset <= end;
            (live && has).then_some((id, end))
        });
        preferred_read_replica(leader.me, rack, candidates, racks)
    }
}

/// Of the candidates in `rack`, with the ends of their logs, the one that has most; `None`
/// where that is `leader`, or where the rack has none. The leader goes first in its rack.
pub fn preferred_read_replica(
    leader: BrokerId,
    rack: &str,
    candidates: impl Iterator<Item = (BrokerId, Offset)>,
    racks: &[Rack<'_>],
) -> Option<BrokerId> {
    let in_rack = |id: BrokerId| {
        let mut racks = racks.iter();
        racks.any(|at| at.broker == id && at.rack == Some(rack))
    };
    if in_rack(leader) {
        return None;
    }
    candidates
        .filter(|(id, _)| *id != leader && in_rack(*id))
        .max_by_key(|(id, end)| (*end, std::cmp::Reverse(*id)))
        .map(|(id, _)| id)
}
