//! How far the groups that are coordinated here are behind: collected at a scrape.
//!
//! Lag is told from the replicas that this broker holds; partitions of which it holds none are
//! counted as unknown.

use super::Groups;
use crate::broker::Broker;
use crate::metrics::GroupSample;
use crate::partition::Partition;
use std::cmp::Reverse;
use std::sync::Arc;
use tidemark_env::clock;
use tidemark_log::Piece;
use tidemark_model::Image;
use tidemark_records::{BATCH_OVERHEAD_BYTES, BatchHeader, TimestampType};

/// Groups with series of their own: those with the most lag.
pub(crate) const SHOWN_GROUPS: usize = 200;
/// The name under which all others are counted.
pub(crate) const OTHER: &str = "other";
/// Batches that are looked at in one scrape, to tell the age of what was not consumed.
const LOOKED_AT: usize = 2_000;

/// Committed: topic, partition, offset.
type Committed = (String, i32, i64);

/// What a group has yet to consume of one partition.
struct Behind {
    partition: Arc<Partition>,
    from: i64,
}

impl Groups {
    /// The groups that lag the most, in order of their names, and all others together. Reads from
    /// logs: call it where blocking is allowed.
    pub(crate) fn samples(&self, broker: &Broker) -> Vec<GroupSample> {
        let image = broker.image();
        let mut all: Vec<(GroupSample, Vec<Behind>)> = Vec::new();
        for shard in self.shards() {
            let mut committed: Vec<(GroupSample, Vec<Committed>)> = Vec::new();
            shard.visit_groups(&mut |group| {
                let offsets = group.offsets().map(|(t, p, o)| (t.to_owned(), p, o));
                let sample = GroupSample {
                    group: group.id.to_owned(),
                    state: group.state,
                    members: group.members as u64,
                    rebalances: u64::try_from(group.generation_id).unwrap_or(0),
                    ..GroupSample::default()
                };
                committed.push((sample, offsets.collect()));
            });
            for (mut sample, offsets) in committed {
                let behind = measure(broker, &image, &mut sample, &offsets);
                all.push((sample, behind));
            }
        }
        // A group of the very name of all others is counted with them.
        all.sort_unstable_by(|(a, _), (b, _)| {
            let rank = |s: &GroupSample| (s.group == OTHER, Reverse(s.lag_records));
            rank(a).cmp(&rank(b)).then_with(|| a.group.cmp(&b.group))
        });
        let own = all.iter().filter(|(s, _)| s.group != OTHER).count();
        let others = all.split_off(own.min(SHOWN_GROUPS));
        let (mut looks, now_ms) = (LOOKED_AT, clock::now_ms());
        let mut samples: Vec<GroupSample> = Vec::with_capacity(all.len() + 1);
        for (mut sample, behind) in all {
            let ages = behind
                .iter()
                .take(looks)
                .filter_map(|one| one.age_ms(now_ms));
            sample.lag_ms = ages.max().unwrap_or(0);
            looks = looks.saturating_sub(behind.len());
            samples.push(sample);
        }
        samples.sort_unstable_by(|a, b| a.group.cmp(&b.group));
        if !others.is_empty() {
            let mut other = GroupSample {
                group: OTHER.to_owned(),
                ..GroupSample::default()
            };
            others.iter().for_each(|(sample, _)| other.add(sample));
            samples.push(other);
        }
        samples
    }
}

/// Adds up the lag of a group's committed offsets; gives where there is any.
fn measure(
    broker: &Broker,
    image: &Image,
    sample: &mut GroupSample,
    offsets: &[Committed],
) -> Vec<Behind> {
    let mut behind = Vec::new();
    for (topic, index, offset) in offsets {
        sample.committed = sample.committed.saturating_add(*offset);
        let id = image.topic(topic).map(|topic| topic.id);
        let held = id.and_then(|id| broker.partitions.get(id, *index));
        let Some((partition, bounds)) = held.and_then(|p| p.bounds().ok().map(|b| (p, b))) else {
            sample.unknown_partitions += 1;
            continue;
        };
        let from = (*offset).max(bounds.log_start);
        if bounds.high_watermark > from {
            sample.lag_records += bounds.high_watermark.abs_diff(from);
            behind.push(Behind { partition, from });
        }
    }
    behind
}

impl Behind {
    /// How old the batch is that is to be consumed next, by its timestamp; `None` when it cannot
    /// be read or carries none.
    fn age_ms(&self, now_ms: i64) -> Option<u64> {
        let plan = self
            .partition
            .with_log(|log, high_watermark| log.read_plan(self.from, 1, *high_watermark, true));
        let found = plan.ok()?.ok()?.run().ok()?;
        let header = match found.pieces.first()? {
            Piece::Memory(bytes) => BatchHeader::parse(bytes).ok()?,
            Piece::File(range) => {
                let len = range.len.min(BATCH_OVERHEAD_BYTES);
                let bytes = range.file.read_bytes_at(range.position, len).ok()?;
                BatchHeader::parse(&bytes).ok()?
            }
        };
        let written_ms = match header.timestamp_type() {
            TimestampType::CreateTime => header.base_timestamp_ms,
            TimestampType::LogAppendTime => header.max_timestamp_ms,
        };
        (written_ms >= 0).then(|| u64::try_from(now_ms.saturating_sub(written_ms)).unwrap_or(0))
    }
}
