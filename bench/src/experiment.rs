//! The run: starts, warm-up, and rounds of windows on brokers that are all up at the same time.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::contender::{Places, Running};
use crate::failure::{Failure, Result};
use crate::flushes::Counter;
use crate::load::{
    Consumed, Load, Pace, Produced, RECORD_BYTES, Unmeasured, Window, create_topic, delete_topics,
    first_ack,
};
use crate::plan::{Contender, DEFAULTS, Phase, Plan, order};
use crate::procfs::{CpuSample, TICKS_PER_S, cpu_between, resident_bytes, sample_cpu};
use crate::readings::Readings;
use crate::stats::{Reading, percentile};

/// A window in which broker threads waited longer for a core than this share of it is noisy.
pub const NOISE_GATE: f64 = 0.01;

/// Everything about one window, for the JSON output.
#[derive(Debug, Clone, Serialize)]
pub struct WindowRecord {
    /// Round, from zero.
    pub round: usize,
    /// Who.
    pub contender: Contender,
    /// Key of the phase.
    pub phase: String,
    /// Megabytes of record values.
    pub mb: f64,
    /// From the first record to the last acknowledgement or read.
    pub seconds: f64,
    /// CPU-seconds of the broker.
    pub cpu_s: f64,
    /// False when `cpu_s` comes from the coarser counter because threads ended.
    pub cpu_exact: bool,
    /// Seconds that broker threads waited for a core, over the length of the window.
    pub wait_share: f64,
    /// Flushes that the broker asked the kernel for, when they can be counted.
    pub flushes: Option<u64>,
    /// How late sends were at the 99th percentile: the generator's own doing.
    pub lateness_p99_ms: Option<f64>,
}

/// What a run brings home.
pub struct Outcome {
    /// Readings of every measure.
    pub readings: Readings,
    /// All windows.
    pub windows: Vec<WindowRecord>,
}

/// Reads the broker's counters around a window.
struct Observed {
    pid: u32,
    scratch: PathBuf,
    count_flushes: bool,
    counter: Option<Counter>,
    before: Option<(CpuSample, Instant)>,
    seen: Option<Seen>,
}

#[derive(Clone, Copy)]
struct Seen {
    run_s: f64,
    exact: bool,
    wait_share: f64,
    wall_s: f64,
    flushes: Option<u64>,
}

impl Observed {
    fn new(pid: u32, scratch: &Path, count_flushes: bool) -> Observed {
        Observed {
            pid,
            scratch: scratch.to_owned(),
            count_flushes,
            counter: None,
            before: None,
            seen: None,
        }
    }

    fn sample(&self) -> Result<CpuSample> {
        sample_cpu(self.pid)
            .ok_or_else(|| Failure::Finding(format!("the broker with pid {} is gone", self.pid)))
    }
}

impl Window for Observed {
    fn begin(&mut self) -> Result<()> {
        // Nobody pays for what another one left in the page cache.
        rustix::fs::sync();
        if self.count_flushes {
            self.counter = Counter::start(self.pid, &self.scratch);
        }
        self.before = Some((self.sample()?, Instant::now()));
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        let after = self.sample()?;
        let Some((before, began)) = self.before.take() else {
            return Ok(());
        };
        let wall_s = began.elapsed().as_secs_f64();
        let used = cpu_between(&before, &after, TICKS_PER_S);
        self.seen = Some(Seen {
            run_s: used.run_s,
            exact: used.exact,
            wait_share: used.wait_s / wall_s,
            wall_s,
            flushes: self.counter.take().and_then(Counter::stop),
        });
        Ok(())
    }
}

struct Experiment<'a> {
    plan: &'a Plan,
    places: &'a Places,
    load: &'a Load,
    readings: Readings,
    windows: Vec<WindowRecord>,
    /// Records acknowledged in a topic, which a consumer must find.
    acked: BTreeMap<(Contender, String), u64>,
}

/// Runs the whole plan.
pub fn run(
    plan: &Plan,
    places: &Places,
    load: &Load,
    contenders: &[Contender],
    keep: bool,
) -> Result<Outcome> {
    let mut it = Experiment {
        plan,
        places,
        load,
        readings: Readings::default(),
        windows: Vec::new(),
        acked: BTreeMap::new(),
    };
    it.starts(contenders)?;
    let mut running = Vec::new();
    for &contender in contenders {
        let mut broker = places.start(contender, contender.name())?;
        first_ack(&mut broker, load)?;
        running.push(broker);
    }
    for broker in &mut running {
        it.warm_up(broker)?;
    }
    for round in 0..plan.rounds {
        it.round(&mut running, &order(contenders, round), round)?;
    }
    it.idle(&mut running)?;
    for broker in running {
        broker.stop(keep);
    }
    Ok(Outcome {
        readings: it.readings,
        windows: it.windows,
    })
}

/// Progress for people: a line on the error stream.
fn say(text: &str) {
    // Nobody reads it: then nobody misses it.
    writeln!(std::io::stderr(), "bench: {text}").unwrap_or_default();
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn topic(round: usize, what: &str) -> String {
    format!("bench-{round}-{what}")
}

impl Experiment<'_> {
    fn put(&mut self, key: &str, contender: Contender, round: usize, value: f64, quiet: bool) {
        self.readings
            .put(key, contender, round, Reading { value, quiet });
    }

    fn resident(&self, broker: &Running) -> Result<f64> {
        resident_bytes(broker.pid())
            .map(mib)
            .ok_or_else(|| Failure::Finding(format!("{} is gone", broker.contender.name())))
    }

    /// Time to the first acknowledgement and idle memory, one broker at a time. Kafka's flush
    /// setting changes neither.
    fn starts(&mut self, contenders: &[Contender]) -> Result<()> {
        let mut who = contenders.to_vec();
        if who.contains(&Contender::Kafka) && who.contains(&Contender::Tidemark) {
            who.retain(|c| *c != Contender::KafkaFsync);
        }
        for trial in 0..self.plan.start_trials {
            for contender in order(&who, trial) {
                rustix::fs::sync();
                let mut broker = self.places.start(contender, &format!("start-{trial}"))?;
                let seconds = first_ack(&mut broker, self.load)?;
                std::thread::sleep(Duration::from_secs_f64(self.plan.idle_s));
                broker.check_alive()?;
                let resident = self.resident(&broker)?;
                say(&format!(
                    "start {}/{}: {} acknowledged after {seconds:.3} s, {resident:.0} MiB idle",
                    trial + 1,
                    self.plan.start_trials,
                    contender.name()
                ));
                self.put("start", contender, trial, seconds, true);
                self.put("rss.idle", contender, trial, resident, true);
                broker.stop(false);
            }
        }
        Ok(())
    }

    /// Discarded load on every path, so that a JVM has compiled what will be measured.
    fn warm_up(&mut self, broker: &mut Running) -> Result<()> {
        let began = Instant::now();
        let at = broker.bootstrap.clone();
        create_topic(&at, "bench-warm")?;
        let seconds = self.plan.warm_s * 0.75;
        let produced = self.load.saturate(
            &at,
            "bench-warm",
            DEFAULTS,
            seconds,
            self.plan.warm_bytes,
            &mut Unmeasured,
        )?;
        let pace = Pace::Fast {
            seconds: self.plan.warm_s * 0.25,
        };
        self.load
            .consume(&at, "bench-warm", produced.records, pace, &mut Unmeasured)?;
        delete_topics(&at, &["bench-warm", "bench-first"])?;
        broker.check_alive()?;
        say(&format!(
            "{} warmed up with {:.0} MB in {:.0} s",
            broker.contender.name(),
            megabytes(produced.records),
            began.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    fn round(&mut self, running: &mut [Running], order: &[Contender], round: usize) -> Result<()> {
        for phase in Plan::phases() {
            for &contender in order {
                if let Some(broker) = running.iter_mut().find(|b| b.contender == contender) {
                    broker.check_alive()?;
                    let record = self.window(broker, phase, round)?;
                    broker.check_alive()?;
                    say(&line(self.plan, &record));
                    self.keep(record, phase)?;
                }
            }
        }
        for broker in running.iter() {
            let resident = self.resident(broker)?;
            self.put("rss.loaded", broker.contender, round, resident, true);
            let names: Vec<String> = produce_phases()
                .iter()
                .map(|p| topic(round, &p.key()))
                .collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            delete_topics(&broker.bootstrap, &names)?;
        }
        Ok(())
    }

    /// CPU of brokers that have been used and are left alone, all at the same time.
    fn idle(&mut self, running: &mut [Running]) -> Result<()> {
        std::thread::sleep(Duration::from_secs_f64(self.plan.idle_s));
        let mut observed = Vec::new();
        for broker in running.iter() {
            let mut window = Observed::new(broker.pid(), &self.places.data, false);
            window.begin()?;
            observed.push(window);
        }
        std::thread::sleep(Duration::from_secs_f64(self.plan.idle_s));
        for (broker, window) in running.iter_mut().zip(&mut observed) {
            window.end()?;
            broker.check_alive()?;
            if let Some(seen) = window.seen {
                let percent = 100.0 * seen.run_s / seen.wall_s;
                self.put("idle.cpu", broker.contender, 0, percent, true);
            }
        }
        Ok(())
    }

    fn window(&mut self, broker: &Running, phase: Phase, round: usize) -> Result<WindowRecord> {
        let at = &broker.bootstrap;
        let contender = broker.contender;
        let writes = matches!(phase, Phase::Produce(_) | Phase::ProduceAt(_));
        let mut window = Observed::new(broker.pid(), &self.places.data, writes);
        let name = match phase {
            Phase::Consume(batching) => topic(round, &Phase::Produce(batching).key()),
            Phase::ConsumeAt(_) => topic(round, &Phase::Produce(DEFAULTS).key()),
            _ => topic(round, &phase.key()),
        };
        if writes {
            create_topic(at, &name)?;
        }
        let acked = self.acked.get(&(contender, name.clone())).copied();
        let (mb, seconds, lateness_p99_ms) = match phase {
            Phase::Produce(batching) => {
                let (seconds, cap) = (self.plan.produce_s, self.plan.produce_cap_bytes);
                let done = self
                    .load
                    .saturate(at, &name, batching, seconds, cap, &mut window)?;
                self.produced(contender, name, &done)
            }
            Phase::ProduceAt(rate) => {
                let mut done = self
                    .load
                    .fixed(at, &name, rate, self.plan.fixed_s, &mut window)?;
                let quiet = window.seen.is_some_and(|s| s.wait_share <= NOISE_GATE);
                for (suffix, fraction) in [("p50", 0.5), ("p99", 0.99), ("p999", 0.999)] {
                    if let Some(ms) = percentile(&mut done.latencies_ms, fraction) {
                        let key = format!("{}.{suffix}", phase.key());
                        self.put(&key, contender, round, ms, quiet);
                    }
                }
                self.produced(contender, name, &done)
            }
            Phase::Consume(_) => {
                let pace = Pace::Fast {
                    seconds: self.plan.consume_s,
                };
                let expected = acked.unwrap_or_default();
                consumed(self.load.consume(at, &name, expected, pace, &mut window)?)
            }
            Phase::ConsumeAt(mb_s) => {
                let seconds = self.plan.fixed_s;
                let pace = Pace::Rate { mb_s, seconds };
                let expected = acked.unwrap_or_default();
                consumed(self.load.consume(at, &name, expected, pace, &mut window)?)
            }
        };
        let seen = window
            .seen
            .ok_or_else(|| Failure::Finding("a window never ended".into()))?;
        Ok(WindowRecord {
            round,
            contender,
            phase: phase.key(),
            mb,
            seconds,
            cpu_s: seen.run_s,
            cpu_exact: seen.exact,
            wait_share: seen.wait_share,
            flushes: seen.flushes,
            lateness_p99_ms,
        })
    }

    fn produced(
        &mut self,
        contender: Contender,
        name: String,
        done: &Produced,
    ) -> (f64, f64, Option<f64>) {
        self.acked.insert((contender, name), done.records);
        let lateness = percentile(&mut done.lateness_ms.clone(), 0.99);
        (megabytes(done.records), done.seconds, lateness)
    }

    /// Turns a window into readings.
    fn keep(&mut self, record: WindowRecord, phase: Phase) -> Result<()> {
        let (contender, round, key) = (record.contender, record.round, phase.key());
        let quiet = record.wait_share <= NOISE_GATE;
        let writes = matches!(phase, Phase::Produce(_) | Phase::ProduceAt(_));
        if record.mb <= 0.0 || record.seconds <= 0.0 {
            let text = format!("{} moved nothing in {key}", contender.name());
            return Err(Failure::Finding(text));
        }
        if writes && contender.promises_fsync() && record.flushes == Some(0) {
            return Err(Failure::Finding(format!(
                "{} acknowledged {:.0} MB without one flush: its figures are not about durability",
                contender.name(),
                record.mb
            )));
        }
        let per_gb = record.cpu_s / (record.mb / 1e3);
        self.put(&format!("{key}.cpu"), contender, round, per_gb, quiet);
        self.put(
            &format!("{key}.mb_s"),
            contender,
            round,
            record.mb / record.seconds,
            quiet,
        );
        if let Some(flushes) = record.flushes {
            let per_s = flushes as f64 / record.seconds;
            self.put(&format!("{key}.flushes"), contender, round, per_s, quiet);
        }
        self.windows.push(record);
        Ok(())
    }
}

fn produce_phases() -> Vec<Phase> {
    let mut phases = Plan::phases();
    phases.retain(|p| matches!(p, Phase::Produce(_) | Phase::ProduceAt(_)));
    phases
}

fn consumed(done: Consumed) -> (f64, f64, Option<f64>) {
    (done.bytes as f64 / 1e6, done.seconds, None)
}

fn megabytes(records: u64) -> f64 {
    (records * RECORD_BYTES as u64) as f64 / 1e6
}

fn line(plan: &Plan, record: &WindowRecord) -> String {
    let flushes = record
        .flushes
        .map_or(String::new(), |n| format!(", {n} flushes"));
    let late = record.lateness_p99_ms.map_or(String::new(), |ms| {
        format!(", sends {ms:.1} ms late at p99")
    });
    format!(
        "round {}/{}: {} {}: {:.1} MB/s, {:.2} CPU-s/GB, waited {:.1} %{flushes}{late}",
        record.round + 1,
        plan.rounds,
        record.phase,
        record.contender.name(),
        record.mb / record.seconds,
        record.cpu_s / (record.mb / 1e3),
        100.0 * record.wait_share,
    )
}
