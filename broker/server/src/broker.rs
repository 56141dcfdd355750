//! What all handlers share: the metadata, the partitions, the groups, the budgets.

use crate::fetch::{Sessions, Subscription};
use crate::groups::Groups;
use crate::metrics::Metrics;
use crate::net::Budget;
use crate::partition::Registry;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use tidemark_config::{BrokerSettings, ConfigMap};
use tidemark_env::random;
use tidemark_model::{BrokerEpoch, BrokerId, Image};
use tidemark_quorum::decide::{self, Decision, ProducerIds};
use tidemark_quorum::{Controller, ProposeError};
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
    pub(crate) controller: Arc<Controller>,
    pub(crate) partitions: Arc<Registry>,
    pub(crate) groups: Groups,
    pub(crate) fetch_sessions: Mutex<Sessions<Subscription>>,
    /// The epoch of this process's registration.
    pub(crate) epoch: BrokerEpoch,
    /// Settings from file and command line.
    pub(crate) fixed: Arc<ConfigMap>,
    settings: RwLock<Arc<BrokerSettings>>,
    producer_ids: tokio::sync::Mutex<ProducerIds>,
    lifecycle: AtomicU8,
}

/// A random id.
pub(crate) fn new_id() -> Uuid {
    let mut bytes = [0; 16];
    random::fill(&mut bytes);
    Uuid::from_random(bytes)
}

impl Broker {
    pub(crate) fn new(
        id: BrokerId,
        epoch: BrokerEpoch,
        controller: Arc<Controller>,
        partitions: Arc<Registry>,
        fixed: Arc<ConfigMap>,
        settings: BrokerSettings,
        metrics: Arc<Metrics>,
    ) -> Broker {
        Broker {
            id,
            request_memory: Budget::new(settings.queued_max_request_bytes.unwrap_or(i64::MAX)),
            fetch_memory: Budget::new(settings.fetch_memory_max_bytes),
            metrics,
            controller,
            partitions,
            groups: Groups::default(),
            fetch_sessions: Mutex::default(),
            epoch,
            fixed,
            settings: RwLock::new(Arc::new(settings)),
            producer_ids: tokio::sync::Mutex::new(ProducerIds { first: 0, count: 0 }),
            lifecycle: AtomicU8::new(Lifecycle::Recovering as u8),
        }
    }

    /// The newest metadata.
    pub(crate) fn image(&self) -> Arc<Image> {
        self.controller.image()
    }

    /// The settings in force.
    pub(crate) fn settings(&self) -> Arc<BrokerSettings> {
        Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
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
    pub(crate) async fn change<T, F>(&self, decide: F) -> Result<T, ProposeError>
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
        self.partitions.applied(image.index()).await;
        Ok(result)
    }

    /// An idempotent producer's id, never given out before.
    pub(crate) async fn next_producer_id(&self) -> Result<i64, ErrorCode> {
        let mut block = self.producer_ids.lock().await;
        if block.count == 0 {
            let (broker_id, epoch) = (self.id, self.epoch);
            let taken = self
                .change(move |image, _, _| decide::allocate_producer_ids(image, broker_id, epoch))
                .await;
            *block = match taken {
                Ok(Ok(block)) => block,
                Ok(Err(refusal)) => {
                    tracing::error!(%refusal, "no producer ids");
                    return Err(refusal.code);
                }
                Err(error) => {
                    tracing::error!(%error, "no producer ids");
                    return Err(error.error_code());
                }
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
        self.partitions.publish(after.index());
    }
}
