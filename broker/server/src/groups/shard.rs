//! One coordinator and its partition.

use crate::partition::{Acks, Partition};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tidemark_coordinator::{GroupConfig, GroupCoordinator, LogRecord, Request, Response, Token};
use tidemark_env::{clock, task};
use tidemark_log::{AppendError, ReadError};
use tidemark_model::Image;
use tidemark_quorum::Controller;
use tidemark_records::{Batch, BatchBuilder, BatchError, BatchOptions, Limits, RecordRef};
use tidemark_wire::{ErrorCode, Uuid};
use tokio::sync::{Notify, oneshot};

/// Read at once while loading.
const LOAD_BYTES: usize = 1 << 20;
/// A coordinator whose log failed is loaded again after this.
const RELOAD_AFTER: Duration = Duration::from_secs(1);
/// How long the pump waits for the high watermark before it looks whether the log has failed.
const COMMIT_WAIT: Duration = Duration::from_secs(5);

struct State {
    coordinator: GroupCoordinator,
    waiting: HashMap<Token, oneshot::Sender<Response>>,
    /// Offset after the last record that was appended.
    appended_end: i64,
    /// Whether a task is waiting for the high watermark on behalf of the coordinator.
    pumping: bool,
    /// The earliest deadline that the timer task knows of.
    known_deadline_ms: i64,
    resigned: bool,
    /// Whether the coordinator was loaded; one that is not active any more is loaded again.
    loaded: bool,
}

/// The coordinator of one partition of `__consumer_offsets`.
pub(super) struct Shard {
    partition: Arc<Partition>,
    controller: Arc<Controller>,
    config: GroupConfig,
    state: Mutex<State>,
    sooner: Arc<Notify>,
}

/// Why a coordinator could not be loaded.
#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error("the partition was closed")]
    Closed,
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Batch(#[from] BatchError),
    #[error(transparent)]
    Replay(#[from] tidemark_coordinator::ReplayError),
}

impl Shard {
    pub(super) fn new(
        partition: Arc<Partition>,
        controller: Arc<Controller>,
        config: GroupConfig,
        sooner: Arc<Notify>,
    ) -> Arc<Shard> {
        let state = State {
            coordinator: GroupCoordinator::new(config.clone()),
            waiting: HashMap::new(),
            appended_end: 0,
            pumping: false,
            known_deadline_ms: i64::MAX,
            resigned: false,
            loaded: false,
        };
        Arc::new(Shard {
            partition,
            controller,
            config,
            state: Mutex::new(state),
            sooner,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_of(&self, partition: &Arc<Partition>) -> bool {
        Arc::ptr_eq(&self.partition, partition)
    }

    pub(super) fn group_counts(&self) -> BTreeMap<&'static str, usize> {
        self.lock().coordinator.group_counts()
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

    pub(super) fn resign(self: &Arc<Self>) {
        let mut state = self.lock();
        state.resigned = true;
        state.coordinator.resign();
        self.carry_out(&mut state, &[]);
    }

    /// Appends records, tells the coordinator, gives out answers, and minds the next deadline.
    fn carry_out(self: &Arc<Self>, state: &mut State, records: &[LogRecord]) {
        if !records.is_empty() {
            match self.append(records) {
                Ok(last_offset) => {
                    state.appended_end = last_offset + 1;
                    state.coordinator.appended(last_offset);
                    self.pump(state);
                }
                Err(error) => {
                    tracing::error!(partition = self.partition.index, %error, "group state could not be written");
                    state.coordinator.append_failed(error);
                }
            }
        }
        if let Ok(bounds) = self.partition.bounds() {
            state.coordinator.committed(bounds.high_watermark);
        }
        if state.loaded && !state.coordinator.is_active() {
            state.loaded = false;
            self.reload_later(state);
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

    fn append(&self, records: &[LogRecord]) -> Result<i64, ErrorCode> {
        let now_ms = clock::now_ms();
        let mut builder = BatchBuilder::new(BatchOptions::default());
        for record in records {
            let record = RecordRef {
                timestamp_ms: now_ms,
                key: Some(&record.key),
                value: record.value.as_deref(),
                headers: &[],
            };
            builder
                .append(&record)
                .map_err(|_| ErrorCode::MessageTooLarge)?;
        }
        let mut bytes = builder.build().map_err(|_| ErrorCode::UnknownServerError)?;
        let batch = Batch::split_first(&mut bytes)
            .ok()
            .flatten()
            .ok_or(ErrorCode::UnknownServerError)?;
        match self.partition.append(&batch, now_ms) {
            Err(_) => Err(ErrorCode::NotLeaderOrFollower),
            Ok(Ok(appended)) => Ok(appended.last_offset),
            Ok(Err(AppendError::TooLarge { .. })) => Err(ErrorCode::MessageTooLarge),
            Ok(Err(_)) => Err(ErrorCode::KafkaStorageError),
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
                let acks = Arc::new(Acks::new(1));
                shard.partition.when_committed(target, &acks);
                acks.wait(COMMIT_WAIT).await;
                let failed =
                    shard.partition.failure().is_some() || shard.partition.bounds().is_err();
                let mut state = shard.lock();
                let committed = shard
                    .partition
                    .bounds()
                    .map_or(0, |bounds| bounds.high_watermark);
                if failed && committed < state.appended_end {
                    state
                        .coordinator
                        .append_failed(ErrorCode::KafkaStorageError);
                }
                shard.carry_out(&mut state, &[]);
                if failed || committed >= state.appended_end {
                    state.pumping = false;
                    return;
                }
            }
        }));
    }

    /// Loads the coordinator from its partition, off the net threads.
    pub(super) fn load(self: &Arc<Self>) {
        // A new partition has nothing to replay: its groups are served at once.
        if self.partition.bounds().is_ok_and(|bounds| bounds.end == 0) {
            return self.take_over(GroupCoordinator::new(self.config.clone()), 0);
        }
        let shard = Arc::clone(self);
        drop(task::spawn("group-load", async move {
            let loading = Arc::clone(&shard);
            let loaded = task::blocking(move || loading.replay()).await;
            match loaded {
                Ok(Ok((coordinator, end))) => shard.take_over(coordinator, end),
                Ok(Err(LoadError::Closed)) => {}
                Ok(Err(error)) => {
                    tracing::error!(
                        partition = shard.partition.index, %error,
                        "the groups of a partition of __consumer_offsets cannot be loaded; trying again"
                    );
                    let mut state = shard.lock();
                    shard.reload_later(&mut state);
                }
                Err(error) => tracing::error!(%error, "loading groups ended early"),
            }
        }));
    }

    /// Begins to serve with what was loaded.
    fn take_over(self: &Arc<Self>, coordinator: GroupCoordinator, end: i64) {
        let mut state = self.lock();
        if state.resigned {
            return;
        }
        state.coordinator = coordinator;
        state.appended_end = end;
        state.loaded = true;
        let records = state.coordinator.loaded(clock::steady_ms(), end);
        self.carry_out(&mut state, &records);
        let gone = gone(
            &state.coordinator.topics_with_offsets(),
            &self.controller.image(),
        );
        if !gone.is_empty() {
            let records = state.coordinator.topics_deleted(clock::steady_ms(), &gone);
            self.carry_out(&mut state, &records);
        }
    }

    fn reload_later(self: &Arc<Self>, state: &mut State) {
        if state.resigned || self.partition.bounds().is_err() {
            return;
        }
        let shard = Arc::clone(self);
        drop(task::spawn("group-reload", async move {
            clock::sleep(RELOAD_AFTER).await;
            shard.load();
        }));
    }

    /// Replays the whole partition into a new coordinator. Blocks.
    fn replay(&self) -> Result<(GroupCoordinator, i64), LoadError> {
        let mut coordinator = GroupCoordinator::new(self.config.clone());
        let bounds = self.partition.bounds().map_err(|_| LoadError::Closed)?;
        let mut at = bounds.log_start;
        while at < bounds.end {
            let plan = self
                .partition
                .with_log(|log, _| log.read_plan(at, LOAD_BYTES, bounds.end, true));
            let read = plan.map_err(|_| LoadError::Closed)??.load()?;
            if read.next_offset <= at {
                break;
            }
            let mut bytes = read.records;
            while let Some(batch) = Batch::split_first(&mut bytes)? {
                if batch.header.is_control() {
                    continue;
                }
                for record in batch.records(Limits::default())? {
                    let record = record?;
                    if let Some(key) = &record.key
                        && record.offset >= at
                    {
                        coordinator.replay(record.offset, key, record.value.as_ref())?;
                    }
                }
            }
            at = read.next_offset;
        }
        Ok((coordinator, bounds.end))
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
