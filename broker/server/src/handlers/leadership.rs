//! Who leads a partition and which of its replicas are offline, as all APIs tell it.

use crate::broker::Broker;
use crate::context::Context;
use crate::partition::OfflineLogs;
use std::collections::BTreeSet;
use std::sync::Arc;
use tidemark_model::{BrokerId, Endpoint, Image, NO_LEADER, Partition, Topic};
use tidemark_wire::ErrorCode;

/// The metadata, and what this broker knows of its own logs, at one moment.
pub(super) struct Leaders {
    pub(super) image: Arc<Image>,
    here: BrokerId,
    /// The listener that the client came in on: what it is told has to be reached there.
    listener: Arc<str>,
    damaged: Arc<OfflineLogs>,
}

/// What clients are told of a partition besides its replicas.
pub(super) struct Leadership {
    pub(super) error_code: i16,
    pub(super) leader_id: BrokerId,
    pub(super) offline_replicas: Vec<BrokerId>,
}

impl Leaders {
    pub(super) fn new(broker: &Broker, context: &Context) -> Leaders {
        Leaders {
            image: broker.image(),
            here: broker.id,
            listener: Arc::clone(&context.listener),
            damaged: broker.partitions.offline(),
        }
    }

    /// A replica is offline when its broker is, or cannot be reached on the client's listener, or
    /// when it is here and its log cannot be used: it leads nothing then, whatever the metadata
    /// says, and stays in the ISR for want of a better one.
    pub(super) fn of(&self, topic: &Topic, index: usize, partition: &Partition) -> Leadership {
        let damaged =
            !self.damaged.is_empty() && self.damaged.contains_key(&(topic.id, index as i32));
        let reached = |id: BrokerId| {
            let broker = self.image.broker(id);
            broker.filter(|broker| broker.endpoint(&self.listener).is_some())
        };
        let offline = |id: &BrokerId| {
            (damaged && *id == self.here) || reached(*id).is_none_or(|broker| broker.fenced)
        };
        let (leader_id, error) = match partition.leader {
            NO_LEADER => (NO_LEADER, ErrorCode::LeaderNotAvailable),
            id if damaged && id == self.here => (NO_LEADER, ErrorCode::LeaderNotAvailable),
            id if reached(id).is_some() => (id, ErrorCode::None),
            id if self.image.broker(id).is_some() => (NO_LEADER, ErrorCode::ListenerNotFound),
            _ => (NO_LEADER, ErrorCode::LeaderNotAvailable),
        };
        Leadership {
            error_code: error.code(),
            leader_id,
            offline_replicas: partition.replicas.iter().copied().filter(offline).collect(),
        }
    }
}

/// Whether an answer with this error should say who leads (KIP-951).
pub(super) fn led_elsewhere(error: ErrorCode) -> bool {
    matches!(
        error,
        ErrorCode::NotLeaderOrFollower | ErrorCode::FencedLeaderEpoch
    )
}

/// The leaders that an answer names (KIP-951).
#[derive(Debug, Default)]
pub(super) struct Hints(BTreeSet<BrokerId>);

impl Hints {
    /// Names the leader of a partition.
    pub(super) fn add(&mut self, partition: &Partition) {
        if partition.leader != NO_LEADER {
            self.0.insert(partition.leader);
        }
    }

    /// Where clients of the request's listener reach them.
    pub(super) fn endpoints(
        &self,
        broker: &Broker,
        listener: &Arc<str>,
    ) -> impl Iterator<Item = (BrokerId, Endpoint, Option<String>)> + use<> {
        let image = broker.image();
        let named = self.0.iter().filter_map(|id| {
            let broker = image.broker(*id)?;
            Some((*id, broker.endpoint(listener)?.clone(), broker.rack.clone()))
        });
        named.collect::<Vec<_>>().into_iter()
    }
}
