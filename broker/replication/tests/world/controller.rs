//! A small truthful controller: registrations, fencing, clean elections, ISR and ELR.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemark_model::{NO_LEADER, Partition};
use tidemark_replication::{BrokerView, PartitionView, Proposal};

/// A broker as the controller knows it.
#[derive(Debug, Clone)]
pub struct Registered {
    pub epoch: i64,
    pub fenced: bool,
    pub directory: u64,
    pub heard_ms: i64,
    process: u64,
    index: i64,
}

/// All versions of the metadata, and what decides on the next.
pub struct Controller {
    pub views: Vec<PartitionView>,
    min_isr: usize,
    pub brokers: BTreeMap<i32, Registered>,
    /// The last that held what was committed has lost it.
    pub gone: bool,
    /// How often what happened.
    pub clean_elections: u64,
    pub elr_elections: u64,
    pub shrinks: u64,
    pub expansions: u64,
    pub rejected_by_epoch: u64,
    pub rejected_by_broker: u64,
    pub lost_directories: u64,
}

impl Controller {
    pub fn new(replicas: Vec<i32>, min_isr: usize) -> Self {
        let view = PartitionView {
            image_index: 0,
            state: Arc::new(Partition {
                isr: replicas.clone(),
                replicas,
                ..Partition::default()
            }),
            effective_min_isr: min_isr,
            brokers: Arc::default(),
        };
        Self {
            views: vec![view],
            min_isr,
            brokers: BTreeMap::new(),
            gone: false,
            clean_elections: 0,
            elr_elections: 0,
            shrinks: 0,
            expansions: 0,
            rejected_by_epoch: 0,
            rejected_by_broker: 0,
            lost_directories: 0,
        }
    }

    /// All brokers are there at first, with epoch 1.
    pub fn begin(&mut self, ids: &[i32]) {
        for id in ids {
            let broker = Registered {
                epoch: 1,
                fenced: false,
                directory: *id as u64,
                heard_ms: 0,
                process: 1,
                index: 1,
            };
            self.brokers.insert(*id, broker);
        }
        let view = self.now().clone();
        self.commit(view, &[]);
    }

    pub fn now(&self) -> &PartitionView {
        self.views.last().expect("there is a first version")
    }

    pub fn index(&self) -> i64 {
        self.now().image_index
    }

    fn live(&self, id: i32) -> bool {
        self.brokers.get(&id).is_some_and(|broker| !broker.fenced)
    }

    /// Makes the next version: who left the ISR of a partition that is short of members
    /// may still be elected (KIP-966), and a leader that may not lead is replaced.
    fn commit(&mut self, mut view: PartitionView, left: &[i32]) {
        let before = self.now().clone();
        view.image_index += 1;
        view.effective_min_isr = self.min_isr.min(view.replicas.len());
        view.elr.extend_from_slice(left);
        let state = Arc::make_mut(&mut view.state);
        state
            .elr
            .retain(|id| state.replicas.contains(id) && !state.isr.contains(id));
        view.elr.sort_unstable();
        view.elr.dedup();
        if view.has_min_isr() {
            view.elr.clear();
        }
        let leads =
            |view: &PartitionView| self.live(view.leader) && view.isr.contains(&view.leader);
        if !leads(&view) {
            let in_sync = view.isr.iter().copied().find(|id| self.live(*id));
            let eligible = view.elr.iter().copied().find(|id| self.live(*id));
            let leader = in_sync.or(eligible).unwrap_or(NO_LEADER);
            if leader != view.leader || leader != NO_LEADER {
                view.leader_epoch += 1;
            }
            if leader != NO_LEADER {
                self.clean_elections += 1;
            }
            if in_sync.is_none() && eligible.is_some() {
                self.elr_elections += 1;
                view.isr = vec![leader];
                view.elr.retain(|id| *id != leader);
                if view.has_min_isr() {
                    view.elr.clear();
                }
            }
            view.leader = leader;
        }
        let same = view.isr == before.isr
            && view.elr == before.elr
            && view.replicas == before.replicas
            && view.leader_epoch == before.leader_epoch
            && view.partition_epoch == before.partition_epoch;
        if !same && view.partition_epoch == before.partition_epoch {
            view.partition_epoch += 1;
        }
        let known = |id: &i32| {
            let broker = self.brokers.get(id)?;
            Some(BrokerView {
                id: *id,
                epoch: broker.epoch,
                fenced: broker.fenced,
            })
        };
        view.brokers = Arc::new(view.replicas.iter().filter_map(known).collect());
        self.views.push(view);
    }

    fn without(&self, id: i32) -> (PartitionView, Vec<i32>) {
        let mut view = self.now().clone();
        let was_in = view.isr.contains(&id);
        view.isr.retain(|other| *other != id);
        (view, if was_in { vec![id] } else { Vec::new() })
    }

    /// A process becomes a broker. What it led gets a new epoch in the same version, and
    /// with another directory it has lost what it had. Epoch and index, unless a later
    /// process is known.
    pub fn register(
        &mut self,
        now_ms: i64,
        id: i32,
        process: u64,
        directory: u64,
    ) -> Option<(i64, i64)> {
        if let Some(known) = self.brokers.get(&id).filter(|b| b.process >= process) {
            return (known.process == process).then_some((known.epoch, known.index));
        }
        let epoch = self.index() + 1;
        let lost = self
            .brokers
            .get(&id)
            .is_some_and(|old| old.directory != directory);
        let broker = Registered {
            epoch,
            fenced: true,
            directory,
            heard_ms: now_ms,
            process,
            index: epoch,
        };
        self.brokers.insert(id, broker);
        let (mut view, mut left) = self.without(id);
        if lost {
            self.lost_directories += 1;
            view.elr.retain(|other| *other != id);
            left.clear();
        }
        self.commit(view, &left);
        let gone = self.now().isr.is_empty() && self.now().elr.is_empty();
        assert!(!gone || lost || self.gone, "somebody holds it");
        self.gone = gone;
        Some((epoch, self.index()))
    }

    pub fn heartbeat(&mut self, now_ms: i64, id: i32, epoch: i64, seen: i64) {
        let Some(broker) = self.brokers.get_mut(&id) else {
            return;
        };
        if broker.epoch != epoch {
            return;
        }
        broker.heard_ms = now_ms;
        if broker.fenced && seen >= epoch {
            broker.fenced = false;
            let view = self.now().clone();
            self.commit(view, &[]);
        }
    }

    /// Fences who was not heard of.
    pub fn tick(&mut self, now_ms: i64, session_ms: i64) {
        let late = |b: &Registered| !b.fenced && now_ms - b.heard_ms > session_ms;
        let late: Vec<i32> = self
            .brokers
            .iter()
            .filter(|(_, b)| late(b))
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            self.brokers.get_mut(&id).expect("it is registered").fenced = true;
            let (view, left) = self.without(id);
            self.commit(view, &left);
        }
    }

    /// Whether a proposal holds against the newest version, and makes it so.
    pub fn alter(&mut self, from: i32, proposal: &Proposal) -> bool {
        let now = self.now();
        if now.leader != from
            || now.leader_epoch != proposal.leader_epoch
            || now.partition_epoch != proposal.partition_epoch
        {
            self.rejected_by_epoch += 1;
            return false;
        }
        let fits = |(id, epoch): &(i32, i64)| {
            now.replicas.contains(id) && self.live(*id) && self.brokers[id].epoch == *epoch
        };
        if !proposal.isr.iter().all(fits) || !proposal.isr.iter().any(|(id, _)| *id == from) {
            self.rejected_by_broker += 1;
            return false;
        }
        let mut view = now.clone();
        let isr: Vec<i32> = proposal.isr.iter().map(|(id, _)| *id).collect();
        let left: Vec<i32> = view
            .isr
            .iter()
            .copied()
            .filter(|id| !isr.contains(id))
            .collect();
        self.shrinks += u64::from(!left.is_empty());
        self.expansions += u64::from(isr.iter().any(|id| !view.isr.contains(id)));
        view.isr = isr;
        // Also when nothing changes: older proposals are void from here on.
        view.partition_epoch += 1;
        self.commit(view, &left);
        true
    }

    /// Sets `min.insync.replicas`, and clears the ELR, which was made by the old one.
    pub fn set_min_isr(&mut self, min_isr: usize) {
        if self.now().isr.is_empty() {
            return;
        }
        let mut view = self.now().clone();
        self.min_isr = min_isr;
        view.elr.clear();
        self.commit(view, &[]);
    }

    pub fn add_replica(&mut self, id: i32) {
        let mut view = self.now().clone();
        view.replicas.push(id);
        self.commit(view, &[]);
    }

    /// Removes a replica if enough others are in sync. Its leader epoch ends with it:
    /// whatever the removed one still fetches in it must not count if it comes back.
    pub fn remove_replica(&mut self, id: i32) -> bool {
        let mut view = self.now().clone();
        let before = view.effective_min_isr;
        view.replicas.retain(|other| *other != id);
        view.isr.retain(|other| *other != id);
        view.elr.retain(|other| *other != id);
        let enough = view.isr.len() >= before;
        if !enough || !view.isr.iter().any(|id| self.live(*id)) {
            return false;
        }
        let leader_epoch = view.leader_epoch;
        if view.leader == id {
            view.leader = NO_LEADER;
        }
        if view.leader != NO_LEADER {
            view.leader_epoch = leader_epoch + 1;
        }
        self.commit(view, &[]);
        true
    }
}
