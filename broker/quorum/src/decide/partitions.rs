//! Adding partitions to a topic.

use std::collections::BTreeSet;

use tidemark_model::{BrokerId, Image, MetadataRecord};
use tidemark_wire::ErrorCode;

use super::placement::{check_manual, new_partition, place};
use super::topics::{MOST_PARTITIONS_PER_REQUEST, too_many_partitions, unknown_topic};
use super::{Decision, Refusal};

/// A topic that should have more partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MorePartitions {
    /// The topic.
    pub name: String,
    /// How many it should have in all.
    pub count: i32,
    /// Replicas of each new one, where chosen by hand.
    pub assignments: Option<Vec<Vec<BrokerId>>>,
}

/// Decides CreatePartitions; each topic by itself.
pub fn create_partitions(
    image: &Image,
    requests: &[MorePartitions],
    validate_only: bool,
) -> Decision<Vec<Result<(), Refusal>>> {
    let mut records = Vec::new();
    let mut seen = BTreeSet::new();
    let mut total = 0usize;
    let result = requests
        .iter()
        .map(|request| {
            if !seen.insert(&request.name) {
                return Err(Refusal::new(
                    ErrorCode::InvalidRequest,
                    "Duplicate topic name.",
                ));
            }
            let mut new = add_partitions(image, request)?;
            total = total.saturating_add(new.len());
            if total > MOST_PARTITIONS_PER_REQUEST {
                return Err(too_many_partitions());
            }
            records.append(&mut new);
            Ok(())
        })
        .collect();
    if validate_only {
        records.clear();
    }
    Decision { records, result }
}

fn add_partitions(image: &Image, request: &MorePartitions) -> Result<Vec<MetadataRecord>, Refusal> {
    let topic = image
        .topic(&request.name)
        .ok_or_else(|| unknown_topic(&request.name))?;
    let has = topic.partitions.len();
    if topic.is_internal() {
        return Err(Refusal::new(
            ErrorCode::InvalidRequest,
            format!(
                "The partitions of {} cannot be changed: groups are found by their number, and would lose their offsets.",
                request.name
            ),
        ));
    }
    let wanted = usize::try_from(request.count).unwrap_or(0);
    if wanted == has {
        return Err(Refusal::new(
            ErrorCode::InvalidPartitions,
            format!("Topic already has {has} partition(s)."),
        ));
    }
    if wanted < has {
        return Err(Refusal::new(
            ErrorCode::InvalidPartitions,
            format!(
                "The topic {} currently has {has} partition(s); {} would not be an increase.",
                request.name, request.count
            ),
        ));
    }
    let more = wanted - has;
    if more > MOST_PARTITIONS_PER_REQUEST {
        return Err(too_many_partitions());
    }
    let factor = topic.partitions.front().map_or(1, |p| p.replicas.len());
    let placed = match &request.assignments {
        None => place(image, has, more, factor, usize::from(topic.id.0[0]))?,
        Some(assignments) => {
            if assignments.len() != more {
                return Err(Refusal::new(
                    ErrorCode::InvalidReplicaAssignment,
                    format!(
                        "Attempted to add {more} additional partition(s), but {} assignment(s) were specified.",
                        assignments.len()
                    ),
                ));
            }
            for replicas in assignments {
                check_manual(image, replicas, Some(factor))?;
            }
            assignments.clone()
        }
    };
    (has..)
        .zip(placed)
        .map(|(partition, replicas)| {
            Ok(MetadataRecord::PartitionCreated {
                topic_id: topic.id,
                partition: i32::try_from(partition).map_err(|_| too_many_partitions())?,
                state: new_partition(image, replicas)?,
            })
        })
        .collect()
}
