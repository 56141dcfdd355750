//! An image as the records that rebuild it, as bytes, and its hash.

use crate::codec::{BatchReader, CodecError, Encoder};
use crate::fold::Fold;
use crate::image::Image;
use crate::record::{MetadataRecord, RestoredBroker};
use crate::rejected::Rejected;

/// Why bytes are no snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// They are no batch of records.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The records do not make an image.
    #[error(transparent)]
    Rejected(#[from] Rejected),
}

/// Rebuilds an image at `index` from [`Image::encode_snapshot`], record by record.
pub fn decode_snapshot(index: u64, bytes: &[u8]) -> Result<Image, SnapshotError> {
    let empty = Image::default();
    let mut fold = Fold::on(&empty);
    let mut reader = BatchReader::new(bytes)?;
    while let Some(record) = reader.next_record()? {
        fold.apply(&record)?;
    }
    Ok(fold.finish(&empty)?.at_index(index))
}

impl Image {
    /// The records that rebuild this image, in an order that satisfies their preconditions.
    pub fn snapshot(&self) -> Vec<MetadataRecord> {
        let mut records = Vec::new();
        self.each_snapshot_record(|record| records.push(record));
        records
    }

    /// [`Image::snapshot`] as one encoded batch, without ever holding all the records.
    pub fn encode_snapshot(&self) -> Vec<u8> {
        let mut encoder = Encoder::default();
        self.each_snapshot_record(|record| encoder.push(&record));
        encoder.finish()
    }

    fn each_snapshot_record(&self, mut emit: impl FnMut(MetadataRecord)) {
        if let Some(cluster_id) = self.cluster_id {
            emit(MetadataRecord::ClusterId { cluster_id });
        }
        for (name, level) in &self.features {
            emit(MetadataRecord::FeatureLevel {
                name: name.clone(),
                level: *level,
            });
        }
        for broker in self.brokers.values() {
            emit(MetadataRecord::BrokerRegistered {
                broker_id: broker.id,
                incarnation_id: broker.incarnation_id,
                broker_epoch: broker.epoch,
                previous_epoch: None,
                directories: broker.directories.clone(),
                endpoints: broker.endpoints.clone(),
                rack: broker.rack.clone(),
                fenced: broker.fenced,
                logs_lost: false,
                features: broker.features.clone(),
                restored: Some(RestoredBroker {
                    registered_at: broker.registered_at,
                    unfenced_epoch: broker.unfenced_epoch,
                    shutting_down: broker.shutting_down,
                    cordoned: broker.cordoned,
                }),
            });
        }
        for topic in self.topics.values() {
            emit(MetadataRecord::TopicCreated {
                topic_id: topic.id,
                name: topic.name.to_string(),
            });
            for (partition, state) in (0..).zip(&topic.partitions) {
                emit(MetadataRecord::PartitionCreated {
                    topic_id: topic.id,
                    partition,
                    state: (**state).clone(),
                });
            }
        }
        for job in self.deletions.values() {
            emit(MetadataRecord::TopicDeletionPending {
                topic_id: job.topic_id,
                name: job.name.to_string(),
                partitions: job.partitions,
                brokers: job.brokers.clone(),
            });
        }
        for restore in self.restores.values() {
            emit(MetadataRecord::TopicRestorePending((**restore).clone()));
        }
        for (resource, map) in &self.configs {
            for (name, value) in map.iter() {
                emit(MetadataRecord::ConfigChanged {
                    resource: resource.clone(),
                    name: name.clone(),
                    value: Some(value.clone()),
                });
            }
        }
        if self.next_producer_id != 0 {
            emit(MetadataRecord::NextProducerId {
                next: self.next_producer_id,
            });
        }
        for lease in self.leases.values() {
            emit(MetadataRecord::DisruptionGranted {
                broker_id: lease.broker_id,
                broker_epoch: lease.broker_epoch,
                token: lease.token,
                expires_at_ms: lease.expires_at_ms,
                decided_at: None,
            });
        }
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
        self.encode_snapshot()
            .iter()
            .fold(OFFSET_BASIS, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(PRIME)
            })
    }
}
