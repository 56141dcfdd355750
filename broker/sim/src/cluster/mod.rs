//! Whole brokers and their clients on simulated hosts: a history is a function of its seed.
//!
//! [`run`] starts brokers, lets clients use them while hosts crash, pause and are cut off, mends
//! everything, and holds what the clients saw against what was promised ([`crate::checker`]).

mod admin;
mod bucket;
mod disks;
mod faults;
mod in_sync;
mod load;
mod machine;
#[cfg(test)]
mod made_again;
mod raw;
mod restored;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidemark_env::clock;
use tidemark_env::random::Random;
use tidemark_env::sim::{Death, Host, Weather, World};
use tidemark_env::task;

use crate::checker::{self, Event, Place};
use crate::entropy;
use bucket::{BucketFaults, SimBucket};
use faults::Faults;
use load::{Before, Load};
use machine::{LostVoter, Machine};
use restored::{Due, Going, Loss, Restored};

/// Faults are looked after this often.
const TICK: Duration = Duration::from_millis(20);
/// A cluster whose faults are mended serves within this time, or it does not heal.
const HEAL: Duration = Duration::from_secs(120);

/// A history goes on until so many records were acknowledged.
pub const LEAST_ACKNOWLEDGED: u64 = 1000;

/// What a history is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many brokers.
    pub brokers: usize,
    /// Simulated seconds with faults.
    pub seconds: u64,
    /// The topic is tiered, and the bucket has faults of its own.
    pub tiered: bool,
    /// The cluster is lost meanwhile, and another one comes back from the bucket.
    pub restored: bool,
    /// Keeps a line of everything that happens.
    pub lines: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            brokers: 3,
            seconds: 60,
            tiered: false,
            restored: false,
            lines: false,
        }
    }
}

/// How much is kept of a topic that is not kept whole.
const RETENTION_BYTES: i64 = 100_000;

/// A topic in a bucket.
#[derive(Clone)]
struct Tiered {
    bucket: SimBucket,
    /// Older records go, of which nothing is promised then.
    retention_bytes: Option<i64>,
}

/// What became of a history.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Of all that happened: equal seeds have equal ones.
    pub hash: u64,
    /// How often what happened: faults, states, errors that clients saw.
    pub seen: BTreeMap<String, u64>,
    /// Faults in all.
    pub faults: u64,
    /// Records that were acknowledged.
    pub acknowledged: u64,
    /// Simulated milliseconds.
    pub lasted_ms: u64,
    /// What was promised and not kept.
    pub broken: Vec<String>,
    /// See [`Options::lines`].
    pub lines: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:016x} {} s, {} faults, {} acknowledged",
            self.hash,
            self.lasted_ms / 1000,
            self.faults,
            self.acknowledged
        )
    }
}

/// What happened so far; everybody adds to it.
#[derive(Clone, Default)]
pub(crate) struct Record(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    history: Vec<Event>,
    seen: BTreeMap<String, u64>,
    broken: Vec<String>,
    values: u64,
    acknowledged: u64,
    /// The end of what anybody has read.
    read: BTreeMap<Place, i64>,
    /// Below which somebody has deleted records.
    deleted: BTreeMap<Place, i64>,
    lost_voters: Vec<LostVoter>,
}

/// Raises what is noted of a place.
fn raise(all: &mut BTreeMap<Place, i64>, at: &Place, to: i64) {
    let noted = all.entry(at.clone()).or_insert(to);
    *noted = (*noted).max(to);
}

impl Record {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds to the history.
    pub(crate) fn event(&self, event: Event) {
        tracing::trace!("{event:?}");
        let mut inner = self.lock();
        match &event {
            Event::Acked { .. } => inner.acknowledged += 1,
            Event::Read { from, records, .. } | Event::GroupRead { from, records, .. } => {
                if let Some((last, _)) = records.last() {
                    raise(&mut inner.read, from, last + 1);
                }
            }
            Event::Deletes { at, below } => raise(&mut inner.deleted, at, *below),
            Event::Restored { ends } => {
                for (at, end) in ends {
                    let read = inner.read.entry(at.clone()).or_default();
                    *read = (*read).min(*end);
                }
            }
            _ => {}
        }
        inner.history.push(event);
    }

    /// The end of what anybody has read: what lies below is committed.
    fn read(&self) -> BTreeMap<Place, i64> {
        self.lock().read.clone()
    }

    /// Below where somebody has deleted records.
    fn deleted(&self, at: &Place) -> i64 {
        self.lock().deleted.get(at).copied().unwrap_or(0)
    }

    fn acknowledged(&self) -> u64 {
        self.lock().acknowledged
    }

    /// Counts.
    pub(crate) fn saw(&self, what: impl Into<String>) {
        *self.lock().seen.entry(what.into()).or_default() += 1;
    }

    /// Something that must not be.
    pub(crate) fn broken(&self, what: String) {
        self.lock().broken.push(what);
    }

    /// A member of the metadata quorum was lost, and another one is to take its place.
    fn voter_lost(&self, lost: LostVoter) {
        self.lock().lost_voters.push(lost);
    }

    /// The first of those that are lost and were not replaced.
    fn lost_voter(&self) -> Option<LostVoter> {
        self.lock().lost_voters.first().cloned()
    }

    /// The first of them is replaced.
    fn voter_replaced(&self) {
        self.lock().lost_voters.remove(0);
    }

    /// The members were of a cluster that is gone.
    fn forget_lost_voters(&self) {
        self.lock().lost_voters.clear();
    }

    /// A value that nobody has written.
    pub(crate) fn value(&self) -> u64 {
        let mut inner = self.lock();
        inner.values += 1;
        inner.values
    }
}

/// Runs the history of `seed`, on a thread of its own.
///
/// # Errors
/// A panic, or no thread.
pub fn run(seed: u64, options: &Options) -> Result<Report, String> {
    let options = options.clone();
    let thread = task::thread("history", move || {
        entropy::install(seed);
        let runtime = runtime(seed).map_err(|error| error.to_string())?;
        let report = runtime.block_on(history(seed, options));
        runtime.shutdown_background();
        Ok(report)
    });
    let thread = thread.map_err(|error| error.to_string())?;
    thread.join().unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        Err(format!("panic: {}", text.unwrap_or_default()))
    })
}

/// A runtime whose time passes only when nothing else can happen.
#[allow(unexpected_cfgs, reason = "a cfg of tokio's, for its own chance")]
fn runtime(seed: u64) -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true);
    #[cfg(tokio_unstable)]
    builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_le_bytes()));
    let _ = seed;
    builder.build()
}

/// The brokers and clients of a history, and what goes wrong with them.
struct Stage {
    machines: Vec<Machine>,
    /// Brokers of a cluster that was given up, and go on.
    left: Vec<Machine>,
    clients: Vec<Arc<Host>>,
    load: Arc<Load>,
    faults: Faults,
    over_bucket: Option<BucketFaults>,
    /// Nothing goes wrong any more, or for now.
    calm: bool,
}

impl Stage {
    /// Lets a moment pass.
    async fn tick(&mut self) {
        clock::sleep(TICK).await;
        // Not before there is something to lose.
        if self.load.is_ready() && !self.calm {
            self.faults.tick(&self.machines, &self.clients).await;
            if let Some(over_bucket) = &mut self.over_bucket {
                over_bucket.tick(&self.machines).await;
            }
        }
        self.look_after().await;
    }

    /// What goes on also when nothing goes wrong any more.
    async fn look_after(&mut self) {
        if let (true, Some(over_bucket)) = (self.calm, &mut self.over_bucket) {
            over_bucket.drain();
        }
        for machine in self.machines.iter().chain(&self.left) {
            machine.tick().await;
        }
    }

    /// Nothing goes wrong from now on.
    fn mend(&mut self, world: &World) {
        self.calm = true;
        self.faults.mend(&self.machines);
        if let Some(over_bucket) = &mut self.over_bucket {
            over_bucket.mend(&self.machines);
        }
        world.set_weather(Weather::default());
    }

    /// All brokers and clients are gone at this moment; some brokers may go on by themselves.
    async fn lose(&mut self, loss: &mut Loss, world: &World, record: &Record) {
        self.faults.mend(&self.machines);
        if let Some(over_bucket) = &mut self.over_bucket {
            over_bucket.resume(&self.machines);
        }
        world.set_weather(Weather::default());
        self.calm = false;
        for client in &self.clients {
            client.end(Death::Kill, 0).await;
            client.start();
        }
        self.left = loss.lose(std::mem::take(&mut self.machines), record).await;
    }
}

async fn history(seed: u64, options: Options) -> Report {
    let world = World::new(seed);
    if options.lines {
        world.keep_lines();
    }
    let record = Record::default();
    let tier = options
        .tiered
        .then(|| SimBucket::new(&world, &record, Random::new(seed, 5)));
    let start = |restored: Option<&Restored>| {
        let machines: Vec<Machine> = (0..options.brokers)
            .map(|index| {
                let place = (index, options.brokers);
                Machine::new(&world, place, tier.as_ref(), restored, &record)
            })
            .collect();
        machines.iter().for_each(Machine::start);
        machines
    };
    let clients: Vec<Arc<Host>> = (0..3)
        .map(|index| world.add_host(&format!("client-{index}")))
        .collect();
    let machines = start(None);
    let mut faults = Faults::new(Random::new(seed, 3), &world, &record);
    if matches!(seed % 8, 0 | 3) {
        faults = faults.with_disks(Random::new(seed, 7));
    }
    // One topic in three is kept in part only.
    let tiered = tier.as_ref().map(|bucket| Tiered {
        bucket: bucket.clone(),
        retention_bytes: seed.is_multiple_of(3).then_some(RETENTION_BYTES),
    });
    let load_on = |machines: &[Machine], before: Option<Before>| {
        let random = Random::new(seed, if before.is_none() { 4 } else { 8 });
        Arc::new(load::start(
            &clients,
            machines,
            tiered.as_ref(),
            &record,
            before,
            random,
        ))
    };
    let mut stage = Stage {
        load: load_on(&machines, None),
        machines,
        left: Vec::new(),
        clients: clients.clone(),
        faults,
        over_bucket: tier
            .as_ref()
            .map(|bucket| BucketFaults::new(bucket.clone(), Random::new(seed, 6))),
        calm: false,
    };
    let mut loss = match (&tiered, options.restored) {
        (Some(tiered), true) => Some((Loss::new(Random::new(seed, 9), options.seconds), tiered)),
        _ => None,
    };
    let mut end = clock::monotonic() + Duration::from_secs(options.seconds);
    // A cluster that is to be lost lives until then.
    while clock::monotonic() < end || loss.is_some() {
        stage.tick().await;
        let Some((about, tiered)) = &mut loss else {
            continue;
        };
        match about.look(tiered, &record) {
            Due::No => {}
            Due::Calm => stage.mend(&world),
            Due::Loss => {
                stage.lose(about, &world, &record).await;
                let mut restoring = about.begin(&world, tiered, &record);
                let restored = loop {
                    clock::sleep(TICK).await;
                    if clock::monotonic() > end && !stage.calm {
                        stage.mend(&world);
                        restoring.mended();
                    } else if let (false, Some(over)) = (stage.calm, &mut stage.over_bucket) {
                        over.tick(&stage.left).await;
                    }
                    stage.look_after().await;
                    match restoring.tick().await {
                        Going::On => {}
                        Going::Done(restored) => break Some(restored),
                        Going::GivenUp => break None,
                    }
                };
                loss = None;
                let Some(restored) = restored else { break };
                stage.machines = start(Some(&restored));
                let before = stage.load.before(|partition| restored.end_of(partition));
                stage.load = load_on(&stage.machines, Some(before));
                stage.faults.begin_anew();
                stage.calm = false;
                end = clock::monotonic() + Duration::from_secs(options.seconds / 2);
            }
        }
    }
    stage.mend(&world);
    stage.load.wait_for("acknowledgements");
    heal(&mut stage, &record).await;
    for machine in stage.machines.iter().chain(&stage.left) {
        machine.stop().await;
    }
    let inner = std::mem::take(&mut *record.lock());
    let mut broken = inner.broken;
    let anomalies = checker::check(&inner.history);
    broken.extend(anomalies.iter().map(ToString::to_string));
    let disks: Vec<_> = stage
        .machines
        .iter()
        .map(|machine| machine.host.disk())
        .collect();
    let cold = match &tiered {
        Some(tiered) => disks::cold(&tiered.bucket.itself()).await,
        None => Ok(disks::Cold::default()),
    };
    match cold {
        Ok(cold) => {
            broken.extend(cold.findings.iter().cloned());
            broken.extend(disks::check(&disks, &cold, &inner.history));
        }
        Err(why) => broken.push(format!("the bucket: {why}")),
    }
    Report {
        hash: world.hash(),
        seen: inner.seen,
        faults: stage.faults.count() + stage.over_bucket.map_or(0, |over| over.count),
        acknowledged: inner.acknowledged,
        lasted_ms: u64::try_from(world.elapsed().as_millis()).unwrap_or(u64::MAX),
        broken,
        lines: world.take_lines(),
    }
}

/// Everything was mended: clients are served, read all that there is, and are done.
async fn heal(stage: &mut Stage, record: &Record) {
    let load = Arc::clone(&stage.load);
    let ending = async {
        while record.acknowledged() < LEAST_ACKNOWLEDGED {
            clock::sleep(TICK).await;
        }
        load.end().await;
    };
    tokio::pin!(ending);
    let healed = clock::monotonic() + HEAL;
    loop {
        tokio::select! {
            biased;
            () = &mut ending => break,
            () = clock::sleep(TICK) => {}
        }
        stage.look_after().await;
        if clock::monotonic() > healed {
            record.broken(format!(
                "{} s after everything was mended, clients are not served: {}",
                HEAL.as_secs(),
                load.waits_for()
            ));
            break;
        }
    }
}
