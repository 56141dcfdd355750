//! When the store behaves how.

use std::time::Duration;

use tidemark_env::clock::{self, Instant};
use tidemark_env::random::Random;
use tidemark_env::sim::Death;

use super::super::machine::Machine;
use super::{Placed, SimBucket, Sky};

/// A broker that was struck is down so long.
const DOWN: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The weather over the store.
pub(in super::super) struct BucketFaults {
    bucket: SimBucket,
    random: Random,
    next: Option<Instant>,
    /// When it is looked next whether disks and bucket leave nothing out.
    look_at: Option<Instant>,
    resume: Vec<(Instant, String)>,
    pub(in super::super) count: u64,
}

fn millis(ms: i64) -> Duration {
    Duration::from_millis(ms.unsigned_abs())
}

impl BucketFaults {
    pub(in super::super) fn new(bucket: SimBucket, random: Random) -> BucketFaults {
        BucketFaults {
            bucket,
            random,
            next: None,
            look_at: None,
            resume: Vec::new(),
            count: 0,
        }
    }

    /// Does what is due.
    pub(in super::super) async fn tick(&mut self, machines: &[Machine]) {
        let now = clock::monotonic();
        self.strike(machines).await;
        if self.look_at.is_none_or(|at| at <= now) {
            self.look_at = Some(now + LOOK_EVERY);
            self.bucket.look_at_disks(machines);
        }
        self.after(machines, now);
        let next = *self
            .next
            .get_or_insert(now + millis(self.random.between(500, 4000)));
        if next > now {
            return;
        }
        let is_fair = self.bucket.lock().sky == Sky::Fair;
        let (sky, lasts) = match is_fair {
            false => (Sky::Fair, (1000, 8000)),
            true => match self.random.below(11) {
                0 => (Sky::Away, (2000, 10_000)),
                1 => (Sky::Away, (20_000, 45_000)),
                2 => (Sky::Silent, (2000, 40_000)),
                3 => (Sky::Throttled, (2000, 15_000)),
                4 => (Sky::Denied, (2000, 15_000)),
                5 => (Sky::Slow, (2000, 15_000)),
                6 | 7 => (Sky::Flaky, (3000, 15_000)),
                8 => (Sky::Lying, (3000, 15_000)),
                placed => {
                    let placed = match placed {
                        9 => Placed::Pause,
                        _ => Placed::Crash,
                    };
                    self.bucket.lock().placed = Some(placed);
                    (Sky::Fair, (1000, 4000))
                }
            },
        };
        self.next = Some(now + millis(self.random.between(lasts.0, lasts.1)));
        self.bucket.lock().sky = sky;
        if sky != Sky::Fair {
            self.count += 1;
            self.bucket.record.saw(format!("fault: bucket {sky:?}"));
        }
    }

    /// Does to brokers what was placed at a create of theirs.
    async fn strike(&mut self, machines: &[Machine]) {
        let struck = std::mem::take(&mut self.bucket.lock().struck);
        for (name, placed) in struck {
            let Some(machine) = machines.iter().find(|machine| machine.host.name() == name) else {
                continue;
            };
            self.count += 1;
            self.bucket
                .record
                .saw(format!("fault: {placed:?} at a manifest"));
            match placed {
                Placed::Pause => {
                    machine.host.pause();
                    let at = clock::monotonic() + millis(self.random.between(3000, 25_000));
                    self.resume.push((at, name));
                }
                Placed::Crash => machine.end(Death::Power, DOWN).await,
            }
        }
    }

    fn after(&mut self, machines: &[Machine], now: Instant) {
        let due: Vec<_> = self.resume.extract_if(.., |(at, _)| *at <= now).collect();
        for (_, name) in due {
            machines
                .iter()
                .filter(|machine| machine.host.name() == name)
                .for_each(|machine| machine.host.resume());
        }
        self.bucket.tick(now);
    }

    /// What is on its way still arrives, even when everything was mended.
    pub(in super::super) fn drain(&mut self) {
        self.bucket.tick(clock::monotonic());
    }

    /// The store behaves from now on, and nobody is paused.
    pub(in super::super) fn mend(&mut self, machines: &[Machine]) {
        {
            let mut state = self.bucket.lock();
            state.sky = Sky::Clear;
            state.placed = None;
            state.struck.clear();
        }
        self.resume(machines);
    }

    /// Nobody is paused.
    pub(in super::super) fn resume(&mut self, machines: &[Machine]) {
        for (_, name) in std::mem::take(&mut self.resume) {
            machines
                .iter()
                .filter(|machine| machine.host.name() == name)
                .for_each(|machine| machine.host.resume());
        }
    }
}
