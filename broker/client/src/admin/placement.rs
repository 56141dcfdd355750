//! Where replicas should be; pure. Who asks for moves is [`Cluster::reassign`](crate::Cluster::reassign).
//!
//! A plan moves as little as it can: a replica stays where it may, unless its rack has more of its
//! partition than it should while another has fewer, or its broker holds more than its share.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::OngoingReassignment;
use crate::metadata::{ClusterInfo, TopicPartition};

/// From where to where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Move {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The brokers that hold it.
    pub from: Vec<i32>,
    /// The brokers that should.
    pub to: Vec<i32>,
}

impl Move {
    /// Which partition.
    #[must_use]
    pub fn at(&self) -> TopicPartition {
        TopicPartition::new(self.topic.clone(), self.partition)
    }

    fn is_needed(&self) -> bool {
        self.from != self.to
    }
}

/// A broker that replicas may be put on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its id.
    pub id: i32,
    /// Its rack; all without one are in one.
    pub rack: Option<String>,
}

/// What the brokers have, as a plan goes on.
#[derive(Debug, Default)]
struct Loads {
    replicas: BTreeMap<i32, usize>,
    leaders: BTreeMap<i32, usize>,
}

impl Loads {
    fn of(map: &BTreeMap<i32, usize>, id: i32) -> usize {
        map.get(&id).copied().unwrap_or(0)
    }
}

/// Spreads partitions evenly over these brokers and their racks.
///
/// # Errors
/// When a partition has more replicas than there are brokers.
pub fn spread(
    partitions: &[(TopicPartition, Vec<i32>)],
    brokers: &[Target],
) -> Result<Vec<Move>, String> {
    let total: usize = partitions.iter().map(|(_, replicas)| replicas.len()).sum();
    let share = total.div_ceil(brokers.len().max(1));
    let mut loads = Loads::default();
    let mut planned = Vec::with_capacity(partitions.len());
    for (tp, from) in partitions {
        enough(tp, from.len(), brokers.len())?;
        let to = place(from, brokers, &mut loads, Some(share));
        planned.push((tp, from, to));
    }
    let moves = planned.into_iter().map(|(tp, from, mut to)| {
        prefer_least(from, &mut to, &mut loads);
        of(tp, from, to)
    });
    Ok(moves.filter(Move::is_needed).collect())
}

/// Moves off one broker what it holds, to those of `brokers` that have least.
///
/// # Errors
/// When a partition has more replicas than there are other brokers.
pub fn drain(
    all: &[(TopicPartition, Vec<i32>)],
    drained: i32,
    brokers: &[Target],
) -> Result<Vec<Move>, String> {
    let mut loads = Loads::default();
    for (_, replicas) in all {
        for id in replicas.iter().filter(|id| **id != drained) {
            *loads.replicas.entry(*id).or_default() += 1;
        }
        if let Some(first) = replicas.first().filter(|id| **id != drained) {
            *loads.leaders.entry(*first).or_default() += 1;
        }
    }
    let mut moves = Vec::new();
    for (tp, from) in all.iter().filter(|(_, from)| from.contains(&drained)) {
        let stay: Vec<i32> = from.iter().copied().filter(|id| *id != drained).collect();
        let free = brokers
            .iter()
            .filter(|b| b.id != drained && !stay.contains(&b.id));
        let Some(next) = best(free, &stay, brokers, &loads) else {
            enough(
                tp,
                from.len(),
                brokers.iter().filter(|b| b.id != drained).count(),
            )?;
            return Err(format!("{tp} has no broker to go to"));
        };
        *loads.replicas.entry(next).or_default() += 1;
        // In the place of the one that goes, so that leaders stay where they are; a leadership
        // that goes is given to who is preferred least often.
        let mut to: Vec<i32> = from
            .iter()
            .map(|id| if *id == drained { next } else { *id })
            .collect();
        if from.first() == Some(&drained) {
            prefer_least(&stay, &mut to, &mut loads);
        }
        moves.push(of(tp, from, to));
    }
    Ok(moves)
}

fn of(tp: &TopicPartition, from: &[i32], to: Vec<i32>) -> Move {
    Move {
        topic: tp.topic.clone(),
        partition: tp.partition,
        from: from.to_vec(),
        to,
    }
}

fn enough(tp: &TopicPartition, replicas: usize, brokers: usize) -> Result<(), String> {
    match replicas > brokers {
        true => Err(format!(
            "{tp} has {replicas} replicas, and there are only {brokers} brokers for them"
        )),
        false => Ok(()),
    }
}

fn rack_of(brokers: &[Target], id: i32) -> Option<&str> {
    let broker = brokers.iter().find(|broker| broker.id == id)?;
    broker.rack.as_deref()
}

/// Replicas of one partition: those that may stay, and the best of the others.
fn place(from: &[i32], brokers: &[Target], loads: &mut Loads, share: Option<usize>) -> Vec<i32> {
    let racks: BTreeSet<Option<&str>> = brokers.iter().map(|b| b.rack.as_deref()).collect();
    let per_rack = from.len().div_ceil(racks.len().max(1));
    let mut to: Vec<i32> = Vec::with_capacity(from.len());
    let mut left = Vec::new();
    for id in from {
        let rack = rack_of(brokers, *id);
        let on_rack = to
            .iter()
            .filter(|other| rack_of(brokers, **other) == rack)
            .count();
        let stays = brokers.iter().any(|broker| broker.id == *id)
            && on_rack < per_rack
            && share.is_none_or(|share| Loads::of(&loads.replicas, *id) < share);
        match stays {
            true => {
                *loads.replicas.entry(*id).or_default() += 1;
                to.push(*id);
            }
            false => left.push(*id),
        }
    }
    for _ in left {
        let free = brokers.iter().filter(|broker| !to.contains(&broker.id));
        let Some(next) = best(free, &to, brokers, loads) else {
            break;
        };
        *loads.replicas.entry(next).or_default() += 1;
        to.push(next);
    }
    to
}

/// The broker on the rack that has least of the partition, and of these the one that holds least.
fn best<'a>(
    free: impl Iterator<Item = &'a Target>,
    chosen: &[i32],
    brokers: &[Target],
    loads: &Loads,
) -> Option<i32> {
    let key = |target: &&Target| {
        let same = |id: &&i32| rack_of(brokers, **id) == target.rack.as_deref();
        (
            chosen.iter().filter(same).count(),
            Loads::of(&loads.replicas, target.id),
            target.id,
        )
    };
    free.min_by_key(key).map(|target| target.id)
}

/// Puts that replica first that is first least often, of those that hold the partition already if
/// there are such: only those can lead at once.
fn prefer_least(from: &[i32], to: &mut [i32], loads: &mut Loads) {
    let key = |at: &usize| {
        let id = to[*at];
        (!from.contains(&id), Loads::of(&loads.leaders, id), *at)
    };
    if let Some(at) = (0..to.len()).min_by_key(key) {
        to[..=at].rotate_right(1);
        *loads.leaders.entry(to[0]).or_default() += 1;
    }
}

/// All partitions and their replicas; of those that are being moved, where they will be.
#[must_use]
pub fn current(
    info: &ClusterInfo,
    moving: &[OngoingReassignment],
) -> Vec<(TopicPartition, Vec<i32>)> {
    let removing: BTreeMap<&TopicPartition, &[i32]> = moving
        .iter()
        .map(|one| (&one.partition, &*one.removing))
        .collect();
    let topics = info.topics.values();
    let partitions = topics.flat_map(|topic| {
        let partitions = topic.partitions.values();
        partitions.map(|p| {
            let at = TopicPartition::new(topic.name.clone(), p.partition);
            let goes = removing.get(&at).copied().unwrap_or_default();
            let stays = p.replicas.iter().copied().filter(|id| !goes.contains(id));
            let stays = stays.collect();
            (at, stays)
        })
    });
    partitions.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn brokers(racks: &[(i32, &str)]) -> Vec<Target> {
        let target = |(id, rack): &(i32, &str)| Target {
            id: *id,
            rack: (!rack.is_empty()).then(|| (*rack).to_owned()),
        };
        racks.iter().map(target).collect()
    }

    fn topic(replicas: &[&[i32]]) -> Vec<(TopicPartition, Vec<i32>)> {
        let partition =
            |(at, replicas): (i32, &&[i32])| (TopicPartition::new("t", at), replicas.to_vec());
        (0..).zip(replicas).map(partition).collect()
    }

    fn after(
        before: &[(TopicPartition, Vec<i32>)],
        moves: &[Move],
    ) -> BTreeMap<TopicPartition, Vec<i32>> {
        let mut all: BTreeMap<_, _> = before.iter().cloned().collect();
        for one in moves {
            assert_eq!(all.insert(one.at(), one.to.clone()), Some(one.from.clone()));
        }
        all
    }

    fn counts(placed: &BTreeMap<TopicPartition, Vec<i32>>, first: bool) -> BTreeMap<i32, usize> {
        let mut counts = BTreeMap::new();
        for replicas in placed.values() {
            let counted = if first { &replicas[..1] } else { &replicas[..] };
            for id in counted {
                *counts.entry(*id).or_default() += 1;
            }
        }
        counts
    }

    #[test]
    fn what_is_even_already_stays_where_it_is() {
        let before = topic(&[&[1, 2], &[2, 3], &[3, 1]]);
        let three = brokers(&[(1, "a"), (2, "b"), (3, "c")]);
        assert_eq!(spread(&before, &three), Ok(vec![]));
    }

    #[test]
    fn new_brokers_get_their_share_and_no_more_than_that_moves() {
        let before = topic(&[&[1, 2], &[2, 1], &[1, 2], &[2, 1]]);
        let moves = spread(&before, &brokers(&[(1, ""), (2, ""), (3, ""), (4, "")])).unwrap();
        let placed = after(&before, &moves);
        assert_eq!(
            counts(&placed, false),
            BTreeMap::from([(1, 2), (2, 2), (3, 2), (4, 2)])
        );
        let moved: usize = moves
            .iter()
            .map(|one| one.to.iter().filter(|id| !one.from.contains(id)).count())
            .sum();
        assert_eq!(moved, 4);
    }

    #[test]
    fn replicas_are_on_as_many_racks_as_there_are() {
        let racks = [(1, "a"), (2, "a"), (3, "b"), (4, "b"), (5, "c"), (6, "c")];
        let before = topic(&[&[1, 2, 3][..]; 12]);
        let moves = spread(&before, &brokers(&racks)).unwrap();
        let placed = after(&before, &moves);
        for replicas in placed.values() {
            let on: BTreeSet<&str> = replicas
                .iter()
                .map(|id| racks.iter().find(|(other, _)| other == id).unwrap().1)
                .collect();
            assert_eq!((replicas.len(), on.len()), (3, 3), "{placed:?}");
        }
        let loads = counts(&placed, false);
        let most = loads.values().max().unwrap();
        assert!(most - loads.values().min().unwrap() <= 1, "{loads:?}");
    }

    #[test]
    fn leaders_are_spread_over_who_holds_the_partition_already() {
        let before = topic(&[&[1, 2], &[1, 2], &[1, 2], &[1, 2]]);
        let moves = spread(&before, &brokers(&[(1, ""), (2, "")])).unwrap();
        let placed = after(&before, &moves);
        assert_eq!(counts(&placed, true), BTreeMap::from([(1, 2), (2, 2)]));
    }

    #[test]
    fn a_drained_broker_holds_nothing_and_the_others_lead_what_it_led() {
        let before = topic(&[&[1, 2], &[1, 3], &[2, 1], &[2, 3], &[1, 2], &[1, 3]]);
        let four = brokers(&[(1, "a"), (2, "b"), (3, "b"), (4, "a")]);
        let moves = drain(&before, 1, &four).unwrap();
        let placed = after(&before, &moves);
        assert_eq!(moves.len(), 5, "what it does not hold stays");
        assert!(!counts(&placed, false).contains_key(&1));
        for one in &moves {
            assert_eq!(one.to.iter().filter(|id| !one.from.contains(id)).count(), 1);
            assert!(one.to.contains(&4), "the other broker on its rack: {one:?}");
            assert!(
                one.from.contains(&one.to[0]),
                "a leader that is in sync: {one:?}"
            );
        }
    }

    #[test]
    fn too_few_brokers_are_told() {
        let before = topic(&[&[1, 2, 3]]);
        let three = brokers(&[(1, ""), (2, ""), (3, "")]);
        let error = drain(&before, 3, &three).unwrap_err();
        assert!(
            error.contains("3 replicas") && error.contains("2 brokers"),
            "{error}"
        );
        assert!(spread(&before, &three[..2]).is_err());
    }
}
