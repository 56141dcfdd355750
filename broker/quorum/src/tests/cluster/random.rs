//! The controller against a model of the brokers' logs: processes crash and come back, disks
//! are wiped or rolled back, leaders ask with old and forged epochs, replicas move. After
//! every step who is in sync or eligible must hold all that was acknowledged.

use std::collections::{BTreeMap, BTreeSet};

use tidemark_model::decode_snapshot;

use super::*;

const BROKERS: i32 = 5;
const LONGEST_LOG: usize = 30;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Copy>(&mut self, items: &[T]) -> Option<T> {
        (!items.is_empty()).then(|| items[self.below(items.len())])
    }

    fn broker(&mut self) -> BrokerId {
        i32::try_from(self.below(usize::try_from(BROKERS).unwrap())).unwrap()
    }

    fn some_brokers(&mut self, count: usize) -> Vec<BrokerId> {
        let mut all: Vec<BrokerId> = (0..BROKERS).collect();
        while all.len() > count {
            let at = self.below(all.len());
            all.remove(at);
        }
        for at in (1..all.len()).rev() {
            let other = self.below(at + 1);
            all.swap(at, other);
        }
        all
    }
}

/// A broker as it is, whatever the controller believes.
#[derive(Clone, Default)]
struct Machine {
    /// Whether its process runs and has registered.
    running: bool,
    disk: u16,
    /// What the disk says of epochs, newest last.
    recorded: Vec<BrokerEpoch>,
    /// Its disk lost something, and it has not registered since.
    loss_unknown: bool,
}

/// A change of the ISR on its way.
#[derive(Clone)]
struct InFlight {
    asker: BrokerId,
    asker_epoch: BrokerEpoch,
    wish: NewIsr,
}

struct World {
    random: Random,
    cluster: Cluster,
    machines: Vec<Machine>,
    partitions: Vec<TopicPartition>,
    logs: BTreeMap<(BrokerId, TopicPartition), Vec<u32>>,
    acknowledged: BTreeMap<TopicPartition, Vec<u32>>,
    led: BTreeMap<(TopicPartition, i32), (BrokerId, Uuid)>,
    in_flight: Vec<InFlight>,
    next_record: u32,
    next_process: u16,
    next_disk: u16,
    reached: BTreeMap<&'static str, usize>,
}

fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

impl World {
    fn new(seed: u64) -> World {
        let mut cluster = Cluster::of(BROKERS);
        let mut random = Random(seed);
        let mut partitions = Vec::new();
        for (topic, factor) in [("one", 1), ("two", 2), ("three", 3), ("four", 4)] {
            let sets: Vec<Vec<BrokerId>> = (0..2).map(|_| random.some_brokers(factor)).collect();
            let sets: Vec<&[BrokerId]> = sets.iter().map(Vec::as_slice).collect();
            let topic_id = cluster.topic(topic, &sets);
            partitions.extend((0..2).map(|partition| TopicPartition {
                topic_id,
                partition,
            }));
        }
        let machines = (0..BROKERS).map(|id| Machine {
            running: true,
            disk: disk_of(id),
            recorded: vec![cluster.epoch(id)],
            loss_unknown: false,
        });
        let mut world = World {
            machines: machines.collect(),
            random,
            partitions,
            logs: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            led: BTreeMap::new(),
            in_flight: Vec::new(),
            next_record: 0,
            next_process: 2,
            next_disk: 100,
            reached: BTreeMap::new(),
            cluster,
        };
        world.check();
        world
    }

    fn reach(&mut self, state: &'static str) {
        *self.reached.entry(state).or_default() += 1;
    }

    fn machine(&mut self, id: BrokerId) -> &mut Machine {
        &mut self.machines[usize::try_from(id).unwrap()]
    }

    fn state(&self, at: TopicPartition) -> Partition {
        self.cluster.state(at.topic_id, at.partition)
    }

    fn log(&self, id: BrokerId, at: TopicPartition) -> &[u32] {
        self.logs.get(&(id, at)).map_or(&[], Vec::as_slice)
    }

    fn acked(&self, at: TopicPartition) -> &[u32] {
        self.acknowledged.get(&at).map_or(&[], Vec::as_slice)
    }

    fn is_acting(&self, id: BrokerId) -> bool {
        self.machines[usize::try_from(id).unwrap()].running
            && self.cluster.image.broker(id).is_some_and(|b| !b.fenced)
    }

    fn leader(&self, at: TopicPartition) -> Option<BrokerId> {
        let leader = self.state(at).leader;
        (leader != NO_LEADER && self.is_acting(leader)).then_some(leader)
    }

    fn any_partition(&mut self) -> TopicPartition {
        let partitions = self.partitions.clone();
        self.random.pick(&partitions).unwrap()
    }

    fn step(&mut self) {
        let before = self.cluster.image.clone();
        match self.random.below(100) {
            0..16 => self.produce(),
            16..34 => self.replicate(),
            34..48 => self.acknowledge(),
            48..58 => self.wish(),
            58..68 => self.deliver(),
            68..71 => self.forge(),
            71..73 => self.crash(),
            73..78 => self.come_back(),
            78..90 => self.heartbeat(),
            90..92 => self.time_passes(),
            92..94 => self.reassign(),
            94 => self.elect(),
            95 => self.min_isr(),
            96 => self.rebalance(),
            97 => self.new_controller(),
            98 => self.lease(),
            _ => {
                let records = complete_reassignments(&self.cluster.image, context());
                self.cluster.fold(&records);
            }
        }
        if self.cluster.image.index() != before.index() {
            self.took_effect(&before);
        }
        self.check();
    }

    /// Replicas that are none any more are deleted; unclean elections lose records.
    fn took_effect(&mut self, before: &Image) {
        for at in self.partitions.clone() {
            let new = self.state(at);
            let old = before.partition(at.topic_id, at.partition).unwrap();
            self.logs
                .retain(|(id, of), _| *of != at || new.replicas.contains(id));
            if new.unclean_epoch != old.unclean_epoch {
                self.reach("unclean election");
                let kept = common_prefix(self.log(new.leader, at), self.acked(at));
                self.acknowledged.entry(at).or_default().truncate(kept);
            } else if new.leader != old.leader && new.leader != NO_LEADER {
                self.reach("election");
                if !old.isr.contains(&new.leader) {
                    self.reach("elected from ELR");
                }
            }
            if !new.elr.is_empty() && old.elr.is_empty() {
                self.reach("eligible");
            }
            if old.is_reassigning() && !new.is_reassigning() {
                self.reach("reassignment over");
            }
        }
    }

    fn check(&mut self) {
        check_partitions(&self.cluster.image);
        for at in self.partitions.clone() {
            let state = self.state(at);
            for id in state.isr.iter().chain(&state.elr) {
                let known = !self.machines[usize::try_from(*id).unwrap()].loss_unknown;
                assert!(
                    !known || self.log(*id, at).starts_with(self.acked(at)),
                    "broker {id} is in ISR or ELR of {state:?} and lacks acknowledged records"
                );
            }
            if state.leader != NO_LEADER {
                let process = self
                    .cluster
                    .image
                    .broker(state.leader)
                    .unwrap()
                    .incarnation_id;
                let now = (state.leader, process);
                let first = *self.led.entry((at, state.leader_epoch)).or_insert(now);
                assert_eq!(first, now, "one process leads in an epoch: {state:?}");
            }
        }
    }

    fn produce(&mut self) {
        let at = self.any_partition();
        let Some(leader) = self.leader(at) else {
            return;
        };
        self.next_record += 1;
        let record = self.next_record;
        let log = self.logs.entry((leader, at)).or_default();
        if log.len() < LONGEST_LOG {
            log.push(record);
        }
    }

    fn replicate(&mut self) {
        let at = self.any_partition();
        let Some(leader) = self.leader(at) else {
            return;
        };
        let followers = self.state(at).replicas;
        let Some(follower) = self.random.pick(&followers) else {
            return;
        };
        let running = self.machine(follower).running;
        if follower == leader || !running {
            return;
        }
        let source = self.log(leader, at).to_vec();
        let same = common_prefix(&source, self.log(follower, at));
        let end = if self.random.percent(70) {
            source.len()
        } else {
            same + self.random.below(source.len() - same + 1)
        };
        if same < self.log(follower, at).len() {
            self.reach("truncation");
        }
        self.logs.insert((follower, at), source[..end].to_vec());
    }

    /// The leader raises its high watermark by what it knows: those in sync, and those it
    /// has asked for.
    fn acknowledge(&mut self) {
        let at = self.any_partition();
        let Some(leader) = self.leader(at) else {
            return;
        };
        let state = self.state(at);
        let min = self.min_insync(at);
        if state.isr.len() < state.effective_min_isr(min) {
            self.reach("under min ISR");
            return;
        }
        let mut counted: BTreeSet<BrokerId> = state.isr.iter().copied().collect();
        let pending = self.in_flight.iter().filter(|m| {
            m.wish.at == at
                && m.wish.leader_epoch == state.leader_epoch
                && m.wish.partition_epoch == state.partition_epoch
        });
        counted.extend(pending.flat_map(|m| m.wish.isr.iter().map(|(id, _)| *id)));
        let log = self.log(leader, at);
        let reached = counted
            .iter()
            .map(|id| common_prefix(log, self.log(*id, at)))
            .min()
            .unwrap();
        if reached > self.acked(at).len() {
            let log = log[..reached].to_vec();
            assert!(
                log.starts_with(self.acked(at)),
                "what was acknowledged stays"
            );
            self.acknowledged.insert(at, log);
            self.reach("acknowledged");
        }
    }

    fn min_insync(&self, at: TopicPartition) -> i32 {
        let resource = tidemark_model::ConfigResource::Topic(at.topic_id);
        let set = self.cluster.image.configs(&resource);
        set.get("min.insync.replicas")
            .map_or(2, |text| text.parse().unwrap())
    }

    /// An honest leader would like another ISR: only who has what is acknowledged comes in.
    fn wish(&mut self) {
        let at = self.any_partition();
        let Some(leader) = self.leader(at) else {
            return;
        };
        let state = self.state(at);
        let mut isr = state.isr.clone();
        if self.random.percent(70) {
            let follower = self.random.pick(&state.replicas).unwrap();
            let caught_up =
                common_prefix(self.log(leader, at), self.log(follower, at)) >= self.acked(at).len();
            let running = self.machine(follower).running;
            if caught_up && running && !isr.contains(&follower) {
                isr.push(follower);
            }
        } else {
            let out = self.random.pick(&isr).unwrap();
            isr.retain(|id| *id == leader || *id != out);
        }
        if isr != state.isr {
            let asker_epoch = self.cluster.epoch(leader);
            let wish = self.cluster.wish(at, &isr);
            self.in_flight.push(InFlight {
                asker: leader,
                asker_epoch,
                wish,
            });
        }
    }

    fn send_wish(&mut self, message: &InFlight) -> Result<Partition, Refusal> {
        let decision = alter_partitions(
            &self.cluster.image,
            context(),
            message.asker,
            message.asker_epoch,
            std::slice::from_ref(&message.wish),
        );
        self.cluster.fold(&decision.records);
        decision.result?.pop().unwrap()
    }

    fn deliver(&mut self) {
        if self.in_flight.is_empty() {
            return;
        }
        let at = self.random.below(self.in_flight.len());
        let message = self.in_flight[at].clone();
        // What was sent once may come twice, now or after everything has changed.
        if self.random.percent(80) || self.in_flight.len() > 20 {
            self.in_flight.remove(at);
        }
        let before = self.state(message.wish.at);
        let image = self.cluster.image.clone();
        let result = self.send_wish(&message);
        if self.cluster.image.index() == image.index() {
            if result.is_err() {
                self.reach("AlterPartition refused");
            }
            return;
        }
        self.reach("AlterPartition accepted");
        let epoch = |id: BrokerId| image.broker(id).unwrap().epoch;
        assert_eq!(message.asker, before.leader);
        assert_eq!(message.asker_epoch, epoch(message.asker));
        assert_eq!(message.wish.leader_epoch, before.leader_epoch);
        assert_eq!(message.wish.partition_epoch, before.partition_epoch);
        for (id, at_epoch) in &message.wish.isr {
            assert_eq!(*at_epoch, epoch(*id));
        }
    }

    /// A request in which one thing is not true.
    fn forge(&mut self) {
        let at = self.any_partition();
        let Some(leader) = self.leader(at) else {
            return;
        };
        let isr = self.state(at).replicas;
        let mut message = InFlight {
            asker: leader,
            asker_epoch: self.cluster.epoch(leader),
            wish: self.cluster.wish(at, &isr),
        };
        let up = isr
            .iter()
            .all(|id| self.cluster.image.broker(*id).unwrap().is_active());
        match self.random.below(6) {
            0 => message.asker_epoch -= 1,
            1 => message.wish.leader_epoch -= 1,
            2 => message.wish.partition_epoch -= 1,
            3 => {
                let all: Vec<BrokerId> = (0..BROKERS).filter(|id| *id != leader).collect();
                message.asker = self.random.pick(&all).unwrap();
                message.asker_epoch = self.cluster.epoch(message.asker);
            }
            4 => {
                let at = self.random.below(message.wish.isr.len());
                message.wish.isr[at].1 -= 1;
            }
            _ if up => message.wish.isr.retain(|(id, _)| *id != leader),
            _ => {}
        }
        let index = self.cluster.image.index();
        assert!(
            self.send_wish(&message).is_err(),
            "forged: {:?}",
            message.wish
        );
        assert_eq!(self.cluster.image.index(), index);
    }

    fn crash(&mut self) {
        let id = self.random.broker();
        self.machine(id).running = false;
        if self.random.percent(30) {
            let epoch = self.cluster.epoch(id);
            self.cluster.sessions.refused(id, epoch);
        }
        if self.random.percent(15) {
            self.lose_disk(id);
        }
    }

    fn lose_disk(&mut self, id: BrokerId) {
        let wiped = self.random.percent(50);
        let unfenced = self.cluster.image.broker(id).unwrap().unfenced_epoch;
        let new_disk = self.next_disk;
        let machine = self.machine(id);
        if wiped {
            machine.disk = new_disk;
            machine.recorded.clear();
        } else {
            // As a backup of before its last epoch has it.
            while machine
                .recorded
                .last()
                .is_some_and(|e| Some(*e) >= unfenced)
            {
                machine.recorded.pop();
            }
        }
        machine.loss_unknown = true;
        self.next_disk += 1;
        let held: Vec<(BrokerId, TopicPartition)> = self
            .logs
            .keys()
            .filter(|(of, _)| *of == id)
            .copied()
            .collect();
        for key in held {
            let log = self.logs.get_mut(&key).unwrap();
            let kept = if wiped { 0 } else { log.len() / 2 };
            log.truncate(kept);
        }
        self.reach(if wiped { "wiped" } else { "rolled back" });
    }

    fn come_back(&mut self) {
        let down: Vec<BrokerId> = (0..BROKERS).filter(|id| !self.is_acting(*id)).collect();
        let id = match self.random.pick(&down) {
            Some(id) if self.random.percent(90) => id,
            _ if self.random.percent(20) => self.random.broker(),
            _ => return,
        };
        // One that runs catches up by itself.
        if !self.machine(id).running || self.random.percent(10) {
            self.register(id);
        }
    }

    fn register(&mut self, id: BrokerId) -> bool {
        let machine = self.machine(id).clone();
        self.next_process += 1;
        // One that runs and registers again is another process on the same disk.
        let recorded = machine.recorded.last().copied();
        let result = self
            .cluster
            .join(id, self.next_process, machine.disk, recorded);
        match result {
            Ok(_) => {
                let machine = self.machine(id);
                machine.running = true;
                machine.loss_unknown = false;
                self.reach("registered");
                true
            }
            Err(refusal) => {
                assert_eq!(refusal.code, ErrorCode::DuplicateBrokerRegistration);
                self.reach("had to wait");
                false
            }
        }
    }

    fn heartbeat(&mut self) {
        let id = self.random.broker();
        if !self.machine(id).running {
            return;
        }
        let mut beat = self.cluster.heartbeat(id);
        // What is asked for is on disk before it is asked for.
        if self.machine(id).recorded.last() != Some(&beat.broker_epoch) {
            self.machine(id).recorded.push(beat.broker_epoch);
        }
        match self.random.below(40) {
            0 => beat.want_fence = true,
            1 => beat.want_shutdown = true,
            2 => beat.image_index = self.random.next() % (beat.image_index + 1),
            3 => beat.damaged.extend(self.random.pick(&self.partitions)),
            _ => {}
        }
        let damaged = beat.damaged.first().copied();
        let answer = self.cluster.send(beat).unwrap();
        if let Some(at) = damaged {
            self.damaged(id, at);
        }
        if answer.should_shut_down {
            self.machine(id).running = false;
            self.reach("shut down");
        }
    }

    /// The controller has heard that a log is damaged: it counts no more, if another holds what
    /// was acknowledged.
    fn damaged(&mut self, id: BrokerId, at: TopicPartition) {
        let state = self.state(at);
        let counts = |other: &BrokerId| state.isr.contains(other) || state.elr.contains(other);
        if (0..BROKERS).any(|other| other != id && counts(&other)) {
            assert!(!counts(&id) && state.leader != id, "{at:?}: {state:?}");
            if let Some(log) = self.logs.get_mut(&(id, at)) {
                log.truncate(log.len() / 2);
                self.reach("damaged");
            }
        }
    }

    fn time_passes(&mut self) {
        self.cluster.now_ms += i64::try_from(self.random.below(500)).unwrap();
        let now_ms = self.cluster.now_ms;
        let expired = self.cluster.sessions.expired(&self.cluster.image, now_ms);
        if !expired.is_empty() {
            self.reach("fenced");
        }
        self.cluster.fence(&expired);
        let swept = sweep_leases(&self.cluster.image, now_ms);
        self.cluster.fold(&swept);
    }

    fn reassign(&mut self) {
        let at = self.any_partition();
        let name = self
            .cluster
            .image
            .topic_by_id(at.topic_id)
            .unwrap()
            .name
            .clone();
        let target = if self.random.percent(30) {
            None
        } else {
            let count = 1 + self.random.below(4);
            Some(self.random.some_brokers(count))
        };
        let result = self
            .cluster
            .reassign(&name, at.partition, target.as_deref());
        match result.err().map(|refusal| refusal.code) {
            None if target.is_none() => self.reach("reassignment cancelled"),
            None => self.reach("reassignment begun"),
            Some(ErrorCode::InvalidReplicaAssignment) => self.reach("reassignment refused"),
            Some(_) => {}
        }
    }

    fn elect(&mut self) {
        let unclean = self.random.percent(10);
        let election = if unclean {
            ElectionType::Unclean
        } else {
            ElectionType::Preferred
        };
        let partitions = unclean.then(|| {
            let at = self.any_partition();
            let topic = self.cluster.image.topic_by_id(at.topic_id).unwrap();
            vec![(topic.name.to_string(), at.partition)]
        });
        let decision = elect_leaders(
            &self.cluster.image,
            context(),
            election,
            partitions.as_deref(),
        );
        self.cluster.fold(&decision.records);
    }

    fn min_isr(&mut self) {
        let at = self.any_partition();
        let topic = self.cluster.image.topic_by_id(at.topic_id).unwrap();
        let (name, value) = (topic.name.clone(), 1 + self.random.below(3));
        self.cluster
            .set_min_isr(&name, i32::try_from(value).unwrap());
    }

    fn rebalance(&mut self) {
        let most = 1 + self.random.below(8);
        let decision = rebalance_leaders(&self.cluster.image, context(), 10, most);
        self.cluster.fold(&decision.records);
    }

    /// Another node takes over, from the bytes of a snapshot.
    fn new_controller(&mut self) {
        let image = &self.cluster.image;
        let restored = decode_snapshot(image.index(), &image.encode_snapshot()).unwrap();
        assert_eq!(restored.hash(), image.hash());
        assert_eq!(
            restored.unsettled_partitions().count(),
            image.unsettled_partitions().count()
        );
        self.cluster.image = restored;
        self.cluster.sessions =
            Sessions::begin(&self.cluster.image, self.cluster.now_ms, SESSION_MS);
    }

    fn lease(&mut self) {
        let broker_id = self.random.broker();
        let token = Uuid([u8::try_from(self.random.below(3)).unwrap(); 16]);
        let request = Disruption {
            broker_id,
            broker_epoch: self.cluster.epoch(broker_id),
            token,
            ttl_ms: 300,
        };
        let now_ms = self.cluster.now_ms;
        let decision = begin_disruption(&self.cluster.image, context(), now_ms, request);
        self.cluster.fold(&decision.records);
        if decision.result.is_ok() {
            self.reach("leased");
            // With all that are leased gone, every partition it serves still has enough.
            let image = &self.cluster.image;
            let gone: Vec<BrokerId> = image
                .leases()
                .filter(|lease| lease.expires_at_ms > now_ms)
                .map(|lease| lease.broker_id)
                .collect();
            for (at, state) in image.partitions_on(broker_id) {
                let left = state.isr.iter().filter(|id| !gone.contains(id)).count();
                let min = state.effective_min_isr(self.min_insync(at));
                assert!(!state.isr.contains(&broker_id) || left >= min);
            }
        }
    }

    /// All faults end: then every partition that anybody holds is led from home by all.
    fn heal(&mut self) {
        self.in_flight.clear();
        self.cluster.now_ms += SESSION_MS + 1;
        for id in 0..BROKERS {
            assert!(self.register(id), "no session is left");
            let beat = self.cluster.heartbeat(id);
            self.machine(id).recorded.push(beat.broker_epoch);
            let before = self.cluster.image.clone();
            assert!(!self.cluster.send(beat).unwrap().is_fenced);
            self.took_effect(&before);
            self.check();
        }
        let offline = |world: &World, at: &TopicPartition| world.state(*at).leader == NO_LEADER;
        for at in self.partitions.clone() {
            let state = self.state(at);
            let Some(leader) = self.leader(at) else {
                assert!(state.elr.is_empty() && state.isr.is_empty(), "{state:?}");
                self.reach("offline for good");
                continue;
            };
            let log = self.log(leader, at).to_vec();
            for id in &state.replicas {
                self.logs.insert((*id, at), log.clone());
            }
            let before = self.cluster.image.clone();
            let wish = self.cluster.wish(at, &state.replicas);
            drop(self.cluster.ask(leader, &wish));
            self.took_effect(&before);
            self.check();
        }
        while rebalance_leaders(&self.cluster.image, context(), 0, 3).result {
            let decision = rebalance_leaders(&self.cluster.image, context(), 0, 3);
            self.cluster.fold(&decision.records);
        }
        let decision = rebalance_leaders(&self.cluster.image, context(), 0, 100);
        self.cluster.fold(&decision.records);
        self.check();
        for at in self.partitions.clone() {
            assert!(
                self.state(at).is_settled() || offline(self, &at),
                "{:?}",
                self.state(at)
            );
        }
    }
}

fn run(seed: u64, steps: usize, reached: &mut BTreeMap<&'static str, usize>) {
    let mut world = World::new(seed);
    for step in 0..steps {
        world.step();
        if step % 50 == 0 {
            assert_eq!(world.cluster.other_node.hash(), world.cluster.image.hash());
        }
    }
    world.heal();
    for (state, times) in world.reached {
        *reached.entry(state).or_default() += times;
    }
}

const STATES: [&str; 22] = [
    "AlterPartition accepted",
    "AlterPartition refused",
    "acknowledged",
    "elected from ELR",
    "election",
    "eligible",
    "fenced",
    "had to wait",
    "leased",
    "offline for good",
    "reassignment begun",
    "reassignment cancelled",
    "reassignment over",
    "reassignment refused",
    "registered",
    "rolled back",
    "shut down",
    "truncation",
    "unclean election",
    "under min ISR",
    "wiped",
    "damaged",
];

fn run_seeds(seeds: std::ops::Range<u64>, steps: usize) {
    let mut reached = BTreeMap::new();
    for seed in seeds {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut reached = BTreeMap::new();
            run(seed, steps, &mut reached);
            reached
        }));
        match outcome {
            Ok(states) => {
                for (state, times) in states {
                    *reached.entry(state).or_insert(0usize) += times;
                }
            }
            Err(failure) => {
                println!("seed {seed}, {steps} steps");
                std::panic::resume_unwind(failure);
            }
        }
    }
    for state in STATES {
        assert!(
            reached.contains_key(state),
            "never reached: {state}: {reached:?}"
        );
    }
    println!("{reached:?}");
}

#[test]
fn nothing_acknowledged_is_lost_whatever_brokers_and_disks_do() {
    run_seeds(0..150, 500);
}

/// `cargo test --release -p tidemark-quorum -- --ignored millions_of_steps`
#[test]
#[ignore = "a few seconds in the release profile, minutes without"]
fn millions_of_steps() {
    run_seeds(1000..6000, 500);
}
