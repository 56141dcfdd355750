//! A broker's host: starts it, ends it, starts it again.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidemark_config::{BrokerLayers, BrokerSettings, ConfigMap};
use tidemark_env::clock::{self, Instant};
use tidemark_env::disk::Disk;
use tidemark_env::sim::{Death, Host, World};
use tidemark_env::task::Task;
use tidemark_model::MetadataRecord;
use tidemark_server::{FormatError, InitialVoter, ServerConfig, Voters};
use tidemark_tier::Bucket;
use tidemark_wire::Uuid;
use tokio::sync::watch;

use super::Record;
use super::bucket::{self, SimBucket};
use super::restored::Restored;

/// Where the data is.
pub(super) const DATA: &str = "/data";
/// Where the metadata quorum listens.
pub(super) const QUORUM_PORT: u16 = 9093;
/// A broker that ended by itself is started again after this time.
const AGAIN: Duration = Duration::from_secs(1);
/// A broker that is asked to stop gets this long.
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// Which cluster a broker is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The one that a history begins with.
    First,
    /// The one that came back from the bucket.
    Restored,
}

impl Kind {
    pub(super) fn cluster_id(self) -> Uuid {
        uuid(0, self as usize)
    }

    fn name_of(self, index: usize) -> String {
        match self {
            Kind::First => format!("broker-{index}"),
            Kind::Restored => format!("restored-{index}"),
        }
    }

    /// The id of a broker's data directory, on its so manyeth disk.
    fn directory_id(self, index: usize, disk: u8) -> Uuid {
        uuid(1 + disk + 40 * self as u8, index)
    }
}

/// An id for something of a broker.
fn uuid(what: u8, index: usize) -> Uuid {
    let mut id = [what + 1; 16];
    id[15] = u8::try_from(index).unwrap_or(u8::MAX);
    Uuid(id)
}

struct State {
    task: Option<Task<Result<(), String>>>,
    stop: watch::Sender<bool>,
    /// It was asked to stop.
    stopping: bool,
    start_at: Option<Instant>,
    /// The disk was made to fail: a broker that ends for it is right.
    failing: bool,
    /// The disk stands still, or did since the process began: one that ends for it is right.
    stalled: bool,
    was_stalled: bool,
    /// The disk has no room.
    full: bool,
    /// It had none at some time since the process began: one that ends or does not start for it
    /// is right.
    was_full: bool,
    seeds: u64,
    /// Disks that it had before this one.
    lost_disks: u8,
}

/// A member of the metadata quorum that is another one now, as its disk was lost.
#[derive(Debug, Clone)]
pub(super) struct LostVoter {
    pub(super) node: i32,
    pub(super) host: String,
    /// The directory that it was with...
    pub(super) gone: Uuid,
    /// ...and the one that it is with.
    pub(super) new: Uuid,
}

/// A host with a broker.
pub(super) struct Machine {
    pub(super) host: Arc<Host>,
    kind: Kind,
    index: usize,
    of: usize,
    /// What its metadata begin with.
    first: Vec<MetadataRecord>,
    settings: ConfigMap,
    bucket: Option<Bucket>,
    record: Record,
    state: Mutex<State>,
}

impl Machine {
    pub(super) fn new(
        world: &Arc<World>,
        (index, of): (usize, usize),
        tier: Option<&SimBucket>,
        restored: Option<&Restored>,
        record: &Record,
    ) -> Machine {
        let kind = match restored {
            None => Kind::First,
            Some(_) => Kind::Restored,
        };
        let host = world.add_host(&kind.name_of(index));
        let listeners = format!(
            "PLAINTEXT://{0}:9092,CONTROLLER://{0}:{QUORUM_PORT}",
            host.name()
        );
        let set = |name: &str, value: String| (name.to_owned(), value);
        let mut settings = ConfigMap::from([
            set("node.id", index.to_string()),
            set("listeners", listeners),
            set("controller.listener.names", "CONTROLLER".to_owned()),
            set(
                "listener.security.protocol.map",
                "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT".to_owned(),
            ),
            set("log.dirs", DATA.to_owned()),
            set("wal.file.bytes", (1 << 20).to_string()),
            set("wal.max.bytes", (4 << 20).to_string()),
            set("wal.memory.bytes", (8 << 20).to_string()),
            set("log.segment.bytes", (1 << 20).to_string()),
            set("offsets.topic.num.partitions", "3".to_owned()),
            set("offsets.topic.replication.factor", of.min(3).to_string()),
            set("min.insync.replicas", of.min(2).to_string()),
            set("replica.lag.time.max.ms", "5000".to_owned()),
            set("group.initial.rebalance.delay.ms", "0".to_owned()),
        ]);
        if tier.is_some() {
            settings.extend([
                set("tier.url", bucket::URL.to_owned()),
                set("tier.upload.max.lag.ms", "3000".to_owned()),
                set("tier.delete.delay.ms", "4000".to_owned()),
                set("tier.reserve.bytes", "40000".to_owned()),
                set("tier.cache.disk.bytes", "3000000".to_owned()),
                set("log.retention.check.interval.ms", "1000".to_owned()),
            ]);
        }
        let machine = Machine {
            bucket: tier.map(|tier| tier.reached_by(&host)),
            host,
            kind,
            index,
            of,
            first: restored.map_or_else(Vec::new, |restored| restored.records.clone()),
            settings,
            record: record.clone(),
            state: Mutex::new(State {
                task: None,
                stop: watch::channel(false).0,
                stopping: false,
                start_at: None,
                failing: false,
                stalled: false,
                was_stalled: false,
                full: false,
                was_full: false,
                seeds: index as u64,
                lost_disks: 0,
            }),
        };
        if let Err(why) = machine.format() {
            record.broken(why);
        }
        machine
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where clients reach it.
    pub(super) fn address(&self) -> String {
        format!("{}:9092", self.host.name())
    }

    /// Whether its process runs.
    pub(super) fn is_up(&self) -> bool {
        self.host.is_up() && self.lock().task.is_some()
    }

    /// Gives its directory the identity that the others know, as an operator does once.
    fn format(&self) -> Result<(), String> {
        let disk: Arc<dyn Disk> = Arc::new(self.host.disk());
        let none = ConfigMap::new();
        let layers = BrokerLayers {
            dynamic: &none,
            dynamic_default: &none,
            fixed: &self.settings,
        };
        let settings = BrokerSettings::resolve(layers).map_err(|error| error.to_string())?;
        let lost_disks = self.lock().lost_disks;
        let voters = match lost_disks {
            0 => {
                let voters = (0..self.of).map(|index| InitialVoter {
                    node_id: i32::try_from(index).unwrap_or(0),
                    address: format!("{}:{QUORUM_PORT}", self.kind.name_of(index)),
                    directory_id: self.kind.directory_id(index, 0),
                });
                Voters::Initial(voters.collect())
            }
            _ => Voters::Others,
        };
        let mut made = 0;
        let new_id = || {
            made += 1;
            match made {
                1 => self.kind.directory_id(self.index, lost_disks),
                _ => uuid(100 + made, self.index),
            }
        };
        disk.create_dir_all(Path::new(DATA))
            .map_err(|error| error.to_string())?;
        let id = Some(self.kind.cluster_id());
        let first = match lost_disks {
            0 => &self.first[..],
            _ => &[],
        };
        match tidemark_server::format_with(&disk, &settings, id, &voters, first, new_id) {
            Ok(_) | Err(FormatError::Already { .. }) => {}
            Err(error) => return Err(error.to_string()),
        }
        // The mount point is older than anything that happens.
        disk.sync_dir(Path::new("/"))
            .map_err(|error| error.to_string())
    }

    /// Starts the broker's process.
    pub(super) fn start(&self) {
        // Whoever starts it again has seen to its disk.
        let mark = Path::new(DATA).join("tidemark-failed");
        drop(self.host.disk().remove(&mark));
        drop(self.host.disk().sync_dir(Path::new(DATA)));
        self.host.start();
        let (stop, stopped) = watch::channel(false);
        let config = ServerConfig {
            settings: self.settings.clone(),
            disk: Arc::new(self.host.disk()),
            net_threads: 2,
            cut_corrupt_logs: false,
            format_if_empty: false,
            bucket: self.bucket.clone(),
        };
        let task = self
            .host
            .spawn("broker", serve(config, stopped, self.record.clone()));
        let mut state = self.lock();
        state.task = Some(task);
        state.stop = stop;
        state.stopping = false;
        state.start_at = None;
        state.was_full = state.full;
        state.was_stalled = state.stalled;
    }

    /// Asks it to stop, as its service manager would; it is started again afterwards.
    pub(super) fn restart(&self) {
        let mut state = self.lock();
        state.stop.send_replace(true);
        state.stopping = true;
    }

    /// Ends it now, and starts it again after `down`.
    pub(super) async fn end(&self, death: Death, down: Duration) {
        let seed = {
            let mut state = self.lock();
            state.task = None;
            state.failing = false;
            state.start_at = Some(clock::monotonic() + down);
            state.seeds = state.seeds.wrapping_mul(31).wrapping_add(7);
            state.seeds
        };
        self.host.end(death, seed).await;
    }

    /// Ends it with its disk, and starts it after `down` on an empty one. Gives what has to be told
    /// to the others.
    pub(super) async fn lose_disk(&self, down: Duration) -> LostVoter {
        self.end(Death::Power, down).await;
        self.host.replace_disk();
        let disk = {
            let mut state = self.lock();
            state.full = false;
            state.lost_disks += 1;
            state.lost_disks
        };
        if let Err(why) = self.format() {
            self.record.broken(why);
        }
        LostVoter {
            node: i32::try_from(self.index).unwrap_or(0),
            host: self.host.name().to_owned(),
            gone: self.kind.directory_id(self.index, disk - 1),
            new: self.kind.directory_id(self.index, disk),
        }
    }

    /// Its disk will fail, until the broker ends.
    pub(super) fn disk_fails(&self) {
        self.lock().failing = true;
    }

    /// Its disk has no room, nor will it have when a start has let go of `but` bytes.
    pub(super) fn fill(&self, but: u64) {
        self.set_room(Some(0));
        let disk = self.host.disk();
        if let Ok(space) = disk.space(Path::new(DATA)) {
            disk.set_capacity(Some(space.total_bytes.saturating_sub(but)));
        }
    }

    /// Whether its disk stands still from now on.
    pub(super) fn disk_stalls(&self, stalled: bool) {
        self.host.stall_disk(stalled);
        let mut state = self.lock();
        state.stalled = stalled;
        state.was_stalled |= stalled;
    }

    /// Its disk has so much room and no more, or what it needs.
    pub(super) fn set_room(&self, room: Option<u64>) {
        let disk = self.host.disk();
        let used = disk.space(Path::new(DATA));
        let used = used.map_or(0, |space| space.total_bytes - space.free_bytes);
        disk.set_capacity(room.map(|room| used + room));
        let mut state = self.lock();
        state.full = room.is_some();
        state.was_full |= state.full;
    }

    /// Notices that it ended, and starts it when that is due.
    pub(super) async fn tick(&self) {
        let (runs, finished, due) = {
            let state = self.lock();
            let finished = state.task.as_ref().is_some_and(Task::is_finished);
            let due = state.start_at.is_some_and(|at| at <= clock::monotonic());
            (state.task.is_some(), finished, due)
        };
        if runs && !self.host.is_up() {
            self.record.saw("placed crash");
            return self.end(Death::Power, AGAIN).await;
        }
        let finished = finished.then(|| self.lock().task.take()).flatten();
        if let Some(task) = finished {
            let stopping = self.lock().stopping;
            let why = match task.await {
                Ok(Ok(())) if stopping => return self.end(Death::Kill, AGAIN).await,
                Ok(Ok(())) => "it stopped by itself".to_owned(),
                Ok(Err(why)) => why,
                Err(error) => error.to_string(),
            };
            self.ended(&why);
            // What its page cache made of the files is not known.
            self.end(Death::Power, AGAIN).await;
        } else if due {
            self.start();
        }
    }

    fn ended(&self, why: &str) {
        let state = self.lock();
        let full = state.was_full && why.contains("os error 28");
        let stuck = state.was_stalled && why.contains("has not finished a write");
        if stuck {
            self.record.saw("broker ended for a disk that stood still");
        } else if state.failing || full {
            self.record.saw("broker ended for its disk");
        } else {
            let index = self.index;
            self.record.broken(format!("broker {index} ended: {why}"));
        }
    }

    /// Stops it as its service manager would, also one of a lost cluster that stands still.
    pub(super) async fn stop(&self) {
        self.host.resume();
        let task = {
            let mut state = self.lock();
            state.stop.send_replace(true);
            state.start_at = None;
            state.task.take()
        };
        let Some(task) = task else { return };
        match clock::timeout(STOP_WITHIN, task).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(why))) => self.ended(&why),
            Ok(Err(error)) => self.ended(&error.to_string()),
            Err(_) => {
                let index = self.index;
                let text = format!("broker {index} did not stop");
                self.record.broken(text);
            }
        }
    }
}

async fn serve(
    config: ServerConfig,
    mut stopped: watch::Receiver<bool>,
    record: Record,
) -> Result<(), String> {
    let server = tokio::select! {
        biased;
        started = tidemark_server::start(config) => {
            started.map_err(|error| format!("it did not start: {error}"))?
        }
        // A process that starts is ended by the signal.
        _ = stopped.wait_for(|stop| *stop) => return Ok(()),
    };
    if let Some(reason) = server.marked_failed() {
        return Err(reason.to_owned());
    }
    record.saw("start");
    tokio::select! {
        biased;
        _ = stopped.wait_for(|stop| *stop) => {}
        fatal = server.failed() => return Err(fatal.to_string()),
    }
    server.shutdown().await;
    record.saw("clean stop");
    Ok(())
}
