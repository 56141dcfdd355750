//! The promises about ratios, and how they are judged. Pure.

use serde::Serialize;

use crate::plan::{Contender, DEFAULTS, LARGE, Phase};
use crate::scenario::{ONE_BY_ONE_ALONE, Scenario, Step};
use crate::stats::Ratio;

/// A promise about a ratio.
#[derive(Debug, Clone, Serialize)]
pub struct Bar {
    /// Key of the measure.
    pub key: String,
    /// The promise in words.
    pub text: String,
    /// The other side.
    pub base: Contender,
    /// The measure of the other side, where it is not the same one.
    pub base_key: Option<String>,
    /// What the ratio is held against.
    pub limit: f64,
    /// Which side of the limit is the right one.
    pub side: Side,
    /// True for tails: missed only when the whole interval is on the wrong side, because the same
    /// binary's tails differ many times from run to run.
    pub by_interval: bool,
}

/// The right side of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// Less than the limit.
    Under,
    /// Not more than the limit.
    AtMost,
    /// Not less than the limit.
    AtLeast,
}

impl Side {
    /// How it is written.
    pub fn sign(self) -> &'static str {
        match self {
            Side::Under => "<",
            Side::AtMost => "≤",
            Side::AtLeast => "≥",
        }
    }

    fn holds(self, value: f64, limit: f64) -> bool {
        match self {
            Side::Under => value < limit,
            Side::AtMost => value <= limit,
            Side::AtLeast => value >= limit,
        }
    }
}

/// A bar and what was measured.
#[derive(Debug, Clone, Serialize)]
pub struct BarResult {
    /// The bar.
    pub bar: Bar,
    /// The ratio, `None` when it was not measured.
    pub ratio: Option<Ratio>,
    /// Which side of the bar it is on.
    pub verdict: Verdict,
}

/// Where the paired ratios stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// On the right side.
    Pass,
    /// On the wrong side.
    Fail,
    /// No pairs.
    NotMeasured,
}

impl Bar {
    /// Judged by the median, or for tails by the end of the interval that is on the better side.
    pub fn judge(&self, ratio: Option<&Ratio>) -> Verdict {
        let Some(ratio) = ratio else {
            return Verdict::NotMeasured;
        };
        let value = match (self.by_interval, self.side) {
            (false, _) => ratio.median,
            (true, Side::AtLeast) => ratio.high,
            (true, _) => ratio.low,
        };
        if self.side.holds(value, self.limit) {
            Verdict::Pass
        } else {
            Verdict::Fail
        }
    }
}

impl BarResult {
    /// True when the interval has the bar in it: another run may say otherwise.
    pub fn close(&self) -> bool {
        self.ratio
            .is_some_and(|r| r.low < self.bar.limit && self.bar.limit < r.high)
    }
}

fn bar(key: String, text: String, base: Contender, side: Side, limit: f64) -> Bar {
    Bar {
        by_interval: key.ends_with(".p99"),
        key,
        text,
        base,
        base_key: None,
        limit,
        side,
    }
}

/// The bars of a scenario.
pub fn bars(scenario: Scenario) -> Vec<Bar> {
    match scenario {
        Scenario::Main => main_bars(),
        Scenario::Partitions | Scenario::Producers | Scenario::SlowDisk => produce_bars(scenario),
        Scenario::TenThousand => vec![
            bar(
                "many.rss".into(),
                "10,000 partitions: resident memory under a tenth of Kafka's".into(),
                Contender::Kafka,
                Side::Under,
                0.1,
            ),
            bar(
                "many.start.killed".into(),
                "10,000 partitions: start after kill -9 at least five times sooner than Kafka's"
                    .into(),
                Contender::Kafka,
                Side::AtMost,
                0.2,
            ),
        ],
        Scenario::Tailing => Vec::new(),
        Scenario::Replicated => replicated_bars(),
        Scenario::Tls => tls_bars(),
    }
}

fn main_bars() -> Vec<Bar> {
    use Contender::{Kafka, KafkaFsync};
    let under =
        |key: &str, text: &str, limit| bar(key.into(), text.into(), Kafka, Side::Under, limit);
    let mut bars = vec![
        under(
            "rss.idle",
            "resident memory idle: under a tenth of Kafka's",
            0.1,
        ),
        under(
            "rss.loaded",
            "resident memory after load: under a fifth of Kafka's",
            0.2,
        ),
        under("start", "start to first ack: under a tenth of Kafka's", 0.1),
    ];
    for phase in [
        Phase::Consume(DEFAULTS),
        Phase::Consume(LARGE),
        Phase::ConsumeAt(20),
    ] {
        let text = format!("{}: CPU per GB not above Kafka's", phase.title());
        let key = format!("{}.cpu", phase.key());
        bars.push(bar(key, text, Kafka, Side::AtMost, 1.0));
    }
    for phase in [Phase::Produce(DEFAULTS), Phase::ProduceAt(20)] {
        let text = format!(
            "{}: CPU per GB under Kafka's with an fsync per batch",
            phase.title()
        );
        let key = format!("{}.cpu", phase.key());
        bars.push(bar(key, text, KafkaFsync, Side::Under, 1.0));
    }
    bars
}

/// CPU and tails not above Kafka's without fsync; against Kafka with fsync twice the throughput,
/// and from 12 partitions on a fifth of its tail.
fn produce_bars(scenario: Scenario) -> Vec<Bar> {
    use Contender::{Kafka, KafkaFsync};
    let mut bars = Vec::new();
    for step in scenario.steps() {
        let (key, title) = (step.key(), step.title());
        if let Phase::Produce(_) = step.phase {
            let text = format!("{title}: CPU per GB not above Kafka's");
            bars.push(bar(format!("{key}.cpu"), text, Kafka, Side::AtMost, 1.0));
            if scenario != Scenario::SlowDisk {
                let text = format!("{title}: MB/s at least twice Kafka's with an fsync per batch");
                let key = format!("{key}.mb_s");
                bars.push(bar(key, text, KafkaFsync, Side::AtLeast, 2.0));
            }
        } else {
            let key = format!("{key}.p99");
            let text = format!("{title}: p99 not above Kafka's");
            bars.push(bar(key.clone(), text, Kafka, Side::AtMost, 1.0));
            if scenario != Scenario::SlowDisk && step.shape.partitions >= 12 {
                let text =
                    format!("{title}: p99 at most a fifth of Kafka's with an fsync per batch");
                bars.push(bar(key, text, KafkaFsync, Side::AtMost, 0.2));
            }
        }
    }
    bars
}

/// Half of Kafka's CPU, and no tail above its.
fn replicated_bars() -> Vec<Bar> {
    let of_step = |step: Step| {
        let (key, title) = (step.key(), step.title());
        let cpu = || {
            let text = format!("{title}: CPU per GB at most half of Kafka's");
            bar(
                format!("{key}.cpu"),
                text,
                Contender::Kafka,
                Side::AtMost,
                0.5,
            )
        };
        let p99 = || {
            let text = format!("{title}: p99 not above Kafka's");
            bar(
                format!("{key}.p99"),
                text,
                Contender::Kafka,
                Side::AtMost,
                1.0,
            )
        };
        match step.phase {
            Phase::Produce(_) => vec![cpu()],
            Phase::ProduceAt(_) => vec![cpu(), p99()],
            Phase::OneByOne => vec![p99()],
            Phase::Consume(_) | Phase::ConsumeAt(_) => Vec::new(),
        }
    };
    let steps = Scenario::Replicated.steps();
    let three = steps.iter().filter(|step| **step != ONE_BY_ONE_ALONE);
    let mut bars: Vec<Bar> = three.copied().flat_map(of_step).collect();
    // What one replica takes is a round trip and a flush, seen by the same client.
    if let Some(step) = steps.iter().find(|step| step.phase == Phase::OneByOne) {
        bars.push(Bar {
            base_key: Some(format!("{}.p50", ONE_BY_ONE_ALONE.key())),
            ..bar(
                format!("{}.p50", step.key()),
                format!(
                    "{}: p50 within three times what one replica takes (a round trip and a flush)",
                    step.title()
                ),
                Contender::Tidemark,
                Side::AtMost,
                3.0,
            )
        });
    }
    bars
}

/// CPU per byte both ways, not behind.
fn tls_bars() -> Vec<Bar> {
    let of_step = |step: Step| {
        let (key, text) = (
            format!("{}.cpu", step.key()),
            format!("{}: CPU per GB at most Kafka's", step.title()),
        );
        bar(key, text, Contender::Kafka, Side::AtMost, 1.0)
    };
    Scenario::Tls.steps().into_iter().map(of_step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::readings::measures;
    use crate::scenario::ALL;

    fn ratio(low: f64, median: f64, high: f64) -> Ratio {
        Ratio {
            median,
            low,
            high,
            pairs: 7,
            noisy: 0,
            kept_noisy: false,
        }
    }

    #[test]
    fn every_bar_is_over_a_measure_of_its_scenario() {
        for scenario in ALL {
            let keys: Vec<String> = measures(scenario).into_iter().map(|m| m.key).collect();
            for bar in bars(scenario) {
                assert!(keys.contains(&bar.key), "{}", bar.key);
            }
        }
    }

    #[test]
    fn a_tail_is_missed_only_by_its_whole_interval() {
        let tail = bar(
            "x.p99".into(),
            String::new(),
            Contender::Kafka,
            Side::AtMost,
            1.0,
        );
        assert_eq!(tail.judge(Some(&ratio(0.9, 1.5, 2.0))), Verdict::Pass);
        assert_eq!(tail.judge(Some(&ratio(1.1, 1.5, 2.0))), Verdict::Fail);
        let cpu = bar(
            "x.cpu".into(),
            String::new(),
            Contender::Kafka,
            Side::AtMost,
            1.0,
        );
        assert_eq!(cpu.judge(Some(&ratio(0.9, 1.5, 2.0))), Verdict::Fail);
        assert_eq!(cpu.judge(None), Verdict::NotMeasured);
    }

    #[test]
    fn throughput_has_a_lower_bar() {
        let twice = bar(
            "x.mb_s".into(),
            String::new(),
            Contender::Kafka,
            Side::AtLeast,
            2.0,
        );
        assert_eq!(twice.judge(Some(&ratio(1.0, 2.0, 3.0))), Verdict::Pass);
        assert_eq!(twice.judge(Some(&ratio(1.0, 1.9, 3.0))), Verdict::Fail);
    }

    #[test]
    fn tails_against_fsync_begin_at_twelve_partitions() {
        let against_fsync: Vec<String> = bars(Scenario::Partitions)
            .into_iter()
            .filter(|b| b.base == Contender::KafkaFsync && b.by_interval)
            .map(|b| b.key)
            .collect();
        assert_eq!(against_fsync.len(), 4, "{against_fsync:?}");
        assert!(against_fsync.iter().all(|k| !k.starts_with("p1.")));
        let slow = bars(Scenario::SlowDisk);
        assert!(!slow.is_empty() && slow.iter().all(|b| b.base == Contender::Kafka));
    }
}
