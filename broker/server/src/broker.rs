//! What all handlers share: the metadata, the partitions, the groups, the budgets.

use crate::controller::Node;
use crate::fetch::{Sessions, Subscription};
use crate::groups::Groups;
use crate::metrics::Metrics;
use crate::net::Budget;
use crate::partition::Registry;
use crate::tier::Tier;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use tidemark_config::{BrokerSettings, ConfigMap};
use tidemark_env::random;
use tidemark_model::{BrokerEpoch, BrokerId, Image};
use tidemark_quorum::decide::{self, Decision, ProducerIds};
use tidemark_quorum::{Metadata, QuorumError};
use tidemark_wire::messages::AllocateProducerIdsRequest;
use tidemark_wire::{ErrorCode, Uuid};

/// How far the broker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lifecycle {
    /// Opening logs; nothing is served.
    Recovering,
    /// Serving.
    Running,
    /// Closing logs; connections end.
    Stopping,
}

/// A broker while it runs.
pub(crate) struct Broker {
    pub(crate) id: BrokerId,
    pub(crate) metrics: Arc<Metrics>,
    /// Memory that requests may hold while they are read and served.
    pub(crate) request_memory: Budget,
    /// Memory that answers to fetches may hold until they are sent.
    pub(crate) fetch_memory: Budget,
    pub(crate) controller: Arc<Metadata>,
    /// The way to the active controller.
    pub(crate) node: Arc<Node>,
    pub(crate) partitions: Arc<Registry>,
    pub(crate) groups: Groups,
    /// The bucket, if there is one.
    pub(crate) tier: Option<Arc<Tier>>,
    pub(crate) fetch_sessions: Mutex<Sessions<Subscription>>,
    /// The epoch of this process's registration.
    pub(crate) epoch: BrokerEpoch,
    /// Settings from file and command line.
    pub(crate) fixed: Arc<ConfigMap>,
    settings: RwLock<Arc<BrokerSettings>>,
    producer_ids: tokio::sync::Mutex<ProducerIds>,
    lifecycle: AtomicU8,
    applied_index: AtomicU64,
}

/// A random id.
pub(crate) fn new_id() -> Uuid {
    let mut bytes = [0; 16];
    random::fill(&mut bytes);
    Uuid::from_random(bytes)
}

impl Broker {
    pub(crate) fn new(
        epoch: BrokerEpoch,
        node: Arc<Node>,
        partitions: Arc<Registry>,
        fixed: Arc<ConfigMap>,
        settings: BrokerSettings,
        tier: Option<Arc<Tier>>,
        metrics: Arc<Metrics>,
    ) -> Broker {
        Broker {
            id: node.id,
            request_memory: Budget::new(settings.queued_max_request_bytes.unwrap_or(i64::MAX)),
            fetch_memory: Budget::new(settings.fetch_memory_max_bytes),
            metrics,
            controller: Arc::clone(&node.metadata),
            node,
            partitions,
            groups: Groups::default(),
            tier,
            fetch_sessions: Mutex::default(),
            epoch,
            fixed,
            settings: RwLock::new(Arc::new(settings)),
            producer_ids: tokio::sync::Mutex::new(ProducerIds { first: 0, count: 0 }),
            lifecycle: AtomicU8::new(Lifecycle::Recovering as u8),
            applied_index: AtomicU64::new(0),
        }
    }

    /// The newest metadata.
    pub(crate) fn image(&self) -> Arc<Image> {
        self.controller.image()
    }

    /// The broker to send clients to that look for the controller: the active one where it serves
    /// clients, else this one, which forwards to it.
    pub(crate) fn controller_id(&self) -> BrokerId {
        let image = self.image();
        let serves = |id: &BrokerId| image.broker(*id).is_some_and(|broker| !broker.fenced);
        self.controller
            .controller_id()
            .filter(serves)
            .unwrap_or(self.id)
    }

    /// The settings in force.
    pub(crate) fn settings(&self) -> Arc<BrokerSettings> {
        Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Index of the image that partitions and groups act on.
    pub(crate) fn applied_index(&self) -> u64 {
        self.applied_index.load(Ordering::Acquire)
    }

    /// Everything is in step with the image of `index`.
    pub(crate) fn in_step(&self, index: u64) {
        self.applied_index.store(index, Ordering::Release);
        self.partitions.publish(index);
    }

    /// How far the broker is.
    pub(crate) fn lifecycle(&self) -> Lifecycle {
        match self.lifecycle.load(Ordering::Acquire) {
            at if at == Lifecycle::Recovering as u8 => Lifecycle::Recovering,
            at if at == Lifecycle::Running as u8 => Lifecycle::Running,
            _ => Lifecycle::Stopping,
        }
    }

    pub(crate) fn set_lifecycle(&self, lifecycle: Lifecycle) {
        self.lifecycle.store(lifecycle as u8, Ordering::Release);
    }

    /// Decides a change of the metadata, makes it durable, and waits until the partitions are in
    /// step with it.
    pub(crate) async fn change<T, F>(&self, decide: F) -> Result<T, QuorumError>
    where
        T: Send + 'static,
        F: FnOnce(&Image, decide::Context<'_>, &BrokerSettings) -> Decision<T> + Send + 'static,
    {
        let (fixed, settings, broker_id) = (Arc::clone(&self.fixed), self.settings(), self.id);
        let (result, image) = self
            .controller
            .propose_async(move |image| {
                decide(
                    image,
                    decide::Context {
                        broker_id,
                        fixed: &fixed,
                    },
                    &settings,
                )
            })
            .await?;
        // While its logs are opened a broker keeps others waiting for nothing.
        if self.lifecycle() != Lifecycle::Recovering {
            self.partitions.applied(image.index()).await;
        }
        Ok(result)
    }

    /// An idempotent producer's id, never given out before.
    pub(crate) async fn next_producer_id(&self) -> Result<i64, ErrorCode> {
        let mut block = self.producer_ids.lock().await;
        if block.count == 0 {
            let request = AllocateProducerIdsRequest {
                broker_id: self.id,
                broker_epoch: self.epoch,
                ..Default::default()
            };
            let taken = self.ask_controller(request).await;
            let taken = taken.map_err(|error| {
                tracing::error!(%error, "no producer ids");
                error.error_code()
            })?;
            if taken.error_code != ErrorCode::None.code() {
                let error = ErrorCode::from_code(taken.error_code);
                tracing::error!(error = error.name(), "no producer ids");
                return Err(error);
            }
            *block = ProducerIds {
                first: taken.producer_id_start,
                count: taken.producer_id_len.into(),
            };
        }
        let id = block.first;
        block.first += 1;
        block.count -= 1;
        Ok(id)
    }

    /// Brings everything in step with a newer image. Blocks.
    pub(crate) fn apply(self: &Arc<Self>, before: &Image, after: &Arc<Image>) {
        match BrokerSettings::resolve(self.partitions.layers(after)) {
            Ok(settings) => {
                let mut current = self
                    .settings
                    .write()
                    .unwrap_or_else(PoisonError::into_inner);
                *current = Arc::new(settings);
            }
            Err(error) => {
                tracing::error!(%error, "broker settings in the metadata cannot be used; the old ones stay in force");
            }
        }
        self.partitions.apply(after, &self.settings());
        self.groups.apply(self, before, after);
        self.in_step(after.index());
    }

    /// Opens the partitions that a full disk had no room for. Blocks.
    pub(crate) fn open_what_had_no_room(self: &Arc<Self>) {
        let then = |image: &Image| self.groups.apply(self, image, image);
        self.partitions
            .open_what_had_no_room(&self.settings(), then);
    }
}
