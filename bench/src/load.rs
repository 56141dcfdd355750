//! The load generator: librdkafka as producer and consumer, and topics for it.

use std::net::{SocketAddr, TcpStream};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rdkafka::Offset;
use rdkafka::client::ClientContext;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use rdkafka::topic_partition_list::TopicPartitionList;

use crate::client;
use crate::contender::Running;
use crate::failure::{Failure, Result, while_doing};
use crate::plan::{Batching, DEFAULTS, SINGLE, due_after_tick};
use crate::scenario::Shape;
use crate::stats::split_mix;

/// Bytes of every record's value.
pub const RECORD_BYTES: usize = 1024;
/// No step waits longer for a broker.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two records that are sent one by one: nothing is left to do meanwhile.
const PAUSE: Duration = Duration::from_millis(10);

/// What a produce window sent and how it was acknowledged.
#[derive(Debug, Clone, Default)]
pub struct Produced {
    /// Records acknowledged.
    pub records: u64,
    /// From the first send to the last acknowledgement.
    pub seconds: f64,
    /// Milliseconds from the intended time of a record to its acknowledgement; open loop only.
    pub latencies_ms: Vec<f64>,
    /// Milliseconds that sends were behind their intended times; open loop only.
    pub lateness_ms: Vec<f64>,
}

/// What a consume window read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Consumed {
    /// Bytes of values.
    pub bytes: u64,
    /// From assignment to the last record, over all passes.
    pub seconds: f64,
}

#[derive(Default)]
struct AckState {
    acked: u64,
    failed: u64,
    first_error: Option<String>,
    last: Option<Instant>,
    latencies_ms: Vec<f64>,
}

/// Collects acknowledgements. The opaque of a record is its intended time in microseconds after
/// `epoch`, plus one; zero means that nobody asks for its latency.
struct Acks {
    epoch: Instant,
    state: Mutex<AckState>,
}

impl Acks {
    fn new() -> Acks {
        Acks {
            epoch: Instant::now(),
            state: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, AckState> {
        // A poisoned lock still counts: the numbers in it are whole.
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl ClientContext for Acks {}

impl ProducerContext for Acks {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: usize) {
        let now = Instant::now();
        let mut state = self.lock();
        match result {
            Ok(_) => {
                state.acked += 1;
                state.last = Some(now);
                if opaque > 0 {
                    let intended = self.epoch + Duration::from_micros(opaque as u64 - 1);
                    let late = now.saturating_duration_since(intended);
                    state.latencies_ms.push(late.as_secs_f64() * 1e3);
                }
            }
            Err((e, _)) => {
                state.failed += 1;
                state.first_error.get_or_insert_with(|| e.to_string());
            }
        }
    }
}

/// How the load speaks to a broker.
#[derive(Debug, Clone)]
pub struct Load {
    /// `enable.idempotence`; librdkafka then keeps at most five requests, each of one partition,
    /// in flight.
    pub idempotence: bool,
    payloads: Vec<u8>,
}

impl Load {
    /// Prepares records that no compression or deduplication can make smaller.
    pub fn new(idempotence: bool) -> Load {
        let mut state = 1;
        let payloads = (0..(1 << 17))
            .flat_map(|_| split_mix(&mut state).to_le_bytes())
            .collect();
        Load {
            idempotence,
            payloads,
        }
    }

    fn payload(&self, record: u64) -> &[u8] {
        let room = self.payloads.len() - RECORD_BYTES;
        let from = (record as usize).wrapping_mul(1031) % room;
        &self.payloads[from..from + RECORD_BYTES]
    }

    fn producer(&self, bootstrap: &str, batching: Batching) -> Result<ThreadedProducer<Acks>> {
        let in_flight = if self.idempotence {
            5
        } else {
            batching.in_flight
        };
        let mut config = client::config(bootstrap);
        config
            .set("client.id", "bench")
            .set("acks", "all")
            .set("compression.type", "none")
            .set("enable.idempotence", self.idempotence.to_string())
            .set("max.in.flight", in_flight.to_string())
            .set("batch.size", batching.batch_bytes.to_string())
            .set("linger.ms", batching.linger_ms.to_string())
            // The Java client's buffer.memory.
            .set("queue.buffering.max.kbytes", "32768")
            .set("message.timeout.ms", "60000")
            .set("socket.nagle.disable", "true");
        ThreadedProducer::from_config_and_context(&config, Acks::new())
            .map_err(while_doing("making a producer"))
    }

    /// Sends one record to every partition, so that metadata and connections are there.
    fn prime(&self, producer: &ThreadedProducer<Acks>, topic: &str, partitions: i32) -> Result<()> {
        for partition in 0..partitions {
            self.send(producer, topic, partition, 0, 0)?;
        }
        let mut state = settled(producer, partitions as u64, PATIENCE)?;
        if let Some(error) = &state.first_error {
            return Err(Failure::Unreachable(format!(
                "producing to {topic}: {error}"
            )));
        }
        *state = AckState::default();
        Ok(())
    }

    fn send(
        &self,
        producer: &ThreadedProducer<Acks>,
        topic: &str,
        partition: i32,
        record: u64,
        opaque: usize,
    ) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let message: BaseRecord<'_, [u8], [u8], usize> =
                BaseRecord::with_opaque_to(topic, opaque)
                    .partition(partition)
                    .payload(self.payload(record));
            match producer.send(message) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _))
                    if Instant::now() < deadline =>
                {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err((e, _)) => return Err(while_doing("producing")(e)),
            }
        }
    }

    /// As many producers as the load has, connected and with metadata.
    fn producers(
        &self,
        bootstrap: &str,
        topic: &str,
        shape: Shape,
        batching: Batching,
    ) -> Result<Vec<ThreadedProducer<Acks>>> {
        let mut all = Vec::new();
        for _ in 0..shape.producers {
            let producer = self.producer(bootstrap, batching)?;
            self.prime(&producer, topic, shape.partitions)?;
            all.push(producer);
        }
        Ok(all)
    }

    /// Produces as fast as the broker acknowledges, for `seconds` or until `cap_bytes`.
    #[expect(clippy::too_many_arguments, reason = "a window is all of these")]
    pub fn saturate(
        &self,
        bootstrap: &str,
        topic: &str,
        shape: Shape,
        batching: Batching,
        seconds: f64,
        cap_bytes: u64,
        window: &mut dyn Window,
    ) -> Result<Produced> {
        let producers = self.producers(bootstrap, topic, shape, batching)?;
        let cap = cap_bytes / RECORD_BYTES as u64 / u64::from(shape.producers);
        window.begin()?;
        let start = Instant::now();
        let end = start + Duration::from_secs_f64(seconds);
        let sent = each(&producers, |first, producer| {
            let mut sent = 0;
            for record in 0..cap {
                if record % 64 == 0 && Instant::now() >= end {
                    break;
                }
                sent += 1;
                let partition = ((record + first) % shape.partitions as u64) as i32;
                self.send(producer, topic, partition, record, 0)?;
            }
            Ok((sent, Vec::new()))
        })?;
        finish(&producers, start, sent, window)
    }

    /// Open loop: records have intended times, one tick per millisecond, whatever the broker
    /// does. A broker that is so far behind that the window takes twice its time is given no
    /// more: its rate says that it did not keep up.
    pub fn fixed(
        &self,
        bootstrap: &str,
        topic: &str,
        shape: Shape,
        rate_mb_s: u32,
        seconds: f64,
        window: &mut dyn Window,
    ) -> Result<Produced> {
        let producers = self.producers(bootstrap, topic, shape, DEFAULTS)?;
        let share = u64::from(shape.producers);
        window.begin()?;
        let start = Instant::now();
        let give_up = start + Duration::from_secs_f64(2.0 * seconds);
        let sent = each(&producers, |first, producer| {
            let epoch = producer.context().epoch;
            let mut lateness_ms = Vec::new();
            let (mut record, mut sent) = (0, 0);
            for tick in 0..(seconds * 1e3) as u64 {
                let intended = start + Duration::from_millis(tick);
                std::thread::sleep(intended.saturating_duration_since(Instant::now()));
                let now = Instant::now();
                if now > give_up {
                    break;
                }
                lateness_ms.push((now - intended).as_secs_f64() * 1e3);
                let opaque = intended.duration_since(epoch).as_micros() as usize + 1;
                while record < due_after_tick(rate_mb_s, RECORD_BYTES, tick) {
                    // Records go round among the producers, and round the partitions in each.
                    if record % share == first {
                        let turn = record / share + first;
                        let partition = (turn % shape.partitions as u64) as i32;
                        self.send(producer, topic, partition, record, opaque)?;
                        sent += 1;
                    }
                    record += 1;
                }
            }
            Ok((sent, lateness_ms))
        })?;
        finish(&producers, start, sent, window)
    }

    /// Sends a record, waits for its acknowledgement and then for [`PAUSE`], again and again for
    /// `seconds`; each goes to the next partition.
    pub fn one_by_one(
        &self,
        bootstrap: &str,
        topic: &str,
        shape: Shape,
        seconds: f64,
        window: &mut dyn Window,
    ) -> Result<Produced> {
        let producers = self.producers(bootstrap, topic, shape, SINGLE)?;
        window.begin()?;
        let start = Instant::now();
        let end = start + Duration::from_secs_f64(seconds);
        let sent = each(&producers, |_, producer| {
            let epoch = producer.context().epoch;
            let mut sent = 0;
            while Instant::now() < end {
                let opaque = epoch.elapsed().as_micros() as usize + 1;
                let partition = (sent % shape.partitions as u64) as i32;
                self.send(producer, topic, partition, sent, opaque)?;
                sent += 1;
                drop(settled(producer, sent, PATIENCE)?);
                std::thread::sleep(PAUSE);
            }
            Ok((sent, Vec::new()))
        })?;
        finish(&producers, start, sent, window)
    }

    /// Reads a topic from its beginning, again and again for `seconds`, or once at a fixed rate.
    /// Fewer than `expected` records in the first whole pass are lost ones, which ends the run.
    pub fn consume(
        &self,
        bootstrap: &str,
        topic: &str,
        shape: Shape,
        expected: u64,
        pace: Pace,
        window: &mut dyn Window,
    ) -> Result<Consumed> {
        let mut config = client::config(bootstrap);
        config
            .set("client.id", "bench")
            // librdkafka wants a name; partitions are assigned by hand, nobody joins.
            .set("group.id", "bench")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "false")
            .set("fetch.min.bytes", "1")
            // At the end of a pass librdkafka waits for the fetch that is out before it begins again.
            .set("fetch.wait.max.ms", "20")
            .set("fetch.max.bytes", "52428800")
            .set("max.partition.fetch.bytes", "1048576")
            .set("socket.nagle.disable", "true");
        if let Pace::Rate { .. } = pace {
            // Read ahead little, or the window would be over before it has begun.
            config
                .set("queued.min.messages", "100")
                .set("queued.max.messages.kbytes", "4096")
                .set("fetch.queue.backoff.ms", "5");
        }
        let consumer: BaseConsumer = config.create().map_err(while_doing("making a consumer"))?;
        let mut from_beginning = TopicPartitionList::new();
        for partition in 0..shape.partitions {
            from_beginning
                .add_partition_offset(topic, partition, Offset::Beginning)
                .map_err(while_doing("naming partitions"))?;
        }
        // Connections, metadata and the search for a coordinator are not what is measured.
        consumer
            .assign(&from_beginning)
            .map_err(while_doing("assigning partitions"))?;
        let first = consumer.poll(PATIENCE / 2).is_some();
        if !first && expected > 0 {
            return Err(Failure::Finding(format!(
                "{topic}: {expected} records were acknowledged, none can be read"
            )));
        }
        window.begin()?;
        let start = Instant::now();
        let mut total = Consumed::default();
        for pass in 0..1000 {
            consumer
                .assign(&from_beginning)
                .map_err(while_doing("assigning partitions"))?;
            let mut seen = 0;
            while seen < expected {
                match pace {
                    Pace::Rate { mb_s, seconds } => {
                        let wanted = due_after_tick(mb_s, RECORD_BYTES, elapsed_ms(start));
                        if seen >= wanted {
                            std::thread::sleep(Duration::from_millis(1));
                        }
                        if start.elapsed().as_secs_f64() >= seconds {
                            break;
                        }
                        if seen >= wanted {
                            continue;
                        }
                    }
                    // The first pass is whole: it is the check that nothing is lost.
                    Pace::Fast { seconds } => {
                        if pass > 0 && start.elapsed().as_secs_f64() >= seconds {
                            break;
                        }
                    }
                }
                match consumer.poll(Duration::from_secs(15)) {
                    Some(Ok(message)) => {
                        seen += 1;
                        total.bytes += message.payload_len() as u64;
                    }
                    Some(Err(e)) => return Err(while_doing("consuming")(e)),
                    None => {
                        return Err(Failure::Finding(format!(
                            "{topic}: {expected} records were acknowledged, {seen} can be read"
                        )));
                    }
                }
            }
            total.seconds = start.elapsed().as_secs_f64();
            match pace {
                Pace::Fast { seconds } if total.seconds < seconds => {}
                _ => break,
            }
        }
        window.end()?;
        Ok(total)
    }
}

/// How fast a consume window reads.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// As fast as possible, for at least these seconds.
    Fast {
        /// Length of the window.
        seconds: f64,
    },
    /// At this rate for these seconds, or until the topic ends.
    Rate {
        /// Megabytes per second.
        mb_s: u32,
        /// Length of the window.
        seconds: f64,
    },
}

/// What is read off a broker around the measured part of a load.
pub trait Window {
    /// The load is about to begin.
    fn begin(&mut self) -> Result<()>;
    /// The last record is through.
    fn end(&mut self) -> Result<()>;
}

/// A window that measures nothing.
pub struct Unmeasured;

impl Window for Unmeasured {
    fn begin(&mut self) -> Result<()> {
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        Ok(())
    }
}

fn elapsed_ms(start: Instant) -> u64 {
    start.elapsed().as_millis() as u64
}

/// Waits until `sent` records are acknowledged or failed. Not `flush`: that looks every 100 ms,
/// and it ends the linger.
fn settled(
    producer: &ThreadedProducer<Acks>,
    sent: u64,
    patience: Duration,
) -> Result<MutexGuard<'_, AckState>> {
    let deadline = Instant::now() + patience;
    loop {
        let state = producer.context().lock();
        if state.acked + state.failed >= sent {
            return Ok(state);
        }
        if Instant::now() > deadline {
            let missing = sent - state.acked - state.failed;
            let seconds = patience.as_secs();
            return Err(Failure::Unreachable(format!(
                "{missing} of {sent} records were not acknowledged within {seconds} s"
            )));
        }
        drop(state);
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What one producer sent, and how late its sends were in milliseconds.
type Sent = (u64, Vec<f64>);

/// Lets every producer send from a thread of its own.
fn each(
    producers: &[ThreadedProducer<Acks>],
    send: impl Fn(u64, &ThreadedProducer<Acks>) -> Result<Sent> + Sync,
) -> Result<Vec<Sent>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = producers
            .iter()
            .enumerate()
            .map(|(i, producer)| {
                let send = &send;
                scope.spawn(move || send(i as u64, producer))
            })
            .collect();
        threads
            .into_iter()
            .map(|t| {
                t.join()
                    .unwrap_or_else(|_| Err(Failure::Unreachable("a producer thread died".into())))
            })
            .collect()
    })
}

fn finish(
    producers: &[ThreadedProducer<Acks>],
    start: Instant,
    sent: Vec<Sent>,
    window: &mut dyn Window,
) -> Result<Produced> {
    for (producer, (count, _)) in producers.iter().zip(&sent) {
        drop(settled(producer, *count, PATIENCE)?);
    }
    window.end()?;
    let mut all = Produced::default();
    for (producer, (_, lateness_ms)) in producers.iter().zip(sent) {
        let mut state = producer.context().lock();
        if state.failed > 0 {
            let why = state.first_error.take().unwrap_or_default();
            return Err(Failure::Finding(format!(
                "{} records failed, the first: {why}",
                state.failed
            )));
        }
        let last = state.last.unwrap_or(start);
        all.records += state.acked;
        all.seconds = all.seconds.max((last - start).as_secs_f64());
        all.latencies_ms.append(&mut state.latencies_ms);
        all.lateness_ms.extend(lateness_ms);
    }
    Ok(all)
}

/// True when somebody else accepts connections there: a client's own port may be the one that it
/// connects to, and then it has met itself.
fn listens(address: &SocketAddr) -> bool {
    TcpStream::connect_timeout(address, Duration::from_secs(1))
        .is_ok_and(|stream| stream.local_addr().is_ok_and(|local| local != *address))
}

/// Seconds from the spawning of a broker to its first acknowledged record, in a topic that is
/// created by asking for it.
pub fn first_ack(running: &mut Running, load: &Load) -> Result<f64> {
    let deadline = running.spawned + PATIENCE;
    let addresses = client::addresses(&running.bootstrap);
    let first = addresses.split(',').next().unwrap_or_default();
    let address: SocketAddr = first.parse().map_err(while_doing("reading an address"))?;
    while !listens(&address) {
        running.check_alive()?;
        if Instant::now() > deadline {
            let text = format!("{} does not listen after 60 s", running.contender.name());
            return Err(Failure::Unreachable(text));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut config = client::config(&running.bootstrap);
    config
        .set("acks", "all")
        .set("linger.ms", "0")
        .set("message.timeout.ms", "60000")
        // As eager as a client can be: the broker is measured and not a back-off.
        .set("reconnect.backoff.ms", "2")
        .set("reconnect.backoff.max.ms", "10")
        .set("retry.backoff.ms", "2")
        .set("retry.backoff.max.ms", "10")
        .set("topic.metadata.refresh.fast.interval.ms", "5")
        .set("socket.nagle.disable", "true");
    // A client that was unlucky with a half-open port is replaced instead of waited for.
    let mut why = String::new();
    for _ in 0..4 {
        let producer: ThreadedProducer<Acks> =
            ThreadedProducer::from_config_and_context(&config, Acks::new())
                .map_err(while_doing("making a producer"))?;
        load.send(&producer, "bench-first", 0, 0, 0)?;
        match settled(&producer, 1, PATIENCE / 4) {
            Ok(state) => match (state.last, &state.first_error) {
                (Some(at), _) => return Ok((at - running.spawned).as_secs_f64()),
                (None, error) => why = error.clone().unwrap_or_default(),
            },
            Err(e) => why = e.to_string(),
        }
        running.check_alive()?;
    }
    Err(Failure::Unreachable(format!(
        "the first record of {}: {why}",
        running.contender.name()
    )))
}
