//! What a partition's replica is told, and what is done of what it says.

use super::{Acks, Bounds, Partition, State, Wants, bounds_of};
use crate::metrics::Standing;
use bytes::Bytes;
use std::cell::Cell;
use std::cmp::Ordering;
use std::sync::Arc;
use tidemark_env::{clock, task};
use tidemark_log::{AppendError, Appended, Log, ProducersSnapshot, ReadError, ReadPlan};
use tidemark_model::{BrokerId, LeaderEpoch};
use tidemark_replication::{
    AckState, Action, ConsumerFetch, DurableReport, EpochEnd, EpochStart, Epochs, Event,
    FetchAnswer, FetchDecision, FetchPlan, FollowerFetch, LogState, OfflineReason, PartitionView,
    Rack, Refusal, Replica, RoleName,
};
use tidemark_wal::{Failure, Lsn, Member};
use tidemark_wire::ErrorCode;

thread_local! {
    /// Used by every step of this thread: none allocates once it has grown.
    static ACTIONS: Cell<Vec<Action>> = const { Cell::new(Vec::new()) };
}

/// Batches of one leader epoch, from a leader, that were checked.
#[derive(Debug, Clone)]
pub(crate) struct RunOfRecords {
    pub(crate) epoch: LeaderEpoch,
    pub(crate) bytes: Bytes,
}

/// What became of what a producer waits for.
pub(crate) enum Acked {
    Yes { log_start: i64 },
    No(ErrorCode, String),
}

/// What a consumer's fetch finds: where the log begins and ends, the decision, and the read if
/// there is something to read.
type ConsumerRead = (Bounds, ConsumerFetch, Option<ReadPlan>);

/// What a follower's fetch finds.
pub(crate) enum FollowerRead {
    /// Records, or none yet.
    Records {
        bounds: Bounds,
        plan: Box<ReadPlan>,
        /// They count against this broker's replication rate.
        throttled: bool,
    },
    /// Nothing to be told now.
    Wait,
    Diverging(Bounds, i32, i64),
    OutOfRange(Bounds),
    Refused(ErrorCode),
}

/// The error that a client gets for what a replica refuses.
pub(crate) fn refused(refusal: Refusal) -> ErrorCode {
    match refusal {
        Refusal::Wait | Refusal::NotLeader => ErrorCode::NotLeaderOrFollower,
        Refusal::NotEnoughReplicas => ErrorCode::NotEnoughReplicas,
        Refusal::Offline(_) => ErrorCode::KafkaStorageError,
        Refusal::FencedEpoch => ErrorCode::FencedLeaderEpoch,
        Refusal::UnknownEpoch => ErrorCode::UnknownLeaderEpoch,
        Refusal::OffsetNotAvailable => ErrorCode::OffsetNotAvailable,
    }
}

/// An epoch as requests name it, -1 for none.
pub(crate) fn named(epoch: i32) -> Option<LeaderEpoch> {
    (epoch >= 0).then_some(epoch)
}

pub(super) fn generation(log: &Log) -> i64 {
    i64::try_from(log.generation()).unwrap_or(i64::MAX)
}

/// What a replica is to know of a log that was opened.
pub(super) fn log_state(log: &Log) -> LogState {
    let starts = log.epochs().entries().iter().map(|entry| EpochStart {
        epoch: entry.epoch,
        start_offset: entry.start_offset,
    });
    LogState {
        log_start: log.log_start_offset(),
        end: log.end_offset(),
        durable_end: log.durable_offset(),
        generation: generation(log),
        high_watermark: log.committed_offset(),
        epochs: Epochs::new(starts.collect()),
    }
}

impl Partition {
    /// Tells the replica and does what it says.
    pub(super) fn step(self: &Arc<Self>, state: &mut State, event: Event) {
        self.with_actions(state, |state, now_ms, actions| {
            state.replica.step(now_ms, event, actions);
        });
    }

    fn with_actions<T>(
        self: &Arc<Self>,
        state: &mut State,
        ask: impl FnOnce(&mut State, i64, &mut Vec<Action>) -> T,
    ) -> T {
        let mut actions = ACTIONS.take();
        let result = ask(state, self.topic.replicas.now_ms(), &mut actions);
        for action in actions.drain(..) {
            self.carry_out(state, action);
        }
        ACTIONS.set(actions);
        result
    }

    fn carry_out(self: &Arc<Self>, state: &mut State, action: Action) {
        match action {
            Action::HighWatermark { offset } => {
                if let Some(log) = &mut state.log {
                    log.note_committed(offset);
                }
                state.waits.committed(offset);
                state.waits.mark(|wants| wants != Wants::LowWatermark);
            }
            Action::StartEpoch { epoch, .. } => self.start_epoch(state, epoch),
            Action::Serve { .. } => {
                state.waits.serving();
                state.waits.mark(|_| true);
            }
            Action::StopLeading { .. } | Action::StandBy => {
                state.waits.started();
                state.waits.release_all();
                state.waits.mark(|_| true);
            }
            Action::AlterPartition(proposal) => {
                self.topic.replicas.propose(self.at(), proposal);
            }
            Action::Resign { .. } => {
                let pause = self.topic.replicas.lag_time_max();
                if self.dir.resign(pause) {
                    tracing::warn!(
                        dir = %self.dir.path().display(), ?pause,
                        "the disk does not keep up with what this broker leads: others lead for a while, where they can"
                    );
                }
            }
            Action::Follow { leader, .. } => {
                state.unfollow();
                let fetcher = self.topic.replicas.fetcher(leader);
                let slot = fetcher.add(self, self.at());
                state.following = Some((fetcher, slot));
                state.waits.mark(|_| true);
            }
            // By `fetch_answered`, which has the records.
            Action::Append => {}
            Action::Truncate { .. } | Action::Reset { .. } => self.begin_cut(action, None),
            Action::RaiseLogStart { to } => {
                state.waits.set_raise_to(to);
                self.raise_log_start(state);
            }
            Action::SendDurableAck { report, .. } => {
                if let Some((fetcher, _)) = &state.following {
                    fetcher.acknowledge(self.at(), report);
                }
            }
            Action::GoOffline(reason) => {
                if reason != OfflineReason::LogFailed {
                    tracing::error!(topic = %self.topic, partition = self.index, %reason, "the partition is offline here");
                }
                state.waits.started();
                state.unfollow();
                state.waits.release_all();
                state.waits.mark(|_| true);
            }
        }
    }

    fn begin_cut(self: &Arc<Self>, action: Action, producers: Option<ProducersSnapshot>) {
        let partition = Arc::clone(self);
        drop(task::spawn("cut-log", async move {
            partition.cut(action, producers).await;
        }));
    }

    fn start_epoch(self: &Arc<Self>, state: &mut State, epoch: LeaderEpoch) {
        let State { log, touched, .. } = state;
        let Some(log) = log else { return };
        let started = log.begin_epoch(epoch, |lsn| {
            (std::mem::replace(touched, lsn) != lsn).then(|| Arc::clone(self) as Arc<dyn Member>)
        });
        match started {
            Ok(Some(lsn)) => state.waits.start(epoch, lsn),
            Ok(None) => tracing::error!(
                topic = %self.topic, partition = self.index, epoch,
                "the log has the epoch that this broker is to lead in"
            ),
            // A log that cannot take it says so to whoever asks.
            Err(error) => {
                tracing::warn!(topic = %self.topic, partition = self.index, %error, "the epoch does not begin");
                self.step(state, Event::LogFailed);
            }
        }
    }

    /// Follows the log start of the leader as far as records are durable.
    fn raise_log_start(&self, state: &mut State) {
        let Some(log) = &mut state.log else { return };
        let raise_to = state.waits.raise_to();
        let to = raise_to.min(log.durable_offset());
        if to > log.log_start_offset() {
            if let Err(error) = log.delete_records(to) {
                tracing::warn!(topic = %self.topic, partition = self.index, %error, "the log start stays");
            }
            state.waits.mark(|_| true);
        }
        if log.log_start_offset() >= raise_to {
            state.waits.set_raise_to(0);
        }
    }

    /// Takes what the metadata says; gives the group that makes the start of an epoch durable, if
    /// this broker leads from now on.
    pub(super) fn take_view(self: &Arc<Self>, view: PartitionView) -> Option<Lsn> {
        let mut state = self.lock();
        state.log.as_ref()?;
        let before = led_isr(&state.replica);
        let unclean = view.unclean_epoch;
        let unclean_before = state.replica.view().map(|view| view.unclean_epoch);
        self.step(&mut state, Event::Image(view));
        if let (Some((epoch, before)), Some((now, after))) = (before, led_isr(&state.replica))
            && epoch == now
        {
            match after.cmp(&before) {
                Ordering::Less => {
                    tracing::debug!(topic = %self.topic, partition = self.index, "an ISR shrinks");
                    self.topic.replicas.metrics.isr_shrinks.inc();
                }
                Ordering::Equal => {}
                Ordering::Greater => {
                    tracing::debug!(topic = %self.topic, partition = self.index, "an ISR grows");
                    self.topic.replicas.metrics.isr_expands.inc();
                }
            }
        }
        if unclean_before.is_some_and(|before| unclean > before)
            && led_isr(&state.replica).is_some_and(|(epoch, _)| epoch == unclean)
        {
            self.topic.replicas.metrics.unclean_elections.inc();
        }
        if state.replica.role() != RoleName::Follower {
            state.unfollow();
        }
        state.waits.starting().map(|(_, lsn)| lsn)
    }

    /// Time has passed, or this process stood still for long.
    pub(crate) fn tick(self: &Arc<Self>, paused: bool) {
        let mut state = self.lock();
        if paused {
            self.step(&mut state, Event::Paused);
        }
        self.step(&mut state, Event::Tick);
        let in_sync = in_sync(&state, self.topic.replicas.broker_id());
        if let (Some((fetcher, slot)), false) = (&state.following, in_sync) {
            fetcher.ask_again(*slot);
        }
    }

    /// The controller answered a proposal.
    pub(crate) fn alter_answered(self: &Arc<Self>, accepted: bool) {
        self.step(&mut self.lock(), Event::AlterAnswered { accepted });
    }

    /// A follower says what it has on its disk.
    pub(crate) fn durable_ack(self: &Arc<Self>, broker: i32, report: DurableReport) {
        self.step(&mut self.lock(), Event::DurableAck { broker, report });
    }

    /// What to ask the leader, if it follows `leader`, and whether the answer counts against this
    /// broker's replication rate.
    pub(crate) fn next_fetch(&self, leader: i32) -> Option<(FetchPlan, bool)> {
        let state = self.lock();
        let plan = state.replica.next_fetch();
        let plan = plan.filter(|plan| plan.leader == leader && state.log.is_some())?;
        Some((plan, self.is_filled_slowly(&state)))
    }

    fn is_filled_slowly(&self, state: &State) -> bool {
        state.throttled.as_follower && !in_sync(state, self.topic.replicas.broker_id())
    }

    /// Takes the leader's answer, with checked records, or with the producers that are known where
    /// the leader's log begins; gives whether the records count against this broker's replication
    /// rate.
    ///
    /// # Errors
    /// Why the records were not appended.
    pub(crate) fn fetch_answered(
        self: &Arc<Self>,
        answer: FetchAnswer,
        runs: &[RunOfRecords],
        mut producers: Option<ProducersSnapshot>,
    ) -> Result<bool, AppendError> {
        if self.dir.is_full() && !runs.is_empty() {
            return Err(AppendError::DiskFull(
                std::io::ErrorKind::StorageFull.into(),
            ));
        }
        let mut state = self.lock();
        if state.log.is_none() {
            return Ok(false);
        }
        let state = &mut *state;
        let throttled = self.is_filled_slowly(state);
        let mut actions = ACTIONS.take();
        let now_ms = self.topic.replicas.now_ms();
        state
            .replica
            .step(now_ms, Event::FetchAnswered(answer), &mut actions);
        let mut appended = Ok(());
        for action in actions.drain(..) {
            match action {
                Action::Append => appended = self.append_runs(state, runs),
                Action::Reset { .. } => self.begin_cut(action, producers.take()),
                action => self.carry_out(state, action),
            }
        }
        ACTIONS.set(actions);
        appended.map(|()| throttled)
    }

    fn append_runs(
        self: &Arc<Self>,
        state: &mut State,
        runs: &[RunOfRecords],
    ) -> Result<(), AppendError> {
        for run in runs {
            let State { log, touched, .. } = state;
            let Some(log) = log else { return Ok(()) };
            let appended = log.append_as_follower(&run.bytes, clock::now_ms(), |lsn| {
                (std::mem::replace(touched, lsn) != lsn)
                    .then(|| Arc::clone(self) as Arc<dyn Member>)
            })?;
            let event = Event::Appended {
                epoch: run.epoch,
                base_offset: appended.base_offset,
                end_offset: appended.last_offset + 1,
            };
            self.step(state, event);
        }
        Ok(())
    }

    /// What became of a batch for a producer that waits with these acks.
    pub(crate) fn acked(&self, acks: i16, appended: &Appended) -> Acked {
        let state = self.lock();
        let Some(log) = &state.log else {
            return Acked::No(
                ErrorCode::NotLeaderOrFollower,
                "the partition was closed".to_owned(),
            );
        };
        let log_start = log.log_start_offset();
        let under_min_isr = match ack_state(&state, acks, appended) {
            AckState::Committed => return Acked::Yes { log_start },
            AckState::NotLeader => {
                return match log.failure() {
                    Some(reason) => Acked::No(ErrorCode::KafkaStorageError, reason.to_owned()),
                    None => Acked::No(
                        ErrorCode::NotLeaderOrFollower,
                        "another broker leads the partition now".to_owned(),
                    ),
                };
            }
            AckState::Waiting { under_min_isr } => under_min_isr,
        };
        match under_min_isr {
            true => Acked::No(
                ErrorCode::NotEnoughReplicasAfterAppend,
                "the records are in the log, but fewer replicas than min.insync.replicas are in sync"
                    .to_owned(),
            ),
            false => Acked::No(
                ErrorCode::RequestTimedOut,
                "the records are in the log, but were not durable within the request's timeout"
                    .to_owned(),
            ),
        }
    }

    /// Has `acks` told when it is known what became of a batch, which may be at once.
    pub(crate) fn when_acked(&self, all: i16, appended: &Appended, acks: &Arc<Acks>) {
        let mut state = self.lock();
        let waits = matches!(ack_state(&state, all, appended), AckState::Waiting { .. });
        if !waits || state.log.is_none() {
            drop(state);
            return acks.done();
        }
        let target = appended.last_offset + 1;
        match all {
            1 => state.waits.for_durable(target, acks),
            _ => state.waits.for_committed(target, acks),
        }
    }

    /// Has `acks` told when this broker serves as the leader, or will not.
    pub(crate) fn when_serving(&self, acks: &Arc<Acks>) {
        let mut state = self.lock();
        if state.replica.role() != RoleName::StartingLeader || state.log.is_none() {
            drop(state);
            return acks.done();
        }
        state.waits.for_serving(acks);
    }

    /// How it stands with its replicas, and whether it is offline here.
    pub(crate) fn standing(&self) -> (Standing, bool) {
        let state = self.lock();
        let role = state.replica.role();
        let offline = matches!(role, RoleName::Offline(_));
        let Some(view) = state.replica.view().filter(|_| role == RoleName::Leader) else {
            return (Standing::default(), offline);
        };
        let (in_sync, all, least) = (view.isr.len(), view.replicas.len(), view.effective_min_isr);
        let standing = Standing {
            leads: true,
            under_replicated: in_sync < all,
            under_min_isr: in_sync < least,
            at_min_isr: in_sync == least && least < all,
            lag: state.replica.slowest_lag().unwrap_or(0),
        };
        (standing, offline)
    }

    /// Whether it leads and serves, in the epoch that a request names; the epoch, and where the
    /// log begins and ends.
    ///
    /// # Errors
    /// What to answer.
    pub(crate) fn leading(&self, known: i32) -> Result<(LeaderEpoch, Bounds), ErrorCode> {
        let state = self.lock();
        let log = state.log.as_ref().ok_or(ErrorCode::NotLeaderOrFollower)?;
        let epoch = state.replica.check_leader(named(known)).map_err(refused)?;
        Ok((epoch, bounds_of(log, &state.replica)))
    }

    /// The latest offset that consumers know (KIP-207).
    ///
    /// # Errors
    /// What to answer.
    pub(crate) fn latest_offset(&self, known: i32) -> Result<i64, ErrorCode> {
        let state = self.lock();
        state.replica.latest_offset(named(known)).map_err(refused)
    }

    /// Where an epoch ends in this leader's log.
    ///
    /// # Errors
    /// What to answer.
    pub(crate) fn epoch_end(&self, known: i32, epoch: i32) -> Result<Option<EpochEnd>, ErrorCode> {
        let state = self.lock();
        let Some(epoch) = named(epoch) else {
            state.replica.check_leader(named(known)).map_err(refused)?;
            return Ok(None);
        };
        state
            .replica
            .epoch_end(named(known), epoch)
            .map_err(refused)
    }

    /// What it is to the partition now.
    pub(crate) fn role(&self) -> RoleName {
        self.lock().replica.role()
    }

    /// Whether it leads in `epoch`, and every other member of the ISR has fetched from it since.
    pub(crate) fn confirmed_since(&self, epoch: LeaderEpoch, since_ms: i64) -> bool {
        let state = self.lock();
        let led = state.replica.check_leader(None) == Ok(epoch);
        led && state.replica.confirmed_since(since_ms)
    }

    /// The clock that replicas go by.
    pub(crate) fn replicas_now_ms(&self) -> i64 {
        self.topic.replicas.now_ms()
    }

    /// Up to where the records of a tiered topic may go from here for their age or the log's size:
    /// those that the bucket has, as the leader knows. Followers go by their leader's log start.
    pub(crate) fn deletable(&self) -> i64 {
        if !self.policy().settings.remote_storage_enable {
            return i64::MAX;
        }
        let state = self.lock();
        let epoch = state.replica.check_leader(None).ok();
        let confirmed = |since_ms| state.replica.confirmed_since(since_ms);
        let end = epoch.and_then(|epoch| self.cold.deletable(epoch, confirmed));
        end.unwrap_or(0)
    }

    /// Up to where deleted records are gone on every live replica.
    pub(crate) fn low_watermark(&self) -> Option<i64> {
        self.lock().replica.low_watermark()
    }

    /// The follower that a consumer in `rack` should read `offset` from.
    pub(crate) fn preferred_read_replica(
        &self,
        rack: &str,
        offset: i64,
        racks: &[Rack<'_>],
    ) -> Option<i32> {
        let state = self.lock();
        state.replica.preferred_read_replica(rack, offset, racks)
    }

    /// Decides on a consumer's fetch and plans its read; `None` if there is nothing to read yet.
    ///
    /// # Errors
    /// What to answer, with where the log begins and ends if it is that.
    pub(crate) fn consumer_read(
        &self,
        (offset, known, last_fetched): (i64, i32, i32),
        (max_bytes, at_least_one_batch): (usize, bool),
        from_follower: bool,
    ) -> Result<ConsumerRead, (ErrorCode, Option<Bounds>)> {
        let state = self.lock();
        let log = state
            .log
            .as_ref()
            .ok_or((ErrorCode::NotLeaderOrFollower, None))?;
        let follows = state.replica.role() == RoleName::Follower;
        if follows && !from_follower {
            return Err((ErrorCode::NotLeaderOrFollower, None));
        }
        let bounds = bounds_of(log, &state.replica);
        let decided = state
            .replica
            .consumer_fetch(offset, named(known), named(last_fetched));
        let decided = match decided {
            // What was committed before can be read until the process ends.
            Err(Refusal::Offline(OfflineReason::LogFailed)) if offset < bounds.high_watermark => {
                ConsumerFetch::Read {
                    to: bounds.high_watermark,
                }
            }
            other => other.map_err(|refusal| (refused(refusal), None))?,
        };
        let out_of_range = (ErrorCode::OffsetOutOfRange, Some(bounds));
        // An epoch above all that this log knows has records that it never had.
        if !follows && named(last_fetched).is_some_and(|e| log.end_offset_for_epoch(e).is_none()) {
            return Err(out_of_range);
        }
        let to = match decided {
            ConsumerFetch::Read { to } => to,
            ConsumerFetch::Empty | ConsumerFetch::Diverging(_) => {
                return Ok((bounds, decided, None));
            }
            ConsumerFetch::OutOfRange => return Err(out_of_range),
        };
        match log.read_plan(offset, max_bytes, to, at_least_one_batch) {
            Ok(plan) => Ok((bounds, decided, Some(plan))),
            Err(ReadError::OutOfRange { .. }) => Err(out_of_range),
            Err(_) => Err((ErrorCode::KafkaStorageError, Some(bounds))),
        }
    }

    /// Decides on a follower's fetch and plans its read, up to what is durable here.
    pub(crate) fn follower_read(
        self: &Arc<Self>,
        fetch: &FollowerFetch,
        max_bytes: usize,
        at_least_one_batch: bool,
    ) -> FollowerRead {
        let mut state = self.lock();
        if state.log.is_none() {
            return FollowerRead::Refused(ErrorCode::NotLeaderOrFollower);
        }
        let decision = self.with_actions(&mut state, |state, now_ms, actions| {
            state.replica.follower_fetch(now_ms, fetch, actions)
        });
        state.waits.mark(|wants| wants == Wants::LowWatermark);
        let State { log, replica, .. } = &*state;
        let Some(log) = log else {
            return FollowerRead::Refused(ErrorCode::NotLeaderOrFollower);
        };
        let bounds = bounds_of(log, replica);
        match decision {
            FetchDecision::Records { .. } => {
                let upper = log.durable_offset();
                match log.read_plan(fetch.fetch_offset, max_bytes, upper, at_least_one_batch) {
                    Ok(plan) => FollowerRead::Records {
                        bounds,
                        plan: Box::new(plan),
                        throttled: state.throttled.as_leader && !in_sync(&state, fetch.broker),
                    },
                    Err(_) => FollowerRead::OutOfRange(bounds),
                }
            }
            FetchDecision::Diverging(at) => {
                FollowerRead::Diverging(bounds, at.epoch, at.end_offset)
            }
            FetchDecision::OutOfRange { .. } => FollowerRead::OutOfRange(bounds),
            FetchDecision::Wait | FetchDecision::StaleGeneration => FollowerRead::Wait,
            FetchDecision::NotLeader => FollowerRead::Refused(ErrorCode::NotLeaderOrFollower),
            FetchDecision::FencedEpoch => FollowerRead::Refused(ErrorCode::FencedLeaderEpoch),
            FetchDecision::UnknownEpoch | FetchDecision::NotReplica => {
                FollowerRead::Refused(ErrorCode::UnknownLeaderEpoch)
            }
            FetchDecision::StaleBroker => FollowerRead::Refused(ErrorCode::StaleBrokerEpoch),
            FetchDecision::Invalid => FollowerRead::Refused(ErrorCode::InvalidRequest),
        }
    }
}

/// The epoch that a replica leads in, and how many are in sync with it.
fn led_isr(replica: &Replica) -> Option<(LeaderEpoch, usize)> {
    let leads = matches!(replica.role(), RoleName::Leader | RoleName::StartingLeader);
    let view = replica.view().filter(|_| leads)?;
    Some((view.leader_epoch, view.isr.len()))
}

/// Whether the metadata have a broker in the ISR.
fn in_sync(state: &State, broker: BrokerId) -> bool {
    let view = state.replica.view();
    view.is_some_and(|view| view.isr.contains(&broker))
}

fn ack_state(state: &State, acks: i16, appended: &Appended) -> AckState {
    let (epoch, offset) = (appended.leader_epoch, appended.last_offset);
    let state_of_all = state.replica.ack_state(epoch, offset);
    match state_of_all {
        // The leader's own disk is enough.
        AckState::Waiting { .. } if acks == 1 => match offset < state.replica.log().durable_end {
            true => AckState::Committed,
            false => AckState::Waiting {
                under_min_isr: false,
            },
        },
        other => other,
    }
}

impl Member for Partition {
    fn durable(self: Arc<Self>, lsn: Lsn, payload: &Bytes) {
        let mut state = self.lock();
        let Some(log) = state.log.as_mut() else {
            return;
        };
        let end_offset = log.durable(lsn, payload);
        let wants_write = log.wants_write();
        let generation = generation(log);
        if end_offset > state.replica.log().durable_end {
            self.step(
                &mut state,
                Event::Durable {
                    end_offset,
                    generation,
                },
            );
            state.waits.durable(end_offset);
            // On a follower what is committed may be durable later than that is known.
            let follows = state.following.is_some();
            state.waits.mark(|wants| follows || wants == Wants::Durable);
            if let Some((fetcher, slot)) = &state.following {
                fetcher.signal.mark(*slot);
            }
            if state.waits.raise_to() > 0 {
                self.raise_log_start(&mut state);
            }
        }
        if let Some((epoch, at)) = state.waits.starting()
            && at <= lsn
        {
            state.waits.started();
            self.step(&mut state, Event::EpochStartDurable { epoch });
        }
        if wants_write && !std::mem::replace(&mut state.dirty, true) {
            drop(state);
            self.dir.enqueue(Arc::clone(&self));
        }
    }

    fn failed(self: Arc<Self>, failure: &Failure) {
        self.disk_failed(&failure.to_string());
    }
}
