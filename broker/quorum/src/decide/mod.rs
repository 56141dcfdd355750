//! The controller's decisions: pure functions from an image and a request to records
//! and answers. Nothing here waits, reads a clock or draws a number.

mod alter_partition;
mod brokers;
mod configs;
mod elections;
mod features;
mod fencing;
mod leases;
mod partitions;
mod placement;
mod reassign;
mod registration;
mod removal;
mod restore;
mod sessions;
mod state;
mod topics;

use tidemark_config::{BrokerLayers, BrokerSettings, ConfigError, ConfigMap, TopicSettings};
use tidemark_model::{BrokerId, ConfigResource, Image, MetadataRecord, TopicId};
use tidemark_wire::ErrorCode;

pub use alter_partition::{NewIsr, alter_partitions};
pub use brokers::{
    LostDirectories, PRODUCER_ID_BLOCK_SIZE, ProducerIds, Registration, allocate_producer_ids,
    register_broker,
};
pub use configs::{
    ConfigValues, ResourceName, alter_configs, incremental_alter_configs, parse_resource,
    resource_configs,
};
pub use elections::{ElectionResults, ElectionType, elect_leaders, rebalance_leaders};
pub use features::{FeatureUpdate, UpgradeType, update_features};
pub use fencing::{fence_brokers, may_step_back};
pub use leases::{Disruption, DisruptionRefused, begin_disruption, end_disruption, sweep_leases};
pub use partitions::{MorePartitions, create_partitions};
pub use reassign::{
    OngoingReassignment, Reassignment, alter_reassignments, complete_reassignments,
    list_reassignments,
};
pub use registration::{Join, RecordedDirectory, register};
pub use removal::{cordon_broker, unregister_broker};
pub use restore::place_restored;
pub use sessions::{Heartbeat, HeartbeatAnswer, Sessions};
pub use topics::{
    CreatedTopic, NewTopic, TopicName, begin_topic_deletions, confirm_deletions,
    create_internal_topic, create_topics, delete_topics,
};

/// What was decided: records to apply as one batch, and what to answer once they are.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision<T> {
    /// The batch; empty when nothing changes.
    pub records: Vec<MetadataRecord>,
    /// The answer.
    pub result: T,
}

/// Why one item of a request was refused: Kafka's error and a message for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refusal {
    /// The error on the wire.
    pub code: ErrorCode,
    /// What was wrong and what to do.
    pub message: String,
}

impl Refusal {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

/// What decisions need besides the image: the deciding broker and its own file.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The broker.
    pub broker_id: BrokerId,
    /// Its settings from file and command line.
    pub fixed: &'a ConfigMap,
}

impl<'a> Context<'a> {
    /// The layers of this broker's settings.
    pub fn layers(self, image: &'a Image) -> BrokerLayers<'a> {
        BrokerLayers {
            dynamic: image.configs(&ConfigResource::Broker(self.broker_id)),
            dynamic_default: image.configs(&ConfigResource::AllBrokers),
            fixed: self.fixed,
        }
    }

    /// This broker's settings in force at an image.
    pub fn broker_settings(self, image: &Image) -> Result<BrokerSettings, ConfigError> {
        BrokerSettings::resolve(self.layers(image))
    }

    /// A topic's settings in force at an image: resolve again when
    /// [`tidemark_model::Changes::configs`] names the topic, this broker or all brokers.
    pub fn topic_settings(
        self,
        image: &Image,
        topic_id: TopicId,
    ) -> Result<TopicSettings, ConfigError> {
        let own = image.configs(&ConfigResource::Topic(topic_id));
        TopicSettings::resolve(own, self.layers(image))
    }
}
