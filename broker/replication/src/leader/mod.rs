//! The leader's side: what its followers have, the high watermark, answers to fetches.

mod isr;

use tidemark_model::{BrokerEpoch, BrokerId, LeaderEpoch, Offset};

use crate::event::{Action, Diverging, DurableReport, FetchDecision, FollowerFetch};
use crate::log::LogState;
use crate::replica::Settings;
use crate::view::PartitionView;
use isr::Pending;

/// What a leader knows of its followers, in one leader epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leader {
    pub(crate) me: BrokerId,
    pub(crate) epoch: LeaderEpoch,
    /// The log's end when this epoch began.
    pub(crate) start_offset: Offset,
    pub(crate) stage: Stage,
    peers: Box<[Peer]>,
    pending: Option<Box<Pending>>,
    /// Since when records wait for this broker's own disk without any progress; `i64::MAX` while
    /// none does.
    unsynced_since_ms: i64,
}

/// How far a leader is with beginning its epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// A cut of the log is under way; the epoch begins after it.
    Elected,
    /// The start of the epoch is being made durable. Nothing is served: a crash must not
    /// leave others with an epoch that this log knows nothing of.
    Starting,
    /// It serves.
    Serving,
}

/// A follower, in one broker epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Peer {
    id: BrokerId,
    broker_epoch: BrokerEpoch,
    /// Unknown until its history was seen to be the beginning of this leader's.
    position: Option<Position>,
    /// When it last had everything on its disk that this leader had on its own: no more is
    /// given to followers.
    caught_up_ms: i64,
    last_fetch_ms: i64,
    end_at_last_fetch: Offset,
    log_start: Offset,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Position {
    fetch_offset: Offset,
    durable_end: Offset,
    generation: i64,
}

/// What became of a record that a producer waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckState {
    /// It is below the high watermark.
    Committed,
    /// Not yet. When the time of the request is up, say `NOT_ENOUGH_REPLICAS_AFTER_APPEND`
    /// if the ISR is too small, else `REQUEST_TIMED_OUT`.
    Waiting {
        /// Whether the ISR is smaller than `min.insync.replicas`.
        under_min_isr: bool,
    },
    /// The epoch it was appended in is over: `NOT_LEADER_OR_FOLLOWER`.
    NotLeader,
}

impl Leader {
    pub(crate) fn new(
        me: BrokerId,
        now_ms: i64,
        view: &PartitionView,
        start_offset: Offset,
    ) -> Self {
        let mut leader = Self {
            me,
            epoch: view.leader_epoch,
            start_offset,
            stage: Stage::Elected,
            peers: Box::default(),
            pending: None,
            unsynced_since_ms: i64::MAX,
        };
        leader.take_view(now_ms, view);
        leader
    }

    pub(crate) fn serving(&self) -> bool {
        self.stage == Stage::Serving
    }

    /// Takes over who the followers are. A later process of one starts with an unknown
    /// position: what an earlier one had may be gone.
    pub(crate) fn take_view(&mut self, now_ms: i64, view: &PartitionView) {
        let mut peers = std::mem::take(&mut self.peers).into_vec();
        peers.retain(|peer| view.replicas.contains(&peer.id));
        for &id in view.replicas.iter().filter(|id| **id != self.me) {
            let epoch = view.broker_epoch(id).unwrap_or(-1);
            match peers.iter_mut().find(|peer| peer.id == id) {
                // It may have been heard of before the metadata were.
                Some(peer) if peer.broker_epoch >= epoch => {}
                Some(peer) => peer.begin(epoch, now_ms),
                None => peers.push(Peer::new(id, epoch, now_ms)),
            }
        }
        self.peers = peers.into_boxed_slice();
        self.settle_pending(view);
    }

    fn peer(&self, id: BrokerId) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.id == id)
    }

    fn peer_mut(&mut self, id: BrokerId) -> Option<&mut Peer> {
        self.peers.iter_mut().find(|peer| peer.id == id)
    }

    /// The durable end of a replica in this epoch; `None` while it is unknown.
    pub(crate) fn durable_end(&self, id: BrokerId, log: &LogState) -> Option<Offset> {
        if id == self.me {
            return Some(log.durable_end);
        }
        Some(self.peer(id)?.position?.durable_end)
    }

    /// Whether a follower has fetched since.
    pub(crate) fn fetched_since(&self, id: BrokerId, since_ms: i64) -> bool {
        self.peer(id)
            .is_some_and(|peer| peer.last_fetch_ms > since_ms)
    }

    /// First offset that a replica keeps, as far as it has told.
    pub(crate) fn log_start(&self, id: BrokerId, log: &LogState) -> Option<Offset> {
        if id == self.me {
            return Some(log.log_start);
        }
        Some(self.peer(id)?.log_start)
    }

    /// Moves the high watermark to what every member of the ISR has on its disk, this
    /// broker's own included, and everyone who may become a member by a proposal that is
    /// under way. Who may leave by one still counts. While the ISR is too small, nothing
    /// moves: what is acknowledged must survive the loss of all but one of the minimum.
    pub(crate) fn advance_high_watermark(
        &self,
        view: &PartitionView,
        log: &mut LogState,
        actions: &mut Vec<Action>,
    ) {
        if !self.serving() || !view.has_min_isr() {
            return;
        }
        debug_assert!(view.isr.contains(&self.me), "a leader is in its ISR");
        let mut lowest = log.durable_end;
        for id in view.isr.iter().copied().chain(self.additions()) {
            match self.durable_end(id, log) {
                Some(end) => lowest = lowest.min(end),
                None => return,
            }
        }
        if log.raise_high_watermark(lowest) {
            let offset = log.high_watermark;
            actions.push(Action::HighWatermark { offset });
        }
    }

    /// Takes what a follower says with a fetch, if its history is this leader's.
    pub(crate) fn fetch(
        &mut self,
        now_ms: i64,
        view: &PartitionView,
        log: &LogState,
        fetch: &FollowerFetch,
    ) -> FetchDecision {
        let report = &fetch.durable;
        if report.leader_epoch < self.epoch {
            return FetchDecision::FencedEpoch;
        }
        if report.leader_epoch > self.epoch {
            return FetchDecision::UnknownEpoch;
        }
        if !self.serving() {
            return FetchDecision::Wait;
        }
        if report.durable_end > fetch.fetch_offset
            || fetch.log_start > fetch.fetch_offset
            || fetch.broker == self.me
        {
            return FetchDecision::Invalid;
        }
        let known = match self.refresh(now_ms, view, fetch.broker, report) {
            Ok(known) => known,
            Err(decision) => return decision,
        };
        if known.is_some_and(|known| report.generation < known.generation) {
            return FetchDecision::StaleGeneration;
        }
        if let Some(diverging) = diverging(log, fetch.last_fetched_epoch, fetch.fetch_offset) {
            // It will cut its log. Until it has, nothing of what it has counts.
            return FetchDecision::Diverging(diverging);
        }
        if fetch.fetch_offset < log.log_start || fetch.fetch_offset > log.end {
            return FetchDecision::OutOfRange {
                log_start: log.log_start,
                end: log.end,
            };
        }
        let Some(peer) = self.peer_mut(fetch.broker) else {
            return FetchDecision::NotReplica;
        };
        peer.fetched(now_ms, fetch, log.durable_end);
        FetchDecision::Records {
            high_watermark: log.high_watermark,
            log_start: log.log_start,
        }
    }

    /// Takes what a follower says to have on its disk; says whether that was news. It
    /// counts only once a fetch of the same log generation has shown that its history is
    /// this leader's.
    pub(crate) fn durable_ack(
        &mut self,
        now_ms: i64,
        view: &PartitionView,
        log: &LogState,
        broker: BrokerId,
        report: &DurableReport,
    ) -> bool {
        if report.leader_epoch != self.epoch
            || !self.serving()
            || report.durable_end > log.end
            || self.refresh(now_ms, view, broker, report).is_err()
        {
            return false;
        }
        let Some(peer) = self.peer_mut(broker) else {
            return false;
        };
        match &mut peer.position {
            Some(position)
                if position.generation == report.generation
                    && position.durable_end < report.durable_end =>
            {
                position.durable_end = report.durable_end;
                peer.synced(now_ms, log.durable_end);
                true
            }
            _ => false,
        }
    }

    /// The position of a follower in the broker epoch that it names.
    fn refresh(
        &mut self,
        now_ms: i64,
        view: &PartitionView,
        broker: BrokerId,
        report: &DurableReport,
    ) -> Result<Option<Position>, FetchDecision> {
        let registered = view.broker_epoch(broker);
        let peer = self.peer_mut(broker).ok_or(FetchDecision::NotReplica)?;
        if report.broker_epoch < peer.broker_epoch
            || registered.is_some_and(|epoch| report.broker_epoch < epoch)
        {
            return Err(FetchDecision::StaleBroker);
        }
        if report.broker_epoch > peer.broker_epoch {
            peer.begin(report.broker_epoch, now_ms);
        }
        Ok(peer.position)
    }

    /// How much of what this leader has its own disk lacks for too long.
    pub(crate) fn watch_own_disk(
        &mut self,
        now_ms: i64,
        settings: &Settings,
        log: &LogState,
        actions: &mut Vec<Action>,
    ) {
        if log.durable_end >= log.end {
            self.unsynced_since_ms = i64::MAX;
            return;
        }
        self.unsynced_since_ms = self.unsynced_since_ms.min(now_ms);
        if now_ms - self.unsynced_since_ms > settings.replica_lag_time_max_ms / 2 {
            self.unsynced_since_ms = now_ms;
            actions.push(Action::Resign { epoch: self.epoch });
        }
    }

    /// This broker's own disk has made progress from `before`. Whoever had all of that was
    /// level until now, though it may have had nothing to say for long.
    pub(crate) fn own_disk_synced(&mut self, now_ms: i64, before: Offset, log: &LogState) {
        for peer in &mut self.peers {
            if peer.position.is_some_and(|p| p.durable_end >= before) {
                peer.caught_up_ms = now_ms;
            }
        }
        let waits = log.durable_end < log.end;
        self.unsynced_since_ms = if waits { now_ms } else { i64::MAX };
    }

    /// After this process stood still, nobody is late: none could be heard.
    pub(crate) fn forgive(&mut self, now_ms: i64) {
        for peer in &mut self.peers {
            peer.caught_up_ms = now_ms;
            peer.last_fetch_ms = now_ms;
        }
        self.unsynced_since_ms = i64::MAX;
    }

    /// Up to where deleted records are gone on every live replica (DeleteRecords).
    pub(crate) fn low_watermark(&self, view: &PartitionView, log: &LogState) -> Offset {
        let live = |peer: &&Peer| view.broker(peer.id).is_some_and(|broker| !broker.fenced);
        let starts = self.peers.iter().filter(live).map(|peer| peer.log_start);
        starts.fold(log.log_start, Offset::min)
    }
}

impl Peer {
    fn new(id: BrokerId, broker_epoch: BrokerEpoch, now_ms: i64) -> Self {
        Self {
            id,
            broker_epoch,
            position: None,
            caught_up_ms: now_ms,
            last_fetch_ms: now_ms,
            end_at_last_fetch: Offset::MAX,
            log_start: 0,
        }
    }

    fn begin(&mut self, broker_epoch: BrokerEpoch, now_ms: i64) {
        *self = Self::new(self.id, broker_epoch, now_ms);
    }

    fn fetched(&mut self, now_ms: i64, fetch: &FollowerFetch, durable_end: Offset) {
        let report = &fetch.durable;
        let position = self.position.get_or_insert(Position {
            fetch_offset: fetch.fetch_offset,
            durable_end: report.durable_end,
            generation: report.generation,
        });
        if report.generation > position.generation {
            // It has cut its log: what it had before does not count any more.
            *position = Position {
                fetch_offset: fetch.fetch_offset,
                durable_end: report.durable_end,
                generation: report.generation,
            };
        } else {
            // An older fetch may come late.
            position.fetch_offset = position.fetch_offset.max(fetch.fetch_offset);
            position.durable_end = position.durable_end.max(report.durable_end);
        }
        self.log_start = self.log_start.max(fetch.log_start);
        self.synced(now_ms, durable_end);
        self.last_fetch_ms = now_ms;
        self.end_at_last_fetch = durable_end;
    }

    /// Judges how late it is. Having on its disk what the leader had when it last fetched
    /// means that it was level then: a follower of a leader that is written to all the
    /// time has never everything of this moment.
    fn synced(&mut self, now_ms: i64, leaders: Offset) {
        let durable_end = self.position.map_or(0, |position| position.durable_end);
        if durable_end >= leaders {
            self.caught_up_ms = now_ms;
        } else if durable_end >= self.end_at_last_fetch {
            self.caught_up_ms = self.caught_up_ms.max(self.last_fetch_ms);
        }
    }
}

/// Where a history with records up to `fetch_offset`, the last of `last_epoch`, parts from
/// the log's; `None` if it is its beginning.
pub(crate) fn diverging(
    log: &LogState,
    last_epoch: Option<LeaderEpoch>,
    fetch_offset: Offset,
) -> Option<Diverging> {
    let last_epoch = last_epoch?;
    // Above all that is known here there is nothing to compare with; a leader knows its
    // own epoch, and nobody who follows it has a later one.
    let end = log.epochs.end_of(last_epoch, log.end)?;
    (end.epoch != last_epoch || end.end_offset < fetch_offset).then_some(Diverging {
        epoch: end.epoch,
        end_offset: end.end_offset,
    })
}
