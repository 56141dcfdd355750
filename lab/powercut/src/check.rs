//! Reading everything back, and what is wrong with it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tidemark_client::admin::OffsetSpec;
use tidemark_client::consumer::{Consumer, ConsumerConfig, OffsetReset, Start};
use tidemark_client::{Cluster, TopicPartition, Topics};

use crate::books::{Found, Life};
use crate::load::{GROUP, SharedBooks, lock};

const LIMIT: Duration = Duration::from_secs(20);

/// Topics and committed offsets; topics in doubt are settled by what is found.
pub async fn names_and_offsets(cluster: &Cluster, books: &SharedBooks) -> Vec<String> {
    let mut wrong = std::mem::take(&mut lock(books).wrong);
    let info = match cluster.metadata(Topics::All).await {
        Ok(info) => info,
        Err(error) => return vec![format!("the topics cannot be listed: {error}")],
    };
    let committed = if lock(books).commits.is_empty() {
        Ok(BTreeMap::new())
    } else {
        cluster.group_offsets(GROUP).await
    };
    let mut books = lock(books);
    for (name, topic) in &mut books.topics {
        let found = info.topics.get(name).map(|found| found.partitions.len());
        match (topic.life, found) {
            (Life::There, None) => {
                wrong.push(format!("topic {name} was made and is not there"));
            }
            (Life::Deleted, Some(_)) => {
                wrong.push(format!("topic {name} was deleted and is there"));
            }
            (Life::InDoubt, None) => topic.life = Life::Deleted,
            (Life::InDoubt, Some(_)) => topic.life = Life::There,
            _ => {}
        }
        if found.is_some_and(|found| found != topic.partitions.len()) {
            wrong.push(format!("topic {name} has {found:?} partitions"));
        }
    }
    for name in info.topics.keys() {
        if !books.topics.contains_key(name) && !name.starts_with("__") {
            wrong.push(format!("nobody made topic {name}"));
        }
    }
    let committed = match committed {
        Ok(committed) => committed,
        Err(error) => {
            wrong.push(format!("committed offsets cannot be read: {error}"));
            return wrong;
        }
    };
    for (topic, commits) in &books.commits {
        // The offsets of a deleted topic are forgotten.
        if books
            .topics
            .get(topic)
            .is_none_or(|t| t.life != Life::There)
        {
            continue;
        }
        let found = committed
            .get(&TopicPartition::new(topic.clone(), 0))
            .map(|offset| offset.offset);
        if found < commits.acked || found > Some(commits.sent) {
            wrong.push(format!(
                "group {GROUP}, {topic}: offset {found:?}, acknowledged {:?}, sent {}",
                commits.acked, commits.sent
            ));
        }
    }
    wrong
}

/// The records of all topics that are there; how many there were.
pub async fn records(cluster: &Cluster, books: &SharedBooks) -> (u64, Vec<String>) {
    match read(cluster, books).await {
        Err(error) => (0, vec![error]),
        Ok(found) => {
            let books = lock(books);
            let count = found.values().map(|found| found.records.len() as u64).sum();
            let judge =
                |(tp, found): (&TopicPartition, _)| books.judge(&tp.topic, tp.partition, found);
            (count, found.iter().flat_map(judge).collect())
        }
    }
}

async fn read(
    cluster: &Cluster,
    books: &SharedBooks,
) -> Result<BTreeMap<TopicPartition, Found>, String> {
    let all: Vec<TopicPartition> = lock(books)
        .topics
        .iter()
        .filter(|(_, topic)| topic.life == Life::There)
        .flat_map(|(name, topic)| {
            (0..topic.partitions.len()).map(|p| TopicPartition::new(name.clone(), p as i32))
        })
        .collect();
    let ask = async |spec: OffsetSpec| {
        let wanted = all.iter().map(|tp| (tp.clone(), spec)).collect();
        let listed = cluster.list_offsets(&wanted, false).await;
        listed.map_err(|error| format!("offsets cannot be listed: {error}"))
    };
    let (starts, ends) = (
        ask(OffsetSpec::Earliest).await?,
        ask(OffsetSpec::Latest).await?,
    );
    let mut found: BTreeMap<TopicPartition, Found> = BTreeMap::new();
    for tp in &all {
        let (start, end) = (starts[tp].offset, ends[tp].offset);
        let records = Vec::new();
        found.insert(
            tp.clone(),
            Found {
                start,
                end,
                records,
            },
        );
    }
    let mut consumer = Consumer::new(
        cluster.clone(),
        ConsumerConfig {
            reset: OffsetReset::Earliest,
            max_wait_ms: 50,
            max_poll_records: 5000,
            ..ConsumerConfig::default()
        },
    );
    let unread = |found: &BTreeMap<TopicPartition, Found>| -> Vec<TopicPartition> {
        let next = |f: &Found| f.records.last().map_or(f.start, |(offset, _)| offset + 1);
        let short = found.iter().filter(|(_, f)| next(f) < f.end);
        short.map(|(tp, _)| tp.clone()).collect()
    };
    consumer.assign(
        unread(&found)
            .into_iter()
            .map(|tp| (tp.clone(), Start::Offset(found[&tp].start))),
    );
    let until = Instant::now() + LIMIT;
    while !unread(&found).is_empty() {
        if Instant::now() > until {
            let left = unread(&found);
            return Err(format!(
                "{left:?} cannot be read to the end within {LIMIT:?}"
            ));
        }
        let records = consumer
            .poll(Duration::from_millis(200))
            .await
            .map_err(|error| format!("reading back failed: {error}"))?;
        for record in records {
            let tp = TopicPartition::new(record.topic.to_string(), record.partition);
            if let Some(found) = found.get_mut(&tp)
                && record.offset < found.end
            {
                let value = record.value.unwrap_or_default();
                found.records.push((record.offset, value));
            }
        }
    }
    // Retention goes on meanwhile: what counts is where the logs start now.
    for (tp, now) in ask(OffsetSpec::Earliest).await? {
        if let Some(found) = found.get_mut(&tp) {
            found.start = now.offset;
            found.records.retain(|(offset, _)| *offset >= now.offset);
        }
    }
    Ok(found)
}
