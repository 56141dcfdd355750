//! An image as the records that rebuild it, and its hash.

use crate::codec::encode_batch;
use crate::image::{Image, Rejected};
use crate::record::MetadataRecord;

impl Image {
    /// The records that rebuild this image, in an order that satisfies their preconditions.
    pub fn snapshot(&self) -> Vec<MetadataRecord> {
        let mut records = Vec::new();
        if let Some(cluster_id) = self.cluster_id {
            records.push(MetadataRecord::ClusterId { cluster_id });
        }
        for (name, level) in &self.features {
            records.push(MetadataRecord::FeatureLevel {
                name: name.clone(),
                level: *level,
            });
        }
        for broker in self.brokers.values() {
            records.push(MetadataRecord::BrokerRegistered {
                broker_id: broker.id,
                incarnation_id: broker.incarnation_id,
                broker_epoch: broker.epoch,
                previous_epoch: None,
                directories: broker.directories.clone(),
                endpoints: broker.endpoints.clone(),
                rack: broker.rack.clone(),
                fenced: broker.fenced,
            });
        }
        for topic in self.topics.values() {
            records.push(MetadataRecord::TopicCreated {
                topic_id: topic.id,
                name: topic.name.to_string(),
            });
            for (partition, state) in (0..).zip(&topic.partitions) {
                records.push(MetadataRecord::PartitionCreated {
                    topic_id: topic.id,
                    partition,
                    state: (**state).clone(),
                });
            }
        }
        for (resource, map) in &self.configs {
            for (name, value) in map.iter() {
                records.push(MetadataRecord::ConfigChanged {
                    resource: resource.clone(),
                    name: name.clone(),
                    value: Some(value.clone()),
                });
            }
        }
        if self.next_producer_id != 0 {
            records.push(MetadataRecord::NextProducerId {
                next: self.next_producer_id,
            });
        }
        records
    }

    /// Rebuilds an image at `index` from its snapshot.
    pub fn restore(index: u64, records: &[MetadataRecord]) -> Result<Image, Rejected> {
        Ok(Image::default().apply(records)?.at_index(index))
    }

    /// A number that is equal on two nodes if and (but for chance) only if their images
    /// are; the index is not part of it. FNV-1a over the snapshot; O(image).
    pub fn hash(&self) -> u64 {
        const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
        const PRIME: u64 = 0x0000_0100_0000_01b3;
        encode_batch(&self.snapshot())
            .iter()
            .fold(OFFSET_BASIS, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(PRIME)
            })
    }
}
