//! What the broker counts and times, and the pages on which it shows it.
//!
//! The way of a request touches atomics only, found by index: series are looked up by their
//! labels once, when they first have something to tell. What others count under locks of their
//! own (partitions, groups, budgets) is collected at a scrape into a [`Snapshot`].

pub(crate) mod families;
mod process;
#[cfg(test)]
mod reference;
mod snapshot;
mod text;
mod topics;
pub(crate) mod watchdog;

#[cfg(test)]
mod tests;

pub(crate) use process::ProcessSample;
pub(crate) use snapshot::{
    ControllerSample, DiskSample, GroupSample, MemorySample, PartitionSample, PartitionSource,
    SHOWN_PARTITIONS, Snapshot, Standing,
};
pub(crate) use watchdog::Watchdog;

use crate::replica::Side;
use families::Family;
use prometheus::core::Collector;
use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tidemark_wire::{ApiKey, ErrorCode};

/// Room for error codes from -1 on.
const ERRORS: usize = 160;

/// Upper bounds of requests, in seconds: from what memory answers to the longest of polls.
const REQUEST_SECONDS: [f64; 16] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    10.0, 30.0,
];
/// Upper bounds of what waits for a disk, in seconds.
const DISK_SECONDS: [f64; 16] = [
    0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0,
    2.0, 10.0,
];

/// What is shown at zero before it happens: a rate has no value without the zero before.
const WATCHED: &[(ApiKey, &[ErrorCode])] = &[
    (
        ApiKey::Produce,
        &[
            ErrorCode::CorruptMessage,
            ErrorCode::KafkaStorageError,
            ErrorCode::NotEnoughReplicas,
            ErrorCode::NotEnoughReplicasAfterAppend,
            ErrorCode::NotLeaderOrFollower,
            ErrorCode::RequestTimedOut,
        ],
    ),
    (
        ApiKey::Fetch,
        &[
            ErrorCode::KafkaStorageError,
            ErrorCode::NotLeaderOrFollower,
            ErrorCode::OffsetOutOfRange,
        ],
    ),
];

/// The errors of one API, by their code.
type Errors = Box<[OnceLock<IntCounter>]>;

/// The handles of all that is counted as it happens.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// Connections that are open.
    pub(crate) connections: IntGauge,
    /// Connections closed at accept for a limit on their number.
    pub(crate) connections_refused: IntCounter,
    /// Connections on which no TLS came about.
    pub(crate) handshakes_failed: IntCounter,
    certificates: IntGaugeVec,
    /// Connections closed for what came in over them.
    pub(crate) bad_requests: IntCounter,
    /// Appends refused for want of room on the disk.
    pub(crate) disk_full: IntCounter,
    tier_lag: Gauge,
    tier_snapshot_late: Gauge,
    tier_uploaded: IntCounter,
    tier_read: IntCounter,
    tier_failures: IntCounterVec,
    pub(crate) tier_slowed: IntCounter,
    pub(crate) tier_refused: IntCounter,
    /// ISRs of partitions led here that became smaller.
    pub(crate) isr_shrinks: IntCounter,
    /// ISRs of partitions led here that became larger.
    pub(crate) isr_expands: IntCounter,
    /// Elections that made this broker lead with less than was acknowledged.
    pub(crate) unclean_elections: IntCounter,
    /// Records that were cut off because the leader has others.
    pub(crate) truncated_records: IntCounter,
    throttled_leader: IntCounter,
    throttled_follower: IntCounter,
    /// Fetches of followers that brought nothing on.
    pub(crate) failed_fetches: IntCounter,
    requests: HistogramVec,
    by_api: Vec<OnceLock<Histogram>>,
    errors: IntCounterVec,
    errors_by_api: Vec<OnceLock<Errors>>,
    ack_one: Histogram,
    ack_all: Histogram,
    wal_write: Histogram,
    wal_bytes: IntCounter,
    wal_records: IntCounter,
    registry: Registry,
    topics: Mutex<topics::Topics>,
}

impl Metrics {
    /// All of them, at zero.
    pub(crate) fn new() -> Metrics {
        let registry = Registry::new();
        let apis = ApiKey::ALL
            .iter()
            .map(|api| index(*api) + 1)
            .max()
            .unwrap_or(0);
        let acks = histograms(&registry, &families::PRODUCE_ACK_DURATION, &DISK_SECONDS);
        let requests = histograms(&registry, &families::REQUEST_DURATION, &REQUEST_SECONDS);
        let errors: IntCounterVec = valid(&families::REQUEST_ERRORS, &registry, |opts| {
            IntCounterVec::new(opts, families::REQUEST_ERRORS.labels)
        });
        for (api, watched) in WATCHED {
            drop(requests.with_label_values(&[api.name()]));
            for error in *watched {
                drop(errors.with_label_values(&[api.name(), error.name()]));
            }
        }
        let tier_failures: IntCounterVec = valid(&families::TIER_FAILURES, &registry, |opts| {
            IntCounterVec::new(opts, families::TIER_FAILURES.labels)
        });
        for outcome in ["away", "damaged", "denied", "not_found", "superseded"] {
            drop(tier_failures.with_label_values(&[outcome]));
        }
        let throttled: IntCounterVec = valid(&families::THROTTLED_BYTES, &registry, |opts| {
            IntCounterVec::new(opts, families::THROTTLED_BYTES.labels)
        });
        Metrics {
            connections: valid(&families::CONNECTIONS, &registry, IntGauge::with_opts),
            connections_refused: counter(&registry, &families::CONNECTIONS_REFUSED),
            handshakes_failed: counter(&registry, &families::HANDSHAKES_FAILED),
            certificates: valid(&families::CERTIFICATE_EXPIRY, &registry, |opts| {
                IntGaugeVec::new(opts, families::CERTIFICATE_EXPIRY.labels)
            }),
            bad_requests: counter(&registry, &families::BAD_REQUESTS),
            disk_full: counter(&registry, &families::DISK_FULL),
            tier_lag: valid(&families::TIER_LAG, &registry, Gauge::with_opts),
            tier_snapshot_late: valid(&families::TIER_SNAPSHOT_LATE, &registry, Gauge::with_opts),
            tier_uploaded: counter(&registry, &families::TIER_UPLOADED),
            tier_read: counter(&registry, &families::TIER_READ),
            tier_failures,
            tier_slowed: counter(&registry, &families::TIER_SLOWED),
            tier_refused: counter(&registry, &families::TIER_REFUSED),
            isr_shrinks: counter(&registry, &families::ISR_SHRINKS),
            isr_expands: counter(&registry, &families::ISR_EXPANDS),
            unclean_elections: counter(&registry, &families::UNCLEAN_ELECTIONS),
            truncated_records: counter(&registry, &families::TRUNCATED_RECORDS),
            throttled_leader: throttled.with_label_values(&["leader"]),
            throttled_follower: throttled.with_label_values(&["follower"]),
            failed_fetches: counter(&registry, &families::FAILED_FETCHES),
            requests,
            by_api: (0..apis).map(|_| OnceLock::new()).collect(),
            errors,
            errors_by_api: (0..apis).map(|_| OnceLock::new()).collect(),
            ack_one: acks.with_label_values(&["1"]),
            ack_all: acks.with_label_values(&["all"]),
            wal_write: histograms(&registry, &families::WAL_FSYNC_DURATION, &DISK_SECONDS)
                .with_label_values::<&str>(&[]),
            wal_bytes: counter(&registry, &families::WAL_WRITTEN_BYTES),
            wal_records: counter(&registry, &families::WAL_RECORDS),
            registry,
            topics: Mutex::default(),
        }
    }

    /// When the certificate of a listener ends, in seconds since 1970.
    pub(crate) fn certificate_expires(&self, listener: &str, at_s: Option<i64>) {
        if let Some(at_s) = at_s {
            self.certificates.with_label_values(&[listener]).set(at_s);
        }
    }

    /// Bytes of throttled replicas.
    pub(crate) fn throttled(&self, side: Side) -> &IntCounter {
        match side {
            Side::Leader => &self.throttled_leader,
            Side::Follower => &self.throttled_follower,
        }
    }

    /// A request was answered.
    pub(crate) fn request(&self, api: ApiKey, elapsed: Duration) {
        if let Some(handle) = self.by_api.get(index(api)) {
            handle
                .get_or_init(|| self.requests.with_label_values(&[api.name()]))
                .observe(elapsed.as_secs_f64());
        }
    }

    /// An error was answered, for a request as a whole or for one of its parts.
    pub(crate) fn error(&self, api: ApiKey, error: ErrorCode) {
        let Some(errors) = self.errors_by_api.get(index(api)) else {
            return;
        };
        if error.is_none() {
            return;
        }
        let errors = errors.get_or_init(|| (0..ERRORS).map(|_| OnceLock::new()).collect());
        let place = usize::try_from(i32::from(error.code()) + 1).unwrap_or(0);
        if let Some(handle) = errors.get(place) {
            handle
                .get_or_init(|| self.errors.with_label_values(&[api.name(), error.name()]))
                .inc();
        }
    }

    /// A produce request was acknowledged, `elapsed` after its append.
    pub(crate) fn produce_ack(&self, acks: i16, elapsed: Duration) {
        let handle = if acks == 1 {
            &self.ack_one
        } else {
            &self.ack_all
        };
        handle.observe(elapsed.as_secs_f64());
    }

    /// How long the oldest records have waited for the bucket.
    pub(crate) fn tier_lag(&self, lag_ms: i64) {
        self.tier_lag.set(lag_ms as f64 / 1000.0);
    }

    /// How long the bucket has not taken the newest metadata.
    pub(crate) fn tier_snapshot_late(&self, late: Duration) {
        self.tier_snapshot_late.set(late.as_secs_f64());
    }

    /// An object was uploaded.
    pub(crate) fn tier_uploaded(&self, bytes: u64) {
        self.tier_uploaded.inc_by(bytes);
    }

    /// Records went to a consumer from the bucket.
    pub(crate) fn tier_read(&self, bytes: u64) {
        self.tier_read.inc_by(bytes);
    }

    /// The bucket failed.
    pub(crate) fn tier_failed(&self, outcome: &str) {
        self.tier_failures.with_label_values(&[outcome]).inc();
    }

    /// A group was written to a write-ahead log.
    pub(crate) fn wal_group(&self, took: Duration, bytes: usize, records: usize) {
        self.wal_write.observe(took.as_secs_f64());
        self.wal_bytes.inc_by(bytes as u64);
        self.wal_records.inc_by(records as u64);
    }

    /// The page `/metrics`. Walks all partitions: call it where blocking is allowed.
    pub(crate) fn scrape(&self, snapshot: &Snapshot, partitions: &dyn PartitionSource) -> String {
        let mut page = String::with_capacity(32 * 1024);
        if let Err(error) = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut page) {
            tracing::error!(%error, "some metrics are missing from the page");
        }
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        snapshot::write(page, snapshot, partitions, &mut topics)
    }

    /// The page `/metrics/partitions`. Walks all partitions: call it where blocking is allowed.
    pub(crate) fn scrape_partitions(&self, partitions: &dyn PartitionSource) -> String {
        snapshot::partitions_page(partitions, SHOWN_PARTITIONS)
    }
}

/// The first of the private API keys.
const FIRST_PRIVATE: usize = 20_000;
/// Where they have their places: above all of Kafka's.
const PRIVATE_FROM: usize = 128;

fn index(api: ApiKey) -> usize {
    let key = usize::try_from(api as i16).unwrap_or(usize::MAX);
    match key.checked_sub(FIRST_PRIVATE) {
        Some(at) => PRIVATE_FROM + at,
        None => key,
    }
}

fn counter(registry: &Registry, family: &Family) -> IntCounter {
    valid(family, registry, IntCounter::with_opts)
}

fn histograms(registry: &Registry, family: &Family, bounds: &[f64]) -> HistogramVec {
    valid(family, registry, |opts| {
        let opts = HistogramOpts::from(opts).buckets(bounds.to_vec());
        HistogramVec::new(opts, family.labels)
    })
}

/// Makes and registers a metric.
fn valid<M: Collector + Clone + 'static>(
    family: &Family,
    registry: &Registry,
    make: impl FnOnce(Opts) -> prometheus::Result<M>,
) -> M {
    let made = make(Opts::new(family.name, family.help)).and_then(|metric| {
        registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    });
    made.expect("the table's names and labels are valid and each is registered once")
}
