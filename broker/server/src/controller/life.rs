//! A broker's life in the cluster: it registers, beats, and leaves.

use super::Node;
use crate::broker::Broker;
use crate::fatal::{Failed, Fatal};
use crate::handlers::broker_heartbeat::put_damaged;
use crate::handlers::broker_registration::{message_of, put_recorded};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;
use tidemark_env::clock::{self, Instant};
use tidemark_env::task;
use tidemark_model::{BrokerEpoch, TopicPartition};
use tidemark_quorum::decide::{self, Join};
use tidemark_wire::ErrorCode;
use tidemark_wire::messages::broker_registration_request::{Feature, Listener};
use tidemark_wire::messages::{BrokerHeartbeatRequest, BrokerRegistrationRequest};
use tokio::sync::watch;

/// After a registration or heartbeat that got no answer.
const PAUSE: Duration = Duration::from_millis(200);
/// A controller is looked for this long before it is said that there is none.
const PATIENCE: Duration = Duration::from_secs(5);
/// A broker that stops waits this long for others to lead what it led.
const LEAVE: Duration = Duration::from_secs(8);

/// Registers this process; gives its epoch. Waits for a controller, and for the end of another
/// process's session.
///
/// # Errors
/// Why it was refused.
pub(crate) async fn register(node: &Arc<Node>, join: &Join) -> Result<BrokerEpoch, String> {
    let new = &join.registration;
    let mut request = BrokerRegistrationRequest {
        broker_id: new.broker_id,
        cluster_id: join.cluster_id.to_string(),
        incarnation_id: new.incarnation_id,
        listeners: new
            .endpoints
            .iter()
            .map(|endpoint| Listener {
                name: endpoint.name.clone(),
                host: endpoint.host.clone(),
                port: endpoint.port,
                security_protocol: endpoint.security_protocol,
                ..Default::default()
            })
            .collect(),
        features: join
            .features
            .iter()
            .map(|range| Feature {
                name: range.name.clone(),
                min_supported_version: range.min,
                max_supported_version: range.max,
                ..Default::default()
            })
            .collect(),
        rack: new.rack.clone(),
        log_dirs: new.directories.clone(),
        ..Default::default()
    };
    put_recorded(&mut request, &join.recorded);
    loop {
        let refused = match node.ask(&request, PATIENCE).await {
            Ok((response, _)) => match ErrorCode::from_code(response.error_code) {
                ErrorCode::None => return Ok(response.broker_epoch),
                ErrorCode::InconsistentClusterId
                | ErrorCode::InvalidRegistration
                | ErrorCode::UnsupportedVersion => return Err(message_of(&response)),
                _ => message_of(&response),
            },
            Err(error) => error.to_string(),
        };
        tracing::info!(reason = refused, "not registered yet");
        clock::sleep(PAUSE).await;
    }
}

/// What a broker asks for with its heartbeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    /// To be known, and not to lead yet.
    Fence,
    /// To lead.
    Lead,
    /// To stop.
    ShutDown,
}

/// What the controller has said last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) fenced: bool,
    should_shut_down: bool,
    /// When it was heard of.
    pub(crate) heard: Option<Instant>,
}

/// The heartbeats of one registration.
pub(crate) struct Life {
    /// The registration's.
    pub(crate) epoch: BrokerEpoch,
    want: watch::Sender<Want>,
    told: watch::Sender<Told>,
    broker: OnceLock<Weak<Broker>>,
}

impl Life {
    /// Starts to beat. What ends the process is told to `failed`.
    pub(crate) fn start(
        node: &Arc<Node>,
        epoch: BrokerEpoch,
        failed: Failed,
        stop: watch::Receiver<bool>,
    ) -> Arc<Life> {
        let life = Arc::new(Life {
            epoch,
            want: watch::Sender::new(Want::Fence),
            told: watch::Sender::new(Told {
                fenced: true,
                should_shut_down: false,
                heard: None,
            }),
            broker: OnceLock::new(),
        });
        let (node, beating, mut stopped) = (Arc::clone(node), Arc::clone(&life), stop);
        drop(task::spawn("heartbeat", async move {
            tokio::select! {
                reason = beating.beat(&node, epoch) => {
                    failed.send_replace(Some(Fatal::Unregistered(reason)));
                }
                _ = stopped.wait_for(|stop| *stop) => {}
            }
        }));
        life
    }

    /// What the controller has said last.
    pub(crate) fn told(&self) -> Told {
        *self.told.borrow()
    }

    /// Beats until the registration is over; gives why it is.
    async fn beat(&self, node: &Arc<Node>, epoch: BrokerEpoch) -> String {
        let heartbeat = node.settings.broker_heartbeat_interval_ms;
        let heartbeat = Duration::from_millis(u64::try_from(heartbeat).unwrap_or(0));
        let mut wants = self.want.subscribe();
        loop {
            let mut want = *wants.borrow_and_update();
            let mut damaged = Vec::new();
            let index = match self.broker.get().and_then(Weak::upgrade) {
                Some(broker) => {
                    damaged = counted_damaged(&broker);
                    // Others have room for what producers send, or a disk that keeps up; later it
                    // leads again.
                    if want == Want::Lead
                        && broker
                            .partitions
                            .log_dirs()
                            .iter()
                            .any(|dir| dir.steps_back())
                        && decide::may_step_back(&broker.image(), node.id)
                    {
                        want = Want::Fence;
                    }
                    broker.applied_index()
                }
                None => node.metadata.image().index(),
            };
            let mut request = BrokerHeartbeatRequest {
                broker_id: node.id,
                broker_epoch: epoch,
                current_metadata_offset: i64::try_from(index).unwrap_or(i64::MAX),
                want_fence: want == Want::Fence,
                want_shut_down: want == Want::ShutDown,
                ..Default::default()
            };
            put_damaged(&mut request, &damaged);
            let mut pause = heartbeat;
            match node.ask(&request, heartbeat.max(PAUSE)).await {
                Ok((response, _)) => match ErrorCode::from_code(response.error_code) {
                    ErrorCode::None => {
                        self.told.send_replace(Told {
                            fenced: response.is_fenced,
                            should_shut_down: response.should_shut_down,
                            heard: Some(clock::monotonic()),
                        });
                        // It changes soon.
                        if want == Want::ShutDown || (want == Want::Lead && response.is_fenced) {
                            pause = PAUSE.min(heartbeat);
                        }
                    }
                    ErrorCode::StaleBrokerEpoch | ErrorCode::BrokerIdNotRegistered => {
                        return format!(
                            "broker {} is not registered in epoch {epoch} any more: another process with its id has taken over, or it was unregistered",
                            node.id
                        );
                    }
                    _ => pause = PAUSE.min(heartbeat),
                },
                Err(error) => {
                    tracing::debug!(%error, "a heartbeat was not answered");
                    pause = PAUSE.min(heartbeat);
                }
            }
            tokio::select! {
                () = clock::sleep(pause) => {}
                // The sender is here.
                changed = wants.changed() => drop(changed),
            }
        }
    }

    /// Has the broker lead from now on, and waits until it may.
    pub(crate) async fn lead(&self, broker: &Arc<Broker>) {
        drop(self.broker.set(Arc::downgrade(broker)));
        self.want.send_replace(Want::Lead);
        let mut told = self.told.subscribe();
        drop(told.wait_for(|told| !told.fenced).await);
    }

    /// Has others lead what this broker leads, and waits until they do, for some seconds. Returns
    /// at once where there are no others.
    pub(crate) async fn leave(&self, node: &Arc<Node>) {
        let image = node.metadata.image();
        let others = image.brokers().any(|b| b.id != node.id && b.is_active());
        if !others || !node.settings.controlled_shutdown_enable {
            return;
        }
        self.want.send_replace(Want::ShutDown);
        let mut told = self.told.subscribe();
        let leaving = told.wait_for(|told| told.should_shut_down);
        if clock::timeout(LEAVE, leaving).await.is_err() {
            tracing::warn!(
                "the controller has not moved all that this broker leads: it stops nevertheless"
            );
        }
    }
}

/// Partitions whose logs are damaged here, and of which the metadata still say that this broker
/// holds what was acknowledged.
fn counted_damaged(broker: &Broker) -> Vec<TopicPartition> {
    let offline = broker.partitions.offline();
    let image = broker.image();
    let counted = offline.keys().filter(|(topic_id, index)| {
        let topic = image.topic_by_id(*topic_id);
        let state = topic.and_then(|topic| topic.partition(*index));
        state.is_some_and(|state| state.isr.contains(&broker.id) || state.elr.contains(&broker.id))
    });
    let counted = counted.map(|(topic_id, partition)| TopicPartition {
        topic_id: *topic_id,
        partition: *partition,
    });
    counted.collect()
}
