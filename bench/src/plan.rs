//! What a run measures, for how long and in which order. Pure.

use serde::Serialize;

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Contender {
    /// Our broker: an acknowledgement means fsynced.
    Tidemark,
    /// Apache Kafka as shipped: the page cache is enough for an acknowledgement.
    Kafka,
    /// Apache Kafka with `log.flush.interval.messages=1`: an fsync per batch.
    KafkaFsync,
}

impl Contender {
    /// Name on the command line and in tables.
    pub fn name(self) -> &'static str {
        match self {
            Contender::Tidemark => "tidemark",
            Contender::Kafka => "kafka",
            Contender::KafkaFsync => "kafka-fsync",
        }
    }

    /// What a table's legend says.
    pub fn legend(self) -> &'static str {
        match self {
            Contender::Tidemark => "fsync before every acknowledgement",
            Contender::Kafka => "as shipped, no fsync before an acknowledgement",
            Contender::KafkaFsync => "log.flush.interval.messages=1",
        }
    }

    /// True when an acknowledgement promises that the record is on the device.
    pub fn promises_fsync(self) -> bool {
        self != Contender::Kafka
    }
}

/// Producer settings of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Batching {
    /// Short name in measures and topics.
    pub name: &'static str,
    /// `batch.size`.
    pub batch_bytes: usize,
    /// `linger.ms`.
    pub linger_ms: u64,
    /// Requests in flight. librdkafka sends one partition per request where the Java client
    /// sends five requests of up to all twelve partitions or 1 MiB: this is the same number of
    /// batches.
    pub in_flight: usize,
}

/// The Java client's defaults.
pub const DEFAULTS: Batching = Batching {
    name: "16k",
    batch_bytes: 16 * 1024,
    linger_ms: 5,
    in_flight: 60,
};

/// Large batches; the linger lets them fill.
pub const LARGE: Batching = Batching {
    name: "256k",
    batch_bytes: 256 * 1024,
    linger_ms: 20,
    in_flight: 20,
};

/// Nothing to wait for: a record leaves as it comes.
pub const SINGLE: Batching = Batching {
    name: "single",
    batch_bytes: 16 * 1024,
    linger_ms: 0,
    in_flight: 1,
};

/// One kind of window.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub enum Phase {
    /// Produce as fast as acknowledgements come.
    Produce(Batching),
    /// Read that topic as fast as possible, again and again.
    Consume(Batching),
    /// Open loop at a fixed rate in MB/s with client defaults.
    ProduceAt(u32),
    /// Read the topic of client defaults at a fixed rate in MB/s.
    ConsumeAt(u32),
    /// Produce single records without a linger to a broker that has nothing else to do.
    OneByOne,
}

impl Phase {
    /// Key of the phase in measures.
    pub fn key(self) -> String {
        match self {
            Phase::Produce(b) => format!("produce.{}", b.name),
            Phase::Consume(b) => format!("consume.{}", b.name),
            Phase::ProduceAt(mb_s) => format!("produce.at{mb_s}"),
            Phase::ConsumeAt(mb_s) => format!("consume.at{mb_s}"),
            Phase::OneByOne => "one".to_owned(),
        }
    }

    /// What the phase is called in a table.
    pub fn title(self) -> String {
        match self {
            Phase::Produce(b) => {
                format!("produce, {} KiB batches, saturated", b.batch_bytes / 1024)
            }
            Phase::Consume(b) => {
                format!("consume, {} KiB batches, saturated", b.batch_bytes / 1024)
            }
            Phase::ProduceAt(mb_s) => format!("produce at {mb_s} MB/s"),
            Phase::ConsumeAt(mb_s) => format!("consume at {mb_s} MB/s"),
            Phase::OneByOne => "one record while idle".to_owned(),
        }
    }
}

/// Lengths of everything.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// Rounds; every phase is run once per round on every contender.
    pub rounds: usize,
    /// Starts on a fresh data directory.
    pub start_trials: usize,
    /// Seconds between the first acknowledgement and the reading of idle memory.
    pub idle_s: f64,
    /// Discarded load before the first round, in bytes of records ...
    pub warm_bytes: u64,
    /// ... or in seconds, whichever is first.
    pub warm_s: f64,
    /// Seconds of a saturated produce window.
    pub produce_s: f64,
    /// Bytes after which a saturated produce window ends early.
    pub produce_cap_bytes: u64,
    /// Seconds of a saturated consume window.
    pub consume_s: f64,
    /// Seconds of a window at a fixed rate.
    pub fixed_s: f64,
    /// Topics of `ten-thousand`.
    pub many_topics: usize,
    /// Partitions of each of them.
    pub many_partitions: i32,
    /// Clean and killed starts of `ten-thousand`.
    pub many_trials: usize,
    /// Seconds that one wait of `ten-thousand` may take before it is given up.
    pub many_patience_s: f64,
    /// Seconds of an idle window of `ten-thousand`.
    pub many_idle_s: f64,
    /// Consumers of `tailing`.
    pub tail_consumers: usize,
    /// Seconds of a tailing window.
    pub tail_s: f64,
    /// Records per second of `tailing`.
    pub tail_rate: u32,
}

impl Plan {
    /// About twenty minutes for three contenders.
    pub const FULL: Plan = Plan {
        rounds: 7,
        start_trials: 5,
        idle_s: 5.0,
        warm_bytes: 2_000_000_000,
        warm_s: 60.0,
        produce_s: 6.0,
        produce_cap_bytes: 1_000_000_000,
        consume_s: 3.0,
        fixed_s: 6.0,
        many_topics: 10,
        many_partitions: 1000,
        many_trials: 3,
        many_patience_s: 240.0,
        many_idle_s: 20.0,
        tail_consumers: 1000,
        tail_s: 10.0,
        tail_rate: 5,
    };

    /// About three minutes: shows that everything works, decides nothing.
    pub const QUICK: Plan = Plan {
        rounds: 2,
        start_trials: 1,
        idle_s: 2.0,
        warm_bytes: 500_000_000,
        warm_s: 8.0,
        produce_s: 2.5,
        produce_cap_bytes: 250_000_000,
        consume_s: 1.5,
        fixed_s: 3.0,
        many_topics: 10,
        many_partitions: 1000,
        many_trials: 1,
        many_patience_s: 120.0,
        many_idle_s: 5.0,
        tail_consumers: 1000,
        tail_s: 4.0,
        tail_rate: 5,
    };

    /// Seconds to see every line of the harness run once; for work on the harness itself.
    pub const TRIAL: Plan = Plan {
        rounds: 1,
        start_trials: 1,
        idle_s: 0.5,
        warm_bytes: 20_000_000,
        warm_s: 1.0,
        produce_s: 0.5,
        produce_cap_bytes: 20_000_000,
        consume_s: 0.3,
        fixed_s: 0.6,
        many_topics: 10,
        many_partitions: 20,
        many_trials: 1,
        many_patience_s: 60.0,
        many_idle_s: 1.0,
        tail_consumers: 50,
        tail_s: 1.0,
        tail_rate: 5,
    };

    /// Phases of a round. A consume phase reads what the produce phase of the same batching left.
    pub fn phases() -> Vec<Phase> {
        vec![
            Phase::Produce(DEFAULTS),
            Phase::Consume(DEFAULTS),
            Phase::Produce(LARGE),
            Phase::Consume(LARGE),
            Phase::ProduceAt(5),
            Phase::ProduceAt(20),
            Phase::ConsumeAt(20),
        ]
    }

    /// Bytes that one round leaves on disk at most, over all contenders, in a scenario of at most
    /// three shapes.
    pub fn bytes_per_round(&self, contenders: usize) -> u64 {
        let fixed = (25_000_000.0 * self.fixed_s) as u64;
        (3 * (self.produce_cap_bytes + fixed)).max(self.warm_bytes) * contenders as u64
    }
}

/// The order within a round: forwards and backwards in turn (ABBA), so that a drift of the
/// machine meets every contender alike.
pub fn order(contenders: &[Contender], round: usize) -> Vec<Contender> {
    let mut order = contenders.to_vec();
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

/// Parses `--only`: names separated by commas; `kafka` alone means both kinds of Kafka.
pub fn parse_only(text: &str) -> std::result::Result<Vec<Contender>, String> {
    let all = [Contender::Tidemark, Contender::Kafka, Contender::KafkaFsync];
    if text == "kafka" {
        return Ok(all[1..].to_vec());
    }
    let mut chosen = Vec::new();
    for name in text.split(',') {
        let known = all.iter().find(|c| c.name() == name.trim());
        chosen.push(
            *known.ok_or_else(|| {
                format!("no contender named {name:?}: tidemark, kafka, kafka-fsync")
            })?,
        );
    }
    chosen.sort();
    chosen.dedup();
    Ok(chosen)
}

/// Records due by the end of `tick` when `rate_mb_s` is spread evenly over ticks of one
/// millisecond.
pub fn due_after_tick(rate_mb_s: u32, record_bytes: usize, tick: u64) -> u64 {
    let bytes = u128::from(rate_mb_s) * 1000 * (u128::from(tick) + 1);
    u64::try_from(bytes / record_bytes as u128).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_alternate() {
        let all = [Contender::Tidemark, Contender::Kafka];
        assert_eq!(order(&all, 0), all);
        assert_eq!(order(&all, 1), [Contender::Kafka, Contender::Tidemark]);
        assert_eq!(order(&all, 2), all);
    }

    #[test]
    fn only_names_contenders() {
        use Contender::{Kafka, KafkaFsync, Tidemark};
        assert_eq!(parse_only("kafka"), Ok(vec![Kafka, KafkaFsync]));
        assert_eq!(parse_only("kafka,tidemark"), Ok(vec![Tidemark, Kafka]));
        assert_eq!(
            parse_only("kafka-fsync, tidemark"),
            Ok(vec![Tidemark, KafkaFsync])
        );
        assert!(parse_only("redis").is_err());
        assert!(parse_only("").is_err());
    }

    #[test]
    fn an_open_loop_is_even_and_never_drifts() {
        let at = |tick| due_after_tick(5, 1024, tick);
        assert_eq!(at(0), 4);
        assert_eq!(at(999), 4882, "5 MB in a second");
        assert!((0..2000).all(|t| (4..=5).contains(&(at(t + 1) - at(t)))));
        assert_eq!(due_after_tick(20, 1024, 9_999), 195_312);
    }

    #[test]
    fn consume_phases_come_after_their_topics() {
        let phases = Plan::phases();
        for (i, phase) in phases.iter().enumerate() {
            let needs = match phase {
                Phase::Consume(b) => Phase::Produce(*b),
                Phase::ConsumeAt(_) => Phase::Produce(DEFAULTS),
                _ => continue,
            };
            assert!(phases[..i].contains(&needs), "{phase:?}");
        }
    }
}
