//! Which brokers hold a new partition.
//!
//! With as many brokers in every rack (or none in any), leaders and replicas of a topic are
//! even within one over the brokers, and a partition's replicas are on as many racks as
//! there are. With unequal racks the second holds, and the first as far as it lets.

use std::collections::BTreeMap;

use tidemark_model::{BrokerId, Image, Partition};
use tidemark_wire::ErrorCode;

use super::Refusal;

/// The brokers that may be given replicas, by rack; those without one are a rack as well.
fn usable_racks(image: &Image) -> Vec<Vec<BrokerId>> {
    let mut racks: BTreeMap<Option<&str>, Vec<BrokerId>> = BTreeMap::new();
    for broker in image.brokers().filter(|broker| broker.is_usable()) {
        racks
            .entry(broker.rack.as_deref())
            .or_default()
            .push(broker.id);
    }
    racks.into_values().collect()
}

/// Replicas for `count` partitions from index `first` on.
///
/// `turn` decides where a topic begins, so that many small topics do not all begin on the
/// same broker.
pub(super) fn place(
    image: &Image,
    first: usize,
    count: usize,
    replication_factor: usize,
    turn: usize,
) -> Result<Vec<Vec<BrokerId>>, Refusal> {
    let racks = usable_racks(image);
    let available: usize = racks.iter().map(Vec::len).sum();
    if replication_factor > available {
        return Err(Refusal::new(
            ErrorCode::InvalidReplicationFactor,
            format!(
                "Unable to replicate the partition {replication_factor} time(s): the target replication factor of {replication_factor} cannot be reached because only {available} broker(s) are available."
            ),
        ));
    }
    if racks.windows(2).all(|pair| pair[0].len() == pair[1].len()) {
        Ok(place_in_rounds(
            &racks,
            first,
            count,
            replication_factor,
            turn,
        ))
    } else {
        Ok(place_by_load(
            &racks,
            first,
            count,
            replication_factor,
            turn,
        ))
    }
}

/// With racks of one size: rounds of as many partitions as there are brokers.
///
/// In a round the brokers stand in a ring in which racks alternate, and partitions take one
/// stretch of it after the other, so that nobody is ahead by more than one. After each full
/// lap over the ring another place in the stretch leads: in a round everybody leads once.
/// Each round has a ring of its own: what one broker leads follows on many others.
fn place_in_rounds(
    racks: &[Vec<BrokerId>],
    first: usize,
    count: usize,
    replication_factor: usize,
    turn: usize,
) -> Vec<Vec<BrokerId>> {
    let brokers: usize = racks.iter().map(Vec::len).sum();
    // A lap ends where a stretch ends at the end of the ring.
    let laps = common_divisor(brokers, replication_factor);
    let lap = brokers / laps;
    let mut ring = (usize::MAX, Vec::new());
    (first..first + count)
        .map(|partition| {
            let (round, at) = (partition / brokers, partition % brokers);
            if ring.0 != round {
                ring = (round, shuffled_ring(racks, turn, round));
            }
            let (start, leads) = (at % lap * replication_factor, at / lap);
            (0..replication_factor)
                .map(|n| ring.1[(start + (leads + n) % replication_factor) % brokers])
                .collect()
        })
        .collect()
}

/// The brokers in a ring in which racks of one size alternate; another one for each round.
fn shuffled_ring(racks: &[Vec<BrokerId>], turn: usize, round: usize) -> Vec<BrokerId> {
    let mut mixed = Mixer::new(turn, round);
    let mut racks: Vec<Vec<BrokerId>> = racks.to_vec();
    mixed.shuffle(&mut racks);
    for rack in &mut racks {
        mixed.shuffle(rack);
    }
    let size = racks.first().map_or(0, Vec::len);
    (0..size)
        .flat_map(|n| racks.iter().map(move |rack| rack[n]))
        .collect()
}

/// With unequal racks: each partition takes the broker that leads least, then from the
/// racks that it is on least the brokers that hold least.
fn place_by_load(
    racks: &[Vec<BrokerId>],
    first: usize,
    count: usize,
    replication_factor: usize,
    turn: usize,
) -> Vec<Vec<BrokerId>> {
    // (rack, broker, replicas, leaders) by a random order that breaks ties.
    let mut brokers: Vec<(usize, BrokerId, usize, usize)> = Vec::new();
    for (rack, ids) in racks.iter().enumerate() {
        brokers.extend(ids.iter().map(|id| (rack, *id, 0, 0)));
    }
    Mixer::new(turn, first).shuffle(&mut brokers);
    (0..count)
        .map(|_| {
            let mut on_rack = vec![0usize; racks.len()];
            let mut chosen: Vec<usize> = Vec::with_capacity(replication_factor);
            for _ in 0..replication_factor {
                let free = (0..brokers.len()).filter(|at| !chosen.contains(at));
                let next = free.min_by_key(|at| {
                    let (rack, _, replicas, _) = brokers[*at];
                    (on_rack[rack], replicas)
                });
                let Some(next) = next else { break };
                on_rack[brokers[next].0] += 1;
                brokers[next].2 += 1;
                chosen.push(next);
            }
            if let Some(least) = (0..chosen.len()).min_by_key(|n| brokers[chosen[*n]].3) {
                chosen.swap(0, least);
                brokers[chosen[0]].3 += 1;
            }
            chosen.into_iter().map(|at| brokers[at].1).collect()
        })
        .collect()
}

fn common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

/// Numbers that look like chance and are the same every time (SplitMix64's constants).
struct Mixer(u64);

impl Mixer {
    fn new(turn: usize, round: usize) -> Self {
        Self((turn as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (round as u64))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            let other = self.next() % (at as u64 + 1);
            items.swap(at, usize::try_from(other).unwrap_or(0));
        }
    }
}

/// Checks replicas that somebody chose by hand; `factor` is what the others have.
pub(super) fn check_manual(
    image: &Image,
    replicas: &[BrokerId],
    factor: Option<usize>,
) -> Result<(), Refusal> {
    let refuse = |message: String| Err(Refusal::new(ErrorCode::InvalidReplicaAssignment, message));
    if replicas.is_empty() {
        return refuse(
            "The manual partition assignment includes an empty replica list.".to_owned(),
        );
    }
    for (at, id) in replicas.iter().enumerate() {
        if image.broker(*id).is_none() {
            return refuse(format!(
                "The manual partition assignment includes broker {id}, but no such broker is registered."
            ));
        }
        if replicas[..at].contains(id) {
            return refuse(format!(
                "The manual partition assignment includes the broker {id} more than once."
            ));
        }
    }
    if let Some(factor) = factor
        && factor != replicas.len()
    {
        return refuse(format!(
            "The manual partition assignment includes a partition with {} replica(s), but this is not consistent with previous partitions, which have {factor} replica(s).",
            replicas.len()
        ));
    }
    Ok(())
}

/// A new partition on `replicas`: those whose brokers are up are in sync, the first leads.
pub(super) fn new_partition(image: &Image, replicas: Vec<BrokerId>) -> Result<Partition, Refusal> {
    let isr: Vec<BrokerId> = replicas
        .iter()
        .copied()
        .filter(|id| image.broker(*id).is_some_and(|b| b.is_active()))
        .collect();
    let Some(leader) = isr.first().copied() else {
        return Err(Refusal::new(
            ErrorCode::InvalidReplicaAssignment,
            "All brokers specified in the manual partition assignment are fenced or in controlled shutdown.",
        ));
    };
    Ok(Partition {
        replicas,
        isr,
        leader,
        ..Partition::default()
    })
}
