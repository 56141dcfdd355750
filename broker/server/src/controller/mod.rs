//! This node as the controller, and its way to the one that is active.
//!
//! Requests to the controller travel as whole frames: served here while this node is the active
//! controller, and forwarded over the quorum's listener otherwise. The answer comes with the index
//! of the controller's image, so that whoever hears it finds what it tells of.
//!
//! **Invariant:** a request that was forwarded and whose answer was lost is not sent again on
//! behalf of a client: it may have been carried out.

mod active;
mod forward;
mod joining;
pub(crate) mod life;
mod peers;
mod requests;

pub(crate) use forward::Inbox;
pub use joining::JoinError;
pub(crate) use joining::{Joined, join};

use crate::broker::Broker;
use crate::tls::Tls;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tidemark_config::{BrokerSettings, ConfigMap};
use tidemark_env::clock::{self, Instant};
use tidemark_env::task;
use tidemark_model::{BrokerEpoch, BrokerId, Image, Partition};
use tidemark_quorum::decide::{
    self, Decision, Heartbeat, HeartbeatAnswer, Join, NewIsr, ProducerIds, Refusal, Sessions,
};
use tidemark_quorum::{Metadata, QuorumError};
use tokio::sync::{Notify, watch};

/// Requests wait so long for a broker that registers.
const STARTING: Duration = Duration::from_secs(10);

/// What became of a broker's request.
type Decided<T> = Result<Result<T, Refusal>, QuorumError>;

/// What was heard of brokers, and in which leadership: of none in another one, and of nobody in a
/// gap.
struct Heard {
    epoch: u64,
    since: Instant,
    sessions: Sessions,
}

/// A node of the cluster, as far as the controller goes.
pub(crate) struct Node {
    pub(crate) id: BrokerId,
    pub(crate) metadata: Arc<Metadata>,
    pub(crate) settings: BrokerSettings,
    /// Settings from file and command line.
    fixed: Arc<ConfigMap>,
    pub(crate) tls: Arc<Tls>,
    /// Sessions go by the time since then.
    origin: Instant,
    heard: Mutex<Option<Heard>>,
    /// Somebody's session may have ended early.
    woken: Notify,
    /// The broker of this node, once it is there.
    broker: watch::Sender<Option<Weak<Broker>>>,
}

impl Node {
    pub(crate) fn new(
        metadata: Arc<Metadata>,
        settings: BrokerSettings,
        fixed: Arc<ConfigMap>,
        tls: Arc<Tls>,
    ) -> Arc<Node> {
        Arc::new(Node {
            id: settings.node_id,
            metadata,
            settings,
            fixed,
            tls,
            origin: clock::monotonic(),
            heard: Mutex::default(),
            woken: Notify::new(),
            broker: watch::Sender::new(None),
        })
    }

    /// Starts what this node does while it is the active controller.
    pub(crate) fn start(self: &Arc<Self>, stop: watch::Receiver<bool>) {
        let mut stopped = stop;
        let node = Arc::clone(self);
        drop(task::spawn("controller", async move {
            tokio::select! {
                () = active::run(node) => {}
                _ = stopped.wait_for(|stop| *stop) => {}
            }
        }));
    }

    /// The broker of this node is there from now on.
    pub(crate) fn serve_with(&self, broker: &Arc<Broker>) {
        self.broker.send_replace(Some(Arc::downgrade(broker)));
    }

    /// The broker of this node. One that registers is there soon.
    async fn broker(&self) -> Option<Arc<Broker>> {
        let mut broker = self.broker.subscribe();
        let there = broker.wait_for(Option::is_some);
        let there = clock::timeout(STARTING, there).await.ok()?.ok()?;
        there.as_ref().and_then(Weak::upgrade)
    }

    fn context(&self) -> decide::Context<'_> {
        decide::Context {
            broker_id: self.id,
            fixed: &self.fixed,
        }
    }

    fn session_ms(&self) -> i64 {
        self.settings.broker_session_timeout_ms.into()
    }

    fn now_ms(&self) -> i64 {
        i64::try_from(self.origin.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    /// Works on what was heard of brokers in this leadership.
    fn with_sessions<T>(&self, image: &Image, work: impl FnOnce(&mut Sessions, i64) -> T) -> T {
        let now = self.now_ms();
        let activity = self.metadata.activity();
        let (epoch, since) = activity
            .and_then(|activity| activity.epoch_since())
            .unwrap_or((0, self.origin));
        let mut guard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let heard = guard.get_or_insert_with(|| Heard {
            epoch,
            since,
            sessions: Sessions::begin(image, now, self.session_ms()),
        });
        if heard.epoch != epoch {
            heard.sessions = Sessions::begin(image, now, self.session_ms());
        } else if heard.since != since {
            heard.sessions.grant_all(image, now);
        }
        (heard.epoch, heard.since) = (epoch, since);
        work(&mut heard.sessions, now)
    }

    /// Decides on the newest image and on what was heard of brokers.
    async fn decide<T, F>(self: &Arc<Self>, decide: F) -> Result<T, QuorumError>
    where
        T: Send + 'static,
        F: FnOnce(&Image, decide::Context<'_>, &mut Sessions, i64) -> Decision<T> + Send + 'static,
    {
        let node = Arc::clone(self);
        let decided = self.metadata.propose_async(move |image| {
            node.with_sessions(image, |sessions, now| {
                decide(image, node.context(), sessions, now)
            })
        });
        Ok(decided.await?.0)
    }

    /// Registers a process as a broker.
    pub(crate) async fn register(self: &Arc<Self>, join: Join) -> Decided<BrokerEpoch> {
        let id = join.registration.broker_id;
        let registered = self
            .decide(move |image, context, sessions, now| {
                let decision = decide::register(image, context, sessions, now, &join);
                if let Ok(epoch) = &decision.result {
                    sessions.registered(id, *epoch, now);
                }
                decision
            })
            .await?;
        if let Ok(epoch) = &registered {
            tracing::info!(broker = id, epoch, "a broker has registered");
        }
        Ok(registered)
    }

    /// Takes a heartbeat.
    pub(crate) async fn heartbeat(self: &Arc<Self>, beat: Heartbeat) -> Decided<HeartbeatAnswer> {
        if self.metadata.is_active() {
            // Most change nothing: they need not wait for what does.
            let image = self.metadata.image();
            let decision = self.with_sessions(&image, |sessions, now| {
                sessions.heartbeat(&image, self.context(), now, &beat)
            });
            if decision.records.is_empty() && decision.result.is_ok() {
                return Ok(decision.result);
            }
        }
        let decided = self.decide(move |image, context, sessions, now| {
            sessions.heartbeat(image, context, now, &beat)
        });
        decided.await
    }

    /// Changes ISRs as their leader asks.
    pub(crate) async fn alter_partitions(
        self: &Arc<Self>,
        broker_id: BrokerId,
        epoch: BrokerEpoch,
        asked: Vec<NewIsr>,
    ) -> Decided<Vec<Result<Partition, Refusal>>> {
        let decided = self.decide(move |image, context, _, _| {
            decide::alter_partitions(image, context, broker_id, epoch, &asked)
        });
        decided.await
    }

    /// Gives a broker producer ids that nobody was given before.
    pub(crate) async fn allocate_producer_ids(
        self: &Arc<Self>,
        broker_id: BrokerId,
        epoch: BrokerEpoch,
    ) -> Decided<ProducerIds> {
        let decided = self
            .decide(move |image, _, _, _| decide::allocate_producer_ids(image, broker_id, epoch));
        decided.await
    }

    /// A broker's port refuses connections: its process is gone.
    fn refused(&self, broker_id: BrokerId, epoch: BrokerEpoch) {
        let image = self.metadata.image();
        self.with_sessions(&image, |sessions, _| sessions.refused(broker_id, epoch));
        self.woken.notify_one();
    }
}
