//! A broker's shell: carries out what its replica says.

use std::sync::Arc;

use tidemark_replication::{
    Action, Common, ConsumerFetch, Event, FetchAnswer, FetchDecision, FetchOutcome, Identity,
    OfflineReason, Replica, RoleName,
};

use super::disk::Record;
use super::{Happening, Message, SETTINGS, TICK_MS, To, World};

impl World {
    fn later(&mut self, at: usize, delay_ms: i64, what: Happening) {
        let to = To::Process(at, self.nodes[at].process);
        self.at(delay_ms, to, what);
    }

    pub(super) fn begin_process(&mut self, at: usize) {
        self.later(at, 1, Happening::Tick);
        self.later(at, 1, Happening::Fetch);
    }

    pub(super) fn create_replica(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let Some(identity) = node.identity else {
            return;
        };
        let common = Common {
            me: identity,
            settings: SETTINGS,
        };
        node.replica = Some(Replica::new(Arc::new(common), node.disk.state()));
        node.syncing = false;
    }

    /// A process begins. It reads metadata that it has from before, if any, and registers.
    pub(super) fn start(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if node.up {
            return;
        }
        node.up = true;
        node.replica = None;
        node.identity = None;
        node.syncing = false;
        node.fetch_sent_ms = None;
        node.paused_until = 0;
        node.seen_index = -1;
        node.waiting.clear();
        self.begin_process(at);
        self.note(|| format!("{at} starts"));
    }

    pub(super) fn node_tick(&mut self, at: usize) {
        self.later(at, TICK_MS, Happening::Tick);
        let node = &self.nodes[at];
        let id = node.id;
        match node.identity {
            None => {
                let register = Message::Register(id, node.process, node.disk.directory);
                self.tell_controller(at, &register);
            }
            Some(identity) => {
                let seen = node.seen_index;
                let heartbeat = Message::Heartbeat(id, identity.broker_epoch, seen);
                self.tell_controller(at, &heartbeat);
                self.step(at, Event::Tick);
                self.look(at);
            }
        }
    }

    /// Notes what is worth knowing of a replica.
    fn look(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let Some(replica) = &node.replica else { return };
        let log = replica.log();
        if self.random.one_in(4) {
            node.disk.noted_high_watermark = log.high_watermark;
        }
        if replica.role() == RoleName::Leader {
            let frozen = replica.view().is_some_and(|view| !view.has_min_isr())
                && log.durable_end > log.high_watermark;
            if frozen {
                self.saw("high watermark frozen under min ISR");
            }
        }
    }

    pub(super) fn node_fetch(&mut self, at: usize) {
        let pace = self.random.between(2, 12);
        self.later(at, pace, Happening::Fetch);
        let now_ms = self.now_ms;
        let node = &mut self.nodes[at];
        if node.fetch_sent_ms.is_some_and(|sent| now_ms - sent < 60) {
            return;
        }
        let Some(plan) = node.replica.as_ref().and_then(Replica::next_fetch) else {
            return;
        };
        node.fetch_sent_ms = Some(now_ms);
        self.send(at, To::Broker(plan.leader as usize), &Message::Fetch(plan));
    }

    pub(super) fn node_synced(&mut self, at: usize, end: i64, generation: i64) {
        let node = &mut self.nodes[at];
        node.syncing = false;
        node.disk.synced(end, generation);
        if generation != node.disk.generation {
            self.saw("sync of an older generation dropped");
        }
        let done = Event::Durable {
            end_offset: end,
            generation,
        };
        self.step(at, done);
        self.sync(at);
    }

    fn sync(&mut self, at: usize) {
        let node = &self.nodes[at];
        if node.syncing || node.disk.durable_end >= node.disk.end() {
            return;
        }
        let (end, generation) = (node.disk.end(), node.disk.generation);
        let slow = node.slow_disk_until > self.now_ms;
        let slower = self.random.one_in(4);
        let most = match (slow, slower) {
            (true, _) => 400,
            (_, true) => 150,
            _ => 12,
        };
        let delay = self.random.between(1, most);
        self.nodes[at].syncing = true;
        self.later(at, delay, Happening::Synced(end, generation));
    }

    pub(super) fn node_cut(&mut self, at: usize, action: &Action) {
        let node = &mut self.nodes[at];
        let event = match *action {
            Action::Truncate { to } => {
                let what = if to < node.disk.end() {
                    "truncation by divergence"
                } else {
                    "epoch without records cut"
                };
                node.disk.truncate(to);
                let event = Event::Truncated {
                    end_offset: node.disk.end(),
                    durable_end: node.disk.durable_end,
                    generation: node.disk.generation,
                };
                self.saw(what);
                event
            }
            Action::Reset { to } => {
                node.disk.reset(to);
                let generation = node.disk.generation;
                self.saw("reset to the leader's log start");
                Event::Reset {
                    offset: to,
                    generation,
                }
            }
            _ => return,
        };
        self.check_members();
        self.step(at, event);
    }

    pub(super) fn node_hears(&mut self, at: usize, message: Message) {
        match message {
            Message::RegisterReply(epoch, index) => self.registered(at, epoch, index),
            Message::Image(index) => {
                if self.nodes[at].seen_index >= index as i64 {
                    return;
                }
                self.nodes[at].seen_index = index as i64;
                let view = self.controller.views[index].clone();
                let registered = self.nodes[at].identity.map(|i| i.registered_index);
                if registered.is_some_and(|first| index as i64 >= first)
                    && !view.replicas.contains(&(at as i32))
                {
                    self.forget(at);
                }
                self.step(at, Event::Image(view));
            }
            Message::AlterReply(accepted) => self.step(at, Event::AlterAnswered { accepted }),
            Message::Ack(broker, report) => self.step(at, Event::DurableAck { broker, report }),
            Message::Fetch(plan) => self.serve_fetch(at, plan),
            Message::FetchReply(answer, records) => {
                self.nodes[at].fetch_sent_ms = None;
                self.apply_answer(at, answer, &records);
            }
            _ => {}
        }
    }

    /// The controller knows this process now.
    fn registered(&mut self, at: usize, epoch: i64, index: i64) {
        if self.nodes[at].identity.is_some() {
            return;
        }
        self.nodes[at].identity = Some(Identity {
            broker_id: at as i32,
            broker_epoch: epoch,
            registered_index: index,
        });
        self.create_replica(at);
        self.nodes[at].seen_index = -1;
        // Metadata from before may be all that it has for a while.
        let stale = self.random.index(self.controller.views.len());
        let old = &self.controller.views[stale];
        if old.leader == at as i32 && old.image_index < index {
            self.saw("older metadata name a restarted broker as leader");
        }
        self.node_hears(at, Message::Image(stale));
    }

    /// No replica is here any more: its files go.
    fn forget(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if !node.disk.is_blank() {
            node.disk.reset(0);
            node.disk.noted_high_watermark = 0;
            node.fetch_sent_ms = None;
            // Whatever is under way for the old files means nothing to new ones.
            node.process += 1;
            self.create_replica(at);
            self.begin_process(at);
        }
    }

    fn serve_fetch(&mut self, at: usize, plan: tidemark_replication::FetchPlan) {
        let now_ms = self.now_ms;
        let mut actions = std::mem::take(&mut self.actions);
        let Some(replica) = &mut self.nodes[at].replica else {
            self.actions = actions;
            return;
        };
        let decision = replica.follower_fetch(now_ms, &plan.fetch, &mut actions);
        self.carry_out(at, actions);
        let from = plan.fetch.fetch_offset;
        let mut records = Vec::new();
        let outcome = match decision {
            FetchDecision::Records {
                high_watermark,
                log_start,
            } => {
                let disk = &self.nodes[at].disk;
                let to = disk.end().min(from + self.random.between(1, 8));
                records.extend((from..to).filter_map(|offset| disk.get(offset).copied()));
                FetchOutcome::Records {
                    high_watermark,
                    log_start,
                }
            }
            FetchDecision::Diverging(diverging) => FetchOutcome::Diverging(diverging),
            FetchDecision::OutOfRange { log_start, end } => {
                FetchOutcome::OutOfRange { log_start, end }
            }
            FetchDecision::StaleGeneration => {
                self.saw("fetch of an older generation dropped");
                return;
            }
            FetchDecision::Invalid => self.fail("a fetch that contradicts itself"),
            _ => return,
        };
        self.check_serves(at, plan.fetch.durable.leader_epoch);
        let answer = FetchAnswer {
            leader_epoch: plan.fetch.durable.leader_epoch,
            fetch_offset: from,
            generation: plan.fetch.durable.generation,
            outcome,
        };
        let follower = plan.fetch.broker as usize;
        let to = To::Process(follower, self.nodes[follower].process);
        self.send(at, to, &Message::FetchReply(answer, records));
    }

    fn apply_answer(&mut self, at: usize, answer: FetchAnswer, records: &[Record]) {
        let Some(replica) = &mut self.nodes[at].replica else {
            return;
        };
        let mut actions = std::mem::take(&mut self.actions);
        replica.step(self.now_ms, Event::FetchAnswered(answer), &mut actions);
        let append = actions.contains(&Action::Append);
        self.carry_out(at, actions);
        if append && !records.is_empty() {
            self.append(at, records);
        }
    }

    /// Appends to the log and tells the replica, an epoch at a time.
    pub(super) fn append(&mut self, at: usize, records: &[Record]) {
        let mut rest = records;
        while let Some(first) = rest.first() {
            let same = rest.iter().take_while(|r| r.epoch == first.epoch).count();
            let base_offset = self.nodes[at].disk.end();
            self.nodes[at].disk.append(&rest[..same]);
            self.check_appended(at, base_offset);
            let end_offset = self.nodes[at].disk.end();
            let epoch = first.epoch;
            self.step(
                at,
                Event::Appended {
                    epoch,
                    base_offset,
                    end_offset,
                },
            );
            rest = &rest[same..];
        }
        self.sync(at);
    }

    pub(super) fn step(&mut self, at: usize, event: Event) {
        let Some(replica) = &mut self.nodes[at].replica else {
            return;
        };
        let mut actions = std::mem::take(&mut self.actions);
        if self.tell && event != Event::Tick {
            self.trace
                .push(format!("{:>5} {at} <- {event:?}", self.now_ms));
        }
        replica.step(self.now_ms, event, &mut actions);
        self.carry_out(at, actions);
    }

    fn carry_out(&mut self, at: usize, mut actions: Vec<tidemark_replication::Action>) {
        for action in actions.drain(..) {
            self.note(|| format!("{at} -> {action:?}"));
            match action {
                Action::StartEpoch {
                    epoch,
                    start_offset,
                } => {
                    let disk = &mut self.nodes[at].disk;
                    assert_eq!(disk.end(), start_offset);
                    disk.begin_epoch(epoch, start_offset);
                    let generation = disk.generation;
                    let delay = self.random.between(1, 20);
                    self.later(at, delay, Happening::EpochSynced(epoch, generation));
                }
                Action::HighWatermark { offset } => self.check_high_watermark(at, offset),
                Action::AlterPartition(proposal) => {
                    if proposal.isr.is_empty() {
                        self.fail("an empty ISR was proposed");
                    }
                    self.proposals.push(proposal.clone());
                    self.tell_controller(at, &Message::Alter(at as i32, proposal));
                }
                Action::Truncate { to } | Action::Reset { to } => {
                    self.check_cut(at, &action, to);
                    let delay = self.random.between(1, 15);
                    self.later(at, delay, Happening::Cut(action));
                }
                Action::RaiseLogStart { to } => self.nodes[at].disk.raise_log_start(to),
                Action::SendDurableAck { leader, report } => {
                    self.check_report(at, &report);
                    let to = To::Broker(leader as usize);
                    self.send(at, to, &Message::Ack(at as i32, report));
                }
                Action::GoOffline(reason) => match reason {
                    OfflineReason::LogFailed => {}
                    reason => self.fail(&format!("{at} went offline: {reason}")),
                },
                Action::Resign { .. } => self.saw("leader with a slow disk resigns"),
                Action::StopLeading { .. } => self.nodes[at].waiting.clear(),
                Action::Serve { .. } | Action::Append | Action::StandBy | Action::Follow { .. } => {
                }
            }
        }
        self.actions = actions;
    }

    /// Producers and consumers at work.
    pub(super) fn load(&mut self) {
        let at = self.random.index(self.nodes.len());
        if !self.nodes[at].up || self.nodes[at].paused_until > self.now_ms {
            return;
        }
        self.consume(at);
        let count = self.random.between(1, 3);
        let Some(replica) = &self.nodes[at].replica else {
            return;
        };
        let acks_all = !self.random.one_in(4);
        match replica.check_append(acks_all) {
            Ok(epoch) => {
                let from = self.nodes[at].disk.end();
                let records: Vec<Record> = (0..count).map(|_| self.record(epoch)).collect();
                self.check_leads(at, epoch, from);
                for (offset, record) in (from..).zip(&records) {
                    if acks_all {
                        self.nodes[at].waiting.push((epoch, offset, *record));
                    }
                }
                self.append(at, &records);
            }
            Err(tidemark_replication::Refusal::NotEnoughReplicas) => {
                self.saw("produce refused under min ISR");
            }
            Err(_) => {}
        }
        if self.random.one_in(150) {
            self.delete_records(at);
        }
    }

    fn record(&mut self, epoch: i32) -> Record {
        self.next_value += 1;
        Record {
            epoch,
            value: self.next_value,
        }
    }

    fn delete_records(&mut self, at: usize) {
        let Some(replica) = &self.nodes[at].replica else {
            return;
        };
        if replica.role() == RoleName::Leader {
            let log = replica.log();
            let offset = self.random.between(log.log_start, log.high_watermark);
            self.nodes[at].disk.raise_log_start(offset);
            self.step(at, Event::LogStart { offset });
        }
    }

    fn consume(&mut self, at: usize) {
        let Some(replica) = &self.nodes[at].replica else {
            return;
        };
        let offset = self.random.between(0, replica.log().end + 1);
        if let Ok(ConsumerFetch::Read { to }) = replica.consumer_fetch(offset, None, None) {
            self.check_read(at, offset, to);
        }
    }
}
