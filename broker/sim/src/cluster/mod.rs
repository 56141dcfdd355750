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
mod raw;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidemark_env::clock;
use tidemark_env::random::Random;
use tidemark_env::sim::{Host, Weather, World};
use tidemark_env::task;

use crate::checker::{self, Event};
use crate::entropy;
use bucket::{BucketFaults, SimBucket};
use faults::Faults;
use machine::{LostVoter, Machine};

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
    /// Keeps a line of everything that happens.
    pub lines: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            brokers: 3,
            seconds: 60,
            tiered: false,
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
    lost_voters: Vec<LostVoter>,
}

impl Record {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds to the history.
    pub(crate) fn event(&self, event: Event) {
        tracing::trace!("{event:?}");
        let mut inner = self.lock();
        inner.acknowledged += u64::from(matches!(event, Event::Acked { .. }));
        inner.history.push(event);
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

async fn history(seed: u64, options: Options) -> Report {
    let world = World::new(seed);
    if options.lines {
        world.keep_lines();
    }
    let record = Record::default();
    let tier = options
        .tiered
        .then(|| SimBucket::new(&world, &record, Random::new(seed, 5)));
    let machines: Vec<Machine> = (0..options.brokers)
        .map(|index| Machine::new(&world, index, options.brokers, tier.as_ref(), &record))
        .collect();
    let clients: Vec<Arc<Host>> = (0..3)
        .map(|index| world.add_host(&format!("client-{index}")))
        .collect();
    for machine in &machines {
        machine.start();
    }
    let mut faults = Faults::new(Random::new(seed, 3), &world, &record);
    if matches!(seed % 8, 0 | 3) {
        faults = faults.with_disks(Random::new(seed, 7));
    }
    let mut over_bucket = tier
        .as_ref()
        .map(|bucket| BucketFaults::new(bucket.clone(), Random::new(seed, 6)));
    // One topic in three is kept in part only.
    let tiered = tier.as_ref().map(|bucket| Tiered {
        bucket: bucket.clone(),
        retention_bytes: seed.is_multiple_of(3).then_some(RETENTION_BYTES),
    });
    let load = load::start(
        &clients,
        &machines,
        tiered.as_ref(),
        &record,
        Random::new(seed, 4),
    );
    let end = clock::monotonic() + Duration::from_secs(options.seconds);
    while clock::monotonic() < end {
        clock::sleep(TICK).await;
        // Not before there is something to lose.
        if load.is_ready() {
            faults.tick(&machines, &clients).await;
            if let Some(over_bucket) = &mut over_bucket {
                over_bucket.tick(&machines).await;
            }
        }
        for machine in &machines {
            machine.tick().await;
        }
    }
    faults.mend(&machines);
    if let Some(over_bucket) = &mut over_bucket {
        over_bucket.mend(&machines);
    }
    world.set_weather(Weather::default());
    load.wait_for("acknowledgements");
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
        if let Some(over_bucket) = &mut over_bucket {
            over_bucket.drain();
        }
        for machine in &machines {
            machine.tick().await;
        }
        if clock::monotonic() > healed {
            record.broken(format!(
                "{} s after everything was mended, clients are not served: {}",
                HEAL.as_secs(),
                load.waits_for()
            ));
            break;
        }
    }
    for machine in &machines {
        machine.stop().await;
    }
    let inner = std::mem::take(&mut *record.lock());
    let mut broken = inner.broken;
    let anomalies = checker::check(&inner.history);
    broken.extend(anomalies.iter().map(ToString::to_string));
    let disks: Vec<_> = machines.iter().map(|machine| machine.host.disk()).collect();
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
        faults: faults.count() + over_bucket.map_or(0, |over| over.count),
        acknowledged: inner.acknowledged,
        lasted_ms: u64::try_from(world.elapsed().as_millis()).unwrap_or(u64::MAX),
        broken,
        lines: world.take_lines(),
    }
}
