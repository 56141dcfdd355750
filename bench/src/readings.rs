//! The measures of a scenario and their readings per contender and round. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::bars::{BarResult, bars};
use crate::plan::{Contender, Phase};
use crate::scenario::Scenario;
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

/// All measures of a scenario in the order of its table.
pub fn measures(scenario: Scenario) -> Vec<Measure> {
    let mut all = Vec::new();
    for step in scenario.steps() {
        let (phase, key, title) = (step.phase, step.key(), step.title());
        if matches!(phase, Phase::Produce(_) | Phase::Consume(_)) {
            all.push(measure(&format!("{key}.mb_s"), &title, "MB/s", true));
        }
        if let Phase::ProduceAt(_) | Phase::OneByOne = phase {
            for (p, name) in [("p50", "p50"), ("p99", "p99"), ("p999", "p99.9")] {
                let title = format!("{title}: {name} to the ack");
                all.push(measure(&format!("{key}.{p}"), &title, "ms", false));
            }
        }
        if phase != Phase::OneByOne {
            all.push(measure(&format!("{key}.cpu"), &title, "CPU-s/GB", false));
        }
        if step.writes() {
            all.push(measure(&format!("{key}.flushes"), &title, FLUSHES, false));
        }
    }
    let more: &[(&str, &str, &'static str)] = match scenario {
        Scenario::Main => &[
            ("rss.idle", "resident memory, idle after start", "MiB"),
            ("rss.loaded", "resident memory, after load", "MiB"),
            ("idle.cpu", "CPU while idle, after load", "% of a core"),
            ("start", "start to the first acknowledged record", "s"),
        ],
        Scenario::TenThousand => &[
            (
                "many.create",
                "creating the topics, last partition writable",
                "s",
            ),
            ("many.rss", "resident memory, idle", "MiB"),
            ("many.idle.cpu", "CPU while idle", "% of a core"),
            (
                "many.consumer.cpu",
                "CPU while idle with one consumer of all",
                "% of a core",
            ),
            ("many.stop", "clean stop", "s"),
            (
                "many.start.clean",
                "start after a clean stop, first ack on the last partition",
                "s",
            ),
            (
                "many.start.killed",
                "start after kill -9 with data, first ack on the last partition",
                "s",
            ),
            ("many.flushes", "while the data was written", FLUSHES),
        ],
        Scenario::Tailing => &[
            ("tail.p50", "intended send to each consumer: p50", "ms"),
            ("tail.p99", "intended send to each consumer: p99", "ms"),
            ("tail.cpu", "CPU of the broker", "% of a core"),
            ("tail.cpu_per_record", "CPU per delivered record", "µs"),
            ("tail.rss", "resident memory, all connected", "MiB"),
            ("tail.flushes", "while tailing", FLUSHES),
        ],
        Scenario::Replicated => &[
            ("rss.loaded", "resident memory of three, after load", "MiB"),
            (
                "idle.cpu",
                "CPU of three while idle, after load",
                "% of a core",
            ),
            (
                "start",
                "start of three to the first acknowledged record",
                "s",
            ),
        ],
        Scenario::Partitions | Scenario::Producers | Scenario::SlowDisk | Scenario::Tls => &[],
    };
    all.extend(
        more.iter()
            .map(|(key, title, unit)| measure(key, title, unit, false)),
    );
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
    pub fn rows(&self, scenario: Scenario, contenders: &[Contender]) -> Vec<Row> {
        let subject = contenders.first().copied();
        measures(scenario)
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

    /// The bars of a scenario and where they stand.
    pub fn bars(&self, scenario: Scenario) -> Vec<BarResult> {
        bars(scenario)
            .into_iter()
            .map(|bar| {
                let base_key = bar.base_key.as_ref().unwrap_or(&bar.key);
                let ratio = paired_ratio(
                    self.series(&bar.key, Contender::Tidemark),
                    self.series(base_key, bar.base),
                );
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bars::Verdict;

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
        let all = readings.bars(Scenario::Main);
        all.iter().find(|b| b.bar.key == key).unwrap().verdict
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
        assert!(close.bars(Scenario::Main)[0].close());
        let clear = with("rss.idle", &[0.05, 0.06, 0.05], &[1.0; 3], Contender::Kafka);
        assert!(!clear.bars(Scenario::Main)[0].close());
    }

    #[test]
    fn rows_compare_the_first_with_the_others() {
        let readings = with("start", &[1.0], &[4.0], Contender::Kafka);
        let rows = readings.rows(Scenario::Main, &[Contender::Tidemark, Contender::Kafka]);
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].ratios[0].1.unwrap().median, 0.25);
        let turned = readings.rows(Scenario::Main, &[Contender::Kafka, Contender::Tidemark]);
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
