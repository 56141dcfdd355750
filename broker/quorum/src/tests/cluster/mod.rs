//! The controller of a cluster of many brokers: each rule by itself, and all of them
//! against a model of the brokers' logs.

mod isr;
mod moving;
mod operations;
mod placement;
mod random;
mod registration;
mod sessions;

use tidemark_config::alter::{Change, Operation};
use tidemark_model::{
    BrokerEpoch, BrokerId, Image, MetadataRecord, NO_LEADER, Partition, Rejected, TopicId,
    TopicPartition, decode_batch, encode_batch,
};
use tidemark_wire::{ErrorCode, Uuid};

use super::{context, registration, settings};
use crate::decide::*;

const SESSION_MS: i64 = 1000;

/// A cluster as its controller sees it.
#[derive(Clone)]
struct Cluster {
    image: Image,
    /// Folds the bytes of the same batches.
    other_node: Image,
    sessions: Sessions,
    now_ms: i64,
}

fn cluster_id() -> Uuid {
    Uuid([77; 16])
}

fn directory(n: u16) -> Uuid {
    let mut id = [3; 16];
    id[..2].copy_from_slice(&n.to_be_bytes());
    Uuid(id)
}

fn incarnation(n: u16) -> Uuid {
    let mut id = [4; 16];
    id[..2].copy_from_slice(&n.to_be_bytes());
    Uuid(id)
}

/// Broker `id`, process `process`, on one disk that was last used in `epoch`.
fn join_of(id: BrokerId, process: u16, disk: u16, epoch: Option<BrokerEpoch>) -> Join {
    let base = registration(id, 1);
    Join {
        registration: Registration {
            incarnation_id: incarnation(process),
            directories: vec![directory(disk)],
            ..base
        },
        cluster_id: cluster_id(),
        recorded: vec![RecordedDirectory {
            directory_id: directory(disk),
            cluster_id: cluster_id(),
            broker_id: id,
            broker_epoch: epoch,
        }],
        features: Vec::new(),
    }
}

impl Cluster {
    /// Brokers 0 to `count - 1`, up, each on the disk of its number.
    fn of(count: i32) -> Cluster {
        let image = Image::default();
        let mut cluster = Cluster {
            sessions: Sessions::begin(&image, 0, SESSION_MS),
            other_node: image.clone(),
            image,
            now_ms: 0,
        };
        cluster.fold(&[MetadataRecord::ClusterId {
            cluster_id: cluster_id(),
        }]);
        for id in 0..count {
            cluster.join(id, 1, disk_of(id), None).unwrap();
            assert!(!cluster.beat(id).is_fenced);
        }
        cluster
    }

    fn try_fold(&mut self, records: &[MetadataRecord]) -> Result<(), Rejected> {
        if !records.is_empty() {
            self.image = self.image.apply(records)?;
            let received = decode_batch(&encode_batch(records)).unwrap();
            self.other_node = self.other_node.apply(&received).unwrap();
        }
        Ok(())
    }

    fn fold(&mut self, records: &[MetadataRecord]) {
        self.try_fold(records).unwrap();
    }

    fn join(
        &mut self,
        id: BrokerId,
        process: u16,
        disk: u16,
        recorded: Option<BrokerEpoch>,
    ) -> Result<BrokerEpoch, Refusal> {
        self.join_as(&join_of(id, process, disk, recorded))
    }

    fn join_as(&mut self, join: &Join) -> Result<BrokerEpoch, Refusal> {
        let decision = register(&self.image, context(), &self.sessions, self.now_ms, join);
        self.fold(&decision.records);
        let epoch = decision.result?;
        self.sessions
            .registered(join.registration.broker_id, epoch, self.now_ms);
        Ok(epoch)
    }

    fn epoch(&self, id: BrokerId) -> BrokerEpoch {
        self.image.broker(id).unwrap().epoch
    }

    fn heartbeat(&self, id: BrokerId) -> Heartbeat {
        Heartbeat {
            broker_id: id,
            broker_epoch: self.epoch(id),
            image_index: self.image.index(),
            want_fence: false,
            want_shutdown: false,
            damaged: Vec::new(),
        }
    }

    fn send(&mut self, beat: Heartbeat) -> Result<HeartbeatAnswer, Refusal> {
        let decision = self
            .sessions
            .heartbeat(&self.image, context(), self.now_ms, &beat);
        self.fold(&decision.records);
        decision.result
    }

    fn beat(&mut self, id: BrokerId) -> HeartbeatAnswer {
        self.send(self.heartbeat(id)).unwrap()
    }

    fn fence(&mut self, ids: &[BrokerId]) {
        let records = fence_brokers(&self.image, context(), ids);
        self.fold(&records);
    }

    /// A process that ended comes back on its disk, and is unfenced.
    fn restart(&mut self, id: BrokerId) {
        let process = u16::try_from(self.image.index()).unwrap();
        let epoch = self.epoch(id);
        self.join(id, 1000 + process, disk_of(id), Some(epoch))
            .unwrap();
        self.beat(id);
    }

    fn topic(&mut self, name: &str, assignments: &[&[BrokerId]]) -> TopicId {
        let request = NewTopic {
            name: name.into(),
            num_partitions: -1,
            replication_factor: -1,
            assignments: (0..)
                .zip(assignments.iter().map(|replicas| replicas.to_vec()))
                .collect(),
            configs: Vec::new(),
        };
        let mut id = [9; 16];
        id[0] = u8::try_from(self.image.topic_count() + 1).unwrap();
        let decision = create_topics(
            &self.image,
            context(),
            &settings(),
            &[request],
            false,
            || Uuid(id),
        );
        self.fold(&decision.records);
        decision.result[0].clone().unwrap().topic_id
    }

    fn state(&self, topic_id: TopicId, partition: i32) -> Partition {
        (**self.image.partition(topic_id, partition).unwrap()).clone()
    }

    /// (leader, ISR, ELR).
    fn brief(&self, topic_id: TopicId) -> (BrokerId, Vec<BrokerId>, Vec<BrokerId>) {
        let state = self.state(topic_id, 0);
        (state.leader, state.isr, state.elr)
    }

    /// What an honest leader would ask for.
    fn wish(&self, at: TopicPartition, isr: &[BrokerId]) -> NewIsr {
        let state = self.state(at.topic_id, at.partition);
        NewIsr {
            at,
            leader_epoch: state.leader_epoch,
            partition_epoch: state.partition_epoch,
            isr: isr.iter().map(|id| (*id, self.epoch(*id))).collect(),
        }
    }

    fn ask(&mut self, leader: BrokerId, wish: &NewIsr) -> Result<Partition, Refusal> {
        let epoch = self.epoch(leader);
        let wishes = std::slice::from_ref(wish);
        let decision = alter_partitions(&self.image, context(), leader, epoch, wishes);
        self.fold(&decision.records);
        decision.result.unwrap().pop().unwrap()
    }

    /// The leader of partition 0 changes its ISR.
    fn alter(&mut self, topic_id: TopicId, isr: &[BrokerId]) -> Result<Partition, Refusal> {
        let leader = self.state(topic_id, 0).leader;
        let wish = self.wish(first_of(topic_id), isr);
        self.ask(leader, &wish)
    }

    fn set_min_isr(&mut self, topic: &str, value: i32) {
        let change = Change {
            name: "min.insync.replicas".into(),
            operation: Operation::Set,
            value: Some(value.to_string()),
        };
        let requests = [(ResourceName::Topic(topic.into()), vec![change])];
        let decision = incremental_alter_configs(&self.image, context(), &requests, false);
        decision.result[0].clone().unwrap();
        self.fold(&decision.records);
    }

    fn reassign(
        &mut self,
        topic: &str,
        partition: i32,
        replicas: Option<&[BrokerId]>,
    ) -> Result<(), Refusal> {
        let request = Reassignment {
            topic: topic.into(),
            partition,
            replicas: replicas.map(<[_]>::to_vec),
        };
        let decision = alter_reassignments(&self.image, context(), &[request], true);
        self.fold(&decision.records);
        decision.result[0].clone()
    }

    fn elect(&mut self, election: ElectionType, topic: &str) -> Result<(), Refusal> {
        let named = [(topic.to_owned(), 0)];
        let decision = elect_leaders(&self.image, context(), election, Some(&named));
        self.fold(&decision.records);
        decision.result[0].1.clone()
    }
}

fn disk_of(id: BrokerId) -> u16 {
    u16::try_from(id).unwrap()
}

fn first_of(topic_id: TopicId) -> TopicPartition {
    TopicPartition {
        topic_id,
        partition: 0,
    }
}

fn code<T>(result: Result<T, Refusal>) -> ErrorCode {
    result.err().map_or(ErrorCode::None, |refusal| refusal.code)
}

/// What holds of every partition at every image.
fn check_partitions(image: &Image) {
    for topic in image.topics() {
        let set = image.configs(&tidemark_model::ConfigResource::Topic(topic.id));
        let min = set
            .get("min.insync.replicas")
            .map_or(2, |text| text.parse().unwrap());
        for state in &topic.partitions {
            let up = |id: &BrokerId| image.broker(*id).is_some_and(|b| b.is_active());
            assert!(
                state.isr.iter().all(up),
                "who is down is in no ISR: {state:?}"
            );
            assert!(state.leader == NO_LEADER || state.isr.contains(&state.leader));
            assert_eq!(
                state.leader == NO_LEADER,
                state.isr.is_empty(),
                "somebody in sync leads: {state:?}"
            );
            if state.isr.len() >= state.effective_min_isr(min) {
                assert!(state.elr.is_empty(), "ELR at min ISR: {state:?}");
            }
            if state.isr.is_empty() {
                assert!(
                    !state.elr.iter().any(up),
                    "an eligible one leads: {state:?}"
                );
            }
        }
    }
}
