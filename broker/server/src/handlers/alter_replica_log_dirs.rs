//! AlterReplicaLogDirs (KIP-113): a replica is to be in this data directory.
//!
//! Replicas are not moved between the directories of one broker. What is in the directory
//! already is where it should be; everything else gets an error that says so.

use super::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;
use tidemark_wire::messages::alter_replica_log_dirs_response::{
    AlterReplicaLogDirPartitionResult, AlterReplicaLogDirTopicResult,
};
use tidemark_wire::messages::{AlterReplicaLogDirsRequest, AlterReplicaLogDirsResponse};

pub(crate) async fn handle(
    broker: &Arc<Broker>,
    _: &Context,
    request: AlterReplicaLogDirsRequest,
) -> AlterReplicaLogDirsResponse {
    let image = broker.image();
    let mut results: BTreeMap<String, Vec<AlterReplicaLogDirPartitionResult>> = BTreeMap::new();
    for dir in request.dirs {
        let wanted = Path::new(&dir.path);
        let is_known = broker.partitions.dirs().iter().any(|known| known == wanted);
        for topic in dir.topics {
            let topic_id = image.topic(&topic.name).map(|topic| topic.id);
            let answers = results.entry(topic.name).or_default();
            for partition_index in topic.partitions {
                let partition = topic_id.and_then(|id| broker.partitions.get(id, partition_index));
                let placed = partition.and_then(|partition| partition.placed().ok());
                let error = match placed {
                    _ if !is_known => ErrorCode::LogDirNotFound,
                    None => ErrorCode::ReplicaNotAvailable,
                    Some((at, _)) if at == wanted => ErrorCode::None,
                    Some(_) => ErrorCode::UnsupportedVersion,
                };
                answers.push(AlterReplicaLogDirPartitionResult {
                    partition_index,
                    error_code: error.code(),
                    ..Default::default()
                });
            }
        }
    }
    AlterReplicaLogDirsResponse {
        results: results
            .into_iter()
            .map(|(topic_name, partitions)| AlterReplicaLogDirTopicResult {
                topic_name,
                partitions,
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    }
}
