//! Who leads a partition and which of its replicas are offline, as all APIs tell it.

use crate::broker::Broker;
use crate::partition::OfflineLogs;
use std::sync::Arc;
use tidemark_model::{BrokerId, Image, NO_LEADER, Partition, Topic};
use tidemark_wire::ErrorCode;

/// The metadata, and what this broker knows of its own logs, at one moment.
pub(super) struct Leaders {
    pub(super) image: Arc<Image>,
    here: BrokerId,
    damaged: Arc<OfflineLogs>,
}

/// What clients are told of a partition besides its replicas.
pub(super) struct Leadership {
    pub(super) error_code: i16,
    pub(super) leader_id: BrokerId,
    pub(super) offline_replicas: Vec<BrokerId>,
}

impl Leaders {
    pub(super) fn new(broker: &Broker) -> Leaders {
        Leaders {
            image: broker.image(),
            here: broker.id,
            damaged: broker.partitions.offline(),
        }
    }

    /// A replica is offline when its broker is, or when it is here and its log cannot be used: it
    /// leads nothing then, whatever the metadata says, and stays in the ISR for want of a better
    /// one.
    pub(super) fn of(&self, topic: &Topic, index: usize, partition: &Partition) -> Leadership {
        let damaged =
            !self.damaged.is_empty() && self.damaged.contains_key(&(topic.id, index as i32));
        let offline = |id: &BrokerId| {
            (damaged && *id == self.here) || self.image.broker(*id).is_none_or(|b| b.fenced)
        };
        let leader_id = match damaged && partition.leader == self.here {
            true => NO_LEADER,
            false => partition.leader,
        };
        let error = match leader_id {
            NO_LEADER => ErrorCode::LeaderNotAvailable,
            _ => ErrorCode::None,
        };
        Leadership {
            error_code: error.code(),
            leader_id,
            offline_replicas: partition.replicas.iter().copied().filter(offline).collect(),
        }
    }
}
