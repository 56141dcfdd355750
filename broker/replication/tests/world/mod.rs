//! One partition on up to five brokers in one process: logs on disks that forget, a
//! network that loses, delays, repeats and reorders, and faults of all kinds.

pub mod check;
pub mod controller;
pub mod disk;
mod faults;
mod node;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use tidemark_replication::{
    Action, DurableReport, FetchAnswer, FetchPlan, Identity, Proposal, Replica, Settings,
};

use check::History;
use controller::Controller;
use disk::{Disk, Record};
use tidemark_env::random::Random;

pub const SETTINGS: Settings = Settings {
    replica_lag_time_max_ms: 400,
    alter_timeout_ms: 150,
    alter_backoff_ms: 10,
    alter_backoff_max_ms: 80,
};
const SESSION_MS: i64 = 300;
const TICK_MS: i64 = 25;
/// When faults end, and by when everything must be well again.
const FAULTS_UNTIL_MS: i64 = 4_000;
const LOAD_UNTIL_MS: i64 = 4_300;
const WELL_BY_MS: i64 = 9_000;

/// A broker.
pub struct Node {
    pub id: i32,
    pub disk: Disk,
    /// Which process of it this is; events of earlier ones are void.
    pub process: u64,
    pub up: bool,
    pub replica: Option<Replica>,
    pub identity: Option<Identity>,
    pub seen_index: i64,
    pub paused_until: i64,
    pub was_paused: bool,
    pub syncing: bool,
    pub slow_disk_until: i64,
    pub fetch_sent_ms: Option<i64>,
    /// Its disk is new, and the controller does not know yet.
    pub wiped: bool,
    pub waiting: Vec<(i32, i64, Record)>,
}

/// Something on its way between brokers, or to the controller.
#[derive(Debug, Clone)]
pub enum Message {
    Fetch(FetchPlan),
    FetchReply(FetchAnswer, Vec<Record>),
    Ack(i32, DurableReport),
    Alter(i32, Proposal),
    AlterReply(bool),
    Heartbeat(i32, i64, i64),
    Register(i32, u64, u64),
    RegisterReply(i64, i64),
    Image(usize),
}

/// Something that will happen.
#[derive(Debug, Clone)]
enum Happening {
    Tick,
    Fetch,
    Synced(i64, i64),
    EpochSynced(i32, i64),
    Cut(Action),
    Message(Message),
    Start,
}

/// Who it happens to: a broker's process, any process of a broker, or the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    Process(usize, u64),
    Broker(usize),
    Controller,
}

/// Everything.
pub struct World {
    pub seed: u64,
    pub now_ms: i64,
    pub steps: u64,
    pub random: Random,
    pub nodes: Vec<Node>,
    pub controller: Controller,
    pub history: History,
    pub seen: BTreeMap<&'static str, u64>,
    queue: BinaryHeap<Reverse<(i64, u64)>>,
    happenings: BTreeMap<u64, (To, Happening)>,
    next_id: u64,
    /// Until when nothing gets from one to the other; the last is the controller.
    cuts: Vec<Vec<i64>>,
    /// Proposals that were sent, for as long as they may come true.
    proposals: Vec<Proposal>,
    actions: Vec<Action>,
    trace: Vec<String>,
    tell: bool,
    next_value: u64,
    next_directory: u64,
    lossy: bool,
}

impl World {
    pub fn new(seed: u64, tell: bool) -> Self {
        let mut random = Random::new(seed, 1);
        let brokers = 1 + random.index(5);
        let replicas = (1 + random.index(brokers)).max(brokers.min(3));
        let min_isr = 1 + random.index(replicas.min(3));
        let ids: Vec<i32> = (0..brokers as i32).collect();
        let mut controller = Controller::new(ids[..replicas].to_vec(), min_isr);
        let nodes = ids.iter().map(|id| Node {
            id: *id,
            disk: Disk::blank(*id as u64),
            process: 1,
            up: true,
            replica: None,
            identity: None,
            seen_index: -1,
            paused_until: 0,
            was_paused: false,
            syncing: false,
            slow_disk_until: 0,
            fetch_sent_ms: None,
            wiped: false,
            waiting: Vec::new(),
        });
        let nodes: Vec<Node> = nodes.collect();
        controller.begin(&ids);
        let lossy = random.one_in(2);
        let mut world = Self {
            seed,
            now_ms: 0,
            steps: 0,
            random,
            nodes,
            controller,
            history: History::default(),
            seen: BTreeMap::new(),
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            next_id: 0,
            cuts: vec![vec![0; brokers + 1]; brokers + 1],
            proposals: Vec::new(),
            actions: Vec::new(),
            trace: Vec::new(),
            tell,
            next_value: 0,
            next_directory: 100,
            lossy,
        };
        for at in 0..brokers {
            let identity = Identity {
                broker_id: at as i32,
                broker_epoch: 1,
                registered_index: 1,
            };
            world.nodes[at].identity = Some(identity);
            world.create_replica(at);
            world.begin_process(at);
        }
        world
    }

    pub fn saw(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    pub fn note(&mut self, text: impl FnOnce() -> String) {
        if self.tell {
            self.trace.push(format!("{:>5} {}", self.now_ms, text()));
        }
    }

    /// Ends the history: something that must not be has been seen.
    pub fn fail(&self, what: &str) -> ! {
        let from = self.trace.len().saturating_sub(400);
        let steps = self.trace[from..].join("\n");
        panic!(
            "seed {}: {what} (at {} ms)\n{steps}",
            self.seed, self.now_ms
        );
    }

    fn at(&mut self, delay_ms: i64, to: To, what: Happening) {
        self.next_id += 1;
        self.happenings.insert(self.next_id, (to, what));
        self.queue
            .push(Reverse((self.now_ms + delay_ms, self.next_id)));
    }

    pub fn healing(&self) -> bool {
        self.now_ms >= FAULTS_UNTIL_MS
    }

    /// Sends, or loses, or sends twice, with some delay.
    fn send(&mut self, from: usize, to: To, message: &Message) {
        let target = match to {
            To::Process(at, _) | To::Broker(at) => at,
            To::Controller => self.nodes.len(),
        };
        if self.cuts[from][target] > self.now_ms {
            return;
        }
        let bad = self.lossy && !self.healing();
        if bad && self.random.one_in(40) {
            return;
        }
        let copies = if bad && self.random.one_in(30) { 2 } else { 1 };
        for _ in 0..copies {
            let slow = bad && self.random.one_in(25);
            let delay = self.random.between(1, if slow { 250 } else { 6 });
            self.at(delay, to, Happening::Message(message.clone()));
        }
    }

    fn tell_controller(&mut self, from: usize, message: &Message) {
        self.send(from, To::Controller, message);
    }

    /// Lets everything happen until the end, and looks whether all is well then.
    pub fn run(&mut self) {
        let mut next_world = 0;
        let mut next_load = 0;
        loop {
            let due = self.queue.peek().map_or(i64::MAX, |Reverse((at, _))| *at);
            let next = due.min(next_world).min(next_load);
            self.now_ms = next;
            if next >= WELL_BY_MS {
                self.fail("not well again in time");
            }
            self.steps += 1;
            if next == next_world {
                next_world += 20;
                self.world_tick();
                if self.controller.gone {
                    self.saw("last holder lost");
                    return;
                }
                if self.now_ms >= LOAD_UNTIL_MS && self.is_well() {
                    break;
                }
            } else if next == next_load {
                next_load += self.random.between(2, 12);
                if self.now_ms < LOAD_UNTIL_MS {
                    self.load();
                }
            } else if let Some(Reverse((_, id))) = self.queue.pop()
                && let Some((to, what)) = self.happenings.remove(&id)
            {
                self.happen(to, what);
            }
        }
        self.check_end();
    }

    fn world_tick(&mut self) {
        self.controller.tick(self.now_ms, SESSION_MS);
        self.publish();
        if self.healing() {
            self.heal();
        } else {
            self.fault();
        }
        let now = self.controller.now().clone();
        self.proposals.retain(|p| {
            p.partition_epoch >= now.partition_epoch && p.leader_epoch >= now.leader_epoch
        });
    }

    /// Tells brokers of the newest metadata, some later than others.
    fn publish(&mut self) {
        let newest = self.controller.views.len() - 1;
        let controller = self.nodes.len();
        for at in 0..self.nodes.len() {
            if self.nodes[at].up && self.nodes[at].seen_index < newest as i64 {
                self.send(controller, To::Broker(at), &Message::Image(newest));
            }
        }
        self.check_members();
    }

    fn happen(&mut self, to: To, what: Happening) {
        let at = match to {
            To::Controller => {
                if let Happening::Message(message) = what {
                    self.controller_hears(message);
                }
                return;
            }
            To::Broker(at) => at,
            To::Process(at, process) => {
                if self.nodes[at].process != process {
                    return;
                }
                at
            }
        };
        if let Happening::Start = what {
            self.start(at);
            return;
        }
        let node = &mut self.nodes[at];
        if !node.up {
            return;
        }
        if node.paused_until > self.now_ms {
            let delay = node.paused_until - self.now_ms;
            node.was_paused = true;
            self.at(delay, to, what);
            return;
        }
        if std::mem::take(&mut node.was_paused) {
            self.step(at, tidemark_replication::Event::Paused);
        }
        match what {
            Happening::Tick => self.node_tick(at),
            Happening::Fetch => self.node_fetch(at),
            Happening::Synced(end, generation) => self.node_synced(at, end, generation),
            Happening::EpochSynced(epoch, generation) => {
                self.nodes[at].disk.epoch_synced(epoch, generation);
                self.step(at, tidemark_replication::Event::EpochStartDurable { epoch });
            }
            Happening::Cut(action) => self.node_cut(at, &action),
            Happening::Message(message) => self.node_hears(at, message),
            Happening::Start => {}
        }
    }

    fn controller_hears(&mut self, message: Message) {
        match message {
            Message::Register(id, process, directory) => {
                let at = id as usize;
                let known = self
                    .controller
                    .register(self.now_ms, id, process, directory);
                let Some((epoch, index)) = known else { return };
                if self.nodes[at].disk.directory == directory {
                    self.nodes[at].wiped = false;
                }
                let reply = Message::RegisterReply(epoch, index);
                self.send(self.nodes.len(), To::Process(at, process), &reply);
            }
            Message::Heartbeat(id, epoch, seen) => {
                self.controller.heartbeat(self.now_ms, id, epoch, seen);
            }
            Message::Alter(from, proposal) => {
                let accepted = self.controller.alter(from, &proposal);
                self.note(|| format!("controller: {proposal:?} of {from}: {accepted}"));
                let to = To::Broker(from as usize);
                self.send(self.nodes.len(), to, &Message::AlterReply(accepted));
            }
            _ => {}
        }
        self.publish();
    }
}
