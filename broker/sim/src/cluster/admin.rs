//! What operators do meanwhile: topics come, grow and go; replicas are moved and leaders elected.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidemark_client::admin::{Election, ListedOffset, NewTopic, OffsetSpec};
use tidemark_client::{ClientError, Cluster, TopicPartition, Topics};
use tidemark_env::clock;
use tidemark_env::random::Random;
use tidemark_wire::ErrorCode;

use super::load::{PARTITIONS, PAUSE, Shared, TOPIC, place};
use super::machine::{LostVoter, QUORUM_PORT};
use crate::checker::Event;

/// Every broker knows of every topic within this time of everything being mended.
const LEARN: Duration = Duration::from_secs(30);

/// Makes the topic of all others, then makes and deletes topics of its own.
pub(super) async fn topics(shared: Shared, mut random: Random) {
    let mut cluster = shared.cluster().await;
    let topic = |name: &str, partitions| NewTopic {
        name: name.to_owned(),
        partitions: Some(partitions),
        replicas: Some(shared.replicas),
        ..NewTopic::default()
    };
    let main = NewTopic {
        configs: shared.topic_configs(),
        ..topic(TOPIC, PARTITIONS)
    };
    while let Err(error) = cluster.create_topic(&main, false).await {
        shared.failed("create", &error);
        if error.code() == Some(ErrorCode::TopicAlreadyExists) {
            break;
        }
        clock::sleep(PAUSE).await;
    }
    shared.ready.store(true, Ordering::Relaxed);
    // What certainly is there, and what certainly is not.
    let (mut there, mut gone) = (BTreeSet::new(), BTreeSet::new());
    let mut count = 0;
    while !shared.stopped() {
        clock::sleep(Duration::from_millis(random.below(4000))).await;
        let one = there.iter().nth(random.index(there.len())).cloned();
        match (random.below(4), one) {
            (0, Some(name)) => {
                there.remove(&name);
                match cluster.delete_topics(std::slice::from_ref(&name)).await {
                    Ok(results) if results.iter().all(|(_, result)| result.is_ok()) => {
                        shared.record.saw("topic deleted");
                        gone.insert(name);
                    }
                    Ok(_) => shared.record.saw("delete refused"),
                    Err(error) => shared.failed("delete", &error),
                }
            }
            (1, Some(name)) => {
                let more = i32::try_from(2 + random.below(4)).unwrap_or(2);
                match cluster.create_partitions(&name, more, false).await {
                    Ok(()) => shared.record.saw("partitions added"),
                    Err(error) => shared.failed("add partitions", &error),
                }
            }
            _ => {
                count += 1;
                let name = format!("extra-{count}");
                match cluster.create_topic(&topic(&name, 1), false).await {
                    Ok(_) => {
                        shared.record.saw("topic created");
                        there.insert(name);
                    }
                    Err(error) => {
                        shared.failed("create", &error);
                        if error.is_unreachable() {
                            cluster = shared.cluster().await;
                        }
                    }
                }
            }
        }
    }
    // A broker that was cut off a moment ago knows no better yet.
    let until = clock::monotonic() + LEARN;
    loop {
        let info = match cluster.metadata(Topics::All).await {
            Ok(info) => info,
            Err(_) => {
                cluster = shared.cluster().await;
                continue;
            }
        };
        let has = |name: &&String| info.topics.contains_key(*name);
        let lost = there.iter().filter(|name| !has(name));
        let lost = lost.map(|name| format!("topic {name} was created and is not there"));
        let left = gone.iter().filter(has);
        let left = left.map(|name| format!("topic {name} was deleted and is there"));
        let wrong: Vec<String> = lost.chain(left).collect();
        if wrong.is_empty() {
            return;
        }
        if clock::monotonic() > until {
            wrong
                .into_iter()
                .for_each(|what| shared.record.broken(what));
            return;
        }
        clock::sleep(PAUSE).await;
        cluster = shared.cluster().await;
    }
}

/// Deletes the oldest records of the topic now and then.
pub(super) async fn records(shared: Shared, mut random: Random) {
    shared.ready().await;
    let mut cluster = shared.cluster().await;
    while !shared.stopped() {
        clock::sleep(Duration::from_millis(2000 + random.below(12_000))).await;
        let partition = i32::try_from(random.below(PARTITIONS as u64)).unwrap_or(0);
        let at = TopicPartition::new(TOPIC, partition);
        let ask = |spec| BTreeMap::from([(at.clone(), spec)]);
        let bounds = async {
            let first = cluster
                .list_offsets(&ask(OffsetSpec::Earliest), false)
                .await?;
            let last = cluster
                .list_offsets(&ask(OffsetSpec::Latest), false)
                .await?;
            let offset = |found: &BTreeMap<TopicPartition, ListedOffset>| {
                found.get(&at).map_or(0, |found| found.offset)
            };
            Ok::<_, ClientError>((offset(&first), offset(&last)))
        };
        let deleted = match bounds.await {
            Ok((first, last)) => {
                // Mostly little of what there is.
                let share = if random.one_in(8) { 1 } else { 6 };
                let below = first + random.between(0, (last - first) / share);
                shared.record.event(Event::Deletes {
                    at: place(partition),
                    below,
                });
                let before = BTreeMap::from([(at.clone(), below)]);
                cluster.delete_records(&before).await
            }
            Err(error) => Err(error),
        };
        match deleted {
            Ok(each) => {
                for (_, result) in each {
                    match result {
                        Ok(_) => shared.record.saw("records deleted"),
                        Err(error) => shared.failed("deleting records", &error),
                    }
                }
            }
            Err(error) => {
                shared.failed("deleting records", &error);
                cluster = shared.cluster().await;
            }
        }
    }
}

/// Has who has the new disk of a node vote in the place of who had the lost one.
async fn replace(cluster: &Cluster, lost: &LostVoter) -> Result<(), ClientError> {
    let done = |result: Result<(), ClientError>, already: ErrorCode| match result {
        Err(error) if error.code() == Some(already) => Ok(()),
        result => result,
    };
    let gone = cluster.remove_voter(lost.node, lost.gone).await;
    done(gone, ErrorCode::VoterNotFound)?;
    let listener = ("CONTROLLER", lost.host.as_str(), QUORUM_PORT);
    let new = cluster.add_voter((lost.node, lost.new), listener).await;
    done(new, ErrorCode::DuplicateVoter)
}

/// Moves replicas about, changes its mind, and has leaders elected.
pub(super) async fn replicas(shared: Shared, brokers: usize, mut random: Random) {
    shared.ready().await;
    let mut cluster = shared.cluster().await;
    loop {
        clock::sleep(Duration::from_millis(random.below(8000))).await;
        if let Some(lost) = shared.record.lost_voter() {
            match replace(&cluster, &lost).await {
                Ok(()) => {
                    shared.record.saw("voter replaced");
                    shared.record.voter_replaced();
                }
                Err(error) => {
                    shared.failed("replacing a voter", &error);
                    cluster = shared.cluster().await;
                }
            }
            continue;
        }
        if shared.stopped() {
            return;
        }
        let partition = i32::try_from(random.below(PARTITIONS as u64)).unwrap_or(0);
        let at = TopicPartition::new(TOPIC, partition);
        let (what, done) = match random.below(4) {
            0 => {
                let all = cluster.elect_leaders(Election::Preferred, None).await;
                ("leaders elected", all)
            }
            1 => ("move cancelled", cluster.reassign(&[(at, None)]).await),
            _ => {
                let mut to: Vec<i32> = (0..brokers).filter_map(|b| i32::try_from(b).ok()).collect();
                for last in (1..to.len()).rev() {
                    to.swap(last, random.index(last + 1));
                }
                // Two keep what was acknowledged as three do.
                to.truncate(if random.one_in(2) { 2 } else { 3 });
                ("replicas moved", cluster.reassign(&[(at, Some(to))]).await)
            }
        };
        match done {
            Ok(each) => {
                for (_, result) in each {
                    match result {
                        Ok(()) => shared.record.saw(what),
                        Err(error) => shared.failed(what, &error),
                    }
                }
            }
            Err(error) => {
                shared.failed("move", &error);
                cluster = shared.cluster().await;
            }
        }
    }
}
