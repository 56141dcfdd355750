//! The replica: its role, and how metadata and events change it.

use std::sync::Arc;

use tidemark_model::{BrokerEpoch, BrokerId, LeaderEpoch, Offset};

use crate::event::{Action, Event, FetchDecision, FetchPlan, FollowerFetch, OfflineReason};
use crate::follower::Follower;
use crate::leader::{AckState, Leader, Stage};
use crate::log::LogState;
use crate::view::PartitionView;

/// Settings of the broker, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// `replica.lag.time.max.ms`: how late a member of the ISR may be.
    pub replica_lag_time_max_ms: i64,
    /// How long a proposal may stay without an answer and metadata.
    pub alter_timeout_ms: i64,
    /// How long to wait after a proposal was refused, at first.
    pub alter_backoff_ms: i64,
    /// And at most.
    pub alter_backoff_max_ms: i64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            replica_lag_time_max_ms: 30_000,
            alter_timeout_ms: 2_000,
            alter_backoff_ms: 50,
            alter_backoff_max_ms: 1_000,
        }
    }
}

/// Who this broker is since its last registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Its number.
    pub broker_id: BrokerId,
    /// Its epoch.
    pub broker_epoch: BrokerEpoch,
    /// Index of the metadata log at which it was registered. What is older speaks of an
    /// earlier process, whose log may have been longer.
    pub registered_index: i64,
}

/// What all replicas of a process have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Common {
    /// Whose they are.
    pub me: Identity,
    /// Their settings.
    pub settings: Settings,
}

/// One replica of one partition. Held behind the partition's lock and asked for moments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    common: Arc<Common>,
    log: LogState,
    /// The newest epoch in which all that is committed here was seen to be the leader's, too.
    committed_epoch: LeaderEpoch,
    /// Whether a cut or reset that was asked for is under way.
    cutting: bool,
    view: Option<PartitionView>,
    role: Role,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Role {
    StandBy,
    Leader(Leader),
    Follower(Follower),
    Offline {
        reason: OfflineReason,
        epoch: LeaderEpoch,
    },
}

/// What a replica is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoleName {
    /// It waits for metadata, or for a leader.
    StandBy,
    /// It leads, but does not serve yet.
    StartingLeader,
    /// It leads.
    Leader,
    /// It follows.
    Follower,
    /// It does nothing, for a reason.
    Offline(OfflineReason),
}

/// Why a request is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Try again when this leader serves ([`Action::Serve`]).
    Wait,
    /// `NOT_LEADER_OR_FOLLOWER`.
    NotLeader,
    /// `NOT_ENOUGH_REPLICAS`: nothing was appended.
    NotEnoughReplicas,
    /// `KAFKA_STORAGE_ERROR`.
    Offline(OfflineReason),
    /// `FENCED_LEADER_EPOCH`: who asks knows an older leader.
    FencedEpoch,
    /// `UNKNOWN_LEADER_EPOCH`: who asks knows a newer leader.
    UnknownEpoch,
    /// `OFFSET_NOT_AVAILABLE`: a new leader does not know yet what is committed (KIP-207).
    OffsetNotAvailable,
}

impl Replica {
    /// A replica that waits for metadata. The high watermark of `log` is what was known of
    /// it before the start; its log start where nothing was.
    pub fn new(common: Arc<Common>, mut log: LogState) -> Self {
        log.high_watermark = log.high_watermark.min(log.end).max(log.log_start);
        log.check();
        Self {
            common,
            committed_epoch: log.epochs.latest().unwrap_or(-1),
            log,
            cutting: false,
            view: None,
            role: Role::StandBy,
        }
    }

    /// Its log, as far as it was told.
    pub fn log(&self) -> &LogState {
        &self.log
    }

    /// The metadata that it acts on.
    pub fn view(&self) -> Option<&PartitionView> {
        self.view.as_ref()
    }

    /// What it is.
    pub fn role(&self) -> RoleName {
        match &self.role {
            Role::StandBy => RoleName::StandBy,
            Role::Leader(leader) if leader.serving() => RoleName::Leader,
            Role::Leader(_) => RoleName::StartingLeader,
            Role::Follower(_) => RoleName::Follower,
            Role::Offline { reason, .. } => RoleName::Offline(*reason),
        }
    }

    /// Takes an event and adds what is to be done, in this order, to `actions`.
    pub fn step(&mut self, now_ms: i64, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Image(view) => self.take_view(now_ms, view, actions),
            Event::Appended {
                epoch,
                base_offset,
                end_offset,
            } => {
                debug_assert_eq!(base_offset, self.log.end, "appended at the end");
                debug_assert!(end_offset > base_offset && !self.cutting);
                self.log.epochs.assign(epoch, base_offset);
                self.log.end = end_offset;
                if let Role::Follower(follower) = &self.role {
                    follower.advance_high_watermark(&mut self.log, actions);
                }
            }
            Event::Durable {
                end_offset,
                generation,
            } => {
                let before = self.log.durable_end;
                if self.log.durable(end_offset, generation) {
                    self.on_durable(now_ms, before, actions);
                }
            }
            Event::EpochStartDurable { epoch } => self.on_epoch_started(now_ms, epoch, actions),
            Event::Truncated {
                end_offset,
                durable_end,
                generation,
            } => {
                self.log.truncated(end_offset, durable_end, generation);
                self.on_cut(actions);
            }
            Event::Reset { offset, generation } => {
                self.log.reset(offset, generation);
                self.on_cut(actions);
            }
            Event::LogStart { offset } => self.log.raise_log_start(offset),
            Event::LogFailed => {
                self.stop_leading(actions);
                self.go_offline(OfflineReason::LogFailed, actions);
            }
            Event::DurableAck { broker, report } => {
                if let (Role::Leader(leader), Some(view)) = (&mut self.role, &self.view)
                    && leader.durable_ack(now_ms, view, &self.log, broker, &report)
                {
                    self.follower_moved(now_ms, broker, actions);
                }
            }
            Event::AlterAnswered { accepted } => {
                if let Role::Leader(leader) = &mut self.role {
                    leader.alter_answered(now_ms, &self.common.settings, accepted);
                }
            }
            Event::FetchAnswered(answer) => {
                // Elected uncleanly since: what was committed before may be given up.
                let unclean = self
                    .view
                    .as_ref()
                    .is_some_and(|view| view.unclean_epoch > self.committed_epoch);
                if !self.cutting
                    && let Role::Follower(follower) = &mut self.role
                {
                    let from = actions.len();
                    match follower.answered(&answer, unclean, &mut self.log, actions) {
                        Ok(()) => {
                            if follower.matched() {
                                self.committed_epoch = follower.epoch;
                            }
                            self.cutting = actions[from..].iter().any(|action| {
                                matches!(action, Action::Truncate { .. } | Action::Reset { .. })
                            });
                        }
                        Err(reason) => self.go_offline(reason, actions),
                    }
                }
            }
            Event::Tick => {
                if let (Role::Leader(leader), Some(view)) = (&mut self.role, &self.view) {
                    leader.watch_own_disk(now_ms, &self.common.settings, &self.log, actions);
                    leader.review_isr(now_ms, &self.common.settings, view, &self.log, actions);
                }
            }
            Event::Paused => {
                if let Role::Leader(leader) = &mut self.role {
                    leader.forgive(now_ms);
                }
            }
        }
        self.log.check();
    }

    fn take_view(&mut self, now_ms: i64, view: PartitionView, actions: &mut Vec<Action>) {
        // Older metadata than this process's registration speak of another process, and
        // none are taken back.
        if view.image_index < self.common.me.registered_index
            || self
                .view
                .as_ref()
                .is_some_and(|old| view.image_index < old.image_index)
        {
            return;
        }
        if let Some(old) = &self.view {
            debug_assert!(
                view.leader_epoch >= old.leader_epoch
                    && view.partition_epoch >= old.partition_epoch,
                "epochs do not go down"
            );
        }
        let id = self.common.me.broker_id;
        let here = view.broker_epoch(id) == Some(self.common.me.broker_epoch)
            && view.replicas.contains(&id)
            && view.has_leader();
        let epoch = view.leader_epoch;
        let same = match &self.role {
            Role::StandBy => !here,
            Role::Leader(leader) => here && view.leader == id && leader.epoch == epoch,
            Role::Follower(follower) => {
                here && follower.leader == view.leader && follower.epoch == epoch
            }
            Role::Offline { reason, epoch } => {
                *reason == OfflineReason::LogFailed || *epoch == view.leader_epoch
            }
        };
        let leader = view.leader;
        self.view = Some(view);
        if same {
            self.same_role(now_ms, actions);
            return;
        }
        self.stop_leading(actions);
        if !here {
            self.role = Role::StandBy;
            actions.push(Action::StandBy);
        } else if leader == id {
            self.lead(now_ms, actions);
        } else {
            self.role = Role::Follower(Follower::new(leader, epoch));
            actions.push(Action::Follow { leader, epoch });
        }
    }

    fn same_role(&mut self, now_ms: i64, actions: &mut Vec<Action>) {
        let (Role::Leader(leader), Some(view)) = (&mut self.role, &self.view) else {
            return;
        };
        leader.take_view(now_ms, view);
        leader.advance_high_watermark(view, &mut self.log, actions);
        leader.review_isr(now_ms, &self.common.settings, view, &self.log, actions);
    }

    fn lead(&mut self, now_ms: i64, actions: &mut Vec<Action>) {
        let Some(view) = &self.view else { return };
        let granted = view.leader_epoch;
        let leader = Leader::new(self.common.me.broker_id, now_ms, view, self.log.end);
        // An epoch belongs to one process from its first record to its last.
        if let Some(known) = self.log.epochs.latest().filter(|known| *known >= granted) {
            self.go_offline(OfflineReason::EpochNotNew { granted, known }, actions);
            return;
        }
        self.role = Role::Leader(leader);
        self.start_epoch(actions);
    }

    /// Begins the epoch of a leader that was elected, once its log is not being cut.
    fn start_epoch(&mut self, actions: &mut Vec<Action>) {
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        if self.cutting || leader.stage != Stage::Elected {
            return;
        }
        leader.stage = Stage::Starting;
        leader.start_offset = self.log.end;
        self.log.epochs.assign(leader.epoch, self.log.end);
        actions.push(Action::StartEpoch {
            epoch: leader.epoch,
            start_offset: self.log.end,
        });
    }

    fn on_epoch_started(&mut self, now_ms: i64, epoch: LeaderEpoch, actions: &mut Vec<Action>) {
        let (Role::Leader(leader), Some(view)) = (&mut self.role, &self.view) else {
            return;
        };
        if leader.epoch != epoch || leader.stage != Stage::Starting {
            return;
        }
        // One disk, one order: what was appended before is durable with it.
        self.log.durable_end = self.log.durable_end.max(leader.start_offset);
        leader.stage = Stage::Serving;
        self.committed_epoch = epoch;
        actions.push(Action::Serve { epoch });
        leader.advance_high_watermark(view, &mut self.log, actions);
        leader.review_isr(now_ms, &self.common.settings, view, &self.log, actions);
    }

    fn on_durable(&mut self, now_ms: i64, before: Offset, actions: &mut Vec<Action>) {
        match (&mut self.role, &self.view) {
            (Role::Leader(leader), Some(view)) => {
                leader.own_disk_synced(now_ms, before, &self.log);
                leader.advance_high_watermark(view, &mut self.log, actions);
            }
            (Role::Follower(follower), _) => {
                follower.acknowledge(self.common.me.broker_epoch, &self.log, actions);
            }
            _ => {}
        }
    }

    fn on_cut(&mut self, actions: &mut Vec<Action>) {
        debug_assert!(self.cutting, "only what was asked for is cut");
        self.cutting = false;
        self.start_epoch(actions);
    }

    fn follower_moved(&mut self, now_ms: i64, broker: BrokerId, actions: &mut Vec<Action>) {
        let (Role::Leader(leader), Some(view)) = (&mut self.role, &self.view) else {
            return;
        };
        if leader.may_change_isr(broker, view) {
            leader.review_isr(now_ms, &self.common.settings, view, &self.log, actions);
        }
        leader.advance_high_watermark(view, &mut self.log, actions);
    }

    fn stop_leading(&self, actions: &mut Vec<Action>) {
        if let Role::Leader(leader) = &self.role {
            actions.push(Action::StopLeading {
                epoch: leader.epoch,
            });
        }
    }

    fn go_offline(&mut self, reason: OfflineReason, actions: &mut Vec<Action>) {
        let epoch = self.view.as_ref().map_or(-1, |view| view.leader_epoch);
        self.role = Role::Offline { reason, epoch };
        actions.push(Action::GoOffline(reason));
    }

    /// What a follower asks its leader next; `None` if it does not follow, or if its log
    /// is being cut.
    pub fn next_fetch(&self) -> Option<FetchPlan> {
        match &self.role {
            Role::Follower(follower) if !self.cutting => Some(follower.plan(
                self.common.me.broker_id,
                self.common.me.broker_epoch,
                &self.log,
            )),
            _ => None,
        }
    }

    /// Decides on a follower's fetch. The high watermark in the decision is the one after
    /// what the fetch itself told.
    pub fn follower_fetch(
        &mut self,
        now_ms: i64,
        fetch: &FollowerFetch,
        actions: &mut Vec<Action>,
    ) -> FetchDecision {
        let (Role::Leader(leader), Some(view)) = (&mut self.role, &self.view) else {
            return FetchDecision::NotLeader;
        };
        let decision = leader.fetch(now_ms, view, &self.log, fetch);
        if let FetchDecision::Records { log_start, .. } = decision {
            self.follower_moved(now_ms, fetch.broker, actions);
            self.log.check();
            return FetchDecision::Records {
                high_watermark: self.log.high_watermark,
                log_start,
            };
        }
        decision
    }

    /// Whether a produce may append now; the epoch that its records get, if so. With
    /// `acks=all` the ISR must be large enough.
    ///
    /// # Errors
    /// What to answer, or to wait for.
    pub fn check_append(&self, acks_all: bool) -> Result<LeaderEpoch, Refusal> {
        let leader = self.serving_leader()?;
        let enough = self.view.as_ref().is_some_and(PartitionView::has_min_isr);
        if acks_all && !enough {
            return Err(Refusal::NotEnoughReplicas);
        }
        Ok(leader.epoch)
    }

    /// What became of a record appended at `offset` in `epoch`, for `acks=all`. A duplicate
    /// asks for its original's offset, in the epoch of now.
    pub fn ack_state(&self, epoch: LeaderEpoch, offset: Offset) -> AckState {
        match self.serving_leader() {
            Ok(leader) if leader.epoch == epoch => {
                if offset < self.log.high_watermark {
                    return AckState::Committed;
                }
                let enough = self.view.as_ref().is_some_and(PartitionView::has_min_isr);
                AckState::Waiting {
                    under_min_isr: !enough,
                }
            }
            _ => AckState::NotLeader,
        }
    }

    /// Up to where deleted records are gone on every live replica; `None` unless it leads.
    pub fn low_watermark(&self) -> Option<Offset> {
        let leader = self.serving_leader().ok()?;
        Some(leader.low_watermark(self.view.as_ref()?, &self.log))
    }

    /// Whether every other member of the ISR has fetched in this leadership since `since_ms`: none
    /// of them followed another leader then. A leader alone in its ISR is confirmed by that.
    pub fn confirmed_since(&self, since_ms: i64) -> bool {
        let (Ok(leader), Some(view)) = (self.serving_leader(), self.view.as_ref()) else {
            return false;
        };
        let mut others = view.isr.iter().filter(|id| **id != leader.me);
        others.all(|id| leader.fetched_since(*id, since_ms))
    }

    /// How many records of those durable here the slowest replica lacks on its disk, as far
    /// as it has told; `None` unless it leads.
    pub fn slowest_lag(&self) -> Option<i64> {
        let leader = self.serving_leader().ok()?;
        let replicas = self.view.as_ref()?.replicas.iter();
        let ends = replicas.map(|id| leader.durable_end(*id, &self.log));
        let lags = ends.map(|end| self.log.durable_end - end.unwrap_or(self.log.log_start));
        lags.max().map(|lag| lag.max(0))
    }

    /// The leader's state while it serves.
    pub(crate) fn serving_leader(&self) -> Result<&Leader, Refusal> {
        match &self.role {
            Role::Leader(leader) if leader.serving() => Ok(leader),
            Role::Leader(_) => Err(Refusal::Wait),
            Role::Offline { reason, .. } => Err(Refusal::Offline(*reason)),
            Role::StandBy | Role::Follower(_) => Err(Refusal::NotLeader),
        }
    }

    /// The leader epoch that a follower follows.
    pub(crate) fn followed_epoch(&self) -> Option<LeaderEpoch> {
        match &self.role {
            Role::Follower(follower) => Some(follower.epoch),
            _ => None,
        }
    }
}
