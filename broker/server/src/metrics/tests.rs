use super::families::{self, Kind};
use super::process::{cpu_seconds, open_files_limit, status_field};
use super::snapshot::partitions_page;
use super::topics::{OTHER, Row, SHOWN_TOPICS, Topics, Traffic};
use super::watchdog::{NetThreadSample, SLOW, STUCK, TICK, Ticks};
use super::*;
use crate::tier::Reserve;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::mpsc;
use tidemark_env::disk::{FileDisk, read_file, write_file_atomic};
use tidemark_env::runtime::NetThreads;
use tidemark_env::{clock, runtime};

/// Partitions for a test.
struct Partitions(Vec<PartitionSample<'static>>);

impl PartitionSource for Partitions {
    fn visit(&self, visitor: &mut dyn FnMut(PartitionSample<'_>)) {
        self.0.iter().for_each(|p| visitor(*p));
    }
}

fn partition(topic: &'static str, index: i32, size_bytes: u64) -> PartitionSample<'static> {
    PartitionSample {
        topic,
        index,
        log_start: 3,
        high_watermark: 40,
        end: 42,
        durable: 41,
        size_bytes,
        segments: 2,
        bytes_in: 100,
        records_in: 10,
        bytes_out: 1000,
        standing: Standing {
            leads: true,
            under_replicated: true,
            lag: 7,
            ..Standing::default()
        },
        online: true,
    }
}

fn group(name: &str, lag_records: u64) -> GroupSample {
    GroupSample {
        group: name.to_owned(),
        state: "Stable",
        members: 2,
        rebalances: 4,
        committed: 100,
        lag_records,
        lag_ms: 2500,
        unknown_partitions: 1,
    }
}

fn full_snapshot() -> Snapshot {
    let memory = MemorySample {
        budget: "requests",
        used_bytes: 1024,
        limit_bytes: 4096,
    };
    let disk = DiskSample {
        directory: "/data/\"a\"\\b".to_owned(),
        used_bytes: 5,
        capacity_bytes: 7,
        free_bytes: 2,
        online: false,
        read_only: true,
        reserve: Some(Reserve {
            held_back_bytes: 5,
            reserve_bytes: 10,
        }),
        wal_queued_bytes: 3,
        wal_held_bytes: 4,
    };
    let thread = NetThreadSample {
        thread: 1,
        slow_polls: 4,
        longest_delay: Duration::from_millis(250),
        tick_age: Duration::from_millis(50),
    };
    // As the lags of many come.
    let mut other = GroupSample {
        group: "other".to_owned(),
        ..GroupSample::default()
    };
    other.add(&group("b", 3));
    other.add(&group("c", 2));
    Snapshot {
        now_ms: 1_700_000_000_500,
        uptime: Duration::from_millis(1500),
        ready: true,
        directory_failed: true,
        recovery_left: 9,
        awaiting_backup: 3,
        memory: vec![memory],
        groups: vec![("Stable", 3), ("Empty", 1)],
        lags: vec![group("a", 7), other],
        controller: ControllerSample {
            active: true,
            contact_age: Duration::from_millis(1500),
            fenced: false,
            fenced_brokers: 1,
            leaderless: 2,
        },
        fetch_sessions: 6,
        disks: vec![disk],
        net_threads: vec![thread],
        process: ProcessSample {
            resident_bytes: Some(1 << 20),
            cpu_seconds: Some(0.25),
            threads: Some(4),
            open_files: Some(20),
            open_files_limit: Some(1024),
        },
    }
}

/// Every sample of a page, by its name and labels; fails on what a scraper would refuse.
fn samples(page: &str) -> BTreeMap<String, f64> {
    assert!(page.ends_with('\n'));
    let mut family = String::new();
    let mut families = BTreeSet::new();
    let mut samples = BTreeMap::new();
    for line in page.lines() {
        if let Some(typed) = line.strip_prefix("# TYPE ") {
            family = typed.split(' ').next().unwrap().to_owned();
            assert!(families.insert(family.clone()), "{family} comes twice");
        } else if !line.starts_with('#') {
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(
                series.starts_with(&family),
                "{series} is outside of its family {family}"
            );
            let value = value.parse().unwrap();
            assert!(
                samples.insert(series.to_owned(), value).is_none(),
                "{series} comes twice"
            );
        }
    }
    samples
}

fn families_of(page: &str) -> BTreeMap<&str, &str> {
    page.lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .collect()
}

/// A page on which everything has something to tell.
fn full_page() -> String {
    let metrics = Metrics::new();
    metrics.request(ApiKey::Fetch, Duration::from_millis(3));
    metrics.error(ApiKey::Produce, ErrorCode::CorruptMessage);
    metrics.produce_ack(-1, Duration::from_millis(7));
    metrics.wal_group(Duration::from_micros(300), 8192, 3);
    metrics.certificate_expires("SSL", Some(1));
    metrics.scrape(&full_snapshot(), &Partitions(vec![partition("a", 0, 10)]))
}

#[test]
fn the_metrics_reference_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
    if std::env::var_os("UPDATE").is_some() {
        write_file_atomic(&FileDisk::new(), &path, reference::reference().as_bytes()).unwrap();
    }
    let committed = read_file(&FileDisk::new(), &path, 1 << 20).unwrap_or_default();
    assert!(
        committed == reference::reference().as_bytes(),
        "docs/metrics.md is stale: run UPDATE=1 cargo test -p tidemark-server metrics and commit it"
    );
}

#[test]
fn what_is_scraped_is_what_the_reference_lists() {
    let listed = |of_partitions: bool| -> BTreeMap<&str, &str> {
        families::ALL
            .iter()
            .filter(|f| f.of_partitions == of_partitions)
            .map(|f| (f.name, f.kind.name()))
            .collect()
    };
    assert_eq!(families_of(&full_page()), listed(false));
    let page = Metrics::new().scrape_partitions(&Partitions(vec![partition("a", 0, 10)]));
    assert_eq!(families_of(&page), listed(true));
}

#[test]
fn the_labels_scraped_are_those_of_the_reference() {
    let page = full_page();
    let partitions = partitions_page(&Partitions(vec![partition("a", 0, 10)]), 10);
    for series in samples(&page)
        .into_keys()
        .chain(samples(&partitions).into_keys())
    {
        let (name, labels) = series.split_once('{').unwrap_or((&series, ""));
        let family = families::ALL
            .iter()
            .filter(|f| name.starts_with(f.name))
            .max_by_key(|f| f.name.len())
            .unwrap();
        for label in families::ALL.iter().flat_map(|f| f.labels) {
            let has = labels.starts_with(&format!("{label}=\""))
                || labels.contains(&format!(",{label}=\""));
            let wants = family.labels.contains(label)
                || (family.name == "tidemark_build_info" && *label == "version");
            assert_eq!(has, wants, "{series}: {label}");
        }
    }
}

#[test]
fn names_follow_prometheus_conventions() {
    let mut names = BTreeSet::new();
    for family in families::ALL {
        let name = family.name;
        assert!(names.insert(name), "{name} is listed twice");
        assert!(name.starts_with("tidemark_"), "{name}");
        assert_eq!(
            name.ends_with("_total"),
            family.kind == Kind::Counter,
            "{name}"
        );
        assert_eq!(name.contains("seconds"), family.unit == "seconds", "{name}");
        assert!(
            !family.help.is_empty() && !family.help.contains('\n'),
            "{name}"
        );
        assert!(
            !family.help.contains('\\') && !family.help.contains('|'),
            "{name}"
        );
    }
}

#[test]
fn groups_have_their_lag_and_others_together_no_age() {
    let page = samples(&full_page());
    let of = |name: &str, group: &str| {
        page.get(&format!("tidemark_group_{name}{{group=\"{group}\"}}"))
            .copied()
    };
    assert_eq!(of("lag_records", "a"), Some(7.0));
    assert_eq!(of("lag_seconds", "a"), Some(2.5));
    assert_eq!(of("lag_records", "other"), Some(5.0));
    assert_eq!(of("members", "other"), Some(4.0));
    assert_eq!(of("lag_seconds", "other"), None);
    assert!(page.contains_key("tidemark_group_state{group=\"a\",state=\"Stable\"}"));
}

#[test]
fn what_tells_of_trouble_is_there_at_zero() {
    let page = Metrics::new().scrape(&Snapshot::default(), &Partitions(Vec::new()));
    let page = samples(&page);
    for series in [
        "tidemark_request_errors_total{api=\"Produce\",error=\"NOT_ENOUGH_REPLICAS\"}",
        "tidemark_request_duration_seconds_count{api=\"Fetch\"}",
        "tidemark_unclean_elections_total",
        "tidemark_truncated_records_total",
        "tidemark_leaderless_partitions",
        "tidemark_partitions_awaiting_backup",
    ] {
        assert_eq!(page.get(series), Some(&0.0), "{series}");
    }
}

#[test]
fn requests_and_errors_are_counted_by_api() {
    let metrics = Metrics::new();
    metrics.request(ApiKey::Fetch, Duration::from_millis(3));
    metrics.request(ApiKey::Fetch, Duration::from_secs(40));
    metrics.error(ApiKey::Fetch, ErrorCode::UnknownServerError);
    metrics.error(ApiKey::Fetch, ErrorCode::None);
    metrics.error(ApiKey::Produce, ErrorCode::UnknownServerError);
    metrics.error(ApiKey::Produce, ErrorCode::UnknownServerError);
    let page = samples(&metrics.scrape(&Snapshot::default(), &Partitions(Vec::new())));
    let fetch = |le: &str| {
        page[&format!("tidemark_request_duration_seconds_bucket{{api=\"Fetch\",le=\"{le}\"}}")]
    };
    assert_eq!(
        (fetch("0.0025"), fetch("0.005"), fetch("30"), fetch("+Inf")),
        (0.0, 1.0, 1.0, 2.0)
    );
    assert_eq!(
        page["tidemark_request_duration_seconds_sum{api=\"Fetch\"}"],
        40.003
    );
    let error = |api: &str, error: &str| {
        let series = format!("tidemark_request_errors_total{{api=\"{api}\",error=\"{error}\"}}");
        page.get(&series).copied()
    };
    assert_eq!(error("Fetch", "UNKNOWN_SERVER_ERROR"), Some(1.0));
    assert_eq!(error("Produce", "UNKNOWN_SERVER_ERROR"), Some(2.0));
    assert_eq!(error("Fetch", "NONE"), None);
    assert!(
        !page.keys().any(|series| series.contains("Metadata")),
        "nothing was asked of it"
    );
}

#[test]
fn every_api_and_error_has_its_series() {
    let metrics = Metrics::new();
    let codes: BTreeSet<ErrorCode> = (-1..=i16::MAX).map(ErrorCode::from_code).collect();
    for api in ApiKey::ALL {
        metrics.request(*api, Duration::ZERO);
    }
    for code in &codes {
        metrics.error(ApiKey::Fetch, *code);
    }
    let page = samples(&metrics.scrape(&Snapshot::default(), &Partitions(Vec::new())));
    let count = |name: &str| {
        page.keys()
            .filter(|series| series.starts_with(name))
            .count()
    };
    assert_eq!(
        count("tidemark_request_duration_seconds_count"),
        ApiKey::ALL.len()
    );
    assert_eq!(
        count("tidemark_request_errors_total{api=\"Fetch\""),
        codes.len() - 1
    );
}

#[test]
fn acks_flushes_and_connections_are_counted() {
    let metrics = Metrics::new();
    metrics.produce_ack(1, Duration::from_millis(1));
    metrics.produce_ack(-1, Duration::from_millis(1));
    metrics.produce_ack(-1, Duration::from_millis(1));
    metrics.wal_group(Duration::from_micros(70), 8192, 1);
    metrics.connections.inc();
    metrics.connections.inc();
    metrics.connections.dec();
    metrics.connections_refused.inc();
    metrics.bad_requests.inc();
    metrics.disk_full.inc();
    let page = samples(&metrics.scrape(&Snapshot::default(), &Partitions(Vec::new())));
    assert_eq!(
        page["tidemark_produce_ack_duration_seconds_count{acks=\"1\"}"],
        1.0
    );
    assert_eq!(
        page["tidemark_produce_ack_duration_seconds_count{acks=\"all\"}"],
        2.0
    );
    assert_eq!(page["tidemark_wal_fsync_duration_seconds_count"], 1.0);
    assert_eq!(
        page["tidemark_wal_fsync_duration_seconds_bucket{le=\"0.0001\"}"],
        1.0
    );
    assert_eq!(
        page["tidemark_wal_fsync_duration_seconds_bucket{le=\"0.00005\"}"],
        0.0
    );
    assert_eq!(page["tidemark_connections"], 1.0);
    assert_eq!(page["tidemark_connections_refused_total"], 1.0);
    assert_eq!(page["tidemark_bad_requests_total"], 1.0);
    assert_eq!(page["tidemark_disk_full_refusals_total"], 1.0);
}

#[test]
fn a_snapshot_is_written_in_base_units() {
    let page = samples(&full_page());
    for (series, value) in [
        ("tidemark_clock_timestamp_seconds", 1_700_000_000.5),
        ("tidemark_uptime_seconds", 1.5),
        ("tidemark_ready", 1.0),
        ("tidemark_recovery_remaining_partitions", 9.0),
        ("tidemark_memory_used_bytes{budget=\"requests\"}", 1024.0),
        ("tidemark_memory_limit_bytes{budget=\"requests\"}", 4096.0),
        ("tidemark_groups{state=\"Stable\"}", 3.0),
        ("tidemark_fetch_sessions", 6.0),
        (
            "tidemark_disk_free_bytes{directory=\"/data/\\\"a\\\"\\\\b\"}",
            2.0,
        ),
        (
            "tidemark_disk_online{directory=\"/data/\\\"a\\\"\\\\b\"}",
            0.0,
        ),
        ("tidemark_slow_polls_total{thread=\"1\"}", 4.0),
        ("tidemark_poll_delay_max_seconds{thread=\"1\"}", 0.25),
        ("tidemark_net_thread_tick_age_seconds{thread=\"1\"}", 0.05),
        ("tidemark_resident_memory_bytes", 1_048_576.0),
        ("tidemark_cpu_seconds_total", 0.25),
        ("tidemark_open_files", 20.0),
        ("tidemark_open_files_limit", 1024.0),
        ("tidemark_topics", 1.0),
        ("tidemark_partitions", 1.0),
        ("tidemark_partitions_offline", 0.0),
        ("tidemark_topic_sent_bytes_total{topic=\"a\"}", 1000.0),
        ("tidemark_received_records_total", 10.0),
    ] {
        assert_eq!(page.get(series), Some(&value), "{series}");
    }
    let version = format!(
        "tidemark_build_info{{version=\"{}\"}}",
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(page[&version], 1.0);
}

#[test]
fn what_the_system_does_not_tell_is_left_out() {
    let page = Metrics::new().scrape(&Snapshot::default(), &Partitions(Vec::new()));
    assert!(!page.contains("tidemark_resident_memory_bytes"));
    assert!(page.contains("tidemark_uptime_seconds"));
}

#[test]
fn offline_partitions_are_counted() {
    let offline = PartitionSample {
        online: false,
        ..partition("b", 1, 0)
    };
    let source = Partitions(vec![partition("a", 0, 1), partition("b", 0, 1), offline]);
    let page = samples(&Metrics::new().scrape(&Snapshot::default(), &source));
    assert_eq!(page["tidemark_partitions"], 3.0);
    assert_eq!(page["tidemark_partitions_offline"], 1.0);
    assert_eq!(page["tidemark_topics"], 2.0);
    assert_eq!(page["tidemark_topic_partitions{topic=\"b\"}"], 2.0);
}

#[test]
fn the_page_of_partitions_is_sorted_and_bounded() {
    let source = Partitions(vec![
        partition("b", 0, 1),
        partition("a", 10, 2),
        partition("a", 9, 3),
    ]);
    let page = partitions_page(&source, 10);
    let sizes: Vec<&str> = page
        .lines()
        .filter(|line| line.starts_with("tidemark_partition_size_bytes{"))
        .collect();
    assert_eq!(
        sizes,
        [
            "tidemark_partition_size_bytes{topic=\"a\",partition=\"9\"} 3",
            "tidemark_partition_size_bytes{topic=\"a\",partition=\"10\"} 2",
            "tidemark_partition_size_bytes{topic=\"b\",partition=\"0\"} 1",
        ]
    );
    let values = samples(&page);
    let of =
        |name: &str| values[&format!("tidemark_partition_{name}{{topic=\"b\",partition=\"0\"}}")];
    assert_eq!(of("log_start_offset"), 3.0);
    assert_eq!(of("high_watermark"), 40.0);
    assert_eq!(of("durable_offset"), 41.0);
    assert_eq!(of("end_offset"), 42.0);
    assert_eq!(of("online"), 1.0);
    assert!(!page.contains("not listed"));

    let bounded = partitions_page(&source, 2);
    assert!(bounded.ends_with("# 1 more partitions are not listed\n"));
    assert_eq!(samples(&bounded).len(), samples(&page).len() / 3 * 2);
}

fn traffic(bytes_in: u64) -> Traffic {
    Traffic {
        bytes_in,
        records_in: bytes_in / 10,
        bytes_out: bytes_in * 2,
    }
}

/// One scrape over topics of (name, size, bytes in).
fn scrape_topics(
    topics: &mut Topics,
    all: &[(&str, u64, u64)],
    shown: usize,
) -> Vec<(String, Row)> {
    topics.begin();
    for (name, size, bytes_in) in all {
        topics.add(name, *size, traffic(*bytes_in));
    }
    topics
        .end(shown)
        .into_iter()
        .map(|(name, row)| (name.to_owned(), row))
        .collect()
}

fn bytes_in(rows: &[(String, Row)]) -> Vec<(&str, u64)> {
    rows.iter()
        .map(|(name, row)| (name.as_str(), row.traffic.bytes_in))
        .collect()
}

#[test]
fn the_largest_topics_have_their_own_series_and_the_rest_share_one() {
    let mut topics = Topics::default();
    let all = [("c", 30, 1), ("a", 10, 2), ("b", 20, 4), ("a", 15, 8)];
    let rows = scrape_topics(&mut topics, &all, 2);
    assert_eq!(bytes_in(&rows), [("a", 10), ("c", 1), (OTHER, 4)]);
    assert_eq!((rows[0].1.size_bytes, rows[0].1.partitions), (25, 2));
    assert_eq!((rows[2].1.size_bytes, rows[2].1.partitions), (20, 1));
    assert_eq!((topics.len(), topics.total().bytes_in), (3, 15));
}

#[test]
fn no_more_than_the_bound_is_shown() {
    let names: Vec<String> = (0..SHOWN_TOPICS + 50).map(|i| format!("t{i}")).collect();
    let mut topics = Topics::default();
    topics.begin();
    for (size, name) in (0..).zip(&names) {
        topics.add(name, size, Traffic::default());
    }
    let rows = topics.end(SHOWN_TOPICS);
    assert_eq!(rows.len(), SHOWN_TOPICS + 1);
    let (name, other) = rows[SHOWN_TOPICS];
    assert_eq!(
        (name, other.partitions, other.size_bytes),
        (OTHER, 50, (0..50).sum())
    );
}

#[test]
fn the_rest_never_goes_back_when_topics_change_places() {
    let mut topics = Topics::default();
    let rows = scrape_topics(&mut topics, &[("a", 10, 100), ("b", 5, 50)], 1);
    assert_eq!(bytes_in(&rows), [("a", 100), (OTHER, 50)]);
    // b is the larger one now: its count stays in the rest, a's growth alone is added.
    let rows = scrape_topics(&mut topics, &[("a", 10, 103), ("b", 50, 70)], 1);
    assert_eq!(bytes_in(&rows), [("b", 70), (OTHER, 53)]);
    // All have a series of their own, and the rest still does not go away.
    let rows = scrape_topics(&mut topics, &[("a", 10, 104), ("b", 50, 71)], 2);
    assert_eq!(bytes_in(&rows), [("a", 104), ("b", 71), (OTHER, 53)]);
    assert_eq!(topics.total().bytes_in, 175);
}

#[test]
fn totals_outlive_deleted_and_recreated_topics() {
    let mut topics = Topics::default();
    scrape_topics(&mut topics, &[("a", 1, 100), ("b", 1, 10)], 9);
    let rows = scrape_topics(&mut topics, &[("b", 1, 10)], 9);
    assert_eq!(bytes_in(&rows), [("b", 10)]);
    assert_eq!((topics.len(), topics.total().bytes_in), (1, 110));
    // Recreated after a scrape without it, and between two scrapes with it.
    scrape_topics(&mut topics, &[("a", 1, 7), ("b", 1, 4)], 9);
    assert_eq!(topics.total().bytes_in, 110 + 7 + 4);
}

#[test]
fn a_topic_named_like_the_rest_is_counted_with_it() {
    let mut topics = Topics::default();
    let rows = scrape_topics(&mut topics, &[(OTHER, 99, 5), ("a", 1, 1), ("b", 2, 2)], 2);
    assert_eq!(bytes_in(&rows), [("a", 1), ("b", 2), (OTHER, 5)]);
}

#[test]
fn the_kernels_files_are_read() {
    let status = "Name:\ttidemark\nVmHWM:\t  900 kB\nVmRSS:\t  512 kB\nThreads:\t7\n";
    assert_eq!(status_field(status, "VmRSS:"), Some(512));
    assert_eq!(status_field(status, "Threads:"), Some(7));
    assert_eq!(status_field(status, "VmSwap:"), None);
    assert_eq!(status_field("VmRSS:\tmuch\n", "VmRSS:"), None);

    let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 0 0 0 250 150 0 0 20 0 7 0 100 1 1";
    assert_eq!(cpu_seconds(stat), Some(4.0));
    assert_eq!(cpu_seconds("7 (a) S 1 7"), None);
    assert_eq!(cpu_seconds(""), None);

    let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 4096                 files\n";
    assert_eq!(open_files_limit(limits), Some(1024));
    assert_eq!(
        open_files_limit("Max open files  unlimited  unlimited  files"),
        None
    );
}

#[test]
fn this_process_is_seen() {
    let sample = ProcessSample::take();
    assert!(sample.resident_bytes.unwrap() > 100_000);
    assert!(sample.threads.unwrap() >= 1);
    assert!(sample.cpu_seconds.unwrap() >= 0.0);
    assert!((1..sample.open_files_limit.unwrap_or(u64::MAX)).contains(&sample.open_files.unwrap()));
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn late_ticks_are_slow_polls() {
    let mut ticks = Ticks::default();
    ticks.record(ms(100), SLOW);
    ticks.record(ms(200), ms(0));
    assert_eq!(ticks.sample(0, ms(200)).slow_polls, 0);
    ticks.record(ms(400), SLOW + ms(1));
    ticks.record(ms(900), ms(400));
    let sample = ticks.sample(3, ms(950));
    assert_eq!((sample.thread, sample.slow_polls), (3, 2));
    assert_eq!((sample.longest_delay, sample.tick_age), (ms(400), ms(50)));
}

#[test]
fn the_longest_delay_is_forgotten_after_two_minutes() {
    let mut ticks = Ticks::default();
    ticks.record(ms(10_000), ms(400));
    ticks.record(ms(61_000), ms(20));
    assert_eq!(ticks.sample(0, ms(61_000)).longest_delay, ms(400));
    assert_eq!(ticks.sample(0, ms(119_000)).longest_delay, ms(400));
    assert_eq!(ticks.sample(0, ms(121_000)).longest_delay, ms(20));
    // Nothing at all was recorded for longer than a window.
    assert_eq!(ticks.sample(0, ms(300_000)).longest_delay, ms(0));
    assert_eq!(ticks.sample(0, ms(300_000)).slow_polls, 2);
}

#[test]
fn a_thread_that_never_ticked_is_not_stuck() {
    assert_eq!(
        Ticks::default().age(Duration::from_secs(3600)),
        Duration::ZERO
    );
}

#[test]
fn a_busy_net_thread_is_noticed() {
    let watchdog = Watchdog::new(2);
    assert!(watchdog.live());
    let threads = NetThreads::start(2).unwrap();
    watchdog.start(&threads);
    let (busy, release) = (mpsc::channel::<()>(), mpsc::channel::<()>());
    drop(threads.spawn_on(1, "busy", async move {
        busy.0.send(()).unwrap();
        // Keeps the thread, as a defective task would.
        release.1.recv().unwrap();
    }));
    busy.1.recv().unwrap();
    runtime::block_on(async {
        // Thread 0 goes on ticking while thread 1 cannot.
        until(|| watchdog.samples()[1].tick_age > 3 * TICK).await;
        release.0.send(()).unwrap();
        until(|| watchdog.samples()[1].slow_polls > 0).await;
    })
    .unwrap();
    let samples = watchdog.samples();
    assert!(samples[1].longest_delay > TICK, "{samples:?}");
    assert!(
        samples[0].longest_delay < samples[1].longest_delay,
        "{samples:?}"
    );
    assert!(watchdog.live());
    threads.shutdown();
}

#[test]
fn a_stuck_net_thread_ends_liveness() {
    let watchdog = Watchdog::new(2);
    watchdog.record(0, ms(100), ms(0));
    assert!(watchdog.live_at(ms(100) + STUCK - ms(1)));
    assert!(!watchdog.live_at(ms(100) + STUCK));
    watchdog.record(0, ms(100) + STUCK, STUCK - TICK);
    assert!(watchdog.live_at(ms(100) + STUCK));
}

/// Waits for a condition, for a minute at most.
async fn until(condition: impl Fn() -> bool) {
    for _ in 0..12_000 {
        if condition() {
            return;
        }
        clock::sleep(ms(5)).await;
    }
    panic!("the condition did not come true");
}
