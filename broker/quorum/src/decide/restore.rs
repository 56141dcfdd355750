//! Topics that come back from a bucket are placed on brokers.

use tidemark_model::{ConfigResource, Image, MetadataRecord, Partition, Restore};

use super::placement::{new_partition, place};
use super::topics::MOST_PARTITIONS_PER_REQUEST;

/// Creates the topics that are to come back and for which there are brokers enough, as many as one
/// batch should hold. They are empty then: each partition's log begins where the bucket's part of
/// it ends, or takes its first records from there.
pub fn place_restored(image: &Image) -> Vec<MetadataRecord> {
    let usable = image.brokers().filter(|broker| broker.is_usable()).count();
    let mut records = Vec::new();
    let mut partitions = 0;
    for restore in image.restores() {
        let wanted = restore.brokers.max(restore.replication_factor);
        if usize::try_from(wanted).is_ok_and(|wanted| usable < wanted) {
            continue;
        }
        if partitions > 0 && partitions + restore.partitions.len() > MOST_PARTITIONS_PER_REQUEST {
            break;
        }
        if let Some(mut placed) = place_one(image, restore) {
            partitions += restore.partitions.len();
            records.append(&mut placed);
        }
    }
    records
}

fn place_one(image: &Image, restore: &Restore) -> Option<Vec<MetadataRecord>> {
    let topic_id = restore.topic_id;
    let factor = usize::try_from(restore.replication_factor).ok()?;
    let turn = usize::from(topic_id.0[0]);
    let placed = place(image, 0, restore.partitions.len(), factor, turn).ok()?;
    let mut records = vec![MetadataRecord::TopicCreated {
        topic_id,
        name: restore.name.clone(),
    }];
    for (name, value) in &restore.configs {
        records.push(MetadataRecord::ConfigChanged {
            resource: ConfigResource::Topic(topic_id),
            name: name.clone(),
            value: Some(value.clone()),
        });
    }
    for (partition, (from, replicas)) in (0..).zip(restore.partitions.iter().zip(placed)) {
        let state = Partition {
            leader_epoch: from.leader_epoch,
            first_offset: from.first_offset,
            from_backup: from.from_backup,
            ..new_partition(image, replicas).ok()?
        };
        records.push(MetadataRecord::PartitionCreated {
            topic_id,
            partition,
            state,
        });
    }
    Some(records)
}
