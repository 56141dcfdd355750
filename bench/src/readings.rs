//! The measures of a run, their readings per contender and round, and the bars. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::plan::{Contender, DEFAULTS, LARGE, Phase, Plan};
use crate::stats::{Ratio, Reading, median, paired_ratio};

/// Unit of the measures that say how often a broker flushed.
const FLUSHES: &str = "flushes/s";

/// Something that is measured on every contender.
#[derive(Debug, Clone, Serialize)]
pub struct Measure {
    /// Key of its readings.
    pub key: String,
    /// Name in a table.
    pub title: String,
    /// Unit in a table.
    pub unit: &'static str,
    /// True when more is better.
    pub more_is_better: bool,
}

fn measure(key: &str, title: &str, unit: &'static str, more_is_better: bool) -> Measure {
    Measure {
        key: key.to_owned(),
        title: title.to_owned(),
        unit,
        more_is_better,
    }
}

/// All measures in the order of the table.
pub fn measures() -> Vec<Measure> {
    let mut all = Vec::new();
    for phase in Plan::phases() {
        let (key, title) = (phase.key(), phase.title());
        if matches!(phase, Phase::Produce(_) | Phase::Consume(_)) {
            all.push(measure(&format!("{key}.mb_s"), &title, "MB/s", true));
        }
        if let Phase::ProduceAt(_) = phase {
            for (p, name) in [("p50", "p50"), ("p99", "p99"), ("p999", "p99.9")] {
                let title = format!("{title}: {name} to the ack");
                all.push(measure(&format!("{key}.{p}"), &title, "ms", false));
            }
        }
        all.push(measure(&format!("{key}.cpu"), &title, "CPU-s/GB", false));
        if let Phase::Produce(_) | Phase::ProduceAt(_) = phase {
            all.push(measure(&format!("{key}.flushes"), &title, FLUSHES, false));
        }
    }
    all.push(measure(
        "rss.idle",
        "resident memory, idle after start",
        "MiB",
        false,
    ));
    all.push(measure(
        "rss.loaded",
        "resident memory, after load",
        "MiB",
        false,
    ));
    all.push(measure(
        "idle.cpu",
        "CPU while idle, after load",
        "% of a core",
        false,
    ));
    all.push(measure(
        "start",
        "start to the first acknowledged record",
        "s",
        false,
    ));
    all
}

/// Readings by measure and contender; the index of a series is its round.
#[derive(Debug, Clone, Default)]
pub struct Readings {
    series: BTreeMap<(String, Contender), Vec<Option<Reading>>>,
}

impl Readings {
    /// Stores a reading of a round.
    pub fn put(&mut self, key: &str, contender: Contender, round: usize, reading: Reading) {
        let series = self.series.entry((key.to_owned(), contender)).or_default();
        if series.len() <= round {
            series.resize(round + 1, None);
        }
        series[round] = Some(reading);
    }

    fn series(&self, key: &str, contender: Contender) -> &[Option<Reading>] {
        self.series
            .get(&(key.to_owned(), contender))
            .map_or(&[], Vec::as_slice)
    }

    /// The median of a contender over all its rounds.
    pub fn median(&self, key: &str, contender: Contender) -> Option<f64> {
        let values: Vec<f64> = self
            .series(key, contender)
            .iter()
            .flatten()
            .map(|r| r.value)
            .collect();
        median(&values)
    }

    /// The median of paired ratios.
    pub fn ratio(&self, key: &str, subject: Contender, base: Contender) -> Option<Ratio> {
        paired_ratio(self.series(key, subject), self.series(key, base))
    }

    /// One row per measure that has readings.
    pub fn rows(&self, contenders: &[Contender]) -> Vec<Row> {
        let subject = contenders.first().copied();
        measures()
            .into_iter()
            .map(|measure| {
                let values = contenders
                    .iter()
                    .map(|&c| (c, self.median(&measure.key, c)))
                    .collect();
                // Flushes are shown as evidence and not as a score.
                let compared = measure.unit != FLUSHES;
                let ratios = contenders
                    .iter()
                    .skip(1)
                    .map(|&base| {
                        (
                            base,
                            subject
                                .filter(|_| compared)
                                .and_then(|s| self.ratio(&measure.key, s, base)),
                        )
                    })
                    .collect();
                Row {
                    measure,
                    values,
                    ratios,
                }
            })
            .filter(|row| row.values.iter().any(|(_, v)| v.is_some()))
            .collect()
    }

    /// The bars of this stage of the project, where both sides were measured.
    pub fn bars(&self) -> Vec<BarResult> {
        bars()
            .into_iter()
            .map(|bar| {
                let ratio = self.ratio(&bar.key, Contender::Tidemark, bar.base);
                let verdict = bar.judge(ratio.as_ref());
                BarResult {
                    bar,
                    ratio,
                    verdict,
                }
            })
            .collect()
    }
}

/// A line of the table.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// What was measured.
    pub measure: Measure,
    /// Medians.
    pub values: Vec<(Contender, Option<f64>)>,
    /// First contender over each of the others.
    pub ratios: Vec<(Contender, Option<Ratio>)>,
}

/// A promise about a ratio.
#[derive(Debug, Clone, Serialize)]
pub struct Bar {
    /// Key of the measure.
    pub key: String,
    /// The promise in words.
    pub text: String,
    /// The other side.
    pub base: Contender,
    /// The ratio must be under it, or at most it.
    pub limit: f64,
    /// True when a ratio equal to the limit is good enough.
    pub inclusive: bool,
}

/// A bar and what was measured.
#[derive(Debug, Clone, Serialize)]
pub struct BarResult {
    /// The bar.
    pub bar: Bar,
    /// The ratio, `None` when it was not measured.
    pub ratio: Option<Ratio>,
    /// Which side of the bar the median is on.
    pub verdict: Verdict,
}

/// Where the median of the paired ratios stands.
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
    /// Judged by the median.
    fn judge(&self, ratio: Option<&Ratio>) -> Verdict {
        match ratio {
            None => Verdict::NotMeasured,
            Some(r) if r.median < self.limit => Verdict::Pass,
            Some(r) if self.inclusive && r.median <= self.limit => Verdict::Pass,
            Some(_) => Verdict::Fail,
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

fn bars() -> Vec<Bar> {
    let bar = |key: String, text: String, base, limit, inclusive| Bar {
        key,
        text,
        base,
        limit,
        inclusive,
    };
    use Contender::{Kafka, KafkaFsync};
    let memory = |key: &str, text: &str, limit| bar(key.into(), text.into(), Kafka, limit, false);
    let mut bars = vec![
        memory(
            "rss.idle",
            "resident memory idle: under a tenth of Kafka's",
            0.1,
        ),
        memory(
            "rss.loaded",
            "resident memory after load: under a fifth of Kafka's",
            0.2,
        ),
        memory("start", "start to first ack: under a tenth of Kafka's", 0.1),
    ];
    for phase in [
        Phase::Consume(DEFAULTS),
        Phase::Consume(LARGE),
        Phase::ConsumeAt(20),
    ] {
        let text = format!("{}: CPU per GB not above Kafka's", phase.title());
        bars.push(bar(format!("{}.cpu", phase.key()), text, Kafka, 1.0, true));
    }
    for phase in [Phase::Produce(DEFAULTS), Phase::ProduceAt(20)] {
        let text = format!(
            "{}: CPU per GB under Kafka's with an fsync per batch",
            phase.title()
        );
        bars.push(bar(
            format!("{}.cpu", phase.key()),
            text,
            KafkaFsync,
            1.0,
            false,
        ));
    }
    bars
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(key: &str, subject: &[f64], base: &[f64], base_name: Contender) -> Readings {
        let mut readings = Readings::default();
        for (contender, values) in [(Contender::Tidemark, subject), (base_name, base)] {
            for (round, &value) in values.iter().enumerate() {
                readings.put(key, contender, round, Reading { value, quiet: true });
            }
        }
        readings
    }

    fn verdict(readings: &Readings, key: &str) -> Verdict {
        let all = readings.bars();
        all.iter().find(|b| b.bar.key == key).unwrap().verdict
    }

    #[test]
    fn every_bar_is_over_a_measure() {
        let keys: Vec<String> = measures().into_iter().map(|m| m.key).collect();
        for bar in bars() {
            assert!(keys.contains(&bar.key), "{}", bar.key);
        }
    }

    #[test]
    fn under_is_not_equal_and_not_above_is() {
        let at = with("start", &[0.1], &[1.0], Contender::Kafka);
        assert_eq!(verdict(&at, "start"), Verdict::Fail);
        let under = with("start", &[0.09], &[1.0], Contender::Kafka);
        assert_eq!(verdict(&under, "start"), Verdict::Pass);
        let equal = with("consume.16k.cpu", &[0.3], &[0.3], Contender::Kafka);
        assert_eq!(verdict(&equal, "consume.16k.cpu"), Verdict::Pass);
        assert_eq!(verdict(&equal, "start"), Verdict::NotMeasured);
    }

    #[test]
    fn the_produce_bar_is_against_kafka_with_fsync() {
        let plain = with("produce.16k.cpu", &[1.0], &[2.0], Contender::Kafka);
        assert_eq!(verdict(&plain, "produce.16k.cpu"), Verdict::NotMeasured);
        let fsync = with("produce.16k.cpu", &[3.0], &[2.0], Contender::KafkaFsync);
        assert_eq!(verdict(&fsync, "produce.16k.cpu"), Verdict::Fail);
    }

    #[test]
    fn an_interval_over_the_bar_is_close() {
        let close = with("rss.idle", &[0.05, 0.2, 0.09], &[1.0; 3], Contender::Kafka);
        assert!(close.bars()[0].close());
        let clear = with("rss.idle", &[0.05, 0.06, 0.05], &[1.0; 3], Contender::Kafka);
        assert!(!clear.bars()[0].close());
    }

    #[test]
    fn rows_compare_the_first_with_the_others() {
        let readings = with("start", &[1.0], &[4.0], Contender::Kafka);
        let rows = readings.rows(&[Contender::Tidemark, Contender::Kafka]);
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].ratios[0].1.unwrap().median, 0.25);
        let turned = readings.rows(&[Contender::Kafka, Contender::Tidemark]);
        assert_eq!(turned[0].ratios[0].1.unwrap().median, 4.0);
    }

    #[test]
    fn a_missing_round_leaves_a_gap() {
        let mut readings = Readings::default();
        let reading = Reading {
            value: 1.0,
            quiet: true,
        };
        readings.put("start", Contender::Kafka, 2, reading);
        assert_eq!(
            readings.series("start", Contender::Kafka),
            [None, None, Some(reading)]
        );
        assert_eq!(readings.median("start", Contender::Kafka), Some(1.0));
    }
}
