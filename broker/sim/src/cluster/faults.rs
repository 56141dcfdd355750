//! What goes wrong, and when.

use std::sync::Arc;
use std::time::Duration;

use tidemark_env::clock::{self, Instant};
use tidemark_env::disk::{Fault, FaultError, FaultOp};
use tidemark_env::random::Random;
use tidemark_env::sim::{Death, Host, Weather, World};

use super::Record;
use super::machine::Machine;

/// What is undone later.
enum Undo {
    Resume(usize),
    Heal,
    Weather,
    Room(usize),
    Stall(usize),
}

/// The faults of a history.
pub(super) struct Faults {
    random: Random,
    world: Arc<World>,
    record: Record,
    next: Option<Instant>,
    undo: Vec<(Instant, Undo)>,
    count: u64,
    /// A second one could have the last copy of something.
    disk_was_lost: bool,
    /// When disks stand still or fill up under a broker that starts, by a chance of its own; in some
    /// histories only.
    of_disks: Option<(Random, Instant)>,
}

fn millis(ms: i64) -> Duration {
    Duration::from_millis(ms.unsigned_abs())
}

impl Faults {
    pub(super) fn new(random: Random, world: &Arc<World>, record: &Record) -> Faults {
        Faults {
            of_disks: None,
            random,
            world: Arc::clone(world),
            record: record.clone(),
            next: None,
            undo: Vec::new(),
            count: 0,
            disk_was_lost: false,
        }
    }

    /// Disks stand still now and then, or are full when a broker starts.
    pub(super) fn with_disks(mut self, mut random: Random) -> Faults {
        let first = clock::monotonic() + millis(random.between(2000, 30_000));
        self.of_disks = Some((random, first));
        self
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Does what is due.
    pub(super) async fn tick(&mut self, machines: &[Machine], clients: &[Arc<Host>]) {
        let now = clock::monotonic();
        let due: Vec<_> = self.undo.extract_if(.., |(at, _)| *at <= now).collect();
        for (_, undo) in due {
            self.undo(&undo, machines);
        }
        let pause = millis(self.random.between(500, 8000));
        let next = *self.next.get_or_insert(now + pause);
        if next <= now {
            self.next = Some(now + pause);
            self.fault(machines, clients).await;
        }
        if let Some((random, at)) = &mut self.of_disks
            && *at <= now
        {
            *at = now + millis(random.between(10_000, 30_000));
            let index = random.index(machines.len());
            let machine = &machines[index];
            let what = if random.one_in(2) {
                let until = now + millis(random.between(500, 9000));
                self.undo.push((until, Undo::Stall(index)));
                machine.disk_stalls(true);
                "disk stands still"
            } else if machine.is_up() {
                let until = now + millis(random.between(3000, 15_000));
                self.undo.push((until, Undo::Room(index)));
                machine.fill(random.below(3 << 20));
                let down = millis(random.between(10, 1000));
                machine.end(Death::Kill, down).await;
                "kill on a full disk"
            } else {
                return;
            };
            self.count += 1;
            self.record.saw(format!("fault: {what}"));
        }
    }

    fn later(&mut self, from_ms: i64, to_ms: i64, undo: Undo) {
        let at = clock::monotonic() + millis(self.random.between(from_ms, to_ms));
        self.undo.push((at, undo));
    }

    fn undo(&mut self, undo: &Undo, machines: &[Machine]) {
        match undo {
            Undo::Resume(index) => machines[*index].host.resume(),
            Undo::Heal => self.world.heal(),
            Undo::Weather => self.world.set_weather(Weather::default()),
            Undo::Room(index) => machines[*index].set_room(None),
            Undo::Stall(index) => machines[*index].disk_stalls(false),
        }
    }

    /// Undoes everything.
    pub(super) fn mend(&mut self, machines: &[Machine]) {
        for (_, undo) in std::mem::take(&mut self.undo) {
            self.undo(&undo, machines);
        }
        for machine in machines {
            machine.host.disk().clear_faults();
            machine.host.disk().keep_power();
            machine.set_room(None);
        }
        self.world.heal();
    }

    /// The brokers are others from now on.
    pub(super) fn begin_anew(&mut self) {
        self.disk_was_lost = false;
    }

    async fn fault(&mut self, machines: &[Machine], clients: &[Arc<Host>]) {
        let index = self.random.index(machines.len());
        let machine = &machines[index];
        if !machine.is_up() {
            return;
        }
        let down = millis(self.random.between(10, 6000));
        let what = match self.random.below(17) {
            0 | 1 => {
                machine.end(Death::Kill, down).await;
                "kill"
            }
            2 | 3 => {
                machine.end(Death::Power, down).await;
                "power cut"
            }
            4 | 5 => {
                let changes = self.random.below(300);
                machine.host.disk().cut_power_after(changes);
                "power cut at a change of the disk"
            }
            14 => {
                // Right after a write of what others are told of.
                let at = ["metadata", "wal", "checkpoint", "meta.properties"];
                let at = at[self.random.index(at.len())];
                let changes = self.random.below(6);
                machine.host.disk().cut_power_at(at, changes);
                "power cut at a change of some files"
            }
            15 => {
                machine.restart();
                "restart"
            }
            16 if machines.len() > 2 && !self.disk_was_lost => {
                self.disk_was_lost = true;
                let lost = machine.lose_disk(down).await;
                self.record.voter_lost(lost);
                "disk lost"
            }
            6 => {
                machine.host.pause();
                self.later(50, 12_000, Undo::Resume(index));
                "pause"
            }
            7 | 8 => self.cut(machine, machines, clients),
            9 => {
                self.world.reset_connections(2);
                "connections reset"
            }
            10 => {
                let hours = 3_600_000;
                machine.host.set_skew_ms(self.random.between(-hours, hours));
                "clock jump"
            }
            11 => {
                let op = match self.random.below(2) {
                    0 => FaultOp::Write,
                    _ => FaultOp::Sync,
                };
                machine.disk_fails();
                machine.host.disk().inject(Fault {
                    op,
                    path_contains: String::new(),
                    after: u32::try_from(self.random.below(50)).unwrap_or(0),
                    times: 1,
                    error: FaultError::Eio,
                });
                "disk error"
            }
            12 => {
                machine.set_room(Some(self.random.below(2 << 20)));
                self.later(500, 10_000, Undo::Room(index));
                "disk full"
            }
            _ => {
                let delay_ms = (self.random.between(0, 50), self.random.between(50, 1500));
                let disk_ms = (self.random.between(0, 20), self.random.between(20, 500));
                self.world.set_weather(Weather {
                    delay_ms,
                    disk_ms,
                    reset_one_in: 200,
                    ..Weather::default()
                });
                self.later(500, 8000, Undo::Weather);
                "slow network and disks"
            }
        };
        self.count += 1;
        self.record.saw(format!("fault: {what}"));
    }

    /// Cuts a broker off from some of the others, one way or both.
    fn cut(
        &mut self,
        machine: &Machine,
        machines: &[Machine],
        clients: &[Arc<Host>],
    ) -> &'static str {
        let others = machines.iter().map(|machine| &machine.host).chain(clients);
        let others: Vec<_> = others
            .filter(|host| host.name() != machine.host.name())
            .cloned()
            .collect();
        let all = self.random.one_in(2);
        let way = self.random.below(3);
        for other in others {
            if !all && self.random.one_in(2) {
                continue;
            }
            if way != 0 {
                self.world.cut(&machine.host, &other);
            }
            if way != 1 {
                self.world.cut(&other, &machine.host);
            }
        }
        self.later(500, 15_000, Undo::Heal);
        match way {
            2 => "cut off",
            _ => "cut off one way",
        }
    }
}
