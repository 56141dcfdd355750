//! What all replicas of this broker share: who fetches from which leader, what followers owe
//! their leaders, what leaders ask of the controller, and time.
//!
//! Partitions call in here under their locks. Nothing in here takes a partition's lock while it
//! holds one of its own.

mod acks;
mod alter;
mod fetcher;
mod session;
mod throttle;

pub(crate) use fetcher::Fetcher;
pub(crate) use session::{producers_tag, take_durable};
pub(crate) use throttle::Side;

use crate::broker::Broker;
use crate::metrics::Metrics;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tidemark_config::BrokerSettings;
use tidemark_env::clock::Instant;
use tidemark_env::runtime::NetThreads;
use tidemark_env::{clock, task};
use tidemark_model::{BrokerEpoch, BrokerId, TopicPartition};
use tidemark_replication::{Common, Identity, LogState, Proposal, Replica, Settings};
use tokio::sync::{Notify, watch};

/// What all replicas of this broker share.
pub(crate) struct Replicas {
    common: Arc<Common>,
    began: Instant,
    pub(crate) metrics: Arc<Metrics>,
    fetchers: Mutex<BTreeMap<BrokerId, Arc<Fetcher>>>,
    /// A fetcher was made that no task runs yet.
    more_fetchers: Notify,
    proposals: Mutex<BTreeMap<TopicPartition, Proposal>>,
    proposed: Notify,
    /// Followers that want their parked fetches answered.
    impatient: Mutex<BTreeMap<BrokerId, Arc<Notify>>>,
    throttles: throttle::Throttles,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic ends the process, so a poisoned lock is only seen in tests.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Replicas {
    /// Of the broker that registered as this.
    pub(crate) fn new(
        broker_epoch: BrokerEpoch,
        settings: &BrokerSettings,
        metrics: Arc<Metrics>,
    ) -> Replicas {
        Replicas {
            common: Arc::new(Common {
                me: Identity {
                    broker_id: settings.node_id,
                    broker_epoch,
                    registered_index: broker_epoch,
                },
                settings: Settings {
                    replica_lag_time_max_ms: settings.replica_lag_time_max_ms,
                    ..Settings::default()
                },
            }),
            began: clock::monotonic(),
            metrics,
            fetchers: Mutex::default(),
            more_fetchers: Notify::new(),
            proposals: Mutex::default(),
            proposed: Notify::new(),
            impatient: Mutex::default(),
            throttles: throttle::Throttles::default(),
        }
    }

    /// This broker.
    pub(crate) fn broker_id(&self) -> BrokerId {
        self.common.me.broker_id
    }

    /// Time that does not jump, in milliseconds.
    pub(crate) fn now_ms(&self) -> i64 {
        i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    /// `replica.lag.time.max.ms`.
    pub(crate) fn lag_time_max(&self) -> Duration {
        Duration::from_millis(
            u64::try_from(self.common.settings.replica_lag_time_max_ms).unwrap_or(0),
        )
    }

    /// A replica of this broker on this log.
    pub(crate) fn replica(&self, log: LogState) -> Replica {
        Replica::new(Arc::clone(&self.common), log)
    }

    /// Who fetches from `leader`.
    pub(crate) fn fetcher(&self, leader: BrokerId) -> Arc<Fetcher> {
        let mut fetchers = lock(&self.fetchers);
        let fetcher = fetchers.entry(leader).or_insert_with(|| {
            self.more_fetchers.notify_one();
            Fetcher::new(self.common.me, leader)
        });
        Arc::clone(fetcher)
    }

    /// Has the controller asked for another ISR.
    pub(crate) fn propose(&self, partition: TopicPartition, proposal: Proposal) {
        lock(&self.proposals).insert(partition, proposal);
        self.proposed.notify_one();
    }

    /// Told when this follower wants its parked fetch answered.
    pub(crate) fn impatience(&self, follower: BrokerId) -> Arc<Notify> {
        Arc::clone(lock(&self.impatient).entry(follower).or_default())
    }
}

/// Starts the tasks that fetch and report, on net threads, and the one that proposes.
pub(crate) fn start(broker: &Arc<Broker>, threads: &Arc<NetThreads>, stop: &watch::Receiver<bool>) {
    let of = |_: &str| (Arc::clone(broker), stop.clone());
    let (fetching, mut stopped) = of("fetchers");
    let threads = Arc::downgrade(threads);
    drop(task::spawn("replica-fetchers", async move {
        let stop = stopped.clone();
        tokio::select! {
            () = run_fetchers(fetching, threads, stop) => {}
            _ = stopped.wait_for(|stop| *stop) => {}
        }
    }));
    let (proposing, mut stopped) = of("proposals");
    drop(task::spawn("alter-partition", async move {
        tokio::select! {
            () = alter::run(&proposing) => {}
            _ = stopped.wait_for(|stop| *stop) => {}
        }
    }));
    let (ticking, mut stopped) = of("ticks");
    drop(task::spawn("replica-ticks", async move {
        tokio::select! {
            () = tick(&ticking) => {}
            _ = stopped.wait_for(|stop| *stop) => {}
        }
    }));
}

/// Gives every fetcher its tasks, both on one net thread: with their connections they are six tasks
/// that hand each request and answer on to one another.
async fn run_fetchers(broker: Arc<Broker>, threads: Weak<NetThreads>, stop: watch::Receiver<bool>) {
    let replicas = Arc::clone(broker.partitions.replicas());
    let mut running: Vec<BrokerId> = Vec::new();
    loop {
        let new: Vec<Arc<Fetcher>> = lock(&replicas.fetchers)
            .iter()
            .filter(|(leader, _)| !running.contains(leader))
            .map(|(_, fetcher)| Arc::clone(fetcher))
            .collect();
        let Some(threads) = threads.upgrade() else {
            return;
        };
        for fetcher in new {
            let thread = running.len();
            running.push(fetcher.leader);
            let (of_fetch, of_acks) = (Arc::clone(&broker), Arc::clone(&broker));
            let (acking, mut stopped) = (Arc::clone(&fetcher), stop.clone());
            drop(threads.spawn_on(thread, "replica-acks", async move {
                tokio::select! {
                    () = acks::run(&acking, &of_acks) => {}
                    _ = stopped.wait_for(|stop| *stop) => {}
                }
            }));
            let mut stopped = stop.clone();
            drop(threads.spawn_on(thread, "replica-fetcher", async move {
                tokio::select! {
                    () = fetcher.run(&of_fetch) => {}
                    _ = stopped.wait_for(|stop| *stop) => {}
                }
            }));
        }
        drop(threads);
        replicas.more_fetchers.notified().await;
    }
}

/// Lets replicas see time pass, and says when this process stood still for long.
async fn tick(broker: &Arc<Broker>) {
    let lag = broker.partitions.replicas().lag_time_max();
    let every = (lag / 4).max(Duration::from_millis(1));
    loop {
        let before = clock::monotonic();
        clock::sleep(every).await;
        let paused = before.elapsed() > every * 2;
        for dir in broker.partitions.log_dirs() {
            // Whatever the disk did meanwhile, this process could not see it.
            dir.watch(if paused { Duration::ZERO } else { every }, lag);
        }
        for partition in broker.partitions.all() {
            partition.tick(paused);
        }
    }
}

/// The address of a broker for other brokers.
fn address_of(broker: &Broker, id: BrokerId) -> Option<String> {
    let image = broker.image();
    let listener = broker.settings();
    let found = image.broker(id)?;
    let endpoint = found
        .endpoints
        .iter()
        .find(|endpoint| endpoint.name == listener.inter_broker_listener)?;
    Some(match endpoint.host.contains(':') {
        true => format!("[{}]:{}", endpoint.host, endpoint.port),
        false => format!("{}:{}", endpoint.host, endpoint.port),
    })
}
