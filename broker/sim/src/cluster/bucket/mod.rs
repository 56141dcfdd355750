//! An object store in memory, which the simulated brokers share, and all that goes wrong with one.
//!
//! A broker reaches it by a handle of its own ([`Handle`]), which behaves as the weather of the
//! store has it ([`Sky`]): it fails, is slow, loses answers to what it did, does late what nobody
//! waits for any more, gives out other bytes than it was given. What is promised of the objects
//! in it is checked whenever they change ([`chain`]).

mod chain;
mod faults;
mod store;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use object_store::path::Path;
use tidemark_env::clock::Instant;
use tidemark_env::disk::Disk;
use tidemark_env::random::Random;
use tidemark_env::sim::{Host, World};
use tidemark_tier::Bucket;

use super::Record;
use super::load::{PARTITIONS, TOPIC, place};
use super::machine::{DATA, Machine};
use chain::Chains;

pub(super) use faults::BucketFaults;
pub(super) use store::Handle;

/// Where it is, for the settings.
pub(super) const URL: &str = "s3://simulated/logs";
/// Below which keys everything lies.
const PREFIX: &str = "logs";
/// Parts of uploads are small, so that there are uploads in parts.
const PART_BYTES: usize = 48 << 10;

/// How a store behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sky {
    /// It answers.
    Clear,
    /// It answers, but for a request now and then.
    Fair,
    /// Connections are refused.
    Away,
    /// Requests are taken and never answered.
    Silent,
    /// Most requests are told to come later.
    Throttled,
    /// Credentials are not accepted.
    Denied,
    /// It takes seconds.
    Slow,
    /// Every second request goes wrong: it is not done, done without an answer, or done later.
    Flaky,
    /// Every second read is short, or has other bytes; and some segments are kept so.
    Lying,
}

#[derive(Debug, Clone)]
struct Object {
    bytes: Bytes,
    /// Which life of which host put it there.
    by: (String, u64),
}

/// A write that takes effect when nobody waits for it any more.
struct Late {
    at: Instant,
    key: String,
    bytes: Bytes,
    create: bool,
    by: (String, u64),
}

/// What is done to who creates the next manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Placed {
    /// It is paused with the request on its way.
    Pause,
    /// The object is there, and the power goes before the answer comes.
    Crash,
}

struct State {
    random: Random,
    sky: Sky,
    objects: BTreeMap<String, Object>,
    late: Vec<Late>,
    chains: Chains,
    placed: Option<Placed>,
    /// Hosts that are to be treated so, by name.
    struck: Vec<(String, Placed)>,
}

/// A store that all brokers share.
#[derive(Clone)]
pub(super) struct SimBucket {
    world: Arc<World>,
    record: Record,
    state: Arc<Mutex<State>>,
}

impl std::fmt::Debug for SimBucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SimBucket")
    }
}

impl SimBucket {
    pub(super) fn new(world: &Arc<World>, record: &Record, random: Random) -> SimBucket {
        SimBucket {
            world: Arc::clone(world),
            record: record.clone(),
            state: Arc::new(Mutex::new(State {
                random,
                sky: Sky::Fair,
                objects: BTreeMap::new(),
                late: Vec::new(),
                chains: Chains::default(),
                placed: None,
                struck: Vec::new(),
            })),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bucket as `host` reaches it.
    pub(super) fn reached_by(&self, host: &Arc<Host>) -> Bucket {
        self.open(Handle::new(self.clone(), Some(Arc::clone(host))))
    }

    /// The bucket as it is, for who looks through it.
    pub(super) fn itself(&self) -> Bucket {
        self.open(Handle::new(self.clone(), None))
    }

    fn open(&self, handle: Handle) -> Bucket {
        Bucket::new(Arc::new(handle), Path::from(PREFIX), URL).with_part_bytes(PART_BYTES)
    }

    /// Does what is late and due.
    fn tick(&self, now: Instant) {
        let due: Vec<Late> = self
            .lock()
            .late
            .extract_if(.., |late| late.at <= now)
            .collect();
        for late in due {
            let done = self.put(&late.key, late.bytes, late.create, late.by);
            let what = match done {
                true => "bucket: a write that was given up came late",
                false => "bucket: a create that was given up came too late",
            };
            self.record.saw(what);
        }
    }

    /// Writes an object; says whether it did.
    fn put(&self, key: &str, bytes: Bytes, create: bool, by: (String, u64)) -> bool {
        self.world.note(
            "bucket put",
            bytes.len() as u64,
            u64::from(create),
            key.as_bytes(),
        );
        let mut state = self.lock();
        if state.objects.contains_key(key) {
            if !create {
                drop(state);
                let what = format!("bucket: {key} was written twice");
                self.record.broken(what);
            }
            return false;
        }
        let State {
            objects, chains, ..
        } = &mut *state;
        let object = Object { bytes, by };
        let wrong = chains.put(objects, key, &object);
        objects.insert(key.to_owned(), object);
        drop(state);
        if chain::is_manifest(key) {
            self.record.saw("bucket: manifest");
        }
        if let Err(wrong) = wrong {
            self.record.broken(format!("bucket: {wrong}"));
        }
        true
    }

    /// Wherever a log begins on a disk, the bucket has what came before it, or somebody deleted it.
    fn look_at_disks(&self, machines: &[Machine]) {
        for machine in machines {
            let disk = machine.host.disk();
            for partition in 0..PARTITIONS {
                let Some((_, end)) = self.range(TOPIC, partition) else {
                    continue;
                };
                let dir = std::path::Path::new(DATA).join(format!("{TOPIC}-{partition}"));
                // There may be no such replica.
                let files = disk.list(&dir).unwrap_or_default();
                let bases = files.iter().filter_map(|file| {
                    let base = file.name.strip_suffix(".log")?;
                    base.parse::<i64>().ok()
                });
                let kept = end.max(self.record.deleted(&place(partition)));
                let Some(first) = bases.min().filter(|first| *first > kept) else {
                    continue;
                };
                self.record.broken(format!(
                    "{TOPIC}-{partition} begins at {first} on {}, and ends at {end} in the bucket",
                    machine.host.name()
                ));
            }
        }
    }

    fn delete(&self, key: &str, by: &(String, u64)) {
        self.world.note("bucket delete", 0, 0, key.as_bytes());
        let mut state = self.lock();
        let State {
            objects, chains, ..
        } = &mut *state;
        let Some(object) = objects.remove(key) else {
            return;
        };
        let wrong = chains.delete(key, &object, by);
        drop(state);
        match wrong {
            Ok(what) => self.record.saw(what),
            Err(wrong) => self.record.broken(format!("bucket: {wrong}")),
        }
    }

    /// Where a partition ends in the bucket, by the topic's name.
    pub(super) fn range(&self, topic: &str, partition: i32) -> Option<(i64, i64)> {
        let state = self.lock();
        let head = state.chains.head(topic, partition)?;
        Some((head.start_offset, head.end_offset))
    }
}
