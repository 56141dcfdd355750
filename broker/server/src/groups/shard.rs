//! One coordinator and its partition.

use super::log::{GroupLog, LoadError};
use crate::partition::Partition;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tidemark_coordinator::{
    GroupConfig, GroupCoordinator, GroupStanding, LogRecord, Request, Response, Token,
};
use tidemark_env::{clock, task};
use tidemark_model::{Image, LeaderEpoch};
use tidemark_quorum::Metadata;
use tidemark_wire::{ErrorCode, Uuid};
use tokio::sync::{Notify, oneshot};

/// A coordinator whose log failed is loaded again after this.
const RELOAD_AFTER: Duration = Duration::from_secs(1);
/// How long the pump waits for the high watermark before it looks whether the log has failed.
const COMMIT_WAIT: Duration = Duration::from_secs(5);
/// How often loading looks whether all that was there at the election is durable here: what a
/// follower took over last may still be on its way to the disk.
const DURABLE_POLL: Duration = Duration::from_millis(5);

struct State {
    coordinator: GroupCoordinator,
    waiting: HashMap<Token, oneshot::Sender<Response>>,
    /// Offset after the last record that was appended.
    appended_end: i64,
    /// Whether a task is waiting for the high watermark on behalf of the coordinator.
    pumping: bool,
    /// The earliest deadline that the timer task knows of.
    known_deadline_ms: i64,
    /// Whether the coordinator was loaded; one that is not active any more is loaded again.
    loaded: bool,
}

/// The coordinator of one partition of `__consumer_offsets`, for one leader epoch of this broker.
pub(super) struct Shard {
    log: GroupLog,
    controller: Arc<Metadata>,
    config: GroupConfig,
    state: Mutex<State>,
    sooner: Arc<Notify>,
    /// Another broker leads, another epoch began, or this broker stops: it answers no more.
    resigned: AtomicBool,
}

impl Shard {
    pub(super) fn new(
        log: GroupLog,
        controller: Arc<Metadata>,
        config: GroupConfig,
        sooner: Arc<Notify>,
    ) -> Arc<Shard> {
        let state = State {
            coordinator: GroupCoordinator::new(config.clone()),
            waiting: HashMap::new(),
            appended_end: 0,
            pumping: false,
            known_deadline_ms: i64::MAX,
            loaded: false,
        };
        Arc::new(Shard {
            log,
            controller,
            config,
            state: Mutex::new(state),
            sooner,
            resigned: AtomicBool::new(false),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_of(&self, partition: &Arc<Partition>, leader_epoch: LeaderEpoch) -> bool {
        self.log.is_of(partition, leader_epoch)
    }

    fn has_resigned(&self) -> bool {
        self.resigned.load(Ordering::Acquire)
    }

    pub(super) fn count_groups(&self, counts: &mut BTreeMap<&'static str, usize>) {
        self.lock().coordinator.count_groups(counts);
    }

    pub(super) fn visit_groups(&self, visitor: &mut dyn FnMut(GroupStanding<'_>)) {
        self.lock().coordinator.visit_groups(visitor);
    }

    /// Hands a request to the coordinator and waits for its answer.
    pub(super) async fn ask(self: &Arc<Self>, token: Token, request: Request) -> Response {
        let refusal = Response::refusal(&request, ErrorCode::NotCoordinator);
        let (answer, answered) = oneshot::channel();
        {
            let mut state = self.lock();
            state.waiting.insert(token, answer);
            let records = state.coordinator.handle(clock::steady_ms(), token, request);
            self.carry_out(&mut state, &records);
        }
        answered.await.unwrap_or(refusal)
    }

    /// The same for at most `timeout`. What the request appended by then may still be committed;
    /// Kafka tells that with the same error, upon which clients send it again.
    pub(super) async fn ask_within(
        self: &Arc<Self>,
        timeout: Duration,
        token: Token,
        request: Request,
    ) -> Response {
        let late = Response::refusal(&request, ErrorCode::CoordinatorNotAvailable);
        let answer = clock::timeout(timeout, self.ask(token, request)).await;
        answer.unwrap_or_else(|_| {
            self.lock().waiting.remove(&token);
            late
        })
    }

    /// Lets deadlines pass; says when the next one is.
    pub(super) fn tick(self: &Arc<Self>, now_ms: i64) -> Option<i64> {
        let mut state = self.lock();
        if state
            .coordinator
            .next_deadline_ms()
            .is_some_and(|deadline_ms| deadline_ms <= now_ms)
        {
            let records = state.coordinator.tick(now_ms);
            self.carry_out(&mut state, &records);
        }
        let next_ms = state.coordinator.next_deadline_ms();
        state.known_deadline_ms = next_ms.unwrap_or(i64::MAX);
        next_ms
    }

    /// Forgets the offsets of deleted topics.
    pub(super) fn topics_deleted(self: &Arc<Self>, topics: &BTreeMap<String, Uuid>) {
        let mut state = self.lock();
        let records = state.coordinator.topics_deleted(clock::steady_ms(), topics);
        self.carry_out(&mut state, &records);
    }

    /// Answers no more: everyone who waits looks for another coordinator.
    pub(super) fn resign(self: &Arc<Self>) {
        self.resigned.store(true, Ordering::Release);
        let mut state = self.lock();
        state.coordinator.resign();
        self.carry_out(&mut state, &[]);
    }

    /// Appends records, tells the coordinator, gives out answers, and minds the next deadline.
    fn carry_out(self: &Arc<Self>, state: &mut State, records: &[LogRecord]) {
        if !records.is_empty() {
            match self.log.append(records) {
                Ok(last_offset) => {
                    state.appended_end = last_offset + 1;
                    state.coordinator.appended(last_offset);
                    self.pump(state);
                }
                Err(error) => {
                    tracing::error!(partition = self.log.index(), %error, "group state could not be written");
                    state.coordinator.append_failed(error);
                }
            }
        }
        match self.log.bounds() {
            Some(bounds) => state.coordinator.committed(bounds.high_watermark),
            // What it holds back may never be committed, whatever the next leader commits.
            None if state.loaded => state.coordinator.resign(),
            None => {}
        }
        if state.loaded && !state.coordinator.is_active() {
            state.loaded = false;
            self.load_after(RELOAD_AFTER);
        }
        for (token, response) in state.coordinator.take_replies() {
            if let Some(answer) = state.waiting.remove(&token) {
                // The connection may be gone; then nobody wants the answer.
                drop(answer.send(response));
            }
        }
        let next_ms = state.coordinator.next_deadline_ms().unwrap_or(i64::MAX);
        if next_ms < state.known_deadline_ms {
            state.known_deadline_ms = next_ms;
            self.sooner.notify_one();
        }
    }

    /// Has the coordinator told when what it appended is committed.
    fn pump(self: &Arc<Self>, state: &mut State) {
        if std::mem::replace(&mut state.pumping, true) {
            return;
        }
        let shard = Arc::clone(self);
        drop(task::spawn("group-commit", async move {
            loop {
                let target = shard.lock().appended_end;
                shard.log.wait_committed(target, COMMIT_WAIT).await;
                let failed = shard.log.failure().is_some();
                let mut state = shard.lock();
                let bounds = shard.log.bounds();
                let committed =
                    bounds.is_some_and(|bounds| bounds.high_watermark >= state.appended_end);
                if failed && !committed {
                    state
                        .coordinator
                        .append_failed(ErrorCode::KafkaStorageError);
                }
                shard.carry_out(&mut state, &[]);
                if failed || committed || bounds.is_none() {
                    state.pumping = false;
                    return;
                }
            }
        }));
    }

    /// Loads the coordinator from its partition, off the net threads, until that has succeeded
    /// or it has resigned.
    pub(super) fn load(self: &Arc<Self>) {
        // A new partition has nothing to replay: its groups are served at once.
        if self.log.bounds().is_some_and(|bounds| bounds.end == 0) {
            return self.take_over(GroupCoordinator::new(self.config.clone()), 0);
        }
        self.load_after(Duration::ZERO);
    }

    fn load_after(self: &Arc<Self>, mut delay: Duration) {
        if self.has_resigned() {
            return;
        }
        let shard = Arc::clone(self);
        drop(task::spawn("group-load", async move {
            loop {
                clock::sleep(delay).await;
                if shard.has_resigned() {
                    return;
                }
                match shard.try_load().await {
                    Ok((coordinator, end)) => return shard.take_over(coordinator, end),
                    // Newer metadata will end this coordinator, or the partition is yet to begin
                    // to lead.
                    Err(LoadError::NotLed) => {
                        delay = (delay * 2).clamp(DURABLE_POLL, RELOAD_AFTER);
                    }
                    Err(error) => {
                        tracing::error!(
                            partition = shard.log.index(), %error,
                            "the groups of a partition of __consumer_offsets cannot be loaded; trying again"
                        );
                        delay = RELOAD_AFTER;
                    }
                }
            }
        }));
    }

    /// Replays all that was in the log when this broker was elected: nobody else appends to it, so
    /// where it ends now is where it ended then, or after what this broker's coordinators wrote.
    async fn try_load(self: &Arc<Self>) -> Result<(GroupCoordinator, i64), LoadError> {
        self.log.wait_serving(COMMIT_WAIT).await;
        let end = self.log.bounds().ok_or(LoadError::NotLed)?.end;
        while self.log.bounds().ok_or(LoadError::NotLed)?.durable < end {
            if let Some(failure) = self.log.failure() {
                return Err(LoadError::Failed(failure));
            }
            clock::sleep(DURABLE_POLL).await;
        }
        {
            let mut state = self.lock();
            if !self.has_resigned() {
                state.coordinator = GroupCoordinator::new(self.config.clone());
            }
        }
        let shard = Arc::clone(self);
        let replay = move || {
            shard
                .log
                .replay(shard.config.clone(), end, || !shard.has_resigned())
        };
        let coordinator = task::blocking(replay)
            .await
            .map_err(|error| LoadError::Failed(error.to_string()))??;
        Ok((coordinator, end))
    }

    /// Begins to serve with what was loaded.
    fn take_over(self: &Arc<Self>, coordinator: GroupCoordinator, end: i64) {
        let mut state = self.lock();
        if self.has_resigned() {
            return;
        }
        state.coordinator = coordinator;
        state.appended_end = end;
        state.loaded = true;
        let records = state.coordinator.loaded(clock::steady_ms(), end);
        self.carry_out(&mut state, &records);
        // Answers wait for what was there at the election, even if nothing is added to it.
        if end > 0 {
            self.pump(&mut state);
        }
        let gone = gone(
            &state.coordinator.topics_with_offsets(),
            &self.controller.image(),
        );
        if !gone.is_empty() {
            let records = state.coordinator.topics_deleted(clock::steady_ms(), &gone);
            self.carry_out(&mut state, &records);
        }
    }
}

/// Topics that offsets are stored of and that no longer exist.
fn gone(stored: &BTreeSet<(String, Uuid)>, image: &Image) -> BTreeMap<String, Uuid> {
    let is_gone = |(name, id): &&(String, Uuid)| {
        image
            .topic(name)
            .is_none_or(|topic| !id.is_zero() && topic.id != *id)
    };
    stored.iter().filter(is_gone).cloned().collect()
}
