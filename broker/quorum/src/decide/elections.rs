//! Elections that somebody asks for (KIP-183, KIP-460), and leaders going back to where
//! they belong.

use std::collections::{BTreeMap, BTreeSet};

use tidemark_model::{BrokerId, Image, MetadataRecord, Partition, TopicPartition};
use tidemark_wire::ErrorCode;

use super::state::{Change, MinInsync, is_active, next_epoch, next_state, record_change};
use super::topics::unknown_topic;
use super::{Context, Decision, Refusal};

/// What kind of leader is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElectionType {
    /// The first replica, if it is in sync.
    Preferred,
    /// Anyone that is up, though acknowledged records may be lost.
    Unclean,
}

/// Partitions by topic and index, and what became of each.
pub type ElectionResults = Vec<((String, i32), Result<(), Refusal>)>;

/// Decides ElectLeaders; each partition by itself. `None` asks for all that need it.
///
/// An unclean election is made only here, and only for partitions without a leader. One
/// that holds everything is taken if there is any; the next best is one that was eligible
/// until it lost a disk. The new state says in which epoch this was, as followers may
/// truncate below their high watermark only then.
pub fn elect_leaders(
    image: &Image,
    context: Context<'_>,
    election: ElectionType,
    partitions: Option<&[(String, i32)]>,
) -> Decision<ElectionResults> {
    let min_insync = MinInsync::new(image, context);
    let mut records = Vec::new();
    let mut result = Vec::new();
    let mut elect = |at: TopicPartition, state: &Partition| {
        let after = match election {
            ElectionType::Preferred => preferred(image, state, min_insync.of(at.topic_id)),
            ElectionType::Unclean => unclean(image, state, min_insync.of(at.topic_id)),
        }?;
        records.extend(record_change(image, at, state, after));
        Ok(())
    };
    match partitions {
        Some(named) => {
            let mut seen = BTreeSet::new();
            for (name, partition) in named {
                let elected = if seen.insert((name, partition)) {
                    find(image, name, *partition).and_then(|(at, state)| elect(at, state))
                } else {
                    Err(Refusal::new(
                        ErrorCode::InvalidRequest,
                        "The partition is named twice.",
                    ))
                };
                result.push(((name.clone(), *partition), elected));
            }
        }
        None => {
            for (at, state) in image.unsettled_partitions() {
                let elected = elect(at, state);
                let unneeded = |r: &Refusal| r.code == ErrorCode::ElectionNotNeeded;
                if !elected.as_ref().is_err_and(unneeded)
                    && let Some(topic) = image.topic_by_id(at.topic_id)
                {
                    result.push(((topic.name.to_string(), at.partition), elected));
                }
            }
        }
    }
    Decision { records, result }
}

fn find<'a>(
    image: &'a Image,
    name: &str,
    partition: i32,
) -> Result<(TopicPartition, &'a Partition), Refusal> {
    let topic = image.topic(name).ok_or_else(|| unknown_topic(name))?;
    let state = topic.partition(partition).ok_or_else(|| {
        Refusal::new(
            ErrorCode::UnknownTopicOrPartition,
            format!("Topic {name} has no partition {partition}."),
        )
    })?;
    let at = TopicPartition {
        topic_id: topic.id,
        partition,
    };
    Ok((at, state))
}

fn preferred(image: &Image, state: &Partition, min: i32) -> Result<Partition, Refusal> {
    let Some(first) = state.replicas.first().copied() else {
        return Err(not_needed("The partition has no replicas."));
    };
    if state.leader == first {
        return Err(not_needed("The preferred replica leads already."));
    }
    let up = |id| is_active(image, id);
    let change = Change {
        prefer: Some(first),
        ..Change::default()
    };
    let after = next_state(state, state.clone(), change, min, up);
    if after.leader == first {
        Ok(after)
    } else {
        Err(Refusal::new(
            ErrorCode::PreferredLeaderNotAvailable,
            format!("Broker {first}, the preferred leader, is not in sync or not up."),
        ))
    }
}

fn unclean(image: &Image, state: &Partition, min: i32) -> Result<Partition, Refusal> {
    let up = |id: BrokerId| is_active(image, id);
    if up(state.leader) {
        return Err(not_needed("The partition has a leader."));
    }
    let clean = next_state(state, state.clone(), Change::default(), min, up);
    if up(clean.leader) {
        return Ok(clean);
    }
    let known = state.last_known_elr.iter().copied().find(|id| up(*id));
    let leader = known.or_else(|| state.replicas.iter().copied().find(|id| up(*id)));
    let Some(leader) = leader else {
        return Err(Refusal::new(
            ErrorCode::EligibleLeadersNotAvailable,
            "No replica of the partition is up.",
        ));
    };
    let leader_epoch = next_epoch(state.leader_epoch);
    Ok(Partition {
        leader,
        leader_epoch,
        unclean_epoch: leader_epoch,
        isr: vec![leader],
        elr: Vec::new(),
        last_known_elr: Vec::new(),
        ..state.clone()
    })
}

fn not_needed(message: &str) -> Refusal {
    Refusal::new(ErrorCode::ElectionNotNeeded, message)
}

/// Gives leaderships back to preferred leaders (`auto.leader.rebalance.enable`).
///
/// For each broker that is up and misses more than `imbalance_percent` of the partitions
/// that it is the preferred leader of (`leader.imbalance.per.broker.percentage`). At most
/// `most` at once, so that clients are not sent looking all at the same time; the answer is
/// whether there are more.
pub fn rebalance_leaders(
    image: &Image,
    context: Context<'_>,
    imbalance_percent: usize,
    most: usize,
) -> Decision<bool> {
    let mut missed: BTreeMap<BrokerId, Vec<(TopicPartition, &Partition)>> = BTreeMap::new();
    for (at, state) in image.unsettled_partitions() {
        if let Some(first) = state.replicas.first()
            && *first != state.leader
            && state.isr.contains(first)
            && is_active(image, *first)
        {
            missed.entry(*first).or_default().push((at, state));
        }
    }
    let min_insync = MinInsync::new(image, context);
    let mut records: Vec<MetadataRecord> = Vec::new();
    let mut more = false;
    for (broker, partitions) in missed {
        let preferred = image
            .partitions_on(broker)
            .filter(|(_, state)| state.replicas.first() == Some(&broker))
            .count();
        if partitions.len().saturating_mul(100) <= preferred.saturating_mul(imbalance_percent) {
            continue;
        }
        for (at, state) in partitions {
            if records.len() >= most {
                more = true;
                break;
            }
            if let Ok(after) = self::preferred(image, state, min_insync.of(at.topic_id)) {
                records.extend(record_change(image, at, state, after));
            }
        }
    }
    Decision {
        records,
        result: more,
    }
}
