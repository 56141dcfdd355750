//! The scenario of 10,000 partitions: memory, idle CPU, and how long a start takes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::contender::Running;
use crate::experiment::{Bench, Observed, Outcome, check_flushed, resident_mib, say};
use crate::failure::{Failure, Result, while_doing};
use crate::load::{RECORD_BYTES, Window, first_ack};
use crate::plan::{Contender, order};
use crate::raw::Raw;
use crate::scenario::Scenario;
use crate::stats::Reading;
use crate::topics::create_topic;
use crate::wire::{self, ByPartition, batch};

/// Records of the batch that every second partition has before a kill.
const RECORDS: usize = 16;
/// Descriptors that 10,000 partitions or 1,000 connections never need all of.
const FILES: u64 = 131_072;

/// Raises the limit of open files for this process and the brokers it starts, as far as it may.
pub fn raise_file_limit() {
    let now = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: Some(FILES),
        maximum: Some(now.maximum.unwrap_or(FILES).max(FILES)),
    };
    let allowed = Rlimit {
        current: now.maximum,
        maximum: now.maximum,
    };
    // Who may not raise the hard limit still has the soft one; a broker says when it is too low.
    if setrlimit(Resource::Nofile, wanted).is_err() {
        setrlimit(Resource::Nofile, allowed).unwrap_or_default();
    }
}

struct Many<'a> {
    bench: &'a Bench<'a>,
    outcome: Outcome,
    patience: Duration,
    payload: Vec<u8>,
}

/// Runs the scenario.
pub fn run(bench: &Bench<'_>) -> Result<Outcome> {
    raise_file_limit();
    let mut it = Many {
        bench,
        outcome: Outcome::default(),
        patience: Duration::from_secs_f64(bench.plan.many_patience_s),
        payload: vec![0x5a; RECORD_BYTES],
    };
    if let Some(files) = getrlimit(Resource::Nofile).current {
        let note = format!("every broker may have {files} files open");
        it.outcome.notes.push(note);
    }
    let who = Scenario::TenThousand.contenders(bench.contenders);
    let mut running = Vec::new();
    for &contender in &who {
        let name = format!("{}-{}", contender.name(), Scenario::TenThousand.name());
        let mut broker = bench.places.start(contender, &name)?;
        first_ack(&mut broker, bench.load)?;
        if it.populate(&mut broker)? {
            running.push(broker);
        } else {
            broker.stop(bench.keep);
        }
    }
    for broker in &mut running {
        it.idle(broker)?;
    }
    for trial in 0..bench.plan.many_trials {
        for contender in order(&who, trial) {
            let Some(at) = running.iter().position(|b| b.contender == contender) else {
                continue;
            };
            let broker = running.swap_remove(at);
            if let Some(broker) = it.trial(broker, trial)? {
                running.push(broker);
            }
        }
    }
    for broker in running {
        broker.stop(bench.keep);
    }
    Ok(it.outcome)
}

impl Many<'_> {
    fn put(&mut self, key: &str, contender: Contender, round: usize, value: f64, quiet: bool) {
        say(&format!("{key} {}: {value:.3}", contender.name()));
        self.outcome
            .readings
            .put(key, contender, round, Reading { value, quiet });
    }

    /// A wait that was given up: a finding for ours, a note for Kafka.
    fn gave_up(&mut self, broker: &Running, what: &str) -> Result<()> {
        let text = format!(
            "{}: {what} did not finish in {} s; its last words: {}",
            broker.contender.name(),
            self.patience.as_secs(),
            broker.last_words(),
        );
        if broker.contender == Contender::Tidemark {
            return Err(Failure::Finding(text));
        }
        say(&text);
        self.outcome.notes.push(text);
        Ok(())
    }

    fn topic(&self, i: usize) -> String {
        format!("many-{i}")
    }

    fn all(&self) -> ByPartition<()> {
        (0..self.bench.plan.many_topics)
            .map(|t| {
                let partitions = (0..self.bench.plan.many_partitions).map(|p| (p, ()));
                (self.topic(t), partitions.collect())
            })
            .collect()
    }

    /// Creates the topics; false when that took too long.
    fn populate(&mut self, broker: &mut Running) -> Result<bool> {
        let plan = self.bench.plan;
        let began = Instant::now();
        let mut complaint = String::new();
        for topic in 0..plan.many_topics {
            let name = self.topic(topic);
            // An answer that came too late is no answer, but the topic may be there: see below.
            if let Err(e) = create_topic(&broker.bootstrap, &name, plan.many_partitions, None) {
                complaint = e.to_string();
                say(&format!("{}: {complaint}", broker.contender.name()));
            }
            broker.check_alive()?;
        }
        let writable = self.wait_for_ack(broker, began)?.is_some();
        if !writable || !self.wait_for_ends(broker, began)? {
            let what = format!("creating the topics {complaint}");
            self.gave_up(broker, &what)?;
            return Ok(false);
        }
        let seconds = began.elapsed().as_secs_f64();
        self.put("many.create", broker.contender, 0, seconds, true);
        Ok(true)
    }

    /// Seconds from `since` to an acknowledged record on the last partition of the last topic.
    fn wait_for_ack(&self, broker: &mut Running, since: Instant) -> Result<Option<f64>> {
        let plan = self.bench.plan;
        let records = batch(&[&self.payload], 0);
        let last = (plan.many_partitions - 1, records);
        let name = self.topic(plan.many_topics - 1);
        let request: ByPartition<Vec<u8>> = [(name, [last].into())].into();
        let mut connection: Option<Raw> = None;
        while since.elapsed() < self.patience {
            broker.check_alive()?;
            if connection.is_none() {
                connection = Raw::connect(&broker.bootstrap).ok();
            }
            match connection.as_mut().map(|c| c.produce(&request)) {
                Some(Ok(answer)) => {
                    let mut codes = answer.values().flat_map(|t| t.values());
                    if codes.next().is_some_and(|(error, _)| *error == 0) {
                        return Ok(Some(since.elapsed().as_secs_f64()));
                    }
                }
                Some(Err(_)) => connection = None,
                None => {}
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(None)
    }

    /// Waits until every partition tells its end; false when that took too long.
    fn wait_for_ends(&self, broker: &mut Running, since: Instant) -> Result<bool> {
        while since.elapsed() < self.patience {
            broker.check_alive()?;
            if self.ends(broker).is_ok_and(|all| all.is_some()) {
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(false)
    }

    /// The end of every log, or nothing while a partition is not served.
    fn ends(&self, broker: &Running) -> std::io::Result<Option<ByPartition<i64>>> {
        let mut connection = Raw::connect(&broker.bootstrap)?;
        let mut all = ByPartition::new();
        let mut served = true;
        // A topic at a time: nobody asks for 10,000 partitions at once.
        for (topic, partitions) in self.all() {
            let asked = partitions.len();
            let one: ByPartition<()> = [(topic, partitions)].into();
            let answer = connection.ends(&one)?;
            for (topic, partitions) in answer {
                served &= partitions.len() == asked && partitions.values().all(|(e, _)| *e == 0);
                let offsets = partitions.into_iter().map(|(p, (_, end))| (p, end));
                all.insert(topic, offsets.collect());
            }
        }
        Ok(served.then_some(all))
    }

    fn ends_now(&self, broker: &Running) -> Result<ByPartition<i64>> {
        self.ends(broker)
            .map_err(while_doing("asking for the ends of logs"))?
            .ok_or_else(|| Failure::Finding("a partition is not served any more".into()))
    }

    /// Memory, CPU alone, CPU with one consumer of everything.
    fn idle(&mut self, broker: &mut Running) -> Result<()> {
        let seconds = Duration::from_secs_f64(self.bench.plan.many_idle_s);
        let contender = broker.contender;
        std::thread::sleep(seconds / 2);
        self.put("many.rss", contender, 0, resident_mib(broker)?, true);
        let percent = self.idle_window(broker, seconds)?;
        self.put("many.idle.cpu", contender, 0, percent, true);

        let offsets = self.ends_now(broker)?;
        let (stop, polls) = (AtomicBool::new(false), AtomicU64::new(0));
        let (percent, consumed) = std::thread::scope(|scope| {
            let consumer = scope.spawn(|| consume_all(&broker.bootstrap, &offsets, &stop, &polls));
            std::thread::sleep(seconds / 2);
            let before = polls.load(Ordering::Relaxed);
            let percent = self.idle_window(broker, seconds);
            let polled = polls.load(Ordering::Relaxed) - before;
            stop.store(true, Ordering::Relaxed);
            let consumed = consumer.join();
            (percent.map(|p| (p, polled)), consumed)
        });
        match consumed {
            Ok(Ok(())) => {}
            Ok(Err(e)) => return Err(while_doing("consuming everything")(e)),
            Err(_) => return Err(Failure::Unreachable("the consumer's thread died".into())),
        }
        let (percent, polled) = percent?;
        if polled == 0 {
            let text = format!("{}: no fetch was answered in the window", contender.name());
            return Err(Failure::Finding(text));
        }
        self.put("many.consumer.cpu", contender, 0, percent, true);
        broker.check_alive()
    }

    fn idle_window(&self, broker: &Running, length: Duration) -> Result<f64> {
        let mut window = Observed::new(broker, &self.bench.places.data, false);
        window.begin()?;
        std::thread::sleep(length);
        window.end()?;
        let seen = window.seen.ok_or_else(never_ended)?;
        Ok(seen.percent())
    }

    /// A clean stop and start, then a kill and start. Gives the broker back unless it took too
    /// long.
    fn trial(&mut self, mut broker: Running, trial: usize) -> Result<Option<Running>> {
        let contender = broker.contender;
        rustix::fs::sync();
        match broker.stop_within(self.patience) {
            Some(seconds) => self.put("many.stop", contender, trial, seconds, true),
            None => self.gave_up(&broker, "a clean stop")?,
        }
        let mut broker = self.bench.places.restart(broker)?;
        let spawned = broker.spawned;
        let Some(seconds) = self.wait_for_ack(&mut broker, spawned)? else {
            self.gave_up(&broker, "the start after a clean stop")?;
            return Ok(None);
        };
        self.put("many.start.clean", contender, trial, seconds, true);
        if !self.wait_for_ends(&mut broker, spawned)? {
            self.gave_up(&broker, "serving every partition after a clean stop")?;
            return Ok(None);
        }

        let before = self.ends_now(&broker)?;
        let written = self.write(&broker, trial)?;
        broker.kill();
        let mut broker = self.bench.places.restart(broker)?;
        let spawned = broker.spawned;
        let Some(seconds) = self.wait_for_ack(&mut broker, spawned)? else {
            self.gave_up(&broker, "the start after kill -9")?;
            return Ok(None);
        };
        self.put("many.start.killed", contender, trial, seconds, true);
        if !self.wait_for_ends(&mut broker, spawned)? {
            self.gave_up(&broker, "serving every partition after kill -9")?;
            return Ok(None);
        }
        self.check_nothing_lost(contender, &before, &written, &self.ends_now(&broker)?)?;
        Ok(Some(broker))
    }

    /// An acknowledged batch in every second partition; the offset after each.
    fn write(&mut self, broker: &Running, trial: usize) -> Result<ByPartition<i64>> {
        let mut window = Observed::new(broker, &self.bench.places.data, true);
        let mut connection = Raw::connect(&broker.bootstrap).map_err(while_doing("connecting"))?;
        let values: Vec<&[u8]> = vec![&self.payload; RECORDS];
        let records = batch(&values, 0);
        let mut written = ByPartition::new();
        window.begin()?;
        for topic in 0..self.bench.plan.many_topics {
            let name = self.topic(topic);
            let chosen: Vec<i32> = (0..self.bench.plan.many_partitions).step_by(2).collect();
            for some in chosen.chunks(50) {
                let batches = some.iter().map(|p| (*p, records.clone())).collect();
                let answer = connection
                    .produce(&[(name.clone(), batches)].into())
                    .map_err(while_doing("writing to many partitions"))?;
                for (partition, (error, base)) in answer.into_values().flatten() {
                    if error != 0 {
                        return Err(Failure::Finding(format!(
                            "{}: producing to {name}-{partition} failed with code {error}",
                            broker.contender.name()
                        )));
                    }
                    let ends: &mut std::collections::BTreeMap<i32, i64> =
                        written.entry(name.clone()).or_default();
                    ends.insert(partition, base + RECORDS as i64);
                }
            }
        }
        window.end()?;
        let seen = window.seen.ok_or_else(never_ended)?;
        check_flushed(broker.contender, seen.flushes, "a batch per partition")?;
        if let Some(flushes) = seen.flushes {
            let per_s = flushes.durable() as f64 / seen.wall_s;
            self.put("many.flushes", broker.contender, trial, per_s, seen.quiet());
        }
        Ok(written)
    }

    /// Kafka loses nothing at a kill either: the page cache outlives the process.
    fn check_nothing_lost(
        &self,
        contender: Contender,
        before: &ByPartition<i64>,
        written: &ByPartition<i64>,
        after: &ByPartition<i64>,
    ) -> Result<()> {
        for (topic, partitions) in before.iter().chain(written) {
            for (partition, end) in partitions {
                let found = after.get(topic).and_then(|t| t.get(partition));
                if found.is_none_or(|found| found < end) {
                    return Err(Failure::Finding(format!(
                        "{}: {topic}-{partition} ended at {end} before kill -9 and at {found:?} after it",
                        contender.name()
                    )));
                }
            }
        }
        Ok(())
    }
}

fn never_ended() -> Failure {
    Failure::Finding("a window never ended".into())
}

/// Fetches from the ends of all partitions in one session until told to stop.
fn consume_all(
    bootstrap: &str,
    offsets: &ByPartition<i64>,
    stop: &AtomicBool,
    polls: &AtomicU64,
) -> std::io::Result<()> {
    let mut connection = Raw::connect(bootstrap)?;
    let (mut session, mut epoch) = (0, 0);
    let nothing = ByPartition::new();
    while !stop.load(Ordering::Relaxed) {
        let named = if session == 0 { offsets } else { &nothing };
        let answer = connection.fetch(session, epoch, named)?;
        let answer = wire::fetched(&answer).ok_or_else(crate::raw::unreadable)?;
        if answer.error != 0 {
            let text = format!("a fetch failed with code {}", answer.error);
            return Err(std::io::Error::other(text));
        }
        session = answer.session_id;
        epoch = if session == 0 { 0 } else { epoch + 1 };
        polls.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
