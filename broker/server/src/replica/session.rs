//! A follower's fetch session with one leader: which partitions are in it, what was asked of
//! each last, and so what the next request has to say.

use crate::partition::Partition;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use tidemark_model::{BrokerId, TopicPartition};
use tidemark_replication::{DurableReport, FetchPlan};
use tidemark_wire::TaggedFields;
use tidemark_wire::messages::FetchRequest;
use tidemark_wire::messages::fetch_request::{
    FetchPartition, FetchTopic, ForgottenTopic, ReplicaState,
};

/// Private tag of a partition in a fetch: what the follower has on its disk.
const DURABLE_TAG: u32 = 10_000;
const DURABLE_BYTES: usize = 28;

/// What a follower has on its disk, as a tagged field.
pub(crate) fn durable_tag(report: &DurableReport) -> TaggedFields {
    let mut bytes = BytesMut::with_capacity(DURABLE_BYTES);
    bytes.put_i64(report.durable_end);
    bytes.put_i32(report.leader_epoch);
    bytes.put_i64(report.broker_epoch);
    bytes.put_i64(report.generation);
    let mut fields = TaggedFields::default();
    fields.push(DURABLE_TAG, bytes.freeze());
    fields
}

/// The same read back, if it is there.
pub(crate) fn take_durable(fields: &TaggedFields) -> Option<DurableReport> {
    let mut fields = fields.as_slice().iter();
    let mut bytes: Bytes = fields.find(|(tag, _)| *tag == DURABLE_TAG)?.1.clone();
    (bytes.len() == DURABLE_BYTES).then(|| DurableReport {
        durable_end: bytes.get_i64(),
        leader_epoch: bytes.get_i32(),
        broker_epoch: bytes.get_i64(),
        generation: bytes.get_i64(),
    })
}

/// Private tag of a partition in an answer: the producers of the records below the offset at which
/// the follower's log is to begin.
const PRODUCERS_TAG: u32 = 10_001;

/// Producers for a follower, as a tagged field.
pub(crate) fn producers_tag(snapshot: Bytes) -> TaggedFields {
    let mut fields = TaggedFields::default();
    fields.push(PRODUCERS_TAG, snapshot);
    fields
}

/// The same read back, if it is there.
pub(super) fn take_producers(fields: &TaggedFields) -> Option<Bytes> {
    let mut fields = fields.as_slice().iter();
    Some(fields.find(|(tag, _)| *tag == PRODUCERS_TAG)?.1.clone())
}

/// A partition that is asked for.
pub(super) struct Asked {
    pub(super) partition: Weak<Partition>,
    pub(super) slot: u32,
    pub(super) plan: FetchPlan,
}

/// The settings that requests are made by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) broker: (BrokerId, i64),
    pub(super) max_wait_ms: i32,
    pub(super) min_bytes: i32,
    pub(super) max_bytes: i32,
    pub(super) partition_max_bytes: i32,
}

/// One session.
#[derive(Default)]
pub(super) struct Session {
    id: i32,
    epoch: i32,
    asked: HashMap<TopicPartition, Asked>,
    /// Which partition was seen at a slot.
    slots: HashMap<u32, TopicPartition>,
    changed: BTreeMap<TopicPartition, ()>,
    forgotten: BTreeMap<TopicPartition, ()>,
}

impl Session {
    /// Takes a partition up, or what is to be asked of it next; if that is the same, only `again`
    /// has it said.
    pub(super) fn want(
        &mut self,
        at: TopicPartition,
        (slot, partition): (u32, &Arc<Partition>),
        plan: FetchPlan,
        again: bool,
    ) {
        if let Some(before) = self.slots.insert(slot, at)
            && before != at
        {
            self.drop_partition(before);
        }
        let same = self.asked.get(&at).is_some_and(|asked| {
            !again && asked.plan == plan && asked.slot == slot && !self.forgotten.contains_key(&at)
        });
        if same {
            return;
        }
        let partition = Arc::downgrade(partition);
        self.asked.insert(
            at,
            Asked {
                partition,
                slot,
                plan,
            },
        );
        self.forgotten.remove(&at);
        self.changed.insert(at, ());
    }

    /// Whatever was at a slot is not asked for any more.
    pub(super) fn forget(&mut self, slot: u32) {
        if let Some(at) = self.slots.remove(&slot) {
            self.drop_partition(at);
        }
    }

    fn drop_partition(&mut self, at: TopicPartition) {
        if self.asked.remove(&at).is_some() {
            self.changed.remove(&at);
            self.forgotten.insert(at, ());
        }
    }

    /// What was asked of a partition.
    pub(super) fn asked(&self, at: TopicPartition) -> Option<&Asked> {
        self.asked.get(&at)
    }

    /// Whether nothing is asked for.
    pub(super) fn is_empty(&self) -> bool {
        self.asked.is_empty()
    }

    /// The next request: all of it in the first one, later what changed.
    pub(super) fn request(&mut self, limits: Limits) -> FetchRequest {
        let mut topics: Vec<FetchTopic> = Vec::new();
        for at in std::mem::take(&mut self.changed).into_keys() {
            let Some(asked) = self.asked.get(&at) else {
                continue;
            };
            let fetch = &asked.plan.fetch;
            let partition = FetchPartition {
                partition: at.partition,
                current_leader_epoch: fetch.durable.leader_epoch,
                fetch_offset: fetch.fetch_offset,
                last_fetched_epoch: fetch.last_fetched_epoch.unwrap_or(-1),
                log_start_offset: fetch.log_start,
                partition_max_bytes: limits.partition_max_bytes,
                high_watermark: asked.plan.high_watermark,
                unknown_tagged_fields: durable_tag(&fetch.durable),
                ..Default::default()
            };
            match topics
                .last_mut()
                .filter(|last| last.topic_id == at.topic_id)
            {
                Some(topic) => topic.partitions.push(partition),
                None => topics.push(FetchTopic {
                    topic_id: at.topic_id,
                    partitions: vec![partition],
                    ..Default::default()
                }),
            }
        }
        let mut forgotten: Vec<ForgottenTopic> = Vec::new();
        for at in std::mem::take(&mut self.forgotten).into_keys() {
            if self.epoch == 0 || self.asked.contains_key(&at) {
                continue;
            }
            match forgotten
                .last_mut()
                .filter(|last| last.topic_id == at.topic_id)
            {
                Some(topic) => topic.partitions.push(at.partition),
                None => forgotten.push(ForgottenTopic {
                    topic_id: at.topic_id,
                    partitions: vec![at.partition],
                    ..Default::default()
                }),
            }
        }
        FetchRequest {
            replica_state: ReplicaState {
                replica_id: limits.broker.0,
                replica_epoch: limits.broker.1,
                ..Default::default()
            },
            max_wait_ms: limits.max_wait_ms,
            min_bytes: limits.min_bytes,
            max_bytes: limits.max_bytes,
            session_id: self.id,
            session_epoch: self.epoch,
            topics,
            forgotten_topics_data: forgotten,
            ..Default::default()
        }
    }

    /// The leader has answered: the session goes on.
    pub(super) fn answered(&mut self, id: i32) {
        if self.epoch == 0 {
            self.id = id;
        }
        self.epoch = match (self.id, self.epoch) {
            // The leader keeps no session: all of it is said again.
            (0, _) => 0,
            (_, i32::MAX) => 1,
            (_, epoch) => epoch + 1,
        };
        if self.id == 0 {
            self.changed = self.asked.keys().map(|at| (*at, ())).collect();
        }
    }
}
