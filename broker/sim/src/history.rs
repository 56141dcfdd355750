//! A history: a data directory that is used, killed, cut off from its power, and opened
//! again, for as long as its seed says.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use tidemark_env::disk::{Disk, MemDisk};
use tidemark_log::{OpenError, ReadPlan, RecoveredDir};
use tidemark_records::Batch;
use tidemark_wal::{LogId, Lsn, RingId};
use tidemark_wire::Uuid;

use crate::check;
use crate::directory::{Directory, Open, Sizes, Wanted};
use crate::random::{Random, Trace};
use crate::shadow::Shadow;

/// What a history is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// Steps at most.
    pub max_steps: u64,
    /// Logs at the beginning.
    pub max_logs: u64,
    /// Whether the steps are kept, for people to read.
    pub keep_steps: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_steps: 200,
            max_logs: 6,
            keep_steps: false,
        }
    }
}

/// What a history saw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Hash of all that happened.
    pub trace: Trace,
    /// How often what happened.
    pub seen: BTreeMap<&'static str, u64>,
}

/// An invariant that did not hold.
#[derive(Debug)]
pub struct Violation {
    /// The seed.
    pub seed: u64,
    /// What is wrong.
    pub what: String,
    /// The steps up to there.
    pub steps: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            writeln!(f, "  {step}")?;
        }
        writeln!(f, "seed {}: {}", self.seed, self.what)?;
        write!(
            f,
            "again: SIM_SEED={} cargo test -p tidemark-sim",
            self.seed
        )
    }
}

/// A read that was planned and not carried out yet.
pub(crate) struct HeldRead {
    pub(crate) plan: ReadPlan,
    /// What lay before it when it was planned.
    pub(crate) expected: Vec<Batch>,
}

pub(crate) struct World {
    pub(crate) random: Random,
    pub(crate) sizes: Sizes,
    pub(crate) disk: MemDisk,
    pub(crate) path: PathBuf,
    /// What the metadata places here.
    pub(crate) image: Vec<Wanted>,
    pub(crate) shadows: BTreeMap<[u8; 16], Shadow>,
    pub(crate) up: Option<Directory>,
    /// Opened, and not known to checkpoints yet.
    pub(crate) opening: Option<(LogId, Open)>,
    pub(crate) reads: Vec<HeldRead>,
    /// The newest group that something was put into.
    pub(crate) needed: Lsn,
    /// Groups reported durable in this life of the directory, and those of before.
    pub(crate) reported: Lsn,
    /// The group after that may have reached the disk.
    pub(crate) in_flight: bool,
    /// The disk answered with EIO.
    pub(crate) failed: bool,
    /// The disk has little room.
    pub(crate) tight: bool,
    pub(crate) made: u64,
    pub(crate) report: Report,
    pub(crate) steps: Option<Vec<String>>,
}

impl World {
    fn new(seed: u64, options: &Options) -> Self {
        let disk = MemDisk::new();
        let mut random = Random::new(seed, 1);
        let mut sizes = Sizes::default();
        if random.one_in(4) {
            // Batches larger than a chunk fit, too.
            sizes.log.segment_bytes = 20_000;
        }
        if random.one_in(4) {
            sizes.wal_bytes = 72 << 10;
        }
        Self {
            random,
            sizes,
            disk,
            path: PathBuf::from("/data"),
            image: Vec::new(),
            shadows: BTreeMap::new(),
            up: None,
            opening: None,
            reads: Vec::new(),
            needed: 0,
            reported: 0,
            in_flight: false,
            failed: false,
            tight: false,
            made: 0,
            report: Report::default(),
            steps: options.keep_steps.then(Vec::new),
        }
    }

    pub(crate) fn saw(&mut self, what: &'static str) {
        *self.report.seen.entry(what).or_default() += 1;
    }

    pub(crate) fn say(&mut self, what: impl FnOnce() -> String) {
        let text = what();
        self.report.trace.add(text.as_bytes());
        if let Some(steps) = &mut self.steps {
            steps.push(text);
        }
    }

    /// An error is fine where the disk was made to give it.
    pub(crate) fn trouble(&mut self, what: &str, error: &dyn fmt::Display) -> Result<(), String> {
        let text = error.to_string();
        self.say(|| format!("  {what}: {text}"));
        if self.disk.power_is_off() {
            return Ok(());
        }
        if text.contains("os error 28") && self.tight {
            self.saw("no room");
            return Ok(());
        }
        if text.contains("os error 5)") {
            self.saw("disk failed");
            self.failed = true;
            return Ok(());
        }
        Err(format!("{what}: {text}"))
    }

    pub(crate) fn new_topic(&mut self, name: String) -> Wanted {
        self.made += 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.random.number().to_be_bytes());
        id[8..].copy_from_slice(&self.made.to_be_bytes());
        let topic = Uuid(id);
        self.shadows.insert(id, Shadow::new(topic, name.clone()));
        Wanted { topic, name }
    }

    fn new_ring(&mut self) -> RingId {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.random.number().to_be_bytes());
        id[8..].copy_from_slice(&self.random.number().to_be_bytes());
        RingId(id)
    }

    /// The process ends; what the disk has depends on `power_cut`.
    pub(crate) fn crash(&mut self, power_cut: bool) {
        if let Some(up) = &self.up {
            self.reported = self.reported.max(up.wal.durable_lsn());
        }
        // Where it was the disk that ended it, a group may have been under way.
        self.in_flight |= self.failed || self.disk.power_is_off();
        self.up = None;
        self.opening = None;
        self.reads.clear();
        self.failed = false;
        self.disk.clear_faults();
        // Or it was only the process that ended in the middle of something.
        let off = self.disk.power_is_off();
        let cut = power_cut || (off && self.random.one_in(2));
        self.say(|| (if cut { "power cut" } else { "kill" }).to_owned());
        if cut {
            self.saw("power cut");
            let seed = self.random.number();
            match self.random.below(8) {
                0 => self.disk.crash(),
                1 | 2 => self.disk.crash_with_seed(seed),
                _ => self.disk.crash_torn(seed),
            }
        } else {
            self.saw(if off { "kill in a step" } else { "kill" });
            self.disk.restart();
        }
    }

    /// Opens the directory, crashing in the middle of it now and then.
    pub(crate) fn reopen(&mut self) -> Result<(), String> {
        let mut found: Option<Lsn> = None;
        for attempt in 0.. {
            if attempt > 20 {
                return Err("the directory cannot be opened".to_owned());
            }
            if attempt < 4 && self.random.one_in(3) {
                let most = if self.random.one_in(2) { 20 } else { 120 };
                let left = self.random.below(most);
                self.say(|| format!("opening, with power for {left} changes"));
                self.disk.cut_power_after(left);
            } else {
                self.say(|| "opening".to_owned());
            }
            let done = self.try_open(&mut found);
            self.disk.keep_power();
            match done {
                Ok(()) if !self.disk.power_is_off() => break,
                Ok(()) => {}
                Err(Trouble::Violation(what)) => return Err(what),
                Err(Trouble::Disk(error)) => self.trouble("open", &error)?,
            }
            self.saw("recovery ended by a crash");
            if self.tight && !self.disk.power_is_off() {
                // Somebody makes room, or the broker would not come up.
                self.tight = false;
                self.disk.set_capacity(None);
            }
            let cut = self.random.one_in(2);
            self.crash(cut);
        }
        self.in_flight = false;
        self.after_open()
    }

    fn try_open(&mut self, found: &mut Option<Lsn>) -> Result<(), Trouble> {
        let mut recovered = Directory::read(&self.disk, &self.path)?;
        let lsn = recovered.next_lsn - 1;
        self.check_found(&recovered, lsn, *found)?;
        *found = Some(lsn);
        if recovered.torn.is_some() {
            self.saw("torn tail");
        }
        let ring = self.new_ring();
        let mut up = Directory::begin(&self.disk, &self.path, &self.sizes, ring, &recovered)?;
        Directory::set_strays_aside(&self.disk, &self.path, &self.image)?;
        self.needed = lsn;
        let mut problem = None;
        for wanted in &self.image {
            let (id, open) = up.open(wanted, Some(&mut recovered), &self.sizes.log)?;
            self.needed = self.needed.max(open.created.unwrap_or(0));
            let shadow = &self.shadows[&wanted.topic.0];
            if let Err(what) = check::recovered(&open.log, shadow, lsn) {
                problem = Some(format!("{} (log {}): {what}", wanted.name, id.0));
                break;
            }
            up.add(id, open);
        }
        match problem {
            Some(_) if self.disk.power_is_off() => {
                return Err(Trouble::Disk("no power to look".to_owned()));
            }
            Some(what) => return Err(Trouble::Violation(what)),
            None => {}
        }
        up.opened().map_err(OpenError::from)?;
        for (id, open) in &up.logs {
            let shadow = self.shadows.get_mut(&open.topic.0);
            let shadow = shadow.expect("every log of the image has a shadow");
            let state = check::recovered(&open.log, shadow, lsn);
            match state {
                Ok(state) => {
                    let (end, start) = (state.end, state.log_start);
                    shadow.found(state);
                    shadow.log = Some(*id);
                    let name = shadow.name.clone();
                    let text = format!("  {name}: log {}, {start} to {end}, group {lsn}", id.0);
                    self.report.trace.add(text.as_bytes());
                    if let Some(steps) = &mut self.steps {
                        steps.push(text);
                    }
                }
                Err(_) if self.disk.power_is_off() => {
                    return Err(Trouble::Disk("no power to look".to_owned()));
                }
                Err(what) => return Err(Trouble::Violation(what)),
            }
        }
        self.shadows
            .retain(|id, _| self.image.iter().any(|wanted| wanted.topic.0 == *id));
        self.reported = lsn;
        self.in_flight = false;
        self.up = Some(up);
        Ok(())
    }

    /// How far the groups go that were found, and whose they are.
    fn check_found(
        &self,
        recovered: &RecoveredDir,
        lsn: Lsn,
        before: Option<Lsn>,
    ) -> Result<(), Trouble> {
        let highest = self.reported + u64::from(self.in_flight);
        if lsn < self.reported || lsn > highest {
            return Err(Trouble::Violation(format!(
                "I11: groups up to {} were reported durable, up to {highest} were written, \
                 and {lsn} is the last that was found",
                self.reported
            )));
        }
        if before.is_some_and(|before| before != lsn) {
            return Err(Trouble::Violation(format!(
                "I11: the last group was {before:?}, and after a crash in the recovery it is {lsn}"
            )));
        }
        for ((topic, _), (id, _)) in recovered.left() {
            let shadow = self.shadows.get(&topic.0);
            if shadow.is_some_and(|shadow| shadow.deleted.is_some_and(|at| at <= lsn)) {
                return Err(Trouble::Violation(format!(
                    "I12: log {} was deleted and is known again",
                    id.0
                )));
            }
        }
        Ok(())
    }
}

/// Why a start did not go on.
pub(crate) enum Trouble {
    /// An invariant does not hold.
    Violation(String),
    /// The disk said no.
    Disk(String),
}

impl From<OpenError> for Trouble {
    fn from(error: OpenError) -> Self {
        Trouble::Disk(error.to_string())
    }
}

impl From<std::io::Error> for Trouble {
    fn from(error: std::io::Error) -> Self {
        Trouble::Disk(error.to_string())
    }
}

/// Runs the history of `seed`.
///
/// # Errors
/// The first invariant that does not hold.
pub fn run(seed: u64, options: &Options) -> Result<Report, Violation> {
    let mut world = World::new(seed, options);
    let done = catch_unwind(AssertUnwindSafe(|| {
        let disk = &world.disk;
        disk.create_dir_all(&world.path)
            .and_then(|()| disk.sync_dir(&PathBuf::from("/")))
            .map_err(|error| error.to_string())?;
        world.live(options)
    }));
    let failed = match done {
        Ok(Ok(())) => return Ok(world.report),
        Ok(Err(what)) => what,
        Err(panic) => panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .map_or_else(|| "a panic".to_owned(), |text| format!("panic: {text}")),
    };
    if !options.keep_steps {
        // Once more, to tell the steps.
        let told = Options {
            keep_steps: true,
            ..options.clone()
        };
        run(seed, &told)?;
    }
    Err(Violation {
        seed,
        what: failed,
        steps: world.steps.take().unwrap_or_default(),
    })
}
