//! The table for people, the JSON for programs, the page for the record. Pure.

use std::fmt::Write;

use serde::Serialize;

use crate::bars::{BarResult, Verdict};
use crate::experiment::{NOISE_GATE, WindowRecord};
use crate::flushes::FlushLatency;
use crate::machine::Facts;
use crate::plan::{Contender, Phase, Plan};
use crate::readings::Row;
use crate::scenario::{DISK_DELAY_US, Scenario};
use crate::stats::{Ratio, median};

/// Everything that is printed.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Name of the plan.
    pub name: String,
    /// Machine and versions.
    pub facts: Facts,
    /// Lengths.
    pub plan: Plan,
    /// True when the producers were idempotent.
    pub idempotence: bool,
    /// A table for every scenario.
    pub sections: Vec<Section>,
}

/// What one scenario found.
#[derive(Debug, Serialize)]
pub struct Section {
    /// Which.
    pub scenario: Scenario,
    /// Who; ratios are the first one over the others.
    pub contenders: Vec<Contender>,
    /// The table.
    pub rows: Vec<Row>,
    /// The bars.
    pub bars: Vec<BarResult>,
    /// Flush latency of the device before it.
    pub flush_before: FlushLatency,
    /// Flush latency of the device after it.
    pub flush_after: FlushLatency,
    /// What else the table rests on.
    pub notes: Vec<String>,
    /// Why it has no table.
    pub failure: Option<String>,
    /// All windows.
    pub windows: Vec<WindowRecord>,
}

impl Section {
    fn cells(&self) -> Vec<Vec<String>> {
        let mut head = vec!["measure".to_owned(), "unit".to_owned()];
        head.extend(self.contenders.iter().map(|c| c.name().to_owned()));
        let subject = self.contenders.first().map_or("", |c| c.name());
        head.extend(
            self.contenders
                .iter()
                .skip(1)
                .map(|c| format!("{subject} / {}", c.name())),
        );
        let mut cells = vec![head];
        for row in &self.rows {
            let mut line = vec![row.measure.title.clone(), row.measure.unit.to_owned()];
            line.extend(row.values.iter().map(|(_, v)| v.map_or_else(dash, number)));
            line.extend(
                row.ratios
                    .iter()
                    .map(|(_, r)| r.as_ref().map_or_else(dash, ratio)),
            );
            cells.push(line);
        }
        cells
    }

    /// Fixed rates that a contender missed by more than a twentieth, with its worst window.
    fn too_slow(&self) -> Vec<(String, Contender, f64)> {
        let mut worst: Vec<(String, Contender, f64)> = Vec::new();
        for step in self.scenario.steps() {
            let (Phase::ProduceAt(rate) | Phase::ConsumeAt(rate)) = step.phase else {
                continue;
            };
            for &contender in &self.contenders {
                let slowest = self
                    .windows
                    .iter()
                    .filter(|w| w.contender == contender && w.phase == step.key())
                    .map(|w| w.mb / w.seconds)
                    .fold(f64::INFINITY, f64::min);
                if slowest < 0.95 * f64::from(rate) {
                    worst.push((step.title(), contender, slowest));
                }
            }
        }
        worst
    }

    /// What goes with the table.
    fn notes(&self, plan: &Plan) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(why) = &self.failure {
            notes.push(format!("did not finish: {why}"));
        }
        notes.push(format!(
            "device flush (append of 4 KiB and fdatasync): p50 {:.0} µs, p99 {:.0} µs before; \
             p50 {:.0} µs, p99 {:.0} µs after",
            self.flush_before.p50_us,
            self.flush_before.p99_us,
            self.flush_after.p50_us,
            self.flush_after.p99_us,
        ));
        notes.extend(scenario_note(self.scenario, plan));
        notes.extend(self.notes.iter().cloned());
        for (phase, contender, mb_s) in self.too_slow() {
            let name = contender.name();
            notes.push(format!("{name} did not keep up in {phase}: {mb_s:.1} MB/s at worst, its latencies there are a queue's"));
        }
        if self.windows.is_empty() {
            return notes;
        }
        let noisy = self.windows.iter().filter(|w| !w.quiet()).count();
        let waits: Vec<f64> = self.windows.iter().map(|w| w.wait_share).collect();
        let late = self
            .windows
            .iter()
            .filter_map(|w| w.lateness_p99_ms)
            .fold(0.0, f64::max);
        let coarse = self.windows.iter().filter(|w| !w.cpu_exact).count();
        notes.push(format!(
            "noise: in {noisy} of {} windows the hypervisor took more than {:.2} % of the processors' time (~ = too few quiet pairs, all are in); broker threads waited for a core for {:.0} % of a window at the median; sends were at most {late:.1} ms late at p99; CPU from the coarser counter in {coarse} windows",
            self.windows.len(),
            100.0 * NOISE_GATE,
            100.0 * median(&waits).unwrap_or_default(),
        ));
        notes.extend(self.flush_notes());
        notes
    }

    /// Which calls the flushes were, and who counted them.
    fn flush_notes(&self) -> Vec<String> {
        let counted: Vec<_> = self
            .windows
            .iter()
            .filter(|w| w.flushes.is_some())
            .collect();
        if counted.is_empty() {
            return vec![
                "flushes were not counted: perf stat with syscall tracepoints does not work here"
                    .to_owned(),
            ];
        }
        let mut notes = vec![
            "flushes are fsync, fdatasync and pwritev2 with RWF_DSYNC, counted by perf stat"
                .to_owned(),
        ];
        for &contender in &self.contenders {
            let (mut kinds, mut own) = ([0, 0, 0, 0], None);
            for f in counted
                .iter()
                .filter(|w| w.contender == contender)
                .filter_map(|w| w.flushes)
            {
                for (sum, n) in kinds
                    .iter_mut()
                    .zip([f.dsync, f.fdatasync, f.fsync, f.syncfs])
                {
                    *sum += n;
                }
                own = f.by_metric.map(|n| n + own.unwrap_or(0)).or(own);
            }
            let name = contender.name();
            notes.push(match own {
                Some(n) => format!(
                    "flushes of {name}: {n} by its own metric, perf stat does not work here"
                ),
                None => format!(
                    "flushes of {name}: {} pwritev2 with RWF_DSYNC, {} fdatasync, {} fsync; and {} syncfs, which carry no acknowledgement",
                    kinds[0], kinds[1], kinds[2], kinds[3]
                ),
            });
        }
        notes
    }
}

/// How a scenario differs from `main`.
fn scenario_note(scenario: Scenario, plan: &Plan) -> Vec<String> {
    let text = match scenario {
        Scenario::Main => return Vec::new(),
        Scenario::Partitions => {
            "produce rows of main with topics of 1, 12 and 256 partitions; librdkafka sends one partition per request, so at fixed rates over 256 partitions a request holds about one record".to_owned()
        }
        Scenario::Producers => {
            "produce rows of main from eight producers that share the rate, each with its own connection and requests in flight, to topics of 1, 12 and 256 partitions; at 5 MB/s over 12 and at both rates over 256 partitions a request holds one record".to_owned()
        }
        Scenario::SlowDisk => format!(
            "produce rows of main with every durable write and sync of ours made {DISK_DELAY_US} µs longer (disk.flush.delay.us); Kafka has no such setting: it is as shipped, acknowledges from the page cache and is not delayed"
        ),
        Scenario::TenThousand => format!(
            "{} topics of {} partitions, {} starts of each kind; default heap of Kafka's start script (1 GiB); the consumer holds one fetch session over all partitions as the Java client does; before kill -9 a 16 KiB batch is acknowledged in every second partition, and afterwards every log end is checked; waits end after {:.0} s",
            plan.many_topics, plan.many_partitions, plan.many_trials, plan.many_patience_s,
        ),
        Scenario::Replicated => {
            "clusters of three brokers, each a controller too, one cluster per contender; three replicas of every partition, min.insync.replicas 2, acks=all; CPU, memory and flushes are those of the three together".to_owned()
        }
        Scenario::Tls => {
            "produce and consume rows of main over TLS 1.3 with AES-256-GCM and one certificate of P-256 for both sides; librdkafka's end is OpenSSL's on both".to_owned()
        }
        Scenario::Tailing => format!(
            "{} consumers with a connection and a fetch session each, all reading all 12 partitions; {} records of 1 KiB per second with acks=all; latency is from the intended time of a record to its decoding in each consumer, one generator thread serves all of them",
            plan.tail_consumers, plan.tail_rate,
        ),
    };
    vec![text]
}

impl Report {
    /// True when a bar that was measured is missed.
    pub fn missed(&self) -> bool {
        self.sections
            .iter()
            .flat_map(|s| &s.bars)
            .any(|b| b.verdict == Verdict::Fail)
    }

    /// The whole run as JSON, ratios included.
    pub fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }

    /// The tables with aligned columns, their bars, and what they rest on.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for section in &self.sections {
            if self.sections.len() > 1 {
                out.push_str(&format!("{}\n\n", section.scenario.name()));
            }
            let cells = section.cells();
            let widths = widths(&cells);
            for line in cells.iter().filter(|_| !section.rows.is_empty()) {
                out.push_str(aligned(line, &widths).trim_end());
                out.push('\n');
            }
            out.push('\n');
            for bar in &section.bars {
                out.push_str(&bar_line(bar));
                out.push('\n');
            }
            if !section.bars.is_empty() {
                out.push('\n');
            }
            for note in section.notes(&self.plan) {
                out.push_str(&note);
                out.push('\n');
            }
            out.push('\n');
        }
        for note in self.notes() {
            out.push_str(&note);
            out.push('\n');
        }
        out
    }

    /// The page that `--record` writes.
    pub fn markdown(&self) -> String {
        let mut out = format!("# {} {}\n", self.facts.date, self.name);
        for section in &self.sections {
            out.push_str(&format!("\n## {}\n\n", section.scenario.name()));
            for (i, line) in section.cells().iter().enumerate() {
                if section.rows.is_empty() {
                    break;
                }
                let escaped: Vec<String> = line.iter().map(|c| c.replace('|', "\\|")).collect();
                out.push_str(&format!("| {} |\n", escaped.join(" | ")));
                if i == 0 {
                    out.push_str("|---|---|");
                    out.push_str(&"--:|".repeat(line.len().saturating_sub(2)));
                    out.push('\n');
                }
            }
            if !section.bars.is_empty() {
                out.push('\n');
                for bar in &section.bars {
                    out.push_str(&format!("- {}\n", bar_line(bar)));
                }
            }
            out.push('\n');
            for note in section.notes(&self.plan) {
                out.push_str(&format!("- {note}\n"));
            }
        }
        out.push_str("\n## Conditions\n\n");
        for note in self.notes() {
            out.push_str(&format!("- {note}\n"));
        }
        out
    }

    fn notes(&self) -> Vec<String> {
        let facts = &self.facts;
        let mut notes = vec![format!(
            "{}: {} cores of {}, {:.1} GiB, Linux {}, {}; load average before: {}",
            facts.date,
            facts.cores,
            facts.processor,
            facts.memory_bytes as f64 / f64::from(1 << 30),
            facts.kernel,
            facts.disk,
            facts.load_average,
        )];
        let versions: Vec<String> = facts
            .versions
            .iter()
            .map(|(n, v)| format!("{n} {v}"))
            .collect();
        notes.push(versions.join("; "));
        let mut who: Vec<Contender> = self
            .sections
            .iter()
            .flat_map(|s| s.contenders.iter().copied())
            .collect();
        who.sort();
        who.dedup();
        for contender in who {
            notes.push(format!("{}: {}", contender.name(), contender.legend()));
        }
        let client = if self.idempotence {
            "idempotent producer, 5 requests in flight"
        } else {
            "not idempotent; 60 batches in flight (16 KiB) or 20 (256 KiB), as many as the Java client's 5 requests hold"
        };
        notes.push(format!(
            "one producer, acks=all, 12 partitions in turn, 1 KiB records that do not compress, 16 KiB batches with linger 5 ms or 256 KiB with linger 20 ms, {client}"
        ));
        notes.push(format!(
            "{} rounds in ABBA order after a discarded warm-up of {:.1} GB or {:.0} s; medians, ratios are medians of paired ratios with a 95 % bootstrap interval; MB = 10^6 bytes of values",
            self.plan.rounds,
            self.plan.warm_bytes as f64 / 1e9,
            self.plan.warm_s,
        ));
        notes.push(
            "latencies are open loop, from the intended time of a record, linger included; reads come from the page cache; the page cache is written out before every window".to_owned(),
        );
        if self.plan.rounds < 7 {
            notes.push(
                "fewer than 7 rounds: this shows that the harness works and decides nothing"
                    .to_owned(),
            );
        }
        if cfg!(debug_assertions) {
            notes.push("built without optimisation: figures mean nothing".to_owned());
        }
        notes
    }
}

fn bar_line(result: &BarResult) -> String {
    let word = match result.verdict {
        Verdict::Pass => "pass",
        Verdict::Fail => "FAIL",
        Verdict::NotMeasured => "not measured",
    };
    let mut line = format!("{word}: {}", result.bar.text);
    if let Some(r) = &result.ratio {
        let sign = result.bar.side.sign();
        // Writing to a String cannot fail.
        write!(line, " ({}, bar {sign} {})", ratio(r), result.bar.limit).unwrap_or_default();
        if result.close() {
            line.push_str(", the interval crosses the bar");
        }
        if result.bar.by_interval {
            line.push_str("; a tail is missed by its whole interval only");
        }
    }
    line
}

fn dash() -> String {
    "-".to_owned()
}

/// Three digits that mean something.
fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 99.95 => format!("{value:.0}"),
        v if v >= 9.995 => format!("{value:.1}"),
        v if v >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn ratio(r: &Ratio) -> String {
    let mark = if r.kept_noisy { "~" } else { "" };
    format!(
        "{mark}{} [{} … {}]",
        number(r.median),
        number(r.low),
        number(r.high)
    )
}

fn widths(cells: &[Vec<String>]) -> Vec<usize> {
    let columns = cells.iter().map(Vec::len).max().unwrap_or_default();
    (0..columns)
        .map(|i| {
            cells
                .iter()
                .filter_map(|l| l.get(i))
                .map(|c| c.chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect()
}

/// Words to the left, numbers to the right.
fn aligned(line: &[String], widths: &[usize]) -> String {
    let mut out = String::new();
    for (i, (cell, &width)) in line.iter().zip(widths).enumerate() {
        let padded = if i < 2 {
            format!("{cell:<width$}  ")
        } else {
            format!("{cell:>width$}  ")
        };
        out.push_str(&padded);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flushes::Flushes;
    use crate::readings::Readings;
    use crate::stats::Reading;

    fn report(start: f64) -> Report {
        let contenders = vec![Contender::Tidemark, Contender::Kafka];
        let mut readings = Readings::default();
        for (contender, value) in contenders.iter().zip([start, 2.0]) {
            readings.put("start", *contender, 0, Reading { value, quiet: true });
        }
        let flush = FlushLatency {
            p50_us: 12.0,
            p99_us: 345.0,
            samples: 9,
        };
        Report {
            name: "full".into(),
            facts: Facts {
                date: "2026-01-31".into(),
                cores: 2,
                processor: "P".into(),
                memory_bytes: 1 << 30,
                kernel: "6".into(),
                disk: "ext4 on /dev/vda".into(),
                load_average: "0 0 0".into(),
                versions: vec![("Apache Kafka".into(), "4.3.1".into())],
            },
            plan: Plan::TRIAL,
            idempotence: false,
            sections: vec![Section {
                scenario: Scenario::Main,
                rows: readings.rows(Scenario::Main, &contenders),
                bars: readings.bars(Scenario::Main),
                contenders,
                flush_before: flush,
                flush_after: flush,
                notes: Vec::new(),
                failure: None,
                windows: Vec::new(),
            }],
        }
    }

    #[test]
    fn the_table_is_aligned_and_judged() {
        let text = report(0.1).text();
        let rows: Vec<&str> = text.lines().take(2).collect();
        assert!(rows[0].ends_with("tidemark / kafka"), "{text}");
        assert!(
            rows[1].contains("0.10") && rows[1].contains("2.00"),
            "{text}"
        );
        assert_eq!(rows[0].find("unit"), rows[1].find("s  "), "{text}");
        assert!(text.contains("pass: start to first ack"), "{text}");
        assert!(
            text.contains("not measured: resident memory idle"),
            "{text}"
        );
        assert!(text.contains("p99 345 µs before"), "{text}");
        assert!(!report(0.1).missed());
        let missed = report(0.5);
        assert!(missed.missed() && missed.text().contains("FAIL: start to first ack"));
    }

    #[test]
    fn the_page_has_table_bars_and_conditions() {
        let page = report(0.1).markdown();
        assert!(page.starts_with("# 2026-01-31 full\n"));
        assert!(page.contains("\n|---|---|--:|--:|--:|\n"), "{page}");
        assert!(page.contains("- pass: start") && page.contains("Apache Kafka 4.3.1"));
    }

    #[test]
    fn json_holds_rows_and_bars() {
        let json: serde_json::Value = serde_json::from_str(&report(0.1).json().unwrap()).unwrap();
        assert_eq!(json["sections"][0]["rows"][0]["measure"]["key"], "start");
        assert_eq!(json["sections"][0]["contenders"][0], "tidemark");
        assert_eq!(json["facts"]["cores"], 2);
        assert_eq!(json["sections"][0]["bars"][2]["verdict"], "pass");
        assert_eq!(json["sections"][0]["bars"][0]["verdict"], "not-measured");
    }

    #[test]
    fn a_missed_rate_is_told() {
        let mut slow = report(0.1);
        let window = |mb, contender| WindowRecord {
            round: 0,
            contender,
            phase: Phase::ProduceAt(20).key(),
            mb,
            seconds: 2.0,
            cpu_s: 1.0,
            cpu_exact: true,
            wait_share: 0.0,
            stolen_share: 0.0,
            flushes: None,
            lateness_p99_ms: None,
        };
        slow.sections[0].windows = vec![
            window(39.9, Contender::Tidemark),
            window(20.0, Contender::Kafka),
            window(40.0, Contender::Kafka),
        ];
        let text = slow.text();
        assert!(
            text.contains("kafka did not keep up in produce at 20 MB/s: 10.0 MB/s"),
            "{text}"
        );
        assert!(!text.contains("tidemark did not keep up"), "{text}");
    }

    #[test]
    fn flushes_are_told_by_kind_and_by_who_counted() {
        let mut counted = report(0.1);
        let window = |contender, flushes| WindowRecord {
            round: 0,
            contender,
            phase: Phase::ProduceAt(20).key(),
            mb: 40.0,
            seconds: 2.0,
            cpu_s: 1.0,
            cpu_exact: true,
            wait_share: 0.0,
            stolen_share: 0.0,
            flushes: Some(flushes),
            lateness_p99_ms: None,
        };
        let by_perf = Flushes {
            dsync: 12,
            syncfs: 3,
            ..Flushes::default()
        };
        let by_metric = Flushes {
            by_metric: Some(5),
            ..Flushes::default()
        };
        counted.sections[0].windows = vec![
            window(Contender::Tidemark, by_perf),
            window(Contender::Tidemark, by_perf),
            window(Contender::Kafka, by_metric),
        ];
        let text = counted.text();
        assert!(
            text.contains("tidemark: 24 pwritev2 with RWF_DSYNC"),
            "{text}"
        );
        assert!(text.contains("6 syncfs"), "{text}");
        assert!(text.contains("kafka: 5 by its own metric"), "{text}");
    }

    #[test]
    fn a_scenario_that_did_not_finish_says_so() {
        let mut broken = report(0.1);
        broken.sections[0].failure = Some("no room".into());
        broken.sections[0].rows.clear();
        assert!(broken.text().contains("did not finish: no room"));
        assert!(!broken.markdown().contains("| measure"));
    }

    #[test]
    fn numbers_keep_three_digits() {
        assert_eq!(number(1234.5), "1234");
        assert_eq!(number(12.34), "12.3");
        assert_eq!(number(1.234), "1.23");
        assert_eq!(number(0.01234), "0.012");
    }
}
