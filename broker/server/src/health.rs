//! What the broker says of itself over HTTP: alive, ready, state, metrics.

use crate::broker::{Broker, Lifecycle};
use crate::controller::life::Life;
use crate::http::Health;
use crate::listeners::Reached;
use crate::metrics::{
    ControllerSample, DiskSample, MemorySample, Metrics, PartitionSample, PartitionSource,
    ProcessSample, Snapshot, Watchdog,
};
use crate::net::Budget;
use crate::partition::StartWaits;
use crate::tls::Tls;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, PoisonError};
use tidemark_config::Roles;
use tidemark_env::clock::{self, Instant};
use tidemark_env::runtime::NetThreads;
use tidemark_model::NO_LEADER;
use tidemark_quorum::DirectoryIdentity;

/// Offline partitions named in `/state` at most.
const NAMED: usize = 20;

/// The broker's health, answering from before the broker is there.
pub(crate) struct BrokerHealth {
    began: Instant,
    metrics: Arc<Metrics>,
    listeners: Reached,
    tls: Arc<Tls>,
    identity: OnceLock<Value>,
    /// Why nothing is served, where a data directory is marked as failed.
    failed: OnceLock<String>,
    /// Whether the start waits for room.
    pub(crate) waits: StartWaits,
    broker: OnceLock<Arc<Broker>>,
    life: OnceLock<Arc<Life>>,
    watchdog: OnceLock<Arc<Watchdog>>,
}

impl BrokerHealth {
    pub(crate) fn new(metrics: Arc<Metrics>, listeners: Reached, tls: Arc<Tls>) -> BrokerHealth {
        BrokerHealth {
            began: clock::monotonic(),
            metrics,
            listeners,
            tls,
            identity: OnceLock::new(),
            failed: OnceLock::new(),
            waits: StartWaits::default(),
            broker: OnceLock::new(),
            life: OnceLock::new(),
            watchdog: OnceLock::new(),
        }
    }

    /// Who the broker is has been read from its directories.
    pub(crate) fn identified(&self, directories: &[DirectoryIdentity], roles: Roles) {
        let Some(first) = directories.first() else {
            return;
        };
        let ids: Vec<String> = directories
            .iter()
            .map(|d| d.directory_id.to_string())
            .collect();
        let all = [(roles.broker, "broker"), (roles.controller, "controller")];
        let named = all.into_iter().filter_map(|(is, role)| is.then_some(role));
        let identity = json!({
            "clusterId": first.cluster_id.to_string(),
            "brokerId": first.node_id,
            "directoryIds": ids,
            "roles": named.collect::<Vec<_>>(),
        });
        // Called once, at start.
        drop(self.identity.set(identity));
    }

    /// A data directory is marked as failed: nothing is served.
    pub(crate) fn directory_failed(&self, reason: String) {
        drop(self.failed.set(reason));
    }

    /// The broker is there, and opens its logs; without `life` it is a controller alone.
    pub(crate) fn started(&self, broker: &Arc<Broker>, life: Option<&Arc<Life>>) {
        if let Some(life) = life {
            drop(self.life.set(Arc::clone(life)));
        }
        drop(self.broker.set(Arc::clone(broker)));
    }

    /// Watches the net threads from now on.
    pub(crate) fn watch(&self, threads: &NetThreads) {
        let watchdog = Watchdog::new(threads.len());
        watchdog.start(threads);
        drop(self.watchdog.set(watchdog));
    }

    fn fenced(&self) -> bool {
        self.life.get().is_some_and(|life| life.told().fenced)
    }

    /// Why records are refused, or the start waits, where a disk has no room.
    fn disk_full(&self) -> Option<String> {
        if let Some(reason) = self.waits.reason() {
            return Some(format!("the start waits for room: {reason}"));
        }
        let dirs = self.broker.get()?.partitions.log_dirs();
        let full = dirs.iter().filter(|dir| dir.is_full());
        let full: Vec<String> = full.map(|dir| dir.path().display().to_string()).collect();
        let text = format!("the disk is full: {} takes no records", full.join(", "));
        (!full.is_empty()).then_some(text)
    }

    fn controller(&self, broker: &Broker) -> ControllerSample {
        let image = broker.image();
        let heard = self.life.get().and_then(|life| life.told().heard);
        let leaderless = image.unsettled_partitions();
        ControllerSample {
            active: broker.controller.is_active(),
            contact_age: heard.unwrap_or(self.began).elapsed(),
            fenced: self.fenced(),
            fenced_brokers: bytes(image.brokers().filter(|b| b.fenced).count()),
            leaderless: bytes(leaderless.filter(|(_, p)| p.leader == NO_LEADER).count()),
        }
    }

    fn recovery(broker: &Broker) -> (usize, usize) {
        let partitions = &broker.partitions;
        (
            partitions.opened.load(Ordering::Relaxed),
            partitions.to_open.load(Ordering::Relaxed),
        )
    }
}

/// Whoever stops one broker after the other waits for this one to hold what it should: the next
/// stop could take a partition below its minimum otherwise. A partition without a leader, such as
/// one whose only log is damaged, gains nothing by waiting: /state and /metrics tell of it.
fn in_sync(broker: &Broker) -> Result<(), String> {
    let image = broker.image();
    let mut behind = image.behind_on(broker.id);
    let Some(first) = behind.next() else {
        return Ok(());
    };
    let topic = image.topic_by_id(first.topic_id);
    Err(format!(
        "catching up: not in sync in {} of its partitions, {}-{} is one",
        1 + behind.count(),
        topic.map_or("", |topic| &topic.name),
        first.partition
    ))
}

fn bytes(count: usize) -> u64 {
    count as u64
}

/// The partitions of a broker, as the metrics walk them.
struct Partitions<'a>(Option<&'a Arc<Broker>>);

impl PartitionSource for Partitions<'_> {
    fn visit(&self, visitor: &mut dyn FnMut(PartitionSample<'_>)) {
        let Some(broker) = self.0 else { return };
        for ((_, index), log) in broker.partitions.offline().iter() {
            visitor(PartitionSample::offline(&log.topic, *index));
        }
        for partition in broker.partitions.all() {
            let traffic = partition.traffic();
            let (standing, offline) = partition.standing();
            let size = partition.with_log(|log, _| {
                (
                    log.size_bytes(),
                    log.segment_count(),
                    log.failure().is_none(),
                )
            });
            let (Ok((size_bytes, segments, online)), Ok(bounds)) = (size, partition.bounds())
            else {
                continue;
            };
            visitor(PartitionSample {
                topic: &partition.topic.name,
                index: partition.index,
                log_start: bounds.log_start,
                high_watermark: bounds.high_watermark,
                end: bounds.end,
                durable: bounds.durable,
                size_bytes,
                segments: segments as u64,
                bytes_in: traffic.bytes_in,
                records_in: traffic.records_in,
                bytes_out: traffic.bytes_out,
                standing,
                online: online && !offline,
            });
        }
    }
}

impl Health for BrokerHealth {
    fn live(&self) -> bool {
        // Before there are threads there is nothing that could be stuck: recovery takes its time.
        self.watchdog.get().is_none_or(|watchdog| watchdog.live())
    }

    fn ready(&self) -> Result<(), String> {
        if let Some(reason) = self.failed.get() {
            return Err(reason.clone());
        }
        if let Some(reason) = self.waits.reason() {
            return Err(format!(
                "the disk is full, the start waits for room: {reason}"
            ));
        }
        let Some(broker) = self.broker.get() else {
            return Err("reading its metadata".into());
        };
        match broker.lifecycle() {
            Lifecycle::Recovering => {
                let (done, total) = Self::recovery(broker);
                Err(format!("opening logs, {done} of {total}"))
            }
            Lifecycle::Stopping => Err("stopping".into()),
            Lifecycle::Running if self.fenced() => Err(match self.disk_full() {
                Some(full) => format!("fenced: {full}, others lead"),
                None => "fenced: the controller does not count on this broker".into(),
            }),
            Lifecycle::Running
                if self.life.get().is_none() && broker.controller.controller_id().is_none() =>
            {
                Err("no controller is active as far as this one knows".into())
            }
            Lifecycle::Running => in_sync(broker),
        }
    }

    fn state(&self) -> Value {
        let reached = self.listeners.read();
        let reached = reached.unwrap_or_else(PoisonError::into_inner).clone();
        let listeners: BTreeMap<&str, Value> = reached
            .iter()
            .map(|l| {
                (
                    l.name.as_str(),
                    json!({"bound": l.bound.to_string(), "advertised": l.advertised}),
                )
            })
            .collect();
        let mut state = json!({
            "identity": self.identity.get(),
            "version": env!("CARGO_PKG_VERSION"),
            "uptimeMs": u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            "listeners": listeners,
            "tls": self.tls.state(),
            "lifecycle": {"state": "Starting"},
            "diskFull": self.disk_full(),
        });
        if let Some(reason) = self.failed.get() {
            state["lifecycle"] = json!({"state": "DirectoryFailed", "reason": reason});
        }
        let Some(broker) = self.broker.get() else {
            return state;
        };
        let (done, total) = Self::recovery(broker);
        state["lifecycle"] = match broker.lifecycle() {
            Lifecycle::Recovering => json!({"state": "Recovering", "done": done, "total": total}),
            Lifecycle::Running => json!({"state": "Running"}),
            Lifecycle::Stopping => json!({"state": "Stopping"}),
        };
        let image = broker.image();
        let offline = broker.partitions.offline();
        state["brokerEpoch"] = json!(broker.epoch);
        state["metadataIndex"] = json!(image.index());
        let fenced = image.brokers().filter(|b| b.fenced).map(|b| b.id);
        let heard = self.life.get().and_then(|life| life.told().heard);
        state["controller"] = json!({
            "activeId": broker.controller.controller_id(),
            "isActive": broker.controller.is_active(),
            "lastContactMs": heard.map(|at| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX)),
        });
        let features = crate::features::supported().into_iter().map(|range| {
            let level = image.feature(&range.name);
            let told = json!({"min": range.min, "max": range.max, "level": level});
            (range.name, told)
        });
        state["features"] = features.collect();
        state["fenced"] = json!(self.fenced());
        state["fencedBrokers"] = json!(fenced.collect::<Vec<_>>());
        state["topics"] = json!(image.topic_count());
        state["partitions"] = json!({
            "open": done,
            "offline": offline.len(),
            "offlineReasons": offline.values().take(NAMED).map(|log| &log.reason).collect::<Vec<_>>(),
        });
        let awaiting = broker.partitions.unseeded();
        state["partitions"]["awaitingBackup"] = json!(awaiting.len());
        if let Some(tier) = &broker.tier {
            state["tier"] = tier.state();
            let named = awaiting.iter().take(NAMED).map(|(topic_id, index)| {
                json!({
                    "topic": image.topic_by_id(*topic_id).map(|topic| &*topic.name),
                    "partition": index,
                    "lastError": tier.seeding_trouble(*topic_id, *index),
                })
            });
            state["tier"]["awaitingBackup"] = named.collect();
        }
        let unhonoured = tidemark_config::unhonoured(broker.partitions.layers(&image));
        state["unhonouredSettings"] = json!(
            unhonoured
                .iter()
                .map(|setting| setting.name)
                .collect::<Vec<_>>()
        );
        state
    }

    fn scrape(&self) -> String {
        let broker = self.broker.get();
        let mut snapshot = Snapshot {
            now_ms: clock::now_ms(),
            uptime: self.began.elapsed(),
            ready: self.ready().is_ok(),
            directory_failed: self.failed.get().is_some(),
            process: ProcessSample::take(),
            net_threads: self
                .watchdog
                .get()
                .map(|watchdog| watchdog.samples())
                .unwrap_or_default(),
            ..Snapshot::default()
        };
        if let Some(broker) = broker {
            let (done, total) = Self::recovery(broker);
            snapshot.recovery_left = match broker.lifecycle() {
                Lifecycle::Recovering => bytes(total.saturating_sub(done)),
                _ => 0,
            };
            let memory = |budget, of: &Budget| MemorySample {
                budget,
                used_bytes: bytes(of.used_bytes()),
                limit_bytes: bytes(of.total_bytes()),
            };
            let dirs = broker.partitions.log_dirs();
            let tails = dirs.iter().map(|dir| bytes(dir.pressure().memory_bytes));
            let settings = broker.settings();
            let tails_limit = u64::try_from(settings.wal_memory_bytes).unwrap_or(0);
            snapshot.memory = vec![
                memory("requests", &broker.request_memory),
                memory("fetch", &broker.fetch_memory),
                MemorySample {
                    budget: "wal",
                    used_bytes: tails.sum(),
                    limit_bytes: tails_limit * dirs.len() as u64,
                },
            ];
            snapshot.groups = broker
                .groups
                .counts()
                .into_iter()
                .map(|(state, count)| (state, bytes(count)))
                .collect();
            snapshot.awaiting_backup = bytes(broker.partitions.unseeded().len());
            snapshot.lags = broker.groups.samples(broker);
            snapshot.controller = self.controller(broker);
            snapshot.fetch_sessions = bytes(broker.fetch_session_count());
            snapshot.disks = disks(broker);
        }
        self.metrics.scrape(&snapshot, &Partitions(broker))
    }

    fn scrape_partitions(&self) -> String {
        self.metrics
            .scrape_partitions(&Partitions(self.broker.get()))
    }
}

fn disks(broker: &Broker) -> Vec<DiskSample> {
    let mut used: BTreeMap<PathBuf, u64> = BTreeMap::new();
    for partition in broker.partitions.all() {
        if let Ok((dir, size_bytes)) = partition.placed() {
            *used.entry(dir).or_default() += size_bytes;
        }
    }
    let reserves = broker.tier.as_ref().map(|tier| tier.reserves());
    let dirs = broker.partitions.log_dirs();
    dirs.iter()
        .map(|dir| {
            let space = broker.partitions.disk().space(dir.path()).ok();
            let pressure = dir.pressure();
            DiskSample {
                used_bytes: used.get(dir.path()).copied().unwrap_or(0),
                capacity_bytes: space.map_or(0, |space| space.total_bytes),
                free_bytes: space.map_or(0, |space| space.free_bytes),
                online: space.is_some() && dir.failure().is_none(),
                read_only: dir.is_full(),
                reserve: reserves
                    .as_ref()
                    .and_then(|all| all.get(dir.path()).copied()),
                wal_queued_bytes: bytes(pressure.queued_bytes),
                wal_held_bytes: pressure.ring_bytes,
                directory: dir.path().display().to_string(),
            }
        })
        .collect()
}
