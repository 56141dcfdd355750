//! What comes back, for people and scripts.

use serde::Serialize;
use tidemark_coordinator::Clamped;
use tidemark_tier::Bucket;
use tidemark_tier::restore::Part;

use super::Survey;

/// What comes back of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RestoreReport {
    /// The bucket.
    pub bucket: String,
    /// The cluster that it is of.
    pub source_cluster_id: String,
    /// That one's generation.
    pub source_generation: u32,
    /// The generation that the restored cluster has, or would have.
    pub generation: u32,
    /// When the metadata were taken, in milliseconds since 1970.
    pub metadata_taken_at_ms: i64,
    /// Topics, by name.
    pub topics: Vec<TopicReport>,
    /// Offsets of groups that lie beyond what comes back.
    pub clamped: Vec<ClampReport>,
    /// What does not come back, and why.
    pub warnings: Vec<String>,
}

/// A topic that comes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TopicReport {
    /// Its name.
    pub name: String,
    /// Its id, which it keeps.
    pub topic_id: String,
    /// How many replicas it gets.
    pub replication_factor: i32,
    /// Its partitions, by index.
    pub partitions: Vec<PartReport>,
}

/// A partition that comes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartReport {
    /// First offset that can be read.
    pub start_offset: i64,
    /// The offset after the last.
    pub end_offset: i64,
    /// The newest record, in milliseconds since 1970; -1 without.
    pub newest_record_ms: i64,
    /// For a compacted partition: when it was backed up.
    pub backup_at_ms: Option<i64>,
    /// Bytes in the bucket.
    pub bytes: u64,
}

/// An offset of a group that lies beyond what comes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClampReport {
    /// The group.
    pub group: String,
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// What was committed.
    pub from: i64,
    /// What it becomes; none where the topic does not come back, and the offset is forgotten.
    pub to: Option<i64>,
}

pub(super) fn report(
    bucket: &Bucket,
    survey: &Survey,
    generation: u32,
    clamped: Vec<Clamped>,
) -> RestoreReport {
    let part = |part: &Part| PartReport {
        start_offset: part.start_offset(),
        end_offset: part.end_offset,
        newest_record_ms: part.newest_ms(),
        backup_at_ms: part.backup_at_ms(),
        bytes: part.size_bytes(),
    };
    RestoreReport {
        bucket: bucket.address().to_owned(),
        source_cluster_id: survey.owner.cluster_id.clone(),
        source_generation: survey.owner.generation,
        generation,
        metadata_taken_at_ms: survey.snapshot.taken_at_ms,
        topics: survey
            .sources
            .iter()
            .map(|source| TopicReport {
                name: source.topic.name.clone(),
                topic_id: source.topic.topic_id.clone(),
                replication_factor: source.topic.replication_factor,
                partitions: source.parts.iter().map(part).collect(),
            })
            .collect(),
        clamped: clamped
            .into_iter()
            .map(|clamped| ClampReport {
                group: clamped.group,
                topic: clamped.topic,
                partition: clamped.partition,
                from: clamped.from,
                to: clamped.to,
            })
            .collect(),
        warnings: survey.warnings.clone(),
    }
}
