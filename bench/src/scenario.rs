//! What can be measured in one run, and the windows of each part. Pure.

use serde::Serialize;

use crate::plan::{Contender, DEFAULTS, Phase, Plan};

/// A part of a run with a table of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// Produce, consume, memory, idle CPU and start with 12 partitions and one producer.
    Main,
    /// Produce to 1, 12 and 256 partitions.
    Partitions,
    /// The same from eight producers.
    Producers,
    /// Produce with every durable write of ours made 2 ms longer.
    SlowDisk,
    /// 10,000 partitions: memory, idle CPU, start.
    TenThousand,
    /// 1,000 consumers at the end of one topic.
    Tailing,
    /// Clusters of three brokers, three replicas, two of which an acknowledgement needs.
    Replicated,
    /// Produce and consume over TLS.
    Tls,
}

/// All of them, in the order of a run.
pub const ALL: [Scenario; 8] = [
    Scenario::Main,
    Scenario::Partitions,
    Scenario::Producers,
    Scenario::SlowDisk,
    Scenario::TenThousand,
    Scenario::Tailing,
    Scenario::Replicated,
    Scenario::Tls,
];

/// Microseconds that `slow-disk` adds to every durable write of ours.
pub const DISK_DELAY_US: u32 = 2000;

impl Scenario {
    /// Name on the command line and in tables.
    pub fn name(self) -> &'static str {
        match self {
            Scenario::Main => "main",
            Scenario::Partitions => "partitions",
            Scenario::Producers => "producers",
            Scenario::SlowDisk => "slow-disk",
            Scenario::TenThousand => "ten-thousand",
            Scenario::Tailing => "tailing",
            Scenario::Replicated => "replicated",
            Scenario::Tls => "tls",
        }
    }

    /// Who of those asked for takes part.
    ///
    /// Kafka's flush setting changes neither an idle broker nor one with a few records a second,
    /// and its flushes cannot be delayed. Replicas are what it sets in the place of flushes.
    pub fn contenders(self, asked: &[Contender]) -> Vec<Contender> {
        let mut who = asked.to_vec();
        let without_fsync = matches!(
            self,
            Scenario::SlowDisk
                | Scenario::TenThousand
                | Scenario::Tailing
                | Scenario::Replicated
                | Scenario::Tls
        );
        if without_fsync && who.contains(&Contender::Kafka) {
            who.retain(|c| *c != Contender::KafkaFsync);
        }
        who
    }

    /// The windows of a round, for the scenarios that are made of produce and consume windows.
    pub fn steps(self) -> Vec<Step> {
        let shapes: &[Shape] = match self {
            Scenario::Main => {
                return Plan::phases()
                    .into_iter()
                    .map(|phase| Step { shape: MAIN, phase })
                    .collect();
            }
            Scenario::Partitions => &[ONE, TWELVE, MANY],
            Scenario::Producers => &[EIGHT_TO_ONE, EIGHT, EIGHT_TO_MANY],
            Scenario::SlowDisk => &[SLOW],
            Scenario::Replicated => {
                let phases = [
                    Phase::Produce(DEFAULTS),
                    Phase::Consume(DEFAULTS),
                    Phase::ProduceAt(5),
                    Phase::ProduceAt(20),
                    Phase::OneByOne,
                ];
                let replicated = phases.map(|phase| Step {
                    shape: THREE,
                    phase,
                });
                return [&replicated[..], &[ONE_BY_ONE_ALONE]].concat();
            }
            Scenario::Tls => {
                let phases = [
                    Phase::Produce(DEFAULTS),
                    Phase::Consume(DEFAULTS),
                    Phase::ProduceAt(20),
                ];
                let private = phases.map(|phase| Step {
                    shape: PRIVATE,
                    phase,
                });
                return private.to_vec();
            }
            Scenario::TenThousand | Scenario::Tailing => &[],
        };
        let phases = [
            Phase::Produce(DEFAULTS),
            Phase::ProduceAt(5),
            Phase::ProduceAt(20),
        ];
        shapes
            .iter()
            .flat_map(|&shape| phases.map(|phase| Step { shape, phase }))
            .collect()
    }
}

/// How wide a load is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Shape {
    /// Prefix of keys and topics; empty in `main`.
    pub name: &'static str,
    /// What a table adds to the phase.
    pub title: &'static str,
    /// Partitions of the topic.
    pub partitions: i32,
    /// Producers that share the load.
    pub producers: u32,
    /// Replicas of each partition, where it is not what the brokers give by themselves.
    pub replicas: Option<i32>,
}

const fn shape(name: &'static str, title: &'static str, partitions: i32, producers: u32) -> Shape {
    Shape {
        name,
        title,
        partitions,
        producers,
        replicas: None,
    }
}

/// 12 partitions, one producer.
pub const MAIN: Shape = shape("", "", 12, 1);
const ONE: Shape = shape("p1", "1 partition", 1, 1);
const TWELVE: Shape = shape("p12", "12 partitions", 12, 1);
const MANY: Shape = shape("p256", "256 partitions", 256, 1);
const EIGHT_TO_ONE: Shape = shape("x8p1", "8 producers, 1 partition", 1, 8);
const EIGHT: Shape = shape("x8", "8 producers", 12, 8);
const EIGHT_TO_MANY: Shape = shape("x8p256", "8 producers, 256 partitions", 256, 8);
/// The shape of `replicated`.
const THREE: Shape = shape("r3", "3 brokers", 12, 1);
/// Partitions of one replica in the same cluster: a record costs a round trip and, here, a flush.
const ALONE: Shape = Shape {
    replicas: Some(1),
    ..shape("r1", "3 brokers, 1 replica", 12, 1)
};
/// What the three replicas' single records are held against.
pub const ONE_BY_ONE_ALONE: Step = Step {
    shape: ALONE,
    phase: Phase::OneByOne,
};
/// The shape of `tls`.
const PRIVATE: Shape = shape("tls", "TLS", 12, 1);
/// The shape of `slow-disk`.
pub const SLOW: Shape = shape("slow", "ours + 2 ms per flush", 12, 1);

/// One kind of window under one shape of load.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Step {
    /// How wide.
    pub shape: Shape,
    /// What.
    pub phase: Phase,
}

impl Step {
    /// Key in measures.
    pub fn key(&self) -> String {
        self.named(self.phase)
    }

    /// The key of another phase under the same shape.
    pub fn named(&self, phase: Phase) -> String {
        match self.shape.name {
            "" => phase.key(),
            name => format!("{name}.{}", phase.key()),
        }
    }

    /// Name in a table.
    pub fn title(&self) -> String {
        match self.shape.title {
            "" => self.phase.title(),
            title => format!("{title}: {}", self.phase.title()),
        }
    }

    /// True when records are written.
    pub fn writes(&self) -> bool {
        !matches!(self.phase, Phase::Consume(_) | Phase::ConsumeAt(_))
    }
}

/// Parses `--scenario`: names separated by commas, or `all`. The order is that of a run.
pub fn parse_scenarios(text: &str) -> std::result::Result<Vec<Scenario>, String> {
    if text.trim() == "all" {
        return Ok(ALL.to_vec());
    }
    let mut chosen = Vec::new();
    for name in text.split(',') {
        let known = ALL.iter().find(|s| s.name() == name.trim());
        chosen.push(*known.ok_or_else(|| {
            let names: Vec<&str> = ALL.iter().map(|s| s.name()).collect();
            format!("no scenario named {name:?}: {}, all", names.join(", "))
        })?);
    }
    chosen.sort();
    chosen.dedup();
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenarios_have_names() {
        assert_eq!(parse_scenarios("all"), Ok(ALL.to_vec()));
        assert_eq!(
            parse_scenarios("tailing, main,main"),
            Ok(vec![Scenario::Main, Scenario::Tailing])
        );
        assert!(parse_scenarios("").is_err());
        assert!(parse_scenarios("mian").unwrap_err().contains("slow-disk"));
    }

    #[test]
    fn keys_of_different_steps_differ() {
        let mut keys: Vec<String> = ALL
            .iter()
            .flat_map(|s| s.steps())
            .map(|s| s.key())
            .collect();
        let all = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), all);
        assert!(keys.contains(&"produce.16k".to_owned()));
        assert!(keys.contains(&"p256.produce.at20".to_owned()));
    }

    #[test]
    fn kafka_with_fsync_sits_out_where_it_changes_nothing() {
        use Contender::{Kafka, KafkaFsync, Tidemark};
        let all = [Tidemark, Kafka, KafkaFsync];
        assert_eq!(Scenario::Main.contenders(&all), all);
        assert_eq!(Scenario::Tailing.contenders(&all), [Tidemark, Kafka]);
        let asked = [Tidemark, KafkaFsync];
        assert_eq!(Scenario::Tailing.contenders(&asked), asked);
    }
}
