//! The cluster is lost, with all its disks, and another one comes back from the bucket.
//!
//! Brokers of the old one may go on, as where a data center was given up too early: nothing that
//! they do to the bucket from then on may count.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidemark_env::clock::{self, Instant};
use tidemark_env::random::Random;
use tidemark_env::sim::{Death, Host, World};
use tidemark_env::task::Task;
use tidemark_model::MetadataRecord;
use tidemark_server::{RestoreError, RestoreOptions, RestoreReport};

use super::load::{PARTITIONS, TOPIC, place};
use super::machine::{Kind, Machine};
use super::{Record, Tiered};
use crate::checker::Event;

/// How long everything is well before a loss of which is told what may be missing: an upload that
/// failed is tried again within twenty seconds, and a backup of what groups committed takes its
/// turn.
const QUIET: Duration = Duration::from_secs(60);
/// Between two tries of the restore.
const AGAIN: Duration = Duration::from_secs(1);
/// A bucket that answers again gives a cluster back within this time.
const WITHIN: Duration = Duration::from_secs(240);

/// When the cluster is lost, and how.
pub(super) struct Loss {
    at: Instant,
    /// Everything is mended first, and all that was acknowledged until now is uploaded.
    quiet: bool,
    settled: bool,
    random: Random,
}

/// What to do about it now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// It is not time.
    No,
    /// Nothing goes wrong from now on.
    Calm,
    /// All is lost.
    Loss,
}

impl Loss {
    /// Somewhere in the middle of `seconds`.
    pub(super) fn new(mut random: Random, seconds: u64) -> Loss {
        let quiet = random.one_in(2);
        let after_ms = 1000 * seconds / 4 + random.below(500 * seconds + 1);
        Loss {
            at: clock::monotonic() + Duration::from_millis(after_ms),
            quiet,
            settled: false,
            random,
        }
    }

    /// Looks whether it is time.
    pub(super) fn look(&mut self, tiered: &Tiered, record: &Record) -> Due {
        let now = clock::monotonic();
        let known = (0..PARTITIONS).all(|p| tiered.bucket.range(TOPIC, p).is_some());
        if now < self.at || !known {
            return Due::No;
        }
        if self.quiet && !self.settled {
            self.settled = true;
            self.at = now + QUIET;
            record.event(Event::Settled);
            record.saw("everything was uploaded before the loss");
            return Due::Calm;
        }
        Due::Loss
    }

    /// Loses all brokers, or leaves some of them running that nobody asks any more. Gives those.
    pub(super) async fn lose(&mut self, machines: Vec<Machine>, record: &Record) -> Vec<Machine> {
        record.saw("fault: cluster lost");
        record.forget_lost_voters();
        let all_live = self.random.one_in(3);
        let one_lives = self.random.one_in(2);
        let lives = self.random.index(machines.len());
        let mut left = Vec::new();
        for (index, machine) in machines.into_iter().enumerate() {
            if all_live || one_lives && index == lives {
                record.saw("broker of the old cluster goes on");
                left.push(machine);
            } else {
                machine.end(Death::Power, Duration::ZERO).await;
            }
        }
        left
    }

    /// Restores a cluster from the bucket, from a host of its own, however often that is cut short.
    pub(super) fn begin(
        &mut self,
        world: &Arc<World>,
        tiered: &Tiered,
        record: &Record,
    ) -> Restoring {
        Restoring {
            host: world.add_host("restorer"),
            tiered: tiered.clone(),
            record: record.clone(),
            task: None,
            next: clock::monotonic() + Duration::from_millis(self.random.below(15_000)),
            cut_short: self.random.below(4),
            patience: None,
            random: Random::at(self.random.number()),
        }
    }
}

/// What a cluster that was restored begins with.
#[derive(Debug, Clone)]
pub(super) struct Restored {
    pub(super) records: Vec<MetadataRecord>,
    /// Where each partition of the topic ends.
    ends: BTreeMap<i32, i64>,
}

impl Restored {
    /// Where a partition of the topic ends.
    pub(super) fn end_of(&self, partition: i32) -> i64 {
        self.ends.get(&partition).copied().unwrap_or(0)
    }
}

/// How far a restore is.
pub(super) enum Going {
    /// It goes on.
    On,
    /// It is done.
    Done(Restored),
    /// It cannot be done.
    GivenUp,
}

type Done = Result<(RestoreReport, Vec<MetadataRecord>), RestoreError>;

/// A restore under way.
pub(super) struct Restoring {
    host: Arc<Host>,
    tiered: Tiered,
    record: Record,
    task: Option<Task<Done>>,
    /// When it is begun, or cut short.
    next: Instant,
    cut_short: u64,
    /// Until when it has to be done, once the bucket answers.
    patience: Option<Instant>,
    random: Random,
}

impl Restoring {
    /// Does what is due.
    pub(super) async fn tick(&mut self) -> Going {
        let now = clock::monotonic();
        let finished = self.task.as_ref().is_some_and(Task::is_finished);
        if let Some(task) = finished.then(|| self.task.take()).flatten() {
            match task.await {
                Ok(Ok((report, records))) => {
                    let ends = self.told(&report);
                    return Going::Done(Restored { records, ends });
                }
                Ok(Err(RestoreError::Tier(error))) => {
                    tracing::debug!(%error, "the restore is tried again");
                    self.record.saw("restore: tried again");
                }
                Ok(Err(error)) => {
                    self.record.broken(format!("the restore: {error}"));
                    return Going::GivenUp;
                }
                Err(error) => self.record.broken(format!("the restore: {error}")),
            }
            self.next = now + AGAIN;
        } else if self.task.is_some() && self.next <= now && self.cut_short > 0 {
            self.cut_short -= 1;
            self.record.saw("restore: cut short");
            self.task = None;
            self.host.end(Death::Kill, 0).await;
            self.host.start();
            self.next = now + AGAIN;
        } else if self.task.is_none() && self.next <= now {
            self.start();
            self.next = now + Duration::from_millis(self.random.below(3000));
        }
        if let Some(until) = self.patience
            && now > until
        {
            self.record.broken(format!(
                "the bucket answers, and nothing came back within {} s",
                WITHIN.as_secs()
            ));
            return Going::GivenUp;
        }
        Going::On
    }

    /// From now on nothing goes wrong with the bucket.
    pub(super) fn mended(&mut self) {
        self.patience = Some(clock::monotonic() + WITHIN);
    }

    fn start(&mut self) {
        let bucket = self.tiered.bucket.reached_by(&self.host);
        let cluster_id = Kind::Restored.cluster_id();
        let restoring = async move {
            let options = RestoreOptions::default();
            tidemark_server::restore(&bucket, None, cluster_id, &options).await
        };
        self.task = Some(self.host.spawn("restore", restoring));
    }

    /// Notes it; gives where partitions end.
    fn told(&self, report: &RestoreReport) -> BTreeMap<i32, i64> {
        self.record.saw("restored");
        for clamped in &report.clamped {
            if clamped.to.is_some_and(|to| to >= clamped.from) {
                let text = format!("the restore: {clamped:?}");
                self.record.broken(text);
            }
            self.record.saw("restore: group clamped");
        }
        let topic = report.topics.iter().find(|topic| topic.name == TOPIC);
        let ends = (0..PARTITIONS).map(|partition| {
            let index = usize::try_from(partition).unwrap_or(0);
            let part = topic.and_then(|topic| topic.partitions.get(index));
            (partition, part.map_or(0, |part| part.end_offset))
        });
        let ends: BTreeMap<i32, i64> = ends.collect();
        let by_place = ends
            .iter()
            .map(|(partition, end)| (place(*partition), *end));
        let ends_of = by_place.collect();
        self.record.event(Event::Restored { ends: ends_of });
        ends
    }
}
