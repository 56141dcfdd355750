//! The run: starts, warm-up, and rounds of windows on brokers that are all up at the same time.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::contender::{Places, Running};
use crate::failure::{Failure, Result};
use crate::flushes::{Counter, Flushes};
use crate::load::{Consumed, Load, Pace, Produced, RECORD_BYTES, Unmeasured, Window, first_ack};
use crate::memory::WarmMemory;
use crate::plan::{Contender, DEFAULTS, Phase, Plan, order};
use crate::procfs::{CpuSample, TICKS_PER_S, cpu_between, resident_bytes, sample_cpu};
use crate::readings::Readings;
use crate::scenario::{DISK_DELAY_US, MAIN, SLOW, Scenario, Step};
use crate::stats::{Reading, percentile};
use crate::topics::{create_topic, delete_topics};

/// A window in which the hypervisor took more of the processors' time than this is noisy: a
/// quarter of what can move a 99th percentile by itself. That broker threads waited for a core is
/// no gate: on few cores the load is beside them in every window.
pub const NOISE_GATE: f64 = 0.0025;

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
    /// What the hypervisor took, as a share of all processors' time.
    pub stolen_share: f64,
    /// Flushes that the broker asked the kernel for, when they can be counted.
    pub flushes: Option<Flushes>,
    /// How late sends were at the 99th percentile: the generator's own doing.
    pub lateness_p99_ms: Option<f64>,
}

/// What a scenario brings home.
#[derive(Default)]
pub struct Outcome {
    /// Readings of every measure.
    pub readings: Readings,
    /// All windows.
    pub windows: Vec<WindowRecord>,
    /// What else the table rests on.
    pub notes: Vec<String>,
}

/// Reads the broker's counters around a window.
pub struct Observed {
    pids: Vec<u32>,
    metrics: Vec<Option<String>>,
    scratch: PathBuf,
    count_flushes: bool,
    counters: Vec<Counter>,
    before: Option<(CpuSample, Instant)>,
    /// What was read, once the window is over.
    pub seen: Option<Seen>,
}

/// What a broker did in a window.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// CPU-seconds.
    pub run_s: f64,
    /// False when they are from the coarser counter.
    pub exact: bool,
    /// Seconds of waiting for a core per second.
    pub wait_share: f64,
    /// What the hypervisor took, as a share of all processors' time.
    pub stolen_share: f64,
    /// Length of the window in seconds.
    pub wall_s: f64,
    /// Flushes, where they were to be counted and could be.
    pub flushes: Option<Flushes>,
}

impl Seen {
    /// CPU in per cent of a core.
    pub fn percent(&self) -> f64 {
        100.0 * self.run_s / self.wall_s
    }

    /// True when the machine was left to the broker and its load.
    pub fn quiet(&self) -> bool {
        quiet(self.stolen_share)
    }
}

fn quiet(stolen_share: f64) -> bool {
    stolen_share <= NOISE_GATE
}

impl WindowRecord {
    /// True when the machine was left to the broker and its load.
    pub fn quiet(&self) -> bool {
        quiet(self.stolen_share)
    }
}

impl Observed {
    /// A window on `broker` that has not begun; `scratch` is a directory for counters.
    pub fn new(broker: &Running, scratch: &Path, count_flushes: bool) -> Observed {
        Observed {
            pids: broker.pids(),
            metrics: broker.metrics_addresses(),
            scratch: scratch.to_owned(),
            count_flushes,
            counters: Vec::new(),
            before: None,
            seen: None,
        }
    }

    fn sample(&self) -> Result<CpuSample> {
        sample_cpu(&self.pids).ok_or_else(|| {
            Failure::Finding(format!(
                "a broker with one of the pids {:?} is gone",
                self.pids
            ))
        })
    }
}

impl Window for Observed {
    fn begin(&mut self) -> Result<()> {
        // Nobody pays for what another one left in the page cache.
        rustix::fs::sync();
        if self.count_flushes {
            let each = self.pids.iter().zip(&self.metrics);
            let started: Option<Vec<Counter>> = each
                .map(|(pid, metrics)| Counter::start(*pid, &self.scratch, metrics.clone()))
                .collect();
            self.counters = started.unwrap_or_default();
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
            stolen_share: used.stolen_share,
            wall_s,
            flushes: self
                .counters
                .drain(..)
                .map(Counter::stop)
                .reduce(|sum, one| Some(sum?.and(one?)))
                .flatten(),
        });
        Ok(())
    }
}

/// A whole run: what it works with, and brokers that are warm.
pub struct Bench<'a> {
    /// Lengths.
    pub plan: &'a Plan,
    /// Where things are.
    pub places: &'a Places,
    /// The load generator.
    pub load: &'a Load,
    /// Who was asked for.
    pub contenders: &'a [Contender],
    /// Leave the data directories.
    pub keep: bool,
    /// Warmed-up brokers that scenarios of plain produce and consume windows share.
    pub standing: Vec<Running>,
}

impl Bench<'_> {
    /// Runs a scenario of produce and consume windows. After a failure nobody stands any more.
    pub fn run(&mut self, scenario: Scenario) -> Result<Outcome> {
        let mut it = Experiment {
            plan: self.plan,
            places: self.places,
            load: self.load,
            outcome: Outcome::default(),
            acked: BTreeMap::new(),
            memory: WarmMemory::new(&self.places.data)?,
        };
        let done = it.run(scenario, self);
        if done.is_err() {
            self.standing.clear();
        }
        done.map(|()| it.outcome)
    }

    /// Ends the brokers that stand.
    pub fn dismiss(&mut self) {
        for broker in self.standing.drain(..) {
            broker.stop(self.keep);
        }
    }
}

struct Experiment<'a> {
    plan: &'a Plan,
    places: &'a Places,
    load: &'a Load,
    outcome: Outcome,
    /// Records acknowledged in a topic, which a consumer must find.
    acked: BTreeMap<(Contender, String), u64>,
    memory: WarmMemory,
}

/// Progress for people: a line on the error stream.
pub fn say(text: &str) {
    // Nobody reads it: then nobody misses it.
    writeln!(std::io::stderr(), "bench: {text}").unwrap_or_default();
}

/// Resident memory of a broker, or of a cluster together, in MiB.
pub fn resident_mib(broker: &Running) -> Result<f64> {
    let each = broker.pids().into_iter().map(resident_bytes);
    each.sum::<Option<u64>>()
        .map(|bytes| bytes as f64 / f64::from(1 << 20))
        .ok_or_else(|| Failure::Finding(format!("{} is gone", broker.contender.name())))
}

fn topic(round: usize, what: &str) -> String {
    format!("bench-{round}-{what}")
}

impl Experiment<'_> {
    fn run(&mut self, scenario: Scenario, bench: &mut Bench<'_>) -> Result<()> {
        let contenders = scenario.contenders(bench.contenders);
        if scenario == Scenario::Main {
            self.starts(&contenders)?;
        }
        let clusters = scenario == Scenario::Replicated;
        if clusters {
            // Six brokers are enough for one machine.
            bench.dismiss();
        }
        let mut own = Vec::new();
        for &contender in &contenders {
            let name = format!("{}-{}", contender.name(), scenario.name());
            if clusters {
                let started = self.places.start_cluster(contender, &name)?;
                own.push(self.warm(started)?);
            } else if scenario == Scenario::Tls {
                let started = self.places.start_private(contender, &name)?;
                own.push(self.warm(started)?);
            } else if scenario == Scenario::SlowDisk && contender == Contender::Tidemark {
                let set = format!("disk.flush.delay.us={DISK_DELAY_US}");
                let started = self.places.start_with(contender, &name, &[set])?;
                own.push(self.warm(started)?);
            } else if !bench.standing.iter().any(|b| b.contender == contender) {
                let started = self.places.start(contender, &name)?;
                bench.standing.push(self.warm(started)?);
            }
        }
        let is_own = |who: Contender| own.iter().any(|b: &Running| b.contender == who);
        let standing = bench.standing.iter_mut();
        let standing: Vec<&mut Running> = standing.filter(|b| !is_own(b.contender)).collect();
        let mut running: Vec<&mut Running> = own.iter_mut().chain(standing).collect();
        for round in 0..self.plan.rounds {
            let order = order(&contenders, round);
            self.round(scenario, &mut running, &order, round)?;
        }
        if matches!(scenario, Scenario::Main | Scenario::Replicated) {
            self.idle(&mut running)?;
        }
        for broker in own {
            broker.stop(bench.keep);
        }
        Ok(())
    }

    fn warm(&mut self, mut broker: Running) -> Result<Running> {
        let seconds = first_ack(&mut broker, self.load)?;
        if broker.pids().len() > 1 {
            self.put("start", broker.contender, 0, seconds, true);
        }
        self.warm_up(&mut broker)?;
        Ok(broker)
    }

    fn put(&mut self, key: &str, contender: Contender, round: usize, value: f64, quiet: bool) {
        self.outcome
            .readings
            .put(key, contender, round, Reading { value, quiet });
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
                let resident = resident_mib(&broker)?;
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
        create_topic(&at, "bench-warm", MAIN.partitions, None)?;
        let seconds = self.plan.warm_s * 0.75;
        let produced = self.load.saturate(
            &at,
            "bench-warm",
            MAIN,
            DEFAULTS,
            seconds,
            self.plan.warm_bytes,
            &mut Unmeasured,
        )?;
        let pace = Pace::Fast {
            seconds: self.plan.warm_s * 0.25,
        };
        self.load.consume(
            &at,
            "bench-warm",
            MAIN,
            produced.records,
            pace,
            &mut Unmeasured,
        )?;
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

    fn round(
        &mut self,
        scenario: Scenario,
        running: &mut [&mut Running],
        order: &[Contender],
        round: usize,
    ) -> Result<()> {
        for step in scenario.steps() {
            for &contender in order {
                if let Some(broker) = running.iter_mut().find(|b| b.contender == contender) {
                    broker.check_alive()?;
                    let record = self.window(broker, step, round)?;
                    broker.check_alive()?;
                    say(&line(self.plan, &record));
                    self.keep(record, step)?;
                }
            }
        }
        for broker in running.iter() {
            let resident = resident_mib(broker)?;
            self.put("rss.loaded", broker.contender, round, resident, true);
            let steps = scenario.steps();
            let names: Vec<String> = steps
                .iter()
                .filter(|s| s.writes())
                .map(|s| topic(round, &s.key()))
                .collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            delete_topics(&broker.bootstrap, &names)?;
        }
        Ok(())
    }

    /// CPU of brokers that have been used and are left alone, all at the same time.
    fn idle(&mut self, running: &mut [&mut Running]) -> Result<()> {
        std::thread::sleep(Duration::from_secs_f64(self.plan.idle_s));
        let mut observed = Vec::new();
        for broker in running.iter() {
            let mut window = Observed::new(broker, &self.places.data, false);
            window.begin()?;
            observed.push(window);
        }
        std::thread::sleep(Duration::from_secs_f64(self.plan.idle_s));
        for (broker, window) in running.iter_mut().zip(&mut observed) {
            window.end()?;
            broker.check_alive()?;
            if let Some(seen) = window.seen {
                self.put("idle.cpu", broker.contender, 0, seen.percent(), true);
            }
        }
        Ok(())
    }

    fn window(&mut self, broker: &Running, step: Step, round: usize) -> Result<WindowRecord> {
        let at = &broker.bootstrap;
        let contender = broker.contender;
        let (shape, phase) = (step.shape, step.phase);
        let mut window = Observed::new(broker, &self.places.data, step.writes());
        let name = match phase {
            Phase::Consume(batching) => topic(round, &step.named(Phase::Produce(batching))),
            Phase::ConsumeAt(_) => topic(round, &step.named(Phase::Produce(DEFAULTS))),
            _ => topic(round, &step.key()),
        };
        if step.writes() {
            create_topic(at, &name, shape.partitions, shape.replicas)?;
        }
        let acked = self.acked.get(&(contender, name.clone())).copied();
        self.memory.fill()?;
        let (mb, seconds, lateness_p99_ms) = match phase {
            Phase::Produce(batching) => {
                let (seconds, cap) = (self.plan.produce_s, self.plan.produce_cap_bytes);
                let done =
                    self.load
                        .saturate(at, &name, shape, batching, seconds, cap, &mut window)?;
                self.produced(contender, name, &done)
            }
            Phase::ProduceAt(rate) => {
                let mut done =
                    self.load
                        .fixed(at, &name, shape, rate, self.plan.fixed_s, &mut window)?;
                let quiet = window.seen.is_some_and(|s| s.quiet());
                if step.shape == SLOW && contender == Contender::Tidemark {
                    check_delayed(&mut done.latencies_ms)?;
                }
                self.latencies(&step.key(), contender, round, &mut done.latencies_ms, quiet);
                self.produced(contender, name, &done)
            }
            Phase::OneByOne => {
                let seconds = self.plan.fixed_s;
                let mut done = self
                    .load
                    .one_by_one(at, &name, shape, seconds, &mut window)?;
                self.latencies(&step.key(), contender, round, &mut done.latencies_ms, true);
                self.produced(contender, name, &done)
            }
            Phase::Consume(_) | Phase::ConsumeAt(_) => {
                let pace = match phase {
                    Phase::ConsumeAt(mb_s) => Pace::Rate {
                        mb_s,
                        seconds: self.plan.fixed_s,
                    },
                    _ => Pace::Fast {
                        seconds: self.plan.consume_s,
                    },
                };
                let expected = acked.unwrap_or_default();
                consumed(
                    self.load
                        .consume(at, &name, shape, expected, pace, &mut window)?,
                )
            }
        };
        let seen = window
            .seen
            .ok_or_else(|| Failure::Finding("a window never ended".into()))?;
        Ok(WindowRecord {
            round,
            contender,
            phase: step.key(),
            mb,
            seconds,
            cpu_s: seen.run_s,
            cpu_exact: seen.exact,
            wait_share: seen.wait_share,
            stolen_share: seen.stolen_share,
            flushes: seen.flushes,
            lateness_p99_ms,
        })
    }

    fn latencies(
        &mut self,
        key: &str,
        contender: Contender,
        round: usize,
        latencies_ms: &mut [f64],
        quiet: bool,
    ) {
        for (suffix, fraction) in [("p50", 0.5), ("p99", 0.99), ("p999", 0.999)] {
            if let Some(ms) = percentile(latencies_ms, fraction) {
                self.put(&format!("{key}.{suffix}"), contender, round, ms, quiet);
            }
        }
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
    fn keep(&mut self, record: WindowRecord, step: Step) -> Result<()> {
        let (contender, round, key) = (record.contender, record.round, step.key());
        let quiet = record.quiet();
        if record.mb <= 0.0 || record.seconds <= 0.0 {
            let text = format!("{} moved nothing in {key}", contender.name());
            return Err(Failure::Finding(text));
        }
        if step.writes() {
            check_flushed(contender, record.flushes, &format!("{:.0} MB", record.mb))?;
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
            let per_s = flushes.durable() as f64 / record.seconds;
            self.put(&format!("{key}.flushes"), contender, round, per_s, quiet);
        }
        self.outcome.windows.push(record);
        Ok(())
    }
}

/// A broker that promises an fsync before every acknowledgement and was seen to ask for none
/// ends the run.
pub fn check_flushed(
    contender: Contender,
    flushes: Option<Flushes>,
    acknowledged: &str,
) -> Result<()> {
    if contender.promises_fsync() && flushes.is_some_and(|f| f.durable() == 0) {
        return Err(Failure::Finding(format!(
            "{} acknowledged {acknowledged} without one flush: its figures are not about durability",
            contender.name(),
        )));
    }
    Ok(())
}

/// No acknowledgement that waited for a delayed disk can be sooner than the delay.
fn check_delayed(latencies_ms: &mut [f64]) -> Result<()> {
    let delay_ms = f64::from(DISK_DELAY_US) / 1e3;
    match percentile(latencies_ms, 0.0) {
        Some(least) if least < delay_ms => Err(Failure::Finding(format!(
            "a record was acknowledged after {least:.3} ms on a disk that takes {delay_ms} ms longer: the delay is not in force, or the acknowledgement did not wait",
        ))),
        _ => Ok(()),
    }
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
        .map_or(String::new(), |n| format!(", {} flushes", n.durable()));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acknowledgement_before_the_delay_is_a_finding() {
        assert!(check_delayed(&mut [9.0, 2.1, 3.0]).is_ok());
        let early = check_delayed(&mut [9.0, 0.4, 3.0]).unwrap_err();
        assert_eq!(early.exit_code(), 1);
        assert!(early.to_string().contains("0.400 ms"), "{early}");
    }

    #[test]
    fn a_promise_without_a_flush_is_a_finding() {
        let none = Some(Flushes::default());
        assert!(check_flushed(Contender::Tidemark, none, "1 MB").is_err());
        assert!(check_flushed(Contender::Kafka, none, "1 MB").is_ok());
        assert!(
            check_flushed(Contender::Tidemark, None, "1 MB").is_ok(),
            "nobody counted"
        );
        let behind = Some(Flushes {
            syncfs: 9,
            ..Flushes::default()
        });
        assert!(check_flushed(Contender::Tidemark, behind, "1 MB").is_err());
    }
}
