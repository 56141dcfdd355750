//! Fetching from one leader all that this broker follows it in.
//!
//! Partitions mark themselves on a ready list when what they would ask has changed, so a request
//! costs in proportion to that.

use super::session::{Limits, Session, take_producers};
use super::{Side, address_of, lock};
use crate::broker::Broker;
use crate::fetch::{Signal, Slot};
use crate::partition::{Partition, RunOfRecords};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tidemark_client::{ClientError, Connection, ConnectionOptions};
use tidemark_env::clock;
use tidemark_env::clock::Instant;
use tidemark_log::{AppendError, ProducersSnapshot};
use tidemark_model::{BrokerId, LeaderEpoch, Offset, TopicPartition};
use tidemark_records::{Batch, BatchError};
use tidemark_replication::{
    Diverging, DurableReport, FetchAnswer, FetchOutcome, FetchPlan, Identity,
};
use tidemark_wire::messages::fetch_response::PartitionData;
use tidemark_wire::messages::{FetchRequest, FetchResponse};
use tidemark_wire::{ErrorCode, Records};
use tokio::sync::Notify;

/// The first pause after a partition's error; it doubles up to `replica.fetch.backoff.ms`.
const FIRST_BACKOFF: Duration = Duration::from_millis(20);

/// An answer with less than this is made durable before the leader is asked again, so that one
/// request asks and acknowledges; behind a larger one there is more, which should be on its way.
const SMALL_BYTES: usize = 64 << 10;
/// Records at the leader do not wait longer than this for a disk here.
const SETTLE: Duration = Duration::from_millis(2);

/// What the leader is to be told on the other connection.
#[derive(Default)]
pub(super) struct Acks {
    pub(super) reports: BTreeMap<TopicPartition, DurableReport>,
    pub(super) wants_to_fetch: bool,
    /// The next fetch is held back until these are durable, and acknowledges them.
    settling: BTreeMap<TopicPartition, Offset>,
}

#[derive(Default)]
struct Members {
    at: BTreeMap<Slot, (TopicPartition, Weak<Partition>)>,
    free: Vec<Slot>,
    /// Those of which the same is to be asked again.
    again: BTreeSet<Slot>,
    /// A request is being made, or waits at the leader.
    parked: bool,
}

/// What this broker follows one leader in.
pub(crate) struct Fetcher {
    me: Identity,
    pub(super) leader: BrokerId,
    /// Slots of which something else would be asked than was.
    pub(crate) signal: Arc<Signal>,
    members: Mutex<Members>,
    pub(super) acks: Mutex<Acks>,
    /// There is something to tell.
    pub(super) acks_due: Arc<Signal>,
    /// The last partition has left.
    deserted: Notify,
}

/// Why records of a leader were not taken.
#[derive(Debug, thiserror::Error)]
enum Unfit {
    #[error(transparent)]
    Batch(#[from] BatchError),
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error("the leader answers with {0}")]
    Refused(ErrorCode),
    #[error("what the leader says of the producers: {0}")]
    Producers(String),
}

/// A partition that is not asked for until a time.
struct Paused {
    until: Instant,
    pause: Duration,
    /// The leader epoch that it was asked in: another one is tried at once.
    epoch: LeaderEpoch,
}

impl Fetcher {
    pub(super) fn new(me: Identity, leader: BrokerId) -> Arc<Fetcher> {
        Arc::new(Fetcher {
            me,
            leader,
            signal: Signal::of_nobody_yet(),
            members: Mutex::default(),
            acks: Mutex::default(),
            acks_due: Signal::of_nobody_yet(),
            deserted: Notify::new(),
        })
    }

    /// A partition follows this leader from now on; gives its place.
    pub(crate) fn add(&self, partition: &Arc<Partition>, at: TopicPartition) -> Slot {
        let slot = {
            let mut members = lock(&self.members);
            let next = Slot::try_from(members.at.len() + members.free.len()).unwrap_or(Slot::MAX);
            let slot = members.free.pop().unwrap_or(next);
            members.at.insert(slot, (at, Arc::downgrade(partition)));
            slot
        };
        // First the mark: the answer that the leader is hurried for may come before it, and the
        // next request would wait without this partition.
        self.signal.mark(slot);
        if lock(&self.members).parked {
            lock(&self.acks).wants_to_fetch = true;
            self.acks_due.mark(0);
        }
        slot
    }

    /// The partition at a place does not follow any more.
    pub(crate) fn forget(&self, slot: Slot) {
        {
            let mut members = lock(&self.members);
            if let Some((at, _)) = members.at.remove(&slot) {
                members.free.push(slot);
                lock(&self.acks).reports.remove(&at);
            }
            if members.at.is_empty() {
                self.deserted.notify_waiters();
            }
        }
        self.signal.mark(slot);
    }

    /// Has the leader told what is durable here.
    pub(crate) fn acknowledge(&self, at: TopicPartition, report: DurableReport) {
        let mut acks = lock(&self.acks);
        acks.reports.insert(at, report);
        if acks.settling.is_empty() {
            drop(acks);
            self.acks_due.mark(0);
            return;
        }
        let end = acks.settling.get(&at);
        if end.is_some_and(|end| report.durable_end >= *end) {
            acks.settling.remove(&at);
        }
        if acks.settling.is_empty() {
            drop(acks);
            self.signal.wake_waiter();
        }
    }

    /// Waits for a moment until what the last answer brought is durable here: the next fetch tells
    /// the leader so, and what has gathered there meanwhile comes in one answer.
    async fn settle(&self, due: &BTreeSet<Slot>) {
        let mut ends: BTreeMap<_, _> = due
            .iter()
            .filter_map(|slot| {
                let (at, partition) = self.member(*slot)?;
                let fetch = partition.next_fetch(self.leader)?.0.fetch;
                (fetch.durable.durable_end < fetch.fetch_offset).then_some((at, fetch.fetch_offset))
            })
            .collect();
        {
            let mut acks = lock(&self.acks);
            // Some may have become durable since they were asked.
            ends.retain(|at, end| {
                let report = acks.reports.get(at);
                report.is_none_or(|report| report.durable_end < *end)
            });
            if ends.is_empty() {
                return;
            }
            acks.settling = ends;
        }
        let settled = async {
            while !lock(&self.acks).settling.is_empty() {
                self.signal.changed().await;
            }
        };
        drop(clock::timeout(SETTLE, settled).await);
        lock(&self.acks).settling.clear();
    }

    /// What `plan` says need not be said again. Of what no fetch says the leader is told on the
    /// other connection.
    fn says(&self, at: TopicPartition, plan: &FetchPlan) {
        let reports = &mut lock(&self.acks).reports;
        if reports.get(&at) == Some(&plan.fetch.durable) {
            reports.remove(&at);
        }
    }

    /// Has the leader hear of a partition though nothing has changed: it may have to be told
    /// anew that this follower is there.
    pub(crate) fn ask_again(&self, slot: Slot) {
        lock(&self.members).again.insert(slot);
        self.signal.mark(slot);
    }

    fn member(&self, slot: Slot) -> Option<(TopicPartition, Arc<Partition>)> {
        let members = lock(&self.members);
        let (at, partition) = members.at.get(&slot)?;
        Some((*at, partition.upgrade()?))
    }

    fn is_idle(&self) -> bool {
        lock(&self.members).at.is_empty()
    }

    fn slots(&self) -> BTreeSet<Slot> {
        lock(&self.members).at.keys().copied().collect()
    }

    /// How long an answer may take.
    pub(super) fn timeout(&self, broker: &Broker) -> Duration {
        let settings = broker.settings();
        let ms = settings.replica_socket_timeout_ms;
        Duration::from_millis(u64::try_from(ms).unwrap_or(0))
    }

    /// A connection to the leader, whose client id ends with what it is for.
    pub(super) async fn connect(
        &self,
        broker: &Broker,
        purpose: &str,
    ) -> Result<Connection, ClientError> {
        let address = address_of(broker, self.leader)
            .ok_or_else(|| ClientError::Invalid(format!("no address of broker {}", self.leader)))?;
        let options = ConnectionOptions {
            client_id: format!("broker-{}-{purpose}", self.me.broker_id),
            connect_timeout: Duration::from_millis(
                u64::try_from(broker.settings().connection_setup_timeout_ms).unwrap_or(0),
            ),
            tls: broker.node.tls.to_brokers(),
            ..ConnectionOptions::default()
        };
        Connection::connect(&address, &options).await
    }

    fn limits(&self, broker: &Broker) -> Limits {
        let settings = broker.settings();
        Limits {
            broker: (self.me.broker_id, self.me.broker_epoch),
            max_wait_ms: settings.replica_fetch_wait_max_ms,
            min_bytes: settings.replica_fetch_min_bytes,
            max_bytes: settings.replica_fetch_response_max_bytes,
            partition_max_bytes: settings.replica_fetch_max_bytes,
        }
    }

    /// Fetches for ever.
    pub(super) async fn run(&self, broker: &Arc<Broker>) {
        self.signal.settle();
        let mut pause = FIRST_BACKOFF;
        loop {
            // A place that was marked when its partition left would not wake this task when the next
            // partition gets it. Only then the look whether one has: it may have come before.
            drop(self.signal.take());
            if self.is_idle() {
                self.signal.changed().await;
                continue;
            }
            if let Err(error) = self.follow(broker, &mut pause).await {
                broker.metrics.failed_fetches.inc();
                tracing::debug!(leader = self.leader, %error, "the leader cannot be fetched from");
            }
            clock::sleep(pause).await;
            pause = self.longer(broker, pause);
        }
    }

    fn longer(&self, broker: &Broker, pause: Duration) -> Duration {
        let most = u64::try_from(broker.settings().replica_fetch_backoff_ms).unwrap_or(0);
        (pause * 2)
            .min(Duration::from_millis(most))
            .max(Duration::from_millis(1))
    }

    /// Fetches over one connection until it fails or nothing is left to follow.
    async fn follow(&self, broker: &Arc<Broker>, pause: &mut Duration) -> Result<(), ClientError> {
        let timeout = self.timeout(broker);
        let connecting = self.unless_deserted(self.connect(broker, "fetcher"));
        let Some(connection) = connecting.await.transpose()? else {
            return Ok(());
        };
        let version = connection.version_of::<FetchRequest>(i16::MAX)?;
        let mut session = Session::default();
        let mut paused: BTreeMap<Slot, Paused> = BTreeMap::new();
        let mut due = self.slots();
        loop {
            // From here on who joins has the leader told, as it may be too late for this request.
            lock(&self.members).parked = true;
            due.extend(self.signal.take());
            let now = clock::monotonic();
            let again = std::mem::take(&mut lock(&self.members).again);
            for slot in std::mem::take(&mut due) {
                let wanted = self.member(slot).and_then(|(at, partition)| {
                    let (plan, throttled) = partition.next_fetch(self.leader)?;
                    if throttled {
                        throttle(broker, &mut paused, (slot, &plan), now);
                    }
                    Some((at, partition, plan))
                });
                let waits = |plan: &FetchPlan| {
                    let epoch = plan.fetch.durable.leader_epoch;
                    let paused = paused.get(&slot);
                    paused.is_some_and(|paused| paused.until > now && paused.epoch == epoch)
                };
                match wanted {
                    Some((at, partition, plan)) if !waits(&plan) => {
                        self.says(at, &plan);
                        session.want(at, (slot, &partition), plan, again.contains(&slot));
                    }
                    Some(_) => session.forget(slot),
                    None => {
                        // A pause that is over and of nothing would be waited for without end.
                        paused.remove(&slot);
                        session.forget(slot);
                    }
                }
            }
            if !lock(&self.acks).reports.is_empty() {
                self.acks_due.mark(0);
            }
            if session.is_empty() {
                if self.is_idle() {
                    return Ok(());
                }
                self.signal_or_pause(&mut paused, &mut due).await;
                continue;
            }
            let mut limits = self.limits(broker);
            // Those that pause are asked for again when their pause is over, not when this request
            // is answered.
            let ahead = paused
                .values()
                .filter_map(|p| p.until.checked_duration_since(now));
            if let Some(next) = ahead.filter(|left| !left.is_zero()).min() {
                let left_ms = i32::try_from(next.as_millis()).unwrap_or(i32::MAX);
                limits.max_wait_ms = limits.max_wait_ms.min(left_ms);
            }
            let request = session.request(limits);
            let asked = connection.send_at(&request, version, timeout);
            let answered = self.unless_deserted(asked).await;
            lock(&self.members).parked = false;
            let Some(answer) = answered.transpose()? else {
                return Ok(());
            };
            ClientError::check(answer.error_code, None, || "a follower's fetch".to_owned())?;
            session.answered(answer.session_id);
            *pause = FIRST_BACKOFF;
            let taken_bytes = self
                .take(broker, &session, answer, &mut paused, &mut due)
                .await;
            if (1..SMALL_BYTES).contains(&taken_bytes) {
                self.settle(&due).await;
            }
            let now = clock::monotonic();
            let over = paused.iter().filter(|(_, paused)| paused.until <= now);
            due.extend(over.map(|(slot, _)| *slot));
        }
    }

    /// What `asked` gives, unless the last partition leaves before: a leader that is gone, and
    /// may never answer, does not hold up the next one of the same number.
    pub(super) async fn unless_deserted<T>(&self, asked: impl Future<Output = T>) -> Option<T> {
        let mut deserted = pin!(self.deserted.notified());
        deserted.as_mut().enable();
        if self.is_idle() {
            return None;
        }
        tokio::select! {
            given = asked => Some(given),
            () = deserted => None,
        }
    }

    /// Nothing can be asked for now: waits until something can.
    async fn signal_or_pause(&self, paused: &mut BTreeMap<Slot, Paused>, due: &mut BTreeSet<Slot>) {
        match paused.iter().min_by_key(|(_, paused)| paused.until) {
            None => self.signal.changed().await,
            Some((slot, next)) => {
                tokio::select! {
                    () = self.signal.changed() => {}
                    () = clock::sleep_until(next.until) => {
                        due.insert(*slot);
                        let slot = *slot;
                        if let Some(paused) = paused.get_mut(&slot) {
                            paused.until = clock::monotonic();
                        }
                    }
                }
            }
        }
    }

    /// Hands an answer to the partitions; gives the bytes of its records.
    async fn take(
        &self,
        broker: &Arc<Broker>,
        session: &Session,
        answer: FetchResponse,
        paused: &mut BTreeMap<Slot, Paused>,
        due: &mut BTreeSet<Slot>,
    ) -> usize {
        let mut taken_bytes = 0;
        for topic in answer.responses {
            for data in topic.partitions {
                let at = TopicPartition {
                    topic_id: topic.topic_id,
                    partition: data.partition_index,
                };
                let Some(asked) = session.asked(at) else {
                    continue;
                };
                due.insert(asked.slot);
                let Some(partition) = asked.partition.upgrade() else {
                    continue;
                };
                let (slot, plan) = (asked.slot, asked.plan);
                let bytes = data.records.as_ref().map_or(0, Records::len);
                taken_bytes += bytes;
                match hand_over(&partition, &plan, data).await {
                    Ok(throttled) => {
                        paused.remove(&slot);
                        if throttled {
                            let replicas = broker.partitions.replicas();
                            replicas.count_throttled(Side::Follower, &broker.settings(), bytes);
                        }
                    }
                    Err(error) => {
                        broker.metrics.failed_fetches.inc();
                        tracing::debug!(
                            leader = self.leader, topic = %partition.topic, partition = partition.index,
                            %error, "a follower could not go on"
                        );
                        let pause = paused
                            .get(&slot)
                            .map_or(FIRST_BACKOFF, |paused| self.longer(broker, paused.pause));
                        let until = clock::monotonic() + pause;
                        let epoch = plan.fetch.durable.leader_epoch;
                        let now = Paused {
                            until,
                            pause,
                            epoch,
                        };
                        paused.insert(slot, now);
                    }
                }
            }
        }
        taken_bytes
    }
}

/// Has a throttled partition wait while the replication rate is used up.
fn throttle(
    broker: &Broker,
    paused: &mut BTreeMap<Slot, Paused>,
    (slot, plan): (Slot, &FetchPlan),
    now: Instant,
) {
    let replicas = broker.partitions.replicas();
    if let Some(wait) = replicas.throttled_for(Side::Follower, &broker.settings())
        && paused.get(&slot).is_none_or(|paused| paused.until <= now)
    {
        let now = Paused {
            until: now + wait,
            pause: FIRST_BACKOFF,
            epoch: plan.fetch.durable.leader_epoch,
        };
        paused.insert(slot, now);
    }
}

/// Hands an answer to its partition; gives whether it counts against the replication rate.
async fn hand_over(
    partition: &Arc<Partition>,
    plan: &FetchPlan,
    data: PartitionData,
) -> Result<bool, Unfit> {
    let outcome = match ErrorCode::from_code(data.error_code) {
        ErrorCode::None if data.diverging_epoch.epoch >= 0 => FetchOutcome::Diverging(Diverging {
            epoch: data.diverging_epoch.epoch,
            end_offset: data.diverging_epoch.end_offset,
        }),
        ErrorCode::None => FetchOutcome::Records {
            high_watermark: data.high_watermark,
            log_start: data.log_start_offset,
        },
        // To a follower the last stable offset says where the log ends.
        ErrorCode::OffsetOutOfRange => FetchOutcome::OutOfRange {
            log_start: data.log_start_offset,
            end: data.last_stable_offset,
        },
        error => return Err(Unfit::Refused(error)),
    };
    let producers = take_producers(&data.unknown_tagged_fields)
        .map(ProducersSnapshot::parse)
        .transpose()
        .map_err(Unfit::Producers)?;
    let records = data
        .records
        .and_then(Records::into_bytes)
        .unwrap_or_default();
    let runs = check(records)?;
    if !runs.is_empty() {
        // No memory for it: nothing more is fetched until there is some.
        partition.dir().wal.admit().await;
    }
    let answer = FetchAnswer {
        leader_epoch: plan.fetch.durable.leader_epoch,
        fetch_offset: plan.fetch.fetch_offset,
        generation: plan.fetch.durable.generation,
        outcome,
    };
    Ok(partition.fetch_answered(answer, &runs, producers)?)
}

/// Batches are appended together up to this size, so that none is larger than a segment.
const RUN_BYTES: usize = 512 << 10;

/// Checks batches, and parts them by leader epochs.
fn check(mut bytes: Bytes) -> Result<Vec<RunOfRecords>, BatchError> {
    let whole = bytes.clone();
    let mut runs: Vec<RunOfRecords> = Vec::new();
    let (mut begin, mut at) = (0, 0);
    let mut epoch = None;
    while let Some(batch) = Batch::split_first(&mut bytes)? {
        batch.verify_crc()?;
        let size = batch.bytes.len();
        let of = batch.header.partition_leader_epoch;
        if let Some(running) = epoch
            && (running != of || at - begin + size > RUN_BYTES)
        {
            runs.push(RunOfRecords {
                epoch: running,
                bytes: whole.slice(begin..at),
            });
            begin = at;
        }
        epoch = Some(of);
        at += size;
    }
    if let Some(epoch) = epoch {
        let bytes = whole.slice(begin..at);
        runs.push(RunOfRecords { epoch, bytes });
    }
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use crate::testing::{ELSEWHERE, HERE, PATIENCE, Two};
    use tidemark_env::{clock, net};
    use tokio::io::AsyncReadExt;

    /// Or a follower that waits for a machine that is gone would not ask the next one, which may
    /// have the same number and another address, until the wait is over.
    #[tokio::test]
    async fn a_leader_that_never_answers_is_not_waited_for_once_it_leads_nothing() {
        let silent = net::listen("127.0.0.1:0").await.unwrap();
        let port = silent.local_addr().unwrap().port();
        let endless = [("socket.connection.setup.timeout.ms", "600000")];
        let two = Two::start_beside(Some(port), &endless).await;
        two.topic("t", 1, vec![ELSEWHERE, HERE]).await;
        let (mut asks, _) = clock::timeout(PATIENCE, silent.accept())
            .await
            .expect("it connects")
            .unwrap();
        let mut asked = Vec::new();
        let all = async {
            two.heartbeat_elsewhere(true).await;
            asks.read_to_end(&mut asked).await
        };
        let ended = clock::timeout(PATIENCE, all).await;
        ended.expect("it is given up").unwrap();
        let asked = String::from_utf8_lossy(&asked);
        assert!(asked.contains("broker-1-fetcher"), "{asked}");
        two.server.shutdown().await;
    }
}
