//! DescribeLogDirs (KIP-113): what each data directory holds, and how much room is left.

use super::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use tidemark_wire::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use tidemark_wire::messages::{DescribeLogDirsRequest, DescribeLogDirsResponse};

pub(crate) async fn handle(
    broker: &Arc<Broker>,
    _: &Context,
    request: DescribeLogDirsRequest,
) -> DescribeLogDirsResponse {
    let wanted: Option<BTreeSet<(String, i32)>> = request.topics.map(|topics| {
        let pairs = topics
            .into_iter()
            .flat_map(|t| t.partitions.into_iter().map(move |p| (t.topic.clone(), p)));
        pairs.collect()
    });
    let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let mut by_dir: BTreeMap<PathBuf, BTreeMap<String, Vec<DescribeLogDirsPartition>>> =
        BTreeMap::new();
    for partition in broker.partitions.all() {
        let key = (partition.topic.to_string(), partition.index);
        if wanted.as_ref().is_some_and(|wanted| !wanted.contains(&key)) {
            continue;
        }
        let Ok((dir, size_bytes)) = partition.placed() else {
            continue;
        };
        // How far a follower is behind what it knows to be committed.
        let lag = partition
            .bounds()
            .map_or(0, |bounds| (bounds.high_watermark - bounds.end).max(0));
        let described = DescribeLogDirsPartition {
            partition_index: partition.index,
            partition_size: bytes(size_bytes),
            offset_lag: lag,
            ..Default::default()
        };
        by_dir
            .entry(dir)
            .or_default()
            .entry(key.0)
            .or_default()
            .push(described);
    }
    let cordoned = cordoned_dirs(broker);
    let mut results = Vec::new();
    for dir in broker.partitions.dirs() {
        let topics =
            by_dir
                .remove(dir)
                .unwrap_or_default()
                .into_iter()
                .map(|(name, mut partitions)| {
                    partitions.sort_by_key(|p| p.partition_index);
                    DescribeLogDirsTopic {
                        name,
                        partitions,
                        ..Default::default()
                    }
                });
        let space = broker.partitions.disk().space(dir);
        let path = dir.display().to_string();
        let is_cordoned = cordoned.iter().any(|named| *named == path || named == "*");
        results.push(DescribeLogDirsResult {
            error_code: if space.is_ok() {
                0
            } else {
                ErrorCode::KafkaStorageError.code()
            },
            topics: topics.collect(),
            total_bytes: space.as_ref().map_or(-1, |space| bytes(space.total_bytes)),
            usable_bytes: space.as_ref().map_or(-1, |space| bytes(space.free_bytes)),
            log_dir: path,
            is_cordoned,
            ..Default::default()
        });
    }
    DescribeLogDirsResponse {
        results,
        ..Default::default()
    }
}

/// What `cordoned.log.dirs` names (KIP-1066).
fn cordoned_dirs(broker: &Broker) -> Vec<String> {
    let image = broker.image();
    let layers = broker.partitions.layers(&image);
    let named = [layers.dynamic, layers.fixed]
        .into_iter()
        .find_map(|layer| layer.get("cordoned.log.dirs"));
    named
        .map(|dirs| dirs.split(',').map(|dir| dir.trim().to_owned()).collect())
        .unwrap_or_default()
}
