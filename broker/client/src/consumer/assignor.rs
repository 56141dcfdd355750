//! The client side of a classic group: who gets which partition. Pure; the group's leader runs it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::metadata::TopicPartition;

/// What the leader knows of one member.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Member {
    /// The id the coordinator gave it.
    pub member_id: String,
    /// Its `group.instance.id`, which keeps its place over restarts.
    pub instance_id: Option<String>,
    /// The topics it subscribed to.
    pub topics: Vec<String>,
    /// What it says it owns (cooperative members).
    pub owned: Vec<TopicPartition>,
    /// The generation in which it got what it owns; -1 if unknown.
    pub generation: i32,
}

/// Each member's partitions, by member id.
pub type Assignment = BTreeMap<String, Vec<TopicPartition>>;

/// The assignors a member may offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Assignor {
    /// Contiguous ranges per topic, as the Java client's `range`.
    Range,
    /// All partitions dealt in turn, as the Java client's `roundrobin`.
    RoundRobin,
    /// Balanced with as few moves as possible; a moved partition is first given up, then given (KIP-429).
    CooperativeSticky,
}

impl Assignor {
    /// The protocol's name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Range => "range",
            Self::RoundRobin => "roundrobin",
            Self::CooperativeSticky => "cooperative-sticky",
        }
    }

    /// The assignor of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Range, Self::RoundRobin, Self::CooperativeSticky]
            .into_iter()
            .find(|assignor| assignor.name() == name)
    }

    /// Whether members keep what they own while they join again.
    #[must_use]
    pub fn is_cooperative(self) -> bool {
        self == Self::CooperativeSticky
    }

    /// Deals the partitions of `partition_counts` (topics that exist) to `members`.
    #[must_use]
    pub fn assign(
        self,
        members: &[Member],
        partition_counts: &BTreeMap<String, i32>,
    ) -> Assignment {
        let mut sorted: Vec<&Member> = members.iter().collect();
        sorted.sort_by(|a, b| place(a).cmp(&place(b)));
        let mut assignment: Assignment = members
            .iter()
            .map(|member| (member.member_id.clone(), Vec::new()))
            .collect();
        match self {
            Self::Range => range(&sorted, partition_counts, &mut assignment),
            Self::RoundRobin => round_robin(&sorted, partition_counts, &mut assignment),
            Self::CooperativeSticky => {
                sticky(&sorted, partition_counts, &mut assignment);
                withhold_moving(members, &mut assignment);
            }
        }
        assignment
    }
}

/// Static members come first and keep their order over restarts.
fn place(member: &Member) -> (bool, &str, &str) {
    match &member.instance_id {
        Some(instance) => (false, instance.as_str(), member.member_id.as_str()),
        None => (true, member.member_id.as_str(), ""),
    }
}

fn subscribes(member: &Member, topic: &str) -> bool {
    member.topics.iter().any(|t| t == topic)
}

fn give(assignment: &mut Assignment, member: &Member, partition: TopicPartition) {
    assignment
        .entry(member.member_id.clone())
        .or_default()
        .push(partition);
}

fn range(members: &[&Member], counts: &BTreeMap<String, i32>, assignment: &mut Assignment) {
    for (topic, count) in counts {
        let takers: Vec<&&Member> = members.iter().filter(|m| subscribes(m, topic)).collect();
        if takers.is_empty() {
            continue;
        }
        let takers_count = takers.len() as i32;
        let (each, extra) = (count / takers_count, count % takers_count);
        let mut next = 0;
        for (index, member) in takers.into_iter().enumerate() {
            let width = each + i32::from((index as i32) < extra);
            for partition in next..next + width {
                give(
                    assignment,
                    member,
                    TopicPartition::new(topic.clone(), partition),
                );
            }
            next += width;
        }
    }
}

fn round_robin(members: &[&Member], counts: &BTreeMap<String, i32>, assignment: &mut Assignment) {
    let mut turn = 0;
    for (topic, count) in counts {
        if !members.iter().any(|m| subscribes(m, topic)) {
            continue;
        }
        for partition in 0..*count {
            while !subscribes(members[turn % members.len()], topic) {
                turn += 1;
            }
            give(
                assignment,
                members[turn % members.len()],
                TopicPartition::new(topic.clone(), partition),
            );
            turn += 1;
        }
    }
}

fn sticky(members: &[&Member], counts: &BTreeMap<String, i32>, assignment: &mut Assignment) {
    // Who keeps what: the claim of the newest generation wins; two claims of one generation cancel out
    // (neither can be trusted to be alone).
    let mut claims: HashMap<&TopicPartition, (i32, Option<&Member>)> = HashMap::new();
    for member in members {
        for owned in &member.owned {
            let exists = counts
                .get(&owned.topic)
                .is_some_and(|count| (0..*count).contains(&owned.partition));
            if !exists || !subscribes(member, &owned.topic) {
                continue;
            }
            let claim = claims
                .entry(owned)
                .or_insert((member.generation, Some(member)));
            if claim.1.is_some_and(|m| m.member_id == member.member_id) {
                continue;
            }
            if member.generation > claim.0 {
                *claim = (member.generation, Some(member));
            } else if member.generation == claim.0 {
                claim.1 = None;
            }
        }
    }
    let mut unassigned = Vec::new();
    for (topic, count) in counts {
        for partition in 0..*count {
            let partition = TopicPartition::new(topic.clone(), partition);
            match claims.get(&partition) {
                Some((_, Some(member))) => give(assignment, member, partition),
                _ => unassigned.push(partition),
            }
        }
    }
    for partition in unassigned {
        let taker = members
            .iter()
            .filter(|m| subscribes(m, &partition.topic))
            .min_by_key(|m| assignment.get(&m.member_id).map_or(0, Vec::len));
        if let Some(member) = taker {
            give(assignment, member, partition);
        }
    }
    // Even out. Each move narrows a gap of at least two, so the sum of squares falls and the loop ends.
    while let Some((from, to, partition)) = best_move(members, assignment) {
        if let Some(held) = assignment.get_mut(&from) {
            held.retain(|p| *p != partition);
        }
        assignment.entry(to).or_default().push(partition);
    }
    for held in assignment.values_mut() {
        held.sort();
    }
}

/// A partition that somebody with at least two fewer could hold instead.
fn best_move(
    members: &[&Member],
    assignment: &Assignment,
) -> Option<(String, String, TopicPartition)> {
    let load = |member: &Member| assignment.get(&member.member_id).map_or(0, Vec::len);
    let mut by_load: Vec<&&Member> = members.iter().collect();
    by_load.sort_by_key(|m| std::cmp::Reverse(load(m)));
    for from in &by_load {
        for to in by_load.iter().rev() {
            if load(to) + 2 > load(from) {
                break;
            }
            let movable = assignment
                .get(&from.member_id)
                .and_then(|held| held.iter().rev().find(|p| subscribes(to, &p.topic)));
            if let Some(partition) = movable {
                return Some((
                    from.member_id.clone(),
                    to.member_id.clone(),
                    partition.clone(),
                ));
            }
        }
    }
    None
}

/// Takes from the assignment what somebody else still owns: its owner gives it up in this round and
/// joins again, and the next round hands it over.
fn withhold_moving(members: &[Member], assignment: &mut Assignment) {
    let mut owners: HashMap<&TopicPartition, BTreeSet<&str>> = HashMap::new();
    for member in members {
        for owned in &member.owned {
            owners.entry(owned).or_default().insert(&member.member_id);
        }
    }
    for (member, held) in assignment.iter_mut() {
        held.retain(|partition| {
            owners
                .get(partition)
                .is_none_or(|owners| owners.contains(member.as_str()))
        });
    }
}

#[cfg(test)]
mod tests;
