//! The follower's side: what to fetch, and what an answer asks of the log.

use tidemark_model::{BrokerEpoch, BrokerId, LeaderEpoch, Offset};

use crate::event::{
    Action, Diverging, DurableReport, FetchAnswer, FetchOutcome, FetchPlan, FollowerFetch,
    OfflineReason,
};
use crate::log::LogState;

/// A follower in one leader epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Follower {
    pub(crate) leader: BrokerId,
    pub(crate) epoch: LeaderEpoch,
    /// What the leader said last; this log may not go so far yet.
    leader_high_watermark: Offset,
    leader_log_start: Offset,
    /// Whether the leader has seen that this log is the beginning of its own.
    matched: bool,
}

impl Follower {
    pub(crate) fn new(leader: BrokerId, epoch: LeaderEpoch) -> Self {
        Self {
            leader,
            epoch,
            leader_high_watermark: 0,
            leader_log_start: 0,
            matched: false,
        }
    }

    /// Whether this log is known to be the beginning of the leader's.
    pub(crate) fn matched(&self) -> bool {
        self.matched
    }

    pub(crate) fn report(&self, broker_epoch: BrokerEpoch, log: &LogState) -> DurableReport {
        DurableReport {
            durable_end: log.durable_end,
            leader_epoch: self.epoch,
            broker_epoch,
            generation: log.generation,
        }
    }

    pub(crate) fn plan(
        &self,
        broker: BrokerId,
        broker_epoch: BrokerEpoch,
        log: &LogState,
    ) -> FetchPlan {
        FetchPlan {
            leader: self.leader,
            fetch: FollowerFetch {
                broker,
                fetch_offset: log.end,
                last_fetched_epoch: log.epochs.latest(),
                log_start: log.log_start,
                durable: self.report(broker_epoch, log),
            },
            high_watermark: log.high_watermark,
        }
    }

    /// Tells the leader at once: it may wait for this to move the high watermark, while
    /// the next fetch may be parked there.
    pub(crate) fn acknowledge(
        &self,
        broker_epoch: BrokerEpoch,
        log: &LogState,
        actions: &mut Vec<Action>,
    ) {
        if self.matched {
            actions.push(Action::SendDurableAck {
                leader: self.leader,
                report: self.report(broker_epoch, log),
            });
        }
    }

    /// What an answer asks for.
    ///
    /// # Errors
    /// The reason for which this replica must not do as it is told.
    pub(crate) fn answered(
        &mut self,
        answer: &FetchAnswer,
        unclean: bool,
        log: &mut LogState,
        actions: &mut Vec<Action>,
    ) -> Result<(), OfflineReason> {
        // What was asked for no longer follows the log.
        if answer.leader_epoch != self.epoch
            || answer.generation != log.generation
            || answer.fetch_offset != log.end
        {
            return Ok(());
        }
        match answer.outcome {
            FetchOutcome::Records {
                high_watermark,
                log_start,
            } => {
                self.matched = true;
                self.leader_high_watermark = self.leader_high_watermark.max(high_watermark);
                let moved = log.raise_high_watermark(self.leader_high_watermark);
                self.leader_log_start = self.leader_log_start.max(log_start);
                // First: what lies below the leader's log start was compared with nothing
                // there, and may be of another history.
                self.raise_log_start(log, actions);
                actions.push(Action::Append);
                if moved {
                    let offset = log.high_watermark;
                    actions.push(Action::HighWatermark { offset });
                }
                Ok(())
            }
            FetchOutcome::Diverging(at) => self.cut(at, unclean, log, actions),
            FetchOutcome::OutOfRange { log_start, end } => {
                if log.end < log_start {
                    // The leader has deleted what comes next.
                    self.matched = false;
                    actions.push(Action::Reset { to: log_start });
                    return Ok(());
                }
                if log.end <= end {
                    return Ok(());
                }
                self.allow(log_start, unclean, log)?;
                self.matched = false;
                actions.push(Action::Reset { to: log_start });
                Ok(())
            }
        }
    }

    fn cut(
        &mut self,
        at: Diverging,
        unclean: bool,
        log: &LogState,
        actions: &mut Vec<Action>,
    ) -> Result<(), OfflineReason> {
        // The newest epoch that both may know, and where it ends first. Without one,
        // nothing of this log is known to be in the leader's.
        let own_end = log
            .epochs
            .end_at_most(at.epoch, log.end)
            .map_or(log.log_start, |end| end.end_offset);
        let to = at.end_offset.min(own_end).min(log.end);
        let changes = to < log.end
            || log
                .epochs
                .entries()
                .last()
                .is_some_and(|entry| entry.start_offset >= to);
        if !changes {
            // The answer contradicts itself; asking again is all there is to do.
            return Ok(());
        }
        self.allow(to, unclean, log)?;
        self.matched = false;
        actions.push(if to < log.log_start {
            Action::Reset { to: to.max(0) }
        } else {
            Action::Truncate { to }
        });
        Ok(())
    }

    /// Nothing that is known to be committed is cut off, whatever a leader says, unless
    /// the metadata say that losing it was accepted.
    fn allow(&self, to: Offset, unclean: bool, log: &LogState) -> Result<(), OfflineReason> {
        if to >= log.high_watermark || unclean {
            return Ok(());
        }
        Err(OfflineReason::WouldLoseCommitted {
            leader_epoch: self.epoch,
            to,
            high_watermark: log.high_watermark,
        })
    }

    /// The high watermark follows the leader's, as far as the log goes. That of a new
    /// leader may be behind: what was committed stays so.
    pub(crate) fn advance_high_watermark(&self, log: &mut LogState, actions: &mut Vec<Action>) {
        if self.matched && log.raise_high_watermark(self.leader_high_watermark) {
            let offset = log.high_watermark;
            actions.push(Action::HighWatermark { offset });
            self.raise_log_start(log, actions);
        }
    }

    fn raise_log_start(&self, log: &mut LogState, actions: &mut Vec<Action>) {
        let to = self.leader_log_start.min(log.high_watermark);
        if to > log.log_start {
            log.raise_log_start(to);
            actions.push(Action::RaiseLogStart { to });
        }
    }
}
