//! How fast moves may copy (KIP-73): the settings that Kafka's own tool makes, and takes away
//! when the moves are through.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use tidemark_client::admin::{
    ConfigChange, ConfigEntry, ConfigOp, ConfigResource, ConfigSource, OngoingReassignment,
};
use tidemark_client::{ClientError, Cluster, ClusterInfo};

use super::plan::Move;
use crate::output::{ids, plural};

/// Of brokers.
const RATES: [&str; 2] = [
    "leader.replication.throttled.rate",
    "follower.replication.throttled.rate",
];
/// Of topics: those that give, and those that take.
const REPLICAS: [&str; 2] = [
    "leader.replication.throttled.replicas",
    "follower.replication.throttled.replicas",
];

/// What is to be held to a rate.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    brokers: BTreeSet<i32>,
    /// By topic, values of [`REPLICAS`].
    topics: BTreeMap<String, [BTreeSet<(i32, i32)>; 2]>,
}

impl Wanted {
    fn of(moves: &[Move], moving: &[OngoingReassignment]) -> Wanted {
        let mut wanted = Wanted::default();
        for one in moves {
            let coming = one.to.iter().filter(|id| !one.from.contains(id));
            wanted.add(&one.topic, one.partition, &one.from, coming);
        }
        for one in moving {
            let stay = one.replicas.iter().copied();
            let there: Vec<i32> = stay.filter(|id| !one.adding.contains(id)).collect();
            let (topic, partition) = (&one.partition.topic, one.partition.partition);
            wanted.add(topic, partition, &there, one.adding.iter());
        }
        wanted
    }

    fn add<'a>(
        &mut self,
        topic: &str,
        partition: i32,
        from: &[i32],
        coming: impl Iterator<Item = &'a i32>,
    ) {
        let [give, take] = self.topics.entry(topic.to_owned()).or_default();
        give.extend(from.iter().map(|id| (partition, *id)));
        self.brokers.extend(from);
        for id in coming {
            take.insert((partition, *id));
            self.brokers.insert(*id);
        }
    }
}

/// Brokers and topics that are held to a rate.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Throttles {
    /// Brokers with a rate of their own.
    pub brokers: Vec<i32>,
    /// Topics that name replicas.
    pub topics: Vec<String>,
}

impl Throttles {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.brokers.is_empty() && self.topics.is_empty()
    }

    /// For people, such as "2 topics on broker 1,2".
    pub fn text(&self) -> String {
        let topics = plural(self.topics.len() as i64, "topic");
        match self.brokers.is_empty() {
            true => topics,
            false => format!("{topics} on broker {}", ids(&self.brokers)),
        }
    }
}

/// Holds these moves, and those under way, to so many bytes a second on each broker.
///
/// # Errors
/// The brokers'. Some may be throttled then; [`clear`] takes that away.
pub async fn put(cluster: &Cluster, moves: &[Move], bytes_per_s: u64) -> Result<(), ClientError> {
    let moving = cluster.reassignments(None).await?;
    let wanted = Wanted::of(moves, &moving);
    // First the replicas, as Kafka's tool: a rate alone holds nobody.
    for (topic, sides) in &wanted.topics {
        let changes = REPLICAS.iter().zip(sides).map(|(name, replicas)| {
            let pairs = replicas.iter().map(|(p, id)| format!("{p}:{id}"));
            change(name, Some(pairs.collect::<Vec<_>>().join(",")))
        });
        let resource = ConfigResource::Topic(topic.clone());
        let changes: Vec<ConfigChange> = changes.collect();
        cluster.alter_configs(&resource, &changes, false).await?;
    }
    let up = cluster.info();
    for id in wanted
        .brokers
        .iter()
        .filter(|id| up.brokers.contains_key(*id))
    {
        let changes = RATES.map(|name| change(name, Some(bytes_per_s.to_string())));
        let resource = ConfigResource::Broker(*id);
        cluster.alter_configs(&resource, &changes, false).await?;
    }
    Ok(())
}

/// What is throttled now, of the brokers that can be asked.
///
/// # Errors
/// Those of asking for the topics' settings.
pub async fn find(cluster: &Cluster, info: &ClusterInfo) -> Result<Throttles, ClientError> {
    let topics = info.topics.keys().cloned().map(ConfigResource::Topic);
    let topics: Vec<ConfigResource> = topics.collect();
    let names = REPLICAS.map(str::to_owned);
    let found = cluster.describe_configs_of(&topics, Some(&names)).await?;
    let mut throttles = Throttles::default();
    for (resource, entries) in found {
        if let ConfigResource::Topic(name) = resource
            && has(&entries, &REPLICAS, ConfigSource::Topic)
        {
            throttles.topics.push(name);
        }
    }
    for id in info.brokers.keys() {
        match cluster.describe_configs(&ConfigResource::Broker(*id)).await {
            Ok(entries) if has(&entries, &RATES, ConfigSource::Broker) => {
                throttles.brokers.push(*id);
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, broker = id, "not looked at"),
        }
    }
    Ok(throttles)
}

/// Takes throttles away.
///
/// # Errors
/// The brokers'.
pub async fn clear(cluster: &Cluster, throttles: &Throttles) -> Result<(), ClientError> {
    let topics = throttles.topics.iter().cloned().map(ConfigResource::Topic);
    let brokers = throttles
        .brokers
        .iter()
        .copied()
        .map(ConfigResource::Broker);
    let of_topics = topics.map(|topic| (topic, REPLICAS));
    for (resource, names) in of_topics.chain(brokers.map(|broker| (broker, RATES))) {
        let changes = names.map(|name| change(name, None));
        cluster.alter_configs(&resource, &changes, false).await?;
    }
    Ok(())
}

fn has(entries: &[ConfigEntry], names: &[&str], source: ConfigSource) -> bool {
    let mut set = entries.iter().filter(|entry| entry.source == source);
    set.any(|entry| names.contains(&&*entry.name))
}

fn change(name: &str, value: Option<String>) -> ConfigChange {
    ConfigChange {
        name: name.to_owned(),
        op: match value {
            Some(_) => ConfigOp::Set,
            None => ConfigOp::Delete,
        },
        value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_client::TopicPartition;

    #[test]
    fn those_that_have_records_give_and_those_that_come_take() {
        let moves = [Move {
            topic: "a".to_owned(),
            partition: 0,
            from: vec![1, 2],
            to: vec![2, 3],
        }];
        let moving = [OngoingReassignment {
            partition: TopicPartition::new("a".to_owned(), 1),
            replicas: vec![4, 1, 2],
            adding: vec![4],
            removing: vec![1],
        }];
        let wanted = Wanted::of(&moves, &moving);
        assert_eq!(wanted.brokers, BTreeSet::from([1, 2, 3, 4]));
        let [give, take] = &wanted.topics["a"];
        assert_eq!(*give, BTreeSet::from([(0, 1), (0, 2), (1, 1), (1, 2)]));
        assert_eq!(*take, BTreeSet::from([(0, 3), (1, 4)]));
    }
}
