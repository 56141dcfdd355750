//! The shell around the group coordinators: one for each partition of `__consumer_offsets` that
//! this broker leads.
//!
//! A coordinator lives as long as a leader epoch: it is loaded when the metadata says that this
//! broker leads in a new one, and answers nobody from when it leads no more.
//!
//! A coordinator is a pure state machine. This appends its records to its partition, tells it when
//! they are committed, lets its deadlines pass, and carries its answers to who waits for them.

pub(crate) mod lag;
mod log;
mod shard;
#[cfg(test)]
mod tests;

use crate::broker::{Broker, Lifecycle};
use crate::partition::Partition;
use crate::topics;
use log::GroupLog;
use shard::Shard;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tidemark_config::BrokerSettings;
use tidemark_coordinator::{
    GroupConfig, GroupCoordinator, ListGroups, ListGroupsResponse, Request, Response, Token,
    partition_for,
};
use tidemark_env::{clock, task};
use tidemark_model::{
    CONSUMER_OFFSETS, Image, LeaderEpoch, Partition as PartitionState, Topic, TopicChange,
};
use tidemark_wire::{ErrorCode, Uuid};
use tokio::sync::{Notify, watch};

/// Without a deadline the timer task looks again after this.
const IDLE: Duration = Duration::from_secs(60);

/// All group coordinators of this broker.
#[derive(Default)]
pub(crate) struct Groups {
    shards: RwLock<BTreeMap<i32, Arc<Shard>>>,
    tokens: AtomicU64,
    /// A deadline came that is earlier than all before.
    sooner: Arc<Notify>,
}

impl Groups {
    /// Asks the coordinator of the group that `request` names, and waits for its answer.
    pub(crate) async fn ask(&self, broker: &Arc<Broker>, request: Request) -> Response {
        let image = broker.image();
        let Some(topic) = image.topic(CONSUMER_OFFSETS) else {
            return Response::refusal(&request, ErrorCode::CoordinatorNotAvailable);
        };
        let index = index_of(topic, group_of(&request));
        let Some(shard) = self.shard(index) else {
            let leads = topic
                .partition(index)
                .is_some_and(|partition| partition.leader == broker.id);
            let leads = leads && !broker.partitions.offline().contains_key(&(topic.id, index));
            let error = match leads && broker.lifecycle() == Lifecycle::Running {
                // The metadata is ahead of what is loaded.
                true => ErrorCode::CoordinatorLoadInProgress,
                false => ErrorCode::NotCoordinator,
            };
            return Response::refusal(&request, error);
        };
        let token = self.token();
        if !matches!(request, Request::OffsetCommit(_)) {
            return shard.ask(token, request).await;
        }
        let timeout_ms = broker.settings().offsets_commit_timeout_ms;
        let timeout = Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0));
        shard.ask_within(timeout, token, request).await
    }

    /// The partition of `__consumer_offsets` that `group` is kept in.
    pub(crate) fn partition_of<'a>(topic: &'a Topic, group: &str) -> Option<&'a PartitionState> {
        topic
            .partition(index_of(topic, group))
            .map(|state| &**state)
    }

    /// Whether the log that `group` is kept in is this broker's to serve and cannot be used.
    pub(crate) fn is_offline(&self, broker: &Broker, group: &str) -> bool {
        let image = broker.image();
        let offline = broker.partitions.offline();
        let kept_in = |topic: &Arc<Topic>| {
            offline.contains_key(&(topic.id, index_of(topic, group)))
                && Self::partition_of(topic, group).is_some_and(|state| state.leader == broker.id)
        };
        !offline.is_empty() && image.topic(CONSUMER_OFFSETS).is_some_and(kept_in)
    }

    /// Asks every coordinator for its groups.
    pub(crate) async fn list(&self, _: &Arc<Broker>, filter: ListGroups) -> ListGroupsResponse {
        let mut all = ListGroupsResponse {
            error: ErrorCode::None,
            groups: Vec::new(),
        };
        for shard in self.shards() {
            let request = Request::ListGroups(filter.clone());
            if let Response::ListGroups(mut listed) = shard.ask(self.token(), request).await {
                if listed.error != ErrorCode::None {
                    all.error = listed.error;
                }
                all.groups.append(&mut listed.groups);
            }
        }
        all
    }

    /// Makes sure that `__consumer_offsets` exists.
    pub(crate) async fn ensure_topic(&self, broker: &Arc<Broker>) -> Result<(), String> {
        if broker.image().topic(CONSUMER_OFFSETS).is_some() {
            return Ok(());
        }
        topics::create_internal(broker, CONSUMER_OFFSETS).await
    }

    /// Groups by state, over all coordinators.
    pub(crate) fn counts(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = GroupCoordinator::no_groups();
        for shard in self.shards() {
            shard.count_groups(&mut counts);
        }
        counts
    }

    fn token(&self) -> Token {
        Token(self.tokens.fetch_add(1, Ordering::Relaxed))
    }

    /// All coordinators, with no lock held.
    fn shards(&self) -> Vec<Arc<Shard>> {
        let shards = self.shards.read().unwrap_or_else(PoisonError::into_inner);
        shards.values().cloned().collect()
    }

    fn shard(&self, index: i32) -> Option<Arc<Shard>> {
        self.shards
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&index)
            .cloned()
    }

    /// Starts coordinators for partitions that this broker leads in a new epoch, ends those of
    /// partitions that it does not lead any more, and forgets the offsets of topics that went.
    pub(crate) fn apply(&self, broker: &Arc<Broker>, before: &Image, after: &Image) {
        let led = led_here(broker, after);
        let mut ended = Vec::new();
        {
            let mut shards = self.shards.write().unwrap_or_else(PoisonError::into_inner);
            shards.retain(|index, shard| {
                let stays = led
                    .get(index)
                    .is_some_and(|(partition, epoch)| shard.is_of(partition, *epoch));
                if !stays {
                    ended.push(Arc::clone(shard));
                }
                stays
            });
        }
        ended.iter().for_each(Shard::resign);
        if broker.lifecycle() != Lifecycle::Stopping {
            for (index, (partition, leader_epoch)) in led {
                self.start(broker, index, GroupLog::new(partition, leader_epoch));
            }
        }
        let deleted: BTreeMap<String, Uuid> = after
            .changes_since(before)
            .topics
            .iter()
            .filter_map(|change| match change {
                TopicChange::Deleted(topic) => Some((topic.name.to_string(), topic.id)),
                _ => None,
            })
            .collect();
        if !deleted.is_empty() {
            for shard in self.shards() {
                shard.topics_deleted(&deleted);
            }
        }
    }

    /// Starts the coordinator of a partition, if there is none.
    fn start(&self, broker: &Broker, index: i32, log: GroupLog) {
        let shard = {
            let mut shards = self.shards.write().unwrap_or_else(PoisonError::into_inner);
            let Entry::Vacant(vacant) = shards.entry(index) else {
                return;
            };
            let shard = Shard::new(
                log,
                Arc::clone(&broker.controller),
                config(&broker.settings()),
                Arc::clone(&self.sooner),
            );
            Arc::clone(vacant.insert(shard))
        };
        shard.load();
    }

    /// Lets deadlines pass until `stop`.
    pub(crate) async fn run_timers(&self, mut stop: watch::Receiver<bool>) {
        loop {
            let now_ms = clock::steady_ms();
            let mut next_ms: Option<i64> = None;
            for shard in self.shards() {
                if let Some(deadline_ms) = shard.tick(now_ms) {
                    next_ms = Some(next_ms.map_or(deadline_ms, |other| other.min(deadline_ms)));
                }
            }
            let wait = next_ms.map_or(IDLE, |next_ms| {
                // At least a millisecond: deadlines have that resolution.
                Duration::from_millis(u64::try_from(next_ms - now_ms).unwrap_or(0).max(1)).min(IDLE)
            });
            tokio::select! {
                () = clock::sleep(wait) => {}
                () = self.sooner.notified() => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    /// Stops answering: members look for another coordinator.
    pub(crate) fn resign(&self) {
        for shard in self.shards() {
            shard.resign();
        }
    }
}

/// The partitions of `__consumer_offsets` that this broker leads and holds, and in which epochs.
fn led_here(broker: &Broker, image: &Image) -> BTreeMap<i32, (Arc<Partition>, LeaderEpoch)> {
    let Some(topic) = image.topic(CONSUMER_OFFSETS) else {
        return BTreeMap::new();
    };
    let led = (0..).zip(&topic.partitions);
    led.filter(|(_, state)| state.leader == broker.id)
        .filter_map(|(index, state)| {
            let partition = broker.partitions.get(topic.id, index)?;
            Some((index, (partition, state.leader_epoch)))
        })
        .collect()
}

/// The partition of `__consumer_offsets` that a group is kept in.
fn index_of(topic: &Topic, group: &str) -> i32 {
    let count = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
    partition_for(group, count)
}

fn group_of(request: &Request) -> &str {
    match request {
        Request::JoinGroup(request) => &request.group_id,
        Request::SyncGroup(request) => &request.group_id,
        Request::Heartbeat(request) => &request.group_id,
        Request::LeaveGroup(request) => &request.group_id,
        Request::OffsetCommit(request) => &request.group_id,
        Request::OffsetFetch(request) => &request.group_id,
        Request::OffsetDelete(request) => &request.group_id,
        Request::DescribeGroups(request) => request.group_ids.first().map_or("", String::as_str),
        Request::DeleteGroups(request) => request.group_ids.first().map_or("", String::as_str),
        Request::ListGroups(_) => "",
    }
}

fn config(settings: &BrokerSettings) -> GroupConfig {
    GroupConfig {
        min_session_timeout_ms: settings.group_min_session_timeout_ms,
        max_session_timeout_ms: settings.group_max_session_timeout_ms,
        max_size: usize::try_from(settings.group_max_size).unwrap_or(usize::MAX),
        initial_rebalance_delay_ms: settings.group_initial_rebalance_delay_ms,
        offset_metadata_max_bytes: usize::try_from(settings.offset_metadata_max_bytes).unwrap_or(0),
        offsets_retention_ms: settings.offsets_retention_ms,
        offsets_retention_check_interval_ms: settings.offsets_retention_check_interval_ms,
        ..GroupConfig::default()
    }
}

/// Starts the task that lets deadlines pass.
pub(crate) fn start_timers(broker: &Arc<Broker>, stop: watch::Receiver<bool>) {
    let broker = Arc::clone(broker);
    drop(task::spawn("group-timers", async move {
        broker.groups.run_timers(stop).await;
    }));
}
