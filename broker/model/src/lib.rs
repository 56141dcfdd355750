//! Ids, and the metadata records that fold into an immutable image; pure.
//!
//! **Invariant:** an [`Image`] is a function of the batches folded into it: a batch
//! applies whole or is rejected whole, and the same batches give the same
//! [`Image::hash`] on every node.

mod codec;
mod diff;
mod fold;
mod ids;
mod image;
mod index;
mod names;
mod partition;
mod record;
mod rejected;
mod snapshot;

#[cfg(test)]
mod tests;

pub use codec::{CodecError, decode_batch, encode_batch};
pub use diff::{Changes, TopicChange};
pub use ids::{
    BrokerEpoch, BrokerId, IN_BUCKET, LeaderEpoch, NO_LEADER, Offset, PartitionEpoch, ProducerId,
    TopicId, TopicPartition,
};
pub use image::{Broker, ConfigMap, Deletion, Image, Lease, Restore, RestoredPartition, Topic};
pub use names::{
    CONSUMER_OFFSETS, InvalidTopicName, SHARE_GROUP_STATE, TRANSACTION_STATE, check_topic_name,
    collision_key, is_internal_topic,
};
pub use partition::Partition;
pub use record::{ConfigResource, Endpoint, FeatureRange, MetadataRecord, RestoredBroker};
pub use rejected::Rejected;
pub use snapshot::{SnapshotError, decode_snapshot};
