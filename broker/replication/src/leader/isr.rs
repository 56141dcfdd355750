//! Who is in sync: proposals to the controller, one at a time (KIP-497, KIP-903).

use tidemark_model::{BrokerEpoch, BrokerId, PartitionEpoch};

use crate::event::{Action, Proposal};
use crate::leader::Leader;
use crate::log::LogState;
use crate::replica::Settings;
use crate::view::PartitionView;

/// What was proposed on one partition epoch and may still come true.
///
/// Only the metadata end it: a later partition epoch means that it came true or never will.
/// An answer does not, since the same proposal may lie somewhere else on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pending {
    partition_epoch: PartitionEpoch,
    /// Everyone whom any of the proposals would add.
    additions: Vec<(BrokerId, BrokerEpoch)>,
    /// Until when to wait for an answer and metadata.
    answer_by_ms: Option<i64>,
    /// When to propose next.
    next_try_ms: i64,
    backoff_ms: i64,
}

impl Leader {
    /// Everyone who may become a member by what is under way.
    pub(super) fn additions(&self) -> impl Iterator<Item = BrokerId> {
        let pending = self.pending.iter();
        pending.flat_map(|pending| pending.additions.iter().map(|(id, _)| *id))
    }

    fn is_pending(&self, id: BrokerId) -> bool {
        self.additions().any(|other| other == id)
    }

    /// Drops what can no longer come true.
    pub(super) fn settle_pending(&mut self, view: &PartitionView) {
        let Some(pending) = &mut self.pending else {
            return;
        };
        if pending.partition_epoch < view.partition_epoch {
            self.pending = None;
            return;
        }
        // A proposal names the process that it adds, and that one is gone.
        pending
            .additions
            .retain(|(id, epoch)| view.broker_epoch(*id).is_none_or(|now| now <= *epoch));
    }

    /// The controller has answered: metadata will follow, or another try is due later.
    pub(crate) fn alter_answered(&mut self, now_ms: i64, settings: &Settings, accepted: bool) {
        if let Some(pending) = &mut self.pending
            && !accepted
        {
            pending.answer_by_ms = None;
            pending.next_try_ms = now_ms + pending.backoff_ms;
            pending.backoff_ms = (pending.backoff_ms * 2).min(settings.alter_backoff_max_ms);
        }
    }

    /// Whether a follower outside of the ISR may become a member: it is there, and has on its
    /// disk all that is committed, and all that was there before this epoch.
    fn may_join(
        &self,
        now_ms: i64,
        id: BrokerId,
        settings: &Settings,
        view: &PartitionView,
        log: &LogState,
    ) -> bool {
        let Some(broker) = view.broker(id) else {
            return false;
        };
        let Some(peer) = self.peer(id) else {
            return false;
        };
        let enough = log.high_watermark.max(self.start_offset);
        // One that fell silent still has what is committed if that does not move.
        let silent = now_ms - peer.last_fetch_ms > settings.replica_lag_time_max_ms;
        // Nor one that would have to leave again: a disk that stands still has what is committed,
        // too, while too few are in sync for that to move.
        !broker.fenced
            && !silent
            && !self.must_leave(now_ms, id, settings, view, log)
            && broker.epoch == peer.broker_epoch
            && peer.position.is_some_and(|p| p.durable_end >= enough)
    }

    /// Whether a member of the ISR has been late for too long.
    fn must_leave(
        &self,
        now_ms: i64,
        id: BrokerId,
        settings: &Settings,
        view: &PartitionView,
        log: &LogState,
    ) -> bool {
        if id == self.me {
            return false;
        }
        let (Some(broker), Some(peer)) = (view.broker(id), self.peer(id)) else {
            return true;
        };
        let level = peer
            .position
            .is_some_and(|p| p.durable_end >= log.durable_end);
        broker.fenced || (!level && now_ms - peer.caught_up_ms > settings.replica_lag_time_max_ms)
    }

    /// Proposes another ISR where one is called for and none is under way.
    pub(crate) fn review_isr(
        &mut self,
        now_ms: i64,
        settings: &Settings,
        view: &PartitionView,
        log: &LogState,
        actions: &mut Vec<Action>,
    ) {
        if !self.serving() {
            return;
        }
        if let Some(pending) = &mut self.pending {
            if pending.answer_by_ms.is_some_and(|by| now_ms >= by) {
                pending.answer_by_ms = None;
                pending.backoff_ms = (pending.backoff_ms * 2).min(settings.alter_backoff_max_ms);
            }
            if pending.answer_by_ms.is_some() || now_ms < pending.next_try_ms {
                return;
            }
        }
        let leaves = |id: &BrokerId| self.must_leave(now_ms, *id, settings, view, log);
        let joins = |id: &BrokerId| {
            !view.isr.contains(id) && self.may_join(now_ms, *id, settings, view, log)
        };
        // To take back an addition that was refused takes a proposal, too.
        let retracts = self.additions().next().is_some();
        if !retracts && !view.isr.iter().any(leaves) && !view.replicas.iter().any(joins) {
            return;
        }
        let stay = view.isr.iter().copied().filter(|id| !leaves(id));
        let join = view.replicas.iter().copied().filter(|id| joins(id));
        let isr: Vec<_> = stay
            .chain(join)
            .filter_map(|id| Some((id, view.broker_epoch(id)?)))
            .collect();
        let pending = self.pending.get_or_insert_with(|| {
            Box::new(Pending {
                partition_epoch: view.partition_epoch,
                additions: Vec::new(),
                answer_by_ms: None,
                next_try_ms: now_ms,
                backoff_ms: settings.alter_backoff_ms,
            })
        });
        debug_assert_eq!(pending.partition_epoch, view.partition_epoch);
        for member in &isr {
            if !view.isr.contains(&member.0) && !pending.additions.contains(member) {
                pending.additions.push(*member);
            }
        }
        pending.answer_by_ms = Some(now_ms + settings.alter_timeout_ms);
        actions.push(Action::AlterPartition(Proposal {
            leader_epoch: self.epoch,
            partition_epoch: view.partition_epoch,
            isr,
        }));
    }

    /// Whether a report of this follower can call for another ISR.
    pub(crate) fn may_change_isr(&self, id: BrokerId, view: &PartitionView) -> bool {
        !view.isr.contains(&id) && !self.is_pending(id)
    }
}
