//! The scenario of 1,000 consumers that wait at the end of one topic.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll;

use crate::contender::Running;
use crate::experiment::{Bench, Observed, Outcome, WindowRecord, check_flushed, resident_mib, say};
use crate::failure::{Failure, Result, while_doing};
use crate::load::{RECORD_BYTES, Window, first_ack};
use crate::many::raise_file_limit;
use crate::plan::order;
use crate::raw::Raw;
use crate::scenario::{MAIN, Scenario};
use crate::stats::{Reading, percentile};
use crate::topics::{create_topic, delete_topics};
use crate::wire::{self, ByPartition};

/// Nothing takes longer, or the run ends.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the scenario on brokers that have seen nothing else, so that their memory is that of
/// the connections.
pub fn run(bench: &Bench<'_>) -> Result<Outcome> {
    raise_file_limit();
    let mut outcome = Outcome::default();
    let who = Scenario::Tailing.contenders(bench.contenders);
    let mut running = Vec::new();
    for &contender in &who {
        let name = format!("{}-{}", contender.name(), Scenario::Tailing.name());
        let mut broker = bench.places.start(contender, &name)?;
        first_ack(&mut broker, bench.load)?;
        // Discarded, so that a JVM has compiled what will be measured.
        window(bench, &broker, "tail-warm", 0, &mut Outcome::default())?;
        running.push(broker);
    }
    for round in 0..bench.plan.rounds {
        for contender in order(&who, round) {
            if let Some(broker) = running.iter_mut().find(|b| b.contender == contender) {
                let topic = format!("tail-{round}");
                window(bench, broker, &topic, round, &mut outcome)?;
                broker.check_alive()?;
            }
        }
    }
    for broker in running {
        broker.stop(bench.keep);
    }
    Ok(outcome)
}

/// Connects everybody, then produces at the fixed rate and measures.
fn window(
    bench: &Bench<'_>,
    broker: &Running,
    topic: &str,
    round: usize,
    outcome: &mut Outcome,
) -> Result<()> {
    let plan = bench.plan;
    let contender = broker.contender;
    create_topic(&broker.bootstrap, topic, MAIN.partitions, None)?;
    // Every partition has a leader and a connection to it before anybody waits.
    let mut producer = Raw::connect(&broker.bootstrap).map_err(while_doing("connecting"))?;
    for partition in 0..MAIN.partitions {
        let began = Instant::now();
        while let Err(e) = produce(&mut producer, topic, partition, 0) {
            if began.elapsed() > PATIENCE {
                return Err(e);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    let mut crowd = Crowd::connect(&broker.bootstrap, topic, plan.tail_consumers)
        .map_err(while_doing("connecting consumers"))?;
    crowd
        .settle()
        .map_err(while_doing("opening fetch sessions"))?;
    let resident = resident_mib(broker)?;

    let mut observed = Observed::new(broker, &bench.places.data, true);
    observed.begin()?;
    let epoch = crowd.epoch;
    let (done, produced) = mpsc::channel();
    let count = (plan.tail_s * f64::from(plan.tail_rate)) as u64;
    let name = topic.to_owned();
    let rate = f64::from(plan.tail_rate);
    let thread = std::thread::spawn(move || {
        let mut late_ms = Vec::new();
        let start = Instant::now();
        for record in 0..count {
            let intended = start + Duration::from_secs_f64(record as f64 / rate);
            std::thread::sleep(intended.saturating_duration_since(Instant::now()));
            late_ms.push(intended.elapsed().as_secs_f64() * 1e3);
            let micros = (intended - epoch).as_micros() as u64 + 1;
            let partition = (record % MAIN.partitions as u64) as i32;
            if let Err(e) = produce(&mut producer, &name, partition, micros) {
                // The other end waits for as long as we live.
                done.send(Err(e)).unwrap_or_default();
                return;
            }
        }
        done.send(Ok(late_ms)).unwrap_or_default();
    });
    let read = crowd.read(count, Duration::from_secs_f64(plan.tail_s) + PATIENCE);
    observed.end()?;
    let sent = produced.recv_timeout(PATIENCE);
    thread.join().ok();
    let mut late_ms = match sent {
        Ok(sent) => sent?,
        Err(_) => return Err(Failure::Unreachable("the producer's thread died".into())),
    };
    read.map_err(while_doing("tailing"))?;
    let missing = crowd.members.iter().filter(|m| m.seen < count).count();
    if missing > 0 {
        return Err(Failure::Finding(format!(
            "{}: {missing} of {} consumers did not see all {count} acknowledged records",
            contender.name(),
            crowd.members.len()
        )));
    }
    let seen = observed
        .seen
        .ok_or_else(|| Failure::Finding("a window never ended".into()))?;
    check_flushed(contender, seen.flushes, &format!("{count} records"))?;
    let delivered = count * crowd.members.len() as u64;
    let mut put = |key: &str, value: f64, quiet: bool| {
        let reading = Reading { value, quiet };
        outcome.readings.put(key, contender, round, reading);
    };
    let p50 = percentile(&mut crowd.latencies_ms, 0.5).unwrap_or_default();
    let p99 = percentile(&mut crowd.latencies_ms, 0.99).unwrap_or_default();
    put("tail.p50", p50, seen.quiet());
    put("tail.p99", p99, seen.quiet());
    put("tail.cpu", seen.percent(), seen.quiet());
    let micros = seen.run_s * 1e6 / delivered as f64;
    put("tail.cpu_per_record", micros, seen.quiet());
    put("tail.rss", resident, true);
    if let Some(flushes) = seen.flushes {
        let per_s = flushes.durable() as f64 / seen.wall_s;
        put("tail.flushes", per_s, seen.quiet());
    }
    say(&format!(
        "{topic} {}: p50 {p50:.1} ms, p99 {p99:.1} ms, {:.1} % of a core, {resident:.0} MiB, {} fetches without a session",
        contender.name(),
        seen.percent(),
        crowd.full_fetches - crowd.members.len() as u64,
    ));
    outcome.windows.push(WindowRecord {
        round,
        contender,
        phase: "tail".to_owned(),
        mb: (delivered * RECORD_BYTES as u64) as f64 / 1e6,
        seconds: seen.wall_s,
        cpu_s: seen.run_s,
        cpu_exact: seen.exact,
        wait_share: seen.wait_share,
        stolen_share: seen.stolen_share,
        flushes: seen.flushes,
        lateness_p99_ms: percentile(&mut late_ms, 0.99),
    });
    crowd
        .close()
        .map_err(while_doing("closing fetch sessions"))?;
    delete_topics(&broker.bootstrap, &[topic])
}

/// One record whose value begins with `micros`.
fn produce(producer: &mut Raw, topic: &str, partition: i32, micros: u64) -> Result<()> {
    let mut value = vec![0x5a; RECORD_BYTES];
    value[..8].copy_from_slice(&micros.to_be_bytes());
    let batches = [(partition, wire::batch(&[&value], 0))].into();
    let answer = producer
        .produce(&[(topic.to_owned(), batches)].into())
        .map_err(while_doing("producing"))?;
    match answer.values().flat_map(BTreeMap::values).next() {
        Some((0, _)) => Ok(()),
        other => Err(Failure::Finding(format!(
            "producing to {topic}-{partition}: {other:?}"
        ))),
    }
}

/// A consumer: a connection, a fetch session, and where it is in every partition.
struct Member {
    stream: TcpStream,
    input: Vec<u8>,
    session: i32,
    epoch: i32,
    offsets: BTreeMap<i32, i64>,
    seen: u64,
    answers: u64,
    leaving: Leaving,
}

/// How far a consumer is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
    /// It stays.
    No,
    /// The answer to its last fetch ends it; then it closes its session.
    Soon,
    /// Its session is being closed.
    Closing,
    /// It is gone.
    Gone,
}

/// All consumers, served by one thread.
struct Crowd {
    poll: std::os::fd::OwnedFd,
    members: Vec<Member>,
    topic: String,
    /// Intended times of records are microseconds after this, plus one.
    epoch: Instant,
    latencies_ms: Vec<f64>,
    full_fetches: u64,
}

impl Crowd {
    fn connect(bootstrap: &str, topic: &str, count: usize) -> std::io::Result<Crowd> {
        let partitions = (0..MAIN.partitions).map(|p| (p, ())).collect();
        let ends = Raw::connect(bootstrap)?.ends(&[(topic.to_owned(), partitions)].into())?;
        let offsets: BTreeMap<i32, i64> = ends
            .into_values()
            .flatten()
            .map(|(p, (_, end))| (p, end))
            .collect();
        let mut crowd = Crowd {
            poll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            members: Vec::new(),
            topic: topic.to_owned(),
            epoch: Instant::now(),
            latencies_ms: Vec::new(),
            full_fetches: 0,
        };
        for i in 0..count {
            let stream = TcpStream::connect(bootstrap)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let data = epoll::EventData::new_u64(i as u64);
            epoll::add(&crowd.poll, &stream, data, epoll::EventFlags::IN)?;
            crowd.members.push(Member {
                stream,
                input: Vec::new(),
                session: 0,
                epoch: 0,
                offsets: offsets.clone(),
                seen: 0,
                answers: 0,
                leaving: Leaving::No,
            });
            crowd.ask(i, offsets.clone())?;
        }
        Ok(crowd)
    }

    /// Sends a fetch that names these partitions.
    fn ask(&mut self, i: usize, changed: BTreeMap<i32, i64>) -> std::io::Result<()> {
        let member = &mut self.members[i];
        let mut named = ByPartition::new();
        if member.epoch == 0 {
            self.full_fetches += 1;
            named.insert(self.topic.clone(), member.offsets.clone());
        } else if !changed.is_empty() {
            named.insert(self.topic.clone(), changed);
        }
        let body = wire::fetch(member.session, member.epoch, &named);
        let request = wire::frame(wire::FETCH, member.answers as i32, &body);
        // One small request is out at a time: it always fits into the socket's buffer.
        member.stream.write_all(&request)
    }

    /// Waits until everybody has had an answer, so that all sessions are open.
    fn settle(&mut self) -> std::io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.members.iter().any(|m| m.answers == 0) {
            self.turn()?;
            if Instant::now() > deadline {
                return Err(ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }

    /// Closes all sessions as the Java client does: left open they would fill the broker's cache
    /// of sessions, and the next crowd would have none.
    fn close(&mut self) -> std::io::Result<()> {
        for member in &mut self.members {
            member.leaving = Leaving::Soon;
        }
        let deadline = Instant::now() + PATIENCE;
        while self.members.iter().any(|m| m.leaving != Leaving::Gone) {
            self.turn()?;
            if Instant::now() > deadline {
                return Err(ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }

    /// Serves everybody until each has seen `count` records or `patience` is over.
    fn read(&mut self, count: u64, patience: Duration) -> std::io::Result<()> {
        let deadline = Instant::now() + patience;
        let all = count * self.members.len() as u64;
        while (self.latencies_ms.len() as u64) < all && Instant::now() < deadline {
            self.turn()?;
        }
        Ok(())
    }

    /// Waits for a moment and serves who has something to read.
    fn turn(&mut self) -> std::io::Result<()> {
        let mut events = Vec::with_capacity(256);
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: 100_000_000,
        };
        epoll::wait(
            &self.poll,
            rustix::buffer::spare_capacity(&mut events),
            Some(&timeout),
        )?;
        for event in events {
            self.serve(event.data.u64() as usize)?;
        }
        Ok(())
    }

    /// Reads what is there; a whole answer is counted and the next fetch sent.
    fn serve(&mut self, i: usize) -> std::io::Result<()> {
        let mut chunk = [0; 65_536];
        let member = &mut self.members[i];
        match member.stream.read(&mut chunk) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => member.input.extend_from_slice(&chunk[..n]),
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(e) => return Err(e),
        }
        let Some(length) = member.input.first_chunk::<4>() else {
            return Ok(());
        };
        let end = 4 + i32::from_be_bytes(*length) as usize;
        if member.input.len() < end {
            return Ok(());
        }
        let answer: Vec<u8> = member.input.drain(..end).collect();
        let fetched = wire::fetched(&answer[8..]).ok_or_else(crate::raw::unreadable)?;
        if fetched.error != 0 {
            let text = format!("a fetch failed with code {}", fetched.error);
            return Err(std::io::Error::other(text));
        }
        member.answers += 1;
        match member.leaving {
            Leaving::No => {}
            Leaving::Soon if fetched.session_id != 0 => {
                member.leaving = Leaving::Closing;
                let body = wire::fetch(fetched.session_id, -1, &ByPartition::new());
                let request = wire::frame(wire::FETCH, member.answers as i32, &body);
                return member.stream.write_all(&request);
            }
            _ => {
                member.leaving = Leaving::Gone;
                return Ok(());
            }
        }
        member.session = fetched.session_id;
        // Without a session (the broker's cache of them is full) every fetch names everything.
        member.epoch = if fetched.session_id == 0 {
            0
        } else {
            member.epoch + 1
        };
        let now = Instant::now();
        let mut changed = BTreeMap::new();
        for (partition, part) in fetched.partitions.into_values().flatten() {
            let from = member.offsets.get(&partition).copied().unwrap_or_default();
            let (seen, latencies) = (&mut member.seen, &mut self.latencies_ms);
            let next = wire::values(part.records, from, |value| {
                let micros = value.first_chunk().map_or(0, |v| u64::from_be_bytes(*v));
                if micros > 0 {
                    *seen += 1;
                    let intended = self.epoch + Duration::from_micros(micros - 1);
                    latencies.push(now.saturating_duration_since(intended).as_secs_f64() * 1e3);
                }
            });
            let next = next.filter(|_| part.error == 0);
            let next = next.ok_or_else(crate::raw::unreadable)?;
            if next > from {
                member.offsets.insert(partition, next);
                changed.insert(partition, next);
            }
        }
        self.ask(i, changed)
    }
}
