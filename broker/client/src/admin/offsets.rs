//! Which offsets a partition has, and which stand at a point in time (KIP-79).

use std::collections::BTreeMap;

use tidemark_wire::messages::ListOffsetsRequest;
use tidemark_wire::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};

use crate::cluster::{Cluster, Node, Retry};
use crate::error::ClientError;
use crate::metadata::{TopicPartition, Topics};

/// Which offset is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetSpec {
    /// The first that is there: the log start offset.
    Earliest,
    /// The one that the next record gets (the high watermark).
    Latest,
    /// The record with the largest timestamp (KIP-734).
    MaxTimestamp,
    /// The first on the broker's own disk (KIP-405).
    EarliestLocal,
    /// The last in tiered storage (KIP-1005).
    LatestTiered,
    /// The first record at or after this many milliseconds since the epoch.
    AtTime(i64),
}

impl OffsetSpec {
    fn to_wire(self) -> i64 {
        match self {
            Self::Latest => -1,
            Self::Earliest => -2,
            Self::MaxTimestamp => -3,
            Self::EarliestLocal => -4,
            Self::LatestTiered => -5,
            Self::AtTime(ms) => ms.max(0),
        }
    }

    /// The first version that knows it.
    fn since(self) -> i16 {
        match self {
            Self::MaxTimestamp => 7,
            Self::EarliestLocal => 8,
            Self::LatestTiered => 9,
            _ => 1,
        }
    }
}

/// An offset and what goes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedOffset {
    /// The offset; -1 when no record is that late.
    pub offset: i64,
    /// The record's timestamp; -1 when the question was not about one.
    pub timestamp_ms: i64,
    /// The epoch of the leader that wrote it; -1 if unknown.
    pub leader_epoch: i32,
}

impl Cluster {
    /// Partitions by the id of their leader; asks for topics that are not known, or for all if `fresh`.
    ///
    /// # Errors
    /// `UnknownTopic`, `UnknownPartition`, `NoLeader`.
    pub async fn by_leader<'a>(
        &self,
        partitions: impl Iterator<Item = &'a TopicPartition> + Clone,
        fresh: bool,
    ) -> Result<BTreeMap<i32, Vec<TopicPartition>>, ClientError> {
        let info = self.info();
        let mut names: Vec<&str> = partitions
            .clone()
            .map(|tp| tp.topic.as_str())
            .filter(|name| fresh || !info.topics.contains_key(*name))
            .collect();
        names.sort_unstable();
        names.dedup();
        if !names.is_empty() {
            self.metadata(Topics::Named(&names)).await?;
        }
        let info = self.info();
        let mut by_leader: BTreeMap<i32, Vec<TopicPartition>> = BTreeMap::new();
        for tp in partitions {
            let topic = info
                .topics
                .get(&tp.topic)
                .ok_or_else(|| ClientError::UnknownTopic {
                    topic: tp.topic.clone(),
                })?;
            let partition = topic.partitions.get(&tp.partition).ok_or_else(|| {
                ClientError::UnknownPartition {
                    topic: tp.topic.clone(),
                    partition: tp.partition,
                    count: topic.partitions.len(),
                }
            })?;
            let leader = partition.leader.ok_or_else(|| ClientError::NoLeader {
                topic: tp.topic.clone(),
                partition: tp.partition,
            })?;
            by_leader.entry(leader).or_default().push(tp.clone());
        }
        Ok(by_leader)
    }

    /// The offsets asked for; leaders that moved are found again for `retry_for`.
    ///
    /// # Errors
    /// The first that does not go away.
    pub async fn list_offsets(
        &self,
        wanted: &BTreeMap<TopicPartition, OffsetSpec>,
        read_committed: bool,
    ) -> Result<BTreeMap<TopicPartition, ListedOffset>, ClientError> {
        let mut found = BTreeMap::new();
        let mut retry = Retry::new(self.options());
        let mut fresh = false;
        loop {
            let missing: Vec<TopicPartition> = wanted
                .keys()
                .filter(|tp| !found.contains_key(*tp))
                .cloned()
                .collect();
            if missing.is_empty() {
                return Ok(found);
            }
            let tried = self
                .list_once(&missing, wanted, read_committed, fresh, &mut found)
                .await;
            match tried {
                Ok(()) => {}
                Err(error) if error.is_retriable() && retry.pause().await => fresh = true,
                Err(error) => return Err(error),
            }
        }
    }

    async fn list_once(
        &self,
        missing: &[TopicPartition],
        wanted: &BTreeMap<TopicPartition, OffsetSpec>,
        read_committed: bool,
        fresh: bool,
        found: &mut BTreeMap<TopicPartition, ListedOffset>,
    ) -> Result<(), ClientError> {
        let mut failed = None;
        let by_leader = self.by_leader(missing.iter(), fresh).await?;
        let info = self.info();
        for (leader, partitions) in by_leader {
            let connection = self
                .connection(Node::Id(leader), crate::cluster::Lane::Admin)
                .await?;
            let version = connection.version_of::<ListOffsetsRequest>(i16::MAX)?;
            let mut topics: BTreeMap<&str, Vec<ListOffsetsPartition>> = BTreeMap::new();
            for tp in &partitions {
                let spec = wanted.get(tp).copied().unwrap_or(OffsetSpec::Latest);
                if version < spec.since() {
                    return Err(ClientError::Invalid(format!(
                        "{} is too old to be asked for {spec:?} offsets (ListOffsets {version}, {} needed)",
                        connection.address(),
                        spec.since()
                    )));
                }
                topics
                    .entry(&tp.topic)
                    .or_default()
                    .push(ListOffsetsPartition {
                        partition_index: tp.partition,
                        // A broker that led before, or does not know yet that it does, refuses.
                        current_leader_epoch: info
                            .leader_epoch(&tp.topic, tp.partition)
                            .unwrap_or(-1),
                        timestamp: spec.to_wire(),
                        ..ListOffsetsPartition::default()
                    });
            }
            let request = ListOffsetsRequest {
                replica_id: -1,
                isolation_level: i8::from(read_committed && version >= 2),
                topics: topics
                    .into_iter()
                    .map(|(name, partitions)| ListOffsetsTopic {
                        name: name.to_owned(),
                        partitions,
                        ..ListOffsetsTopic::default()
                    })
                    .collect(),
                timeout_ms: self.server_timeout_ms(),
                ..ListOffsetsRequest::default()
            };
            let timeout = self.options().connection.request_timeout;
            let response = connection.send_at(&request, version, timeout).await?;
            for topic in response.topics {
                for partition in topic.partitions {
                    let tp = TopicPartition::new(topic.name.clone(), partition.partition_index);
                    match ClientError::check(partition.error_code, None, || {
                        format!("offsets of {tp}")
                    }) {
                        Ok(()) => {
                            let listed = ListedOffset {
                                offset: partition.offset,
                                timestamp_ms: partition.timestamp,
                                leader_epoch: partition.leader_epoch,
                            };
                            found.insert(tp, listed);
                        }
                        Err(error) => failed = Some(error),
                    }
                }
            }
        }
        match failed {
            Some(error) => Err(error),
            None if missing.iter().all(|tp| found.contains_key(tp)) => Ok(()),
            None => Err(ClientError::Invalid(
                "a broker left out partitions that it was asked for".to_owned(),
            )),
        }
    }
}
