//! Random histories of a cluster that is rolled while its brokers fail: the roller never stops a
//! second broker, never takes a partition below its minimum, and always comes to its end when
//! faults heal.

use super::*;
use tidemark_env::random::Random;

const MINUTE: i64 = 60_000;
/// Rounds with faults, and rounds without in which it has to finish.
const FAULTS: usize = 60;
const HEALING: usize = 400;

struct World {
    brokers: Vec<Broker>,
    partitions: Vec<Partition>,
    plan: Plan,
    controller: i32,
    now_ms: i64,
    /// Templates on which no broker comes up.
    bad: BTreeSet<String>,
    restarts: usize,
}

impl World {
    fn new(random: &mut Random) -> World {
        let count = 3 + i32::try_from(random.below(3)).expect("small");
        let broker = |id| Broker {
            id,
            voter: id < 3,
            pod: Pod::Ready,
            ready_since_ms: Some(0),
            template: "0".into(),
            life: Some(Life::Running),
            leased: false,
            cut_off: false,
        };
        let partition = |index: i32, random: &mut Random| {
            let replicas = 1 + i32::try_from(random.below(3)).expect("small");
            let replicas: Vec<i32> = (0..replicas).map(|r| (index + r) % count).collect();
            Partition {
                name: format!("t-{index}"),
                min_isr: replicas.len().min(1 + random.index(2)),
                isr: replicas.clone(),
                replicas,
            }
        };
        World {
            brokers: (0..count).map(broker).collect(),
            partitions: (0..12).map(|index| partition(index, random)).collect(),
            plan: Plan {
                targets: (0..count).map(|id| (id, "0".to_owned())).collect(),
                leaving: BTreeSet::new(),
                demoted: BTreeSet::new(),
                paused: false,
                mode: DisruptionMode::Automatic,
                approved: false,
                by_operator: false,
                closed: None,
                new_image: false,
                unreplicated: Unreplicated::Proceed,
            },
            controller: 0,
            now_ms: 0,
            bad: BTreeSet::new(),
            restarts: 0,
        }
    }

    fn broker(&mut self, id: i32) -> &mut Broker {
        let found = self.brokers.iter_mut().find(|broker| broker.id == id);
        found.expect("the roller names brokers that there are")
    }

    /// The controller takes a broker that is gone out of every ISR, but for the last one.
    fn out_of_sync(&mut self, id: i32) {
        for partition in &mut self.partitions {
            if partition.isr.len() > 1 {
                partition.isr.retain(|other| *other != id);
            }
        }
    }

    fn stop(&mut self, id: i32, pod: Pod) {
        let broker = self.broker(id);
        (broker.pod, broker.life) = (pod, None);
        self.out_of_sync(id);
    }

    /// A broker's disk is full; without anybody else to lead it serves on.
    fn fills(&mut self, id: i32, serves: bool) {
        let since_ms = self.now_ms;
        let broker = self.broker(id);
        if broker.pod != Pod::Ready {
            return;
        }
        broker.life = Some(Life::DiskFull {
            text: "the disk is full".into(),
            serves,
        });
        if !serves {
            broker.pod = Pod::Unready { since_ms };
            self.out_of_sync(id);
        }
    }

    fn image(&self) -> Option<Image> {
        let voters = self.brokers.iter().filter(|b| b.voter);
        let up = voters.clone().filter(|b| b.life.is_some());
        (up.count() > voters.count() / 2).then(|| Image {
            controller: Some(self.controller),
            partitions: self.partitions.clone(),
            offline: 0,
        })
    }

    fn faults(&mut self, random: &mut Random) {
        let id = self.brokers[random.index(self.brokers.len())].id;
        let since_ms = self.now_ms;
        match random.below(12) {
            0 => self.stop(id, Pod::Absent),
            1 => self.stop(id, Pod::Unready { since_ms }),
            2 => {
                let target = format!("{}", 1 + random.below(5));
                for to in self.plan.targets.values_mut() {
                    to.clone_from(&target);
                }
            }
            3 => {
                self.bad = [format!("{}", 1 + random.below(5))].into();
            }
            4 => self.out_of_sync(id),
            6 => self.fills(id, random.one_in(2)),
            5 => {
                self.plan.closed = match self.plan.closed {
                    Some(_) => None,
                    None => Some("night opens".into()),
                };
            }
            _ => {}
        }
    }

    /// What Kubernetes and the brokers do by themselves.
    fn heals(&mut self, random: &mut Random) {
        let (targets, bad, since_ms) = (&self.plan.targets, &self.bad, self.now_ms);
        for broker in &mut self.brokers {
            if random.one_in(3) {
                continue;
            }
            if is_full(broker) {
                // Somebody makes room.
                broker.life = Some(Life::Running);
                continue;
            }
            match broker.pod {
                Pod::Absent => {
                    // Its StatefulSet: the template it was given last.
                    if broker.template.is_empty() {
                        broker.template.clone_from(&targets[&broker.id]);
                    }
                    broker.pod = match bad.contains(&broker.template) {
                        true => Pod::Crashing {
                            text: "back-off".into(),
                            since_ms,
                        },
                        false => Pod::Unready { since_ms },
                    };
                }
                Pod::Unready { .. } => broker.life = Some(Life::Behind("catching up".into())),
                Pod::Crashing { .. } if !bad.contains(&broker.template) => {
                    broker.pod = Pod::Unready { since_ms };
                }
                _ => {}
            }
        }
        for partition in &mut self.partitions {
            for id in partition.replicas.clone() {
                let takes = |b: &Broker| b.id == id && b.life.is_some() && !is_full(b);
                let up = self.brokers.iter().any(takes);
                if up && !partition.isr.contains(&id) && !random.one_in(3) {
                    partition.isr.push(id);
                }
            }
        }
        for broker in &mut self.brokers {
            let id = broker.id;
            let synced = |p: &Partition| !p.replicas.contains(&id) || p.isr.contains(&id);
            let all = self.partitions.iter().all(synced);
            match (&broker.pod, &broker.life, all) {
                _ if is_full(broker) => {}
                (Pod::Unready { .. }, Some(_), true) => {
                    (broker.pod, broker.life) = (Pod::Ready, Some(Life::Running));
                }
                (Pod::Ready, _, false) => {
                    broker.pod = Pod::Unready { since_ms };
                    broker.life = Some(Life::Behind("catching up".into()));
                }
                _ => {}
            }
        }
        let leads = |broker: &&Broker| broker.voter && broker.life.is_some();
        let alive = self
            .brokers
            .iter()
            .any(|b| leads(&b) && b.id == self.controller);
        if let (false, Some(next)) = (alive, self.brokers.iter().find(leads)) {
            self.controller = next.id;
        }
    }

    /// Carries out a decision, and judges it.
    fn act(&mut self, decision: &Decision, at: &str) {
        match decision {
            Decision::Do(Step::Restart {
                broker: id,
                unavoidable,
            }) => {
                let down: Vec<i32> = self
                    .brokers
                    .iter()
                    .filter(|b| b.id != *id && b.pod != Pod::Ready)
                    .map(|b| b.id)
                    .collect();
                assert_eq!(
                    down,
                    Vec::<i32>::new(),
                    "{at}: {id} is stopped while others are down"
                );
                let full = self.brokers.iter().find(|b| is_full(b));
                assert_eq!(full, None, "{at}: {id} is stopped while a disk is full");
                for partition in &self.partitions {
                    let left = partition.isr.iter().filter(|other| *other != id).count();
                    assert!(
                        !partition.replicas.contains(id)
                            || left >= partition.min_isr
                            || unavoidable.contains(&partition.name),
                        "{at}: {partition:?} falls below its minimum without {id}"
                    );
                }
                assert_eq!(
                    self.plan.closed, None,
                    "{at}: {id} is stopped out of window"
                );
                self.restarts += 1;
                self.broker(*id).leased = true;
                self.renew(*id);
            }
            Decision::Do(Step::Repair(id)) => {
                let broker = self.broker(*id);
                assert!(
                    broker.life.is_none(),
                    "{at}: {broker:?} is up and was 'repaired'"
                );
                self.renew(*id);
            }
            Decision::Do(Step::ColdStart(all)) => {
                let ready = self.brokers.iter().any(|b| b.pod == Pod::Ready);
                assert!(!ready, "{at}: a cold start with brokers that are ready");
                for id in all {
                    self.renew(*id);
                }
            }
            Decision::Do(Step::EndLease(id)) => self.broker(*id).leased = false,
            Decision::Idle | Decision::Wait(..) => {}
        }
    }

    fn renew(&mut self, id: i32) {
        let target = self.plan.targets[&id].clone();
        self.stop(id, Pod::Absent);
        self.broker(id).template = target;
    }

    fn decide(&self) -> Decision {
        let image = self.image();
        decide(&self.brokers, image.as_ref(), &self.plan, self.now_ms)
    }
}

fn is_full(broker: &Broker) -> bool {
    matches!(broker.life, Some(Life::DiskFull { .. }))
}

fn history(seed: u64) -> usize {
    let random = &mut Random::new(seed, 0);
    let mut world = World::new(random);
    for round in 0..FAULTS {
        world.now_ms += MINUTE / 2;
        world.faults(random);
        world.heals(random);
        let decision = world.decide();
        world.act(&decision, &format!("seed {seed}, round {round}"));
    }
    world.bad.clear();
    world.plan.closed = None;
    let mut last = Decision::Idle;
    for round in 0..HEALING {
        world.now_ms += MINUTE / 2;
        world.heals(random);
        last = world.decide();
        world.act(&last, &format!("seed {seed}, healing {round}"));
        let all = world
            .brokers
            .iter()
            .all(|b| b.pod == Pod::Ready && !b.leased);
        if last == Decision::Idle && all {
            let stale = order(&world.brokers, &world.plan, None);
            assert_eq!(
                stale,
                Vec::<i32>::new(),
                "seed {seed} ends with stale brokers"
            );
            return world.restarts;
        }
    }
    panic!("seed {seed} does not finish: {last:?}, {:?}", world.brokers);
}

#[test]
fn random_histories_keep_the_promises() {
    let seeds = std::env::var("ROLLER_SEEDS")
        .ok()
        .and_then(|n| n.parse().ok());
    let restarts: usize = (0..seeds.unwrap_or(3_000)).map(history).sum();
    // A roller that waits for ever keeps every promise but one.
    assert!(
        restarts > 3_000,
        "{restarts} restarts: the histories are too quiet"
    );
}
